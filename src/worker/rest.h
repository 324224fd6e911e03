// What a worker with nothing left to do does next: look again, nap, or sleep. Pure: no clock, no system call.
//
//   spin      looks again at once, between offers of its core to others. Only where the last such gaps were
//             short: what was delivered is often answered within microseconds, and a sleep would cost more.
//   nap       a fixed short time, woken by nobody. The packets of that time wait in the rings and are taken
//             in one go. Costs up to nap_ns of delay, so it is right only while waking the worker for each
//             packet would take much of a CPU.
//   wire nap  the same, but the wire ends it. For after a sleep that a peer ended for nothing: it costs a
//             turn per nap, and what the wire brings no delay.
//   sleep     on the descriptors, until one of them has work. Costs a wake-up, and answers within
//             microseconds.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace sluice {

class RestPolicy {
 public:
  enum class Rest : std::uint8_t { kSpin, kNap, kWireNap, kSleep };

  // What the worker did since the last rest.
  struct Work {
    std::uint64_t now_ns = 0;
    std::uint64_t packets = 0;  // received and sent
    bool received = false;      // some of them from the wire
    bool useful = false;        // packets, or other work of the wire's queues; what peers return is none
  };

  // Packets are counted over about so long: to see when to nap, and to know what naps are compared with.
  static constexpr std::uint64_t kRateNs = 100'000, kLongRateNs = 1'000'000, kSettledNs = 2 * kLongRateNs;
  // Naps begin when wake-ups would take so much of a CPU, and a nap gathers at least so many packets.
  static constexpr double kShareOfWakes = 0.5;
  static constexpr double kFewestPackets = 4;
  // What it costs to wake a thread: learned from how late naps end, within these bounds.
  static constexpr std::uint64_t kFirstWakeNs = 5'000, kLeastWakeNs = 1'000, kMostWakeNs = 20'000;
  // Naps slow down a sender that waits for answers. Naps that brought less than this share of the earlier
  // rate are banned for a while, each time for longer.
  static constexpr double kRateKept = 0.7;
  static constexpr std::uint32_t kTrialNaps = 8;
  static constexpr std::uint64_t kFirstBanNs = 10'000'000, kLongestBanNs = 1'000'000'000;
  // How long a spin may be.
  static constexpr std::uint64_t kFirstSpinNs = 8'000, kMostSpinNs = 32'000;
  // An offer of the core that took longer met somebody who needs it: no spin for a while.
  static constexpr std::uint64_t kSharedNs = 100'000;
  static constexpr std::uint64_t kFirstSharedBanNs = 50'000'000, kLongestSharedBanNs = 3'200'000'000;

  explicit RestPolicy(std::uint64_t nap_ns) : nap_ns_(nap_ns) {}

  // Everything is done for now.
  Rest next(const Work& work) {
    const std::uint64_t elapsed_ns = work.now_ns - last_ns_;
    last_ns_ = work.now_ns;
    count(work.packets, elapsed_ns);
    if (work.useful) {
      end_gap(work.now_ns, work.received);
    }
    if (nap_pays(work.now_ns)) {
      return last_ = Rest::kNap;
    }
    if (last_ == Rest::kSleep && !work.useful) {
      return last_ = Rest::kWireNap;
    }
    if (work.now_ns - worked_ns_ < spin_ns_[context_] && work.now_ns >= shared_until_ns_) {
      return last_ = Rest::kSpin;
    }
    return last_ = Rest::kSleep;
  }

  // A nap of nap_ns took so long.
  void napped(std::uint64_t took_ns) {
    const std::uint64_t late_ns =
        std::clamp(took_ns > nap_ns_ ? took_ns - nap_ns_ : 0, kLeastWakeNs, kMostWakeNs);
    wake_ns_ = (7 * wake_ns_ + late_ns) / 8;
  }
  // A spin's offer of the core took so long.
  void offered(std::uint64_t now_ns, std::uint64_t took_ns) {
    if (took_ns > kSharedNs) {
      shared_ban_ns_ = shared_until_ns_ == 0 || now_ns > shared_until_ns_ + kLongestSharedBanNs
                           ? kFirstSharedBanNs
                           : std::min(2 * shared_ban_ns_, kLongestSharedBanNs);
      shared_until_ns_ = now_ns + shared_ban_ns_;
    }
  }
  std::uint64_t wake_ns() const { return wake_ns_; }

