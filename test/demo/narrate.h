// What the demo says while it works.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <cstdio>
#include <string>

namespace sluice::demo {

// Where the story goes: stdout, or stderr when stdout belongs to the JSON.
void narrate_to(std::FILE* stream);
void narrate(const std::string& line);

template <typename... Args>
void say(fmt::format_string<Args...> format, Args&&... args) {
  narrate(fmt::format(format, std::forward<Args>(args)...));
}

// 10,000,000
std::string grouped(std::uint64_t number);

}  // namespace sluice::demo
