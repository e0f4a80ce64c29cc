/*
 * test_usage.c: totals of directories and quotas, by enumeration: all short sequences of a few operations on a small tree.
 *
 * After each sequence every directory says what a walk counts.  What folds in between makes no difference: each sequence is run
 * with all patterns of asking and not asking after a step, and some with a kill and a recovery in between.  Quotas
 * are tried from what the same operation does without one: it must fit into exactly that, and into nothing less.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/usage/usage_impl.h"
#include "tests/lib/recount.h"
#include "tests/lib/steps.h"
#include "tests/unit/volume.h"

static struct volume vol;
static char why[512];

static int64_t now_ns = 1700000000 * NSEC_PER_SEC;
static int64_t tick(const struct clock *c)
{
	(void)c;
	return now_ns += 1000;
}
static const struct clock ticking = {.real_ns = tick, .mono_ns = tick};

static int make_volume(void **state)
{
	(void)state;
	volume_open(&vol, &ticking);
	return 0;
}

static int free_volume(void **state)
{
	(void)state;
	volume_close(&vol);
	return 0;
}

/* Without threads nobody else makes room in the journal. */
static void make_room(void)
{
	steps_settle(vol.fs);
}

static void recount(uint64_t dir)
{
	if (recount_check(vol.fs, dir, why, sizeof(why)) != 0)
		fail_msg("%s", why);
}

static int set_quota(uint64_t dir, enum fs_quota_kind kind, const char *value)
{
	return fs_set_quota(vol.fs, &root, dir, kind, value);
}

/* ---- a small tree: BASE/a, BASE/a/c, BASE/b ---- */

enum { BASE, A, B, C, N_DIRS };
struct place {
	uint64_t dir[N_DIRS]; /* C moves, and comes and goes: 0 then */
};

static uint64_t make_dir(uint64_t parent, const char *name)
{
	struct fs_attr a;

	assert_int_equal(fs_mknod(vol.fs, &root, parent, name, S_IFDIR | 0755, 0, &a), 0);
	fs_forget(vol.fs, a.ino, 1);
	return a.ino;
}

static uint64_t look_up(uint64_t parent, const char *name)
{
	struct fs_attr a;

	if (fs_lookup(vol.fs, parent, name, &a) != 0)
		return 0;
	fs_forget(vol.fs, a.ino, 1);
	return a.ino;
}

static void place_make(struct place *p, uint64_t parent, const char *name)
{
	p->dir[BASE] = make_dir(parent, name);
	p->dir[A] = make_dir(p->dir[BASE], "a");
	p->dir[B] = make_dir(p->dir[BASE], "b");
	p->dir[C] = make_dir(p->dir[A], "c");
}

/* Where C is, or 0. */
static uint64_t find_c(const struct place *p)
{
	uint64_t c = look_up(p->dir[A], "c");

	return c ? c : look_up(p->dir[B], "c");
}

static int create(uint64_t dir, const char *name)
{
	struct fs_attr a;
	int r = fs_mknod(vol.fs, &root, dir, name, S_IFREG | 0644, 0, &a);

	if (r == 0)
		fs_forget(vol.fs, a.ino, 1);
	return r;
}

static int make_symlink(uint64_t dir, const char *name)
{
	struct fs_attr a;
	int r = fs_symlink(vol.fs, &root, dir, name, "where/to", &a);

	if (r == 0)
		fs_forget(vol.fs, a.ino, 1);
	return r;
}

static int resize(uint64_t dir, const char *name, uint64_t size)
{
	const struct record_attr change = {.mask = ATTR_SIZE, .size = size};
	uint64_t ino = look_up(dir, name);
	struct fs_attr a;

	return ino ? fs_setattr(vol.fs, &root, ino, &change, &a) : -ENOENT;
}

static int write_to(uint64_t dir, const char *name, uint64_t off, size_t len)
{
	static const uint8_t bytes[100000];
	uint64_t ino = look_up(dir, name);

	return ino ? fs_write(vol.fs, &root, ino, off, len, bytes, false) : -ENOENT;
}

static int link_to(uint64_t from, const char *name, uint64_t to, const char *new_name)
{
	uint64_t ino = look_up(from, name);
	struct fs_attr a;
	int r = ino ? fs_link(vol.fs, &root, ino, to, new_name, &a) : -ENOENT;

	if (r == 0)
		fs_forget(vol.fs, a.ino, 1);
	return r;
}

static int reserve(uint64_t dir, const char *name, int mode)
{
	uint64_t ino = look_up(dir, name);

	return ino ? fs_fallocate(vol.fs, &root, ino, mode, 3000, 9000) : -ENOENT;
}

static int move(uint64_t from, const char *name, uint64_t to, const char *new_name, unsigned flags)
{
	return fs_rename(vol.fs, &root, from, name, to, new_name, flags);
}

