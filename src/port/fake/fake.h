// FakeQueue and FakeLane: a NIC queue and a port's lane without a NIC and without a peer process, for tests
// of whatever uses lanes. They keep every promise of port.h (lane_conformance.h runs on them), and
// bound everything.
//
// Two threads meet in each: the worker's, which makes the calls of Lane, and one test thread, the
// *outside*, which plays the wire or the peer.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/ids.h"
#include "port/fake/fake_ring.h"
#include "port/port.h"

namespace sluice {

inline constexpr std::uint32_t kFakePageBytes = 2048;

// The pages of one domain and who has them. Used by one worker's thread.
class FakeArena {
 public:
  FakeArena(DomainId domain, std::uint32_t page_count);
  DomainId domain() const { return domain_; }
  PageIndex alloc();             // kNone when all are out
  void release(PageIndex page);  // CHECKs that it is out
  std::byte* page(PageIndex page) { return memory_.data() + std::size_t{raw(page)} * kFakePageBytes; }
  std::uint32_t page_count() const { return static_cast<std::uint32_t>(out_.size()); }
  std::uint32_t out() const { return static_cast<std::uint32_t>(out_count_.value()); }  // any thread

 private:
  DomainId domain_;
  std::vector<std::byte> memory_;
  std::vector<bool> out_;
  std::vector<PageIndex> free_;
  Counter out_count_;
};

// "Wake me" of one sleeping worker.
class FakeDoorbell {
 public:
  FakeDoorbell();
  int fd() const { return event_.get(); }
  void ask() { wanted_.store(true); }
  void quiet();  // the worker is awake: nothing asked, nothing pending
  void ring();   // the outside has published something
  std::uint64_t rung() const { return rung_.load(); }

 private:
  UniqueFd event_;
  std::atomic<bool> wanted_{false};
  std::atomic<std::uint64_t> rung_{0};
};

struct FakeFrame {
  PortId port = PortId::kDrop;
  PageIndex page = PageIndex::kNone;
  std::uint16_t page_offset = 0;
  std::uint16_t bytes = 0;
  std::array<std::byte, kFakePageBytes> copy;  // where `page` is kNone
};

class FakeQueue final : public Lane {
 public:
  struct Options {
    NicId nic{0};
    QueueId queue{0};
    std::uint32_t ring = 512;
  };
  FakeQueue(FakeArena& arena, const Options& options);

  // Outside. A frame comes in from the wire, bound for `port`; false when the ring is full.
  bool arrive(PortId port, std::span<const std::byte> frame);
  // Outside. The next frame that went out to the wire.
  std::optional<std::vector<std::byte>> next_sent();
  std::uint64_t rung() const { return doorbell_.rung(); }

  std::uint32_t burst(std::span<Packet> packets, BurstInfo& info) override;
  void done(std::span<const Packet> packets) override;
  void hand_over(const BurstInfo& info, std::span<Packet> packets) override;
  void copy_in(const BurstInfo& info, std::span<Packet> packets) override;
  std::uint32_t poll() override;
  int wake_fd() const override { return doorbell_.fd(); }
  bool prepare_sleep() override;
  void woken() override { doorbell_.quiet(); }

  Counter zero_copy, copied, drop_tx_ring_full;

 private:
  FakeArena& arena_;
  Options options_;
  FakeDoorbell doorbell_;
  FakeRing<FakeFrame> wire_;             // outside -> worker
  FakeRing<FakeFrame> sent_;             // worker -> outside
  std::vector<PageIndex> on_their_way_;  // handed over, come home with the next poll()
};

class FakeLane final : public Lane {
 public:
  struct Options {
    DomainId domain{0};
    std::uint32_t ring = 256;        // of frames to the peer, and from it
    std::uint32_t page_limit = 256;  // lent at one time
  };
  // `arena`: of the lane's domain, where pages that were handed over come home; may be null when none ever
  // is.
  FakeLane(FakeArena* arena, const Options& options);

  // Outside. The next frame; its page, if it has one, is the peer's until it gives it back.
  struct Frame {
    std::vector<std::byte> bytes;
    PageIndex page = PageIndex::kNone;
  };
  std::optional<Frame> take();
  // Outside, with any index: the worker believes none that is not lent. False when the ring is full.
  bool give_back(PageIndex page);
  bool send(PortId to, std::span<const std::byte> frame);
  // Outside: the peer dies, and makes no call any more. What it holds comes home with the next poll().
  void abandon() {
    abandoned_.store(true);
    doorbell_.ring();
  }
  std::uint64_t rung() const { return doorbell_.rung(); }
  std::uint32_t waiting() const { return inbox_.size(); }
  // Outside: writes the descriptor without any work behind it, as a hostile peer may.
  void ring_for_nothing() { doorbell_.ring(); }

  std::uint32_t burst(std::span<Packet> packets, BurstInfo& info) override;
  void done(std::span<const Packet> packets) override;
  void hand_over(const BurstInfo& info, std::span<Packet> packets) override;
  void copy_in(const BurstInfo& info, std::span<Packet> packets) override;
  std::uint32_t poll() override;
  int wake_fd() const override { return doorbell_.fd(); }
  bool prepare_sleep() override;
  void woken() override { doorbell_.quiet(); }
  bool may_rest() const override { return lent_count_ == 0; }

  Counter zero_copy, copied, tx_packets, polls;
  Counter drop_ring_full, drop_page_limit, drop_no_reader, fault_forged;

 private:
  FakeFrame* admit();
  bool is_lent(PageIndex page) const;

  FakeArena* arena_;
  Options options_;
  FakeDoorbell doorbell_;
  FakeRing<FakeFrame> inbox_;   // worker -> peer
  FakeRing<PageIndex> back_;    // peer -> worker
  FakeRing<FakeFrame> outbox_;  // peer -> worker
  std::array<std::array<std::byte, kMaxHead>, kBurst> heads_;
  std::vector<bool> lent_;
  std::uint32_t lent_count_ = 0;
  std::atomic<bool> abandoned_{false};
};

}  // namespace sluice
