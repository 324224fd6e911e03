// The session against a data half that only writes down what it is told: what the protocol promises, ring by
// ring, for both formats.
#include "port/guest/vhost_user/session.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include "base/untrusted.h"
#include "port/guest/vhost_user/features.h"
#include "test/vhost/mock_front_end.h"

namespace sluice::test {
namespace {

class FakeRings final : public VringControl {
 public:
  struct Ring {
    bool started = false, enabled = false;
    VringSetup setup;
    VringBase stands;  // what stop_ring() says; the test moves it
  };

  bool quiesce(const VringSet& which, Patience patience, const std::function<void()>& change) override {
    EXPECT_FALSE(inside) << "one pause at a time";
    if (late && patience == Patience::kShort) {
      return false;
    }
    concerned = which;
    inside = true;
    ++quiesces;
    change();
    inside = false;
    return true;
  }
  void set_memory(MemoryTable table) override {
    expect_inside();
    for (auto& [index, ring] : rings) {
      EXPECT_FALSE(ring.started) << "ring " << index << " would look into memory that has gone";
    }
    memory = std::move(table);
  }
  void start_ring(std::uint32_t index, const VringSetup& setup) override {
    expect_inside();
    EXPECT_FALSE(rings[index].started);
    rings[index].started = true;
    rings[index].setup = setup;
    rings[index].stands = setup.base;
  }
  VringBase stop_ring(std::uint32_t index) override {
    expect_inside();
    EXPECT_TRUE(rings[index].started);
    rings[index].started = false;
    return rings[index].stands;
  }
  void enable_ring(std::uint32_t index, bool enabled) override {
    expect_inside();
    rings[index].enabled = enabled;
  }
  void stop_all(std::uint32_t count, MemoryTable nothing) override {
    for (auto& [index, ring] : rings) {
      if (index < count && ring.started) {
        stop_ring(index);
      }
    }
    set_memory(std::move(nothing));
  }
  void set_call_fd(std::uint32_t index, int fd) override {
    expect_inside();
    rings[index].setup.call_fd = fd;
  }
  void set_kick_fd(std::uint32_t index, int fd) override {
    expect_inside();
    rings[index].setup.kick_fd = fd;
  }
  void expect_inside() const { EXPECT_TRUE(inside) << "workers may be in their lanes"; }

  std::map<std::uint32_t, Ring> rings;
  MemoryTable memory;
  bool inside = false;
  std::uint64_t quiesces = 0;
  VringSet concerned;  // by the last pause
  bool late = false;   // a worker that does not come
};

class VhostSessionTest : public ::testing::Test {
 protected:
  VhostSession::Outcome hand(std::uint32_t request, std::span<const std::byte> payload,
                             std::span<const int> fds) {
    VhostMessage message;
    message.header = {request, VHOST_USER_VERSION | VHOST_USER_NEED_REPLY,
                      static_cast<std::uint32_t>(payload.size())};
    std::copy(payload.begin(), payload.end(), message.payload.begin());
    for (int fd : fds) {
      message.fds.push_back(PeerFd::take(ReceivedFd{::dup(fd)}));
    }
    return session->handle(message);
  }
  template <typename T>
  VhostSession::Outcome collect(std::uint32_t request, const T& payload, std::span<const int> fds = {}) {
    return hand(request, std::as_bytes(std::span(&payload, 1)), fds);
  }
  VhostSession::Outcome say(std::uint32_t request, std::span<const std::byte> payload,
                            std::span<const int> fds = {}) {
    auto outcome = hand(request, payload, fds);
    EXPECT_TRUE(session->apply(VringControl::Patience::kShort));
    session->complete(outcome);
    return outcome;
  }
  template <typename T>
  VhostFault tell(std::uint32_t request, const T& payload, std::span<const int> fds = {}) {
    return say(request, std::as_bytes(std::span(&payload, 1)), fds).fault;
  }
  vhost_user_vring_state base_of(std::uint32_t ring) {
    const vhost_user_vring_state question{ring, 0};
    auto outcome = say(VHOST_USER_GET_VRING_BASE, std::as_bytes(std::span(&question, 1)));
    vhost_user_vring_state state{};
    EXPECT_TRUE(outcome.reply);
    std::memcpy(&state, outcome.reply->data(), sizeof(state));
    return state;
  }
  void negotiate(std::uint64_t features) {
    EXPECT_EQ(tell(VHOST_USER_SET_FEATURES, kFeatureVersion1 | features), VhostFault::kNone);
    int fd = ram.fd();
    EXPECT_EQ(tell(VHOST_USER_ADD_MEM_REG, vhost_user_mem_reg{0, ram.region()}, std::span(&fd, 1)),
              VhostFault::kNone);
  }
  VhostFault start_ring(std::uint32_t index, std::uint32_t entries, const RingAreas& areas,
                        std::uint32_t base) {
    EXPECT_EQ(tell(VHOST_USER_SET_VRING_NUM, vhost_user_vring_state{index, entries}), VhostFault::kNone);
    EXPECT_EQ(tell(VHOST_USER_SET_VRING_BASE, vhost_user_vring_state{index, base}), VhostFault::kNone);
    EXPECT_EQ(tell(VHOST_USER_SET_VRING_ADDR, place_of(index, areas)), VhostFault::kNone);
    return tell(VHOST_USER_SET_VRING_KICK, std::uint64_t{index | VHOST_USER_VRING_NO_FD});
  }

