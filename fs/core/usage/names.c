/*
 * names.c: table N: where a file's names are, of files that have several.
 *
 * An inode remembers one name, the primary one: its path is told from it, policies are inherited through it, and its size counts
 * in that directory.  A file with one name needs no more.  With the second name both get a row here, so that when the primary one
 * goes another can take its place: the first row, which is the same on every node.  The last name left has no row.
 *
 * The table is derived from tables D and C, and made anew with the totals (rebuild.c).  A row that is missing costs a file its
 * place and nothing else.
 */
#include <errno.h>
#include <sys/stat.h>

#include "fs/core/usage/usage_impl.h"

#define KEY_BYTES 25u

static struct index_key name_key(uint64_t ino, uint64_t parent, uint64_t cookie)
{
	struct index_key k = key_pair(TABLE_NAME, ino, parent);

	be64_put(k.b + 17, cookie);
	k.len = KEY_BYTES;
	return k;
}

int names_put(struct fs *fs, uint64_t ino, uint64_t parent, uint64_t cookie)
{
	struct index_key k = name_key(ino, parent, cookie);
	struct kv_batch *b = index_batch();

	kv_batch_put(b, key_slice(&k), (struct slice){"", 0});
	return kv_write(fs->kv, b);
}

static int names_delete(struct fs *fs, uint64_t ino, uint64_t parent, uint64_t cookie)
{
	struct index_key k = name_key(ino, parent, cookie);
	struct kv_batch *b = index_batch();

	kv_batch_delete(b, key_slice(&k));
	return kv_write(fs->kv, b);
}

int names_have(struct fs *fs, uint64_t ino, uint64_t parent, uint64_t cookie, bool *ret)
{
	struct index_key k = name_key(ino, parent, cookie);
	uint8_t byte;
	size_t len;
	int r = kv_get(fs->kv, key_slice(&k), &byte, sizeof(byte), &len);

	*ret = r == 0;
	return r == -ENOENT ? 0 : r;
}

int names_first(struct fs *fs, uint64_t ino, uint64_t *ret_parent, uint64_t *ret_cookie)
{
	struct index_key k = key_ino(TABLE_NAME, ino);
	const struct kv_ops *ops = fs->kv->ops;
	struct kv_iter *it;
	int r = ops->iter_open(fs->kv, &it);

	if (r < 0)
		return r;
	ops->iter_seek(it, key_slice(&k));
	r = ops->iter_error(it);
	if (r == 0 && ops->iter_valid(it) && key_within(ops->iter_key(it), TABLE_NAME, ino)) {
		struct slice key = ops->iter_key(it);

		r = key.len == KEY_BYTES ? 0 : -EUCLEAN;
		if (r == 0) {
			*ret_parent = be64_get((const uint8_t *)key.p + 9);
			*ret_cookie = be64_get((const uint8_t *)key.p + 17);
		}
	} else if (r == 0) {
		r = -ENOENT;
	}
	ops->iter_close(it);
	return r;
}

int names_count(struct fs *fs, uint64_t ino, uint64_t *ret_n)
{
	struct index_key k = key_ino(TABLE_NAME, ino);
	const struct kv_ops *ops = fs->kv->ops;
	struct kv_iter *it;
	int r = ops->iter_open(fs->kv, &it);

	*ret_n = 0;
	if (r < 0)
		return r;
	for (ops->iter_seek(it, key_slice(&k)); ops->iter_valid(it); ops->iter_next(it)) {
		if (!key_within(ops->iter_key(it), TABLE_NAME, ino))
			break;
		++*ret_n;
	}
	r = ops->iter_error(it);
	ops->iter_close(it);
	return r;
}

int names_gain(struct fs *fs, const struct inode *in, uint64_t parent, uint64_t cookie)
{
	int r = in->nlink == 1 ? names_put(fs, in->ino, in->parent, in->cookie) : 0;

	return r < 0 ? r : names_put(fs, in->ino, parent, cookie);
}

int names_lose(struct fs *fs, struct inode *in, uint64_t parent, uint64_t cookie)
{
	int r = names_delete(fs, in->ino, parent, cookie);

	if (r == 0 && in->parent == parent && in->cookie == cookie) {
		r = names_first(fs, in->ino, &parent, &cookie);
		if (r == -ENOENT) /* made before there was this table, which is about to be made */
			return 0;
		if (r == 0) {
			in->parent = parent;
			in->cookie = cookie;
			in->dirty = true;
		}
	}
	return r == 0 && in->nlink == 1 ? names_delete(fs, in->ino, in->parent, in->cookie) : r;
}

int names_move(struct fs *fs, const struct inode *in, uint64_t parent, uint64_t cookie, uint64_t new_parent, uint64_t new_cookie)
{
	if (in->nlink < 2 || S_ISDIR(in->mode))
		return 0;
	int r = names_delete(fs, in->ino, parent, cookie);
	return r < 0 ? r : names_put(fs, in->ino, new_parent, new_cookie);
}
