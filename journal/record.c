/*
 * record.c: records to bytes and back, with one verifier for both directions.
 *
 * A record is header, body (journal_format.h), variable parts in the order of their lengths, zeros up to 8 bytes.
 * record_encode() writes it and record_decode() reads it; both then run record_check(), so nothing can be written that
 * could not be read back, and nothing can be read that could not have been written: that the CRC is right does not make
 * a name with a '/' one, since a peer with a valid certificate may have sent it (guarantee G11).
 */
#include "journal/record.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "journal/journal_format.h"

#define FILE_BLOCKS_MAX (UINT64_C(1) << 51) /* 2^63 bytes */
#define LEAF_BLOCKS     16u                 /* of one place of a TIER record */
#define ROOT_INO        1u                  /* what is of the whole volume is said of it */

_Static_assert(sizeof(((struct body_tier *)0)->sealed) == RECORD_SEALED_BYTES, "");
_Static_assert(RECORD_PLACES_MAX <= UINT16_MAX, "");

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

/* Whether every field is within its bounds. */
static bool record_check(const struct record *r)
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

static void put_body(struct buf *out, const void *fixed, size_t fixed_len, struct slice a, struct slice b)
{
	buf_put(out, fixed, fixed_len);
	buf_put(out, a.p, a.len);
	buf_put(out, b.p, b.len);
}

static const struct slice none;

static void encode_mknode(const struct record *r, struct buf *out)
{
	const struct body_mknode b = {
	    .parent = le64_make(r->mknode.parent),
	    .cookie = le64_make(r->mknode.cookie),
	    .rdev = le64_make(r->mknode.rdev),
	    .mode = le32_make(r->mknode.mode),
	    .uid = le32_make(r->mknode.uid),
	    .gid = le32_make(r->mknode.gid),
	    .name_len = le16_make((uint16_t)r->mknode.name.len),
	    .target_len = le16_make((uint16_t)r->mknode.target.len),
	};
	put_body(out, &b, sizeof(b), r->mknode.name, r->mknode.target);
}

static void encode_rename(const struct record *r, struct buf *out)
{
	const struct body_rename b = {
	    .parent = le64_make(r->rename.parent),
	    .new_parent = le64_make(r->rename.new_parent),
	    .new_cookie = le64_make(r->rename.new_cookie),
	    .target = le64_make(r->rename.target),
	    .whiteout_ino = le64_make(r->rename.whiteout_ino),
	    .flags = le32_make(r->rename.flags),
	    .name_len = le16_make((uint16_t)r->rename.name.len),
	    .new_name_len = le16_make((uint16_t)r->rename.new_name.len),
	};
	put_body(out, &b, sizeof(b), r->rename.name, r->rename.new_name);
}

static void encode_setattr(const struct record *r, struct buf *out)
{
	const struct body_setattr b = {
	    .mask = le32_make(r->attr.mask),
	    .mode = le32_make(r->attr.mode),
	    .uid = le32_make(r->attr.uid),
	    .gid = le32_make(r->attr.gid),
	    .size = le64_make(r->attr.size),
	    .atime_ns = le64_make((uint64_t)r->attr.atime_ns),
	    .mtime_ns = le64_make((uint64_t)r->attr.mtime_ns),
	    .ctime_ns = le64_make((uint64_t)r->attr.ctime_ns),
	};
	put_body(out, &b, sizeof(b), none, none);
}

static void encode_write(const struct record *r, struct buf *out)
{
	const struct body_write b = {
	    .block = le64_make(r->write.block),
	    .size = le64_make(r->write.size),
	    .mtime_ns = le64_make((uint64_t)r->write.mtime_ns),
	    .n_blocks = le32_make(r->write.n_blocks),
	    .out_of_line = r->write.out_of_line,
	};
	/* le.h pins the host to little endian, so the array is the array on disk. */
	put_body(out, &b, sizeof(b), (struct slice){r->write.crc, 4 * (size_t)r->write.n_blocks}, none);
}

