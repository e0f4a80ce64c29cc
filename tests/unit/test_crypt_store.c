/*
 * test_crypt_store.c: the store that encrypts: what goes in comes out, nothing of it is seen below, and every error from below is
 * told.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <pthread.h>
#include <string.h>

#include "base/log.h"
#include "fs/store/crypt/crypt_store.h"
#include "fs/store/crypt/rooms.h"
#include "fs/store/super.h"
#include "tests/lib/rng.h"
#include "tests/unit/memstore.h"
#include "tests/unit/tempdir.h"

#define FILE_BYTES   (8 * MIB)
#define MAPPED_BYTES (64 * KIB)
#define STAGING      "journal/staging.0"

/* Of all cases: those of one mode, then the other's. */
static enum encryption mode = ENCRYPTION_XTS;

struct world {
	struct memstore below, memory;
	struct store *store;
	struct data_key key;
	struct rng rng;
	unsigned flags_seen; /* of the last write below */
};

static void see_flags(void *ctx, const char *name, uint64_t off, unsigned flags)
{
	(void)name, (void)off;
	((struct world *)ctx)->flags_seen = flags;
}

static void world_open(struct world *w)
{
	assert_int_equal(crypt_store_new(&w->below.base, &w->memory.base, MAPPED_BYTES, &w->key, &w->store), 0);
}

static void world_new(struct world *w)
{
	memset(w, 0, sizeof(*w));
	memstore_init(&w->below);
	memstore_init(&w->memory);
	w->below.on_write = see_flags;
	w->below.ctx = w;
	w->rng = (struct rng){test_seed(1)};
	w->key.mode = mode;
	memset(w->key.bytes, 9, sizeof(w->key.bytes));
	world_open(w);
}

static void world_free(struct world *w)
{
	store_close(w->store);
	memstore_free(&w->below);
	memstore_free(&w->memory);
}

static struct disk *file(struct world *w, const char *name, uint64_t size)
{
	struct disk *d = NULL;

	assert_int_equal(store_open(w->store, name, size ? DISK_CREATE : 0, size, &d), 0);
	return d;
}

static uint8_t *memory(size_t len)
{
	void *p = NULL;

	assert_int_equal(posix_memalign(&p, DISK_BLOCK, len ? len : DISK_BLOCK), 0);
	return p;
}

static void fill(struct world *w, uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i += 8)
		memcpy(p + i, &(uint64_t){rng_u64(&w->rng)}, 8);
}

/* [off, off + len) of the file by one of the ways to write, in pieces as they come. */
static int write_somehow(struct world *w, struct disk *d, uint8_t *p, size_t len, uint64_t off, unsigned flags)
{
	struct disk_write many[64];
	struct iovec iov[64];
	size_t n = 0, done = 0;
	const unsigned way = (unsigned)rng_below(&w->rng, 3);

	if (way == 0)
		return disk_write(d, p, len, off, flags);
	while (done < len) {
		size_t part = n == 63 ? len - done : min_u64((1 + rng_below(&w->rng, 300)) * DISK_BLOCK, len - done);

		iov[n] = (struct iovec){p + done, part};
		many[n++] = (struct disk_write){.p = p + done, .len = part, .off = off + done};
		done += part;
	}
	return way == 1 ? disk_writev(d, iov, (int)n, off, flags) : disk_write_many(d, many, n);
}

static void every_write_reads_back_and_is_not_seen_below(void **state)
{
	struct world w;
	uint8_t *shadow = memory(FILE_BYTES), *p = memory(FILE_BYTES), *before = memory(FILE_BYTES);

	(void)state;
	world_new(&w);
	memset(shadow, 0, FILE_BYTES);
	struct disk *d = file(&w, "arena.1/chunk.00000", FILE_BYTES);
	const struct memfile *below = memstore_file(&w.below, "arena.1/chunk.00000");
	assert_int_equal(disk_write(d, shadow, FILE_BYTES, 0, 0), 0);
	for (unsigned i = 0; i < 120; i++) {
		uint64_t at = rng_below(&w.rng, FILE_BYTES / DISK_BLOCK), most = FILE_BYTES / DISK_BLOCK - at;
		size_t off = at * DISK_BLOCK, len = (1 + rng_below(&w.rng, i % 3 ? min_u64(most, 8) : most)) * DISK_BLOCK;

		len = min_u64(len, FILE_BYTES - off);
		fill(&w, p, len);
		memcpy(before, p, len);
		assert_int_equal(write_somehow(&w, d, p, len, off, rng_below(&w.rng, 2) ? DISK_DURABLE : 0), 0);
		assert_memory_equal(p, before, len); /* the caller's */
		memcpy(shadow + off, p, len);
		for (size_t s = off; s < off + len; s += DISK_BLOCK)
			assert_memory_not_equal(below->p + s, shadow + s, DISK_BLOCK);
		at = rng_below(&w.rng, FILE_BYTES / DISK_BLOCK);
		len = (1 + rng_below(&w.rng, FILE_BYTES / DISK_BLOCK - at)) * DISK_BLOCK;
		assert_int_equal(disk_read(d, p, len, at * DISK_BLOCK), 0);
		assert_memory_equal(p, shadow + at * DISK_BLOCK, len);
	}
	disk_close(d);
	/* and after it was opened anew */
	store_close(w.store);
	world_open(&w);
	d = file(&w, "arena.1/chunk.00000", 0);
	assert_int_equal(d->size, FILE_BYTES);
	assert_int_equal(disk_read(d, p, FILE_BYTES, 0), 0);
	assert_memory_equal(p, shadow, FILE_BYTES);
	disk_close(d);
	world_free(&w);
	free(shadow);
	free(p);
	free(before);
}

