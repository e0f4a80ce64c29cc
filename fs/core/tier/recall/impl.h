/*
 * impl.h: what the files of the recall share.  Others use tier.h and fs.h.
 *
 *     request  somebody waits: for the frames of some leaves (recall.c)
 *     want     a frame that is not in memory and should be, once, whoever waits for it (want.c)
 *     fetch    a thread gets a range of one object, with the wants in it (fetch.c, take.c)
 *     stream   a file that is read in order, so that what comes next is wanted before anybody asks (ahead.c)
 *     kept     a leaf that was read and gets a home (keep.c)
 *
 * Locks: recall->lock, over nothing but that of recalled.c.  Everything below is guarded by it unless it says otherwise.
 */
#pragma once

#include "fs/core/tier/recall/recalled.h"
#include "fs/core/tier/tier.h"

#define FRAME_BYTES     (LEAF_SLOTS * (uint64_t)BLOCK_SIZE) /* in memory, at most */
#define FETCH_THREADS   10u
#define FETCHES_A_STORE 8u /* so that one that is away does not take all threads */
#define FETCHES_FAILING 2u /* of a store whose last answer was an error */
#define WANT_BUCKETS    1024u
#define HELD_BUCKETS    64u
#define STREAMS         64u
#define STORE_STATES    16u
#define LEAVES_MAX      256u /* of one request */
#define BAD_MAX         3u   /* times that a frame may come damaged before it is */
#define SECONDS(ns)     ((long long)((ns) / NSEC_PER_SEC))

/* Where a leaf's data is. */
struct frame_ref {
	struct leaf_object at;
	uint64_t ino, leaf;
	uint16_t mask; /* slots that the frame has, or those of them that are cold */
	uint32_t store;
	uint32_t bytes; /* in memory */
	bool small;     /* all that the file has: others like it may lie around it */
};

struct recall_request;
struct want;
/* One frame of a request. */
struct link {
	struct link *next; /* of those who wait for the same frame */
	struct recall_request *request;
	struct want *want; /* NULL: answered */
	struct frame_ref frame;
	bool pinned;
};
enum request_state {
	REQUEST_PENDING, /* until there is memory for it */
	REQUEST_WAITING,
	REQUEST_TELLING, /* has its result */
	REQUEST_HELD,    /* told; its frames stay until recall_let_go() */
};
struct recall_request {
	struct recall_request *next, **at; /* pending, waiting, to be told, or of its bucket of those held */
	struct journal_waiter *waiter;
	uint64_t ino, leaf;
	int64_t began_ns; /* mono */
	enum object_purpose purpose;
	enum request_state state;
	unsigned flags;  /* BEGIN_* */
	uint64_t bytes;  /* of memory that it was admitted with */
	uint32_t n_open; /* links without an answer */
	int result;
	uint32_t n;
	struct link link[];
};

struct fetch;
struct want {
	struct want *next_hash;
	struct want *next, **at; /* of its queue, or of the fetch */
	struct frame_ref frame;
	struct link *waiters;
	struct fetch *fetch; /* NULL: queued */
	bool ahead;          /* nobody has asked for it yet */
	bool alone;          /* it came damaged in a larger range */
	unsigned bad;        /* times that it came damaged */
	int64_t retry_ns;    /* mono: not before */
};
struct want_queue {
	struct want *first, **last;
};

/* A range of an object on its way. */
struct fetch {
	struct fetch *next; /* active */
	struct store_state *state;
	uint64_t object;
	uint64_t off;
	uint32_t len;
	struct want_queue wants;
	bool window; /* goes on behind the last want */
};

/* What is known of a store by what it answered. */
struct store_state {
	uint32_t id; /* 0: free */
	uint32_t active;
	char name[STORE_NAME_MAX + 1];
	int64_t timeout_ns;
	bool failing;
	uint64_t n_failed; /* requests, since it began to fail */
	bool said;         /* that they do */
};

struct stream {
	uint64_t ino;     /* 0: free */
	uint64_t from;    /* a miss from here on to `planned` and a little goes on with it */
	uint64_t planned; /* the leaf behind the last that was looked at */
	uint64_t target;  /* is to be looked at up to here */
	uint64_t trigger; /* a read of this leaf or a later one moves the target */
	uint32_t window;  /* leaves; 0: one miss so far */
	int64_t used_ns;
	bool planning, ended;
};

/* A leaf that was read from memory and may get a home. */
struct keep_job {
	struct leaf_object at;
	uint64_t ino, leaf;
	uint16_t mask;
	bool dropped; /* the file is to go out: nothing of it is kept */
};
#define KEEP_JOBS 4096u

