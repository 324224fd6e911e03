// NicQueue's opening and closing: the control thread's half. The worker's half is queue.cc.
#include <fcntl.h>
#include <linux/if_xdp.h>
#include <sys/socket.h>
#include <time.h>

#include <bit>
#include <cerrno>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "port/nic/nic_info.h"
#include "port/nic/queue.h"

namespace sluice {

namespace {

// A previous socket's pool is torn down after an RCU grace period by a work item that waits for RTNL:
// milliseconds; 0.2 s were seen with both CPUs sending as fast as they can.
constexpr std::uint64_t kBindPatienceNs = 8'000'000'000;
constexpr std::uint64_t kSlowBindNs = 1'000'000'000;  // from here on the wait is worth a line in the log
// Closing: after this the wait is reported; after the second one there is no safe way on.
constexpr std::uint64_t kTeardownPatienceNs = 5'000'000'000;
constexpr std::uint64_t kTeardownLimitNs = 60'000'000'000;
// Pages of ours in the TX rings of other queues: their workers reap them within a turn.
constexpr std::uint64_t kSiblingPatienceNs = 1'000'000'000;
constexpr long kPauseNs = 1'000'000;

// What a frame may have besides its MTU of payload: Ethernet header and two VLAN tags.
constexpr std::uint32_t kLinkHeaderBytes = 14 + 2 * 4;

void pause() {
  timespec nap{0, kPauseNs};
  ::nanosleep(&nap, nullptr);
}

Result<void> check_against(const NicInfo& info, const NicQueueOptions& options, std::uint32_t page_bytes) {
  // xsk_reg_pool_at_qid takes the larger of the two.
  std::uint32_t queues = std::max(info.rx_queues, info.tx_queues);
  if (raw(options.queue) >= queues) {
    return fail("{} has no queue {}: it has {} (`ethtool -l {}` shows, `ethtool -L` sets them)",
                options.netdev, raw(options.queue), queues, options.netdev);
  }
  if (info.mtu + kLinkHeaderBytes + kFrameOffset > page_bytes) {
    return fail(
        "the MTU of {} ({}) does not fit pages of {} bytes (at most {}): set daemon.page_bytes = 4096, or "
        "lower the MTU",
        options.netdev, info.mtu, page_bytes, page_bytes - kLinkHeaderBytes - kFrameOffset);
  }
  return {};
}

}  // namespace

NicQueue::NicQueue(const NicQueueOptions& options, Umem& umem, PagePool& pool, QueueKernel& kernel)
    : options_(options), umem_(umem), pool_(pool), kernel_(kernel) {
  const Arena& arena = umem.arena();
  SLUICE_CHECK(&pool.arena() == &arena, "pool {} is of another arena", pool.name());
  SLUICE_CHECK(std::has_single_bit(options.ring_entries) && std::has_single_bit(options.tx_entries),
               "ring entries {} tx {}", options.ring_entries, options.tx_entries);
  SLUICE_CHECK(std::has_single_bit(arena.page_bytes()), "page bytes {}", arena.page_bytes());
  pages_ = arena.data();
  page_bytes_ = arena.page_bytes();
  page_shift_ = static_cast<std::uint32_t>(std::countr_zero(arena.page_bytes()));
  page_count_ = arena.page_count();
  page_states_.resize(page_count_, PageState::kNotHere);
  foreign_home_.reserve(options.tx_entries);
}

Result<std::unique_ptr<NicQueue>> NicQueue::prepare(const NicQueueOptions& options, Umem& umem,
                                                    PagePool& pool, QueueKernel& kernel) {
  auto info = read_nic_info(options.netdev);
  if (!info) {
    return std::unexpected(info.error());
  }
  SLUICE_TRY(check_against(*info, options, umem.arena().page_bytes()));
  auto probe = TeardownProbe::create(kernel);
  if (!probe) {
    return std::unexpected(probe.error());
  }
  std::unique_ptr<NicQueue> queue(new NicQueue(options, umem, pool, kernel));
  queue->probe_ = std::move(*probe);
  queue->options_.ifindex = info->ifindex;
  return queue;
}

// One deadline for both ways, by sharing and by a registration.
Result<std::unique_ptr<NicQueue>> NicQueue::open(const NicQueueOptions& options, Umem& umem, PagePool& pool) {
  auto made = prepare(options, umem, pool);
  SLUICE_TRY(made);
  NicQueue& queue = **made;
  const std::uint64_t begun_ns = now_ns(), deadline = begun_ns + kBindPatienceNs;
  for (;;) {
    auto call = queue.next_bind();
    if (!call) {
      return std::unexpected(call.error());
    }
    const int error = queue.kernel_.bind(call->socket, call->address);
    auto bound = queue.bound(error);
    if (!bound) {
      return std::unexpected(bound.error());
    }
    if (*bound == Bound::kYes) {
      break;
    }
    if (*bound == Bound::kBusy) {
      if (now_ns() >= deadline) {
        return std::unexpected(Error{queue.explain_bind(error), error});
      }
      pause();
    }
  }
  if (const std::uint64_t waited_ns = now_ns() - begun_ns; waited_ns >= kSlowBindNs) {
    log::warn("{} queue {}: another socket, or the kernel taking one down, had it for {} ms",
              queue.options_.netdev, raw(queue.options_.queue), waited_ns / 1'000'000);
  }
  queue.fill();
  return made;
}

Result<NicQueue::Bind> NicQueue::next_bind() {
  const int sibling = sharing_refused_ ? -1 : umem_.sibling(options_.ifindex, options_.mode);
  const bool shared = sibling >= 0;
  if (!socket_ || shared != shared_) {
    if (auto opened = open_socket(shared); !opened) {
      unmap_rings();
      socket_.reset();
      return std::unexpected(opened.error());
    }
  }
  Bind call;
  call.socket = socket_.get();
  call.address.sxdp_family = AF_XDP;
  call.address.sxdp_ifindex = static_cast<std::uint32_t>(options_.ifindex);
  call.address.sxdp_queue_id = raw(options_.queue);
  if (shared) {
    auto kept = UniqueFd(::fcntl(sibling, F_DUPFD_CLOEXEC, 0));
    if (!kept) {
      return fail_errno(errno, "cannot keep the socket of another queue of {}", options_.netdev);
    }
    call.sibling = std::move(kept);
    call.address.sxdp_flags = XDP_SHARED_UMEM;  // the other flags are the sibling's: more are refused
    call.address.sxdp_shared_umem_fd = static_cast<std::uint32_t>(call.sibling.get());
    return call;
  }
  call.address.sxdp_flags = XDP_USE_NEED_WAKEUP;
  if (options_.mode == BindMode::kZeroCopy) {
    call.address.sxdp_flags |= XDP_ZEROCOPY;
  } else if (options_.mode == BindMode::kCopy) {
    call.address.sxdp_flags |= XDP_COPY;
  }
  return call;
}

Result<void> NicQueue::open_socket(bool shared) {
  unmap_rings();
  socket_.reset();
  shared_ = shared;
  if (shared) {
    socket_.reset(::socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0));
    if (!socket_) {
      return fail_errno(errno, "cannot make an AF_XDP socket");
    }
  } else {
    auto registered = umem_.registered_socket();
    if (!registered) {
      return std::unexpected(registered.error());
    }
    socket_ = std::move(*registered);
  }
  return make_rings();
}

