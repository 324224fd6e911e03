// NICs and ports without a machine below them, for tests: each call is remembered, and any one can be made
// to fail.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <new>
#include <set>
#include <string>
#include <vector>

#include "control/engine/nic.h"
#include "control/port_types/port_type.h"

namespace sluice::test {

// Counts the calls that may fail, and lets one of them.
struct Faults {
  enum class Kind { kNone, kError, kNoMemory } kind = Kind::kNone;
  std::uint64_t at = 0;  // which call, from 1
  std::uint64_t calls = 0;
  std::string hit;  // the call that failed

  // A system call: it has no memory to run out of.
  Result<void> system_call(const std::string& what) {
    if (++calls != at || kind == Kind::kNone) {
      return {};
    }
    hit = what;
    return fail("{} was made to fail", what);
  }
  Result<void> call(const std::string& what) {
    auto done = system_call(what);
    if (!done && kind == Kind::kNoMemory) {
      std::rethrow_exception(std::make_exception_ptr(std::bad_alloc()));
    }
    return done;
  }
};

class FakeProgram final : public NicProgram {
 public:
  explicit FakeProgram(Faults& faults) : faults_(faults) {}

  Result<void> set_port(PortId port, PortEntry entry) override {
    SLUICE_TRY(faults_.system_call("set_port"));
    if (refuses_ports) {
      return fail("it takes no ports");
    }
    if (entry == PortEntry{}) {
      ports.erase(port);
    } else {
      ports[port] = entry;
    }
    return {};
  }
  void set_pressure(PortId port, WorkerId worker, bool on) override {
    if (on) {
      pressed.emplace(port, worker);
    } else {
      pressed.erase({port, worker});
    }
  }
  Result<void> replace_rules(std::span<const Rule> fresh) override {
    SLUICE_TRY(faults_.call("replace_rules"));
    if (refuses_rules) {
      return fail("it takes no rules");
    }
    rules.assign(fresh.begin(), fresh.end());
    return {};
  }
  Result<RuleCount> rule_count(RuleSlot slot) const override { return RuleCount{raw(slot) + 1u, 0}; }
  Result<void> clear_rule_count(RuleSlot slot) override {
    cleared.push_back(slot);
    return faults_.call("clear_rule_count");
  }
  void visit_port(PortId, CounterVisitor&) const override {}
  void visit(CounterVisitor&) const override {}
  std::uint64_t drops_on_owned_queue(QueueId) const override { return 0; }

  bool leads_to(PortId port) const {
    return std::ranges::any_of(rules, [port](const Rule& rule) { return rule.port == port; });
  }

  bool refuses_ports = false, refuses_rules = false;
  std::map<PortId, PortEntry> ports;
  std::set<std::pair<PortId, WorkerId>> pressed;
  std::vector<Rule> rules;
  std::vector<RuleSlot> cleared;

 private:
  Faults& faults_;
};

class FakeNic final : public Nic {
 public:
  FakeNic(const NicConfig& config, const Wiring& wiring, Faults& faults, std::uint16_t queues)
      : Nic(config, wiring), faults_(faults), program_(faults) {
    info_.ifindex = 100;
    info_.rx_queues = queues;
    info_.mac = {2, 0, 0, 0, 0xff, static_cast<std::uint8_t>(raw(wiring.id))};
    for (std::uint16_t queue = 0; queue < queues; ++queue) {
      given_.push_back(QueueId{queue});
    }
  }

  FakeProgram& program() override { return program_; }
  bool native() const override { return true; }
  void open_host_queue(QueueId queue) override {
    EXPECT_FALSE(open.contains(queue)) << "queue " << raw(queue) << " is open";
    open[queue] = std::nullopt;
  }
  void open_owned_queue(QueueId queue, PortId owner, bool, Umem&, PagePool&) override {
    EXPECT_FALSE(open.contains(queue)) << "queue " << raw(queue) << " is open";
    open[queue] = owner;
  }
  void close_queue(QueueId queue) override { open.erase(queue); }
  bool has_queue(QueueId queue) const override { return open.contains(queue); }
  std::optional<PortId> owner_of(QueueId queue) const override {
    auto found = open.find(queue);
    return found == open.end() ? std::nullopt : found->second;
  }
  std::uint32_t pages_of_queue(QueueId) const override { return 64; }
  bool worker_sends(WorkerId) const override { return true; }
  Result<void> serve_addresses(std::span<const MacAddress> macs) override {
    SLUICE_TRY(faults_.call("serve_addresses"));
    served.assign(macs.begin(), macs.end());
    return {};
  }
  void visit(CounterVisitor&) const override {}
  const std::map<QueueId, KeptQueue*>& queues() const override { return kept_; }

  std::map<QueueId, std::optional<PortId>> open;  // and whose it is
  std::vector<MacAddress> served;

 private:
  Faults& faults_;
  FakeProgram program_;
  const std::map<QueueId, KeptQueue*> kept_;
};

class FakeMachine final : public Machine {
 public:
  explicit FakeMachine(Faults& faults) : faults_(faults) {}

  Result<std::unique_ptr<Nic>> attach(const NicConfig& config, const Nic::Wiring& wiring) override {
    SLUICE_TRY(faults_.call("attach"));
    if (!devices.contains(config.netdev)) {
      return fail("no device");
    }
    auto nic = std::make_unique<FakeNic>(config, wiring, faults_, queues);
    nics[config.netdev] = nic.get();
    return std::unique_ptr<Nic>(std::move(nic));
  }
  Result<NicInfo> nic_info(const std::string&) override { return fail("not asked"); }
  unsigned ifindex(const std::string& netdev) override {
    auto found = devices.find(netdev);
    return found == devices.end() ? 0 : found->second;
  }

  std::map<std::string, unsigned> devices;
  std::uint16_t queues = 2;
  std::map<std::string, FakeNic*> nics;  // the last that was attached

 private:
  Faults& faults_;
};

class FakePort final : public Port {
 public:
  FakePort(PortId id, const PortServices& services, std::uint64_t& cut_off)
      : id_(id), services_(services), cut_off_(cut_off) {
    services_.states.set_attached(id, true);
  }
  ~FakePort() override { services_.states.set_attached(id_, false); }
  PortId id() const override { return id_; }
  void cut_off_stalled(std::uint64_t) override { ++cut_off_; }
  void visit(CounterVisitor&) const override {}
  PortInfo info() const override { return {.state = "attached"}; }

 private:
  const PortId id_;
  const PortServices services_;
  std::uint64_t& cut_off_;
};

// Ports of any type: one that is on the switch is called so by its type.
class FakeType final : public PortType {
 public:
  FakeType(Faults& faults, bool on_switch) : faults_(faults), on_switch_(on_switch) {}

  PortTraits traits(const PortConfig& config) const override {
    const auto queues = config.owned_queues();
    return {.on_switch = on_switch_,
            .trusted = config.trust(),
            .judges_tags = config.trust(),
            .queues = {queues.begin(), queues.end()}};
  }
  Descriptors descriptors(const PortConfig&, std::size_t) const override { return {.port = 1, .session = 1}; }
  Result<std::unique_ptr<Port>> make(const PortConfig&, const PortPlace& place,
                                     const PortServices& services) override {
    SLUICE_TRY(faults_.call("make"));
    return std::make_unique<FakePort>(place.id, services, cut_off);
  }

  std::uint64_t cut_off = 0;

 private:
  Faults& faults_;
  const bool on_switch_;
};

}  // namespace sluice::test
