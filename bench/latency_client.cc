#include "bench/latency_client.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <algorithm>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "bench/latency_frame.h"
#include "bench/measure.h"

namespace sluice::bench {

namespace {

constexpr std::uint64_t kSecondNs = 1'000'000'000, kPeriodNs = 1'000'000, kTimeoutNs = 100'000'000;

std::uint64_t realtime_ns() {
  timespec time{};
  ::clock_gettime(CLOCK_REALTIME, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * kSecondNs + static_cast<std::uint64_t>(time.tv_nsec);
}

void wait_until(std::uint64_t ns) {
  const timespec time{static_cast<time_t>(ns / kSecondNs), static_cast<long>(ns % kSecondNs)};
  ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr);
}

template <typename T>
void set_option(const UniqueFd& socket, int name, const T& value) {
  SLUICE_CHECK(::setsockopt(socket.get(), SOL_SOCKET, name, &value, sizeof(value)) == 0,
               "setsockopt {}: errno {}", name, errno);
}

// When the kernel received it, CLOCK_REALTIME; 0: it does not say.
std::uint64_t wire_time(msghdr& message) {
  for (cmsghdr* each = CMSG_FIRSTHDR(&message); each != nullptr; each = CMSG_NXTHDR(&message, each)) {
    if (each->cmsg_level == SOL_SOCKET && each->cmsg_type == SCM_TIMESTAMPNS) {
      timespec time{};
      std::memcpy(&time, CMSG_DATA(each), sizeof(time));
      return static_cast<std::uint64_t>(time.tv_sec) * kSecondNs + static_cast<std::uint64_t>(time.tv_nsec);
    }
  }
  return 0;
}

void note_stages(const Stamps& stamps, std::uint64_t wire_ns, std::uint64_t now, Answers& into) {
  const std::uint64_t ends[] = {stamps.worker_ns, stamps.received_ns, stamps.answered_ns, wire_ns, now};
  std::uint64_t begin = stamps.sent_ns;
  for (std::size_t i = 0; i < std::size(ends); ++i) {
    if (ends[i] == 0) {
      continue;
    }
    into.stages[i].note(std::max(ends[i], begin) - begin);
    begin = std::max(ends[i], begin);
  }
}

}  // namespace

void Answers::add(const Answers& more) {
  whole.add(more.whole);
  for (std::size_t i = 0; i < stages.size(); ++i) {
    stages[i].add(more.stages[i]);
  }
}

Answers Answers::evenly(std::size_t count) const {
  Answers even{.whole = whole.evenly(count), .stages = {}};
  for (std::size_t i = 0; i < stages.size(); ++i) {
    even.stages[i] = stages[i].evenly(count);
  }
  return even;
}

LatencyClient::LatencyClient(const test::NetNs& wire, const std::string& ip) {
  wire.run([&] { socket_.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)); });
  SLUICE_CHECK(socket_, "socket: errno {}", errno);
  // An echo that turns the frame around in place leaves the checksum as it is, so there is none.
  set_option(socket_, SO_NO_CHECK, 1);
  set_option(socket_, SO_TIMESTAMPNS, 1);
  set_option(socket_, SO_RCVTIMEO, timeval{0, static_cast<suseconds_t>(kTimeoutNs / 1000)});
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(kEchoPort);
  SLUICE_CHECK(::inet_pton(AF_INET, ip.c_str(), &to.sin_addr) == 1, "no address: {}", ip);
  SLUICE_CHECK(::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0,
               "connect: errno {}", errno);
}

bool LatencyClient::ask(Answers* into) {
  const Stamps request{.sequence = ++sequence_, .sent_ns = now_ns()};
  if (::send(socket_.get(), &request, sizeof(request), 0) == sizeof(request) &&
      receive(request.sequence, request.sent_ns, into)) {
    return true;
  }
  if (into != nullptr) {
    into->whole.note_lost();
  }
  return false;
}

// Answers that come after their time are none.
bool LatencyClient::receive(std::uint64_t sequence, std::uint64_t sent_ns, Answers* into) {
  for (;;) {
    Stamps answer;
    iovec place{&answer, sizeof(answer)};
    alignas(cmsghdr) std::array<std::byte, 128> control;
    msghdr message{};
    message.msg_iov = &place;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(socket_.get(), &message, 0);
    const std::uint64_t now = now_ns();
    if (got == sizeof(answer) && answer.sequence == sequence) {
      if (into != nullptr) {
        into->whole.note(now - sent_ns);
        const std::uint64_t wire = wire_time(message);
        note_stages(answer, wire == 0 ? 0 : wire - static_cast<std::uint64_t>(realtime_minus_monotonic_ns_),
                    now, *into);
      }
      return true;
    }
    if (now - sent_ns > kTimeoutNs) {
      return false;
    }
    if (got < 0 && errno != EAGAIN && errno != EINTR) {
      wait_until(now + kPeriodNs);  // an ICMP error: nobody is there (yet)
      return false;
    }
  }
}

Answers LatencyClient::run(Pace pace, double seconds, std::optional<std::uint32_t> cpu) {
  Answers answers;
  std::thread([&] {
    if (cpu) {
      run_on(*cpu);
    }
    realtime_minus_monotonic_ns_ = static_cast<std::int64_t>(realtime_ns() - now_ns());
    const std::uint64_t end = now_ns() + static_cast<std::uint64_t>(seconds * 1e9);
    for (std::uint64_t due = now_ns(); now_ns() < end;) {
      if (pace == Pace::kOnePerMs) {
        wait_until(due);
        due = std::max(due + kPeriodNs, now_ns());
      }
      ask(&answers);
    }
  }).join();
  return answers;
}

}  // namespace sluice::bench
