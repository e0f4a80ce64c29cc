/*
 * replica_kept.c: see replica_kept.h.  Lines are looked through as text: the names in the simulator need no escapes.
 */
#include "tests/crash/replica_kept.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "journal/pointer.h"
#include "tests/lib/cold.h"
#include "tests/lib/cow.h"

static const uint8_t zeros[BLOCK_SIZE];

static struct kept *kept_of(struct diverged_sink *s)
{
	return container_of(s, struct kept, sink);
}

static int sink_open(struct diverged_sink *s, const char *id)
{
	struct kept *k = kept_of(s);

	if (k->open || !*id)
		return -EINVAL;
	k->open = true;
	k->tails++;
	return 0;
}

static void add(struct kept *k, uint64_t ino, uint64_t off, const void *p, size_t len, bool line)
{
	k->item = test_grow(k->item, k->n, &k->cap, sizeof(*k->item));
	struct kept_item *i = &k->item[k->n++];
	*i = (struct kept_item){.ino = ino, .off = off, .p = test_alloc(len + 1), .len = line ? 0 : len};
	memcpy(i->p, p, len);
}

/* Data that could not be fetched is kept by saying where it is: it is there, and was not changed. */
static void add_cold(struct kept *k, json_t *line)
{
	struct cold *c = cold_open();
	const json_t *cold = json_object_get(line, "cold"), *frame = json_object_get(line, "frame");
	const struct leaf_object at = {.id = strtoull(json_string_value(json_object_get(line, "object")), NULL, 16),
				       .offset = (uint32_t)json_integer_value(json_array_get(frame, 0)),
				       .len = (uint32_t)json_integer_value(json_array_get(frame, 1))};
	uint64_t ino = (uint64_t)json_integer_value(json_object_get(line, "ino"));
	uint16_t mask = 0;
	const uint8_t *blocks = cold_frame(c, &at, &mask);

	for (size_t i = 0; blocks && i < json_array_size(cold); i++) {
		const json_t *range = json_array_get(cold, i);
		uint64_t off = (uint64_t)json_integer_value(json_array_get(range, 0)),
			 len = (uint64_t)json_integer_value(json_array_get(range, 1));

		for (uint64_t b = off / BLOCK_SIZE; b < (off + len) / BLOCK_SIZE; b++)
			if (mask >> b % LEAF_SLOTS & 1)
				add(k, ino, b * BLOCK_SIZE, blocks + b % LEAF_SLOTS * BLOCK_SIZE, BLOCK_SIZE, false);
	}
	cold_close(c);
}

static int sink_line(struct diverged_sink *s, struct slice line)
{
	json_t *o = json_loadb(line.p, line.len, 0, NULL);

	add(kept_of(s), 0, 0, line.p, line.len, true);
	if (json_object_get(o, "cold"))
		add_cold(kept_of(s), o);
	json_decref(o);
	return 0;
}

static int sink_data(struct diverged_sink *s, uint64_t ino, uint64_t off, const void *p, size_t len)
{
	add(kept_of(s), ino, off, p, len, false);
	return 0;
}

static int sink_sync(struct diverged_sink *s, struct slice info)
{
	struct kept *k = kept_of(s);

	(void)info;
	for (size_t i = 0; i < k->n; i++)
		k->item[i].synced = true;
	return 0;
}

static void sink_close(struct diverged_sink *s)
{
	kept_of(s)->open = false;
}

static void sink_free(struct diverged_sink *s)
{
	(void)s;
}

static const struct diverged_ops ops = {
    .open = sink_open,
    .put_line = sink_line,
    .put_data = sink_data,
    .sync = sink_sync,
    .close = sink_close,
    .free = sink_free,
};

void kept_open(struct kept *k)
{
	*k = (struct kept){.sink.ops = &ops};
}

void kept_crash(struct kept *k)
{
	size_t n = 0;

	for (size_t i = 0; i < k->n; i++) {
		if (k->item[i].synced)
			k->item[n++] = k->item[i];
		else
			free(k->item[i].p);
	}
	k->n = n;
	k->open = false;
}

void kept_forget(struct kept *k)
{
	for (size_t i = 0; i < k->n; i++)
		free(k->item[i].p);
	k->n = 0;
}

void kept_free(struct kept *k)
{
	kept_forget(k);
	free(k->item);
	*k = (struct kept){0};
}

static bool has_block(const struct kept *k, uint64_t ino, uint64_t off, const uint8_t *want, size_t len)
{
	for (size_t i = 0; i < k->n; i++) {
		const struct kept_item *it = &k->item[i];

		if (it->ino == ino && it->len && it->off <= off && off + len <= it->off + it->len &&
		    memcmp(it->p + (off - it->off), want, len) == 0)
			return true;
	}
	return false;
}

/* A line of this table that has `members`, as they stand there one after the other. */
static bool has_line(const struct kept *k, char table, const char *members)
{
	char begin[32];

	snprintf(begin, sizeof(begin), "{\"table\":\"%c\",", table);
	for (size_t i = 0; i < k->n; i++) {
		const char *line = (const char *)k->item[i].p;

		if (k->item[i].len == 0 && strncmp(line, begin, strlen(begin)) == 0 && strstr(line, members))
			return true;
	}
	return false;
}

