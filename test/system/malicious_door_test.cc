// Doors that their peers have taken over (taken_door.h), at the real daemon: whatever such a door does, it
// does to its own port.
#include <linux/sockios.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <list>
#include <vector>

#include "abi/vhost_user.h"
#include "base/check.h"
#include "door/door_keeper.h"
#include "port/guest/vhost_user/features.h"
#include "port/guest/vhost_user/guest_door.h"
#include "test/support/eventually.h"
#include "test/support/ping.h"
#include "test/system/fixture.h"
#include "test/system/lingering_socket.h"
#include "test/system/processes.h"
#include "test/system/silent_fuse.h"
#include "test/system/taken_door.h"
#include "test/vhost/mock_front_end.h"

namespace sluice::test {
namespace {

constexpr const char* kOther = "vm9";  // the guest that nobody attacks
constexpr std::uint32_t kNoEnd = ~0u;

DoorOrder order(DoorOrder::What what, std::span<const std::byte> data = {}, std::uint32_t times = 1) {
  DoorOrder made{.what = what, .times = times, .bytes = static_cast<std::uint32_t>(data.size())};
  SLUICE_CHECK(data.size() <= made.data.size());
  std::ranges::copy(data, made.data.begin());
  return made;
}

std::span<const std::byte> bytes_of(const DoorOrder& made) {
  return std::as_bytes(std::span(&made, 1));
}

// As a door says it: a report, and a whole message.
std::vector<std::byte> says(const DoorReport& report, std::span<const std::byte> message = {}) {
  const auto head = std::as_bytes(std::span(&report, 1));
  std::vector<std::byte> said(head.begin(), head.end());
  said.insert(said.end(), message.begin(), message.end());
  return said;
}
std::vector<std::byte> says(std::uint32_t request, std::uint64_t word = 0) {
  return says(DoorReport{}, FrontEnd::bytes_of(request, std::as_bytes(std::span(&word, 1))));
}
// Of a request without a payload.
std::vector<std::byte> says_bare(std::uint32_t request) {
  return says(DoorReport{}, FrontEnd::bytes_of(request, {}));
}

class Malicious_ATakenOverDoor : public SystemTest {
 protected:
  // A daemon beside whose program stands the other sluice-door.
  void SetUp() override {
    SystemTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) {
      return;
    }
    std::filesystem::copy_file(SLUICED, programs_ / "sluiced");
    std::filesystem::copy_file(TAKEN_DOOR, programs_ / "sluice-door");
    daemon().run_by({"/bin/sh", "-c", "shift; exec \"$0\" \"$@\"", programs_ / "sluiced"});
  }
  static std::string guest(const std::string& name) {
    return "\n[port." + name + "]\ntype = \"guest\"\nsocket = \"@/" + name +
           ".sock\"\nmac = \"52:54:00:00:00:0" + name.back() + "\"\n";
  }
  void start_guests(int count) {
    std::string config = nic_table() + guest(kOther);
    for (int i = 1; i <= count; ++i) {
      config += guest("vm" + std::to_string(i));
    }
    start(config);
  }
  std::string socket_of(const std::string& name) { return daemon().path(name + ".sock"); }
  FrontEnd front_end(const std::string& name) { return FrontEnd::connect(socket_of(name)); }
  // A door of vm1 that has its order.
  FrontEnd taken_over(const DoorOrder& made, std::span<const int> fds = {}) {
    FrontEnd front = front_end("vm1");
    EXPECT_TRUE(front.send_bytes(bytes_of(made), fds));
    return front;
  }
  static bool has_its_order(const FrontEnd& front) {
    return eventually([&] {
      int unread = -1;
      return ::ioctl(front.fd(), SIOCOUTQ, &unread) == 0 && unread == 0;
    });
  }
  std::uint64_t fault(const std::string& name, const std::string& port = "vm1") {
    return port_counter(port, name);
  }

