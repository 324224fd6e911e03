/* A frame becomes a key (abi/demux.h). Plain C over a span of bytes: the XDP program and the tests in user
 * space compile the same lines.
 *
 * The wire is hostile: every read is checked against the frame's end, every loop has a named bound (D6), and
 * no header is believed about its own length. What cannot be read is absent from the key; it never makes the
 * frame go away.
 */
#ifndef SLUICE_BPF_PARSE_H
#define SLUICE_BPF_PARSE_H

#include "abi/demux.h"

#define SLUICE_INLINE static inline __attribute__((always_inline))
#define SLUICE_UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#define SLUICE_LIKELY(condition) __builtin_expect(!!(condition), 1)

/* What the parser noticed beside the key: in bits of w6 that no rule's mask has. */
#define SLUICE_NOTE_TRUNCATED (1ull << 56)
#define SLUICE_NOTE_FRAGMENT (1ull << 57)
#define SLUICE_NOTE_HEADER_LIMIT (1ull << 58)
#define SLUICE_NOTES_SHIFT 56

/* Unaligned loads, as the bytes stand. (clang takes a packed load apart into bytes for BPF; the kernel's JITs
 * need not.) */
#ifdef __bpf__
#define SLUICE_PACKED
#else
#define SLUICE_PACKED packed,
#endif
typedef struct __attribute__((SLUICE_PACKED may_alias)) {
  sluice_u16 value;
} sluice_load16;
typedef struct __attribute__((SLUICE_PACKED may_alias)) {
  sluice_u32 value;
} sluice_load32;
typedef struct __attribute__((SLUICE_PACKED may_alias)) {
  sluice_u64 value;
} sluice_load64;
SLUICE_INLINE sluice_u16 sluice_get16(const sluice_u8* at) {
  return ((const sluice_load16*)at)->value;
}
SLUICE_INLINE sluice_u32 sluice_get32(const sluice_u8* at) {
  return ((const sluice_load32*)at)->value;
}
SLUICE_INLINE sluice_u64 sluice_get64(const sluice_u8* at) {
  return ((const sluice_load64*)at)->value;
}

#define SLUICE_BE16(value) ((sluice_u16)__builtin_bswap16(value))

#define SLUICE_MAC_BITS 0xffffffffffffull
#define SLUICE_PROTO_SHIFT 32

enum {
  SLUICE_TPID_8021Q = 0x8100,
  SLUICE_TPID_8021AD = 0x88a8,
  SLUICE_TYPE_IPV4 = 0x0800,
  SLUICE_TYPE_IPV6 = 0x86dd,

  SLUICE_PROTO_TCP = 6,
  SLUICE_PROTO_UDP = 17,
  SLUICE_PROTO_SCTP = 132,

  /* RFC 8200 section 4; AH RFC 4302; mobility RFC 6275 */
  SLUICE_NEXT_HOP_BY_HOP = 0,
  SLUICE_NEXT_ROUTING = 43,
  SLUICE_NEXT_FRAGMENT = 44,
  SLUICE_NEXT_AH = 51,
  SLUICE_NEXT_DESTINATION = 60,
  SLUICE_NEXT_MOBILITY = 135
};

SLUICE_INLINE int sluice_is_tag(sluice_u16 type) {
  return type == SLUICE_BE16(SLUICE_TPID_8021Q) || type == SLUICE_BE16(SLUICE_TPID_8021AD);
}

/* Ports of the header at `l4`, of which `room` bytes belong to the IP packet (padding behind it is not a
 * header). Only a header that is there as a whole counts: TCP 20 bytes, SCTP 12 (common header), UDP 8. */
SLUICE_INLINE sluice_u64 sluice_parse_ports(const sluice_u8* l4, const sluice_u8* end, sluice_u32 proto,
                                            int room) {
  int need;
  if (proto == SLUICE_PROTO_UDP) {
    need = 8;
  } else if (proto == SLUICE_PROTO_TCP) {
    need = 20;
  } else if (proto == SLUICE_PROTO_SCTP) {
    need = 12;
  } else {
    return 0;
  }
  if (room < need || l4 + need > end) {
    return SLUICE_NOTE_TRUNCATED;
  }
  if (l4 + 4 > end) { /* implied; the verifier does not see it in the sum above */
    return SLUICE_NOTE_TRUNCATED;
  }
  return sluice_get32(l4) | SLUICE_KEY_PORTS;
}

