/*
 * test_reset.c: a journal that goes on after another seq, cut at every event of the reset and of the time after it.
 *
 * A life is: an old history in a ring that has wrapped, a reset, the new point made durable (the anchor event), a new history.
 * A crash before the anchor event finds the old history from the old point, or is followed by another reset; a crash after it
 * finds the new history from the new point.  Neither may see anything of the other, or take it for damage.
 *
 * A cut is the smaller thing: the newest batches go, and others take their seqs and places.
 */
#include "tests/unit/journal_world.h"

#include <malloc.h>

#include "base/log.h"
#include "journal/ship.h"
#include "tests/lib/simstore.h"

#define NEW_FIRST  100001u /* operations of the new history have these numbers */
#define RESET_HASH UINT64_C(0x1234567890abcdef)
#define NOTES_MAX  64

/* What was durable when: operations up to `id` from event `event` on. */
struct note {
	uint64_t event, id;
};
struct history {
	struct journal_point from;
	uint64_t first, last; /* operations from there on */
	struct note notes[NOTES_MAX];
	unsigned n_notes;
};
struct life {
	struct simstore *sim; /* owned */
	struct history old, new;
	uint64_t reset_event, anchor_event;
};

/* A world over a simulated store. */
static struct world *world_over(struct simstore *sim)
{
	struct world *w = world_new();

	w->config.store = simstore_open(sim);
	return w;
}

static void world_leave(struct world *w)
{
	struct store *store = w->config.store;

	w->journal = journal_close(w->journal);
	store_close(store);
	world_free(w);
}

static struct journal_status status_of(struct world *w)
{
	struct journal_status s;

	journal_get_status(w->journal, &s);
	return s;
}

/* Appends and commits n operations, and notes when they were durable. */
static uint64_t commit_ops(struct world *w, struct simstore *sim, struct history *h, uint64_t n)
{
	uint64_t seq = 0;

	while (n--)
		assert_int_equal(world_append(w, ++h->last, &seq), 0);
	assert_int_equal(journal_commit(w->journal, seq), 0);
	assert_true(h->n_notes < NOTES_MAX);
	h->notes[h->n_notes++] = (struct note){simstore_count(sim), h->last};
	return seq;
}

static uint64_t durable_at(const struct history *h, uint64_t event)
{
	uint64_t id = h->first - 1;

	for (unsigned i = 0; i < h->n_notes && h->notes[i].event <= event; i++)
		id = h->notes[i].id;
	return id;
}

/* A ring that has wrapped, with the newest few batches still needed and some operations not committed. */
static void old_history(struct world *w, struct simstore *sim, struct history *h)
{
	uint64_t seq = 0, newest[3] = {0};

	*h = (struct history){.from = format_point, .first = 1};
	assert_int_equal(journal_format(w->config.store, &w->config.geometry), 0);
	world_start(w);
	while (status_of(w).commit_blocks < RING_BLOCKS + RING_BLOCKS / 2) {
		seq = commit_ops(w, sim, h, 60);
		journal_trim(w->journal, seq > 3 ? seq - 3 : 0);
		newest[0] = newest[1], newest[1] = newest[2], newest[2] = h->last;
	}
	assert_int_equal(journal_point_after(w->journal, seq - 2, &h->from), 0);
	h->first = newest[0] + 1;
	for (int i = 0; i < 3; i++)
		assert_int_equal(world_append(w, ++h->last, &seq), 0);
}

/* When the reset comes. */
enum how { RUNNING, OPENED, REPLAYED, HOWS };

static void reset_and_go_on(struct world *w, struct life *l, enum how how, uint64_t seq)
{
	struct journal_point at = {.seq = seq, .hash = RESET_HASH};

	if (how == REPLAYED) {
		assert_int_equal(world_replay(w, &l->old.from, l->old.first), 0);
	} else if (how == OPENED) {
		w->journal = journal_close(w->journal);
		w->config.incarnation++;
		assert_int_equal(journal_open(&w->config, &w->journal), 0);
	}
	l->reset_event = simstore_count(l->sim);
	assert_int_equal(journal_reset(w->journal, &at), 0);
	assert_true(at.seq == seq && at.hash == RESET_HASH && at.pos > l->old.from.pos);
	struct journal_status s = status_of(w);
	assert_true(s.durable_seq == seq && s.open_seq == seq + 1 && s.used_blocks == 0 && s.open_bytes == 0);
	l->anchor_event = simstore_mark(l->sim);
	l->new = (struct history){.from = at, .first = NEW_FIRST, .last = NEW_FIRST - 1};
	for (uint64_t n = 1; n < 5; n++)
		assert_int_equal(commit_ops(w, l->sim, &l->new, 3 * n), seq + n);
	assert_int_equal(world_append(w, ++l->new.last, &seq), 0);
}

