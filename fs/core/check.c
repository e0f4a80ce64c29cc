/*
 * check.c: fsck: everything that must agree, compared: inodes with their leaves and names, leaves with the bitmap, names with
 * inodes, link counts with names, reservations with slots, objects with the leaves that are tiered in them, and each block with
 * its checksum.  What lies in object stores only is counted and not fetched.
 *
 * One walk over the inodes in order; per directory a walk over its names.  Memory: 16 bytes an inode for the link counts, as many
 * an object, three bits a block, and 8 bytes a reference to a shared block.  The volume is open without threads and nobody else
 * uses it.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/share/share.h"
#include "fs/core/snap/snap_check.h"
#include "fs/core/tier/tier.h"
#include "fs/core/usage/usage.h"

struct check {
	struct fs *fs;
	bool verify_data;
	void (*report)(void *ctx, const char *line);
	void *ctx;
	struct fs_check_result *res;
	struct refs *links; /* names found of each inode */
	struct share_check *shares;
	struct refs *live;        /* tiered slots found of each object */
	struct object_row object; /* asked for last; `object` 0: it has no row */
	uint64_t asked;
	uint64_t *seen; /* a bit a block of the arena: some slot has its home there */
	uint64_t *dead; /* the same: only snapshots have it */
	uint64_t n_blocks, n_seen, reserved, n_inodes;
	void *data;
	struct inode *in;         /* being checked */
	uint64_t used;            /* slots in use of `in` */
	struct usage_check usage; /* of `in`, a directory */
	bool recount;             /* totals of directories are wrong: they are given up, so that a mount makes them anew */
};

static void finding(struct check *c, uint64_t *counter, uint64_t ino, const char *fmt, ...) PRINTF_LIKE(4, 5);
static void finding(struct check *c, uint64_t *counter, uint64_t ino, const char *fmt, ...)
{
	char path[256], what[256], line[640];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	fs_path(c->fs, ino, path, sizeof(path));
	snprintf(line, sizeof(line), "%s (inode %llu): %s", path, (unsigned long long)ino, what);
	(*counter)++;
	c->report(c->ctx, line);
}

#define STRUCTURE(c, ino, ...)  finding(c, &(c)->res->structure_errors, ino, __VA_ARGS__)
#define ACCOUNTING(c, ino, ...) finding(c, &(c)->res->accounting_errors, ino, __VA_ARGS__)

/* Chunks lie one after the other, so a block's number is its bit. */
static void see_home(struct check *c, uint64_t block, const struct slot *s)
{
	const pointer_t home = s->home;
	uint64_t b = pointer_block(home);
	bool ok;

	if (pointer_device(home) != DEVICE_ARENA_FIRST || b >= c->n_blocks) {
		STRUCTURE(c, c->in->ino, "block %llu points outside the arena: restore the file", (unsigned long long)block);
		return;
	}
	bool seen = c->seen[b / 64] >> (b % 64) & 1;
	if (share_check_see(c->shares, home, seen, s->shared, &ok) < 0)
		STRUCTURE(c, c->in->ino, "out of memory while counting references to shared blocks");
	else if (!ok)
		STRUCTURE(c, c->in->ino, "block %llu shares its home with another block: restore both files",
			  (unsigned long long)block);
	if (!arena_is_used(c->fs->arena, home))
		ACCOUNTING(c, c->in->ino, "block %llu is free in the bitmap: it must be marked used", (unsigned long long)block);
	c->seen[b / 64] |= UINT64_C(1) << (b % 64);
	c->n_seen++;
}

/* Each block against its checksum; one at a time where a run fails, so that each damaged block is named. */
static void verify_leaf(struct check *c, uint64_t leaf, const struct leaf *l)
{
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		uint64_t block = leaf * LEAF_SLOTS + i;

		if (!slot_has_data(&l->slot[i]))
			continue;
		int r = extent_read(c->fs, c->in->ino, block, 1, c->data);
		if (r == -EINPROGRESS)
			tier_take_miss();
		if (r == 0)
			c->res->bytes_verified += BLOCK_SIZE;
		else if (slot_cold(&l->slot[i]) && r == -EINPROGRESS)
			c->res->cold_blocks++;
		else
			finding(c, &c->res->damaged_blocks, c->in->ino, "bytes %llu to %llu are damaged: %s",
				(unsigned long long)(block * BLOCK_SIZE), (unsigned long long)((block + 1) * BLOCK_SIZE - 1),
				r == -EINPROGRESS ? "the file must be evicted, its object has them" : "restore them from a copy");
	}
}

