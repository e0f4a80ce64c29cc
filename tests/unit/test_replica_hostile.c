/*
 * test_replica_hostile.c: batches as a peer would send them that has a certificate and no scruples: bits flipped, records that do
 * not fit the volume, names that cannot be, batches out of place.  Each is refused, or leaves a volume that is whole.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <xxhash.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/index.h"
#include "tests/lib/cold.h"
#include "tests/unit/records.h"
#include "tests/unit/replica_case.h"

/* As a peer would that has a certificate and no scruples: everything right but what was changed. */
static void reseal(struct message *m)
{
	m->b.hash = XXH64(m->b.logical, m->b.logical_bytes, m->b.prev_hash);
}

static void seal_record(uint8_t *p)
{
	struct record_header h;

	memcpy(&h, p, sizeof(h));
	h.crc = le32_make(crc32c(0, p + 4, le32_get(h.bytes) - 4));
	memcpy(p, &h, sizeof(h));
}

static void flip(void *p, size_t bit)
{
	((uint8_t *)p)[bit / 8] ^= (uint8_t)(1 << bit % 8);
}

static void any_flipped_bit_of_a_batch_is_refused(void **state)
{
	struct world *w = *state;
	struct fs *f = w->follower[0].fs;
	uint64_t ino = make_file(leader(w), "f");
	struct message m;

	ship_all(w);
	put_bytes(leader(w), ino, 0, 5000, 3);
	OK(fs_setxattr(leader(w), &cred, ino, "user.x", "value", 5, 0));
	put_bytes(leader(w), ino, 64 * KIB, 70 * KIB, 4);
	OK(fs_rename(leader(w), &cred, FS_ROOT_INO, "f", FS_ROOT_INO, "g", 0));
	OK(fs_sync(leader(w)));
	OK(message_read(leader(w), &w->cursor, point_of(leader(w)).durable_seq, &m));
	uint64_t *const fields[] = {&m.b.seq, &m.b.epoch, &m.b.prev_hash, &m.b.hash};
	uint32_t *const counts[] = {&m.b.n_records, &m.b.logical_bytes};
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		for (unsigned bit = 0; bit < 64; bit++) {
			flip(fields[i], bit);
			if (fields[i] != &m.b.epoch || m.b.epoch < point_of(leader(w)).promised)
				assert_true(message_deliver(f, &m) < 0);
			flip(fields[i], bit);
		}
	for (size_t i = 0; i < ARRAY_SIZE(counts); i++)
		for (unsigned bit = 0; bit < 32; bit++) {
			uint32_t was = *counts[i];
			flip(counts[i], bit);
			if (*counts[i] < was || *counts[i] > BATCH_LOGICAL_MAX_BYTES || counts[i] == &m.b.n_records)
				assert_true(message_deliver(f, &m) < 0);
			*counts[i] = was;
		}
	for (size_t bit = 0; bit < 8 * (size_t)m.b.logical_bytes; bit++) {
		flip((void *)(uintptr_t)m.b.logical, bit);
		assert_true(message_deliver(f, &m) < 0);
		flip((void *)(uintptr_t)m.b.logical, bit);
	}
	for (size_t bit = 0; bit < 8 * BLOCK_SIZE * (size_t)m.b.n_payload; bit += 97) {
		flip((void *)(uintptr_t)m.b.payload, bit);
		FAILS(-EBADMSG, message_deliver(f, &m));
		flip((void *)(uintptr_t)m.b.payload, bit);
	}
	for (size_t bit = 0; bit < 8 * BLOCK_SIZE * (size_t)m.d[0].n_blocks; bit += 997) {
		flip((void *)(uintptr_t)m.d[0].blocks, bit);
		FAILS(-EBADMSG, message_deliver(f, &m));
		flip((void *)(uintptr_t)m.d[0].blocks, bit);
	}
	OK(message_deliver(f, &m));
	message_free(&m);
	assert_same_tree(f, leader(w));
	assert_clean(w, f);
}

