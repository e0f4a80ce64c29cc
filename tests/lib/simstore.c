/*
 * simstore.c: the running side of the simulated store: what the product reads and writes, and the log of it.
 *
 * A write makes new pages, hangs them into the file's live bytes and notes the same pages in the log: nothing is copied
 * twice, and the log holds what simcut.c needs to build the store as any crash would leave it.  Mapped memory has no write
 * calls, so every event first compares the resident pages of each map with the live bytes and logs those that changed.
 *
 * A store that does not record (a recovery that is only looked at) keeps the live bytes alone.
 */
#include "tests/lib/simlog.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

bool simstore_trace;

struct sim_disk {
	struct disk disk;
	struct simstore *s;
	uint32_t file;
	bool readonly, direct;
};
struct sim_handle {
	struct store store;
	struct simstore *s;
};

/* ---- files and the log ---- */

uint32_t sim_file_add(struct simstore *s, const char *name, uint64_t size)
{
	s->files = test_grow(s->files, s->n_files, &s->files_cap, sizeof(*s->files));
	struct sim_file *f = &s->files[s->n_files];

	*f = (struct sim_file){.exists = true};
	snprintf(f->name, sizeof(f->name), "%s", name);
	cow_init(&f->live, size);
	return (uint32_t)s->n_files++;
}

static struct sim_file *file_find(struct simstore *s, const char *name)
{
	for (size_t i = 0; i < s->n_files; i++)
		if (s->files[i].exists && strcmp(s->files[i].name, name) == 0)
			return &s->files[i];
	return NULL;
}

struct sim_entry *sim_entry_add(struct simstore *s, enum sim_kind kind, uint32_t file)
{
	s->log = test_grow(s->log, s->n_log, &s->log_cap, sizeof(*s->log));
	struct sim_entry *e = &s->log[s->n_log++];

	*e = (struct sim_entry){.event = s->n_events, .kind = (uint8_t)kind, .file = file};
	return e;
}

void sim_entry_share_pages(struct sim_entry *to, const struct sim_entry *from)
{
	uint64_t n = sim_end_page(from) - sim_first_page(from);

	to->first_sector = from->first_sector;
	to->n_sectors = from->n_sectors;
	to->pages = test_alloc(n * sizeof(*to->pages));
	for (uint64_t i = 0; i < n; i++)
		to->pages[i] = cow_page_ref(from->pages[i]);
}

void sim_entry_free(struct sim_entry *e)
{
	for (uint64_t i = 0; e->pages && i < sim_end_page(e) - sim_first_page(e); i++)
		cow_page_unref(e->pages[i]);
	free(e->pages);
}

/* Notes that sectors [first, first + n) of `file` now are as in its live bytes. */
static struct sim_entry *log_sectors(struct simstore *s, enum sim_kind kind, uint32_t file, uint64_t first, uint64_t n)
{
	struct sim_entry *e = sim_entry_add(s, kind, file);

	e->first_sector = first;
	e->n_sectors = n;
	e->pages = test_alloc((sim_end_page(e) - sim_first_page(e)) * sizeof(*e->pages));
	for (uint64_t p = sim_first_page(e); p < sim_end_page(e); p++)
		e->pages[p - sim_first_page(e)] = cow_page_ref(cow_get(&s->files[file].live, p));
	return e;
}

/* ---- mapped memory ---- */

static bool page_is_zero(const uint8_t *p)
{
	return p[0] == 0 && memcmp(p, p + 1, COW_PAGE - 1) == 0;
}

/* Takes the pages of the map that changed into the live bytes and, when recording, into the log, as part of `event`. */
static void file_capture(struct simstore *s, uint32_t file, uint64_t event)
{
	struct sim_file *f = &s->files[file];
	size_t n = f->map_len / COW_PAGE;
	CLEANUP_FREE unsigned char *resident = test_alloc(n);

	/* A page never touched is not resident: most of a map costs nothing here. */
	if (mincore(f->map, f->map_len, resident) != 0)
		abort();
	for (size_t i = 0; i < n; i++) {
		const uint8_t *now = f->map + i * COW_PAGE;
		const struct cow_page *was = resident[i] & 1 ? cow_get(&f->live, i) : NULL;

		if (!(resident[i] & 1) || (was ? memcmp(was->b, now, COW_PAGE) == 0 : page_is_zero(now)))
			continue;
		struct cow_page *fresh = cow_page_new(now);
		cow_set(&f->live, i, fresh);
		cow_page_unref(fresh);
		if (s->record)
			log_sectors(s, SIM_MAPPED, file, i * COW_SECTORS, COW_SECTORS)->event = event;
	}
}

