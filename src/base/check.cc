#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace sluice::internal {

void check_failed(const char* file, int line, const char* condition, const std::string& values) {
  // stderr and not the log: the logger itself may be what is broken.
  std::fprintf(stderr, "sluice: CHECK failed at %s:%d: %s%s%s\n", file, line, condition,
               values.empty() ? "" : ": ", values.c_str());
  std::abort();
}

}  // namespace sluice::internal
