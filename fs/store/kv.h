/*
 * kv.h: the ordered key-value store under the index, as a table of functions: RocksDB in the product (kv_rocksdb.c), an
 * exact in-memory one with the same durability rules in the simulator (tests/lib).
 *
 * Durability: nothing put is durable until kv_freeze() and then kv_flush_frozen() returned 0; then exactly everything
 * put before the freeze is, atomically.  The implementation must never persist anything on its own: memory may hold what
 * the journal has not made durable yet.
 * Ownership: values are copied out.  Threads: any, all at once, but freeze and close.
 * Errors: -ENOENT, -ERANGE (value longer than cap; its length is told), -EBADMSG (the store's own checksum), -ENOSPC, -EIO, -ENOMEM.
 * Limits: keys to 300 bytes, values to 70,000.
 * Snapshots are created and removed by one thread at a time.
 */
#pragma once

#include "base/buf.h"

struct kv;
struct kv_iter;

/* Puts and deletes applied together, in order. */
struct kv_batch {
	struct buf ops; /* u8 op | u32 key len | u32 value len | key | value, host endian */
	uint32_t n;
};
enum { KV_PUT = 1, KV_DELETE = 2 };

struct kv_ops {
	int (*get)(struct kv *kv, struct slice key, void *p, size_t cap, size_t *ret_len);
	int (*write)(struct kv *kv, const struct kv_batch *b);
	int (*iter_open)(struct kv *kv, struct kv_iter **ret_iter); /* sees the store as it is now */
	void (*iter_seek)(struct kv_iter *it, struct slice key);    /* to the first key >= */
	void (*iter_next)(struct kv_iter *it);
	bool (*iter_valid)(struct kv_iter *it);
	struct slice (*iter_key)(struct kv_iter *it);               /* borrowed until the next call on `it` */
	struct slice (*iter_value)(struct kv_iter *it);
	int (*iter_error)(struct kv_iter *it);                      /* 0, or why it is not valid */
	void (*iter_close)(struct kv_iter *it);
	/* Everything written so far, and nothing written later, is what flush_frozen makes durable.  Quick. */
	int (*freeze)(struct kv *kv);
	int (*flush_frozen)(struct kv *kv);                         /* blocks until durable */
	uint64_t (*memory_bytes)(struct kv *kv);                    /* in memtables: grows with writes, falls after a flush */
	void (*describe)(struct kv *kv, struct buf *out);           /* a few words for status and bug reports */
	/*
	 * Snapshots: the store as it is, kept under a number of the caller's, at a cost that does not depend on its size.  create:
	 * flush_frozen returned and nothing was written since the freeze; once it returned 0 the snapshot is durable, a crash
	 * before leaves it whole or not at all.  -EEXIST; -EOPNOTSUPP where there is no place for them.
	 */
	int (*snapshot_create)(struct kv *kv, uint64_t id);
	int (*snapshot_remove)(struct kv *kv, uint64_t id);         /* nobody has it open; -ENOENT */
	/* To be read only: write is -EROFS.  It does not need `kv` any more.  -ENOENT, -EBADMSG. */
	int (*snapshot_open)(struct kv *kv, uint64_t id, struct kv **ret_kv);
	/* Those there are, in any order; what an unfinished create left behind is none. */
	int (*snapshot_each)(struct kv *kv, int (*fn)(void *ctx, uint64_t id), void *ctx);
	/* Gives up what was never frozen and flushed. */
	void (*close)(struct kv *kv);
};
struct kv {
	const struct kv_ops *ops;
};

static inline MUST_CHECK int kv_get(struct kv *kv, struct slice key, void *p, size_t cap, size_t *ret_len)
{
	return kv->ops->get(kv, key, p, cap, ret_len);
}
static inline MUST_CHECK int kv_write(struct kv *kv, const struct kv_batch *b) { return b->n ? kv->ops->write(kv, b) : 0; }
static inline struct kv *kv_close(struct kv *kv)
{
	if (kv)
		kv->ops->close(kv);
	return NULL;
}

/* Builders; running out of memory is sticky in b->ops.failed and kv_write returns -ENOMEM. */
void kv_batch_put(struct kv_batch *b, struct slice key, struct slice value);
void kv_batch_delete(struct kv_batch *b, struct slice key);
void kv_batch_reset(struct kv_batch *b);
void kv_batch_free(struct kv_batch *b);
/* Walks b: *at starts at 0; false at the end. */
bool kv_batch_next(const struct kv_batch *b, size_t *at, uint8_t *ret_op, struct slice *ret_key, struct slice *ret_value);

/*
 * RocksDB in `dir` (made when `create`): one column family, its own log off, automatic flushes off, block checksums
 * checked on every read, memory bounded by `cache_bytes` plus memtables.  Call after the last fork.
 */
struct kv_rocksdb_options {
	uint64_t cache_bytes;
	uint32_t max_open_files;
	bool create;
	const char *snap_dir; /* directory of its snapshots, on the same filesystem; made when needed; NULL: there are none */
};
MUST_CHECK int kv_rocksdb_open(const char *dir, const struct kv_rocksdb_options *o, struct kv **ret_kv);
/* Reads every block of every table file and checks it: -EBADMSG names files in the log; for fsck and scrub. */
MUST_CHECK int kv_rocksdb_verify(struct kv *kv);