static void file_unmap(struct simstore *s, uint32_t file)
{
	struct sim_file *f = &s->files[file];

	if (!f->map)
		return;
	file_capture(s, file, s->n_events + 1); /* stored after the last event returned */
	munmap(f->map, f->map_len);
	f->map = NULL;
}

/* ---- events ---- */

/* Takes the next number; the error it is to fail with, or 0. */
static int event_begin(struct simstore *s)
{
	s->n_events++;
	for (uint32_t i = 0; s->record && i < s->n_files; i++)
		if (s->files[i].map)
			file_capture(s, i, s->n_events);
	if (!s->fail_error || s->n_events < s->fail_first || s->n_events - s->fail_first >= s->fail_count)
		return 0;
	s->n_failures++;
	return s->fail_error;
}

static void trace(const struct simstore *s, const char *what, uint32_t file, uint64_t off, uint64_t len, int error)
{
	if (simstore_trace)
		printf("  event %llu: %s %s %llu+%llu%s\n", (unsigned long long)s->n_events, what,
		       s->n_files ? s->files[file].name : "", (unsigned long long)off, (unsigned long long)len,
		       error ? " fails" : "");
}

static bool range_ok(const struct sim_disk *d, const void *p, uint64_t len, uint64_t off)
{
	if (off > d->disk.size || len > d->disk.size - off)
		return false;
	return !d->direct || (off % DISK_BLOCK == 0 && len % DISK_BLOCK == 0 && (uintptr_t)p % DISK_BLOCK == 0);
}

/* What a write that failed leaves: any subset of its sectors, none when there was no space. */
static void write_partly(struct simstore *s, struct sim_file *f, const uint8_t *p, size_t len, uint64_t off, int error)
{
	for (size_t at = 0; at < len && error != -ENOSPC;) {
		size_t n = (size_t)min_u64(COW_SECTOR - (off + at) % COW_SECTOR, len - at);

		if (rng_percent(&s->rng, 50))
			cow_write(&f->live, p + at, n, off + at);
		at += n;
	}
}

/* Hangs new pages over [off, off + len): the old ones stay as the log and the images know them. */
static void write_now(struct sim_file *f, const uint8_t *p, size_t len, uint64_t off)
{
	for (size_t at = 0; at < len;) {
		size_t n = (size_t)min_u64(COW_PAGE - (off + at) % COW_PAGE, len - at);

		if (n == COW_PAGE) {
			struct cow_page *fresh = cow_page_new(p + at);

			cow_set(&f->live, (off + at) / COW_PAGE, fresh);
			cow_page_unref(fresh);
		} else {
			cow_write(&f->live, p + at, n, off + at);
		}
		at += n;
	}
}

/* One write of an event already begun, with the event's error. */
static void write_one(struct sim_disk *d, const void *p, size_t len, uint64_t off, unsigned flags, int error)
{
	struct simstore *s = d->s;
	struct sim_file *f = &s->files[d->file];

	if (len == 0)
		return;
	if (error)
		write_partly(s, f, p, len, off, error);
	else
		write_now(f, p, len, off);
	trace(s, flags & DISK_DURABLE ? "durable write" : "write", d->file, off, len, error);
	if (!s->record)
		return;
	uint64_t first = off / COW_SECTOR, end = div_round_up(off + len, COW_SECTOR);
	struct sim_entry *e = log_sectors(s, SIM_WRITE, d->file, first, end - first);
	e->durable = (flags & DISK_DURABLE) && !error;
	e->failed = error != 0;
}

/* ---- the disk table ---- */

