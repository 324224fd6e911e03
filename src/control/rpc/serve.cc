#include "control/rpc/serve.h"

#include <algorithm>

#include "abi/app.h"
#include "base/log.h"
#include "control/config/diff.h"
#include "control/config/json.h"
#include "control/config/keys.h"
#include "control/rpc/api.h"
#include "demux/rule.h"

#ifndef SLUICE_VERSION
#error "the build says which version this is"
#endif

namespace sluice {

using nlohmann::json;

namespace {

using Type = RpcParam::Type;
using Need = RpcParam::Need;

bool same_match(const std::string& a, const std::string& b) {
  auto left = parse_match(a), right = parse_match(b);
  return left && right ? *left == *right : a == b;
}

// What warnings `fresh` has that `old` had not.
json new_warnings(const Config& old, const Config& fresh) {
  std::vector<std::string> before = config_warnings(old);
  json warnings = json::array();
  for (std::string& text : config_warnings(fresh)) {
    if (std::ranges::find(before, text) == before.end()) {
      warnings.push_back(std::move(text));
    }
  }
  return warnings;
}

// Checks and applies a changed copy of the running state.
Result<json> change(ControlTarget& target, const Config& fresh, const std::string& what) {
  SLUICE_TRY(check_config(fresh));
  json warnings = new_warnings(target.current(), fresh);
  SLUICE_TRY(target.apply(fresh));
  log::info("control: {}", what);
  return json{{"warnings", std::move(warnings)}};
}

Result<json> rule_add(ControlTarget& target, const json& params) {
  auto rule = rule_from_json(params);
  SLUICE_TRY(rule);
  Config fresh = target.current();
  for (const RuleConfig& other : fresh.rules) {
    if (other.nic == rule->nic && other.port == rule->port && other.priority == rule->priority &&
        same_match(other.match, rule->match)) {
      return fail(
          "rule: there is one with this match and priority already, to {}; remove it first or choose another "
          "priority",
          other.to);
    }
  }
  fresh.rules.push_back(*rule);
  return change(target, fresh, fmt::format("added the rule \"{}\" to {}", rule->match, rule->to));
}

json rule_to_json(const RuleConfig& rule) {
  return {{"nic", rule.nic}, {"port", rule.port},         {"match", rule.match},
          {"to", rule.to},   {"priority", rule.priority}, {"shed", rule.shed}};
}

// {"nic" or "port", "id"} becomes the rule that show.rules lists so, written as in the config.
Result<json> rule_by_id(ControlTarget& target, const json& params) {
  const std::string port = params.value("port", "");
  for (const json& shown : target.show_rules()) {
    if (shown.value("id", json()) != params["id"] || shown.value("port", "") != port ||
        (params.contains("nic") && shown.value("nic", json()) != params["nic"])) {
      continue;
    }
    if (shown.value("implicit", false)) {
      return fail("rule {} stands for an address of port {} and goes with it", params["id"].dump(),
                  shown.value("to", ""));
    }
    return json{{"nic", shown.value("nic", "")},
                {"port", port},
                {"match", shown.value("match", "")},
                {"to", shown.value("to", "")},
                {"priority", shown.value("priority", 0)}};
  }
  return fail("there is no rule {}{}{}; see `sluicectl show rules`", params["id"].dump(),
              port.empty() ? "" : " on what port " + port + " sends",
              params.contains("nic") ? " on " + params["nic"].get<std::string>() : "");
}

Result<json> rule_del(ControlTarget& target, const json& params) {
  bool by_id = params.contains("id");
  if (by_id == params.contains("match")) {
    return fail("rule.del takes either a match or an id");
  }
  if (params.contains("nic") && params.contains("port")) {
    return fail("rule.del takes a nic or a port: a rule stands on one of them");
  }
  if (by_id && !params.contains("nic") && !params.contains("port") && target.current().nics.size() > 1) {
    return fail("there are several NICs and each counts its rules; say also which nic");
  }
  Result<json> wanted = by_id ? rule_by_id(target, params) : Result<json>(params);
  SLUICE_TRY(wanted);
  RuleConfig want{
      .nic = wanted->value("nic", ""), .match = wanted->value("match", ""), .to = wanted->value("to", "")};
  want.port = wanted->value("port", "");
  auto priority = wanted->value("priority", std::int64_t{0});
  if (auto match = parse_match(want.match); !match) {
    return fail("rule.match: {}", match.error().message);
  }
  auto fits = [&](const RuleConfig& rule) {
    // A rule for every NIC is named by any NIC that it stands on when it came by its id.
    bool nic = !wanted->contains("nic") || (rule.nic == want.nic && rule.port.empty()) ||
               (by_id && rule.nic.empty());
    bool port = !wanted->contains("port") || rule.port == want.port;
    return nic && port && same_match(rule.match, want.match) &&
           (!wanted->contains("to") || rule.to == want.to) &&
           (!wanted->contains("priority") || rule.priority == priority);
  };
  Config fresh = target.current();
  auto found = std::ranges::find_if(fresh.rules, fits);
  if (found == fresh.rules.end()) {
    return fail("there is no rule with match \"{}\"{}; see `sluicectl show rules`", want.match,
                wanted->contains("to") ? " to " + want.to : "");
  }
  if (!by_id && std::ranges::count_if(fresh.rules, fits) > 1) {
    return fail("{} rules have this match; say also to, priority, nic or port",
                std::ranges::count_if(fresh.rules, fits));
  }
  RuleConfig removed = *found;
  fresh.rules.erase(found);
  SLUICE_TRY(change(target, fresh, fmt::format("removed the rule \"{}\" to {}", removed.match, removed.to)));
  return json{{"removed", rule_to_json(removed)}};
}

Result<json> port_add(ControlTarget& target, json params) {
  std::string name = params["name"];
  params.erase("name");
  if (target.current().ports.contains(name)) {
    return fail("there is a port \"{}\" already; remove it first or choose another name", name);
  }
  auto port = port_from_json(name, params);
  SLUICE_TRY(port);
  Config fresh = target.current();
  fresh.ports.emplace(name, std::move(*port));
  return change(target, fresh, "added port " + name);
}

Result<json> port_del(ControlTarget& target, const json& params) {
  std::string name = params["name"];
  Config fresh = target.current();
  if (fresh.ports.erase(name) == 0) {
    return fail("there is no port \"{}\"; see `sluicectl show ports`", name);
  }
  for (const RuleConfig& rule : fresh.rules) {
    if (rule.to == name) {
      return fail("the rule \"{}\" leads to port {}; remove it first", rule.match, name);
    }
    if (rule.port == name) {
      return fail("the rule \"{}\" stands on what port {} sends; remove it first", rule.match, name);
    }
  }
  SLUICE_TRY(change(target, fresh, "removed port " + name));
  return json::object();
}

std::vector<RpcParam> params_of_rule() {
  std::vector<RpcParam> params;
  RuleConfig rule;
  for (const auto& [key, field] : keys<RuleConfig>()) {
    const Field at = field(rule);
    params.push_back({std::string(key.name),
                      std::holds_alternative<std::string*>(at) ? Type::kString
                      : std::holds_alternative<bool*>(at)      ? Type::kBoolean
                                                               : Type::kInteger,
                      key.required != 0 ? Need::kRequired : Need::kOptional});
  }
  return params;
}

// Which keys its type has and must have, and their values, are checked as the config file is, with the same
// sentences.
std::vector<RpcParam> params_of_port() {
  std::vector<RpcParam> params = {{"name"}, {"type"}};
  for (std::string_view key : key_names<PortConfig>()) {
    if (key != "type") {
      params.push_back({std::string(key), Type::kAny, Need::kOptional});
    }
  }
  return params;
}

}  // namespace

Result<json> reload(ControlTarget& target, const std::string& config_path) {
  if (config_path.empty()) {
    return fail("sluiced was started without a config file; there is nothing to reload");
  }
  auto fresh = SLUICE_TRY(load_config(config_path));
  json actions = json::array(), warnings = config_warnings(fresh);
  for (const Action& action : diff(target.current(), fresh)) {
    std::string text = to_string(action);
    if (std::holds_alternative<RestartNeeded>(action)) {
      warnings.push_back(text);
    } else {
      actions.push_back(text);
    }
  }
  SLUICE_TRY(target.apply(fresh));
  log::info("reloaded {}: {} changes", config_path, actions.size());
  return json{{"actions", std::move(actions)}, {"warnings", std::move(warnings)}};
}

void serve(RpcMethods& methods, ControlTarget& target, std::string config_path) {
  auto show = [&](std::string_view name, json (ControlTarget::*shown)()) {
    methods.add(std::string(name), {},
                [&target, shown](const json&) -> Result<json> { return (target.*shown)(); });
  };
  auto act = [&](std::string_view name, std::vector<RpcParam> params,
                 Result<json> (*action)(ControlTarget&, const json&)) {
    methods.add_slow(std::string(name), std::move(params),
                     [&target, action](const json& given) { return action(target, given); });
  };
  methods.hold_until([&target] { return target.settled(); });
  show(api::kShowNics, &ControlTarget::show_nics);
  show(api::kShowQueues, &ControlTarget::show_queues);
  show(api::kShowPorts, &ControlTarget::show_ports);
  show(api::kShowGuests, &ControlTarget::show_guests);
  show(api::kShowRules, &ControlTarget::show_rules);
  show(api::kShowPools, &ControlTarget::show_pools);
  show(api::kShowCounters, &ControlTarget::show_counters);
  methods.add(std::string(api::kShowConfig), {}, [&target, config_path](const json&) -> Result<json> {
    json shown = target.show_config();
    shown["file"] = config_path.empty() ? json(nullptr) : json(config_path);
    return shown;
  });
  act(api::kRuleAdd, params_of_rule(), rule_add);
  act(api::kRuleDel,
      {{"match", Type::kString, Need::kOptional},
       {"to", Type::kString, Need::kOptional},
       {"nic", Type::kString, Need::kOptional},
       {"priority", Type::kInteger, Need::kOptional},
       {"id", Type::kInteger, Need::kOptional},
       {"port", Type::kString, Need::kOptional}},
      rule_del);
  act(api::kPortAdd, params_of_port(),
      [](ControlTarget& t, const json& params) { return port_add(t, params); });
  act(api::kPortDel, {{"name"}}, port_del);
  methods.add_slow(std::string(api::kReload), {},
                   [&target, config_path](const json&) { return reload(target, config_path); });
  methods.add(std::string(api::kVersion), {}, [](const json&) -> Result<json> {
    return json{{"version", SLUICE_VERSION}, {"app_abi", SLUICE_APP_VERSION}};
  });
}

}  // namespace sluice