Result<NicQueue::Bound> NicQueue::bound(int error) {
  if (error == EBUSY) {
    return Bound::kBusy;
  }
  if (error != 0 && shared_) {
    // This queue cannot be of the sibling's mode: a registration of its own then says what is wrong.
    sharing_refused_ = true;
    return Bound::kOtherwise;
  }
  if (error != 0) {
    return std::unexpected(Error{explain_bind(error), error});
  }
  bound_ = true;
  SLUICE_TRY(umem_.add_pool(pool_));
  xdp_options options{};
  socklen_t option_bytes = sizeof(options);
  if (::getsockopt(socket_.get(), SOL_XDP, XDP_OPTIONS, &options, &option_bytes) == 0) {
    zero_copy_ = (options.flags & XDP_OPTIONS_ZEROCOPY) != 0;
  }
  umem_.joined(socket_.get(), options_.ifindex, zero_copy_);
  joined_ = true;
  return Bound::kYes;
}

Result<void> NicQueue::make_rings() {
  struct Wanted {
    int option;
    std::uint32_t entries;
  };
  const std::array<Wanted, 4> wanted{{{XDP_UMEM_FILL_RING, options_.ring_entries},
                                      {XDP_UMEM_COMPLETION_RING, options_.tx_entries},
                                      {XDP_RX_RING, options_.ring_entries},
                                      {XDP_TX_RING, options_.tx_entries}}};
  for (const Wanted& ring : wanted) {
    if (::setsockopt(socket_.get(), SOL_XDP, ring.option, &ring.entries, sizeof(ring.entries)) < 0) {
      return fail_errno(errno, "cannot make AF_XDP ring {} of {} entries", ring.option, ring.entries);
    }
  }
  xdp_mmap_offsets at{};
  socklen_t at_bytes = sizeof(at);
  if (::getsockopt(socket_.get(), SOL_XDP, XDP_MMAP_OFFSETS, &at, &at_bytes) < 0 || at_bytes != sizeof(at)) {
    return fail_errno(errno, "this kernel's AF_XDP is too old (before 5.4)");
  }
  int fd = socket_.get();
  SLUICE_TRY(fill_.map(fd, XDP_UMEM_FILL_RING, XDP_UMEM_PGOFF_FILL_RING, at.fr, options_.ring_entries));
  SLUICE_TRY(completion_.map(fd, XDP_UMEM_COMPLETION_RING, XDP_UMEM_PGOFF_COMPLETION_RING, at.cr,
                             options_.tx_entries));
  SLUICE_TRY(rx_.map(fd, XDP_RX_RING, XDP_PGOFF_RX_RING, at.rx, options_.ring_entries));
  SLUICE_TRY(tx_.map(fd, XDP_TX_RING, XDP_PGOFF_TX_RING, at.tx, options_.tx_entries));
  return {};
}