static int sim_read(struct disk *disk, void *p, size_t len, uint64_t off)
{
	struct sim_disk *d = container_of(disk, struct sim_disk, disk);
	struct simstore *s = d->s;
	int r = 0;

	if (off > disk->size || len > disk->size - off)
		return -EIO;
	if (!range_ok(d, p, len, off))
		return -EINVAL;
	mutex_lock(&s->lock);
	s->n_reads++;
	if (s->fail_reads_error && s->n_reads >= s->fail_reads_first && s->n_reads - s->fail_reads_first < s->fail_reads_count) {
		s->n_failures++;
		r = s->fail_reads_error;
	} else {
		if (s->files[d->file].map)
			file_capture(s, d->file, s->n_events + 1);
		cow_read(&s->files[d->file].live, p, len, off);
	}
	mutex_unlock(&s->lock);
	return r;
}

static int sim_write(struct disk *disk, const struct iovec *iov, int n_iov, uint64_t off, unsigned flags)
{
	struct sim_disk *d = container_of(disk, struct sim_disk, disk);
	uint64_t len = 0;

	for (int i = 0; i < n_iov; i++) {
		if (!range_ok(d, iov[i].iov_base, iov[i].iov_len, off + len))
			return -EINVAL;
		len += iov[i].iov_len;
	}
	if (d->readonly)
		return -EBADF;
	if (flags & DISK_DURABLE && d->s->on_durable_write)
		d->s->on_durable_write(d->s->on_durable_write_ctx);
	mutex_lock(&d->s->lock);
	int r = event_begin(d->s);
	for (int i = 0; i < n_iov; i++) {
		write_one(d, iov[i].iov_base, iov[i].iov_len, off, flags, r);
		off += iov[i].iov_len;
	}
	mutex_unlock(&d->s->lock);
	return r;
}

static int sim_write_many(struct disk *disk, const struct disk_write *w, size_t n)
{
	struct sim_disk *d = container_of(disk, struct sim_disk, disk);

	for (size_t i = 0; i < n; i++)
		if (!range_ok(d, w[i].p, w[i].len, w[i].off))
			return -EINVAL;
	if (d->readonly)
		return -EBADF;
	mutex_lock(&d->s->lock);
	int r = event_begin(d->s);
	for (size_t i = 0; i < n; i++)
		write_one(d, w[i].p, w[i].len, w[i].off, 0, r);
	mutex_unlock(&d->s->lock);
	return r;
}

/* An event that is one entry without data. */
static int event_plain(struct simstore *s, enum sim_kind kind, uint32_t file, uint64_t *ret_event)
{
	mutex_lock(&s->lock);
	int r = event_begin(s);
	if (kind == SIM_INDEX && r == 0 && s->fail_index_count > 0) {
		s->fail_index_count--;
		s->n_failures++;
		r = s->fail_index_error;
	}
	static const char *const names[] = {[SIM_FLUSH] = "flush", [SIM_SYNC_NAMES] = "sync names", [SIM_INDEX] = "index flush"};
	trace(s, names[kind], file, 0, 0, r);
	if (s->record)
		sim_entry_add(s, kind, file)->failed = r != 0;
	if (ret_event)
		*ret_event = s->n_events;
	mutex_unlock(&s->lock);
	return r;
}

static int sim_flush(struct disk *disk)
{
	struct sim_disk *d = container_of(disk, struct sim_disk, disk);

	return event_plain(d->s, SIM_FLUSH, d->file, NULL);
}

static int sim_map(struct disk *disk, size_t len, void **ret_p)
{
	struct sim_disk *d = container_of(disk, struct sim_disk, disk);
	struct simstore *s = d->s;
	int r = 0;

	if (len > disk->size || len % COW_PAGE)
		return -EINVAL;
	mutex_lock(&s->lock);
	struct sim_file *f = &s->files[d->file];
	void *p = f->map ? MAP_FAILED : mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) {
		r = -ENOMEM;
	} else {
		for (uint64_t i = 0; i < len / COW_PAGE; i++) {
			const struct cow_page *page = cow_get(&f->live, i);

			if (page)
				memcpy((uint8_t *)p + i * COW_PAGE, page->b, COW_PAGE);
		}
		f->map = p;
		f->map_len = len;
		*ret_p = p;
	}
	mutex_unlock(&s->lock);
	return r;
}

static void sim_close(struct disk *disk)
{
	struct sim_disk *d = container_of(disk, struct sim_disk, disk);

	mutex_lock(&d->s->lock);
	file_unmap(d->s, d->file);
	mutex_unlock(&d->s->lock);
	free(d);
}

