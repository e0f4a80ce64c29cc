/*
 * replica_run.h: three nodes of one volume in the simulator: the real code of replicate/ and fs/core over simulated stores, a
 * simulated network and a clock for each node, next to models that say what the volume must be.
 *
 * What is checked all the time:
 *   - a node's batches are those of a leader, in one order (batches_find); no epoch has two batches of one seq;
 *   - what was durable on a node is there after a crash, and so is its promise;
 *   - a follower that may be read is exactly the state after the batch it says it is at;
 *   - an fsync answered at level K is on K + 1 disks then, on none of them behind a fence, and in the history of every later
 *     leader that an admin chose by the rule: of the nodes that were asked, the one with the highest (history, seq), when one of
 *     them has it; and that one can lead;
 *   - a follower whose data was superseded keeps the state before, unless its disk or its ring is full;
 *   - snapshots are those of the model, on every node; each that a node holds is the tree as it was, and the leader that makes one
 *     holds it;
 *   - what a resync replaces, and the leader has not or only without a name, is kept aside: blocks, names, inodes, and that there
 *     was a snapshot;
 *   - who offered the lead writes nothing more in its epoch once the one that was offered has begun, whatever it forgot;
 *   - no session keeps more output than it may.
 * What an admin decides against the rule, or when all disks that had an fsync are gone, is counted and not held against anybody.
 *
 * Ownership: the test owns the cluster.  Threads: one.
 * Errors: the first thing that is wrong is kept in `why`, with the simulated time; everything stops then.
 */
#pragma once

#include "replicate/node.h"
#include "tests/crash/replica_history.h"
#include "tests/crash/replica_kept.h"
#include "tests/crash/sim_run.h"
#include "tests/lib/simnet.h"

#define SLOTS          3u
#define SETTLE_WAIT_NS (120 * NSEC_PER_SEC) /* everything is equal this long after the last trouble */

/* What is broken on purpose; see replica_shim.c. */
enum replica_sabotage {
	SABOTAGE_NONE,
	SABOTAGE_ACK_EARLY,    /* a follower acks before it commits */
	SABOTAGE_IGNORE_EPOCH, /* a leader does not note a higher epoch */
	SABOTAGE_SKIP_SAVING,  /* a resync keeps nothing aside */
	SABOTAGE_NO_FENCE,     /* a follower forgets that data was superseded */
	SABOTAGE_SHORT_RESYNC, /* a resync leaves out some of the rows that go */
	SABOTAGE_APPLY_IN_WINDOW, /* a follower does not wait for the fence (FS_SABOTAGE_APPLY_IN_WINDOW) */
	SABOTAGE_KEEP_REPLACED, /* a resync keeps nothing of what goes with an orphan of the leader's (FS_SABOTAGE_KEEP_REPLACED) */
	SABOTAGE_FORGET_OFFER, /* a leader does not keep whom it offered the lead */
	SABOTAGES,
};

struct cluster;
struct slot;

/* The volume as its node sees it: the real one, watched and perhaps sabotaged. */
struct shim {
	struct replica_volume volume;
	struct replica_volume *real;
	struct slot *slot;
	uint64_t taken_seq;
};

struct node_clock {
	struct sim_clock sim; /* real time */
	int64_t mono_ns, drift_ppm;
	int64_t owed; /* drift of less than 1 ns, in millionths */
};

/* One end of a connection, and the conversation on it. */
struct link {
	simnet_end end;    /* 0: free */
	uint32_t peer_id;
	bool dialed;
	struct session *session; /* NULL: being connected */
	int64_t deadline_ns;     /* the node's mono */
};
#define LINKS_MAX 24u

struct slot {
	struct cluster *c;
	unsigned index;
	uint32_t node_id;
	struct node_clock clock;
	struct sim_run run; /* image and volume; while it leads, model and history */
	struct shim shim;
	struct node *node;  /* NULL: down */
	struct peers peers; /* as kept on its disk */
	struct kept kept;
	struct link links[LINKS_MAX];
	bool dirty;         /* something may be to be sent */
	bool doom;          /* the next bytes that it takes are its last */
	bool doomed;        /* it crashes within what it is doing */
	bool killed;        /* its last crash was kill -9 */
	bool replaced;      /* its disk, since it was up last */
	bool first_start;   /* of the first leader */
	bool writers_held;  /* hand-over, perhaps one of before it came up */
	bool full;          /* its disk */
	uint64_t received;  /* bytes since its journal was last emptied */
	int64_t dial_ns;    /* when it is asked whom to dial */
	int64_t commit_ns;  /* a leader: when it commits what nobody synced */

	/* What is known of it. */
	bool leads;
	uint64_t epoch, promised;
	uint32_t held;          /* newest batch that it must still have after a crash; NO_BATCH */
	uint32_t tip;           /* newest batch it was seen to have */
	uint32_t whole;         /* the same, with all data: NO_BATCH behind a fence */
	size_t durable_step;    /* of run.history: the newest that must survive a loss of power */
	size_t killed_step;     /* the newest that must survive kill -9 */
	unsigned asked;         /* an admin may have made it lead: the slots that were asked before; 0: nobody has */
	bool by_rule;           /* it stood highest of them */
	struct {
		uint64_t epoch, from; /* of the other node, and of its own then; 0: none */
		size_t n_batches;     /* known then, everywhere */
		bool doubtful;        /* it crashed within noting it, and had not sent it */
	} offer;                /* of the lead, the last one */
	bool in_window;         /* it has batches that it does not apply yet */
	unsigned ring_percent;  /* how full its journal was when the last batch came into a window */
	bool resyncing;
	uint32_t before_resync; /* what it had */
	bool before_whole;      /* and all data of it */
	bool unsaved;           /* a leader whose history has all of that replaced it, or began to */
	uint64_t checked;       /* hash of the state that was compared last */

