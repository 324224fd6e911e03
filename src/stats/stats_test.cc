#include <gtest/gtest.h>

#include <thread>

#include "stats/counter.h"
#include "stats/snapshot.h"

namespace sluice {
namespace {

constexpr std::uint64_t kSecondNs = 1'000'000'000;

struct Component {
  std::uint64_t packets = 0, drops = 0, inflight = 0;
  void visit(CounterVisitor& visitor) const {
    visitor.counter("packets", packets);
    visitor.counter("drop_ring_full", drops);
    visitor.gauge("inflight", inflight);
  }
};

TEST(Counter, CanBeReadWhileItIsWritten) {
  Counter counter;
  std::thread writer([&] {
    for (int i = 0; i < 100'000; ++i) {
      counter.add(1);
    }
  });
  for (std::uint64_t last = 0, now = 0; last < 100'000; last = now) {
    now = counter.value();
    ASSERT_GE(now, last);
  }
  writer.join();
  counter.set(3);
  EXPECT_EQ(counter.value(), 3u);
}

TEST(Snapshot, KeepsTheComponentsOrder) {
  auto snapshot = collect(Component{7, 1, 4});
  ASSERT_EQ(snapshot.samples().size(), 3u);
  EXPECT_EQ(snapshot.samples()[1], (Sample{"drop_ring_full", 1, Sample::Kind::kCounter}));
  EXPECT_EQ(snapshot.samples()[2], (Sample{"inflight", 4, Sample::Kind::kGauge}));
  EXPECT_EQ(snapshot.value("packets"), 7u);
  EXPECT_EQ(snapshot.value("nothing"), std::nullopt);
}

TEST(Snapshot, IsJsonInTheSameOrder) {
  EXPECT_EQ(collect(Component{7, 1, 4}).json(), R"({"packets":7,"drop_ring_full":1,"inflight":4})");
  EXPECT_EQ(Snapshot{}.json(), "{}");
}

TEST(Snapshot, AGaugeIsACounterForWhoDoesNotAsk) {
  struct Names : CounterVisitor {
    std::string all;
    void counter(std::string_view name, std::uint64_t) override { all += name; }
  } names;
  Component{}.visit(names);
  EXPECT_EQ(names.all, "packetsdrop_ring_fullinflight");
}

TEST(Rates, AreThePacketsOfTheTimeBetween) {
  auto result = rates(collect(Component{1000, 5, 9}), collect(Component{3000, 5, 2}), kSecondNs / 2);
  EXPECT_EQ(result,
            (std::vector<Rate>{{"packets", 4000, 3000}, {"drop_ring_full", 0, 5}, {"inflight", 0, 2}}));
}

TEST(Rates, CountFromZeroWhenTheComponentIsNewOrWasMadeAnew) {
  EXPECT_EQ(rates(Snapshot{}, collect(Component{50, 0, 0}), kSecondNs)[0].per_second, 50);
  EXPECT_EQ(rates(collect(Component{1000, 0, 0}), collect(Component{50, 0, 0}), kSecondNs)[0].per_second, 50);
}

TEST(Rates, AreZeroOverNoTime) {
  EXPECT_EQ(rates(Snapshot{}, collect(Component{50, 0, 0}), 0)[0].per_second, 0);
}

}  // namespace
}  // namespace sluice
