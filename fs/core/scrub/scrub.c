/*
 * scrub.c: the scrubber: a thread that makes a pass over the volume when told to, and does what an admin asks of it meanwhile.
 *
 * States: idle -> running <-> paused; running -> done at the end of a pass, idle by "stop".  The pass, with its cursor and
 * counts, is a row of the index that checkpoints keep; a mount that finds a pass running goes on with it.  The thread asks for a
 * checkpoint itself now and then, since a volume on which nothing changes has none.
 *
 * Rate: each piece is paid for in advance by its bytes (pace.h).  A piece that took long means that the disk
 * has other work: the thread rests for several times as long.  Its I/O has the lowest best-effort priority, not the idle class:
 * it reads under the lock of the file, and who waits for that lock must not wait until the disk has nothing else to do.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "base/pace.h"
#include "fs/core/index.h"
#include "fs/core/scrub/heal.h"
#include "fs/core/scrub/scrub_format.h"
#include "fs/core/scrub/tables.h"

#define RATE_DEFAULT (64 * MIB)
#define RATE_MIN     (64 * KIB)
#define RATE_MAX     (UINT64_C(1) << 40)
#define SAVE_NS      (60 * NSEC_PER_SEC)
#define BUSY_NS      (NSEC_PER_SEC / 50) /* a piece that takes longer met other work */
#define BUSY_TIMES   4
#define REST_MAX_NS  NSEC_PER_SEC
#define ERRORS_MAX   1000u /* pieces that fail one after the other: the pass pauses */

#define IOPRIO_LOWEST (2 << 13 | 7) /* best effort, level 7: linux/ioprio.h */

enum job_kind { JOB_RELEASE, JOB_CLEAR };
struct scrub_job {
	struct scrub_job *next;
	enum job_kind kind;
	struct fs_cred cred;
	uint64_t ino;
	struct journal_waiter *w;
};

/* ---- jobs ---- */

static int job_run(struct fs *fs, const struct scrub_job *j)
{
	uint64_t n;
	int r;

	if (j->kind == JOB_CLEAR)
		return clear_file(fs, &j->cred, j->ino);
	r = quarantine_release(fs, &n);
	if (r == 0 && n)
		log_info("%llu blocks in quarantine passed their test and are free again", (unsigned long long)n);
	return r;
}

static void job_submit(struct fs *fs, const struct scrub_job *job)
{
	struct scrub *sc = fs->scrub;

	if (!sc->has_thread) {
		job->w->done(job->w, job_run(fs, job));
		return;
	}
	struct scrub_job *j = malloc(sizeof(*j));
	if (!j) {
		job->w->done(job->w, -ENOMEM);
		return;
	}
	*j = *job;
	j->next = NULL;
	mutex_lock(&sc->lock);
	bool stop = sc->stop;
	if (!stop) {
		*sc->last_job = j;
		sc->last_job = &j->next;
		cond_broadcast(&sc->wake);
	}
	mutex_unlock(&sc->lock);
	if (stop) {
		free(j);
		job->w->done(job->w, -ESHUTDOWN);
	}
}

/* The first one, done; the lock is given up meanwhile. */
static void job_take(struct scrub *sc) REQUIRES(sc->lock)
{
	struct scrub_job *j = sc->jobs;
	bool stop = sc->stop;

	sc->jobs = j->next;
	if (!sc->jobs)
		sc->last_job = &sc->jobs;
	mutex_unlock(&sc->lock);
	j->w->done(j->w, stop ? -ESHUTDOWN : job_run(sc->fs, j));
	free(j);
	mutex_lock(&sc->lock);
}

void fs_scrub_clear(struct fs *fs, const struct fs_cred *cred, uint64_t ino, struct journal_waiter *w)
{
	job_submit(fs, &(struct scrub_job){.kind = JOB_CLEAR, .cred = *cred, .ino = ino, .w = w});
}

/* ---- the pass ---- */

