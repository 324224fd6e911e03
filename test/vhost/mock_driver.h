// The driver's side of a virtqueue, over ordinary memory: for unit tests, fuzzers and benches of whoever
// plays the device. It behaves as a driver should; what no driver may do is done through raw pointers to the
// rings, which are all open.
#pragma once

#include <linux/virtio_config.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/fd.h"
#include "port/guest/virtio/guest_device.h"
#include "port/guest/virtio/guest_memory.h"
#include "port/guest/virtio/net_header.h"
#include "port/guest/virtio/ring/guest_buffer.h"
#include "port/guest/virtio/ring/ring_layout.h"
#include "port/guest/virtio/ring/vring.h"

namespace sluice::test {

using Bytes = std::vector<std::byte>;

constexpr std::uint64_t bit(unsigned feature) {
  return std::uint64_t{1} << feature;
}
inline constexpr std::uint64_t kVersion1 = bit(VIRTIO_F_VERSION_1);
inline constexpr std::uint64_t kMergeable = bit(kMergeableBit);
inline constexpr std::uint64_t kIndirectDesc = bit(VIRTIO_RING_F_INDIRECT_DESC);
inline constexpr std::uint64_t kEventIdx = bit(VIRTIO_RING_F_EVENT_IDX);
inline constexpr std::uint64_t kInOrder = bit(VIRTIO_F_IN_ORDER);

// Memory of a guest: each region with an inaccessible page before and behind it, so that a stray access ends
// the test.
class MockMemory {
 public:
  struct Range {
    std::uint64_t guest_address;
    std::uint64_t bytes;  // whole pages
  };
  static constexpr std::uint64_t kBase = 0x1'0000'0000;

  explicit MockMemory(std::vector<Range> ranges = {{kBase, 16 << 20}});

  std::shared_ptr<const GuestMemory> table() const { return table_; }
  // From the first region, never given back.
  std::uint64_t allocate(std::uint64_t bytes, std::uint64_t alignment = 64);
  std::byte* at(std::uint64_t guest_address, std::uint64_t bytes = 1) const;

 private:
  std::vector<Mapping> mappings_;  // with their guards
  std::shared_ptr<const GuestMemory> table_;
  std::uint64_t next_ = 0;
};

struct Segment {
  std::uint64_t address = 0;
  std::uint32_t bytes = 0;
};

struct DriverOptions {
  VringFormat format = VringFormat::kSplit;
  std::uint16_t entries = 256;
  std::uint64_t features = kVersion1;
  Direction direction = Direction::kToGuest;
};

class MockDriver {
 public:
  using Options = DriverOptions;
  struct Used {
    std::uint64_t cookie = 0;
    std::uint32_t bytes = 0;
    std::uint16_t id = 0;
  };
  enum class Shape : std::uint8_t { kChain, kIndirect };

  MockDriver(MockMemory& memory, const Options& options);

  // Where the ring begins, as a device is told; the descriptors for waking are this driver's own eventfds.
  VringSetup setup() const;

  // Makes a buffer available; false: there are not enough free descriptors. It is seen at once, or by
  // publish() after hold_back(true).
  bool post(std::span<const Segment> segments, std::uint64_t cookie, Shape shape = Shape::kChain);
  void hold_back(bool on) { holds_back_ = on; }
  void publish();
  // The next buffer that the device has given back.
  std::optional<Used> reap();
  std::uint32_t outstanding() const { return outstanding_; }
  std::uint32_t free_descriptors() const { return free_; }

  // Whether the device asked to be kicked for what was published since the last kick() or since it was asked
  // last; kicks.
  bool kick_needed();
  void kick();
  // Asks to be called for the next used buffer, or for none.
  void ask_for_calls(bool on);
  bool called() const;  // and takes the call
  int kick_fd() const { return kick_.get(); }
  int call_fd() const { return call_.get(); }

  // --- for what no driver may do ---
  vring_desc* split_descriptors() const { return reinterpret_cast<vring_desc*>(descriptors_); }
  vring_avail* avail() const { return reinterpret_cast<vring_avail*>(driver_area_); }
  vring_used* used() const { return reinterpret_cast<vring_used*>(device_area_); }
  vring_packed_desc* packed_descriptors() const { return reinterpret_cast<vring_packed_desc*>(descriptors_); }
  // Its address; its bytes, id << 32, flags << 48. Read and written as the device does it, whole.
  std::uint64_t* packed_words(std::uint16_t at) const {
    return reinterpret_cast<std::uint64_t*>(&packed_descriptors()[at]);
  }
  vring_packed_desc_event* driver_event() const {
    return reinterpret_cast<vring_packed_desc_event*>(driver_area_);
  }
  vring_packed_desc_event* device_event() const {
    return reinterpret_cast<vring_packed_desc_event*>(device_area_);
  }
  std::uint64_t descriptors_address() const { return descriptors_address_; }
  std::uint64_t driver_address() const { return driver_address_; }
  std::uint64_t device_address() const { return device_address_; }
  const Options& options() const { return options_; }
  std::uint16_t next_position() const { return next_; }  // split: index; packed: position
  bool wrap() const { return wrap_; }
  // AVAIL and USED as an available descriptor of this round has them.
  std::uint16_t available_flags() const;

