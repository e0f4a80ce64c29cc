/* index.c: keys are built on the stack, values decoded with bounds; nothing here locks or caches. */
#include "fs/core/index.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/crc32c.h"

struct index_key key_ino(enum index_table table, uint64_t ino)
{
	struct index_key k = {.len = 9};

	k.b[0] = (uint8_t)table;
	be64_put(k.b + 1, ino);
	return k;
}

struct index_key key_pair(enum index_table table, uint64_t a, uint64_t b)
{
	struct index_key k = key_ino(table, a);

	be64_put(k.b + 9, b);
	k.len = 17;
	return k;
}

struct index_key key_name(enum index_table table, uint64_t ino, struct slice name)
{
	struct index_key k = key_ino(table, ino);

	memcpy(k.b + 9, name.p, name.len < 255 ? name.len : 255);
	k.len = 9 + (name.len < 255 ? name.len : 255);
	return k;
}

bool key_within(struct slice key, enum index_table table, uint64_t ino)
{
	struct index_key k = key_ino(table, ino);

	return key.len >= 9 && memcmp(key.p, k.b, 9) == 0;
}

static void batch_destroy(void *p)
{
	kv_batch_free(p);
	free(p);
}

static pthread_key_t batch_key;
static void batch_key_make(void)
{
	pthread_key_create(&batch_key, batch_destroy);
}

struct kv_batch *index_batch(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	static __thread struct kv_batch *mine;
	static struct kv_batch none = {.ops.failed = true, .n = 1}; /* out of memory: kv_write says so */

	pthread_once(&once, batch_key_make);
	if (!mine) {
		mine = calloc(1, sizeof(*mine));
		if (!mine)
			return &none;
		pthread_setspecific(batch_key, mine);
	}
	kv_batch_reset(mine);
	return mine;
}

int inode_decode(struct slice value, uint64_t ino, struct inode *ret)
{
	struct inode_value v;

	if (value.len != sizeof(v))
		return -EUCLEAN;
	memcpy(&v, value.p, sizeof(v));
	*ret = (struct inode){
	    .ino = ino,
	    .mode = le32_get(v.mode),
	    .uid = le32_get(v.uid),
	    .gid = le32_get(v.gid),
	    .nlink = le32_get(v.nlink),
	    .n_xattr = le32_get(v.n_xattr),
	    .size = le64_get(v.size),
	    .blocks = le64_get(v.blocks),
	    .atime_ns = (int64_t)le64_get(v.atime_ns),
	    .mtime_ns = (int64_t)le64_get(v.mtime_ns),
	    .ctime_ns = (int64_t)le64_get(v.ctime_ns),
	    .btime_ns = (int64_t)le64_get(v.btime_ns),
	    .rdev = le64_get(v.rdev),
	    .parent = le64_get(v.parent),
	    .cookie = le64_get(v.cookie),
	    .next_cookie = le64_get(v.next_cookie),
	};
	return v.version == 1 && (ret->mode & S_IFMT) != 0 && ret->size <= INT64_MAX ? 0 : -EUCLEAN;
}

int index_get_inode(struct kv *kv, uint64_t ino, struct inode *ret)
{
	struct index_key k = key_ino(TABLE_INODE, ino);
	struct inode_value v;
	size_t len;
	int r = kv_get(kv, key_slice(&k), &v, sizeof(v), &len);

	if (r < 0)
		return r == -ERANGE ? -EUCLEAN : r;
	return inode_decode((struct slice){&v, len}, ino, ret);
}

int index_put_inode(struct kv *kv, const struct inode *in)
{
	struct index_key k = key_ino(TABLE_INODE, in->ino);
	struct inode_value v = {
	    .version = 1,
	    .mode = le32_make(in->mode),
	    .uid = le32_make(in->uid),
	    .gid = le32_make(in->gid),
	    .nlink = le32_make(in->nlink),
	    .n_xattr = le32_make(in->n_xattr),
	    .size = le64_make(in->size),
	    .blocks = le64_make(in->blocks),
	    .atime_ns = le64_make((uint64_t)in->atime_ns),
	    .mtime_ns = le64_make((uint64_t)in->mtime_ns),
	    .ctime_ns = le64_make((uint64_t)in->ctime_ns),
	    .btime_ns = le64_make((uint64_t)in->btime_ns),
	    .rdev = le64_make(in->rdev),
	    .parent = le64_make(in->parent),
	    .cookie = le64_make(in->cookie),
	    .next_cookie = le64_make(in->next_cookie),
	};
	struct kv_batch one = {0};

	kv_batch_put(&one, key_slice(&k), (struct slice){&v, sizeof(v)});
	int r = kv_write(kv, &one);
	kv_batch_free(&one);
	return r;
}

int index_delete_inode(struct kv *kv, uint64_t ino)
{
	struct index_key k = key_ino(TABLE_INODE, ino);
	struct kv_batch one = {0};

	kv_batch_delete(&one, key_slice(&k));
	int r = kv_write(kv, &one);
	kv_batch_free(&one);
	return r;
}

int index_get_dentry(struct kv *kv, uint64_t parent, struct slice name, struct dentry *ret)
{
	struct index_key k = key_name(TABLE_DENTRY, parent, name);
	struct dentry_value v;
	size_t len;
	int r = kv_get(kv, key_slice(&k), &v, sizeof(v), &len);

	if (r < 0)
		return r == -ERANGE ? -EUCLEAN : r;
	if (len != sizeof(v))
		return -EUCLEAN;
	*ret = (struct dentry){.ino = le64_get(v.ino), .cookie = le64_get(v.cookie), .type = le32_get(v.type)};
	return 0;
}

