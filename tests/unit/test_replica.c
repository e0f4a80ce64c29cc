/*
 * test_replica.c: the volume's side of replication: a leader that does random things, followers that take its batches, and all
 * that can come between them.  One thread, no connections: messages are the structures of journal/replica.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <jansson.h>
#include <linux/falloc.h>
#include <xxhash.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/index.h"
#include "tests/lib/cold.h"
#include "tests/unit/records.h"
#include "tests/unit/superseded.h"

#define STEPS 150u

static struct world *setup_world(void **state, enum sim_profile profile)
{
	struct world *w = calloc(1, sizeof(*w));

	world_make(w, 7, profile);
	*state = w;
	return w;
}

static int setup(void **state)
{
	setup_world(state, SIM_MIXED);
	return 0;
}

static int teardown(void **state)
{
	world_free(*state);
	free(*state);
	return 0;
}

/* ---- streams ---- */

/* What a follower does beside following, without anybody noticing. */
static void follower_idles(struct world *w, struct node *n)
{
	bool more;

	switch (rng_below(&w->run.rng, 8)) {
	case 0:
		OK(fs_home_step(n->fs, 64, &more));
		break;
	case 1:
		OK(fs_checkpoint(n->fs));
		break;
	case 2:
		commit(n->fs);
		node_close(n);
		node_open(w, n);
		break;
	case 3: /* what was not committed is in the staging files */
		node_kill(n);
		node_open(w, n);
		break;
	case 4:
		OK(fs_reap_step(n->fs, &more));
		break;
	default:
		break;
	}
}

static void assert_same_sums(struct world *w, struct fs *follower, uint64_t from)
{
	for (uint64_t seq = from; seq <= point_of(follower).applied_seq; seq++)
		assert_true(sum_of(leader(w), seq) == sum_of(follower, seq));
}

static void a_follower_is_its_leader_after_every_batch(void **state)
{
	struct world w;

	(void)state;
	for (unsigned profile = 0; profile < SIM_PROFILES; profile++) {
		world_make(&w, 100 + profile, profile);
		for (unsigned i = 0; i < STEPS; i++) {
			struct node *n = &w.follower[rng_below(&w.run.rng, N_FOLLOWERS)];
			uint64_t from = point_of(n->fs).applied_seq + 1;

			leader_step(&w);
			OK(fs_sync(leader(&w)));
			ship(leader(&w), &w.cursor, n->fs);
			assert_same_tree(n->fs, leader(&w));
			assert_same_sums(&w, n->fs, from);
			assert_true(point_of(n->fs).hash == point_of(leader(&w)).hash || commit(n->fs));
			assert_true(point_of(n->fs).hash == point_of(leader(&w)).hash);
			follower_idles(&w, n);
		}
		ship_all(&w);
		for (unsigned i = 0; i < N_FOLLOWERS; i++) {
			assert_same_tree(w.follower[i].fs, leader(&w));
			assert_clean(&w, w.follower[i].fs);
		}
		world_free(&w);
	}
}

static void a_follower_refuses_every_change(void **state)
{
	struct world *w = *state;
	uint64_t ino = make_file(leader(w), "f");
	struct fs *f = w->follower[0].fs;
	struct fs_attr a;
	size_t len;

	put_bytes(leader(w), ino, 0, 9000, 1);
	OK(fs_setxattr(leader(w), &cred, ino, "user.x", "y", 1, 0));
	ship_all(w);
	FAILS(-EROFS, fs_mknod(f, &cred, FS_ROOT_INO, "g", S_IFREG | 0644, 0, &a));
	FAILS(-EROFS, fs_symlink(f, &cred, FS_ROOT_INO, "g", "t", &a));
	FAILS(-EROFS, fs_link(f, &cred, ino, FS_ROOT_INO, "g", &a));
	FAILS(-EROFS, fs_unlink(f, &cred, FS_ROOT_INO, "f"));
	FAILS(-EROFS, fs_rename(f, &cred, FS_ROOT_INO, "f", FS_ROOT_INO, "g", 0));
	FAILS(-EROFS, fs_setattr(f, &cred, ino, &(struct record_attr){.mask = ATTR_MODE}, &a));
	FAILS(-EROFS, fs_setxattr(f, &cred, ino, "user.x", "z", 1, 0));
	FAILS(-EROFS, fs_removexattr(f, &cred, ino, "user.x"));
	FAILS(-EROFS, fs_write(f, &cred, ino, 0, 1, "b", false));
	FAILS(-EROFS, fs_fallocate(f, &cred, ino, 0, 0, 4096));
	FAILS(-EROFS, fs_copy_range(f, &cred, ino, 0, ino, 8192, 1, &len));
	assert_same_tree(f, leader(w));
	assert_true(point_of(f).role == ROLE_FOLLOWER && fs_role(f) == ROLE_FOLLOWER);
}

static void an_empty_follower_shows_its_root_and_nothing_else(void **state)
{
	struct world *w = *state;
	struct node n = {0};
	struct fs_attr a;
	struct message m;

	OK(fs_sync(leader(w)));
	n.image.store = simstore_new();
	n.image.index = kv_disk_new(n.image.store);
	struct fs_config c = sim_config(&w->run, &n.image);
	struct fs_format_options o = {
	    .journal = {.n_segments = 11, .segment_blocks = 256}, .chunk_bytes = MIB, .node_id = 9, .follower = true};
	memcpy(o.volume, point_of(leader(w)).volume, sizeof(o.volume));
	OK(fs_format(&c, &o));
	store_close(c.store);
	for (unsigned i = 0; i < 3; i++) {
		node_open(w, &n);
		assert_true(point_of(n.fs).resyncing && point_of(n.fs).node_id == 9);
		assert_true(point_of(n.fs).promised == (i ? point_of(leader(w)).promised : 0)); /* what it heard first */
		FAILS(-EBUSY, fs_readable(n.fs));
		OK(fs_getattr(n.fs, FS_ROOT_INO, &a));
		FAILS(-EBUSY, fs_lookup(n.fs, FS_ROOT_INO, "x", &a));
		FAILS(-EAGAIN, ops_of(n.fs)->promote(fs_replica(n.fs), epoch_make(2, 9)));
		OK(message_read(leader(w), &w->cursor, 1, &m));
		FAILS(-EINVAL, message_deliver(n.fs, &m));
		message_free(&m);
		if (i == 1)
			node_kill(&n);
		else
			node_close(&n);
	}
	sim_image_free(&n.image);
}

/* ---- superseded data ---- */

/* Writes `len` bytes to the arena in one batch, overwrites them in place in later ones; the first is not shipped before. */
static uint64_t supersede(struct world *w, uint64_t ino, size_t len)
{
	put_bytes(leader(w), ino, 0, len, 0xa1);
	OK(fs_sync(leader(w)));
	uint64_t seq = point_of(leader(w)).durable_seq;
	for (size_t off = 0; off < len; off += 3 * BLOCK_SIZE)
		put_bytes(leader(w), ino, off, BLOCK_SIZE, 0xb2);
	home_all(leader(w));
	return seq;
}

static void assert_unreadable(struct fs *fs)
{
	char link[4096];
	uint64_t off;
	size_t len;
	void *at;
	uint8_t room[2 * BLOCK_SIZE];
	struct fs_attr a;

	FAILS(-EBUSY, fs_readable(fs));
	FAILS(-EBUSY, fs_lookup(fs, FS_ROOT_INO, "f", &a));
	FAILS(-EBUSY, fs_getattr(fs, 2, &a));
	FAILS(-EBUSY, fs_read(fs, 2, 0, 1, room, &at, &len));
	FAILS(-EBUSY, fs_readdir(fs, FS_ROOT_INO, 0, false, NULL, NULL));
	FAILS(-EBUSY, fs_readlink(fs, 2, link, sizeof(link)));
	FAILS(-EBUSY, fs_getxattr(fs, 2, "user.x", link, sizeof(link), &len));
	FAILS(-EBUSY, fs_listxattr(fs, 2, link, sizeof(link), &len));
	FAILS(-EBUSY, fs_lseek(fs, 2, 0, SEEK_DATA, &off));
	OK(fs_getattr(fs, FS_ROOT_INO, &a));
}

static void superseded_data_comes_with_a_fence(void **state)
{
	struct world *w = *state;
	struct node *n = &w->follower[0];
	uint64_t ino = make_file(leader(w), "f");
	struct message m;

	ship_all(w);
	uint64_t seq = supersede(w, ino, 300 * KIB);
	OK(message_read(leader(w), &w->cursor, seq, &m));
	assert_int_equal(m.n_data, 1);
	for (uint32_t i = 0; i < m.d[0].n_blocks; i++)
		assert_int_equal(m.d[0].superseded[i / 8] >> i % 8 & 1, i % 3 == 0);
	uint64_t fence = m.d[0].fence;
	assert_true(fence > seq && fence == point_of(leader(w)).durable_seq);
	message_free(&m);
	assert_true(ship(leader(w), &w->cursor, n->fs) > 1);
	assert_int_equal(point_of(n->fs).applied_seq, fence);
	assert_same_tree(n->fs, leader(w));
	assert_clean(w, n->fs);
}

static void a_block_given_to_another_file_is_superseded(void **state)
{
	struct world *w = *state;
	struct fs_attr a;
	uint64_t ino = make_file(leader(w), "f");
	bool more = true;
	struct message m;

	ship_all(w);
	put_bytes(leader(w), ino, 0, 700 * KIB, 1);
	OK(fs_sync(leader(w)));
	uint64_t seq = point_of(leader(w)).durable_seq;
	OK(fs_unlink(leader(w), &cred, FS_ROOT_INO, "f"));
	fs_forget(leader(w), ino, 1);
	while (more)
		OK(fs_reap_step(leader(w), &more));
	home_all(leader(w));
	OK(fs_mknod(leader(w), &cred, FS_ROOT_INO, "g", S_IFREG | 0644, 0, &a));
	for (unsigned i = 0; i < 4; i++) /* the arena is small: it comes round */
		put_bytes(leader(w), a.ino, i * 300 * KIB, 300 * KIB, 2);
	OK(message_read(leader(w), &w->cursor, seq, &m));
	assert_true(m.n_data == 1 && m.d[0].fence > seq);
	message_free(&m);
	ship_all(w);
	OK(fs_readable(w->follower[0].fs));
	assert_same_tree(w->follower[0].fs, leader(w));
	assert_clean(w, w->follower[0].fs);
}

