/*
 * test_share: which blocks are in use after files were cloned, changed, cut and removed, against a model by enumeration; what
 * becomes of each kind of block; what fsck says of wrong counts; and threads that clone and let go of the same blocks.
 *
 * The model knows blocks, not counts: each slot has a token, a clone of what is at home has the same one, a clone of what is
 * still in the journal gets one of its own.  As many tokens as somebody has, so many blocks are in use.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/share/share.h"
#include "fs/core/snap/snap.h"
#include "memstore.h"
#include "tempdir.h"
#include "tests/lib/cold.h"
#include "tests/lib/rng.h"
#include "volume.h"

#define OK(call) assert_int_equal(call, 0)

static void fsck_line(void *ctx, const char *line)
{
	(void)ctx;
	print_message("%s\n", line);
}

static uint64_t fsck(struct fs *fs)
{
	struct fs_check_result c;

	OK(fs_check(fs, true, fsck_line, NULL, &c));
	assert_int_equal(c.damaged_blocks, 0);
	return c.structure_errors + c.accounting_errors;
}

static void home_all(struct fs *fs)
{
	bool more = true;

	OK(journal_commit_all(fs->journal, NULL));
	while (more)
		OK(fs_home_step(fs, 64, &more));
}

static void reap_all(struct fs *fs)
{
	bool more = true;

	while (more)
		OK(fs_reap_step(fs, &more));
}

static void free_snapshots(struct fs *fs)
{
	bool more = true;

	while (more)
		OK(fs_snap_step(fs, &more));
}

static uint64_t used(struct fs *fs)
{
	struct arena_status as;

	arena_get_status(fs->arena, &as);
	return as.used_blocks;
}

static uint64_t reserved(struct fs *fs)
{
	struct arena_status as;

	arena_get_status(fs->arena, &as);
	return as.reserved_blocks;
}

static uint64_t count_rows(struct fs *fs)
{
	static const uint8_t first[] = {TABLE_SHARED};
	struct kv_iter *it;
	uint64_t n = 0;

	OK(fs->kv->ops->iter_open(fs->kv, &it));
	for (fs->kv->ops->iter_seek(it, (struct slice){first, 1}); fs->kv->ops->iter_valid(it); fs->kv->ops->iter_next(it)) {
		if (*(const uint8_t *)fs->kv->ops->iter_key(it).p != TABLE_SHARED)
			break;
		n++;
	}
	fs->kv->ops->iter_close(it);
	return n;
}

static uint64_t make_file(struct fs *fs, const char *name)
{
	struct fs_attr a;

	OK(fs_mknod(fs, &root, FS_ROOT_INO, name, S_IFREG | 0644, 0, &a));
	fs_forget(fs, a.ino, 1);
	return a.ino;
}

/* All of it, in as many calls as it takes. */
static void copy(struct fs *fs, uint64_t from, uint64_t from_off, uint64_t to, uint64_t to_off, uint64_t len)
{
	size_t n;

	for (uint64_t done = 0; done < len; done += n) {
		OK(fs_copy_range(fs, &root, from, from_off + done, to, to_off + done, len - done, &n));
		assert_true(n > 0 && n <= len - done);
	}
}

static int much_space(struct store *s, uint64_t *ret_free, uint64_t *ret_total)
{
	(void)s;
	*ret_free = *ret_total = 100 * GIB;
	return 0;
}

struct bench {
	struct volume v;
	struct memstore store;
	struct fs *fs;
	uint64_t base; /* blocks in use with nothing in it */
};

static void bench_open(struct bench *b)
{
	static struct store_ops ops;

	memset(b, 0, sizeof(*b));
	memstore_init(&b->store);
	ops = *b->store.base.ops;
	ops.space = much_space;
	b->store.base.ops = &ops;
	volume_make(&b->v, &b->store.base, NULL);
	b->fs = b->v.fs;
	home_all(b->fs);
	b->base = used(b->fs);
}

static void bench_close(struct bench *b)
{
	OK(fs_close(b->v.fs));
	kv_disk_free(b->v.index);
	memstore_free(&b->store);
}

/* ---- every history of two files of two blocks ---- */

#define SLOTS     2u
#define SNAPS_CAP 8u

struct token {
	unsigned id; /* block; 0: a hole */
	unsigned content;
	bool staged;
};
struct state {
	struct token slot[2][SLOTS];
};
struct history {
	struct bench b;
	uint64_t ino[2];
	struct state live, snap[SNAPS_CAP];
	unsigned name[SNAPS_CAP], n_snaps, n_names, n_ids;
	unsigned long n_checks;
};

enum letter {
	WRITE_A0,
	WRITE_B1,
	CLONE_AB,
	CLONE_BA,
	CLONE_A01,
	CUT_A,
	PUNCH_B1,
	ZERO_A1,
	HOME,
	SNAP,
	DROP,
	CHECKPOINT,
	LETTERS
};
static const char letter_names[] = "01<>scpzhnok"; /* in the order above */

