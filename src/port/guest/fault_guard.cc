#include "port/guest/fault_guard.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/check.h"

namespace sluice {

namespace {

// Read by the handler on any thread while the control thread changes other slots. `version` is odd while a
// slot changes: the handler takes only what it read whole.
struct Slot {
  std::atomic<std::uint32_t> version{0};
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::uintptr_t> end{0};  // 0: free
  std::atomic<std::size_t> page_bytes{0};
  std::atomic<int> event{-1};
  std::atomic<bool> lost{false};
};

std::array<Slot, kMaxWatchedMappings> slots;
std::atomic<std::uint32_t> slots_in_use{0};  // how far the handler looks
struct sigaction previous_action;
bool installed = false;

static_assert(std::atomic<std::uintptr_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

// What a slot says, when `address` lies in it. The handler's thread is inside that mapping, so it is not
// taken away meanwhile; any other slot may be.
bool covers(const Slot& slot, std::uintptr_t address, std::uintptr_t& end, std::size_t& page_bytes,
            int& event) {
  std::uint32_t before = slot.version.load(std::memory_order_acquire);
  std::uintptr_t begin = slot.begin.load(std::memory_order_relaxed);
  end = slot.end.load(std::memory_order_relaxed);
  page_bytes = slot.page_bytes.load(std::memory_order_relaxed);
  event = slot.event.load(std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_acquire);
  return (before & 1) == 0 && slot.version.load(std::memory_order_relaxed) == before && begin <= address &&
         address < end;
}

// System calls are made directly: the sanitizers' own versions of mmap and write are not for a handler.
bool replace_by_zeroes(std::uintptr_t address, std::uintptr_t end, std::size_t page_bytes) {
  std::uintptr_t from = address & ~(std::uintptr_t{page_bytes} - 1);
  long made = ::syscall(SYS_mmap, from, end - from, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  return made == static_cast<long>(from);
}

// Async-signal-safe: atomics and system calls, nothing else.
bool absorb(std::uintptr_t address) {
  const std::uint32_t count = slots_in_use.load(std::memory_order_acquire);
  for (std::uint32_t i = 0; i < count; ++i) {
    std::uintptr_t end = 0;
    std::size_t page_bytes = 0;
    int event = -1;
    if (!covers(slots[i], address, end, page_bytes, event)) {
      continue;
    }
    if (!replace_by_zeroes(address, end, page_bytes)) {
      return false;
    }
    slots[i].lost.store(true, std::memory_order_release);
    const std::uint64_t one = 1;
    (void)::syscall(SYS_write, event, &one, sizeof(one));  // non-blocking: full is as good as told
    return true;
  }
  return false;
}

void on_bus_error(int, siginfo_t* info, void*) {
  const int saved_errno = errno;
  // Only what the kernel says about an access: a signal that somebody sent (kill) has no address.
  if (info->si_code <= 0 || !absorb(reinterpret_cast<std::uintptr_t>(info->si_addr))) {
    ::sigaction(SIGBUS, &previous_action, nullptr);
    if (info->si_code <= 0) {
      ::raise(SIGBUS);
    }
    // Back to the access, which faults again, and then as if we had never been here.
  }
  errno = saved_errno;
}

Result<void> install() {
  if (installed) {
    return {};
  }
  struct sigaction action{};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
  ::sigemptyset(&action.sa_mask);
  if (::sigaction(SIGBUS, &action, &previous_action) < 0) {
    return fail_errno(errno, "cannot handle SIGBUS");
  }
  installed = true;
  return {};
}

void set(Slot& slot, std::uintptr_t begin, std::uintptr_t end, std::size_t page_bytes, int event) {
  slot.version.fetch_add(1, std::memory_order_acq_rel);
  slot.begin.store(begin, std::memory_order_release);
  slot.end.store(end, std::memory_order_release);
  slot.page_bytes.store(page_bytes, std::memory_order_release);
  slot.event.store(event, std::memory_order_release);
  slot.lost.store(false, std::memory_order_release);
  slot.version.fetch_add(1, std::memory_order_release);
}

}  // namespace

Result<LossSignal> LossSignal::create() {
  LossSignal signal;
  signal.event_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!signal.event_) {
    return fail_errno(errno, "cannot make the eventfd that tells of lost memory");
  }
  return signal;
}

bool LossSignal::take() const {
  std::uint64_t count = 0;
  return ::read(event_.get(), &count, sizeof(count)) == sizeof(count);
}

Result<FaultWatch> FaultWatch::watch(std::span<std::byte> mapping, std::size_t page_bytes,
                                     const LossSignal& signal) {
  SLUICE_TRY(install());
  const auto begin = reinterpret_cast<std::uintptr_t>(mapping.data());
  SLUICE_CHECK(!mapping.empty() && begin % page_bytes == 0 && mapping.size() % page_bytes == 0,
               "mapping of {} bytes at {:x}, pages of {}", mapping.size(), begin, page_bytes);
  const std::uint32_t count = slots_in_use.load(std::memory_order_relaxed);
  std::uint32_t index = 0;
  while (index < count && slots[index].end.load(std::memory_order_relaxed) != 0) {
    ++index;
  }
  if (index == kMaxWatchedMappings) {
    return fail("{} mappings of guest memory are all that can be watched", kMaxWatchedMappings);
  }
  set(slots[index], begin, begin + mapping.size(), page_bytes, signal.fd());
  if (index == count) {
    slots_in_use.store(count + 1, std::memory_order_release);
  }
  FaultWatch watch;
  watch.slot_ = index;
  return watch;
}

bool FaultWatch::lost() const {
  return slot_ != kNoSlot && slots[slot_].lost.load(std::memory_order_acquire);
}

void FaultWatch::reset() {
  if (slot_ != kNoSlot) {
    set(slots[slot_], 0, 0, 0, -1);
    slot_ = kNoSlot;
  }
}

}  // namespace sluice
