/* The early demux: every packet of a NIC, before the stack sees it, becomes a verdict.
 *
 *   parse.h   frame -> key                lookup.h   key -> rule
 *   here      rule -> port -> XDP action, metadata, counters
 *
 * abi/demux.h says what stands in the maps and who may touch it. Every map is reached without a helper call:
 * the verifier replaces array lookups by loads, `ports` is a global variable.
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

/* One entry per possible CPU, set before loading. Not a per-CPU map: those cannot be mapped, and cost one
 * more dependent load. */
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

struct sluice_queue queues[SLUICE_DEMUX_QUEUES] SEC(".data.queues");
/* Not 0: a queue has an owner or is left to the kernel. Nearly always 0, and then nobody looks at the queue.
 */
__u32 some_set_apart SEC(".data.now");
/* Of the present rule set; SLUICE_SERIAL_NONE while it is being replaced. What a CPU found last with the
 * present set is the verdict, and the set itself need not be reached. */
__u64 present_serial SEC(".data.now") = SLUICE_SERIAL_NONE;

static __always_inline int pass(struct sluice_cpu_counters* count) {
  count->program.pass++;
  return XDP_PASS;
}

static __always_inline int drop(struct sluice_cpu_counters* count) {
  count->program.drop++;
  return XDP_DROP;
}

static __always_inline int to_socket(struct xdp_md* ctx, struct sluice_cpu_counters* count,
                                     struct sluice_port_counters* port_count, __u32 port, __u32 rule) {
  if (SLUICE_UNLIKELY(bpf_xdp_adjust_meta(ctx, -(int)sizeof(struct sluice_packet_meta)))) {
    port_count->drop_no_metadata++;
    return drop(count);
  }
  struct sluice_packet_meta* meta = (void*)(long)ctx->data_meta;
  if (SLUICE_UNLIKELY((void*)(meta + 1) > (void*)(long)ctx->data)) {
    port_count->drop_no_metadata++;
    return drop(count);
  }
  *meta = sluice_meta_of(rule, port);
  /* Before the call: behind it the counter would have to be fetched anew, with nothing to do meanwhile. */
  count->program.redirect_socket++;
  /* The fallback is for a queue without a socket only; a full ring shows in the socket's own statistics. */
  int verdict = (int)bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);
  if (SLUICE_UNLIKELY(verdict != XDP_REDIRECT)) {
    count->program.redirect_socket--;
    port_count->drop_no_socket++;
    return drop(count);
  }
  return verdict;
}

static __always_inline int to_netdev(struct sluice_cpu_counters* count,
                                     struct sluice_port_counters* port_count, __u32 port) {
  int verdict = (int)bpf_redirect_map(&netdevs, port, XDP_DROP);
  if (SLUICE_UNLIKELY(verdict != XDP_REDIRECT)) {
    port_count->drop_no_netdev++;
    return drop(count);
  }
  count->program.redirect_netdev++;
  return verdict;
}

/* What sluice_parse_usual() leaves. A global function: the verifier checks it once, the usual path keeps its
 * registers. */
__attribute__((noinline)) __u64 sluice_parse_rest(struct xdp_md* ctx, struct sluice_key* key) {
  if (!key) {
    return 0;
  }
  return sluice_parse_any((const __u8*)(long)ctx->data, (const __u8*)(long)ctx->data_end, key);
}

static __always_inline void note(struct sluice_cpu_counters* count, __u64 w6) {
  if (w6 & SLUICE_NOTE_TRUNCATED) {
    count->program.truncated++;
  }
  if (w6 & SLUICE_NOTE_FRAGMENT) {
    count->program.fragments++;
  }
  if (w6 & SLUICE_NOTE_HEADER_LIMIT) {
    count->program.header_limit++;
  }
}

static __always_inline __u32 owner_of(__u32 queue) {
  return queue >= SLUICE_DEMUX_QUEUES ? SLUICE_QUEUE_KERNEL : *(const volatile __u32*)&queues[queue].owner;
}

static __always_inline int drop_on_owned_queue(struct xdp_md* ctx, struct sluice_cpu_counters* count,
                                               struct sluice_port_counters* port_count) {
  __u32 queue = ctx->rx_queue_index;
  if (queue < SLUICE_DEMUX_QUEUES) {
    queues[queue].drop_owned_queue++; /* one CPU serves a queue at a time (NAPI) */
  }
  port_count->drop_owned_queue++;
  return drop(count);
}

