// What the engine says of itself; the shapes stand in control/rpc/api.h.
#include <algorithm>

#include "base/clock.h"
#include "base/closer.h"
#include "base/descriptors.h"
#include "control/engine/engine.h"
#include "port/guest/virtio/call_sender.h"
#include "port/guest/virtio/ring/virtqueue.h"
#include "worker/port_meter.h"

namespace sluice {

namespace {

using nlohmann::json;

constexpr std::uint64_t kBriefNs = 1'000'000'000;

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

// A broadcast that a NIC brings for the ports behind it is the kernel's packet too, so it counts by itself; a
// drop is a drop of the NIC's.
class BroadcastCounters final : public CounterVisitor {
 public:
  explicit BroadcastCounters(CounterVisitor& of_nic) : of_nic_(of_nic) {}
  void counter(std::string_view name, std::uint64_t value) override {
    of_nic_.counter(name.starts_with("drop_") ? std::string(name) : "broadcast_" + std::string(name), value);
  }

 private:
  CounterVisitor& of_nic_;
};

json nic_counters(const Nic& unit) {
  JsonCounters counters;
  for (const auto& [id, queue] : unit.queues()) {
    if (queue->open()) {
      queue->socket()->visit(counters);
    }
  }
  if (unit.broadcasts() != nullptr) {
    BroadcastCounters broadcasts(counters);
    unit.broadcasts()->visit(broadcasts);
  }
  counters.set_prefix("xdp_");
  unit.demux().visit(counters);
  return counters.take();
}

}  // namespace

namespace {

// What its sockets have become, as `show queues` says it for each.
json af_xdp_mode(const Nic& unit) {
  std::size_t open = 0, zero_copy = 0;
  for (const auto& [id, queue] : unit.queues()) {
    if (queue->open()) {
      ++open;
      zero_copy += queue->socket()->zero_copy() ? 1 : 0;
    }
  }
  return open == 0 ? json() : zero_copy == 0 ? json("copy") : json(zero_copy == open ? "zerocopy" : "mixed");
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
    const Nic& unit = *found->second;
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
                    {"af_xdp", af_xdp_mode(unit)},
                    {"queues", queues},
                    {"counters", nic_counters(unit)}});
  }
  return nics;
}

std::string Engine::owner_name(const KeptQueue& queue) const {
  for (const auto& [name, port] : apps_) {
    if (queue.wish().owner == port->options().id) {
      return name;
    }
  }
  return queue.wish().owner ? "a port that is gone" : "host";
}

json Engine::show_queue(const KeptQueue& queue) const {
  const QueueWish& wish = queue.wish();
  json counters = queue.open() ? counters_of(*queue.socket()) : json::object();
  if (auto unit = nics_.find(wish.options.netdev); unit != nics_.end()) {
    counters["drop_owned_queue"] = unit->second->demux().drops_on_owned_queue(wish.options.queue);
  }
  return {{"nic", wish.options.netdev},
          {"queue", raw(wish.options.queue)},
          {"owner", owner_name(queue)},
          {"state", text_of(queue.state())},
          {"why", queue.why().empty() ? json() : json(queue.why())},
          {"state_ms", (now_ns() - queue.since_ns()) / 1'000'000},
          {"worker", raw(wish.worker)},
          {"mode", queue.open() ? json(queue.socket()->zero_copy() ? "zerocopy" : "copy") : json()},
          {"counters", std::move(counters)}};
}

// One row per queue: those that are wanted, and those that only close. A device that is gone takes its queues
// along, which is worth a row where that does not end.
json Engine::show_queues() {
  json rows = json::array();
  std::set<std::pair<std::string, QueueId>> wanted;
  for (const auto& [netdev, unit] : nics_) {
    for (const auto& [id, queue] : unit->queues()) {
      rows.push_back(show_queue(*queue));
      wanted.emplace(netdev, id);
    }
  }
  for (const auto& queue : keeper_->queues()) {
    const NicQueueOptions& options = queue->wish().options;
    const bool brief = !nics_.contains(options.netdev) && now_ns() - queue->since_ns() < kBriefNs;
    if (queue->state() == QueueState::kClosing && !brief &&
        wanted.emplace(options.netdev, options.queue).second) {
      rows.push_back(show_queue(*queue));
    }
  }
  return rows;
}

namespace {

const char* wakes_text(const WakePrice& price) {
  return price.dear() ? "by waker" : "direct";
}

}  // namespace

