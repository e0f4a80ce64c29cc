/*
 * test_simobject.c: the object store of the tests does what tier/object.h says, goes wrong exactly where it is told to, and
 * remembers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "tests/lib/simobject.h"

static struct simobject *so;
static struct object_store *s;
static struct simstore *sim;

static int make(void **state)
{
	(void)state;
	sim = simstore_new();
	so = simobject_new(sim, NULL);
	s = simobject_open(so, "a");
	return 0;
}

static int drop(void **state)
{
	(void)state;
	object_store_close(s);
	simobject_free(so);
	simstore_free(sim);
	return 0;
}

static int put(const char *key, const char *text, unsigned flags, bool *ret_verified)
{
	const struct iovec iov[2] = {{(void *)(uintptr_t)text, strlen(text) / 2},
				     {(void *)(uintptr_t)(text + strlen(text) / 2), strlen(text) - strlen(text) / 2}};
	struct object_call call = {0};
	int r = s->ops->put(s, &call, key, iov, 2, flags);

	assert_true(r == 0 || *call.message);
	if (ret_verified)
		*ret_verified = call.verified;
	return r;
}

/* Its error, or 0 when it is `want`. */
static int get(const char *key, const char *want)
{
	struct object_call call = {0};
	char p[64];
	int r = s->ops->get(s, &call, key, 0, strlen(want), p);

	return r == 0 && memcmp(p, want, strlen(want)) != 0 ? -EILSEQ : r;
}

static int head(const char *key, uint64_t *ret_size)
{
	struct object_info info = {0};
	struct object_call call = {0};
	int r = s->ops->head(s, &call, key, &info);

	*ret_size = info.size;
	return r;
}

static int remove_it(const char *key)
{
	struct object_call call = {0};

	return s->ops->remove(s, &call, key);
}

static int collect(void *ctx, const char *key, const struct object_info *info)
{
	strcat(ctx, key);
	strcat(ctx, info->size ? "+" : "-");
	return strlen(ctx) > 20;
}

static int list(const char *prefix, const char *after, char *ret)
{
	struct object_call call = {0};

	*ret = '\0';
	return s->ops->list(s, &call, prefix, after, collect, ret);
}

static void it_keeps_what_is_put(void **state)
{
	char keys[256];
	uint64_t size;
	bool verified;

	(void)state;
	assert_int_equal(put("x/1", "hello", OBJECT_CREATE, &verified), 0);
	assert_true(verified);
	assert_int_equal(put("x/1", "other", OBJECT_CREATE, NULL), -EEXIST);
	assert_int_equal(get("x/1", "hello"), 0);
	assert_int_equal(put("x/1", "other", 0, NULL), 0);
	assert_int_equal(get("x/1", "other"), 0);
	assert_int_equal(get("x/1", "other and more"), -EBADMSG);
	assert_int_equal(get("x/2", "h"), -ENOENT);
	assert_int_equal(put("../x", "h", 0, NULL), -EINVAL);
	assert_int_equal(head("x/1", &size), 0);
	assert_int_equal(size, 5);
	assert_int_equal(put("x/0", "", 0, NULL), 0);
	assert_int_equal(put("y/0", "y", 0, NULL), 0);
	assert_int_equal(list("x/", "", keys), 0);
	assert_string_equal(keys, "x/0-x/1+");
	assert_int_equal(list("", "x/0", keys), 0);
	assert_string_equal(keys, "x/1+y/0+");
	assert_int_equal(remove_it("x/1"), 0);
	assert_int_equal(remove_it("x/1"), -ENOENT);
	assert_int_equal(head("x/1", &size), -ENOENT);
	assert_int_equal(simobject_count(so), 2);
	assert_int_equal(simobject_bytes(so), 1);
}

static void stores_of_two_names_share_nothing(void **state)
{
	struct object_store *other = simobject_open(so, "b");
	struct object_call call = {0};
	struct object_info info;

	(void)state;
	assert_int_equal(put("k", "v", 0, NULL), 0);
	assert_int_equal(other->ops->head(other, &call, "k", &info), -ENOENT);
	object_store_close(other);
}

