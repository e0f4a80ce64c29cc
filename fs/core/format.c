/*
 * format.c: a new volume: ring, first chunk, index with the root directory and an anchor, and last the superblock, without which
 * there is no volume.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/index.h"
#include "fs/core/open_impl.h"
#include "fs/store/super_format.h"

static int format_index(struct fs *fs, const struct fs_format_options *o)
{
	int64_t now = clock_real_ns(fs->clock);
	struct arena_status as;
	struct inode root = {.ino = FS_ROOT_INO,
			     .mode = S_IFDIR | (o->root_mode ? o->root_mode & 07777 : 0755),
			     .uid = o->root_uid,
			     .gid = o->root_gid,
			     .nlink = 2,
			     .atime_ns = now,
			     .mtime_ns = now,
			     .ctime_ns = now,
			     .btime_ns = now,
			     .parent = FS_ROOT_INO,
			     .next_cookie = 3};

	arena_get_status(fs->arena, &as);
	struct anchor a = {
	    .tail = {0, 1, 0}, .next_ino = FS_ROOT_INO + 1, .n_inodes = 1, .n_chunks = as.n_chunks}; /* no epoch has begun */
	memcpy(a.volume, fs->super.volume, sizeof(a.volume));
	int r = index_put_inode(fs->kv, &root);
	if (r < 0)
		return r;
	struct kv_batch *b = index_batch();
	index_put_anchor(b, &a);
	r = kv_write(fs->kv, b);
	if (r == 0)
		r = fs->kv->ops->freeze(fs->kv);
	return r < 0 ? r : fs->kv->ops->flush_frozen(fs->kv);
}

static int given_or_random(const uint8_t given[16], uint8_t ret_uuid[16])
{
	static const uint8_t none[16];

	memcpy(ret_uuid, given, sizeof(none));
	return memcmp(given, none, sizeof(none)) == 0 ? uuid_random(ret_uuid) : 0;
}

static int format_super(const struct fs_format_options *o, const struct fs *fs, struct super *ret)
{
	uint32_t node_id = o->node_id ? o->node_id : 1;

	*ret = (struct super){.epoch = o->epoch || o->follower ? o->epoch : epoch_make(1, node_id),
			      .node_id = node_id,
			      .follower = o->follower,
			      .resyncing = o->follower,
			      .clean = true,
			      .incompat = fs->config.encryption ? SUPER_ENCRYPTED : 0,
			      .journal_segments = o->journal.n_segments,
			      .journal_segment_kib = (uint32_t)(o->journal.segment_blocks * BLOCK_SIZE / KIB),
			      .chunk_kib = (uint32_t)(o->chunk_bytes / KIB),
			      .max_blocks = o->max_bytes ? o->max_bytes / BLOCK_SIZE : UINT64_MAX,
			      .host_reserve = o->host_reserve,
			      .created_ns = clock_real_ns(fs->clock),
			      .version = SUPER_FORMAT_VERSION};
	snprintf(ret->label, sizeof(ret->label), "%s", o->label ? o->label : "");
	int r = given_or_random(o->volume, ret->volume);
	return r < 0 ? r : given_or_random(o->node, ret->node);
}

int fs_format(const struct fs_config *c, const struct fs_format_options *o)
{
	struct super existing;
	struct fs *fs;
	int r = super_read(c->store, &existing);

	if (r != -ENODATA)
		return r == 0 || r == -EBADMSG || r == -EPROTONOSUPPORT || r == -EUCLEAN ? -EEXIST : r;
	r = fs_new(c, &fs);
	if (r < 0)
		return r;
	r = format_super(o, fs, &fs->super);
	if (r == 0)
		r = journal_format(fs->store, &o->journal);
	if (r == 0)
		r = fs_open_arena(fs, 0);
	if (r == 0) { /* makes the first chunk */
		r = arena_reserve(fs->arena, 1);
		if (r == 0)
			arena_unreserve(fs->arena, 1);
	}
	if (r == 0)
		r = c->kv_open(c->kv_ctx, true, &fs->kv);
	if (r == 0)
		r = format_index(fs, o);
	if (r == 0)
		ballast_lay(fs);
	if (r == 0)
		r = store_sync_names(fs->store);
	if (r == 0) /* last: without it there is no volume here */
		r = super_create(fs->store, &fs->super);
	if (r == 0)
		r = store_sync_names(fs->store);
	fs_free(fs);
	return r;
}
