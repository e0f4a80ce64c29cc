/* trial.c: items in slabs, found by hash, loaded from the volume when first asked for. */
#include "fs/core/replica/trial.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "base/log.h"
#include "fs/core/index.h"

void trial_free(struct trial *t)
{
	for (struct slab *s = t->slabs, *next; s; s = next) {
		next = s->next;
		free(s);
	}
	free(t->bucket);
}

static struct item *new_item(struct trial *t)
{
	if (!t->slabs || t->slabs->n == SLAB_ITEMS) {
		struct slab *s = malloc(sizeof(*s));

		if (!s)
			return NULL;
		s->n = 0;
		s->next = t->slabs;
		t->slabs = s;
	}
	struct item *i = &t->slabs->item[t->slabs->n++];
	memset(i, 0, sizeof(*i));
	return i;
}

static struct item **bucket_of(struct trial *t, enum item_kind kind, uint64_t a, uint64_t b)
{
	uint64_t h = (a * UINT64_C(0x9e3779b97f4a7c15) ^ b ^ kind) * UINT64_C(0xff51afd7ed558ccd);

	return &t->bucket[h >> 40 & (t->n_buckets - 1)];
}

static bool same_name(const struct item *i, struct slice name)
{
	return i->name.len == name.len && (name.len == 0 || memcmp(i->name.p, name.p, name.len) == 0);
}

/* 1: it was new, and is to be loaded. */
static int find_item(struct trial *t, enum item_kind kind, uint64_t a, uint64_t b, struct slice name, struct item **ret)
{
	struct item **bucket = bucket_of(t, kind, a, b);

	for (struct item *i = *bucket; i; i = i->next)
		if (i->kind == kind && i->a == a && i->b == b && same_name(i, name)) {
			*ret = i;
			return 0;
		}
	struct item *i = new_item(t);
	if (!i)
		return -ENOMEM;
	i->kind = kind;
	i->a = a;
	i->b = b;
	i->name = name;
	i->next = *bucket;
	*ret = *bucket = i;
	return 1;
}

int trial_inode(struct trial *t, uint64_t ino, struct item **ret)
{
	struct inode in;
	int r = find_item(t, ITEM_INODE, ino, 0, (struct slice){0}, ret);

	if (r != 1)
		return r;
	r = icache_copy(t->fs->icache, ino, &in);
	if (r == 0) {
		(*ret)->inode.exists = true;
		(*ret)->inode.mode = in.mode;
		(*ret)->inode.nlink = in.nlink;
		(*ret)->inode.size = in.size;
		(*ret)->inode.next_cookie = in.next_cookie;
		(*ret)->inode.parent = in.parent;
	}
	return r == -ENOENT ? 0 : r;
}

int trial_name(struct trial *t, uint64_t parent, struct slice name, struct item **ret)
{
	struct dentry d;
	int r = find_item(t, ITEM_NAME, parent, XXH64(name.p, name.len, 0), name, ret);

	if (r != 1)
		return r;
	r = index_get_dentry(t->fs->kv, parent, name, &d);
	(*ret)->ino = r == 0 ? d.ino : 0;
	return r == -ENOENT ? 0 : r;
}

int trial_leaf(struct trial *t, const struct item *file, uint64_t leaf, struct item **ret)
{
	struct leaf l;
	int r = find_item(t, ITEM_LEAF, file->a, leaf, (struct slice){0}, ret);

	if (r != 1)
		return r;
	r = extent_get(t->fs, file->a, leaf, &l);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		(*ret)->leaf.space |= (uint16_t)(slot_has_own_space(t->fs, &l.slot[i]) << i);
		(*ret)->leaf.staged |= (uint16_t)((l.slot[i].staged != 0) << i);
	}
	(*ret)->leaf.data = leaf_data(&l);
	(*ret)->leaf.tiered = leaf_tiered(&l);
	return 0;
}

int trial_misfit(const struct trial *t, const struct record *r, const char *why)
{
	log_error("batch %llu from the leader does not fit this volume: %s of inode %llu: %s", (unsigned long long)t->seq,
		  record_type_name(r->type), (unsigned long long)r->ino, why);
	return -EUCLEAN;
}
