/*
 * metrics.c: glue between the volume, its numbers and who asks for them, and the thread that takes samples and sees to memory.
 *
 * A sample costs a few locks and the part of the status that tells of peers: nothing that grows with the volume.
 */
#include "fs/metrics/metrics.h"

#include <errno.h>
#include <jansson.h>
#include <malloc.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/lock.h"
#include "fs/metrics/forecast.h"
#include "fs/metrics/text.h"
#include "fs/metrics/top.h"

#define PEERS_MAX 16u
#define TOP_ROWS  64u

/* Operations whose latency is watched. */
static const enum request_op watched[] = {OP_LOOKUP, OP_READ, OP_WRITE, OP_FSYNC};
#define N_WATCHED ARRAY_SIZE(watched)

struct watched_latency {
	uint64_t n, sum; /* as of the last sample */
	struct normal normal;
};
struct peer_lag {
	char name[65]; /* empty: none */
	bool seen;     /* in this sample */
	struct slope slope;
};

struct metrics {
	struct fs *fs;
	struct requests *requests;
	int64_t start_ns;
	pthread_t thread;
	bool started;
	struct mutex lock;
	struct cond wake;
	/* guarded by lock */
	bool stop;
	int64_t sampled_ns;
	uint64_t free_bytes;
	struct slope used;
	struct peer_lag peer[PEERS_MAX];
	struct watched_latency latency[N_WATCHED + 1]; /* the last: commits */
};

/* ---- samples ---- */

static struct peer_lag *peer_of(struct metrics *m, const char *name) REQUIRES(m->lock)
{
	struct peer_lag *unused = NULL;

	for (struct peer_lag *p = m->peer; p < m->peer + PEERS_MAX; p++) {
		if (strcmp(p->name, name) == 0)
			return p;
		if (!*p->name)
			unused = p;
	}
	if (unused && strlen(name) < sizeof(unused->name)) {
		*unused = (struct peer_lag){0};
		strcpy(unused->name, name);
		return unused;
	}
	return NULL;
}

static void sample_peers(struct metrics *m, const json_t *status, double dt) REQUIRES(m->lock)
{
	const char *name;
	json_t *v;

	for (struct peer_lag *p = m->peer; p < m->peer + PEERS_MAX; p++)
		p->seen = false;
	json_object_foreach(json_object_get(status, "peers"), name, v)
	{
		struct peer_lag *p = *name ? peer_of(m, name) : NULL;

		if (!p)
			continue;
		p->seen = true;
		slope_add(&p->slope, json_number_value(json_object_get(v, "lag_bytes")), dt, FORECAST_LAG_S);
	}
	for (struct peer_lag *p = m->peer; p < m->peer + PEERS_MAX; p++)
		if (!p->seen)
			*p->name = '\0';
}

static void sample_latency(struct watched_latency *w, const struct histogram_view *v, double dt)
{
	normal_add(&w->normal, (double)(v->sum - w->sum), v->n - w->n, dt, FORECAST_LATENCY_S);
	w->n = v->n;
	w->sum = v->sum;
}

static void sample_latencies(struct metrics *m, double dt) REQUIRES(m->lock)
{
	struct histogram_view v;

	for (size_t i = 0; i < N_WATCHED; i++) {
		requests_latency(m->requests, watched[i], &v);
		sample_latency(&m->latency[i], &v, dt);
	}
	histogram_read(&metric_histograms[HISTOGRAM_COMMIT], &v);
	sample_latency(&m->latency[N_WATCHED], &v, dt);
}

/* The status asks this room in turn, so it is asked without the lock. */
static void take_sample(struct metrics *m)
{
	json_t *status = fs_status_object(m->fs, true);
	struct fs_statfs space;

	fs_statfs(m->fs, &space);
	mutex_lock(&m->lock);
	const int64_t now = metric_now_ns();
	const double dt = (double)(now - m->sampled_ns) / (double)NSEC_PER_SEC;
	m->sampled_ns = now;
	m->free_bytes = space.free_blocks * BLOCK_SIZE;
	slope_add(&m->used, (double)(space.total_blocks - min_u64(space.free_blocks, space.total_blocks)) * BLOCK_SIZE, dt,
		  FORECAST_SPACE_S);
	sample_peers(m, status, dt);
	sample_latencies(m, dt);
	mutex_unlock(&m->lock);
	json_decref(status);
}

/*
 * What a scrub, a base of the archive or an opened snapshot had in memory is free then, but stays with the heaps of the threads
 * that had it: more than what is in use, after a while.  The kernel gets it back.
 */
static void give_memory_back(void)
{
	(void)malloc_trim(0);
}

