/* list.c: the snapshots as JSON, for the attribute clawfs.snap.list. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "fs/core/snap/snap_impl.h"

#define PAGE_BYTES 60000u /* an attribute has 65536 at most */

struct page {
	uint64_t from, next;
	bool more;
	size_t used;
	json_t *list;
};

json_t *snap_text_json(const char *text)
{
	json_t *s = json_string(text);
	size_t len = strlen(text);

	if (s)
		return s;
	CLEANUP_FREE char *hex = malloc(2 * len + 1);
	for (size_t i = 0; hex && i < len; i++)
		snprintf(hex + 2 * i, 3, "%02x", (unsigned char)text[i]);
	return hex && len ? json_pack("{s:s}", "hex", hex) : NULL;
}

static void put_name(json_t *o, const char *name)
{
	json_t *text = snap_text_json(name);

	if (json_is_object(text)) {
		json_object_set(o, "name_hex", json_object_get(text, "hex"));
		json_decref(text);
	} else {
		json_object_set_new(o, "name", text);
	}
}

static json_t *snapshot_json(const struct fs_snap *s)
{
	json_t *o = json_pack("{s:I, s:I, s:I, s:b}", "gen", (json_int_t)s->gen, "seq", (json_int_t)s->seq, "time_ns",
			      (json_int_t)s->time_ns, "held", s->held);

	if (!o)
		return NULL;
	put_name(o, s->name);
	if (s->held)
		json_object_set_new(o, "only_bytes", json_integer((json_int_t)s->only_bytes));
	return o;
}

static int add(void *ctx, const struct fs_snap *s)
{
	struct page *p = ctx;

	if (s->gen < p->from)
		return 0;
	json_t *o = snapshot_json(s);
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	if (!text) {
		json_decref(o);
		return -ENOMEM;
	}
	p->used += strlen(text) + 2;
	free(text);
	p->more = p->used > PAGE_BYTES;
	if (p->more) {
		p->next = s->gen;
		json_decref(o);
		return 1;
	}
	json_array_append_new(p->list, o);
	return 0;
}

int fs_snap_list_json(struct fs *fs, uint64_t gen, struct buf *out)
{
	struct page p = {.from = gen, .list = json_array()};
	int r = p.list ? fs_snap_each(fs, true, add, &p) : -ENOMEM;
	json_t *root = r == 0 ? json_object() : NULL;

	if (root) {
		json_object_set(root, "snapshots", p.list);
		if (p.more)
			json_object_set_new(root, "next", json_integer((json_int_t)p.next));
	}
	char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
	if (r == 0 && !text)
		r = -ENOMEM;
	if (r == 0)
		buf_put(out, text, strlen(text));
	free(text);
	json_decref(root);
	json_decref(p.list);
	return r;
}
