/*
 * dead.c: deadlists: what goes on one, and what becomes of it when its snapshot goes.
 *
 * A list is taken apart in steps, under the gate, shared, as the homer works: each row that goes and the block that is freed by
 * it are seen by the same checkpoint, or neither.  Nothing of it is logged: after a crash the steps begin where the index says. A
 * freed block goes through limbo like any other (rule R3).
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/snap/marks.h"
#include "fs/core/snap/snap_impl.h"

#define STEP_ROWS 4096u

static void count_buried(struct snaps *s, uint32_t line, uint32_t birth)
{
	mutex_lock(&s->lock);
	struct held *newest = snaps_find_top(s, line - 1);
	if (newest && newest->counted)
		newest->only_blocks += birth >= atomic_load(&s->below);
	mutex_unlock(&s->lock);
}

void snap_bury(struct fs *fs, struct kv_batch *b, pointer_t home, uint32_t birth)
{
	uint32_t line = atomic_load(&fs->snaps->line);
	struct index_key k = key_pair(TABLE_DEAD, line - 1, home);
	const le32 value = le32_make(birth);

	kv_batch_put(b, key_slice(&k), (struct slice){&value, sizeof(value)});
	count_buried(fs->snaps, line, birth);
}

/* ---- taking apart ---- */

struct dead {
	pointer_t home;
	uint32_t birth;
};

static int decode_entry(struct slice key, struct slice value, struct dead *ret)
{
	le32 birth;

	if (key.len != K_ENTRY_BYTES || value.len != sizeof(birth))
		return -EUCLEAN;
	memcpy(&birth, value.p, sizeof(birth));
	*ret = (struct dead){.home = be64_get((const uint8_t *)key.p + 9), .birth = le32_get(birth)};
	return 0;
}

/* Up to `max` entries of a list, the first ones. */
static int read_list(struct fs *fs, uint32_t top, struct dead *ret, uint32_t max, uint32_t *ret_n)
{
	struct index_key k = key_pair(TABLE_DEAD, top, 0);
	const struct kv_ops *ops = fs->kv->ops;
	struct kv_iter *it;
	int r = ops->iter_open(fs->kv, &it);

	*ret_n = 0;
	if (r < 0)
		return r;
	for (ops->iter_seek(it, key_slice(&k)); r == 0 && *ret_n < max && ops->iter_valid(it); ops->iter_next(it)) {
		if (!key_within(ops->iter_key(it), TABLE_DEAD, top))
			break;
		r = decode_entry(ops->iter_key(it), ops->iter_value(it), &ret[*ret_n]);
		*ret_n += r == 0;
	}
	if (r == 0)
		r = ops->iter_error(it);
	ops->iter_close(it);
	return r;
}

static void free_dead(struct fs *fs, const struct dead *d)
{
	if (quarantine_has(fs, d->home)) /* it failed: in use by nobody, and not free */
		return;
	int r = arena_free(fs->arena, (struct run){.start = d->home, .n_blocks = 1});

	if (r < 0)
		log_error("a deadlist has block %llu of device %u, which is not in use: run clawfs fsck",
			  (unsigned long long)pointer_block(d->home), pointer_device(d->home));
	else
		atomic_fetch_add_explicit(&fs->freed_since_ckpt, 1, memory_order_relaxed);
}

/* What only the snapshot had is freed, the rest is in the one before, too. */
static int take_apart(struct fs *fs, const struct held *h, const struct dead *list, uint32_t n)
{
	const struct held *before = snaps_held_before(fs->snaps, h->top);
	uint32_t below = before ? before->top + 1 : 0;
	struct kv_batch b = {0};

	for (uint32_t i = 0; i < n; i++) {
		struct index_key from = key_pair(TABLE_DEAD, h->top, list[i].home);
		const le32 birth = le32_make(list[i].birth);

		kv_batch_delete(&b, key_slice(&from));
		if (list[i].birth >= below)
			continue;
		struct index_key to = key_pair(TABLE_DEAD, before->top, list[i].home);
		kv_batch_put(&b, key_slice(&to), (struct slice){&birth, sizeof(birth)});
	}
	int r = kv_write(fs->kv, &b);
	kv_batch_free(&b);
	for (uint32_t i = 0; r == 0 && i < n; i++)
		if (list[i].birth >= below)
			free_dead(fs, &list[i]);
	return r;
}

static struct held *first_dropping(struct snaps *s)
{
	for (size_t i = 0; i < s->n_held; i++)
		if (s->held[i]->dropping)
			return s->held[i];
	return NULL;
}

/* The gate is held, shared: only steps change the table now, and there is one at a time. */
static int step_gated(struct fs *fs, struct dead *list, bool *ret_more)
{
	struct held *h = first_dropping(fs->snaps);
	uint32_t n;

	int r = h ? read_list(fs, h->top, list, STEP_ROWS, &n) : marks_left_over(fs) ? marks_step(fs) : 0;
	if (r == 0 && h && n > 0)
		r = take_apart(fs, h, list, n);
	if (r == 0 && h && n < STEP_ROWS)
		r = snaps_forget_held(fs, h);
	*ret_more = r == 0 && (first_dropping(fs->snaps) || marks_left_over(fs));
	return r;
}

