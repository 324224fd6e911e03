// Classifier: a rule set in this process, for what ports send. The same compiled set (demux/compile.h) and
// the same lines that read frames and look them up (bpf/parse.h, bpf/lookup.h) as in the XDP program, so that
// a rule means the same wherever it stands.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/fd.h"
#include "base/ids.h"
#include "base/result.h"
#include "demux/compile.h"
#include "demux/rule.h"

namespace sluice {

class Classifier {
 public:
  // Errors are the compiler's: too many rules or masks, a range upside down.
  static Result<Classifier> compile(std::span<const Rule> rules);

  struct Verdict {
    PortId port = PortId::kDrop;
    RuleSlot rule = RuleSlot::kNone;
    bool operator==(const Verdict&) const = default;
  };
  // None: no rule matches. `front`: the frame, or as much of it as there is; what lies behind it is as if it
  // were not there (rules for ports do not match). Any thread; reads and writes nothing else.
  std::optional<Verdict> classify(std::span<const std::byte> front) const;

  // What every frame gets, where the best rule matches everything: no frame needs to be looked at then.
  const std::optional<Verdict>& constant() const { return constant_; }
  const CompiledRules& compiled() const { return compiled_; }

 private:
  Classifier() = default;

  Mapping set_;  // a sluice_rule_set; of its 16 MiB only the pages that the rules need exist
  CompiledRules compiled_;
  std::optional<Verdict> constant_;
};

}  // namespace sluice
