/*
 * fuzz_leaf.c: libFuzzer target over what the index hands out: leaves, inodes, directory entries, ACLs; and packed frames.
 *
 * No input may make a decoder read outside its bytes, and whatever a decoder takes must be stable: encoded and decoded again
 * it is the same, and encoding it once more gives the same bytes.  The checksum of a leaf is set right in most of the runs, and
 * some begin with a good leaf that the input changes, because no fuzzer would guess either.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "fs/core/acl.h"
#include "fs/core/index.h"
#include "fs/core/squeeze/codec.h"
#include "journal/record.h"
#include "tests/unit/leaves.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define BYTES_MAX (2 * LEAF_BYTES_MAX)

static void leaf_is_stable(const struct leaf *l)
{
	uint8_t one[LEAF_BYTES_MAX], two[LEAF_BYTES_MAX];
	struct leaf back;
	size_t len = leaf_encode(l, one);

	assert(len >= 18 && len <= LEAF_BYTES_MAX);
	int r = leaf_decode(one, len, &back);
	assert(r == 0 && memcmp(&back, l, sizeof(back)) == 0);
	assert(leaf_encode(&back, two) == len && memcmp(one, two, len) == 0);
	assert((l->object.id != 0) == (leaf_tiered(l) != 0) && !(leaf_tiered(l) & ~leaf_data(l)));
	assert(l->object.id ? record_frame_ok(l->object.offset, l->object.len) : l->object.offset == 0 && l->object.len == 0);
	assert((l->pack.n_blocks != 0) == (leaf_packed(l) != 0) && l->pack.n_blocks <= PACK_BLOCKS_MAX);
	assert(l->pack.n_blocks ? div_round_up(l->pack.bytes, BLOCK_SIZE) == l->pack.n_blocks : l->pack.bytes == 0);
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		const struct slot *s = &l->slot[i];

		assert(!s->home || pointer_device(s->home) != DEVICE_JOURNAL);
		assert(!s->staged || (pointer_device(s->staged) == DEVICE_JOURNAL && !s->unwritten));
		assert(!s->packed || (!s->home && !s->staged && !s->unwritten));
		assert(slot_used(s) || (s->crc == 0 && s->birth == 0));
	}
}

static void fuzz_leaf(const uint8_t *data, size_t size, bool seal)
{
	uint8_t p[BYTES_MAX];
	struct leaf l;

	if (size > sizeof(p))
		return;
	memcpy(p, data, size);
	if (seal && size >= 4) {
		le32 crc = le32_make(crc32c(0, p, size - 4));

		memcpy(p + size - 4, crc.b, 4);
	}
	/* A heap copy of the right size, so that a read past its end is seen. */
	uint8_t *exact = malloc(size ? size : 1);
	assert(exact);
	memcpy(exact, p, size);
	memset(&l, 0, sizeof(l));
	if (leaf_decode(exact, size, &l) == 0)
		leaf_is_stable(&l);
	free(exact);
}

/* u64 seed of a leaf, then {u16 where, u8 what} changes of its bytes. */
static void fuzz_changed_leaf(const uint8_t *data, size_t size)
{
	struct rng g;
	struct leaf l;
	uint8_t p[LEAF_BYTES_MAX];

	if (size < 8)
		return;
	memcpy(&g.state, data, 8);
	random_leaf(&g, &l);
	leaf_is_stable(&l);
	size_t len = leaf_encode(&l, p);
	for (data += 8, size -= 8; size >= 3; data += 3, size -= 3)
		p[(data[0] | (size_t)data[1] << 8) % len] = data[2];
	fuzz_leaf(p, len, true);
}

static void fuzz_inode(const uint8_t *data, size_t size)
{
	struct inode in;

	if (inode_decode((struct slice){data, size}, 42, &in) == 0)
		assert(size == sizeof(struct inode_value) && in.ino == 42 && in.size <= INT64_MAX && !in.dirty);
}

