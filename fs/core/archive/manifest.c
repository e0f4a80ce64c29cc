/*
 * manifest.c: the manifest as text and back, and its two copies in the store.
 */
#include "fs/core/archive/manifest.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

#define BYTES_MAX (16 * MIB)

static const char *const ends[STREAM_ENDS] = {"open", "gap", "other leader", "off", "rollback"};

const char *stream_end_name(enum stream_end end)
{
	return ends[end];
}

void manifest_free(struct archive_manifest *m)
{
	free(m->stream);
	free(m->base);
	*m = (struct archive_manifest){0};
}

/* One more element of an array that grows by one at a time: there are few. */
static void *add(void **array, size_t *n, size_t size, size_t max)
{
	if (*n == max)
		return NULL;
	uint8_t *grown = realloc(*array, (*n + 1) * size);
	if (!grown)
		return NULL;
	*array = grown;
	return memset(grown + (*n)++ * size, 0, size);
}

struct archive_stream *manifest_add_stream(struct archive_manifest *m)
{
	return add((void **)&m->stream, &m->n_streams, sizeof(*m->stream), MANIFEST_STREAMS_MAX);
}

struct archive_base *manifest_add_base(struct archive_manifest *m)
{
	return add((void **)&m->base, &m->n_bases, sizeof(*m->base), MANIFEST_BASES_MAX);
}

void manifest_drop_stream(struct archive_manifest *m, size_t i)
{
	m->n_streams--;
	memmove(m->stream + i, m->stream + i + 1, (m->n_streams - i) * sizeof(*m->stream));
}

void manifest_drop_base(struct archive_manifest *m, size_t i)
{
	m->n_bases--;
	memmove(m->base + i, m->base + i + 1, (m->n_bases - i) * sizeof(*m->base));
}

/* ---- text ---- */

/* Members by name, so that writing and reading cannot differ. */
struct member {
	const char *name;
	size_t offset, size;
};
#define MEMBER(type, m)                                                                                                          \
	{                                                                                                                        \
#m, offsetof(struct type, m), sizeof(((struct type *)0)->m)                                                      \
	}
static const struct member stream_members[] = {
    MEMBER(archive_stream, epoch),        MEMBER(archive_stream, first.seq),     MEMBER(archive_stream, first.part),
    MEMBER(archive_stream, removing.seq), MEMBER(archive_stream, removing.part), MEMBER(archive_stream, known.seq),
    MEMBER(archive_stream, known.part),   MEMBER(archive_stream, known_hash),    MEMBER(archive_stream, known_ns),
    MEMBER(archive_stream, end),          MEMBER(archive_stream, lost_from),     MEMBER(archive_stream, going),
};
static const struct member base_members[] = {
    MEMBER(archive_base, state),    MEMBER(archive_base, epoch),
    MEMBER(archive_base, seq),      MEMBER(archive_base, hash),
    MEMBER(archive_base, history),  MEMBER(archive_base, next_ino),
    MEMBER(archive_base, n_inodes), MEMBER(archive_base, snapshot_generation),
    MEMBER(archive_base, fence),    MEMBER(archive_base, ready_seq),
    MEMBER(archive_base, view_ns),  MEMBER(archive_base, ready_ns),
    MEMBER(archive_base, rows),     MEMBER(archive_base, bytes),
    MEMBER(archive_base, sum),      MEMBER(archive_base, parts),
    MEMBER(archive_base, lost),
};

static json_t *to_json(const void *p, const struct member *m, size_t n)
{
	json_t *o = json_object();

	for (size_t i = 0; i < n; i++) {
		const uint8_t *at = (const uint8_t *)p + m[i].offset;
		uint64_t wide = 0;
		uint32_t narrow;

		if (m[i].size == sizeof(wide)) {
			memcpy(&wide, at, sizeof(wide));
		} else {
			memcpy(&narrow, at, sizeof(narrow));
			wide = narrow;
		}
		json_object_set_new(o, m[i].name, json_integer((json_int_t)wide));
	}
	return o;
}

