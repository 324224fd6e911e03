// NetNs: a network namespace of the test's own. It has no name: it lives as long as somebody has it open, so
// it is gone whatever way the test ends.
#pragma once

#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "test/support/process.h"

namespace sluice::test {

class NetNs {
 public:
  // Loopback is up, IPv6 off: nothing but the test puts packets on its links.
  static Result<NetNs> create();

  int fd() const { return fd_.get(); }
  std::string path() const;  // /proc/PID/fd/N: what `ip link set ... netns` and nsenter take

  // While it lives, this thread is inside. Sockets and BPF links made there stay there.
  class Inside {
   public:
    explicit Inside(const NetNs& ns);
    ~Inside();
    Inside(const Inside&) = delete;

   private:
    UniqueFd home_;
  };
  // Runs `body` on this thread inside the namespace and comes back with what it returns.
  template <typename Body>
  auto in(Body&& body) const {
    Inside inside(*this);
    return body();
  }
  template <typename Body>
  void run(Body&& body) const {
    Inside inside(*this);
    body();
  }
  // This thread enters for good: for threads that a test makes.
  void enter() const;

  // A command inside, by /bin/sh.
  Finished command(const std::string& shell) const;
  Result<Process> spawn(const std::vector<std::string>& argv) const;

 private:
  UniqueFd fd_;
};

// Why tests with XDP cannot run here; empty: they can. Needs root, network namespaces, AF_XDP and bpf(2).
std::string why_no_root_and_xdp();
inline bool have_root_and_xdp() {
  return why_no_root_and_xdp().empty();
}

}  // namespace sluice::test

// First line of a test, or of SetUp().
#define SLUICE_NEED_ROOT_AND_XDP()                                   \
  do {                                                               \
    std::string sluice_why_ = ::sluice::test::why_no_root_and_xdp(); \
    if (!sluice_why_.empty()) {                                      \
      GTEST_SKIP() << sluice_why_;                                   \
    }                                                                \
  } while (false)
