/*
 * test_rollback_blocks: which blocks are in use after going back to snapshots, against a model of the deadlists by enumeration.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fs/core/core.h"
#include "memvolume.h"
#include "tests/lib/history.h"

#define OK(call) assert_int_equal(call, 0)

/* ---- a file of two blocks, and a model of which block is where ---- */

#define SNAPS_CAP 10u
#define WRITES    16u

enum { FREE = -2, LIVE = -1 }; /* else: on the list of the snapshot with that top */
struct history {
	struct memvolume m;
	struct fs *fs;        /* of m */
	unsigned live[SLOTS]; /* which write each block has; 0: none */
	struct {
		unsigned has[SLOTS], name;
		int top;
	} snap[SNAPS_CAP];
	unsigned n_snaps, n_names, n_writes;
	int clock; /* the top of the next snapshot, and the birth of what is written */
	struct {
		int birth, at;
	} block[WRITES + 1];
	unsigned long n_checks;
};

enum letter { WRITE_0, WRITE_1, CUT, SNAP, DROP_OLDEST, DROP_NEWEST, BACK_OLDEST, BACK_NEWEST, LETTERS };
static const char letter_names[] = "01csonBb"; /* in the order above */

static void lose(struct history *h, unsigned version)
{
	int newest = h->n_snaps ? h->snap[h->n_snaps - 1].top : -1;

	if (version)
		h->block[version].at = h->block[version].birth <= newest ? newest : FREE;
}

static void put_slot(struct history *h, unsigned slot)
{
	lose(h, h->live[slot]);
	h->live[slot] = ++h->n_writes;
	assert_true(h->n_writes <= WRITES);
	h->block[h->n_writes].birth = h->clock;
	h->block[h->n_writes].at = LIVE;
	slot_write(h->fs, h->m.v.file, slot, h->n_writes);
}

static void cut_file(struct history *h)
{
	file_resize(h->fs, h->m.v.file, 0);
	for (unsigned i = 0; i < SLOTS; i++)
		lose(h, h->live[i]);
	memset(h->live, 0, sizeof(h->live));
}

static void take(struct history *h)
{
	char name[16];

	assert_true(h->n_snaps < SNAPS_CAP);
	snap_name(++h->n_names, name);
	OK(fs_snap_create(h->fs, &root, name));
	memcpy(h->snap[h->n_snaps].has, h->live, sizeof(h->live));
	h->snap[h->n_snaps].name = h->n_names;
	h->snap[h->n_snaps++].top = h->clock++;
}

static void drop(struct history *h, unsigned i)
{
	char name[16];

	snap_name(h->snap[i].name, name);
	OK(fs_snap_delete(h->fs, &root, name));
	steps_snaps(h->fs);
	for (unsigned v = 1; v <= h->n_writes; v++) {
		if (h->block[v].at != h->snap[i].top)
			continue;
		h->block[v].at = i > 0 && h->block[v].birth <= h->snap[i - 1].top ? h->snap[i - 1].top : FREE;
	}
	memmove(&h->snap[i], &h->snap[i + 1], (h->n_snaps - i - 1) * sizeof(h->snap[0]));
	h->n_snaps--;
}

static bool has(const unsigned *of, unsigned version)
{
	return of[0] == version || of[1] == version;
}

static void go_back(struct history *h, unsigned i)
{
	char name[16];

	snap_name(h->snap[i].name, name);
	OK(fs_snap_rollback(h->fs, &root, name, false));
	for (unsigned k = 0; k < SLOTS; k++)
		if (!has(h->snap[i].has, h->live[k]))
			lose(h, h->live[k]);
	memcpy(h->live, h->snap[i].has, sizeof(h->live));
	for (unsigned k = 0; k < SLOTS; k++)
		if (h->live[k])
			h->block[h->live[k]].at = LIVE;
}

/* False when there is nothing to do it with. */
static bool act(void *ctx, uint8_t letter)
{
	struct history *h = ctx;

	if (letter >= DROP_OLDEST && h->n_snaps == 0)
		return false;
	switch ((enum letter)letter) {
	case WRITE_0:
	case WRITE_1:
		put_slot(h, letter - WRITE_0);
		return true;
	case CUT:
		cut_file(h);
		return true;
	case SNAP:
		take(h);
		return true;
	case DROP_OLDEST:
	case DROP_NEWEST:
		drop(h, letter == DROP_OLDEST ? 0 : h->n_snaps - 1);
		return true;
	case BACK_OLDEST:
	case BACK_NEWEST:
		go_back(h, letter == BACK_OLDEST ? 0 : h->n_snaps - 1);
		return true;
	case LETTERS:
		break;
	}
	return false;
}

