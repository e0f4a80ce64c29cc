/*
 * simstore.h: a store in memory that numbers every change, can fail any of them, and can say afterwards what a crash at
 * any of them would have left.
 *
 * What it trusts a host with is what base/disk.h says, no more: a write is lost, kept, torn at 512 bytes or reordered
 * until its disk was flushed; one with DISK_DURABLE is safe when it returns and any subset of its sectors before; a name
 * may vanish, or a removed one come back, until sync_names(); mapped memory survives kill -9, and after a power loss each
 * page holds its last version, an older one, or zeros.
 *
 * Events: write, write_many, flush, create, remove, sync_names, an index flush and a mark each take the next number, from
 * 1.  "Cut k" is a crash after event k returned and while event k + 1 may have been under way.
 *
 * Ownership: the test owns the simstore; simstore_open() lends it as a struct store, any number of times one after the other.
 * Images share pages with the simstore they came from but outlive it.
 * Threads: any within one simstore; a simstore, its cuts and its images belong to one thread together.
 * Errors: as base/disk.h; running out of memory aborts.
 */
#pragma once

#include "base/disk.h"
#include "tests/lib/rng.h"

struct simstore;
struct simcut;

/* Says each event on standard output: for a failure that is being looked at. */
extern bool simstore_trace;

/* An empty store that records its events. */
struct simstore *simstore_new(void);
void simstore_free(struct simstore *s);
/* The store as the product sees it; its close() leaves the simstore alone.  For struct fs_config. */
struct store *simstore_open(struct simstore *s);

/* The host filesystem: bytes in all; files take their size from it.  1 TiB unless set. */
void simstore_set_space(struct simstore *s, uint64_t total);

/* Number of the last event. */
uint64_t simstore_count(struct simstore *s);
/* A numbered event without effect on the store, such as "the operation was answered"; returns its number. */
uint64_t simstore_mark(struct simstore *s);
/* An event of the index beside the files: returns its number in *ret_event, and the error it is to fail with or 0. */
int simstore_index_event(struct simstore *s, uint64_t *ret_event);

/* Events from number `first` on fail with `error` (negative), `count` of them (UINT64_MAX: for ever).  Failed writes leave any
 * subset of their sectors unless the error is -ENOSPC; a failed flush drops any subset of what it should have made durable,
 * which a later flush does not bring back. */
void simstore_fail(struct simstore *s, uint64_t first, uint64_t count, int error);
/* Called before each write with DISK_DURABLE, without locks: what other threads would do meanwhile.  NULL: nothing. */
void simstore_on_durable_write(struct simstore *s, void (*fn)(void *ctx), void *ctx);
/* The next `count` index flushes fail with `error`. */
void simstore_fail_index(struct simstore *s, uint64_t count, int error);
/* The same for reads, which have numbers of their own. */
void simstore_fail_reads(struct simstore *s, uint64_t first, uint64_t count, int error);
uint64_t simstore_reads(struct simstore *s);
/* How many events and reads have failed so far. */
uint64_t simstore_failures(struct simstore *s);

/* What a crash does with the writes that nothing made durable. */
enum simcut_variant {
	SIMCUT_LOST,    /* power loss, nothing unflushed survives */
	SIMCUT_KEPT,    /* power loss, all of it does */
	SIMCUT_TORN,    /* power loss, any subset, torn at 512 bytes */
	SIMCUT_FILES,   /* power loss, all of it in some of the files, nothing in the others */
	SIMCUT_REORDER, /* power loss, applied in another order, some of it */
	SIMCUT_KILL,    /* kill -9: the host goes on; memory of the process is gone */
	SIMCUT_VARIANTS,
};
const char *simcut_variant_name(enum simcut_variant v);

/* Cuts of `s` (borrowed) in growing order, from 0. */
struct simcut *simcut_new(const struct simstore *s);
void simcut_free(struct simcut *c);
void simcut_advance(struct simcut *c, uint64_t event);
/* True when event k + 1 is an index flush, so that either index may be the one on disk. */
bool simcut_in_index_flush(const struct simcut *c);
/*
 * The store as the next mount finds it; `rng` makes the choices of the variant.  With `record` it numbers events in its turn,
 * from 1, and can be cut: after SIMCUT_KILL what the host had not yet written back can still be lost.
 */
struct simstore *simcut_image(const struct simcut *c, enum simcut_variant v, struct rng *rng, bool record);

/* Files, for damage on purpose: index 0 .. n-1 over those that exist. */
struct simstore_file {
	char name[64];
	uint64_t size;
	bool written; /* some page of it holds data */
};
size_t simstore_files(struct simstore *s, struct simstore_file *ret, size_t cap);
void simstore_peek(struct simstore *s, const char *name, void *p, size_t len, uint64_t off);
void simstore_poke(struct simstore *s, const char *name, const void *p, size_t len, uint64_t off);
/* Pages of `name` that were ever written: their numbers, ascending. */
size_t simstore_written_pages(struct simstore *s, const char *name, uint64_t *ret, size_t cap);
