/*
 * replica_node.c: one node of the simulated cluster: its disk, its mounts and crashes, and what is known of where it stands.
 *
 * After everything that is done with a volume slot_settle() asks it where it stands.  A leader's new durable batches become
 * known, each with the model after the last operation that is in it.  A follower's place must be one that is known, and behind
 * what it had durably before.  A node that crashes within what it is doing ("doomed") is only watched: how much of that happened
 * is told by its disk, when it is up again.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/crash/replica_run.h"

#define RING_SEGMENTS       11u
#define RING_SEGMENT_BLOCKS 256u
#define CHUNK_BYTES         (1 * MIB)
#define RING_SHORT_PERCENT  50u
#define FORGET_NS           (20 * NSEC_PER_SEC) /* by then a leader has heard of a node that is up again */

struct replica_point slot_point(const struct slot *s)
{
	struct replica_point p;

	s->shim.real->ops->get_point(s->shim.real, &p);
	return p;
}

/* ---- mount ---- */

static struct fs_config slot_config(struct slot *s)
{
	struct fs_config c = sim_config(&s->run, &s->run.image);

	c.diverged = &s->kept.sink;
	c.sabotage = s->c->o.sabotage == SABOTAGE_APPLY_IN_WINDOW ? FS_SABOTAGE_APPLY_IN_WINDOW
		     : s->c->o.sabotage == SABOTAGE_KEEP_REPLACED ? FS_SABOTAGE_KEEP_REPLACED
								  : 0;
	return c;
}

bool slot_format(struct slot *s, bool follower)
{
	const struct peer *me = peers_by_id(&s->c->peers, s->node_id);

	s->run.image.store = simstore_new();
	s->run.image.index = kv_disk_new(s->run.image.store);
	s->run.image.key = s->c->o.encrypted && s->index < 2 ? s->index + 1 : 0;
	s->run.image.with_tags = s->index == 1;
	s->peers = s->c->peers;
	kept_open(&s->kept);
	struct fs_config c = slot_config(s);
	struct fs_format_options o = {
	    .journal = {.n_segments = RING_SEGMENTS, .segment_blocks = RING_SEGMENT_BLOCKS},
	    .chunk_bytes = CHUNK_BYTES,
	    .root_mode = 0755,
	    .label = "sim",
	    .node_id = s->node_id,
	    .follower = follower,
	};
	memcpy(o.volume, s->c->volume, sizeof(o.volume));
	memcpy(o.node, me->node, sizeof(o.node));
	int r = fs_format(&c, &o);
	store_close(c.store); /* format leaves it to the caller */
	return r == 0 || cluster_fail(s->c, "slot %u: format: %s", s->index, strerror(-r));
}

static void on_durable(void *ctx, uint64_t seq)
{
	struct slot *s = ctx;

	if (s->node)
		node_batch_durable(s->node, seq);
}

static void on_acked(void *ctx, const uint64_t *durable, uint32_t n_known, uint32_t n_live)
{
	struct slot *s = ctx;

	fs_acked(s->run.fs, durable, n_known, n_live);
	fs_set_ship_floor(s->run.fs, n_known ? durable[n_known - 1] : 0);
}

static void on_wake(void *ctx)
{
	((struct slot *)ctx)->dirty = true;
}

static void on_role(void *ctx, enum replica_role role)
{
	(void)role;
	on_wake(ctx);
}

static void on_peers(void *ctx, const struct peers *p)
{
	((struct slot *)ctx)->peers = *p;
}

static int start_node(struct slot *s)
{
	const struct fs_hooks hooks = {.ctx = s, .durable = on_durable};
	const struct node_config c = {
	    .volume = &s->shim.volume,
	    .clock = &s->clock.sim.clock,
	    .peers = s->peers,
	    .hooks = {.ctx = s, .acked = on_acked, .role_changed = on_role, .wake = on_wake, .peers_changed = on_peers},
	};

	fs_set_hooks(s->run.fs, &hooks);
	return node_new(&c, &s->node);
}

