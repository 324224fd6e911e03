// Console: a program that is spoken to by its terminal: testpmd's prompt, a guest's serial line.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace sluice::test {

class Console {
 public:
  // On a terminal of its own (a pseudo-terminal in raw mode): programs that write to a pipe keep their words
  // to themselves until a buffer is full. It does not outlive the thread that starts it.
  static Result<std::unique_ptr<Console>> start(const std::vector<std::string>& argv);
  ~Console();  // kill -9, and reaped
  Console(const Console&) = delete;

  pid_t pid() const { return pid_; }
  bool running() const;
  void write(const std::string& text);
  // All that it has said, and how much that is.
  std::string text() const;
  std::size_t mark() const;
  std::string since(std::size_t mark) const;
  // Waits until `what` stands behind `from`; where it ends, or npos: it did not come in time, or the program
  // has ended or spoken its last words (give_up_at) without.
  std::size_t wait_for(const std::string& what, std::size_t from,
                       std::chrono::seconds deadline = std::chrono::seconds(60));

  // From now on no wait_for() waits any longer once the program has said this.
  void give_up_at(const std::string& last_words);

  void signal(int number) const;
  // Waits for its end, at most so long, then kill -9. The exit status, 128 + signal.
  int wait(std::chrono::seconds deadline = std::chrono::seconds(30));
  int kill();

 private:
  Console() = default;
  void read();

  pid_t pid_ = -1;
  int status_ = -1;
  UniqueFd terminal_;
  mutable std::mutex mutex_;
  std::condition_variable more_;
  std::string text_;
  bool ended_ = false;
  std::string last_words_;  // empty: none
  std::thread reader_;
};

}  // namespace sluice::test
