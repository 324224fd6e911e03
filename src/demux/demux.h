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
#include "demux/program.h"
#include "demux/rule.h"
#include "stats/counter.h"

struct demux_bpf;  // the skeleton that bpftool makes of bpf/demux.bpf.c

namespace sluice {

class Demux final : public NicProgram {
 public:
  // Loads the program, attached to nothing. `queue_count`: RX queues of the NIC (size of the XSKMAP).
  // Errors: no privilege, kernel too old (what is missing is named), verifier's last lines.
  static Result<std::unique_ptr<Demux>> load(std::uint32_t queue_count);
  ~Demux() override;

  int program_fd() const;

  Result<void> replace_rules(std::span<const Rule> rules) override;
  // How the present set was compiled.
  const CompiledRules& compiled() const { return compiled_; }

  Result<void> set_port(PortId port, PortEntry entry) override;
  // A queue that we were not given: its packets are the kernel's, whatever the rules say. 0 .. 1023; queues
  // above always are the kernel's.
  void leave_to_kernel(QueueId queue);
  // On this queue the program redirects only packets for `owner`, and drops others as drop_owned_queue. None:
  // the queue is shared. A queue that was left to the kernel stays so.
  void set_queue_owner(QueueId queue, std::optional<PortId> owner);
  std::uint64_t drops_on_owned_queue(QueueId queue) const override;
  Result<void> set_socket(QueueId queue, int socket_fd);
  Result<void> clear_socket(QueueId queue);

  void set_pressure(PortId port, WorkerId worker, bool on) override;
  Result<RuleCount> rule_count(RuleSlot slot) const override;
  Result<void> clear_rule_count(RuleSlot slot) override;
  void visit_port(PortId port, CounterVisitor& visitor) const override;
  void visit(CounterVisitor& visitor) const override;

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