  GuestRam ram{1 << 20};
  FakeRings rings;
  LossSignal loss = std::move(LossSignal::create().value());
  std::optional<VhostSession> session{std::in_place, 2, rings, loss};
};

TEST_F(VhostSessionTest, APackedRingBeginsWhereTheFrontEndSaysInEitherWayOfSayingIt) {
  negotiate(kFeatureRingPacked);
  const RingAreas areas = RingAreas::packed(ram, 200);
  struct Case {
    std::uint32_t said;
    std::uint16_t begins;
  };
  // DPDK says the available position alone, QEMU both; where the used one is behind, what lies between is
  // taken once more.
  for (Case c :
       {Case{0x8000, 0x8000}, Case{0x80058005, 0x8005}, Case{0x00070007, 0x0007}, Case{0x80058009, 0x8005}}) {
    ASSERT_EQ(start_ring(0, 200, areas, c.said), VhostFault::kNone);
    EXPECT_EQ(rings.rings[0].setup.base, (VringBase{c.begins, c.begins})) << c.said;
    EXPECT_EQ(rings.rings[0].setup.format, VringFormat::kPacked);
    rings.rings[0].stands = {0x0011, 0x0011};
    EXPECT_EQ(base_of(0).value, 0x00110011u);
  }
}

TEST_F(VhostSessionTest, MessagesOfOneTurnShareAPauseOfTheWorkersOfTheirRingsAlone) {
  negotiate(kFeatureRingPacked);
  ASSERT_EQ(start_ring(1, 100, RingAreas::packed(ram, 100), 0x8000), VhostFault::kNone);
  const std::uint64_t before = rings.quiesces;
  for (std::uint32_t on : {0u, 1u, 0u}) {
    ASSERT_EQ(collect(VHOST_USER_SET_VRING_ENABLE, vhost_user_vring_state{1, on}).fault, VhostFault::kNone);
  }
  UniqueFd call(::eventfd(0, EFD_CLOEXEC));
  const int fd = call.get();
  ASSERT_EQ(collect(VHOST_USER_SET_VRING_CALL, std::uint64_t{1}, std::span(&fd, 1)).fault, VhostFault::kNone);
  EXPECT_TRUE(session->has_changes());
  EXPECT_TRUE(rings.rings[1].enabled) << "nothing has happened yet";
  EXPECT_TRUE(session->apply(VringControl::Patience::kShort));
  EXPECT_EQ(rings.quiesces, before + 1);
  EXPECT_EQ(rings.concerned.count(), 1u);
  EXPECT_TRUE(rings.concerned.test(1));
  EXPECT_FALSE(rings.rings[1].enabled) << "in their order";
  EXPECT_GE(rings.rings[1].setup.call_fd, 0);
}

TEST_F(VhostSessionTest, Malicious_NothingIsLostOrDoneTwiceWhileAWorkerDoesNotCome) {
  negotiate(kFeatureRingPacked);
  ASSERT_EQ(start_ring(0, 100, RingAreas::packed(ram, 100), 0x8000), VhostFault::kNone);
  rings.rings[0].stands = {0x8011, 0x8011};
  rings.late = true;
  auto outcome = collect(VHOST_USER_GET_VRING_BASE, vhost_user_vring_state{0, 0});
  EXPECT_FALSE(session->apply(VringControl::Patience::kShort));
  EXPECT_TRUE(rings.rings[0].started) << "D7";
  rings.late = false;
  EXPECT_TRUE(session->apply(VringControl::Patience::kShort));
  EXPECT_FALSE(session->has_changes());
  session->complete(outcome);
  vhost_user_vring_state state{};
  std::memcpy(&state, outcome.reply->data(), sizeof(state));
  EXPECT_EQ(state.value, 0x80118011u);
}

TEST_F(VhostSessionTest, Malicious_AMappingIsKeptUntilTheWorkersHaveLeftIt) {
  negotiate(kFeatureRingPacked);
  ASSERT_EQ(start_ring(0, 100, RingAreas::packed(ram, 100), 0x8000), VhostFault::kNone);
  std::weak_ptr<const GuestMemory> old = rings.memory;
  rings.late = true;
  ASSERT_EQ(collect(VHOST_USER_REM_MEM_REG, vhost_user_mem_reg{0, ram.region()}).fault, VhostFault::kNone);
  EXPECT_TRUE(session->holds_memory());
  EXPECT_FALSE(session->apply(VringControl::Patience::kShort));
  EXPECT_FALSE(old.expired());
  rings.late = false;
  EXPECT_TRUE(session->apply(VringControl::Patience::kShort));
  EXPECT_TRUE(old.expired());
  EXPECT_FALSE(rings.rings[0].started) << "its place has gone";
}

TEST_F(VhostSessionTest, Malicious_ARingThatStoodBeyondItsNewSizeBeginsAnew) {
  negotiate(kFeatureRingPacked);
  const RingAreas areas = RingAreas::packed(ram, 100);
  ASSERT_EQ(start_ring(0, 100, areas, 0x8000), VhostFault::kNone);
  rings.rings[0].stands = {0x8050, 0x8050};
  collect(VHOST_USER_SET_STATUS, std::uint64_t{0});  // stops it, and forgets it
  collect(VHOST_USER_REM_MEM_REG, vhost_user_mem_reg{0, ram.region()});
  int fd = ram.fd();
  collect(VHOST_USER_ADD_MEM_REG, vhost_user_mem_reg{0, ram.region()}, std::span(&fd, 1));
  collect(VHOST_USER_SET_VRING_NUM, vhost_user_vring_state{0, 10});
  collect(VHOST_USER_SET_VRING_ADDR, place_of(0, areas));
  collect(VHOST_USER_SET_VRING_KICK, std::uint64_t{VHOST_USER_VRING_NO_FD});
  EXPECT_TRUE(session->apply(VringControl::Patience::kShort));
  EXPECT_TRUE(rings.rings[0].started);
  EXPECT_LT(rings.rings[0].setup.base.avail & 0x7fff, 10);
}

TEST_F(VhostSessionTest, ASplitRingBeginsWhereItsUsedIndexStandsWhateverTheFrontEndBelieves) {
  negotiate(0);
  const RingAreas areas = RingAreas::split(ram, 64);
  write_once(*reinterpret_cast<std::uint16_t*>(areas.device_area + 2), std::uint16_t{40000});
  for (std::uint32_t said : {0u, 39990u, 40000u}) {
    ASSERT_EQ(start_ring(0, 64, areas, said), VhostFault::kNone);
    EXPECT_TRUE(rings.rings[0].setup.base.in_memory) << "the worker reads it (D8)";
    base_of(0);
  }
}

TEST_F(VhostSessionTest, RunningRingsMoveWithTheMemoryInOnePauseAndGoOnWhereTheyStood) {
  negotiate(kFeatureRingPacked);
  const RingAreas one = RingAreas::packed(ram, 100), other = RingAreas::packed(ram, 100);
  start_ring(0, 100, one, 0x8000);
  start_ring(1, 100, other, 0x8000);
  EXPECT_EQ(tell(VHOST_USER_SET_VRING_ENABLE, vhost_user_vring_state{1, 0}), VhostFault::kNone);
  rings.rings[0].stands = {0x8007, 0x8007};
  std::byte* before = rings.rings[0].setup.descriptors;
  const std::uint64_t quiesces = rings.quiesces;
  const MemoryTable old = rings.memory;  // so that the new mapping cannot stand in its place
  vhost_user_mem_table table{.region_count = 1, .padding = 0, .regions = {ram.region()}};
  int fd = ram.fd();
  EXPECT_EQ(
      say(VHOST_USER_SET_MEM_TABLE, std::as_bytes(std::span(&table, 1)).first(40), std::span(&fd, 1)).fault,
      VhostFault::kNone);
  EXPECT_EQ(rings.quiesces, quiesces + 1);
  EXPECT_TRUE(rings.rings[0].started && rings.rings[0].enabled);
  EXPECT_TRUE(rings.rings[1].started);
  EXPECT_FALSE(rings.rings[1].enabled);
  EXPECT_EQ(rings.rings[0].setup.base, (VringBase{0x8007, 0x8007}));
  EXPECT_NE(rings.rings[0].setup.descriptors, before);
}

TEST_F(VhostSessionTest, RingsBeginEnabledOnlyForFrontEndsThatCannotEnableThem) {
  negotiate(0);
  start_ring(0, 64, RingAreas::split(ram, 64), 0);
  EXPECT_TRUE(rings.rings[0].enabled);
  EXPECT_TRUE(session->receives());
  session.reset();
  session.emplace(2u, rings, loss);
  negotiate(kFeatureProtocol);
  start_ring(0, 64, RingAreas::split(ram, 64), 0);
  EXPECT_FALSE(rings.rings[0].enabled);
  EXPECT_FALSE(session->receives());
}

TEST_F(VhostSessionTest, AStoppedRingStartsAgainWithTheNextKickAndNotBefore) {
  negotiate(0);
  const RingAreas areas = RingAreas::split(ram, 64);
  start_ring(0, 64, areas, 0);
  base_of(0);
  EXPECT_EQ(tell(VHOST_USER_SET_VRING_ADDR, place_of(0, areas)), VhostFault::kNone);
  EXPECT_FALSE(rings.rings[0].started);
  EXPECT_EQ(tell(VHOST_USER_SET_VRING_KICK, std::uint64_t{VHOST_USER_VRING_NO_FD}), VhostFault::kNone);
  EXPECT_TRUE(rings.rings[0].started);
}

TEST_F(VhostSessionTest, WhenItEndsRingsStopAndTheMemoryGoesInOnePause) {
  negotiate(0);
  start_ring(0, 64, RingAreas::split(ram, 64), 0);
  start_ring(1, 64, RingAreas::split(ram, 64), 0);
  const std::uint64_t quiesces = rings.quiesces;
  session.reset();
  EXPECT_EQ(rings.quiesces, quiesces + 1);
  EXPECT_FALSE(rings.rings[0].started || rings.rings[1].started);
  EXPECT_TRUE(rings.memory->regions().empty());
}

TEST(Features, AreOfferedByOneTableAndHaveNames) {
  EXPECT_EQ(offered_features(1) & 1ull << 22, 0u) << "MQ needs several pairs";
  EXPECT_NE(offered_features(2) & 1ull << 22, 0u);
  for (int bit : {0, 1, 7, 8, 11, 12, 26, 33}) {
    EXPECT_EQ(offered_features(64) & 1ull << bit, 0u) << bit;
  }
  EXPECT_EQ(feature_names(1ull << 32 | 1ull << 15 | 1ull << 57),
            (std::vector<std::string>{"MRG_RXBUF", "VERSION_1", "bit 57"}));
  EXPECT_EQ(protocol_feature_names(9), (std::vector<std::string>{"MQ", "REPLY_ACK"}));
}

TEST(Messages, EveryRequestHasOneRowAndEveryFaultAName) {
  for (const VhostRow& row : vhost_rows()) {
    EXPECT_EQ(find_row(row.request), &row) << row.name;
  }
  for (std::size_t i = 1; i < static_cast<std::size_t>(VhostFault::kCount); ++i) {
    const std::string_view name = counter_name(static_cast<VhostFault>(i));
    EXPECT_TRUE(name.starts_with("fault_message_") || name.starts_with("fault_memory_") ||
                name.starts_with("fault_door_"))
        << i;
  }
}

}  // namespace
}  // namespace sluice::test
