/* A key finds its rule in a compiled rule set (abi/demux.h). The XDP program and the tests in user space
 * compile the same lines.
 *
 * Offsets come from the compiler, in a map that only the control thread writes; they are masked all the same,
 * because the verifier wants to see it.
 */
#ifndef SLUICE_BPF_LOOKUP_H
#define SLUICE_BPF_LOOKUP_H

#include "bpf/parse.h"

#define SLUICE_ARENA_MASK (SLUICE_ARENA_BYTES - 1)

/* A global function: the verifier checks it once, not once per mask, and takes its pointers for possibly
 * null. Only for what few packets need: where the kernel guards returns against speculation (SRSO), a call
 * costs about 7 ns, as much as a lookup. */
#ifdef __bpf__
#define SLUICE_OUTLINE __attribute__((noinline))
#define SLUICE_PRAGMA(text) _Pragma(#text)
#define SLUICE_UNROLL(turns) SLUICE_PRAGMA(clang loop unroll_count(turns))
#else
#define SLUICE_OUTLINE static inline
#define SLUICE_UNROLL(turns)
#endif

/* Odd, from the digits of the golden ratio, pi, e and so on: one per word. */
#define SLUICE_HASH_0 0x9e3779b97f4a7c15ull
#define SLUICE_HASH_1 0x243f6a8885a308d3ull
#define SLUICE_HASH_2 0xb7e151628aed2a6bull
#define SLUICE_HASH_3 0x6a09e667f3bcc909ull
#define SLUICE_HASH_4 0xbb67ae8584caa73bull
#define SLUICE_HASH_5 0x3c6ef372fe94f82bull
#define SLUICE_HASH_6 0xa54ff53a5f1d36f1ull

/* Of words that are masked already; the table's slot is the hash >> mask.shift. Dietzfelbinger's
 * multiply-shift: two keys meet with probability 2 / slots over the choice of the seed. */
SLUICE_INLINE sluice_u64 sluice_hash_narrow(sluice_u64 first, sluice_u64 second, sluice_u64 w6,
                                            const struct sluice_mask* mask) {
  return first * mask->seed + second * mask->second_seed + w6 * mask->w6_seed;
}

SLUICE_INLINE sluice_u64 sluice_hash_wide(const sluice_u64* word, sluice_u64 seed) {
  sluice_u64 sum = word[0] * SLUICE_HASH_0 + word[1] * SLUICE_HASH_1 + word[2] * SLUICE_HASH_2 +
                   word[3] * SLUICE_HASH_3 + word[4] * SLUICE_HASH_4 + word[5] * SLUICE_HASH_5 +
                   word[6] * SLUICE_HASH_6;
  return (sum ^ sum >> 32) * seed;
}

/* The best rule of a key with port ranges, or SLUICE_VALUE_NONE. */
SLUICE_INLINE sluice_u64 sluice_find_range(const struct sluice_rule_set* set, sluice_u64 reference,
                                           sluice_u64 w6) {
  sluice_u16 source = SLUICE_BE16((sluice_u16)w6);
  sluice_u16 destination = SLUICE_BE16((sluice_u16)(w6 >> 16));
  sluice_u16 port = reference & SLUICE_VALUE_RANGE_SOURCE ? source : destination;
  sluice_u32 start = (sluice_u32)(reference >> SLUICE_VALUE_RANGE_START_SHIFT);
  sluice_u32 first = 0; /* its low is not above port; the one at first + count is */
  sluice_u32 count = (sluice_u32)(reference >> SLUICE_VALUE_RANGE_COUNT_SHIFT) & 0xffffff;
  for (sluice_u32 step = 0; step < SLUICE_SEARCH_STEPS; step++) {
    if (count <= 1) {
      break;
    }
    sluice_u32 half = count / 2;
    sluice_u32 at = (start + (first + half) * (sluice_u32)sizeof(struct sluice_interval)) & SLUICE_ARENA_MASK;
    if (((const struct sluice_interval*)(set->arena + at))->low <= port) {
      first += half;
      count -= half;
    } else {
      count = half;
    }
  }
  sluice_u32 at = (start + first * (sluice_u32)sizeof(struct sluice_interval)) & SLUICE_ARENA_MASK;
  const struct sluice_interval* interval = (const struct sluice_interval*)(set->arena + at);
  sluice_u32 chain = interval->chain & SLUICE_ARENA_MASK;
  sluice_u32 chain_count = interval->chain_count;
  for (sluice_u32 i = 0; i < SLUICE_MAX_CHAIN; i++) {
    if (i >= chain_count) {
      break;
    }
    const struct sluice_chain_entry* entry =
        (const struct sluice_chain_entry*)(set->arena + chain + i * sizeof(struct sluice_chain_entry));
    if (source >= entry->low && source <= entry->high) {
      return entry->value;
    }
  }
  return SLUICE_VALUE_NONE;
}

