// Small helpers for sentences about what a person wrote.
#pragma once

#include <algorithm>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Levenshtein distance: how many letters must change.
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      std::size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

// The candidate that `word` was probably meant to be, or "" when none is near.
inline std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates) {
  constexpr std::size_t kLongestWord = 64;  // nothing of ours is longer, and the search is quadratic
  std::string_view best;
  std::size_t best_distance = 3;  // two letters may be wrong
  if (word.size() > kLongestWord) {
    return best;
  }
  for (std::string_view candidate : candidates) {
    std::size_t distance = edit_distance(word, candidate);
    if (distance < best_distance && distance < candidate.size()) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

inline std::string join(std::span<const std::string_view> words, std::string_view separator) {
  std::string text;
  for (std::string_view word : words) {
    if (!text.empty()) {
      text += separator;
    }
    text += word;
  }
  return text;
}

// `; did you mean "x"?` or `; known OBJECTS: a, b`.
inline std::string suggestion(std::string_view word, std::span<const std::string_view> known,
                              std::string_view objects) {
  std::string_view best = nearest(word, known);
  if (!best.empty()) {
    return "; did you mean \"" + std::string(best) + "\"?";
  }
  if (known.empty()) {
    return "; there are no " + std::string(objects);
  }
  return "; known " + std::string(objects) + ": " + join(known, ", ");
}

}  // namespace sluice
