// Processes that a test starts: run one to its end, or hold one and be sure it is gone afterwards.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace sluice::test {

struct Finished {
  int status = -1;     // exit status; 128 + signal when one ended it
  std::string output;  // stdout and stderr together
  bool ok() const { return status == 0; }
};

// A running child whose stdout and stderr come to us. Killed (-9) and reaped when it goes out of scope.
class Process {
 public:
  static Result<Process> start(const std::vector<std::string>& argv);
  Process() = default;
  Process(Process&& other) noexcept;
  Process& operator=(Process&& other) noexcept;
  ~Process();

  pid_t pid() const { return pid_; }
  void signal(int number) const;
  // Reads the output to its end, then reaps.
  Finished wait();

 private:
  pid_t pid_ = -1;
  UniqueFd output_;
};

Finished run(const std::vector<std::string>& argv);

}  // namespace sluice::test
