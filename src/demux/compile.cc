#include "demux/compile.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "base/check.h"
#include "bpf/lookup.h"

namespace sluice {

namespace {

using Words = std::array<std::uint64_t, SLUICE_KEY_WORDS>;

// What of a rule cannot be a masked comparison: a range of ports.
enum class Ranges : std::uint8_t { kNone, kSource, kDestination, kBoth };

// One rule as the program sees it.
struct Ranked {
  Words mask{}, value{};
  Ranges ranges = Ranges::kNone;
  PortRange source{}, destination{};
  std::uint64_t result = 0;  // SLUICE_VALUE_*
};

// All rules that share a mask, and the way they use ranges, share a table.
struct TableId {
  Words mask;
  Ranges ranges;
  auto operator<=>(const TableId&) const = default;
};
struct Group {
  std::uint64_t best = SLUICE_VALUE_NONE;
  std::map<Words, std::vector<const Ranked*>> keys;  // rules in the order of their ranks
};

constexpr std::uint16_t to_wire(std::uint16_t value) {
  return static_cast<std::uint16_t>(value << 8 | value >> 8);
}

std::uint64_t load_bytes(const std::uint8_t* bytes, std::size_t count) {
  std::uint64_t word = 0;
  std::memcpy(&word, bytes, count);
  return word;
}

void add(Ranked& ranked, std::size_t word, std::uint64_t mask, std::uint64_t value) {
  ranked.mask[word] |= mask;
  ranked.value[word] |= value & mask;
}

void add_flags(Ranked& ranked, std::uint64_t flags) {
  add(ranked, 6, flags, flags);
}

void add_mac(Ranked& ranked, std::size_t word, const std::optional<MacMatch>& mac) {
  if (mac) {
    add(ranked, word, load_bytes(mac->mask.data(), 6), load_bytes(mac->value.data(), 6));
    add_flags(ranked, SLUICE_KEY_ETHERNET);
  }
}

void add_ip(Ranked& ranked, bool source, const std::optional<IpMatch>& ip) {
  if (!ip) {
    return;
  }
  std::array<std::uint8_t, 16> mask{};
  for (std::uint32_t bit = 0; bit < ip->prefix; ++bit) {
    mask[bit / 8] = static_cast<std::uint8_t>(mask[bit / 8] | 0x80u >> bit % 8);
  }
  if (ip->v6) {
    std::size_t word = source ? 2 : 4;
    add(ranked, word, load_bytes(mask.data(), 8), load_bytes(ip->value.data(), 8));
    add(ranked, word + 1, load_bytes(mask.data() + 8, 8), load_bytes(ip->value.data() + 8, 8));
    add_flags(ranked, SLUICE_KEY_IPV6);
  } else {
    unsigned shift = source ? 0 : 32;
    add(ranked, 2, load_bytes(mask.data(), 4) << shift, load_bytes(ip->value.data(), 4) << shift);
    add_flags(ranked, SLUICE_KEY_IPV4);
  }
}

// Returns whether the ports are a range that no mask can express.
bool add_port(Ranked& ranked, unsigned shift, const std::optional<PortRange>& ports) {
  if (!ports) {
    return false;
  }
  add_flags(ranked, SLUICE_KEY_PORTS);
  if (ports->low == ports->high) {
    add(ranked, 6, 0xffffull << shift, std::uint64_t{to_wire(ports->low)} << shift);
    return false;
  }
  return ports->low != 0 || ports->high != 65535;
}

Ranked rank(const Rule& rule, std::uint64_t rank_number) {
  Ranked ranked;
  const Match& match = rule.match;
  add_mac(ranked, 0, match.dst_mac);
  add_mac(ranked, 1, match.src_mac);
  if (match.vlan_id) {
    add(ranked, 0, 0xffffull << 48, std::uint64_t{*match.vlan_id} << 48);
    add_flags(ranked, SLUICE_KEY_ETHERNET | SLUICE_KEY_VLAN);
  }
  if (match.eth_type) {
    add(ranked, 1, 0xffffull << 48, std::uint64_t{to_wire(*match.eth_type)} << 48);
    add_flags(ranked, SLUICE_KEY_ETHERNET);
  }
  if (match.ip_proto) {
    add(ranked, 6, 0xffull << SLUICE_PROTO_SHIFT, std::uint64_t{*match.ip_proto} << SLUICE_PROTO_SHIFT);
    add_flags(ranked, SLUICE_KEY_PROTO);
  }
  add_ip(ranked, true, match.src_ip);
  add_ip(ranked, false, match.dst_ip);
  bool source = add_port(ranked, 0, match.src_port);
  bool destination = add_port(ranked, 16, match.dst_port);
  ranked.source = source ? *match.src_port : PortRange{};
  ranked.destination = destination ? *match.dst_port : PortRange{};
  ranked.ranges = source ? (destination ? Ranges::kBoth : Ranges::kSource)
                         : (destination ? Ranges::kDestination : Ranges::kNone);
  ranked.result = rank_number << SLUICE_VALUE_RANK_SHIFT |
                  std::uint64_t{raw(rule.slot)} << SLUICE_VALUE_RULE_SHIFT |
                  std::uint64_t{raw(rule.port)} << SLUICE_VALUE_PORT_SHIFT |
                  (rule.shed ? SLUICE_VALUE_SHED : 0) | SLUICE_VALUE_USED;
  return ranked;
}

Result<void> check_rules(std::span<const Rule> rules) {
  if (rules.size() > SLUICE_DEMUX_RULES) {
    return fail("{} rules for one NIC: at most {}", rules.size(), SLUICE_DEMUX_RULES);
  }
  std::vector<bool> seen(SLUICE_DEMUX_RULES);
  for (const Rule& rule : rules) {
    SLUICE_CHECK(raw(rule.slot) < SLUICE_DEMUX_RULES, "rule slot {}", raw(rule.slot));
    SLUICE_CHECK(!seen[raw(rule.slot)], "rule slot {} twice", raw(rule.slot));
    SLUICE_CHECK(raw(rule.port) < SLUICE_DEMUX_PORTS, "port {}", raw(rule.port));
    seen[raw(rule.slot)] = true;
    for (const auto* ports : {&rule.match.src_port, &rule.match.dst_port}) {
      if (*ports && (*ports)->low > (*ports)->high) {
        return fail("rule '{}': ports {}-{} are upside down", to_string(rule.match), (*ports)->low,
                    (*ports)->high);
      }
    }
    for (const auto* ip : {&rule.match.src_ip, &rule.match.dst_ip}) {
      if (*ip && (*ip)->prefix > ((*ip)->v6 ? 128 : 32)) {
        return fail("rule '{}': a prefix of {} bits", to_string(rule.match), (*ip)->prefix);
      }
    }
  }
  return {};
}

// Space in the arena, handed out from the front.
class ArenaWriter {
 public:
  explicit ArenaWriter(sluice_rule_set& set) : set_(set) {}

