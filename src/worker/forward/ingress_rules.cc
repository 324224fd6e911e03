#include "worker/forward/ingress_rules.h"

#include "base/check.h"
#include "port/vlan.h"

namespace sluice {

void IngressCounts::make_room(RuleSlot slot) {
  for (Cells& cells : of_worker_) {
    std::unique_ptr<Chunk>& chunk = cells[raw(slot) / kChunk];
    if (chunk == nullptr) {
      chunk = std::make_unique<Chunk>();
    }
  }
}

IngressCounts::Count IngressCounts::sum(RuleSlot slot) const {
  SLUICE_CHECK(raw(slot) < kMaxRules, "rule slot {}", raw(slot));
  Count sum;
  for (const Cells& cells : of_worker_) {
    if (const Chunk* chunk = cells[raw(slot) / kChunk].get()) {
      sum.packets += (*chunk)[raw(slot) % kChunk].packets.value();
      sum.bytes += (*chunk)[raw(slot) % kChunk].bytes.value();
    }
  }
  return sum;
}

IngressCounts::Count IngressCounts::count(RuleSlot slot) const {
  Count now = sum(slot);
  if (auto base = base_.find(slot); base != base_.end()) {
    now.packets -= base->second.packets;
    now.bytes -= base->second.bytes;
  }
  return now;
}

void IngressCounts::clear(RuleSlot slot) {
  base_[slot] = sum(slot);
}

Result<std::shared_ptr<const PortIngressRules>> PortIngressRules::create(
    std::span<const Rule> rules, std::shared_ptr<IngressCounts> counts) {
  for (const Rule& rule : rules) {
    if (rule.port == PortId::kKernel) {
      return fail("rule \"{}\" leads to the kernel: a port's own flows can go to a port or to \"drop\"",
                  to_string(rule.match));
    }
  }
  auto classifier = Classifier::compile(rules);
  if (!classifier) {
    return std::unexpected(classifier.error());
  }
  for (const Rule& rule : rules) {
    counts->make_room(rule.slot);
  }
  return std::shared_ptr<const PortIngressRules>(
      new PortIngressRules(std::move(*classifier), std::move(counts)));
}

std::uint64_t PortIngressRules::steer(WorkerId worker, std::span<Packet> packets) const {
  SLUICE_CHECK(packets.size() <= kBurst && raw(worker) < counts_->workers(), "worker {}, {} packets",
               raw(worker), packets.size());
  if (const auto& constant = classifier_.constant()) {
    return steer_all(worker, packets, *constant);
  }
  std::uint64_t steered = 0;
  for (std::size_t i = 0; i < packets.size(); ++i) {
    Packet& packet = packets[i];
    if (const auto verdict = classifier_.classify(front_of(packet))) {
      packet.port = verdict->port;
      packet.rule = raw(verdict->rule);
      IngressCounts::Cell& cell = counts_->cell(worker, verdict->rule);
      cell.packets.add(1);
      cell.bytes.add(packet.bytes());
      steered |= std::uint64_t{1} << i;
    }
  }
  return steered;
}

// One rule for everything: nothing is looked up, and counted once per burst.
std::uint64_t PortIngressRules::steer_all(WorkerId worker, std::span<Packet> packets,
                                          const Classifier::Verdict& verdict) const {
  std::uint64_t bytes = 0;
  for (Packet& packet : packets) {
    packet.port = verdict.port;
    packet.rule = raw(verdict.rule);
    bytes += packet.bytes();
  }
  IngressCounts::Cell& cell = counts_->cell(worker, verdict.rule);
  cell.packets.add(packets.size());
  cell.bytes.add(bytes);
  return packets.empty() ? 0 : ~0ull >> (kBurst - packets.size());
}

}  // namespace sluice
