/*
 * policy.c: settings of a file or directory that everything below inherits.
 *
 * A policy is set by a SETXATTR record named "clawfs." and its key, and unset by RMXATTR, so that it is ordered with all other
 * changes, replicated, and in the audit trail.  It is no attribute all the same: it has a table of its own (P), is neither
 * counted nor listed, and cp -a does not take it along.
 *
 * All policies are in memory too, in the order of inode and key: admins set few, and every fsync may ask.  A change goes to
 * the index first and then to memory, under the stripe of its inode; readers take only the lock here.
 *
 * Inheritance follows the parents that an inode remembers, as paths do: of a file with several names the primary one counts
 * (usage/names.c), and what was unlinked belongs where it was.  What has lost its parents, or lies too deep, has the policy of
 * the volume, which is that of the root directory.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/archive/archiving.h"
#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/core/tier/tier.h"
#include "fs/core/usage/usage.h"

#define RECORD_PREFIX "clawfs."
#define PREFIX_LEN    (sizeof(RECORD_PREFIX) - 1)
#define KEY_MAX       (RECORD_NAME_MAX - PREFIX_LEN)
#define DEPTH_MAX     4096
#define SECRET_KEY    "tier.key"

struct policy {
	uint64_t ino;
	size_t key_len, value_len;
	char text[]; /* key, value */
};
struct policies {
	struct rwlock lock;
	/* guarded by lock */
	struct policy **row; /* owned; rising */
	size_t n, cap;
	/* not guarded */
	_Atomic bool any;
	_Atomic uint64_t generation; /* grows with each change */
};

/* ---- the table in memory ---- */

static int compare(const struct policy *p, uint64_t ino, struct slice key)
{
	if (p->ino != ino)
		return p->ino < ino ? -1 : 1;
	int r = memcmp(p->text, key.p, min_u64(p->key_len, key.len));
	return r ? r : (p->key_len > key.len) - (p->key_len < key.len);
}

/* Where (ino, key) is, or belongs. */
static bool find(const struct policies *ps, uint64_t ino, struct slice key, size_t *ret_at)
{
	size_t from = 0, to = ps->n;

	while (from < to) {
		size_t mid = from + (to - from) / 2;
		int r = compare(ps->row[mid], ino, key);

		if (r == 0) {
			*ret_at = mid;
			return true;
		}
		if (r < 0)
			from = mid + 1;
		else
			to = mid;
	}
	*ret_at = from;
	return false;
}

static int row_new(uint64_t ino, struct slice key, struct slice value, struct policy **ret)
{
	struct policy *p = malloc(sizeof(*p) + key.len + value.len);

	if (!p)
		return -ENOMEM;
	*p = (struct policy){.ino = ino, .key_len = key.len, .value_len = value.len};
	memcpy(p->text, key.p, key.len);
	memcpy(p->text + key.len, value.p, value.len);
	*ret = p;
	return 0;
}

/* So that one more row cannot fail. */
static int make_room(struct policies *ps)
{
	size_t cap = ps->cap ? ps->cap * 2 : 16;

	if (ps->n < ps->cap)
		return 0;
	struct policy **row = realloc(ps->row, cap * sizeof(*row));
	if (!row)
		return -ENOMEM;
	ps->row = row;
	ps->cap = cap;
	return 0;
}

/* Takes `p` over; there is room. */
static void put_row(struct policies *ps, struct policy *p)
{
	size_t at;

	if (find(ps, p->ino, (struct slice){p->text, p->key_len}, &at)) {
		free(ps->row[at]);
	} else {
		memmove(ps->row + at + 1, ps->row + at, (ps->n - at) * sizeof(*ps->row));
		ps->n++;
	}
	ps->row[at] = p;
	atomic_store(&ps->any, true);
	atomic_fetch_add(&ps->generation, 1);
}

static void remove_row(struct policies *ps, size_t at)
{
	free(ps->row[at]);
	ps->n--;
	memmove(ps->row + at, ps->row + at + 1, (ps->n - at) * sizeof(*ps->row));
	atomic_store(&ps->any, ps->n > 0);
	atomic_fetch_add(&ps->generation, 1);
}

static void free_rows(struct policies *ps)
{
	for (size_t i = 0; i < ps->n; i++)
		free(ps->row[i]);
	free(ps->row);
}

bool fs_has_policies(struct fs *fs)
{
	return atomic_load(&fs->policies->any);
}

