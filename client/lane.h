// Lane: this side of one lane of abi/app.h. One thread.
//
// A packet points to the lane that it came by. So a lane lives as long as its port uses it, and then until
// its last packet is released. The lane counts its packets, without atomics; a packet needs no count of its
// own.
#pragma once

#include <unistd.h>

#include <memory>

#include "ring/spsc.h"
#include "session.h"

namespace sluice::inline v1::client {

class Lane {
 public:
  Lane(const Session& session, std::uint32_t index);

  // --- the way of a packet

  std::uint32_t receive(sluice_packet* packets, std::uint32_t wanted);
  // Gathered in the return ring's own entries, published by flush(): one index store for many.
  void give_back(std::uint32_t page) {
    --held_;
    if (abandoned_) [[unlikely]] {
      if (held_ == 0) {
        delete this;
      }
      return;  // the daemon took the session's pages home when it ended
    }
    queue_return(page);
    if (pending_ >= kReturnBatch) {
      flush();
    }
  }
  bool has_packets() { return rx_.peek(1) != 0; }
  void flush() {
    if (pending_ != 0) {
      publish_returns();
    }
  }

  // --- sending: slot and ring position are one (abi/app.h), so frames are reserved and committed in order

  bool sends() const { return sends_; }
  std::uint32_t reserve(std::uint32_t wanted) { return sends_ ? tx_.reserve(wanted) : 0; }
  sluice_frame slot(std::uint32_t i);
  // False: not inside its slot, or no length that a frame has.
  bool fill(std::uint32_t i, const sluice_frame& frame);
  void submit(std::uint32_t count);

  // --- sleeping

  bool prepare_sleep() { return rx_.prepare_sleep(); }
  void cancel_sleep() { rx_.cancel_sleep(); }

  // The port has left the session: what is still held stays readable. Deletes the lane now or with its last
  // packet.
  static void abandon(std::unique_ptr<Lane> lane);

  std::uint32_t index() const { return index_; }
  std::uint32_t pages_held() const { return held_ + pending_; }
  void add_to(sluice_counters& counters) const;

  static constexpr std::uint32_t kReturnBatch =
      64;  // most returns that wait for a receive; one worker's burst

 private:
  // An honest daemon never lets the return ring be full: it has an entry for every page.
  void queue_return(std::uint32_t page) {
    if (pending_ == room_) [[unlikely]] {
      room_ = back_.reserve(back_.size());
      if (pending_ == room_) {
        ++bad_descriptors_;
        return;
      }
    }
    back_.entry(pending_++) = page;
  }
  void publish_returns();
  void kick();

  RingConsumer<sluice_rx_entry> rx_;
  RingProducer<std::uint32_t> back_;
  std::uint32_t held_ = 0;     // packets out
  std::uint32_t pending_ = 0;  // returns written and not published
  std::uint32_t room_ = 0;     // entries of the return ring known to be free
  bool abandoned_ = false;
  bool sends_ = false;
  std::uint32_t index_ = 0;
  const std::byte* pages_ = nullptr;
  std::uint32_t page_bytes_ = 0;
  std::uint32_t page_count_ = 0;

  RingProducer<sluice_tx_entry> tx_;
  std::byte* tx_slots_ = nullptr;  // of this lane
  std::uint32_t tx_slots_offset_ = 0;
  std::uint32_t tx_slot_bytes_ = 0;

  int wake_daemon_fd_ = -1;
  const sluice_lane_stats* stats_ = nullptr;
  std::uint64_t bad_descriptors_ = 0;
  std::uint64_t wakeups_ = 0;
  std::shared_ptr<const Memory> arena_;
};

}  // namespace sluice::inline v1::client