  Result<std::uint32_t> take(std::uint64_t bytes) {
    std::uint64_t start = (used_ + 63) / 64 * 64;
    if (start + bytes > SLUICE_ARENA_BYTES) {
      return fail(
          "the rules need more than {} MiB of tables; rules with port ranges take most: use fewer of them",
          SLUICE_ARENA_BYTES >> 20);
    }
    used_ = start + bytes;
    return static_cast<std::uint32_t>(start);
  }
  template <typename T>
  T* at(std::uint64_t offset) {
    return reinterpret_cast<T*>(set_.arena + offset);
  }
  std::uint64_t used() const { return used_; }

 private:
  sluice_rule_set& set_;
  std::uint64_t used_ = 0;
};

// The intervals of one key: between two boundaries the same rules apply.
class IntervalBuilder {
 public:
  IntervalBuilder(Ranges ranges, const std::vector<const Ranked*>& rules)
      : by_source_(ranges == Ranges::kSource) {
    for (const Ranked* rule : rules) {
      const PortRange& range = by_source_ ? rule->source : rule->destination;
      begins_.emplace(range.low, rule);
      ends_.emplace(std::uint32_t{range.high} + 1, rule);
    }
  }

  // Writes them and returns the reference for the key's slot.
  Result<std::uint64_t> write(ArenaWriter& arena) {
    SLUICE_TRY(sweep());
    auto intervals = SLUICE_TRY(arena.take(intervals_.size() * sizeof(sluice_interval)));
    auto chains = SLUICE_TRY(arena.take(chains_.size() * sizeof(sluice_chain_entry)));
    for (sluice_interval& interval : intervals_) {
      interval.chain += chains;
    }
    std::ranges::copy(intervals_, arena.at<sluice_interval>(intervals));
    std::ranges::copy(chains_, arena.at<sluice_chain_entry>(chains));
    return std::uint64_t{intervals} << SLUICE_VALUE_RANGE_START_SHIFT |
           intervals_.size() << SLUICE_VALUE_RANGE_COUNT_SHIFT |
           (by_source_ ? SLUICE_VALUE_RANGE_SOURCE : 0) | SLUICE_VALUE_RANGE | SLUICE_VALUE_USED;
  }

