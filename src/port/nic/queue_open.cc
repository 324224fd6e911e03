// NicQueue's opening and closing: the control thread's half. The worker's half is queue.cc.
#include <fcntl.h>
#include <linux/if_xdp.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "port/nic/nic_info.h"
#include "port/nic/pool_buffers.h"
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
// For pages of other queues to go home: their workers make room in their rings within a turn.
constexpr std::uint64_t kSiblingPatienceNs = 1'000'000'000;
constexpr long kPauseNs = 1'000'000;

// What a frame may have besides its MTU of payload: Ethernet header and two VLAN tags.
constexpr std::uint32_t kLinkHeaderBytes = 14 + 2 * 4;

void pause() {
  timespec nap{0, kPauseNs};
  ::nanosleep(&nap, nullptr);
}

Result<void> check_against(const NicInfo& info, const NicQueueOptions& options, std::uint32_t room) {
  // xsk_reg_pool_at_qid takes the larger of the two.
  std::uint32_t queues = std::max(info.rx_queues, info.tx_queues);
  if (raw(options.queue) >= queues) {
    return fail("{} has no queue {}: it has {} (`ethtool -l {}` shows, `ethtool -L` sets them)",
                options.netdev, raw(options.queue), queues, options.netdev);
  }
  if (info.mtu + kLinkHeaderBytes > room) {
    return fail(
        "the MTU of {} ({}) does not fit pages of {} bytes (at most {}): set daemon.page_bytes = 4096, or "
        "lower the MTU",
        options.netdev, info.mtu, room + kFrameOffset, room - kLinkHeaderBytes);
  }
  return {};
}

}  // namespace

NicQueue::NicQueue(const NicQueueOptions& options, Umem& umem, std::unique_ptr<BufferSource> buffers,
                   QueueKernel& kernel)
    : Lane({.pages_of = buffers->domain(), .bytes = buffers->room() + kFrameOffset}),
      options_(options),
      umem_(umem),
      buffers_(std::move(buffers)),
      kernel_(kernel) {
  SLUICE_CHECK(buffers_->memory() == umem.data(),
               "{} queue {}: the buffers lie in other memory than the UMEM", options.netdev,
               raw(options.queue));
  SLUICE_CHECK(std::has_single_bit(options.ring_entries) && std::has_single_bit(options.tx_entries),
               "ring entries {} tx {}", options.ring_entries, options.tx_entries);
}

Result<std::unique_ptr<NicQueue>> NicQueue::prepare(const NicQueueOptions& options, Umem& umem,
                                                    std::unique_ptr<BufferSource> buffers,
                                                    QueueKernel& kernel) {
  auto info = read_nic_info(options.netdev);
  if (!info) {
    return std::unexpected(info.error());
  }
  SLUICE_TRY(check_against(*info, options, buffers->room()));
  auto probe = TeardownProbe::create(kernel);
  if (!probe) {
    return std::unexpected(probe.error());
  }
  std::unique_ptr<NicQueue> queue(new NicQueue(options, umem, std::move(buffers), kernel));
  queue->probe_ = std::move(*probe);
  queue->options_.ifindex = info->ifindex;
  queue->set_mtu(info->mtu);
  return queue;
}

void NicQueue::set_mtu(std::uint32_t mtu) {
  buffers_->set_longest(mtu + kLinkHeaderBytes);
}

// One deadline for both ways, by sharing and by a registration.
Result<std::unique_ptr<NicQueue>> NicQueue::open(const NicQueueOptions& options, Umem& umem, PagePool& pool,
                                                 PoolDirectory* pools) {
  auto made = prepare(options, umem, std::make_unique<PoolBuffers>(pool, options.tx_entries, pools));
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
      socket_.close();
      return std::unexpected(opened.error());
    }
  }
  Bind call;
  call.socket = socket_.fd();
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
  socket_.close();
  shared_ = shared;
  auto made = shared ? umem_.bare_socket() : umem_.registered_socket();
  SLUICE_TRY(made);
  socket_ = std::move(*made);
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
  socket_.note_bound();
  umem_.joined(socket_.fd(), options_.ifindex, socket_.zero_copy());
  joined_ = true;
  return Bound::kYes;
}

