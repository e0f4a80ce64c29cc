/*
 * kv_mem.c: a treap whose nodes are shared between versions and copied when one of several owners changes them
 * (Driscoll and others 1989, path copying), so that a freeze, an iterator, a flushed version and a crash's image are each one
 * more reference to a root.
 */
#include "tests/lib/kv_mem.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "base/lock.h"
#include "tests/lib/cow.h"

struct entry {
	uint32_t refs;
	uint32_t key_len, value_len;
	bool damaged;
	uint8_t b[]; /* key, value */
};
struct node {
	uint32_t refs;
	uint64_t priority; /* hash of the key: the shape depends on the contents alone */
	struct entry *entry;
	struct node *left, *right;
};
struct version {
	uint64_t event;
	struct node *root;
};
/* A snapshot: there from event `made` on, up to event `gone`. */
struct snapshot {
	uint64_t id, made, gone;
	struct node *root;
};
struct kv_disk {
	struct mutex lock;
	struct simstore *sim;
	struct version *versions; /* flushed, oldest first; [0] is what was there in the beginning */
	size_t n_versions, cap;
	struct snapshot *snapshots;
	size_t n_snapshots, snapshots_cap;
	bool created;
};
struct kv_mem {
	struct kv kv;
	struct kv_disk *disk;
	struct node *root, *frozen;
	bool has_frozen, read_only;
	uint64_t bytes; /* written since the last freeze */
};
struct kv_iter {
	struct kv_disk *disk;
	struct node *root;
	const struct entry *at;
};

static void entry_unref(struct entry *e)
{
	if (--e->refs == 0)
		free(e);
}

static struct node *node_ref(struct node *n)
{
	if (n)
		n->refs++;
	return n;
}

static void node_unref(struct node *n)
{
	if (!n || --n->refs > 0)
		return;
	node_unref(n->left);
	node_unref(n->right);
	entry_unref(n->entry);
	free(n);
}

/* Takes the caller's reference to n; gives one to a node with the same contents that nobody else sees. */
static struct node *node_own(struct node *n)
{
	if (n->refs == 1)
		return n;
	struct node *copy = test_alloc(sizeof(*copy));
	*copy = *n;
	copy->refs = 1;
	copy->entry->refs++;
	node_ref(copy->left);
	node_ref(copy->right);
	n->refs--;
	return copy;
}

static int key_compare(const void *a, size_t a_len, const void *b, size_t b_len)
{
	int r = memcmp(a, b, a_len < b_len ? a_len : b_len);

	return r ? r : (a_len > b_len) - (a_len < b_len);
}

static int entry_compare(struct slice key, const struct entry *e)
{
	return key_compare(key.p, key.len, e->b, e->key_len);
}
static struct slice entry_key(const struct entry *e)
{
	return (struct slice){e->b, e->key_len};
}

static struct node *rotate_right(struct node *n)
{
	struct node *l = node_own(n->left);

	n->left = l->right;
	l->right = n;
	return l;
}

static struct node *rotate_left(struct node *n)
{
	struct node *r = node_own(n->right);

	n->right = r->left;
	r->left = n;
	return r;
}

/* Both take over the caller's references to `n` and `e` and give back the new root. */
static struct node *tree_put(struct node *n, struct entry *e)
{
	if (!n) {
		n = test_alloc(sizeof(*n));
		*n = (struct node){.refs = 1, .priority = XXH64(e->b, e->key_len, 0), .entry = e};
		return n;
	}
	n = node_own(n);
	int c = entry_compare(entry_key(e), n->entry);
	if (c == 0) {
		entry_unref(n->entry);
		n->entry = e;
	} else if (c < 0) {
		n->left = tree_put(n->left, e);
		if (n->left->priority > n->priority)
			n = rotate_right(n);
	} else {
		n->right = tree_put(n->right, e);
		if (n->right->priority > n->priority)
			n = rotate_left(n);
	}
	return n;
}

static struct node *tree_join(struct node *a, struct node *b)
{
	if (!a || !b)
		return a ? a : b;
	if (a->priority > b->priority) {
		a = node_own(a);
		a->right = tree_join(a->right, b);
		return a;
	}
	b = node_own(b);
	b->left = tree_join(a, b->left);
	return b;
}

