/*
 * memindex.h: an empty index in memory for one test case, and one in front of it that fails on demand.
 *
 * Threads: one.  Errors: none; the tests assert.
 */
#pragma once

#include <assert.h>

#include "tests/lib/kv_mem.h"

/* Hands everything on but writes, while `error` is set, and gets, while `get_error` is. */
struct flaky_kv {
	struct kv kv;
	struct kv_ops ops;
	struct kv *under;
	int error, get_error;
	unsigned writes;
};
struct memindex {
	struct kv_disk *disk;
	struct kv *kv; /* the index itself */
	struct flaky_kv flaky;
};

static inline int flaky_get(struct kv *kv, struct slice key, void *p, size_t cap, size_t *ret_len)
{
	struct flaky_kv *f = (struct flaky_kv *)kv;

	return f->get_error ? f->get_error : f->under->ops->get(f->under, key, p, cap, ret_len);
}

static inline int flaky_write(struct kv *kv, const struct kv_batch *b)
{
	struct flaky_kv *f = (struct flaky_kv *)kv;

	f->writes++;
	return f->error ? f->error : f->under->ops->write(f->under, b);
}

static inline void memindex_open(struct memindex *m)
{
	*m = (struct memindex){.disk = kv_disk_new(NULL)};
	int r = kv_mem_open(m->disk, true, &m->kv);
	assert(r == 0);
	m->flaky = (struct flaky_kv){.under = m->kv, .ops = {.get = flaky_get, .write = flaky_write}};
	m->flaky.kv.ops = &m->flaky.ops;
}

static inline void memindex_close(struct memindex *m)
{
	kv_close(m->kv);
	kv_disk_free(m->disk);
}
