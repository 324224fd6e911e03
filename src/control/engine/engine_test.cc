// The engine over fake NICs and ports: every step of every kind fails once, by an error and for want of
// memory; what runs is always what current() says, and the next apply() reaches what was wanted.
#include "control/engine/engine.h"

#include <gtest/gtest.h>

#include "base/clock.h"
#include "control/engine/fake_nic.h"

namespace sluice {
namespace {

using test::Faults;

constexpr std::uint64_t kDeadlineNs = 30'000'000'000;

class EngineTest : public ::testing::Test {
 protected:
  EngineTest() {
    for (const char* netdev : {"fake0", "fake1"}) {
      machine.devices[netdev] = 100;
    }
    machine.devices["out0"] = 7;
  }

  void start(const Config& config) {
    PortTypes types;
    auto app = std::make_unique<test::FakeType>(faults, false);
    auto guest = std::make_unique<test::FakeType>(faults, true);
    types["app"] = std::move(app);
    types["guest"] = std::move(guest);
    auto made = Engine::create(
        config, {.loop = loop.get(), .types = std::move(types), .machine = &machine, .retry_ns = 1'000'000});
    ASSERT_TRUE(made) << made.error().message;
    engine = std::move(*made);
  }

  static Config nothing() {
    Config config;
    config.daemon.workers = {WorkerConfig{}};
    return config;
  }
  static void add_nic(Config& config, const std::string& netdev) { config.nics[netdev].netdev = netdev; }
  static PortConfig& add_port(Config& config, const std::string& name, const std::string& type) {
    PortConfig& port = config.ports[name];
    port.name = name;
    if (type == "app") {
      port.of_type = AppConfig{};
    } else {
      port.of_type = GuestConfig{};
    }
    port.by_socket()->socket = "/run/" + name + ".sock";
    port.uplink = "fake0";
    port.mac = {{2, 0, 0, 0, 1, static_cast<std::uint8_t>(name.front())}};
    return port;
  }
  static void add_rule(Config& config, int number, const std::string& to, const std::string& on_port = "") {
    RuleConfig& rule = config.rules.emplace_back();
    rule.match = fmt::format("ip_proto udp dst_port {}", number);
    rule.to = to;
    rule.port = on_port;
  }
  // Two states of which the way from each to the other has steps of every kind.
  static Config one_state() {
    Config config = nothing();
    add_nic(config, "fake0");
    add_nic(config, "fake1");
    add_port(config, "app", "app");
    add_port(config, "both", "guest");
    add_port(config, "guest", "guest");
    add_rule(config, 1, "app");
    add_rule(config, 2, "both");
    add_rule(config, 3, "netdev:out0");
    add_rule(config, 4, "app", "both");
    add_rule(config, 8, "nic:fake1");
    config.rules.back().nic = "fake0";
    add_rule(config, 9, "nic:fake1", "both");
    return config;
  }
  static Config other_state() {
    Config config = nothing();
    config.daemon.log = "warning";
    add_nic(config, "fake0");
    add_port(config, "both", "guest");
    add_port(config, "guest", "guest").vlan = 7;  // removed and added again
    add_port(config, "late", "app");
    add_rule(config, 2, "both");
    add_rule(config, 5, "late");
    add_rule(config, 6, "drop", "both");
    add_rule(config, 7, "guest", "guest");
    return config;
  }

