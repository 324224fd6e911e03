// For tests: what a rule means, written again in the plainest way, from the wire's bytes and without a word
// of the compiler's or the program's code. Slow, linear, short enough to be believed.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "demux/rule.h"

namespace sluice::testing {

// What can be said of a frame.
struct Seen {
  std::optional<std::array<std::uint8_t, 6>> dst_mac, src_mac;
  std::optional<std::uint16_t> vlan_id, eth_type;
  std::optional<std::uint8_t> ip_proto;
  int ip_version = 0;
  std::array<std::uint8_t, 16> src_ip{}, dst_ip{};
  std::optional<std::uint16_t> src_port, dst_port;
  bool truncated = false, fragment = false, header_limit = false;
};

class NaiveParser {
 public:
  explicit NaiveParser(std::span<const std::uint8_t> frame) : frame_(frame) { ethernet(); }
  const Seen& seen() const { return seen_; }

 private:
  bool has(std::size_t at, std::size_t bytes) {
    if (at + bytes <= frame_.size()) {
      return true;
    }
    seen_.truncated = true;
    return false;
  }
  std::uint16_t get16(std::size_t at) const {
    return static_cast<std::uint16_t>(frame_[at] << 8 | frame_[at + 1]);
  }

  void ethernet() {
    if (!has(0, 14)) {
      return;
    }
    seen_.dst_mac.emplace();
    seen_.src_mac.emplace();
    std::memcpy(seen_.dst_mac->data(), frame_.data(), 6);
    std::memcpy(seen_.src_mac->data(), frame_.data() + 6, 6);
    seen_.vlan_id = 0;
    seen_.eth_type = get16(12);
    std::size_t at = 14;
    for (int tag = 0; tag < 2 && (*seen_.eth_type == 0x8100 || *seen_.eth_type == 0x88a8); ++tag) {
      if (!has(at, 4)) {
        if (tag == 0) {
          seen_.vlan_id.reset();
        }
        break;
      }
      if (tag == 0) {
        seen_.vlan_id = get16(at) & 0xfff;
      }
      seen_.eth_type = get16(at + 2);
      at += 4;
    }
    if (*seen_.eth_type == 0x0800) {
      ipv4(at);
    } else if (*seen_.eth_type == 0x86dd) {
      ipv6(at);
    }
  }

  void ipv4(std::size_t at) {
    if (!has(at, 20)) {
      return;
    }
    std::size_t header = (frame_[at] & 15u) * 4u;
    if (frame_[at] >> 4 != 4 || header < 20) {
      seen_.truncated = true;
      return;
    }
    seen_.ip_version = 4;
    std::memcpy(seen_.src_ip.data(), frame_.data() + at + 12, 4);
    std::memcpy(seen_.dst_ip.data(), frame_.data() + at + 16, 4);
    seen_.ip_proto = frame_[at + 9];
    if ((get16(at + 6) & 0x3fff) != 0) {
      seen_.fragment = true;
      return;
    }
    ports(at + header, at + get16(at + 2));
  }

  void ipv6(std::size_t at) {
    if (!has(at, 40)) {
      return;
    }
    if (frame_[at] >> 4 != 6) {
      seen_.truncated = true;
      return;
    }
    seen_.ip_version = 6;
    std::memcpy(seen_.src_ip.data(), frame_.data() + at + 8, 16);
    std::memcpy(seen_.dst_ip.data(), frame_.data() + at + 24, 16);
    std::size_t end = at + 40 + get16(at + 4);
    std::uint8_t next = frame_[at + 6];
    at += 40;
    for (int headers = 0; next == 0 || next == 43 || next == 44 || next == 51 || next == 60 || next == 135;
         ++headers) {
      if (headers == 8) {
        seen_.header_limit = true;
        return;
      }
      if (!has(at, 8)) {
        return;
      }
      if (at + 8 > end) {
        seen_.truncated = true;
        return;
      }
      if (next == 44) {
        seen_.fragment = true;
        seen_.ip_proto = frame_[at];
        return;
      }
      std::size_t bytes = next == 51 ? (frame_[at + 1] + 2u) * 4u : (frame_[at + 1] + 1u) * 8u;
      next = frame_[at];
      at += bytes;
    }
    seen_.ip_proto = next;
    ports(at, end);
  }

  void ports(std::size_t at, std::size_t ip_end) {
    std::size_t need = *seen_.ip_proto == 6     ? 20
                       : *seen_.ip_proto == 17  ? 8
                       : *seen_.ip_proto == 132 ? 12
                                                : 0;
    if (need == 0 || !has(at, need)) {
      return;
    }
    if (at + need > ip_end) {
      seen_.truncated = true;
      return;
    }
    seen_.src_port = get16(at);
    seen_.dst_port = get16(at + 2);
  }

  std::span<const std::uint8_t> frame_;
  Seen seen_;
};

inline bool matches(const std::optional<MacMatch>& match,
                    const std::optional<std::array<std::uint8_t, 6>>& mac) {
  if (!match) {
    return true;
  }
  for (std::size_t i = 0; mac && i < 6; ++i) {
    if (((*mac)[i] & match->mask[i]) != (match->value[i] & match->mask[i])) {
      return false;
    }
  }
  return mac.has_value();
}

inline bool matches(const std::optional<IpMatch>& match, int version,
                    const std::array<std::uint8_t, 16>& ip) {
  if (!match) {
    return true;
  }
  if (version != (match->v6 ? 6 : 4)) {
    return false;
  }
  for (std::size_t bit = 0; bit < match->prefix; ++bit) {
    if (((ip[bit / 8] ^ match->value[bit / 8]) & 0x80 >> bit % 8) != 0) {
      return false;
    }
  }
  return true;
}

inline bool matches(const std::optional<PortRange>& match, const std::optional<std::uint16_t>& port) {
  return !match || (port && *port >= match->low && *port <= match->high);
}

template <typename T>
bool matches(const std::optional<T>& match, const std::optional<T>& value) {
  return !match || match == value;
}

inline bool matches(const Match& match, const Seen& seen) {
  return matches(match.dst_mac, seen.dst_mac) && matches(match.src_mac, seen.src_mac) &&
         matches(match.vlan_id, seen.vlan_id) && matches(match.eth_type, seen.eth_type) &&
         matches(match.ip_proto, seen.ip_proto) && matches(match.src_ip, seen.ip_version, seen.src_ip) &&
         matches(match.dst_ip, seen.ip_version, seen.dst_ip) && matches(match.src_port, seen.src_port) &&
         matches(match.dst_port, seen.dst_port);
}

// The rule that wins, or null.
inline const Rule* naive_winner(std::span<const Rule> rules, const Seen& seen) {
  const Rule* best = nullptr;
  for (const Rule& rule : rules) {
    if (matches(rule.match, seen) &&
        (best == nullptr || rule.priority > best->priority ||
         (rule.priority == best->priority && raw(rule.slot) < raw(best->slot)))) {
      best = &rule;
    }
  }
  return best;
}

}  // namespace sluice::testing
