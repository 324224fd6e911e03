// PortInfo: what a port tells of itself beside its counters. Plain data; control/engine/show.h writes it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"

namespace sluice {

// Of a port whose peer is attached by vhost-user.
struct VhostInfo {
  // What the port was made with.
  std::string socket;
  std::string role;  // "server", "client"
  bool trust = false;
  std::uint32_t queue_pairs = 0;
  std::uint64_t limit_bytes = 0;  // of memory_bytes
  bool sealed = false, populate = false;

  bool connected = false;  // a front-end is there
  bool running = false;    // at least one pair carries packets
  bool stuck = false;      // a worker does not come to take changes of its rings
  int pid = 0;
  std::uint32_t uid = 0;
  std::uint64_t since_ns = 0;
  std::uint64_t features = 0, protocol_features = 0;
  std::vector<std::string> feature_names, protocol_feature_names;  // of those two, by their spec's names
  bool calls_by_write = false;                                     // how the guest was interrupted last

  struct Region {
    std::uint64_t guest_address = 0, bytes = 0;
    bool huge_pages = false;
  };
  std::vector<Region> regions;
  std::uint64_t memory_bytes = 0;     // what its regions take
  std::uint64_t mapped_bytes = 0;     // with what is on its way out, perhaps of a session before
  bool populating = false;            // its front-end waits for that
  std::uint64_t populated_bytes = 0;  // so far

  struct Ring {
    std::uint32_t index = 0;
    bool enabled = false, running = false, broken = false;
    bool packed = false;
    std::uint32_t entries = 0;
    WorkerId worker{0};
    std::uint64_t kicks = 0, calls = 0, calls_suppressed = 0, packets = 0;
  };
  std::vector<Ring> rings;
};

// Who wakes a peer whose wake-ups are dear, or not (port/waker.h).
inline const char* wakes_text(bool dear) {
  return dear ? "by waker" : "direct";
}

struct PortInfo {
  std::string state;  // one word: docs/control.md lists them by type
  struct Peer {
    int pid = 0;
    std::uint32_t uid = 0;
    std::optional<std::string> client;  // what it called itself
  };
  std::optional<Peer> peer;  // who is attached
  struct Pages {
    std::uint32_t held = 0, limit = 0;
  };
  std::optional<Pages> pages;         // lent to the peer
  bool sends = true;                  // it may send at all
  std::uint64_t descriptors = 0;      // how many it has now, those of its session among them
  std::optional<std::string> wakes;   // wakes_text()
  std::optional<std::string> netdev;  // the device that is the port
  std::optional<VhostInfo> vhost;
};

}  // namespace sluice
