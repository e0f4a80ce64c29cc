/* usage_format.h: bytes of the file "tier/usage": two copies, written in turn.  docs/FORMAT.md tells the same in words. */
#pragma once

#include "base/le.h"

#define USAGE_MAGIC      UINT64_C(0x4547415355574c43) /* "CLWUSAGE" */
#define USAGE_VERSION    1
#define USAGE_STORES_MAX 200u
#define USAGE_COPY_BYTES 20480u

struct usage_entry {
	le32 store;
	le32 month; /* year * 12 + month - 1, UTC */
	le64 requests;
	le64 bytes_in, bytes_out;
	le64 by_kind[8]; /* in the order of enum object_kind; the rest zero */
};
_Static_assert(sizeof(struct usage_entry) == 96, "");

/* Valid if and only if: magic, version, volume and crc are right, n is at most USAGE_STORES_MAX.  The higher generation counts.
 */
struct usage_copy {
	le64 magic;
	le32 version;
	le32 n; /* entries; behind them zeros */
	le64 generation;
	uint8_t volume[16];
	struct usage_entry entry[USAGE_STORES_MAX];
	uint8_t zero[1236];
	le32 crc; /* CRC-32C of the bytes before */
};
_Static_assert(sizeof(struct usage_copy) == USAGE_COPY_BYTES, "");
