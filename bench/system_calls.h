// Counts the system calls of some processes, all threads, by a BPF program on the tracepoint that every call
// passes.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"

namespace sluice::bench {

class SystemCallCounter {
 public:
  static Result<std::unique_ptr<SystemCallCounter>> start(const std::vector<pid_t>& processes);
  ~SystemCallCounter();
  std::uint64_t count() const;  // since start()

 private:
  SystemCallCounter() = default;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sluice::bench
