/*
 * test_replica.c: the volume's side of replication: a leader that does random things, followers that take its batches and are
 * read meanwhile, and what is heard of both.  No connections: messages are the structures of journal/replica.h.
 *
 * Batches that are late, cut off or hostile, and changes of role, have tests of their own: test_superseded.c,
 * test_replica_crash.c, test_replica_hostile.c, test_replica_roles.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <jansson.h>

#include "base/log.h"
#include "tests/unit/replica_case.h"

#define STEPS 150u

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

static void a_follower_goes_round_its_ring(void **state)
{
	struct world *w = *state;
	uint64_t ino = make_file(leader(w), "f");

	for (unsigned i = 0; i < 1024; i++) {
		put_bytes(leader(w), ino, i % 16 * 64 * KIB, 60 * KIB, (uint8_t)i);
		if (i % 16 == 15) {
			ship_all(w);
			steps_settle(leader(w));
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

/* ---- sums ---- */

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
		steps_settle(leader(w));
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
			steps_settle(leader(w));
	}
	struct journal_status js;
	journal_get_status(leader(w)->journal, &js);
	assert_true(js.used_blocks <= js.ring_blocks / 8 + 10 && js.used_blocks >= js.ring_blocks / 8 - 200);
	assert_clean(w, leader(w));
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, world_teardown)
	const struct CMUnitTest cases[] = {
	    cmocka_unit_test(a_follower_is_its_leader_after_every_batch),
	    CASE(a_follower_refuses_every_change),
	    CASE(an_empty_follower_shows_its_root_and_nothing_else),
	    CASE(a_follower_goes_round_its_ring),
	    cmocka_unit_test_teardown(a_follower_is_read_while_it_follows, world_teardown),
	    CASE(a_follower_that_differs_is_found_and_serves_no_more),
	    CASE(a_watcher_hears_of_every_change),
	    CASE(hooks_hear_of_durable_batches_and_add_to_the_status),
	    CASE(batches_a_peer_needs_outlive_a_restart),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(cases, NULL, NULL);
}
