// sluicectl: looks at a running sluiced, and changes it.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <csignal>
#include <optional>
#include <sstream>
#include <thread>

#include "base/clock.h"
#include "completion.h"
#include "control/config/key_text.h"
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
  json added = json::object();  // keys of [[rule]], those that were given
};

// Keys of the config as options; what they say of themselves is their help.
void add_key_options(CLI::App& command, std::string_view section, json& keys) {
  for (const KeyText& text : key_texts(section)) {
    const std::string name(text.key.name), option = "--" + name, help(text.key.says);
    CLI::Option* added = nullptr;
    if (text.kind == ValueKind::kBoolean) {
      added = command.add_flag_callback(option, [&keys, name] { keys[name] = true; }, help);
    } else if (text.kind == ValueKind::kInteger) {
      added =
          command.add_option_function<int>(option, [&keys, name](int value) { keys[name] = value; }, help);
    } else {
      added = command.add_option_function<std::string>(
          option, [&keys, name](const std::string& value) { keys[name] = value; }, help);
    }
    added->required(text.key.required != 0);
  }
}

void add_rule(CLI::App& app, const Options& options, RuleOptions& rule, Action& action) {
  CLI::App* parent =
      app.add_subcommand("rule", "add or remove a rule; until the next reload, which goes back to the file");
  parent->require_subcommand(1);
  CLI::App* add = parent->add_subcommand("add", "send packets that match to a port");
  add_key_options(*add, "rule", rule.added);
  add->get_option("--port")->excludes(add->get_option("--nic"));
  add->callback(
      [&] { action = [&] { return call_and_print(options, api::kRuleAdd, rule.added, say_nothing); }; });
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
  std::string name;
  std::vector<std::string> keys;  // KEY=VALUE
};

// What sluiced cannot make sense of goes to it as it is: it knows the sentence.
json value_of(ValueKind kind, const std::string& text) {
  if (kind == ValueKind::kBoolean && (text == "true" || text == "false")) {
    return text == "true";
  }
  if (std::int64_t number = 0; kind == ValueKind::kInteger) {
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    return error == std::errc{} && end == text.data() + text.size() ? json(number) : json(text);
  }
  return text;
}

// KEY=VALUE ... as the keys of [port.NAME]; a list is several values of one key, or one with commas.
Result<json> port_params(const PortOptions& port) {
  json params{{"name", port.name}, {"type", "app"}};
  for (const std::string& word : port.keys) {
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos) {
      return fail("{} is not KEY=VALUE, for example pages=4096", word);
    }
    const std::string name = word.substr(0, equals), value = word.substr(equals + 1);
    const std::vector<KeyText> texts = key_texts("port");
    const auto text = std::ranges::find(texts, name, [](const KeyText& each) { return each.key.name; });
    const ValueKind kind = text == texts.end() ? ValueKind::kText : text->kind;
    if (kind != ValueKind::kList) {
      params[name] = value_of(kind, value);
      continue;
    }
    std::istringstream items(value);
    for (std::string item; std::getline(items, item, ',');) {
      params[name].push_back(item);
    }
  }
  return params;
}

std::string port_keys_help() {
  std::string help = "The keys are those of [port.NAME] in the config file:\n";
  for (const KeyText& text : key_texts("port")) {
    help += fmt::format("  {}  {}; default {}\n      {}\n", text.key.name, text.value, text.by_default,
                        text.key.says);
  }
  return help;
}

void add_port(CLI::App& app, const Options& options, PortOptions& port, Action& action) {
  CLI::App* parent =
      app.add_subcommand("port", "add or remove a port; until the next reload, which goes back to the file");
  parent->require_subcommand(1);
  CLI::App* add =
      parent->add_subcommand("add", "make a port for a program or a guest to attach to, or for the host");
  add->add_option("name", port.name, "the port's name")->required();
  add->add_option("KEY=VALUE", port.keys,
                  "for example type=guest mac=52:54:00:00:00:01; type is app when left out")
      ->required();
  add->footer(port_keys_help);
  add->callback([&] {
    action = [&]() -> Result<void> {
      auto params = port_params(port);
      SLUICE_TRY(params);
      return call_and_print(options, api::kPortAdd, *params, say_nothing);
    };
  });
  CLI::App* del = parent->add_subcommand("del", "remove a port that no rule leads to");
  del->add_option("name", port.name, "the port's name")->required();
  del->callback([&] {
    action = [&] { return call_and_print(options, api::kPortDel, json{{"name", port.name}}, say_nothing); };
  });
}

// What needs no sluiced, but for the names that completion asks it for.
void add_words(CLI::App& app, const Options& options, std::string& line, Action& action) {
  app.add_subcommand("config-keys", "print the keys of the config file, as docs/config.md has them")
      ->callback([&] {
        action = []() -> Result<void> {
          for (const KeyTable& table : key_tables()) {
            print(fmt::format("<!-- keys: {} -->\n{}<!-- end -->\n", table.title, table.text));
          }
          return {};
        };
      });
  CLI::App* words = app.add_subcommand("complete", "what may stand next, for the shell")->group("");
  words->add_option("line", line, "the command line up to the cursor")->required();
  words->callback([&] {
    action = [&]() -> Result<void> {
      const auto names = [&options](const std::string& what) {
        std::vector<std::string> found;
        auto shown = call(options, "show." + what);
        for (const json& one : shown ? *shown : json::array()) {
          found.push_back(one.value("name", ""));
        }
        return found;
      };
      for (const std::string& word : complete(app, line, names)) {
        print(word + "\n");
      }
      return {};
    };
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
  std::string line;
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
  add_words(app, options, line, action);
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
