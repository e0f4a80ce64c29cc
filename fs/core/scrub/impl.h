/*
 * impl.h: what the rooms of fs/core see of the scrub, and its files of each other.  Others use scrub.h.
 *
 *     scrub.c       the thread, its states, commands
 *     walk.c        a pass: superblocks, rows of the index, data of files, cold data
 *     snaps.c       of it: blocks that only snapshots have
 *     parts.c       and their data that lies in objects, or in frames that others are in, too
 *     verify.c      one leaf read and compared
 *     damage.c      which blocks of files are damaged or were; damage_rows.c keeps that in the index
 *     quarantine.c  which blocks of the arena failed and are not used again
 *     repair.c      a good copy of a block from somewhere, and its new home
 *     frame.c       a packed frame that a snapshot has, made anew where it lies
 *     ask.c         peers as such a source, and answers to theirs
 *     heal.c        what they did not have is looked for where looking costs more, all of it in one go (heal.h, wants.h)
 *     heal_run.c    when that is done: by a pass, and in the background
 *     parked.c      reads that wait for a repair
 *     clear.c       giving up what cannot be repaired
 *     report.c      JSON and words
 *
 * Locks, each a leaf in the order of locks: those of damage, quarantine, asks, parked and scrub.  None is held over a call that locks,
 * nor over I/O, save that of damage and quarantine over changes of the index when a checkpoint draws its line.
 */
#pragma once

#include "fs/core/core.h"
#include "fs/core/scrub/scrub.h"

/* ---- life: called by open.c ---- */

MUST_CHECK int damage_open(struct fs *fs); /* the index is open, and nothing was applied yet */
void damage_close(struct fs *fs);          /* NULL is fine, as below */
MUST_CHECK int scrub_open(struct fs *fs);  /* everything else is; a pass that was under way goes on */
void scrub_shut(struct fs *fs);            /* who waits for a repair is answered, threads end */
void scrub_close(struct fs *fs);
/* Under the gate, exclusive, before a line is drawn: what changed goes into the index. */
MUST_CHECK int scrub_save(struct fs *fs);

/* ---- damage.c ---- */

enum damage_state { DAMAGE_BAD = 1, DAMAGE_REPAIRED = 2 };
#define DAMAGE_FILES_MAX  1000u
#define DAMAGE_BLOCKS_MAX 16384u
struct damaged_block {
	uint64_t ino, block;
	int64_t found_ns, changed_ns; /* real */
	int64_t tried_ns;             /* mono: when repairing it failed last; 0: it was not tried since the mount */
	int64_t searched_ns;          /* mono: when heal.c did not find it; 0: it was not looked for since the mount */
	enum damage_state state;
	bool dirty;                   /* its row is not what this says */
};
/* A block is damaged.  True: that is news. */
bool damage_note(struct fs *fs, uint64_t ino, uint64_t block);
/* It was repaired, or reads as it should. */
void damage_repaired(struct fs *fs, uint64_t ino, uint64_t block);
/* It could not be repaired: not tried again at once. */
void damage_tried(struct fs *fs, uint64_t ino, uint64_t block);
bool damage_tried_lately(struct fs *fs, uint64_t ino, uint64_t block);
/* The same of a search; whether that was within the last `ago_ns`. */
void damage_searched(struct fs *fs, uint64_t ino, uint64_t block);
bool damage_searched_lately(struct fs *fs, uint64_t ino, uint64_t block, int64_t ago_ns);
/* Whether it is known as damaged. */
bool damage_is_bad(struct fs *fs, uint64_t ino, uint64_t block);
/* The file has other data there by now, or is gone (block UINT64_MAX: all of it). */
void damage_forget(struct fs *fs, uint64_t ino, uint64_t block);
/* By extent_put(), of a logged change; costs one load where nothing is damaged. */
void damage_replaced(struct fs *fs, uint64_t ino, uint64_t leaf, const struct leaf *old, const struct leaf *new);
struct damage_file {
	uint64_t ino;
	uint64_t n_bad, n_repaired;
	int64_t changed_ns;
};
/* The first file from `ino` on that has any; false: none. */
bool damage_next(struct fs *fs, uint64_t ino, struct damage_file *ret);
/* The first damaged block of the file from `block` on. */
bool damage_next_block(struct fs *fs, uint64_t ino, uint64_t block, uint64_t *ret_block);
struct damage_sum {
	uint64_t n_files, n_bad, n_repaired; /* in the table */
	uint64_t beyond;                     /* blocks found since the mount that it had no room for */
};
void damage_get_sum(struct fs *fs, struct damage_sum *ret);

