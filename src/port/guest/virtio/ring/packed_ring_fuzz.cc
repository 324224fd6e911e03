#include "port/guest/virtio/ring/ring_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* input, std::size_t bytes) {
  return sluice::test::fuzz_ring(sluice::VringFormat::kPacked, input, bytes);
}
