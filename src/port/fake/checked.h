// CheckedLane: any lane, plus the question "is this page the caller's to give?" before each call and "did it
// keep the contract?" after it. The safety property of port.h as a decorator: nobody hands over, lends or
// gives back a page that it does not own (after Barrelfish's checking device queue). For tests; one worker's
// thread.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include "port/port.h"

namespace sluice {

// Which pages are in the worker's hand: received, and neither taken nor given back yet.
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

class CheckedLane final : public Lane {
 public:
  CheckedLane(Lane& inner, PageBook& book) : Lane(inner.accepts()), inner_(inner), book_(book) {}

  std::uint32_t burst(std::span<Packet> packets, BurstInfo& info) override;
  void done(std::span<const Packet> packets) override;
  void copy_in(const BurstInfo& info, std::span<Packet> packets) override;
  void hand_over(const BurstInfo& info, std::span<Packet> packets) override;
  std::uint32_t poll() override { return inner_.poll(); }
  void before_rest() override { inner_.before_rest(); }
  bool peer_is_behind() override { return inner_.peer_is_behind(); }
  int wake_fd() const override { return inner_.wake_fd(); }
  bool prepare_sleep() override;
  void woken() override;
  bool may_rest() const override { return inner_.may_rest(); }

 private:
  bool may_hand_over(const BurstInfo& info, std::span<const Packet> packets);
  void check_segments(std::span<const Packet> packets, const BurstInfo& info);

  Lane& inner_;
  PageBook& book_;
  std::uint32_t out_ = 0;  // of the burst that is not done yet
  DomainId domain_{};      // of its pages
  bool asked_ = false;     // prepare_sleep() without its woken()
};

}  // namespace sluice
