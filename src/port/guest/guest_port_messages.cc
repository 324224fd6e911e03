// What a front-end says, and when it is heard (guest_port_impl.h).
#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "port/guest/guest_port_impl.h"

namespace sluice {

void GuestPort::Impl::on_channel(std::uint32_t events) {
  if (attached_->check != 0) {
    return;  // what it has said before its end comes first
  }
  if (attached_->resume_timer != 0 || attached_->populating) {  // not read at present
    if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
      detach("it closed the connection");
    }
    return;
  }
  if (attached_->channel.has_unsent() && !attached_->channel.flush()) {
    detach("its socket is broken");
    return;
  }
  take_messages();
}

void GuestPort::Impl::take_messages() {
  VhostMessage message;
  for (; attached_->of_turn < kMessagesPerTurn; ++attached_->of_turn) {
    if (const std::uint64_t wait_ns = pause_budget_.ns_until_ready(now_ns()); wait_ns != 0) {
      pauses_deferred_.add(1);
      defer(std::max(wait_ns, kShortestDeferNs));
      return;
    }
    if (must_wait_for_room()) {
      room_deferred_.add(1);
      defer(kShortestDeferNs);
      return;
    }
    const GuestChannel::Received received = attached_->channel.receive(message);
    attached_->heard = attached_->heard || received != GuestChannel::Received::kNotYet;
    switch (received) {
      case GuestChannel::Received::kHere:
        break;
      case GuestChannel::Received::kMessage:
        if (!take_message(message)) {
          return;
        }
        break;
      case GuestChannel::Received::kNotYet:
        end_turn();
        return;
      case GuestChannel::Received::kToCheck:
        have_checked();
        return;
      case GuestChannel::Received::kClosed:
        detach("it closed the connection");
        return;
      case GuestChannel::Received::kFault:
        cut_off(attached_->channel.fault());
        return;
    }
  }
  end_turn();  // the rest in the next turn: the loop is level-triggered
}

// The turn goes on when the checker has said what it is: what messages of one turn change needs one pause.
void GuestPort::Impl::have_checked() {
  loop_.silence(attached_->channel.fd());  // what it has said before it hung up comes first
  attached_->waits_to_write = false;
  attached_->check = doors_.check({.who = options_.name,
                                   .channel = attached_->channel.fd(),
                                   .done = [this](Checked checked) { on_checked(std::move(checked)); },
                                   .no_memory = [this] { run_out_of_memory(); }});
}

void GuestPort::Impl::on_checked(Checked checked) {
  attached_->check = 0;
  (void)loop_.modify(attached_->channel.fd(), EPOLLIN | EPOLLRDHUP);
  VhostMessage message;
  switch (attached_->channel.take(std::move(checked), message)) {
    case GuestChannel::Received::kMessage:
      if (take_message(message)) {
        ++attached_->of_turn;
        take_messages();
      }
      return;
    case GuestChannel::Received::kFault:
      cut_off(attached_->channel.fault());
      return;
    default:
      detach("its descriptors were lost on the way to here");
  }
}

// Tables come faster than the closer takes the old ones apart: with this, a port has at most three times its
// memory mapped, the present table, the one that replaces it, and one on its way out.
bool GuestPort::Impl::must_wait_for_room() const {
  return memory_policy_.mapped->used() / 2 > options_.memory_bytes;
}

// What the turn's messages have changed, in one pause.
void GuestPort::Impl::end_turn() {
  attached_->of_turn = 0;
  if (!apply_changes()) {
    defer(kLateRetryNs);
    return;
  }
  watch_for_writing();
}

bool GuestPort::Impl::apply_changes() {
  if (attached_->session.has_changes()) {
    pause_budget_.take(now_ns());
    if (!attached_->session.apply(Patience::kShort)) {
      note_late();
      return false;
    }
    pauses_.add(1);
    stuck_ = false;
  }
  (void)attached_->session.apply(Patience::kShort);  // lets go of what no worker had
  drop_calls();
  show_attached();
  return true;
}

// Descriptors for calls that workers and the waker are done with.
void GuestPort::Impl::drop_calls() {
  if (options_.waker != nullptr) {
    options_.waker->reap();
  }
}

void GuestPort::Impl::note_late() {
  pauses_late_.add(1);
  if (!std::exchange(stuck_, true) && log_budget_.take()) {
    log::warn("port {}: a worker does not come to take changes of its rings; they wait", options_.name);
  }
}

// Its socket is not read for a while: pauses have run out, or a worker does not come.
void GuestPort::Impl::defer(std::uint64_t delay_ns) {
  (void)loop_.modify(attached_->channel.fd(), EPOLLRDHUP);
  attached_->waits_to_write = false;
  attached_->resume_timer = loop_.once(delay_ns, [this] { resume(); }, [this] { run_out_of_memory(); });
}

