// What a front-end can say about its guest's memory, a test per attack. See hostile_message_test.cc for what
// is expected after each.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/socket.h>
#include <sys/vfs.h>

#include <fstream>

#include "port/guest/vhost_user/vhost_fixture.h"
#include "port/guest/virtio/guest_memory.h"

namespace sluice::test {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

class Malicious_Memory : public VhostTest {
 protected:
  static vhost_user_region region(std::uint64_t guest, std::uint64_t bytes, std::uint64_t user,
                                  std::uint64_t offset) {
    return {.guest_address = guest, .bytes = bytes, .user_address = user, .file_offset = offset};
  }
  std::optional<std::uint64_t> add(FrontEnd& front, const vhost_user_region& one, int fd) {
    return front.tell(VHOST_USER_ADD_MEM_REG, vhost_user_mem_reg{0, one}, std::span(&fd, 1));
  }
  // Each of these is refused, alone and behind a good region, and the connection of who asked stays.
  void expect_refused(const vhost_user_region& bad, int fd) {
    FrontEnd front = connect();
    EXPECT_EQ(add(front, bad, fd), 1u);
    EXPECT_TRUE(port->vhost().regions.empty());
    vhost_user_mem_table table{};
    table.region_count = 2;
    table.regions[0] = region(0x7000000000, 4096, 0x7000000000, 0);
    table.regions[1] = bad;
    GuestRam good(4096);
    int fds[] = {good.fd(), fd};
    EXPECT_EQ(front.ask_bytes(VHOST_USER_SET_MEM_TABLE, std::as_bytes(std::span(&table, 1)).first(72), fds,
                              VHOST_USER_VERSION | VHOST_USER_NEED_REPLY),
              1u);
    EXPECT_TRUE(port->vhost().regions.empty()) << "nothing of the table is taken";
  }
  // Bytes of a table that says `count` regions and carries `carried`.
  static std::vector<std::byte> table_bytes(std::uint32_t count, std::size_t carried) {
    std::vector<std::byte> payload(8 + 32 * carried);
    std::memcpy(payload.data(), &count, sizeof(count));
    return FrontEnd::bytes_of(VHOST_USER_SET_MEM_TABLE, payload);
  }
};

TEST_F(Malicious_Memory, M1_TablesOfNoRegionsOrTooMany) {
  start();
  for (std::uint32_t count : {0u, 9u, 0x10000u, 0xffffffffu}) {
    FrontEnd front = connect();
    front.send_bytes(table_bytes(count, std::min(count, 8u)));
    EXPECT_TRUE(front.wait_closed()) << count;
  }
  EXPECT_EQ(counter("fault_message_size"), 4u);
  expect_unharmed();
}

TEST_F(Malicious_Memory, M2_MoreOrFewerDescriptorsThanRegions) {
  start();
  {
    GuestRam ram(kMiB);
    for (std::size_t descriptors : {0u, 1u, 3u, 8u}) {
      std::vector<int> fds(descriptors, ram.fd());
      FrontEnd front = connect();
      front.send_bytes(table_bytes(2, 2), fds);
      EXPECT_TRUE(front.wait_closed());
    }
    EXPECT_EQ(counter("fault_message_descriptors"), 4u);
  }
  expect_unharmed();
}

TEST_F(Malicious_Memory, M3_ARegionWithoutBytes) {
  start();
  {
    GuestRam ram(kMiB);
    expect_refused(region(0, 0, 0, 0), ram.fd());
  }
  expect_unharmed();
}

TEST_F(Malicious_Memory, M4_AddressesAndOffsetsThatWrap) {
  start();
  {
    GuestRam ram(kMiB);
    constexpr std::uint64_t kTop = ~std::uint64_t{0};
    expect_refused(region(kTop - 4095, 8192, 0, 0), ram.fd());
    expect_refused(region(0, 8192, kTop - 4095, 0), ram.fd());
    expect_refused(region(0, 8192, 0, kTop - 4095), ram.fd());
    expect_refused(region(0, kTop, 0, 0), ram.fd());
    expect_refused(region(1, kTop, 1, 1), ram.fd());
    expect_refused(region(0, 1ull << 63, 0, 1ull << 63), ram.fd());
  }
  expect_unharmed();
}

TEST_F(Malicious_Memory, M5_RegionsThatOverlap) {
  start();
  {
    GuestRam ram(kMiB);
    FrontEnd front = connect();
    EXPECT_EQ(add(front, region(0x100000, 8192, 0x500000, 0), ram.fd()), 0u);
    for (std::uint64_t guest : {0xff000ull, 0x100000ull, 0x101fffull}) {
      EXPECT_EQ(add(front, region(guest, 8192, 0x900000, 0), ram.fd()), 1u);
    }
    for (std::uint64_t user : {0x4ff000ull, 0x500000ull, 0x501fffull}) {
      EXPECT_EQ(add(front, region(0x200000, 8192, user, 0), ram.fd()), 1u);
    }
    EXPECT_EQ(add(front, region(0x102000, 8192, 0x502000, 0), ram.fd()), 0u) << "side by side";
    EXPECT_EQ(port->vhost().regions.size(), 2u);
  }
  expect_unharmed();
}

TEST_F(Malicious_Memory, M6_RegionsThatGoOnBehindTheEndOfTheirFile) {
  start();
  {
    GuestRam ram(kMiB);
    expect_refused(region(0, kMiB + 1, 0, 0), ram.fd());
    expect_refused(region(0, kMiB, 0, 4096), ram.fd());
    expect_refused(region(0, 1, 0, kMiB), ram.fd());
    FrontEnd front = connect();
    EXPECT_EQ(add(front, region(0, 1, 0, kMiB - 1), ram.fd()), 0u) << "its last byte";
  }
  expect_unharmed();
}

TEST_F(Malicious_Memory, M7_DescriptorsThatAreNoMemory) {
  start();
  {
    int pipe_ends[2];
    int pair[2];
    ASSERT_EQ(::pipe2(pipe_ends, O_CLOEXEC), 0);
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    GuestRam ram(kMiB);
    const std::string path = fmt::format("/proc/self/fd/{}", ram.fd());
    std::vector<UniqueFd> bad;
    bad.emplace_back(pipe_ends[0]);
    bad.emplace_back(pipe_ends[1]);
    bad.emplace_back(pair[0]);
    bad.emplace_back(pair[1]);
    bad.emplace_back(::eventfd(0, EFD_CLOEXEC));
    bad.emplace_back(::open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    bad.emplace_back(::open("/dev/zero", O_RDWR | O_CLOEXEC));
    bad.emplace_back(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    bad.emplace_back(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    bad.emplace_back(::open(path.c_str(), O_PATH | O_CLOEXEC));
    bad.emplace_back(::open("/proc/self/mem", O_RDWR | O_CLOEXEC));
    for (const UniqueFd& fd : bad) {
      ASSERT_TRUE(fd);
      expect_refused(region(0, 4096, 0, 0), fd.get());
    }
  }
  expect_unharmed();
}

TEST_F(Malicious_Memory, M7_AFileOfADiskWouldMakeAWorkerWaitForIt) {
  start();
  {
    const std::string path = folder() + "/on-disk";
    UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_TRUE(file);
    ASSERT_EQ(::ftruncate(file.get(), kMiB), 0);
    FrontEnd front = connect();
    auto answer = add(front, region(0, 4096, 0, 0), file.get());
    struct statfs system;
    ASSERT_EQ(::fstatfs(file.get(), &system), 0);
    if (system.f_type == TMPFS_MAGIC) {
      GTEST_SKIP() << "/tmp is in memory here";
    }
    EXPECT_EQ(answer, 1u);
  }
  expect_unharmed();
}

TEST_F(Malicious_Memory, M7_AFileThatMayNotBeWritten) {
  start();
  {
    UniqueFd file(::memfd_create("guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    ASSERT_EQ(::ftruncate(file.get(), kMiB), 0);
    ASSERT_EQ(::fcntl(file.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
    expect_refused(region(0, 4096, 0, 0), file.get());
  }
  expect_unharmed();
}

TEST_F(Malicious_Memory, M8_OneFileAsEightRegions) {
  start();
  {
    GuestRam ram(kMiB);
    vhost_user_mem_table table{};
    table.region_count = 8;
    for (std::uint64_t i = 0; i < 8; ++i) {
      table.regions[i] = region(i * kMiB, kMiB, i * kMiB, 0);
    }
    std::vector<int> fds(8, ram.fd());
    FrontEnd front = connect();
    EXPECT_EQ(front.ask_bytes(VHOST_USER_SET_MEM_TABLE, std::as_bytes(std::span(&table, 1)), fds,
                              VHOST_USER_VERSION | VHOST_USER_NEED_REPLY),
              0u);
    EXPECT_EQ(port->vhost().regions.size(), 8u);
  }
  expect_unharmed();
}

TEST_F(Malicious_Memory, M9_AFileThatIsTruncatedUnderRunningRingsEndsThatGuestAlone) {
  start();
  for (std::uint64_t left : {std::uint64_t{0}, std::uint64_t{4096}}) {
    const std::uint64_t before = counter("fault_memory_lost");
    FrontEnd front = connect();
    GoodGuest guest;
    guest.bring_up(front);
    ASSERT_TRUE(front.barrier());
    ASSERT_TRUE(carries(guest));
    guest.send(numbered_frame(1));
    ASSERT_EQ(::ftruncate(guest.ram.fd(), static_cast<off_t>(left)), 0);
    EXPECT_TRUE(turn_until([&] { return counter("fault_memory_lost") == before + 1; }));
    EXPECT_TRUE(front.wait_closed());
  }
  expect_unharmed();
}

TEST_F(Malicious_Memory, M9_AFileThatIsTruncatedBeforeARingStartsInIt) {
  start();
  {
    FrontEnd front = connect();
    GoodGuest guest;
    front.negotiate(kGuestFeatures, kGuestProtocol);
    const GuestRam* rams[] = {&guest.ram};
    front.send_table(rams);
    ASSERT_TRUE(front.barrier());
    ASSERT_EQ(::ftruncate(guest.ram.fd(), 0), 0);
    guest.set_up_rings(front);  // the control thread itself reads the used index
    EXPECT_TRUE(front.wait_closed());
    EXPECT_EQ(counter("fault_memory_lost"), 1u);
  }
  expect_unharmed();
}

TEST_F(Malicious_Memory, M10_HolesPunchedUnderRunningRingsAreZeroesToUs) {
  start();
  {
    FrontEnd front = connect();
    GoodGuest guest;
    guest.bring_up(front);
    ASSERT_TRUE(front.barrier());
    for (int i = 0; i < 100; ++i) {
      guest.send(numbered_frame(0));
      ASSERT_EQ(::fallocate(guest.ram.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                            static_cast<off_t>(guest.ram.bytes())),
                0);
      turn(0);
    }
    EXPECT_TRUE(front.barrier());
  }
  expect_unharmed();
}

TEST_F(Malicious_Memory, M11_ATableWithoutTheRunningRingsStopsThem) {
  start();
  {
    FrontEnd front = connect();
    GoodGuest guest;
    GuestRam other(kMiB, 0x70000000);
    guest.bring_up(front);
    ASSERT_TRUE(front.barrier());
    for (std::uint32_t i = 0; i < 20; ++i) {
      guest.send(numbered_frame(i));
    }
    const GuestRam* others[] = {&other};
    front.send_table(others);
    EXPECT_TRUE(front.barrier());
    EXPECT_FALSE(port->vhost().running);
    EXPECT_FALSE(host.attached[raw(kVictim)]);
    const GuestRam* back[] = {&guest.ram};
    front.send_table(back);
    EXPECT_TRUE(front.barrier());
    EXPECT_TRUE(port->vhost().running) << "and one with them lets them go on";
  }
  expect_unharmed();
}

TEST_F(Malicious_Memory, M12_RegionsThatAreAddedTwiceOrRemovedWhereThereIsNone) {
  start();
  {
    FrontEnd front = connect();
    GoodGuest guest;
    GuestRam more(kMiB, 0x70000000);
    front.negotiate(kGuestFeatures, kGuestProtocol);
    EXPECT_EQ(add(front, guest.ram.region(), guest.ram.fd()), 0u);
    EXPECT_EQ(add(front, guest.ram.region(), guest.ram.fd()), 0u) << "as QEMU does for each pair of queues";
    vhost_user_region nearly = guest.ram.region();
    nearly.bytes -= 4096;
    EXPECT_EQ(add(front, nearly, guest.ram.fd()), 1u);
    EXPECT_EQ(port->vhost().regions.size(), 1u);
    EXPECT_EQ(add(front, more.region(), more.fd()), 0u);
    guest.set_up_rings(front);
    ASSERT_TRUE(front.barrier());
    vhost_user_region wrong = more.region();
    wrong.bytes -= 4096;
    EXPECT_EQ(front.tell(VHOST_USER_REM_MEM_REG, vhost_user_mem_reg{0, wrong}), 1u);
    EXPECT_EQ(front.tell(VHOST_USER_REM_MEM_REG, vhost_user_mem_reg{0, more.region()}), 0u);
    EXPECT_EQ(front.tell(VHOST_USER_REM_MEM_REG, vhost_user_mem_reg{0, more.region()}), 1u);
    EXPECT_TRUE(carries(guest));
    // The one that the rings lie in; with its descriptor, as older front-ends do.
    int fd = guest.ram.fd();
    EXPECT_EQ(
        front.tell(VHOST_USER_REM_MEM_REG, vhost_user_mem_reg{0, guest.ram.region()}, std::span(&fd, 1)), 0u);
    EXPECT_FALSE(port->vhost().running);
    EXPECT_EQ(port->vhost().regions.size(), 0u);
  }
  expect_unharmed();
}

TEST_F(Malicious_Memory, M13_AThousandTablesLeakNothing) {
  start();
  {
    FrontEnd front = connect();
    GoodGuest guest;
    guest.bring_up(front);
    ASSERT_TRUE(front.barrier());
    const std::size_t descriptors = open_descriptors();
    const std::size_t mappings = guest_mappings();
    const GuestRam* rams[] = {&guest.ram};
    for (int i = 0; i < 1000; ++i) {
      ASSERT_TRUE(front.send_table(rams));
      if (i % 10 == 0) {
        ASSERT_TRUE(front.barrier());
      }
    }
    ASSERT_TRUE(front.barrier());
    EXPECT_EQ(open_descriptors(), descriptors);
    EXPECT_EQ(guest_mappings(), mappings);
    EXPECT_TRUE(carries(guest));
  }
  expect_unharmed();
}

TEST_F(Malicious_Memory, M14_ATebibyteThatIsMostlyNotThere) {
  start();
  {
    UniqueFd file(::memfd_create("guest-ram", MFD_CLOEXEC));
    constexpr std::uint64_t kTiB = 1ull << 40;
    ASSERT_EQ(::ftruncate(file.get(), kTiB), 0);
    FrontEnd front = connect();
    auto answer = add(front, region(0, kTiB, 0, 0), file.get());
    ASSERT_TRUE(answer) << "taken or refused, and answered";
    EXPECT_TRUE(front.barrier());
  }
  expect_unharmed();
}

TEST_F(Malicious_Memory, M15_OffsetsBesideThePage) {
  start();
  {
    FrontEnd front = connect();
    GoodGuest guest;
    front.negotiate(kGuestFeatures, kGuestProtocol);
    vhost_user_region askew = guest.ram.region();
    askew.file_offset = 7;
    askew.bytes -= 8;
    EXPECT_EQ(add(front, askew, guest.ram.fd()), 0u);
    guest.set_up_rings(front);  // aligned by its addresses, and not where it is mapped
    EXPECT_TRUE(front.barrier());
    EXPECT_FALSE(port->vhost().running);
    EXPECT_EQ(counter("fault_message_ring"), 2u);
  }
  expect_unharmed();
}

}  // namespace
}  // namespace sluice::test
