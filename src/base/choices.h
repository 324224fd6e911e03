// What an operator chooses by a word and the data plane carries out: shared by the config, which knows no
// data plane, and by whoever acts on it. The words are in the order of the enumerators.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace sluice {

// How a NIC queue's socket is bound; `auto` is what the driver can do.
enum class BindMode : std::uint8_t { kAuto, kZeroCopy, kCopy };
inline constexpr std::string_view kBindModeWords[] = {"auto", "zerocopy", "copy"};

// What a worker does when there is nothing to do.
enum class IdleMode : std::uint8_t {
  kAdaptive,  // sleeps on the descriptors, naps while packets come fast: shares its core with the apps
  kAwake,     // as kAdaptive, but its core does not halt while it naps; must be pinned
  kSpin,      // never sleeps: for a core of its own
};
inline constexpr std::string_view kIdleModeWords[] = {"adaptive", "awake", "spin"};

// Where a switch port's frames may go (worker/forward/switch.h).
enum class SwitchMode : std::uint8_t { kBridge, kVepa, kPrivate };
inline constexpr std::string_view kSwitchModeWords[] = {"bridge", "vepa", "private"};
constexpr std::string_view switch_mode_text(SwitchMode mode) {
  return kSwitchModeWords[static_cast<std::size_t>(mode)];
}

// Who listens: we (QEMU connects; `server`), or the front-end (we connect, and again when it goes; `client`).
enum class GuestRole : std::uint8_t { kServer, kClient };
inline constexpr std::string_view kGuestRoleWords[] = {"server", "client"};
constexpr std::string_view role_text(GuestRole role) {
  return kGuestRoleWords[static_cast<std::size_t>(role)];
}

inline constexpr std::uint32_t kMaxQueuePairs = 64;  // of one guest

}  // namespace sluice