/* RFC 791 section 3.1. Returns what it adds to w6. */
SLUICE_INLINE sluice_u64 sluice_parse_ipv4(const sluice_u8* ip, const sluice_u8* end,
                                           struct sluice_key* key) {
  if (ip + 20 > end) {
    return SLUICE_NOTE_TRUNCATED;
  }
  sluice_u32 version = ip[0];
  if (version < 0x45 || version > 0x4f) {
    return SLUICE_NOTE_TRUNCATED;
  }
  key->word[2] = sluice_get64(ip + 12);
  sluice_u32 proto = ip[9];
  sluice_u64 w6 = SLUICE_KEY_IPV4 | SLUICE_KEY_PROTO | (sluice_u64)proto << SLUICE_PROTO_SHIFT;
  if (sluice_get16(ip + 6) & SLUICE_BE16(0x3fff)) { /* offset, or more fragments */
    return w6 | SLUICE_NOTE_FRAGMENT;
  }
  int header = (int)(version & 15) * 4;
  return w6 | sluice_parse_ports(ip + header, end, proto, SLUICE_BE16(sluice_get16(ip + 2)) - header);
}

SLUICE_INLINE int sluice_is_extension(sluice_u32 next) {
  return next == SLUICE_NEXT_HOP_BY_HOP || next == SLUICE_NEXT_ROUTING || next == SLUICE_NEXT_FRAGMENT ||
         next == SLUICE_NEXT_AH || next == SLUICE_NEXT_DESTINATION || next == SLUICE_NEXT_MOBILITY;
}

/* RFC 8200. A fragment's protocol is what its Fragment header says, so that all fragments of a packet match
 * alike. */
SLUICE_INLINE sluice_u64 sluice_parse_ipv6(const sluice_u8* ip, const sluice_u8* end,
                                           struct sluice_key* key) {
  if (ip + 40 > end || ip[0] >> 4 != 6) {
    return SLUICE_NOTE_TRUNCATED;
  }
  key->word[2] = sluice_get64(ip + 8);
  key->word[3] = sluice_get64(ip + 16);
  key->word[4] = sluice_get64(ip + 24);
  key->word[5] = sluice_get64(ip + 32);
  sluice_u32 next = ip[6];
  int room = SLUICE_BE16(sluice_get16(ip + 4));
  const sluice_u8* at = ip + 40;
  for (sluice_u32 i = 0; i <= SLUICE_MAX_EXTENSIONS; i++) {
    if (!sluice_is_extension(next)) {
      return SLUICE_KEY_IPV6 | SLUICE_KEY_PROTO | (sluice_u64)next << SLUICE_PROTO_SHIFT |
             sluice_parse_ports(at, end, next, room);
    }
    if (i == SLUICE_MAX_EXTENSIONS) {
      break;
    }
    if (at + 8 > end || room < 8) {
      return SLUICE_KEY_IPV6 | SLUICE_NOTE_TRUNCATED;
    }
    if (next == SLUICE_NEXT_FRAGMENT) {
      return SLUICE_KEY_IPV6 | SLUICE_NOTE_FRAGMENT | SLUICE_KEY_PROTO |
             (sluice_u64)at[0] << SLUICE_PROTO_SHIFT;
    }
    int bytes = next == SLUICE_NEXT_AH ? (at[1] + 2) * 4 : (at[1] + 1) * 8;
    next = at[0];
    at += bytes;
    room -= bytes;
  }
  return SLUICE_KEY_IPV6 | SLUICE_NOTE_HEADER_LIMIT;
}

