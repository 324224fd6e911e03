// Single values of a Config as people write them.
#include <arpa/inet.h>
#include <pwd.h>

#include <charconv>

#include "control/config.h"

namespace sluice {

Result<std::uint32_t> read_user(const std::string& user) {
  std::uint32_t uid = 0;
  auto [end, error] = std::from_chars(user.data(), user.data() + user.size(), uid);
  if (error == std::errc{} && end == user.data() + user.size() && uid != UINT32_MAX) {
    return uid;
  }
  // getpwnam: the control thread is the only one that asks.
  const passwd* entry = user.empty() ? nullptr : ::getpwnam(user.c_str());
  if (entry == nullptr) {
    return fail("there is no user \"{}\"; create it or write a number", user);
  }
  return entry->pw_uid;
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

std::string_view idle_text(WorkerOptions::Idle idle) {
  using Idle = WorkerOptions::Idle;
  return idle == Idle::kAwake ? "awake" : idle == Idle::kSpin ? "spin" : "adaptive";
}

std::string_view bind_mode_text(BindMode mode) {
  return mode == BindMode::kZeroCopy ? "zerocopy" : mode == BindMode::kCopy ? "copy" : "auto";
}

std::string_view switch_mode_text(SwitchMode mode) {
  return mode == SwitchMode::kVepa ? "vepa" : mode == SwitchMode::kPrivate ? "private" : "bridge";
}

std::string_view role_text(GuestPortOptions::Role role) {
  return role == GuestPortOptions::Role::kClient ? "client" : "server";
}

bool is_cidr(const std::string& text) {
  std::size_t slash = text.find('/');
  if (slash == std::string::npos) {
    return false;
  }
  std::string address = text.substr(0, slash);
  in_addr v4{};
  in6_addr v6{};
  int longest = ::inet_pton(AF_INET, address.c_str(), &v4) == 1    ? 32
                : ::inet_pton(AF_INET6, address.c_str(), &v6) == 1 ? 128
                                                                   : -1;
  int prefix = -1;
  const char* end = text.data() + text.size();
  auto read = std::from_chars(text.data() + slash + 1, end, prefix);
  return address.find('\0') == std::string::npos && read.ec == std::errc{} && read.ptr == end &&
         prefix >= 0 && prefix <= longest;
}

}  // namespace sluice
