/* One single-producer single-consumer ring between two processes that do not trust each other.
 *
 *   The two parties own different memory, so a ring is split. The producer's index and the entries stand in a
 *   segment that only the producer can write. The consumer's index and its "I sleep" flag stand in a segment
 *   that only the consumer can write. Each maps the other's segment read-only.
 *
 *      producer's segment                         consumer's segment
 *      +------------------------------+           +-----------------------------+
 *      | sluice_ring_producer         |           | sluice_ring_consumer        |
 *      |   producer  (free running)   |           |   consumer  (free running)  |
 *      +------------------------------+           |   need_wakeup               |
 *      | entries[size]                |           +-----------------------------+
 *      +------------------------------+
 *
 *   Indices count entries ever produced or consumed, and wrap at 2^32. Entry i stands at i & (size - 1). The
 *   size is a power of two. Both sides know it privately: the handshake tells it once, and nobody reads it
 *   again from shared memory.
 *
 *   who           does what                                            ordering
 *   producer      writes entries, then producer                        store-release  [label: publish]
 *   consumer      reads producer, then entries                         load-acquire   [label: publish]
 *   consumer      done with entries, then writes consumer              store-release  [label: give back]
 *   producer      reads consumer, then overwrites entries              load-acquire   [label: give back]
 *   consumer      need_wakeup = 1, full fence, looks at producer again, then sleeps     [label: sleep]
 *   producer      writes producer, full fence, reads need_wakeup, then kicks the eventfd [label: sleep]
 *
 *   A peer's index is believed only where it is possible: producer - consumer must be in 0 .. size, and an
 *   index never goes back. Anything else means "nothing new" and is counted as a fault. Nothing else in shared
 *   memory steers either side.
 */
#ifndef SLUICE_ABI_RING_H
#define SLUICE_ABI_RING_H

#include <stdint.h>

#define SLUICE_CACHE_LINE 64u

struct sluice_ring_producer {
  uint32_t producer;
  uint32_t reserved[15]; /* a cache line of its own: the consumer polls it */
};

struct sluice_ring_consumer {
  uint32_t consumer;
  uint32_t need_wakeup; /* 1: the consumer is going to sleep, or sleeps */
  uint32_t reserved[14];
};

#ifdef __cplusplus
static_assert(sizeof(sluice_ring_producer) == SLUICE_CACHE_LINE, "abi");
static_assert(sizeof(sluice_ring_consumer) == SLUICE_CACHE_LINE, "abi");
#else
_Static_assert(sizeof(struct sluice_ring_producer) == SLUICE_CACHE_LINE, "abi");
_Static_assert(sizeof(struct sluice_ring_consumer) == SLUICE_CACHE_LINE, "abi");
#endif

#endif
