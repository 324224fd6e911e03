// Fuzzing of a guest's rings: the input is what a hostile driver does, step by step, to a device whose
// transmit and receive queue run. Every step is cheap and means something, so that the fuzzer gets far: write
// a descriptor, an index, a header, make buffers available in order, let the worker take its turn.
//
// What must hold is watched from outside: guest memory has inaccessible pages around it (test/vhost), the
// sanitizers watch ours, a frame that comes out is within bounds and can be read, what was taken is given
// back, and the worker's turn ends. And the counters add up (class RingAccounts).
//
// An input may also be played by drivers that refill between any two reads of ours (refilled_device.h).
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/untrusted.h"
#include "port/burst_of.h"
#include "port/guest/virtio/device_totals.h"
#include "port/guest/virtio/guest_device.h"
#include "port/guest/virtio/guest_lane.h"
#include "port/guest/virtio/ring/refilled_device.h"
#include "port/vlan.h"
#include "test/vhost/mock_driver.h"

namespace sluice::test {

// The books of a device with one pair of queues, kept beside it:
//
//   towards the guest   frames offered == rx_packets + every drop_* of that direction
//   from the guest      buffers taken == tx_packets + every drop_tx_*, fault_tx_* and fault_buffer_*
//   each queue          where the ring stands when it stops is behind as many buffers as were counted, and
//                       what was taken has been given back
//   each fault_ring_*   a ring that broke
//
// A frame towards the guest may fill several buffers, or spoil some, when they are merged; then, and in a
// packed ring, where a position counts descriptors and our own frames may lie over them, only the frames of
// that queue are added up.
class RingAccounts {
 public:
  RingAccounts(const GuestDevice& device, MockGuest& guest)
      : device_(device), guest_(guest), before_(device) {}

  void begin() {
    broken_rings_ = 0;
    before_ = Totals(device_);
    broken_rings_before_ = before_.broken_rings;
    at_ = {guest_.rx().setup().base.avail, guest_.tx().setup().base.avail};
  }

  // Around a burst from the guest: its ring as it is when the burst is taken; what came out.
  void before_transmit() {
    if (packed()) {
      const vring_packed_desc* ring = guest_.tx().packed_descriptors();
      ring_.assign(ring, ring + guest_.tx().options().entries);
    }
  }
  void transmitted(std::uint32_t packets, std::uint64_t bytes) {
    const Totals before = std::exchange(before_, Totals(device_));
    const Totals& after = before_;
    SLUICE_CHECK(after.tx_packets - before.tx_packets == packets, "{} counted, {} came",
                 after.tx_packets - before.tx_packets, packets);
    SLUICE_CHECK(after.tx_bytes - before.tx_bytes == bytes, "{} counted, {} came",
                 after.tx_bytes - before.tx_bytes, bytes);
    SLUICE_CHECK(after.rx_packets == before.rx_packets && after.dropped == before.dropped &&
                     after.copied == before.copied,
                 "nothing went towards the guest");
    advance(1, packets + after.refused - before.refused + after.bad_buffers - before.bad_buffers);
  }

  void received(std::uint64_t offered) {
    const Totals before = std::exchange(before_, Totals(device_));
    const Totals& after = before_;
    const std::uint64_t delivered = after.rx_packets - before.rx_packets;
    SLUICE_CHECK(delivered + after.dropped - before.dropped == offered, "{} delivered, {} dropped of {}",
                 delivered, after.dropped - before.dropped, offered);
    SLUICE_CHECK(after.copied == after.rx_packets && after.copied_bytes == after.rx_bytes,
                 "{} and {}, {} and {}", after.copied, after.rx_packets, after.copied_bytes, after.rx_bytes);
    SLUICE_CHECK(after.tx_packets == before.tx_packets && after.refused == before.refused,
                 "nothing came from the guest");
    if (!packed()) {
      advance(0, delivered + after.bad_buffers - before.bad_buffers);
    }
  }

  // A ring was stopped there.
  void stopped(std::uint32_t ring, const VringBase& stands, bool broken) {
    SLUICE_CHECK(stands.avail == stands.used, "{} taken, {} given back", stands.avail, stands.used);
    if (ring == 1 || (!packed() && !merges())) {
      SLUICE_CHECK(stands.avail == at_[ring], "ring {} stands at {}, its buffers end at {}", ring,
                   stands.avail, at_[ring]);
    } else if (!packed()) {
      SLUICE_CHECK(static_cast<std::uint16_t>(stands.avail - at_[ring]) < 0x8000,
                   "ring {} stands at {}, before {}", ring, stands.avail, at_[ring]);
      at_[ring] = stands.avail;
    }
    broken_rings_ += broken ? 1 : 0;
  }