 private:
  struct ByRank {
    bool operator()(const Ranked* a, const Ranked* b) const { return a->result < b->result; }
  };

  Result<void> sweep() {
    std::set<std::uint32_t> boundaries{0};
    for (const auto& [low, rule] : begins_) boundaries.insert(low);
    for (const auto& [end, rule] : ends_) boundaries.insert(end);
    boundaries.erase(65536);
    std::set<const Ranked*, ByRank> active;
    std::vector<const Ranked*> previous, chain;
    for (std::uint32_t low : boundaries) {
      for (auto [at, end] = ends_.equal_range(low); at != end; ++at) active.erase(at->second);
      for (auto [at, end] = begins_.equal_range(low); at != end; ++at) active.insert(at->second);
      chain.clear();
      for (const Ranked* rule : active) {
        if (chain.size() == SLUICE_MAX_CHAIN) {
          return fail(
              "more than {} rules that agree in all but src_port ranges overlap at dst_port {}: use exact "
              "ports, "
              "or fewer rules",
              SLUICE_MAX_CHAIN, low);
        }
        chain.push_back(rule);
        if (by_source_ || (rule->source.low == 0 && rule->source.high == 65535)) {
          break;  // hides all behind it
        }
      }
      if (low == 0 || chain != previous) {
        append(low, chain);
        previous = chain;
      }
    }
    return {};
  }

  void append(std::uint32_t low, const std::vector<const Ranked*>& chain) {
    intervals_.push_back({.low = static_cast<std::uint16_t>(low),
                          .chain_count = static_cast<std::uint16_t>(chain.size()),
                          .chain = static_cast<std::uint32_t>(chains_.size() * sizeof(sluice_chain_entry))});
    for (const Ranked* rule : chain) {
      PortRange source = by_source_ ? PortRange{} : rule->source;  // the intervals have checked it already
      chains_.push_back({.value = rule->result, .low = source.low, .high = source.high, .reserved = 0});
    }
  }

