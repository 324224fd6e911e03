// RuleTable: the rules that stand on one NIC, or on what one port sends, and the counter slot of each.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "control/config/config.h"
#include "demux/rule.h"

namespace sluice {

class RuleTable {
 public:
  struct Entry {
    RuleConfig config;
    Rule rule;  // with the slot: a rule that stays keeps its slot, and so its counts
    bool implicit = false;
  };
  using PortOf = std::function<Result<PortId>(const std::string& to)>;

  RuleTable() {
    for (std::uint32_t slot = 0; slot < kMaxRules; ++slot) {
      free_.insert(free_.end(), slot);
    }
  }

  // What the table would hold with `fresh` in it; nothing changes yet. `port_of` turns a rule's `to` into a
  // port. Of equal priority the earlier in `fresh` wins. `implicit` are the engine's own, for the addresses
  // of ports: whatever their priority says, every one of `fresh` comes before them.
  Result<std::vector<Entry>> plan(const std::vector<RuleConfig>& fresh, const PortOf& port_of,
                                  const std::vector<RuleConfig>& implicit = {}) const;
  // The plan has been carried out. Returns the slots whose rules are gone: their counts are to be cleared.
  std::vector<RuleSlot> commit(std::vector<Entry> plan);

  const std::vector<Entry>& entries() const { return entries_; }

 private:
  std::vector<Entry> entries_;
  std::set<std::uint32_t> free_;
};

}  // namespace sluice
