/*
 * usage.c: how many requests each store was asked this month, kept over restarts, so that a budget is one of the month.
 *
 * A file of the store directory, "tier/usage", of two copies that are written in turn: a write that a crash tears leaves the
 * other.  It is saved now and then and at the end, so a kill forgets what was counted since; nothing but a budget and an estimate
 * of cost depends on it.  A copy that does not check counts as not there.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/tier/stores/impl.h"

#define USAGE_FILE "tier/usage"

_Static_assert(OBJECT_KINDS <= 8, "");
_Static_assert(USAGE_COPY_BYTES % DISK_BLOCK == 0, "");

static void encode(const struct fs *fs, const struct usage_table *t, struct usage_copy *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->magic = le64_make(USAGE_MAGIC);
	ret->version = le32_make(USAGE_VERSION);
	ret->n = le32_make(t->n);
	ret->generation = le64_make(t->generation);
	memcpy(ret->volume, fs->super.volume, sizeof(ret->volume));
	for (uint32_t i = 0; i < t->n; i++) {
		const struct guard_usage *u = &t->row[i].usage;
		struct usage_entry *e = &ret->entry[i];

		e->store = le32_make(t->row[i].store);
		e->month = le32_make(u->month);
		e->requests = le64_make(u->requests);
		e->bytes_in = le64_make(u->bytes_in);
		e->bytes_out = le64_make(u->bytes_out);
		for (unsigned k = 0; k < OBJECT_KINDS; k++)
			e->by_kind[k] = le64_make(u->by_kind[k]);
	}
	ret->crc = le32_make(crc32c(0, ret, offsetof(struct usage_copy, crc)));
}

static bool decode(const struct fs *fs, const struct usage_copy *c, struct usage_table *ret)
{
	uint32_t n = le32_get(c->n);

	if (le64_get(c->magic) != USAGE_MAGIC || le32_get(c->version) != USAGE_VERSION || n > USAGE_STORES_MAX ||
	    memcmp(c->volume, fs->super.volume, sizeof(c->volume)) != 0 ||
	    le32_get(c->crc) != crc32c(0, c, offsetof(struct usage_copy, crc)))
		return false;
	*ret = (struct usage_table){.generation = le64_get(c->generation), .n = n};
	for (uint32_t i = 0; i < n; i++) {
		const struct usage_entry *e = &c->entry[i];
		struct guard_usage *u = &ret->row[i].usage;

		ret->row[i].store = le32_get(e->store);
		u->month = le32_get(e->month);
		u->requests = le64_get(e->requests);
		u->bytes_in = le64_get(e->bytes_in);
		u->bytes_out = le64_get(e->bytes_out);
		for (unsigned k = 0; k < OBJECT_KINDS; k++)
			u->by_kind[k] = le64_get(e->by_kind[k]);
	}
	return true;
}

static int read_copies(struct fs *fs, struct usage_copy *copies)
{
	struct disk *d;
	int r = store_open(fs->store, USAGE_FILE, DISK_READONLY, 0, &d);

	if (r < 0)
		return r;
	r = d->size < 2 * USAGE_COPY_BYTES ? -EUCLEAN : disk_read(d, copies, 2 * USAGE_COPY_BYTES, 0);
	disk_close(d);
	return r;
}

void usage_load(struct fs *fs, struct usage_table *ret)
{
	CLEANUP_FREE struct usage_copy *copies = NULL;
	CLEANUP_FREE struct usage_table *t = malloc(sizeof(*t));
	bool any = false;
	int r = -ENOMEM;

	*ret = (struct usage_table){0};
	if (t && !posix_memalign((void **)&copies, DISK_BLOCK, 2 * sizeof(*copies)))
		r = read_copies(fs, copies);
	for (unsigned i = 0; r == 0 && i < 2; i++) {
		if (!decode(fs, &copies[i], t))
			continue;
		if (!any || t->generation > ret->generation)
			*ret = *t;
		any = true;
	}
	if (r == -ENOENT || any)
		return;
	log_warn("the requests that stores were asked this month are not known any more (%s: %s): counting begins anew",
		 USAGE_FILE, r < 0 ? strerror(-r) : "damaged");
}

static int open_file(struct fs *fs, struct disk **ret)
{
	int r = store_open(fs->store, USAGE_FILE, 0, 0, ret);

	if (r == 0 && (*ret)->size < 2 * USAGE_COPY_BYTES) { /* not what was made here; nothing in it is needed */
		*ret = disk_close(*ret);
		r = store_remove(fs->store, USAGE_FILE);
		r = r == 0 ? -ENOENT : r;
	}
	if (r != -ENOENT)
		return r;
	r = store_open(fs->store, USAGE_FILE, DISK_CREATE | DISK_ZERO, 2 * USAGE_COPY_BYTES, ret);
	if (r < 0)
		return r;
	r = store_sync_names(fs->store);
	if (r < 0)
		*ret = disk_close(*ret);
	return r;
}

int usage_save(struct fs *fs, struct usage_table *t)
{
	CLEANUP_FREE struct usage_copy *copy = NULL;
	struct disk *d;

	if (posix_memalign((void **)&copy, DISK_BLOCK, sizeof(*copy)))
		return -ENOMEM;
	int r = open_file(fs, &d);
	if (r < 0)
		return r;
	t->generation++;
	encode(fs, t, copy);
	r = disk_write(d, copy, sizeof(*copy), t->generation % 2 * USAGE_COPY_BYTES, DISK_DURABLE);
	disk_close(d);
	return r;
}

struct usage_row *usage_row_of(struct usage_table *t, uint32_t store)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (t->row[i].store == store)
			return &t->row[i];
	if (t->n == USAGE_STORES_MAX)
		return NULL;
	t->row[t->n] = (struct usage_row){.store = store};
	return &t->row[t->n++];
}