/* What an object needs to be read; a small cache, with a lock of its own. */
struct object_key_entry {
	uint64_t object;
	uint64_t used;
	uint32_t store;
	uint64_t bytes;
	struct pack_key key;
};
#define KEY_ENTRIES 32u

struct recall {
	struct fs *fs;
	uint64_t memory_bytes; /* fixed */
	uint32_t range_bytes;  /* of one GET, at most; fixed */
	uint64_t admit_bytes;  /* that requests may have pinned; fixed */
	uint64_t ahead_bytes;  /* wanted before anybody asks; fixed */
	atomic_bool stop;
	_Atomic uint32_t n_streams; /* with a window: whether reads have to be told */

	struct mutex lock;
	struct cond wake; /* fetch threads: something to do */
	struct cond told; /* n_telling shrank */
	struct recall_request *pending, **last_pending;
	struct recall_request *waiting, *telling;
	struct recall_request *held[HELD_BUCKETS];
	uint32_t n_telling, ending, n_waiting;
	uint64_t admitted; /* bytes */
	uint64_t n_held;

	struct want *hash[WANT_BUCKETS];
	struct want_queue asked, ahead;
	uint64_t ahead_now; /* bytes of wants that nobody asked for */
	struct fetch *active;
	struct store_state store[STORE_STATES];
	int64_t rate_free_ns; /* mono: when what was taken so far is paid for */
	struct stream stream[STREAMS];
	struct keep_job *keep; /* a ring; made with the first thread */
	uint32_t keep_first, n_keep;
	int64_t keep_since_ns; /* mono: the first came */
	uint64_t keep_bytes;
	uint64_t window_put, window_used; /* frames that came along, and those of them that were read */
	pthread_t thread[FETCH_THREADS];
	uint32_t n_threads, n_idle, n_keepers;
	struct recall_status status;

	struct mutex key_lock;
	struct object_key_entry keys[KEY_ENTRIES]; /* guarded by key_lock */
	uint64_t key_clock;                        /* guarded by key_lock */
};

/* ---- recall.c ---- */

/* An answer for one frame: pinned for its request when r is 0. */
void link_answer(struct recall *rc, struct link *l, int r) REQUIRES(rc->lock);
/* Tells those whose results are there.  No lock is held. */
void recall_tell(struct recall *rc) EXCLUDES(rc->lock);
/* The request ends with `r` for those of its frames that are open. */
void request_fail(struct recall *rc, struct recall_request *q, int r) REQUIRES(rc->lock);
enum {
	BEGIN_HOLD = 1 << 0,  /* frames stay until recall_let_go() */
	BEGIN_COLD = 1 << 1,  /* only those with cold slots */
	BEGIN_AHEAD = 1 << 2, /* who asks may be reading in order */
	BEGIN_QUIET = 1 << 3, /* what is read of it gets no home by that */
};
/*
 * Frames of the leaves [leaf, leaf + n), n up to LEAVES_MAX, for `w`, which is told once, now or later.  Without threads
 * everything is done before it returns.
 */
void recall_begin(struct fs *fs, uint64_t ino, uint64_t leaf, uint64_t n, enum object_purpose purpose, unsigned flags,
		  struct journal_waiter *w);
void recall_let_go(struct fs *fs, struct journal_waiter *w);
/* Waits for a request that recall_begin() was given with it. */
struct recall_sleeper {
	struct journal_waiter waiter;
	struct mutex lock;
	struct cond wake;
	bool done;
	int result;
};
void sleeper_init(struct recall_sleeper *s);
int sleeper_wait(struct recall_sleeper *s); /* and it is gone */

/* ---- want.c ---- */

void queue_init(struct want_queue *q);
/* The link waits for its frame: joins who wants it, or a fetch that brings it, or asks for it.  -ENOMEM. */
MUST_CHECK int want_join(struct recall *rc, struct link *l) REQUIRES(rc->lock);
/* Wants a frame that nobody asked for. */
void want_ahead(struct recall *rc, const struct frame_ref *f) REQUIRES(rc->lock);
/* The link waits no more; a want that nobody else waits for is dropped unless it is on its way. */
void want_leave(struct recall *rc, struct link *l) REQUIRES(rc->lock);
/* Every link is answered with `r`, and the want is gone. */
void want_end(struct recall *rc, struct want *w, int r) REQUIRES(rc->lock);
/* Out of the queue that it is in; a fetch does it with one that it is looking at. */
void want_unlink(struct recall *rc, struct want *w) REQUIRES(rc->lock);
/* On its way with `f` from now on. */
void want_take(struct recall *rc, struct want *w, struct fetch *f) REQUIRES(rc->lock);
/* Back from a fetch to the head of its queue. */
void want_again(struct recall *rc, struct want *w, int64_t retry_ns) REQUIRES(rc->lock);

