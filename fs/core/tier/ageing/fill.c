/*
 * fill.c: files into packs.
 *
 * A batch of items is looked at again (much may have happened since it was queued), put in the order of store and inode, so that
 * files made together lie together, and read into packs.  A file is watched from before its first leaf is read; a stripe is held,
 * shared, for at most 1 MiB of reading, and nothing while packing or waiting for an uploader.
 *
 * Which leaves go: those with data that no object has.  A leaf goes whole, all of its data slots in one frame, because it can
 * name one frame only; where some of them are cold by now they are fetched first.  Holes and space that is only promised are not
 * packed.  Data that still waits in the journal is brought home before: a slot cannot be dropped while it does.
 *
 * A pack covers leaves [from, to) of a file; the packs of one file follow on each other without gaps, so that each drops its part
 * and nothing is left over: leaves that were tiered long before lie in the part of some pack, or of one that only drops.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/core/tier/ageing/impl.h"

#define HOME_STEP_BLOCKS 4096u

/* ---- what is to be done with a file ---- */

enum verdict { GO_OUT, ONLY_DROP, SKIP };

bool item_is_cold(struct ageing *a, const struct tier_policy *p, int64_t touched_ns, uint64_t size)
{
	int64_t age_ns;

	if (p->off || p->pinned || size < p->min_bytes || size == 0)
		return false;
	return !__builtin_sub_overflow(steady_now(a), touched_ns, &age_ns) && age_ns >= p->after_ns;
}

static bool still_wanted(struct ageing *a, const struct item *it, const struct inode *in, const struct tier_policy *p)
{
	int64_t touched_ns = in->atime_ns > in->mtime_ns ? in->atime_ns : in->mtime_ns;

	if (p->pinned)
		return false;
	if (it->reason == ITEM_AGED)
		return item_is_cold(a, p, touched_ns, in->size);
	return it->reason != ITEM_HIGH_WATER || (a->high_water && !p->off && in->size >= p->min_bytes);
}

/* An explicit wish cannot be fulfilled. */
static int refuse(struct ageing *a, const struct item *it, int error, const char *why)
{
	char path[256], line[OBJECT_MESSAGE_MAX];

	fs_path(a->fs, it->ino, path, sizeof(path));
	snprintf(line, sizeof(line), "%.150s: %s", path, why);
	ageing_note_error(a, error, line);
	return error;
}

/* The store that a file goes to; -EAGAIN: not now, it->not_before_ns says when. */
static int choose_store(struct ageing *a, struct item *it, const struct tier_policy *p)
{
	const struct tier_store *s;
	int r = ageing_store_get(a, p->store, &s, &it->not_before_ns);

	if (r < 0)
		return r;
	it->store = s->d.id;
	stores_put(a->fs, s);
	return 0;
}

/* SKIP also for what is gone; negative: it cannot go out, -EAGAIN: not now. */
static int judge(struct ageing *a, struct item *it, bool leads, enum verdict *ret)
{
	struct tier_policy policy;
	struct tier_file f;
	struct inode in;
	int r = icache_copy(a->fs->icache, it->ino, &in);

	*ret = SKIP;
	if (r < 0 || !S_ISREG(in.mode) || in.nlink == 0)
		return r == -ENOENT ? 0 : r;
	r = tier_policy_get(a->fs, it->ino, &policy);
	if (r < 0 || !still_wanted(a, it, &in, &policy))
		return r;
	r = tier_file_state(a->fs, it->ino, &f);
	if (r < 0 || f.cold_blocks == f.data_blocks)
		return r;
	if (f.tiered_blocks == f.data_blocks || !leads) {
		*ret = f.tiered_blocks > f.cold_blocks ? ONLY_DROP : SKIP;
		return 0;
	}
	if (policy.off)
		return refuse(a, it, -ENODATA, "no policy says to which store");
	*ret = GO_OUT;
	return choose_store(a, it, &policy);
}

/* ---- packs being filled ---- */

static void hand_over(struct ageing *a, struct pack *p) REQUIRES(a->lock)
{
	p->next = NULL;
	p->phase = PACK_WAITING;
	*a->last_ready = p;
	a->last_ready = &p->next;
	cond_signal(&a->ready);
}