/* ---- what is known ---- */

/* The model begins anew, with what the volume is after batch `b`; NO_BATCH: as it is. */
static void rebase(struct slot *s, uint32_t b)
{
	struct sim_history *h = &s->run.history;
	struct model *m = model_clone(b == NO_BATCH ? s->run.model : s->c->h.batch[b].model);

	model_forget_orphans(m);
	while (h->n > 0)
		model_free(h->step[--h->n].model);
	model_free(s->run.model);
	s->run.model = m;
	s->run.since_home = UINT32_MAX; /* the journal may be full as it is */
	s->run.n_held = 0;
	sim_history_add(&s->run, "base", 0);
	h->step[0].pos = 0;
	s->durable_step = s->killed_step = 0;
}

static size_t step_of(const struct slot *s, uint64_t seq, size_t last)
{
	size_t i = last;

	while (i > 0 && s->run.history.step[i].pos > seq)
		i--;
	return i;
}

/* A leader's batch `seq` is durable, and leaves what was there after step `at`. */
static bool learn_batch(struct slot *s, uint64_t seq, size_t at)
{
	struct histories *h = &s->c->h;
	struct known_batch b = {.seq = seq, .epoch = s->epoch, .parent = s->tip};
	int r = s->shim.real->ops->hash_after(s->shim.real, seq, &b.hash);

	if (r)
		return cluster_fail(s->c, "slot %u: no hash of batch %llu: %s", s->index, (unsigned long long)seq, strerror(-r));
	uint32_t known = batches_find(h, b.hash);
	if (known != NO_BATCH) {
		s->tip = known;
		h->batch[known].doubtful = h->batch[known].doubtful && s->doomed;
		return true;
	}
	const struct sim_step *step = &s->run.history.step[at];
	b.model = model_clone(step->model);
	b.tree = step->hash;
	b.doubtful = s->doomed;
	if (!batches_add(h, &b, &s->tip)) {
		model_free(b.model);
		return cluster_fail(s->c, "slot %u: batch %llu of epoch %llu.%u exists twice", s->index, (unsigned long long)seq,
				    (unsigned long long)epoch_counter(b.epoch), epoch_node(b.epoch));
	}
	return true;
}

/* Whether who offered the lead wrote on although it was taken. */
static bool check_offer(struct cluster *c, const struct slot *giver)
{
	const struct known_batch *written = NULL;
	bool taken = false;

	for (size_t i = giver->offer.n_batches; giver->offer.epoch && i < c->h.n_batches; i++) {
		const struct known_batch *b = &c->h.batch[i];

		taken = taken || b->epoch == giver->offer.epoch;
		written = b->epoch == giver->offer.from ? b : written;
	}
	if (!taken || !written)
		return true;
	return cluster_fail(c, "slot %u: wrote batch %llu of epoch %llu, and the lead that it had offered before was taken",
			    giver->index, (unsigned long long)written->seq, (unsigned long long)epoch_counter(written->epoch));
}

/* All batches up to `durable_seq`; they hold no operation behind step `last`. */
static bool learn_batches(struct slot *s, uint64_t durable_seq, size_t last)
{
	bool ok = true;

	for (uint64_t seq = s->tip == NO_BATCH ? 1 : s->c->h.batch[s->tip].seq + 1; ok && seq <= durable_seq; seq++)
		ok = learn_batch(s, seq, step_of(s, seq, last));
	for (unsigned i = 0; ok && i < SLOTS; i++)
		ok = check_offer(s->c, &s->c->slot[i]);
	return ok;
}

/* The newest batch that is known of those that the volume has. */
static uint32_t known_base(struct slot *s, uint64_t durable_seq)
{
	uint32_t b = NO_BATCH;
	uint64_t hash;

	for (uint64_t seq = durable_seq; seq > 0 && b == NO_BATCH; seq--)
		if (s->shim.real->ops->hash_after(s->shim.real, seq, &hash) == 0)
			b = batches_find(&s->c->h, hash);
	return b;
}

