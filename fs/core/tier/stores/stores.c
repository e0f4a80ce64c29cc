/*
 * stores.c: the stores of the volume, opened when they are first needed, behind their guards.
 *
 * Definitions are policies of the root directory ("tier.store.NAME", text of tier/definition.h), the same on every node; each
 * node has its own credentials, which fs_config.object_store_open finds.  Whenever a policy changed since, the definitions are
 * read again: one that changed or went is out of the table at once, and closed when the last who use it have given it back.
 *
 * States of an entry: named -> opening (one thread; others wait) -> open, for as long as it lasts; or failed, with a message, and
 * tried again after RETRY_NS.  Opening asks the store whose it is (mark.c): one that cannot be reached is not opened, and
 * one of another volume never.
 *
 * Locks: the lock here is held over no call of a store, of policies or of the disk.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/tier/stores/impl.h"

#define POLICY_PREFIX "tier.store."
#define RETRY_NS      NSEC_PER_SEC
#define MARK_NS       (15 * NSEC_PER_SEC) /* how long opening asks whose it is */
#define SAVE_NS       (60 * NSEC_PER_SEC) /* usage is written at most as often */

struct entry {
	struct entry *next;
	struct tier_store s; /* guard and message guarded by lock until it is open; the rest does not change */
	char text[FS_POLICY_MAX + 1];
	/* guarded by lock */
	unsigned refs;
	bool listed, opening, logged;
	int64_t retry_ns; /* mono; after a failure */
};
struct stores {
	struct fs *fs;
	struct mutex lock;
	struct cond opened;
	/* guarded by lock */
	struct entry *first;
	uint64_t generation; /* of the policies that the table is from */
	bool shut, saving;
	int64_t saved_ns;
	struct usage_table *usage;
};

/* ---- definitions ---- */

bool stores_policy_is(struct slice key)
{
	return key.len > strlen(POLICY_PREFIX) && memcmp(key.p, POLICY_PREFIX, strlen(POLICY_PREFIX)) == 0;
}

int stores_policy_check(struct slice key, const char *value)
{
	char name[STORE_NAME_MAX + 1], message[OBJECT_MESSAGE_MAX];
	size_t len = key.len - strlen(POLICY_PREFIX);
	struct store_definition d;

	if (len > STORE_NAME_MAX)
		return -EINVAL;
	memcpy(name, (const char *)key.p + strlen(POLICY_PREFIX), len);
	name[len] = '\0';
	if (!store_name_valid(name))
		return -EINVAL;
	int r = value ? store_definition_parse(value, &d, message) : 0;
	return r == 0 && value && !d.id ? -EINVAL : r;
}

struct collected {
	struct entry *first;
	int error;
};

