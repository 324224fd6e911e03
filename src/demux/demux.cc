#include "demux/demux.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cap-ng.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <iterator>
#include <string>

#include "base/check.h"
#include "base/untrusted.h"
#include "demux.skel.h"

namespace sluice {

namespace {

static_assert(SLUICE_DEMUX_RULES == kMaxRules);
static_assert(SLUICE_DEMUX_PORTS == kMaxPorts);
static_assert(SLUICE_PORT_KERNEL == static_cast<int>(PortKind::kKernel));
static_assert(SLUICE_PORT_DROP == static_cast<int>(PortKind::kDrop));
static_assert(SLUICE_PORT_NETDEV == static_cast<int>(PortKind::kNetdev));
static_assert(SLUICE_PORT_SOCKET == static_cast<int>(PortKind::kSocket));
static_assert(SLUICE_PORT_DETACHED == static_cast<int>(PortKind::kDetached));

constexpr std::uint32_t kMaxQueues = 65536;  // of one NIC; XDP itself counts them in 16 bits
constexpr std::size_t kLogBytes =
    1u << 20;  // of the verifier; cut off at the front by libbpf when it is longer
constexpr std::size_t kLogLinesShown = 8;

// While it lives, what libbpf says on this thread is kept for an error message and not printed.
class CapturedMessages {
 public:
  CapturedMessages() : previous_(libbpf_set_print(&capture)) { text_.clear(); }
  ~CapturedMessages() { libbpf_set_print(previous_); }
  CapturedMessages(const CapturedMessages&) = delete;
  CapturedMessages& operator=(const CapturedMessages&) = delete;

  static const std::string& text() { return text_; }

