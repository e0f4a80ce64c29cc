/*
 * leaf.c: from leaves to frames, and the keys that open them.
 *
 * Keys of objects are opened once and kept in a small cache, least recently used going first: a reader comes back to the same
 * object for megabytes.
 */
#include <errno.h>
#include <openssl/crypto.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/snap/snap.h"
#include "fs/core/tier/recall/impl.h"

/* Files of at most as many leaves lie beside others like them in their object. */
#define SMALL_LEAVES 4u

/* ---- leaves ---- */

static int frames_locked(struct fs *fs, const struct inode *in, uint64_t leaf, uint64_t end, bool cold, struct frame_ref *ret,
			 uint32_t *n, uint64_t n_leaves)
{
	struct leaf l;

	for (; leaf < end; leaf++) {
		int r = extent_get(fs, in->ino, leaf, &l);

		if (r < 0)
			return r;
		uint16_t tiered = leaf_tiered(&l), mask = cold ? leaf_cold(&l) : tiered;
		if (!l.object.id || !mask)
			continue;
		ret[(*n)++] = (struct frame_ref){.at = l.object,
						 .ino = in->ino,
						 .leaf = leaf,
						 .mask = mask,
						 .bytes = (uint32_t)__builtin_popcount(tiered) * BLOCK_SIZE,
						 .small = n_leaves <= SMALL_LEAVES};
	}
	return 0;
}

/* The store of each; frames next to each other are of the same object most of the time. */
static int find_stores(struct fs *fs, struct frame_ref *f, uint32_t n)
{
	struct object_key_entry e;

	for (uint32_t i = 0; i < n; i++) {
		int r = 0;

		if (i == 0 || f[i].at.id != f[i - 1].at.id)
			r = object_key_get(fs->recall, f[i].at.id, &e);
		if (r == -ENOENT || r == -EBADMSG)
			return fs_damaged(fs, f[i].ino, f[i].leaf * FRAME_BYTES, r == -ENOENT ? "object" : "key of the object");
		if (r < 0)
			return r;
		f[i].store = e.store;
	}
	return 0;
}

int frames_of(struct fs *fs, uint64_t ino, uint64_t leaf, uint64_t n, bool cold, struct frame_ref *ret, uint32_t *ret_n,
	      uint64_t *ret_end)
{
	struct inode *in, kept;
	uint32_t found = 0;
	bool snapshot = snap_is_ino(ino);
	int r = snapshot ? snap_inode(fs, ino, &kept) : icache_rdlock_get(fs->icache, ino, &in);

	if (r < 0)
		return r;
	if (snapshot)
		in = &kept;
	uint64_t n_leaves = S_ISREG(in->mode) ? div_round_up(in->size, FRAME_BYTES) : 0;
	uint64_t end = n < n_leaves && leaf < n_leaves - n ? leaf + n : n_leaves;
	r = frames_locked(fs, in, leaf, end, cold, ret, &found, n_leaves);
	if (!snapshot)
		icache_rdunlock(fs->icache, ino);
	if (r == 0)
		r = find_stores(fs, ret, found);
	if (r < 0)
		return r;
	*ret_n = found;
	*ret_end = n_leaves;
	return 0;
}

bool frame_is_current(struct fs *fs, const struct frame_ref *f)
{
	struct leaf l;

	icache_rdlock(fs->icache, f->ino);
	int r = extent_get(fs, f->ino, f->leaf, &l);
	icache_rdunlock(fs->icache, f->ino);
	return r == 0 && l.object.id == f->at.id && l.object.offset == f->at.offset;
}

/* ---- keys ---- */

static bool find_key(struct recall *rc, uint64_t object, struct object_key_entry *ret)
{
	bool found = false;

	mutex_lock(&rc->key_lock);
	for (unsigned i = 0; i < KEY_ENTRIES && !found; i++) {
		struct object_key_entry *e = &rc->keys[i];

		if (e->object != object)
			continue;
		e->used = ++rc->key_clock;
		*ret = *e;
		found = true;
	}
	mutex_unlock(&rc->key_lock);
	return found;
}

static void keep_key(struct recall *rc, const struct object_key_entry *e)
{
	struct object_key_entry *oldest = &rc->keys[0];

	mutex_lock(&rc->key_lock);
	for (unsigned i = 1; i < KEY_ENTRIES; i++)
		if (rc->keys[i].used < oldest->used)
			oldest = &rc->keys[i];
	*oldest = *e;
	oldest->used = ++rc->key_clock;
	mutex_unlock(&rc->key_lock);
}

static bool is_zero(const uint8_t *p, size_t n)
{
	while (n > 0 && p[n - 1] == 0)
		n--;
	return n == 0;
}

static int open_key(struct fs *fs, const struct object_row *row, struct pack_key *ret)
{
	struct pack_volume_key key;
	bool sealed = !is_zero(row->sealed, sizeof(row->sealed));
	int r = sealed ? stores_key(fs, &key) : 0;

	if (r < 0)
		return r == -ENOENT || r == -EUCLEAN ? -EBADMSG : r;
	r = pack_unseal(fs->super.volume, row->object, sealed ? &key : NULL, row->sealed, ret);
	OPENSSL_cleanse(&key, sizeof(key));
	return r;
}

int object_key_get(struct recall *rc, uint64_t object, struct object_key_entry *ret)
{
	struct object_row row;

	if (find_key(rc, object, ret))
		return 0;
	int r = objects_get(rc->fs, object, &row);
	if (r < 0)
		return r;
	*ret = (struct object_key_entry){.object = object, .store = row.store, .bytes = row.bytes};
	r = open_key(rc->fs, &row, &ret->key);
	if (r == 0)
		keep_key(rc, ret);
	return r;
}

void object_key_wipe(struct object_key_entry *e)
{
	OPENSSL_cleanse(e, sizeof(*e));
}

void object_keys_forget(struct recall *rc)
{
	OPENSSL_cleanse(rc->keys, sizeof(rc->keys));
}
