/*
 * peers.c: the list of peers: names, ids, addresses, and its JSON.
 *
 * What is read is checked as a whole before any of it counts: names and uuids are there once, ids are below next_id, so that a
 * list from a file that was edited or from a hostile peer cannot give an identity to two nodes.
 */
#include "replicate/peers.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "replicate/fields.h"
#include "replicate/peerfile.h"

#define NODE_ID_LAST ((1u << EPOCH_NODE_BITS) - 1)

static bool is_letter_or_digit(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool peer_name_ok(const char *name)
{
	size_t len = strnlen(name, WIRE_NAME_MAX + 1);

	if (len == 0 || len > WIRE_NAME_MAX || !is_letter_or_digit(name[0]))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!is_letter_or_digit(name[i]) && !strchr("-_.", name[i]))
			return false;
	return true;
}

/* ---- addresses ---- */

static bool is_host(const char *p, size_t len, const char *others)
{
	if (len == 0)
		return false;
	for (size_t i = 0; i < len; i++)
		if (!is_letter_or_digit(p[i]) && !strchr(others, p[i]))
			return false;
	return true;
}

/* One to five digits, up to 65535, and nothing after them. */
static int parse_port(const char *text, uint16_t *ret)
{
	uint32_t port = 0;
	size_t len = strlen(text);

	if (len == 0 || len > 5)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -EINVAL;
		port = port * 10 + (uint32_t)(text[i] - '0');
	}
	if (port > UINT16_MAX)
		return -EINVAL;
	*ret = (uint16_t)port;
	return 0;
}

int address_parse(const char *text, char *ret_host, size_t cap, uint16_t *ret_port)
{
	bool bracketed = text[0] == '[';
	const char *host = text + bracketed;
	const char *end = bracketed ? strchr(text, ']') : strrchr(text, ':');
	uint16_t port;

	/* A name may not hold a colon: the port of "::1" would be anybody's guess.  '%' names the interface of a link-local one.
	 */
	if (!end || !is_host(host, (size_t)(end - host), bracketed ? ":.%-_" : ".-_") || (bracketed && end[1] != ':'))
		return -EINVAL;
	int r = parse_port(end + 1 + bracketed, &port);
	if (r < 0)
		return r;
	size_t len = (size_t)(end - host);
	if (len >= cap)
		return -ENAMETOOLONG;
	memcpy(ret_host, host, len);
	ret_host[len] = '\0';
	*ret_port = port;
	return 0;
}

static bool address_ok(const char *address)
{
	char host[WIRE_TEXT_MAX + 1];
	uint16_t port;

	return address[0] == '\0' ||
	       (strnlen(address, WIRE_TEXT_MAX + 1) <= WIRE_TEXT_MAX && address_parse(address, host, sizeof(host), &port) == 0);
}

/* ---- uuids ---- */

