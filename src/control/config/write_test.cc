#include <gtest/gtest.h>

#include "control/config/json.h"
#include "control/config/random_config.h"

namespace sluice {
namespace {

TEST(ConfigWrite, Model_IsReadBackAsTheSameConfig) {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    Config config = RandomConfig(seed).make();
    ASSERT_TRUE(check_config(config)) << check_config(config).error().message;
    std::string text = to_toml(config);
    auto again = parse_config(text, "f");
    ASSERT_TRUE(again) << again.error().message << "\n" << text;
    ASSERT_EQ(*again, config) << text;
  }
}

TEST(ConfigWrite, LeavesOutWhatIsTheDefault) {
  Config config = parse_config("[nic.eth1]\n[port.p]\ntype = \"app\"\nsocket = \"/s\"\n", "f").value();
  EXPECT_EQ(to_toml(config),
            "[daemon]\ncontrol = \"/run/sluice/control.sock\"\nworkers = [{}]\n\n[nic.eth1]\nqueues = "
            "\"all\"\n\n[port.p]\ntype = "
            "\"app\"\nsocket = \"/s\"\n");
}

TEST(ConfigJson, HasTheKeysOfTheFile) {
  auto port = port_from_json("dns", {{"type", "app"},
                                     {"socket", "/s"},
                                     {"allow_users", {"root", 103}},
                                     {"pages", 64},
                                     {"queues", {"eth1:1"}},
                                     {"mac", "02:00:00:00:00:01"},
                                     {"observe", true},
                                     {"uplink", nullptr}});
  ASSERT_TRUE(port) << port.error().message;
  PortConfig expected;
  expected.name = "dns";
  expected.mac = {{2, 0, 0, 0, 0, 1}};
  AppConfig& app = expected.of_type.emplace<AppConfig>();
  app.socket = "/s";
  app.allow_users = {"root", "103"};
  app.pages = 64;
  app.queues = {{"eth1", 1}};
  app.observe = true;
  EXPECT_EQ(*port, expected);
  auto rule = rule_from_json(
      {{"match", "dst_port 53"}, {"to", "dns"}, {"priority", -3}, {"shed", true}, {"nic", "eth1"}});
  ASSERT_TRUE(rule) << rule.error().message;
  EXPECT_EQ(*rule, (RuleConfig{"eth1", "dst_port 53", "dns", -3, true}));
}

TEST(ConfigJson, HasGuestsTapsAndRulesOnPorts) {
  auto guest = port_from_json(
      "vm0",
      {{"type", "guest"}, {"socket", "/s"}, {"mac", {"02:00:00:00:00:01"}}, {"vlan", 7}, {"trust", true}});
  ASSERT_TRUE(guest) << guest.error().message;
  PortConfig expected;
  expected.name = "vm0";
  expected.mac = {{2, 0, 0, 0, 0, 1}};
  expected.vlan = 7;
  expected.of_type.emplace<GuestConfig>().socket = "/s";
  expected.by_socket()->trust = true;
  EXPECT_EQ(*guest, expected);
  auto tap = port_from_json(
      "h", {{"type", "tap"}, {"netdev", "t0"}, {"mac", "02:00:00:00:00:01"}, {"address", "10.0.0.1/8"}});
  ASSERT_TRUE(tap) << tap.error().message;
  EXPECT_EQ(tap->tap()->address, (std::vector<std::string>{"10.0.0.1/8"}));
  auto rule = rule_from_json({{"match", ""}, {"to", "drop"}, {"port", "vm0"}});
  ASSERT_TRUE(rule) << rule.error().message;
  EXPECT_EQ(rule->port, "vm0");
}

TEST(ConfigJson, HasTheSentencesOfTheFileWithoutAPlace) {
  auto message = [](const nlohmann::json& object) {
    auto port = port_from_json("dns", object);
    return port ? std::string() : port.error().message;
  };
  EXPECT_EQ(message({{"type", "app"}, {"socket", "/s"}, {"pages", 1}}),
            "port.dns.pages is 1; it must be a number from 64 to 1048576");
  EXPECT_EQ(message({{"type", "app"}, {"socket", "/s"}, {"pages", UINT64_MAX}}),
            "port.dns.pages is 9223372036854775807; it must be a number from 64 to 1048576");
  EXPECT_EQ(message({{"type", "app"}, {"socket", "/s"}, {"pages", {{"a", 1}}}}),
            "port.dns.pages is a fraction; it must be a number from 64 to 1048576");
  EXPECT_EQ(message({{"type", "guest"}}),
            "port.dns has no socket; write for example socket = \"/run/sluice/dns.sock\"");
  EXPECT_EQ(message({{"type", "app"}}),
            "port.dns has no socket; write for example socket = \"/run/sluice/dns.sock\"");
  EXPECT_EQ(message(nlohmann::json::array()), "the parameters are not an object; write names and values");
}

}  // namespace
}  // namespace sluice