static void check_history(struct world *w, const struct history *h, uint64_t event)
{
	assert_int_equal(world_replay(w, &h->from, h->first), 0);
	assert_in_range(w->replayed, durable_at(h, event), h->last);
	assert_in_range(w->result.end.pos, h->from.pos, h->from.pos + RING_BLOCKS);
}

/* The mount after a crash between two states: resets, and its own history is then all there is. */
static void check_another_reset(struct world *w, struct simstore *image, uint64_t seq)
{
	struct journal_point at = {.seq = seq, .hash = RESET_HASH + 1};
	struct history h = {.first = NEW_FIRST, .last = NEW_FIRST - 1};

	w->journal = journal_close(w->journal);
	w->config.incarnation++;
	assert_int_equal(journal_open(&w->config, &w->journal), 0);
	assert_int_equal(journal_reset(w->journal, &at), 0);
	h.from = at;
	check_history(w, &h, 0);
	assert_int_equal(w->replayed, NEW_FIRST - 1);
	assert_int_equal(journal_start(w->journal), 0);
	commit_ops(w, image, &h, 5);
	commit_ops(w, image, &h, 2);
	check_history(w, &h, UINT64_MAX);
	assert_int_equal(w->replayed, h.last);
}

static void check_image(const struct life *l, struct simstore *image, uint64_t event, uint64_t incarnation)
{
	struct world *w = world_over(image);

	w->config.incarnation = incarnation;
	if (event < l->anchor_event) {
		check_history(w, &l->old, event);
		check_another_reset(w, image, l->new.from.seq);
	} else {
		check_history(w, &l->new, event);
		/* it goes on from there */
		struct history h = {.from = l->new.from, .first = l->new.first, .last = w->replayed};
		assert_int_equal(journal_start(w->journal), 0);
		commit_ops(w, image, &h, 4);
		check_history(w, &h, UINT64_MAX);
		assert_int_equal(w->replayed, h.last);
	}
	world_leave(w);
}

static void check_every_cut(const struct life *l, struct rng *rng, uint64_t incarnation)
{
	struct simcut *cut = simcut_new(l->sim);
	uint64_t end = simstore_count(l->sim);

	for (uint64_t event = l->reset_event; event <= end; event++) {
		simcut_advance(cut, event);
		for (unsigned v = 0; v < SIMCUT_VARIANTS; v++) {
			struct simstore *image = simcut_image(cut, v, rng, false);
			check_image(l, image, event, incarnation);
			simstore_free(image);
		}
	}
	simcut_free(cut);
}

/* The seq to go on after: lower, where it was, and higher than what the old history had. */
static uint64_t target(struct world *w, int which)
{
	struct journal_status s = status_of(w);

	return which == 0 ? 2 : which == 1 ? s.durable_seq : s.durable_seq + 1000;
}

static void a_crash_in_or_after_a_reset_finds_one_history(void **state)
{
	struct rng rng = {.state = test_seed(31)};

	(void)state;
	for (enum how how = RUNNING; how < HOWS; how++)
		for (int which = 0; which < 3; which++) {
			struct life l = {.sim = simstore_new()};
			struct world *w = world_over(l.sim);
			old_history(w, l.sim, &l.old);
			reset_and_go_on(w, &l, how, target(w, which));
			uint64_t incarnation = w->config.incarnation;
			world_leave(w);
			check_every_cut(&l, &rng, incarnation);
			simstore_free(l.sim);
		}
}