/* The leader dropped the homes of what is in an object by now; the follower never had that data, and reads it from there. */
static void data_evicted_before_it_was_sent_is_cold(void **state)
{
	struct world *w = *state;
	struct fs *f = w->follower[0].fs;
	struct fs_attr a;
	uint64_t ino = make_file(leader(w), "f");
	struct tier_file there, here;
	struct message m;

	ship_all(w);
	put_bytes(leader(w), ino, 0, 700 * KIB, 1);
	OK(fs_sync(leader(w)));
	uint64_t seq = point_of(leader(w)).durable_seq;
	OK(cold_tier(w->run.cold, leader(w), ino, NULL));
	OK(cold_evict(leader(w), ino));
	home_all(leader(w));
	OK(fs_mknod(leader(w), &cred, FS_ROOT_INO, "g", S_IFREG | 0644, 0, &a));
	for (unsigned i = 0; i < 4; i++)
		put_bytes(leader(w), a.ino, i * 300 * KIB, 300 * KIB, 2);
	OK(message_read(leader(w), &w->cursor, seq, &m));
	assert_true(m.n_data == 1 && m.d[0].fence > seq);
	message_free(&m);
	ship_all(w);
	OK(fs_readable(f));
	OK(tier_file_state(leader(w), ino, &there));
	OK(tier_file_state(f, ino, &here));
	assert_int_equal(there.cold_blocks, 175);
	assert_int_equal(here.tiered_blocks, 175);
	assert_true(here.cold_blocks > 0); /* what had not been used again came as it was */
	assert_same_tree(f, leader(w));
	assert_int_equal(atomic_load(&f->damaged_reads), 0);
	assert_clean(w, f);
	/* What is cold here, too, is written to and cut off by batches that follow. */
	put_bytes(leader(w), ino, 0, 20 * KIB, 3);
	put_bytes(leader(w), ino, 100 * KIB, 200 * KIB, 4);
	OK(fs_fallocate(leader(w), &cred, ino, FALLOC_FL_ZERO_RANGE, 320 * KIB, 40 * KIB));
	OK(fs_fallocate(leader(w), &cred, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 400 * KIB, 40 * KIB));
	OK(fs_setattr(leader(w), &cred, ino, &(struct record_attr){.mask = ATTR_SIZE, .size = 600 * KIB}, &a));
	ship_all(w);
	assert_same_tree(f, leader(w));
	assert_clean(w, f);
}

/* Homes go on a follower between a batch's being taken and applied: what was enough space for it is not any more. */
static void a_follower_may_evict_at_any_moment(void **state)
{
	struct world *w = *state;
	struct fs *f = w->follower[0].fs;
	uint64_t ino = make_file(leader(w), "f");
	struct message m;

	put_bytes(leader(w), ino, 0, 160 * KIB, 1);
	OK(cold_tier(w->run.cold, leader(w), ino, NULL));
	ship_all(w);
	home_all(f);
	put_bytes(leader(w), ino, 0, 60 * KIB, 2);
	OK(fs_fallocate(leader(w), &cred, ino, FALLOC_FL_ZERO_RANGE, 64 * KIB, 40 * KIB));
	OK(fs_sync(leader(w)));
	OK(message_read(leader(w), &w->cursor, point_of(f).applied_seq + 1, &m));
	uint32_t n;
	OK(ops_of(f)->take_batch(fs_replica(f), &m.b, &n));
	OK(cold_evict(f, ino));
	OK(ops_of(f)->finish_batch(fs_replica(f)));
	message_free(&m);
	assert_clean(w, f);
	ship_all(w);
	assert_same_tree(f, leader(w));
	assert_clean(w, f);
}

static void a_fence_that_cannot_be_is_refused(void **state)
{
	struct world *w = *state;
	uint64_t ino = make_file(leader(w), "f");
	struct message m;

	ship_all(w);
	uint64_t seq = supersede(w, ino, 100 * KIB);
	OK(message_read(leader(w), &w->cursor, seq, &m));
	struct shipped_data good = m.d[0];
	const struct {
		uint64_t fence;
		uint32_t bit;
	} cases[] = {{seq - 1, UINT32_MAX}, {0, UINT32_MAX}, {good.fence, 25}, {good.fence, 511}};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		m.d[0] = good;
		m.d[0].fence = cases[i].fence;
		if (cases[i].bit != UINT32_MAX)
			m.d[0].superseded[cases[i].bit / 8] |= (uint8_t)(1 << cases[i].bit % 8);
		FAILS(-EUCLEAN, message_deliver(w->follower[0].fs, &m));
	}
	m.d[0] = good;
	memset(m.d[0].superseded, 0, sizeof(m.d[0].superseded));
	FAILS(-EUCLEAN, message_deliver(w->follower[0].fs, &m)); /* a fence of nothing */
	m.d[0].fence = 0;
	FAILS(-EBADMSG, message_deliver(w->follower[0].fs, &m)); /* blocks that are not what they should be */
	OK(fs_readable(w->follower[0].fs));
	m.d[0] = good;
	OK(message_deliver(w->follower[0].fs, &m));
	message_free(&m);
	ship_all(w);
	assert_same_tree(w->follower[0].fs, leader(w));
}

/* ---- crashes of the follower ---- */

struct delivery {
	uint64_t event;   /* after it was committed, or applied */
	uint64_t durable; /* newest batch that was durable by then */
	uint64_t applied; /* and newest one applied: the others wait for a fence */
};
struct stream {
	struct message *m; /* batches 1 .. n at [1 .. n] */
	uint64_t *tree;    /* of the leader after each */
	uint64_t n;
};

/* What a follower gets that comes late: of what can still be read, data as it is now. */
static unsigned read_late(struct world *w, struct stream *s)
{
	unsigned n_superseded = 0;

	for (uint64_t seq = 1; seq <= s->n; seq++) {
		struct message m;

		if (message_read(leader(w), &w->cursor, seq, &m) < 0)
			continue;
		for (uint32_t i = 0; i < m.n_data; i++)
			n_superseded += m.d[i].fence > 0;
		message_free(&s->m[seq]);
		s->m[seq] = m;
	}
	return n_superseded;
}

/* The leader's batches, with a tree for each: what it does is synced step by step. */
static void record_stream(struct world *w, unsigned steps, struct stream *ret)
{
	struct stream s = {.m = test_alloc((4 * steps + 8) * sizeof(*s.m)),
			   .tree = test_alloc((4 * steps + 8) * sizeof(*s.tree))};

	for (unsigned i = 0; i < steps; i++) {
		leader_step(w);
		OK(fs_sync(leader(w)));
		for (uint64_t end = point_of(leader(w)).durable_seq; s.n < end;) {
			s.n++;
			OK(message_read(leader(w), &w->cursor, s.n, &s.m[s.n]));
			s.tree[s.n] = s.n == end ? hash_of(leader(w)) : 0; /* 0: not looked at */
		}
	}
	*ret = s;
}

static void stream_free(struct stream *s)
{
	for (uint64_t i = 1; i <= s->n; i++)
		message_free(&s->m[i]);
	free(s->m);
	free(s->tree);
}

/* A follower as a crash left it: an exact prefix with all that was durable, and what follows brings it to the end. */
static void check_survivor(struct world *w, const struct stream *s, struct node *n, uint64_t durable)
{
	node_open(w, n);
	uint64_t at = point_of(n->fs).applied_seq;
	assert_true(at >= durable && at <= s->n);
	assert_true(at == point_of(n->fs).durable_seq);
	OK(fs_readable(n->fs));
	if (at && s->tree[at])
		assert_true(hash_of(n->fs) == s->tree[at]);
	for (uint64_t seq = at + 1; seq <= s->n; seq++)
		OK(message_deliver(n->fs, &s->m[seq]));
	assert_true(hash_of(n->fs) == s->tree[s->n]);
	assert_clean(w, n->fs);
	node_kill(n);
}

/*
 * kill -9 loses nothing that was finished, but the last batch when it has superseded data: zeros there cannot be told from data
 * that never reached the disk.
 */
static uint64_t survives_kill(const struct stream *s, uint64_t seq)
{
	for (uint32_t i = 0; i < s->m[seq].n_data; i++)
		if (s->m[seq].d[i].fence == seq)
			return seq - 1;
	return seq;
}

static void crash_everywhere(struct world *w, bool late)
{
	struct node *n = &w->follower[0];
	struct stream s;
	struct delivery *log = test_alloc(4096 * sizeof(*log));
	size_t n_log = 0;
	uint64_t durable = 0;

	record_stream(w, 60, &s);
	if (late)
		assert_true(read_late(w, &s) > 0);
	uint64_t first = simstore_count(n->image.store);
	for (uint64_t seq = 1; seq <= s.n; seq++) {
		OK(message_deliver(n->fs, &s.m[seq]));
		if (seq % 3 == 0)
			durable = commit(n->fs);
		if (seq % 11 == 0)
			home_all(n->fs);
		log[n_log++] = (struct delivery){simstore_mark(n->image.store), durable, point_of(n->fs).applied_seq};
	}
	uint64_t last = simstore_count(n->image.store);
	struct simcut *c = simcut_new(n->image.store);
	struct rng rng = rng_derive(3, 1, 4);
	for (uint64_t turn = 2 * first; turn <= 2 * last + 1; turn++) {
		uint64_t cut = turn / 2, floor = 0;
		simcut_advance(c, cut);
		enum simcut_variant v = turn % 2 ? SIMCUT_KILL : (enum simcut_variant)rng_below(&rng, SIMCUT_KILL);
		for (size_t i = 0; i < n_log && log[i].event <= cut; i++)
			floor = v == SIMCUT_KILL ? survives_kill(&s, log[i].applied) : log[i].durable;
		bool newer = simcut_in_index_flush(c) && v != SIMCUT_LOST && rng_percent(&rng, 50);
		struct node image = {.image.store = simcut_image(c, v, &rng, false)};
		image.image.index = kv_disk_at(n->image.index, cut + newer, image.image.store);
		check_survivor(w, &s, &image, floor);
		sim_image_free(&image.image);
	}
	simcut_free(c);
	free(log);
	stream_free(&s);
}

