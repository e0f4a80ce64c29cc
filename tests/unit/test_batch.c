/*
 * test_batch.c: batch.h: a batch as bytes, and that every bit of it is covered by a check.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <xxhash.h>

#include "journal/batch.h"
#include "tests/unit/records.h"

static const uint8_t volume[16] = "volume";
static const uint64_t prev_hash = 0x123456789abcdef0, first_pos = 4711;

/* A batch with a record of every type, inline and out of line, built by hand as journal_format.h says. */
struct built {
	struct batch_info info;
	uint8_t *p; /* owned; batch_blocks() blocks */
	size_t bytes;
};

#define INLINE_BLOCKS 3u

static struct built build(void)
{
	struct record samples[32];
	struct run runs[2] = {{pointer_make(DEVICE_ARENA_FIRST, 100), 500}, {pointer_make(DEVICE_ARENA_LAST, 7), 12}};
	CLEANUP_BUF struct buf logical = {0}, local = {0};
	size_t n = sample_records(samples, 32);
	static uint8_t payload[INLINE_BLOCKS * BLOCK_SIZE];
	uint32_t crcs[INLINE_BLOCKS];
	struct built b = {.info = {.epoch = 2,
				   .incarnation = 3,
				   .seq = 17,
				   .pos = first_pos,
				   .tail_seq = 4,
				   .commit_seq = 16,
				   .time_ns = 5,
				   .prev_hash = prev_hash}};

	for (uint32_t i = 0; i < INLINE_BLOCKS; i++) {
		memset(payload + i * BLOCK_SIZE, (int)('a' + i), BLOCK_SIZE);
		crcs[i] = crc32c(0, payload + i * BLOCK_SIZE, BLOCK_SIZE);
	}
	for (size_t i = 0; i < n; i++) {
		struct record *r = &samples[i];
		if (r->type == RECORD_WRITE && !r->write.out_of_line) {
			r->write.crc = crcs;
			b.info.n.n_payload += r->write.n_blocks;
		} else if (r->type == RECORD_WRITE) {
			r->write.runs = runs;
			r->write.n_runs = 2;
			uint32_t len = batch_local_bytes(r);
			uint8_t *at = buf_grow(&local, len);
			assert_ptr_equal(batch_put_local(at, r), at + len);
		}
		assert_int_equal(record_encode(r, &logical), 0);
	}
	assert_int_equal(b.info.n.n_payload, INLINE_BLOCKS);
	b.info.n.n_records = (uint32_t)n;
	b.info.n.logical_bytes = (uint32_t)logical.len;
	b.info.n.local_bytes = (uint32_t)local.len;
	b.info.hash = XXH64(logical.p, logical.len, prev_hash);
	b.info.local_crc = crc32c(0, local.p, local.len);
	b.bytes = (size_t)batch_blocks(&b.info.n) * BLOCK_SIZE;
	b.p = calloc(1, b.bytes);
	assert_non_null(b.p);
	batch_header_make((void *)b.p, volume, &b.info);
	memcpy(b.p + BLOCK_SIZE, payload, sizeof(payload));
	memcpy(b.p + BLOCK_SIZE + sizeof(payload), logical.p, logical.len);
	memcpy(b.p + BLOCK_SIZE + sizeof(payload) + logical.len, local.p, local.len);
	return b;
}

static int check(const struct built *b)
{
	struct batch_info info;
	struct batch_view view;

	int r = batch_header_check((const void *)b->p, volume, &info);
	if (r)
		return r;
	/* replay compares these with what it expects; so does this, for the header has no other check of them */
	if (info.pos != first_pos || info.seq != 17 || info.prev_hash != prev_hash)
		return -EBADMSG;
	if ((size_t)batch_blocks(&info.n) * BLOCK_SIZE > b->bytes)
		return -EBADMSG;
	return batch_verify(b->p, &info, &view);
}

