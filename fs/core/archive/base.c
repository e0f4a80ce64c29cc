/*
 * base.c: a base: every row of one moment, with its data, in parts of some MiB.
 *
 *     begin   a view of the volume (fs/core/replica/view.c): rows of one batch, at no cost to who writes.  The segment that is
 * being filled will end with that batch, so that the next one's name is known step    rows into a part, data of leaves as it is
 * now; the part is stored.  What changed since the view is superseded, as in a resync, and comes with the batches up to the fence
 *     settle  once batches up to the fence are stored too, the base is done: the manifest says so, and restores use it
 *
 * Data of tiered leaves is copied like any other, fetched from its store where it is not here, and not kept: a base needs nothing
 * but the archive, so objects of tiers may come and go, and the archive's store may be another one.  That costs a read of all
 * cold data a base; docs/OPERATIONS.md says so.
 *
 * The row with the volume's key for objects is left out: the key opens the archive, and has no business in it.
 */
#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "base/log.h"
#include "fs/core/archive/impl.h"
#include "fs/core/replica/rows.h"

#define RECALL_TRIES 3u
#define SINCE_MIN    (64 * MIB) /* segments below this alone ask for no base */
#define PATIENCE     3u         /* bases that failed one after the other */
#define RETRY_NS     (60 * NSEC_PER_SEC)
#define KEY_POLICY   "tier.key"

struct archive_base *base_of(struct archiver *a, uint64_t epoch, uint64_t seq)
{
	for (size_t i = a->m.n_bases; i-- > 0;)
		if (a->m.base[i].epoch == epoch && a->m.base[i].seq == seq && a->m.base[i].state != BASE_GOING)
			return &a->m.base[i];
	return NULL;
}

const struct archive_base *base_newest(const struct archiver *a)
{
	for (size_t i = a->m.n_bases; i-- > 0;)
		if (a->m.base[i].state == BASE_DONE)
			return &a->m.base[i];
	return NULL;
}

void base_drop(struct archiver *a)
{
	struct base_job *j = a->job;

	if (!j)
		return;
	if (j->view)
		replica_view_close(j->view);
	buf_free(&j->body);
	buf_free(&j->sealed);
	free(j->blocks);
	free(j);
	a->job = NULL;
	a->cut = 0;
}

bool base_due(struct archiver *a)
{
	const struct archive_stream *s = archiver_stream(a);
	const struct archive_base *b = base_newest(a);

	if (a->job || !s || clock_mono_ns(a->fs->clock) < a->base_retry_ns)
		return false;
	if (!b || b->epoch != a->epoch || b->seq + 1 < s->first.seq)
		return true;
	return clock_real_ns(a->fs->clock) - b->view_ns >= a->policy.base_ns || a->since_base > max_u64(b->bytes, SINCE_MIN);
}

/* ---- begin ---- */

static int new_job(struct archiver *a, struct replica_view_info *ret)
{
	struct base_job *j = calloc(1, sizeof(*j));

	if (!j)
		return -ENOMEM;
	j->blocks = malloc(LEAF_SLOTS * BLOCK_SIZE);
	int r = j->blocks ? replica_view_open(fs_replica(a->fs), &j->view, ret) : -ENOMEM;
	a->job = j;
	if (r < 0)
		base_drop(a);
	return r;
}

int base_begin(struct archiver *a, struct replica_view_info *ret)
{
	int r = new_job(a, ret);

	if (r < 0)
		return r;
	struct archive_base *b = manifest_add_base(&a->m);
	if (!b) {
		base_drop(a);
		return -ENOMEM;
	}
	a->job->epoch = a->epoch;
	a->job->seq = ret->seq;
	*b = (struct archive_base){.state = BASE_BEGUN,
				   .epoch = a->epoch,
				   .seq = ret->seq,
				   .hash = ret->hash,
				   .history = ret->epoch,
				   .next_ino = ret->next_ino,
				   .n_inodes = ret->n_inodes,
				   .snapshot_generation = ret->snapshot_generation,
				   .view_ns = clock_real_ns(a->fs->clock)};
	a->dirty = true;
	a->job->since = a->since_base;
	return 0;
}

/* ---- parts ---- */

