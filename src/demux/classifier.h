// Classifier: a set of ingress rules in this process. It has the compiled set (demux/compile.h) of the XDP
// program, and the program's own lines that read frames and look them up (bpf/parse.h, bpf/lookup.h). So a
// rule means the same wherever it stands.
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
  // None: no rule matches. `front`: the frame, or its first bytes. Bytes behind `front` count as missing, so
  // rules for ports may not match. Any thread; reads and writes nothing else.
  std::optional<Verdict> classify(std::span<const std::byte> front) const;

  // The verdict of every frame, where the best rule matches everything: no frame needs to be looked at then.
  const std::optional<Verdict>& constant() const { return constant_; }
  const CompiledRules& compiled() const { return compiled_; }

 private:
  Classifier() = default;

  Mapping set_;  // a sluice_rule_set; of its 16 MiB only the pages that the rules need exist
  CompiledRules compiled_;
  std::optional<Verdict> constant_;
};

}  // namespace sluice
