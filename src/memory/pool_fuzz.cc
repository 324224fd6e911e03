// libFuzzer: any sequence of calls on a pool, beside the model of walk.h.
#include "memory/walk.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace sluice;
  static const Arena arena =
      Arena::create({.name = "fuzz", .page_count = 128, .huge = ArenaOptions::Huge::kNever}).value();
  test::ByteChoices choices({data, size});
  test::PoolWalk(arena, choices).run();
  return 0;
}
