// RefillingDriver: a driver that makes more buffers available between any two reads of its ring by the device
// (ring_read.h): good ones, chains, tables, and bad ones of each kind. It has no good reason to wait for the
// device's word: of a split ring it uses again what the device has written into the used ring, published or
// not.
//
// It keeps the books: buffers come back in their order, each once, within what was made available. Reads are
// counted, and a call of the device that makes more of them than any budget allows ends the program.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>

#include "base/check.h"
#include "port/guest/virtio/ring/ring_read.h"
#include "port/port.h"
#include "test/vhost/mock_driver.h"

namespace sluice::test {

class RefillingDriver final : public DriverModel {
 public:
  // A number below its argument: where the choices come from.
  using Choose = std::function<std::uint32_t(std::uint32_t)>;
  // kLong: nothing but tables as long as any may be, half of them bad.
  enum class Mood : std::uint8_t { kAnything, kBadOnly, kGoodOnly, kLong };

  // Derived from the budgets of a turn (guest_buffer.h). A round of the receive path ends with a packet, with
  // a wasted buffer, or asks once for more; it reads an index, then a head and a descriptor of two words for
  // each buffer of a burst. What is walked beyond that costs two reads a descriptor.
  static constexpr std::uint64_t kMostRounds = 2ull * (kBurst + kWastedPerTurn + kBurst) + 2;
  static constexpr std::uint64_t kMostReads = kMostRounds * (1 + 3 * kBurst) + 2ull * kWalkedPerTurn;
  static constexpr std::uint32_t kTableEntries = kMaxSegments;

  // The ring of `driver` is fresh, in `memory`, and runs from position 0.
  RefillingDriver(MockMemory& memory, MockDriver& driver, Choose choose)
      : memory_(memory),
        driver_(driver),
        choose_(std::move(choose)),
        entries_(driver.options().entries),
        to_guest_(driver.options().direction == Direction::kToGuest),
        frame_(memory.allocate(kBufferBytes, 64)),
        tables_(memory.allocate(std::uint64_t{entries_} * kTableEntries * 16, 4096)) {
    begin(Mood::kAnything);
  }

  // The ring has been started afresh.
  void begin(Mood mood) {
    mood_ = mood;
    outstanding_.clear();
    free_slots_.clear();
    in_ring_ = 0;
    next_ = 0;
    wrap_ = true;
    posted_ = returned_ = walked_ = reads_ = 0;
    if (split()) {
      for (std::uint32_t slot = 0; slot < entries_ / kSlotDescriptors; ++slot) {
        free_slots_.push_back(static_cast<std::uint16_t>(slot));
      }
      for (std::uint32_t i = 0; i < entries_; ++i) {
        driver_.used()->ring[i].id = kUntouched;
      }
    }
  }

  // The one buffer that all good ones are, and how much of it a transmit buffer has.
  static constexpr std::uint32_t kBufferBytes = 2048;
  std::byte* buffer() { return memory_.at(frame_, kBufferBytes); }
  void set_frame_bytes(std::uint32_t bytes) { frame_bytes_ = bytes; }

  // A call of the device begins, and has ended.
  void begin_call() {
    reads_ = 0;
    driver_model = this;
  }
  void end_call() {
    driver_model = nullptr;
    collect();
    if (split()) {
      SLUICE_CHECK(read_once(driver_.used()->idx) == static_cast<std::uint16_t>(returned_),
                   "{} published, {} given back", driver_.used()->idx, returned_);
    }
  }

  void before_read() override {
    SLUICE_CHECK(++reads_ <= kMostReads, "a call of the device has made {} reads, and goes on", reads_);
    collect();
    // Often a few, sometimes a burst's worth. Long tables take long to write.
    const std::uint32_t roll = choose_(8);
    post_up_to(mood_ == Mood::kLong ? roll / 7 : roll < 5 ? roll : roll == 7 ? kBurst : 0);
  }

  void post_up_to(std::uint32_t count) {
    for (; count > 0 && post_one(); --count) {
    }
  }

  std::uint64_t posted() const { return posted_; }
  std::uint64_t returned() const { return returned_; }
  // Descriptors that the device has walked to put together what it gave back.
  std::uint64_t walked() const { return walked_; }
  std::size_t outstanding() const { return outstanding_.size(); }
  std::uint64_t reads() const { return reads_; }
  // Where the device stands when it has given everything back that it has taken.
  VringBase stands() const {
    if (split()) {
      return {static_cast<std::uint16_t>(returned_), static_cast<std::uint16_t>(returned_)};
    }
    const std::uint16_t at =
        outstanding_.empty() ? word(next_, wrap_) : word(outstanding_.front().at, outstanding_.front().wrap);
    return {at, at};
  }

 private:
  static constexpr std::uint32_t kUntouched = 0xdead'beef;
  static constexpr std::uint32_t kSmallBytes = 100;
  static constexpr std::uint16_t kSlotDescriptors = 4;  // of the table, for a chain of a split ring
  static constexpr std::uint64_t kNowhere = 0x10;       // of no region

