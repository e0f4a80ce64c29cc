/*
 * test_kv_crypt.c: the index that encrypts is the index it encrypts, in content and in order, and shows nothing of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/le.h"
#include "base/log.h"
#include "fs/store/crypt/kv_crypt.h"
#include "tests/lib/kv_mem.h"
#include "tests/unit/tempdir.h"

/* From one that holds two names to one that holds all of them. */
static const size_t windows[] = {1, 300, 3000, 0};

struct pair {
	struct kv_disk *plain_disk, *below_disk;
	struct kv *plain, *below, *sealed;
	struct rng rng;
};

static const struct data_key key = {.mode = ENCRYPTION_XTS, .bytes = {1, 2, 3}};

static void pair_open(struct pair *p, size_t window, uint64_t seed)
{
	*p = (struct pair){.plain_disk = kv_disk_new(NULL), .below_disk = kv_disk_new(NULL), .rng = {seed}};
	assert_int_equal(kv_mem_open(p->plain_disk, true, &p->plain), 0);
	assert_int_equal(kv_mem_open(p->below_disk, true, &p->below), 0);
	assert_int_equal(kv_crypt_new(p->below, &key, window, &p->sealed), 0);
}

static void pair_close(struct pair *p)
{
	kv_close(p->plain);
	kv_close(p->sealed); /* and below */
	kv_disk_free(p->plain_disk);
	kv_disk_free(p->below_disk);
}

struct a_key {
	uint8_t b[300];
	size_t len;
};

/* Few enough to be met again; tables before, at and behind that of names; directories of many names, of one and of none. */
static struct a_key random_key(struct rng *rng)
{
	static const char tables[] = "ACDDDDDDEX";
	struct a_key k = {.len = 9};

	k.b[0] = (uint8_t)tables[rng_below(rng, sizeof(tables) - 1)];
	be64_put(k.b + 1, k.b[0] == 'D' ? (rng_percent(rng, 70) ? 7
					   : rng_below(rng, 4)  ? rng_below(rng, 12)
								: UINT64_MAX)
					: rng_below(rng, 4));
	if (k.b[0] == 'A')
		k.len = 1;
	if (k.b[0] == 'D' || k.b[0] == 'X') {
		size_t len = rng_percent(rng, 5) ? 255 : rng_below(rng, 4);

		memset(k.b + 9, 'a', len);
		for (size_t i = 0; i < 3 && i < len; i++)
			k.b[9 + i] = (uint8_t)("a\xff.b\x01"[rng_below(rng, 5)]);
		k.len += len;
	}
	return k;
}

static void change(struct pair *p)
{
	uint8_t value[600];
	struct kv_batch b = {0};

	for (unsigned n = (unsigned)rng_below(&p->rng, 5); n > 0; n--) {
		struct a_key k = random_key(&p->rng);
		size_t len = rng_percent(&p->rng, 20) ? 0 : rng_below(&p->rng, sizeof(value));

		memset(value, (int)rng_below(&p->rng, 256), sizeof(value));
		if (rng_percent(&p->rng, 30))
			kv_batch_delete(&b, (struct slice){k.b, k.len});
		else
			kv_batch_put(&b, (struct slice){k.b, k.len}, (struct slice){value, len});
	}
	assert_int_equal(kv_write(p->plain, &b), 0);
	assert_int_equal(kv_write(p->sealed, &b), 0);
	kv_batch_free(&b);
}

static void assert_same_row(struct pair *p, struct kv_iter *a, struct kv_iter *b)
{
	assert_int_equal(p->plain->ops->iter_valid(a), p->sealed->ops->iter_valid(b));
	assert_int_equal(p->sealed->ops->iter_error(b), 0);
	if (!p->plain->ops->iter_valid(a))
		return;
	struct slice want = p->plain->ops->iter_key(a), got = p->sealed->ops->iter_key(b);
	assert_int_equal(got.len, want.len);
	assert_memory_equal(got.p, want.p, want.len);
	want = p->plain->ops->iter_value(a);
	got = p->sealed->ops->iter_value(b);
	assert_int_equal(got.len, want.len);
	if (want.len)
		assert_memory_equal(got.p, want.p, want.len);
}

