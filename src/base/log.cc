#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>

#include <cstdlib>
#include <string>

namespace sluice::log {

void start(std::string_view program, std::string_view level) {
  auto logger = spdlog::stderr_logger_mt(std::string(program));
  // The journal stamps lines itself; a terminal or a file needs the time.
  bool under_systemd = std::getenv("JOURNAL_STREAM") != nullptr;
  logger->set_pattern(under_systemd ? "%l: %v" : "%Y-%m-%dT%H:%M:%S.%e %n %l: %v");
  logger->set_level(spdlog::level::from_str(std::string(level)));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace sluice::log
