/*
 * walk.c: a pass over the volume, a piece at a time: both copies of the superblock, every row of the index, and the data of every
 * leaf in the order of the index; then what only snapshots have (snaps.c, parts.c).  At the end what was not repaired is looked
 * for elsewhere (heal.h).
 *
 * What a pass has done is a cursor: the beginning of the key in the index to go on from.  What is written behind it was just
 * written; what is written before it is met by the next pass.  A piece is a leaf's data or a few hundred rows, so that whoever
 * rests between pieces, or ends there, repeats little.
 *
 * Rows are compared by the index itself (its blocks have checksums) and decoded here.  A row that cannot be read is counted and
 * named; the volume goes on without it, and only a resync or a restore brings it back.  A damaged copy of the superblock is
 * written anew from memory.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/replica/impl.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/tier/tier.h"

#define ROWS_A_STEP      256u
#define SUPER_TRIES      5u
#define SUPER_PAUSE_US   20000u
#define SUPER_FILE_BYTES (2 * (uint64_t)DISK_BLOCK)

static void set_cursor(struct scrub_pass *p, const void *key, size_t len)
{
	p->cursor_len = (uint8_t)min_u64(len, sizeof(p->cursor));
	memcpy(p->cursor, key, p->cursor_len);
}

void begin_phase(struct scrub_pass *p, enum scrub_phase phase, uint8_t table)
{
	p->phase = phase;
	set_cursor(p, &table, table ? 1 : 0);
}

/* ---- the superblock ---- */

static int no_change(struct fs *fs, struct super *s, uint64_t arg)
{
	(void)fs;
	(void)s;
	(void)arg;
	return 0;
}

/* One that is being written may look damaged for a moment. */
static int read_super(struct fs *fs, struct super *ret)
{
	int r = -EBADMSG;

	for (unsigned i = 0; i < SUPER_TRIES; i++) {
		r = super_peek(fs->store, ret);
		if (r == 0 && ret->copy_valid[0] && ret->copy_valid[1])
			return 0;
		usleep(SUPER_PAUSE_US);
	}
	return r;
}

/* Each write goes to the copy that is not in force, so two make both anew. */
static int rewrite_super(struct fs *fs)
{
	int r = fs->config.read_only || atomic_load(&fs->failed) ? -EROFS : replica_change_super(fs, no_change, 0);

	return r < 0 ? r : replica_change_super(fs, no_change, 0);
}

static int step_super(struct fs *fs, struct scrub_pass *p, uint64_t *ret_bytes)
{
	struct super s;
	int r = read_super(fs, &s);
	bool whole = r == 0 && s.copy_valid[0] && s.copy_valid[1];

	if (r == -ENOMEM)
		return r;
	if (!whole) {
		p->bad_blocks++;
		r = rewrite_super(fs);
		log_error("damaged: a copy of the superblock: %s", r == 0 ? "written anew" : "it could not be written anew");
		p->repaired_blocks += r == 0;
	}
	*ret_bytes = SUPER_FILE_BYTES;
	begin_phase(p, PHASE_ROWS, 0);
	return 0;
}

/* ---- rows ---- */

static bool row_ok(struct fs *fs, struct slice key, struct slice value)
{
	const uint8_t *k = key.p;
	uint64_t ino = key.len >= 9 ? be64_get(k + 1) : 0;
	struct scrub_pass pass;
	struct object_row object;
	struct dentry dentry;
	struct anchor anchor;
	struct slice name;
	struct inode in;
	struct leaf l;

	switch (k[0]) {
	case TABLE_ANCHOR:
		return index_get_anchor(fs->kv, &anchor) == 0;
	case TABLE_BITMAP:
		return key.len == 17 && value.len == ARENA_PAGE_BYTES;
	case TABLE_COOKIE:
		return key.len == 17 && cookie_decode(value, &dentry, &name) == 0;
	case TABLE_DENTRY:
		return key.len > 9 && value.len == sizeof(struct dentry_value);
	case TABLE_EXTENT:
		return key.len == 17 && leaf_decode(value.p, value.len, &l) == 0;
	case TABLE_HISTORY:
		return key.len == 9 && value.len == sizeof(le64);
	case TABLE_INODE:
		return key.len == 9 && inode_decode(value, ino, &in) == 0;
	case TABLE_TARGET:
		return key.len == 9 && value.len >= 1 && value.len <= RECORD_TARGET_MAX;
	case TABLE_OBJECT:
		return key.len == 9 && object_row_decode(ino, value, &object) == 0;
	case TABLE_SCRUB:
		return key.len == 17 && (be64_get(k + 1) != 0 || scrub_row_decode(value, &pass) == 0);
	default: /* names of attributes, policies, orphans: any bytes; tables of a later version */
		return key.len >= 9;
	}
}

