// What the demux adds to a packet: nanoseconds per run of the program, against a program that only redirects.
//
//   demux_bench [--json] [CASE]      CASE: part of a case's name
//
// By BPF_PROG_TEST_RUN: one CPU, no NIC, frame in the cache. It shows what the program costs by itself, which
// is all that rules can change; what that is of a packet's whole way, live traffic shows (bench/).
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "demux/demux.h"
#include "demux/packet_builder.h"
#include "demux/test_run.h"
#include "demux_bench.skel.h"

namespace sluice {
namespace {

using testing::Bytes;
using testing::PacketBuilder;

constexpr std::uint32_t kRepeat = 20'000;
constexpr int kRounds = 101;  // rounds of both sides in turn; the best of each counts
constexpr double kWholePacketNs =
    390;  // veth in native mode with a bare AF_XDP reader, one core (docs/demux.md)

struct Case {
  std::string name;
  std::vector<Rule> rules;
  std::uint32_t flows;  // destination ports from 1 on
  Bytes frame;
  double goal_ratio = 0;  // against `base`, 0: none
  std::string base = "bare";
  bool train = false;  // all packets alike; else each has another source address, and is looked up
};

Rule rule_of(const std::string& match, std::uint32_t slot, std::int32_t priority = 0) {
  return Rule{
      .match = parse_match(match).value(), .port = PortId{2}, .priority = priority, .slot = RuleSlot{slot}};
}

std::vector<Rule> port_rules(std::uint32_t count) {
  std::vector<Rule> rules;
  for (std::uint32_t i = 0; i < count; ++i) {
    rules.push_back(rule_of(fmt::format("ip_proto udp dst_port {}", i + 1), i));
  }
  return rules;
}

// `masks` - 1 masks that are looked up in vain before the one that matches. Each has two rules, so that it
// cannot be passed over.
std::vector<Rule> many_masks(std::uint32_t masks) {
  std::vector<Rule> rules;
  for (std::uint32_t i = 0; i + 1 < masks; ++i) {
    rules.push_back(
        rule_of(fmt::format("src_ip 192.168.0.0/{} dst_port {}", i % 31 + 2, 60000 + i), 2 * i, 10));
    rules.push_back(rule_of(fmt::format("src_ip 192.168.0.0/{} dst_port {}", i % 31 + 2, 1), 2 * i + 1, 10));
  }
  rules.push_back(rule_of("ip_proto udp dst_port 1", 2 * masks));
  return rules;
}

std::vector<Case> cases() {
  Bytes udp = PacketBuilder().ipv4("10.0.0.1", "10.0.0.2").udp(4000, 1).payload(18).build();
  Bytes vlan = PacketBuilder().tag(5).ipv4("10.0.0.1", "10.0.0.2").udp(4000, 1).payload(18).build();
  Bytes v6 = PacketBuilder().ipv6("2001:db8::1", "2001:db8::2").udp(4000, 1).payload(18).build();
  return {
      {"no rules (pass)", {}, 1, udp},
      {"1 rule", port_rules(1), 1, udp},
      {"1 rule, a train of one flow", port_rules(1), 1, udp, 0, "bare", true},
      {"10 rules, one flow", port_rules(10), 1, udp},
      {"10 rules, all flows", port_rules(10), 10, udp},
      {"10000 rules, one flow", port_rules(10000), 1, udp, 1.1, "10 rules, one flow"},
      {"10000 rules, all flows", port_rules(10000), 10000, udp, 1.1, "10 rules, all flows"},
      {"60000 rules, all flows", port_rules(60000), 60000, udp},
      {"32 masks", many_masks(32), 1, udp},
      {"1 rule on 5-tuple", {rule_of("ip_proto udp src_ip 10.0.0.1 dst_ip 10.0.0.2 dst_port 1", 0)}, 1, udp},
      {"1 rule on dst_mac", {rule_of("dst_mac 02:00:00:00:00:01", 0)}, 1, udp},
      {"1 rule on vlan, tagged", {rule_of("vlan_id 5", 0)}, 1, vlan},
      {"1 rule on IPv6 address", {rule_of("dst_ip 2001:db8::2", 0)}, 1, v6},
      {"1 rule with a port range", {rule_of("ip_proto udp dst_port 1-1000", 0)}, 1, udp},
  };
}

class Bench {
 public:
  bool start() {
    skeleton_ = demux_bench_bpf::open_and_load();
    auto demux = Demux::load(64);
    if (skeleton_ == nullptr || !demux) {
      fmt::print(stderr, "demux_bench: {}\n",
                 demux ? "cannot load its own programs (run as root)" : demux.error().message);
      return false;
    }
    demux_ = std::move(*demux);
    // A socket need not be bound to stand in the map; nothing is delivered in a test run.
    socket_.reset(::socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0));
    std::uint32_t queue = 0;
    int fd = socket_.get();
    bpf_map_update_elem(bpf_map__fd(skeleton_->maps.sockets), &queue, &fd, BPF_ANY);
    return demux_->set_socket(QueueId{0}, fd) && demux_->set_port(PortId{2}, {.kind = PortKind::kSocket});
  }
  ~Bench() { demux_bench_bpf::destroy(skeleton_); }