static void ship(struct ageing *a, struct pack *p)
{
	if (!p)
		return;
	if (!a->n_uploaders) {
		pack_run(a, p);
		return;
	}
	mutex_lock(&a->lock);
	hand_over(a, p);
	mutex_unlock(&a->lock);
}

void fill_ship(struct ageing *a)
{
	ship(a, TAKE_PTR(a->open));
	ship(a, TAKE_PTR(a->drops));
}

/* One pack may always be filled; more of them as memory allows.  It is there when there are no uploaders. */
static int wait_for_room(struct ageing *a)
{
	mutex_lock(&a->lock);
	while (a->packs_room > 0 && a->packs_room + a->pack_bytes_max > a->memory_bytes && !a->stop)
		cond_wait(&a->room, &a->lock);
	int r = a->stop ? -ECANCELED : 0;
	mutex_unlock(&a->lock);
	return r;
}

static int open_for(struct ageing *a, uint32_t store)
{
	if (a->open && a->open->store->d.id != store)
		ship(a, TAKE_PTR(a->open));
	if (a->open)
		return 0;
	int r = wait_for_room(a);
	return r < 0 ? r : pack_open(a, store, &a->open);
}

static int add_to_open(struct ageing *a, struct item *it, uint64_t leaf, uint16_t mask, const uint8_t *blocks)
{
	struct pack_place at;
	struct pack_file *f;
	int r = pack_add(a->open->writer, it->ino, leaf, mask, blocks, &at);

	if (r == 0)
		r = pack_note_file(a, a->open, it, &f);
	if (r == 0)
		r = pack_note_leaf(a->open, &(struct packed_leaf){
						.ino = it->ino, .leaf = leaf, .offset = at.offset, .len = at.len, .mask = mask});
	return r;
}

int fill_add(struct ageing *a, uint32_t store, struct item *it, uint64_t leaf, uint16_t mask, const uint8_t *blocks)
{
	int r = open_for(a, store);

	if (r == 0)
		r = add_to_open(a, it, leaf, mask, blocks);
	if (r != -E2BIG)
		return r;
	ship(a, TAKE_PTR(a->open));
	r = open_for(a, store);
	return r < 0 ? r : add_to_open(a, it, leaf, mask, blocks);
}

/* ---- a file ---- */

/* The blocks of `mask`, moved together. */
static void pack_together(uint8_t *blocks, uint16_t mask)
{
	unsigned to = 0;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(mask >> i & 1))
			continue;
		if (to != i)
			memcpy(blocks + (size_t)to * BLOCK_SIZE, blocks + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
		to++;
	}
}

static bool is_stale(struct ageing *a, const struct item *it)
{
	mutex_lock(&a->lock);
	bool r = it->stale || a->stop;
	mutex_unlock(&a->lock);
	return r;
}

/* The open pack, when it has leaves of the file, covers it up to `to`. */
static bool cover(struct ageing *a, struct item *it, uint64_t to)
{
	struct pack *p = a->open;

	if (!p || p->n_files == 0 || p->file[p->n_files - 1].item != it)
		return false;
	p->file[p->n_files - 1].to = it->covered = to;
	return true;
}

static int add_chunk(struct ageing *a, struct item *it, const struct chunk *c)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < c->n; i++) {
		uint16_t mask = leaf_data(&c->l[i]);
		uint8_t *blocks = c->data + (size_t)i * LEAF_BYTES;

		if (!c->wanted[i]) {
			cover(a, it, c->leaf[i] + 1);
			continue;
		}
		pack_together(blocks, mask);
		r = fill_add(a, it->store, it, c->leaf[i], mask, blocks);
		if (r == 0)
			cover(a, it, c->leaf[i] + 1);
	}
	return r;
}

/* What no pack covers of it is only to be dropped; `all` of it: nothing was read. */
static int add_to_drops(struct ageing *a, struct item *it)
{
	struct pack_file *f;
	int r = a->drops ? 0 : pack_open(a, 0, &a->drops);

	if (r == 0)
		r = pack_note_file(a, a->drops, it, &f);
	if (r < 0)
		return r;
	f->to = UINT64_MAX;
	if (a->drops->n_files >= BATCH_ITEMS)
		ship(a, TAKE_PTR(a->drops));
	return 0;
}

