// Fuzzing of a guest's rings: the input is what a hostile driver does, step by step, to a device whose
// transmit and receive queue run. Every step is cheap and means something, so that the fuzzer gets far: write
// a descriptor, an index, a header, make buffers available in order, let the worker take its turn.
//
// What must hold is watched from outside: guest memory has inaccessible pages around it (test/vhost), the
// sanitizers watch ours, a frame that comes out is within bounds and can be read, what was taken is given
// back, and the worker's turn ends.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/untrusted.h"
#include "port/guest/guest_device.h"
#include "port/guest/guest_lane.h"
#include "test/vhost/mock_driver.h"

namespace sluice::test {

class RingFuzz {
 public:
  RingFuzz(VringFormat format, std::uint16_t entries, std::uint64_t features)
      : format_(format),
        entries_(entries),
        device_(policy(), {WorkerId{0}}, 1),
        guest_({.format = format, .entries = entries, .features = features, .buffer_bytes = 512}) {
    guest_.attach(device_);
    room_ = guest_.memory().allocate(kRoomBytes, 4096);
  }

  // From the same beginning every time: a device is dear to make, so it serves many inputs.
  void run(FuzzedDataProvider& data) {
    begin_anew();
    for (int steps = 0; data.remaining_bytes() > 0 && steps < 400; ++steps) {
      MockDriver& driver = data.ConsumeBool() ? guest_.tx() : guest_.rx();
      switch (data.ConsumeIntegralInRange(0, 7)) {
        case 0:
          descriptor(driver, data);
          break;
        case 1:
          announce(driver, data);
          break;
        case 2:
          bytes(data);
          break;
        case 3:
          events(driver, data);
          break;
        case 4:
          transmit();
          break;
        case 5:
          receive(data);
          break;
        case 6:
          (void)device_.lane(WorkerId{0}).prepare_sleep();
          device_.lane(WorkerId{0}).woken();
          break;
        default:
          restart(data);
      }
    }
    transmit();
  }

 private:
  static constexpr std::uint64_t kRoomBytes = 64 * 1024;
  static constexpr PortId kPort{7};
  static GuestPolicy policy() {
    return {.port = kPort, .uplink = PortId{3}, .macs = {{2, 0, 0, 0, 0, 1}}, .vlan = 0, .trust = true};
  }

  void begin_anew() {
    std::memset(guest_.memory().at(room_, kRoomBytes), 0, kRoomBytes);
    for (const std::uint32_t ring : {0u, 1u}) {
      MockDriver& driver = ring == 1 ? guest_.tx() : guest_.rx();
      device_.stop_ring(ring);
      const VringSetup setup = driver.setup();
      const std::size_t slots = entries_;
      std::memset(setup.descriptors, 0, 16 * slots);
      std::memset(setup.driver_area, 0, format_ == VringFormat::kSplit ? 6 + 2 * slots : 4);
      std::memset(setup.device_area, 0, format_ == VringFormat::kSplit ? 6 + 8 * slots : 4);
      device_.start_ring(ring, setup);
      device_.enable_ring(ring, true);
    }
  }

  // Mostly in the guest's memory, mostly of a sensible length: nonsense alone gets nowhere.
  std::uint64_t address(FuzzedDataProvider& data) {
    switch (data.ConsumeIntegralInRange(0, 9)) {
      case 0:
        return data.ConsumeIntegral<std::uint64_t>();
      case 1:
        return guest_.tx().descriptors_address() + data.ConsumeIntegralInRange(0u, 4096u);
      case 2:
        return guest_.rx().descriptors_address() + data.ConsumeIntegralInRange(0u, 4096u);
      default:
        return room_ + data.ConsumeIntegral<std::uint16_t>();
    }
  }
  std::uint32_t length(FuzzedDataProvider& data) {
    switch (data.ConsumeIntegralInRange(0, 5)) {
      case 0:
        return data.ConsumeIntegral<std::uint32_t>();
      case 1:
        return 16u * data.ConsumeIntegral<std::uint8_t>();
      default:
        return data.ConsumeIntegral<std::uint16_t>() & 0x7ff;
    }
  }

