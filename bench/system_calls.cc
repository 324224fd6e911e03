#include "bench/system_calls.h"

#include <bpf/libbpf.h>

#include <cerrno>

#include "system_calls.skel.h"

namespace sluice::bench {

struct SystemCallCounter::State {
  system_calls* program = nullptr;
  ~State() { system_calls__destroy(program); }
};

Result<std::unique_ptr<SystemCallCounter>> SystemCallCounter::start(const std::vector<pid_t>& processes) {
  std::unique_ptr<SystemCallCounter> counter(new SystemCallCounter);
  counter->state_ = std::make_unique<State>();
  State& state = *counter->state_;
  state.program = system_calls__open_and_load();
  if (state.program == nullptr) {
    return fail_errno(errno, "the kernel does not take the counting program");
  }
  for (std::size_t i = 0; i < processes.size() && i < std::size(state.program->bss->processes); ++i) {
    state.program->bss->processes[i] = static_cast<__u32>(processes[i]);
  }
  if (int error = system_calls__attach(state.program); error != 0) {
    return fail_errno(-error, "system calls cannot be traced here");
  }
  return counter;
}

SystemCallCounter::~SystemCallCounter() = default;

std::uint64_t SystemCallCounter::count() const {
  return state_->program->bss->calls;
}

}  // namespace sluice::bench