static bool keeps_held(struct slot *s, uint32_t b)
{
	if (s->held == NO_BATCH || (b != NO_BATCH && batches_contain(&s->c->h, b, s->held)))
		return true;
	return cluster_fail(s->c, "slot %u: batch %llu was durable there, and is gone", s->index,
			    (unsigned long long)s->c->h.batch[s->held].seq);
}

static void begin_reign(struct slot *s, const struct replica_point *p)
{
	uint32_t base = known_base(s, p->durable_seq);

	if (base == NO_BATCH) {
		cluster_fail(s->c, "slot %u: leads with a history that nobody knows", s->index);
		return;
	}
	s->leads = true;
	s->epoch = p->promised;
	s->tip = base;
	slot_set_full(s, false); /* operations in the simulator do not expect that */
	rebase(s, base);
	if (!keeps_held(s, base) || !learn_batches(s, p->durable_seq, 0))
		return;
	s->held = s->whole = s->tip;
	cluster_say(s->c, "slot %u (node %u) leads epoch %llu.%u from batch %llu on", s->index, s->node_id,
		    (unsigned long long)epoch_counter(s->epoch), epoch_node(s->epoch), (unsigned long long)p->durable_seq);
	acks_check_reign(s);
	s->c->newest_epoch = max_u64(s->c->newest_epoch, s->epoch);
}

static void end_reign(struct slot *s)
{
	cluster_say(s->c, "slot %u leads no more", s->index);
	s->leads = s->writers_held = false;
	s->run.n_held = 0;
	int r = fs_forget_all(s->run.fs);
	if (r)
		cluster_fail(s->c, "slot %u: fs_forget_all: %s", s->index, strerror(-r));
}

/* What a resync replaced is in the new history, or was kept aside. */
static void check_saved(struct slot *s, uint32_t before, bool whole, uint32_t now)
{
	struct histories *h = &s->c->h;
	char why[300];

	s->c->stats.saved++;
	if (!kept_has_all(&s->kept, h->batch[before].model, h->batch[now].model, whole, why, sizeof(why)))
		cluster_fail(s->c, "slot %u: %s", s->index, why);
}

static void end_resync(struct slot *s, uint32_t b)
{
	uint32_t before = s->before_resync;

	/* A leader that had all of it may have replaced some before another one came, which has not: nothing was kept then. */
	bool excused = s->unsaved;

	s->resyncing = s->unsaved = false;
	s->held = b;
	if (before != NO_BATCH && !excused && !batches_contain(&s->c->h, b, before))
		check_saved(s, before, s->before_whole, b); /* behind a fence there was never all the data */
	kept_forget(&s->kept);
}

static void note_resyncing(struct slot *s)
{
	bool begins = !s->resyncing;

	if (begins) {
		s->before_resync = s->tip;
		s->before_whole = s->tip == s->whole;
	}
	s->tip = NO_BATCH;
	if (s->doomed)
		return;
	s->resyncing = true;
	s->held = s->whole = NO_BATCH;
	if (begins && s->before_resync != NO_BATCH)
		acks_check_given_up(s, s->before_resync);
}

/*
 * It has gone on without data that had been superseded, and is no copy of anything before it has the newer.  One that lacks the
 * snapshot that its leader went back to may be stopped by that within a window; a resync makes it whole.
 */
static void note_behind_fence(struct slot *s, bool lacks)
{
	uint32_t before = s->whole;

	if (!s->full && !lacks && s->ring_percent < RING_SHORT_PERCENT) {
		cluster_fail(s->c, "slot %u: went behind a fence, and had room to stay at batch %llu", s->index,
			     (unsigned long long)s->c->h.batch[before].seq);
		return;
	}
	cluster_say(s->c, "slot %u gives up a window", s->index);
	s->lost = before; /* its leader counts that until it hears of it */
	s->lost_until_ns = simnet_now(s->c->net) + FORGET_NS;
	s->whole = NO_BATCH;
	s->c->stats.windows_given_up++;
	acks_check_given_up(s, before);
}

