/*
 * test_durability.c: fsync at the level of a policy: who is answered when, by what, and in which order.
 *
 * The followers are calls of fs_acked().  The last case is many threads that sync while others ack, change the policy and go on
 * writing; the one before it what happens when memory is out (malloc is wrapped by the linker).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "fs/core/core.h"
#include "tests/unit/tempdir.h"
#include "tests/unit/volume.h"

#define KEY        "durability"
#define UNANSWERED 1 /* as a result */
#define N_MANY     400u

static struct volume vol;
static int64_t now_ns;
static _Atomic bool no_memory;
static void (*on_malloc)(void); /* called once, by the next one */

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_malloc(size_t n)
{
	void (*call)(void) = on_malloc;

	if (call) {
		on_malloc = NULL;
		call();
	}
	return atomic_load(&no_memory) ? NULL : __real_malloc(n);
}

static int64_t test_mono(const struct clock *c)
{
	(void)c;
	return now_ns;
}

static int64_t test_real(const struct clock *c)
{
	(void)c;
	return now_ns + 1000;
}

static const struct clock test_clock = {.real_ns = test_real, .mono_ns = test_mono};

/* One fsync. */
struct asker {
	struct journal_waiter w;
	int result;
	unsigned calls, place; /* in the order of answers, from 1 */
};
static unsigned n_answers;

static void answered(struct journal_waiter *w, int result)
{
	struct asker *a = container_of(w, struct asker, w);

	a->result = result;
	a->calls++;
	a->place = ++n_answers;
}

static int make_volume(void **state)
{
	(void)state;
	now_ns = NSEC_PER_SEC;
	n_answers = 0;
	volume_open(&vol, &test_clock);
	return 0;
}

static int free_volume(void **state)
{
	(void)state;
	volume_close(&vol);
	return 0;
}

static void set(uint64_t ino, const char *value)
{
	assert_int_equal(fs_set_policy(vol.fs, &root, ino, KEY, value), 0);
}

static void ask(struct asker *a, uint64_t ino)
{
	*a = (struct asker){.w.done = answered, .result = UNANSWERED};
	fs_sync_async(vol.fs, ino, &a->w);
}

static int ask_once(uint64_t ino)
{
	struct asker a;

	ask(&a, ino);
	assert_int_equal(a.calls, 1);
	return a.result;
}

static void expect(const struct asker *a, int result)
{
	assert_int_equal(a->result, result);
	assert_int_equal(a->calls, result == UNANSWERED ? 0 : 1);
}

/* Something that the next commit has to write. */
static void change(void)
{
	static unsigned n;
	const struct record_attr a = {.mask = ATTR_MODE, .mode = ++n & 0777};
	struct fs_attr after;

	assert_int_equal(fs_setattr(vol.fs, &root, vol.file, &a, &after), 0);
}

static uint64_t durable_seq(void)
{
	struct journal_status js;

	journal_get_status(vol.fs->journal, &js);
	return js.durable_seq;
}

static void ack(uint64_t seq, uint32_t n_live)
{
	fs_acked(vol.fs, &seq, 1, n_live);
}

static struct durability_status status_now(void)
{
	struct durability_status s;

	durability_get_status(vol.fs, &s);
	return s;
}

/* ---- levels ---- */

static void without_a_policy_nobody_waits(void **state)
{
	(void)state;
	change();
	uint64_t before = durable_seq();
	assert_int_equal(ask_once(vol.file), 0);
	assert_int_equal(durable_seq(), before + 1);
	change();
	assert_int_equal(fs_sync(vol.fs), 0);
	assert_int_equal(durable_seq(), before + 2);
	assert_string_equal(status_now().level, "local");
}

static void local_is_durable_here(void **state)
{
	(void)state;
	set(vol.dir, "replicas=3");
	set(vol.file, "local");
	change();
	uint64_t before = durable_seq();
	assert_int_equal(ask_once(vol.file), 0);
	assert_int_equal(durable_seq(), before + 1);
	assert_int_equal(ask_once(FS_ROOT_INO), 0); /* a policy below does not concern what lies above */
}

