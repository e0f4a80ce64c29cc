/*
 * put.c: a finished pack on its way: stored, verified, placed, durable, and only then homes go.
 *
 *     storing   put, only where there is none of that name (OBJECT_CREATE).  A store without such a condition is asked first.
 * What is there already is compared: a try whose answer was lost may have put it.  Any other doubt fails the pack: its files are
 * packed anew, under another number, and what was stored is an orphan for gc. verified  by the checksum that the store confirmed,
 * or by reading all of it back placing   a TIER record a file: from now on the object is named.  A file that changed meanwhile is
 * passed over. syncing   the records are durable at the level that an fsync of each file has: here, and on as many followers as
 * its policy asks for.  That may take as long as followers are away. dropping  homes of what is tiered go
 *
 * A crash, or an error, between any two of these loses nothing: before `placing` nothing refers to the object; after it the files
 * have both copies, and the next scan, which finds them tiered and not cold, does what is left.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "fs/core/tier/ageing/impl.h"

#define READ_BACK_BYTES (4 * MIB)
#define LEVELS_MAX      64u /* there are no more than 31 */

/* ---- making one ---- */

static int random_object(struct ageing *a, uint64_t *ret)
{
	struct object_row o;
	int r = 0;

	do {
		if (getrandom(ret, sizeof(*ret), 0) != sizeof(*ret))
			return -EIO;
		r = *ret && !ageing_is_writing(a->fs, *ret) ? objects_get(a->fs, *ret, &o) : 0;
	} while (r == 0);
	return r == -ENOENT ? 0 : r;
}

static int volume_key(struct fs *fs, struct pack_volume_key *ret)
{
	int r = stores_key(fs, ret);

	if (r != -ENOENT)
		return r;
	r = stores_make_key(fs);
	return r < 0 ? r : stores_key(fs, ret);
}

static int make_writer(struct ageing *a, struct pack *p)
{
	const struct store_definition *d = &p->store->d;
	struct pack_volume_key key;
	struct pack_config c = {.object = p->object, .time_ns = clock_real_ns(a->fs->clock), .max_bytes = p->room};
	int r = d->encrypt ? volume_key(a->fs, &key) : 0;

	if (r < 0)
		return r;
	memcpy(c.volume, a->fs->super.volume, sizeof(c.volume));
	c.key = d->encrypt ? &key : NULL;
	r = pack_writer_new(&c, &p->writer);
	explicit_bzero(&key, sizeof(key));
	return r;
}

static void list_pack(struct ageing *a, struct pack *p)
{
	mutex_lock(&a->lock);
	LIST_INSERT_HEAD(&a->packs, p, link);
	a->packs_room += p->room;
	mutex_unlock(&a->lock);
}

static void pack_free(struct ageing *a, struct pack *p)
{
	mutex_lock(&a->lock);
	LIST_REMOVE(p, link);
	a->packs_room -= p->room;
	cond_broadcast(&a->room);
	mutex_unlock(&a->lock);
	if (p->store)
		stores_put(a->fs, p->store);
	pack_writer_free(p->writer);
	free(p->file);
	free(p->leaf);
	free(p);
}

int pack_open(struct ageing *a, uint32_t store, struct pack **ret)
{
	struct pack *p = calloc(1, sizeof(*p));
	int r = p ? 0 : -ENOMEM;

	if (r == 0 && store) {
		r = stores_get(a->fs, store, &p->store);
		if (r == 0) {
			p->room = min_u64(p->store->d.pack_bytes, a->pack_bytes_max);
			r = random_object(a, &p->object);
		}
		if (r == 0)
			r = make_writer(a, p);
		if (r < 0 && p->store)
			stores_put(a->fs, p->store);
	}
	if (r < 0) {
		free(p);
		return r;
	}
	list_pack(a, p);
	*ret = p;
	return 0;
}

int pack_note_file(struct ageing *a, struct pack *p, struct item *it, struct pack_file **ret)
{
	if (p->n_files == 0 || p->file[p->n_files - 1].item != it) {
		if (p->n_files == p->cap_files) {
			size_t cap = p->cap_files ? p->cap_files * 2 : 16;
			struct pack_file *file = realloc(p->file, cap * sizeof(*file));

			if (!file)
				return -ENOMEM;
			p->file = file;
			p->cap_files = cap;
		}
		p->file[p->n_files++] =
		    (struct pack_file){.item = it, .from = it->covered, .to = it->covered, .first = p->n_leaves};
		mutex_lock(&a->lock);
		it->refs++;
		mutex_unlock(&a->lock);
	}
	*ret = &p->file[p->n_files - 1];
	return 0;
}

