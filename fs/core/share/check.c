/*
 * check.c: what fsck compares of shared blocks: table R with the references that it counts in the leaves of the live tree.
 *
 * The first reference to a home costs a bit, in the caller's map; each further one is kept as its pointer.  Sorted, they come in
 * the order of the table, and one walk over both finds what only one of them has.
 */
#include <errno.h>
#include <string.h>

#include "fs/core/index.h"
#include "fs/core/share/share.h"

struct share_check {
	uint64_t *marked; /* a bit a block: the first slot that has it bears the mark */
	uint64_t n_blocks;
	pointer_t *more; /* references beyond the first */
	size_t n, cap;
};

int share_check_new(uint64_t n_blocks, struct share_check **ret)
{
	struct share_check *c = calloc(1, sizeof(*c));

	if (c)
		c->marked = calloc(n_blocks / 64 + 1, sizeof(*c->marked));
	if (!c || !c->marked) {
		free(c);
		return -ENOMEM;
	}
	c->n_blocks = n_blocks;
	*ret = c;
	return 0;
}

struct share_check *share_check_free(struct share_check *c)
{
	if (!c)
		return NULL;
	free(c->marked);
	free(c->more);
	free(c);
	return NULL;
}

static int add(struct share_check *c, pointer_t home)
{
	if (c->n == c->cap) {
		size_t cap = c->cap ? c->cap * 2 : 1024;
		pointer_t *more = realloc(c->more, cap * sizeof(*more));

		if (!more)
			return -ENOMEM;
		c->more = more;
		c->cap = cap;
	}
	c->more[c->n++] = home;
	return 0;
}

int share_check_see(struct share_check *c, pointer_t home, bool seen, bool marked, bool *ret_ok)
{
	uint64_t b = pointer_block(home), bit = UINT64_C(1) << (b % 64);

	*ret_ok = !seen || (marked && (c->marked[b / 64] & bit));
	if (seen)
		return add(c, home);
	if (marked)
		c->marked[b / 64] |= bit;
	return 0;
}

static int by_number(const void *a, const void *b)
{
	const pointer_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* How often the next pointer is there; it is passed over. */
static uint64_t take(const struct share_check *c, size_t *at, pointer_t *ret)
{
	size_t first = *at;

	*ret = c->more[first];
	while (*at < c->n && c->more[*at] == *ret)
		(*at)++;
	return *at - first;
}

/* False: no row of a home. */
static bool decode_row(struct slice key, struct slice value, pointer_t *ret_home, uint64_t *ret_n)
{
	le32 n;

	*ret_n = UINT64_MAX;
	*ret_home = key.len == 9 ? be64_get((const uint8_t *)key.p + 1) : 0;
	if (key.len != 9 || value.len != sizeof(n))
		return false;
	memcpy(&n, value.p, sizeof(n));
	if (le32_get(n))
		*ret_n = le32_get(n);
	return true;
}

int share_check_rows(struct share_check *c, struct fs *fs,
		     void (*found)(void *ctx, pointer_t home, uint64_t row, uint64_t counted), void *ctx)
{
	static const uint8_t first[] = {TABLE_SHARED};
	const struct kv_ops *ops = fs->kv->ops;
	struct kv_iter *it;
	size_t at = 0;
	int r = ops->iter_open(fs->kv, &it);

	if (r < 0)
		return r;
	if (c->n)
		qsort(c->more, c->n, sizeof(*c->more), by_number);
	for (ops->iter_seek(it, (struct slice){first, 1}); ops->iter_valid(it); ops->iter_next(it)) {
		struct slice key = ops->iter_key(it);
		pointer_t home, next;
		uint64_t row, n = 0;

		if (*(const uint8_t *)key.p != TABLE_SHARED)
			break;
		bool whole = decode_row(key, ops->iter_value(it), &home, &row);
		while (whole && at < c->n && c->more[at] < home) {
			n = take(c, &at, &next);
			found(ctx, next, 0, n);
		}
		n = whole && at < c->n && c->more[at] == home ? take(c, &at, &next) : 0;
		if (row != n)
			found(ctx, home, row, n);
	}
	r = ops->iter_error(it);
	ops->iter_close(it);
	while (r == 0 && at < c->n) {
		pointer_t next;
		uint64_t n = take(c, &at, &next);

		found(ctx, next, 0, n);
	}
	return r;
}