/* A batch of these records after what `fs` has, from a leader of `epoch`. */
static void craft(struct fs *fs, uint64_t epoch, const struct record *records, size_t n, struct message *ret)
{
	struct buf logical = {0};
	struct replica_point p = point_of(fs);

	for (size_t i = 0; i < n; i++)
		OK(record_encode(&records[i], &logical));
	*ret = (struct message){.b = {.seq = p.applied_seq + 1,
				      .epoch = epoch,
				      .prev_hash = p.hash,
				      .n_records = (uint32_t)n,
				      .logical_bytes = (uint32_t)logical.len,
				      .logical = logical.p,
				      .payload = test_alloc(1)}};
	reseal(ret);
}

static int deliver_records(struct fs *fs, const struct record *records, size_t n)
{
	struct message m;

	commit(fs);
	craft(fs, point_of(fs).promised, records, n, &m);
	int r = message_deliver(fs, &m);
	message_free(&m);
	return r;
}

#define NAME(s) sample_text(s)

static void records_that_do_not_fit_the_volume_are_refused(void **state)
{
	struct world *w = *state;
	struct fs *l = leader(w), *f = w->follower[0].fs;
	struct fs_attr dir, sub, file, target, gone, link;
	static const uint32_t crc[RECORD_WRITE_BLOCKS_MAX];

	OK(fs_mknod(l, &cred, FS_ROOT_INO, "dir", S_IFDIR | 0755, 0, &dir));
	OK(fs_mknod(l, &cred, dir.ino, "sub", S_IFDIR | 0755, 0, &sub));
	OK(fs_mknod(l, &cred, sub.ino, "file", S_IFREG | 0644, 0, &file));
	OK(fs_mknod(l, &cred, FS_ROOT_INO, "target", S_IFREG | 0644, 0, &target));
	OK(fs_mknod(l, &cred, FS_ROOT_INO, "gone", S_IFREG | 0644, 0, &gone));
	OK(fs_symlink(l, &cred, FS_ROOT_INO, "link", "x", &link));
	OK(fs_unlink(l, &cred, FS_ROOT_INO, "gone"));
	put_bytes(l, file.ino, 0, 10000, 1);
	ship_all(w);
	uint64_t size = 10000, free_ino = link.ino + 100, root = FS_ROOT_INO, next = 7, far = UINT64_C(1) << 62;
	(void)target;

#define R(type_, ino_, ...)                                                                                                      \
	{                                                                                                                        \
		.type = RECORD_##type_, .ino = (ino_), .time_ns = 1, __VA_ARGS__                                                 \
	}
	const struct record misfits[] = {
	    /* clang-format off */
	    R(MKNODE, file.ino, .mknode = {.parent = root, .cookie = next, .name = NAME("n"), .mode = S_IFREG}),
	    R(MKNODE, root, .mknode = {.parent = root, .cookie = next, .name = NAME("n"), .mode = S_IFDIR}),
	    R(MKNODE, far, .mknode = {.parent = root, .cookie = next, .name = NAME("n"), .mode = S_IFREG}),
	    R(MKNODE, UINT64_MAX, .mknode = {.parent = root, .cookie = next, .name = NAME("n"), .mode = S_IFREG}),
	    R(MKNODE, free_ino, .mknode = {.parent = file.ino, .cookie = 3, .name = NAME("n"), .mode = S_IFREG}),
	    R(MKNODE, free_ino, .mknode = {.parent = free_ino, .cookie = 3, .name = NAME("n"), .mode = S_IFDIR}),
	    R(MKNODE, free_ino, .mknode = {.parent = gone.ino, .cookie = 3, .name = NAME("n"), .mode = S_IFREG}),
	    R(MKNODE, free_ino, .mknode = {.parent = root, .cookie = next, .name = NAME("dir"), .mode = S_IFREG}),
	    R(MKNODE, free_ino, .mknode = {.parent = root, .cookie = next - 1, .name = NAME("n"), .mode = S_IFREG}),
	    R(MKNODE, free_ino, .mknode = {.parent = root, .cookie = UINT64_MAX, .name = NAME("n"), .mode = S_IFREG}),
	    R(LINK, dir.ino, .link = {.parent = root, .cookie = next, .name = NAME("n")}),
	    R(LINK, gone.ino, .link = {.parent = root, .cookie = next, .name = NAME("n")}),
	    R(LINK, free_ino, .link = {.parent = root, .cookie = next, .name = NAME("n")}),
	    R(LINK, file.ino, .link = {.parent = root, .cookie = next, .name = NAME("dir")}),
	    R(LINK, file.ino, .link = {.parent = link.ino, .cookie = 3, .name = NAME("n")}),
	    R(UNLINK, file.ino, .unlink = {.parent = root, .name = NAME("file")}),
	    R(UNLINK, file.ino, .unlink = {.parent = root, .name = NAME("target")}),
	    R(UNLINK, dir.ino, .unlink = {.parent = root, .name = NAME("dir")}),
	    R(UNLINK, root, .unlink = {.parent = root, .name = NAME("n")}),
	    R(UNLINK, file.ino, .unlink = {.parent = file.ino, .name = NAME("n")}),
	    R(RENAME, dir.ino, .rename = {.parent = root, .new_parent = sub.ino, .new_cookie = 4, .name = NAME("dir"), .new_name = NAME("n")}),
	    R(RENAME, dir.ino, .rename = {.parent = root, .new_parent = dir.ino, .new_cookie = 4, .name = NAME("dir"), .new_name = NAME("n")}),
	    R(RENAME, file.ino, .rename = {.parent = sub.ino, .new_parent = root, .new_cookie = next, .name = NAME("file"), .new_name = NAME("target")}),
	    R(RENAME, file.ino, .rename = {.parent = sub.ino, .new_parent = root, .new_cookie = next, .target = dir.ino, .name = NAME("file"), .new_name = NAME("dir")}),
	    R(RENAME, dir.ino, .rename = {.parent = root, .new_parent = root, .new_cookie = next, .target = target.ino, .name = NAME("dir"), .new_name = NAME("target")}),
	    R(RENAME, file.ino, .rename = {.parent = sub.ino, .new_parent = root, .new_cookie = next, .target = file.ino, .name = NAME("file"), .new_name = NAME("n")}),
	    R(RENAME, file.ino, .rename = {.parent = sub.ino, .new_parent = root, .new_cookie = next + 1, .name = NAME("file"), .new_name = NAME("n")}),
	    R(RENAME, file.ino, .rename = {.parent = sub.ino, .new_parent = root, .name = NAME("file"), .new_name = NAME("n"), .flags = RENAME_F_EXCHANGE}),
	    R(RENAME, dir.ino, .rename = {.parent = root, .new_parent = sub.ino, .target = file.ino, .name = NAME("dir"), .new_name = NAME("file"), .flags = RENAME_F_EXCHANGE}),
	    R(RENAME, target.ino, .rename = {.parent = root, .new_parent = root, .new_cookie = next, .name = NAME("target"), .new_name = NAME("n"), .whiteout_ino = file.ino, .flags = RENAME_F_WHITEOUT}),
	    R(RENAME, target.ino, .rename = {.parent = root, .new_parent = root, .new_cookie = next, .name = NAME("target"), .new_name = NAME("n"), .flags = RENAME_F_WHITEOUT}),
	    R(RENAME, target.ino, .rename = {.parent = root, .new_parent = root, .new_cookie = next, .name = NAME("target"), .new_name = NAME("n"), .whiteout_ino = free_ino}),
	    R(SETATTR, free_ino, .attr = {.mask = ATTR_MODE}),
	    R(SETATTR, dir.ino, .attr = {.mask = ATTR_SIZE}),
	    R(SETATTR, file.ino, .attr = {.mask = ATTR_SIZE, .size = FILE_SIZE_MAX + 1}),
	    R(SETXATTR, free_ino, .xattr = {.name = NAME("user.n")}),
	    R(SETXATTR, file.ino, .xattr = {.name = NAME("clawfs."), .value = NAME("v")}),
	    R(SETXATTR, file.ino, .xattr = {.name = NAME("clawfs.durability")}),
	    R(WRITE, dir.ino, .write = {.n_blocks = 1, .crc = crc, .size = 4096, .out_of_line = true}),
	    R(WRITE, free_ino, .write = {.n_blocks = 1, .crc = crc, .size = 4096, .out_of_line = true}),
	    R(WRITE, file.ino, .write = {.n_blocks = 1, .crc = crc, .size = size - 1, .out_of_line = true}),
	    R(WRITE, file.ino, .write = {.n_blocks = 1, .crc = crc, .size = FILE_SIZE_MAX + 1, .out_of_line = true}),
	    R(WRITE, file.ino, .write = {.n_blocks = 1, .crc = crc, .size = size, .block = FILE_SIZE_MAX / BLOCK_SIZE, .out_of_line = true}),
	    R(ZERO, dir.ino, .zero = {.n_blocks = 1, .size = 4096}),
	    R(ZERO, file.ino, .zero = {.n_blocks = 1, .size = size - 1}),
	    R(ZERO, file.ino, .zero = {.n_blocks = FILE_SIZE_MAX / BLOCK_SIZE + 1, .size = size}),
	    R(ZERO, file.ino, .zero = {.block = UINT64_MAX - 1, .n_blocks = 1, .size = size}),
	    R(CLONE, dir.ino, .clone = {.from = file.ino, .n_blocks = 1, .size = 4096}),
	    R(CLONE, free_ino, .clone = {.from = file.ino, .n_blocks = 1, .size = 4096}),
	    R(CLONE, file.ino, .clone = {.from = dir.ino, .n_blocks = 1, .size = size}),
	    R(CLONE, file.ino, .clone = {.from = free_ino, .n_blocks = 1, .size = size}),
	    R(CLONE, file.ino, .clone = {.from = file.ino, .from_block = 9, .n_blocks = 1, .size = size - 1}),
	    R(CLONE, file.ino, .clone = {.from = file.ino, .from_block = 9, .n_blocks = 1, .size = FILE_SIZE_MAX + 1}),
	    R(CLONE, file.ino, .clone = {.from = file.ino, .n_blocks = 1, .block = FILE_SIZE_MAX / BLOCK_SIZE, .size = FILE_SIZE_MAX}),
	    R(CLONE, file.ino, .clone = {.from = file.ino, .n_blocks = 1, .from_block = FILE_SIZE_MAX / BLOCK_SIZE, .size = size}),
	    R(REAP, file.ino, .reap = {0}),
	    R(REAP, root, .reap = {0}),
	    R(REAP, free_ino, .reap = {0}),
	    R(REAP, gone.ino, .reap = {UINT64_MAX}),
	    R(CONFIG, 0, .config = {.key = NAME("k"), .value = NAME("v")}),
	    R(EPOCH, 0, .epoch = {.epoch = 0}),
	    R(EPOCH, 0, .epoch = {.epoch = epoch_make(1, 0)}),
	    R(EPOCH, 0, .epoch = {.epoch = epoch_make(9, 1)}),
	    /* clang-format on */
	};
	for (size_t i = 0; i < ARRAY_SIZE(misfits); i++)
		if (deliver_records(f, &misfits[i], 1) != -EUCLEAN)
			fail_msg("misfit %zu (%s) was not refused", i, record_type_name(misfits[i].type));
	/* More space than there can be is no misfit, and no space. */
	const struct record vast =
	    R(ZERO, file.ino, .zero = {.n_blocks = FILE_SIZE_MAX / BLOCK_SIZE, .size = FILE_SIZE_MAX, .mode = ZERO_ALLOCATE});
	FAILS(-ENOSPC, deliver_records(f, &vast, 1));
	/* Each is right alone, and the second not after the first; what is seen of the first must not stay. */
	const struct record twice[] = {
	    R(UNLINK, target.ino, .unlink = {.parent = root, .name = NAME("target")}),
	    R(UNLINK, target.ino, .unlink = {.parent = root, .name = NAME("target")}),
	};
	FAILS(-EUCLEAN, deliver_records(f, twice, 2));
	struct record many[RECORD_INODES_MAX + 1];
	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = (struct record)R(
		    MKNODE, free_ino + i, .flags = i < RECORD_INODES_MAX ? RECORD_MORE : 0,
		    .mknode = {.parent = root, .cookie = next + i, .name = {&"abcdefgh"[i], 1}, .mode = S_IFREG});
	FAILS(-EUCLEAN, deliver_records(f, many, ARRAY_SIZE(many))); /* one operation with six inodes */
	assert_same_tree(f, l);
	assert_clean(w, f);
	/* And those that fit are taken: the same table would pass if everything were refused. */
	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		many[i].flags = 0;
	OK(deliver_records(f, many, ARRAY_SIZE(many)));
	OK(deliver_records(f, twice, 1));
	assert_clean(w, f);
}