static void a_follower_crashed_at_any_moment_goes_on(void **state)
{
	crash_everywhere(*state, false);
}

static void a_late_follower_crashed_at_any_moment_goes_on(void **state)
{
	crash_everywhere(*state, true);
}

/* Checkpoints between the pieces of a batch, and a crash: nothing is allocated that no record names, nothing is claimed twice. */
static void a_checkpoint_in_the_middle_of_a_batch_sees_nothing_of_it(void **state)
{
	struct world *w = *state;
	struct node *n = &w->follower[0];
	uint64_t ino = make_file(leader(w), "f");
	struct replica_volume *v;
	struct message m;
	uint32_t n_data;

	ship_all(w);
	put_bytes(leader(w), ino, 0, 500 * KIB, 5);
	OK(fs_sync(leader(w)));
	OK(message_read(leader(w), &w->cursor, point_of(leader(w)).durable_seq, &m));
	for (unsigned turn = 0; turn < 3; turn++) {
		v = fs_replica(n->fs);
		OK(v->ops->take_batch(v, &m.b, &n_data));
		OK(v->ops->take_data(v, &m.d[0]));
		OK(fs_checkpoint(n->fs));
		if (turn == 1)
			v->ops->drop_batch(v);
		if (turn == 2)
			OK(v->ops->finish_batch(v));
		if (turn != 0) {
			assert_clean(w, n->fs);
			commit(n->fs);
		}
		node_kill(n);
		node_open(w, n);
		assert_clean(w, n->fs);
	}
	message_free(&m);
	assert_same_tree(n->fs, leader(w));
}

static uint64_t used_blocks(struct fs *fs)
{
	struct arena_status as;

	arena_get_status(fs->arena, &as);
	return as.total_blocks - as.free_blocks + as.reserved_blocks;
}

static void a_dropped_batch_leaves_nothing_behind(void **state)
{
	struct world *w = *state;
	struct fs *f = w->follower[0].fs;
	struct replica_volume *v = fs_replica(f);
	uint64_t ino = make_file(leader(w), "f"), before;
	struct message m;
	uint32_t n_data;

	ship_all(w);
	put_bytes(leader(w), ino, 0, 200 * KIB, 5);
	put_bytes(leader(w), ino, MIB, 20 * KIB, 6);
	put_bytes(leader(w), ino, 2 * MIB, 200 * KIB, 7);
	OK(fs_sync(leader(w)));
	OK(message_read(leader(w), &w->cursor, point_of(leader(w)).durable_seq, &m));
	before = used_blocks(f);
	for (unsigned pieces = 0; pieces <= 2; pieces++) {
		OK(v->ops->take_batch(v, &m.b, &n_data));
		assert_int_equal(n_data, 2);
		FAILS(-EINVAL, v->ops->take_batch(v, &m.b, &n_data)); /* one at a time */
		for (unsigned i = 0; i < pieces; i++)
			OK(v->ops->take_data(v, &m.d[i]));
		if (pieces < 2) {
			FAILS(-EINVAL, v->ops->finish_batch(v));             /* not all of it is there */
			FAILS(-EINVAL, v->ops->take_data(v, &m.d[!pieces])); /* out of turn */
		} else {
			FAILS(-EINVAL, v->ops->take_data(v, &m.d[1]));
		}
		v->ops->drop_batch(v);
		v->ops->drop_batch(v);
		assert_true(used_blocks(f) == before);
		FAILS(-EINVAL, v->ops->finish_batch(v));
	}
	OK(message_deliver(f, &m));
	message_free(&m);
	assert_same_tree(f, leader(w));
	assert_clean(w, f);
}

static void a_full_follower_refuses_the_batch_and_takes_it_once_there_is_room(void **state)
{
	struct world *w = *state;
	struct node small = {0};
	struct message m;
	int r = 0;

	node_format(w, &small, 5, 2 * MIB);
	node_open(w, &small);
	uint64_t ino = make_file(leader(w), "f");
	for (unsigned i = 0; i < 16; i++) { /* out of line and inline, more than it can hold */
		put_bytes(leader(w), ino, i * 400 * KIB, i % 2 ? 300 * KIB : 60 * KIB, 1);
		OK(fs_sync(leader(w)));
	}
	for (unsigned i = 0; i < 2; i++) {
		while (r == 0) {
			r = message_read(leader(w), &w->cursor, point_of(small.fs).applied_seq + 1, &m);
			if (r == 0) {
				r = message_deliver(small.fs, &m);
				message_free(&m);
			}
		}
		FAILS(-ENOSPC, r);
		assert_clean(w, small.fs);
		r = 0;
	}
	/* What frees space comes behind what needs it: only more space helps. */
	commit(small.fs);
	node_kill(&small);
	struct fs_config c = sim_config(&w->run, &small.image);
	struct super s;
	OK(super_read(c.store, &s));
	s.max_blocks = UINT64_MAX;
	OK(super_write(c.store, &s));
	store_close(c.store);
	node_open(w, &small);
	ship(leader(w), &w->cursor, small.fs);
	assert_same_tree(small.fs, leader(w));
	assert_clean(w, small.fs);
	node_kill(&small);
	sim_image_free(&small.image);
}

static void a_follower_goes_round_its_ring(void **state)
{
	struct world *w = *state;
	uint64_t ino = make_file(leader(w), "f");

	for (unsigned i = 0; i < 1024; i++) {
		put_bytes(leader(w), ino, i % 16 * 64 * KIB, 60 * KIB, (uint8_t)i);
		if (i % 16 == 15) {
			ship_all(w);
			home_all(leader(w));
		}
	}
	assert_same_tree(w->follower[0].fs, leader(w));
	assert_same_tree(w->follower[1].fs, leader(w));
	assert_clean(w, w->follower[0].fs);
}

/* ---- readers ---- */

struct reader {
	struct fs *fs;
	_Atomic bool stop;
	_Atomic unsigned n_files;
};

struct entries {
	uint64_t ino[128];
	char name[128][64];
	unsigned n;
};

static int take_entry(void *ctx, const struct fs_dirent *e)
{
	struct entries *list = ctx;

	if (e->cookie <= 2 || list->n == ARRAY_SIZE(list->ino))
		return 0;
	snprintf(list->name[list->n], sizeof(list->name[0]), "%.63s", e->name);
	list->ino[list->n++] = e->ino;
	return 0;
}

/* Whatever comes and goes meanwhile: an entry that is gone is gone, and nothing else. */
static void *read_on(void *ctx)
{
	struct reader *r = ctx;
	CLEANUP_FREE void *room = aligned_alloc(DISK_BLOCK, 256 * KIB + 2 * DISK_BLOCK);

	while (!atomic_load(&r->stop)) {
		struct entries list = {.n = 0};
		int e = fs_readdir(r->fs, FS_ROOT_INO, 0, false, take_entry, &list);

		for (unsigned i = 0; e == 0 && i < list.n; i++) {
			struct fs_attr a;
			char text[4096];
			void *at;
			size_t len;

			e = fs_lookup(r->fs, FS_ROOT_INO, list.name[i], &a);
			if (e == 0)
				fs_forget(r->fs, a.ino, 1);
			if (e == 0 || e == -ENOENT)
				e = fs_getattr(r->fs, list.ino[i], &a);
			if (e == 0 && S_ISREG(a.mode))
				e = fs_read(r->fs, a.ino, 0, 256 * KIB, room, &at, &len);
			if (e == 0 && S_ISLNK(a.mode))
				e = fs_readlink(r->fs, a.ino, text, sizeof(text));
			if (e == 0)
				e = fs_listxattr(r->fs, a.ino, text, sizeof(text), &len);
			if (e == -ENOENT)
				e = 0;
			atomic_fetch_add(&r->n_files, 1);
		}
		if (e < 0 && e != -EBUSY)
			fs_fail(r->fs, e, "a reader met what it must not");
	}
	return NULL;
}

/* Asks for the same name over and over. */
static void *look_up(void *ctx)
{
	struct reader *r = ctx;

	while (!atomic_load(&r->stop)) {
		struct fs_attr a;
		int e = fs_lookup(r->fs, FS_ROOT_INO, "brief", &a);

		if (e == 0)
			fs_forget(r->fs, a.ino, 1);
		else if (e != -ENOENT && e != -EBUSY)
			fs_fail(r->fs, e, "a name that comes and goes");
	}
	return NULL;
}

/* A file that is there for a moment, a hundred times in one batch. */
static void live_briefly(struct fs *fs)
{
	bool more = true;

	for (unsigned i = 0; i < 100; i++) {
		uint64_t ino = make_file(fs, "brief");

		fs_forget(fs, ino, 1);
		OK(fs_unlink(fs, &cred, FS_ROOT_INO, "brief"));
		OK(fs_reap_step(fs, &more));
	}
}

