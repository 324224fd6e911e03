// SignalsBlocked: signals are for the main thread, so other threads are made, or live, with all of them
// blocked. Signals that a thread's own fault raises stay open: a crash dumps where it happened, a lost page
// is replaced, and a forbidden system call is reported.
#pragma once

#include <signal.h>

namespace sluice {

// Of the calling thread, as long as this lives; a thread that is made meanwhile inherits it for good.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    ::sigfillset(&all);
    for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS}) {
      ::sigdelset(&all, fault);
    }
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace sluice