std::string NicQueue::explain_bind(int error) const {
  std::string what =
      fmt::format("cannot bind an AF_XDP socket to queue {} of {}: ", raw(options_.queue), options_.netdev);
  switch (error) {
    case EBUSY:
      return what +
             "another AF_XDP socket, or another user of the queue's memory, has it (`ss --xdp -p` shows "
             "which)";
    case EOPNOTSUPP:
    case EINVAL:
      if (options_.mode == BindMode::kZeroCopy) {
        return what +
               "its driver has no AF_XDP zero copy on this queue (`mode = \"auto\"` uses copy mode then)";
      }
      break;
    case EPERM:
    case EACCES:
      return what + "it needs the capability CAP_NET_RAW";
    case ENOMEM:
    case ENOBUFS:
      return what + "the kernel has no memory for it: make the rings smaller";
    case ENETDOWN:
      return what + "the device is down (`ip link set dev " + options_.netdev + " up`)";
    default:
      break;
  }
  return what + std::strerror(error);
}

void NicQueue::unmap_rings() {
  fill_.unmap();
  completion_.unmap();
  rx_.unmap();
  tx_.unmap();
}

void NicQueue::release() {
  released_ = true;
  if (std::exchange(joined_, false)) {
    umem_.left(socket_.get());
  }
  unmap_rings();  // each mapping holds the socket's file open
  if (!bound_) {
    socket_.reset();  // the kernel never got a page
    home_ = true;
  }
}

bool NicQueue::let_go() {
  SLUICE_CHECK(released_);
  if (!bound_) {
    return true;
  }
  if (socket_) {
    kernel_.close(std::move(socket_));
  }
  return probe_->ask(options_.ifindex, options_.queue) == TeardownProbe::Outcome::kFree;
}

NicQueue::~NicQueue() {
  if (!released_) {
    release();
  }
  if (!home_) {
    close_and_wait();
  }
}

