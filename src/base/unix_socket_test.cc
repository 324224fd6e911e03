#include "base/unix_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/folder.h"

namespace sluice {
namespace {

class UnixSocket : public ::testing::Test {
 protected:
  UnixSocket() {
    char name[] = "/tmp/sluice-unix-XXXXXX";
    folder_ = ::mkdtemp(name);
  }
  ~UnixSocket() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::string in(const std::string& name) const { return folder_ + "/" + name; }
  static mode_t mode_of(const std::string& path) {
    struct stat status{};
    return ::lstat(path.c_str(), &status) == 0 ? status.st_mode & 07777 : 0;
  }
  std::string folder_;
};
using Malicious_UnixSocket = UnixSocket;

TEST_F(UnixSocket, HasTheModeThatWasAskedForWhateverTheUmask) {
  const mode_t before = ::umask(0077);
  auto open_to_all = UnixListener::at(in("all"), SOCK_SEQPACKET);
  auto of_one = UnixListener::at(in("one"), SOCK_STREAM, {.mode = 0600});
  auto of_group = UnixListener::at(in("group"), SOCK_STREAM, {.mode = 0660, .group = ::getegid()});
  ::umask(before);
  ASSERT_TRUE(open_to_all) << open_to_all.error().message;
  ASSERT_TRUE(of_one) << of_one.error().message;
  ASSERT_TRUE(of_group) << of_group.error().message;
  EXPECT_EQ(mode_of(in("all")), 0666u);
  EXPECT_EQ(mode_of(in("one")), 0600u);
  EXPECT_EQ(mode_of(in("group")), 0660u);
  open_to_all->reset();
  of_one->reset();
  of_group->reset();
  EXPECT_TRUE(std::filesystem::is_empty(folder_)) << "nothing is left behind";
}

TEST_F(UnixSocket, IsMadeAlsoWhereThePathIsAsLongAsItMayBe) {
  const std::string path = in(std::string(107 - folder_.size() - 1, 's'));
  ASSERT_EQ(path.size(), 107u);
  auto listener = UnixListener::at(path, SOCK_STREAM);
  ASSERT_TRUE(listener) << listener.error().message;
  EXPECT_TRUE(connect_to_path(path, SOCK_STREAM));
}

TEST_F(UnixSocket, OfADeadProcessIsTakenOverThatOfALivingOneAndOtherFilesAreNot) {
  auto first = UnixListener::at(in("s"), SOCK_STREAM);
  ASSERT_TRUE(first);
  auto second = UnixListener::at(in("s"), SOCK_STREAM);
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message.find("in use"), std::string::npos);
  EXPECT_TRUE(connect_to_path(in("s"), SOCK_STREAM)) << "the first is still there";

  ASSERT_EQ(::link(in("s").c_str(), in("kept").c_str()), 0);
  first->reset();
  ASSERT_EQ(::rename(in("kept").c_str(), in("s").c_str()), 0);  // as after a kill
  EXPECT_TRUE(UnixListener::at(in("s"), SOCK_STREAM));

