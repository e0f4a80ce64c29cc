/*
 * pause.c: why nothing goes out just now, of the volume or of one store, and what went wrong last.
 *
 * A store that failed is left alone for a second, then twice as long each time it fails again, up to five minutes; one success
 * ends that.  The guard in front of it has tried for long before it says no, and its breaker and budget are asked before anything
 * is packed, so that no file is read for nothing.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/tier/ageing/impl.h"

#define BACKOFF_NS     NSEC_PER_SEC
#define BACKOFF_MAX_NS (60 * NSEC_PER_SEC)

bool ageing_may_work(struct ageing *a, bool *ret_leads, char why[OBJECT_MESSAGE_MAX])
{
	struct fs *fs = a->fs;
	const char *reason = fs->config.read_only       ? "the volume is read-only"
			     : atomic_load(&fs->failed) ? "the volume has failed"
			     : fs_readable(fs) < 0      ? "this node is between two states of the volume"
			     : atomic_load(&fs->held)   ? "changes are held until it is known who leads"
			     : atomic_load(&fs->offered) && fs_role(fs) == ROLE_LEADER
				 ? "another node was offered the lead and has not answered"
				 : "";

	*ret_leads = fs_takes_changes(fs);
	snprintf(why, OBJECT_MESSAGE_MAX, "%s", reason);
	return !*reason;
}

bool ageing_stopping(struct ageing *a)
{
	mutex_lock(&a->lock);
	bool stop = a->stop;
	mutex_unlock(&a->lock);
	return stop;
}

bool ageing_error_passes(int error)
{
	static const int those[] = {-ENOMEM, -ECANCELED, -EAGAIN, -EROFS, -ENOSPC, -EBUSY, -EDQUOT, -EIO};

	for (size_t i = 0; i < ARRAY_SIZE(those); i++)
		if (error == those[i])
			return true;
	return object_error_passes(error);
}

void ageing_note_error(struct ageing *a, int error, const char *message)
{
	mutex_lock(&a->lock);
	if (!a->first_error && ageing_error_passes(error))
		a->first_error = error;
	a->status.last_error_ns = clock_real_ns(a->fs->clock);
	snprintf(a->status.last_message, sizeof(a->status.last_message), "%s", message && *message ? message : strerror(-error));
	mutex_unlock(&a->lock);
}

/* ---- of a store ---- */

struct store_pause *ageing_pause_of(struct ageing *a, const char *name)
{
	for (unsigned i = 0; i < PAUSES_MAX; i++)
		if (strcmp(a->pause[i].name, name) == 0)
			return &a->pause[i];
	return NULL;
}

/* True when it is news. */
static bool begin_pause(struct ageing *a, const char *name, int error, const char *why, int64_t until_ns) REQUIRES(a->lock)
{
	struct store_pause *p = ageing_pause_of(a, name);
	bool news = !p;

	if (!p)
		p = ageing_pause_of(a, "");
	if (!p) /* more stores fail than anybody has: the one in the first place is tried a little early */
		p = &a->pause[0];
	if (news) {
		*p = (struct store_pause){.backoff_ns = BACKOFF_NS};
		strcpy(p->name, name);
	}
	p->until_ns = until_ns;
	if (!until_ns) {
		p->until_ns = clock_mono_ns(a->fs->clock) + p->backoff_ns;
		p->backoff_ns = (int64_t)min_u64((uint64_t)p->backoff_ns * 2, BACKOFF_MAX_NS);
	}
	snprintf(p->why, sizeof(p->why), "%s", why);
	if (!a->first_error)
		a->first_error = error;
	return news;
}

static void pause_store(struct ageing *a, const char *name, int error, const char *why, int64_t until_ns)
{
	mutex_lock(&a->lock);
	bool news = begin_pause(a, name, error, why, until_ns) && !a->stop;
	mutex_unlock(&a->lock);
	ageing_note_error(a, error, why);
	if (news)
		log_warn("store %s: files wait here, and are tried again: %s", name, why);
}

void ageing_store_failed(struct ageing *a, const struct tier_store *s, int error, const char *message)
{
	pause_store(a, s->name, error, *message ? message : strerror(-error), 0);
}

void ageing_store_worked(struct ageing *a, const struct tier_store *s)
{
	mutex_lock(&a->lock);
	struct store_pause *p = ageing_pause_of(a, s->name);
	if (p)
		*p = (struct store_pause){0};
	mutex_unlock(&a->lock);
	if (p)
		log_info("store %s takes objects again", s->name);
}

static bool is_paused(struct ageing *a, const char *name, int64_t *ret_until_ns)
{
	mutex_lock(&a->lock);
	const struct store_pause *p = ageing_pause_of(a, name);
	bool paused = !a->eager && p && p->until_ns > clock_mono_ns(a->fs->clock);
	if (paused)
		*ret_until_ns = p->until_ns;
	mutex_unlock(&a->lock);
	return paused;
}

/* What its guard says: false: nothing would come of asking it. */
static bool guard_is_open(struct ageing *a, const struct tier_store *s)
{
	int64_t now = clock_mono_ns(a->fs->clock);
	char why[OBJECT_MESSAGE_MAX];
	struct guard_status g;

	guard_get_status(s->guard, &g);
	if (g.breaker == BREAKER_OPEN && g.retry_at_ns > now && !a->eager) {
		snprintf(why, sizeof(why), "store %s is away: %.160s", s->name, g.last_message);
		pause_store(a, s->name, -ECANCELED, why, g.retry_at_ns);
		return false;
	}
	if (g.budget_spent) {
		snprintf(why, sizeof(why), "store %s: the requests of this month are used up", s->name);
		pause_store(a, s->name, -EDQUOT, why, now + BACKOFF_MAX_NS);
		return false;
	}
	return true;
}

int ageing_store_get(struct ageing *a, const char *name, const struct tier_store **ret, int64_t *ret_until_ns)
{
	char why[OBJECT_MESSAGE_MAX];
	const struct tier_store *s;

	if (is_paused(a, name, ret_until_ns))
		return -EAGAIN;
	int r = stores_get_by_name(a->fs, name, &s);
	if (r == 0 && guard_is_open(a, s)) {
		*ret = s;
		return 0;
	}
	if (r == 0) {
		stores_put(a->fs, s);
	} else {
		snprintf(why, sizeof(why), "store %s %s", name,
			 r == -ENODEV ? "is not known: clawfs tier add" : "cannot be opened");
		pause_store(a, name, r, why, 0);
	}
	if (!is_paused(a, name, ret_until_ns))
		*ret_until_ns = clock_mono_ns(a->fs->clock) + BACKOFF_NS;
	return -EAGAIN;
}