static char said[16];
#define SAME(got, want)                                                                                                          \
	do {                                                                                                                     \
		unsigned long long got_ = (got), want_ = (want);                                                                 \
		if (got_ != want_)                                                                                               \
			fail_msg("after \"%s\": %s is %llu, expected %llu", said, #got, got_, want_);                            \
	} while (0)

static void write_slot(struct history *h, unsigned file, unsigned slot)
{
	uint8_t block[BLOCK_SIZE] = {0};
	struct token *t = &h->live.slot[file][slot];

	*t = (struct token){.id = ++h->n_ids, .content = h->n_ids, .staged = true};
	memcpy(block, &t->content, sizeof(t->content));
	OK(fs_write(h->b.fs, &root, h->ino[file], slot * BLOCK_SIZE, sizeof(block), block, false));
}

static struct token cloned(struct history *h, struct token t)
{
	if (t.staged)
		t.id = ++h->n_ids;
	return t;
}

/* Both blocks of a file; what the other one has beyond its end stays. */
static void clone_all(struct history *h, unsigned from, unsigned to)
{
	struct fs_attr a;

	OK(fs_getattr(h->b.fs, h->ino[from], &a));
	copy(h->b.fs, h->ino[from], 0, h->ino[to], 0, a.size);
	for (unsigned i = 0; i < a.size / BLOCK_SIZE; i++)
		h->live.slot[to][i] = cloned(h, h->live.slot[from][i]);
}

static bool clone_within(struct history *h)
{
	struct fs_attr a;

	OK(fs_getattr(h->b.fs, h->ino[0], &a));
	if (a.size == 0)
		return false;
	copy(h->b.fs, h->ino[0], 0, h->ino[0], BLOCK_SIZE, BLOCK_SIZE);
	h->live.slot[0][1] = cloned(h, h->live.slot[0][0]);
	return true;
}

static void set_size(struct fs *fs, uint64_t ino, uint64_t size)
{
	const struct record_attr a = {.mask = ATTR_SIZE, .size = size};
	struct fs_attr now;

	OK(fs_setattr(fs, &root, ino, &a, &now));
}

static void name_of(unsigned number, char ret[16])
{
	snprintf(ret, 16, "s%u", number);
}

static void drop_oldest(struct history *h)
{
	char name[16];

	name_of(h->name[0], name);
	OK(fs_snap_delete(h->b.fs, &root, name));
	h->n_snaps--;
	memmove(&h->snap[0], &h->snap[1], h->n_snaps * sizeof(h->snap[0]));
	memmove(&h->name[0], &h->name[1], h->n_snaps * sizeof(h->name[0]));
}

static void all_home(struct history *h)
{
	home_all(h->b.fs);
	for (unsigned f = 0; f < 2; f++)
		for (unsigned i = 0; i < SLOTS; i++)
			h->live.slot[f][i].staged = false;
}

static void snapshot(struct history *h)
{
	char name[16];

	name_of(++h->n_names, name);
	OK(fs_snap_create(h->b.fs, &root, name));
	all_home(h);
	h->name[h->n_snaps] = h->n_names;
	h->snap[h->n_snaps++] = h->live;
}

/* False when there is nothing to do it with. */
static bool act(struct history *h, enum letter a)
{
	switch (a) {
	case WRITE_A0:
	case WRITE_B1:
		write_slot(h, a == WRITE_B1, a == WRITE_B1);
		return true;
	case CLONE_AB:
	case CLONE_BA:
		clone_all(h, a == CLONE_BA, a == CLONE_AB);
		return true;
	case CLONE_A01:
		return clone_within(h);
	case CUT_A:
		set_size(h->b.fs, h->ino[0], 0);
		memset(h->live.slot[0], 0, sizeof(h->live.slot[0]));
		return true;
	case PUNCH_B1:
		OK(fs_fallocate(h->b.fs, &root, h->ino[1], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, BLOCK_SIZE, BLOCK_SIZE));
		h->live.slot[1][1] = (struct token){0};
		return true;
	case ZERO_A1: /* and no space left promised */
		OK(fs_fallocate(h->b.fs, &root, h->ino[0], FALLOC_FL_ZERO_RANGE, BLOCK_SIZE, BLOCK_SIZE));
		OK(fs_fallocate(h->b.fs, &root, h->ino[0], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, BLOCK_SIZE, BLOCK_SIZE));
		h->live.slot[0][1] = (struct token){0};
		return true;
	case HOME:
		all_home(h);
		return true;
	case SNAP:
		snapshot(h);
		return true;
	case DROP:
		if (h->n_snaps)
			drop_oldest(h);
		return h->n_snaps > 0;
	case CHECKPOINT:
		OK(fs_checkpoint(h->b.fs));
		return true;
	case LETTERS:
		break;
	}
	return false;
}

static bool has(const struct state *s, unsigned id)
{
	for (unsigned f = 0; f < 2; f++)
		for (unsigned i = 0; i < SLOTS; i++)
			if (s->slot[f][i].id == id)
				return true;
	return false;
}

static uint64_t tokens(const struct history *h)
{
	uint64_t n = 0;

	for (unsigned id = 1; id <= h->n_ids; id++) {
		bool any = has(&h->live, id);

		for (unsigned i = 0; i < h->n_snaps; i++)
			any |= has(&h->snap[i], id);
		n += any;
	}
	return n;
}

static uint64_t shared_tokens(const struct history *h)
{
	uint64_t n = 0;

	for (unsigned id = 1; id <= h->n_ids; id++) {
		unsigned refs = 0;

		for (unsigned k = 0; k < 2 * SLOTS; k++)
			refs += h->live.slot[k / SLOTS][k % SLOTS].id == id;
		n += refs > 1;
	}
	return n;
}

static void check_content(struct history *h, unsigned file)
{
	_Alignas(DISK_BLOCK) uint8_t room[(SLOTS + 2) * BLOCK_SIZE];
	void *at;
	size_t len;

	OK(fs_read(h->b.fs, h->ino[file], 0, SLOTS * BLOCK_SIZE, room, &at, &len));
	for (unsigned i = 0; i < SLOTS; i++) {
		unsigned got = 0;

		if (len >= (i + 1) * BLOCK_SIZE)
			memcpy(&got, (uint8_t *)at + i * BLOCK_SIZE, sizeof(got));
		SAME(got, h->live.slot[file][i].content);
	}
}

static void check(struct history *h)
{
	all_home(h);
	free_snapshots(h->b.fs);
	SAME(used(h->b.fs), h->b.base + tokens(h));
	SAME(reserved(h->b.fs), 0);
	SAME(count_rows(h->b.fs), shared_tokens(h));
	check_content(h, 0);
	check_content(h, 1);
	if (++h->n_checks % 32 == 0)
		SAME(fsck(h->b.fs), 0);
}

static void start_over(struct history *h)
{
	while (h->n_snaps)
		drop_oldest(h);
	set_size(h->b.fs, h->ino[0], 0);
	set_size(h->b.fs, h->ino[1], 0);
	memset(&h->live, 0, sizeof(h->live));
	check(h);
	OK(fs_checkpoint(h->b.fs));
	h->n_ids = 0;
}

static void every_word(struct history *h, const enum letter *letters, unsigned n_letters, unsigned n)
{
	unsigned long words = 1;

	for (unsigned i = 0; i < n; i++)
		words *= n_letters;
	for (unsigned long w = 0; w < words; w++) {
		unsigned long rest = w;
		bool done = true;

		memset(said, 0, sizeof(said));
		for (unsigned i = 0; i < n && done; i++, rest /= n_letters) {
			said[i] = letter_names[letters[rest % n_letters]];
			done = act(h, letters[rest % n_letters]);
		}
		if (done)
			check(h);
		start_over(h);
	}
}

static void each_history_leaves_the_blocks_that_somebody_has(void **state)
{
	static const enum letter all[] = {WRITE_A0, WRITE_B1, CLONE_AB, CLONE_BA, CLONE_A01,  CUT_A,
					  PUNCH_B1, ZERO_A1,  HOME,     SNAP,     CHECKPOINT, DROP},
				 few[] = {WRITE_A0, CLONE_AB, CLONE_A01, CUT_A, HOME}, snaps[] = {WRITE_A0, CLONE_AB, SNAP, DROP};
	struct history *h = calloc(1, sizeof(*h));

	(void)state;
	bench_open(&h->b);
	h->ino[0] = make_file(h->b.fs, "a");
	h->ino[1] = make_file(h->b.fs, "b");
	for (unsigned n = 1; n <= 4; n++)
		every_word(h, all, ARRAY_SIZE(all), n);
	every_word(h, few, ARRAY_SIZE(few), 6);
	every_word(h, snaps, ARRAY_SIZE(snaps), 6);
	assert_true(h->n_checks > 20000);
	SAME(fsck(h->b.fs), 0);
	bench_close(&h->b);
	free(h);
}

/* ---- each kind of block, in ranges over leaves, and what then becomes of either side ---- */

#define BLOCKS 72u
enum kind { HOLE, UNWRITTEN, STAGED, HOMED, REWRITTEN, KINDS };

struct image {
	uint64_t size;
	uint8_t byte[BLOCKS]; /* that fills the block */
};

static void fill(struct fs *fs, uint64_t ino, unsigned block, uint8_t byte, struct image *im)
{
	uint8_t p[BLOCK_SIZE];

	memset(p, byte, sizeof(p));
	OK(fs_write(fs, &root, ino, (uint64_t)block * BLOCK_SIZE, sizeof(p), p, false));
	im->byte[block] = byte;
	im->size = max_u64(im->size, (block + 1) * (uint64_t)BLOCK_SIZE);
}

/* Runs of one, two and three blocks of each kind in turn; the last one is there. */
static enum kind kind_of(unsigned block)
{
	return (enum kind)(block / (1 + block / 24) % KINDS);
}

static void make_source(struct fs *fs, uint64_t ino, struct image *im)
{
	memset(im, 0, sizeof(*im));
	for (unsigned i = 0; i < BLOCKS; i++)
		if (kind_of(i) == HOMED || kind_of(i) == REWRITTEN)
			fill(fs, ino, i, (uint8_t)(i + 1), im);
	home_all(fs);
	for (unsigned i = 0; i < BLOCKS; i++) {
		if (kind_of(i) == STAGED || kind_of(i) == REWRITTEN)
			fill(fs, ino, i, (uint8_t)(i + 101), im);
		if (kind_of(i) == UNWRITTEN)
			OK(fs_fallocate(fs, &root, ino, FALLOC_FL_KEEP_SIZE, (uint64_t)i * BLOCK_SIZE, BLOCK_SIZE));
	}
	set_size(fs, ino, BLOCKS * BLOCK_SIZE);
	im->size = BLOCKS * BLOCK_SIZE;
}

static void check_image(struct fs *fs, uint64_t ino, const struct image *im)
{
	_Alignas(DISK_BLOCK) uint8_t room[3 * BLOCK_SIZE], want[BLOCK_SIZE];
	struct fs_attr a;
	void *at;
	size_t len;

	OK(fs_getattr(fs, ino, &a));
	assert_int_equal(a.size, im->size);
	for (unsigned i = 0; i * BLOCK_SIZE < im->size; i++) {
		OK(fs_read(fs, ino, (uint64_t)i * BLOCK_SIZE, BLOCK_SIZE, room, &at, &len));
		memset(want, im->byte[i], sizeof(want));
		assert_memory_equal(at, want, len);
	}
}

enum after { NOTHING, OVERWRITE, OVERWRITE_MUCH, TRUNCATE, PUNCH, UNLINK, AFTERS };

/* What one side does. */
static void change(struct fs *fs, const char *name, uint64_t *ino, enum after a, struct image *im)
{
	static uint8_t much[40 * BLOCK_SIZE];

	switch (a) {
	case OVERWRITE:
		for (unsigned i = 3; i < 50; i += 4)
			fill(fs, *ino, i, 200, im);
		break;
	case OVERWRITE_MUCH: /* straight to the arena */
		memset(much, 222, sizeof(much));
		OK(fs_write(fs, &root, *ino, 5 * BLOCK_SIZE, sizeof(much), much, false));
		memset(im->byte + 5, 222, 40);
		im->size = max_u64(im->size, 45 * BLOCK_SIZE);
		break;
	case TRUNCATE:
		set_size(fs, *ino, 21 * BLOCK_SIZE);
		memset(im->byte + 21, 0, BLOCKS - 21);
		im->size = 21 * BLOCK_SIZE;
		break;
	case PUNCH:
		OK(fs_fallocate(fs, &root, *ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * BLOCK_SIZE, 30 * BLOCK_SIZE));
		memset(im->byte + 2, 0, 30);
		break;
	case UNLINK:
		OK(fs_unlink(fs, &root, FS_ROOT_INO, name));
		reap_all(fs);
		*ino = 0;
		break;
	case NOTHING:
	case AFTERS:
		break;
	}
}

struct pair {
	struct fs *fs;
	uint64_t ino[2];
	struct image im[2];
};
static const char *const names[] = {"a", "b"};

static void check_pair(struct pair *p)
{
	for (unsigned i = 0; i < 2; i++)
		if (p->ino[i])
			check_image(p->fs, p->ino[i], &p->im[i]);
}

static void one_pair(struct fs *fs, unsigned from, unsigned to, unsigned n, enum after x, enum after y, unsigned order)
{
	const enum after what[] = {x, y};
	struct pair p = {.fs = fs};

	p.ino[0] = make_file(fs, "a");
	p.ino[1] = make_file(fs, "b");
	make_source(fs, p.ino[0], &p.im[0]);
	fill(fs, p.ino[1], to, 250, &p.im[1]); /* goes */
	copy(fs, p.ino[0], (uint64_t)from * BLOCK_SIZE, p.ino[1], (uint64_t)to * BLOCK_SIZE, (uint64_t)n * BLOCK_SIZE);
	memcpy(p.im[1].byte + to, p.im[0].byte + from, n);
	p.im[1].size = (to + n) * (uint64_t)BLOCK_SIZE;
	check_pair(&p);
	for (unsigned k = 0; k < 2; k++) {
		unsigned i = k ^ order;

		change(fs, names[i], &p.ino[i], what[i], &p.im[i]);
		check_pair(&p);
		if (n % 2)
			home_all(fs);
	}
	home_all(fs);
	check_pair(&p);
	for (unsigned i = 0; i < 2; i++)
		change(fs, names[i], &p.ino[i], p.ino[i] ? UNLINK : NOTHING, &p.im[i]);
}

static void either_side_may_do_as_it_likes(void **state)
{
	static const unsigned ranges[][3] = {{0, 0, 72}, {0, 3, 65}, {7, 0, 50}, {16, 32, 33}, {5, 5, 1}, {15, 17, 18}};
	struct bench b;
	unsigned n = 0;

	(void)state;
	bench_open(&b);
	for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++)
		for (unsigned x = 0; x < AFTERS * AFTERS * 2; x++, n++) {
			one_pair(b.fs, ranges[i][0], ranges[i][1], ranges[i][2], x / 2 / AFTERS, x / 2 % AFTERS, x % 2);
			home_all(b.fs);
			assert_int_equal(used(b.fs), b.base);
			assert_int_equal(reserved(b.fs), 0);
			assert_int_equal(count_rows(b.fs), 0);
			if (n % 16 == 0)
				assert_int_equal(fsck(b.fs), 0);
			OK(fs_checkpoint(b.fs));
		}
	bench_close(&b);
}

