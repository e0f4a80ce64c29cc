/*
 * test_refs.c: refs.h: counts against a naive table, the rules for orphans, and threads.
 *
 * Run under TSan too: the threads share the shards and nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "fs/core/refs.h"
#include "tests/lib/rng.h"
#include "tests/unit/tempdir.h"

static int make_refs(void **state)
{
	struct refs *r;

	assert_int_equal(refs_new(&r), 0);
	*state = r;
	return 0;
}

static int free_refs(void **state)
{
	assert_null(refs_free(*state));
	assert_null(refs_free(NULL));
	return 0;
}

static void a_reference_lasts_until_it_is_dropped(void **state)
{
	struct refs *r = *state;

	assert_int_equal(refs_get(r, 7), 0);
	assert_int_equal(refs_add(r, 7, 2), 0);
	assert_int_equal(refs_add(r, 7, 1), 0);
	assert_int_equal(refs_get(r, 7), 3);
	assert_int_equal(refs_count(r), 1);
	assert_false(refs_drop(r, 7, 2));
	assert_int_equal(refs_get(r, 7), 1);
	assert_false(refs_drop(r, 7, 1)); /* it has a name: nobody reaps it */
	assert_int_equal(refs_get(r, 7), 0);
	assert_int_equal(refs_count(r), 0);
}

static void dropping_more_than_there_is_ends_at_nothing(void **state)
{
	struct refs *r = *state;

	assert_false(refs_drop(r, 7, 1));
	assert_int_equal(refs_add(r, 7, 2), 0);
	assert_false(refs_drop(r, 7, UINT64_MAX));
	assert_int_equal(refs_get(r, 7), 0);
	assert_int_equal(refs_add(r, 8, 2), 0);
	assert_false(refs_orphan(r, 8));
	assert_true(refs_drop(r, 8, 3));
	assert_int_equal(refs_count(r), 0);
}

static void an_orphan_nobody_knows_is_reaped_at_once(void **state)
{
	struct refs *r = *state;

	assert_true(refs_orphan(r, 9));
	assert_int_equal(refs_count(r), 0);
}

static void an_open_orphan_is_reaped_by_whoever_drops_it_last(void **state)
{
	struct refs *r = *state;

	assert_int_equal(refs_add(r, 9, 3), 0);
	assert_false(refs_orphan(r, 9));
	assert_int_equal(refs_get(r, 9), 3);
	assert_false(refs_drop(r, 9, 1));
	assert_int_equal(refs_add(r, 9, 1), 0); /* the kernel may still name it */
	assert_false(refs_drop(r, 9, 2));
	assert_true(refs_drop(r, 9, 1));
	assert_int_equal(refs_count(r), 0);
	assert_int_equal(refs_add(r, 9, 1), 0); /* another inode's life under the same number */
	assert_false(refs_drop(r, 9, 1));
}

struct seen {
	struct refs *refs;
	uint64_t n, sum;
};

static void see_and_drop(void *ctx, uint64_t ino)
{
	struct seen *s = ctx;

	s->n++;
	s->sum += ino;
	(void)refs_drop(s->refs, ino, UINT64_MAX); /* no lock is held: it may */
}

static void each_inode_with_references_is_told_once(void **state)
{
	struct seen s = {.refs = *state};
	uint64_t sum = 0;

	assert_int_equal(refs_each(s.refs, see_and_drop, &s), 0);
	assert_int_equal(s.n, 0);
	for (uint64_t ino = 1; ino <= 1000; ino++, sum += ino - 1)
		assert_int_equal(refs_add(s.refs, ino, ino), 0);
	assert_false(refs_drop(s.refs, 500, 500)); /* known no more */
	assert_int_equal(refs_each(s.refs, see_and_drop, &s), 0);
	assert_int_equal(s.n, 999);
	assert_int_equal(s.sum, sum - 500);
	assert_int_equal(refs_count(s.refs), 0);
}

#define INOS 3000u

struct naive {
	uint64_t count[INOS];
	bool orphan[INOS];
	uint64_t known;
};

static uint64_t ino_of(uint64_t i)
{
	return 1 + i * (i % 3 ? 1 : UINT64_C(0x100000001));
} /* dense and far apart */

