/*
 * snap_rotate.c: `clawfs snap rotate`: what a timer of the system calls: takes a snapshot when one is due by a schedule, and
 * deletes those that the schedule does not keep.
 *
 * It is the volume's own schedule (clawfs.snap.schedule) for those who want to say when from outside.  Its snapshots have a
 * prefix of their own, and no others are counted or deleted, so both may be used at once.  What ends between two steps is done by
 * the next call.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "fs/core/snap/schedule.h"

#define PREFIX       "timer-"
#define NAME_MAX_LEN 40u

struct taken {
	int64_t time_ns;
	char name[NAME_MAX_LEN];
};
struct all_taken {
	struct taken *t;
	int64_t *times_ns;
	bool *keep;
	size_t n;
};

static void taken_free(struct all_taken *a)
{
	free(a->t);
	free(a->times_ns);
	free(a->keep);
}

static int by_time(const void *a, const void *b)
{
	const struct taken *x = a, *y = b;

	return x->time_ns < y->time_ns ? -1 : x->time_ns > y->time_ns;
}

/* Those of the prefix, oldest first. */
static int take_list(const json_t *list, struct all_taken *ret)
{
	size_t cap = json_array_size(list) + 1, i;
	struct all_taken a = {
	    .t = calloc(cap, sizeof(*a.t)), .times_ns = calloc(cap, sizeof(*a.times_ns)), .keep = calloc(cap, 1)};
	const json_t *s;

	*ret = a;
	if (!a.t || !a.times_ns || !a.keep)
		return -ENOMEM;
	json_array_foreach(list, i, s)
	{
		const char *name = json_string_value(json_object_get(s, "name"));

		if (!name || strncmp(name, PREFIX, strlen(PREFIX)) != 0 || strlen(name) >= NAME_MAX_LEN)
			continue;
		struct taken *t = &ret->t[ret->n++];
		t->time_ns = json_integer_value(json_object_get(s, "time_ns"));
		snprintf(t->name, sizeof(t->name), "%s", name);
	}
	qsort(ret->t, ret->n, sizeof(*ret->t), by_time);
	for (i = 0; i < ret->n; i++)
		ret->times_ns[i] = ret->t[i].time_ns;
	return 0;
}

static int read_taken(const char *path, struct all_taken *ret)
{
	json_t *list = json_array();
	int r = list ? snap_read_list(path, list) : -ENOMEM;

	*ret = (struct all_taken){0};
	if (r == 0)
		r = take_list(list, ret);
	json_decref(list);
	return r;
}

static int take(const char *path)
{
	time_t now = time(NULL);
	char name[NAME_MAX_LEN];
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(name, sizeof(name), PREFIX "%Y-%m-%dT%H:%M:%SZ", &tm);
	int r = attribute_set(path, "snap.create", name);
	if (r == 0)
		printf("taken    %s\n", name);
	return r == -EEXIST ? 0 : r;
}

static int drop(const char *path, const struct snap_schedule *s, struct all_taken *a)
{
	int r = 0;

	snap_schedule_select(s, a->times_ns, a->n, a->keep);
	for (size_t i = 0; i < a->n && r == 0; i++) {
		if (a->keep[i])
			continue;
		r = attribute_set(path, "snap.delete", a->t[i].name);
		if (r == 0)
			printf("deleted  %s\n", a->t[i].name);
		r = r == -ENOENT ? 0 : r;
	}
	return r;
}

static int rotate(const char *path, const struct snap_schedule *s)
{
	struct all_taken a;
	struct timespec now;
	int r = read_taken(path, &a);

	clock_gettime(CLOCK_REALTIME, &now);
	if (r == 0 && snap_schedule_due(s, a.times_ns, a.n, (int64_t)now.tv_sec * NSEC_PER_SEC + now.tv_nsec)) {
		r = take(path);
		taken_free(&a);
		a = (struct all_taken){0};
		if (r == 0)
			r = read_taken(path, &a);
	}
	if (r == 0)
		r = drop(path, s, &a);
	taken_free(&a);
	return r;
}

static bool follows(const char *path)
{
	CLEANUP_BUF struct buf role = {0};

	return attribute_read(path, "role", &role) == 0 && strcmp((const char *)role.p, "follower") == 0;
}

int verb_snap_rotate(const struct args *a)
{
	const char *path = a->operand[1];
	struct snap_schedule s;

	if (snap_schedule_parse(a->operand[0], &s) < 0 || strcmp(a->operand[0], "none") == 0) {
		complain("not a schedule: %s; write counts with units, as 24h7d4w", a->operand[0]);
		return EXIT_USAGE;
	}
	if (follows(path)) {
		printf("nothing to do: this node follows, and has the snapshots that its leader takes\n");
		return EXIT_OK;
	}
	int r = rotate(path, &s);
	if (r < 0)
		complain_admin("snapshots not rotated", path, r);
	return r < 0 ? EXIT_FAILED : EXIT_OK;
}