 private:
  static int capture(libbpf_print_level level, const char* format, va_list arguments) {
    if (level != LIBBPF_DEBUG) {
      char line[1024];
      std::vsnprintf(line, sizeof line, format, arguments);
      text_ += line;
    }
    return 0;
  }
  libbpf_print_fn_t previous_;
  static thread_local std::string text_;
};
thread_local std::string CapturedMessages::text_;

std::string last_lines(std::string_view text, std::size_t count) {
  while (text.ends_with('\n') || text.ends_with('\0')) {
    text.remove_suffix(1);
  }
  std::size_t at = text.size();
  while (count > 0 && at != 0 && at != std::string_view::npos) {
    at = text.rfind('\n', at - 1);
    --count;
  }
  return std::string(at == std::string_view::npos || at == 0 ? text : text.substr(at + 1));
}

std::string missing_privileges() {
  std::string missing;
  if (::capng_get_caps_process() != 0) {
    return missing;
  }
  bool admin = ::capng_have_capability(CAPNG_EFFECTIVE, CAP_SYS_ADMIN);
  auto need = [&](unsigned capability, const char* name) {
    if (!::capng_have_capability(CAPNG_EFFECTIVE, capability)) {
      missing += (missing.empty() ? "" : " and ") + std::string(name);
    }
  };
  if (!admin) {
    need(CAP_BPF, "CAP_BPF");
    need(CAP_PERFMON,
         "CAP_PERFMON");  // the verifier: arithmetic on packet pointers, and no barriers against speculation
  }
  need(CAP_NET_ADMIN, "CAP_NET_ADMIN");
  return missing;
}

// Asked only after a failure: which of the kernel's parts is not there.
std::string missing_in_kernel() {
  struct Part {
    bool there;
    const char* name;
  };
  const Part parts[] = {
      {libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_XDP, nullptr) == 1, "XDP programs"},
      {libbpf_probe_bpf_map_type(BPF_MAP_TYPE_XSKMAP, nullptr) == 1, "AF_XDP (CONFIG_XDP_SOCKETS)"},
      {libbpf_probe_bpf_map_type(BPF_MAP_TYPE_DEVMAP, nullptr) == 1, "DEVMAP"},
      {libbpf_probe_bpf_map_type(BPF_MAP_TYPE_ARRAY_OF_MAPS, nullptr) == 1, "maps in maps"},
      {libbpf_probe_bpf_helper(BPF_PROG_TYPE_XDP, BPF_FUNC_xdp_adjust_meta, nullptr) == 1, "XDP metadata"},
  };
  std::string missing;
  for (const Part& part : parts) {
    if (!part.there) {
      missing += (missing.empty() ? "" : ", ") + std::string(part.name);
    }
  }
  return missing;
}

std::unexpected<Error> explain_load_failure(int os_errno, std::string_view verifier,
                                            const std::string& messages) {
  if (os_errno == EPERM || os_errno == EACCES) {
    std::string privileges = missing_privileges();
    if (!privileges.empty()) {
      return fail_errno(os_errno, "cannot load the XDP program: {} is missing (run as root, or grant it)",
                        privileges);
    }
  }
  if (std::string missing = missing_in_kernel(); !missing.empty()) {
    return fail_errno(os_errno, "cannot load the XDP program: this kernel has no {}", missing);
  }
  if (os_errno == E2BIG && verifier.empty()) {
    return fail_errno(os_errno,
                      "cannot load the XDP program: this kernel is too old: map values of {} MiB are refused",
                      sizeof(sluice_rule_set) >> 20);
  }
  std::string lines = last_lines(verifier.empty() ? messages : verifier, kLogLinesShown);
  auto error = fail_errno(os_errno, "cannot load the XDP program");
  error.error().message += "; the kernel says:\n" + lines;
  return error;
}

std::uint64_t load(const sluice_u64& counter) {
  return read_once(counter);
}

void add(sluice_port_counters& sum, const sluice_port_counters& part) {
  sum.drop_shed += load(part.drop_shed);
  sum.drop_no_reader += load(part.drop_no_reader);
  sum.drop_no_socket += load(part.drop_no_socket);
  sum.drop_no_metadata += load(part.drop_no_metadata);
  sum.drop_no_netdev += load(part.drop_no_netdev);
  sum.drop_no_port += load(part.drop_no_port);
  sum.drop_owned_queue += load(part.drop_owned_queue);
  sum.drop_reserved += load(part.drop_reserved);
}

void add(sluice_program_counters& sum, const sluice_program_counters& part) {
  sum.pass += load(part.pass);
  sum.drop += load(part.drop);
  sum.redirect_netdev += load(part.redirect_netdev);
  sum.redirect_socket += load(part.redirect_socket);
  sum.no_rule += load(part.no_rule);
  sum.truncated += load(part.truncated);
  sum.fragments += load(part.fragments);
  sum.header_limit += load(part.header_limit);
}

void visit_drops(const sluice_port_counters& count, CounterVisitor& visitor) {
  visitor.counter("drop_shed", count.drop_shed);
  visitor.counter("drop_no_reader", count.drop_no_reader);
  visitor.counter("drop_no_socket", count.drop_no_socket);
  visitor.counter("drop_no_metadata", count.drop_no_metadata);
  visitor.counter("drop_no_netdev", count.drop_no_netdev);
  visitor.counter("drop_no_port", count.drop_no_port);
  visitor.counter("drop_owned_queue", count.drop_owned_queue);
  visitor.counter("drop_reserved", count.drop_reserved);
}

}  // namespace

void Demux::CloseSkeleton::operator()(demux_bpf* skeleton) const {
  demux_bpf::destroy(skeleton);
}

