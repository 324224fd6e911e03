// PageSet: a bounded set of pages. Insertion and removal look at a few neighbouring words, and nothing is
// allocated after the making.
#pragma once

#include <bit>
#include <cstdint>
#include <memory>

#include "base/check.h"
#include "base/ids.h"

namespace sluice {

class PageSet {
 public:
  explicit PageSet(std::uint32_t most) : most_(most), mask_(std::bit_ceil(2 * most + 2) - 1) {
    places_ = std::make_unique<std::uint32_t[]>(mask_ + std::size_t{1});
    clear();
  }

  std::uint32_t count() const { return count_; }
  std::uint32_t most() const { return most_; }

  // A page that is not in it, into a set that is not full (CHECK).
  void insert(PageIndex page) {
    SLUICE_CHECK(count_ < most_ && page != PageIndex::kNone, "page {}, {} of {}", raw(page), count_, most_);
    std::uint32_t at = home_of(raw(page));
    for (; places_[at] != kEmpty; at = next(at)) {
      SLUICE_CHECK(places_[at] != raw(page), "page {} is here already", raw(page));
    }
    places_[at] = raw(page);
    ++count_;
  }
  // False: it was not in it.
  bool erase(PageIndex page) {
    std::uint32_t hole = home_of(raw(page));
    while (places_[hole] != raw(page)) {
      if (places_[hole] == kEmpty) {
        return false;
      }
      hole = next(hole);
    }
    if (page == PageIndex::kNone) {
      return false;
    }
    // What stands behind the hole and could stand in it moves there, so that a search may end at an empty
    // place.
    for (std::uint32_t at = next(hole); places_[at] != kEmpty; at = next(at)) {
      const std::uint32_t from_home = (at - home_of(places_[at])) & mask_;
      if (from_home >= ((at - hole) & mask_)) {
        places_[hole] = places_[at];
        hole = at;
      }
    }
    places_[hole] = kEmpty;
    --count_;
    return true;
  }
  bool contains(PageIndex page) const {
    std::uint32_t at = home_of(raw(page));
    while (places_[at] != raw(page) && places_[at] != kEmpty) {
      at = next(at);
    }
    return page != PageIndex::kNone && places_[at] == raw(page);
  }
  // Calls `taken` per page, and is empty then.
  template <typename Taken>
  void take_all(Taken&& taken) {
    for (std::uint32_t at = 0; at <= mask_ && count_ != 0; ++at) {
      if (places_[at] != kEmpty) {
        taken(PageIndex{places_[at]});
      }
    }
    clear();
  }

 private:
  static constexpr std::uint32_t kEmpty = raw(PageIndex::kNone);
  // The digits of the golden ratio. At most half full, so a search ends after a few places.
  std::uint32_t home_of(std::uint32_t page) const { return (page * 0x9e3779b9u >> 7) & mask_; }
  std::uint32_t next(std::uint32_t at) const { return (at + 1) & mask_; }
  void clear() {
    for (std::size_t at = 0; at <= mask_; ++at) {
      places_[at] = kEmpty;
    }
    count_ = 0;
  }

  const std::uint32_t most_;
  const std::uint32_t mask_;
  std::unique_ptr<std::uint32_t[]> places_;
  std::uint32_t count_ = 0;
};

}  // namespace sluice
