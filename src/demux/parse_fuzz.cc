// Whatever stands on the wire: the parser of the XDP program, in user space, under the address sanitizer; its
// two ways of reading a frame must agree.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#include "base/check.h"
#include "bpf/parse.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto frame =
      std::make_unique<std::uint8_t[]>(size);  // exactly as long as the input: a read behind it is caught
  std::copy(data, data + size, frame.get());
  sluice_key any{}, other{};
  sluice_key_ipv4 narrow{};
  std::uint64_t notes = sluice_parse_any(frame.get(), frame.get() + size, &any);
  if (sluice_parse_usual(frame.get(), frame.get() + size, &narrow, &other) != SLUICE_NOT_USUAL) {
    SLUICE_CHECK(notes >> SLUICE_NOTES_SHIFT == 0);
  }
  sluice_parse(frame.get(), frame.get() + size, &other);
  SLUICE_CHECK(std::memcmp(&any, &other, sizeof any) == 0);
  SLUICE_CHECK(any.word[6] >> 48 == 0 && any.word[7] == 0);
  return 0;
}
