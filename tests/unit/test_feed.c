/*
 * test_feed.c: the change feed against a model of the names, and at the edges: unsettled, overwritten, damaged, another history.
 *
 * Each change is made with a request number of its own, by which its records are told.  The seed of a failing case is printed;
 * SEED=N runs that one alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/core/core.h"
#include "fs/core/feed/feed.h"
#include "journal/ship.h"
#include "tests/lib/rng.h"
#include "tests/lib/simstore.h"
#include "tests/lib/steps.h"
#include "tests/unit/volume.h"

#define UNANSWERED 1
#define N_SEEDS    60u
#define N_STEPS    250u
#define NAMES_MAX  60u
#define EVENTS_MAX 4096u
#define PATHS_MAX  8u

static struct volume vol;
static uint64_t request;

static struct fs_cred asker(void)
{
	return (struct fs_cred){.uid = 7, .gid = 8, .pid = 9, .unique = ++request};
}

static int make_volume(void **state)
{
	(void)state;
	request = 1000;
	volume_open(&vol, NULL);
	return 0;
}

static int free_volume(void **state)
{
	(void)state;
	volume_close(&vol);
	return 0;
}

/* ---- what was told ---- */

struct told {
	json_t *event[EVENTS_MAX]; /* owned */
	struct feed_place after[EVENTS_MAX];
	size_t n, stop_at; /* lines after which the reader stops; 0: never */
};

static int take(void *ctx, const struct feed_line *line)
{
	struct told *t = ctx;

	if (t->stop_at && t->n == t->stop_at)
		return 1;
	assert_true(t->n < EVENTS_MAX);
	t->after[t->n] = line->after;
	t->event[t->n++] = json_deep_copy(line->event);
	return 0;
}

static void told_free(struct told *t)
{
	while (t->n)
		json_decref(t->event[--t->n]);
	*t = (struct told){0};
}

static void read_all(struct feed_names *names, struct feed_place *place, struct told *t)
{
	bool more = true;

	while (more && !(t->stop_at && t->n == t->stop_at))
		assert_int_equal(feed_read(vol.fs, names, place, take, t, &more), 0);
}

static uint64_t number(const json_t *event, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(event, key));
}

static const char *text(const json_t *event, const char *key)
{
	const char *t = json_string_value(json_object_get(event, key));

	return t ? t : "";
}

/* ---- the model: names, and what each request did ---- */

struct model_name {
	uint64_t parent, ino;
	char name[16];
	bool dir, linked;
};
struct expected {
	uint64_t request;
	const char *op;
	char path[PATHS_MAX][512]; /* any of these */
	unsigned n_paths;
	bool was_linked; /* where one of several names went, the path may be a newer one, or unknown */
	char to[512];
};
struct world {
	struct rng rng;
	struct model_name name[NAMES_MAX];
	size_t n;
	struct expected *expected; /* owned */
	size_t n_expected;
};

static const struct model_name *name_of(const struct world *w, uint64_t ino)
{
	for (size_t i = 0; i < w->n; i++)
		if (w->name[i].ino == ino)
			return &w->name[i];
	return NULL;
}

static void path_in(const struct world *w, uint64_t parent, const char *name, char ret[512])
{
	char above[512] = "";
	const struct model_name *m = parent == FS_ROOT_INO ? NULL : name_of(w, parent);

	if (m)
		path_in(w, m->parent, m->name, above);
	assert_true(snprintf(ret, 512, "%s/%s", above, name) < 512);
}

static struct expected *expect(struct world *w, const struct fs_cred *cred, const char *op)
{
	struct expected *e = &w->expected[w->n_expected++];

	*e = (struct expected){.request = cred->unique, .op = op};
	return e;
}

static void expect_inode(struct world *w, const struct fs_cred *cred, const char *op, uint64_t ino)
{
	struct expected *e = expect(w, cred, op);

	for (size_t i = 0; i < w->n && e->n_paths < PATHS_MAX; i++)
		if (w->name[i].ino == ino) {
			path_in(w, w->name[i].parent, w->name[i].name, e->path[e->n_paths++]);
			e->was_linked |= w->name[i].linked;
		}
}

