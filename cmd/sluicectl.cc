// sluicectl: looks at a running sluiced, and changes it.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <optional>
#include <thread>

#include "base/clock.h"
#include "control/rpc/api.h"
#include "control/rpc/client.h"
#include "control/rpc/protocol.h"
#include "control/show/rates.h"
#include "control/show/render.h"

namespace sluice {
namespace {

using nlohmann::json;

struct Options {
  std::string socket = "/run/sluice/control.sock";
  bool as_json = false;
  int timeout_ms = 5000;
};

using Render = std::string (*)(const json&);
using Action = std::function<Result<void>()>;  // what the chosen subcommand does

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

Result<json> call(const Options& options, std::string_view method, const json& params = json::object()) {
  auto client = SLUICE_TRY(RpcClient::connect(options.socket, options.timeout_ms));
  return client.call(std::string(method), params);
}

// Calls and prints: the result itself with --json, else what `render` makes of it, and warnings on stderr.
Result<void> call_and_print(const Options& options, std::string_view method, const json& params,
                            Render render) {
  auto result = SLUICE_TRY(call(options, method, params));
  if (options.as_json) {
    print(rpc_text(result) + "\n");
    return {};
  }
  print(render(result));
  if (result.is_object() && result.contains("warnings")) {
    for (const json& warning : result["warnings"]) {
      fmt::print(stderr, "sluicectl: warning: {}\n", warning.get<std::string>());
    }
  }
  return {};
}

std::string say_nothing(const json&) {
  return "";
}

std::string render_reload(const json& result) {
  std::string out;
  for (const json& action : result.value("actions", json::array())) {
    out += action.get<std::string>() + "\n";
  }
  return out.empty() ? "nothing changed\n" : out;
}

std::string render_version(const json& result) {
  return result.value("version", "-") + "\n";
}

struct Show {
  const char* name;
  const char* help;
  std::string_view method;
  Render render;
};
constexpr Show kShows[] = {
    {"nics", "network cards and what their XDP programs did", api::kShowNics, render_nics},
    {"queues", "RX queues: who owns them, which worker serves them", api::kShowQueues, render_queues},
    {"ports", "ports: who is attached, pages held, packets by zero copy and by copy", api::kShowPorts,
     render_ports},
    {"guests", "guest ports: features, memory and rings of who is attached", api::kShowGuests, render_guests},
    {"rules", "rules, with their packets and bytes", api::kShowRules, render_rules},
    {"pools", "page pools", api::kShowPools, render_pools},
    {"counters", "all counters", api::kShowCounters, render_counters},
    {"config", "the running state as a config file", api::kShowConfig, render_config},
};

void add_show(CLI::App& app, const Options& options, Action& action) {
  CLI::App* show = app.add_subcommand("show", "print what is there");
  show->require_subcommand(1);
  for (const Show& what : kShows) {
    show->add_subcommand(what.name, what.help)->callback([&options, &action, &what] {
      action = [&options, &what] {
        return call_and_print(options, what.method, json::object(), what.render);
      };
    });
  }
}

struct RuleOptions {
  std::string nic, port, match, to;
  int priority = 0;
  unsigned id = 0;
  bool shed = false;
};

void add_rule(CLI::App& app, const Options& options, RuleOptions& rule, Action& action) {
  CLI::App* parent =
      app.add_subcommand("rule", "add or remove a rule; until the next reload, which goes back to the file");
  parent->require_subcommand(1);
  CLI::App* add = parent->add_subcommand("add", "send packets that match to a port");
  CLI::Option* nic = add->add_option("--nic", rule.nic, "the NIC; every NIC when left out");
  add->add_option("--port", rule.port, "what this port sends, instead of what comes from NICs")
      ->excludes(nic);
  add->add_option("--match", rule.match, "for example \"ip_proto udp dst_port 53\"; \"\" matches everything")
      ->required();
  add->add_option("--to", rule.to, "a port, kernel, drop or netdev:NAME")->required();
  add->add_option("--priority", rule.priority, "the highest that matches wins")->capture_default_str();
  add->add_flag("--shed", rule.shed, "drop these packets first when the port runs short of pages");
  add->callback([&, add] {
    action = [&, add]() -> Result<void> {
      json params{{"match", rule.match}, {"to", rule.to}, {"priority", rule.priority}, {"shed", rule.shed}};
      if (add->count("--nic") > 0) {
        params["nic"] = rule.nic;
      }
      if (add->count("--port") > 0) {
        params["port"] = rule.port;
      }
      return call_and_print(options, api::kRuleAdd, params, say_nothing);
    };
  });
  CLI::App* del =
      parent->add_subcommand("del", "remove the rule with this match, or with this id (show rules)");
  CLI::Option* of_nic = del->add_option("--nic", rule.nic, "the NIC that the rule was made for");
  del->add_option("--port", rule.port, "the port on whose packets the rule stands")->excludes(of_nic);
  CLI::Option* match = del->add_option("--match", rule.match, "the rule's match");
  CLI::Option* id = del->add_option("--id", rule.id, "the rule's id on that NIC or port")->excludes(match);
  del->add_option("--to", rule.to, "where the rule leads")->excludes(id);
  del->add_option("--priority", rule.priority, "the rule's priority")->excludes(id);
  del->callback([&, del] {
    if (del->count("--match") + del->count("--id") == 0) {
      throw CLI::RequiredError("--match or --id");
    }
    action = [&, del]() -> Result<void> {
      json params = json::object();
      auto put = [&](const char* option, const char* name, const json& value) {
        if (del->count(option) > 0) {
          params[name] = value;
        }
      };
      put("--nic", "nic", rule.nic);
      put("--port", "port", rule.port);
      put("--match", "match", rule.match);
      put("--id", "id", rule.id);
      put("--to", "to", rule.to);
      put("--priority", "priority", rule.priority);
      return call_and_print(options, api::kRuleDel, params, say_nothing);
    };
  });
}

struct PortOptions {
  std::string name, type = "app";
  json keys = json::object();  // of [port.NAME], those that were given
};

// One option of `port add`: what it is called here, which key of the config it is, and what it says in the
// help.
struct PortKey {
  const char* option;
  const char* key;
  enum class Kind : std::uint8_t { kText, kNumber, kList, kFlag } kind;
  const char* help;
};
using Kind = PortKey::Kind;

// sluiced says which key belongs to which type. A list's option may be given more than once.
constexpr PortKey kPortKeys[] = {
    {"--socket", "socket", Kind::kText, "app, guest: path of the Unix socket"},
    {"--allow-user", "allow_users", Kind::kList,
     "app, guest: who may attach (without any --allow-: root and the daemon's user)"},
    {"--allow-group", "allow_groups", Kind::kList, "app, guest: a group whose members may attach"},
    {"--allow-cgroup", "allow_cgroup", Kind::kText, "app, guest: only from this cgroup (v2) or below"},
    {"--mac", "mac", Kind::kList, "an address that it has, or an app may send from"},
    {"--vlan", "vlan", Kind::kNumber, "access VLAN"},
    {"--uplink", "uplink", Kind::kText, "the NIC that its frames leave by"},
    {"--trust", "trust", Kind::kFlag, "app, guest: do not check its source addresses and tags"},
    {"--source-ip", "source_ip", Kind::kList, "an address or prefix that it may send from"},
    {"--frame-rate", "frame_rate", Kind::kNumber, "frames a second that it may send"},
    {"--broadcast-rate", "broadcast_rate", Kind::kNumber, "the same for frames to group addresses"},
    {"--stall-budget-us", "stall_budget_us", Kind::kNumber,
     "app, guest: what it may cost a worker in a window beyond what its packets justify"},
    {"--stall-window-ms", "stall_window_ms", Kind::kNumber, "app, guest: the length of that window"},
    {"--pages", "pages", Kind::kNumber, "app: most pages that the program may hold"},
    {"--ring", "ring", Kind::kNumber, "app: entries of the receive ring per worker"},
    {"--queue", "queues", Kind::kList, "app: a NIC queue that it owns, NIC:QUEUE"},
    {"--attach-rate", "attach_rate", Kind::kNumber, "app: sessions that may begin a second; 0: no limit"},
    {"--stall-timeout-ms", "stall_timeout_ms", Kind::kNumber,
     "app: cut it off when it holds its limit for so long"},
    {"--observe", "observe", Kind::kFlag, "app: its own queues may show it what is for others"},
    {"--mode", "mode", Kind::kText, "guest, host: bridge, vepa or private"},
    {"--role", "role", Kind::kText, "guest: server (sluiced listens) or client"},
    {"--queue-pairs", "queue_pairs", Kind::kNumber, "guest: most that it is offered"},
    {"--memory", "memory", Kind::kText, "guest: most memory that it may give, \"64GiB\""},
    {"--populate", "populate", Kind::kFlag, "guest: fault its memory in before its rings start"},
    {"--sealed-memory", "sealed_memory", Kind::kFlag, "guest: its memory must be sealed against shrinking"},
    {"--netdev", "netdev", Kind::kText, "host: name of the network device that is made"},
    {"--address", "address", Kind::kList, "host: its IP address with prefix"},
    {"--mtu", "mtu", Kind::kNumber, "host: of the device"},
};

template <typename T>
void add_port_key(CLI::App& add, const PortKey& key, json& keys) {
  add.add_option_function<T>(
      key.option, [&keys, name = key.key](const T& value) { keys[name] = value; }, key.help);
}

void add_port_keys(CLI::App& add, json& keys) {
  for (const PortKey& key : kPortKeys) {
    switch (key.kind) {
      case Kind::kText:
        add_port_key<std::string>(add, key, keys);
        break;
      case Kind::kNumber:
        add_port_key<std::uint32_t>(add, key, keys);
        break;
      case Kind::kList:
        add_port_key<std::vector<std::string>>(add, key, keys);
        break;
      case Kind::kFlag:
        add.add_flag_callback(key.option, [&keys, name = key.key] { keys[name] = true; }, key.help);
        break;
    }
  }
}

void add_port(CLI::App& app, const Options& options, PortOptions& port, Action& action) {
  CLI::App* parent =
      app.add_subcommand("port", "add or remove a port; until the next reload, which goes back to the file");
  parent->require_subcommand(1);
  CLI::App* add =
      parent->add_subcommand("add", "make a port for a program or a guest to attach to, or for the host");
  add->add_option("name", port.name, "the port's name")->required();
  add->add_option("--type", port.type, "app, guest or host")->capture_default_str();
  add_port_keys(*add, port.keys);
  add->callback([&] {
    action = [&] {
      json params{{"name", port.name}, {"type", port.type}};
      params.update(port.keys);
      return call_and_print(options, api::kPortAdd, params, say_nothing);
    };
  });
  CLI::App* del = parent->add_subcommand("del", "remove a port that no rule leads to");
  del->add_option("name", port.name, "the port's name")->required();
  del->callback([&] {
    action = [&] { return call_and_print(options, api::kPortDel, json{{"name", port.name}}, say_nothing); };
  });
}

struct WatchOptions {
  double interval_s = 1;
  unsigned count = 0;
};

// Rates between two looks, until `count` lines or the end of sluiced. On a terminal each table replaces the
// one before.
Result<void> watch(const Options& options, const WatchOptions& watch) {
  auto client = SLUICE_TRY(RpcClient::connect(options.socket, options.timeout_ms));
  bool in_place = !options.as_json && ::isatty(STDOUT_FILENO) == 1;
  auto before = client.call(std::string(api::kShowCounters));
  SLUICE_TRY(before);
  std::uint64_t before_ns = now_ns();
  for (unsigned shown = 0; watch.count == 0 || shown < watch.count; ++shown) {
    std::this_thread::sleep_for(std::chrono::duration<double>(watch.interval_s));
    auto after = client.call(std::string(api::kShowCounters));
    SLUICE_TRY(after);
    std::uint64_t after_ns = now_ns();
    auto rates = rates_between(*before, *after, after_ns - before_ns);
    if (options.as_json) {
      print(rpc_text(rates_to_json(rates)) + "\n");
    } else {
      print((in_place ? "\x1b[H\x1b[J" : shown == 0 ? "" : "\n") + render_rates(rates));
    }
    before = std::move(after);
    before_ns = after_ns;
  }
  return {};
}

void add_rest(CLI::App& app, const Options& options, WatchOptions& watch_options, Action& action) {
  app.add_subcommand("reload", "bring sluiced to what its config file says now")->callback([&] {
    action = [&] { return call_and_print(options, api::kReload, json::object(), render_reload); };
  });
  app.add_subcommand("version", "print the daemon's version")->callback([&] {
    action = [&] { return call_and_print(options, api::kVersion, json::object(), render_version); };
  });
  CLI::App* watch_command = app.add_subcommand("watch", "print rates per NIC and port, again and again");
  watch_command->add_option("--interval", watch_options.interval_s, "seconds between two looks")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  watch_command->add_option("--count", watch_options.count, "how many times; 0: until interrupted")
      ->capture_default_str();
  watch_command->callback([&] { action = [&] { return watch(options, watch_options); }; });
}

int run(int argc, char** argv) {
  CLI::App app("Looks at a running sluiced, and changes it.", "sluicectl");
  Options options;
  RuleOptions rule;
  PortOptions port;
  WatchOptions watch_options;
  Action action;
  app.add_option("--socket", options.socket, "the control socket of sluiced")
      ->envname("SLUICE_CONTROL")
      ->capture_default_str();
  app.add_flag("--json", options.as_json, "print exactly what sluiced answers");
  app.add_option("--timeout-ms", options.timeout_ms, "how long to wait for an answer")
      ->check(CLI::Range(1, 600'000))
      ->capture_default_str();
  app.require_subcommand(1);
  app.fallthrough();  // --json and --socket may also stand behind the subcommand
  add_show(app, options, action);
  add_rule(app, options, rule, action);
  add_port(app, options, port, action);
  add_rest(app, options, watch_options, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  std::signal(SIGPIPE, SIG_DFL);  // `sluicectl watch | head` ends quietly
  if (auto done = action(); !done) {
    fmt::print(stderr, "sluicectl: {}\n", done.error().message);
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  try {
    return sluice::run(argc, argv);
  } catch (const std::exception& error) {  // an answer whose shape is not that of control/rpc/api.h
    fmt::print(stderr, "sluicectl: {}\n", error.what());
    return 1;
  }
}
