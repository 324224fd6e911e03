#include "worker/forward/switch.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "base/check.h"
#include "port/source_guard.h"
#include "port/vlan.h"

namespace sluice {

namespace {

constexpr std::uint64_t kMacMask = 0xffff'ffff'ffff;
constexpr std::uint32_t kEthernetBytes = 14;
constexpr std::uint32_t kSourceOffset = 6;

// Address and VLAN in one word. The 8 bytes from a MAC address on are within every whole Ethernet header.
std::uint64_t key_of(const std::byte* mac, std::uint16_t vlan) {
  std::uint64_t word;
  std::memcpy(&word, mac, sizeof word);
  return (word & kMacMask) | std::uint64_t{vlan} << 48;
}

}  // namespace

Switch::Switch(std::vector<SwitchPort> members) : members_(std::move(members)) {
  std::size_t addresses = 0;
  for (const SwitchPort& member : members_) {
    SLUICE_CHECK(raw(member.port) >= kFirstFreePortId && raw(member.port) < kMaxPorts, "port {}",
                 raw(member.port));
    addresses += member.macs.size();
  }
  const std::size_t slots = std::bit_ceil(std::max<std::size_t>(2 * addresses, 2));
  entries_.assign(slots, Entry{kNoKey, PortId::kDrop, PortId::kDrop, SwitchMode::kBridge});
  shift_ = 64 - std::countr_zero(slots);
  for (const SwitchPort& member : members_) {
    senders_[raw(member.port)].mode = member.mode;
    senders_[raw(member.port)].is_listener = !member.macs.empty();
    for (const MacAddress& mac : member.macs) {
      add_address(member, mac);
    }
  }
  make_segments();
}

void Switch::add_address(const SwitchPort& member, const MacAddress& mac) {
  const std::uint64_t key = mac_word(mac) | std::uint64_t{member.vlan} << 48;
  if (is_multicast(key) || find(member.uplink, key) != nullptr) {
    return;
  }
  std::size_t at = slot_of(member.uplink, key);
  while (entries_[at].key != kNoKey) {
    at = (at + 1) & (entries_.size() - 1);
  }
  entries_[at] = Entry{key, member.uplink, member.port, member.mode};
}

void Switch::make_segments() {
  std::map<PortId, std::vector<Listener>> by_uplink;
  for (const SwitchPort& member : members_) {
    if (!member.macs.empty()) {
      by_uplink[member.uplink].push_back({member.port, member.mode, member.vlan, member.trusted});
    }
  }
  for (const auto& [uplink, listeners] : by_uplink) {
    const auto bridges = std::ranges::count(listeners, SwitchMode::kBridge, &Listener::mode);
    segments_.push_back({.uplink = uplink,
                         .first = static_cast<std::uint32_t>(listeners_.size()),
                         .count = static_cast<std::uint32_t>(listeners.size()),
                         .bridges = static_cast<std::uint32_t>(bridges)});
    listeners_.insert(listeners_.end(), listeners.begin(), listeners.end());
  }
}

void Switch::set_ingress_rules(PortId port, std::shared_ptr<const IngressRules> rules) {
  SLUICE_CHECK(raw(port) < kMaxPorts, "port {}", raw(port));
  senders_[raw(port)].rules = rules.get();
  rules_.push_back(std::move(rules));
}

inline std::size_t Switch::slot_of(PortId uplink, std::uint64_t key) const {
  // Multiply-shift; odd constants from the digits of the golden ratio and of pi.
  const std::uint64_t mixed = key ^ std::uint64_t{raw(uplink)} * 0x243f6a8885a308d3ull;
  return static_cast<std::size_t>(mixed * 0x9e3779b97f4a7c15ull >> shift_);
}

inline const Switch::Entry* Switch::find(PortId uplink, std::uint64_t key) const {
  for (std::size_t at = slot_of(uplink, key);; at = (at + 1) & (entries_.size() - 1)) {
    const Entry& entry = entries_[at];
    if (entry.key == key && entry.uplink == uplink) {
      return &entry;
    }
    if (entry.key == kNoKey) {
      return nullptr;
    }
  }
}

const Switch::Segment* Switch::segment(PortId uplink) const {
  auto found = std::ranges::find(segments_, uplink, &Segment::uplink);
  return found == segments_.end() ? nullptr : &*found;
}

bool Switch::somebody_else_hears(PortId uplink, const Sender& sender) const {
  const Segment* there = segment(uplink);
  return there != nullptr && there->bridges > (sender.is_listener ? 1u : 0u);
}

void Switch::route(WorkerId worker, const BurstInfo& info, std::span<Packet> packets) const {
  const Sender& sender = senders_[raw(info.port)];
  const std::uint64_t steered = sender.rules == nullptr ? 0 : sender.rules->steer(worker, packets);
  if (sender.mode != SwitchMode::kBridge || listeners_.empty()) {
    return;
  }
  const bool floods = somebody_else_hears(info.uplink, sender);
  // Neighbours in a burst are mostly of one flow.
  std::uint64_t last_key = kNoKey;
  PortId last_uplink = PortId::kDrop, last_port = PortId::kDrop;
  bool last_is_here = false;
  for (std::size_t i = 0; i < packets.size(); ++i) {
    Packet& packet = packets[i];
    const std::span<const std::byte> front = front_of(packet);
    if ((steered >> i & 1) != 0 || front.size() < kEthernetBytes) [[unlikely]] {
      continue;
    }
    const std::uint64_t key = key_of(front.data(), vlan_of(front));
    if (is_multicast(key)) [[unlikely]] {
      packet.port = floods ? PortId::kFlood : packet.port;
      continue;
    }
    if (key != last_key || packet.port != last_uplink) {
      last_key = key;
      last_uplink = packet.port;
      const Entry* entry = find(packet.port, key);
      last_is_here = entry != nullptr && entry->mode == SwitchMode::kBridge && entry->port != info.port;
      last_port = last_is_here ? entry->port : PortId::kDrop;
    }
    packet.port = last_is_here ? last_port : packet.port;
  }
}

std::uint32_t Switch::audience(const BurstInfo& info) const {
  const Segment* there = segment(info.uplink);
  return (there == nullptr ? 0 : there->count) + 1;
}

void Switch::listen(const BurstInfo& info, std::span<const Packet> packets, std::span<Heard> heard) const {
  for (std::size_t i = 0; i < packets.size(); ++i) {
    const std::span<const std::byte> front = front_of(packets[i]);
    heard[i] = Heard{.vlan = vlan_of(front),
                     .mode = SwitchMode::kBridge,
                     .from = PortId::kKernel,
                     .reserved = is_reserved(front)};
    if (info.port != PortId::kKernel || front.size() < kEthernetBytes) {
      continue;
    }
    if (const Entry* entry = find(info.uplink, key_of(front.data() + kSourceOffset, heard[i].vlan))) {
      heard[i].mode = entry->mode;
      heard[i].from = entry->port;
    }
  }
}

// As macvlan_multicast_rx() and macvlan_broadcast() decide it (drivers/net/macvlan.c).
Switch::Copies Switch::hears(const Listener& listener, bool from_wire, std::span<const Heard> heard) {
  Copies copies;
  if (!from_wire && listener.mode != SwitchMode::kBridge) {
    return copies;
  }
  for (std::size_t i = 0; i < heard.size(); ++i) {
    bool is_for = heard[i].vlan == listener.vlan;
    if (from_wire && heard[i].from != PortId::kKernel) {
      // A local port's frame that an external switch has sent back. Bridge ports have heard those of bridge
      // ports on their way out; nobody is to hear those of private ones.
      const bool fresh = heard[i].mode == SwitchMode::kVepa
                             ? listener.mode != SwitchMode::kPrivate
                             : heard[i].mode == SwitchMode::kBridge && listener.mode == SwitchMode::kVepa;
      is_for = is_for && fresh && heard[i].from != listener.port;
    }
    const bool withheld = is_for && heard[i].reserved && !listener.trusted;
    copies.which |= std::uint64_t{is_for && !withheld} << i;
    copies.withheld |= std::uint64_t{withheld} << i;
  }
  return copies;
}

}  // namespace sluice
