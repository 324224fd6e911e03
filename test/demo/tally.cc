#include "test/demo/tally.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

namespace sluice::demo {

Result<SharedTally> SharedTally::create() {
  SharedTally tally;
  tally.fd_.reset(::memfd_create("demo-tally", MFD_CLOEXEC));
  if (!tally.fd_ || ::ftruncate(tally.fd_.get(), sizeof(Tally)) < 0) {
    return fail_errno(errno, "cannot make an app's tally");
  }
  auto mapping = Mapping::map(tally.fd_.get(), sizeof(Tally), PROT_READ | PROT_WRITE);
  SLUICE_TRY(mapping);
  tally.mapping_ = std::move(*mapping);
  std::construct_at(reinterpret_cast<Tally*>(tally.mapping_.data()));
  return tally;
}

Result<SharedTally> SharedTally::open(const std::string& path) {
  SharedTally tally;
  tally.fd_.reset(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!tally.fd_) {
    return fail_errno(errno, "cannot open the tally {}", path);
  }
  auto mapping = Mapping::map(tally.fd_.get(), sizeof(Tally), PROT_READ | PROT_WRITE);
  SLUICE_TRY(mapping);
  tally.mapping_ = std::move(*mapping);
  return tally;
}

std::string SharedTally::path() const {
  return fmt::format("/proc/{}/fd/{}", ::getpid(), fd_.get());
}

}  // namespace sluice::demo