static void begin_pass(struct scrub *sc, uint64_t rate, bool cold) REQUIRES(sc->lock)
{
	struct scrub_pass *p = &sc->pass;
	struct arena_status as;

	arena_get_status(sc->fs->arena, &as);
	p->state = SCRUB_RUNNING;
	p->phase = PHASE_SUPER;
	p->cold = cold;
	p->cursor_len = 0;
	p->rate = rate;
	p->pass++;
	p->started_ns = clock_real_ns(sc->fs->clock);
	p->checked_bytes = p->bad_blocks = p->repaired_blocks = p->bad_rows = 0;
	p->errors = 0;
	p->total_bytes = as.used_blocks * BLOCK_SIZE;
	p->next_ino = atomic_load(&sc->fs->next_ino);
}

static void end_pass(struct scrub *sc) REQUIRES(sc->lock)
{
	struct scrub_pass *p = &sc->pass;

	p->state = SCRUB_DONE;
	p->last_started_ns = p->started_ns;
	p->last_ended_ns = clock_real_ns(sc->fs->clock);
	p->last_bad_blocks = p->bad_blocks;
	p->last_repaired_blocks = p->repaired_blocks;
	p->last_next_ino = p->next_ino;
	log_info("scrub: %llu bytes checked, %llu blocks were damaged, %llu of them repaired, %llu rows of the index damaged",
		 (unsigned long long)p->checked_bytes, (unsigned long long)p->bad_blocks, (unsigned long long)p->repaired_blocks,
		 (unsigned long long)p->bad_rows);
}

/* Where what was looked at while the lock was given up is counted: unless an admin said otherwise meanwhile. */
static void publish(struct scrub *sc, const struct scrub_pass *before, const struct scrub_pass *after) REQUIRES(sc->lock)
{
	struct scrub_pass *p = &sc->pass;

	if (p->pass != before->pass || p->state == SCRUB_IDLE)
		return;
	enum scrub_state state = p->state;
	uint64_t rate = p->rate;
	*p = *after;
	p->state = state;
	p->rate = rate;
	sc->dirty = true;
	if (p->phase == PHASE_END)
		end_pass(sc);
}

static int step(struct scrub *sc, uint8_t *room, uint64_t *ret_bytes) REQUIRES(sc->lock)
{
	struct scrub_pass before = sc->pass, after = before;

	mutex_unlock(&sc->lock);
	int r = fs_readable(sc->fs) ? -EBUSY : 0;
	if (r == 0 && before.phase == PHASE_ROWS && before.cursor_len == 0) { /* files made lately are in memory only */
		r = sc->fs->config.read_only ? 0 : icache_save(sc->fs->icache);
		if (r == 0 && !sc->fs->config.read_only)
			r = lcache_save(sc->fs->lcache);
	}
	if (r == 0)
		r = walk_step(sc->fs, &after, room, ret_bytes);
	mutex_lock(&sc->lock);
	if (r == 0)
		publish(sc, &before, &after);
	return r;
}

int fs_scrub_step(struct fs *fs, bool *ret_more)
{
	struct scrub *sc = fs->scrub;
	CLEANUP_FREE void *room = NULL;
	uint64_t bytes = 0;
	int r = 0;

	if (posix_memalign(&room, DISK_BLOCK, LEAF_SLOTS * BLOCK_SIZE))
		return -ENOMEM;
	mutex_lock(&sc->lock);
	if (sc->pass.state == SCRUB_RUNNING)
		r = step(sc, room, &bytes);
	*ret_more = sc->pass.state == SCRUB_RUNNING;
	mutex_unlock(&sc->lock);
	return r;
}

/* ---- the thread ---- */

static void pay(struct scrub *sc, uint64_t bytes, int64_t took_ns) REQUIRES(sc->lock)
{
	int64_t now_ns = clock_mono_ns(sc->fs->clock);

	sc->waits[0] = '\0';
	(void)pace_pay(&sc->rate_free_ns, sc->pass.rate, bytes, 0, now_ns);
	if (took_ns <= BUSY_NS)
		return;
	int64_t rest_ns = took_ns * BUSY_TIMES < REST_MAX_NS ? took_ns * BUSY_TIMES : REST_MAX_NS;
	if (sc->rate_free_ns < now_ns + rest_ns)
		sc->rate_free_ns = now_ns + rest_ns;
	snprintf(sc->waits, sizeof(sc->waits), "the disk is busy");
}

