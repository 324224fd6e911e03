// A random walk of a structure beside a naive model of it. The same walk is driven by a seed in the Model_
// tests and by libFuzzer's bytes in the fuzzers.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <random>
#include <set>
#include <span>
#include <vector>

#include "base/check.h"
#include "memory/arena.h"
#include "memory/ledger.h"
#include "memory/pool.h"

namespace sluice::test {

class Choices {
 public:
  virtual ~Choices() = default;
  virtual bool more() = 0;
  virtual std::uint32_t below(std::uint32_t bound) = 0;  // 0 .. bound - 1
};

class RandomChoices final : public Choices {
 public:
  RandomChoices(std::uint64_t seed, std::uint32_t steps) : random_(seed), steps_(steps) {}
  bool more() override { return steps_-- != 0; }
  std::uint32_t below(std::uint32_t bound) override { return static_cast<std::uint32_t>(random_() % bound); }

 private:
  std::mt19937_64 random_;
  std::uint32_t steps_;
};

class ByteChoices final : public Choices {
 public:
  explicit ByteChoices(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
  bool more() override { return !bytes_.empty(); }
  std::uint32_t below(std::uint32_t bound) override {
    std::uint32_t value = 0;
    for (int i = 0; i < 2 && !bytes_.empty(); ++i) {
      value = value << 8 | bytes_.front();
      bytes_ = bytes_.subspan(1);
    }
    return value % bound;
  }

 private:
  std::span<const std::uint8_t> bytes_;
};

class CounterMap final : public CounterVisitor {
 public:
  void counter(std::string_view name, std::uint64_t value) override { values_.emplace_back(name, value); }
  std::uint64_t operator[](std::string_view name) const {
    for (const auto& [key, value] : values_) {
      if (key == name) {
        return value;
      }
    }
    SLUICE_CHECK(false, "no counter {}", name);
    return 0;
  }

 private:
  std::vector<std::pair<std::string, std::uint64_t>> values_;
};

// Walks a pool by one thread (remote returns included: to the ring a thread is a caller). What is known of it
// by the naive model: the set of pages that are out, how many wait in the ring, how many were ever used.
class PoolWalk {
 public:
  PoolWalk(const Arena& arena, Choices& choices) : choices_(choices) {
    PagePoolOptions options{.name = "walk"};
    options.first = PageIndex{choices.below(8)};
    options.page_count = 1 + choices.below(64);
    options.limit = choices.below(options.page_count + 1);
    options.watermark = choices.below((options.limit ? options.limit : options.page_count) + 1);
    options.return_ring = 2u << choices.below(6);
    options.reuse =
        choices.below(2) == 0 ? PagePoolOptions::Reuse::kNewestFirst : PagePoolOptions::Reuse::kOldestFirst;
    ring_capacity_ = options.return_ring;
    pool_ = std::move(PagePool::create(arena, options).value());
  }

  void run() {
    while (choices_.more()) {
      step();
      check();
    }
    release_all();
    check();
    SLUICE_CHECK(pool_->idle());
  }

 private:
  void step() {
    switch (choices_.below(7)) {
      case 0: {
        in_ring_ = home() == in_ring_ ? 0 : in_ring_;  // an empty cache makes alloc look into the ring
        PageIndex page = pool_->alloc();
        took({&page, page == PageIndex::kNone ? 0u : 1u}, 1);
        break;
      }
      case 1: {
        std::vector<PageIndex> pages(choices_.below(40));
        in_ring_ = 0;
        std::uint32_t count = pool_->alloc_bulk(pages);
        took({pages.data(), count}, static_cast<std::uint32_t>(pages.size()));
        break;
      }
      case 2:
        if (!out_.empty()) {
          pool_->release(pick());
          ++released_;
        }
        break;
      case 3: {
        auto pages = pick_some();
        pool_->release_bulk(pages);
        released_ += pages.size();
        break;
      }
      case 4: {
        auto pages = pick_some();
        std::uint32_t room = ring_capacity_ - in_ring_;
        std::uint32_t expected =
            static_cast<std::uint32_t>(pages.size()) < room ? static_cast<std::uint32_t>(pages.size()) : room;
        std::uint32_t fitted = pool_->release_remote(pages);
        SLUICE_CHECK(fitted == expected, "{} of {} fitted, room {}", fitted, pages.size(), room);
        out_.insert(out_.end(), pages.begin() + fitted, pages.end());
        in_ring_ += fitted;
        by_ring_ += fitted;
        refused_ += pages.size() - fitted;
        released_ += fitted;
        break;
      }
      case 5:
        pool_->collect();
        in_ring_ = 0;
        break;
      default:
        break;
    }
  }

  std::uint32_t home() const { return static_cast<std::uint32_t>(used_.size() - out_.size()); }

  void took(std::span<const PageIndex> pages, std::uint32_t wanted) {
    std::uint64_t free_pages = pool_->limit() - out_.size();
    SLUICE_CHECK(pages.size() == (wanted < free_pages ? wanted : free_pages), "{} of {}, {} free",
                 pages.size(), wanted, free_pages);
    for (PageIndex page : pages) {
      SLUICE_CHECK(pool_->contains(page), "page {}", raw(page));
      for (PageIndex other : out_) {
        SLUICE_CHECK(other != page, "page {} is lent twice", raw(page));
      }
      out_.push_back(page);
      used_.insert(page);
      ++held_;
    }
  }