/* ---- the rest ---- */

static void a_clone_takes_no_space_and_its_last_block_need_not_be_whole(void **state)
{
	static const uint64_t sizes[] = {1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 300 * KIB + 17, 20 * MIB + 5};
	uint8_t *p = malloc(MIB);
	struct bench b;

	(void)state;
	bench_open(&b);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint64_t from = make_file(b.fs, "a"), to = make_file(b.fs, "b");
		struct fs_attr a;

		for (uint64_t at = 0; at < sizes[i]; at += MIB) {
			memset(p, (int)(at / MIB) + 1, MIB);
			OK(fs_write(b.fs, &root, from, at, min_u64(MIB, sizes[i] - at), p, false));
		}
		home_all(b.fs);
		uint64_t was = used(b.fs);
		copy(b.fs, from, 0, to, 0, sizes[i]);
		home_all(b.fs);
		assert_int_equal(used(b.fs), was);
		OK(fs_getattr(b.fs, to, &a));
		assert_int_equal(a.size, sizes[i]);
		assert_int_equal(a.blocks_512, div_round_up(sizes[i], BLOCK_SIZE) * (BLOCK_SIZE / 512));
		assert_int_equal(fsck(b.fs), 0);
		/* Bytes behind the end of a file were and are zeros. */
		set_size(b.fs, to, sizes[i] + 100);
		void *at;
		size_t len;
		_Alignas(DISK_BLOCK) uint8_t room[4 * BLOCK_SIZE];
		OK(fs_read(b.fs, to, sizes[i], 100, room, &at, &len));
		for (unsigned k = 0; k < len; k++)
			assert_int_equal(((uint8_t *)at)[k], 0);
		OK(fs_unlink(b.fs, &root, FS_ROOT_INO, "a"));
		OK(fs_unlink(b.fs, &root, FS_ROOT_INO, "b"));
		reap_all(b.fs);
		OK(fs_checkpoint(b.fs));
	}
	bench_close(&b);
	free(p);
}