static void fuzz_entry(const uint8_t *data, size_t size)
{
	struct dentry d;
	struct slice name;

	if (cookie_decode((struct slice){data, size}, &d, &name) < 0)
		return;
	assert(name.len >= 1 && name.len <= 255);
	assert((const uint8_t *)name.p + name.len == data + size);
	struct kv_batch b = {0}, again = {0};
	struct slice key, value;
	size_t at = 0;
	uint8_t op;

	index_put_dentry(&b, 1, name, &d);
	index_put_dentry(&again, 1, name, &d);
	assert(b.ops.len == again.ops.len && memcmp(b.ops.p, again.ops.p, b.ops.len) == 0);
	for (unsigned n = 0; n < 2; n++) {
		bool more = kv_batch_next(&b, &at, &op, &key, &value);
		assert(more && op == KV_PUT);
	}
	assert(value.len == size && memcmp(value.p, data, size) == 0);
	kv_batch_free(&b);
	kv_batch_free(&again);
}

static void fuzz_acl(const uint8_t *data, size_t size)
{
	uint32_t mode = 0100000, inherited = 0100666, shown = 0100000;
	bool minimal, minimal_too;
	uint8_t *p = malloc(size ? size : 1);

	assert(p);
	memcpy(p, data, size);
	int r = acl_to_mode(p, size, &mode, &minimal);
	assert(memcmp(p, data, size) == 0);
	int r_inherit = acl_inherit(p, size, &inherited, &minimal_too);
	assert(r == r_inherit && (r == 0 || memcmp(p, data, size) == 0));
	if (r == 0) {
		assert(minimal == minimal_too && inherited == (0100000 | (mode & 0666)));
		r = acl_set_mode(p, size, 0751);
		assert(r == 0);
		r = acl_to_mode(p, size, &shown, &minimal);
		assert(r == 0 && shown == 0100751);
	}
	free(p);
}

/* u8 algorithm, then a frame; or text of which a good one is made, {u16 where, u8 what} of it changed. */
static void fuzz_frame(const uint8_t *data, size_t size, bool good)
{
	static struct codec *codec;
	static uint8_t text[4 * BLOCK_SIZE];
	uint8_t *p = malloc(PACK_BLOCKS_MAX * BLOCK_SIZE), *leaf = malloc(LEAF_DATA_BYTES);
	uint32_t len = (uint32_t)size;
	int r = codec ? 0 : codec_new(&codec);

	assert(p && leaf && r == 0);
	enum pack_algorithm algorithm = size && data[0] % 2 ? PACK_LZ4 : PACK_ZSTD;
	if (good) {
		for (size_t i = 0; i < sizeof(text); i++)
			text[i] = size ? data[i * i % size % 97 % size] : 0;
		r = codec_pack(codec, algorithm, 1, text, sizeof(text), p, PACK_BLOCKS_MAX * BLOCK_SIZE, &len);
		assert(r == 0 && len > 0);
		for (; size >= 3; data += 3, size -= 3)
			p[(data[0] | (size_t)data[1] << 8) % len] ^= data[2];
	} else {
		len = (uint32_t)min_u64(size, PACK_BLOCKS_MAX * BLOCK_SIZE);
		memcpy(p, data, len);
	}
	uint8_t *exact = malloc(len ? len : 1); /* of the right size, so that a read past its end is seen */
	assert(exact);
	memcpy(exact, p, len);
	r = codec_unpack(codec, algorithm, exact, len, leaf);
	assert(r == 0 || r == -EBADMSG);
	free(exact);
	free(leaf);
	free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	switch (data[0] % 8) {
	case 0:
		fuzz_leaf(data + 1, size - 1, false);
		break;
	case 1:
		fuzz_leaf(data + 1, size - 1, true);
		break;
	case 2:
		fuzz_changed_leaf(data + 1, size - 1);
		break;
	case 3:
		fuzz_inode(data + 1, size - 1);
		break;
	case 4:
		fuzz_entry(data + 1, size - 1);
		break;
	case 5:
		fuzz_acl(data + 1, size - 1);
		break;
	case 6:
	case 7:
		fuzz_frame(data + 1, size - 1, data[0] % 8 == 6);
		break;
	}
	return 0;
}