static void the_level_of_the_root_is_the_volumes(void **state)
{
	struct asker a, b;

	(void)state;
	set(FS_ROOT_INO, "replicas=1");
	ask(&a, vol.file);
	ask(&b, FS_ROOT_INO);
	expect(&a, UNANSWERED);
	expect(&b, UNANSWERED);
	ack(durable_seq(), 1);
	expect(&a, 0);
	expect(&b, 0);
	assert_int_equal(fs_sync(vol.fs), 0); /* all of that is acked */
}

/* Every K of every number of followers, acks coming one by one. */
static void it_takes_k_followers(void **state)
{
	uint64_t seqs[16];
	struct asker a;
	char value[32];

	(void)state;
	for (uint32_t k = 1; k <= 15; k++)
		for (uint32_t n = k; n <= 15; n++) {
			snprintf(value, sizeof(value), "replicas=%u", k);
			set(vol.dir, value);
			uint64_t old = durable_seq();
			ask(&a, vol.file);
			uint64_t seq = durable_seq();
			for (uint32_t done = 0; done <= n; done++) {
				for (uint32_t i = 0; i < n; i++)
					seqs[i] = i < done ? seq : old;
				fs_acked(vol.fs, seqs, n, n);
				expect(&a, done < k ? UNANSWERED : 0);
			}
		}
}

static void the_order_of_acks_does_not_matter(void **state)
{
	struct asker a;

	(void)state;
	set(vol.dir, "replicas=2");
	change();
	ask(&a, vol.file);
	uint64_t seq = durable_seq();
	fs_acked(vol.fs, (uint64_t[]){seq - 1, seq, 0, seq - 2}, 4, 4);
	expect(&a, UNANSWERED);
	fs_acked(vol.fs, (uint64_t[]){0, seq, seq - 2, seq + 5}, 4, 4);
	expect(&a, 0);
}

static void more_followers_than_anybody_may_ask_for_are_fine(void **state)
{
	uint64_t seqs[40];
	struct asker a;

	(void)state;
	set(vol.dir, "replicas=15");
	ask(&a, vol.file);
	for (unsigned i = 0; i < ARRAY_SIZE(seqs); i++)
		seqs[i] = durable_seq() - (i < 26);
	fs_acked(vol.fs, seqs, ARRAY_SIZE(seqs), ARRAY_SIZE(seqs));
	expect(&a, UNANSWERED);
	seqs[3]++;
	fs_acked(vol.fs, seqs, ARRAY_SIZE(seqs), ARRAY_SIZE(seqs));
	expect(&a, 0);
}

static void what_followers_hold_already_needs_no_wait(void **state)
{
	(void)state;
	set(vol.dir, "replicas=1");
	assert_int_equal(fs_sync(vol.fs), 0);
	ack(durable_seq(), 1);
	assert_int_equal(ask_once(vol.file), 0);
	ack(durable_seq(), 0); /* it went away; what it has it has */
	assert_int_equal(ask_once(vol.file), 0);
	assert_int_equal(status_now().fallbacks, 0);
	assert_int_equal(status_now().short_since_ns, 0);
}

static void a_level_of_a_newer_version_is_never_claimed(void **state)
{
	struct record r = {.type = RECORD_SETXATTR, .ino = vol.file};

	(void)state;
	r.xattr.name = (struct slice){"clawfs." KEY, 17};
	r.xattr.value = (struct slice){"quorum", 6};
	assert_int_equal(policy_apply(vol.fs, &r), 0);
	assert_int_equal(ask_once(vol.file), -EIO);
	assert_int_equal(ask_once(vol.dir), 0);
	set(vol.file, "local");
	assert_int_equal(ask_once(vol.file), 0);
}

/* ---- too few followers ---- */

