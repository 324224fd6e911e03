// What a loop that waits for another CPU does in each round: leaves the core to its other thread for a
// moment.
#pragma once

namespace sluice {

inline void pause_cpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace sluice