#define OPS                                                                                                                      \
	OP(create_a_f, create(a, "f"))                                                                                           \
	OP(create_b_f, create(b, "f"))                                                                                           \
	OP(grow_a_f, resize(a, "f", 7000))                                                                                       \
	OP(cut_a_f, resize(a, "f", 100))                                                                                         \
	OP(write_b_f, write_to(b, "f", 4000, 300))                                                                               \
	OP(link_a_b, link_to(a, "f", b, "l"))                                                                                    \
	OP(link_b_c, c ? link_to(b, "f", c, "l") : -ENOENT)                                                                      \
	OP(unlink_a_f, fs_unlink(vol.fs, &root, a, "f"))                                                                         \
	OP(unlink_b_l, fs_unlink(vol.fs, &root, b, "l"))                                                                         \
	OP(move_f, move(a, "f", b, "f", 0))                                                                                      \
	OP(move_l, c ? move(b, "l", c, "l", 0) : -ENOENT)                                                                        \
	OP(swap_f, move(a, "f", b, "f", RENAME_EXCHANGE))                                                                        \
	OP(white_f, move(a, "f", b, "w", RENAME_WHITEOUT))                                                                       \
	OP(move_c, move(a, "c", b, "c", 0))                                                                                      \
	OP(move_c_back, move(b, "c", a, "c", 0))                                                                                 \
	OP(swap_c_f, move(a, "c", b, "f", RENAME_EXCHANGE))                                                                      \
	OP(create_c_g, c ? create(c, "g") : -ENOENT)                                                                             \
	OP(grow_c_g, c ? resize(c, "g", 12345) : -ENOENT)                                                                        \
	OP(symlink_c_s, c ? make_symlink(c, "s") : -ENOENT)                                                                      \
	OP(unlink_c_g, c ? fs_unlink(vol.fs, &root, c, "g") : -ENOENT)                                                           \
	OP(rmdir_c, fs_rmdir(vol.fs, &root, look_up(a, "c") ? a : b, "c"))                                                       \
	OP(mkdir_b_c, look_up(b, "c") || look_up(a, "c") ? -EEXIST : (make_dir(b, "c"), 0))                                      \
	OP(reserve_a_f, reserve(a, "f", 0))                                                                                      \
	OP(reserve_behind_a_f, reserve(a, "f", FALLOC_FL_KEEP_SIZE))

enum op {
#define OP(name, call) OP_##name,
	OPS
#undef OP
	    N_OPS
};
static const char *const op_name[] = {
#define OP(name, call) #name,
    OPS
#undef OP
};

static int run(const struct place *p, enum op op)
{
	uint64_t a = p->dir[A], b = p->dir[B], c = find_c(p);

	switch (op) {
#define OP(name, call)                                                                                                           \
	case OP_##name:                                                                                                          \
		return call;
		OPS
#undef OP
		    default : return -EINVAL;
	}
}

static void remove_below(uint64_t dir);
static int take_first(void *ctx, const struct fs_dirent *e)
{
	char *name = ctx;

	if (strcmp(e->name, ".") == 0 || strcmp(e->name, "..") == 0)
		return 0;
	name[0] = (char)(S_ISDIR(e->type) ? 'd' : 'f');
	snprintf(name + 1, 255, "%s", e->name);
	return -1;
}

static void remove_below(uint64_t dir)
{
	for (;;) {
		char name[300] = "";

		assert_int_equal(fs_readdir(vol.fs, dir, 0, false, take_first, name), 0);
		if (!*name)
			return;
		if (*name == 'd') {
			remove_below(look_up(dir, name + 1));
			assert_int_equal(fs_rmdir(vol.fs, &root, dir, name + 1), 0);
		} else {
			assert_int_equal(fs_unlink(vol.fs, &root, dir, name + 1), 0);
		}
	}
}

static void place_remove(const struct place *p, uint64_t parent, const char *name)
{
	struct fs_usage u;

	remove_below(p->dir[BASE]);
	assert_int_equal(fs_dir_usage(vol.fs, p->dir[BASE], &u), 0);
	assert_true(u.bytes == 0 && u.files == 0 && u.subdirs == 0);
	assert_int_equal(fs_rmdir(vol.fs, &root, parent, name), 0);
	steps_reap(vol.fs);
}

/* Operations as digits of `seq`; after step i the totals are asked for when bit i of `asked` is set. */
static void run_sequence(uint64_t seq, unsigned n, unsigned asked)
{
	struct place p;

	place_make(&p, FS_ROOT_INO, "base");
	for (unsigned i = 0; i < n; i++, seq /= N_OPS) {
		int r = run(&p, (enum op)(seq % N_OPS));

		(void)r; /* what cannot be done changes nothing, and that counts too */
		if (asked >> i & 1)
			recount(FS_ROOT_INO);
	}
	recount(FS_ROOT_INO);
	place_remove(&p, FS_ROOT_INO, "base");
}

