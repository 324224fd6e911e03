// A guest that answers, as its kernel would: it sleeps until its receive ring calls, looks until the ring is
// empty, and asks to be called again. The front-end and the driver are this process.
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <optional>

#include "base/clock.h"
#include "base/untrusted.h"
#include "bench/latency_echo.h"
#include "bench/latency_frame.h"
#include "port/guest/vhost_user/features.h"
#include "port/guest/virtio/ring/ring_layout.h"
#include "test/vhost/mock_front_end.h"

namespace sluice::bench {

namespace {

constexpr std::uint16_t kEntries = 256;
constexpr std::uint32_t kBufferBytes = 2048, kHeaderBytes = 12;  // of virtio-net 1.0

// A split ring in which descriptor i is always buffer i: a frame is answered in the buffer that it came in.
class Ring {
 public:
  Ring(test::GuestRam& ram, std::byte* buffers, std::uint16_t flags)
      : areas(test::RingAreas::split(ram, kEntries)), kick(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    for (std::uint16_t i = 0; i < kEntries; ++i) {
      descriptors()[i] = {.addr = ram.guest_address_of(buffers + std::size_t{i} * kBufferBytes),
                          .len = kBufferBytes,
                          .flags = flags,
                          .next = 0};
    }
  }

  void post(std::uint16_t id, std::uint32_t bytes) {
    descriptors()[id].len = bytes;
    available()->ring[next_++ % kEntries] = id;
  }
  std::uint16_t posted() const { return static_cast<std::uint16_t>(next_ - taken_); }
  // What was posted is the device's, which is woken if it asked for it.
  void publish() {
    if (next_ == published_) {
      return;
    }
    published_ = next_;
    write_once(available()->idx, next_, std::memory_order_release);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if ((read_once(used()->flags) & VRING_USED_F_NO_NOTIFY) == 0) {
      const std::uint64_t one = 1;
      [[maybe_unused]] ssize_t written = ::write(kick.get(), &one, sizeof(one));
    }
  }
  bool has_used() const { return read_once(used()->idx, std::memory_order_acquire) != taken_; }
  vring_used_elem take() { return used()->ring[taken_++ % kEntries]; }
  void want_calls(bool on) {
    write_once(available()->flags, on ? std::uint16_t{0} : std::uint16_t{VRING_AVAIL_F_NO_INTERRUPT});
  }

  test::RingAreas areas;
  UniqueFd kick;

 private:
  vring_desc* descriptors() const { return reinterpret_cast<vring_desc*>(areas.descriptors); }
  vring_avail* available() const { return reinterpret_cast<vring_avail*>(areas.driver_area); }
  vring_used* used() const { return reinterpret_cast<vring_used*>(areas.device_area); }

  std::uint16_t next_ = 0, published_ = 0, taken_ = 0;
};

class Guest {
 public:
  // `call`: both rings'.
  explicit Guest(int call)
      : call_(call), ram_(4 << 20), buffers_(ram_.allocate(kEntries * kBufferBytes, 4096)) {
    rx_.emplace(ram_, buffers_, VRING_DESC_F_WRITE);
    tx_.emplace(ram_, buffers_, 0);
    for (std::uint16_t i = 0; i < kEntries; ++i) {
      rx_->post(i, kBufferBytes);
    }
  }

  bool attach(test::FrontEnd& front) {
    const test::GuestRam* rams[] = {&ram_};
    front.negotiate(kFeatureVersion1 | kFeatureProtocol, 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK);
    if (!front.send_table(rams)) {
      return false;
    }
    front.set_up_ring(0, kEntries, rx_->areas, 0, rx_->kick.get(), call_);
    front.set_up_ring(1, kEntries, tx_->areas, 0, tx_->kick.get(), call_);
    front.enable(0, true);
    front.enable(1, true);
    return front.barrier();
  }

  void serve() {
    for (;;) {
      rx_->want_calls(false);
      tx_->want_calls(false);
      while (work()) {
      }
      // Sent buffers are collected with the next request, unless they are too many to wait for it.
      const bool waits_for_sent = tx_->posted() > kEntries / 2;
      rx_->want_calls(true);
      tx_->want_calls(waits_for_sent);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      if (!rx_->has_used() && !(waits_for_sent && tx_->has_used())) {
        std::uint64_t calls = 0;
        [[maybe_unused]] ssize_t got = ::read(call_, &calls, sizeof(calls));
      }
    }
  }

 private:
  bool work() {
    bool any = false;
    for (; tx_->has_used(); any = true) {
      rx_->post(static_cast<std::uint16_t>(tx_->take().id), kBufferBytes);
    }
    const std::uint64_t now = now_ns();
    for (; rx_->has_used(); any = true) {
      const vring_used_elem came = rx_->take();
      const auto id = static_cast<std::uint16_t>(came.id);
      std::byte* buffer = buffers_ + std::size_t{id} * kBufferBytes;
      const std::span<std::byte> frame(buffer + kHeaderBytes, came.len - kHeaderBytes);
      if (!turn_around(frame)) {
        rx_->post(id, kBufferBytes);
        continue;
      }
      stamp(frame.subspan(kUdpPayload), 0, now, now_ns());
      std::memset(buffer, 0, kHeaderBytes);
      tx_->post(id, came.len);
    }
    tx_->publish();
    rx_->publish();
    return any;
  }

  int call_;
  test::GuestRam ram_;
  std::byte* buffers_;
  std::optional<Ring> rx_, tx_;
};

}  // namespace

std::string echo_as_guest(const std::string& path) {
  test::FrontEnd front = test::FrontEnd::connect(path);
  if (!front.connected()) {
    return "nobody listens at " + path;
  }
  const UniqueFd call(::eventfd(0, EFD_CLOEXEC));
  Guest guest(call.get());
  if (!guest.attach(front)) {
    return "the back-end at " + path + " has cut the session off";
  }
  guest.serve();
  return "";
}

}  // namespace sluice::bench
