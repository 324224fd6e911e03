// CheckedLane and CheckedQueue: any Lane or Queue, plus the question "is this page the caller's to give?"
// before each call and "did it keep the contract?" after it. The safety property of port.h as a decorator:
// nobody hands over, lends or recycles a page that it does not own (after Barrelfish's checking device
// queue). For tests; one worker's thread.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include "port/port.h"

namespace sluice {

// Which pages are in the worker's hand: received, and neither taken nor recycled yet.
class PageBook {
 public:
  enum class OnViolation { kStop, kRefuse };  // CHECK / count, and keep the burst from the decorated lane
  explicit PageBook(OnViolation on_violation = OnViolation::kStop) : on_violation_(on_violation) {}

  void received(DomainId domain, PageIndex page);
  void gone(DomainId domain, PageIndex page) { in_hand_.erase({domain, page}); }
  bool in_hand(DomainId domain, PageIndex page) const { return in_hand_.contains({domain, page}); }
  std::size_t in_hand_count() const { return in_hand_.size(); }

  // Always returns false.
  bool violation(const std::string& what);
  std::uint64_t violations() const { return violations_; }
  const std::string& last() const { return last_; }

 private:
  OnViolation on_violation_;
  std::set<std::pair<DomainId, PageIndex>> in_hand_;
  std::uint64_t violations_ = 0;
  std::string last_;
};

// The checks of one decorated lane.
class LaneChecks {
 public:
  LaneChecks(Lane& inner, PageBook& book) : inner_(inner), book_(book) {}
  void hand_over(const Source& source, std::span<Packet> packets);
  void copy_in(const Source& source, std::span<Packet> packets);
  std::uint32_t tx_burst(std::span<Packet> packets);
  void tx_done(std::uint32_t count);
  bool prepare_sleep();
  void woken();

 private:
  bool may_hand_over(const Source& source, std::span<const Packet> packets);

  Lane& inner_;
  PageBook& book_;
  std::uint32_t tx_open_ = 0;  // given by tx_burst(), not done yet
  bool asked_ = false;         // prepare_sleep() without its woken()
};

template <typename Base>
class CheckedBase : public Base {
 public:
  CheckedBase(Base& inner, PageBook& book) : inner_(inner), book_(book), checks_(inner, book) {}

  DomainId domain() const override { return inner_.domain(); }
  void hand_over(const Source& source, std::span<Packet> packets) override {
    checks_.hand_over(source, packets);
  }
  void copy_in(const Source& source, std::span<Packet> packets) override { checks_.copy_in(source, packets); }
  std::uint32_t tx_burst(std::span<Packet> packets) override { return checks_.tx_burst(packets); }
  void tx_done(std::uint32_t count) override { checks_.tx_done(count); }
  std::uint32_t poll() override { return inner_.poll(); }
  int wake_fd() const override { return inner_.wake_fd(); }
  bool prepare_sleep() override { return checks_.prepare_sleep(); }
  void woken() override { checks_.woken(); }

 protected:
  Base& inner_;
  PageBook& book_;

 private:
  LaneChecks checks_;
};

using CheckedLane = CheckedBase<Lane>;

class CheckedQueue final : public CheckedBase<Queue> {
 public:
  using CheckedBase::CheckedBase;
  std::uint32_t receive(std::span<Packet> packets, Source& source) override;
  void recycle(std::span<const Packet> packets) override;
};

}  // namespace sluice
