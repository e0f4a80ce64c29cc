/*
 * index.h: typed access to the index: keys and values of index_format.h over a struct kv.
 *
 * Threads: any; who may change what is the callers' locks.  Errors: -ENOENT, -EUCLEAN for a value that cannot be, and
 * those of kv.h.  Nothing read from the index is trusted beyond its own checks.
 */
#pragma once

#include "fs/core/icache.h"
#include "fs/core/index_format.h"
#include "fs/core/leaf.h"
#include "fs/store/kv.h"

struct index_key {
	uint8_t b[INDEX_KEY_MAX];
	size_t len;
};
struct index_key key_ino(enum index_table table, uint64_t ino);
struct index_key key_pair(enum index_table table, uint64_t a, uint64_t b);
struct index_key key_name(enum index_table table, uint64_t ino, struct slice name);
static inline struct slice key_slice(const struct index_key *k) { return (struct slice){k->b, k->len}; }
/* Does `key` start with the table byte and the 8 bytes of `ino`? */
bool key_within(struct slice key, enum index_table table, uint64_t ino);

static inline struct slice slice_of(const char *s) { return (struct slice){s, __builtin_strlen(s)}; }

/* This thread's batch, empty: one change of the index at a time. */
struct kv_batch *index_batch(void);

MUST_CHECK int index_get_inode(struct kv *kv, uint64_t ino, struct inode *ret);
MUST_CHECK int index_put_inode(struct kv *kv, const struct inode *in);
MUST_CHECK int index_delete_inode(struct kv *kv, uint64_t ino);
MUST_CHECK int inode_decode(struct slice value, uint64_t ino, struct inode *ret);

struct dentry {
	uint64_t ino, cookie;
	uint32_t type;
};
MUST_CHECK int index_get_dentry(struct kv *kv, uint64_t parent, struct slice name, struct dentry *ret);
/* Both keys of a name: D and C. */
void index_put_dentry(struct kv_batch *b, uint64_t parent, struct slice name, const struct dentry *d);
void index_delete_dentry(struct kv_batch *b, uint64_t parent, struct slice name, uint64_t cookie);
/* A value of table C: *ret_name borrows from it. */
MUST_CHECK int cookie_decode(struct slice value, struct dentry *ret, struct slice *ret_name);
/* The name at `cookie` of a directory; *ret is who has it, without a cookie. */
MUST_CHECK int index_get_name(struct kv *kv, uint64_t parent, uint64_t cookie, struct dentry *ret, char ret_name[256]);

MUST_CHECK int index_get_leaf(struct kv *kv, uint64_t ino, uint64_t leaf, struct leaf *ret);
void index_put_leaf(struct kv_batch *b, uint64_t ino, uint64_t leaf, const struct leaf *l); /* an empty leaf is deleted */

struct anchor {
	uint8_t volume[16];
	uint64_t applied_seq;
	struct {
		uint64_t seq, pos, hash;
	} tail;
	uint64_t next_ino, epoch, snapshot_generation, reserved_blocks, n_inodes;
	uint32_t n_chunks;
};
MUST_CHECK int index_get_anchor(struct kv *kv, struct anchor *ret);
void index_put_anchor(struct kv_batch *b, const struct anchor *a);
