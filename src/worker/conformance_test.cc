// The suite of lane_conformance.h on the lanes that Sluice ships: NIC queues on a virtual wire, app lanes
// with an app behind a real socket.
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <sys/socket.h>

#include "port/app/app_test_fixture.h"
#include "port/fake/lane_conformance.h"
#include "port/nic/nic_fixture.h"
#include "worker/forward/forward.h"

namespace sluice {
namespace {

// --- NIC

constexpr std::uint16_t kExperimentalEtherType = 0x88b5;  // numbered_frame()'s

// NicTest's wire, NIC and program, outside of a test of its own. The other end of the wire is a packet
// socket.
class NicBench : public NicTest {
 public:
  void TestBody() override {}

  // False: cannot run here.
  bool start() {
    SetUp();
    if (IsSkipped() || HasFatalFailure()) {
      return false;
    }
    wire();
    memory_.emplace(memory(pages()));
    pool_ = memory_->pool(pages());
    queue_ = open(queue_options(), *memory_->umem, *pool_).value();
    program_.emplace();
    link_.emplace(attach(program_->fd()).value());
    program_->set_socket(0, queue_->socket_fd());
    wire_socket_ = wire_ns_->in([&] {
      UniqueFd socket(
          ::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(kExperimentalEtherType)));
      address_ = {.sll_family = AF_PACKET,
                  .sll_protocol = htons(kExperimentalEtherType),
                  .sll_ifindex = pair_->wire_ifindex(),
                  .sll_hatype = 0,
                  .sll_pkttype = 0,
                  .sll_halen = 0,
                  .sll_addr = {}};
      EXPECT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof address_), 0);
      return socket;
    });
    // What the NIC has before anything happens: its fill ring.
    while (queue_->poll() != 0) {
    }
    posted_ = pool_->inflight();
    return true;
  }
  ~NicBench() override {
    link_.reset();
    queue_.reset();
  }

  NicQueue& queue() { return *queue_; }
  PagePool& pool() { return *pool_; }
  Arena& arena() { return *memory_->arena; }
  std::uint32_t pages_out() const { return pool_->inflight() - posted_; }
  std::uint32_t page_count() const { return pages(); }
  bool to_nic(std::span<const std::byte> frame) {
    return ::sendto(wire_socket_.get(), frame.data(), frame.size(), 0,
                    reinterpret_cast<const sockaddr*>(&address_),
                    sizeof address_) == static_cast<ssize_t>(frame.size());
  }
  std::optional<Bytes> from_nic() {
    Bytes frame(2048);
    const ssize_t bytes = ::recv(wire_socket_.get(), frame.data(), frame.size(), 0);
    if (bytes < 0) {
      return std::nullopt;
    }
    frame.resize(static_cast<std::size_t>(bytes));
    return frame;
  }
  // One that the program sends to the queue's socket.
  Bytes udp(std::uint32_t number, std::size_t bytes) const {
    test::UdpFrame udp = pair_->to_nic();
    udp.frame_bytes = bytes;
    const auto made = test::udp_frame(udp);
    Bytes frame(bytes);
    std::memcpy(frame.data(), made.data(), bytes);
    std::memcpy(frame.data() + 42, &number, sizeof number);  // behind the UDP header
    return frame;
  }

 private:
  std::optional<Memory> memory_;
  std::unique_ptr<PagePool> pool_;
  std::unique_ptr<NicQueue> queue_;
  std::optional<Program> program_;
  std::optional<XdpLink> link_;
  UniqueFd wire_socket_;
  sockaddr_ll address_{};
  std::uint32_t posted_ = 0;
};

// As a sink its frames are numbered_frame()'s, which the packet socket picks out.
class NicSinkUnderTest : public LaneUnderTest {
 public:
  bool start() { return bench_.start(); }

  Lane& lane() override { return bench_.queue(); }
  bool hold(std::span<const std::byte> frame, Packet& packet) override {
    const PageIndex page = bench_.pool().alloc();
    if (page == PageIndex::kNone) {
      return false;
    }
    std::ranges::copy(frame, bench_.arena().page(page));
    packet = Packet{.body = bench_.arena().page(page),
                    .body_bytes = static_cast<std::uint32_t>(frame.size()),
                    .page = page};
    return true;
  }
  void release(std::span<const Packet> packets) override { bench_.queue().done(packets); }
  std::optional<Bytes> read() override { return bench_.from_nic(); }
  std::uint32_t pages_out() override { return bench_.pages_out(); }

 protected:
  NicBench bench_;
};

// As a source they are what the program sends to the queue's socket.
class NicSourceUnderTest final : public NicSinkUnderTest {
 public:
  Bytes frame(std::uint32_t number, std::size_t bytes) override { return bench_.udp(number, bytes); }
  bool send(std::span<const std::byte> frame) override { return bench_.to_nic(frame); }
  std::uint32_t pool_pages() override { return bench_.page_count(); }
};