int pack_note_leaf(struct pack *p, const struct packed_leaf *leaf)
{
	if (p->n_leaves == p->cap_leaves) {
		size_t cap = p->cap_leaves ? p->cap_leaves * 2 : 256;
		struct packed_leaf *more = realloc(p->leaf, cap * sizeof(*more));

		if (!more)
			return -ENOMEM;
		p->leaf = more;
		p->cap_leaves = cap;
	}
	p->leaf[p->n_leaves++] = *leaf;
	p->file[p->n_files - 1].n++;
	p->blocks += (unsigned)__builtin_popcount(leaf->mask);
	return 0;
}

/* ---- storing ---- */

static void enter(struct ageing *a, struct pack *p, enum pack_phase phase)
{
	mutex_lock(&a->lock);
	p->phase = phase;
	p->phase_since_ns = clock_mono_ns(a->fs->clock);
	mutex_unlock(&a->lock);
}

/* -EEXIST: something else is there. */
static int compare(struct pack *p, struct object_call *call, const char *key, const uint8_t *bytes, size_t len)
{
	size_t room = min_u64(READ_BACK_BYTES, len);
	CLEANUP_FREE uint8_t *back = malloc(room);
	int r = back ? 0 : -ENOMEM;

	for (size_t at = 0; r == 0 && at < len;) {
		size_t n = min_u64(room, len - at);

		*call = (struct object_call){.purpose = OBJECT_BACKGROUND};
		r = p->store->guard->ops->get(p->store->guard, call, key, at, n, back);
		if (r == 0 && memcmp(back, bytes + at, n) != 0) {
			snprintf(call->message, sizeof(call->message), "store %s: object %s is not what was put there",
				 p->store->name, key);
			r = -EEXIST;
		}
		at += n;
	}
	return r;
}

static int put_without_condition(struct pack *p, struct object_call *call, const char *key, const struct iovec *iov)
{
	struct object_store *s = p->store->guard;
	struct object_info info;
	int r = s->ops->head(s, call, key, &info);

	if (r != -ENOENT)
		return r == 0 ? -EEXIST : r;
	*call = (struct object_call){.purpose = OBJECT_BACKGROUND};
	return s->ops->put(s, call, key, iov, 1, 0);
}

static int store_bytes(struct pack *p, struct object_call *call, const uint8_t *bytes, size_t len)
{
	const struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
	struct object_store *s = p->store->guard;
	char key[OBJECT_NAME_MAX];

	object_name(p->object, key);
	int r = s->ops->put(s, call, key, &iov, 1, OBJECT_CREATE);
	if (r == -EOPNOTSUPP) {
		*call = (struct object_call){.purpose = OBJECT_BACKGROUND};
		r = put_without_condition(p, call, key, &iov);
	}
	if (r < 0 && r != -EEXIST)
		return r;
	if (r == 0 && call->verified && p->store->d.verify == VERIFY_CHECKSUM)
		return 0;
	return compare(p, call, key, bytes, len);
}

static int store_pack(struct ageing *a, struct pack *p, struct object_row *ret)
{
	struct object_call call = {.purpose = OBJECT_BACKGROUND};
	const uint8_t *bytes;
	size_t len;
	int r = pack_finish(p->writer, &bytes, &len, ret->sealed);

	if (r == 0)
		r = store_bytes(p, &call, bytes, len);
	if (r < 0) {
		ageing_store_failed(a, p->store, r, call.message);
		return r;
	}
	ageing_store_worked(a, p->store);
	ret->object = p->object;
	ret->store = p->store->d.id;
	ret->n_blocks = ret->n_live = (uint32_t)p->blocks;
	ret->bytes = len;
	return 0;
}

/* ---- placing ---- */

/* What the volume refused: not for ever, lest one damaged file come back and back. */
static void mark(struct ageing *a, struct item *it, int error)
{
	mutex_lock(&a->lock);
	if (error == -ESTALE)
		it->stale = true;
	else if (error < 0 && ++it->tries >= TRIES_MAX)
		it->error = error;
	else if (error < 0)
		it->retry = true;
	mutex_unlock(&a->lock);
}

/* How many files have leaves in the object now.  Without any and without an error no record names it. */
static size_t place_files(struct ageing *a, struct pack *p, const struct object_row *o, int *ret_error)
{
	size_t n_placed = 0;

	*ret_error = 0;
	for (size_t i = 0; i < p->n_files; i++) {
		struct pack_file *f = &p->file[i];
		size_t placed = 0;
		int r = f->n ? tier_place(a->fs, o, p->leaf + f->first, f->n, &placed) : 0;

		f->placed = r == 0;
		n_placed += placed > 0;
		mark(a, f->item, r);
		if (r < 0 && r != -ESTALE)
			*ret_error = r;
	}
	return n_placed;
}

/*
 * An object that no record names, for certain: all of its files had changed.  Taking it back is a kindness to gc, and nothing is
 * said when it fails.
 */
