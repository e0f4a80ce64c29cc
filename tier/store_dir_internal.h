/*
 * store_dir_internal.h: what the files of the directory store share: the store itself, ways to a directory below its root, words
 * for errors.
 */
#pragma once

#include <limits.h>
#include <sys/stat.h>

#include "base/lock.h"
#include "tier/store_dir.h"

/* '~' is in no key, so neither is the name of an object. */
#define MARKER_NAME   ".clawfs~store"
#define TEMP_PREFIX   ".tmp~"
#define TEMP_NAME_MAX 32

/* A directory that this process flushed into its parent, or found so. */
struct store_dir_known {
	dev_t dev;
	ino_t ino;
};
#define KNOWN_DIRS 1024u

struct store_dir {
	struct object_store base;
	const struct clock *clock;
	char path[PATH_MAX];
	struct mutex lock;
	/* guarded by lock */
	struct store_dir_known known[KNOWN_DIRS]; /* by hash: forgetting costs a flush */
	struct stat marker;                       /* as it was when it was read; st_ino 0: not yet */
	char id[33];                              /* what it said */
};

static inline struct store_dir *store_dir_of(struct object_store *s)
{
	return container_of(s, struct store_dir, base);
}

/* Sets the call's message and returns `error`; `key` may be NULL. */
int store_dir_fail(const struct store_dir *s, struct object_call *call, const char *key, const char *what, int error);
/* The same for an errno of the host, as one of object.h's errors. */
int store_dir_host_error(const struct store_dir *s, struct object_call *call, const char *key, const char *what, int host_errno);
/* -ECANCELED or -ETIMEDOUT once the call is to end. */
MUST_CHECK int store_dir_check_time(const struct store_dir *s, struct object_call *call, const char *key);

/* The root, which has its marker: -ENODEV when it is away. */
MUST_CHECK int store_dir_root(struct store_dir *s, struct object_call *call, int *ret_fd);
/* First use, as store_dir_config says. */
MUST_CHECK int store_dir_create(struct store_dir *s, struct object_call *call);
/*
 * The directory `key` is in, and its name there (into `key`).  With `make`, makes what is missing of the way, and sees to it that
 * all of it is durable.  -ENOENT: something is missing, or no directory.
 */
MUST_CHECK int store_dir_walk(struct store_dir *s, struct object_call *call, int root, const char *key, bool make, int *ret_fd,
			      const char **ret_name);
/* A file of a fresh temporary name, locked against sweeping. */
MUST_CHECK int store_dir_temp(int dir, char ret_name[TEMP_NAME_MAX], int *ret_fd);
/* Removes temporary files of writers that died. */
void store_dir_sweep(const struct store_dir *s, int dir);
/* The same for one of them, whose name the caller found. */
void store_dir_sweep_one(const struct store_dir *s, int dir, const char *name);
/* To `name`, or -EEXIST; -EOPNOTSUPP where the host cannot. */
MUST_CHECK int store_dir_rename_new(int dir, const char *temp, const char *name);

int store_dir_list(struct object_store *s, struct object_call *call, const char *prefix, const char *after, object_list_fn *fn,
		   void *ctx);
