// The way of a packet allocates nothing: every operator new of this program is counted.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <new>

#include "sluice/sluice.hpp"
#include "test_daemon.h"

namespace {
std::atomic<std::size_t> allocations{0};
}

// Not inlined, or the compiler sees free() of what new made and complains.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) {
    return memory;
  }
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace sluice {
namespace {

TEST(Port, AllocatesNothingPerPacket) {
  testing::TestFolder folder;
  testing::TestDaemon daemon(folder.socket(), {});
  auto port = Port::attach(folder.socket());
  ASSERT_TRUE(port) << port.error().message;
  testing::TestSession& worker = daemon.session();
  std::array<Packet, 32> packets;
  std::array<Frame, 4> frames;
  const testing::Bytes frame = testing::frame_of(60, 1);
  ASSERT_GT(allocations.load(), 0u) << "the counter counts nothing";

  const std::size_t before = allocations.load();
  for (unsigned round = 0; round < 100; ++round) {
    for (unsigned page = 0; page < 16; ++page) {
      sluice_rx_entry entry{};
      entry.page = page;
      entry.length = 60;
      worker.push(entry);
    }
    ASSERT_EQ(port->receive(packets), 16u);
    Port::release(packets);
    ASSERT_EQ(port->receive_for(packets, std::chrono::nanoseconds(1)), 0u);
    port->send(frame);
    port->commit(std::span(frames).first(port->reserve(frames)));
    ASSERT_TRUE(port->arm());
    port->disarm();
  }
  EXPECT_EQ(allocations.load(), before);
}

}  // namespace
}  // namespace sluice
