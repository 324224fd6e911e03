// A guest, and the front-end that speaks for it, that need not behave: split rings whose descriptors are
// written once, and whose indices are moved at will.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <string>

#include "base/fd.h"
#include "test/support/frame.h"
#include "test/vhost/mock_front_end.h"

namespace sluice::bench {

inline constexpr std::uint16_t kAttackerEntries = 256;

struct GuestSegment {
  std::uint64_t address = 0;  // the guest's
  std::uint32_t bytes = 0;
};

class AttackerRing {
 public:
  AttackerRing(std::uint32_t index, test::GuestRam& ram);

  // Buffer i is one descriptor.
  void set(std::uint16_t i, GuestSegment buffer, bool device_writes);
  void set_table(std::uint16_t i, GuestSegment table, bool device_writes);  // an indirect one
  // Makes available again whatever came back; returns how many buffers that were.
  std::uint32_t refill();
  void kick();

  std::uint32_t index() const { return index_; }
  const test::RingAreas& areas() const { return areas_; }
  int kick_fd() const { return kick_.get(); }

 private:
  void write(std::uint16_t i, GuestSegment what, std::uint16_t flags);

  std::uint32_t index_;
  test::RingAreas areas_;
  UniqueFd kick_;
  std::uint16_t seen_ = 0;  // the used index, as it was last
};

class AttackerGuest {
 public:
  static constexpr std::uint32_t kTablePieces = 256;  // the most that the daemon takes

  // Connects, negotiates, gives its memory. Throws when there is nobody to connect to.
  AttackerGuest(const std::string& socket, std::uint64_t memory_bytes);

  AttackerRing& add_ring(std::uint32_t index);
  void call_with(int fd) { call_ = fd; }  // of all rings
  // Sets the rings up, enables them, waits until that was read. Throws when the session ends instead.
  void start();

  // In its memory, never given back.
  std::uint64_t reserve(std::uint64_t bytes);  // an offset
  GuestSegment room(std::uint32_t bytes);
  GuestSegment good_frame(const test::Mac& to);
  // Of kTablePieces descriptors, together a good frame; or the last one names memory that there is not.
  GuestSegment table(const test::Mac& to, bool good);
  static GuestSegment nowhere() { return {std::uint64_t{1} << 46, 200}; }

  std::uint64_t address_of(std::uint64_t offset) const { return ram_.guest_address() + offset; }
  int memory_fd() const { return ram_.fd(); }
  test::FrontEnd& front() { return front_; }
  bool send_memory();
  bool connected();

 private:
  test::GuestRam ram_;
  test::FrontEnd front_;
  std::list<AttackerRing> rings_;
  int call_ = -1;
};

}  // namespace sluice::bench
