/*
 * gc.c: compares what a store says it has with table Q, and then with its archive (archive/gc.c).  Only here a store is listed.
 *
 *     orphan    listed, and no row says that this store has it: what an upload left behind that was cut off, or a remove that was
 * lost. Removed once it is older than the grace time, by the store's time for it, and nobody is writing it just now.
 *     missing   a row with live leaves whose object is not listed.  A listing proves nothing (G12): the store is asked for each,
 * and only what it denies is reported, as damage; nothing is changed.
 *
 * Listing and rows are both in the order of object numbers, so they are walked side by side, a portion of the listing at a time;
 * rows are looked up again right before anything is removed.  Only a leader removes: a follower's rows may be behind its
 * leader's.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/archive/archiving.h"
#include "fs/core/tier/ageing/impl.h"
#include "fs/core/tier/gc_list.h"

struct gc {
	struct gc_list list;
	uint64_t object[GC_PORTION]; /* of those listed, rising */
	uint64_t next_row;           /* rows below were compared */
};

static int parse_pack(void *ctx, const char *key, size_t i)
{
	struct gc *g = ctx;

	return object_name_parse(key, &g->object[i]);
}

/* ---- orphans ---- */

/* 0: it has a row in this store, or is about to have one; 1: it has not. */
static int is_orphan(struct gc *g, uint64_t object)
{
	struct object_row o;

	if (ageing_is_writing(g->list.fs, object))
		return 0;
	int r = objects_get(g->list.fs, object, &o);
	if (r == -ENOENT)
		return 1;
	return r < 0 ? r : o.store != g->list.store->d.id;
}

static int remove_orphan(struct gc *g, size_t i, const char *key)
{
	struct object_store *store = g->list.store->guard;
	struct object_call call = {.purpose = OBJECT_BACKGROUND};
	int r = is_orphan(g, g->object[i]);

	if (r <= 0)
		return r;
	r = store->ops->remove(store, &call, key);
	if (r < 0 && r != -ENOENT) {
		gc_say(&g->list, "%s: cannot be removed: %s", key, *call.message ? call.message : strerror(-r));
		return r;
	}
	gc_was_removed(&g->list, i, key);
	return 0;
}

static int look_at_listed(struct gc *g, size_t i)
{
	char key[OBJECT_NAME_MAX];
	int r = is_orphan(g, g->object[i]);

	if (r <= 0)
		return r;
	object_name(g->object[i], key);
	return gc_may_remove(&g->list, i, key) ? remove_orphan(g, i, key) : 0;
}

/* ---- missing ---- */

/* Rows [from, end] of the store that are not among those listed. */
struct gap {
	struct gc *g;
	uint64_t end;
	size_t at; /* in g->object */
	uint64_t missing[GC_PORTION];
	size_t n;
	bool full;
};

static int compare_row(void *ctx, const struct object_row *o)
{
	struct gap *gap = ctx;
	struct gc *g = gap->g;

	if (o->object > gap->end)
		return 1;
	if (gap->n == GC_PORTION) {
		gap->full = true;
		return 1;
	}
	g->next_row = o->object + 1;
	while (gap->at < g->list.n && g->object[gap->at] < o->object)
		gap->at++;
	bool listed = gap->at < g->list.n && g->object[gap->at] == o->object;
	if (!listed && o->store == g->list.store->d.id && o->n_live && !ageing_is_writing(g->list.fs, o->object))
		gap->missing[gap->n++] = o->object;
	return 0;
}

static int ask_for(struct gc *g, uint64_t object)
{
	struct object_call call = {.purpose = OBJECT_BACKGROUND};
	char key[OBJECT_NAME_MAX];
	struct object_info info;
	struct object_row o;

	object_name(object, key);
	int r = g->list.store->guard->ops->head(g->list.store->guard, &call, key, &info);
	if (r != -ENOENT) {
		if (r < 0)
			gc_say(&g->list, "%s: not listed, and cannot be asked for: %s", key,
			       *call.message ? call.message : strerror(-r));
		return r;
	}
	if (objects_get(g->list.fs, object, &o) < 0 || !o.n_live) /* gone while it was listed */
		return 0;
	g->list.res->missing++;
	gc_say(&g->list, "%s: MISSING: %u blocks of files were in it: restore them, or the store", key, o.n_live);
	log_error("store %s does not have object %s, which holds %u blocks of files", g->list.store->name, key, o.n_live);
	return 0;
}

/* Rows up to `end` against the portion at hand. */
static int find_missing(struct gc *g, uint64_t end)
{
	CLEANUP_FREE struct gap *gap = malloc(sizeof(*gap));
	int r = gap ? 0 : -ENOMEM;

	do {
		if (r < 0)
			return r;
		*gap = (struct gap){.g = g, .end = end};
		r = objects_each(g->list.fs, g->next_row, compare_row, gap);
		for (size_t i = 0; i < gap->n && r >= 0; i++)
			r = ask_for(g, gap->missing[i]);
	} while (gap->full);
	return r < 0 ? r : 0;
}

/* ---- all of it ---- */

static int run(struct gc *g)
{
	int r;

	do {
		r = gc_list_next(&g->list);
		/* Numbers in names have one length: their order is that of the rows. */
		if (r == 0)
			r = find_missing(g, g->list.more ? g->object[g->list.n - 1] : UINT64_MAX);
		for (size_t i = 0; i < g->list.n && r == 0; i++)
			r = look_at_listed(g, i);
	} while (r == 0 && g->list.more);
	return r;
}

int gc_run(struct fs *fs, const char *store, bool dry, void (*fn)(void *ctx, const char *line), void *ctx, struct gc_result *ret)
{
	CLEANUP_FREE struct gc *g = calloc(1, sizeof(*g));
	int r = dry || fs_takes_changes(fs) ? 0 : -EROFS;

	*ret = (struct gc_result){0};
	if (!g)
		return -ENOMEM;
	g->list = (struct gc_list){.fs = fs,
				   .prefix = "packs/",
				   .unneeded = "nothing refers to it",
				   .parse = parse_pack,
				   .parse_ctx = g,
				   .dry = dry,
				   .fn = fn,
				   .ctx = ctx,
				   .res = ret};
	if (r == 0)
		r = stores_get_by_name(fs, store, &g->list.store);
	if (r < 0)
		return r;
	steady_look(fs->ageing);
	r = run(g);
	if (r == 0)
		r = archive_gc(fs, g->list.store, dry, fn, ctx, ret);
	stores_put(fs, g->list.store);
	return r;
}
