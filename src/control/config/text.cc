// Single values of a Config as people write them.
#include <arpa/inet.h>
#include <grp.h>
#include <pwd.h>

#include <charconv>

#include "control/config/config.h"

namespace sluice {

namespace {

// A user's or group's number; UINT32_MAX is nobody's (setresuid(2) takes it for "unchanged").
std::optional<std::uint32_t> read_id(const std::string& text) {
  std::uint32_t id = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  bool good = error == std::errc{} && end == text.data() + text.size() && id != UINT32_MAX;
  return good ? std::optional(id) : std::nullopt;
}

struct SizeUnit {
  std::string_view name;
  unsigned shift;
};
constexpr SizeUnit kSizeUnits[] = {{"TiB", 40}, {"GiB", 30}, {"MiB", 20}};
constexpr std::uint64_t kMaxSizeBytes = std::uint64_t{64} << 40;

}  // namespace

Result<std::uint32_t> read_user(const std::string& user) {
  if (auto uid = read_id(user)) {
    return *uid;
  }
  // getpwnam: the control thread is the only one that asks.
  const passwd* entry = user.empty() ? nullptr : ::getpwnam(user.c_str());
  if (entry == nullptr) {
    return fail("there is no user \"{}\"; create it or write a number", user);
  }
  return entry->pw_uid;
}

Result<std::uint32_t> read_group(const std::string& name) {
  if (auto gid = read_id(name)) {
    return *gid;
  }
  const group* entry = name.empty() ? nullptr : ::getgrnam(name.c_str());
  if (entry == nullptr) {
    return fail("there is no group \"{}\"; create it or write a number", name);
  }
  return entry->gr_gid;
}

Result<std::uint64_t> read_size(std::string_view text) {
  for (const SizeUnit& unit : kSizeUnits) {
    if (!text.ends_with(unit.name)) {
      continue;
    }
    std::uint64_t count = 0;
    const char* end = text.data() + text.size() - unit.name.size();
    auto read = std::from_chars(text.data(), end, count);
    if (read.ec == std::errc{} && read.ptr == end && count > 0 && count <= kMaxSizeBytes >> unit.shift) {
      return count << unit.shift;
    }
  }
  return fail("is \"{}\"; it must be a size from \"1MiB\" to \"64TiB\", for example \"64GiB\"", text);
}

std::string size_text(std::uint64_t bytes) {
  for (const SizeUnit& unit : kSizeUnits) {
    if (bytes >> unit.shift << unit.shift == bytes && bytes != 0) {
      return fmt::format("{}{}", bytes >> unit.shift, unit.name);
    }
  }
  return fmt::format("{} bytes", bytes);
}

Result<MacAddress> read_mac(std::string_view text) {
  MacAddress mac{};
  bool good = text.size() == 17;
  for (std::size_t i = 0; good && i < mac.size(); ++i) {
    const char* digits = text.data() + 3 * i;
    auto [end, error] = std::from_chars(digits, digits + 2, mac[i], 16);
    good = error == std::errc{} && end == digits + 2 && (i == 5 || digits[2] == ':');
  }
  if (!good) {
    return fail("is \"{}\"; it must be a MAC address, for example \"52:54:00:00:00:01\"", text);
  }
  return mac;
}

std::string mac_text(const MacAddress& mac) {
  return fmt::format("{:02x}", fmt::join(mac, ":"));
}

namespace {

// The longest prefix of the address's kind; -1: it is no address.
int address_bits(const std::string& text) {
  in_addr v4{};
  in6_addr v6{};
  if (text.find('\0') != std::string::npos) {
    return -1;
  }
  return ::inet_pton(AF_INET, text.c_str(), &v4) == 1    ? 32
         : ::inet_pton(AF_INET6, text.c_str(), &v6) == 1 ? 128
                                                         : -1;
}

}  // namespace

bool is_cidr(const std::string& text) {
  std::size_t slash = text.find('/');
  if (slash == std::string::npos) {
    return false;
  }
  int longest = address_bits(text.substr(0, slash));
  int prefix = -1;
  const char* end = text.data() + text.size();
  auto read = std::from_chars(text.data() + slash + 1, end, prefix);
  return read.ec == std::errc{} && read.ptr == end && prefix >= 0 && prefix <= longest;
}

bool is_address_or_cidr(const std::string& text) {
  return address_bits(text) > 0 || is_cidr(text);
}

}  // namespace sluice
