/*
 * probe.c: see probe.h.  A table of steps, each a function that does one thing to two objects of random names.
 */
#include "tier/probe.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define BODY_BYTES 70000u /* more than one buffer or packet */
#define RANGE_FROM 4097u
#define RANGE_LEN  8190u

struct probe {
	struct object_store *store;
	struct object_call call;
	int64_t deadline_ns;
	struct probe_report *report;
	char key[64], condition_key[64];
	uint8_t body[BODY_BYTES], got[BODY_BYTES];
};

/* 0, or an error; `message`, empty at first, may be set beside either. */
typedef int step_fn(struct probe *t, char *message);

static PRINTF_LIKE(3, 4) int say(char *message, int error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(message, OBJECT_MESSAGE_MAX, fmt, ap);
	va_end(ap);
	return error;
}

static struct object_call *fresh_call(struct probe *t)
{
	t->call = (struct object_call){.deadline_ns = t->deadline_ns, .purpose = OBJECT_FOREGROUND};
	return &t->call;
}

static int put(struct probe *t, const char *key, unsigned flags)
{
	/* In two parts, as packs come. */
	const struct iovec iov[] = {{t->body, 1000}, {t->body + 1000, BODY_BYTES - 1000}};

	return t->store->ops->put(t->store, fresh_call(t), key, iov, ARRAY_SIZE(iov), flags);
}

static int step_put(struct probe *t, char *message)
{
	int r = put(t, t->key, 0);

	t->report->verifies = r == 0 && t->call.verified;
	if (r == 0 && !t->report->verifies)
		say(message, 0,
		    "the store confirms no checksum: each object is read back before local copies go, which costs a request "
		    "and its bytes once more");
	return r;
}

static int step_head(struct probe *t, char *message)
{
	struct object_info info;

	int r = t->store->ops->head(t->store, fresh_call(t), t->key, &info);
	if (r == 0 && info.size != BODY_BYTES)
		return say(message, -EBADMSG, "the object has %ju bytes, %u were stored", (uintmax_t)info.size, BODY_BYTES);
	return r;
}

static int read_and_compare(struct probe *t, uint64_t off, size_t len, char *message)
{
	memset(t->got, 0, sizeof(t->got));
	int r = t->store->ops->get(t->store, fresh_call(t), t->key, off, len, t->got);
	if (r == 0 && memcmp(t->got, t->body + off, len) != 0)
		return say(message, -EBADMSG, "other bytes came back than were stored");
	return r;
}

static int step_read(struct probe *t, char *message)
{
	return read_and_compare(t, 0, BODY_BYTES, message);
}
static int step_range(struct probe *t, char *message)
{
	return read_and_compare(t, RANGE_FROM, RANGE_LEN, message);
}

static int step_condition(struct probe *t, char *message)
{
	static const char meaning[] = "clawfs works without: its objects have names of their own, and each says who wrote it";

	int r = put(t, t->condition_key, OBJECT_CREATE);
	if (r == -EOPNOTSUPP)
		return say(message, r, "the store has no conditional put (If-None-Match); %s", meaning);
	if (r < 0)
		return r;
	r = put(t, t->condition_key, OBJECT_CREATE);
	if (r == -EEXIST) {
		t->report->conditions = true;
		return 0;
	}
	return r < 0 ? r
		     : say(message, -EOPNOTSUPP, "the store takes no notice of the condition of a put (If-None-Match); %s",
			   meaning);
}

struct seen {
	const struct probe *probe;
	bool found;
};

static int on_key(void *ctx, const char *key, const struct object_info *info)
{
	struct seen *seen = ctx;

	seen->found |= strcmp(key, seen->probe->key) == 0 && info->size == BODY_BYTES;
	return seen->found;
}