  struct Segment {
    std::uint64_t address = 0;
    std::uint32_t bytes = 0;
    std::uint16_t flags = 0;
  };
  struct Outstanding {
    std::uint16_t id = 0;           // split: head
    std::uint16_t descriptors = 1;  // of the ring
    std::uint16_t walked = 0;       // by the device, to put it together
    std::uint16_t at = 0;           // packed
    bool wrap = false;
  };

  bool split() const { return driver_.options().format == VringFormat::kSplit; }
  bool has(std::uint64_t feature) const { return (driver_.options().features & feature) != 0; }
  bool one_used_per_batch() const { return !split() && !to_guest_ && has(kInOrder); }
  std::uint16_t right() const { return to_guest_ ? VRING_DESC_F_WRITE : 0; }
  static std::uint16_t word(std::uint16_t at, bool wrap) {
    return static_cast<std::uint16_t>(at | (wrap ? 0x8000u : 0u));
  }

  // ---- what comes back

  void collect() { split() ? collect_split() : collect_packed(); }

  void collect_split() {
    for (;;) {
      vring_used_elem& element = driver_.used()->ring[returned_ % entries_];
      if (element.id == kUntouched) {
        return;
      }
      SLUICE_CHECK(!outstanding_.empty(), "a buffer came back that nobody gave");
      SLUICE_CHECK(element.id == outstanding_.front().id, "{} came back, {} was due", element.id,
                   outstanding_.front().id);
      element.id = kUntouched;
      free_slots_.push_back(static_cast<std::uint16_t>(outstanding_.front().id / kSlotDescriptors));
      note_returned();
    }
  }

  void note_returned() {
    walked_ += outstanding_.front().walked;
    outstanding_.pop_front();
    ++returned_;
  }

  void collect_packed() {
    while (!outstanding_.empty()) {
      const Outstanding& front = outstanding_.front();
      const std::uint64_t now = read_once(driver_.packed_words(front.at)[1]);
      const std::uint64_t both = flag(VRING_PACKED_DESC_F_AVAIL) | flag(VRING_PACKED_DESC_F_USED);
      if ((now & both) != (front.wrap ? both : 0)) {
        return;  // not used; the device holds back the first of a burst
      }
      const auto id = static_cast<std::uint16_t>(now >> 32);
      for (bool last = false; !last;) {
        SLUICE_CHECK(!outstanding_.empty(), "buffer {} came back, which nobody gave", id);
        last = outstanding_.front().id == id;
        SLUICE_CHECK(last || one_used_per_batch(), "{} came back, {} was due", id, outstanding_.front().id);
        in_ring_ -= outstanding_.front().descriptors;
        note_returned();
      }
    }
  }

  // ---- what is made available

  // False: the ring has no room.
  bool post_one() {
    std::vector<Segment>& segments = segments_;
    segments.clear();
    bool indirect = false;
    const bool bad = choose_segments(segments, indirect);
    const auto descriptors = indirect ? std::size_t{1} : segments.size();
    if (split() ? free_slots_.empty() : in_ring_ + descriptors > entries_) {
      return false;
    }
    split() ? post_split(indirect) : post_packed(indirect);
    const bool plain = segments.size() == 1 && !indirect && !bad;
    outstanding_.back().walked = plain ? std::uint16_t{0} : static_cast<std::uint16_t>(segments.size());
    ++posted_;
    return true;
  }

  // True: it is bad.
  bool choose_segments(std::vector<Segment>& segments, bool& indirect) {
    const bool is_long = mood_ == Mood::kLong;
    const bool bad = mood_ == Mood::kBadOnly || (mood_ == Mood::kAnything && choose_(3) == 0) ||
                     (is_long && choose_(2) == 0);
    // Where buffers are merged a frame may need several.
    const bool is_small = to_guest_ && has(kMergeable) && mood_ != Mood::kLong && choose_(3) == 0;
    const std::uint32_t bytes = !to_guest_ ? frame_bytes_ : is_small ? kSmallBytes : kBufferBytes;
    const std::uint32_t shape = choose_(4);
    indirect = has(kIndirectDesc) && (shape == 3 || is_long);
    const std::uint32_t wanted = indirect     ? (bad || is_long ? kTableEntries : 1 + choose_(4))
                                 : shape == 0 ? 1 + choose_(3)
                                              : 1;
    // No segment is empty but a liar's: the device ends its walk at the first that is, and books say it
    // walked all.
    const std::uint32_t count = std::min(wanted, bytes);
    // A frame in segments: its header and some of it, and the rest.
    const std::uint32_t part = bytes / count;
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint32_t from = i * part;
      segments.push_back({frame_ + from, i + 1 == count ? bytes - from : part, right()});
    }
    if (bad) {
      Segment& liar = segments.back();
      switch (choose_(is_long ? 3 : 4)) {
        case 0:
          liar.address = kNowhere;
          break;
        case 1:
          liar.bytes = 0;
          break;
        case 2:
          liar.flags = right() ^ VRING_DESC_F_WRITE;
          break;
        default:
          segments.resize(1);  // no room for the header
          segments[0].bytes = 1 + choose_(kNetHeaderBytes - 2);
      }
    }
    return bad;
  }

