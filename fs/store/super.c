/*
 * super.c: the superblock, two copies of which at least one is whole at every moment.
 *
 * A write goes to the copy that is not in force (generation % 2 says which), so that a torn one leaves the other.  A copy
 * counts when magic and CRC are right and it lies where its generation belongs; the higher generation wins.  A copy of a
 * newer version is never skipped in favour of an older one that we could read: it may be the one in force.
 */
#include "fs/store/super.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/store/super_format.h"

#define SUPER_NAME  "super"
#define COPIES      2u
#define NODE_ID_MAX 65535u

_Static_assert(SUPER_BYTES == DISK_BLOCK, "a copy is one aligned write");

static uint32_t block_crc(const struct super_block *b)
{
	return crc32c(0, b, offsetof(struct super_block, crc));
}

static uint64_t encode_flags(const struct super *s)
{
	return (s->clean ? SUPER_CLEAN : 0) | (s->follower ? SUPER_FOLLOWER : 0) | (s->resyncing ? SUPER_RESYNCING : 0) |
	       (s->save ? SUPER_SAVE : 0) | (s->differs ? SUPER_DIFFERS : 0);
}

static void decode_flags(uint64_t flags, struct super *ret)
{
	ret->clean = flags & SUPER_CLEAN;
	ret->follower = flags & SUPER_FOLLOWER;
	ret->resyncing = flags & SUPER_RESYNCING;
	ret->save = flags & SUPER_SAVE;
	ret->differs = flags & SUPER_DIFFERS;
}

static void encode(const struct super *s, uint64_t generation, struct super_block *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->magic = le64_make(SUPER_MAGIC);
	ret->version = le32_make(SUPER_FORMAT_VERSION);
	ret->chunk_kib = le32_make(s->chunk_kib);
	memcpy(ret->volume, s->volume, sizeof(ret->volume));
	memcpy(ret->node, s->node, sizeof(ret->node));
	ret->compat = le64_make(s->compat);
	ret->ro_compat = le64_make(s->ro_compat);
	ret->incompat = le64_make(s->incompat);
	ret->generation = le64_make(generation);
	ret->epoch = le64_make(s->epoch);
	ret->incarnation = le64_make(s->incarnation);
	ret->flags = le64_make(encode_flags(s));
	ret->node_id = le32_make(s->node_id);
	ret->fence = le64_make(s->fence);
	ret->window = le64_make(s->window);
	ret->cut = le64_make(s->cut);
	ret->cut_incarnation = le64_make(s->cut_incarnation);
	ret->offered = le64_make(s->offered);
	ret->journal_segments = le32_make(s->journal_segments);
	ret->journal_segment_kib = le32_make(s->journal_segment_kib);
	ret->max_blocks = le64_make(s->max_blocks);
	ret->created_ns = le64_make((uint64_t)s->created_ns);
	ret->host_reserve = le64_make(s->host_reserve);
	memcpy(ret->label, s->label, strnlen(s->label, sizeof(ret->label)));
	ret->crc = le32_make(block_crc(ret));
}

/* What no format ever wrote: everything later computes with these. */
static bool geometry_ok(const struct super *s)
{
	return s->journal_segments >= 2 && s->journal_segments <= 4096 && s->journal_segment_kib &&
	       s->journal_segment_kib % 4 == 0 && s->chunk_kib && s->chunk_kib % 256 == 0 && s->max_blocks;
}

/* A leader is in no state that only a follower can be in, and an offer stands for as long as nobody knows of a higher epoch. */
static bool role_ok(const struct super *s)
{
	bool following = s->resyncing || s->save || s->differs || s->fence;

	return s->node_id <= NODE_ID_MAX && (s->follower || !following) && (!s->offered || s->offered > s->epoch);
}

/* A window ends with a fence, and what a cut made void an earlier incarnation wrote. */
static bool window_ok(const struct super *s)
{
	return s->window <= s->fence && !s->cut == !s->cut_incarnation && s->cut_incarnation <= s->incarnation;
}

