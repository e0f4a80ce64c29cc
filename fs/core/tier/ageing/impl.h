/*
 * impl.h: what the files of ageing share: ageing.c (life, rounds, pauses), items.c (what waits), fill.c
 * (files into packs), read.c (their data), put.c (packs into stores), scan.c, clock.c, repack.c.  Others use tier.h.
 *
 * One thread, the packer, takes items from the queue, reads files and fills packs; so does whoever calls ageing_step().  A
 * finished pack goes to one of up to four uploaders, or, where memory is short or there are no threads, is seen through by the
 * packer itself.
 *
 * Threads: struct ageing is guarded by its lock, save what says otherwise.  The lock is held over no call of another room.
 * Ownership: an item is counted by those who have it: the packer, and each pack that holds leaves of it.
 */
#pragma once

#include <sys/queue.h>

#include "fs/core/tier/tier.h"

#define DAY_NS       (86400 * NSEC_PER_SEC)
#define UPLOADERS    4u
#define BATCH_ITEMS  512u
#define PAUSES_MAX   16u
#define LEAF_BYTES   (LEAF_SLOTS * BLOCK_SIZE)
#define FILL_LEAVES  16u /* read under a stripe at once: 1 MiB */
#define REPACK_SKIPS 256u
#define REMOVALS_MAX 256u
#define TRIES_MAX    8u

/* ---- what waits ---- */

enum item_reason {
	ITEM_HIGH_WATER, /* space is short, and it is among the coldest */
	ITEM_AGED,       /* its policy says so */
	ITEM_EXPLICIT,   /* somebody asked for it */
	ITEM_REPACK,     /* it has live leaves in an object that is packed again; never in the queue */
};
/* Where a flush stands: done once this one and all before it have no items left. */
struct flush_point {
	struct flush_point *next;
	uint64_t n_open;
	struct journal_waiter *waiters; /* by `next` */
};
struct item {
	uint64_t ino;
	struct item *chain;     /* in its bucket */
	TAILQ_ENTRY(item) link; /* while it waits */
	enum item_reason reason;
	uint64_t bytes;                   /* guessed, for how long to wait for more */
	int64_t queued_ns, not_before_ns; /* mono */
	struct flush_point *point;        /* NULL: nobody waits for it */
	unsigned refs;                    /* taken by this many; 0: it waits */
	bool again;                       /* asked for while it was on its way */
	bool stale;                       /* changed on its way */
	bool skip;                        /* it need not, or must not, go out */
	bool retry;                       /* worth another try */
	bool failed;                      /* and was counted as that */
	unsigned tries;                   /* that failed, and not for its store */
	int error;                        /* it cannot go out */
	/* the packer's own */
	bool watched;
	uint32_t store;
	int64_t coldness_ns; /* when it was last touched */
	uint64_t covered;    /* leaves below are in packs, or need not be */
};
TAILQ_HEAD(item_list, item);
struct queue {
	struct item_list asked, found;
	struct item **bucket;
	size_t n_buckets, n, max, n_asked, n_found;
	uint64_t found_bytes;
	bool let_go;                      /* found items do not wait for more: until there are none */
	struct flush_point *first, *last; /* last: where new items belong */
};

/* ---- packs ---- */

/* The leaves [from, to) of a file are dealt with by this pack; to == from: nothing of it is dropped. */
struct pack_file {
	struct item *item;
	uint64_t from, to;
	size_t first, n; /* of pack->leaf */
	bool placed;
};
enum pack_phase { PACK_FILLING, PACK_WAITING, PACK_STORING, PACK_PLACING, PACK_SYNCING, PACK_DROPPING };
struct pack {
	struct pack *next;
	LIST_ENTRY(pack) link;      /* of ageing.packs */
	struct pack_writer *writer; /* NULL: only drops */
	const struct tier_store *store;
	uint64_t object;
	uint64_t room; /* bytes it may grow to */
	uint64_t blocks;
	struct pack_file *file;
	size_t n_files, cap_files;
	struct packed_leaf *leaf;
	size_t n_leaves, cap_leaves;
	/* guarded by ageing.lock */
	enum pack_phase phase;
	int64_t phase_since_ns;
};
LIST_HEAD(pack_list, pack);

/* ---- the rest ---- */

