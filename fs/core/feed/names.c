/*
 * names.c: what an inode was called when a record was made.
 *
 * A record names the inode; its path is looked up when the record is told, by when files may have been renamed or unlinked.
 * Records say that too, so for each step from an inode to the directory above, the first of these that knows:
 *
 *   1. an earlier record that the reader came by and that gave it a name nobody took since;
 *   2. the next record of the same batch about its names, if that takes one away (unlink, rename): until then it had that;
 *   3. the index, as it is now.
 *
 * So a path is right for the moment of the event where the reader follows closely, or has read since the name was given; else
 * a part of it may be newer.  1 is a table with one place for each hash of an inode number, where a later one replaces an
 * earlier one, with the two newest names of a file; 2 a sorted list of the batch.
 */
#include <errno.h>
#include <string.h>

#include "fs/core/core.h"
#include "fs/core/feed/feed.h"

#define SEEN_SLOTS 1024u
#define DEPTH_MAX  256u

/* Until record `n` of the batch inode `ino` was called `name` in `parent`; parent 0: it gains a name, and had which is not said.
 */
struct fact {
	uint64_t ino, parent;
	uint32_t n;
	struct slice name; /* borrows the batch */
};
struct seen_name {
	uint64_t parent; /* 0: none */
	uint8_t len;
	char text[RECORD_NAME_MAX];
};
struct seen {
	uint64_t ino;             /* 0: none */
	struct seen_name name[2]; /* the newest, and the one before of a file that has several; [0] is there if [1] is */
};
struct feed_names {
	struct fact *fact; /* owned; rising by ino, then n */
	size_t n_facts, cap;
	uint32_t at; /* the record being told */
	struct seen seen[SEEN_SLOTS];
};

struct feed_names *feed_names_new(void)
{
	return calloc(1, sizeof(struct feed_names)); /* pages that nobody touches cost nothing */
}

struct feed_names *feed_names_free(struct feed_names *names)
{
	if (names)
		free(names->fact);
	free(names);
	return NULL;
}

void feed_names_forget(struct feed_names *names)
{
	names->n_facts = 0;
	for (size_t i = 0; i < SEEN_SLOTS; i++)
		names->seen[i].ino = 0;
}

/* ---- later records of the batch ---- */

static int compare(const void *a, const void *b)
{
	const struct fact *x = a, *y = b;

	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	return (x->n > y->n) - (x->n < y->n);
}

static int add_fact(struct feed_names *names, uint32_t n, uint64_t ino, uint64_t parent, struct slice name)
{
	if (names->n_facts == names->cap) {
		size_t cap = names->cap ? 2 * names->cap : 64;
		struct fact *more = realloc(names->fact, cap * sizeof(*more));

		if (!more)
			return -ENOMEM;
		names->fact = more;
		names->cap = cap;
	}
	names->fact[names->n_facts++] = (struct fact){.ino = ino, .parent = parent, .n = n, .name = name};
	return 0;
}

static int add_facts(struct feed_names *names, uint32_t n, const struct record *r)
{
	int e = 0;

	if (r->type == RECORD_UNLINK)
		return add_fact(names, n, r->ino, r->unlink.parent, r->unlink.name);
	if (r->type == RECORD_LINK)
		return add_fact(names, n, r->ino, 0, (struct slice){NULL, 0});
	if (r->type != RECORD_RENAME)
		return 0;
	if (r->rename.target) /* replaced or exchanged */
		e = add_fact(names, n, r->rename.target, r->rename.new_parent, r->rename.new_name);
	return e < 0 ? e : add_fact(names, n, r->ino, r->rename.parent, r->rename.name);
}

int feed_names_batch(struct feed_names *names, const struct batch_view *v)
{
	CLEANUP_FREE struct batch_cursor *c = malloc(sizeof(*c));
	struct record rec;
	int r = c ? 0 : -ENOMEM;

	names->n_facts = 0;
	names->at = 0;
	if (c)
		batch_cursor_start(c, v);
	for (uint32_t n = 0; r == 0 && batch_next(c, &rec) == 1; n++)
		r = add_facts(names, n, &rec);
	if (r == 0 && names->n_facts)
		qsort(names->fact, names->n_facts, sizeof(*names->fact), compare);
	return r;
}

void feed_names_at(struct feed_names *names, uint32_t n)
{
	names->at = n;
}

/* The first of `ino` behind the record being told. */
static const struct fact *fact_find(const struct feed_names *names, uint64_t ino)
{
	const struct fact key = {.ino = ino, .n = names->at};
	size_t from = 0, to = names->n_facts;

	while (from < to) {
		size_t middle = from + (to - from) / 2;

		if (compare(&names->fact[middle], &key) <= 0)
			from = middle + 1;
		else
			to = middle;
	}
	return from < names->n_facts && names->fact[from].ino == ino ? &names->fact[from] : NULL;
}

