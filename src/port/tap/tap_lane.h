// TapLane: one worker's end of a tap: one queue of its tap device. Hot path; that worker's thread
// alone, but for visit().
//
// A frame costs a system call each way, as a tap device does: the host's own traffic is not what Sluice is
// fast for. What is read lies in memory of the lane's own, so nobody can change it after it was judged.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/ids.h"
#include "port/port.h"
#include "port/source_guard.h"
#include "stats/counter.h"

namespace sluice {

struct TapLaneOptions {
  PortId port{0};
  PortId uplink = PortId::kDrop;
  std::uint16_t vlan = 0;
  std::uint32_t mtu = 1500;
  MacAddress mac{};
  SourceLimits limits;  // `source_ip` and rates of what the host sends
  bool serves = true;   // takes what the host sends by this queue; else another lane does
};

struct TapLaneCounters {
  Counter copied, copied_bytes;  // to the host, each frame once
  Counter rx_packets, rx_bytes;  // the same
  Counter tx_packets, tx_bytes;  // from the host
  Counter drop_ring_full;        // the tap queue has no room: the host does not come to it
  Counter drop_link_down;        // the device is down, or gone
  Counter drop_refused;          // the kernel takes no such frame
  Counter drop_vlan;             // to the host: of another VLAN than the port's
  Counter drop_too_long;         // from the host: longer than the MTU the port was made with
  Counter read_errors;
  SourceCounters source;
};

class TapLane final : public Lane {
 public:
  // `queue`: a non-blocking queue of the device.
  TapLane(UniqueFd queue, const TapLaneOptions& options);

  void copy_in(const BurstInfo& info, std::span<Packet> packets) override;
  std::uint32_t burst(std::span<Packet> packets, BurstInfo& info) override;
  void done(std::span<const Packet> packets) override;
  std::uint32_t poll() override { return std::exchange(delivered_, false) ? 1 : 0; }
  int wake_fd() const override { return options_.serves ? queue_.get() : -1; }
  // Nobody needs to be asked: the descriptor is readable while the host has something for us, and the
  // worker's wait is level-triggered.
  bool prepare_sleep() override;
  bool may_rest() const override { return out_ == 0; }

  const TapLaneCounters& counters() const { return counters_; }

 private:
  enum class Sent : std::uint8_t { kYes, kNo, kLinkDown };
  Sent write_frame(const Packet& packet);

  const UniqueFd queue_;
  const TapLaneOptions options_;
  SourceGuard guard_;
  const std::uint32_t longest_;     // frame that may be read
  const std::uint32_t slot_bytes_;  // a tag's room, that frame, one byte more to see that it was longer
  std::vector<std::byte> slots_;    // of one burst
  bool delivered_ = false;          // to the host, since poll()
  std::uint32_t out_ = 0;           // packets of the burst that is out
  TapLaneCounters counters_;
};

}  // namespace sluice
