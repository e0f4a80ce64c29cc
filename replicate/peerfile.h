/*
 * peerfile.h: the small files of DIR/peers: lists, certificates, keys.
 *
 * Durability: a write replaces the whole file and returns when that is durable: after a crash there is the old one or the new.
 * Format: files are 0600, the directory 0700; neither is ever reached through a symbolic link.
 * Threads: any; writes come one after the other.
 * Errors: -ENOENT, -ELOOP a symbolic link, -E2BIG above PEERFILE_MAX, -EACCES a secret that others can read or that is another
 * user's, and what the host says.  All but -ENOENT are logged here, with the file's name.
 */
#pragma once

#include "base/util.h"
#include "replicate/secret.h"

#define PEERFILE_MAX (64u * 1024u)

#define FILE_CA_CERTIFICATE   "ca.pem"
#define FILE_CA_KEY           "ca.key"
#define FILE_NODE_CERTIFICATE "node.pem"
#define FILE_NODE_KEY         "node.key"
#define FILE_PEERS            "peers.json"
#define FILE_INVITES          "invites.json"

enum peerfile_kind { PEERFILE_PLAIN, PEERFILE_SECRET };

/* Appends what is in it; free with secret_free() when it is a secret. */
MUST_CHECK int peerfile_read(const char *dir, const char *name, enum peerfile_kind kind, struct buf *ret);
/* Makes DIR/peers when it is not there; DIR must be. */
MUST_CHECK int peerfile_write(const char *dir, const char *name, struct slice content);
