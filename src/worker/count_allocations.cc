// A file of its own: where the compiler sees both halves, it takes them for a mismatched pair.
#include "worker/count_allocations.h"

#include <atomic>
#include <cstdlib>
#include <new>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SLUICE_NEW_IS_TAKEN  // ThreadSanitizer's runtime has its own, and the linker wants only one
#endif
#endif

#ifdef SLUICE_NEW_IS_TAKEN
std::optional<std::uint64_t> sluice::allocation_count() {
  return std::nullopt;
}
#else
static std::atomic<std::uint64_t> g_allocations{0};

std::optional<std::uint64_t> sluice::allocation_count() {
  return g_allocations.load();
}

void* operator new(std::size_t bytes) {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(bytes)) {
    return memory;
  }
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
#endif
