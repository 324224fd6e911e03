#include "test/vhost/mock_driver.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/untrusted.h"

namespace sluice::test {

namespace {

constexpr std::uint64_t kPage = 4096;

}  // namespace

MockMemory::MockMemory(std::vector<Range> ranges) {
  std::vector<GuestRegion> regions;
  for (const Range& range : ranges) {
    const std::uint64_t bytes = range.bytes + 2 * kPage;
    void* at = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    SLUICE_CHECK(at != MAP_FAILED, "errno {}", errno);
    mappings_.push_back(Mapping::adopt(at, bytes));
    std::byte* data = mappings_.back().data() + kPage;
    SLUICE_CHECK(::mprotect(data, range.bytes, PROT_READ | PROT_WRITE) == 0, "errno {}", errno);
    regions.push_back(GuestRegion{.guest_address = range.guest_address,
                                  .user_address = range.guest_address,
                                  .bytes = range.bytes,
                                  .data = data,
                                  .mapping = nullptr});
  }
  next_ = ranges.front().guest_address;
  table_ = std::make_shared<GuestMemory>(std::move(regions));
}

std::uint64_t MockMemory::allocate(std::uint64_t bytes, std::uint64_t alignment) {
  next_ = (next_ + alignment - 1) / alignment * alignment;
  SLUICE_CHECK(table_->at(next_, bytes) != nullptr, "the mock guest's memory is too small");
  return std::exchange(next_, next_ + bytes);
}

std::byte* MockMemory::at(std::uint64_t guest_address, std::uint64_t bytes) const {
  std::byte* found = table_->at(guest_address, bytes);
  SLUICE_CHECK(found != nullptr, "{:#x} is not the mock guest's", guest_address);
  return found;
}

MockDriver::MockDriver(MockMemory& memory, const Options& options)
    : memory_(memory),
      options_(options),
      kick_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      call_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      free_(options.entries),
      buffers_(options.entries) {
  const std::uint64_t entries = options.entries;
  const bool split = options.format == VringFormat::kSplit;
  descriptors_address_ = memory.allocate(entries * 16, 4096);
  driver_address_ = memory.allocate(split ? 6 + 2 * entries : 4);
  device_address_ = memory.allocate(split ? 6 + 8 * entries : 4);
  tables_address_ = memory.allocate(entries * kTableEntries * 16);
  descriptors_ = memory.at(descriptors_address_);
  driver_area_ = memory.at(driver_address_);
  device_area_ = memory.at(device_address_);
  for (std::uint32_t id = 0; id < options.entries; ++id) {
    free_ids_.push_back(static_cast<std::uint16_t>(id));
  }
}

VringSetup MockDriver::setup() const {
  const std::uint16_t packed_base = 0x8000;
  const bool split = options_.format == VringFormat::kSplit;
  return {.format = options_.format,
          .entries = options_.entries,
          .features = options_.features,
          .descriptors = descriptors_,
          .driver_area = driver_area_,
          .device_area = device_area_,
          .base = split ? VringBase{} : VringBase{packed_base, packed_base},
          .kick_fd = kick_.get(),
          .call_fd = call_.get()};
}

bool MockDriver::post(std::span<const Segment> segments, std::uint64_t cookie, Shape shape) {
  const std::size_t needs = shape == Shape::kIndirect ? 1 : segments.size();
  if (needs > free_ || free_ids_.empty() || segments.empty()) {
    return false;
  }
  if (options_.format == VringFormat::kSplit) {
    post_split(segments, cookie, shape);
  } else {
    post_packed(segments, cookie, shape);
  }
  ++outstanding_;
  if (!holds_back_) {
    publish();
  }
  return true;
}

std::uint64_t MockDriver::write_table(std::uint16_t id, std::span<const Segment> segments) {
  SLUICE_CHECK(segments.size() <= kTableEntries);
  const std::uint64_t address = tables_address_ + std::uint64_t{id} * kTableEntries * 16;
  std::byte* table = memory_.at(address, kTableEntries * 16);
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const bool last = i + 1 == segments.size();
    if (options_.format == VringFormat::kSplit) {
      const vring_desc descriptor{
          .addr = segments[i].address,
          .len = segments[i].bytes,
          .flags = static_cast<std::uint16_t>(write_flag() | (last ? 0 : VRING_DESC_F_NEXT)),
          .next = static_cast<std::uint16_t>(last ? 0 : i + 1)};
      std::memcpy(table + 16 * i, &descriptor, sizeof descriptor);
    } else {
      const vring_packed_desc descriptor{
          .addr = segments[i].address, .len = segments[i].bytes, .id = 0, .flags = write_flag()};
      std::memcpy(table + 16 * i, &descriptor, sizeof descriptor);
    }
  }
  return address;
}

