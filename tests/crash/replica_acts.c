/*
 * replica_acts.c: what users, admins and bad luck do to the cluster, one act after the other.
 *
 * The admin sees every node that is up, whatever the network between them is like.  He promotes by the rule (of the nodes that
 * are up, the one with the highest (history, seq)), or, where the seed allows it, whomever he likes, also while the old leader
 * lives.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/crash/replica_run.h"

#define HAND_OVER_NS (3 * NSEC_PER_SEC)

static struct slot *random_slot(struct cluster *c)
{
	return &c->slot[rng_below(&c->rng, SLOTS)];
}

/* A node that leads and can be written to; of several, any. */
static struct slot *random_leader(struct cluster *c)
{
	unsigned first = (unsigned)rng_below(&c->rng, SLOTS);

	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot *s = &c->slot[(first + i) % SLOTS];

		if (slot_is_up(s) && s->leads && !s->writers_held)
			return s;
	}
	return NULL;
}

static bool somebody_leads(const struct cluster *c)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if (slot_is_up(&c->slot[i]) && c->slot[i].leads)
			return true;
	return false;
}

/* ---- users ---- */

/* Background steps happen in between, as in sim_ops.c. */
static void operations(struct slot *s, unsigned n)
{
	for (unsigned i = 0; i < n && cluster_ok(s->c); i++) {
		if (!sim_step(&s->run))
			cluster_fail(s->c, "slot %u: %s", s->index, s->run.why);
		else
			slot_settle(s);
		s->c->stats.operations++;
	}
}

static void act_operations(struct cluster *c)
{
	struct slot *s = random_leader(c);

	if (s)
		operations(s, (unsigned)(rng_percent(&c->rng, 5) ? rng_between(&c->rng, 20, 80) : rng_between(&c->rng, 1, 8)));
}

static void act_sync(struct cluster *c)
{
	struct slot *s = random_leader(c);

	if (s)
		acks_ask(s, (unsigned)rng_below(&c->rng, 3));
}

/* As the committer does. */
static void act_commit(struct cluster *c)
{
	struct slot *s = random_leader(c);

	if (s)
		acks_ask(s, 0);
}

/* Blocks of snapshots that were deleted are each node's own to free. */
static void act_free_snapshots(struct cluster *c)
{
	struct slot *s = random_slot(c);
	bool more;

	if (!slot_is_up(s))
		return;
	int r = fs_snap_step(s->run.fs, &more);
	if (r && r != -ENOSPC)
		cluster_fail(c, "slot %u: freeing blocks of snapshots: %s", s->index, strerror(-r));
	slot_settle(s);
}

static void act_background(struct cluster *c)
{
	struct slot *s = random_slot(c);
	bool more;
	int r;

	if (!slot_is_up(s))
		return;
	if (c->snapshots && rng_percent(&c->rng, 20)) {
		act_free_snapshots(c);
		return;
	}
	if (rng_percent(&c->rng, 30))
		r = sim_evict_some(&s->run, &c->rng);
	else if (rng_percent(&c->rng, 30))
		r = sim_squeeze_some(&s->run);
	else if (rng_percent(&c->rng, 50))
		r = fs_home_step(s->run.fs, (uint32_t)rng_between(&c->rng, 1, 128), &more);
	else if (s->writers_held || rng_percent(&c->rng, 60)) /* the reaper waits, too */
		r = fs_checkpoint(s->run.fs);
	else
		r = fs_reap_step(s->run.fs, &more);
	if (r && r != -ENOSPC)
		cluster_fail(c, "slot %u: background: %s", s->index, strerror(-r));
	slot_settle(s);
}

static void act_wait(struct cluster *c)
{
	cluster_run(c, (int64_t)rng_between(&c->rng, NSEC_PER_SEC / 10, 8 * (uint64_t)NSEC_PER_SEC));
}

/* A follower refuses what a user asks of it. */
static void act_write_to_follower(struct cluster *c)
{
	static const struct fs_cred user = {.umask = 022};
	struct slot *s = random_slot(c);
	struct fs_attr a;

	if (!slot_is_up(s) || s->leads)
		return;
	int r = fs_mknod(s->run.fs, &user, FS_ROOT_INO, "no", 0100644, 0, &a);
	if (r != -EROFS)
		cluster_fail(c, "slot %u follows, and mknod says: %s", s->index, strerror(-r));
	slot_settle(s);
}

