/* libsluice for C: receive packets from a port of Sluice without a copy, and send.
 *
 *   sluice_port* port;
 *   if (sluice_attach("dns", NULL, &port) < 0) { puts(sluice_last_error()); return 1; }
 *   sluice_packet packets[64];
 *   for (;;) {
 *     size_t count = sluice_receive_wait(port, packets, 64, -1);
 *     for (size_t i = 0; i < count; ++i) { look_at(packets[i].data, packets[i].length); }
 *     sluice_release(packets, count);
 *   }
 *
 * Threads: a port, and every packet that came by it, belong to one thread at a time. Several threads:
 * sluice_split(). Errors: functions that return int return 0 or more, or one of enum sluice_error (negative
 * errno values); sluice_last_error() then has one sentence for a person. C++ programs include sluice.hpp
 * instead.
 */
#ifndef SLUICE_SLUICE_H
#define SLUICE_SLUICE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define SLUICE_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* What can go wrong. The values are those of Linux's errno, negated, and stay what they are. */
enum sluice_error {
  SLUICE_ERROR_SYSTEM = -5,    /* EIO: a system call failed; the sentence says which */
  SLUICE_ERROR_DENIED = -13,   /* EACCES: this user may not use the port */
  SLUICE_ERROR_BUSY = -16,     /* EBUSY: another program is attached; the sentence names its pid */
  SLUICE_ERROR_INVALID = -22,  /* EINVAL: an argument is out of range */
  SLUICE_ERROR_PROTOCOL = -71, /* EPROTO: what answered does not speak as sluiced does */
  SLUICE_ERROR_VERSION = -93,  /* EPROTONOSUPPORT: the daemon speaks another version */
  SLUICE_ERROR_REFUSED =
      -103, /* ECONNABORTED: the daemon could not make the session; the sentence says why */
  SLUICE_ERROR_TIMEOUT = -110,  /* ETIMEDOUT: the daemon did not answer in time */
  SLUICE_ERROR_NO_DAEMON = -111 /* ECONNREFUSED: nobody listens on the port's socket */
};

typedef struct sluice_port sluice_port;

/* One received packet. Valid from a receive until sluice_release(), also when the daemon dies meanwhile. */
typedef struct sluice_packet {
  const uint8_t* data;   /* the frame, Ethernet header first, no FCS; read-only memory, a write is SIGSEGV */
  uint32_t length;       /* bytes */
  uint32_t rule;         /* counter slot of the rule that matched */
  uint32_t flow_hash;    /* equal for all packets of a flow */
  uint16_t nic;          /* where it came in: the daemon's number of the NIC */
  uint16_t queue;        /* ... and its RX queue */
  uint64_t timestamp_ns; /* CLOCK_MONOTONIC, when the daemon took its burst from the NIC */
  void* owner;           /* libsluice's own; NULL: released */
  uint32_t page;         /* libsluice's own */
  uint32_t reserved;
} sluice_packet;

/* A frame to send, in memory shared with the daemon. */
typedef struct sluice_frame {
  uint8_t* data;   /* where to write it; may be moved forward inside the room */
  uint32_t room;   /* bytes from `data` */
  uint32_t length; /* set it: 14 .. room */
} sluice_frame;

/* Totals since sluice_attach(), over all sessions and over the lanes of this port. */
typedef struct sluice_counters {
  uint64_t rx_packets; /* the daemon put into the rings */
  uint64_t rx_bytes;
  uint64_t rx_dropped_ring_full;  /* this program was too slow */
  uint64_t rx_dropped_page_limit; /* this program held page_limit pages */
  uint64_t tx_packets;            /* handed on by the daemon */
  uint64_t tx_dropped;            /* refused or lost on the way to the NIC */
  uint64_t daemon_faults;         /* what the daemon found wrong with this program's rings */
  uint64_t rx_bad_descriptors;    /* what this library found wrong with the daemon's */
  uint64_t tx_bad_length;         /* frames that sluice_send() skipped: not 14 .. tx_frame_bytes long */
  uint64_t wakeups;               /* system calls made to wake the daemon */
  uint64_t sleeps;    /* times this program slept in sluice_receive_wait() or was armed for its fd */
  uint64_t spins_hit; /* times sluice_receive_wait() found something while it spun (spin_us) */
  uint64_t reserved[4];
} sluice_counters;