static void assert_same_get(struct pair *p, const struct a_key *k)
{
	uint8_t want[700], got[700];
	size_t want_len = 0, got_len = 0, cap = rng_below(&p->rng, sizeof(want));
	int r = kv_get(p->plain, (struct slice){k->b, k->len}, want, cap, &want_len);

	assert_int_equal(kv_get(p->sealed, (struct slice){k->b, k->len}, got, cap, &got_len), r);
	if (r == 0 || r == -ERANGE)
		assert_int_equal(got_len, want_len);
	if (r == 0 && want_len)
		assert_memory_equal(got, want, want_len);
}

static void random_operations_and_walks_match_an_index_that_is_not_encrypted(void **state)
{
	unsigned long seed = test_seed(1);

	(void)state;
	for (size_t w = 0; w < ARRAY_SIZE(windows); w++) {
		struct pair p;
		struct kv_iter *a, *b;

		pair_open(&p, windows[w], seed + w);
		for (unsigned round = 0; round < 60; round++) {
			for (unsigned i = 0; i < 10; i++)
				change(&p);
			assert_int_equal(p.plain->ops->iter_open(p.plain, &a), 0);
			assert_int_equal(p.sealed->ops->iter_open(p.sealed, &b), 0);
			change(&p); /* which the iterators do not see */
			p.plain->ops->iter_seek(a, (struct slice){"", 0});
			p.sealed->ops->iter_seek(b, (struct slice){"", 0});
			for (assert_same_row(&p, a, b); p.plain->ops->iter_valid(a); assert_same_row(&p, a, b)) {
				p.plain->ops->iter_next(a);
				p.sealed->ops->iter_next(b);
			}
			for (unsigned i = 0; i < 40; i++) {
				struct a_key k = random_key(&p.rng);

				assert_same_get(&p, &k);
				/* parts of keys too */
				k.len = rng_percent(&p.rng, 20) ? rng_below(&p.rng, k.len + 1) : k.len;
				p.plain->ops->iter_seek(a, (struct slice){k.b, k.len});
				p.sealed->ops->iter_seek(b, (struct slice){k.b, k.len});
				assert_same_row(&p, a, b);
				for (unsigned n = (unsigned)rng_below(&p.rng, 6); n > 0 && p.plain->ops->iter_valid(a); n--) {
					p.plain->ops->iter_next(a);
					p.sealed->ops->iter_next(b);
					assert_same_row(&p, a, b);
				}
			}
			p.plain->ops->iter_close(a);
			p.sealed->ops->iter_close(b);
		}
		pair_close(&p);
	}
}

static void put(struct kv *kv, const void *k, size_t k_len, const void *v, size_t v_len)
{
	struct kv_batch b = {0};

	kv_batch_put(&b, (struct slice){k, k_len}, (struct slice){v, v_len});
	assert_int_equal(kv_write(kv, &b), 0);
	kv_batch_free(&b);
}

/* The only row below. */
static void row_below(struct pair *p, struct a_key *ret_key, uint8_t *ret_value, size_t *ret_len)
{
	struct kv_iter *it;

	assert_int_equal(p->below->ops->iter_open(p->below, &it), 0);
	p->below->ops->iter_seek(it, (struct slice){"", 0});
	assert_true(p->below->ops->iter_valid(it));
	struct slice k = p->below->ops->iter_key(it), v = p->below->ops->iter_value(it);
	memcpy(ret_key->b, k.p, k.len);
	ret_key->len = k.len;
	memcpy(ret_value, v.p, v.len);
	*ret_len = v.len;
	p->below->ops->iter_close(it);
}