/* ---- bad luck ---- */

static enum simcut_variant random_variant(struct cluster *c)
{
	return (enum simcut_variant)rng_below(&c->rng, SIMCUT_VARIANTS);
}

static void act_crash(struct cluster *c)
{
	struct slot *s = random_slot(c);
	uint64_t since;

	if (!slot_is_up(s))
		return;
	since = simstore_count(s->run.image.store);
	if (rng_percent(&c->rng, 50)) { /* within the next message */
		s->doom = true;
		return;
	}
	if (s->leads && !s->writers_held && rng_percent(&c->rng, 50)) { /* within operations */
		s->doomed = true;
		operations(s, 3);
	}
	if (cluster_ok(c))
		slot_crash(s, random_variant(c), since);
}

static void act_restart(struct cluster *c)
{
	struct slot *s = random_slot(c);

	if (!slot_is_up(s)) {
		cluster_say(c, "slot %u starts", s->index);
		slot_start(s);
	}
}

static void act_reset(struct cluster *c)
{
	simnet_end e = simnet_pick(c->net, &c->rng);

	if (e)
		simnet_reset(c->net, e, rng_percent(&c->rng, 30));
}

static void act_cut(struct cluster *c)
{
	unsigned from = (unsigned)rng_below(&c->rng, SLOTS), to = (from + 1 + (unsigned)rng_below(&c->rng, SLOTS - 1)) % SLOTS;
	unsigned kind = (unsigned)rng_below(&c->rng, 3);

	cluster_say(c, "cut %u %s %u", from, kind ? kind == 1 ? "and" : "from all, not only" : "to", to);
	simnet_cut(c->net, from, to, true);
	if (kind)
		simnet_cut(c->net, to, from, true);
	for (unsigned i = 0; kind == 2 && i < SLOTS; i++) {
		simnet_cut(c->net, from, i, i != from);
		simnet_cut(c->net, i, from, i != from);
	}
}

static void heal(struct cluster *c)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		simnet_slow(c->net, i, 1);
		for (unsigned k = 0; k < SLOTS; k++)
			simnet_cut(c->net, i, k, false);
	}
}

static void act_heal(struct cluster *c)
{
	cluster_say(c, "the network is whole");
	heal(c);
}

static void act_slow(struct cluster *c)
{
	simnet_slow(c->net, (unsigned)rng_below(&c->rng, SLOTS), (unsigned)rng_between(&c->rng, 10, 200));
}

static void act_clock(struct cluster *c)
{
	struct slot *s = random_slot(c);

	s->clock.sim.now_ns += ((int64_t)rng_below(&c->rng, 200) - 100) * 3600 * NSEC_PER_SEC;
	if (s->clock.sim.now_ns < NSEC_PER_SEC)
		s->clock.sim.now_ns = NSEC_PER_SEC;
}

static void act_full_disk(struct cluster *c)
{
	struct slot *s = random_slot(c);

	if (!slot_is_up(s) || s->leads)
		return;
	slot_set_full(s, !s->full);
	cluster_say(c, "slot %u: %s", s->index, s->full ? "disk full" : "room again");
}

/* A connection that nobody asked for: one more between the same two. */
static void act_dial(struct cluster *c)
{
	struct slot *s = random_slot(c), *to = random_slot(c);

	if (slot_is_up(s))
		links_dial(s, to->node_id);
}

/* ---- disks ---- */

static void act_back_up(struct cluster *c)
{
	struct slot *s = random_slot(c);

	if (!slot_is_up(s) || s->resyncing || s->writers_held)
		return;
	if (s->leads)
		acks_ask(s, 0);
	if (cluster_ok(c) && s->held != NO_BATCH)
		slot_back_up(s);
}

