/* test_super.c: the superblock's two copies under every single damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/store/super.h"
#include "fs/store/super_format.h"
#include "tests/unit/tempdir.h"

struct fixture {
	char dir[256], path[300];
	struct store *store;
	struct super s;
	uint8_t image[2 * SUPER_BYTES];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	tempdir_make(f->dir);
	snprintf(f->path, sizeof(f->path), "%s/super", f->dir);
	assert_int_equal(store_posix_open(f->dir, false, &f->store), 0);
	f->s = (struct super){.generation = 6,
			      .node_id = 65535,
			      .fence = UINT64_MAX - 1,
			      .window = UINT64_MAX - 2,
			      .cut = UINT64_MAX - 3,
			      .cut_incarnation = 9,
			      .follower = true,
			      .resyncing = true,
			      .save = true,
			      .differs = true,
			      .epoch = 3,
			      .offered = UINT64_MAX - 2,
			      .incarnation = 9,
			      .clean = true,
			      .journal_segments = 16,
			      .journal_segment_kib = 65536,
			      .chunk_kib = 1048576,
			      .max_blocks = UINT64_MAX,
			      .host_reserve = 123 * MIB,
			      .created_ns = -5,
			      .compat = 1,
			      .ro_compat = 2,
			      .incompat = 4,
			      .label = "sixty-four bytes of label, the most there can be, with no end..!"};
	assert_int_equal(strlen(f->s.label), 64);
	assert_int_equal(uuid_random(f->s.volume), 0);
	assert_int_equal(uuid_random(f->s.node), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	store_close(f->store);
	tempdir_remove(f->dir);
	free(f);
	return 0;
}

static void image_get(struct fixture *f)
{
	int fd = open(f->path, O_RDONLY);

	assert_int_equal(pread(fd, f->image, sizeof(f->image), 0), sizeof(f->image));
	close(fd);
}

static void image_put(struct fixture *f)
{
	int fd = open(f->path, O_WRONLY | O_CREAT, 0600);

	assert_int_equal(pwrite(fd, f->image, sizeof(f->image), 0), sizeof(f->image));
	close(fd);
}

static void reseal(struct fixture *f, unsigned copy)
{
	struct super_block *b = (struct super_block *)(f->image + copy * SUPER_BYTES);

	b->crc = le32_make(crc32c(0, b, offsetof(struct super_block, crc)));
}

static void assert_same(const struct super *a, const struct super *b)
{
	assert_memory_equal(a->volume, b->volume, 16);
	assert_memory_equal(a->node, b->node, 16);
	assert_string_equal(a->label, b->label);
	assert_int_equal(a->epoch, b->epoch);
	assert_int_equal(a->incarnation, b->incarnation);
	assert_int_equal(a->clean, b->clean);
	assert_int_equal(a->node_id, b->node_id);
	assert_int_equal(a->fence, b->fence);
	assert_int_equal(a->offered, b->offered);
	assert_int_equal(a->window, b->window);
	assert_int_equal(a->cut, b->cut);
	assert_int_equal(a->cut_incarnation, b->cut_incarnation);
	assert_int_equal(a->follower, b->follower);
	assert_int_equal(a->resyncing, b->resyncing);
	assert_int_equal(a->save, b->save);
	assert_int_equal(a->differs, b->differs);
	assert_int_equal(a->journal_segments, b->journal_segments);
	assert_int_equal(a->journal_segment_kib, b->journal_segment_kib);
	assert_int_equal(a->chunk_kib, b->chunk_kib);
	assert_int_equal(a->max_blocks, b->max_blocks);
	assert_int_equal(a->host_reserve, b->host_reserve);
	assert_int_equal(a->created_ns, b->created_ns);
	assert_true(a->compat == b->compat && a->ro_compat == b->ro_compat && a->incompat == b->incompat);
}

static void created_and_written_reads_back(void **state)
{
	struct fixture *f = *state;
	struct super s;

	assert_int_equal(super_read(f->store, &s), -ENODATA);
	assert_int_equal(super_create(f->store, &f->s), 0);
	assert_int_equal(super_create(f->store, &f->s), -EEXIST);
	assert_int_equal(super_read(f->store, &s), 0);
	assert_same(&s, &f->s);
	assert_int_equal(s.version, SUPER_FORMAT_VERSION);
	assert_true(s.copy_valid[0] && s.copy_valid[1]);
	for (int i = 0; i < 5; i++) {
		uint64_t generation = s.generation;
		s.incarnation++;
		s.clean = !s.clean;
		assert_int_equal(super_write(f->store, &s), 0);
		assert_int_equal(s.generation, generation + 1);
		struct super again;
		assert_int_equal(super_read(f->store, &again), 0);
		assert_int_equal(again.generation, s.generation);
		assert_same(&again, &s);
	}
}

static void any_flipped_bit_of_one_copy_leaves_the_other_serving(void **state)
{
	struct fixture *f = *state;
	struct super s, old, copy;

	/* Two copies that differ: written once more, so the older says something else. */
	assert_int_equal(super_create(f->store, &f->s), 0);
	assert_int_equal(super_read(f->store, &old), 0);
	s = old;
	s.incarnation = 77;
	assert_int_equal(super_write(f->store, &s), 0);
	image_get(f);
	/* In memory each bit; through the file, where a read costs more, one in 61. */
	for (unsigned bit = 0; bit < 2 * SUPER_BYTES * 8; bit++) {
		unsigned which = bit / (SUPER_BYTES * 8);
		f->image[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(super_decode(f->image + which * SUPER_BYTES, &copy), -EBADMSG);
		if (bit % 61 == 0) {
			image_put(f);
			assert_int_equal(super_read(f->store, &copy), 0);
			assert_same(&copy, which == s.generation % 2 ? &old : &s);
			assert_int_equal(copy.copy_valid[which], false);
			assert_int_equal(copy.copy_valid[!which], true);
		}
		f->image[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
}

static void both_copies_damaged_is_refused(void **state)
{
	struct fixture *f = *state;
	struct super s;

	assert_int_equal(super_create(f->store, &f->s), 0);
	image_get(f);
	f->image[100] ^= 1;
	f->image[SUPER_BYTES + 4095] ^= 128;
	image_put(f);
	assert_int_equal(super_read(f->store, &s), -EBADMSG);
	memset(f->image, 0, sizeof(f->image));
	image_put(f);
	assert_int_equal(super_read(f->store, &s), -EBADMSG);
}

static void a_file_cut_short_serves_its_first_copy(void **state)
{
	struct fixture *f = *state;
	struct super s;

	assert_int_equal(super_create(f->store, &f->s), 0);
	assert_int_equal(truncate(f->path, SUPER_BYTES), 0);
	assert_int_equal(super_read(f->store, &s), 0);
	assert_true(s.copy_valid[0] && !s.copy_valid[1]);
	assert_int_equal(truncate(f->path, 100), 0);
	assert_int_equal(super_read(f->store, &s), -EBADMSG);
}

static void a_newer_version_is_refused_even_beside_an_old_copy(void **state)
{
	struct fixture *f = *state;
	struct super s;

	assert_int_equal(super_create(f->store, &f->s), 0);
	image_get(f);
	for (unsigned copy = 0; copy < 2; copy++) {
		struct super_block *b = (struct super_block *)(f->image + copy * SUPER_BYTES);
		b->version = le32_make(SUPER_FORMAT_VERSION + 1);
		reseal(f, copy);
		assert_int_equal(super_decode(b, &s), -EPROTONOSUPPORT);
		image_put(f);
		assert_int_equal(super_read(f->store, &s), -EPROTONOSUPPORT);
		b->version = le32_make(SUPER_FORMAT_VERSION);
		reseal(f, copy);
	}
	image_put(f);
	assert_int_equal(super_read(f->store, &s), 0);
}

static void impossible_geometry_is_refused(void **state)
{
	struct fixture *f = *state;
	struct super s;

	assert_int_equal(super_create(f->store, &f->s), 0);
	image_get(f);
	struct super_block *b = (struct super_block *)f->image;
	struct {
		le32 *field;
		uint32_t bad;
	} cases[] = {
	    {&b->journal_segments, 1},    {&b->journal_segments, 4097}, {&b->journal_segment_kib, 0},
	    {&b->journal_segment_kib, 6}, {&b->chunk_kib, 0},           {&b->chunk_kib, 300},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		le32 good = *cases[i].field;
		*cases[i].field = le32_make(cases[i].bad);
		reseal(f, 0);
		assert_int_equal(super_decode(b, &s), -EUCLEAN);
		*cases[i].field = good;
	}
	b->max_blocks = le64_make(0);
	reseal(f, 0);
	f->image[SUPER_BYTES] ^= 1;
	image_put(f);
	assert_int_equal(super_read(f->store, &s), -EUCLEAN);
}

/* Each flag alone, so that none is taken for another. */
static void every_flag_reads_back_alone(void **state)
{
	struct fixture *f = *state;
	struct super s, got;

	f->s.clean = f->s.follower = f->s.resyncing = f->s.save = f->s.differs = false;
	f->s.fence = f->s.window = 0;
	assert_int_equal(super_create(f->store, &f->s), 0);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(super_read(f->store, &s), 0);
		s.follower = i > 0;
		s.clean = i == 0;
		s.resyncing = i == 2;
		s.save = i == 3;
		s.differs = i == 4;
		assert_int_equal(super_write(f->store, &s), 0);
		assert_int_equal(super_read(f->store, &got), 0);
		assert_same(&got, &s);
	}
}

static void a_superblock_without_node_id_is_that_of_node_1_and_leads(void **state)
{
	struct fixture *f = *state;
	struct super s;

	f->s.node_id = 0;
	f->s.fence = f->s.window = 0;
	f->s.follower = f->s.resyncing = f->s.save = f->s.differs = false;
	assert_int_equal(super_create(f->store, &f->s), 0);
	assert_int_equal(super_read(f->store, &s), 0);
	assert_int_equal(s.node_id, 1);
	assert_false(s.follower);
}

static void what_only_a_follower_can_be_is_refused_of_a_leader(void **state)
{
	struct fixture *f = *state;
	struct super_block *b = (struct super_block *)f->image;
	const uint64_t flags[] = {SUPER_RESYNCING, SUPER_SAVE, SUPER_DIFFERS};
	struct super s;

	f->s.fence = f->s.window = 0;
	assert_int_equal(super_create(f->store, &f->s), 0);
	image_get(f);
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		b->flags = le64_make(flags[i] | SUPER_FOLLOWER);
		reseal(f, 0);
		assert_int_equal(super_decode(b, &s), 0);
		b->flags = le64_make(flags[i]);
		reseal(f, 0);
		assert_int_equal(super_decode(b, &s), -EUCLEAN);
	}
	b->flags = le64_make(0);
	b->fence = le64_make(1);
	reseal(f, 0);
	assert_int_equal(super_decode(b, &s), -EUCLEAN);
	b->fence = le64_make(0);
	b->node_id = le32_make(65536);
	reseal(f, 0);
	assert_int_equal(super_decode(b, &s), -EUCLEAN);
}