/* Every member, each an integer that fits; others are from a newer version and do not count. */
static int from_json(const json_t *o, const struct member *m, size_t n, void *p)
{
	for (size_t i = 0; i < n; i++) {
		const json_t *v = json_object_get(o, m[i].name);
		uint8_t *at = (uint8_t *)p + m[i].offset;
		uint64_t wide = (uint64_t)json_integer_value(v);
		uint32_t narrow = (uint32_t)wide;

		if (!json_is_integer(v) || (m[i].size == sizeof(narrow) && narrow != wide))
			return -EUCLEAN;
		if (m[i].size == sizeof(wide))
			memcpy(at, &wide, sizeof(wide));
		else
			memcpy(at, &narrow, sizeof(narrow));
	}
	return 0;
}

static char *to_text(const struct archive_manifest *m)
{
	json_t *streams = json_array(), *bases = json_array();

	for (size_t i = 0; i < m->n_streams; i++)
		json_array_append_new(streams, to_json(&m->stream[i], stream_members, ARRAY_SIZE(stream_members)));
	for (size_t i = 0; i < m->n_bases; i++)
		json_array_append_new(bases, to_json(&m->base[i], base_members, ARRAY_SIZE(base_members)));
	json_t *root = json_pack("{s:I, s:I, s:o, s:o}", "generation", (json_int_t)m->generation, "writer", (json_int_t)m->writer,
				 "streams", streams, "bases", bases);
	char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
	json_decref(root);
	return text;
}

static bool stream_ok(const void *element)
{
	const struct archive_stream *s = element;

	return s->epoch && s->first.seq && s->known.seq >= s->first.seq && s->known.part == 0 && (unsigned)s->end < STREAM_ENDS &&
	       s->removing.seq <= s->first.seq && s->known.seq < UINT64_MAX;
}

static bool base_ok(const void *element)
{
	const struct archive_base *b = element;

	return b->epoch && (unsigned)b->state <= BASE_GOING && b->seq < UINT64_MAX &&
	       (b->state != BASE_DONE || (b->ready_seq >= b->seq && b->parts > 0 && b->fence <= b->ready_seq));
}

static void *add_stream(struct archive_manifest *m)
{
	return manifest_add_stream(m);
}

static void *add_base(struct archive_manifest *m)
{
	return manifest_add_base(m);
}

/* What the arrays are of. */
struct kind {
	const struct member *members;
	size_t n;
	void *(*add)(struct archive_manifest *m);
	bool (*ok)(const void *element);
};
static const struct kind stream_kind = {stream_members, ARRAY_SIZE(stream_members), add_stream, stream_ok},
			 base_kind = {base_members, ARRAY_SIZE(base_members), add_base, base_ok};

static int take_all(const json_t *array, const struct kind *k, struct archive_manifest *m)
{
	const json_t *o;
	size_t i;

	json_array_foreach(array, i, o)
	{
		void *element = k->add(m);
		int r = element ? from_json(o, k->members, k->n, element) : -ENOMEM;

		if (r == 0 && !k->ok(element))
			r = -EUCLEAN;
		if (r < 0)
			return r;
	}
	return 0;
}

static int from_text(const struct buf *text, struct archive_manifest *ret)
{
	struct archive_manifest m = {0};
	json_t *root = text->len <= BYTES_MAX ? json_loadb((const char *)text->p, text->len, JSON_REJECT_DUPLICATES, NULL) : NULL;
	const json_t *streams = json_object_get(root, "streams"), *bases = json_object_get(root, "bases"),
		     *generation = json_object_get(root, "generation"), *writer = json_object_get(root, "writer");
	int r = json_is_array(streams) && json_is_array(bases) && json_is_integer(generation) && json_is_integer(writer)
		    ? 0
		    : -EUCLEAN;

	m.generation = (uint64_t)json_integer_value(generation);
	m.writer = (uint64_t)json_integer_value(writer);
	if (r == 0 && m.generation == 0)
		r = -EUCLEAN;
	if (r == 0)
		r = take_all(streams, &stream_kind, &m);
	if (r == 0)
		r = take_all(bases, &base_kind, &m);
	json_decref(root);
	if (r < 0)
		manifest_free(&m);
	else
		*ret = m;
	return r;
}

/* ---- copies ---- */

static struct archive_id copy_id(uint64_t generation)
{
	return (struct archive_id){.kind = ARCHIVE_MANIFEST, .part = (uint32_t)(generation % 2)};
}

