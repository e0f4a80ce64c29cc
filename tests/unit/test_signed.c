/*
 * test_signed.c: aead mode: sectors of the arena and batches of the journal that nobody changes unseen.
 */
#include "tests/unit/journal_world.h"

#include "base/log.h"
#include "fs/store/crypt/batch_mac.h"
#include "fs/store/crypt/crypt_store.h"
#include "fs/store/crypt/signed_disk.h"

#define CHUNK "arena.1/chunk.00000"
#define OTHER "arena.1/chunk.00001"
#define TAGS  CHUNK ".tags"
#define BYTES (300ull * DISK_BLOCK) /* three pages of tags, the last one in part */

static const struct data_key key = {.mode = ENCRYPTION_AEAD, .bytes = {7, 8, 9}};

struct files {
	struct memstore below;
	struct store *store;
};

static void files_open(struct files *f)
{
	assert_int_equal(crypt_store_new(&f->below.base, NULL, 0, &key, &f->store), 0);
}

static void files_new(struct files *f)
{
	memstore_init(&f->below);
	files_open(f);
}

static void files_free(struct files *f)
{
	store_close(f->store);
	memstore_free(&f->below);
}

static struct disk *make(struct files *f, const char *name)
{
	struct disk *d = NULL;

	assert_int_equal(store_open(f->store, name, DISK_CREATE | DISK_DIRECT, BYTES, &d), 0);
	return d;
}

static uint8_t *pages(uint64_t n, int byte)
{
	void *p = NULL;

	assert_int_equal(posix_memalign(&p, DISK_BLOCK, n * DISK_BLOCK), 0);
	memset(p, byte, n * DISK_BLOCK);
	return p;
}

static void a_changed_bit_of_data_or_tag_is_refused(void **state)
{
	struct files f;
	uint8_t *p = pages(300, 5), *q = pages(1, 0);

	(void)state;
	files_new(&f);
	struct disk *d = make(&f, CHUNK);
	assert_int_equal(disk_write(d, p, BYTES, 0, 0), 0);
	const struct memfile *data = memstore_file(&f.below, CHUNK), *tags = memstore_file(&f.below, TAGS);
	assert_int_equal(tags->size, 3 * DISK_BLOCK);
	for (uint64_t sector = 0; sector < 300; sector += 13) {
		uint8_t *places[] = {data->p + sector * DISK_BLOCK, tags->p + sector * SIGNED_TAG_BYTES};
		const size_t bytes[] = {DISK_BLOCK, 28}, steps[] = {97, 1};

		for (unsigned part = 0; part < 2; part++)
			for (size_t bit = 0; bit < bytes[part] * 8; bit += steps[part]) {
				places[part][bit / 8] ^= (uint8_t)(1 << bit % 8);
				assert_int_equal(disk_read(d, q, DISK_BLOCK, sector * DISK_BLOCK), -EBADMSG);
				places[part][bit / 8] ^= (uint8_t)(1 << bit % 8);
			}
		/* all the others can be read */
		assert_int_equal(disk_read(d, q, DISK_BLOCK, sector * DISK_BLOCK), 0);
		assert_memory_equal(q, p, DISK_BLOCK);
	}
	/* one of many */
	data->p[200 * DISK_BLOCK] ^= 1;
	assert_int_equal(disk_read(d, p, BYTES, 0), -EBADMSG);
	disk_close(d);
	files_free(&f);
	free(p);
	free(q);
}

static void a_sector_at_another_place_is_refused(void **state)
{
	struct files f;
	uint8_t *p = pages(1, 5);

	(void)state;
	files_new(&f);
	struct disk *d = make(&f, CHUNK), *o = make(&f, OTHER);
	assert_int_equal(disk_write(d, p, DISK_BLOCK, 0, 0), 0);
	assert_int_equal(disk_write(d, p, DISK_BLOCK, DISK_BLOCK, 0), 0);
	assert_int_equal(disk_write(o, p, DISK_BLOCK, 0, 0), 0);
	uint8_t *data = memstore_file(&f.below, CHUNK)->p, *tags = memstore_file(&f.below, TAGS)->p;
	memcpy(data + DISK_BLOCK, data, DISK_BLOCK);
	memcpy(tags + SIGNED_TAG_BYTES, tags, SIGNED_TAG_BYTES);
	assert_int_equal(disk_read(d, p, DISK_BLOCK, DISK_BLOCK), -EBADMSG);
	memcpy(memstore_file(&f.below, OTHER)->p, data, DISK_BLOCK);
	memcpy(memstore_file(&f.below, OTHER ".tags")->p, tags, SIGNED_TAG_BYTES);
	assert_int_equal(disk_read(o, p, DISK_BLOCK, 0), -EBADMSG);
	assert_int_equal(disk_read(d, p, DISK_BLOCK, 0), 0);
	disk_close(d);
	disk_close(o);
	files_free(&f);
	free(p);
}

