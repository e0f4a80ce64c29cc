/*
 * simobject.h: object stores in memory that count every call, can fail any of them in every way a real one does, and can say what
 * was in them at any event of a simstore.
 *
 * A simobject holds the objects of any number of stores, told apart by their names: simobject_open() lends one of them as a
 * struct object_store (tier/object.h), simobject_hook() is that for struct fs_config.  What is put is there when put() returns,
 * whatever becomes of those who use it: it is another machine.
 *
 * Calls are counted by kind, from 1, over all stores together, tries of a guard each; faults name the calls they mean by that
 * number.  With a simstore given, each change of an object takes a number among its events (a mark, just before it happens), so
 * that simobject_at() gives the stores as they were at a cut.
 *
 * Ownership: the test owns the simobject, which outlives the stores opened on it.  Threads: any.
 * Errors: as tier/object.h; running out of memory aborts.  Deterministic: no clock but the one given, no random numbers.
 */
#pragma once

#include "base/clock.h"
#include "tests/lib/simstore.h"
#include "tier/definition.h"
#include "tier/guard.h"
#include "tier/object.h"

struct simobject;

/* `sim` (may be NULL) numbers the changes; `clock` (NULL: the system's) stamps objects. */
struct simobject *simobject_new(struct simstore *sim, const struct clock *clock);
void simobject_free(struct simobject *so);
/* Everything as it was after event `event` of so's simstore, and with `next` a change that was event + 1 too; no faults.  `sim`
 * as for simobject_new(). */
struct simobject *simobject_at(struct simobject *so, uint64_t event, bool next, struct simstore *sim);

/* The store `name`, which need not have existed; its close() leaves the objects alone. */
struct object_store *simobject_open(struct simobject *so, const char *name);
/* For struct fs_config: object_store_open, with the simobject as its context. */
int simobject_hook(void *simobject, const char *name, const struct store_definition *d, struct object_store **ret_store,
		   char *message);

/* ---- what kind of store it is ---- */

void simobject_set_conditions(struct simobject *so, bool yes); /* put takes OBJECT_CREATE (else -EOPNOTSUPP); yes unless told */
void simobject_set_verifies(struct simobject *so, bool yes);   /* put says `verified`; yes unless told */
void simobject_set_lies(struct simobject *so, bool yes); /* and says so of what it lost, tore or corrupted, too; no unless told */
void simobject_set_space(struct simobject *so, uint64_t bytes); /* of all stores: -ENOSPC beyond; without end unless told */
/* Opening `name` fails with `error`, as a store whose bucket or credentials are missing does; 0: no more.  NULL: any store. */
void simobject_refuse(struct simobject *so, const char *name, int error);

/* ---- faults ---- */

enum simobject_how {
	SIMOBJECT_FAIL,    /* nothing happens; `error` is returned */
	SIMOBJECT_AFTER,   /* it happens, then `error` is returned: the reply was lost */
	SIMOBJECT_LATE,    /* `error` is returned now, and it happens when the next call but this one comes: put and remove */
	SIMOBJECT_LOSE,    /* nothing happens; 0 is returned (a get gives zeros, a head or list finds nothing) */
	SIMOBJECT_CORRUPT, /* put: one byte of what is stored is another, and nobody verified it; get: of what is given */
	SIMOBJECT_TEAR,    /* put: only the first half is stored, and `error` (0 is fine) is returned; get: -EBADMSG */
	SIMOBJECT_HANG, /* waits for simobject_release(), then as if there was no fault (error: returns that, nothing happens) */
};
/* Calls of `kind` (OBJECT_KINDS: any, by their number among all) from number `first` on, `count` of them (UINT64_MAX: for ever).
 */
void simobject_fault(struct simobject *so, enum object_kind kind, uint64_t first, uint64_t count, enum simobject_how how,
		     int error);
void simobject_clear(struct simobject *so); /* no faults any more; what hangs is released */
/* Calls so far; OBJECT_KINDS: of all kinds. */
uint64_t simobject_calls(struct simobject *so, enum object_kind kind);
uint64_t simobject_faults(struct simobject *so);  /* how many met one */
uint64_t simobject_hanging(struct simobject *so); /* calls that wait now */
void simobject_release(struct simobject *so);     /* those that wait go on */
/* Called before each call does anything, without locks: what others would do meanwhile.  NULL: nothing. */
void simobject_on_call(struct simobject *so, void (*fn)(void *ctx, enum object_kind kind, const char *key), void *ctx);

/* ---- what is in them; behind everybody's back, and no event ---- */

struct simobject_entry {
	char store[STORE_NAME_MAX + 1];
	char key[OBJECT_KEY_MAX + 1];
	uint64_t size;
	int64_t modified_ns;
};
/* Entry `n` of all, by store and key; false when there are no more. */
bool simobject_entry(struct simobject *so, uint64_t n, struct simobject_entry *ret);
uint64_t simobject_count(struct simobject *so);
uint64_t simobject_bytes(struct simobject *so);
/* Bytes of an object, at most `cap`: its size; -1 when there is none. */
int64_t simobject_peek(struct simobject *so, const char *store, const char *key, void *p, size_t cap);
/* An object that nobody put, or another one in its place. */
void simobject_plant(struct simobject *so, const char *store, const char *key, const void *p, size_t len, int64_t modified_ns);
/* The byte at `off` of an object becomes another one; the object must have it. */
void simobject_corrupt(struct simobject *so, const char *store, const char *key, uint64_t off);
void simobject_erase(struct simobject *so, const char *store, const char *key); /* it must be there */