static void rest(struct scrub *sc, const char *why, int64_t ns) REQUIRES(sc->lock)
{
	snprintf(sc->waits, sizeof(sc->waits), "%s", why);
	sc->rate_free_ns = clock_mono_ns(sc->fs->clock) + ns;
}

static void heal_paid(struct scrub *sc) REQUIRES(sc->lock)
{
	int64_t begun_ns = clock_mono_ns(sc->fs->clock);
	uint64_t bytes = heal_background(sc);

	pay(sc, bytes, clock_mono_ns(sc->fs->clock) - begun_ns);
}

static void step_paid(struct scrub *sc, uint8_t *room) REQUIRES(sc->lock)
{
	int64_t begun_ns = clock_mono_ns(sc->fs->clock);
	uint64_t bytes = 0;
	int r = step(sc, room, &bytes);

	if (r == 0) {
		pay(sc, bytes, clock_mono_ns(sc->fs->clock) - begun_ns);
		return;
	}
	if (r == -EBUSY)
		rest(sc, "this node is between two states", NSEC_PER_SEC);
	else
		rest(sc, strerror(-r), NSEC_PER_SEC);
	sc->pass.errors += r != -EBUSY;
	if (sc->pass.errors > ERRORS_MAX)
		sc->pass.state = SCRUB_PAUSED;
}

/* Progress reaches the disk; without changes of their own volumes have no checkpoints. */
static void save_now_and_then(struct scrub *sc, bool at_once) REQUIRES(sc->lock)
{
	struct fs *fs = sc->fs;
	int64_t now_ns = clock_mono_ns(fs->clock);

	if (!sc->dirty || fs->config.read_only || atomic_load(&fs->failed) || (!at_once && now_ns - sc->saved_ns < SAVE_NS))
		return;
	sc->saved_ns = now_ns;
	mutex_unlock(&sc->lock);
	(void)!fs_checkpoint(fs); /* what fails there is told by the checkpointer, which tries again */
	mutex_lock(&sc->lock);
}

/* True: there is something to do now. */
static bool wait_for_work(struct scrub *sc) REQUIRES(sc->lock)
{
	int64_t now_ns = clock_mono_ns(sc->fs->clock), left_ns = sc->rate_free_ns - now_ns, heal_ns;

	if (sc->jobs)
		return true;
	if (!heal_due(sc, &heal_ns) && (sc->pass.state != SCRUB_RUNNING || atomic_load(&sc->fs->failed))) {
		save_now_and_then(sc, true);
		if (!sc->stop && !sc->jobs && sc->pass.state != SCRUB_RUNNING && heal_ns == INT64_MAX)
			cond_wait(&sc->wake, &sc->lock);
		else if (!sc->stop && !sc->jobs)
			cond_wait_ns(&sc->wake, &sc->lock,
				     heal_ns < now_ns + NSEC_PER_SEC ? (heal_ns > now_ns ? heal_ns - now_ns : 1) : NSEC_PER_SEC);
		return false;
	}
	if (left_ns <= 0)
		return true;
	cond_wait_ns(&sc->wake, &sc->lock, left_ns);
	return false;
}

static void *scrub_main(void *arg)
{
	struct scrub *sc = arg;
	int64_t heal_ns;
	void *room;

	pthread_setname_np(pthread_self(), "scrub");
	syscall(SYS_ioprio_set, 1 /* a thread */, 0 /* this one */,
		IOPRIO_LOWEST); /* where there is no such thing it goes without */
	if (posix_memalign(&room, DISK_BLOCK, LEAF_SLOTS * BLOCK_SIZE))
		room = NULL;
	mutex_lock(&sc->lock);
	while (!sc->stop) {
		if (!wait_for_work(sc))
			continue;
		if (sc->jobs)
			job_take(sc);
		else if (heal_due(sc, &heal_ns))
			heal_paid(sc);
		else if (room)
			step_paid(sc, room);
		else
			rest(sc, "out of memory", NSEC_PER_SEC);
		save_now_and_then(sc, false);
	}
	while (sc->jobs)
		job_take(sc);
	mutex_unlock(&sc->lock);
	free(room);
	return NULL;
}

