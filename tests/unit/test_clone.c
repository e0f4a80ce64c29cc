/*
 * test_clone: what a clone has, and what becomes of either side: each kind of block in ranges over leaves, ends of files, what
 * still waits in the journal; and ranges that cannot be.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "share_case.h"

/* ---- each kind of block, in ranges over leaves, and what then becomes of either side ---- */

#define BLOCKS 72u
enum kind { HOLE, UNWRITTEN, STAGED, HOMED, REWRITTEN, KINDS };

struct image {
	uint64_t size;
	uint8_t byte[BLOCKS]; /* that fills the block */
};

static void fill(struct fs *fs, uint64_t ino, unsigned block, uint8_t byte, struct image *im)
{
	uint8_t p[BLOCK_SIZE];

	memset(p, byte, sizeof(p));
	OK(fs_write(fs, &root, ino, (uint64_t)block * BLOCK_SIZE, sizeof(p), p, false));
	im->byte[block] = byte;
	im->size = max_u64(im->size, (block + 1) * (uint64_t)BLOCK_SIZE);
}

/* Runs of one, two and three blocks of each kind in turn; the last one is there. */
static enum kind kind_of(unsigned block)
{
	return (enum kind)(block / (1 + block / 24) % KINDS);
}

static void make_source(struct fs *fs, uint64_t ino, struct image *im)
{
	memset(im, 0, sizeof(*im));
	for (unsigned i = 0; i < BLOCKS; i++)
		if (kind_of(i) == HOMED || kind_of(i) == REWRITTEN)
			fill(fs, ino, i, (uint8_t)(i + 1), im);
	steps_home(fs);
	for (unsigned i = 0; i < BLOCKS; i++) {
		if (kind_of(i) == STAGED || kind_of(i) == REWRITTEN)
			fill(fs, ino, i, (uint8_t)(i + 101), im);
		if (kind_of(i) == UNWRITTEN)
			OK(fs_fallocate(fs, &root, ino, FALLOC_FL_KEEP_SIZE, (uint64_t)i * BLOCK_SIZE, BLOCK_SIZE));
	}
	file_resize(fs, ino, BLOCKS * BLOCK_SIZE);
	im->size = BLOCKS * BLOCK_SIZE;
}

static void check_image(struct fs *fs, uint64_t ino, const struct image *im)
{
	_Alignas(DISK_BLOCK) uint8_t room[3 * BLOCK_SIZE], want[BLOCK_SIZE];
	struct fs_attr a;
	void *at;
	size_t len;

	OK(fs_getattr(fs, ino, &a));
	assert_int_equal(a.size, im->size);
	for (unsigned i = 0; i * BLOCK_SIZE < im->size; i++) {
		OK(fs_read(fs, ino, (uint64_t)i * BLOCK_SIZE, BLOCK_SIZE, room, &at, &len));
		memset(want, im->byte[i], sizeof(want));
		assert_memory_equal(at, want, len);
	}
}

enum after { NOTHING, OVERWRITE, OVERWRITE_MUCH, TRUNCATE, PUNCH, UNLINK, AFTERS };

/* What one side does. */
static void change(struct fs *fs, const char *name, uint64_t *ino, enum after a, struct image *im)
{
	static uint8_t much[40 * BLOCK_SIZE];

	switch (a) {
	case OVERWRITE:
		for (unsigned i = 3; i < 50; i += 4)
			fill(fs, *ino, i, 200, im);
		break;
	case OVERWRITE_MUCH: /* straight to the arena */
		memset(much, 222, sizeof(much));
		OK(fs_write(fs, &root, *ino, 5 * BLOCK_SIZE, sizeof(much), much, false));
		memset(im->byte + 5, 222, 40);
		im->size = max_u64(im->size, 45 * BLOCK_SIZE);
		break;
	case TRUNCATE:
		file_resize(fs, *ino, 21 * BLOCK_SIZE);
		memset(im->byte + 21, 0, BLOCKS - 21);
		im->size = 21 * BLOCK_SIZE;
		break;
	case PUNCH:
		OK(fs_fallocate(fs, &root, *ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * BLOCK_SIZE, 30 * BLOCK_SIZE));
		memset(im->byte + 2, 0, 30);
		break;
	case UNLINK:
		OK(fs_unlink(fs, &root, FS_ROOT_INO, name));
		steps_reap(fs);
		*ino = 0;
		break;
	case NOTHING:
	case AFTERS:
		break;
	}
}

struct pair {
	struct fs *fs;
	uint64_t ino[2];
	struct image im[2];
};
static const char *const names[] = {"a", "b"};

