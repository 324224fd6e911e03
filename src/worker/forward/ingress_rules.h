// PortIngressRules: the rules for what one port sends (`[[rule]] port = "vm0"`), and their counters.
//
// The control thread makes a new PortIngressRules when the rules change and puts it into a new Switch; the
// IngressCounts of the port live on, so that a rule that stays keeps its slot and so its counts.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "demux/classifier.h"
#include "demux/rule.h"
#include "stats/counter.h"
#include "worker/forward/switch.h"

namespace sluice {

// Packets and bytes of each rule of one port. Each worker writes its own cells, anybody reads them, nobody
// clears them.
class IngressCounts {
 public:
  explicit IngressCounts(std::uint32_t workers) : of_worker_(workers) {}

  struct Count {
    std::uint64_t packets = 0, bytes = 0;
  };
  // Control thread. clear(): the slot's rule is gone and no worker has it any more; another rule may get it.
  Count count(RuleSlot slot) const;
  void clear(RuleSlot slot);

 private:
  friend class PortIngressRules;
  static constexpr std::uint32_t kChunk = 256;
  struct Cell {
    Counter packets, bytes;
  };
  using Chunk = std::array<Cell, kChunk>;
  using Cells = std::array<std::unique_ptr<Chunk>, kMaxRules / kChunk>;

  void make_room(RuleSlot slot);  // control thread, before any worker has a rule with that slot
  std::uint32_t workers() const { return static_cast<std::uint32_t>(of_worker_.size()); }
  Cell& cell(WorkerId worker, RuleSlot slot) {
    return (*of_worker_[raw(worker)][raw(slot) / kChunk])[raw(slot) % kChunk];
  }
  Count sum(RuleSlot slot) const;

  std::vector<Cells> of_worker_;
  std::map<RuleSlot, Count> base_;  // what a slot had counted when it was cleared
};

class PortIngressRules final : public IngressRules {
 public:
  // Slots are unique; `counts` has as many workers as there are. A rule may lead back to the port itself.
  // Errors: a rule leads to `kernel` (the stack has its own ways in), and those of the compiler. `shed` means
  // nothing here.
  static Result<std::shared_ptr<const PortIngressRules>> create(std::span<const Rule> rules,
                                                                std::shared_ptr<IngressCounts> counts);

  std::uint64_t steer(WorkerId worker, std::span<Packet> packets) const override;
  const CompiledRules& compiled() const { return classifier_.compiled(); }

 private:
  PortIngressRules(Classifier classifier, std::shared_ptr<IngressCounts> counts)
      : classifier_(std::move(classifier)), counts_(std::move(counts)) {}
  std::uint64_t steer_all(WorkerId worker, std::span<Packet> packets,
                          const Classifier::Verdict& verdict) const;

  const Classifier classifier_;
  const std::shared_ptr<IngressCounts> counts_;
};

}  // namespace sluice
