// Run under callgrind by forward_instructions_test.sh: `forward_instructions PORTS BURSTS`.
#include <cstdio>
#include <cstdlib>

#include "worker/forward/forward_workload.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: forward_instructions PORTS BURSTS\n", stderr);
    return 2;
  }
  const auto workload =
      std::make_unique<sluice::ForwardWorkload>(static_cast<std::uint32_t>(std::atoi(argv[1])));
  for (int i = std::atoi(argv[2]); i > 0; --i) {
    workload->turn();
  }
  if (workload->left() != 0) {
    std::fprintf(stderr, "%llu packets were not taken\n", static_cast<unsigned long long>(workload->left()));
    return 1;
  }
  return 0;
}