  bool settle() {
    const std::uint64_t deadline = now_ns() + kDeadlineNs;
    while (!engine->at_rest() && now_ns() < deadline) {
      loop->turn(10);
    }
    return engine->at_rest();
  }
  std::set<std::string> shown(nlohmann::json rows, const char* key) {
    std::set<std::string> names;
    for (const auto& row : rows) {
      names.insert(row[key].get<std::string>());
    }
    return names;
  }
  // The operator's rules as programs have them, with the names that their ids have now.
  std::multiset<std::string> rules_of_programs() {
    std::map<PortId, std::string> names{{PortId::kKernel, "kernel"}, {PortId::kDrop, "drop"}};
    for (const auto& row : engine->show_ports()) {
      names[PortId{row["id"].get<std::uint16_t>()}] = row["name"].get<std::string>();
    }
    std::multiset<std::string> rules;
    for (const auto& [netdev, config] : engine->current().nics) {
      for (const Rule& rule : machine.nics.at(netdev)->program().rules) {
        auto name = names.find(rule.port);
        rules.insert(netdev + " to " + (name == names.end() ? "what is no port" : name->second));
      }
    }
    return rules;
  }
  std::multiset<std::string> rules_that_are_wanted() {
    std::multiset<std::string> rules;
    const Config& config = engine->current();
    for (const auto& [netdev, nic] : config.nics) {
      for (const RuleConfig& rule : rules_of(config, netdev)) {
        rules.insert(netdev + " to " +
                     (rule.to.find(':') != std::string::npos ? "what is no port" : rule.to));
      }
      for (const auto& [name, port] : config.ports) {
        if (port.guest() != nullptr && uplink_of(config, port) == netdev) {
          rules.insert(netdev + " to " + name);
        }
      }
    }
    return rules;
  }
  std::set<std::string> keys(const auto& map) {
    std::set<std::string> names;
    for (const auto& [name, value] : map) {
      names.insert(name);
    }
    return names;
  }

  // What runs is what current() says, once all is retried.
  void expect_consistent() {
    const Config& current = engine->current();
    const auto checked = check_config(current);
    EXPECT_TRUE(checked) << checked.error().message;
    EXPECT_EQ(shown(engine->show_ports(), "name"), keys(current.ports));
    ASSERT_TRUE(settle()) << "something is never done";
    EXPECT_EQ(rules_of_programs(), rules_that_are_wanted());
    for (const auto& [netdev, config] : current.nics) {
      test::FakeNic& nic = *machine.nics.at(netdev);
      std::set<PortId> attached;
      for (const auto& row : engine->show_ports()) {
        attached.insert(PortId{row["id"].get<std::uint16_t>()});
      }
      for (const auto& [other, unused] : current.nics) {
        attached.insert(machine.nics.at(other)->port());  // rules lead there, too
      }
      for (const auto& [port, entry] : nic.program().ports) {
        EXPECT_TRUE(entry.kind == PortKind::kNetdev || attached.contains(port))
            << netdev << " has an entry of port " << raw(port) << ", which is gone";
      }
      for (PortId port : attached) {
        EXPECT_TRUE(nic.program().ports.contains(port)) << netdev << " does not know port " << raw(port);
      }
      EXPECT_EQ(std::ssize(nic.served), std::ranges::count_if(current.ports, [&](const auto& port) {
                  return port.second.guest() != nullptr && uplink_of(current, port.second) == netdev;
                }));
    }
  }

  // From one state to the other, with each call failing in its turn; and back, with all well.
  void fail_each_call(const Config& from, const Config& to, Faults::Kind kind) {
    start(from);
    std::set<std::string> hit;
    for (std::uint64_t at = 1;; ++at) {
      faults = {.kind = kind, .at = at};
      bool failed = false;
      try {
        failed = !engine->apply(to);
      } catch (const std::bad_alloc&) {
        failed = true;
      }
      const std::string at_what = faults.hit;
      faults = {};
      SCOPED_TRACE(fmt::format("call {}: {}", at, at_what));
      if (at_what.empty()) {
        EXPECT_FALSE(failed);
        break;
      }
      hit.insert(at_what);
      expect_consistent();
      const auto reached = engine->apply(to);
      ASSERT_TRUE(reached) << reached.error().message;
      EXPECT_EQ(engine->current(), after_diff(from, to));
      expect_consistent();
      const auto back = engine->apply(from);
      ASSERT_TRUE(back) << back.error().message;
      EXPECT_EQ(engine->current(), from);
      expect_consistent();
      if (HasFailure()) {
        return;
      }
      if (at % 8 == 0) {
        rest();
      }
    }
    for (const char* call : {"make", "replace_rules", "set_port", "serve_addresses", "clear_rule_count"}) {
      EXPECT_TRUE(hit.contains(call)) << call << " has not failed";
    }
  }
  // Ids that were given back are free again before there are none left.
  void rest() {
    const std::uint64_t until = now_ns() + 250'000'000;
    while (now_ns() < until) {
      loop->turn(1);
    }
  }

