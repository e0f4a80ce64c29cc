/*
 * squeeze.c: which leaves are packed, and when.
 *
 * Whoever gives data a home offers its leaf: the homer, a large write, a recall, a resync.  The offer waits for REST_NS, and is
 * then taken up by one thread (fs_squeeze_step() where there are none): the policy that holds for the file then counts.  So
 *
 *     no write waits for a compressor, and what a write promises is whole blocks: ENOSPC is told where it always was
 *     one piece of code packs what came by the journal, in large writes, from objects or from a leader
 *     records and the journal know nothing of it
 *     what is overwritten again and again is packed when it rests, not each time
 *
 * The price is that data is written twice, raw and packed, and needs its raw space for a while.
 *
 * Offers are ranges of leaves in a queue in memory, and those that follow one another become one.  What is in the queue when the
 * volume goes down is offered again as far as the journal has it; else it stays as it is, as does what a full queue cannot take.
 * Nothing is wrong then: it is larger than it could be until fs_compress() is asked for, which offers a whole file, whatever it
 * is; such offers have a queue of their own, and go first.
 */
#include <errno.h>
#include <jansson.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/store/super_format.h"

#define REST_NS      (5 * NSEC_PER_SEC)
#define OFFERS_MAX   (UINT32_C(1) << 16)
#define OFFER_LEAVES 4096u /* one that grows by those that follow takes no more */
#define STEP_LEAVES  256u
#define HOME_BLOCKS  4096u

struct offer {
	uint64_t ino, leaf, n; /* n UINT64_MAX: to the end of the file */
	int64_t since_ns;      /* mono */
	bool asked;            /* by an admin: what is packed and should not be is unpacked */
};
struct queue {
	struct offer *ring; /* owned; first-in first-out, capacity a power of two */
	size_t cap, head, count;
};
enum { OFFERED, ASKED, QUEUES };
struct squeeze {
	struct mutex lock;
	/* guarded by lock */
	struct queue queue[QUEUES];
	bool asked_busy; /* one of these is being done */
	/* not guarded */
	_Atomic bool wanted;         /* some policy is there; as of `generation` */
	_Atomic uint64_t generation; /* of policies */
	_Atomic uint64_t n_waiting, n_asked, n_lost, n_frames, n_raw, bytes_before, bytes_after;
	struct mutex step_lock; /* guards the next two; taken before any other */
	struct packer *packer;  /* made when first needed */
	uint64_t found[STEP_LEAVES];
};

int squeeze_open(struct fs *fs)
{
	struct squeeze *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	mutex_init(&q->lock);
	mutex_init(&q->step_lock);
	atomic_store(&q->generation, UINT64_MAX);
	fs->squeeze = q;
	atomic_store(&fs->packing_used, (fs->super.incompat & SUPER_COMPRESSED) != 0);
	return packed_open(fs);
}

void squeeze_close(struct fs *fs) NO_THREAD_SAFETY
{
	struct squeeze *q = fs->squeeze;

	packed_close(fs);
	if (!q)
		return;
	mutex_destroy(&q->step_lock);
	mutex_destroy(&q->lock);
	packer_free(q->packer);
	for (unsigned i = 0; i < QUEUES; i++)
		free(q->queue[i].ring);
	free(q);
	fs->squeeze = NULL;
}

/* ---- the queues ---- */

static struct offer *at(const struct queue *q, size_t i)
{
	return &q->ring[(q->head + i) & (q->cap - 1)];
}

static bool make_room(struct queue *q)
{
	size_t cap = q->cap ? q->cap * 2 : 64;

	if (q->count < q->cap)
		return true;
	struct offer *ring = q->cap < OFFERS_MAX ? malloc(cap * sizeof(*ring)) : NULL;
	if (!ring)
		return false;
	for (size_t i = 0; i < q->count; i++)
		ring[i] = *at(q, i);
	free(q->ring);
	*q = (struct queue){.ring = ring, .cap = cap, .count = q->count};
	return true;
}

/* Into the newest offer, if that ends where these begin, or has them. */
static bool extends(const struct queue *q, const struct offer *o)
{
	struct offer *last = q->count ? at(q, q->count - 1) : NULL;

	if (!last || last->ino != o->ino || o->leaf < last->leaf || o->leaf > last->leaf + last->n ||
	    o->leaf + o->n - last->leaf > OFFER_LEAVES)
		return false;
	last->n = max_u64(last->n, o->leaf + o->n - last->leaf);
	return true;
}

static void count_waiting(struct squeeze *q) REQUIRES(q->lock)
{
	atomic_store(&q->n_asked, q->queue[ASKED].count + q->asked_busy);
	atomic_store(&q->n_waiting, q->queue[OFFERED].count + q->queue[ASKED].count);
}

