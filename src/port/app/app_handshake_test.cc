#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <random>

#include "port/app/app_test_fixture.h"
#include "port/app/handshake.h"
#include "port/burst_of.h"
#include "test/vhost/thread_doors.h"

namespace sluice::test {
namespace {

// The same on a kernel that keeps descriptors off a socket, and on one that cannot: there a door reads what
// a program says.
enum class HelloBy : std::uint8_t { kDaemon, kDoor };
class HelloTest : public AppPortTest, public ::testing::WithParamInterface<HelloBy> {
 protected:
  HelloTest() {
    if (GetParam() == HelloBy::kDoor) {
      options.doors = &doors;
    }
  }
  ~HelloTest() override { port.reset(); }
  ThreadDoors doors;
};
class Handshake : public HelloTest {};
class Malicious_Handshake : public HelloTest {};

std::string name_of(const ::testing::TestParamInfo<HelloBy>& info) {
  return info.param == HelloBy::kDaemon ? "ReadByTheDaemon" : "ReadByADoor";
}
const auto kBoth = ::testing::Values(HelloBy::kDaemon, HelloBy::kDoor);
INSTANTIATE_TEST_SUITE_P(, Handshake, kBoth, name_of);
INSTANTIATE_TEST_SUITE_P(, Malicious_Handshake, kBoth, name_of);

std::size_t open_descriptors() {
  auto folder = std::filesystem::directory_iterator("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(folder), end(folder)));
}

TEST_P(Handshake, TellsTheAppItsLanesItsMemoryAndItsAddress) {
  options.workers = {WorkerId{0}, WorkerId{3}};
  options.worker_sends = {false, true};
  options.pages = 1001;
  start();
  auto peer = attach("resolver");
  ASSERT_TRUE(peer);
  const sluice_app_welcome& welcome = peer->welcome;
  EXPECT_EQ(welcome.magic, SLUICE_APP_MAGIC);
  EXPECT_EQ(welcome.version, SLUICE_APP_VERSION);
  EXPECT_EQ(welcome.lane_count, 2u);
  EXPECT_EQ(welcome.page_bytes, 2048u);
  EXPECT_GE(welcome.page_count, 1001u);
  EXPECT_EQ(welcome.page_limit, 1001u);
  EXPECT_EQ(welcome.rx_entries, 128u) << "the power of two at or below 1001 / 2 lanes / 2";
  EXPECT_GE(welcome.back_entries, welcome.page_count);
  EXPECT_EQ(welcome.tx_lanes_low, 2u);
  EXPECT_EQ(0, std::memcmp(welcome.source_mac, kMac.data(), 6));
  EXPECT_EQ(peer->fd_count(), 4u + 2 * 2u);
  EXPECT_EQ(host.lanes.size(), 2u);
  EXPECT_TRUE(host.attached);
  auto session = port->session();
  ASSERT_TRUE(session);
  EXPECT_EQ(session->pid, ::getpid());
  EXPECT_EQ(session->uid, ::geteuid());
  EXPECT_EQ(session->client, "resolver");
}

TEST_P(Handshake, ASecondAppIsToldWhoIsThere) {
  start();
  auto first = attach();
  sluice_app_hello hello = good_hello();
  auto answer = say(&hello, sizeof(hello));
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->welcome.status, SLUICE_APP_BUSY);
  EXPECT_NE(std::string(answer->welcome.message).find(std::to_string(::getpid())), std::string::npos);
  EXPECT_TRUE(answer->fds.empty());
  EXPECT_TRUE(port->session()) << "the first one stays";
}

TEST_P(Handshake, AUserWhoIsNotAllowedIsDenied) {
  options.policy.uids = {::geteuid() + 4711};
  start();
  sluice_app_hello hello = good_hello();
  auto answer = say(&hello, sizeof(hello));
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->welcome.status, SLUICE_APP_DENIED);
  EXPECT_TRUE(answer->fds.empty());
  EXPECT_EQ(counter("denied"), 1u);
  EXPECT_EQ(counter("attaches"), 0u);
  EXPECT_FALSE(port->session());
}

TEST_P(Handshake, AnotherVersionIsToldOursWhateverItsLength) {
  start();
  struct {
    sluice_app_hello hello = good_hello();
    char more[64] = {};
  } newer;
  newer.hello.version = SLUICE_APP_VERSION + 1;
  for (std::size_t bytes : {sizeof(newer.hello), sizeof(newer), std::size_t{6}}) {
    auto answer = say(&newer, bytes);
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->welcome.status, SLUICE_APP_BAD_VERSION);
    EXPECT_NE(std::string(answer->welcome.message).find(fmt::format("daemon version {}", SLUICE_APP_VERSION)),
              std::string::npos);
  }
}

