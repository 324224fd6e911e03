#include "real_daemon.h"
#include "port/burst_of.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <future>
#include <mutex>
#include <thread>
#include <vector>

#include "base/event_loop.h"
#include "port/app/app_port.h"
#include "port/fake_services.h"

namespace sluice::testing {

class RealDaemon::Impl final : public test::FakeServices {
 public:
  Impl(const std::string& socket, const RealDaemonOptions& options)
      : call_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    options_.id = PortId{5};
    options_.name = "dns";
    options_.socket = socket;
    options_.pages = options.pages;
    options_.tx_entries = 64;
    options_.source_macs = {MacAddress{2, 0, 0, 0, 0, 0x11}};
    options_.uplink = PortId{9};
    options_.huge = ArenaOptions::Huge::kNever;
    for (std::uint32_t i = 0; i < options.workers; ++i) {
      options_.workers.push_back(static_cast<WorkerId>(i));
      options_.worker_sends.push_back(true);
    }
    std::promise<void> ready;
    thread_ = std::thread([&] {
      start();
      ready.set_value();
      serve();
    });
    ready.get_future().wait();
  }
  ~Impl() override {
    call([this] { stop_ = true; });
    thread_.join();
  }

  // Runs `what` on the daemon's thread and waits for its end.
  void call(const std::function<void()>& what) {
    std::promise<void> done;
    {
      std::lock_guard lock(mutex_);
      calls_.push_back([&] {
        what();
        done.set_value();
      });
    }
    std::uint64_t one = 1;
    [[maybe_unused]] auto written = ::write(call_.get(), &one, sizeof(one));
    done.get_future().wait();
  }
  void make_port() {
    port_.reset();
    auto port = AppPort::create(options_, *loop_, services());
    ASSERT_TRUE(port) << port.error().message;
    port_ = std::move(*port);
  }
  AppPort& port() { return *port_; }
  Lane* lane(std::uint32_t worker) {
    auto found = lanes_.find(static_cast<WorkerId>(worker));
    return found == lanes_.end() ? nullptr : found->second;
  }

  void install_lane(PortId, WorkerId worker, Lane* lane) override {
    lanes_[worker] = lane;
    EXPECT_TRUE(loop_->add(lane->wake_fd(), EPOLLIN, [lane](std::uint32_t) { lane->woken(); }));
  }
  void remove_lane(PortId, WorkerId worker) override {
    loop_->remove(lanes_.at(worker)->wake_fd());
    lanes_.erase(worker);
  }

 private:
  void start() {
    loop_ = std::move(EventLoop::create().value());
    EXPECT_TRUE(loop_->add(call_.get(), EPOLLIN, [this](std::uint32_t) { take_calls(); }));
    make_port();
  }
  void serve() {
    while (!stop_) {
      // Sleeps for ever unless a descriptor wakes it: a wake-up that is lost is a test that hangs.
      loop_->turn(work() || !all_sleep() ? 0 : -1);
    }
    port_.reset();
    loop_.reset();
  }
  bool work() {
    std::uint32_t done = 0;
    for (auto [worker, lane] : lanes_) {
      std::array<Packet, kBurst> burst;
      std::uint32_t sent = burst_of(*lane, burst);
      if (sent != 0) {
        lane->copy_in({.port = PortId::kKernel}, std::span(burst).first(sent));
        lane->done(std::span(burst).first(sent));
      }
      done += sent + lane->poll();
    }
    return done != 0;
  }
  bool all_sleep() {
    for (auto [worker, lane] : lanes_) {
      if (lane->prepare_sleep()) {
        return false;
      }
    }
    return true;
  }
  void take_calls() {
    std::uint64_t count = 0;
    [[maybe_unused]] auto got = ::read(call_.get(), &count, sizeof(count));
    std::vector<std::function<void()>> calls;
    {
      std::lock_guard lock(mutex_);
      calls.swap(calls_);
    }
    for (auto& call : calls) {
      call();
    }
  }

  AppPortOptions options_;
  UniqueFd call_;
  std::mutex mutex_;
  std::vector<std::function<void()>> calls_;
  std::thread thread_;
  // Of the daemon's thread:
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<AppPort> port_;
  std::map<WorkerId, Lane*> lanes_;
  bool stop_ = false;
};

RealDaemon::RealDaemon(const std::string& socket, const RealDaemonOptions& options)
    : impl_(std::make_unique<Impl>(socket, options)) {}
RealDaemon::~RealDaemon() = default;

bool RealDaemon::deliver(std::span<const std::byte> frame, std::uint32_t count, std::uint32_t worker) {
  bool delivered = false;
  impl_->call([&] {
    if (Lane* lane = impl_->lane(worker); lane != nullptr) {
      Packet packet{.body = frame.data(), .body_bytes = static_cast<std::uint32_t>(frame.size()), .rule = 3};
      std::vector<Packet> packets(count, packet);
      lane->copy_in({.nic = NicId{1}, .queue = QueueId{2}, .timestamp_ns = 77}, packets);
      lane->poll();
      delivered = true;
    }
  });
  return delivered;
}

std::map<std::string, std::uint64_t> RealDaemon::counters() {
  struct Reader : CounterVisitor {
    std::map<std::string, std::uint64_t> values;
    void counter(std::string_view name, std::uint64_t value) override { values[std::string(name)] = value; }
  } reader;
  impl_->call([&] { impl_->port().visit(reader); });
  return reader.values;
}

int RealDaemon::attached_pid() {
  int pid = 0;
  impl_->call([&] {
    auto session = impl_->port().session();
    pid = session ? session->pid : 0;
  });
  return pid;
}

std::uint32_t RealDaemon::pages_inflight() {
  std::uint32_t sum = 0;
  impl_->call([&] { impl_->port().visit_pools([&](const PagePool& pool) { sum += pool.inflight(); }); });
  return sum;
}

void RealDaemon::cut_off() {
  impl_->call([&] { impl_->make_port(); });
}

}  // namespace sluice::testing
