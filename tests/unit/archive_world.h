/*
 * archive_world.h: a volume of the simulator (tests/crash/sim_run.h) with an archive in a store in memory, the tree it had after
 * each durable batch, and volumes restored from the archive.
 *
 * Ownership: the world owns all of it.  Threads: one.  Errors: a failed assertion.
 */
#pragma once

#include "fs/core/archive/impl.h"
#include "fs/core/archive/restore.h"
#include "tests/lib/cold.h"
#include "tests/lib/simobject.h"
#include "tests/unit/replica_world.h"

#define STORE "s"

struct state {
	uint64_t seq;
	int64_t ns; /* the clock when it was durable */
	struct tree tree;
};
struct archived {
	struct sim_run run;
	struct simobject *so;
	struct state *state; /* rising */
	size_t n_states, cap_states;
};
struct restored {
	struct sim_image image;
	struct fs *fs;
	struct restore_result res;
	struct archive_place place;
	struct pack_volume_key key;
};

static const struct fs_cred admin = {.uid = 0};

/* Each look takes a second, so that who waits for a store to be tried again need not. */
static _Atomic int64_t mono_at;
static int64_t mono_looked(const struct clock *c)
{
	(void)c;
	return atomic_fetch_add(&mono_at, NSEC_PER_SEC);
}

/* Long enough for any store to be tried again. */
static inline void wait_long(struct archived *w)
{
	w->run.clock->now_ns += 200 * NSEC_PER_SEC;
	atomic_fetch_add(&mono_at, 200 * NSEC_PER_SEC);
}

static inline void archived_hook(struct archived *w)
{
	w->run.fs->config.object_store_open = simobject_hook;
	w->run.fs->config.object_store_ctx = w->so;
}

static inline uint64_t durable_of(struct fs *fs)
{
	struct journal_status js;

	journal_get_status(fs->journal, &js);
	return js.durable_seq;
}

static inline void tree_of(struct fs *fs, struct tree *ret)
{
	char why[512];

	if (tree_read(fs, ret, why, sizeof(why)))
		fail_msg("%s", why);
}

/* Everything is durable, and the tree is that of the newest batch. */
static inline void note_state(struct archived *w)
{
	for (bool more = true; more;)
		OK(fs_reap_step(w->run.fs, &more));
	OK(fs_sync(w->run.fs));
	uint64_t seq = durable_of(w->run.fs);
	if (w->n_states && w->state[w->n_states - 1].seq == seq)
		return;
	w->state = test_grow(w->state, w->n_states, &w->cap_states, sizeof(*w->state));
	struct state *s = &w->state[w->n_states++];
	*s = (struct state){.seq = seq, .ns = w->run.clock->now_ns};
	tree_of(w->run.fs, &s->tree);
}

static inline void store_add(struct archived *w, const char *options)
{
	char text[256];
	struct buf out = {0};

	snprintf(text, sizeof(text), STORE " file:///archive %s", options);
	int r = admin_run(w->run.fs, &admin, TIER_JOB_ADD, text, &out);
	if (r < 0)
		fprintf(stderr, "%.*s\n", (int)out.len, (const char *)out.p);
	OK(r);
	buf_free(&out);
}

static inline void archived_open(struct archived *w, uint64_t seed, enum sim_profile profile, const char *options)
{
	*w = (struct archived){0};
	assert_true(sim_format(&w->run, seed, profile, 0));
	w->run.clock->clock.mono_ns = mono_looked;
	assert_true(sim_mount(&w->run));
	w->so = simobject_new(NULL, &w->run.clock->clock);
	archived_hook(w);
	store_add(w, options);
	OK(fs_archive_set(w->run.fs, &admin, "store=" STORE " interval=5s"));
}

static inline void archived_close(struct archived *w)
{
	for (size_t i = 0; i < w->n_states; i++)
		tree_free(&w->state[i].tree);
	free(w->state);
	sim_free(&w->run);
	simobject_free(w->so);
}

