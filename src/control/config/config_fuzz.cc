// Any text: an error that names the file, or a config that is written and read back as itself.
#include <cstdint>

#include "base/check.h"
#include "control/config/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto config = sluice::parse_config({reinterpret_cast<const char*>(data), size}, "f");
  if (!config) {
    SLUICE_CHECK(config.error().message.starts_with("f:"), "{}", config.error().message);
    return 0;
  }
  std::string text = sluice::to_toml(*config);
  auto again = sluice::parse_config(text, "f");
  SLUICE_CHECK(again.has_value(), "{}\n{}", again ? "" : again.error().message, text);
  SLUICE_CHECK(*again == *config, "{}", text);
  (void)sluice::config_warnings(*config);
  return 0;
}
