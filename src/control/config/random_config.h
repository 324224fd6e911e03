// Random configs that check_config() accepts, small enough that two of them have much in common. For tests.
#pragma once

#include <random>

#include "control/config/config.h"

namespace sluice {

class RandomConfig {
 public:
  explicit RandomConfig(std::uint64_t seed) : random_(seed) {}

  Config make() {
    Config config;
    make_daemon(config.daemon);
    for (const char* name : {"eth0", "eth1", "eth0.7"}) {
      if (one_in(2)) {
        make_nic(config.nics[name], name);
      }
    }
    std::vector<QueueName> free;
    for (const auto& [name, nic] : config.nics) {
      for (std::uint16_t queue : nic.queues.value_or(std::vector<std::uint16_t>{0, 1, 2, 3})) {
        free.push_back({name, queue});
      }
    }
    for (const char* name : {"dns", "web", "ids"}) {
      if (one_in(2)) {
        make_app(config, name, free);
      }
    }
    std::uint8_t last = 1;
    for (const char* name : {"vm0", "vm1"}) {
      if (one_in(2)) {
        make_guest(config, name, last);
      }
      ++last;
    }
    if (one_in(2)) {
      make_tap(config, "host0", last);
    }
    for (std::size_t i = below(6); i > 0; --i) {
      make_rule(config);
    }
    return config;
  }

 private:
  std::size_t below(std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(random_); }
  bool one_in(std::size_t n) { return below(n) == 0; }
  template <typename T>
  T one_of(std::initializer_list<T> list) {
    return list.begin()[below(list.size())];
  }

  void make_daemon(DaemonConfig& daemon) {
    daemon.control = one_of({"/run/sluice/control.sock", "/tmp/\"c\\d\".sock"});
    daemon.control_group = one_of({"", "root"});
    daemon.log = one_of({"info", "debug"});
    daemon.page_bytes = one_of({2048u, 4096u});
    daemon.huge_pages = one_of({"auto", "required"});
    daemon.guest_memory_bytes = one_of({kDefaultAllGuestsMemoryBytes, std::uint64_t{1} << 30});
    for (std::size_t i = below(2) + 1; i > 0; --i) {
      WorkerConfig worker;
      worker.cpu = one_in(2) ? std::nullopt : std::optional<std::uint32_t>(0);
      worker.idle = worker.cpu ? one_of({IdleMode::kAdaptive, IdleMode::kAwake, IdleMode::kSpin})
                               : one_of({IdleMode::kAdaptive, IdleMode::kSpin});
      worker.latency_us = one_of({50u, 7u});
      daemon.workers.push_back(worker);
    }
  }

  void make_nic(NicConfig& nic, const char* name) {
    nic.netdev = name;
    if (one_in(2)) {
      nic.queues = one_of<std::vector<std::uint16_t>>({{0}, {0, 1}, {1, 3}});
    }
    nic.mode = one_of({BindMode::kAuto, BindMode::kAuto, BindMode::kCopy, BindMode::kZeroCopy});
    nic.ring = one_of({4096u, 4096u, 512u});
  }

