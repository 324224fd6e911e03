// A promise of Sluice's, held or not, with the figures that say so; and all of them as a table or as JSON.
#pragma once

#include <cstdio>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace sluice::demo {

class Promise {
 public:
  explicit Promise(std::string name) : name_(std::move(name)) {}

  // Shown in the order they come.
  template <typename Value>
  void figure(const std::string& key, const Value& value) {
    figures_[key] = value;
  }
  // In the JSON only.
  template <typename Value>
  void detail(const std::string& key, const Value& value) {
    details_[key] = value;
  }
  // Each that is not so breaks the promise; `otherwise` is said then.
  void require(bool so, const std::string& otherwise);
  // Nothing is held before its scene was played to its end.
  void played() { played_ = true; }

  bool held() const { return played_ && broken_.empty(); }
  const std::string& name() const { return name_; }
  nlohmann::ordered_json json() const;
  void print(std::FILE* stream, std::size_t number) const;

 private:
  std::string name_;
  bool played_ = false;
  std::vector<std::string> broken_;
  nlohmann::ordered_json figures_ = nlohmann::ordered_json::object();
  nlohmann::ordered_json details_ = nlohmann::ordered_json::object();
};

enum class Output { kTable, kJson };

// The checklist. Printed once, by whoever comes to an end first: the demo, or its time limit.
class Report {
 public:
  explicit Report(Output output, std::vector<Promise> promises)
      : output_(output), promises_(std::move(promises)) {}

  void put(std::size_t index, Promise promise);
  // The exit status: 0 if all held. The second call prints nothing.
  int print();

 private:
  std::mutex mutex_;
  Output output_;
  bool printed_ = false;
  std::vector<Promise> promises_;
};

}  // namespace sluice::demo
