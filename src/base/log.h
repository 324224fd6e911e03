// One log line when something changes, never one per packet. Lines go to stderr, with the time unless the
// journal stamps them itself.
#pragma once

#include <spdlog/spdlog.h>

#include <string_view>

namespace sluice::log {

// `level`: trace, debug, info, warning, error, off. Call once, from main.
void start(std::string_view program, std::string_view level);

using spdlog::debug;
using spdlog::error;
using spdlog::info;
using spdlog::warn;

}  // namespace sluice::log
