#include "bench/victims.h"

#include <linux/if_packet.h>
#include <sched.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/clock.h"
#include "bench/measure.h"
#include "control/rpc/client.h"
#include "port/guest/vhost_user/features.h"

namespace sluice::bench {

namespace {
constexpr std::uint64_t kSecondNs = 1'000'000'000;
constexpr std::uint64_t kGuestPeriodNs = 5'000'000, kOperatorPeriodNs = 10'000'000;
constexpr std::uint64_t kGraceNs = 300'000'000;  // for what is still on its way when the sender ends
constexpr int kCallTimeoutMs = 20'000;

// Best effort: without it the figures are noisier, for the harmless and for the attack alike.
void be_on_time() {
  run_on(kSenderCpu);
  const sched_param priority{.sched_priority = 1};
  ::pthread_setschedparam(::pthread_self(), SCHED_FIFO, &priority);
}

void wait_until(std::uint64_t ns) {
  const timespec time{static_cast<time_t>(ns / kSecondNs), static_cast<long>(ns % kSecondNs)};
  ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr);
}

// One request per period until the end. One whose time comes while the one before is under way has waited
// since then.
template <typename Ask>
void ask_regularly(const std::atomic<bool>& stop, std::uint64_t period_ns, Delays& delays, Ask&& ask) {
  std::uint64_t free_at = 0;
  for (std::uint64_t due = now_ns(); !stop; due += period_ns) {
    wait_until(due);
    const std::uint64_t begin = free_at > due ? due : now_ns();
    if (ask()) {
      delays.note(now_ns() - begin);
    } else {
      delays.note_lost();
    }
    free_at = now_ns();
  }
}
}  // namespace

Result<std::unique_ptr<Victims>> Victims::attach(const test::VethPair& pair, const Places& places) {
  std::unique_ptr<Victims> victims(new Victims(pair, places));
  std::string why;
  victims->port_ = attach_victim_app(places.app_socket, why);
  if (!victims->port_) {
    return fail("the victims' app: {}", why);
  }
  victims->front_ = test::FrontEnd::connect(places.guest_socket);
  victims->ram_.emplace(1 << 20);
  const test::GuestRam* rams[] = {&*victims->ram_};
  if (!victims->front_->connected() ||
      victims->front_->negotiate(kFeatureVersion1 | kFeatureProtocol,
                                 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK) == 0 ||
      !victims->front_->send_table(rams) || !victims->front_->barrier()) {
    return fail("the victims' guest does not get through");
  }
  return victims;
}

void Victims::start() {
  threads_.emplace_back([this] { receive(); });
  threads_.emplace_back([this] { send(); });
  threads_.emplace_back([this] { ask_as_guest(); });
  threads_.emplace_back([this] { ask_as_operator(); });
}

void Victims::stop() {
  stop_ = true;
  for (std::thread& each : threads_) {
    each.join();
  }
  threads_.clear();
}

void Victims::send() {
  test::UdpFrame udp = pair_.to_nic();
  udp.destination_port = places_.udp_port;
  test::Frame frame = test::udp_frame(udp);
  UniqueFd socket;
  // Protocol 0: it receives nothing.
  pair_.wire_ns().run([&] { socket.reset(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0)); });
  be_on_time();
  sockaddr_ll to{};
  to.sll_family = AF_PACKET;
  to.sll_ifindex = pair_.wire_ifindex();
  const std::uint64_t period_ns = kSecondNs / places_.packets_per_second;
  for (std::uint64_t due = now_ns(); !stop_; due = std::max(due + period_ns, now_ns())) {
    wait_until(due);
    const std::uint64_t now = now_ns();
    std::memcpy(frame.data() + test::kPayloadOffset, &now, sizeof now);
    if (::sendto(socket.get(), frame.data(), frame.size(), 0, reinterpret_cast<const sockaddr*>(&to),
                 sizeof to) == static_cast<ssize_t>(frame.size())) {
      ++sent_;
    }
  }
  sent_all_ = true;
}

void Victims::receive() {
  be_on_time();
  std::vector<std::uint64_t> delays;
  std::uint64_t received = 0, last = now_ns();
  while (!sent_all_ || (received < sent_ && now_ns() - last < kGraceNs)) {
    port_->receive(delays);
    for (const std::uint64_t delay : delays) {
      app.note(delay);
    }
    if (!delays.empty() || !sent_all_) {
      last = now_ns();
    }
    received += delays.size();
    delays.clear();
  }
  app.note_lost(sent_ - std::min<std::uint64_t>(received, sent_));
}

void Victims::ask_as_guest() {
  be_on_time();
  ask_regularly(stop_, kGuestPeriodNs, guest, [this] { return front_->barrier(); });
}

void Victims::ask_as_operator() {
  be_on_time();
  auto client = RpcClient::connect(places_.control, kCallTimeoutMs);
  ask_regularly(stop_, kOperatorPeriodNs, control, [&] {
    if (!client) {
      client = RpcClient::connect(places_.control, kCallTimeoutMs);
    }
    const bool answered = client && client->call("version").has_value();
    if (!answered) {
      client = fail("to be made again");
    }
    return answered;
  });
}

}  // namespace sluice::bench
