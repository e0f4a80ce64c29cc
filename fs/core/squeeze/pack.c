/*
 * pack.c: leaves are packed, or unpacked: some of one file in one go.
 *
 *     look     under the stripe, shared: is it worth a try, and what is its data, each slot compared with its CRC
 *     make     frames, with no lock held; each is unpacked once to see that the data comes back
 *     settle   under the gate, shared: fresh blocks are written, and under the stripe the leaf is turned to them if none of its
 * slots moved since; what it had goes the way of all homes, into limbo
 *
 * As with the homer nothing is logged.  The next checkpoint makes the change durable, and flushes the arena before (R4); as
 * blocks and leaf change within one hold of the gate, none saves an allocation without its leaf.  A crash before it leaves the
 * leaf where it was, and its blocks, which are in limbo until then, untouched (R3).
 *
 * A packed slot has no block to be overwritten in.  So on a follower, where it was counted already what the batch under way
 * needs, that count is void, as when homes are evicted (tier/local.c).
 *
 * Left alone: what a snapshot or another file may have (it would take more, not less), what is staged, cold or damaged, and homes
 * that wait for their data behind a fence.  A leaf of which most is packed already waits until half of its data is not: so
 * overwriting one block after the other packs it each eighth time.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "fs/core/replica/impl.h"
#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/core/tier/tier.h"

/* A leaf on its way from where it is to where it should be. */
struct move {
	uint64_t leaf;
	struct leaf l;          /* as it was looked at */
	uint16_t slots;         /* that move; 0: none, it is left alone */
	uint32_t n_data, n_now; /* slots with data; blocks that they take now */
	struct leaf_pack frame; /* n_blocks 0: to homes */
	struct run runs[LEAF_SLOTS];
	uint32_t n_runs;
	uint8_t *data, *bytes; /* borrowed of the packer: a leaf's, a frame's */
};
struct packer {
	struct codec *codec;
	uint8_t *data, *frames, *back; /* owned, aligned: PACK_LEAVES leaves, as many frames, a leaf */
	pointer_t hint;                /* behind what was written last */
	struct move move[PACK_LEAVES];
	struct arena_write write[PACK_LEAVES * LEAF_SLOTS];
};
/* What is done with them. */
struct packing {
	struct fs *fs;
	struct packer *p;
	const struct squeeze_policy *policy;
	uint64_t ino;
	struct move *move;
	uint32_t n;
	bool held; /* the follower's lock is */
};

int packer_new(struct packer **ret)
{
	struct packer *p = calloc(1, sizeof(*p));
	int r = p ? codec_new(&p->codec) : -ENOMEM;

	if (r == 0 && (posix_memalign((void **)&p->data, DISK_BLOCK, PACK_LEAVES * LEAF_DATA_BYTES) ||
		       posix_memalign((void **)&p->frames, DISK_BLOCK, PACK_LEAVES * (size_t)PACK_BLOCKS_MAX * BLOCK_SIZE) ||
		       posix_memalign((void **)&p->back, DISK_BLOCK, LEAF_DATA_BYTES)))
		r = -ENOMEM;
	if (r < 0)
		p = packer_free(p);
	*ret = p;
	return r;
}

struct packer *packer_free(struct packer *p)
{
	if (!p)
		return NULL;
	codec_free(p->codec);
	free(p->data);
	free(p->frames);
	free(p->back);
	free(p);
	return NULL;
}

/* ---- look ---- */

static uint32_t count_slots(uint16_t mask)
{
	return (uint32_t)__builtin_popcount(mask);
}

static bool slot_moves(struct fs *fs, const struct slot *s)
{
	return !s->staged && !slot_cold(s) && !s->shared && s->birth != BIRTH_SUPERSEDED &&
	       !(s->home && snap_shares(fs, s->birth));
}

bool pack_wanted(struct fs *fs, const struct leaf *l, bool on)
{
	uint16_t data = leaf_data(l), packed = leaf_packed(l);

	if (packed && snap_shares(fs, l->pack.birth))
		return false;
	if (!on)
		return packed;
	if (count_slots(data) < 2 || count_slots(packed) * 2 > count_slots(data))
		return false;
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if ((data >> i & 1) && !slot_moves(fs, &l->slot[i]))
			return false;
	return true;
}

/* What a leader's record needs is unpacked whatever it costs. */
static bool is_wanted(const struct packing *k, const struct leaf *l, bool on)
{
	return k->held ? leaf_packed(l) != 0 : pack_wanted(k->fs, l, on);
}