/* ---- take.c ---- */

/* The next range that should be got, out of the queues; false: there is none.  *ret_wait_ns: until there may be (INT64_MAX:
 * never). */
bool fetch_take(struct recall *rc, bool ahead, struct fetch *f, int64_t now_ns, int64_t *ret_wait_ns) REQUIRES(rc->lock);
struct store_state *store_state_of(struct recall *rc, uint32_t store) REQUIRES(rc->lock);

/* ---- fetch.c ---- */

/* Gets the range, verifies what is in it, puts it into memory and answers. */
void fetch_run(struct recall *rc, struct fetch *f) EXCLUDES(rc->lock);
/*
 * Frames in a buffer that begins at `off` of the object, from *at on, as far as they are whole: `fn` is given where each is and
 * how long; 0 to go on.  *at is behind the last.  -EUCLEAN: something there is no frame.
 */
typedef int frame_walk_fn(void *ctx, const struct pack_key *key, const uint8_t *p, size_t len, uint32_t offset,
			  uint32_t frame_len);
int frames_walk(const struct pack_key *key, uint32_t off, const uint8_t *p, size_t len, uint32_t *at, frame_walk_fn *fn,
		void *ctx);

/* ---- failed.c ---- */

/* What a store answered: the wants of `f` go back to the queue, and requests that have waited long enough fail. */
void fetch_failed(struct recall *rc, struct fetch *f, int r, const char *message) EXCLUDES(rc->lock);
void fetch_succeeded(struct recall *rc, struct fetch *f, uint64_t bytes) EXCLUDES(rc->lock);
/* The frame is not what it should be, or not there; the want is ended. */
void want_damaged(struct recall *rc, struct want *w, const char *what) EXCLUDES(rc->lock);

/* ---- leaf.c ---- */

/* The frames that leaves [leaf, leaf + n) have, at most `n` of them, in order: all of them, or with `cold` those with cold slots;
 * *ret_end: the leaf behind the last of the file. */
MUST_CHECK int frames_of(struct fs *fs, uint64_t ino, uint64_t leaf, uint64_t n, bool cold, struct frame_ref *ret,
			 uint32_t *ret_n, uint64_t *ret_end);
/* Whether the leaf still has its data there. */
bool frame_is_current(struct fs *fs, const struct frame_ref *f);
/* -ENOENT: no such object; -EBADMSG: its key cannot be opened; -EIO.  Not under recall->lock. */
MUST_CHECK int object_key_get(struct recall *rc, uint64_t object, struct object_key_entry *ret);
void object_key_wipe(struct object_key_entry *e);
void object_keys_forget(struct recall *rc);

/* ---- ahead.c ---- */

void stream_missed(struct recall *rc, uint64_t ino, uint64_t leaf, uint64_t n, int64_t now_ns) REQUIRES(rc->lock);
/* One that should be looked at further; NULL. */
struct stream *stream_due(struct recall *rc) REQUIRES(rc->lock);
/* Looks at its next leaves and wants them.  The lock is given up meanwhile. */
void stream_plan(struct recall *rc, struct stream *s) REQUIRES(rc->lock);

/* ---- keep.c ---- */

/* Gives homes to the leaves at the head of the queue.  The lock is given up meanwhile. */
void keep_run(struct recall *rc) REQUIRES(rc->lock);
/* Or *ret_wait_ns is lowered to when it will be. */
bool keep_is_due(const struct recall *rc, int64_t now_ns, int64_t *ret_wait_ns) REQUIRES(rc->lock);
bool keep_is_behind(const struct recall *rc) REQUIRES(rc->lock);
void keep_drop_all(struct recall *rc) REQUIRES(rc->lock);

/* ---- rate.c ---- */

/* Takes `bytes` out of the bucket and waits until they are there; false: the end. */
bool rate_take(struct recall *rc, uint64_t bytes) EXCLUDES(rc->lock);

/* ---- thread.c ---- */

/* There is something to do: wakes a thread, or starts one.  Below 0: there is none at all. */
int threads_wake(struct recall *rc) REQUIRES(rc->lock);
void threads_stop(struct recall *rc) EXCLUDES(rc->lock);
/* Without threads: everything that is queued. */
void recall_step(struct recall *rc) EXCLUDES(rc->lock);
