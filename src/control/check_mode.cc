#include "control/check_mode.h"

#include "control/config.h"

namespace sluice {

namespace {

std::string count_text(std::size_t count, std::string_view one) {
  return fmt::format("{} {}{}", count, one, count == 1 ? "" : "s");
}

}  // namespace

int check_config_file(const std::string& path, std::FILE* out, std::FILE* errors) {
  auto config = load_config(path);
  if (!config) {
    fmt::print(errors, "{}\n", config.error().message);
    return 1;
  }
  fmt::print(out, "{}: ok\n", path);
  fmt::print(out, "  {}, {}, {}, {}\n", count_text(config->daemon.workers.size(), "worker"),
             count_text(config->nics.size(), "NIC"), count_text(config->ports.size(), "port"),
             count_text(config->rules.size(), "rule"));
  for (const std::string& warning : config_warnings(*config)) {
    fmt::print(out, "  warning: {}\n", warning);
  }
  return 0;
}

}  // namespace sluice
