/*
 * test_audit_log.c: the audit log as files: every bit, byte, entry, segment and crash.
 *
 * Crashes are enumerated over the simulated store: each event, in each way.  SEED=N makes the choices of that seed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/core/audit/log.h"
#include "tests/lib/rng.h"
#include "tests/lib/simstore.h"

#define SEGMENT   (2 * DISK_BLOCK)
#define FILES_MAX 40u

static const uint8_t volume[16] = "volume.........", node[16] = "node...........";

static uint64_t seed(void)
{
	const char *env = getenv("SEED");

	return env ? strtoull(env, NULL, 10) : 1;
}

/* ---- a log's files in memory ---- */

struct file {
	char name[64];
	uint8_t p[SEGMENT];
	size_t size;
	bool there;
};
struct files {
	struct file file[FILES_MAX];
	size_t n;
};

static struct file *file_of(const struct files *f, const char *name)
{
	for (size_t i = 0; i < f->n; i++)
		if (f->file[i].there && strcmp(f->file[i].name, name) == 0)
			return (struct file *)(uintptr_t)&f->file[i];
	return NULL;
}

static struct file *segment_of(const struct files *f, uint32_t segment)
{
	char name[AUDIT_NAME_MAX];

	audit_segment_name(segment, name);
	return file_of(f, name);
}

static int read_memory(void *ctx, const char *name, struct buf *out)
{
	const struct file *file = file_of(ctx, name);

	if (!file)
		return -ENOENT;
	buf_put(out, file->p, file->size);
	return 0;
}

static void load(struct simstore *sim, struct files *ret)
{
	struct simstore_file all[FILES_MAX];

	ret->n = simstore_files(sim, all, FILES_MAX);
	assert_true(ret->n <= FILES_MAX);
	for (size_t i = 0; i < ret->n; i++) {
		struct file *f = &ret->file[i];

		assert_true(all[i].size <= sizeof(f->p));
		*f = (struct file){.size = all[i].size, .there = true};
		memcpy(f->name, all[i].name, sizeof(f->name));
		simstore_peek(sim, f->name, f->p, f->size, 0);
	}
}

static struct audit_source source_of(struct files *f)
{
	struct audit_source s = {.read = read_memory, .ctx = f, .first = UINT32_MAX};

	for (size_t i = 0; i < f->n; i++) {
		unsigned k;

		if (!f->file[i].there || sscanf(f->file[i].name, "audit/seg.%08u", &k) != 1)
			continue;
		s.any = true;
		s.first = k < s.first ? k : s.first;
		s.last = k > s.last ? k : s.last;
	}
	return s;
}

/* Numbers of the entries that the tests added, by their text. */
struct seen {
	uint64_t value[2000];
	size_t n;
};

static int see(void *ctx, const struct audit_line *line, const json_t *body)
{
	struct seen *s = ctx;
	const json_t *value = json_object_get(body, "value");

	(void)line;
	if (value) {
		assert_true(s->n < ARRAY_SIZE(s->value));
		s->value[s->n++] = (uint64_t)json_integer_value(value);
	}
	return 0;
}

static int verify(struct files *f, const uint8_t *expected, struct seen *seen, struct audit_report *ret)
{
	const struct audit_source s = source_of(f);

	struct audit_chain kept = {0};

	if (expected)
		memcpy(kept.hash, expected, sizeof(kept.hash));
	seen->n = 0;
	return audit_verify(&s, expected ? &kept : NULL, see, seen, ret);
}

/* ---- a log being written ---- */

static struct store *lent; /* of the newest log */

static struct audit_log *begin_with(struct simstore *sim, uint32_t keep, struct audit_log_found *found)
{
	store_close(lent);
	lent = simstore_open(sim);

	const struct audit_log_config c = {.store = lent, .clock = &clock_system, .segment_bytes = SEGMENT, .keep = keep};
	struct audit_log_config config = c;
	struct audit_log *log = NULL;

	memcpy(config.volume, volume, sizeof(volume));
	memcpy(config.node, node, sizeof(node));
	assert_int_equal(audit_log_open(&config, NULL, NULL, found, &log), 0);
	return log;
}

