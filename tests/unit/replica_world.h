/*
 * replica_world.h: a leader in the simulator (tests/crash/sim_run.h) and followers beside it, joined by nothing but the table of
 * journal/replica.h.
 *
 * A follower is formatted as the leader was, so that both are equal before the first batch and no resync is needed.
 * Ownership: the world owns its nodes; messages own what they carry.  Threads: one.  Errors: a failed assertion.
 */
#pragma once

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/core.h"
#include "fs/core/tier/tier.h"
#include "fs/store/super.h"
#include "tests/crash/sim_run.h"
#include "tests/lib/cow.h"

#define N_FOLLOWERS 2u

struct node {
	struct sim_image image;
	struct fs *fs;
	struct replica_cursor *cursor; /* of what this node ships */
};
struct world {
	struct sim_run run;                /* the first leader, node 1, with its random operations */
	struct node follower[N_FOLLOWERS]; /* nodes 2 and 3 */
	struct replica_cursor *cursor;     /* of the first leader */
};

#define OK(r) assert_string_equal(strerror(-(r)), strerror(0))
#define FAILS(error, r) assert_string_equal(strerror(-(r)), strerror(-(error)))

static inline const struct replica_ops *ops_of(struct fs *fs)
{
	return fs_replica(fs)->ops;
}

static inline struct replica_point point_of(struct fs *fs)
{
	struct replica_point p;

	ops_of(fs)->get_point(fs_replica(fs), &p);
	return p;
}

/* ---- nodes ---- */

static inline void node_open(struct world *w, struct node *n)
{
	assert_null(n->fs);
	OK(sim_open_image(&w->run, &n->image, &n->fs));
}

static inline void node_close(struct node *n)
{
	if (n->fs)
		ops_of(n->fs)->cursor_free(n->cursor);
	n->cursor = NULL;
	if (n->fs)
		OK(fs_close(n->fs));
	n->fs = NULL;
}

/* As after kill -9. */
static inline void node_kill(struct node *n)
{
	if (n->fs) {
		ops_of(n->fs)->cursor_free(n->cursor);
		fs_abandon(n->fs);
	}
	n->cursor = NULL;
	n->fs = NULL;
}

static inline void super_edit(struct world *w, const struct sim_image *image, void (*edit)(struct super *s, uint32_t arg),
			      uint32_t arg)
{
	struct fs_config c = sim_config(&w->run, image);
	struct super s;

	OK(super_read(c.store, &s));
	edit(&s, arg);
	OK(super_write(c.store, &s));
	store_close(c.store);
}

static inline void edit_follower(struct super *s, uint32_t node_id)
{
	s->follower = true;
	s->node_id = node_id;
	s->epoch = 0;
}

static inline void node_format(struct world *w, struct node *n, uint32_t node_id, uint64_t max_bytes)
{
	n->image.store = simstore_new();
	n->image.index = kv_disk_new(n->image.store);
	struct fs_config c = sim_config(&w->run, &n->image);
	struct fs_format_options o = {
	    .journal = {.n_segments = 11, .segment_blocks = 256},
	    .chunk_bytes = MIB,
	    .max_bytes = max_bytes,
	    .root_mode = 0755,
	    .node_id = node_id,
	};
	memcpy(o.volume, point_of(w->run.fs).volume, sizeof(o.volume));
	OK(fs_format(&c, &o));
	store_close(c.store);
	super_edit(w, &n->image, edit_follower, node_id);
}

static inline void world_make(struct world *w, uint64_t seed, enum sim_profile profile)
{
	int64_t now;

	*w = (struct world){0};
	assert_true(sim_format(&w->run, seed, profile, 0));
	now = w->run.clock->now_ns;
	assert_true(sim_mount(&w->run));
	w->run.clock->now_ns = now; /* roots of one age */
	for (unsigned i = 0; i < N_FOLLOWERS; i++) {
		node_format(w, &w->follower[i], i + 2, profile == SIM_FULL ? 4 * MIB : 0);
		node_open(w, &w->follower[i]);
	}
}

static inline void world_free(struct world *w)
{
	if (w->run.fs)
		ops_of(w->run.fs)->cursor_free(w->cursor);
	for (unsigned i = 0; i < N_FOLLOWERS; i++) {
		node_kill(&w->follower[i]);
		sim_image_free(&w->follower[i].image);
	}
	sim_free(&w->run);
}

/* For cmocka: of a world on the heap. */
static inline int world_teardown(void **state)
{
	world_free(*state);
	free(*state);
	return 0;
}

static inline void leader_step(struct world *w)
{
	if (!sim_step(&w->run))
		fail_msg("%s", w->run.why);
}

/* ---- messages ---- */