/* A store that does not work just now. */
struct store_pause {
	char name[STORE_NAME_MAX + 1]; /* "": none */
	int64_t until_ns, backoff_ns;
	char why[OBJECT_MESSAGE_MAX];
};
/* clock.c: a clock that believes a jump only after a day. */
struct steady_clock {
	int64_t real_ns, mono_ns;       /* they were the same moment */
	int64_t jump_ns, jump_since_ns; /* by how much the host's clock is elsewhere, since (mono); 0: it is not */
};
struct scan_heap {
	struct cold_file {
		int64_t touched_ns;
		uint64_t ino, bytes;
	} * file; /* the one touched last on top */
	size_t n;
};
struct scan {
	bool running, asked;
	uint64_t next_ino, n_found; /* of this pass */
	int64_t due_ns, look_ns;    /* mono: when it goes on, and the next look at how full the volume is */
	struct scan_heap heap;
};

/* Dead objects are removed after a sync that began when they were dead. */
enum repack_sync { SYNC_NONE, SYNC_ASKED, SYNC_DONE };
struct repack_state {
	enum repack_sync sync; /* guarded by ageing.lock */
	struct journal_waiter waiter;
	uint64_t removal[REMOVALS_MAX];
	size_t n_removals;
	uint64_t next_object, next_dead; /* where the pass is; 0: at its begin */
	int64_t due_ns, skips_since_ns;  /* mono */
	uint64_t skipped[REPACK_SKIPS];  /* objects that were tried lately */
	size_t n_skipped, next_skip;
	bool hurried; /* this pass was asked for: new objects too, and those that were skipped */
};

struct ageing {
	struct fs *fs;
	struct mutex lock;
	struct cond wake;      /* the packer */
	struct cond ready;     /* uploaders */
	struct cond room;      /* a pack is done, or a thread ended */
	uint64_t memory_bytes; /* that packs may take */
	uint64_t pack_bytes_max;
	/* guarded by lock */
	struct queue queue;
	struct pack_list packs;
	uint64_t packs_room; /* bytes that those may grow to */
	struct pack *first_ready, **last_ready;
	struct store_pause pause[PAUSES_MAX];
	int64_t asked_ns; /* mono: when somebody last named a file */
	bool stop, kicked, scan_asked, repack_asked;
	unsigned n_threads; /* that run */
	struct ageing_status status;
	struct steady_clock clock;
	int first_error; /* of a step */
	/* the packer's own */
	bool eager;                /* a step: waits for nothing */
	bool high_water;           /* as status.high_water */
	struct pack *open, *drops; /* being filled */
	struct reader *reader;     /* made with the first file */
	struct scan scan;
	struct repack_state repack;
	pthread_t packer, uploader[UPLOADERS];
	bool packer_runs;
	unsigned n_uploaders; /* 0: packs are seen through by the packer */
};

/* items.c */
int items_init(struct queue *q, size_t max);
void items_destroy(struct queue *q); /* nothing is in it */
/* 0 also when it was there already, perhaps for a lesser reason; -EAGAIN: full; -ENOMEM. */
MUST_CHECK int items_push(struct ageing *a, uint64_t ino, enum item_reason reason, uint64_t bytes) REQUIRES(a->lock);
/* A taken item that never waited; -EBUSY: it is in the queue or on its way. */
MUST_CHECK int items_claim(struct ageing *a, uint64_t ino, struct item **ret) REQUIRES(a->lock);
/* Up to `max` items, each with one reference, that may be tried now; `all`: whether they may or not. */
size_t items_take(struct ageing *a, bool all, struct item **ret, size_t max) REQUIRES(a->lock);
/* When the next one may be tried (mono), INT64_MAX: none waits. */
int64_t items_next_ns(const struct ageing *a) REQUIRES(a->lock);
/* Nobody waits for it any more. */
void items_settle(struct ageing *a, struct item *it) REQUIRES(a->lock);
/* It waits again, at the front or until not_before_ns; it has no references. */
void items_return(struct ageing *a, struct item *it) REQUIRES(a->lock);
void items_forget(struct ageing *a, struct item *it) REQUIRES(a->lock); /* and frees it; not while it waits */
void items_add_waiter(struct ageing *a, struct journal_waiter *w) REQUIRES(a->lock);
/* Waiters whose turn has come (`all`: everybody), by `next`. */
struct journal_waiter *items_take_waiters(struct ageing *a, bool all) REQUIRES(a->lock);
bool items_have_waiters(const struct ageing *a) REQUIRES(a->lock);

