// A worker sends by the queues that it serves and by no other, so that none waits for another (D8). So rules
// that lead to a NIC lose what is taken by workers without a queue of it.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/ids.h"
#include "control/config/config.h"

namespace sluice {

// What rules lose, a sentence for each NIC that they lead to. `takers` take what the rules stand on, `sends`
// says whether a worker has a queue of a NIC.
std::vector<std::string> lost_ways(
    const std::vector<RuleConfig>& rules, const std::set<WorkerId>& takers,
    const std::function<bool(const std::string& netdev, WorkerId worker)>& sends);

}  // namespace sluice