// D7: no page goes home before the kernel and the NIC have let go of the queue.
void NicQueue::close_and_wait() {
  std::uint64_t deadline = now_ns() + kTeardownPatienceNs;
  bool warned = false;
  while (!let_go()) {
    if (now_ns() < deadline) {
      pause();
      continue;
    }
    // In copy mode the kernel itself wrote the pages and stopped with close(2); a NIC that still writes is
    // another matter.
    SLUICE_CHECK(!(warned && zero_copy_), "{} queue {} may still write to its pages", options_.netdev,
                 raw(options_.queue));
    log::warn("{} queue {}: the kernel has not let go of the closed AF_XDP socket after {} s",
              options_.netdev, raw(options_.queue), kTeardownPatienceNs / 1'000'000'000);
    if (!zero_copy_) {
      break;
    }
    warned = true;
    deadline = now_ns() + kTeardownLimitNs;
  }
  // Owners of foreign pages are running and make room in their rings; those that have our pages reap them.
  deadline = now_ns() + kSiblingPatienceNs;
  while (!bring_home()) {
    SLUICE_CHECK(now_ns() < deadline, "{} pages of other queues cannot go home from {} queue {}",
                 foreign_home_.size(), options_.netdev, raw(options_.queue));
    pause();
  }
  while (!leave_siblings() && now_ns() < deadline) {
    pause();
  }
}

bool NicQueue::bring_home() {
  for (std::uint32_t i = 0; i < page_states_.size(); ++i) {
    if (page_states_[i] == PageState::kNotHere) {
      continue;
    }
    page_states_[i] = PageState::kNotHere;
    PageIndex page{i};
    if (pool_.contains(page)) {
      pool_.release(page);
    } else {
      foreign_home_.push_back(page);
    }
  }
  page_states_.clear();
  send_home_foreign();
  return foreign_home_.empty();
}

bool NicQueue::leave_siblings() {
  if (umem_.at_siblings(pool_) > 0) {
    return false;
  }
  umem_.forget_pool(pool_);
  home_ = true;
  return true;
}

int NicQueue::socket_fd() const {
  return socket_.get();
}

bool NicQueue::zero_copy() const {
  return zero_copy_;
}

void NicQueue::visit(CounterVisitor& visitor) const {
  visitor.counter("rx_packets", stats_.rx_packets.value());
  visitor.counter("rx_bytes", stats_.rx_bytes.value());
  visitor.counter("tx_packets", stats_.tx_packets.value());
  visitor.counter("tx_bytes", stats_.tx_bytes.value());
  visitor.counter("tx_zero_copy", stats_.tx_zero_copy.value());
  visitor.counter("tx_copied", stats_.tx_copied.value());
  visitor.counter("tx_kicks", stats_.tx_kicks.value());
  visitor.counter("tx_kick_errors", stats_.tx_kick_errors.value());
  visitor.counter("rx_kicks", stats_.rx_kicks.value());
  visitor.counter("drop_no_metadata", stats_.drop_no_metadata.value());
  visitor.counter("drop_tx_ring_full", stats_.drop_tx_ring_full.value());
  visitor.counter("drop_tx_no_page", stats_.drop_tx_no_page.value());
  visitor.counter("drop_too_long", stats_.drop_too_long.value());
  visitor.counter("fault_rx_page", stats_.fault_rx_page.value());
  visitor.counter("fault_tx_page", stats_.fault_tx_page.value());
  xdp_statistics kernel{};
  socklen_t kernel_bytes = sizeof(kernel);
  if (::getsockopt(socket_.get(), SOL_XDP, XDP_STATISTICS, &kernel, &kernel_bytes) < 0) {
    kernel = {};
  }
  visitor.counter("rx_dropped", kernel.rx_dropped);
  visitor.counter("rx_invalid_descs", kernel.rx_invalid_descs);
  visitor.counter("tx_invalid_descs", kernel.tx_invalid_descs);
  visitor.counter("rx_ring_full", kernel.rx_ring_full);
  visitor.counter("rx_fill_ring_empty_descs", kernel.rx_fill_ring_empty_descs);
  visitor.counter("tx_ring_empty_descs", kernel.tx_ring_empty_descs);
}

}  // namespace sluice
