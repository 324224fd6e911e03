// What is shown of ports of every type, of what each tells of itself (port/port_info.h).
#include "base/clock.h"
#include "control/engine/json_counters.h"
#include "control/engine/show.h"
#include "worker/port_meter.h"

namespace sluice {

namespace {

using nlohmann::json;

template <typename T>
json or_null(const std::optional<T>& value) {
  return value ? json(*value) : json();
}

json ring_json(const VhostInfo::Ring& ring) {
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

// What a port by vhost-user has besides.
void add_vhost(json& row, const VhostInfo& info) {
  row["socket"] = info.socket;
  row["role"] = info.role;
  row["trust"] = info.trust;
  row["queue_pairs"] = info.queue_pairs;
  row["calls"] = info.calls_by_write ? "write" : "aio";
  row["connected_ms"] = info.connected ? json((now_ns() - info.since_ns) / 1'000'000) : json();
  row["features"] = info.feature_names;
  row["feature_bits"] = fmt::format("{:#x}", info.features);
  row["protocol_features"] = info.protocol_feature_names;
  row["protocol_feature_bits"] = fmt::format("{:#x}", info.protocol_features);
  row["memory"] = {{"bytes", info.memory_bytes},      {"mapped_bytes", info.mapped_bytes},
                   {"limit_bytes", info.limit_bytes}, {"sealed", info.sealed},
                   {"populate", info.populate},       {"populated_bytes", info.populated_bytes}};
  row["regions"] = json::array();
  for (const auto& region : info.regions) {
    row["regions"].push_back({{"guest_address", fmt::format("{:#x}", region.guest_address)},
                              {"bytes", region.bytes},
                              {"huge_pages", region.huge_pages}});
  }
  row["rings"] = json::array();
  for (const auto& ring : info.rings) {
    row["rings"].push_back(ring_json(ring));
  }
}

}  // namespace

json Show::port_counters(const Port& port) const {
  const PortId id = port.id();
  JsonCounters counters;
  port.visit(counters);
  for (const auto& worker : parts_.workers.all()) {
    const PortMeter& meter = std::as_const(*worker).meter();
    counters.counter("slow_calls", meter.slow_calls(id));
    counters.counter("stall_charged_us", meter.charged_us(id));
    counters.counter("turns_skipped", meter.skipped(id));
    counters.counter("drop_throttled", meter.dropped(id));
    counters.counter("drop_no_reader", worker->no_reader(id));
  }
  counters.set_prefix("xdp_");
  for (const auto& [netdev, nic] : parts_.nics.attached()) {
    nic->program().visit_port(id, counters);
  }
  return counters.take();
}

// Null is what a port does not have.
json Show::port(const std::string& name, const RunningPort& running) const {
  const Port& port = *running.port;
  const PortConfig& config = parts_.current.ports.at(name);
  const PortInfo info = port.info();
  const bool peer = info.peer.has_value();
  json row{{"name", name},
           {"type", config.type()},
           {"id", raw(port.id())},
           {"state", info.state},
           {"client", peer ? or_null(info.peer->client) : json()},
           {"pid", peer ? json(info.peer->pid) : json()},
           {"uid", peer ? json(info.peer->uid) : json()},
           {"pages_held", info.pages ? json(info.pages->held) : json()},
           {"page_limit", info.pages ? json(info.pages->limit) : json()},
           {"uplink", info.sends ? or_null(uplink_of(parts_.current, config)) : json()},
           {"queues", json::array()},
           {"mac", json::array()},
           {"descriptors", info.descriptors},
           {"busy_us", 0},
           {"busy_us_by_worker", json::array()},
           {"service", parts_.stalls.state(name) == StallPolicy::State::kThrottled ? "throttled" : "served"},
           {"counters", port_counters(port)}};
  std::uint64_t busy_us = 0;
  for (const auto& worker : parts_.workers.all()) {
    row["busy_us_by_worker"].push_back(std::as_const(*worker).meter().busy_us(port.id()));
    busy_us += std::as_const(*worker).meter().busy_us(port.id());
  }
  row["busy_us"] = busy_us;
  for (const QueueName& queue : running.traits.queues) {
    row["queues"].push_back(fmt::format("{}:{}", queue.netdev, queue.queue));
  }
  for (const MacAddress& mac : config.mac) {
    row["mac"].push_back(mac_text(mac));
  }
  if (running.segment) {
    row["vlan"] = running.segment->on_switch.vlan;
    row["mode"] = switch_mode_text(running.segment->on_switch.mode);
  }
  if (info.wakes) {
    row["wakes"] = *info.wakes;
  }
  if (info.netdev) {
    row["netdev"] = *info.netdev;
  }
  return row;
}

json Show::ports() const {
  json rows = json::array();
  for (const auto& [name, running] : parts_.ports) {
    rows.push_back(port(name, running));
  }
  return rows;
}

json Show::guests() const {
  json rows = json::array();
  for (const auto& [name, running] : parts_.ports) {
    const PortInfo info = running.port->info();
    if (!info.vhost) {
      continue;
    }
    json row = port(name, running);
    for (const char* key : {"type", "client", "pages_held", "page_limit", "queues"}) {
      row.erase(key);
    }
    add_vhost(row, *info.vhost);
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace sluice
