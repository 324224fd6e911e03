// One NIC for the kernel and for several programs: who gets what, by how many copies, and that nothing is
// lost.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "test/support/ping.h"
#include "test/system/fixture.h"

namespace sluice::test {
namespace {

constexpr std::uint16_t kDns = 5000, kIds = 5001, kKernel = 5009;

class Sharing : public SystemTest {
 protected:
  explicit Sharing(VethOptions links = {}) : SystemTest(std::move(links)) {}
  const std::string two_apps_ =
      nic_table() + app_port("dns") + app_port("ids") + udp_rule(kDns, "dns") + udp_rule(kIds, "ids");
};

class SharingTwoQueues : public Sharing {
 protected:
  SharingTwoQueues() : Sharing({.queues = 2}) {}
};

TEST_F(Sharing, EachProgramGetsItsPacketsOnceByOneCopyAndTheKernelNoneOfThem) {
  constexpr std::uint64_t kFrames = 20'000;
  start(two_apps_);
  Tap stack = nic_tap();
  auto dns = attach("dns", kDns, kFrames, 60), ids = attach("ids", kIds, kFrames, 1514);
  auto to_dns = flow(kDns, {.count = kFrames, .allowed = dns->allowed()});
  auto to_ids = flow(kIds, {.count = kFrames, .allowed = ids->allowed(), .frame_bytes = 1514});
  to_dns->start();
  to_ids->start();
  dns->expect_all_once();
  ids->expect_all_once();
  expect_port_counter("dns", "copied", kFrames);
  expect_port_counter("dns", "copied_bytes", kFrames * 60);
  expect_port_counter("ids", "copied", kFrames);
  expect_port_counter("ids", "copied_bytes", kFrames * 1514);
  for (const char* port : {"dns", "ids"}) {
    EXPECT_EQ(port_counter(port, "zero_copy"), 0u);
    expect_port_counter(port, "rx_packets", kFrames);
  }
  EXPECT_EQ(stack.count_udp_to(kDns) + stack.count_udp_to(kIds), 0u);
}

TEST_F(Sharing, TheKernelKeepsPingTcpAndUdpWhileAProgramReceives) {
  constexpr std::uint64_t kFrames = 30'000, kDatagrams = 10'000, kTcpBytes = 8 << 20;
  start(two_apps_);
  auto dns = attach("dns", kDns, kFrames), ids = attach("ids", kIds, 0);
  KernelReceiver socket(nic_ns(), "10.77.0.1", kKernel, 32);
  auto ping = Ping::start(wire_ns(), "10.77.0.1");
  ASSERT_TRUE(ping) << ping.error().message;
  TcpTransfer in(wire_ns(), nic_ns(), "10.77.0.1", kTcpBytes),
      out(nic_ns(), wire_ns(), "10.77.0.2", kTcpBytes);
  auto to_dns = flow(kDns, {.count = kFrames, .allowed = dns->allowed()});
  auto to_kernel = flow(kKernel, {.count = kDatagrams, .allowed = socket.allowed()});
  to_dns->start();
  to_kernel->start();
  dns->expect_all_once();
  socket.expect_all_once(kDatagrams);
  EXPECT_TRUE(in.finish());
  EXPECT_TRUE(out.finish());
  PingResult pinged = ping->stop();
  EXPECT_TRUE(pinged.lossless()) << pinged.output;
  EXPECT_EQ(ids->received(), 0u) << "packets of the kernel or of dns";
  EXPECT_EQ(dns->received(), kFrames);
}

TEST_F(Sharing, AnOwnedQueueIsReadWithoutACopy) {
  constexpr std::uint64_t kFrames = 30'000;
  start(nic_table() + app_port("dns", "queues = [\"nic0:0\"]") + udp_rule(kDns, "dns"));
  auto dns = attach("dns", kDns, kFrames, 300);
  auto to_dns = flow(kDns, {.count = kFrames, .allowed = dns->allowed(), .frame_bytes = 300});
  expect_sent(*to_dns, kFrames);
  dns->expect_all_once();
  expect_port_counter("dns", "zero_copy", kFrames);
  EXPECT_EQ(port_counter("dns", "copied"), 0u);
  EXPECT_EQ(daemon().show("queues")[0]["owner"], "dns");
}

TEST_F(Sharing, PacketsForOthersOnAnOwnedQueueAreCopiedExactlyOnce) {
  constexpr std::uint64_t kFrames = 20'000;
  start(nic_table() + app_port("dns", "queues = [\"nic0:0\"]\nobserve = true") + app_port("ids") +
        udp_rule(kDns, "dns") + udp_rule(kIds, "ids"));
  KernelReceiver socket(nic_ns(), "10.77.0.1", kKernel, 48);
  auto dns = attach("dns", kDns, kFrames), ids = attach("ids", kIds, kFrames, 700);
  auto to_dns = flow(kDns, {.count = kFrames, .allowed = dns->allowed()});
  auto to_ids = flow(kIds, {.count = kFrames, .allowed = ids->allowed(), .frame_bytes = 700});
  auto to_kernel = flow(kKernel, {.count = kFrames, .allowed = socket.allowed()});
  to_dns->start();
  to_ids->start();
  to_kernel->start();
  dns->expect_all_once();
  ids->expect_all_once();
  socket.expect_all_once(kFrames);
  expect_port_counter("dns", "zero_copy", kFrames);
  EXPECT_EQ(port_counter("dns", "copied"), 0u);
  expect_port_counter("ids", "copied", kFrames);
  expect_port_counter("ids", "copied_bytes", kFrames * 700);
  EXPECT_EQ(port_counter("ids", "zero_copy"), 0u);
}

TEST_F(SharingTwoQueues, SeveralQueuesAndWorkersLoseAndDoubleNothing) {
  constexpr std::uint64_t kFrames = 20'000;
  start("workers = [ {}, {} ]\n" + two_apps_);
  auto dns = attach("dns", kDns, 2 * kFrames), ids = attach("ids", kIds, 2 * kFrames);
  std::vector<std::unique_ptr<LiveFrames>> flows;
  for (std::uint16_t queue = 0; queue < 2; ++queue) {
    for (auto [app, udp_port] : {std::pair(dns.get(), kDns), std::pair(ids.get(), kIds)}) {
      flows.push_back(
          flow(udp_port,
               {.count = kFrames, .allowed = app->allowed(queue), .cpu = queue, .first = queue * kFrames}));
      flows.back()->start();
    }
  }
  dns->expect_all_once();
  ids->expect_all_once();
  for (const nlohmann::json& queue : daemon().show("queues")) {
    EXPECT_EQ(queue["worker"], queue["queue"]);
    EXPECT_EQ(queue["counters"]["rx_packets"], 2 * kFrames) << queue.dump();
  }
}

TEST_F(Sharing, ARuleToANetdevForwardsOutOfThatLink) {
  constexpr std::uint64_t kFrames = 10'000;
  VethPair other = make_second_wire();
  start(nic_table() + udp_rule(kDns, "netdev:nic1"));
  Tap out(wire_ns(), other.wire_ifindex()), stack = nic_tap();
  std::atomic<std::uint64_t> allowed{kWindow};
  auto through = flow(kDns, {.count = kFrames, .allowed = &allowed});
  through->start();
  Tally tally(kFrames);
  std::uint64_t seen = 0, wrong = 0;
  const Frame expected = frame_to(kDns);
  eventually([&] {
    for (Frame frame = out.next(); !frame.empty(); frame = out.next()) {
      bool ours = frame.size() == expected.size() && std::memcmp(frame.data(), expected.data(), 40) == 0;
      wrong += ours && tally.note(sequence_of(frame.data())) ? 0 : 1;
      allowed = ++seen + kWindow;
    }
    return seen >= kFrames;
  });
  EXPECT_EQ(tally.lost(kFrames), 0u);
  EXPECT_EQ(tally.doubled(), 0u);
  EXPECT_EQ(wrong, 0u);
  EXPECT_EQ(daemon().counter("nic.nic0.xdp_redirect_netdev"), kFrames);
  EXPECT_EQ(stack.count_udp_to(kDns), 0u);
}

TEST_F(Sharing, ARuleToDropDropsAndNobodySeesIt) {
  constexpr std::uint64_t kFrames = 5'000;
  start(nic_table() + app_port("all") + udp_rule(kDns, "drop", "priority = 5") + rule("", "kernel"));
  Tap stack = nic_tap();
  auto app = attach("all", kIds, 0);
  send_in_steps(kDns, {.count = kFrames}, [&] { return daemon().counter("nic.nic0.xdp_drop"); });
  EXPECT_EQ(daemon().show("rules")[0]["packets"], kFrames);
  EXPECT_EQ(stack.count_udp_to(kDns), 0u);
  EXPECT_EQ(app->received(), 0u);
  EXPECT_TRUE(ping(wire_ns(), "10.77.0.1").lossless());
}

TEST_F(Sharing, WhatAProgramSendsReachesTheWireOnceAndUnchangedButNotWithAForeignSource) {
  constexpr std::uint64_t kFrames = 3'000, kForeign = 100;
  start(two_apps_);
  auto dns = attach("dns", kDns, 0);
  EXPECT_EQ(dns->source_mac(), pair().options().nic_mac);
  Tap wire = wire_tap();
  std::vector<Frame> frames;
  for (std::uint64_t i = 0; i < kFrames; ++i) {
    frames.push_back(frame_from_nic(60 + i % 1455, i));
  }
  std::vector<Frame> foreign(kForeign, frame_from_nic(100, kFrames));
  for (Frame& frame : foreign) {
    frame[11] ^= std::byte{1};
  }
  std::uint64_t seen = 0;
  // As many at a time as the veth can queue.
  for (std::size_t at = 0; at < frames.size(); at += kWindow) {
    std::span<const Frame> some =
        std::span(frames).subspan(at, std::min<std::size_t>(kWindow, frames.size() - at));
    ASSERT_TRUE(dns->send(some));
    for (const Frame& sent : some) {
      Frame got;
      ASSERT_TRUE(eventually([&] { return !(got = wire.next()).empty(); }))
          << "lost: " << sequence_of(sent.data());
      ASSERT_EQ(got, sent);
      ++seen;
    }
  }
  EXPECT_EQ(seen, kFrames);
  ASSERT_TRUE(dns->send(foreign));
  expect_port_counter("dns", "drop_tx_source_mac", kForeign);
  EXPECT_EQ(port_counter("dns", "tx_packets"), kFrames);
  EXPECT_TRUE(wire.next().empty());
}

TEST_F(Sharing, AProgramReceivesFromSeveralNicsAndSendsByTheOneItWasGiven) {
  constexpr std::uint64_t kFrames = 10'000;
  VethPair other = make_second_wire();
  start(nic_table() + nic_table("nic1") + app_port("dns", "uplink = \"nic1\"\nmac = \"02:00:00:00:01:01\"") +
        udp_rule(kDns, "dns"));
  auto dns = attach("dns", kDns, 2 * kFrames);
  Tap wire = wire_tap(), other_wire(wire_ns(), other.wire_ifindex());
  expect_sent(*flow(kDns, {.count = kFrames, .allowed = dns->allowed()}), kFrames);
  // Both have a queue 0, so the second flow's window is counted from where the first one's ended.
  ASSERT_TRUE(eventually([&] { return dns->received() == kFrames; }));
  LiveFramesOptions by_other;
  by_other.frame = frame_to(kDns);
  by_other.count = kFrames;
  by_other.first_sequence = kFrames;
  by_other.packets_per_second = 20'000;
  std::atomic<std::uint64_t> allowed{0};
  by_other.allowed = &allowed;
  auto live = need(LiveFrames::create(other, by_other));
  live->start();
  EXPECT_TRUE(eventually([&] {
    allowed = dns->received() - kFrames + kWindow;
    return dns->received() == 2 * kFrames;
  }));
  dns->expect_all_once();
  EXPECT_EQ(daemon().counter("nic.nic0.rx_packets"), kFrames);
  EXPECT_EQ(daemon().counter("nic.nic1.rx_packets"), kFrames);
  EXPECT_EQ(dns->source_mac(), other.options().nic_mac);
  Frame frame = frame_from_nic(200, 1);
  std::ranges::copy(std::as_bytes(std::span(other.options().nic_mac)), frame.begin() + 6);
  ASSERT_TRUE(dns->send(std::span(&frame, 1)));
  EXPECT_TRUE(eventually([&] { return other_wire.next() == frame; }));
  EXPECT_TRUE(wire.next().empty());
}

TEST_F(SharingTwoQueues, AProgramThatSendsAsFastAsItCanTakesNothingFromWhatAnotherReceives) {
  constexpr std::uint64_t kSent = 50'000;
  start(two_apps_);
  Stream dns = stream_to("dns", kDns);
  auto ids = attach("ids", kIds, 0);
  std::vector<Frame> frames(kSent, frame_from_nic(1514, 7));
  ASSERT_TRUE(ids->send(frames));
  expect_port_counter("ids", "tx_packets", kSent);
  dns.expect_nothing_lost();
  nlohmann::json nic = daemon().show("nics")[0]["counters"];
  EXPECT_EQ(nic["tx_packets"].get<std::uint64_t>() + nic["drop_tx_ring_full"].get<std::uint64_t>() +
                nic["drop_tx_no_page"].get<std::uint64_t>(),
            kSent)
      << nic.dump();
}

class SharingLargeFrames : public Sharing {
 protected:
  SharingLargeFrames() : Sharing({.mtu = 3000}) {}
};

TEST_F(SharingLargeFrames, NeedLargePages) {
  constexpr std::uint64_t kFrames = 5'000;
  Finished refused = daemon().run_to_end(two_apps_);
  EXPECT_EQ(refused.status, 1);
  EXPECT_NE(refused.output.find("does not fit pages of 2048 bytes"), std::string::npos) << refused.output;
  start("page_bytes = 4096\n" + two_apps_);
  auto dns = attach("dns", kDns, kFrames, 3014);
  auto to_dns = flow(kDns, {.count = kFrames, .allowed = dns->allowed(), .frame_bytes = 3014});
  to_dns->start();
  dns->expect_all_once();
  expect_port_counter("dns", "copied_bytes", kFrames * 3014);
}

TEST_F(Sharing, TheUdpEchoExampleAnswersAnOrdinaryClient) {
  start(nic_table() + app_port("echo") + udp_rule(7, "echo"));
  auto echo = Process::start({UDP_ECHO, daemon().path("echo.sock"), "--port", "7"});
  ASSERT_TRUE(echo) << echo.error().message;
  ASSERT_TRUE(eventually([&] { return daemon().port("echo")["state"] == "attached"; }));
  UniqueFd client = udp_socket(wire_ns(), "10.77.0.2", 0);
  sockaddr_in server{};
  server.sin_family = AF_INET;
  server.sin_port = htons(7);
  ::inet_pton(AF_INET, "10.77.0.1", &server.sin_addr);
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&server), sizeof(server)), 0);
  timeval timeout{20, 0};
  ::setsockopt(client.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  for (std::size_t size = 1; size < 1472; size += 29) {
    std::string question(size, static_cast<char>('a' + size % 26)), answer(2048, '\0');
    ASSERT_EQ(::send(client.get(), question.data(), question.size(), 0), static_cast<ssize_t>(size));
    ssize_t got = ::recv(client.get(), answer.data(), answer.size(), 0);
    ASSERT_EQ(got, static_cast<ssize_t>(size)) << "errno " << errno;
    answer.resize(size);
    ASSERT_EQ(answer, question);
  }
}

TEST_F(Sharing, StartingAndEndingTheDaemonLosesNothingOfTheKernels) {
  KernelReceiver socket(nic_ns(), "10.77.0.1", kKernel, kWindow);
  auto to_kernel = flow(kKernel, {.allowed = socket.allowed(), .packets_per_second = 30'000});
  to_kernel->start();
  for (int round = 0; round < 3; ++round) {
    std::uint64_t before = socket.received();
    ASSERT_TRUE(eventually([&] { return socket.received() > before; }));
    start(two_apps_);
    before = socket.received();
    ASSERT_TRUE(eventually([&] { return socket.received() > before; }));
    EXPECT_TRUE(nic_has_xdp());
    EXPECT_EQ(daemon().stop(), 0);
    EXPECT_FALSE(nic_has_xdp());
  }
  auto sent = to_kernel->stop();
  ASSERT_TRUE(sent) << sent.error().message;
  socket.expect_all_once(*sent);
}

}  // namespace
}  // namespace sluice::test
