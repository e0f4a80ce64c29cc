/*
 * test_store_dir.c: a directory as an object store: what is put is there, what is none of its own is left alone, and when a call
 * ends. Lists have test_store_dir_lists.c, failures and deaths in the middle test_store_dir_faults.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "tests/lib/rng.h"
#include "tests/unit/store_dir_env.h"

/* ---- what it does ---- */

static void what_is_put_is_there(void **state)
{
	static const char *const keys[] = {"a", "a.b", "dir/a", "dir/xx/a", "dir/xy/a",
					   "-", "...", ".tmp",  "_/-/x",    "A/B/C/D/E/F/G/H"};
	static const size_t sizes[] = {0, 1, 511, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, 2 * MIB + 4096, BIG};
	struct world *w = *state;
	struct object_info info;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		for (size_t k = 0; k < ARRAY_SIZE(sizes); k++) {
			assert_int_equal(put(w, keys[i], w->big, sizes[k], 0), 0); /* over the one before */
			assert_holds(w, keys[i], w->big, sizes[k]);
			int64_t age = clock_real_ns(&clock_system);
			assert_int_equal(head(w, keys[i], &info), 0);
			assert_in_range(age - info.modified_ns + NSEC_PER_SEC, 0, 60 * NSEC_PER_SEC);
			assert_int_equal(put(w, keys[i], w->big, 7, OBJECT_CREATE), -EEXIST);
			assert_holds(w, keys[i], w->big, sizes[k]);
		}
	assert_int_equal(count_files(w->path, ".tmp~"), 0);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		assert_int_equal(drop(w, keys[i]), 0);
		assert_int_equal(drop(w, keys[i]), -ENOENT);
		assert_int_equal(head(w, keys[i], &info), -ENOENT);
		assert_int_equal(get(w, keys[i], 0, 1, &info), -ENOENT);
		assert_int_equal(put(w, keys[i], w->big, 9, OBJECT_CREATE), 0);
		assert_holds(w, keys[i], w->big, 9);
	}
	struct stat st;
	assert_int_equal(stat(below(w, "dir/xx"), &st), 0);
	assert_int_equal(st.st_mode, S_IFDIR | 0700);
	assert_int_equal(stat(below(w, "dir/xx/a"), &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0600);
}

static void pieces_are_joined(void **state)
{
	struct world *w = *state;
	struct rng r = {test_seed(91)};

	for (int round = 0; round < 60; round++) {
		struct iovec iov[40];
		size_t at = 0;
		int n = (int)rng_below(&r, ARRAY_SIZE(iov) + 1);
		for (int i = 0; i < n; i++) {
			size_t len = rng_below(&r, 3) ? rng_below(&r, 70000) : 0;
			iov[i] = (struct iovec){w->big + at, len};
			at += len;
		}
		w->call = (struct object_call){0};
		fault.short_io = rng_below(&r, 2);
		assert_int_equal(w->store->ops->put(w->store, &w->call, "k/k", iov, n, 0), 0);
		fault.short_io = false;
		assert_true(w->call.verified);
		assert_holds(w, "k/k", w->big, at);
	}
}

static void ranges_are_exact(void **state)
{
	struct world *w = *state;
	const uint64_t edges[] = {
	    0, 1, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, BIG - 1, BIG, BIG + 1, UINT64_C(1) << 40, INT64_MAX, UINT64_MAX};
	char *p = malloc(BIG + 16);

	assert_int_equal(put(w, "x", w->big, BIG, 0), 0);
	for (size_t i = 0; i < ARRAY_SIZE(edges); i++)
		for (size_t k = 0; k < ARRAY_SIZE(edges); k++) {
			uint64_t off = edges[i], len = edges[k];
			bool absurd = off > INT64_MAX || len > INT64_MAX - off, inside = !absurd && off + len <= BIG;
			memset(p, 0x5a, BIG + 16);
			assert_int_equal(get(w, "x", off, len, p), inside ? 0 : absurd ? -EINVAL : -EBADMSG);
			if (inside) {
				assert_memory_equal(p, w->big + off, len);
				for (size_t z = len; z < len + 16; z++)
					assert_int_equal(p[z], 0x5a);
			} else {
				assert_true(w->call.message[0] != '\0');
			}
		}
	free(p);
}

