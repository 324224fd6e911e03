// libFuzzer: any sequence of lendings and returns, honest and not, beside the model of walk.h.
#include "memory/walk.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  sluice::test::ByteChoices choices({data, size});
  sluice::test::LedgerWalk(choices).run();
  return 0;
}
