#include "control/engine/attached_nic.h"

#include <algorithm>

#include "base/check.h"
#include "base/log.h"

namespace sluice {

Result<std::unique_ptr<Nic>> AttachedNic::attach(const NicConfig& config, const Wiring& wiring) {
  std::unique_ptr<AttachedNic> unit(new AttachedNic(config, wiring));
  if (auto started = unit->start(); !started) {
    return with_context(fmt::format("nic {}", config.netdev), started.error());
  }
  return std::unique_ptr<Nic>(std::move(unit));
}

namespace {

// A broadcast that a NIC brings for the ports behind it is the kernel's packet too, so it counts by itself; a
// drop is a drop of the NIC's.
class BroadcastCounters final : public CounterVisitor {
 public:
  explicit BroadcastCounters(CounterVisitor& of_nic) : of_nic_(of_nic) {}
  void counter(std::string_view name, std::uint64_t value) override {
    of_nic_.counter(name.starts_with("drop_") ? std::string(name) : "broadcast_" + std::string(name), value);
  }

 private:
  CounterVisitor& of_nic_;
};

}  // namespace

Result<void> AttachedNic::start() {
  auto info = read_nic_info(config_.netdev);
  if (!info) {
    return std::unexpected(info.error());
  }
  info_ = *info;
  SLUICE_TRY(choose_queues());
  auto demux = Demux::load(std::max<std::uint32_t>(info_.rx_queues, 1));
  if (!demux) {
    return std::unexpected(demux.error());
  }
  demux_ = std::move(*demux);
  for (std::uint32_t number = 0; number < info_.rx_queues; ++number) {
    QueueId queue{static_cast<std::uint16_t>(number)};
    if (std::find(given_.begin(), given_.end(), queue) == given_.end()) {
      demux_->leave_to_kernel(queue);
    }
  }
  auto link = XdpLink::attach(info_.ifindex, demux_->program_fd());
  if (!link) {
    return std::unexpected(link.error());
  }
  link_.emplace(std::move(*link));
  if (!link_->native()) {
    log::warn("nic {}: {}", config_.netdev, link_->warning());
  }
  choose_mode();
  log::info("nic {}: attached, {} XDP, queues given {} of {}", config_.netdev,
            link_->native() ? "native" : "generic", given_.size(), info_.rx_queues);
  return {};
}

Result<void> AttachedNic::choose_queues() {
  if (config_.queues) {
    for (std::uint16_t queue : *config_.queues) {
      if (queue >= info_.rx_queues) {
        return fail("queue {} was asked for, but it has {} RX queues (ethtool -l {})", queue, info_.rx_queues,
                    config_.netdev);
      }
      given_.push_back(QueueId{queue});
    }
  } else {
    for (std::uint32_t queue = 0; queue < info_.rx_queues; ++queue) {
      given_.push_back(QueueId{static_cast<std::uint16_t>(queue)});
    }
  }
  return {};
}

void AttachedNic::choose_mode() {
  mode_ = config_.mode;
  const std::string flaw = mode_ == BindMode::kCopy ? "" : zero_copy_flaw(info_);
  if (flaw.empty()) {
    return;
  }
  if (mode_ == BindMode::kAuto) {
    mode_ = BindMode::kCopy;
    log::info("nic {}: copy mode: {}; `mode = \"zerocopy\"` insists", config_.netdev, flaw);
  } else {
    log::warn("nic {}: {}; `mode = \"auto\"` takes copy mode", config_.netdev, flaw);
  }
}

AttachedNic::~AttachedNic() {
  close_broadcasts();
  while (!queues_.empty()) {
    close_queue(queues_.begin()->first);
  }
}

NicQueueOptions AttachedNic::queue_options(QueueId queue, BindMode mode) const {
  NicQueueOptions options;
  options.netdev = config_.netdev;
  options.ifindex = info_.ifindex;
  options.nic = wiring_.id;
  options.queue = queue;
  options.mode = mode;
  options.ring_entries = config_.ring;
  return options;
}

bool AttachedNic::native() const {
  return link_ && link_->native();
}

void AttachedNic::open_host_queue(QueueId queue) {
  want({.options = queue_options(queue, mode_)});
}

// D5: in driver zero-copy mode the NIC fills the owner's pages before the program decides whose packet it is.
// In copy mode the kernel copies after the verdict.
void AttachedNic::open_owned_queue(QueueId queue, PortId owner, bool observe, Umem& umem, PagePool& pool) {
  want({.options = queue_options(queue, observe ? mode_ : BindMode::kCopy),
        .owner = owner,
        .observe = observe,
        .umem = &umem,
        .pool = &pool});
}

void AttachedNic::want(QueueWish wish) {
  const QueueId queue = wish.options.queue;
  SLUICE_CHECK(!queues_.contains(queue), "nic {}: queue {} is open", config_.netdev, raw(queue));
  wish.worker = worker_of(queue, wiring_.workers.size());
  queues_[queue] =
      &wiring_.keeper->open(std::move(wish), [this](KeptQueue& opened) { return serve(opened); });
}

Result<void> AttachedNic::serve(KeptQueue& queue) {
  NicQueue* lane = queue.socket();
  const QueueWish& wish = queue.wish();
  lane->set_mtu(info_.mtu);  // it may have changed since the queue was prepared
  wiring_.workers[raw(wish.worker)]->call([lane](Worker::Tables& tables) {
    lane->fill();  // here, for its owner's lanes may use the pool
    tables.queues.push_back(lane);
  });
  choose_uplink_lane(wish.worker);
  demux_->set_queue_owner(wish.options.queue, wish.observe ? std::nullopt : wish.owner);
  // Last: from here on the program sends packets here.
  if (auto entered = demux_->set_socket(wish.options.queue, lane->socket_fd()); !entered) {
    leave_worker(queue);
    return entered;
  }
  return {};
}

// Frames for this NIC leave by the worker's first host queue that is open: an owned queue's memory is its
// owner's to see (D1).
void AttachedNic::choose_uplink_lane(WorkerId worker, const KeptQueue* leaving) {
  Lane* lane = nullptr;
  for (const auto& [id, queue] : queues_) {
    if (queue->wish().worker == worker && !queue->wish().owner && queue->open() && queue != leaving) {
      lane = queue->socket();
      break;
    }
  }
  PortId port = wiring_.port;
  wiring_.workers[raw(worker)]->call(
      [port, lane](Worker::Tables& tables) { tables.by_port[raw(port)] = lane; });
}

std::optional<PortId> AttachedNic::owner_of(QueueId queue) const {
  auto found = queues_.find(queue);
  return found == queues_.end() ? std::nullopt : found->second->wish().owner;
}

std::uint32_t AttachedNic::pages_of_queue(QueueId queue) const {
  return pages_for_queue(queue_options(queue, mode_), 0);
}

void AttachedNic::visit(CounterVisitor& visitor) const {
  for (const auto& [id, queue] : queues_) {
    if (queue->open()) {
      queue->socket()->visit(visitor);
    }
  }
  if (broadcasts_) {
    BroadcastCounters broadcasts(visitor);
    broadcasts_->visit(broadcasts);
  }
}

void AttachedNic::update_info(const NicInfo& info) {
  const bool came_up = info.up && info.carrier && !(info_.up && info_.carrier);
  info_ = info;
  for (const auto& [id, queue] : queues_) {
    if (queue->open()) {
      queue->socket()->set_mtu(info.mtu);
      if (came_up) {  // its worker may sleep over a full TX ring
        wiring_.workers[raw(queue->wish().worker)]->call([](Worker::Tables&) {});
      }
    }
  }
}

bool AttachedNic::worker_sends(WorkerId worker) const {
  return std::any_of(queues_.begin(), queues_.end(), [&](const auto& entry) {
    const QueueWish& wish = entry.second->wish();
    return wish.worker == worker && !wish.owner;
  });
}

Result<void> AttachedNic::serve_addresses(std::span<const MacAddress> macs) {
  if (macs.empty()) {
    close_broadcasts();
    return {};
  }
  if (broadcasts_) {
    return broadcasts_->accept(macs);
  }
  auto opened = BroadcastQueue::open(
      {.netdev = config_.netdev, .ifindex = info_.ifindex, .nic = wiring_.id, .port = wiring_.port});
  SLUICE_TRY(opened);
  SLUICE_TRY((*opened)->accept(macs));
  broadcasts_ = std::move(*opened);
  auto first = std::ranges::find_if(queues_, [](const auto& entry) { return !entry.second->wish().owner; });
  broadcast_worker_ = first == queues_.end() ? WorkerId{0} : first->second->wish().worker;
  wiring_.workers[raw(broadcast_worker_)]->call(
      [this](Worker::Tables& tables) { tables.queues.push_back(broadcasts_.get()); });
  return {};
}

void AttachedNic::close_broadcasts() {
  if (broadcasts_) {
    wiring_.workers[raw(broadcast_worker_)]->call(
        [this](Worker::Tables& tables) { std::erase(tables.queues, broadcasts_.get()); });
    broadcasts_.reset();
  }
}

// First the program stops sending here, then the worker stops looking.
void AttachedNic::leave_worker(KeptQueue& queue) {
  const QueueWish& wish = queue.wish();
  if (auto cleared = demux_->clear_socket(wish.options.queue); !cleared) {
    log::warn("nic {}, queue {}: {}", config_.netdev, raw(wish.options.queue), cleared.error().message);
  }
  NicQueue* lane = queue.socket();
  wiring_.workers[raw(wish.worker)]->call(
      [lane](Worker::Tables& tables) { std::erase(tables.queues, lane); });
  choose_uplink_lane(wish.worker, &queue);
}

void AttachedNic::close_queue(QueueId queue) {
  auto found = queues_.find(queue);
  if (found == queues_.end()) {
    return;
  }
  if (found->second->open()) {
    leave_worker(*found->second);
  }
  wiring_.keeper->close(*found->second);
  queues_.erase(found);
}

}  // namespace sluice
