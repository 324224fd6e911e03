#include "port/guest/vhost_user/features.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "abi/vhost_user.h"

namespace sluice {

namespace {

using enum FeatureName::Offer;

// virtio 1.2: 5.1.3 (network device), 6 (reserved bits).
constexpr std::array kVirtio{
    // Offloads: with them a header of a frame that a guest sends says something (net_header.h).
    FeatureName{0, "CSUM", kNever},
    FeatureName{1, "GUEST_CSUM", kNever},
    FeatureName{7, "GUEST_TSO4", kNever},
    FeatureName{8, "GUEST_TSO6", kNever},
    FeatureName{9, "GUEST_ECN", kNever},
    FeatureName{10, "GUEST_UFO", kNever},
    FeatureName{11, "HOST_TSO4", kNever},
    FeatureName{12, "HOST_TSO6", kNever},
    FeatureName{13, "HOST_ECN", kNever},
    FeatureName{14, "HOST_UFO", kNever},
    // Of the device's configuration and control queue, which the front-end answers by itself: a bit that the
    // back-end does not offer is hidden from the guest.
    FeatureName{3, "MTU", kAlways},
    FeatureName{16, "STATUS", kAlways},
    FeatureName{17, "CTRL_VQ", kAlways},
    FeatureName{18, "CTRL_RX", kAlways},
    FeatureName{21, "GUEST_ANNOUNCE", kAlways},
    FeatureName{22, "MQ", kWithSeveralPairs},
    // Of the rings.
    FeatureName{15, "MRG_RXBUF", kAlways},
    FeatureName{27, "ANY_LAYOUT", kAlways},
    FeatureName{28, "INDIRECT_DESC", kAlways},
    FeatureName{29, "EVENT_IDX", kAlways},
    FeatureName{32, "VERSION_1", kAlways},
    FeatureName{33, "ACCESS_PLATFORM", kNever},  // a vIOMMU: needs IOTLB messages
    FeatureName{34, "RING_PACKED", kAlways},
    FeatureName{35, "IN_ORDER", kAlways},
    // Of vhost.
    FeatureName{26, "LOG_ALL", kNever},  // live migration: dirty.h marks what is written
    FeatureName{30, "PROTOCOL_FEATURES", kAlways},
};

constexpr std::array kProtocol{
    FeatureName{VHOST_USER_PROTOCOL_F_MQ, "MQ", kAlways},
    FeatureName{VHOST_USER_PROTOCOL_F_LOG_SHMFD, "LOG_SHMFD", kNever},
    FeatureName{VHOST_USER_PROTOCOL_F_RARP, "RARP", kNever},  // GUEST_ANNOUNCE: the guest does it
    FeatureName{VHOST_USER_PROTOCOL_F_REPLY_ACK, "REPLY_ACK", kAlways},
    FeatureName{VHOST_USER_PROTOCOL_F_MTU, "NET_MTU", kAlways},
    FeatureName{5, "BACKEND_REQ", kNever},
    FeatureName{12, "INFLIGHT_SHMFD", kNever},  // frames are given back in order (docs/decisions.md)
    FeatureName{VHOST_USER_PROTOCOL_F_RESET_DEVICE, "RESET_DEVICE", kAlways},
    FeatureName{VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS", kAlways},
    FeatureName{VHOST_USER_PROTOCOL_F_STATUS, "STATUS", kAlways},
};

std::uint64_t offered(std::span<const FeatureName> table, bool several_pairs) {
  std::uint64_t bits = 0;
  for (const FeatureName& feature : table) {
    if (feature.offer == kAlways || (feature.offer == kWithSeveralPairs && several_pairs)) {
      bits |= 1ull << feature.bit;
    }
  }
  return bits;
}

std::vector<std::string> names(std::span<const FeatureName> table, std::uint64_t bits) {
  std::vector<std::string> result;
  for (std::uint32_t bit = 0; bit < 64; ++bit) {
    if ((bits >> bit & 1) != 0) {
      auto found = std::find_if(table.begin(), table.end(), [bit](const auto& f) { return f.bit == bit; });
      result.push_back(found == table.end() ? fmt::format("bit {}", bit) : std::string(found->name));
    }
  }
  return result;
}

}  // namespace

std::span<const FeatureName> virtio_features() {
  return kVirtio;
}

std::span<const FeatureName> protocol_features() {
  return kProtocol;
}

std::uint64_t offered_features(std::uint32_t queue_pairs) {
  return offered(kVirtio, queue_pairs > 1);
}

std::uint64_t offered_protocol_features() {
  return offered(kProtocol, false);
}

std::vector<std::string> feature_names(std::uint64_t bits) {
  return names(kVirtio, bits);
}

std::vector<std::string> protocol_feature_names(std::uint64_t bits) {
  return names(kProtocol, bits);
}

}  // namespace sluice