/* The slots behind the first. `at`: byte offset of the first in the arena. */
SLUICE_OUTLINE sluice_u64 sluice_probe_narrow(const struct sluice_rule_set* set,
                                              const struct sluice_slot_narrow* key, sluice_u64 at,
                                              sluice_u32 probes) {
  if (!set || !key) {
    return 0;
  }
  const struct sluice_slot_narrow* entry =
      (const struct sluice_slot_narrow*)(set->arena + (at & SLUICE_ARENA_MASK));
  for (sluice_u32 i = 1; i < SLUICE_MAX_PROBES; i++) {
    if (i >= probes || entry[i].value == 0) {
      break;
    }
    if (entry[i].first == key->first && entry[i].second == key->second && entry[i].w6 == key->w6) {
      return entry[i].value;
    }
  }
  return 0;
}

SLUICE_INLINE sluice_u64 sluice_find_narrow(const struct sluice_rule_set* set, const struct sluice_mask* mask,
                                            const struct sluice_key* key) {
  struct sluice_slot_narrow wanted;
  wanted.first = key->word[mask->first_index & 7] & mask->first_mask;
  wanted.second = key->word[mask->second_index & 7] & mask->second_mask;
  wanted.w6 = key->word[6] & mask->w6_mask;
  sluice_u64 slot = sluice_hash_narrow(wanted.first, wanted.second, wanted.w6, mask) >> mask->shift;
  sluice_u64 at = (mask->table + slot * sizeof(struct sluice_slot_narrow)) & SLUICE_ARENA_MASK;
  const struct sluice_slot_narrow* entry = (const struct sluice_slot_narrow*)(set->arena + at);
  sluice_u64 value = entry->value;
  if (SLUICE_LIKELY(
          ((entry->first ^ wanted.first) | (entry->second ^ wanted.second) | (entry->w6 ^ wanted.w6)) == 0)) {
    return value; /* 0 when the slot is empty and the key is all zeros */
  }
  if (SLUICE_LIKELY(value == 0 || mask->probes == 1)) {
    return 0;
  }
  wanted.value = 0;
  return sluice_probe_narrow(set, &wanted, at, mask->probes);
}

SLUICE_OUTLINE sluice_u64 sluice_find_wide(const struct sluice_rule_set* set, const struct sluice_mask* mask,
                                           const struct sluice_key* key) {
  if (!set || !mask || !key) {
    return 0;
  }
  sluice_u64 word[SLUICE_KEY_WORDS];
  SLUICE_UNROLL(7)
  for (int i = 0; i < (int)SLUICE_KEY_WORDS; i++) {
    word[i] = key->word[i] & mask->word[i];
  }
  sluice_u64 slot = sluice_hash_wide(word, mask->seed) >> mask->shift;
  sluice_u64 at = (mask->table + slot * sizeof(struct sluice_slot_wide)) & SLUICE_ARENA_MASK;
  const struct sluice_slot_wide* entry = (const struct sluice_slot_wide*)(set->arena + at);
  sluice_u32 probes = mask->probes;
  for (sluice_u32 i = 0; i < SLUICE_MAX_PROBES; i++) {
    if (i >= probes || entry[i].value == 0) {
      break;
    }
    sluice_u64 differ = 0;
    SLUICE_UNROLL(7)
    for (int j = 0; j < (int)SLUICE_KEY_WORDS; j++) {
      differ |= entry[i].word[j] ^ word[j];
    }
    if (differ == 0) {
      return entry[i].value;
    }
  }
  return 0;
}

