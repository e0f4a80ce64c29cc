/*
 * refused.c: entries of what somebody tried who may not.
 *
 * Anybody can be refused as often as he likes, so these entries are rationed, by user and for all users together: a burst, then
 * one a minute.  What goes beyond that is counted, and the count is an entry of its own every few minutes.  So the worst that can
 * be done to the log is some hundred kilobytes a day, and nobody hides an attempt of his behind those of another user.
 */
#include <inttypes.h>
#include <string.h>

#include "fs/core/audit/impl.h"

#define USER_BURST  8u
#define ALL_BURST   32u
#define INTERVAL_NS (60 * NSEC_PER_SEC)
#define TELL_NS     (300 * NSEC_PER_SEC)

static bool take(struct audit_allowance *a, uint32_t burst, int64_t now_ns)
{
	int64_t more = (now_ns - a->since_ns) / INTERVAL_NS;

	if (more > 0) {
		a->left = (uint32_t)min_u64(burst, a->left + (uint64_t)more);
		a->since_ns += more * INTERVAL_NS;
	}
	if (a->left == 0)
		return false;
	a->left--;
	return true;
}

/* Of `uid`, in place of that of the user who was refused least recently when it is a new one. */
static struct audit_allowance *allowance_of(struct audit_refusals *f, uint32_t uid, int64_t now_ns) REQUIRES(f->lock)
{
	size_t at = 0;

	for (size_t i = 0; i < AUDIT_USERS; i++) {
		if (f->user[i].used && f->user[i].uid == uid) {
			f->user[i].seen_ns = now_ns;
			return &f->user[i].allowance;
		}
		if (f->user[at].used && (!f->user[i].used || f->user[i].seen_ns < f->user[at].seen_ns))
			at = i;
	}
	f->user[at].used = true;
	f->user[at].uid = uid;
	f->user[at].seen_ns = now_ns;
	f->user[at].allowance = (struct audit_allowance){USER_BURST, now_ns};
	return &f->user[at].allowance;
}

static bool may_enter(struct audit *a, uint32_t uid)
{
	struct audit_refusals *f = &a->refusals;
	int64_t now_ns = clock_mono_ns(a->fs->clock);

	mutex_lock(&f->lock);
	f->refused++;
	bool may = take(allowance_of(f, uid, now_ns), USER_BURST, now_ns) && take(&f->all, ALL_BURST, now_ns);
	if (!may) {
		f->suppressed++;
		if (f->untold++ == 0)
			f->untold_real_ns = clock_real_ns(a->fs->clock);
	}
	mutex_unlock(&f->lock);
	return may;
}

void fs_audit_refused(struct fs *fs, const struct fs_cred *who, const char *what, uint64_t ino, bool always, int error)
{
	struct audit *a = fs->audit;

	if (!a || (!always && audit_level_of(fs, ino) == FS_AUDIT_OFF) || !may_enter(a, who->uid))
		return;
	json_t *o = audit_entry_new(fs->clock, "refused", who);
	audit_entry_what(fs, o, what, ino);
	json_object_set_new(o, "result", json_string(strerror(-error)));
	if (audit_write_object(a, o, NULL) < 0) { /* counted, and said in log and status */
	}
	json_decref(o);
}

void audit_tell_suppressed(struct fs *fs, bool end)
{
	struct audit *a = fs->audit;
	int64_t now_ns = clock_mono_ns(fs->clock);

	if (!a)
		return;
	struct audit_refusals *f = &a->refusals;
	mutex_lock(&f->lock);
	bool due = f->untold && (end || now_ns - f->told_ns >= TELL_NS);
	uint64_t n = f->untold;
	int64_t since_ns = f->untold_real_ns;
	if (due) {
		f->untold = 0;
		f->told_ns = now_ns;
	}
	mutex_unlock(&f->lock);
	if (!due)
		return;
	json_t *o = json_pack("{s:s, s:I}", "kind", "suppressed", "refusals", (json_int_t)n);
	feed_set_time(o, "since", since_ns);
	feed_set_time(o, "time", clock_real_ns(fs->clock));
	if (audit_write_object(a, o, NULL) < 0) { /* counted, and said in log and status */
	}
	json_decref(o);
}

void audit_refusals_open(struct audit *a)
{
	int64_t now_ns = clock_mono_ns(a->fs->clock);

	mutex_init(&a->refusals.lock);
	a->refusals.all = (struct audit_allowance){ALL_BURST, now_ns};
	a->refusals.told_ns = now_ns;
}

void audit_refusals_close(struct audit *a)
{
	mutex_destroy(&a->refusals.lock);
}

void audit_refusals_status(struct audit *a, json_t *status)
{
	mutex_lock(&a->refusals.lock);
	json_object_set_new(status, "refused", json_integer((json_int_t)a->refusals.refused));
	json_object_set_new(status, "suppressed", json_integer((json_int_t)a->refusals.suppressed));
	mutex_unlock(&a->refusals.lock);
}