static void *sampler_main(void *arg)
{
	struct metrics *m = arg;

	for (;;) {
		take_sample(m);
		give_memory_back();
		mutex_lock(&m->lock);
		while (!m->stop && metric_now_ns() - m->sampled_ns < METRICS_SAMPLE_S * NSEC_PER_SEC)
			(void)cond_wait_ns(&m->wake, &m->lock, METRICS_SAMPLE_S * NSEC_PER_SEC);
		const bool stop = m->stop;
		mutex_unlock(&m->lock);
		if (stop)
			return NULL;
	}
}

/* ---- what it adds to the status ---- */

/* null for never. */
static json_t *seconds_json(double seconds)
{
	return seconds < 0 ? json_null() : json_real(seconds);
}

static json_t *lag_json(const struct metrics *m) REQUIRES(m->lock)
{
	json_t *all = json_object();

	for (const struct peer_lag *p = m->peer; p < m->peer + PEERS_MAX; p++)
		if (*p->name)
			json_object_set_new(all, p->name,
					    json_pack("{s:f, s:o}", "bytes_per_second", p->slope.per_second, "caught_up_seconds",
						      p->slope.value > 0 ? seconds_json(slope_seconds(&p->slope, -p->slope.value))
									 : json_real(0)));
	return all;
}

static json_t *latency_json(const struct metrics *m) REQUIRES(m->lock)
{
	json_t *all = json_object();

	for (size_t i = 0; i <= N_WATCHED; i++) {
		const struct normal *w = &m->latency[i].normal;

		json_object_set_new(all, i < N_WATCHED ? request_op_names[watched[i]] : "commit",
				    json_pack("{s:f, s:f, s:b}", "usual_seconds", w->mean / (double)NSEC_PER_SEC, "z", w->z,
					      "anomaly", w->anomaly));
	}
	return all;
}

static json_t *forecast_json(struct metrics *m)
{
	mutex_lock(&m->lock);
	json_t *o = json_pack("{s:f, s:o, s:o, s:o}", "fill_bytes_per_second", m->used.per_second, "full_seconds",
			      seconds_json(slope_seconds(&m->used, (double)m->free_bytes)), "lag", lag_json(m), "latency",
			      latency_json(m));
	mutex_unlock(&m->lock);
	return o;
}

static double uptime_s(const struct metrics *m)
{
	return (double)(metric_now_ns() - m->start_ns) / (double)NSEC_PER_SEC;
}

static void add_status(void *ctx, void *json_object)
{
	struct metrics *m = ctx;

	json_object_set_new(json_object, "build", json_pack("{s:s}", "version", CLAWFS_VERSION));
	json_object_set_new(json_object, "metrics",
			    json_pack("{s:f, s:{s:I, s:I, s:I, s:I}}", "uptime_seconds", uptime_s(m), "fuse", "read_bytes",
				      (json_int_t)requests_bytes(m->requests, false), "written_bytes",
				      (json_int_t)requests_bytes(m->requests, true), "waiting",
				      (json_int_t)requests_waiting(m->requests), "untracked",
				      (json_int_t)requests_untracked(m->requests)));
	json_object_set_new(json_object, "forecast", forecast_json(m));
}

/* ---- life ---- */

static int start_thread(struct metrics *m)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = -pthread_create(&m->thread, NULL, sampler_main, m);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	m->started = r == 0;
	return r;
}

int metrics_new(struct fs *fs, struct metrics **ret)
{
	struct metrics *m = calloc(1, sizeof(*m));
	int r = m ? 0 : -ENOMEM;

	if (r < 0)
		return r;
	m->fs = fs;
	m->start_ns = m->sampled_ns = metric_now_ns();
	mutex_init(&m->lock);
	cond_init(&m->wake);
	r = requests_new(&m->requests);
	if (r == 0)
		r = start_thread(m);
	if (r < 0) {
		metrics_free(m);
		return r;
	}
	fs_set_status(fs, add_status, m);
	*ret = m;
	return 0;
}

struct metrics *metrics_free(struct metrics *m)
{
	if (!m)
		return NULL;
	fs_set_status(m->fs, NULL, NULL);
	if (m->started) {
		mutex_lock(&m->lock);
		m->stop = true;
		cond_signal(&m->wake);
		mutex_unlock(&m->lock);
		pthread_join(m->thread, NULL);
	}
	m->requests = requests_free(m->requests);
	cond_destroy(&m->wake);
	mutex_destroy(&m->lock);
	free(m);
	return NULL;
}

struct requests *metrics_requests(struct metrics *m)
{
	return m->requests;
}

/* ---- texts ---- */

void metrics_text(struct metrics *m, struct buf *out)
{
	json_t *status = fs_status_object(m->fs, false);

	metrics_print(status, m->requests, out);
	json_decref(status);
}

json_t *metrics_status_object(struct metrics *m)
{
	return fs_status_object(m->fs, false);
}

void metrics_status(struct metrics *m, struct buf *out)
{
	fs_status_json(m->fs, out);
	buf_put_u8(out, '\n');
}