static void encode_tier(const struct record *r, struct buf *out)
{
	struct body_tier b = {
	    .object = le64_make(r->tier.object),
	    .object_bytes = le64_make(r->tier.object_bytes),
	    .store = le32_make(r->tier.store),
	    .n_blocks = le32_make(r->tier.n_blocks),
	    .n_places = le16_make((uint16_t)r->tier.n_places),
	    .change = r->tier.change,
	};

	memcpy(b.sealed, r->tier.sealed, sizeof(b.sealed));
	buf_put(out, &b, sizeof(b));
	for (uint32_t i = 0; i < r->tier.n_places; i++) {
		const struct record_place p = record_place_at(r, i);
		const struct tier_place disk = {
		    .leaf = le64_make(p.leaf), .offset = le32_make(p.offset), .len = le32_make(p.len), .mask = le16_make(p.mask)};

		buf_put(out, &disk, sizeof(disk));
	}
}

static void encode_small(const struct record *r, struct buf *out)
{
	switch (r->type) {
	case RECORD_LINK: {
		const struct body_link b = {.parent = le64_make(r->link.parent),
					    .cookie = le64_make(r->link.cookie),
					    .name_len = le16_make((uint16_t)r->link.name.len)};
		put_body(out, &b, sizeof(b), r->link.name, none);
		break;
	}
	case RECORD_UNLINK: {
		const struct body_unlink b = {.parent = le64_make(r->unlink.parent),
					      .name_len = le16_make((uint16_t)r->unlink.name.len)};
		put_body(out, &b, sizeof(b), r->unlink.name, none);
		break;
	}
	case RECORD_ZERO: {
		const struct body_zero b = {.block = le64_make(r->zero.block),
					    .n_blocks = le64_make(r->zero.n_blocks),
					    .size = le64_make(r->zero.size),
					    .mode = r->zero.mode};
		put_body(out, &b, sizeof(b), none, none);
		break;
	}
	case RECORD_CLONE: {
		const struct body_clone b = {.from = le64_make(r->clone.from),
					     .from_block = le64_make(r->clone.from_block),
					     .block = le64_make(r->clone.block),
					     .size = le64_make(r->clone.size),
					     .mtime_ns = le64_make((uint64_t)r->clone.mtime_ns),
					     .n_blocks = le32_make(r->clone.n_blocks)};
		put_body(out, &b, sizeof(b), none, none);
		break;
	}
	case RECORD_REAP: {
		const struct body_reap b = {.from_leaf = le64_make(r->reap.from_leaf)};
		put_body(out, &b, sizeof(b), none, none);
		break;
	}
	case RECORD_SNAP:
	case RECORD_SNAPDROP:
	case RECORD_SNAPROLL: {
		const struct body_snap b = {.gen = le64_make(r->snap.gen), .name_len = le16_make((uint16_t)r->snap.name.len)};
		put_body(out, &b, sizeof(b), r->snap.name, none);
		break;
	}
	case RECORD_CONFIG: {
		const struct body_config b = {.key_len = le16_make((uint16_t)r->config.key.len),
					      .value_len = le16_make((uint16_t)r->config.value.len)};
		put_body(out, &b, sizeof(b), r->config.key, r->config.value);
		break;
	}
	case RECORD_EPOCH: {
		const struct body_epoch b = {.epoch = le64_make(r->epoch.epoch), .incarnation = le64_make(r->epoch.incarnation)};
		put_body(out, &b, sizeof(b), none, none);
		break;
	}
	default: {
		/* value_len stands before name_len, so the value comes first */
		const struct body_xattr b = {.value_len = le32_make((uint32_t)r->xattr.value.len),
					     .name_len = le16_make((uint16_t)r->xattr.name.len)};
		put_body(out, &b, sizeof(b), r->xattr.value, r->xattr.name);
		break;
	}
	}
}