static bool is_readable(const struct packing *k)
{
	return k->held || fs_readable(k->fs) == 0; /* else a home may wait for its data */
}

/* 0, m->slots 0: left alone. */
static int look_at(struct packing *k, struct move *m)
{
	int r = extent_get(k->fs, k->ino, m->leaf, &m->l);

	if (r < 0 || !is_wanted(k, &m->l, k->policy->on))
		return r == -EBADMSG ? 0 : r; /* said */
	m->slots = k->policy->on ? leaf_data(&m->l) : leaf_packed(&m->l);
	m->n_data = count_slots(leaf_data(&m->l));
	m->n_now = m->n_data - count_slots(leaf_packed(&m->l)) + m->l.pack.n_blocks;
	return 0;
}

/* Only those that move: others of the leaf may be anything. */
static int read_packed(struct packing *k, struct move *m)
{
	uint16_t good = 0;
	int r = packed_read(k->fs, &m->l, m->slots, 0, m->data, &good);

	return r < 0 ? r : good == m->slots ? 0 : -EBADMSG;
}

/* What is damaged stays where it is. */
static int read_one(struct packing *k, struct move *m)
{
	int r = k->policy->on ? extent_read(k->fs, k->ino, m->leaf * LEAF_SLOTS, LEAF_SLOTS, m->data) : read_packed(k, m);

	if (r == -EINPROGRESS)
		tier_take_miss();
	if (r == -EINPROGRESS || r == -EBADMSG || r == -EUCLEAN || r == -EIO) {
		m->slots = 0;
		r = 0;
	}
	return r;
}

/* Those that follow one another in one go; one by one only where that fails. */
static int read_all(struct packing *k)
{
	int r = 0;

	for (uint32_t i = 0, n; i < k->n && r == 0; i += n) {
		struct move *m = &k->move[i];

		n = 1;
		if (!m->slots)
			continue;
		while (k->policy->on && i + n < k->n && m[n].slots && m[n].leaf == m->leaf + n)
			n++;
		r = n > 1 ? extent_read(k->fs, k->ino, m->leaf * LEAF_SLOTS, n * LEAF_SLOTS, m->data) : -EBADMSG;
		if (r == -EINPROGRESS)
			tier_take_miss();
		if (r != -EINPROGRESS && r != -EBADMSG && r != -EUCLEAN)
			continue;
		r = 0;
		for (uint32_t j = 0; j < n && r == 0; j++)
			r = read_one(k, &m[j]);
	}
	return r;
}

static int look(struct packing *k)
{
	struct inode *in;
	int r = icache_rdlock_get(k->fs->icache, k->ino, &in);

	if (r < 0)
		return r;
	if (is_readable(k)) {
		for (uint32_t i = 0; i < k->n && r == 0; i++)
			r = look_at(k, &k->move[i]);
		if (r == 0)
			r = read_all(k);
	}
	icache_rdunlock(k->fs->icache, k->ino);
	return r;
}

/* ---- make ---- */

/* The most blocks of a frame that pays. */
static uint32_t bar(const struct move *m)
{
	uint32_t n = (uint32_t)min_u64(m->n_now, m->n_data);

	return n - (uint32_t)div_round_up(n, 8);
}

/* m->frame stays without blocks where it does not pay. */
static int make_frame(struct packing *k, struct move *m)
{
	const struct squeeze_policy *policy = k->policy;
	size_t len = (LEAF_SLOTS - (size_t)__builtin_clz((unsigned)m->slots << 16)) * BLOCK_SIZE;
	uint32_t bytes;
	int r = codec_pack(k->p->codec, policy->algorithm, policy->level, m->data, len, m->bytes, (size_t)bar(m) * BLOCK_SIZE,
			   &bytes);

	if (r < 0 || bytes == 0)
		return r;
	r = codec_unpack(k->p->codec, policy->algorithm, m->bytes, bytes, k->p->back);
	if (r < 0)
		return r == -EBADMSG ? -EIO : r;
	if (memcmp(k->p->back, m->data, LEAF_DATA_BYTES) != 0)
		return -EIO;
	m->frame = (struct leaf_pack){
	    .n_blocks = (uint32_t)div_round_up(bytes, BLOCK_SIZE), .bytes = bytes, .algorithm = (uint8_t)policy->algorithm};
	memset(m->bytes + bytes, 0, (size_t)m->frame.n_blocks * BLOCK_SIZE - bytes);
	return 0;
}

