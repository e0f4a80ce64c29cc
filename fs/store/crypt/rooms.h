/*
 * rooms.h: a few buffers in which writes are encrypted before they go down.
 *
 * Who finds none waits for one.  Who has one and would like more takes what is free and never waits, so nobody waits for two.
 * Ownership: a room is the caller's until room_give().  Threads: any.  Errors: NULL for want of memory.
 */
#pragma once

#include "base/util.h"

#define ROOM_BYTES    (1u << 20)
#define ROOM_SECTORS  (ROOM_BYTES / 4096)
#define ROOM_BESIDE   (32u * ROOM_SECTORS) /* bytes behind each room, for what is stored beside the data */
#define ROOMS         8u

struct rooms;
MUST_CHECK int rooms_new(struct rooms **ret);
struct rooms *rooms_free(struct rooms *r); /* all are given back; wipes them */
/* Aligned to 4 KiB.  Without `wait`: NULL when none is free.  Else NULL only when there is no memory for a first one. */
uint8_t *room_take(struct rooms *r, bool wait);
void room_give(struct rooms *r, uint8_t *room);