/* With the threads of the product: readers, homer, checkpoints and commits beside the stream. */
static void a_follower_is_read_while_it_follows(void **state)
{
	struct world *w = setup_world(state, SIM_TREE);
	struct node *n = &w->follower[0];
	struct reader r = {0};
	pthread_t t[2];
	char why[256];

	node_kill(n);
	struct fs_config c = sim_config(&w->run, &n->image);
	c.clock = NULL;
	c.no_threads = false;
	c.commit_interval_ns = 2000000;
	c.checkpoint_interval_ns = 20000000;
	OK(fs_open(&c, &n->fs));
	r.fs = n->fs;
	pthread_create(&t[0], NULL, read_on, &r);
	pthread_create(&t[1], NULL, look_up, &r);
	for (unsigned i = 0; i < 1500; i++) {
		leader_step(w);
		if (i % 3 == 0) {
			live_briefly(leader(w));
			OK(fs_sync(leader(w)));
			ship(leader(w), &w->cursor, n->fs);
		}
		if (i % 10 == 0)
			commit(n->fs);
	}
	while (atomic_load(&r.n_files) < 100)
		usleep(1000);
	atomic_store(&r.stop, true);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		pthread_join(t[i], NULL);
	OK(fs_sync(leader(w)));
	ship(leader(w), &w->cursor, n->fs);
	fs_failure(n->fs, why, sizeof(why));
	assert_string_equal(why, "");
	assert_int_equal(atomic_load(&n->fs->damaged_reads), 0);
	assert_same_tree(n->fs, leader(w));
	node_close(n);
	node_open(w, n);
	assert_same_tree(n->fs, leader(w));
	assert_clean(w, n->fs);
}

/* ---- hostile batches ---- */

/* As a peer would that has a certificate and no scruples: everything right but what was changed. */
static void reseal(struct message *m)
{
	m->b.hash = XXH64(m->b.logical, m->b.logical_bytes, m->b.prev_hash);
}

static void seal_record(uint8_t *p)
{
	struct record_header h;

	memcpy(&h, p, sizeof(h));
	h.crc = le32_make(crc32c(0, p + 4, le32_get(h.bytes) - 4));
	memcpy(p, &h, sizeof(h));
}

static void flip(void *p, size_t bit)
{
	((uint8_t *)p)[bit / 8] ^= (uint8_t)(1 << bit % 8);
}

static void any_flipped_bit_of_a_batch_is_refused(void **state)
{
	struct world *w = *state;
	struct fs *f = w->follower[0].fs;
	uint64_t ino = make_file(leader(w), "f");
	struct message m;

	ship_all(w);
	put_bytes(leader(w), ino, 0, 5000, 3);
	OK(fs_setxattr(leader(w), &cred, ino, "user.x", "value", 5, 0));
	put_bytes(leader(w), ino, 64 * KIB, 70 * KIB, 4);
	OK(fs_rename(leader(w), &cred, FS_ROOT_INO, "f", FS_ROOT_INO, "g", 0));
	OK(fs_sync(leader(w)));
	OK(message_read(leader(w), &w->cursor, point_of(leader(w)).durable_seq, &m));
	uint64_t *const fields[] = {&m.b.seq, &m.b.epoch, &m.b.prev_hash, &m.b.hash};
	uint32_t *const counts[] = {&m.b.n_records, &m.b.logical_bytes};
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		for (unsigned bit = 0; bit < 64; bit++) {
			flip(fields[i], bit);
			if (fields[i] != &m.b.epoch || m.b.epoch < point_of(leader(w)).promised)
				assert_true(message_deliver(f, &m) < 0);
			flip(fields[i], bit);
		}
	for (size_t i = 0; i < ARRAY_SIZE(counts); i++)
		for (unsigned bit = 0; bit < 32; bit++) {
			uint32_t was = *counts[i];
			flip(counts[i], bit);
			if (*counts[i] < was || *counts[i] > BATCH_LOGICAL_MAX_BYTES || counts[i] == &m.b.n_records)
				assert_true(message_deliver(f, &m) < 0);
			*counts[i] = was;
		}
	for (size_t bit = 0; bit < 8 * (size_t)m.b.logical_bytes; bit++) {
		flip((void *)(uintptr_t)m.b.logical, bit);
		assert_true(message_deliver(f, &m) < 0);
		flip((void *)(uintptr_t)m.b.logical, bit);
	}
	for (size_t bit = 0; bit < 8 * BLOCK_SIZE * (size_t)m.b.n_payload; bit += 97) {
		flip((void *)(uintptr_t)m.b.payload, bit);
		FAILS(-EBADMSG, message_deliver(f, &m));
		flip((void *)(uintptr_t)m.b.payload, bit);
	}
	for (size_t bit = 0; bit < 8 * BLOCK_SIZE * (size_t)m.d[0].n_blocks; bit += 997) {
		flip((void *)(uintptr_t)m.d[0].blocks, bit);
		FAILS(-EBADMSG, message_deliver(f, &m));
		flip((void *)(uintptr_t)m.d[0].blocks, bit);
	}
	OK(message_deliver(f, &m));
	message_free(&m);
	assert_same_tree(f, leader(w));
	assert_clean(w, f);
}

/* A batch of these records after what `fs` has, from a leader of `epoch`. */
static void craft(struct fs *fs, uint64_t epoch, const struct record *records, size_t n, struct message *ret)
{
	struct buf logical = {0};
	struct replica_point p = point_of(fs);

	for (size_t i = 0; i < n; i++)
		OK(record_encode(&records[i], &logical));
	*ret = (struct message){.b = {.seq = p.applied_seq + 1,
				      .epoch = epoch,
				      .prev_hash = p.hash,
				      .n_records = (uint32_t)n,
				      .logical_bytes = (uint32_t)logical.len,
				      .logical = logical.p,
				      .payload = test_alloc(1)}};
	reseal(ret);
}

static int deliver_records(struct fs *fs, const struct record *records, size_t n)
{
	struct message m;

	commit(fs);
	craft(fs, point_of(fs).promised, records, n, &m);
	int r = message_deliver(fs, &m);
	message_free(&m);
	return r;
}

#define NAME(s) sample_text(s)