static uint64_t ino_of_row(struct slice key)
{
	const uint8_t *k = key.p;
	bool of_file =
	    k[0] == TABLE_COOKIE || k[0] == TABLE_DENTRY || k[0] == TABLE_EXTENT || k[0] == TABLE_INODE || k[0] == TABLE_TARGET;

	return of_file && key.len >= 9 ? be64_get(k + 1) : FS_ROOT_INO;
}

static void bad_row(struct fs *fs, struct scrub_pass *p, struct slice key)
{
	uint64_t ino = ino_of_row(key);
	char path[256];

	p->bad_rows++;
	fs_path(fs, ino, path, sizeof(path));
	log_error("damaged: a row of table %c of the index, of %s: resync this node, or restore it", *(const char *)key.p, path);
}

static int step_rows(struct fs *fs, struct scrub_pass *p, uint64_t *ret_bytes)
{
	struct kv_iter *it;
	int r = fs->kv->ops->iter_open(fs->kv, &it);

	if (r < 0)
		return r;
	fs->kv->ops->iter_seek(it, (struct slice){p->cursor, p->cursor_len});
	for (uint32_t n = 0; n < ROWS_A_STEP && fs->kv->ops->iter_valid(it); n++, fs->kv->ops->iter_next(it)) {
		struct slice key = fs->kv->ops->iter_key(it), value = fs->kv->ops->iter_value(it);

		if (key.len == 0 || !row_ok(fs, key, value))
			bad_row(fs, p, key.len ? key : (struct slice){"?", 1});
		*ret_bytes += key.len + value.len;
	}
	r = fs->kv->ops->iter_error(it);
	if (r == 0 && fs->kv->ops->iter_valid(it)) {
		struct slice key = fs->kv->ops->iter_key(it);

		/* Of long keys that begin alike one is looked at twice, or the cursor would stay where it is. */
		bool same = p->cursor_len == sizeof(p->cursor) && key.len > sizeof(p->cursor) &&
			    memcmp(p->cursor, key.p, sizeof(p->cursor)) == 0;
		set_cursor(p, key.p, key.len);
		for (unsigned i = sizeof(p->cursor); same && i-- > 0 && ++p->cursor[i] == 0;)
			;
	} else {
		begin_phase(p, PHASE_DATA, TABLE_EXTENT);
	}
	fs->kv->ops->iter_close(it);
	if (r < 0) { /* the index itself says that it is damaged: the data can be looked at all the same */
		p->bad_rows++;
		log_error("damaged: the index cannot be read to its end: %s; resync this node, or restore it", strerror(-r));
	}
	return r == -ENOMEM ? r : 0;
}

/* ---- data ---- */