/* Every frame. Fills the key; returns w6 with the notes. */
SLUICE_INLINE sluice_u64 sluice_parse_any(const sluice_u8* data, const sluice_u8* end,
                                          struct sluice_key* key) {
  key->word[2] = key->word[3] = key->word[4] = key->word[5] = key->word[7] = 0;
  if (data + 14 > end) {
    key->word[0] = key->word[1] = key->word[6] = 0;
    return SLUICE_NOTE_TRUNCATED;
  }
  sluice_u64 w0 = sluice_get64(data) & SLUICE_MAC_BITS;
  sluice_u64 w1 = sluice_get64(data + 6); /* the source, and the type right behind it */
  sluice_u64 w6 = SLUICE_KEY_ETHERNET | SLUICE_KEY_VLAN;
  sluice_u16 type = sluice_get16(data + 12);
  const sluice_u8* at = data + 14;
  for (sluice_u32 tags = 0; tags < SLUICE_MAX_TAGS && sluice_is_tag(type); tags++) {
    if (at + 4 > end) {
      w6 |= SLUICE_NOTE_TRUNCATED;
      if (tags == 0) {
        w6 &= ~SLUICE_KEY_VLAN;
      }
      break;
    }
    if (tags == 0) {
      w0 |= (sluice_u64)(SLUICE_BE16(sluice_get16(at)) & 0xfff) << 48;
    }
    type = sluice_get16(at + 2);
    at += 4;
  }
  if (type == SLUICE_BE16(SLUICE_TYPE_IPV4)) {
    w6 |= sluice_parse_ipv4(at, end, key);
  } else if (type == SLUICE_BE16(SLUICE_TYPE_IPV6)) {
    w6 |= sluice_parse_ipv6(at, end, key);
  }
  key->word[0] = w0;
  key->word[1] = (w1 & SLUICE_MAC_BITS) | (sluice_u64)type << 48;
  key->word[6] = w6 & ~(~0ull << SLUICE_NOTES_SHIFT);
  return w6;
}

/* TCP or UDP over IPv6 without extensions, whole. Fills the key; 0 for all others. */
SLUICE_INLINE sluice_u64 sluice_parse_usual_ipv6(const sluice_u8* ip, const sluice_u8* end, sluice_u64 w0,
                                                 sluice_u64 w1, struct sluice_key* key) {
  if (SLUICE_UNLIKELY(ip + 48 > end || ip[0] >> 4 != 6)) {
    return 0;
  }
  sluice_u32 room = SLUICE_BE16(sluice_get16(ip + 4));
  sluice_u64 proto = ip[6];
  if (proto == SLUICE_PROTO_UDP) {
    if (SLUICE_UNLIKELY(room < 8)) {
      return 0;
    }
  } else if (SLUICE_UNLIKELY(proto != SLUICE_PROTO_TCP || room < 20 || ip + 60 > end)) {
    return 0;
  }
  sluice_u64 w6 = SLUICE_KEY_ETHERNET | SLUICE_KEY_VLAN | SLUICE_KEY_IPV6 | SLUICE_KEY_PROTO |
                  SLUICE_KEY_PORTS | proto << SLUICE_PROTO_SHIFT | sluice_get32(ip + 40);
  key->word[0] = w0;
  key->word[1] = w1;
  key->word[2] = sluice_get64(ip + 8);
  key->word[3] = sluice_get64(ip + 16);
  key->word[4] = sluice_get64(ip + 24);
  key->word[5] = sluice_get64(ip + 32);
  key->word[6] = w6;
  key->word[7] = 0;
  return w6;
}

/* What of an IPv4 frame's key is not 0. A struct of its own, so that it stays in registers. */
struct sluice_key_ipv4 {
  sluice_u64 w0, w1, w2, w6;
};

SLUICE_INLINE void sluice_widen(const struct sluice_key_ipv4* narrow, struct sluice_key* key) {
  key->word[0] = narrow->w0;
  key->word[1] = narrow->w1;
  key->word[2] = narrow->w2;
  key->word[3] = key->word[4] = key->word[5] = key->word[7] = 0;
  key->word[6] = narrow->w6;
}

