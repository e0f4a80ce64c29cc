/*
 * staging.c: the batch being built, in memory that outlives the process.
 *
 * The page cache keeps a shared mapping when the process dies, so what was published needs no write to survive kill -9, and
 * the batch goes to the ring by O_DIRECT from the same pages.  The order of stores is what counts:
 *
 *     begin:   published = 0, then the header's other fields
 *     publish: payload, local and logical bytes, then mark[(published + 1) % 2], then published + 1 (release)
 *
 * A batch of another node goes the same way in one step: all its sections, epoch and time, one mark, published 1.
 *
 * Killed between any two of them, the file says nothing (published 0) or what it said before.
 *
 * After a power loss each page is of any age, down to zeros.  Then a header may stand over records of an earlier batch
 * whose own CRCs are good; the mark's hash, which starts from the hash of the batch before, is what tells them apart.
 * Payload pages are told by the CRCs in the records, the local section by the mark's local_crc.
 */
#include "journal/staging.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/crc32c.h"
#include "base/log.h"

_Static_assert(offsetof(struct staging_header, published) % 8 == 0, "stored atomically");
_Static_assert(offsetof(struct staging_header, zero) <= 512, "one sector, so a power loss leaves one age of it");

static const char *const names[STAGING_FILES] = {"journal/staging.0", "journal/staging.1"};

int staging_format(struct store *store)
{
	int r = 0;

	for (unsigned i = 0; !r && i < STAGING_FILES; i++) {
		struct disk *disk;
		/* zeros, so that a store into the mapping never needs space that the host no longer has (SIGBUS) */
		r = store_open(store, names[i], DISK_CREATE | DISK_ZERO, STAGING_BYTES, &disk);
		if (!r)
			disk_close(disk);
	}
	return r;
}

static int map_file(struct staging *s, const char *name)
{
	void *p;

	if (s->disk->size != STAGING_BYTES) {
		log_error("journal: %s has %llu bytes, not %llu", name, (unsigned long long)s->disk->size,
			  (unsigned long long)STAGING_BYTES);
		return -EUCLEAN;
	}
	int r = disk_map(s->disk, STAGING_BYTES, &p);
	if (r) {
		log_error("journal: cannot map %s: %s", name, strerror(-r));
		return r;
	}
	s->head = p;
	s->header = (void *)((uint8_t *)p + BLOCK_SIZE);
	s->payload = (uint8_t *)p + 2 * BLOCK_SIZE;
	s->logical = s->payload + (size_t)BATCH_PAYLOAD_MAX_BLOCKS * BLOCK_SIZE;
	s->local = s->logical + BATCH_LOGICAL_MAX_BYTES;
	assert(s->local + BATCH_LOCAL_MAX_BYTES == (uint8_t *)p + STAGING_BYTES);
	return 0;
}

int staging_flush(struct staging *s)
{
	int r = disk_flush(s->disk);

	if (r == 0)
		return 0;
	/*
	 * It may be the error of the process before us, told late, and its pages may be lost.  A flush is never asked again on
	 * the same pages (guarantee G6): every one is written again first.
	 */
	volatile uint8_t *p = (volatile uint8_t *)s->head;
	for (uint64_t at = 0; at < s->disk->size; at += BLOCK_SIZE)
		p[at] = p[at];
	return disk_flush(s->disk);
}

int staging_open(struct store *store, unsigned index, struct staging *ret)
{
	struct staging s = {0};

	assert(index < STAGING_FILES);
	int r = store_open(store, names[index], 0, 0, &s.disk);
	if (r) {
		log_error("journal: cannot open %s: %s", names[index], strerror(-r));
		return r;
	}
	r = map_file(&s, names[index]);
	if (!r) {
		s.hasher = XXH64_createState();
		r = s.hasher ? 0 : -ENOMEM;
	}
	if (r) {
		staging_close(&s);
		return r;
	}
	*ret = s;
	return 0;
}

void staging_close(struct staging *s)
{
	XXH64_freeState(s->hasher);
	disk_close(s->disk);
	*s = (struct staging){0};
}

static void store_published(struct staging *s, uint64_t n)
{
	s->published = n;
	__atomic_store_n((uint64_t *)(void *)&s->head->published, n, __ATOMIC_RELEASE);
}

/* Nothing is published any more; an exchange, because the stores that follow must not move up before it. */
static void retract(struct staging *s)
{
	s->published = 0;
	__atomic_exchange_n((uint64_t *)(void *)&s->head->published, 0, __ATOMIC_ACQ_REL);
}

void staging_forget(struct staging *s)
{
	s->prev = (struct journal_point){0};
	s->n = (struct batch_counts){0};
	s->published = 0;
	s->local_crc = 0;
	s->out_of_line = false;
	s->epoch = 0;
	s->time_ns = 0;
}

/* Whose batch it is; the file says nothing of it yet. */
static void put_origin(struct staging *s, uint64_t epoch, int64_t time_ns)
{
	assert(s->published == 0);
	s->epoch = epoch;
	s->time_ns = time_ns;
	s->head->epoch = le64_make(epoch);
	s->head->time_ns = le64_make((uint64_t)time_ns);
}