static uint64_t pick_dir(struct world *w)
{
	const struct model_name *m = w->n ? &w->name[rng_below(&w->rng, w->n)] : NULL;

	return m && m->dir ? m->ino : FS_ROOT_INO;
}

static bool is_taken(const struct world *w, uint64_t parent, const char *name)
{
	for (size_t i = 0; i < w->n; i++)
		if (w->name[i].parent == parent && strcmp(w->name[i].name, name) == 0)
			return true;
	return false;
}

/* Whether `dir` is `ino` or below it. */
static bool is_inside(const struct world *w, uint64_t dir, uint64_t ino)
{
	for (const struct model_name *m; dir != FS_ROOT_INO; dir = m->parent) {
		if (dir == ino)
			return true;
		m = name_of(w, dir);
		assert_non_null(m);
	}
	return false;
}

static void new_name(struct world *w, char name[16])
{
	snprintf(name, 16, "n%u", (unsigned)rng_below(&w->rng, 30));
}

static void step_create(struct world *w)
{
	const struct fs_cred cred = asker();
	bool dir = rng_percent(&w->rng, 30);
	struct model_name m = {.parent = pick_dir(w), .dir = dir};
	struct fs_attr attr;

	new_name(w, m.name);
	if (w->n == NAMES_MAX || is_taken(w, m.parent, m.name))
		return;
	struct expected *e = expect(w, &cred, dir ? "mkdir" : "create");
	path_in(w, m.parent, m.name, e->path[e->n_paths++]);
	assert_int_equal(fs_mknod(vol.fs, &cred, m.parent, m.name, dir ? S_IFDIR | 0755 : S_IFREG | 0644, 0, &attr), 0);
	m.ino = attr.ino;
	fs_forget(vol.fs, attr.ino, 1);
	w->name[w->n++] = m;
}

static void step_link(struct world *w, struct model_name *of)
{
	const struct fs_cred cred = asker();
	struct model_name m = {.parent = pick_dir(w), .ino = of->ino, .linked = true};
	struct fs_attr attr;

	new_name(w, m.name);
	if (of->dir || w->n == NAMES_MAX || is_taken(w, m.parent, m.name))
		return;
	struct expected *e = expect(w, &cred, "link");
	path_in(w, m.parent, m.name, e->path[e->n_paths++]);
	assert_int_equal(fs_link(vol.fs, &cred, m.ino, m.parent, m.name, &attr), 0);
	fs_forget(vol.fs, attr.ino, 1);
	of->linked = true;
	w->name[w->n++] = m;
}

static void step_remove(struct world *w, const struct model_name *m)
{
	const struct fs_cred cred = asker();

	for (size_t i = 0; i < w->n; i++)
		if (m->dir && w->name[i].parent == m->ino)
			return;
	struct expected *e = expect(w, &cred, "unlink");
	path_in(w, m->parent, m->name, e->path[e->n_paths++]);
	assert_int_equal(m->dir ? fs_rmdir(vol.fs, &cred, m->parent, m->name) : fs_unlink(vol.fs, &cred, m->parent, m->name), 0);
	w->name[m - w->name] = w->name[--w->n];
}

