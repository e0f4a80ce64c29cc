/*
 * check.c: what fsck compares of snapshots: every block of one is in use, and either the live tree has it too or one deadlist
 * does; what is on a deadlist is in that snapshot, in no other list and not in the live tree; what only an object has, has a row.
 * Once the tree was set back, a list may have blocks that only older snapshots have, or none any more.
 *
 * One walk over the leaves of each snapshot that is held.  Memory: three bits a block.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/crc32c.h"
#include "fs/core/snap/marks.h"
#include "fs/core/snap/snap_check.h"
#include "fs/core/snap/snap_impl.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/core/tier/tier.h"

struct walk {
	struct snap_check *c;
	const struct held *h;
	const char *name;
	uint64_t *mine;      /* a bit a block: the snapshot has it */
	uint64_t *read;      /* a bit a block: it was verified */
	bool rolled;         /* the tree was set back to a snapshot */
	uint64_t ino, asked; /* the object asked for last */
	void *block;
};

static void found(struct snap_check *c, bool accounting, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void found(struct snap_check *c, bool accounting, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	c->found(c->ctx, accounting, line);
}

static bool test_bit(const uint64_t *bits, uint64_t b)
{
	return bits[b / 64] >> (b % 64) & 1;
}

static void set_bit(uint64_t *bits, uint64_t b)
{
	bits[b / 64] |= UINT64_C(1) << (b % 64);
}

static bool in_arena(const struct snap_check *c, pointer_t home)
{
	return pointer_device(home) == DEVICE_ARENA_FIRST && pointer_block(home) < c->n_blocks;
}

/* ---- deadlists ---- */

typedef void entry_fn(struct walk *w, pointer_t home, uint32_t birth);

static int each_entry(struct walk *w, uint32_t top, entry_fn *fn)
{
	struct index_key k = key_pair(TABLE_DEAD, top, 0);
	struct kv *kv = w->c->fs->kv;
	const struct kv_ops *ops = kv->ops;
	struct kv_iter *it;
	int r = ops->iter_open(kv, &it);

	if (r < 0)
		return r;
	for (ops->iter_seek(it, key_slice(&k)); ops->iter_valid(it); ops->iter_next(it)) {
		struct slice key = ops->iter_key(it), value = ops->iter_value(it);
		le32 birth;

		if (!key_within(key, TABLE_DEAD, top))
			break;
		if (key.len != K_ENTRY_BYTES || value.len != sizeof(birth)) {
			found(w->c, false, "an entry of the deadlist of snapshot \"%s\" cannot be read", w->name);
			continue;
		}
		memcpy(&birth, value.p, sizeof(birth));
		fn(w, be64_get((const uint8_t *)key.p + 9), le32_get(birth));
	}
	r = ops->iter_error(it);
	ops->iter_close(it);
	return r;
}

static void see_dead(struct walk *w, pointer_t home, uint32_t birth)
{
	struct snap_check *c = w->c;
	uint64_t b = pointer_block(home);

	if (!in_arena(c, home) || birth > w->h->top) {
		found(c, false, "the deadlist of snapshot \"%s\" has block %llu, which cannot be in it", w->name,
		      (unsigned long long)b);
		return;
	}
	if (test_bit(c->dead, b) || test_bit(c->live, b))
		found(c, false, "the deadlist of snapshot \"%s\" has block %llu, which %s", w->name, (unsigned long long)b,
		      test_bit(c->live, b) ? "the live tree has, too" : "is on another list as well");
	if (!arena_is_used(c->fs->arena, home))
		found(c, true, "block %llu of snapshot \"%s\" is free in the bitmap: it must be marked used",
		      (unsigned long long)b, w->name);
	set_bit(c->dead, b);
}

static void see_mine(struct walk *w, pointer_t home, uint32_t birth)
{
	uint64_t b = pointer_block(home);

	(void)birth;
	if (!w->rolled && in_arena(w->c, home) && !test_bit(w->mine, b))
		found(w->c, true, "block %llu is on the deadlist of snapshot \"%s\", which does not have it",
		      (unsigned long long)b, w->name);
}

/* ---- leaves ---- */

/* Each block that the live tree has not is read once. */
static void verify(struct walk *w, uint64_t block, const struct slot *s)
{
	struct snap_check *c = w->c;

	if (!c->verify_data || !slot_has_data(s) || test_bit(c->live, pointer_block(s->home)) ||
	    test_bit(w->read, pointer_block(s->home)))
		return;
	set_bit(w->read, pointer_block(s->home));
	if (arena_read(c->fs->arena, s->home, 1, w->block) == 0 && crc32c(0, w->block, BLOCK_SIZE) == s->crc) {
		*c->bytes_verified += BLOCK_SIZE;
		return;
	}
	c->damaged(c->ctx);
	found(c, false, "inode %llu of snapshot \"%s\": bytes from %llu on are damaged", (unsigned long long)w->ino, w->name,
	      (unsigned long long)(block * BLOCK_SIZE));
}

static void check_slot(struct walk *w, uint64_t block, const struct slot *s)
{
	struct snap_check *c = w->c;
	uint64_t b = pointer_block(s->home);

	if (s->staged)
		found(c, false, "inode %llu of snapshot \"%s\": block %llu points into the journal", (unsigned long long)w->ino,
		      w->name, (unsigned long long)block);
	if (!s->home)
		return;
	if (!in_arena(c, s->home) || s->birth > w->h->top) {
		found(c, false, "inode %llu of snapshot \"%s\": block %llu cannot lie where it says", (unsigned long long)w->ino,
		      w->name, (unsigned long long)block);
		return;
	}
	if (test_bit(w->mine, b) && !s->shared)
		found(c, false, "inode %llu of snapshot \"%s\": block %llu shares its home with another block",
		      (unsigned long long)w->ino, w->name, (unsigned long long)block);
	set_bit(w->mine, b);
	if (!test_bit(c->live, b) && !test_bit(c->dead, b))
		found(c, false, "inode %llu of snapshot \"%s\": block %llu is %s", (unsigned long long)w->ino, w->name,
		      (unsigned long long)block,
		      arena_is_used(c->fs->arena, s->home) ? "on no list" : "free: what lies there is written over");
	else
		verify(w, block, s);
}

/* A block of a frame is like a home; *ret_dead: it is on a list, so that the live tree does not read it. */
static void check_frame_block(struct walk *w, uint64_t leaf, const struct leaf_pack *k, uint32_t i, bool *ret_dead)
{
	const struct slot s = {.home = pointer_add(k->start, i), .birth = k->birth, .unwritten = true};

	check_slot(w, leaf * LEAF_SLOTS, &s);
	*ret_dead =
	    in_arena(w->c, s.home) && !test_bit(w->c->live, pointer_block(s.home)) && test_bit(w->c->dead, pointer_block(s.home));
}

/* Those that the live tree has not are unpacked once, as verify() reads homes. */
static void verify_frame(struct walk *w, uint64_t leaf, const struct leaf *l)
{
	struct snap_check *c = w->c;
	uint16_t packed = leaf_packed(l), good = 0;

	if (packed_verify(c->fs, l, packed, LEAF_SLOTS, NULL, &good) < 0)
		good = 0;
	*c->bytes_verified += (uint64_t)__builtin_popcount(good) * BLOCK_SIZE;
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!((packed & (uint16_t)~good) >> i & 1))
			continue;
		c->damaged(c->ctx);
		found(c, false, "inode %llu of snapshot \"%s\": bytes from %llu on are damaged", (unsigned long long)w->ino,
		      w->name, (unsigned long long)((leaf * LEAF_SLOTS + i) * BLOCK_SIZE));
	}
}

