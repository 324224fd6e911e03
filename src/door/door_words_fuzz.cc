// libFuzzer: the small protocols of doors. Any datagrams, with descriptors of any kind, in place of what the
// door that reads one message, or a checker, says to the daemon; and any message of a peer through the
// former.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/fd.h"
#include "base/fd_passing.h"
#include "door/checker.h"
#include "door/checkers.h"
#include "door/one_message.h"

namespace sluice {
namespace {

struct Pair {
  Pair() {
    int ends[2];
    SLUICE_CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    daemon.reset(ends[0]);
    door.reset(ends[1]);
  }
  UniqueFd daemon, door;
};

const std::vector<int>& kinds() {
  static const std::vector<int> fds{
      ::eventfd(0, EFD_CLOEXEC), ::memfd_create("fuzz", MFD_CLOEXEC), ::open("/dev/null", O_RDWR | O_CLOEXEC),
      ::open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC), ::open("/tmp", O_PATH | O_CLOEXEC)};
  return fds;
}

int lowest_free() {
  const int fd = ::fcntl(0, F_DUPFD_CLOEXEC, 0);
  ::close(fd);
  return fd;
}

void hear_all(int channel, bool of_a_checker) {
  for (int i = 0; i < 16; ++i) {
    const int free_before = lowest_free();
    if (of_a_checker) {
      // Not hostile: it has read no byte of a peer. Still nothing of no known kind is kept.
      Checked checked;
      const CheckerSaid said = hear_checker(channel, checked);
      SLUICE_CHECK(checked.bytes.size() <= kMostCheckedBytes);
      if (said == CheckerSaid::kNothing) {
        return;
      }
    } else {
      OneMessage message;
      if (!hear_message_door(channel, message)) {
        return;
      }
      SLUICE_CHECK(message.bytes.size() <= kMostMessageBytes);
      // Lower: the closer has closed one of an input before this.
      SLUICE_CHECK(lowest_free() <= free_before, "a descriptor came along");
      if (message.report.what == MessageReport::What::kClosed) {
        return;  // the daemon lets go of it
      }
    }
  }
}

void run(std::span<const std::uint8_t> data) {
  const auto byte = [&data] {
    const std::uint8_t first = data.empty() ? 0 : data.front();
    data = data.subspan(data.empty() ? 0 : 1);
    return first;
  };
  const std::uint8_t who = byte();
  const Pair channel, peer;
  while (!data.empty()) {
    const std::uint8_t how = byte();
    const std::size_t wanted = how % 3 == 0 ? byte() : how % 16u;
    const std::size_t copies = how % 8 == 7 ? byte() % (kMostFdsOfAMessage + 1) : how % 8 == 6 ? 1 : 0;
    const std::vector<int> fds(copies, kinds()[how / 8 % kinds().size()]);
    const std::size_t bytes = std::min(data.size(), wanted);
    const int to = who % 3 == 0 ? peer.daemon.get() : channel.door.get();
    if (send_with_fds(to, std::as_bytes(data.first(bytes)), fds, 0) < 0) {
      break;  // so many wait already
    }
    data = data.subspan(bytes);
    if (who % 3 == 0) {
      run_message_door(channel.door.get(), peer.door.get());
    }
    hear_all(channel.daemon.get(), who % 3 == 2);
  }
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  sluice::run({data, size});
  return 0;
}
