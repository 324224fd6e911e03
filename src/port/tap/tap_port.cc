#include "port/tap/tap_port.h"

#include <fcntl.h>

#include <cerrno>
#include <map>

#include "base/check.h"
#include "port/tap/tap.h"
#include "port/tap/tap_lane.h"

namespace sluice {

struct TapPort::Impl {
  TapPortOptions options;
  PortServices services;
  int ifindex = 0;
  std::map<WorkerId, TapLane> lanes;

  // The host is always there: its port is attached for as long as it exists.
  void install() {
    for (auto& [worker, lane] : lanes) {
      services.lanes.install_lane(options.id, worker, &lane);
    }
    services.states.set_attached(options.id, true);
  }
};

Result<std::unique_ptr<TapPort>> TapPort::create(TapPortOptions options, const PortServices& services) {
  SLUICE_CHECK(!options.workers.empty(), "port {} without a worker", options.name);
  if (options.mtu < kMinHostMtu || options.mtu > kMaxHostMtu) {
    return fail("port {}: mtu is {}, must be {} .. {}", options.name, options.mtu, kMinHostMtu, kMaxHostMtu);
  }
  const auto lanes = static_cast<std::uint32_t>(options.workers.size());
  const std::uint32_t serving = options.serving == 0 ? lanes : options.serving;
  SLUICE_CHECK(serving <= lanes, "port {}: {} serving of {} workers", options.name, serving, lanes);
  auto tap = make_tap({.netdev = options.netdev,
                       .mac = options.mac,
                       .addresses = options.addresses,
                       .mtu = options.mtu,
                       .queues = serving});
  if (!tap) {
    return with_context(fmt::format("port {}", options.name), tap.error());
  }
  auto impl = std::unique_ptr<Impl>(new Impl{.services = services, .ifindex = tap->ifindex});
  TapLaneOptions lane{.port = options.id,
                      .uplink = options.uplink,
                      .vlan = options.vlan,
                      .mtu = options.mtu,
                      .mac = options.mac,
                      .limits = options.limits};
  lane.serves = false;
  for (std::uint32_t i = serving; i < lanes; ++i) {
    // Any thread may write to a queue; who reads from it is its own lane.
    UniqueFd shared(::fcntl(tap->queues[i % serving].get(), F_DUPFD_CLOEXEC, 0));
    if (!shared) {
      return fail_errno(errno, "port {}: cannot share a queue of {}", options.name, options.netdev);
    }
    impl->lanes.try_emplace(options.workers[i], std::move(shared), lane);
  }
  lane.serves = true;
  for (std::uint32_t i = 0; i < serving; ++i) {
    impl->lanes.try_emplace(options.workers[i], std::move(tap->queues[i]), lane);
  }
  impl->options = std::move(options);
  std::unique_ptr<TapPort> port(new TapPort(std::move(impl)));
  port->impl_->install();
  return port;
}

TapPort::TapPort(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

TapPort::~TapPort() {
  for (const auto& [worker, lane] : impl_->lanes) {
    impl_->services.lanes.remove_lane(id(), worker);
  }
}

PortId TapPort::id() const {
  return impl_->options.id;
}

PortInfo TapPort::info() const {
  PortInfo info;
  info.state = is_up(impl_->options.netdev) ? "up" : "down";
  info.descriptors = impl_->options.workers.size();
  info.netdev = impl_->options.netdev;
  return info;
}

const TapPortOptions& TapPort::options() const {
  return impl_->options;
}

int TapPort::ifindex() const {
  return impl_->ifindex;
}

void TapPort::visit(CounterVisitor& visitor) const {
  const auto sum = [this](Counter TapLaneCounters::* counter) {
    std::uint64_t all = 0;
    for (const auto& [worker, lane] : impl_->lanes) {
      all += (lane.counters().*counter).value();
    }
    return all;
  };
  visitor.counter("copied", sum(&TapLaneCounters::copied));
  visitor.counter("copied_bytes", sum(&TapLaneCounters::copied_bytes));
  visitor.counter("rx_packets", sum(&TapLaneCounters::rx_packets));
  visitor.counter("rx_bytes", sum(&TapLaneCounters::rx_bytes));
  visitor.counter("tx_packets", sum(&TapLaneCounters::tx_packets));
  visitor.counter("tx_bytes", sum(&TapLaneCounters::tx_bytes));
  visitor.counter("drop_ring_full", sum(&TapLaneCounters::drop_ring_full));
  visitor.counter("drop_link_down", sum(&TapLaneCounters::drop_link_down));
  visitor.counter("drop_refused", sum(&TapLaneCounters::drop_refused));
  visitor.counter("drop_vlan", sum(&TapLaneCounters::drop_vlan));
  visitor.counter("drop_too_long", sum(&TapLaneCounters::drop_too_long));
  visitor.counter("read_errors", sum(&TapLaneCounters::read_errors));
  visit_source_faults(impl_->lanes, visitor, [](const auto& entry) -> const SourceCounters& {
    return entry.second.counters().source;
  });
}

}  // namespace sluice