static void a_window_or_cut_that_cannot_be_is_refused(void **state)
{
	struct fixture *f = *state;
	struct super_block *b = (struct super_block *)f->image;
	const struct {
		uint64_t fence, window, cut, cut_incarnation;
		int result;
	} cases[] = {{5, 5, 0, 0, 0},        {5, 6, 0, 0, -EUCLEAN}, {0, 1, 0, 0, -EUCLEAN}, {0, 0, 7, 9, 0},
		     {0, 0, 7, 0, -EUCLEAN}, {0, 0, 0, 9, -EUCLEAN}, {0, 0, 7, 10, -EUCLEAN}};
	struct super s;

	assert_int_equal(super_create(f->store, &f->s), 0);
	image_get(f);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		b->fence = le64_make(cases[i].fence);
		b->window = le64_make(cases[i].window);
		b->cut = le64_make(cases[i].cut);
		b->cut_incarnation = le64_make(cases[i].cut_incarnation);
		reseal(f, 0);
		assert_int_equal(super_decode(b, &s), cases[i].result);
	}
}

static void an_offer_is_above_what_is_promised(void **state)
{
	struct fixture *f = *state;
	struct super_block *b = (struct super_block *)f->image;
	struct super s;

	assert_int_equal(super_create(f->store, &f->s), 0);
	image_get(f);
	for (uint64_t offered = 0; offered <= f->s.epoch + 1; offered++) {
		b->offered = le64_make(offered);
		reseal(f, 0);
		assert_int_equal(super_decode(b, &s), offered && offered <= f->s.epoch ? -EUCLEAN : 0);
	}
}

