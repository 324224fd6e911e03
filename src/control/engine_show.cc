// What the engine says of itself; the shapes stand in control/api.h.
#include "control/engine.h"

namespace sluice {

namespace {

using nlohmann::json;

class JsonCounters final : public CounterVisitor {
 public:
  void counter(std::string_view name, std::uint64_t value) override {
    json& place = counters_[prefix_ + std::string(name)];
    place = (place.is_null() ? 0 : place.get<std::uint64_t>()) + value;  // sums over queues, workers, NICs
  }
  void set_prefix(std::string prefix) { prefix_ = std::move(prefix); }
  json take() { return std::move(counters_); }

 private:
  std::string prefix_;
  json counters_ = json::object();
};

template <typename Component>
json counters_of(const Component& component) {
  JsonCounters counters;
  component.visit(counters);
  return counters.take();
}

json nic_counters(const NicUnit& unit) {
  JsonCounters counters;
  for (const auto& [id, open] : unit.queues()) {
    open.socket->visit(counters);
  }
  counters.set_prefix("xdp_");
  unit.demux().visit(counters);
  return counters.take();
}

}  // namespace

json Engine::show_nics() {
  json nics = json::array();
  for (const auto& [netdev, config] : current_.nics) {
    auto found = nics_.find(netdev);
    if (found == nics_.end()) {
      nics.push_back({{"name", netdev},
                      {"ifindex", nullptr},
                      {"driver", nullptr},
                      {"mac", nullptr},
                      {"mtu", nullptr},
                      {"link", false},
                      {"mode", nullptr},
                      {"queues", json::array()},
                      {"counters", json::object()}});
      continue;
    }
    const NicUnit& unit = *found->second;
    json queues = json::array();
    for (QueueId queue : unit.given_queues()) {
      queues.push_back(raw(queue));
    }
    const NicInfo& info = unit.info();
    nics.push_back({{"name", netdev},
                    {"ifindex", info.ifindex},
                    {"driver", info.driver},
                    {"mac", mac_text(info.mac)},
                    {"mtu", info.mtu},
                    {"link", info.up && info.carrier},
                    {"mode", unit.native() ? "native" : "generic"},
                    {"queues", queues},
                    {"counters", nic_counters(unit)}});
  }
  return nics;
}

json Engine::show_queues() {
  json queues = json::array();
  for (const auto& [netdev, unit] : nics_) {
    for (const auto& [id, open] : unit->queues()) {
      std::string owner = "host";
      for (const auto& [name, port] : ports_) {
        if (open.owner == port->options().id) {
          owner = name;
        }
      }
      queues.push_back({{"nic", netdev},
                        {"queue", raw(id)},
                        {"owner", owner},
                        {"worker", raw(open.worker)},
                        {"mode", open.socket->zero_copy() ? "zerocopy" : "copy"},
                        {"counters", counters_of(*open.socket)}});
    }
  }
  return queues;
}

json Engine::show_ports() {
  json ports = json::array();
  for (const auto& [name, port] : ports_) {
    const AppPortOptions& options = port->options();
    JsonCounters counters;
    port->visit(counters);
    for (const auto& worker : workers_) {
      counters.counter("drop_no_reader", worker->no_reader(options.id));
    }
    counters.set_prefix("xdp_");
    for (const auto& [netdev, unit] : nics_) {
      unit->demux().visit_port(options.id, counters);
    }
    const PortConfig& config = current_.ports.at(name);
    json queues = json::array();
    for (const QueueName& queue : config.queues) {
      queues.push_back(fmt::format("{}:{}", queue.netdev, queue.queue));
    }
    auto uplink = uplink_of(current_, config);
    auto session = port->session();
    ports.push_back({{"name", name},
                     {"type", "app"},
                     {"id", raw(options.id)},
                     {"state", session ? "attached" : "detached"},
                     {"client", session ? json(session->client) : json()},
                     {"pid", session ? json(session->pid) : json()},
                     {"uid", session ? json(session->uid) : json()},
                     {"pages_held", session ? session->pages_held : 0},
                     {"page_limit", options.pages},
                     {"uplink", uplink ? json(*uplink) : json()},
                     {"queues", queues},
                     {"counters", counters.take()}});
  }
  return ports;
}

json Engine::show_rules() {
  json rules = json::array();
  for (const auto& [netdev, table] : rules_) {
    auto unit = nics_.find(netdev);
    for (const RuleTable::Entry& entry : table.entries()) {
      Demux::RuleCount count;
      if (unit != nics_.end()) {
        if (auto read = unit->second->demux().rule_count(entry.rule.slot)) {
          count = *read;
        }
      }
      rules.push_back({{"id", raw(entry.rule.slot)},
                       {"nic", netdev},
                       {"match", entry.config.match},
                       {"to", entry.config.to},
                       {"priority", entry.config.priority},
                       {"shed", entry.config.shed},
                       {"packets", count.packets},
                       {"bytes", count.bytes}});
    }
  }
  return rules;
}

json Engine::show_pools() {
  json pools = json::array();
  for (const auto& [netdev, unit] : nics_) {
    for (const auto& [id, open] : unit->queues()) {
      if (open.host_pool) {
        pools.push_back({{"name", open.host_pool->name()},
                         {"domain", "host"},
                         {"counters", counters_of(*open.host_pool)}});
      }
    }
  }
  for (const auto& [name, port] : ports_) {
    port->visit_pools([&](const PagePool& pool) {
      pools.push_back({{"name", pool.name()}, {"domain", name}, {"counters", counters_of(pool)}});
    });
  }
  return pools;
}

json Engine::show_counters() {
  json flat = json::object();
  auto add = [&flat](const std::string& prefix, const json& counters) {
    for (const auto& [name, value] : counters.items()) {
      flat[prefix + name] = value;
    }
  };
  for (const json& nic : show_nics()) {
    add(fmt::format("nic.{}.", nic["name"].get<std::string>()), nic["counters"]);
  }
  for (const json& queue : show_queues()) {
    add(fmt::format("queue.{}:{}.", queue["nic"].get<std::string>(), queue["queue"].get<int>()),
        queue["counters"]);
  }
  for (const json& port : show_ports()) {
    add(fmt::format("port.{}.", port["name"].get<std::string>()), port["counters"]);
  }
  for (const json& pool : show_pools()) {
    add(fmt::format("pool.{}.", pool["name"].get<std::string>()), pool["counters"]);
  }
  for (const auto& worker : workers_) {
    add(fmt::format("worker.{}.", raw(worker->id())), counters_of(*worker));
  }
  return flat;
}

}  // namespace sluice