static void records_that_do_not_fit_the_volume_are_refused(void **state)
{
	struct world *w = *state;
	struct fs *l = leader(w), *f = w->follower[0].fs;
	struct fs_attr dir, sub, file, target, gone, link;
	static const uint32_t crc[RECORD_WRITE_BLOCKS_MAX];

	OK(fs_mknod(l, &cred, FS_ROOT_INO, "dir", S_IFDIR | 0755, 0, &dir));
	OK(fs_mknod(l, &cred, dir.ino, "sub", S_IFDIR | 0755, 0, &sub));
	OK(fs_mknod(l, &cred, sub.ino, "file", S_IFREG | 0644, 0, &file));
	OK(fs_mknod(l, &cred, FS_ROOT_INO, "target", S_IFREG | 0644, 0, &target));
	OK(fs_mknod(l, &cred, FS_ROOT_INO, "gone", S_IFREG | 0644, 0, &gone));
	OK(fs_symlink(l, &cred, FS_ROOT_INO, "link", "x", &link));
	OK(fs_unlink(l, &cred, FS_ROOT_INO, "gone"));
	put_bytes(l, file.ino, 0, 10000, 1);
	ship_all(w);
	uint64_t size = 10000, free_ino = link.ino + 100, root = FS_ROOT_INO, next = 7, far = UINT64_C(1) << 62;
	(void)target;

#define R(type_, ino_, ...)                                                                                                      \
	{                                                                                                                        \
		.type = RECORD_##type_, .ino = (ino_), .time_ns = 1, __VA_ARGS__                                                 \
	}
	const struct record misfits[] = {
	    /* clang-format off */
	    R(MKNODE, file.ino, .mknode = {.parent = root, .cookie = next, .name = NAME("n"), .mode = S_IFREG}),
	    R(MKNODE, root, .mknode = {.parent = root, .cookie = next, .name = NAME("n"), .mode = S_IFDIR}),
	    R(MKNODE, far, .mknode = {.parent = root, .cookie = next, .name = NAME("n"), .mode = S_IFREG}),
	    R(MKNODE, UINT64_MAX, .mknode = {.parent = root, .cookie = next, .name = NAME("n"), .mode = S_IFREG}),
	    R(MKNODE, free_ino, .mknode = {.parent = file.ino, .cookie = 3, .name = NAME("n"), .mode = S_IFREG}),
	    R(MKNODE, free_ino, .mknode = {.parent = free_ino, .cookie = 3, .name = NAME("n"), .mode = S_IFDIR}),
	    R(MKNODE, free_ino, .mknode = {.parent = gone.ino, .cookie = 3, .name = NAME("n"), .mode = S_IFREG}),
	    R(MKNODE, free_ino, .mknode = {.parent = root, .cookie = next, .name = NAME("dir"), .mode = S_IFREG}),
	    R(MKNODE, free_ino, .mknode = {.parent = root, .cookie = next - 1, .name = NAME("n"), .mode = S_IFREG}),
	    R(MKNODE, free_ino, .mknode = {.parent = root, .cookie = UINT64_MAX, .name = NAME("n"), .mode = S_IFREG}),
	    R(LINK, dir.ino, .link = {.parent = root, .cookie = next, .name = NAME("n")}),
	    R(LINK, gone.ino, .link = {.parent = root, .cookie = next, .name = NAME("n")}),
	    R(LINK, free_ino, .link = {.parent = root, .cookie = next, .name = NAME("n")}),
	    R(LINK, file.ino, .link = {.parent = root, .cookie = next, .name = NAME("dir")}),
	    R(LINK, file.ino, .link = {.parent = link.ino, .cookie = 3, .name = NAME("n")}),
	    R(UNLINK, file.ino, .unlink = {.parent = root, .name = NAME("file")}),
	    R(UNLINK, file.ino, .unlink = {.parent = root, .name = NAME("target")}),
	    R(UNLINK, dir.ino, .unlink = {.parent = root, .name = NAME("dir")}),
	    R(UNLINK, root, .unlink = {.parent = root, .name = NAME("n")}),
	    R(UNLINK, file.ino, .unlink = {.parent = file.ino, .name = NAME("n")}),
	    R(RENAME, dir.ino, .rename = {.parent = root, .new_parent = sub.ino, .new_cookie = 4, .name = NAME("dir"), .new_name = NAME("n")}),
	    R(RENAME, dir.ino, .rename = {.parent = root, .new_parent = dir.ino, .new_cookie = 4, .name = NAME("dir"), .new_name = NAME("n")}),
	    R(RENAME, file.ino, .rename = {.parent = sub.ino, .new_parent = root, .new_cookie = next, .name = NAME("file"), .new_name = NAME("target")}),
	    R(RENAME, file.ino, .rename = {.parent = sub.ino, .new_parent = root, .new_cookie = next, .target = dir.ino, .name = NAME("file"), .new_name = NAME("dir")}),
	    R(RENAME, dir.ino, .rename = {.parent = root, .new_parent = root, .new_cookie = next, .target = target.ino, .name = NAME("dir"), .new_name = NAME("target")}),
	    R(RENAME, file.ino, .rename = {.parent = sub.ino, .new_parent = root, .new_cookie = next, .target = file.ino, .name = NAME("file"), .new_name = NAME("n")}),
	    R(RENAME, file.ino, .rename = {.parent = sub.ino, .new_parent = root, .new_cookie = next + 1, .name = NAME("file"), .new_name = NAME("n")}),
	    R(RENAME, file.ino, .rename = {.parent = sub.ino, .new_parent = root, .name = NAME("file"), .new_name = NAME("n"), .flags = RENAME_F_EXCHANGE}),
	    R(RENAME, dir.ino, .rename = {.parent = root, .new_parent = sub.ino, .target = file.ino, .name = NAME("dir"), .new_name = NAME("file"), .flags = RENAME_F_EXCHANGE}),
	    R(RENAME, target.ino, .rename = {.parent = root, .new_parent = root, .new_cookie = next, .name = NAME("target"), .new_name = NAME("n"), .whiteout_ino = file.ino, .flags = RENAME_F_WHITEOUT}),
	    R(RENAME, target.ino, .rename = {.parent = root, .new_parent = root, .new_cookie = next, .name = NAME("target"), .new_name = NAME("n"), .flags = RENAME_F_WHITEOUT}),
	    R(RENAME, target.ino, .rename = {.parent = root, .new_parent = root, .new_cookie = next, .name = NAME("target"), .new_name = NAME("n"), .whiteout_ino = free_ino}),
	    R(SETATTR, free_ino, .attr = {.mask = ATTR_MODE}),
	    R(SETATTR, dir.ino, .attr = {.mask = ATTR_SIZE}),
	    R(SETATTR, file.ino, .attr = {.mask = ATTR_SIZE, .size = FILE_SIZE_MAX + 1}),
	    R(SETXATTR, free_ino, .xattr = {.name = NAME("user.n")}),
	    R(SETXATTR, file.ino, .xattr = {.name = NAME("clawfs."), .value = NAME("v")}),
	    R(SETXATTR, file.ino, .xattr = {.name = NAME("clawfs.durability")}),
	    R(WRITE, dir.ino, .write = {.n_blocks = 1, .crc = crc, .size = 4096, .out_of_line = true}),
	    R(WRITE, free_ino, .write = {.n_blocks = 1, .crc = crc, .size = 4096, .out_of_line = true}),
	    R(WRITE, file.ino, .write = {.n_blocks = 1, .crc = crc, .size = size - 1, .out_of_line = true}),
	    R(WRITE, file.ino, .write = {.n_blocks = 1, .crc = crc, .size = FILE_SIZE_MAX + 1, .out_of_line = true}),
	    R(WRITE, file.ino, .write = {.n_blocks = 1, .crc = crc, .size = size, .block = FILE_SIZE_MAX / BLOCK_SIZE, .out_of_line = true}),
	    R(ZERO, dir.ino, .zero = {.n_blocks = 1, .size = 4096}),
	    R(ZERO, file.ino, .zero = {.n_blocks = 1, .size = size - 1}),
	    R(ZERO, file.ino, .zero = {.n_blocks = FILE_SIZE_MAX / BLOCK_SIZE + 1, .size = size}),
	    R(ZERO, file.ino, .zero = {.block = UINT64_MAX - 1, .n_blocks = 1, .size = size}),
	    R(CLONE, dir.ino, .clone = {.from = file.ino, .n_blocks = 1, .size = 4096}),
	    R(CLONE, free_ino, .clone = {.from = file.ino, .n_blocks = 1, .size = 4096}),
	    R(CLONE, file.ino, .clone = {.from = dir.ino, .n_blocks = 1, .size = size}),
	    R(CLONE, file.ino, .clone = {.from = free_ino, .n_blocks = 1, .size = size}),
	    R(CLONE, file.ino, .clone = {.from = file.ino, .from_block = 9, .n_blocks = 1, .size = size - 1}),
	    R(CLONE, file.ino, .clone = {.from = file.ino, .from_block = 9, .n_blocks = 1, .size = FILE_SIZE_MAX + 1}),
	    R(CLONE, file.ino, .clone = {.from = file.ino, .n_blocks = 1, .block = FILE_SIZE_MAX / BLOCK_SIZE, .size = FILE_SIZE_MAX}),
	    R(CLONE, file.ino, .clone = {.from = file.ino, .n_blocks = 1, .from_block = FILE_SIZE_MAX / BLOCK_SIZE, .size = size}),
	    R(REAP, file.ino, .reap = {0}),
	    R(REAP, root, .reap = {0}),
	    R(REAP, free_ino, .reap = {0}),
	    R(REAP, gone.ino, .reap = {UINT64_MAX}),
	    R(CONFIG, 0, .config = {.key = NAME("k"), .value = NAME("v")}),
	    R(EPOCH, 0, .epoch = {.epoch = 0}),
	    R(EPOCH, 0, .epoch = {.epoch = epoch_make(1, 0)}),
	    R(EPOCH, 0, .epoch = {.epoch = epoch_make(9, 1)}),
	    /* clang-format on */
	};
	for (size_t i = 0; i < ARRAY_SIZE(misfits); i++)
		if (deliver_records(f, &misfits[i], 1) != -EUCLEAN)
			fail_msg("misfit %zu (%s) was not refused", i, record_type_name(misfits[i].type));
	/* More space than there can be is no misfit, and no space. */
	const struct record vast =
	    R(ZERO, file.ino, .zero = {.n_blocks = FILE_SIZE_MAX / BLOCK_SIZE, .size = FILE_SIZE_MAX, .mode = ZERO_ALLOCATE});
	FAILS(-ENOSPC, deliver_records(f, &vast, 1));
	/* Each is right alone, and the second not after the first; what is seen of the first must not stay. */
	const struct record twice[] = {
	    R(UNLINK, target.ino, .unlink = {.parent = root, .name = NAME("target")}),
	    R(UNLINK, target.ino, .unlink = {.parent = root, .name = NAME("target")}),
	};
	FAILS(-EUCLEAN, deliver_records(f, twice, 2));
	struct record many[RECORD_INODES_MAX + 1];
	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = (struct record)R(
		    MKNODE, free_ino + i, .flags = i < RECORD_INODES_MAX ? RECORD_MORE : 0,
		    .mknode = {.parent = root, .cookie = next + i, .name = {&"abcdefgh"[i], 1}, .mode = S_IFREG});
	FAILS(-EUCLEAN, deliver_records(f, many, ARRAY_SIZE(many))); /* one operation with six inodes */
	assert_same_tree(f, l);
	assert_clean(w, f);
	/* And those that fit are taken: the same table would pass if everything were refused. */
	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		many[i].flags = 0;
	OK(deliver_records(f, many, ARRAY_SIZE(many)));
	OK(deliver_records(f, twice, 1));
	assert_clean(w, f);
}

static void ignore_line(void *ctx, const char *line)
{
	(void)ctx;
	(void)line;
}

/* A file of three blocks, tiered as far as a record of object 9 said: slots 0 and 1. */
static void tier_records_that_do_not_fit_are_refused(void **state)
{
	static const uint8_t sealed[RECORD_SEALED_BYTES] = {1}, other[RECORD_SEALED_BYTES] = {2};
	struct world *w = *state;
	struct fs *l = leader(w), *f = w->follower[0].fs;
	struct fs_attr dir;
	uint64_t ino = make_file(l, "f");
	struct super s;

	OK(fs_mknod(l, &cred, FS_ROOT_INO, "dir", S_IFDIR | 0755, 0, &dir));
	put_bytes(l, ino, 0, 10000, 1);
	ship_all(w);
#define PLACE(...)                                                                                                               \
	&(const struct record_place)                                                                                             \
	{                                                                                                                        \
		.offset = 4096, .len = 50, __VA_ARGS__                                                                           \
	}
#define T(ino_, object_, place_)                                                                                                 \
	R(TIER, ino_,                                                                                                            \
	  .tier = {.store = 1,                                                                                                   \
		   .object_bytes = 8192,                                                                                         \
		   .n_blocks = 16,                                                                                               \
		   .sealed = sealed,                                                                                             \
		   .object = (object_),                                                                                          \
		   .n_places = 1,                                                                                                \
		   .places = (place_)})
	const struct record good = T(ino, 9, PLACE(.mask = 3));
	OK(super_read(f->store, &s));
	assert_int_equal(s.incompat, 0);
	OK(deliver_records(f, &good, 1));
	OK(super_read(f->store, &s));
	assert_int_equal(s.incompat, 1);
	uint64_t before = objects_hash(f);
	const struct record misfits[] = {
	    T(dir.ino, 10, PLACE(.mask = 1)),
	    T(ino + 100, 10, PLACE(.mask = 1)),
	    T(ino, 10, PLACE(.mask = 8)), /* no data there */
	    T(ino, 10, PLACE(.mask = 0xffff)),
	    T(ino, 10, PLACE(.mask = 3, .leaf = 1)), /* nor there */
	    T(ino, 10, PLACE(.mask = 3, .leaf = FILE_SIZE_MAX / (LEAF_SLOTS * BLOCK_SIZE))),
	    T(ino, 10, PLACE(.mask = 1)), /* slot 1 would lose its copy */
	    T(ino, 10, PLACE(.mask = 6)), /* slot 0 would */
	};
	struct record others[] = {T(ino, 9, PLACE(.mask = 7)), T(ino, 9, PLACE(.mask = 7)), T(ino, 9, PLACE(.mask = 7)),
				  T(ino, 9, PLACE(.mask = 7))}; /* object 9 is not like that */
	others[0].tier.store = 2;
	others[1].tier.object_bytes++;
	others[2].tier.n_blocks++;
	others[3].tier.sealed = other;
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		FAILS(-EUCLEAN, deliver_records(f, &others[i], 1));
	for (size_t i = 0; i < ARRAY_SIZE(misfits); i++)
		if (deliver_records(f, &misfits[i], 1) != -EUCLEAN)
			fail_msg("misfit %zu was not refused", i);
	/* What records before it in the batch leave counts. */
	const struct record punched[] = {R(ZERO, ino, .zero = {.block = 1, .n_blocks = 1, .size = 10000, .mode = ZERO_RANGE}),
					 T(ino, 10, PLACE(.mask = 3))},
			    later[] = {T(ino, 10, PLACE(.mask = 7)), T(ino, 11, PLACE(.mask = 3))};
	FAILS(-EUCLEAN, deliver_records(f, punched, 2));
	FAILS(-EUCLEAN, deliver_records(f, later, 2));
	assert_true(objects_hash(f) == before);
	/* Those that fit are taken; an object of which something is live is not forgotten by a record that says so. */
	const struct record cut[] = {R(ZERO, ino, .zero = {.n_blocks = 1, .size = 10000, .mode = ZERO_PUNCH}),
				     T(ino, 12, PLACE(.mask = 7))}; /* of a file that was cut it is not looked at */
	const struct record forget =
	    R(TIER, FS_ROOT_INO,
	      .tier = {.change = TIER_FORGET, .store = 1, .object_bytes = 8192, .n_blocks = 16, .sealed = sealed, .object = 12});
	struct object_row o;
	OK(deliver_records(f, later, 1));
	OK(objects_get(f, 9, &o));
	assert_int_equal(o.n_live, 0);
	OK(objects_get(f, 10, &o));
	assert_int_equal(o.n_live, 3);
	OK(deliver_records(f, cut, 2));
	OK(deliver_records(f, &forget, 1));
	OK(objects_get(f, 12, &o));
	assert_int_equal(o.n_live, 2); /* slots 1 and 2: with slot 0 a hole, they are all that object 10 had */
	OK(objects_get(f, 10, &o));
	assert_int_equal(o.n_live, 0);
	struct fs_check_result res = {0};
	OK(fs_check(f, true, ignore_line, NULL, &res));
	assert_int_equal(res.damaged_blocks + res.structure_errors + res.accounting_errors, 0);
#undef T
#undef PLACE
}

