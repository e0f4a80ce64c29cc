/*
 * gc_list.h: what both walks of gc do alike, that of packs (gc.c) and that of the archive (fs/core/archive/gc.c): list a store a
 * portion at a time, and say, count and spare what nothing needs.
 *
 * Ownership: all is the caller's.  Threads: one.  Errors: -errno of the store, which were told.
 */
#pragma once

#include "fs/core/core.h"
#include "fs/core/tier/tier.h"
#include "tier/object.h"

#define GC_PORTION 1024u

struct gc_listed {
	uint64_t size;
	int64_t modified_ns; /* by the store's time; 0: not known */
};

struct gc_list {
	struct fs *fs;
	const struct tier_store *store; /* borrowed */
	const char *prefix;             /* of the keys that are listed */
	const char *unneeded;           /* how it is said that nothing needs an object: "nothing refers to it" */
	/* Takes a key apart, into the caller's i-th place; negative: it is not a name that clawfs gives. */
	int (*parse)(void *ctx, const char *key, size_t i);
	void *parse_ctx;
	bool dry; /* nothing is removed */
	void (*fn)(void *ctx, const char *line);
	void *ctx;
	struct gc_result *res;
	/* the portion at hand, in the order of keys */
	struct gc_listed e[GC_PORTION];
	size_t n;
	bool more; /* there are later keys */
	char last[OBJECT_KEY_MAX + 1];
};

void gc_say(const struct gc_list *l, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The next portion, from the start with a list that is all zeros so far. */
MUST_CHECK int gc_list_next(struct gc_list *l);

/*
 * Nothing needs the i-th of the portion, `key`: says so, and counts it unless it is younger than the store's grace time.  True:
 * remove it now.
 */
bool gc_may_remove(struct gc_list *l, size_t i, const char *key);
void gc_was_removed(struct gc_list *l, size_t i, const char *key);
