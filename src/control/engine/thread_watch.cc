#include "control/engine/thread_watch.h"

#include <pthread.h>

#include <chrono>

#include "base/clock.h"
#include "base/least_privilege.h"
#include "base/log.h"
#include "base/signals_blocked.h"
#include "worker/port_meter.h"

namespace sluice {

namespace {

constexpr std::chrono::milliseconds kLookEvery(500);

}  // namespace

ThreadWatch::ThreadWatch(std::vector<const Worker*> workers)
    : workers_(std::move(workers)), watches_(workers_.size()), thread_([this] { run(); }) {}

ThreadWatch::~ThreadWatch() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stop_changed_.notify_all();
  thread_.join();
}

void ThreadWatch::name_port(PortId port, const std::string& name) {
  std::lock_guard lock(mutex_);
  names_[raw(port)] = name;
}

std::string ThreadWatch::place_name(std::uint16_t place) {
  std::lock_guard lock(mutex_);
  const auto found = names_.find(place);
  return found == names_.end() ? "a queue or a change by the control thread" : "port " + found->second;
}

void ThreadWatch::run() {
  SignalsBlocked block;
  ::pthread_setname_np(::pthread_self(), "sluice-watch");
  if (auto confined = confine_thread(ThreadKind::kWatch); !confined) {
    log::error("the watching thread keeps its privileges: {}", confined.error().message);
  }
  std::unique_lock lock(mutex_);
  while (!stop_changed_.wait_for(lock, kLookEvery, [this] { return stop_; })) {
    lock.unlock();
    const std::uint64_t now = now_ns();
    for (std::size_t i = 0; i < workers_.size(); ++i) {
      look(i, now);
    }
    lock.lock();
  }
}

void ThreadWatch::look(std::size_t worker, std::uint64_t now) {
  const std::uint16_t place = workers_[worker]->meter().place();
  StuckWatch& watch = watches_[worker];
  const bool was = watch.stuck();
  const std::uint64_t since_ms = watch.for_ns(now) / 1'000'000;
  switch (watch.look(now, workers_[worker]->turns(), place == PortMeter::kResting)) {
    case StuckWatch::Say::kStuck:
      log::warn("worker {} has been in {} for {} ms", worker, place_name(place), since_ms);
      break;
    case StuckWatch::Say::kMovesAgain:
      log::info("worker {} goes on after {} ms", worker, since_ms);
      break;
    case StuckWatch::Say::kNothing:
      break;
  }
  if (watch.stuck() != was) {
    was ? stuck_.fetch_sub(1) : stuck_.fetch_add(1);
  }
}

}  // namespace sluice
