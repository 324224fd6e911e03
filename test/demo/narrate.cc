#include "test/demo/narrate.h"

namespace sluice::demo {

namespace {
std::FILE* story = stdout;
}

void narrate_to(std::FILE* stream) {
  story = stream;
}

void narrate(const std::string& line) {
  std::fputs((line + "\n").c_str(), story);
  std::fflush(story);
}

std::string grouped(std::uint64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t at = text.size(); at > 3; at -= 3) {
    text.insert(at - 3, 1, ',');
  }
  return text;
}

}  // namespace sluice::demo