TEST_P(Malicious_Handshake, GarbageOfAnyLengthIsABadHelloAndLeavesNothingBehind) {
  start();
  std::mt19937 random(1);
  std::size_t before = open_descriptors();
  for (int i = 0; i < 300; ++i) {
    std::vector<std::uint8_t> message(1 + random() % 200);
    for (auto& byte : message) {
      byte = static_cast<std::uint8_t>(random());
    }
    auto answer = say(message.data(), message.size());
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->welcome.status, SLUICE_APP_BAD_HELLO);
  }
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_EQ(counter("refused"), 300u);
  EXPECT_TRUE(attach());
}

TEST_P(Malicious_Handshake, AHelloThatIsNearlyRightIsStillABadHello) {
  start();
  struct {
    sluice_app_hello hello = good_hello();
    char more = 0;
  } message;
  auto status_of = [&](std::size_t bytes) {
    auto answer = say(&message, bytes);
    return answer ? answer->welcome.status : 0xffff;
  };
  EXPECT_EQ(status_of(sizeof(message.hello) + 1), SLUICE_APP_BAD_HELLO);
  EXPECT_EQ(status_of(sizeof(message.hello) - 1), SLUICE_APP_BAD_HELLO);
  message.hello.reserved = 1;
  EXPECT_EQ(status_of(sizeof(message.hello)), SLUICE_APP_BAD_HELLO);
  message.hello = good_hello();
  std::memset(message.hello.client, 'x', sizeof(message.hello.client));
  EXPECT_EQ(status_of(sizeof(message.hello)), SLUICE_APP_BAD_HELLO);
}

TEST_P(Malicious_Handshake, DescriptorsInAHelloNeverEnterTheDaemon) {
  start();
  std::size_t before = open_descriptors();
  UniqueFd socket = connect_to(options.socket);
  UniqueFd gift(::memfd_create("gift", MFD_CLOEXEC));
  int gifts[] = {gift.get(), gift.get(), gift.get()};
  sluice_app_hello hello = good_hello();
  if (send_raw(socket.get(), &hello, sizeof(hello), gifts)) {
    auto answer = answer_of(socket.get());
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->welcome.status, SLUICE_APP_BAD_HELLO);
  } else {
    EXPECT_EQ(errno, EPERM) << "the port refuses them, where the kernel can (SO_PASSRIGHTS)";
    loop->turn(5);
  }
  EXPECT_LE(open_descriptors(), before + 3) << "our socket, the memfd, and who has not said hello";
}

TEST_P(Malicious_Handshake, ANameThatIsNotPrintableIsMadeSo) {
  start();
  auto peer = attach("\x1b[2Jevil\n");
  ASSERT_TRUE(peer);
  EXPECT_EQ(port->session()->client, "?[2Jevil?");
}

TEST_P(Malicious_Handshake, HalfAHandshakeIsTimedOutAndBlocksNobody) {
  options.hello_timeout_ns = 50'000'000;
  start();
  UniqueFd silent = connect_to(options.socket);
  ASSERT_TRUE(silent);
  loop->turn(0);
  auto peer = attach();
  EXPECT_TRUE(peer);
  ASSERT_TRUE(turn_until([&] { return counter("hello_timeouts") == 1; }));
  auto answer = read_answer(silent.get());
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->welcome.status, SLUICE_APP_BAD_HELLO);
  EXPECT_TRUE(port->session());
}

TEST_P(Malicious_Handshake, AStormOfSilentConnectionsIsBoundedAndDoesNotShutOthersOut) {
  start();
  std::size_t before = open_descriptors();
  std::vector<UniqueFd> storm;
  for (std::size_t i = 0; i < 4 * kMaxPendingHellos; ++i) {
    storm.push_back(connect_to(options.socket));
    ASSERT_TRUE(storm.back());
    loop->turn(0);
  }
  ASSERT_TRUE(turn_until([&] { return counter("refused") == 3 * kMaxPendingHellos; }));
  EXPECT_LE(open_descriptors(), before + storm.size() + kMaxPendingHellos);
  EXPECT_TRUE(attach());
}

TEST_P(Handshake, WhoClosesInsteadOfSayingHelloIsForgotten) {
  start();
  std::size_t before = open_descriptors();
  for (int i = 0; i < 100; ++i) {
    UniqueFd socket = connect_to(options.socket);
    loop->turn(0);
  }
  ASSERT_TRUE(turn_until([&] { return open_descriptors() == before; }));
}