 private:
  struct Buffer {
    std::uint64_t cookie = 0;
    std::uint16_t descriptors = 0;  // of the ring
    std::uint16_t first = 0;        // split: head
  };
  bool has(unsigned feature) const { return has_feature(options_.features, feature); }
  void post_split(std::span<const Segment> segments, std::uint64_t cookie, Shape shape);
  void post_packed(std::span<const Segment> segments, std::uint64_t cookie, Shape shape);
  std::uint64_t write_table(std::uint16_t id, std::span<const Segment> segments);
  std::optional<Used> reap_split();
  std::optional<Used> reap_packed();
  std::uint16_t write_flag() const {
    return options_.direction == Direction::kToGuest ? std::uint16_t{VRING_DESC_F_WRITE} : std::uint16_t{0};
  }
  static constexpr std::uint32_t kTableEntries = 64;  // of an indirect table

  MockMemory& memory_;
  const Options options_;
  std::uint64_t descriptors_address_ = 0, driver_address_ = 0, device_address_ = 0, tables_address_ = 0;
  std::byte* descriptors_ = nullptr;
  std::byte* driver_area_ = nullptr;
  std::byte* device_area_ = nullptr;
  UniqueFd kick_, call_;

  bool holds_back_ = false;
  std::uint16_t next_ = 0;  // split: available index; packed: position
  bool wrap_ = true;
  std::uint16_t next_used_ = 0;
  bool used_wrap_ = true;
  std::uint32_t free_ = 0;
  std::uint32_t outstanding_ = 0;
  std::uint16_t kicked_at_ = 0;   // split: next_ when kick_needed() was asked last
  std::uint32_t since_kick_ = 0;  // packed: descriptors since then
  std::vector<Buffer> buffers_;   // by id
  std::deque<std::uint16_t> free_ids_;
  std::deque<std::uint16_t> in_order_;  // ids in the order in which they were posted
  // Packed, held back: all of the first descriptor but its address, written last.
  bool held_ = false;
  std::uint16_t held_at_ = 0;
  std::uint64_t held_word_ = 0;
  std::deque<Used> batch_;  // IN_ORDER: buffers that one used descriptor gave back
};

// A guest with one pair of queues: posts receive buffers, sends and receives whole frames.
class MockGuest {
 public:
  struct Options {
    VringFormat format = VringFormat::kSplit;
    std::uint16_t entries = 256;
    std::uint64_t features = kVersion1 | kMergeable;
    std::uint32_t buffer_bytes = 2048;
  };
  // How a frame lies in the transmit buffer: segments of these sizes, header first, the last as long as
  // needed.
  struct Layout {
    std::vector<std::uint32_t> segments = {};
    MockDriver::Shape shape = MockDriver::Shape::kChain;
  };

  explicit MockGuest(const Options& options);
  MockGuest(MockMemory& memory, const Options& options);

  // Rings 2 * pair and 2 * pair + 1 of the device run, and its memory is this guest's.
  void attach(GuestDevice& device, std::uint32_t pair = 0);
  void start_rings(GuestDevice& device, std::uint32_t pair = 0);

  std::uint32_t fill_receive();    // posts every free receive buffer
  std::optional<Bytes> receive();  // the next frame; posts its buffers again
  bool send(std::span<const std::byte> frame) { return send(frame, Layout()); }
  bool send(std::span<const std::byte> frame, const Layout& layout);
  std::uint32_t reap_sent();

  MockMemory& memory() { return memory_; }
  MockDriver& rx() { return rx_; }
  MockDriver& tx() { return tx_; }
  std::uint64_t tx_slot(std::uint32_t slot) const { return tx_address_ + std::uint64_t{slot} * kTxSlotBytes; }
  static constexpr std::uint32_t kTxSlotBytes = 66 * 1024;
  static constexpr std::uint32_t kTxSlots = 128;

 private:
  MockGuest(std::unique_ptr<MockMemory> own, MockMemory* others, const Options& options);

  std::unique_ptr<MockMemory> own_memory_;
  MockMemory& memory_;
  const Options options_;
  MockDriver rx_, tx_;
  std::uint64_t rx_address_, tx_address_;
  std::vector<std::uint32_t> rx_free_, tx_free_;
};

}  // namespace sluice::test
