/*
 * fuzz_journal.c: libFuzzer target over the decoders of records and batches.
 *
 * The first byte chooses what the rest is.  Checksums would keep a fuzzer out, so but for the first kind the target puts
 * right ones in and lets it work on the fields behind them.  What is accepted must survive being written again.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/crc32c.h"
#include "journal/batch.h"

enum kind { RAW_RECORD, RECORD_WITH_CRC, RAW_BATCH, BATCH_WITH_CRC, KINDS };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t volume[16] = "fuzz";

static void try_record(const uint8_t *p, size_t len)
{
	CLEANUP_BUF struct buf again = {0};
	struct record r;
	size_t used;

	if (record_decode(p, len, &r, &used))
		return;
	int error = record_encode(&r, &again);
	assert(!error && again.len == used && memcmp(again.p, p, used) == 0);
}

static void put_record_crc(uint8_t *p, size_t len)
{
	le32 bytes, crc;

	if (len < sizeof(struct record_header))
		return;
	memcpy(&bytes, p + offsetof(struct record_header, bytes), sizeof(bytes));
	if (le32_get(bytes) >= sizeof(struct record_header) && le32_get(bytes) <= len) {
		crc = le32_make(crc32c(0, p + sizeof(crc), le32_get(bytes) - sizeof(crc)));
		memcpy(p, &crc, sizeof(crc));
	}
}

/* All records one after the other, as far as their lengths lead. */
static void put_all_record_crcs(uint8_t *p, size_t len)
{
	while (len >= sizeof(struct record_header)) {
		le32 bytes;
		put_record_crc(p, len);
		memcpy(&bytes, p + offsetof(struct record_header, bytes), sizeof(bytes));
		size_t n = le32_get(bytes);
		if (n < sizeof(struct record_header) || n > len || n % 8)
			return;
		p += n;
		len -= n;
	}
}

static void try_batch(uint8_t *p, size_t n_blocks, bool mend)
{
	struct batch_header *h = (void *)p;
	struct batch_info info;
	struct batch_view view;

	if (mend) {
		h->magic = le64_make(BATCH_MAGIC);
		h->version = le16_make(JOURNAL_FORMAT_VERSION);
		h->flags = le16_make(0);
		memcpy(h->volume, volume, sizeof(volume));
		h->crc = le32_make(crc32c(0, h, sizeof(*h) - sizeof(h->crc)));
	}
	if (batch_header_check(h, volume, &info) || batch_blocks(&info.n) > n_blocks)
		return;
	if (mend) {
		uint8_t *logical = p + (1 + (size_t)info.n.n_payload) * BLOCK_SIZE;
		put_all_record_crcs(logical, info.n.logical_bytes);
		info.hash = XXH64(logical, info.n.logical_bytes, info.prev_hash);
		info.local_crc = crc32c(0, logical + info.n.logical_bytes, info.n.local_bytes);
	}
	if (batch_verify(p, &info, &view))
		return;
	struct batch_cursor c;
	struct record r;
	int more;
	batch_cursor_start(&c, &view);
	while ((more = batch_next(&c, &r)) == 1)
		assert(batch_payload_ok(&r));
	assert(more == 0);
}

/* The input's header block is short: the fields, then what follows it, so that inputs stay small. */
#define HEADER_FIELDS offsetof(struct batch_header, zero)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	enum kind kind = data[0] % KINDS;
	data++;
	size--;
	if (kind == RAW_RECORD || kind == RECORD_WITH_CRC) {
		CLEANUP_FREE uint8_t *p = malloc(size + 1);
		memcpy(p, data, size);
		if (kind == RECORD_WITH_CRC)
			put_record_crc(p, size);
		try_record(p, size);
		return 0;
	}
	size_t fields = size < HEADER_FIELDS ? size : HEADER_FIELDS, rest = size - fields;
	size_t n_blocks = 1 + div_round_up(rest, BLOCK_SIZE);
	CLEANUP_FREE uint8_t *p = calloc(n_blocks, BLOCK_SIZE);
	memcpy(p, data, fields);
	memcpy(p + BLOCK_SIZE, data + fields, rest);
	try_batch(p, n_blocks, kind == BATCH_WITH_CRC);
	return 0;
}
