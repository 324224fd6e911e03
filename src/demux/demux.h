// Demux: one NIC's XDP program and its maps. Control thread, except set_pressure().
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "abi/demux.h"
#include "base/fd.h"
#include "base/ids.h"
#include "base/result.h"
#include "demux/compile.h"
#include "demux/rule.h"
#include "stats/counter.h"

struct demux_bpf;  // the skeleton that bpftool makes of bpf/demux.bpf.c

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
};

class Demux {
 public:
  // Loads the program, attached to nothing. `queue_count`: RX queues of the NIC (size of the XSKMAP).
  // Errors: no privilege, kernel too old (what is missing is named), verifier's last lines.
  static Result<std::unique_ptr<Demux>> load(std::uint32_t queue_count);
  ~Demux();

  int program_fd() const;

  // Atomic: every packet sees the old set or the new one, and when this returns none sees the old one any
  // more. Errors leave the old set in place.
  Result<void> replace_rules(std::span<const Rule> rules);
  // How the present set was compiled.
  const CompiledRules& compiled() const { return compiled_; }

  // Ports kKernel and kDrop are set already and stay. Unused -> anything starts without pressure.
  Result<void> set_port(PortId port, PortEntry entry);
  // A queue that we were not given: its packets are the kernel's, whatever the rules say. 0 .. 1023; queues
  // above always are the kernel's.
  void leave_to_kernel(QueueId queue);
  // On this queue the program redirects only packets for `owner`, and drops others as drop_owned_queue. None:
  // the queue is shared. A queue that was left to the kernel stays so.
  void set_queue_owner(QueueId queue, std::optional<PortId> owner);
  std::uint64_t drops_on_owned_queue(QueueId queue) const;
  Result<void> set_socket(QueueId queue, int socket_fd);
  Result<void> clear_socket(QueueId queue);

  // Any thread, no system call: marks the port as under pressure for this worker (0 .. 63); rules with `shed`
  // drop while any worker says so.
  void set_pressure(PortId port, WorkerId worker, bool on);

  struct RuleCount {
    std::uint64_t packets = 0, bytes = 0;
    RuleCount& operator+=(const RuleCount& more);
    RuleCount operator-(const RuleCount& less) const;
  };
  Result<RuleCount> rule_count(RuleSlot slot) const;
  // A rule's slot may be used again after this, once replace_rules() has taken the old rule away.
  Result<void> clear_rule_count(RuleSlot slot);
  // Counts of packets bound for this port since the program was loaded: packets bytes (all that rules sent
  // its way, dropped or not) drop_shed drop_no_reader drop_no_socket drop_no_metadata drop_no_netdev
  // drop_no_port drop_owned_queue drop_reserved
  void visit_port(PortId port, CounterVisitor& visitor) const;
  // Of the whole program: pass drop redirect_netdev redirect_socket no_rule truncated fragments header_limit,
  // then the ports' drop_* added up. pass + drop + redirect_netdev + redirect_socket is every packet it saw.
  void visit(CounterVisitor& visitor) const;

 private:
  struct CloseSkeleton {
    void operator()(demux_bpf* skeleton) const;
  };
  Demux() = default;
  sluice_port& port_entry(PortId port) const;
  const sluice_cpu_counters& of_cpu(std::uint32_t cpu) const;
  sluice_port_counters port_sum(PortId port) const;
  RuleCount rule_sum(RuleSlot slot) const;
  Result<void> publish(int map_fd, sluice_u64 serial);
  void note_ports_of(std::span<const Rule> rules);

  std::unique_ptr<demux_bpf, CloseSkeleton> skeleton_;
  Mapping counters_;  // sluice_cpu_counters[cpus_], written by the program only
  std::uint32_t cpus_ = 0;
  std::uint32_t queue_count_ = 0;
  CompiledRules compiled_;
  sluice_u64 rule_sets_ = 0;  // published so far
  std::vector<RuleCount>
      rule_base_;  // what a slot had counted when it was cleared: nobody but the program writes counters
  // The program counts by rule; a port's packets are those of its rules, present and past.
  using PortSlot = std::pair<PortId, RuleSlot>;
  std::vector<PortSlot> port_slots_;  // of the present rules, in order
  std::vector<RuleCount> slot_base_;  // what a slot had counted when its present rule got it
  std::vector<RuleCount> port_past_;  // by rules that are gone
};

}  // namespace sluice