/* ---- quarantine.c ---- */

#define QUARANTINE_MAX 65536u
/* In place of a birth: clones shared the home, so that a slot has it of which nothing is known here. */
#define QUARANTINE_SHARED (UINT32_MAX - 1)
struct quarantined {
	pointer_t home;
	uint64_t ino, block;
	uint32_t birth;
	bool dirty;
};
/* The home failed; once no slot has it any more it is nobody's, and not free.  Beyond QUARANTINE_MAX nothing is kept. */
void quarantine_add(struct fs *fs, const struct quarantined *q);
void quarantine_remove(struct fs *fs, pointer_t home);
void quarantine_share(struct fs *fs, pointer_t home); /* it was cloned: one that is there is never given back by a test */
/* By extent.c, when a home goes: true when it must stay in use.  One load where there is none. */
bool quarantine_has(struct fs *fs, pointer_t home);
/* The first from `home` on. */
bool quarantine_next(struct fs *fs, pointer_t home, struct quarantined *ret);
uint64_t quarantine_count(struct fs *fs);
/* Tests all of them by writing; *ret_n are given back. */
MUST_CHECK int quarantine_release(struct fs *fs, uint64_t *ret_n);

/* ---- verify.c ---- */

/* What reading one leaf found. */
struct leaf_verdict {
	struct leaf leaf;
	uint16_t checked;  /* slots that were read */
	uint16_t bad;      /* of those */
	bool bad_row;      /* the leaf itself cannot be read */
};
/*
 * Reads every block of the leaf that is here, past all caches, and compares it; `room` is LEAF_SLOTS blocks, aligned.  What was found
 * is noted, nothing is repaired.  -ENOENT: the file is gone, -EBUSY: the volume is between two states.
 */
MUST_CHECK int leaf_verify(struct fs *fs, uint64_t ino, uint64_t leaf, uint8_t *room, struct leaf_verdict *ret);
/* The same of the slots in `mask` of ret->leaf, which the caller has read and which cannot change meanwhile; sets the rest of *ret. */
MUST_CHECK int slots_verify(struct fs *fs, uint64_t ino, uint64_t leaf, uint16_t mask, uint8_t *room, struct leaf_verdict *ret);
/* Slot `i` as it says, staged, at home or packed: 0, -EBADMSG it is not that, -EIO, -EUCLEAN.  The stripe is held. */
MUST_CHECK int verify_slot(struct fs *fs, const struct leaf *l, unsigned i, uint8_t *block);
/* A read came upon a damaged block, of leaf `l` (NULL: it cannot be read): notes, counts and logs it; -EBADMSG. */
int verify_failed(struct fs *fs, uint64_t ino, uint64_t block, const struct leaf *l, int why);

/* ---- repair.c ---- */

struct block_question {
	uint64_t ino, leaf;
	unsigned slot;
	uint32_t crc;
	struct leaf_object object; /* the slot is tiered there; id 0: it is not */
	bool shared;               /* its home may be in a snapshot, or is that of one */
	pointer_t home;            /* that is damaged; 0: it waits in the ring, or is packed */
	pointer_t frame;           /* it is packed there, which a snapshot may have; 0: it is not */
};
struct repair_status {
	_Atomic uint64_t repaired, failed, by_replica, by_tier, by_copy, by_journal, by_archive, in_place, lies, answered, refused;
	_Atomic int64_t last_ns; /* real */
};
/*
 * Gets the data of a damaged block and gives it a new home.  0: it reads as it should now, -ENOENT: there is no such data (any more),
 * -EBADMSG: nobody has it, -EROFS, -ENOSPC.  Takes as long as its sources do, at most; no lock is held.
 */