static void too_few_are_waited_for(void **state)
{
	struct asker a, b;

	(void)state;
	set(vol.dir, "replicas=2");
	now_ns += 7;
	ask(&a, vol.file);
	int64_t since = now_ns + 1000;
	now_ns += 5 * NSEC_PER_SEC;
	ask(&b, vol.dir);
	ack(durable_seq(), 1);
	expect(&a, UNANSWERED);
	struct durability_status s = status_now();
	assert_int_equal(s.waiting, 2);
	assert_int_equal(s.longest_wait_ns, 5 * NSEC_PER_SEC);
	assert_int_equal(s.short_since_ns, since);
	assert_int_equal(s.fallbacks, 0);
	fs_acked(vol.fs, (uint64_t[]){durable_seq(), 0}, 2, 2);
	expect(&a, UNANSWERED);
	assert_int_equal(status_now().short_since_ns, 0);
	assert_int_equal(status_now().waiting, 2);
	fs_acked(vol.fs, (uint64_t[]){durable_seq(), durable_seq()}, 2, 2);
	expect(&a, 0);
	expect(&b, 0);
	assert_int_equal(status_now().waiting, 0);
	assert_int_equal(status_now().longest_wait_ns, 0);
}

static void else_local_falls_back_at_once_and_counts(void **state)
{
	(void)state;
	set(vol.dir, "replicas=1,else=local");
	assert_int_equal(status_now().last_fallback_ns, 0);
	assert_int_equal(ask_once(vol.file), 0);
	int64_t first = now_ns + 1000;
	now_ns += NSEC_PER_SEC;
	assert_int_equal(ask_once(vol.file), 0);
	struct durability_status s = status_now();
	assert_int_equal(s.fallbacks, 2);
	assert_int_equal(s.last_fallback_ns, now_ns + 1000);
	assert_int_equal(s.short_since_ns, first);
	ack(0, 1);
	assert_int_equal(status_now().short_since_ns, 0);
	assert_int_equal(status_now().fallbacks, 2);
}

static void else_local_waits_for_a_follower_that_is_there_until_it_goes(void **state)
{
	struct asker a, b;

	(void)state;
	set(vol.dir, "replicas=1,else=local");
	ack(0, 1);
	ask(&a, vol.file);
	expect(&a, UNANSWERED);
	ack(durable_seq(), 1);
	expect(&a, 0);
	assert_int_equal(status_now().fallbacks, 0);
	change();
	ask(&b, vol.file);
	expect(&b, UNANSWERED);
	ack(durable_seq() - 1, 0);
	expect(&b, 0);
	assert_int_equal(status_now().fallbacks, 1);
}

/* ---- a policy that changes while somebody waits ---- */

static void a_change_answers_who_has_waited_for_more(void **state)
{
	static const struct {
		const char *to; /* of /sub; NULL: unset */
		bool on_file;
		int result;
	} cases[] = {
	    {"local", false, 0},
	    {NULL, false, 0},
	    {"replicas=1", false, 0}, /* one has it */
	    {"replicas=2", false, UNANSWERED},
	    {"replicas=3", false, UNANSWERED},
	    {"replicas=4", false, UNANSWERED},
	    {"replicas=3,else=local", false, 0},
	    {"replicas=2,else=local", false, UNANSWERED}, /* two are there */
	    {"local", true, 0},
	    {"replicas=15", true, UNANSWERED},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t other = 0;
		struct fs_attr made;
		struct asker a, b;

		set(vol.dir, "replicas=3");
		assert_int_equal(fs_mknod(vol.fs, &root, FS_ROOT_INO, "other", S_IFREG | 0644, 0, &made), 0);
		other = made.ino;
		set(other, "replicas=3");
		ask(&a, vol.file);
		ask(&b, other);
		fs_acked(vol.fs, (uint64_t[]){durable_seq(), 0}, 2, 2);
		expect(&a, UNANSWERED);
		assert_int_equal(fs_set_policy(vol.fs, &root, cases[i].on_file ? vol.file : vol.dir, KEY, cases[i].to), 0);
		expect(&a, cases[i].result);
		expect(&b, UNANSWERED); /* another file's */
		set(other, "local");
		expect(&b, 0);
		if (cases[i].on_file)
			set(vol.file, NULL);
		set(vol.dir, "local");
		expect(&a, 0);
		assert_int_equal(fs_unlink(vol.fs, &root, FS_ROOT_INO, "other"), 0);
	}
}

