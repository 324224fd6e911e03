// Programs and wires that mean harm, against the real daemon while another program's packets pass.
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <random>

#include "base/untrusted.h"
#include "test/support/ping.h"
#include "test/system/fixture.h"
#include "test/system/raw_app.h"

namespace sluice::test {
namespace {

constexpr std::uint16_t kGood = 5000, kEvil = 5001;

// The hostile program's packets come by queue 1, the other's by queue 0; each worker has a lane of both.
class Malicious_System : public SystemTest {
 protected:
  explicit Malicious_System(VethOptions links = {.queues = 2}) : SystemTest(std::move(links)) {}
  const std::string config_ = "workers = [ {}, {} ]\n" + nic_table() + app_port("good") +
                              app_port("evil", "pages = 512") + udp_rule(kGood, "good") +
                              udp_rule(kEvil, "evil");

  std::unique_ptr<AppPeer> attach_raw(const std::string& port) {
    return attach_at(daemon().path(port + ".sock"));
  }
  // Every worker has gone over its lanes since this was called, when it returns: they are woken until they
  // have.
  void wake(AppPeer& peer) {
    for (AppPeer::Lane& lane : peer.lanes) {
      std::uint64_t one = 1;
      [[maybe_unused]] ssize_t written = ::write(lane.wake_daemon, &one, sizeof(one));
    }
  }
  void expect_counted(AppPeer& peer, const char* fault, std::uint64_t value) {
    eventually([&] {
      wake(peer);
      return port_counter("evil", fault) >= value;
    });
    EXPECT_EQ(port_counter("evil", fault), value) << fault;
  }
};

TEST_F(Malicious_System, EveryLieAboutPagesAndDescriptorsIsCountedByItsNameAndChangesNothing) {
  constexpr std::uint64_t kLies = 50;
  start(config_);
  Tap wire = wire_tap();
  Stream good = stream_to("good", kGood);
  auto evil = attach_raw("evil");
  ASSERT_EQ(evil->lanes.size(), 2u);
  send_counted("evil", kEvil, {.count = kLies, .cpu = 1});
  std::vector<std::uint32_t> pages;
  ASSERT_TRUE(eventually([&] {
    while (auto entry = evil->receive(1)) {
      pages.push_back(entry->page);
    }
    return pages.size() == kLies;
  }));
  for (std::uint32_t page : pages) {
    evil->give_back(page, 0);  // on a lane that it did not come by
    evil->give_back(page, 1);
    evil->give_back(page, 1);  // twice
    evil->give_back(page + evil->welcome.page_count, 1);
    evil->give_back(~page, 0);
  }
  expect_counted(*evil, "fault_return_foreign", kLies);
  expect_counted(*evil, "fault_return_double", kLies);
  expect_counted(*evil, "fault_return_forged", 2 * kLies);
  EXPECT_TRUE(eventually([&] { return daemon().port("evil")["pages_held"] == 0; }));

  const std::uint32_t slot_bytes = evil->welcome.tx_slot_bytes;
  for (std::uint64_t i = 0; i < kLies; ++i) {
    evil->send(evil->next_slot(), 13);
    evil->send(evil->next_slot(), slot_bytes + 1);
    evil->send(evil->next_slot() + slot_bytes - 59, 60);
    evil->send(evil->next_slot() + slot_bytes, 60);
    evil->send(0xffff'ffff, 60);
    evil->send(evil->next_slot(), 0xffff'ffff);
    evil->send(0xffff'fff0, 0x20);
  }
  expect_counted(*evil, "fault_tx_descriptor", 7 * kLies);
  EXPECT_EQ(port_counter("evil", "tx_packets"), 0u);

  // After all that it is still served.
  send_counted("evil", kEvil, {.count = kLies, .cpu = 1});
  std::uint64_t received = 0;
  ASSERT_TRUE(eventually([&] {
    while (auto entry = evil->receive(1)) {
      evil->give_back(entry->page, 1);
      ++received;
    }
    return received == kLies;
  }));
  ASSERT_TRUE(evil->send_frame(frame_from_nic(60, 1)));
  expect_counted(*evil, "tx_packets", 1);
  EXPECT_TRUE(eventually([&] { return wire.next() == frame_from_nic(60, 1); }));
  good.expect_nothing_lost();
  EXPECT_EQ(port_counter("good", "fault_return_double"), 0u);
}

TEST_F(Malicious_System, ImpossibleIndicesAreCountedAndTheLastGoodOnesStay) {
  start(config_);
  Stream good = stream_to("good", kGood);
  auto evil = attach_raw("evil");
  AppPeer::Lane& lane = evil->lanes[1];
  std::uint64_t faults = 0;
  auto expect_more_faults = [&](const char* which) {
    EXPECT_TRUE(eventually([&] {
      wake(*evil);
      return port_counter("evil", "fault_ring_index") > faults;
    })) << which;
    faults = port_counter("evil", "fault_ring_index");
  };
  write_once(lane.back_word->producer, evil->welcome.back_entries + 1);
  expect_more_faults("back producer");
  write_once(lane.back_word->producer, 0u);
  write_once(lane.tx_word->producer, 0x8000'0000u);
  expect_more_faults("tx producer");
  write_once(lane.tx_word->producer, 0u);
  // Its receive index runs ahead of what there is: the ring looks full, and its packets drop.
  write_once(lane.rx_word->consumer, 0x4000'0000u);
  send_counted("evil", kEvil, {.count = 1'000, .cpu = 1});
  expect_more_faults("rx consumer");
  write_once(lane.rx_word->consumer, 0u);
  good.expect_nothing_lost();
  EXPECT_EQ(port_counter("good", "fault_ring_index"), 0u);
}

// A program that writes random values into everything that it may write, all the time.
class Vandal {
 public:
  Vandal(AppPeer& peer, std::uint32_t seed) : thread_([this, &peer, seed] { run(peer, seed); }) {}
  ~Vandal() {
    stop_ = true;
    thread_.join();
  }
  std::uint64_t writes() const { return writes_; }

 private:
  void run(AppPeer& peer, std::uint32_t seed) {
    std::mt19937 random(seed);
    auto word = [&](std::byte* base, std::size_t bytes) -> std::uint32_t& {
      return *reinterpret_cast<std::uint32_t*>(base + random() % (bytes / 4) * 4);
    };
    // Mostly near what is there, else everything would be refused at the first look.
    auto value = [&]() -> std::uint32_t {
      switch (random() % 4) {
        case 0:
          return static_cast<std::uint32_t>(random());
        case 1:
          return static_cast<std::uint32_t>(random() % 2048);
        case 2:
          return static_cast<std::uint32_t>(random() % 64) * peer.welcome.tx_slot_bytes;
        default:
          return 0u - static_cast<std::uint32_t>(random() % 64);
      }
    };
    while (!stop_) {
      for (int i = 0; i < 64; ++i) {
        write_once(word(peer.app_segment(), peer.welcome.app_segment_bytes), value());
        write_once(word(peer.tx_arena(), peer.welcome.tx_arena_bytes), value());
        AppPeer::Lane& lane = peer.lanes[random() % peer.lanes.size()];
        std::uint32_t* indices[] = {&lane.rx_word->consumer, &lane.rx_word->need_wakeup,
                                    &lane.back_word->producer, &lane.tx_word->producer};
        write_once(*indices[random() % 4], value());
        lane.tx_entries[random() % peer.welcome.tx_entries] = {.offset = value(), .length = value()};
        lane.back_entries[random() % peer.welcome.back_entries] = value();
      }
      std::uint64_t one = 1;
      [[maybe_unused]] ssize_t written =
          ::write(peer.lanes[random() % peer.lanes.size()].wake_daemon, &one, sizeof(one));
      writes_ += 64;
    }
  }

  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> writes_{0};
  std::thread thread_;
};

TEST_F(Malicious_System, GarbageInEveryWordThatAProgramMayWriteHarmsNobody) {
  constexpr std::uint64_t kWrites = 20'000;
  start(config_);
  Stream good = stream_to("good", kGood);
  auto to_evil = flow(kEvil, {.cpu = 1, .packets_per_second = 20'000});
  to_evil->start();
  for (std::uint32_t seed = 1; seed <= 4; ++seed) {
    auto evil = attach_raw("evil");
    {
      Vandal vandal(*evil, seed);
      ASSERT_TRUE(eventually([&] { return vandal.writes() >= kWrites; }));
    }
    evil.reset();
    ASSERT_TRUE(eventually([&] { return daemon().port("evil")["state"] == "detached"; })) << daemon().log();
  }
  for (const char* fault : {"fault_ring_index", "fault_return_forged", "fault_tx_descriptor"}) {
    EXPECT_GT(port_counter("evil", fault), 0u) << fault;
  }
  good.expect_nothing_lost();
  ASSERT_TRUE(to_evil->stop());
  constexpr std::uint64_t kAfter = 1'000;
  auto honest = attach("evil", kEvil, kAfter);
  auto to_honest = flow(kEvil, {.count = kAfter, .allowed = honest->allowed(1), .cpu = 1});
  to_honest->start();
  honest->expect_all_once();
  for (const char* fault :
       {"fault_ring_index", "fault_return_forged", "fault_return_double", "fault_tx_descriptor"}) {
    EXPECT_EQ(port_counter("good", fault), 0u) << fault;
  }
}

// The wire says anything; what the kernel lets onto it arrives as it is.
class Malicious_Wire : public Malicious_System {
 protected:
  Malicious_Wire() : Malicious_System({.queues = 1}) {}  // so that frames stay in order
  std::mt19937 random_{11};

  Frame random_frame(std::size_t bytes) {
    Frame frame(bytes);
    for (std::byte& each : frame) {
      each = static_cast<std::byte>(random_());
    }
    // Half of them look like something for a while: an Ethernet type that the parser knows.
    static constexpr std::uint16_t kTypes[] = {0x0800, 0x86dd, 0x8100, 0x88a8, 0x0806};
    if (bytes >= 16 && random_() % 2 == 0) {
      std::uint16_t type = kTypes[random_() % std::size(kTypes)];
      frame[12] = static_cast<std::byte>(type >> 8);
      frame[13] = static_cast<std::byte>(type & 0xff);
      frame[14] = static_cast<std::byte>(random_() % 2 == 0 ? 0x45 : 0x60);
    }
    return frame;
  }
  Frame damaged_frame(std::size_t bytes) {
    Frame frame = frame_to(0x5555, std::max<std::size_t>(bytes, 46));
    for (std::uint32_t i = random_() % 4; i > 0; --i) {
      frame[12 + random_() % 34] ^= static_cast<std::byte>(1u << random_() % 8);
    }
    frame.resize(std::max<std::size_t>(bytes, 14));
    return frame;
  }
};

TEST_F(Malicious_Wire, FramesOfAnyLengthAndAnyBytesArriveUnchangedAndCrashNothing) {
  constexpr int kFrames = 6'000;
  // With `trust`, for others are not brought what bridges keep to themselves: MAC control is among the random
  // bytes.
  start(nic_table() + app_port("all", "trust = true") + rule("", "all"));
  auto all = attach_raw("all");
  Tap wire = wire_tap();
  std::deque<Frame> under_way;
  auto receive = [&] {
    while (auto entry = all->receive()) {
      Frame got(all->frame(*entry).begin(), all->frame(*entry).end());
      all->give_back(entry->page);
      if (under_way.empty() || got != under_way.front()) {
        ADD_FAILURE() << "a frame of " << got.size() << " bytes that was not sent so";
        return;
      }
      under_way.pop_front();
    }
  };
  int sent = 0, too_long = 0;
  for (int i = 0; i < kFrames && !HasFailure(); ++i) {
    std::size_t bytes = i % 20 == 0 ? random_() % 65'536 : random_() % 1'515;
    Frame frame = random_() % 2 == 0 ? random_frame(bytes) : damaged_frame(bytes);
    int error = 0;
    if (!wire.send(frame, error)) {
      ASSERT_TRUE(error == EMSGSIZE || error == EINVAL) << "errno " << error;
      ++too_long;
      continue;
    }
    ++sent;
    under_way.push_back(std::move(frame));
    ASSERT_TRUE(eventually([&] {
      receive();
      return under_way.size() < kWindow;
    })) << "a frame of "
        << under_way.front().size() << " bytes was lost";
  }
  eventually([&] {
    receive();
    return under_way.empty();
  });
  EXPECT_EQ(under_way.size(), 0u);
  EXPECT_GT(sent, kFrames / 2);
  EXPECT_GT(too_long, 0);
  expect_port_counter("all", "rx_packets", static_cast<std::uint64_t>(sent));
}

TEST_F(Malicious_Wire, RandomBytesBesideAProgramsFlowDisturbNeitherItNorTheKernel) {
  constexpr std::uint64_t kRandomFrames = 10'000;
  start(config_ + rule("eth_type ipv6 ip_proto tcp dst_port 1-1000", "evil") + rule("vlan_id 7", "evil") +
        rule("src_ip 10.0.0.0/8 ip_proto udp dst_port 16000-30000", "evil", "priority = -1"));
  Stream good = stream_to("good", kGood);
  auto evil = attach("evil", kEvil, 0);
  Tap wire = wire_tap();
  std::uint64_t random_frames = 0;
  auto verdicts = [&] {
    nlohmann::json counters = daemon().show("nics")[0]["counters"];
    return counters.at("xdp_pass").get<std::uint64_t>() + counters.at("xdp_drop").get<std::uint64_t>() +
           counters.at("xdp_redirect_socket").get<std::uint64_t>();
  };
  while (random_frames < kRandomFrames) {
    std::size_t bytes = 14 + random_() % 1'501;
    int error = 0;
    random_frames +=
        wire.send(random_() % 2 == 0 ? random_frame(bytes) : damaged_frame(bytes), error) ? 1 : 0;
    if (random_frames % 32 == 0) {  // they share the veth with the flow
      ASSERT_TRUE(eventually([&] { return verdicts() >= random_frames; }));
    }
  }
  good.expect_nothing_lost();
  EXPECT_TRUE(ping(wire_ns(), "10.77.0.1").lossless());
}

}  // namespace
}  // namespace sluice::test