/* Bytes that no encoder writes, with every checksum right. */
static void names_that_cannot_be_are_refused(void **state)
{
	static const char *const bad[] = {"a/b", "/", ".", "..", "a\0b"};
	static const size_t len[] = {3, 1, 1, 2, 3};
	struct world *w = *state;
	struct fs *f = w->follower[0].fs;
	struct message m;

	ship_all(w);
	commit(f);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const struct record rec =
		    R(MKNODE, 50, .mknode = {.parent = 1, .cookie = 3, .name = {"xxxxx", len[i]}, .mode = S_IFREG});
		craft(f, point_of(f).promised, &rec, 1, &m);
		uint8_t *p = (uint8_t *)(uintptr_t)m.b.logical;
		memcpy(p + sizeof(struct record_header) + sizeof(struct body_mknode), bad[i], len[i]);
		seal_record(p);
		reseal(&m);
		FAILS(-EUCLEAN, message_deliver(f, &m));
		message_free(&m);
	}
}

static void a_batch_out_of_place_is_refused(void **state)
{
	struct world *w = *state;
	struct fs *f = w->follower[0].fs;
	struct message first, second;

	make_file(leader(w), "a");
	ship_all(w);
	make_file(leader(w), "b");
	OK(fs_sync(leader(w)));
	make_file(leader(w), "c");
	OK(fs_sync(leader(w)));
	uint64_t seq = point_of(f).applied_seq;
	OK(message_read(leader(w), &w->cursor, seq + 1, &first));
	OK(message_read(leader(w), &w->cursor, seq + 2, &second));
	FAILS(-EINVAL, message_deliver(f, &second)); /* a gap */
	OK(message_deliver(f, &first));
	FAILS(-EINVAL, message_deliver(f, &first)); /* again */
	commit(f);
	FAILS(-EINVAL, message_deliver(f, &first));
	second.b.prev_hash++;
	reseal(&second);
	FAILS(-EINVAL, message_deliver(f, &second)); /* another history */
	second.b.prev_hash--;
	reseal(&second);
	second.b.epoch--;
	FAILS(-ESTALE, message_deliver(f, &second)); /* an older leader */
	second.b.epoch++;
	OK(message_deliver(f, &second));
	FAILS(-EINVAL, message_deliver(leader(w), &second)); /* a leader takes nothing */
	FAILS(-EAGAIN, message_read(leader(w), &w->cursor, seq + 3, &first));
	FAILS(-EROFS, message_read(f, &w->follower[0].cursor, seq + 1, &first)); /* and a follower gives nothing */
	message_free(&first);
	message_free(&second);
	assert_same_tree(f, leader(w));
}

/* No leader logs a clone of what an object has; and where the trial cannot know that, the clone has holes there, and no harm is
 * done. */
static void a_clone_of_tiered_data_is_refused(void **state)
{
	struct world *w = *state;
	struct fs *f = w->follower[0].fs;
	uint64_t from = make_file(leader(w), "f"), to = make_file(leader(w), "g"), blocks;

	put_bytes(leader(w), from, 0, 160 * KIB, 1);
	OK(cold_tier(w->run.cold, leader(w), from, NULL));
	ship_all(w);
	home_all(f);
	OK(fs_sync(f));
	OK(tier_drop_homes(f, from, 0, 3, &blocks));
	const struct record whole[] = {R(CLONE, to, .clone = {.from = from, .from_block = 39, .n_blocks = 2, .size = 8192})};
	FAILS(-EUCLEAN, deliver_records(f, whole, 1));
	const struct record cut[] = {
	    R(ZERO, from, .zero = {.block = 1000, .n_blocks = 1, .mode = ZERO_PUNCH, .size = 160 * KIB}),
	    R(CLONE, to, .clone = {.from = from, .from_block = 30, .n_blocks = 10, .size = 10 * BLOCK_SIZE}),
	};
	OK(deliver_records(f, cut, 2));
	assert_clean(w, f);
}

/* Random damage, resealed so that it is taken for meant: refused, or applied to a volume that is still whole. */
static void whatever_is_taken_leaves_a_whole_volume(void **state)
{
	struct world *w = setup_world(state, SIM_TREE);
	struct node *n = &w->follower[0];
	struct rng rng = rng_derive(11, 2, 3);
	unsigned taken = 0, refused = 0;
	struct stream s;

	record_stream(w, 120, &s);
	for (uint64_t seq = 1; seq <= s.n; seq++) {
		for (unsigned turn = 0; turn < 12; turn++) {
			struct message m = s.m[seq];
			m.b.logical = copy_of(m.b.logical, m.b.logical_bytes);
			uint8_t *p = (uint8_t *)(uintptr_t)m.b.logical;
			size_t at = 0;
			for (unsigned i = 0; i < rng_below(&rng, m.b.n_records); i++) {
				struct record_header h;
				memcpy(&h, p + at, sizeof(h));
				at += le32_get(h.bytes);
			}
			struct record_header h;
			memcpy(&h, p + at, sizeof(h));
			if (h.type == RECORD_TIER) { /* which object it is that has the data, only the leader knows */
				free(p);
				continue;
			}
			for (unsigned i = 0; i < 1 + turn % 3; i++)
				flip(p + at, 64 + rng_below(&rng, 8 * (uint64_t)le32_get(h.bytes) - 64));
			seal_record(p + at);
			reseal(&m);
			struct simcut *c = simcut_new(n->image.store);
			simcut_advance(c, simstore_count(n->image.store));
			struct node copy = {.image.store = simcut_image(c, SIMCUT_KILL, &rng, false)};
			copy.image.index = kv_disk_at(n->image.index, simstore_count(n->image.store), copy.image.store);
			simcut_free(c);
			node_open(w, &copy);
			int r = message_deliver(copy.fs, &m);
			char why[256];
			fs_failure(copy.fs, why, sizeof(why));
			assert_string_equal(why, "");
			if (r == 0)
				assert_clean(w, copy.fs);
			taken += r == 0;
			refused += r < 0;
			node_kill(&copy);
			sim_image_free(&copy.image);
			free(p);
		}
		OK(message_deliver(n->fs, &s.m[seq]));
		commit(n->fs);
	}
	assert_true(taken > 100 && refused > 100);
	stream_free(&s);
}

/* ---- roles ---- */

static void promote(struct fs *fs, uint64_t epoch)
{
	OK(ops_of(fs)->promote(fs_replica(fs), epoch));
	assert_true(fs_role(fs) == ROLE_LEADER && point_of(fs).promised == epoch && point_of(fs).history == epoch);
	assert_true(point_of(fs).durable_seq == point_of(fs).applied_seq);
}

static bool holds_prefix(struct fs *of, struct fs *fs)
{
	return ops_of(of)->is_prefix(fs_replica(of), point_of(fs).history, point_of(fs).applied_seq);
}

