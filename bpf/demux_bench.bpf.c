/* For demux_bench only: what the demux program is compared with, and what runs either of them over and over.
 *
 * BPF_PROG_TEST_RUN repeats one frame and leaves the metadata of one run in front of the next, so `again`
 * takes it away, chooses a flow, and tail-calls the program to be measured. Both sides of a comparison pay
 * for it. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
  __uint(type, BPF_MAP_TYPE_XSKMAP);
  __uint(max_entries, 64);
  __type(key, __u32);
  __type(value, __u32);
} sockets SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u32);
} measured SEC(".maps");

/* UDP over IPv4 without tags or options: destination port first_port .. first_port + flow_count - 1, at
 * random. */
__u32 flow_count;
__u32 first_port;
/* Not 0: one source address. Else every packet has another, so that each is looked up: the program keeps what
 * it found for the last key. */
__u32 train;

SEC("xdp")
int bare(struct xdp_md* ctx) {
  return (int)bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);
}

/* The least that a program with metadata can do. */
SEC("xdp")
int bare_meta(struct xdp_md* ctx) {
  if (bpf_xdp_adjust_meta(ctx, -4)) {
    return XDP_DROP;
  }
  __u32* meta = (__u32*)(long)ctx->data_meta;
  if (meta + 1 > (__u32*)(long)ctx->data) {
    return XDP_DROP;
  }
  *meta = 0;
  return (int)bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);
}

SEC("xdp")
int again(struct xdp_md* ctx) {
  long metadata = (long)ctx->data - (long)ctx->data_meta;
  bpf_xdp_adjust_meta(ctx, (int)metadata);
  __u32 chosen = (__u32)((__u64)bpf_get_prandom_u32() * flow_count >> 32) + first_port;
  __u8* data = (__u8*)(long)ctx->data;
  if (data + 42 <= (__u8*)(long)ctx->data_end) {
    /* Both ports in one store, as wide as the load that reads them: a narrower one would stall that load. */
    *(__u32*)(data + 34) = (__u32)__builtin_bswap16((__u16)chosen) << 16 | 0xa00f;
    if (!train) {
      __u64 address = *(__u64*)(data + 6); /* and the EtherType, which stays */
      *(__u64*)(data + 6) = (address & ~(0xffffffffull << 16)) | (__u64)bpf_get_prandom_u32() << 16;
    }
  }
  bpf_tail_call(ctx, &measured, 0);
  return XDP_ABORTED;
}
