/*
 * test_share: which blocks are in use after files were cloned, changed, cut and removed, against a model by enumeration; and what
 * fsck says of wrong counts.
 *
 * The model knows blocks, not counts: each slot has a token, a clone of what is at home has the same one, a clone of what is
 * still in the journal gets one of its own.  As many tokens as somebody has, so many blocks are in use.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "share_case.h"

/* ---- every history of two files of two blocks ---- */

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
	struct memvolume m;
	struct fs *fs; /* of m */
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

static void write_slot(struct history *h, unsigned file, unsigned slot)
{
	struct token *t = &h->live.slot[file][slot];

	*t = (struct token){.id = ++h->n_ids, .content = h->n_ids, .staged = true};
	slot_write(h->fs, h->ino[file], slot, t->content);
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

	OK(fs_getattr(h->fs, h->ino[from], &a));
	copy(h->fs, h->ino[from], 0, h->ino[to], 0, a.size);
	for (unsigned i = 0; i < a.size / BLOCK_SIZE; i++)
		h->live.slot[to][i] = cloned(h, h->live.slot[from][i]);
}

static bool clone_within(struct history *h)
{
	struct fs_attr a;

	OK(fs_getattr(h->fs, h->ino[0], &a));
	if (a.size == 0)
		return false;
	copy(h->fs, h->ino[0], 0, h->ino[0], BLOCK_SIZE, BLOCK_SIZE);
	h->live.slot[0][1] = cloned(h, h->live.slot[0][0]);
	return true;
}

static void drop_oldest(struct history *h)
{
	char name[16];

	snap_name(h->name[0], name);
	OK(fs_snap_delete(h->fs, &root, name));
	h->n_snaps--;
	memmove(&h->snap[0], &h->snap[1], h->n_snaps * sizeof(h->snap[0]));
	memmove(&h->name[0], &h->name[1], h->n_snaps * sizeof(h->name[0]));
}

static void all_home(struct history *h)
{
	steps_home(h->fs);
	for (unsigned f = 0; f < 2; f++)
		for (unsigned i = 0; i < SLOTS; i++)
			h->live.slot[f][i].staged = false;
}

static void snapshot(struct history *h)
{
	char name[16];

	snap_name(++h->n_names, name);
	OK(fs_snap_create(h->fs, &root, name));
	all_home(h);
	h->name[h->n_snaps] = h->n_names;
	h->snap[h->n_snaps++] = h->live;
}

