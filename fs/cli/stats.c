/*
 * stats.c: `stats`, `top` and `profile`: what a mount measures of itself, from the files .clawfs/stats and .clawfs/top.
 *
 * The daemon gives histograms since the mount; with --watch they are subtracted here from those of the look before, so however
 * many watch, the daemon keeps nothing for them.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/metric.h"

#define FILE_BYTES_MAX (16 * MIB)
#define NAME_COLUMN    16

/* ---- the files ---- */

static int read_all(int fd, struct buf *out)
{
	for (;;) {
		char *p = buf_grow(out, 64 * KIB);

		if (!p)
			return -ENOMEM;
		ssize_t n = read(fd, p, 64 * KIB);
		if (n < 0)
			return -errno;
		out->len -= 64 * KIB - (size_t)n;
		if (n == 0)
			return 0;
		if (out->len > FILE_BYTES_MAX)
			return -EPROTO;
	}
}

/* The object in the file .clawfs/`name` of the mount that `path` is in; -ENODATA: none is there, or it has no such file. */
static int file_read(const char *path, const char *name, json_t **ret_object)
{
	CLEANUP_BUF struct buf text = {0};
	char file[PATH_MAX];
	struct mount_entry m;
	int r = mounts_find(path, &m);

	if (r < 0)
		return r == -ENOENT ? -ENODATA : r;
	const bool ours = mount_is_clawfs(&m);
	const int n = snprintf(file, sizeof(file), "%s/.clawfs/%s", m.mountpoint, name);
	mount_entry_free(&m);
	if (!ours || n >= (int)sizeof(file))
		return -ENODATA;
	CLEANUP_FD int fd = open(file, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ENODATA : -errno;
	json_t *object;
	r = read_all(fd, &text);
	if (r == 0)
		r = json_parse(&text, &object);
	if (r < 0)
		return r;
	if (!json_is_object(object)) {
		json_decref(object);
		return -EPROTO;
	}
	*ret_object = object;
	return 0;
}

/* Calls `show` with what `name` says, once or, with --watch, again and again; `before` is the look before, NULL the first time.
 */
static int look(const struct args *a, const char *name,
		void (*show)(const struct args *a, const json_t *now, const json_t *before))
{
	const struct timespec pause = {.tv_sec = (time_t)(a->watch_ns / (uint64_t)NSEC_PER_SEC),
				       .tv_nsec = (long)(a->watch_ns % (uint64_t)NSEC_PER_SEC)};
	json_t *before = NULL, *now;

	for (uint64_t i = 0;; i++) {
		int r = file_read(a->operand[0], name, &now);

		if (r < 0) {
			json_decref(before);
			complain_unreachable(a->operand[0], r);
			return EXIT_FAILED;
		}
		show(a, now, before);
		fflush(stdout);
		json_decref(before);
		before = now;
		if (!a->watch_ns || (a->count && i + 1 >= a->count) || ferror(stdout))
			break;
		nanosleep(&pause, NULL);
	}
	json_decref(before);
	return ferror(stdout) ? EXIT_FAILED : EXIT_OK;
}

/* ---- histograms ---- */

static uint64_t number(const json_t *o, const char *name)
{
	const json_int_t n = json_integer_value(json_object_get(o, name));

	return n > 0 ? (uint64_t)n : 0;
}

static void view_load(const json_t *o, struct histogram_view *ret)
{
	const json_t *buckets = json_object_get(o, "buckets");

	*ret = (struct histogram_view){.sum = number(o, "sum")};
	for (size_t i = 0; i < json_array_size(buckets); i++) {
		const json_t *pair = json_array_get(buckets, i);
		const json_int_t bound = json_integer_value(json_array_get(pair, 0)),
				 n = json_integer_value(json_array_get(pair, 1));

		if (bound > 0 && n > 0) {
			ret->count[histogram_bucket((uint64_t)bound)] += (uint64_t)n;
			ret->n += (uint64_t)n;
		}
	}
}

/* What `now` has beyond `before`, which may be NULL; a daemon that was started anew has less. */
static void view_since(const json_t *now, const json_t *before, struct histogram_view *ret)
{
	struct histogram_view old;

	view_load(now, ret);
	view_load(before, &old);
	if (old.n > ret->n)
		return;
	ret->n = 0;
	ret->sum -= min_u64(old.sum, ret->sum);
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		ret->count[i] -= min_u64(old.count[i], ret->count[i]);
		ret->n += ret->count[i];
	}
}

