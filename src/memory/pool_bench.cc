// pool_bench [--json] [--pages N] [--rounds N]: PagePool against DPDK's mbufs and mempool, in one run.
//
// Both sides take turns, kRounds times, and the medians are compared: a machine that speeds up or slows down
// meanwhile does so for both.
#include "memory/pool_bench.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "memory/arena.h"
#include "memory/ledger.h"
#include "memory/pool.h"

namespace sluice::bench {
namespace {

double since(std::uint64_t start, std::uint64_t pages) {
  return static_cast<double>(now_ns() - start) / static_cast<double>(pages);
}

struct Bed {
  Arena arena;
  std::unique_ptr<PagePool> pool;
};

std::shared_ptr<Bed> make_bed() {
  auto arena = Arena::create({.name = "bench", .page_bytes = 2048, .page_count = kPages});
  SLUICE_CHECK(arena.has_value(), "{}", arena.error().message);
  auto bed = std::make_shared<Bed>(Bed{std::move(*arena), nullptr});
  auto pool = PagePool::create(bed->arena, {.name = "bench", .page_count = kPages});
  SLUICE_CHECK(pool.has_value(), "{}", pool.error().message);
  bed->pool = std::move(*pool);
  // Every page was out once: what is measured is recycling.
  std::vector<PageIndex> all(kPages);
  SLUICE_CHECK(bed->pool->alloc_bulk(all) == kPages);
  bed->pool->release_bulk(all);
  return bed;
}

double single(PagePool& pool, std::uint64_t pages) {
  std::uint64_t start = now_ns();
  for (std::uint64_t i = 0; i < pages; ++i) {
    PageIndex page = pool.alloc();
    opaque(reinterpret_cast<void*>(std::uintptr_t{raw(page)}));
    pool.release(page);
  }
  return since(start, pages);
}

double singles(PagePool& pool, std::uint64_t pages) {
  PageIndex items[kBulk];
  std::uint64_t start = now_ns();
  for (std::uint64_t i = 0; i < pages; i += kBulk) {
    for (PageIndex& item : items) {
      item = pool.alloc();
    }
    opaque(&items);
    for (PageIndex item : items) {
      pool.release(item);
    }
  }
  return since(start, pages);
}

double bulk(PagePool& pool, std::uint64_t pages) {
  PageIndex items[kBulk];
  std::uint64_t start = now_ns();
  for (std::uint64_t i = 0; i < pages; i += kBulk) {
    pool.alloc_bulk(items);
    opaque(&items);
    pool.release_bulk(items);
  }
  return since(start, pages);
}

double other_thread(PagePool& pool, std::uint64_t pages) {
  auto handover = std::make_unique<Handover<PageIndex>>();
  std::atomic<bool> ready{false};
  std::thread returner([&] {
    ready.store(true);
    PageIndex items[kBulk];
    for (std::uint64_t left = pages; left != 0;) {
      std::uint32_t count = handover->pop(items, kBulk);
      for (std::uint32_t done = 0; done < count;) {
        done += pool.release_remote({items + done, count - done});
      }
      left -= count;
    }
  });
  while (!ready.load()) {
  }
  PageIndex items[kBulk];
  std::uint64_t start = now_ns();
  for (std::uint64_t i = 0; i < pages; i += kBulk) {
    for (std::uint32_t have = 0; have < kBulk;) {
      have += pool.alloc_bulk({items + have, kBulk - have});
    }
    while (!handover->push(items, kBulk)) {
    }
  }
  returner.join();
  return since(start, pages);
}

// Not a peer's work: what one lending costs on top, for the reader of the table.
double lend_and_give_back(std::uint64_t pages) {
  Ledger ledger(kPages);
  PortId app{7};
  std::uint64_t start = now_ns();
  for (std::uint64_t i = 0; i < pages; i += kBulk) {
    std::uint32_t base = static_cast<std::uint32_t>(i) % kPages;
    for (std::uint32_t page = base; page < base + kBulk; ++page) {
      ledger.lend(PageIndex{page}, app);
    }
    opaque(&ledger);
    for (std::uint32_t page = base; page < base + kBulk; ++page) {
      SLUICE_CHECK(ledger.give_back(page, app) == PageFault::kNone);
    }
  }
  return since(start, pages);
}

struct Row {
  std::string name;
  Measure Side::* measure;
  double goal;   // of mbuf's time
  double share;  // of the pages: the slow ones need fewer
};

struct Figure {
  std::string name, peer_name;
  double sluice = 0, peer = 0, goal = 0;  // 0: none
  bool has_peer() const { return !peer_name.empty(); }
  double ratio() const { return sluice / peer; }
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::vector<Figure> run(const std::vector<Side>& peers, std::uint64_t pages, int rounds) {
  const Row rows[] = {{"page_single", &Side::single, 0.4, 1},
                      {"page_singles_of_64", &Side::singles, 0, 1},
                      {"page_bulk_64", &Side::bulk, 0.1, 4},
                      {"page_return_other_thread", &Side::other_thread, 0, 0.25}};
  Side own = sluice_side();
  std::vector<Figure> figures;
  for (const Row& row : rows) {
    auto count = static_cast<std::uint64_t>(static_cast<double>(pages) * row.share) / kBulk * kBulk;
    std::vector<double> ours;
    std::vector<std::vector<double>> theirs(peers.size());
    for (int round = 0; round < rounds; ++round) {
      ours.push_back((own.*row.measure)(count));
      for (std::size_t i = 0; i < peers.size(); ++i) {
        theirs[i].push_back((peers[i].*row.measure)(count));
      }
    }
    if (peers.empty()) {
      figures.push_back({row.name, "", median(ours)});
    }
    for (std::size_t i = 0; i < peers.size(); ++i) {
      figures.push_back({row.name, peers[i].name, median(ours), median(theirs[i]), i == 0 ? row.goal : 0});
    }
  }
  std::vector<double> lending;
  for (int round = 0; round < rounds; ++round) {
    lending.push_back(lend_and_give_back(pages / kBulk * kBulk));
  }
  figures.push_back({"ledger_lend_give_back", "", median(lending)});
  return figures;
}

void print_json(const std::vector<Figure>& figures) {
  auto results = nlohmann::json::array();
  for (const Figure& figure : figures) {
    nlohmann::json row{{"name", figure.name}, {"unit", "ns/page"}, {"sluice", figure.sluice}};
    row["peer"] = figure.has_peer() ? nlohmann::json(figure.peer) : nlohmann::json();
    row["peer_name"] = figure.has_peer() ? nlohmann::json(figure.peer_name) : nlohmann::json();
    row["ratio"] = figure.has_peer() ? nlohmann::json(figure.ratio()) : nlohmann::json();
    bool has_goal = figure.has_peer() && figure.goal > 0;
    row["goal"] = has_goal ? nlohmann::json(figure.goal) : nlohmann::json();
    row["met"] = has_goal ? nlohmann::json(figure.ratio() <= figure.goal) : nlohmann::json();
    results.push_back(std::move(row));
  }
  std::printf("%s\n", nlohmann::json{{"results", results}}.dump(2).c_str());
}

void print_table(const std::vector<Figure>& figures) {
  std::printf("%-26s %10s %10s  %-14s %7s %7s\n", "ns per page", "sluice", "peer", "", "ratio", "goal");
  for (const Figure& figure : figures) {
    std::printf("%-26s %10.2f", figure.name.c_str(), figure.sluice);
    if (figure.has_peer()) {
      std::printf(" %10.2f  %-14s %7.3f", figure.peer, figure.peer_name.c_str(), figure.ratio());
      if (figure.goal > 0) {
        std::printf(" %7.2f %s", figure.goal, figure.ratio() <= figure.goal ? "met" : "MISSED");
      }
    }
    std::printf("\n");
  }
}

}  // namespace

Side sluice_side() {
  auto bed = make_bed();
  return {"sluice", [=](std::uint64_t pages) { return single(*bed->pool, pages); },
          [=](std::uint64_t pages) { return singles(*bed->pool, pages); },
          [=](std::uint64_t pages) { return bulk(*bed->pool, pages); },
          [=](std::uint64_t pages) { return other_thread(*bed->pool, pages); }};
}

}  // namespace sluice::bench

int main(int argc, char** argv) {
  using namespace sluice::bench;
  bool json = false;
  std::uint64_t pages = 4'000'000;
  int rounds = 15;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--json") == 0) {
      json = true;
    } else if (std::strcmp(argv[i], "--pages") == 0 && i + 1 < argc) {
      pages = std::max<std::uint64_t>(std::strtoull(argv[++i], nullptr, 10), 64 * kBulk);
    } else if (std::strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) {
      rounds = std::max(std::atoi(argv[++i]), 1);
    } else {
      std::fprintf(stderr, "usage: pool_bench [--json] [--pages N] [--rounds N]\n");
      return 2;
    }
  }
  std::string why_not;
  std::vector<Side> peers = peer_sides(why_not);
  if (peers.empty()) {
    std::fprintf(stderr, "pool_bench: no peer to compare with: %s\n", why_not.c_str());
  }
  auto figures = run(peers, pages, rounds);
  json ? print_json(figures) : print_table(figures);
  return 0;
}
