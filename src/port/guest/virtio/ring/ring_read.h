// ring_read(): how a ring's device side reads a word that the driver can change at any moment: once (D3).
//
// Between any two of them the driver may have done anything. A build for tests and fuzzers alone
// (SLUICE_DRIVER_MODEL, the library guest_modelled) makes that happen on the same thread: a model of the
// driver has its turn before each read.
#pragma once

#include <atomic>

#include "base/untrusted.h"

namespace sluice {

#if defined(SLUICE_DRIVER_MODEL)
class DriverModel {
 public:
  virtual ~DriverModel() = default;
  virtual void before_read() = 0;
};
inline thread_local DriverModel* driver_model = nullptr;
#endif

template <typename T>
T ring_read(const T& shared, std::memory_order order = std::memory_order_relaxed) {
#if defined(SLUICE_DRIVER_MODEL)
  if (driver_model != nullptr) {
    driver_model->before_read();
  }
#endif
  return read_once(shared, order);
}

}  // namespace sluice
