#include "port/guest/virtio/guest_device.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "port/guest/virtio/guest_lane.h"
#include "port/guest/virtio/ring/virtqueue.h"

namespace sluice {

class GuestDevice::Impl {
 public:
  Impl(GuestPolicy policy, std::vector<WorkerId> workers, std::uint32_t queue_pairs);

  GuestLane& lane_of(std::uint32_t index) { return *lanes_[lane_index(index)]; }
  std::size_t lane_index(std::uint32_t index) const { return index / 2 % serving_; }
  Virtqueue& queue(std::uint32_t index) {
    SLUICE_CHECK(index < queues_.size(), "queue {} of {}", index, queues_.size());
    return *queues_[index];
  }
  VringBase stop(std::uint32_t index);
  void assign_queues(std::uint32_t index);  // after a change of this ring

  const GuestPolicy policy_;
  const std::shared_ptr<CallPrice> call_price_ = std::make_shared<CallPrice>();
  const std::vector<WorkerId> workers_;
  const std::size_t serving_;
  std::shared_ptr<const GuestMemory> memory_ = std::make_shared<GuestMemory>();
  std::vector<std::unique_ptr<Virtqueue>> queues_;
  std::vector<std::unique_ptr<GuestLane>> lanes_;  // in the order of workers_
};

namespace {

GuestPolicy with_scratch(GuestPolicy policy) {
  if (policy.scratch == nullptr) {
    policy.scratch = std::make_shared<WorkerScratch>();
  }
  return policy;
}

}  // namespace

GuestDevice::Impl::Impl(GuestPolicy policy, std::vector<WorkerId> workers, std::uint32_t queue_pairs)
    : policy_(with_scratch(std::move(policy))),
      workers_(std::move(workers)),
      serving_(policy_.serving == 0 ? workers_.size() : policy_.serving) {
  SLUICE_CHECK(serving_ <= workers_.size(), "{} serving of {} workers", serving_, workers_.size());
  SLUICE_CHECK(!workers_.empty() && queue_pairs >= 1 && queue_pairs <= kMaxQueuePairs, "{} workers, {} pairs",
               workers_.size(), queue_pairs);
  for (std::uint32_t i = 0; i < 2 * queue_pairs; ++i) {
    queues_.push_back(std::make_unique<Virtqueue>(i, policy_.waker, call_price_));
  }
  for (std::size_t i = 0; i < workers_.size(); ++i) {
    lanes_.push_back(std::make_unique<GuestLane>(policy_, *call_price_, policy_.scratch->of(workers_[i])));
  }
}

VringBase GuestDevice::Impl::stop(std::uint32_t index) {
  lane_of(index).unwatch(queue(index));
  return queue(index).stop();
}

// Pairs go round the workers that serve. A worker sends to receive queues of its own pairs; one that has
// none, to all.
void GuestDevice::Impl::assign_queues(std::uint32_t index) {
  std::vector<std::vector<Virtqueue*>> receive(lanes_.size()), transmit(lanes_.size());
  std::vector<Virtqueue*> all_receive;
  for (const auto& queue : queues_) {
    if (!queue->running()) {
      continue;
    }
    const std::size_t lane = lane_index(queue->index());
    if (queue->direction() == Direction::kToGuest) {
      receive[lane].push_back(queue.get());
      all_receive.push_back(queue.get());
    } else {
      transmit[lane].push_back(queue.get());
    }
  }
  const bool lanes_without = std::ranges::any_of(receive, [](const auto& own) { return own.empty(); });
  for (Virtqueue* queue : all_receive) {
    if (queue->shared() != lanes_without) {
      queue->set_shared(lanes_without);
    }
  }
  // Only lanes whose queues change, and that of the ring itself: others' workers need not stand still.
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    const std::vector<Virtqueue*>& fills = receive[i].empty() ? all_receive : receive[i];
    if (i == lane_index(index) || !lanes_[i]->has_queues(fills, transmit[i])) {
      lanes_[i]->set_queues(fills, transmit[i]);
    }
  }
}

GuestDevice::GuestDevice(GuestPolicy policy, std::vector<WorkerId> workers, std::uint32_t queue_pairs)
    : impl_(std::make_unique<Impl>(std::move(policy), std::move(workers), queue_pairs)) {}

GuestDevice::~GuestDevice() = default;

Lane& GuestDevice::lane(WorkerId worker) {
  const auto found = std::ranges::find(impl_->workers_, worker);
  SLUICE_CHECK(found != impl_->workers_.end(), "worker {} has no lane", raw(worker));
  return *impl_->lanes_[static_cast<std::size_t>(found - impl_->workers_.begin())];
}

std::vector<WorkerId> GuestDevice::workers_of(const std::bitset<kMaxVrings>& rings) const {
  std::vector<WorkerId> workers;
  for (std::uint32_t index = 0; index < impl_->queues_.size(); ++index) {
    if (!rings.test(index)) {
      continue;
    }
    if (impl_->queue(index).direction() == Direction::kToGuest) {
      return impl_->workers_;
    }
    const WorkerId owner = impl_->workers_[impl_->lane_index(index)];
    if (std::ranges::find(workers, owner) == workers.end()) {
      workers.push_back(owner);
    }
  }
  return workers;
}

void GuestDevice::set_memory(std::shared_ptr<const GuestMemory> memory) {
  SLUICE_CHECK(memory != nullptr);
  for (const auto& queue : impl_->queues_) {
    SLUICE_CHECK(!queue->started(), "queue {} runs in the memory that goes", queue->index());
  }
  impl_->memory_ = std::move(memory);
}