static void what_was_never_written_cannot_be_read(void **state)
{
	struct files f;
	uint8_t *p = pages(2, 5);

	(void)state;
	files_new(&f);
	struct disk *d = make(&f, CHUNK);
	assert_int_equal(disk_read(d, p, DISK_BLOCK, 7 * DISK_BLOCK), -EBADMSG);
	assert_int_equal(disk_write(d, p, DISK_BLOCK, 6 * DISK_BLOCK, 0), 0);
	assert_int_equal(disk_read(d, p, 2 * DISK_BLOCK, 6 * DISK_BLOCK), -EBADMSG);
	assert_int_equal(disk_read(d, p, DISK_BLOCK, 6 * DISK_BLOCK), 0);
	disk_close(d);
	files_free(&f);
	free(p);
}

static int create(struct files *f)
{
	struct disk *d;
	int r = store_open(f->store, CHUNK, DISK_CREATE | DISK_DIRECT, BYTES, &d);

	if (r == 0)
		disk_close(d);
	return r;
}

static void two_files_come_and_go_as_one(void **state)
{
	struct files f;
	struct disk *d;
	uint8_t *p = pages(1, 5);

	(void)state;
	files_new(&f);
	d = make(&f, CHUNK);
	assert_int_equal(disk_write(d, p, DISK_BLOCK, 0, 0), 0);
	disk_close(d);
	assert_int_equal(create(&f), -EEXIST); /* and what is there stays */
	assert_int_equal(store_open(f.store, CHUNK, 0, 0, &d), 0);
	assert_int_equal(d->size, BYTES);
	assert_int_equal(disk_read(d, p, DISK_BLOCK, 0), 0);
	disk_close(d);
	assert_int_equal(store_remove(f.store, CHUNK), 0);
	assert_int_equal(f.below.n_files, 0);
	assert_int_equal(store_remove(f.store, CHUNK), -ENOENT);
	/* tags that an unfinished creation left, of another size even */
	assert_int_equal(store_open(&f.below.base, TAGS, DISK_CREATE, DISK_BLOCK, &d), 0);
	disk_close(d);
	assert_int_equal(create(&f), 0);
	/* tags that are gone, or cut short */
	assert_int_equal(store_remove(&f.below.base, TAGS), 0);
	assert_int_equal(store_open(f.store, CHUNK, 0, 0, &d), -ENOENT);
	assert_int_equal(store_open(&f.below.base, TAGS, DISK_CREATE, DISK_BLOCK, &d), 0);
	disk_close(d);
	assert_int_equal(store_open(f.store, CHUNK, 0, 0, &d), -EUCLEAN);
	assert_int_equal(store_remove(f.store, CHUNK), 0);
	files_free(&f);
	free(p);
}

static void every_error_of_either_file_is_told(void **state)
{
	struct files f;
	uint8_t *p = pages(300, 5);
	const struct disk_write many[] = {{p, DISK_BLOCK, 0}, {p, 130 * DISK_BLOCK, 100 * DISK_BLOCK}};
	/* how many writes each takes below: data and pages of tags, room by room */
	const unsigned long writes[] = {(1 + 2) + (1 + 1), 2 + (1 + 2)};

	(void)state;
	files_new(&f);
	struct disk *d = make(&f, CHUNK);
	for (unsigned way = 0; way < 2; way++)
		for (unsigned long n = 1; n <= writes[way] + 1; n++) {
			f.below.writes = 0;
			f.below.fail_write_from = n;
			int r = way ? disk_write_many(d, many, 2) : disk_write(d, p, BYTES, 0, DISK_DURABLE);
			assert_int_equal(r, n <= writes[way] ? -EIO : 0);
		}
	f.below.fail_write_from = 0;
	for (unsigned long n = 1; n <= 3; n++) {
		f.below.flushes = 0;
		f.below.fail_flush_from = n;
		assert_int_equal(disk_flush(d), n <= 2 ? -EIO : 0);
	}
	const char *const names[] = {CHUNK, TAGS};
	for (unsigned i = 0; i < 2; i++) {
		f.below.bad_sector = memstore_file(&f.below, names[i])->p;
		assert_int_equal(disk_read(d, p, DISK_BLOCK, 0), -EIO);
		if (i)
			assert_int_equal(disk_write(d, p, DISK_BLOCK, 0, 0), -EIO); /* the page of tags is not known */
	}
	f.below.bad_sector = NULL;
	f.below.durable_writes = 0;
	assert_int_equal(disk_write(d, p, DISK_BLOCK, 0, DISK_DURABLE), 0);
	assert_int_equal(f.below.durable_writes, 2);
	disk_close(d);
	files_free(&f);
	free(p);
}

/* ---- batches ---- */

static struct batch_mac *mac_of(uint8_t byte)
{
	struct data_key k = key;
	struct batch_mac *m;