/* The leaf's object, with its row. */
static void check_object(struct check *c, uint64_t leaf, const struct leaf *l)
{
	uint64_t block = leaf * LEAF_SLOTS, object = l->object.id;

	if (c->asked != object && objects_get(c->fs, object, &c->object) < 0)
		c->object.object = 0; /* one that cannot be read is told of by check_objects() */
	c->asked = object;
	if (c->object.object == 0)
		STRUCTURE(c, c->in->ino,
			  "blocks from %llu on lie in object %016llx, which no row knows: restore them from a copy",
			  (unsigned long long)block, (unsigned long long)object);
	else if (l->object.offset + (uint64_t)l->object.len > c->object.bytes)
		STRUCTURE(c, c->in->ino, "blocks from %llu on lie behind the end of object %016llx: restore them from a copy",
			  (unsigned long long)block, (unsigned long long)object);
	if (refs_add(c->live, object, (uint64_t)__builtin_popcount(leaf_tiered(l))) < 0)
		STRUCTURE(c, c->in->ino, "out of memory while counting what is live of objects");
}

static int check_leaf(void *ctx, uint64_t leaf, const struct leaf *l)
{
	struct check *c = ctx;
	bool data = false;

	c->res->leaves++;
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		const struct slot *s = &l->slot[i];

		c->used += slot_used(s);
		c->res->blocks += slot_used(s);
		c->reserved += slot_reserved(s);
		data |= slot_has_data(s);
		if (s->home)
			see_home(c, leaf * LEAF_SLOTS + i, s);
	}
	for (uint32_t i = 0; i < l->pack.n_blocks; i++)
		see_home(c, leaf * LEAF_SLOTS, &(const struct slot){.home = pointer_add(l->pack.start, i)});
	if (l->object.id)
		check_object(c, leaf, l);
	if (!c->verify_data || !data)
		return 0;
	/* The whole leaf in one go; block by block only when something is wrong with it, or cold. */
	if (leaf_cold(l) || extent_read(c->fs, c->in->ino, leaf * LEAF_SLOTS, LEAF_SLOTS, c->data) < 0) {
		verify_leaf(c, leaf, l);
		return 0;
	}
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		c->res->bytes_verified += slot_has_data(&l->slot[i]) ? BLOCK_SIZE : 0;
	return 0;
}

typedef void prefix_fn(struct check *c, struct slice key, struct slice value);

static int each_within(struct check *c, enum index_table table, uint64_t ino, prefix_fn *fn, uint64_t *ret_n)
{
	struct index_key k = key_ino(table, ino);
	struct kv *kv = c->fs->kv;
	struct kv_iter *it;
	int r = kv->ops->iter_open(kv, &it);

	*ret_n = 0;
	if (r < 0)
		return r;
	for (kv->ops->iter_seek(it, key_slice(&k)); kv->ops->iter_valid(it); kv->ops->iter_next(it)) {
		if (!key_within(kv->ops->iter_key(it), table, ino))
			break;
		(*ret_n)++;
		if (fn)
			fn(c, kv->ops->iter_key(it), kv->ops->iter_value(it));
	}
	r = kv->ops->iter_error(it);
	kv->ops->iter_close(it);
	return r;
}

static void check_entry(struct check *c, struct slice key, struct slice value)
{
	struct dentry shown, named;
	struct inode child;
	struct slice name;

	c->res->entries++;
	if (key.len != 17 || cookie_decode(value, &shown, &name) < 0) {
		STRUCTURE(c, c->in->ino, "a directory entry cannot be read: it must be removed");
		return;
	}
	int len = (int)name.len;
	uint64_t cookie = be64_get((const uint8_t *)key.p + 9);
	if (index_get_dentry(c->fs->kv, c->in->ino, name, &named) < 0 || named.ino != shown.ino || named.cookie != cookie)
		STRUCTURE(c, c->in->ino, "entry \"%.*s\" can be listed but not looked up: it must be entered again", len,
			  (const char *)name.p);
	if (cookie >= c->in->next_cookie)
		STRUCTURE(c, c->in->ino, "entry \"%.*s\" is beyond the directory's next cookie", len, (const char *)name.p);
	if (index_get_inode(c->fs->kv, shown.ino, &child) < 0) {
		STRUCTURE(c, c->in->ino, "entry \"%.*s\" names inode %llu, which does not exist: it must be removed", len,
			  (const char *)name.p, (unsigned long long)shown.ino);
		return;
	}
	if ((child.mode & S_IFMT) != shown.type)
		STRUCTURE(c, c->in->ino, "entry \"%.*s\" says another type than its inode", len, (const char *)name.p);
	c->used += S_ISDIR(child.mode);
	usage_check_entry(c->fs, &c->usage, &child, cookie);
	if (refs_add(c->links, shown.ino, 1) < 0)
		STRUCTURE(c, c->in->ino, "out of memory while counting links");
}

