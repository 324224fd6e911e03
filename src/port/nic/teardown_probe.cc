#include "port/nic/teardown_probe.h"

#include <linux/if_xdp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#include <cerrno>

#include "base/clock.h"

namespace sluice {

namespace {
constexpr std::uint32_t kPageBytes = 4096;
constexpr XskRings kRings{.rx = 2, .tx = 0, .fill = 2, .completion = 2};
constexpr long kPauseNs = 500'000;
}  // namespace

Result<std::unique_ptr<TeardownProbe>> TeardownProbe::create(QueueKernel& kernel) {
  std::unique_ptr<TeardownProbe> probe(new TeardownProbe(kernel));
  void* memory = ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return fail_errno(errno, "cannot map a page");
  }
  probe->memory_ = Mapping::adopt(memory, kPageBytes);
  auto socket = AfXdpSocket::create(kernel);
  if (!socket) {
    return fail_errno(socket.error().os_errno, "cannot make an AF_XDP socket");
  }
  probe->socket_ = std::move(*socket);
  xdp_umem_reg registration{};
  registration.addr = reinterpret_cast<std::uint64_t>(memory);
  registration.len = kPageBytes;
  registration.chunk_size = kPageBytes;
  if (auto done = probe->socket_.register_memory(registration); !done) {
    return fail_errno(done.error().os_errno, "cannot register a page with AF_XDP");
  }
  if (auto done = probe->socket_.make_rings(kRings); !done) {
    return fail_errno(done.error().os_errno, "cannot make AF_XDP ring {}", done.error().ring);
  }
  return probe;
}

// Tried on veth (teardown_probe_test.cc): a device that is gone is ENODEV; a queue that `ethtool -L` took
// away is EINVAL, which comes after the question whether a pool has it (net/xdp/xsk_buff_pool.c,
// xp_assign_dev). A device that is down can be bound.
TeardownProbe::Outcome TeardownProbe::judge(int error) {
  return error == 0 || error == ENODEV || error == EINVAL ? Outcome::kFree : Outcome::kBusy;
}

TeardownProbe::Outcome TeardownProbe::ask(int ifindex, QueueId queue) {
  if (free_) {
    return Outcome::kFree;
  }
  sockaddr_xdp address{};
  address.sxdp_family = AF_XDP;
  address.sxdp_flags = XDP_COPY;  // asks nothing of the driver
  address.sxdp_ifindex = static_cast<std::uint32_t>(ifindex);
  address.sxdp_queue_id = raw(queue);
  if (judge(socket_.bind(address)) == Outcome::kBusy) {
    return Outcome::kBusy;
  }
  free_ = true;
  kernel_.close(socket_.release());
  return Outcome::kFree;
}

TeardownProbe::Outcome TeardownProbe::wait_until_free(int ifindex, QueueId queue, std::uint64_t limit_ns) {
  const std::uint64_t deadline = now_ns() + limit_ns;
  while (ask(ifindex, queue) == Outcome::kBusy) {
    if (now_ns() >= deadline) {
      return Outcome::kBusy;
    }
    timespec pause{0, kPauseNs};
    ::nanosleep(&pause, nullptr);
  }
  return Outcome::kFree;
}

}  // namespace sluice
