/* join_message.c: see join_message.h. */
#include "replicate/net/join_message.h"

#include <errno.h>
#include <string.h>

#include "replicate/fields.h"
#include "replicate/net/pki.h"

#define NODE_ID_LAST ((1u << EPOCH_NODE_BITS) - 1)

void join_print(const struct join_message *m, struct buf *out)
{
	char node[NODE_UUID_TEXT];

	node_uuid_text(m->node, node);
	fields_print(json_pack("{s:s, s:s, s:s, s:s}", "name", m->name, "node", node, "address", m->address, "csr", m->request),
		     out);
}

int join_parse(struct slice json, struct join_message *ret)
{
	CLEANUP_JSON json_t *o = NULL;
	struct join_message m;

	int r = fields_parse(json, &o);
	if (r == 0)
		r = field_text(o, "name", m.name, sizeof(m.name));
	if (r == 0)
		r = field_uuid(o, "node", m.node);
	if (r == 0)
		r = field_text(o, "address", m.address, sizeof(m.address));
	if (r == 0)
		r = field_text(o, "csr", m.request, sizeof(m.request));
	if (r == 0)
		*ret = m;
	return r;
}

static json_t *geometry_json(const struct volume_geometry *g)
{
	return json_pack("{s:I, s:I, s:I}", "journal_segments", (json_int_t)g->journal_segments, "journal_segment_kib",
			 (json_int_t)g->journal_segment_kib, "chunk_kib", (json_int_t)g->chunk_kib);
}

static json_t *text_json(const struct buf *text)
{
	return json_stringn((const char *)text->p, text->len);
}

/* The list of peers is JSON already, with a parser of its own: it travels as text. */
void joined_print(const struct joined *m, struct buf *out)
{
	CLEANUP_BUF struct buf peers = {0};
	char volume[NODE_UUID_TEXT], node[NODE_UUID_TEXT];

	node_uuid_text(m->volume, volume);
	node_uuid_text(m->node, node);
	peers_print(&m->peers, &peers);
	out->failed |= peers.failed;
	secret_reserve(out, WIRE_JSON_MAX);
	fields_print(json_pack("{s:o, s:o, s:o, s:i, s:I, s:o, s:s, s:s, s:s, s:o}", "ca", text_json(&m->ca_pem), "ca_key",
			       text_json(&m->ca_key), "certificate", text_json(&m->node_pem), "node_id", (int)m->node_id, "epoch",
			       (json_int_t)m->epoch, "peers", text_json(&peers), "volume", volume, "node", node, "label",
			       m->geometry.label, "geometry", geometry_json(&m->geometry)),
		     out);
}

static int field_pem(const json_t *o, const char *key, struct buf *ret)
{
	struct slice text;

	int r = field_slice(o, key, PKI_PEM_MAX, &text);
	if (r < 0)
		return r;
	secret_reserve(ret, text.len);
	buf_put(ret, text.p, text.len);
	return ret->failed ? -ENOMEM : 0;
}

static int field_u32(const json_t *o, const char *key, uint32_t *ret)
{
	uint64_t v = 0;

	int r = field_number(o, key, UINT32_MAX, &v);
	*ret = (uint32_t)v;
	return r;
}

static int parse_geometry(const json_t *o, struct volume_geometry *g)
{
	const json_t *inner = json_object_get(o, "geometry");

	int r = field_text(o, "label", g->label, sizeof(g->label));
	if (r == 0)
		r = field_u32(inner, "journal_segments", &g->journal_segments);
	if (r == 0)
		r = field_u32(inner, "journal_segment_kib", &g->journal_segment_kib);
	return r < 0 ? r : field_u32(inner, "chunk_kib", &g->chunk_kib);
}

static int parse_peers(const json_t *o, struct peers *ret)
{
	struct slice text;

	int r = field_slice(o, "peers", WIRE_JSON_MAX, &text);
	if (r == 0)
		r = peers_parse(text, ret);
	return r == -E2BIG ? -EUCLEAN : r;
}

static int parse_joined(const json_t *o, struct joined *m)
{
	uint64_t node_id = 0;

	int r = field_pem(o, "ca", &m->ca_pem);
	if (r == 0)
		r = field_pem(o, "ca_key", &m->ca_key);
	if (r == 0)
		r = field_pem(o, "certificate", &m->node_pem);
	if (r == 0)
		r = field_number(o, "node_id", NODE_ID_LAST, &node_id);
	if (r == 0)
		r = field_number(o, "epoch", INT64_MAX, &m->epoch);
	if (r == 0)
		r = field_uuid(o, "volume", m->volume);
	if (r == 0)
		r = field_uuid(o, "node", m->node);
	if (r == 0)
		r = parse_geometry(o, &m->geometry);
	m->node_id = (uint32_t)node_id;
	return r < 0 ? r : parse_peers(o, &m->peers);
}

int joined_parse(struct slice json, struct joined *ret)
{
	CLEANUP_JSON json_t *o = NULL;
	struct joined m = {0};

	int r = fields_parse(json, &o);
	if (r == 0)
		r = parse_joined(o, &m);
	if (r < 0)
		joined_free(&m);
	else
		*ret = m;
	return r;
}
