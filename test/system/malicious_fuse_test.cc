// Files that a peer serves itself and does not answer for (silent_fuse.h), sent to every socket that the
// daemon has. Nobody but the sender pays for them.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <vector>

#include "abi/app.h"
#include "abi/vhost_user.h"
#include "base/unix_socket.h"
#include "door/door_keeper.h"
#include "test/support/eventually.h"
#include "test/support/ping.h"
#include "test/system/fixture.h"
#include "test/system/processes.h"
#include "test/system/silent_fuse.h"
#include "test/vhost/mock_front_end.h"

namespace sluice::test {
namespace {

constexpr std::uint32_t kStranger = 65534;
constexpr const char* kOther = "vm9";  // the guest that nobody attacks

template <typename T>
std::vector<std::byte> message(std::uint32_t request, const T& payload) {
  return FrontEnd::bytes_of(request, std::as_bytes(std::span(&payload, 1)));
}

const vhost_user_region kRegion{.guest_address = 0, .bytes = 4096, .user_address = 0, .file_offset = 0};

std::vector<std::byte> kick() {
  return message(VHOST_USER_SET_VRING_KICK, std::uint64_t{0});
}
std::vector<std::byte> one_region() {
  return message(VHOST_USER_ADD_MEM_REG, vhost_user_mem_reg{0, kRegion});
}
std::vector<std::byte> table_of_one() {
  vhost_user_mem_table table{};
  table.region_count = 1;
  table.regions[0] = kRegion;
  const auto whole = std::as_bytes(std::span(&table, 1));
  return FrontEnd::bytes_of(VHOST_USER_SET_MEM_TABLE,
                            whole.first(offsetof(vhost_user_mem_table, regions) + sizeof kRegion));
}

class Malicious_Fuse : public SystemTest {
 protected:
  static std::string guest(const std::string& name, const std::string& more = "") {
    return "\n[port." + name + "]\ntype = \"guest\"\nsocket = \"@/" + name +
           ".sock\"\nmac = \"52:54:00:00:00:0" + name.back() + "\"\n" + more;
  }
  std::string socket_of(const std::string& name) { return daemon().path(name + ".sock"); }
  FrontEnd front_end(const std::string& name) { return FrontEnd::connect(socket_of(name)); }
  std::uint64_t stuck() { return daemon().counter("daemon.doors_stuck"); }

