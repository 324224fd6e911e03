// Whatever stands in a config file: parse_match() answers, and what it accepts it prints so that it reads the
// same.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "demux/rule.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto match = sluice::parse_match({reinterpret_cast<const char*>(data), size});
  if (match) {
    std::string text = sluice::to_string(*match);
    auto again = sluice::parse_match(text);
    SLUICE_CHECK(again && *again == *match, "{}", text);
    SLUICE_CHECK(sluice::to_string(*again) == text, "{}", text);
  } else {
    SLUICE_CHECK(match.error().message.starts_with("match: "), "{}", match.error().message);
  }
  return 0;
}