static void a_promoted_follower_leads_and_the_old_leader_follows(void **state)
{
	struct world *w = *state;
	struct node *b = &w->follower[0], *c = &w->follower[1];
	struct fs_attr a;
	uint64_t e2 = epoch_make(2, 2), ino;
	struct message m;
	bool more = true;

	for (unsigned i = 0; i < 30; i++)
		leader_step(w);
	ino = make_file(leader(w), "orphan");
	put_bytes(leader(w), ino, 0, 100 * KIB, 1);
	OK(fs_unlink(leader(w), &cred, FS_ROOT_INO, "orphan"));
	OK(fs_sync(leader(w)));
	ship(leader(w), &w->cursor, c->fs);
	make_file(leader(w), "late");
	ship_all(w);
	node_kill(c); /* it has everything but the end, then nothing for a while */
	node_open(w, c);
	commit(b->fs);
	assert_true(holds_prefix(leader(w), b->fs) && holds_prefix(leader(w), c->fs));
	FAILS(-ESTALE, ops_of(b->fs)->promote(fs_replica(b->fs), point_of(b->fs).promised));
	promote(b->fs, e2);
	assert_true(holds_prefix(b->fs, leader(w)));
	while (more) /* the orphan, which nobody here has open */
		OK(fs_reap_step(b->fs, &more));
	FAILS(-ENOENT, fs_getattr(b->fs, ino, &a));
	OK(fs_mknod(b->fs, &cred, FS_ROOT_INO, "new", S_IFREG | 0644, 0, &a));

	/* The old leader is heard no more by who heard of the new one. */
	make_file(leader(w), "lost");
	OK(fs_sync(leader(w)));
	OK(ops_of(c->fs)->note_epoch(fs_replica(c->fs), e2));
	OK(message_read(leader(w), &w->cursor, point_of(c->fs).applied_seq + 1, &m));
	FAILS(-ESTALE, message_deliver(c->fs, &m));
	message_free(&m);
	/* And follows once it hears itself. */
	OK(ops_of(leader(w))->note_epoch(fs_replica(leader(w)), e2));
	assert_int_equal(fs_role(leader(w)), ROLE_FOLLOWER);
	FAILS(-EROFS, fs_mknod(leader(w), &cred, FS_ROOT_INO, "x", S_IFREG | 0644, 0, &a));
	FAILS(-EROFS, message_read(leader(w), &w->cursor, 1, &m));
	assert_false(holds_prefix(b->fs, leader(w))); /* it has what nobody else has */
	assert_true(holds_prefix(b->fs, c->fs));
	OK(ops_of(b->fs)->note_epoch(fs_replica(b->fs), e2)); /* its own is nothing new */
	assert_int_equal(fs_role(b->fs), ROLE_LEADER);

	OK(fs_sync(b->fs));
	ship(b->fs, &b->cursor, c->fs);
	assert_same_tree(c->fs, b->fs);
	assert_int_equal(point_of(c->fs).history, e2);
	node_kill(c);
	node_open(w, c);
	assert_int_equal(point_of(c->fs).history, e2);
	assert_same_tree(c->fs, b->fs);
	assert_clean(w, c->fs);
	node_close(b); /* and it is still the leader afterwards */
	node_open(w, b);
	assert_int_equal(fs_role(b->fs), ROLE_LEADER);
	OK(fs_mknod(b->fs, &cred, FS_ROOT_INO, "newer", S_IFREG | 0644, 0, &a));
	OK(fs_sync(b->fs));
	ship(b->fs, &b->cursor, c->fs);
	assert_same_tree(c->fs, b->fs);
	assert_clean(w, b->fs);
}

static void an_old_leader_without_changes_of_its_own_goes_on_as_a_follower(void **state)
{
	struct world *w = *state;
	struct node *b = &w->follower[0];
	struct fs_attr a;

	for (unsigned i = 0; i < 30; i++)
		leader_step(w);
	ship_all(w);
	OK(ops_of(leader(w))->hold_writers(fs_replica(leader(w)), true));
	ship(leader(w), &w->cursor, b->fs);
	promote(b->fs, epoch_make(2, 2));
	OK(ops_of(leader(w))->note_epoch(fs_replica(leader(w)), epoch_make(2, 2)));
	OK(ops_of(leader(w))->hold_writers(fs_replica(leader(w)), false));
	assert_true(holds_prefix(b->fs, leader(w)));
	OK(fs_mknod(b->fs, &cred, FS_ROOT_INO, "new", S_IFREG | 0644, 0, &a));
	OK(fs_sync(b->fs));
	ship(b->fs, &b->cursor, leader(w));
	assert_same_tree(leader(w), b->fs);
	/* And back again, twice as high. */
	promote(leader(w), epoch_make(4, 1));
	OK(ops_of(b->fs)->note_epoch(fs_replica(b->fs), epoch_make(4, 1)));
	OK(fs_mknod(leader(w), &cred, FS_ROOT_INO, "again", S_IFREG | 0644, 0, &a));
	ship_all(w);
	assert_same_tree(b->fs, leader(w));
	assert_same_tree(w->follower[1].fs, leader(w)); /* which saw both epochs in one go */
	assert_clean(w, leader(w));
	for (uint64_t seq = point_of(b->fs).applied_seq - 1; seq <= point_of(b->fs).applied_seq; seq++)
		assert_true(sum_of(leader(w), seq) == sum_of(b->fs, seq));
}

/* A leader crashed while it becomes a follower, a follower while it becomes the leader: one or the other, with all that was
 * durable. */
static void a_change_of_role_is_one_or_the_other(void **state)
{
	struct world *w = *state;
	struct node *b = &w->follower[0];
	struct rng rng = rng_derive(5, 5, 5);
	bool seen[2][2] = {0};

	for (unsigned i = 0; i < 20; i++)
		leader_step(w);
	ship_all(w);
	commit(b->fs);
	make_file(leader(w), "not synced");
	struct {
		struct fs *fs;
		struct sim_image *image;
		enum replica_role to;
		uint64_t first, last, durable;
	} side[2] = {{leader(w), &w->run.image, ROLE_FOLLOWER, 0, 0, 0}, {b->fs, &b->image, ROLE_LEADER, 0, 0, 0}};
	for (unsigned i = 0; i < 2; i++) {
		side[i].durable = point_of(side[i].fs).durable_seq;
		side[i].first = simstore_mark(side[i].image->store);
		OK(i ? ops_of(side[i].fs)->promote(fs_replica(side[i].fs), epoch_make(2, 2))
		     : ops_of(side[i].fs)->note_epoch(fs_replica(side[i].fs), epoch_make(2, 2)));
		side[i].last = simstore_mark(side[i].image->store);
		struct simcut *c = simcut_new(side[i].image->store);
		for (uint64_t cut = side[i].first; cut <= side[i].last; cut++) {
			simcut_advance(c, cut);
			for (unsigned v = 0; v < SIMCUT_VARIANTS; v++) {
				struct node n = {.image.store = simcut_image(c, (enum simcut_variant)v, &rng, false)};
				n.image.index = kv_disk_at(side[i].image->index, cut, n.image.store);
				node_open(w, &n);
				struct replica_point p = point_of(n.fs);
				assert_true(p.durable_seq >= side[i].durable);
				assert_true(p.role == fs_role(n.fs));
				/* The new role and the promise are one step. */
				assert_int_equal(p.role == side[i].to, p.promised == epoch_make(2, 2));
				if (p.role == ROLE_LEADER)
					assert_true(p.history == p.promised);
				seen[i][p.role == side[i].to] = true;
				if (cut == side[i].last)
					assert_int_equal(p.role, side[i].to);
				assert_clean(w, n.fs);
				node_kill(&n);
				sim_image_free(&n.image);
			}
		}
		simcut_free(c);
	}
	assert_true(seen[0][0] && seen[0][1] && seen[1][0] && seen[1][1]);
}

static void edit_old(struct super *s, uint32_t arg)
{
	(void)arg;
	s->epoch = 1;
	s->node_id = 0;
}

static void a_volume_of_before_there_were_epochs_goes_on(void **state)
{
	struct world *w = *state;
	struct node n = {0};
	struct fs_attr a;
	uint64_t e;

	node_format(w, &n, 1, 0);
	super_edit(w, &n.image, edit_old, 0);
	struct fs_config c = sim_config(&w->run, &n.image);
	struct super s;
	OK(super_read(c.store, &s));
	s.follower = false;
	OK(super_write(c.store, &s));
	store_close(c.store);
	for (unsigned i = 0; i < 2; i++) {
		node_open(w, &n);
		e = point_of(n.fs).promised;
		assert_int_equal(e, 1);
		assert_true(epoch_counter(e) == 0 && epoch_node(e) == 1 && point_of(n.fs).node_id == 1);
		assert_int_equal(point_of(n.fs).history, 1);
		assert_true(holds_prefix(n.fs, n.fs));
		OK(fs_mknod(n.fs, &cred, FS_ROOT_INO, i ? "b" : "a", S_IFREG | 0644, 0, &a));
		assert_clean(w, n.fs);
		node_close(&n);
	}
	sim_image_free(&n.image);
}

