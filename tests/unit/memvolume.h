/*
 * memvolume.h: a volume (volume.h) over a store in memory with room for all, for tests that make so many changes that a store which
 * remembers each write, for crashes, would be slow.
 *
 * Threads: one.  Errors: none; the tests assert.
 */
#pragma once

#include "tests/lib/steps.h"
#include "tests/unit/memstore.h"
#include "tests/unit/volume.h"

struct memvolume {
	struct volume v;
	struct memstore store;
	uint64_t base; /* blocks in use while there is but the empty /sub/name */
};

static inline void memvolume_open(struct memvolume *m)
{
	*m = (struct memvolume){0};
	memstore_init(&m->store);
	volume_make(&m->v, &m->store.base, NULL);
	steps_home(m->v.fs);
	m->base = used_blocks(m->v.fs);
}

static inline void memvolume_close(struct memvolume *m)
{
	volume_close(&m->v);
	memstore_free(&m->store);
}