static struct node *tree_delete(struct node *n, struct slice key)
{
	if (!n)
		return NULL;
	n = node_own(n);
	int c = entry_compare(key, n->entry);
	if (c < 0) {
		n->left = tree_delete(n->left, key);
	} else if (c > 0) {
		n->right = tree_delete(n->right, key);
	} else {
		struct node *l = node_ref(n->left), *r = node_ref(n->right);

		node_unref(n);
		n = tree_join(l, r);
	}
	return n;
}

/* The first entry >= key, or > key with `after`. */
static const struct entry *tree_seek(const struct node *n, struct slice key, bool after)
{
	const struct entry *best = NULL;

	while (n) {
		int c = entry_compare(key, n->entry);

		if (c < 0 || (c == 0 && !after)) {
			best = n->entry;
			n = n->left;
		} else {
			n = n->right;
		}
	}
	return best;
}

static uint64_t tree_count(const struct node *n)
{
	return n ? 1 + tree_count(n->left) + tree_count(n->right) : 0;
}

/* ---- the table ---- */

static int mem_get(struct kv *kv, struct slice key, void *p, size_t cap, size_t *ret_len)
{
	struct kv_mem *m = container_of(kv, struct kv_mem, kv);
	int r = 0;

	mutex_lock(&m->disk->lock);
	const struct entry *e = tree_seek(m->root, key, false);
	if (!e || entry_compare(key, e) != 0) {
		r = -ENOENT;
	} else if (e->damaged) {
		r = -EBADMSG;
	} else {
		*ret_len = e->value_len; /* also when it does not fit, as RocksDB's does */
		if (e->value_len > cap)
			r = -ERANGE;
		else if (e->value_len)
			memcpy(p, e->b + e->key_len, e->value_len);
	}
	mutex_unlock(&m->disk->lock);
	return r;
}

static int mem_write(struct kv *kv, const struct kv_batch *b)
{
	struct kv_mem *m = container_of(kv, struct kv_mem, kv);
	struct slice key, value;
	size_t at = 0;
	uint8_t op;

	if (b->ops.failed)
		return -ENOMEM;
	if (m->read_only)
		return -EROFS;
	mutex_lock(&m->disk->lock);
	while (kv_batch_next(b, &at, &op, &key, &value)) {
		if (op == KV_DELETE) {
			m->root = tree_delete(m->root, key);
		} else {
			struct entry *e = test_alloc(sizeof(*e) + key.len + value.len);

			*e = (struct entry){.refs = 1, .key_len = (uint32_t)key.len, .value_len = (uint32_t)value.len};
			memcpy(e->b, key.p, key.len);
			if (value.len)
				memcpy(e->b + key.len, value.p, value.len);
			m->root = tree_put(m->root, e);
		}
		m->bytes += key.len + value.len + sizeof(struct entry);
	}
	mutex_unlock(&m->disk->lock);
	return 0;
}

static int mem_iter_open(struct kv *kv, struct kv_iter **ret_iter)
{
	struct kv_mem *m = container_of(kv, struct kv_mem, kv);
	struct kv_iter *it = test_alloc(sizeof(*it));

	mutex_lock(&m->disk->lock);
	*it = (struct kv_iter){.disk = m->disk, .root = node_ref(m->root)};
	mutex_unlock(&m->disk->lock);
	*ret_iter = it;
	return 0;
}

/* Nodes an iterator holds are never changed in place, so it reads them without the lock. */
static void mem_iter_seek(struct kv_iter *it, struct slice key)
{
	it->at = tree_seek(it->root, key, false);
}
static void mem_iter_next(struct kv_iter *it)
{
	it->at = tree_seek(it->root, entry_key(it->at), true);
}
static bool mem_iter_valid(struct kv_iter *it)
{
	return it->at && !it->at->damaged;
}
static int mem_iter_error(struct kv_iter *it)
{
	return it->at && it->at->damaged ? -EBADMSG : 0;
}
static struct slice mem_iter_key(struct kv_iter *it)
{
	return entry_key(it->at);
}
static struct slice mem_iter_value(struct kv_iter *it)
{
	return (struct slice){it->at->b + it->at->key_len, it->at->value_len};
}

static void mem_iter_close(struct kv_iter *it)
{
	mutex_lock(&it->disk->lock);
	node_unref(it->root);
	mutex_unlock(&it->disk->lock);
	free(it);
}

static int mem_freeze(struct kv *kv)
{
	struct kv_mem *m = container_of(kv, struct kv_mem, kv);

	mutex_lock(&m->disk->lock);
	node_unref(m->frozen);
	m->frozen = node_ref(m->root);
	m->has_frozen = true;
	m->bytes = 0;
	mutex_unlock(&m->disk->lock);
	return 0;
}

