/* The metadata that the XDP demux program puts in front of every packet it sends to an AF_XDP socket.
 *
 *   parties: the BPF program writes it, the worker reads it; an app that holds the page may read it too.
 *   place:   the 12 bytes that end where the frame begins (bpf_xdp_adjust_meta; XDP metadata must be a
 * multiple of 4 bytes, Documentation/networking/xdp-rx-metadata.rst). trust:   no app can write a received
 * page (D4), so what stands here is the program's own word.
 */
#ifndef SLUICE_ABI_PACKET_META_H
#define SLUICE_ABI_PACKET_META_H

#ifdef __bpf__
#include <linux/types.h>
typedef __u8 sluice_u8;
typedef __u16 sluice_u16;
typedef __u32 sluice_u32;
typedef __u64 sluice_u64;
#else
#include <stdint.h>
typedef uint8_t sluice_u8;
typedef uint16_t sluice_u16;
typedef uint32_t sluice_u32;
typedef uint64_t sluice_u64;
#endif

#define SLUICE_META_MAGIC 0x5157u /* tells a packet of ours from a driver that lost the metadata */

struct sluice_packet_meta {
  sluice_u32 rule;      /* counter slot of the rule that matched */
  sluice_u32 flow_hash; /* of the 5-tuple where there is one, else of the addresses */
  sluice_u16 port;      /* port table index, 2 .. 1023 */
  sluice_u16 magic;     /* SLUICE_META_MAGIC */
};

#ifdef __cplusplus
static_assert(sizeof(sluice_packet_meta) == 12, "abi");
#else
_Static_assert(sizeof(struct sluice_packet_meta) == 12, "abi");
#endif

#endif
