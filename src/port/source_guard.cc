#include "port/source_guard.h"

#include <algorithm>

namespace sluice {

namespace {

constexpr std::uint64_t kSecondNs = 1'000'000'000;
constexpr int kRateTries = 16;
constexpr std::uint16_t kMacControl = 0x8808;
constexpr std::uint32_t kMostTags = 2;
constexpr std::uint64_t kNoMac = ~0ull;  // no masked word is equal to it

// Where the EtherType behind the tags begins, and what it is; 0: the tags end behind the front, or are more
// than kMostTags.
struct TypeAt {
  std::uint32_t offset = kVlanTagOffset;
  std::uint16_t type = 0;
};
TypeAt type_behind_tags(const std::byte* head, std::uint32_t bytes) {
  TypeAt found;
  for (std::uint32_t tags = 0; found.offset + 2 <= bytes; ++tags) {
    const std::uint16_t type = load_be16(head + found.offset);
    if (!is_tag(type)) {
      found.type = type;
      return found;
    }
    if (tags == kMostTags) {
      break;
    }
    found.offset += kVlanTagBytes;
  }
  return found;
}

}  // namespace

RateLimit::RateLimit(std::uint32_t frames_per_second)
    : rate_(std::max(frames_per_second, 1u)), depth_ns_(depth(frames_per_second) * kSecondNs / rate_) {}

std::uint32_t RateLimit::depth(std::uint32_t frames_per_second) {
  return std::max(frames_per_second / 100, kBurst);
}

// As the generic cell rate algorithm (ITU-T I.371, annex A): one word says until when what was taken is paid
// for.
std::uint32_t RateLimit::take(std::uint64_t now_ns, std::uint32_t wanted) {
  std::uint64_t paid = paid_until_ns_.load(std::memory_order_relaxed);
  for (int tries = 0; tries < kRateTries; ++tries) {
    const std::uint64_t start = std::max(paid, now_ns > depth_ns_ ? now_ns - depth_ns_ : 0);
    const std::uint64_t room_ns = now_ns > start ? now_ns - start : 0;
    const auto granted =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(wanted, room_ns * rate_ / kSecondNs));
    if (granted == 0) {
      return 0;
    }
    const std::uint64_t fresh = start + (granted * kSecondNs + rate_ - 1) / rate_;
    if (paid_until_ns_.compare_exchange_weak(paid, fresh, std::memory_order_relaxed)) {
      return granted;
    }
  }
  return 0;
}

Result<SourceLimits> make_source_limits(const std::vector<std::string>& addresses, std::uint32_t frame_rate,
                                        std::uint32_t broadcast_rate) {
  SourceLimits limits;
  for (const std::string& text : addresses) {
    auto prefix = SLUICE_TRY(IpPrefix::read(text));
    limits.addresses.push_back(prefix);
  }
  limits.frames = frame_rate == 0 ? nullptr : std::make_shared<RateLimit>(frame_rate);
  limits.broadcasts = broadcast_rate == 0 ? nullptr : std::make_shared<RateLimit>(broadcast_rate);
  return limits;
}

const char* counter_name(SourceFault fault) {
  switch (fault) {
    case SourceFault::kMac:
      return "drop_tx_source_mac";
    case SourceFault::kVlan:
      return "drop_tx_vlan";
    case SourceFault::kReserved:
      return "drop_tx_reserved";
    case SourceFault::kIp:
      return "drop_tx_source_ip";
    case SourceFault::kRate:
      return "drop_tx_rate";
    case SourceFault::kBroadcastRate:
      return "drop_tx_broadcast_rate";
  }
  return "";
}

SourceGuard::SourceGuard(const SourcePolicy& policy)
    : first_mac_(policy.macs.empty() ? kNoMac : mac_word(policy.macs.front())),
      vlan_(policy.vlan),
      any_mac_(policy.any_mac),
      any_tag_(policy.any_tag),
      any_group_(policy.any_group),
      limits_rate_(policy.limits.frames != nullptr),
      plain_(policy.vlan == 0 && policy.limits.addresses.empty() && policy.limits.frames == nullptr),
      ip_(policy.limits.addresses, policy.macs, policy.any_mac),
      frame_limit_(policy.limits.frames),
      broadcast_limit_(policy.limits.broadcasts) {
  for (const MacAddress& mac : policy.macs) {
    macs_.push_back(mac_word(mac));
  }
}

void SourceGuard::take_tokens(std::uint32_t frames) {
  tokens_ = frame_limit_->take(now_ns(), frames);
}

bool SourceGuard::mac_allowed(const std::byte* head) const {
  std::uint64_t source = 0;
  std::memcpy(&source, head + 6, 6);
  return std::ranges::find(macs_, source) != macs_.end();
}

// A priority tag in front of another tag would become the port's own tag in front of it (double tagging).
bool SourceGuard::tags_allowed(const std::byte* head, std::uint32_t head_bytes) const {
  const std::uint16_t outer = load_be16(head + kVlanTagOffset);
  if (!is_tag(outer)) [[likely]] {
    return true;
  }
  return outer == kVlanTpid && head_bytes >= kTaggedHeaderBytes &&
         (load_be16(head + kVlanTagOffset + 2) & 0xfff) == 0 &&
         !is_tag(load_be16(head + kVlanTagOffset + kVlanTagBytes));
}

// A trusted port's own tag stays; only what has none, or a priority, gets the access VLAN's.
bool SourceGuard::push_tag(std::byte*& head, std::uint32_t& head_bytes) const {
  if (any_tag_ && is_tag(load_be16(head + kVlanTagOffset)) && !is_priority_tag(head, head_bytes)) {
    return true;
  }
  return push_access_tag(head, head_bytes, vlan_);
}

bool SourceGuard::admit_rest(std::byte*& head, std::uint32_t& head_bytes, bool whole,
                             SourceCounters& counters) {
  const auto refuse = [&counters](SourceFault fault) {
    counters.add(fault);
    return false;
  };
  if (limits_rate_) {
    if (tokens_ == 0) {
      return refuse(SourceFault::kRate);
    }
    --tokens_;
  }
  if (!any_mac_ && !mac_allowed(head)) {
    return refuse(SourceFault::kMac);
  }
  if (!any_tag_ && !tags_allowed(head, head_bytes)) {
    return refuse(SourceFault::kVlan);
  }
  if (!any_group_ && is_reserved({head, head_bytes})) {
    return refuse(SourceFault::kReserved);
  }
  if (!ip_.empty()) {
    const TypeAt at = type_behind_tags(head, head_bytes);
    const IpGuard::Frame frame{
        .source_mac = head + 6,
        .type = at.type,
        .packet = std::span<const std::byte>(head, head_bytes).subspan(std::min(at.offset + 2, head_bytes)),
        .whole = whole};
    if (!ip_.allows(frame)) {
      return refuse(SourceFault::kIp);
    }
  }
  if (broadcast_limit_ && (head[0] & std::byte{1}) != std::byte{0} &&
      broadcast_limit_->take(now_ns(), 1) == 0) {
    return refuse(SourceFault::kBroadcastRate);
  }
  return vlan_ == 0 || push_tag(head, head_bytes) || refuse(SourceFault::kVlan);
}

bool is_reserved(std::span<const std::byte> front) {
  if (front.size() < kVlanTagOffset + 2) {
    return false;
  }
  return is_reserved_group(front.data()) ||
         type_behind_tags(front.data(), static_cast<std::uint32_t>(front.size())).type == kMacControl;
}

}  // namespace sluice