void index_put_dentry(struct kv_batch *b, uint64_t parent, struct slice name, const struct dentry *d)
{
	struct index_key dk = key_name(TABLE_DENTRY, parent, name), ck = key_pair(TABLE_COOKIE, parent, d->cookie);
	struct dentry_value dv = {.ino = le64_make(d->ino), .cookie = le64_make(d->cookie), .type = le32_make(d->type)};
	struct cookie_value cv = {.ino = dv.ino, .type = dv.type};
	uint8_t value[sizeof(cv) + 255];

	memcpy(value, &cv, sizeof(cv));
	memcpy(value + sizeof(cv), name.p, name.len);
	kv_batch_put(b, key_slice(&dk), (struct slice){&dv, sizeof(dv)});
	kv_batch_put(b, key_slice(&ck), (struct slice){value, sizeof(cv) + name.len});
}

void index_delete_dentry(struct kv_batch *b, uint64_t parent, struct slice name, uint64_t cookie)
{
	struct index_key dk = key_name(TABLE_DENTRY, parent, name), ck = key_pair(TABLE_COOKIE, parent, cookie);

	kv_batch_delete(b, key_slice(&dk));
	kv_batch_delete(b, key_slice(&ck));
}

int cookie_decode(struct slice value, struct dentry *ret, struct slice *ret_name)
{
	struct cookie_value v;

	if (value.len <= sizeof(v) || value.len > sizeof(v) + 255)
		return -EUCLEAN;
	memcpy(&v, value.p, sizeof(v));
	*ret = (struct dentry){.ino = le64_get(v.ino), .type = le32_get(v.type)};
	*ret_name = (struct slice){(const uint8_t *)value.p + sizeof(v), value.len - sizeof(v)};
	return 0;
}

int index_get_name(struct kv *kv, uint64_t parent, uint64_t cookie, struct dentry *ret, char ret_name[256])
{
	struct index_key k = key_pair(TABLE_COOKIE, parent, cookie);
	uint8_t value[sizeof(struct cookie_value) + 255];
	struct slice name;
	size_t len;
	int r = kv_get(kv, key_slice(&k), value, sizeof(value), &len);

	if (r == 0)
		r = cookie_decode((struct slice){value, len}, ret, &name);
	if (r < 0)
		return r;
	memcpy(ret_name, name.p, name.len);
	ret_name[name.len] = '\0';
	return 0;
}

int index_get_leaf(struct kv *kv, uint64_t ino, uint64_t leaf, struct leaf *ret)
{
	struct index_key k = key_pair(TABLE_EXTENT, ino, leaf);
	uint8_t v[LEAF_BYTES_MAX];
	size_t len;
	int r = kv_get(kv, key_slice(&k), v, sizeof(v), &len);

	if (r < 0)
		return r == -ERANGE ? -EUCLEAN : r;
	return leaf_decode(v, len, ret);
}

void index_put_leaf(struct kv_batch *b, uint64_t ino, uint64_t leaf, const struct leaf *l)
{
	struct index_key k = key_pair(TABLE_EXTENT, ino, leaf);
	uint8_t v[LEAF_BYTES_MAX];

	if (leaf_empty(l))
		kv_batch_delete(b, key_slice(&k));
	else
		kv_batch_put(b, key_slice(&k), (struct slice){v, leaf_encode(l, v)});
}

int index_get_anchor(struct kv *kv, struct anchor *ret)
{
	struct anchor_value v;
	size_t len;
	int r = kv_get(kv, (struct slice){"A", 1}, &v, sizeof(v), &len);

	if (r < 0)
		return r == -ERANGE ? -EUCLEAN : r;
	if (len != sizeof(v) || le64_get(v.magic) != ANCHOR_MAGIC)
		return -EUCLEAN;
	if (le32_get(v.crc) != crc32c(0, &v, offsetof(struct anchor_value, crc)))
		return -EBADMSG;
	*ret = (struct anchor){
	    .applied_seq = le64_get(v.applied_seq),
	    .tail = {le64_get(v.tail_seq), le64_get(v.tail_pos), le64_get(v.tail_hash)},
	    .next_ino = le64_get(v.next_ino),
	    .epoch = le64_get(v.epoch),
	    .snapshot_generation = le64_get(v.snapshot_generation),
	    .reserved_blocks = le64_get(v.reserved_blocks),
	    .n_inodes = le64_get(v.n_inodes),
	    .n_chunks = le32_get(v.n_chunks),
	};
	memcpy(ret->volume, v.volume, sizeof(v.volume));
	return 0;
}

void index_put_anchor(struct kv_batch *b, const struct anchor *a)
{
	struct anchor_value v = {
	    .magic = le64_make(ANCHOR_MAGIC),
	    .applied_seq = le64_make(a->applied_seq),
	    .tail_seq = le64_make(a->tail.seq),
	    .tail_pos = le64_make(a->tail.pos),
	    .tail_hash = le64_make(a->tail.hash),
	    .next_ino = le64_make(a->next_ino),
	    .epoch = le64_make(a->epoch),
	    .snapshot_generation = le64_make(a->snapshot_generation),
	    .reserved_blocks = le64_make(a->reserved_blocks),
	    .n_inodes = le64_make(a->n_inodes),
	    .n_chunks = le32_make(a->n_chunks),
	};

	memcpy(v.volume, a->volume, sizeof(v.volume));
	v.crc = le32_make(crc32c(0, &v, offsetof(struct anchor_value, crc)));
	kv_batch_put(b, (struct slice){"A", 1}, (struct slice){&v, sizeof(v)});
}
