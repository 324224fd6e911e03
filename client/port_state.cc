#include "port_state.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <array>
#include <ctime>

#include "base/clock.h"
#include "base/pause_cpu.h"

namespace sluice::inline v1::client {
namespace {

// How many calls that find nothing may pass between two looks at the socket: a poll(2) of 0.3 us every 1024 x
// 20 ns.
constexpr std::uint32_t kIdleCallsPerLook = 1024;

// What an event of our epoll set is about; below it stands the descriptor.
constexpr std::uint64_t kWakeEvent = 1ull << 32;
constexpr std::uint64_t kSocketEvent = 2ull << 32;
constexpr std::uint64_t kTimerEvent = 3ull << 32;
constexpr std::uint64_t kEventKind = ~0ull << 32;

std::uint64_t tag(std::uint64_t kind, int fd) {
  return kind | static_cast<std::uint32_t>(fd);
}

timespec to_timespec(std::uint64_t ns) {
  return {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
}

}  // namespace

Expected<std::unique_ptr<PortState>> PortState::create(std::shared_ptr<Attachment> attachment,
                                                       std::size_t part, std::size_t part_count) {
  std::unique_ptr<PortState> state(new PortState);
  state->attachment_ = std::move(attachment);
  state->part_ = part;
  state->part_count_ = part_count;
  state->epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  state->timer_.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!state->epoll_ || !state->timer_) {
    return system_error("cannot make an epoll and a timer descriptor");
  }
  if (auto watched = state->watch(state->timer_.get(), EPOLLIN, kTimerEvent); !watched) {
    return watched.error();
  }
  return state;
}

PortState::~PortState() {
  leave();
}

Expected<std::monostate> PortState::watch(int fd, std::uint32_t events, std::uint64_t kind) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag(kind, fd);
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return system_error("cannot watch a descriptor of the session");
  }
  return std::monostate{};
}

Expected<std::monostate> PortState::join(std::shared_ptr<const Session> session) {
  session_ = std::move(session);
  last_serial_ = session_->serial();
  ended_ = false;
  turn_ = tx_turn_ = 0;
  idle_calls_ = 0;
  auto watched = watch(session_->socket(), EPOLLRDHUP, kSocketEvent);
  for (std::size_t i = part_; watched && i < session_->layout().lane_count; i += part_count_) {
    const auto index = static_cast<std::uint32_t>(i);
    lanes_.push_back(std::make_unique<Lane>(*session_, index));
    watched = watch(session_->wake_app_fd(index), EPOLLIN, kWakeEvent);
  }
  if (!watched) {
    leave();
  }
  return watched;
}

void PortState::leave() {
  if (session_ == nullptr) {
    return;
  }
  if (armed_) {
    disarm();
  }
  // Taken out one by one: other parts may keep the descriptors open, and with them their places in our epoll
  // set.
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, session_->socket(), nullptr);
  if (reserved_lane_ != nullptr) {
    reserved_session_ = session_;
    reserved_lane_ = nullptr;
  }
  for (auto& lane : lanes_) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, session_->wake_app_fd(lane->index()), nullptr);
    lane->flush();
    lane->add_to(past_);
    Lane::abandon(std::move(lane));
  }
  lanes_.clear();
  session_.reset();
}

Expected<std::vector<std::unique_ptr<PortState>>> PortState::split(std::size_t part_count) {
  if (part_count == 0) {
    part_count = session_ != nullptr ? session_->layout().lane_count : 1;
  }
  if (part_count > SLUICE_APP_MAX_LANES || part_count_ != 1) {
    return error(ErrorCode::kInvalid, part_count_ != 1 ? "a part of a port cannot be split again"
                                                       : "a port is split into 1 .. 64 parts");
  }
  std::vector<std::unique_ptr<PortState>> parts;
  for (std::size_t i = 0; i < part_count; ++i) {
    auto part = create(attachment_, i, part_count);
    if (!part) {
      return part.error();
    }
    PortState& state = **part;
    state.session_ = session_;
    state.last_serial_ = last_serial_;
    state.ended_ = ended_;
    if (session_ != nullptr) {
      auto watched = state.watch(session_->socket(), EPOLLRDHUP, kSocketEvent);
      for (std::size_t lane = i; watched && lane < lanes_.size(); lane += part_count) {
        watched = state.watch(session_->wake_app_fd(lanes_[lane]->index()), EPOLLIN, kWakeEvent);
      }
      if (!watched) {
        return watched.error();
      }
    }
    parts.push_back(std::move(*part));
  }
  if (armed_) {
    disarm();
  }
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    parts[i % part_count]->lanes_.push_back(std::move(lanes_[i]));
  }
  parts[0]->past_ = past_;
  lanes_.clear();
  session_.reset();  // not leave(): the parts go on with it
  return parts;
}