/* pause.c */
/* Why nothing can be done now, into `why`; "" and true: it can.  `leads`: whether files may go out, or homes only be dropped. */
bool ageing_may_work(struct ageing *a, bool *ret_leads, char why[OBJECT_MESSAGE_MAX]);
bool ageing_stopping(struct ageing *a);
/* The store did not do what it should (`error`, and what it said), or did. */
void ageing_store_failed(struct ageing *a, const struct tier_store *s, int error, const char *message);
void ageing_store_worked(struct ageing *a, const struct tier_store *s);
/* As stores_get_by_name(), but -EAGAIN, noted, when it is of no use to ask it before *ret_until_ns (mono). */
MUST_CHECK int ageing_store_get(struct ageing *a, const char *name, const struct tier_store **ret, int64_t *ret_until_ns);
void ageing_note_error(struct ageing *a, int error, const char *message); /* for status; NULL: what errno says */
bool ageing_error_passes(int error); /* the same may succeed later, and it is not the file's fault that it did not */
struct store_pause *ageing_pause_of(struct ageing *a, const char *name) REQUIRES(a->lock); /* NULL: none */

/* ageing.c */
/* Threads that see packs through, unless memory is short; once. */
void ageing_start_uploaders(struct ageing *a);
/* One reference of an item goes; the last one decides what becomes of it. */
void ageing_release(struct ageing *a, struct item *it);
/* Tells those who flush and whose turn has come; with an error: all of them. */
void ageing_deliver(struct ageing *a, int error);

/* clock.c */
void steady_begin(struct ageing *a);
/* Compares it with the host's clock, and says when that has jumped. */
void steady_look(struct ageing *a);
int64_t steady_now(struct ageing *a); /* real time, as far as it is believed: to tell ages with */

/* read.c; the packer */
/* Leaves of a file in order, and the data of those of them that are to be packed. */
struct chunk {
	uint64_t leaf[FILL_LEAVES];
	struct leaf l[FILL_LEAVES];
	bool wanted[FILL_LEAVES];
	unsigned n;    /* FILL_LEAVES: there may be more */
	uint8_t *data; /* LEAF_BYTES for each, aligned */
};
struct reader;
/* `threads`: reads while others work, as far as it can have a thread.  -ENOMEM. */
MUST_CHECK int reader_new(struct fs *fs, bool threads, struct reader **ret);
struct reader *reader_free(struct reader *rd); /* nothing is asked for; NULL is fine; returns NULL */
/* The first chunk of a file; borrowed until the second chunk after it is asked for. */
MUST_CHECK int chunk_first(struct reader *rd, uint64_t ino, struct chunk **ret);
/* The chunk from a leaf on will be needed: each time chunk_next() must be called afterwards, whatever happened. */
void chunk_ask(struct reader *rd, uint64_t ino, uint64_t leaf);
MUST_CHECK int chunk_next(struct reader *rd, struct chunk **ret);

/* fill.c; the packer */
/* Files of a batch into packs; takes the references over. */
void fill_batch(struct ageing *a, struct item **item, size_t n);
/* `blocks` of one leaf into the open pack of that store; it grows a pack when there is none, and ships full ones. */
MUST_CHECK int fill_add(struct ageing *a, uint32_t store, struct item *it, uint64_t leaf, uint16_t mask, const uint8_t *blocks);
/* What is open goes on its way, however little is in it. */
void fill_ship(struct ageing *a);
bool item_is_cold(struct ageing *a, const struct tier_policy *p, int64_t touched_ns, uint64_t size);

/* put.c */
MUST_CHECK int pack_open(struct ageing *a, uint32_t store, struct pack **ret); /* store 0: one that only drops */
/* A file of the pack, with a reference of its own; the last one when it is the same. -ENOMEM. */
MUST_CHECK int pack_note_file(struct ageing *a, struct pack *p, struct item *it, struct pack_file **ret);
MUST_CHECK int pack_note_leaf(struct pack *p, const struct packed_leaf *leaf);
/* Stores, verifies, places, syncs, drops, and frees the pack; whatever fails, its files know. */
void pack_run(struct ageing *a, struct pack *p);
void pack_abandon(struct ageing *a, struct pack *p); /* its files are tried again */

/* scan.c; the packer */
void scan_look_full(struct ageing *a);       /* is space short? */
bool scan_round(struct ageing *a, bool all); /* some inodes, or all: true when there was something to do */
void scan_close(struct ageing *a);

/* repack.c; the packer */
bool repack_round(struct ageing *a, bool now);