static void tell_sequence(uint64_t seq, unsigned n)
{
	for (unsigned i = 0; i < n; i++, seq /= N_OPS)
		print_message("%s ", op_name[seq % N_OPS]);
	print_message("\n");
}

static uint64_t power(uint64_t base, unsigned n)
{
	return n ? base * power(base, n - 1) : 1;
}

static bool fsck_is_clean(void);

static void every_short_sequence_counts_what_a_walk_counts(void **state)
{
	(void)state;
	for (unsigned n = 1; n <= 3; n++)
		for (uint64_t seq = 0; seq < power(N_OPS, n); seq++) {
			/* With a file to work on first: most sequences begin with one. */
			for (unsigned asked = 0; asked < 1u << (n - 1); asked++)
				run_sequence(seq, n, asked);
			if (seq % 64 == 0)
				make_room();
		}
	assert_true(fsck_is_clean());
}

/* Longer ones, some of them, with a checkpoint, a kill and a recovery somewhere in between. */
static void longer_sequences_count_over_a_kill(void **state)
{
	uint64_t mix = 88172645463325252;

	(void)state;
	for (unsigned i = 0; i < 600; i++) {
		struct place p;
		uint64_t seq[12];

		place_make(&p, FS_ROOT_INO, "base");
		for (unsigned k = 0; k < ARRAY_SIZE(seq); k++) {
			mix ^= mix << 13;
			mix ^= mix >> 7;
			mix ^= mix << 17;
			seq[k] = mix % N_OPS;
			(void)!run(&p, (enum op)seq[k]);
			if (mix >> 40 & 1)
				continue;
			if (mix >> 41 & 1)
				make_room();
			if (mix >> 42 & 1) {
				volume_reopen(&vol, mix >> 43 & 1);
				if (recount_check(vol.fs, FS_ROOT_INO, why, sizeof(why)) != 0) {
					for (unsigned j = 0; j <= k; j++)
						tell_sequence(seq[j], 1);
					fail_msg("round %u: %s", i, why);
				}
			}
		}
		recount(FS_ROOT_INO);
		place_remove(&p, FS_ROOT_INO, "base");
	}
	assert_true(fsck_is_clean());
}

/* The tree that an operation is tried on; there is a file in each directory, and one with two names. */
static void make_full(struct place *p, const char *name)
{
	place_make(p, FS_ROOT_INO, name);
	assert_int_equal(create(p->dir[C], "g"), 0);
	assert_int_equal(resize(p->dir[C], "g", 900), 0);
	assert_int_equal(create(p->dir[A], "f"), 0);
	assert_int_equal(resize(p->dir[A], "f", 5000), 0);
}

static void *checkpoint(void *fs)
{
	return (void *)(intptr_t)fs_checkpoint(fs);
}

/* Nothing waits to be folded or written: what a checkpoint does before it takes the gate is done. */
static bool all_is_written(void) NO_THREAD_SAFETY
{
	struct usage *u = vol.fs->usage;

	mutex_lock(&u->lock);
	bool done = u->n_pending == 0 && TAILQ_EMPTY(&u->dirty);
	mutex_unlock(&u->lock);
	return done;
}

/* Most totals are written before the gate is taken.  What happens between that and the gate is in the index all the same. */
static void a_checkpoint_has_what_happens_before_it_takes_the_gate(void **state) NO_THREAD_SAFETY
{
	pthread_t thread;
	struct place p;
	void *r;

	(void)state;
	make_full(&p, "base");
	mutex_lock(&vol.fs->maint); /* it waits for this in between */
	assert_int_equal(pthread_create(&thread, NULL, checkpoint, vol.fs), 0);
	while (!all_is_written())
		usleep(1000);
	assert_int_equal(resize(p.dir[A], "f", 777), 0);
	assert_int_equal(move(p.dir[A], "c", p.dir[B], "c", 0), 0);
	assert_int_equal(create(p.dir[B], "late"), 0);
	mutex_unlock(&vol.fs->maint);
	pthread_join(thread, &r);
	assert_null(r);
	volume_reopen(&vol, true);
	recount(FS_ROOT_INO);
	assert_true(fsck_is_clean());
}

/* ---- fsck and what it finds ---- */

static void tell_line(void *ctx, const char *line)
{
	(void)ctx;
	snprintf(why, sizeof(why), "%s", line);
}

static bool fsck_is_clean(void)
{
	struct fs_check_result res;

	assert_int_equal(fs_check(vol.fs, false, tell_line, NULL, &res), 0);
	if (res.structure_errors + res.accounting_errors == 0)
		return true;
	print_message("%s\n", why);
	return false;
}