/* To a new name, over a file, or in exchange. */
static void step_rename(struct world *w, struct model_name *m)
{
	const struct fs_cred cred = asker();
	uint64_t parent = pick_dir(w);
	char name[16];
	struct model_name *over = NULL;

	new_name(w, name);
	for (size_t i = 0; i < w->n; i++)
		if (w->name[i].parent == parent && strcmp(w->name[i].name, name) == 0)
			over = &w->name[i];
	bool exchange = over && rng_percent(&w->rng, 50);
	if (is_inside(w, parent, m->ino) || (over && (over->ino == m->ino || (!exchange && (m->dir || over->dir)))))
		return;
	if (exchange && is_inside(w, m->parent, over->ino))
		return;
	struct expected *e = expect(w, &cred, exchange ? "exchange" : "rename");
	path_in(w, m->parent, m->name, e->path[e->n_paths++]);
	path_in(w, parent, name, e->to);
	assert_int_equal(fs_rename(vol.fs, &cred, m->parent, m->name, parent, name, exchange ? RENAME_EXCHANGE : 0), 0);
	if (exchange) {
		over->parent = m->parent;
		strcpy(over->name, m->name);
	}
	m->parent = parent;
	strcpy(m->name, name);
	if (over && !exchange)
		*over = w->name[--w->n];
}

static void step_data(struct world *w, const struct model_name *m)
{
	static _Alignas(BLOCK_SIZE) uint8_t bytes[3 * BLOCK_SIZE];
	const struct fs_cred cred = asker();
	const struct record_attr mode = {.mask = ATTR_MODE, .mode = 0600};
	struct fs_attr after;

	switch (m->dir ? 2 : rng_below(&w->rng, 3)) {
	case 0:
		expect_inode(w, &cred, "write", m->ino);
		assert_int_equal(fs_write(vol.fs, &cred, m->ino, 0, 1 + rng_below(&w->rng, sizeof(bytes)), bytes, false), 0);
		break;
	case 1:
		expect_inode(w, &cred, "setattr", m->ino);
		assert_int_equal(fs_setattr(vol.fs, &cred, m->ino, &mode, &after), 0);
		break;
	default:
		expect_inode(w, &cred, "setxattr", m->ino);
		assert_int_equal(fs_setxattr(vol.fs, &cred, m->ino, "user.a", "SECRET", 6, 0), 0);
	}
}

static void step(struct world *w)
{
	unsigned kind = (unsigned)rng_below(&w->rng, 100);
	struct model_name *m = w->n ? &w->name[rng_below(&w->rng, w->n)] : NULL;

	if (!m || kind < 25)
		step_create(w);
	else if (kind < 35)
		step_link(w, m);
	else if (kind < 50)
		step_remove(w, m);
	else if (kind < 70)
		step_rename(w, m);
	else
		step_data(w, m);
}

/* ---- the feed against the model ---- */

static bool path_is_expected(const struct expected *e, const json_t *event)
{
	const char *path = text(event, "path");

	if (e->was_linked)
		return true;
	for (unsigned i = 0; i < e->n_paths; i++)
		if (strcmp(e->path[i], path) == 0)
			return true;
	return false;
}

/* Events of our requests are what was done, each once, in order; others are of the volume itself. */
static void compare(const struct world *w, const struct told *t, uint64_t seed)
{
	size_t at = 0;

	for (size_t i = 0; i < t->n; i++) {
		const json_t *event = t->event[i];
		uint64_t r = number(event, "request");

		if (i > 0) {
			uint64_t seq = number(event, "seq"), before = number(t->event[i - 1], "seq");
			bool next = seq == before ? number(event, "n") == number(t->event[i - 1], "n") + 1
						  : seq == before + 1 && number(event, "n") == 0;

			if (!next)
				fail_msg("seed %llu: batch %llu follows %llu", (unsigned long long)seed, (unsigned long long)seq,
					 (unsigned long long)before);
		}
		if (r == 0)
			continue;
		assert_true(at < w->n_expected);
		const struct expected *e = &w->expected[at++];
		if (e->request != r || strcmp(e->op, text(event, "op")) != 0 || !path_is_expected(e, event) ||
		    strcmp(e->to, text(event, "to")) != 0)
			fail_msg("seed %llu: request %llu: %s of %s to %s, told: %s of %s to %s (request %llu)",
				 (unsigned long long)seed, (unsigned long long)e->request, e->op, e->path[0], e->to,
				 text(event, "op"), text(event, "path"), text(event, "to"), (unsigned long long)r);
		assert_int_equal(number(event, "uid"), 7);
		assert_int_equal(number(event, "gid"), 8);
		assert_int_equal(number(event, "pid"), 9);
	}
	if (at != w->n_expected)
		fail_msg("seed %llu: %zu of %zu changes were told", (unsigned long long)seed, at, w->n_expected);
}