static void random_adds_and_drops_agree_with_a_naive_table(void **state)
{
	struct rng g = {.state = test_seed(1)};
	static struct naive m;
	struct refs *r = *state;

	memset(&m, 0, sizeof(m));
	for (unsigned n = 0; n < 400000; n++) {
		unsigned phase = n / 40000; /* grows, then shrinks: many erased entries close to one another */
		uint64_t i = rng_below(&g, INOS), ino = ino_of(i), some = rng_between(&g, 1, 4), *count = &m.count[i];

		if (rng_percent(&g, phase % 2 ? 25 : 60)) {
			assert_int_equal(refs_add(r, ino, some), 0);
			m.known += *count == 0;
			*count += some;
		} else if (rng_percent(&g, 10)) {
			assert_int_equal(refs_orphan(r, ino), *count == 0);
			m.orphan[i] |= *count > 0;
		} else {
			bool last = *count > 0 && *count <= some;

			assert_int_equal(refs_drop(r, ino, some), last && m.orphan[i]);
			*count -= *count < some ? *count : some;
			m.known -= last;
			m.orphan[i] &= !last;
		}
		assert_int_equal(refs_get(r, ino), *count);
		assert_int_equal(refs_count(r), m.known);
	}
	for (uint64_t i = 0; i < INOS; i++)
		assert_int_equal(refs_get(r, ino_of(i)), m.count[i]);
}

#define THREADS 4u
#define SHARED  64u
#define ROUNDS  20000u

struct crowd {
	struct refs *refs;
	_Atomic uint64_t reaped[SHARED];
};
struct member {
	struct crowd *crowd;
	uint64_t seed;
	pthread_t thread;
	uint64_t held[SHARED];
	bool failed;
};

static void *come_and_go(void *p)
{
	struct member *m = p;
	struct rng g = {.state = m->seed};

	for (unsigned n = 0; n < ROUNDS; n++) {
		uint64_t i = rng_below(&g, SHARED);

		if (m->held[i] == 0 || rng_percent(&g, 50)) {
			m->failed |= refs_add(m->crowd->refs, i + 1, 1) < 0;
			m->held[i]++;
		} else {
			m->held[i]--;
			if (refs_drop(m->crowd->refs, i + 1, 1))
				m->crowd->reaped[i]++;
		}
	}
	for (uint64_t i = 0; i < SHARED; i++)
		if (refs_drop(m->crowd->refs, i + 1, m->held[i]))
			m->crowd->reaped[i]++;
	return NULL;
}

/* Every inode is orphaned while one reference of the test's own keeps it: exactly one drop, the last, reaps it. */
static void of_many_threads_exactly_one_reaps(void **state)
{
	static struct member members[THREADS];
	struct crowd crowd = {.refs = *state};
	uint64_t seed = test_seed(2);

	memset(members, 0, sizeof(members));
	for (uint64_t i = 0; i < SHARED; i++) {
		assert_int_equal(refs_add(crowd.refs, i + 1, 1), 0);
		assert_false(refs_orphan(crowd.refs, i + 1));
	}
	for (unsigned t = 0; t < THREADS; t++) {
		members[t] = (struct member){.crowd = &crowd, .seed = seed + t};
		assert_int_equal(pthread_create(&members[t].thread, NULL, come_and_go, &members[t]), 0);
	}
	for (uint64_t i = 0; i < SHARED / 2; i++) /* half of them while the others come and go */
		if (refs_drop(crowd.refs, i + 1, 1))
			crowd.reaped[i]++;
	for (unsigned t = 0; t < THREADS; t++) {
		assert_int_equal(pthread_join(members[t].thread, NULL), 0);
		assert_false(members[t].failed);
	}
	for (uint64_t i = SHARED / 2; i < SHARED; i++) {
		assert_int_equal(refs_get(crowd.refs, i + 1), 1);
		assert_int_equal(crowd.reaped[i], 0);
		assert_true(refs_drop(crowd.refs, i + 1, 1));
	}
	for (uint64_t i = 0; i < SHARED / 2; i++)
		assert_int_equal(crowd.reaped[i], 1);
	assert_int_equal(refs_count(crowd.refs), 0);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, make_refs, free_refs)
	const struct CMUnitTest tests[] = {
	    CASE(a_reference_lasts_until_it_is_dropped),    CASE(dropping_more_than_there_is_ends_at_nothing),
	    CASE(an_orphan_nobody_knows_is_reaped_at_once), CASE(an_open_orphan_is_reaped_by_whoever_drops_it_last),
	    CASE(each_inode_with_references_is_told_once),  CASE(random_adds_and_drops_agree_with_a_naive_table),
	    CASE(of_many_threads_exactly_one_reaps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