static void check_frame(struct walk *w, uint64_t leaf, const struct leaf *l)
{
	bool dead = l->pack.n_blocks > 0;

	for (uint32_t i = 0; i < l->pack.n_blocks; i++) {
		bool mine;

		check_frame_block(w, leaf, &l->pack, i, &mine);
		dead = dead && mine;
	}
	if (!dead || !w->c->verify_data || test_bit(w->read, pointer_block(l->pack.start)))
		return;
	set_bit(w->read, pointer_block(l->pack.start));
	verify_frame(w, leaf, l);
}

static void check_object(struct walk *w, const struct leaf *l)
{
	struct object_row o;

	if (!l->object.id || l->object.id == w->asked)
		return;
	w->asked = l->object.id;
	if (objects_get(w->c->fs, l->object.id, &o) == -ENOENT)
		found(w->c, false, "inode %llu of snapshot \"%s\" lies in object %016llx, which no row knows",
		      (unsigned long long)w->ino, w->name, (unsigned long long)l->object.id);
}

static int check_leaves(struct walk *w, struct kv *kv)
{
	static const uint8_t first[] = {TABLE_EXTENT};
	const struct kv_ops *ops = kv->ops;
	struct kv_iter *it;
	int r = ops->iter_open(kv, &it);

	if (r < 0)
		return r;
	for (ops->iter_seek(it, (struct slice){first, 1}); ops->iter_valid(it); ops->iter_next(it)) {
		struct slice key = ops->iter_key(it), value = ops->iter_value(it);
		const uint8_t *k = key.p;
		struct leaf l;

		if (k[0] != TABLE_EXTENT)
			break;
		w->ino = key.len == 17 ? be64_get(k + 1) : 0;
		if (key.len != 17 || leaf_decode(value.p, value.len, &l) < 0) {
			found(w->c, false, "inode %llu of snapshot \"%s\": a leaf cannot be read", (unsigned long long)w->ino,
			      w->name);
			continue;
		}
		for (unsigned i = 0; i < LEAF_SLOTS; i++)
			check_slot(w, be64_get(k + 9) * LEAF_SLOTS + i, &l.slot[i]);
		check_frame(w, be64_get(k + 9), &l);
		check_object(w, &l);
	}
	r = ops->iter_error(it);
	ops->iter_close(it);
	return r;
}