static void ignore_line(void *ctx, const char *line)
{
	(void)ctx;
	(void)line;
}

/* A file of three blocks, tiered as far as a record of object 9 said: slots 0 and 1. */
static void tier_records_that_do_not_fit_are_refused(void **state)
{
	static const uint8_t sealed[RECORD_SEALED_BYTES] = {1}, other[RECORD_SEALED_BYTES] = {2};
	struct world *w = *state;
	struct fs *l = leader(w), *f = w->follower[0].fs;
	struct fs_attr dir;
	uint64_t ino = make_file(l, "f");
	struct super s;

	OK(fs_mknod(l, &cred, FS_ROOT_INO, "dir", S_IFDIR | 0755, 0, &dir));
	put_bytes(l, ino, 0, 10000, 1);
	ship_all(w);
#define PLACE(...)                                                                                                               \
	&(const struct record_place)                                                                                             \
	{                                                                                                                        \
		.offset = 4096, .len = 50, __VA_ARGS__                                                                           \
	}
#define T(ino_, object_, place_)                                                                                                 \
	R(TIER, ino_,                                                                                                            \
	  .tier = {.store = 1,                                                                                                   \
		   .object_bytes = 8192,                                                                                         \
		   .n_blocks = 16,                                                                                               \
		   .sealed = sealed,                                                                                             \
		   .object = (object_),                                                                                          \
		   .n_places = 1,                                                                                                \
		   .places = (place_)})
	const struct record good = T(ino, 9, PLACE(.mask = 3));
	OK(super_read(f->store, &s));
	assert_int_equal(s.incompat, 0);
	OK(deliver_records(f, &good, 1));
	OK(super_read(f->store, &s));
	assert_int_equal(s.incompat, 1);
	uint64_t before = objects_hash(f);
	const struct record misfits[] = {
	    T(dir.ino, 10, PLACE(.mask = 1)),
	    T(ino + 100, 10, PLACE(.mask = 1)),
	    T(ino, 10, PLACE(.mask = 8)), /* no data there */
	    T(ino, 10, PLACE(.mask = 0xffff)),
	    T(ino, 10, PLACE(.mask = 3, .leaf = 1)), /* nor there */
	    T(ino, 10, PLACE(.mask = 3, .leaf = FILE_SIZE_MAX / (LEAF_SLOTS * BLOCK_SIZE))),
	    T(ino, 10, PLACE(.mask = 1)), /* slot 1 would lose its copy */
	    T(ino, 10, PLACE(.mask = 6)), /* slot 0 would */
	};
	struct record others[] = {T(ino, 9, PLACE(.mask = 7)), T(ino, 9, PLACE(.mask = 7)), T(ino, 9, PLACE(.mask = 7)),
				  T(ino, 9, PLACE(.mask = 7))}; /* object 9 is not like that */
	others[0].tier.store = 2;
	others[1].tier.object_bytes++;
	others[2].tier.n_blocks++;
	others[3].tier.sealed = other;
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		FAILS(-EUCLEAN, deliver_records(f, &others[i], 1));
	for (size_t i = 0; i < ARRAY_SIZE(misfits); i++)
		if (deliver_records(f, &misfits[i], 1) != -EUCLEAN)
			fail_msg("misfit %zu was not refused", i);
	/* What records before it in the batch leave counts. */
	const struct record punched[] = {R(ZERO, ino, .zero = {.block = 1, .n_blocks = 1, .size = 10000, .mode = ZERO_RANGE}),
					 T(ino, 10, PLACE(.mask = 3))},
			    later[] = {T(ino, 10, PLACE(.mask = 7)), T(ino, 11, PLACE(.mask = 3))};
	FAILS(-EUCLEAN, deliver_records(f, punched, 2));
	FAILS(-EUCLEAN, deliver_records(f, later, 2));
	assert_true(objects_hash(f) == before);
	/* Those that fit are taken; an object of which something is live is not forgotten by a record that says so. */
	const struct record cut[] = {R(ZERO, ino, .zero = {.n_blocks = 1, .size = 10000, .mode = ZERO_PUNCH}),
				     T(ino, 12, PLACE(.mask = 7))}; /* of a file that was cut it is not looked at */
	const struct record forget =
	    R(TIER, FS_ROOT_INO,
	      .tier = {.change = TIER_FORGET, .store = 1, .object_bytes = 8192, .n_blocks = 16, .sealed = sealed, .object = 12});
	struct object_row o;
	OK(deliver_records(f, later, 1));
	OK(objects_get(f, 9, &o));
	assert_int_equal(o.n_live, 0);
	OK(objects_get(f, 10, &o));
	assert_int_equal(o.n_live, 3);
	OK(deliver_records(f, cut, 2));
	OK(deliver_records(f, &forget, 1));
	OK(objects_get(f, 12, &o));
	assert_int_equal(o.n_live, 2); /* slots 1 and 2: with slot 0 a hole, they are all that object 10 had */
	OK(objects_get(f, 10, &o));
	assert_int_equal(o.n_live, 0);
	struct fs_check_result res = {0};
	OK(fs_check(f, true, ignore_line, NULL, &res));
	assert_int_equal(res.damaged_blocks + res.structure_errors + res.accounting_errors, 0);
#undef T
#undef PLACE
}