static void put_row(const struct index_key *k, const void *value, size_t len)
{
	struct kv_batch b = {0};

	if (value)
		kv_batch_put(&b, key_slice(k), (struct slice){value, len});
	else
		kv_batch_delete(&b, key_slice(k));
	assert_int_equal(kv_write(vol.fs->kv, &b), 0);
	kv_batch_free(&b);
}

static void make_some(struct place *p)
{
	place_make(p, FS_ROOT_INO, "base");
	assert_int_equal(create(p->dir[A], "f"), 0);
	assert_int_equal(resize(p->dir[A], "f", 5000), 0);
	assert_int_equal(link_to(p->dir[A], "f", p->dir[B], "l"), 0);
	assert_int_equal(create(p->dir[C], "g"), 0);
	assert_int_equal(resize(p->dir[C], "g", 70), 0);
	make_room();
}

/* Each row of totals and names is changed in each of its bytes, or taken away: fsck says so, and the next mount counts again. */
static void fsck_finds_every_changed_total_and_the_next_mount_mends_it(void **state)
{
	struct place p;
	struct fs_check_result res;

	(void)state;
	make_some(&p);
	assert_true(fsck_is_clean());
	for (unsigned dir = 0; dir < N_DIRS; dir++)
		for (unsigned at = 0; at <= offsetof(struct usage_value, ctime_ns); at += at ? 8 : 1) {
			struct index_key k = key_ino(TABLE_USAGE, p.dir[dir]);
			uint8_t value[sizeof(struct usage_value)];
			size_t len;

			if (at > 1 && at % 8)
				at = 8;
			assert_int_equal(kv_get(vol.fs->kv, key_slice(&k), value, sizeof(value), &len), 0);
			value[at] ^= 1;
			/* What is in memory is taken for granted: nothing may be there. */
			volume_reopen(&vol, false);
			put_row(&k, at == 1 ? NULL : value, len);
			assert_int_equal(fs_check(vol.fs, false, tell_line, NULL, &res), 0);
			if (at != offsetof(struct usage_value, ctime_ns) && res.accounting_errors == 0)
				fail_msg("directory %u: byte %u was changed", dir, at);
			volume_reopen(&vol, false);
			assert_true(fsck_is_clean());
			recount(FS_ROOT_INO);
		}
}

static void fsck_finds_missing_names_and_the_next_mount_mends_them(void **state)
{
	struct fs_check_result res;
	struct place p;
	struct inode in;

	(void)state;
	make_some(&p);
	uint64_t ino = look_up(p.dir[A], "f");
	assert_int_equal(icache_copy(vol.fs->icache, ino, &in), 0);
	struct index_key k = key_pair(TABLE_NAME, ino, in.parent);
	be64_put(k.b + 17, in.cookie);
	k.len = 25;
	put_row(&k, NULL, 0);
	assert_int_equal(fs_check(vol.fs, false, tell_line, NULL, &res), 0);
	assert_int_not_equal(res.accounting_errors, 0);
	volume_reopen(&vol, false);
	assert_true(fsck_is_clean());
	assert_int_equal(fs_unlink(vol.fs, &root, p.dir[B], "l"), 0);
	recount(FS_ROOT_INO);
	assert_true(fsck_is_clean());
}

/* As a release that knows of no totals leaves it: the mark is missing, or names another state, and a file's primary name is gone.
 */
static void a_volume_of_another_release_is_counted_at_its_first_mount(void **state)
{
	const struct usage_mark_value other = {.version = 1, .applied_seq = le64_make(1)};
	struct index_key mark = key_ino(TABLE_USAGE, 0);

	(void)state;
	for (unsigned how = 0; how < 3; how++) {
		struct fs_usage u;
		struct place p;
		struct inode in;

		make_some(&p);
		assert_int_equal(fs_checkpoint(vol.fs), 0);
		uint64_t ino = look_up(p.dir[A], "f");
		assert_int_equal(icache_copy(vol.fs->icache, ino, &in), 0);
		if (how == 2) { /* unlinked, and not looked for another name */
			uint64_t cookie = in.cookie;

			assert_int_equal(fs_unlink(vol.fs, &root, p.dir[B], "l"), 0);
			assert_int_equal(fs_checkpoint(vol.fs), 0);
			assert_int_equal(icache_copy(vol.fs->icache, ino, &in), 0);
			assert_int_equal(in.parent, p.dir[A]);
			in.parent = p.dir[B];
			in.cookie = cookie;
			assert_int_equal(index_put_inode(vol.fs->kv, &in), 0);
		}
		put_row(&mark, how == 1 ? (const void *)&other : NULL, sizeof(other));
		/* Durable as it is, without a checkpoint of ours that would put the mark. */
		assert_int_equal(vol.fs->kv->ops->freeze(vol.fs->kv), 0);
		assert_int_equal(vol.fs->kv->ops->flush_frozen(vol.fs->kv), 0);
		volume_reopen(&vol, true);
		recount(FS_ROOT_INO);
		assert_true(fsck_is_clean());
		assert_int_equal(fs_dir_usage(vol.fs, p.dir[how == 2 ? A : B], &u), 0);
		assert_int_equal(u.bytes, how == 2 ? 5070 : 5000);
		place_remove(&p, FS_ROOT_INO, "base");
	}
}

