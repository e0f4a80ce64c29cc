/*
 * peers.h: who the nodes of a volume are: a small list, the same on every node, kept as JSON in DIR/peers/peers.json.
 *
 * The leader changes it (invite, remove, rename) and sends it to its followers.  `version` grows with every change, `epoch` is the
 * reign it was last changed or received in: of two lists the one of the later reign counts, of one reign the higher version.
 * Node ids are given out once and never again (next_id).
 * Ownership: a struct peers is a value.  Threads: none of its own.
 * Errors: -EUCLEAN for JSON that is none of these lists, -E2BIG above PEERS_MAX, -EEXIST a name that is taken, -ENOENT.
 */
#pragma once

#include "base/buf.h"
#include "replicate/wire/wire.h"

#define PEERS_MAX 16u

struct peer {
	uint32_t node_id;
	uint8_t node[16];
	char name[WIRE_NAME_MAX + 1];    /* letters, digits, '-', '_', '.'; starts with a letter or digit */
	char address[WIRE_TEXT_MAX + 1]; /* "host:port" where it listens */
};
struct peers {
	uint64_t epoch; /* 0: of before there was any other node */
	uint64_t version;
	uint32_t next_id;
	uint32_t n;
	struct peer peer[PEERS_MAX]; /* this node too */
};

static inline bool peers_newer(const struct peers *a, const struct peers *b)
{
	return a->epoch != b->epoch ? a->epoch > b->epoch : a->version > b->version;
}

bool peer_name_ok(const char *name);
/* "host:port", "[v6]:port"; the host comes without brackets.  -EINVAL; -ENAMETOOLONG when it does not fit. */
MUST_CHECK int address_parse(const char *text, char *ret_host, size_t cap, uint16_t *ret_port);

/* A uuid as text, which is what certificates and JSON have. */
#define NODE_UUID_TEXT 37
void node_uuid_text(const uint8_t node[16], char ret_text[NODE_UUID_TEXT]);
MUST_CHECK int node_uuid_parse(const char *text, uint8_t ret_node[16]); /* -EINVAL */

const struct peer *peers_find(const struct peers *p, const char *name);
const struct peer *peers_by_id(const struct peers *p, uint32_t node_id);
const struct peer *peers_by_node(const struct peers *p, const uint8_t node[16]);
/* `address` may be empty: it listens nowhere. */
MUST_CHECK int peers_add(struct peers *p, const uint8_t node[16], const char *name, const char *address, uint32_t *ret_id);
MUST_CHECK int peers_remove(struct peers *p, const char *name);
MUST_CHECK int peers_rename(struct peers *p, const char *name, const char *new_name);
void peers_print(const struct peers *p, struct buf *out); /* JSON */
MUST_CHECK int peers_parse(struct slice json, struct peers *ret);
/* DIR/peers/peers.json, replaced atomically and durably; -ENOENT.  DIR/peers is made when it is not there. */
MUST_CHECK int peers_load(const char *dir, struct peers *ret);
MUST_CHECK int peers_save(const char *dir, const struct peers *p);