/* Bytes that no encoder writes, with every checksum right. */
static void names_that_cannot_be_are_refused(void **state)
{
	static const char *const bad[] = {"a/b", "/", ".", "..", "a\0b"};
	static const size_t len[] = {3, 1, 1, 2, 3};
	struct world *w = *state;
	struct fs *f = w->follower[0].fs;
	struct message m;

	ship_all(w);
	commit(f);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const struct record rec =
		    R(MKNODE, 50, .mknode = {.parent = 1, .cookie = 3, .name = {"xxxxx", len[i]}, .mode = S_IFREG});
		craft(f, point_of(f).promised, &rec, 1, &m);
		uint8_t *p = (uint8_t *)(uintptr_t)m.b.logical;
		memcpy(p + sizeof(struct record_header) + sizeof(struct body_mknode), bad[i], len[i]);
		seal_record(p);
		reseal(&m);
		FAILS(-EUCLEAN, message_deliver(f, &m));
		message_free(&m);
	}
}

static void a_batch_out_of_place_is_refused(void **state)
{
	struct world *w = *state;
	struct fs *f = w->follower[0].fs;
	struct message first, second;

	make_file(leader(w), "a");
	ship_all(w);
	make_file(leader(w), "b");
	OK(fs_sync(leader(w)));
	make_file(leader(w), "c");
	OK(fs_sync(leader(w)));
	uint64_t seq = point_of(f).applied_seq;
	OK(message_read(leader(w), &w->cursor, seq + 1, &first));
	OK(message_read(leader(w), &w->cursor, seq + 2, &second));
	FAILS(-EINVAL, message_deliver(f, &second)); /* a gap */
	OK(message_deliver(f, &first));
	FAILS(-EINVAL, message_deliver(f, &first)); /* again */
	commit(f);
	FAILS(-EINVAL, message_deliver(f, &first));
	second.b.prev_hash++;
	reseal(&second);
	FAILS(-EINVAL, message_deliver(f, &second)); /* another history */
	second.b.prev_hash--;
	reseal(&second);
	second.b.epoch--;
	FAILS(-ESTALE, message_deliver(f, &second)); /* an older leader */
	second.b.epoch++;
	OK(message_deliver(f, &second));
	FAILS(-EINVAL, message_deliver(leader(w), &second)); /* a leader takes nothing */
	FAILS(-EAGAIN, message_read(leader(w), &w->cursor, seq + 3, &first));
	FAILS(-EROFS, message_read(f, &w->follower[0].cursor, seq + 1, &first)); /* and a follower gives nothing */
	message_free(&first);
	message_free(&second);
	assert_same_tree(f, leader(w));
}

