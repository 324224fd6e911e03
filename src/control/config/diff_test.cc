#include "control/config/diff.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "control/config/random_config.h"

namespace sluice {
namespace {

// The machine, as naive as it can be: it refuses a step whose conditions (diff.h) do not hold.
class Model {
 public:
  explicit Model(const Config& start) {
    for (const auto& [name, nic] : start.nics) {
      EXPECT_EQ(take(AddNic{nic}), "");
    }
    for (const auto& [name, port] : start.ports) {
      EXPECT_EQ(take(AddPort{port, uplink_of(start, port)}), "");
    }
    for (const auto& [name, nic] : start.nics) {
      EXPECT_EQ(take(SetRules{name, on_one_nic(start, name)}), "");
    }
    for (const auto& [name, port] : start.ports) {
      EXPECT_EQ(take(SetIngressRules{name, rules_of_port(start, name)}), "");
    }
    log_ = start.daemon.log;
  }

  std::string take(const Action& action) {
    return std::visit([this](const auto& step) { return this->step(step); }, action);
  }

  // What the model would be, had it been started with `config`.
  bool is(const Config& config) const {
    Model other(config);
    return nics_ == other.nics_ && ports_ == other.ports_ && uplinks_ == other.uplinks_ &&
           rules_ == other.rules_ && port_rules_ == other.port_rules_ && log_ == other.log_;
  }

 private:
  static std::vector<RuleConfig> on_one_nic(const Config& config, const std::string& nic) {
    auto rules = rules_of(config, nic);
    for (RuleConfig& rule : rules) {
      rule.nic = nic;
    }
    return rules;
  }

  std::string step(const RestartNeeded&) { return ""; }
  std::string step(const SetLogLevel& a) {
    log_ = a.level;
    return "";
  }
  std::string step(const AddNic& a) {
    rules_[a.nic.netdev];  // none yet
    return nics_.emplace(a.nic.netdev, a.nic).second ? "" : "NIC is there";
  }
  std::string step(const RemoveNic& a) {
    if (!rules_[a.netdev].empty()) {
      return "rules on the NIC";
    }
    for (const auto& [name, port] : ports_) {
      if (uplinks_[name] == a.netdev ||
          std::ranges::find(port.owned_queues(), a.netdev, &QueueName::netdev) != port.owned_queues().end()) {
        return "port " + name + " uses the NIC";
      }
    }
    for (const auto* standing : {&rules_, &port_rules_}) {
      for (const auto& [place, rules] : *standing) {
        if (std::ranges::find(rules, "nic:" + a.netdev, &RuleConfig::to) != rules.end()) {
          return "a rule on " + place + " leads to the NIC";
        }
      }
    }
    rules_.erase(a.netdev);
    return nics_.erase(a.netdev) == 1 ? "" : "no such NIC";
  }
  std::string step(const AddPort& a) {
    for (const QueueName& queue : a.port.owned_queues()) {
      auto nic = nics_.find(queue.netdev);
      if (nic == nics_.end()) {
        return "no NIC for an owned queue";
      }
      if (nic->second.queues &&
          std::ranges::find(*nic->second.queues, queue.queue) == nic->second.queues->end()) {
        return "no such queue";
      }
      for (const auto& [name, other] : ports_) {
        if (std::ranges::find(other.owned_queues(), queue) != other.owned_queues().end()) {
          return "owned by " + name;
        }
      }
    }
    for (const auto& [name, other] : ports_) {
      const auto *theirs = other.by_socket(), *ours = a.port.by_socket();
      if (theirs != nullptr && ours != nullptr && theirs->socket == ours->socket) {
        return "socket in use";
      }
      const auto *their_tap = other.tap(), *our_tap = a.port.tap();
      if (their_tap != nullptr && our_tap != nullptr && their_tap->netdev == our_tap->netdev) {
        return "netdev in use";
      }
    }
    if (a.uplink && !nics_.contains(*a.uplink)) {
      return "no uplink";
    }
    PortConfig port = a.port;
    port.uplink.clear();
    uplinks_[port.name] = a.uplink.value_or("");
    return ports_.emplace(port.name, port).second ? "" : "port is there";
  }
  std::string step(const RemovePort& a) {
    for (const auto& [nic, rules] : rules_) {
      if (std::ranges::find(rules, a.name, &RuleConfig::to) != rules.end()) {
        return "a rule leads to the port";
      }
    }
    for (const auto& [port, rules] : port_rules_) {
      if (port != a.name && std::ranges::find(rules, a.name, &RuleConfig::to) != rules.end()) {
        return "a rule on port " + port + " leads to the port";
      }
    }
    port_rules_.erase(a.name);
    uplinks_.erase(a.name);
    return ports_.erase(a.name) == 1 ? "" : "no such port";
  }
  std::string step(const SetRules& a) {
    if (!nics_.contains(a.nic)) {
      return "no such NIC";
    }
    for (const RuleConfig& rule : a.rules) {
      if (rule.nic != a.nic || (rule.to != "kernel" && rule.to != "drop" && !rule.to.starts_with("netdev:") &&
                                !ports_.contains(rule.to) && !is_nic(rule.to))) {
        return "rule to nowhere";
      }
    }
    rules_[a.nic] = a.rules;
    return "";
  }