/* ---- commands ---- */

static bool word_is(struct slice word, const char *text)
{
	return word.len == strlen(text) && memcmp(word.p, text, word.len) == 0;
}

static bool next_word(struct slice *left, struct slice *ret)
{
	const char *p = left->p;
	size_t from = 0, to;

	while (from < left->len && p[from] == ' ')
		from++;
	for (to = from; to < left->len && p[to] != ' '; to++)
		;
	*ret = (struct slice){p + from, to - from};
	*left = (struct slice){p + to, left->len - to};
	return ret->len > 0;
}

/* Digits and one of K, M, G, T. */
static int parse_rate(struct slice text, uint64_t *ret)
{
	static const char units[] = "KMGT";
	const char *p = text.p;
	uint64_t n = 0;
	size_t i = 0;

	for (; i < text.len && p[i] >= '0' && p[i] <= '9'; i++)
		if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, (uint64_t)(p[i] - '0'), &n))
			return -EINVAL;
	const char *unit = i > 0 && i + 1 == text.len ? strchr(units, p[i]) : NULL;
	if (i == 0 || (i < text.len && !unit))
		return -EINVAL;
	if (unit && __builtin_mul_overflow(n, UINT64_C(1) << (10 * (unit - units + 1)), &n))
		return -EINVAL;
	if (n < RATE_MIN || n > RATE_MAX)
		return -EINVAL;
	*ret = n;
	return 0;
}

static int parse_start(struct slice left, uint64_t *rate, bool *ret_cold)
{
	struct slice word;
	int r = 0;

	*ret_cold = false;
	while (r == 0 && next_word(&left, &word)) {
		if (word.len > 5 && memcmp(word.p, "rate=", 5) == 0)
			r = parse_rate((struct slice){(const char *)word.p + 5, word.len - 5}, rate);
		else if (word_is(word, "cold"))
			*ret_cold = true;
		else
			r = -EINVAL;
	}
	return r;
}

static uint64_t rate_default(const struct fs *fs)
{
	return fs->config.scrub_rate ? fs->config.scrub_rate : RATE_DEFAULT;
}

static int start(struct scrub *sc, struct slice words) REQUIRES(sc->lock)
{
	struct scrub_pass *p = &sc->pass;
	uint64_t rate = rate_default(sc->fs);
	bool cold;

	if (p->state == SCRUB_PAUSED)
		rate = p->rate;
	int r = parse_start(words, &rate, &cold);
	if (r < 0)
		return r;
	if (p->state == SCRUB_RUNNING)
		return -EALREADY;
	if (p->state == SCRUB_PAUSED) {
		p->state = SCRUB_RUNNING;
		p->rate = rate;
		p->cold |= cold;
		p->errors = 0;
	} else {
		begin_pass(sc, rate, cold);
	}
	return 0;
}

static int command_locked(struct scrub *sc, struct slice verb, struct slice left) REQUIRES(sc->lock)
{
	struct scrub_pass *p = &sc->pass;
	struct slice more;

	if (word_is(verb, "start"))
		return start(sc, left);
	if (next_word(&left, &more))
		return -EINVAL;
	if (word_is(verb, "pause")) {
		if (p->state != SCRUB_RUNNING)
			return p->state == SCRUB_PAUSED ? -EALREADY : -ENOENT;
		p->state = SCRUB_PAUSED;
	} else if (word_is(verb, "resume")) {
		if (p->state != SCRUB_PAUSED)
			return p->state == SCRUB_RUNNING ? -EALREADY : -ENOENT;
		p->state = SCRUB_RUNNING;
		p->errors = 0;
	} else if (word_is(verb, "stop")) {
		if (p->state != SCRUB_RUNNING && p->state != SCRUB_PAUSED)
			return -ENOENT;
		p->state = SCRUB_IDLE;
	} else {
		return -EINVAL;
	}
	return 0;
}

