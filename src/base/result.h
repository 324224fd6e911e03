// "The world" went wrong: a value with a sentence, reported once at the top (docs/decisions.md, three kinds
// of wrong).
#pragma once

#include <fmt/format.h>

#include <cstring>
#include <expected>
#include <string>
#include <utility>

namespace sluice {

// One clear sentence for a person, with what to do about it where that is known.
struct Error {
  std::string message;
  int os_errno = 0;  // 0 when no system call is behind it
};

template <typename T>
using Result = std::expected<T, Error>;

// return fail("port {}: unknown type {}", name, type);
template <typename... Args>
[[nodiscard]] std::unexpected<Error> fail(fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected(Error{fmt::format(format, std::forward<Args>(args)...), 0});
}

// The same for a failed system call: appends ": " and the text of `os_errno`.
template <typename... Args>
[[nodiscard]] std::unexpected<Error> fail_errno(int os_errno, fmt::format_string<Args...> format,
                                                Args&&... args) {
  return std::unexpected(
      Error{fmt::format(format, std::forward<Args>(args)...) + ": " + std::strerror(os_errno), os_errno});
}

// Puts what was being done in front of an error that came from below.
[[nodiscard]] inline std::unexpected<Error> with_context(std::string_view context, Error error) {
  return std::unexpected(Error{fmt::format("{}: {}", context, error.message), error.os_errno});
}

}  // namespace sluice

// Returns from the enclosing function with the error of `expression`, if it has one.
#define SLUICE_TRY(expression)                                       \
  do {                                                               \
    auto&& sluice_try_result_ = (expression);                        \
    if (!sluice_try_result_) {                                       \
      return std::unexpected(std::move(sluice_try_result_.error())); \
    }                                                                \
  } while (false)
