#include "attachment.h"

#include <poll.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"

namespace sluice::inline v1::client {
namespace {

// A restarted daemon is found within half a second, and one that is gone for long costs two connects per
// second.
constexpr std::uint64_t kFirstBackoffNs = 10'000'000;
constexpr std::uint64_t kMaxBackoffNs = 500'000'000;
constexpr std::uint64_t kAnswerPollNs = 1'000'000;  // how often the answer to a hello is looked for
constexpr std::uint64_t kQueueFullPollMs = 5;       // how often the daemon's queue of connections is tried

}  // namespace

Attachment::Attachment(std::string path, std::string client_name, std::uint64_t timeout_ns, bool reattach,
                       std::uint64_t spin_ns)
    : path_(std::move(path)),
      client_name_(std::move(client_name)),
      timeout_ns_(timeout_ns),
      reattach_(reattach),
      spin_ns_(spin_ns) {}

// Nothing is there yet: a null session, or the end of this try.
Expected<std::shared_ptr<const Session>> Attachment::wait_or_give_up(std::uint64_t now) {
  if (now - pending_since_ns_ < timeout_ns_) {
    return std::shared_ptr<const Session>();
  }
  return error(ErrorCode::kTimeout, "cannot attach to " + path_ + ": the daemon did not answer within " +
                                        std::to_string(timeout_ns_ / 1'000'000) + " ms");
}

// As far as to a session whose memory is mapped, in mapped_.
Expected<std::shared_ptr<const Session>> Attachment::step_to_welcome(std::uint64_t now) {
  if (!pending_) {
    auto socket = send_hello(path_, client_name_);
    if (!socket) {
      return socket.error();
    }
    pending_ = std::move(*socket);
  }
  auto answer = pending_ ? receive_welcome(pending_.get(), path_) : std::optional<Welcome>();
  if (!answer) {
    return answer.error();
  }
  if (!answer->has_value()) {
    return wait_or_give_up(now);
  }
  auto session = Session::create(std::move(pending_), std::move(**answer), attaches() + 1);
  if (!session) {
    return session;
  }
  if (auto said = send_mapped((*session)->socket(), path_); !said) {
    return said.error();
  }
  mapped_ = *session;
  return std::shared_ptr<const Session>();
}

Expected<std::shared_ptr<const Session>> Attachment::step(std::uint64_t now) {
  if (pending_since_ns_ == 0) {
    pending_since_ns_ = now;
  }
  Expected<std::shared_ptr<const Session>> done = std::shared_ptr<const Session>();
  if (mapped_ == nullptr) {
    done = step_to_welcome(now);
  }
  if (mapped_ != nullptr) {
    auto served = receive_served(mapped_->socket(), path_);
    if (!served) {
      done = served.error();
    } else if (*served) {
      done = std::exchange(mapped_, nullptr);
    } else {
      done = wait_or_give_up(now);
    }
  }
  if (!done || *done != nullptr) {  // this try is over
    pending_.reset();
    mapped_.reset();
    pending_since_ns_ = 0;
  }
  if (done && *done != nullptr) {
    current_ = *done;
    backoff_ns_ = 0;
    last_error_.clear();
    attaches_.fetch_add(1, std::memory_order_relaxed);
  }
  return done;
}

Expected<std::shared_ptr<const Session>> Attachment::attach() {
  std::lock_guard lock(mutex_);
  for (;;) {
    const std::uint64_t now = now_ns();
    auto session = step(now);
    if (!session || *session != nullptr) {
      return session;
    }
    const std::uint64_t waited = now - pending_since_ns_;
    const std::uint64_t left_ms = (timeout_ns_ - std::min(waited, timeout_ns_)) / 1'000'000 + 1;
    const std::uint64_t longest_ms = answering_socket() >= 0 ? 60'000 : kQueueFullPollMs;
    pollfd answer{answering_socket(), POLLIN, 0};  // without a socket: only waits
    ::poll(&answer, 1, static_cast<int>(std::min(left_ms, longest_ms)));
  }
}

void Attachment::try_again_later(std::uint64_t now, Error why) {
  backoff_ns_ = std::clamp(backoff_ns_ * 2, kFirstBackoffNs, kMaxBackoffNs);
  next_step_ns_.store(now + backoff_ns_, std::memory_order_relaxed);
  last_error_ = std::move(why.message);
}

std::shared_ptr<const Session> Attachment::renew(std::uint64_t ended_serial) {
  if (!reattach_) {
    return nullptr;
  }
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) {
    return nullptr;
  }
  if (current_ != nullptr && current_->serial() > ended_serial) {
    return current_;
  }
  current_.reset();
  const std::uint64_t now = now_ns();
  if (now < next_step_ns()) {
    return nullptr;
  }
  auto session = step(now);
  if (!session) {
    try_again_later(now, session.error());
    return nullptr;
  }
  if (*session == nullptr) {
    next_step_ns_.store(now + kAnswerPollNs, std::memory_order_relaxed);
  }
  return *session;
}

std::string Attachment::last_error() const {
  std::lock_guard lock(mutex_);
  return last_error_;
}

}  // namespace sluice::inline v1::client