static double mean_of(const struct histogram_view *v)
{
	return v->n ? (double)v->sum / (double)v->n : 0;
}

static double seconds_between(const json_t *now, const json_t *before)
{
	const double s = json_number_value(json_object_get(now, "uptime_seconds")) -
			 json_number_value(json_object_get(before, "uptime_seconds"));

	return s > 0.001 ? s : 0.001;
}

static const json_t *member(const json_t *o, const char *group, const char *name)
{
	return json_object_get(json_object_get(o, group), name);
}

/* ---- words ---- */

static void time_text(double ns, char ret[16])
{
	if (ns < 1e3)
		snprintf(ret, 16, "%.0f ns", ns);
	else if (ns < 1e6)
		snprintf(ret, 16, "%.1f us", ns / 1e3);
	else if (ns < 1e9)
		snprintf(ret, 16, "%.2f ms", ns / 1e6);
	else
		snprintf(ret, 16, "%.2f s", ns / 1e9);
}

static void print_times(const struct histogram_view *v)
{
	const double times[] = {mean_of(v), histogram_quantile(v, 0.5), histogram_quantile(v, 0.99)};
	char text[16];

	for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
		time_text(times[i], text);
		printf(" %10s", text);
	}
}

static json_t *times_json(const struct histogram_view *v, double seconds)
{
	return json_pack("{s:I, s:f, s:f, s:f, s:f, s:f}", "n", (json_int_t)v->n, "per_second", (double)v->n / seconds,
			 "mean_seconds", mean_of(v) / 1e9, "p50_seconds", histogram_quantile(v, 0.5) / 1e9, "p99_seconds",
			 histogram_quantile(v, 0.99) / 1e9, "sum_seconds", (double)v->sum / 1e9);
}

/* ---- stats ---- */

static uint64_t errors_since(const json_t *now, const json_t *before)
{
	uint64_t n = 0;
	const char *kind;
	json_t *v;

	json_object_foreach(json_object_get(now, "errors"), kind, v)
	{
		const uint64_t a = number(json_object_get(now, "errors"), kind),
			       b = number(json_object_get(before, "errors"), kind);

		n += strcmp(kind, "answer") == 0 ? 0 : a - min_u64(a, b);
	}
	return n;
}

static double bytes_per_second(const json_t *now, const json_t *before, const char *name)
{
	const uint64_t a = number(now, name), b = number(before, name);

	return (double)(a - min_u64(a, b)) / seconds_between(now, before);
}