	k.bytes[0] = byte;
	assert_int_equal(batch_mac_new(&k, &m), 0);
	return m;
}

static void each_bit_of_a_batch_is_signed(void **state)
{
	const struct batch_info info = {
	    .seq = 3, .pos = 9, .n = {.n_records = 1, .n_payload = 2, .logical_bytes = 5000, .local_bytes = 8}};
	const size_t bytes = (size_t)batch_blocks(&info.n) * BLOCK_SIZE;
	struct batch_mac *mac = mac_of(1), *other = mac_of(2);
	const struct batch_signer signer = {batch_mac_sign, mac}, stranger = {batch_mac_sign, other};
	struct batch_info got;
	uint8_t *p = pages(bytes / BLOCK_SIZE, 3);

	(void)state;
	batch_header_make((struct batch_header *)(void *)p, test_volume, &info);
	/* in the pieces that the journal writes it from */
	const struct iovec iov[] = {{p, 2 * BLOCK_SIZE}, {p + 2 * BLOCK_SIZE, 0}, {p + 2 * BLOCK_SIZE, bytes - 2 * BLOCK_SIZE}};
	assert_int_equal(batch_check_signature(&signer, p, &info), -EBADMSG);
	assert_int_equal(batch_sign(&signer, iov, 3), 0);
	assert_int_equal(batch_header_check((struct batch_header *)(void *)p, test_volume, &got), 0);
	assert_int_equal(batch_check_signature(&signer, p, &info), 0);
	assert_int_equal(batch_check_signature(&stranger, p, &info), -EBADMSG);
	for (size_t bit = 0; bit < bytes * 8; bit += bit < 200 * 8 ? 1 : 37) {
		if (bit / 8 >= offsetof(struct batch_header, crc) && bit / 8 < sizeof(struct batch_header))
			continue; /* follows from the rest, and is checked for itself */
		p[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(batch_check_signature(&signer, p, &info), -EBADMSG);
		p[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	batch_mac_free(mac);
	batch_mac_free(other);
	free(p);
}

static void append_some(struct world *w)
{
	uint64_t seq;

	for (uint64_t id = 1; id <= 12; id++) {
		assert_int_equal(world_append(w, id, &seq), 0);
		if (id % 4 == 0)
			assert_int_equal(journal_commit(w->journal, seq), 0);
	}
}

/* Whoever makes all checksums right: a batch of the same records, signed by somebody else or by nobody. */
static void replay_takes_signed_batches_only(void **state)
{
	struct batch_mac *mac = mac_of(1), *other = mac_of(2);
	const struct batch_signer signers[] = {{batch_mac_sign, mac}, {batch_mac_sign, other}, {NULL, NULL}};

	(void)state;
	for (unsigned wrote = 0; wrote < 3; wrote++)
		for (unsigned reads = 0; reads < 2; reads++) {
			struct world *w = world_new();

			w->config.signer = signers[wrote];
			assert_int_equal(world_replay(w, &format_point, 1), 0);
			world_start(w);
			append_some(w);
			w->config.signer = signers[reads];
			int r = world_replay(w, &format_point, 1);
			assert_int_equal(r, wrote == reads ? 0 : -EBADMSG);
			assert_int_equal(w->replayed, wrote == reads ? 12 : 0);
			if (r < 0)
				assert_int_equal(w->result.bad_seq, 1);
			world_free(w);
		}
	batch_mac_free(mac);
	batch_mac_free(other);
}

static int cannot_sign(void *ctx, const struct iovec *iov, int n, uint8_t ret[32])
{
	(void)ctx, (void)iov, (void)n, (void)ret;
	return -ENOMEM;
}

static void a_batch_that_cannot_be_signed_is_not_written(void **state)
{
	struct world *w = world_new();
	uint64_t seq;

	(void)state;
	w->config.signer = (struct batch_signer){cannot_sign, NULL};
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	world_start(w);
	assert_int_equal(world_append(w, 1, &seq), 0);
	unsigned long writes = w->store.writes;
	assert_int_equal(journal_commit(w->journal, seq), -ENOMEM);
	assert_true(w->store.writes == writes);
	assert_int_equal(w->failures, 1);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest cases[] = {
	    cmocka_unit_test(a_changed_bit_of_data_or_tag_is_refused),
	    cmocka_unit_test(a_sector_at_another_place_is_refused),
	    cmocka_unit_test(what_was_never_written_cannot_be_read),
	    cmocka_unit_test(two_files_come_and_go_as_one),
	    cmocka_unit_test(every_error_of_either_file_is_told),
	    cmocka_unit_test(each_bit_of_a_batch_is_signed),
	    cmocka_unit_test(replay_takes_signed_batches_only),
	    cmocka_unit_test(a_batch_that_cannot_be_signed_is_not_written),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(cases, NULL, NULL);
}
