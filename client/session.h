// Session: everything that one successful handshake brought. Made once, then only read: by any thread.
#pragma once

#include <memory>

#include "handshake.h"

namespace sluice::inline v1::client {

class Session {
 public:
  // `serial` counts the sessions of an attachment from 1.
  static Expected<std::shared_ptr<const Session>> create(Descriptor socket, Welcome welcome,
                                                         std::uint64_t serial);

  const sluice_app_welcome& layout() const { return welcome_.message; }
  std::uint64_t serial() const { return serial_; }
  int daemon_pid() const { return daemon_pid_; }

  int socket() const { return socket_.get(); }
  int wake_app_fd(std::uint32_t lane) const { return welcome_.fds[kFirstLaneFd + 2 * lane].get(); }
  int wake_daemon_fd(std::uint32_t lane) const { return welcome_.fds[kFirstLaneFd + 2 * lane + 1].get(); }

  // Outlives the session as long as a packet of it is held.
  const std::shared_ptr<const Memory>& rx_arena() const { return rx_arena_; }
  std::byte* daemon_lane(std::uint32_t lane) const {
    return daemon_segment_.data() + lane * welcome_.message.daemon_lane_stride;
  }
  std::byte* app_lane(std::uint32_t lane) const {
    return app_segment_.data() + lane * welcome_.message.app_lane_stride;
  }
  std::byte* tx_arena() const { return tx_arena_.data(); }
  bool lane_sends(std::uint32_t lane) const {
    const std::uint64_t bits = welcome_.message.tx_lanes_low | std::uint64_t{welcome_.message.tx_lanes_high}
                                                                   << 32;
    return (bits >> lane & 1) != 0;
  }

  // Asks the kernel whether the daemon has hung up.
  bool ended() const;

 private:
  Descriptor socket_;
  Welcome welcome_;
  std::uint64_t serial_ = 0;
  int daemon_pid_ = 0;
  std::shared_ptr<const Memory> rx_arena_;
  Memory daemon_segment_, app_segment_, tx_arena_;
};

}  // namespace sluice::inline v1::client