int super_decode(const void *block, struct super *ret)
{
	const struct super_block *b = block;

	if (le64_get(b->magic) != SUPER_MAGIC || le32_get(b->crc) != block_crc(b))
		return -EBADMSG;
	if (le32_get(b->version) > SUPER_FORMAT_VERSION)
		return -EPROTONOSUPPORT;
	struct super s = {
	    .compat = le64_get(b->compat),
	    .ro_compat = le64_get(b->ro_compat),
	    .incompat = le64_get(b->incompat),
	    .generation = le64_get(b->generation),
	    .epoch = le64_get(b->epoch),
	    .incarnation = le64_get(b->incarnation),
	    .node_id = le32_get(b->node_id) ? le32_get(b->node_id) : 1,
	    .fence = le64_get(b->fence),
	    .window = le64_get(b->window),
	    .cut = le64_get(b->cut),
	    .cut_incarnation = le64_get(b->cut_incarnation),
	    .offered = le64_get(b->offered),
	    .journal_segments = le32_get(b->journal_segments),
	    .journal_segment_kib = le32_get(b->journal_segment_kib),
	    .chunk_kib = le32_get(b->chunk_kib),
	    .max_blocks = le64_get(b->max_blocks),
	    .host_reserve = le64_get(b->host_reserve),
	    .created_ns = (int64_t)le64_get(b->created_ns),
	    .version = le32_get(b->version),
	};
	memcpy(s.volume, b->volume, sizeof(s.volume));
	memcpy(s.node, b->node, sizeof(s.node));
	memcpy(s.label, b->label, sizeof(b->label)); /* one byte shorter: the NUL stays */
	decode_flags(le64_get(b->flags), &s);
	if (!geometry_ok(&s) || !role_ok(&s) || !window_ok(&s))
		return -EUCLEAN;
	*ret = s;
	return 0;
}

static int read_copy(struct disk *d, unsigned copy, void *block, struct super *ret)
{
	int r = disk_read(d, block, SUPER_BYTES, (uint64_t)copy * SUPER_BYTES);

	if (r == 0)
		r = super_decode(block, ret);
	if (r == 0 && ret->generation % COPIES != copy)
		r = -EBADMSG; /* a misdirected write */
	if (r == -EPROTONOSUPPORT)
		log_error("this volume was made by a newer clawfs (format version %u, this one knows %u): use that version",
			  le32_get(((const struct super_block *)block)->version), SUPER_FORMAT_VERSION);
	return r;
}

static int choose(const int results[COPIES], const struct super copies[COPIES], struct super *ret)
{
	for (unsigned i = 0; i < COPIES; i++)
		if (results[i] == -EPROTONOSUPPORT)
			return results[i];
	if (results[0] && results[1]) {
		int r = results[0] == -EUCLEAN || results[1] == -EUCLEAN ? -EUCLEAN : -EBADMSG;
		log_error("both copies of the superblock are damaged (%s): restore the file '" SUPER_NAME
			  "' from a backup or replica",
			  r == -EUCLEAN ? "impossible geometry or flags" : "checksum");
		return r;
	}
	unsigned newest = results[0] ? 1 : results[1] ? 0 : copies[1].generation > copies[0].generation;
	if (results[!newest])
		log_warn("copy %u of the superblock is damaged or was being written in a crash: copy %u serves, the next mount "
			 "rewrites it",
			 !newest, newest);
	*ret = copies[newest];
	for (unsigned i = 0; i < COPIES; i++)
		ret->copy_valid[i] = results[i] == 0;
	return 0;
}

/* Any size will do for reading: of a file cut short the first copy may be whole. */
static int open_super(struct store *store, unsigned flags, struct disk **ret_disk)
{
	int r = store_open(store, SUPER_NAME, DISK_DIRECT | flags, 0, ret_disk);

	return r == -ENOENT ? -ENODATA : r;
}

