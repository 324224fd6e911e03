// A page of charts in SVG: how often each delay was seen, on a logarithmic axis, a line per echo.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "bench/delays.h"

namespace sluice::bench {

struct ChartLine {
  std::string name;
  std::span<const std::uint64_t> delays_ns;
};

struct Chart {
  std::string title;
  std::vector<ChartLine> lines;
};

// Two charts in a row. A line's height is the share of its delays per step of the axis; one without delays is
// left out.
std::string to_svg(const std::string& title, const std::vector<Chart>& charts);

}  // namespace sluice::bench
