// App: a program on libsluice, on a thread of its own, that knows what it ought to receive. libsluice's words
// (Packet, Error) are the daemon's too, so they stay in app.cc.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "test/support/frame.h"

namespace sluice::test {

// Frames on their way at one time. veth queues 256 between its ends (drivers/net/veth.c, VETH_RING_SIZE), so
// nothing is lost however late the kernel gets to it, with as much room left for what the kernel's own stack
// sends meanwhile.
inline constexpr std::uint64_t kWindow = 96;

class App {
 public:
  struct Options {
    std::string socket;
    Frame expected;               // what each frame is, but for checksum and sequence number
    std::uint64_t sequences = 0;  // numbers 0 .. sequences-1 are to come
    std::string name = "app";
    std::uint64_t window = kWindow;
  };
  static Result<std::unique_ptr<App>> attach(Options options);
  ~App();  // detaches

  enum class Mode : std::uint8_t {
    kRead,    // gives each packet back when it has looked at it
    kHoard,   // keeps them all
    kPaused,  // does not look
  };
  void set_mode(Mode mode);  // holds when this returns
  void release_hoard();      // the daemon knows when this returns

  // Any thread.
  std::uint64_t received() const { return received_; }
  std::uint64_t wrong() const { return wrong_; }  // frames that are not as expected
  std::uint64_t held() const { return held_; }
  bool attached() const { return attached_; }
  std::uint64_t attaches() const { return attaches_; }
  // For LiveFramesOptions, for a flow that comes by this RX queue: what came by it, and the window.
  const std::atomic<std::uint64_t>* allowed(std::uint16_t queue = 0) const { return &allowed_[queue]; }

  // Waits until all sequence numbers, or those below `sequences`, have come, then says whether each came once
  // and nothing else did.
  void expect_all_once();
  void expect_all_once(std::uint64_t sequences);

  // In order; waits for room. False: something cannot be sent.
  bool send(std::span<const Frame> frames);
  bool can_send();
  Mac source_mac();

 private:
  App() = default;
  struct Inside;  // app.cc
  friend struct Inside;

  static constexpr std::uint16_t kQueues = 8;
  std::atomic<std::uint64_t> received_{0}, wrong_{0}, held_{0}, attaches_{0};
  std::atomic<bool> attached_{false};
  std::atomic<std::uint64_t> allowed_[kQueues];
  std::unique_ptr<Inside> inside_;
};

}  // namespace sluice::test