static bool has_name(const struct kept *k, uint64_t parent, const char *name, uint64_t ino)
{
	char members[400];

	snprintf(members, sizeof(members), "\"parent\":%llu,\"name\":\"%s\",\"ino\":%llu,", (unsigned long long)parent, name,
		 (unsigned long long)ino);
	return has_line(k, 'D', members);
}

static bool has_row(const struct kept *k, char table, uint64_t ino)
{
	char members[64];

	snprintf(members, sizeof(members), "\"ino\":%llu,", (unsigned long long)ino);
	return has_line(k, table, members);
}

/* Under a name: an orphan is about to go. */
static bool is_there(const struct model *m, uint64_t ino)
{
	const struct model_inode *i = model_get(m, ino);

	return i && i->nlink > 0;
}

/* Behind its end a file has zeros. */
static bool model_has(const struct model *m, uint64_t ino, uint64_t off, const uint8_t *want, size_t len)
{
	const struct model_inode *i = model_get(m, ino);

	if (!is_there(m, ino) || !S_ISREG(i->mode) || off >= i->size)
		return false;
	size_t n = min_u64(len, i->size - off);
	return memcmp(model_bytes(m, ino) + off, want, n) == 0 && memcmp(want + n, zeros, len - n) == 0;
}

/* What was looked for, and where. */
struct question {
	const struct kept *kept;
	const struct model *old, *now;
	bool whole;       /* with all data */
	struct tree tree; /* of `old` */
	char *why;
	size_t cap;
};

/* Zeros nobody has to keep. */
static bool has_bytes(const struct question *q, uint64_t ino, uint64_t *ret_off)
{
	const uint8_t *bytes = model_bytes(q->old, ino);
	uint64_t size = model_get(q->old, ino)->size;

	for (uint64_t off = 0; off < size; off += BLOCK_SIZE) {
		size_t len = min_u64(BLOCK_SIZE, size - off);

		*ret_off = off;
		if (memcmp(bytes + off, zeros, len) && !model_has(q->now, ino, off, bytes + off, len) &&
		    !has_block(q->kept, ino, off, bytes + off, len))
			return false;
	}
	return true;
}

/* The inode of the directory that `path` is in. */
static uint64_t parent_of(const struct tree *t, const char *path)
{
	size_t len = (size_t)(strrchr(path, '/') - path);

	for (size_t i = 0; i < t->n; i++)
		if (strlen(t->e[i].path) == len && memcmp(t->e[i].path, path, len) == 0)
			return t->e[i].ino;
	return 0;
}

/* The inode itself, with attributes and target, where nobody has it any more. */
static bool has_inode(const struct question *q, const struct tree_entry *e)
{
	if (is_there(q->now, e->ino))
		return true;
	return has_row(q->kept, 'I', e->ino) && (!S_ISLNK(e->mode) || has_row(q->kept, 'L', e->ino)) &&
	       (!e->xattr_hash || has_row(q->kept, 'X', e->ino));
}

static bool has_entry(const struct question *q, const struct tree_entry *e)
{
	const char *name = strrchr(e->path, '/');
	uint64_t parent = name ? parent_of(&q->tree, e->path) : 0, off;

	if (name && model_lookup(q->now, parent, name + 1) != e->ino && !has_name(q->kept, parent, name + 1, e->ino)) {
		snprintf(q->why, q->cap, "the name %.100s of inode %llu went, and is not kept aside", e->path,
			 (unsigned long long)e->ino);
		return false;
	}
	if (!has_inode(q, e)) {
		snprintf(q->why, q->cap, "%.100s (inode %llu): its attributes went, and are not kept aside", e->path,
			 (unsigned long long)e->ino);
		return false;
	}
	if (q->whole && S_ISREG(e->mode) && !has_bytes(q, e->ino, &off)) {
		snprintf(q->why, q->cap, "%.100s (inode %llu): the block at %llu went, and is not kept aside", e->path,
			 (unsigned long long)e->ino, (unsigned long long)off);
		return false;
	}
	return true;
}

static bool is_of_snapshot(const char *path)
{
	static const char top[] = "/.clawfs/snapshots/";

	return strncmp(path, top, sizeof(top) - 1) == 0;
}

/* That there was one is kept; what was in it is not. */
static bool has_snapshot(const struct question *q, const char *name)
{
	char members[300];

	for (size_t i = 0; i < model_snaps(q->now); i++)
		if (strcmp(model_snap_name(q->now, i), name) == 0)
			return true;
	snprintf(members, sizeof(members), "\"name\":\"%s\"", name);
	if (has_line(q->kept, 'S', members))
		return true;
	snprintf(q->why, q->cap, "snapshot %.100s went, and that it was there is not kept aside", name);
	return false;
}

bool kept_has_all(const struct kept *k, const struct model *old, const struct model *now, bool whole, char *ret_why, size_t cap)
{
	struct question q = {.kept = k, .old = old, .now = now, .whole = whole, .why = ret_why, .cap = cap};
	bool ok = true;

	model_tree(old, &q.tree);
	for (size_t i = 0; ok && i < q.tree.n; i++)
		ok = is_of_snapshot(q.tree.e[i].path) || has_entry(&q, &q.tree.e[i]);
	for (size_t i = 0; ok && i < model_snaps(old); i++)
		ok = has_snapshot(&q, model_snap_name(old, i));
	tree_free(&q.tree);
	return ok;
}
