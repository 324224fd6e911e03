/* Between the daemon and an app: the handshake, the shared segments of memory, the entries of the rings.
 *
 *   parties   daemon: the app trusts it for its packets      app: the daemon expects anything of it
 *   socket    SOCK_SEQPACKET at the port's `socket` path, two messages each way. Then it is silent, and tells
 *             when the other side ends.
 *
 *       app                                   daemon
 *        | -- sluice_app_hello --------------> |   checks SO_PEERCRED against allow_users, magic, version
 *        | <- sluice_app_welcome + fds ------- |   status 0, or a status and a sentence and no fds
 *        | -- sluice_app_mapped -------------> |   the app has mapped its memory: the daemon seals what it
 *        |                                     |   writes, so that nobody can map it for writing, write(2)
 *        |                                     |   it or punch holes into it any more
 *        | <- sluice_app_served -------------- |   from here on packets come
 *        |            ... rings ...            |
 *        | -- close / death -----------------> |   pages come home, the arena is retired (D2)
 *        | <- close / death ------------------ |   the app attaches again; everything of the old session
 *        |                                     |   is void
 *
 *   The welcome may take a while: the daemon makes the memory then, and a port begins only so many sessions a
 *   second. The daemon closes the socket of an app that says nothing for 2 s after connecting or after its
 *   welcome.
 *
 *   Descriptors that come with the welcome, in this order (SCM_RIGHTS):
 *
 *     0            RX arena        O_RDONLY   pages the NIC or the daemon fills (D4)
 *     1            daemon segment  O_RDONLY   what the daemon writes: see below
 *     2            app segment     O_RDWR     what the app writes; the daemon made it and sealed its size
 *     3            TX arena        O_RDWR     the app's own frames; likewise
 *     4 + 2*lane   wake app        a non-blocking socket. A message of 8 bytes comes when rx.need_wakeup was
 *                                  set: poll the socket, and read(2) it as one reads an eventfd. It is no
 *                                  eventfd, since an app could make the daemon's write to one block.
 *     5 + 2*lane   wake daemon     an eventfd: the app writes to it when tx.need_wakeup or back.need_wakeup was
 *                                  set
 *
 *   A *lane* is one worker's private connection with the app: three single-producer single-consumer rings
 *   (abi/ring.h). On the daemon's side only that worker's thread uses them. Lane i stands at i times the
 *   segment's stride, which the welcome tells (daemon_lane_stride, app_lane_stride):
 *
 *     daemon segment, lane i                        app segment, lane i
 *       sluice_lane_stats           +0                sluice_ring_consumer  rx     +0
 *       sluice_ring_producer  rx    +64               sluice_ring_producer  back   +64
 *       sluice_ring_consumer  back  +128              sluice_ring_producer  tx     +128
 *       sluice_ring_consumer  tx    +192              back entries  uint32_t[back_entries]      +192
 *       rx entries  sluice_rx_entry[rx_entries] +256  tx entries    sluice_tx_entry[tx_entries] behind them
 *
 *     rx    daemon -> app   a page with a packet in it is lent to the app
 *     back  app -> daemon   the return ring: the app gives the page back, on the lane it came by. An entry is
 *                           the page's index. back_entries >= page_count, so an honest app never finds the
 *                           ring full
 *     tx    app -> daemon   a frame to send. Ring position p has slot p & (tx_entries - 1) of the lane's part
 *                           of the TX arena, and the frame lies anywhere inside that slot. The slot is the
 *                           app's again when the daemon's consumer index has passed p. There is no completion
 *                           ring: the daemon consumes in order.
 *
 *   State of an RX page, with the actor on every arrow:
 *
 *     free --(daemon fills, writes rx entry)--> lent --(app writes back entry; daemon checks ledger)--> free
 *
 *   Giving back a page that is not lent to this session is a fault: the daemon counts it, and nothing changes.
 *
 *   Absent on purpose: pointers, anything about other apps, completion entries, RX checksums.
 */
#ifndef SLUICE_ABI_APP_H
#define SLUICE_ABI_APP_H

#include <stdint.h>

#include "abi/ring.h"

#define SLUICE_APP_MAGIC 0x65756c73u /* "slue" */
#define SLUICE_APP_VERSION 2u
#define SLUICE_APP_MAX_LANES 64u /* 4 + 2 * 64 descriptors fit the kernel's SCM_MAX_FD of 253 */
#define SLUICE_APP_NAME_BYTES 64u
#define SLUICE_APP_MESSAGE_BYTES 192u

struct sluice_app_hello {
  uint32_t magic;
  uint16_t version;
  uint16_t reserved;                  /* 0 */
  char client[SLUICE_APP_NAME_BYTES]; /* what `sluicectl show ports` calls it; ends with a NUL */
};

enum sluice_app_status {
  SLUICE_APP_OK = 0,
  SLUICE_APP_BAD_HELLO = 1,   /* not a hello of ours */
  SLUICE_APP_BAD_VERSION = 2, /* the sentence names the daemon's version */
  SLUICE_APP_DENIED = 3,      /* SO_PEERCRED is not in allow_users */
  SLUICE_APP_BUSY = 4,        /* another app is attached; the sentence names its pid */
  SLUICE_APP_FAILED = 5 /* the daemon could not make the session (memory, limits): the sentence says why */
};

