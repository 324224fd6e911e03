#include "worker/forward.h"

#include <algorithm>

#include "base/check.h"

namespace sluice {

namespace {

// Without a branch per packet: nearly every burst goes to one port.
bool goes_to_one_port(std::span<const Packet> burst) {
  std::uint32_t difference = 0;
  for (const Packet& packet : burst) {
    difference |= static_cast<std::uint32_t>(raw(packet.port) ^ raw(burst.front().port));
  }
  return difference == 0;
}

}  // namespace

Forwarder::Forwarder() {
  group_of_.fill(kNoGroup);
}

std::span<Packet> Forwarder::forward(const Source& source, std::span<Packet> burst,
                                     const LaneTable& by_port) {
  if (burst.empty()) {
    return burst;
  }
  SLUICE_CHECK(burst.size() <= kBurst, "burst of {}", burst.size());
  if (goes_to_one_port(burst)) {
    deliver(source, burst, by_port);
    return burst;
  }
  return forward_groups(source, burst, by_port);
}

// A counting sort: stable, so packets of one port keep their order; linear also when every packet has its own
// port.
std::span<Packet> Forwarder::forward_groups(const Source& source, std::span<const Packet> burst,
                                            const LaneTable& by_port) {
  std::array<std::uint8_t, kBurst> group;  // of each packet
  std::array<std::uint16_t, kBurst> slot;  // of each group's entry in group_of_
  std::array<std::uint8_t, kBurst> size;   // of each group
  std::uint8_t group_count = 0;
  for (std::size_t i = 0; i < burst.size(); ++i) {
    std::uint16_t port = std::min(raw(burst[i].port), kMaxPorts);
    std::uint8_t found = group_of_[port];
    if (found == kNoGroup) {
      found = group_count++;
      group_of_[port] = found;
      slot[found] = port;
      size[found] = 0;
    }
    group[i] = found;
    ++size[found];
  }

  std::array<std::uint8_t, kBurst> next;  // where the next packet of each group goes in grouped_
  std::uint8_t begin = 0;
  for (std::uint8_t g = 0; g < group_count; ++g) {
    group_of_[slot[g]] = kNoGroup;
    next[g] = begin;
    begin = static_cast<std::uint8_t>(begin + size[g]);
  }
  for (std::size_t i = 0; i < burst.size(); ++i) {
    grouped_[next[group[i]]++] = burst[i];
  }

  std::span<Packet> all(grouped_.data(), burst.size());
  std::span<Packet> rest = all;
  for (std::uint8_t g = 0; g < group_count; ++g) {
    deliver(source, rest.first(size[g]), by_port);
    rest = rest.subspan(size[g]);
  }
  return all;
}

void Forwarder::deliver(const Source& source, std::span<Packet> group, const LaneTable& by_port) {
  const PortId port = group.front().port;
  if (raw(port) >= kMaxPorts) {
    drop_bad_port_.add(group.size());
    return;
  }
  if (port == PortId::kDrop) {
    drop_verdict_.add(group.size());
    return;
  }
  Lane* lane = by_port[raw(port)];
  if (lane == nullptr) {
    no_reader_[raw(port)].add(group.size());
    drop_no_reader_.add(group.size());
    return;
  }
  groups_.add(1);
  // D1: a page never leaves its domain. A burst that a peer sends has no pages (its frames lie in the peer's
  // own memory), so there is nothing to hand over even where the destination is of the sender's domain.
  const bool hands_over = source.domain == lane->domain() && group.front().page != PageIndex::kNone;
  hands_over ? lane->hand_over(source, group) : lane->copy_in(source, group);
}

std::uint64_t Forwarder::no_reader(PortId port) const {
  SLUICE_CHECK(raw(port) < kMaxPorts, "port {}", raw(port));
  return no_reader_[raw(port)].value();
}

void Forwarder::visit(CounterVisitor& visitor) const {
  visitor.counter("groups", groups_.value());
  visitor.counter("drop_verdict", drop_verdict_.value());
  visitor.counter("drop_bad_port", drop_bad_port_.value());
  visitor.counter("drop_no_reader", drop_no_reader_.value());
}

}  // namespace sluice
