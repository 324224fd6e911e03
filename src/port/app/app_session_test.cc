#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <fstream>
#include <random>

#include "base/closer.h"
#include "port/app/app_test_fixture.h"
#include "port/app/kept_memory.h"
#include "port/burst_of.h"
#include "port/flow_hash.h"
#include "test/support/checked_threads.h"

namespace sluice::test {
namespace {

class AppSession : public AppPortTest {};
class Crash_AppSession : public AppPortTest {};
class Malicious_AppSession : public AppPortTest {};
class OwnedQueues : public AppPortTest {
 protected:
  void SetUp() override {
    options.owned = {{.nic = NicId{1}, .queue = QueueId{2}, .worker = WorkerId{0}, .pages = 128}};
  }
  // Frames that the NIC wrote into pages of the owned queue, handed over.
  void hand_over(std::uint32_t count) {
    std::vector<Packet> packets(count);
    for (Packet& packet : packets) {
      PageIndex page = host.owned[0]->alloc();
      ASSERT_NE(page, PageIndex::kNone);
      std::byte* frame = host.open_arena->page(page) + 256;
      std::memset(frame, 0x5a, 60);
      packet = {.body = frame, .body_bytes = 60, .page = page, .port = kPort};
    }
    lane().hand_over({.domain = domain_of(kPort), .nic = NicId{1}, .queue = QueueId{2}}, packets);
    for (const Packet& packet : packets) {
      if (packet.page != PageIndex::kNone) {
        host.owned[0]->release(packet.page);
        ++not_taken;
      }
    }
  }
  std::uint32_t not_taken = 0;
};

ino_t inode(int fd) {
  struct stat status;
  return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
}

// Those that have `word`.
std::size_t lines_of(const char* path, std::string_view word = "") {
  std::ifstream file(path);
  std::size_t count = 0;
  for (std::string line; std::getline(file, line);) {
    count += line.find(word) != std::string::npos ? 1 : 0;
  }
  return count;
}

std::size_t open_descriptors() {
  auto folder = std::filesystem::directory_iterator("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(folder), end(folder)));
}

bool all_zero(const AppPeer& peer) {
  const std::byte* data = peer.rx_arena();
  return std::all_of(data, data + peer.welcome.rx_arena_bytes, [](std::byte b) { return b == std::byte{0}; });
}

TEST_F(Crash_AppSession, AnAppThatDiesAtAnyMomentTakesNothingWithItAndTheNextGetsAFreshArena) {
  start();
  std::mt19937 random(5);
  ino_t last = 0;
  std::unique_ptr<AppPeer>
      keeps_mapping;  // of the session before: its file lives on, so its number cannot come again
  for (int life = 0; life < 60; ++life) {
    auto peer = attach();
    ASSERT_TRUE(peer);
    EXPECT_NE(inode(peer->fd(0)), last);  // D2
    EXPECT_TRUE(all_zero(*peer));
    last = inode(peer->fd(0));
    for (auto steps = random() % 20; steps > 0; --steps) {
      switch (random() % 5) {
        case 0:
          receive(static_cast<std::uint32_t>(random() % 64));
          break;
        case 1:
          if (auto entry = peer->receive()) peer->give_back(entry->page);
          break;
        case 2:
          peer->send_frame(frame_from(kMac));
          break;
        case 3:
          lane().poll();
          break;
        case 4: {
          std::array<Packet, kBurst> burst;
          lane().done(std::span(burst).first(burst_of(lane(), burst)));
          break;
        }
      }
    }
    receive(3);
    peer->close_socket();
    wait_detached();  // CHECKs that every page is home
    EXPECT_TRUE(host.lanes.empty());
    EXPECT_FALSE(host.attached);
    keeps_mapping = std::move(peer);
  }
  EXPECT_EQ(counter("attaches"), 60u);
  EXPECT_EQ(counter("detaches"), 60u);
}

TEST_F(Crash_AppSession, AProcessThatIsKilledIsDetachedAndItsSuccessorServed) {
  start();
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    UniqueFd socket = connect_to(options.socket);
    sluice_app_hello hello = good_hello("victim");
    send_raw(socket.get(), &hello, sizeof(hello));
    pollfd state{.fd = socket.get(), .events = POLLIN, .revents = 0};
    ::poll(&state, 1, -1);
    auto answer = read_answer(socket.get());
    AppPeer peer(std::move(socket), std::move(*answer));
    ::pause();
    ::_exit(0);
  }
  EXPECT_TRUE(turn_until([&] { return port->session().has_value(); }));
  EXPECT_EQ(port->session()->pid, child);
  receive(100);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  wait_detached();
  EXPECT_TRUE(attach());
}

TEST_F(Crash_AppSession, AThousandLivesLeakNoDescriptorAndNoMapping) {
  options.pages = 64;
  start();
  auto live = [&] {
    auto peer = attach();
    ASSERT_TRUE(peer);
    receive(3);
    peer.reset();
    wait_detached();
  };
  live();
  Closer::of_process().drain();
  std::size_t descriptors = open_descriptors();
  std::size_t mappings = lines_of("/proc/self/maps");
  std::size_t files = lines_of("/proc/self/maps", "/memfd:");
  for (int i = 0; i < 1000; ++i) {
    live();
  }
  Closer::of_process().drain();
  EXPECT_EQ(open_descriptors(), descriptors);
  EXPECT_EQ(lines_of("/proc/self/maps", "/memfd:"), files);
  if (!kThreadsAreChecked) {  // the checker's own memory grows with every thread that there was
    EXPECT_LE(lines_of("/proc/self/maps"), mappings + 16) << "the allocator may have grown a little";
  }
}

// D6: what programs keep of sessions that are over is at most as much as one session has, and so many.
TEST_F(Malicious_AppSession, WhoKeepsTheMemoryOfItsSessionsIsRefusedUntilItLetsGo) {
  start();
  std::vector<std::unique_ptr<AppPeer>> keeps;
  for (std::size_t session = 0; session < 2; ++session) {
    auto peer = attach();
    ASSERT_TRUE(peer) << "what one session has may be kept besides";
    peer->close_socket();
    wait_detached();
    if (session % 2 == 0) {
      peer->close_descriptors();  // mappings are kept as well as descriptors
    }
    keeps.push_back(std::move(peer));
  }
  const sluice_app_hello hello = good_hello("one more");
  auto answer = say(&hello, sizeof hello);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->welcome.status, SLUICE_APP_FAILED);
  EXPECT_NE(std::string(answer->welcome.message).find("keep the memory of 2 sessions"), std::string::npos)
      << answer->welcome.message;
  keeps.pop_back();
  auto peer = attach();
  EXPECT_TRUE(peer);
}

TEST_F(Malicious_AppSession, WhoKeepsALittleOfEverySessionIsRefusedAtTheEighth) {
  start();
  std::vector<UniqueFd> keeps;
  for (std::size_t session = 0; session < kMaxKeptSessions; ++session) {
    auto peer = attach();
    ASSERT_TRUE(peer);
    keeps.emplace_back(::dup(peer->fd(1)));  // the daemon's segment, the smallest
    peer.reset();
    wait_detached();
  }
  const sluice_app_hello hello = good_hello("one more");
  auto answer = say(&hello, sizeof hello);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->welcome.status, SLUICE_APP_FAILED);
  keeps.pop_back();
  EXPECT_TRUE(attach());
}

