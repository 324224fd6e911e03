// Totals: the sums of a guest device's counters that are to come out even, for tests and fuzzers.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "port/guest/virtio/guest_device.h"

namespace sluice::test {

// What a device has counted, in the sums that are to come out even. By prefix, so that a new counter of a
// drop or a fault belongs to its sum from its first day; by its place from the second time on, because
// comparing names would be most of what a fuzzer does.
struct Totals final : CounterVisitor {
  explicit Totals(const GuestDevice& device) { device.visit(*this); }
  void counter(std::string_view name, std::uint64_t value) override {
    static std::vector<std::uint64_t Totals::*> sums;
    if (place_ == sums.size()) {
      sums.push_back(sum_of(name));
    }
    this->*sums[place_++] += value;
  }

  std::uint64_t rx_packets = 0, rx_bytes = 0, copied = 0, copied_bytes = 0;
  std::uint64_t dropped = 0;  // frames towards the guest
  std::uint64_t tx_packets = 0, tx_bytes = 0;
  std::uint64_t refused = 0;      // frames from the guest
  std::uint64_t bad_buffers = 0;  // of either direction
  std::uint64_t broken_rings = 0;

 private:
  static std::uint64_t Totals::* sum_of(std::string_view name) {
    struct Sum {
      std::string_view prefix;
      std::uint64_t Totals::* sum;
    };
    for (const auto& [prefix, sum] :
         {Sum{"drop_tx_", &Totals::refused}, Sum{"fault_tx_", &Totals::refused},
          Sum{"drop_", &Totals::dropped}, Sum{"fault_buffer_", &Totals::bad_buffers},
          Sum{"fault_ring_", &Totals::broken_rings}}) {
      if (name.starts_with(prefix)) {
        return sum;
      }
    }
    for (const auto& [whole, sum] :
         {Sum{"rx_packets", &Totals::rx_packets}, Sum{"rx_bytes", &Totals::rx_bytes},
          Sum{"tx_packets", &Totals::tx_packets}, Sum{"tx_bytes", &Totals::tx_bytes},
          Sum{"copied", &Totals::copied}, Sum{"copied_bytes", &Totals::copied_bytes}}) {
      if (name == whole) {
        return sum;
      }
    }
    return &Totals::others_;
  }
  std::size_t place_ = 0;
  std::uint64_t others_ = 0;
};

}  // namespace sluice::test
