#include "bench/latency_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

namespace sluice::bench {

namespace {

constexpr double kFirstUs = 1, kLastUs = 100'000;  // the ends of the axis; what lies beyond counts at the end
constexpr int kDecades = 5, kStepsPerDecade = 20, kSteps = kDecades * kStepsPerDecade;
constexpr int kWidth = 560, kHeight = 250;  // of a chart's axes
constexpr int kLeft = 50, kTop = 34, kBelow = 46, kLegend = 170;
constexpr int kCellWidth = kLeft + kWidth + kLegend, kCellHeight = kTop + kHeight + kBelow, kHeader = 40;
constexpr std::array<const char*, 12> kColours = {"#000000", "#1f77b4", "#d62728", "#2ca02c",
                                                  "#ff7f0e", "#9467bd", "#8c564b", "#e377c2",
                                                  "#17becf", "#bcbd22", "#7f7f7f", "#004d40"};

std::string escaped(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      default:
        safe += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;  // XML 1.0 has no control characters
    }
  }
  return safe;
}

std::size_t step_of(std::uint64_t ns) {
  const double us = std::clamp(static_cast<double>(ns) / 1e3, kFirstUs, kLastUs);
  return std::min(static_cast<std::size_t>(std::log10(us / kFirstUs) * kStepsPerDecade),
                  static_cast<std::size_t>(kSteps - 1));
}

using Shares = std::array<double, kSteps>;

Shares shares_of(std::span<const std::uint64_t> delays) {
  Shares shares{};
  for (const std::uint64_t ns : delays) {
    shares[step_of(ns)] += 1 / static_cast<double>(delays.size());
  }
  return shares;
}

std::string text_at(double x, double y, const std::string& anchor, const std::string& text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                     escaped(text));
}

std::string axes(double highest) {
  std::string svg =
      fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#888\"/>\n",
                  kLeft, kTop, kWidth, kHeight);
  constexpr std::array<const char*, kDecades + 1> kMarks = {"1 us", "10 us", "100 us",
                                                            "1 ms", "10 ms", "100 ms"};
  for (int decade = 0; decade <= kDecades; ++decade) {
    const int x = kLeft + kWidth * decade / kDecades;
    svg += fmt::format("<line x1=\"{0}\" y1=\"{1}\" x2=\"{0}\" y2=\"{2}\" stroke=\"#ddd\"/>\n", x, kTop,
                       kTop + kHeight);
    svg += text_at(x, kTop + kHeight + 16, "middle", kMarks[static_cast<std::size_t>(decade)]);
  }
  svg += text_at(kLeft - 6, kTop + 5, "end", fmt::format("{:.0f} %", highest * 100));
  svg += text_at(kLeft - 6, kTop + kHeight, "end", "0 %");
  return svg;
}

// One echo has one colour on the whole page.
using Colours = std::map<std::string, const char*>;

std::string chart_at(const Chart& chart, Colours& colours) {
  std::vector<Shares> shares;
  double highest = 0;
  for (const ChartLine& line : chart.lines) {
    shares.push_back(shares_of(line.delays_ns));
    highest = std::max(highest, *std::ranges::max_element(shares.back()));
  }
  std::string svg = text_at(kLeft + kWidth / 2.0, kTop - 12, "middle", chart.title);
  svg += axes(highest);
  int row = 0;
  for (std::size_t i = 0; i < chart.lines.size(); ++i) {
    if (chart.lines[i].delays_ns.empty()) {
      continue;
    }
    std::string points;
    for (std::size_t step = 0; step < kSteps; ++step) {
      points += fmt::format("{:.1f},{:.1f} ", kLeft + (static_cast<double>(step) + 0.5) * kWidth / kSteps,
                            kTop + kHeight * (1 - shares[i][step] / highest));
    }
    const char* colour =
        colours.try_emplace(chart.lines[i].name, kColours[colours.size() % kColours.size()]).first->second;
    svg += fmt::format("<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\" points=\"{}\"/>\n", colour,
                       points);
    const int y = kTop + 12 + 16 * row++;
    svg +=
        fmt::format("<line x1=\"{0}\" y1=\"{2}\" x2=\"{1}\" y2=\"{2}\" stroke=\"{3}\" stroke-width=\"3\"/>\n",
                    kLeft + kWidth + 10, kLeft + kWidth + 30, y - 4, colour);
    svg += text_at(kLeft + kWidth + 36, y, "start", chart.lines[i].name);
  }
  return svg;
}

}  // namespace

std::string to_svg(const std::string& title, const std::vector<Chart>& charts) {
  const int rows = static_cast<int>(charts.size() + 1) / 2;
  std::string svg = fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" "
      "height=\"{1}\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      2 * kCellWidth, kHeader + rows * kCellHeight);
  svg += text_at(kCellWidth, 24, "middle", title);
  Colours colours;
  for (std::size_t i = 0; i < charts.size(); ++i) {
    svg += fmt::format("<g transform=\"translate({},{})\">\n{}</g>\n", static_cast<int>(i % 2) * kCellWidth,
                       kHeader + static_cast<int>(i / 2) * kCellHeight, chart_at(charts[i], colours));
  }
  return svg + "</svg>\n";
}

}  // namespace sluice::bench
