// The daemon's side of abi/app.h in a test's hands: a real socket, real memory, real rings, and nothing that
// a test cannot make wrong. One thread answers hellos; everything else is done by the test's own thread.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "abi/app.h"
#include "ring/spsc.h"

namespace sluice::testing {

using Bytes = std::vector<std::byte>;

inline Bytes frame_of(std::size_t bytes, unsigned seed) {
  Bytes frame(bytes);
  for (std::size_t i = 0; i < bytes; ++i) {
    frame[i] = static_cast<std::byte>(seed * 31 + i);
  }
  return frame;
}

// A folder of the test's own, and the path of a socket in it.
class TestFolder {
 public:
  TestFolder() {
    char name[] = "/tmp/sluice-client-XXXXXX";
    path_ = ::mkdtemp(name);
  }
  ~TestFolder() {
    ::unlink(socket().c_str());
    ::rmdir(path_.c_str());
  }
  const std::string& path() const { return path_; }
  std::string socket() const { return path_ + "/dns.sock"; }

 private:
  std::string path_;
};

// Waits until `done` holds; fails the test after 10 s.
template <typename Condition>
bool wait_until(Condition done) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!done()) {
    if (std::chrono::steady_clock::now() > deadline) {
      ADD_FAILURE() << "the condition did not come true in 10 s";
      return false;
    }
    std::this_thread::yield();
  }
  return true;
}

struct TestMemory {
  TestMemory() = default;
  TestMemory(std::size_t size, int client_flags) : bytes(size) {
    fd = ::memfd_create("sluice-test", MFD_CLOEXEC);
    EXPECT_EQ(::ftruncate(fd, static_cast<off_t>(size)), 0);
    data = static_cast<std::byte*>(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    client_fd = ::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), client_flags | O_CLOEXEC);
  }
  TestMemory(const TestMemory&) = delete;
  ~TestMemory() {
    ::munmap(data, bytes);
    ::close(fd);
    ::close(client_fd);
  }
  std::byte* data = nullptr;
  std::size_t bytes = 0;
  int fd = -1, client_fd = -1;
};

struct TestDaemonOptions {
  std::uint32_t lanes = 1, pages = 256, page_bytes = 2048, rx_entries = 64, tx_entries = 8,
                tx_slot_bytes = 2048;
  std::uint64_t tx_lanes = ~0ull;
  std::uint16_t status = SLUICE_APP_OK;
  std::string message;
  enum class Answer { kWelcome, kHangUp, kNothing, kShort } answer = Answer::kWelcome;
  // To the client's word that it has mapped its memory.
  enum class Served { kYes, kHangUp, kNothing, kShort, kOther } served = Served::kYes;
  std::function<void(sluice_app_welcome&)> change = [](sluice_app_welcome&) {
  };  // what the welcome says wrongly
  std::uint32_t missing_fds = 0;
};

// What one attached client and this side share.
class TestSession {
 public:
  TestSession(int socket, const TestDaemonOptions& options)
      : options_(options),
        socket_(socket),
        daemon_stride_(
            round_up(SLUICE_LANE_DAEMON_RX_ENTRIES + options.rx_entries * sizeof(sluice_rx_entry))),
        app_stride_(round_up(SLUICE_LANE_APP_BACK_ENTRIES + options.pages * 4 + options.tx_entries * 8)),
        arena_(std::size_t{options.pages} * options.page_bytes, O_RDONLY),
        daemon_(daemon_stride_ * options.lanes, O_RDONLY),
        app_(app_stride_ * options.lanes, O_RDWR),
        tx_(std::size_t{options.tx_entries} * options.tx_slot_bytes * options.lanes, O_RDWR) {
    for (std::uint32_t page = 0; page < options.pages; ++page) {
      free_.push_back(page);
    }
    for (std::uint32_t i = 0; i < options.lanes; ++i) {
      lanes_.push_back(make_lane(i));
    }
  }
  ~TestSession() {
    hang_up();
    for (auto& lane : lanes_) {
      ::close(lane->wake_daemon);
    }
  }

