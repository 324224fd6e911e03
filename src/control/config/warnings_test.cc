#include <gtest/gtest.h>

#include <algorithm>

#include "control/config/config.h"
#include "control/config/samples.h"

namespace sluice {
namespace {

std::vector<std::string> warnings_of(const std::string& more) {
  const std::string base =
      "[nic.eth1]\n"
      "[port.dns]\ntype = \"app\"\nsocket = \"/dns\"\nqueues = [\"eth1:1\"]\n"
      "[[rule]]\nmatch = \"dst_port 53\"\nto = \"dns\"\n";
  return config_warnings(parse_config(base + more, "f").value());
}

TEST(ConfigWarnings, D5_NameMembersBehindTheNicOfAnOwnedQueue) {
  EXPECT_EQ(
      warnings_of("[port.vm0]\ntype = \"guest\"\nsocket = \"/vm0\"\nmac = \"52:54:00:00:00:01\"\n"),
      (std::vector<std::string>{"port dns owns eth1:1: packets for vm0 that arrive there are dropped as "
                                "drop_owned_queue; steer them to another queue (ethtool -N eth1), or let "
                                "dns share the queues"}));
}

TEST(ConfigWarnings, D5_NameANicThatPacketsOfAnOwnedQueueAreFor) {
  EXPECT_EQ(
      warnings_of("[nic.eth2]\n[[rule]]\nnic = \"eth1\"\nmatch = \"dst_port 7\"\nto = \"nic:eth2\"\n"),
      (std::vector<std::string>{"port dns owns eth1:1: packets for nic:eth2 that arrive there are dropped as "
                                "drop_owned_queue; steer them to another queue (ethtool -N eth1), or let "
                                "dns share the queues"}));
}

TEST(ConfigWarnings, SayThatNothingLeavesByANicWhoseQueuesAreAllOwned) {
  const std::string more =
      "[nic.eth2]\nqueues = [0]\n[port.web]\ntype = \"app\"\nsocket = \"/web\"\nqueues = [\"eth2:0\"]\n"
      "[[rule]]\nport = \"dns\"\nmatch = \"\"\nto = \"nic:eth2\"\n"
      "[[rule]]\nnic = \"eth2\"\nmatch = \"dst_port 7\"\nto = \"web\"\n";
  const auto warnings = warnings_of(more);
  EXPECT_EQ(
      std::ranges::count(warnings,
                         "rules lead to nic:eth2, and ports own all its queues: nothing can leave by it; "
                         "give it one that no port owns"),
      1);
}

TEST(ConfigWarnings, SayThatADropRuleOnPortsIsNoFirewall) {
  const auto warnings = warnings_of("[[rule]]\nmatch = \"dst_port 25\"\nto = \"drop\"\n");
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("is no firewall"), std::string::npos);
  EXPECT_TRUE(warnings_of("[[rule]]\nmatch = \"ip_proto tcp\"\nto = \"drop\"\n").empty());
}

TEST(ConfigWarnings, SayWhatATrustedGuestMayDoAndWhoseAddressAnAppSendsFrom) {
  Config config =
      parse_config(std::string(kSwitchPorts) +
                       "[port.web]\ntype = \"app\"\nsocket = \"/w\"\nmac = \"52:54:00:00:00:01\"\n"
                       "uplink = \"eth1\"\n"
                       "[[rule]]\nport = \"vm0\"\nmatch = \"ip_proto tcp\"\nto = \"web\"\n",
                   "f")
          .value();
  config.ports["vm0"].by_socket()->trust = true;
  EXPECT_EQ(
      config_warnings(config),
      (std::vector<std::string>{
          "port vm0 has trust = true: it can send from any address and into any VLAN, those of other ports "
          "too",
          "port web can send from 52:54:00:00:00:01, which is port vm0's address"}));
}

TEST(ConfigWarnings, SayThatAnAppWithAnUplinkNeedsAnAddress) {
  const std::string web = "[port.web]\ntype = \"app\"\nsocket = \"/w\"\nuplink = \"eth1\"\n";
  const std::string to_web = "[[rule]]\nport = \"dns\"\nmatch = \"\"\nto = \"web\"\n";
  EXPECT_EQ(
      warnings_of(web + to_web),
      (std::vector<std::string>{"port web has an uplink and sends nothing: it has no address; add mac = "
                                "\"...\", one that is no guest's, or leave out uplink"}));
  EXPECT_TRUE(warnings_of(web + "mac = \"02:00:00:00:00:05\"\n" + to_web).empty());
}

TEST(ConfigWarnings, SayWhenARuleTakesWhatIsForAddresses) {
  Config config = parse_config(std::string(kSwitchPorts) +
                                   "[[rule]]\nnic = \"eth1\"\nmatch = \"\"\nto = \"drop\"\n"
                                   "[[rule]]\nport = \"vm0\"\nmatch = \"\"\nto = \"drop\"\n"
                                   "[[rule]]\nport = \"vm0\"\nmatch = \"dst_port 1\"\nto = \"host0\"\n",
                               "f")
                      .value();
  EXPECT_EQ(
      config_warnings(config),
      (std::vector<std::string>{
          "rule 3 (match \"dst_port 1\" to host0) never matches on vm0: rule 2 (match \"\" to drop) comes "
          "first",
          "port host0 gets no unicast from eth1: rule 1 (match \"\" to drop) takes everything ahead of "
          "addresses",
          "port vm0 gets no unicast from eth1: rule 1 (match \"\" to drop) takes everything ahead of "
          "addresses"}));
  config.rules.clear();
  config.ports["vm0"].uplink = "";
  EXPECT_EQ(
      config_warnings(config),
      (std::vector<std::string>{
          "port vm0 reaches no wire: there are several NICs and it names none; add uplink = \"eth1\""}));
}

TEST(ConfigWarnings, SayWhenAPortWouldGetItsOwnFramesBack) {
  Config config = parse_config(
                      "[port.vm0]\ntype = \"guest\"\nsocket = \"/g\"\nmac = \"52:54:00:00:00:01\"\n"
                      "[nic.eth1]\n[[rule]]\nport = \"vm0\"\nmatch = \"\"\nto = \"vm0\"\n",
                      "f")
                      .value();
  EXPECT_EQ(config_warnings(config),
            (std::vector<std::string>{
                "port vm0 gets its own frames back by rule 1 (match \"\" to vm0): a loop, for measuring"}));
}

TEST(ConfigWarnings, SayThatAnybodyMayBeTheFrontEndThatIsConnectedTo) {
  const std::string text =
      "[nic.eth1]\n[port.vm0]\ntype = \"guest\"\nrole = \"client\"\nsocket = \"/g\"\n"
      "mac = \"52:54:00:00:00:01\"\n";
  EXPECT_EQ(config_warnings(parse_config(text, "f").value()),
            (std::vector<std::string>{
                "port vm0 connects to whoever made /g: add allow_users with the front-end's user"}));
  EXPECT_TRUE(config_warnings(parse_config(text + "allow_users = [\"root\"]\n", "f").value()).empty());
}

TEST(ConfigWarnings, SayOnceWhatToWriteForTheEarlierNameOfATap) {
  const std::string text =
      "[nic.eth1]\n[port.h0]\ntype = \"host\"\nnetdev = \"h0\"\nmac = \"52:54:00:00:00:01\"\n"
      "[port.h1]\ntype = \"host\"\nnetdev = \"h1\"\nmac = \"52:54:00:00:00:02\"\n";
  Config config = parse_config(text, "f").value();
  EXPECT_EQ(config_warnings(config),
            (std::vector<std::string>{"type = \"host\" is the earlier name of \"tap\" and goes with the next "
                                      "release: write type = \"tap\" for port h0, h1"}));
  EXPECT_EQ(config.ports["h0"].type(), "tap");
  EXPECT_TRUE(config_warnings(parse_config(to_toml(config), "f").value()).empty()) << to_toml(config);
}

}  // namespace
}  // namespace sluice
