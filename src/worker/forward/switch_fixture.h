// For tests of the switch: frames that can be told apart, and lanes that write down what they got.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "port/vlan.h"
#include "worker/forward/forward.h"
#include "worker/forward/switch.h"

namespace sluice::testing {

inline MacAddress mac_of(std::uint8_t n) {
  return {2, 0, 0, 0, 0, n};
}
inline constexpr MacAddress kBroadcastMac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

// A frame with a number behind its header; `vlan` 0: untagged.
inline std::vector<std::byte> switch_frame(const MacAddress& to, const MacAddress& from, std::uint16_t vlan,
                                           std::uint32_t number) {
  std::vector<std::byte> frame(64);
  std::memcpy(frame.data(), to.data(), 6);
  std::memcpy(frame.data() + 6, from.data(), 6);
  std::size_t type_at = kVlanTagOffset;
  if (vlan != 0) {
    store_be16(frame.data() + type_at, kVlanTpid);
    store_be16(frame.data() + type_at + 2, vlan);
    type_at += kVlanTagBytes;
  }
  store_be16(frame.data() + type_at, 0x88b5);
  std::memcpy(frame.data() + 60, &number, sizeof number);
  return frame;
}
inline std::uint32_t number_in(const Packet& packet) {
  std::uint32_t number;
  std::memcpy(&number, front_of(packet).data() + 60, sizeof number);
  return number;
}

// Writes down the numbers of what is copied to it, in their order.
class NotingLane final : public Lane {
 public:
  explicit NotingLane(PortId port) : Lane({.pages_of = domain_of(port)}), port_(port) {}
  std::vector<std::uint32_t> got;
  std::uint64_t calls = 0, handed_over = 0, wrong_port = 0;
  bool note = true;

  void hand_over(const BurstInfo&, std::span<Packet> packets) override { handed_over += packets.size(); }
  void copy_in(const BurstInfo&, std::span<Packet> packets) override {
    ++calls;
    for (const Packet& packet : packets) {
      wrong_port += packet.port == port_ ? 0 : 1;
      if (note) {
        got.push_back(number_in(packet));
      }
    }
  }
  std::uint32_t burst(std::span<Packet>, BurstInfo&) override { return 0; }
  void done(std::span<const Packet>) override {}
  int wake_fd() const override { return -1; }
  bool prepare_sleep() override { return false; }

 private:
  PortId port_;
};

inline std::map<std::string, std::uint64_t> counters_of(const Forwarder& forwarder) {
  struct Collect : CounterVisitor {
    std::map<std::string, std::uint64_t> values;
    void counter(std::string_view name, std::uint64_t value) override { values[std::string(name)] = value; }
  } collect;
  forwarder.visit(collect);
  return collect.values;
}

// What a worker does with what lanes send and with what the wire says to everybody, without a worker.
class SwitchBench {
 public:
  explicit SwitchBench(Switch& switching) : switching_(switching) {}

  NotingLane& lane(PortId port) {
    auto& lane = lanes_[port];
    if (lane == nullptr) {
      lane = std::make_unique<NotingLane>(port);
      (*by_port_)[raw(port)] = lane.get();
    }
    return *lane;
  }
  void send(PortId from, PortId uplink, const std::vector<std::vector<std::byte>>& frames) {
    const BurstInfo info{.domain = domain_of(from), .port = from, .uplink = uplink};
    std::vector<Packet> burst;
    for (const auto& frame : frames) {
      burst.push_back(Packet{
          .head = frame.data(), .head_bytes = static_cast<std::uint16_t>(frame.size()), .port = uplink});
    }
    switching_.route(WorkerId{0}, info, burst);
    forwarder_.forward(info, burst, *by_port_, &switching_);
  }
  void from_wire(PortId nic, const std::vector<std::vector<std::byte>>& frames) {
    const BurstInfo info{.uplink = nic};
    std::vector<Packet> burst;
    for (const auto& frame : frames) {
      burst.push_back(Packet{.body = frame.data(),
                             .body_bytes = static_cast<std::uint32_t>(frame.size()),
                             .port = PortId::kFlood});
    }
    forwarder_.forward(info, burst, *by_port_, &switching_);
  }
  // Which ports have the frame with this number, each as often as it came.
  std::multimap<std::uint32_t, PortId> where() const {
    std::multimap<std::uint32_t, PortId> all;
    for (const auto& [port, lane] : lanes_) {
      for (std::uint32_t number : lane->got) {
        all.emplace(number, port);
      }
    }
    return all;
  }
  std::vector<PortId> who_got(std::uint32_t number) const {
    std::vector<PortId> ports;
    for (const auto& [port, lane] : lanes_) {
      ports.insert(ports.end(), static_cast<std::size_t>(std::ranges::count(lane->got, number)), port);
    }
    return ports;
  }
  std::map<std::string, std::uint64_t> counters() const { return counters_of(forwarder_); }
  const std::map<PortId, std::unique_ptr<NotingLane>>& lanes() const { return lanes_; }

 private:
  Switch& switching_;
  Forwarder forwarder_;
  std::unique_ptr<LanesByPort> by_port_ = std::make_unique<LanesByPort>();
  std::map<PortId, std::unique_ptr<NotingLane>> lanes_;
};

}  // namespace sluice::testing