static struct audit_log *begin(struct simstore *sim)
{
	struct audit_log_found found;

	return begin_with(sim, 1000, &found);
}

/* One of about 300 bytes. */
static int add(struct audit_log *log, uint64_t value)
{
	char text[512];

	snprintf(text, sizeof(text), "\"kind\":\"act\",\"value\":%llu,\"pad\":\"%0*d\"", (unsigned long long)value, 200, 0);
	return audit_log_append(log, &(struct slice){text, strlen(text)}, 1, NULL);
}

/* Closed, with entries 1 .. n. */
static struct simstore *make(uint64_t n, uint32_t keep)
{
	struct simstore *sim = simstore_new();
	struct audit_log_found found;
	struct audit_log *log = begin_with(sim, keep, &found);

	for (uint64_t i = 1; i <= n; i++)
		assert_int_equal(add(log, i), 0);
	audit_log_close(log);
	return sim;
}

static void assert_whole(struct files *f, uint64_t n)
{
	struct audit_report rep;
	static struct seen seen;

	assert_int_equal(verify(f, NULL, &seen, &rep), 0);
	if (rep.damaged)
		fail_msg("damaged: %s", rep.what);
	assert_int_equal(seen.n, n);
	for (size_t i = 0; i < seen.n; i++)
		assert_int_equal(seen.value[i], i + 1);
}

static void assert_damaged(struct files *f, const char *how)
{
	struct audit_report rep;
	static struct seen seen;
	int r = verify(f, NULL, &seen, &rep);

	if (r != 0 || !rep.damaged)
		fail_msg("%s was not found", how);
	assert_true(*rep.what);
}

static void what_was_written_is_there_and_whole(void **state)
{
	static struct files f;

	(void)state;
	for (uint64_t n = 1; n < 120; n += 7) {
		struct simstore *sim = make(n, 1000);

		load(sim, &f);
		assert_whole(&f, n);
		simstore_free(sim);
	}
}

static void a_log_goes_on_after_each_mount(void **state)
{
	struct simstore *sim = simstore_new();
	static struct files f;

	(void)state;
	for (uint64_t i = 1; i <= 60; i++) {
		struct audit_log *log = begin(sim);

		assert_int_equal(add(log, i), 0);
		if (i % 3)
			audit_log_close(log);
		else
			audit_log_abandon(log);
	}
	load(sim, &f);
	assert_whole(&f, 60);
	simstore_free(sim);
}

/* Every bit of what was written, or one of each byte; of the zeros behind it one of each byte. */
static size_t flip_bits(uint64_t n_entries, bool every)
{
	struct rng rng = {.state = seed()};
	struct simstore *sim = make(n_entries, 1000);
	static struct files f;
	char how[128];
	size_t n_flipped = 0;

	load(sim, &f);
	for (size_t i = 0; i < f.n; i++)
		for (size_t at = 0; at < f.file[i].size; at++) {
			bool all = every && f.file[i].p[at] != 0;
			unsigned one = (unsigned)rng_below(&rng, 8);

			for (unsigned bit = all ? 0 : one; bit < (all ? 8 : one + 1); bit++, n_flipped++) {
				f.file[i].p[at] ^= (uint8_t)(1 << bit);
				snprintf(how, sizeof(how), "bit %u of byte %zu of %s", bit, at, f.file[i].name);
				assert_damaged(&f, how);
				f.file[i].p[at] ^= (uint8_t)(1 << bit);
			}
		}
	assert_whole(&f, n_entries);
	simstore_free(sim);
	return n_flipped;
}

static void every_flipped_bit_is_found(void **state)
{
	(void)state;
	assert_true(flip_bits(3, true) > 8 * 1000 + SEGMENT); /* one segment */
	assert_true(flip_bits(30, false) >= 2 * SEGMENT);     /* a full one, and a part of the next */
}