TEST_P(Malicious_Handshake, WhatAnAppSaysAfterItsHelloIsNotRead) {
  start();
  auto peer = attach();
  std::string noise(1000, 'x');
  for (int i = 0; i < 50; ++i) {
    (void)::send(peer->socket(), noise.data(), noise.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  loop->turn(0);
  EXPECT_TRUE(port->session());
  peer.reset();
  wait_detached();
}

// What the app writes: its segment with indices and return ring, and its TX arena.
constexpr std::size_t kWrittenFiles[] = {2, 3};

std::string punch_write_and_map(int fd, std::size_t bytes) {
  std::string said;
  auto note = [&](bool succeeded, const char* what) { said += succeeded ? what : ""; };
  const auto length = static_cast<off_t>(bytes);
  note(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, length) == 0, "punched ");
  note(::ftruncate(fd, 0) == 0, "shrank ");
  note(::ftruncate(fd, 2 * length) == 0, "grew ");
  note(::pwrite(fd, "x", 1, 0) == 1, "wrote ");
  note(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED, "mapped ");
  note(::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0, "sealed ");
  return said;
}

TEST_P(Malicious_Handshake, WhatAnAppWritesCannotBePunchedOrMappedAgainOnceItIsServed) {
  start();
  auto peer = attach();
  ASSERT_TRUE(peer);
  for (std::size_t file : kWrittenFiles) {
    const std::size_t bytes = file == 2 ? peer->welcome.app_segment_bytes : peer->welcome.tx_arena_bytes;
    EXPECT_EQ(punch_write_and_map(peer->fd(file), bytes), "") << file;
    auto again = UniqueFd(::open(fmt::format("/proc/self/fd/{}", peer->fd(file)).c_str(), O_RDWR));
    EXPECT_EQ(punch_write_and_map(again.get(), bytes), "") << file;
  }
  EXPECT_NE(::madvise(peer->tx_arena(), peer->welcome.tx_arena_bytes, MADV_REMOVE), 0);
  EXPECT_NE(::madvise(peer->app_segment(), peer->welcome.app_segment_bytes, MADV_REMOVE), 0);
  // What is mapped works: both ways, and a return.
  ASSERT_TRUE(peer->send_frame(frame_from(kMac)));
  std::array<Packet, kBurst> burst;
  ASSERT_EQ(burst_of(lane(), burst), 1u);
  lane().done(std::span(burst).first(1));
  receive(1);
  auto entry = peer->receive();
  ASSERT_TRUE(entry);
  peer->give_back(entry->page);
  EXPECT_EQ(lane().poll(), 1u);
  EXPECT_EQ(inflight(), 0u);
}

TEST_P(Malicious_Handshake, UntilAnAppHasMappedItsMemoryNoWorkerReadsIt) {
  start();
  UniqueFd socket = connect_to(options.socket);
  auto answer = hello_to_welcome(socket.get());
  ASSERT_TRUE(answer);
  EXPECT_EQ(punch_write_and_map(answer->fds[3].get(), answer->welcome.tx_arena_bytes),
            "punched wrote mapped ");
  EXPECT_TRUE(host.lanes.empty());
  EXPECT_FALSE(host.attached);
  EXPECT_FALSE(port->session());
  EXPECT_EQ(counter("attaches"), 0u);
  sluice_app_hello hello = good_hello();
  auto second = say(&hello, sizeof(hello));
  ASSERT_TRUE(second);
  EXPECT_EQ(second->welcome.status, SLUICE_APP_BUSY);
  AppPeer peer(std::move(socket), std::move(*answer));
  EXPECT_TRUE(turn_until([&] { return peer.take_served(); }));
  EXPECT_EQ(host.lanes.size(), 1u);
  EXPECT_TRUE(port->session());
}

TEST_P(Malicious_Handshake, WhoNeverMapsItsMemoryIsLetGoAndTheNextIsServed) {
  options.hello_timeout_ns = 50'000'000;
  start();
  UniqueFd socket = connect_to(options.socket);
  ASSERT_TRUE(hello_to_welcome(socket.get()));
  ASSERT_TRUE(turn_until([&] { return counter("hello_timeouts") == 1; }));
  pollfd state{.fd = socket.get(), .events = POLLRDHUP, .revents = 0};
  EXPECT_EQ(::poll(&state, 1, 0), 1) << "it is told by the end of its socket";
  EXPECT_TRUE(attach());
  EXPECT_EQ(counter("attaches"), 1u);
}

TEST_P(Malicious_Handshake, WhoSaysAnythingElseThanThatItHasMappedIsLetGo) {
  start();
  const sluice_app_mapped good = AppPeer::mapped_message();
  std::vector<std::pair<sluice_app_mapped, std::size_t>> wrong(5, {good, sizeof(good)});
  wrong[0].second = sizeof(good) - 1;
  wrong[1].first.magic = 7;
  wrong[2].first.version += 1;
  wrong[3].first.reserved = 1;
  wrong[4].second = 1;
  for (auto& [message, bytes] : wrong) {
    UniqueFd socket = connect_to(options.socket);
    ASSERT_TRUE(hello_to_welcome(socket.get()));
    ASSERT_TRUE(send_raw(socket.get(), &message, bytes));
    pollfd state{.fd = socket.get(), .events = POLLRDHUP, .revents = 0};
    EXPECT_TRUE(turn_until([&] { return ::poll(&state, 1, 0) > 0; }));
    EXPECT_TRUE(host.lanes.empty());
  }
  EXPECT_EQ(counter("refused"), wrong.size());
  EXPECT_TRUE(attach());
}

TEST_P(Malicious_Handshake, WhoSealsItsFilesByItselfIsNotServed) {
  start();
  UniqueFd socket = connect_to(options.socket);
  auto answer = hello_to_welcome(socket.get());
  ASSERT_TRUE(answer);
  const int sealed = answer->fds[3].get();
  ASSERT_EQ(::fcntl(sealed, F_ADD_SEALS, F_SEAL_SEAL), 0);  // so that it can be punched for ever
  AppPeer peer(std::move(socket), std::move(*answer));
  pollfd state{.fd = peer.socket(), .events = POLLRDHUP, .revents = 0};
  EXPECT_TRUE(turn_until([&] { return ::poll(&state, 1, 0) > 0; }));
  EXPECT_TRUE(host.lanes.empty());
  EXPECT_EQ(counter("attaches"), 0u);
  EXPECT_TRUE(attach());
}

TEST_P(Handshake, AClientOfTheVersionBeforeIsToldOurs) {
  start();
  sluice_app_hello hello = good_hello();
  hello.version = 1;
  auto answer = say(&hello, sizeof(hello));
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->welcome.status, SLUICE_APP_BAD_VERSION);
  EXPECT_STREQ(answer->welcome.message, "the client speaks version 1, this daemon version 2");
}

