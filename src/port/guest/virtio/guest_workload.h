// A guest that gets its own frames back, a burst of 64 over and over: for guest_lane_bench and the count of
// instructions. The lane's part is what a worker pays per packet that goes from guest to guest; the driver
// runs on the same thread.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "port/burst_of.h"
#include "port/guest/virtio/guest_device.h"
#include "test/vhost/mock_driver.h"

namespace sluice::test {

class GuestWorkload {
 public:
  struct Options {
    VringFormat format = VringFormat::kSplit;
    std::uint64_t features = kVersion1 | kMergeable;
    std::uint32_t frame_bytes = 64;
  };

  explicit GuestWorkload(const Options& options)
      : device_({.port = PortId{7}, .uplink = PortId{3}, .macs = {kMac}}, {WorkerId{0}}, 1),
        lane_(device_.lane(WorkerId{0})),
        guest_({.format = options.format, .entries = 256, .features = options.features}),
        buffers_(guest_.memory().allocate(std::uint64_t{kBuffers} * kStride, 4096)) {
    guest_.attach(device_);
    guest_.rx().ask_for_calls(false);
    guest_.tx().ask_for_calls(false);
    guest_.rx().hold_back(true);
    guest_.tx().hold_back(true);
    for (std::uint32_t i = 0; i < kBurst; ++i) {
      const std::uint64_t address = at(i);
      std::memcpy(guest_.memory().at(address + kNetHeaderBytes + 6), kMac.data(), kMac.size());
      sent_[i] = Segment{address, kNetHeaderBytes + options.frame_bytes};
    }
    for (std::uint32_t i = kBurst; i < kBuffers; ++i) {
      post_receive(i);
    }
    guest_.rx().publish();
  }

  void turn() {
    for (const Segment& segment : sent_) {
      guest_.tx().post(std::span(&segment, 1), 0);
    }
    guest_.tx().publish();
    const auto begin = std::chrono::steady_clock::now();
    const std::uint32_t count = burst_of(lane_, packets_);
    lane_.copy_in(BurstInfo{}, std::span(packets_).first(count));
    lane_.done(std::span(packets_).first(count));
    lane_.poll();
    lane_times_.push_back(std::chrono::steady_clock::now() - begin);
    SLUICE_CHECK(count == kBurst, "{} packets of a burst", count);
    while (guest_.tx().reap()) {
    }
    std::uint32_t received = 0;
    while (const auto used = guest_.rx().reap()) {
      post_receive(static_cast<std::uint32_t>(used->cookie));
      ++received;
    }
    guest_.rx().publish();
    SLUICE_CHECK(received == kBurst, "{} packets came back", received);
  }

  // Of the lane alone, per packet: the median burst, which a thread that was interrupted now and then does
  // not move.
  double lane_ns_per_packet() {
    auto middle = lane_times_.begin() + static_cast<std::ptrdiff_t>(lane_times_.size() / 2);
    std::ranges::nth_element(lane_times_, middle);
    return static_cast<double>(middle->count()) / kBurst;
  }

 private:
  static constexpr MacAddress kMac{0x52, 0x54, 0, 0, 0, 1};
  static constexpr std::uint32_t kBuffers = kBurst + 192;
  // As a DPDK mbuf: the header ends where the frame's first cache line begins.
  static constexpr std::uint32_t kStride = 2304;
  std::uint64_t at(std::uint32_t buffer) const {
    return buffers_ + std::uint64_t{buffer} * kStride + 128 - kNetHeaderBytes;
  }
  void post_receive(std::uint32_t buffer) {
    const Segment segment{at(buffer), 2048};
    SLUICE_CHECK(guest_.rx().post(std::span(&segment, 1), buffer));
  }

  GuestDevice device_;
  Lane& lane_;
  MockGuest guest_;
  std::uint64_t buffers_;
  std::array<Segment, kBurst> sent_;
  std::array<Packet, kBurst> packets_;
  std::vector<std::chrono::nanoseconds> lane_times_;
};

// "split", "split_in_order", "packed", "packed_in_order".
inline std::unique_ptr<GuestWorkload> make_guest_workload(std::string_view name, std::uint32_t frame_bytes) {
  GuestWorkload::Options options{.frame_bytes = frame_bytes};
  options.format = name.starts_with("packed") ? VringFormat::kPacked : VringFormat::kSplit;
  options.features |= name.ends_with("in_order") ? kInOrder : 0;
  return std::make_unique<GuestWorkload>(options);
}

}  // namespace sluice::test