TEST_F(Malicious_AppSession, AStormOfAttachesIsHeldNotRefusedAndBounded) {
  options.attach_interval_ns = 50'000'000;
  start();
  const std::uint64_t began = now_ns();
  constexpr std::uint64_t kStorm = 12;
  for (std::uint64_t i = 0; i < kStorm; ++i) {
    ASSERT_TRUE(attach()) << i;  // and goes at once
  }
  EXPECT_EQ(counter("attaches"), kStorm);
  EXPECT_EQ(counter("refused"), 0u);
  EXPECT_LE(counter("attaches"), kAttachBurst + 1 + (now_ns() - began) / options.attach_interval_ns);
  EXPECT_GT(counter("attaches_held"), 0u);
}

TEST_F(Malicious_AppSession, WhoIsHeldAndGoesLeavesItsPlaceToTheNext) {
  options.attach_interval_ns = 200'000'000;
  start();
  for (std::uint32_t i = 0; i < kAttachBurst; ++i) {
    ASSERT_TRUE(attach());
  }
  sluice_app_hello hello = good_hello();
  UniqueFd held = connect_to(options.socket);
  ASSERT_TRUE(send_raw(held.get(), &hello, sizeof(hello)));
  ASSERT_TRUE(turn_until([&] { return counter("attaches_held") == 1; }));
  EXPECT_EQ(say(&hello, sizeof(hello))->welcome.status, SLUICE_APP_BUSY) << "one waits, not many";
  held.reset();
  EXPECT_TRUE(attach());
  EXPECT_EQ(counter("attaches"), kAttachBurst + 1u);
}