// Descriptors are taken one by one from the free ids, so that a chain runs through the table in any order;
// with IN_ORDER they are taken in ring order, as the spec demands.
void MockDriver::post_split(std::span<const Segment> segments, std::uint64_t cookie, Shape shape) {
  std::vector<std::uint16_t> ids;
  const std::size_t count = shape == Shape::kIndirect ? 1 : segments.size();
  for (std::size_t i = 0; i < count; ++i) {
    const auto at = has(VIRTIO_F_IN_ORDER) ? free_ids_.begin() : free_ids_.end() - 1;
    ids.push_back(*at);
    free_ids_.erase(at);
  }
  for (std::size_t i = 0; i < count; ++i) {
    vring_desc& descriptor = split_descriptors()[ids[i]];
    const bool last = i + 1 == count;
    const std::uint64_t address =
        shape == Shape::kIndirect ? write_table(ids[0], segments) : segments[i].address;
    const auto bytes =
        shape == Shape::kIndirect ? static_cast<std::uint32_t>(16 * segments.size()) : segments[i].bytes;
    const auto flags = static_cast<std::uint16_t>(
        shape == Shape::kIndirect ? VRING_DESC_F_INDIRECT : write_flag() | (last ? 0 : VRING_DESC_F_NEXT));
    write_once(descriptor.addr, static_cast<decltype(descriptor.addr)>(address));
    write_once(descriptor.len, bytes);
    write_once(descriptor.flags, flags);
    write_once(descriptor.next, last ? std::uint16_t{0} : ids[i + 1]);
  }
  buffers_[ids[0]] = Buffer{cookie, static_cast<std::uint16_t>(count), ids[0]};
  free_ -= static_cast<std::uint32_t>(count);
  write_once(avail()->ring[next_ % options_.entries], ids[0]);
  ++next_;
}

void MockDriver::post_packed(std::span<const Segment> segments, std::uint64_t cookie, Shape shape) {
  const std::uint16_t id = free_ids_.back();
  free_ids_.pop_back();
  const std::size_t count = shape == Shape::kIndirect ? 1 : segments.size();
  buffers_[id] = Buffer{cookie, static_cast<std::uint16_t>(count), 0};
  const std::uint16_t first = next_;
  std::uint64_t first_word = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const bool last = i + 1 == count;
    const std::uint64_t address = shape == Shape::kIndirect ? write_table(id, segments) : segments[i].address;
    const auto bytes =
        shape == Shape::kIndirect ? static_cast<std::uint32_t>(16 * segments.size()) : segments[i].bytes;
    const auto flags = static_cast<std::uint16_t>(
        available_flags() |
        (shape == Shape::kIndirect ? VRING_DESC_F_INDIRECT : write_flag() | (last ? 0 : VRING_DESC_F_NEXT)));
    write_once(packed_words(next_)[0], address);
    const std::uint64_t word = bytes | std::uint64_t{id} << 32 | std::uint64_t{flags} << 48;
    if (i == 0) {
      first_word = word;
    } else {
      write_once(packed_words(next_)[1], word);
    }
    if (++next_ == options_.entries) {
      next_ = 0;
      wrap_ = !wrap_;
    }
  }
  if (held_) {
    write_once(packed_words(first)[1], first_word);
  } else {
    held_ = true;
    held_at_ = first;
    held_word_ = first_word;
  }
  free_ -= static_cast<std::uint32_t>(count);
  since_kick_ += static_cast<std::uint32_t>(count);
  in_order_.push_back(id);
}