static void keys_that_cannot_be_are_refused(void **state)
{
	static const char *const keys[] = {"",       "/",        "/a",     "a/",      "a//b", ".",    "..",
					   "../x",   "a/../x",   "a/..",   "./a",     "a b",  "a\nb", ".clawfs~store",
					   ".tmp~1", "a/.tmp~1", "%2e%2e", "\xc3\xa4"};
	struct world *w = *state;
	struct object_info info;
	char long_part[300];

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		assert_int_equal(put(w, keys[i], "x", 1, 0), -EINVAL);
		assert_int_equal(get(w, keys[i], 0, 1, &info), -EINVAL);
		assert_int_equal(head(w, keys[i], &info), -EINVAL);
		assert_int_equal(drop(w, keys[i]), -EINVAL);
	}
	memset(long_part, 'a', sizeof(long_part));
	long_part[255] = '\0';
	assert_int_equal(put(w, long_part, "x", 1, 0), 0);
	long_part[255] = 'a';
	long_part[256] = '\0';
	assert_int_equal(put(w, long_part, "x", 1, 0), -EINVAL);
	strcpy(long_part + 256, "/b");
	assert_int_equal(put(w, long_part, "x", 1, 0), -EINVAL);
	assert_int_equal(count_files(w->top, ""), 2); /* the marker and one object */
}

static void an_object_is_not_below_another(void **state)
{
	struct world *w = *state;
	struct object_info info;

	for (unsigned flags = 0; flags <= OBJECT_CREATE; flags++) {
		assert_int_equal(put(w, "a/b", "one", 3, 0), 0);
		assert_int_equal(put(w, "a", "x", 1, flags), -EINVAL);
		assert_int_equal(put(w, "a/b/c", "x", 1, flags), -EINVAL);
		assert_int_equal(put(w, "a/b/c/d", "x", 1, flags), -EINVAL);
		assert_int_equal(head(w, "a", &info), -ENOENT);
		assert_int_equal(drop(w, "a"), -ENOENT);
		assert_int_equal(get(w, "a/b/c", 0, 1, &info), -ENOENT);
		assert_int_equal(head(w, "a/b/c", &info), -ENOENT);
		assert_int_equal(drop(w, "a/b/c"), -ENOENT);
		assert_holds(w, "a/b", "one", 3);
	}
}