static void a_batch_comes_back_as_it_was(void **state)
{
	struct built b = build();
	struct batch_info info;
	struct batch_view view;
	struct batch_cursor c;
	struct record samples[32], r;
	size_t n = sample_records(samples, 32), i = 0;
	int more;

	(void)state;
	assert_int_equal(batch_header_check((const void *)b.p, volume, &info), 0);
	assert_int_equal(info.epoch, 2);
	assert_int_equal(info.incarnation, 3);
	assert_int_equal(info.seq, 17);
	assert_int_equal(info.pos, first_pos);
	assert_int_equal(info.tail_seq, 4);
	assert_int_equal(info.commit_seq, 16);
	assert_int_equal(info.time_ns, 5);
	assert_int_equal(info.prev_hash, prev_hash);
	assert_int_equal(info.hash, b.info.hash);
	assert_int_equal(info.local_crc, b.info.local_crc);
	assert_memory_equal(&info.n, &b.info.n, sizeof(info.n));
	assert_int_equal(batch_verify(b.p, &info, &view), 0);
	batch_cursor_start(&c, &view);
	while ((more = batch_next(&c, &r)) == 1) {
		assert_int_equal(r.type, samples[i].type);
		if (r.type == RECORD_WRITE && !r.write.out_of_line) {
			assert_int_equal(r.write.staged, pointer_make(DEVICE_JOURNAL, first_pos + 1));
			assert_int_equal(r.write.data[0].iov_len, INLINE_BLOCKS * BLOCK_SIZE);
			assert_true(batch_payload_ok(&r));
		} else if (r.type == RECORD_WRITE) {
			assert_int_equal(r.write.n_runs, 2);
			assert_int_equal(r.write.runs[1].start, pointer_make(DEVICE_ARENA_LAST, 7));
		}
		i++;
	}
	assert_int_equal(more, 0);
	assert_int_equal(i, n);
	free(b.p);
}

static void records_can_be_walked_without_the_payload(void **state)
{
	struct built b = build();
	struct batch_view view;
	struct batch_cursor c;
	struct record r;
	int more;

	(void)state;
	assert_int_equal(batch_verify(b.p, &b.info, &view), 0);
	view.payload = NULL;
	batch_cursor_start(&c, &view);
	while ((more = batch_next(&c, &r)) == 1)
		assert_true(r.type != RECORD_WRITE || r.write.n_data == 0);
	assert_int_equal(more, 0);
	free(b.p);
}

static void every_bit_of_a_batch_is_covered(void **state)
{
	struct built b = build();
	size_t step = 1;

	(void)state;
	assert_int_equal(check(&b), 0);
	for (size_t bit = 0; bit < b.bytes * 8; bit += step) {
		/* every bit of the header's fields, of the first records, of the end; a sample of the rest */
		size_t byte = bit / 8;
		step = byte < 160 || byte > b.bytes - 64 ? 1 : 397;
		b.p[byte] ^= (uint8_t)(1 << bit % 8);
		assert_int_not_equal(check(&b), 0);
		b.p[byte] ^= (uint8_t)(1 << bit % 8);
	}
	assert_int_equal(check(&b), 0);
	free(b.p);
}

static void every_truncation_of_a_batch_is_refused(void **state)
{
	struct built b = build();

	(void)state;
	for (size_t len = 0; len < b.bytes; len += 512) {
		struct built cut = b;
		cut.p = calloc(1, b.bytes);
		memcpy(cut.p, b.p, len);
		/* the last sectors are zeros in the whole batch too */
		assert_true(check(&cut) != 0 || memcmp(cut.p, b.p, b.bytes) == 0);
		free(cut.p);
	}
	free(b.p);
}

/* Each record is as it was written, CRC and all; only the hash over them knows their order. */
static void records_in_another_order_are_refused(void **state)
{
	struct built b = build();
	uint8_t *first = b.p + (1 + INLINE_BLOCKS) * BLOCK_SIZE, moved[256];
	struct record r;
	size_t len, next;

	(void)state;
	/* the last two change places: neither has data that would show it */
	for (uint32_t i = 0; i + 2 < b.info.n.n_records; i++, first += len)
		assert_int_equal(record_decode(first, (size_t)(b.p + b.bytes - first), &r, &len), 0);
	assert_int_equal(record_decode(first, (size_t)(b.p + b.bytes - first), &r, &len), 0);
	assert_int_equal(record_decode(first + len, (size_t)(b.p + b.bytes - first) - len, &r, &next), 0);
	assert_true(len <= sizeof(moved));
	memcpy(moved, first, len);
	memmove(first, first + len, next);
	memcpy(first + next, moved, len);
	assert_int_equal(check(&b), -EBADMSG);
	free(b.p);
}

