/* Run by BPF_PROG_RUN in live-frames mode: marks each frame of the template and sends it into a veth. */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Where these stand in a UDP/IPv4 frame without VLAN tag and IP options: see frame.h. */
#define SOURCE_PORT_OFFSET 34
#define CHECKSUM_OFFSET 40
#define SEQUENCE_OFFSET 42

const volatile __u32 target_ifindex = 0;
const volatile __u32 write_sequence = 0;
const volatile __u32 first_source_port = 0;
const volatile __u32 source_ports = 0; /* 0: as in the template */

__u64 sequence = 0; /* of the next frame */
__u64 frames = 0;   /* sent in all */

SEC("xdp")
int live_frame(struct xdp_md* ctx) {
  char* data = (void*)(long)ctx->data;
  char* end = (void*)(long)ctx->data_end;

  if (write_sequence || source_ports) {
    if (data + SEQUENCE_OFFSET + 8 > end) return XDP_ABORTED;
    *(__u16*)(data + CHECKSUM_OFFSET) = 0; /* none, as RFC 768 allows over IPv4 */
    if (write_sequence) __builtin_memcpy(data + SEQUENCE_OFFSET, &sequence, 8);
    if (source_ports)
      *(__u16*)(data + SOURCE_PORT_OFFSET) = bpf_htons(first_source_port + (__u32)sequence % source_ports);
  }
  sequence++;
  frames++;
  return bpf_redirect(target_ifindex, 0);
}