/* Links, sockets and fifos below the root: never followed, never written through, never waited for. */
static void nothing_below_the_root_leads_out_of_it(void **state)
{
	struct world *w = *state;
	struct object_info info;
	char outside[300], secret[400], p[8];
	struct keys k = {.cap = 0};

	snprintf(outside, sizeof(outside), "%s/outside", w->top);
	snprintf(secret, sizeof(secret), "%s/secret", outside);
	assert_int_equal(mkdir(outside, 0700), 0);
	int fd = creat(secret, 0600);
	assert_int_equal(__real_write(fd, "secret", 6), 6);
	close(fd);
	assert_int_equal(symlink(outside, below(w, "link")), 0);
	assert_int_equal(symlink(secret, below(w, "file")), 0);
	assert_int_equal(symlink("/nowhere", below(w, "dangling")), 0);
	assert_int_equal(mkfifo(below(w, "fifo"), 0600), 0);
	static const char *const keys[] = {"link/secret", "link/new", "link/a/b", "file", "dangling", "dangling/x"};
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		assert_int_equal(get(w, keys[i], 0, 6, p), -EACCES);
		assert_int_equal(head(w, keys[i], &info), -EACCES);
		assert_int_equal(drop(w, keys[i]), -EACCES);
		assert_int_equal(put(w, keys[i], "x", 1, 0), -EACCES);
		assert_int_equal(put(w, keys[i], "x", 1, OBJECT_CREATE), -EACCES);
	}
	assert_int_equal(get(w, "fifo", 0, 1, p), -ENOENT);
	assert_int_equal(head(w, "fifo", &info), -ENOENT);
	assert_int_equal(put(w, "fifo", "x", 1, 0), -EACCES);
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	int s = socket(AF_UNIX, SOCK_STREAM, 0), here = open(".", O_RDONLY | O_DIRECTORY);
	assert_int_equal(chdir(w->path), 0);
	strcpy(at.sun_path, "socket");
	assert_int_equal(bind(s, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(fchdir(here), 0);
	close(here);
	close(s);
	assert_int_equal(get(w, "socket", 0, 1, p), -ENOENT);
	assert_int_equal(list(w, "", "", &k), 0);
	assert_int_equal(k.n, 0);
	assert_int_equal(count_files(outside, ""), 1);
	assert_int_equal(stat(secret, &(struct stat){0}), 0);
}

/* ---- the root ---- */

static void expect_away(struct world *w, const char *word)
{
	struct object_info info;
	struct keys k = {.cap = 0};

	assert_int_equal(put(w, "d/new", "x", 1, 0), -ENODEV);
	assert_non_null(strstr(w->call.message, word));
	assert_non_null(strstr(w->call.message, w->path));
	assert_int_equal(get(w, "d/k", 0, 1, &info), -ENODEV);
	assert_int_equal(head(w, "d/k", &info), -ENODEV);
	assert_int_equal(drop(w, "d/k"), -ENODEV);
	assert_int_equal(list(w, "", "", &k), -ENODEV);
}

static void a_disk_that_is_away_is_told_from_an_empty_store(void **state)
{
	struct world *w = *state;
	char away[300], other[300];
	struct object_store *second;

	snprintf(away, sizeof(away), "%s/away", w->top);
	snprintf(other, sizeof(other), "%s/other", w->top);
	assert_int_equal(put(w, "d/k", "one", 3, 0), 0);
	/* The directory is gone; there is another one in its place, as an unmounted mountpoint is; there is a file. */
	assert_int_equal(rename(w->path, away), 0);
	expect_away(w, "no such directory");
	second = open_at(w, w->path, false); /* opens all the same */
	assert_int_equal(access(w->path, F_OK), -1);
	assert_int_equal(mkdir(w->path, 0700), 0);
	expect_away(w, "not mounted");
	assert_int_equal(count_files(w->path, ""), 0);
	assert_int_equal(rmdir(w->path), 0); /* still empty: no directories either */
	close(creat(w->path, 0600));
	expect_away(w, "no such directory");
	assert_int_equal(unlink(w->path), 0);
	/* Another store in its place is not it either, for who knows it. */
	object_store_close(open_at(w, other, true));
	assert_int_equal(rename(other, w->path), 0);
	expect_away(w, "another store");
	assert_int_equal(rename(w->path, other), 0);
	assert_int_equal(rename(away, w->path), 0);
	assert_holds(w, "d/k", "one", 3);
	struct object_store *first = w->store;
	w->store = second;
	assert_holds(w, "d/k", "one", 3);
	w->store = first;
	object_store_close(second);
}

static void a_damaged_marker_is_an_error(void **state)
{
	static const char *const texts[] = {"",
					    "x",
					    "clawfs object store\nversion 2\nid 0123456789abcdef0123456789abcdef\n",
					    "clawfs object store\nversion 1\nid 0123456789abcdef0123456789abcde\n",
					    "clawfs object store\nversion 1\nid 0123456789abcdef0123456789abcdeg\n",
					    "clawfs object store\nversion 1\nid 0123456789abcdef0123456789abcdef"};
	struct world *w = *state;

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		int fd = open(below(w, ".clawfs~store"), O_WRONLY | O_TRUNC);
		assert_int_equal(__real_write(fd, texts[i], strlen(texts[i])), strlen(texts[i]));
		close(fd);
		assert_int_equal(put(w, "k", "x", 1, 0), -EPROTO);
		assert_non_null(strstr(w->call.message, ".clawfs~store"));
	}
	assert_int_equal(unlink(below(w, ".clawfs~store")), 0);
	assert_int_equal(symlink("/etc/passwd", below(w, ".clawfs~store")), 0);
	assert_int_equal(put(w, "k", "x", 1, 0), -EACCES);
}

