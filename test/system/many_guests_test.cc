// 128 guests on eight workers: all of them attached, with a queue pair for each worker; what that takes is
// counted, known before, and refused by name when it is not there.
#include <sys/resource.h>

#include <filesystem>

#include "base/descriptors.h"
#include "test/system/fixture.h"
#include "test/vhost/good_guest.h"

namespace sluice::test {
namespace {

constexpr int kGuests = 128;
constexpr std::uint32_t kWorkers = 8;

// Its front-end, and a pair of rings for each worker. A pair has memory of its own.
class WideGuest {
 public:
  explicit WideGuest(const std::string& socket) : front_(FrontEnd::connect(socket)) {
    for (std::uint32_t i = 0; i < kWorkers; ++i) {
      pairs_.push_back(std::make_unique<GoodGuest>(0x100000 + (std::uint64_t{i} << 32)));
    }
  }
  // False: the daemon has hung up.
  bool bring_up() {
    if (!front_.connected()) {
      return false;
    }
    const std::uint64_t offered = front_.negotiate(kGuestFeatures, kGuestProtocol);
    std::vector<const GuestRam*> rams;
    for (const auto& pair : pairs_) {
      rams.push_back(&pair->ram);
    }
    if (offered == 0 || !front_.send_table(rams)) {
      return false;
    }
    for (std::uint32_t i = 0; i < kWorkers; ++i) {
      pairs_[i]->set_up_rings(front_, i);
    }
    return front_.barrier();
  }
  FrontEnd& front() { return front_; }
  GoodGuest& pair(std::uint32_t index) { return *pairs_[index]; }

 private:
  FrontEnd front_;
  std::vector<std::unique_ptr<GoodGuest>> pairs_;
};

class ManyGuests : public SystemTest {
 protected:
  static std::string name(int guest) { return fmt::format("vm{}", guest); }
  static Mac mac(int guest) { return {0x52, 0x54, 0, 0, 1, static_cast<std::uint8_t>(guest)}; }
  // Without a NIC: every worker serves guests.
  static std::string config() {
    std::string text = "workers = [";
    for (std::uint32_t i = 0; i < kWorkers; ++i) {
      text += i == 0 ? "{}" : ", {}";
    }
    text += "]\n";
    for (int i = 0; i < kGuests; ++i) {
      text += fmt::format(
          "[port.{0}]\ntype = \"guest\"\nsocket = \"@/{0}.sock\"\nmac = \"{1}\"\nqueue_pairs = {2}\n",
          name(i), to_string(mac(i)), kWorkers);
    }
    return text;
  }
  std::uint64_t daemon_counter(const std::string& counter) { return daemon().counter("daemon." + counter); }
  std::uint64_t open_descriptors() {
    const auto folder = std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", daemon().pid()));
    return static_cast<std::uint64_t>(std::distance(begin(folder), end(folder)));
  }
  std::unique_ptr<WideGuest> attach(int guest) {
    auto made = std::make_unique<WideGuest>(daemon().path(name(guest) + ".sock"));
    need(made->bring_up(), name(guest) + ": its rings do not come up");
    return made;
  }
  // One frame by the pair `pair` of one guest, to another one's pair that the same worker fills.
  static bool carries(WideGuest& from, int from_guest, WideGuest& to, int to_guest, std::uint32_t pair) {
    std::vector<std::byte> frame(128, static_cast<std::byte>(pair));
    std::memcpy(frame.data(), mac(to_guest).data(), 6);
    std::memcpy(frame.data() + 6, mac(from_guest).data(), 6);
    frame[12] = std::byte{0x88};
    frame[13] = std::byte{0xb5};
    frame[14] = static_cast<std::byte>(from_guest);
    if (!from.pair(pair).send(frame)) {
      return false;
    }
    from.pair(pair).kick_transmit();
    std::optional<std::vector<std::byte>> got;
    return eventually([&] { return (got = to.pair(pair).receive()).has_value(); }) && *got == frame &&
           eventually([&] { return to.pair(pair).called(0); });
  }
  static void raise_limit(rlim_t wanted) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < wanted) {
      GTEST_SKIP() << "needs " << wanted << " descriptors, the hard limit is " << limit.rlim_max;
    }
  }
};

TEST_F(ManyGuests, AHundredAndTwentyEightOnEightWorkersCarryFramesOnEveryWorkerWithinWhatWasComputed) {
  raise_limit(12'000);
  if (IsSkipped()) {
    return;
  }
  start(config());
  const std::uint64_t needed = daemon_counter("descriptors_needed");
  ASSERT_LE(needed, daemon_counter("descriptors_limit"));
  std::vector<std::unique_ptr<WideGuest>> guests;
  for (int i = 0; i < kGuests; ++i) {
    guests.push_back(attach(i));
  }
  for (int i = 0; i < kGuests; i += 9) {
    const int to = (i + 1) % kGuests;
    for (std::uint32_t pair = 0; pair < kWorkers; ++pair) {
      ASSERT_TRUE(
          carries(*guests[static_cast<std::size_t>(i)], i, *guests[static_cast<std::size_t>(to)], to, pair))
          << "from " << name(i) << ", pair " << pair;
    }
  }
  for (std::uint32_t worker = 0; worker < kWorkers; ++worker) {
    EXPECT_GT(daemon().counter(fmt::format("worker.{}.tx_packets", worker)), 0u) << "worker " << worker;
  }
  // What was computed is what is used, but for what is kept in reserve.
  const std::uint64_t used = open_descriptors();
  EXPECT_LE(used, needed);
  // Two of a session are there only while it begins.
  EXPECT_LE(needed - used, kDescriptorsKept + 2 * kGuests + 16);
  EXPECT_LE(daemon_counter("descriptors_used"), used + 2);
}

TEST_F(ManyGuests, WhatDoesNotFitTheHardLimitIsSaidBeforeAndRefusedByName) {
  raise_limit(4'000);
  if (IsSkipped()) {
    return;
  }
  constexpr std::uint64_t kHard = 2'500;
  daemon().run_by({"prlimit", fmt::format("--nofile={0}:{0}", kHard), "--"});
  start(config());
  const std::uint64_t needed = daemon_counter("descriptors_needed");
  EXPECT_NE(
      daemon().log().find(fmt::format("{} ports need {} descriptors when all are attached, {} are allowed; "
                                      "raise LimitNOFILE",
                                      kGuests, needed, kHard)),
      std::string::npos)
      << daemon().log();
  std::vector<std::unique_ptr<WideGuest>> guests;
  int refused = -1;
  for (int i = 0; i < kGuests && refused < 0; ++i) {
    auto guest = std::make_unique<WideGuest>(daemon().path(name(i) + ".sock"));
    if (guest->bring_up()) {
      guests.push_back(std::move(guest));
    } else {
      refused = i;
    }
  }
  ASSERT_GT(refused, 1) << "all of them fit";
  EXPECT_EQ(port_counter(name(refused), "refused"), 1u);
  EXPECT_TRUE(eventually([&] { return daemon().log().find("descriptors, ") != std::string::npos; }));
  EXPECT_NE(daemon().log().find(fmt::format("port {}: a front-end, pid", name(refused))), std::string::npos);
  EXPECT_TRUE(carries(*guests[0], 0, *guests[1], 1, kWorkers - 1)) << "who is there stays";
  // A place that becomes free is the next one's.
  guests.pop_back();
  EXPECT_TRUE(eventually([&] {
    auto again = std::make_unique<WideGuest>(daemon().path(name(refused) + ".sock"));
    return again->bring_up();
  }));
}

}  // namespace
}  // namespace sluice::test
