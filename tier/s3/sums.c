/*
 * sums.c: see sums.h.
 *
 * Who finds that it is time takes the oldest jobs, up to MD5_LANES of them, and sums them up without the lock; their owners
 * sleep until theirs is done.  A job in the list is always one of the oldest MD5_LANES: as soon as there are as many, the next
 * who looks takes them, and who came last looks at once.
 */
#include "tier/s3/sums.h"

#include <assert.h>
#include <string.h>

struct sums_job {
	struct sums_job *next;
	struct md5_body body;
	bool taken, done;
};

void sums_init(struct sums *s, const struct clock *clock)
{
	*s = (struct sums){.clock = clock};
	s->last = &s->first;
	mutex_init(&s->lock);
	cond_init(&s->changed);
}

void sums_destroy(struct sums *s)
{
	assert(!s->first && s->n_busy == 0);
	cond_destroy(&s->changed);
	mutex_destroy(&s->lock);
}

static bool is_large(const struct iovec *iov, int n_iov)
{
	uint64_t n = 0;

	for (int i = 0; i < n_iov; i++)
		n += iov[i].iov_len;
	return n >= SUMS_MIN_BYTES;
}

static unsigned take(struct sums *s, struct sums_job *ret[MD5_LANES]) REQUIRES(s->lock)
{
	unsigned n = 0;

	while (s->first && n < MD5_LANES) {
		ret[n] = s->first;
		ret[n++]->taken = true;
		s->first = s->first->next;
	}
	if (!s->first)
		s->last = &s->first;
	s->n_waiting -= n;
	s->n_busy += n;
	return n;
}

/* Those that wait longest; the lock is given up meanwhile. */
static void work(struct sums *s) REQUIRES(s->lock)
{
	struct sums_job *job[MD5_LANES];
	struct md5_body *body[MD5_LANES];
	unsigned n = take(s, job);

	mutex_unlock(&s->lock);
	for (unsigned i = 0; i < n; i++)
		body[i] = &job[i]->body;
	md5_bodies(body, n);
	mutex_lock(&s->lock);
	for (unsigned i = 0; i < n; i++)
		job[i]->done = true;
	cond_broadcast(&s->changed);
}

static void wait_for_sum(struct sums *s, struct sums_job *job) REQUIRES(s->lock)
{
	const int64_t until_ns = clock_mono_ns(s->clock) + SUMS_WAIT_NS;

	while (!job->done) {
		const int64_t left_ns = until_ns - clock_mono_ns(s->clock);

		if (job->taken)
			cond_wait(&s->changed, &s->lock);
		else if (s->n_waiting >= MD5_LANES || s->n_busy == 0 || left_ns <= 0)
			work(s);
		else
			cond_wait_ns(&s->changed, &s->lock, left_ns);
	}
}

void sums_begin(struct sums *s, const struct iovec *iov, int n_iov, uint8_t ret[MD5_BYTES])
{
	struct sums_job job = {.body = {.iov = iov, .n_iov = n_iov}};

	if (is_large(iov, n_iov)) {
		mutex_lock(&s->lock);
		*s->last = &job;
		s->last = &job.next;
		s->n_waiting++;
		wait_for_sum(s, &job);
		mutex_unlock(&s->lock);
	} else {
		md5_bodies(&(struct md5_body *){&job.body}, 1);
	}
	memcpy(ret, job.body.digest, MD5_BYTES);
}

void sums_end(struct sums *s, const struct iovec *iov, int n_iov)
{
	if (!is_large(iov, n_iov))
		return;
	mutex_lock(&s->lock);
	assert(s->n_busy > 0);
	if (--s->n_busy == 0 && s->first)
		cond_broadcast(&s->changed);
	mutex_unlock(&s->lock);
}
