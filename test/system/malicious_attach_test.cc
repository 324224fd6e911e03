// What a program may not do to others by how it attaches, on the real daemon.
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "port/app/app_port.h"
#include "test/system/fixture.h"
#include "test/system/raw_app.h"

namespace sluice::test {
namespace {

constexpr std::uint16_t kGood = 5000, kEvil = 5001;

class Malicious_Attach : public SystemTest {
 protected:
  const std::string config_ =
      nic_table() + app_port("good") + app_port("evil") + udp_rule(kGood, "good") + udp_rule(kEvil, "evil");

  // A hello and its welcome; the daemon is not told that the memory is mapped.
  std::pair<UniqueFd, Answer> welcomed(const std::string& port) {
    return welcome_at(daemon().path(port + ".sock"));
  }
  static bool hung_up(int socket) {
    return eventually([&] {
      pollfd poll{.fd = socket, .events = POLLRDHUP, .revents = 0};
      return ::poll(&poll, 1, 0) > 0;
    });
  }
};

// Who reads a page inside a hole that is being punched waits for the end of the punch: a worker would.
TEST_F(Malicious_Attach, AProgramThatIsServedCannotPunchHolesIntoWhatAWorkerReads) {
  start(config_);
  Stream good = stream_to("good", kGood);
  auto [socket, answer] = welcomed("evil");
  const std::size_t app_bytes = answer.welcome.app_segment_bytes, tx_bytes = answer.welcome.tx_arena_bytes;
  AppPeer evil(std::move(socket), std::move(answer));
  ASSERT_TRUE(eventually([&] { return evil.take_served(); }));
  for (auto [fd, bytes] : {std::pair(evil.fd(2), app_bytes), std::pair(evil.fd(3), tx_bytes)}) {
    const auto length = static_cast<off_t>(bytes);
    EXPECT_NE(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, length), 0);
    EXPECT_NE(::ftruncate(fd, 0), 0);
    EXPECT_LT(::pwrite(fd, "x", 1, 0), 0);
    EXPECT_EQ(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
  }
  EXPECT_NE(::madvise(evil.tx_arena(), tx_bytes, MADV_REMOVE), 0);
  EXPECT_NE(::madvise(evil.app_segment(), app_bytes, MADV_REMOVE), 0);
  Tap wire = wire_tap();
  const Frame frame = frame_from_nic(60, 1);
  ASSERT_TRUE(evil.send_frame(frame));
  std::uint64_t one = 1;
  ASSERT_EQ(::write(evil.lanes[0].wake_daemon, &one, sizeof(one)), 8);
  EXPECT_TRUE(eventually([&] { return wire.next() == frame; })) << "what it has mapped works";
  good.expect_nothing_lost();
}

TEST_F(Malicious_Attach, AProgramThatNeverMapsItsMemoryIsNotServedAndLetGo) {
  start(config_);
  Stream good = stream_to("good", kGood);
  auto [socket, answer] = welcomed("evil");
  EXPECT_EQ(daemon().port("evil")["state"], "detached");
  EXPECT_TRUE(hung_up(socket.get()));
  expect_port_counter("evil", "hello_timeouts", 1);
  EXPECT_EQ(port_counter("evil", "attaches"), 0u);
  auto honest = attach("evil", kEvil, 0);
  EXPECT_EQ(daemon().port("evil")["state"], "attached");
  good.expect_nothing_lost();
}

// A session is an arena made and given back: once as fast as a program could attach and go.
TEST_F(Malicious_Attach, AStormOfAttachesIsHeldAndCostsNobodyElseAnything) {
  start(nic_table() + app_port("good") + app_port("evil", "pages = 65536") + udp_rule(kGood, "good") +
        udp_rule(kEvil, "evil"));
  Stream good = stream_to("good", kGood);
  constexpr std::uint64_t kStorm = 8;
  const std::uint64_t begin = now_ns();
  for (std::uint64_t i = 0; i < kStorm; ++i) {
    auto [socket, answer] = welcomed("evil");
    AppPeer evil(std::move(socket), std::move(answer));
    ASSERT_TRUE(eventually([&] { return evil.take_served(); }));
    EXPECT_TRUE(daemon().call("version")) << "control answers";
  }
  ASSERT_TRUE(eventually([&] { return daemon().port("evil")["state"] == "detached"; }));
  EXPECT_EQ(port_counter("evil", "attaches"), kStorm);
  EXPECT_EQ(port_counter("evil", "refused"), 0u) << "who comes too early waits";
  const std::uint64_t seconds = (now_ns() - begin) / 1'000'000'000;  // in each, one more may come
  EXPECT_GE(port_counter("evil", "attaches_held") + kAttachBurst + seconds, kStorm);
  good.expect_nothing_lost();
}

TEST_F(Malicious_Attach, WhoKeepsTheMemoryOfItsSessionsPinsNoMoreThanOneBesides) {
  start(config_);
  std::vector<std::unique_ptr<AppPeer>> kept;
  for (int session = 0; session < 2; ++session) {
    auto [socket, answer] = welcomed("evil");
    kept.push_back(std::make_unique<AppPeer>(std::move(socket), std::move(answer)));
    ASSERT_TRUE(eventually([&] { return kept.back()->take_served(); }));
    kept.back()->close_socket();
    ASSERT_TRUE(eventually([&] { return daemon().port("evil")["state"] == "detached"; }));
  }
  UniqueFd socket = connect_to(daemon().path("evil.sock"));
  sluice_app_hello hello = good_hello("raw");
  ASSERT_TRUE(send_raw(socket.get(), &hello, sizeof(hello)));
  pollfd poll{.fd = socket.get(), .events = POLLIN, .revents = 0};
  ::poll(&poll, 1, 20'000);
  auto answer = read_answer(socket.get());
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->welcome.status, SLUICE_APP_FAILED);
  EXPECT_NE(std::string(answer->welcome.message).find("keep the memory of 2 sessions"), std::string::npos)
      << answer->welcome.message;
  kept.clear();
  EXPECT_TRUE(attach("evil", kEvil, 0));
}

TEST_F(Malicious_Attach, AStormOfAnyKindWritesABoundedNumberOfLines) {
  start(config_);
  constexpr std::uint64_t kStorm = 300;
  const sluice_app_hello hello = good_hello("raw");
  for (std::uint64_t i = 0; i < kStorm; ++i) {
    UniqueFd socket = connect_to(daemon().path("evil.sock"));
    ASSERT_TRUE(socket);
    ASSERT_TRUE(send_raw(socket.get(), &hello, i % 2 == 0 ? sizeof(hello) : 5));
  }
  expect_port_counter("evil", "refused", kStorm / 2);
  const std::string log = daemon().log();
  EXPECT_LE(std::ranges::count(log, '\n'), 120);
}

}  // namespace
}  // namespace sluice::test
