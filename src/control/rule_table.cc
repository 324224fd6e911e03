#include "control/rule_table.h"

#include <map>

namespace sluice {

Result<std::vector<RuleTable::Entry>> RuleTable::plan(
    const std::vector<RuleConfig>& fresh,
    const std::function<Result<PortId>(const std::string&)>& port_of) const {
  std::multimap<RuleConfig, RuleSlot> kept;  // equal rules are interchangeable
  for (const Entry& entry : entries_) {
    kept.emplace(entry.config, entry.rule.slot);
  }
  std::vector<Entry> entries;
  entries.reserve(fresh.size());
  std::vector<std::size_t> without_slot;
  for (const RuleConfig& config : fresh) {
    auto match = parse_match(config.match);
    if (!match) {
      return with_context(fmt::format("rule \"{}\"", config.match), match.error());
    }
    auto port = port_of(config.to);
    if (!port) {
      return with_context(fmt::format("rule \"{}\"", config.match), port.error());
    }
    Entry entry{config, Rule{*match, *port, config.priority, config.shed, RuleSlot::kNone}};
    if (auto found = kept.find(config); found != kept.end()) {
      entry.rule.slot = found->second;
      kept.erase(found);
    } else {
      without_slot.push_back(entries.size());
    }
    entries.push_back(std::move(entry));
  }
  std::vector<std::uint32_t> available(free_.begin(), free_.end());
  for (const auto& [config, slot] : kept) {
    available.push_back(raw(slot));  // last: the counts of a rule that goes in this step are in it
  }
  if (without_slot.size() > available.size()) {
    return fail("{} rules on one NIC are more than {}", fresh.size(), kMaxRules);
  }
  for (std::size_t i = 0; i < without_slot.size(); ++i) {
    entries[without_slot[i]].rule.slot = RuleSlot{available[i]};
  }
  return entries;
}

std::vector<RuleSlot> RuleTable::commit(std::vector<Entry> plan) {
  std::map<RuleSlot, const RuleConfig*> now;
  for (const Entry& entry : plan) {
    now[entry.rule.slot] = &entry.config;
    free_.erase(raw(entry.rule.slot));
  }
  std::vector<RuleSlot> gone;
  for (const Entry& entry : entries_) {
    auto found = now.find(entry.rule.slot);
    if (found == now.end()) {
      free_.insert(raw(entry.rule.slot));
    }
    if (found == now.end() || *found->second != entry.config) {
      gone.push_back(entry.rule.slot);
    }
  }
  entries_ = std::move(plan);
  return gone;
}

}  // namespace sluice
