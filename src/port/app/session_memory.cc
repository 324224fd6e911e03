#include "port/app/session_memory.h"

#include <fcntl.h>

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <limits>

#include "base/burial.h"
#include "base/check.h"
#include "base/unix_socket.h"
#include "port/app/kept_memory.h"

namespace sluice {

namespace {

constexpr std::uint32_t kMinRingEntries = 64;
constexpr std::uint32_t kMaxRingEntries = 1u << 20;
constexpr std::uint64_t kLaneAlignment = 128;  // two cache lines: the adjacent-line prefetcher pairs them
constexpr std::uint64_t kOsPage = 4096;

std::uint64_t round_up(std::uint64_t value, std::uint64_t to) {
  return (value + to - 1) / to * to;
}

std::optional<std::uint32_t> lane_of(const AppPortOptions& options, WorkerId worker) {
  auto found = std::find(options.workers.begin(), options.workers.end(), worker);
  if (found == options.workers.end()) {
    return std::nullopt;
  }
  return static_cast<std::uint32_t>(found - options.workers.begin());
}

// The power of two at or below half of a lane's pages: a reader that stalls fills its ring before its limit,
// so that the limit stays for those who read and do not return.
std::uint32_t default_ring_entries(std::uint32_t pages_per_lane) {
  return std::clamp(std::bit_floor(std::max(pages_per_lane / 2, 1u)), kMinRingEntries, kMaxRingEntries);
}

Result<void> check_options(const AppPortOptions& options) {
  if (options.workers.empty() || options.workers.size() > SLUICE_APP_MAX_LANES) {
    return fail("{} workers; 1 .. {} are possible", options.workers.size(), SLUICE_APP_MAX_LANES);
  }
  if (options.worker_sends.size() != options.workers.size()) {
    return fail("worker_sends names {} workers of {}", options.worker_sends.size(), options.workers.size());
  }
  if (options.pages < options.workers.size()) {
    return fail("a limit of {} pages for {} workers; at least one each is needed", options.pages,
                options.workers.size());
  }
  if (options.page_bytes != 2048 && options.page_bytes != 4096) {
    return fail("pages of {} bytes; 2048 or 4096 are possible", options.page_bytes);
  }
  for (std::uint32_t entries : {options.ring_entries, options.tx_entries}) {
    if (entries != 0 && (!std::has_single_bit(entries) || entries > kMaxRingEntries)) {
      return fail("a ring of {} entries; a power of two up to {} is needed", entries, kMaxRingEntries);
    }
  }
  if (options.tx_entries == 0) {
    return fail("a TX ring without entries");
  }
  for (const OwnedQueue& queue : options.owned) {
    if (!lane_of(options, queue.worker)) {
      return fail("owned queue {} is served by worker {}, which has no lane of this port", raw(queue.queue),
                  raw(queue.worker));
    }
  }
  return {};
}

}  // namespace

Result<SessionGeometry> SessionGeometry::of(const AppPortOptions& options) {
  SLUICE_TRY(check_options(options));
  SessionGeometry geometry;
  geometry.lane_count = static_cast<std::uint32_t>(options.workers.size());
  const std::uint32_t lanes = geometry.lane_count;
  std::uint64_t pages = options.pages;
  for (std::uint32_t lane = 0; lane < lanes; ++lane) {
    geometry.lane_limit.push_back(options.pages / lanes + (lane < options.pages % lanes ? 1 : 0));
  }
  for (const OwnedQueue& queue : options.owned) {
    pages += std::uint64_t{queue.pages} + geometry.lane_limit[*lane_of(options, queue.worker)];
  }
  if (pages > (1u << 30)) {
    return fail("{} pages in all are more than an arena can have", pages);
  }
  geometry.page_count = static_cast<std::uint32_t>(pages);
  geometry.rx_entries =
      options.ring_entries != 0 ? options.ring_entries : default_ring_entries(options.pages / lanes);
  geometry.back_entries = std::bit_ceil(std::max(geometry.page_count, kMinRingEntries));
  geometry.tx_entries = options.tx_entries;
  geometry.tx_slot_bytes = options.page_bytes;
  geometry.daemon_lane_stride =
      round_up(SLUICE_LANE_DAEMON_RX_ENTRIES + std::uint64_t{geometry.rx_entries} * sizeof(sluice_rx_entry),
               kLaneAlignment);
  geometry.app_lane_stride =
      round_up(SLUICE_LANE_APP_BACK_ENTRIES + std::uint64_t{geometry.back_entries} * 4 +
                   std::uint64_t{geometry.tx_entries} * sizeof(sluice_tx_entry),
               kLaneAlignment);
  geometry.tx_arena_bytes =
      round_up(std::uint64_t{lanes} * geometry.tx_entries * geometry.tx_slot_bytes, kOsPage);
  if (geometry.tx_arena_bytes > std::numeric_limits<std::uint32_t>::max()) {
    return fail("{} TX entries on {} lanes need more than the 4 GiB that an offset can name",
                geometry.tx_entries, lanes);
  }
  return geometry;
}

Result<std::unique_ptr<SessionMemory>> SessionMemory::create(const AppPortOptions& options,
                                                             const SessionGeometry& geometry) {
  auto arena = SLUICE_TRY(Arena::create({.name = options.name + "-rx",
                                         .domain = domain_of(options.id),  // D1
                                         .page_bytes = options.page_bytes,
                                         .page_count = geometry.page_count,
                                         .huge = options.huge}));
  std::unique_ptr<SessionMemory> memory(new SessionMemory);
  memory->geometry_ = geometry;
  memory->arena_ = std::move(arena);
  auto arena_fd = memory->arena_.read_only_fd();  // D4
  if (!arena_fd) {
    return std::unexpected(std::move(arena_fd.error()));
  }
  memory->arena_fd_ = std::move(*arena_fd);
  SLUICE_TRY(memory->make_pools(options));
  SLUICE_TRY(memory->make_segments(options));
  SLUICE_TRY(memory->make_wakes());
  SLUICE_TRY(memory->watch_files());
  return memory;
}

// By any thread once end_wakes() was called; else by the control thread.
SessionMemory::~SessionMemory() {
  if (wakes_begun_) {
    end_wakes();
  }
}

void SessionMemory::begin_wakes(Waker* waker, const std::shared_ptr<WakePrice>& price) {
  wakes_begun_ = true;
  waker_ = waker;
  for (LaneWakes& wakes : wakes_) {
    wakes.app = std::make_shared<AppWake>(std::move(wakes.app_ours), price);
    if (waker_ != nullptr) {
      waker_->add(wakes.app);
    }
  }
}

void SessionMemory::end_wakes() {
  drop_client_fds();
  for (LaneWakes& wakes : wakes_) {
    if (wakes.app && waker_ != nullptr) {
      waker_->retire(std::move(wakes.app));
    }
    wakes.app.reset();
  }
  wakes_begun_ = false;
}

Result<void> SessionMemory::make_pools(const AppPortOptions& options) {
  std::uint32_t first = 0;
  using Reuse = PagePoolOptions::Reuse;
  auto add = [&](std::string name, std::uint32_t count, std::uint32_t lane, Reuse reuse) -> Result<void> {
    auto pool = PagePool::create(arena_, {.name = std::move(name),
                                          .first = PageIndex{first},
                                          .page_count = count,
                                          .return_ring = 64,
                                          .reuse = reuse});
    if (!pool) {
      return std::unexpected(std::move(pool.error()));
    }
    auto ledger = std::make_unique<Ledger>(PageIndex{first}, count);
    LanePool range{.first = first, .count = count, .pool = pool->get(), .ledger = ledger.get()};
    homes_.push_back({.pool = std::move(*pool), .ledger = std::move(ledger), .range = range, .lane = lane});
    first += count;
    return {};
  };
  for (std::uint32_t lane = 0; lane < geometry_.lane_count; ++lane) {
    SLUICE_TRY(add(fmt::format("{}:lane{}", options.name, lane), geometry_.lane_limit[lane], lane,
                   Reuse::kNewestFirst));
  }
  for (const OwnedQueue& queue : options.owned) {
    std::uint32_t lane = *lane_of(options, queue.worker);
    SLUICE_TRY(add(fmt::format("{}:nic{}:{}", options.name, raw(queue.nic), raw(queue.queue)),
                   queue.pages + geometry_.lane_limit[lane], lane, Reuse::kOldestFirst));
    owned_pools_.push_back(homes_.back().pool.get());
  }
  return {};
}

Result<void> SessionMemory::make_segments(const AppPortOptions& options) {
  auto keep = [](Result<SharedSegment> made, SharedSegment& place) -> Result<void> {
    if (!made) {
      return std::unexpected(std::move(made.error()));
    }
    place = std::move(*made);
    return {};
  };
  const std::uint64_t lanes = geometry_.lane_count;
  SLUICE_TRY(keep(
      create_peer_readable(options.name + "-daemon", round_up(lanes * geometry_.daemon_lane_stride, kOsPage)),
      daemon_segment_));
  // D3: nothing of ours is written where the app writes, so we map it for reading only.
  SLUICE_TRY(keep(create_peer_writable(options.name + "-app",
                                       round_up(lanes * geometry_.app_lane_stride, kOsPage), PROT_READ),
                  app_segment_));
  return keep(create_peer_writable(options.name + "-tx", geometry_.tx_arena_bytes, PROT_READ), tx_arena_);
}

Result<void> SessionMemory::make_wakes() {
  for (std::uint32_t lane = 0; lane < geometry_.lane_count; ++lane) {
    LaneWakes wakes;
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) {
      return fail_errno(errno, "cannot make the socket that wakes the app");
    }
    wakes.app_ours.reset(ends[0]);
    wakes.app_theirs.reset(ends[1]);
    // What an app sends here lies unread until the session ends: descriptors would be closed by this thread.
    // Where the kernel cannot refuse them, the socket is closed elsewhere.
    refuse_descriptors(ends[0]);
    refuse_descriptors(ends[1]);
    wakes.daemon.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    wakes.kicks.reset(::epoll_create1(EPOLL_CLOEXEC));
    epoll_event edge{.events = EPOLLIN | EPOLLET, .data = {}};
    if (!wakes.daemon || !wakes.kicks ||
        ::epoll_ctl(wakes.kicks.get(), EPOLL_CTL_ADD, wakes.daemon.get(), &edge) != 0) {
      return fail_errno(errno, "cannot make the eventfd that wakes the worker");
    }
    wakes_.push_back(std::move(wakes));
  }
  return {};
}