/* The first leaf at or behind the cursor, to which the cursor moves; -ENOENT: there is none. */
static int next_leaf(struct fs *fs, struct scrub_pass *p, uint64_t *ret_ino, uint64_t *ret_leaf)
{
	struct kv_iter *it;
	int r = fs->kv->ops->iter_open(fs->kv, &it);

	if (r < 0)
		return r;
	fs->kv->ops->iter_seek(it, (struct slice){p->cursor, p->cursor_len});
	bool found = false;
	for (; fs->kv->ops->iter_valid(it) && !found; fs->kv->ops->iter_next(it)) {
		struct slice key = fs->kv->ops->iter_key(it);
		const uint8_t *k = key.p;

		if (key.len == 0 || k[0] != TABLE_EXTENT)
			break;
		if (key.len != 17) /* said by step_rows() */
			continue;
		*ret_ino = be64_get(k + 1);
		*ret_leaf = be64_get(k + 9);
		found = true;
	}
	r = fs->kv->ops->iter_error(it);
	fs->kv->ops->iter_close(it);
	return r < 0 ? r : found ? 0 : -ENOENT;
}

void check_cold(struct fs *fs, struct scrub_pass *p, uint64_t ino, uint64_t leaf, const struct leaf *l, uint16_t mask,
		uint8_t *room)
{
	if (!mask || recall_leaves(fs, ino, leaf, 1, OBJECT_BACKGROUND) < 0 || !frame_copy(fs, &l->object, mask, room)) {
		p->errors += mask != 0; /* what is damaged there was named by the recall */
		return;
	}
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(mask >> i & 1))
			continue;
		p->checked_bytes += BLOCK_SIZE;
		if (crc32c(0, room + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) == l->slot[i].crc)
			continue;
		p->bad_blocks++;
		fs_damaged(fs, ino, (leaf * LEAF_SLOTS + i) * BLOCK_SIZE, "data in its object");
	}
}

void repair_found(struct fs *fs, struct scrub_pass *p, uint64_t ino, uint64_t leaf, const struct leaf_verdict *v)
{
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if (v->bad >> i & 1) {
			p->bad_blocks++;
			p->repaired_blocks += repair_block(fs, ino, leaf * LEAF_SLOTS + i) == 0;
		}
}

static int step_data(struct fs *fs, struct scrub_pass *p, uint8_t *room, uint64_t *ret_bytes)
{
	struct leaf_verdict v;
	uint64_t ino = 0, leaf = 0;
	int r = next_leaf(fs, p, &ino, &leaf);

	if (r == -ENOENT || r == -EBADMSG || r == -EIO) {
		begin_phase(p, PHASE_SNAPS, TABLE_DEAD);
		return 0; /* a damaged index was said by step_rows() */
	}
	if (r == 0)
		r = leaf_verify(fs, ino, leaf, room, &v);
	if (r == -EBUSY || r == -ENOMEM)
		return r;
	if (r == 0) {
		*ret_bytes = (uint64_t)__builtin_popcount(v.checked) * BLOCK_SIZE;
		p->checked_bytes += *ret_bytes;
		p->bad_rows += v.bad_row;
		if (v.bad)
			repair_found(fs, p, ino, leaf, &v);
		if (p->cold && v.leaf.object.id)
			check_cold(fs, p, ino, leaf, &v.leaf, leaf_tiered(&v.leaf), room);
	} else if (r != -ENOENT) { /* gone meanwhile */
		p->errors++;
	}
	struct index_key next = key_pair(TABLE_EXTENT, ino, leaf);
	next.b[next.len] = 0; /* behind it, and before any other */
	set_cursor(p, next.b, next.len + 1);
	return 0;
}

int walk_step(struct fs *fs, struct scrub_pass *p, uint8_t *room, uint64_t *ret_bytes)
{
	*ret_bytes = 0;
	switch (p->phase) {
	case PHASE_SUPER:
		return step_super(fs, p, ret_bytes);
	case PHASE_ROWS:
		return step_rows(fs, p, ret_bytes);
	case PHASE_DATA:
		return step_data(fs, p, room, ret_bytes);
	case PHASE_SNAPS:
		return step_snaps(fs, p, room, ret_bytes);
	case PHASE_PARTS:
		return step_parts(fs, p, room, ret_bytes);
	case PHASE_HEAL:
		return step_heal(fs, p, ret_bytes);
	default:
		return 0;
	}
}