 private:
  void count(std::uint64_t packets, std::uint64_t elapsed_ns) {
    const double came = static_cast<double>(packets);
    rate_ = (rate_ * kRateNs + came) / static_cast<double>(kRateNs + elapsed_ns);
    rate_ = std::min(rate_, kMostRate);
    long_rate_ = (long_rate_ * kLongRateNs + came) / static_cast<double>(kLongRateNs + elapsed_ns);
    if (last_ == Rest::kNap) {
      trial_packets_ += came;
      trial_ns_ += static_cast<double>(elapsed_ns);
      ++trial_naps_;
    }
  }

  bool nap_pays(std::uint64_t now_ns) {
    const bool busy = rate_ * static_cast<double>(wake_ns_) >= kShareOfWakes &&
                      rate_ * static_cast<double>(nap_ns_) >= kFewestPackets;
    busy_since_ns_ = !busy ? 0 : busy_since_ns_ == 0 ? now_ns : busy_since_ns_;
    // The rate is known when it has been counted for a while; only then can naps be compared with it.
    const bool pays = busy && now_ns >= banned_until_ns_ && now_ns - busy_since_ns_ >= kSettledNs;
    if (last_ != Rest::kNap) {
      if (pays) {
        rate_before_ = std::min(rate_, long_rate_);  // packets that had piled up are no rate
        trial_packets_ = trial_ns_ = 0;
        trial_naps_ = 0;
      }
      return pays;
    }
    if (trial_naps_ > kTrialNaps) {  // passed
      return pays;
    }
    if (pays && trial_naps_ < kTrialNaps) {
      return true;
    }
    if (trial_packets_ >= kRateKept * rate_before_ * trial_ns_) {
      ban_ns_ = kFirstBanNs;
      return pays;
    }
    banned_until_ns_ = now_ns + ban_ns_;
    ban_ns_ = std::min(2 * ban_ns_, kLongestBanNs);
    return false;
  }

  // How long the worker had nothing to do. The gap after packets from the wire, which somebody may answer, is
  // of another kind than that after packets that were sent.
  void end_gap(std::uint64_t now_ns, bool received) {
    std::uint64_t& spin_ns = spin_ns_[context_];
    const std::uint64_t gap_ns = now_ns - worked_ns_;
    if (last_ != Rest::kNap && gap_ns > spin_ns) {
      if (gap_ns <= kMostSpinNs) {
        spin_ns = std::clamp(2 * spin_ns, kFirstSpinNs, kMostSpinNs);
      } else {
        spin_ns = spin_ns > kFirstSpinNs ? spin_ns / 2 : 0;
      }
    }
    worked_ns_ = now_ns;
    context_ = received ? 0 : 1;
  }

  static constexpr double kMostRate = 0.01;  // packets per ns; so that few naps follow the last packet

  const std::uint64_t nap_ns_;
  Rest last_ = Rest::kSpin;
  std::uint64_t last_ns_ = 0, worked_ns_ = 0;
  double rate_ = 0, long_rate_ = 0;  // packets per ns
  std::uint64_t wake_ns_ = kFirstWakeNs;

  double rate_before_ = 0, trial_packets_ = 0, trial_ns_ = 0;
  std::uint32_t trial_naps_ = 0;
  std::uint64_t busy_since_ns_ = 0, banned_until_ns_ = 0, ban_ns_ = kFirstBanNs;

  std::size_t context_ = 1;
  std::array<std::uint64_t, 2> spin_ns_{};  // after packets from the wire; after others
  std::uint64_t shared_until_ns_ = 0, shared_ban_ns_ = kFirstSharedBanNs;
};

}  // namespace sluice
