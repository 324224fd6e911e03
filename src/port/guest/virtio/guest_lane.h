// GuestLane: one worker's end of a guest port. Hot path; used by that worker's thread alone.
//
//   guest_receive.cc    frames into the guest's receive queues: copy_in()
//   guest_transmit.cc   frames out of its transmit queues: burst(), done()
//   guest_lane.cc       sleeping, waking, calling
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/ids.h"
#include "port/guest/virtio/guest_device.h"
#include "port/guest/virtio/guest_scratch.h"
#include "port/guest/virtio/ring/guest_buffer.h"
#include "port/guest/virtio/ring/virtqueue.h"
#include "port/port.h"
#include "port/source_guard.h"
#include "stats/counter.h"

namespace sluice {

inline constexpr std::uint32_t kMinFrameBytes = 14;     // an Ethernet header
inline constexpr std::uint32_t kMaxFrameBytes = 65535;  // with its tag

// Kick descriptors looked at per wake-up (D6); one that is missed is found by the next look.
inline constexpr int kKickEvents = 64;

struct GuestLaneCounters {
  Counter copied, copied_bytes;
  Counter rx_packets, rx_bytes;  // towards the guest
  Counter tx_packets, tx_bytes;  // from the guest, accepted
  Counter tx_segmented;          // of those, with a body in several segments
  Counter drop_not_running, drop_ring_full, drop_too_long, drop_vlan;
  Counter drop_bad_buffers;  // the guest's buffers were bad, more of them than a turn looks at
  Counter drop_queue_busy;   // another worker was held up in the same queue
  Counter drop_tx_runt, drop_tx_too_long;
  SourceCounters source;
  Counter fault_tx_header;
  Counter calls_failed;  // the descriptor refused it, or there was no AIO and no waker
};

class GuestLane final : public Lane {
 public:
  GuestLane(const GuestPolicy& policy, CallPrice& call_price, GuestScratch& scratch);
  ~GuestLane() override;

  void copy_in(const BurstInfo& info, std::span<Packet> packets) override;
  std::uint32_t burst(std::span<Packet> packets, BurstInfo& info) override;
  void done(std::span<const Packet> packets) override;
  std::uint32_t poll() override;
  int wake_fd() const override { return kicks_.get(); }
  bool prepare_sleep() override;
  void woken() override;
  // A queue without a kick that can be waited for is polled.
  bool may_rest() const override { return unwatched_ == 0 && touched_.empty() && refused_ == 0; }

  // --- control thread, inside quiesce() ---
  bool has_queues(const std::vector<Virtqueue*>& receive, const std::vector<Virtqueue*>& transmit) const {
    return receive_ == receive && transmit_ == transmit;
  }
  // Which queues it fills and which it serves: running ones only.
  void set_queues(std::vector<Virtqueue*> receive, std::vector<Virtqueue*> transmit);
  // The kick descriptor of a queue that it serves; before it changes or goes.
  void watch(Virtqueue& queue);
  void unwatch(Virtqueue& queue);

  const GuestLaneCounters& counters() const { return counters_; }

 private:
  // Frames towards the guest.
  void spread(std::span<const Packet> packets);
  void deliver(Virtqueue& queue, std::span<const Packet> packets);
  template <typename Ring>
  void fill(Virtqueue& queue, Ring& ring, std::span<const Packet> packets);
  struct Filled {
    std::uint32_t buffers = 0;    // used, from the front of what was offered
    std::uint32_t wasted = 0;     // of these, given back with no frame in them
    std::uint32_t packets = 0;    // done with, delivered or dropped
    std::uint32_t delivered = 0;  // of these
    std::uint64_t bytes = 0;      // of frames as the guest gets them
    bool wants_more = false;      // the next packet needs more buffers than were offered

    void add(const Filled& more) {
      buffers += more.buffers;
      wasted += more.wasted;
      packets += more.packets;
      delivered += more.delivered;
      bytes += more.bytes;
      wants_more = more.wants_more;
    }
  };
  Filled fill_buffers(Virtqueue& queue, std::span<GuestBuffer> buffers, std::span<const Packet> packets);
  static Filled fill_whole(std::uint32_t header_bytes, std::span<GuestBuffer> buffers,
                           std::span<const Packet> packets);
  Filled fill_slowly(Virtqueue& queue, std::span<GuestBuffer> buffers, const Packet& packet);

  // Frames from the guest.
  template <typename Ring>
  std::uint32_t take_frames(Virtqueue& queue, Ring& ring, std::span<Packet> packets);
  std::uint32_t copy_heads(Virtqueue& queue, std::span<const GuestBuffer> buffers, std::uint32_t first);
  bool take_in_segments(Virtqueue& queue, const GuestBuffer& buffer, std::uint32_t slot);
  std::uint32_t judge_heads(std::span<Packet> packets, std::uint32_t first, std::uint32_t count);
  void finish_tx();

  void call();
  void make_calls(std::span<GuestCall* const> calls);
  void drain_kicks();
  bool arm_timer();
  bool make_timer();
  void touch(Virtqueue& queue);

  const GuestPolicy& policy_;
  CallPrice& call_price_;  // of all lanes of the port
  GuestScratch& scratch_;  // of the worker
  SourceGuard guard_;
  // Of a frame that the guest sends, and of its head: a tag may be pushed into both.
  const std::uint32_t longest_, most_head_;
  GuestLaneCounters counters_;

  std::vector<Virtqueue*> receive_;
  std::vector<Virtqueue*> transmit_;
  std::size_t transmit_first_ = 0;  // who begins the next burst

  UniqueFd kicks_;  // epoll over the kick descriptors of its transmit queues
  UniqueFd timer_;  // in there too: runs while it sleeps and a queue has no kick to wait for; made then
  std::uint32_t unwatched_ = 0;      // running transmit queues without a kick that can be waited for
  std::vector<Virtqueue*> touched_;  // got something since poll(): perhaps to be called
  std::array<bool, kMaxVrings> is_touched_{};  // by index
  std::uint32_t refused_ = 0;                  // frames of the guest that were dropped since poll()
  std::uint32_t wasted_left_ = kWastedPerTurn;
  std::uint32_t walk_left_ = kWalkedPerTurn;
};

}  // namespace sluice
