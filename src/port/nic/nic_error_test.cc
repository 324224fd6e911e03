// What a person reads when something is in the way, and what netlink tells.
#include <cap-ng.h>
#include <linux/if_link.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>

#include "port/nic/nic_fixture.h"
#include "port/nic/nic_info.h"
#include "port/nic/nic_watch.h"

namespace sluice {
namespace {

using ::testing::ExitedWithCode;

bool says(const std::string& message, const std::string& words) {
  if (message.find(words) != std::string::npos) {
    return true;
  }
  ADD_FAILURE() << "\"" << message << "\" does not say \"" << words << "\"";
  return false;
}

TEST_F(NicTest, ZeroCopyIsRefusedClearlyWhereTheDriverHasNone) {
  wire();
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  NicQueueOptions options = queue_options();
  options.mode = BindMode::kZeroCopy;
  auto queue = open(options, *memory.umem, *pool);
  ASSERT_FALSE(queue);
  says(queue.error().message, "queue 0 of nic0");
  says(queue.error().message, "no AF_XDP zero copy");
  says(queue.error().message, "mode = \"auto\"");
  EXPECT_EQ(pool->inflight(), 0u);
  options.mode = BindMode::kCopy;
  EXPECT_TRUE(open(options, *memory.umem, *pool));  // the failure has left nothing behind
}

TEST_F(NicTest, AQueueThatSomebodyElseHasIsRefusedByName) {
  wire();
  Memory ours = this->memory(pages()), theirs = this->memory(pages());
  auto our_pool = ours.pool(pages()), their_pool = theirs.pool(pages());
  auto their_queue = open(queue_options(), *theirs.umem, *their_pool).value();
  auto queue = open(queue_options(), *ours.umem, *our_pool);
  ASSERT_FALSE(queue);
  EXPECT_EQ(queue.error().os_errno, EBUSY);
  says(queue.error().message, "queue 0 of nic0");
  says(queue.error().message, "another AF_XDP socket");
}

TEST_F(NicTest, AQueueThatIsNotThereIsRefusedWithTheirNumber) {
  wire(2);
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  auto queue = open(queue_options(2), *memory.umem, *pool);
  ASSERT_FALSE(queue);
  says(queue.error().message, "nic0 has no queue 2: it has 2");
}

TEST_F(NicTest, FramesThatDoNotFitAPageAreAnErrorAndNotASilentLoss) {
  wire(1, 3000);
  Memory small = this->memory(pages()), large = this->memory(pages(), 4096);
  auto small_pool = small.pool(pages()), large_pool = large.pool(pages());
  auto queue = open(queue_options(), *small.umem, *small_pool);
  ASSERT_FALSE(queue);
  says(queue.error().message, "MTU of nic0 (3000) does not fit pages of 2048 bytes");
  EXPECT_TRUE(open(queue_options(), *large.umem, *large_pool));
}

TEST_F(NicTest, ANicThatIsNotThereIsNamed) {
  wire();
  Memory memory = this->memory(pages());
  auto pool = memory.pool(pages());
  NicQueueOptions options = queue_options();
  options.netdev = "nosuch";
  auto queue = open(options, *memory.umem, *pool);
  ASSERT_FALSE(queue);
  says(queue.error().message, "no network device nosuch");
  Program program;
  auto link = nic_ns_->in([&] { return XdpLink::attach(9999, program.fd()); });
  ASSERT_FALSE(link);
  says(link.error().message, "no network device with index 9999");
}

// In a child: without the capability that lifts the limit, with a limit of 64 KiB.
[[noreturn]] void register_with_little_memory() {
  ArenaOptions options;
  options.name = "limit";
  options.page_count = 4096;
  Arena arena = Arena::create(options).value();
  rlimit limit{};
  limit.rlim_cur = limit.rlim_max = 65536;
  ::setrlimit(RLIMIT_MEMLOCK, &limit);
  ::capng_get_caps_process();
  ::capng_update(CAPNG_DROP, static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED), CAP_IPC_LOCK);
  ::capng_apply(CAPNG_SELECT_CAPS);
  auto umem = Umem::create(arena);
  std::fprintf(stderr, "%s\n", umem ? "registered all the same" : umem.error().message.c_str());
  std::_Exit(umem ? 0 : 3);
}

TEST_F(NicTest, TooLittleLockedMemoryIsAnErrorThatSaysHowMuchIsNeeded) {
  EXPECT_EXIT(register_with_little_memory(), ExitedWithCode(3),
              "RLIMIT_MEMLOCK, 65536 bytes.*CAP_IPC_LOCK.*8388608 bytes");
}

TEST_F(NicTest, ANicWithAnotherXdpProgramIsRefusedWithItsNameAndId) {
  wire();
  Program first, second;
  auto link = attach(first.fd());
  ASSERT_TRUE(link) << link.error().message;
  auto busy = attach(second.fd());
  ASSERT_FALSE(busy);
  bpf_prog_info info{};
  std::uint32_t info_bytes = sizeof(info);
  ASSERT_EQ(::bpf_obj_get_info_by_fd(first.fd(), &info, &info_bytes), 0);
  says(busy.error().message, fmt::format("nic0 is taken by the XDP program nic_test (id {})", info.id));
  *link = XdpLink();
  EXPECT_TRUE(attach(second.fd()));
}

// Two instructions: r0 = XDP_PASS; exit.
UniqueFd pass_program(const char* name) {
  std::array<bpf_insn, 2> code{};
  code[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
  code[0].imm = XDP_PASS;
  code[1].code = BPF_JMP | BPF_EXIT;
  return UniqueFd(::bpf_prog_load(BPF_PROG_TYPE_XDP, name, "GPL", code.data(), code.size(), nullptr));
}

TEST_F(NicTest, LibxdpsDispatcherIsRecognised) {
  wire();
  UniqueFd dispatcher = pass_program("xdp_dispatcher");
  ASSERT_TRUE(dispatcher);
  // As libxdp attaches: by netlink, without a link.
  ASSERT_EQ(nic_ns_->in([&] {
    return ::bpf_xdp_attach(pair_->nic_ifindex(), dispatcher.get(), XDP_FLAGS_SKB_MODE, nullptr);
  }),
            0);
  Program program;
  auto link = attach(program.fd());
  ASSERT_FALSE(link);
  says(link.error().message, "xdp_dispatcher");
  says(link.error().message, "xdp-loader unload");
}

TEST_F(NicTest, AnMtuThatXdpCannotHaveIsSaidToBeTheReason) {
  wire(1, 9000);
  Program program;
  auto link = attach(program.fd());
  ASSERT_FALSE(link);
  says(link.error().message, "MTU of nic0 (9000");
  says(link.error().message, "too large for XDP in driver veth");
}

TEST_F(NicTest, WithoutNativeXdpGenericIsUsedWithAWarning) {
  wire();
  Program program;
  auto link = nic_ns_->in([&] { return XdpLink::attach(read_nic_info("lo").value().ifindex, program.fd()); });
  ASSERT_TRUE(link) << link.error().message;
  EXPECT_FALSE(link->native());
  says(link->warning(), "of lo has no native XDP");
  says(link->warning(), "generic XDP is used");
}

TEST_F(NicTest, InfoIsWhatTheDeviceIs) {
  wire(2);
  auto info = nic_ns_->in([] { return read_nic_info("nic0"); });
  ASSERT_TRUE(info) << info.error().message;
  EXPECT_EQ(info->ifindex, pair_->nic_ifindex());
  EXPECT_EQ(info->mac, pair_->options().nic_mac);
  EXPECT_EQ(info->mtu, 1500u);
  EXPECT_EQ(info->rx_queues, 2u);
  EXPECT_EQ(info->driver, "veth");
  EXPECT_TRUE(info->up);
  EXPECT_TRUE(info->carrier);
  ASSERT_TRUE(nic_ns_->command("ethtool -L nic0 rx 1 tx 1 && ip link set nic0 down").ok());
  info = nic_ns_->in([] { return read_nic_info("nic0"); });
  EXPECT_EQ(info->rx_queues, 1u);
  EXPECT_FALSE(info->up);
}

TEST_F(NicTest, WatchTellsEveryChangeOnce) {
  wire();
  auto loop = EventLoop::create().value();
  std::vector<std::string> events;
  auto watch = nic_ns_->in([&] {
    return NicWatch::start(*loop, [&](const NicEvent& event) {
      events.push_back(fmt::format("{} {} {}", event.netdev, to_string(event.what), event.mtu));
    });
  });
  ASSERT_TRUE(watch) << watch.error().message;
  auto expect_event = [&](const std::string& event) {
    EXPECT_TRUE(until([&] {
      loop->turn(10);
      return std::find(events.begin(), events.end(), event) != events.end();
    })) << "waits for "
        << event << ", last is " << (events.empty() ? "nothing" : events.back());
  };
  auto does = [&](const std::string& command) { ASSERT_TRUE(nic_ns_->command(command).ok()) << command; };
  does("ip link set nic0 down");
  expect_event("nic0 down 1500");
  does("ip link set nic0 mtu 1400");
  expect_event("nic0 mtu 1400");
  does("ip link set nic0 name left");
  expect_event("left renamed 1400");
  does("ip link set left up");
  expect_event("left up 1400");
  does("ip link add new0 mtu 1300 type veth peer name new1");
  expect_event("new0 appeared 1300");
  pair_->nic_ns().command("ip link del left");
  expect_event("left removed 1400");
  std::erase_if(events, [](const std::string& event) { return event.starts_with("new"); });
  EXPECT_EQ(events, (std::vector<std::string>{"nic0 down 1500", "nic0 mtu 1400", "left renamed 1400",
                                              "left up 1400", "left down 1400", "left removed 1400"}));
}

}  // namespace
}  // namespace sluice
