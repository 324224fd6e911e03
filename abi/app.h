/* Between the daemon and an app: the handshake, the shared segments, the entries of the rings.
 *
 *   parties   daemon (trusted by the app for its packets)      app (hostile to the daemon)
 *   socket    SOCK_SEQPACKET, two messages each way, then silence: it only tells when the other side ends
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
 *   The welcome may take a while: the memory is made then, and a port takes only so many sessions a second.
 *   Who says nothing for 2 s after its connection or its welcome is hung up on.
 *
 *   Descriptors that come with the welcome, in this order (SCM_RIGHTS):
 *
 *     0            RX arena        O_RDONLY   pages the NIC or the daemon fills (D4)
 *     1            daemon segment  O_RDONLY   what the daemon writes: see below
 *     2            app segment     O_RDWR     what the app writes; the daemon made it and sealed its size
 *     3            TX arena        O_RDWR     the app's own frames; likewise
 *     4 + 2*lane   wake app        a socket, non-blocking: a message of 8 bytes comes when rx.need_wakeup was
 *                                  set. Poll it, read(2) it as an eventfd. (No eventfd: the app could make
 *                                  ours block by fill-up and F_SETFL.)
 *     5 + 2*lane   wake daemon     eventfd: the app writes when tx.need_wakeup or back.need_wakeup was set
 *
 *   A *lane* is one worker's private connection with the app: three SPSC rings, used by that worker's thread
 *   only. Lane i stands at i * lane_stride in each segment (strides and offsets come in the welcome):
 *
 *     daemon segment, lane i                        app segment, lane i
 *       sluice_lane_stats           +0                sluice_ring_consumer  rx     +0
 *       sluice_ring_producer  rx    +64               sluice_ring_producer  back   +64
 *       sluice_ring_consumer  back  +128              sluice_ring_producer  tx     +128
 *       sluice_ring_consumer  tx    +192              back entries  uint32_t[rx_back_entries]   +192
 *       rx entries  sluice_rx_entry[rx_entries] +256  tx entries    sluice_tx_entry[tx_entries] behind them
 *
 *     rx    daemon -> app   a page with a packet in it is lent to the app
 *     back  app -> daemon   the page is given back, on the lane it came by (back_entries >= pages of the
 *                           arena, so an honest app never finds it full)
 *     tx    app -> daemon   a frame to send. The slot in the TX arena that belongs to ring position p is
 *                           p & (tx_entries - 1); a frame lies anywhere inside its slot. The slot is the
 *                           app's again when the daemon's consumer index has passed p: there is no completion
 *                           ring, for consumption is in order.
 *
 *   State of an RX page, with the actor on every arrow:
 *
 *     free --(daemon fills, writes rx entry)--> lent --(app writes back entry; daemon checks ledger)--> free
 *
 *   A page that is given back and is not lent to this session is a counted fault and nothing else.
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
  uint32_t
      tx_slot_bytes;   /* of the TX arena, per slot; lane i's slots begin at i * tx_entries * tx_slot_bytes */
  uint32_t page_limit; /* pages the app may hold at one time, all lanes together */
  uint64_t rx_arena_bytes;
  uint64_t tx_arena_bytes;
  uint64_t daemon_segment_bytes;
  uint64_t app_segment_bytes;
  uint64_t daemon_lane_stride;
  uint64_t app_lane_stride;
  uint8_t source_mac[6]; /* what the daemon lets this port send from, the first of its `mac`; 0 without one */
  uint16_t flags;        /* SLUICE_APP_NO_ADDRESS */
  uint32_t tx_lanes_low; /* bit i: frames sent on lane i reach the uplink (its worker serves a queue of that
                            NIC) */
  uint32_t tx_lanes_high; /* lanes 32 .. 63 */
  uint32_t reserved2[2];
};

/* The app has mapped everything that it wants to write. Its files are sealed now: it can map them for writing
 * no more, and cannot punch holes into what a worker reads (a reader waits for the end of a whole punch). */
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
  uint64_t tx_dropped; /* refused or lost on the way to the NIC: the daemon's counters say which */
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
