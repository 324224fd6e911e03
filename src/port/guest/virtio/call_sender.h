// CallSender: signals eventfds that a hostile process holds the other end of, without ever waiting.
//
// Both ends of an eventfd are one open file: a peer can clear its O_NONBLOCK, fill its counter and make a
// write(2) of ours wait for ever. The kernel's own eventfd_signal() never waits, and Linux AIO reaches it:
// an operation that names an eventfd to be signalled on completion (IOCB_FLAG_RESFD). The operation here
// reads no bytes of /dev/null, so it is complete when io_submit(2) returns; one system call signals any
// number, and the completions are taken from the ring in our memory without another.
#pragma once

#include <linux/aio_abi.h>

#include <array>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace sluice {

class CallSender {
 public:
  // Eventfds per call of send().
  static constexpr std::size_t kMost = 64;
  // Between two tries of a thread that has found no context.
  static constexpr std::uint64_t kRetryNs = 100'000'000;

  // Errors: a kernel without AIO, or the system's limit (fs.aio-max-nr).
  static Result<CallSender> create();
  // The present thread's, shared by all its lanes, kept until the thread ends: a port made while others have
  // used up fs.aio-max-nr needs none of its own. Null: there was none to be had, the last time that it was
  // tried.
  static CallSender* of_this_thread();
  // Threads that found none when they tried last.
  static std::uint32_t threads_without();
  CallSender(CallSender&& other) noexcept;
  CallSender& operator=(CallSender&&) = delete;
  ~CallSender();

  // Signals each of at most kMost. Returns how many it signalled; the one behind those cannot be: it is no
  // eventfd (the rest has not been tried).
  std::size_t send(std::span<const int> eventfds);

 private:
  CallSender(int null, aio_context_t context);
  void reap();

  int null_;
  aio_context_t context_ = 0;
};

}  // namespace sluice
