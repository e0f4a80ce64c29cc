/*
 * test_store_dir_faults.c: a directory as an object store: every system call of a put fails, or is where the process dies; what
 * is there afterwards is the old object or the new one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <sys/wait.h>

#include "tests/unit/store_dir_env.h"

static const char old_text[] = "what was there before", new_text[] = "what is put now, which is longer";

/* Old or new, whole; a fresh key may be absent. */
static void assert_whole(struct world *w, const char *key, bool fresh, bool done)
{
	struct object_info info;
	char p[64];
	int r = head(w, key, &info);

	if (fresh && !done && r == -ENOENT)
		return;
	assert_int_equal(r, 0);
	assert_int_equal(get(w, key, 0, info.size, p), 0);
	if (!done && !fresh && info.size == sizeof(old_text)) {
		assert_memory_equal(p, old_text, sizeof(old_text));
		return;
	}
	assert_int_equal(info.size, sizeof(new_text));
	assert_memory_equal(p, new_text, sizeof(new_text));
}

static const int object_errors[] = {-ENOENT, -EEXIST, -ENODEV,    -EACCES, -ENOSPC, -EOPNOTSUPP,
				    -EINVAL, -EIO,    -ETIMEDOUT, -ENOMEM, -EBADMSG};

/* Every system call of a put fails, before or after it was done, with every kind of error. */
static void every_failure_of_a_put_leaves_old_or_new(void **state)
{
	static const struct {
		int host, object;
	} errors[] = {{EIO, -EIO},    {ENOSPC, -ENOSPC}, {EDQUOT, -ENOSPC}, {EROFS, -EACCES}, {EMFILE, -EIO},
		      {ESTALE, -EIO}, {ENOMEM, -ENOMEM}, {ENODEV, -ENODEV}, {ENXIO, -ENODEV}, {EFBIG, -ENOSPC}};
	struct world *w = *state;
	unsigned failures = 0;

	fault.no_flush = true;
	for (size_t e = 0; e < ARRAY_SIZE(errors); e++)
		for (int variant = 0; variant < 8; variant++) {
			bool fresh = variant & 1, late = variant & 2, create = variant & 4;
			bool hit = true;
			if ((create && !fresh) || (e > 1 && variant)) /* the first two in every way */
				continue;
			for (int n = 1; hit; n++) {
				char key[64];
				snprintf(key, sizeof(key), "%zu-%d/%d/k", e, variant, n);
				if (!fresh)
					assert_int_equal(put(w, key, old_text, sizeof(old_text), 0), 0);
				fault.armed = true;
				fault.late = late;
				fault.error = errors[e].host;
				fault.countdown = n;
				fault.hit = false;
				int r = put(w, key, new_text, sizeof(new_text), create ? OBJECT_CREATE : 0);
				fault.armed = false;
				hit = fault.hit;
				if (r < 0) {
					failures++;
					bool known = false;
					for (size_t i = 0; i < ARRAY_SIZE(object_errors); i++)
						known |= r == object_errors[i];
					assert_true(known && hit);
					if (r !=
					    errors[e]
						.object) /* O_DIRECT and fallocate may be refused: then there is another way */
						fail_msg("errno %d became %d: %s", errors[e].host, r, w->call.message);
				}
				assert_whole(w, key, fresh, r == 0);
				assert_int_equal(put(w, key, new_text, sizeof(new_text), 0), 0);
				assert_whole(w, key, fresh, true);
				assert_true(n < 60);
			}
		}
	assert_true(failures > 100);
	assert_int_equal(count_files(w->path, ".tmp~"), 0);
}

