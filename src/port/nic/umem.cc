#include "port/nic/umem.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>

#include "base/check.h"

namespace sluice {

namespace {

std::unexpected<Error> no_socket(int os_errno) {
  switch (os_errno) {
    case EAFNOSUPPORT:
      return fail_errno(os_errno, "this kernel has no AF_XDP: it must be built with CONFIG_XDP_SOCKETS");
    case EPERM:
    case EACCES:
      return fail_errno(
          os_errno, "AF_XDP sockets need the capability CAP_NET_RAW (run as root or by the service unit)");
    default:
      return fail_errno(os_errno, "cannot make an AF_XDP socket");
  }
}

std::string memory_limit() {
  rlimit limit{};
  ::getrlimit(RLIMIT_MEMLOCK, &limit);
  return limit.rlim_cur == RLIM_INFINITY ? "unlimited" : fmt::format("{} bytes", limit.rlim_cur);
}

std::unexpected<Error> not_registered(int os_errno, std::size_t bytes) {
  switch (os_errno) {
    case ENOBUFS:  // net/xdp/xdp_umem.c, xdp_umem_account_pages
    case EAGAIN:
      return fail_errno(os_errno,
                        "the limit on locked memory (RLIMIT_MEMLOCK, {}) is too small to register {} bytes: "
                        "give the capability CAP_IPC_LOCK, or a limit of at least {} bytes (LimitMEMLOCK=)",
                        memory_limit(), bytes, bytes);
    case ENOMEM:
      return fail_errno(
          os_errno, "no memory to pin {} bytes for the NIC: make the rings or the ports' pages fewer", bytes);
    default:
      return fail_errno(os_errno, "cannot register {} bytes with AF_XDP", bytes);
  }
}

}  // namespace

Umem::~Umem() {
  SLUICE_CHECK(bound_.empty(), "{} queues are still open", bound_.size());
}

Result<std::unique_ptr<Umem>> Umem::create(std::span<const UmemRegion> regions, const UmemLayout& layout,
                                           QueueKernel& kernel) {
  SLUICE_CHECK(!regions.empty());
  UmemRegion whole{regions.front().data, 0};
  for (const UmemRegion& region : regions) {
    if (region.data != whole.data + whole.bytes) {
      return fail("regions of one registration must lie side by side: there is a gap behind {} bytes",
                  whole.bytes);
    }
    whole.bytes += region.bytes;
  }
  std::unique_ptr<Umem> umem(new Umem(whole, layout, kernel));
  // Now, and not with the first queue: what is wrong with the memory is said where the memory is made.
  auto socket = umem->registered_socket();
  if (!socket) {
    return std::unexpected(socket.error());
  }
  umem->spare_ = std::move(*socket);
  return umem;
}

Result<std::unique_ptr<Umem>> Umem::create(Arena& arena, QueueKernel& kernel) {
  const UmemRegion all{arena.data(), arena.bytes()};
  return create(std::span(&all, 1), UmemLayout{.chunk_bytes = arena.page_bytes()}, kernel);
}

Result<AfXdpSocket> Umem::bare_socket() {
  auto socket = AfXdpSocket::create(kernel_);
  if (!socket) {
    return no_socket(socket.error().os_errno);
  }
  return std::move(*socket);
}

Result<AfXdpSocket> Umem::registered_socket() {
  if (spare_) {
    return std::move(spare_);
  }
  auto socket = bare_socket();
  SLUICE_TRY(socket);
  xdp_umem_reg registration{};
  registration.addr = reinterpret_cast<std::uint64_t>(whole_.data);
  registration.len = whole_.bytes;
  registration.chunk_size = layout_.chunk_bytes;
  registration.headroom = layout_.headroom;
  registration.flags =
      layout_.chunks == UmemLayout::Chunks::kUnaligned ? std::uint32_t{XDP_UMEM_UNALIGNED_CHUNK_FLAG} : 0;
  if (auto registered = socket->register_memory(registration); !registered) {
    return not_registered(registered.error().os_errno, whole_.bytes);
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

}  // namespace sluice
