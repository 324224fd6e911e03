// What attach() makes of every way a daemon can answer, or not answer.
#include <gtest/gtest.h>
#include <poll.h>

#include <cstdlib>
#include <thread>
#include <vector>

#include "sluice/sluice.hpp"
#include "test_daemon.h"

namespace sluice {
namespace {

using testing::TestDaemon;
using testing::TestDaemonOptions;
using testing::TestFolder;

Error attach_error(const std::string& path, AttachOptions options = {}) {
  auto port = Port::attach(path, options);
  if (port) {
    ADD_FAILURE() << "attached, where it should not";
    return {};
  }
  return port.error();
}

bool has(const Error& error, std::string_view text) {
  return error.message.find(text) != std::string::npos;
}

TEST(Attach, FindsAPortByItsNameInTheRunDirectory) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {});
  ::setenv("SLUICE_RUN_DIR", folder.path().c_str(), 1);
  auto port = Port::attach("dns", {.client_name = "resolver"});
  ::unsetenv("SLUICE_RUN_DIR");
  ASSERT_TRUE(port) << port.error().message;
  EXPECT_EQ(daemon.session().client, "resolver");
}

TEST(Attach, TellsWhatTheSessionIsLike) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {.lanes = 3, .tx_lanes = 0b010});
  auto port = Port::attach(folder.socket());
  ASSERT_TRUE(port) << port.error().message;
  Info info = port->info();
  EXPECT_EQ(info.attaches, 1u);
  EXPECT_EQ(info.daemon_pid, ::getpid());
  EXPECT_EQ(info.lane_count, 3u);
  EXPECT_EQ(info.page_limit, 256u);
  EXPECT_EQ(info.page_bytes, 2048u);
  EXPECT_EQ(info.source_mac[5], 7);
  EXPECT_TRUE(info.attached);
  EXPECT_TRUE(info.can_send);
}

TEST(Attach, TellsThatThePortHasNoAddressToSendFrom) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(),
                    {.change = [](sluice_app_welcome& w) { w.flags = SLUICE_APP_NO_ADDRESS; }});
  auto port = Port::attach(folder.socket());
  ASSERT_TRUE(port) << port.error().message;
  EXPECT_FALSE(port->info().can_send);
}

TEST(Attach, CutsALongClientNameAndEndsItWithNul) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {});
  auto port = Port::attach(folder.socket(), {.client_name = std::string(200, 'x')});
  ASSERT_TRUE(port);
  EXPECT_EQ(daemon.session().client, std::string(63, 'x'));
}

// Once the connection that found the queue full was the end of it.
TEST(Attach, Regression_WaitsForItsTurnWhenTooManyConnectAtOnce) {
  TestFolder folder;
  const int listener = ::socket(AF_UNIX, SOCK_SEQPACKET, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  folder.socket().copy(address.sun_path, sizeof(address.sun_path) - 1);
  auto* name = reinterpret_cast<sockaddr*>(&address);
  ASSERT_EQ(::bind(listener, name, sizeof(address)), 0);
  ASSERT_EQ(::listen(listener, 1), 0);
  std::vector<int> others;
  int refused = 0;
  while (refused == 0) {
    others.push_back(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0));
    refused = ::connect(others.back(), name, sizeof(address));
  }
  ASSERT_EQ(errno, EAGAIN);
  EXPECT_EQ(attach_error(folder.socket(), {.timeout = std::chrono::milliseconds(20)}).code,
            ErrorCode::kTimeout);

  std::thread daemon([&] {  // takes everybody; when one says hello, it hangs up on all
    std::vector<pollfd> taken;
    for (bool hello = false; !hello;) {
      pollfd more{listener, POLLIN, 0};
      if (::poll(&more, 1, 1) == 1) {
        taken.push_back({::accept(listener, nullptr, nullptr), POLLIN, 0});
      }
      hello = ::poll(taken.data(), taken.size(), 0) > 0;
    }
    for (const pollfd& each : taken) {
      ::close(each.fd);
    }
  });
  const Error answered = attach_error(folder.socket(), {.timeout = std::chrono::seconds(20)});
  daemon.join();
  EXPECT_EQ(answered.code, ErrorCode::kRefused) << answered.message;
  for (int fd : others) {
    ::close(fd);
  }
  ::close(listener);
}

TEST(Attach, SaysThatThereIsNoDaemon) {
  TestFolder folder;
  Error missing = attach_error(folder.socket());
  EXPECT_EQ(missing.code, ErrorCode::kNoDaemon);
  EXPECT_TRUE(has(missing, folder.socket())) << missing.message;

  int stale = ::socket(AF_UNIX, SOCK_SEQPACKET, 0);  // a socket's file whose daemon died
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  folder.socket().copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(::bind(stale, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ::close(stale);
  EXPECT_EQ(attach_error(folder.socket()).code, ErrorCode::kNoDaemon);
}

TEST(Attach, SaysThatAnotherKindOfSocketIsNoPort) {
  TestFolder folder;
  int other = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  folder.socket().copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(::bind(other, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::listen(other, 1), 0);
  EXPECT_EQ(attach_error(folder.socket()).code, ErrorCode::kProtocol);
  ::close(other);
}

TEST(Attach, RefusesNamesAndTimeoutsThatCannotBe) {
  EXPECT_EQ(attach_error("").code, ErrorCode::kInvalid);
  EXPECT_EQ(attach_error("/" + std::string(107, 'x')).code, ErrorCode::kInvalid);
  EXPECT_EQ(attach_error("/x", {.timeout = std::chrono::milliseconds(0)}).code, ErrorCode::kInvalid);
}

TEST(Attach, PassesOnTheDaemonsReasonForEveryRefusal) {
  const std::pair<std::uint16_t, ErrorCode> refusals[] = {
      {SLUICE_APP_BAD_HELLO, ErrorCode::kProtocol}, {SLUICE_APP_BAD_VERSION, ErrorCode::kVersion},
      {SLUICE_APP_DENIED, ErrorCode::kDenied},      {SLUICE_APP_BUSY, ErrorCode::kBusy},
      {SLUICE_APP_FAILED, ErrorCode::kRefused},
  };
  for (auto [status, code] : refusals) {
    TestFolder folder;
    TestDaemon daemon(folder.socket(), {.status = status, .message = "pid 4711 has it"});
    Error error = attach_error(folder.socket());
    EXPECT_EQ(error.code, code) << status;
    EXPECT_TRUE(has(error, "pid 4711 has it")) << error.message;
  }
}

TEST(Attach, GivesUpOnADaemonThatDoesNotAnswer) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {.answer = TestDaemonOptions::Answer::kNothing});
  EXPECT_EQ(attach_error(folder.socket(), {.timeout = std::chrono::milliseconds(20)}).code,
            ErrorCode::kTimeout);
}

TEST(Attach, SaysThatTheDaemonHungUp) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {.answer = TestDaemonOptions::Answer::kHangUp});
  EXPECT_EQ(attach_error(folder.socket()).code, ErrorCode::kRefused);
}

