/*
 * record.c: what a record may say: one verifier for both directions.
 *
 * record_encode() runs it before it writes (record_encode.c) and record_decode() after it read (record_decode.c), so nothing can
 * be written that could not be read back, and nothing can be read that could not have been written: that the CRC is right does
 * not make a name with a '/' one, since a peer with a valid certificate may have sent it (guarantee G11).
 */
#include <assert.h>
#include <string.h>
#include <sys/stat.h>

#include "journal/record_impl.h"

#define FILE_BLOCKS_MAX (UINT64_C(1) << 51) /* 2^63 bytes */
#define LEAF_BLOCKS     16u                 /* of one place of a TIER record */
#define ROOT_INO        1u                  /* what is of the whole volume is said of it */

/* A directory entry's name: the length's bounds, no '/', no NUL, not "." or "..". */
static bool name_ok(struct slice s)
{
	if (s.len == 0 || s.len > RECORD_NAME_MAX || memchr(s.p, '/', s.len) || memchr(s.p, 0, s.len))
		return false;
	return memcmp(s.p, "..", s.len < 2 ? s.len : 2) != 0 || s.len > 2;
}

bool record_snap_name_ok(struct slice s)
{
	const uint8_t *p = s.p;

	if (!name_ok(s))
		return false;
	for (size_t i = 0; i < s.len; i++)
		if (p[i] < 0x20 || p[i] == 0x7f)
			return false;
	return true;
}

static bool text_ok(struct slice s, size_t min, size_t max)
{
	return s.len >= min && s.len <= max && (s.len == 0 || !memchr(s.p, 0, s.len));
}

static bool mode_ok(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFLNK:
	case S_IFIFO:
	case S_IFSOCK:
	case S_IFCHR:
	case S_IFBLK:
		return mode <= (S_IFMT | 07777);
	default:
		return false;
	}
}

static bool mknode_ok(const struct record *r)
{
	size_t min = S_ISLNK(r->mknode.mode) ? 1 : 0, max = min ? RECORD_TARGET_MAX : 0;

	return r->mknode.parent && name_ok(r->mknode.name) && mode_ok(r->mknode.mode) && text_ok(r->mknode.target, min, max);
}

static bool rename_ok(const struct record *r)
{
	return r->rename.parent && r->rename.new_parent && name_ok(r->rename.name) && name_ok(r->rename.new_name) &&
	       !(r->rename.flags & ~(uint32_t)(RENAME_F_EXCHANGE | RENAME_F_WHITEOUT));
}

static bool write_ok(const struct record *r)
{
	return r->write.crc && r->write.n_blocks >= 1 && r->write.n_blocks <= RECORD_WRITE_BLOCKS_MAX &&
	       r->write.block <= FILE_BLOCKS_MAX - r->write.n_blocks && r->write.size <= INT64_MAX;
}

static bool clone_ok(const struct record *r)
{
	uint64_t a = r->clone.from_block, b = r->clone.block, n = r->clone.n_blocks;

	if (r->clone.from == 0 || n < 1 || n > RECORD_CLONE_BLOCKS_MAX || a > FILE_BLOCKS_MAX - n || b > FILE_BLOCKS_MAX - n ||
	    r->clone.size > INT64_MAX)
		return false;
	return r->clone.from != r->ino || a + n <= b || b + n <= a;
}

struct record_place record_place_at(const struct record *r, uint32_t i)
{
	struct tier_place disk;

	assert(i < r->tier.n_places);
	if (r->tier.places)
		return r->tier.places[i];
	memcpy(&disk, (const struct tier_place *)r->tier.raw_places + i, sizeof(disk));
	return (struct record_place){
	    .leaf = le64_get(disk.leaf), .offset = le32_get(disk.offset), .len = le32_get(disk.len), .mask = le16_get(disk.mask)};
}