Result<std::unique_ptr<Demux>> Demux::load(std::uint32_t queue_count) {
  if (queue_count == 0 || queue_count > kMaxQueues) {
    return fail("a NIC with {} RX queues: expected 1 .. {}", queue_count, kMaxQueues);
  }
  int cpus = libbpf_num_possible_cpus();
  if (cpus <= 0) {
    return fail_errno(-cpus, "cannot count this machine's CPUs");
  }
  std::unique_ptr<Demux> demux(new Demux);
  demux->cpus_ = static_cast<std::uint32_t>(cpus);
  demux->queue_count_ = queue_count;
  demux->rule_base_.resize(kMaxRules);
  demux->slot_base_.resize(kMaxRules);
  demux->port_past_.resize(kMaxPorts);

  CapturedMessages messages;
  std::vector<char> log(kLogBytes);
  LIBBPF_OPTS(bpf_object_open_opts, options, .kernel_log_buf = log.data(), .kernel_log_size = log.size());
  demux->skeleton_.reset(demux_bpf::open(&options));
  if (!demux->skeleton_) {
    return explain_load_failure(errno, "", messages.text());
  }
  demux_bpf& skeleton = *demux->skeleton_;
  bpf_map__set_max_entries(skeleton.maps.counters, demux->cpus_);
  bpf_map__set_max_entries(skeleton.maps.sockets, queue_count);
  if (int error = demux_bpf::load(&skeleton); error != 0) {
    return explain_load_failure(-error, log.data(), messages.text());
  }
  auto counters = Mapping::map(bpf_map__fd(skeleton.maps.counters),
                               demux->cpus_ * sizeof(sluice_cpu_counters), PROT_READ);
  if (!counters) {
    return with_context("counters of the XDP program", counters.error());
  }
  demux->counters_ = std::move(*counters);
  skeleton.data_now->some_set_apart = queue_count > SLUICE_DEMUX_QUEUES;
  demux->port_entry(PortId::kKernel).kind = SLUICE_PORT_KERNEL;
  demux->port_entry(PortId::kDrop).kind = SLUICE_PORT_DROP;
  return demux;
}

Demux::~Demux() = default;

int Demux::program_fd() const {
  return bpf_program__fd(skeleton_->progs.sluice_demux);
}

sluice_port& Demux::port_entry(PortId port) const {
  SLUICE_CHECK(raw(port) < kMaxPorts, "port {}", raw(port));
  return skeleton_->data_ports->ports[raw(port)];
}

Result<void> Demux::replace_rules(std::span<const Rule> rules) {
  LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = BPF_F_MMAPABLE);
  UniqueFd map(bpf_map_create(BPF_MAP_TYPE_ARRAY, "sluice_rules", sizeof(std::uint32_t),
                              sizeof(sluice_rule_set), 1, &options));
  if (!map) {
    return fail_errno(errno, "cannot make a map of {} MiB for {} rules", sizeof(sluice_rule_set) >> 20,
                      rules.size());
  }
  // The kernel rounds an array up to whole pages; the mapping is of the value's own length.
  auto image = Mapping::map(map.get(), sizeof(sluice_rule_set), PROT_READ | PROT_WRITE);
  if (!image) {
    return with_context("rules of the XDP program", image.error());
  }
  auto& set = *reinterpret_cast<sluice_rule_set*>(image->data());
  auto compiled = SLUICE_TRY(compile_rules(rules, set));
  set.serial = rule_sets_ + 1;
  SLUICE_TRY(publish(map.get(), set.serial));
  compiled_ = compiled;
  note_ports_of(rules);
  return {};
}

// One store in the kernel, which then waits until no program can be using the old set
// (maybe_wait_bpf_programs() in kernel/bpf/syscall.c) and frees it. A program that began with the old serial
// may use what its CPU found with the old set, so that serial goes first, and the wait is for these programs,
// too.
Result<void> Demux::publish(int map_fd, sluice_u64 serial) {
  std::atomic_ref present(skeleton_->data_now->present_serial);
  const auto previous = present.exchange(SLUICE_SERIAL_NONE);
  std::uint32_t slot = 0;
  if (bpf_map_update_elem(bpf_map__fd(skeleton_->maps.rule_sets), &slot, &map_fd, BPF_ANY) != 0) {
    int error = errno;
    present.store(previous);
    return fail_errno(error, "cannot publish the rules");
  }
  rule_sets_ = serial;
  present.store(serial);
  return {};
}