static void act_roll_back(struct cluster *c)
{
	struct slot *s = random_slot(c);

	if (!c->may_lose_disks || s->backup_tip == NO_BATCH)
		return;
	if (slot_is_up(s))
		slot_crash(s, random_variant(c), simstore_count(s->run.image.store));
	cluster_say(c, "slot %u: its disk is an older one", s->index);
	acks_lose_disk(s);
	slot_replace(s, s->backup, s->backup_tip);
	s->backup = (struct sim_image){0};
	s->backup_tip = NO_BATCH;
	c->stats.rolled_back++;
}

static bool tell_peers(struct cluster *c)
{
	bool told = false;

	c->peers.version++;
	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot *s = &c->slot[i];

		if (!slot_is_up(s) || !s->leads)
			continue;
		s->peers = c->peers;
		s->peers.epoch = slot_point(s).promised;
		told = node_set_peers(s->node, &s->peers) == 0;
	}
	return told;
}

/* The node is replaced by another one with an empty disk, of which the leader is told. */
static void act_destroy(struct cluster *c)
{
	struct slot *s = random_slot(c), *leader = random_leader(c);

	if (!c->may_lose_disks || c->peers.next_id > 12)
		return;
	if (!leader || leader == s || (s->leads && rng_percent(&c->rng, 50)))
		return;
	if (slot_is_up(s))
		slot_crash(s, SIMCUT_LOST, simstore_count(s->run.image.store));
	cluster_say(c, "slot %u: its disk is gone", s->index);
	acks_lose_disk(s);
	if (peers_remove(&c->peers, peers_by_id(&c->peers, s->node_id)->name))
		abort();
	s->node_id = cluster_new_peer(c);
	slot_replace(s, (struct sim_image){0}, NO_BATCH);
	sim_image_free(&s->backup);
	s->backup_tip = NO_BATCH;
	kept_free(&s->kept);
	s->asked = 0;
	s->replaced = false;
	if (tell_peers(c))
		slot_format(s, true);
	c->stats.destroyed++;
}

/* ---- the admin ---- */

static bool stands_above(const struct replica_point *a, const struct replica_point *b)
{
	return a->history != b->history ? a->history > b->history : a->durable_seq > b->durable_seq;
}

/* The nodes that are up, highest first, but those between two states or behind a fence, which are no copies; returns how many. */
static unsigned rank(struct cluster *c, struct slot *ret[SLOTS], unsigned *ret_asked)
{
	unsigned n = 0;

	*ret_asked = 0;
	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot *s = &c->slot[i];

		if (!slot_is_up(s))
			continue;
		*ret_asked |= 1u << i;
		struct replica_point p = slot_point(s);
		unsigned at = n;
		bool is_copy = !p.resyncing && !p.fence;
		for (; is_copy && at > 0; at--) {
			struct replica_point above = slot_point(ret[at - 1]);

			if (!stands_above(&p, &above))
				break;
			ret[at] = ret[at - 1];
		}
		if (is_copy) {
			ret[at] = s;
			n++;
		}
	}
	return n;
}

static bool promote(struct slot *s, unsigned asked, bool by_rule)
{
	unsigned asked_before = s->asked;
	bool rule_before = s->by_rule;

	acks_note_asked(s, asked, by_rule);
	int r = node_promote(s->node);
	cluster_say(s->c, "slot %u is promoted%s: %s", s->index, by_rule ? "" : " against the rule", strerror(-r));
	if (r) {
		s->asked = asked_before;
		s->by_rule = rule_before;
		return false;
	}
	s->c->stats.promotions++;
	s->c->stats.lossy_promotions += !by_rule;
	slot_settle(s);
	return true;
}

/* The highest, which can lead. */
static bool promote_by_rule(struct cluster *c)
{
	struct slot *order[SLOTS];
	unsigned asked, n = rank(c, order, &asked);

	if (n == 0 || order[0]->leads)
		return false;
	bool done = promote(order[0], asked, true);
	if (!done && !order[0]->full && cluster_ok(c))
		cluster_fail(c, "slot %u stands highest and cannot lead", order[0]->index);
	return done;
}

/* Nobody who is up leads, so the admin looks for a new one, sometimes. */
static void act_promote(struct cluster *c)
{
	struct slot *s = random_slot(c);

	if (!somebody_leads(c))
		promote_by_rule(c);
	else if (c->may_choose_loss && slot_is_up(s) && rng_percent(&c->rng, 40))
		promote(s, 1u << s->index, false);
}