  std::string step(const SetIngressRules& a) {
    if (!ports_.contains(a.port)) {
      return "no such port";
    }
    for (const RuleConfig& rule : a.rules) {
      if (rule.port != a.port || (rule.to != "drop" && !ports_.contains(rule.to) && !is_nic(rule.to))) {
        return "rule to nowhere";
      }
    }
    port_rules_.erase(a.port);
    if (!a.rules.empty()) {
      port_rules_[a.port] = a.rules;
    }
    return "";
  }

  bool is_nic(const std::string& to) const { return to.starts_with("nic:") && nics_.contains(to.substr(4)); }

  std::map<std::string, NicConfig> nics_;
  std::map<std::string, PortConfig> ports_;
  std::map<std::string, std::string> uplinks_;
  std::map<std::string, std::vector<RuleConfig>> rules_, port_rules_;
  std::string log_;
};

std::string list(const std::vector<Action>& actions) {
  std::string text;
  for (const Action& action : actions) {
    text += to_string(action) + "; ";
  }
  return text;
}

TEST(Diff, Model_LeadsFromAnyStateToAnyOtherByValidSteps) {
  for (std::uint64_t seed = 0; seed < 5000; ++seed) {
    RandomConfig random(seed);
    Config old = random.make(), fresh = random.make();
    Model model(old);
    std::vector<Action> actions = diff(old, fresh);
    for (const Action& action : actions) {
      ASSERT_EQ(model.take(action), "")
          << "seed " << seed << ": " << to_string(action) << " of " << list(actions);
    }
    ASSERT_TRUE(model.is(fresh)) << "seed " << seed << ": " << list(actions);
  }
}

TEST(Diff, Model_OfAStateWithItselfIsNothing) {
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    Config config = RandomConfig(seed).make();
    ASSERT_TRUE(diff(config, config).empty()) << list(diff(config, config));
  }
}

TEST(Diff, Model_WarnsOfKeysThatNeedARestartUntilTheyAreRestarted) {
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    RandomConfig random(seed);
    Config old = random.make(), fresh = random.make();
    std::vector<Action> again = diff(after_diff(old, fresh), fresh);
    bool warned = !diff(old, fresh).empty() && std::holds_alternative<RestartNeeded>(diff(old, fresh)[0]);
    ASSERT_EQ(again.size(), warned ? 1u : 0u) << "seed " << seed << ": " << list(again);
    ASSERT_TRUE(!warned || std::holds_alternative<RestartNeeded>(again[0]));
  }
}

Config base() {
  return parse_config(R"(
[nic.eth1]
[nic.eth2]
[port.dns]
type = "app"
socket = "/dns"
uplink = "eth1"
[port.web]
type = "app"
socket = "/web"
uplink = "eth2"
[[rule]]
nic = "eth1"
match = "dst_port 53"
to = "dns"
[[rule]]
nic = "eth1"
match = "dst_port 80"
to = "web"
)",
                      "f")
      .value();
}

TEST(Diff, RulesAloneAreOneStepPerNicThatTheyStandOn) {
  Config fresh = base();
  fresh.rules[0].priority = 7;
  EXPECT_EQ(list(diff(base(), fresh)), "set 2 rules on eth1; ");
  fresh.rules.push_back({"", "", "drop"});
  EXPECT_EQ(list(diff(base(), fresh)), "set 3 rules on eth1; set 1 rules on eth2; ");
}

TEST(Diff, ChangedPortGoesAndComesAndTheOthersAreLeftAlone) {
  Config fresh = base();
  fresh.ports["dns"].app()->pages = 128;
  EXPECT_EQ(list(diff(base(), fresh)),
            "set 1 rules on eth1; remove port dns; add port dns; set 2 rules on eth1; ");
}

TEST(Diff, ChangedNicTakesAlongThePortsThatSendByIt) {
  Config fresh = base();
  fresh.nics["eth2"].mode = BindMode::kCopy;
  EXPECT_EQ(list(diff(base(), fresh)),
            "set 1 rules on eth1; remove port web; remove nic eth2; add nic eth2; add port web; set 2 rules "
            "on eth1; ");
}

