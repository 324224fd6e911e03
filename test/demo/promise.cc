#include "test/demo/promise.h"

#include <algorithm>

#include "test/demo/narrate.h"

namespace sluice::demo {

namespace {

constexpr std::size_t kLineColumns = 96;

std::string shown(const nlohmann::ordered_json& value) {
  if (value.is_number_unsigned()) {
    return grouped(value.get<std::uint64_t>());
  }
  if (value.is_string()) {
    return value.get<std::string>();
  }
  if (value.is_object() && value.empty()) {
    return "nothing";
  }
  return value.dump();
}

// "rx_packets" -> "rx packets"
std::string spoken(std::string key) {
  std::ranges::replace(key, '_', ' ');
  return key;
}

}  // namespace

void Promise::require(bool so, const std::string& otherwise) {
  if (!so) {
    broken_.push_back(otherwise);
  }
}

nlohmann::ordered_json Promise::json() const {
  nlohmann::ordered_json figures = figures_;
  figures.update(details_);
  if (!held()) {
    figures["broken"] = broken_;
    if (!played_) {
      figures["broken"].push_back("not tried to its end");
    }
  }
  return {{"name", name_}, {"held", held()}, {"figures", figures}};
}

void Promise::print(std::FILE* stream, std::size_t number) const {
  fmt::print(stream, "{}. {:<4} {}\n", number, held() ? "yes" : "NO", name_);
  std::string line;
  auto flush = [&] {
    if (!line.empty()) {
      fmt::print(stream, "        {}\n", line);
      line.clear();
    }
  };
  for (const auto& [key, value] : figures_.items()) {
    std::string item = fmt::format("{} {}", spoken(key), shown(value));
    if (!line.empty() && line.size() + item.size() + 3 > kLineColumns) {
      flush();
    }
    line += (line.empty() ? "" : " · ") + item;
  }
  flush();
  for (const std::string& why : broken_) {
    fmt::print(stream, "     -> {}\n", why);
  }
  if (!played_) {
    fmt::print(stream, "     -> not tried to its end\n");
  }
}

void Report::put(std::size_t index, Promise promise) {
  std::lock_guard lock(mutex_);
  promise.played();
  promises_.at(index) = std::move(promise);
}

int Report::print() {
  std::lock_guard lock(mutex_);
  auto held = static_cast<std::size_t>(std::ranges::count_if(promises_, &Promise::held));
  if (!printed_ && output_ == Output::kJson) {
    nlohmann::ordered_json all = nlohmann::ordered_json::array();
    for (const Promise& promise : promises_) {
      all.push_back(promise.json());
    }
    fmt::print("{}\n", nlohmann::ordered_json{{"promises", all}}.dump());
  } else if (!printed_) {
    fmt::print("\nheld?\n");
    for (std::size_t i = 0; i < promises_.size(); ++i) {
      promises_[i].print(stdout, i + 1);
    }
    fmt::print("\n{} of {} promises held\n", held, promises_.size());
  }
  std::fflush(stdout);
  printed_ = true;
  return held == promises_.size() ? 0 : 1;
}

}  // namespace sluice::demo
