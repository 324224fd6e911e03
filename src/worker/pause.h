// Pause: a change is made while several workers stand between two bursts, all at once.
//
//   control thread    posts to all     waits for all      runs the change     lets all go
//   worker 0             ... burst | arrives ------------------------------- | goes on
//   worker 1             ... burst ... burst | arrives ---------------------- | goes on
//
// Workers are posted to together, so a pause takes as long as the slowest needs to come, not the sum. Nobody
// waits long for who does not come: those who came are let go, and are asked again once the late one has been
// seen between two bursts.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "worker/mailbox.h"

namespace sluice {

// How long workers who came wait for the others; twice as long with each further try, up to the second.
// Longer than a nap (1 ms) and most turns, and than most times that a hypervisor takes a CPU away (17 ms).
inline constexpr std::uint64_t kFirstGatherNs = 20'000'000;
inline constexpr std::uint64_t kLongestGatherNs = 320'000'000;

// No limit: the change is made whatever it takes.
inline constexpr std::uint64_t kPauseForEver = ~std::uint64_t{0};

// Runs `change` on the calling thread while the workers of all `mailboxes` wait. Returns the index of a
// worker that did not come within `limit_ns`; then the change has not run and will not. One pause at a time:
// a second thread waits for the first one's end.
std::optional<std::size_t> pause_all(std::span<Mailbox* const> mailboxes, std::uint64_t limit_ns,
                                     const std::function<void()>& change);

}  // namespace sluice