LaneMemory SessionMemory::lane(std::uint32_t index) {
  std::byte* daemon = daemon_segment_.mapping.data() + index * geometry_.daemon_lane_stride;
  std::byte* app = app_segment_.mapping.data() + index * geometry_.app_lane_stride;
  std::byte* back_entries = app + SLUICE_LANE_APP_BACK_ENTRIES;
  std::byte* tx_entries = back_entries + std::size_t{geometry_.back_entries} * sizeof(std::uint32_t);
  LaneMemory lane;
  lane.rx = {reinterpret_cast<sluice_ring_producer*>(daemon + SLUICE_LANE_DAEMON_RX_PRODUCER),
             reinterpret_cast<sluice_rx_entry*>(daemon + SLUICE_LANE_DAEMON_RX_ENTRIES),
             reinterpret_cast<const sluice_ring_consumer*>(app + SLUICE_LANE_APP_RX_CONSUMER),
             geometry_.rx_entries};
  lane.back = {reinterpret_cast<sluice_ring_consumer*>(daemon + SLUICE_LANE_DAEMON_BACK_CONSUMER),
               reinterpret_cast<const std::uint32_t*>(back_entries),
               reinterpret_cast<const sluice_ring_producer*>(app + SLUICE_LANE_APP_BACK_PRODUCER),
               geometry_.back_entries};
  lane.tx = {reinterpret_cast<sluice_ring_consumer*>(daemon + SLUICE_LANE_DAEMON_TX_CONSUMER),
             reinterpret_cast<const sluice_tx_entry*>(tx_entries),
             reinterpret_cast<const sluice_ring_producer*>(app + SLUICE_LANE_APP_TX_PRODUCER),
             geometry_.tx_entries};
  lane.shared_stats = reinterpret_cast<sluice_lane_stats*>(daemon + SLUICE_LANE_DAEMON_STATS);
  lane.arena = &arena_;
  lane.page_count = geometry_.page_count;
  for (const Home& home : homes_) {
    if (home.lane == index) {
      lane.pools.push_back(home.range);
    }
  }
  lane.tx_arena = tx_arena_.mapping.data();
  lane.tx_first_offset = index * geometry_.tx_entries * geometry_.tx_slot_bytes;
  lane.tx_slot_bytes = geometry_.tx_slot_bytes;
  lane.page_limit = geometry_.lane_limit[index];
  lane.wake_app = wakes_[index].app.get();
  lane.wake_daemon = wakes_[index].kicks.get();
  return lane;
}

