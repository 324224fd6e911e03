#include "demux/rule.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <span>
#include <string>
#include <vector>

namespace sluice {

namespace {

struct Name {
  std::string_view name;
  std::uint16_t value;
};
// The first name of a value is the one to_string() prints.
constexpr Name kProtocols[] = {{"icmp", 1}, {"tcp", 6}, {"udp", 17}, {"icmpv6", 58}, {"sctp", 132}};
constexpr Name kEthTypes[] = {{"ip", 0x0800}, {"ipv4", 0x0800}, {"arp", 0x0806}, {"ipv6", 0x86dd}};
constexpr std::uint16_t kIpv4Type = 0x0800;
constexpr std::uint16_t kIpv6Type = 0x86dd;

constexpr std::string_view kWords =
    "dst_mac, src_mac, vlan_id, eth_type, ip_proto, src_ip, dst_ip, src_port, dst_port";

// Decimal, or hexadecimal behind 0x; the whole text.
std::optional<std::uint32_t> parse_number(std::string_view text, std::uint32_t most) {
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X")) {
    text.remove_prefix(2);
    base = 16;
  }
  std::uint32_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size() || value > most) {
    return std::nullopt;
  }
  return value;
}

std::optional<std::uint32_t> parse_named(std::string_view text, std::span<const Name> names,
                                         std::uint32_t most) {
  auto found = std::ranges::find(names, text, &Name::name);
  return found != names.end() ? std::optional<std::uint32_t>(found->value) : parse_number(text, most);
}

std::string print_named(std::uint32_t value, std::span<const Name> names, bool hexadecimal) {
  auto found = std::ranges::find(names, value, &Name::value);
  if (found != names.end()) {
    return std::string(found->name);
  }
  return hexadecimal ? fmt::format("{:#06x}", value) : fmt::format("{}", value);
}

std::optional<std::array<std::uint8_t, 6>> parse_mac_address(std::string_view text) {
  std::array<std::uint8_t, 6> mac;
  if (text.size() != 17) {
    return std::nullopt;
  }
  for (std::size_t i = 0; i < 6; ++i) {
    const char* begin = text.data() + 3 * i;
    auto [end, error] = std::from_chars(begin, begin + 2, mac[i], 16);
    if (error != std::errc{} || end != begin + 2 || (i < 5 && text[3 * i + 2] != ':')) {
      return std::nullopt;
    }
  }
  return mac;
}