typedef struct sluice_info {
  uint64_t attaches;       /* sessions so far, the first one counts */
  int32_t daemon_pid;      /* 0 while detached */
  uint32_t lane_count;     /* of the session: the daemon's workers */
  uint32_t page_bytes;     /* longest frame that can be received, less some headroom */
  uint32_t page_limit;     /* packets that may be held at one time, all lanes together */
  uint32_t pages_held;     /* held now by way of this port, of its present session */
  uint32_t tx_frame_bytes; /* longest frame that can be sent */
  uint8_t source_mac[6];   /* the source address that the daemon lets this port use; 0 without `mac` */
  uint8_t attached;        /* 0: the daemon is away */
  uint8_t can_send;        /* 0: no lane of this port reaches an uplink, or the port has no `mac` */
  uint64_t sleeps;         /* how this program waits: as in sluice_counters */
  uint64_t spins_hit;
  uint64_t reserved[4];
} sluice_info;

typedef struct sluice_attach_options {
  const char*
      client_name; /* shown by `sluicectl show ports`; at most 63 bytes are kept; NULL: the program's name */
  uint32_t timeout_ms;  /* for the daemon's answer; 0: 5000 */
  uint32_t no_reattach; /* 1: a session that ends is not renewed */
  uint32_t spin_us; /* so long sluice_receive_wait() looks again and again before it sleeps; 0: not at all */
  uint32_t reserved32;  /* 0 */
  uint64_t reserved[3]; /* 0 */
} sluice_attach_options;

/* Attaches to a port by its name, whose socket is $SLUICE_RUN_DIR/NAME.sock or /run/sluice/NAME.sock, or by
 * the socket's path (anything with a '/'). `options` may be NULL. Sets *port; on an error to NULL. */
SLUICE_API int sluice_attach(const char* port_name, const sluice_attach_options* options, sluice_port** port);

/* Detaches. Packets that are still held stay readable until they are released, by the same thread. NULL is
 * allowed. */
SLUICE_API void sluice_detach(sluice_port* port);

/* Makes `part_count` ports (1 .. 64) out of one, so that each can be used by a thread of its own: part i has
 * the lanes i, i + part_count, ... Fills `parts` and consumes `port`. On an error the port is as it was. */
SLUICE_API int sluice_split(sluice_port* port, sluice_port** parts, size_t part_count);

/* Takes up to `count` packets that are there now; never sleeps. 0 also while the daemon is away: it is looked
 * for again from here. What `packets` held before is overwritten: release it first. */
SLUICE_API size_t sluice_receive(sluice_port* port, sluice_packet* packets, size_t count);

/* The same, but sleeps until there is one, after it has spun for `spin_us`. timeout_ns < 0: forever. Returns
 * 0 when the time is over, when a signal handler ran, and at once when the session has ended and is not
 * renewed. */
SLUICE_API size_t sluice_receive_wait(sluice_port* port, sluice_packet* packets, size_t count,
                                      int64_t timeout_ns);

/* Gives packets back; those that were released already (owner NULL) are left alone. The daemon sees them at
 * the port's next receive, or when 64 have gathered, or by sluice_flush(). */
SLUICE_API void sluice_release(sluice_packet* packets, size_t count);
SLUICE_API void sluice_flush(sluice_port* port);

/* For a poll or epoll loop of your own. The descriptor stays the same for the port's whole life, across
 * re-attaching; read nothing from it. Before each sleep: sluice_arm(); 1: wait until the descriptor is
 * readable, then receive; 0: there is something to do already, receive at once. Receiving disarms. */
SLUICE_API int sluice_fd(const sluice_port* port);
SLUICE_API int sluice_arm(sluice_port* port);
SLUICE_API void sluice_disarm(sluice_port* port);

/* Sends copies of the frames; returns how many of them, from the first on, are done with: queued, or counted
 * tx_bad_length. Fewer than `count`: the ring is full, or nothing can be sent now. Never sleeps. */
SLUICE_API size_t sluice_send(sluice_port* port, const struct iovec* frames, size_t count);

/* Without the copy: reserve room, write the frames there, set their lengths, commit them. A reservation is
 * void after the next reserve or send, and after a receive that found the session ended (commit then returns
 * 0, writing is harmless). commit: `frames` is what reserve filled, from its first on, `count` at most as
 * many; returns how many were queued: all up to the first whose length or place is out of range. */
SLUICE_API size_t sluice_reserve(sluice_port* port, sluice_frame* frames, size_t count);
SLUICE_API size_t sluice_commit(sluice_port* port, const sluice_frame* frames, size_t count);

SLUICE_API void sluice_get_counters(const sluice_port* port, sluice_counters* counters);
SLUICE_API void sluice_get_info(const sluice_port* port, sluice_info* info);

/* A few words for a value of enum sluice_error. Any thread; the text is constant. */
SLUICE_API const char* sluice_strerror(int error);
/* The sentence of this thread's last error; "" when there was none. Valid until the thread's next call of the
 * library. */
SLUICE_API const char* sluice_last_error(void);
/* "0.2.0" */
SLUICE_API const char* sluice_version(void);

#ifdef __cplusplus
}
#endif

#endif
