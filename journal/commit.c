/*
 * commit.c: records into the open batch, batches onto the disk.
 *
 * Append: encode outside the lock; under it copy the operation into the open batch's staging file and publish it.  That
 * moment gives the operation its place in the order, and from it on the operation survives kill -9.
 *
 * Commit: one batch is in flight at a time.  A caller whose batch is not durable either leads or sleeps:
 *
 *     lead:  seal the open batch and open the next one in the other staging file (under the lock)
 *            flush the out-of-line data that the batch names (rule R1), write the batch durably (no lock)
 *            publish durable_seq, then wake first one waiter of the next batch, to lead it, then those who ship batches, then
 *            those whose batch is done
 *
 * so everything appended while a batch is written goes out with the next write, and a woken thread whose batch is done
 * needs no lock to return.  Leadership is not handed over but offered: a thread that calls in between may take it, and
 * whoever was woken for it then finds its batch in flight and sleeps again.  That costs no wake-up, see state.h.
 * Waiters that do not sleep (journal_commit_async) cannot lead: the thread that committed last goes on for them.  When that
 * one has an operation of its own to finish, the next to call journal_commit_async() sleeps after all and takes over, so
 * nobody commits for others for longer than one more batch.
 *
 * Failure: the first error of a flush or a batch write is kept.  Nothing is sealed or appended any more, nothing is ever
 * written or flushed again; what was appended stays in the staging files for the next journal_open().
 */
#include <assert.h>
#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "base/trace.h"
#include "journal/state.h"

#define OPEN_BYTES_WAKE MIB /* the committer is woken when the open batch grows past this */

/* A sealed batch: all that writing it needs, so that the leader works without the lock. */
struct sealed {
	struct staging *staging;
	struct batch_view view;
	struct batch_info info;
	bool out_of_line;
};

/* What went wrong, for admins; `segment` names the file of a batch write. */
struct failure {
	int error;
	bool in_signing, in_write; /* how far it came: the flush of data is first */
	uint32_t segment;
};

/* Waiters */

/* A thread that sleeps until a batch is durable, or until the open batch has room (seq 0).  Lives on its stack. */
struct sleeper {
	struct journal_waiter base;
	sem_t wake;
	bool settled; /* `result` is the answer; otherwise: look again, you may lead */
	int result;
};

static void sleeper_done(struct journal_waiter *w, int result)
{
	struct sleeper *s = container_of(w, struct sleeper, base);

	s->settled = true;
	s->result = result;
	sem_post(&s->wake); /* and it is gone */
}

static void push_locked(struct journal *j, struct journal_waiter *w) REQUIRES(j->lock)
{
	w->next = NULL;
	*j->waiters_end = w;
	j->waiters_end = &w->next;
}

/* Sleeps until woken; the lock is released.  True when *ret_result is the answer; else look again. */
static bool wait_for(struct journal *j, uint64_t seq, int *ret_result) RELEASES(j->lock)
{
	struct sleeper s = {.base = {.seq = seq, .done = sleeper_done}};

	sem_init(&s.wake, 0, 0);
	push_locked(j, &s.base);
	mutex_unlock(&j->lock);
	while (sem_wait(&s.wake)) /* EINTR */
		;
	sem_destroy(&s.wake);
	if (s.settled)
		*ret_result = s.result;
	return s.settled;
}

/* Takes those out of the list that `pick` names, in order. */
static struct journal_waiter *take_waiters(struct journal *j, bool (*pick)(const struct journal *j,
									   const struct journal_waiter *w)) REQUIRES(j->lock)
{
	struct journal_waiter *taken = NULL, **end = &taken, **at = &j->waiters;

	while (*at) {
		struct journal_waiter *w = *at;
		if (!pick(j, w)) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		*end = w;
		end = &w->next;
	}
	*end = NULL;
	j->waiters_end = at;
	return taken;
}

static bool wants_room(const struct journal *j, const struct journal_waiter *w)
{
	(void)j;
	return w->seq == 0;
}