/* Neither two sectors, nor two files, nor two keys. */
static void equal_sectors_are_never_alike_below(void **state)
{
	static const char *const names[] = {"journal/seg.0000", "journal/seg.0001", "arena.1/chunk.00000", "tier/usage"};
	struct world w;
	uint8_t *p = memory(4 * DISK_BLOCK), *seen[2 * ARRAY_SIZE(names) * 4];
	size_t n = 0;

	(void)state;
	memset(p, 'x', 4 * DISK_BLOCK);
	for (unsigned key = 0; key < 2; key++) {
		world_new(&w);
		store_close(w.store);
		w.key.bytes[0] = (uint8_t)key;
		world_open(&w);
		for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
			struct disk *d = file(&w, names[i], 4 * DISK_BLOCK);

			assert_int_equal(disk_write(d, p, 4 * DISK_BLOCK, 0, 0), 0);
			disk_close(d);
			for (unsigned s = 0; s < 4; s++) {
				seen[n] = memory(DISK_BLOCK);
				memcpy(seen[n++], memstore_file(&w.below, names[i])->p + s * DISK_BLOCK, DISK_BLOCK);
			}
		}
		world_free(&w);
	}
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < i; k++)
			for (size_t b = 0; b < DISK_BLOCK; b += 16)
				assert_memory_not_equal(seen[i] + b, seen[k] + b, 16);
	while (n)
		free(seen[--n]);
	free(p);
}

static void what_was_never_written_is_zeros_and_with_another_key_all_is_noise(void **state)
{
	static const uint8_t zeros[DISK_BLOCK];
	struct world w;
	uint8_t *p = memory(DISK_BLOCK), *q = memory(DISK_BLOCK);

	(void)state;
	world_new(&w);
	struct disk *d = file(&w, "journal/seg.0000", 4 * DISK_BLOCK);
	assert_int_equal(disk_read(d, p, DISK_BLOCK, DISK_BLOCK), 0);
	assert_memory_equal(p, zeros, DISK_BLOCK);
	assert_int_equal(disk_write(d, zeros, 0, 0, 0), 0);
	memset(p, 5, DISK_BLOCK);
	assert_int_equal(disk_write(d, p, DISK_BLOCK, 0, 0), 0);
	memset(q, 0, DISK_BLOCK);
	assert_int_equal(disk_write(d, q, DISK_BLOCK, DISK_BLOCK, 0), 0);
	assert_memory_not_equal(memstore_file(&w.below, "journal/seg.0000")->p + DISK_BLOCK, zeros, DISK_BLOCK);
	assert_int_equal(disk_read(d, q, DISK_BLOCK, DISK_BLOCK), 0);
	assert_memory_equal(q, zeros, DISK_BLOCK);
	disk_close(d);
	store_close(w.store);
	w.key.bytes[63] ^= 1;
	world_open(&w);
	d = file(&w, "journal/seg.0000", 0);
	assert_int_equal(disk_read(d, q, DISK_BLOCK, 0), 0);
	assert_memory_not_equal(q, p, DISK_BLOCK);
	disk_close(d);
	world_free(&w);
	free(p);
	free(q);
}