  void make_app(Config& config, const char* name, std::vector<QueueName>& free) {
    PortConfig& port = make_any(config, name);
    AppConfig& app = port.of_type.emplace<AppConfig>();
    make_socket(app, name);
    app.allow_users = one_of<std::vector<std::string>>({{}, {"root"}, {"103", "root"}});
    app.pages = one_of({4096u, 64u});
    app.ring = one_of({0u, 0u, 128u});
    if (!free.empty() && one_in(2)) {
      auto taken = free.begin() + static_cast<std::ptrdiff_t>(below(free.size()));
      app.queues.push_back(*taken);
      free.erase(taken);
    }
    port.mac =
        one_of<std::vector<MacAddress>>({{}, {{2, 0, 0, 0, 0, 1}}, {{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}});
    app.attach_rate = one_of({1u, 1u, 0u, 10u});
    app.stall_timeout_ms = one_of({0u, 0u, 100u});
    app.observe = one_in(4);
  }

  // Its addresses are its own, whatever its uplink and VLAN.
  PortConfig& make_switch_port(Config& config, const char* name, std::uint8_t last) {
    PortConfig& port = make_any(config, name);
    port.mac = {{0x52, 0x54, 0, 0, 0, last}};
    return port;
  }
  SwitchMode any_mode() {
    return one_of({SwitchMode::kBridge, SwitchMode::kBridge, SwitchMode::kVepa, SwitchMode::kPrivate});
  }

  void make_guest(Config& config, const char* name, std::uint8_t last) {
    PortConfig& port = make_switch_port(config, name, last);
    GuestConfig& guest = port.of_type.emplace<GuestConfig>();
    make_socket(guest, name);
    guest.mode = any_mode();
    guest.role = one_of({GuestRole::kServer, GuestRole::kClient});
    guest.allow_users = one_of<std::vector<std::string>>({{}, {"root"}});
    if (one_in(2)) {
      port.mac.push_back({0x52, 0x54, 0, 0, 1, last});
    }
    guest.memory_bytes = one_of({kDefaultGuestMemoryBytes, std::uint64_t{1} << 20, std::uint64_t{3} << 29});
    guest.populate = one_in(4);
    guest.sealed_memory = one_in(4);
    guest.queue_pairs = one_of({1u, 1u, 4u, 64u});
  }

  void make_tap(Config& config, const char* name, std::uint8_t last) {
    TapConfig& tap = make_switch_port(config, name, last).of_type.emplace<TapConfig>();
    tap.mode = any_mode();
    tap.netdev = one_of({"sluice0", "host.7"});
    tap.address = one_of<std::vector<std::string>>({{}, {"192.0.2.1/24"}, {"10.0.0.1/8", "2001:db8::1/64"}});
    tap.mtu = one_of({1500u, 9000u});
  }

  PortConfig& make_any(Config& config, const char* name) {
    PortConfig& port = config.ports[name];
    port.name = name;
    if (!config.nics.empty() && one_in(2)) {
      port.uplink =
          std::next(config.nics.begin(), static_cast<std::ptrdiff_t>(below(config.nics.size())))->first;
    }
    port.vlan = one_of({std::uint16_t{0}, std::uint16_t{0}, std::uint16_t{7}, std::uint16_t{4094}});
    port.source_ip = one_of<std::vector<std::string>>({{}, {"192.0.2.5"}, {"10.0.0.0/8", "2001:db8::/64"}});
    port.frame_rate = one_of({0u, 0u, 1000u});
    port.broadcast_rate = one_of({0u, 100u});
    return port;
  }

  void make_socket(SocketConfig& port, const char* name) {
    port.socket = std::string("/run/sluice/") + name + one_of({".sock", ".s"});
    port.allow_groups = one_of<std::vector<std::string>>({{}, {}, {"root", "7"}});
    port.allow_cgroup = one_of<std::string>({"", "", "/machine.slice/vm0.scope"});
    port.trust = one_in(4);
    port.stall_budget_us = one_of({20'000u, 0u, 500u});
    port.stall_window_ms = one_of({1'000u, 100u});
  }

  void make_rule(Config& config) {
    if (!config.ports.empty() && one_in(3)) {
      make_port_rule(config);
    } else {
      make_nic_rule(config);
    }
  }

  void make_port_rule(Config& config) {
    auto any_port = [&] {
      return std::next(config.ports.begin(), static_cast<std::ptrdiff_t>(below(config.ports.size())))->first;
    };
    RuleConfig rule;
    rule.port = any_port();
    rule.match = one_of({"", "ip_proto tcp dst_port 80", "dst_ip 10.0.0.0/8"});
    rule.to = any_port();
    if (rule.to == rule.port) {
      rule.to = config.nics.empty() || one_in(2) ? "drop" : "nic:" + config.nics.begin()->first;
    }
    rule.priority = one_of({0, 100, -5});
    config.rules.push_back(std::move(rule));
  }

  static std::string other_nic(const Config& config, const std::string& nic) {
    for (const auto& [name, unused] : config.nics) {
      if (name != nic) {
        return name;
      }
    }
    return "";
  }

  void make_nic_rule(Config& config) {
    RuleConfig rule;
    if (!config.nics.empty() && one_in(2)) {
      rule.nic =
          std::next(config.nics.begin(), static_cast<std::ptrdiff_t>(below(config.nics.size())))->first;
    }
    rule.match = one_of({"", "ip_proto udp dst_port 53", "dst_port 1000-2000", "src_ip 10.0.0.0/8"});
    std::size_t target = below(config.ports.size() + 3);
    rule.to = target < config.ports.size()
                  ? std::next(config.ports.begin(), static_cast<std::ptrdiff_t>(target))->first
              : target == config.ports.size()     ? "kernel"
              : target == config.ports.size() + 1 ? "drop"
                                                  : "netdev:eth9";
    if (const std::string other = other_nic(config, rule.nic);
        !rule.nic.empty() && !other.empty() && one_in(4)) {
      rule.to = "nic:" + other;
    }
    rule.priority = one_of({0, 100, -5});
    auto to = config.ports.find(rule.to);
    rule.shed = to != config.ports.end() && to->second.app() != nullptr && one_in(2);
    config.rules.push_back(std::move(rule));
  }

  std::mt19937_64 random_;
};

}  // namespace sluice
