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

namespace result_detail {
template <typename E>
void take(std::expected<void, E>&&) {}
template <typename T, typename E>
T take(std::expected<T, E>&& result) {
  return *std::move(result);
}
template <typename T, typename E>
void take(const std::expected<T, E>&) {}
}  // namespace result_detail

}  // namespace sluice

// Returns from the enclosing function with the error of a result, if it has one. Of a result that has no name
// it is the value:
//
//   auto file = SLUICE_TRY(open_file(path));
//   SLUICE_TRY(write_all(file, text));
//
// (A statement expression, which both of our compilers have: no other form can return and have a value.)
#define SLUICE_TRY(...)                                                                            \
  ({                                                                                               \
    auto&& sluice_try_result_ = (__VA_ARGS__);                                                     \
    if (!sluice_try_result_) {                                                                     \
      return std::unexpected(std::move(sluice_try_result_.error()));                               \
    }                                                                                              \
    ::sluice::result_detail::take(std::forward<decltype(sluice_try_result_)>(sluice_try_result_)); \
  })