static int collect(void *ctx, const char *key, const char *value)
{
	struct collected *c = ctx;
	char message[OBJECT_MESSAGE_MAX] = "";
	struct entry *e = calloc(1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	snprintf(e->text, sizeof(e->text), "%s", value);
	if (stores_policy_check(slice_of(key), value) < 0 || store_definition_parse(value, &e->s.d, message) < 0) {
		log_warn("%s: not understood here, and the store is not used: %s", key,
			 message); /* as a newer version has set it */
		free(e);
		return 0;
	}
	snprintf(e->s.name, sizeof(e->s.name), "%.*s", (int)STORE_NAME_MAX, key + strlen(POLICY_PREFIX));
	e->next = c->first;
	c->first = e;
	return 0;
}

static struct entry *entry_of(struct entry *first, const char *name)
{
	while (first && strcmp(first->s.name, name) != 0)
		first = first->next;
	return first;
}

static void keep_usage(struct stores *ss, const struct entry *e) REQUIRES(ss->lock)
{
	struct usage_row *row = e->s.guard ? usage_row_of(ss->usage, e->s.d.id) : NULL;
	struct guard_status status;

	if (!row)
		return;
	guard_get_status(e->s.guard, &status);
	row->usage = status.usage;
}

/* Entries that nobody names or uses any more, taken out of the table: to be closed without the lock. */
static struct entry *take_unused(struct stores *ss) REQUIRES(ss->lock)
{
	struct entry *taken = NULL, **at = &ss->first;

	while (*at) {
		struct entry *e = *at;

		if (e->listed || e->refs || e->opening) {
			at = &e->next;
			continue;
		}
		*at = e->next;
		keep_usage(ss, e);
		e->next = taken;
		taken = e;
	}
	return taken;
}

static void free_entries(struct entry *e)
{
	for (struct entry *next; e; e = next) {
		next = e->next;
		if (e->s.guard)
			guard_shut(e->s.guard);
		object_store_close(e->s.guard);
		free(e);
	}
}

/* Entries as they were stay with their connections; of `c` what is new comes in, and the rest is left in it. */
static void merge(struct stores *ss, struct collected *c) REQUIRES(ss->lock)
{
	struct entry **at = &c->first;

	for (struct entry *e = ss->first; e; e = e->next) {
		const struct entry *now = entry_of(c->first, e->s.name);

		e->listed = e->listed && now && strcmp(now->text, e->text) == 0;
	}
	while (*at) {
		struct entry *e = *at, *old = ss->first;

		while (old && !(old->listed && strcmp(old->s.name, e->s.name) == 0))
			old = old->next;
		if (old) {
			at = &e->next;
			continue;
		}
		*at = e->next;
		e->listed = true;
		e->next = ss->first;
		ss->first = e;
	}
}

static int refresh(struct stores *ss) EXCLUDES(ss->lock)
{
	uint64_t generation = policies_generation(ss->fs);
	struct collected c = {0};
	struct entry *unused = NULL;

	mutex_lock(&ss->lock);
	bool current = ss->generation == generation;
	mutex_unlock(&ss->lock);
	if (current)
		return 0;
	int r = policies_each(ss->fs, FS_ROOT_INO, POLICY_PREFIX, collect, &c);
	mutex_lock(&ss->lock);
	if (r == 0 && generation > ss->generation) {
		merge(ss, &c);
		ss->generation = generation;
		unused = take_unused(ss);
	}
	mutex_unlock(&ss->lock);
	free_entries(unused);
	free_entries(c.first);
	return r;
}

void stores_changed(struct fs *fs)
{
	if (refresh(fs->stores) < 0)
		log_warn("the definitions of stores cannot be read: no memory; they will be, when a store is needed");
}

/* ---- opening ---- */

static int guarded(struct stores *ss, struct entry *e, struct object_store *behind, struct object_store **ret)
{
	const struct store_definition *d = &e->s.d;
	const struct guard_config c = {
	    .name = e->s.name,
	    .clock = ss->fs->clock,
	    .timeout_ns = d->timeout_ns,
	    .rate_bytes = d->rate_bytes,
	    .requests = d->requests,
	    .budget = d->budget,
	    .price_put = d->price_put,
	    .price_get = d->price_get,
	    .price_gb_month = d->price_gb_month,
	};
	int r = guard_new(&c, behind, ret);

	if (r < 0) {
		object_store_close(behind);
		return r;
	}
	mutex_lock(&ss->lock);
	const struct usage_row *row = usage_row_of(ss->usage, d->id);
	struct guard_usage usage = row ? row->usage : (struct guard_usage){0};
	mutex_unlock(&ss->lock);
	guard_set_usage(*ret, &usage);
	return 0;
}

/* The store behind its guard; it has said that it is this volume's. */
static int open_store(struct stores *ss, struct entry *e, struct object_store **ret, char *message)
{
	struct fs *fs = ss->fs;
	struct object_call call = {.purpose = OBJECT_FOREGROUND};
	struct object_store *behind = NULL, *guard = NULL;

	if (!fs->config.object_store_open) {
		snprintf(message, OBJECT_MESSAGE_MAX, "nothing here can open object stores");
		return -EOPNOTSUPP;
	}
	int r = fs->config.object_store_open(fs->config.object_store_ctx, e->s.name, &e->s.d, &behind, message);
	if (r == 0)
		r = guarded(ss, e, behind, &guard);
	if (r < 0)
		return r;
	call.deadline_ns = clock_mono_ns(fs->clock) + (int64_t)min_u64(MARK_NS, (uint64_t)e->s.d.timeout_ns);
	r = stores_check_mark(fs, guard, &call);
	if (r < 0) {
		snprintf(message, OBJECT_MESSAGE_MAX, "%s", call.message);
		guard_shut(guard);
		object_store_close(guard);
		return r;
	}
	*ret = guard;
	return 0;
}

/* What came of opening; logged when it is news. */
static void note_opened(struct stores *ss, struct entry *e, int r, struct object_store *guard, const char *message)
    REQUIRES(ss->lock)
{
	char said[OBJECT_MESSAGE_MAX];

	snprintf(said, sizeof(said), "%s", r == 0 ? "" : *message ? message : strerror(-r));
	bool news = strcmp(said, e->s.message) != 0;
	memcpy(e->s.message, said, sizeof(said));
	e->s.guard = guard;
	e->opening = false;
	e->retry_ns = clock_mono_ns(ss->fs->clock) + RETRY_NS;
	if (r < 0 && news)
		log_error("store %s cannot be used: %s", e->s.name, said);
	else if (r == 0 && news)
		log_info("store %s can be used again", e->s.name);
	cond_broadcast(&ss->opened);
}

/* Waits while another thread opens it.  The lock is given up meanwhile; the caller has a reference. */
static int make_open(struct stores *ss, struct entry *e) REQUIRES(ss->lock)
{
	char message[OBJECT_MESSAGE_MAX] = "";
	struct object_store *guard = NULL;

	while (e->opening)
		cond_wait(&ss->opened, &ss->lock);
	if (e->s.guard)
		return ss->shut ? -EIO : 0;
	if (ss->shut || (*e->s.message && clock_mono_ns(ss->fs->clock) < e->retry_ns))
		return -EIO;
	e->opening = true;
	mutex_unlock(&ss->lock);
	int r = open_store(ss, e, &guard, message);
	mutex_lock(&ss->lock);
	note_opened(ss, e, r, guard, message);
	if (guard && ss->shut)
		guard_shut(guard);
	return r < 0 || ss->shut ? -EIO : 0;
}

/* ---- use ---- */

static int get_entry(struct stores *ss, const char *name, uint32_t id, const struct tier_store **ret)
{
	struct entry *unused = NULL, *e;
	int r = refresh(ss);

	if (r < 0)
		return r;
	mutex_lock(&ss->lock);
	for (e = ss->first; e; e = e->next)
		if (e->listed && (name ? strcmp(e->s.name, name) == 0 : e->s.d.id == id))
			break;
	if (!e) {
		r = -ENODEV;
	} else {
		e->refs++;
		r = make_open(ss, e);
		if (r == 0)
			*ret = &e->s;
		else if (--e->refs == 0)
			unused = take_unused(ss);
	}
	mutex_unlock(&ss->lock);
	free_entries(unused);
	return r;
}

int stores_get(struct fs *fs, uint32_t id, const struct tier_store **ret)
{
	return get_entry(fs->stores, NULL, id, ret);
}

int stores_get_by_name(struct fs *fs, const char *name, const struct tier_store **ret)
{
	return get_entry(fs->stores, name, 0, ret);
}

/* A copy of what is counted by now, when it is time to write it. */
static struct usage_table *take_usage(struct stores *ss, bool now) REQUIRES(ss->lock)
{
	int64_t time_ns = clock_mono_ns(ss->fs->clock);
	bool due = now || time_ns - ss->saved_ns >= SAVE_NS;
	struct usage_table *t = due && !ss->saving && !ss->fs->config.read_only ? malloc(sizeof(*t)) : NULL;

	if (!t)
		return NULL;
	for (const struct entry *e = ss->first; e; e = e->next)
		keep_usage(ss, e);
	ss->saved_ns = time_ns;
	*t = *ss->usage;
	if (t->n == 0) {
		free(t);
		return NULL;
	}
	ss->saving = true;
	return t;
}

/* Takes `t` over. */
static void save_usage(struct stores *ss, struct usage_table *t) EXCLUDES(ss->lock)
{
	if (!t)
		return;
	int r = atomic_load(&ss->fs->failed) ? 0 : usage_save(ss->fs, t);
	if (r < 0)
		log_warn("the requests that stores were asked this month cannot be written: %s", strerror(-r));
	mutex_lock(&ss->lock);
	ss->usage->generation = max_u64(ss->usage->generation, t->generation);
	ss->saving = false;
	mutex_unlock(&ss->lock);
	free(t);
}

void stores_put(struct fs *fs, const struct tier_store *s)
{
	struct stores *ss = fs->stores;
	struct entry *e = container_of(s, struct entry, s);

	mutex_lock(&ss->lock);
	assert(e->refs > 0);
	struct entry *unused = --e->refs == 0 ? take_unused(ss) : NULL;
	struct usage_table *usage = take_usage(ss, false);
	mutex_unlock(&ss->lock);
	free_entries(unused);
	save_usage(ss, usage);
}

/* The n-th of those named, as it is now, and a reference to it; NULL behind the last. */
static struct entry *take_nth(struct stores *ss, unsigned n, struct tier_store *ret)
{
	struct entry *e;

	mutex_lock(&ss->lock);
	for (e = ss->first; e && (!e->listed || n-- > 0); e = e->next)
		;
	if (e) {
		e->refs++;
		*ret = e->s;
	}
	mutex_unlock(&ss->lock);
	return e;
}

int stores_each(struct fs *fs, int (*fn)(void *ctx, const struct tier_store *s), void *ctx)
{
	struct stores *ss = fs->stores;
	struct tier_store s;
	struct entry *e;
	int r = refresh(ss);

	for (unsigned n = 0; r == 0 && (e = take_nth(ss, n, &s)); n++) {
		r = fn(ctx, &s);
		stores_put(fs, &e->s);
	}
	return r;
}

int stores_find(struct fs *fs, uint32_t id, struct tier_store *ret)
{
	struct stores *ss = fs->stores;
	const struct entry *e;
	int r = refresh(ss);

	if (r < 0)
		return r;
	mutex_lock(&ss->lock);
	for (e = ss->first; e && !(e->listed && e->s.d.id == id); e = e->next)
		;
	if (e)
		*ret = e->s;
	mutex_unlock(&ss->lock);
	return e ? 0 : -ENODEV;
}

/* ---- life ---- */

int stores_open(struct fs *fs)
{
	struct stores *ss = calloc(1, sizeof(*ss));
	struct usage_table *usage = calloc(1, sizeof(*usage));

	if (!ss || !usage) {
		free(ss);
		free(usage);
		return -ENOMEM;
	}
	usage_load(fs, usage);
	ss->fs = fs;
	ss->usage = usage;
	ss->saved_ns = clock_mono_ns(fs->clock);
	mutex_init(&ss->lock);
	cond_init(&ss->opened);
	fs->stores = ss;
	return 0;
}

void stores_shut(struct fs *fs)
{
	struct stores *ss = fs->stores;

	if (!ss)
		return;
	mutex_lock(&ss->lock);
	ss->shut = true;
	for (struct entry *e = ss->first; e; e = e->next)
		if (e->s.guard)
			guard_shut(e->s.guard);
	mutex_unlock(&ss->lock);
}

void stores_save(struct fs *fs)
{
	struct stores *ss = fs->stores;

	mutex_lock(&ss->lock);
	struct usage_table *usage = take_usage(ss, true);
	mutex_unlock(&ss->lock);
	save_usage(ss, usage);
}

void stores_close(struct fs *fs)
{
	struct stores *ss = fs->stores;

	if (!ss)
		return;
	mutex_lock(&ss->lock);
	struct entry *all = ss->first;
	ss->first = NULL;
	mutex_unlock(&ss->lock);
	for (const struct entry *e = all; e; e = e->next)
		assert(!e->refs);
	free_entries(all);
	cond_destroy(&ss->opened);
	mutex_destroy(&ss->lock);
	free(ss->usage);
	free(ss);
	fs->stores = NULL;
}