void MockDriver::publish() {
  if (options_.format == VringFormat::kSplit) {
    write_once(avail()->idx, next_, std::memory_order_release);
  } else if (held_) {
    held_ = false;
    write_once(packed_words(held_at_)[1], held_word_, std::memory_order_release);
  }
}

std::uint16_t MockDriver::available_flags() const {
  return wrap_ ? std::uint16_t{1u << VRING_PACKED_DESC_F_AVAIL}
               : std::uint16_t{1u << VRING_PACKED_DESC_F_USED};
}

std::optional<MockDriver::Used> MockDriver::reap() {
  return options_.format == VringFormat::kSplit ? reap_split() : reap_packed();
}

std::optional<MockDriver::Used> MockDriver::reap_split() {
  if (read_once(used()->idx, std::memory_order_acquire) == next_used_) {
    return std::nullopt;
  }
  const vring_used_elem element = used()->ring[next_used_ % options_.entries];
  ++next_used_;
  SLUICE_CHECK(element.id < options_.entries, "the device gave back {}", element.id);
  Buffer& buffer = buffers_[element.id];
  SLUICE_CHECK(buffer.descriptors > 0, "the device gave back {} twice", element.id);
  std::uint16_t at = static_cast<std::uint16_t>(element.id);
  for (std::uint16_t i = 0; i < buffer.descriptors; ++i) {
    free_ids_.push_back(at);
    at = split_descriptors()[at].next;
  }
  free_ += std::exchange(buffer.descriptors, std::uint16_t{0});
  --outstanding_;
  return Used{buffer.cookie, element.len, static_cast<std::uint16_t>(element.id)};
}

std::optional<MockDriver::Used> MockDriver::reap_packed() {
  if (batch_.empty()) {
    const std::uint64_t word = read_once(packed_words(next_used_)[1], std::memory_order_acquire);
    const auto flags = static_cast<std::uint16_t>(word >> 48);
    const bool avail = (flags >> VRING_PACKED_DESC_F_AVAIL & 1) != 0;
    const bool used = (flags >> VRING_PACKED_DESC_F_USED & 1) != 0;
    if (avail != used || used != used_wrap_) {
      return std::nullopt;
    }
    const auto id = static_cast<std::uint16_t>(word >> 32);
    const auto bytes = static_cast<std::uint32_t>(word);
    SLUICE_CHECK(id < options_.entries, "the device gave back {}", id);
    // With IN_ORDER one used descriptor may stand for all up to its id.
    for (bool last = false; !last;) {
      SLUICE_CHECK(!in_order_.empty(), "the device gave back {}, which it does not have", id);
      const std::uint16_t first = in_order_.front();
      in_order_.pop_front();
      last = first == id;
      SLUICE_CHECK(last || has(VIRTIO_F_IN_ORDER), "the device gave back {} before {}", id, first);
      Buffer& buffer = buffers_[first];
      batch_.push_back(Used{buffer.cookie, bytes, first});
      const std::uint32_t position = next_used_ + buffer.descriptors;
      if (position >= options_.entries) {
        used_wrap_ = !used_wrap_;
      }
      next_used_ = static_cast<std::uint16_t>(position % options_.entries);
      free_ += std::exchange(buffer.descriptors, std::uint16_t{0});
      free_ids_.push_back(first);
      --outstanding_;
    }
  }
  const Used used = batch_.front();
  batch_.pop_front();
  return used;
}