  std::uint64_t table_at(std::uint16_t id) const { return tables_ + std::uint64_t{id} * kTableEntries * 16; }

  void post_split(bool indirect) {
    const std::uint16_t slot = free_slots_.front();
    free_slots_.pop_front();
    const auto head = static_cast<std::uint16_t>(slot * kSlotDescriptors);
    vring_desc* table = driver_.split_descriptors() + head;
    if (indirect) {
      const std::uint64_t at = table_at(slot);
      const auto bytes = static_cast<std::uint32_t>(segments_.size() * sizeof(vring_desc));
      driver_.split_descriptors()[head] = {
          .addr = at, .len = bytes, .flags = VRING_DESC_F_INDIRECT, .next = 0};
      table = reinterpret_cast<vring_desc*>(memory_.at(at, bytes));
    }
    for (std::size_t i = 0; i < segments_.size(); ++i) {
      const bool more = i + 1 < segments_.size();
      table[i] = {.addr = segments_[i].address,
                  .len = segments_[i].bytes,
                  .flags = static_cast<std::uint16_t>(segments_[i].flags | (more ? VRING_DESC_F_NEXT : 0)),
                  .next = static_cast<std::uint16_t>((indirect ? 0u : head) + i + 1)};
    }
    vring_avail* avail = driver_.avail();
    avail->ring[posted_ % entries_] = head;
    write_once(avail->idx, static_cast<std::uint16_t>(posted_ + 1), std::memory_order_release);
    outstanding_.push_back({.id = head});
  }

  static std::uint64_t flag(unsigned bit) { return std::uint64_t{1} << (48 + bit); }

  void post_packed(bool indirect) {
    const auto id = static_cast<std::uint16_t>(posted_ & 0x7fff);
    std::vector<Segment> ring = segments_;
    if (indirect) {
      const std::uint64_t at = table_at(static_cast<std::uint16_t>(posted_ % entries_));
      const auto bytes = static_cast<std::uint32_t>(segments_.size() * sizeof(vring_packed_desc));
      auto* table = reinterpret_cast<vring_packed_desc*>(memory_.at(at, bytes));
      for (std::size_t i = 0; i < segments_.size(); ++i) {
        table[i] = {
            .addr = segments_[i].address, .len = segments_[i].bytes, .id = 0, .flags = segments_[i].flags};
      }
      ring.assign(1, {at, bytes, VRING_DESC_F_INDIRECT});
    }
    const auto descriptors = static_cast<std::uint16_t>(ring.size());
    outstanding_.push_back({.id = id, .descriptors = descriptors, .at = next_, .wrap = wrap_});
    // The first one's flags last: the chain appears as a whole.
    std::uint64_t first = 0;
    for (std::size_t i = 0; i < ring.size(); ++i) {
      const std::uint64_t now = std::uint64_t{ring[i].bytes} | std::uint64_t{id} << 32 |
                                std::uint64_t{ring[i].flags} << 48 |
                                (i + 1 < ring.size() ? std::uint64_t{VRING_DESC_F_NEXT} << 48 : 0) |
                                (wrap_ ? flag(VRING_PACKED_DESC_F_AVAIL) : flag(VRING_PACKED_DESC_F_USED));
      write_once(driver_.packed_words(next_)[0], ring[i].address);
      if (i == 0) {
        first = now;
      } else {
        write_once(driver_.packed_words(next_)[1], now);
      }
      if (++next_ == entries_) {
        next_ = 0;
        wrap_ = !wrap_;
      }
    }
    write_once(driver_.packed_words(outstanding_.back().at)[1], first, std::memory_order_release);
    in_ring_ += descriptors;
  }

  MockMemory& memory_;
  MockDriver& driver_;
  const Choose choose_;
  const std::uint32_t entries_;
  const bool to_guest_;
  const std::uint64_t frame_, tables_;
  std::uint32_t frame_bytes_ = 12 + 64;
  Mood mood_ = Mood::kAnything;

  std::vector<Segment> segments_;  // of the buffer that is being made
  std::deque<Outstanding> outstanding_;
  std::deque<std::uint16_t> free_slots_;
  std::uint32_t in_ring_ = 0;  // packed: descriptors that are not ours
  std::uint16_t next_ = 0;
  bool wrap_ = true;
  std::uint64_t posted_ = 0, returned_ = 0, walked_ = 0, reads_ = 0;
};

}  // namespace sluice::test