static void a_snapshot_says_what_was_in_it(void **state)
{
	struct fs_statfs all, s;
	struct fs_usage u, live;
	struct buf text = {0};
	struct place p;
	uint64_t snap;

	(void)state;
	make_some(&p);
	assert_int_equal(set_quota(p.dir[BASE], QUOTA_BYTES, "5070"), 0);
	assert_int_equal(fs_snap_create(vol.fs, &root, "then"), 0);
	assert_int_equal(fs_unlink(vol.fs, &root, p.dir[C], "g"), 0);
	for (unsigned opened = 0; opened < 2; opened++) {
		assert_int_equal(fs_snap_root(vol.fs, "then", &snap), 0);
		uint64_t base = look_up(snap, "base"), b = look_up(base, "b");

		assert_true(base && b);
		assert_int_equal(fs_dir_usage(vol.fs, base, &u), 0);
		assert_int_equal(fs_dir_usage(vol.fs, p.dir[BASE], &live), 0);
		assert_true(u.bytes == 5070 && u.files == 2 && u.subdirs == 3);
		assert_true(live.bytes == 5000 && live.files == 1 && live.ctime_ns > u.ctime_ns);
		assert_int_equal(fs_dir_usage(vol.fs, b, &u), 0);
		assert_true(u.bytes == 5000 && u.files == 1 && u.subdirs == 0);
		assert_int_equal(fs_dir_usage(vol.fs, look_up(b, "l"), &u), -ENODATA);
		assert_int_equal(fs_set_quota(vol.fs, &root, base, QUOTA_BYTES, "1"), -EROFS);
		assert_int_equal(fs_quotas_text(vol.fs, base, &text), 0);
		fs_statfs(vol.fs, &all);
		fs_statfs_at(vol.fs, base, &s);
		assert_memory_equal(&s, &all, sizeof(s));
		volume_reopen(&vol, false);
	}
	assert_int_equal(text.len, 4);
	assert_memory_equal(text.p, "[][]", 4);
	buf_free(&text);
	recount(FS_ROOT_INO);
}

static void only_directories_have_totals(void **state)
{
	struct fs_usage u;

	(void)state;
	assert_int_equal(fs_dir_usage(vol.fs, vol.file, &u), -ENODATA);
	assert_int_equal(fs_dir_usage(vol.fs, 12345, &u), -ENOENT);
	assert_int_equal(fs_dir_usage(vol.fs, FS_ROOT_INO, &u), 0);
	assert_true(u.files == 1 && u.subdirs == 1 && u.bytes == 0);
}

/* ---- quotas ---- */

static void set_limit(uint64_t dir, enum fs_quota_kind kind, uint64_t limit)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)limit);
	assert_int_equal(set_quota(dir, kind, text), 0);
}

struct four {
	uint64_t bytes[N_DIRS], files[N_DIRS];
};

static void measure(const struct place *p, struct four *ret)
{
	for (unsigned i = 0; i < N_DIRS; i++) {
		struct fs_usage u = {0};

		if (fs_dir_usage(vol.fs, p->dir[i], &u) < 0)
			u = (struct fs_usage){0}; /* it was removed */
		ret->bytes[i] = u.bytes;
		ret->files[i] = u.files + u.subdirs;
	}
}

/*
 * Operation `op` after `prepare`, with a limit on one of the directories: of what it needs, or one less.  Without a limit it
 * takes that directory from `before` to `after`.
 */
static void try_limit(enum op prepare, enum op op, unsigned dir, enum fs_quota_kind kind, uint64_t before, uint64_t after,
		      int expected, bool enough)
{
	struct place p;
	struct four was, is;

	uint64_t limit = enough ? after : after - 1;
	if (limit == 0 || limit < before)
		return;
	make_full(&p, "try");
	(void)!run(&p, prepare);
	measure(&p, &was);
	set_limit(p.dir[dir], kind, limit);
	int r = run(&p, op);
	/* Removing a name is never refused, though what it counted with may count elsewhere from then on. */
	bool removes = op == OP_unlink_a_f || op == OP_unlink_b_l || op == OP_unlink_c_g;
	if (r != (enough || removes ? expected : -EDQUOT))
		fail_msg("%s after %s, directory %u, %s %llu of %llu: %d", op_name[op], op_name[prepare], dir,
			 kind == QUOTA_BYTES ? "bytes" : "files", (unsigned long long)limit, (unsigned long long)after, r);
	measure(&p, &is);
	if (r == -EDQUOT)
		assert_memory_equal(&was, &is, sizeof(is));
	recount(FS_ROOT_INO);
	place_remove(&p, FS_ROOT_INO, "try");
}