static void a_copy_in_the_wrong_place_does_not_count(void **state)
{
	struct fixture *f = *state;
	struct super s;

	assert_int_equal(super_create(f->store, &f->s), 0);
	image_get(f);
	memcpy(f->image, f->image + SUPER_BYTES, SUPER_BYTES);
	image_put(f);
	assert_int_equal(super_read(f->store, &s), 0);
	assert_true(!s.copy_valid[0] && s.copy_valid[1]);
}

/* Of the sectors being written any set may be on disk: every prefix, every suffix, every single one. */
static void a_write_torn_at_any_sector_leaves_old_or_new(void **state)
{
	struct fixture *f = *state;
	uint8_t before[2 * SUPER_BYTES], after[2 * SUPER_BYTES];
	struct super old, s, got;

	assert_int_equal(super_create(f->store, &f->s), 0);
	assert_int_equal(super_read(f->store, &old), 0);
	image_get(f);
	memcpy(before, f->image, sizeof(before));
	s = old;
	s.incarnation = 78;
	assert_int_equal(super_write(f->store, &s), 0);
	image_get(f);
	memcpy(after, f->image, sizeof(after));
	unsigned copy = s.generation % 2;
	assert_memory_equal(before + !copy * SUPER_BYTES, after + !copy * SUPER_BYTES, SUPER_BYTES);
	for (unsigned mask = 0; mask < 256; mask++) {
		memcpy(f->image, before, sizeof(before));
		for (unsigned sector = 0; sector < 8; sector++)
			if (mask >> sector & 1)
				memcpy(f->image + copy * SUPER_BYTES + sector * 512, after + copy * SUPER_BYTES + sector * 512,
				       512);
		image_put(f);
		assert_int_equal(super_read(f->store, &got), 0);
		assert_true(got.incarnation == 78 || got.incarnation == old.incarnation);
		/* The first and last sectors differ, those between are all zeros. */
		assert_int_equal(got.incarnation == 78, (mask & 0x81) == 0x81);
		/* And the next write repairs. */
		if (mask % 16 == 1) {
			assert_int_equal(super_write(f->store, &got), 0);
			struct super again;
			assert_int_equal(super_read(f->store, &again), 0);
			assert_true(again.copy_valid[0] && again.copy_valid[1]);
		}
	}
}

