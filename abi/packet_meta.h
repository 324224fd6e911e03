/* The metadata that the XDP demux program puts in front of every packet it sends to an AF_XDP socket.
 *
 *   parties: the BPF program writes it, the worker reads it; an app that holds the page may read it too.
 *   place:   the 4 bytes that end where the frame begins (bpf_xdp_adjust_meta; XDP metadata must be a
 *            multiple of 4 bytes, Documentation/networking/xdp-rx-metadata.rst).
 *   size:    metadata and the shortest frame (60 bytes) are one cache line together. The kernel writes only
 *            this line of such a packet, on one CPU, and a reader on another CPU reads only this line. So
 *            there is no flow hash: the headers to compute it from stand in that line (port/flow_hash.h).
 *   trust:   no app can write a received page (D4), so what stands here is the program's own word.
 *
 *     31            16 15        6 5     0
 *     [ rule          | port      | magic ]
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

#define SLUICE_META_MAGIC 0x35u    /* tells a packet of ours from a driver that never carries metadata */
#define SLUICE_META_PORT_SHIFT 6u  /* port table index, 2 .. 1023 */
#define SLUICE_META_RULE_SHIFT 16u /* counter slot of the rule that matched, 0 .. 65535 */

struct sluice_packet_meta {
  sluice_u32 word;
};

static inline struct sluice_packet_meta sluice_meta_of(sluice_u32 rule, sluice_u32 port) {
  struct sluice_packet_meta meta;
  meta.word = rule << SLUICE_META_RULE_SHIFT | port << SLUICE_META_PORT_SHIFT | SLUICE_META_MAGIC;
  return meta;
}
static inline int sluice_meta_is_ours(struct sluice_packet_meta meta) {
  return (meta.word & 0x3fu) == SLUICE_META_MAGIC;
}
static inline sluice_u32 sluice_meta_rule(struct sluice_packet_meta meta) {
  return meta.word >> SLUICE_META_RULE_SHIFT;
}
static inline sluice_u32 sluice_meta_port(struct sluice_packet_meta meta) {
  return meta.word >> SLUICE_META_PORT_SHIFT & 0x3ffu;
}

#ifdef __cplusplus
static_assert(sizeof(sluice_packet_meta) == 4, "abi");
#else
_Static_assert(sizeof(struct sluice_packet_meta) == 4, "abi");
#endif

#endif