MUST_CHECK int repair_block(struct fs *fs, uint64_t ino, uint64_t block);
/* Where a good copy came from. */
enum repair_from { REPAIR_REPLICA, REPAIR_TIER, REPAIR_COPY, REPAIR_JOURNAL, REPAIR_ARCHIVE };
/* Whether the block is damaged, and what it wants: 1 and *ret; 0 it reads as it should, 2 it waits in the ring; -ENOENT and others. */
MUST_CHECK int repair_look(struct fs *fs, uint64_t ino, uint64_t block, struct block_question *ret);
/* As repair_block(), with a block that somebody had; -EBADMSG: it has not the CRC; -ESTALE: the file has other data by now. */
MUST_CHECK int repair_given(struct fs *fs, const struct block_question *q, const uint8_t *block, enum repair_from from);
/* From the object that the question names, -ENOENT when it names none; not compared. */
MUST_CHECK int repair_fetch_tier(struct fs *fs, const struct block_question *q, uint8_t *block);
/* Whether the block has the CRC; one that has not is counted as a lie. */
bool repair_is_wanted(struct fs *fs, const struct block_question *q, const uint8_t *block);
/* From peers, or its object, compared: 0 and *ret_from, or -EBADMSG. */
MUST_CHECK int repair_fetch(struct fs *fs, const struct block_question *q, uint8_t *block, enum repair_from *ret_from);
/* It was: notes, counts and logs it. */
void repair_say(struct fs *fs, const struct block_question *q, enum repair_from from);
/* Blocks of a recalled frame to their places by slot; false: it is not in memory, or does not have them all. */
bool frame_copy(struct fs *fs, const struct leaf_object *at, uint16_t mask, uint8_t *blocks);
/* Whether anybody could have the data: a peer that can be asked. */
bool repair_has_source(struct fs *fs);

/* ---- frame.c ---- */

/* Blocks of a frame that were found, by slot; NULL: that one was not.  Borrowed. */
struct frame_given {
	const uint8_t *block[LEAF_SLOTS];
	enum repair_from from[LEAF_SLOTS];
};
/*
 * The frame that the question names is whole again, for all who have it; `ask`: what it lacks is asked of peers and objects.
 * -EBADMSG: something of it nobody has, it does not come out as it was, or the disk does not keep it; -ESTALE: the file has other data
 * by now; -ENOENT, -EROFS, -ENOMEM.  Who calls holds the snapshot that the question is of; repair_given_frame() does.
 */
MUST_CHECK int repair_frame(struct fs *fs, const struct block_question *q, const struct frame_given *given, bool ask);
MUST_CHECK int repair_given_frame(struct fs *fs, const struct block_question *q, const struct frame_given *given, bool ask);

/* ---- ask.c ---- */

MUST_CHECK int asks_open(struct fs *fs);
void asks_shut(struct fs *fs);
void asks_close(struct fs *fs);
/* Of peers: -ENOENT none has it, or none answered in time.  What they gave has the CRC. */
MUST_CHECK int asks_fetch(struct fs *fs, const struct block_question *q, uint8_t *block);

/* ---- parked.c ---- */

/* By extent_read(): true when the read is to end with -EINPROGRESS, and the block was noted for its thread. */
bool parked_missed(struct fs *fs, uint64_t ino, uint64_t block);
/* The same for one that need not wait, since it has the data from elsewhere: the block is repaired soon. */
void parked_later(struct fs *fs, uint64_t ino, uint64_t block);
struct tier_miss;
/*
 * What fs_recall_async() does with it: the blocks are repaired, or it is known that they cannot be, and w->done is called with 0, once,
 * perhaps from another thread; -EIO at the end.  The caller calls its operation again, which then finds the data, or damage.
 */
void parked_wait(struct fs *fs, const struct tier_miss *m, struct journal_waiter *w);
void parked_cancel(struct fs *fs, const struct journal_waiter *w); /* -EINTR, if it waits */
void parked_end_waits(struct fs *fs);                              /* its part of fs_end_waits() */
MUST_CHECK int parked_open(struct fs *fs);
void parked_shut(struct fs *fs);
void parked_close(struct fs *fs);

/* ---- scrub.c and walk.c ---- */

