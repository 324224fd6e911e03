// The calling thread's CPU time, and how often it was blocked, as the kernel counts them (two system calls).
// By these a call's own cost can be told from time in which the hypervisor or another thread kept this thread
// from running.
#pragma once

#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <cstdint>

namespace sluice {

struct ThreadUsage {
  std::uint64_t cpu_ns = 0, blocked = 0;

  static ThreadUsage now() {
    timespec cpu{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    rusage used{};
    ::getrusage(RUSAGE_THREAD, &used);
    return {.cpu_ns = static_cast<std::uint64_t>(cpu.tv_sec) * 1'000'000'000u +
                      static_cast<std::uint64_t>(cpu.tv_nsec),
            .blocked = static_cast<std::uint64_t>(used.ru_nvcsw)};
  }

  // The cost of what was done since then and took `wall_ns`. A thread that was blocked waited for something
  // that the call made it wait for: all of `wall_ns`. Otherwise the CPU time.
  std::uint64_t cost_since(const ThreadUsage& before, std::uint64_t wall_ns) const {
    return blocked != before.blocked ? wall_ns : std::min(wall_ns, cpu_ns - before.cpu_ns);
  }
};

}  // namespace sluice