void staging_begin(struct staging *s, const uint8_t volume[16], uint64_t incarnation, const struct journal_point *prev,
		   uint64_t durable_seq)
{
	struct staging_header *h = s->head;

	assert(durable_seq <= prev->seq + 1);
	retract(s);
	staging_forget(s);
	s->prev = *prev;
	XXH64_reset(s->hasher, prev->hash);
	h->magic = le64_make(STAGING_MAGIC);
	memcpy(h->volume, volume, sizeof(h->volume));
	h->incarnation = le64_make(incarnation);
	h->seq = le64_make(staging_seq(s));
	h->pos = le64_make(prev->pos);
	h->prev_hash = le64_make(prev->hash);
	h->durable_seq = le64_make(durable_seq);
	put_origin(s, 0, 0);
}

bool staging_fits(const struct staging *s, const struct batch_counts *more)
{
	return !s->epoch && more->n_payload <= BATCH_PAYLOAD_MAX_BLOCKS - s->n.n_payload &&
	       more->logical_bytes <= BATCH_LOGICAL_MAX_BYTES - s->n.logical_bytes &&
	       more->local_bytes <= BATCH_LOCAL_MAX_BYTES - s->n.local_bytes;
}

static void put_payload(struct staging *s, struct record *r)
{
	uint8_t *to = s->payload + (size_t)s->n.n_payload * BLOCK_SIZE;

	for (int i = 0; i < r->write.n_data; i++) {
		memcpy(to, r->write.data[i].iov_base, r->write.data[i].iov_len);
		to += r->write.data[i].iov_len;
	}
	r->write.staged = pointer_make(DEVICE_JOURNAL, s->prev.pos + 1 + s->n.n_payload);
	s->n.n_payload += r->write.n_blocks;
	assert(to == s->payload + (size_t)s->n.n_payload * BLOCK_SIZE);
}

void staging_put_data(struct staging *s, struct record *r)
{
	if (r->type != RECORD_WRITE)
		return;
	if (!r->write.out_of_line) {
		put_payload(s, r);
		return;
	}
	uint8_t *at = s->local + s->n.local_bytes, *end = batch_put_local(at, r);
	s->local_crc = crc32c(s->local_crc, at, (size_t)(end - at));
	s->n.local_bytes = (uint32_t)(end - s->local);
	s->out_of_line = true;
}

static void put_mark(struct staging *s, uint64_t hash)
{
	s->head->mark[(s->published + 1) % 2] = (struct staging_mark){
	    .hash = le64_make(hash),
	    .n_records = le32_make(s->n.n_records),
	    .logical_bytes = le32_make(s->n.logical_bytes),
	    .n_payload_blocks = le32_make(s->n.n_payload),
	    .local_bytes = le32_make(s->n.local_bytes),
	    .local_crc = le32_make(s->local_crc),
	};
	store_published(s, s->published + 1);
}

void staging_publish(struct staging *s, const void *logical, uint32_t bytes, uint32_t n_records)
{
	memcpy(s->logical + s->n.logical_bytes, logical, bytes);
	XXH64_update(s->hasher, logical, bytes);
	s->n.logical_bytes += bytes;
	s->n.n_records += n_records;
	put_mark(s, XXH64_digest(s->hasher));
}

/* `bytes` may be 0, and `from` NULL then. */
static void copy_section(uint8_t *to, const uint8_t *from, size_t bytes)
{
	if (bytes)
		memcpy(to, from, bytes);
}

int staging_fill(struct staging *s, const struct batch_info *info, const struct batch_view *v)
{
	assert(s->n.n_records == 0 && s->published == 0);
	XXH64_update(s->hasher, v->logical, v->n.logical_bytes);
	if (XXH64_digest(s->hasher) != info->hash) {
		XXH64_reset(s->hasher, s->prev.hash);
		return -EBADMSG;
	}
	copy_section(s->payload, v->payload, (size_t)v->n.n_payload * BLOCK_SIZE);
	copy_section(s->logical, v->logical, v->n.logical_bytes);
	copy_section(s->local, v->local, v->n.local_bytes);
	s->local_crc = crc32c(0, s->local, v->n.local_bytes);
	return 0;
}

void staging_publish_whole(struct staging *s, const struct batch_info *info, const struct batch_counts *n)
{
	put_origin(s, info->epoch, info->time_ns);
	s->n = *n;
	s->out_of_line = n->local_bytes > 0;
	put_mark(s, info->hash);
}

void staging_point_after(const struct staging *s, struct journal_point *ret)
{
	*ret = (struct journal_point){
	    .seq = staging_seq(s), .pos = s->prev.pos + batch_blocks(&s->n), .hash = XXH64_digest(s->hasher)};
}

void staging_view(const struct staging *s, struct batch_view *ret)
{
	*ret =
	    (struct batch_view){.pos = s->prev.pos, .payload = s->payload, .logical = s->logical, .local = s->local, .n = s->n};
}

