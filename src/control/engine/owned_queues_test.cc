#include "control/engine/owned_queues.h"

#include <gtest/gtest.h>

#include "control/engine/fake_nic.h"

namespace sluice {
namespace {

constexpr PortId kOwner{5};

class OwnedQueuesTest : public ::testing::Test {
 protected:
  // No kernel: the UMEM is never registered, and no queue is ever bound.
  OwnedQueuesTest() {
    for (QueueId queue : {QueueId{0}, QueueId{1}}) {
      nic.open_host_queue(queue);
    }
  }

  test::Faults faults;
  test::FakeNic nic{NicConfig{}, Nic::Wiring{.id = NicId{3}}, faults, 2};
  bool away = false;
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create().value());
  HostMemory memory{2048, ArenaOptions::Huge::kNever};
  std::unique_ptr<QueueKeeper> keeper =
      std::move(QueueKeeper::create({.loop = loop.get(), .host_memory = &memory}).value());
  Result<std::unique_ptr<Umem>> umem = fail("no kernel");
  OwnedQueues owned{{.nic = [this](NicId id) { return away || id != NicId{3} ? nullptr : &nic; },
                     .keeper = keeper.get(),
                     .make_umem = [this](Arena&) { return std::move(umem); }}};
  const std::vector<OwnedQueue> queues{{NicId{3}, QueueId{1}, WorkerId{0}, 64}};
};

TEST_F(OwnedQueuesTest, AQueueThatIsClaimedIsTheHostsNoMore) {
  owned.claim(kOwner, queues, false);
  EXPECT_TRUE(nic.has_queue(QueueId{0}));
  EXPECT_FALSE(nic.has_queue(QueueId{1}));
  const std::vector<OwnedQueue> back = owned.release(kOwner);
  ASSERT_EQ(back.size(), 1u);
  EXPECT_EQ(back[0].queue, QueueId{1});
  EXPECT_TRUE(owned.release(kOwner).empty());
}

TEST_F(OwnedQueuesTest, APortWithoutQueuesOpensNoneAndRegistersNothing) {
  owned.claim(kOwner, {}, false);
  auto arena = Arena::create({.page_count = 64});
  ASSERT_TRUE(arena) << arena.error().message;
  EXPECT_TRUE(owned.open_queues(kOwner, *arena, {}));
  bool closed = false;
  owned.close_queues(kOwner, [&closed] { closed = true; });
  EXPECT_TRUE(closed) << "nothing has to be waited for";
}

TEST_F(OwnedQueuesTest, WhereTheMemoryCannotBeRegisteredNoQueueOpens) {
  owned.claim(kOwner, queues, false);
  auto arena = Arena::create({.page_count = 64});
  ASSERT_TRUE(arena) << arena.error().message;
  PagePool* none = nullptr;
  EXPECT_FALSE(owned.open_queues(kOwner, *arena, std::span(&none, 1)));
  EXPECT_FALSE(nic.has_queue(QueueId{1}));
  owned.nic_is_back(nic);
  EXPECT_FALSE(nic.has_queue(QueueId{1})) << "there is no memory for it";
}

TEST_F(OwnedQueuesTest, AClaimOnANicThatIsAwayIsKept) {
  away = true;
  owned.claim(kOwner, queues, false);
  EXPECT_TRUE(nic.has_queue(QueueId{1})) << "nobody could ask it";
  EXPECT_EQ(owned.release(kOwner).size(), 1u);
}

}  // namespace
}  // namespace sluice
