// Descriptors that make who closes them wait: of sockets that linger. Nobody but the sender pays for them.
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <filesystem>
#include <list>

#include "abi/app.h"
#include "abi/vhost_user.h"
#include "base/unix_socket.h"
#include "test/support/eventually.h"
#include "test/system/fixture.h"
#include "test/system/lingering_socket.h"
#include "test/system/processes.h"
#include "test/vhost/mock_front_end.h"

namespace sluice::test {
namespace {

class Malicious_Descriptor : public SystemTest {
 protected:
  std::string guest(const std::string& name) {
    return "\n[port." + name + "]\ntype = \"guest\"\nsocket = \"@/" + name +
           ".sock\"\nmac = \"52:54:00:00:00:0" + name.back() + "\"\n";
  }
  std::string socket_of(const std::string& name) { return daemon().path(name + ".sock"); }
  FrontEnd front_end(const std::string& name) { return FrontEnd::connect(socket_of(name)); }

  std::uint64_t counter(const std::string& name) { return daemon().counter(name); }
  // The daemon answers its operator, and another guest gets through.
  void expect_served() {
    ASSERT_TRUE(daemon().call("version"));
    FrontEnd other = front_end("vm2");
    ASSERT_TRUE(other.connected());
    EXPECT_TRUE(other.barrier()) << daemon().log();
  }
  void expect_ends_and_starts_again() {
    EXPECT_EQ(daemon().stop(), 0) << daemon().log();
    auto again = daemon().start();
    EXPECT_TRUE(again) << again.error().message;
  }
};

TEST_F(Malicious_Descriptor, OfASocketThatLingersDoesNotHoldUpTheDaemonWhereverItIsSent) {
  start(nic_table() + app_port("dns") + guest("vm1") + guest("vm2"));
  std::list<LingeringSocket> lingering;  // as long as its other end is open
  const auto send_to = [&](FrontEnd& front, std::uint32_t request, std::uint64_t word) {
    lingering.emplace_back([&](int fd) { front.send(request, word, std::span(&fd, 1)); });
  };
  {  // as a descriptor that a message is for, and one that none is for
    FrontEnd front = front_end("vm1");
    send_to(front, VHOST_USER_SET_VRING_CALL, 0);
    send_to(front, VHOST_USER_SET_VRING_ERR, 0);
    expect_served();
  }
  for (const std::uint32_t request :
       {std::uint32_t{VHOST_USER_SET_VRING_KICK}, std::uint32_t{VHOST_USER_GET_FEATURES}}) {
    FrontEnd front = front_end("vm1");
    send_to(front, request, 0);
    expect_served();
  }
  {  // unread: said before anybody was there to hear it, and then the end
    FrontEnd busy = front_end("vm1");
    ASSERT_TRUE(busy.barrier());
    FrontEnd second = front_end("vm1");
    send_to(second, VHOST_USER_SET_VRING_CALL, 0);
    second.close();
    expect_served();
  }
  {  // to a program's port, with its hello
    auto socket = connect_to_path(socket_of("dns"), SOCK_SEQPACKET);
    ASSERT_TRUE(socket) << socket.error().message;
    FrontEnd raw(std::move(*socket));
    const std::array<std::byte, 16> hello{};
    // Refused to its sender, by kernels that have SO_PASSRIGHTS.
    lingering.emplace_back([&](int fd) { raw.send_bytes(hello, std::span(&fd, 1)); });
    expect_served();
  }
  EXPECT_GE(counter("daemon.doors_opened"), 4u);
  expect_ends_and_starts_again();
}

// Its door closes the socket for an hour, and so never tells that the front-end has gone.
TEST_F(Malicious_Descriptor, AFrontEndWhoseDoorIsHeldUpGivesWayToTheNextOne) {
  start(nic_table() + guest("vm1") + guest("vm2"));
  std::list<LingeringSocket> lingering;
  FrontEnd front = front_end("vm1");
  ASSERT_TRUE(front.barrier());  // so it does not give way for having said nothing
  const auto doors = descendants_of(daemon().pid());
  for (pid_t door : doors) {
    ASSERT_EQ(::kill(door, SIGSTOP), 0);  // until the sender has let go of its socket
  }
  lingering.emplace_back([&](int fd) { front.send(VHOST_USER_SET_VRING_ERR, 0, std::span(&fd, 1)); });
  for (pid_t door : doors) {
    ASSERT_EQ(::kill(door, SIGCONT), 0);
  }
  front.close();
  front_end("vm1").close();  // one that does not wait is in nobody's way
  FrontEnd next = front_end("vm1");
  ASSERT_TRUE(next.connected());
  EXPECT_TRUE(next.barrier()) << daemon().log();
  EXPECT_EQ(counter("port.vm1.connects"), 2u);
  expect_served();
  expect_ends_and_starts_again();
}

// Its door answers, and so nobody takes the place of a front-end that is only quiet.
TEST_F(Malicious_Descriptor, AQuietFrontEndGivesWayToNobody) {
  start(nic_table() + guest("vm1") + guest("vm2"));
  FrontEnd front = front_end("vm1");
  ASSERT_TRUE(front.barrier());
  FrontEnd next = front_end("vm1");
  EXPECT_TRUE(next.wait_closed());
  EXPECT_TRUE(front.barrier()) << daemon().log();
  EXPECT_EQ(counter("port.vm1.refused"), 1u);
}

// Before Linux 6.16 its sender is not refused: a door reads the hello that it comes with.
TEST_F(Malicious_Descriptor, OnAnOldKernelASocketThatLingersInAHelloHoldsUpNobody) {
  daemon().run_by({OLD_KERNEL});
  start(nic_table() + app_port("dns") + guest("vm2"));
  std::list<LingeringSocket> lingering;
  std::list<FrontEnd> peers;
  for (const bool closes : {false, true, false, true}) {
    auto socket = connect_to_path(socket_of("dns"), SOCK_SEQPACKET);
    ASSERT_TRUE(socket) << socket.error().message;
    FrontEnd& raw = peers.emplace_back(std::move(*socket));
    const std::array<std::byte, sizeof(sluice_app_hello)> hello{};
    lingering.emplace_back([&](int fd) { raw.send_bytes(hello, std::span(&fd, 1)); });
    if (closes) {
      raw.close();
    }
    expect_served();
  }
  EXPECT_TRUE(eventually([&] { return counter("daemon.doors_opened") >= 4; })) << daemon().log();
  expect_served();
  expect_ends_and_starts_again();
}

TEST_F(Malicious_Descriptor, ADaemonThatIsKilledLeavesNoDoorBehind) {
  start(nic_table() + guest("vm1") + guest("vm2"));
  FrontEnd front = front_end("vm1");
  ASSERT_TRUE(front.barrier());
  const auto doors = descendants_of(daemon().pid());
  ASSERT_FALSE(doors.empty());
  daemon().kill();
  EXPECT_TRUE(front.wait_closed());
  for (pid_t door : doors) {
    EXPECT_TRUE(eventually([&] { return !std::filesystem::exists("/proc/" + std::to_string(door)); }));
  }
}

// What a door is allowed is enough for all that a front-end may say.
TEST_F(Malicious_Descriptor, AGuestSetsUpAndChangesItsMemoryThroughItsDoor) {
  start(nic_table() + guest("vm1") + guest("vm2"));
  FrontEnd front = front_end("vm1");
  GuestRam ram(1 << 20), more(1 << 20, 0x900000);
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  for (int round = 0; round < 3; ++round) {
    const GuestRam* rams[] = {&ram, &more};
    ASSERT_TRUE(front.send_table(rams));
    const int memory = more.fd(), call = event.get();
    ASSERT_TRUE(front.send(VHOST_USER_REM_MEM_REG, vhost_user_mem_reg{0, more.region()}));
    ASSERT_TRUE(
        front.send(VHOST_USER_ADD_MEM_REG, vhost_user_mem_reg{0, more.region()}, std::span(&memory, 1)));
    ASSERT_TRUE(front.send(VHOST_USER_SET_VRING_CALL, std::uint64_t{0}, std::span(&call, 1)));
    ASSERT_TRUE(front.barrier()) << daemon().log();
  }
  EXPECT_EQ(counter("port.vm1.connects"), 1u);
}

TEST_F(Malicious_Descriptor, ADoorIsNobodyAndMayDoNothing) {
  start(nic_table() + guest("vm1") + guest("vm2"));
  FrontEnd front = front_end("vm1");
  ASSERT_TRUE(front.barrier());
  const auto children = children_of(daemon().pid());
  ASSERT_EQ(children.size(), 1u) << "what replaces a zygote that was killed";
  const auto doors = descendants_of(children.front());
  ASSERT_EQ(doors.size(), 2u) << "the zygote, and one door for the guest that is attached";
  for (pid_t door : doors) {
    const std::string status = status_of(door);
    for (const char* none :
         {"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
          "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2",
          "Uid:\t1936485379\t1936485379", "Gid:\t1936485379\t1936485379", "Groups:\t \n"}) {
      EXPECT_NE(status.find(none), std::string::npos) << none << "\n" << status;
    }
  }
}

}  // namespace
}  // namespace sluice::test
