// QemuGuest: Linux in a virtual machine (software emulation: it runs anywhere), with NICs that Sluice serves
// by vhost-user, spoken to by its serial line.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "test/guest/console.h"
#include "test/support/net_ns.h"
#include "test/support/process.h"

namespace sluice::test {

// What a guest boots: a kernel of Debian, fetched once by test/guest/bed/fetch.sh, and a file system in
// memory.
struct GuestImage {
  std::string kernel, initramfs;
};
// Suite of the kernel: `bookworm`, or one whose virtio_net has AF_XDP zero copy. `files`: "PATH:DEST" each,
// programs bring their libraries. An error is why it cannot be had here.
Result<GuestImage> guest_image(const std::string& suite, const std::string& folder,
                               const std::vector<std::string>& files);
inline constexpr const char* kStandardSuite = "bookworm";
inline constexpr const char* kZeroCopySuite = "trixie-backports";  // 6.16 or later

struct QemuNic {
  std::string socket, mac;
  bool server = false;  // QEMU listens; else it connects, and again every second when the back-end is gone
  std::string more;     // device options: "packed=on"
  std::uint32_t queues = 1;
};

struct QemuOptions {
  GuestImage image;
  std::string address;  // of its eth0, with prefix length
  std::vector<QemuNic> nics;
  std::vector<std::string> more;  // further arguments
  const NetNs* ns = nullptr;      // where QEMU runs; none: here
  std::string kernel_words;       // more of the kernel's command line
  std::uint32_t memory_mb = 256, cpus = 1;
  bool huge_pages = false;  // its memory is of reserved pages of 2 MiB
};

class QemuGuest {
 public:
  // Why there is no QEMU on this machine; empty: there is.
  static std::string why_none();
  // Returns when the process is there. (It waits for its back-ends.)
  static Result<std::unique_ptr<QemuGuest>> start(const QemuOptions& options);

  // Waits until Linux is up, the first time or after a reboot.
  Result<void> up();
  // A line for its shell, to its end; or not waiting for it.
  Finished run(const std::string& line);
  struct Begun {
    int number;
    std::size_t mark;
  };
  Begun begin(const std::string& line);
  Finished finish(const Begun& begun);
  // Waits for a text that what was begun prints.
  bool says(const Begun& begun, const std::string& text);
  void reboot();

  bool running() const { return console_->running(); }
  int kill() { return console_->kill(); }
  pid_t pid() const { return console_->pid(); }
  std::string log() const { return console_->text(); }

 private:
  explicit QemuGuest(std::unique_ptr<Console> console) : console_(std::move(console)) {}
  std::unique_ptr<Console> console_;
  int lines_ = 0;
  std::size_t boot_mark_ = 0;
};

}  // namespace sluice::test