static void a_change_that_asks_for_more_is_waited_for(void **state)
{
	struct asker a;

	(void)state;
	set(vol.dir, "replicas=1");
	ask(&a, vol.file);
	set(vol.dir, "replicas=2");
	ack(durable_seq(), 2);
	expect(&a, UNANSWERED);
	fs_acked(vol.fs, (uint64_t[]){durable_seq(), durable_seq()}, 2, 2);
	expect(&a, 0);
}

/* Its level was looked up, and it is not in the list yet: the moment in which it gets its memory. */
static void set_local(void)
{
	set(vol.dir, "local");
}

static void a_change_between_looking_and_waiting_is_not_missed(void **state)
{
	struct asker a;

	(void)state;
	set(vol.dir, "replicas=1");
	on_malloc = set_local;
	ask(&a, vol.file);
	assert_null(on_malloc);
	expect(&a, 0);
}

/* The policy changes while the fsync's own batch is being written. */
static const char *change_to;
static void change_policy(void *ctx)
{
	(void)ctx;
	const char *to = change_to;

	change_to = NULL;
	if (to)
		set(vol.dir, to);
}

static void a_change_during_the_commit_is_not_missed(void **state)
{
	struct asker a;

	(void)state;
	set(vol.dir, "replicas=1");
	change_to = "local";
	simstore_on_durable_write(vol.sim, change_policy, NULL);
	ask(&a, vol.file);
	assert_null(change_to);
	expect(&a, 0);
	ack(durable_seq() + 100, 1);
	set(vol.dir, "replicas=1");
	change_to = "replicas=2";
	change();
	ask(&a, vol.file);
	expect(&a, UNANSWERED);
	simstore_on_durable_write(vol.sim, NULL, NULL);
	set(vol.dir, "local");
	expect(&a, 0);
}

/* The ack comes while the batch is being written here: a follower that is faster must not be missed, nor believed alone. */
static void ack_during_commit(void *ctx)
{
	const struct asker *a = ctx;

	ack(durable_seq() + 1, 1);
	assert_int_equal(a->calls, 0);
}

static void an_ack_during_the_commit_answers_after_it(void **state)
{
	struct asker a = {0};

	(void)state;
	set(vol.dir, "replicas=1");
	simstore_on_durable_write(vol.sim, ack_during_commit, &a);
	ask(&a, vol.file);
	simstore_on_durable_write(vol.sim, NULL, NULL);
	expect(&a, 0);
}

/* ---- interrupts ---- */

static void one_that_is_interrupted_waits_no_more_and_the_others_do(void **state)
{
	struct asker a[3];

	(void)state;
	set(vol.dir, "replicas=1");
	for (unsigned which = 0; which < ARRAY_SIZE(a); which++) { /* first, between, last of the list */
		for (size_t i = 0; i < ARRAY_SIZE(a); i++)
			ask(&a[i], vol.file);
		assert_true(fs_interrupt(vol.fs, &a[which].w));
		assert_false(fs_interrupt(vol.fs, &a[which].w));
		assert_int_equal(status_now().waiting, ARRAY_SIZE(a) - 1);
		ask(&a[which], vol.file); /* and the list is in order */
		change();
		ack(durable_seq(), 1);
		for (size_t i = 0; i < ARRAY_SIZE(a); i++) {
			expect(&a[i], 0);
			assert_false(fs_interrupt(vol.fs, &a[i].w));
		}
		ack(0, 0);
	}
}

static void interrupt_during_commit(void *ctx)
{
	struct asker *a = ctx;

	assert_false(fs_interrupt(vol.fs, &a->w));
	assert_int_equal(a->calls, 0);
}