static void act_hand_over(struct cluster *c)
{
	struct slot *s = random_leader(c), *to = random_slot(c);
	const struct peer *peer = peers_by_id(&c->peers, to->node_id);

	if (!s || s == to || !peer)
		return;
	unsigned asked_before = to->asked;
	bool rule_before = to->by_rule;
	acks_note_asked(to, 1u << s->index | 1u << to->index, true);
	int r = node_handover_begin(s->node, peer->name, HAND_OVER_NS);
	cluster_say(c, "slot %u hands over to slot %u: %s", s->index, to->index, strerror(-r));
	s->writers_held = r == 0;
	c->stats.handovers += r == 0;
	if (r) {
		to->asked = asked_before;
		to->by_rule = rule_before;
	}
	slot_settle(s);
}

/* ---- which ---- */

static const struct {
	unsigned weight; /* of all of them together */
	void (*act)(struct cluster *c);
} acts[] = {
    {60, act_operations}, {14, act_sync}, {10, act_commit},   {10, act_background}, {8, act_wait},
    {6, act_restart},     {4, act_crash}, {4, act_promote},   {4, act_cut},         {5, act_heal},
    {3, act_reset},       {2, act_dial},  {2, act_hand_over}, {2, act_back_up},     {1, act_write_to_follower},
    {1, act_slow},        {1, act_clock}, {1, act_full_disk}, {1, act_roll_back},   {1, act_destroy},
};

bool cluster_act(struct cluster *c)
{
	unsigned sum = 0;

	for (size_t i = 0; i < ARRAY_SIZE(acts); i++)
		sum += acts[i].weight;
	unsigned at = (unsigned)rng_below(&c->rng, sum);
	for (size_t i = 0; i < ARRAY_SIZE(acts); i++) {
		if (at < acts[i].weight) {
			acts[i].act(c);
			break;
		}
		at -= acts[i].weight;
	}
	return cluster_run(c, (int64_t)rng_between(&c->rng, 0, NSEC_PER_SEC / 10));
}

/* ---- the end ---- */

static void make_whole(struct cluster *c)
{
	heal(c);
	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot *s = &c->slot[i];

		s->doom = false;
		if (!slot_is_up(s) && cluster_ok(c))
			slot_start(s);
		slot_set_full(s, false);
	}
}

/* The only leader; NULL when there is none or more. */
static struct slot *the_leader(struct cluster *c)
{
	struct slot *found = NULL;

	for (unsigned i = 0; i < SLOTS; i++) {
		if (!c->slot[i].leads)
			continue;
		if (found)
			return NULL;
		found = &c->slot[i];
	}
	return found;
}

static bool all_equal(struct cluster *c)
{
	struct slot *leader = the_leader(c);

	if (!leader || leader->writers_held)
		return false;
	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot *s = &c->slot[i];

		if (s->held != leader->held || s->resyncing || (!s->leads && fs_readable(s->run.fs)))
			return false;
	}
	return !c->pending; /* and its fsyncs are answered */
}

/* Same epoch, other history: the leader's counts. */
static void resolve_conflicts(struct cluster *c)
{
	struct peer_status st[PEERS_MAX];

	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot *s = &c->slot[i];
		bool conflict = false;

		for (uint32_t k = 0, n = s->leads ? 0 : node_status(s->node, st, PEERS_MAX); k < n; k++)
			conflict = conflict || st[k].state == PEER_CONFLICT;
		if (!conflict)
			continue;
		cluster_say(c, "slot %u gives up what only it has", s->index);
		acks_give_up(s);
		if (node_resync(s->node))
			cluster_fail(c, "slot %u: node_resync", s->index);
	}
}

/* Nobody can lead any more: all who could have lost their disks while the others were between two states. */
static bool is_lost(struct cluster *c)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if (c->slot[i].leads || !c->slot[i].resyncing)
			return false;
	return c->stats.destroyed + c->stats.rolled_back > 0;
}

/* Of the nodes that a list names, any but itself is there still. */
static bool knows_anybody(const struct cluster *c, const struct slot *s)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if (&c->slot[i] != s && peers_by_id(&s->peers, c->slot[i].node_id))
			return true;
	return false;
}

