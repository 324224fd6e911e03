#include "control/rpc/serve.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "control/check_mode.h"
#include "control/config/model_target.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr const char* kConfig = R"(
[nic.eth1]
[nic.eth2]
[port.dns]
type = "app"
socket = "/run/sluice/dns.sock"
mac = "02:00:00:00:00:05"
uplink = "eth1"
[[rule]]
nic = "eth1"
match = "dst_port 53"
to = "dns"
priority = 100
[[rule]]
match = "ip_proto udp"
to = "kernel"
)";

class Serve : public ::testing::Test {
 protected:
  Serve() : target_(parse_config(kConfig, "f").value()) {
    char folder[] = "/tmp/sluice-serve-XXXXXX";
    folder_ = ::mkdtemp(folder);
    path_ = folder_ + "/sluice.toml";
    write(kConfig);
    serve(methods_, target_, path_);
  }
  ~Serve() override { std::filesystem::remove_all(folder_); }

  void write(const std::string& text) { std::ofstream(path_) << text; }
  json ask(const std::string& method, const json& params = json::object()) {
    return json::parse(
        *methods_.handle(json{{"jsonrpc", "2.0"}, {"id", 1}, {"method", method}, {"params", params}}.dump()));
  }
  json result(const std::string& method, const json& params = json::object()) {
    json reply = ask(method, params);
    EXPECT_TRUE(reply.contains("result")) << reply;
    return reply.value("result", json());
  }
  std::string error(const std::string& method, const json& params = json::object()) {
    json reply = ask(method, params);
    EXPECT_TRUE(reply.contains("error")) << reply;
    return reply.contains("error") ? reply["error"]["message"].get<std::string>() : "";
  }

  std::string folder_, path_;
  ModelTarget target_;
  RpcMethods methods_;
};

TEST_F(Serve, ShowsWhatTheTargetShows) {
  EXPECT_EQ(result("show.nics"), (json{{{"name", "eth1"}}, {{"name", "eth2"}}}));
  EXPECT_EQ(result("show.ports"), (json{{{"name", "dns"}}}));
  EXPECT_EQ(result("show.rules").size(), 3u);
  EXPECT_EQ(result("show.queues"), json::array());
  EXPECT_EQ(result("show.pools"), json::array());
  EXPECT_EQ(result("show.counters"), (json{{"nic.eth1.rx_packets", 5}}));
  EXPECT_EQ(result("version")["app_abi"], 2);
}

TEST_F(Serve, ConfigThatIsShownCanBeReadAgain) {
  json shown = result("show.config");
  EXPECT_EQ(shown["file"], path_);
  EXPECT_EQ(parse_config(shown["toml"].get<std::string>(), "f").value(), target_.current());
}

TEST_F(Serve, AddsARuleBehindTheOthers) {
  EXPECT_EQ(result("rule.add", {{"match", "dst_port 54"}, {"to", "dns"}, {"shed", true}}),
            (json{{"warnings", json::array()}}));
  EXPECT_EQ(target_.current().rules.back(), (RuleConfig{"", "dst_port 54", "dns", 0, true}));
  json warned = result("rule.add", {{"match", "dst_port 53"}, {"to", "kernel"}, {"nic", "eth1"}});
  ASSERT_EQ(warned["warnings"].size(), 1u);
  EXPECT_NE(warned["warnings"][0].get<std::string>().find("never matches on eth1"), std::string::npos);
}

TEST_F(Serve, RefusesARuleAsTheConfigFileWould) {
  Config before = target_.current();
  EXPECT_EQ(error("rule.add", {{"match", ""}, {"to", "dsn"}}),
            "rule.to: there is no port \"dsn\"; did you mean \"dns\"?");
  EXPECT_EQ(error("rule.add", {{"match", ""}}), "rule.add: parameter to is missing; it must be a string");
  EXPECT_EQ(error("rule.add", {{"match", "dst_port 53"}, {"to", "drop"}, {"nic", "eth1"}, {"priority", 100}}),
            "rule: there is one with this match and priority already, to dns; remove it first or choose "
            "another priority");
  EXPECT_EQ(error("rule.add", {{"match", ""}, {"to", "drop"}, {"priority", std::int64_t{1} << 40}}),
            "rule.priority is 1099511627776; it must be a number from -2147483648 to 2147483647");
  EXPECT_EQ(target_.current(), before);
}

TEST_F(Serve, RemovesTheOneRuleThatFits) {
  EXPECT_EQ(result("rule.del", {{"match", "dst_port 53"}})["removed"]["to"], "dns");
  EXPECT_EQ(target_.current().rules.size(), 1u);
  EXPECT_EQ(error("rule.del", {{"match", "dst_port 53"}}),
            "there is no rule with match \"dst_port 53\"; see `sluicectl show rules`");
  result("rule.add", {{"match", "ip_proto udp"}, {"to", "drop"}, {"priority", 7}});
  EXPECT_EQ(error("rule.del", {{"match", "ip_proto udp"}}),
            "2 rules have this match; say also to, priority, nic or port");
  result("rule.del", {{"match", "ip_proto udp"}, {"priority", 7}});
  EXPECT_EQ(target_.current().rules, (std::vector<RuleConfig>{{"", "ip_proto udp", "kernel"}}));
  EXPECT_EQ(error("rule.del"), "rule.del takes either a match or an id");
}

