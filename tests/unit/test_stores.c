/*
 * test_stores.c: stores of a volume: what their definitions do, whose they are, when they are opened, what they used up this
 * month, and a key that nobody is told.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "fs/core/dump.h"
#include "tests/unit/recall_case.h"

static int set_store(const char *name, const char *text)
{
	char key[64];

	snprintf(key, sizeof(key), "tier.store.%s", name);
	return fs_set_policy(w.v.fs, &root, FS_ROOT_INO, key, text);
}

struct names {
	char text[256];
	unsigned open;
};

static int add_name(void *ctx, const struct tier_store *s)
{
	struct names *n = ctx;

	snprintf(n->text + strlen(n->text), sizeof(n->text) - strlen(n->text), "%s=%u ", s->name, s->d.id);
	n->open += s->guard != NULL;
	return 0;
}

static struct names names_now(void)
{
	struct names n = {0};

	assert_int_equal(stores_each(w.v.fs, add_name, &n), 0);
	return n;
}

/* ---- definitions ---- */

static void definitions_are_policies_of_the_root(void **state)
{
	const struct tier_store *s;

	(void)state;
	assert_string_equal(names_now().text, "s=1 ");
	assert_int_equal(stores_get_by_name(w.v.fs, "t", &s), -ENODEV);
	assert_int_equal(stores_get(w.v.fs, 2, &s), -ENODEV);
	assert_int_equal(set_store("t", "file:///other id=2"), 0);
	assert_non_null(strstr(names_now().text, "t=2 "));
	assert_non_null(strstr(names_now().text, "s=1 "));
	assert_int_equal(set_store("t", NULL), 0);
	assert_string_equal(names_now().text, "s=1 ");
	world_reopen(&w);
	assert_string_equal(names_now().text, "s=1 ");
}

