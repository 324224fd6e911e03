// A driver that refills its ring between any two reads of ours: what a call of the device may cost is bounded
// all the same, and no buffer is lost or given back twice (D6). The test fails by a check in
// refilled_device.h.
#include <gtest/gtest.h>

#include "port/guest/virtio/guest_test_fixture.h"
#include "port/guest/virtio/ring/refilled_device.h"

namespace sluice::test {
namespace {

using Mood = RefillingDriver::Mood;

class Malicious_RefillingDriver : public testing::TestWithParam<std::tuple<Variant, Mood>> {
 protected:
  static constexpr std::uint64_t kSeeds = REFILL_SEEDS;
  static constexpr int kTurns = 25;

  Variant variant() const { return std::get<0>(GetParam()); }
  Mood mood() const { return std::get<1>(GetParam()); }
  // Calls `turn` in each of many turns, with the choices of each seed.
  template <typename Turn>
  void run(std::uint16_t entries, Turn turn) {
    const DriverOptions as{.format = variant().format, .entries = entries, .features = variant().features};
    for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
      MockMemory memory({{MockMemory::kBase, 64 << 20}});
      GuestDevice device(Bench::default_policy(), {WorkerId{0}}, 1);
      MockGuest guest(memory, {.format = as.format, .entries = as.entries, .features = as.features});
      guest.attach(device);
      RefilledDevice refilled(device, guest, guest_frame(1, 300));
      refilled.begin(seed, mood());
      for (int i = 0; i < kTurns; ++i) {
        turn(refilled);
        refilled.end_turn();
      }
      refilled.stop();
    }
  }
};

std::vector<std::tuple<Variant, Mood>> all_moods() {
  std::vector<std::tuple<Variant, Mood>> all;
  for (const Variant& variant : all_variants()) {
    for (const Mood mood : {Mood::kAnything, Mood::kBadOnly, Mood::kGoodOnly, Mood::kLong}) {
      if ((variant.features & (mood == Mood::kLong ? kIndirectDesc : kVersion1)) != 0) {
        all.emplace_back(variant, mood);
      }
    }
  }
  return all;
}
std::string name_of(const testing::TestParamInfo<std::tuple<Variant, Mood>>& one) {
  const char* const names[] = {"anything", "bad", "good", "long"};
  return std::get<0>(one.param).name + "_" + names[static_cast<std::size_t>(std::get<1>(one.param))];
}
INSTANTIATE_TEST_SUITE_P(Rings, Malicious_RefillingDriver, testing::ValuesIn(all_moods()), name_of);

TEST_P(Malicious_RefillingDriver, ABurstToTheGuestEndsWithinTheTurnsBudget) {
  const Bytes frame = guest_frame(1, 300);
  std::uint64_t delivered = 0;
  run(1024, [&](RefilledDevice& refilled) {
    std::array<Packet, kBurst> burst;
    burst.fill(packet_of(frame));
    for (const std::size_t count :
         {std::size_t{1}, std::size_t{kBurst}, std::size_t{7}, std::size_t{kBurst}}) {
      const std::uint64_t before = refilled.rx().returned();
      refilled.receive(std::span(burst).first(count));
      delivered += refilled.rx().returned() - before;
    }
  });
  EXPECT_GT(delivered, kSeeds * kTurns) << "the driver gave nothing";
}

TEST_P(Malicious_RefillingDriver, ABurstFromTheGuestIsOneBurst) {
  std::uint64_t sent = 0;
  run(variant().entries, [&](RefilledDevice& refilled) {
    sent += refilled.transmit();
    sent += refilled.transmit();
  });
  EXPECT_EQ(sent > 0, mood() != Mood::kBadOnly) << sent;
}

TEST_P(Malicious_RefillingDriver, BothWaysInOneTurn) {
  const Bytes frame = guest_frame(2, 1400);
  run(64, [&](RefilledDevice& refilled) {
    std::array<Packet, 16> burst;
    burst.fill(packet_of(frame, 60));
    (void)refilled.transmit();
    refilled.receive(burst);
    (void)refilled.transmit();
    refilled.receive(std::span(burst).first(3));
  });
}

}  // namespace
}  // namespace sluice::test