void SessionMemory::describe(sluice_app_welcome& welcome) const {
  welcome.lane_count = geometry_.lane_count;
  welcome.page_bytes = arena_.page_bytes();
  welcome.page_count = arena_.page_count();
  welcome.rx_entries = geometry_.rx_entries;
  welcome.back_entries = geometry_.back_entries;
  welcome.tx_entries = geometry_.tx_entries;
  welcome.tx_slot_bytes = geometry_.tx_slot_bytes;
  welcome.page_limit = 0;
  for (std::uint32_t limit : geometry_.lane_limit) {
    welcome.page_limit += limit;
  }
  welcome.rx_arena_bytes = arena_.bytes();
  welcome.tx_arena_bytes = tx_arena_.mapping.bytes();
  welcome.daemon_segment_bytes = daemon_segment_.mapping.bytes();
  welcome.app_segment_bytes = app_segment_.mapping.bytes();
  welcome.daemon_lane_stride = geometry_.daemon_lane_stride;
  welcome.app_lane_stride = geometry_.app_lane_stride;
}

// What the app may keep for ever (kept_memory.h). Files that it may write it gets reopened: only those count.
Result<void> SessionMemory::watch_files() {
  for (UniqueFd* file : {&app_segment_.fd, &tx_arena_.fd}) {
    auto theirs = SLUICE_TRY(reopen(file->get(), O_RDWR));
    *file = std::move(theirs);
  }
  for (const UniqueFd* file : {&arena_fd_, &daemon_segment_.fd, &app_segment_.fd, &tx_arena_.fd}) {
    auto ours = SLUICE_TRY(reopen(file->get(), O_RDONLY));
    watched_files_.push_back(std::move(ours));
  }
  return {};
}

