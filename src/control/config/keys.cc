#include "control/config/keys.h"

#include <unistd.h>

namespace sluice {

namespace {

constexpr std::string_view kLogLevels[] = {"trace", "debug", "info", "warning", "error", "off"};
constexpr std::string_view kHugePages[] = {"auto", "never", "required"};
constexpr std::string_view kOwnSocket = "\"/run/sluice/NAME.sock\"";

using Range = IntegerRange;
constexpr Range kRate{0, 1'000'000'000};
constexpr Range kVlan{0, 4094};   // IEEE 802.1Q: 4095 is reserved; 0 is no VLAN
constexpr Range kMtu{68, 65521};  // drivers/net/tun.c: MIN_MTU, MAX_MTU less an Ethernet header

template <typename Class, typename Value>
Class class_of(Value Class::*);

// The member of this section, or of what its type of port has.
template <auto Member, typename Section>
Field at(Section& section) {
  using Class = decltype(class_of(Member));
  if constexpr (std::is_same_v<Class, Section>) {
    return &(section.*Member);
  } else {
    Field field;
    std::visit(
        [&field]<typename Typed>(Typed& typed) {
          if constexpr (std::is_base_of_v<Class, Typed>) {
            field = &(typed.*Member);
          }
        },
        section.of_type);
    return field;
  }
}

template <auto Member>
constexpr auto kIn = &at<Member, decltype(class_of(Member))>;
template <auto Member>
constexpr auto kInPort = &at<Member, PortConfig>;

constexpr KeyOf<DaemonConfig> kDaemonKeys[] = {
    {{.name = "control",
      .says = "absolute path of at most 107 bytes: the socket that `sluicectl` speaks to",
      .always_written = true},
     kIn<&DaemonConfig::control>},
    {{.name = "control_group",
      .says = "a group that may use the socket; without it only the daemon's user",
      .by_default = "none"},
     kIn<&DaemonConfig::control_group>},
    {{.name = "log", .says = "how much is written to the journal", .words = kLogLevels},
     kIn<&DaemonConfig::log>},
    // XDP_UMEM_REG: 2048 .. the kernel's page size
    {{.name = "page_bytes",
      .says = "the size of a page, and with it the largest frame and its headroom",
      .range = {2048, 4096, Range::Kind::kPowerOfTwo},
      .unit = "bytes"},
     kIn<&DaemonConfig::page_bytes>},
    {{.name = "huge_pages",
      .says =
          "`auto`: reserved ones if there are enough, else transparent ones if they can be had; `required`: "
          "reserved ones, or an error",
      .words = kHugePages},
     kIn<&DaemonConfig::huge_pages>},
    {{.name = "guest_memory",
      .says = "the most memory of all guests together that is mapped; one more region is refused "
              "(`fault_memory_budget`)",
      .page = "guest.md#memory"},
     kIn<&DaemonConfig::guest_memory_bytes>},
    {{.name = "workers",
      .says = "1 to 64 tables, one for each worker thread",
      .elements = "tables, one per worker, for example [ { cpu = 0 } ]",
      .by_default = "one, unpinned",
      .always_written = true},
     kIn<&DaemonConfig::workers>},
};

constexpr KeyOf<WorkerConfig> kWorkerKeys[] = {
    {{.name = "cpu",
      .says = "a CPU of this machine that the thread is pinned to; else the scheduler chooses",
      .range = {.kind = Range::Kind::kCpu},
      .by_default = "none"},
     kIn<&WorkerConfig::cpu>},
    {{.name = "idle",
      .says =
          "`adaptive`: sleeps until something comes, naps while packets come fast; `awake`: the same, but "
          "its "
          "core does not halt while it naps, for virtual machines; it needs a `cpu`; `spin`: never sleeps, "
          "for a core of its own",
      .words = kIdleModeWords,
      .page = "worker.md#rest"},
     kIn<&WorkerConfig::idle>},
    {{.name = "latency_us",
      .says = "the longest delay that the worker adds to gather packets when they come fast; a lone packet "
              "is not "
              "kept waiting. `nap_us` is its earlier name",
      .range = {1, 1000},
      .unit = "us",
      .page = "worker.md#rest"},
     kIn<&WorkerConfig::latency_us>},
    {{.name = "nap_us", .says = {}, .range = {1, 1000}, .now_called = "latency_us"},
     kIn<&WorkerConfig::latency_us>},
};

constexpr KeyOf<NicConfig> kNicKeys[] = {
    {{.name = "queues",
      .says = "the RX queues that Sluice may use, each 0 to 65535; it never touches others",
      .range = {0, 65535},
      .elements = "queue numbers, for example [0, 1]",
      .always_written = true},
     kIn<&NicConfig::queues>},
    {{.name = "mode",
      .says = "`auto`: what the driver can do; `sluicectl show queues` says which one it became",
      .words = kBindModeWords},
     kIn<&NicConfig::mode>},
    {{.name = "ring",
      .says = "entries of a queue's RX ring and of its fill ring",
      .range = {64, 32768, Range::Kind::kPowerOfTwo}},
     kIn<&NicConfig::ring>},
};

constexpr KeyOf<PortConfig> kPortKeys[] = {
    {{.name = "type",
      .says = "what attaches: a program, a virtual machine, or the host itself",
      .required = kEveryType,
      .example = "\"app\"",
      .words = kPortTypes},
     [](PortConfig&) { return Field(); }},  // PortConfig::of_type
    {{.name = "socket",
      .says = "absolute path of at most 107 bytes that no other port has: where the program or the front-end "
              "(vhost-user) attaches",
      .of = kApp | kGuest,
      .required = kApp | kGuest,
      .example = kOwnSocket},
     kInPort<&SocketConfig::socket>},
    {{.name = "netdev",
      .says =
          "name of the network device that is made, 1 to 15 characters, of no NIC and no other port; it goes "
          "with the port",
      .of = kTap,
      .required = kTap,
      .example = "\"sluice0\""},
     kInPort<&TapConfig::netdev>},
    {{.name = "role",
      .says =
          "`server`: Sluice listens, QEMU connects (and again when Sluice was restarted, with `reconnect=`); "
          "`client`: the front-end listens, Sluice connects, again and again",
      .of = kGuest,
      .words = kGuestRoleWords},
     kInPort<&GuestConfig::role>},
    {{.name = "allow_users",
      .says =
          "who may attach; without any `allow_` key root and the daemon's user, with one root only if it is "
          "listed. Of a guest in the client role: who may be found listening",
      .of = kApp | kGuest,
      .elements = "user names or numbers",
      .by_default = "none"},
     kInPort<&SocketConfig::allow_users>},
    {{.name = "allow_groups",
      .says = "groups whose members may attach, as well as `allow_users`",
      .of = kApp | kGuest,
      .elements = "group names or numbers",
      .by_default = "none"},
     kInPort<&SocketConfig::allow_groups>},
    {{.name = "allow_cgroup",
      .says =
          "a path of cgroup v2, `\"/machine.slice/vm0.scope\"`: only processes in it or below, besides what "
          "the other two say. Linux 6.5",
      .of = kApp | kGuest,
      .by_default = "any"},
     kInPort<&SocketConfig::allow_cgroup>},
    {{.name = "mac",
      .says = "addresses that it may send from, and a guest's or tap's own; no group addresses. A tap has "
              "one. An "
              "app without one receives and sends nothing (`drop_tx_no_address`), but with `trust`",
      .required = kGuest | kTap,
      .example = "\"52:54:00:00:00:01\"",
      .by_default = "none"},
     kInPort<&PortConfig::mac>},
    {{.name = "address",
      .says = "IP addresses that the device gets",
      .of = kTap,
      .elements = "an address with its prefix, for example \"192.0.2.1/24\"",
      .good = is_cidr,
      .by_default = "none"},
     kInPort<&TapConfig::address>},
    {{.name = "mtu", .says = "of the device", .of = kTap, .range = kMtu, .unit = "bytes"},
     kInPort<&TapConfig::mtu>},
    {{.name = "vlan",
      .says =
          "its access VLAN: its frames get that tag on the switch and the wire, and it gets frames with that "
          "tag, without it. 0: untagged frames only, but for a port with `trust`",
      .range = kVlan},
     kInPort<&PortConfig::vlan>},
    {{.name = "uplink", .says = "the NIC that its frames leave by", .by_default = "see below"},
     kInPort<&PortConfig::uplink>},
    {{.name = "mode",
      .says = "`bridge`: frames for another port of the same uplink are delivered here; `vepa`: every frame "
              "leaves "
              "by the uplink; `private`: as vepa, and nothing that other ports here sent comes in",
      .of = kGuest | kTap,
      .words = kSwitchModeWords},
     kInPort<&SwitchPortConfig::mode>},
    {{.name = "trust", .says = "its source addresses and VLAN tags are not checked", .of = kApp | kGuest},
     kInPort<&SocketConfig::trust>},
    {{.name = "source_ip",
      .says = "addresses or prefixes that it may send from: IP, ARP and neighbour discovery",
      .elements = "an address or a prefix, for example \"192.0.2.5\" or \"2001:db8::/64\"",
      .good = is_address_or_cidr,
      .by_default = "any",
      .page = "switch.md"},
     kInPort<&PortConfig::source_ip>},
    {{.name = "frame_rate",
      .says = "frames that it may send; 0: no limit",
      .range = kRate,
      .unit = "a second"},
     kInPort<&PortConfig::frame_rate>},
    {{.name = "broadcast_rate",
      .says = "frames to group addresses that it may send; 0: no limit",
      .range = kRate,
      .unit = "a second"},
     kInPort<&PortConfig::broadcast_rate>},
    {{.name = "stall_budget_us",
      .says = "what it may cost a worker in a window beyond what its packets justify; 0: no limit",
      .of = kApp | kGuest,
      .range = {0, 10'000'000},
      .unit = "us",
      .page = "worker.md"},
     kInPort<&SocketConfig::stall_budget_us>},
    {{.name = "stall_window_ms",
      .says = "the length of that window",
      .of = kApp | kGuest,
      .range = {100, 60'000},
      .unit = "ms"},
     kInPort<&SocketConfig::stall_window_ms>},
    {{.name = "queue_pairs",
      .says = "the most pairs of queues that it is offered",
      .of = kGuest,
      .range = {1, kMaxQueuePairs}},
     kInPort<&GuestConfig::queue_pairs>},
    {{.name = "memory",
      .says =
          "the most memory that it may give, all regions together; more is refused (`fault_memory_budget`). "
          "Set it to the size of the VM: what it allows is allocated on the daemon's account",
      .of = kGuest,
      .page = "guest.md#memory"},
     kInPort<&GuestConfig::memory_bytes>},
    {{.name = "populate",
      .says =
          "its memory is faulted in before its rings start, on the daemon's account; pages larger than 2 MiB "
          "are taken only so",
      .of = kGuest,
      .page = "guest.md#memory"},
     kInPort<&GuestConfig::populate>},
    {{.name = "sealed_memory",
      .says = "its memory must be sealed against shrinking (QEMU: `memory-backend-memfd`, which is, unless "
              "`seal=off`), so it cannot be taken away; else it is refused (`fault_memory_unsealed`)",
      .of = kGuest},
     kInPort<&GuestConfig::sealed_memory>},
    {{.name = "pages",
      .says = "the most pages that the program may hold at one time",
      .of = kApp,
      .range = {64, 1'048'576}},
     kInPort<&AppConfig::pages>},
    {{.name = "ring",
      .says = "entries of its receive ring per worker; 0 chooses from `pages`",
      .of = kApp,
      .range = {64, 65536, Range::Kind::kPowerOfTwoOrZero}},
     kInPort<&AppConfig::ring>},
    {{.name = "queues",
      .says = "queues that it owns. Each is among the NIC's `queues` and has one owner. None: it shares the "
              "others",
      .of = kApp,
      .elements = "NIC queues, for example [\"eth1:1\"]",
      .by_default = "none"},
     kInPort<&AppConfig::queues>},
    {{.name = "attach_rate",
      .says =
          "sessions that may begin, after 5 at once; who comes earlier waits. Each is new memory, so 0, no "
          "limit, is for programs that are trusted",
      .of = kApp,
      .range = {0, 1'000},
      .unit = "a second"},
     kInPort<&AppConfig::attach_rate>},
    {{.name = "stall_timeout_ms",
      .says = "a program that holds its whole limit for so long without a return is cut off; 0: never",
      .of = kApp,
      .range = {0, 3'600'000},
      .unit = "ms"},
     kInPort<&AppConfig::stall_timeout_ms>},
    {{.name = "observe",
      .says =
          "on its owned queues, frames for other ports go their way through its memory, where it can read "
          "them, and the NIC's `mode` holds. Without it such frames are dropped as `drop_owned_queue`, and "
          "owned queues run in copy mode whatever `mode` says (D5)",
      .of = kApp,
      .page = "safety.md"},
     kInPort<&AppConfig::observe>},
};

constexpr KeyOf<RuleConfig> kRuleKeys[] = {
    {{.name = "nic", .says = "the NIC that the rule stands on", .by_default = "every NIC"},
     kIn<&RuleConfig::nic>},
    {{.name = "port",
      .says = "instead of `nic`: the port whose own packets the rule is for",
      .by_default = "none"},
     kIn<&RuleConfig::port>},
    {{.name = "match",
      .says = "what packets it is for; `\"\"` is all of them",
      .required = kEveryType,
      .example = "\"ip_proto udp dst_port 53\""},
     kIn<&RuleConfig::match>},
    {{.name = "to",
      .says =
          "a port's name, `\"kernel\"`, `\"drop\"`, `\"nic:NAME\"` for another NIC of Sluice's, or "
          "`\"netdev:NAME\"` for any network device; of a rule with `port`: a port's name, `\"nic:NAME\"` or "
          "`\"drop\"`",
      .required = kEveryType,
      .example = "\"kernel\""},
     kIn<&RuleConfig::to>},
    {{.name = "priority", .says = "the highest that matches wins, of equal ones the earlier in the file"},
     kIn<&RuleConfig::priority>},
    {{.name = "shed",
      .says =
          "drop these packets first while the port runs short of pages; only for a rule to an app, without "
          "`port`"},
     kIn<&RuleConfig::shed>},
};

}  // namespace

template <>
std::span<const KeyOf<DaemonConfig>> keys() {
  return kDaemonKeys;
}
template <>
std::span<const KeyOf<WorkerConfig>> keys() {
  return kWorkerKeys;
}
template <>
std::span<const KeyOf<NicConfig>> keys() {
  return kNicKeys;
}
template <>
std::span<const KeyOf<PortConfig>> keys() {
  return kPortKeys;
}
template <>
std::span<const KeyOf<RuleConfig>> keys() {
  return kRuleKeys;
}

}  // namespace sluice