static int check_dir(struct check *c)
{
	uint64_t listed, named;

	usage_check_begin(&c->usage, c->in);
	int r = each_within(c, TABLE_COOKIE, c->in->ino, check_entry, &listed);

	if (r == 0)
		r = each_within(c, TABLE_DENTRY, c->in->ino, NULL, &named);
	if (r < 0)
		return r;
	c->res->directories++;
	if (listed != named)
		STRUCTURE(c, c->in->ino, "%llu entries can be listed, %llu looked up", (unsigned long long)listed,
			  (unsigned long long)named);
	if (c->in->size != listed)
		ACCOUNTING(c, c->in->ino, "says %llu entries, has %llu", (unsigned long long)c->in->size,
			   (unsigned long long)listed);
	if (c->in->nlink != 0 && usage_is_known(c->fs)) {
		usage_check_end(c->fs, &c->usage);
		c->recount |= c->usage.wrong != NULL;
		if (c->usage.wrong)
			ACCOUNTING(c, c->in->ino, "%s: the next mount counts again", c->usage.wrong);
	}
	if (c->in->nlink != 0 && c->in->nlink != 2 + c->used)
		ACCOUNTING(c, c->in->ino, "link count is %u, should be %llu", c->in->nlink, (unsigned long long)(2 + c->used));
	return 0;
}

static int check_inode(struct check *c, struct inode *in)
{
	uint64_t xattrs = 0;
	int r = 0;

	c->in = in;
	c->used = 0;
	c->res->inodes++;
	if (S_ISREG(in->mode)) {
		r = extent_each(c->fs, in, 0, check_leaf, c);
		if (r == 0 && c->used != in->blocks)
			ACCOUNTING(c, in->ino, "says %llu blocks, has %llu", (unsigned long long)in->blocks,
				   (unsigned long long)c->used);
	} else if (S_ISDIR(in->mode)) {
		r = check_dir(c);
	}
	if (r == -EBADMSG || r == -EUCLEAN) {
		STRUCTURE(c, in->ino, "part of its index cannot be read: restore it");
		r = 0;
	}
	const char *wrong = usage_is_known(c->fs) ? usage_check_names(c->fs, in) : NULL;
	c->recount |= wrong != NULL;
	if (wrong)
		ACCOUNTING(c, in->ino, "%s: the next mount counts again", wrong);
	if (r == 0)
		r = each_within(c, TABLE_XATTR, in->ino, NULL, &xattrs);
	if (r == 0 && xattrs != in->n_xattr)
		ACCOUNTING(c, in->ino, "says %u extended attributes, has %llu", in->n_xattr, (unsigned long long)xattrs);
	return r;
}

/* Calls fn for every inode in the index, in order. */
static int each_inode(struct check *c, int (*fn)(struct check *c, struct inode *in))
{
	struct index_key k = key_ino(TABLE_INODE, 0);
	struct kv *kv = c->fs->kv;
	struct kv_iter *it;
	int r = kv->ops->iter_open(kv, &it);

	if (r < 0)
		return r;
	for (kv->ops->iter_seek(it, key_slice(&k)); r == 0 && kv->ops->iter_valid(it); kv->ops->iter_next(it)) {
		struct slice key = kv->ops->iter_key(it);
		struct inode in;

		if (*(const uint8_t *)key.p != TABLE_INODE)
			break;
		uint64_t ino = key.len == 9 ? be64_get((const uint8_t *)key.p + 1) : 0;
		if (ino == 0 || inode_decode(kv->ops->iter_value(it), ino, &in) < 0)
			STRUCTURE(c, ino, "the inode cannot be read: it must be restored");
		else
			r = fn(c, &in);
	}
	if (r == 0)
		r = kv->ops->iter_error(it);
	kv->ops->iter_close(it);
	return r;
}

