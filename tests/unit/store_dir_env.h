/*
 * store_dir_env.h: a directory as an object store, for tests: a store in a directory of its own, its calls in short, and system
 * calls that fail when told (store_dir_env.c).
 *
 * Threads: any; what fails is said for each thread by itself.  Errors: a failed assertion.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "tests/unit/tempdir.h"
#include "tier/store_dir.h"

#define DAY (86400 * NSEC_PER_SEC)

/* What happens to system calls of this thread. */
struct store_fault {
	bool armed, die, late; /* late: fails, or dies, after it was done */
	int countdown;         /* this call, counted from 1 */
	int error;
	bool short_io, hit, no_rename, no_link, damage;
	bool no_flush; /* nobody cuts the power here: spares the disk where there are thousands */
};
extern _Thread_local struct store_fault fault;

/* write() itself, which never fails here. */
ssize_t __real_write(int fd, const void *p, size_t len);

/* ---- a store ---- */

struct world {
	struct clock clock;
	int64_t skew_ns, mono_ns; /* mono_ns: 0 is the system's */
	char top[256], path[280];
	struct object_store *store;
	struct object_call call;
	char *big; /* 3 MiB and a little of changing bytes */
};
#define BIG (3 * MIB + 12345)

static inline int64_t skewed_real(const struct clock *c)
{
	return clock_real_ns(&clock_system) + container_of((struct clock *)(uintptr_t)c, struct world, clock)->skew_ns;
}
static inline int64_t told_mono(const struct clock *c)
{
	struct world *w = container_of((struct clock *)(uintptr_t)c, struct world, clock);

	if (!w->mono_ns)
		return clock_mono_ns(&clock_system);
	return w->mono_ns += 1000;
}

static inline struct object_store *open_at(struct world *w, const char *path, bool create)
{
	struct store_dir_config c = {.path = path, .clock = &w->clock, .create = create};
	struct object_store *s = NULL;
	char message[OBJECT_MESSAGE_MAX];

	int r = store_dir_open(&c, &s, message);
	if (r < 0)
		fail_msg("%s", message);
	return s;
}

static inline int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	w->clock = (struct clock){skewed_real, told_mono};
	tempdir_make(w->top);
	snprintf(w->path, sizeof(w->path), "%s/cold", w->top);
	w->store = open_at(w, w->path, true);
	w->big = malloc(BIG);
	for (size_t i = 0; i < BIG; i++)
		w->big[i] = (char)(i * 2654435761u >> 11);
	*state = w;
	return 0;
}
static inline int teardown(void **state)
{
	struct world *w = *state;

	memset(&fault, 0, sizeof(fault));
	object_store_close(w->store);
	tempdir_remove(w->top);
	free(w->big);
	free(w);
	return 0;
}

static inline int put(struct world *w, const char *key, const void *p, size_t len, unsigned flags)
{
	struct iovec iov = {(void *)(uintptr_t)p, len};

	w->call = (struct object_call){0};
	int r = w->store->ops->put(w->store, &w->call, key, &iov, 1, flags);
	assert_int_equal(w->call.verified, r == 0);
	assert_int_equal(w->call.message[0] != '\0', r != 0);
	return r;
}
static inline int get(struct world *w, const char *key, uint64_t off, size_t len, void *p)
{
	w->call = (struct object_call){0};
	return w->store->ops->get(w->store, &w->call, key, off, len, p);
}
static inline int head(struct world *w, const char *key, struct object_info *ret)
{
	w->call = (struct object_call){0};
	return w->store->ops->head(w->store, &w->call, key, ret);
}
static inline int drop(struct world *w, const char *key)
{
	w->call = (struct object_call){0};
	return w->store->ops->remove(w->store, &w->call, key);
}

static inline void assert_holds(struct world *w, const char *key, const void *p, size_t len)
{
	struct object_info info = {0};
	char *got = malloc(len + 1);

	assert_int_equal(head(w, key, &info), 0);
	assert_int_equal(info.size, len);
	assert_int_equal(get(w, key, 0, len, got), 0);
	assert_memory_equal(got, p, len);
	free(got);
}

static inline const char *below(const struct world *w, const char *name)
{
	static char path[1024];

	snprintf(path, sizeof(path), "%s/%s", w->path, name);
	return path;
}

/* Files in all the tree whose names begin with `prefix`. */
static const char *count_prefix;
static int counted;
static inline int count_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	counted += type == FTW_F && strncmp(path + ftw->base, count_prefix, strlen(count_prefix)) == 0;
	return 0;
}
static inline int count_files(const char *top, const char *prefix)
{
	count_prefix = prefix;
	counted = 0;
	nftw(top, count_one, 16, FTW_PHYS);
	return counted;
}

struct keys {
	char (*key)[64];
	uint64_t *size;
	int n, cap, stop_at, result;
};
static inline int take_key(void *ctx, const char *key, const struct object_info *info)
{
	struct keys *k = ctx;

	if (k->n < k->cap) {
		snprintf(k->key[k->n], 64, "%s", key);
		k->size[k->n] = info->size;
	}
	return ++k->n == k->stop_at ? k->result : 0;
}
static inline int list(struct world *w, const char *prefix, const char *from, struct keys *k)
{
	w->call = (struct object_call){0};
	int r = w->store->ops->list(w->store, &w->call, prefix, from, take_key, k);
	assert_int_equal(w->call.message[0] != '\0', r < 0 && k->result >= 0);
	return r;
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