uint64_t policies_generation(struct fs *fs)
{
	return atomic_load(&fs->policies->generation);
}

bool policies_have(struct fs *fs, const char *key)
{
	struct policies *ps = fs->policies;
	size_t len = strlen(key);
	bool found = false;

	rwlock_rdlock(&ps->lock);
	for (size_t i = 0; i < ps->n && !found; i++)
		found = ps->row[i]->key_len == len && memcmp(ps->row[i]->text, key, len) == 0;
	rwlock_rdunlock(&ps->lock);
	return found;
}

int policies_scan(struct fs *fs, const char *prefix, int (*fn)(void *ctx, uint64_t ino, struct slice key, const char *value),
		  void *ctx)
{
	struct policies *ps = fs->policies;
	char value[FS_POLICY_MAX + 1];
	size_t n = strlen(prefix);
	int r = 0;

	rwlock_rdlock(&ps->lock);
	for (size_t i = 0; i < ps->n && r == 0; i++) {
		const struct policy *p = ps->row[i];

		if (p->key_len < n || memcmp(p->text, prefix, n) != 0)
			continue;
		memcpy(value, p->text + p->key_len, p->value_len);
		value[p->value_len] = '\0';
		r = fn(ctx, p->ino, (struct slice){p->text, p->key_len}, value);
	}
	rwlock_rdunlock(&ps->lock);
	return r;
}

bool policy_is_secret(struct slice key)
{
	return policy_key_is(key, SECRET_KEY);
}

/* ---- what comes from the index or a record ---- */

static bool row_valid(struct slice key, struct slice value)
{
	return key.len > 0 && key.len <= KEY_MAX && value.len > 0 && value.len <= FS_POLICY_MAX &&
	       !memchr(key.p, '\0', key.len) && !memchr(value.p, '\0', value.len);
}

/* A row of table P; rows come in order. */
static int load_row(struct policies *ps, struct slice key, struct slice value)
{
	struct policy *p;
	const uint8_t *k = key.p;
	const struct slice name = {k + 9, key.len - 9};

	if (key.len < 9 || !row_valid(name, value))
		return -EUCLEAN;
	int r = make_room(ps);
	if (r == 0)
		r = row_new(be64_get(k + 1), name, value, &p);
	if (r == 0)
		put_row(ps, p);
	return r;
}

static int load_all(struct fs *fs, struct policies *ps)
{
	static const uint8_t first[] = {TABLE_POLICY};
	const struct kv_ops *ops = fs->kv->ops;
	struct kv_iter *it;
	int r = ops->iter_open(fs->kv, &it);

	if (r < 0)
		return r;
	for (ops->iter_seek(it, (struct slice){first, 1}); r == 0 && ops->iter_valid(it); ops->iter_next(it)) {
		struct slice key = ops->iter_key(it);

		if (key.len == 0 || *(const uint8_t *)key.p != TABLE_POLICY)
			break;
		r = load_row(ps, key, ops->iter_value(it));
	}
	if (r == 0)
		r = ops->iter_error(it);
	ops->iter_close(it);
	return r;
}

static int policies_new(struct policies **ret)
{
	struct policies *ps = calloc(1, sizeof(*ps));

	if (!ps)
		return -ENOMEM;
	rwlock_init(&ps->lock);
	*ret = ps;
	return 0;
}

/* The rows of `from`, which has no other user, become those of `ps`. */
static void replace_rows(struct policies *ps, const struct policies *from)
{
	rwlock_wrlock(&ps->lock);
	free_rows(ps);
	ps->row = from->row;
	ps->n = from->n;
	ps->cap = from->cap;
	atomic_store(&ps->any, ps->n > 0);
	atomic_fetch_add(&ps->generation, 1);
	rwlock_wrunlock(&ps->lock);
}

int policies_load(struct fs *fs)
{
	struct policies loaded = {0};
	int r = fs->policies ? 0 : policies_new(&fs->policies);

	if (r == 0)
		r = load_all(fs, &loaded);
	if (r < 0) {
		log_error("the policies in the index cannot be read: %s", strerror(-r));
		free_rows(&loaded);
		return r;
	}
	replace_rows(fs->policies, &loaded);
	return 0;
}

void policies_free(struct fs *fs)
{
	if (!fs->policies)
		return;
	free_rows(fs->policies);
	rwlock_destroy(&fs->policies->lock);
	free(fs->policies);
	fs->policies = NULL;
}