// --- receive

std::size_t PortState::drain(sluice_packet* packets, std::size_t wanted) {
  std::size_t got = 0;
  for (std::size_t tried = 0; tried < lanes_.size() && got < wanted; ++tried) {
    Lane& lane = *lanes_[turn_];
    turn_ = turn_ + 1 == lanes_.size() ? 0 : turn_ + 1;
    lane.flush();
    got += lane.receive(packets + got,
                        static_cast<std::uint32_t>(std::min<std::size_t>(wanted - got, UINT32_MAX)));
  }
  return got;
}

std::size_t PortState::receive(sluice_packet* packets, std::size_t wanted) {
  if (armed_) {
    disarm();
  }
  if (session_ == nullptr && !find_session()) [[unlikely]] {
    return 0;
  }
  // Looked at in this order: what the daemon published before its end is not lost.
  const bool ended = ended_;
  const std::size_t got = drain(packets, wanted);
  if (got != 0 || wanted == 0) [[likely]] {
    return got;
  }
  if (ended) [[unlikely]] {
    leave();
  } else if (++idle_calls_ % kIdleCallsPerLook == 0) {
    ended_ = session_->ended();
  }
  return 0;
}

bool PortState::find_session() {
  auto session = attachment_->renew(last_serial_);
  return session != nullptr && join(std::move(session)).has_value();
}

// The daemon is not asked to wake us meanwhile: what it publishes is found here. Ends at once with the
// session.
std::size_t PortState::spin(sluice_packet* packets, std::size_t wanted, std::uint64_t until_ns) {
  while (session_ != nullptr && now_ns() < until_ns) {
    pause_cpu();
    if (const std::size_t got = receive(packets, wanted); got != 0) {
      ++past_.spins_hit;
      return got;
    }
  }
  return 0;
}

std::size_t PortState::receive_for(sluice_packet* packets, std::size_t wanted, std::int64_t timeout_ns) {
  std::size_t got = receive(packets, wanted);
  if (got != 0 || timeout_ns == 0 || wanted == 0) {
    return got;
  }
  const std::uint64_t begin = now_ns();
  if (std::uint64_t spin_ns = attachment_->spin_ns(); spin_ns != 0) {
    if (timeout_ns > 0) {
      spin_ns = std::min(spin_ns, static_cast<std::uint64_t>(timeout_ns));
    }
    if (got = spin(packets, wanted, begin + spin_ns); got != 0) {
      return got;
    }
  }
  for (;;) {
    if (session_ == nullptr && !attachment_->reattach()) {
      return 0;
    }
    std::int64_t left = -1;
    if (timeout_ns > 0) {
      const std::uint64_t passed = now_ns() - begin;
      if (passed >= static_cast<std::uint64_t>(timeout_ns)) {
        return 0;
      }
      left = timeout_ns - static_cast<std::int64_t>(passed);
    }
    bool interrupted = false;
    if (arm()) {
      take_events(left, interrupted);
      armed_ = false;
      for (auto& lane : lanes_) {
        lane->cancel_sleep();
      }
    }
    got = receive(packets, wanted);
    if (got != 0 || interrupted) {
      return got;
    }
  }
}

void PortState::flush() {
  for (auto& lane : lanes_) {
    lane->flush();
  }
}

// --- sleeping

bool PortState::arm() {
  flush();
  if (ended_) {
    return false;
  }
  if (session_ == nullptr && attachment_->reattach()) {
    set_timer();
  }
  for (auto& lane : lanes_) {
    if (lane->prepare_sleep()) {
      for (auto& other : lanes_) {
        other->cancel_sleep();
      }
      return false;
    }
  }
  armed_ = true;
  ++past_.sleeps;
  return true;
}

void PortState::disarm() {
  if (!armed_) {
    return;
  }
  armed_ = false;
  for (auto& lane : lanes_) {
    lane->cancel_sleep();
  }
  bool interrupted = false;
  take_events(0, interrupted);
}

// While detached nothing but the clock tells when to look for the daemon again.
void PortState::set_timer() {
  itimerspec when{};
  when.it_value = to_timespec(std::max<std::uint64_t>(attachment_->next_step_ns(), 1));
  ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &when, nullptr);
  timer_set_ = true;
}