static int make(struct packing *k, struct squeezed *sum)
{
	int r = 0;

	for (uint32_t i = 0; i < k->n && r == 0; i++) {
		struct move *m = &k->move[i];

		if (!m->slots || !k->policy->on)
			continue;
		r = make_frame(k, m);
		if (r < 0 || m->frame.n_blocks)
			continue;
		sum->n_raw++;
		m->slots = leaf_packed(&m->l); /* they go home, if the frame that they have takes more than they need */
		if (m->l.pack.n_blocks <= count_slots(m->slots))
			m->slots = 0;
	}
	return r;
}

/* ---- settle ---- */

static bool same_slots(const struct leaf *a, const struct leaf *b)
{
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		const struct slot *x = &a->slot[i], *y = &b->slot[i];

		if (x->home != y->home || x->staged != y->staged || x->crc != y->crc || x->birth != y->birth ||
		    x->unwritten != y->unwritten || x->packed != y->packed || x->shared != y->shared)
			return false;
	}
	return a->pack.start == b->pack.start;
}

static void turn_to_frame(struct fs *fs, const struct move *m, struct leaf *l)
{
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(m->slots >> i & 1))
			continue;
		l->slot[i].home = l->slot[i].birth = 0;
		l->slot[i].packed = true;
	}
	l->pack = m->frame;
	l->pack.start = m->runs[0].start;
	l->pack.birth = (uint32_t)atomic_load(&fs->snapshot_generation);
}

static void turn_to_homes(struct fs *fs, const struct move *m, struct leaf *l)
{
	uint32_t birth = (uint32_t)atomic_load(&fs->snapshot_generation), run = 0, at = 0;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(m->slots >> i & 1))
			continue;
		l->slot[i].packed = false;
		l->slot[i].home = pointer_add(m->runs[run].start, at++);
		l->slot[i].birth = birth;
		if (at == m->runs[run].n_blocks) {
			run++;
			at = 0;
		}
	}
	leaf_settle(l);
}

/* 1: done; 0: it changed since. */
static int settle_one(struct packing *k, const struct move *m)
{
	struct fs *fs = k->fs;
	struct leaf old, new;
	int r = is_readable(k) ? extent_get(fs, k->ino, m->leaf, &old) : -EBADMSG;

	if (r < 0)
		return r == -EBADMSG ? 0 : r;
	/* A snapshot may have been taken since. */
	if (!same_slots(&old, &m->l) || !is_wanted(k, &old, m->frame.n_blocks > 0))
		return 0;
	new = old;
	if (m->frame.n_blocks) {
		turn_to_frame(fs, m, &new);
	} else {
		squeeze_unpacked(fs);
		turn_to_homes(fs, m, &new);
	}
	r = extent_put(fs, NULL, k->ino, m->leaf, &old, &new, NULL);
	if (fs->config.sabotage & FS_SABOTAGE_PACK_REUSE)
		arena_release(fs->arena, arena_rotate(fs->arena));
	return r < 0 ? r : 1;
}

/* Where there is no space a leaf stays as it is. */
static int give_blocks(struct packing *k)
{
	struct packer *p = k->p;
	int r = 0;

	for (uint32_t i = 0; i < k->n && r == 0; i++) {
		struct move *m = &k->move[i];
		bool packs = m->frame.n_blocks > 0;

		if (!m->slots)
			continue;
		r = arena_alloc(k->fs->arena, packs ? m->frame.n_blocks : count_slots(m->slots), p->hint, false, m->runs,
				packs ? 1 : LEAF_SLOTS, &m->n_runs);
		if (r == 0)
			p->hint = pointer_add(m->runs[m->n_runs - 1].start, m->runs[m->n_runs - 1].n_blocks);
		else
			m->slots = 0;
		r = r == -ENOSPC || r == -E2BIG ? 0 : r;
	}
	return r;
}

static void undo_blocks(struct packing *k, struct move *m)
{
	for (uint32_t i = 0; i < m->n_runs; i++)
		arena_unalloc(k->fs->arena, m->runs[i]);
	m->n_runs = 0;
}

