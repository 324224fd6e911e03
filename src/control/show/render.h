// What `sluicectl` prints: the results of the show methods (control/rpc/api.h) as tables for people.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "control/show/rates.h"

namespace sluice {

// A table with a head line; columns are as wide as they must be, two spaces apart.
class Table {
 public:
  enum class Align : std::uint8_t { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  // Control characters and broken UTF-8 (a client chooses its own name) are shown as '?', never sent to the
  // terminal.
  void row(std::vector<std::string> cells);
  std::string text() const;
  bool empty() const { return rows_.empty(); }

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

std::string grouped(std::uint64_t value);             // 1,234,567
std::string si(double value, std::string_view unit);  // "1.23 Mpps"

// Each takes the result of the method of its name; what is missing or has an unexpected type is shown as "-".
std::string render_nics(const nlohmann::json& result);
std::string render_queues(const nlohmann::json& result);
std::string render_ports(const nlohmann::json& result);
std::string render_guests(const nlohmann::json& result);
std::string render_rules(const nlohmann::json& result);
std::string render_pools(const nlohmann::json& result);
std::string render_counters(const nlohmann::json& result);
std::string render_config(const nlohmann::json& result);
std::string render_rates(const std::vector<Rate>& rates);

}  // namespace sluice