TEST(Diff, RulesThatLeadToANicGoBeforeItAndComeBackBehindIt) {
  Config old = base();
  old.rules.push_back({"eth1", "dst_port 7", "nic:eth2"});
  old.rules.push_back({"", "dst_port 7", "nic:eth2", 0, false, "dns"});
  Config fresh = old;
  fresh.nics["eth2"].mode = BindMode::kCopy;
  EXPECT_EQ(
      list(diff(old, fresh)),
      "set 1 rules on eth1; set 0 rules on what port dns sends; remove port web; remove nic eth2; add nic "
      "eth2; add port web; set 3 rules on eth1; set 1 rules on what port dns sends; ");
}

TEST(Diff, WritingTheUplinkThatWasTheDefaultChangesNothing) {
  Config old = base();
  old.nics.erase("eth2");
  old.ports.erase("web");
  old.rules.pop_back();
  Config fresh = old;
  fresh.ports["dns"].uplink.clear();
  EXPECT_EQ(list(diff(old, fresh)), "");
}

TEST(Diff, SecondNicTakesTheDefaultUplinkAwaySoThePortIsMadeAnew) {
  Config fresh = base();
  fresh.ports["dns"].uplink = "";
  Config old = fresh;
  old.nics.erase("eth2");
  old.ports.erase("web");
  old.rules.pop_back();
  EXPECT_EQ(list(diff(old, fresh)),
            "set 0 rules on eth1; remove port dns; add nic eth2; add port dns; add port web; set 2 rules on "
            "eth1; ");
}

Config with_guests() {
  return parse_config(R"(
[nic.eth1]
[port.dns]
type = "app"
socket = "/dns"
[port.vm0]
type = "guest"
socket = "/vm0"
mac = "52:54:00:00:00:01"
[port.vm1]
type = "guest"
socket = "/vm1"
mac = "52:54:00:00:00:02"
[port.host0]
type = "tap"
netdev = "sluice0"
mac = "52:54:00:00:00:03"
[[rule]]
port = "vm0"
match = "ip_proto udp dst_port 53"
to = "dns"
[[rule]]
port = "vm0"
match = "ip_proto tcp dst_port 25"
to = "drop"
[[rule]]
match = "dst_port 53"
to = "dns"
)",
                      "f")
      .value();
}

TEST(Diff, RulesOnWhatAPortSendsAreAStepOfTheirOwn) {
  Config fresh = with_guests();
  fresh.rules[1].to = "vm1";
  EXPECT_EQ(list(diff(with_guests(), fresh)), "set 2 rules on what port vm0 sends; ");
  fresh.rules[1].port = "host0";
  EXPECT_EQ(list(diff(with_guests(), fresh)),
            "set 1 rules on what port host0 sends; set 1 rules on what port vm0 sends; ");
}

TEST(Diff, GuestThatChangesLeavesTheOthersAlone) {
  Config fresh = with_guests();
  fresh.ports["vm1"].by_socket()->trust = true;
  EXPECT_EQ(list(diff(with_guests(), fresh)), "remove port vm1; add port vm1; ");
  fresh = with_guests();
  fresh.ports["vm0"].guest()->queue_pairs = 2;
  EXPECT_EQ(list(diff(with_guests(), fresh)),
            "remove port vm0; add port vm0; set 2 rules on what port vm0 sends; ");
  fresh = with_guests();
  fresh.ports["host0"].tap()->address = {"192.0.2.1/24"};
  EXPECT_EQ(list(diff(with_guests(), fresh)), "remove port host0; add port host0; ");
}

TEST(Diff, RulesOnAPortThatLeadToOneThatGoesAreTakenAwayFirst) {
  Config fresh = with_guests();
  fresh.ports.erase("dns");
  std::erase_if(fresh.rules, [](const RuleConfig& rule) { return rule.to == "dns"; });
  EXPECT_EQ(list(diff(with_guests(), fresh)),
            "set 0 rules on eth1; set 1 rules on what port vm0 sends; remove port dns; ");
}

TEST(Diff, ThatATapIsCalledByItsNewNameChangesNothing) {
  const std::string tap = "[port.h]\nnetdev = \"t0\"\nmac = \"52:54:00:00:00:03\"\n";
  const Config old = parse_config(tap + "type = \"host\"\n", "f").value();
  EXPECT_EQ(list(diff(old, parse_config(tap + "type = \"tap\"\n", "f").value())), "");
}

TEST(Diff, DaemonKeysAreNamed) {
  Config fresh = base();
  fresh.daemon.log = "debug";
  fresh.daemon.page_bytes = 4096;
  fresh.daemon.workers.emplace_back();
  EXPECT_EQ(list(diff(base(), fresh)),
            "daemon.page_bytes, daemon.workers changed: restart sluiced for them to take effect; set the log "
            "level to debug; ");
}

}  // namespace
}  // namespace sluice
