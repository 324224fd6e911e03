// D3: what a peer can write is read once into a local, checked, then used.
#pragma once

#include <atomic>
#include <cstring>
#include <type_traits>

namespace sluice {

// A value that a peer can change at any time, in memory we share with it. It has no operators: the only thing
// to do with it is to read it once, into a local, and to check that local.
template <typename T>
class Untrusted {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  // For words of up to 8 bytes: one load, never torn, never repeated by the compiler.
  T read_once(std::memory_order order = std::memory_order_relaxed) const
    requires(std::is_integral_v<T>)
  {
    return std::atomic_ref<T>(const_cast<T&>(value_)).load(order);
  }

  // For structures: a private copy. It may mix two of the peer's writes, so check the copy as a whole.
  T copy_once() const {
    T copy;
    std::memcpy(&copy, const_cast<const T*>(&value_), sizeof(T));
    // The compiler must not go back to shared memory for a field of `copy`.
    asm volatile("" : : "r"(&copy) : "memory");
    return copy;
  }

 private:
  T value_;
};

// The same view of a word that stands in a C structure of abi/.
template <typename T>
T read_once(const T& shared, std::memory_order order = std::memory_order_relaxed) {
  return std::atomic_ref<T>(const_cast<T&>(shared)).load(order);
}

template <typename T>
T copy_once(const T& shared) {
  return reinterpret_cast<const Untrusted<T>&>(shared).copy_once();
}

// Publishes a word to a peer.
template <typename T>
void write_once(T& shared, T value, std::memory_order order = std::memory_order_relaxed) {
  std::atomic_ref<T>(shared).store(value, order);
}

}  // namespace sluice