/* ---- records ---- */

bool policy_is(struct slice xattr_name)
{
	return xattr_name.len >= PREFIX_LEN && memcmp(xattr_name.p, RECORD_PREFIX, PREFIX_LEN) == 0;
}

static int set_row(struct fs *fs, uint64_t ino, struct slice key, struct slice value)
{
	struct index_key k = key_name(TABLE_POLICY, ino, key);
	struct policies *ps = fs->policies;
	struct policy *p = NULL;
	struct kv_batch *b;
	int r = row_new(ino, key, value, &p);

	if (r < 0)
		return r;
	rwlock_wrlock(&ps->lock);
	r = make_room(ps);
	if (r == 0) {
		b = index_batch();
		kv_batch_put(b, key_slice(&k), value);
		r = kv_write(fs->kv, b);
	}
	if (r == 0)
		put_row(ps, TAKE_PTR(p));
	rwlock_wrunlock(&ps->lock);
	free(p);
	return r;
}

static int unset_row(struct fs *fs, uint64_t ino, struct slice key)
{
	struct index_key k = key_name(TABLE_POLICY, ino, key);
	struct policies *ps = fs->policies;
	struct kv_batch *b = index_batch();
	size_t at;

	kv_batch_delete(b, key_slice(&k));
	rwlock_wrlock(&ps->lock);
	int r = kv_write(fs->kv, b);
	if (r == 0 && find(ps, ino, key, &at))
		remove_row(ps, at);
	rwlock_wrunlock(&ps->lock);
	return r;
}

static struct slice key_of(const struct record *r)
{
	return (struct slice){(const char *)r->xattr.name.p + PREFIX_LEN, r->xattr.name.len - PREFIX_LEN};
}

bool policy_valid(const struct record *r)
{
	const struct slice key = key_of(r);

	return row_valid(key, r->type == RECORD_SETXATTR ? r->xattr.value : key);
}

int policy_apply(struct fs *fs, const struct record *r)
{
	const struct slice key = key_of(r);
	bool set = r->type == RECORD_SETXATTR;
	struct inode *in;

	if (!policy_valid(r))
		return -EUCLEAN;
	int e = icache_get(fs->icache, r->ino, &in);
	if (e == 0)
		e = set ? set_row(fs, r->ino, key, r->xattr.value) : unset_row(fs, r->ino, key);
	if (e < 0)
		return e;
	in->ctime_ns = r->time_ns;
	in->dirty = true;
	return 0;
}

int policy_drop(struct fs *fs, uint64_t ino)
{
	struct policies *ps = fs->policies;
	struct kv_batch *b;
	size_t at, n = 0;

	if (!fs_has_policies(fs))
		return 0;
	b = index_batch();
	rwlock_wrlock(&ps->lock);
	find(ps, ino, (struct slice){"", 0}, &at);
	for (; at + n < ps->n && ps->row[at + n]->ino == ino; n++) {
		const struct policy *p = ps->row[at + n];
		struct index_key k = key_name(TABLE_POLICY, ino, (struct slice){p->text, p->key_len});

		kv_batch_delete(b, key_slice(&k));
	}
	int r = kv_write(fs->kv, b);
	while (r == 0 && n-- > 0)
		remove_row(ps, at);
	rwlock_wrunlock(&ps->lock);
	return r;
}

/* ---- setting and asking ---- */

/* Nothing is logged that could not be meant; a policy nobody understands is worse than none. */
static int check_value(struct slice key, const char *value)
{
	struct durability_level level;

	if (policy_key_is(key, "durability"))
		return value ? durability_parse(value, &level) : 0;
	if (policy_key_is(key, "audit"))
		return audit_policy_check(value);
	if (tier_policy_is(key))
		return tier_policy_check(key, value);
	if (snap_policy_is(key))
		return snap_policy_check(value);
	if (quota_policy_is(key))
		return quota_policy_check(value);
	if (squeeze_policy_is(key))
		return squeeze_policy_check(value);
	if (stores_policy_is(key))
		return stores_policy_check(key, value);
	if (archive_policy_is(key))
		return archive_policy_check(key, value);
	return -EOPNOTSUPP;
}

