/*
 * record_decode.c: bytes to records.  Whatever the bytes are: lengths are held against what is there before anything is read by
 * them, and what was read is held against the verifier.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "journal/record_impl.h"

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
