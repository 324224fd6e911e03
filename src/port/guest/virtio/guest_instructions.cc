// Run under callgrind by guest_instructions_test.sh: `guest_instructions RINGS BYTES BURSTS`.
#include <cstdio>
#include <cstdlib>

#include "port/guest/virtio/guest_workload.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fputs("usage: guest_instructions RINGS BYTES BURSTS\n", stderr);
    return 2;
  }
  const auto workload =
      sluice::test::make_guest_workload(argv[1], static_cast<std::uint32_t>(std::atoi(argv[2])));
  for (int i = std::atoi(argv[3]); i > 0; --i) {
    workload->turn();
  }
  return 0;
}