/* The second reset of a row, on what a kill left of the first, whose pages the host may still lose. */
static void a_crash_in_a_reset_after_a_crash_in_a_reset_finds_one_history(void **state)
{
	struct rng rng = {.state = test_seed(32)};
	struct life first = {.sim = simstore_new()};
	struct world *w = world_over(first.sim);

	(void)state;
	old_history(w, first.sim, &first.old);
	reset_and_go_on(w, &first, RUNNING, 2);
	world_leave(w);
	struct simcut *cut = simcut_new(first.sim);
	for (uint64_t event = first.reset_event; event < first.anchor_event; event++) {
		simcut_advance(cut, event);
		struct life l = {.sim = simcut_image(cut, SIMCUT_KILL, &rng, true), .old = first.old};
		l.old.notes[0] = (struct note){0, durable_at(&first.old, event)};
		l.old.n_notes = 1;
		w = world_over(l.sim);
		w->config.incarnation = 9;
		reset_and_go_on(w, &l, OPENED, event % 2 ? 3 : 700);
		world_leave(w);
		check_every_cut(&l, &rng, 20);
		simstore_free(l.sim);
	}
	simcut_free(cut);
	simstore_free(first.sim);
}

static void positions_are_beyond_everything_ever_used(void **state)
{
	struct simstore *sim = simstore_new();
	struct world *w = world_over(sim);
	struct journal_point at = {.seq = 5, .pos = 1000000, .hash = 1};
	struct history h;
	uint64_t before, seq;

	(void)state;
	old_history(w, sim, &h);
	assert_int_equal(journal_reset(w->journal, &at), 0);
	assert_true(at.pos >= 1000000);
	/* each time further on, running or not, with and without a batch in between */
	for (int i = 0; i < 12; i++) {
		before = at.pos;
		if (i % 3 == 0) {
			assert_int_equal(world_append(w, 1, &seq), 0);
			assert_int_equal(journal_commit(w->journal, seq), 0);
		}
		if (i % 2) {
			w->journal = journal_close(w->journal);
			assert_int_equal(journal_open(&w->config, &w->journal), 0);
		}
		at.pos = i % 4 == 1 ? 0 : before;
		assert_int_equal(journal_reset(w->journal, &at), 0);
		assert_true(at.pos > before || i % 3);
	}
	at.pos = POINTER_BLOCK_MAX - RING_BLOCKS;
	assert_int_equal(journal_reset(w->journal, &at), -EUCLEAN);
	world_leave(w);
	simstore_free(sim);
}

static void a_reset_journal_has_no_history(void **state)
{
	struct simstore *sim = simstore_new();
	struct world *w = world_over(sim);
	struct journal_point at = {.seq = 4, .hash = 1}, p;
	struct journal_batch b = {0};
	struct history h;

	(void)state;
	old_history(w, sim, &h);
	uint64_t newest = status_of(w).sealed_seq;
	assert_int_equal(journal_copy_batch(w->journal, newest, &b), 0);
	assert_int_equal(journal_reset(w->journal, &at), 0);
	assert_int_equal(journal_oldest(w->journal), 5);
	assert_int_equal(journal_copy_batch(w->journal, newest, &b), -EAGAIN);
	assert_int_equal(journal_copy_batch(w->journal, 5, &b), -EAGAIN);
	assert_int_equal(journal_copy_batch(w->journal, 4, &b), -ENOENT);
	assert_int_equal(journal_history_point(w->journal, 3, &p), -ENOENT);
	assert_int_equal(journal_history_point(w->journal, 4, &p), 0);
	assert_memory_equal(&p, &at, sizeof(p));
	h = (struct history){.first = NEW_FIRST, .last = NEW_FIRST - 1};
	for (uint64_t seq = 5; seq <= newest + 3; seq++) {
		assert_int_equal(commit_ops(w, sim, &h, 1), seq);
		assert_int_equal(journal_copy_batch(w->journal, seq, &b), 0);
		assert_true(b.info.pos >= at.pos);
	}
	assert_int_equal(journal_oldest(w->journal), 5);
	assert_int_equal(journal_copy_batch(w->journal, 5, &b), 0);
	assert_int_equal(b.info.prev_hash, 1);
	journal_batch_free(&b);
	world_leave(w);
	simstore_free(sim);
}

