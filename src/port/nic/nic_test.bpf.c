/* For the tests of NicQueue: UDP to one port goes to the queue's socket with metadata, all else to the
 * kernel. */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi/packet_meta.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
  __uint(type, BPF_MAP_TYPE_XSKMAP);
  __uint(max_entries, 64);
  __type(key, __u32);
  __type(value, __u32);
} sockets SEC(".maps");

const volatile __u32 udp_port = 5000;
__u32 with_metadata = 1;

SEC("xdp")
int nic_test(struct xdp_md* ctx) {
  unsigned char* data = (void*)(long)ctx->data;
  unsigned char* end = (void*)(long)ctx->data_end;

  if (data + 42 > end || data[12] != 0x08 || data[13] != 0x00 || data[23] != 17 ||
      *(__u16*)(data + 36) != bpf_htons(udp_port))
    return XDP_PASS;
  if (!bpf_map_lookup_elem(&sockets, &(__u32){ctx->rx_queue_index})) return XDP_PASS;
  if (with_metadata) {
    if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(struct sluice_packet_meta))) return XDP_ABORTED;
    struct sluice_packet_meta* meta = (void*)(long)ctx->data_meta;
    if ((void*)(meta + 1) > (void*)(long)ctx->data) return XDP_ABORTED;
    *meta = sluice_meta_of(77, 9);
  }
  return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
}