static void check_pair(struct pair *p)
{
	for (unsigned i = 0; i < 2; i++)
		if (p->ino[i])
			check_image(p->fs, p->ino[i], &p->im[i]);
}

static void one_pair(struct fs *fs, unsigned from, unsigned to, unsigned n, enum after x, enum after y, unsigned order)
{
	const enum after what[] = {x, y};
	struct pair p = {.fs = fs};

	p.ino[0] = make_file(fs, "a");
	p.ino[1] = make_file(fs, "b");
	make_source(fs, p.ino[0], &p.im[0]);
	fill(fs, p.ino[1], to, 250, &p.im[1]); /* goes */
	copy(fs, p.ino[0], (uint64_t)from * BLOCK_SIZE, p.ino[1], (uint64_t)to * BLOCK_SIZE, (uint64_t)n * BLOCK_SIZE);
	memcpy(p.im[1].byte + to, p.im[0].byte + from, n);
	p.im[1].size = (to + n) * (uint64_t)BLOCK_SIZE;
	check_pair(&p);
	for (unsigned k = 0; k < 2; k++) {
		unsigned i = k ^ order;

		change(fs, names[i], &p.ino[i], what[i], &p.im[i]);
		check_pair(&p);
		if (n % 2)
			steps_home(fs);
	}
	steps_home(fs);
	check_pair(&p);
	for (unsigned i = 0; i < 2; i++)
		change(fs, names[i], &p.ino[i], p.ino[i] ? UNLINK : NOTHING, &p.im[i]);
}

static void either_side_may_do_as_it_likes(void **state)
{
	static const unsigned ranges[][3] = {{0, 0, 72}, {0, 3, 65}, {7, 0, 50}, {16, 32, 33}, {5, 5, 1}, {15, 17, 18}};
	struct memvolume m;
	unsigned n = 0;

	(void)state;
	memvolume_open(&m);
	for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++)
		for (unsigned x = 0; x < AFTERS * AFTERS * 2; x++, n++) {
			one_pair(m.v.fs, ranges[i][0], ranges[i][1], ranges[i][2], x / 2 / AFTERS, x / 2 % AFTERS, x % 2);
			steps_home(m.v.fs);
			assert_int_equal(used_blocks(m.v.fs), m.base);
			assert_int_equal(reserved_blocks(m.v.fs), 0);
			assert_int_equal(count_rows(m.v.fs), 0);
			if (n % 16 == 0)
				assert_sound(m.v.fs);
			OK(fs_checkpoint(m.v.fs));
		}
	memvolume_close(&m);
}

/* ---- the rest ---- */

static void a_clone_takes_no_space_and_its_last_block_need_not_be_whole(void **state)
{
	static const uint64_t sizes[] = {1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 300 * KIB + 17, 20 * MIB + 5};
	uint8_t *p = malloc(MIB);
	struct memvolume m;

	(void)state;
	memvolume_open(&m);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint64_t from = make_file(m.v.fs, "a"), to = make_file(m.v.fs, "b");
		struct fs_attr a;

		for (uint64_t at = 0; at < sizes[i]; at += MIB) {
			memset(p, (int)(at / MIB) + 1, MIB);
			OK(fs_write(m.v.fs, &root, from, at, min_u64(MIB, sizes[i] - at), p, false));
		}
		steps_home(m.v.fs);
		uint64_t was = used_blocks(m.v.fs);
		copy(m.v.fs, from, 0, to, 0, sizes[i]);
		steps_home(m.v.fs);
		assert_int_equal(used_blocks(m.v.fs), was);
		OK(fs_getattr(m.v.fs, to, &a));
		assert_int_equal(a.size, sizes[i]);
		assert_int_equal(a.blocks_512, div_round_up(sizes[i], BLOCK_SIZE) * (BLOCK_SIZE / 512));
		assert_sound(m.v.fs);
		/* Bytes behind the end of a file were and are zeros. */
		file_resize(m.v.fs, to, sizes[i] + 100);
		void *at;
		size_t len;
		_Alignas(DISK_BLOCK) uint8_t room[4 * BLOCK_SIZE];
		OK(fs_read(m.v.fs, to, sizes[i], 100, room, &at, &len));
		for (unsigned k = 0; k < len; k++)
			assert_int_equal(((uint8_t *)at)[k], 0);
		OK(fs_unlink(m.v.fs, &root, FS_ROOT_INO, "a"));
		OK(fs_unlink(m.v.fs, &root, FS_ROOT_INO, "b"));
		steps_reap(m.v.fs);
		OK(fs_checkpoint(m.v.fs));
	}
	memvolume_close(&m);
	free(p);
}