static void uuids_are_random_and_well_formed(void **state)
{
	static const uint8_t fixed[16] = {0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6, 7, 0xff};
	uint8_t a[16], b[16];
	char text[UUID_TEXT];

	(void)state;
	assert_int_equal(uuid_random(a), 0);
	assert_int_equal(uuid_random(b), 0);
	assert_memory_not_equal(a, b, 16);
	assert_int_equal(a[6] >> 4, 4);
	assert_int_equal(a[8] >> 6, 2);
	uuid_text(fixed, text);
	assert_string_equal(text, "12345678-9abc-def0-0102-0304050607ff");
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest cases[] = {
	    CASE(created_and_written_reads_back),
	    CASE(any_flipped_bit_of_one_copy_leaves_the_other_serving),
	    CASE(both_copies_damaged_is_refused),
	    CASE(a_file_cut_short_serves_its_first_copy),
	    CASE(a_newer_version_is_refused_even_beside_an_old_copy),
	    CASE(impossible_geometry_is_refused),
	    CASE(every_flag_reads_back_alone),
	    CASE(a_superblock_without_node_id_is_that_of_node_1_and_leads),
	    CASE(what_only_a_follower_can_be_is_refused_of_a_leader),
	    CASE(a_window_or_cut_that_cannot_be_is_refused),
	    CASE(an_offer_is_above_what_is_promised),
	    CASE(a_copy_in_the_wrong_place_does_not_count),
	    CASE(a_write_torn_at_any_sector_leaves_old_or_new),
	    cmocka_unit_test(uuids_are_random_and_well_formed),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(cases, NULL, NULL);
}
