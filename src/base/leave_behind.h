// leave_behind: keeps an object that a thread may still use, because it waits in the kernel while everything
// else ends. The object is never destroyed. It stays in reach, so a checker of leaks does not report it.
#pragma once

#include <memory>
#include <utility>
#include <vector>

namespace sluice {

// One thread: the one that ends things.
template <typename T>
void leave_behind(std::unique_ptr<T> object) {
  static auto* all = std::make_unique<std::vector<T*>>().release();
  all->push_back(object.release());
}

}  // namespace sluice
