#include "base/fd_passing.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <span>

#include "base/fd.h"

namespace sluice {
namespace {

class FdPassing : public ::testing::Test {
 protected:
  FdPassing() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    ours_.reset(ends[0]);
    theirs_.reset(ends[1]);
  }
  void say(std::size_t bytes, std::size_t fds) {
    const std::array<std::byte, 64> data{};
    const std::vector<int> copies(fds, theirs_.get());
    ASSERT_EQ(send_with_fds(theirs_.get(), std::span(data).first(bytes), copies, 0),
              static_cast<ssize_t>(bytes));
  }
  static std::size_t open_descriptors() {
    auto folder = std::filesystem::directory_iterator("/proc/self/fd");
    return static_cast<std::size_t>(std::distance(begin(folder), end(folder)));
  }
  UniqueFd ours_, theirs_;
};

TEST_F(FdPassing, TellsWhatStandsFirstAndLetsNoneOfItIn) {
  const std::size_t before = open_descriptors();
  EXPECT_EQ(next_datagram(ours_.get()), NextDatagram::kNone);
  std::array<char, 64> place{};
  for (const auto& [bytes, fds, expected] :
       {std::tuple{5u, 0u, NextDatagram::kBytes}, std::tuple{5u, 1u, NextDatagram::kWithDescriptors},
        std::tuple{5u, 253u, NextDatagram::kWithDescriptors},
        std::tuple{0u, 1u, NextDatagram::kWithDescriptors}, std::tuple{0u, 0u, NextDatagram::kEnd}}) {
    say(bytes, fds);
    say(7, fds == 0 ? 1 : 0);  // what comes behind does not count
    for (int look = 0; look < 2; ++look) {
      EXPECT_EQ(next_datagram(ours_.get()), expected) << bytes << " bytes, " << fds << " descriptors";
      EXPECT_EQ(open_descriptors(), before);
    }
    EXPECT_EQ(::recv(ours_.get(), place.data(), place.size(), MSG_DONTWAIT), static_cast<ssize_t>(bytes));
    EXPECT_EQ(::recv(ours_.get(), place.data(), place.size(), MSG_DONTWAIT), 7);
  }
}

TEST_F(FdPassing, TellsWhatWasSaidBeforeTheEndAlsoWhenThatCameByAReset) {
  ASSERT_EQ(::send(ours_.get(), "unread", 6, 0), 6);
  say(3, 1);
  theirs_.reset();
  EXPECT_EQ(next_datagram(ours_.get()), NextDatagram::kWithDescriptors);
  std::array<char, 64> place{};
  EXPECT_EQ(::recv(ours_.get(), place.data(), place.size(), MSG_DONTWAIT), 3);
  EXPECT_EQ(next_datagram(ours_.get()), NextDatagram::kEnd);
}

}  // namespace
}  // namespace sluice
