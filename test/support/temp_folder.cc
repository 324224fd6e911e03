#include "test/support/temp_folder.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "base/check.h"

namespace sluice::test {

TempFolder::TempFolder(const std::string& name) : path_("/tmp/sluice-" + name + "-XXXXXX") {
  SLUICE_CHECK(::mkdtemp(path_.data()) != nullptr, "mkdtemp: errno {}", errno);
  SLUICE_CHECK(::chmod(path_.c_str(), 0755) == 0, "chmod: errno {}", errno);
}

void TempFolder::remove() const {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace sluice::test
