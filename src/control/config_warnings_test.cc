#include <gtest/gtest.h>

#include "control/config.h"

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

TEST(ConfigWarnings, SayThatADropRuleOnPortsIsNoFirewall) {
  const auto warnings = warnings_of("[[rule]]\nmatch = \"dst_port 25\"\nto = \"drop\"\n");
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("is no firewall"), std::string::npos);
  EXPECT_TRUE(warnings_of("[[rule]]\nmatch = \"ip_proto tcp\"\nto = \"drop\"\n").empty());
}

}  // namespace
}  // namespace sluice