  // Answers the client's word that it has mapped its memory; not one that goes instead.
  void serve() {
    using Served = TestDaemonOptions::Served;
    sluice_app_mapped mapped{};
    if (::recv(socket_, &mapped, sizeof(mapped), 0) != sizeof(mapped)) {
      return;
    }
    EXPECT_EQ(mapped.magic, SLUICE_APP_MAGIC);
    EXPECT_EQ(mapped.version, SLUICE_APP_VERSION);
    EXPECT_EQ(mapped.reserved, 0);
    sluice_app_served served{};
    served.magic = SLUICE_APP_MAGIC;
    served.version = SLUICE_APP_VERSION;
    served.status = options_.served == Served::kOther ? 7 : SLUICE_APP_OK;
    if (options_.served == Served::kHangUp) {
      hang_up();
    } else if (options_.served != Served::kNothing) {
      ::send(socket_, &served, options_.served == Served::kShort ? 3 : sizeof(served), MSG_NOSIGNAL);
    }
  }
  void send_welcome() {
    sluice_app_welcome welcome{};
    welcome.magic = SLUICE_APP_MAGIC;
    welcome.version = SLUICE_APP_VERSION;
    welcome.lane_count = options_.lanes;
    welcome.page_bytes = options_.page_bytes;
    welcome.page_count = options_.pages;
    welcome.rx_entries = options_.rx_entries;
    welcome.back_entries = options_.pages;
    welcome.tx_entries = options_.tx_entries;
    welcome.tx_slot_bytes = options_.tx_slot_bytes;
    welcome.page_limit = options_.pages;
    welcome.rx_arena_bytes = arena_.bytes;
    welcome.tx_arena_bytes = tx_.bytes;
    welcome.daemon_segment_bytes = daemon_.bytes;
    welcome.app_segment_bytes = app_.bytes;
    welcome.daemon_lane_stride = daemon_stride_;
    welcome.app_lane_stride = app_stride_;
    welcome.source_mac[5] = 7;
    welcome.tx_lanes_low = static_cast<std::uint32_t>(options_.tx_lanes);
    welcome.tx_lanes_high = static_cast<std::uint32_t>(options_.tx_lanes >> 32);
    options_.change(welcome);
    std::vector<int> fds{arena_.client_fd, daemon_.client_fd, app_.client_fd, tx_.client_fd};
    for (auto& lane : lanes_) {
      fds.push_back(lane->client_wake);
      fds.push_back(lane->wake_daemon);
    }
    fds.resize(fds.size() - options_.missing_fds);
    send_message(socket_, &welcome, sizeof(welcome), fds);
    for (auto& lane : lanes_) {
      ::close(lane->client_wake);
    }
  }

