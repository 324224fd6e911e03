// A real AppPort with a thread that is its control loop and its workers, and a wire that is short-circuited:
// what the client sends comes back to it. Its own header, because the daemon's words (Packet, Error) and the
// API's are the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

namespace sluice::testing {

struct RealDaemonOptions {
  std::uint32_t workers = 1;
  std::uint32_t pages = 512;
};

class RealDaemon {
 public:
  RealDaemon(const std::string& socket, const RealDaemonOptions& options);
  ~RealDaemon();  // as at the end of sluiced: detaches, then the socket is gone

  // `frame` arrives from the wire, `count` times, by this worker. False: no client is attached.
  bool deliver(std::span<const std::byte> frame, std::uint32_t count, std::uint32_t worker = 0);
  std::map<std::string, std::uint64_t> counters();
  std::uint64_t counter(const std::string& name) { return counters().at(name); }
  int attached_pid();  // 0: none
  std::uint32_t pages_inflight();
  void cut_off();  // the session ends, the port listens on: made anew

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::testing
