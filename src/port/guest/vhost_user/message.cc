#include "port/guest/vhost_user/message.h"

#include <algorithm>

namespace sluice {

namespace {

using Payload = VhostRow::Payload;
using Fds = VhostRow::Fds;
using enum VhostRow::Reply;
using enum VhostRow::Offer;

constexpr std::array kRows{
    VhostRow{VHOST_USER_GET_FEATURES, "GET_FEATURES", Payload::kNone, Fds::kNone, kOwn, kServed},
    VhostRow{VHOST_USER_SET_FEATURES, "SET_FEATURES", Payload::kU64, Fds::kNone, kWhenAsked, kServed},
    VhostRow{VHOST_USER_SET_OWNER, "SET_OWNER", Payload::kNone, Fds::kNone, kWhenAsked, kServed},
    VhostRow{VHOST_USER_RESET_OWNER, "RESET_OWNER", Payload::kNone, Fds::kNone, kWhenAsked, kServed},
    VhostRow{VHOST_USER_SET_MEM_TABLE, "SET_MEM_TABLE", Payload::kMemTable, Fds::kPerRegion, kWhenAsked,
             kServed},
    VhostRow{VHOST_USER_SET_LOG_BASE, "SET_LOG_BASE", Payload::kAny, Fds::kAny, kOwn, kNotOffered},
    VhostRow{VHOST_USER_SET_LOG_FD, "SET_LOG_FD", Payload::kAny, Fds::kAny, kWhenAsked, kNotOffered},
    VhostRow{VHOST_USER_SET_VRING_NUM, "SET_VRING_NUM", Payload::kVringState, Fds::kNone, kWhenAsked,
             kServed},
    VhostRow{VHOST_USER_SET_VRING_ADDR, "SET_VRING_ADDR", Payload::kVringAddr, Fds::kNone, kWhenAsked,
             kServed},
    VhostRow{VHOST_USER_SET_VRING_BASE, "SET_VRING_BASE", Payload::kVringState, Fds::kNone, kWhenAsked,
             kServed},
    VhostRow{VHOST_USER_GET_VRING_BASE, "GET_VRING_BASE", Payload::kVringState, Fds::kNone, kOwn, kServed},
    VhostRow{VHOST_USER_SET_VRING_KICK, "SET_VRING_KICK", Payload::kVringFd, Fds::kPerRing, kWhenAsked,
             kServed},
    VhostRow{VHOST_USER_SET_VRING_CALL, "SET_VRING_CALL", Payload::kVringFd, Fds::kPerRing, kWhenAsked,
             kServed},
    VhostRow{VHOST_USER_SET_VRING_ERR, "SET_VRING_ERR", Payload::kVringFd, Fds::kPerRing, kWhenAsked,
             kServed},
    VhostRow{VHOST_USER_GET_PROTOCOL_FEATURES, "GET_PROTOCOL_FEATURES", Payload::kNone, Fds::kNone, kOwn,
             kServed},
    VhostRow{VHOST_USER_SET_PROTOCOL_FEATURES, "SET_PROTOCOL_FEATURES", Payload::kU64, Fds::kNone, kWhenAsked,
             kServed},
    VhostRow{VHOST_USER_GET_QUEUE_NUM, "GET_QUEUE_NUM", Payload::kNone, Fds::kNone, kOwn, kServed},
    VhostRow{VHOST_USER_SET_VRING_ENABLE, "SET_VRING_ENABLE", Payload::kVringState, Fds::kNone, kWhenAsked,
             kServed},
    VhostRow{VHOST_USER_SEND_RARP, "SEND_RARP", Payload::kU64, Fds::kNone, kWhenAsked, kServed},
    VhostRow{VHOST_USER_NET_SET_MTU, "NET_SET_MTU", Payload::kU64, Fds::kNone, kWhenAsked, kServed},
    VhostRow{VHOST_USER_SET_BACKEND_REQ_FD, "SET_BACKEND_REQ_FD", Payload::kAny, Fds::kAny, kWhenAsked,
             kNotOffered},
    VhostRow{VHOST_USER_IOTLB_MSG, "IOTLB_MSG", Payload::kAny, Fds::kAny, kWhenAsked, kNotOffered},
    VhostRow{VHOST_USER_SET_VRING_ENDIAN, "SET_VRING_ENDIAN", Payload::kAny, Fds::kAny, kWhenAsked,
             kNotOffered},
    VhostRow{VHOST_USER_GET_CONFIG, "GET_CONFIG", Payload::kAny, Fds::kAny, kOwn, kNotOffered},
    VhostRow{VHOST_USER_SET_CONFIG, "SET_CONFIG", Payload::kAny, Fds::kAny, kWhenAsked, kNotOffered},
    VhostRow{VHOST_USER_POSTCOPY_ADVISE, "POSTCOPY_ADVISE", Payload::kAny, Fds::kAny, kOwn, kNotOffered},
    VhostRow{VHOST_USER_POSTCOPY_LISTEN, "POSTCOPY_LISTEN", Payload::kAny, Fds::kAny, kOwn, kNotOffered},
    VhostRow{VHOST_USER_POSTCOPY_END, "POSTCOPY_END", Payload::kAny, Fds::kAny, kOwn, kNotOffered},
    VhostRow{VHOST_USER_GET_INFLIGHT_FD, "GET_INFLIGHT_FD", Payload::kAny, Fds::kAny, kOwn, kNotOffered},
    VhostRow{VHOST_USER_SET_INFLIGHT_FD, "SET_INFLIGHT_FD", Payload::kAny, Fds::kAny, kWhenAsked,
             kNotOffered},
    VhostRow{VHOST_USER_RESET_DEVICE, "RESET_DEVICE", Payload::kNone, Fds::kNone, kWhenAsked, kServed},
    VhostRow{VHOST_USER_VRING_KICK, "VRING_KICK", Payload::kAny, Fds::kAny, kWhenAsked, kNotOffered},
    VhostRow{VHOST_USER_GET_MAX_MEM_SLOTS, "GET_MAX_MEM_SLOTS", Payload::kNone, Fds::kNone, kOwn, kServed},
    VhostRow{VHOST_USER_ADD_MEM_REG, "ADD_MEM_REG", Payload::kMemReg, Fds::kOne, kWhenAsked, kServed},
    // Older front-ends send the region's descriptor here too; the specification wants it taken and closed.
    VhostRow{VHOST_USER_REM_MEM_REG, "REM_MEM_REG", Payload::kMemReg, Fds::kAtMostOne, kWhenAsked, kServed},
    VhostRow{VHOST_USER_SET_STATUS, "SET_STATUS", Payload::kU64, Fds::kNone, kWhenAsked, kServed},
    VhostRow{VHOST_USER_GET_STATUS, "GET_STATUS", Payload::kNone, Fds::kNone, kOwn, kServed},
};

bool size_is_right(const VhostMessage& message, Payload payload) {
  const std::uint32_t bytes = message.header.bytes;
  switch (payload) {
    case Payload::kNone:
      return bytes == 0;
    case Payload::kU64:
    case Payload::kVringFd:
      return bytes == sizeof(std::uint64_t);
    case Payload::kVringState:
      return bytes == sizeof(vhost_user_vring_state);
    case Payload::kVringAddr:
      return bytes == sizeof(vhost_user_vring_addr);
    case Payload::kMemReg:
      return bytes == sizeof(vhost_user_mem_reg);
    case Payload::kMemTable: {
      constexpr std::uint32_t kHead = offsetof(vhost_user_mem_table, regions);
      if (bytes < kHead) {
        return false;
      }
      std::uint32_t count = message.as<std::uint32_t>();
      return count >= 1 && count <= VHOST_USER_MAX_TABLE_REGIONS &&
             bytes == kHead + count * sizeof(vhost_user_region);
    }
    case Payload::kAny:
      return true;
  }
  return false;
}

bool descriptors_are_right(const VhostMessage& message, Fds fds) {
  const std::size_t count = message.fds.size();
  switch (fds) {
    case Fds::kNone:
      return count == 0;
    case Fds::kOne:
      return count == 1;
    case Fds::kAtMostOne:
      return count <= 1;
    case Fds::kPerRing: {
      std::uint64_t word = message.as<std::uint64_t>();
      constexpr std::uint64_t kKnown = VHOST_USER_VRING_INDEX_MASK | VHOST_USER_VRING_NO_FD;
      return (word & ~kKnown) == 0 && count == ((word & VHOST_USER_VRING_NO_FD) != 0 ? 0u : 1u);
    }
    case Fds::kPerRegion:
      return count == message.as<std::uint32_t>();
    case Fds::kAny:
      return true;
  }
  return false;
}

}  // namespace

std::span<const VhostRow> vhost_rows() {
  return kRows;
}

const VhostRow* find_row(std::uint32_t request) {
  auto found =
      std::find_if(kRows.begin(), kRows.end(), [request](const VhostRow& r) { return r.request == request; });
  return found == kRows.end() ? nullptr : &*found;
}

std::string_view request_name(std::uint32_t request) {
  const VhostRow* row = find_row(request);
  return row == nullptr ? "unknown" : row->name;
}

std::string_view counter_name(VhostFault fault) {
  switch (fault) {
    case VhostFault::kHeader:
      return "fault_message_header";
    case VhostFault::kSize:
      return "fault_message_size";
    case VhostFault::kDescriptors:
      return "fault_message_descriptors";
    case VhostFault::kUnknown:
      return "fault_message_unknown";
    case VhostFault::kNotOffered:
      return "fault_message_not_offered";
    case VhostFault::kFeatures:
      return "fault_message_features";
    case VhostFault::kMemory:
      return "fault_message_memory";
    case VhostFault::kBudget:
      return "fault_memory_budget";
    case VhostFault::kUnsealed:
      return "fault_memory_unsealed";
    case VhostFault::kPageSize:
      return "fault_memory_page_size";
    case VhostFault::kPopulate:
      return "fault_memory_populate";
    case VhostFault::kIndex:
      return "fault_message_index";
    case VhostFault::kRing:
      return "fault_message_ring";
    case VhostFault::kRunning:
      return "fault_message_running";
    case VhostFault::kStatus:
      return "fault_message_status";
    case VhostFault::kValue:
      return "fault_message_value";
    case VhostFault::kUnread:
      return "fault_message_unread";
    case VhostFault::kStalled:
      return "fault_message_stalled";
    case VhostFault::kDoor:
      return "fault_door_descriptor";
    case VhostFault::kNone:
    case VhostFault::kCount:
      break;
  }
  return "";
}

VhostFault judge_header(const vhost_user_header& header) {
  constexpr std::uint32_t kFlags = VHOST_USER_VERSION | VHOST_USER_NEED_REPLY;
  if ((header.flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION || (header.flags & ~kFlags) != 0 ||
      header.bytes > kMaxVhostPayload) {
    return VhostFault::kHeader;
  }
  return VhostFault::kNone;
}

VhostFault judge_message(const VhostMessage& message) {
  const VhostRow* row = find_row(message.header.request);
  if (row == nullptr) {
    return VhostFault::kUnknown;
  }
  if (row->offer == kNotOffered) {
    return VhostFault::kNotOffered;
  }
  if (!size_is_right(message, row->payload)) {
    return VhostFault::kSize;
  }
  return descriptors_are_right(message, row->fds) ? VhostFault::kNone : VhostFault::kDescriptors;
}

}  // namespace sluice