  void end() {
    const Totals totals(device_);
    SLUICE_CHECK(totals.broken_rings - broken_rings_before_ == broken_rings_, "{} counted of {}",
                 totals.broken_rings - broken_rings_before_, broken_rings_);
    SLUICE_CHECK(device_.ring_state(0).packets == totals.rx_packets &&
                     device_.ring_state(1).packets == totals.tx_packets,
                 "{} of {}, {} of {}", device_.ring_state(0).packets, totals.rx_packets,
                 device_.ring_state(1).packets, totals.tx_packets);
  }

 private:
  bool packed() const { return guest_.tx().options().format == VringFormat::kPacked; }
  bool merges() const { return (guest_.tx().options().features & kMergeable) != 0; }

  // By so many buffers. Packed: each is a descriptor and those that its NEXT flags say.
  void advance(std::uint32_t ring, std::uint64_t buffers) {
    if (!packed()) {
      at_[ring] = static_cast<std::uint16_t>(at_[ring] + buffers);
      return;
    }
    std::uint32_t at = at_[ring] & 0x7fffu;
    bool wrap = at_[ring] >> 15 != 0;
    for (; buffers > 0; --buffers) {
      for (bool more = true; more;) {
        more = (ring_[at].flags & VRING_DESC_F_NEXT) != 0;
        if (++at == ring_.size()) {
          at = 0;
          wrap = !wrap;
        }
      }
    }
    at_[ring] = static_cast<std::uint16_t>(at | (wrap ? 0x8000u : 0u));
  }

  const GuestDevice& device_;
  MockGuest& guest_;
  Totals before_;                      // as of the last burst
  std::array<std::uint16_t, 2> at_{};  // as VringBase has it
  std::vector<vring_packed_desc> ring_;
  std::uint64_t broken_rings_ = 0, broken_rings_before_ = 0;
};

enum class RingPort : std::uint8_t { kTrusted, kAccess };

class RingFuzz {
 public:
  RingFuzz(VringFormat format, std::uint16_t entries, std::uint64_t features, RingPort port)
      : format_(format),
        entries_(entries),
        port_(port),
        device_(policy(port), {WorkerId{0}}, 1),
        guest_({.format = format, .entries = entries, .features = features, .buffer_bytes = 512}),
        accounts_(device_, guest_) {
    guest_.attach(device_);
    room_ = guest_.memory().allocate(kRoomBytes, 4096);
    refilled_.emplace(device_, guest_, Bytes(200));
  }

  // From the same beginning every time: a device is dear to make, so it serves many inputs.
  void run(FuzzedDataProvider& data) {
    begin_anew();
    if (data.ConsumeBool() && port_ == RingPort::kTrusted) {
      run_refilled(data);
      return;
    }
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
    for (const std::uint32_t ring : {0u, 1u}) {
      stop(ring);
    }
    accounts_.end();
  }

 private:
  static constexpr std::uint64_t kRoomBytes = 64 * 1024;
  static constexpr PortId kPort{7};
  static constexpr std::uint16_t kVlan = 42;
  // The access port's address is what memory that nobody wrote says.
  static GuestPolicy policy(RingPort port) {
    if (port == RingPort::kTrusted) {
      return {.port = kPort, .uplink = PortId{3}, .macs = {{2, 0, 0, 0, 0, 1}}, .vlan = 0, .trust = true};
    }
    return {.port = kPort, .uplink = PortId{3}, .macs = {{0, 0, 0, 0, 0, 0}}, .vlan = kVlan, .trust = false};
  }

  void run_refilled(FuzzedDataProvider& data) {
    refilled_->begin(data.ConsumeIntegral<std::uint32_t>(),
                     data.PickValueInArray({RefilledDevice::Mood::kAnything, RefilledDevice::Mood::kBadOnly,
                                            RefilledDevice::Mood::kGoodOnly, RefilledDevice::Mood::kLong}));
    const std::array<std::byte, 1500> frame{};
    for (int steps = 0; data.remaining_bytes() > 0 && steps < 50; ++steps) {
      std::array<Packet, kBurst> burst;
      const auto bytes = data.ConsumeIntegralInRange<std::uint32_t>(60, frame.size());
      burst.fill(Packet{.body = frame.data(), .body_bytes = bytes});
      switch (data.ConsumeIntegralInRange(0, 2)) {
        case 0:
          refilled_->receive(std::span(burst).first(data.ConsumeIntegralInRange<std::size_t>(1, kBurst)));
          break;
        case 1:
          (void)refilled_->transmit();
          break;
        default:
          refilled_->end_turn();
      }
    }
    refilled_->end_turn();
    refilled_->stop();
  }