  Faults faults;
  test::FakeMachine machine{faults};
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create().value());
  std::unique_ptr<Engine> engine;
};

TEST_F(EngineTest, WhatIsConfiguredRunsAndWhatIsNotDoesNot) {
  start(one_state());
  expect_consistent();
  ASSERT_TRUE(engine->apply(other_state()));
  expect_consistent();
  ASSERT_TRUE(engine->apply(nothing()));
  expect_consistent();
  EXPECT_TRUE(engine->show_rules().empty());
}

TEST_F(EngineTest, EachCallThatFailsOnTheWayLeavesAStateThatRunsAndCanBeGoneOnFrom) {
  fail_each_call(one_state(), other_state(), Faults::Kind::kError);
}

TEST_F(EngineTest, EachCallThatFailsOnTheWayBackDoesSoToo) {
  fail_each_call(other_state(), one_state(), Faults::Kind::kError);
}

TEST_F(EngineTest, SoDoesEachForWhichThereIsNoMemory) {
  fail_each_call(one_state(), other_state(), Faults::Kind::kNoMemory);
}

TEST_F(EngineTest, SoDoesEachForWhichThereIsNoMemoryOnTheWayBack) {
  fail_each_call(other_state(), one_state(), Faults::Kind::kNoMemory);
}

TEST_F(EngineTest, TheRulesToAPortThatGoesAreTakenAwayLaterWhereTheyCannotBeAtOnce) {
  start(one_state());
  test::FakeProgram& program = machine.nics.at("fake0")->program();
  const PortId app{engine->show_ports()[0]["id"].get<std::uint16_t>()};
  ASSERT_TRUE(program.leads_to(app));
  program.refuses_rules = true;
  Config without = one_state();
  without.ports.erase("app");
  std::erase_if(without.rules, [](const RuleConfig& rule) { return rule.to == "app"; });
  EXPECT_FALSE(engine->apply(without));
  EXPECT_FALSE(engine->current().ports.contains("app"));
  EXPECT_TRUE(program.leads_to(app)) << "the program did not take the new ones";
  EXPECT_FALSE(program.ports.contains(app)) << "but what they lead to is gone";
  EXPECT_FALSE(engine->at_rest());
  program.refuses_rules = false;
  expect_consistent();
  EXPECT_FALSE(program.leads_to(app));
}

TEST_F(EngineTest, ANicWhoseDeviceIsThereLaterIsAttachedThenWithAllItsRules) {
  start(one_state());
  machine.devices.erase("fake1");
  Config other = one_state();
  other.nics["fake1"].ring = 1024;
  EXPECT_FALSE(engine->apply(other)) << "there is no such device";
  EXPECT_FALSE(engine->current().nics.contains("fake1"));
  machine.devices["fake1"] = 101;
  ASSERT_TRUE(engine->apply(other));
  EXPECT_EQ(engine->current(), other);
  expect_consistent();
}

TEST_F(EngineTest, ABadConfigChangesNothing) {
  start(one_state());
  faults = {.kind = Faults::Kind::kError, .at = 1};
  Config bad = one_state();
  add_rule(bad, 9, "nobody");
  EXPECT_FALSE(engine->apply(bad));
  EXPECT_EQ(faults.calls, 0u);
  EXPECT_EQ(engine->current(), one_state());
}

}  // namespace
}  // namespace sluice
