/* Between the control thread and the XDP demux program: a compiled rule set, the port table, the counters.
 *
 *   parties   control thread   writes rule sets and ports, reads counters
 *             program          reads rule sets and ports, writes counters
 *             workers          only the pressure bits of ports
 *   They trust each other; only the packets are hostile.
 *
 *   sluice_rule_set       read-only once published. Inner map of `rule_sets`, which has one slot: the control
 *                         thread makes a new map, fills it through mmap, then puts it into the slot. A packet
 *                         reads the slot once, so it sees one whole set; the kernel frees the old one when no
 *                         packet can be reading it (RCU).
 *   sluice_port           array of 1024, written by user space at any time; every field is one word.
 *   sluice_cpu_counters   one per CPU. The CPU that runs the program writes, anybody reads, nobody clears.
 *
 *   Key of a packet: 7 words, in the byte order of the wire (little-endian loads of its bytes):
 *
 *     w0      dst_mac (48 bits) | outer VLAN id (16, as a number)
 *     w1      src_mac (48)      | EtherType behind the tags (16)
 *     w2 w3   IPv6 source;      IPv4: w2 = source (32) | destination (32), w3 = 0
 *     w4 w5   IPv6 destination; IPv4: 0
 *     w6      src_port (16) | dst_port (16) | ip_proto (8) | SLUICE_KEY_* (8) | 0 (16)
 *
 *   A field that the packet does not have is 0 and its flag in w6 is clear; a rule that asks for the
 *   field asks for the flag.
 *
 *   Lookup: masks stand by the rank of their best rule. Each has a table of its own in the arena; one hash,
 *   then at most SLUICE_MAX_PROBES slots side by side (the compiler guarantees that a key is among them). A
 *   slot's value is ordered by rank, so the smaller value wins, and the search ends at the first mask whose
 *   `bound` is not below the best value so far.
 *
 *   Absent on purpose: pointers, insertion at run time, anything that needs a helper call to be reached.
 */
#ifndef SLUICE_ABI_DEMUX_H
#define SLUICE_ABI_DEMUX_H

#include "abi/packet_meta.h"

#define SLUICE_DEMUX_RULES 65536u /* rules per NIC: counter slots, and ranks of 16 bits */
#define SLUICE_DEMUX_PORTS 1024u  /* = kMaxPorts (base/ids.h) */
#define SLUICE_DEMUX_QUEUES \
  1024u                        /* RX queues of a NIC that can be left to the kernel; those above always are */
#define SLUICE_DEMUX_MASKS 64u /* distinct masks; each costs every packet up to one probe */
#define SLUICE_MAX_PROBES \
  16u /* slots looked at per mask; the compiler chooses seed and size so that it suffices */
#define SLUICE_MAX_CHAIN \
  16u /* rules of one key whose destination ranges overlap and which differ in source range */
#define SLUICE_MAC_CONTROL 0x0888u /* EtherType 0x8808 as a key has it: in the byte order of the wire */
#define SLUICE_SEARCH_STEPS 17u    /* a key has at most 65,536 port intervals: 2^17 > 65,536 */
#define SLUICE_MAX_TAGS 2u       /* VLAN tags read; an EtherType of 0x8100 behind them is a plain EtherType */
#define SLUICE_MAX_EXTENSIONS 8u /* IPv6 extension headers followed */

#define SLUICE_KEY_WORDS 7u

/* Bits 40..47 of w6. */
#define SLUICE_KEY_ETHERNET (1ull << 40) /* the frame has an Ethernet header: w0 and w1 hold values */
#define SLUICE_KEY_VLAN (1ull << 41)     /* the outer tag, if there is one, could be read */
#define SLUICE_KEY_IPV4 (1ull << 42)
#define SLUICE_KEY_IPV6 (1ull << 43)
#define SLUICE_KEY_PROTO (1ull << 44) /* the protocol above IP is known */
#define SLUICE_KEY_PORTS (1ull << 45) /* TCP, UDP or SCTP, not a fragment, header whole */

struct sluice_key {
  sluice_u64 word[8]; /* [7] is 0: a power of two keeps the index check to one instruction */
};

