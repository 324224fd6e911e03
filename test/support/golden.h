// A golden file: what a program says, word for word, one file per program. Its cases begin with "== HEAD"; what
// stands before the first is for the reader.
#pragma once

#include <fstream>
#include <ostream>
#include <string>
#include <vector>

#include "base/check.h"

namespace sluice::test {

struct GoldenCase {
  std::string head;
  std::string body;  // whole lines, without the empty ones at its end
  int line = 0;      // of the file
  friend void PrintTo(const GoldenCase& which, std::ostream* out) { *out << which.head; }
};

inline std::vector<GoldenCase> golden_cases(const std::string& path) {
  std::ifstream file(path);
  SLUICE_CHECK(file.good(), "cannot read {}", path);
  std::vector<GoldenCase> cases;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.starts_with("== ")) {
      cases.push_back({.head = line.substr(3), .body = {}, .line = number});
    } else if (!cases.empty()) {
      cases.back().body += line + "\n";
    }
  }
  for (GoldenCase& each : cases) {
    while (each.body.ends_with("\n\n")) {
      each.body.pop_back();
    }
  }
  return cases;
}

}  // namespace sluice::test
