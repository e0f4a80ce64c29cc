/*
 * pull.h: two volumes of the simulator with a common past, and a resync from one to the other driven by hand: what a pair of
 * sessions does, without sessions.
 *
 * Threads: one.  Errors: those of the volumes are returned; everything else asserts.
 */
#pragma once

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "fs/core/core.h"
#include "fs/core/replica/rows.h"
#include "tests/crash/sim_run.h"
#include "tests/lib/cow.h"

/* ---- rows in memory ---- */

struct row_copy {
	struct row row;
	uint8_t *memory;
};
struct row_list {
	struct row_copy *e;
	size_t n, cap;
};

static inline int row_list_add(void *ctx, const struct row *r)
{
	struct row_list *l = ctx;
	uint8_t *p = test_alloc(r->key.len + r->value.len + 1);

	assert_non_null(r->value.p);
	memcpy(p, r->key.p, r->key.len);
	memcpy(p + r->key.len, r->value.p, r->value.len);
	l->e = test_grow(l->e, l->n, &l->cap, sizeof(*l->e));
	l->e[l->n++] = (struct row_copy){.row = {{p, r->key.len}, {p + r->key.len, r->value.len}}, .memory = p};
	return 0;
}

static inline void row_list_free(struct row_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->e[i].memory);
	free(l->e);
	*l = (struct row_list){0};
}

static inline int row_order(struct slice a, struct slice b)
{
	int r = memcmp(a.p, b.p, min_u64(a.len, b.len));

	return r ? r : (a.len > b.len) - (a.len < b.len);
}

static inline bool same_bytes(struct slice a, struct slice b)
{
	return a.len == b.len && memcmp(a.p, b.p, a.len) == 0;
}

static inline const struct row *row_find(const struct row_list *l, struct slice key)
{
	for (size_t i = 0; i < l->n; i++)
		if (same_bytes(l->e[i].row.key, key))
			return &l->e[i].row;
	return NULL;
}

static const struct slice no_key = {NULL, 0};

/* All rows of a volume as it is, however it is. */
static inline void rows_of(struct fs *fs, struct row_list *ret)
{
	const struct replica_ops *ops = fs_replica(fs)->ops;
	struct replica_view_info info;
	struct replica_view *view;

	*ret = (struct row_list){0};
	assert_int_equal(ops->view_open(fs_replica(fs), &view, &info), 0);
	assert_int_equal(ops->view_rows(view, no_key, no_key, row_list_add, ret), 0);
	ops->view_close(view);
}

static inline void assert_same_rows(const struct row_list *got, const struct row_list *want)
{
	assert_int_equal(got->n, want->n);
	for (size_t i = 0; i < want->n; i++) {
		assert_true(same_bytes(got->e[i].row.key, want->e[i].row.key));
		assert_true(same_bytes(got->e[i].row.value, want->e[i].row.value));
	}
}

/* ---- a resync ---- */

struct pull {
	struct fs *leader, *follower;
	bool save, twice; /* puts each row two times */
	uint64_t stop_after, stop_blocks; /* rows; blocks that were moved; 0: to the end */
	void (*before_leaf)(struct pull *p, const struct leaf_data *d); /* the leader goes on meanwhile */
	void *ctx;
	/* what it did */
	struct replica_view *view;
	struct replica_view_info info;
	struct row_list rows; /* of the view */
	uint64_t n_put, n_blocks, n_superseded, n_lost, fence; /* lost: superseded, and not zeros before */
};

/* The data that the row needs: *ret_blocks without those superseded, as a leader sends them. */
static inline int pull_leaf(struct pull *p, const struct row *r, uint16_t wanted, struct leaf_data *d, uint8_t *blocks)
{
	uint8_t all[LEAF_SLOTS * BLOCK_SIZE], *from = all;
	struct leaf_row leaf;
	uint64_t fence = 0;

	assert_int_equal(leaf_row_decode(r->value, &leaf), 0);
	*d = (struct leaf_data){.ino = row_ino(r->key), .leaf = row_leaf(r->key), .wanted = wanted};
	memcpy(d->crc, leaf.crc, sizeof(d->crc));
	if (p->before_leaf)
		p->before_leaf(p, d);
	int e = fs_replica(p->leader)->ops->read_leaf(fs_replica(p->leader), d, all, &fence);
	assert_int_equal(fence != 0, d->superseded != 0);
	p->fence = max_u64(p->fence, fence);
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(wanted >> i & 1))
			continue;
		if (d->superseded >> i & 1) {
			p->n_superseded++;
			p->n_lost += d->crc[i] != crc32c(0, from, BLOCK_SIZE);
		} else {
			memcpy(blocks, from, BLOCK_SIZE);
			blocks += BLOCK_SIZE;
			p->n_blocks++;
		}
		from += BLOCK_SIZE;
	}
	return e;
}

static inline int pull_put(struct pull *p, const struct row *r)
{
	struct replica_volume *v = fs_replica(p->follower);
	uint8_t blocks[LEAF_SLOTS * BLOCK_SIZE];
	struct leaf_data d;
	uint16_t wanted;
	int e = v->ops->resync_missing(v, r, &wanted);

	if (e == 0 && wanted)
		e = pull_leaf(p, r, wanted, &d, blocks);
	for (int i = 0; i < 1 + p->twice && e == 0; i++)
		e = v->ops->resync_put(v, r, wanted ? &d : NULL, wanted ? blocks : NULL);
	p->n_put += e == 0;
	return e;
}