/* The commit is not to be had back: it ends first, and then nobody waits; an ack that is there by then counts. */
static void one_that_is_interrupted_during_its_commit_is_answered_by_the_end_of_it(void **state)
{
	struct asker a = {0};

	(void)state;
	set(vol.dir, "replicas=1");
	simstore_on_durable_write(vol.sim, interrupt_during_commit, &a);
	ask(&a, vol.file);
	expect(&a, -EINTR);
	change();
	ack(durable_seq() + 100, 1);
	ask(&a, vol.file);
	expect(&a, 0);
	simstore_on_durable_write(vol.sim, NULL, NULL);
}

/* ---- ends ---- */

static void a_leader_that_follows_refuses_what_it_could_not_hand_on(void **state)
{
	struct asker a, b;

	(void)state;
	set(vol.dir, "replicas=1");
	ack(0, 1);
	ask(&a, vol.file);
	durability_role(vol.fs, ROLE_FOLLOWER);
	expect(&a, -EROFS);
	assert_int_equal(ask_once(vol.file), -EROFS);
	assert_int_equal(ask_once(FS_ROOT_INO), 0); /* local: it is durable here */
	ack(durable_seq(), 1);
	durability_role(vol.fs, ROLE_LEADER);
	ask(&b, vol.file);
	expect(&b, UNANSWERED); /* what was acked before was another history */
	ack(durable_seq(), 1);
	expect(&b, 0);
}

static void a_follower_answers_by_its_own_commit(void **state)
{
	struct asker a;

	(void)state;
	set(FS_ROOT_INO, "replicas=2");
	durability_close(vol.fs);
	atomic_store(&vol.fs->role, ROLE_FOLLOWER);
	assert_int_equal(durability_open(vol.fs), 0);
	assert_int_equal(ask_once(vol.file), 0);
	assert_int_equal(fs_sync(vol.fs), 0);
	durability_role(vol.fs, ROLE_FOLLOWER); /* still */
	assert_int_equal(ask_once(vol.file), 0);
	durability_role(vol.fs, ROLE_LEADER);
	atomic_store(&vol.fs->role, ROLE_LEADER);
	ask(&a, vol.file);
	expect(&a, UNANSWERED);
	durability_end_waits(vol.fs);
	expect(&a, -EIO);
}

static void the_end_of_a_mount_answers_everybody_and_the_next_one_waits_again(void **state)
{
	struct asker a[3], after;

	(void)state;
	set(vol.dir, "replicas=1");
	for (size_t i = 0; i < ARRAY_SIZE(a); i++)
		ask(&a[i], vol.file);
	fs_end_waits(vol.fs);
	for (size_t i = 0; i < ARRAY_SIZE(a); i++) {
		expect(&a[i], -EIO);
		assert_int_equal(a[i].place, i + 1);
	}
	ask(&after, vol.file);
	expect(&after, UNANSWERED);
	ack(durable_seq(), 1);
	expect(&after, 0);
}

static void closing_answers_who_waits(void **state)
{
	(void)state;
	for (int killed = 0; killed < 2; killed++) {
		struct asker a;

		set(vol.dir, "replicas=1");
		ask(&a, vol.file);
		volume_reopen(&vol, killed);
		expect(&a, -EIO);
	}
}

static void a_volume_that_stops_answers_who_waits(void **state)
{
	struct asker a;

	(void)state;
	set(vol.dir, "replicas=1");
	ask(&a, vol.file);
	fs_fail(vol.fs, -EIO, "a test");
	expect(&a, -EIO);
	assert_int_equal(ask_once(vol.file), -EIO);
	assert_int_equal(fs_sync(vol.fs), -EIO);
	volume_reopen(&vol, true);
}