/* A slot's value. 0: empty slot. Either a rule ... */
#define SLUICE_VALUE_NONE (~0ull) /* no rule: worse than every rank */
#define SLUICE_VALUE_USED 1ull    /* set in every value, so that none is 0 */
#define SLUICE_VALUE_SHED 2ull
#define SLUICE_VALUE_RESERVED 16ull /* of a verdict, never of a slot: sluice_is_reserved() */
#define SLUICE_VALUE_RANGE 4ull     /* ... or, with this bit, a reference to port intervals */
#define SLUICE_VALUE_PORT_SHIFT 16  /* 16 bits */
#define SLUICE_VALUE_RULE_SHIFT 32  /* 16 bits: counter slot */
#define SLUICE_VALUE_RANK_SHIFT 48  /* 16 bits: 0 is the best rule */
/* With SLUICE_VALUE_RANGE: */
#define SLUICE_VALUE_RANGE_SOURCE 8ull    /* the intervals are of src_port, else of dst_port */
#define SLUICE_VALUE_RANGE_COUNT_SHIFT 8  /* 24 bits: how many intervals, at least 1 */
#define SLUICE_VALUE_RANGE_START_SHIFT 32 /* 32 bits: byte offset in the arena of the first */

/* Intervals of one key, sorted by `low`; the first has low 0. An interval ends where the next begins. */
struct sluice_interval {
  sluice_u16 low;
  sluice_u16 chain_count; /* 0 .. SLUICE_MAX_CHAIN */
  sluice_u32 chain;       /* byte offset in the arena of sluice_chain_entry[chain_count], best rank first */
};

struct sluice_chain_entry {
  sluice_u64 value;
  sluice_u16 low, high; /* of src_port, both inclusive, when the intervals are of dst_port */
  sluice_u32 reserved;
};

/* A narrow mask has at most two active words besides w6; its slots are half as big. */
struct sluice_slot_narrow {
  sluice_u64 first; /* key.word[mask.first_index] & mask.first_mask */
  sluice_u64 second;
  sluice_u64 w6;
  sluice_u64 value;
};

struct sluice_slot_wide {
  sluice_u64 word[SLUICE_KEY_WORDS];
  sluice_u64 value;
};

/* Three cache lines: what a packet that is passed over needs, what a narrow lookup needs besides, what a wide
 * one needs. */
struct sluice_mask {
  sluice_u64 bound;      /* rank of its best rule << RANK_SHIFT; all ones behind the last mask */
  sluice_u64 need_mask;  /* bits of w6 in which all of its rules agree ... */
  sluice_u64 need_value; /* ... and what they are: a packet without them is not looked up */
  sluice_u64 first_mask;
  sluice_u64 second_mask;
  sluice_u64 w6_mask;
  sluice_u32 table;      /* byte offset in the arena */
  sluice_u8 shift;       /* 64 - log2(slots), 1 .. 63 */
  sluice_u8 probes;      /* 1 .. SLUICE_MAX_PROBES */
  sluice_u8 first_index; /* of the words of a narrow mask, 0 .. 5, or 7 for none; SLUICE_MASK_WIDE */
  sluice_u8 second_index;
  sluice_u64 seed; /* odd, as the two below; a wide mask has this one only */

  sluice_u64 second_seed;
  sluice_u64 w6_seed;
  sluice_u64 reserved[6];

  sluice_u64 word[8]; /* wide: the mask of each word, [7] is 0 */
};
#define SLUICE_MASK_WIDE 8u

/* Tables need at most 4 * 64 bytes a rule (size a power of two, at most half full): 16 MiB. What the port
 * intervals take comes out of the same space, and the compiler says so if it does not suffice. */
#define SLUICE_ARENA_BYTES (16u << 20)
#define SLUICE_ARENA_SLACK 4096u /* a probe may run on behind the last table */

struct sluice_rule_set {
  struct sluice_mask mask[SLUICE_DEMUX_MASKS + 1]; /* the one behind the last has bound ~0 */
  sluice_u64 rule_count;
  sluice_u64 none;   /* SLUICE_VALUE_NONE: what a lookup starts with */
  sluice_u64 serial; /* 1, 2, 3 ...: tells the sets that one program was given apart */
  sluice_u64 reserved[5];
  sluice_u8 arena[SLUICE_ARENA_BYTES + SLUICE_ARENA_SLACK];
};

#define SLUICE_SERIAL_NONE (~0ull) /* of no set, and of no lookup */

/* Port table. Values as of enum class PortKind (demux/demux.h). */
enum sluice_port_kind {
  SLUICE_PORT_UNUSED = 0,
  SLUICE_PORT_KERNEL = 1,
  SLUICE_PORT_DROP = 2,
  SLUICE_PORT_NETDEV = 3, /* the netdev stands in the DEVMAP at the port's own index */
  SLUICE_PORT_SOCKET = 4,
  SLUICE_PORT_DETACHED = 5
};

