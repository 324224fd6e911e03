// What a front-end can say about its rings, a test per attack. See hostile_message_test.cc for what is
// expected after each.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "port/guest/vhost_user/vhost_fixture.h"
#include "port/guest/virtio/guest_memory.h"

namespace sluice::test {
namespace {

class Malicious_Vring : public VhostTest {
 protected:
  // A front-end with memory and features, its rings not set up.
  FrontEnd prepared(GoodGuest& guest, std::uint64_t features = kGuestFeatures) {
    FrontEnd front = connect();
    front.negotiate(features, kGuestProtocol);
    const GuestRam* rams[] = {&guest.ram};
    front.send_table(rams);
    EXPECT_TRUE(front.barrier());
    return front;
  }
  std::optional<std::uint64_t> place(FrontEnd& front, std::uint32_t ring, const RingAreas& areas) {
    return front.tell(VHOST_USER_SET_VRING_ADDR, place_of(ring, areas));
  }
  // Kick without a descriptor: the last thing that a ring needs.
  std::optional<std::uint64_t> go(FrontEnd& front, std::uint32_t ring) {
    return front.tell(VHOST_USER_SET_VRING_KICK, std::uint64_t{ring | VHOST_USER_VRING_NO_FD});
  }
  bool runs(std::uint32_t ring) {
    for (const auto& shown : port->vhost().rings) {
      if (shown.index == ring) {
        return shown.running;
      }
    }
    return false;
  }
};

TEST_F(Malicious_Vring, V1_RingsThatThereAreNot) {
  start();
  {
    FrontEnd front = connect();
    for (std::uint32_t ring : {4u, 0xffu, 0x100u, 0x10000u, 0xffffffffu}) {
      for (std::uint32_t request :
           {VHOST_USER_SET_VRING_NUM, VHOST_USER_SET_VRING_BASE, VHOST_USER_SET_VRING_ENABLE}) {
        EXPECT_EQ(front.tell(request, vhost_user_vring_state{ring, 1}), 1u);
      }
      EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_ADDR, vhost_user_vring_addr{.index = ring}), 1u);
    }
    UniqueFd event(::eventfd(0, EFD_CLOEXEC));
    int fd = event.get();
    for (std::uint32_t request :
         {VHOST_USER_SET_VRING_KICK, VHOST_USER_SET_VRING_CALL, VHOST_USER_SET_VRING_ERR}) {
      EXPECT_EQ(front.tell(request, std::uint64_t{200}, std::span(&fd, 1)), 1u);
    }
    EXPECT_EQ(counter("fault_message_index"), 23u);
  }
  expect_unharmed();
}

TEST_F(Malicious_Vring, V2_SizesThatNoRingHas) {
  start();
  {
    GoodGuest guest;
    FrontEnd front = prepared(guest);
    for (std::uint32_t entries : {0u, 3u, 255u, 32769u, 65536u, 0x80000000u, 0xffffffffu}) {
      EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_NUM, vhost_user_vring_state{0, entries}), 1u) << entries;
    }
    EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_NUM, vhost_user_vring_state{0, 32768}), 0u);
    EXPECT_EQ(front.tell(VHOST_USER_SET_FEATURES, kGuestFeatures | kFeatureRingPacked), 0u);
    EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_NUM, vhost_user_vring_state{0, 255}), 0u)
        << "packed may be any";
    EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_NUM, vhost_user_vring_state{0, 32769}), 1u);
    // Back to split with the size of a packed ring.
    EXPECT_EQ(front.tell(VHOST_USER_SET_FEATURES, kGuestFeatures), 0u);
    EXPECT_EQ(place(front, 0, guest.rx.areas), 0u);
    EXPECT_EQ(go(front, 0), 1u);
    EXPECT_FALSE(runs(0));
  }
  expect_unharmed();
}

TEST_F(Malicious_Vring, V3_ChangesOfARingThatRuns) {
  start();
  {
    GoodGuest guest;
    FrontEnd front = connect();
    guest.bring_up(front);
    EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_NUM, vhost_user_vring_state{0, 128}), 1u);
    EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_BASE, vhost_user_vring_state{0, 7}), 1u);
    EXPECT_EQ(place(front, 0, guest.tx.areas), 1u);
    EXPECT_EQ(counter("fault_message_running"), 3u);
    EXPECT_TRUE(carries(guest)) << "it goes on as it was";
  }
  expect_unharmed();
}

TEST_F(Malicious_Vring, V4_APlaceBeforeThereIsMemory) {
  start();
  {
    GoodGuest guest;
    FrontEnd front = connect();
    front.negotiate(kGuestFeatures, kGuestProtocol);
    guest.set_up_rings(front);
    EXPECT_TRUE(front.barrier());
    EXPECT_FALSE(port->vhost().running);
    const GuestRam* rams[] = {&guest.ram};
    front.send_table(rams);
    EXPECT_TRUE(front.barrier());
    EXPECT_TRUE(carries(guest)) << "they run when it comes";
  }
  expect_unharmed();
}

