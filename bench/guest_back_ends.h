// The two back-ends that `guest_bench` puts behind the same guests: Sluice, and testpmd with net_vhost. Each
// runs on CPU 1 alone and listens at sockets of its own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "test/guest/testpmd.h"
#include "test/support/net_ns.h"

namespace sluice::bench {

enum class Job : std::uint8_t {
  kLoop,    // one guest: what it sends goes back to it
  kPair,    // two guests: what one sends goes to the other
  kFromNic  // nic0, one guest: what comes from the wire goes to it
};
inline constexpr const char* kGuestMacs[] = {"52:54:00:00:00:01", "52:54:00:00:00:02"};

class BackEnd {
 public:
  virtual ~BackEnd() = default;
  virtual std::string socket(int guest) const = 0;
  virtual std::string log() const = 0;
  virtual pid_t pid() const = 0;
  // What it has dropped and what went wrong, by name; empty: nothing, or it does not say.
  virtual std::string losses() { return ""; }
};

struct BackEndOptions {
  Job job = Job::kLoop;
  const test::NetNs* ns = nullptr;  // where it runs, with nic0 in it for kFromNic
  test::TestpmdOptions::Pages pages = test::TestpmdOptions::Pages::kSmall;  // of testpmd's own memory
  std::string idle = "spin";                                                // of Sluice's worker
  bool default_settings = false;  // Sluice with nothing but what a config must say
};
Result<std::unique_ptr<BackEnd>> start_sluice(const BackEndOptions& options);
Result<std::unique_ptr<BackEnd>> start_net_vhost(const BackEndOptions& options);

}  // namespace sluice::bench
