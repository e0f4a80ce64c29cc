/*
 * tree.h: the names of faultfs, in memory, and those of them that a power cut can take back.
 *
 * Each create, link, unlink and rename is a pending operation until one of its directories is fsynced; a cut undoes all of
 * them, or some: each as a whole (a rename never leaves both names or neither), and with it those after it that went
 * through the same name.
 *
 * Ownership: a node lives while a directory, a pending operation or the kernel refers to it.
 * Threads: tree.lock guards everything here but node.undo, which has node.lock; tree.lock comes first.
 */
#pragma once

#include <pthread.h>
#include <sys/stat.h>

#include "tests/lib/faultfs/undo.h"

struct node;
struct entry {
	struct entry *next;
	struct node *node;
	char name[256];
};

struct node {
	struct node *next, **prev; /* all nodes */
	uint64_t id, refs, lookups, links;
	mode_t mode;
	uid_t uid;
	gid_t gid;
	struct timespec changed;
	struct entry *entries; /* of a directory */
	char path[1024];       /* where it was last put, for rules */
	pthread_mutex_t lock;
	struct undo undo; /* guarded by lock; fd is -1 but for a regular file, and does not change */
};

/* A name that changes from one node to another; NULL is no entry. */
struct slot {
	struct node *dir, *was, *now;
	char name[256];
};
struct name_op {
	int n;
	bool chosen;
	struct slot slot[2];
};

struct tree {
	pthread_mutex_t lock;
	/* guarded by lock */
	struct node *nodes, *root;
	struct name_op *pending;
	size_t n_pending;
	uint64_t next_id;
	int objects; /* directory of the files' bytes, by id */
};

void tree_init(struct tree *t, int objects);

/* Callers of all that follow hold tree.lock. */

/* A regular file or directory without a name: give it one, or a lookup, before the lock is released. */
struct node *node_new(struct tree *t, mode_t mode, uid_t uid, gid_t gid);
/* Gives back references; the last one frees. */
void node_put(struct tree *t, struct node *n, uint64_t refs, uint64_t lookups);
/* NULL when there is none. */
struct node *tree_find(struct node *dir, const char *name);

/* A change of `name`, from what it leads to now to `now`. */
struct slot slot_make(struct node *dir, const char *name, struct node *now);
/* Does the operation and remembers it until it is durable. */
void tree_do(struct tree *t, const struct name_op *op);
/* fsync of a directory: its operations are durable, and those before them that the same names went through. */
void tree_flush(struct tree *t, const struct node *dir);
void tree_cut(struct tree *t, enum cut_mode mode, struct dice *d, unsigned odds);
