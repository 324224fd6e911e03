#include "test/demo/temp_dir.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>

namespace sluice::demo {

Result<TempDir> TempDir::create() {
  std::string path = "/tmp/sluice-demo-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) {
    return fail_errno(errno, "cannot make a directory in /tmp");
  }
  return TempDir(std::move(path));
}

void TempDir::remove() const {
  if (!path_.empty()) {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
}

}  // namespace sluice::demo