/* Even where the newest batches cannot be read, their place is not used again. */
static void a_ring_that_cannot_be_read_is_passed_by(void **state)
{
	struct simstore *sim = simstore_new();
	struct world *w = world_over(sim);
	struct journal_point at = {.seq = 4, .hash = 1};
	struct journal_status s;
	struct history h;

	(void)state;
	old_history(w, sim, &h);
	s = status_of(w);
	at.pos = h.from.pos;
	w->journal = journal_close(w->journal);
	assert_int_equal(journal_open(&w->config, &w->journal), 0);
	simstore_fail_reads(sim, simstore_reads(sim) + 1, UINT64_MAX, -EIO);
	assert_int_equal(journal_reset(w->journal, &at), 0);
	assert_true(at.pos >= h.from.pos + s.used_blocks);
	simstore_fail_reads(sim, 0, 0, 0);
	assert_int_equal(world_replay(w, &at, NEW_FIRST), 0);
	assert_int_equal(w->result.n_batches, 0);
	world_leave(w);
	simstore_free(sim);
}

static void a_reset_that_cannot_be_made_durable_is_final(void **state)
{
	(void)state;
	for (uint64_t nth = 1; nth <= 2; nth++) {
		struct simstore *sim = simstore_new();
		struct world *w = world_over(sim);
		struct journal_point at = {.seq = 4, .hash = 1};
		struct history h;
		char text[256];
		uint64_t seq;
		old_history(w, sim, &h);
		assert_int_equal(journal_commit_all(w->journal, NULL), 0);
		simstore_fail(sim, simstore_count(sim) + nth, UINT64_MAX, -EIO);
		assert_int_equal(journal_reset(w->journal, &at), -EIO);
		simstore_fail(sim, 0, 0, 0);
		assert_int_equal(at.pos, 0);
		assert_int_equal(world_append(w, NEW_FIRST, &seq), -EIO);
		assert_int_equal(journal_reset(w->journal, &at), -EIO);
		journal_failure(w->journal, text, sizeof(text));
		assert_non_null(strstr(text, "staging"));
		check_history(w, &h, UINT64_MAX);
		world_leave(w);
		simstore_free(sim);
	}
}

/* ---- cut ---- */

/* A history of batches, the newest of which are cut off: the same operations come again, in the same batches or in others. */
struct cut_life {
	struct simstore *sim; /* owned */
	struct journal_cut cut;
	struct history old, new;
	uint64_t cut_event, known_event; /* the cut begins; it is known to the next journal_open() */
};

/* Batches of `n` operations each, the last one not committed when `open`. */
static void add_batches(struct world *w, struct simstore *sim, struct history *h, unsigned batches, uint64_t n, bool open)
{
	uint64_t seq;

	for (unsigned i = 0; i < batches; i++)
		commit_ops(w, sim, h, n);
	if (open)
		assert_int_equal(world_append(w, ++h->last, &seq), 0);
}

static void cut_and_go_on(struct world *w, struct cut_life *l, uint64_t seq, uint64_t last, uint64_t n)
{
	struct journal_batch b = {0};
	uint64_t newest = status_of(w).open_seq;

	l->cut = (struct journal_cut){seq, w->config.incarnation + 1};
	l->cut_event = simstore_count(l->sim);
	assert_int_equal(journal_cut(w->journal, &l->cut), 0);
	l->known_event = simstore_mark(l->sim);
	w->config.cut = l->cut;
	w->config.incarnation = l->cut.incarnation;
	struct journal_status s = status_of(w);
	assert_true(s.durable_seq == seq - 1 && s.open_seq == seq && s.open_bytes == 0);
	for (uint64_t i = seq; i <= newest; i++)
		assert_int_equal(journal_copy_batch(w->journal, i, &b), -EAGAIN);
	assert_int_equal(journal_copy_batch(w->journal, seq - 1, &b), 0);
	journal_batch_free(&b);
	l->new = (struct history){.from = l->old.from, .first = l->old.first, .last = last};
	l->new.notes[l->new.n_notes++] = (struct note){l->known_event, last};
	add_batches(w, l->sim, &l->new, 2, n, true);
}

