// A burst of 64 packets, forwarded and given back over and over: for worker_bench and the count of
// instructions.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "port/port.h"
#include "worker/forward/forward.h"

namespace sluice {

// Takes every page at once and forgets it. Receiving costs one copy of a prepared burst, which is what a real
// queue writes, too.
class IdleQueue final : public Lane {
 public:
  explicit IdleQueue(std::uint32_t ports) : Lane({.pages_of = DomainId::kHost}) {
    for (std::uint32_t i = 0; i < kBurst; ++i) {
      burst_[i] = Packet{
          .body_bytes = 60, .page = PageIndex{i}, .port = PortId{static_cast<std::uint16_t>(2 + i % ports)}};
    }
  }
  void hand_over(const BurstInfo&, std::span<Packet> packets) override {
    for (Packet& packet : packets) {
      packet.page = PageIndex::kNone;
    }
  }
  void copy_in(const BurstInfo&, std::span<Packet>) override {}
  int wake_fd() const override { return -1; }
  bool prepare_sleep() override { return false; }
  std::uint32_t burst(std::span<Packet> packets, BurstInfo&) override {
    std::copy(burst_.begin(), burst_.end(), packets.begin());
    return kBurst;
  }
  void done(std::span<const Packet> packets) override {
    for (const Packet& packet : packets) {
      left_ += packet.page != PageIndex::kNone ? 1 : 0;
    }
  }
  std::uint64_t left() const { return left_; }

 private:
  std::array<Packet, kBurst> burst_;
  std::uint64_t left_ = 0;
};

class ForwardWorkload {
 public:
  explicit ForwardWorkload(std::uint32_t ports) : source_queue_(ports) {
    for (std::uint32_t i = 0; i < ports; ++i) {
      lanes_.push_back(std::make_unique<IdleQueue>(1));
      by_port_[2 + i] = lanes_.back().get();
    }
  }
  // What Loop::serve() does.
  void turn() {
    Source& source = source_queue_;
    BurstInfo info;
    const std::uint32_t count = source.burst(packets_, info);
    source.done(forwarder_.forward(info, std::span(packets_).first(count), by_port_));
  }
  std::uint64_t left() const { return source_queue_.left(); }

 private:
  IdleQueue source_queue_;
  std::vector<std::unique_ptr<IdleQueue>> lanes_;
  LanesByPort by_port_{};
  Forwarder forwarder_;
  std::array<Packet, kBurst> packets_;
};

}  // namespace sluice