static bool is_done(const struct journal *j, const struct journal_waiter *w) REQUIRES(j->lock)
{
	return j->error || (w->seq && w->seq <= j->durable_seq);
}

/* A sleeper of those that are left, to lead the next batch: one that waits for it to be durable, else one for room. */
static struct journal_waiter *take_leader(struct journal *j) REQUIRES(j->lock)
{
	struct journal_waiter **found = NULL;

	for (struct journal_waiter **at = &j->waiters; *at; at = &(*at)->next)
		if ((*at)->done == sleeper_done && (!found || ((*found)->seq == 0 && (*at)->seq != 0)))
			found = at;
	if (!found)
		return NULL;
	struct journal_waiter *w = *found;
	*found = w->next;
	if (j->waiters_end == &w->next)
		j->waiters_end = found;
	w->next = NULL;
	return w;
}

/* Not settled, only to look again. */
static void wake_all(struct journal_waiter *w)
{
	while (w) {
		struct journal_waiter *next = w->next; /* w is gone once it is woken */
		sem_post(&container_of(w, struct sleeper, base)->wake);
		w = next;
	}
}

static void settle_all(struct journal_waiter *w, int result)
{
	while (w) {
		struct journal_waiter *next = w->next;
		w->done(w, result);
		w = next;
	}
}

/* The commit */

/* Fixes what the batch in `s` is.  The hash has grown with it, so this costs the same for any size. */
static void seal_locked(struct journal *j, struct staging *s, struct sealed *ret) REQUIRES(j->lock)
{
	struct journal_point after;

	assert(s->n.n_records > 0 && s->prev.seq == j->durable_seq && !j->committing);
	assert(s->prev.seq == j->sealed_seq);
	staging_point_after(s, &after);
	ret->staging = s;
	ret->out_of_line = s->out_of_line;
	staging_view(s, &ret->view);
	ret->info = (struct batch_info){
	    .epoch = s->epoch ? s->epoch : j->config.epoch,
	    .incarnation = j->config.incarnation,
	    .seq = after.seq,
	    .pos = s->prev.pos,
	    .tail_seq = j->tail_seq,
	    .commit_seq = j->durable_seq,
	    .time_ns = s->time_ns,
	    .prev_hash = s->prev.hash,
	    .hash = after.hash,
	    .n = s->n,
	    .local_crc = s->local_crc,
	};
	journal_point_push_locked(j, &after);
	j->committing = true;
}

/* The other staging file takes the next batch; its own was durable before the one just sealed was begun to be written. */
static void open_next_locked(struct journal *j) REQUIRES(j->lock)
{
	j->open ^= 1;
	staging_begin(open_staging(j), j->config.volume, j->config.incarnation, point_at(j, j->sealed_seq), j->durable_seq);
	j->open_since_ns = 0;
}

/* Rule R1, then the batch: everything that the commit writes. */
static void write_sealed(struct journal *j, struct sealed *b, struct failure *ret)
{
	const struct journal_hooks *hooks = &j->config.hooks;
	struct iovec iov[STAGING_IOV];

	*ret = (struct failure){0};
	if (b->out_of_line && hooks->flush_data && !(hooks->sabotage & JOURNAL_SABOTAGE_SKIP_FLUSH_DATA)) {
		const int64_t start_ns = metric_now_ns();

		ret->error = hooks->flush_data(hooks->ctx);
		metric_record(HISTOGRAM_COMMIT_FLUSH, metric_now_ns() - start_ns);
	}
	if (ret->error)
		return;
	TRACE_BATCH(flushed, b->info.seq, 0);
	if (!b->staging->epoch)
		b->info.time_ns = clock_real_ns(j->config.clock);
	batch_header_make(b->staging->header, j->config.volume, &b->info);
	staging_gather(&b->view, b->staging, j->scratch, iov);
	ret->in_signing = true;
	if (j->config.signer.sign)
		ret->error = batch_sign(&j->config.signer, iov, STAGING_IOV);
	if (ret->error)
		return;
	ret->in_write = true;
	ret->error = ring_write(&j->ring, iov, STAGING_IOV, b->info.pos,
				hooks->sabotage & JOURNAL_SABOTAGE_NOT_DURABLE ? 0 : DISK_DURABLE, &ret->segment);
}