static bool is_key_row(const struct row *r)
{
	struct slice name;

	if (row_table(r->key) != TABLE_POLICY)
		return false;
	name = row_name(r->key);
	return name.len == strlen(KEY_POLICY) && memcmp(name.p, KEY_POLICY, name.len) == 0;
}

/* Slots that were not given because they are cold, not because they changed. */
static int is_cold(struct fs *fs, const struct leaf_data *d, bool *ret)
{
	struct leaf l;

	icache_rdlock(fs->icache, d->ino);
	int r = extent_get(fs, d->ino, d->leaf, &l);
	icache_rdunlock(fs->icache, d->ino);
	*ret = false;
	for (unsigned i = 0; i < LEAF_SLOTS && r == 0; i++)
		*ret |= (d->superseded >> i & 1) && slot_cold(&l.slot[i]) && l.slot[i].crc == d->crc[i];
	return r == -EBADMSG ? 0 : r;
}

/*
 * The view's data of a leaf, fetched from its store if it must be.  A store that is away is waited for; what it still does not
 * give after several bases is lost on the volume itself, and must not cost everything else: the leaf is archived without it, and
 * counted.
 */
static int read_data(struct archiver *a, struct leaf_data *d, uint8_t *blocks)
{
	struct replica_volume *v = fs_replica(a->fs);
	uint64_t fence = 0;
	bool cold = true;
	int r = 0;

	for (unsigned n = 0; r == 0 && cold; n++) {
		d->superseded = 0;
		r = v->ops->read_leaf(v, d, blocks, &fence);
		if (r == 0)
			r = is_cold(a->fs, d, &cold);
		if (r < 0 || !cold)
			break;
		r = n < RECALL_TRIES ? recall_leaves(a->fs, d->ino, d->leaf, 1, OBJECT_BACKGROUND) : -EIO;
		if (r < 0 && a->base_failures >= PATIENCE) {
			a->job->lost++;
			return 0;
		}
	}
	if (r == 0 && d->superseded) {
		a->job->superseded++;
		a->job->fence = max_u64(a->job->fence, fence);
	}
	return r;
}

/* read_leaf() leaves room for what is superseded; a frame does not. */
static void close_up(const struct leaf_data *d, uint8_t *blocks)
{
	uint8_t *to = blocks;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(d->wanted >> i & 1))
			continue;
		if (!(d->superseded >> i & 1)) {
			if (to != blocks)
				memmove(to, blocks, BLOCK_SIZE);
			to += BLOCK_SIZE;
		}
		blocks += BLOCK_SIZE;
	}
}

static int put_leaf(struct archiver *a, const struct row *r)
{
	struct base_job *j = a->job;
	struct leaf_data d = {.ino = row_ino(r->key), .leaf = row_leaf(r->key)};
	struct leaf_row leaf;
	int e = leaf_row_decode(r->value, &leaf);

	if (e < 0) { /* damage is left out of no base in silence */
		log_error("archive: inode %llu: leaf %llu cannot be read", (unsigned long long)d.ino, (unsigned long long)d.leaf);
		return e;
	}
	d.wanted = leaf_row_data(&leaf);
	memcpy(d.crc, leaf.crc, sizeof(d.crc));
	e = d.wanted ? read_data(a, &d, j->blocks) : 0;
	if (e < 0)
		return e;
	close_up(&d, j->blocks);
	frames_put_row(&j->body, r, &d, j->blocks);
	return 0;
}

static int put_row(void *ctx, const struct row *r)
{
	struct archiver *a = ctx;
	struct base_job *j = a->job;

	if (j->body.len >= PART_BYTES) {
		memcpy(j->from, r->key.p, r->key.len);
		j->from_len = r->key.len;
		return 1;
	}
	if (is_key_row(r))
		return 0;
	int e = row_table(r->key) == TABLE_EXTENT ? put_leaf(a, r) : 0;
	if (e < 0)
		return e;
	if (row_table(r->key) != TABLE_EXTENT)
		frames_put_row(&j->body, r, NULL, NULL);
	j->n_items++;
	return j->body.failed ? -ENOMEM : 0;
}

