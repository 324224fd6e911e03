// SourceGuard: what a port may send. One per lane, for every kind of port; judges private copies only (D3).
//
//   source address   one of the port's                                             drop_tx_source_mac
//   VLAN             none, or a priority tag; the access VLAN's tag is pushed      drop_tx_vlan
//   reserved         01:80:c2:00:00:00 .. 0f and MAC control (0x8808): not sent    drop_tx_reserved
//   source_ip        IPv4, ARP and IPv6 with neighbour discovery (ip_guard.h)      drop_tx_source_ip
//   frame_rate, broadcast_rate                                       drop_tx_rate, drop_tx_broadcast_rate
//
// `trust` lifts the first three. Of a host's own device (the tap) only tags on an access VLAN are judged: its
// frames come from the kernel.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/mac.h"
#include "base/result.h"
#include "port/ip_guard.h"
#include "port/port.h"
#include "port/vlan.h"
#include "stats/counter.h"

namespace sluice {

// Tokens of one port, shared by the lanes of all workers, so that the sum holds. Lock-free; a try that other
// workers have overtaken kRateTries times grants nothing (D6).
class RateLimit {
 public:
  explicit RateLimit(std::uint32_t frames_per_second);
  // How many of `wanted` frames may go at `now_ns`.
  std::uint32_t take(std::uint64_t now_ns, std::uint32_t wanted);
  // Frames that may go at once after a pause: those of 10 ms, at least a burst.
  static std::uint32_t depth(std::uint32_t frames_per_second);

 private:
  const std::uint64_t rate_;
  const std::uint64_t depth_ns_;
  std::atomic<std::uint64_t> paid_until_ns_{0};
};

// What an operator may ask for besides. Copies share their rates.
struct SourceLimits {
  std::vector<IpPrefix> addresses;  // empty: any
  std::shared_ptr<RateLimit> frames, broadcasts;
};
// Of the config's keys; a rate of 0 is no limit. Errors: what is no address.
Result<SourceLimits> make_source_limits(const std::vector<std::string>& addresses, std::uint32_t frame_rate,
                                        std::uint32_t broadcast_rate);

struct SourcePolicy {
  std::vector<MacAddress> macs;  // none: it sends nothing, but for any_mac
  std::uint16_t vlan = 0;        // access VLAN; 0: none
  bool any_mac = false;          // what `trust` lifts
  bool any_tag = false;          // the same
  bool any_group = false;        // the same: reserved group addresses and MAC control
  SourceLimits limits;

  void set_trust(bool trust) { any_mac = any_tag = any_group = trust; }
};

// Why a frame was not admitted; each has a counter of its name.
enum class SourceFault : std::uint8_t { kMac, kVlan, kReserved, kIp, kRate, kBroadcastRate };
inline constexpr std::size_t kSourceFaults = 6;

class SourceCounters {
 public:
  void add(SourceFault fault) { of_[static_cast<std::size_t>(fault)].add(1); }
  std::uint64_t value(SourceFault fault) const { return of_[static_cast<std::size_t>(fault)].value(); }

 private:
  std::array<Counter, kSourceFaults> of_;
};
const char* counter_name(SourceFault fault);

// The sums over a port's lanes. `counters_of` gives a lane's SourceCounters.
template <typename Lanes, typename CountersOf>
void visit_source_faults(const Lanes& lanes, CounterVisitor& visitor, CountersOf&& counters_of) {
  for (std::size_t i = 0; i < kSourceFaults; ++i) {
    const auto fault = static_cast<SourceFault>(i);
    std::uint64_t sum = 0;
    for (const auto& lane : lanes) {
      sum += counters_of(lane).value(fault);
    }
    visitor.counter(counter_name(fault), sum);
  }
}

// What a lane takes from its peer per turn, so that with tags pushed it is no more than kTurnBytes.
inline constexpr std::uint32_t kTakenPerTurn = kTurnBytes - kBurst * kVlanTagBytes;
static_assert(kTakenPerTurn >= 65535, "a source that has a frame gives one");

class SourceGuard {
 public:
  explicit SourceGuard(const SourcePolicy& policy);

  // Bytes of a frame to copy before it is judged, and the longest frame of `longest`: a tag may come in
  // front.
  std::uint32_t most_head() const { return kMaxHead - tag_bytes(); }
  std::uint32_t tag_bytes() const { return vlan_ == 0 ? 0 : kVlanTagBytes; }

  // Before the frames of a burst, of which there are at most `frames`.
  void begin_burst(std::uint32_t frames) {
    if (limits_rate_) [[unlikely]] {
      take_tokens(frames);
    }
  }
  // A frame of `head_bytes` at `head`, at least 14, with room for a tag in front; `whole`: there is no more
  // of it. True: it may go, and the port's tag was pushed. False: counted, and not changed.
  bool admit(std::byte*& head, std::uint32_t& head_bytes, bool whole, SourceCounters& counters) {
    std::uint64_t source;  // bytes 6 .. 13: the address and the EtherType
    std::memcpy(&source, head + 6, sizeof source);
    // The EtherType's first byte: IP, ARP and lengths, and nothing that is a tag or MAC control.
    const auto type = static_cast<std::uint8_t>(source >> 48);
    const bool plain = (type <= 0x08 || type == 0x86) && (head[0] & std::byte{1}) == std::byte{0} && plain_;
    if (plain && (source & kMacMask) == first_mac_) [[likely]] {
      return true;
    }
    return admit_rest(head, head_bytes, whole, counters);
  }

 private:
  static constexpr std::uint64_t kMacMask = 0xffff'ffff'ffff;

  void take_tokens(std::uint32_t frames);
  bool admit_rest(std::byte*& head, std::uint32_t& head_bytes, bool whole, SourceCounters& counters);
  bool mac_allowed(const std::byte* head) const;
  bool tags_allowed(const std::byte* head, std::uint32_t head_bytes) const;
  bool push_tag(std::byte*& head, std::uint32_t& head_bytes) const;

  std::vector<std::uint64_t> macs_;
  std::uint64_t first_mac_;
  const std::uint16_t vlan_;
  const bool any_mac_, any_tag_, any_group_;
  const bool limits_rate_;
  const bool plain_;  // nothing to ask but the source address of an untagged IP frame to one station
  const IpGuard ip_;
  const std::shared_ptr<RateLimit> frame_limit_, broadcast_limit_;
  std::uint32_t tokens_ = 0;  // for frames of the present burst
};

// IEEE 802.1Q table 8-1: what a bridge does not forward.
inline bool is_reserved_group(const std::byte* destination) {
  constexpr std::uint64_t kMask = 0xf0ff'ffff'ffff, kPrefix = 0x0000'00c2'8001;
  std::uint64_t word = 0;
  std::memcpy(&word, destination, 6);
  return (word & kMask) == kPrefix;
}

// The same by address or EtherType, behind up to two tags.
bool is_reserved(std::span<const std::byte> front);

}  // namespace sluice