TEST_P(Handshake, EverybodyMayConnectAndThePathGoesWithThePort) {
  start();
  struct stat status;
  ASSERT_EQ(::stat(options.socket.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0666u);
  port.reset();
  EXPECT_NE(::stat(options.socket.c_str(), &status), 0);
}

TEST_P(Handshake, AStaleSocketIsTakenOverALivingOneIsNot) {
  start();
  auto second = AppPort::create(options, *loop, host.services());
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message.find("in use"), std::string::npos);
  port.reset();
  {
    // Bound and closed, its path left behind, as by a daemon that was killed.
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    options.socket.copy(address.sun_path, sizeof(address.sun_path) - 1);
    UniqueFd stale(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::bind(stale.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  }
  start();
  EXPECT_TRUE(attach());
}

TEST_P(Handshake, OptionsThatDoNotFitAreRefusedInASentence) {
  auto error_of = [&](auto change) {
    AppPortOptions bad = options;
    change(bad);
    auto made = AppPort::create(bad, *loop, host.services());
    return made ? std::string() : made.error().message;
  };
  EXPECT_NE(error_of([](auto& o) { o.workers.clear(); }).find("0 workers"), std::string::npos);
  EXPECT_NE(error_of([](auto& o) { o.pages = 0; }).find("limit of 0 pages"), std::string::npos);
  EXPECT_NE(error_of([](auto& o) { o.ring_entries = 100; }).find("power of two"), std::string::npos);
  EXPECT_NE(error_of([](auto& o) { o.socket = std::string(200, 'x'); }).find("200 bytes"), std::string::npos);
  EXPECT_NE(error_of([](auto& o) { o.owned = {{.worker = WorkerId{7}, .pages = 8}}; }).find("worker 7"),
            std::string::npos);
}

TEST_P(Handshake, AnAppThatIsKilledAndStartedAgainIsNotTakenForASecondOne) {
  start();
  auto first = attach();
  // The new one is there before the loop has seen the end of the old one.
  UniqueFd socket = connect_to(options.socket);
  sluice_app_hello hello = good_hello();
  first.reset();
  ASSERT_TRUE(send_raw(socket.get(), &hello, sizeof(hello)));
  auto answer = answer_of(socket.get());
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->welcome.status, SLUICE_APP_OK);
}

}  // namespace
}  // namespace sluice::test
