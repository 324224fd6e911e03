/* Everything that comes in on a queue goes to its socket; with or without Sluice's metadata. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "abi/packet_meta.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
  __uint(type, BPF_MAP_TYPE_XSKMAP);
  __uint(max_entries, 64);
  __type(key, __u32);
  __type(value, __u32);
} sockets SEC(".maps");

SEC("xdp")
int bare_redirect(struct xdp_md* ctx) {
  return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
}

SEC("xdp")
int redirect_with_metadata(struct xdp_md* ctx) {
  if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(struct sluice_packet_meta))) return XDP_ABORTED;
  struct sluice_packet_meta* meta = (void*)(long)ctx->data_meta;
  if ((void*)(meta + 1) > (void*)(long)ctx->data) return XDP_ABORTED;
  *meta = sluice_meta_of(1, 2);
  return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
}