static void a_definition_that_cannot_be_meant_is_refused(void **state)
{
	static const char *const bad[] = {"file:///x", "file:///x id=0", "nonsense", "", "file:///x id=1 colour=red"};
	static const char *const names[] = {"", "Upper", "a/b", "-x", "a.b", "a23456789012345678901234567890123"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(set_store("t", bad[i]), -EINVAL);
	for (size_t i = 1; i < ARRAY_SIZE(names); i++)
		assert_int_equal(set_store(names[i], "file:///x id=3"), -EINVAL);
	assert_int_equal(set_store(names[0], "file:///x id=3"), -EOPNOTSUPP);
	assert_string_equal(names_now().text, "s=1 ");
}

static void a_long_definition_fits(void **state)
{
	char text[800] = "s3://bucket/", name[33];

	(void)state;
	memset(text + strlen(text), 'p', 200);
	strcat(text, " endpoint=https://");
	memset(text + strlen(text), 'h', 200);
	strcat(text, " ca=/");
	memset(text + strlen(text), 'c', 200);
	strcat(text, " id=7");
	memset(name, 'n', 32);
	name[32] = '\0';
	assert_int_equal(set_store(name, text), 0);
	assert_non_null(strstr(names_now().text, "=7 "));
	world_reopen(&w);
	assert_non_null(strstr(names_now().text, "=7 "));
}

/* ---- use ---- */

static void a_store_is_opened_when_it_is_needed_and_stays_open(void **state)
{
	const struct tier_store *a, *b;

	(void)state;
	world_reopen(&w);
	uint64_t before = simobject_calls(w.so, OBJECT_KINDS);
	assert_int_equal(names_now().open, 0);
	assert_int_equal(simobject_calls(w.so, OBJECT_KINDS), before);
	assert_int_equal(stores_get(w.v.fs, 1, &a), 0);
	assert_string_equal(a->name, "s");
	before = simobject_calls(w.so, OBJECT_KINDS);
	assert_int_equal(stores_get_by_name(w.v.fs, "s", &b), 0);
	assert_ptr_equal(a, b);
	assert_int_equal(simobject_calls(w.so, OBJECT_KINDS), before);
	stores_put(w.v.fs, a);
	stores_put(w.v.fs, b);
	assert_int_equal(names_now().open, 1);
}

static void one_that_changes_or_goes_stays_for_those_who_use_it(void **state)
{
	struct object_call call = {.purpose = OBJECT_FOREGROUND};
	const struct tier_store *old, *new;
	struct object_info info;

	(void)state;
	assert_int_equal(stores_get(w.v.fs, 1, &old), 0);
	assert_int_equal(set_store("s", STORE_TEXT " requests=100"), 0);
	assert_int_equal(stores_get(w.v.fs, 1, &new), 0);
	assert_ptr_not_equal(old, new);
	assert_int_equal(new->d.requests, 100);
	assert_int_equal(old->d.requests, 0);
	assert_int_equal(old->guard->ops->head(old->guard, &call, "clawfs.volume", &info), 0);
	stores_put(w.v.fs, old);
	assert_int_equal(set_store("s", NULL), 0);
	assert_string_equal(names_now().text, "");
	assert_int_equal(new->guard->ops->head(new->guard, &call, "clawfs.volume", &info), 0);
	stores_put(w.v.fs, new);
	assert_int_equal(stores_get(w.v.fs, 1, &new), -ENODEV);
}

static void one_that_cannot_be_opened_is_tried_again(void **state)
{
	const struct tier_store *s;

	(void)state;
	world_reopen(&w);
	simobject_refuse(w.so, "s", -EACCES);
	assert_int_equal(stores_get(w.v.fs, 1, &s), -EIO);
	simobject_refuse(w.so, "s", 0);
	assert_int_equal(stores_get(w.v.fs, 1, &s), -EIO); /* not at once */
	struct tier_store known;
	assert_int_equal(stores_find(w.v.fs, 1, &known), 0);
	assert_true(*known.message);
	pass_ns(2 * NSEC_PER_SEC);
	assert_int_equal(stores_get(w.v.fs, 1, &s), 0);
	assert_string_equal(s->message, "");
	stores_put(w.v.fs, s);
}

static int look_around(void *ctx, const char *name, const struct store_definition *d, struct object_store **ret, char *message)
{
	assert_non_null(strstr(names_now().text, name)); /* with the lock held this would be for ever */
	return simobject_hook(ctx, name, d, ret, message);
}

static void opening_holds_no_lock(void **state)
{
	const struct tier_store *s;

	(void)state;
	w.v.config.object_store_open = look_around;
	world_reopen(&w);
	assert_int_equal(stores_get(w.v.fs, 1, &s), 0);
	stores_put(w.v.fs, s);
}

struct getter {
	pthread_t thread;
	int result;
};

static void *get_store(void *arg)
{
	struct getter *g = arg;
	const struct tier_store *s;

	g->result = stores_get(w.v.fs, 1, &s);
	if (g->result == 0)
		stores_put(w.v.fs, s);
	return NULL;
}

static void many_who_need_it_open_it_once(void **state)
{
	enum { GETTERS = 8 };
	struct getter g[GETTERS];

	(void)state;
	world_reopen(&w);
	uint64_t before = simobject_calls(w.so, OBJECT_HEAD);
	simobject_fault(w.so, OBJECT_HEAD, before + 1, 1, SIMOBJECT_HANG, 0);
	for (unsigned i = 0; i < GETTERS; i++)
		assert_int_equal(pthread_create(&g[i].thread, NULL, get_store, &g[i]), 0);
	EVENTUALLY(simobject_hanging(w.so) == 1);
	simobject_clear(w.so);
	for (unsigned i = 0; i < GETTERS; i++) {
		pthread_join(g[i].thread, NULL);
		assert_int_equal(g[i].result, 0);
	}
	assert_int_equal(simobject_calls(w.so, OBJECT_HEAD), before + 1);
}

/* ---- whose it is ---- */

static void bind(int want, const char *says)
{
	struct object_store *s = simobject_open(w.so, "b");
	char message[OBJECT_MESSAGE_MAX];

	assert_int_equal(stores_bind(w.v.fs, s, message), want);
	assert_non_null(strstr(message, says));
	object_store_close(s);
}

static void a_store_is_bound_once_and_to_one_volume(void **state)
{
	static const char other[] = "volume=00000000-1111-2222-3333-444444444444\nlabel=theirs\n";

	(void)state;
	bind(0, "");
	uint64_t puts = simobject_calls(w.so, OBJECT_PUT);
	bind(0, "");
	assert_int_equal(simobject_calls(w.so, OBJECT_PUT), puts);
	simobject_plant(w.so, "b", "clawfs.volume", other, strlen(other), 1);
	bind(-EPERM, "another volume");
	bind(-EPERM, "theirs");
	simobject_plant(w.so, "b", "clawfs.volume", "\x1b[2J\n", 5, 1);
	bind(-EPERM, "not one that clawfs made");
	simobject_plant(w.so, "b", "clawfs.volume", "", 0, 1);
	bind(-EPERM, "not one that clawfs made");
}

static void a_store_without_conditions_is_bound_too(void **state)
{
	(void)state;
	simobject_set_conditions(w.so, false);
	bind(0, "");
	bind(0, "");
}

/* Another volume puts its mark between our look and our put. */
static void be_first(void *ctx, enum object_kind kind, const char *key)
{
	static const char other[] = "volume=00000000-1111-2222-3333-444444444444\n";

	(void)ctx;
	if (kind == OBJECT_PUT)
		simobject_plant(w.so, "b", key, other, strlen(other), 1);
}

static void of_two_volumes_that_bind_at_once_one_is_refused(void **state)
{
	(void)state;
	simobject_on_call(w.so, be_first, NULL);
	bind(-EPERM, "another volume");
	simobject_on_call(w.so, NULL, NULL);
}

static void only_a_store_of_this_volume_is_opened(void **state)
{
	static const char other[] = "volume=00000000-1111-2222-3333-444444444444\n";
	const struct tier_store *s;
	struct tier_store known;

	(void)state;
	world_reopen(&w);
	simobject_plant(w.so, "s", "clawfs.volume", other, strlen(other), 1);
	assert_int_equal(stores_get(w.v.fs, 1, &s), -EIO);
	assert_int_equal(stores_find(w.v.fs, 1, &known), 0);
	assert_non_null(strstr(known.message, "another volume"));
	simobject_erase(w.so, "s", "clawfs.volume");
	pass_ns(2 * NSEC_PER_SEC);
	assert_int_equal(stores_get(w.v.fs, 1, &s), -EIO);
	assert_int_equal(stores_find(w.v.fs, 1, &known), 0);
	assert_non_null(strstr(known.message, "mounted"));
	world_bind(&w);
	pass_ns(2 * NSEC_PER_SEC);
	assert_int_equal(stores_get(w.v.fs, 1, &s), 0);
	stores_put(w.v.fs, s);
}

/* ---- the key ---- */

static void the_key_is_made_once_and_told_to_nobody(void **state)
{
	struct pack_volume_key key, again;
	char value[FS_POLICY_MAX + 1], hex[2 * PACK_KEY_BYTES + 1], *text = NULL;
	size_t len = 0;

	(void)state;
	assert_int_equal(stores_key(w.v.fs, &key), 0);
	assert_int_equal(stores_make_key(w.v.fs), 0);
	world_reopen(&w);
	assert_int_equal(stores_key(w.v.fs, &again), 0);
	assert_memory_equal(&key, &again, sizeof(key));
	assert_int_equal(fs_get_policy(w.v.fs, FS_ROOT_INO, "tier.key", false, value), -ENODATA);
	assert_int_equal(fs_get_policy(w.v.fs, w.v.file, "tier.key", true, value), -ENODATA);
	assert_int_equal(fs_getxattr(w.v.fs, FS_ROOT_INO, "clawfs.tier.key", value, sizeof(value), &len), -ENODATA);
	assert_int_equal(fs_set_policy(w.v.fs, &root, FS_ROOT_INO, "tier.key", "00"), -EOPNOTSUPP);
	assert_int_equal(fs_set_policy(w.v.fs, &root, FS_ROOT_INO, "tier.key", NULL), -EOPNOTSUPP);
	for (unsigned i = 0; i < PACK_KEY_BYTES; i++)
		snprintf(hex + 2 * i, 3, "%02x", key.bytes[i]);
	for (int json = 0; json < 2; json++) {
		FILE *f = open_memstream(&text, &len);

		assert_int_equal(fs_dump_index(w.v.fs, f, json), 0);
		fclose(f);
		assert_non_null(strstr(text, "tier.key"));
		assert_null(strstr(text, hex));
		free(text);
	}
	struct buf status = {0};
	fs_status_json(w.v.fs, &status);
	buf_put_u8(&status, 0);
	assert_null(strstr((char *)status.p, hex));
	buf_free(&status);
}

static void a_key_that_is_none_is_no_key(void **state)
{
	static const char *const bad[] = {"00", "zz", "0", "A"};
	struct pack_volume_key key;
	char text[80];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		memset(text, '1', 64);
		text[64] = '\0';
		memcpy(text + (i == 0 ? 64 : 10), bad[i], strlen(bad[i]));
		text[i == 0 ? 66 : 64] = '\0';
		if (i == 2)
			text[63] = '\0';
		assert_int_equal(policy_set(w.v.fs, NULL, FS_ROOT_INO, "tier.key", text), 0);
		assert_int_equal(stores_key(w.v.fs, &key), -EUCLEAN);
		assert_int_equal(stores_make_key(w.v.fs), -EUCLEAN); /* and no other one takes its place */
	}
}

