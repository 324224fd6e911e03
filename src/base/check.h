// Our own bug: stop at once and say which values. On in release (docs/decisions.md, three kinds of wrong).
// Never for what a peer sent: that is a Fault, a counted value.
#pragma once

#include <fmt/format.h>

#include <string>

namespace sluice::internal {
[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& values);
}

// SLUICE_CHECK(index < size, "index {} size {}", index, size);  the values may be left out.
#define SLUICE_CHECK(condition, ...)                                                                   \
  do {                                                                                                 \
    if (!(condition)) [[unlikely]] {                                                                   \
      ::sluice::internal::check_failed(__FILE__, __LINE__, #condition, ::fmt::format("" __VA_ARGS__)); \
    }                                                                                                  \
  } while (false)