static void what_waits_in_the_journal_comes_home_first_when_it_is_much(void **state)
{
	uint8_t p[BLOCK_SIZE] = {1};
	struct bench b;

	(void)state;
	bench_open(&b);
	uint64_t from = make_file(b.fs, "a"), to = make_file(b.fs, "b");
	for (unsigned i = 0; i < 40; i++)
		OK(fs_write(b.fs, &root, from, i * BLOCK_SIZE, sizeof(p), p, false));
	copy(b.fs, from, 0, to, 0, 40 * BLOCK_SIZE);
	home_all(b.fs);
	assert_int_equal(used(b.fs), b.base + 40);
	for (unsigned i = 0; i < 7; i++)
		OK(fs_write(b.fs, &root, from, i * BLOCK_SIZE, sizeof(p), p, false));
	copy(b.fs, from, 0, to, 0, 40 * BLOCK_SIZE);
	assert_int_equal(reserved(b.fs), 14);
	home_all(b.fs);
	assert_int_equal(used(b.fs), b.base + 47);
	copy(b.fs, from, 0, to, 0, 40 * BLOCK_SIZE); /* once more: now they are the same again */
	assert_int_equal(used(b.fs), b.base + 40);
	assert_int_equal(fsck(b.fs), 0);
	bench_close(&b);
}