void GuestPort::Impl::resume() {
  attached_->resume_timer = 0;
  if (!apply_changes()) {
    defer(kLateRetryNs);
    return;
  }
  if (attached_->held) {
    Attached::Answer held = std::move(*attached_->held);
    attached_->held.reset();
    if (!finish_message(held.request, held.outcome)) {
      return;
    }
  }
  (void)loop_.modify(attached_->channel.fd(), EPOLLIN | EPOLLRDHUP);
  watch_for_writing();
}

bool GuestPort::Impl::take_message(VhostMessage& message) {
  messages_.add(1);
  ++attached_->messages;
  const std::uint32_t request = message.header.request;
  VhostSession::Outcome outcome = attached_->session.handle(message);
  message.fds.clear();  // those that nobody wanted
  return outcome.waits ? populate(request) : conclude_message(request, outcome);
}

// The session goes on when the thread has done it; nothing else is heard from the front-end meanwhile but its
// end.
bool GuestPort::Impl::populate(std::uint32_t request) {
  (void)apply_changes();  // what was said before, or when a worker comes
  populator_.start(attached_->session.unpopulated(),
                   [this, request](Result<void> populated) { on_populated(request, std::move(populated)); });
  (void)loop_.modify(attached_->channel.fd(), EPOLLRDHUP);
  attached_->waits_to_write = false;
  attached_->populating = true;
  return false;
}

void GuestPort::Impl::on_populated(std::uint32_t request, Result<void> populated) {
  attached_->populating = false;
  VhostSession::Outcome outcome = attached_->session.finish_memory(std::move(populated));
  if (conclude_message(request, outcome)) {
    (void)loop_.modify(attached_->channel.fd(), EPOLLIN | EPOLLRDHUP);
    end_turn();
  }
}

bool GuestPort::Impl::conclude_message(std::uint32_t request, VhostSession::Outcome& outcome) {
  if (outcome.fault != VhostFault::kNone) {
    count_fault(outcome.fault, outcome.sentence);
  }
  if (!outcome.reply && !outcome.close && !attached_->session.holds_memory()) {
    return true;
  }
  // What was said before has happened when the answer goes out.
  if (!apply_changes()) {
    attached_->held.emplace(Attached::Answer{request, std::move(outcome)});
    defer(kLateRetryNs);
    return false;
  }
  return finish_message(request, outcome);
}

bool GuestPort::Impl::finish_message(std::uint32_t request, VhostSession::Outcome& outcome) {
  attached_->session.complete(outcome);
  if (outcome.reply && !answer(request, *outcome.reply)) {
    return false;
  }
  if (outcome.close) {
    detach(outcome.sentence);
    return false;
  }
  return true;
}

bool GuestPort::Impl::answer(std::uint32_t request, const VhostSession::Payload& payload) {
  if (attached_->channel.reply(request, payload)) {
    return true;
  }
  cut_off(VhostFault::kUnread);
  return false;
}

void GuestPort::Impl::count_fault(VhostFault fault, std::string_view sentence) {
  faults_[static_cast<std::size_t>(fault)].add(1);
  if (!std::exchange(attached_->fault_logged, true) && log_budget_.take()) {
    log::warn("port {}: pid {}: {}", options_.name, attached_->who.pid, sentence);
  }
}

void GuestPort::Impl::cut_off(VhostFault fault) {
  const std::string_view why = fault == VhostFault::kUnread    ? "it does not read our answers"
                               : fault == VhostFault::kStalled ? "the rest of a message did not come"
                               : fault == VhostFault::kDoor    ? "its door is not ours any more"
                                                               : "what it sends is no message";
  count_fault(fault, why);
  detach(why);
}

void GuestPort::Impl::watch_for_writing() {
  Attached& peer = *attached_;
  if (peer.channel.has_unsent() != peer.waits_to_write) {
    peer.waits_to_write = peer.channel.has_unsent();
    const std::uint32_t events = EPOLLIN | EPOLLRDHUP | (peer.waits_to_write ? EPOLLOUT : 0u);
    (void)loop_.modify(peer.channel.fd(), events);
  }
}

void GuestPort::Impl::show_attached() {
  const bool receives = attached_->session.receives();
  if (receives != shown_attached_) {
    shown_attached_ = receives;
    services_.states.set_attached(options_.id, receives);
    if (log_budget_.take()) {
      log::info("port {}: the guest {}", options_.name, receives ? "receives" : "has stopped its queues");
    }
  }
}

void GuestPort::Impl::on_loss() {
  if (loss_.take() && attached_ && !attached_->ending) {
    memory_lost_.add(1);
    if (log_budget_.take()) {
      log::warn("port {}: pid {} has taken memory away that its guest uses", options_.name,
                attached_->who.pid);
    }
    detach("its memory is lost");
  }
}

}  // namespace sluice
