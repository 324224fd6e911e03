// undo: what a step that was not carried out does to the state that is aimed at. Pure.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "control/config/diff.h"

namespace sluice {

// What stands in spite of the step.
struct StillThere {
  std::function<std::vector<RuleConfig>(const std::string& netdev)> rules;
  std::function<std::vector<RuleConfig>(const std::string& port)> ingress_rules;
  std::function<bool(const std::string& name)> port;
  std::function<bool(const std::string& netdev)> nic;
};

// Takes out of `target` what `step` was to bring, and what depends on it; puts back what it was to take away
// and did not, as it is in `before`. Rules that stand and lead to what is not in `target` are left out: the
// second result. They have to be taken away yet.
struct Undone {
  Config target;
  bool rules_are_left_over = false;
};
Undone undo(Config target, const Config& before, const Action& step, const StillThere& still_there);

}  // namespace sluice
