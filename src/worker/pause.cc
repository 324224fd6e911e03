#include "worker/pause.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <vector>

#include "base/clock.h"

namespace sluice {

namespace {

std::uint64_t deadline_after(std::uint64_t limit_ns) {
  const std::uint64_t now = now_ns();
  return limit_ns > kPauseForEver - now ? kPauseForEver : now + limit_ns;
}

// Where workers wait for the end of the change.
class Gate {
 public:
  void arrive() {
    std::unique_lock lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
  }
  bool wait_for_all(std::size_t count, std::uint64_t limit_ns) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::nanoseconds(limit_ns),
                             [this, count] { return arrived_ == count; });
  }
  void open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t arrived_ = 0;
  bool open_ = false;
};

// One try. Workers are let go at its end, whatever way it ends.
class Gathering {
 public:
  explicit Gathering(std::span<Mailbox* const> mailboxes) : mailboxes_(mailboxes) {
    late_.reserve(mailboxes_.size());
    for (std::size_t i = 0; i < mailboxes_.size(); ++i) {
      calls_.push_back({.task = [this] { gate_.arrive(); }});
    }
  }
  ~Gathering() {
    gate_.open();
    for (std::size_t i = 0; i < posted_; ++i) {
      if (!is_late(i)) {
        mailboxes_[i]->wait(calls_[i]);
      }
    }
  }
  Gathering(const Gathering&) = delete;
  Gathering& operator=(const Gathering&) = delete;

  // False: late() did not come, and will not.
  bool complete(std::uint64_t limit_ns) {
    for (; posted_ < calls_.size(); ++posted_) {
      mailboxes_[posted_]->post(calls_[posted_]);
    }
    if (gate_.wait_for_all(calls_.size(), limit_ns)) {
      return true;
    }
    for (std::size_t i = 0; i < calls_.size(); ++i) {
      if (mailboxes_[i]->cancel(calls_[i])) {
        late_.push_back(i);
      }
    }
    // The last of them may have begun just now.
    return late_.empty() && gate_.wait_for_all(calls_.size(), kLongestGatherNs);
  }
  const std::vector<std::size_t>& late() const { return late_; }

 private:
  bool is_late(std::size_t i) const { return std::ranges::find(late_, i) != late_.end(); }

  const std::span<Mailbox* const> mailboxes_;
  Gate gate_;
  std::deque<Mailbox::Call> calls_;  // stays where it is
  std::size_t posted_ = 0;           // of them, from the front
  std::vector<std::size_t> late_;
};

// Between two bursts once: the worker does not wait here for anybody.
bool comes(Mailbox& mailbox, std::uint64_t deadline_ns) {
  Mailbox::Call call{.task = [] {}};
  mailbox.post(call);
  if (deadline_ns == kPauseForEver) {
    mailbox.wait(call);
    return true;
  }
  if (mailbox.wait(call, deadline_ns)) {
    return true;
  }
  if (mailbox.cancel(call)) {
    return false;
  }
  mailbox.wait(call);
  return true;
}

}  // namespace

std::optional<std::size_t> pause_all(std::span<Mailbox* const> mailboxes, std::uint64_t limit_ns,
                                     const std::function<void()>& change) {
  static std::mutex one_at_a_time;  // two gatherings could each hold a worker that the other waits for
  std::lock_guard lock(one_at_a_time);
  const std::uint64_t deadline = deadline_after(limit_ns);
  for (std::uint64_t patience = kFirstGatherNs;; patience = std::min(2 * patience, kLongestGatherNs)) {
    std::vector<std::size_t> late;
    {
      Gathering gathering(mailboxes);
      if (gathering.complete(patience)) {
        change();
        return std::nullopt;
      }
      late = gathering.late();
    }
    for (std::size_t i : late) {
      if (!comes(*mailboxes[i], deadline)) {
        return i;
      }
    }
    if (now_ns() >= deadline) {
      return late.empty() ? 0 : late.front();
    }
  }
}

}  // namespace sluice
