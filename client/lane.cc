#include "lane.h"

namespace sluice::inline v1::client {
namespace {

constexpr std::uint32_t kMinFrameBytes = 14;  // an Ethernet header (abi/app.h)

template <typename T>
T* at(std::byte* base, std::size_t offset) {
  return reinterpret_cast<T*>(base + offset);
}

}  // namespace

Lane::Lane(const Session& session, std::uint32_t index)
    : sends_(session.lane_sends(index)), index_(index), arena_(session.rx_arena()) {
  const sluice_app_welcome& layout = session.layout();
  std::byte* daemon = session.daemon_lane(index);
  std::byte* app = session.app_lane(index);
  rx_ = {at<sluice_ring_consumer>(app, SLUICE_LANE_APP_RX_CONSUMER),
         at<const sluice_rx_entry>(daemon, SLUICE_LANE_DAEMON_RX_ENTRIES),
         at<const sluice_ring_producer>(daemon, SLUICE_LANE_DAEMON_RX_PRODUCER), layout.rx_entries};
  back_ = {at<sluice_ring_producer>(app, SLUICE_LANE_APP_BACK_PRODUCER),
           at<std::uint32_t>(app, SLUICE_LANE_APP_BACK_ENTRIES),
           at<const sluice_ring_consumer>(daemon, SLUICE_LANE_DAEMON_BACK_CONSUMER), layout.back_entries};
  const std::size_t tx_entries =
      SLUICE_LANE_APP_BACK_ENTRIES + std::size_t{layout.back_entries} * sizeof(std::uint32_t);
  tx_ = {at<sluice_ring_producer>(app, SLUICE_LANE_APP_TX_PRODUCER), at<sluice_tx_entry>(app, tx_entries),
         at<const sluice_ring_consumer>(daemon, SLUICE_LANE_DAEMON_TX_CONSUMER), layout.tx_entries};
  pages_ = arena_->data();
  page_bytes_ = layout.page_bytes;
  page_count_ = layout.page_count;
  tx_slot_bytes_ = layout.tx_slot_bytes;
  tx_slots_offset_ = index * layout.tx_entries * layout.tx_slot_bytes;
  tx_slots_ = session.tx_arena() + tx_slots_offset_;
  wake_daemon_fd_ = session.wake_daemon_fd(index);
  stats_ = at<const sluice_lane_stats>(daemon, SLUICE_LANE_DAEMON_STATS);
}

std::uint32_t Lane::receive(sluice_packet* packets, std::uint32_t wanted) {
  const std::uint32_t count = rx_.peek(wanted);
  if (count == 0) {
    return 0;
  }
  std::uint32_t got = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const sluice_rx_entry entry = rx_.read(i);
    if (entry.page >= page_count_ || std::uint32_t{entry.offset} + entry.length > page_bytes_) [[unlikely]] {
      ++bad_descriptors_;
      if (entry.page < page_count_) {
        queue_return(entry.page);
      }
      continue;
    }
    sluice_packet& packet = packets[got++];
    const std::byte* data = pages_ + std::size_t{entry.page} * page_bytes_ + entry.offset;
    __builtin_prefetch(data);
    packet.data = reinterpret_cast<const std::uint8_t*>(data);
    packet.length = entry.length;
    packet.rule = entry.rule;
    packet.flow_hash = entry.flow_hash;
    packet.nic = entry.nic;
    packet.queue = entry.queue;
    packet.timestamp_ns = entry.timestamp_ns;
    packet.owner = this;
    packet.page = entry.page;
    packet.reserved = 0;
  }
  rx_.release(count);
  held_ += got;
  return got;
}

void Lane::publish_returns() {
  back_.submit(pending_);
  room_ -= pending_;
  pending_ = 0;
  if (back_.peer_needs_wakeup()) {
    kick();
  }
}

// The daemon clears its need_wakeup when it runs again; until then every burst kicks, which costs a system
// call and nothing else.
void Lane::kick() {
  ++wakeups_;
  const std::uint64_t one = 1;
  [[maybe_unused]] ssize_t written = ::write(wake_daemon_fd_, &one, sizeof(one));
}

sluice_frame Lane::slot(std::uint32_t i) {
  const std::uint32_t position = (tx_.produced() + i) & (tx_.size() - 1);
  return {reinterpret_cast<std::uint8_t*>(tx_slots_ + std::size_t{position} * tx_slot_bytes_), tx_slot_bytes_,
          0};
}

bool Lane::fill(std::uint32_t i, const sluice_frame& frame) {
  const auto begin = reinterpret_cast<std::uintptr_t>(slot(i).data);
  const std::uintptr_t moved =
      reinterpret_cast<std::uintptr_t>(frame.data) - begin;  // huge when in front of it
  if (moved > tx_slot_bytes_ || frame.length < kMinFrameBytes || frame.length > tx_slot_bytes_ - moved) {
    return false;
  }
  const std::uintptr_t offset = begin - reinterpret_cast<std::uintptr_t>(tx_slots_) + moved;
  tx_.entry(i) = {tx_slots_offset_ + static_cast<std::uint32_t>(offset), frame.length};
  return true;
}

void Lane::submit(std::uint32_t count) {
  tx_.submit(count);
  if (tx_.peer_needs_wakeup()) {
    kick();
  }
}

void Lane::abandon(std::unique_ptr<Lane> lane) {
  lane->abandoned_ = true;
  if (lane->held_ != 0) {
    lane.release();  // NOLINT: its last packet deletes it, in give_back()
  }
}

void Lane::add_to(sluice_counters& counters) const {
  counters.rx_packets += read_once(stats_->rx_packets);
  counters.rx_bytes += read_once(stats_->rx_bytes);
  counters.rx_dropped_ring_full += read_once(stats_->rx_dropped_ring_full);
  counters.rx_dropped_page_limit += read_once(stats_->rx_dropped_page_limit);
  counters.tx_packets += read_once(stats_->tx_packets);
  counters.tx_dropped += read_once(stats_->tx_dropped);
  counters.daemon_faults += read_once(stats_->faults);
  counters.rx_bad_descriptors += bad_descriptors_ + rx_.faults() + back_.faults() + tx_.faults();
  counters.wakeups += wakeups_;
}

}  // namespace sluice::inline v1::client
