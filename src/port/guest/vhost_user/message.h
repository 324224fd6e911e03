// Syntax of vhost-user (abi/vhost_user.h): is this a message? Pure; what a message means in the present state
// is the session's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "abi/vhost_user.h"
#include "base/peer_fd.h"

namespace sluice {

// The longest payload that a request of the table may have: a full memory table.
inline constexpr std::uint32_t kMaxVhostPayload = sizeof(vhost_user_mem_table);
inline constexpr std::size_t kMaxVhostFds = VHOST_USER_MAX_TABLE_REGIONS;

// What is wrong with what a front-end said. Each is a counter, fault_message_* or fault_memory_*;
// docs/guest.md has the table
// of what each costs.
enum class VhostFault : std::uint8_t {
  kNone,
  kHeader,       // version, flags or length: where the next message begins is unknown
  kSize,         // the payload is not of the request's size
  kDescriptors,  // too few, too many, or where none belong
  kUnknown,      // no request of ours
  kNotOffered,   // of a feature that was not offered
  kFeatures,     // bits that were not offered, that contradict each other, or changed while rings run
  kMemory,       // a region that cannot be
  kBudget,       // more memory than the port, or all guests together, may have
  kUnsealed,     // memory that can shrink, where the port takes none
  kPageSize,     // memory of pages that take too long to clear, and that nobody clears beforehand
  kPopulate,     // memory that cannot be populated, where it must be
  kIndex,        // of a ring that there is not
  kRing,         // a size, place or position that no ring can have
  kRunning,      // a change of a ring that runs
  kStatus,       // a step that virtio's device status does not have
  kValue,        // an MTU or the like out of its range
  kUnread,       // the front-end does not read our answers
  kStalled,      // the rest of a message did not come in time
  kDoor,         // its door sent what no door of ours sends
  kCount,
};
std::string_view counter_name(VhostFault fault);  // "fault_message_size"

// One message, private to us: whole, with the descriptors that came with it.
struct VhostMessage {
  vhost_user_header header{};
  std::array<std::byte, kMaxVhostPayload> payload{};
  std::vector<PeerFd> fds;

  bool needs_reply() const { return (header.flags & VHOST_USER_NEED_REPLY) != 0; }
  std::span<const std::byte> body() const { return std::span(payload).first(header.bytes); }
  // The payload as what the request says it is. The size has been judged.
  template <typename T>
  T as() const {
    static_assert(sizeof(T) <= kMaxVhostPayload);
    T value;
    std::memcpy(&value, payload.data(), sizeof(T));
    return value;
  }
};

// A row of the table of requests.
struct VhostRow {
  std::uint32_t request;
  std::string_view name;  // "SET_MEM_TABLE"
  enum class Payload : std::uint8_t {
    kNone,
    kU64,
    kVringState,
    kVringAddr,
    kVringFd,
    kMemTable,
    kMemReg,
    kAny
  } payload;
  enum class Fds : std::uint8_t { kNone, kOne, kAtMostOne, kPerRing, kPerRegion, kAny } fds;
  enum class Reply : std::uint8_t { kWhenAsked, kOwn } reply;
  enum class Offer : std::uint8_t { kServed, kNotOffered } offer;
};

// Null: no request of the specification that we know.
const VhostRow* find_row(std::uint32_t request);
std::span<const VhostRow> vhost_rows();
std::string_view request_name(std::uint32_t request);  // "unknown" for those

// Before the payload is read.
VhostFault judge_header(const vhost_user_header& header);
// The whole.
VhostFault judge_message(const VhostMessage& message);

}  // namespace sluice