static void encode_body(const struct record *r, struct buf *out)
{
	switch (r->type) {
	case RECORD_MKNODE:
		encode_mknode(r, out);
		break;
	case RECORD_RENAME:
		encode_rename(r, out);
		break;
	case RECORD_SETATTR:
		encode_setattr(r, out);
		break;
	case RECORD_WRITE:
		encode_write(r, out);
		break;
	case RECORD_TIER:
		encode_tier(r, out);
		break;
	default:
		encode_small(r, out);
		break;
	}
}

int record_encode(const struct record *r, struct buf *out)
{
	static const uint8_t zeros[8];
	size_t start = out->len;

	assert(start % 8 == 0); /* CRC arrays must come to lie 4-aligned */
	if (!record_check(r))
		return -EINVAL;
	struct record_header h = {
	    .type = r->type,
	    .flags = r->flags,
	    .uid = le32_make(r->uid),
	    .gid = le32_make(r->gid),
	    .pid = le32_make(r->pid),
	    .unique = le64_make(r->unique),
	    .time_ns = le64_make((uint64_t)r->time_ns),
	    .ino = le64_make(r->ino),
	};
	buf_put(out, &h, sizeof(h));
	encode_body(r, out);
	buf_put(out, zeros, -(out->len - start) & 7);
	if (out->failed)
		return -ENOMEM;
	uint8_t *at = out->p + start;
	h.bytes = le32_make((uint32_t)(out->len - start));
	memcpy(at, &h, sizeof(h));
	h.crc = le32_make(crc32c(0, at + sizeof(h.crc), out->len - start - sizeof(h.crc)));
	memcpy(at, &h.crc, sizeof(h.crc));
	return 0;
}

/* What is left of a record's body while it is taken apart; `failed` once more was asked for than is there. */
struct reader {
	const uint8_t *p;
	size_t left;
	bool failed;
};

static struct slice take(struct reader *in, size_t len)
{
	struct slice s = {in->p, len};

	if (len > in->left) {
		in->failed = true;
		return (struct slice){0};
	}
	in->p += len;
	in->left -= len;
	return s;
}

/* Copies the fixed part out; zeros when it is not there, so that lengths read from it are harmless. */
static void take_fixed(struct reader *in, void *ret_fixed, size_t len)
{
	struct slice s = take(in, len);

	if (s.p)
		memcpy(ret_fixed, s.p, len);
	else
		memset(ret_fixed, 0, len);
}

static bool zero16(const le16 *v, size_t n)
{
	while (n--)
		if (le16_get(v[n]))
			return false;
	return true;
}

static bool zero8(const uint8_t *v, size_t n)
{
	while (n--)
		if (v[n])
			return false;
	return true;
}

static void decode_mknode(struct reader *in, struct record *r)
{
	struct body_mknode b;

	take_fixed(in, &b, sizeof(b));
	r->mknode.parent = le64_get(b.parent);
	r->mknode.cookie = le64_get(b.cookie);
	r->mknode.rdev = le64_get(b.rdev);
	r->mknode.mode = le32_get(b.mode);
	r->mknode.uid = le32_get(b.uid);
	r->mknode.gid = le32_get(b.gid);
	r->mknode.name = take(in, le16_get(b.name_len));
	r->mknode.target = take(in, le16_get(b.target_len));
}

static void decode_rename(struct reader *in, struct record *r)
{
	struct body_rename b;

	take_fixed(in, &b, sizeof(b));
	r->rename.parent = le64_get(b.parent);
	r->rename.new_parent = le64_get(b.new_parent);
	r->rename.new_cookie = le64_get(b.new_cookie);
	r->rename.target = le64_get(b.target);
	r->rename.whiteout_ino = le64_get(b.whiteout_ino);
	r->rename.flags = le32_get(b.flags);
	r->rename.name = take(in, le16_get(b.name_len));
	r->rename.new_name = take(in, le16_get(b.new_name_len));
}