  // The daemon answers its operator, another guest attaches with memory and eventfds, and no thread of the
  // daemon waits in the kernel.
  void expect_served() {
    ASSERT_TRUE(daemon().call("version"));
    FrontEnd other = front_end(kOther);
    ASSERT_TRUE(other.connected());
    expect_sets_up(other);
    EXPECT_TRUE(eventually([&] { return !has_thread_in_d(); }));
  }
  void expect_sets_up(FrontEnd& other) {
    GuestRam ram(1 << 20);
    const UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    const int memory = ram.fd();
    other.negotiate(
        kFeatureVersion1 | kFeatureProtocol,
        1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK | 1ull << VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS);
    EXPECT_EQ(other.tell(VHOST_USER_ADD_MEM_REG, vhost_user_mem_reg{0, ram.region()}, std::span(&memory, 1)),
              0u)
        << daemon().log();
    other.set_up_ring(0, 64, RingAreas::split(ram, 64), 0, event.get(), event.get());
    EXPECT_TRUE(other.barrier()) << daemon().log();
  }
  bool has_thread_in_d() {
    const auto tasks = tasks_of(daemon().pid());
    return std::ranges::any_of(
        tasks, [](const std::string& task) { return task.compare(task.rfind(')'), 4, ") D ") == 0; });
  }
  void expect_ends_and_starts_again() {
    EXPECT_EQ(daemon().stop(), 0) << daemon().log();
    auto again = daemon().start();
    ASSERT_TRUE(again) << again.error().message;
    expect_served();
    EXPECT_TRUE(ping(wire_ns(), "10.77.0.1").lossless());
  }