TEST_F(Serve, RulesOnWhatAPortSendsAreAddedAndRemovedByPort) {
  result("port.add", {{"name", "vm0"}, {"type", "guest"}, {"socket", "/vm0"}, {"mac", "52:54:00:00:00:01"}});
  EXPECT_EQ(result("show.guests").size(), 1u);
  json rule{{"port", "vm0"}, {"match", "dst_port 53"}, {"to", "dns"}};
  result("rule.add", rule);
  EXPECT_EQ(
      error("rule.add", rule),
      "rule: there is one with this match and priority already, to dns; remove it first or choose another "
      "priority");
  EXPECT_EQ(error("rule.del", {{"match", "dst_port 53"}}),
            "2 rules have this match; say also to, priority, nic or port");
  EXPECT_EQ(error("rule.del", {{"match", "dst_port 53"}, {"port", "vm0"}, {"nic", "eth1"}}),
            "rule.del takes a nic or a port: a rule stands on one of them");
  EXPECT_EQ(error("rule.del", {{"id", 7}, {"port", "vm0"}}),
            "there is no rule 7 on what port vm0 sends; see `sluicectl show rules`");
  EXPECT_EQ(error("port.del", {{"name", "vm0"}}),
            "the rule \"dst_port 53\" stands on what port vm0 sends; remove it first");
  EXPECT_EQ(result("rule.del", {{"id", 0}, {"port", "vm0"}})["removed"]["port"], "vm0");
  result("rule.add", rule);
  EXPECT_EQ(result("rule.del", {{"match", "dst_port 53"}, {"port", "vm0"}})["removed"]["port"], "vm0");
  EXPECT_EQ(target_.current().rules.size(), 2u) << "the NIC's rules stand as before";
  result("port.del", {{"name", "vm0"}});
}

TEST_F(Serve, RemovesARuleByItsId) {
  EXPECT_EQ(error("rule.del", {{"id", 1}}),
            "there are several NICs and each counts its rules; say also which nic");
  EXPECT_EQ(error("rule.del", {{"id", 9}, {"nic", "eth1"}}),
            "there is no rule 9 on eth1; see `sluicectl show rules`");
  result("rule.del", {{"id", 0}, {"nic", "eth2"}});  // stands on both NICs, and goes from both
  EXPECT_EQ(target_.current().rules, (std::vector<RuleConfig>{{"eth1", "dst_port 53", "dns", 100}}));
}

TEST_F(Serve, AddsAndRemovesPorts) {
  json params{{"name", "web"}, {"type", "app"},        {"socket", "/w"},
              {"pages", 64},   {"queues", {"eth2:1"}}, {"allow_users", {"root"}}};
  EXPECT_EQ(result("port.add", params)["warnings"],
            (json{"port web receives nothing: no rule has to = \"web\""}));
  EXPECT_EQ(target_.current().ports.at("web").app()->queues, (std::vector<QueueName>{{"eth2", 1}}));
  EXPECT_EQ(error("port.add", params),
            "there is a port \"web\" already; remove it first or choose another name");
  params["name"] = "ids";
  EXPECT_EQ(error("port.add", params),
            "port.web.queues: eth2:1 is owned by port ids already; a queue has one owner");
  EXPECT_EQ(error("port.del", {{"name", "dns"}}),
            "the rule \"dst_port 53\" leads to port dns; remove it first");
  EXPECT_EQ(error("port.del", {{"name", "wbe"}}), "there is no port \"wbe\"; see `sluicectl show ports`");
  result("port.del", {{"name", "web"}});
  EXPECT_FALSE(target_.current().ports.contains("web"));
}

TEST_F(Serve, ReloadGoesBackToTheFileAndSaysHow) {
  result("rule.add", {{"match", "dst_port 54"}, {"to", "dns"}});
  json done = result("reload");
  EXPECT_EQ(done["actions"], (json{"set 2 rules on eth1", "set 1 rules on eth2"}));
  EXPECT_EQ(target_.current(), parse_config(kConfig, "f").value());
  EXPECT_EQ(result("reload"), (json{{"actions", json::array()}, {"warnings", json::array()}}));
  write(std::string(kConfig) + "[daemon]\npage_bytes = 4096\n");
  EXPECT_EQ(result("reload")["warnings"],
            (json{"daemon.page_bytes changed: restart sluiced for it to take effect"}));
}

TEST_F(Serve, BadFileChangesNothing) {
  Config before = target_.current();
  write("[nic.eth1]\nring = 3\n");
  EXPECT_EQ(error("reload"), path_ + ":2: nic.eth1.ring is 3; it must be a power of two from 64 to 32768");
  EXPECT_EQ(target_.current(), before);
}

TEST_F(Serve, PassesOnWhatTheMachineRefuses) {
  target_.refuses = true;
  EXPECT_EQ(error("rule.add", {{"match", ""}, {"to", "drop"}}), "the machine says no");
  write("[nic.eth1]\n");
  EXPECT_EQ(error("reload"), "the machine says no");
}

TEST_F(Serve, CheckModeSumsUpWarnsAndNamesErrors) {
  auto check = [&](const std::string& text, int status) {
    write(text);
    char* buffer = nullptr;
    std::size_t size = 0;
    std::FILE* out = ::open_memstream(&buffer, &size);
    EXPECT_EQ(check_config_file(path_, out, out), status);
    std::fclose(out);
    std::string said(buffer, size);
    std::free(buffer);
    return said;
  };
  EXPECT_EQ(check(kConfig, 0), path_ + ": ok\n  1 worker, 2 NICs, 1 port, 2 rules\n");
  EXPECT_EQ(check("", 0),
            path_ +
                ": ok\n  1 worker, 0 NICs, 0 ports, 0 rules\n"
                "  warning: no NIC is configured: no packet comes from the wire; add a section [nic.NAME]\n");
  EXPECT_EQ(
      check("\n[bogus]\n", 1),
      path_ + ":2: bogus is not a section that Sluice knows; known sections: daemon, nic, port, rule\n");
}

}  // namespace
}  // namespace sluice
