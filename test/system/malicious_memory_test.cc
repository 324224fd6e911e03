// What a front-end can do with the memory that it gives: the daemon's address space, and its allocations.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <fstream>

#include "port/guest/vhost_user/features.h"
#include "test/system/fixture.h"
#include "test/vhost/mock_front_end.h"

namespace sluice::test {
namespace {

constexpr std::uint16_t kUdp = 5000;
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

std::string guest_port(int number, const std::string& more = "") {
  return fmt::format(
      "[port.vm{}]\ntype = \"guest\"\nsocket = \"@/vm{}.sock\"\nmac = \"52:54:00:00:00:0{}\"\n{}\n", number,
      number, number + 1, more);
}

class Malicious_Memory : public SystemTest {
 protected:
  std::string config(const std::string& of_guest = "") {
    return nic_table() + app_port("app") + udp_rule(kUdp, "app") + guest_port(0, of_guest) + guest_port(1);
  }
  FrontEnd front_end(int number) {
    FrontEnd front = FrontEnd::connect(daemon().path(fmt::format("vm{}.sock", number)));
    front.negotiate(
        kFeatureVersion1 | kFeatureProtocol,
        1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK | 1ull << VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS);
    return front;
  }
  static std::optional<std::uint64_t> add(FrontEnd& front, std::uint64_t at, std::uint64_t bytes, int fd) {
    const vhost_user_region region{
        .guest_address = at, .bytes = bytes, .user_address = at, .file_offset = at};
    return front.tell(VHOST_USER_ADD_MEM_REG, vhost_user_mem_reg{0, region}, std::span(&fd, 1));
  }
  std::uint64_t kib_of_status(const std::string& key) {
    std::ifstream status(fmt::format("/proc/{}/status", daemon().pid()));
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with(key + ":")) {
        return std::stoull(line.substr(key.size() + 1));
      }
    }
    return 0;
  }
  // An app attaches and receives, another guest gives its memory, a large request is read and answered.
  void expect_others_are_served() {
    Stream stream = stream_to("app", kUdp);
    FrontEnd other = front_end(1);
    GuestRam ram(64 << 20);
    const GuestRam* rams[] = {&ram};
    EXPECT_TRUE(other.send_table(rams));
    EXPECT_TRUE(other.barrier());
    EXPECT_EQ(guest("vm1")["regions"].size(), 1u);
    const auto answer = daemon().call("show.ports", {{"unknown", std::string(100'000, 'x')}});
    EXPECT_FALSE(answer) << "it has no such parameter, and says so";
    EXPECT_EQ(daemon().show("ports").size(), 3u);
    stream.expect_nothing_lost();
  }
  nlohmann::json guest(const std::string& name) {
    for (const nlohmann::json& each : daemon().show("guests")) {
      if (each["name"] == name) {
        return each;
      }
    }
    return {};
  }
};

TEST_F(Malicious_Memory, AFrontEndThatMapsAllItCanLeavesRoomForEverybodyElse) {
  start(config());
  FrontEnd front = front_end(0);
  UniqueFd file(::memfd_create("guest-ram", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), off_t{1} << 47), 0);
  std::uint64_t at = 0, taken = 0;
  for (std::uint64_t bytes = std::uint64_t{1} << 46; bytes >= 4096;) {
    const auto answer = add(front, at, bytes, file.get());
    ASSERT_TRUE(answer);
    if (*answer == 0) {
      at += bytes;
      taken += bytes;
    } else {
      bytes /= 2;
    }
  }
  EXPECT_LE(taken, 256 * kGiB);
  EXPECT_EQ(guest("vm0")["memory"]["bytes"], taken);
  EXPECT_GT(port_counter("vm0", "fault_memory_budget"), 0u);
  EXPECT_LT(kib_of_status("VmSize"), std::uint64_t{2} << 30) << "2 TiB";
  EXPECT_EQ(daemon().counter("daemon.guest_memory_bytes"), taken);
  expect_others_are_served();
  front.close();
  EXPECT_TRUE(eventually([&] { return daemon().counter("daemon.guest_memory_bytes") == 0; }));
}

TEST_F(Malicious_Memory, PopulatedMemoryIsThereBeforeItIsUsedAndAFrontEndMayGoMeanwhile) {
  constexpr std::uint64_t kBytes = 256 << 20;
  start(config("populate = true"));
  UniqueFd file(::memfd_create("guest-ram", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), kBytes), 0);
  {
    FrontEnd front = front_end(0);
    const int fd = file.get();
    const vhost_user_region region{.guest_address = 0, .bytes = kBytes, .user_address = 0, .file_offset = 0};
    ASSERT_TRUE(front.send(VHOST_USER_ADD_MEM_REG, vhost_user_mem_reg{0, region}, std::span(&fd, 1)));
  }
  EXPECT_TRUE(eventually([&] { return guest("vm0")["state"] == "waiting"; }));
  expect_others_are_served();
  FrontEnd front = front_end(0);
  ASSERT_EQ(add(front, 0, kBytes, file.get()), 0u);
  EXPECT_EQ(guest("vm0")["memory"]["populated_bytes"], kBytes);
  struct stat status{};
  ASSERT_EQ(::fstat(file.get(), &status), 0);
  EXPECT_EQ(static_cast<std::uint64_t>(status.st_blocks) * 512, kBytes);
}

// As when an operator has limited it, or the machine promises no more.
TEST_F(Malicious_Memory, ARequestThatNeedsMoreMemoryThanThereIsEndsItsConnectionAndNothingElse) {
  start(config());
  std::optional<Stream> stream(stream_to("app", kUdp));
  const std::uint64_t bytes = kib_of_status("VmSize") * 1024;
  const rlimit tight{bytes + (16 << 20), RLIM_INFINITY}, none{RLIM_INFINITY, RLIM_INFINITY};
  ASSERT_EQ(::prlimit(daemon().pid(), RLIMIT_AS, &tight, nullptr), 0);
  // Half a million numbers: parsed, they take sixteen times their text.
  nlohmann::json large = nlohmann::json::array();
  for (int i = 0; i < 500'000; ++i) {
    large.push_back(0);
  }
  auto client = RpcClient::connect(daemon().control(), 120'000);
  ASSERT_TRUE(client);
  EXPECT_FALSE(client->call("show.ports", {{"unknown", large}}));
  ASSERT_TRUE(daemon().running()) << daemon().log();
  EXPECT_EQ(daemon().show("ports").size(), 3u) << "the next request is served";
  ASSERT_EQ(::prlimit(daemon().pid(), RLIMIT_AS, &none, nullptr), 0);
  EXPECT_GE(daemon().counter("daemon.out_of_memory"), 1u);
  stream->expect_nothing_lost();
  stream.reset();
  expect_others_are_served();
}

TEST_F(Malicious_Memory, PacketsAreInNoCoreFileOfTheDaemon) {
  start(config());
  auto app = attach("app", kUdp, 1);
  FrontEnd front = front_end(0);
  GuestRam ram(4 << 20);
  const GuestRam* rams[] = {&ram};
  ASSERT_TRUE(front.send_table(rams));
  ASSERT_TRUE(front.barrier());
  std::ifstream smaps(fmt::format("/proc/{}/smaps", daemon().pid()));
  std::size_t found = 0;
  std::string mapping;
  for (std::string line; std::getline(smaps, line);) {
    if (line.find("/memfd:") != std::string::npos) {
      mapping = line;
      ++found;
    } else if (!mapping.empty() && line.starts_with("VmFlags:")) {
      EXPECT_NE(line.find(" dd"), std::string::npos) << mapping;
      mapping.clear();
    }
  }
  EXPECT_GE(found, 4u) << "the host's arena, the app's, its segments, the guest's memory";
}

}  // namespace
}  // namespace sluice::test