  // Best of the rounds, bare and ours in turn, so that a change of the machine's pace meets both.
  std::pair<double, double> measure(const Case& test) {
    auto replaced = demux_->replace_rules(test.rules);
    if (!replaced) {
      fmt::print(stderr, "demux_bench: {}: {}\n", test.name, replaced.error().message);
      std::exit(1);
    }
    skeleton_->bss->flow_count = test.flows;
    skeleton_->bss->first_port = 1;
    skeleton_->bss->train = test.train ? 1 : 0;
    double bare = 1e9, ours = 1e9;
    for (int round = 0; round < kRounds; ++round) {
      bare_meta = std::min(bare_meta, run(bare_meta_fd(), test.frame));
      bare = std::min(bare, run(bpf_program__fd(skeleton_->progs.bare), test.frame));
      ours = std::min(ours, run(demux_->program_fd(), test.frame));
    }
    return {bare, ours};
  }

  static std::uint32_t jited_bytes(int program) {
    bpf_prog_info info{};
    std::uint32_t length = sizeof info;
    bpf_obj_get_info_by_fd(program, &info, &length);
    return info.jited_prog_len;
  }
  static std::uint32_t instructions(int program) {
    bpf_prog_info info{};
    std::uint32_t length = sizeof info;
    bpf_obj_get_info_by_fd(program, &info, &length);
    return info.xlated_prog_len / 8;
  }
  int bare_meta_fd() const { return bpf_program__fd(skeleton_->progs.bare_meta); }
  int bare_fd() const { return bpf_program__fd(skeleton_->progs.bare); }
  int demux_fd() const { return demux_->program_fd(); }

  double bare_meta = 1e9;  // of all cases

 private:
  double run(int program, const Bytes& frame) {
    std::uint32_t zero = 0;
    bpf_map_update_elem(bpf_map__fd(skeleton_->maps.measured), &zero, &program, BPF_ANY);
    return testing::test_run(bpf_program__fd(skeleton_->progs.again), frame, {.repeat = kRepeat})
        .ns_per_packet;
  }
  demux_bench_bpf* skeleton_ = nullptr;
  std::unique_ptr<Demux> demux_;
  UniqueFd socket_;
};

int main_of(bool json, std::string_view only) {
  Bench bench;
  if (!bench.start()) {
    return 1;
  }
  if (!json) {
    fmt::print("bare redirect: {} instructions, {} bytes of machine code; demux: {}, {}\n",
               Bench::instructions(bench.bare_fd()), Bench::jited_bytes(bench.bare_fd()),
               Bench::instructions(bench.demux_fd()), Bench::jited_bytes(bench.demux_fd()));
    fmt::print("{:<28} {:>8} {:>8} {:>8} {:>22}\n", "ns per packet", "bare", "demux", "added",
               "of a 390 ns packet");
  }
  nlohmann::json results = nlohmann::json::array();
  std::vector<std::pair<std::string, double>> ours_by_name;
  for (const Case& test : cases()) {
    if (test.name.find(only) == std::string::npos) {
      continue;
    }
    auto [bare, ours] = bench.measure(test);
    ours_by_name.emplace_back(test.name, ours);
    double peer = bare;
    std::string peer_name = "bare XSKMAP redirect";
    double ratio = kWholePacketNs / (kWholePacketNs + ours - bare);  // of a bare reader's packet rate
    double goal = 0.97;
    if (test.goal_ratio != 0) {
      auto base = std::ranges::find(ours_by_name, test.base, &std::pair<std::string, double>::first);
      if (base == ours_by_name.end()) {
        continue;
      }
      peer = base->second;
      peer_name = test.base;
      // Of the whole packet's cost, as the goal is meant.
      ratio = (kWholePacketNs + ours - bare) / (kWholePacketNs + peer - bare);
      goal = test.goal_ratio;
    }
    bool met = test.goal_ratio != 0 ? ratio <= goal : ratio >= goal;
    results.push_back(
        {{"name", "demux: " + test.name},
         {"unit", "ns"},
         {"sluice", ours},
         {"peer", peer},
         {"peer_name", peer_name},
         {"ratio", ratio},
         {"goal", goal},
         {"met", met},
         {"note", fmt::format("ratio of whole packets, of which a bare reader's is taken as {} ns",
                              kWholePacketNs)}});
    if (!json) {
      fmt::print("{:<28} {:>8} {:>8} {:>8} {:>8.3f} (goal {:.2f}) {}\n", test.name, bare, ours, ours - bare,
                 ratio, goal, met ? "met" : "NOT MET");
    }
  }
  if (!json) {
    fmt::print("bare redirect that writes 4 bytes of metadata: {} ns\n", bench.bare_meta);
  }
  if (json) {
    fmt::print("{}\n", nlohmann::json{{"results", results}}.dump(2));
  }
  return 0;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  bool json = argc > 1 && std::strcmp(argv[1], "--json") == 0;
  int rest = json ? 2 : 1;
  return sluice::main_of(json, argc > rest ? argv[rest] : "");
}
