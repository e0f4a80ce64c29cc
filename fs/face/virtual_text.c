/*
 * virtual_text.c: the texts of generated files, each under a number of its own (virtual.h).
 *
 * An array in the order of the numbers, which only grow, so the newest are at its end.  What the kernel holds beyond the bounds
 * loses its text, the oldest first, and keeps its entry until it is forgotten.
 */
#include "fs/face/virtual.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/lock.h"

struct text {
	uint64_t ino, refs, size;
	int64_t made_ns; /* real time */
	uint8_t *p;      /* NULL: not kept any more */
};

struct virtual_texts {
	struct mutex lock;
	/* guarded by lock */
	struct text *all; /* in the order of made numbers: their own part, whatever the row */
	size_t n, cap;
	size_t n_kept, first_kept; /* before first_kept nothing has a text */
	uint64_t bytes;
	uint64_t made; /* numbers */
};

int virtual_texts_new(struct virtual_texts **ret)
{
	struct virtual_texts *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	mutex_init(&t->lock);
	*ret = t;
	return 0;
}

struct virtual_texts *virtual_texts_free(struct virtual_texts *t)
{
	if (!t)
		return NULL;
	for (size_t i = 0; i < t->n; i++)
		free(t->all[i].p);
	free(t->all);
	mutex_destroy(&t->lock);
	free(t);
	return NULL;
}

static void drop_text(struct virtual_texts *t, struct text *x) REQUIRES(t->lock)
{
	if (!x->p)
		return;
	free(x->p);
	x->p = NULL;
	t->n_kept--;
	t->bytes -= x->size;
}

/* The newest one always stays. */
static void keep_bounds(struct virtual_texts *t) REQUIRES(t->lock)
{
	for (; t->first_kept + 1 < t->n && (t->n_kept > VIRTUAL_TEXTS_MAX || t->bytes > VIRTUAL_BYTES_MAX); t->first_kept++)
		drop_text(t, &t->all[t->first_kept]);
}

static int make_room(struct virtual_texts *t) REQUIRES(t->lock)
{
	size_t cap = t->cap ? 2 * t->cap : 16;

	if (t->n < t->cap)
		return 0;
	struct text *all = realloc(t->all, cap * sizeof(*all));

	if (!all)
		return -ENOMEM;
	t->all = all;
	t->cap = cap;
	return 0;
}

int virtual_text_add(struct virtual_texts *t, unsigned row, struct buf *text, uint64_t *ret_ino)
{
	mutex_lock(&t->lock);
	int r = make_room(t);

	if (r == 0) {
		struct text *x = &t->all[t->n++];

		*x = (struct text){.ino = virtual_ino(row, ++t->made),
				   .refs = 1,
				   .size = text->len,
				   .made_ns = clock_real_ns(&clock_system),
				   .p = text->p};
		*ret_ino = x->ino;
		*text = (struct buf){0};
		t->n_kept += x->p != NULL;
		t->bytes += x->size;
		keep_bounds(t);
	}
	mutex_unlock(&t->lock);
	return r;
}

static struct text *find(struct virtual_texts *t, uint64_t ino) REQUIRES(t->lock)
{
	size_t low = 0, high = t->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if ((t->all[mid].ino & VIRTUAL_OWN_MASK) < (ino & VIRTUAL_OWN_MASK))
			low = mid + 1;
		else
			high = mid;
	}
	return low < t->n && t->all[low].ino == ino ? &t->all[low] : NULL;
}

void virtual_text_ref(struct virtual_texts *t, uint64_t ino)
{
	mutex_lock(&t->lock);
	struct text *x = find(t, ino);

	if (x)
		x->refs++;
	mutex_unlock(&t->lock);
}

void virtual_text_forget(struct virtual_texts *t, uint64_t ino, uint64_t n)
{
	mutex_lock(&t->lock);
	struct text *x = find(t, ino);

	if (x) {
		x->refs -= min_u64(x->refs, n);
		if (x->refs == 0) {
			size_t at = (size_t)(x - t->all);

			drop_text(t, x);
			memmove(x, x + 1, (t->n - at - 1) * sizeof(*x));
			t->n--;
			t->first_kept -= at < t->first_kept;
		}
	}
	mutex_unlock(&t->lock);
}

int virtual_text_stat(struct virtual_texts *t, uint64_t ino, uint64_t *ret_size, int64_t *ret_made_ns)
{
	mutex_lock(&t->lock);
	const struct text *x = find(t, ino);

	if (x) {
		*ret_size = x->size;
		*ret_made_ns = x->made_ns;
	}
	mutex_unlock(&t->lock);
	return x ? 0 : -ESTALE;
}

int virtual_text_read(struct virtual_texts *t, uint64_t ino, uint64_t off, size_t cap, void *p, size_t *ret_len)
{
	mutex_lock(&t->lock);
	const struct text *x = find(t, ino);
	int r = x && (x->p || x->size == 0) ? 0 : -ESTALE;

	if (r == 0) {
		*ret_len = off < x->size ? min_u64(cap, x->size - off) : 0;
		if (*ret_len)
			memcpy(p, x->p + off, *ret_len);
	}
	mutex_unlock(&t->lock);
	return r;
}