static void while_a_view_is_open_copies_are_written(void **state)
{
	static uint8_t p[100 * KIB];
	struct bench b;

	(void)state;
	bench_open(&b);
	uint64_t from = make_file(b.fs, "a"), to = make_file(b.fs, "b");
	OK(fs_write(b.fs, &root, from, 0, sizeof(p), p, false));
	home_all(b.fs);
	struct replica_volume *v = fs_replica(b.fs);
	struct replica_view_info info;
	struct replica_view *view;
	OK(v->ops->view_open(v, &view, &info));
	copy(b.fs, from, 0, to, 0, sizeof(p));
	home_all(b.fs);
	assert_int_equal(used(b.fs), b.base + 50);
	v->ops->view_close(view);
	copy(b.fs, from, 0, to, 0, sizeof(p));
	assert_int_equal(used(b.fs), b.base + 25);
	bench_close(&b);
}

static void ranges_that_cannot_be_are_refused(void **state)
{
	uint8_t p[3 * BLOCK_SIZE] = {1};
	struct bench b;
	struct fs_attr dir;
	size_t n;

	(void)state;
	bench_open(&b);
	uint64_t ino = make_file(b.fs, "a");
	OK(fs_mknod(b.fs, &root, FS_ROOT_INO, "d", S_IFDIR | 0755, 0, &dir));
	OK(fs_write(b.fs, &root, ino, 0, sizeof(p), p, false));
#define REFUSED(error, ...) assert_int_equal(fs_copy_range(b.fs, &root, __VA_ARGS__, &n), -(error))
	REFUSED(EINVAL, ino, 0, ino, BLOCK_SIZE, 2 * BLOCK_SIZE);
	REFUSED(EINVAL, ino, BLOCK_SIZE, ino, 0, BLOCK_SIZE + 1);
	REFUSED(EFBIG, ino, 0, ino, FILE_SIZE_MAX - BLOCK_SIZE + 1, BLOCK_SIZE);
	REFUSED(EISDIR, dir.ino, 0, ino, 0, BLOCK_SIZE);
	REFUSED(EISDIR, ino, 0, dir.ino, 0, BLOCK_SIZE);
	REFUSED(ENOENT, ino + 1000, 0, ino, 0, BLOCK_SIZE);
#undef REFUSED
	OK(fs_copy_range(b.fs, &root, ino, sizeof(p), ino, 8 * BLOCK_SIZE, 5, &n)); /* behind the end */
	assert_int_equal(n, 0);
	OK(fs_copy_range(b.fs, &root, ino, 0, ino, 8 * BLOCK_SIZE, 0, &n));
	assert_int_equal(n, 0);
	OK(fs_copy_range(b.fs, &root, ino, BLOCK_SIZE, ino, 0, BLOCK_SIZE, &n)); /* side by side */
	assert_int_equal(n, BLOCK_SIZE);
	bench_close(&b);
}