static size_t add_homes(const struct move *m, struct arena_write *w)
{
	uint32_t run = 0, at = 0;
	size_t n = 0;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(m->slots >> i & 1))
			continue;
		w[n++] = (struct arena_write){
		    .at = pointer_add(m->runs[run].start, at++), .n_blocks = 1, .p = m->data + (size_t)i * BLOCK_SIZE};
		if (at == m->runs[run].n_blocks) {
			run++;
			at = 0;
		}
	}
	return n;
}

static int write_blocks(struct packing *k)
{
	struct arena_write *w = k->p->write;
	size_t n = 0;

	for (uint32_t i = 0; i < k->n; i++) {
		const struct move *m = &k->move[i];

		if (m->slots && m->frame.n_blocks)
			w[n++] = (struct arena_write){.at = m->runs[0].start, .n_blocks = m->frame.n_blocks, .p = m->bytes};
		else if (m->slots)
			n += add_homes(m, w + n);
	}
	int r = n ? arena_write_many(k->fs->arena, w, n) : 0;
	if (r < 0)
		fs_fail(k->fs, r, "writing packed data to the arena");
	return r;
}

static int settle_all(struct packing *k, struct squeezed *sum)
{
	struct lockset ls;
	int r = 0;

	lockset_lock(k->fs->icache, &ls, &k->ino, 1);
	for (uint32_t i = 0; i < k->n && r >= 0; i++) {
		struct move *m = &k->move[i];

		if (!m->slots)
			continue;
		r = settle_one(k, m);
		if (r != 1)
			continue;
		m->n_runs = 0; /* they are the leaf's */
		if (!m->frame.n_blocks)
			continue;
		sum->n_frames++;
		sum->blocks_before += m->n_data;
		sum->blocks_after += m->frame.n_blocks;
	}
	lockset_unlock(k->fs->icache, &ls);
	return r < 0 ? r : 0;
}

static int settle_gated(struct packing *k, struct squeezed *sum)
{
	int r = give_blocks(k);

	if (r == 0)
		r = write_blocks(k);
	if (r == 0)
		r = settle_all(k, sum);
	for (uint32_t i = 0; i < k->n; i++)
		undo_blocks(k, &k->move[i]);
	return r;
}

static int settle(struct packing *k, struct squeezed *sum) NO_THREAD_SAFETY
{
	struct fs *fs = k->fs;
	struct replica *rep = fs->replica;
	uint64_t frames = 0, all = 0;

	for (uint32_t i = 0; i < k->n; i++) {
		frames += k->move[i].slots && k->move[i].frame.n_blocks;
		all += k->move[i].slots != 0;
	}
	if (!all)
		return 0;
	int r = tier_may_change(fs);
	if (r == 0 && frames)
		r = squeeze_feature(fs);
	if (r < 0)
		return r;
	if (!k->held)
		mutex_lock(&rep->follow_lock);
	rwlock_rdlock(&fs->gate);
	r = settle_gated(k, sum);
	rwlock_rdunlock(&fs->gate);
	if (k->held)
		return r;
	rep->taken.checked = false;
	mutex_unlock(&rep->follow_lock);
	return r;
}

static int pack(struct packing *k, const uint64_t *leaf, struct squeezed *sum)
{
	struct packer *p = k->p;

	assert(k->n <= PACK_LEAVES);
	for (uint32_t i = 0; i < k->n; i++)
		p->move[i] = (struct move){.leaf = leaf[i],
					   .data = p->data + i * LEAF_DATA_BYTES,
					   .bytes = p->frames + i * (size_t)PACK_BLOCKS_MAX * BLOCK_SIZE};
	int r = look(k);
	if (r == 0)
		r = make(k, sum);
	return r < 0 ? r : settle(k, sum);
}

int pack_leaves(struct fs *fs, struct packer *p, const struct squeeze_policy *policy, uint64_t ino, const uint64_t *leaf,
		uint32_t n, struct squeezed *sum)
{
	struct packing k = {.fs = fs, .p = p, .policy = policy, .ino = ino, .move = p->move, .n = n};

	return pack(&k, leaf, sum);
}

int unpack_leaf(struct fs *fs, uint64_t ino, uint64_t leaf)
{
	static const struct squeeze_policy off;
	struct squeezed sum = {0};
	struct packer *p;
	int r = packer_new(&p);

	if (r < 0)
		return r;
	struct packing k = {.fs = fs, .p = p, .policy = &off, .ino = ino, .move = p->move, .n = 1, .held = true};
	r = pack(&k, &leaf, &sum);
	packer_free(p);
	return r;
}
