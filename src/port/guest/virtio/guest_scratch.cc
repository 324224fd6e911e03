#include "port/guest/virtio/guest_scratch.h"

#include <sys/mman.h>

#include <cerrno>

#include "base/check.h"

namespace sluice {

GuestScratch::GuestScratch() {
  // Not touched before it is needed, so it costs nothing until then.
  void* memory = ::mmap(nullptr, kGatherBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  SLUICE_CHECK(memory != MAP_FAILED, "no address space: errno {}", errno);
  gather = Mapping::adopt(memory, kGatherBytes);
  ::madvise(memory, kGatherBytes, MADV_DONTDUMP);  // frames
}

}  // namespace sluice