std::vector<int> SessionMemory::client_fds() const {
  std::vector<int> fds{arena_fd_.get(), daemon_segment_.fd.get(), app_segment_.fd.get(), tx_arena_.fd.get()};
  for (const LaneWakes& wakes : wakes_) {
    fds.push_back(wakes.app_theirs.get());
    fds.push_back(wakes.daemon.get());
  }
  return fds;
}

void SessionMemory::drop_client_fds() {
  arena_fd_.reset();
  daemon_segment_.fd.reset();
  for (LaneWakes& wakes : wakes_) {
    // The app may have closed its own already. The set goes on watching the eventfd while the app has it.
    bury(std::move(wakes.app_theirs));
    bury(std::move(wakes.daemon));
  }
}

std::vector<SessionMemory::AppFile> SessionMemory::take_app_files() {
  std::vector<AppFile> files;
  for (SharedSegment* segment : {&app_segment_, &tx_arena_}) {
    files.push_back({std::move(segment->fd), segment->mapping.bytes()});
  }
  return files;
}

Result<void> SessionMemory::seal(std::vector<AppFile> files) {
  for (const AppFile& file : files) {
    SLUICE_TRY(seal_peer_writable("the app", file.fd.get(), file.bytes));
  }
  return {};
}

std::uint32_t SessionMemory::reclaim(PortId holder) {
  std::uint32_t count = 0;
  for (const Home& home : homes_) {
    count += home.ledger->reclaim(holder, [&home](PageIndex page) { home.pool->release(page); });
    SLUICE_CHECK(home.pool->inflight() == 0, "pool {}: {} pages are missing after the end of a session",
                 home.pool->name(), home.pool->inflight());
  }
  return count;
}

void SessionMemory::visit_pools(const std::function<void(const PagePool&)>& visit) const {
  for (const Home& home : homes_) {
    visit(*home.pool);
  }
}

}  // namespace sluice