static const struct disk_ops sim_disk_ops = {
    .read = sim_read,
    .write = sim_write,
    .write_many = sim_write_many,
    .flush = sim_flush,
    .map = sim_map,
    .close = sim_close,
};

/* ---- the store table ---- */

static int sim_create_locked(struct simstore *s, const char *name, uint64_t size, uint32_t *ret_file) REQUIRES(&s->lock)
{
	int r = event_begin(s);

	if (r)
		return r;
	*ret_file = sim_file_add(s, name, size);
	trace(s, "create", *ret_file, 0, size, 0);
	if (s->record)
		sim_entry_add(s, SIM_CREATE, *ret_file);
	return 0;
}

static int sim_open(struct store *store, const char *name, unsigned flags, uint64_t size, struct disk **ret_disk)
{
	struct simstore *s = container_of(store, struct sim_handle, store)->s;
	uint32_t file = 0;
	int r = 0;

	mutex_lock(&s->lock);
	struct sim_file *f = file_find(s, name);
	if (f)
		file = (uint32_t)(f - s->files);
	if (flags & DISK_CREATE)
		r = f ? -EEXIST : strlen(name) >= sizeof(f->name) ? -ENAMETOOLONG : sim_create_locked(s, name, size, &file);
	else if (!f)
		r = -ENOENT;
	if (r == 0) {
		struct sim_disk *d = test_alloc(sizeof(*d));

		*d = (struct sim_disk){.disk = {.ops = &sim_disk_ops, .size = s->files[file].live.size},
				       .s = s,
				       .file = file,
				       .readonly = flags & DISK_READONLY,
				       .direct = flags & DISK_DIRECT};
		*ret_disk = &d->disk;
	}
	mutex_unlock(&s->lock);
	return r;
}

static int sim_remove(struct store *store, const char *name)
{
	struct simstore *s = container_of(store, struct sim_handle, store)->s;

	mutex_lock(&s->lock);
	struct sim_file *f = file_find(s, name);
	int r = f ? event_begin(s) : -ENOENT;
	if (r == 0) {
		f->exists = false;
		if (s->record)
			sim_entry_add(s, SIM_REMOVE, (uint32_t)(f - s->files));
	}
	mutex_unlock(&s->lock);
	return r;
}

static int sim_sync_names(struct store *store)
{
	return event_plain(container_of(store, struct sim_handle, store)->s, SIM_SYNC_NAMES, 0, NULL);
}

static int sim_space(struct store *store, uint64_t *ret_free, uint64_t *ret_total)
{
	struct simstore *s = container_of(store, struct sim_handle, store)->s;
	uint64_t used = 0;

	mutex_lock(&s->lock);
	for (size_t i = 0; i < s->n_files; i++)
		if (s->files[i].exists)
			used += s->files[i].live.size;
	*ret_total = s->space_total;
	*ret_free = used < s->space_total ? s->space_total - used : 0;
	mutex_unlock(&s->lock);
	return 0;
}

static void sim_store_close(struct store *store)
{
	free(container_of(store, struct sim_handle, store));
}

static const struct store_ops sim_store_ops = {
    .open = sim_open,
    .remove = sim_remove,
    .sync_names = sim_sync_names,
    .space = sim_space,
    .close = sim_store_close,
};

struct store *simstore_open(struct simstore *s)
{
	struct sim_handle *h = test_alloc(sizeof(*h));

	h->store.ops = &sim_store_ops;
	h->s = s;
	return &h->store;
}

/* ---- what tests call ---- */

struct simstore *simstore_new(void)
{
	struct simstore *s = test_alloc(sizeof(*s));

	mutex_init(&s->lock);
	s->record = true;
	s->space_total = 1024 * GIB;
	s->rng = rng_derive(1, 2, 3);
	return s;
}

void simstore_free(struct simstore *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n_log; i++)
		sim_entry_free(&s->log[i]);
	for (size_t i = 0; i < s->n_files; i++) {
		if (s->files[i].map)
			munmap(s->files[i].map, s->files[i].map_len);
		cow_free(&s->files[i].live);
		cow_free(&s->files[i].base);
	}
	mutex_destroy(&s->lock);
	free(s->files);
	free(s->log);
	free(s);
}

