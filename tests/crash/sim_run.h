/*
 * sim_run.h: one volume in the simulator: the real filesystem code over a simulated store and index, driven by random
 * operations next to a model that says what it must be.
 *
 * A run has a history: the model after every operation, with the store event at which the operation was answered.  A crash
 * at any event must leave one of the states between the newest that a sync covered and the newest that was started.
 *
 * Ownership: the test owns the run.  Threads: one; the volume is opened with no_threads and the run does its background work
 * as operations among the others.
 * Errors: false from a step means that the volume did what it must not; `why` says what.
 */
#pragma once

#include "fs/core/fs.h"
#include "tests/lib/kv_mem.h"
#include "tests/lib/model.h"
#include "tests/lib/rng.h"
#include "tests/lib/simstore.h"

struct cold; /* tests/lib/cold.h */

enum sim_profile {
	SIM_MIXED, /* a bit of everything */
	SIM_RING,  /* many inline writes: the ring goes round and is reused */
	SIM_FULL,  /* a small volume: blocks are reused all the time, -ENOSPC is met */
	SIM_TREE,  /* names more than data */
	SIM_COLD,  /* files age out, are evicted, read and written again */
	SIM_PROFILES,
};
const char *sim_profile_name(enum sim_profile p);

/* Where the volume's two stores are between two mounts. */
struct sim_image {
	struct simstore *store;
	struct kv_disk *index;
	uint32_t key; /* the volume is encrypted, each number is another data key; 0: it is not */
	bool with_tags; /* in aead mode */
	uint64_t born; /* event of `store` from which on it is what the crash left */
};
void sim_image_free(struct sim_image *i);
/* Of the volumes that are formatted from here on. */
extern uint32_t sim_next_key;
extern bool sim_next_tags;

struct sim_clock {
	struct clock clock;
	int64_t now_ns;
};

struct sim_step {
	struct model *model; /* after it */
	uint64_t hash;
	uint64_t mark; /* event at which it was answered; 0: before this mount */
	uint64_t pos;  /* fs_pos() then: the batch it is in; 0: before this mount */
	size_t covers; /* a durable point: the steps before this one are covered; 0: it is none */
	char what[120];
};
struct sim_history {
	struct sim_step *step;
	size_t n, cap;
	size_t covered;    /* step covered before this mount */
	size_t kill_floor; /* step that kill -9 must leave while the mount is not complete */
	uint64_t mounted;  /* event at which fs_open returned; 0: before the first */
};

struct sim_run {
	uint64_t seed;
	enum sim_profile profile;
	unsigned sabotage;
	struct rng rng;
	struct sim_clock own_clock, *clock; /* the volume's: of the run that mounted it */
	struct sim_image image;
	struct fs *fs;
	struct model *model;
	struct sim_history history;
	struct cold *cold; /* the object stores; of the run that formatted the volume */
	bool snapshots;    /* are made and deleted, too */
	bool a_copy;       /* one of several: it need not hold the snapshots that it knows of */
	bool lent_cold;    /* it is another run's */
	uint64_t *held;    /* inodes a user keeps open */
	size_t n_held, held_cap;
	uint64_t n_back;     /* how often the tree went back to a snapshot */
	uint64_t since_home; /* bytes written inline since the journal was last emptied */
	bool in_sync;        /* its batch is being written: other threads go on meanwhile */
	bool expect_errors;  /* faults are being injected: operations may fail, and then change nothing */
	uint8_t *bytes;      /* what is being written, and room for reads */
	char why[1024];
};

/* Formats a volume into a new image. */
bool sim_format(struct sim_run *run, uint64_t seed, enum sim_profile profile, unsigned sabotage);
/* The object stores of a run that was not made by sim_format(). */
void sim_open_cold(struct sim_run *run);
struct fs_config sim_config(struct sim_run *run, const struct sim_image *image);
/* Mounts run->image, recording; the state must be the last of the history. */
bool sim_mount(struct sim_run *run);
/* One random operation, on both. */
bool sim_step(struct sim_run *run);
/* The whole tree as it is, against the model. */
bool sim_compare(struct sim_run *run, struct fs *fs, const struct model *want);
/* Checkpoint and clean unmount, as the last step. */
bool sim_unmount(struct sim_run *run);
/* After a crash: the history ends with step `p`; `image` is what the next mount finds (taken over). */
void sim_crash(struct sim_run *run, size_t p, struct sim_image image, uint64_t cut, bool killed);
void sim_free(struct sim_run *run);

/* How full the journal is, as status says. */
unsigned sim_ring_percent(struct fs *fs);
/* Homes of some file's tiered data go, as each node likes: 0, or an error that an eviction must not have. */
int sim_evict_some(struct sim_run *run, struct rng *rng);
/* What waits to be packed on this node is. */
int sim_squeeze_some(struct sim_run *run);
/* Fills run->why; false, to be returned. */
bool sim_fail(struct sim_run *run, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The model as it is becomes the newest step.  `covers`: how many steps a durable point covers, this one excluded. */
void sim_history_add(struct sim_run *run, const char *what, size_t covers);

/* States allowed after a crash at `cut`: [*ret_lo, *ret_hi]. */
void sim_bounds(const struct sim_history *h, uint64_t cut, bool killed, size_t *ret_lo, size_t *ret_hi);
/* What a crash of run's last mount at the cut `c` leaves for the next mount. */
struct sim_image sim_take_image(const struct sim_run *run, const struct simcut *c, uint64_t cut, enum simcut_variant v,
				struct rng *rng, bool record);
/* The next mount finds its staging files, in memory, as it would make them. */
void sim_make_memory(const struct sim_image *image);
int sim_open_image(struct sim_run *run, const struct sim_image *image, struct fs **ret_fs);
/* The tree of `fs` must be that of a step in [lo, hi]: the newest such one. */
bool sim_identify(struct sim_run *run, struct fs *fs, size_t lo, size_t hi, size_t *ret_step);
/* fs_check() and what it says must be clean. */
bool sim_fsck(struct sim_run *run, struct fs *fs);
