#include "port/guest/virtio/call_sender.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/untrusted.h"

namespace sluice {

namespace {

// The ring of completions, as the kernel maps it at the address that io_setup(2) gives; stable since Linux
// 2.6 and what libaio reads.
struct CompletionRing {
  std::uint32_t id;
  std::uint32_t entries;
  std::uint32_t head;  // ours
  std::uint32_t tail;  // the kernel's
  std::uint32_t magic;
  std::uint32_t compat_features;
  std::uint32_t incompat_features;
  std::uint32_t header_bytes;
};
constexpr std::uint32_t kRingMagic = 0xa10a10a1;

}  // namespace

Result<CallSender> CallSender::create() {
  // Of the process: a worker that is confined opens no file.
  static const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null) {
    return fail("cannot open /dev/null");
  }
  aio_context_t context = 0;
  if (::syscall(SYS_io_setup, kMost, &context) != 0) {
    return fail_errno(errno, "cannot set up AIO to call guests (fs.aio-max-nr)");
  }
  return CallSender(null.get(), context);
}

namespace {

std::atomic<std::uint32_t> threads_without_one{0};

// What one thread has: a context, or the wish for one.
struct OfThread {
  std::optional<CallSender> sender;
  std::uint64_t next_try_ns = 0;
  bool without = false;

  ~OfThread() { set_without(false); }
  void set_without(bool now) {
    if (std::exchange(without, now) != now) {
      now ? ++threads_without_one : --threads_without_one;
    }
  }
  void try_again() {
    const std::uint64_t now = now_ns();
    if (now < next_try_ns) {
      return;
    }
    next_try_ns = now + CallSender::kRetryNs;
    if (auto made = CallSender::create()) {
      sender.emplace(std::move(*made));
    }
    set_without(!sender);
  }
};

}  // namespace

CallSender* CallSender::of_this_thread() {
  thread_local OfThread mine;
  if (!mine.sender) [[unlikely]] {
    mine.try_again();
  }
  return mine.sender ? &*mine.sender : nullptr;
}

std::uint32_t CallSender::threads_without() {
  return threads_without_one.load(std::memory_order_relaxed);
}

CallSender::CallSender(int null, aio_context_t context) : null_(null), context_(context) {}

CallSender::CallSender(CallSender&& other) noexcept
    : null_(other.null_), context_(std::exchange(other.context_, 0)) {}

CallSender::~CallSender() {
  if (context_ != 0) {
    ::syscall(SYS_io_destroy, context_);
  }
}

std::size_t CallSender::send(std::span<const int> eventfds) {
  SLUICE_CHECK(eventfds.size() <= kMost, "{} calls", eventfds.size());
  std::array<iocb, kMost> operations;
  std::array<iocb*, kMost> pointers;
  for (std::size_t i = 0; i < eventfds.size(); ++i) {
    operations[i] = iocb{};
    operations[i].aio_lio_opcode = IOCB_CMD_PREAD;
    operations[i].aio_fildes = static_cast<std::uint32_t>(null_);
    operations[i].aio_flags = IOCB_FLAG_RESFD;
    operations[i].aio_resfd = static_cast<std::uint32_t>(eventfds[i]);
    pointers[i] = &operations[i];
  }
  std::size_t sent = 0;
  while (sent < eventfds.size()) {
    const long took = ::syscall(SYS_io_submit, context_, eventfds.size() - sent, &pointers[sent]);
    reap();
    if (took <= 0) {
      break;
    }
    sent += static_cast<std::size_t>(took);
  }
  return sent;
}

void CallSender::reap() {
  auto* ring = reinterpret_cast<CompletionRing*>(context_);
  if (ring->magic == kRingMagic && ring->incompat_features == 0) [[likely]] {
    write_once(ring->head, read_once(ring->tail, std::memory_order_acquire), std::memory_order_release);
    return;
  }
  std::array<io_event, kMost> events;
  timespec no_time{};
  ::syscall(SYS_io_getevents, context_, 0, events.size(), events.data(), &no_time);
}

}  // namespace sluice
