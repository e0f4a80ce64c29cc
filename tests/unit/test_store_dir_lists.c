/*
 * test_store_dir_lists.c: a directory as an object store: lists are in the order of bytes and in pages, however large the
 * directory is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "tests/lib/rng.h"
#include "tests/unit/store_dir_env.h"

static int by_text(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* Random trees against the list that a sort gives, for every kind of prefix and place to go on from. */
static void lists_are_in_the_order_of_bytes(void **state)
{
	struct world *w = *state;
	struct rng r = {test_seed(92)};
	static const char *const parts[] = {"a", "b", "a-", "a.", "a0", "A", "_", "ab", "-", "0a", "a_b", ".x"};
	enum { MOST = 160 };
	static char all[MOST][64];
	static char got[MOST][64];
	static uint64_t size[MOST];
	int n = 0;

	fault.no_flush = true;
	for (int i = 0; i < MOST; i++) {
		char key[64] = "";
		int depth = (int)rng_between(&r, 1, 3);
		for (int k = 0; k < depth; k++) {
			strcat(key, k ? "/" : "");
			strcat(key, parts[rng_below(&r, ARRAY_SIZE(parts))]);
		}
		if (put(w, key, w->big, (size_t)i, OBJECT_CREATE) == 0)
			strcpy(all[n++], key);
	}
	assert_true(n > 40);
	qsort(all, (size_t)n, sizeof(all[0]), by_text);
	assert_int_equal(mkdir(below(w, "empty"), 0700), 0);
	assert_int_equal(mkdir(below(w, "no key"), 0700), 0);
	close(creat(below(w, "no key/x"), 0600));
	close(creat(below(w, "no~key"), 0600));
	for (int round = 0; round < 1000; round++) {
		char prefix[64] = "", from[64] = "";
		if (rng_below(&r, 4)) {
			strcpy(prefix, all[rng_below(&r, (uint64_t)n)]);
			prefix[rng_below(&r, strlen(prefix) + 1)] = '\0';
		}
		if (rng_below(&r, 3)) {
			strcpy(from, all[rng_below(&r, (uint64_t)n)]);
			from[rng_below(&r, strlen(from) + 1)] = '\0';
			if (rng_below(&r, 3) == 0)
				strcat(from, rng_below(&r, 2) ? "/" : "zz");
		}
		struct keys k = {.key = got, .size = size, .cap = MOST};
		assert_int_equal(list(w, prefix, from, &k), 0);
		int at = 0;
		for (int i = 0; i < n; i++)
			if (strncmp(all[i], prefix, strlen(prefix)) == 0 && strcmp(all[i], from) > 0) {
				assert_true(at < k.n);
				assert_string_equal(got[at], all[i]);
				struct object_info info;
				assert_int_equal(head(w, all[i], &info), 0);
				assert_int_equal(size[at], info.size);
				at++;
			}
		assert_int_equal(at, k.n);
		if (k.n > 1) {
			struct keys some = {.key = got,
					    .size = size,
					    .cap = MOST,
					    .stop_at = 1 + (int)rng_below(&r, (uint64_t)k.n),
					    .result = rng_below(&r, 2) ? 1 : -EXDEV};
			assert_int_equal(list(w, prefix, from, &some), some.result < 0 ? -EXDEV : 0);
			assert_int_equal(some.n, some.stop_at);
		}
	}
	static const char *const nothing[] = {"..",      "../",    "/",      "/etc",    "a//",       "nope",
					      "a/nope/", "empty/", "no key", ".clawfs", "lost+found"};
	for (size_t i = 0; i < ARRAY_SIZE(nothing); i++) {
		struct keys k = {.cap = 0};
		assert_int_equal(list(w, nothing[i], "", &k), 0);
		assert_int_equal(k.n, 0);
	}
}

/* More names than are read at a time, in files and in directories; the reader removes what it is given. */
static int take_and_remove(void *ctx, const char *key, const struct object_info *info)
{
	struct world *w = ctx;
	static char last[64];
	static int n;
	struct object_call call = {0};

	(void)info;
	n++;
	assert_true(strcmp(key, last) > 0);
	snprintf(last, sizeof(last), "%s", key);
	return n % 50 ? 0 : w->store->ops->remove(w->store, &call, key);
}
static void a_large_directory_is_listed_in_pages(void **state)
{
	struct world *w = *state;
	char name[64], first[1024];
	enum { FILES = 8300, DIRS = 300 };

	fault.no_flush = true;
	assert_int_equal(mkdir(below(w, "many"), 0700), 0);
	snprintf(first, sizeof(first), "%s", below(w, "first"));
	close(creat(first, 0600));
	for (int i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "many/%05d", i * 7919 % FILES);
		assert_int_equal(link(first, below(w, name)), 0); /* cheaper than that many files */
	}
	for (int i = 0; i < DIRS; i++) {
		snprintf(name, sizeof(name), "many/%05d-", i);
		assert_int_equal(mkdir(below(w, name), 0700), 0);
		snprintf(name, sizeof(name), "many/%05d-/x", i);
		close(creat(below(w, name), 0600));
	}
	char(*got)[64] = calloc(FILES + DIRS, sizeof(*got));
	uint64_t *size = calloc(FILES + DIRS, sizeof(*size));
	struct keys k = {.key = got, .size = size, .cap = FILES + DIRS};
	assert_int_equal(list(w, "many/", "", &k), 0);
	assert_int_equal(k.n, FILES + DIRS);
	for (int i = 0, at = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "many/%05d", i);
		assert_string_equal(got[at++], name);
		if (i < DIRS) {
			snprintf(name, sizeof(name), "many/%05d-/x", i);
			assert_string_equal(got[at++], name);
		}
	}
	k.n = 0;
	assert_int_equal(list(w, "many/", "many/04000", &k), 0);
	assert_int_equal(k.n, FILES - 4001);
	w->call = (struct object_call){0};
	assert_int_equal(w->store->ops->list(w->store, &w->call, "many/", "", take_and_remove, w), 0);
	k.n = 0;
	assert_int_equal(list(w, "many/", "", &k), 0);
	assert_int_equal(k.n, FILES + DIRS - (FILES + DIRS) / 50);
	free(got);
	free(size);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(lists_are_in_the_order_of_bytes),
	    CASE(a_large_directory_is_listed_in_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