static int check_links(struct check *c, struct inode *in)
{
	uint64_t names = refs_get(c->links, in->ino),
		 want = S_ISDIR(in->mode) ? in->nlink > 0 && in->ino != FS_ROOT_INO : in->nlink;
	struct index_key k = key_ino(TABLE_ORPHAN, in->ino);
	uint8_t byte;
	size_t len;

	c->n_inodes++;
	if (names != want)
		ACCOUNTING(c, in->ino, "has %llu names, its link count says %llu", (unsigned long long)names,
			   (unsigned long long)want);
	if (in->nlink == 0 && kv_get(c->fs->kv, key_slice(&k), &byte, 1, &len) < 0)
		ACCOUNTING(c, in->ino, "has no name and is not listed as an orphan: it must be reaped");
	return 0;
}

/* Rows of `table` that belong to no inode. */
static int check_strays(struct check *c, enum index_table table, const char *what)
{
	struct index_key k = key_ino(table, 0);
	struct kv *kv = c->fs->kv;
	uint64_t last = 0;
	struct kv_iter *it;
	int r = kv->ops->iter_open(kv, &it);

	if (r < 0)
		return r;
	for (kv->ops->iter_seek(it, key_slice(&k)); kv->ops->iter_valid(it); kv->ops->iter_next(it)) {
		struct slice key = kv->ops->iter_key(it);
		struct inode in;

		if (*(const uint8_t *)key.p != (uint8_t)table)
			break;
		uint64_t ino = key.len >= 9 ? be64_get((const uint8_t *)key.p + 1) : 0;
		if (ino != last && index_get_inode(kv, ino, &in) < 0)
			STRUCTURE(c, ino, "%s without an inode: to be removed", what);
		last = ino;
	}
	r = kv->ops->iter_error(it);
	kv->ops->iter_close(it);
	return r;
}

/* The epochs, one row each: a later one began where the one before ended, or behind. */
static int check_history(struct check *c)
{
	struct index_key k = key_ino(TABLE_HISTORY, 0);
	struct kv *kv = c->fs->kv;
	uint64_t last = 0;
	struct kv_iter *it;
	int r = kv->ops->iter_open(kv, &it);

	if (r < 0)
		return r;
	for (kv->ops->iter_seek(it, key_slice(&k)); kv->ops->iter_valid(it); kv->ops->iter_next(it)) {
		struct slice key = kv->ops->iter_key(it), value = kv->ops->iter_value(it);
		le64 seq = {{0}};

		if (*(const uint8_t *)key.p != TABLE_HISTORY)
			break;
		bool whole = key.len == 9 && value.len == sizeof(seq);
		if (whole)
			memcpy(&seq, value.p, sizeof(seq));
		if (!whole || le64_get(seq) < last)
			STRUCTURE(c, FS_ROOT_INO, "the history of epochs contradicts itself: resync this node");
		last = max_u64(last, le64_get(seq));
	}
	r = kv->ops->iter_error(it);
	kv->ops->iter_close(it);
	return r;
}

static int check_row(void *ctx, const struct object_row *o)
{
	struct check *c = ctx;
	uint64_t live = refs_get(c->live, o->object);

	c->res->objects++;
	if (o->n_live != live)
		ACCOUNTING(c, FS_ROOT_INO, "object %016llx has %u blocks live by its row, leaves have %llu",
			   (unsigned long long)o->object, o->n_live, (unsigned long long)live);
	return 0;
}

static int check_objects(struct check *c)
{
	int r = objects_each(c->fs, 0, check_row, c);

	if (r == -EBADMSG || r == -EUCLEAN) {
		STRUCTURE(c, FS_ROOT_INO, "a row of the table of objects cannot be read: resync this node, or restore it");
		r = 0;
	}
	return r;
}

static void share_found(void *ctx, pointer_t home, uint64_t row, uint64_t counted)
{
	struct check *c = ctx;

	if (row == UINT64_MAX)
		STRUCTURE(c, FS_ROOT_INO, "a row of the table of shared blocks cannot be read: resync this node, or restore it");
	else
		ACCOUNTING(c, FS_ROOT_INO, "block %llu of device %u has %llu references by its row, leaves have %llu",
			   (unsigned long long)pointer_block(home), pointer_device(home), (unsigned long long)row + 1,
			   (unsigned long long)counted + 1);
}

static void snap_found(void *ctx, bool accounting, const char *line)
{
	struct check *c = ctx;

	(*(accounting ? &c->res->accounting_errors : &c->res->structure_errors))++;
	c->report(c->ctx, line);
}

static void snap_damaged(void *ctx)
{
	struct check *c = ctx;

	c->res->damaged_blocks++;
	c->res->structure_errors--; /* found() counts it there, too */
}

