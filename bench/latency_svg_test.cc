#include "bench/latency_svg.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "test/support/process.h"

namespace sluice::bench {
namespace {

// What a parser that accepts nothing but well-formed XML sees: a line per element with its text.
test::Finished parsed(const std::string& svg) {
  std::string path = ::testing::TempDir() + "latency_svg_test.svg";
  std::ofstream(path) << svg;
  test::Finished done = test::run({"python3", "-c",
                                   "import sys, xml.etree.ElementTree as tree\n"
                                   "for e in tree.parse(sys.argv[1]).iter():\n"
                                   "  print(e.tag.split('}')[1], e.get('points', ''), e.text or '')\n",
                                   path});
  std::remove(path.c_str());
  return done;
}

std::vector<std::string> lines_with(const std::string& text, const std::string& word) {
  std::vector<std::string> found;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.find(word) != std::string::npos) {
      found.push_back(line);
    }
  }
  return found;
}

TEST(LatencySvg, IsWellFormedWhateverNamesHoldAndHasALinePerEcho) {
  const std::vector<std::uint64_t> some = {20'000, 21'000, 300'000}, other = {1'000};
  const test::Finished done =
      parsed(to_svg("\"a\" & b", {{"<closed>", {{"kernel & co", some}, {"app\x01<b>", other}}},
                                  {"paced", {{"kernel", some}, {"nothing came", {}}}},
                                  {"load", {}}}));
  ASSERT_TRUE(done.ok()) << done.output;
  EXPECT_EQ(lines_with(done.output, "polyline").size(), 3u);
  EXPECT_EQ(lines_with(done.output, "text  <closed>").size(), 1u) << done.output;
  EXPECT_EQ(lines_with(done.output, "text  kernel & co").size(), 1u) << done.output;
  EXPECT_EQ(lines_with(done.output, "text  app <b>").size(), 1u) << done.output;
  EXPECT_TRUE(lines_with(done.output, "nothing came").empty());
}

TEST(LatencySvg, IsWellFormedWithoutCharts) {
  EXPECT_TRUE(parsed(to_svg("nothing", {})).ok());
}

TEST(LatencySvg, PutsADelayAtItsPlaceOnTheLogarithmicAxisAndWhatLiesBeyondAtItsEnds) {
  // 100 us is two of five decades from the left; 0 and an hour are outside.
  const std::vector<std::uint64_t> delays = {100'000, 100'000, 100'000, 0, 3'600'000'000'000};
  const test::Finished done = parsed(to_svg("", {{"", {{"", delays}}}}));
  ASSERT_TRUE(done.ok()) << done.output;
  std::istringstream points(lines_with(done.output, "polyline").at(0).substr(9));
  std::vector<std::pair<double, double>> at;
  double x = 0, y = 0;
  for (char comma = 0; points >> x >> comma >> y;) {
    at.emplace_back(x, y);
  }
  ASSERT_EQ(at.size(), 100u);
  const auto lowest = at[1].second;
  const auto height = [&](std::size_t i) { return lowest - at[i].second; };
  EXPECT_GT(height(40), 0);
  EXPECT_EQ(at[40].second, std::ranges::min_element(at, {}, &std::pair<double, double>::second)->second);
  EXPECT_NEAR(height(0), height(40) / 3, 0.2);
  EXPECT_NEAR(height(99), height(40) / 3, 0.2);
  EXPECT_NEAR(at[40].first - at[0].first, (at[99].first - at[0].first) * 40 / 99, 0.2);
}

}  // namespace
}  // namespace sluice::bench