static void version_add(struct kv_disk *d, uint64_t event, struct node *root)
{
	d->versions = test_grow(d->versions, d->n_versions, &d->cap, sizeof(*d->versions));
	d->versions[d->n_versions++] = (struct version){event, node_ref(root)};
}

static int mem_flush_frozen(struct kv *kv)
{
	struct kv_mem *m = container_of(kv, struct kv_mem, kv);
	uint64_t event = 0;
	int r = 0;

	mutex_lock(&m->disk->lock);
	if (m->has_frozen) {
		r = m->disk->sim ? simstore_index_event(m->disk->sim, &event) : 0;
		if (r == 0) {
			version_add(m->disk, event, m->frozen);
			m->disk->created = true;
			node_unref(m->frozen);
			m->frozen = NULL;
			m->has_frozen = false;
		}
	}
	mutex_unlock(&m->disk->lock);
	return r;
}

static uint64_t mem_memory_bytes(struct kv *kv)
{
	struct kv_mem *m = container_of(kv, struct kv_mem, kv);

	mutex_lock(&m->disk->lock);
	uint64_t n = m->bytes;
	mutex_unlock(&m->disk->lock);
	return n;
}

static void mem_describe(struct kv *kv, struct buf *out)
{
	(void)kv;
	buf_printf(out, "memory");
}

static void mem_close(struct kv *kv)
{
	struct kv_mem *m = container_of(kv, struct kv_mem, kv);

	mutex_lock(&m->disk->lock);
	node_unref(m->root);
	node_unref(m->frozen);
	mutex_unlock(&m->disk->lock);
	free(m);
}

static struct snapshot *find_snapshot(struct kv_disk *d, uint64_t id)
{
	for (size_t i = 0; i < d->n_snapshots; i++)
		if (d->snapshots[i].id == id && d->snapshots[i].gone == UINT64_MAX)
			return &d->snapshots[i];
	return NULL;
}

static void snapshot_add(struct kv_disk *d, uint64_t id, uint64_t event, struct node *root)
{
	d->snapshots = test_grow(d->snapshots, d->n_snapshots, &d->snapshots_cap, sizeof(*d->snapshots));
	d->snapshots[d->n_snapshots++] = (struct snapshot){.id = id, .made = event, .gone = UINT64_MAX, .root = node_ref(root)};
}

static int snapshot_event(struct kv_disk *d, uint64_t *ret)
{
	*ret = 0;
	return d->sim ? simstore_index_event(d->sim, ret) : 0;
}

/* What nobody flushed is not in it, and there must be nothing of the kind: a caller that thinks otherwise is wrong. */
static int mem_snapshot_create(struct kv *kv, uint64_t id)
{
	struct kv_mem *m = container_of(kv, struct kv_mem, kv);
	struct node *newest;
	uint64_t event;

	mutex_lock(&m->disk->lock);
	newest = m->disk->versions[m->disk->n_versions - 1].root;
	int r = find_snapshot(m->disk, id) ? -EEXIST : m->has_frozen || newest != m->root ? -EINVAL : 0;
	if (r == 0)
		r = snapshot_event(m->disk, &event);
	if (r == 0)
		snapshot_add(m->disk, id, event, newest);
	mutex_unlock(&m->disk->lock);
	return r;
}

static int mem_snapshot_remove(struct kv *kv, uint64_t id)
{
	struct kv_mem *m = container_of(kv, struct kv_mem, kv);
	uint64_t event;

	mutex_lock(&m->disk->lock);
	struct snapshot *s = find_snapshot(m->disk, id);
	int r = s ? snapshot_event(m->disk, &event) : -ENOENT;
	if (r == 0)
		s->gone = event;
	mutex_unlock(&m->disk->lock);
	return r;
}

static int mem_snapshot_open(struct kv *kv, uint64_t id, struct kv **ret_kv);

static int mem_snapshot_each(struct kv *kv, int (*fn)(void *ctx, uint64_t id), void *ctx)
{
	struct kv_mem *m = container_of(kv, struct kv_mem, kv);
	uint64_t *ids;
	size_t n = 0;
	int r = 0;

	mutex_lock(&m->disk->lock);
	ids = test_alloc((m->disk->n_snapshots + 1) * sizeof(*ids));
	for (size_t i = 0; i < m->disk->n_snapshots; i++)
		if (m->disk->snapshots[i].gone == UINT64_MAX)
			ids[n++] = m->disk->snapshots[i].id;
	mutex_unlock(&m->disk->lock);
	for (size_t i = 0; i < n && r == 0; i++)
		r = fn(ctx, ids[i]);
	free(ids);
	return r;
}