static void an_error_of_the_commit_is_the_answer(void **state)
{
	struct asker waiting, a;

	(void)state;
	set(vol.dir, "replicas=1");
	ask(&waiting, vol.file);
	ack(durable_seq() - 1, 1);
	change();
	simstore_fail(vol.sim, simstore_count(vol.sim) + 1, UINT64_MAX, -EIO);
	ask(&a, vol.file);
	expect(&a, -EIO);
	expect(&waiting, -EIO); /* the volume stopped */
	simstore_fail(vol.sim, 0, 0, 0);
	volume_reopen(&vol, true);
}

static void an_ack_does_not_make_up_for_a_failed_commit(void **state)
{
	struct asker a;

	(void)state;
	set(vol.dir, "replicas=1");
	ack(durable_seq() + 100, 1);
	simstore_fail(vol.sim, simstore_count(vol.sim) + 1, UINT64_MAX, -EIO);
	ask(&a, vol.file);
	expect(&a, -EIO);
	simstore_fail(vol.sim, 0, 0, 0);
	volume_reopen(&vol, true);
}

static void without_memory_nothing_is_claimed(void **state)
{
	struct asker a;

	(void)state;
	set(vol.dir, "replicas=1");
	assert_int_equal(fs_sync(vol.fs), 0);
	ack(durable_seq(), 1);
	atomic_store(&no_memory, true);
	ask(&a, vol.file);
	atomic_store(&no_memory, false);
	expect(&a, -ENOMEM);
	assert_int_equal(ask_once(vol.file), 0);
}

/* ---- many ---- */

static void many_are_answered_in_order_as_acks_come(void **state)
{
	static struct asker a[N_MANY];
	uint64_t seq[N_MANY];

	(void)state;
	set(vol.dir, "replicas=1");
	for (unsigned i = 0; i < N_MANY; i++) {
		if (i % 3 == 0)
			change();
		ask(&a[i], i % 2 ? vol.file : vol.dir);
		seq[i] = durable_seq();
	}
	assert_int_equal(status_now().waiting, N_MANY);
	for (uint64_t s = seq[0] - 1; s <= seq[N_MANY - 1]; s++) {
		ack(s, 1);
		for (unsigned i = 0; i < N_MANY; i++) {
			expect(&a[i], seq[i] <= s ? 0 : UNANSWERED);
			assert_int_equal(a[i].place, seq[i] <= s ? i + 1 : 0);
		}
	}
}

static void status_says_so(void **state)
{
	struct buf out = {0};
	json_error_t error;
	struct asker a;

	(void)state;
	set(FS_ROOT_INO, "replicas=2");
	ask(&a, vol.file);
	now_ns += 1234;
	fs_status_json(vol.fs, &out);
	json_t *all = json_loadb((const char *)out.p, out.len, 0, &error), *d = json_object_get(all, "durability");
	assert_string_equal(json_string_value(json_object_get(d, "level")), "replicas=2");
	assert_int_equal(json_integer_value(json_object_get(d, "waiting")), 1);
	assert_int_equal(json_integer_value(json_object_get(d, "longest_wait_ns")), 1234);
	assert_true(json_integer_value(json_object_get(d, "short_since_ns")) > 0);
	assert_int_equal(json_integer_value(json_object_get(d, "fallbacks")), 0);
	json_decref(all);
	buf_free(&out);
	set(FS_ROOT_INO, NULL);
	expect(&a, 0);
}

/* ---- threads ---- */

#define N_SYNCERS 4u
#define N_SYNCS   300u

static _Atomic bool stop_threads;
static _Atomic unsigned n_bad;

static void *sync_often(void *arg)
{
	uint64_t ino = *(const uint64_t *)arg;
	const struct record_attr mode = {.mask = ATTR_MODE, .mode = 0600};
	struct fs_attr after;

	for (unsigned i = 0; i < N_SYNCS; i++) {
		bool bad = fs_setattr(vol.fs, &root, ino, &mode, &after) != 0 || fs_sync(vol.fs) != 0;

		atomic_fetch_add(&n_bad, bad);
	}
	return NULL;
}