static void fail_locked(struct journal *j, const struct sealed *b, const struct failure *f) REQUIRES(j->lock)
{
	assert(!j->error); /* after the first nobody leads any more */
	j->error = f->error;
	if (f->in_write)
		snprintf(j->failure, sizeof(j->failure),
			 "journal: write of batch %llu at position %llu to journal/seg.%04u failed: %s",
			 (unsigned long long)b->info.seq, (unsigned long long)b->info.pos, f->segment, strerror(-f->error));
	else if (f->in_signing)
		snprintf(j->failure, sizeof(j->failure), "journal: signing batch %llu failed: %s",
			 (unsigned long long)b->info.seq, strerror(-f->error));
	else
		snprintf(j->failure, sizeof(j->failure), "journal: flush of file data before batch %llu failed: %s",
			 (unsigned long long)b->info.seq, strerror(-f->error));
	cond_broadcast(&j->trimmed);
}

static void succeed_locked(struct journal *j, const struct sealed *b, int64_t took_ns) REQUIRES(j->lock)
{
	assert(b->info.seq == j->durable_seq + 1);
	j->durable_seq = b->info.seq;
	for (unsigned i = 0; i < STAGING_FILES; i++)
		staging_set_durable(&j->staging[i], j->durable_seq);
	j->commits++;
	j->commit_blocks += batch_blocks(&b->info.n);
	j->commit_ns += took_ns;
}

/* failure[] is written once, before anybody can read it here. */
static void report_failure(struct journal *j)
{
	log_error("%s", j->failure);
	if (j->config.hooks.failed)
		j->config.hooks.failed(j->config.hooks.ctx, j->error, j->failure);
}

/* Writes the sealed batch and tells everybody.  *ret_led_on: a sleeper was woken to lead the next one. */
static int finish(struct journal *j, struct sealed *b, bool *ret_led_on) EXCLUDES(j->lock)
{
	int64_t start_ns = clock_mono_ns(j->config.clock);
	struct failure f;

	TRACE_BATCH(seal, b->info.seq, b->info.n.n_records);
	write_sealed(j, b, &f);
	int64_t took_ns = clock_mono_ns(j->config.clock) - start_ns;
	mutex_lock(&j->lock);
	if (f.error)
		fail_locked(j, b, &f);
	else
		succeed_locked(j, b, took_ns);
	j->committing = false;
	struct journal_waiter *done = take_waiters(j, is_done), *leader = take_leader(j);
	mutex_unlock(&j->lock);
	*ret_led_on = leader;
	if (f.error) {
		report_failure(j);
	} else {
		const uint64_t bytes = batch_blocks(&b->info.n) * BLOCK_SIZE;

		TRACE_BATCH(durable, b->info.seq, bytes);
		metric_record(HISTOGRAM_COMMIT, took_ns);
		metric_record(HISTOGRAM_BATCH_BYTES, (int64_t)bytes);
		metric_record(HISTOGRAM_BATCH_RECORDS, b->info.n.n_records);
	}
	wake_all(leader); /* first: the disk is idle */
	if (!f.error && j->config.hooks.durable)
		j->config.hooks.durable(j->config.hooks.ctx, b->info.seq);
	settle_all(done, f.error);
	return f.error;
}

static int lead_once(struct journal *j, bool relief_wanted, bool *ret_led_on) RELEASES(j->lock)
{
	struct sealed b;

	assert(!j->committing && !j->error);
	j->relief_wanted = relief_wanted;
	seal_locked(j, open_staging(j), &b);
	open_next_locked(j);
	struct journal_waiter *appenders = take_waiters(j, wants_room);
	mutex_unlock(&j->lock);
	wake_all(appenders);
	return finish(j, &b, ret_led_on);
}