static const struct kv_ops mem_ops = {
    .get = mem_get,
    .write = mem_write,
    .iter_open = mem_iter_open,
    .iter_seek = mem_iter_seek,
    .iter_next = mem_iter_next,
    .iter_valid = mem_iter_valid,
    .iter_key = mem_iter_key,
    .iter_value = mem_iter_value,
    .iter_error = mem_iter_error,
    .iter_close = mem_iter_close,
    .freeze = mem_freeze,
    .flush_frozen = mem_flush_frozen,
    .memory_bytes = mem_memory_bytes,
    .describe = mem_describe,
    .snapshot_create = mem_snapshot_create,
    .snapshot_remove = mem_snapshot_remove,
    .snapshot_open = mem_snapshot_open,
    .snapshot_each = mem_snapshot_each,
    .close = mem_close,
};

static int mem_snapshot_open(struct kv *kv, uint64_t id, struct kv **ret_kv)
{
	struct kv_mem *m = container_of(kv, struct kv_mem, kv), *open;
	int r = -ENOENT;

	mutex_lock(&m->disk->lock);
	const struct snapshot *s = find_snapshot(m->disk, id);
	if (s) {
		open = test_alloc(sizeof(*open));
		*open = (struct kv_mem){.kv = {&mem_ops}, .disk = m->disk, .root = node_ref(s->root), .read_only = true};
		*ret_kv = &open->kv;
		r = 0;
	}
	mutex_unlock(&m->disk->lock);
	return r;
}

/* ---- what tests call ---- */

struct kv_disk *kv_disk_new(struct simstore *sim)
{
	struct kv_disk *d = test_alloc(sizeof(*d));

	mutex_init(&d->lock);
	d->sim = sim;
	version_add(d, 0, NULL);
	return d;
}

void kv_disk_free(struct kv_disk *d)
{
	if (!d)
		return;
	for (size_t i = 0; i < d->n_versions; i++)
		node_unref(d->versions[i].root);
	for (size_t i = 0; i < d->n_snapshots; i++)
		node_unref(d->snapshots[i].root);
	free(d->snapshots);
	mutex_destroy(&d->lock);
	free(d->versions);
	free(d);
}

struct kv_disk *kv_disk_at(const struct kv_disk *d, uint64_t event, struct simstore *sim)
{
	struct kv_disk *copy = kv_disk_new(sim);
	size_t i = d->n_versions - 1;

	while (d->versions[i].event > event)
		i--;
	copy->versions[0].root = node_ref(d->versions[i].root);
	copy->created = d->versions[i].root != NULL;
	for (i = 0; i < d->n_snapshots; i++)
		if (d->snapshots[i].made <= event && event < d->snapshots[i].gone)
			snapshot_add(copy, d->snapshots[i].id, 0, d->snapshots[i].root);
	return copy;
}

int kv_mem_open(void *kv_disk, bool create, struct kv **ret_kv)
{
	struct kv_disk *d = kv_disk;

	if (create && d->created)
		return -EEXIST;
	struct kv_mem *m = test_alloc(sizeof(*m));
	m->kv.ops = &mem_ops;
	m->disk = d;
	mutex_lock(&d->lock);
	m->root = node_ref(d->versions[d->n_versions - 1].root);
	mutex_unlock(&d->lock);
	*ret_kv = &m->kv;
	return 0;
}

uint64_t kv_disk_entries(const struct kv_disk *d)
{
	return tree_count(d->versions[d->n_versions - 1].root);
}

void kv_disk_damage(struct kv_disk *d, uint64_t n)
{
	struct version *v = &d->versions[d->n_versions - 1];
	const struct entry *e = tree_seek(v->root, (struct slice){"", 0}, false);

	while (n-- > 0)
		e = tree_seek(v->root, entry_key(e), true);
	struct entry *bad = test_alloc(sizeof(*bad) + e->key_len + e->value_len);
	memcpy(bad, e, sizeof(*bad) + e->key_len + e->value_len);
	bad->refs = 1;
	bad->damaged = true;
	v->root = tree_put(v->root, bad);
}