bool MockDriver::kick_needed() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (options_.format == VringFormat::kSplit) {
    const std::uint16_t before = std::exchange(kicked_at_, next_);
    if (!has(VIRTIO_RING_F_EVENT_IDX)) {
      return (read_once(used()->flags) & VRING_USED_F_NO_NOTIFY) == 0;
    }
    const auto* event = reinterpret_cast<const std::uint16_t*>(&used()->ring[options_.entries]);
    return static_cast<std::uint16_t>(next_ - read_once(*event) - 1) <
           static_cast<std::uint16_t>(next_ - before);
  }
  const std::uint32_t moved = std::exchange(since_kick_, 0u);
  const std::uint32_t word = read_once(*reinterpret_cast<const std::uint32_t*>(device_event()));
  const std::uint32_t flags = word >> 16;
  if (flags != VRING_PACKED_EVENT_FLAG_DESC) {
    return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
  }
  const auto at = static_cast<std::int32_t>(word & 0x7fff);
  const std::int32_t waits = ((word >> 15 & 1) != 0) == wrap_ ? at : at - options_.entries;
  return waits < next_ && waits >= next_ - static_cast<std::int32_t>(moved);
}

void MockDriver::kick() {
  const std::uint64_t one = 1;
  SLUICE_CHECK(::write(kick_.get(), &one, sizeof one) == sizeof one, "errno {}", errno);
}

