/*
 * scan.c: looks for files that have grown cold, inode by inode, slowly.
 *
 * A pass walks table I from one end to the other, some inodes at a time, and rests between for as long as keeps it to a few
 * percent of a core.  The index may be a little behind what is in memory: then a file is found by the next pass, or found not to
 * be cold when its turn comes.  A pass that finds the queue full stops where it is and goes on when there is room.
 *
 * When more space is used than config.high_water says, a pass also gathers the files touched longest ago, of any with a policy,
 * in a heap, and at its end queues as many of them as bring the volume five percent below the mark.  If those it had room for are
 * not enough, the next pass follows.
 *
 * Without a policy "tier" anywhere there is no pass at all.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/tier/ageing/impl.h"

#define INTERVAL_NS  (300 * NSEC_PER_SEC)
#define AGAIN_NS     (10 * NSEC_PER_SEC) /* space is short still */
#define FULL_WAIT_NS (5 * NSEC_PER_SEC)  /* the queue is */
#define LOOK_NS      NSEC_PER_SEC
#define STEP_INODES  256u
#define REST         30 /* times as long as a step took: 3 % of a core */
#define REST_HURRIED 2  /* somebody waits, or space is short */
#define HEAP_MAX     4096u
#define BELOW_MARK   5u /* percent */
#define CACHE_SLOTS  64u

/* ---- how full ---- */

static uint64_t used_blocks(struct ageing *a, uint64_t *ret_total)
{
	struct fs_statfs s;

	fs_statfs(a->fs, &s);
	*ret_total = s.total_blocks;
	return s.total_blocks - min_u64(s.free_blocks, s.total_blocks);
}

static uint64_t percent_of(uint64_t total, uint32_t percent)
{
	return total / 100 * percent + total % 100 * percent / 100;
}

static uint32_t low_mark(const struct ageing *a)
{
	return a->fs->config.high_water > BELOW_MARK ? a->fs->config.high_water - BELOW_MARK : 0;
}

void scan_look_full(struct ageing *a)
{
	uint32_t mark = a->fs->config.high_water;
	int64_t now = clock_mono_ns(a->fs->clock);
	uint64_t total, used;

	if (!mark || (!a->eager && now < a->scan.look_ns))
		return;
	a->scan.look_ns = now + LOOK_NS;
	used = used_blocks(a, &total);
	bool was = a->high_water;
	a->high_water = used >= percent_of(total, was ? low_mark(a) : mark);
	if (a->high_water && !was)
		a->scan.due_ns = now;
	mutex_lock(&a->lock);
	a->status.high_water = a->high_water;
	mutex_unlock(&a->lock);
}

/* ---- the coldest ---- */

static void swap(struct cold_file *x, struct cold_file *y)
{
	struct cold_file t = *x;

	*x = *y;
	*y = t;
}

static void sift_down(struct scan_heap *h, size_t i)
{
	for (;;) {
		size_t top = i, left = 2 * i + 1, right = left + 1;

		if (left < h->n && h->file[left].touched_ns > h->file[top].touched_ns)
			top = left;
		if (right < h->n && h->file[right].touched_ns > h->file[top].touched_ns)
			top = right;
		if (top == i)
			return;
		swap(&h->file[i], &h->file[top]);
		i = top;
	}
}

static bool heap_wants(const struct scan_heap *h, int64_t touched_ns)
{
	return h->file && (h->n < HEAP_MAX || touched_ns < h->file[0].touched_ns);
}

/* In place of the one touched last, when there is no room. */
static void heap_add(struct scan_heap *h, const struct cold_file *f)
{
	if (h->n == HEAP_MAX) {
		h->file[0] = *f;
		sift_down(h, 0);
		return;
	}
	size_t i = h->n++;
	h->file[i] = *f;
	for (size_t up = (i - 1) / 2; i > 0 && h->file[up].touched_ns < h->file[i].touched_ns; i = up, up = (i - 1) / 2)
		swap(&h->file[up], &h->file[i]);
}

