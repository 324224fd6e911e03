// diff: from the running state to the desired one, as a list of small steps. Pure; who carries them out is
// dumb.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "control/config/config.h"

namespace sluice {

// Replaces all rules of a NIC at once. `rules` name only ports that exist when the step is taken.
struct SetRules {
  std::string nic;
  std::vector<RuleConfig> rules;
  bool operator==(const SetRules&) const = default;
};
// Replaces all rules on what a port sends. The port exists, and so do those that `rules` lead to.
struct SetIngressRules {
  std::string port;
  std::vector<RuleConfig> rules;
  bool operator==(const SetIngressRules&) const = default;
};
// No rule leads to the port any more; rules on what it sends go with it. Its owned queues become the host's.
struct RemovePort {
  std::string name;
  bool operator==(const RemovePort&) const = default;
};
// No rule stands on the NIC any more, no port owns a queue of it or sends by it.
struct RemoveNic {
  std::string netdev;
  bool operator==(const RemoveNic&) const = default;
};
struct AddNic {
  NicConfig nic;
  bool operator==(const AddNic&) const = default;
};
// Its NICs exist; the queues that it owns are the host's until now. `uplink` as uplink_of() says for the
// desired state.
struct AddPort {
  PortConfig port;
  std::optional<std::string> uplink;
  bool operator==(const AddPort&) const = default;
};
struct SetLogLevel {
  std::string level;
  bool operator==(const SetLogLevel&) const = default;
};
// A warning, not a step: these keys keep their old value until the daemon is restarted.
struct RestartNeeded {
  std::vector<std::string> keys;  // "daemon.workers"
  bool operator==(const RestartNeeded&) const = default;
};

using Action = std::variant<RestartNeeded, SetLogLevel, SetRules, SetIngressRules, RemovePort, RemoveNic,
                            AddNic, AddPort>;

// Taking the actions one by one, each is valid when its turn comes:
//   RestartNeeded, SetLogLevel; rules that lead to a port which goes; ports; NICs; new NICs; new ports; the
//   new rules.
// A NIC or port that has changed is removed and added again, a port also when its uplink is: neither can be
// changed while it runs. What has not changed is not touched, and its packets never stop.
std::vector<Action> diff(const Config& old, const Config& fresh);

// The state after the actions: `fresh` with the keys of RestartNeeded as they were. What the next diff starts
// from.
Config after_diff(const Config& old, const Config& fresh);

// "add port dns", for the log and for `sluicectl reload`.
std::string to_string(const Action& action);

}  // namespace sluice