  // In the ring, or in memory where an indirect table may point to.
  void descriptor(MockDriver& driver, FuzzedDataProvider& data) {
    const auto at = static_cast<std::uint16_t>(data.ConsumeIntegralInRange<int>(0, entries_ - 1));
    const bool in_table = data.ConsumeBool();
    const std::uint64_t to = address(data);
    const std::uint32_t size = length(data);
    const auto flags = static_cast<std::uint16_t>(data.ConsumeIntegral<std::uint8_t>() & 7);
    if (format_ == VringFormat::kSplit) {
      auto* table = in_table ? reinterpret_cast<vring_desc*>(guest_.memory().at(room_, kRoomBytes))
                             : driver.split_descriptors();
      table[at] = {.addr = to, .len = size, .flags = flags, .next = data.ConsumeIntegral<std::uint8_t>()};
      return;
    }
    auto* table = in_table ? reinterpret_cast<vring_packed_desc*>(guest_.memory().at(room_, kRoomBytes))
                           : driver.packed_descriptors();
    const auto round = static_cast<std::uint16_t>(data.ConsumeBool() ? 0x80 : 0x8000);
    table[at] = {.addr = to,
                 .len = size,
                 .id = data.ConsumeIntegral<std::uint16_t>(),
                 .flags = static_cast<std::uint16_t>(flags | (data.ConsumeBool() ? round : 0x8080))};
  }
  // Split: heads and the index. Packed: a run of descriptors gets the flags of one round.
  void announce(MockDriver& driver, FuzzedDataProvider& data) {
    const int count = data.ConsumeIntegralInRange<int>(1, entries_);
    if (format_ == VringFormat::kSplit) {
      std::uint16_t index = driver.avail()->idx;
      for (int i = 0; i < count; ++i) {
        const bool lie = data.ConsumeIntegralInRange(0, 15) == 0;
        driver.avail()->ring[index++ % entries_] = static_cast<std::uint16_t>(
            lie ? data.ConsumeIntegral<std::uint16_t>() : data.ConsumeIntegralInRange<int>(0, entries_ - 1));
      }
      const bool lie = data.ConsumeIntegralInRange(0, 31) == 0;
      driver.avail()->idx = lie ? data.ConsumeIntegral<std::uint16_t>() : index;
      return;
    }
    const int from = data.ConsumeIntegralInRange<int>(0, entries_ - 1);
    const std::uint16_t round = data.ConsumeBool() ? 0x80 : 0x8000;
    for (int i = from; i < from + count && i < entries_; ++i) {
      auto& flags = driver.packed_descriptors()[i].flags;
      flags = static_cast<std::uint16_t>((flags & ~0x8080) | round);
    }
  }
  void bytes(FuzzedDataProvider& data) {
    const auto at = data.ConsumeIntegral<std::uint16_t>();
    const auto some = data.ConsumeBytes<std::byte>(data.ConsumeIntegralInRange<std::size_t>(0, 32));
    const std::size_t fits = std::min<std::size_t>(some.size(), kRoomBytes - at);
    std::copy_n(some.begin(), fits, guest_.memory().at(room_ + at, fits == 0 ? 1 : fits));
  }
  void events(MockDriver& driver, FuzzedDataProvider& data) {
    if (format_ == VringFormat::kSplit) {
      driver.avail()->flags = data.ConsumeIntegral<std::uint8_t>();
      driver.avail()->ring[entries_] = data.ConsumeIntegral<std::uint16_t>();
    } else {
      *driver.driver_event() = {.off_wrap = data.ConsumeIntegral<std::uint16_t>(),
                                .flags = data.ConsumeIntegral<std::uint8_t>()};
    }
  }

  void transmit() {
    Lane& lane = device_.lane(WorkerId{0});
    std::array<Packet, kBurst> packets;
    for (int turns = 0; turns < 4; ++turns) {
      const std::uint32_t count = lane.tx_burst(packets);
      SLUICE_CHECK(count <= kBurst, "{}", count);
      std::uint32_t sum = 0;
      for (const Packet& packet : std::span(packets).first(count)) {
        SLUICE_CHECK(packet.bytes() >= 14 && packet.bytes() <= kMaxFrameBytes, "{} bytes", packet.bytes());
        SLUICE_CHECK(packet.page == PageIndex::kNone && packet.port == PortId{3});
        for (std::uint32_t i = 0; i < packet.body_bytes; ++i) {
          sum += static_cast<std::uint32_t>(packet.body[i]);  // all of it is there to be read
        }
      }
      asm volatile("" : : "r"(sum));
      lane.tx_done(count);
      lane.poll();
    }
  }
  void receive(FuzzedDataProvider& data) {
    std::array<std::byte, 2048> frame{};
    const auto size = data.ConsumeIntegralInRange<std::uint32_t>(14, 2048);
    Packet packet{.body = frame.data() + 14, .head = frame.data(), .body_bytes = size - 14, .head_bytes = 14};
    Lane& lane = device_.lane(WorkerId{0});
    lane.copy_in(Source{}, std::span(&packet, 1));
    lane.poll();
  }
  void restart(FuzzedDataProvider& data) {
    const std::uint32_t ring = data.ConsumeBool() ? 1 : 0;
    const VringBase stands = device_.stop_ring(ring);
    SLUICE_CHECK(stands.avail == stands.used, "{} taken, {} given back", stands.avail, stands.used);
    VringSetup setup = (ring == 1 ? guest_.tx() : guest_.rx()).setup();
    setup.base = stands;
    device_.start_ring(ring, setup);
    device_.enable_ring(ring, true);
  }

  const VringFormat format_;
  const std::uint16_t entries_;
  GuestDevice device_;
  MockGuest guest_;
  std::uint64_t room_ = 0;
};

inline int fuzz_ring(VringFormat format, const std::uint8_t* input, std::size_t bytes) {
  FuzzedDataProvider data(input, bytes);
  std::uint64_t features = kVersion1;
  for (const std::uint64_t each : {kMergeable, kIndirectDesc, kEventIdx, kInOrder}) {
    features |= data.ConsumeBool() ? each : 0;
  }
  const std::uint16_t entries = format == VringFormat::kPacked && data.ConsumeBool() ? 15 : 16;
  static std::map<std::pair<std::uint64_t, std::uint16_t>, std::unique_ptr<RingFuzz>> devices;
  auto& device = devices[{features, entries}];
  if (device == nullptr) {
    device = std::make_unique<RingFuzz>(format, entries, features);
  }
  device->run(data);
  return 0;
}

}  // namespace sluice::test