static void an_operation_fits_exactly_into_what_it_needs(void **state)
{
	unsigned n_refused = 0;

	(void)state;
	for (unsigned prepare = 0; prepare < N_OPS; prepare++)
		for (unsigned op = 0; op < N_OPS; op++) {
			struct place p;
			struct four before, after;

			if (op == OP_mkdir_b_c || prepare == OP_mkdir_b_c)
				continue; /* its helper asserts */
			make_full(&p, "base");
			(void)!run(&p, (enum op)prepare);
			measure(&p, &before);
			int r = run(&p, (enum op)op);
			measure(&p, &after);
			place_remove(&p, FS_ROOT_INO, "base");
			if (r < 0)
				continue;
			for (unsigned dir = 0; dir < N_DIRS; dir++)
				for (unsigned enough = 0; enough < 2; enough++) {
					if (after.bytes[dir] > before.bytes[dir])
						try_limit((enum op)prepare, (enum op)op, dir, QUOTA_BYTES, before.bytes[dir],
							  after.bytes[dir], r, enough);
					if (after.files[dir] > before.files[dir])
						try_limit((enum op)prepare, (enum op)op, dir, QUOTA_FILES, before.files[dir],
							  after.files[dir], r, enough);
					n_refused += !enough;
				}
			make_room();
		}
	assert_true(n_refused > 0);
	assert_true(fsck_is_clean());
}

static void what_moves_inside_or_shrinks_is_never_refused(void **state)
{
	struct place p;

	(void)state;
	make_full(&p, "base");
	set_limit(p.dir[BASE], QUOTA_BYTES, 1);
	set_limit(p.dir[BASE], QUOTA_FILES, 1);
	assert_int_equal(create(p.dir[A], "new"), -EDQUOT);
	assert_int_equal(resize(p.dir[A], "f", 5001), -EDQUOT);
	assert_int_equal(move(p.dir[A], "f", p.dir[B], "f", 0), 0);
	assert_int_equal(move(p.dir[A], "c", p.dir[B], "c", 0), 0);
	assert_int_equal(link_to(p.dir[B], "f", p.dir[A], "l"), 0); /* counts once */
	assert_int_equal(fs_unlink(vol.fs, &root, p.dir[A], "l"), 0);
	assert_int_equal(resize(p.dir[B], "f", 4999), 0);
	assert_int_equal(write_to(p.dir[B], "f", 0, 4999), 0);
	assert_int_equal(write_to(p.dir[B], "f", 1, 4999), -EDQUOT);
	assert_int_equal(fs_unlink(vol.fs, &root, p.dir[B], "f"), 0);
	recount(FS_ROOT_INO);
}

static void quotas_above_each_other_all_count(void **state)
{
	struct place p;

	(void)state;
	make_full(&p, "base");
	set_limit(p.dir[BASE], QUOTA_BYTES, 10000);
	set_limit(p.dir[A], QUOTA_BYTES, 8000);
	set_limit(p.dir[C], QUOTA_BYTES, 2000);
	assert_int_equal(resize(p.dir[C], "g", 2001), -EDQUOT);
	assert_int_equal(resize(p.dir[C], "g", 2000), 0);
	assert_int_equal(resize(p.dir[A], "f", 6001), -EDQUOT);
	assert_int_equal(resize(p.dir[A], "f", 6000), 0);
	assert_int_equal(create(p.dir[B], "f"), 0);
	assert_int_equal(resize(p.dir[B], "f", 2001), -EDQUOT);
	assert_int_equal(resize(p.dir[B], "f", 2000), 0);
	/* Out of A and back: what was freed there can be used, and then it does not fit any more. */
	assert_int_equal(move(p.dir[A], "c", p.dir[B], "c", 0), 0);
	assert_int_equal(resize(p.dir[A], "f", 7000), -EDQUOT); /* of BASE */
	assert_int_equal(set_quota(p.dir[BASE], QUOTA_BYTES, "none"), 0);
	assert_int_equal(resize(p.dir[A], "f", 7000), 0);
	assert_int_equal(move(p.dir[B], "c", p.dir[A], "c", 0), -EDQUOT);
	assert_int_equal(resize(p.dir[A], "f", 6000), 0);
	assert_int_equal(move(p.dir[B], "c", p.dir[A], "c", 0), 0);
	assert_int_equal(resize(p.dir[C], "g", 2001), -EDQUOT);
	recount(FS_ROOT_INO);
}