/* ---- earlier records ---- */

static size_t slot_of(uint64_t ino)
{
	return (size_t)(ino * UINT64_C(0x9e3779b97f4a7c15) >> 54) % SEEN_SLOTS;
}

static void set_name(struct seen_name *to, uint64_t parent, struct slice name)
{
	to->parent = parent;
	to->len = (uint8_t)min_u64(name.len, sizeof(to->text));
	memcpy(to->text, name.p, to->len);
}

static bool is_name(const struct seen_name *n, uint64_t parent, struct slice name)
{
	return n->parent == parent && n->len == name.len && memcmp(n->text, name.p, name.len) == 0;
}

/* One more name. */
static void gain(struct feed_names *names, uint64_t ino, uint64_t parent, struct slice name)
{
	struct seen *s = &names->seen[slot_of(ino)];

	if (s->ino == ino)
		s->name[1] = s->name[0];
	else
		s->name[1].parent = 0;
	s->ino = ino;
	set_name(&s->name[0], parent, name);
}

static void lose(struct feed_names *names, uint64_t ino, uint64_t parent, struct slice name)
{
	struct seen *s = &names->seen[slot_of(ino)];

	if (s->ino != ino)
		return;
	if (s->name[1].parent && is_name(&s->name[1], parent, name)) {
		s->name[1].parent = 0;
	} else if (is_name(&s->name[0], parent, name)) {
		s->name[0] = s->name[1];
		s->name[1].parent = 0;
		s->ino = s->name[0].parent ? ino : 0;
	}
}

static void move(struct feed_names *names, uint64_t ino, uint64_t parent, struct slice name, uint64_t new_parent,
		 struct slice new_name)
{
	lose(names, ino, parent, name);
	gain(names, ino, new_parent, new_name);
}

static void pass_rename(struct feed_names *names, const struct record *r)
{
	const struct slice name = r->rename.name, new_name = r->rename.new_name;
	uint64_t parent = r->rename.parent, new_parent = r->rename.new_parent, target = r->rename.target;

	if (r->rename.flags & RENAME_F_EXCHANGE)
		move(names, target, new_parent, new_name, parent, name);
	else if (target)
		lose(names, target, new_parent, new_name);
	if (r->rename.flags & RENAME_F_WHITEOUT)
		gain(names, r->rename.whiteout_ino, parent, name);
	move(names, r->ino, parent, name, new_parent, new_name);
}

void feed_names_pass(struct feed_names *names, const struct record *r)
{
	switch (r->type) {
	case RECORD_MKNODE:
		gain(names, r->ino, r->mknode.parent, r->mknode.name);
		break;
	case RECORD_LINK:
		gain(names, r->ino, r->link.parent, r->link.name);
		break;
	case RECORD_UNLINK:
		lose(names, r->ino, r->unlink.parent, r->unlink.name);
		break;
	case RECORD_RENAME:
		pass_rename(names, r);
		break;
	case RECORD_SNAPROLL: /* every name may be another's */
		memset(names->seen, 0, sizeof(names->seen));
		break;
	default:
		break;
	}
}

/* ---- paths ---- */

/* One step up; *ret_name borrows `space` or `names`. */
static int step(struct fs *fs, const struct feed_names *names, uint64_t ino, uint64_t *ret_parent, struct slice *ret_name,
		char space[256])
{
	const struct seen *s = &names->seen[slot_of(ino)];
	const struct fact *f = s->ino == ino ? NULL : fact_find(names, ino);

	if (s->ino == ino) {
		*ret_parent = s->name[0].parent;
		*ret_name = (struct slice){s->name[0].text, s->name[0].len};
		return 0;
	}
	if (f && f->parent) {
		*ret_parent = f->parent;
		*ret_name = f->name;
		return 0;
	}
	int r = path_step(fs, ino, ret_parent, space);
	if (r == 0)
		*ret_name = (struct slice){space, strlen(space)};
	return r;
}

/* Names are put before each other, from the end of `path`. */
int feed_names_path(struct fs *fs, const struct feed_names *names, uint64_t ino, char ret_path[FEED_PATH_CAP])
{
	char path[FEED_PATH_CAP], space[256];
	size_t at = sizeof(path) - 1;
	struct slice name = {NULL, 0};

	path[at] = '\0';
	for (unsigned depth = 0; ino != FS_ROOT_INO; depth++) {
		if (ino == 0 || depth > DEPTH_MAX || step(fs, names, ino, &ino, &name, space) < 0 || at < name.len + 1)
			return -ENOENT;
		at -= name.len;
		memcpy(path + at, name.p, name.len);
		path[--at] = '/';
	}
	if (at == sizeof(path) - 1)
		path[--at] = '/';
	memcpy(ret_path, path + at, sizeof(path) - at);
	return 0;
}