// Waits for events, makes their descriptors quiet again, and notes when the daemon has hung up.
void PortState::take_events(std::int64_t timeout_ns, bool& interrupted) {
  std::array<epoll_event, 16> events;
  const timespec timeout = to_timespec(static_cast<std::uint64_t>(std::max<std::int64_t>(timeout_ns, 0)));
  const int count = ::epoll_pwait2(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                   timeout_ns < 0 ? nullptr : &timeout, nullptr);
  interrupted = count < 0 && errno == EINTR;
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    const int fd = static_cast<int>(event.data.u64 & ~kEventKind);
    if ((event.data.u64 & kEventKind) != kTimerEvent &&
        (event.events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
      ended_ = true;  // the daemon closes a lane's wake socket only with the session
    }
    if ((event.events & EPOLLIN) != 0) {
      std::array<std::byte, 64>
          message;  // one kick is enough of a reason; more of them only come back as readable
      [[maybe_unused]] ssize_t got = ::read(fd, message.data(), message.size());
    }
  }
  if (timer_set_ && session_ != nullptr) {
    const itimerspec never{};
    ::timerfd_settime(timer_.get(), 0, &never, nullptr);
    timer_set_ = false;
  }
}

// --- send

// Frames stay in order as long as they fit one lane; the next lane takes over when it is full.
Lane* PortState::lane_with_room() {
  for (std::size_t tried = 0; tried < lanes_.size(); ++tried) {
    Lane& lane = *lanes_[(tx_turn_ + tried) % lanes_.size()];
    if (lane.reserve(1) != 0) {
      tx_turn_ = (tx_turn_ + tried) % lanes_.size();
      return &lane;
    }
  }
  return nullptr;
}

// A program that only sends notices here that the daemon is gone. What the daemon published before is the
// receiver's: while there is any, the session stays.
Lane* PortState::find_tx_lane() {
  Lane* lane = lane_with_room();
  if (lane != nullptr) [[likely]] {
    return lane;
  }
  if (session_ != nullptr) {
    if (!ended_ && ++idle_calls_ % kIdleCallsPerLook == 0) {
      ended_ = session_->ended();
    }
    if (!ended_ ||
        std::any_of(lanes_.begin(), lanes_.end(), [](auto& each) { return each->has_packets(); })) {
      return nullptr;
    }
    leave();
  }
  return find_session() ? lane_with_room() : nullptr;
}

std::size_t PortState::reserve(sluice_frame* frames, std::size_t wanted) {
  reserved_session_.reset();
  reserved_lane_ = wanted != 0 ? find_tx_lane() : nullptr;
  reserved_ = 0;
  if (reserved_lane_ != nullptr) {
    reserved_ =
        reserved_lane_->reserve(static_cast<std::uint32_t>(std::min<std::size_t>(wanted, UINT32_MAX)));
    for (std::size_t i = 0; i < reserved_; ++i) {
      frames[i] = reserved_lane_->slot(static_cast<std::uint32_t>(i));
    }
  }
  return reserved_;
}

std::size_t PortState::commit(const sluice_frame* frames, std::size_t count) {
  reserved_session_.reset();
  Lane* lane = std::exchange(reserved_lane_, nullptr);
  if (lane == nullptr) {
    return 0;
  }
  std::uint32_t filled = 0;
  while (filled < std::min(count, reserved_) && lane->fill(filled, frames[filled])) {
    ++filled;
  }
  if (filled != 0) {
    lane->submit(filled);
  }
  return filled;
}

// --- ask

sluice_info PortState::info() const {
  sluice_info info{};
  info.attaches = attachment_->attaches();
  info.attached = attached() ? 1 : 0;
  info.sleeps = past_.sleeps;
  info.spins_hit = past_.spins_hit;
  if (session_ == nullptr) {
    return info;
  }
  const sluice_app_welcome& layout = session_->layout();
  info.daemon_pid = session_->daemon_pid();
  info.lane_count = layout.lane_count;
  info.page_bytes = layout.page_bytes;
  info.page_limit = layout.page_limit;
  info.tx_frame_bytes = layout.tx_slot_bytes;
  std::memcpy(info.source_mac, layout.source_mac, sizeof(info.source_mac));
  for (const auto& lane : lanes_) {
    info.pages_held += lane->pages_held();
    if (lane->sends() && (layout.flags & SLUICE_APP_NO_ADDRESS) == 0) {
      info.can_send = 1;
    }
  }
  return info;
}

sluice_counters PortState::counters() const {
  sluice_counters sum = past_;
  for (const auto& lane : lanes_) {
    lane->add_to(sum);
  }
  return sum;
}

}  // namespace sluice::inline v1::client