	uint32_t lost;         /* what its last disk had, when it was lost */
	int64_t lost_until_ns; /* so long a leader may count that */

	struct sim_image backup;
	uint32_t backup_tip, backup_whole;
};

/* Between whom a connection was made: what certificates say. */
struct call {
	uint32_t from_id, to_id;
};

/* An fsync that waits for its answer. */
struct pending {
	struct journal_waiter waiter;
	struct pending *next;
	struct slot *slot;
	uint64_t epoch;
	uint64_t ino; /* asked for */
	unsigned level;
	uint64_t n_back; /* of the run, when it was asked for */
	uint64_t seq;    /* batch that it covers */
	bool answered, voided;
	int result;
};

struct cluster_options {
	uint64_t seed, n_ops;
	enum replica_sabotage sabotage;
	bool verbose;
	bool encrypted; /* nodes 1 and 2 with keys of their own, node 3 not */
};
struct cluster_stats {
	uint64_t operations, events, crashes, promotions, lossy_promotions, handovers, resyncs, saved, destroyed, rolled_back, acks,
	    acks_kept, acks_waived, windows, windows_given_up, compared, snaps_held, snaps_unheld;
};

struct cluster {
	struct cluster_options o;
	struct rng rng;
	struct simnet *net;
	struct slot slot[SLOTS];
	struct peers peers; /* as the admin knows them */
	uint8_t volume[16];
	struct histories h;
	uint64_t newest_epoch;
	struct pending *pending;
	struct call *call; /* one a connection */
	size_t n_calls, calls_cap;
	enum sim_profile profile;
	bool may_choose_loss, may_lose_disks, snapshots;
	bool ending; /* nothing bad happens any more */
	struct cluster_stats stats;
	char why[1400];
};

/* The volume and its three nodes, all up, slot 0 leading. */
bool cluster_new(struct cluster *c, const struct cluster_options *o);
void cluster_free(struct cluster *c);
/* One more in the admin's list of peers; its id. */
uint32_t cluster_new_peer(struct cluster *c);
/* The first thing that is wrong; false, to be returned. */
bool cluster_fail(struct cluster *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
void cluster_say(struct cluster *c, const char *fmt, ...) PRINTF_LIKE(2, 3); /* with --verbose */
/* Lets `ns` of simulated time pass; true while nothing is wrong. */
bool cluster_run(struct cluster *c, int64_t ns);
static inline bool cluster_ok(const struct cluster *c) { return !c->why[0]; }

/* One node (replica_node.c). */
bool slot_format(struct slot *s, bool follower);
bool slot_start(struct slot *s);
/* Power loss or kill -9.  Events of its store after `since` may not have happened. */
void slot_crash(struct slot *s, enum simcut_variant v, uint64_t since);
/* Another disk, while it is down: its tree is that after batch `tip`; NO_BATCH: empty. */
void slot_replace(struct slot *s, struct sim_image image, uint32_t tip);
void slot_set_full(struct slot *s, bool full); /* its disk */
/* Keeps a copy of its disk for later. */
void slot_back_up(struct slot *s);
/* Looks at where the volume stands after something was done with it, and compares that with what is known. */
void slot_settle(struct slot *s);
/* Whether it can be asked anything. */
static inline bool slot_is_up(const struct slot *s) { return s->node; }
/* The whole tree against what it must be, when it may be read. */
void slot_compare(struct slot *s);
struct replica_point slot_point(const struct slot *s);
/* Empties its journal into the arena, and makes the index durable. */
void slot_empty_journal(struct slot *s);

/* Connections (replica_links.c). */
void links_dial(struct slot *s, uint32_t peer_id);
void links_drop_all(struct slot *s);
void links_event(struct cluster *c, const struct simnet_event *e);
/* Sends what there is to send, when something happened or a deadline is there. */
void links_pump(struct slot *s);
/* True time of the next deadline. */
int64_t links_next(const struct slot *s);

/* The watched volume (replica_shim.c). */
void shim_open(struct shim *shim, struct slot *s, struct replica_volume *real);

/* Fsyncs and who must have them (replica_acks.c). */
void acks_ask(struct slot *s, unsigned level);
void acks_answered(struct cluster *c); /* after every event */
void acks_drop(struct slot *s);        /* it crashed */
/* An admin is about to make `s` lead. */
void acks_note_asked(struct slot *s, unsigned asked, bool by_rule);
/* `s` leads a new epoch. */
void acks_check_reign(struct slot *s);
void acks_give_up(struct slot *s);     /* an admin gave up what only it has */
void acks_lose_disk(struct slot *s);   /* and it is about to lose all */
void acks_check_given_up(struct slot *s, uint32_t before); /* it had that, and is no copy of it now */
void acks_check_end(struct cluster *c, const struct slot *leader);

/* Random acts (replica_acts.c). */
bool cluster_act(struct cluster *c);
/* Everything is healed and up, and must become equal. */
bool cluster_end(struct cluster *c);
