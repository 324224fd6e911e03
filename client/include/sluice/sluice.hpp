// libsluice: receive packets from a port of Sluice without a copy, and send. C++20.
//
//   auto port = sluice::Port::attach("dns");
//   if (!port) { std::cerr << port.error().message << '\n'; return 1; }
//   std::array<sluice::Packet, 64> packets;
//   for (;;) {
//     std::size_t count = port->receive_for(packets, std::chrono::seconds(1));
//     for (const sluice::Packet& packet : std::span(packets).first(count)) { look_at(packet.bytes()); }
//   }
//
// Threads: a Port, and every Packet that came by it, belong to one thread at a time; nothing is locked on the
// way of a packet. Several threads: Port::split(). Nothing here throws, except std::bad_alloc while
// attaching.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "sluice/sluice.h"

namespace sluice {
inline namespace v1 {

namespace client {
class PortState;  // private
}

// The same values as enum sluice_error, which says what each means.
enum class ErrorCode : int {
  kSystem = SLUICE_ERROR_SYSTEM,
  kDenied = SLUICE_ERROR_DENIED,
  kBusy = SLUICE_ERROR_BUSY,
  kInvalid = SLUICE_ERROR_INVALID,
  kProtocol = SLUICE_ERROR_PROTOCOL,
  kVersion = SLUICE_ERROR_VERSION,
  kRefused = SLUICE_ERROR_REFUSED,
  kTimeout = SLUICE_ERROR_TIMEOUT,
  kNoDaemon = SLUICE_ERROR_NO_DAEMON,
};

struct Error {
  ErrorCode code = ErrorCode::kSystem;
  std::string message;  // one sentence, with what to do about it where that is known
};

// A value or the reason why there is none. Looking at the value of an error ends the program with its
// sentence.
template <typename T>
class [[nodiscard]] Expected {
 public:
  Expected(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Expected(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool has_value() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }

  T& value() & { return checked(); }
  const T& value() const& { return const_cast<Expected*>(this)->checked(); }
  T&& value() && { return std::move(checked()); }
  T& operator*() & { return checked(); }
  const T& operator*() const& { return const_cast<Expected*>(this)->checked(); }
  T&& operator*() && { return std::move(checked()); }
  T* operator->() { return &checked(); }
  const T* operator->() const { return &const_cast<Expected*>(this)->checked(); }

  // Only when there is no value.
  const Error& error() const { return *std::get_if<1>(&state_); }

 private:
  T& checked() {
    if (!has_value()) {
      std::fprintf(stderr, "sluice: %s\n", error().message.c_str());
      std::abort();
    }
    return *std::get_if<0>(&state_);
  }
  std::variant<T, Error> state_;
};

// A received packet, lent by the daemon: it goes back when the handle goes out of scope, is assigned to, or
// is released. Keep it as long as you like, at most Info::page_limit of them: its bytes stay valid when the
// daemon dies, when the session is renewed, and when the Port is gone. Only the thread of its port may
// release it.
class Packet {
 public:
  Packet() noexcept : raw_{} {}
  Packet(Packet&& other) noexcept : raw_(other.raw_) { other.raw_.owner = nullptr; }
  Packet& operator=(Packet&& other) noexcept {
    if (this != &other) {
      release();
      raw_ = other.raw_;
      other.raw_.owner = nullptr;
    }
    return *this;
  }
  ~Packet() { release(); }

  // Holds a packet; what follows is only meaningful then.
  explicit operator bool() const noexcept { return raw_.owner != nullptr; }

  // The frame: Ethernet header first, no FCS. Read-only memory: a write through a cast is SIGSEGV.
  std::span<const std::byte> bytes() const noexcept {
    return {reinterpret_cast<const std::byte*>(raw_.data), raw_.length};
  }
  std::uint32_t rule() const noexcept { return raw_.rule; }  // counter slot of the rule that matched
  std::uint32_t flow_hash() const noexcept { return raw_.flow_hash; }  // equal for all packets of a flow
  std::uint16_t nic() const noexcept { return raw_.nic; }              // the daemon's number of the NIC
  std::uint16_t queue() const noexcept { return raw_.queue; }          // its RX queue
  // CLOCK_MONOTONIC, when the daemon took its burst from the NIC.
  std::uint64_t timestamp_ns() const noexcept { return raw_.timestamp_ns; }

  // Gives the packet back now. The daemon sees it at the port's next receive, when 64 have gathered, or by
  // Port::flush().
  void release() noexcept {
    if (raw_.owner != nullptr) {
      sluice_release(&raw_, 1);
    }
  }

 private:
  sluice_packet raw_;
};

// A frame to send, in memory shared with the daemon: write it at `data`, set `length` (14 .. room).
using Frame = sluice_frame;
using Counters = sluice_counters;  // totals over all sessions
using Info = sluice_info;

struct AttachOptions {
  std::string client_name;  // shown by `sluicectl show ports`; 63 bytes are kept; "": the program's name
  std::chrono::milliseconds timeout{5000};  // for the daemon's answer
  bool reattach = true;                     // renew the session by itself when it ends
  // So long receive_for() looks again and again before it sleeps: for a thread with a core of its own, where
  // a wake-up costs more than the CPU time. 0: not at all.
  std::uint32_t spin_us = 0;
};

// One end of a port of Sluice. Move-only; detaches when it goes.
class SLUICE_API Port {
 public:
  // By the port's name, whose socket is $SLUICE_RUN_DIR/NAME.sock or /run/sluice/NAME.sock, or by the
  // socket's path (anything with a '/'). Errors: see ErrorCode; each comes with a sentence.
  static Expected<Port> attach(std::string_view name_or_path, const AttachOptions& options = {});

  Port(Port&&) noexcept;
  Port& operator=(Port&&) noexcept;
  ~Port();

  // Makes `parts` ports (1 .. 64; 0: one per lane) out of this one, each for a thread of its own: part i has
  // the lanes i, i + parts, ... of every session. A part without a lane receives nothing. On an error this
  // port is as it was.
  Expected<std::vector<Port>> split(std::size_t parts = 0) &&;

  // --- receive. Packets that `packets` still holds are released first. Lanes take turns.

  // Takes what is there now; never sleeps. Returns how many, at the front of `packets`. 0 also while the
  // daemon is away: it is looked for again from here.
  std::size_t receive(std::span<Packet> packets) noexcept;
  // Spins for AttachOptions::spin_us, then sleeps until there is one; a negative timeout is forever. Returns
  // 0 when the time is over, when a signal handler ran, and at once when the session has ended and is not
  // renewed.
  std::size_t receive_for(std::span<Packet> packets, std::chrono::nanoseconds timeout) noexcept;

  // Gives back many at once, which is a little cheaper than one by one.
  static void release(std::span<Packet> packets) noexcept;
  // Tells the daemon of all returns now. Needed only by a program that releases and then does not receive for
  // long.
  void flush() noexcept;

  // --- for a poll or epoll loop of your own

  // Stays the same for the port's whole life, across re-attaching. Read nothing from it.
  int fd() const noexcept;
  // Before each sleep. True: wait until fd() is readable, then receive. False: there is something to do
  // already, receive at once. Receiving disarms.
  bool arm() noexcept;
  void disarm() noexcept;

  // --- send. Nothing here sleeps. Sends too look for a daemon that is away.

  // Sends copies; returns how many of the frames, from the first on, are done with: queued, or skipped and
  // counted tx_bad_length. Fewer than given: the ring is full, or nothing can be sent now.
  std::size_t send(std::span<const std::span<const std::byte>> frames) noexcept;
  bool send(std::span<const std::byte> frame) noexcept { return send(std::span(&frame, 1)) == 1; }

  // Without the copy: room for up to frames.size() frames; returns how many. Void after the next reserve() or
  // send(), and after a receive that found the session ended: commit() then returns 0, and writing is
  // harmless.
  std::size_t reserve(std::span<Frame> frames) noexcept;
  // Queues what reserve() filled, from its first on; returns how many: all up to the first whose `length` or
  // `data` is out of range.
  std::size_t commit(std::span<const Frame> frames) noexcept;

  // --- ask

  bool attached() const noexcept;  // false: the daemon is away
  Info info() const noexcept;
  Counters counters() const noexcept;
  // Why the daemon is away, as far as the last try to attach tells; "" while attached.
  std::string last_error() const;

 private:
  friend struct ::sluice_port;
  explicit Port(std::unique_ptr<client::PortState> state) noexcept;
  std::unique_ptr<client::PortState> state_;
};

}  // namespace v1
}  // namespace sluice