/* Zeros, as after a hole was punched, or nothing at all. */
static void every_cut_off_end_is_found(void **state)
{
	struct simstore *sim = make(30, 1000);
	static struct files whole, f;
	char how[64];

	(void)state;
	load(sim, &whole);
	for (uint32_t segment = 0; segment < 2; segment++) {
		size_t used = strlen((const char *)segment_of(&whole, segment)->p);

		for (size_t to = 0; to < used; to++) {
			f = whole;
			memset(segment_of(&f, segment)->p + to, 0, SEGMENT - to);
			snprintf(how, sizeof(how), "segment %u zeroed from byte %zu on", segment, to);
			assert_damaged(&f, how);
			if (to % 97)
				continue;
			f = whole;
			segment_of(&f, segment)->size = to;
			snprintf(how, sizeof(how), "segment %u cut to %zu bytes", segment, to);
			assert_damaged(&f, how);
		}
	}
	simstore_free(sim);
}

static void every_missing_doubled_or_moved_segment_is_found(void **state)
{
	struct simstore *sim = make(130, 1000);
	static struct files whole, f;
	struct file *a, *b;
	char how[64];

	(void)state;
	load(sim, &whole);
	const struct audit_source s = source_of(&whole);
	assert_true(s.last >= 4);
	for (uint32_t i = 0; i <= s.last; i++) {
		f = whole;
		segment_of(&f, i)->there = false;
		snprintf(how, sizeof(how), "segment %u missing", i);
		assert_damaged(&f, how);
		for (uint32_t k = 0; k <= s.last; k++) {
			if (k == i)
				continue;
			f = whole;
			a = segment_of(&f, i);
			b = segment_of(&f, k);
			memcpy(a->p, b->p, SEGMENT);
			snprintf(how, sizeof(how), "segment %u in place of %u", k, i);
			assert_damaged(&f, how);
			memcpy(b->p, segment_of(&whole, i)->p, SEGMENT);
			snprintf(how, sizeof(how), "segments %u and %u exchanged", k, i);
			assert_damaged(&f, how);
		}
		f = whole; /* one more than there were */
		f.file[f.n] = *segment_of(&whole, i);
		audit_segment_name(s.last + 1, f.file[f.n++].name);
		snprintf(how, sizeof(how), "segment %u once more at the end", i);
		assert_damaged(&f, how);
	}
	for (unsigned i = 0; i < 3; i++) {
		f = whole;
		if (i != 1)
			file_of(&f, AUDIT_HEAD)->there = false;
		if (i != 0)
			file_of(&f, AUDIT_HEAD_TOO)->there = false;
		assert_damaged(&f, "missing heads");
	}
	simstore_free(sim);
}

/* Lines of a segment: *ret[i] is where line i begins; the end is one more. */
static size_t lines_of(const struct file *file, size_t ret[100])
{
	size_t n = 0, at = 0;

	while (file->p[at]) {
		ret[n++] = at;
		at += (size_t)((const uint8_t *)memchr(file->p + at, '\n', SEGMENT - at) - (file->p + at)) + 1;
	}
	ret[n] = at;
	return n;
}

static void every_missing_doubled_or_moved_entry_is_found(void **state)
{
	struct simstore *sim = make(40, 1000);
	static struct files whole, f;
	size_t line[100];
	char how[64];

	(void)state;
	load(sim, &whole);
	for (uint32_t segment = 0; segment < 2; segment++) {
		const struct file *old = segment_of(&whole, segment);
		size_t n = lines_of(old, line);

		for (size_t i = 0; i < n; i++)
			for (size_t k = 0; k <= n; k++) { /* line i goes before line k, or also there; k == i: away */
				for (unsigned doubled = 0; doubled < 2; doubled++) {
					if (k == i + 1 && !doubled)
						continue; /* where it is */
					f = whole;
					struct file *new = segment_of(&f, segment);
					size_t at = 0;

					memset(new->p, 0, SEGMENT);
					for (size_t l = 0; l <= n; l++) {
						if (l == k && (k != i || doubled)) {
							if (at + line[i + 1] - line[i] > SEGMENT)
								break;
							memcpy(new->p + at, old->p + line[i], line[i + 1] - line[i]);
							at += line[i + 1] - line[i];
						}
						if (l == n || (l == i && !doubled))
							continue;
						if (at + line[l + 1] - line[l] > SEGMENT)
							break;
						memcpy(new->p + at, old->p + line[l], line[l + 1] - line[l]);
						at += line[l + 1] - line[l];
					}
					if (memcmp(new->p, old->p, SEGMENT) == 0)
						continue; /* the second one has no room */
					snprintf(how, sizeof(how), "line %zu of segment %u before %zu, doubled %u", i, segment, k,
						 doubled);
					assert_damaged(&f, how);
				}
			}
	}
	simstore_free(sim);
}