void simstore_set_space(struct simstore *s, uint64_t total)
{
	mutex_lock(&s->lock);
	s->space_total = total;
	mutex_unlock(&s->lock);
}

uint64_t simstore_count(struct simstore *s)
{
	mutex_lock(&s->lock);
	uint64_t n = s->n_events;
	mutex_unlock(&s->lock);
	return n;
}

uint64_t simstore_reads(struct simstore *s)
{
	mutex_lock(&s->lock);
	uint64_t n = s->n_reads;
	mutex_unlock(&s->lock);
	return n;
}

uint64_t simstore_failures(struct simstore *s)
{
	mutex_lock(&s->lock);
	uint64_t n = s->n_failures;
	mutex_unlock(&s->lock);
	return n;
}

uint64_t simstore_mark(struct simstore *s)
{
	mutex_lock(&s->lock);
	int error = s->fail_error;
	s->fail_error = 0; /* a mark is no I/O and cannot fail */
	event_begin(s);
	s->fail_error = error;
	if (s->record)
		sim_entry_add(s, SIM_MARK, 0);
	uint64_t n = s->n_events;
	mutex_unlock(&s->lock);
	return n;
}

int simstore_index_event(struct simstore *s, uint64_t *ret_event)
{
	return event_plain(s, SIM_INDEX, 0, ret_event);
}

void simstore_fail(struct simstore *s, uint64_t first, uint64_t count, int error)
{
	mutex_lock(&s->lock);
	s->fail_first = first;
	s->fail_count = count;
	s->fail_error = error;
	mutex_unlock(&s->lock);
}

void simstore_on_durable_write(struct simstore *s, void (*fn)(void *ctx), void *ctx)
{
	mutex_lock(&s->lock);
	s->on_durable_write = fn;
	s->on_durable_write_ctx = ctx;
	mutex_unlock(&s->lock);
}

void simstore_fail_index(struct simstore *s, uint64_t count, int error)
{
	mutex_lock(&s->lock);
	s->fail_index_count = count;
	s->fail_index_error = error;
	mutex_unlock(&s->lock);
}

void simstore_fail_reads(struct simstore *s, uint64_t first, uint64_t count, int error)
{
	mutex_lock(&s->lock);
	s->fail_reads_first = first;
	s->fail_reads_count = count;
	s->fail_reads_error = error;
	mutex_unlock(&s->lock);
}

size_t simstore_files(struct simstore *s, struct simstore_file *ret, size_t cap)
{
	size_t n = 0;

	mutex_lock(&s->lock);
	for (size_t i = 0; i < s->n_files; i++) {
		const struct sim_file *f = &s->files[i];

		if (!f->exists || n == cap)
			continue;
		ret[n] = (struct simstore_file){.size = f->live.size};
		memcpy(ret[n].name, f->name, sizeof(f->name));
		for (uint64_t p = 0; p < f->live.size / COW_PAGE && !ret[n].written; p++)
			ret[n].written = cow_get(&f->live, p) != NULL;
		n++;
	}
	mutex_unlock(&s->lock);
	return n;
}

/* The file a test names: it must be there, and no longer mapped. */
static struct sim_file *file_named(struct simstore *s, const char *name)
{
	struct sim_file *f = file_find(s, name);

	if (!f || f->map) {
		fprintf(stderr, "simstore: %s is %s\n", name, f ? "in use" : "absent");
		abort();
	}
	return f;
}

void simstore_peek(struct simstore *s, const char *name, void *p, size_t len, uint64_t off)
{
	mutex_lock(&s->lock);
	cow_read(&file_named(s, name)->live, p, len, off);
	mutex_unlock(&s->lock);
}

void simstore_poke(struct simstore *s, const char *name, const void *p, size_t len, uint64_t off)
{
	mutex_lock(&s->lock);
	cow_write(&file_named(s, name)->live, p, len, off);
	mutex_unlock(&s->lock);
}

size_t simstore_written_pages(struct simstore *s, const char *name, uint64_t *ret, size_t cap)
{
	size_t n = 0;

	mutex_lock(&s->lock);
	const struct sim_file *f = file_named(s, name);
	for (uint64_t p = 0; p < f->live.size / COW_PAGE && n < cap; p++)
		if (cow_get(&f->live, p))
			ret[n++] = p;
	mutex_unlock(&s->lock);
	return n;
}
