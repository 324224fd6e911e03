/* Everything that comes in on a queue goes to its socket; with or without Sluice's metadata. Or only what a
 * rule written by hand takes. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

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

/* Set before loading: the UDP port of `redirect_by_rule`. */
const volatile __u16 rule_port = 0;

/* `ip_proto udp dst_port rule_port` for one IPv4 header behind the MAC addresses, as somebody writes it who
 * has this rule and no other. The rest is the kernel's. */
SEC("xdp")
int redirect_by_rule(struct xdp_md* ctx) {
  void* end = (void*)(long)ctx->data_end;
  struct ethhdr* ethernet = (void*)(long)ctx->data;
  struct iphdr* ip = (void*)(ethernet + 1);
  if ((void*)(ip + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP)) return XDP_PASS;
  if (ip->protocol != IPPROTO_UDP || (ip->frag_off & bpf_htons(0x3fff))) return XDP_PASS;
  struct udphdr* udp = (void*)ip + ip->ihl * 4;
  if ((void*)(udp + 1) > end || udp->dest != bpf_htons(rule_port)) return XDP_PASS;
  return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
}
