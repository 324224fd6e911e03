// XdpLink: an XDP program on a NIC for as long as this object, or this process, lives.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace sluice {

// The program is attached by a BPF link: when its last descriptor is closed, also by kill -9, the kernel
// detaches the program and the NIC is an ordinary one again.
class XdpLink {
 public:
  enum class Mode { kNative, kGeneric };
  // Native first; generic where the driver cannot, which warning() then says. Never pushes another program
  // aside: errors name it. The other errors: no such device, too large an MTU, too few queues, no privilege.
  static Result<XdpLink> attach(int ifindex, int program_fd);

  bool native() const { return mode_ == Mode::kNative; }
  // Empty, or a sentence for the log.
  const std::string& warning() const { return warning_; }
  // Does the kernel still have the program on the NIC? No, once the device is gone.
  bool attached() const;

 private:
  UniqueFd link_;
  Mode mode_ = Mode::kNative;
  std::string warning_;
};

}  // namespace sluice