void MockDriver::ask_for_calls(bool on) {
  if (options_.format == VringFormat::kSplit) {
    write_once(avail()->flags, on ? std::uint16_t{0} : std::uint16_t{VRING_AVAIL_F_NO_INTERRUPT});
    if (has(VIRTIO_RING_F_EVENT_IDX)) {
      write_once(avail()->ring[options_.entries],
                 static_cast<std::uint16_t>(on ? next_used_ : next_used_ - 1));
    }
  } else if (on && has(VIRTIO_RING_F_EVENT_IDX)) {
    write_once(driver_event()->off_wrap, static_cast<std::uint16_t>(next_used_ | (used_wrap_ ? 0x8000 : 0)));
    write_once(driver_event()->flags, std::uint16_t{VRING_PACKED_EVENT_FLAG_DESC});
  } else {
    write_once(driver_event()->flags, on ? std::uint16_t{VRING_PACKED_EVENT_FLAG_ENABLE}
                                         : std::uint16_t{VRING_PACKED_EVENT_FLAG_DISABLE});
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

bool MockDriver::called() const {
  std::uint64_t calls = 0;
  return ::read(call_.get(), &calls, sizeof calls) == sizeof calls;
}

namespace {

DriverOptions ring_options(const MockGuest::Options& options, Direction direction) {
  return {.format = options.format,
          .entries = options.entries,
          .features = options.features,
          .direction = direction};
}

}  // namespace

MockGuest::MockGuest(const Options& options)
    : MockGuest(std::make_unique<MockMemory>(
                    std::vector<MockMemory::Range>{{MockMemory::kBase, std::uint64_t{512} << 20}}),
                nullptr, options) {}

MockGuest::MockGuest(MockMemory& memory, const Options& options) : MockGuest(nullptr, &memory, options) {}

MockGuest::MockGuest(std::unique_ptr<MockMemory> own, MockMemory* others, const Options& options)
    : own_memory_(std::move(own)),
      memory_(own_memory_ != nullptr ? *own_memory_ : *others),
      options_(options),
      rx_(memory_, ring_options(options, Direction::kToGuest)),
      tx_(memory_, ring_options(options, Direction::kFromGuest)),
      rx_address_(memory_.allocate(std::uint64_t{options.entries} * options.buffer_bytes, 4096)),
      tx_address_(memory_.allocate(std::uint64_t{kTxSlots} * kTxSlotBytes, 4096)) {
  for (std::uint32_t i = 0; i < options.entries; ++i) {
    rx_free_.push_back(options.entries - 1 - i);
  }
  for (std::uint32_t i = 0; i < kTxSlots; ++i) {
    tx_free_.push_back(kTxSlots - 1 - i);
  }
}

void MockGuest::attach(GuestDevice& device, std::uint32_t pair) {
  device.set_memory(memory_.table());
  start_rings(device, pair);
}

void MockGuest::start_rings(GuestDevice& device, std::uint32_t pair) {
  device.start_ring(2 * pair, rx_.setup());
  device.start_ring(2 * pair + 1, tx_.setup());
  device.enable_ring(2 * pair, true);
  device.enable_ring(2 * pair + 1, true);
}

std::uint32_t MockGuest::fill_receive() {
  std::uint32_t posted = 0;
  while (!rx_free_.empty()) {
    const Segment segment{rx_address_ + std::uint64_t{rx_free_.back()} * options_.buffer_bytes,
                          options_.buffer_bytes};
    if (!rx_.post(std::span(&segment, 1), rx_free_.back())) {
      break;
    }
    rx_free_.pop_back();
    ++posted;
  }
  return posted;
}

std::optional<Bytes> MockGuest::receive() {
  const std::uint32_t header_bytes = net_header_bytes(options_.features);
  Bytes frame;
  for (std::uint32_t left = 1, first = 1; left > 0; --left, first = 0) {
    const auto used = rx_.reap();
    if (!used) {
      SLUICE_CHECK(first == 1, "a frame without its last buffers");
      return std::nullopt;
    }
    const std::byte* data =
        memory_.at(rx_address_ + used->cookie * options_.buffer_bytes, options_.buffer_bytes);
    rx_free_.push_back(static_cast<std::uint32_t>(used->cookie));
    SLUICE_CHECK(used->bytes <= options_.buffer_bytes, "{} bytes in a buffer of {}", used->bytes,
                 options_.buffer_bytes);
    std::uint32_t skip = 0;
    if (first == 1 && used->bytes >= header_bytes) {
      skip = header_bytes;
      if (header_bytes == kNetHeaderBytes) {
        std::uint16_t buffers = 0;
        std::memcpy(&buffers, data + 10, sizeof buffers);
        SLUICE_CHECK(buffers >= 1, "num_buffers is 0");
        left = buffers;
      }
    }
    frame.insert(frame.end(), data + skip, data + used->bytes);
  }
  fill_receive();
  return frame;
}

bool MockGuest::send(std::span<const std::byte> frame, const Layout& layout) {
  if (tx_free_.empty()) {
    reap_sent();
    if (tx_free_.empty()) {
      return false;
    }
  }
  const std::uint32_t slot = tx_free_.back();
  const std::uint64_t address = tx_slot(slot);
  const std::uint32_t header_bytes = net_header_bytes(options_.features);
  const auto total = static_cast<std::uint32_t>(header_bytes + frame.size());
  SLUICE_CHECK(total <= kTxSlotBytes - 1024);
  // Segments lie with gaps between them, so that nothing can be right by luck.
  Bytes whole(total);
  std::ranges::copy(frame, whole.begin() + header_bytes);
  std::vector<Segment> segments;
  std::uint32_t done = 0, gap = 0;
  for (std::size_t i = 0; done < total; ++i) {
    const std::uint32_t bytes =
        i < layout.segments.size() ? std::min(layout.segments[i], total - done) : total - done;
    segments.push_back(Segment{address + done + gap, bytes});
    std::memcpy(memory_.at(segments.back().address, bytes), whole.data() + done, bytes);
    done += bytes;
    gap += 3;
  }
  if (!tx_.post(segments, slot, layout.shape)) {
    return false;
  }
  tx_free_.pop_back();
  return true;
}

std::uint32_t MockGuest::reap_sent() {
  std::uint32_t count = 0;
  while (const auto used = tx_.reap()) {
    tx_free_.push_back(static_cast<std::uint32_t>(used->cookie));
    ++count;
  }
  return count;
}

}  // namespace sluice::test