/* The process dies before and after every system call of a put: old or new is there, and what is left over goes. */
static void a_death_anywhere_leaves_old_or_new(void **state)
{
	struct world *w = *state;
	unsigned deaths = 0;

	fault.no_flush = true;
	for (int variant = 0; variant < 8; variant++) {
		bool fresh = variant & 1, late = variant & 2, create = (variant & 4) && fresh, died = true;
		for (int n = 1; died; n++) {
			char key[64];
			int status;
			snprintf(key, sizeof(key), "%d/%d/k", variant, n);
			if (!fresh)
				assert_int_equal(put(w, key, old_text, sizeof(old_text), 0), 0);
			pid_t child = fork();
			if (child == 0) {
				fault.armed = fault.die = true;
				fault.late = late;
				fault.countdown = n;
				struct iovec iov = {(void *)(uintptr_t)new_text, sizeof(new_text)};
				struct object_call call = {0};
				int r = w->store->ops->put(w->store, &call, key, &iov, 1, create ? OBJECT_CREATE : 0);
				fault.armed = false;
				_exit(r == 0 ? 7 : 8);
			}
			assert_int_equal(waitpid(child, &status, 0), child);
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 8);
			died = WEXITSTATUS(status) == 0;
			deaths += died;
			assert_whole(w, key, fresh, !died);
			assert_int_equal(put(w, key, new_text, sizeof(new_text), 0), 0);
			assert_true(n < 60);
		}
	}
	assert_true(deaths > 60);
	assert_true(count_files(w->path, ".tmp~") > 10);
	w->skew_ns = 2 * DAY;
	struct keys k = {.cap = 0};
	assert_int_equal(list(w, "", "", &k), 0);
	assert_int_equal(count_files(w->path, ".tmp~"), 0);
	assert_int_equal(k.n, count_files(w->path, "k"));
}

/* The same for the first use of a directory: it can be begun again. */
static void a_death_at_first_use_can_be_repeated(void **state)
{
	struct world *w = *state;

	fault.no_flush = true;
	for (int late = 0; late < 2; late++) {
		bool died = true;
		for (int n = 1; died; n++) {
			char path[300];
			int status;
			snprintf(path, sizeof(path), "%s/first-%d-%d", w->top, late, n);
			pid_t child = fork();
			if (child == 0) {
				struct store_dir_config c = {.path = path, .create = true};
				struct object_store *s;
				char message[OBJECT_MESSAGE_MAX];
				fault.armed = fault.die = true;
				fault.late = late;
				fault.countdown = n;
				_exit(store_dir_open(&c, &s, message) == 0 ? 7 : 8);
			}
			assert_int_equal(waitpid(child, &status, 0), child);
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 8);
			died = WEXITSTATUS(status) == 0;
			struct object_store *s = open_at(w, path, true);
			struct object_call call = {0};
			assert_int_equal(s->ops->put(s, &call, "k", NULL, 0, 0), 0);
			object_store_close(s);
			assert_true(n < 40);
		}
	}
}

/* A disk that gives back other bytes is found before the object has its name. */
static void what_the_disk_garbles_is_not_stored(void **state)
{
	static const size_t sizes[] = {1, 4096, MIB, BIG};
	struct world *w = *state;
	struct object_info info;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		assert_int_equal(head(w, "k", &info), -ENOENT); /* and the marker is read */
		fault.damage = true;
		int r = put(w, "k", w->big, sizes[i], 0);
		fault.damage = false;
		assert_int_equal(r, -EBADMSG);
		assert_int_equal(head(w, "k", &info), -ENOENT);
		assert_int_equal(count_files(w->path, ".tmp~"), 0);
	}
}

static void without_rename_a_link_and_without_both_a_clear_no(void **state)
{
	struct world *w = *state;
	struct object_info info;

	fault.no_rename = true;
	assert_int_equal(put(w, "a/k", "one", 3, OBJECT_CREATE), 0);
	assert_int_equal(put(w, "a/k", "two", 3, OBJECT_CREATE), -EEXIST);
	assert_holds(w, "a/k", "one", 3);
	fault.no_link = true;
	assert_int_equal(put(w, "a/l", "two", 3, OBJECT_CREATE), -EOPNOTSUPP);
	assert_int_equal(head(w, "a/l", &info), -ENOENT);
	assert_int_equal(put(w, "a/l", "two", 3, 0), 0);
	fault.no_rename = fault.no_link = false;
	assert_int_equal(count_files(w->path, ".tmp~"), 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(every_failure_of_a_put_leaves_old_or_new),
	    CASE(a_death_anywhere_leaves_old_or_new),
	    CASE(a_death_at_first_use_can_be_repeated),
	    CASE(what_the_disk_garbles_is_not_stored),
	    CASE(without_rename_a_link_and_without_both_a_clear_no),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