static void overwriting_a_shared_block_needs_space_at_once(void **state)
{
	static uint8_t p[MIB];
	struct volume v = {.sim = simstore_new()};
	int r = 0;

	(void)state;
	volume_make(&v, simstore_open(v.sim), NULL);
	uint64_t from = make_file(v.fs, "a"), to = make_file(v.fs, "b");
	OK(fs_write(v.fs, &root, from, 0, sizeof(p), p, false));
	copy(v.fs, from, 0, to, 0, sizeof(p));
	struct arena_status as;
	arena_get_status(v.fs->arena, &as);
	/* Nothing is left: */
	uint64_t left = as.total_blocks - as.used_blocks - as.reserved_blocks + as.growable_blocks;
	while (left > 0 && (r = arena_reserve(v.fs->arena, left)) == -ENOSPC)
		left--;
	OK(r);
	assert_int_equal(fs_write(v.fs, &root, to, 0, BLOCK_SIZE, p, false), -ENOSPC);
	assert_int_equal(fs_write(v.fs, &root, from, 0, BLOCK_SIZE, p, false), -ENOSPC);
	copy(v.fs, from, 0, v.file, 0, sizeof(p)); /* takes none */
	OK(fs_unlink(v.fs, &root, FS_ROOT_INO, "b"));
	reap_all(v.fs);
	assert_int_equal(fs_write(v.fs, &root, from, 0, BLOCK_SIZE, p, false), -ENOSPC); /* v.file has them */
	set_size(v.fs, v.file, 0);
	OK(fs_write(v.fs, &root, from, 0, BLOCK_SIZE, p, false)); /* its own again */
	arena_unreserve(v.fs->arena, left);
	home_all(v.fs);
	assert_int_equal(fsck(v.fs), 0);
	volume_close(&v);
}

static struct index_key row_of(struct fs *fs, uint64_t ino)
{
	struct leaf l;

	OK(extent_get(fs, ino, 0, &l));
	return key_ino(TABLE_SHARED, l.slot[0].home);
}

static void put_row(struct fs *fs, const struct index_key *k, uint32_t n, size_t len)
{
	struct kv_batch b = {0};
	le32 value = le32_make(n);

	if (len)
		kv_batch_put(&b, key_slice(k), (struct slice){&value, len});
	else
		kv_batch_delete(&b, key_slice(k));
	OK(kv_write(fs->kv, &b));
	kv_batch_free(&b);
}

static void wrong_counts_and_marks_are_found(void **state)
{
	uint8_t p[BLOCK_SIZE] = {1};
	struct leaf l, changed;
	struct bench b;

	(void)state;
	bench_open(&b);
	uint64_t a = make_file(b.fs, "a"), c = make_file(b.fs, "b"), d = make_file(b.fs, "c");
	OK(fs_write(b.fs, &root, a, 0, sizeof(p), p, false));
	home_all(b.fs);
	copy(b.fs, a, 0, c, 0, BLOCK_SIZE);
	copy(b.fs, c, 0, d, 0, BLOCK_SIZE);
	const struct index_key k = row_of(b.fs, a), other = key_ino(TABLE_SHARED, pointer_make(1, 9)),
			       last = key_ino(TABLE_SHARED, ~0ull);
	assert_int_equal(count_rows(b.fs), 1);
	assert_int_equal(fsck(b.fs), 0);
	static const struct {
		uint32_t n;
		size_t len;
	} wrong[] = {{1, 4}, {3, 4}, {0, 4}, {2, 3}, {0, 0}};
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		put_row(b.fs, &k, wrong[i].n, wrong[i].len);
		assert_true(fsck(b.fs) > 0);
	}
	put_row(b.fs, &k, 2, 4);
	assert_int_equal(fsck(b.fs), 0);
	put_row(b.fs, &other, 1, 4); /* of a home that nobody has */
	put_row(b.fs, &last, 7, 4);
	assert_int_equal(fsck(b.fs), 2);
	put_row(b.fs, &other, 0, 0);
	put_row(b.fs, &last, 0, 0);
	for (unsigned i = 0; i < 3; i++) { /* one of them does not bear the mark */
		uint64_t ino = i == 0 ? a : i == 1 ? c : d;

		OK(extent_get(b.fs, ino, 0, &l));
		changed = l;
		changed.slot[0].shared = false;
		OK(lcache_put(b.fs->lcache, ino, 0, &changed));
		assert_true(fsck(b.fs) > 0);
		OK(lcache_put(b.fs->lcache, ino, 0, &l));
	}
	assert_int_equal(fsck(b.fs), 0);
	bench_close(&b);
}

