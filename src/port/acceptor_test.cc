#include "port/acceptor.h"

#include <grp.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/clock.h"

namespace sluice {
namespace {

constexpr std::uint64_t kDeadlineNs = 10'000'000'000;
constexpr gid_t kSupplementary = 4711, kForeign = 4712;
constexpr uid_t kNobody = 65534;

std::string own_cgroup() {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("0::")) {
      return line.substr(3);
    }
  }
  return {};
}

class AcceptorTest : public ::testing::Test {
 protected:
  AcceptorTest() {
    char name[] = "/tmp/sluice-acceptor-XXXXXX";
    folder_ = ::mkdtemp(name);
    std::filesystem::permissions(folder_, std::filesystem::perms(0755));
    path_ = folder_ + "/s";
  }
  ~AcceptorTest() override {
    acceptor_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  Result<void> listen(PeerPolicy policy) {
    acceptor_.reset();
    auto made = Acceptor::create({.port = "dns", .path = path_, .type = SOCK_STREAM, .policy = policy},
                                 *loop_, log_, [this](UniqueFd socket, Peer peer) {
                                   sockets_.push_back(std::move(socket));
                                   peers_.push_back(std::move(peer));
                                 });
    if (!made) {
      return std::unexpected(made.error());
    }
    acceptor_ = std::move(*made);
    peers_.clear();
    return {};
  }

  // The verdict on a process that `become` has changed; with `ends` it is over before it is judged.
  Peer judge(const std::function<void()>& become, bool ends = false) {
    int go[2];
    EXPECT_EQ(::pipe(go), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      become();
      auto socket = connect_to_path(path_, SOCK_STREAM);
      char byte = 0;
      ::close(go[1]);
      const bool waited = ends || ::read(go[0], &byte, 1) == 0;
      ::_exit(socket && waited ? 0 : 1);
    }
    ::close(go[0]);
    if (ends) {
      ::waitpid(child, nullptr, 0);
    }
    for (const std::uint64_t end = now_ns() + kDeadlineNs; peers_.empty() && now_ns() < end;) {
      loop_->turn(5);
    }
    ::close(go[1]);
    if (!ends) {
      ::waitpid(child, nullptr, 0);
    }
    Peer peer = peers_.empty() ? Peer{.who = {}, .refusal = "nobody came"} : std::move(peers_.front());
    peers_.clear();
    return peer;
  }

  std::string folder_, path_;
  std::unique_ptr<EventLoop> loop_ = std::move(EventLoop::create().value());
  LogBudget log_;
  std::unique_ptr<Acceptor> acceptor_;
  std::vector<UniqueFd> sockets_;
  std::vector<Peer> peers_;
};
using Malicious_Acceptor = AcceptorTest;

void nothing() {}
void become_nobody() {
  const gid_t groups[] = {kSupplementary};
  if (::setgroups(1, groups) != 0 || ::setgid(kNobody) != 0 || ::setuid(kNobody) != 0) {
    ::_exit(2);
  }
}

TEST_F(AcceptorTest, WithoutAWordTheOwnUserMayConnectAndNobodyElse) {
  ASSERT_TRUE(listen({}));
  EXPECT_EQ(judge(nothing).refusal, "");
  if (::geteuid() == 0) {
    EXPECT_EQ(judge(become_nobody).refusal, "user 65534 is not in allow_users of port dns");
  }
}

TEST_F(AcceptorTest, AUserOrAGroupThatIsListedMayConnect) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "needs root, to become another user";
  }
  ASSERT_TRUE(listen({.uids = {kNobody}, .gids = {}, .cgroup = {}}));
  EXPECT_EQ(judge(become_nobody).refusal, "");
  EXPECT_EQ(judge(nothing).refusal, "user 0 is not in allow_users of port dns");
  ASSERT_TRUE(listen({.uids = {}, .gids = {kSupplementary}, .cgroup = {}}));
  EXPECT_EQ(judge(become_nobody).refusal, "") << "a supplementary group counts";
  ASSERT_TRUE(listen({.uids = {1}, .gids = {kForeign}, .cgroup = {}}));
  EXPECT_EQ(judge(become_nobody).refusal,
            "user 65534 is in neither allow_users nor allow_groups of port dns");
}