static int check_held(struct walk *w)
{
	struct held *h;
	struct kv *kv;
	int r = snap_get(w->c->fs, w->h->top, &h, &kv);

	if (r < 0) {
		found(w->c, false, "the index of snapshot \"%s\" is missing or damaged: delete it", w->name);
		return 0;
	}
	memset(w->mine, 0, (w->c->n_blocks / 64 + 1) * sizeof(*w->mine));
	r = check_leaves(w, kv);
	snap_put(w->c->fs, h);
	if (r == 0)
		return each_entry(w, w->h->top, see_mine);
	found(w->c, false, "part of the index of snapshot \"%s\" cannot be read: %s", w->name, strerror(-r));
	return 0;
}

static const char *name_of(struct snaps *s, const struct held *h)
{
	const struct snap *snap = snaps_find_gen(s, h->gen);

	return snap && !h->dropping ? snap->name : "(deleted)";
}

/* What they say is not looked at: that rows are the same between marks cannot be seen from the rows that there are now. */
static int check_marks(struct snap_check *c)
{
	static const uint8_t first[] = {TABLE_MARK};
	struct kv *kv = c->fs->kv;
	const struct kv_ops *ops = kv->ops;
	struct kv_iter *it;
	struct mark m;
	int r = ops->iter_open(kv, &it);

	if (r < 0)
		return r;
	for (ops->iter_seek(it, (struct slice){first, 1}); ops->iter_valid(it); ops->iter_next(it)) {
		if (*(const uint8_t *)ops->iter_key(it).p != TABLE_MARK)
			break;
		if (mark_decode(ops->iter_key(it), ops->iter_value(it), &m) < 0 ||
		    m.clock > atomic_load(&c->fs->snapshot_generation)) {
			found(c, false, "a row of the table of what changed since a snapshot cannot be");
			break;
		}
	}
	r = ops->iter_error(it);
	ops->iter_close(it);
	return r;
}

static int check_all(struct walk *w)
{
	struct snaps *s = w->c->fs->snaps;
	int r = check_marks(w->c);

	for (size_t i = 0; i < s->n_held && r == 0; i++) {
		w->h = s->held[i];
		w->name = name_of(s, w->h);
		r = each_entry(w, w->h->top, see_dead);
	}
	for (size_t i = 0; i < s->n_held && r == 0; i++) {
		w->h = s->held[i];
		w->name = name_of(s, w->h);
		w->asked = 0;
		if (!w->h->dropping)
			r = check_held(w);
	}
	return r;
}

int snap_check_blocks(struct snap_check *c)
{
	struct walk w = {.c = c,
			 .mine = calloc(c->n_blocks / 64 + 1, sizeof(*w.mine)),
			 .read = calloc(c->n_blocks / 64 + 1, sizeof(*w.read)),
			 .rolled = snap_was_rolled(c->fs)};
	int r = w.mine && w.read && posix_memalign(&w.block, DISK_BLOCK, BLOCK_SIZE) == 0 ? check_all(&w) : -ENOMEM;

	free(w.mine);
	free(w.read);
	free(w.block);
	return r;
}