/* Those that are left and do not sleep need somebody to lead for them. */
static bool someone_needs_a_leader(struct journal *j) REQUIRES(j->lock)
{
	return !j->committing && !j->error && j->waiters && open_staging(j)->n.n_records > 0;
}

/*
 * Commits the open batch, which has records, as the one in flight; then more, while others wait and nobody leads.  A `busy`
 * thread has an operation of its own to finish and asks to be relieved by the next one that calls.
 */
static int lead(struct journal *j, bool busy) RELEASES(j->lock)
{
	bool led_on;
	int r = lead_once(j, false, &led_on);

	mutex_lock(&j->lock);
	while (!led_on && someone_needs_a_leader(j)) {
		int theirs = lead_once(j, busy, &led_on); /* they are told */
		(void)theirs;
		mutex_lock(&j->lock);
	}
	mutex_unlock(&j->lock);
	return r;
}

int journal_commit_staged(struct journal *j, struct staging *s)
{
	struct sealed b;
	bool led_on; /* nobody waits yet */

	mutex_lock(&j->lock);
	seal_locked(j, s, &b);
	mutex_unlock(&j->lock);
	return finish(j, &b, &led_on);
}

/* The newest batch with a record in it. */
static uint64_t newest_locked(struct journal *j) REQUIRES(j->lock)
{
	return j->sealed_seq + (open_staging(j)->n.n_records ? 1 : 0);
}

int journal_commit(struct journal *j, uint64_t seq)
{
	mutex_lock(&j->lock);
	int r = j->error;
	if (!r && seq > newest_locked(j))
		r = -EINVAL;
	/* an error that comes up after the batch became durable does not concern this caller */
	while (!r && j->durable_seq < seq) {
		if (!j->committing)
			return lead(j, true);
		if (wait_for(j, seq, &r))
			return r;
		mutex_lock(&j->lock);
		r = j->durable_seq < seq ? j->error : 0;
	}
	mutex_unlock(&j->lock);
	return r;
}

void journal_commit_async(struct journal *j, struct journal_waiter *w)
{
	int ignored = 0; /* told to w like to everybody */

	mutex_lock(&j->lock);
	int r = j->error;
	uint64_t seq = w->seq = newest_locked(j);
	if (r || j->durable_seq >= seq) {
		mutex_unlock(&j->lock);
		w->done(w, r);
		return;
	}
	push_locked(j, w);
	if (!j->committing) {
		ignored = lead(j, false);
	} else if (j->relief_wanted && seq > j->sealed_seq) { /* wait for the next batch, to lead it in that thread's place */
		j->relief_wanted = false;
		if (!wait_for(j, seq, &ignored))
			ignored = journal_commit(j, seq);
	} else {
		mutex_unlock(&j->lock);
	}
	(void)ignored;
}

int journal_commit_all(struct journal *j, uint64_t *ret_seq)
{
	mutex_lock(&j->lock);
	uint64_t seq = newest_locked(j);
	mutex_unlock(&j->lock);
	int r = journal_commit(j, seq);
	if (!r && ret_seq) {
		mutex_lock(&j->lock);
		*ret_seq = j->durable_seq;
		mutex_unlock(&j->lock);
	}
	return r;
}

/* The append */

/* Whether a WRITE carries all the data it names. */
static bool data_ok(const struct record *r)
{
	size_t bytes = 0;
	uint64_t blocks = 0;

	if (r->type != RECORD_WRITE)
		return true;
	if (r->write.out_of_line) {
		for (uint32_t i = 0; i < r->write.n_runs; i++)
			blocks += r->write.runs[i].n_blocks;
		return blocks == r->write.n_blocks && r->write.n_runs <= r->write.n_blocks;
	}
	if (r->write.n_data < 1 || r->write.n_data > (int)ARRAY_SIZE(r->write.data))
		return false;
	for (int i = 0; i < r->write.n_data; i++)
		bytes += r->write.data[i].iov_len;
	return bytes == (size_t)r->write.n_blocks * BLOCK_SIZE;
}