// The new rules are published, so a slot whose rule is gone counts no more.
void Demux::note_ports_of(std::span<const Rule> rules) {
  std::vector<PortSlot> fresh;
  fresh.reserve(rules.size());
  for (const Rule& rule : rules) {
    fresh.emplace_back(rule.port, rule.slot);
  }
  std::ranges::sort(fresh);
  std::vector<PortSlot> gone;
  std::ranges::set_difference(port_slots_, fresh, std::back_inserter(gone));
  for (auto [port, slot] : gone) {
    const RuleCount sum = rule_sum(slot);
    port_past_[raw(port)] += sum - slot_base_[raw(slot)];
    slot_base_[raw(slot)] = sum;
  }
  port_slots_ = std::move(fresh);
}

Result<void> Demux::set_port(PortId port, PortEntry entry) {
  SLUICE_CHECK(raw(port) >= kFirstFreePortId, "port {} is fixed", raw(port));
  sluice_port& shared = port_entry(port);
  std::uint32_t index = raw(port);
  int devices = bpf_map__fd(skeleton_->maps.netdevs);
  if (entry.kind == PortKind::kNetdev) {
    if (bpf_map_update_elem(devices, &index, &entry.ifindex, BPF_ANY) != 0) {
      return fail_errno(errno, "cannot redirect port {} to the netdev with index {}", index, entry.ifindex);
    }
  }
  bool was_netdev = read_once(shared.kind) == SLUICE_PORT_NETDEV;
  if (entry.kind == PortKind::kUnused) {
    write_once<sluice_u64>(shared.pressure, 0);
  }
  write_once(shared.trusted, entry.trusted ? 1u : 0u);
  write_once(shared.kind, static_cast<sluice_u32>(entry.kind), std::memory_order_release);
  if (was_netdev && entry.kind != PortKind::kNetdev) {
    bpf_map_delete_elem(devices, &index);  // fails only if the kernel took it away with the device
  }
  return {};
}

void Demux::leave_to_kernel(QueueId queue) {
  if (raw(queue) < SLUICE_DEMUX_QUEUES) {
    write_once(skeleton_->data_queues->queues[raw(queue)].owner, SLUICE_QUEUE_KERNEL);
    write_once(skeleton_->data_now->some_set_apart, 1u);
  }
}

void Demux::set_queue_owner(QueueId queue, std::optional<PortId> owner) {
  if (raw(queue) >= SLUICE_DEMUX_QUEUES) {
    return;  // left to the kernel
  }
  sluice_u32& place = skeleton_->data_queues->queues[raw(queue)].owner;
  if (read_once(place) == SLUICE_QUEUE_KERNEL) {
    return;
  }
  write_once(place, owner ? sluice_u32{raw(*owner)} : SLUICE_QUEUE_SHARED);
  if (owner) {
    write_once(skeleton_->data_now->some_set_apart, 1u);
  }
}

std::uint64_t Demux::drops_on_owned_queue(QueueId queue) const {
  return raw(queue) < SLUICE_DEMUX_QUEUES
             ? sluice::load(skeleton_->data_queues->queues[raw(queue)].drop_owned_queue)
             : 0;
}

Result<void> Demux::set_socket(QueueId queue, int socket_fd) {
  std::uint32_t index = raw(queue);
  if (index >= queue_count_) {
    return fail("queue {} of a NIC with {} RX queues", index, queue_count_);
  }
  if (bpf_map_update_elem(bpf_map__fd(skeleton_->maps.sockets), &index, &socket_fd, BPF_ANY) != 0) {
    return fail_errno(errno, "cannot give queue {} to its AF_XDP socket", index);
  }
  return {};
}

Result<void> Demux::clear_socket(QueueId queue) {
  std::uint32_t index = raw(queue);
  if (index >= queue_count_) {
    return fail("queue {} of a NIC with {} RX queues", index, queue_count_);
  }
  // A socket that was closed has left the map by itself.
  if (bpf_map_delete_elem(bpf_map__fd(skeleton_->maps.sockets), &index) != 0 && errno != ENOENT) {
    return fail_errno(errno, "cannot take queue {} from its AF_XDP socket", index);
  }
  return {};
}

