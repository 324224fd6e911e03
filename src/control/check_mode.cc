#include "control/check_mode.h"

#include <filesystem>

#include "base/folder.h"
#include "control/config/config.h"

namespace sluice {

namespace {

std::string count_text(std::size_t count, std::string_view one) {
  return fmt::format("{} {}{}", count, one, count == 1 ? "" : "s");
}

// What is so on this machine, not in the file alone.
void warn_of_folder(const std::string& path, std::string_view whose, std::FILE* out) {
  if (path.empty()) {
    return;
  }
  const std::string folder = std::filesystem::path(path).parent_path();
  if (const std::string others = others_who_write(folder); !others.empty()) {
    fmt::print(out, "  warning: {}: {} can write in {}, and put another socket in its place\n", whose, others,
               folder);
  }
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
  warn_of_folder(config->daemon.control, "the control socket", out);
  for (const auto& [name, port] : config->ports) {
    const auto* guest = port.guest();
    const auto* socket = port.by_socket();
    // In the client role the folder is the front-end's, as it should be.
    if (socket != nullptr && (guest == nullptr || guest->role == GuestRole::kServer)) {
      warn_of_folder(socket->socket, "port " + name, out);
    }
  }
  return 0;
}

}  // namespace sluice