static void decode_setattr(struct reader *in, struct record *r)
{
	struct body_setattr b;

	take_fixed(in, &b, sizeof(b));
	r->attr.mask = le32_get(b.mask);
	r->attr.mode = le32_get(b.mode);
	r->attr.uid = le32_get(b.uid);
	r->attr.gid = le32_get(b.gid);
	r->attr.size = le64_get(b.size);
	r->attr.atime_ns = (int64_t)le64_get(b.atime_ns);
	r->attr.mtime_ns = (int64_t)le64_get(b.mtime_ns);
	r->attr.ctime_ns = (int64_t)le64_get(b.ctime_ns);
}

static void decode_write(struct reader *in, struct record *r)
{
	struct body_write b;

	take_fixed(in, &b, sizeof(b));
	r->write.block = le64_get(b.block);
	r->write.size = le64_get(b.size);
	r->write.mtime_ns = (int64_t)le64_get(b.mtime_ns);
	r->write.n_blocks = le32_get(b.n_blocks);
	r->write.out_of_line = b.out_of_line == 1;
	in->failed |= b.out_of_line > 1 || !zero8(b.zero, sizeof(b.zero)) || r->write.n_blocks > RECORD_WRITE_BLOCKS_MAX;
	if (!in->failed)
		r->write.crc = take(in, 4 * (size_t)r->write.n_blocks).p;
}

static void decode_names(struct reader *in, struct record *r)
{
	if (r->type == RECORD_LINK) {
		struct body_link b;
		take_fixed(in, &b, sizeof(b));
		r->link.parent = le64_get(b.parent);
		r->link.cookie = le64_get(b.cookie);
		r->link.name = take(in, le16_get(b.name_len));
		in->failed |= !zero16(b.zero, ARRAY_SIZE(b.zero));
	} else {
		struct body_unlink b;
		take_fixed(in, &b, sizeof(b));
		r->unlink.parent = le64_get(b.parent);
		r->unlink.name = take(in, le16_get(b.name_len));
		in->failed |= !zero16(b.zero, ARRAY_SIZE(b.zero));
	}
}

static void decode_xattr(struct reader *in, struct record *r)
{
	struct body_xattr b;

	take_fixed(in, &b, sizeof(b));
	r->xattr.value = take(in, le32_get(b.value_len));
	r->xattr.name = take(in, le16_get(b.name_len));
	in->failed |= !zero16(&b.zero, 1);
}

static void decode_zero(struct reader *in, struct record *r)
{
	struct body_zero b;

	take_fixed(in, &b, sizeof(b));
	r->zero.block = le64_get(b.block);
	r->zero.n_blocks = le64_get(b.n_blocks);
	r->zero.size = le64_get(b.size);
	r->zero.mode = b.mode;
	in->failed |= !zero8(b.zero, sizeof(b.zero));
}

static void decode_snap(struct reader *in, struct record *r)
{
	struct body_snap b;

	take_fixed(in, &b, sizeof(b));
	r->snap.gen = le64_get(b.gen);
	r->snap.name = take(in, le16_get(b.name_len));
	for (unsigned i = 0; i < ARRAY_SIZE(b.zero); i++)
		in->failed |= le16_get(b.zero[i]) != 0;
}