/* All of the feed as a reader without memory gets it, page by page. */
static void read_pages(struct told *t)
{
	char place[64] = "0";

	for (;;) {
		struct buf out = {0};
		json_t *event = NULL;

		assert_int_equal(feed_text(vol.fs, place, &out), 0);
		assert_true(out.len <= FEED_TEXT_MAX);
		buf_put_u8(&out, '\0');
		assert_null(strstr((char *)out.p, "SECRET")); /* a value of an attribute */
		char *save = NULL;
		for (char *line = strtok_r((char *)out.p, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
			event = json_loads(line, 0, NULL);
			assert_non_null(event);
			t->event[t->n++] = event;
		}
		buf_free(&out);
		if (!event)
			return;
		snprintf(place, sizeof(place), "%llu.%llu", (unsigned long long)number(event, "seq"),
			 (unsigned long long)number(event, "n"));
	}
}

static void run_seed(uint64_t seed)
{
	struct world w = {.expected = calloc(N_STEPS, sizeof(struct expected))};
	struct told *t = calloc(1, sizeof(*t)), *pages = calloc(1, sizeof(*pages));
	struct feed_names *names = feed_names_new();
	struct feed_place place = {0, FEED_WHOLE};

	assert_true(w.expected && t && pages && names);
	w.rng = (struct rng){seed};
	assert_int_equal(fs_sync(vol.fs), 0);
	read_all(names, &place, t); /* what the volume was made with */
	told_free(t);
	for (unsigned i = 0; i < N_STEPS; i++) {
		step(&w);
		if (rng_percent(&w.rng, 10))
			assert_int_equal(fs_sync(vol.fs), 0);
		if (rng_percent(&w.rng, 10)) { /* a few lines, or all there is */
			t->stop_at = rng_percent(&w.rng, 70) ? t->n + 1 + rng_below(&w.rng, 9) : 0;
			read_all(names, &place, t);
			t->stop_at = 0;
		}
	}
	assert_int_equal(fs_sync(vol.fs), 0);
	read_all(names, &place, t);
	compare(&w, t, seed);

	/* What was told is told again after a crash. */
	volume_reopen(&vol, true);
	read_pages(pages);
	size_t skip = 0;
	while (skip < pages->n && number(pages->event[skip], "seq") < number(t->event[0], "seq"))
		skip++;
	assert_true(pages->n - skip >= t->n);
	for (size_t i = 0; i < t->n; i++) {
		assert_int_equal(number(pages->event[skip + i], "request"), number(t->event[i], "request"));
		assert_string_equal(text(pages->event[skip + i], "op"), text(t->event[i], "op"));
	}
	told_free(t);
	told_free(pages);
	free(t);
	free(pages);
	feed_names_free(names);
	free(w.expected);
}

static void each_change_is_told_once_in_order_with_the_path_it_had(void **state)
{
	const char *one = getenv("SEED");

	(void)state;
	volume_close(&vol);
	for (uint64_t seed = one ? strtoull(one, NULL, 10) : 1; seed <= N_SEEDS || one; seed++) {
		volume_open(&vol, NULL);
		run_seed(seed);
		if (one)
			break;
		volume_close(&vol);
	}
	if (!one)
		volume_open(&vol, NULL);
}

/* ---- edges ---- */

static size_t count_from(uint64_t seq, struct told *t)
{
	struct feed_names *names = feed_names_new();
	struct feed_place place = {seq, FEED_WHOLE};

	read_all(names, &place, t);
	feed_names_free(names);
	return t->n;
}

static void change(void)
{
	const struct fs_cred cred = asker();
	const struct record_attr mode = {.mask = ATTR_MODE, .mode = 0600};
	struct fs_attr after;

	assert_int_equal(fs_setattr(vol.fs, &cred, vol.file, &mode, &after), 0);
}

static void what_is_not_durable_is_not_told(void **state)
{
	struct told t = {0};

	(void)state;
	assert_int_equal(fs_sync(vol.fs), 0);
	size_t before = count_from(0, &t);
	told_free(&t);
	change();
	assert_int_equal(count_from(0, &t), before);
	told_free(&t);
	assert_int_equal(fs_sync(vol.fs), 0);
	assert_int_equal(count_from(0, &t), before + 1);
	assert_string_equal(text(t.event[before], "path"), "/sub/name");
	told_free(&t);
}

/* Fills the ring once round. */
static void fill_ring(void)
{
	static _Alignas(BLOCK_SIZE) uint8_t bytes[16 * BLOCK_SIZE];

	for (unsigned i = 0; i < 40 * 16; i++) {
		const struct fs_cred cred = asker();

		assert_int_equal(fs_write(vol.fs, &cred, vol.file, 0, sizeof(bytes), bytes, false), 0);
		if (i % 16 != 15)
			continue;
		steps_settle(vol.fs);
	}
}

static void what_was_overwritten_is_told_as_one_gap(void **state)
{
	struct told t = {0};

	(void)state;
	fill_ring();
	uint64_t oldest = journal_oldest(vol.fs->journal);
	assert_true(oldest > 1);
	assert_true(count_from(0, &t) > 1);
	assert_string_equal(text(t.event[0], "op"), "gap");
	assert_string_equal(text(t.event[0], "why"), "overwritten");
	assert_int_equal(number(t.event[0], "from"), 1);
	assert_int_equal(number(t.event[0], "to"), oldest - 1);
	assert_int_equal(number(t.event[0], "seq"), oldest - 1); /* to go on from */
	assert_int_equal(number(t.event[1], "seq"), oldest);
	for (size_t i = 1; i < t.n; i++)
		assert_string_not_equal(text(t.event[i], "op"), "gap");
	told_free(&t);
}

/* Who stopped in the middle of a batch that is gone by now. */
static void a_gap_begins_in_the_batch_that_was_not_read_to_its_end(void **state)
{
	struct feed_names *names = feed_names_new();
	struct feed_place place;
	struct told t = {.stop_at = 1};

	(void)state;
	fill_ring();
	assert_int_equal(feed_place_parse("1.0", &place), 0);
	read_all(names, &place, &t);
	assert_string_equal(text(t.event[0], "op"), "gap");
	assert_int_equal(number(t.event[0], "from"), 1);
	feed_names_free(names);
	told_free(&t);
}

static void a_damaged_batch_is_a_gap_and_the_others_are_told(void **state)
{
	struct journal_point before;
	struct told t = {0};
	uint8_t byte;

	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		change();
		assert_int_equal(fs_sync(vol.fs), 0);
	}
	uint64_t bad = position_settled(vol.fs) - 4; /* in no staging file any more */
	assert_int_equal(journal_history_point(vol.fs->journal, bad - 1, &before), 0);
	simstore_peek(vol.sim, "journal/seg.0000", &byte, 1, before.pos * BLOCK_SIZE + BLOCK_SIZE + 9);
	byte ^= 1;
	simstore_poke(vol.sim, "journal/seg.0000", &byte, 1, before.pos * BLOCK_SIZE + BLOCK_SIZE + 9);
	count_from(bad - 2, &t);
	assert_int_equal(number(t.event[0], "seq"), bad - 1);
	assert_string_equal(text(t.event[1], "op"), "gap");
	assert_string_equal(text(t.event[1], "why"), "damaged");
	assert_int_equal(number(t.event[1], "from"), bad);
	assert_int_equal(number(t.event[1], "to"), bad);
	assert_int_equal(number(t.event[2], "seq"), bad + 1);
	assert_int_equal(t.n, 6);
	told_free(&t);
	byte ^= 1;
	simstore_poke(vol.sim, "journal/seg.0000", &byte, 1, before.pos * BLOCK_SIZE + BLOCK_SIZE + 9);
}

