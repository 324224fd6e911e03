// leave_behind: for what a thread that waits in the kernel may still use when everything else ends. It is
// never destroyed, and stays in reach, so that a checker of leaks does not take it for one.
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