/* No leader logs a clone of what an object has; and where the trial cannot know that, the clone has holes there, and no harm is
 * done. */
static void a_clone_of_tiered_data_is_refused(void **state)
{
	struct world *w = *state;
	struct fs *f = w->follower[0].fs;
	uint64_t from = make_file(leader(w), "f"), to = make_file(leader(w), "g"), blocks;

	put_bytes(leader(w), from, 0, 160 * KIB, 1);
	OK(cold_tier(w->run.cold, leader(w), from, NULL));
	ship_all(w);
	steps_settle(f);
	OK(fs_sync(f));
	OK(tier_drop_homes(f, from, 0, 3, &blocks));
	const struct record whole[] = {R(CLONE, to, .clone = {.from = from, .from_block = 39, .n_blocks = 2, .size = 8192})};
	FAILS(-EUCLEAN, deliver_records(f, whole, 1));
	const struct record cut[] = {
	    R(ZERO, from, .zero = {.block = 1000, .n_blocks = 1, .mode = ZERO_PUNCH, .size = 160 * KIB}),
	    R(CLONE, to, .clone = {.from = from, .from_block = 30, .n_blocks = 10, .size = 10 * BLOCK_SIZE}),
	};
	OK(deliver_records(f, cut, 2));
	assert_clean(w, f);
}