/* False: the queue is full. */
static bool put(struct squeeze *q, const struct offer *o)
{
	struct queue *to = &q->queue[o->asked ? ASKED : OFFERED];

	mutex_lock(&q->lock);
	bool taken = !o->asked && extends(to, o);
	if (!taken && make_room(to)) {
		*at(to, to->count++) = *o;
		taken = true;
	}
	count_waiting(q);
	mutex_unlock(&q->lock);
	return taken;
}

/* The next one, if it has waited long enough; done() when it is. */
static bool take(struct squeeze *q, int64_t ripe_ns, struct offer *ret)
{
	mutex_lock(&q->lock);
	bool asked = q->queue[ASKED].count > 0;
	struct queue *from = &q->queue[asked ? ASKED : OFFERED];
	bool any = from->count > 0 && (asked || at(from, 0)->since_ns <= ripe_ns);
	if (any) {
		*ret = *at(from, 0);
		from->head = (from->head + 1) & (from->cap - 1);
		from->count--;
		q->asked_busy = ret->asked;
	}
	mutex_unlock(&q->lock);
	return any;
}

/* What is left of it is the next one again. */
static void done(struct squeeze *q, const struct offer *o)
{
	struct queue *to = &q->queue[o->asked ? ASKED : OFFERED];

	mutex_lock(&q->lock);
	q->asked_busy = false;
	if (o->n > 0 && make_room(to)) {
		to->head = (to->head + to->cap - 1) & (to->cap - 1);
		to->count++;
		*at(to, 0) = *o;
	} else if (o->n > 0) {
		atomic_fetch_add(&q->n_lost, 1);
	}
	count_waiting(q);
	mutex_unlock(&q->lock);
}

static bool is_wanted(struct fs *fs)
{
	struct squeeze *q = fs->squeeze;
	uint64_t now = policies_generation(fs);

	if (atomic_load_explicit(&q->generation, memory_order_acquire) != now) {
		atomic_store(&q->wanted, policies_have(fs, "compression"));
		atomic_store_explicit(&q->generation, now, memory_order_release);
	}
	return atomic_load_explicit(&q->wanted, memory_order_relaxed);
}

void squeeze_offer(struct fs *fs, uint64_t ino, uint64_t leaf, uint64_t n)
{
	if (!is_wanted(fs) || n == 0)
		return;
	if (!put(fs->squeeze, &(struct offer){.ino = ino, .leaf = leaf, .n = n, .since_ns = clock_mono_ns(fs->clock)}))
		atomic_fetch_add(&fs->squeeze->n_lost, 1);
}

int fs_compress(struct fs *fs, uint64_t ino)
{
	struct inode in;
	int r = snap_is_ino(ino) ? -EROFS : icache_copy(fs->icache, ino, &in);

	if (r < 0)
		return r;
	if (!S_ISREG(in.mode))
		return -EINVAL;
	if (fs->config.read_only || atomic_load(&fs->failed))
		return -EROFS;
	if (!put(fs->squeeze, &(struct offer){.ino = ino, .n = UINT64_MAX, .asked = true}))
		return -EAGAIN;
	if (fs->services_started)
		service_wake(&fs->squeezer);
	return 0;
}

/* ---- packing ---- */

static int pack_some(struct fs *fs, const struct squeeze_policy *policy, uint64_t ino, const uint64_t *leaf, uint32_t n)
    REQUIRES(fs->squeeze->step_lock)
{
	struct squeeze *q = fs->squeeze;
	struct squeezed sum = {0};
	int r = q->packer ? 0 : packer_new(&q->packer);

	if (r == 0)
		r = pack_leaves(fs, q->packer, policy, ino, leaf, n, &sum);
	atomic_fetch_add(&q->n_frames, sum.n_frames);
	atomic_fetch_add(&q->n_raw, sum.n_raw);
	atomic_fetch_add(&q->bytes_before, sum.blocks_before * BLOCK_SIZE);
	atomic_fetch_add(&q->bytes_after, sum.blocks_after * BLOCK_SIZE);
	return r;
}

struct search {
	uint64_t *found;
	uint32_t n;
};

static int add_found(void *ctx, uint64_t leaf, const struct leaf *l)
{
	struct search *s = ctx;

	(void)l;
	s->found[s->n++] = leaf;
	return s->n == STEP_LEAVES;
}

/* The next leaves of an offer of a whole file, which moves behind them. */
static int walk(struct fs *fs, struct offer *o, struct search *s)
{
	struct inode *in;
	int r = icache_rdlock_get(fs->icache, o->ino, &in);

	if (r < 0)
		return r;
	r = extent_each(fs, in, o->leaf, add_found, s);
	icache_rdunlock(fs->icache, o->ino);
	if (r < 0)
		return r;
	o->n = s->n < STEP_LEAVES ? 0 : o->n;
	o->leaf = s->n ? s->found[s->n - 1] + 1 : o->leaf;
	return 0;
}