void GuestDevice::start_ring(std::uint32_t index, const VringSetup& setup) {
  impl_->stop(index);
  Virtqueue& queue = impl_->queue(index);
  queue.start(setup, *impl_->memory_);
  queue.set_call_fd(setup.call_fd);
  set_kick_fd(index, setup.kick_fd);
  impl_->assign_queues(index);
}

void GuestDevice::enable_ring(std::uint32_t index, bool enabled) {
  impl_->queue(index).enable(enabled);
  impl_->assign_queues(index);
}

void GuestDevice::set_call_fd(std::uint32_t index, int fd) {
  impl_->queue(index).set_call_fd(fd);
}

void GuestDevice::set_kick_fd(std::uint32_t index, int fd) {
  Virtqueue& queue = impl_->queue(index);
  GuestLane& lane = impl_->lane_of(index);
  lane.unwatch(queue);
  queue.set_kick_fd(fd);
  if (queue.direction() == Direction::kFromGuest) {
    lane.watch(queue);  // a receive queue that is filled up brings no work
  }
  impl_->assign_queues(index);
}

VringBase GuestDevice::stop_ring(std::uint32_t index) {
  const VringBase base = impl_->stop(index);
  impl_->assign_queues(index);
  return base;
}

void GuestDevice::stop_all(std::shared_ptr<const GuestMemory> nothing) {
  for (const auto& lane : impl_->lanes_) {
    lane->set_queues({}, {});
  }
  for (std::uint32_t index = 0; index < impl_->queues_.size(); ++index) {
    impl_->stop(index);
  }
  set_memory(std::move(nothing));
}

GuestDevice::RingState GuestDevice::ring_state(std::uint32_t index) const {
  const Virtqueue& queue = impl_->queue(index);
  const RingCounters& counters = queue.counters();
  return {.started = queue.started(),
          .enabled = queue.enabled(),
          .broken = queue.broken(),
          .kicks = counters.kicks.value(),
          .calls = counters.calls.value(),
          .calls_suppressed = counters.calls_suppressed.value(),
          .packets = counters.packets.value(),
          .worker = impl_->workers_[impl_->lane_index(index)]};
}

const CallPrice& GuestDevice::call_price() const {
  return *impl_->call_price_;
}

void GuestDevice::visit(CounterVisitor& visitor) const {
  auto of_lanes = [&](std::string_view name, Counter GuestLaneCounters::* counter) {
    std::uint64_t sum = 0;
    for (const auto& lane : impl_->lanes_) {
      sum += (lane->counters().*counter).value();
    }
    visitor.counter(name, sum);
  };
  auto of_queues = [&](std::string_view name, Counter RingCounters::* counter) {
    std::uint64_t sum = 0;
    for (const auto& queue : impl_->queues_) {
      sum += (queue->counters().*counter).value();
    }
    visitor.counter(name, sum);
  };
  of_lanes("copied", &GuestLaneCounters::copied);
  of_lanes("copied_bytes", &GuestLaneCounters::copied_bytes);
  of_lanes("rx_packets", &GuestLaneCounters::rx_packets);
  of_lanes("rx_bytes", &GuestLaneCounters::rx_bytes);
  of_lanes("tx_packets", &GuestLaneCounters::tx_packets);
  of_lanes("tx_bytes", &GuestLaneCounters::tx_bytes);
  of_lanes("tx_segmented", &GuestLaneCounters::tx_segmented);
  of_lanes("drop_not_running", &GuestLaneCounters::drop_not_running);
  of_lanes("drop_ring_full", &GuestLaneCounters::drop_ring_full);
  of_lanes("drop_too_long", &GuestLaneCounters::drop_too_long);
  of_lanes("drop_vlan", &GuestLaneCounters::drop_vlan);
  of_lanes("drop_bad_buffers", &GuestLaneCounters::drop_bad_buffers);
  of_lanes("drop_queue_busy", &GuestLaneCounters::drop_queue_busy);
  of_lanes("drop_tx_runt", &GuestLaneCounters::drop_tx_runt);
  of_lanes("drop_tx_too_long", &GuestLaneCounters::drop_tx_too_long);
  visit_source_faults(impl_->lanes_, visitor,
                      [](const auto& lane) -> const SourceCounters& { return lane->counters().source; });
  of_lanes("fault_tx_header", &GuestLaneCounters::fault_tx_header);
  of_lanes("calls_failed", &GuestLaneCounters::calls_failed);
  impl_->call_price_->visit(visitor);
  of_queues("fault_ring_index", &RingCounters::fault_ring_index);
  of_queues("fault_ring_head", &RingCounters::fault_ring_head);
  of_queues("fault_ring_chain", &RingCounters::fault_ring_chain);
  of_queues("fault_buffer_unmapped", &RingCounters::fault_buffer_unmapped);
  of_queues("fault_buffer_empty", &RingCounters::fault_buffer_empty);
  of_queues("fault_buffer_direction", &RingCounters::fault_buffer_direction);
  of_queues("fault_buffer_pieces", &RingCounters::fault_buffer_pieces);
  of_queues("fault_buffer_indirect", &RingCounters::fault_buffer_indirect);
  of_queues("fault_buffer_header", &RingCounters::fault_buffer_header);
  of_queues("fault_kick_fd", &RingCounters::fault_kick_fd);
  of_queues("fault_call_fd", &RingCounters::fault_call_fd);
  of_queues("kicks", &RingCounters::kicks);
  of_queues("calls", &RingCounters::calls);
  of_queues("calls_suppressed", &RingCounters::calls_suppressed);
}

}  // namespace sluice