/* Leaves rising, each in its place within the object, and not more blocks than that has. */
static bool places_ok(const struct record *r)
{
	uint64_t next = 0, blocks = 0;

	for (uint32_t i = 0; i < r->tier.n_places; i++) {
		struct record_place p = record_place_at(r, i);

		if (p.leaf < next || p.leaf >= FILE_BLOCKS_MAX / LEAF_BLOCKS || p.mask == 0 ||
		    !record_frame_ok(p.offset, p.len) || p.offset + p.len > r->tier.object_bytes)
			return false;
		next = p.leaf + 1;
		blocks += (unsigned)__builtin_popcount(p.mask);
	}
	return blocks <= r->tier.n_blocks;
}

static bool tier_ok(const struct record *r)
{
	if (!r->tier.sealed || r->tier.object == 0 || r->tier.store == 0 || r->tier.object_bytes > UINT32_MAX)
		return false;
	switch (r->tier.change) {
	case TIER_PLACE:
		return r->tier.n_places >= 1 && r->tier.n_places <= RECORD_PLACES_MAX && places_ok(r);
	case TIER_FORGET:
		return r->tier.n_places == 0 && r->ino == ROOT_INO;
	default:
		return false;
	}
}

bool record_check(const struct record *r)
{
	bool about_inode = r->type != RECORD_CONFIG && r->type != RECORD_EPOCH;

	if (r->flags & ~RECORD_MORE || (r->ino != 0) != about_inode)
		return false;
	switch (r->type) {
	case RECORD_MKNODE:
		return mknode_ok(r);
	case RECORD_LINK:
		return r->link.parent && name_ok(r->link.name);
	case RECORD_UNLINK:
		return r->unlink.parent && name_ok(r->unlink.name);
	case RECORD_RENAME:
		return rename_ok(r);
	case RECORD_SETATTR:
		return !(r->attr.mask & ~(uint32_t)ATTR_ALL) && r->attr.size <= INT64_MAX;
	case RECORD_SETXATTR:
		return text_ok(r->xattr.name, 1, RECORD_NAME_MAX) && r->xattr.value.len <= RECORD_VALUE_MAX;
	case RECORD_RMXATTR:
		return text_ok(r->xattr.name, 1, RECORD_NAME_MAX) && r->xattr.value.len == 0;
	case RECORD_WRITE:
		return write_ok(r);
	case RECORD_ZERO:
		return r->zero.mode <= ZERO_ALLOCATE && r->zero.n_blocks <= UINT64_MAX - r->zero.block &&
		       r->zero.size <= INT64_MAX;
	case RECORD_CLONE:
		return clone_ok(r);
	case RECORD_REAP:
	case RECORD_EPOCH:
		return true;
	case RECORD_TIER:
		return tier_ok(r);
	case RECORD_SNAP:
	case RECORD_SNAPDROP:
	case RECORD_SNAPROLL:
		return r->ino == ROOT_INO && r->flags == 0 && record_snap_name_ok(r->snap.name);
	case RECORD_CONFIG:
		return text_ok(r->config.key, 1, RECORD_NAME_MAX) && r->config.value.len <= UINT16_MAX;
	default:
		return false;
	}
}

const char *record_type_name(unsigned type)
{
	static const char *const names[] = {
	    [RECORD_MKNODE] = "MKNODE",     [RECORD_LINK] = "LINK",       [RECORD_UNLINK] = "UNLINK",
	    [RECORD_RENAME] = "RENAME",     [RECORD_SETATTR] = "SETATTR", [RECORD_SETXATTR] = "SETXATTR",
	    [RECORD_RMXATTR] = "RMXATTR",   [RECORD_WRITE] = "WRITE",     [RECORD_ZERO] = "ZERO",
	    [RECORD_REAP] = "REAP",         [RECORD_TIER] = "TIER",       [RECORD_SNAP] = "SNAP",
	    [RECORD_SNAPDROP] = "SNAPDROP", [RECORD_CONFIG] = "CONFIG",   [RECORD_EPOCH] = "EPOCH",
	    [RECORD_SNAPROLL] = "SNAPROLL", [RECORD_CLONE] = "CLONE",
	};
	return type < ARRAY_SIZE(names) && names[type] ? names[type] : "?";
}