static void headers_with_counts_out_of_bounds_are_refused(void **state)
{
	struct built b = build();
	struct batch_info info;

	(void)state;
#define REFUSED(field, value)                                                                                                    \
	do {                                                                                                                     \
		struct batch_header h = *(struct batch_header *)b.p;                                                             \
		h.field = value;                                                                                                 \
		h.crc = le32_make(crc32c(0, &h, sizeof(h) - sizeof(h.crc)));                                                     \
		assert_int_equal(batch_header_check(&h, volume, &info), -EBADMSG);                                               \
	} while (0)
	REFUSED(n_records, le32_make(0));
	REFUSED(n_records, le32_make(UINT32_MAX));
	REFUSED(n_payload_blocks, le32_make(BATCH_PAYLOAD_MAX_BLOCKS + 1));
	REFUSED(n_payload_blocks, le32_make(UINT32_MAX));
	REFUSED(logical_bytes, le32_make(BATCH_LOGICAL_MAX_BYTES + 8));
	REFUSED(logical_bytes, le32_make(UINT32_MAX - 7));
	REFUSED(logical_bytes, le32_make(1001));
	REFUSED(local_bytes, le32_make(BATCH_LOCAL_MAX_BYTES + 4));
	REFUSED(local_bytes, le32_make(2));
	REFUSED(version, le16_make(JOURNAL_FORMAT_VERSION + 1));
	REFUSED(flags, le16_make(1));
	REFUSED(volume[0], 'x');
#undef REFUSED
	free(b.p);
}

/* Sections that disagree with each other although every checksum is right: by a hostile or a faulty writer. */
static void sections_that_disagree_are_refused(void **state)
{
	struct built b = build();
	struct batch_view view, bad;
	struct batch_cursor c;
	struct record r;
	int more;

	(void)state;
	assert_int_equal(batch_verify(b.p, &b.info, &view), 0);
	for (int kind = 0; kind < 8; kind++) {
		CLEANUP_FREE uint8_t *local = malloc(view.n.local_bytes + 64);
		le32 count = le32_make(kind == 4 ? 0 : kind == 5 ? 3 : kind == 6 ? UINT32_MAX : 2);
		le64 start = le64_make(pointer_make(DEVICE_JOURNAL, 5));
		memcpy(local, view.local, view.n.local_bytes);
		bad = view;
		bad.local = local;
		if (kind == 0)
			bad.n.n_payload--;
		else if (kind == 1)
			bad.n.n_payload++;
		else if (kind == 2)
			bad.n.local_bytes -= 4;
		else if (kind == 3)
			bad.n.local_bytes += 4;
		else if (kind == 7)
			memcpy(local + 4, &start, 8);
		memcpy(local, &count, 4);
		batch_cursor_start(&c, &bad);
		while ((more = batch_next(&c, &r)) == 1)
			;
		assert_int_equal(more, -EUCLEAN);
	}
	bad = view;
	bad.n.n_records--;
	batch_cursor_start(&c, &bad);
	while ((more = batch_next(&c, &r)) == 1)
		;
	assert_int_equal(more, -EUCLEAN);
	free(b.p);
}