static void note_following(struct slot *s, const struct replica_point *p)
{
	uint32_t b = p->durable_seq ? batches_find(&s->c->h, p->hash) : NO_BATCH;

	if (p->resyncing) {
		note_resyncing(s);
		return;
	}
	if (p->durable_seq && b == NO_BATCH) {
		cluster_fail(s->c, "slot %u: follows, and has a batch %llu that nobody made", s->index,
			     (unsigned long long)p->durable_seq);
		return;
	}
	s->tip = b;
	if (s->doomed)
		return;
	if (s->resyncing)
		end_resync(s, b);
	else if (keeps_held(s, b))
		s->held = b;
	if (p->fence == 0)
		s->whole = b;
	else if (s->whole != NO_BATCH)
		note_behind_fence(s, p->lacks);
}

/* A leader may be promoted, too: to go on where the node that it was handing over to may lead by now. */
static bool begin_next_reign(struct slot *s, const struct replica_point *p, size_t last)
{
	if (!learn_batches(s, p->durable_seq - 1, last))
		return false;
	s->epoch = p->promised;
	if (!learn_batches(s, p->durable_seq, last))
		return false;
	acks_check_reign(s);
	s->c->newest_epoch = max_u64(s->c->newest_epoch, s->epoch);
	return cluster_ok(s->c);
}

static void note_leading(struct slot *s, const struct replica_point *p)
{
	size_t last = s->run.history.n - 1;

	if (p->role == ROLE_LEADER && p->promised != s->epoch && !s->doomed && !begin_next_reign(s, p, last))
		return;
	if (!learn_batches(s, p->durable_seq, last) || s->doomed)
		return;
	s->held = s->whole = s->tip;
	s->durable_step = step_of(s, p->durable_seq, last);
	s->killed_step = last;
}

void slot_settle(struct slot *s)
{
	struct replica_point p = slot_point(s);

	if (!cluster_ok(s->c))
		return;
	if (p.failed) {
		cluster_fail(s->c, "slot %u: the volume stopped: %s", s->index, strerror(-p.failed));
		return;
	}
	if (s->leads)
		note_leading(s, &p);
	if (!s->leads && p.role == ROLE_LEADER && !s->doomed)
		begin_reign(s, &p);
	if (s->leads && p.role == ROLE_FOLLOWER && !s->doomed)
		end_reign(s);
	if (p.role == ROLE_FOLLOWER)
		note_following(s, &p);
	if (s->doomed)
		return;
	if (p.promised < s->promised)
		cluster_fail(s->c, "slot %u: has forgotten what it promised", s->index);
	s->promised = p.promised;
}

/* Whether it is the state after batch `b` without the snapshots that are not held. */
static bool is_but_for_snapshots(struct slot *s, const struct tree *got, uint32_t b, char *ret_text, size_t cap)
{
	struct tree want;
	size_t n_unheld;

	model_tree(s->c->h.batch[b].model, &want);
	bool ok = tree_leave_out_unheld(s->run.fs, &want, &n_unheld);
	if (!ok)
		snprintf(ret_text, cap, "a snapshot that is not held is none that was made");
	else if (tree_hash(got) == tree_hash(&want))
		s->c->stats.snaps_unheld += n_unheld;
	else if (!tree_diff(got, &want, ret_text, cap))
		snprintf(ret_text, cap, "the hash alone");
	ok = ok && tree_hash(got) == tree_hash(&want);
	tree_free(&want);
	return ok;
}

