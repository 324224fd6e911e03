#include <sys/stat.h>
#include <sys/wait.h>

#include "port/guest/vhost_user/vhost_fixture.h"
#include "port/guest/virtio/guest_memory.h"

namespace sluice::test {
namespace {

class GuestPortTest : public VhostTest {
 protected:
  // Rings run when the back-end has answered what comes after them.
  void bring_up(FrontEnd& front, GoodGuest& guest) {
    guest.bring_up(front);
    ASSERT_TRUE(front.barrier());
    ASSERT_TRUE(port->vhost().running);
  }
};
class Crash_GuestPort : public GuestPortTest {};
class Malicious_GuestPort : public GuestPortTest {};

std::span<const std::byte> bytes(const auto& value) {
  return std::as_bytes(std::span(&value, 1));
}

TEST_F(GuestPortTest, CarriesFramesOfAFrontEndThatSpeaksAsQemuDoes) {
  start();
  GoodGuest guest;
  note_resources();
  FrontEnd front = connect();
  EXPECT_FALSE(host.attached[raw(kVictim)]);
  EXPECT_EQ(front.ask(VHOST_USER_GET_FEATURES), offered_features(2));
  EXPECT_EQ(front.ask(VHOST_USER_GET_PROTOCOL_FEATURES), offered_protocol_features());
  EXPECT_EQ(front.ask(VHOST_USER_GET_QUEUE_NUM), 2u);
  EXPECT_EQ(front.ask(VHOST_USER_GET_MAX_MEM_SLOTS), kMaxGuestRegions);
  bring_up(front, guest);
  EXPECT_TRUE(host.attached[raw(kVictim)]);
  EXPECT_TRUE(carries(guest, 1000));
  VhostInfo info = port->vhost();
  EXPECT_EQ(info.pid, ::getpid());
  EXPECT_EQ(info.uid, ::geteuid());
  EXPECT_EQ(info.feature_names, (std::vector<std::string>{"PROTOCOL_FEATURES", "VERSION_1"}));
  ASSERT_EQ(info.regions.size(), 1u);
  EXPECT_EQ(info.regions[0].bytes, guest.ram.bytes());
  EXPECT_FALSE(info.regions[0].huge_pages);
  ASSERT_EQ(info.rings.size(), 2u);
  EXPECT_TRUE(info.rings[0].running && info.rings[0].enabled && !info.rings[0].broken);
  EXPECT_EQ(info.rings[1].entries, GoodGuest::kEntries);
  front.close();
  ASSERT_TRUE(turn_until([&] { return !port->vhost().connected; }));
  EXPECT_FALSE(host.attached[raw(kVictim)]);
  expect_unharmed();
}

TEST_F(GuestPortTest, CarriesFramesOfAFrontEndThatSpeaksAsDpdkDoes) {
  start();
  FrontEnd front = connect();
  GoodGuest guest;
  const std::uint64_t protocol = kGuestProtocol | 1ull << VHOST_USER_PROTOCOL_F_STATUS;
  const GuestRam* rams[] = {&guest.ram};
  // Calls before features; DRIVER_OK last, and only then do rings run.
  (void)front.ask(VHOST_USER_GET_FEATURES);
  (void)front.ask(VHOST_USER_GET_PROTOCOL_FEATURES);
  front.send(VHOST_USER_SET_PROTOCOL_FEATURES, protocol);
  EXPECT_EQ(front.tell(VHOST_USER_SET_STATUS, std::uint64_t{0}), 0u);
  EXPECT_EQ(front.tell(VHOST_USER_SET_STATUS, std::uint64_t{3}), 0u);
  for (std::uint64_t ring : {std::uint64_t{0}, std::uint64_t{1}}) {
    int call = guest.call[ring].get();
    front.send(VHOST_USER_SET_VRING_CALL, ring, std::span(&call, 1));
  }
  front.send(VHOST_USER_SET_FEATURES, kGuestFeatures);
  EXPECT_EQ(front.tell(VHOST_USER_SET_STATUS, std::uint64_t{11}), 0u);
  EXPECT_EQ(front.ask(VHOST_USER_GET_STATUS), 11u);
  front.send_table(rams);
  guest.set_up_rings(front);
  EXPECT_TRUE(front.barrier());
  EXPECT_FALSE(port->vhost().running);
  EXPECT_EQ(front.tell(VHOST_USER_SET_STATUS, std::uint64_t{15}), 0u);
  EXPECT_TRUE(port->vhost().running);
  EXPECT_TRUE(carries(guest));
}

TEST_F(GuestPortTest, StopsARingBeforeItSaysWhereItStandsAndGoesOnFromThere) {
  start();
  FrontEnd front = connect();
  GoodGuest guest;
  bring_up(front, guest);
  ASSERT_TRUE(carries(guest, 77));
  front.enable(0, false);
  front.enable(1, false);
  auto receive = front.stop_ring(0);
  auto transmit = front.stop_ring(1);
  ASSERT_TRUE(receive && transmit);
  EXPECT_EQ(receive->value, 77u);
  EXPECT_EQ(transmit->value, 77u);
  EXPECT_FALSE(port->vhost().running);
  EXPECT_FALSE(host.attached[raw(kVictim)]);
  guest.send(numbered_frame(0));
  for (int i = 0; i < 50; ++i) {
    turn(0);
  }
  EXPECT_EQ(guest.used_index(guest.tx), 77u) << "D7: a stopped ring is not touched";
  guest.set_up_rings(front);
  EXPECT_TRUE(front.barrier());
  ASSERT_TRUE(turn_until([&] { return guest.receive().has_value(); }));
  EXPECT_TRUE(carries(guest));
}

TEST_F(GuestPortTest, GoesOnWhereTheUsedRingStandsWhenTheFrontEndComesAgainAndSaysZero) {
  start();
  GoodGuest guest;
  for (int life = 0; life < 3; ++life) {
    FrontEnd front = connect();
    bring_up(front, guest);  // each time with base 0, the rings as they were left
    EXPECT_TRUE(carries(guest, 50));
    front.close();
    ASSERT_TRUE(turn_until([&] { return !port->vhost().connected; }));
  }
  EXPECT_EQ(guest.used_index(guest.tx), 150u);
}

TEST_F(GuestPortTest, AnswersForRingsThatWereNeverSetUpAsDpdkAsksAfterAReconnect) {
  start();
  FrontEnd front = connect();
  for (std::uint32_t ring : {0u, 1u}) {
    front.enable(ring, false);
    auto base = front.stop_ring(ring);
    ASSERT_TRUE(base);
    EXPECT_EQ(base->index, ring);
    EXPECT_EQ(base->value, 0u);
  }
  GoodGuest guest;
  bring_up(front, guest);
  EXPECT_TRUE(carries(guest));
}

TEST_F(GuestPortTest, PassesMemoryThatComesAndGoesToRunningRingsAndLosesNothing) {
  start();
  FrontEnd front = connect();
  GoodGuest guest;
  bring_up(front, guest);
  GuestRam more(1 << 20, 0x10000000);
  const GuestRam* both[] = {&guest.ram, &more};
  const GuestRam* one[] = {&guest.ram};
  for (int i = 0; i < 50; ++i) {
    for (std::uint32_t n = 0; n < 10; ++n) {
      ASSERT_TRUE(guest.send(numbered_frame(n)));
    }
    ASSERT_TRUE(front.send_table(i % 2 == 0 ? both : std::span<const GuestRam* const>(one)));
    ASSERT_TRUE(front.barrier());
    for (std::uint32_t n = 0; n < 10; ++n) {
      std::optional<Frame> frame;
      ASSERT_TRUE(turn_until([&] { return (frame = guest.receive()).has_value(); }));
      EXPECT_EQ(*frame, numbered_frame(n));
    }
    EXPECT_EQ(port->vhost().regions.size(), i % 2 == 0 ? 2u : 1u);
  }
}

TEST_F(GuestPortTest, TakesMemoryRegionByRegionUpToItsLimit) {
  start();
  FrontEnd front = connect();
  GoodGuest guest;
  front.negotiate(kGuestFeatures, kGuestProtocol);
  auto add = [&](const GuestRam& ram) {
    int fd = ram.fd();
    return front.tell(VHOST_USER_ADD_MEM_REG, vhost_user_mem_reg{0, ram.region()}, std::span(&fd, 1));
  };
  EXPECT_EQ(add(guest.ram), 0u);
  guest.set_up_rings(front);
  EXPECT_TRUE(carries(guest));
  GuestRam small(4096 * 600, 0x20000000);
  vhost_user_region region = small.region();
  int fd = small.fd();
  std::size_t regions = 1;
  for (; regions <= kMaxGuestRegions; ++regions) {
    vhost_user_region page{region.guest_address + regions * 4096, 4096, region.user_address + regions * 4096,
                           regions * 4096};
    auto answer = front.tell(VHOST_USER_ADD_MEM_REG, vhost_user_mem_reg{0, page}, std::span(&fd, 1));
    ASSERT_TRUE(answer);
    if (*answer != 0) {
      break;
    }
  }
  EXPECT_EQ(regions, kMaxGuestRegions);
  EXPECT_EQ(port->vhost().regions.size(), kMaxGuestRegions);
  vhost_user_region page{region.guest_address + 4096, 4096, region.user_address + 4096, 4096};
  EXPECT_EQ(front.tell(VHOST_USER_REM_MEM_REG, vhost_user_mem_reg{0, page}), 0u);
  EXPECT_EQ(port->vhost().regions.size(), kMaxGuestRegions - 1);
  EXPECT_TRUE(carries(guest));
}

TEST_F(GuestPortTest, ServesSeveralPairsAndOnlyThoseThatAreEnabled) {
  start();
  FrontEnd front = connect();
  GoodGuest first, second(0x40000000);
  front.negotiate(kGuestFeatures, kGuestProtocol);
  const GuestRam* rams[] = {&first.ram, &second.ram};
  front.send_table(rams);
  first.set_up_rings(front, 0);
  second.set_up_rings(front, 1);
  for (std::uint32_t ring : {0u, 1u}) {
    front.enable(ring, false);
  }
  EXPECT_TRUE(front.barrier());
  ASSERT_EQ(port->vhost().rings.size(), 4u);
  EXPECT_TRUE(carries(second)) << "the only pair that is enabled";
}

TEST_F(GuestPortTest, AResetByStatusOrMessageStopsEverythingUntilItIsSetUpAgain) {
  start();
  FrontEnd front = connect();
  GoodGuest guest;
  bring_up(front, guest);
  ASSERT_TRUE(carries(guest));
  for (bool by_status : {true, false}) {
    if (by_status) {
      EXPECT_EQ(front.tell(VHOST_USER_SET_STATUS, std::uint64_t{0}), 0u);
    } else {
      front.send(VHOST_USER_RESET_DEVICE, std::span<const std::byte>());
      EXPECT_TRUE(front.barrier());
    }
    EXPECT_FALSE(port->vhost().running);
    EXPECT_FALSE(host.attached[raw(kVictim)]);
    guest.set_up_rings(front);
    EXPECT_TRUE(front.barrier());
    EXPECT_TRUE(carries(guest));
  }
}

TEST_F(GuestPortTest, ConnectsToAFrontEndThatListensAndAgainWhenItGoes) {
  options.role = GuestPortOptions::Role::kClient;
  options.retry_ns = 5'000'000;
  start();
  GoodGuest guest;
  for (int life = 0; life < 3; ++life) {
    EXPECT_TRUE(turn_until([&] { return !port->vhost().connected; }));
    FrontEnd front = FrontEnd::accept_at(options.socket, turns());
    ASSERT_TRUE(front.connected());
    bring_up(front, guest);
    EXPECT_TRUE(carries(guest));
  }
  EXPECT_EQ(counter("connects"), 3u);
}

TEST_F(GuestPortTest, LetsInOnlyWhomItIsToldTo) {
  options.policy.uids = {::geteuid() + 4711};
  start();
  FrontEnd front = connect();
  EXPECT_TRUE(front.wait_closed());
  EXPECT_EQ(counter("denied"), 1u);
  EXPECT_EQ(counter("connects"), 0u);
}

TEST_F(GuestPortTest, EverybodyMayConnectAndThePathGoesWithThePort) {
  start();
  struct stat status;
  ASSERT_EQ(::stat(options.socket.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0666u);
  FrontEnd front = connect();
  GoodGuest guest;
  bring_up(front, guest);
  port.reset();
  EXPECT_NE(::stat(options.socket.c_str(), &status), 0);
  EXPECT_FALSE(host.lanes.contains(raw(kVictim)));
  EXPECT_TRUE(front.wait_closed());
}

TEST_F(GuestPortTest, OptionsThatDoNotFitAreRefusedInASentence) {
  auto error_of = [&](auto change) {
    GuestPortOptions bad = options;
    change(bad);
    auto made = GuestPort::create(bad, *loop, host.services(), doors);
    return made ? std::string() : made.error().message;
  };
  EXPECT_NE(error_of([](auto& o) { o.workers.clear(); }).find("no worker"), std::string::npos);
  EXPECT_NE(error_of([](auto& o) { o.macs.clear(); }).find("MAC"), std::string::npos);
  EXPECT_NE(error_of([](auto& o) { o.queue_pairs = 0; }).find("0 queue pairs"), std::string::npos);
  EXPECT_NE(error_of([](auto& o) { o.queue_pairs = 65; }).find("65 queue pairs"), std::string::npos);
  EXPECT_NE(error_of([](auto& o) { o.socket = std::string(200, 'x'); }).find("200 bytes"), std::string::npos);
  EXPECT_TRUE(host.lanes.empty());
}

TEST_F(Malicious_GuestPort, FrontEndsThatComeAndGoAreTakenInABurstAndThenAtARate) {
  options.front_end_interval_ns = GuestPortOptions{}.front_end_interval_ns;
  start();
  const std::uint64_t begin = now_ns();
  const auto most = [&] { return kFrontEndBurst + 1 + (now_ns() - begin) / options.front_end_interval_ns; };
  std::vector<FrontEnd> waiting;
  while (counter("connects_held") == 0) {
    waiting.push_back(connect());
    turn_until([&] { return true; });
    ASSERT_LE(counter("connects"), most());
  }
  EXPECT_GE(counter("connects"), kFrontEndBurst);
}

TEST_F(Malicious_GuestPort, AfterAGuestWasCutOffForItsStallsNobodyIsLetInForAWhile) {
  start();
  FrontEnd front = connect();
  ASSERT_TRUE(front.barrier());
  port->cut_off_stalled(3'600'000'000'000);
  ASSERT_TRUE(turn_until([&] { return !port->vhost().connected; }));
  const std::uint64_t connects = counter("connects");
  FrontEnd next = connect();
  for (int i = 0; i < 10; ++i) {
    loop->turn(5);
  }
  EXPECT_EQ(counter("connects"), connects);
  EXPECT_EQ(counter("fault_stalled"), 1u);
}

TEST_F(Crash_GuestPort, APortThatIsRemovedWhileAFrontEndWaitsBehindAnotherLeavesNothingInTheLoop) {
  start();
  FrontEnd front = connect();
  ASSERT_TRUE(front.barrier());
  FrontEnd waiting = connect();
  loop->turn(5);
  port.reset();
  auto again = GuestPort::create(options, *loop, host.services(), doors);
  ASSERT_TRUE(again) << again.error().message;
  port = std::move(*again);
  FrontEnd next = connect();
  EXPECT_TRUE(next.barrier());
}

TEST_F(Crash_GuestPort, AFrontEndThatDiesAfterAnyOfItsMessagesTakesNothingWithIt) {
  start();
  GoodGuest guest;
  note_resources();
  std::uint64_t messages = 0;
  // Each life goes one message further than the one before.
  for (std::uint64_t last = 0;; ++last) {
    const std::uint64_t before = counter("messages");
    FrontEnd front = connect();
    std::uint64_t left = last;
    auto say = [&](std::uint32_t request, const auto& payload, std::span<const int> fds = {}) {
      if (left > 0) {
        --left;
        front.send(request, bytes(payload), fds);
      }
    };
    const std::uint64_t features = kGuestFeatures, protocol = kGuestProtocol;
    say(VHOST_USER_SET_PROTOCOL_FEATURES, protocol);
    say(VHOST_USER_SET_FEATURES, features);
    int fd = guest.ram.fd();
    say(VHOST_USER_ADD_MEM_REG, vhost_user_mem_reg{0, guest.ram.region()}, std::span(&fd, 1));
    for (std::uint32_t ring : {0u, 1u}) {
      const std::uint64_t word = ring;
      int kick = guest.kick[ring].get(), call = guest.call[ring].get();
      say(VHOST_USER_SET_VRING_NUM, vhost_user_vring_state{ring, GoodGuest::kEntries});
      say(VHOST_USER_SET_VRING_BASE, vhost_user_vring_state{ring, 0});
      say(VHOST_USER_SET_VRING_ADDR, place_of(ring, ring == 0 ? guest.rx.areas : guest.tx.areas));
      say(VHOST_USER_SET_VRING_KICK, word, std::span(&kick, 1));
      say(VHOST_USER_SET_VRING_CALL, word, std::span(&call, 1));
      say(VHOST_USER_SET_VRING_ENABLE, vhost_user_vring_state{ring, 1});
    }
    guest.send(numbered_frame(0));
    ASSERT_TRUE(turn_until([&] { return counter("messages") - before == last - left; }));
    front.close();
    ASSERT_TRUE(turn_until([&] { return !port->vhost().connected; }));
    messages = last - left;
    if (left > 0) {
      break;
    }
  }
  EXPECT_EQ(messages, 15u);
  expect_unharmed();
}

TEST_F(Crash_GuestPort, AFrontEndThatIsKilledInFullTrafficIsForgottenAndItsSuccessorServed) {
  start();
  for (std::uint64_t life = 1; life <= 5; ++life) {
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      FrontEnd front = FrontEnd::connect(options.socket);
      GoodGuest guest;
      guest.bring_up(front);
      (void)front.barrier();
      for (std::uint32_t i = 0;; ++i) {
        guest.send(numbered_frame(i));
        (void)guest.receive();
      }
    }
    ASSERT_TRUE(turn_until([&] { return port->vhost().running && counter("tx_packets") > 1000 * life; }));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ASSERT_TRUE(turn_until([&] { return !port->vhost().connected; }));
  }
  expect_unharmed();
}

TEST_F(Crash_GuestPort, AFrontEndThatIsKilledAndStartedAgainIsNotTakenForASecondOne) {
  start();
  FrontEnd first = connect();
  GoodGuest guest;
  bring_up(first, guest);
  // The new one is there before the loop has seen the end of the old one.
  first.close();
  FrontEnd second = FrontEnd::connect(options.socket, turns());
  guest.bring_up(second);
  EXPECT_TRUE(second.barrier());
  EXPECT_TRUE(carries(guest));
  EXPECT_EQ(counter("refused"), 0u);
}

}  // namespace
}  // namespace sluice::test