std::optional<MacMatch> parse_mac(std::string_view text) {
  MacMatch match;
  auto slash = text.find('/');
  auto value = parse_mac_address(text.substr(0, slash));
  std::optional<std::array<std::uint8_t, 6>> mask{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
  if (slash != std::string_view::npos) {
    mask = parse_mac_address(text.substr(slash + 1));
  }
  if (!value || !mask) {
    return std::nullopt;
  }
  match.mask = *mask;
  for (std::size_t i = 0; i < 6; ++i) {
    match.value[i] = static_cast<std::uint8_t>((*value)[i] & (*mask)[i]);
  }
  return match;
}

// Bits behind the prefix are set to 0, as tc-flower does.
std::optional<IpMatch> parse_ip(std::string_view text) {
  IpMatch match;
  auto slash = text.find('/');
  std::string address(text.substr(0, slash));
  match.v6 = address.find(':') != std::string::npos;
  if (::inet_pton(match.v6 ? AF_INET6 : AF_INET, address.c_str(), match.value.data()) != 1) {
    return std::nullopt;
  }
  std::uint32_t bits = match.v6 ? 128 : 32;
  std::optional<std::uint32_t> prefix = bits;
  if (slash != std::string_view::npos) {
    prefix = parse_number(text.substr(slash + 1), bits);
  }
  if (!prefix) {
    return std::nullopt;
  }
  match.prefix = static_cast<std::uint8_t>(*prefix);
  for (std::uint32_t bit = *prefix; bit < bits; ++bit) {
    match.value[bit / 8] = static_cast<std::uint8_t>(match.value[bit / 8] & ~(0x80u >> bit % 8));
  }
  return match;
}

std::optional<PortRange> parse_ports(std::string_view text) {
  auto dash = text.find('-');
  auto low = parse_number(text.substr(0, dash), 65535);
  auto high = dash == std::string_view::npos ? low : parse_number(text.substr(dash + 1), 65535);
  if (!low || !high || *low > *high) {
    return std::nullopt;
  }
  return PortRange{static_cast<std::uint16_t>(*low), static_cast<std::uint16_t>(*high)};
}

// Puts one word's value where it belongs.
template <typename Field, typename Value>
Result<void> store(Field& field, std::string_view word, std::string_view text,
                   const std::optional<Value>& value, std::string_view expected) {
  if (field) {
    return fail("match: {} stands there twice", word);
  }
  if (!value) {
    return fail("match: {} '{}': expected {}", word, text, expected);
  }
  field = static_cast<typename Field::value_type>(*value);
  return {};
}

Result<void> parse_word(Match& match, std::string_view word, std::string_view text) {
  constexpr std::string_view kMac = "a MAC address such as 52:54:00:00:00:01, or ADDRESS/MASK";
  constexpr std::string_view kIp = "an IP address or prefix such as 10.0.0.0/8 or 2001:db8::/32";
  constexpr std::string_view kPort = "a port 0 .. 65535 or a range LOW-HIGH with LOW <= HIGH";
  if (word == "dst_mac") return store(match.dst_mac, word, text, parse_mac(text), kMac);
  if (word == "src_mac") return store(match.src_mac, word, text, parse_mac(text), kMac);
  if (word == "vlan_id")
    return store(match.vlan_id, word, text, parse_number(text, 4095), "a number 0 .. 4095");
  if (word == "eth_type") {
    return store(match.eth_type, word, text, parse_named(text, kEthTypes, 65535),
                 "ip, ipv6, arp or a number 0 .. 0xffff");
  }
  if (word == "ip_proto") {
    return store(match.ip_proto, word, text, parse_named(text, kProtocols, 255),
                 "tcp, udp, icmp, icmpv6, sctp or a number 0 .. 255");
  }
  if (word == "src_ip") return store(match.src_ip, word, text, parse_ip(text), kIp);
  if (word == "dst_ip") return store(match.dst_ip, word, text, parse_ip(text), kIp);
  if (word == "src_port") return store(match.src_port, word, text, parse_ports(text), kPort);
  if (word == "dst_port") return store(match.dst_port, word, text, parse_ports(text), kPort);
  return fail("match: unknown word '{}': expected one of {}", word, kWords);
}

// A rule that can never match is a mistake: say so, and where.
Result<void> check_agreement(const Match& match) {
  if (match.src_ip && match.dst_ip && match.src_ip->v6 != match.dst_ip->v6) {
    return fail("match: dst_ip is IPv{} but src_ip is IPv{}: expected the same of both",
                match.dst_ip->v6 ? 6 : 4, match.src_ip->v6 ? 6 : 4);
  }
  for (auto [word, ip] : {std::pair{"src_ip", &match.src_ip}, std::pair{"dst_ip", &match.dst_ip}}) {
    if (*ip && match.eth_type && *match.eth_type != ((*ip)->v6 ? kIpv6Type : kIpv4Type)) {
      return fail("match: {} is IPv{}: expected eth_type {} or none", word, (*ip)->v6 ? 6 : 4,
                  (*ip)->v6 ? "ipv6" : "ip");
    }
  }
  bool is_ip = !match.eth_type || *match.eth_type == kIpv4Type || *match.eth_type == kIpv6Type;
  if (match.ip_proto && !is_ip) {
    return fail("match: ip_proto with eth_type {:#06x}: expected eth_type ip, ipv6 or none", *match.eth_type);
  }
  for (auto [word, port] : {std::pair{"src_port", &match.src_port}, std::pair{"dst_port", &match.dst_port}}) {
    if (*port && !is_ip) {
      return fail("match: {} with eth_type {:#06x}: expected eth_type ip, ipv6 or none", word,
                  *match.eth_type);
    }
    if (*port && match.ip_proto && *match.ip_proto != 6 && *match.ip_proto != 17 && *match.ip_proto != 132) {
      return fail("match: {} with ip_proto {}: expected ip_proto tcp, udp, sctp or none", word,
                  print_named(*match.ip_proto, kProtocols, false));
    }
  }
  return {};
}

std::string print(const std::array<std::uint8_t, 6>& mac) {
  return fmt::format("{:02x}", fmt::join(mac, ":"));
}

std::string print(const MacMatch& mac) {
  bool whole = std::ranges::all_of(mac.mask, [](auto byte) { return byte == 0xff; });
  return whole ? print(mac.value) : print(mac.value) + "/" + print(mac.mask);
}

std::string print(const IpMatch& ip) {
  char text[INET6_ADDRSTRLEN] = "";
  ::inet_ntop(ip.v6 ? AF_INET6 : AF_INET, ip.value.data(), text, sizeof text);
  return ip.prefix == (ip.v6 ? 128 : 32) ? std::string(text) : fmt::format("{}/{}", text, ip.prefix);
}

std::string print(const PortRange& ports) {
  return ports.low == ports.high ? fmt::format("{}", ports.low) : fmt::format("{}-{}", ports.low, ports.high);
}

}  // namespace

Result<Match> parse_match(std::string_view text) {
  constexpr std::string_view kBlank = " \t\n\r";
  std::vector<std::string_view> words;
  for (std::size_t at = text.find_first_not_of(kBlank); at != std::string_view::npos;) {
    std::size_t end = text.find_first_of(kBlank, at);
    words.push_back(text.substr(at, end == std::string_view::npos ? end : end - at));
    at = text.find_first_not_of(kBlank, end);
  }
  Match match;
  for (std::size_t i = 0; i < words.size(); i += 2) {
    // An unknown word is the better message, also where its value is missing.
    if (i + 1 == words.size() && kWords.find(words[i]) != std::string_view::npos) {
      return fail("match: {}: expected a value behind it", words[i]);
    }
    SLUICE_TRY(parse_word(match, words[i], i + 1 < words.size() ? words[i + 1] : ""));
  }
  SLUICE_TRY(check_agreement(match));
  return match;
}

std::string to_string(const Match& match) {
  std::vector<std::string> words;
  auto add = [&](std::string_view word, const std::string& value) {
    words.push_back(fmt::format("{} {}", word, value));
  };
  if (match.dst_mac) add("dst_mac", print(*match.dst_mac));
  if (match.src_mac) add("src_mac", print(*match.src_mac));
  if (match.vlan_id) add("vlan_id", fmt::format("{}", *match.vlan_id));
  if (match.eth_type) add("eth_type", print_named(*match.eth_type, kEthTypes, true));
  if (match.ip_proto) add("ip_proto", print_named(*match.ip_proto, kProtocols, false));
  if (match.src_ip) add("src_ip", print(*match.src_ip));
  if (match.dst_ip) add("dst_ip", print(*match.dst_ip));
  if (match.src_port) add("src_port", print(*match.src_port));
  if (match.dst_port) add("dst_port", print(*match.dst_port));
  return fmt::format("{}", fmt::join(words, " "));
}

}  // namespace sluice