/* A follower that is a little behind, and comes and goes. */
static void *ack_often(void *arg)
{
	(void)arg;
	for (unsigned i = 0; !atomic_load(&stop_threads); i++) {
		ack(durable_seq(), i % 5 > 0);
		usleep(50);
	}
	return NULL;
}

static void *change_often(void *arg)
{
	static const char *const values[] = {"local", "replicas=1", "replicas=1,else=local", "replicas=2,else=local", NULL};

	(void)arg;
	for (unsigned i = 0; !atomic_load(&stop_threads); i++) {
		int r = fs_set_policy(vol.fs, &root, FS_ROOT_INO, KEY, values[i % ARRAY_SIZE(values)]);

		atomic_fetch_add(&n_bad, r != 0);
		usleep(200);
	}
	return NULL;
}

/* On a real directory: what the simulated store looks at while others write is not for threads. */
static void everybody_is_answered_whatever_happens_at_once(void **state)
{
	pthread_t syncer[N_SYNCERS], acker, changer;
	struct store *store;
	char dir[256];

	(void)state;
	tempdir_make(dir);
	assert_int_equal(store_posix_open(dir, false, &store), 0);
	vol = (struct volume){0};
	volume_make(&vol, store, NULL);
	atomic_store(&stop_threads, false);
	assert_int_equal(pthread_create(&acker, NULL, ack_often, NULL), 0);
	assert_int_equal(pthread_create(&changer, NULL, change_often, NULL), 0);
	for (unsigned i = 0; i < N_SYNCERS; i++)
		assert_int_equal(pthread_create(&syncer[i], NULL, sync_often, i % 2 ? &vol.file : &vol.dir), 0);
	for (unsigned i = 0; i < N_SYNCERS; i++)
		pthread_join(syncer[i], NULL);
	atomic_store(&stop_threads, true);
	pthread_join(acker, NULL);
	pthread_join(changer, NULL);
	assert_int_equal(atomic_load(&n_bad), 0);
	assert_int_equal(status_now().waiting, 0);
	volume_close(&vol);
	tempdir_remove(dir);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, make_volume, free_volume)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(without_a_policy_nobody_waits),
	    CASE(local_is_durable_here),
	    CASE(the_level_of_the_root_is_the_volumes),
	    CASE(it_takes_k_followers),
	    CASE(the_order_of_acks_does_not_matter),
	    CASE(more_followers_than_anybody_may_ask_for_are_fine),
	    CASE(what_followers_hold_already_needs_no_wait),
	    CASE(a_level_of_a_newer_version_is_never_claimed),
	    CASE(too_few_are_waited_for),
	    CASE(else_local_falls_back_at_once_and_counts),
	    CASE(else_local_waits_for_a_follower_that_is_there_until_it_goes),
	    CASE(a_change_answers_who_has_waited_for_more),
	    CASE(a_change_that_asks_for_more_is_waited_for),
	    CASE(a_change_between_looking_and_waiting_is_not_missed),
	    CASE(a_change_during_the_commit_is_not_missed),
	    CASE(an_ack_during_the_commit_answers_after_it),
	    CASE(one_that_is_interrupted_waits_no_more_and_the_others_do),
	    CASE(one_that_is_interrupted_during_its_commit_is_answered_by_the_end_of_it),
	    CASE(a_leader_that_follows_refuses_what_it_could_not_hand_on),
	    CASE(a_follower_answers_by_its_own_commit),
	    CASE(the_end_of_a_mount_answers_everybody_and_the_next_one_waits_again),
	    CASE(closing_answers_who_waits),
	    CASE(a_volume_that_stops_answers_who_waits),
	    CASE(an_error_of_the_commit_is_the_answer),
	    CASE(an_ack_does_not_make_up_for_a_failed_commit),
	    CASE(without_memory_nothing_is_claimed),
	    CASE(many_are_answered_in_order_as_acks_come),
	    CASE(status_says_so),
	    cmocka_unit_test(everybody_is_answered_whatever_happens_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
