// GoodGuest: a guest that behaves, with the memory and the rings that its front-end (mock_front_end.h) gives.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "base/fd.h"
#include "base/untrusted.h"
#include "port/guest/vhost_user/features.h"
#include "test/vhost/mock_front_end.h"

namespace sluice::test {

inline constexpr std::uint64_t kGuestFeatures = kFeatureVersion1 | kFeatureProtocol;
inline constexpr std::uint64_t kGuestProtocol =
    1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK | 1ull << VHOST_USER_PROTOCOL_F_MQ |
    1ull << VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS | 1ull << VHOST_USER_PROTOCOL_F_RESET_DEVICE |
    1ull << VHOST_USER_PROTOCOL_F_MTU;

// One pair of split rings without frills, driven by the test's thread.
class GoodGuest {
 public:
  static constexpr std::uint16_t kEntries = 64;
  static constexpr std::uint32_t kBufferBytes = 2048;
  static constexpr std::uint32_t kHeaderBytes = 12;

  explicit GoodGuest(std::uint64_t guest_address = 0x100000)
      : ram(4 << 20, guest_address),
        kick{UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
             UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))},
        call{UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
             UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))} {
    for (Ring* ring : {&rx, &tx}) {
      ring->areas = RingAreas::split(ram, kEntries);
      ring->buffers = ram.allocate(std::uint64_t{kEntries} * kBufferBytes, 4096);
    }
    for (std::uint16_t i = 0; i < kEntries; ++i) {
      post(rx, i, kBufferBytes, 2 /* VRING_DESC_F_WRITE */);
    }
  }

  // As QEMU starts a device; `base` as it remembers it.
  void bring_up(FrontEnd& front, std::uint32_t pair = 0, std::uint64_t features = kGuestFeatures) {
    front.negotiate(features, kGuestProtocol);
    const GuestRam* rams[] = {&ram};
    front.send_table(rams);
    set_up_rings(front, pair);
  }
  void set_up_rings(FrontEnd& front, std::uint32_t pair = 0) {
    front.set_up_ring(2 * pair, kEntries, rx.areas, 0, kick[0].get(), call[0].get());
    front.set_up_ring(2 * pair + 1, kEntries, tx.areas, 0, kick[1].get(), call[1].get());
    front.enable(2 * pair, true);
    front.enable(2 * pair + 1, true);
  }

  // False: no buffer is free.
  bool send(const std::vector<std::byte>& frame) {
    if (static_cast<std::uint16_t>(tx.avail - used_index(tx)) >= kEntries) {
      return false;
    }
    const std::uint16_t slot = tx.avail % kEntries;
    std::byte* place = tx.buffers + std::size_t{slot} * kBufferBytes;
    std::memset(place, 0, kHeaderBytes);
    std::memcpy(place + kHeaderBytes, frame.data(), frame.size());
    post(tx, slot, static_cast<std::uint32_t>(kHeaderBytes + frame.size()), 0);
    return true;
  }
  std::optional<std::vector<std::byte>> receive() {
    if (rx.seen == used_index(rx)) {
      return std::nullopt;
    }
    const std::byte* entry = rx.areas.device_area + 4 + 8 * (rx.seen % kEntries);
    std::uint32_t id = 0, bytes = 0;
    std::memcpy(&id, entry, 4);
    std::memcpy(&bytes, entry + 4, 4);
    ++rx.seen;
    const std::byte* place = rx.buffers + std::size_t{id} * kBufferBytes;
    std::vector<std::byte> frame(place + kHeaderBytes, place + bytes);
    post(rx, static_cast<std::uint16_t>(id), kBufferBytes, 2);
    return frame;
  }

  // Tells who serves its transmit ring that there is more.
  void kick_transmit() {
    const std::uint64_t one = 1;
    (void)!::write(kick[1].get(), &one, sizeof one);
  }
  // Takes the call of a ring: 0 receives, 1 transmits.
  bool called(std::size_t ring) {
    std::uint64_t count = 0;
    return ::read(call[ring].get(), &count, sizeof count) == sizeof count;
  }

  struct Ring {
    RingAreas areas;
    std::byte* buffers = nullptr;
    std::uint16_t avail = 0, seen = 0;
  };
  std::uint16_t used_index(const Ring& ring) const {
    return read_once(*reinterpret_cast<std::uint16_t*>(ring.areas.device_area + 2),
                     std::memory_order_acquire);
  }

  GuestRam ram;
  Ring rx, tx;
  UniqueFd kick[2], call[2];

 private:
  void post(Ring& ring, std::uint16_t id, std::uint32_t bytes, std::uint16_t flags) {
    std::byte* descriptor = ring.areas.descriptors + 16 * std::size_t{id};
    std::uint64_t address = ram.guest_address_of(ring.buffers + std::size_t{id} * kBufferBytes);
    std::memcpy(descriptor, &address, 8);
    std::memcpy(descriptor + 8, &bytes, 4);
    std::memcpy(descriptor + 12, &flags, 2);
    std::memcpy(ring.areas.driver_area + 4 + 2 * (ring.avail % kEntries), &id, 2);
    write_once(*reinterpret_cast<std::uint16_t*>(ring.areas.driver_area + 2), ++ring.avail,
               std::memory_order_release);
  }
};

}  // namespace sluice::test
