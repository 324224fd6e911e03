// What the kernel says of the calling thread: CPU time, and how often it was blocked. Tells what a call has
// cost from the time in which the hypervisor or another thread kept this one from running. Two system calls.
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

  // What was done since then and took `wall_ns`: all of it when the thread was blocked, for it waited for
  // something that the call made it wait for; else the CPU time.
  std::uint64_t cost_since(const ThreadUsage& before, std::uint64_t wall_ns) const {
    return blocked != before.blocked ? wall_ns : std::min(wall_ns, cpu_ns - before.cpu_ns);
  }
};

}  // namespace sluice
