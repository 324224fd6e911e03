/* The early demux: every packet of a NIC, before the stack sees it, becomes a verdict.
 *
 *   parse.h   frame -> key                lookup.h   key -> rule
 *   here      rule -> port -> XDP action, metadata, counters
 *
 * abi/demux.h says what stands in the maps and who may touch it. Every map is reached without a helper call: the verifier
 * replaces array lookups by loads, `ports` is a global variable.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "abi/demux.h"
#include "abi/packet_meta.h"
#include "bpf/lookup.h"
#include "bpf/parse.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct rule_set_map {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct sluice_rule_set);
};

/* The present rule set. An empty slot means: no rules yet. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, 1);
  __type(key, __u32);
  __array(values, struct rule_set_map);
} rule_sets SEC(".maps");

/* One entry per possible CPU, set before loading. Not a per-CPU map: those cannot be mapped, and cost one more dependent load. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct sluice_cpu_counters);
} counters SEC(".maps");

/* This NIC's sockets, by RX queue; sized before loading. */
struct {
  __uint(type, BPF_MAP_TYPE_XSKMAP);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u32);
} sockets SEC(".maps");

/* The devices of `netdev` ports, by port. */
struct {
  __uint(type, BPF_MAP_TYPE_DEVMAP);
  __uint(max_entries, SLUICE_DEMUX_PORTS);
  __type(key, __u32);
  __type(value, __u32);
} netdevs SEC(".maps");

struct sluice_port ports[SLUICE_DEMUX_PORTS] SEC(".data.ports");

static __always_inline __u32 flow_hash(const struct sluice_key* key) {
  __u64 sum;
  if (key->word[6] & SLUICE_KEY_IPV4) {
    sum = key->word[2] * SLUICE_HASH_2;
  } else if (key->word[6] & SLUICE_KEY_IPV6) {
    sum = key->word[2] * SLUICE_HASH_2 + key->word[3] * SLUICE_HASH_3 + key->word[4] * SLUICE_HASH_4 +
          key->word[5] * SLUICE_HASH_5;
  } else {
    sum = key->word[0] * SLUICE_HASH_0 + key->word[1] * SLUICE_HASH_1;
  }
  sum += key->word[6] * SLUICE_HASH_6;
  sum = (sum ^ sum >> 32) * SLUICE_HASH_0;
  return (__u32)(sum >> 32);
}

static __always_inline int pass(struct sluice_cpu_counters* count) {
  count->program.pass++;
  return XDP_PASS;
}

static __always_inline int drop(struct sluice_cpu_counters* count) {
  count->program.drop++;
  return XDP_DROP;
}

static __always_inline int to_socket(struct xdp_md* ctx, struct sluice_cpu_counters* count,
                                     struct sluice_port_counters* port_count, __u32 port, __u32 rule, __u32 hash) {
  if (SLUICE_UNLIKELY(bpf_xdp_adjust_meta(ctx, -(int)sizeof(struct sluice_packet_meta)))) {
    port_count->drop_no_metadata++;
    return drop(count);
  }
  struct sluice_packet_meta* meta = (void*)(long)ctx->data_meta;
  if (SLUICE_UNLIKELY((void*)(meta + 1) > (void*)(long)ctx->data)) {
    port_count->drop_no_metadata++;
    return drop(count);
  }
  meta->rule = rule;
  meta->flow_hash = hash;
  meta->port = (__u16)port;
  meta->magic = SLUICE_META_MAGIC;
  /* The fallback is for a queue without a socket only; a full ring shows in the socket's own statistics. */
  int verdict = (int)bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);
  if (SLUICE_UNLIKELY(verdict != XDP_REDIRECT)) {
    port_count->drop_no_socket++;
    return drop(count);
  }
  count->program.redirect_socket++;
  return verdict;
}

static __always_inline int to_netdev(struct sluice_cpu_counters* count, struct sluice_port_counters* port_count, __u32 port) {
  int verdict = (int)bpf_redirect_map(&netdevs, port, XDP_DROP);
  if (SLUICE_UNLIKELY(verdict != XDP_REDIRECT)) {
    port_count->drop_no_netdev++;
    return drop(count);
  }
  count->program.redirect_netdev++;
  return verdict;
}

static __always_inline void note(struct sluice_cpu_counters* count, const struct sluice_parse_notes* notes) {
  if (SLUICE_UNLIKELY(notes->truncated)) {
    count->program.truncated++;
  }
  if (SLUICE_UNLIKELY(notes->fragment)) {
    count->program.fragments++;
  }
  if (SLUICE_UNLIKELY(notes->header_limit)) {
    count->program.header_limit++;
  }
}

SEC("xdp")
int sluice_demux(struct xdp_md* ctx) {
  const __u8* data = (const __u8*)(long)ctx->data;
  const __u8* end = (const __u8*)(long)ctx->data_end;
  __u32 cpu = bpf_get_smp_processor_id();
  struct sluice_cpu_counters* count = bpf_map_lookup_elem(&counters, &cpu);
  if (!count) {
    return XDP_PASS; /* cannot be: one entry per possible CPU */
  }
  struct sluice_key key;
  struct sluice_parse_notes notes;
  sluice_parse(data, end, &key, &notes);
  note(count, &notes);

  __u64 best = SLUICE_VALUE_NONE;
  __u32 zero = 0;
  void* set_map = bpf_map_lookup_elem(&rule_sets, &zero);
  if (set_map) {
    struct sluice_rule_set* set = bpf_map_lookup_elem(set_map, &zero);
    if (set) {
      best = sluice_lookup(set, &key);
    }
  }
  if (best == SLUICE_VALUE_NONE) {
    count->program.no_rule++;
    return pass(count);
  }

  __u64 bytes = (__u64)(end - data);
  __u32 rule = (__u32)(best >> SLUICE_VALUE_RULE_SHIFT) & (SLUICE_DEMUX_RULES - 1);
  __u32 port = (__u32)(best >> SLUICE_VALUE_PORT_SHIFT) & (SLUICE_DEMUX_PORTS - 1);
  struct sluice_rule_counters* rule_count = &count->rule[rule];
  rule_count->packets++;
  rule_count->bytes += bytes;
  struct sluice_port_counters* port_count = &count->port[port];
  port_count->packets++;
  port_count->bytes += bytes;
  const struct sluice_port* entry = &ports[port];

  if (SLUICE_UNLIKELY((best & SLUICE_VALUE_SHED) && *(const volatile __u64*)&entry->pressure)) {
    port_count->drop_shed++;
    return drop(count);
  }
  __u32 kind = *(const volatile __u32*)&entry->kind;
  if (SLUICE_LIKELY(kind == SLUICE_PORT_SOCKET)) {
    return to_socket(ctx, count, port_count, port, rule, flow_hash(&key));
  }
  switch (kind) {
    case SLUICE_PORT_KERNEL:
      return pass(count);
    case SLUICE_PORT_DROP:
      return drop(count);
    case SLUICE_PORT_NETDEV:
      return to_netdev(count, port_count, port);
    case SLUICE_PORT_DETACHED:
      port_count->drop_no_reader++;
      return drop(count);
    default:
      port_count->drop_no_port++;
      return drop(count);
  }
}