TEST_F(Malicious_Vring, V5_AreasThatAreNotAligned) {
  start();
  {
    GoodGuest guest;
    FrontEnd front = prepared(guest);
    for (int area = 0; area < 3; ++area) {
      RingAreas askew = guest.rx.areas;
      (area == 0   ? askew.descriptors
       : area == 1 ? askew.driver_area
                   : askew.device_area) += area == 1 ? 1 : 2;
      EXPECT_EQ(place(front, 0, askew), 1u);
    }
  }
  expect_unharmed();
}

TEST_F(Malicious_Vring, V6_AreasThatEndBehindTheRegion) {
  start();
  {
    GoodGuest guest;
    FrontEnd front = prepared(guest);
    std::byte* end = guest.ram.data() + guest.ram.bytes();
    EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_NUM, vhost_user_vring_state{0, 64}), 0u);
    EXPECT_EQ(go(front, 0), 0u);
    const RingAreas good = guest.rx.areas;
    const RingAreas bad[] = {
        {end - 1024 + 16, good.driver_area, good.device_area},
        {good.descriptors, end - 130, good.device_area},
        {good.descriptors, good.driver_area, end - 512},
        {end, good.driver_area, good.device_area},
        {good.descriptors, good.driver_area, nullptr},
        {reinterpret_cast<std::byte*>(~std::uintptr_t{15}), good.driver_area, good.device_area},
    };
    for (const RingAreas& areas : bad) {
      EXPECT_EQ(place(front, 0, areas), 1u);
      EXPECT_FALSE(runs(0));
    }
    EXPECT_EQ(place(front, 0, {end - 1024, good.driver_area, good.device_area}), 0u) << "to the very end";
    EXPECT_TRUE(runs(0));
  }
  expect_unharmed();
}

TEST_F(Malicious_Vring, V7_TheEventIndexBehindTheRegion) {
  start();
  {
    GoodGuest guest;
    std::byte* end = guest.ram.data() + guest.ram.bytes();
    for (bool event_idx : {false, true}) {
      FrontEnd front = prepared(guest, kGuestFeatures | (event_idx ? kFeatureEventIdx : 0));
      EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_NUM, vhost_user_vring_state{0, 64}), 0u);
      EXPECT_EQ(go(front, 0), 0u);
      // 4 + 2 * 64 bytes fit, the two of used_event do not.
      EXPECT_EQ(place(front, 0, {guest.rx.areas.descriptors, end - 132, guest.rx.areas.device_area}),
                event_idx ? 1u : 0u);
      EXPECT_EQ(runs(0), !event_idx);
      front.close();
      ASSERT_TRUE(turn_until([&] { return !port->vhost().connected; }));
    }
  }
  expect_unharmed();
}

TEST_F(Malicious_Vring, V8_AreasOnTopOfEachOtherHurtTheirGuestAlone) {
  start();
  {
    GoodGuest guest;
    FrontEnd front = prepared(guest);
    std::byte* one = guest.ram.allocate(4096, 4096);
    for (std::uint32_t ring = 0; ring < 4; ++ring) {
      front.set_up_ring(ring, 64, {one, one, one}, 0, -1, -1);
      front.enable(ring, true);
    }
    EXPECT_TRUE(front.barrier());
    for (int i = 0; i < 1000; ++i) {
      one[i * 61 % 4096] = std::byte(i);
      host.work();
    }
    EXPECT_TRUE(front.barrier());
  }
  expect_unharmed();
}

TEST_F(Malicious_Vring, V9_PositionsThatNoRingHas) {
  start();
  {
    GoodGuest guest;
    FrontEnd front = prepared(guest);
    for (std::uint32_t base : {0x10000u, 0xffffffffu}) {
      EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_BASE, vhost_user_vring_state{0, base}), 1u);
    }
    EXPECT_EQ(front.tell(VHOST_USER_SET_FEATURES, kGuestFeatures | kFeatureRingPacked), 0u);
    EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_NUM, vhost_user_vring_state{0, 64}), 0u);
    for (std::uint32_t base : {64u, 0x8040u, 0x7fffu, 0xffffu, 0x80400000u}) {
      EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_BASE, vhost_user_vring_state{0, base}), 1u) << base;
    }
    EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_BASE, vhost_user_vring_state{0, 0x803f803f}), 0u);
    // A size that was right for the base, and then is not.
    EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_NUM, vhost_user_vring_state{0, 8}), 0u);
    EXPECT_EQ(place(front, 0, guest.rx.areas), 0u);
    EXPECT_EQ(go(front, 0), 1u);
    EXPECT_FALSE(runs(0));
  }
  expect_unharmed();
}

