// What the tests of this folder share: a NIC on a wire, an arena, pools, and the XDP program of
// nic_test.bpf.c.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <bpf/bpf.h>

#include "base/check.h"
#include "base/clock.h"
#include "memory/arena.h"
#include "memory/pool.h"
#include "memory/pool_directory.h"
#include "nic_test.skel.h"
#include "port/nic/queue.h"
#include "port/nic/umem.h"
#include "port/nic/xdp_link.h"
#include "test/support/live_frames.h"
#include "test/support/net_ns.h"
#include "test/support/ping.h"
#include "test/support/veth.h"

namespace sluice {

inline constexpr std::uint64_t kDeadlineNs = 20'000'000'000;

// Calls `turn` until it returns true, or fails the test at the deadline.
template <typename Turn>
bool until(Turn&& turn) {
  std::uint64_t deadline = now_ns() + kDeadlineNs;
  while (now_ns() < deadline) {
    if (turn()) {
      return true;
    }
  }
  return false;
}

class Program {
 public:
  Program() {
    skeleton_ = nic_test__open_and_load();
    SLUICE_CHECK(skeleton_ != nullptr, "nic_test.bpf.o does not load: errno {}", errno);
  }
  ~Program() { nic_test__destroy(skeleton_); }
  Program(const Program&) = delete;
  int fd() const { return bpf_program__fd(skeleton_->progs.nic_test); }
  void set_socket(std::uint32_t queue, int socket) {
    SLUICE_CHECK(
        bpf_map__update_elem(skeleton_->maps.sockets, &queue, sizeof(queue), &socket, sizeof(socket), 0) == 0,
        "XSKMAP: errno {}", errno);
  }
  void clear_socket(std::uint32_t queue) {
    bpf_map__delete_elem(skeleton_->maps.sockets, &queue, sizeof(queue), 0);
  }
  void with_metadata(bool on) { skeleton_->data->with_metadata = on ? 1 : 0; }

 private:
  nic_test* skeleton_;
};

class Counters : public CounterVisitor {
 public:
  void counter(std::string_view name, std::uint64_t value) override { values[std::string(name)] = value; }
  std::map<std::string, std::uint64_t> values;
};

inline std::map<std::string, std::uint64_t> counters(const NicQueue& queue) {
  Counters all;
  queue.visit(all);
  return all.values;
}

struct Memory {
  static constexpr std::uint32_t kMostLent = 512;
  std::unique_ptr<Arena> arena;
  std::unique_ptr<Umem> umem;
  std::unique_ptr<PoolDirectory> pools = std::make_unique<PoolDirectory>();
  std::uint32_t next_page = 0;

  static Memory create(std::uint32_t pages, std::uint32_t page_bytes = 2048) {
    ArenaOptions options;
    options.name = "nic-test";
    options.page_count = pages;
    options.page_bytes = page_bytes;
    Memory memory;
    memory.arena = std::make_unique<Arena>(Arena::create(options).value());
    auto umem = Umem::create(*memory.arena);
    SLUICE_CHECK(umem.has_value(), "{}", umem.error().message);
    memory.umem = std::move(*umem);
    return memory;
  }
  std::unique_ptr<PagePool> pool(std::uint32_t pages, const std::string& name = "nic0:0") {
    PagePoolOptions options;
    options.name = name;
    options.first = PageIndex{next_page};
    options.page_count = pages;
    next_page += pages;
    auto made = PagePool::create(*arena, options).value();
    pools->add(*made, kMostLent).value();
    return made;
  }
};

// A NIC on a wire, each in a namespace of its own; the test's thread is inside the NIC's.
class NicTest : public ::testing::Test {
 protected:
  void SetUp() override { SLUICE_NEED_ROOT_AND_XDP(); }

  void wire(std::uint32_t queues = 1, std::uint32_t mtu = 1500) {
    nic_ns_.emplace(test::NetNs::create().value());
    wire_ns_.emplace(test::NetNs::create().value());
    test::VethOptions options;
    options.queues = queues;
    options.mtu = mtu;
    auto pair = test::VethPair::create(*nic_ns_, *wire_ns_, options);
    ASSERT_TRUE(pair) << pair.error().message;
    pair_.emplace(std::move(*pair));
  }

  NicQueueOptions queue_options(std::uint16_t queue = 0) const {
    NicQueueOptions options;
    options.netdev = pair_->options().nic_name;
    options.ifindex = pair_->nic_ifindex();
    options.nic = NicId{3};
    options.queue = QueueId{queue};
    options.ring_entries = 1024;
    options.tx_entries = 512;
    return options;
  }
  std::uint32_t pages() const { return pages_for_queue(queue_options(), 256); }

  Result<std::unique_ptr<NicQueue>> open(const NicQueueOptions& options, Umem& umem, PagePool& pool,
                                         PoolDirectory* pools = nullptr) const {
    return nic_ns_->in([&] { return NicQueue::open(options, umem, pool, pools); });
  }
  Result<XdpLink> attach(int program_fd) const {
    return nic_ns_->in([&] { return XdpLink::attach(pair_->nic_ifindex(), program_fd); });
  }
  Memory memory(std::uint32_t page_count, std::uint32_t page_bytes = 2048) const {
    return nic_ns_->in([&] { return Memory::create(page_count, page_bytes); });
  }
  std::unique_ptr<test::LiveFrames> load(test::LiveFramesOptions options) const {
    if (options.frame.empty()) {
      options.frame = test::udp_frame(pair_->to_nic());
    }
    return test::LiveFrames::create(*pair_, std::move(options)).value();
  }

  std::optional<test::NetNs> nic_ns_, wire_ns_;
  std::optional<test::VethPair> pair_;
};

}  // namespace sluice