static void objects_have_names(void **state)
{
	static const uint64_t object[] = {1, 0xff, UINT64_MAX, UINT64_C(0x5f03a10000000001)};
	char key[OBJECT_NAME_MAX], other[OBJECT_NAME_MAX];
	uint64_t back;

	(void)state;
	object_name(UINT64_C(0x5f03a10000000001), key);
	assert_string_equal(key, "packs/5f/5f03a10000000001");
	for (size_t i = 0; i < ARRAY_SIZE(object); i++) {
		object_name(object[i], key);
		assert_true(object_key_valid(key));
		assert_int_equal(object_name_parse(key, &back), 0);
		assert_int_equal(back, object[i]);
		for (size_t at = 0; at < strlen(key); at++) /* a changed byte is another object, or none */
			for (int c = 1; c < 128; c++) {
				strcpy(other, key);
				if (other[at] == c)
					continue;
				other[at] = (char)c;
				if (object_name_parse(other, &back) == 0)
					assert_int_not_equal(back, object[i]);
			}
	}
	assert_int_equal(object_name_parse("packs/00/0000000000000000", &back), -EINVAL);
	assert_int_equal(object_name_parse("clawfs.volume", &back), -EINVAL);
	assert_int_equal(object_name_parse("", &back), -EINVAL);
}