/* Whoever can write all files can write another log; only what was kept elsewhere tells. */
static void a_log_written_anew_is_found_by_a_head_that_was_kept(void **state)
{
	struct simstore *sim = make(30, 1000), *forged = simstore_new();
	static struct files f;
	struct audit_report rep;
	static struct seen seen;
	uint8_t kept[AUDIT_HASH_BYTES];

	(void)state;
	load(sim, &f);
	assert_int_equal(verify(&f, NULL, &seen, &rep), 0);
	memcpy(kept, rep.head, sizeof(kept));
	assert_int_equal(verify(&f, kept, &seen, &rep), 0);
	assert_false(rep.damaged);
	assert_true(rep.kept_found);

	struct audit_log *log = begin(forged);
	for (uint64_t i = 1; i <= 30; i++)
		assert_int_equal(add(log, i == 7 ? 99 : i), 0);
	audit_log_close(log);
	load(forged, &f);
	assert_int_equal(verify(&f, NULL, &seen, &rep), 0);
	assert_false(rep.damaged);
	assert_int_equal(verify(&f, kept, &seen, &rep), 0);
	assert_true(rep.damaged);
	simstore_free(sim);
	simstore_free(forged);
}

/* ---- crashes ---- */

struct story {
	struct simstore *sim;
	uint64_t acked_at[400]; /* event at which value i was acknowledged */
	uint64_t n;
};

/* Some mounts, closed or killed, with several entries an append now and then. */
static void tell(struct story *t, unsigned mounts, uint32_t keep)
{
	struct audit_log_found found;

	for (unsigned m = 0; m < mounts; m++) {
		struct audit_log *log = begin_with(t->sim, keep, &found);

		assert_string_equal(found.what, "");
		for (unsigned i = 0; i < 19; i++) {
			t->n++;
			assert_int_equal(add(log, t->n), 0);
			t->acked_at[t->n] = simstore_mark(t->sim);
		}
		if (m % 2)
			audit_log_close(log);
		else
			audit_log_abandon(log);
	}
}

/* What a crash left is no damage, has all that was acknowledged, and goes on. */
static void check_image(const struct story *t, uint64_t event, enum simcut_variant v, struct simstore *image)
{
	static struct files f;
	struct audit_report rep;
	static struct seen seen;
	struct audit_log_found found;
	uint64_t acked = 0;

	while (acked < t->n && t->acked_at[acked + 1] && t->acked_at[acked + 1] <= event)
		acked++;
	for (unsigned turn = 0; turn < 2; turn++) {
		load(image, &f);
		int r = verify(&f, NULL, &seen, &rep);
		if (r == -ENOENT && acked == 0 && turn == 0)
			seen.n = 0;
		else if (r < 0 || rep.damaged)
			fail_msg("cut at %llu (%s), turn %u: %d, %s", (unsigned long long)event, simcut_variant_name(v), turn, r,
				 rep.what);
		uint64_t last = seen.n ? seen.value[seen.n - 1] : 0;
		if (turn == 0 && last < acked)
			fail_msg("cut at %llu (%s): %llu of %llu acknowledged entries", (unsigned long long)event,
				 simcut_variant_name(v), (unsigned long long)last, (unsigned long long)acked);
		for (size_t i = 1; i < seen.n; i++)
			assert_true(seen.value[i] == seen.value[i - 1] + 1 || seen.value[i] == 9999);
		if (turn == 1) {
			assert_int_equal(last, 9999);
			return;
		}
		struct audit_log *log = begin_with(image, 3, &found);
		if (*found.what)
			fail_msg("cut at %llu (%s): found %s", (unsigned long long)event, simcut_variant_name(v), found.what);
		assert_int_equal(add(log, 9999), 0);
		audit_log_close(log);
	}
}