void fs_scrub_command(struct fs *fs, struct slice text, struct journal_waiter *w)
{
	struct scrub *sc = fs->scrub;
	struct slice verb, more;
	int r = next_word(&text, &verb) ? 0 : -EINVAL;

	if (r == 0 && word_is(verb, "release") && !next_word(&text, &more)) {
		job_submit(fs, &(struct scrub_job){.kind = JOB_RELEASE, .w = w});
		return;
	}
	mutex_lock(&sc->lock);
	if (r == 0)
		r = command_locked(sc, verb, text);
	if (r == 0) {
		sc->dirty = true;
		sc->run_ns = clock_mono_ns(fs->clock);
		sc->run_bytes = sc->pass.checked_bytes;
		sc->rate_free_ns = 0;
		sc->waits[0] = '\0';
		cond_broadcast(&sc->wake);
	}
	mutex_unlock(&sc->lock);
	w->done(w, r);
}

void scrub_get(struct fs *fs, struct scrub_pass *ret)
{
	mutex_lock(&fs->scrub->lock);
	*ret = fs->scrub->pass;
	mutex_unlock(&fs->scrub->lock);
}

/* ---- life ---- */

static int save_pass(struct fs *fs, struct scrub *sc)
{
	struct index_key k = key_pair(TABLE_SCRUB, 0, 0);
	uint8_t value[sizeof(struct scrub_state_value)];

	mutex_lock(&sc->lock);
	bool dirty = sc->dirty;
	scrub_row_encode(&sc->pass, value);
	sc->dirty = false;
	mutex_unlock(&sc->lock);
	if (!dirty)
		return 0;
	struct kv_batch *batch = index_batch();
	kv_batch_put(batch, key_slice(&k), (struct slice){value, sizeof(value)});
	return kv_write(fs->kv, batch);
}

int scrub_save(struct fs *fs)
{
	int r = fs->damages ? damage_rows_save(fs) : 0;

	return r == 0 && fs->scrub ? save_pass(fs, fs->scrub) : r;
}

static int load_pass(struct fs *fs, struct scrub *sc) REQUIRES(sc->lock)
{
	int r = scrub_row_get(fs, &sc->pass);

	if (r == -ENOENT || r == -EUCLEAN)
		sc->pass = (struct scrub_pass){.state = SCRUB_IDLE};
	if (sc->pass.rate < RATE_MIN || sc->pass.rate > RATE_MAX)
		sc->pass.rate = rate_default(fs);
	sc->run_ns = sc->saved_ns = clock_mono_ns(fs->clock);
	sc->run_bytes = sc->pass.checked_bytes;
	return r == -ENOENT || r == -EUCLEAN ? 0 : r;
}

int scrub_open(struct fs *fs)
{
	struct scrub *sc = calloc(1, sizeof(*sc));

	if (!sc)
		return -ENOMEM;
	sc->fs = fs;
	mutex_init(&sc->lock);
	cond_init(&sc->wake);
	fs->scrub = sc;
	struct damage_sum sum;
	damage_get_sum(fs, &sum);
	mutex_lock(&sc->lock);
	sc->last_job = &sc->jobs;
	int r = load_pass(fs, sc);
	sc->heal_wanted = sum.n_bad > 0; /* what the last mount left */
	mutex_unlock(&sc->lock);
	if (r == 0)
		r = asks_open(fs);
	if (r == 0)
		r = parked_open(fs);
	if (r == 0 && !fs->config.no_threads) {
		r = -pthread_create(&sc->thread, NULL, scrub_main, sc);
		sc->has_thread = r == 0;
	}
	return r;
}

void scrub_shut(struct fs *fs)
{
	struct scrub *sc = fs->scrub;

	if (!sc)
		return;
	asks_shut(fs);
	parked_shut(fs);
	mutex_lock(&sc->lock);
	sc->stop = true;
	cond_broadcast(&sc->wake);
	mutex_unlock(&sc->lock);
	if (sc->has_thread)
		pthread_join(sc->thread, NULL);
	sc->has_thread = false;
}

void scrub_close(struct fs *fs)
{
	struct scrub *sc = fs->scrub;

	if (!sc)
		return;
	parked_close(fs);
	asks_close(fs);
	snap_round_free(sc->round);
	heal_free(sc->heal);
	cond_destroy(&sc->wake);
	mutex_destroy(&sc->lock);
	free(sc);
	fs->scrub = NULL;
}