  void begin_anew() {
    std::memset(guest_.memory().at(room_, kRoomBytes), 0, kRoomBytes);
    start_afresh(device_, guest_);
    accounts_.begin();
  }
  VringBase stop(std::uint32_t ring) {
    const bool broken = device_.ring_state(ring).broken;
    const VringBase stands = device_.stop_ring(ring);
    accounts_.stopped(ring, stands, broken);
    return stands;
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
      accounts_.before_transmit();
      const std::uint32_t count = burst_of(lane, packets);
      SLUICE_CHECK(count <= kBurst, "{}", count);
      std::uint32_t sum = 0;
      std::uint64_t all_bytes = 0;
      for (const Packet& packet : std::span(packets).first(count)) {
        SLUICE_CHECK(packet.bytes() >= 14 && packet.bytes() <= kMaxFrameBytes, "{} bytes", packet.bytes());
        all_bytes += packet.bytes();
        SLUICE_CHECK(packet.page == PageIndex::kNone && packet.port == PortId{3});
        segments_of(packet).for_each([&sum](const auto& segment) {
          for (std::uint32_t i = 0; i < segment.bytes; ++i) {
            sum += static_cast<std::uint32_t>(segment.data[i]);  // all of it is there to be read
          }
        });
      }
      asm volatile("" : : "r"(sum));
      SLUICE_CHECK(all_bytes <= kTurnBytes, "{} bytes in a turn", all_bytes);
      lane.done(std::span(packets).first(count));
      lane.poll();
      accounts_.transmitted(count, all_bytes);
    }
  }
  // Some frames at once, as a NIC's or as a peer's; tagged for the access port, or not.
  void receive(FuzzedDataProvider& data) {
    std::array<std::byte, 2048> frame{};
    if (data.ConsumeBool()) {
      store_be16(frame.data() + kVlanTagOffset, kVlanTpid);
      store_be16(frame.data() + kVlanTagOffset + 2, kVlan);
    }
    std::array<Packet, 8> burst;
    const auto count = data.ConsumeIntegralInRange<std::uint32_t>(1, burst.size());
    for (Packet& packet : std::span(burst).first(count)) {
      const auto size = data.ConsumeIntegralInRange<std::uint32_t>(14, frame.size());
      const auto head_bytes =
          static_cast<std::uint16_t>(data.ConsumeBool() ? std::min<std::uint32_t>(size, kMaxHead) : 0);
      packet = Packet{.body = frame.data() + head_bytes,
                      .head = head_bytes != 0 ? frame.data() : nullptr,
                      .body_bytes = size - head_bytes,
                      .head_bytes = head_bytes};
    }
    Lane& lane = device_.lane(WorkerId{0});
    lane.copy_in(BurstInfo{}, std::span(burst).first(count));
    lane.poll();
    accounts_.received(count);
  }
  void restart(FuzzedDataProvider& data) {
    const std::uint32_t ring = data.ConsumeBool() ? 1 : 0;
    const VringBase stands = stop(ring);
    VringSetup setup = (ring == 1 ? guest_.tx() : guest_.rx()).setup();
    setup.base = stands;
    device_.start_ring(ring, setup);
    device_.enable_ring(ring, true);
  }

  const VringFormat format_;
  const std::uint16_t entries_;
  const RingPort port_;
  GuestDevice device_;
  MockGuest guest_;
  RingAccounts accounts_;
  std::uint64_t room_ = 0;
  std::optional<RefilledDevice> refilled_;
};

inline int fuzz_ring(VringFormat format, const std::uint8_t* input, std::size_t bytes) {
  FuzzedDataProvider data(input, bytes);
  std::uint64_t features = kVersion1;
  for (const std::uint64_t each : {kMergeable, kIndirectDesc, kEventIdx, kInOrder}) {
    features |= data.ConsumeBool() ? each : 0;
  }
  const std::uint16_t entries = format == VringFormat::kPacked && data.ConsumeBool() ? 15 : 16;
  const RingPort port = data.ConsumeBool() ? RingPort::kAccess : RingPort::kTrusted;
  static std::map<std::tuple<std::uint64_t, std::uint16_t, RingPort>, std::unique_ptr<RingFuzz>> devices;
  auto& device = devices[{features, entries, port}];
  if (device == nullptr) {
    device = std::make_unique<RingFuzz>(format, entries, features, port);
  }
  device->run(data);
  return 0;
}

}  // namespace sluice::test