/* All of its leaves, in order; *from is behind the last that was dealt with. */
static int fill_leaves(struct ageing *a, struct item *it, uint64_t *from)
{
	struct chunk *c;
	int r = chunk_first(a->reader, it->ino, &c);

	while (r == 0) {
		bool more = c->n == FILL_LEAVES && !is_stale(a, it);
		uint64_t next = c->n ? c->leaf[c->n - 1] + 1 : *from;

		if (more)
			chunk_ask(a->reader, it->ino, next);
		r = add_chunk(a, it, c);
		if (r == 0)
			*from = next;
		if (!more)
			break;
		int e = chunk_next(a->reader, &c);
		r = r < 0 ? r : e;
	}
	return r;
}

static int fill_file(struct ageing *a, struct item *it)
{
	uint64_t from = 0;
	int r = tier_watch(a->fs, it->ino);

	if (r < 0)
		return r;
	it->watched = true;
	r = fill_leaves(a, it, &from);
	if (r == 0 && !cover(a, it, max_u64(from, it->covered)) && from > it->covered)
		r = add_to_drops(a, it);
	return r;
}

/* ---- a batch ---- */

static int by_store_and_inode(const void *a, const void *b)
{
	const struct item *x = *(struct item *const *)a, *y = *(struct item *const *)b;

	if (x->store != y->store)
		return x->store < y->store ? -1 : 1;
	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

/* It did not get as far as a pack, or not all of it did.  -EAGAIN and -ENODATA were told of before. */
static void note_failure(struct ageing *a, struct item *it, int r)
{
	mutex_lock(&a->lock);
	it->tries += r == -EIO;
	if (r == -ENOENT)
		it->skip = true;
	else if (ageing_error_passes(r) && it->tries < TRIES_MAX)
		it->retry = true;
	else
		it->error = r;
	mutex_unlock(&a->lock);
	if (r != -ENOENT && r != -EAGAIN && r != -ENODATA)
		ageing_note_error(a, r, NULL);
}

/* Data that is in the journal by now gets its home: what is durable, which is all of it after the commit. */
static void bring_home(struct ageing *a)
{
	uint64_t n = homer_backlog(a->fs);
	bool more = n > 0;
	int r = more ? journal_commit_all(a->fs->journal, NULL) : 0;

	for (uint64_t done = 0; r == 0 && more && done <= n; done += HOME_STEP_BLOCKS)
		r = fs_home_step(a->fs, HOME_STEP_BLOCKS, &more);
}

/* Those that go out, at the front of the batch; the others are dealt with. */
static size_t sort_out(struct ageing *a, struct item **item, size_t n, bool leads)
{
	size_t n_out = 0;

	for (size_t i = 0; i < n; i++) {
		struct item *it = item[i];
		enum verdict v;
		int r = judge(a, it, leads, &v);

		if (r == 0 && v == GO_OUT) {
			item[n_out++] = it;
			continue;
		}
		if (r == 0 && v == ONLY_DROP)
			r = add_to_drops(a, it);
		else if (r == 0)
			it->skip = true;
		if (r < 0)
			note_failure(a, it, r);
		ageing_release(a, it);
	}
	return n_out;
}

/* Once there is something to pack. */
static int prepare(struct ageing *a)
{
	int r = a->reader ? 0 : reader_new(a->fs, a->packer_runs, &a->reader);

	if (r == 0)
		ageing_start_uploaders(a);
	return r;
}

void fill_batch(struct ageing *a, struct item **item, size_t n)
{
	char why[OBJECT_MESSAGE_MAX];
	bool leads, works = ageing_may_work(a, &leads, why);

	bring_home(a);
	size_t n_out = sort_out(a, item, n, works && leads);
	int ready = n_out ? prepare(a) : 0;

	qsort(item, n_out, sizeof(*item), by_store_and_inode);
	for (size_t i = 0; i < n_out; i++) {
		int r = ageing_stopping(a) ? -ECANCELED : ready;

		if (r == 0)
			r = fill_file(a, item[i]);

		if (r < 0)
			note_failure(a, item[i], r);
		ageing_release(a, item[i]);
	}
}
