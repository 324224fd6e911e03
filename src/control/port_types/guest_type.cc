#include "control/port_types/guest_type.h"

#include "base/log.h"
#include "control/port_types/options_of.h"
#include "port/guest/guest_port.h"
#include "port/guest/virtio/call_sender.h"
#include "port/guest/virtio/guest_scratch.h"
#include "port/source_guard.h"

namespace sluice {

GuestType::GuestType(EventLoop& loop, Doors& doors, std::uint64_t memory_bytes)
    : loop_(loop),
      doors_(doors),
      memory_(std::make_shared<MemoryBudget>(memory_bytes)),
      scratch_(std::make_shared<WorkerScratch>()) {}

PortTraits GuestType::traits(const PortConfig& config) const {
  const GuestConfig& guest = *config.guest();
  return {.on_switch = true,
          .trusted = guest.trust,
          .judges_tags = guest.trust,
          .mode = guest.mode,
          .stall_budget_us = guest.stall_budget_us,
          .stall_window_ms = guest.stall_window_ms};
}

PortType::Descriptors GuestType::descriptors(const PortConfig& config, std::size_t workers) const {
  return {.port = guest_port_descriptors(workers),
          .session = guest_session_descriptors(config.guest()->queue_pairs)};
}

Result<std::unique_ptr<Port>> GuestType::make(const PortConfig& config, const PortPlace& place,
                                              const PortServices& services) {
  const GuestConfig& guest = *config.guest();
  GuestPortOptions options;
  options.id = place.id;
  options.name = config.name;
  options.socket = guest.socket;
  options.role = guest.role;
  options.policy = SLUICE_TRY(policy_of(guest));
  // Who listens at a path that the front-end makes was able to make it there.
  options.policy.everybody = guest.role == GuestRole::kClient;
  options.macs = config.mac;
  options.vlan = config.vlan;
  options.trust = guest.trust;
  options.limits = SLUICE_TRY(make_source_limits(config.source_ip, config.frame_rate, config.broadcast_rate));
  options.uplink = place.uplink;
  ServingFirst order = serving_first(place);
  options.workers = std::move(order.workers);
  options.serving = order.serving;
  options.queue_pairs = guest.queue_pairs;
  options.memory_bytes = guest.memory_bytes;
  options.all_memory = memory_;
  options.sealed_memory = guest.sealed_memory;
  options.populate = guest.populate;
  options.waker = place.waker;
  options.scratch = scratch_;
  return SLUICE_TRY(GuestPort::create(std::move(options), loop_, services, doors_));
}

void GuestType::prepare_worker(WorkerId worker) const {
  if (CallSender::of_this_thread() == nullptr) {
    log::warn(
        "worker {}: no AIO context to be had (fs.aio-max-nr): threads that wake interrupt its guests until "
        "one is",
        raw(worker));
  }
}

void GuestType::prepare_waker() const {
  (void)CallSender::of_this_thread();
}

void GuestType::visit(CounterVisitor& visitor) const {
  visitor.counter("guest_memory_bytes", memory_->used());
  visitor.counter("guest_memory_limit_bytes", memory_->limit());
  visitor.counter("threads_without_aio", CallSender::threads_without());
}

}  // namespace sluice
