// What `latency_bench` has measured, and how it is told.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/latency_client.h"
#include "bench/latency_peers.h"

namespace sluice::bench {

enum class Case : std::uint8_t {
  kClosed,  // the next request when the answer is there
  kPaced,   // one request per ms
  kLoad10,  // closed, beside another flow at a tenth of the highest rate
  kLoad50   // ... at half of it
};
inline constexpr std::array<const char*, 4> kCaseNames = {"closed", "paced", "load10", "load50"};

// One case with one echo, all rounds together.
struct Series {
  Answers answers;               // of each round as many
  std::uint64_t requests = 0;    // that were answered
  std::map<int, double> p50_us;  // by round
  double seconds = 0;
  std::uint64_t daemon_cpu_ns = 0, echo_cpu_ns = 0;
  std::uint64_t load_sent = 0, load_answered = 0;
  std::map<std::string, std::uint64_t> daemon;  // what some of its counters grew by

  double load_per_second() const { return seconds > 0 ? static_cast<double>(load_sent) / seconds : 0; }
};

// One echo.
struct Measured {
  EchoSetup setup;
  std::vector<double> highest_rates;  // answers a second, by round
  double best_offer = 0;  // what was asked a second when the first of them was reached; 0: all that goes
  std::array<Series, kCaseNames.size()> cases;
  std::map<std::string, std::vector<double>> residence_ns;  // by round: what the daemon says of lone requests
};

class LatencyResults {
 public:
  Measured& of(const EchoSetup& setup);  // valid until another echo is asked for the first time
  const Measured* find(EchoKind kind, bool pinned, const std::string& idle) const;  // null: none

  void note(const std::string& text);
  // Every echo that was measured beside the kernel's, as tables or as {"results": [...]}.
  void print(bool json);
  bool empty() const { return measured_.empty(); }
  std::string svg();

 private:
  nlohmann::json result(Measured& each, std::size_t which);
  void print_table(bool pinned, std::size_t which);
  void print_rates();
  void print_stages();
  void print_residence();

  std::vector<Measured> measured_;
  nlohmann::json notes_ = nlohmann::json::array();
};

double median_of(std::vector<double> values);  // 0: there are none

}  // namespace sluice::bench