static void parts_of_sectors_are_refused(void **state)
{
	struct world w;
	struct disk *d, *none;
	uint8_t *p = memory(2 * DISK_BLOCK);
	void *mapped;

	(void)state;
	world_new(&w);
	d = file(&w, "journal/seg.0000", 4 * DISK_BLOCK);
	static const struct {
		size_t len;
		uint64_t off;
	} bad[] = {{512, 0},
		   {DISK_BLOCK, 512},
		   {DISK_BLOCK, 4 * DISK_BLOCK},
		   {2 * DISK_BLOCK, 3 * DISK_BLOCK},
		   {DISK_BLOCK, UINT64_MAX - 4095}};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const struct disk_write one = {.p = p, .len = bad[i].len, .off = bad[i].off};

		assert_int_equal(disk_read(d, p, bad[i].len, bad[i].off), -EINVAL);
		assert_int_equal(disk_write(d, p, bad[i].len, bad[i].off, 0), -EINVAL);
		assert_int_equal(disk_write_many(d, &one, 1), -EINVAL);
	}
	assert_int_equal(disk_map(d, DISK_BLOCK, &mapped), -ENOTSUP);
	assert_int_equal(store_open(w.store, "odd", DISK_CREATE, 100, &none), -EINVAL);
	assert_int_equal(w.below.writes, 0);
	disk_close(d);
	world_free(&w);
	free(p);
}

/* In one write when it fits into a room, else flushed behind the last piece. */
static void a_durable_write_is_durable_whatever_its_length(void **state)
{
	struct world w;
	uint8_t *p = memory(4 * ROOM_BYTES);

	(void)state;
	world_new(&w);
	fill(&w, p, 4 * ROOM_BYTES);
	struct disk *d = file(&w, "journal/seg.0000", 4 * ROOM_BYTES);
	for (size_t len = ROOM_BYTES - DISK_BLOCK; len <= 4 * ROOM_BYTES; len += DISK_BLOCK * 97) {
		unsigned long flushes = w.below.flushes, durable = w.below.durable_writes;

		assert_int_equal(disk_write(d, p, len, 0, DISK_DURABLE), 0);
		if (len <= ROOM_BYTES)
			assert_true(w.below.durable_writes == durable + 1 && w.flags_seen == DISK_DURABLE);
		else
			assert_true(w.below.flushes == flushes + 1 && w.below.durable_writes == durable);
	}
	disk_close(d);
	world_free(&w);
	free(p);
}

static void every_error_from_below_is_told(void **state)
{
	struct world w;
	uint8_t *p = memory(3 * ROOM_BYTES);

	(void)state;
	world_new(&w);
	struct disk *d = file(&w, "journal/seg.0000", 4 * ROOM_BYTES);
	memset(p, 1, 3 * ROOM_BYTES);
	const struct disk_write many[] = {{p, ROOM_BYTES, 0}, {p, ROOM_BYTES, 2 * ROOM_BYTES}, {p, DISK_BLOCK, ROOM_BYTES}};
	for (unsigned n = 1; n <= 3; n++) {
		w.below.writes = 0;
		w.below.fail_write_from = n;
		assert_int_equal(disk_write(d, p, 3 * ROOM_BYTES, 0, DISK_DURABLE), -EIO);
		w.below.writes = 0;
		assert_int_equal(disk_write_many(d, many, ARRAY_SIZE(many)), -EIO);
	}
	w.below.fail_write_from = 0;
	w.below.flushes = 0;
	w.below.fail_flush_from = 1;
	assert_int_equal(disk_write(d, p, 3 * ROOM_BYTES, 0, DISK_DURABLE), -EIO);
	assert_int_equal(disk_flush(d), -EIO);
	assert_int_equal(disk_write(d, p, ROOM_BYTES, 0, DISK_DURABLE), 0);
	w.below.bad_sector = memstore_file(&w.below, "journal/seg.0000")->p;
	assert_int_equal(disk_read(d, p, DISK_BLOCK, 0), -EIO);
	disk_close(d);
	world_free(&w);
	free(p);
}

static void what_is_read_before_there_is_a_key_is_not_encrypted(void **state)
{
	static const char *const names[] = {"super", "keys", "ballast", "ballast.open"};
	struct world w;
	uint8_t *p = memory(DISK_BLOCK);

	(void)state;
	world_new(&w);
	memset(p, 'p', DISK_BLOCK);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct disk *d = file(&w, names[i], DISK_BLOCK);

		assert_int_equal(disk_write(d, p, DISK_BLOCK, 0, 0), 0);
		assert_memory_equal(memstore_file(&w.below, names[i])->p, p, DISK_BLOCK);
		disk_close(d);
		assert_int_equal(store_remove(w.store, names[i]), 0);
	}
	world_free(&w);
	free(p);
}

static void save_super(struct world *w, bool clean)
{
	struct super s = {.clean = clean, .journal_segments = 2, .journal_segment_kib = 4, .chunk_kib = 256, .max_blocks = 1};

	if (memstore_file(&w->below, "super"))
		assert_int_equal(store_remove(w->store, "super"), 0);
	assert_int_equal(super_create(w->store, &s), 0);
}

