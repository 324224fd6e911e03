#include "demux/classifier.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "bpf/lookup.h"
#include "bpf/parse.h"

namespace sluice {

namespace {

// The best rule has the highest priority, then the lowest slot (demux/rule.h).
bool ranks_before(const Rule& a, const Rule& b) {
  return a.priority != b.priority ? a.priority > b.priority : raw(a.slot) < raw(b.slot);
}

}  // namespace

Result<Classifier> Classifier::compile(std::span<const Rule> rules) {
  void* memory = ::mmap(nullptr, sizeof(sluice_rule_set), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return fail_errno(errno, "no memory for {} rules", rules.size());
  }
  Classifier classifier;
  classifier.set_ = Mapping::adopt(memory, sizeof(sluice_rule_set));
  auto compiled = SLUICE_TRY(compile_rules(rules, *reinterpret_cast<sluice_rule_set*>(memory)));
  classifier.compiled_ = compiled;
  auto best = std::ranges::min_element(rules, ranks_before);
  if (best != rules.end() && best->match == Match{}) {
    classifier.constant_ = Verdict{best->port, best->slot};
  }
  return classifier;
}

std::optional<Classifier::Verdict> Classifier::classify(std::span<const std::byte> front) const {
  // A frame of no bytes is nowhere, and the parser counts from where it begins.
  static constexpr sluice_u8 kNothing[1] = {};
  const auto* data = front.empty() ? kNothing : reinterpret_cast<const sluice_u8*>(front.data());
  const sluice_u8* end = data + front.size();
  sluice_key key;
  sluice_parse(data, end, &key);
  const sluice_u64 best = sluice_lookup(reinterpret_cast<const sluice_rule_set*>(set_.data()), &key);
  if (best == SLUICE_VALUE_NONE) {
    return std::nullopt;
  }
  return Verdict{PortId{static_cast<std::uint16_t>(best >> SLUICE_VALUE_PORT_SHIFT)},
                 RuleSlot{static_cast<std::uint16_t>(best >> SLUICE_VALUE_RULE_SHIFT)}};
}

}  // namespace sluice