static void a_place_that_this_history_does_not_have_is_told(void **state)
{
	struct told t = {0};

	(void)state;
	assert_int_equal(fs_sync(vol.fs), 0);
	uint64_t newest = position_settled(vol.fs);
	assert_int_equal(count_from(newest + 7, &t), 1);
	assert_string_equal(text(t.event[0], "why"), "history");
	assert_int_equal(number(t.event[0], "to"), newest);
	assert_int_equal(t.after[0].seq, newest);
	told_free(&t);
	assert_int_equal(count_from(newest, &t), 0);
}

static void places_are_parsed_exactly(void **state)
{
	static const char *const wrong[] = {"",
					    ".",
					    "1.",
					    ".1",
					    "x",
					    "1x",
					    "1.x",
					    " 1",
					    "1 ",
					    "-1",
					    "+1",
					    "1.2.3",
					    "1.-1",
					    "9223372036854775808",
					    "99999999999999999999",
					    "1.4294967295",
					    "1.4294967294"};
	struct feed_place p;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		if (feed_place_parse(wrong[i], &p) != -EINVAL)
			fail_msg("\"%s\" was taken", wrong[i]);
	assert_int_equal(feed_place_parse("0", &p), 0);
	assert_true(p.seq == 0 && p.next == FEED_WHOLE);
	assert_int_equal(feed_place_parse("9223372036854775807", &p), 0);
	assert_true(p.seq == INT64_MAX && p.next == FEED_WHOLE);
	assert_int_equal(feed_place_parse("12.0", &p), 0);
	assert_true(p.seq == 12 && p.next == 1);
	assert_int_equal(feed_place_parse("12.4294967293", &p), 0);
	assert_true(p.next == FEED_WHOLE - 1);
}

