/*
 * diverged_impl.h: what is kept aside in a resync, within its rooms: diverged.c decides which rows and owns the tail,
 * diverged_leaf.c keeps blocks, diverged_line.c says rows in words.
 *
 * Ownership: a struct diverged is of one resync.  Threads: that of the resync, under the gate, shared; a checkpoint of another
 * calls diverged_sync() under the gate, exclusive. Errors: -errno of the index and the sink, -ENOMEM.
 */
#pragma once

#include <jansson.h>

#include "fs/core/replica/resync.h"
#include "fs/store/diverged.h"

struct diverged {
	struct fs *fs;
	struct diverged_sink *sink; /* borrowed */
	struct kv_iter *before;
	bool resumed, opened, dirty; /* something was kept; since the last sync */
	char id[DIVERGED_ID_MAX];
	uint64_t epoch, leader_epoch, first_seq, last_seq; /* of the history that ends here; whose takes its place */
	int64_t began_ns;
	uint64_t rows, files, bytes, lost_bytes, cold_bytes;
	uint64_t last_ino;   /* data was put of it last */
	struct buf old;      /* the row as it was */
	struct buf last;     /* key of the row kept last: a put that is tried again for want of space keeps it once */
	uint8_t *now, *data; /* a value of the index; a leaf's blocks */
};

/* diverged.c: the index as it was when the resync began; -ENOENT.  The value is borrowed until the next call. */
MUST_CHECK int diverged_row_before(struct diverged *d, struct slice key, struct slice *ret_value);
MUST_CHECK int diverged_inode_before(struct diverged *d, uint64_t ino, struct inode *ret);
/* 1: the index still has the row that is in d->old; 0: this resync has replaced it before. */
MUST_CHECK int diverged_still_here(struct diverged *d, struct slice key);
/* The directory that all goes to, made when there is something to be kept. */
MUST_CHECK int diverged_open_tail(struct diverged *d);
/* Takes `o` over. */
MUST_CHECK int diverged_put_line(struct diverged *d, json_t *o);

/* diverged_leaf.c: the leaf in d->old, before `r` takes its place; nothing when all of it went before. */
MUST_CHECK int diverged_keep_leaf(struct diverged *d, const struct row *r);

/* diverged_line.c: a line about the row, to which members are put; `gone`: the leader has nothing in its place. */
json_t *line_new(struct slice key, bool gone);
void line_int(json_t *o, const char *name, uint64_t v);
void line_hex(json_t *o, const char *name, struct slice s);
void line_object(json_t *o, uint64_t object); /* as it is named in its store */
/* What a row of any table but E says. */
void line_row(json_t *o, struct slice key, struct slice value);
/* The path of the inode or name that the row is about, if it has one and that can be told. */
void line_path(struct diverged *d, json_t *o, struct slice key);