/* What one operation holds another cannot have, at any quota above, until the first one ends. */
static void what_is_claimed_is_nobody_elses(void **state)
{
	struct place p;

	(void)state;
	place_make(&p, FS_ROOT_INO, "base");
	set_limit(p.dir[BASE], QUOTA_BYTES, 100);
	set_limit(p.dir[A], QUOTA_BYTES, 80);
	set_limit(p.dir[A], QUOTA_FILES, 3); /* C is one */
	for (unsigned round = 0; round < 3; round++) {
		struct quota_claim first = {0}, second = {0}, third = {0}, files = {0}, none = {0};

		claim_add(&first, p.dir[C], 60, 1);
		claim_add(&second, p.dir[A], 21, 0);
		claim_add(&third, p.dir[B], 41, 0);
		claim_add(&files, p.dir[A], 0, 2);
		assert_int_equal(claim_take(vol.fs, &first), 0);
		assert_int_equal(claim_take(vol.fs, &second), -EDQUOT);
		assert_int_equal(claim_take(vol.fs, &third), -EDQUOT);
		assert_int_equal(claim_take(vol.fs, &files), -EDQUOT);
		third.want[0].bytes = 40;
		assert_int_equal(claim_take(vol.fs, &third), 0);
		second.want[0].bytes = 1;
		assert_int_equal(claim_take(vol.fs, &second), -EDQUOT); /* of BASE */
		claim_add(&none, p.dir[A], -5, -1);
		claim_add(&none, p.dir[C], 5, 1);
		assert_int_equal(claim_take(vol.fs, &none), 0); /* together they need nothing */
		claim_end(vol.fs, &none);
		claim_end(vol.fs, &first);
		assert_int_equal(claim_take(vol.fs, &files), 0);
		claim_end(vol.fs, &files);
		claim_end(vol.fs, &third);
	}
}

static void count_quota(void *ctx, const struct fs_quota *q)
{
	(void)q;
	++*(unsigned *)ctx;
}

static void quotas_outlive_kills_and_removed_directories(void **state)
{
	unsigned n_quotas = 0;
	struct place p;

	(void)state;
	make_full(&p, "base");
	set_limit(p.dir[A], QUOTA_BYTES, 8000);
	set_limit(p.dir[B], QUOTA_FILES, 2);
	for (unsigned killed = 0; killed < 2; killed++) {
		volume_reopen(&vol, killed);
		assert_int_equal(resize(p.dir[A], "f", 7101), -EDQUOT);
		assert_int_equal(resize(p.dir[A], "f", 7100), 0);
		assert_int_equal(create(p.dir[B], killed ? "y" : "x"), 0);
		assert_int_equal(resize(p.dir[A], "f", 7000), 0);
	}
	assert_int_equal(create(p.dir[B], "z"), -EDQUOT);
	remove_below(p.dir[B]);
	assert_int_equal(fs_rmdir(vol.fs, &root, p.dir[BASE], "b"), 0);
	assert_int_equal(create(p.dir[BASE], "z"), 0); /* the list is made while the removed one still has its policies */
	assert_int_equal(fs_quotas_each(vol.fs, count_quota, &n_quotas), 0);
	assert_int_equal(n_quotas, 1);
	steps_reap(vol.fs);
	assert_int_equal(create(p.dir[BASE], "z2"), 0);
	recount(FS_ROOT_INO);
	assert_true(fsck_is_clean());
}