static int check_snapshots(struct check *c)
{
	struct snap_check s = {.fs = c->fs,
			       .verify_data = c->verify_data,
			       .n_blocks = c->n_blocks,
			       .live = c->seen,
			       .dead = c->dead,
			       .bytes_verified = &c->res->bytes_verified,
			       .found = snap_found,
			       .damaged = snap_damaged,
			       .ctx = c};

	return snap_check_blocks(&s);
}

static void check_space(struct check *c)
{
	struct arena_status as;
	uint64_t leaked = 0;

	arena_get_status(c->fs->arena, &as);
	for (uint64_t b = 0; b < c->n_blocks; b++)
		leaked += !((c->seen[b / 64] | c->dead[b / 64]) >> (b % 64) & 1) &&
			  arena_is_used(c->fs->arena, pointer_make(DEVICE_ARENA_FIRST, b)) &&
			  !quarantine_has(c->fs, pointer_make(DEVICE_ARENA_FIRST, b));
	if (leaked)
		ACCOUNTING(c, FS_ROOT_INO, "%llu blocks are marked used and belong to nothing: to be freed",
			   (unsigned long long)leaked);
	if (c->reserved != as.reserved_blocks)
		ACCOUNTING(c, FS_ROOT_INO, "%llu blocks are reserved, slots need %llu", (unsigned long long)as.reserved_blocks,
			   (unsigned long long)c->reserved);
	if (c->n_inodes != atomic_load(&c->fs->n_inodes))
		ACCOUNTING(c, FS_ROOT_INO, "%llu inodes counted, the anchor says %llu", (unsigned long long)c->n_inodes,
			   (unsigned long long)atomic_load(&c->fs->n_inodes));
}

static int check_all(struct check *c)
{
	int r = icache_save(c->fs->icache); /* the walk reads the index */

	if (r == 0)
		r = lcache_save(c->fs->lcache);
	if (r == 0)
		r = usage_keep(c->fs, true);
	if (r == 0)
		r = each_inode(c, check_inode);
	if (r == 0)
		r = each_inode(c, check_links);
	if (r == 0)
		r = check_strays(c, TABLE_EXTENT, "data");
	if (r == 0)
		r = check_strays(c, TABLE_XATTR, "extended attributes");
	if (r == 0)
		r = check_strays(c, TABLE_TARGET, "a symlink target");
	if (r == 0)
		r = check_strays(c, TABLE_COOKIE, "directory entries");
	if (r == 0)
		r = check_strays(c, TABLE_POLICY, "policies");
	if (r == 0)
		r = check_strays(c, TABLE_NAME, "a row of names");
	if (r == 0)
		r = check_strays(c, TABLE_USAGE, "a total");
	if (r == 0)
		r = check_history(c);
	if (r == 0)
		r = check_objects(c);
	if (r == 0)
		r = share_check_rows(c->shares, c->fs, share_found, c);
	if (r == 0)
		r = check_snapshots(c);
	if (r == 0)
		check_space(c);
	if (r == -EBADMSG || r == -EUCLEAN || r == -EIO) {
		STRUCTURE(c, FS_ROOT_INO, "part of the index cannot be read: %s; restore the volume from a replica",
			  strerror(-r));
		r = 0;
	}
	return r;
}

int fs_check(struct fs *fs, bool verify_data, void (*report)(void *ctx, const char *line), void *ctx, struct fs_check_result *ret)
{
	struct check c = {.fs = fs, .verify_data = verify_data, .report = report, .ctx = ctx, .res = ret};
	struct arena_status as;

	*ret = (struct fs_check_result){0};
	arena_get_status(fs->arena, &as);
	c.n_blocks = as.total_blocks;
	int r = refs_new(&c.links);
	if (r < 0)
		return r;
	r = refs_new(&c.live);
	if (r < 0) {
		refs_free(c.links);
		return r;
	}
	r = share_check_new(c.n_blocks, &c.shares);
	c.seen = calloc(c.n_blocks / 64 + 1, sizeof(*c.seen));
	c.dead = calloc(c.n_blocks / 64 + 1, sizeof(*c.dead));
	if (r < 0 || !c.seen || !c.dead || posix_memalign(&c.data, DISK_BLOCK, LEAF_SLOTS * BLOCK_SIZE))
		r = -ENOMEM;
	else
		r = check_all(&c);
	if (c.recount)
		usage_forget(fs);
	free(c.data);
	free(c.dead);
	free(c.seen);
	share_check_free(c.shares);
	refs_free(c.live);
	refs_free(c.links);
	return r;
}