/*
 * A leader may have come up without the last change of the list, and a node may have been away for so long that all it knew are
 * gone: the admin gives them the list.  Anybody else finds it out.
 */
static void repeat_peers(struct cluster *c)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot *s = &c->slot[i];

		if (s->peers.version >= c->peers.version || (!s->leads && knows_anybody(c, s)))
			continue;
		s->peers = c->peers;
		s->peers.epoch = slot_point(s).promised;
		if (node_set_peers(s->node, &s->peers))
			cluster_fail(c, "slot %u: node_set_peers", i);
	}
}

/*
 * A leader waits for the word of a node that it offered the lead, and that is gone with its disk, perhaps when it led already:
 * only an admin can end that, by making the highest lead, who may be that leader.
 */
static void end_offer_to_nobody(struct cluster *c)
{
	struct slot *s = the_leader(c), *order[SLOTS];
	unsigned asked;

	if (!s || !s->writers_held || peers_by_id(&c->peers, epoch_node(s->offer.epoch)))
		return;
	if (rank(c, order, &asked) == 0)
		return;
	struct replica_point highest = slot_point(order[0]), own = slot_point(s);
	promote(stands_above(&highest, &own) ? order[0] : s, asked, true);
}

static bool make_equal(struct cluster *c)
{
	for (int64_t waited = 0; waited < SETTLE_WAIT_NS && cluster_ok(c); waited += NSEC_PER_SEC) {
		if (!cluster_run(c, NSEC_PER_SEC) || all_equal(c))
			return cluster_ok(c);
		if (!somebody_leads(c) && waited % (5 * NSEC_PER_SEC) == 0)
			promote_by_rule(c);
		if (waited % (10 * NSEC_PER_SEC) == 0) {
			resolve_conflicts(c);
			repeat_peers(c);
			end_offer_to_nobody(c);
		}
		if (is_lost(c))
			return true;
	}
	return false;
}

static void say_where_they_are(struct cluster *c)
{
	char text[600] = "";
	size_t n = 0;

	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot *s = &c->slot[i];
		struct replica_point p = slot_point(s);
		struct peer_status st[PEERS_MAX];

		n += (size_t)snprintf(text + n, sizeof(text) - n, "; slot %u %s at %llu, promised %llu.%u%s%s", i,
				      s->leads ? "leads" : "follows", (unsigned long long)p.durable_seq,
				      (unsigned long long)epoch_counter(p.promised), epoch_node(p.promised),
				      p.resyncing ? ", resyncing" : "", s->writers_held ? ", holding writers" : "");
		for (uint32_t k = 0, all = node_status(s->node, st, PEERS_MAX); k < all && n < 500; k++)
			n += (size_t)snprintf(text + n, sizeof(text) - n, " [%s %s: %.60s]", st[k].name,
					      peer_state_name(st[k].state), st[k].reason);
	}
	cluster_fail(c, "they do not become equal%s%s", c->pending ? ", and an fsync waits" : "", text);
}

static bool check_all(struct cluster *c)
{
	for (unsigned i = 0; i < SLOTS && cluster_ok(c); i++) {
		struct slot *s = &c->slot[i];

		s->checked = 0;
		slot_compare(s);
		if (cluster_ok(c) && !sim_fsck(&s->run, s->run.fs))
			cluster_fail(c, "slot %u: %s", i, s->run.why);
	}
	acks_check_end(c, the_leader(c));
	return cluster_ok(c);
}

bool cluster_end(struct cluster *c)
{
	cluster_say(c, "the end begins");
	c->ending = true;
	make_whole(c);
	if (!cluster_ok(c))
		return false;
	if (!make_equal(c)) {
		if (cluster_ok(c))
			say_where_they_are(c);
		return false;
	}
	if (is_lost(c))
		return true;
	/* It is of use again: what is written now arrives everywhere. */
	operations(the_leader(c), 5);
	if (cluster_ok(c))
		acks_ask(the_leader(c), 2);
	if (!make_equal(c)) {
		if (cluster_ok(c))
			say_where_they_are(c);
		return false;
	}
	return check_all(c);
}