int super_read(struct store *store, struct super *ret)
{
	struct super copies[COPIES];
	int results[COPIES];
	CLEANUP_FREE void *block = NULL;
	struct disk *d;

	if (posix_memalign(&block, DISK_BLOCK, SUPER_BYTES))
		return -ENOMEM;
	int r = open_super(store, DISK_READONLY, &d);
	if (r == -ENODATA) /* not an error when formatting */
		log_info("this directory holds no clawfs volume (there is no file '" SUPER_NAME
			 "'): make one with clawfs format");
	if (r < 0)
		return r;
	for (unsigned i = 0; i < COPIES; i++)
		results[i] = read_copy(d, i, block, &copies[i]);
	disk_close(d);
	return choose(results, copies, ret);
}

int super_peek(struct store *store, struct super *ret)
{
	CLEANUP_FREE void *block = NULL;
	struct super copy, best = {0};
	bool valid[COPIES] = {false}, any = false;
	struct disk *d;

	if (posix_memalign(&block, DISK_BLOCK, SUPER_BYTES))
		return -ENOMEM;
	int r = open_super(store, DISK_READONLY, &d);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < COPIES; i++) {
		valid[i] = read_copy(d, i, block, &copy) == 0;
		if (valid[i] && (!any || copy.generation > best.generation))
			best = copy;
		any |= valid[i];
	}
	disk_close(d);
	if (!any)
		return -EBADMSG;
	memcpy(best.copy_valid, valid, sizeof(valid));
	*ret = best;
	return 0;
}

static int write_copy(struct disk *d, const struct super *s, uint64_t generation)
{
	CLEANUP_FREE void *block = NULL;

	if (posix_memalign(&block, DISK_BLOCK, SUPER_BYTES))
		return -ENOMEM;
	encode(s, generation, block);
	return disk_write(d, block, SUPER_BYTES, generation % COPIES * SUPER_BYTES, DISK_DURABLE);
}

int super_create(struct store *store, const struct super *s)
{
	struct disk *d;
	int r = store_open(store, SUPER_NAME, DISK_CREATE | DISK_ZERO | DISK_DIRECT, COPIES * SUPER_BYTES, &d);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < COPIES && r == 0; i++)
		r = write_copy(d, s, s->generation + i);
	if (r == 0)
		r = disk_flush(d);
	disk_close(d);
	return r;
}

int super_write(struct store *store, struct super *s)
{
	struct disk *d;
	int r = open_super(store, 0, &d);

	assert(s->generation < UINT64_MAX);
	if (r == 0) {
		if (d->size < COPIES * SUPER_BYTES) {
			log_error("the file '" SUPER_NAME "' was cut short: make it %u bytes long again (truncate -s)",
				  COPIES * SUPER_BYTES);
			r = -EUCLEAN;
		}
		if (r == 0)
			r = write_copy(d, s, s->generation + 1);
		if (r == 0)
			r = disk_flush(d);
		disk_close(d);
	}
	if (r < 0) {
		log_error("the superblock cannot be written: %s", strerror(-r));
		return r;
	}
	s->generation++;
	s->copy_valid[s->generation % COPIES] = true;
	return 0;
}

void uuid_text(const uint8_t uuid[16], char ret_text[UUID_TEXT])
{
	char *at = ret_text;

	for (unsigned i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*at++ = '-';
		at += sprintf(at, "%02x", uuid[i]);
	}
}

int uuid_random(uint8_t ret_uuid[16])
{
	uint8_t bytes[16];

	/* Up to 256 bytes come whole once the pool is ready; a signal can only interrupt the wait for that. */
	while (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
		if (errno != EINTR)
			return -errno;
	bytes[6] = (uint8_t)((bytes[6] & 0x0f) | 0x40); /* RFC 9562: version 4, */
	bytes[8] = (uint8_t)((bytes[8] & 0x3f) | 0x80); /* variant 10 */
	memcpy(ret_uuid, bytes, sizeof(bytes));
	return 0;
}