void staging_gather(const struct batch_view *v, const struct staging *s, uint8_t *scratch, struct iovec ret_iov[STAGING_IOV])
{
	size_t whole = v->n.logical_bytes - v->n.logical_bytes % BLOCK_SIZE, rest = v->n.logical_bytes - whole;
	size_t used = rest + v->n.local_bytes, padded = div_round_up(used, BLOCK_SIZE) * BLOCK_SIZE;

	assert(padded <= STAGING_SCRATCH_BYTES);
	if (rest)
		memcpy(scratch, v->logical + whole, rest);
	if (v->n.local_bytes)
		memcpy(scratch + rest, v->local, v->n.local_bytes);
	memset(scratch + used, 0, padded - used);
	ret_iov[0] = (struct iovec){s->header, (1 + (size_t)v->n.n_payload) * BLOCK_SIZE};
	ret_iov[1] = (struct iovec){s->logical, whole};
	ret_iov[2] = (struct iovec){scratch, padded};
}

void staging_copy(const struct staging *s, uint8_t *to)
{
	size_t head = (1 + (size_t)s->n.n_payload) * BLOCK_SIZE, sections = s->n.logical_bytes + s->n.local_bytes,
	       total = (size_t)batch_blocks(&s->n) * BLOCK_SIZE;

	memcpy(to, s->header, head);
	memcpy(to + head, s->logical, s->n.logical_bytes);
	memcpy(to + head + s->n.logical_bytes, s->local, s->n.local_bytes);
	memset(to + head + sections, 0, total - head - sections);
}

void staging_set_durable(struct staging *s, uint64_t seq)
{
	s->head->durable_seq = le64_make(seq);
}

static bool is_ours(const struct staging_header *h, const uint8_t volume[16])
{
	return le64_get(h->magic) == STAGING_MAGIC && memcmp(h->volume, volume, sizeof(h->volume)) == 0;
}

uint64_t staging_floor(const struct staging *s, const uint8_t volume[16])
{
	uint64_t durable = le64_get(s->head->durable_seq);

	return is_ours(s->head, volume) && durable <= le64_get(s->head->seq) ? durable : 0;
}

/* The counts of a mark, bounded: nothing in it is used before. */
static bool mark_counts(const struct staging_mark *m, struct batch_counts *ret)
{
	*ret = (struct batch_counts){.n_records = le32_get(m->n_records),
				     .n_payload = le32_get(m->n_payload_blocks),
				     .logical_bytes = le32_get(m->logical_bytes),
				     .local_bytes = le32_get(m->local_bytes)};
	return ret->n_payload <= BATCH_PAYLOAD_MAX_BLOCKS && ret->logical_bytes <= BATCH_LOGICAL_MAX_BYTES &&
	       ret->local_bytes <= BATCH_LOCAL_MAX_BYTES && ret->n_records >= 1 &&
	       ret->n_records <= ret->logical_bytes / sizeof(struct record_header);
}

int staging_load(struct staging *s, const uint8_t volume[16], uint64_t incarnation, const struct journal_point *expect)
{
	const struct staging_header *h = s->head;
	uint64_t published = le64_get(h->published);
	const struct staging_mark mark = h->mark[published % 2];
	struct batch_counts n;

	staging_forget(s);
	if (!is_ours(h, volume) || published == 0 || le64_get(h->incarnation) > incarnation ||
	    le64_get(h->seq) != expect->seq + 1 || le64_get(h->pos) != expect->pos || le64_get(h->prev_hash) != expect->hash)
		return -ENOENT;
	if (!mark_counts(&mark, &n))
		return -EBADMSG;
	XXH64_reset(s->hasher, expect->hash);
	XXH64_update(s->hasher, s->logical, n.logical_bytes);
	if (XXH64_digest(s->hasher) != le64_get(mark.hash) || crc32c(0, s->local, n.local_bytes) != le32_get(mark.local_crc))
		return -EBADMSG;
	s->prev = *expect;
	s->n = n;
	s->published = published;
	s->local_crc = le32_get(mark.local_crc);
	s->out_of_line = n.local_bytes > 0;
	s->epoch = le64_get(h->epoch);
	s->time_ns = (int64_t)le64_get(h->time_ns);
	return 0;
}

void staging_cut(struct staging *s, const struct batch_counts *n)
{
	assert(n->logical_bytes <= s->n.logical_bytes && n->local_bytes <= s->n.local_bytes && n->n_payload <= s->n.n_payload);
	s->n = *n;
	s->local_crc = crc32c(0, s->local, n->local_bytes);
	s->out_of_line = n->local_bytes > 0;
	XXH64_reset(s->hasher, s->prev.hash);
	XXH64_update(s->hasher, s->logical, n->logical_bytes);
}

void staging_resume(struct staging *s, uint64_t incarnation, uint64_t durable_seq)
{
	/* The mark in force stays right until put_mark() has written the other one, which may reach less far (staging_cut). */
	s->head->incarnation = le64_make(incarnation);
	put_mark(s, XXH64_digest(s->hasher));
	staging_set_durable(s, durable_seq);
}
