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
constexpr int kEntries = 2;
constexpr long kPauseNs = 500'000;
}  // namespace

Result<std::unique_ptr<TeardownProbe>> TeardownProbe::create() {
  auto probe = std::make_unique<TeardownProbe>();
  void* memory = ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return fail_errno(errno, "cannot map a page");
  }
  probe->memory_ = Mapping::adopt(memory, kPageBytes);
  probe->socket_.reset(::socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0));
  if (!probe->socket_) {
    return fail_errno(errno, "cannot make an AF_XDP socket");
  }
  xdp_umem_reg registration{};
  registration.addr = reinterpret_cast<std::uint64_t>(memory);
  registration.len = kPageBytes;
  registration.chunk_size = kPageBytes;
  if (::setsockopt(probe->socket_.get(), SOL_XDP, XDP_UMEM_REG, &registration, sizeof(registration)) < 0) {
    return fail_errno(errno, "cannot register a page with AF_XDP");
  }
  for (int option : {XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING}) {
    if (::setsockopt(probe->socket_.get(), SOL_XDP, option, &kEntries, sizeof(kEntries)) < 0) {
      return fail_errno(errno, "cannot make AF_XDP ring {}", option);
    }
  }
  return probe;
}

TeardownProbe::Outcome TeardownProbe::wait_until_free(int ifindex, QueueId queue, std::uint64_t limit_ns) {
  sockaddr_xdp address{};
  address.sxdp_family = AF_XDP;
  address.sxdp_flags = XDP_COPY;  // asks nothing of the driver
  address.sxdp_ifindex = static_cast<std::uint32_t>(ifindex);
  address.sxdp_queue_id = raw(queue);
  std::uint64_t deadline = now_ns() + limit_ns;
  for (;;) {
    // Anything but EBUSY means that no pool is in the way: bound, or the device or its queue is gone.
    if (::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 ||
        errno != EBUSY) {
      socket_.reset();
      return Outcome::kFree;
    }
    if (now_ns() >= deadline) {
      return Outcome::kBusy;
    }
    timespec pause{0, kPauseNs};
    ::nanosleep(&pause, nullptr);
  }
}

}  // namespace sluice