// What an app's memory takes to make, and to seal, is not the control thread's time.
TEST_F(Malicious_AppSession, WhoGoesAtAnyStepOfItsAttachLeavesNothingAndTheNextIsServed) {
  start();
  ASSERT_TRUE(attach());
  wait_detached();
  Closer::of_process().drain();
  const std::size_t before = open_descriptors();
  const sluice_app_hello hello = good_hello();
  for (int turns = 0; turns < 40; ++turns) {
    UniqueFd socket = connect_to(options.socket);
    ASSERT_TRUE(send_raw(socket.get(), &hello, sizeof(hello)));
    for (int turn = 0; turn < turns / 4; ++turn) {
      loop->turn(turn % 2);
    }
    std::optional<Answer> answer = read_answer(socket.get());
    if (answer && turns % 2 == 0) {
      const sluice_app_mapped mapped = AppPeer::mapped_message();
      send_raw(socket.get(), &mapped, sizeof(mapped));
      loop->turn(0);
    }
  }
  ASSERT_TRUE(attach());
  wait_detached();
  ASSERT_TRUE(turn_until([&] {
    Closer::of_process().drain();
    return open_descriptors() == before;
  })) << open_descriptors()
      << " " << before;
  EXPECT_EQ(inflight(), 0u);
}

TEST_F(Crash_AppSession, APortThatIsRemovedWhileItsMemoryIsMadeWaitsForNobody) {
  options.pages = 65536;
  start();
  const sluice_app_hello hello = good_hello();
  UniqueFd socket = connect_to(options.socket);
  ASSERT_TRUE(send_raw(socket.get(), &hello, sizeof(hello)));
  loop->turn(5);
  port.reset();
  EXPECT_TRUE(host.lanes.empty());
  Closer::of_process().drain();
}

TEST_F(AppSession, TotalsSurviveIt) {
  start();
  for (int i = 0; i < 3; ++i) {
    auto peer = attach();
    receive(10);
    peer.reset();
    wait_detached();
  }
  EXPECT_EQ(counter("rx_packets"), 30u);
  EXPECT_EQ(counter("copied"), 30u);
}

TEST_F(AppSession, WhoHoldsItsWholeLimitTooLongIsCutOff) {
  options.pages = 64;
  options.stall_timeout_ns = 20'000'000;
  start();
  auto peer = attach();
  receive(64);
  ASSERT_EQ(port->session()->pages_held, 64u);
  ASSERT_TRUE(turn_until([&] { return counter("cut_off") == 1; }));
  EXPECT_FALSE(port->session());
  EXPECT_TRUE(host.lanes.empty());
  pollfd state{.fd = peer->socket(), .events = POLLRDHUP, .revents = 0};
  EXPECT_EQ(::poll(&state, 1, 0), 1) << "it is told by the end of its socket";
  EXPECT_TRUE(attach());
}

TEST_F(AppSession, WhoReturnsNowAndThenIsNotCutOff) {
  options.pages = 64;
  options.stall_timeout_ns = 200'000'000;
  start();
  auto peer = attach();
  // A page comes back and the limit is reached again, for much longer than the timeout.
  std::uint64_t end = now_ns() + 5 * options.stall_timeout_ns;
  while (now_ns() < end) {
    receive(64);
    if (auto entry = peer->receive()) {
      peer->give_back(entry->page);
    }
    lane().poll();
    loop->turn(1);
  }
  EXPECT_EQ(counter("cut_off"), 0u);
  EXPECT_TRUE(port->session());
}

TEST_F(AppSession, APortThatIsRemovedEndsItInOrder) {
  start();
  auto peer = attach();
  receive(10);
  port.reset();
  EXPECT_TRUE(host.lanes.empty());
  EXPECT_FALSE(host.attached);
}

TEST_F(OwnedQueues, AreServedBeforeAnAppComes) {
  start();
  EXPECT_EQ(host.events, (std::vector<std::string>{"open"}));
  ASSERT_EQ(host.owned.size(), 1u);
  EXPECT_GE(host.owned[0]->page_count(), 128u + 256u) << "what the NIC needs and what may be lent";
  EXPECT_EQ(host.open_arena->domain(), domain_of(kPort));  // D1
}

TEST_F(OwnedQueues, PagesOfTheOwnDomainAreHandedOverAllOthersCopiedAndBothCountedExactly) {
  start();
  auto peer = attach();
  hand_over(20);
  receive(7);
  EXPECT_EQ(counter("zero_copy"), 20u);
  EXPECT_EQ(counter("copied"), 7u);
  EXPECT_EQ(counter("copied_bytes"), 7u * 60);
  EXPECT_EQ(counter("rx_packets"), 27u);
  EXPECT_EQ(not_taken, 0u);
  std::uint32_t before = host.owned[0]->inflight();
  for (int i = 0; i < 27; ++i) {
    auto entry = peer->receive();
    ASSERT_TRUE(entry);
    EXPECT_EQ(entry->offset, 256);
    EXPECT_EQ(entry->flow_hash, flow_hash_of(peer->frame(*entry)));
    if (i < 20) {
      EXPECT_EQ(peer->frame(*entry)[59], std::byte{0x5a}) << "the very page that the NIC wrote";
    }
    peer->give_back(entry->page);
  }
  lane().poll();
  EXPECT_EQ(host.owned[0]->inflight(), before - 20) << "each page goes home to its own pool";
  EXPECT_EQ(inflight(), 8u) << "those that the NIC has";
}

