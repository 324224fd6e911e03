// A program on libsluice that reads the send times in its packets. Apart, for libsluice's words are the
// daemon's too.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace sluice::bench {

class VictimApp {
 public:
  virtual ~VictimApp() = default;
  // Waits at most a few milliseconds; adds the delay of each packet that came, in ns.
  virtual void receive(std::vector<std::uint64_t>& delays) = 0;
};

// None: `why` says it.
std::unique_ptr<VictimApp> attach_victim_app(const std::string& socket, std::string& why);

}  // namespace sluice::bench