static void a_store_begins_in_an_empty_directory_alone(void **state)
{
	struct world *w = *state;
	char path[300], inside[400], message[OBJECT_MESSAGE_MAX];
	struct store_dir_config c = {.path = path, .create = true};
	struct object_store *s = NULL;

	snprintf(path, sizeof(path), "%s/new", w->top);
	snprintf(inside, sizeof(inside), "%s/lost+found", path);
	assert_int_equal(mkdir(path, 0755), 0);
	assert_int_equal(mkdir(inside, 0700), 0); /* a fresh filesystem's */
	assert_int_equal(store_dir_open(&c, &s, message), 0);
	assert_string_equal(message, "");
	object_store_close(s);
	snprintf(inside, sizeof(inside), "%s/file", path);
	close(creat(inside, 0600));
	assert_int_equal(store_dir_open(&c, &s, message), 0); /* it has its marker: opened again */
	object_store_close(s);
	snprintf(inside, sizeof(inside), "%s/.clawfs~store", path);
	assert_int_equal(unlink(inside), 0);
	assert_int_equal(store_dir_open(&c, &s, message), -EEXIST);
	assert_non_null(strstr(message, "other files"));
	assert_int_equal(access(inside, F_OK), -1);
	snprintf(path, sizeof(path), "%s/none/new", w->top); /* parents are not made: their disk may be away */
	assert_int_equal(store_dir_open(&c, &s, message), -ENOENT);
	assert_true(message[0] != '\0');
	static const char *const wrong[] = {"", "relative", "./x"};
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		c.path = wrong[i];
		for (int create = 0; create < 2; create++) {
			c.create = create;
			assert_int_equal(store_dir_open(&c, &s, message), -EINVAL);
		}
	}
}

/* ---- leftovers ---- */

static void old_temporary_files_go(void **state)
{
	struct world *w = *state;
	char name[64];
	struct keys k = {.cap = 0};
	int held = -1;

	assert_int_equal(put(w, "p/aa/x", "x", 1, 0), 0);
	for (int i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "p/aa/.tmp~%d", i);
		close(creat(below(w, name), 0600));
	}
	close(creat(below(w, "p/aa/tmp~5"), 0600)); /* no name of ours */
	assert_int_equal(mkdir(below(w, "p/aa/.tmp~dir"), 0700), 0);
	assert_int_equal(symlink("x", below(w, "p/aa/.tmp~link")), 0);
	/* A young one stays, by any clock that went back; an old one goes, unless somebody holds it. */
	static const int64_t stay[] = {0, DAY - 60 * NSEC_PER_SEC, -3650 * DAY};
	for (size_t i = 0; i < ARRAY_SIZE(stay); i++) {
		w->skew_ns = stay[i];
		assert_int_equal(list(w, "", "", &k), 0);
		assert_int_equal(count_files(w->path, ".tmp~"), 4);
	}
	w->skew_ns = DAY + 60 * NSEC_PER_SEC;
	assert_int_equal(list(w, "q/", "", &k), 0); /* elsewhere */
	assert_int_equal(count_files(w->path, ".tmp~"), 4);
	held = open(below(w, "p/aa/.tmp~2"), O_RDWR);
	assert_int_equal(flock(held, LOCK_EX), 0);
	assert_int_equal(list(w, "", "", &k), 0);
	assert_int_equal(count_files(w->path, ".tmp~"), 1);
	w->skew_ns = 3650 * DAY;
	assert_int_equal(list(w, "", "", &k), 0);
	assert_int_equal(count_files(w->path, ".tmp~"), 1);
	close(held);
	/* And when another process begins to put there. */
	object_store_close(w->store);
	w->store = open_at(w, w->path, false);
	assert_int_equal(put(w, "p/aa/y", "y", 1, 0), 0);
	assert_int_equal(count_files(w->path, ".tmp~"), 0);
	assert_int_equal(count_files(w->path, "tmp~"), 1);
	assert_int_equal(access(below(w, "p/aa/.tmp~dir"), F_OK), 0);
}

/* ---- time ---- */