/* ---- written in place again ---- */

static void check_byte(struct cold *cold, struct fs *fs, uint64_t ino, uint64_t off, uint8_t want)
{
	_Alignas(DISK_BLOCK) uint8_t room[3 * BLOCK_SIZE];
	void *at;
	size_t len;
	int r;

	while ((r = fs_read(fs, ino, off, 1, room, &at, &len)) == -EINPROGRESS)
		OK(cold_recall(cold, fs));
	OK(r);
	assert_int_equal(len, 1);
	assert_int_equal(*(uint8_t *)at, want);
}

/* Eviction is not logged: until a checkpoint a crash finds the home of both. */
static void what_was_evicted_is_written_over_after_a_checkpoint_only(void **state)
{
	static uint8_t p[100 * KIB];

	(void)state;
	for (unsigned checkpointed = 0; checkpointed < 2; checkpointed++) {
		struct volume v = {.sim = simstore_new()};
		struct cold *cold = cold_open();

		volume_make(&v, simstore_open(v.sim), NULL);
		uint64_t from = make_file(v.fs, "a"), to = make_file(v.fs, "b");
		memset(p, 1, sizeof(p));
		OK(fs_write(v.fs, &root, from, 0, sizeof(p), p, false));
		copy(v.fs, from, 0, to, 0, sizeof(p));
		OK(cold_tier(cold, v.fs, from, NULL));
		OK(fs_checkpoint(v.fs));
		uint64_t was = used(v.fs);
		OK(cold_evict(v.fs, from));
		assert_int_equal(used(v.fs), was); /* the clone has them */
		if (checkpointed)
			OK(fs_checkpoint(v.fs));
		memset(p, 2, sizeof(p));
		OK(fs_write(v.fs, &root, to, 0, BLOCK_SIZE, p, false));
		assert_int_equal(reserved(v.fs), !checkpointed);
		home_all(v.fs);
		assert_int_equal(fsck(v.fs), 0);
		volume_reopen(&v, true);
		assert_int_equal(fsck(v.fs), 0);
		check_byte(cold, v.fs, from, 0, 1);
		check_byte(cold, v.fs, to, 0, 2);
		check_byte(cold, v.fs, to, BLOCK_SIZE, 1);
		home_all(v.fs);
		OK(cold_tier(cold, v.fs, to, NULL));
		OK(cold_evict(v.fs, to)); /* its own are free, and with both gone the shared ones */
		OK(cold_evict(v.fs, from));
		OK(fs_checkpoint(v.fs));
		assert_int_equal(used(v.fs), was - 25);
		assert_int_equal(count_rows(v.fs), 0);
		volume_close(&v);
		cold_close(cold);
	}
}

/*
 * A write whose record is durable finds the block its own, because of a record that came later: as where two threads are at it,
 * of which the first was slow to apply what it had logged.
 */
static void a_home_is_written_over_once_who_let_go_of_it_is_durable(void **state)
{
	uint8_t p[BLOCK_SIZE] = {1};
	struct journal_status js;
	struct bench b;
	struct inode *in;
	struct record rec = {0};
	struct applied applied = {0};
	struct leaf l;
	uint32_t crc;
	uint64_t seq;
	bool more;

	(void)state;
	bench_open(&b);
	uint64_t a = make_file(b.fs, "a"), c = make_file(b.fs, "b");
	OK(fs_write(b.fs, &root, a, 0, sizeof(p), p, false));
	home_all(b.fs);
	copy(b.fs, a, 0, c, 0, BLOCK_SIZE);
	p[0] = 2;
	crc = crc32c(0, p, sizeof(p));
	OK(icache_get(b.fs->icache, c, &in));
	op_stamp(b.fs, &root, &rec, RECORD_WRITE, c);
	rec.write.n_blocks = 1;
	rec.write.crc = &crc;
	rec.write.size = in->size;
	rec.write.data[0] = (struct iovec){p, sizeof(p)};
	rec.write.n_data = 1;
	OK(arena_reserve(b.fs->arena, 1));
	OK(journal_append(b.fs->journal, &rec, 1, &seq));
	OK(journal_commit_all(b.fs->journal, NULL));
	set_size(b.fs, a, 0);
	OK(apply_record(b.fs, &rec, seq, &applied));
	arena_unreserve(b.fs->arena, (uint64_t)(1 - applied.reserved));
	OK(extent_get(b.fs, c, 0, &l));
	assert_true(l.slot[0].home && l.slot[0].staged && l.slot[0].shared); /* in place it will be */
	journal_get_status(b.fs->journal, &js);
	assert_true(js.durable_seq < atomic_load(&b.fs->shares->drop_seq));
	OK(fs_home_step(b.fs, 64, &more));
	journal_get_status(b.fs->journal, &js);
	assert_true(js.durable_seq >= atomic_load(&b.fs->shares->drop_seq));
	OK(extent_get(b.fs, c, 0, &l));
	assert_true(l.slot[0].home && !l.slot[0].staged && !l.slot[0].shared);
	assert_int_equal(used(b.fs), b.base + 1);
	assert_int_equal(fsck(b.fs), 0);
	bench_close(&b);
}