/* Random damage, resealed so that it is taken for meant: refused, or applied to a volume that is still whole. */
static void whatever_is_taken_leaves_a_whole_volume(void **state)
{
	struct world *w = setup_world(state, SIM_TREE);
	struct node *n = &w->follower[0];
	struct rng rng = rng_derive(11, 2, 3);
	unsigned taken = 0, refused = 0;
	struct stream s;

	record_stream(w, 120, &s);
	for (uint64_t seq = 1; seq <= s.n; seq++) {
		for (unsigned turn = 0; turn < 12; turn++) {
			struct message m = s.m[seq];
			m.b.logical = copy_of(m.b.logical, m.b.logical_bytes);
			uint8_t *p = (uint8_t *)(uintptr_t)m.b.logical;
			size_t at = 0;
			for (unsigned i = 0; i < rng_below(&rng, m.b.n_records); i++) {
				struct record_header h;
				memcpy(&h, p + at, sizeof(h));
				at += le32_get(h.bytes);
			}
			struct record_header h;
			memcpy(&h, p + at, sizeof(h));
			if (h.type == RECORD_TIER) { /* which object it is that has the data, only the leader knows */
				free(p);
				continue;
			}
			for (unsigned i = 0; i < 1 + turn % 3; i++)
				flip(p + at, 64 + rng_below(&rng, 8 * (uint64_t)le32_get(h.bytes) - 64));
			seal_record(p + at);
			reseal(&m);
			struct simcut *c = simcut_new(n->image.store);
			simcut_advance(c, simstore_count(n->image.store));
			struct node copy = {.image.store = simcut_image(c, SIMCUT_KILL, &rng, false)};
			copy.image.index = kv_disk_at(n->image.index, simstore_count(n->image.store), copy.image.store);
			simcut_free(c);
			node_open(w, &copy);
			int r = message_deliver(copy.fs, &m);
			char why[256];
			fs_failure(copy.fs, why, sizeof(why));
			assert_string_equal(why, "");
			if (r == 0)
				assert_clean(w, copy.fs);
			taken += r == 0;
			refused += r < 0;
			node_kill(&copy);
			sim_image_free(&copy.image);
			free(p);
		}
		OK(message_deliver(n->fs, &s.m[seq]));
		commit(n->fs);
	}
	assert_true(taken > 100 && refused > 100);
	stream_free(&s);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, world_teardown)
	const struct CMUnitTest cases[] = {
	    CASE(any_flipped_bit_of_a_batch_is_refused),
	    CASE(records_that_do_not_fit_the_volume_are_refused),
	    CASE(tier_records_that_do_not_fit_are_refused),
	    CASE(names_that_cannot_be_are_refused),
	    CASE(a_batch_out_of_place_is_refused),
	    CASE(a_clone_of_tiered_data_is_refused),
	    cmocka_unit_test_teardown(whatever_is_taken_leaves_a_whole_volume, world_teardown),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(cases, NULL, NULL);
}
