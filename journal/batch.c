/*
 * batch.c: builds and checks the bytes of a batch.
 *
 * Every bit of a batch in the ring is covered by exactly one check: the header by its CRC, the logical section by the
 * hash chain (and each record by its own CRC), the local section by local_crc, each payload block by the CRC in the WRITE
 * it belongs to, the padding by being zero.  batch_verify() runs them all; a torn batch fails at least one.
 */
#include "journal/batch.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "base/crc32c.h"

_Static_assert(BATCH_MAX_BLOCKS == 1345, "FORMAT.md names this figure");
_Static_assert(sizeof(struct local_run) == 12, "");

#define HEADER_CRC_BYTES (sizeof(struct batch_header) - sizeof(le32))

void batch_header_make(struct batch_header *ret, const uint8_t volume[16], const struct batch_info *info)
{
	assert(info->n.n_records >= 1 && info->n.n_payload <= BATCH_PAYLOAD_MAX_BLOCKS);
	assert(info->n.logical_bytes <= BATCH_LOGICAL_MAX_BYTES && info->n.local_bytes <= BATCH_LOCAL_MAX_BYTES);
	memset(ret, 0, sizeof(*ret));
	ret->magic = le64_make(BATCH_MAGIC);
	ret->version = le16_make(JOURNAL_FORMAT_VERSION);
	ret->n_records = le32_make(info->n.n_records);
	memcpy(ret->volume, volume, sizeof(ret->volume));
	ret->epoch = le64_make(info->epoch);
	ret->incarnation = le64_make(info->incarnation);
	ret->seq = le64_make(info->seq);
	ret->pos = le64_make(info->pos);
	ret->tail_seq = le64_make(info->tail_seq);
	ret->commit_seq = le64_make(info->commit_seq);
	ret->time_ns = le64_make((uint64_t)info->time_ns);
	ret->prev_hash = le64_make(info->prev_hash);
	ret->hash = le64_make(info->hash);
	ret->n_payload_blocks = le32_make(info->n.n_payload);
	ret->logical_bytes = le32_make(info->n.logical_bytes);
	ret->local_bytes = le32_make(info->n.local_bytes);
	ret->local_crc = le32_make(info->local_crc);
	ret->crc = le32_make(crc32c(0, ret, HEADER_CRC_BYTES));
}

int batch_sign(const struct batch_signer *signer, const struct iovec *iov, int n)
{
	struct batch_header *h = iov[0].iov_base;
	uint8_t mac[BATCH_MAC_BYTES];
	int r = signer->sign(signer->ctx, iov, n, mac);

	if (r < 0)
		return r;
	memcpy(h->mac, mac, sizeof(h->mac));
	h->crc = le32_make(crc32c(0, h, HEADER_CRC_BYTES));
	return 0;
}

int batch_check_signature(const struct batch_signer *signer, const uint8_t *p, const struct batch_info *info)
{
	uint8_t mac[BATCH_MAC_BYTES], differs = 0;
	struct batch_header h;

	memcpy(&h, p, sizeof(h));
	memset(h.mac, 0, sizeof(h.mac));
	h.crc = le32_make(crc32c(0, &h, HEADER_CRC_BYTES));
	const struct iovec iov[] = {{&h, sizeof(h)},
				    {(void *)(uintptr_t)(p + sizeof(h)), (size_t)(batch_blocks(&info->n) - 1) * BLOCK_SIZE}};
	int r = signer->sign(signer->ctx, iov, 2, mac);
	for (size_t i = 0; i < sizeof(mac); i++) /* all of them, whatever the first ones are */
		differs |= (uint8_t)(mac[i] ^ ((const struct batch_header *)(const void *)p)->mac[i]);
	return r < 0 ? r : differs ? -EBADMSG : 0;
}

static bool counts_ok(const struct batch_counts *n)
{
	return n->n_records >= 1 && n->n_payload <= BATCH_PAYLOAD_MAX_BLOCKS && n->logical_bytes <= BATCH_LOGICAL_MAX_BYTES &&
	       n->local_bytes <= BATCH_LOCAL_MAX_BYTES && n->logical_bytes % 8 == 0 && n->local_bytes % 4 == 0 &&
	       n->n_records <= n->logical_bytes / sizeof(struct record_header);
}