/* The operation's logical bytes, and what it takes of a batch. */
static int encode_operation(struct record *records, size_t n, struct buf *out, struct batch_counts *ret)
{
	uint64_t payload = 0, local = 0;

	if (n == 0)
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		struct record *r = &records[i];
		r->flags = (uint8_t)((r->flags & ~RECORD_MORE) | (i + 1 < n ? RECORD_MORE : 0));
		int error = data_ok(r) ? record_encode(r, out) : -EINVAL;
		if (error)
			return error;
		payload += r->type == RECORD_WRITE && !r->write.out_of_line ? r->write.n_blocks : 0;
		local += batch_local_bytes(r);
		if (payload > BATCH_PAYLOAD_MAX_BLOCKS || out->len > BATCH_LOGICAL_MAX_BYTES || local > BATCH_LOCAL_MAX_BYTES)
			return -E2BIG;
	}
	*ret = (struct batch_counts){.n_records = (uint32_t)n,
				     .n_payload = (uint32_t)payload,
				     .logical_bytes = (uint32_t)out->len,
				     .local_bytes = (uint32_t)local};
	return 0;
}

/* Returns once the open batch can take `need`; commits it when it cannot and nobody else does. */
static int make_fit_locked(struct journal *j, const struct batch_counts *need) REQUIRES(j->lock)
{
	while (!j->error && !staging_fits(open_staging(j), need)) {
		int ignored; /* an error is sticky, and looked at above */
		if (!j->committing)
			ignored = lead(j, true);
		else
			wait_for(j, 0, &ignored);
		mutex_lock(&j->lock);
	}
	return j->error;
}

bool journal_ring_has_room_locked(struct journal *j, const struct batch_counts *need)
{
	const struct staging *s = open_staging(j);
	const struct batch_counts sum = {.n_payload = s->n.n_payload + need->n_payload,
					 .logical_bytes = s->n.logical_bytes + need->logical_bytes,
					 .local_bytes = s->n.local_bytes + need->local_bytes};

	return s->prev.pos + batch_blocks(&sum) - point_at(j, j->tail_seq)->pos <= j->ring.n_blocks;
}

bool journal_appended_locked(struct journal *j, uint64_t bytes_before)
{
	bool fuller = journal_pressure_locked(j);

	return fuller || (bytes_before < OPEN_BYTES_WAKE && open_bytes_locked(j) >= OPEN_BYTES_WAKE);
}

/* Puts the operation in; true when homer or committer should be woken. */
static bool put_locked(struct journal *j, struct record *records, size_t n, const struct buf *logical) REQUIRES(j->lock)
{
	struct staging *s = open_staging(j);
	uint64_t bytes_before = open_bytes_locked(j);

	if (s->n.n_records == 0)
		j->open_since_ns = clock_mono_ns(j->config.clock);
	for (size_t i = 0; i < n; i++)
		staging_put_data(s, &records[i]);
	staging_publish(s, logical->p, (uint32_t)logical->len, (uint32_t)n);
	j->operations++;
	return journal_appended_locked(j, bytes_before);
}

int journal_append(struct journal *j, struct record *records, size_t n, uint64_t *ret_seq)
{
	CLEANUP_BUF struct buf logical = {0};
	struct batch_counts need;
	bool wake = false;

	int r = encode_operation(records, n, &logical, &need);
	if (r)
		return r;
	mutex_lock(&j->lock);
	if (!j->started)
		r = -EROFS; /* a read-only mount, which never starts the journal */
	if (!r)
		r = make_fit_locked(j, &need);
	if (!r && !journal_ring_has_room_locked(j, &need))
		r = -ENOSPC;
	if (!r) {
		wake = put_locked(j, records, n, &logical);
		*ret_seq = staging_seq(open_staging(j));
	}
	mutex_unlock(&j->lock);
	if (wake)
		journal_notify_pressure(j);
	return r;
}
