// What a guest port offers, by name: the one place where a feature is switched on.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Bits of virtio that the control half decides by (virtio 1.2, 5.1.3 and 6).
inline constexpr std::uint64_t kFeatureEventIdx = 1ull << 29;
inline constexpr std::uint64_t kFeatureProtocol = 1ull << 30;  // vhost-user's own: never seen by the guest
inline constexpr std::uint64_t kFeatureVersion1 = 1ull << 32;
inline constexpr std::uint64_t kFeatureRingPacked = 1ull << 34;

struct FeatureName {
  std::uint8_t bit;
  std::string_view name;
  // never: not offered, its place is here. Named all the same: a front-end may ask for it.
  enum class Offer : std::uint8_t { kAlways, kWithSeveralPairs, kNever } offer;
};

std::span<const FeatureName> virtio_features();
std::span<const FeatureName> protocol_features();

std::uint64_t offered_features(std::uint32_t queue_pairs);
std::uint64_t offered_protocol_features();

// The bits that are set, by name; one without a name as "bit 57".
std::vector<std::string> feature_names(std::uint64_t bits);
std::vector<std::string> protocol_feature_names(std::uint64_t bits);

}  // namespace sluice