  bool by_source_;
  std::multimap<std::uint32_t, const Ranked*> begins_, ends_;
  std::vector<sluice_interval> intervals_;
  std::vector<sluice_chain_entry> chains_;
};

// Where each key of one mask stands.
struct Placement {
  std::uint64_t seed = 1;
  std::uint32_t log2 = 1;
  std::uint32_t probes = SLUICE_MAX_PROBES + 1;
  std::vector<std::int32_t> slots;  // key index, -1 empty
};

std::uint64_t seed_of(std::uint64_t attempt) {  // splitmix64, made odd
  std::uint64_t z = (attempt + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return (z ^ z >> 31) | 1;
}

// Robin Hood hashing: the key that is farther from its home stays, which keeps the longest probe short.
// False: longer than the bound.
bool place(std::span<const std::uint64_t> hashes, std::uint32_t log2, Placement& placement) {
  std::vector<std::int32_t> slots((std::size_t{1} << log2) + SLUICE_MAX_PROBES - 1, -1);
  std::uint32_t probes = 1;
  auto home = [&](std::int32_t key) { return hashes[static_cast<std::size_t>(key)] >> (64 - log2); };
  for (std::size_t i = 0; i < hashes.size(); ++i) {
    auto key = static_cast<std::int32_t>(i);
    std::size_t at = home(key);
    for (;; ++at) {
      if (at - home(key) >= SLUICE_MAX_PROBES) {
        return false;
      }
      if (slots[at] < 0) {
        break;
      }
      if (at - home(slots[at]) < at - home(key)) {
        probes = std::max(probes, static_cast<std::uint32_t>(at - home(key)) + 1);
        std::swap(slots[at], key);
      }
    }
    slots[at] = key;
    probes = std::max(probes, static_cast<std::uint32_t>(at - home(key)) + 1);
  }
  if (probes < placement.probes) {
    placement.probes = probes;
    placement.log2 = log2;
    placement.slots = std::move(slots);
    return true;
  }
  return false;
}

// A single slot per key for small tables, a short walk for large ones. `hash(seed, i)`: of the i-th key with
// that seed. `roomy`: a small table may grow until no two keys meet.
template <typename Hash>
Placement place_keys(std::size_t keys, bool roomy, const Hash& hash) {
  // At most 1 / 1.9 full: a table is at most 3.8 slots a rule, so 65,536 wide ones fit the arena.
  auto log2 = std::max(1u, static_cast<std::uint32_t>(std::bit_width(keys * 19 / 10)));
  std::uint32_t growth = roomy && keys <= 256 ? 2 : 0;
  std::uint32_t attempts = keys <= 256 ? 32 : 4;
  Placement best;
  std::vector<std::uint64_t> hashes(keys);
  for (std::uint32_t grown = 0; grown <= growth && best.probes > 1; ++grown) {
    for (std::uint64_t attempt = 0; attempt < attempts && best.probes > 1; ++attempt) {
      for (std::size_t i = 0; i < keys; ++i) {
        hashes[i] = hash(seed_of(attempt), i);
      }
      if (place(hashes, log2 + grown, best)) {
        best.seed = seed_of(attempt);
      }
    }
  }
  return best;
}

bool is_wide(const Words& mask) {
  return std::count_if(mask.begin(), mask.begin() + 6, [](auto word) { return word != 0; }) > 2;
}

class TableWriter {
 public:
  TableWriter(const TableId& id, const Group& group, bool roomy, ArenaWriter& arena)
      : id_(id), roomy_(roomy), arena_(arena) {
    for (const auto& [key, rules] : group.keys) {
      keys_.push_back(&key);
      rules_.push_back(&rules);
    }
    mask_.bound = group.best >> SLUICE_VALUE_RANK_SHIFT << SLUICE_VALUE_RANK_SHIFT;
    std::uint64_t differ = 0;
    for (const Words* key : keys_) {
      differ |= (*key)[6] ^ (*keys_[0])[6];
    }
    mask_.need_mask = id.mask[6] & ~differ;
    mask_.need_value = (*keys_[0])[6] & mask_.need_mask;
    mask_.w6_mask = id.mask[6];
    std::ranges::copy(id.mask, mask_.word);
    wide_ = is_wide(id.mask);
    if (wide_) {
      mask_.first_index = SLUICE_MASK_WIDE;
      return;
    }
    mask_.first_index = mask_.second_index = kNoWord;
    for (std::uint8_t word = 0; word < 6; ++word) {
      if (id.mask[word] != 0) {
        (mask_.first_index == kNoWord ? mask_.first_index : mask_.second_index) = word;
      }
    }
    mask_.first_mask = masked(id.mask, mask_.first_index);
    mask_.second_mask = masked(id.mask, mask_.second_index);
  }

  Result<sluice_mask> write() {
    for (const auto* rules : rules_) {
      auto value = id_.ranges == Ranges::kNone ? Result<std::uint64_t>(rules->front()->result)
                                               : IntervalBuilder(id_.ranges, *rules).write(arena_);
      if (!value) {
        return with_context(
            fmt::format("ports of rule slot {}",
                        rules->front()->result >> SLUICE_VALUE_RULE_SHIFT & (SLUICE_DEMUX_RULES - 1)),
            value.error());
      }
      values_.push_back(*value);
    }
    Placement placement = place_keys(keys_.size(), roomy_, [this](std::uint64_t seed, std::size_t i) {
      const Words& key = *keys_[i];
      set_seed(seed);
      return wide_ ? sluice_hash_wide(key.data(), seed)
                   : sluice_hash_narrow(masked(key, mask_.first_index), masked(key, mask_.second_index),
                                        key[6], &mask_);
    });
    if (placement.probes > SLUICE_MAX_PROBES) {
      return fail("no hash seed keeps {} rules with one mask within {} probes", keys_.size(),
                  SLUICE_MAX_PROBES);
    }
    std::uint64_t slot_bytes = wide_ ? sizeof(sluice_slot_wide) : sizeof(sluice_slot_narrow);
    auto table = arena_.take(placement.slots.size() * slot_bytes);
    if (!table) {
      return std::unexpected(table.error());
    }
    mask_.table = *table;
    set_seed(placement.seed);
    mask_.shift = static_cast<std::uint8_t>(64 - placement.log2);
    mask_.probes = static_cast<std::uint8_t>(placement.probes);
    for (std::size_t i = 0; i < placement.slots.size(); ++i) {
      if (placement.slots[i] >= 0) {
        write_slot(*table + i * slot_bytes, static_cast<std::size_t>(placement.slots[i]));
      }
    }
    return mask_;
  }

 private:
  static constexpr std::uint8_t kNoWord = 7;  // key.word[7], always 0

  static std::uint64_t masked(const Words& words, std::uint8_t index) {
    return index < words.size() ? words[index] : 0;
  }
  void set_seed(std::uint64_t seed) {
    mask_.seed = seed;
    mask_.second_seed = seed ^ (SLUICE_HASH_1 - 1);  // odd as well
    mask_.w6_seed = seed ^ (SLUICE_HASH_0 - 1);
  }
  void write_slot(std::uint64_t offset, std::size_t i) {
    const Words& key = *keys_[i];
    if (wide_) {
      auto* slot = arena_.at<sluice_slot_wide>(offset);
      std::ranges::copy(key, slot->word);
      slot->value = values_[i];
    } else {
      auto* slot = arena_.at<sluice_slot_narrow>(offset);
      slot->first = masked(key, mask_.first_index);
      slot->second = masked(key, mask_.second_index);
      slot->w6 = key[6];
      slot->value = values_[i];
    }
  }

  const TableId& id_;
  bool roomy_;
  bool wide_ = false;
  ArenaWriter& arena_;
  sluice_mask mask_{};
  std::vector<const Words*> keys_;
  std::vector<const std::vector<const Ranked*>*> rules_;
  std::vector<std::uint64_t> values_;
};

}  // namespace

Result<CompiledRules> compile_rules(std::span<const Rule> rules, sluice_rule_set& set) {
  SLUICE_TRY(check_rules(rules));
  std::vector<const Rule*> order(rules.size());
  std::ranges::transform(rules, order.begin(), [](const Rule& rule) { return &rule; });
  std::ranges::sort(order, [](const Rule* a, const Rule* b) {
    return a->priority != b->priority ? a->priority > b->priority : raw(a->slot) < raw(b->slot);
  });
  std::vector<Ranked> ranked;
  ranked.reserve(rules.size());
  std::map<TableId, Group> groups;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const Ranked& rule = ranked.emplace_back(rank(*order[i], i));
    Group& group = groups[{rule.mask, rule.ranges}];
    group.best = std::min(group.best, rule.result);
    group.keys[rule.value].push_back(&rule);
    if (groups.size() > SLUICE_DEMUX_MASKS) {
      return fail(
          "rule '{}' would be the {}th combination of words and prefix lengths: at most {} for one NIC",
          to_string(order[i]->match), groups.size(), SLUICE_DEMUX_MASKS);
    }
  }
  std::vector<std::pair<const TableId, Group>*> by_rank;
  for (auto& entry : groups) {
    by_rank.push_back(&entry);
  }
  std::ranges::sort(by_rank, {}, [](const auto* entry) { return entry->second.best; });

  ArenaWriter arena(set);
  bool roomy = rules.size() <= SLUICE_DEMUX_RULES / 2;
  CompiledRules compiled{.rules = static_cast<std::uint32_t>(rules.size())};
  for (const auto* entry : by_rank) {
    auto mask = TableWriter(entry->first, entry->second, roomy, arena).write();
    if (!mask) {
      return std::unexpected(mask.error());
    }
    set.mask[compiled.masks++] = *mask;
    compiled.most_probes = std::max<std::uint32_t>(compiled.most_probes, mask->probes);
  }
  for (std::uint32_t i = compiled.masks; i <= SLUICE_DEMUX_MASKS; ++i) {
    set.mask[i].bound = SLUICE_VALUE_NONE;
  }
  set.rule_count = rules.size();
  set.none = SLUICE_VALUE_NONE;
  compiled.arena_bytes = arena.used();
  return compiled;
}

}  // namespace sluice