static int see(void *ctx, const struct fs_snap *s)
{
	struct history *h = ctx;
	struct fs_attr dir, file;

	for (unsigned i = 0; i < h->n_snaps; i++) {
		char name[16];

		snap_name(h->snap[i].name, name);
		if (strcmp(name, s->name) != 0)
			continue;
		uint64_t only = 0;
		for (unsigned v = 1; v <= h->n_writes; v++)
			only += h->block[v].at == h->snap[i].top && (i == 0 || h->block[v].birth > h->snap[i - 1].top);
		SAME(s->only_bytes / BLOCK_SIZE, only);
		OK(fs_lookup(h->fs, s->root, "sub", &dir));
		OK(fs_lookup(h->fs, dir.ino, "name", &file));
		slots_check(h->fs, file.ino, h->snap[i].has);
		return 0;
	}
	fail_msg("after \"%s\": snapshot %s should not be there", said, s->name);
	return 0;
}

static void check(void *ctx)
{
	struct history *h = ctx;
	uint64_t used = h->m.base;

	steps_home(h->fs);
	for (unsigned v = 1; v <= h->n_writes; v++)
		used += h->block[v].at != FREE;
	SAME(used_blocks(h->fs), used);
	SAME(reserved_blocks(h->fs), 0);
	slots_check(h->fs, h->m.v.file, h->live);
	OK(fs_snap_each(h->fs, true, see, h));
	h->n_checks++;
}

static void start_over(void *ctx)
{
	struct history *h = ctx;

	while (h->n_snaps)
		drop(h, (h->n_checks + h->n_snaps) % 2 ? 0 : h->n_snaps - 1);
	steps_home(h->fs);
	SAME(used_blocks(h->fs), h->m.base + (h->live[0] != 0) + (h->live[1] != 0));
	cut_file(h);
	check(h);
	OK(fs_checkpoint(h->fs));
	h->n_writes = 0;
}

static const struct acts acts = {.names = letter_names, .act = act, .check = check, .start_over = start_over, .fsck_every = 8};

static struct history *history_open(void)
{
	struct history *h = calloc(1, sizeof(*h));

	memvolume_open(&h->m);
	h->fs = h->m.v.fs;
	return h;
}

static void history_close(struct history *h)
{
	memvolume_close(&h->m);
	free(h);
}

static void each_history_leaves_the_blocks_that_the_lists_say(void **state)
{
	static const uint8_t all[] = {WRITE_0, WRITE_1, CUT, SNAP, DROP_OLDEST, DROP_NEWEST, BACK_OLDEST, BACK_NEWEST},
			     few[] = {WRITE_0, SNAP, DROP_OLDEST, BACK_OLDEST, BACK_NEWEST};
	struct history *h = history_open();

	(void)state;
	for (unsigned n = 1; n <= 4; n++)
		every_word(&acts, h, h->fs, all, ARRAY_SIZE(all), n);
	every_word(&acts, h, h->fs, few, ARRAY_SIZE(few), 6);
	assert_sound(h->fs);
	history_close(h);
}

/* Four snapshots with a write between each two, back to each, one more write, and all deleted in each order. */
static void any_order_of_deleting_ends_with_the_tree(void **state)
{
	struct history *h = history_open();

	(void)state;
	for (unsigned to = 0; to < 16; to++)
		for (unsigned order = 0; order < 4 * 3 * 2; order++) {
			unsigned rest = order;

			snprintf(said, sizeof(said), "%u, %u", to, order);
			for (unsigned i = 0; i < 4; i++) {
				put_slot(h, i % SLOTS);
				take(h);
			}
			put_slot(h, 0);
			go_back(h, to % 4);
			check(h);
			put_slot(h, 1);
			go_back(h, to / 4);
			put_slot(h, 0);
			check(h);
			for (unsigned left = 4; left > 0; rest /= left--) {
				drop(h, rest % left);
				check(h);
				assert_sound(h->fs);
			}
			SAME(used_blocks(h->fs), h->m.base + (h->live[0] != 0) + (h->live[1] != 0));
			start_over(h);
		}
	history_close(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_history_leaves_the_blocks_that_the_lists_say),
	    cmocka_unit_test(any_order_of_deleting_ends_with_the_tree),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
