// What fuzzers of vhost-user share: a data half that touches what a ring is said to have, descriptors of any
// kind, and messages that are nearly right.
#pragma once

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/untrusted.h"
#include "port/guest/vhost_user/features.h"
#include "port/guest/vhost_user/session.h"
#include "test/vhost/mock_front_end.h"

namespace sluice::test {

class TouchingRings final : public VringControl {
 public:
  // Now and then a worker does not come at once.
  bool quiesce(const VringSet&, Patience patience, const std::function<void()>& change) override {
    if (patience == Patience::kShort && ++asked_ % 3 == 0) {
      return false;
    }
    SLUICE_CHECK(!inside_);
    inside_ = true;
    change();
    inside_ = false;
    return true;
  }
  void set_memory(MemoryTable memory) override {
    SLUICE_CHECK(inside_ && started_.empty());
    memory_ = std::move(memory);
  }
  void start_ring(std::uint32_t index, const VringSetup& setup) override {
    SLUICE_CHECK(inside_ && !started_.contains(index));
    started_[index] = setup.base;
    const std::size_t entries = setup.entries;
    const bool split = setup.format == VringFormat::kSplit;
    const bool event_idx = (setup.features & kFeatureEventIdx) != 0;
    SLUICE_CHECK(entries > 0 && entries <= kMaxVringEntries);
    SLUICE_CHECK(split ? setup.base.avail == setup.base.used : (setup.base.avail & 0x7fff) < entries);
    touch(setup.descriptors, 16 * entries);
    touch(setup.driver_area, split ? 4 + 2 * entries + (event_idx ? 2 : 0) : 4);
    touch(setup.device_area, split ? 4 + 8 * entries + (event_idx ? 2 : 0) : 4);
  }
  VringBase stop_ring(std::uint32_t index) override {
    SLUICE_CHECK(inside_ && started_.contains(index));
    VringBase base = started_[index];
    started_.erase(index);
    return base;
  }
  void stop_all(std::uint32_t count, MemoryTable nothing) override {
    for (std::uint32_t index = 0; index < count; ++index) {
      if (started_.contains(index)) {
        stop_ring(index);
      }
    }
    set_memory(std::move(nothing));
  }
  void enable_ring(std::uint32_t index, bool) override { SLUICE_CHECK(inside_ && started_.contains(index)); }
  void set_call_fd(std::uint32_t index, int) override { SLUICE_CHECK(inside_ && started_.contains(index)); }
  void set_kick_fd(std::uint32_t index, int) override { SLUICE_CHECK(inside_ && started_.contains(index)); }

 private:
  static void touch(std::byte* area, std::size_t bytes) {
    for (std::byte* place : {area, area + bytes - 1}) {
      auto* byte = reinterpret_cast<std::uint8_t*>(place);
      write_once(*byte, read_once(*byte));
    }
  }
  std::map<std::uint32_t, VringBase> started_;
  MemoryTable memory_;
  bool inside_ = false;
  std::uint32_t asked_ = 0;
};

class Bytes {
 public:
  explicit Bytes(std::span<const std::uint8_t> data) : data_(data) {}
  bool empty() const { return data_.empty(); }
  std::uint8_t byte() {
    if (data_.empty()) {
      return 0;
    }
    std::uint8_t value = data_.front();
    data_ = data_.subspan(1);
    return value;
  }
  template <typename T>
  T value() {
    T result{};
    auto taken = data_.first(std::min(data_.size(), sizeof(T)));
    std::ranges::copy(std::as_bytes(taken), reinterpret_cast<std::byte*>(&result));
    data_ = data_.subspan(taken.size());
    return result;
  }
  std::vector<std::byte> some(std::size_t count) {
    std::vector<std::byte> result(count);
    auto taken = data_.first(std::min(data_.size(), count));
    std::ranges::copy(std::as_bytes(taken), result.begin());
    data_ = data_.subspan(taken.size());
    return result;
  }