static bool dash_before(unsigned byte)
{
	return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

void node_uuid_text(const uint8_t node[16], char ret_text[NODE_UUID_TEXT])
{
	char *at = ret_text;

	for (unsigned i = 0; i < 16; i++)
		at += sprintf(at, dash_before(i) ? "-%02x" : "%02x", node[i]);
}

int node_uuid_parse(const char *text, uint8_t ret_node[16])
{
	uint8_t node[16];
	char again[NODE_UUID_TEXT];
	const char *at = text;

	for (unsigned i = 0; i < 16; i++) {
		unsigned value;

		at += dash_before(i) && *at == '-';
		if (!isxdigit((unsigned char)at[0]) || !isxdigit((unsigned char)at[1]) || sscanf(at, "%2x", &value) != 1)
			return -EINVAL;
		node[i] = (uint8_t)value;
		at += 2;
	}
	/* One spelling only: what is compared as text must not have two. */
	node_uuid_text(node, again);
	if (strcmp(text, again) != 0)
		return -EINVAL;
	memcpy(ret_node, node, sizeof(node));
	return 0;
}

/* ---- the list ---- */

const struct peer *peers_find(const struct peers *p, const char *name)
{
	for (uint32_t i = 0; i < p->n; i++)
		if (strcmp(p->peer[i].name, name) == 0)
			return &p->peer[i];
	return NULL;
}

const struct peer *peers_by_id(const struct peers *p, uint32_t node_id)
{
	for (uint32_t i = 0; i < p->n; i++)
		if (p->peer[i].node_id == node_id)
			return &p->peer[i];
	return NULL;
}

const struct peer *peers_by_node(const struct peers *p, const uint8_t node[16])
{
	for (uint32_t i = 0; i < p->n; i++)
		if (memcmp(p->peer[i].node, node, 16) == 0)
			return &p->peer[i];
	return NULL;
}

int peers_add(struct peers *p, const uint8_t node[16], const char *name, const char *address, uint32_t *ret_id)
{
	uint32_t id = p->next_id ? p->next_id : 1;

	if (!peer_name_ok(name) || !address_ok(address))
		return -EINVAL;
	if (peers_find(p, name) || peers_by_node(p, node))
		return -EEXIST;
	if (p->n == PEERS_MAX || id > NODE_ID_LAST)
		return -E2BIG;
	struct peer *peer = &p->peer[p->n++];
	*peer = (struct peer){.node_id = id};
	memcpy(peer->node, node, sizeof(peer->node));
	snprintf(peer->name, sizeof(peer->name), "%s", name);
	snprintf(peer->address, sizeof(peer->address), "%s", address);
	p->next_id = id + 1;
	p->version++;
	*ret_id = id;
	return 0;
}

int peers_remove(struct peers *p, const char *name)
{
	const struct peer *peer = peers_find(p, name);

	if (!peer)
		return -ENOENT;
	uint32_t at = (uint32_t)(peer - p->peer);
	p->n--;
	memmove(&p->peer[at], &p->peer[at + 1], (p->n - at) * sizeof(p->peer[0]));
	p->version++;
	return 0;
}

int peers_rename(struct peers *p, const char *name, const char *new_name)
{
	const struct peer *peer = peers_find(p, name);

	if (!peer)
		return -ENOENT;
	if (!peer_name_ok(new_name))
		return -EINVAL;
	if (peers_find(p, new_name))
		return -EEXIST;
	snprintf(p->peer[peer - p->peer].name, sizeof(peer->name), "%s", new_name);
	p->version++;
	return 0;
}

/* ---- JSON ---- */

static json_t *peer_json(const struct peer *peer)
{
	char node[NODE_UUID_TEXT];

	node_uuid_text(peer->node, node);
	return json_pack("{s:i, s:s, s:s, s:s}", "id", (int)peer->node_id, "node", node, "name", peer->name, "address",
			 peer->address);
}

void peers_print(const struct peers *p, struct buf *out)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < p->n; i++)
		if (json_array_append_new(list, peer_json(&p->peer[i])) < 0)
			out->failed = true;
	fields_print(json_pack("{s:I, s:I, s:i, s:o}", "epoch", (json_int_t)p->epoch, "version", (json_int_t)p->version,
			       "next_id", (int)p->next_id, "peers", list),
		     out);
}

static int parse_peer(const json_t *o, uint32_t next_id, struct peer *ret)
{
	struct peer peer = {0};
	uint64_t id = 0;

	int r = field_number(o, "id", NODE_ID_LAST, &id);
	if (r == 0)
		r = field_uuid(o, "node", peer.node);
	if (r == 0)
		r = field_text(o, "name", peer.name, sizeof(peer.name));
	if (r == 0)
		r = field_text(o, "address", peer.address, sizeof(peer.address));
	if (r < 0)
		return r;
	if (id == 0 || id >= next_id || !peer_name_ok(peer.name) || !address_ok(peer.address))
		return -EUCLEAN;
	peer.node_id = (uint32_t)id;
	*ret = peer;
	return 0;
}

static int parse_list(const json_t *list, struct peers *p)
{
	for (size_t i = 0; i < json_array_size(list); i++) {
		struct peer *peer = &p->peer[p->n];

		int r = parse_peer(json_array_get(list, i), p->next_id, peer);
		if (r < 0)
			return r;
		if (peers_by_id(p, peer->node_id) || peers_by_node(p, peer->node) || peers_find(p, peer->name))
			return -EUCLEAN;
		p->n++;
	}
	return 0;
}

int peers_parse(struct slice json, struct peers *ret)
{
	CLEANUP_JSON json_t *o = NULL;
	struct peers p = {0};
	const json_t *list = NULL;
	uint64_t next_id = 0;

	int r = fields_parse(json, &o);
	if (r == 0 && json_object_get(o, "epoch")) /* older releases had none */
		r = field_number(o, "epoch", INT64_MAX, &p.epoch);
	if (r == 0)
		r = field_number(o, "version", INT64_MAX, &p.version);
	if (r == 0)
		r = field_number(o, "next_id", NODE_ID_LAST + 1, &next_id);
	if (r == 0)
		r = field_array(o, "peers", SIZE_MAX, &list);
	if (r < 0)
		return r;
	if (json_array_size(list) > PEERS_MAX)
		return -E2BIG;
	p.next_id = (uint32_t)next_id;
	r = parse_list(list, &p);
	if (r == 0)
		*ret = p;
	return r;
}

int peers_load(const char *dir, struct peers *ret)
{
	CLEANUP_BUF struct buf text = {0};

	int r = peerfile_read(dir, FILE_PEERS, PEERFILE_PLAIN, &text);
	return r < 0 ? r : peers_parse(buf_slice(&text), ret);
}

int peers_save(const char *dir, const struct peers *p)
{
	CLEANUP_BUF struct buf text = {0};

	assert(p->n <= PEERS_MAX);
	peers_print(p, &text);
	return text.failed ? -ENOMEM : peerfile_write(dir, FILE_PEERS, buf_slice(&text));
}