static void limits_are_read_as_they_are_meant(void **state)
{
	static const struct {
		const char *text;
		enum fs_quota_kind kind;
		int result;
		const char *kept;
	} cases[] = {
	    {"1", QUOTA_BYTES, 0, "1"},
	    {"10K", QUOTA_BYTES, 0, "10240"},
	    {"3m", QUOTA_BYTES, 0, "3145728"},
	    {"2G", QUOTA_BYTES, 0, "2147483648"},
	    {"1T", QUOTA_BYTES, 0, "1099511627776"},
	    {"1P", QUOTA_BYTES, 0, "1125899906842624"},
	    {"9223372036854775807", QUOTA_BYTES, 0, "9223372036854775807"},
	    {"9223372036854775808", QUOTA_BYTES, -ERANGE, NULL},
	    {"99999999999999999999", QUOTA_BYTES, -ERANGE, NULL},
	    {"9007199254740992K", QUOTA_BYTES, -ERANGE, NULL},
	    {"99999999P", QUOTA_BYTES, -ERANGE, NULL},
	    {"0", QUOTA_BYTES, -EINVAL, NULL},
	    {"0K", QUOTA_BYTES, -EINVAL, NULL},
	    {"", QUOTA_BYTES, -EINVAL, NULL},
	    {"-1", QUOTA_BYTES, -EINVAL, NULL},
	    {"1.5G", QUOTA_BYTES, -EINVAL, NULL},
	    {"1 G", QUOTA_BYTES, -EINVAL, NULL},
	    {"1KB", QUOTA_BYTES, -EINVAL, NULL},
	    {"K", QUOTA_BYTES, -EINVAL, NULL},
	    {"12", QUOTA_FILES, 0, "12"},
	    {"12K", QUOTA_FILES, -EINVAL, NULL},
	    {"none", QUOTA_FILES, 0, NULL},
	    {"none", QUOTA_BYTES, 0, NULL},
	};
	char value[FS_POLICY_MAX + 1];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *key = cases[i].kind == QUOTA_BYTES ? "quota.max_bytes" : "quota.max_files";

		assert_int_equal(set_quota(vol.dir, cases[i].kind, "none"), 0);
		if (set_quota(vol.dir, cases[i].kind, cases[i].text) != cases[i].result)
			fail_msg("\"%s\"", cases[i].text);
		int r = fs_get_policy(vol.fs, vol.dir, key, false, value);
		assert_int_equal(r, cases[i].kept ? 0 : -ENODATA);
		if (cases[i].kept)
			assert_string_equal(value, cases[i].kept);
	}
	assert_int_equal(set_quota(vol.dir, QUOTA_BYTES, NULL), -ENODATA);
	assert_int_equal(set_quota(vol.file, QUOTA_BYTES, "1"), -ENOTDIR);
	/* Past the reading of text, as a record from elsewhere would: only digits are a policy. */
	assert_int_equal(fs_set_policy(vol.fs, &root, vol.dir, "quota.max_bytes", "1K"), -EINVAL);
	assert_int_equal(fs_set_policy(vol.fs, &root, vol.dir, "quota.max_bytes", "0"), -EINVAL);
	assert_int_equal(fs_set_policy(vol.fs, &root, vol.dir, "quota.max_inodes", "1"), -EOPNOTSUPP);
}

static void df_shows_the_nearest_end(void **state)
{
	struct fs_statfs all, s;
	struct place p;

	(void)state;
	make_full(&p, "base");
	fs_statfs(vol.fs, &all);
	fs_statfs_at(vol.fs, p.dir[A], &s);
	assert_memory_equal(&s, &all, sizeof(s));
	set_limit(p.dir[BASE], QUOTA_BYTES, 10 * BLOCK_SIZE);
	set_limit(p.dir[A], QUOTA_BYTES, 100 * BLOCK_SIZE);
	set_limit(p.dir[A], QUOTA_FILES, 7);
	fs_statfs_at(vol.fs, p.dir[C], &s); /* 5900 bytes are two blocks; BASE is the nearer end */
	assert_true(s.total_blocks == 10 && s.free_blocks == 8);
	assert_true(s.files == 7 && s.free_files == 4);
	fs_statfs_at(vol.fs, look_up(p.dir[A], "f"), &s);
	assert_true(s.total_blocks == 10 && s.free_blocks == 8);
	fs_statfs_at(vol.fs, p.dir[B], &s);
	assert_true(s.total_blocks == 10 && s.free_blocks == 8 && s.files == all.files);
	set_limit(p.dir[BASE], QUOTA_BYTES, BLOCK_SIZE); /* beyond it already */
	fs_statfs_at(vol.fs, p.dir[B], &s);
	assert_true(s.total_blocks == 2 && s.free_blocks == 0);
	fs_statfs_at(vol.fs, FS_ROOT_INO, &s);
	assert_true(s.total_blocks == all.total_blocks);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, make_volume, free_volume)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(every_short_sequence_counts_what_a_walk_counts),
	    CASE(longer_sequences_count_over_a_kill),
	    CASE(a_checkpoint_has_what_happens_before_it_takes_the_gate),
	    CASE(fsck_finds_every_changed_total_and_the_next_mount_mends_it),
	    CASE(fsck_finds_missing_names_and_the_next_mount_mends_them),
	    CASE(a_volume_of_another_release_is_counted_at_its_first_mount),
	    CASE(a_snapshot_says_what_was_in_it),
	    CASE(only_directories_have_totals),
	    CASE(an_operation_fits_exactly_into_what_it_needs),
	    CASE(what_moves_inside_or_shrinks_is_never_refused),
	    CASE(quotas_above_each_other_all_count),
	    CASE(what_is_claimed_is_nobody_elses),
	    CASE(quotas_outlive_kills_and_removed_directories),
	    CASE(limits_are_read_as_they_are_meant),
	    CASE(df_shows_the_nearest_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
