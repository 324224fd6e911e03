#include "port/guest/vhost_user/fault_guard.h"

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

constexpr std::size_t kOsPage = 4096;

// Read by the handler on any thread while the control thread changes other slots. `version` is odd while a
// slot changes: the handler takes only what it read whole.
struct Slot {
  std::atomic<std::uint32_t> version{0};
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::uintptr_t> end{0};  // 0: free
  std::atomic<std::size_t> page_bytes{0};
  std::atomic<int> event{-1};
  std::atomic<std::atomic<bool>*> all_lost{nullptr};  // of the owner's signal
  std::atomic<std::uint32_t> replaced{0};             // pages
  std::atomic<bool> opened{false};                    // huge pages are gone, so that small ones fit
  std::atomic<bool> lost{false};
};

std::array<Slot, kMaxWatchedMappings> slots;
std::atomic<std::uint32_t> slots_in_use{0};  // how far the handler looks
struct sigaction previous_action;
bool installed = false;
// A file with a page for each slot, allocated while the slot is watched. Behind its end nothing is.
std::atomic<int> spare_pages{-1};
constexpr std::size_t kSpareBytes = kMaxWatchedMappings * kOsPage;

static_assert(std::atomic<std::uintptr_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

struct Watched {
  std::uintptr_t begin = 0, end = 0;
  std::size_t page_bytes = 0;
  int event = -1;
  std::atomic<bool>* all_lost = nullptr;
};

// What a slot says, when `address` lies in it. The handler's thread is inside that mapping, so it is not
// taken away meanwhile; any other slot may be.
bool covers(const Slot& slot, std::uintptr_t address, Watched& watched) {
  std::uint32_t before = slot.version.load(std::memory_order_acquire);
  watched = {.begin = slot.begin.load(std::memory_order_relaxed),
             .end = slot.end.load(std::memory_order_relaxed),
             .page_bytes = slot.page_bytes.load(std::memory_order_relaxed),
             .event = slot.event.load(std::memory_order_relaxed),
             .all_lost = slot.all_lost.load(std::memory_order_relaxed)};
  std::atomic_thread_fence(std::memory_order_acquire);
  return (before & 1) == 0 && slot.version.load(std::memory_order_relaxed) == before &&
         watched.begin <= address && address < watched.end;
}

// System calls are made directly: the sanitizers' own versions of mmap and write are not for a handler.
bool map_over(std::uintptr_t from, std::uintptr_t end, int flags, int fd, std::size_t offset) {
  const long made =
      ::syscall(SYS_mmap, from, end - from, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, offset);
  return made == static_cast<long>(from);
}

bool map_zeroes(std::uintptr_t from, std::uintptr_t end) {
  return map_over(from, end, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

// The slot's spare page: there already, and shared, so the kernel has nothing to promise for it. A mapping of
// huge pages takes no small one; all of it first becomes a hole, whose every page comes here when touched.
bool map_spare(Slot& slot, std::size_t index, const Watched& watched, std::uintptr_t address) {
  const int file = spare_pages.load(std::memory_order_acquire);
  if (watched.page_bytes > kOsPage && !slot.opened.load(std::memory_order_acquire)) {
    if (!map_over(watched.begin, watched.end, MAP_SHARED, file, kSpareBytes)) {
      return false;
    }
    slot.opened.store(true, std::memory_order_release);  // by two threads at once: the second undoes, once
  }
  const std::uintptr_t page = address & ~(std::uintptr_t{kOsPage} - 1);
  return map_over(page, page + kOsPage, MAP_SHARED, file, index * kOsPage);
}

bool replace(Slot& slot, std::size_t index, const Watched& watched, std::uintptr_t address) {
  if (!slot.opened.load(std::memory_order_acquire)) {
    const std::uintptr_t from = address & ~(std::uintptr_t{watched.page_bytes} - 1);
    const bool singly = slot.replaced.fetch_add(1, std::memory_order_relaxed) < kPagesReplacedSingly;
    if (map_zeroes(from, singly ? from + watched.page_bytes : watched.end)) {
      return true;
    }
  }
  return map_spare(slot, index, watched, address);
}

// Async-signal-safe: atomics and system calls, nothing else.
bool absorb(std::uintptr_t address) {
  const std::uint32_t count = slots_in_use.load(std::memory_order_acquire);
  for (std::uint32_t i = 0; i < count; ++i) {
    Watched watched;
    if (!covers(slots[i], address, watched)) {
      continue;
    }
    if (!replace(slots[i], i, watched, address)) {
      return false;
    }
    slots[i].lost.store(true, std::memory_order_release);
    watched.all_lost->store(true, std::memory_order_release);
    const std::uint64_t one = 1;
    (void)::syscall(SYS_write, watched.event, &one, sizeof(one));  // non-blocking: full is as good as told
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
  UniqueFd spare(::memfd_create("sluice-spare-pages", MFD_CLOEXEC));
  if (!spare || ::ftruncate(spare.get(), kSpareBytes) < 0) {
    return fail_errno(errno, "cannot make the pages that stand in for lost ones");
  }
  struct sigaction action{};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
  ::sigemptyset(&action.sa_mask);
  if (::sigaction(SIGBUS, &action, &previous_action) < 0) {
    return fail_errno(errno, "cannot handle SIGBUS");
  }
  spare_pages.store(spare.release(), std::memory_order_release);  // for the life of the process
  installed = true;
  return {};
}

// Zeroed, and with that allocated: an error says that there is no memory.
Result<void> prepare_spare(std::size_t index) {
  alignas(kOsPage) static constexpr std::array<std::byte, kOsPage> zeroes{};
  const auto at = static_cast<off_t>(index * kOsPage);
  if (::pwrite(spare_pages.load(std::memory_order_relaxed), zeroes.data(), kOsPage, at) !=
      static_cast<ssize_t>(kOsPage)) {
    return fail_errno(errno, "no memory for the page that stands in for lost ones");
  }
  return {};
}

void set(Slot& slot, const Watched& watched) {
  slot.version.fetch_add(1, std::memory_order_acq_rel);
  slot.begin.store(watched.begin, std::memory_order_release);
  slot.end.store(watched.end, std::memory_order_release);
  slot.page_bytes.store(watched.page_bytes, std::memory_order_release);
  slot.event.store(watched.event, std::memory_order_release);
  slot.all_lost.store(watched.all_lost, std::memory_order_release);
  slot.replaced.store(0, std::memory_order_release);
  slot.opened.store(false, std::memory_order_release);
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

void LossSignal::begin() const {
  (void)take();
  lost_->store(false, std::memory_order_release);
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
  SLUICE_TRY(prepare_spare(index));
  set(slots[index], {.begin = begin,
                     .end = begin + mapping.size(),
                     .page_bytes = page_bytes,
                     .event = signal.fd(),
                     .all_lost = signal.lost_.get()});
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
    set(slots[slot_], {});
    slot_ = kNoSlot;
  }
}

}  // namespace sluice