TEST(Attach, IsOverOnlyWhenTheDaemonServesWhatWasMapped) {
  using Served = TestDaemonOptions::Served;
  const std::pair<Served, ErrorCode> answers[] = {
      {Served::kNothing, ErrorCode::kTimeout},
      {Served::kHangUp, ErrorCode::kRefused},
      {Served::kShort, ErrorCode::kProtocol},
      {Served::kOther, ErrorCode::kProtocol},
  };
  for (auto [served, code] : answers) {
    TestFolder folder;
    TestDaemon daemon(folder.socket(), {.served = served});
    const Error error = attach_error(folder.socket(), {.timeout = std::chrono::milliseconds(50)});
    EXPECT_EQ(error.code, code) << static_cast<int>(served) << error.message;
  }
}

TEST(Malicious_Welcome, ThatIsShortOrUnknownIsRefused) {
  TestFolder folder;
  {
    TestDaemon daemon(folder.socket(), {.answer = TestDaemonOptions::Answer::kShort});
    EXPECT_EQ(attach_error(folder.socket()).code, ErrorCode::kProtocol);
  }
  TestDaemon daemon(folder.socket(), {.status = 77, .message = std::string(192, 'm')});
  Error error = attach_error(folder.socket());
  EXPECT_EQ(error.code, ErrorCode::kProtocol);
  EXPECT_TRUE(has(error, "unknown answer 77")) << error.message;
}

TEST(Malicious_Welcome, ThatDoesNotFitItsSegmentsIsRefused) {
  using Change = void (*)(sluice_app_welcome&);
  const std::pair<const char*, Change> changes[] = {
      {"magic", [](sluice_app_welcome& w) { w.magic = 0; }},
      {"no lane", [](sluice_app_welcome& w) { w.lane_count = 0; }},
      {"too many lanes", [](sluice_app_welcome& w) { w.lane_count = 65; }},
      {"lanes without descriptors", [](sluice_app_welcome& w) { w.lane_count = 2; }},
      {"rx ring no power of two", [](sluice_app_welcome& w) { w.rx_entries = 63; }},
      {"return ring of 0", [](sluice_app_welcome& w) { w.back_entries = 0; }},
      {"tx ring of 2^31", [](sluice_app_welcome& w) { w.tx_entries = 1u << 31; }},
      {"more pages than arena", [](sluice_app_welcome& w) { w.page_count += 1; }},
      {"page of 0", [](sluice_app_welcome& w) { w.page_bytes = 0; }},
      {"arena longer than its file", [](sluice_app_welcome& w) { w.rx_arena_bytes += 4096; }},
      {"app segment longer than its file", [](sluice_app_welcome& w) { w.app_segment_bytes += 4096; }},
      {"slots beyond the TX arena", [](sluice_app_welcome& w) { w.tx_slot_bytes *= 2; }},
      {"slots that overflow", [](sluice_app_welcome& w) { w.tx_slot_bytes = ~0u; }},
      {"rings beyond the stride", [](sluice_app_welcome& w) { w.rx_entries *= 2; }},
      {"stride beyond the segment", [](sluice_app_welcome& w) { w.daemon_lane_stride += 64; }},
      {"stride that tears cache lines", [](sluice_app_welcome& w) { w.app_lane_stride -= 1; }},
      {"stride that overflows", [](sluice_app_welcome& w) { w.app_lane_stride = ~0ull - 63; }},
  };
  for (auto [what, change] : changes) {
    TestFolder folder;
    TestDaemon daemon(folder.socket(), {.change = change});
    EXPECT_EQ(attach_error(folder.socket()).code, ErrorCode::kProtocol) << what;
  }
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {.change = [](sluice_app_welcome& w) { w.version += 1; }});
  EXPECT_EQ(attach_error(folder.socket()).code, ErrorCode::kVersion);
}

TEST(Malicious_Welcome, WithoutAllItsDescriptorsIsRefusedAndLeaksNone) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {.missing_fds = 1});
  auto open_descriptors = [] {
    std::size_t count = 0;
    for (int fd = 0; fd < 1024; ++fd) {
      count += ::fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
    }
    return count;
  };
  const std::size_t before = open_descriptors();
  EXPECT_EQ(attach_error(folder.socket()).code, ErrorCode::kProtocol);
  daemon.session().hang_up();
  // The test daemon's own: two for each of 4 segments, and an eventfd.
  EXPECT_EQ(open_descriptors(), before + 9);
}

}  // namespace
}  // namespace sluice