  // The daemon answers its operator, another guest gets through, and no thread of it waits in the kernel.
  void expect_served() {
    ASSERT_TRUE(daemon().call("version"));
    FrontEnd other = front_end(kOther);
    ASSERT_TRUE(other.connected());
    EXPECT_TRUE(other.barrier()) << daemon().log();
    EXPECT_TRUE(eventually([&] { return !has_thread_in_d(); }));
  }
  static std::size_t threads_in_d(pid_t pid) {
    const auto tasks = tasks_of(pid);
    return static_cast<std::size_t>(std::ranges::count_if(
        tasks, [](const std::string& task) { return task.compare(task.rfind(')'), 4, ") D ") == 0; }));
  }
  bool has_thread_in_d() { return threads_in_d(daemon().pid()) > 0; }
  // Until it is killed, it waits as if it could be: the kernel's function tells (fs/fuse/dev.c).
  static bool waits_for_fuse(pid_t pid) {
    std::string function;
    std::ifstream("/proc/" + std::to_string(pid) + "/wchan") >> function;
    return function == "request_wait_answer";
  }
  bool doors_wait(std::size_t count) {
    return eventually([&] {
      const auto doors = descendants_of(daemon().pid());
      return std::ranges::count_if(doors, waits_for_fuse) == static_cast<std::ptrdiff_t>(count);
    });
  }
  void expect_ends_and_starts_again() {
    EXPECT_EQ(daemon().stop(), 0) << daemon().log();
    auto again = daemon().start();
    ASSERT_TRUE(again) << again.error().message;
    expect_served();
    EXPECT_TRUE(ping(wire_ns(), "10.77.0.1").lossless());
  }
};

TEST_F(Malicious_Fuse, AFileIsNobodysButItsSendersWhateverMessageItComesWith) {
  NEED_SILENT_FUSE(fuse, kSilentToAll);
  std::string config = nic_table() + guest(kOther);
  const std::vector<std::vector<std::byte>> messages{
      kick(),
      message(VHOST_USER_SET_VRING_CALL, std::uint64_t{1}),
      message(VHOST_USER_SET_VRING_ERR, std::uint64_t{0}),
      one_region(),
      table_of_one(),
      message(VHOST_USER_SET_LOG_FD, std::uint64_t{0}),
      message(200, std::uint64_t{0}),  // a request that there is not
      std::vector<std::byte>(3),       // not even a header
  };
  for (std::size_t i = 0; i < messages.size(); ++i) {
    config += guest("vm" + std::to_string(i + 1));
  }
  start(config);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    EXPECT_EQ((*fuse)->send(socket_of("vm" + std::to_string(i + 1)), SOCK_STREAM, messages[i]), 0);
    expect_served();
  }
  EXPECT_TRUE(doors_wait(messages.size()));
  // Each of their doors waits for the server, and cannot be killed. It gives way to who comes next.
  for (std::size_t i = 0; i < messages.size(); ++i) {
    EXPECT_TRUE(front_end("vm" + std::to_string(i + 1)).barrier()) << daemon().log();
  }
  EXPECT_TRUE(eventually([&] { return stuck() == messages.size(); })) << daemon().log();
  EXPECT_GE(daemon().counter("daemon.doors_killed"), messages.size());
  expect_served();
  expect_ends_and_starts_again();
}

// One at a time, for what the daemon must not ask is found so. What is answered holds no door up either.
TEST_F(Malicious_Fuse, AFileIsAskedNothingThatItsServerMightNotAnswer) {
  for (const std::uint32_t silent_to :
       {kSilentToGetattr, kSilentToStatfs, kSilentToRelease, kSilentToFlush}) {
    NEED_SILENT_FUSE(fuse, silent_to);
    start(nic_table() + guest(kOther) + guest("vm1") + guest("vm2") + guest("vm3"));
    ASSERT_EQ((*fuse)->send(socket_of("vm1"), SOCK_STREAM, kick()), 0);
    ASSERT_EQ((*fuse)->send(socket_of("vm2"), SOCK_STREAM, one_region()), 0);
    ASSERT_EQ((*fuse)->send(socket_of("vm3"), SOCK_STREAM, table_of_one()), 0);
    expect_served();
    if (silent_to != kSilentToFlush) {
      EXPECT_TRUE(eventually([&] { return daemon().counter("port.vm1.messages") == 1; }));
      for (const char* name : {"vm2", "vm3"}) {
        EXPECT_TRUE(eventually([&] {
          return daemon().counter(std::string("port.") + name + ".fault_message_memory") == 1;
        })) << name;
      }
      EXPECT_EQ(stuck(), 0u);
    }
    EXPECT_EQ(daemon().stop(), 0) << daemon().log();
  }
}

// At so many stuck doors a port takes nobody, and others are served; when they have ended it takes somebody.
TEST_F(Malicious_Fuse, StuckDoorsOfOnePortAreBoundedAndItServesAgainWhenTheyHaveEnded) {
  NEED_SILENT_FUSE(fuse, kSilentToAll);
  start(nic_table() + guest(kOther) + guest("vm1"));
  for (std::uint64_t i = 1; i <= kMostStuckDoorsOfOne; ++i) {
    ASSERT_EQ((*fuse)->send(socket_of("vm1"), SOCK_STREAM, kick()), 0);
    ASSERT_TRUE(doors_wait(i));
    if (i < kMostStuckDoorsOfOne) {
      EXPECT_TRUE(front_end("vm1").barrier()) << daemon().log();
    } else {
      front_end("vm1").close();
    }
    ASSERT_TRUE(eventually([&] { return stuck() == i; })) << daemon().log();
  }
  FrontEnd refused = front_end("vm1");
  EXPECT_TRUE(refused.wait_closed());
  expect_served();
  fuse->reset();  // its server is gone: who waits for it goes on
  EXPECT_TRUE(eventually([&] { return stuck() == 0; })) << daemon().log();
  EXPECT_TRUE(front_end("vm1").barrier()) << daemon().log();
}

// Who comes back faster than its doors can be found stuck does not get one each time.
TEST_F(Malicious_Fuse, DoorsThatAreToEndAreBoundedToo) {
  NEED_SILENT_FUSE(fuse, kSilentToAll);
  start(nic_table() + guest(kOther) + guest("vm1"));
  const auto refused = [&] { return port_counter("vm1", "refused") > 0; };
  for (std::ptrdiff_t i = 1; i <= 64 && !refused(); ++i) {
    ASSERT_EQ((*fuse)->send(socket_of("vm1"), SOCK_STREAM, kick()), 0);
    ASSERT_TRUE(eventually([&] {
      const auto doors = descendants_of(daemon().pid());
      return std::ranges::count_if(doors, waits_for_fuse) >= i || refused();
    })) << daemon().log();
  }
  EXPECT_TRUE(refused()) << daemon().log();
  expect_served();
  EXPECT_TRUE(eventually([&] {
    const std::uint64_t ending = daemon().counter("daemon.doors_ending");
    return ending > 0 && stuck() == ending;
  })) << daemon().log();
  EXPECT_LE(stuck(), kMostEndingDoorsOfOne);
  expect_ends_and_starts_again();
}

// To who may not come in: unread, and closed by somebody who may wait.
TEST_F(Malicious_Fuse, AStrangersFileIsClosedElsewhere) {
  NEED_SILENT_FUSE(fuse, kSilentToAll);
  start(nic_table() + guest(kOther) + guest("vm1", "allow_users = [\"root\"]\n"));
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ((*fuse)->send(socket_of("vm1"), SOCK_STREAM, kick(), kStranger, 16), 0);
  }
  expect_served();
  EXPECT_TRUE(eventually([&] { return daemon().counter("daemon.buried") >= 8; })) << daemon().log();
  EXPECT_EQ(daemon().counter("port.vm1.denied"), 8u);
  expect_ends_and_starts_again();
}