/* One mask: the better of `best` and what it holds for the key. */
SLUICE_INLINE sluice_u64 sluice_try_mask(const struct sluice_rule_set* set, const struct sluice_mask* mask,
                                         const struct sluice_key* key, sluice_u64 best) {
  sluice_u64 w6 = key->word[6];
  if ((w6 & mask->need_mask) != mask->need_value) {
    return best;
  }
  sluice_u64 value = SLUICE_UNLIKELY(mask->first_index & SLUICE_MASK_WIDE)
                         ? sluice_find_wide(set, mask, key)
                         : sluice_find_narrow(set, mask, key);
  if (value == 0) {
    return best;
  }
  if (SLUICE_UNLIKELY(value & SLUICE_VALUE_RANGE)) {
    value = sluice_find_range(set, value, w6);
  }
  return value < best ? value : best;
}

/* The verifier forgets old states of long loops and then walks every path of each turn anew; so the masks are
 * tried in groups: the first few in the caller, the others by a function that is checked once. */
#define SLUICE_MASKS_INLINE 16u
#define SLUICE_MASKS_PER_GROUP 8u
#define SLUICE_MASK_GROUPS 6u

SLUICE_OUTLINE sluice_u64 sluice_lookup_group(const struct sluice_rule_set* set, const struct sluice_key* key,
                                              sluice_u32 first, sluice_u64 best) {
  if (!set || !key || first > SLUICE_DEMUX_MASKS - SLUICE_MASKS_PER_GROUP) {
    return best;
  }
  const struct sluice_mask* mask = &set->mask[first];
  for (sluice_u32 i = 0; i < SLUICE_MASKS_PER_GROUP; i++, mask++) {
    if (best <= mask->bound) {
      break;
    }
    best = sluice_try_mask(set, mask, key, best);
  }
  return best;
}

/* The value of the best rule that matches, or SLUICE_VALUE_NONE. Ends at the first mask whose rules all rank
 * behind the best one found; the bound behind the last mask is all ones. */
SLUICE_INLINE sluice_u64 sluice_lookup(const struct sluice_rule_set* set, const struct sluice_key* key) {
  sluice_u64 best = set->none;
  for (sluice_u32 i = 0; i < SLUICE_MASKS_INLINE; i++) {
    if (best <= set->mask[i].bound) {
      return best;
    }
    best = sluice_try_mask(set, &set->mask[i], key, best);
  }
  sluice_u32 next = SLUICE_MASKS_INLINE;
  for (sluice_u32 group = 0; group < SLUICE_MASK_GROUPS; group++) {
    if (best <= set->mask[next].bound) {
      return best;
    }
    best = sluice_lookup_group(set, key, next, best);
    next += SLUICE_MASKS_PER_GROUP;
  }
  return best;
}

SLUICE_INLINE int sluice_is_last(const struct sluice_last_lookup* last, sluice_u64 serial,
                                 const struct sluice_key* key) {
  if (last->w6 != key->word[6] || last->serial != serial) {
    return 0;
  }
  return ((last->word[0] ^ key->word[0]) | (last->word[1] ^ key->word[1]) | (last->word[2] ^ key->word[2]) |
          (last->word[3] ^ key->word[3]) | (last->word[4] ^ key->word[4]) | (last->word[5] ^ key->word[5])) ==
         0;
}

/* The same for an IPv4 key: its w6 says so, and then the words that are not here are 0 in both. */
SLUICE_INLINE int sluice_is_last_ipv4(const struct sluice_last_lookup* last, sluice_u64 serial,
                                      const struct sluice_key_ipv4* key) {
  return last->w6 == key->w6 && last->serial == serial && last->word[2] == key->w2 &&
         last->word[0] == key->w0 && last->word[1] == key->w1;
}

/* A destination from 01:80:c2:00:00:00 to 0f, or MAC control: what bridges do not forward (IEEE 802.1Q table
 * 8-1). Words as in abi/demux.h. */
SLUICE_INLINE int sluice_is_reserved(const struct sluice_key* key) {
  return (key->word[0] & 0xf0ffffffffffull) == 0x000000c28001ull || key->word[1] >> 48 == SLUICE_MAC_CONTROL;
}

SLUICE_INLINE void sluice_remember(struct sluice_last_lookup* last, sluice_u64 serial,
                                   const struct sluice_key* key, sluice_u64 value) {
  SLUICE_UNROLL(6)
  for (int i = 0; i < 6; i++) {
    last->word[i] = key->word[i];
  }
  last->w6 = key->word[6];
  last->serial = serial;
  last->value = value;
}

#endif
