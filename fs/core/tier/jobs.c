/*
 * jobs.c: the thread that does what an admin asks of stores and cold files, one job after the other.
 *
 * A job may ask a store and take minutes; whoever asked waits by a waiter and holds no thread of the daemon.  The thread starts
 * with the first job and stays.  At the end what is queued is answered -ESHUTDOWN; the job under way ends because the stores are
 * shut.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/tier/tier.h"

#define QUEUE_MAX  65536u /* recalls of single files are jobs too */
#define TOGETHER   64u    /* of which so many are done together */
#define RESULT_MAX 60000u /* an xattr has room for 64 KiB */

struct job {
	struct job *next;
	struct fs_cred cred;
	struct journal_waiter *waiter; /* borrowed; may be NULL */
	uint64_t ino;                  /* a recall; else 0 */
	uint64_t *inos;                /* a recall of many, owned; else NULL */
	uint32_t n_inos;
	enum tier_job_kind kind;
	char arg[];
};
struct tier_jobs {
	struct fs *fs;
	struct mutex lock;
	struct cond wake;
	/* guarded by lock */
	struct job *first, **last;
	uint32_t n;
	bool stop, started;
	struct buf result[TIER_JOB_KINDS];
	/* set by the first job */
	pthread_t thread;
};

static void answer(struct journal_waiter *w, int r)
{
	if (w)
		w->done(w, r);
}

int jobs_open(struct fs *fs)
{
	struct tier_jobs *j = calloc(1, sizeof(*j));

	if (!j)
		return -ENOMEM;
	j->fs = fs;
	j->last = &j->first;
	mutex_init(&j->lock);
	cond_init(&j->wake);
	fs->tier_jobs = j;
	return 0;
}

static struct job *take(struct tier_jobs *j) REQUIRES(j->lock)
{
	struct job *job = j->first;

	if (!job)
		return NULL;
	j->first = job->next;
	if (!j->first)
		j->last = &j->first;
	j->n--;
	return job;
}

static void keep_result(struct tier_jobs *j, enum tier_job_kind kind, struct buf *text)
{
	if (text->len > RESULT_MAX)
		text->len = RESULT_MAX;
	mutex_lock(&j->lock);
	buf_free(&j->result[kind]);
	j->result[kind] = *text;
	mutex_unlock(&j->lock);
	*text = (struct buf){0};
}

static int run(struct tier_jobs *j, const struct job *job)
{
	CLEANUP_BUF struct buf out = {0};
	int r = admin_run(j->fs, &job->cred, job->kind, job->arg, &out);

	keep_result(j, job->kind, &out);
	return r;
}

static void job_free(struct job *job)
{
	free(job->inos);
	free(job);
}

static void finish(struct job *job, int r)
{
	answer(job->waiter, r);
	job_free(job);
}

static int run_list(struct fs *fs, const struct job *job)
{
	CLEANUP_FREE int *result = malloc(job->n_inos * sizeof(*result));
	int r = 0;

	if (!result)
		return -ENOMEM;
	recall_files(fs, job->inos, job->n_inos, result);
	for (uint32_t i = 0; i < job->n_inos && r == 0; i++)
		r = result[i];
	return r;
}

/* Recalls of files that were asked for one after the other are done together. */
static void run_recalls(struct tier_jobs *j, struct job **job, uint32_t n)
{
	uint64_t ino[TOGETHER];
	int result[TOGETHER];

	for (uint32_t i = 0; i < n; i++)
		ino[i] = job[i]->ino;
	recall_files(j->fs, ino, n, result);
	for (uint32_t i = 0; i < n; i++)
		finish(job[i], result[i]);
}

/* The next job, or the next recalls; 0: none. */
static uint32_t take_some(struct tier_jobs *j, struct job **ret) REQUIRES(j->lock)
{
	uint32_t n = 0;

	while (n < TOGETHER && j->first && (n == 0 || (ret[0]->ino && j->first->ino)))
		ret[n++] = take(j);
	return n;
}

