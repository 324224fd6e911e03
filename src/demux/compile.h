// Rules -> the memory image that the XDP program reads (abi/demux.h). Pure: no system call, same rules same
// image.
#pragma once

#include <cstdint>
#include <span>

#include "abi/demux.h"
#include "base/result.h"
#include "demux/rule.h"

namespace sluice {

// What became of a rule set; for logs, tests and `sluicectl`.
struct CompiledRules {
  std::uint32_t rules = 0;
  std::uint32_t masks = 0;        // distinct masks: what a packet pays for, one probe each
  std::uint32_t most_probes = 0;  // of any mask
  std::uint64_t arena_bytes = 0;  // used, of SLUICE_ARENA_BYTES
};

// `set` must be all zeros. Errors (too many rules or masks, a slot twice, a range upside down, no room) leave
// it unusable.
Result<CompiledRules> compile_rules(std::span<const Rule> rules, sluice_rule_set& set);

}  // namespace sluice