TEST_F(OwnedQueues, ThePageLimitHoldsForBothKindsTogetherAndWhatIsNotTakenStaysTheWorkers) {
  options.pages = 64;
  options.ring_entries = 256;
  start();
  auto peer = attach();
  receive(40);
  hand_over(40);
  EXPECT_EQ(counter("zero_copy"), 24u);
  EXPECT_EQ(counter("drop_page_limit"), 16u);
  EXPECT_EQ(not_taken, 16u);
}

TEST_F(OwnedQueues, APageThatTheNicHasCannotBeGivenBack) {
  start();
  auto peer = attach();
  std::uint32_t before = inflight();
  for (auto [pool, page] : host.posted) {
    peer->give_back(raw(page));
  }
  lane().poll();
  EXPECT_EQ(counter("fault_return_double"), host.posted.size());
  EXPECT_EQ(inflight(), before);
}

TEST_F(OwnedQueues, AreClosedBeforePagesComeHomeAndOpenedAgainOverAFreshArena) {
  start();
  ino_t first;
  {
    auto peer = attach();
    first = inode(peer->fd(0));
    hand_over(20);
    host.events.clear();
  }
  wait_detached();
  ASSERT_TRUE(turn_until([&] { return host.events.size() == 3; }));
  EXPECT_EQ(host.events, (std::vector<std::string>{"detached", "close", "open"}));  // D7
  auto peer = attach();
  EXPECT_NE(inode(peer->fd(0)), first);  // D2
  EXPECT_TRUE(all_zero(*peer));
}

TEST_F(OwnedQueues, TheirMemoryStaysUntilTheKernelIsDoneWithItAlsoAfterTheEndOfThePort_D7) {
  start();
  host.closes_later = true;
  attach().reset();
  wait_detached();
  ASSERT_EQ(host.closing.size(), 1u);
  auto next = attach();
  EXPECT_TRUE(all_zero(*next)) << "another arena (D2)";
  port.reset();
  ASSERT_EQ(host.closing.size(), 2u);
  for (const auto& closed : host.closing) {
    closed();  // CHECKs that every page is home
  }
}

TEST_F(OwnedQueues, AnAppWaitsForQueuesThatAreOpeningAndNobodyElseDoes) {
  start();
  host.opening = true;
  UniqueFd socket = connect_to(options.socket);
  sluice_app_hello hello = good_hello();
  ASSERT_TRUE(send_raw(socket.get(), &hello, sizeof(hello)));
  // One more is answered meanwhile: the first has the port.
  auto busy = say(&hello, sizeof(hello));
  ASSERT_TRUE(busy);
  EXPECT_EQ(busy->welcome.status, SLUICE_APP_BUSY);
  EXPECT_FALSE(port->session());
  host.opening = false;
  auto answer = answer_of(socket.get());
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->welcome.status, SLUICE_APP_OK);
}

TEST_F(OwnedQueues, AnAppThatDiesWaitingLeavesThePortToTheNext) {
  start();
  host.opening = true;
  sluice_app_hello hello = good_hello();
  UniqueFd socket = connect_to(options.socket);
  ASSERT_TRUE(send_raw(socket.get(), &hello, sizeof(hello)));
  EXPECT_EQ(say(&hello, sizeof(hello))->welcome.status, SLUICE_APP_BUSY);
  socket.reset();
  UniqueFd next = connect_to(options.socket);
  ASSERT_TRUE(send_raw(next.get(), &hello, sizeof(hello)));
  // Never open: it is let in all the same.
  auto answer = answer_of(next.get());
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->welcome.status, SLUICE_APP_OK);
}

TEST_F(OwnedQueues, ThatCannotBeOpenedAgainAreTriedAgainAndTheAppIsToldWhy) {
  start();
  attach().reset();
  host.refuse_queues = true;
  wait_detached();
  sluice_app_hello hello = good_hello();
  auto answer = say(&hello, sizeof(hello));
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->welcome.status, SLUICE_APP_FAILED);
  EXPECT_NE(std::string(answer->welcome.message).find("the NIC is away"), std::string::npos);
  host.refuse_queues = false;
  ASSERT_TRUE(turn_until([&] { return host.open_arena != nullptr; }));
  EXPECT_TRUE(attach());
}

}  // namespace
}  // namespace sluice::test
