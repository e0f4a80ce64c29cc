/*
 * object.c: all frames of an object, one after the other, for repacking: got in ranges, in the background, past the memory
 * that readers share.
 *
 * A frame that is damaged is passed over where its header still says how long it is: whether that matters only the caller knows,
 * who knows which frames are needed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/tier/recall/impl.h"

struct reading {
	struct recall *rc;
	struct object_key_entry e;
	recall_frame_fn *fn;
	void *ctx;
	uint8_t *p; /* a range, and room for the frame that its beginning cuts */
	uint8_t *blocks;
};

static int show(void *ctx, const struct pack_key *key, const uint8_t *p, size_t len, uint32_t offset, uint32_t frame_len)
{
	struct reading *g = ctx;
	struct pack_frame f;
	int r = pack_read_frame(key, offset, p, len, &f, g->blocks);

	(void)frame_len;
	if (r == -ENOMEM || r == -EIO)
		return r;
	return r < 0 ? 0 : g->fn(g->ctx, &f, offset, g->blocks);
}

static int get_range(struct reading *g, const struct tier_store *s, uint64_t off, size_t len, uint8_t *p)
{
	struct object_call call = {.purpose = OBJECT_BACKGROUND};
	char key[OBJECT_NAME_MAX];

	object_name(g->e.object, key);
	int r = s->guard->ops->get(s->guard, &call, key, off, len, p);
	if (r < 0 && r != -ECANCELED && r != -EDQUOT)
		log_warn("object %s of store %s cannot be read: %s", key, s->name, *call.message ? call.message : strerror(-r));
	return r;
}

/* What is in memory is [at - kept, at) of the object when a range is asked for. */
static int read_all(struct reading *g, const struct tier_store *s)
{
	uint64_t at = PACK_HEADER_BYTES;
	uint32_t next = PACK_HEADER_BYTES;
	size_t kept = 0;
	int r = 0;

	while (r == 0 && at < g->e.bytes) {
		size_t len = (size_t)min_u64(g->rc->range_bytes, g->e.bytes - at);

		r = get_range(g, s, at, len, g->p + kept);
		if (r < 0)
			return r;
		uint32_t begin = (uint32_t)(at - kept);
		at += len;
		r = frames_walk(&g->e.key, begin, g->p, kept + len, &next, show, g);
		if (r == 0) {
			kept = (size_t)(at - next);
			if (kept > PACK_FRAME_MAX_BYTES)
				return -EUCLEAN; /* no frame is as long */
			memmove(g->p, g->p + (next - begin), kept);
		}
	}
	return r == 0 && next != g->e.bytes ? -EUCLEAN : r;
}

int recall_object(struct fs *fs, uint64_t object, recall_frame_fn *fn, void *ctx)
{
	struct reading g = {.rc = fs->recall, .fn = fn, .ctx = ctx};
	const struct tier_store *s;
	int r = object_key_get(fs->recall, object, &g.e);

	if (r < 0)
		return r;
	g.p = malloc(g.rc->range_bytes + PACK_FRAME_MAX_BYTES);
	g.blocks = malloc(FRAME_BYTES);
	r = g.p && g.blocks ? stores_get(fs, g.e.store, &s) : -ENOMEM;
	if (r == 0) {
		r = read_all(&g, s);
		stores_put(fs, s);
	}
	free(g.p);
	free(g.blocks);
	object_key_wipe(&g.e);
	return r;
}