/* A crash before the cut was known is followed by another. */
static void check_cut_image(const struct cut_life *l, struct simstore *image, uint64_t event, uint64_t kept)
{
	bool known = event >= l->known_event;
	const struct history *h = known ? &l->new : &l->old;
	struct world *w = world_over(image);

	w->config.incarnation = l->cut.incarnation + (known ? 0 : 1); /* a mount that did not end with a cut had come to that */
	w->config.cut = known ? l->cut : (struct journal_cut){0};
	check_history(w, h, event);
	struct history next = {.from = h->from, .first = h->first, .last = w->replayed};
	assert_int_equal(journal_start(w->journal), 0);
	if (!known) {
		struct journal_cut cut = {l->cut.seq, w->config.incarnation + 1};
		assert_int_equal(journal_cut(w->journal, &cut), 0);
		w->config.cut = cut;
		w->config.incarnation = cut.incarnation;
		next.last = kept;
	}
	commit_ops(w, image, &next, 3);
	check_history(w, &next, UINT64_MAX);
	assert_int_equal(w->replayed, next.last);
	world_leave(w);
}

static void check_every_cut_off(const struct cut_life *l, struct rng *rng, uint64_t kept)
{
	struct simcut *cut = simcut_new(l->sim);
	uint64_t end = simstore_count(l->sim);

	for (uint64_t event = l->cut_event; event <= end; event++) {
		simcut_advance(cut, event);
		for (unsigned v = 0; v < SIMCUT_VARIANTS; v++) {
			struct simstore *image = simcut_image(cut, v, rng, false);
			check_cut_image(l, image, event, kept);
			simstore_free(image);
		}
	}
	simcut_free(cut);
}

static void a_crash_in_or_after_a_cut_finds_one_end(void **state)
{
	struct rng rng = {.state = test_seed(33)};

	(void)state;
	for (unsigned gone = 0; gone < 4; gone++)  /* batches cut off */
		for (uint64_t n = 5; n < 8; n++) { /* a batch; those before had 6 */
			struct cut_life l = {.sim = simstore_new()};
			struct world *w = world_over(l.sim);
			old_history(w, l.sim, &l.old);
			uint64_t seq = commit_ops(w, l.sim, &l.old, 1), kept = l.old.last;
			add_batches(w, l.sim, &l.old, gone, 6, gone % 2);
			l.old.n_notes = 0; /* of before are too old to be of use */
			l.old.notes[l.old.n_notes++] = (struct note){simstore_count(l.sim), kept + 6 * (uint64_t)gone};
			cut_and_go_on(w, &l, seq + 1, kept, n);
			world_leave(w);
			check_every_cut_off(&l, &rng, kept);
			simstore_free(l.sim);
		}
}

static void only_what_is_there_can_be_cut_off(void **state)
{
	struct simstore *sim = simstore_new();
	struct world *w = world_over(sim);
	struct history h;

	(void)state;
	old_history(w, sim, &h);
	commit_ops(w, sim, &h, 1);
	struct journal_status s = status_of(w);
	const struct journal_cut bad[] = {{s.durable_seq + 2, w->config.incarnation + 1},
					  {s.tail_seq, w->config.incarnation + 1},
					  {0, w->config.incarnation + 1},
					  {s.durable_seq, w->config.incarnation},
					  {s.durable_seq, 0}};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(journal_cut(w->journal, &bad[i]), -EINVAL);
	assert_int_equal(status_of(w).durable_seq, s.durable_seq);
	commit_ops(w, sim, &h, 2);
	check_history(w, &h, UINT64_MAX);
	assert_int_equal(w->replayed, h.last);
	world_leave(w);
	simstore_free(sim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_crash_in_or_after_a_reset_finds_one_history),
	    cmocka_unit_test(a_crash_in_a_reset_after_a_crash_in_a_reset_finds_one_history),
	    cmocka_unit_test(a_crash_in_or_after_a_cut_finds_one_end),
	    cmocka_unit_test(only_what_is_there_can_be_cut_off),
	    cmocka_unit_test(positions_are_beyond_everything_ever_used),
	    cmocka_unit_test(a_reset_journal_has_no_history),
	    cmocka_unit_test(a_ring_that_cannot_be_read_is_passed_by),
	    cmocka_unit_test(a_reset_that_cannot_be_made_durable_is_final),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	mallopt(M_MMAP_THRESHOLD, 64 << 20); /* many replays, each with a window of 10 MiB: keep the memory */
	mallopt(M_TRIM_THRESHOLD, 64 << 20);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
