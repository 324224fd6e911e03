#include "control/engine/show.h"

#include <set>

#include "base/clock.h"
#include "base/closer.h"
#include "base/descriptors.h"
#include "base/event_loop.h"
#include "control/engine/json_counters.h"
#include "door/door_keeper.h"
#include "port/waker.h"

namespace sluice {

namespace {

using nlohmann::json;

constexpr std::uint64_t kBriefNs = 1'000'000'000;

json nic_counters(const Nic& nic) {
  JsonCounters counters;
  nic.visit(counters);
  counters.set_prefix("xdp_");
  nic.program().visit(counters);
  return counters.take();
}

// What its sockets have become, as `show queues` says it for each.
json af_xdp_mode(const Nic& nic) {
  std::size_t open = 0, zero_copy = 0;
  for (const auto& [id, queue] : nic.queues()) {
    if (queue->open()) {
      ++open;
      zero_copy += queue->socket()->zero_copy() ? 1 : 0;
    }
  }
  return open == 0 ? json() : zero_copy == 0 ? json("copy") : json(zero_copy == open ? "zerocopy" : "mixed");
}

json nic_json(const Nic& nic) {
  json queues = json::array();
  for (QueueId queue : nic.given_queues()) {
    queues.push_back(raw(queue));
  }
  const NicInfo& info = nic.info();
  return {{"name", nic.config().netdev},
          {"ifindex", info.ifindex},
          {"driver", info.driver},
          {"mac", mac_text(info.mac)},
          {"mtu", info.mtu},
          {"link", info.up && info.carrier},
          {"mode", nic.native() ? "native" : "generic"},
          {"af_xdp", af_xdp_mode(nic)},
          {"queues", queues},
          {"counters", nic_counters(nic)}};
}

json away_json(const std::string& netdev) {
  return {{"name", netdev},  {"ifindex", nullptr},      {"driver", nullptr},
          {"mac", nullptr},  {"mtu", nullptr},          {"link", false},
          {"mode", nullptr}, {"queues", json::array()}, {"counters", json::object()}};
}

}  // namespace

json Show::nics() const {
  json rows = json::array();
  for (const auto& [netdev, config] : parts_.current.nics) {
    const Nic* const nic = parts_.nics.find(netdev);
    rows.push_back(nic == nullptr ? away_json(netdev) : nic_json(*nic));
  }
  return rows;
}

std::string Show::owner_name(const KeptQueue& queue) const {
  for (const auto& [name, port] : parts_.ports) {
    if (queue.wish().owner == port.port->id()) {
      return name;
    }
  }
  return queue.wish().owner ? "a port that is gone" : "host";
}

json Show::queue(const KeptQueue& queue) const {
  const QueueWish& wish = queue.wish();
  json counters = queue.open() ? counters_of(*queue.socket()) : json::object();
  if (const Nic* const nic = parts_.nics.find(wish.options.netdev)) {
    counters["drop_owned_queue"] = nic->program().drops_on_owned_queue(wish.options.queue);
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
json Show::queues() const {
  json rows = json::array();
  std::set<std::pair<std::string, QueueId>> wanted;
  for (const auto& [netdev, nic] : parts_.nics.attached()) {
    for (const auto& [id, kept] : nic->queues()) {
      rows.push_back(queue(*kept));
      wanted.emplace(netdev, id);
    }
  }
  for (const auto& kept : parts_.keeper.queues()) {
    const NicQueueOptions& options = kept->wish().options;
    const bool brief = parts_.nics.find(options.netdev) == nullptr && now_ns() - kept->since_ns() < kBriefNs;
    if (kept->state() == QueueState::kClosing && !brief &&
        wanted.emplace(options.netdev, options.queue).second) {
      rows.push_back(queue(*kept));
    }
  }
  return rows;
}

json Show::rules() const {
  json rows = json::array();
  parts_.rules.visit([&rows](const std::string& nic, const std::string& port, const RuleTable::Entry& rule,
                             const RuleCount& count) {
    rows.push_back({{"id", raw(rule.rule.slot)},
                    {"nic", nic},
                    {"port", port},
                    {"match", rule.config.match},
                    {"to", rule.config.to},
                    {"priority", rule.config.priority},
                    {"shed", rule.config.shed},
                    {"implicit", rule.implicit},
                    {"packets", count.packets},
                    {"bytes", count.bytes}});
  });
  return rows;
}

json Show::pools() const {
  json pools = json::array();
  const auto add = [&pools](const PagePool& pool, const std::string& domain, const char* state = "") {
    pools.push_back({{"name", pool.name() + state},
                     {"domain", domain},
                     {"memory", name_of(pool.arena().page_kind())},
                     {"counters", counters_of(pool)}});
  };
  for (const auto& queue : parts_.keeper.queues()) {
    if (queue->host_pool() != nullptr) {
      add(*queue->host_pool(), "host");
    }
  }
  parts_.keeper.retired().visit([&](const PagePool& pool) { add(pool, "host", " retired"); });
  for (const auto& [name, port] : parts_.ports) {
    port.port->visit_pools([&](const PagePool& pool) { add(pool, name); });
  }
  return pools;
}

json Show::daemon_counters() const {
  JsonCounters counters;
  if (parts_.doors != nullptr) {
    parts_.doors->visit(counters);
  }
  for (const auto& [word, type] : parts_.types) {
    type->visit(counters);
  }
  const Closer& closer = Closer::of_process();
  counters.counter("out_of_memory", parts_.loop.out_of_memory());
  counters.counter("descriptors_used", descriptors_used());
  counters.counter("descriptors_needed",
                   descriptors_needed(parts_.types, parts_.current, parts_.workers.count()));
  counters.counter("descriptors_limit", descriptor_limit());
  counters.counter("waker_targets", parts_.waker.targets());
  counters.counter("closer_done", closer.done());
  counters.counter("closer_waiting", closer.waiting());
  counters.counter("closer_overflowed", closer.overflowed());
  return counters.take();
}

json Show::counters() const {
  json flat = json::object();
  const auto add = [&flat](const std::string& prefix, const json& counters) {
    for (const auto& [name, value] : counters.items()) {
      flat[prefix + name] = value;
    }
  };
  for (const json& nic : nics()) {
    add(fmt::format("nic.{}.", nic["name"].get<std::string>()), nic["counters"]);
  }
  for (const json& queue : queues()) {
    add(fmt::format("queue.{}:{}.", queue["nic"].get<std::string>(), queue["queue"].get<int>()),
        queue["counters"]);
  }
  for (const auto& [name, port] : parts_.ports) {
    add(fmt::format("port.{}.", name), port_counters(*port.port));
  }
  for (const json& pool : pools()) {
    add(fmt::format("pool.{}.", pool["name"].get<std::string>()), pool["counters"]);
  }
  for (const auto& worker : parts_.workers.all()) {
    add(fmt::format("worker.{}.", raw(worker->id())), counters_of(*worker));
  }
  add("daemon.", daemon_counters());
  return flat;
}

}  // namespace sluice