static void stats_json(const json_t *now, const json_t *before)
{
	const double seconds = seconds_between(now, before);
	json_t *ops = json_object(), *background = json_object();
	struct histogram_view v;
	const char *name;
	json_t *h;

	json_object_foreach(json_object_get(now, "ops"), name, h)
	{
		view_since(h, member(before, "ops", name), &v);
		json_t *o = times_json(&v, seconds);
		json_object_set_new(o, "errors", json_integer((json_int_t)errors_since(h, member(before, "ops", name))));
		json_object_set_new(ops, name, o);
	}
	json_object_foreach(json_object_get(now, "background"), name, h)
	{
		view_since(h, member(before, "background", name), &v);
		json_object_set_new(background, name, times_json(&v, seconds));
	}
	json_t *all = json_pack("{s:f, s:f, s:f, s:o, s:o}", "seconds", seconds, "read_bytes_per_second",
				bytes_per_second(now, before, "read_bytes"), "written_bytes_per_second",
				bytes_per_second(now, before, "written_bytes"), "ops", ops, "background", background);
	json_dumpf(all, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
	printf("\n");
	json_decref(all);
}

static void print_rows(const json_t *now, const json_t *before, const char *group, double seconds)
{
	struct histogram_view v;
	const char *name;
	json_t *h;

	json_object_foreach(json_object_get(now, group), name, h)
	{
		view_since(h, member(before, group, name), &v);
		if (v.n == 0)
			continue;
		printf("%-*s %10.1f", NAME_COLUMN, name, (double)v.n / seconds);
		print_times(&v);
		printf(" %8" PRIu64 "\n", errors_since(h, member(before, group, name)));
	}
}

static void stats_show(const struct args *a, const json_t *now, const json_t *before)
{
	const double seconds = seconds_between(now, before);
	char in[32], out[32];

	if (a->json) {
		stats_json(now, before);
		return;
	}
	size_text((uint64_t)bytes_per_second(now, before, "read_bytes"), in, sizeof(in));
	size_text((uint64_t)bytes_per_second(now, before, "written_bytes"), out, sizeof(out));
	printf("%s%.1f s%s: %s read, %s written a second\n", before ? "\n" : "", seconds, before ? "" : " since the mount", in,
	       out);
	printf("%-*s %10s %10s %10s %10s %8s\n", NAME_COLUMN, "", "a second", "mean", "half in", "99 % in", "errors");
	print_rows(now, before, "ops", seconds);
	print_rows(now, before, "background", seconds);
}

int verb_stats(const struct args *a)
{
	return look(a, "stats", stats_show);
}

/* ---- profile ---- */

static double sum_of_stages(const json_t *now, const json_t *before)
{
	struct histogram_view v;
	const char *name;
	double sum = 0;
	json_t *h;

	json_object_foreach(json_object_get(now, "stages"), name, h)
	{
		view_since(h, member(before, "stages", name), &v);
		sum += (double)v.sum;
	}
	return sum;
}

static void profile_json(const json_t *now, const json_t *before, double sum)
{
	const double seconds = seconds_between(now, before);
	json_t *all = json_object(), *stages = json_object();
	struct histogram_view v;
	const char *name;
	json_t *h;

	json_object_foreach(json_object_get(now, "stages"), name, h)
	{
		view_since(h, member(before, "stages", name), &v);
		json_t *o = times_json(&v, seconds);
		json_object_set_new(o, "share", json_real(sum > 0 ? (double)v.sum / sum : 0));
		json_object_set_new(stages, name, o);
	}
	json_object_set_new(all, "seconds", json_real(seconds));
	json_object_set_new(all, "stages", stages);
	static const char *const durable[] = {"commit", "commit_flush", "ack_wait"};
	for (size_t i = 0; i < ARRAY_SIZE(durable); i++) {
		view_since(member(now, "background", durable[i]), member(before, "background", durable[i]), &v);
		json_object_set_new(all, durable[i], times_json(&v, seconds));
	}
	view_since(member(now, "ops", "fsync"), member(before, "ops", "fsync"), &v);
	json_object_set_new(all, "fsync", times_json(&v, seconds));
	json_dumpf(all, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
	printf("\n");
	json_decref(all);
}

static void profile_row(const char *name, const json_t *now, const json_t *before, double sum, const char *what)
{
	struct histogram_view v;

	view_since(now, before, &v);
	printf("  %-13s %10" PRIu64, name, v.n);
	print_times(&v);
	if (sum > 0)
		printf(" %5.1f %%", 100 * (double)v.sum / sum);
	else
		printf("        ");
	printf("  %s\n", what);
}

static void profile_show(const struct args *a, const json_t *now, const json_t *before)
{
	static const struct {
		const char *group, *name, *what;
	} row[] = {
	    {"stages", "admit", "room in the journal, and the gate"},
	    {"stages", "place", "above 64 KiB: data to the arena"},
	    {"stages", "lock", "the inode's lock"},
	    {"stages", "prepare", "partial blocks, checksums, space"},
	    {"stages", "log", "into the open batch"},
	    {"stages", "apply", "into the index"},
	    {"stages", "reply", "the answer"},
	    {"ops", "fsync", "from fsync to its answer"},
	    {"background", "commit", "a batch to the disk"},
	    {"background", "commit_flush", "of that: data in the arena"},
	    {"background", "ack_wait", "then: until followers have it"},
	};
	const double sum = sum_of_stages(now, before);
	const char *group = "";

	if (a->json) {
		profile_json(now, before, sum);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(row); i++) {
		const bool stage = strcmp(row[i].group, "stages") == 0;

		if (i == 0 || (!stage && strcmp(group, "stages") == 0))
			printf("%s%s\n  %-13s %10s %10s %10s %10s %7s\n", i || before ? "\n" : "",
			       stage ? "from a write to its answer" : "from there to durable", "", "times", "mean", "half in",
			       "99 % in", stage ? "share" : "");
		group = row[i].group;
		profile_row(row[i].name, member(now, group, row[i].name), member(before, group, row[i].name), stage ? sum : 0,
			    row[i].what);
	}
}

int verb_profile(const struct args *a)
{
	return look(a, "stats", profile_show);
}

/* ---- top ---- */

/* What the process is called, as far as this machine knows it. */
static void process_name(uint64_t pid, char ret[32])
{
	char path[64];

	snprintf(ret, 32, "%s", pid ? "(gone)" : "(kernel)");
	if (!pid)
		return;
	snprintf(path, sizeof(path), "/proc/%" PRIu64 "/comm", pid);
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, ret, 31);
	if (n <= 0)
		return;
	ret[n] = '\0';
	ret[strcspn(ret, "\n")] = '\0';
	for (char *p = ret; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f) /* nobody's terminal is told what to do by a program's name */
			*p = '?';
}

static void user_name(uint64_t uid, char ret[32])
{
	const struct passwd *p = getpwuid((uid_t)uid);

	if (p)
		snprintf(ret, 32, "%s", p->pw_name);
	else
		snprintf(ret, 32, "%" PRIu64, uid);
}

/* The three operations it asks for most. */
static void print_ops(const json_t *ops)
{
	const char *told[3] = {NULL};

	for (size_t i = 0; i < ARRAY_SIZE(told); i++) {
		const char *name;
		double most = 0;
		json_t *v;

		json_object_foreach((json_t *)(uintptr_t)ops, name, v)
		{
			const bool old = (told[0] && strcmp(told[0], name) == 0) || (told[1] && strcmp(told[1], name) == 0);

			if (!old && json_number_value(v) > most) {
				most = json_number_value(v);
				told[i] = name;
			}
		}
		if (told[i])
			printf("%s%s %.1f", i ? ", " : "", told[i], most);
	}
}

static void top_show(const struct args *a, const json_t *now, const json_t *before)
{
	const json_t *rows = json_object_get(now, "rows");

	if (a->json) {
		json_dumpf(now, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
		printf("\n");
		return;
	}
	printf("%s%9s %-16s %-12s %9s %6s %9s %9s  %s\n", before ? "\n" : "", "pid", "process", "user", "a second", "busy",
	       "read/s", "written/s", "of that");
	for (size_t i = 0; i < json_array_size(rows); i++) {
		const json_t *row = json_array_get(rows, i);
		char process[32], user[32], in[32], out[32];

		process_name(number(row, "pid"), process);
		user_name(number(row, "uid"), user);
		size_text((uint64_t)fmax(0, json_number_value(json_object_get(row, "read_bytes"))), in, sizeof(in));
		size_text((uint64_t)fmax(0, json_number_value(json_object_get(row, "written_bytes"))), out, sizeof(out));
		printf("%9" PRIu64 " %-16.16s %-12.12s %9.1f %4.0f %% %9s %9s  ", number(row, "pid"), process, user,
		       json_number_value(json_object_get(row, "requests")), 100 * json_number_value(json_object_get(row, "busy")),
		       in, out);
		print_ops(json_object_get(row, "ops"));
		printf("\n");
	}
}

int verb_top(const struct args *a)
{
	return look(a, "top", top_show);
}
