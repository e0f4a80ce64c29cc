/*
 * record_encode.c: records to bytes: header, body (journal_format.h), variable parts in the order of their lengths, zeros up to 8
 * bytes.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "journal/record_impl.h"

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