static void remove_below(struct pair *p, const struct a_key *k)
{
	struct kv_batch b = {0};

	kv_batch_delete(&b, (struct slice){k->b, k->len});
	assert_int_equal(kv_write(p->below, &b), 0);
	kv_batch_free(&b);
}

static int walk(struct kv *kv)
{
	struct kv_iter *it;

	assert_int_equal(kv->ops->iter_open(kv, &it), 0);
	kv->ops->iter_seek(it, (struct slice){"", 0});
	assert_false(kv->ops->iter_valid(it));
	int r = kv->ops->iter_error(it);
	kv->ops->iter_close(it);
	return r;
}

static void a_bit_that_was_changed_is_refused_in_value_and_name(void **state)
{
	static const struct {
		uint8_t k[12];
		size_t len;
	} rows[] = {{"D1234567", 11}, {"I1234567", 9}, {"A", 1}};
	uint8_t value[100], got[100];
	size_t len, got_len;
	struct pair p;
	struct a_key k, forged;

	(void)state;
	pair_open(&p, 0, 1);
	for (size_t row = 0; row < ARRAY_SIZE(rows); row++) {
		const struct slice plain = {rows[row].k, rows[row].len};

		put(p.sealed, plain.p, plain.len, "a value", 7);
		row_below(&p, &k, value, &len);
		for (size_t bit = 0; bit < 8 * len; bit++) {
			value[bit / 8] ^= (uint8_t)(1 << bit % 8);
			put(p.below, k.b, k.len, value, len);
			assert_int_equal(kv_get(p.sealed, plain, got, sizeof(got), &got_len), -EBADMSG);
			assert_int_equal(walk(p.sealed), -EBADMSG);
			value[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
		for (size_t cut = 0; cut < len; cut++) {
			put(p.below, k.b, k.len, value, cut);
			assert_int_equal(kv_get(p.sealed, plain, got, sizeof(got), &got_len), -EBADMSG);
		}
		/* under another key, or with another name */
		remove_below(&p, &k);
		for (size_t bit = 0; bit < 8 * k.len; bit++) {
			forged = k;
			forged.b[bit / 8] ^= (uint8_t)(1 << bit % 8);
			put(p.below, forged.b, forged.len, value, len);
			assert_int_equal(walk(p.sealed), -EBADMSG);
			remove_below(&p, &forged);
		}
	}
	/* a name that is too short to have been sealed */
	put(p.below, "D12345678123456", 15, value, len);
	assert_int_equal(walk(p.sealed), -EBADMSG);
	pair_close(&p);
}

static void rows_that_changed_places_are_refused(void **state)
{
	uint8_t value[100], got[100];
	size_t len, got_len;
	struct pair p;
	struct a_key k;

	(void)state;
	pair_open(&p, 0, 1);
	put(p.sealed, "I00000001", 9, "one", 3);
	row_below(&p, &k, value, &len);
	put(p.below, "I00000002", 9, value, len);
	assert_int_equal(kv_get(p.sealed, (struct slice){"I00000001", 9}, got, sizeof(got), &got_len), 0);
	assert_int_equal(kv_get(p.sealed, (struct slice){"I00000002", 9}, got, sizeof(got), &got_len), -EBADMSG);
	pair_close(&p);
}

/* The same name in two directories, too, and a value put twice. */
static void nothing_of_names_and_values_is_seen_below(void **state)
{
	struct pair p;
	struct kv_iter *it;
	uint8_t seen[2][64];
	size_t n = 0;

	(void)state;
	pair_open(&p, 0, 1);
	put(p.sealed, "D\0\0\0\0\0\0\0\1MARKERNAME", 19, "MARKERVALUE", 11);
	put(p.sealed, "D\0\0\0\0\0\0\0\2MARKERNAME", 19, "MARKERVALUE", 11);
	assert_int_equal(p.below->ops->iter_open(p.below, &it), 0);
	for (p.below->ops->iter_seek(it, (struct slice){"", 0}); p.below->ops->iter_valid(it); p.below->ops->iter_next(it)) {
		struct slice k = p.below->ops->iter_key(it), v = p.below->ops->iter_value(it);

		assert_int_equal(k.len, 19 + 16);
		assert_int_equal(v.len, 11 + 16);
		assert_null(memmem(k.p, k.len, "MARK", 4));
		assert_null(memmem(v.p, v.len, "MARK", 4));
		memcpy(seen[n], (const uint8_t *)k.p + 9, 26);
		memcpy(seen[n++] + 26, v.p, 27);
	}
	assert_int_equal(n, 2);
	assert_memory_not_equal(seen[0], seen[1], 26);
	assert_memory_not_equal(seen[0] + 26, seen[1] + 26, 27);
	p.below->ops->iter_close(it);
	pair_close(&p);
}

/* It needs neither the index it was taken of nor what wraps that. */
static void a_snapshot_is_read_with_the_same_key(void **state)
{
	const struct slice k = {"D1234567\1name", 13};
	uint8_t got[16];
	size_t len;
	struct pair p;
	struct kv *snapshot;

	(void)state;
	pair_open(&p, 0, 1);
	put(p.sealed, k.p, k.len, "then", 4);
	assert_int_equal(p.sealed->ops->freeze(p.sealed), 0);
	assert_int_equal(p.sealed->ops->flush_frozen(p.sealed), 0);
	assert_int_equal(p.sealed->ops->snapshot_create(p.sealed, 5), 0);
	put(p.sealed, k.p, k.len, "now!", 4);
	assert_int_equal(p.sealed->ops->snapshot_open(p.sealed, 6, &snapshot), -ENOENT);
	assert_int_equal(p.sealed->ops->snapshot_open(p.sealed, 5, &snapshot), 0);
	kv_close(p.sealed);
	assert_int_equal(kv_get(snapshot, k, got, sizeof(got), &len), 0);
	assert_int_equal(len, 4);
	assert_memory_equal(got, "then", 4);
	kv_close(snapshot);
	kv_close(p.plain);
	kv_disk_free(p.plain_disk);
	kv_disk_free(p.below_disk);
}

static void limits_are_those_of_the_header(void **state)
{
	uint8_t *value = calloc(1, 70001), k[301] = {'D'};
	struct kv_batch b = {0};
	size_t len;
	struct pair p;

	(void)state;
	pair_open(&p, 0, 1);
	put(p.sealed, k, 284, value, 69984);
	assert_int_equal(kv_get(p.sealed, (struct slice){k, 284}, value, 70001, &len), 0);
	assert_int_equal(len, 69984);
	assert_int_equal(kv_get(p.sealed, (struct slice){k, 284}, value, 69983, &len), -ERANGE);
	assert_int_equal(len, 69984);
	kv_batch_put(&b, (struct slice){k, 285}, (struct slice){value, 1});
	assert_int_equal(kv_write(p.sealed, &b), -EINVAL);
	kv_batch_reset(&b);
	kv_batch_put(&b, (struct slice){k, 10}, (struct slice){value, 69985});
	assert_int_equal(kv_write(p.sealed, &b), -EINVAL);
	kv_batch_free(&b);
	free(value);
	pair_close(&p);
}

int main(void)
{
	const struct CMUnitTest cases[] = {
	    cmocka_unit_test(random_operations_and_walks_match_an_index_that_is_not_encrypted),
	    cmocka_unit_test(a_bit_that_was_changed_is_refused_in_value_and_name),
	    cmocka_unit_test(rows_that_changed_places_are_refused),
	    cmocka_unit_test(nothing_of_names_and_values_is_seen_below),
	    cmocka_unit_test(a_snapshot_is_read_with_the_same_key),
	    cmocka_unit_test(limits_are_those_of_the_header),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(cases, NULL, NULL);
}