static void a_crash_at_any_write_is_no_damage_and_loses_nothing_acknowledged(void **state)
{
	struct rng rng = {.state = seed()};
	struct story t = {.sim = simstore_new()};
	uint64_t n_images = 0;

	(void)state;
	tell(&t, 5, 3);
	struct simcut *cut = simcut_new(t.sim);
	for (uint64_t event = 0; event <= simstore_count(t.sim); event++) {
		simcut_advance(cut, event);
		for (unsigned v = 0; v < SIMCUT_VARIANTS; v++, n_images++) {
			struct simstore *image = simcut_image(cut, v, &rng, false);

			check_image(&t, event, v, image);
			simstore_free(image);
		}
	}
	simcut_free(cut);
	simstore_free(t.sim);
	print_message("%llu images\n", (unsigned long long)n_images);
}

/* A crash, a mount that begins another segment behind what was torn, and a crash in that. */
static void a_crash_while_taking_up_after_a_crash_is_no_damage(void **state)
{
	struct rng rng = {.state = seed() + 1};
	struct story t = {.sim = simstore_new()};

	(void)state;
	tell(&t, 2, 1000);
	struct simcut *cut = simcut_new(t.sim);
	for (uint64_t event = simstore_count(t.sim) - 60; event <= simstore_count(t.sim); event++) {
		simcut_advance(cut, event);
		struct story second = {.sim = simcut_image(cut, SIMCUT_TORN, &rng, true)};
		struct audit_log_found found;
		struct audit_log *log = begin_with(second.sim, 1000, &found);
		while (second.n < t.n && t.acked_at[second.n + 1] <= event)
			second.acked_at[++second.n] = 0; /* before everything */
		uint64_t before = second.n;
		assert_int_equal(add(log, before + 1), 0);
		audit_log_abandon(log);
		struct simcut *again = simcut_new(second.sim);
		for (uint64_t e = 0; e <= simstore_count(second.sim); e++) {
			simcut_advance(again, e);
			struct simstore *image =
			    simcut_image(again, (enum simcut_variant)rng_below(&rng, SIMCUT_VARIANTS), &rng, false);
			static struct files f;
			struct audit_report rep;
			static struct seen seen;

			load(image, &f);
			assert_int_equal(verify(&f, NULL, &seen, &rep), 0);
			if (rep.damaged)
				fail_msg("cuts at %llu and %llu: %s", (unsigned long long)event, (unsigned long long)e, rep.what);
			assert_true(seen.n >= before);
			simstore_free(image);
		}
		simcut_free(again);
		simstore_free(second.sim);
	}
	simcut_free(cut);
	simstore_free(t.sim);
}

/* ---- failures ---- */

/* Each event fails once, or from then on for a while: what was answered with success is there, the log is whole, and goes on. */
static void after_any_failure_the_log_goes_on_and_is_whole(void **state)
{
	static const int errors[] = {-EIO, -ENOSPC};
	static struct files f;
	struct audit_report rep;
	static struct seen seen;
	uint64_t n_failed = 0;

	(void)state;
	for (size_t e = 0; e < ARRAY_SIZE(errors); e++)
		for (uint64_t count = 1; count <= 9; count += 4)
			for (uint64_t at = 1; at < 130; at++) {
				struct simstore *sim = simstore_new();
				bool acked[60] = {false};
				struct audit_log *log = begin(sim);

				simstore_fail(sim, at, count, errors[e]);
				for (uint64_t i = 1; i <= 50; i++) {
					acked[i] = add(log, i) == 0;
					n_failed += !acked[i];
				}
				if (at % 2)
					audit_log_abandon(log);
				else
					audit_log_close(log);
				load(sim, &f);
				assert_int_equal(verify(&f, NULL, &seen, &rep), 0);
				if (rep.damaged)
					fail_msg("error %d from event %llu on, %llu times: %s", errors[e], (unsigned long long)at,
						 (unsigned long long)count, rep.what);
				for (uint64_t i = 1; i <= 50; i++) {
					bool found = false;

					for (size_t k = 0; k < seen.n; k++)
						found |= seen.value[k] == i;
					if (acked[i] && !found)
						fail_msg("error from event %llu on: entry %llu is gone", (unsigned long long)at,
							 (unsigned long long)i);
				}
				simstore_free(sim);
			}
	assert_true(n_failed > 100);
}