struct waiting {
	struct journal_waiter w;
	int result;
};

static void answered(struct journal_waiter *w, int result)
{
	container_of(w, struct waiting, w)->result = result;
}

static void who_waits_is_answered_when_the_batch_is_durable(void **state)
{
	struct waiting a = {.w.done = answered, .result = UNANSWERED}, shown = a, there = a, late = a, given_up = a;
	int64_t next;

	(void)state;
	assert_int_equal(fs_sync(vol.fs), 0);
	uint64_t newest = position_settled(vol.fs);
	fs_wait_settled_async(vol.fs, newest, 0, &there.w);
	assert_int_equal(there.result, 0);
	fs_wait_settled_async(vol.fs, newest + 1, NSEC_PER_SEC, &a.w);
	fs_wait_pos_async(vol.fs, newest + 1, NSEC_PER_SEC, &shown.w);
	fs_wait_settled_async(vol.fs, newest + 9, 0, &late.w);
	fs_wait_settled_async(vol.fs, newest + 9, NSEC_PER_SEC, &given_up.w);
	fs_wait_step(vol.fs, &next);
	assert_int_equal(late.result, -ETIMEDOUT);
	assert_true(fs_interrupt(vol.fs, &given_up.w));
	change();
	assert_int_equal(shown.result, 0); /* it can be read here */
	assert_int_equal(a.result, UNANSWERED);
	assert_int_equal(fs_sync(vol.fs), 0);
	assert_int_equal(a.result, 0);
	fs_wait_settled_async(vol.fs, newest + 9, NSEC_PER_SEC, &late.w);
	fs_end_waits(vol.fs);
	assert_int_equal(late.result, -EIO);
	assert_int_equal(given_up.result, UNANSWERED);
}

