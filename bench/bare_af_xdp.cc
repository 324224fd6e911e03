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
#include "bench/busy_poll.h"

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
  bool busy_poll = false;

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

  Result<void> make_socket(const std::string& netdev, const BareOptions& options);
  Result<void> attach_program(const std::string& netdev, const BareOptions& options);
};

BareAfXdp::~BareAfXdp() = default;

int BareAfXdp::socket_fd() const {
  return xsk_socket__fd(state_->socket);
}

Result<void> BareAfXdp::State::make_socket(const std::string& netdev, const BareOptions& options) {
  const std::uint32_t frames = 2 * options.ring_entries;  // both rings full
  const std::size_t bytes = std::size_t{frames} * kFrameBytes;
  void* area =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (area == MAP_FAILED) {
    return fail_errno(errno, "cannot map {} bytes", bytes);
  }
  memory = Mapping::adopt(area, bytes);
  xsk_umem_config umem_config{};
  umem_config.fill_size = options.ring_entries;
  umem_config.comp_size = options.ring_entries;
  umem_config.frame_size = kFrameBytes;
  if (int error = xsk_umem__create(&umem, area, bytes, &fill, &completion, &umem_config); error != 0) {
    return fail_errno(-error, "xsk_umem__create");
  }
  xsk_socket_config config{};
  config.rx_size = options.ring_entries;
  config.tx_size = options.ring_entries;
  config.libbpf_flags = XSK_LIBBPF_FLAGS__INHIBIT_PROG_LOAD;
  config.bind_flags = XDP_USE_NEED_WAKEUP;
  if (int error = xsk_socket__create(&socket, netdev.c_str(), options.queue, umem, &rx, &tx, &config);
      error != 0) {
    return fail_errno(-error, "xsk_socket__create on {} queue {}", netdev, options.queue);
  }
  return {};
}

Result<void> BareAfXdp::State::attach_program(const std::string& netdev, const BareOptions& options) {
  program = bare_redirect__open();
  if (program != nullptr) {
    program->rodata->rule_port = options.rule_port.value_or(0);
  }
  if (program == nullptr || bare_redirect__load(program) != 0) {
    return fail_errno(errno, "cannot load the redirect program");
  }
  int fd = xsk_socket__fd(socket);
  bpf_map__update_elem(program->maps.sockets, &options.queue, sizeof(options.queue), &fd, sizeof(fd), 0);
  link = bpf_program__attach_xdp(
      options.rule_port ? program->progs.redirect_by_rule : program->progs.bare_redirect,
      static_cast<int>(::if_nametoindex(netdev.c_str())));
  if (link == nullptr) {
    return fail_errno(errno, "cannot attach the redirect program to {}", netdev);
  }
  return {};
}

Result<std::unique_ptr<BareAfXdp>> BareAfXdp::open(const std::string& netdev, const BareOptions& options) {
  std::unique_ptr<BareAfXdp> bare(new BareAfXdp);
  bare->state_ = std::make_unique<State>();
  State& state = *bare->state_;
  SLUICE_TRY(state.make_socket(netdev, options));
  if (options.busy_poll) {
    state.busy_poll = true;
    SLUICE_TRY(prefer_busy_poll(bare->socket_fd()));
  }
  SLUICE_TRY(state.attach_program(netdev, options));
  std::uint32_t at = 0;
  xsk_ring_prod__reserve(&state.fill, options.ring_entries, &at);
  for (std::uint32_t i = 0; i < options.ring_entries; ++i) {
    *xsk_ring_prod__fill_addr(&state.fill, at + i) = std::uint64_t{i} * kFrameBytes;
  }
  xsk_ring_prod__submit(&state.fill, options.ring_entries);
  return bare;
}

std::uint32_t BareAfXdp::turn() {
  State& state = *state_;
  std::uint32_t rx_at = 0, fill_at = 0;
  std::uint32_t count = xsk_ring_cons__peek(&state.rx, kBatch, &rx_at);
  if (count == 0) {
    if (state.busy_poll || xsk_ring_prod__needs_wakeup(&state.fill)) {
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
