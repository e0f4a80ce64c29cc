/*
 * object.h: an object store as a table of functions: whole objects put under a key, read in ranges, removed, listed.
 *
 * Implementations: a directory (store_dir.h), S3 (s3/s3.h), the guard that stands in front of either (guard.h), and those of
 * the tests.  Nothing here knows what an object holds.
 *
 * Durability: after put() returned 0 the object is stored whole; no reader ever sees half of one.  A put that failed with an
 * unknown outcome (-EIO, -ETIMEDOUT, a connection's error) may have stored it, or may still.
 * Keys: 1 to OBJECT_KEY_MAX bytes of [A-Za-z0-9._/-], no empty part, none that is "." or "..": -EINVAL.  A store puts its own
 * prefix before them.
 * Ownership: a store is closed by its owner; nothing may be under way then.  Memory given to a call is borrowed for the call.
 * Threads: any function from any thread at once.  Calls block, at most until call->deadline_ns.
 *
 * Errors, the same of every implementation:
 *   -ENOENT     no such object              -EEXIST     put with OBJECT_CREATE, and it is there (or somebody else is putting it)
 *   -ENODEV     no such bucket or directory -EACCES     the credentials are refused, or not allowed to do this
 *   -ENOSPC     the store is full           -EBUSY      asked to slow down (call->retry_after_ns)
 *   -EOPNOTSUPP the store cannot do this    -EBADMSG    what came is not what was sent: checksum, length
 *   -EPROTO     an answer that makes no sense           -EINVAL a bad key or range
 *   -ETIMEDOUT, -ECONNREFUSED, -ECONNRESET, -EHOSTUNREACH, -EIO (5xx): the store is away or ill; worth another try
 *   -ENOMEM, -ECANCELED (call->cancel; the guard: breaker open, or closing), -EDQUOT (the guard: budget used up)
 */
#pragma once

#include <stdatomic.h>
#include <sys/uio.h>

#include "base/util.h"

#define OBJECT_KEY_MAX 512u
#define OBJECT_MESSAGE_MAX 240u

enum { OBJECT_CREATE = 1 << 0 }; /* put: only when there is none of that key; -EOPNOTSUPP where the store has no such condition */

enum object_purpose {
	OBJECT_FOREGROUND, /* somebody waits for it: recall */
	OBJECT_BACKGROUND, /* ageing, repacking, gc: waits for limits, and stops when the budget is used up */
};

/* One call: what it may take, and what came of it. */
struct object_call {
	int64_t deadline_ns;       /* monotonic; 0: the store's own limit */
	enum object_purpose purpose;
	const atomic_bool *cancel; /* borrowed; once true the call ends soon, with -ECANCELED; NULL: never.  In front of a guard: NULL */
	/* set by the store */
	int64_t retry_after_ns;    /* with -EBUSY: how long it asked to be left alone; 0: it did not say */
	bool verified;             /* put: the store confirmed a checksum of what it holds */
	int status;                /* HTTP status, 0 when there was none */
	char message[OBJECT_MESSAGE_MAX]; /* in words an admin can act on: which store, what it said; no secrets; "" when well */
};

struct object_info {
	uint64_t size;
	int64_t modified_ns; /* real time, by the store's clock; 0: unknown */
};

struct object_store;
/* `key` without the store's prefix.  0 to go on, 1 to stop, negative to fail. */
typedef int object_list_fn(void *ctx, const char *key, const struct object_info *info);

struct object_store_ops {
	int (*put)(struct object_store *s, struct object_call *call, const char *key, const struct iovec *iov, int n_iov, unsigned flags);
	/* Exactly [off, off + len) of an object; a shorter object is -EBADMSG. */
	int (*get)(struct object_store *s, struct object_call *call, const char *key, uint64_t off, size_t len, void *p);
	int (*head)(struct object_store *s, struct object_call *call, const char *key, struct object_info *ret);
	int (*remove)(struct object_store *s, struct object_call *call, const char *key); /* -ENOENT only where the store says so */
	/* Keys that begin with `prefix`, in byte order, those after `after` ("" for all). */
	int (*list)(struct object_store *s, struct object_call *call, const char *prefix, const char *after, object_list_fn *fn, void *ctx);
	void (*close)(struct object_store *s);
};
struct object_store {
	const struct object_store_ops *ops;
};

MUST_CHECK bool object_key_valid(const char *key);
/*
 * Whether the same call to the same store may succeed later without anybody's help: the store is away, ill or busy, or a body was
 * damaged on its way.  What only the guard says (-ECANCELED, -EDQUOT) is not among them.
 */
bool object_error_passes(int error);
/* NULL is fine; returns NULL. */
struct object_store *object_store_close(struct object_store *s);