  std::ofstream(in("file")) << "precious";
  auto third = UnixListener::at(in("file"), SOCK_STREAM);
  ASSERT_FALSE(third);
  EXPECT_NE(third.error().message.find("is not a socket"), std::string::npos);
  ASSERT_EQ(::symlink("s", in("link").c_str()), 0);
  EXPECT_FALSE(UnixListener::at(in("link"), SOCK_STREAM)) << "a link is no socket, wherever it leads";
}

TEST_F(UnixSocket, RemovesOnlyWhatIsItsOwn) {
  auto listener = UnixListener::at(in("s"), SOCK_STREAM);
  ASSERT_TRUE(listener);
  ASSERT_EQ(::unlink(in("s").c_str()), 0);
  std::ofstream(in("s")) << "precious";
  listener->reset();
  EXPECT_EQ(std::filesystem::file_size(in("s")), 8u);
}

TEST_F(UnixSocket, RefusesDescriptorsOnEveryConnectionWhereTheKernelCan) {
  auto listener = UnixListener::at(in("s"), SOCK_SEQPACKET, {.refuses_descriptors = true});
  ASSERT_TRUE(listener);
  if (!refuse_descriptors(listener->fd())) {
    GTEST_SKIP() << "SO_PASSRIGHTS: this kernel cannot (before Linux 6.16)";
  }
  auto client = connect_to_path(in("s"), SOCK_SEQPACKET);
  ASSERT_TRUE(client);
  char byte = 0;
  iovec place{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &place;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  // Before it is accepted, and after.
  EXPECT_EQ(::sendmsg(client->get(), &message, MSG_NOSIGNAL), -1);
  EXPECT_EQ(errno, EPERM);
  UniqueFd accepted(::accept4(listener->fd(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(accepted);
  EXPECT_EQ(::sendmsg(client->get(), &message, MSG_NOSIGNAL), -1);
  EXPECT_EQ(errno, EPERM);
}

// Whoever owns the folder swaps the socket for a link to a file of the daemon's user, all the time.
TEST_F(Malicious_UnixSocket, NoFileButTheSocketGetsItsModeWhateverIsSwappedMeanwhile) {
  constexpr int kTries = 4'000;
  std::ofstream(in("secret")) << "of root";
  ASSERT_EQ(::chmod(in("secret").c_str(), 0600), 0);
  const std::string path = in("s"), staged = in(".sluice-" + std::to_string(::getpid()));
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> swaps{0};
  auto attack = [&](const std::string& name) {
    const std::string link = name + "-link";
    auto is_link = [](const std::string& file) {
      struct stat status{};
      return ::lstat(file.c_str(), &status) == 0 && S_ISLNK(status.st_mode);
    };
    while (!stop) {
      const bool swapped = ::renameat2(AT_FDCWD, name.c_str(), AT_FDCWD, link.c_str(), RENAME_EXCHANGE) == 0;
      swaps += swapped ? 1 : 0;
      if (!is_link(link) && !is_link(name)) {  // the listener has removed it
        ::unlink(link.c_str());
        (void)!::symlink("secret", link.c_str());
      }
    }
  };
  std::thread on_path(attack, path), on_staged(attack, staged);
  int made = 0;
  for (int i = 0; i < kTries && mode_of(in("secret")) == 0600; ++i) {
    made += UnixListener::at(path, SOCK_STREAM) ? 1 : 0;
    // As an owner of the folder would, so that the next try has something to swap.
    if (struct stat status{}; ::lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode)) {
      ::renameat2(AT_FDCWD, path.c_str(), AT_FDCWD, (path + "-link").c_str(), RENAME_EXCHANGE);
    }
  }
  stop = true;
  on_path.join();
  on_staged.join();
  EXPECT_EQ(mode_of(in("secret")), 0600u);
  EXPECT_GT(swaps, 0u) << "nothing was attacked";
  RecordProperty("made", made);
}

TEST_F(Malicious_UnixSocket, ALinkOfAnotherUserOnTheWayToTheFolderIsNotFollowed) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "needs root, to make a link of another user";
  }
  std::filesystem::create_directories(in("real"));
  ASSERT_EQ(::symlink("real", in("ours").c_str()), 0);
  ASSERT_EQ(::symlink("real", in("theirs").c_str()), 0);
  ASSERT_EQ(::lchown(in("theirs").c_str(), 65534, 65534), 0);
  EXPECT_TRUE(UnixListener::at(in("ours/s"), SOCK_STREAM));
  auto refused = UnixListener::at(in("theirs/s"), SOCK_STREAM);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("a symbolic link of user 65534"), std::string::npos)
      << refused.error().message;
}

TEST_F(UnixSocket, AFolderThatOthersWriteIsKnown) {
  EXPECT_EQ(others_who_write(folder_), "");
  ASSERT_EQ(::chmod(folder_.c_str(), 0777), 0);
  EXPECT_EQ(others_who_write(folder_), "everybody");
  ASSERT_EQ(::chmod(folder_.c_str(), 01777), 0);
  EXPECT_EQ(others_who_write(folder_), "") << "the sticky bit protects what is there";
  if (::geteuid() == 0) {
    ASSERT_EQ(::chown(folder_.c_str(), 65534, 0), 0);
    EXPECT_EQ(others_who_write(folder_), "user 65534");
    ASSERT_EQ(::chown(folder_.c_str(), 0, 0), 0);
  }
}

}  // namespace
}  // namespace sluice