static void what_waits_in_the_journal_comes_home_first_when_it_is_much(void **state)
{
	uint8_t p[BLOCK_SIZE] = {1};
	struct memvolume m;

	(void)state;
	memvolume_open(&m);
	uint64_t from = make_file(m.v.fs, "a"), to = make_file(m.v.fs, "b");
	for (unsigned i = 0; i < 40; i++)
		OK(fs_write(m.v.fs, &root, from, i * BLOCK_SIZE, sizeof(p), p, false));
	copy(m.v.fs, from, 0, to, 0, 40 * BLOCK_SIZE);
	steps_home(m.v.fs);
	assert_int_equal(used_blocks(m.v.fs), m.base + 40);
	for (unsigned i = 0; i < 7; i++)
		OK(fs_write(m.v.fs, &root, from, i * BLOCK_SIZE, sizeof(p), p, false));
	copy(m.v.fs, from, 0, to, 0, 40 * BLOCK_SIZE);
	assert_int_equal(reserved_blocks(m.v.fs), 14);
	steps_home(m.v.fs);
	assert_int_equal(used_blocks(m.v.fs), m.base + 47);
	copy(m.v.fs, from, 0, to, 0, 40 * BLOCK_SIZE); /* once more: now they are the same again */
	assert_int_equal(used_blocks(m.v.fs), m.base + 40);
	assert_sound(m.v.fs);
	memvolume_close(&m);
}

static void while_a_view_is_open_copies_are_written(void **state)
{
	static uint8_t p[100 * KIB];
	struct memvolume m;

	(void)state;
	memvolume_open(&m);
	uint64_t from = make_file(m.v.fs, "a"), to = make_file(m.v.fs, "b");
	OK(fs_write(m.v.fs, &root, from, 0, sizeof(p), p, false));
	steps_home(m.v.fs);
	struct replica_volume *v = fs_replica(m.v.fs);
	struct replica_view_info info;
	struct replica_view *view;
	OK(v->ops->view_open(v, &view, &info));
	copy(m.v.fs, from, 0, to, 0, sizeof(p));
	steps_home(m.v.fs);
	assert_int_equal(used_blocks(m.v.fs), m.base + 50);
	v->ops->view_close(view);
	copy(m.v.fs, from, 0, to, 0, sizeof(p));
	assert_int_equal(used_blocks(m.v.fs), m.base + 25);
	memvolume_close(&m);
}

static void ranges_that_cannot_be_are_refused(void **state)
{
	uint8_t p[3 * BLOCK_SIZE] = {1};
	struct memvolume m;
	struct fs_attr dir;
	size_t n;

	(void)state;
	memvolume_open(&m);
	uint64_t ino = make_file(m.v.fs, "a");
	OK(fs_mknod(m.v.fs, &root, FS_ROOT_INO, "d", S_IFDIR | 0755, 0, &dir));
	OK(fs_write(m.v.fs, &root, ino, 0, sizeof(p), p, false));
#define REFUSED(error, ...) assert_int_equal(fs_copy_range(m.v.fs, &root, __VA_ARGS__, &n), -(error))
	REFUSED(EINVAL, ino, 0, ino, BLOCK_SIZE, 2 * BLOCK_SIZE);
	REFUSED(EINVAL, ino, BLOCK_SIZE, ino, 0, BLOCK_SIZE + 1);
	REFUSED(EFBIG, ino, 0, ino, FILE_SIZE_MAX - BLOCK_SIZE + 1, BLOCK_SIZE);
	REFUSED(EISDIR, dir.ino, 0, ino, 0, BLOCK_SIZE);
	REFUSED(EISDIR, ino, 0, dir.ino, 0, BLOCK_SIZE);
	REFUSED(ENOENT, ino + 1000, 0, ino, 0, BLOCK_SIZE);
#undef REFUSED
	OK(fs_copy_range(m.v.fs, &root, ino, sizeof(p), ino, 8 * BLOCK_SIZE, 5, &n)); /* behind the end */
	assert_int_equal(n, 0);
	OK(fs_copy_range(m.v.fs, &root, ino, 0, ino, 8 * BLOCK_SIZE, 0, &n));
	assert_int_equal(n, 0);
	OK(fs_copy_range(m.v.fs, &root, ino, BLOCK_SIZE, ino, 0, BLOCK_SIZE, &n)); /* side by side */
	assert_int_equal(n, BLOCK_SIZE);
	memvolume_close(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(either_side_may_do_as_it_likes),
	    cmocka_unit_test(a_clone_takes_no_space_and_its_last_block_need_not_be_whole),
	    cmocka_unit_test(what_waits_in_the_journal_comes_home_first_when_it_is_much),
	    cmocka_unit_test(while_a_view_is_open_copies_are_written),
	    cmocka_unit_test(ranges_that_cannot_be_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