struct message {
	struct shipped_batch b;
	struct shipped_data *d; /* b.n_records at most */
	uint32_t n_data;
};

static inline void *copy_of(const void *p, size_t len)
{
	void *to = test_alloc(len + 1);

	if (len)
		memcpy(to, p, len);
	return to;
}

static inline void message_free(struct message *m)
{
	for (uint32_t i = 0; i < m->n_data; i++)
		free((void *)(uintptr_t)m->d[i].blocks);
	free(m->d);
	free((void *)(uintptr_t)m->b.logical);
	free((void *)(uintptr_t)m->b.payload);
	*m = (struct message){0};
}

static inline int message_read(struct fs *fs, struct replica_cursor **c, uint64_t seq, struct message *ret)
{
	struct replica_volume *v = fs_replica(fs);
	struct message m = {0};
	int r = v->ops->read_batch(v, c, seq, &m.b, &m.n_data);

	if (r < 0)
		return r;
	m.b.logical = copy_of(m.b.logical, m.b.logical_bytes);
	m.b.payload = copy_of(m.b.payload, (size_t)m.b.n_payload * BLOCK_SIZE);
	m.d = test_alloc((m.n_data + 1) * sizeof(*m.d));
	for (uint32_t i = 0; i < m.n_data; i++) {
		OK(v->ops->read_data(v, *c, i, &m.d[i]));
		m.d[i].blocks = copy_of(m.d[i].blocks, (size_t)m.d[i].n_blocks * BLOCK_SIZE);
	}
	*ret = m;
	return 0;
}

static inline int message_deliver(struct fs *fs, const struct message *m)
{
	struct replica_volume *v = fs_replica(fs);
	uint32_t n;
	int r = v->ops->take_batch(v, &m->b, &n);

	if (r == 0 && n != m->n_data)
		r = -EPROTO;
	for (uint32_t i = 0; r == 0 && i < m->n_data; i++)
		r = v->ops->take_data(v, &m->d[i]);
	if (r == 0)
		r = v->ops->finish_batch(v);
	if (r < 0)
		v->ops->drop_batch(v);
	return r;
}

static inline uint64_t commit(struct fs *fs)
{
	uint64_t seq;

	OK(ops_of(fs)->commit(fs_replica(fs), &seq));
	return seq;
}

/* Everything durable on `from` that `to` does not have; how many batches that were. */
static inline unsigned ship(struct fs *from, struct replica_cursor **c, struct fs *to)
{
	uint64_t after = point_of(to).applied_seq; /* what waits for a fence is there, and not applied */
	struct message m;
	unsigned n = 0;

	for (;; n++) {
		int r = message_read(from, c, after + n + 1, &m);
		if (r == -EAGAIN)
			return n;
		OK(r);
		OK(message_deliver(to, &m));
		message_free(&m);
	}
}

/* The first leader's, to every follower that is there. */
static inline void ship_all(struct world *w)
{
	OK(fs_sync(w->run.fs));
	for (unsigned i = 0; i < N_FOLLOWERS; i++)
		if (w->follower[i].fs)
			ship(w->run.fs, &w->cursor, w->follower[i].fs);
}

/* ---- comparing ---- */

/* Every row of the table of objects in one number. */
static inline int add_object(void *ctx, const struct object_row *o)
{
	const uint64_t words[] = {
	    o->object, o->store, o->n_blocks, o->n_live, o->bytes, (uint64_t)o->born_ns, (uint64_t)o->moved_ns};

	*(uint64_t *)ctx = tree_hash_bytes(words, sizeof(words)) + 3 * *(uint64_t *)ctx;
	return 0;
}

static inline uint64_t objects_hash(struct fs *fs)
{
	uint64_t h = 1;

	OK(objects_each(fs, 0, add_object, &h));
	return h;
}

/* And what is live of each object. */
static inline void assert_same_tree(struct fs *got, struct fs *want)
{
	struct tree a, b;
	char why[512];

	if (tree_read(got, &a, why, sizeof(why)) || tree_read(want, &b, why, sizeof(why)))
		fail_msg("%s", why);
	if (tree_diff(&a, &b, why, sizeof(why)))
		fail_msg("%s", why);
	tree_free(&a);
	tree_free(&b);
	assert_true(objects_hash(got) == objects_hash(want));
}

static inline void assert_clean(struct world *w, struct fs *fs)
{
	if (!sim_fsck(&w->run, fs))
		fail_msg("%s", w->run.why);
}

static inline uint64_t sum_of(struct fs *fs, uint64_t seq)
{
	uint64_t sum;

	OK(ops_of(fs)->state_sum(fs_replica(fs), seq, &sum));
	return sum;
}