void slot_compare(struct slot *s)
{
	struct replica_point p = slot_point(s);
	struct tree got;
	uint64_t hash = 0;
	char text[400];

	if (s->leads) {
		if (!sim_compare(&s->run, s->run.fs, s->run.model))
			cluster_fail(s->c, "slot %u leads: %s", s->index, s->run.why);
		return;
	}
	if (fs_readable(s->run.fs) || s->shim.real->ops->hash_after(s->shim.real, p.applied_seq, &hash) || hash == s->checked)
		return;
	uint32_t b = batches_find(&s->c->h, hash);
	if (b == NO_BATCH) {
		cluster_fail(s->c, "slot %u: shows a batch that nobody made", s->index);
		return;
	}
	s->checked = hash;
	s->c->stats.compared++;
	int r = tree_read(s->run.fs, &got, text, sizeof(text));
	if (r) {
		cluster_fail(s->c, "slot %u: reading after batch %llu: %s", s->index, (unsigned long long)p.applied_seq, text);
		return;
	}
	if (tree_hash(&got) != s->c->h.batch[b].tree && !is_but_for_snapshots(s, &got, b, text, sizeof(text)))
		cluster_fail(s->c, "slot %u: differs after batch %llu: %s", s->index, (unsigned long long)p.applied_seq, text);
	s->c->stats.snaps_held += model_snaps(s->c->h.batch[b].model);
	tree_free(&got);
}

void slot_empty_journal(struct slot *s)
{
	bool more = true;
	int r = 0;

	while (more && r == 0)
		r = fs_home_step(s->run.fs, 512, &more);
	if (r == 0)
		r = fs_checkpoint(s->run.fs);
	if (r && r != -ENOSPC)
		cluster_fail(s->c, "slot %u: emptying the journal: %s", s->index, strerror(-r));
	s->received = 0;
}

/* ---- up and down ---- */

/* A leader finds one of the states that its crash may leave. */
static void recover_leader(struct slot *s, const struct replica_point *p, size_t lo)
{
	size_t step;

	if (!sim_identify(&s->run, s->run.fs, lo, s->run.history.n - 1, &step)) {
		cluster_fail(s->c, "slot %u leads: recovered: %s", s->index, s->run.why);
		return;
	}
	s->tip = known_base(s, p->durable_seq);
	/* The last one is of this mount, and has the seq that a lost one of the mount before may have had with another state. */
	if (!keeps_held(s, s->tip) || !learn_batches(s, p->durable_seq - 1, step) || !learn_batch(s, p->durable_seq, step))
		return;
	s->held = s->whole = s->tip;
	rebase(s, s->tip);
}

/* A leader with another disk: it goes on in its epoch, with other batches. */
static void go_back(struct slot *s, const struct replica_point *p)
{
	s->leads = true;
	s->epoch = p->promised;
	s->tip = known_base(s, p->durable_seq);
	if (s->tip == NO_BATCH) {
		cluster_fail(s->c, "slot %u: the older image is not of this volume", s->index);
		return;
	}
	rebase(s, s->tip);
	learn_batches(s, p->durable_seq, 0);
	s->held = s->whole = s->tip;
}

/* The first leader of all: there is nothing but its format. */
static void begin_history(struct slot *s, const struct replica_point *p)
{
	s->leads = true;
	s->epoch = s->c->newest_epoch = p->promised;
	learn_batches(s, p->durable_seq, 0);
	rebase(s, NO_BATCH);
	s->held = s->whole = s->tip;
	s->first_start = false;
}

static void note_start(struct slot *s)
{
	struct replica_point p = slot_point(s);
	size_t lo = s->killed ? s->killed_step : s->durable_step;

	if (s->offer.doubtful && p.offered != s->offer.epoch)
		s->offer.epoch = 0; /* nobody has seen it */
	s->offer.doubtful = false;
	if (s->first_start)
		begin_history(s, &p);
	else if (s->replaced && p.role == ROLE_LEADER)
		go_back(s, &p);
	else if (s->leads && p.role == ROLE_LEADER)
		recover_leader(s, &p, lo);
	else if (s->leads)
		s->leads = false;
	s->replaced = false;
	s->writers_held = p.role == ROLE_LEADER && p.offered;
	slot_settle(s);
}