TEST_F(Malicious_Vring, V10_KicksAndCallsOfEveryKindStopNobody) {
  start();
  {
    int pipe_ends[2], pair[2];
    ASSERT_EQ(::pipe(pipe_ends), 0);
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    std::vector<UniqueFd> kinds;
    for (int fd : {pipe_ends[0], pipe_ends[1], pair[0], pair[1]}) {
      kinds.emplace_back(fd);
    }
    UniqueFd& full = kinds.emplace_back(::eventfd(0, EFD_CLOEXEC));  // blocking
    const std::uint64_t most = 0xfffffffffffffffe;
    ASSERT_EQ(::write(full.get(), &most, sizeof(most)), 8);
    kinds.emplace_back(::open("/dev/null", O_RDWR));
    kinds.emplace_back(::open("/dev/zero", O_RDWR));
    kinds.emplace_back(::open("/tmp", O_RDONLY | O_DIRECTORY));
    kinds.emplace_back(::memfd_create("regular", MFD_CLOEXEC));
    kinds.emplace_back(::epoll_create1(0));
    kinds.emplace_back(::open("/proc/self/exe", O_PATH));
    for (const UniqueFd& kind : kinds) {
      ASSERT_TRUE(kind);
      FrontEnd front = connect();
      GoodGuest guest;
      front.negotiate(kGuestFeatures, kGuestProtocol);
      const GuestRam* rams[] = {&guest.ram};
      front.send_table(rams);
      front.set_up_ring(0, GoodGuest::kEntries, guest.rx.areas, 0, kind.get(), kind.get());
      front.set_up_ring(1, GoodGuest::kEntries, guest.tx.areas, 0, kind.get(), kind.get());
      front.enable(0, true);
      front.enable(1, true);
      EXPECT_TRUE(front.barrier());
      EXPECT_TRUE(carries(guest)) << "with a kick and a call that are none";
    }
  }
  expect_unharmed();
}

TEST_F(Malicious_Vring, V11_KicksAndCallsThatChangeAllTheTime) {
  start();
  {
    GoodGuest guest;
    FrontEnd front = connect();
    guest.bring_up(front);
    ASSERT_TRUE(front.barrier());
    const std::size_t descriptors = open_descriptors();
    for (int i = 0; i < 10'000; ++i) {
      int fd = guest.kick[i % 2].get();
      const std::uint64_t ring = i % 2 == 0 ? 0 : 1;
      ASSERT_TRUE(front.send(i % 4 < 2 ? VHOST_USER_SET_VRING_KICK : VHOST_USER_SET_VRING_CALL, ring,
                             std::span(&fd, 1)));
    }
    ASSERT_TRUE(front.barrier());
    EXPECT_EQ(open_descriptors(), descriptors);
    EXPECT_TRUE(carries(guest));
  }
  expect_unharmed();
}

TEST_F(Malicious_Vring, V12_V13_LoggingIsNotOfferedAndChangesNothing) {
  start();
  {
    GoodGuest guest;
    FrontEnd front = prepared(guest);
    vhost_user_vring_addr logged = place_of(0, guest.rx.areas);
    logged.flags = 1;
    logged.log_address = ~std::uint64_t{0};
    EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_ADDR, logged), 1u);
    int fd = guest.ram.fd();
    for (std::uint64_t bytes : {std::uint64_t{0}, ~std::uint64_t{0}}) {
      const std::uint64_t log[] = {bytes, ~std::uint64_t{0}};
      FrontEnd other = std::exchange(front, FrontEnd(UniqueFd()));
      EXPECT_FALSE(other.ask_bytes(VHOST_USER_SET_LOG_BASE, std::as_bytes(std::span(log)), std::span(&fd, 1),
                                   VHOST_USER_VERSION | VHOST_USER_NEED_REPLY));
      front = prepared(guest);
    }
    EXPECT_EQ(front.ask_bytes(VHOST_USER_SET_LOG_FD, {}, std::span(&fd, 1),
                              VHOST_USER_VERSION | VHOST_USER_NEED_REPLY),
              1u);
  }
  expect_unharmed();
}

TEST_F(Malicious_Vring, V14_InflightBuffersAreNotOfferedAndChangeNothing) {
  start();
  {
    GoodGuest guest;
    FrontEnd front = prepared(guest);
    int fd = guest.ram.fd();
    std::vector<std::byte> payload(24, std::byte{0xff});
    EXPECT_EQ(front.ask_bytes(VHOST_USER_SET_INFLIGHT_FD, payload, std::span(&fd, 1),
                              VHOST_USER_VERSION | VHOST_USER_NEED_REPLY),
              1u);
    front.send(VHOST_USER_GET_INFLIGHT_FD, payload);
    EXPECT_TRUE(front.wait_closed());
  }
  expect_unharmed();
}

TEST_F(Malicious_Vring, V15_RingsThatGoOnAndOffWithFramesUnderWay) {
  start();
  {
    GoodGuest guest;
    FrontEnd front = connect();
    guest.bring_up(front);
    for (std::uint32_t i = 0; i < 3000; ++i) {
      guest.send(numbered_frame(i));
      front.enable(i % 2, i % 4 < 2);
      (void)guest.receive();
    }
    front.enable(0, true);
    front.enable(1, true);
    ASSERT_TRUE(front.barrier());
    while (guest.used_index(guest.tx) != guest.tx.avail || guest.receive()) {
      turn(0);
    }
    EXPECT_TRUE(carries(guest));
  }
  expect_unharmed();
}

}  // namespace
}  // namespace sluice::test
