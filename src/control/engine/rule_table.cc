#include "control/engine/rule_table.h"

#include <limits>
#include <map>

namespace sluice {

namespace {

// Priority first, then the place in the file.
std::int64_t rank(std::int32_t priority, std::size_t index) {
  return std::int64_t{priority} * kMaxRules - static_cast<std::int64_t>(index);
}
constexpr std::int64_t kImplicitRank = std::numeric_limits<std::int64_t>::min();

Result<RuleTable::Entry> make_entry(const RuleConfig& config, const RuleTable::PortOf& port_of) {
  auto match = parse_match(config.match);
  if (!match) {
    return with_context(fmt::format("rule \"{}\"", config.match), match.error());
  }
  auto port = port_of(config.to);
  if (!port) {
    return with_context(fmt::format("rule \"{}\"", config.match), port.error());
  }
  return RuleTable::Entry{config, Rule{*match, *port, 0, config.shed, RuleSlot::kNone}};
}

}  // namespace

Result<std::vector<RuleTable::Entry>> RuleTable::plan(const std::vector<RuleConfig>& fresh,
                                                      const PortOf& port_of,
                                                      const std::vector<RuleConfig>& implicit) const {
  using Key = std::pair<RuleConfig, bool>;
  std::multimap<Key, RuleSlot> kept;  // equal rules are interchangeable
  for (const Entry& entry : entries_) {
    kept.emplace(Key(entry.config, entry.implicit), entry.rule.slot);
  }
  std::vector<Entry> entries;
  entries.reserve(fresh.size() + implicit.size());
  std::vector<std::size_t> without_slot;
  for (std::size_t i = 0; i < fresh.size() + implicit.size(); ++i) {
    bool is_implicit = i >= fresh.size();
    auto entry = make_entry(is_implicit ? implicit[i - fresh.size()] : fresh[i], port_of);
    SLUICE_TRY(entry);
    entry->implicit = is_implicit;
    entry->rule.priority = is_implicit ? kImplicitRank : rank(entry->config.priority, i);
    if (auto found = kept.find(Key(entry->config, is_implicit)); found != kept.end()) {
      entry->rule.slot = found->second;
      kept.erase(found);
    } else {
      without_slot.push_back(entries.size());
    }
    entries.push_back(std::move(*entry));
  }
  std::vector<std::uint32_t> available(free_.begin(), free_.end());
  for (const auto& [key, slot] : kept) {
    available.push_back(raw(slot));  // last: the counts of a rule that goes in this step are in it
  }
  if (without_slot.size() > available.size()) {
    return fail("{} rules in one place are more than {}", entries.size(), kMaxRules);
  }
  for (std::size_t i = 0; i < without_slot.size(); ++i) {
    entries[without_slot[i]].rule.slot = RuleSlot{available[i]};
  }
  return entries;
}

std::vector<RuleSlot> RuleTable::commit(std::vector<Entry> plan) {
  std::map<RuleSlot, const Entry*> now;
  for (const Entry& entry : plan) {
    now[entry.rule.slot] = &entry;
    free_.erase(raw(entry.rule.slot));
  }
  std::vector<RuleSlot> gone;
  for (const Entry& entry : entries_) {
    auto found = now.find(entry.rule.slot);
    if (found == now.end()) {
      free_.insert(raw(entry.rule.slot));
    }
    if (found == now.end() || found->second->config != entry.config ||
        found->second->implicit != entry.implicit) {
      gone.push_back(entry.rule.slot);
    }
  }
  entries_ = std::move(plan);
  return gone;
}

}  // namespace sluice