/* False when there is nothing to do it with. */
static bool act(void *ctx, uint8_t letter)
{
	struct history *h = ctx;

	switch ((enum letter)letter) {
	case WRITE_A0:
	case WRITE_B1:
		write_slot(h, letter == WRITE_B1, letter == WRITE_B1);
		return true;
	case CLONE_AB:
	case CLONE_BA:
		clone_all(h, letter == CLONE_BA, letter == CLONE_AB);
		return true;
	case CLONE_A01:
		return clone_within(h);
	case CUT_A:
		file_resize(h->fs, h->ino[0], 0);
		memset(h->live.slot[0], 0, sizeof(h->live.slot[0]));
		return true;
	case PUNCH_B1:
		OK(fs_fallocate(h->fs, &root, h->ino[1], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, BLOCK_SIZE, BLOCK_SIZE));
		h->live.slot[1][1] = (struct token){0};
		return true;
	case ZERO_A1: /* and no space left promised */
		OK(fs_fallocate(h->fs, &root, h->ino[0], FALLOC_FL_ZERO_RANGE, BLOCK_SIZE, BLOCK_SIZE));
		OK(fs_fallocate(h->fs, &root, h->ino[0], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, BLOCK_SIZE, BLOCK_SIZE));
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
		OK(fs_checkpoint(h->fs));
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
	unsigned want[SLOTS];

	for (unsigned i = 0; i < SLOTS; i++)
		want[i] = h->live.slot[file][i].content;
	slots_check(h->fs, h->ino[file], want);
}

static void check(void *ctx)
{
	struct history *h = ctx;

	all_home(h);
	steps_snaps(h->fs);
	SAME(used_blocks(h->fs), h->m.base + tokens(h));
	SAME(reserved_blocks(h->fs), 0);
	SAME(count_rows(h->fs), shared_tokens(h));
	check_content(h, 0);
	check_content(h, 1);
	h->n_checks++;
}

static void start_over(void *ctx)
{
	struct history *h = ctx;

	while (h->n_snaps)
		drop_oldest(h);
	file_resize(h->fs, h->ino[0], 0);
	file_resize(h->fs, h->ino[1], 0);
	memset(&h->live, 0, sizeof(h->live));
	check(h);
	OK(fs_checkpoint(h->fs));
	h->n_ids = 0;
}

static const struct acts acts = {.names = letter_names, .act = act, .check = check, .start_over = start_over, .fsck_every = 32};

static void each_history_leaves_the_blocks_that_somebody_has(void **state)
{
	static const uint8_t all[] = {WRITE_A0, WRITE_B1, CLONE_AB, CLONE_BA, CLONE_A01,  CUT_A,
				      PUNCH_B1, ZERO_A1,  HOME,     SNAP,     CHECKPOINT, DROP},
			     few[] = {WRITE_A0, CLONE_AB, CLONE_A01, CUT_A, HOME}, snaps[] = {WRITE_A0, CLONE_AB, SNAP, DROP};
	struct history *h = calloc(1, sizeof(*h));

	(void)state;
	memvolume_open(&h->m);
	h->fs = h->m.v.fs;
	h->ino[0] = make_file(h->fs, "a");
	h->ino[1] = make_file(h->fs, "b");
	for (unsigned n = 1; n <= 4; n++)
		every_word(&acts, h, h->fs, all, ARRAY_SIZE(all), n);
	every_word(&acts, h, h->fs, few, ARRAY_SIZE(few), 6);
	every_word(&acts, h, h->fs, snaps, ARRAY_SIZE(snaps), 6);
	assert_true(h->n_checks > 20000);
	assert_sound(h->fs);
	memvolume_close(&h->m);
	free(h);
}

/* ---- wrong counts ---- */

/* What fsck finds wrong; data is not. */
static uint64_t findings(struct fs *fs)
{
	const struct fs_check_result c = fsck_result(fs);

	assert_int_equal(c.damaged_blocks, 0);
	return c.structure_errors + c.accounting_errors;
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
	struct memvolume m;

	(void)state;
	memvolume_open(&m);
	uint64_t a = make_file(m.v.fs, "a"), c = make_file(m.v.fs, "b"), d = make_file(m.v.fs, "c");
	OK(fs_write(m.v.fs, &root, a, 0, sizeof(p), p, false));
	steps_home(m.v.fs);
	copy(m.v.fs, a, 0, c, 0, BLOCK_SIZE);
	copy(m.v.fs, c, 0, d, 0, BLOCK_SIZE);
	const struct index_key k = row_of(m.v.fs, a), other = key_ino(TABLE_SHARED, pointer_make(1, 9)),
			       last = key_ino(TABLE_SHARED, ~0ull);
	assert_int_equal(count_rows(m.v.fs), 1);
	assert_sound(m.v.fs);
	static const struct {
		uint32_t n;
		size_t len;
	} wrong[] = {{1, 4}, {3, 4}, {0, 4}, {2, 3}, {0, 0}};
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		put_row(m.v.fs, &k, wrong[i].n, wrong[i].len);
		assert_true(findings(m.v.fs) > 0);
	}
	put_row(m.v.fs, &k, 2, 4);
	assert_sound(m.v.fs);
	put_row(m.v.fs, &other, 1, 4); /* of a home that nobody has */
	put_row(m.v.fs, &last, 7, 4);
	assert_int_equal(findings(m.v.fs), 2);
	put_row(m.v.fs, &other, 0, 0);
	put_row(m.v.fs, &last, 0, 0);
	for (unsigned i = 0; i < 3; i++) { /* one of them does not bear the mark */
		uint64_t ino = i == 0 ? a : i == 1 ? c : d;

		OK(extent_get(m.v.fs, ino, 0, &l));
		changed = l;
		changed.slot[0].shared = false;
		OK(lcache_put(m.v.fs->lcache, ino, 0, &changed));
		assert_true(findings(m.v.fs) > 0);
		OK(lcache_put(m.v.fs->lcache, ino, 0, &l));
	}
	assert_sound(m.v.fs);
	memvolume_close(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_history_leaves_the_blocks_that_somebody_has),
	    cmocka_unit_test(wrong_counts_and_marks_are_found),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
