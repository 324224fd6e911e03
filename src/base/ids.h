// The ids that cross folders. Each is its own type, so that none is passed for another.
#pragma once

#include <cstdint>
#include <type_traits>

namespace sluice {

// A port in the port table. 0 and 1 are the two that every NIC has.
enum class PortId : std::uint16_t {
  kKernel = 0,  // the network stack: XDP_PASS
  kDrop = 1,    // XDP_DROP
  // A flooded frame: to every port that worker/forward/switch.h names. Never in the port table.
  kFlood = 0xffff,
};
inline constexpr std::uint16_t kFirstFreePortId = 2;
inline constexpr std::uint16_t kMaxPorts = 1024;  // entries of the port table, kernel and drop among them

// A protection domain: who may see a page (D1). `host` is Sluice's own; each app or guest port is one more.
enum class DomainId : std::uint16_t { kHost = 0 };
// The domain of a port is named by the port's id: kKernel (0) is never a domain, so kHost is free to be 0.
constexpr DomainId domain_of(PortId port) {
  return static_cast<DomainId>(port);
}

enum class NicId : std::uint16_t {};     // position in the daemon's table of NICs
enum class QueueId : std::uint16_t {};   // RX queue of one NIC, as ethtool counts them
enum class WorkerId : std::uint16_t {};  // position in [daemon] workers

// A rule's counter slot: stable for as long as the rule exists, 0 .. kMaxRules - 1.
enum class RuleSlot : std::uint32_t { kNone = 0xffffffff };

// A page of one arena, 0 .. page_count - 1.
enum class PageIndex : std::uint32_t { kNone = 0xffffffff };

template <typename Id>
constexpr auto raw(Id id) {
  return static_cast<std::underlying_type_t<Id>>(id);
}

}  // namespace sluice