static void only_a_prefix_is_a_prefix(void **state)
{
	struct world *w = *state;
	struct fs *b = w->follower[0].fs;
	struct replica_volume *v = fs_replica(b);
	uint64_t e1 = point_of(leader(w)).promised, e2 = epoch_make(2, 2), e3 = epoch_make(3, 2);

	make_file(leader(w), "a");
	ship_all(w);
	uint64_t first = point_of(b).applied_seq;
	promote(b, e2);
	make_file(b, "b");
	OK(fs_sync(b));
	uint64_t second = point_of(b).applied_seq;
	promote(b, e3); /* the same node, again */
	uint64_t third = point_of(b).applied_seq;
	const struct {
		uint64_t epoch, seq;
		bool is;
	} cases[] = {
	    {0, 0, true},
	    {0, 1, false},
	    {e1, 1, true},
	    {e1, first, true},
	    {e1, first + 1, false},
	    {e2, first + 1, true},
	    {e2, second, true},
	    {e2, second + 1, false},
	    {e3, third, true},
	    {e3, third + 1, false},
	    {epoch_make(2, 3), first, false},
	    {epoch_make(4, 1), first, false},
	    {1, 1, false},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(v->ops->is_prefix(v, cases[i].epoch, cases[i].seq), cases[i].is);
}

static void *make_one(void *fs)
{
	make_file(fs, "waited");
	return NULL;
}

static void held_writers_wait_until_they_are_let_go(void **state)
{
	struct world *w = *state;
	struct fs *l = leader(w);
	struct fs_attr a;
	pthread_t t;

	make_file(l, "before");
	OK(ops_of(l)->hold_writers(fs_replica(l), true));
	assert_true(point_of(l).durable_seq == point_of(l).applied_seq);
	uint64_t seq = fs_pos(l);
	pthread_create(&t, NULL, make_one, l);
	usleep(30000);
	FAILS(-ENOENT, fs_lookup(l, FS_ROOT_INO, "waited", &a));
	OK(fs_lookup(l, FS_ROOT_INO, "before", &a));
	assert_true(fs_pos(l) == seq);
	OK(ops_of(l)->hold_writers(fs_replica(l), false));
	pthread_join(t, NULL);
	OK(fs_lookup(l, FS_ROOT_INO, "waited", &a));
	assert_true(fs_pos(l) > seq);
	OK(ops_of(l)->hold_writers(fs_replica(l), true)); /* and nobody waits for ever at the end: teardown */
}

/* ---- sums ---- */

static void change_behind_the_back(struct fs *fs, uint64_t ino)
{
	struct lockset ls;
	struct inode *in;

	lockset_lock(fs->icache, &ls, &ino, 1);
	OK(icache_get(fs->icache, ino, &in));
	in->uid++;
	lockset_unlock(fs->icache, &ls);
}

static void a_follower_that_differs_is_found_and_serves_no_more(void **state)
{
	struct world *w = *state;
	struct node *n = &w->follower[0];
	uint64_t ino = make_file(leader(w), "f"), sum;

	ship_all(w);
	change_behind_the_back(n->fs, ino);
	make_file(leader(w), "other"); /* does not name it */
	ship_all(w);
	uint64_t seq = point_of(n->fs).applied_seq;
	assert_true(sum_of(n->fs, seq) == sum_of(leader(w), seq));
	put_bytes(leader(w), ino, 0, 10, 1);
	ship_all(w);
	seq = point_of(n->fs).applied_seq;
	assert_true(sum_of(n->fs, seq) != sum_of(leader(w), seq));
	assert_true(sum_of(w->follower[1].fs, seq) == sum_of(leader(w), seq));
	FAILS(-EINVAL, ops_of(leader(w))->set_differs(fs_replica(leader(w)), seq));
	OK(ops_of(n->fs)->set_differs(fs_replica(n->fs), seq));
	for (unsigned i = 0; i < 3; i++) {
		assert_true(point_of(n->fs).differs);
		assert_unreadable(n->fs);
		FAILS(-EAGAIN, ops_of(n->fs)->promote(fs_replica(n->fs), epoch_make(2, 2)));
		if (i == 0)
			node_kill(n);
		else
			node_close(n);
		node_open(w, n);
	}
	FAILS(-ENOENT, ops_of(n->fs)->state_sum(fs_replica(n->fs), seq, &sum)); /* of before the mount */
	FAILS(-ENOENT, ops_of(leader(w))->state_sum(fs_replica(leader(w)), seq + 100, &sum));
}

/* ---- the rest ---- */

struct seen {
	unsigned n[4];
	uint64_t ino;
	char name[256];
};

static void note(void *ctx, const struct fs_change *c)
{
	struct seen *s = ctx;

	s->n[c->kind]++;
	s->ino = c->ino;
	if (c->kind == CHANGE_ENTRY)
		snprintf(s->name, sizeof(s->name), "%.*s", (int)c->name.len, (const char *)c->name.p);
}

static void a_watcher_hears_of_every_change(void **state)
{
	struct world *w = *state;
	struct fs *l = leader(w), *f = w->follower[0].fs;
	struct seen s = {0};
	struct fs_attr a;

	ship_all(w);
	fs_set_watcher(f, note, &s);
	uint64_t ino = make_file(l, "f");
	ship_all(w);
	assert_true(s.n[CHANGE_ENTRY] == 1 && s.ino == FS_ROOT_INO);
	assert_string_equal(s.name, "f");
	put_bytes(l, ino, 0, 100, 1);
	ship_all(w);
	assert_true(s.n[CHANGE_DATA] == 1 && s.ino == ino);
	OK(fs_setattr(l, &cred, ino, &(struct record_attr){.mask = ATTR_UID, .uid = 5}, &a));
	OK(fs_rename(l, &cred, FS_ROOT_INO, "f", FS_ROOT_INO, "g", 0));
	ship_all(w);
	assert_true(s.n[CHANGE_ENTRY] == 3 && s.n[CHANGE_ATTR] == 2);
	assert_string_equal(s.name, "g");
	OK(ops_of(f)->set_differs(fs_replica(f), 1));
	assert_int_equal(s.n[CHANGE_ALL], 1);
	fs_set_watcher(f, NULL, NULL);
	make_file(l, "h");
	ship_all(w);
	assert_int_equal(s.n[CHANGE_ENTRY], 3);
}

struct hooks_seen {
	uint64_t durable;
	unsigned n_status;
};

static void note_durable(void *ctx, uint64_t seq)
{
	((struct hooks_seen *)ctx)->durable = seq;
}

static void note_status(void *ctx, void *object)
{
	((struct hooks_seen *)ctx)->n_status++;
	json_object_set_new(object, "mark", json_true());
}

static void hooks_hear_of_durable_batches_and_add_to_the_status(void **state)
{
	struct world *w = *state;
	struct hooks_seen seen = {0};
	CLEANUP_BUF struct buf text = {0};

	fs_set_hooks(leader(w), &(struct fs_hooks){.ctx = &seen, .durable = note_durable, .status = note_status});
	make_file(leader(w), "f");
	OK(fs_sync(leader(w)));
	assert_true(seen.durable == point_of(leader(w)).durable_seq);
	fs_status_json(leader(w), &text);
	json_t *root = json_loadb((const char *)text.p, text.len, 0, NULL), *r = json_object_get(root, "replica");
	assert_true(json_is_true(json_object_get(root, "mark")) && seen.n_status == 1);
	assert_string_equal(json_string_value(json_object_get(r, "role")), "leader");
	assert_int_equal(json_integer_value(json_object_get(r, "node_id")), 1);
	assert_int_equal(json_integer_value(json_object_get(r, "epoch")), epoch_make(1, 1));
	assert_true(json_is_true(json_object_get(r, "readable")));
	json_decref(root);
}

static void batches_a_peer_needs_outlive_a_restart(void **state)
{
	struct world *w = *state;
	struct message m;
	uint64_t ino = make_file(leader(w), "f"), want;

	ship_all(w);
	want = point_of(leader(w)).durable_seq + 1;
	for (unsigned keep = 1; keep <= 2; keep++) {
		fs_set_ship_floor(leader(w), keep == 2 ? want : 0);
		put_bytes(leader(w), ino, 0, 20 * KIB, (uint8_t)keep);
		home_all(leader(w));
		ops_of(leader(w))->cursor_free(w->cursor);
		w->cursor = NULL;
		OK(fs_close(leader(w)));
		w->run.fs = NULL;
		OK(sim_open_image(&w->run, &w->run.image, &w->run.fs));
		int r = message_read(leader(w), &w->cursor, want, &m);
		if (keep == 1) {
			FAILS(-ENOENT, r);
			want = point_of(leader(w)).durable_seq + 1;
			continue;
		}
		OK(r);
		message_free(&m);
	}
	/* But no more than an eighth of the ring. */
	fs_set_ship_floor(leader(w), want);
	for (unsigned i = 0; i < 100; i++) {
		put_bytes(leader(w), ino, 0, 60 * KIB, (uint8_t)i);
		if (i % 10 == 9)
			home_all(leader(w));
	}
	struct journal_status js;
	journal_get_status(leader(w)->journal, &js);
	assert_true(js.used_blocks <= js.ring_blocks / 8 + 10 && js.used_blocks >= js.ring_blocks / 8 - 200);
	assert_clean(w, leader(w));
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest cases[] = {
	    cmocka_unit_test(a_follower_is_its_leader_after_every_batch),
	    CASE(a_follower_refuses_every_change),
	    CASE(an_empty_follower_shows_its_root_and_nothing_else),
	    CASE(superseded_data_comes_with_a_fence),
	    CASE(a_block_given_to_another_file_is_superseded),
	    CASE(data_evicted_before_it_was_sent_is_cold),
	    CASE(a_follower_may_evict_at_any_moment),
	    CASE(a_clone_of_tiered_data_is_refused),
	    CASE(a_fence_that_cannot_be_is_refused),
	    CASE(a_follower_crashed_at_any_moment_goes_on),
	    CASE(a_late_follower_crashed_at_any_moment_goes_on),
	    CASE(a_checkpoint_in_the_middle_of_a_batch_sees_nothing_of_it),
	    CASE(a_dropped_batch_leaves_nothing_behind),
	    CASE(a_full_follower_refuses_the_batch_and_takes_it_once_there_is_room),
	    CASE(a_follower_goes_round_its_ring),
	    cmocka_unit_test_teardown(a_follower_is_read_while_it_follows, teardown),
	    CASE(any_flipped_bit_of_a_batch_is_refused),
	    CASE(records_that_do_not_fit_the_volume_are_refused),
	    CASE(tier_records_that_do_not_fit_are_refused),
	    CASE(names_that_cannot_be_are_refused),
	    CASE(a_batch_out_of_place_is_refused),
	    cmocka_unit_test_teardown(whatever_is_taken_leaves_a_whole_volume, teardown),
	    CASE(a_promoted_follower_leads_and_the_old_leader_follows),
	    CASE(an_old_leader_without_changes_of_its_own_goes_on_as_a_follower),
	    CASE(a_change_of_role_is_one_or_the_other),
	    CASE(a_volume_of_before_there_were_epochs_goes_on),
	    CASE(only_a_prefix_is_a_prefix),
	    CASE(held_writers_wait_until_they_are_let_go),
	    CASE(a_follower_that_differs_is_found_and_serves_no_more),
	    CASE(a_watcher_hears_of_every_change),
	    CASE(hooks_hear_of_durable_batches_and_add_to_the_status),
	    CASE(batches_a_peer_needs_outlive_a_restart),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(cases, NULL, NULL);
}