static int fill_part(struct archiver *a)
{
	struct base_job *j = a->job;
	const struct slice from = {j->from_len ? j->from : NULL, j->from_len}, to = {0};

	j->from_len = 0;
	int r = replica_view_rows(j->view, from, to, put_row, a);
	if (r == 0)
		j->ended = j->from_len == 0;
	return r;
}

static int seal_part(struct archiver *a, const struct archive_base *b)
{
	struct base_job *j = a->job;
	struct archive_info info = {.id = {.kind = ARCHIVE_BASE, .epoch = j->epoch, .seq = j->seq, .part = j->part},
				    .n_items = j->n_items,
				    .first_ns = b->view_ns,
				    .last_ns = b->view_ns};

	memcpy(info.volume, a->fs->super.volume, sizeof(info.volume));
	j->sum = XXH64(j->body.p, j->body.len, j->sum);
	int r = archive_seal(&info, a->place.key, (struct slice){j->body.p, j->body.len}, &j->sealed);
	j->rows += j->n_items;
	j->n_items = 0;
	buf_reset(&j->body);
	return r;
}

static void end(struct archiver *a, struct archive_base *b)
{
	struct base_job *j = a->job;

	replica_view_close(j->view);
	j->view = NULL;
	buf_free(&j->body);
	b->rows = j->rows;
	b->bytes = j->bytes;
	b->sum = j->sum;
	b->parts = j->part;
	b->lost = j->lost;
	b->fence = j->fence > b->seq ? j->fence : 0;
	b->ready_seq = max_u64(b->seq, j->fence);
}

static int step(struct archiver *a, struct archive_base *b)
{
	struct base_job *j = a->job;
	int r = 0;

	if (!j->sealed.len) {
		r = fill_part(a);
		if (r == 0)
			r = seal_part(a, b);
	}
	if (r < 0)
		return r;
	const struct archive_id id = {.kind = ARCHIVE_BASE, .epoch = j->epoch, .seq = j->seq, .part = j->part};
	r = archive_put(&a->place, &id, (struct slice){j->sealed.p, j->sealed.len}, false);
	if (r < 0)
		return r;
	j->bytes += j->sealed.len;
	j->part++;
	buf_free(&j->sealed);
	if (j->ended)
		end(a, b);
	return 0;
}

/* What a store or a passing shortage says is tried again; after anything else the base begins anew. */
static bool may_go_on(const struct archiver *a, int error)
{
	return a->job->sealed.len > 0 && (object_error_passes(error) || error == -ECANCELED || error == -EDQUOT);
}

int base_step(struct archiver *a)
{
	struct archive_base *b = base_of(a, a->job->epoch, a->job->seq);

	if (!a->job->view)
		return 0;
	int r = b ? step(a, b) : -EUCLEAN;
	if (r < 0 && !may_go_on(a, r)) {
		base_drop(a);
		a->base_failures++;
		a->base_retry_ns = clock_mono_ns(a->fs->clock) + RETRY_NS;
		if (b)
			b->state = BASE_GOING;
		a->dirty = true;
	}
	return r;
}

/* ---- done ---- */

int base_settle(struct archiver *a)
{
	struct base_job *j = a->job;
	struct archive_base *b = j ? base_of(a, j->epoch, j->seq) : NULL;

	if (!b || j->view || a->v.archived_seq < b->ready_seq)
		return 0;
	b->ready_ns = b->ready_seq == b->seq && a->v.archived_seq == b->seq ? b->view_ns : a->v.archived_ns;
	if (b->ready_ns < b->view_ns)
		b->ready_ns = b->view_ns;
	b->state = BASE_DONE;
	a->dirty = true;
	int r = archiver_save(a);
	if (r < 0) {
		if (a->job) /* else the manifest is to be read anew */
			b->state = BASE_BEGUN;
		return r;
	}
	log_info("archive: a base of batch %llu: %llu rows in %u objects", (unsigned long long)b->seq,
		 (unsigned long long)b->rows, b->parts);
	if (b->lost)
		log_error("archive: in the base are %llu leaves whose cold data no store gave: they cannot be restored",
			  (unsigned long long)b->lost);
	a->base_failures = 0;
	a->since_base -= min_u64(a->since_base, j->since);
	base_drop(a);
	return 0;
}
