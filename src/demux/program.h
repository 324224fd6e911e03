// NicProgram: what the control side asks of the program that sorts a NIC's packets. Demux is one; tests have
// one of their own.
#pragma once

#include <cstdint>
#include <span>

#include "base/ids.h"
#include "base/result.h"
#include "demux/rule.h"
#include "stats/counter.h"

namespace sluice {

// What an entry of the port table does with a packet.
enum class PortKind : std::uint8_t {
  kUnused,    // no such port: drop_no_port
  kKernel,    // XDP_PASS
  kDrop,      // XDP_DROP
  kNetdev,    // redirect by DEVMAP: drop_no_netdev when it is gone
  kSocket,    // metadata, then redirect by XSKMAP to this queue's socket: drop_no_socket, drop_no_metadata
  kDetached,  // a port whose reader is away: drop_no_reader
};

struct PortEntry {
  PortKind kind = PortKind::kUnused;
  int ifindex = 0;       // kNetdev only
  bool trusted = false;  // gets reserved group addresses and MAC control as well
  bool operator==(const PortEntry&) const = default;
};

struct RuleCount {
  std::uint64_t packets = 0, bytes = 0;
  RuleCount& operator+=(const RuleCount& more);
  RuleCount operator-(const RuleCount& less) const;
};

// Control thread, except set_pressure().
class NicProgram {
 public:
  virtual ~NicProgram() = default;

  // Ports kKernel and kDrop are set already and stay. Unused -> anything starts without pressure.
  virtual Result<void> set_port(PortId port, PortEntry entry) = 0;
  // Any thread, no system call: marks the port as under pressure for this worker (0 .. 63); rules with `shed`
  // drop while any worker says so.
  virtual void set_pressure(PortId port, WorkerId worker, bool on) = 0;

  // Atomic: every packet sees the old set or the new one, and when this returns none sees the old one any
  // more. Errors leave the old set in place.
  virtual Result<void> replace_rules(std::span<const Rule> rules) = 0;
  virtual Result<RuleCount> rule_count(RuleSlot slot) const = 0;
  // A rule's slot may be used again after this, once replace_rules() has taken the old rule away.
  virtual Result<void> clear_rule_count(RuleSlot slot) = 0;

  // Counts of packets bound for this port since the program was loaded: packets bytes (all that rules sent
  // its way, dropped or not) drop_shed drop_no_reader drop_no_socket drop_no_metadata drop_no_netdev
  // drop_no_port drop_owned_queue drop_reserved
  virtual void visit_port(PortId port, CounterVisitor& visitor) const = 0;
  // Of the whole program: pass drop redirect_netdev redirect_socket no_rule truncated fragments header_limit,
  // then the ports' drop_* added up. pass + drop + redirect_netdev + redirect_socket is every packet it saw.
  virtual void visit(CounterVisitor& visitor) const = 0;
  virtual std::uint64_t drops_on_owned_queue(QueueId queue) const = 0;
};

}  // namespace sluice
