/*
 * guard_case.h: what the tests of the guard call it with: the errors there are, calls of each kind, what it says of itself.
 *
 * Threads: any.
 */
#pragma once

#include "tests/unit/guard_world.h"

static const int passing[] = {-EBUSY, -ETIMEDOUT, -ECONNREFUSED, -ECONNRESET, -EHOSTUNREACH, -EIO, -EBADMSG, -ENODEV};
static const int final[] = {-ENOENT, -EEXIST, -EACCES,    -ENOSPC, -EOPNOTSUPP, -EPROTO,
			    -EINVAL, -ENOMEM, -ECANCELED, -EDQUOT, -EPERM};
static const int away[] = {-ETIMEDOUT, -ECONNREFUSED, -ECONNRESET, -EHOSTUNREACH, -EIO, -ENODEV};

#define FOREGROUND(...) ((struct object_call){.purpose = OBJECT_FOREGROUND, ##__VA_ARGS__})
#define BACKGROUND(...) ((struct object_call){.purpose = OBJECT_BACKGROUND, ##__VA_ARGS__})

static const char bytes[4096];

static inline int put(struct world *w, struct object_call *call, size_t len, unsigned flags)
{
	struct iovec iov = {(void *)(uintptr_t)bytes, len}; /* the store of these tests looks at lengths alone */

	return w->guard->ops->put(w->guard, call, "a/b", &iov, 1, flags);
}
static inline int get(struct world *w, struct object_call *call, size_t len)
{
	return w->guard->ops->get(w->guard, call, "a/b", 0, len, NULL);
}
static inline int list_nothing(void *ctx, const char *key, const struct object_info *info)
{
	(void)ctx, (void)key, (void)info;
	return 0;
}
static inline int call_kind(struct world *w, enum object_kind kind, struct object_call *call)
{
	struct object_info info;

	switch (kind) {
	case OBJECT_PUT:
		return put(w, call, 10, 0);
	case OBJECT_GET:
		return get(w, call, 10);
	case OBJECT_HEAD:
		return w->guard->ops->head(w->guard, call, "a/b", &info);
	case OBJECT_REMOVE:
		return w->guard->ops->remove(w->guard, call, "a/b");
	default:
		return w->guard->ops->list(w->guard, call, "a/", "", list_nothing, NULL);
	}
}
static inline struct guard_status status(struct world *w)
{
	struct guard_status s;

	guard_get_status(w->guard, &s);
	return s;
}