void Demux::set_pressure(PortId port, WorkerId worker, bool on) {
  SLUICE_CHECK(raw(worker) < 64, "worker {}", raw(worker));
  std::atomic_ref<sluice_u64> pressure(port_entry(port).pressure);
  sluice_u64 bit = 1ull << raw(worker);
  if (on) {
    pressure.fetch_or(bit, std::memory_order_relaxed);
  } else {
    pressure.fetch_and(~bit, std::memory_order_relaxed);
  }
}

const sluice_cpu_counters& Demux::of_cpu(std::uint32_t cpu) const {
  return reinterpret_cast<const sluice_cpu_counters*>(counters_.data())[cpu];
}

RuleCount& RuleCount::operator+=(const RuleCount& more) {
  packets += more.packets;
  bytes += more.bytes;
  return *this;
}

RuleCount RuleCount::operator-(const RuleCount& less) const {
  return RuleCount{.packets = packets - less.packets, .bytes = bytes - less.bytes};
}

RuleCount Demux::rule_sum(RuleSlot slot) const {
  RuleCount sum;
  for (std::uint32_t cpu = 0; cpu < cpus_; ++cpu) {
    const sluice_rule_counters& part = of_cpu(cpu).rule[raw(slot)];
    sum += RuleCount{.packets = sluice::load(part.packets), .bytes = sluice::load(part.bytes)};
  }
  return sum;
}

sluice_port_counters Demux::port_sum(PortId port) const {
  sluice_port_counters sum{};
  for (std::uint32_t cpu = 0; cpu < cpus_; ++cpu) {
    add(sum, of_cpu(cpu).port[raw(port)]);
  }
  return sum;
}

Result<RuleCount> Demux::rule_count(RuleSlot slot) const {
  if (raw(slot) >= kMaxRules) {
    return fail("rule slot {}: expected 0 .. {}", raw(slot), kMaxRules - 1);
  }
  return rule_sum(slot) - rule_base_[raw(slot)];
}

Result<void> Demux::clear_rule_count(RuleSlot slot) {
  if (raw(slot) >= kMaxRules) {
    return fail("rule slot {}: expected 0 .. {}", raw(slot), kMaxRules - 1);
  }
  rule_base_[raw(slot)] = rule_sum(slot);
  return {};
}

void Demux::visit_port(PortId port, CounterVisitor& visitor) const {
  SLUICE_CHECK(raw(port) < kMaxPorts, "port {}", raw(port));
  RuleCount led = port_past_[raw(port)];
  for (auto [_, slot] : std::ranges::equal_range(port_slots_, port, {}, &PortSlot::first)) {
    led += rule_sum(slot) - slot_base_[raw(slot)];
  }
  visitor.counter("packets", led.packets);
  visitor.counter("bytes", led.bytes);
  visit_drops(port_sum(port), visitor);
}

void Demux::visit(CounterVisitor& visitor) const {
  sluice_program_counters count{};
  sluice_port_counters ports{};
  for (std::uint32_t cpu = 0; cpu < cpus_; ++cpu) {
    add(count, of_cpu(cpu).program);
    for (const sluice_port_counters& port : of_cpu(cpu).port) {
      add(ports, port);
    }
  }
  visitor.counter("pass", count.pass);
  visitor.counter("drop", count.drop);
  visitor.counter("redirect_netdev", count.redirect_netdev);
  visitor.counter("redirect_socket", count.redirect_socket);
  visitor.counter("no_rule", count.no_rule);
  visitor.counter("truncated", count.truncated);
  visitor.counter("fragments", count.fragments);
  visitor.counter("header_limit", count.header_limit);
  visit_drops(ports, visitor);
}

}  // namespace sluice