/* Rows in which the two differ, in the order of keys; 1: stopped where it was told to. */
static inline int pull_rows(struct pull *p)
{
	struct replica_volume *v = fs_replica(p->follower);
	struct row_list mine = {0};
	int e = v->ops->resync_rows(v, no_key, no_key, row_list_add, &mine);

	for (size_t i = 0, j = 0; e == 0 && (i < p->rows.n || j < mine.n);) {
		int c = i == p->rows.n ? 1 : j == mine.n ? -1 : row_order(p->rows.e[i].row.key, mine.e[j].row.key);

		if ((p->stop_after && p->n_put >= p->stop_after) || (p->stop_blocks && p->n_blocks >= p->stop_blocks))
			e = 1;
		else if (c > 0)
			e = pull_put(p, &(struct row){.key = mine.e[j].row.key});
		else if (c < 0 || !same_bytes(p->rows.e[i].row.value, mine.e[j].row.value))
			e = pull_put(p, &p->rows.e[i].row);
		i += c <= 0;
		j += c >= 0;
	}
	row_list_free(&mine);
	return e;
}

static inline void pull_free(struct pull *p)
{
	if (p->view)
		fs_replica(p->leader)->ops->view_close(p->view);
	p->view = NULL;
	row_list_free(&p->rows);
}

/* To be freed.  0: complete; 1: stopped. */
static inline int pull_run(struct pull *p)
{
	struct replica_volume *l = fs_replica(p->leader), *v = fs_replica(p->follower);
	struct replica_point at;

	l->ops->get_point(l, &at);
	assert_int_equal(l->ops->view_open(l, &p->view, &p->info), 0);
	assert_int_equal(l->ops->view_rows(p->view, no_key, no_key, row_list_add, &p->rows), 0);
	int e = v->ops->resync_begin(v, at.promised, p->save);
	if (e == 0)
		e = pull_rows(p);
	return e ? e : v->ops->resync_end(v, &p->info, p->fence);
}

/* ---- two nodes ---- */

#define COMMON_STEPS 150u

static inline void must(struct sim_run *run, bool ok)
{
	if (!ok)
		fail_msg("%s", run->why);
}

static inline void go_on(struct sim_run *run, unsigned n)
{
	while (n-- > 0)
		must(run, sim_step(run));
}

/* A leader that has done `n` operations. */
static inline void node_lead(struct sim_run *run, uint64_t seed, enum sim_profile profile, unsigned n)
{
	must(run, sim_format(run, seed, profile, 0));
	must(run, sim_mount(run));
	go_on(run, n);
}

static inline void node_follow(struct fs *fs)
{
	struct super s;

	replica_get_super(fs, &s);
	s.follower = true;
	assert_int_equal(replica_save_super(fs, &s), 0);
	atomic_store(&fs->role, ROLE_FOLLOWER);
	reap_forget(fs);
}

/* A follower that has the same past, and then one of its own. */
static inline void node_diverge(struct sim_run *run, uint64_t seed, enum sim_profile profile, unsigned n)
{
	node_lead(run, seed, profile, COMMON_STEPS);
	run->rng = rng_derive(seed, 77, n);
	go_on(run, n);
	node_follow(run->fs);
}

/* A new follower, with nothing but the volume's name. */
static inline void node_join(struct sim_run *run, const struct sim_run *leader, uint64_t max_bytes)
{
	*run = (struct sim_run){.profile = leader->profile, .clock = leader->clock};
	run->image.store = simstore_new();
	run->image.index = kv_disk_new(run->image.store);
	run->image.key = sim_next_key;
	struct fs_config c = sim_config(run, &run->image);
	struct fs_format_options o = {.journal = {.n_segments = 11, .segment_blocks = 256},
				      .chunk_bytes = MIB,
				      .max_bytes = max_bytes,
				      .node_id = 2,
				      .follower = true};

	memcpy(o.volume, leader->fs->super.volume, sizeof(o.volume));
	assert_int_equal(fs_format(&c, &o), 0);
	store_close(c.store);
	assert_int_equal(sim_open_image(run, &run->image, &run->fs), 0);
	assert_int_equal(fs_readable(run->fs), -EBUSY);
	run->model = model_new(0755, 0, 0);
	/* What a session does first. */
	assert_int_equal(fs_replica(run->fs)->ops->note_epoch(fs_replica(run->fs), leader->fs->super.epoch), 0);
}

static inline void assert_clean(struct sim_run *run)
{
	must(run, sim_fsck(run, run->fs));
}

/* All rows and all that can be read are the leader's as it is now. */
static inline void assert_equal_volumes(struct sim_run *leader, struct sim_run *follower)
{
	struct row_list want, got;
	struct tree a, b;
	char why[512] = "";

	rows_of(leader->fs, &want);
	rows_of(follower->fs, &got);
	assert_same_rows(&got, &want);
	row_list_free(&want);
	row_list_free(&got);
	assert_int_equal(tree_read(leader->fs, &a, why, sizeof(why)), 0);
	if (tree_read(follower->fs, &b, why, sizeof(why)) != 0 || tree_diff(&b, &a, why, sizeof(why)))
		fail_msg("%s", why);
	tree_free(&a);
	tree_free(&b);
}
