/* vhost-user: what a front-end (QEMU, DPDK's virtio_user, cloud-hypervisor) and a back-end (Sluice) say to
 * each other over a Unix stream socket. The protocol is QEMU's: docs/interop/vhost-user.rst, version 1. This
 * header has the part that Sluice speaks.
 *
 *      front-end                                   back-end
 *      header, payload, descriptors  --------->    (SCM_RIGHTS, with any byte of the message)
 *                                    <---------    header, payload: the answer to a request that has one of
 *                                                  its own, and to any request that says NEED_REPLY
 *
 *   All words are in the host's byte order, since both run on one machine. A stream has no borders: a message
 *   may come in pieces, and several may come at once. Descriptors belong to the reader from the moment it has
 *   read a byte they came with.
 */
#ifndef SLUICE_ABI_VHOST_USER_H
#define SLUICE_ABI_VHOST_USER_H

#include <stdint.h>

struct vhost_user_header {
  uint32_t request;
  uint32_t flags;
  uint32_t bytes; /* of the payload behind it */
};

#define VHOST_USER_VERSION 1u
#define VHOST_USER_VERSION_MASK 3u
#define VHOST_USER_REPLY (1u << 2)      /* this is an answer */
#define VHOST_USER_NEED_REPLY (1u << 3) /* answer also what has no answer of its own: u64, 0 is success */

/* Requests by their numbers; VHOST_USER_ in front, as the specification names them. */
enum vhost_user_request {
  VHOST_USER_GET_FEATURES = 1,
  VHOST_USER_SET_FEATURES = 2,
  VHOST_USER_SET_OWNER = 3,
  VHOST_USER_RESET_OWNER = 4,
  VHOST_USER_SET_MEM_TABLE = 5,
  VHOST_USER_SET_LOG_BASE = 6,
  VHOST_USER_SET_LOG_FD = 7,
  VHOST_USER_SET_VRING_NUM = 8,
  VHOST_USER_SET_VRING_ADDR = 9,
  VHOST_USER_SET_VRING_BASE = 10,
  VHOST_USER_GET_VRING_BASE = 11,
  VHOST_USER_SET_VRING_KICK = 12,
  VHOST_USER_SET_VRING_CALL = 13,
  VHOST_USER_SET_VRING_ERR = 14,
  VHOST_USER_GET_PROTOCOL_FEATURES = 15,
  VHOST_USER_SET_PROTOCOL_FEATURES = 16,
  VHOST_USER_GET_QUEUE_NUM = 17,
  VHOST_USER_SET_VRING_ENABLE = 18,
  VHOST_USER_SEND_RARP = 19,
  VHOST_USER_NET_SET_MTU = 20,
  VHOST_USER_SET_BACKEND_REQ_FD = 21,
  VHOST_USER_IOTLB_MSG = 22,
  VHOST_USER_SET_VRING_ENDIAN = 23,
  VHOST_USER_GET_CONFIG = 24,
  VHOST_USER_SET_CONFIG = 25,
  VHOST_USER_CREATE_CRYPTO_SESSION = 26,
  VHOST_USER_CLOSE_CRYPTO_SESSION = 27,
  VHOST_USER_POSTCOPY_ADVISE = 28,
  VHOST_USER_POSTCOPY_LISTEN = 29,
  VHOST_USER_POSTCOPY_END = 30,
  VHOST_USER_GET_INFLIGHT_FD = 31,
  VHOST_USER_SET_INFLIGHT_FD = 32,
  VHOST_USER_GPU_SET_SOCKET = 33,
  VHOST_USER_RESET_DEVICE = 34,
  VHOST_USER_VRING_KICK = 35,
  VHOST_USER_GET_MAX_MEM_SLOTS = 36,
  VHOST_USER_ADD_MEM_REG = 37,
  VHOST_USER_REM_MEM_REG = 38,
  VHOST_USER_SET_STATUS = 39,
  VHOST_USER_GET_STATUS = 40,
};

/* Most regions of one SET_MEM_TABLE, and so most descriptors of one message. */
#define VHOST_USER_MAX_TABLE_REGIONS 8u

struct vhost_user_region {
  uint64_t guest_address;
  uint64_t bytes;
  uint64_t user_address; /* of the front-end */
  uint64_t file_offset;  /* where the region begins in the descriptor's file */
};

struct vhost_user_mem_table {
  uint32_t region_count; /* descriptors come in the same order */
  uint32_t padding;
  struct vhost_user_region regions[VHOST_USER_MAX_TABLE_REGIONS]; /* only region_count of them are sent */
};

struct vhost_user_mem_reg {
  uint64_t padding;
  struct vhost_user_region region;
};

struct vhost_user_vring_state {
  uint32_t index;
  uint32_t value; /* entries, base or on/off */
};

struct vhost_user_vring_addr {
  uint32_t index;
  uint32_t flags; /* bit 0: log writes to the used ring */
  uint64_t descriptors;
  uint64_t device_area; /* used ring */
  uint64_t driver_area; /* available ring */
  uint64_t log_address;
};

/* The u64 of SET_VRING_KICK, _CALL, _ERR. */
#define VHOST_USER_VRING_INDEX_MASK 0xffu
#define VHOST_USER_VRING_NO_FD (1u << 8) /* no descriptor comes with it: poll */

/* Protocol features, as bit numbers. */
#define VHOST_USER_PROTOCOL_F_MQ 0
#define VHOST_USER_PROTOCOL_F_LOG_SHMFD 1
#define VHOST_USER_PROTOCOL_F_RARP 2
#define VHOST_USER_PROTOCOL_F_REPLY_ACK 3
#define VHOST_USER_PROTOCOL_F_MTU 4
#define VHOST_USER_PROTOCOL_F_RESET_DEVICE 13
#define VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS 15
#define VHOST_USER_PROTOCOL_F_STATUS 16

/* Virtio's device status (virtio 1.2, 2.1), in SET_STATUS and GET_STATUS. */
#define VHOST_USER_STATUS_FEATURES_OK 8u
#define VHOST_USER_STATUS_DRIVER_OK 4u

#ifdef __cplusplus
#define SLUICE_VHOST_ASSERT(condition) static_assert(condition, "abi")
#else
#define SLUICE_VHOST_ASSERT(condition) _Static_assert(condition, "abi")
#endif
SLUICE_VHOST_ASSERT(sizeof(struct vhost_user_header) == 12);
SLUICE_VHOST_ASSERT(sizeof(struct vhost_user_region) == 32);
SLUICE_VHOST_ASSERT(sizeof(struct vhost_user_mem_table) == 264);
SLUICE_VHOST_ASSERT(sizeof(struct vhost_user_mem_reg) == 40);
SLUICE_VHOST_ASSERT(sizeof(struct vhost_user_vring_state) == 8);
SLUICE_VHOST_ASSERT(sizeof(struct vhost_user_vring_addr) == 40);
#undef SLUICE_VHOST_ASSERT

#endif