 private:
  std::span<const std::uint8_t> data_;
};

// What a descriptor may be. Made once: the session gets duplicates.
struct Kinds {
  Kinds() : ram(1 << 16), small(4096, 0x900000) {
    int ends[2];
    SLUICE_CHECK(::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
    fds = {ram.fd(),
           small.fd(),
           ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
           ::open("/dev/null", O_RDWR | O_CLOEXEC),
           ends[0],
           ends[1],
           ::open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  }
  GuestRam ram, small;
  // Room for the largest ring that the set-up below makes, split or packed.
  RingAreas areas = RingAreas::split(ram, 64);
  std::vector<int> fds;
};

// Two rings that run, so that what comes after finds some to disturb.
inline void set_up(FrontEnd& front, const Kinds& kinds, bool packed) {
  front.send(VHOST_USER_SET_FEATURES, kFeatureVersion1 | (packed ? kFeatureRingPacked : 0));
  int fd = kinds.ram.fd();
  front.send(VHOST_USER_ADD_MEM_REG, vhost_user_mem_reg{0, kinds.ram.region()}, std::span(&fd, 1));
  for (std::uint32_t ring : {0u, 1u}) {
    front.set_up_ring(ring, packed ? 60 : 64, kinds.areas, packed ? 0x8000 : 0, kinds.fds[2], kinds.fds[2]);
  }
}

// A message whose fields are nearly right: raw bytes would hardly ever start a ring.
inline std::vector<std::byte> likely_message(Bytes& bytes, const Kinds& kinds, std::vector<int>& fds) {
  const std::uint32_t flags = VHOST_USER_VERSION | (bytes.byte() % 2 == 0 ? VHOST_USER_NEED_REPLY : 0u);
  const std::uint32_t ring = bytes.byte() % 5;
  const std::uint64_t user = reinterpret_cast<std::uintptr_t>(kinds.ram.data());
  auto message = [flags](std::uint32_t request, const auto& payload) {
    return FrontEnd::bytes_of(request, std::as_bytes(std::span(&payload, 1)), flags);
  };
  switch (bytes.byte() % 10) {
    case 0: {
      constexpr std::uint64_t kSome[] = {kFeatureVersion1, kFeatureVersion1 | kFeatureRingPacked,
                                         kFeatureVersion1 | kFeatureEventIdx | kFeatureProtocol,
                                         kFeatureRingPacked};
      return message(VHOST_USER_SET_FEATURES, kSome[bytes.byte() % 4]);
    }
    case 1:
    case 2: {
      vhost_user_region region = (bytes.byte() % 4 == 0 ? kinds.small : kinds.ram).region();
      region.file_offset = bytes.value<std::uint16_t>();
      region.bytes -= std::min<std::uint64_t>(region.bytes, bytes.value<std::uint16_t>());
      fds = {kinds.fds[bytes.byte() % 8 == 0 ? bytes.byte() % kinds.fds.size() : 0]};
      return message(bytes.byte() % 4 == 0 ? VHOST_USER_REM_MEM_REG : VHOST_USER_ADD_MEM_REG,
                     vhost_user_mem_reg{0, region});
    }
    case 3:
      return message(VHOST_USER_SET_VRING_NUM, vhost_user_vring_state{ring, bytes.value<std::uint16_t>()});
    case 4:
      return message(VHOST_USER_SET_VRING_BASE, vhost_user_vring_state{ring, bytes.value<std::uint32_t>()});
    case 5:
      return message(VHOST_USER_SET_VRING_ADDR,
                     vhost_user_vring_addr{.index = ring,
                                           .flags = bytes.byte() % 8 == 0 ? 1u : 0u,
                                           .descriptors = user + bytes.byte() * 256ull,
                                           .device_area = user + bytes.value<std::uint16_t>(),
                                           .driver_area = user + bytes.value<std::uint16_t>(),
                                           .log_address = 0});
    case 6:
      fds = {kinds.fds[bytes.byte() % kinds.fds.size()]};
      return message(bytes.byte() % 2 == 0 ? VHOST_USER_SET_VRING_KICK : VHOST_USER_SET_VRING_CALL,
                     std::uint64_t{ring});
    case 7:
      return message(VHOST_USER_SET_VRING_KICK, std::uint64_t{ring | VHOST_USER_VRING_NO_FD});
    case 8:
      return message(bytes.byte() % 2 == 0 ? VHOST_USER_SET_VRING_ENABLE : VHOST_USER_GET_VRING_BASE,
                     vhost_user_vring_state{ring, bytes.byte()});
    default:
      return message(bytes.byte() % 2 == 0 ? VHOST_USER_SET_STATUS : VHOST_USER_SET_PROTOCOL_FEATURES,
                     std::uint64_t{bytes.value<std::uint16_t>()});
  }
}

}  // namespace sluice::test
