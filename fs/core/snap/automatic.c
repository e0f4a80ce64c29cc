/*
 * automatic.c: the snapshots that a volume takes and drops by itself, by the policy "snap.schedule" of its root directory
 * (schedule.c says what such a text means).
 *
 * Their names begin with "auto-", and those are all that the schedule counts and drops; what an admin named otherwise stays. Only
 * the leader acts.  A failure is kept for the status and tried again at the next look; one that comes of what is gone meanwhile
 * is none.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "fs/core/snap/schedule.h"
#include "fs/core/snap/snap_impl.h"

#define PREFIX     "auto-"
#define POLICY_KEY "snap.schedule"

struct taken {
	size_t n;
	int64_t time_ns[SNAPS_MAX];
	char name[SNAPS_MAX][40];
	bool keep[SNAPS_MAX];
};

bool snap_policy_is(struct slice key)
{
	return policy_key_is(key, POLICY_KEY);
}

int snap_policy_check(const char *value)
{
	struct snap_schedule s;

	return value ? snap_schedule_parse(value, &s) : 0;
}

static bool schedule_of(struct fs *fs, struct snap_schedule *ret)
{
	char value[FS_POLICY_MAX + 1];

	return fs_get_policy(fs, FS_ROOT_INO, POLICY_KEY, false, value) == 0 && snap_schedule_parse(value, ret) == 0;
}

/* In the order of their times; a clock that went back has made them come in another. */
static int note(void *ctx, const struct fs_snap *s)
{
	struct taken *t = ctx;
	size_t at = t->n;

	if (strncmp(s->name, PREFIX, strlen(PREFIX)) != 0 || strlen(s->name) >= sizeof(t->name[0]) || t->n == SNAPS_MAX)
		return 0;
	while (at > 0 && t->time_ns[at - 1] > s->time_ns)
		at--;
	memmove(t->time_ns + at + 1, t->time_ns + at, (t->n - at) * sizeof(t->time_ns[0]));
	memmove(t->name + at + 1, t->name + at, (t->n - at) * sizeof(t->name[0]));
	t->time_ns[at] = s->time_ns;
	strcpy(t->name[at], s->name);
	t->n++;
	return 0;
}

static int take_one(struct fs *fs, int64_t now_ns)
{
	char name[40];
	time_t t = (time_t)(now_ns / NSEC_PER_SEC);
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(name, sizeof(name), PREFIX "%Y-%m-%dT%H:%M:%SZ", &tm);
	int r = fs_snap_create(fs, NULL, name);
	if (r == 0)
		log_info("snapshot %s taken, as the schedule says", name);
	return r == -EEXIST ? 0 : r;
}

static int drop_old(struct fs *fs, const struct snap_schedule *s, struct taken *t)
{
	int r = 0;

	snap_schedule_select(s, t->time_ns, t->n, t->keep);
	for (size_t i = 0; i < t->n && r == 0; i++) {
		if (t->keep[i])
			continue;
		r = fs_snap_delete(fs, NULL, t->name[i]);
		if (r == 0)
			log_info("snapshot %s deleted, as the schedule says", t->name[i]);
		r = r == -ENOENT ? 0 : r;
	}
	return r;
}

static int act(struct fs *fs, const struct snap_schedule *s, struct taken *t)
{
	int64_t now_ns = clock_real_ns(fs->clock);
	int r = fs_snap_each(fs, false, note, t);

	if (r == 0 && snap_schedule_due(s, t->time_ns, t->n, now_ns)) {
		r = take_one(fs, now_ns);
		t->n = 0;
		if (r == 0)
			r = fs_snap_each(fs, false, note, t);
	}
	return r < 0 ? r : drop_old(fs, s, t);
}

int fs_snap_schedule_step(struct fs *fs, bool *ret_acted)
{
	struct snap_schedule s;

	*ret_acted = false;
	if (!schedule_of(fs, &s) || op_may_write(fs) < 0)
		return 0;
	CLEANUP_FREE struct taken *t = calloc(1, sizeof(*t));
	int r = t ? act(fs, &s, t) : -ENOMEM;
	*ret_acted = true;
	return r;
}
