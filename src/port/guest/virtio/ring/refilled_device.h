// RefilledDevice: a guest device with one pair of queues, both of whose drivers refill between any two reads
// (refilling_driver.h), and what must hold however they do it. A violation ends the program.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

#include "base/check.h"
#include "port/burst_of.h"
#include "port/copy_bytes.h"
#include "port/guest/virtio/device_totals.h"
#include "port/guest/virtio/guest_device.h"
#include "port/guest/virtio/ring/refilling_driver.h"

namespace sluice::test {

// Both rings of the guest's first pair, empty, from position 0.
inline void start_afresh(GuestDevice& device, MockGuest& guest) {
  for (const std::uint32_t ring : {0u, 1u}) {
    const MockDriver& driver = ring == 1 ? guest.tx() : guest.rx();
    device.stop_ring(ring);
    const VringSetup setup = driver.setup();
    const std::size_t slots = setup.entries;
    const bool split = setup.format == VringFormat::kSplit;
    std::memset(setup.descriptors, 0, 16 * slots);
    std::memset(setup.driver_area, 0, split ? 6 + 2 * slots : 4);
    std::memset(setup.device_area, 0, split ? 6 + 8 * slots : 4);
    device.start_ring(ring, setup);
    device.enable_ring(ring, true);
  }
}

class RefilledDevice {
 public:
  using Mood = RefillingDriver::Mood;

  // The device's rings 0 and 1 are `guest`'s. `sent` is what every good buffer of its driver has in it.
  RefilledDevice(GuestDevice& device, MockGuest& guest, std::span<const std::byte> sent)
      : device_(device),
        mergeable_((guest.rx().options().features & kMergeable) != 0),
        rx_(guest.memory(), guest.rx(), [this](std::uint32_t below) { return next_random() % below; }),
        tx_(guest.memory(), guest.tx(), [this](std::uint32_t below) { return next_random() % below; }),
        sent_(sent.begin(), sent.end()) {
    SLUICE_CHECK(kNetHeaderBytes + sent.size() <= RefillingDriver::kBufferBytes, "{} bytes", sent.size());
    std::ranges::copy(sent, tx_.buffer() + kNetHeaderBytes);
    tx_.set_frame_bytes(static_cast<std::uint32_t>(kNetHeaderBytes + sent.size()));
  }

  // The rings have been started afresh.
  void begin(std::uint64_t seed, Mood mood) {
    random_ = seed * 2 + 1;
    for (RefillingDriver* driver : {&rx_, &tx_}) {
      driver->begin(mood);
    }
    mood_ = mood;
    bad_this_turn_ = walked_before_ = 0;
  }

  RefillingDriver& rx() { return rx_; }
  RefillingDriver& tx() { return tx_; }

  // At most kBurst packets for the guest. They are delivered or dropped, each once; what it costs is bounded
  // by the turn's budget, whatever the driver does.
  void receive(std::span<Packet> packets) {
    const Totals before(device_);
    const std::uint64_t returned = rx_.returned();
    rx_.begin_call();
    lane().copy_in(BurstInfo{}, packets);
    rx_.end_call();
    const Totals after(device_);
    const std::uint64_t delivered = after.rx_packets - before.rx_packets;
    const std::uint64_t bad = after.bad_buffers - before.bad_buffers;
    SLUICE_CHECK(delivered + after.dropped - before.dropped == packets.size(),
                 "{} delivered, {} dropped of {}", delivered, after.dropped - before.dropped, packets.size());
    bad_this_turn_ += bad;
    SLUICE_CHECK(bad_this_turn_ < kWastedPerTurn + kBurst, "{} bad buffers in one turn", bad_this_turn_);
    if (!mergeable_) {
      SLUICE_CHECK(rx_.returned() - returned == delivered + bad, "{} given back, {} delivered, {} bad",
                   rx_.returned() - returned, delivered, bad);
    }
    SLUICE_CHECK(mood_ != Mood::kBadOnly || delivered == 0, "{} delivered into bad buffers", delivered);
    SLUICE_CHECK(mood_ != Mood::kGoodOnly || bad == 0, "{} bad buffers of good ones", bad);
    expect_whole(0);
  }

  // A burst from the guest. One buffer is one frame or none, and no more than a burst's are taken.
  std::uint32_t transmit() {
    const Totals before(device_);
    const std::uint64_t returned = tx_.returned();
    std::array<Packet, kBurst> packets;
    tx_.begin_call();
    const std::uint32_t count = burst_of(lane(), packets);
    SLUICE_CHECK(count <= kBurst, "{}", count);
    for (const Packet& packet : std::span(packets).first(count)) {
      Bytes got(packet.bytes());
      copy_frame(got.data(), packet);
      SLUICE_CHECK(got == sent_, "a frame of {} bytes that nobody sent", packet.bytes());
    }
    lane().done(std::span(packets).first(count));
    tx_.end_call();
    const Totals after(device_);
    const std::uint64_t bad = after.bad_buffers - before.bad_buffers + after.refused - before.refused;
    SLUICE_CHECK(after.tx_packets - before.tx_packets == count, "{} counted, {} came",
                 after.tx_packets - before.tx_packets, count);
    SLUICE_CHECK(tx_.returned() - returned == count + bad, "{} given back, {} frames, {} bad",
                 tx_.returned() - returned, count, bad);
    SLUICE_CHECK(count + bad <= kBurst, "{} buffers in one burst", count + bad);
    SLUICE_CHECK(mood_ != Mood::kBadOnly || count == 0, "{} frames of bad buffers", count);
    SLUICE_CHECK(mood_ != Mood::kGoodOnly || bad == 0, "{} bad buffers of good ones", bad);
    expect_whole(1);
    return count;
  }

  void end_turn() {
    lane().poll();
    const std::uint64_t walked = rx_.walked() + tx_.walked();
    SLUICE_CHECK(walked - walked_before_ <= kWalkedPerTurn, "{} descriptors walked in one turn",
                 walked - walked_before_);
    walked_before_ = walked;
    bad_this_turn_ = 0;
  }

  // Both rings stop where their drivers' books say.
  void stop() {
    for (const std::uint32_t ring : {0u, 1u}) {
      const VringBase due = (ring == 0 ? rx_ : tx_).stands();
      const VringBase stands = device_.stop_ring(ring);
      SLUICE_CHECK(stands == due, "ring {} stands at {} and {}, due were {} and {}", ring, stands.avail,
                   stands.used, due.avail, due.used);
    }
  }

 private:
  Lane& lane() { return device_.lane(WorkerId{0}); }
  void expect_whole(std::uint32_t ring) {
    SLUICE_CHECK(!device_.ring_state(ring).broken, "ring {} is broken by a driver that keeps its rules",
                 ring);
  }
  std::uint32_t next_random() {  // xorshift64*
    random_ ^= random_ >> 12;
    random_ ^= random_ << 25;
    random_ ^= random_ >> 27;
    return static_cast<std::uint32_t>((random_ * 0x2545f4914f6cdd1d) >> 32);
  }

  GuestDevice& device_;
  const bool mergeable_;
  RefillingDriver rx_, tx_;
  Bytes sent_;
  std::uint64_t random_ = 1;
  Mood mood_ = Mood::kAnything;
  std::uint64_t bad_this_turn_ = 0, walked_before_ = 0;
};

}  // namespace sluice::test