static inline struct archiver *archiver_of(struct archived *w)
{
	return w->run.fs->archiver;
}

/*
 * What the simulated stores of tiers have is here, too: the archiver cannot ask them (tests/lib/cold.h).  That it asks real ones is
 * for other tests.
 */
static inline void warm(struct archived *w)
{
	struct tree t;

	for (size_t i = 0; i < w->run.n_held; i++) {
		int r = cold_keep(w->run.cold, w->run.fs, w->run.held[i]);

		assert_true(r == 0 || r == -ENOENT || r == -EINVAL);
	}
	tree_of(w->run.fs, &t);
	for (size_t i = 0; i < t.n; i++)
		if (S_ISREG(t.e[i].mode) && strncmp(t.e[i].path, "/.clawfs", 8) != 0)
			OK(cold_keep(w->run.cold, w->run.fs, t.e[i].ino));
	tree_free(&t);
}

static inline int archive_step(struct archived *w, bool now, bool *ret_more)
{
	warm(w);
	return archiver_step(w->run.fs, now, ret_more);
}

/* Rounds until nothing is left to do, or one fails. */
static inline int archive_all(struct archived *w)
{
	bool more = true;
	int r = 0;

	for (unsigned i = 0; r == 0 && more; i++) {
		assert_true(i < 10000);
		r = archive_step(w, true, &more);
	}
	return r;
}

/* Random operations until there is one more durable batch, whose state is kept. */
static inline void step_and_note(struct archived *w)
{
	size_t n = w->n_states;

	for (unsigned i = 0; w->n_states == n; i++) {
		assert_true(i < 1000);
		if (!sim_step(&w->run))
			fail_msg("%s", w->run.why);
		note_state(w);
	}
}

/* ---- restoring ---- */

static inline void place_of(struct archived *w, struct restored *x)
{
	struct replica_point p = point_of(w->run.fs);
	const struct tier_store *s;

	x->place = (struct archive_place){.store = simobject_open(w->so, STORE)};
	memcpy(x->place.volume, p.volume, sizeof(x->place.volume));
	OK(stores_find(w->run.fs, 1, &(struct tier_store){{0}}));
	OK(stores_get_by_name(w->run.fs, STORE, &s));
	if (s->d.encrypt) {
		OK(stores_key(w->run.fs, &x->key));
		x->place.key = &x->key;
	}
	stores_put(w->run.fs, s);
}

static inline void restored_volume(struct archived *w, struct restored *x)
{
	x->image.store = simstore_new();
	x->image.index = kv_disk_new(x->image.store);
	struct fs_config c = sim_config(&w->run, &x->image);
	const struct fs_format_options o = {
	    .journal = {.n_segments = 11, .segment_blocks = 256}, .chunk_bytes = MIB, .root_mode = 0700, .follower = true};
	OK(fs_format(&c, &o));
	OK(fs_open(&c, &x->fs));
}

/* The error of restoring; then there is no volume. */
static inline int restore(struct archived *w, const struct restore_target *t, struct restored *x)
{
	struct archive_manifest m = {0};

	*x = (struct restored){0};
	place_of(w, x);
	int r = manifest_read(&x->place, &m);
	if (r == 0)
		r = manifest_follow_heads(&x->place, &m);
	if (r == 0) {
		restored_volume(w, x);
		r = restore_run(x->fs, &x->place, &m, t, NULL, NULL, &x->res);
	}
	manifest_free(&m);
	return r;
}

static inline void restored_free(struct restored *x)
{
	if (x->fs)
		fs_abandon(x->fs);
	if (x->image.store)
		sim_image_free(&x->image);
	object_store_close(x->place.store);
	*x = (struct restored){0};
}

static inline void assert_tree(struct fs *fs, const struct tree *want)
{
	struct tree got;
	char why[512];

	tree_of(fs, &got);
	if (tree_diff(&got, want, why, sizeof(why)))
		fail_msg("%s", why);
	tree_free(&got);
}