/* A batch as it comes from another node: sections apart, and nothing about where data lies. */
static void sections_that_lie_apart_are_verified_as_a_whole(void **state)
{
	struct built b = build();
	struct batch_view whole, parts;

	(void)state;
	assert_int_equal(batch_verify(b.p, &b.info, &whole), 0);
	const struct batch_info hashes = {.prev_hash = b.info.prev_hash, .hash = b.info.hash};
	assert_int_equal(batch_verify_parts(&hashes, &whole), 0);
	CLEANUP_FREE uint8_t *logical = malloc(whole.n.logical_bytes), *payload = malloc(INLINE_BLOCKS * BLOCK_SIZE);
	memcpy(logical, whole.logical, whole.n.logical_bytes);
	memcpy(payload, whole.payload, INLINE_BLOCKS * BLOCK_SIZE);
	parts = (struct batch_view){.pos = 1, .payload = payload, .logical = logical, .n = whole.n};
	parts.n.local_bytes = 0;
	assert_int_equal(batch_verify_parts(&hashes, &parts), 0);
	for (size_t bit = 0; bit < whole.n.logical_bytes * 8ull; bit += bit < 4096 ? 1 : 397) {
		logical[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(batch_verify_parts(&hashes, &parts), -EBADMSG);
		logical[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (size_t bit = 0; bit < INLINE_BLOCKS * BLOCK_SIZE * 8ull; bit += 97) {
		payload[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(batch_verify_parts(&hashes, &parts), -EBADMSG);
		payload[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_int_equal(batch_verify_parts(&hashes, &parts), 0);
	const struct batch_info other = {.prev_hash = b.info.prev_hash + 1, .hash = b.info.hash};
	assert_int_equal(batch_verify_parts(&other, &parts), -EBADMSG);
	free(b.p);
}

/* Counts are a peer's word, and the hash covers none of them. */
static void counts_from_elsewhere_are_bounded_and_must_be_used_up(void **state)
{
	struct built b = build();
	struct batch_view whole;

	(void)state;
	assert_int_equal(batch_verify(b.p, &b.info, &whole), 0);
#define REFUSED(field, value)                                                                                                    \
	do {                                                                                                                     \
		struct batch_view v = whole;                                                                                     \
		v.n.field = value;                                                                                               \
		int error = batch_verify_parts(&b.info, &v);                                                                     \
		assert_true(error == -EUCLEAN || error == -EBADMSG);                                                             \
	} while (0)
	REFUSED(n_records, 0);
	REFUSED(n_records, whole.n.n_records - 1);
	REFUSED(n_records, whole.n.n_records + 1);
	REFUSED(n_records, UINT32_MAX);
	REFUSED(n_payload, whole.n.n_payload - 1);
	REFUSED(n_payload, whole.n.n_payload + 1);
	REFUSED(n_payload, UINT32_MAX);
	REFUSED(logical_bytes, 0);
	REFUSED(logical_bytes, whole.n.logical_bytes - 8);
	REFUSED(logical_bytes, UINT32_MAX - 7);
	REFUSED(local_bytes, whole.n.local_bytes - 4);
	REFUSED(local_bytes, whole.n.local_bytes + 4);
	REFUSED(local_bytes, UINT32_MAX - 3);
#undef REFUSED
	free(b.p);
}

static void without_a_local_section_records_come_without_runs(void **state)
{
	struct built b = build();
	struct batch_view view;
	struct batch_cursor c;
	struct record r;
	unsigned n = 0;
	int more;

	(void)state;
	assert_int_equal(batch_verify(b.p, &b.info, &view), 0);
	view.local = NULL;
	view.n.local_bytes = 0;
	batch_cursor_start(&c, &view);
	while ((more = batch_next(&c, &r)) == 1)
		if (r.type == RECORD_WRITE && r.write.out_of_line) {
			assert_int_equal(r.write.n_runs, 0);
			n++;
		}
	assert_int_equal(more, 0);
	assert_true(n > 0);
	/* one that is there but empty is another matter */
	view.local = (const uint8_t *)"";
	batch_cursor_start(&c, &view);
	while ((more = batch_next(&c, &r)) == 1)
		;
	assert_int_equal(more, -EUCLEAN);
	free(b.p);
}

static void an_operation_cut_off_by_the_end_of_its_batch_is_refused(void **state)
{
	CLEANUP_BUF struct buf logical = {0};
	struct record r = sample_base(RECORD_REAP);
	struct batch_cursor c;

	(void)state;
	r.flags = RECORD_MORE;
	assert_int_equal(record_encode(&r, &logical), 0);
	const struct batch_view view = {
	    .pos = 1, .logical = logical.p, .n = {.n_records = 1, .logical_bytes = (uint32_t)logical.len}};
	batch_cursor_start(&c, &view);
	assert_int_equal(batch_next(&c, &r), -EUCLEAN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_batch_comes_back_as_it_was),
	    cmocka_unit_test(records_can_be_walked_without_the_payload),
	    cmocka_unit_test(every_bit_of_a_batch_is_covered),
	    cmocka_unit_test(every_truncation_of_a_batch_is_refused),
	    cmocka_unit_test(records_in_another_order_are_refused),
	    cmocka_unit_test(headers_with_counts_out_of_bounds_are_refused),
	    cmocka_unit_test(sections_that_disagree_are_refused),
	    cmocka_unit_test(sections_that_lie_apart_are_verified_as_a_whole),
	    cmocka_unit_test(counts_from_elsewhere_are_bounded_and_must_be_used_up),
	    cmocka_unit_test(without_a_local_section_records_come_without_runs),
	    cmocka_unit_test(an_operation_cut_off_by_the_end_of_its_batch_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