bool slot_start(struct slot *s)
{
	struct fs_config c = slot_config(s);
	int r = fs_open(&c, &s->run.fs);

	if (r) {
		store_close(c.store);
		s->run.fs = NULL;
		return cluster_fail(s->c, "slot %u: fs_open: %s", s->index, strerror(-r));
	}
	shim_open(&s->shim, s, fs_replica(s->run.fs));
	s->checked = 0;
	s->received = UINT32_MAX; /* its journal may be full as it is */
	s->dirty = true;
	s->dial_ns = 0;
	s->lost_until_ns = (int64_t)min_u64((uint64_t)s->lost_until_ns, (uint64_t)(simnet_now(s->c->net) + FORGET_NS));
	note_start(s);
	if (!cluster_ok(s->c))
		return false;
	r = start_node(s);
	if (r)
		return cluster_fail(s->c, "slot %u: node_new: %s", s->index, strerror(-r));
	simnet_host_up(s->c->net, s->index);
	return true;
}

void slot_crash(struct slot *s, enum simcut_variant v, uint64_t since)
{
	uint64_t cut = rng_between(&s->c->rng, since, simstore_count(s->run.image.store));

	cluster_say(s->c, "slot %u crashes (%s)", s->index, simcut_variant_name(v));
	acks_drop(s);
	links_drop_all(s);
	simnet_host_down(s->c->net, s->index, v == SIMCUT_KILL);
	s->node = node_free(s->node);
	fs_abandon(s->run.fs);
	s->run.fs = NULL;
	struct simcut *c = simcut_new(s->run.image.store);
	simcut_advance(c, cut);
	struct sim_image image = sim_take_image(&s->run, c, cut, v, &s->c->rng, true);
	simcut_free(c);
	sim_image_free(&s->run.image);
	s->run.image = image;
	kept_crash(&s->kept);
	s->killed = v == SIMCUT_KILL;
	s->doom = s->doomed = s->writers_held = s->in_window = false;
	s->c->stats.crashes++;
}

void slot_set_full(struct slot *s, bool full)
{
	s->full = full;
	simstore_set_space(s->run.image.store, full ? MIB : 1024 * GIB);
}

/* Epochs that it led may be opened once more by a disk that does not know of them. */
static void split_epochs(struct slot *s)
{
	struct histories *h = &s->c->h;

	for (size_t i = 0; i < h->n_batches; i++)
		if (epoch_node(h->batch[i].epoch) == s->node_id)
			batches_split(h, h->batch[i].epoch);
}

void slot_replace(struct slot *s, struct sim_image image, uint32_t tip)
{
	if (tip != NO_BATCH)
		split_epochs(s);
	sim_image_free(&s->run.image);
	s->run.image = image;
	if (image.store)
		slot_set_full(s, false);
	s->full = false;
	s->held = s->tip = tip;
	s->whole = tip == NO_BATCH ? NO_BATCH : s->backup_whole;
	s->promised = 0;
	s->offer.epoch = 0; /* it cannot know */
	s->replaced = true;
	s->leads = s->resyncing = s->unsaved = false;
	s->before_resync = NO_BATCH;
}

void slot_back_up(struct slot *s)
{
	uint64_t now = simstore_count(s->run.image.store);
	struct simcut *c = simcut_new(s->run.image.store);

	simcut_advance(c, now);
	sim_image_free(&s->backup);
	s->backup = sim_take_image(&s->run, c, now, SIMCUT_LOST, &s->c->rng, true);
	s->backup_tip = s->held;
	s->backup_whole = s->whole;
	simcut_free(c);
}