static void *jobs_main(void *arg)
{
	struct tier_jobs *j = arg;
	struct job *job[TOGETHER];

	pthread_setname_np(pthread_self(), "tier-jobs");
	mutex_lock(&j->lock);
	while (!j->stop) {
		uint32_t n = take_some(j, job);

		if (n == 0) {
			cond_wait(&j->wake, &j->lock);
			continue;
		}
		mutex_unlock(&j->lock);
		if (job[0]->ino)
			run_recalls(j, job, n);
		else if (job[0]->inos)
			finish(job[0], run_list(j->fs, job[0]));
		else
			finish(job[0], run(j, job[0]));
		mutex_lock(&j->lock);
	}
	mutex_unlock(&j->lock);
	return NULL;
}

static int push(struct tier_jobs *j, struct job *job) REQUIRES(j->lock)
{
	if (j->stop)
		return -ESHUTDOWN;
	if (j->n >= QUEUE_MAX)
		return -EAGAIN;
	if (!j->started) {
		int r = -pthread_create(&j->thread, NULL, jobs_main, j);

		if (r < 0)
			return r;
		j->started = true;
	}
	*j->last = job;
	j->last = &job->next;
	j->n++;
	cond_signal(&j->wake);
	return 0;
}

/* Takes `job` over: its waiter is answered when it is done; with an error nobody is. */
static int submit(struct fs *fs, struct job *job)
{
	struct tier_jobs *j = fs->tier_jobs;

	mutex_lock(&j->lock);
	int r = push(j, job);
	mutex_unlock(&j->lock);
	if (r < 0)
		job_free(job);
	return r;
}

static struct job *job_new(const char *arg, struct journal_waiter *w)
{
	size_t len = strlen(arg) + 1;
	struct job *job = calloc(1, sizeof(*job) + len);

	if (!job)
		return NULL;
	memcpy(job->arg, arg, len);
	job->waiter = w;
	return job;
}

void fs_tier_job(struct fs *fs, const struct fs_cred *cred, enum tier_job_kind kind, const char *arg, struct journal_waiter *w)
{
	struct job *job = job_new(arg, w);
	int r = -ENOMEM;

	if (job) {
		job->kind = kind;
		job->cred = *cred;
		r = submit(fs, job);
	}
	if (r < 0)
		answer(w, r);
}

static int ask_recall(struct fs *fs, uint64_t ino, struct journal_waiter *w)
{
	struct job *job = job_new("", w);

	if (!job)
		return -ENOMEM;
	job->ino = ino;
	return submit(fs, job);
}

void fs_tier_recall(struct fs *fs, uint64_t ino, struct journal_waiter *w)
{
	int r = ask_recall(fs, ino, w);

	if (r < 0)
		answer(w, r);
}

int fs_tier_recall_queue(struct fs *fs, uint64_t ino)
{
	return ask_recall(fs, ino, NULL);
}

void fs_tier_recall_many(struct fs *fs, const uint64_t *ino, uint32_t n, struct journal_waiter *w)
{
	struct job *job = job_new("", w);
	uint64_t *copy = job && n ? malloc(n * sizeof(*copy)) : NULL;
	int r = -ENOMEM;

	if (copy) {
		memcpy(copy, ino, n * sizeof(*copy));
		job->inos = copy;
		job->n_inos = n;
		r = submit(fs, job);
	} else {
		free(job);
	}
	if (r < 0)
		answer(w, n ? r : 0);
}

int fs_tier_result(struct fs *fs, enum tier_job_kind kind, struct buf *out)
{
	struct tier_jobs *j = fs->tier_jobs;

	mutex_lock(&j->lock);
	const struct buf *text = &j->result[kind];
	int r = text->p ? 0 : -ENODATA;
	if (r == 0)
		buf_put(out, text->p, text->len);
	mutex_unlock(&j->lock);
	return r;
}

void jobs_close(struct fs *fs)
{
	struct tier_jobs *j = fs->tier_jobs;
	struct job *job;

	if (!j)
		return;
	mutex_lock(&j->lock);
	j->stop = true;
	cond_signal(&j->wake);
	bool started = j->started;
	mutex_unlock(&j->lock);
	if (started)
		pthread_join(j->thread, NULL);
	mutex_lock(&j->lock); /* nobody else is left; for the analysis */
	while ((job = take(j))) {
		finish(job, -ESHUTDOWN);
	}
	for (size_t i = 0; i < TIER_JOB_KINDS; i++)
		buf_free(&j->result[i]);
	mutex_unlock(&j->lock);
	cond_destroy(&j->wake);
	mutex_destroy(&j->lock);
	free(j);
	fs->tier_jobs = NULL;
}