static int read_copy(struct archive_place *p, uint32_t copy, struct archive_manifest *ret)
{
	const struct archive_id id = copy_id(copy);
	CLEANUP_BUF struct buf body = {0}, scratch = {0};
	struct archive_info info;
	int r = archive_fetch(p, &id, &info, &body, &scratch);

	if (r == 0)
		r = from_text(&body, ret);
	if (r == 0 && ret->generation % 2 != copy) {
		manifest_free(ret);
		r = -EUCLEAN;
	}
	if (r == -EUCLEAN)
		snprintf(p->message, sizeof(p->message), "archive/manifest-%u: its contents are impossible", copy);
	return r;
}

static bool is_damage(int error)
{
	return error == -EBADMSG || error == -EUCLEAN;
}

int manifest_read(struct archive_place *p, struct archive_manifest *ret)
{
	struct archive_manifest m[2] = {{0}, {0}};
	int r[2];

	for (uint32_t i = 0; i < 2; i++) {
		r[i] = read_copy(p, i, &m[i]);
		/* One that cannot be asked for now may be the newer one: nothing is concluded. */
		if (r[i] < 0 && r[i] != -ENOENT && !is_damage(r[i])) {
			manifest_free(&m[0]);
			return r[i];
		}
	}
	unsigned best = m[1].generation > m[0].generation;
	if (m[best].generation == 0) /* the first one goes to copy 1: before another is there, nothing can be restored */
		return r[0] == -ENOENT ? -ENOENT : r[0];
	manifest_free(&m[!best]);
	if (is_damage(r[!best]))
		log_warn("archive: one of the two manifests is damaged: %s", p->message);
	else
		p->message[0] = '\0';
	*ret = m[best];
	return 0;
}

/* Whether the store still has what `m` was read from or written as; a try of our own whose answer was lost may be there, too. */
static int check_newest(struct archive_place *p, uint64_t writer, const struct archive_manifest *m)
{
	struct archive_manifest there = {0};
	int r = manifest_read(p, &there);
	bool same = there.generation == m->generation, own_try = there.generation == m->generation + 1 && there.writer == writer;

	manifest_free(&there);
	if (r < 0 && r != -ENOENT)
		return r;
	return same || own_try ? 0 : -ESTALE;
}

int manifest_write(struct archive_place *p, int64_t now_ns, uint64_t writer, struct archive_manifest *m)
{
	const struct archive_id id = copy_id(m->generation + 1);
	struct archive_info info = {.id = id, .n_items = 1, .first_ns = now_ns, .last_ns = now_ns};
	CLEANUP_BUF struct buf out = {0};
	int r = check_newest(p, writer, m);

	if (r < 0)
		return r;
	memcpy(info.volume, p->volume, sizeof(info.volume));
	m->generation++;
	m->writer = writer;
	CLEANUP_FREE char *text = to_text(m);
	r = text ? archive_seal(&info, p->key, (struct slice){text, strlen(text)}, &out) : -ENOMEM;
	if (r == 0)
		r = archive_put(p, &id, (struct slice){out.p, out.len}, false);
	if (r < 0)
		m->generation--;
	return r;
}

/* Of several streams of an epoch the head is that of the last. */
static int follow_head(struct archive_place *p, struct archive_stream *s)
{
	const struct archive_id id = {.kind = ARCHIVE_HEAD, .epoch = s->epoch};
	CLEANUP_BUF struct buf body = {0}, scratch = {0};
	struct archive_info info;
	int r = archive_fetch(p, &id, &info, &body, &scratch);

	if (r == -ENOENT || is_damage(r)) {
		if (r != -ENOENT)
			log_warn("archive: %s", p->message);
		p->message[0] = '\0';
		return 0;
	}
	if (r == 0 && info.next_part == 0 && info.next_seq > s->known.seq && info.last_seq + 1 == info.next_seq) {
		s->known = (struct archive_at){info.next_seq, 0};
		s->known_hash = info.hash_after;
		s->known_ns = info.last_ns;
	}
	return r;
}

int manifest_follow_heads(struct archive_place *p, struct archive_manifest *m)
{
	int r = 0;

	for (size_t i = 0; i < m->n_streams && r == 0; i++)
		if (i + 1 == m->n_streams || m->stream[i + 1].epoch != m->stream[i].epoch)
			r = follow_head(p, &m->stream[i]);
	return r;
}
