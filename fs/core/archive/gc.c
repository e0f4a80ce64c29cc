/*
 * gc.c: objects below archive/ of a store that no manifest needs: what was left behind by an upload that was cut off, a removal
 * that was lost, a base whose parts were not all found.
 *
 * Needed are the manifests; the head of each epoch that has a stream; of a base that is done its parts, of one that is being made
 * or removed all there are; and of segments those from the first one of the oldest stream of their epoch on (or from where it is
 * being removed).  Whether a later segment is reached from there is not looked at: it is kept.  What goes is older than the
 * store's grace time, too, so nothing is taken that is being stored just now, and that the manifest which was read does not name
 * yet.
 *
 * Nothing is concluded from a manifest that may not be the newest: when one of its two copies is damaged or missing, though there
 * were two, nothing is removed.  A listing only says what may go, never what is there.
 */
#include <errno.h>
#include <openssl/crypto.h>
#include <string.h>

#include "fs/core/archive/impl.h"
#include "fs/core/tier/gc_list.h"

struct archive_gc {
	struct gc_list list;
	struct archive_id id[GC_PORTION]; /* of those listed */
	struct archive_place place;
	struct pack_volume_key key;
	struct archive_manifest m;
};

static int parse_archived(void *ctx, const char *key, size_t i)
{
	struct archive_gc *g = ctx;

	return archive_name_parse(key, &g->id[i]);
}

/* ---- the manifest ---- */

/* That there is nothing newer: both copies are whole, once there were two.  1: it can be believed. */
static int read_manifest(struct archive_gc *g)
{
	struct archive_info info;

	manifest_free(&g->m);
	int r = manifest_read(&g->place, &g->m);
	if (r == 0 && *g->place.message)
		r = -EBADMSG;
	if (r == 0 && g->m.generation > 1) {
		const struct archive_id other = {.kind = ARCHIVE_MANIFEST, .part = (uint32_t)((g->m.generation + 1) % 2)};

		r = archive_fetch_header(&g->place, &other, &info);
	}
	if (r == 0)
		return 1;
	gc_say(&g->list, "store %s: what its archive needs is not known for sure: nothing of it is removed: %s",
	       g->list.store->name, *g->place.message ? g->place.message : strerror(-r));
	return r == -ENOENT || r == -EBADMSG || r == -EUCLEAN ? 0 : r;
}

static bool needs_head(const struct archive_manifest *m, uint64_t epoch)
{
	for (size_t i = 0; i < m->n_streams; i++)
		if (m->stream[i].epoch == epoch)
			return true;
	return false;
}

static bool needs_segment(const struct archive_manifest *m, const struct archive_id *id)
{
	for (size_t i = 0; i < m->n_streams; i++) {
		const struct archive_stream *s = &m->stream[i];
		uint64_t first = s->removing.seq ? min_u64(s->removing.seq, s->first.seq) : s->first.seq;

		if (s->epoch == id->epoch && id->seq >= first)
			return true;
	}
	return false;
}

static bool needs_part(const struct archive_manifest *m, const struct archive_id *id)
{
	for (size_t i = 0; i < m->n_bases; i++)
		if (m->base[i].epoch == id->epoch && m->base[i].seq == id->seq &&
		    (m->base[i].state != BASE_DONE || id->part < m->base[i].parts))
			return true;
	return false;
}

static bool is_needed(const struct archive_manifest *m, const struct archive_id *id)
{
	switch (id->kind) {
	case ARCHIVE_HEAD:
		return needs_head(m, id->epoch);
	case ARCHIVE_SEGMENT:
		return needs_segment(m, id);
	case ARCHIVE_BASE:
		return needs_part(m, id);
	default:
		return true;
	}
}

/* ---- orphans ---- */

static int look_at(struct archive_gc *g, size_t i)
{
	char key[ARCHIVE_NAME_MAX];

	if (is_needed(&g->m, &g->id[i]))
		return 0;
	archive_name(&g->id[i], key);
	if (!gc_may_remove(&g->list, i, key))
		return 0;
	int r = archive_remove(&g->place, &g->id[i]);
	if (r < 0) {
		gc_say(&g->list, "cannot be removed: %s", g->place.message);
		return r;
	}
	gc_was_removed(&g->list, i, key);
	return 0;
}

static bool has_orphans(const struct archive_gc *g)
{
	for (size_t i = 0; i < g->list.n; i++)
		if (!is_needed(&g->m, &g->id[i]))
			return true;
	return false;
}

/* The manifest is read again for each portion that something is to go of: the archive goes on meanwhile. */
static int run(struct archive_gc *g)
{
	int r, sure = 1;

	do {
		r = gc_list_next(&g->list);
		if (r < 0 || g->list.n == 0)
			return r;
		if (g->m.generation == 0 || has_orphans(g))
			sure = read_manifest(g);
		if (sure <= 0)
			return sure;
		for (size_t i = 0; i < g->list.n && r == 0; i++)
			r = look_at(g, i);
	} while (r == 0 && g->list.more);
	return r;
}

int archive_gc(struct fs *fs, const struct tier_store *store, bool dry, void (*fn)(void *ctx, const char *line), void *ctx,
	       struct gc_result *res)
{
	CLEANUP_FREE struct archive_gc *g = calloc(1, sizeof(*g));
	int r;

	if (!g)
		return -ENOMEM;
	g->list = (struct gc_list){.fs = fs,
				   .store = store,
				   .prefix = "archive/",
				   .unneeded = "the archive does not need it",
				   .parse = parse_archived,
				   .parse_ctx = g,
				   .dry = dry,
				   .fn = fn,
				   .ctx = ctx,
				   .res = res};
	g->place = (struct archive_place){.store = store->guard, .purpose = OBJECT_BACKGROUND};
	memcpy(g->place.volume, fs->super.volume, sizeof(g->place.volume));
	r = store->d.encrypt ? stores_key(fs, &g->key) : 0;
	if (store->d.encrypt && r == 0)
		g->place.key = &g->key;
	r = r == -ENOENT ? 0 : r; /* no key was made yet: then there is no archive either */
	if (r == 0)
		r = run(g);
	OPENSSL_cleanse(&g->key, sizeof(g->key));
	manifest_free(&g->m);
	return r;
}