/* ---- threads ---- */

#define THREADS 4u
#define ROUNDS  400u

struct worker {
	pthread_t thread;
	struct fs *fs;
	uint64_t own, common;
	uint64_t seed;
};

/* Each has a file of its own, cloned from the common one again and again, and lets go of parts of it. */
static void *work(void *arg)
{
	struct worker *w = arg;
	struct rng g = {.state = w->seed};
	uint8_t p[BLOCK_SIZE];
	size_t n;

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t at = rng_below(&g, 32) * BLOCK_SIZE, len = (1 + rng_below(&g, 12)) * BLOCK_SIZE;
		int r = 0;

		memset(p, (int)i, sizeof(p));
		switch (rng_below(&g, 5)) {
		case 0:
			r = fs_copy_range(w->fs, &root, w->common, at, w->own, at, len, &n);
			break;
		case 1:
			r = fs_copy_range(w->fs, &root, w->own, at, w->common, at, len, &n);
			break;
		case 2:
			r = fs_write(w->fs, &root, w->own, at, sizeof(p), p, false);
			break;
		case 3:
			r = fs_fallocate(w->fs, &root, w->own, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, len);
			break;
		default:
			r = fs_write(w->fs, &root, w->common, at, sizeof(p), p, false);
			break;
		}
		if (r < 0)
			return (void *)(intptr_t)r;
	}
	return NULL;
}

static void threads_that_share_leave_right_counts(void **state)
{
	struct volume v = {.sim = simstore_new()};
	struct worker w[THREADS];
	uint8_t p[BLOCK_SIZE] = {7};
	bool more;

	(void)state;
	volume_make(&v, simstore_open(v.sim), NULL);
	OK(fs_close(v.fs));
	v.config.store = simstore_open(v.sim);
	v.config.n_workers = THREADS + 1;
	OK(fs_open(&v.config, &v.fs));
	for (unsigned i = 0; i < 32; i++)
		OK(fs_write(v.fs, &root, v.file, i * BLOCK_SIZE, sizeof(p), p, false));
	home_all(v.fs);
	for (unsigned i = 0; i < THREADS; i++) {
		char name[16];

		snprintf(name, sizeof(name), "w%u", i);
		w[i] = (struct worker){.fs = v.fs, .own = make_file(v.fs, name), .common = v.file, .seed = test_seed(1) + i};
		OK(pthread_create(&w[i].thread, NULL, work, &w[i]));
	}
	for (unsigned i = 0; i < 60; i++) { /* beside them, what a volume does by itself */
		OK(journal_commit_all(v.fs->journal, NULL));
		OK(fs_home_step(v.fs, 64, &more));
		if (i % 8 == 0)
			OK(fs_checkpoint(v.fs));
	}
	for (unsigned i = 0; i < THREADS; i++) {
		void *r;

		OK(pthread_join(w[i].thread, &r));
		assert_null(r);
	}
	home_all(v.fs);
	assert_int_equal(fsck(v.fs), 0);
	volume_reopen(&v, true);
	home_all(v.fs);
	assert_int_equal(fsck(v.fs), 0);
	volume_close(&v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_history_leaves_the_blocks_that_somebody_has),
	    cmocka_unit_test(either_side_may_do_as_it_likes),
	    cmocka_unit_test(a_clone_takes_no_space_and_its_last_block_need_not_be_whole),
	    cmocka_unit_test(what_waits_in_the_journal_comes_home_first_when_it_is_much),
	    cmocka_unit_test(while_a_view_is_open_copies_are_written),
	    cmocka_unit_test(ranges_that_cannot_be_are_refused),
	    cmocka_unit_test(overwriting_a_shared_block_needs_space_at_once),
	    cmocka_unit_test(wrong_counts_and_marks_are_found),
	    cmocka_unit_test(what_was_evicted_is_written_over_after_a_checkpoint_only),
	    cmocka_unit_test(a_home_is_written_over_once_who_let_go_of_it_is_durable),
	    cmocka_unit_test(threads_that_share_leave_right_counts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
