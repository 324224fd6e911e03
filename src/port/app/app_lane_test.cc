#include <fcntl.h>

#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "port/app/app_lane.h"
#include "port/app/app_test_fixture.h"
#include "port/burst_of.h"
#include "port/flow_hash.h"
#include "port/vlan.h"

namespace sluice::test {
namespace {

class AppLaneTest : public AppPortTest {
 protected:
  void SetUp() override { options.ring_entries = 64; }
  void begin() {
    start();
    peer = attach();
    ASSERT_TRUE(peer);
  }
  // What the worker takes from the lane in one burst; done with at once unless the test looks at it.
  std::uint32_t send_burst() {
    std::uint32_t count = burst_of(lane(), burst);
    lane().done(std::span(burst).first(count));
    return count;
  }
  // Takes all that is there; returns the pages.
  std::vector<std::uint32_t> take_all() {
    std::vector<std::uint32_t> pages;
    while (auto entry = peer->receive()) {
      pages.push_back(entry->page);
    }
    return pages;
  }
  std::unique_ptr<AppPeer> peer;
  std::array<Packet, kBurst> burst;
};
using AppLane_ = AppLaneTest;
using Malicious_AppLane = AppLaneTest;

TEST_F(AppLane_, CopiesAFrameOnceAndSaysWhereItCameFrom) {
  begin();
  std::vector<std::byte> head(20, std::byte{1}), body(100, std::byte{2});
  Packet packet{.body = body.data(),
                .head = head.data(),
                .body_bytes = 100,
                .page = PageIndex{7},
                .rule = 42,
                .head_bytes = 20,
                .port = kPort};
  lane().copy_in({.nic = NicId{4}, .queue = QueueId{6}, .timestamp_ns = 99}, std::span(&packet, 1));
  auto entry = peer->receive();
  ASSERT_TRUE(entry);
  auto frame = peer->frame(*entry);
  ASSERT_EQ(frame.size(), 120u);
  EXPECT_EQ(std::vector(frame.begin(), frame.begin() + 20), head);
  EXPECT_EQ(std::vector(frame.begin() + 20, frame.end()), body);
  EXPECT_EQ(entry->offset % 64, 0) << "a frame begins on a cache line";
  EXPECT_EQ(entry->rule, 42u);
  EXPECT_EQ(entry->flow_hash, flow_hash_of(head));
  EXPECT_EQ(entry->nic, 4u);
  EXPECT_EQ(entry->queue, 6u);
  EXPECT_EQ(entry->timestamp_ns, 99u);
  EXPECT_EQ(packet.page, PageIndex{7}) << "the page stays the worker's";
  auto counted = counters();
  EXPECT_EQ(counted["copied"], 1u);
  EXPECT_EQ(counted["copied_bytes"], 120u);
  EXPECT_EQ(counted["rx_packets"], 1u);
  EXPECT_EQ(counted["rx_bytes"], 120u);
  EXPECT_EQ(counted["zero_copy"], 0u);
}

TEST_F(AppLane_, LetsPagesGoRoundForEver) {
  begin();
  for (int i = 0; i < 1000; ++i) {
    receive(50);
    auto pages = take_all();
    ASSERT_EQ(pages.size(), 50u);
    ASSERT_EQ(std::set(pages.begin(), pages.end()).size(), 50u);
    for (std::uint32_t page : pages) {
      peer->give_back(page);
    }
    lane().poll();
    ASSERT_EQ(inflight(), 0u);
  }
  EXPECT_EQ(counter("rx_packets"), 50'000u);
}

TEST_F(AppLane_, DropsByNameWhatAReaderWhoSleepsHasNoRoomFor) {
  begin();
  receive(100);
  EXPECT_EQ(counter("rx_packets"), 64u);
  EXPECT_EQ(counter("drop_ring_full"), 36u);
  EXPECT_EQ(counter("drop_page_limit"), 0u);
  EXPECT_EQ(inflight(), 64u);
}

TEST_F(AppLane_, DropsByNameWhatAReaderWhoReturnsNothingMayNotHold) {
  begin();
  for (int i = 0; i < 20; ++i) {
    receive(50);
    take_all();
    lane().poll();
  }
  EXPECT_EQ(counter("rx_packets"), 256u);
  EXPECT_EQ(counter("drop_page_limit"), 1000u - 256u);
  EXPECT_EQ(counter("drop_ring_full"), 0u);
  EXPECT_EQ(port->session()->pages_held, 256u);
}

TEST_F(AppLane_, LooksForReturnsBeforeItDropsForTheLimit) {
  begin();
  for (int i = 0; i < 8; ++i) {
    receive(32);
    for (std::uint32_t page : take_all()) {
      peer->give_back(page);
    }
  }
  receive(50);  // 256 were lent and all came back, and nobody has called poll()
  EXPECT_EQ(counter("drop_page_limit"), 0u);
}

TEST_F(AppLane_, DropsByNameAFrameThatFitsNoPage) {
  begin();
  receive(2, 1792);
  receive(3, 1793);
  lane().poll();
  EXPECT_EQ(counter("rx_packets"), 2u);
  EXPECT_EQ(counter("drop_too_long"), 3u);
  EXPECT_EQ(inflight(), 2u) << "the pages of what was dropped are home";
}

TEST_F(AppLane_, SaysPressureAtThreeQuartersAndItsEndBelowHalf) {
  begin();
  std::vector<std::uint32_t> held;
  auto hold = [&](std::uint32_t count) {
    receive(count);
    for (std::uint32_t page : take_all()) held.push_back(page);
  };
  auto give = [&](std::size_t count) {
    for (; count > 0; --count, held.pop_back()) peer->give_back(held.back());
    lane().poll();
  };
  for (int i = 0; i < 3; ++i) hold(60);
  hold(11);
  EXPECT_FALSE(host.pressure[0]) << "191 of 256";
  hold(1);
  EXPECT_TRUE(host.pressure[0]) << "192 of 256";
  give(64);
  EXPECT_TRUE(host.pressure[0]) << "128 of 256";
  give(1);
  EXPECT_FALSE(host.pressure[0]) << "127 of 256";
  EXPECT_EQ(host.pressure_changes, 2);
}

TEST_F(AppLane_, PressureEndsWithTheSession) {
  begin();
  for (int i = 0; i < 4; ++i) {
    receive(60);
    take_all();
  }
  ASSERT_TRUE(host.pressure[0]);
  peer.reset();
  wait_detached();
  EXPECT_FALSE(host.pressure[0]);
}

TEST_F(AppLane_, WakesTheAppOnceBeforeTheWorkerRestsAndOnlyIfItSleeps) {
  begin();
  pollfd wake{.fd = peer->lanes[0].wake_app, .events = POLLIN, .revents = 0};
  receive(2);
  lane().poll();
  lane().before_rest();
  EXPECT_EQ(::poll(&wake, 1, 0), 0) << "it does not sleep";
  take_all();
  ASSERT_FALSE(peer->lanes[0].rx.prepare_sleep());
  receive(2);
  lane().poll();
  receive(2);
  lane().poll();
  EXPECT_EQ(::poll(&wake, 1, 0), 0) << "more packets may come in the worker's next turn";
  lane().before_rest();
  lane().before_rest();
  EXPECT_EQ(::poll(&wake, 1, 0), 1);
  EXPECT_EQ(counter("wakeups"), 1u);
  std::uint64_t value = 0;
  EXPECT_EQ(::read(wake.fd, &value, sizeof(value)), 8);
}

// The worker is kept from running between publishing and waking; the app is not.
TEST_F(AppLane_, AnAppThatTookAllAndSleepsBeforeTheWorkerCouldWakeItIsWokenForTheNextPackets) {
  begin();
  pollfd wake{.fd = peer->lanes[0].wake_app, .events = POLLIN, .revents = 0};
  receive(2);
  take_all();
  ASSERT_FALSE(peer->lanes[0].rx.prepare_sleep());
  lane().before_rest();
  if (::poll(&wake, 1, 0) == 1) {  // for nothing: it looks, and sleeps again
    std::uint64_t value = 0;
    ASSERT_EQ(::read(wake.fd, &value, sizeof(value)), 8);
    ASSERT_FALSE(peer->lanes[0].rx.prepare_sleep());
  }
  receive(2);
  lane().before_rest();
  EXPECT_EQ(::poll(&wake, 1, 0), 1);
}

TEST_F(AppLane_, AWorkerThatNeverRestsWakesTheAppAfterAFewTurns) {
  begin();
  pollfd wake{.fd = peer->lanes[0].wake_app, .events = POLLIN, .revents = 0};
  ASSERT_FALSE(peer->lanes[0].rx.prepare_sleep());
  receive(2);
  for (std::uint32_t turn = 1; turn < kTurnsBeforeWake; ++turn) {
    lane().poll();
    EXPECT_EQ(::poll(&wake, 1, 0), 0) << turn;
  }
  lane().poll();
  EXPECT_EQ(::poll(&wake, 1, 0), 1);
}

TEST_F(AppLane_, SaysOnceThatAnAppIsBehindWhenMoreThanHalfOfItsRingIsFullAndAgainWhenItHasTakenSome) {
  begin();
  const std::uint32_t half = peer->lanes[0].rx.size() / 2;
  receive(half);
  EXPECT_FALSE(lane().peer_is_behind());
  receive(1);
  EXPECT_TRUE(lane().peer_is_behind());
  EXPECT_FALSE(lane().peer_is_behind()) << "it took nothing: it does not wait for the core";
  ASSERT_EQ(peer->lanes[0].rx.peek(2), 2u);
  peer->lanes[0].rx.release(2);
  EXPECT_FALSE(lane().peer_is_behind()) << "half";
  receive(3);
  EXPECT_TRUE(lane().peer_is_behind());
  take_all();
  EXPECT_FALSE(lane().peer_is_behind());
}

TEST_F(AppLane_, AWorkerThatSleepsIsWokenByFramesToSendAndByReturnsOnlyWhenItIsShort) {
  begin();
  EXPECT_FALSE(lane().prepare_sleep());
  EXPECT_TRUE(peer->lanes[0].tx.peer_needs_wakeup());
  EXPECT_FALSE(peer->lanes[0].back.peer_needs_wakeup());
  lane().woken();
  EXPECT_FALSE(peer->lanes[0].tx.peer_needs_wakeup());
  for (int i = 0; i < 4; ++i) {
    receive(50);
    take_all();
  }
  EXPECT_FALSE(lane().prepare_sleep());
  EXPECT_TRUE(peer->lanes[0].back.peer_needs_wakeup()) << "200 of 256 are out";
  std::uint64_t one = 1;
  ASSERT_EQ(::write(peer->lanes[0].wake_daemon, &one, 8), 8);
  pollfd wake{.fd = lane().wake_fd(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&wake, 1, 0), 1);
  lane().woken();
  EXPECT_EQ(::poll(&wake, 1, 0), 0);
  peer->send_frame(frame_from(kMac));
  EXPECT_TRUE(lane().prepare_sleep()) << "a frame came meanwhile";
  EXPECT_FALSE(peer->lanes[0].tx.peer_needs_wakeup());
}

TEST_F(AppLane_, SendsWhatTheAppWroteByTheUplink) {
  begin();
  std::vector<std::vector<std::byte>> frames;
  for (std::size_t bytes : {14u, 60u, 64u, 127u, 128u, 129u, 1514u, 2048u}) {
    frames.push_back(frame_from(kMac, bytes, static_cast<std::uint8_t>(bytes)));
    ASSERT_TRUE(peer->send_frame(frames.back()));
  }
  ASSERT_EQ(burst_of(lane(), burst), frames.size());
  for (std::size_t i = 0; i < frames.size(); ++i) {
    const Packet& packet = burst[i];
    EXPECT_EQ(packet.port, kUplink);
    EXPECT_EQ(packet.page, PageIndex::kNone);
    std::vector<std::byte> sent(packet.head, packet.head + packet.head_bytes);
    sent.insert(sent.end(), packet.body, packet.body + packet.body_bytes);
    EXPECT_EQ(sent, frames[i]);
  }
  EXPECT_EQ(peer->lanes[0].tx.in_ring(), frames.size()) << "the slots are not the app's again yet";
  lane().done(std::span(burst).first(frames.size()));
  EXPECT_EQ(peer->lanes[0].tx.in_ring(), 0u);
  EXPECT_EQ(counter("tx_packets"), frames.size());
}

TEST_F(AppLane_, DropsByNameWhatItsWorkerCannotSend) {
  options.worker_sends = {false};
  begin();
  EXPECT_EQ(peer->welcome.tx_lanes_low, 0u);
  peer->send_frame(frame_from(kMac));
  EXPECT_EQ(send_burst(), 0u);
  EXPECT_EQ(counter("drop_tx_no_uplink"), 1u);
  EXPECT_EQ(peer->lanes[0].tx.in_ring(), 0u) << "the slot is the app's again";
}

TEST_F(AppLane_, WithoutAnAddressSendsNothingAndTheAppIsTold) {
  options.source_macs = {};
  begin();
  EXPECT_EQ(peer->welcome.flags, SLUICE_APP_NO_ADDRESS);
  EXPECT_EQ(MacAddress{}, std::to_array(peer->welcome.source_mac));
  peer->send_frame(frame_from(kMac));
  peer->send_frame(frame_from({}));
  EXPECT_EQ(send_burst(), 0u);
  EXPECT_EQ(counter("drop_tx_no_address"), 2u);
  EXPECT_EQ(counter("tx_packets"), 0u);
  EXPECT_EQ(peer->lanes[0].tx.in_ring(), 0u) << "the slots are the app's again";
}

TEST_F(AppLane_, WithoutAnAddressButTrustedSendsFromAny) {
  options.source_macs = {};
  options.trust = true;
  begin();
  EXPECT_EQ(peer->welcome.flags, 0u);
  peer->send_frame(frame_from(kOtherMac));
  EXPECT_EQ(send_burst(), 1u);
  EXPECT_EQ(counter("drop_tx_no_address"), 0u);
}

TEST_F(AppLane_, MirrorsItsCountersForTheApp) {
  begin();
  receive(70);
  peer->send_frame(frame_from(kMac));
  peer->send_frame(frame_from(kOtherMac));
  peer->give_back(0xffff'ffff);
  send_burst();
  lane().poll();
  const sluice_lane_stats stats = *peer->lanes[0].stats;
  EXPECT_EQ(stats.rx_packets, 64u);
  EXPECT_EQ(stats.rx_bytes, 64u * 60);
  EXPECT_EQ(stats.rx_dropped_ring_full, 6u);
  EXPECT_EQ(stats.tx_packets, 1u);
  EXPECT_EQ(stats.tx_dropped, 1u);
  EXPECT_EQ(stats.pages_held, 64u);
  EXPECT_EQ(stats.faults, 1u);
}

// ---- D3: what the app writes is judged

TEST_F(Malicious_AppLane, AForgedOrDoubleReturnIsCountedAndNothingElse) {
  begin();
  receive(10);
  auto pages = take_all();
  for (std::uint32_t forged : {peer->welcome.page_count, 0x7fff'ffffu, 0x8000'0000u, 0xffff'ffffu}) {
    peer->give_back(forged);
  }
  lane().poll();
  EXPECT_EQ(counter("fault_return_forged"), 4u);
  EXPECT_EQ(inflight(), 10u);
  peer->give_back(pages[0]);
  peer->give_back(pages[0]);
  peer->give_back(200);  // never lent
  lane().poll();
  EXPECT_EQ(counter("fault_return_double"), 2u);
  EXPECT_EQ(inflight(), 9u);
  receive(50);
  auto again = take_all();
  std::set<std::uint32_t> held(again.begin(), again.end());
  held.insert(pages.begin() + 1, pages.end());
  EXPECT_EQ(held.size(), 59u) << "no page was lent twice";
}

TEST_F(Malicious_AppLane, APageOfAnotherLaneIsAForeignReturn) {
  options.workers = {WorkerId{0}, WorkerId{1}};
  options.worker_sends = {true, true};
  begin();
  receive(5, 60, 1);
  auto entry = peer->receive(1);
  ASSERT_TRUE(entry);
  peer->give_back(entry->page, 0);
  lane(0).poll();
  EXPECT_EQ(counter("fault_return_foreign"), 1u);
  EXPECT_EQ(inflight(), 5u);
  peer->give_back(entry->page, 1);
  lane(1).poll();
  EXPECT_EQ(inflight(), 4u);
}

TEST_F(Malicious_AppLane, ReturnsWithoutEndAreTakenInBoundedTurns) {
  options.pages = 4096;
  begin();
  for (int i = 0; i < 4000; ++i) {
    peer->give_back(0);
  }
  EXPECT_LE(lane().poll(), kBackPerTurn);  // D6
  EXPECT_EQ(peer->lanes[0].back.in_ring(), 4000 - kBackPerTurn);
}

TEST_F(Malicious_AppLane, TxDescriptorsOutOfTheirSlotAreFaults) {
  begin();
  const std::uint32_t slot = peer->welcome.tx_slot_bytes;
  auto refused = [&](std::uint32_t offset_in_slot, std::uint32_t length) {
    std::uint64_t before = counter("fault_tx_descriptor");
    peer->send(peer->next_slot() + offset_in_slot, length);
    EXPECT_EQ(send_burst(), 0u) << offset_in_slot << " + " << length;
    return counter("fault_tx_descriptor") == before + 1;
  };
  EXPECT_TRUE(refused(0, 13));
  EXPECT_TRUE(refused(0, 0));
  EXPECT_TRUE(refused(0, slot + 1));
  EXPECT_TRUE(refused(0, 0xffff'ffff));
  EXPECT_TRUE(refused(slot, 60));
  EXPECT_TRUE(refused(slot - 59, 60));
  EXPECT_TRUE(refused(0xffff'ffff, 60));
  EXPECT_TRUE(refused(0x8000'0000, 60));
  EXPECT_TRUE(refused(0u - peer->next_slot() - 1, 60));
  std::mt19937 random(3);
  for (int i = 0; i < 10'000; ++i) {
    peer->send(static_cast<std::uint32_t>(random()), static_cast<std::uint32_t>(random()));
    EXPECT_EQ(send_burst(), 0u);
  }
  EXPECT_EQ(counter("tx_packets"), 0u);
  peer->send_frame(frame_from(kMac));
  EXPECT_EQ(send_burst(), 1u) << "and the lane still works";
}

TEST_F(Malicious_AppLane, AnothersSourceAddressIsNotSent) {
  begin();
  for (std::size_t bit = 0; bit < 48; ++bit) {
    MacAddress mac = kMac;
    mac[bit / 8] = static_cast<std::uint8_t>(mac[bit / 8] ^ (1u << (bit % 8)));
    peer->send_frame(frame_from(mac));
  }
  EXPECT_EQ(send_burst(), 0u);
  EXPECT_EQ(counter("drop_tx_source_mac"), 48u);
  peer->send_frame(frame_from(kOtherMac));
  peer->send_frame(frame_from(kMac));
  peer->send_frame(frame_from(kOtherMac));
  EXPECT_EQ(send_burst(), 1u) << "its neighbours do not spoil a good one";
}

// The same tags and groups as from a guest: source_guard_test.cc has them all.
TEST_F(Malicious_AppLane, ATagOfItsOwnChoiceAndAReservedGroupAreNotSent) {
  begin();
  auto tagged = frame_from(kMac);
  store_be16(tagged.data() + 12, kVlanTpid);
  store_be16(tagged.data() + 14, 7);
  peer->send_frame(tagged);
  auto bpdu = frame_from(kMac);
  const MacAddress bridges{0x01, 0x80, 0xc2, 0, 0, 0};
  std::memcpy(bpdu.data(), bridges.data(), 6);
  peer->send_frame(bpdu);
  EXPECT_EQ(send_burst(), 0u);
  EXPECT_EQ(counter("drop_tx_vlan"), 1u);
  EXPECT_EQ(counter("drop_tx_reserved"), 1u);
}

TEST_F(AppLane_, OnAnAccessVlanTheTagIsPushedAndPopped) {
  options.vlan = 7;
  begin();
  const auto bare = frame_from(kMac, 200);
  auto tagged = bare;
  tagged.insert(tagged.begin() + 12, {std::byte{0x81}, std::byte{0}, std::byte{0}, std::byte{7}});
  peer->send_frame(bare);
  ASSERT_EQ(burst_of(lane(), burst), 1u);
  std::vector<std::byte> sent(burst[0].head, burst[0].head + burst[0].head_bytes);
  sent.insert(sent.end(), burst[0].body, burst[0].body + burst[0].body_bytes);
  EXPECT_EQ(sent, tagged);
  lane().done(std::span(burst).first(1));
  for (std::uint16_t head_bytes : std::initializer_list<std::uint16_t>{0, 18, 128}) {
    Packet packet{.body = tagged.data() + head_bytes,
                  .head = head_bytes == 0 ? nullptr : tagged.data(),
                  .body_bytes = static_cast<std::uint32_t>(tagged.size()) - head_bytes,
                  .head_bytes = head_bytes,
                  .port = kPort};
    lane().copy_in({.port = PortId{30}}, std::span(&packet, 1));
    const auto got = peer->receive();
    ASSERT_TRUE(got);
    EXPECT_EQ(got->length, bare.size());
    const auto frame = peer->frame(*got);
    EXPECT_EQ(std::vector(frame.begin(), frame.end()), bare) << head_bytes;
  }
  receive(3);  // untagged
  EXPECT_EQ(counter("drop_vlan"), 3u);
  EXPECT_FALSE(peer->receive());
}

TEST_F(Malicious_AppLane, WhatWasJudgedIsWhatIsSentAlsoWhenTheAppRewritesItMeanwhile) {
  begin();
  // Every slot holds a frame whose source flips between right and wrong as fast as a thread can.
  std::atomic<bool> stop{false};
  std::byte* slots = peer->tx_arena();
  const std::uint32_t slot_bytes = peer->welcome.tx_slot_bytes;
  std::thread flipper([&] {
    for (bool good = false; !stop; good = !good) {
      for (std::uint32_t i = 0; i < 64; ++i) {
        write_once(*reinterpret_cast<std::uint8_t*>(slots + i * slot_bytes + 11),
                   std::uint8_t(good ? 0x11 : 0x99));
      }
    }
  });
  auto frame = frame_from(kMac);
  for (std::uint32_t i = 0; i < 64; ++i) {
    std::memcpy(slots + i * slot_bytes, frame.data(), 11);
  }
  std::uint64_t deadline = now_ns() + kDeadlineNs;
  while ((counter("tx_packets") < 1000 || counter("drop_tx_source_mac") < 1000) && now_ns() < deadline) {
    for (int i = 0; i < 64; ++i) {
      peer->send(peer->next_slot(), 60);
    }
    std::uint32_t count = burst_of(lane(), burst);
    std::this_thread::yield();
    for (std::uint32_t i = 0; i < count; ++i) {
      ASSERT_EQ(0, std::memcmp(burst[i].head + 6, kMac.data(), 6));
    }
    lane().done(std::span(burst).first(count));
  }
  stop = true;
  flipper.join();
  EXPECT_GE(counter("tx_packets"), 1000u);
  EXPECT_GE(counter("drop_tx_source_mac"), 1000u);
}

TEST_F(Malicious_AppLane, GarbageInEveryWordTheAppMayWriteHarmsNobody) {
  begin();
  std::mt19937 random(4);
  auto& l = peer->lanes[0];
  std::uint32_t* words[] = {&l.rx_word->consumer, &l.rx_word->need_wakeup, &l.back_word->producer,
                            &l.tx_word->producer};
  for (int round = 0; round < 20'000; ++round) {
    std::uint32_t near = static_cast<std::uint32_t>(random() % 300);
    write_once(*words[random() % 4], random() % 2 == 0 ? static_cast<std::uint32_t>(random()) : near);
    auto* segment = reinterpret_cast<std::uint32_t*>(peer->app_segment());
    write_once(segment[random() % (peer->welcome.app_segment_bytes / 4)],
               static_cast<std::uint32_t>(random()));
    receive(1 + static_cast<std::uint32_t>(random() % 8));
    lane().poll();
    send_burst();
    if (lane().prepare_sleep() || round % 7 == 0) {
      lane().woken();
    }
    ASSERT_LE(inflight(), 256u);
    ASSERT_EQ(inflight(), port->session()->pages_held);
  }
  EXPECT_GT(counter("fault_ring_index"), 0u);
  peer.reset();
  wait_detached();  // CHECKs that every page is home
  peer = attach();
  receive(10);
  EXPECT_EQ(take_all().size(), 10u);
}

TEST_F(Malicious_AppLane, AnAppThatNeverReadsItsWakeUpsMakesTheWorkerWaitNever) {
  options.ring_entries = 256;
  begin();
  // It says that it sleeps, for ever, and clears O_NONBLOCK wherever it can; this test hangs if a call of
  // ours waits.
  write_once(peer->lanes[0].rx_word->need_wakeup, 1u);
  for (int fd : {peer->lanes[0].wake_app, peer->lanes[0].wake_daemon}) {
    ASSERT_EQ(::fcntl(fd, F_SETFL, 0), 0);
  }
  for (int i = 0; i < 5000; ++i) {
    receive(1);
    if (auto entry = peer->receive()) {
      peer->give_back(entry->page);
    }
    lane().poll();
    lane().woken();  // and there is nothing to read
  }
  EXPECT_EQ(counter("rx_packets"), 5000u);
}

// ---- D4

TEST_F(Malicious_AppLane, AReceivedPageCannotBeWrittenByAnyMeans) {
  begin();
  receive(1);
  for (int fd : {peer->fd(0), peer->fd(1)}) {
    EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    void* view = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0);
    ASSERT_NE(view, MAP_FAILED);
    EXPECT_NE(::mprotect(view, 4096, PROT_READ | PROT_WRITE), 0);
    ::munmap(view, 4096);
    EXPECT_LT(::pwrite(fd, "x", 1, 0), 0);
    EXPECT_NE(::ftruncate(fd, 0), 0);
    EXPECT_NE(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
    UniqueFd again(::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDWR | O_CLOEXEC));
    if (again) {  // root gets past the mode of the file; the seals stay
      EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again.get(), 0), MAP_FAILED);
      EXPECT_LT(::pwrite(again.get(), "x", 1, 0), 0);
      EXPECT_NE(::ftruncate(again.get(), 0), 0);
    }
  }
  for (int fd : {peer->fd(2), peer->fd(3)}) {
    EXPECT_NE(::ftruncate(fd, 0), 0) << "what we read cannot be cut off under us";
  }
}

}  // namespace
}  // namespace sluice::test