/* TCP or UDP over IPv4 without options, whole, and no fragment. `narrow` has w0 and w1 already. 0 for all
 * others. */
SLUICE_INLINE int sluice_parse_usual_ipv4(const sluice_u8* ip, const sluice_u8* end,
                                          struct sluice_key_ipv4* narrow) {
  /* version and length, and no fragment: bytes 0, 6 and 7 of the first 8 in one comparison */
  sluice_u64 first = sluice_get64(ip);
  if (SLUICE_UNLIKELY((first & 0xff3f0000000000ffull) != 0x45)) {
    return 0;
  }
  sluice_u32 total = SLUICE_BE16((sluice_u16)(first >> 16));
  sluice_u64 proto = ip[9];
  if (proto == SLUICE_PROTO_UDP) {
    if (SLUICE_UNLIKELY(total < 28)) {
      return 0;
    }
  } else if (SLUICE_UNLIKELY(proto != SLUICE_PROTO_TCP || total < 40 || ip + 40 > end)) {
    return 0;
  }
  narrow->w2 = sluice_get64(ip + 12);
  narrow->w6 = SLUICE_KEY_ETHERNET | SLUICE_KEY_VLAN | SLUICE_KEY_IPV4 | SLUICE_KEY_PROTO | SLUICE_KEY_PORTS |
               proto << SLUICE_PROTO_SHIFT | sluice_get32(ip + 20);
  return 1;
}

enum sluice_usual { SLUICE_NOT_USUAL, SLUICE_USUAL_IPV4, SLUICE_USUAL_IPV6 };

/* The frames that come most, in one straight line: at most one tag, IPv4 without options or IPv6 without
 * extensions, TCP or UDP, whole. Fills `narrow` for IPv4 and `key` for IPv6; must agree with
 * sluice_parse_any(), and a fuzzer holds them side by side. */
SLUICE_INLINE enum sluice_usual sluice_parse_usual(const sluice_u8* data, const sluice_u8* end,
                                                   struct sluice_key_ipv4* narrow, struct sluice_key* key) {
  if (SLUICE_UNLIKELY(data + 14 + 28 > end)) {
    return SLUICE_NOT_USUAL;
  }
  sluice_u64 w0 = sluice_get64(data) & SLUICE_MAC_BITS;
  sluice_u64 w1 = sluice_get64(data + 6);
  const sluice_u8* ip = data + 14;
  sluice_u32 type = (sluice_u32)(w1 >> 48);
  if (type == SLUICE_BE16(SLUICE_TPID_8021Q)) {
    if (SLUICE_UNLIKELY(data + 18 + 28 > end)) {
      return SLUICE_NOT_USUAL;
    }
    type = sluice_get16(data + 16);
    w0 |= (sluice_u64)(SLUICE_BE16(sluice_get16(data + 14)) & 0xfff) << 48;
    w1 = (w1 & SLUICE_MAC_BITS) | (sluice_u64)type << 48;
    ip = data + 18;
  }
  if (type == SLUICE_BE16(SLUICE_TYPE_IPV4)) {
    narrow->w0 = w0;
    narrow->w1 = w1;
    return sluice_parse_usual_ipv4(ip, end, narrow) ? SLUICE_USUAL_IPV4 : SLUICE_NOT_USUAL;
  }
  if (type == SLUICE_BE16(SLUICE_TYPE_IPV6)) {
    return sluice_parse_usual_ipv6(ip, end, w0, w1, key) ? SLUICE_USUAL_IPV6 : SLUICE_NOT_USUAL;
  }
  return SLUICE_NOT_USUAL;
}

/* As the XDP program does, for others. */
SLUICE_INLINE void sluice_parse(const sluice_u8* data, const sluice_u8* end, struct sluice_key* key) {
  struct sluice_key_ipv4 narrow;
  enum sluice_usual usual = sluice_parse_usual(data, end, &narrow, key);
  if (usual == SLUICE_USUAL_IPV4) {
    sluice_widen(&narrow, key);
  } else if (usual == SLUICE_NOT_USUAL) {
    sluice_parse_any(data, end, key);
  }
}

#endif