static void take_back(struct pack *p)
{
	struct object_call call = {.purpose = OBJECT_BACKGROUND};
	char key[OBJECT_NAME_MAX];

	object_name(p->object, key);
	if (p->store->guard->ops->remove(p->store->guard, &call, key) < 0)
		log_debug("store %s: object %s is left for gc: %s", p->store->name, key, call.message);
}

/* ---- syncing ---- */

/* Files of one level are durable together: one request for each level there is. */
static int sync_files(struct ageing *a, const struct pack *p)
{
	CLEANUP_FREE char(*level)[FS_POLICY_MAX + 1] = malloc(LEVELS_MAX * sizeof(*level));
	char value[FS_POLICY_MAX + 1];
	unsigned n = 0, k;
	int r = level ? 0 : -ENOMEM;

	if (a->fs->config.sabotage & FS_SABOTAGE_TIER_DROP_EARLY)
		return 0;
	for (size_t i = 0; r == 0 && i < p->n_files; i++) {
		uint64_t ino = p->file[i].item->ino;
		int e = fs_get_policy(a->fs, ino, "durability", true, value);

		if (e < 0)
			strcpy(value, e == -ENODATA ? "" : "?");
		for (k = 0; k < n && strcmp(level[k], value) != 0; k++)
			;
		if (k < n)
			continue;
		if (n < LEVELS_MAX)
			strcpy(level[n++], value);
		r = fs_sync_inode(a->fs, ino);
	}
	return r;
}

/* ---- dropping ---- */

static int drop_file(struct ageing *a, const struct pack_file *f)
{
	uint64_t blocks = 0;

	mutex_lock(&a->lock);
	bool stale = f->item->stale;
	mutex_unlock(&a->lock);
	if (stale || !f->placed || f->to <= f->from)
		return 0;
	int r = tier_drop_homes(a->fs, f->item->ino, f->from, f->to - f->from, &blocks);
	mutex_lock(&a->lock);
	a->status.evicted_blocks += blocks;
	mutex_unlock(&a->lock);
	return r == -ENOENT ? 0 : r;
}

static int drop_files(struct ageing *a, const struct pack *p)
{
	int r = 0;

	for (size_t i = 0; i < p->n_files; i++) {
		int e = drop_file(a, &p->file[i]);

		mark(a, p->file[i].item, e);
		r = r < 0 ? r : e;
	}
	return r;
}

/* ---- all of it ---- */

static void release_files(struct ageing *a, struct pack *p)
{
	for (size_t i = 0; i < p->n_files; i++)
		ageing_release(a, p->file[i].item);
	pack_free(a, p);
}

static void mark_all(struct ageing *a, struct pack *p, int error)
{
	for (size_t i = 0; i < p->n_files; i++)
		mark(a, p->file[i].item, error);
}

/* A store that fails is tried for as long as it takes. */
void pack_abandon(struct ageing *a, struct pack *p)
{
	mutex_lock(&a->lock);
	const struct store_pause *pause = p->store ? ageing_pause_of(a, p->store->name) : NULL;
	for (size_t i = 0; i < p->n_files; i++) {
		p->file[i].item->retry = true;
		if (pause)
			p->file[i].item->not_before_ns = pause->until_ns;
	}
	mutex_unlock(&a->lock);
	release_files(a, p);
}

static void count(struct ageing *a, const struct pack *p)
{
	mutex_lock(&a->lock);
	a->status.packs++;
	a->status.aged_blocks += p->blocks;
	a->status.last_success_ns = clock_real_ns(a->fs->clock);
	mutex_unlock(&a->lock);
}

/* The object is there and right, or there is none. */
static int name_object(struct ageing *a, struct pack *p, const struct object_row *o)
{
	int error;

	enter(a, p, PACK_PLACING);
	size_t n = place_files(a, p, o, &error);
	if (n > 0)
		count(a, p);
	else if (error == 0)
		take_back(p);
	return error;
}

void pack_run(struct ageing *a, struct pack *p)
{
	struct object_row o = {0};
	int r = 0, e;

	enter(a, p, PACK_STORING);
	if (p->writer)
		r = store_pack(a, p, &o);
	if (r < 0) {
		pack_abandon(a, p);
		return;
	}
	if (p->writer)
		r = name_object(a, p, &o);
	for (size_t i = 0; !p->writer && i < p->n_files; i++)
		p->file[i].placed = true; /* long ago */
	enter(a, p, PACK_SYNCING);
	e = sync_files(a, p);
	enter(a, p, PACK_DROPPING);
	if (e == 0)
		e = drop_files(a, p);
	else
		mark_all(a, p, e);
	r = r < 0 ? r : e;
	if (r < 0)
		ageing_note_error(a, r, NULL);
	release_files(a, p);
}
