/* invites.c: see invites.h. */
#include "replicate/net/invites.h"

#include <errno.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#include "replicate/fields.h"
#include "replicate/peerfile.h"

static void drop(struct invites *v, uint32_t at)
{
	v->n--;
	memmove(&v->invite[at], &v->invite[at + 1], (v->n - at) * sizeof(v->invite[0]));
	OPENSSL_cleanse(&v->invite[v->n], sizeof(v->invite[0]));
}

void invites_expire(struct invites *v, int64_t now_s)
{
	for (uint32_t i = v->n; i > 0; i--)
		if (v->invite[i - 1].expires_s <= now_s)
			drop(v, i - 1);
}

void invites_forget_node(struct invites *v, const uint8_t node[16])
{
	for (uint32_t i = v->n; i > 0; i--)
		if (v->invite[i - 1].used && memcmp(v->invite[i - 1].node, node, 16) == 0)
			drop(v, i - 1);
}

static void drop_name(struct invites *v, const char *name)
{
	for (uint32_t i = v->n; i > 0; i--)
		if (strcmp(v->invite[i - 1].name, name) == 0)
			drop(v, i - 1);
}

int invites_add(struct invites *v, const char *name, int64_t expires_s, const struct invite **ret)
{
	uint8_t id[16];

	drop_name(v, name);
	if (v->n == INVITES_MAX)
		return -ENOSPC;
	struct invite *i = &v->invite[v->n];
	*i = (struct invite){.expires_s = expires_s};
	if (RAND_bytes(id, sizeof(id)) != 1 || RAND_priv_bytes(i->secret, sizeof(i->secret)) != 1)
		return -EIO;
	for (size_t k = 0; k < sizeof(id); k++)
		snprintf(i->id + 2 * k, 3, "%02x", id[k]);
	snprintf(i->name, sizeof(i->name), "%s", name);
	v->n++;
	*ret = i;
	return 0;
}

struct invite *invites_find(struct invites *v, const char *id, int64_t now_s)
{
	for (uint32_t i = 0; i < v->n; i++)
		if (strcmp(v->invite[i].id, id) == 0 && v->invite[i].expires_s > now_s)
			return &v->invite[i];
	return NULL;
}

void invites_wipe(struct invites *v)
{
	OPENSSL_cleanse(v, sizeof(*v));
}

/* ---- the file ---- */

static json_t *invite_json(const struct invite *i)
{
	char node[NODE_UUID_TEXT];

	node_uuid_text(i->node, node);
	return json_pack("{s:s, s:o, s:s, s:I, s:b, s:o, s:s}", "id", i->id, "secret", json_hex(i->secret, sizeof(i->secret)),
			 "name", i->name, "expires", (json_int_t)i->expires_s, "used", i->used, "request",
			 json_hex(i->request, sizeof(i->request)), "node", node);
}

int invites_save(const char *dir, const struct invites *v)
{
	CLEANUP_SECRET struct buf text = {0};
	json_t *list = json_array();

	secret_reserve(&text, PEERFILE_MAX);
	for (uint32_t i = 0; i < v->n; i++)
		if (json_array_append_new(list, invite_json(&v->invite[i])) < 0)
			text.failed = true;
	fields_print(json_pack("{s:o}", "invites", list), &text);
	return text.failed ? -ENOMEM : peerfile_write(dir, FILE_INVITES, buf_slice(&text));
}

static int parse_invite(const json_t *o, struct invite *i)
{
	uint64_t expires = 0;

	int r = field_text(o, "id", i->id, sizeof(i->id));
	if (r == 0)
		r = field_bytes(o, "secret", i->secret, sizeof(i->secret));
	if (r == 0)
		r = field_text(o, "name", i->name, sizeof(i->name));
	if (r == 0)
		r = field_number(o, "expires", INT64_MAX, &expires);
	if (r == 0)
		r = field_bool(o, "used", &i->used);
	if (r == 0)
		r = field_bytes(o, "request", i->request, sizeof(i->request));
	if (r == 0)
		r = field_uuid(o, "node", i->node);
	i->expires_s = (int64_t)expires;
	return r;
}

static int parse_list(struct slice text, struct invites *v)
{
	CLEANUP_JSON json_t *o = NULL;
	const json_t *list = NULL;

	int r = fields_parse(text, &o);
	if (r == 0)
		r = field_array(o, "invites", INVITES_MAX, &list);
	for (size_t i = 0; r == 0 && i < json_array_size(list); i++)
		r = parse_invite(json_array_get(list, i), &v->invite[v->n++]);
	return r;
}

int invites_load(const char *dir, struct invites *ret)
{
	CLEANUP_SECRET struct buf text = {0};

	*ret = (struct invites){0};
	secret_reserve(&text, PEERFILE_MAX);
	int r = peerfile_read(dir, FILE_INVITES, PEERFILE_SECRET, &text);
	if (r == 0)
		r = parse_list(buf_slice(&text), ret);
	if (r < 0)
		invites_wipe(ret);
	return r == -ENOENT ? 0 : r;
}