static void each_fault_does_what_it_says(void **state)
{
	static const struct {
		enum simobject_how how;
		int error, result;
		const char *there, *later; /* NULL: nothing */
	} cases[] = {
	    {SIMOBJECT_FAIL, -EIO, -EIO, NULL, NULL},    {SIMOBJECT_AFTER, -EIO, -EIO, "hello", "hello"},
	    {SIMOBJECT_LATE, -EIO, -EIO, NULL, "hello"}, {SIMOBJECT_LOSE, 0, 0, NULL, NULL},
	    {SIMOBJECT_CORRUPT, 0, 0, "he,lo", "he,lo"}, {SIMOBJECT_TEAR, 0, 0, "he", "he"},
	    {SIMOBJECT_TEAR, -EIO, -EIO, "he", "he"},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		char is[8] = "", key[8] = {'k', (char)('0' + i), '\0'};
		uint64_t n = simobject_calls(so, OBJECT_PUT), met = simobject_faults(so), size;
		bool verified;

		simobject_fault(so, OBJECT_PUT, n + 2, 1, cases[i].how, cases[i].error);
		assert_int_equal(put("before", "b", 0, NULL), 0);
		assert_int_equal(simobject_faults(so), met);
		assert_int_equal(put(key, "hello", 0, &verified), cases[i].result);
		assert_int_equal(simobject_faults(so), met + 1);
		assert_false(verified);
		int64_t len = simobject_peek(so, "a", key, is, sizeof(is));
		assert_int_equal(len, cases[i].there ? (int64_t)strlen(cases[i].there) : -1);
		assert_string_equal(is, cases[i].there ? cases[i].there : "");
		assert_int_equal(put("after", "a", 0, NULL), 0);
		assert_int_equal(head(key, &size), cases[i].later ? 0 : -ENOENT);
		simobject_clear(so);
		assert_int_equal(put(key, "hello", 0, &verified), 0);
		assert_true(verified);
		assert_int_equal(get(key, "hello"), 0);
	}
}

static void *put_one(void *arg)
{
	*(int *)arg = put("slow", "s", 0, NULL);
	return NULL;
}

static void a_hanging_call_waits_until_told(void **state)
{
	pthread_t thread;
	uint64_t size;
	int r = 1;

	(void)state;
	simobject_fault(so, OBJECT_KINDS, simobject_calls(so, OBJECT_KINDS) + 1, 1, SIMOBJECT_HANG, 0);
	assert_int_equal(pthread_create(&thread, NULL, put_one, &r), 0);
	while (!simobject_hanging(so))
		usleep(1000);
	assert_int_equal(head("slow", &size), -ENOENT); /* others go on */
	simobject_release(so);
	pthread_join(thread, NULL);
	assert_int_equal(r, 0);
	assert_int_equal(head("slow", &size), 0);
}

static void it_can_be_had_as_it_was_at_any_event(void **state)
{
	uint64_t at[4];

	(void)state;
	at[0] = simstore_count(sim);
	assert_int_equal(put("k", "1", 0, NULL), 0);
	at[1] = simstore_count(sim);
	assert_int_equal(put("k", "22", 0, NULL), 0);
	at[2] = simstore_count(sim);
	assert_int_equal(remove_it("k"), 0);
	at[3] = simstore_count(sim);
	static const int64_t want[] = {-1, 1, 2, -1};
	for (unsigned i = 0; i < ARRAY_SIZE(at); i++)
		for (unsigned next = 0; next < 2; next++) {
			struct simobject *then = simobject_at(so, at[i], next, NULL);

			assert_int_equal(simobject_peek(then, "a", "k", NULL, 0), want[next && i < 3 ? i + 1 : i]);
			simobject_free(then);
		}
	assert_int_equal(at[3] - at[0], 3);
}

static void space_conditions_and_refusals(void **state)
{
	struct object_store *other = NULL;
	char message[OBJECT_MESSAGE_MAX] = "";

	(void)state;
	simobject_set_space(so, 5);
	assert_int_equal(put("a", "12345", 0, NULL), 0);
	assert_int_equal(put("b", "1", 0, NULL), -ENOSPC);
	simobject_set_conditions(so, false);
	assert_int_equal(put("b", "", OBJECT_CREATE, NULL), -EOPNOTSUPP);
	simobject_refuse(so, "b", -EACCES);
	assert_int_equal(simobject_hook(so, "b", NULL, &other, message), -EACCES);
	assert_true(*message);
	assert_int_equal(simobject_hook(so, "c", NULL, &other, message), 0);
	object_store_close(other);
	simobject_refuse(so, NULL, -ENODEV);
	assert_int_equal(simobject_hook(so, "c", NULL, &other, message), -ENODEV);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(it_keeps_what_is_put, make, drop),
	    cmocka_unit_test_setup_teardown(stores_of_two_names_share_nothing, make, drop),
	    cmocka_unit_test_setup_teardown(each_fault_does_what_it_says, make, drop),
	    cmocka_unit_test_setup_teardown(a_hanging_call_waits_until_told, make, drop),
	    cmocka_unit_test_setup_teardown(it_can_be_had_as_it_was_at_any_event, make, drop),
	    cmocka_unit_test_setup_teardown(space_conditions_and_refusals, make, drop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