/* What `ino` itself has; -ENODATA. */
static int get_own(struct fs *fs, uint64_t ino, const char *key, char ret_value[FS_POLICY_MAX + 1])
{
	struct policies *ps = fs->policies;
	int r = -ENODATA;
	size_t at;

	rwlock_rdlock(&ps->lock);
	if (find(ps, ino, slice_of(key), &at)) {
		const struct policy *p = ps->row[at];

		memcpy(ret_value, p->text + p->key_len, p->value_len);
		ret_value[p->value_len] = '\0';
		r = 0;
	}
	rwlock_rdunlock(&ps->lock);
	return r;
}

/* The first key of `ino` from `key` on that begins with `prefix`; -ENODATA. */
static int get_next(struct fs *fs, uint64_t ino, const char *prefix, char key[RECORD_NAME_MAX + 1], char value[FS_POLICY_MAX + 1])
{
	struct policies *ps = fs->policies;
	int r = -ENODATA;
	size_t at;

	rwlock_rdlock(&ps->lock);
	find(ps, ino, slice_of(key), &at);
	if (at < ps->n && ps->row[at]->ino == ino) {
		const struct policy *p = ps->row[at];

		if (p->key_len >= strlen(prefix) && memcmp(p->text, prefix, strlen(prefix)) == 0) {
			snprintf(key, RECORD_NAME_MAX + 1, "%.*s", (int)p->key_len, p->text);
			snprintf(value, FS_POLICY_MAX + 1, "%.*s", (int)p->value_len, p->text + p->key_len);
			r = 0;
		}
	}
	rwlock_rdunlock(&ps->lock);
	return r;
}

int policies_each(struct fs *fs, uint64_t ino, const char *prefix, int (*fn)(void *ctx, const char *key, const char *value),
		  void *ctx)
{
	char key[RECORD_NAME_MAX + 2], value[FS_POLICY_MAX + 1];
	int r = 0;

	if (!fs_has_policies(fs))
		return 0;
	snprintf(key, sizeof(key), "%s", prefix);
	while (r == 0 && get_next(fs, ino, prefix, key, value) == 0) {
		r = fn(ctx, key, value);
		strcat(key, "\1"); /* the first one that can come behind it: no key has a NUL */
	}
	return r;
}

static int set_locked(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const char *key, const char *value)
{
	char name[RECORD_NAME_MAX + 1], old[FS_POLICY_MAX + 1];
	struct record rec = {0};
	struct inode *in;
	int r = icache_get(fs->icache, ino, &in);

	if (r == 0 && !value)
		r = get_own(fs, ino, key, old);
	if (r < 0)
		return r;
	snprintf(name, sizeof(name), RECORD_PREFIX "%s", key);
	op_stamp(fs, cred, &rec, value ? RECORD_SETXATTR : RECORD_RMXATTR, ino);
	rec.xattr.name = slice_of(name);
	if (value)
		rec.xattr.value = slice_of(value);
	return fs_log(fs, &rec, 1, 0);
}

int policy_set(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const char *key, const char *value)
{
	struct lockset ls;
	int r = op_begin(fs);

	if (r < 0)
		return r;
	lockset_lock(fs->icache, &ls, &ino, 1);
	r = set_locked(fs, cred, ino, key, value);
	lockset_unlock(fs->icache, &ls);
	op_end(fs);
	if (r == 0)
		durability_policy_changed(fs);
	return r;
}

int fs_set_policy(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const char *key, const char *value)
{
	int r = check_value(slice_of(key), value);

	return r < 0 ? r : policy_set(fs, cred, ino, key, value);
}

int fs_get_policy(struct fs *fs, uint64_t ino, const char *key, bool inherited, char ret_value[FS_POLICY_MAX + 1])
{
	struct inode in;

	if (policy_is_secret(slice_of(key)))
		return -ENODATA;
	int r = fs_has_policies(fs) ? get_own(fs, ino, key, ret_value) : -ENODATA;

	if (r != -ENODATA || !inherited || !fs_has_policies(fs))
		return r;
	for (unsigned depth = 0; r == -ENODATA && ino != FS_ROOT_INO; depth++) {
		r = depth < DEPTH_MAX ? icache_copy(fs->icache, ino, &in) : -ENOENT;
		if (r < 0 && r != -ENOENT)
			return r;
		ino = r == 0 ? in.parent : FS_ROOT_INO;
		r = get_own(fs, ino, key, ret_value);
	}
	return r;
}