static int step_locked(struct fs *fs, bool *ret_more)
{
	CLEANUP_FREE struct dead *list = malloc(STEP_ROWS * sizeof(*list));
	int r = list ? op_wait_memory(fs) : -ENOMEM;

	if (r < 0)
		return r;
	rwlock_rdlock(&fs->gate);
	r = step_gated(fs, list, ret_more);
	rwlock_rdunlock(&fs->gate);
	return r;
}

int fs_snap_step(struct fs *fs, bool *ret_more)
{
	*ret_more = false;
	if (fs->config.read_only || atomic_load(&fs->failed))
		return -EROFS;
	mutex_lock(&fs->snaps->making);
	int r = step_locked(fs, ret_more);
	mutex_unlock(&fs->snaps->making);
	return r;
}

/* ---- counting ---- */

/* Blocks on the list of `top` that were born after the snapshot before: what it has alone. */
static int count_list(struct fs *fs, struct kv_iter *it, uint32_t top, uint32_t below, uint64_t *ret)
{
	struct index_key k = key_pair(TABLE_DEAD, top, 0);
	const struct kv_ops *ops = fs->kv->ops;
	struct dead d;
	int r = 0;

	*ret = 0;
	for (ops->iter_seek(it, key_slice(&k)); r == 0 && ops->iter_valid(it); ops->iter_next(it)) {
		if (!key_within(ops->iter_key(it), TABLE_DEAD, top))
			break;
		r = decode_entry(ops->iter_key(it), ops->iter_value(it), &d);
		*ret += r == 0 && d.birth >= below;
	}
	return r < 0 ? r : ops->iter_error(it);
}

/*
 * The list as it is at the gate is counted while operations go on; what is buried from then on is added by who buries it.  False:
 * there is nothing to count.
 */
static bool begin_count(struct fs *fs, size_t i, struct kv_iter **ret_it, uint32_t *ret_top, uint32_t *ret_below, int *ret)
{
	struct snaps *s = fs->snaps;
	struct held *h = i < s->n_held ? s->held[i] : NULL;

	if (!h || h->dropping || h->counted)
		return false;
	const struct held *before = snaps_held_before(s, h->top);
	*ret_top = h->top;
	*ret_below = before ? before->top + 1 : 0;
	*ret = fs->kv->ops->iter_open(fs->kv, ret_it);
	if (*ret < 0)
		return false;
	mutex_lock(&s->lock);
	h->only_blocks = 0;
	h->counted = true;
	mutex_unlock(&s->lock);
	return true;
}

static void end_count(struct fs *fs, uint32_t top, uint64_t n, int r)
{
	mutex_lock(&fs->snaps->lock);
	struct held *h = snaps_find_top(fs->snaps, top);
	if (h && r < 0)
		h->counted = false;
	else if (h && h->counted)
		h->only_blocks += n;
	mutex_unlock(&fs->snaps->lock);
}

/* Nothing is taken apart meanwhile, and no snapshot is made or deleted. */
static int count_all(struct fs *fs) REQUIRES(fs->snaps->making)
{
	size_t n_held = 1;
	int r = 0;

	for (size_t i = 0; r == 0 && i < n_held; i++) {
		uint32_t top, below;
		struct kv_iter *it;
		uint64_t n;

		rwlock_wrlock(&fs->gate);
		n_held = fs->snaps->n_held;
		bool any = begin_count(fs, i, &it, &top, &below, &r);
		rwlock_wrunlock(&fs->gate);
		if (!any)
			continue;
		r = count_list(fs, it, top, below, &n);
		fs->kv->ops->iter_close(it);
		end_count(fs, top, n, r);
	}
	return r;
}

int fs_snap_each(struct fs *fs, bool count, int (*fn)(void *ctx, const struct fs_snap *s), void *ctx)
{
	struct snaps *s = fs->snaps;
	size_t n = 0;
	int r = 0;

	mutex_lock(&fs->snaps->making);
	if (count)
		r = count_all(fs);
	mutex_unlock(&fs->snaps->making);
	if (r < 0)
		return r;
	mutex_lock(&s->lock);
	CLEANUP_FREE struct fs_snap *list = calloc(s->n + 1, sizeof(*list));
	for (; list && n < s->n; n++) {
		const struct held *h = snaps_find_held(s, s->snap[n].gen);

		list[n] = (struct fs_snap){.gen = s->snap[n].gen,
					   .seq = s->snap[n].seq,
					   .time_ns = s->snap[n].time_ns,
					   .held = h != NULL,
					   .only_bytes = h && h->counted ? h->only_blocks * BLOCK_SIZE : 0,
					   .root = h ? snap_ino(h->top, FS_ROOT_INO) : 0};
		memcpy(list[n].name, s->snap[n].name, sizeof(list[n].name));
	}
	mutex_unlock(&s->lock);
	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < n && r == 0; i++)
		r = fn(ctx, &list[i]);
	return r < 0 ? r : 0;
}

int fs_snap_root(struct fs *fs, const char *name, uint64_t *ret_ino)
{
	struct snaps *s = fs->snaps;
	int r = -ENOENT;

	mutex_lock(&s->lock);
	const struct snap *snap = snaps_find_name(s, slice_of(name));
	const struct held *h = snap ? snaps_find_held(s, snap->gen) : NULL;
	if (h) {
		*ret_ino = snap_ino(h->top, FS_ROOT_INO);
		r = 0;
	}
	mutex_unlock(&s->lock);
	return r;
}

bool fs_is_snap(uint64_t ino)
{
	return snap_is_ino(ino);
}
