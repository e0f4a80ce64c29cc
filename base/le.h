/*
 * le.h: little-endian integers of disk and wire, as types that do not mix with host integers.
 *
 * Format: leN holds N bits, least significant byte first, with no alignment; beN keys sort as bytes do.
 * A structure made only of these has no padding.  Threads: no state.  Errors: none.
 */
#pragma once

#include <stdint.h>
#include <string.h>

typedef struct { uint8_t b[2]; } le16;
typedef struct { uint8_t b[4]; } le32;
typedef struct { uint8_t b[8]; } le64;

static inline uint16_t le16_get(le16 v) { uint16_t h; memcpy(&h, v.b, 2); return h; }
static inline uint32_t le32_get(le32 v) { uint32_t h; memcpy(&h, v.b, 4); return h; }
static inline uint64_t le64_get(le64 v) { uint64_t h; memcpy(&h, v.b, 8); return h; }
static inline le16 le16_make(uint16_t h) { le16 v; memcpy(v.b, &h, 2); return v; }
static inline le32 le32_make(uint32_t h) { le32 v; memcpy(v.b, &h, 4); return v; }
static inline le64 le64_make(uint64_t h) { le64 v; memcpy(v.b, &h, 8); return v; }

/* Big endian, for index keys: numeric order is byte order. */
static inline void be64_put(uint8_t *p, uint64_t h) { h = __builtin_bswap64(h); memcpy(p, &h, 8); }
static inline uint64_t be64_get(const uint8_t *p) { uint64_t h; memcpy(&h, p, 8); return __builtin_bswap64(h); }

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "le.h copies host integers: port it before a big-endian build");
