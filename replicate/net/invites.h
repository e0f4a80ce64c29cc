/*
 * invites.h: the invitations that this node gave and that may still be used; DIR/peers/invites.json.
 *
 * One that was used stays until it expires, with the hash of the request that used it: the same joiner may ask again.
 * Durability: invites_save() replaces the file.  Ownership: a struct invites is a value that holds secrets: invites_wipe() it.
 * Threads: none of its own.  Errors: -EUCLEAN, -ENOSPC above INVITES_MAX, and those of peerfile.h.
 */
#pragma once

#include "replicate/net/join.h"

#define INVITES_MAX      32u
#define INVITE_TTL_MAX_S (30 * 24 * 3600u)

struct invite {
	char id[33];
	uint8_t secret[TOKEN_SECRET_BYTES];
	char name[WIRE_NAME_MAX + 1];
	int64_t expires_s;
	bool used;
	uint8_t request[32]; /* used: SHA-256 of the certificate request */
	uint8_t node[16];    /* used: who did */
};
struct invites {
	uint32_t n;
	struct invite invite[INVITES_MAX];
};

/* No file is an empty list. */
MUST_CHECK int invites_load(const char *dir, struct invites *ret);
MUST_CHECK int invites_save(const char *dir, const struct invites *v);
/* A new one with a random id and secret; takes the place of one for the same name.  Borrowed until the list changes. */
MUST_CHECK int invites_add(struct invites *v, const char *name, int64_t expires_s, const struct invite **ret);
struct invite *invites_find(struct invites *v, const char *id, int64_t now_s); /* NULL: unknown or expired */
void invites_expire(struct invites *v, int64_t now_s);
void invites_forget_node(struct invites *v, const uint8_t node[16]); /* the ones it used */
void invites_wipe(struct invites *v);