struct sluice_port {
  sluice_u32 kind;
  sluice_u32 trusted;  /* gets reserved group addresses and MAC control as well */
  sluice_u64 pressure; /* bit w: worker w says that the port is under pressure; changed atomically */
};

struct sluice_rule_counters {
  sluice_u64 packets;
  sluice_u64 bytes;
};

/* One cache line per port, touched only for a drop. What rules sent a port's way is what they counted. */
struct sluice_port_counters {
  sluice_u64 drop_shed;
  sluice_u64 drop_no_reader;
  sluice_u64 drop_no_socket;
  sluice_u64 drop_no_metadata;
  sluice_u64 drop_no_netdev;
  sluice_u64 drop_no_port;
  sluice_u64 drop_owned_queue; /* came by a queue that another port owns */
  sluice_u64 drop_reserved;    /* nothing that a bridge forwards, and the port is not trusted */
};

/* By RX queue, of one NIC. On an owned queue only what is the owner's is redirected: whatever goes to any
 * socket there lies in the owner's memory. */
struct sluice_queue {
  sluice_u32 owner; /* a port, SLUICE_QUEUE_SHARED or SLUICE_QUEUE_KERNEL; written by the control thread */
  sluice_u32 reserved;
  sluice_u64 drop_owned_queue; /* written by the program */
};
#define SLUICE_QUEUE_SHARED 0u
#define SLUICE_QUEUE_KERNEL 0xffffu /* not ours: its packets are the kernel's, whatever the rules say */

/* pass + drop + redirect_netdev + redirect_socket = every packet the program saw. */
struct sluice_program_counters {
  sluice_u64 pass;
  sluice_u64 drop; /* for whatever reason */
  sluice_u64 redirect_netdev;
  sluice_u64 redirect_socket;
  sluice_u64 no_rule;      /* passed, because no rule matched */
  sluice_u64 truncated;    /* a header ends behind the frame's end, or lies about its length */
  sluice_u64 fragments;    /* IPv4 and IPv6, first ones too */
  sluice_u64 header_limit; /* IPv6 with more than SLUICE_MAX_EXTENSIONS extension headers */
};

/* The last key that this CPU looked up, and what it found. Packets come in trains of one flow; those behind
 * the first need no lookup. One entry and no table: it is always in the cache, and costs the packet of a new
 * flow next to nothing. Consistent, because the kernel runs XDP programs with softirqs off: one at a time per
 * CPU. */
struct sluice_last_lookup {
  sluice_u64 value;
  sluice_u64 serial; /* of the rule set that gave the value; 0: nothing here yet */
  sluice_u64 w6;
  sluice_u64 word[6]; /* what IPv4 needs is in the first cache line */
};

struct sluice_cpu_counters {
  struct sluice_program_counters program;
  struct sluice_last_lookup last;
  sluice_u64 reserved[495]; /* rounds up to a page: no two CPUs share a line */
  struct sluice_port_counters port[SLUICE_DEMUX_PORTS];
  struct sluice_rule_counters rule[SLUICE_DEMUX_RULES];
};

#ifdef __cplusplus
#define SLUICE_DEMUX_ASSERT(condition) static_assert(condition, "abi")
#else
#define SLUICE_DEMUX_ASSERT(condition) _Static_assert(condition, "abi")
#endif
SLUICE_DEMUX_ASSERT(sizeof(struct sluice_slot_narrow) == 32);
SLUICE_DEMUX_ASSERT(sizeof(struct sluice_slot_wide) == 64);
SLUICE_DEMUX_ASSERT(sizeof(struct sluice_mask) == 192);
SLUICE_DEMUX_ASSERT(sizeof(struct sluice_interval) == 8);
SLUICE_DEMUX_ASSERT(sizeof(struct sluice_chain_entry) == 16);
SLUICE_DEMUX_ASSERT(sizeof(struct sluice_port) == 16);
SLUICE_DEMUX_ASSERT(sizeof(struct sluice_queue) == 16);
SLUICE_DEMUX_ASSERT(sizeof(struct sluice_port_counters) == 64);
SLUICE_DEMUX_ASSERT(sizeof(struct sluice_program_counters) == 64);
SLUICE_DEMUX_ASSERT(sizeof(struct sluice_cpu_counters) % 4096 == 0);
SLUICE_DEMUX_ASSERT(SLUICE_ARENA_SLACK >= (SLUICE_MAX_PROBES + 1) * 64);
#undef SLUICE_DEMUX_ASSERT

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "keys are little-endian loads of the bytes on the wire"
#endif

#endif