  PageIndex pick() {
    std::size_t at = choices_.below(static_cast<std::uint32_t>(out_.size()));
    PageIndex page = out_[at];
    out_[at] = out_.back();
    out_.pop_back();
    return page;
  }

  std::vector<PageIndex> pick_some() {
    std::vector<PageIndex> pages;
    for (std::uint32_t i = choices_.below(static_cast<std::uint32_t>(out_.size()) + 1); i != 0; --i) {
      pages.push_back(pick());
    }
    return pages;
  }

  void release_all() {
    pool_->release_bulk(out_);
    released_ += out_.size();
    out_.clear();
  }

  void check() const {
    SLUICE_CHECK(pool_->inflight() == out_.size(), "{} in flight, {} out", pool_->inflight(), out_.size());
    SLUICE_CHECK(pool_->under_pressure() == (out_.size() >= pool_->watermark()));
    SLUICE_CHECK(pool_->idle() == out_.empty());
    CounterMap counters;
    pool_->visit(counters);
    SLUICE_CHECK(counters["held"] == held_ && counters["released"] == released_, "held {} {} released {} {}",
                 counters["held"], held_, counters["released"], released_);
    SLUICE_CHECK(counters["alloc_slow"] == used_.size(), "used {} {}", counters["alloc_slow"], used_.size());
    SLUICE_CHECK(counters["alloc_fast"] + counters["alloc_slow"] == held_);
    SLUICE_CHECK(counters["recycle_ring"] == by_ring_ && counters["recycle_ring_full"] == refused_);
    SLUICE_CHECK(counters["recycle_cached"] + counters["recycle_ring"] == released_);
  }

  Choices& choices_;
  std::unique_ptr<PagePool> pool_;
  std::vector<PageIndex> out_;
  std::set<PageIndex> used_;
  std::uint32_t ring_capacity_ = 0, in_ring_ = 0;
  std::uint64_t held_ = 0, released_ = 0, by_ring_ = 0, refused_ = 0;
};

// Walks a ledger; the model is one holder per page, and counts by looking at all of them.
class LedgerWalk {
 public:
  explicit LedgerWalk(Choices& choices)
      : choices_(choices),
        first_(choices.below(50)),
        holders_(1 + choices.below(40), PortId::kKernel),
        ledger_(PageIndex{first_}, static_cast<std::uint32_t>(holders_.size())) {}

  void run() {
    while (choices_.more()) {
      step();
      check();
    }
  }

 private:
  PortId some_port() { return PortId{static_cast<std::uint16_t>(1 + choices_.below(4))}; }

  void step() {
    switch (choices_.below(8)) {
      case 0:
      case 1:
      case 2: {
        std::uint32_t slot = choices_.below(static_cast<std::uint32_t>(holders_.size()));
        if (holders_[slot] == PortId::kKernel) {
          holders_[slot] = some_port();
          ledger_.lend(PageIndex{first_ + slot}, holders_[slot]);
        }
        break;
      }
      case 3: {
        PortId from = some_port();
        std::set<PageIndex> expected, got;
        for (std::uint32_t slot = 0; slot < holders_.size(); ++slot) {
          if (holders_[slot] == from) {
            expected.insert(PageIndex{first_ + slot});
            holders_[slot] = PortId::kKernel;
          }
        }
        std::uint32_t count = ledger_.reclaim(from, [&](PageIndex page) { got.insert(page); });
        SLUICE_CHECK(got == expected && count == expected.size());
        break;
      }
      default:
        give_back_anything();
    }
  }

  void give_back_anything() {
    std::uint32_t page = first_ + choices_.below(static_cast<std::uint32_t>(holders_.size()) + 2) - 1;
    if (choices_.below(8) == 0) {
      page = choices_.below(1u << 16) * 0x10001u;  // anything at all
    }
    PortId from = some_port();
    PageFault expected = PageFault::kNone;
    if (page < first_ || page >= first_ + holders_.size()) {
      expected = PageFault::kForged;
    } else if (holders_[page - first_] != from) {
      expected = holders_[page - first_] == PortId::kKernel ? PageFault::kDouble : PageFault::kForeign;
    } else {
      holders_[page - first_] = PortId::kKernel;
    }
    PageFault fault = ledger_.give_back(page, from);
    SLUICE_CHECK(fault == expected, "page {} from {}: {} and not {}", page, raw(from),
                 static_cast<int>(fault), static_cast<int>(expected));
  }

  void check() const {
    std::uint32_t counts[5] = {};
    for (std::uint32_t slot = 0; slot < holders_.size(); ++slot) {
      SLUICE_CHECK(ledger_.holder(PageIndex{first_ + slot}) == holders_[slot]);
      ++counts[raw(holders_[slot])];
    }
    for (std::uint16_t port = 1; port < 5; ++port) {
      SLUICE_CHECK(ledger_.lent(PortId{port}) == counts[port], "port {}", port);
    }
  }

  Choices& choices_;
  std::uint32_t first_;
  std::vector<PortId> holders_;
  Ledger ledger_;
};

}  // namespace sluice::test