static void a_call_ends_when_its_time_is_over_or_it_is_given_up(void **state)
{
	struct world *w = *state;
	atomic_bool cancel = true;
	struct object_info info;
	struct iovec iov = {w->big, BIG};
	char *p = malloc(BIG);

	w->mono_ns = 1000000;
	for (int given_up = 0; given_up < 2; given_up++)
		for (int64_t ticks = 0; ticks < 12; ticks++) {
			struct object_call call = {.deadline_ns = given_up ? 0 : w->mono_ns + ticks * 1000,
						   .cancel = given_up ? &cancel : NULL};
			struct object_call before_it = call;
			int expected = given_up ? -ECANCELED : -ETIMEDOUT;
			int r = w->store->ops->put(w->store, &call, "k", &iov, 1, 0);
			assert_int_equal(r, given_up || ticks < 10 ? expected : 0); /* once, and 4 pieces out and in */
			assert_int_equal(call.message[0] != '\0', r < 0);
			assert_int_equal(count_files(w->path, ".tmp~"), 0);
			assert_int_equal(head(w, "k", &info), r == 0 ? 0 : -ENOENT);
			if (r < 0)
				continue;
			assert_holds(w, "k", w->big, BIG);
			for (int64_t t = 0; t < 8; t++) {
				call = before_it;
				call.deadline_ns = w->mono_ns + t * 1000;
				assert_int_equal(w->store->ops->get(w->store, &call, "k", 0, BIG, p), t < 6 ? -ETIMEDOUT : 0);
			}
			assert_int_equal(drop(w, "k"), 0);
		}
	struct object_call call = {.cancel = &cancel};
	struct keys k = {.cap = 0};
	assert_int_equal(w->store->ops->list(w->store, &call, "", "", take_key, &k), -ECANCELED);
	assert_int_equal(w->store->ops->remove(w->store, &call, "k"), -ECANCELED);
	assert_int_equal(w->store->ops->head(w->store, &call, "k", &info), -ECANCELED);
	free(p);
}

/* ---- threads ---- */

struct racer {
	struct world *w;
	int id, won;
	pthread_t thread;
};
#define RACES 40

static void *race(void *arg)
{
	struct racer *r = arg;

	for (int i = 0; i < RACES; i++) {
		char key[32], text[64];
		struct object_call call = {0};
		struct iovec iov = {text, sizeof(text)};
		memset(text, 'a' + r->id, sizeof(text));
		snprintf(key, sizeof(key), "race/%d/k", i);
		int e = r->w->store->ops->put(r->w->store, &call, key, &iov, 1, OBJECT_CREATE);
		if (e == 0)
			r->won++;
		else if (e != -EEXIST)
			abort();
		e = r->w->store->ops->put(r->w->store, &call, "shared", &iov, 1, 0);
		if (e < 0 || r->w->store->ops->get(r->w->store, &call, "shared", 0, sizeof(text), text) < 0)
			abort();
		for (size_t k = 1; k < sizeof(text); k++)
			if (text[k] != text[0])
				abort(); /* half of one and half of another */
	}
	return NULL;
}

static void one_of_many_creates_and_nobody_sees_a_half(void **state)
{
	struct world *w = *state;
	struct racer r[6];
	int won = 0;

	for (int i = 0; i < 6; i++) {
		r[i] = (struct racer){.w = w, .id = i};
		assert_int_equal(pthread_create(&r[i].thread, NULL, race, &r[i]), 0);
	}
	for (int i = 0; i < 6; i++) {
		pthread_join(r[i].thread, NULL);
		won += r[i].won;
	}
	assert_int_equal(won, RACES);
	assert_int_equal(count_files(w->path, ".tmp~"), 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(what_is_put_is_there),
	    CASE(pieces_are_joined),
	    CASE(ranges_are_exact),
	    CASE(keys_that_cannot_be_are_refused),
	    CASE(an_object_is_not_below_another),
	    CASE(nothing_below_the_root_leads_out_of_it),
	    CASE(a_disk_that_is_away_is_told_from_an_empty_store),
	    CASE(a_damaged_marker_is_an_error),
	    CASE(a_store_begins_in_an_empty_directory_alone),
	    CASE(old_temporary_files_go),
	    CASE(a_call_ends_when_its_time_is_over_or_it_is_given_up),
	    CASE(one_of_many_creates_and_nobody_sees_a_half),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