// What all types of ports have in common; null is what a type does not have.
json Engine::show_port(const std::string& name, PortId id,
                       const std::function<void(CounterVisitor&)>& visit) {
  JsonCounters counters;
  visit(counters);
  for (const auto& worker : workers_) {
    const PortMeter& meter = worker->meter();
    counters.counter("slow_calls", meter.slow_calls(id));
    counters.counter("stall_charged_us", meter.charged_us(id));
    counters.counter("turns_skipped", meter.skipped(id));
    counters.counter("drop_throttled", meter.dropped(id));
  }
  for (const auto& worker : workers_) {
    counters.counter("drop_no_reader", worker->no_reader(id));
  }
  counters.set_prefix("xdp_");
  for (const auto& [netdev, unit] : nics_) {
    unit->demux().visit_port(id, counters);
  }
  const PortConfig& config = current_.ports.at(name);
  auto uplink = uplink_of(current_, config);
  json port{{"name", name},
            {"type", config.type()},
            {"id", raw(id)},
            {"client", nullptr},
            {"pid", nullptr},
            {"uid", nullptr},
            {"pages_held", nullptr},
            {"page_limit", nullptr},
            {"uplink", uplink ? json(*uplink) : json()},
            {"queues", json::array()},
            {"descriptors", port_descriptors(config, workers_.size())},
            {"counters", counters.take()}};
  show_costs(port, name, id);
  json macs = json::array();
  for (const MacAddress& mac : config.mac) {
    macs.push_back(mac_text(mac));
  }
  port["mac"] = std::move(macs);
  if (const auto* on_switch = config.on_switch()) {
    port["vlan"] = config.vlan;
    port["mode"] = switch_mode_text(on_switch->mode);
  }
  return port;
}

json Engine::show_app(const std::string& name) {
  const AppPort& app = *apps_.at(name);
  const AppPortOptions& options = app.options();
  json port = show_port(name, options.id, [&app](CounterVisitor& visitor) { app.visit(visitor); });
  auto session = app.session();
  port["wakes"] = wakes_text(app.wake_price());
  if (session) {
    port["descriptors"] = port["descriptors"].get<std::uint64_t>() + app_session_descriptors(workers_.size());
  }
  port["state"] = session ? "attached" : "detached";
  if (session) {
    port["client"] = session->client;
    port["pid"] = session->pid;
    port["uid"] = session->uid;
  }
  port["pages_held"] = session ? session->pages_held : 0;
  port["page_limit"] = options.pages;
  if (options.source_macs.empty() && !options.trust) {
    port["uplink"] = nullptr;  // it cannot send
  }
  for (const QueueName& queue : current_.ports.at(name).owned_queues()) {
    port["queues"].push_back(fmt::format("{}:{}", queue.netdev, queue.queue));
  }
  return port;
}

namespace {

const char* state_of(const GuestPort::Info& info) {
  if (info.stuck) {
    return "stuck";
  }
  if (!info.connected) {
    return "waiting";
  }
  if (info.populating) {
    return "populating";
  }
  if (std::ranges::any_of(info.rings, &GuestPort::Ring::broken)) {
    return "broken";
  }
  return info.running ? "running" : "connected";
}

json ring_json(const GuestPort::Ring& ring) {
  return {{"index", ring.index},
          {"kind", ring.index % 2 == 0 ? "rx" : "tx"},  // as the guest sees it
          {"format", ring.packed ? "packed" : "split"},
          {"entries", ring.entries},
          {"enabled", ring.enabled},
          {"running", ring.running},
          {"broken", ring.broken},
          {"worker", raw(ring.worker)},
          {"packets", ring.packets},
          {"kicks", ring.kicks},
          {"calls", ring.calls},
          {"calls_suppressed", ring.calls_suppressed}};
}

}  // namespace

json Engine::show_guest_port(const std::string& name) {
  const GuestPort& guest = *guests_.at(name);
  GuestPort::Info info = guest.info();
  json port =
      show_port(name, guest.options().id, [&guest](CounterVisitor& visitor) { guest.visit(visitor); });
  port["wakes"] = wakes_text(guest.call_price());
  if (info.connected) {
    port["descriptors"] =
        port["descriptors"].get<std::uint64_t>() + guest_session_descriptors(guest.options().queue_pairs);
  }
  port["state"] = state_of(info);
  if (info.connected) {
    port["pid"] = info.pid;
    port["uid"] = info.uid;
  }
  return port;
}

json Engine::show_host(const std::string& name) {
  const TapPort& host = *hosts_.at(name);
  json port = show_port(name, host.options().id, [&host](CounterVisitor& visitor) { host.visit(visitor); });
  auto info = read_nic_info(host.options().netdev);
  port["state"] = info && info->up ? "up" : "down";
  port["netdev"] = host.options().netdev;
  return port;
}