/* The port has no address to send from: every frame that its app sends is dropped, and counted. */
#define SLUICE_APP_NO_ADDRESS 1u

struct sluice_app_welcome {
  uint32_t magic;
  uint16_t version;
  uint16_t status; /* enum sluice_app_status; with anything but OK only `message` holds a value */
  char message[SLUICE_APP_MESSAGE_BYTES];

  uint32_t lane_count;   /* 1 .. SLUICE_APP_MAX_LANES */
  uint32_t page_bytes;   /* of the RX arena: 2048 or 4096 */
  uint32_t page_count;   /* of the RX arena */
  uint32_t rx_entries;   /* power of two */
  uint32_t back_entries; /* power of two */
  uint32_t tx_entries;   /* power of two */
  /* One slot of the TX arena. Lane i's slots begin at i * tx_entries * tx_slot_bytes. */
  uint32_t tx_slot_bytes;
  uint32_t page_limit; /* pages the app may hold at one time, all lanes together */
  uint64_t rx_arena_bytes;
  uint64_t tx_arena_bytes;
  uint64_t daemon_segment_bytes;
  uint64_t app_segment_bytes;
  uint64_t daemon_lane_stride;
  uint64_t app_lane_stride;
  uint8_t source_mac[6]; /* the address to send from: the first of the port's `mac`; 0 without one */
  uint16_t flags;        /* SLUICE_APP_NO_ADDRESS */
  /* Bit i: frames sent on lane i reach the uplink, since its worker serves a queue of that NIC. */
  uint32_t tx_lanes_low;
  uint32_t tx_lanes_high; /* lanes 32 .. 63 */
  uint32_t reserved2[2];
};

/* The app has mapped everything that it wants to write. Now the daemon seals the app's files: nobody can map
 * them for writing any more, or punch holes into them. A worker that reads inside a hole would wait for the end
 * of the whole punch. */
struct sluice_app_mapped {
  uint32_t magic;
  uint16_t version;
  uint16_t reserved; /* 0 */
};

/* The answer: the app is served. A refusal is the socket's end instead. */
struct sluice_app_served {
  uint32_t magic;
  uint16_t version;
  uint16_t status; /* SLUICE_APP_OK */
};

/* A packet handed to the app: the frame's first byte is at page * page_bytes + offset of the RX arena. */
struct sluice_rx_entry {
  uint32_t page;
  uint16_t offset;
  uint16_t length; /* bytes of frame, Ethernet header first, no FCS */
  uint32_t rule;   /* counter slot of the rule that matched */
  uint32_t flow_hash;
  uint64_t timestamp_ns; /* CLOCK_MONOTONIC when the worker took the burst from the NIC */
  uint16_t nic;
  uint16_t queue;
  uint32_t reserved;
};

/* A frame to send: `offset` is from the first byte of the TX arena. */
struct sluice_tx_entry {
  uint32_t offset;
  uint32_t length; /* 14 .. tx_slot_bytes */
};

/* The lane's own counters, written by the worker, for the app to read. */
struct sluice_lane_stats {
  uint64_t rx_packets;
  uint64_t rx_bytes;
  uint64_t rx_dropped_ring_full;
  uint64_t rx_dropped_page_limit;
  uint64_t tx_packets;
  uint64_t tx_dropped; /* refused, or lost on the way to the NIC: the daemon's counters say why */
  uint64_t pages_held; /* lent to the app now */
  uint64_t faults;     /* of this app on this lane */
};

#define SLUICE_LANE_DAEMON_STATS 0u
#define SLUICE_LANE_DAEMON_RX_PRODUCER 64u
#define SLUICE_LANE_DAEMON_BACK_CONSUMER 128u
#define SLUICE_LANE_DAEMON_TX_CONSUMER 192u
#define SLUICE_LANE_DAEMON_RX_ENTRIES 256u
#define SLUICE_LANE_APP_RX_CONSUMER 0u
#define SLUICE_LANE_APP_BACK_PRODUCER 64u
#define SLUICE_LANE_APP_TX_PRODUCER 128u
#define SLUICE_LANE_APP_BACK_ENTRIES 192u

#ifdef __cplusplus
static_assert(sizeof(sluice_app_hello) == 72, "abi");
static_assert(sizeof(sluice_app_welcome) == 304, "abi");
static_assert(sizeof(sluice_app_mapped) == 8, "abi");
static_assert(sizeof(sluice_app_served) == 8, "abi");
static_assert(sizeof(sluice_rx_entry) == 32, "abi");
static_assert(sizeof(sluice_tx_entry) == 8, "abi");
static_assert(sizeof(sluice_lane_stats) == SLUICE_CACHE_LINE, "abi");
#else
_Static_assert(sizeof(struct sluice_app_hello) == 72, "abi");
_Static_assert(sizeof(struct sluice_app_welcome) == 304, "abi");
_Static_assert(sizeof(struct sluice_app_mapped) == 8, "abi");
_Static_assert(sizeof(struct sluice_app_served) == 8, "abi");
_Static_assert(sizeof(struct sluice_rx_entry) == 32, "abi");
_Static_assert(sizeof(struct sluice_tx_entry) == 8, "abi");
_Static_assert(sizeof(struct sluice_lane_stats) == SLUICE_CACHE_LINE, "abi");
#endif

#endif