/* The inode remembers its newest name only; who has read of the older one before knows it, from one page to the next. */
static void a_reader_that_comes_back_knows_the_names_it_read(void **state)
{
	struct fs_attr attr;
	struct buf out = {0};
	char place[64];

	(void)state;
	assert_int_equal(fs_link(vol.fs, &root, vol.file, FS_ROOT_INO, "second", &attr), 0);
	assert_int_equal(fs_sync(vol.fs), 0);
	assert_int_equal(feed_text(vol.fs, "0", &out), 0);
	buf_put_u8(&out, '\0');
	assert_non_null(strstr((char *)out.p, "\"path\":\"/second\""));
	uint64_t seq = position_settled(vol.fs);
	buf_free(&out);
	assert_int_equal(fs_unlink(vol.fs, &root, FS_ROOT_INO, "second"), 0);
	assert_int_equal(fs_sync(vol.fs), 0);
	change();
	assert_int_equal(fs_sync(vol.fs), 0);
	for (unsigned n = 0; n < 4; n++) { /* however it says where it was: some of these are no end of a page */
		snprintf(place, sizeof(place), "%llu.%u", (unsigned long long)seq, n);
		assert_int_equal(feed_text(vol.fs, place, &out), 0);
		buf_put_u8(&out, '\0');
		if (strstr((char *)out.p, "\"path\":\"/sub/name\""))
			break;
		buf_free(&out);
	}
	assert_non_null(out.p);
	buf_free(&out);
}

/* A checkpoint leaves what a reader has not read yet, so the next mount still has it. */
static void a_reader_goes_on_after_a_restart_without_a_gap(void **state)
{
	char place[64];
	json_t *event = NULL;

	(void)state;
	for (unsigned turn = 0; turn < 6; turn++) {
		struct buf out = {0};
		size_t n = 0;

		snprintf(place, sizeof(place), "%llu", event ? (unsigned long long)number(event, "seq") : 0ULL);
		json_decref(event);
		event = NULL;
		change();
		assert_int_equal(fs_sync(vol.fs), 0);
		assert_int_equal(feed_text(vol.fs, place, &out), 0);
		buf_put_u8(&out, '\0');
		char *save = NULL;
		for (char *line = strtok_r((char *)out.p, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
			json_decref(event);
			event = json_loads(line, 0, NULL);
			if (strcmp(text(event, "op"), "gap") == 0)
				fail_msg("turn %u: %s", turn, line);
			n += number(event, "uid") == 7;
		}
		assert_true(json_is_true(json_object_get(event, "last")));
		assert_int_equal(n, turn == 0 ? 1 : 2);
		buf_free(&out);
		change(); /* not read before the restart */
		assert_int_equal(fs_sync(vol.fs), 0);
		volume_reopen(&vol, turn % 2);
	}
	json_decref(event);
}

static void bytes_that_are_no_text_are_told_in_hex(void **state)
{
	const struct fs_cred cred = asker();
	struct fs_attr attr;
	struct told t = {0};

	(void)state;
	assert_int_equal(fs_mknod(vol.fs, &cred, vol.dir, "a\xff\n", S_IFREG | 0644, 0, &attr), 0);
	assert_int_equal(fs_sync(vol.fs), 0);
	const json_t *event = t.event[count_from(position_settled(vol.fs) - 1, &t) - 1];
	assert_string_equal(text(event, "name_hex"), "61ff0a");
	assert_string_equal(text(event, "path_hex"), "2f7375622f61ff0a");
	assert_null(json_object_get(event, "path"));
	told_free(&t);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, make_volume, free_volume)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(each_change_is_told_once_in_order_with_the_path_it_had),
	    CASE(what_is_not_durable_is_not_told),
	    CASE(what_was_overwritten_is_told_as_one_gap),
	    CASE(a_gap_begins_in_the_batch_that_was_not_read_to_its_end),
	    CASE(a_damaged_batch_is_a_gap_and_the_others_are_told),
	    CASE(a_place_that_this_history_does_not_have_is_told),
	    CASE(places_are_parsed_exactly),
	    CASE(who_waits_is_answered_when_the_batch_is_durable),
	    CASE(a_reader_that_comes_back_knows_the_names_it_read),
	    CASE(a_reader_goes_on_after_a_restart_without_a_gap),
	    CASE(bytes_that_are_no_text_are_told_in_hex),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
