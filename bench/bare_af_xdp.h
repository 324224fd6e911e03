// The peer: AF_XDP as a program uses it that has a queue for itself. libxdp, one socket, a plain redirect
// program, a busy loop of bursts of 64, each page given back to the fill ring as soon as its packet was
// looked at. Nothing of Sluice is in it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"

namespace sluice::bench {

struct BareOptions {
  std::uint32_t queue = 0;
  std::uint32_t ring_entries = 4096;
  // Its program takes what goes to this UDP port, by a rule written by hand, and passes the rest; none: it
  // takes everything.
  std::optional<std::uint16_t> rule_port;
  bool busy_poll = false;  // preferred busy polling: its loop does the NIC's receive work (bench/busy_poll.h)
};

class BareAfXdp {
 public:
  // In the calling thread's network namespace. Attaches its XDP program; gone with the object.
  static Result<std::unique_ptr<BareAfXdp>> open(const std::string& netdev, const BareOptions& options);
  ~BareAfXdp();
  BareAfXdp(const BareAfXdp&) = delete;

  // One turn of the busy loop: up to 64 packets, the first bytes of each are read. Returns how many.
  std::uint32_t turn();
  int socket_fd() const;
  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t touched() const { return touched_; }  // so that the compiler keeps the reads

 private:
  BareAfXdp() = default;
  struct State;
  std::unique_ptr<State> state_;
  std::uint64_t bytes_ = 0, touched_ = 0;
};

}  // namespace sluice::bench