int batch_header_check(const struct batch_header *h, const uint8_t volume[16], struct batch_info *ret)
{
	if (le64_get(h->magic) != BATCH_MAGIC || le16_get(h->version) != JOURNAL_FORMAT_VERSION || le16_get(h->flags) != 0 ||
	    memcmp(h->volume, volume, sizeof(h->volume)) != 0 || crc32c(0, h, HEADER_CRC_BYTES) != le32_get(h->crc))
		return -EBADMSG;
	const struct batch_info info = {
	    .epoch = le64_get(h->epoch),
	    .incarnation = le64_get(h->incarnation),
	    .seq = le64_get(h->seq),
	    .pos = le64_get(h->pos),
	    .tail_seq = le64_get(h->tail_seq),
	    .commit_seq = le64_get(h->commit_seq),
	    .prev_hash = le64_get(h->prev_hash),
	    .hash = le64_get(h->hash),
	    .time_ns = (int64_t)le64_get(h->time_ns),
	    .n = {.n_records = le32_get(h->n_records),
		  .n_payload = le32_get(h->n_payload_blocks),
		  .logical_bytes = le32_get(h->logical_bytes),
		  .local_bytes = le32_get(h->local_bytes)},
	    .local_crc = le32_get(h->local_crc),
	};
	if (!counts_ok(&info.n))
		return -EBADMSG;
	*ret = info;
	return 0;
}

void batch_cursor_start(struct batch_cursor *c, const struct batch_view *v)
{
	c->view = *v;
	c->used = (struct batch_counts){0};
}

/* Gives an inline WRITE its payload blocks. */
static int take_payload(struct batch_cursor *c, struct record *r)
{
	if (r->write.n_blocks > c->view.n.n_payload - c->used.n_payload)
		return -EUCLEAN;
	r->write.staged = pointer_make(DEVICE_JOURNAL, c->view.pos + 1 + c->used.n_payload);
	if (c->view.payload) {
		r->write.n_data = 1;
		r->write.data[0].iov_base = (void *)(uintptr_t)(c->view.payload + (size_t)c->used.n_payload * BLOCK_SIZE);
		r->write.data[0].iov_len = (size_t)r->write.n_blocks * BLOCK_SIZE;
	}
	c->used.n_payload += r->write.n_blocks;
	return 0;
}

static bool run_ok(const struct run *run)
{
	unsigned device = pointer_device(run->start);

	return device >= DEVICE_ARENA_FIRST && device <= DEVICE_ARENA_LAST && (run->start & 0xff) == 0 && run->n_blocks >= 1 &&
	       run->n_blocks <= RECORD_WRITE_BLOCKS_MAX;
}

/* Gives an out-of-line WRITE its runs. */
static int take_runs(struct batch_cursor *c, struct record *r)
{
	uint32_t left = c->view.n.local_bytes - c->used.local_bytes, total = 0;
	le32 count;

	if (!c->view.local)
		return 0;
	if (left < sizeof(count))
		return -EUCLEAN;
	const uint8_t *p = c->view.local + c->used.local_bytes;
	memcpy(&count, p, sizeof(count));
	uint32_t n = le32_get(count);
	if (n < 1 || n > r->write.n_blocks || n > (left - sizeof(count)) / sizeof(struct local_run))
		return -EUCLEAN;
	assert(n <= RECORD_WRITE_BLOCKS_MAX); /* record_decode bounds n_blocks */
	p += sizeof(count);
	for (uint32_t i = 0; i < n; i++, p += sizeof(struct local_run)) {
		struct local_run disk;
		memcpy(&disk, p, sizeof(disk));
		c->runs[i] = (struct run){.start = le64_get(disk.start), .n_blocks = le32_get(disk.n_blocks)};
		if (!run_ok(&c->runs[i]))
			return -EUCLEAN;
		total += c->runs[i].n_blocks;
	}
	if (total != r->write.n_blocks)
		return -EUCLEAN;
	r->write.runs = c->runs;
	r->write.n_runs = n;
	c->used.local_bytes += (uint32_t)(sizeof(count) + n * sizeof(struct local_run));
	return 0;
}