Result<void> NicQueue::make_rings() {
  const auto made = socket_.make_rings({.rx = options_.ring_entries,
                                        .tx = options_.tx_entries,
                                        .fill = options_.ring_entries,
                                        .completion = options_.tx_entries});
  if (made) {
    return {};
  }
  const XskFault& wrong = made.error();
  switch (wrong.step) {
    case XskFault::Step::kOffsets:
      return fail_errno(wrong.os_errno, "this kernel's AF_XDP is too old (before 5.4)");
    case XskFault::Step::kMap:
      return fail_errno(wrong.os_errno, "cannot map AF_XDP ring {}", wrong.ring);
    default:
      return fail_errno(wrong.os_errno, "cannot make AF_XDP ring {} of {} entries", wrong.ring,
                        wrong.entries);
  }
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

void NicQueue::release() {
  released_ = true;
  if (std::exchange(joined_, false)) {
    umem_.left(socket_.fd());
  }
  socket_.unmap_rings();
  if (!bound_) {
    socket_.close();  // the kernel never got a page
    home_ = true;
  }
}

bool NicQueue::let_go() {
  SLUICE_CHECK(released_);
  if (!bound_) {
    return true;
  }
  if (socket_) {
    kernel_.close(socket_.release());
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
    SLUICE_CHECK(!(warned && zero_copy()), "{} queue {} may still write to its pages", options_.netdev,
                 raw(options_.queue));
    log::warn("{} queue {}: the kernel has not let go of the closed AF_XDP socket after {} s",
              options_.netdev, raw(options_.queue), kTeardownPatienceNs / 1'000'000'000);
    if (!zero_copy()) {
      break;
    }
    warned = true;
    deadline = now_ns() + kTeardownLimitNs;
  }
  // Owners of other queues' pages are running and make room in their rings.
  deadline = now_ns() + kSiblingPatienceNs;
  while (!bring_home()) {
    SLUICE_CHECK(now_ns() < deadline, "pages of other queues cannot go home from {} queue {}",
                 options_.netdev, raw(options_.queue));
    pause();
  }
}

bool NicQueue::bring_home() {
  home_ = buffers_->reclaim();
  return home_;
}

int NicQueue::socket_fd() const {
  return socket_.fd();
}

bool NicQueue::zero_copy() const {
  return socket_.zero_copy();
}

void NicQueue::visit(CounterVisitor& visitor) const {
  const BufferSource::Counters& buffers = buffers_->counters();
  visitor.counter("rx_packets", stats_.rx_packets.value());
  visitor.counter("rx_bytes", stats_.rx_bytes.value());
  visitor.counter("tx_packets", stats_.tx_packets.value());
  visitor.counter("tx_bytes", stats_.tx_bytes.value());
  visitor.counter("tx_zero_copy", buffers.tx_zero_copy.value());
  visitor.counter("tx_copied", buffers.tx_copied.value());
  visitor.counter("tx_linearised", buffers.tx_linearised.value());
  visitor.counter("tx_kicks", stats_.tx_kicks.value());
  visitor.counter("tx_kick_errors", stats_.tx_kick_errors.value());
  visitor.counter("rx_kicks", stats_.rx_kicks.value());
  visitor.counter("drop_no_metadata", buffers.drop_no_metadata.value());
  visitor.counter("drop_tx_ring_full", buffers.drop_tx_ring_full.value());
  visitor.counter("drop_tx_no_page", buffers.drop_tx_no_page.value());
  visitor.counter("drop_too_long", buffers.drop_too_long.value());
  visitor.counter("fault_rx_page", buffers.fault_rx_page.value());
  visitor.counter("fault_tx_page", buffers.fault_tx_page.value());
  const xdp_statistics kernel = socket_.statistics().value_or(xdp_statistics{});
  visitor.counter("rx_dropped", kernel.rx_dropped);
  visitor.counter("rx_invalid_descs", kernel.rx_invalid_descs);
  visitor.counter("tx_invalid_descs", kernel.tx_invalid_descs);
  visitor.counter("rx_ring_full", kernel.rx_ring_full);
  visitor.counter("rx_fill_ring_empty_descs", kernel.rx_fill_ring_empty_descs);
  visitor.counter("tx_ring_empty_descs", kernel.tx_ring_empty_descs);
}

}  // namespace sluice
