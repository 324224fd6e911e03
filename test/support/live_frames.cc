#include "test/support/live_frames.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "live_frames.skel.h"

namespace sluice::test {

namespace {
// Frames for one system call: as many as let stop() be heard soon.
constexpr std::uint64_t kChunk = 32768;

// Until a batch is due: a system call costs as much as many frames, and generators wait for each other in it.
long nap_ns(std::uint64_t batch, std::uint64_t packets_per_second) {
  return std::clamp(static_cast<long>(batch * 1'000'000'000 / packets_per_second), 200'000L, 5'000'000L);
}
}  // namespace

struct LiveFrames::State {
  UniqueFd ns;
  LiveFramesOptions options;
  // The program hangs on the loopback of a namespace that nothing else uses. Each BPF_PROG_RUN would
  // otherwise enter it into the kernel's XDP dispatcher and take it out again, and each of the two waits for
  // an RCU grace period: tens of milliseconds on a busy machine, for a chunk that takes 13.
  std::optional<NetNs> anchor;
  live_frames* skeleton = nullptr;
  std::thread thread;
  std::atomic<bool> stop{false};
  std::atomic<bool> running{false};
  std::atomic<std::uint64_t> sent{0};
  int error = 0;

  ~State() {
    stop = true;
    if (thread.joinable()) {
      thread.join();
    }
    if (skeleton != nullptr) {
      live_frames__destroy(skeleton);
    }
  }

  void pin() const {
    if (options.cpu) {
      cpu_set_t cpus;
      CPU_ZERO(&cpus);
      CPU_SET(*options.cpu, &cpus);
      SLUICE_CHECK(::pthread_setaffinity_np(::pthread_self(), sizeof(cpus), &cpus) == 0, "no CPU {}",
                   *options.cpu);
    }
  }

  // Sends `frames` or fewer, and adds to `done` what went out. Fewer: a signal came (a stop and a continue
  // are enough), or a frame came back from the stack with its headroom used up, which ends the run
  // (net/bpf/test_run.c, xdp_update_frame_from_buff): it happens when the far end loses its XDP program under
  // traffic.
  int send(std::uint64_t frames, std::uint64_t& done) {
    LIBBPF_OPTS(bpf_test_run_opts, run);
    run.data_in = options.frame.data();
    run.data_size_in = static_cast<std::uint32_t>(options.frame.size());
    run.repeat = static_cast<int>(frames);
    run.flags = BPF_F_TEST_XDP_LIVE_FRAMES;
    run.batch_size = options.batch;
    const std::uint64_t before = skeleton->bss->frames;
    int result = ::bpf_prog_test_run_opts(::bpf_program__fd(skeleton->progs.live_frame), &run);
    int failed = result < 0 && errno != EINTR && errno != ENOSPC ? errno : 0;
    done += skeleton->bss->frames - before;
    sent.store(done, std::memory_order_relaxed);
    return failed;
  }

  void loop() {
    SLUICE_CHECK(::setns(ns.get(), CLONE_NEWNET) == 0, "setns: errno {}", errno);
    pin();
    std::uint64_t begun = now_ns(), done = 0, rate = options.packets_per_second;
    while (!stop.load(std::memory_order_relaxed) && (options.count == 0 || done < options.count)) {
      std::uint64_t chunk = options.count == 0 ? kChunk : std::min(kChunk, options.count - done);
      if (rate != 0) {
        // What is due by now; when nothing is, the generator waits for its clock.
        std::uint64_t due = (now_ns() - begun) * rate / 1'000'000'000u + 1;
        if (due <= done) {
          timespec nap{0, nap_ns(options.batch, rate)};
          ::nanosleep(&nap, nullptr);
          continue;
        }
        chunk = std::min(chunk, due - done);
      }
      if (options.allowed != nullptr) {
        std::uint64_t allowed = options.allowed->load(std::memory_order_relaxed);
        if (allowed <= done) {
          std::this_thread::yield();
          continue;
        }
        chunk = std::min(chunk, allowed - done);
      }
      if ((error = send(chunk, done)) != 0) {
        break;
      }
    }
    running = false;
  }
};

Result<std::unique_ptr<LiveFrames>> LiveFrames::create(const NetNs& wire, int ifindex,
                                                       LiveFramesOptions options) {
  std::unique_ptr<LiveFrames> live(new LiveFrames);
  live->state_ = std::make_unique<State>();
  State& state = *live->state_;
  state.ns.reset(::fcntl(wire.fd(), F_DUPFD_CLOEXEC, 0));
  state.options = std::move(options);
  state.skeleton = live_frames__open();
  if (state.skeleton == nullptr) {
    return fail_errno(errno, "cannot open the generator's BPF program");
  }
  auto& fixed = *state.skeleton->rodata;
  fixed.target_ifindex = static_cast<std::uint32_t>(ifindex);
  fixed.write_sequence = state.options.sequence ? 1 : 0;
  fixed.first_source_port = state.options.first_source_port;
  fixed.source_ports = state.options.source_ports;
  state.skeleton->bss->sequence = state.options.first_sequence;
  if (int error = live_frames__load(state.skeleton); error != 0) {
    return fail_errno(-error, "cannot load the generator's BPF program");
  }
  auto anchor = NetNs::create();
  SLUICE_TRY(anchor);
  state.anchor = std::move(*anchor);
  constexpr int kLoopback = 1;
  bpf_link* link = state.anchor->in(
      [&] { return ::bpf_program__attach_xdp(state.skeleton->progs.live_frame, kLoopback); });
  if (link == nullptr) {
    return fail_errno(errno, "cannot keep the generator's BPF program in the dispatcher");
  }
  state.skeleton->links.live_frame = link;  // destroyed with it
  return live;
}

LiveFrames::~LiveFrames() = default;

void LiveFrames::start() {
  SLUICE_CHECK(!state_->thread.joinable(), "started twice");
  state_->stop = false;
  state_->error = 0;
  state_->sent = 0;
  state_->running = true;
  state_->thread = std::thread([state = state_.get()] { state->loop(); });
}

bool LiveFrames::running() const {
  return state_->running;
}

std::uint64_t LiveFrames::sent() const {
  return state_->sent.load(std::memory_order_relaxed);
}

Result<std::uint64_t> LiveFrames::wait() {
  if (state_->thread.joinable()) {
    state_->thread.join();
  }
  if (state_->error != 0) {
    return fail_errno(state_->error, "BPF_PROG_RUN in live-frames mode");
  }
  return sent();
}

Result<std::uint64_t> LiveFrames::stop() {
  state_->stop = true;
  return wait();
}

Result<std::uint64_t> LiveFrames::run() {
  start();
  return wait();
}

Result<std::uint64_t> LiveFrames::step(std::uint64_t frames) {
  SLUICE_CHECK(!state_->thread.joinable(), "it is running");
  std::uint64_t done = 0;
  if (int error = state_->send(frames, done); error != 0) {
    return fail_errno(error, "BPF_PROG_RUN in live-frames mode");
  }
  return done;
}

std::uint64_t sequence_of(const std::byte* frame) {
  std::uint64_t sequence;
  std::memcpy(&sequence, frame + kPayloadOffset, sizeof(sequence));
  return sequence;
}

}  // namespace sluice::test
