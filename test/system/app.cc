#include "test/system/app.h"

#include <gtest/gtest.h>

#include <array>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <thread>
#include <vector>

#include "test/support/eventually.h"
#include "test/support/live_frames.h"
#include "test/system/tally.h"

#include "sluice/sluice.hpp"

namespace sluice::test {

namespace {
// Where LiveFrames writes into a frame: the UDP checksum, then the sequence number.
constexpr std::size_t kWrittenFrom = 40, kWrittenTo = kPayloadOffset + 8;
constexpr std::chrono::milliseconds kTurn{2};
}  // namespace

struct App::Inside {
  Inside(App& owner, Options given, Port attached)
      : app(owner), options(std::move(given)), port(std::move(attached)), tally(options.sequences) {}
  ~Inside() {
    call([this] { stop = true; });
    thread.join();
  }

  // Runs it on the app's thread and waits for its end.
  void call(std::function<void()> what) {
    std::promise<void> done;
    {
      std::lock_guard lock(mutex);
      calls.push_back([&] {
        what();
        done.set_value();
      });
    }
    called.notify_one();
    done.get_future().wait();
  }

  void loop() {
    while (!stop) {
      take_calls();
      if (!stop && mode != Mode::kPaused) {
        read();
      }
      app.attached_ = port.attached();
      app.attaches_ = port.info().attaches;
    }
  }

  void take_calls() {
    std::unique_lock lock(mutex);
    if (mode == Mode::kPaused) {
      called.wait(lock, [this] { return !calls.empty(); });
    }
    while (!calls.empty()) {
      std::function<void()> next = std::move(calls.front());
      calls.pop_front();
      lock.unlock();
      next();
      lock.lock();
    }
  }

  void read() {
    std::size_t count = port.receive_for(packets, kTurn);
    for (Packet& packet : std::span(packets).first(count)) {
      look_at(packet);
      if (mode == Mode::kHoard) {
        hoard.push_back(std::move(packet));
      }
    }
    if (count != 0) {
      app.held_ = hoard.size();
      app.received_ += count;
    }
  }

  void look_at(const Packet& packet) {
    std::span<const std::byte> bytes = packet.bytes();
    const Frame& expected = options.expected;
    bool right = bytes.size() == expected.size() && bytes.size() >= kWrittenTo && packet.queue() < kQueues &&
                 std::memcmp(bytes.data(), expected.data(), kWrittenFrom) == 0 &&
                 std::memcmp(bytes.data() + kWrittenTo, expected.data() + kWrittenTo,
                             bytes.size() - kWrittenTo) == 0 &&
                 tally.note(sequence_of(bytes.data()));
    if (!right) {
      ++app.wrong_;
      return;
    }
    app.allowed_[packet.queue()].fetch_add(1, std::memory_order_relaxed);
  }

  App& app;
  Options options;
  Port port;
  Tally tally;
  std::array<Packet, 64> packets;
  std::vector<Packet> hoard;
  Mode mode = Mode::kRead;
  bool stop = false;
  std::mutex mutex;
  std::condition_variable called;
  std::deque<std::function<void()>> calls;
  std::thread thread;  // last: it uses all of the above
};

Result<std::unique_ptr<App>> App::attach(Options options) {
  AttachOptions attach_options;
  attach_options.client_name = options.name;
  attach_options.timeout = std::chrono::seconds(120);
  auto port = Port::attach(options.socket, attach_options);
  if (!port) {
    return fail("{}", port.error().message);
  }
  std::unique_ptr<App> app(new App);
  for (auto& allowed : app->allowed_) {
    allowed = options.window;
  }
  app->attached_ = true;
  app->attaches_ = 1;
  app->inside_ = std::make_unique<Inside>(*app, std::move(options), std::move(*port));
  Inside* inside = app->inside_.get();
  inside->thread = std::thread([inside] { inside->loop(); });
  return app;
}

App::~App() = default;

void App::set_mode(Mode mode) {
  inside_->call([&] {
    inside_->mode = mode;
    Port::release(inside_->packets);  // it has nothing but its hoard while it does not look
    inside_->port.flush();
  });
}

void App::release_hoard() {
  inside_->call([&] {
    Port::release(inside_->hoard);
    inside_->hoard.clear();
    inside_->port.flush();
    held_ = 0;
  });
}

void App::expect_all_once() {
  expect_all_once(inside_->options.sequences);
}

void App::expect_all_once(std::uint64_t sequences) {
  eventually([&] { return received_ >= sequences; });
  inside_->call([&] {
    EXPECT_EQ(inside_->tally.lost(sequences), 0u) << inside_->options.name;
    EXPECT_EQ(inside_->tally.doubled(), 0u) << inside_->options.name;
    EXPECT_EQ(received_, sequences) << inside_->options.name;
    EXPECT_EQ(wrong_, 0u) << inside_->options.name;
  });
}

bool App::send(std::span<const Frame> frames) {
  bool all = true;
  inside_->call([&] {
    for (const Frame& frame : frames) {
      all = all && eventually([&] { return inside_->port.send(frame); });
    }
  });
  return all;
}

bool App::can_send() {
  bool can = false;
  inside_->call([&] { can = inside_->port.info().can_send != 0; });
  return can;
}

Mac App::source_mac() {
  Mac mac{};
  inside_->call([&] { std::memcpy(mac.data(), inside_->port.info().source_mac, mac.size()); });
  return mac;
}

}  // namespace sluice::test
