// The peer: rte_pktmbuf_alloc/free and the mempool under them, with the cache of 512 objects per thread that
// its own examples use, inlined from its headers with its own flags.
#include <pthread.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

#include <cstdio>
#include <ctime>
#include <fstream>
#include <thread>

#include "memory/pool_bench.h"

namespace sluice::bench {
namespace {

double now() {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
}

bool any_huge_pages() {
  std::ifstream file("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
  long free_pages = 0;
  return file >> free_pages && free_pages >= 128;
}

bool start_eal(std::string& why_not) {
  std::vector<std::string> words = {
      "pool_bench", "--no-pci", "--no-telemetry", "--log-level=error", "-l", "0", "-m", "256"};
  if (any_huge_pages()) {
    words.push_back("--in-memory");
  } else {  // the EAL takes --no-huge together with --in-memory for a contradiction
    words.insert(words.end(), {"--no-huge", "--no-shconf"});
  }
  std::vector<char*> arguments;
  for (std::string& word : words) {
    arguments.push_back(word.data());
  }
  if (rte_eal_init(static_cast<int>(arguments.size()), arguments.data()) < 0) {
    why_not = std::string("DPDK's EAL does not start: ") + rte_strerror(rte_errno);
    return false;
  }
  // The EAL pins its caller to core 0; the bench lets the scheduler place every thread, on both sides.
  cpu_set_t all;
  CPU_ZERO(&all);
  for (unsigned cpu = 0; cpu < std::thread::hardware_concurrency(); ++cpu) {
    CPU_SET(cpu, &all);
  }
  pthread_setaffinity_np(pthread_self(), sizeof all, &all);
  return true;
}

struct Mbufs {
  using Item = rte_mbuf*;
  rte_mempool* pool;
  Item one() { return rte_pktmbuf_alloc(pool); }
  void back(Item item) { rte_pktmbuf_free(item); }
  bool many(Item* items) { return rte_pktmbuf_alloc_bulk(pool, items, kBulk) == 0; }
  void many_back(Item* items, unsigned count) { rte_pktmbuf_free_bulk(items, count); }
};

struct RawObjects {
  using Item = void*;
  rte_mempool* pool;
  Item one() {
    Item item = nullptr;
    return rte_mempool_get(pool, &item) == 0 ? item : nullptr;
  }
  void back(Item item) { rte_mempool_put(pool, item); }
  bool many(Item* items) { return rte_mempool_get_bulk(pool, items, kBulk) == 0; }
  void many_back(Item* items, unsigned count) { rte_mempool_put_bulk(pool, items, count); }
};

template <typename Pool>
double single(Pool pool, std::uint64_t pages) {
  double start = now();
  for (std::uint64_t i = 0; i < pages; ++i) {
    auto item = pool.one();
    opaque(item);
    pool.back(item);
  }
  return (now() - start) / static_cast<double>(pages);
}

template <typename Pool>
double singles(Pool pool, std::uint64_t pages) {
  typename Pool::Item items[kBulk];
  double start = now();
  for (std::uint64_t i = 0; i < pages; i += kBulk) {
    for (auto& item : items) {
      item = pool.one();
    }
    opaque(&items);
    for (auto& item : items) {
      pool.back(item);
    }
  }
  return (now() - start) / static_cast<double>(pages);
}

template <typename Pool>
double bulk(Pool pool, std::uint64_t pages) {
  typename Pool::Item items[kBulk];
  double start = now();
  for (std::uint64_t i = 0; i < pages; i += kBulk) {
    pool.many(items);
    opaque(&items);
    pool.many_back(items, kBulk);
  }
  return (now() - start) / static_cast<double>(pages);
}

template <typename Pool>
double other_thread(Pool pool, std::uint64_t pages) {
  using Item = typename Pool::Item;
  auto handover = std::make_unique<Handover<Item>>();
  std::atomic<bool> ready{false};
  std::thread returner([&] {
    rte_thread_register();  // gives it a mempool cache of its own, as an lcore has
    ready.store(true);
    Item items[kBulk];
    for (std::uint64_t left = pages; left != 0;) {
      std::uint32_t count = handover->pop(items, kBulk);
      if (count != 0) {
        pool.many_back(items, count);
        left -= count;
      }
    }
    rte_thread_unregister();
  });
  while (!ready.load()) {
  }
  Item items[kBulk];
  double start = now();
  for (std::uint64_t i = 0; i < pages; i += kBulk) {
    while (!pool.many(items)) {
    }
    while (!handover->push(items, kBulk)) {
    }
  }
  returner.join();
  return (now() - start) / static_cast<double>(pages);
}

template <typename Pool>
Side side(std::string name, Pool pool) {
  return {std::move(name), [=](std::uint64_t pages) { return single(pool, pages); },
          [=](std::uint64_t pages) { return singles(pool, pages); },
          [=](std::uint64_t pages) { return bulk(pool, pages); },
          [=](std::uint64_t pages) { return other_thread(pool, pages); }};
}

}  // namespace

std::vector<Side> peer_sides(std::string& why_not) {
  if (!start_eal(why_not)) {
    return {};
  }
  rte_mempool* mbufs =
      rte_pktmbuf_pool_create("mbufs", kPages, 512, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
  rte_mempool* raw =
      rte_mempool_create("raw", kPages, 2048, 512, 0, nullptr, nullptr, nullptr, nullptr, SOCKET_ID_ANY, 0);
  if (mbufs == nullptr || raw == nullptr) {
    why_not = std::string("DPDK cannot make its pools: ") + rte_strerror(rte_errno);
    return {};
  }
  return {side("DPDK mbuf", Mbufs{mbufs}), side("DPDK mempool", RawObjects{raw})};
}

}  // namespace sluice::bench