enum scrub_state { SCRUB_IDLE, SCRUB_RUNNING, SCRUB_PAUSED, SCRUB_DONE };
/* Numbers are in the index; a pass goes SUPER, ROWS, DATA, SNAPS, PARTS, HEAL, END. */
enum scrub_phase { PHASE_SUPER, PHASE_ROWS, PHASE_DATA, PHASE_END, PHASE_SNAPS, PHASE_HEAL, PHASE_PARTS, PHASES };
/* A pass, as it is kept in the index. */
struct scrub_pass {
	enum scrub_state state;
	enum scrub_phase phase;
	bool cold;
	uint8_t cursor[20];
	uint8_t cursor_len;
	uint32_t errors;
	uint64_t rate, pass, checked_bytes, total_bytes, bad_blocks, repaired_blocks, bad_rows, next_ino;
	int64_t started_ns, last_started_ns, last_ended_ns;
	uint64_t last_bad_blocks, last_repaired_blocks, last_next_ino;
};
struct scrub {
	struct fs *fs;
	pthread_t thread;
	bool has_thread;
	struct mutex lock;
	struct cond wake;
	/* guarded by lock */
	bool stop, dirty;
	struct scrub_pass pass;
	int64_t rate_free_ns, saved_ns; /* mono */
	int64_t run_ns;                 /* mono: when this run of the pass began, and */
	uint64_t run_bytes;             /* what was checked by then, for the estimate */
	char waits[64];                 /* why it rests; "" */
	struct scrub_job *jobs, **last_job;
	struct snap_round *round; /* owned: snaps.c; of who makes the pass */
	struct heal *heal;        /* owned: heal.c; the same */
	/* guarded by lock: */
	bool heal_wanted;         /* damage that peers and objects did not repair is to be looked for */
	int64_t heal_next_ns;     /* mono: not before */
	char heal_text[160];      /* where it is being looked for, or why that failed; "" */

	struct repair_status repairs;
};
void scrub_get(struct fs *fs, struct scrub_pass *ret);
/* One piece of the pass: at most a leaf's worth.  *ret_bytes: what was read.  Moves `p`; the caller publishes it. */
MUST_CHECK int walk_step(struct fs *fs, struct scrub_pass *p, uint8_t *room, uint64_t *ret_bytes);
void begin_phase(struct scrub_pass *p, enum scrub_phase phase, uint8_t table); /* table 0: none */
void repair_found(struct fs *fs, struct scrub_pass *p, uint64_t ino, uint64_t leaf, const struct leaf_verdict *v);
/* Slots of `mask`, which an object has a copy of: the copy, too, is what they say; `room` as for leaf_verify(). */
void check_cold(struct fs *fs, struct scrub_pass *p, uint64_t ino, uint64_t leaf, const struct leaf *l, uint16_t mask,
		uint8_t *room);
void scrub_row_encode(const struct scrub_pass *p, uint8_t *value);
MUST_CHECK int scrub_row_decode(struct slice value, struct scrub_pass *ret);

/* ---- snaps.c ---- */

/* A piece of PHASE_SNAPS, as walk_step(). */
MUST_CHECK int step_snaps(struct fs *fs, struct scrub_pass *p, uint8_t *room, uint64_t *ret_bytes);
void snap_round_free(struct snap_round *r); /* NULL is fine */

struct marks_walk;
/*
 * To the rows of the next inode that is marked, when the row at hand is of another one, `ino`: 1 when it went there, 0 it is there;
 * -ENOENT: no such inode is left.  *at is the last one that the marks gave.
 */
MUST_CHECK int rows_to_marked(struct kv *kv, struct kv_iter *it, struct marks_walk *marks, uint64_t ino, uint64_t *at);

/* ---- parts.c ---- */

/* A piece of PHASE_PARTS, as walk_step(). */
MUST_CHECK int step_parts(struct fs *fs, struct scrub_pass *p, uint8_t *room, uint64_t *ret_bytes);

/* ---- heal_run.c ---- */

/* What was found damaged was not repaired at once: it is to be looked for.  Any thread, with whatever locks. */
void heal_want(struct fs *fs);
/* A piece of PHASE_HEAL, as walk_step(). */
MUST_CHECK int step_heal(struct fs *fs, struct scrub_pass *p, uint64_t *ret_bytes);
/* Whether there is something to look for now without a pass; else *ret_ns: mono, when there will be, INT64_MAX: it is not known. */
bool heal_due(struct scrub *sc, int64_t *ret_ns) REQUIRES(sc->lock);
/* A piece of that; the lock is given up meanwhile. */
uint64_t heal_background(struct scrub *sc) REQUIRES(sc->lock);
/* Of one file, all of it, now. */
MUST_CHECK int heal_file(struct fs *fs, uint64_t ino);

/* ---- clear.c ---- */

MUST_CHECK int clear_file(struct fs *fs, const struct fs_cred *cred, uint64_t ino);
