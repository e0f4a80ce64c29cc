/*
 * replication.h: what the two halves of replication in the daemon share: its life (replication.c), and what an admin sees of it as
 * attributes of the mount (replication_control.c).
 */
#pragma once

#include "base/lock.h"
#include "fs/cli/cli.h"
#include "fs/face/face.h"
#include "replicate/net/server.h"

struct replication {
	struct fs *fs;
	char *dir;
	struct node *node;
	struct server *server;
	struct control_provider provider;
	struct rwlock lock;
	/* guarded by lock */
	struct server *wakes; /* `server` while hooks may use it */
	struct face *face;
	struct mutex token_lock;
	/* guarded by token_lock */
	struct buf token;      /* of the newest invitation */
	int64_t token_ends_ns; /* mono */
};

void replication_point(struct replication *r, struct replica_point *ret);

/* replication_control.c; for struct control_provider and fs_hooks.status */
int replication_get(void *ctx, const struct fs_cred *cred, const char *name, struct buf *out);
int replication_set(void *ctx, const struct fs_cred *cred, const char *name, const void *value, size_t len);
void replication_status(void *ctx, void *object);
void replication_forget_token(struct replication *r);
