// An AF_XDP socket of another program on a NIC's first queue.
#pragma once

#include <memory>
#include <string>

#include "memory/arena.h"
#include "memory/pool.h"
#include "port/nic/queue.h"
#include "test/system/fixture.h"

namespace sluice::test {

struct OtherProgram {
  // On a thread that is in the NIC's namespace.
  OtherProgram(const std::string& netdev, int ifindex)
      : arena(need(Arena::create({.name = "other", .page_count = 4096}))),
        umem(need(Umem::create(arena))),
        pool(need(PagePool::create(arena, {.name = "other", .page_count = 4096}))),
        queue(
            need(NicQueue::open({.netdev = netdev, .ifindex = ifindex, .ring_entries = 512}, *umem, *pool))) {
  }
  Arena arena;
  std::unique_ptr<Umem> umem;
  std::unique_ptr<PagePool> pool;
  std::unique_ptr<NicQueue> queue;
};

}  // namespace sluice::test