/* What the rules say of this frame: the value of the best, or SLUICE_VALUE_NONE. */
static __always_inline __u64 best_rule(struct xdp_md* ctx, struct sluice_cpu_counters* count,
                                       const __u8* data, const __u8* end) {
  struct sluice_last_lookup* last = &count->last;
  __u64 serial = *(const volatile __u64*)&present_serial;
  struct sluice_key_ipv4 narrow;
  struct sluice_key key;
  enum sluice_usual usual = sluice_parse_usual(data, end, &narrow, &key);
  if (SLUICE_LIKELY(usual == SLUICE_USUAL_IPV4)) {
    if (sluice_is_last_ipv4(last, serial, &narrow)) {
      return last->value;
    }
    sluice_widen(&narrow, &key);
  } else {
    if (usual == SLUICE_NOT_USUAL) {
      __u64 w6 = sluice_parse_rest(ctx, &key);
      if (w6 >> SLUICE_NOTES_SHIFT) {
        note(count, w6);
      }
    }
    if (sluice_is_last(last, serial, &key)) {
      return last->value;
    }
  }
  __u32 zero = 0;
  void* set_map = bpf_map_lookup_elem(&rule_sets, &zero);
  if (!set_map) {
    return SLUICE_VALUE_NONE;
  }
  struct sluice_rule_set* set = bpf_map_lookup_elem(set_map, &zero);
  if (!set) {
    return SLUICE_VALUE_NONE;
  }
  __u64 best = sluice_lookup(set, &key);
  if (SLUICE_UNLIKELY(best != SLUICE_VALUE_NONE && sluice_is_reserved(&key))) {
    best |= SLUICE_VALUE_RESERVED;
  }
  sluice_remember(last, set->serial, &key, best);
  return best;
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
  __u32 owner = SLUICE_QUEUE_SHARED;
  if (SLUICE_UNLIKELY(*(const volatile __u32*)&some_set_apart)) {
    owner = owner_of(ctx->rx_queue_index);
    if (owner == SLUICE_QUEUE_KERNEL) {
      return pass(count);
    }
  }
  __u64 best = best_rule(ctx, count, data, end);
  if (best == SLUICE_VALUE_NONE) {
    count->program.no_rule++;
    return pass(count);
  }

  __u64 bytes = (__u64)((long)ctx->data_end - (long)ctx->data);
  __u32 rule = (__u32)(best >> SLUICE_VALUE_RULE_SHIFT) & (SLUICE_DEMUX_RULES - 1);
  __u32 port = (__u32)(best >> SLUICE_VALUE_PORT_SHIFT) & (SLUICE_DEMUX_PORTS - 1);
  struct sluice_rule_counters* rule_count = &count->rule[rule];
  rule_count->packets++;
  rule_count->bytes += bytes;
  struct sluice_port_counters* port_count = &count->port[port];
  const struct sluice_port* entry = &ports[port];

  __u32 kind = *(const volatile __u32*)&entry->kind;
  if (SLUICE_UNLIKELY(best & (SLUICE_VALUE_SHED | SLUICE_VALUE_RESERVED))) {
    if ((best & SLUICE_VALUE_SHED) && *(const volatile __u64*)&entry->pressure) {
      port_count->drop_shed++;
      return drop(count);
    }
    if ((best & SLUICE_VALUE_RESERVED) && kind == SLUICE_PORT_SOCKET &&
        !*(const volatile __u32*)&entry->trusted) {
      port_count->drop_reserved++;
      return drop(count);
    }
  }
  if (SLUICE_LIKELY(kind == SLUICE_PORT_SOCKET)) {
    if (SLUICE_UNLIKELY(owner != SLUICE_QUEUE_SHARED && owner != port)) {
      return drop_on_owned_queue(ctx, count, port_count);
    }
    return to_socket(ctx, count, port_count, port, rule);
  }
  switch (kind) {
    case SLUICE_PORT_KERNEL:
      return pass(count);
    case SLUICE_PORT_DROP:
      return drop(count);
    case SLUICE_PORT_NETDEV:
      if (owner != SLUICE_QUEUE_SHARED) {
        return drop_on_owned_queue(ctx, count, port_count);
      }
      return to_netdev(count, port_count, port);
    case SLUICE_PORT_DETACHED:
      port_count->drop_no_reader++;
      return drop(count);
    default:
      port_count->drop_no_port++;
      return drop(count);
  }
}