/* ---- usage ---- */

static uint64_t requests_of(uint32_t id)
{
	const struct tier_store *s;
	struct guard_status status;

	assert_int_equal(stores_get(w.v.fs, id, &s), 0);
	guard_get_status(s->guard, &status);
	stores_put(w.v.fs, s);
	return status.usage.requests;
}

static void requests_of_the_month_are_kept_over_restarts(void **state)
{
	(void)state;
	uint64_t ino = make_cold(&w, w.v.dir, "f", LEAF_SIZE), before = requests_of(1);

	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(read_part(&w, ino, 0, 10), 0);
		uint64_t now = requests_of(1);
		assert_true(now > before);
		world_reopen(&w);
		before = requests_of(1); /* asking whose it is takes two */
		assert_int_equal(before, now + 2);
	}
	/* and when its definition changes */
	assert_int_equal(set_store("s", STORE_TEXT " requests=1000"), 0);
	assert_int_equal(requests_of(1), before + 2);
}

static void a_kill_forgets_a_minute_of_them_at_most(void **state)
{
	(void)state;
	uint64_t ino = make_cold(&w, w.v.dir, "f", LEAF_SIZE);
	assert_int_equal(read_part(&w, ino, 0, 10), 0);
	pass_ns(61 * NSEC_PER_SEC);
	uint64_t now = requests_of(1); /* written on the way */
	volume_reopen(&w.v, true);
	assert_int_equal(requests_of(1), now + 2);
}

static void usage_that_is_damaged_begins_anew(void **state)
{
	struct disk *d;
	uint8_t *p = aligned_alloc(DISK_BLOCK, DISK_BLOCK);

	(void)state;
	for (unsigned bad = 1; bad < 4; bad++) { /* one copy, the other, both */
		uint64_t now = requests_of(1);

		stores_save(w.v.fs); /* both copies have been written by now */
		stores_save(w.v.fs);
		assert_int_equal(fs_close(w.v.fs), 0);
		w.v.config.store = simstore_open(w.v.sim);
		assert_int_equal(store_open(w.v.config.store, "tier/usage", 0, 0, &d), 0);
		for (unsigned copy = 0; copy < 2; copy++) {
			if (!(bad >> copy & 1))
				continue;
			assert_int_equal(disk_read(d, p, DISK_BLOCK, copy * d->size / 2), 0);
			p[60] ^= 1;
			assert_int_equal(disk_write(d, p, DISK_BLOCK, copy * d->size / 2, DISK_DURABLE), 0);
		}
		disk_close(d);
		assert_int_equal(fs_open(&w.v.config, &w.v.fs), 0);
		assert_int_equal(requests_of(1), bad < 3 ? now + 2 : 2);
	}
	free(p);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, open_world, close_world)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(definitions_are_policies_of_the_root),
	    CASE(a_definition_that_cannot_be_meant_is_refused),
	    CASE(a_long_definition_fits),
	    CASE(a_store_is_opened_when_it_is_needed_and_stays_open),
	    CASE(one_that_changes_or_goes_stays_for_those_who_use_it),
	    CASE(one_that_cannot_be_opened_is_tried_again),
	    CASE(opening_holds_no_lock),
	    CASE(many_who_need_it_open_it_once),
	    CASE(a_store_is_bound_once_and_to_one_volume),
	    CASE(a_store_without_conditions_is_bound_too),
	    CASE(of_two_volumes_that_bind_at_once_one_is_refused),
	    CASE(only_a_store_of_this_volume_is_opened),
	    CASE(the_key_is_made_once_and_told_to_nobody),
	    CASE(a_key_that_is_none_is_no_key),
	    CASE(objects_have_names),
	    CASE(requests_of_the_month_are_kept_over_restarts),
	    CASE(a_kill_forgets_a_minute_of_them_at_most),
	    CASE(usage_that_is_damaged_begins_anew),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