static void put_json(json_t *o, struct buf *out)
{
	char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;

	if (text)
		buf_put(out, text, strlen(text));
	else
		out->failed = true;
	buf_put_u8(out, '\n');
	free(text);
	json_decref(o);
}

static json_t *histogram_json(const struct histogram_view *v)
{
	json_t *buckets = json_array();

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		if (v->count[i])
			json_array_append_new(buckets, json_pack("[I, I]", (json_int_t)min_u64(histogram_bound(i), INT64_MAX),
								 (json_int_t)v->count[i]));
	return json_pack("{s:I, s:I, s:o}", "n", (json_int_t)v->n, "sum", (json_int_t)v->sum, "buckets", buckets);
}

static json_t *ops_json(struct metrics *m)
{
	json_t *ops = json_object();
	struct histogram_view v;

	for (unsigned op = 0; op < OP_N; op++) {
		json_t *errors = json_object();

		requests_latency(m->requests, (enum request_op)op, &v);
		json_t *o = histogram_json(&v);
		for (unsigned e = 0; e < ERROR_N; e++)
			json_object_set_new(
			    errors, request_error_names[e],
			    json_integer((json_int_t)requests_errors(m->requests, (enum request_op)op, (enum request_error)e)));
		json_object_set_new(o, "errors", errors);
		json_object_set_new(ops, request_op_names[op], o);
	}
	return ops;
}

static json_t *histograms_json(const char *const *names, const enum metric_histogram *which, size_t n)
{
	json_t *o = json_object();
	struct histogram_view v;

	for (size_t i = 0; i < n; i++) {
		histogram_read(&metric_histograms[which[i]], &v);
		json_object_set_new(o, names[i], histogram_json(&v));
	}
	return o;
}

void metrics_stats(struct metrics *m, struct buf *out)
{
	static const char *const stage_names[] = {"admit", "place", "lock", "prepare", "log", "apply", "reply"};
	static const enum metric_histogram stages[] = {HISTOGRAM_WRITE_ADMIT,   HISTOGRAM_WRITE_PLACE, HISTOGRAM_WRITE_LOCK,
						       HISTOGRAM_WRITE_PREPARE, HISTOGRAM_WRITE_LOG,   HISTOGRAM_WRITE_APPLY,
						       HISTOGRAM_WRITE_REPLY};
	static const char *const other_names[] = {"commit", "commit_flush", "ack_wait", "checkpoint", "checkpoint_gate", "home"};
	static const enum metric_histogram others[] = {HISTOGRAM_COMMIT,     HISTOGRAM_COMMIT_FLUSH, HISTOGRAM_ACK,
						       HISTOGRAM_CHECKPOINT, HISTOGRAM_GATE,         HISTOGRAM_HOME};
	static const char *const size_names[] = {"batch_bytes", "batch_records"};
	static const enum metric_histogram sizes[] = {HISTOGRAM_BATCH_BYTES, HISTOGRAM_BATCH_RECORDS};

	_Static_assert(ARRAY_SIZE(stages) == ARRAY_SIZE(stage_names) && ARRAY_SIZE(others) == ARRAY_SIZE(other_names),
		       "each has a name");
	put_json(json_pack("{s:f, s:I, s:I, s:o, s:o, s:o, s:o}", "uptime_seconds", uptime_s(m), "read_bytes",
			   (json_int_t)requests_bytes(m->requests, false), "written_bytes",
			   (json_int_t)requests_bytes(m->requests, true), "ops", ops_json(m), "stages",
			   histograms_json(stage_names, stages, ARRAY_SIZE(stages)), "background",
			   histograms_json(other_names, others, ARRAY_SIZE(others)), "sizes",
			   histograms_json(size_names, sizes, ARRAY_SIZE(sizes))),
		 out);
}

void metrics_top(struct metrics *m, struct buf *out)
{
	struct top_row row[TOP_ROWS];
	const unsigned n = top_read(requests_top(m->requests), metric_now_ns(), row, TOP_ROWS);
	json_t *rows = json_array();

	for (unsigned i = 0; i < n; i++) {
		json_t *ops = json_object();

		for (unsigned op = 0; op < OP_N; op++)
			if (row[i].op[op] > 0)
				json_object_set_new(ops, request_op_names[op], json_real(row[i].op[op]));
		json_array_append_new(rows, json_pack("{s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:o}", "pid", (json_int_t)row[i].pid,
						      "uid", (json_int_t)row[i].uid, "requests", row[i].requests, "busy",
						      row[i].busy, "read_bytes", row[i].read, "written_bytes", row[i].written,
						      "over", row[i].over, "ops", ops));
	}
	put_json(json_pack("{s:i, s:o}", "window_seconds", TOP_WINDOW_S, "rows", rows), out);
}