/* What an admin asks for is done with what there is by then: what waits in the journal, too. */
static int home_all(struct fs *fs)
{
	bool more = true;
	int r = journal_commit_all(fs->journal, NULL);

	while (r == 0 && more)
		r = fs_home_step(fs, HOME_BLOCKS, &more);
	return r;
}

static int next_asked(struct fs *fs, struct offer *o, struct search *s)
{
	int r = o->leaf == 0 ? home_all(fs) : 0;

	return r < 0 ? r : walk(fs, o, s);
}

static void next_offered(struct offer *o, struct search *s)
{
	for (; s->n < STEP_LEAVES && o->n > 0; o->leaf++, o->n--)
		s->found[s->n++] = o->leaf;
}

/* Some of it; what is left stays in *o. */
static int do_some(struct fs *fs, struct offer *o) REQUIRES(fs->squeeze->step_lock)
{
	struct search s = {.found = fs->squeeze->found};
	struct squeeze_policy policy;
	int r = squeeze_policy_get(fs, o->ino, &policy);

	if (r < 0 || (!policy.on && !o->asked)) {
		o->n = 0;
		return r;
	}
	if (o->asked)
		r = next_asked(fs, o, &s);
	else
		next_offered(o, &s);
	for (uint32_t i = 0; i < s.n && r == 0; i += PACK_LEAVES)
		r = pack_some(fs, &policy, o->ino, s.found + i, (uint32_t)min_u64(s.n - i, PACK_LEAVES));
	return r;
}

static int step(struct fs *fs, int64_t ripe_ns, bool *ret_more)
{
	struct squeeze *q = fs->squeeze;
	struct offer o;
	int r = 0;

	*ret_more = false;
	if (fs->config.read_only || atomic_load(&fs->failed))
		return -EROFS;
	if (atomic_load(&q->n_waiting) == 0)
		return 0;
	mutex_lock(&fs->squeeze->step_lock);
	bool any = take(q, ripe_ns, &o);
	if (any) {
		r = do_some(fs, &o);
		if (r == -ENOENT || r == -EBADMSG || r == -EUCLEAN) { /* it is gone, or what is wrong with it was said */
			o.n = 0;
			r = 0;
		}
		done(q, &o);
	}
	mutex_unlock(&fs->squeeze->step_lock);
	*ret_more = r == 0 && any;
	return r;
}

int fs_squeeze_step(struct fs *fs, bool *ret_more)
{
	return step(fs, INT64_MAX, ret_more);
}

int squeeze_rested(struct fs *fs, bool *ret_more)
{
	return step(fs, clock_mono_ns(fs->clock) - REST_NS, ret_more);
}

void squeeze_finish(struct fs *fs, int64_t until_ns)
{
	bool more = true;

	while (more && clock_mono_ns(fs->clock) < until_ns)
		if (step(fs, INT64_MAX, &more) < 0)
			return;
}

/* ---- telling ---- */

void *squeeze_status_json(struct fs *fs)
{
	const struct squeeze *q = fs->squeeze;

	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "frames", (json_int_t)atomic_load(&q->n_frames), "bytes_before",
			 (json_int_t)atomic_load(&q->bytes_before), "bytes_after", (json_int_t)atomic_load(&q->bytes_after),
			 "not_paying", (json_int_t)atomic_load(&q->n_raw), "waiting", (json_int_t)atomic_load(&q->n_waiting),
			 "asked", (json_int_t)atomic_load(&q->n_asked), "lost", (json_int_t)atomic_load(&q->n_lost));
}

struct usage {
	uint64_t data, packed, frames;
};

static int count_leaf(void *ctx, uint64_t leaf, const struct leaf *l)
{
	struct usage *u = ctx;

	(void)leaf;
	u->data += (unsigned)__builtin_popcount(leaf_data(l));
	u->packed += (unsigned)__builtin_popcount(leaf_packed(l));
	u->frames += l->pack.n_blocks;
	return 0;
}

int fs_compression_text(struct fs *fs, uint64_t ino, struct buf *out)
{
	struct usage u = {0};
	struct inode *in;

	if (snap_is_ino(ino))
		return -ENODATA;
	int r = icache_rdlock_get(fs->icache, ino, &in);
	if (r < 0)
		return r;
	r = S_ISREG(in->mode) ? extent_each(fs, in, 0, count_leaf, &u) : -ENODATA;
	icache_rdunlock(fs->icache, ino);
	if (r == 0)
		buf_printf(out, "data=%llu packed=%llu frames=%llu", (unsigned long long)(u.data * BLOCK_SIZE),
			   (unsigned long long)(u.packed * BLOCK_SIZE), (unsigned long long)(u.frames * BLOCK_SIZE));
	return r;
}