static bool all_used(const struct batch_cursor *c)
{
	return c->used.logical_bytes == c->view.n.logical_bytes && c->used.local_bytes == c->view.n.local_bytes &&
	       c->used.n_payload == c->view.n.n_payload;
}

int batch_next(struct batch_cursor *c, struct record *ret)
{
	size_t used;

	if (c->used.n_records == c->view.n.n_records)
		return all_used(c) ? 0 : -EUCLEAN;
	int r =
	    record_decode(c->view.logical + c->used.logical_bytes, c->view.n.logical_bytes - c->used.logical_bytes, ret, &used);
	if (r)
		return r;
	c->used.logical_bytes += (uint32_t)used;
	c->used.n_records++;
	/* an operation ends within its batch: the last record has no RECORD_MORE */
	if (c->used.n_records == c->view.n.n_records && ret->flags & RECORD_MORE)
		return -EUCLEAN;
	if (ret->type == RECORD_WRITE)
		r = ret->write.out_of_line ? take_runs(c, ret) : take_payload(c, ret);
	return r ? r : 1;
}

bool batch_payload_ok(const struct record *r)
{
	if (r->type != RECORD_WRITE || r->write.out_of_line)
		return true;
	assert(r->write.n_data == 1);
	const uint8_t *p = r->write.data[0].iov_base;
	for (uint32_t i = 0; i < r->write.n_blocks; i++)
		if (crc32c(0, p + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) != r->write.crc[i])
			return false;
	return true;
}

int batch_verify_parts(const struct batch_info *info, const struct batch_view *v)
{
	struct batch_cursor c;
	struct record record;
	int r;

	assert(v->payload || v->n.n_payload == 0);
	assert(v->local || v->n.local_bytes == 0);
	if (!counts_ok(&v->n))
		return -EUCLEAN;
	if (XXH64(v->logical, v->n.logical_bytes, info->prev_hash) != info->hash)
		return -EBADMSG;
	batch_cursor_start(&c, v);
	while ((r = batch_next(&c, &record)) == 1)
		if (!batch_payload_ok(&record))
			return -EBADMSG;
	return r;
}

static bool all_zero(const uint8_t *p, const uint8_t *end)
{
	while (p < end)
		if (*p++)
			return false;
	return true;
}

int batch_verify(const uint8_t *p, const struct batch_info *info, struct batch_view *ret_view)
{
	const uint8_t *sections = p + (1 + (size_t)info->n.n_payload) * BLOCK_SIZE,
		      *end = p + (size_t)batch_blocks(&info->n) * BLOCK_SIZE;
	const struct batch_view view = {.pos = info->pos,
					.payload = p + BLOCK_SIZE,
					.logical = sections,
					.local = sections + info->n.logical_bytes,
					.n = info->n};

	if (crc32c(0, view.local, info->n.local_bytes) != info->local_crc || !all_zero(view.local + info->n.local_bytes, end))
		return -EBADMSG;
	int r = batch_verify_parts(info, &view);
	if (r == 0)
		*ret_view = view;
	return r;
}

uint32_t batch_local_bytes(const struct record *r)
{
	if (r->type != RECORD_WRITE || !r->write.out_of_line)
		return 0;
	return (uint32_t)(sizeof(le32) + r->write.n_runs * sizeof(struct local_run));
}

uint8_t *batch_put_local(uint8_t *p, const struct record *r)
{
	le32 count = le32_make(r->write.n_runs);

	memcpy(p, &count, sizeof(count));
	p += sizeof(count);
	for (uint32_t i = 0; i < r->write.n_runs; i++, p += sizeof(struct local_run)) {
		const struct local_run disk = {le64_make(r->write.runs[i].start), le32_make(r->write.runs[i].n_blocks)};
		memcpy(p, &disk, sizeof(disk));
	}
	return p;
}