/* ---- age, and damage that was met ---- */

static void old_segments_go_and_the_rest_is_whole(void **state)
{
	struct simstore *sim = make(150, 3);
	static struct files f, less;
	struct audit_report rep;
	static struct seen seen;

	(void)state;
	load(sim, &f);
	const struct audit_source s = source_of(&f);
	assert_int_equal(s.last - s.first + 1, 3);
	assert_int_equal(verify(&f, NULL, &seen, &rep), 0);
	assert_false(rep.damaged);
	assert_int_equal(seen.value[seen.n - 1], 150);
	less = f; /* one that was not dropped for its age */
	segment_of(&less, s.first)->there = false;
	assert_damaged(&less, "the oldest segment missing");
	simstore_free(sim);
}

static void a_damaged_end_is_told_and_stays_to_be_seen(void **state)
{
	struct simstore *sim = make(10, 1000);
	struct audit_log_found found;
	static struct files f;
	struct audit_report rep;
	static struct seen seen;
	size_t line[100];
	uint8_t byte;

	(void)state;
	load(sim, &f);
	size_t n = lines_of(segment_of(&f, 0), line);
	byte = segment_of(&f, 0)->p[line[n - 3] + 20] ^ 1;
	simstore_poke(sim, "audit/seg.00000000", &byte, 1, line[n - 3] + 20);
	struct audit_log *log = begin_with(sim, 1000, &found);
	assert_true(found.begun);
	assert_non_null(strstr(found.what, "damaged or gone"));
	assert_int_equal(add(log, 11), 0);
	audit_log_close(log);
	load(sim, &f);
	assert_int_equal(verify(&f, NULL, &seen, &rep), 0);
	assert_true(rep.damaged);
	assert_int_equal(seen.n, 8); /* 1 to 7, and 11 */
	assert_int_equal(seen.value[7], 11);
	log = begin_with(sim, 1000, &found); /* told once */
	assert_string_equal(found.what, "");
	audit_log_close(log);
	simstore_free(sim);
}

static void what_does_not_fit_into_a_segment_is_refused(void **state)
{
	static char text[2 * SEGMENT];
	struct simstore *sim = simstore_new();
	struct audit_log *log = begin(sim);
	static struct files f;

	(void)state;
	memset(text, '1', sizeof(text));
	memcpy(text, "\"x\":", 4);
	assert_int_equal(audit_log_append(log, &(struct slice){text, SEGMENT}, 1, NULL), -E2BIG);
	assert_int_equal(add(log, 1), 0);
	assert_int_equal(audit_log_append(log, &(struct slice){text, sizeof(text)}, 1, NULL), -E2BIG);
	assert_int_equal(add(log, 2), 0);
	audit_log_close(log);
	load(sim, &f);
	assert_whole(&f, 2);
	simstore_free(sim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_was_written_is_there_and_whole),
	    cmocka_unit_test(a_log_goes_on_after_each_mount),
	    cmocka_unit_test(every_flipped_bit_is_found),
	    cmocka_unit_test(every_cut_off_end_is_found),
	    cmocka_unit_test(every_missing_doubled_or_moved_segment_is_found),
	    cmocka_unit_test(every_missing_doubled_or_moved_entry_is_found),
	    cmocka_unit_test(a_log_written_anew_is_found_by_a_head_that_was_kept),
	    cmocka_unit_test(a_crash_at_any_write_is_no_damage_and_loses_nothing_acknowledged),
	    cmocka_unit_test(a_crash_while_taking_up_after_a_crash_is_no_damage),
	    cmocka_unit_test(after_any_failure_the_log_goes_on_and_is_whole),
	    cmocka_unit_test(old_segments_go_and_the_rest_is_whole),
	    cmocka_unit_test(a_damaged_end_is_told_and_stays_to_be_seen),
	    cmocka_unit_test(what_does_not_fit_into_a_segment_is_refused),
	};

	print_message("seed %llu\n", (unsigned long long)seed());
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	store_close(lent);
	return r;
}
