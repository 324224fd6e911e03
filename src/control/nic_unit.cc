#include "control/nic_unit.h"

#include <algorithm>

#include "base/check.h"
#include "base/log.h"

namespace sluice {

Result<std::unique_ptr<NicUnit>> NicUnit::attach(const NicConfig& config, const Wiring& wiring) {
  std::unique_ptr<NicUnit> unit(new NicUnit(config, wiring));
  if (auto started = unit->start(); !started) {
    return with_context(fmt::format("nic {}", config.netdev), started.error());
  }
  return unit;
}

Result<void> NicUnit::start() {
  auto info = read_nic_info(config_.netdev);
  if (!info) {
    return std::unexpected(info.error());
  }
  info_ = *info;
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

void NicUnit::choose_mode() {
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

NicUnit::~NicUnit() {
  close_broadcasts();
  while (!queues_.empty()) {
    SLUICE_CHECK(!queues_.begin()->second.owner, "nic {}: queue {} is still owned", config_.netdev,
                 raw(queues_.begin()->first));
    close_queue(queues_.begin()->first, Pool::kQuiet);
  }
}

NicQueueOptions NicUnit::queue_options(QueueId queue, BindMode mode) const {
  NicQueueOptions options;
  options.netdev = config_.netdev;
  options.ifindex = info_.ifindex;
  options.nic = wiring_.id;
  options.queue = queue;
  options.mode = mode;
  options.ring_entries = config_.ring;
  return options;
}

bool NicUnit::native() const {
  return link_ && link_->native();
}

Result<void> NicUnit::open_host_queue(QueueId queue) {
  NicQueueOptions options = queue_options(queue, mode_);
  auto range = wiring_.host_memory->take(pages_for_queue(options, 0));
  if (!range) {
    return std::unexpected(range.error());
  }
  PagePoolOptions pool_options;
  pool_options.name = fmt::format("{}:{}", config_.netdev, raw(queue));
  pool_options.first = range->first;
  pool_options.page_count = range->page_count;
  pool_options.reuse = PagePoolOptions::Reuse::kOldestFirst;
  auto pool = PagePool::create(*range->arena, pool_options);
  if (!pool) {
    wiring_.host_memory->give_back(*range);
    return std::unexpected(pool.error());
  }
  OpenQueue open;
  open.range = *range;
  open.host_pool = std::move(*pool);
  open.pool = open.host_pool.get();
  return bring_up(queue, mode_, std::move(open), *range->umem, Pool::kQuiet);
}

// D5: in driver zero-copy mode the NIC fills the owner's pages before the program decides whose packet it is.
// In copy mode the kernel copies after the verdict.
Result<void> NicUnit::open_owned_queue(QueueId queue, PortId owner, bool observe, Umem& umem, PagePool& pool,
                                       Pool use) {
  OpenQueue open;
  open.owner = owner;
  open.observe = observe;
  open.pool = &pool;
  return bring_up(queue, observe ? mode_ : BindMode::kCopy, std::move(open), umem, use);
}

Result<void> NicUnit::bring_up(QueueId queue, BindMode mode, OpenQueue open, Umem& umem, Pool use) {
  SLUICE_CHECK(!queues_.contains(queue), "nic {}: queue {} is open", config_.netdev, raw(queue));
  open.worker = worker_of(queue, wiring_.workers.size());
  Worker& worker = *wiring_.workers[raw(open.worker)];
  auto socket = NicQueue::open_empty(queue_options(queue, mode), umem, *open.pool);
  if (!socket) {
    if (open.range) {
      open.host_pool.reset();
      wiring_.host_memory->give_back(*open.range);
    }
    return with_context(fmt::format("nic {}, queue {}", config_.netdev, raw(queue)), socket.error());
  }
  open.socket = std::move(*socket);
  NicQueue* lane = open.socket.get();
  WorkerId served_by = open.worker;
  if (use == Pool::kInUse) {
    worker.call([lane](Worker::Tables&) { lane->fill(); });
  } else {
    lane->fill();
  }
  worker.call([lane](Worker::Tables& tables) { tables.queues.push_back(lane); });
  queues_.emplace(queue, std::move(open));
  choose_uplink_lane(served_by);
  const OpenQueue& opened = queues_.at(queue);
  demux_->set_queue_owner(queue, opened.observe ? std::nullopt : opened.owner);
  // Last: from here on the program sends packets here.
  if (auto entered = demux_->set_socket(queue, lane->socket_fd()); !entered) {
    close_queue(queue, use);
    return std::unexpected(entered.error());
  }
  return {};
}

// Frames for this NIC leave by the worker's first host queue: an owned queue's memory is its owner's to see
// (D1).
void NicUnit::choose_uplink_lane(WorkerId worker) {
  Lane* lane = nullptr;
  for (const auto& [id, open] : queues_) {
    if (open.worker == worker && !open.owner) {
      lane = open.socket.get();
      break;
    }
  }
  PortId port = wiring_.port;
  wiring_.workers[raw(worker)]->call(
      [port, lane](Worker::Tables& tables) { tables.by_port[raw(port)] = lane; });
}

bool NicUnit::worker_sends(WorkerId worker) const {
  return std::any_of(queues_.begin(), queues_.end(),
                     [&](const auto& entry) { return entry.second.worker == worker && !entry.second.owner; });
}

Result<void> NicUnit::serve_members(std::span<const MacAddress> macs) {
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
  auto first = std::ranges::find_if(queues_, [](const auto& entry) { return !entry.second.owner; });
  broadcast_worker_ = first == queues_.end() ? WorkerId{0} : first->second.worker;
  wiring_.workers[raw(broadcast_worker_)]->call(
      [this](Worker::Tables& tables) { tables.queues.push_back(broadcasts_.get()); });
  return {};
}

void NicUnit::close_broadcasts() {
  if (broadcasts_) {
    wiring_.workers[raw(broadcast_worker_)]->call(
        [this](Worker::Tables& tables) { std::erase(tables.queues, broadcasts_.get()); });
    broadcasts_.reset();
  }
}

void NicUnit::leave_worker(QueueId queue, OpenQueue& open) {
  // First the program stops sending here, then the worker stops looking.
  if (auto cleared = demux_->clear_socket(queue); !cleared) {
    log::warn("nic {}, queue {}: {}", config_.netdev, raw(queue), cleared.error().message);
  }
  NicQueue* lane = open.socket.get();
  PortId port = wiring_.port;
  wiring_.workers[raw(open.worker)]->call([lane, port](Worker::Tables& tables) {
    std::erase(tables.queues, lane);
    if (tables.by_port[raw(port)] == lane) {
      tables.by_port[raw(port)] = nullptr;
    }
  });
}

void NicUnit::close_queue(QueueId queue, Pool use) {
  auto found = queues_.find(queue);
  if (found == queues_.end()) {
    return;
  }
  OpenQueue& open = found->second;
  leave_worker(queue, open);
  // Closing takes the kernel milliseconds (synchronize_net), so it is done here unless the owner's lane, on
  // the worker's thread, still uses the pool that the socket's pages come home to (D7).
  if (use == Pool::kInUse) {
    wiring_.workers[raw(open.worker)]->call([&open](Worker::Tables&) { open.socket.reset(); });
  } else {
    open.socket.reset();
  }
  WorkerId worker = open.worker;
  open.host_pool.reset();  // CHECKs that every page came home
  if (open.range) {
    wiring_.host_memory->give_back(*open.range);
  }
  queues_.erase(found);
  choose_uplink_lane(worker);
}

}  // namespace sluice
