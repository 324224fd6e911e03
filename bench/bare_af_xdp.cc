#include "bench/bare_af_xdp.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <net/if.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <xdp/xsk.h>

#include <cerrno>

#include "bare_redirect.skel.h"
#include "base/fd.h"

namespace sluice::bench {

namespace {
constexpr std::uint32_t kFrameBytes = 2048;
constexpr std::uint32_t kBatch = 64;
}  // namespace

struct BareAfXdp::State {
  Mapping memory;
  bare_redirect* program = nullptr;
  bpf_link* link = nullptr;
  xsk_umem* umem = nullptr;
  xsk_socket* socket = nullptr;
  xsk_ring_prod fill{}, tx{};
  xsk_ring_cons completion{}, rx{};

  ~State() {
    bpf_link__destroy(link);
    if (socket != nullptr) {
      xsk_socket__delete(socket);
    }
    if (umem != nullptr) {
      xsk_umem__delete(umem);
    }
    bare_redirect__destroy(program);
  }
};

BareAfXdp::~BareAfXdp() = default;

Result<std::unique_ptr<BareAfXdp>> BareAfXdp::open(const std::string& netdev, std::uint32_t queue,
                                                   std::uint32_t ring_entries) {
  std::unique_ptr<BareAfXdp> bare(new BareAfXdp);
  bare->state_ = std::make_unique<State>();
  State& state = *bare->state_;
  std::uint32_t frames = 2 * ring_entries;  // both rings full
  std::size_t bytes = std::size_t{frames} * kFrameBytes;
  void* area =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (area == MAP_FAILED) {
    return fail_errno(errno, "cannot map {} bytes", bytes);
  }
  state.memory = Mapping::adopt(area, bytes);
  xsk_umem_config umem{};
  umem.fill_size = ring_entries;
  umem.comp_size = ring_entries;
  umem.frame_size = kFrameBytes;
  if (int error = xsk_umem__create(&state.umem, area, bytes, &state.fill, &state.completion, &umem);
      error != 0) {
    return fail_errno(-error, "xsk_umem__create");
  }
  xsk_socket_config config{};
  config.rx_size = ring_entries;
  config.tx_size = ring_entries;
  config.libbpf_flags = XSK_LIBBPF_FLAGS__INHIBIT_PROG_LOAD;
  config.bind_flags = XDP_USE_NEED_WAKEUP;
  if (int error =
          xsk_socket__create(&state.socket, netdev.c_str(), queue, state.umem, &state.rx, &state.tx, &config);
      error != 0) {
    return fail_errno(-error, "xsk_socket__create on {} queue {}", netdev, queue);
  }
  state.program = bare_redirect__open_and_load();
  if (state.program == nullptr) {
    return fail_errno(errno, "cannot load the redirect program");
  }
  int fd = xsk_socket__fd(state.socket);
  bpf_map__update_elem(state.program->maps.sockets, &queue, sizeof(queue), &fd, sizeof(fd), 0);
  state.link = bpf_program__attach_xdp(state.program->progs.bare_redirect,
                                       static_cast<int>(::if_nametoindex(netdev.c_str())));
  if (state.link == nullptr) {
    return fail_errno(errno, "cannot attach the redirect program to {}", netdev);
  }
  std::uint32_t at = 0;
  xsk_ring_prod__reserve(&state.fill, ring_entries, &at);
  for (std::uint32_t i = 0; i < ring_entries; ++i) {
    *xsk_ring_prod__fill_addr(&state.fill, at + i) = std::uint64_t{i} * kFrameBytes;
  }
  xsk_ring_prod__submit(&state.fill, ring_entries);
  return bare;
}

std::uint32_t BareAfXdp::turn() {
  State& state = *state_;
  std::uint32_t rx_at = 0, fill_at = 0;
  std::uint32_t count = xsk_ring_cons__peek(&state.rx, kBatch, &rx_at);
  if (count == 0) {
    if (xsk_ring_prod__needs_wakeup(&state.fill)) {
      ::recvfrom(xsk_socket__fd(state.socket), nullptr, 0, MSG_DONTWAIT, nullptr, nullptr);
    }
    return 0;
  }
  // As many pages as were received fit the fill ring: they came from it.
  while (xsk_ring_prod__reserve(&state.fill, count, &fill_at) != count) {
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    const xdp_desc* descriptor = xsk_ring_cons__rx_desc(&state.rx, rx_at + i);
    touched_ += *static_cast<const std::uint64_t*>(xsk_umem__get_data(state.memory.data(), descriptor->addr));
    bytes_ += descriptor->len;
    *xsk_ring_prod__fill_addr(&state.fill, fill_at + i) = descriptor->addr & ~std::uint64_t{kFrameBytes - 1};
  }
  xsk_ring_prod__submit(&state.fill, count);
  xsk_ring_cons__release(&state.rx, count);
  return count;
}

}  // namespace sluice::bench
