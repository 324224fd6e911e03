// Umem: an arena registered with the kernel (XDP_UMEM_REG), once, for all queues of its domain (XDP_SHARED_UMEM).
#pragma once

#include <cstdint>
#include <memory>

#include "base/result.h"
#include "memory/arena.h"

struct xsk_umem;

namespace sluice {

// The arena must outlive it. Errors say what to do: too little locked memory, no AF_XDP in this kernel, no privilege.
class Umem {
 public:
  static Result<std::unique_ptr<Umem>> create(Arena& arena);
  ~Umem();
  Arena& arena() const;
  // (room for what queue.cc needs: libxdp's handle, the first queue's fill and completion ring)
};

}  // namespace sluice