template <typename UnderTest>
std::unique_ptr<LaneUnderTest> make_nic(std::string& why_not) {
  auto nic = std::make_unique<UnderTest>();
  if (!nic->start()) {
    why_not = test::why_no_root_and_xdp();
    return nullptr;
  }
  return nic;
}

INSTANTIATE_TEST_SUITE_P(NicQueue, SinkConformance,
                         testing::Values(LaneFactory{&make_nic<NicSinkUnderTest>}));
SLUICE_SOURCE_CONFORMANCE(NicQueue, LaneFactory{&make_nic<NicSourceUnderTest>});

// --- App

// A port that owns a queue, so that pages can be handed over to it; FakeHost plays the NIC of that queue.
class AppBench : public test::AppPortTest {
 public:
  void TestBody() override {}
  bool begin() {
    options.owned = {OwnedQueue{.worker = WorkerId{0}, .pages = 512}};
    options.tx_entries = 128;
    start();
    peer_ = attach();
    return peer_ != nullptr && !host.owned.empty();
  }
  Lane& app_lane() { return lane(); }
  PagePool& queue_pool() { return *host.owned[0]; }
  Arena& arena() { return *host.open_arena; }
  test::AppPeer& peer() { return *peer_; }
  std::uint64_t count(const std::string& name) { return counter(name); }
  std::uint32_t pages_out() { return inflight() - static_cast<std::uint32_t>(host.posted.size()); }

  ~AppBench() override {
    peer_.reset();
    wait_detached();
  }

 private:
  std::unique_ptr<test::AppPeer> peer_;
};

class AppUnderTest final : public LaneUnderTest {
 public:
  bool start() { return app_.begin(); }
  Lane& lane() override { return app_.app_lane(); }
  bool hold(std::span<const std::byte> frame, Packet& packet) override {
    const PageIndex page = app_.queue_pool().alloc();
    if (page == PageIndex::kNone) {
      return false;
    }
    std::ranges::copy(frame, app_.arena().page(page) + kOffset);
    packet = Packet{.body = app_.arena().page(page) + kOffset,
                    .body_bytes = static_cast<std::uint32_t>(frame.size()),
                    .page = page};
    return true;
  }
  void release(std::span<const Packet> packets) override {
    for (const Packet& packet : packets) {
      if (packet.page != PageIndex::kNone) {
        app_.queue_pool().release(packet.page);
      }
    }
  }
  std::optional<Bytes> read() override {
    auto entry = app_.peer().receive();
    if (!entry) {
      return std::nullopt;
    }
    const auto frame = app_.peer().frame(*entry);
    Bytes bytes(frame.begin(), frame.end());
    app_.peer().give_back(entry->page);
    return bytes;
  }
  std::uint32_t pages_out() override { return app_.pages_out(); }
  bool send(std::span<const std::byte> frame) override {
    if (!app_.peer().send_frame(frame)) {
      return false;
    }
    auto& peer_lane = app_.peer().lanes[0];
    if (peer_lane.tx.peer_needs_wakeup()) {
      const std::uint64_t one = 1;
      EXPECT_EQ(::write(peer_lane.wake_daemon, &one, sizeof one), static_cast<ssize_t>(sizeof one));
    }
    return true;
  }
  Bytes frame(std::uint32_t number, std::size_t bytes) override {
    Bytes frame = numbered_frame(number, bytes);
    std::memcpy(frame.data() + 6, test::kMac.data(), test::kMac.size());  // the port's source check is on
    return frame;
  }

 private:
  static constexpr std::uint16_t kOffset = 256;  // where the kernel puts a frame: XDP_PACKET_HEADROOM
  AppBench app_;
};

// By the rule of the forwarder, which alone decides whether a page changes hands.
TEST(OwnedQueueForwarding, WhatAnAppSendsToItselfIsCopiedForItHasNoPage) {
  AppBench app;
  ASSERT_TRUE(app.begin());
  Forwarder forwarder;
  auto by_port = std::make_unique<LanesByPort>();
  (*by_port)[raw(test::kPort)] = &app.app_lane();
  const Bytes frame = numbered_frame(1, 60);
  Packet packet{.body = frame.data(), .body_bytes = 60, .port = test::kPort};
  forwarder.forward({.domain = domain_of(test::kPort), .port = test::kPort}, std::span(&packet, 1), *by_port);
  const auto entry = app.peer().receive();
  ASSERT_TRUE(entry);
  EXPECT_TRUE(std::ranges::equal(app.peer().frame(*entry), frame));
  EXPECT_EQ(app.count("copied"), 1u);
  EXPECT_EQ(app.count("zero_copy"), 0u);
}

SLUICE_LANE_CONFORMANCE(AppLane, LaneFactory{[](std::string& why_not) -> std::unique_ptr<LaneUnderTest> {
                          auto app = std::make_unique<AppUnderTest>();
                          if (!app->start()) {
                            why_not = "the app port did not come up";
                            return nullptr;
                          }
                          return app;
                        }});

}  // namespace
}  // namespace sluice
