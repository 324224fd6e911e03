#include "control/engine/lost_ways.h"

#include <fmt/ranges.h>

namespace sluice {

std::vector<std::string> lost_ways(
    const std::vector<RuleConfig>& rules, const std::set<WorkerId>& takers,
    const std::function<bool(const std::string& netdev, WorkerId worker)>& sends) {
  constexpr std::string_view kNicPrefix = "nic:";
  std::set<std::string> targets;
  for (const RuleConfig& rule : rules) {
    if (rule.to.starts_with(kNicPrefix)) {
      targets.insert(rule.to.substr(kNicPrefix.size()));
    }
  }
  std::vector<std::string> lost;
  for (const std::string& netdev : targets) {
    std::vector<int> silent;
    for (WorkerId worker : takers) {
      if (!sends(netdev, worker)) {
        silent.push_back(raw(worker));
      }
    }
    if (!silent.empty()) {
      lost.push_back(fmt::format(
          "what workers {} take for nic:{} is dropped as drop_no_reader: they serve no queue of {} "
          "that no port owns",
          fmt::join(silent, ", "), netdev, netdev));
    }
  }
  return lost;
}

}  // namespace sluice
