// Config to TOML. By hand rather than through toml++: the order is that of docs/config.md, and a rule is a
// paragraph.
#include "control/config/config.h"

namespace sluice {

namespace {

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\u{:04x}", byte);
    } else {
      out += c;
    }
  }
  return out + '"';
}

// A key, bare where TOML allows it.
std::string key_text(std::string_view name) {
  bool bare = !name.empty() &&
              name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") ==
                  std::string_view::npos;
  return bare ? std::string(name) : quoted(name);
}

void put(std::string& out, std::string_view key, const std::string& value) {
  out += fmt::format("{} = {}\n", key, value);
}

void put_text(std::string& out, std::string_view key, const std::string& value,
              const std::string& by_default) {
  if (value != by_default) {
    put(out, key, quoted(value));
  }
}

template <typename T>
void put_number(std::string& out, std::string_view key, T value, T by_default) {
  if (value != by_default) {
    put(out, key, fmt::format("{}", value));
  }
}

void put_size(std::string& out, std::string_view key, std::uint64_t bytes, std::uint64_t by_default) {
  put_text(out, key, size_text(bytes), size_text(by_default));
}

template <typename List, typename Text>
void put_list(std::string& out, std::string_view key, const List& list, Text text) {
  std::string items;
  for (const auto& item : list) {
    items += (items.empty() ? "" : ", ") + quoted(text(item));
  }
  if (!items.empty()) {
    put(out, key, "[" + items + "]");
  }
}

void put_daemon(std::string& out, const DaemonConfig& daemon) {
  const DaemonConfig by_default;
  out += "[daemon]\n";
  put(out, "control", quoted(daemon.control));
  put_text(out, "control_group", daemon.control_group, "");
  put_text(out, "log", daemon.log, by_default.log);
  put_number(out, "page_bytes", daemon.page_bytes, by_default.page_bytes);
  put_text(out, "huge_pages", daemon.huge_pages, by_default.huge_pages);
  put_size(out, "guest_memory", daemon.guest_memory_bytes, by_default.guest_memory_bytes);
  std::string workers;
  for (const WorkerOptions& worker : daemon.workers) {
    std::string keys;
    auto add = [&keys](const std::string& text) { keys += (keys.empty() ? "" : ", ") + text; };
    if (worker.cpu) {
      add(fmt::format("cpu = {}", *worker.cpu));
    }
    if (worker.idle != WorkerOptions::Idle::kAdaptive) {
      add(fmt::format("idle = {}", quoted(idle_text(worker.idle))));
    }
    if (worker.latency_us != WorkerOptions{}.latency_us) {
      add(fmt::format("latency_us = {}", worker.latency_us));
    }
    workers += (workers.empty() ? "" : ", ") + (keys.empty() ? std::string("{}") : "{ " + keys + " }");
  }
  put(out, "workers", "[" + workers + "]");
}

void put_app(std::string& out, const PortConfig& port, const PortConfig& by_default) {
  put_number(out, "pages", port.pages, by_default.pages);
  put_number(out, "ring", port.ring, by_default.ring);
  put_list(out, "queues", port.queues,
           [](const QueueName& q) { return fmt::format("{}:{}", q.netdev, q.queue); });
  put_number(out, "attach_rate", port.attach_rate, by_default.attach_rate);
  put_number(out, "stall_timeout_ms", port.stall_timeout_ms, by_default.stall_timeout_ms);
  put_number(out, "observe", port.observe, by_default.observe);
}

void put_port(std::string& out, const PortConfig& port) {
  const PortConfig by_default;
  out += fmt::format("\n[port.{}]\n", key_text(port.name));
  put(out, "type", quoted(port.type));
  if (port.type == "host") {
    put(out, "netdev", quoted(port.netdev));
  } else {
    put(out, "socket", quoted(port.socket));
  }
  put_text(out, "role", std::string(role_text(port.role)), "server");
  auto as_it_is = [](const std::string& text) { return text; };
  put_list(out, "allow_users", port.allow_users, as_it_is);
  put_list(out, "allow_groups", port.allow_groups, as_it_is);
  put_text(out, "allow_cgroup", port.allow_cgroup, "");
  put_list(out, "mac", port.mac, mac_text);
  put_list(out, "address", port.address, as_it_is);
  put_number(out, "mtu", port.mtu, by_default.mtu);
  put_number(out, "vlan", port.vlan, by_default.vlan);
  put_text(out, "uplink", port.uplink, "");
  put_text(out, "mode", std::string(switch_mode_text(port.mode)), "bridge");
  put_number(out, "trust", port.trust, by_default.trust);
  put_list(out, "source_ip", port.source_ip, as_it_is);
  put_number(out, "frame_rate", port.frame_rate, by_default.frame_rate);
  put_number(out, "broadcast_rate", port.broadcast_rate, by_default.broadcast_rate);
  put_number(out, "stall_budget_us", port.stall_budget_us, by_default.stall_budget_us);
  put_number(out, "stall_window_ms", port.stall_window_ms, by_default.stall_window_ms);
  put_number(out, "queue_pairs", port.queue_pairs, by_default.queue_pairs);
  put_size(out, "memory", port.memory_bytes, by_default.memory_bytes);
  put_number(out, "populate", port.populate, by_default.populate);
  put_number(out, "sealed_memory", port.sealed_memory, by_default.sealed_memory);
  put_app(out, port, by_default);
}

}  // namespace

std::string to_toml(const Config& config) {
  std::string out;
  put_daemon(out, config.daemon);
  for (const auto& [name, nic] : config.nics) {
    out += fmt::format("\n[nic.{}]\n", key_text(name));
    put(out, "queues", nic.queues ? fmt::format("[{}]", fmt::join(*nic.queues, ", ")) : "\"all\"");
    put_text(out, "mode", std::string(bind_mode_text(nic.mode)), "auto");
    put_number(out, "ring", nic.ring, NicConfig{}.ring);
  }
  for (const auto& [name, port] : config.ports) {
    put_port(out, port);
  }
  for (const RuleConfig& rule : config.rules) {
    out += "\n[[rule]]\n";
    put_text(out, "nic", rule.nic, "");
    put_text(out, "port", rule.port, "");
    put(out, "match", quoted(rule.match));
    put(out, "to", quoted(rule.to));
    put_number(out, "priority", rule.priority, 0);
    put_number(out, "shed", rule.shed, false);
  }
  return out;
}

}  // namespace sluice
