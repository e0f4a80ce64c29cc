/*
 * pointer.h: where a 4 KiB block is: device 8 bits | block 48 bits | flags 8 bits, in one u64.
 *
 * Format: device in the high byte, flags in the low byte.  0 is no pointer.  Device 0 is the journal: its block is a
 * *position*, counted from 1 since format and never reused (position % ring blocks is where it lies), so a stale pointer
 * is seen at once; 1-199 are arenas, 200 and up object storage.  Flags are 0 today and must be.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define BLOCK_SIZE 4096u
#define DEVICE_JOURNAL 0u
#define DEVICE_ARENA_FIRST 1u
#define DEVICE_ARENA_LAST 199u
#define POINTER_BLOCK_MAX ((UINT64_C(1) << 48) - 1)

typedef uint64_t pointer_t;

static inline pointer_t pointer_make(unsigned device, uint64_t block) { return (uint64_t)device << 56 | block << 8; }
static inline unsigned pointer_device(pointer_t p) { return (unsigned)(p >> 56); }
static inline uint64_t pointer_block(pointer_t p) { return p >> 8 & POINTER_BLOCK_MAX; }
/* The pointer `n` blocks further on. */
static inline pointer_t pointer_add(pointer_t p, uint64_t n) { return p + (n << 8); }

/* `n_blocks` blocks that lie one after the other from `start`. */
struct run {
	pointer_t start;
	uint32_t n_blocks;
};
