/*
 * test_acl.c: acl.h: how an ACL and the mode follow each other, what a new file inherits, and that bytes which are no ACL are
 * refused.  The bytes are the kernel's (linux/posix_acl_xattr.h), written out here once more.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/le.h"
#include "fs/core/acl.h"
#include "tests/lib/rng.h"
#include "tests/unit/tempdir.h"

enum { USER_OBJ = 0x01, USER = 0x02, GROUP_OBJ = 0x04, GROUP = 0x08, MASK = 0x10, OTHER = 0x20 };

struct acl {
	uint8_t b[ACL_BYTES_MAX + 8];
	size_t len;
};

static void acl_begin(struct acl *a)
{
	memcpy(a->b, le32_make(2).b, 4);
	a->len = 4;
}

static void acl_add(struct acl *a, unsigned tag, unsigned perm, uint32_t id)
{
	memcpy(a->b + a->len, le16_make((uint16_t)tag).b, 2);
	memcpy(a->b + a->len + 2, le16_make((uint16_t)perm).b, 2);
	memcpy(a->b + a->len + 4, le32_make(id).b, 4);
	a->len += 8;
}

static unsigned perm_at(const struct acl *a, size_t entry)
{
	return a->b[4 + 8 * entry + 2];
}

static struct acl three(unsigned user, unsigned group, unsigned other)
{
	struct acl a;

	acl_begin(&a);
	acl_add(&a, USER_OBJ, user, UINT32_MAX);
	acl_add(&a, GROUP_OBJ, group, UINT32_MAX);
	acl_add(&a, OTHER, other, UINT32_MAX);
	return a;
}

/* user:rwx user:1000:rw- group:r-x group:100:-wx mask:`mask` other:r-- */
static struct acl full(unsigned mask)
{
	struct acl a;

	acl_begin(&a);
	acl_add(&a, USER_OBJ, 7, UINT32_MAX);
	acl_add(&a, USER, 6, 1000);
	acl_add(&a, GROUP_OBJ, 5, UINT32_MAX);
	acl_add(&a, GROUP, 3, 100);
	acl_add(&a, MASK, mask, UINT32_MAX);
	acl_add(&a, OTHER, 4, UINT32_MAX);
	return a;
}

static void three_entries_are_the_mode(void **state)
{
	(void)state;
	for (uint32_t bits = 0; bits <= 0777; bits++) {
		struct acl a = three(bits >> 6 & 7, bits >> 3 & 7, bits & 7);
		uint32_t mode = S_IFREG | S_ISGID | 0123;
		bool minimal = false;

		assert_int_equal(acl_to_mode(a.b, a.len, &mode, &minimal), 0);
		assert_int_equal(mode, S_IFREG | S_ISGID | bits);
		assert_true(minimal);
	}
}

static void the_group_bits_show_the_mask(void **state)
{
	(void)state;
	for (unsigned mask = 0; mask < 8; mask++) {
		struct acl a = full(mask);
		uint32_t mode = S_IFDIR | S_ISVTX;
		bool minimal = true;

		assert_int_equal(acl_to_mode(a.b, a.len, &mode, &minimal), 0);
		assert_int_equal(mode, S_IFDIR | S_ISVTX | 0700 | mask << 3 | 04);
		assert_false(minimal);
	}
}

static void a_mask_alone_says_more_than_the_mode(void **state)
{
	struct acl a = three(6, 4, 4);
	uint32_t mode = S_IFREG;
	bool minimal = true;

	(void)state;
	acl_add(&a, MASK, 7, UINT32_MAX);
	assert_int_equal(acl_to_mode(a.b, a.len, &mode, &minimal), 0);
	assert_int_equal(mode, S_IFREG | 0674);
	assert_false(minimal);
}

static void chmod_writes_the_classes_and_nothing_else(void **state)
{
	struct acl a = three(0, 0, 0), b = full(0);

	(void)state;
	assert_int_equal(acl_set_mode(a.b, a.len, S_IFREG | 04751), 0);
	assert_int_equal(perm_at(&a, 0), 7);
	assert_int_equal(perm_at(&a, 1), 5);
	assert_int_equal(perm_at(&a, 2), 1);
	assert_int_equal(acl_set_mode(b.b, b.len, 0625), 0);
	const unsigned want[] = {6, 6, 5, 3, 2, 5}; /* the mask takes the group's bits */
	for (size_t i = 0; i < ARRAY_SIZE(want); i++)
		assert_int_equal(perm_at(&b, i), want[i]);
}

static void chmod_and_the_mode_shown_agree(void **state)
{
	(void)state;
	for (uint32_t bits = 0; bits <= 0777; bits++) {
		struct acl a = full(7);
		uint32_t mode = S_IFREG;
		bool minimal;

		assert_int_equal(acl_set_mode(a.b, a.len, bits), 0);
		assert_int_equal(acl_to_mode(a.b, a.len, &mode, &minimal), 0);
		assert_int_equal(mode, S_IFREG | bits);
	}
}

static void a_new_file_gets_what_both_the_default_and_the_caller_allow(void **state)
{
	struct acl a = full(6), b = three(7, 5, 5);
	uint32_t mode = S_IFREG | 0666;
	bool minimal = true;

	(void)state;
	assert_int_equal(acl_inherit(a.b, a.len, &mode, &minimal), 0);
	assert_int_equal(mode, S_IFREG | 0664);
	assert_false(minimal);
	const unsigned want[] = {6, 6, 5, 3, 6, 4}; /* named entries and the owning group stay: the mask limits them */
	for (size_t i = 0; i < ARRAY_SIZE(want); i++)
		assert_int_equal(perm_at(&a, i), want[i]);

	mode = S_IFDIR | S_ISGID | 0770;
	assert_int_equal(acl_inherit(b.b, b.len, &mode, &minimal), 0);
	assert_int_equal(mode, S_IFDIR | S_ISGID | 0750);
	assert_true(minimal);
	assert_int_equal(perm_at(&b, 1), 5);
	assert_int_equal(perm_at(&b, 2), 0);
}