// Where nothing but bytes is expected. Kernels with SO_PASSRIGHTS say no to the sender.
TEST_F(Malicious_Fuse, AFileSentToAProgramsOrTheOperatorsSocketHoldsUpNobody) {
  NEED_SILENT_FUSE(fuse, kSilentToAll);
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int expected = refuse_descriptors(probe.get()) ? EPERM : 0;
  start(nic_table() + guest(kOther) + app_port("dns") + app_port("web"));
  const std::array<std::byte, sizeof(sluice_app_hello)> hello{};
  EXPECT_EQ((*fuse)->send(socket_of("dns"), SOCK_SEQPACKET, hello), expected);
  expect_served();
  EXPECT_EQ((*fuse)->send(daemon().control(), SOCK_STREAM, hello), expected);
  expect_served();
  EXPECT_EQ((*fuse)->send_wake(socket_of("web")), expected);
  expect_served();
  (*fuse)->hang_up();
  expect_served();
  expect_ends_and_starts_again();
}

// The same before Linux 6.16, where the sender is not refused: doors read what programs say, and sockets are
// closed by one, the lingering ones too.
TEST_F(Malicious_Fuse, OnAnOldKernelWhatComesToAProgramsSocketIsReadAndClosedElsewhere) {
  NEED_SILENT_FUSE(fuse, kSilentToAll);
  daemon().run_by({OLD_KERNEL});
  start(nic_table() + guest(kOther) + app_port("dns") + app_port("web"));
  const std::array<std::byte, sizeof(sluice_app_hello)> hello{};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ((*fuse)->send(socket_of("dns"), SOCK_SEQPACKET, hello, kStranger, 16), 0);
    EXPECT_EQ((*fuse)->send(socket_of("dns"), SOCK_SEQPACKET, hello, 0, 16), 0);
  }
  EXPECT_TRUE(eventually([&] {
    return daemon().counter("port.dns.refused") == 3 && daemon().counter("port.dns.denied") == 3;
  })) << daemon().log();
  EXPECT_EQ((*fuse)->send_wake(socket_of("web")), 0);
  EXPECT_TRUE(eventually([&] { return daemon().counter("port.web.attaches") == 1; })) << daemon().log();
  const std::uint64_t buried = daemon().counter("daemon.buried");
  (*fuse)->hang_up();
  EXPECT_TRUE(eventually([&] { return daemon().counter("port.web.detaches") == 1; })) << daemon().log();
  EXPECT_TRUE(eventually([&] { return daemon().counter("daemon.buried") >= buried + 2; })) << daemon().log();
  expect_served();
  expect_ends_and_starts_again();
}

TEST_F(Malicious_Fuse, OnAnOldKernelAProgramAttachesAndIsServed) {
  daemon().run_by({OLD_KERNEL});
  start(nic_table() + app_port("dns") + udp_rule(53, "dns"));
  for (int session = 1; session <= 3; ++session) {
    auto app = attach("dns", 53, 1000);
    auto frames = flow(53, {.count = 100});
    expect_sent(*frames, 100);
    EXPECT_TRUE(eventually(
        [&] { return port_counter("dns", "rx_packets") == static_cast<std::uint64_t>(100 * session); }));
    app.reset();
    expect_port_counter("dns", "detaches", static_cast<std::uint64_t>(session));
  }
}

}  // namespace
}  // namespace sluice::test