static void touch_staging(struct world *w, uint8_t byte)
{
	struct disk *d = file(w, STAGING, 0);
	void *p;

	assert_int_equal(d->size, MAPPED_BYTES);
	assert_int_equal(disk_map(d, MAPPED_BYTES, &p), 0);
	*(uint8_t *)p = byte;
	disk_close(d);
}

static uint8_t peek_staging(struct world *w)
{
	return *memstore_file(&w->memory, STAGING)->p;
}

static void mapped_files_are_in_memory_for_as_long_as_they_are_needed(void **state)
{
	struct world w;

	(void)state;
	world_new(&w);
	save_super(&w, false);
	touch_staging(&w, 7); /* made when it is missing */
	assert_null(memstore_file(&w.below, STAGING));
	store_close(w.store);
	assert_int_equal(peek_staging(&w), 7); /* not clean: the next mount wants it */
	world_open(&w);
	assert_int_equal(peek_staging(&w), 7);
	touch_staging(&w, 8);
	save_super(&w, true);
	store_close(w.store);
	assert_null(memstore_file(&w.memory, STAGING));
	/* of another size: its creation was cut off */
	struct disk *d;
	assert_int_equal(store_open(&w.memory.base, STAGING, DISK_CREATE, DISK_BLOCK, &d), 0);
	disk_close(d);
	world_open(&w);
	touch_staging(&w, 9);
	/* format makes it anew */
	assert_int_equal(store_open(w.store, STAGING, DISK_CREATE | DISK_ZERO, MAPPED_BYTES, &d), 0);
	disk_close(d);
	assert_int_equal(peek_staging(&w), 0);
	world_free(&w);
}

#define THREADS 24 /* more than there are rooms */

struct worker {
	pthread_t thread;
	struct disk *d;
	unsigned n;
	int result;
};

static void *work(void *ctx)
{
	struct worker *t = ctx;
	const size_t len = FILE_BYTES / THREADS / DISK_BLOCK * DISK_BLOCK;
	uint64_t off = (uint64_t)t->n * len;
	uint8_t *p = aligned_alloc(DISK_BLOCK, len), *q = aligned_alloc(DISK_BLOCK, len);

	for (unsigned i = 0; i < 60 && t->result == 0; i++) {
		const struct disk_write w[] = {{p, len / 2 / DISK_BLOCK * DISK_BLOCK, off},
					       {p + len / 2 / DISK_BLOCK * DISK_BLOCK, len - len / 2 / DISK_BLOCK * DISK_BLOCK,
						off + len / 2 / DISK_BLOCK * DISK_BLOCK}};

		memset(p, (int)(t->n * 60 + i), len);
		t->result = i % 2 ? disk_write(t->d, p, len, off, 0) : disk_write_many(t->d, w, 2);
		if (t->result == 0)
			t->result = disk_read(t->d, q, len, off);
		if (t->result == 0 && memcmp(p, q, len) != 0)
			t->result = -EBADMSG;
	}
	free(p);
	free(q);
	return NULL;
}

static void many_threads_share_few_rooms(void **state)
{
	struct worker t[THREADS];
	struct world w;

	(void)state;
	world_new(&w);
	struct disk *d = file(&w, "arena.1/chunk.00000", FILE_BYTES);
	for (unsigned i = 0; i < THREADS; i++) {
		t[i] = (struct worker){.d = d, .n = i};
		assert_int_equal(pthread_create(&t[i].thread, NULL, work, &t[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(t[i].thread, NULL);
		assert_int_equal(t[i].result, 0);
	}
	disk_close(d);
	world_free(&w);
}

int main(void)
{
	const struct CMUnitTest cases[] = {
	    cmocka_unit_test(every_write_reads_back_and_is_not_seen_below),
	    cmocka_unit_test(equal_sectors_are_never_alike_below),
	    cmocka_unit_test(what_was_never_written_is_zeros_and_with_another_key_all_is_noise),
	    cmocka_unit_test(parts_of_sectors_are_refused),
	    cmocka_unit_test(a_durable_write_is_durable_whatever_its_length),
	    cmocka_unit_test(every_error_from_below_is_told),
	    cmocka_unit_test(what_is_read_before_there_is_a_key_is_not_encrypted),
	    cmocka_unit_test(mapped_files_are_in_memory_for_as_long_as_they_are_needed),
	    cmocka_unit_test(many_threads_share_few_rooms),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	int r = cmocka_run_group_tests_name("xts", cases, NULL, NULL);
	mode = ENCRYPTION_AEAD;
	return r + cmocka_run_group_tests_name("aead", cases, NULL, NULL);
}
