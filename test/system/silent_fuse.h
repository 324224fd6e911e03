// A file whose server does not answer: FUSE. Who asks anything of it that is not answered waits in the
// kernel, also to close it, and cannot be killed.
//
// So the test's own process never has it. It stands in a program of its own (silent_fuse_program.cc), of two
// processes: the server, which alone has /dev/fuse open and never touches the file, and the sender, which has
// the file and sends it to whom the test says. When the server ends, by whatever way, the kernel aborts the
// connection, and everybody who waits goes on. It ends with the test's process: by the end of its socket, and
// by PR_SET_PDEATHSIG.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/fd.h"
#include "base/result.h"

// The program has said why it cannot be.
#define NEED_SILENT_FUSE(name, silent_to)                          \
  auto name = SilentFuse::start(silent_to);                        \
  if (!name) {                                                     \
    GTEST_SKIP() << "no FUSE file here: " << name.error().message; \
  }

namespace sluice::test {

// What the server does not answer, a bit each.
enum SilentTo : std::uint32_t {
  kSilentToFlush = 1,  // asked at every close(2)
  kSilentToRelease = 2,
  kSilentToGetattr = 4,
  kSilentToStatfs = 8,
  kSilentToAll = 15,
};

// What the test says to the sender; the answer is an errno, 0 when all went well.
struct FuseOrder {
  enum class What : std::uint32_t {
    kSend,      // connects to `path`, sends the bytes with the file, and keeps the connection
    kSendWake,  // attaches to an app port at `path`, and sends to the socket that wakes it
    kHangUp,    // closes the connection of the last order
  } what = What::kSend;
  std::int32_t type = 0;   // SOCK_STREAM, SOCK_SEQPACKET
  std::uint32_t user = 0;  // who connects
  std::uint32_t copies = 1;
  std::uint32_t bytes = 0;
  char path[108] = {};
  std::byte data[512] = {};
};

class SilentFuse {
 public:
  // Errors: no /dev/fuse here, no privilege to mount.
  static Result<std::unique_ptr<SilentFuse>> start(std::uint32_t silent_to);
  ~SilentFuse();  // the server ends, and nobody waits any more

  int send(const std::string& path, int type, std::span<const std::byte> bytes, std::uint32_t user = 0,
           std::uint32_t copies = 1);
  int send_wake(const std::string& path);
  void hang_up();

 private:
  SilentFuse() = default;
  int order(const FuseOrder& order);

  UniqueFd orders_;
  pid_t server_ = -1;
};

}  // namespace sluice::test