json Engine::show_ports() {
  json ports = json::array();
  for (const auto& [name, config] : current_.ports) {
    ports.push_back(apps_.contains(name)     ? show_app(name)
                    : guests_.contains(name) ? show_guest_port(name)
                                             : show_host(name));
  }
  return ports;
}

json Engine::show_guests() {
  json guests = json::array();
  for (const auto& [name, guest] : guests_) {
    const GuestConfig& config = *current_.ports.at(name).guest();
    GuestPort::Info info = guest->info();
    json shown = show_guest_port(name);
    for (const char* key : {"type", "client", "pages_held", "page_limit", "queues"}) {
      shown.erase(key);
    }
    shown["socket"] = config.socket;
    shown["role"] = role_text(config.role);
    shown["trust"] = config.trust;
    shown["queue_pairs"] = config.queue_pairs;
    shown["calls"] = guest->call_price().by_write() ? "write" : "aio";
    shown["connected_ms"] = info.connected ? json((now_ns() - info.since_ns) / 1'000'000) : json();
    shown["features"] = info.feature_names;
    shown["feature_bits"] = fmt::format("{:#x}", info.features);
    shown["protocol_features"] = info.protocol_feature_names;
    shown["protocol_feature_bits"] = fmt::format("{:#x}", info.protocol_features);
    shown["memory"] = {{"bytes", info.memory_bytes},         {"mapped_bytes", info.mapped_bytes},
                       {"limit_bytes", config.memory_bytes}, {"sealed", config.sealed_memory},
                       {"populate", config.populate},        {"populated_bytes", info.populated_bytes}};
    shown["regions"] = json::array();
    for (const auto& region : info.regions) {
      shown["regions"].push_back({{"guest_address", fmt::format("{:#x}", region.guest_address)},
                                  {"bytes", region.bytes},
                                  {"huge_pages", region.huge_pages}});
    }
    shown["rings"] = json::array();
    for (const auto& ring : info.rings) {
      shown["rings"].push_back(ring_json(ring));
    }
    guests.push_back(std::move(shown));
  }
  return guests;
}

namespace {

// `nic` or `port` is "": a rule stands on one of them.
json rule_json(const RuleTable::Entry& entry, const std::string& nic, const std::string& port,
               std::uint64_t packets, std::uint64_t bytes) {
  return {{"id", raw(entry.rule.slot)},
          {"nic", nic},
          {"port", port},
          {"match", entry.config.match},
          {"to", entry.config.to},
          {"priority", entry.config.priority},
          {"shed", entry.config.shed},
          {"implicit", entry.implicit},
          {"packets", packets},
          {"bytes", bytes}};
}

}  // namespace

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
      rules.push_back(rule_json(entry, netdev, "", count.packets, count.bytes));
    }
  }
  for (const auto& [port, flows] : flows_) {
    for (const RuleTable::Entry& entry : flows.table.entries()) {
      IngressCounts::Count count = flows.counts->count(entry.rule.slot);
      rules.push_back(rule_json(entry, "", port, count.packets, count.bytes));
    }
  }
  return rules;
}

json Engine::show_pools() {
  json pools = json::array();
  const auto add = [&pools](const PagePool& pool, const std::string& domain) {
    pools.push_back({{"name", pool.name()},
                     {"domain", domain},
                     {"memory", name_of(pool.arena().page_kind())},
                     {"counters", counters_of(pool)}});
  };
  for (const auto& queue : keeper_->queues()) {
    if (queue->host_pool() != nullptr) {
      add(*queue->host_pool(), "host");
    }
  }
  for (const auto& [name, port] : apps_) {
    port->visit_pools([&](const PagePool& pool) { add(pool, name); });
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
  json daemon = counters_of(doors_);
  daemon["out_of_memory"] = loop_.out_of_memory();
  daemon["guest_memory_bytes"] = guest_memory_->used();
  daemon["guest_memory_limit_bytes"] = guest_memory_->limit();
  daemon["descriptors_used"] = descriptors_used();
  daemon["descriptors_needed"] = descriptors_needed(current_, workers_.size());
  daemon["descriptors_limit"] = descriptor_limit();
  daemon["threads_without_aio"] = CallSender::threads_without();
  daemon["waker_targets"] = waker_->targets();
  daemon["closer_done"] = Closer::of_process().done();
  daemon["closer_waiting"] = Closer::of_process().waiting();
  daemon["closer_overflowed"] = Closer::of_process().overflowed();
  add("daemon.", daemon);
  return flat;
}

}  // namespace sluice
