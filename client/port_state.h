// PortState: the inside of a Port: its share of the lanes of the present session, and the way to the next
// session. One thread.
#pragma once

#include <vector>

#include "attachment.h"
#include "lane.h"

namespace sluice::inline v1::client {

class PortState {
 public:
  // Part `part` of `part_count` of an attachment; without a session yet.
  static Expected<std::unique_ptr<PortState>> create(std::shared_ptr<Attachment> attachment, std::size_t part,
                                                     std::size_t part_count);
  ~PortState();

  // Takes up its lanes of the session. On an error the port is detached.
  Expected<std::monostate> join(std::shared_ptr<const Session> session);
  // Only before the port was split: makes `part_count` out of it, with the lanes as they are. On an error
  // nothing changes.
  Expected<std::vector<std::unique_ptr<PortState>>> split(std::size_t part_count);

  std::size_t receive(sluice_packet* packets, std::size_t wanted);
  std::size_t receive_for(sluice_packet* packets, std::size_t wanted, std::int64_t timeout_ns);
  void flush();

  int fd() const { return epoll_.get(); }
  bool arm();
  void disarm();

  std::size_t reserve(sluice_frame* frames, std::size_t wanted);
  std::size_t commit(const sluice_frame* frames, std::size_t count);
  // `frame(i)` is a pair of address and length.
  template <typename FrameAt>
  std::size_t send(std::size_t count, FrameAt frame_at);

  bool attached() const { return session_ != nullptr && !ended_; }
  sluice_info info() const;
  sluice_counters counters() const;
  std::string last_error() const { return attachment_->last_error(); }

 private:
  PortState() = default;
  void leave();
  bool find_session();
  std::size_t spin(sluice_packet* packets, std::size_t wanted, std::uint64_t until_ns);
  std::size_t drain(sluice_packet* packets, std::size_t wanted);
  void take_events(std::int64_t timeout_ns, bool& interrupted);
  void set_timer();
  Expected<std::monostate> watch(int fd, std::uint32_t events, std::uint64_t tag);
  Lane* lane_with_room();
  Lane* find_tx_lane();

  std::shared_ptr<Attachment> attachment_;
  std::size_t part_ = 0;
  std::size_t part_count_ = 1;

  std::shared_ptr<const Session> session_;  // null: detached
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::size_t turn_ = 0;          // the lane that is first to be drained
  std::uint32_t idle_calls_ = 0;  // that found nothing to receive, or no room to send
  bool ended_ = false;            // the daemon has hung up; packets in the rings are still to be taken
  bool armed_ = false;
  bool timer_set_ = false;
  std::uint64_t last_serial_ = 0;  // of the session that was joined last

  std::size_t tx_turn_ = 0;  // the lane that sent last
  Lane* reserved_lane_ = nullptr;
  std::size_t reserved_ = 0;
  std::shared_ptr<const Session>
      reserved_session_;  // keeps the frames writable when the session ends under them

  Descriptor epoll_, timer_;
  sluice_counters past_{};  // of the sessions that ended
};

template <typename FrameAt>
std::size_t PortState::send(std::size_t count, FrameAt frame_at) {
  reserved_lane_ = nullptr;
  std::size_t done = 0;
  while (done < count) {
    Lane* lane = find_tx_lane();
    if (lane == nullptr) {
      break;
    }
    const std::uint32_t room =
        lane->reserve(static_cast<std::uint32_t>(std::min<std::size_t>(count - done, UINT32_MAX)));
    std::uint32_t filled = 0;
    for (std::uint32_t tried = 0; tried < room; ++tried, ++done) {
      const auto [data, bytes] = frame_at(done);
      sluice_frame frame = lane->slot(filled);
      frame.length = bytes <= frame.room ? static_cast<std::uint32_t>(bytes) : 0;
      if (!lane->fill(filled, frame)) {
        ++past_.tx_bad_length;
        continue;
      }
      std::memcpy(frame.data, data, bytes);
      ++filled;
    }
    if (filled != 0) {
      lane->submit(filled);
    }
  }
  return done;
}

}  // namespace sluice::inline v1::client