static int step_list(struct probe *t, char *message)
{
	struct seen seen = {.probe = t};

	int r = t->store->ops->list(t->store, fresh_call(t), PROBE_PREFIX, "", on_key, &seen);
	if (r < 0)
		say(message, r, "%.150s; only `clawfs gc` needs listings", t->call.message);
	else if (!seen.found)
		r = say(message, -ENOENT, "the listing lacks an object that is there: `clawfs gc` would miss orphans");
	return r;
}

static int remove_key(struct probe *t, const char *key)
{
	int r = t->store->ops->remove(t->store, fresh_call(t), key);

	return r == -ENOENT ? 0 : r;
}

static int step_remove(struct probe *t, char *message)
{
	const char *const keys[] = {t->key, t->condition_key};
	int first = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
		int r = remove_key(t, keys[i]);

		if (r < 0 && first == 0)
			first = say(message, r, "%.150s; what is deleted here would stay there", t->call.message);
	}
	return first;
}

static int step_gone(struct probe *t, char *message)
{
	int r = t->store->ops->get(t->store, fresh_call(t), t->key, 0, 1, t->got);

	if (r == -ENOENT) {
		t->call.message[0] = 0;
		return 0;
	}
	if (r == -EACCES)
		return say(
		    message, r,
		    "what is not there is refused instead of not found (403): these credentials may not list the bucket, so "
		    "clawfs cannot tell a lost object from a lost right");
	return r < 0 ? r
		     : say(message, -EEXIST,
			   "an object that was removed can still be read: a store with versions keeps what is deleted");
}

static const struct {
	const char *what;
	step_fn *run;
	bool needed;
} steps[] = {
    {"put", step_put, true},
    {"head", step_head, false},
    {"read back", step_read, true},
    {"read a range", step_range, true},
    {"conditional put", step_condition, false},
    {"list", step_list, false},
    {"remove", step_remove, false},
    {"read what was removed", step_gone, false},
};

static void run_step(struct probe *t, unsigned i, const struct clock *clock)
{
	struct probe_step *s = &t->report->step[i];
	const int64_t from = clock_mono_ns(clock);

	*s = (struct probe_step){.what = steps[i].what, .needed = steps[i].needed};
	s->error = steps[i].run(t, s->message);
	s->ok = s->error == 0;
	s->microseconds = (clock_mono_ns(clock) - from) / 1000;
	if (!s->ok && !s->message[0])
		say(s->message, 0, "%s", t->call.message[0] ? t->call.message : strerror(-s->error));
	t->report->n_steps = i + 1;
}

static int make_names(struct probe *t)
{
	uint64_t random[2];

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return -EIO;
	snprintf(t->key, sizeof(t->key), PROBE_PREFIX "%016jx", (uintmax_t)random[0]);
	snprintf(t->condition_key, sizeof(t->condition_key), PROBE_PREFIX "%016jx.once", (uintmax_t)random[0]);
	/* Of all bytes, and no run of them like another. */
	for (size_t i = 0; i < BODY_BYTES; i++) {
		random[1] = random[1] * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
		t->body[i] = (uint8_t)(random[1] >> 56);
	}
	return 0;
}

int probe_store(struct object_store *s, const struct clock *clock, int64_t deadline_ns, struct probe_report *ret)
{
	CLEANUP_FREE struct probe *t = calloc(1, sizeof(*t));

	*ret = (struct probe_report){0};
	if (!t)
		return -ENOMEM;
	t->store = s;
	t->deadline_ns = deadline_ns;
	t->report = ret;
	int r = make_names(t);
	for (unsigned i = 0; i < ARRAY_SIZE(steps) && r == 0; i++) {
		run_step(t, i, clock);
		if (!ret->step[i].ok && ret->step[i].needed)
			r = ret->step[i].error;
	}
	/* A test that ends half way leaves nothing behind where it can be helped. */
	if (r < 0 && ret->n_steps > 1 && ret->n_steps < ARRAY_SIZE(steps)) {
		(void)remove_key(t, t->key);
		(void)remove_key(t, t->condition_key);
	}
	return r;
}