  static void send_message(int socket, const void* data, std::size_t bytes, const std::vector<int>& fds) {
    iovec part{const_cast<void*>(data), bytes};
    std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)));
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      cmsghdr* rights = CMSG_FIRSTHDR(&message);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
      std::memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
    }
    EXPECT_EQ(::sendmsg(socket, &message, MSG_NOSIGNAL), static_cast<ssize_t>(bytes));
  }

  // --- the worker's part

  // Lends a page with `frame` in it; returns the page.
  std::uint32_t deliver(const Bytes& frame, std::uint32_t lane = 0) {
    std::uint32_t page = free_.front();
    free_.pop_front();
    lent_.insert(page);
    std::memcpy(arena_.data + std::size_t{page} * options_.page_bytes + kOffset, frame.data(), frame.size());
    sluice_rx_entry entry{};
    entry.page = page;
    entry.offset = kOffset;
    entry.length = static_cast<std::uint16_t>(frame.size());
    entry.rule = 5;
    entry.flow_hash = 0xabcd;
    entry.timestamp_ns = 1'000'000 + page;
    entry.nic = 2;
    entry.queue = 3;
    push(entry, lane);
    return page;
  }
  // Any entry, honest or not.
  void push(const sluice_rx_entry& entry, std::uint32_t lane = 0) {
    Lane& to = *lanes_[lane];
    ASSERT_EQ(to.rx.reserve(1), 1u) << "the test overfills the ring";
    to.rx.entry(0) = entry;
    to.rx.submit(1);
    if (to.rx.peer_needs_wakeup()) {
      std::uint64_t one = 1;
      ++wakeups;
      [[maybe_unused]] auto sent = ::send(to.wake_app, &one, sizeof(one), MSG_DONTWAIT | MSG_NOSIGNAL);
    }
  }

  // Pages that came back, in order; each was lent.
  std::vector<std::uint32_t> take_back(std::uint32_t lane = 0) {
    auto& back = lanes_[lane]->back;
    std::vector<std::uint32_t> pages;
    std::uint32_t count = back.peek(back.size());
    for (std::uint32_t i = 0; i < count; ++i) {
      pages.push_back(back.read(i));
      EXPECT_EQ(lent_.erase(pages.back()), 1u) << "page " << pages.back() << " came back and was not lent";
      free_.push_back(pages.back());
    }
    back.release(count);
    return pages;
  }
  std::vector<Bytes> take_tx(std::uint32_t lane = 0, std::uint32_t most = ~0u) {
    auto& tx = lanes_[lane]->tx;
    std::vector<Bytes> frames;
    std::uint32_t count = tx.peek(std::min(most, tx.size()));
    for (std::uint32_t i = 0; i < count; ++i) {
      sluice_tx_entry entry = tx.read(i);
      std::uint32_t slot = lane * tx.size() + ((tx.consumed() + i) & (tx.size() - 1));
      EXPECT_GE(entry.offset, slot * options_.tx_slot_bytes) << "a frame outside its slot";
      EXPECT_LE(entry.offset + entry.length, (slot + 1) * options_.tx_slot_bytes)
          << "a frame outside its slot";
      frames.emplace_back(tx_.data + entry.offset, tx_.data + entry.offset + entry.length);
    }
    tx.release(count);
    return frames;
  }
  bool tx_is_zero() const {
    return std::all_of(tx_.data, tx_.data + tx_.bytes, [](std::byte b) { return b == std::byte{0}; });
  }
  // The worker goes to sleep; was it kicked?
  void sleep(std::uint32_t lane = 0) {
    lanes_[lane]->back.prepare_sleep();
    lanes_[lane]->tx.prepare_sleep();
  }
  std::uint64_t kicks(std::uint32_t lane = 0) {
    std::uint64_t count = 0;
    return ::read(lanes_[lane]->wake_daemon, &count, sizeof(count)) > 0 ? count : 0;
  }
  sluice_lane_stats& stats(std::uint32_t lane) {
    return *reinterpret_cast<sluice_lane_stats*>(daemon_.data + lane * daemon_stride_);
  }
  // Has the client asked to be woken on this lane?
  bool client_sleeps(std::uint32_t lane = 0) {
    return read_once(reinterpret_cast<sluice_ring_consumer*>(app_.data + lane * app_stride_)->need_wakeup) !=
           0;
  }
  sluice_ring_producer& raw_rx_producer(std::uint32_t lane = 0) {
    return *reinterpret_cast<sluice_ring_producer*>(daemon_.data + lane * daemon_stride_ +
                                                    SLUICE_LANE_DAEMON_RX_PRODUCER);
  }

  // The daemon's death, or its decision to cut the client off: to the client they look the same.
  void hang_up() {
    if (socket_ >= 0) {
      ::close(socket_);
      socket_ = -1;
      for (auto& lane : lanes_) {
        ::close(lane->wake_app);
      }
    }
  }

  std::uint64_t wakeups = 0;
  std::string client;
  static constexpr std::uint16_t kOffset = 256;

 private:
  struct Lane {
    RingProducer<sluice_rx_entry> rx;
    RingConsumer<std::uint32_t> back;
    RingConsumer<sluice_tx_entry> tx;
    int wake_app = -1, client_wake = -1, wake_daemon = -1;
  };
  static std::size_t round_up(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

  std::unique_ptr<Lane> make_lane(std::uint32_t i) {
    auto lane = std::make_unique<Lane>();
    std::byte* ours = daemon_.data + i * daemon_stride_;
    std::byte* theirs = app_.data + i * app_stride_;
    auto producer = [](std::byte* at) { return reinterpret_cast<sluice_ring_producer*>(at); };
    auto consumer = [](std::byte* at) { return reinterpret_cast<sluice_ring_consumer*>(at); };
    lane->rx = {producer(ours + SLUICE_LANE_DAEMON_RX_PRODUCER),
                reinterpret_cast<sluice_rx_entry*>(ours + SLUICE_LANE_DAEMON_RX_ENTRIES),
                consumer(theirs + SLUICE_LANE_APP_RX_CONSUMER), options_.rx_entries};
    lane->back = {consumer(ours + SLUICE_LANE_DAEMON_BACK_CONSUMER),
                  reinterpret_cast<std::uint32_t*>(theirs + SLUICE_LANE_APP_BACK_ENTRIES),
                  producer(theirs + SLUICE_LANE_APP_BACK_PRODUCER), options_.pages};
    lane->tx = {
        consumer(ours + SLUICE_LANE_DAEMON_TX_CONSUMER),
        reinterpret_cast<sluice_tx_entry*>(theirs + SLUICE_LANE_APP_BACK_ENTRIES + options_.pages * 4),
        producer(theirs + SLUICE_LANE_APP_TX_PRODUCER), options_.tx_entries};
    int pair[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    lane->wake_app = pair[0];
    lane->client_wake = pair[1];
    lane->wake_daemon = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return lane;
  }

  TestDaemonOptions options_;
  int socket_;
  std::size_t daemon_stride_, app_stride_;
  TestMemory arena_, daemon_, app_, tx_;
  std::deque<std::uint32_t> free_;
  std::set<std::uint32_t> lent_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

class TestDaemon {
 public:
  TestDaemon(std::string path, TestDaemonOptions options)
      : path_(std::move(path)), options_(std::move(options)) {
    listener_ = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof(address.sun_path) - 1);
    ::unlink(path_.c_str());
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(::listen(listener_, 8), 0);
    stop_ = ::eventfd(0, EFD_CLOEXEC);
    thread_ = std::thread([this] { serve(); });
  }
  ~TestDaemon() {
    std::uint64_t one = 1;
    [[maybe_unused]] auto written = ::write(stop_, &one, sizeof(one));
    thread_.join();
    ::close(listener_);
    ::close(stop_);
    for (int silent : silent_) {
      ::close(silent);
    }
    ::unlink(path_.c_str());
  }

  // The session that was made by the n-th attach, n from 1: waits for it.
  TestSession& session(std::size_t n = 1) {
    std::unique_lock lock(mutex_);
    bool there = changed_.wait_for(lock, std::chrono::seconds(10), [&] { return sessions_.size() >= n; });
    if (!there) {
      ADD_FAILURE() << "no client attached in 10 s";
      std::abort();
    }
    return *sessions_[n - 1];
  }
  std::size_t attaches() {
    std::lock_guard lock(mutex_);
    return sessions_.size();
  }

 private:
  void serve() {
    for (;;) {
      pollfd fds[2] = {{listener_, POLLIN, 0}, {stop_, POLLIN, 0}};
      ::poll(fds, 2, -1);
      if (fds[1].revents != 0) {
        return;
      }
      answer(::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC));
    }
  }
  void answer(int socket) {
    sluice_app_hello hello{};
    if (::recv(socket, &hello, sizeof(hello), 0) != sizeof(hello)) {
      ::close(socket);
      return;
    }
    EXPECT_EQ(hello.magic, SLUICE_APP_MAGIC);
    EXPECT_EQ(hello.version, SLUICE_APP_VERSION);
    if (options_.answer == TestDaemonOptions::Answer::kWelcome && options_.status == SLUICE_APP_OK) {
      auto session = std::make_unique<TestSession>(socket, options_);
      session->client = hello.client;
      session->send_welcome();
      session->serve();
      std::lock_guard lock(mutex_);
      sessions_.push_back(std::move(session));
      changed_.notify_all();
      return;
    }
    if (options_.answer == TestDaemonOptions::Answer::kNothing) {
      silent_.push_back(socket);
      return;
    }
    if (options_.answer != TestDaemonOptions::Answer::kHangUp) {
      sluice_app_welcome refusal{};
      refusal.magic = SLUICE_APP_MAGIC;
      refusal.version = SLUICE_APP_VERSION;
      refusal.status = options_.status;
      options_.message.copy(refusal.message,
                            sizeof(refusal.message));  // no NUL when it is as long as the field
      bool is_short = options_.answer == TestDaemonOptions::Answer::kShort;
      TestSession::send_message(socket, &refusal, is_short ? 100 : sizeof(refusal), {});
    }
    ::close(socket);
  }

  std::string path_;
  TestDaemonOptions options_;
  int listener_ = -1, stop_ = -1;
  std::vector<int> silent_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<TestSession>> sessions_;
  std::thread thread_;
};

}  // namespace sluice::testing
