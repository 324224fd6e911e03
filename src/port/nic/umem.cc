#include "port/nic/umem.h"

#include <linux/if_xdp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/check.h"

namespace sluice {

namespace {

Result<UniqueFd> make_socket() {
  UniqueFd fd(::socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0));
  if (fd) {
    return fd;
  }
  switch (errno) {
    case EAFNOSUPPORT:
      return fail_errno(errno, "this kernel has no AF_XDP: it must be built with CONFIG_XDP_SOCKETS");
    case EPERM:
    case EACCES:
      return fail_errno(
          errno, "AF_XDP sockets need the capability CAP_NET_RAW (run as root or by the service unit)");
    default:
      return fail_errno(errno, "cannot make an AF_XDP socket");
  }
}

std::string memory_limit() {
  rlimit limit{};
  ::getrlimit(RLIMIT_MEMLOCK, &limit);
  return limit.rlim_cur == RLIM_INFINITY ? "unlimited" : fmt::format("{} bytes", limit.rlim_cur);
}

Result<void> register_arena(int fd, const Arena& arena) {
  xdp_umem_reg registration{};
  registration.addr = reinterpret_cast<std::uint64_t>(arena.data());
  registration.len = arena.bytes();
  registration.chunk_size = arena.page_bytes();
  registration.headroom = sizeof(sluice_packet_meta);  // see kFrameOffset
  if (::setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &registration, sizeof(registration)) == 0) {
    return {};
  }
  switch (errno) {
    case ENOBUFS:  // net/xdp/xdp_umem.c, xdp_umem_account_pages
    case EAGAIN:
      return fail_errno(errno,
                        "the limit on locked memory (RLIMIT_MEMLOCK, {}) is too small to register {} bytes: "
                        "give the capability CAP_IPC_LOCK, or a limit of at least {} bytes (LimitMEMLOCK=)",
                        memory_limit(), arena.bytes(), arena.bytes());
    case ENOMEM:
      return fail_errno(errno,
                        "no memory to pin {} bytes for the NIC: make the rings or the ports' pages fewer",
                        arena.bytes());
    default:
      return fail_errno(errno, "cannot register {} bytes with AF_XDP", arena.bytes());
  }
}

}  // namespace

Umem::Umem(Arena& arena) : arena_(arena), slots_(std::make_unique<std::array<Slot, kMaxPools>>()) {}

Umem::~Umem() {
  SLUICE_CHECK(bound_.empty(), "{} queues are still open", bound_.size());
}

Result<std::unique_ptr<Umem>> Umem::create(Arena& arena) {
  std::unique_ptr<Umem> umem(new Umem(arena));
  // Now, and not with the first queue: what is wrong with the memory is said where the memory is made.
  auto socket = umem->registered_socket();
  if (!socket) {
    return std::unexpected(socket.error());
  }
  umem->spare_ = std::move(*socket);
  return umem;
}

Result<UniqueFd> Umem::registered_socket() {
  if (spare_) {
    return std::move(spare_);
  }
  auto socket = make_socket();
  if (socket) {
    SLUICE_TRY(register_arena(socket->get(), arena_));
  }
  return socket;
}

int Umem::sibling(int ifindex, BindMode mode) const {
  for (const Bound& bound : bound_) {
    if (bound.ifindex == ifindex &&
        (mode == BindMode::kAuto || bound.zero_copy == (mode == BindMode::kZeroCopy))) {
      return bound.fd;
    }
  }
  return -1;
}

void Umem::joined(int fd, int ifindex, bool zero_copy) {
  bound_.push_back({fd, ifindex, zero_copy});
}

void Umem::left(int fd) {
  auto removed = std::erase_if(bound_, [fd](const Bound& bound) { return bound.fd == fd; });
  SLUICE_CHECK(removed == 1, "socket {} is not of this UMEM", fd);
}

Result<void> Umem::add_pool(PagePool& pool) {
  std::uint32_t count = slot_count_.load(std::memory_order_relaxed);
  Slot* empty = nullptr;
  for (std::uint32_t i = 0; i < count; ++i) {
    Slot& slot = (*slots_)[i];
    PagePool* known = slot.pool.load(std::memory_order_relaxed);
    if (known == &pool) {
      return {};
    }
    if (known == nullptr && empty == nullptr) {
      empty = &slot;
    }
  }
  if (empty == nullptr) {
    if (count == kMaxPools) {
      return fail("more than {} queues in one arena", kMaxPools);
    }
    empty = &(*slots_)[count];
    slot_count_.store(count + 1, std::memory_order_release);
  }
  empty->pool.store(&pool, std::memory_order_release);
  return {};
}

void Umem::forget_pool(PagePool& pool) {
  SLUICE_CHECK(at_siblings(pool) == 0, "{} pages of pool {} are in other queues' TX rings", at_siblings(pool),
               pool.name());
  for (Slot& slot : *slots_) {
    if (slot.pool.load(std::memory_order_relaxed) == &pool) {
      slot.pool.store(nullptr, std::memory_order_release);
    }
  }
}

Umem::Slot* Umem::slot_of(PageIndex page) const {
  std::uint32_t count = slot_count_.load(std::memory_order_acquire);
  for (std::uint32_t i = 0; i < count; ++i) {
    PagePool* pool = (*slots_)[i].pool.load(std::memory_order_acquire);
    if (pool != nullptr && pool->contains(page)) {
      return &(*slots_)[i];
    }
  }
  return nullptr;
}

PagePool* Umem::pool_of(PageIndex page) const {
  Slot* slot = slot_of(page);
  return slot == nullptr ? nullptr : slot->pool.load(std::memory_order_acquire);
}

void Umem::lent_to_sibling(PageIndex page, std::int32_t count) {
  Slot* slot = slot_of(page);
  SLUICE_CHECK(slot != nullptr, "page {} is of no pool", raw(page));
  slot->at_siblings.fetch_add(count, std::memory_order_acq_rel);
}

std::int32_t Umem::at_siblings(const PagePool& pool) const {
  for (const Slot& slot : *slots_) {
    if (slot.pool.load(std::memory_order_relaxed) == &pool) {
      return slot.at_siblings.load(std::memory_order_acquire);
    }
  }
  return 0;
}

}  // namespace sluice
