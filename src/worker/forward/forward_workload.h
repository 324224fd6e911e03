// A burst of 64 packets, forwarded and recycled over and over: for worker_bench and the count of
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
class IdleQueue final : public Queue {
 public:
  explicit IdleQueue(std::uint32_t ports) {
    for (std::uint32_t i = 0; i < kBurst; ++i) {
      burst_[i] = Packet{
          .body_bytes = 60, .page = PageIndex{i}, .port = PortId{static_cast<std::uint16_t>(2 + i % ports)}};
    }
  }
  DomainId domain() const override { return DomainId::kHost; }
  void hand_over(const Source&, std::span<Packet> packets) override {
    for (Packet& packet : packets) {
      packet.page = PageIndex::kNone;
    }
  }
  void copy_in(const Source&, std::span<Packet>) override {}
  std::uint32_t tx_burst(std::span<Packet>) override { return 0; }
  void tx_done(std::uint32_t) override {}
  std::uint32_t poll() override { return 0; }
  int wake_fd() const override { return -1; }
  bool prepare_sleep() override { return false; }
  void woken() override {}
  std::uint32_t receive(std::span<Packet> packets, Source& source) override {
    std::copy(burst_.begin(), burst_.end(), packets.begin());
    source = Source{};
    return kBurst;
  }
  void recycle(std::span<const Packet> packets) override {
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
  // What Loop::receive() does.
  void turn() {
    Queue& queue = source_queue_;
    Source source;
    const std::uint32_t count = queue.receive(packets_, source);
    queue.recycle(forwarder_.forward(source, std::span(packets_).first(count), by_port_));
  }
  std::uint64_t left() const { return source_queue_.left(); }

 private:
  IdleQueue source_queue_;
  std::vector<std::unique_ptr<IdleQueue>> lanes_;
  LaneTable by_port_{};
  Forwarder forwarder_;
  std::array<Packet, kBurst> packets_;
};

}  // namespace sluice