TEST_F(Malicious_Acceptor, AProcessOfAnotherCgroupOrOneThatIsGoneMayNotConnect) {
  const std::string own = own_cgroup();
  if (own.empty()) {
    GTEST_SKIP() << "no cgroup v2 here";
  }
  if (auto made = listen({.uids = {}, .gids = {}, .cgroup = own}); !made) {
    GTEST_SKIP() << made.error().message;
  }
  EXPECT_EQ(judge(nothing).refusal, "");
  EXPECT_NE(judge(nothing, true).refusal, "") << "its number may be another process's by now";
  ASSERT_TRUE(listen({.uids = {}, .gids = {}, .cgroup = "/machine.slice/vm0.scope"}));
  EXPECT_NE(judge(nothing).refusal.find("is not in allow_cgroup of port dns, /machine.slice/vm0.scope"),
            std::string::npos);
  ASSERT_TRUE(listen({.uids = {::geteuid() + 1}, .gids = {}, .cgroup = own}));
  EXPECT_NE(judge(nothing).refusal, "") << "the cgroup comes on top of the users";
}

TEST(PeerPolicy, ACgroupHoldsWhatIsBelowItAndNothingOfASimilarName) {
  EXPECT_TRUE(cgroup_is_within("/a/b", "/a/b"));
  EXPECT_TRUE(cgroup_is_within("/a/b/c", "/a/b"));
  EXPECT_TRUE(cgroup_is_within("/a", "/"));
  EXPECT_FALSE(cgroup_is_within("/a/bc", "/a/b"));
  EXPECT_FALSE(cgroup_is_within("/a", "/a/b"));
  EXPECT_FALSE(cgroup_is_within("/../a/b", "/a/b"));
}

TEST(PeerPolicy, Malicious_TheIdOfAllStrangersIsNotOneUser) {
  EXPECT_FALSE(stands_for_strangers(65534, "         0          0 4294967295\n", 65534));
  EXPECT_TRUE(stands_for_strangers(65534, "         0     100000      65536\n", 65534));
  EXPECT_FALSE(stands_for_strangers(1000, "         0     100000      65536\n", 65534));
}

TEST_F(Malicious_Acceptor, AStormOfConnectionsLeavesTheLoopTimeForTheRest) {
  ASSERT_TRUE(listen({}));
  std::vector<UniqueFd> clients;
  for (std::uint32_t i = 0; i < kAcceptsPerTurn + 5; ++i) {
    auto client = connect_to_path(path_, SOCK_STREAM);
    ASSERT_TRUE(client);
    clients.push_back(std::move(*client));
  }
  loop_->turn(100);
  EXPECT_EQ(peers_.size(), kAcceptsPerTurn);
  while (peers_.size() < clients.size()) {
    const std::size_t before = peers_.size();
    loop_->turn(100);
    ASSERT_GT(peers_.size(), before);
    ASSERT_LE(peers_.size(), before + kAcceptsPerTurn);
  }
}

TEST_F(Malicious_Acceptor, AStormOfConnectionsIsTakenInABurstAndThenAtARate) {
  ASSERT_TRUE(listen({}));
  std::vector<UniqueFd> clients;
  const std::uint64_t begin = now_ns();
  const auto all = [&] {
    return kConnectionBurst + (now_ns() - begin) / (1'000'000'000 / kConnectionsPerSecond);
  };
  while (peers_.size() < 2 * kConnectionBurst) {
    if (auto client = connect_to_path(path_, SOCK_STREAM)) {
      clients.push_back(std::move(*client));
    }
    loop_->turn(0);
    ASSERT_LE(peers_.size(), all() + 1);
    ASSERT_LT(now_ns(), begin + kDeadlineNs);
  }
  EXPECT_GT(acceptor_->held(), 0u);
}

TEST_F(AcceptorTest, APortThatHasHadEnoughTakesNobodyForAsLongAsItSays) {
  ASSERT_TRUE(listen({}));
  acceptor_->hold(3'600'000'000'000);
  acceptor_->hold(1);  // does not shorten it
  auto client = connect_to_path(path_, SOCK_STREAM);
  ASSERT_TRUE(client);
  for (int i = 0; i < 10; ++i) {
    loop_->turn(5);
  }
  EXPECT_TRUE(peers_.empty());
}

}  // namespace
}  // namespace sluice
