#include "test/demo/measure.h"

#include <sstream>
#include <thread>

#include "test/demo/stage.h"

namespace sluice::demo {

namespace {

// The sums over a NIC's queues, and what pools call by such a name, are left out.
bool tells_of_a_loss(const std::string& name) {
  if (name.starts_with("pool.") || name.starts_with("nic.")) {
    return false;
  }
  for (const char* word : {"drop", "ring_full", "fill_ring_empty", "xmit_errors", "fault_"}) {
    if (name.contains(word)) {
      return true;
    }
  }
  return false;
}

// "     rx_queue_0_xdp_drops: 12" of ethtool -S.
void add_statistics(const test::NetNs& ns, const std::string& link, nlohmann::json& counters) {
  std::istringstream lines(ns.command("ethtool -S " + link).output);
  for (std::string line; std::getline(lines, line);) {
    const auto begin = line.find_first_not_of(' '), colon = line.rfind(": ");
    if (begin != std::string::npos && colon != std::string::npos) {
      counters["wire." + link + "." + line.substr(begin, colon - begin)] =
          std::strtoull(line.c_str() + colon + 2, nullptr, 10);
    }
  }
}

}  // namespace

bool wait_until(std::chrono::milliseconds patience, const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

Result<Counts> Counts::now(Stage& stage) {
  Counts counts;
  counts.counters_ = SLUICE_TRY(stage.daemon().call("show.counters"));
  const test::VethOptions& names = stage.pair().options();
  add_statistics(stage.nic_ns(), names.nic_name, counts.counters_);
  add_statistics(stage.wire_ns(), names.wire_name, counts.counters_);
  return counts;
}

std::uint64_t Counts::grown(const Counts& before, const std::string& name) const {
  const std::uint64_t was = before[name], is = (*this)[name];
  return is >= was ? is - was : is;  // what was made anew meanwhile counts from 0
}

nlohmann::json Counts::losses(const Counts& before) const {
  nlohmann::json lost = nlohmann::json::object();
  for (const auto& [name, value] : counters_.items()) {
    if (tells_of_a_loss(name) && grown(before, name) > 0) {
      lost[name] = grown(before, name);
    }
  }
  return lost;
}

}  // namespace sluice::demo