 private:
  TempFolder programs_;
};

// With a message that descriptors belong to, with one that they do not, with what is none, once and often.
TEST_F(Malicious_ATakenOverDoor, ThatPassesOnAFileNobodyAnswersForIsCutOffAndHoldsUpNobody) {
  NEED_SILENT_FUSE(fuse, kSilentToAll);
  const std::vector<std::vector<std::byte>> said{
      says(VHOST_USER_SET_VRING_KICK), says_bare(VHOST_USER_GET_FEATURES),
      says({.what = DoorReport::What::kClosed}), std::vector<std::byte>(3), std::vector<std::byte>(480)};
  const std::vector<std::uint32_t> copies{1, 8, 9, 250};
  const int ports = static_cast<int>(std::max(said.size(), copies.size()));
  start_guests(ports);
  for (int i = 0; i < ports; ++i) {
    const std::string name = "vm" + std::to_string(i + 1);
    const DoorOrder made = order(DoorOrder::What::kSay, said[static_cast<std::size_t>(i) % said.size()]);
    ASSERT_EQ((*fuse)->send(socket_of(name), SOCK_STREAM, bytes_of(made), 0,
                            copies[static_cast<std::size_t>(i) % copies.size()]),
              0);
    EXPECT_TRUE(eventually([&] { return fault("fault_door_descriptor", name) == 1; })) << daemon().log();
    expect_served();
  }
  // The door has the file too, and who took it for the daemon: neither can end.
  const auto stuck = static_cast<std::uint64_t>(2 * ports);
  EXPECT_TRUE(eventually([&] { return daemon().counter("daemon.doors_stuck") == stuck; })) << daemon().log();
  expect_served();
  expect_ends_and_starts_again();
}

TEST_F(Malicious_ATakenOverDoor, CountsWhatItHasStuckAgainstItsOwnPortAlone) {
  NEED_SILENT_FUSE(fuse, kSilentToFlush);
  start_guests(1);
  const DoorOrder made = order(DoorOrder::What::kSay, says(VHOST_USER_SET_VRING_KICK));
  for (std::uint64_t i = 1; i <= kMostStuckDoorsOfOne / 2; ++i) {
    ASSERT_EQ((*fuse)->send(socket_of("vm1"), SOCK_STREAM, bytes_of(made)), 0);
    ASSERT_TRUE(eventually([&] { return daemon().counter("daemon.doors_stuck") == 2 * i; }))
        << daemon().log();
  }
  FrontEnd refused = front_end("vm1");
  EXPECT_TRUE(refused.wait_closed());
  expect_served();
  fuse->reset();  // its server is gone: who waits for it goes on
  EXPECT_TRUE(eventually([&] { return daemon().counter("daemon.doors_stuck") == 0; })) << daemon().log();
  EXPECT_TRUE(front_end("vm1").barrier()) << daemon().log();
}

// More of them than the daemon has room for: what has no room is closed by who receives.
TEST_F(Malicious_ATakenOverDoor, ThatPassesOnSocketsThatLingerHoldsUpNobody) {
  start_guests(1);
  std::list<LingeringSocket> lingering;
  const DoorOrder made = order(DoorOrder::What::kSay, says(VHOST_USER_SET_VRING_CALL), 3);
  for (std::uint64_t i = 1; i <= 3; ++i) {
    FrontEnd front = front_end("vm1");
    lingering.emplace_back([&](int fd) {
      const std::vector<int> copies(60 * i, fd);
      front.send_bytes(bytes_of(made), copies);
    });
    EXPECT_TRUE(eventually([&] { return fault("fault_door_descriptor") == i; })) << daemon().log();
    expect_served();
  }
  EXPECT_TRUE(eventually([&] { return daemon().counter("daemon.doors_ending") == 0; })) << daemon().log();
  EXPECT_EQ(daemon().counter("daemon.doors_stuck"), 0u);
  expect_ends_and_starts_again();
}

// Of known kinds, but where none belong, or too many.
TEST_F(Malicious_ATakenOverDoor, ThatPassesOnDescriptorsWhereNoneBelongLeavesNoneBehind) {
  start_guests(1);
  expect_served();
  const GuestRam ram(1 << 20);
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const auto used = [&] { return daemon().counter("daemon.descriptors_used"); };
  // Nobody is attached, and of what closes and checks for the daemon only the undertaker is there.
  const auto settled = [&] {
    const nlohmann::json now = daemon().show("counters");
    return now["port.vm1.connects"] == now["port.vm1.disconnects"] && now["daemon.checkers"] == 0 &&
           now["daemon.doors_ending"] == 0 && now["daemon.unburied"] == 0 && now["daemon.buried"] > 0 &&
           now["port.vm9.connects"] == now["port.vm9.disconnects"];
  };
  ASSERT_TRUE(eventually(settled)) << daemon().log();
  const std::uint64_t before = used();
  for (const int fd : {ram.fd(), event.get()}) {
    for (const std::size_t copies : {1u, 8u, 9u, 250u}) {
      const std::vector<int> fds(copies, fd);
      for (const auto& said : {says(VHOST_USER_SET_VRING_KICK, VHOST_USER_VRING_NO_FD), says(200),
                               says({.what = DoorReport::What::kFault, .fault = VhostFault::kStalled}),
                               says({.refused_fds = ~0u}), std::vector<std::byte>(1)}) {
        FrontEnd front = taken_over(order(DoorOrder::What::kSay, said), fds);
        EXPECT_TRUE(front.wait_closed()) << daemon().log();
      }
    }
  }
  EXPECT_EQ(fault("fault_door_descriptor"), 0u);
  EXPECT_EQ(daemon().counter("daemon.checks_refused"), 0u);
  EXPECT_TRUE(eventually([&] { return settled() && used() == before; }))
      << used() << " descriptors, " << before << " before";
  expect_served();
}

TEST_F(Malicious_ATakenOverDoor, ThatNeverCeasesToSpeakHoldsUpNobody) {
  start_guests(1);
  // A message that is right, has no answer, and changes nothing.
  FrontEnd flood = taken_over(order(DoorOrder::What::kSay, says_bare(VHOST_USER_SET_OWNER), kNoEnd));
  ASSERT_TRUE(eventually([&] { return fault("messages") > 1000; }));
  for (int i = 0; i < 5; ++i) {
    const std::uint64_t before = fault("messages");
    expect_served();
    EXPECT_TRUE(eventually([&] { return fault("messages") > before; })) << "it has ceased";
  }
  expect_ends_and_starts_again();
}

TEST_F(Malicious_ATakenOverDoor, ThatFloodsWithDescriptorsHoldsUpNobody) {
  start_guests(1);
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const int fd = event.get();
  FrontEnd flood =
      taken_over(order(DoorOrder::What::kSay, says(VHOST_USER_SET_VRING_ERR), kNoEnd), std::span(&fd, 1));
  ASSERT_TRUE(eventually([&] { return fault("messages") > 1000; })) << daemon().log();
  for (int i = 0; i < 5; ++i) {
    const std::uint64_t before = fault("messages");
    expect_served();
    EXPECT_TRUE(eventually([&] { return fault("messages") > before; })) << "it has ceased";
  }
  EXPECT_EQ(daemon().counter("daemon.doors_stuck"), 0u);
  expect_ends_and_starts_again();
}

TEST_F(Malicious_ATakenOverDoor, ThatDoesNotReadAnswersIsCutOffAndThatDoesNotEndIsKilled) {
  start_guests(1);
  FrontEnd deaf = taken_over(order(DoorOrder::What::kSay, says_bare(VHOST_USER_GET_FEATURES), 100'000));
  EXPECT_TRUE(eventually([&] { return fault("fault_message_unread") == 1; })) << daemon().log();
  expect_served();
  FrontEnd silent = taken_over(order(DoorOrder::What::kHold));
  ASSERT_TRUE(has_its_order(silent));
  EXPECT_TRUE(front_end("vm1").barrier()) << "it has never said a whole message, and gives way";
  EXPECT_TRUE(eventually([&] { return daemon().counter("daemon.doors_killed") >= 2; })) << daemon().log();
  EXPECT_TRUE(eventually([&] { return daemon().counter("daemon.doors_ending") == 0; })) << daemon().log();
  FrontEnd ended = taken_over(order(DoorOrder::What::kEnd));
  EXPECT_TRUE(ended.wait_closed());
  expect_served();
}

TEST_F(Malicious_ATakenOverDoor, ThatDoesNotEndEndsWithTheDaemonHoweverThatEnds) {
  for (const bool killed : {false, true}) {
    start_guests(1);
    FrontEnd silent = taken_over(order(DoorOrder::What::kHold));
    ASSERT_TRUE(has_its_order(silent));
    const auto doors = descendants_of(daemon().pid());
    ASSERT_GE(doors.size(), 3u) << "the zygote, its parent, and the door";
    if (killed) {
      daemon().kill();
    } else {
      EXPECT_EQ(daemon().stop(), 0) << daemon().log();
    }
    for (const pid_t door : doors) {
      EXPECT_TRUE(eventually([&] { return !std::filesystem::exists("/proc/" + std::to_string(door)); }));
    }
  }
}

TEST_F(Malicious_ATakenOverDoor, SaysDatagramsOfAnyLengthAndIsCutOffByTheFirstThatIsWrong) {
  start_guests(1);
  const std::vector<std::byte> whole(480, std::byte{0x5a});
  std::uint64_t cut = 0;
  for (const std::size_t bytes : {1u, 4u, 11u, 12u, 13u, 23u, 24u, 25u, 288u, 289u, 480u}) {
    FrontEnd front = taken_over(order(DoorOrder::What::kSay, std::span(whole).first(bytes)));
    EXPECT_TRUE(front.wait_closed()) << bytes;
    EXPECT_TRUE(eventually([&] { return fault("fault_message_header") == cut + 1; })) << bytes;
    ++cut;
  }
  // Faults that there are not, and the end in the middle of a message.
  for (const auto& said : {says({.what = DoorReport::What::kFault, .fault = VhostFault::kCount}),
                           says({.what = static_cast<DoorReport::What>(77)}), says(DoorReport{})}) {
    FrontEnd front = taken_over(order(DoorOrder::What::kSay, said));
    EXPECT_TRUE(front.wait_closed());
    ++cut;
  }
  EXPECT_TRUE(eventually([&] { return fault("fault_message_header") == cut; })) << daemon().log();
  expect_served();
}

// All doors are of one user, which may signal its own processes; but no door may. Nor may one give its
// channel to somebody who is not confined.
TEST_F(Malicious_ATakenOverDoor, CannotSignalOtherDoorsOrTheZygoteNorPassItsChannelOn) {
  start_guests(1);
  FrontEnd other = front_end(kOther);
  ASSERT_TRUE(other.barrier());
  for (const DoorOrder::What how :
       {DoorOrder::What::kSignal, DoorOrder::What::kOwn, DoorOrder::What::kPassOn}) {
    FrontEnd front = taken_over(order(how));
    EXPECT_TRUE(front.wait_closed()) << "the kernel ends it at its first try";
    EXPECT_TRUE(other.barrier()) << daemon().log();
    EXPECT_TRUE(front_end("vm1").barrier()) << daemon().log();
  }
  EXPECT_EQ(daemon().counter("daemon.zygotes"), 1u);
  EXPECT_TRUE(eventually([&] { return daemon().log().find("died of signal 31") != std::string::npos; }))
      << daemon().log();
  EXPECT_EQ(daemon().log().find("another one is started"), std::string::npos) << daemon().log();
}

TEST_F(Malicious_ATakenOverDoor, HasNeitherTheJournalNorTheMachinesMemoryNorAWorkersPriority) {
  start_guests(1);
  constexpr std::string_view kForged = "forged line";
  FrontEnd writes = taken_over(order(DoorOrder::What::kWrite, std::as_bytes(std::span(kForged))));
  ASSERT_TRUE(writes.barrier());
  EXPECT_EQ(daemon().log().find(kForged), std::string::npos);
  const auto all = descendants_of(daemon().pid());
  EXPECT_EQ(std::ranges::count_if(
                all, [](pid_t pid) { return ::getpriority(PRIO_PROCESS, static_cast<id_t>(pid)) == 10; }),
            1)
      << "the door, and nothing that others need";
  writes.close();
  FrontEnd takes = taken_over(order(DoorOrder::What::kTake));
  EXPECT_TRUE(takes.barrier()) << "it could have 1 GiB";
  expect_served();
}

}  // namespace
}  // namespace sluice::test