static int by_touched(const void *a, const void *b)
{
	const struct cold_file *x = a, *y = b;

	if (x->touched_ns != y->touched_ns)
		return x->touched_ns < y->touched_ns ? -1 : 1;
	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

/* At the end of a pass: enough of them, the coldest first. */
static void queue_coldest(struct ageing *a)
{
	struct scan_heap *h = &a->scan.heap;
	uint64_t total, used = used_blocks(a, &total), goal = percent_of(total, low_mark(a)), bytes = 0;
	uint64_t need = used > goal ? (used - goal) * BLOCK_SIZE : 0;

	qsort(h->file, h->n, sizeof(*h->file), by_touched);
	mutex_lock(&a->lock);
	for (size_t i = 0; i < h->n && bytes < need; i++) {
		if (items_push(a, h->file[i].ino, ITEM_HIGH_WATER, h->file[i].bytes) < 0)
			break;
		bytes += h->file[i].bytes;
		a->scan.n_found++;
	}
	mutex_unlock(&a->lock);
	h->n = 0;
}

/* ---- one inode ---- */

/* Policies of directories, for the inodes of one step. */
struct policy_cache {
	struct {
		uint64_t parent; /* 0: nothing */
		struct tier_policy policy;
	} slot[CACHE_SLOTS];
};

static bool has_own(struct fs *fs, uint64_t ino)
{
	char value[FS_POLICY_MAX + 1];

	return fs_get_policy(fs, ino, "tier", false, value) != -ENODATA ||
	       fs_get_policy(fs, ino, "tier.pin", false, value) != -ENODATA;
}

static int policy_of(struct fs *fs, struct policy_cache *c, const struct inode *in, struct tier_policy *ret)
{
	unsigned i = (unsigned)(in->parent % CACHE_SLOTS);
	int r = 0;

	if (in->parent == 0 || has_own(fs, in->ino))
		return tier_policy_get(fs, in->ino, ret);
	if (c->slot[i].parent != in->parent) {
		r = tier_policy_get(fs, in->parent, &c->slot[i].policy);
		c->slot[i].parent = r == 0 ? in->parent : 0;
	}
	*ret = c->slot[i].policy;
	return r;
}

/* What would go: of a leader's file what is not cold, of a follower's what is tiered. */
static uint64_t bytes_to_go(struct ageing *a, uint64_t ino)
{
	struct tier_file f;

	if (tier_file_state(a->fs, ino, &f) < 0)
		return 0;
	return ((fs_takes_changes(a->fs) ? f.data_blocks : f.tiered_blocks) - f.cold_blocks) * BLOCK_SIZE;
}

/* -EAGAIN: the queue is full. */
static int look_at(struct ageing *a, struct policy_cache *c, const struct inode *in)
{
	int64_t touched_ns = in->atime_ns > in->mtime_ns ? in->atime_ns : in->mtime_ns;
	struct tier_policy p;

	if (!S_ISREG(in->mode) || in->nlink == 0 || in->blocks == 0 || policy_of(a->fs, c, in, &p) < 0)
		return 0;
	bool cold = item_is_cold(a, &p, touched_ns, in->size);
	bool short_of_space =
	    a->high_water && !p.off && !p.pinned && in->size >= p.min_bytes && heap_wants(&a->scan.heap, touched_ns);
	uint64_t bytes = cold || short_of_space ? bytes_to_go(a, in->ino) : 0;
	if (!bytes)
		return 0;
	if (!cold) {
		heap_add(&a->scan.heap, &(struct cold_file){.touched_ns = touched_ns, .ino = in->ino, .bytes = bytes});
		return 0;
	}
	mutex_lock(&a->lock);
	int r = items_push(a, in->ino, ITEM_AGED, bytes);
	mutex_unlock(&a->lock);
	a->scan.n_found += r == 0;
	return r;
}

/* ---- a step ---- */

/* Inodes from `from` on, at most STEP_INODES; those that cannot be read are fsck's. */
static int read_inodes(struct fs *fs, uint64_t from, struct inode *ret, size_t *ret_n, uint64_t *ret_next)
{
	struct index_key k = key_ino(TABLE_INODE, from);
	const struct kv_ops *ops = fs->kv->ops;
	struct kv_iter *it;
	size_t n = 0, seen = 0;
	int r = ops->iter_open(fs->kv, &it);

	*ret_n = 0;
	*ret_next = 0;
	if (r < 0)
		return r;
	for (ops->iter_seek(it, key_slice(&k)); ops->iter_valid(it); ops->iter_next(it)) {
		struct slice key = ops->iter_key(it);

		if (key.len != 9 || *(const uint8_t *)key.p != TABLE_INODE)
			break;
		uint64_t ino = be64_get((const uint8_t *)key.p + 1);
		if (seen++ == STEP_INODES) {
			*ret_next = ino;
			break;
		}
		if (inode_decode(ops->iter_value(it), ino, &ret[n]) == 0)
			n++;
	}
	r = ops->iter_error(it);
	ops->iter_close(it);
	*ret_n = n;
	return r;
}

/* True when the pass is over. */
static bool do_step(struct ageing *a, struct inode *in, int *ret_error)
{
	struct policy_cache cache = {0};
	uint64_t next;
	size_t n, i;

	*ret_error = read_inodes(a->fs, a->scan.next_ino, in, &n, &next);
	for (i = 0; i < n && *ret_error == 0; i++)
		*ret_error = look_at(a, &cache, &in[i]);
	if (*ret_error < 0 && i > 0) { /* the one that did not fit comes again */
		a->scan.next_ino = in[i - 1].ino;
		i--;
	} else if (*ret_error == 0) {
		a->scan.next_ino = next;
	}
	mutex_lock(&a->lock);
	a->status.scanned += i;
	mutex_unlock(&a->lock);
	return *ret_error == 0 && next == 0;
}

/* ---- a pass ---- */

static bool begin(struct ageing *a)
{
	struct scan *s = &a->scan;

	mutex_lock(&a->lock);
	s->asked = s->asked || a->scan_asked;
	bool anew = a->scan_asked || !s->running;
	a->scan_asked = false;
	mutex_unlock(&a->lock);
	if (!policies_have(a->fs, "tier")) {
		s->running = s->asked = false;
		return false;
	}
	if (anew) {
		/* Somebody waits, perhaps for files so new that the index does not have them yet. */
		if (s->asked && fs_checkpoint(a->fs) < 0)
			log_debug("tier: no checkpoint before the scan: the newest files are found by the next one");
		steady_look(a);
		s->next_ino = 0;
		s->n_found = 0;
		s->heap.n = 0;
	}
	if (a->high_water && !s->heap.file)
		s->heap.file = malloc(HEAP_MAX * sizeof(*s->heap.file)); /* without it: only what its policy calls cold */
	s->running = true;
	return true;
}

static void end(struct ageing *a)
{
	struct scan *s = &a->scan;

	if (s->heap.n)
		queue_coldest(a);
	s->running = s->asked = false;
	s->due_ns = clock_mono_ns(a->fs->clock) + (a->high_water && s->n_found ? AGAIN_NS : INTERVAL_NS);
	mutex_lock(&a->lock);
	a->status.scans++;
	a->status.last_scan_ns = clock_real_ns(a->fs->clock);
	mutex_unlock(&a->lock);
}

static bool is_due(struct ageing *a)
{
	mutex_lock(&a->lock);
	bool asked = a->scan_asked;
	mutex_unlock(&a->lock);
	return asked || clock_mono_ns(a->fs->clock) >= a->scan.due_ns;
}

static void rest(struct ageing *a, int64_t began_ns, int error)
{
	int64_t now = clock_mono_ns(a->fs->clock), took = now - began_ns;

	if (error < 0)
		a->scan.due_ns = now + FULL_WAIT_NS;
	else
		a->scan.due_ns = now + took * (a->scan.asked || a->high_water ? REST_HURRIED : REST);
}

bool scan_round(struct ageing *a, bool all)
{
	CLEANUP_FREE struct inode *in = NULL;
	bool over = false;
	int r = 0;

	if (!all && !is_due(a))
		return false;
	if (!begin(a)) {
		a->scan.due_ns = clock_mono_ns(a->fs->clock) + INTERVAL_NS;
		return false;
	}
	in = malloc(STEP_INODES * sizeof(*in));
	do {
		int64_t began_ns = clock_mono_ns(a->fs->clock);

		if (in)
			over = do_step(a, in, &r);
		rest(a, began_ns, in ? r : -ENOMEM);
	} while (all && in && r == 0 && !over);
	if (over)
		end(a);
	if (r < 0 && r != -EAGAIN)
		ageing_note_error(a, r, NULL);
	return r == 0 && in;
}

void scan_close(struct ageing *a)
{
	free(a->scan.heap.file);
}