static void inheriting_never_widens(void **state)
{
	(void)state;
	for (uint32_t want = 0; want <= 0777; want++) {
		struct acl a = full((want * 5 + 3) & 7);
		uint32_t mode = want, shown = 0, could = 0;
		bool minimal;

		assert_int_equal(acl_to_mode(a.b, a.len, &could, &minimal), 0);
		assert_int_equal(acl_inherit(a.b, a.len, &mode, &minimal), 0);
		assert_int_equal(mode, want & could);
		assert_int_equal(acl_to_mode(a.b, a.len, &shown, &minimal), 0);
		assert_int_equal(shown, mode);
	}
}

/* All three refuse, and leave the mode alone. */
static void refuse(struct acl *a)
{
	uint8_t before[sizeof(a->b)];
	uint32_t mode = 0640;
	bool minimal;

	memcpy(before, a->b, sizeof(before));
	assert_int_equal(acl_to_mode(a->b, a->len, &mode, &minimal), -EINVAL);
	assert_int_equal(acl_inherit(a->b, a->len, &mode, &minimal), -EINVAL);
	assert_int_equal(acl_set_mode(a->b, a->len, 0777), -EINVAL);
	assert_int_equal(mode, 0640);
	assert_memory_equal(a->b, before, sizeof(before));
}

static void what_is_no_acl_is_refused(void **state)
{
	struct acl a;

	(void)state;
	memset(&a, 0, sizeof(a));
	refuse(&a); /* no bytes at all */
	acl_begin(&a);
	refuse(&a); /* no entries */
	for (size_t len = 0; len < 4 + 6 * 8; len++) {
		a = full(7);
		a.len = len;
		refuse(&a);
	}
	a = full(7);
	a.b[0] = 1; /* an older version */
	refuse(&a);
	a = three(7, 8, 0); /* a permission that is none */
	refuse(&a);
	a = three(7, 7, 7);
	acl_add(&a, 0x40, 0, 0); /* a tag that is none */
	refuse(&a);
	a = three(7, 7, 7);
	acl_add(&a, OTHER, 0, 0); /* twice */
	refuse(&a);
	a = three(7, 7, 7);
	acl_add(&a, USER, 0, 1); /* named, without a mask */
	refuse(&a);
	a = full(7);
	for (size_t at = 0; at < 6; at += at == 0 ? 2 : 3) { /* without owner, group, others */
		a = full(7);
		a.b[4 + 8 * at] = USER;
		refuse(&a);
	}
}

static void the_longest_acl_is_taken_and_one_entry_more_is_not(void **state)
{
	struct acl a = three(7, 7, 7);
	uint32_t mode = 0;
	bool minimal;

	(void)state;
	acl_add(&a, MASK, 7, UINT32_MAX);
	for (uint32_t id = 0; a.len < ACL_BYTES_MAX; id++)
		acl_add(&a, USER, 7, id);
	assert_int_equal(a.len, ACL_BYTES_MAX);
	assert_int_equal(acl_to_mode(a.b, a.len, &mode, &minimal), 0);
	a.len = ACL_BYTES_MAX - 8; /* the last entry once more, in bounds of the buffer but beyond the limit */
	acl_add(&a, USER, 7, 1);
	a.len += 8;
	memset(a.b + ACL_BYTES_MAX, 0, 8);
	refuse(&a);
}

/* Random bytes in the place of entries: no read outside, and the three functions are of one mind. */
static void random_bytes_are_judged_alike(void **state)
{
	struct rng g = {.state = test_seed(1)};
	unsigned taken = 0;

	(void)state;
	for (unsigned n = 0; n < 100000; n++) {
		struct acl a;
		uint32_t mode = 0, inherited = 0777;
		bool minimal;

		acl_begin(&a);
		for (uint64_t entries = rng_below(&g, 7); entries > 0; entries--)
			acl_add(&a, 1u << rng_below(&g, 6), (unsigned)rng_below(&g, rng_percent(&g, 5) ? 9 : 8),
				(uint32_t)rng_u64(&g));
		if (rng_percent(&g, 5))
			a.b[rng_below(&g, a.len)] ^= (uint8_t)(1u << rng_below(&g, 8));
		int r = acl_to_mode(a.b, a.len, &mode, &minimal);
		assert_true(r == 0 || r == -EINVAL);
		struct acl b = a;
		assert_int_equal(acl_inherit(b.b, b.len, &inherited, &minimal), r);
		assert_int_equal(acl_set_mode(a.b, a.len, 0750), r);
		taken += r == 0;
		if (r == 0)
			assert_int_equal(inherited, mode);
	}
	assert_true(taken > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(three_entries_are_the_mode),
	    cmocka_unit_test(the_group_bits_show_the_mask),
	    cmocka_unit_test(a_mask_alone_says_more_than_the_mode),
	    cmocka_unit_test(chmod_writes_the_classes_and_nothing_else),
	    cmocka_unit_test(chmod_and_the_mode_shown_agree),
	    cmocka_unit_test(a_new_file_gets_what_both_the_default_and_the_caller_allow),
	    cmocka_unit_test(inheriting_never_widens),
	    cmocka_unit_test(what_is_no_acl_is_refused),
	    cmocka_unit_test(the_longest_acl_is_taken_and_one_entry_more_is_not),
	    cmocka_unit_test(random_bytes_are_judged_alike),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
