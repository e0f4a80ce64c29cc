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
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/archive/archiving.h"
#include "fs/core/tier/ageing/impl.h"

#define PORTION 1024u

struct listed {
	uint64_t object, size;
	int64_t modified_ns;
};
struct gc {
	struct fs *fs;
	const struct tier_store *store;
	bool dry;
	void (*fn)(void *ctx, const char *line);
	void *ctx;
	struct gc_result *res;
	/* a portion of the listing */
	struct listed listed[PORTION];
	size_t n;
	bool more;
	char last[OBJECT_KEY_MAX + 1];
	uint64_t next_row; /* rows below were compared */
};

static void say(const struct gc *g, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void say(const struct gc *g, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	g->fn(g->ctx, line);
}

/* ---- the listing ---- */

static int note_listed(void *ctx, const char *key, const struct object_info *info)
{
	struct gc *g = ctx;
	struct listed *l = &g->listed[g->n];

	if (g->n == PORTION) {
		g->more = true;
		return 1;
	}
	snprintf(g->last, sizeof(g->last), "%s", key);
	if (object_name_parse(key, &l->object) < 0) {
		say(g, "%s: not a name that clawfs gives: left alone", key);
		return 0;
	}
	l->size = info->size;
	l->modified_ns = info->modified_ns;
	g->n++;
	g->res->listed++;
	return 0;
}

static int list_portion(struct gc *g)
{
	struct object_call call = {.purpose = OBJECT_BACKGROUND};
	char after[OBJECT_KEY_MAX + 1];

	memcpy(after, g->last, sizeof(after));
	g->n = 0;
	g->more = false;
	int r = g->store->guard->ops->list(g->store->guard, &call, "packs/", after, note_listed, g);
	if (r < 0)
		say(g, "store %s cannot be listed: %s", g->store->name, *call.message ? call.message : strerror(-r));
	return r < 0 ? r : 0;
}

/* ---- orphans ---- */

/* 0: it has a row in this store, or is about to have one; 1: it has not. */
static int is_orphan(struct gc *g, uint64_t object)
{
	struct object_row o;

	if (ageing_is_writing(g->fs, object))
		return 0;
	int r = objects_get(g->fs, object, &o);
	if (r == -ENOENT)
		return 1;
	return r < 0 ? r : o.store != g->store->d.id;
}

/* By a clock that does not jump: it would make an upload of this moment old. */
static bool is_old(const struct gc *g, const struct listed *l)
{
	int64_t age_ns;

	return l->modified_ns && !__builtin_sub_overflow(steady_now(g->fs->ageing), l->modified_ns, &age_ns) &&
	       age_ns > g->store->d.grace_ns;
}

static int remove_orphan(struct gc *g, const struct listed *l, const char *key)
{
	struct object_call call = {.purpose = OBJECT_BACKGROUND};
	int r = is_orphan(g, l->object);

	if (r <= 0)
		return r;
	r = g->store->guard->ops->remove(g->store->guard, &call, key);
	if (r < 0 && r != -ENOENT) {
		say(g, "%s: cannot be removed: %s", key, *call.message ? call.message : strerror(-r));
		return r;
	}
	g->res->removed++;
	say(g, "%s: nothing refers to it (%llu bytes): removed", key, (unsigned long long)l->size);
	return 0;
}

static int look_at_listed(struct gc *g, const struct listed *l)
{
	char key[OBJECT_NAME_MAX];
	int r = is_orphan(g, l->object);

	if (r <= 0)
		return r;
	object_name(l->object, key);
	if (!is_old(g, l)) {
		say(g, "%s: nothing refers to it (%llu bytes), and it is younger than the grace time: left alone", key,
		    (unsigned long long)l->size);
		return 0;
	}
	g->res->orphans++;
	g->res->orphan_bytes += l->size;
	if (!g->dry)
		return remove_orphan(g, l, key);
	say(g, "%s: nothing refers to it (%llu bytes): would be removed", key, (unsigned long long)l->size);
	return 0;
}

/* ---- missing ---- */

/* Rows [from, end] of the store that are not among those listed. */
struct gap {
	struct gc *g;
	uint64_t end;
	size_t at; /* in g->listed */
	uint64_t missing[PORTION];
	size_t n;
	bool full;
};

static int compare_row(void *ctx, const struct object_row *o)
{
	struct gap *gap = ctx;
	struct gc *g = gap->g;

	if (o->object > gap->end)
		return 1;
	if (gap->n == PORTION) {
		gap->full = true;
		return 1;
	}
	g->next_row = o->object + 1;
	while (gap->at < g->n && g->listed[gap->at].object < o->object)
		gap->at++;
	bool listed = gap->at < g->n && g->listed[gap->at].object == o->object;
	if (!listed && o->store == g->store->d.id && o->n_live && !ageing_is_writing(g->fs, o->object))
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
	int r = g->store->guard->ops->head(g->store->guard, &call, key, &info);
	if (r != -ENOENT) {
		if (r < 0)
			say(g, "%s: not listed, and cannot be asked for: %s", key, *call.message ? call.message : strerror(-r));
		return r;
	}
	if (objects_get(g->fs, object, &o) < 0 || !o.n_live) /* gone while it was listed */
		return 0;
	g->res->missing++;
	say(g, "%s: MISSING: %u blocks of files were in it: restore them, or the store", key, o.n_live);
	log_error("store %s does not have object %s, which holds %u blocks of files", g->store->name, key, o.n_live);
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
		r = objects_each(g->fs, g->next_row, compare_row, gap);
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
		r = list_portion(g);
		/* Numbers in names have one length: their order is that of the rows. */
		if (r == 0)
			r = find_missing(g, g->more ? g->listed[g->n - 1].object : UINT64_MAX);
		for (size_t i = 0; i < g->n && r == 0; i++)
			r = look_at_listed(g, &g->listed[i]);
	} while (r == 0 && g->more);
	return r;
}

int gc_run(struct fs *fs, const char *store, bool dry, void (*fn)(void *ctx, const char *line), void *ctx, struct gc_result *ret)
{
	CLEANUP_FREE struct gc *g = calloc(1, sizeof(*g));
	int r = dry || fs_takes_changes(fs) ? 0 : -EROFS;

	*ret = (struct gc_result){0};
	if (!g)
		return -ENOMEM;
	*g = (struct gc){.fs = fs, .dry = dry, .fn = fn, .ctx = ctx, .res = ret};
	if (r == 0)
		r = stores_get_by_name(fs, store, &g->store);
	if (r < 0)
		return r;
	steady_look(fs->ageing);
	r = run(g);
	if (r == 0)
		r = archive_gc(fs, g->store, dry, fn, ctx, ret);
	stores_put(fs, g->store);
	return r;
}
