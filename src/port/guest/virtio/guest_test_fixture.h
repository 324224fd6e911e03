// A guest device with a mock guest on it; the test thread is the worker and the control thread.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "port/burst_of.h"
#include "port/guest/virtio/guest_device.h"
#include "port/test_frames.h"
#include "test/vhost/mock_driver.h"

namespace sluice::test {

inline constexpr MacAddress kGuestMac{0x52, 0x54, 0, 0, 0, 1};
inline constexpr PortId kGuestPort{7};
inline constexpr PortId kUplink{3};

// From `kGuestMac` to somewhere; the number stands in bytes 14 .. 17.
inline Bytes guest_frame(std::uint32_t number, std::size_t bytes) {
  Bytes frame(bytes);
  for (std::size_t i = 0; i < bytes; ++i) {
    frame[i] = static_cast<std::byte>(number * 31 + i);
  }
  constexpr std::array<std::uint8_t, 14> header{2, 0, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb5};
  for (std::size_t i = 0; i < std::min(bytes, header.size()); ++i) {
    frame[i] = std::byte{header[i]};
  }
  for (std::size_t i = 0; i < 4 && 14 + i < bytes; ++i) {
    frame[14 + i] = static_cast<std::byte>(number >> (8 * i));
  }
  return frame;
}

// `head_bytes` 0: as a NIC's frame, else as a peer's.
inline Packet packet_of(const Bytes& frame, std::uint16_t head_bytes = 0) {
  return Packet{.body = frame.data() + head_bytes,
                .head = head_bytes > 0 ? frame.data() : nullptr,
                .body_bytes = static_cast<std::uint32_t>(frame.size()) - head_bytes,
                .head_bytes = head_bytes};
}

class CounterMap final : public CounterVisitor {
 public:
  void counter(std::string_view name, std::uint64_t value) override { values[std::string(name)] = value; }
  std::map<std::string, std::uint64_t> values;
};

struct Bench {
  enum class Receive : std::uint8_t { kFilled, kEmpty };

  explicit Bench(const MockGuest::Options& guest_options = {}, GuestPolicy policy = default_policy(),
                 std::vector<WorkerId> workers = {WorkerId{0}}, Receive receive = Receive::kFilled)
      : device(std::move(policy), std::move(workers), 1), guest(guest_options) {
    guest.attach(device);
    if (receive == Receive::kFilled) {
      guest.fill_receive();
    }
  }
  static GuestPolicy default_policy() {
    return {.port = kGuestPort, .uplink = kUplink, .macs = {kGuestMac}, .vlan = 0, .trust = false};
  }

  Lane& lane() { return device.lane(WorkerId{0}); }
  void deliver(std::span<Packet> packets) { lane().copy_in(BurstInfo{}, packets); }
  void deliver(const Bytes& frame, std::uint16_t head_bytes = 0) {
    Packet packet = packet_of(frame, head_bytes);
    deliver(std::span(&packet, 1));
  }
  // Everything that the guest sends now.
  std::vector<Bytes> take() {
    std::vector<Bytes> frames;
    std::array<Packet, kBurst> packets;
    for (int idle = 0; idle < 2;) {
      const std::uint32_t count = burst_of(lane(), packets);
      for (std::uint32_t i = 0; i < count; ++i) {
        frames.push_back(bytes_of(packets[i]));
      }
      lane().done(std::span(packets).first(count));
      idle = count == 0 && lane().poll() == 0 ? idle + 1 : 0;
    }
    return frames;
  }
  std::uint64_t counter(const std::string& name) const {
    CounterMap map;
    device.visit(map);
    EXPECT_TRUE(map.values.contains(name)) << name;
    return map.values[name];
  }
  std::uint64_t faults() const {
    CounterMap map;
    device.visit(map);
    std::uint64_t sum = 0;
    for (const auto& [name, value] : map.values) {
      sum += name.starts_with("fault_") ? value : 0;
    }
    return sum;
  }

  GuestDevice device;
  MockGuest guest;
};

struct Variant {
  std::string name;
  VringFormat format = VringFormat::kSplit;
  std::uint16_t entries = 256;
  std::uint64_t features = 0;
};
inline void PrintTo(const Variant& variant, std::ostream* out) {
  *out << variant.name;
}

inline std::vector<Variant> all_variants() {
  std::vector<Variant> variants;
  for (const auto format : {VringFormat::kSplit, VringFormat::kPacked}) {
    const bool split = format == VringFormat::kSplit;
    const std::string name = split ? "split" : "packed";
    const std::uint16_t odd = split ? 64 : 255;
    const std::uint64_t all = kVersion1 | kMergeable | kIndirectDesc | kEventIdx;
    variants.push_back({name + "_plain", format, 256, kVersion1});
    variants.push_back({name + "_mergeable", format, 256, kVersion1 | kMergeable});
    variants.push_back({name + "_all", format, odd, all});
    variants.push_back({name + "_in_order", format, odd, all | kInOrder});
  }
  variants.push_back({"split_legacy", VringFormat::kSplit, 256, 0});
  return variants;
}

}  // namespace sluice::test
