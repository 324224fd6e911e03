// Demux: one NIC's XDP program and its maps. Control thread, except set_pressure().
#pragma once

#include <cstdint>
#include <memory>
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
  kNetdev,    // redirect by DEVMAP
  kSocket,    // metadata, then redirect by XSKMAP to this queue's socket
  kDetached,  // a port whose reader is away: drop_no_reader
};

struct PortEntry {
  PortKind kind = PortKind::kUnused;
  int ifindex = 0;  // kNetdev only
};

class Demux {
 public:
  // Loads the program, attached to nothing. `queue_count`: RX queues of the NIC (size of the XSKMAP).
  // Errors: no privilege, kernel too old (what is missing is named), verifier's last lines.
  static Result<std::unique_ptr<Demux>> load(std::uint32_t queue_count);
  ~Demux();

  int program_fd() const;

  // Atomic: every packet sees the old set or the new one. Errors leave the old set in place.
  Result<void> replace_rules(std::span<const Rule> rules);

  Result<void> set_port(PortId port, PortEntry entry);
  Result<void> set_socket(QueueId queue, int socket_fd);
  Result<void> clear_socket(QueueId queue);

  // Any thread, no system call: marks the port as under pressure for this worker; rules with `shed` drop while any is.
  void set_pressure(PortId port, WorkerId worker, bool on);

  struct RuleCount {
    std::uint64_t packets = 0, bytes = 0;
  };
  Result<RuleCount> rule_count(RuleSlot slot) const;
  // A rule's slot may be used again after this.
  Result<void> clear_rule_count(RuleSlot slot);
  // What the program did with packets bound for this port: packets bytes drop_shed drop_no_reader drop_no_socket ...
  void visit_port(PortId port, CounterVisitor& visitor) const;
  // Of the whole program: pass drop redirect_netdev redirect_socket no_rule truncated fragments no_metadata ...
  void visit(CounterVisitor& visitor) const;
};

}  // namespace sluice
