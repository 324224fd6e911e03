// Attachment: shared by the parts of one port: the daemon's socket, and the present session. Any thread.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "session.h"

namespace sluice::inline v1::client {

class Attachment {
 public:
  Attachment(std::string path, std::string client_name, std::uint64_t timeout_ns, bool reattach,
             std::uint64_t spin_ns);

  // The first session. Waits for the daemon's answer, at most the timeout.
  Expected<std::shared_ptr<const Session>> attach();

  // Never blocks. Returns a session newer than that of `ended_serial`, which has ended; null: not yet. One
  // thread at a time takes the next step towards it; the others get null meanwhile.
  std::shared_ptr<const Session> renew(std::uint64_t ended_serial);
  // When (CLOCK_MONOTONIC) it makes sense to call renew() again.
  std::uint64_t next_step_ns() const { return next_step_ns_.load(std::memory_order_relaxed); }

  bool reattach() const { return reattach_; }
  std::uint64_t spin_ns() const { return spin_ns_; }
  std::uint64_t attaches() const { return attaches_.load(std::memory_order_relaxed); }
  std::string last_error() const;

 private:
  Expected<std::shared_ptr<const Session>> step_to_welcome(std::uint64_t now);
  Expected<std::shared_ptr<const Session>> wait_or_give_up(std::uint64_t now);
  int answering_socket() const { return mapped_ != nullptr ? mapped_->socket() : pending_.get(); }
  // One step of the handshake; a session, nothing yet, or why this try failed.
  Expected<std::shared_ptr<const Session>> step(std::uint64_t now);
  void try_again_later(std::uint64_t now, Error why);

  const std::string path_;
  const std::string client_name_;
  const std::uint64_t timeout_ns_;
  const bool reattach_;
  const std::uint64_t spin_ns_;  // of each part, before it sleeps

  mutable std::mutex mutex_;  // guards what follows; never taken on the way of a packet
  std::shared_ptr<const Session> current_;
  Descriptor pending_;                     // the hello is sent, the welcome not there yet
  std::shared_ptr<const Session> mapped_;  // its memory is mapped, the daemon does not serve it yet
  std::uint64_t pending_since_ns_ = 0;     // this try has begun; 0: no try under way
  std::uint64_t backoff_ns_ = 0;
  std::string last_error_;

  std::atomic<std::uint64_t> next_step_ns_{0};
  std::atomic<std::uint64_t> attaches_{0};
};

}  // namespace sluice::inline v1::client