static void decode_volume(struct reader *in, struct record *r)
{
	if (r->type == RECORD_CONFIG) {
		struct body_config b;
		take_fixed(in, &b, sizeof(b));
		r->config.key = take(in, le16_get(b.key_len));
		r->config.value = take(in, le16_get(b.value_len));
		in->failed |= le32_get(b.zero) != 0;
	} else {
		struct body_epoch b;
		take_fixed(in, &b, sizeof(b));
		r->epoch.epoch = le64_get(b.epoch);
		r->epoch.incarnation = le64_get(b.incarnation);
	}
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

static void decode_tier(struct reader *in, struct record *r)
{
	struct body_tier b;
	struct slice fixed = take(in, sizeof(b));

	if (!fixed.p)
		return;
	memcpy(&b, fixed.p, sizeof(b));
	r->tier.object = le64_get(b.object);
	r->tier.object_bytes = le64_get(b.object_bytes);
	r->tier.store = le32_get(b.store);
	r->tier.n_blocks = le32_get(b.n_blocks);
	r->tier.n_places = le16_get(b.n_places);
	r->tier.change = b.change;
	r->tier.sealed = (const uint8_t *)fixed.p + offsetof(struct body_tier, sealed);
	r->tier.raw_places = take(in, sizeof(struct tier_place) * (size_t)r->tier.n_places).p;
	in->failed |= b.zero != 0;
}

static void decode_reap(struct reader *in, struct record *r)
{
	struct body_reap b;

	take_fixed(in, &b, sizeof(b));
	r->reap.from_leaf = le64_get(b.from_leaf);
}

static void decode_clone(struct reader *in, struct record *r)
{
	static const uint8_t zero[sizeof(((struct body_clone *)0)->zero)];
	struct body_clone b;

	take_fixed(in, &b, sizeof(b));
	r->clone.from = le64_get(b.from);
	r->clone.from_block = le64_get(b.from_block);
	r->clone.block = le64_get(b.block);
	r->clone.size = le64_get(b.size);
	r->clone.mtime_ns = (int64_t)le64_get(b.mtime_ns);
	r->clone.n_blocks = le32_get(b.n_blocks);
	in->failed |= memcmp(b.zero, zero, sizeof(zero)) != 0;
}

static void decode_body(struct reader *in, struct record *r)
{
	switch (r->type) {
	case RECORD_MKNODE:
		decode_mknode(in, r);
		break;
	case RECORD_LINK:
	case RECORD_UNLINK:
		decode_names(in, r);
		break;
	case RECORD_RENAME:
		decode_rename(in, r);
		break;
	case RECORD_SETATTR:
		decode_setattr(in, r);
		break;
	case RECORD_SETXATTR:
	case RECORD_RMXATTR:
		decode_xattr(in, r);
		break;
	case RECORD_WRITE:
		decode_write(in, r);
		break;
	case RECORD_ZERO:
		decode_zero(in, r);
		break;
	case RECORD_CLONE:
		decode_clone(in, r);
		break;
	case RECORD_REAP:
		decode_reap(in, r);
		break;
	case RECORD_TIER:
		decode_tier(in, r);
		break;
	case RECORD_SNAP:
	case RECORD_SNAPDROP:
	case RECORD_SNAPROLL:
		decode_snap(in, r);
		break;
	case RECORD_CONFIG:
	case RECORD_EPOCH:
		decode_volume(in, r);
		break;
	default:
		in->failed = true;
		break;
	}
}

int record_decode(const void *p, size_t len, struct record *ret_record, size_t *ret_used)
{
	struct record_header h;

	assert((uintptr_t)p % 4 == 0);
	if (len < sizeof(h))
		return -EUCLEAN;
	memcpy(&h, p, sizeof(h));
	size_t bytes = le32_get(h.bytes);
	if (bytes < sizeof(h) || bytes > len || bytes % 8 || le16_get(h.zero))
		return -EUCLEAN;
	if (crc32c(0, (const uint8_t *)p + sizeof(h.crc), bytes - sizeof(h.crc)) != le32_get(h.crc))
		return -EUCLEAN;
	struct record r = {
	    .type = h.type,
	    .flags = h.flags,
	    .uid = le32_get(h.uid),
	    .gid = le32_get(h.gid),
	    .pid = le32_get(h.pid),
	    .unique = le64_get(h.unique),
	    .time_ns = (int64_t)le64_get(h.time_ns),
	    .ino = le64_get(h.ino),
	};
	struct reader in = {(const uint8_t *)p + sizeof(h), bytes - sizeof(h), false};
	decode_body(&in, &r);
	if (in.failed || in.left >= 8 || !zero8(in.p, in.left) || !record_check(&r))
		return -EUCLEAN;
	*ret_record = r;
	*ret_used = bytes;
	return 0;
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
