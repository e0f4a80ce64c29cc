/*
 * replica_run.c: the cluster: how it begins, and how time passes in it.
 *
 * One thing happens at a time: bytes arrive at one node, or a deadline of one is there.  Whatever that left to be sent is sent,
 * then time goes on to the next.  Each node has a clock of its own, hours from the others' and a bit slower or faster.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tests/crash/replica_run.h"

#define IO_ROOM      (1 * MIB + 4 * DISK_BLOCK)
#define EMPTY_BYTES  (512 * KIB) /* received before a follower's journal is emptied */
#define EVENTS_MAX   3000000u    /* in one seed: more than that is going round in circles */
#define HOURS_APART  72
#define DRIFT_PPM    300
#define LOOK_PERCENT 4
#define COMMIT_NS    NSEC_PER_SEC
#define HAND_POLL_NS (NSEC_PER_SEC / 20)

bool cluster_fail(struct cluster *c, const char *fmt, ...)
{
	va_list ap;

	if (c->why[0])
		return false;
	int n = snprintf(c->why, sizeof(c->why), "at %.3f s: ", (double)simnet_now(c->net) / 1e9);
	va_start(ap, fmt);
	vsnprintf(c->why + n, sizeof(c->why) - (size_t)n, fmt, ap);
	va_end(ap);
	return false;
}

void cluster_say(struct cluster *c, const char *fmt, ...)
{
	va_list ap;

	if (!c->o.verbose)
		return;
	printf("%9.3f  ", (double)simnet_now(c->net) / 1e9);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

/* ---- time ---- */

static int64_t real_now(const struct clock *c)
{
	return container_of(c, struct sim_clock, clock)->now_ns;
}

static int64_t mono_now(const struct clock *c)
{
	return container_of(container_of(c, struct sim_clock, clock), struct node_clock, sim)->mono_ns;
}

static void clock_begin(struct node_clock *k, struct rng *rng)
{
	int64_t apart_ns = (int64_t)rng_below(rng, 2 * HOURS_APART * 3600) - HOURS_APART * 3600;

	*k = (struct node_clock){
	    .sim = {.clock = {.real_ns = real_now, .mono_ns = mono_now}, .now_ns = (1700000000 + apart_ns) * NSEC_PER_SEC},
	    .mono_ns = (int64_t)rng_between(rng, 1, 1000000) * NSEC_PER_SEC,
	    .drift_ppm = (int64_t)rng_below(rng, 2 * DRIFT_PPM) - DRIFT_PPM,
	};
}

static void clocks_advance(struct cluster *c, int64_t ns)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		struct node_clock *k = &c->slot[i].clock;

		k->owed += ns * k->drift_ppm;
		int64_t mine_ns = ns + k->owed / 1000000;
		k->owed %= 1000000;
		k->mono_ns += mine_ns;
		k->sim.now_ns += mine_ns;
	}
}

/* ---- one step ---- */

/* -EAGAIN: waits for the peer; -EINPROGRESS: it may lead, and nobody knows. */
static void poll_handover(struct slot *s)
{
	int r = s->writers_held ? node_handover_poll(s->node) : -EAGAIN;

	if (r == -EAGAIN || r == -EINPROGRESS)
		return;
	cluster_say(s->c, "slot %u: hand-over: %s", s->index, strerror(-r));
	s->writers_held = false;
	s->dirty = true;
	slot_settle(s);
}

/* As the committer does. */
static void commit(struct slot *s)
{
	s->commit_ns = simnet_now(s->c->net) + COMMIT_NS;
	acks_ask(s, 0);
}

static void look_after(struct slot *s)
{
	poll_handover(s);
	if (s->leads && !s->writers_held && simnet_now(s->c->net) >= s->commit_ns)
		commit(s);
	links_pump(s);
	if (s->node && s->received > EMPTY_BYTES && cluster_ok(s->c))
		slot_empty_journal(s);
}

static int64_t next_due(const struct cluster *c, int64_t end_ns)
{
	int64_t next_ns = end_ns;

	for (unsigned i = 0; i < SLOTS; i++) {
		const struct slot *s = &c->slot[i];

		if (!slot_is_up(s))
			continue;
		if (s->dirty)
			return simnet_now(c->net);
		next_ns = (int64_t)min_u64((uint64_t)next_ns, (uint64_t)links_next(s));
		if (s->leads && !s->writers_held)
			next_ns = (int64_t)min_u64((uint64_t)next_ns, (uint64_t)s->commit_ns);
		if (s->writers_held)
			next_ns = (int64_t)min_u64((uint64_t)next_ns, (uint64_t)(simnet_now(c->net) + HAND_POLL_NS));
	}
	return next_ns;
}

bool cluster_run(struct cluster *c, int64_t ns)
{
	int64_t end_ns = simnet_now(c->net) + ns;
	bool over = false;

	while (cluster_ok(c) && !over) {
		struct simnet_event e;
		int64_t before_ns = simnet_now(c->net), due_ns = next_due(c, end_ns);
		bool any = simnet_step(c->net, due_ns, &e);

		over = !any && due_ns == end_ns;
		clocks_advance(c, simnet_now(c->net) - before_ns);
		if (any)
			links_event(c, &e);
		for (unsigned i = 0; i < SLOTS; i++)
			if (cluster_ok(c) && slot_is_up(&c->slot[i]))
				look_after(&c->slot[i]);
		acks_answered(c);
		if (any && cluster_ok(c) && slot_is_up(&c->slot[e.host]) && rng_percent(&c->rng, LOOK_PERCENT))
			slot_compare(&c->slot[e.host]);
		if (++c->stats.events > EVENTS_MAX)
			cluster_fail(c, "it goes round in circles");
	}
	return cluster_ok(c);
}

/* ---- life ---- */

static void make_peers(struct cluster *c)
{
	c->peers = (struct peers){.version = 1, .next_id = 1};
	for (unsigned i = 0; i < SLOTS; i++)
		c->slot[i].node_id = cluster_new_peer(c);
}

uint32_t cluster_new_peer(struct cluster *c)
{
	uint8_t uuid[16];
	char name[16], address[24];
	uint32_t id = 0;

	for (unsigned i = 0; i < sizeof(uuid); i++)
		uuid[i] = (uint8_t)rng_u64(&c->rng);
	snprintf(name, sizeof(name), "n%u", c->peers.next_id);
	snprintf(address, sizeof(address), "n%u:1", c->peers.next_id);
	if (peers_add(&c->peers, uuid, name, address, &id))
		abort();
	return id;
}

static void slot_init(struct cluster *c, unsigned i)
{
	struct slot *s = &c->slot[i];

	s->c = c;
	s->index = i;
	s->held = s->tip = s->whole = s->before_resync = s->backup_tip = s->lost = NO_BATCH;
	clock_begin(&s->clock, &c->rng);
	s->run = (struct sim_run){.seed = c->o.seed, .profile = c->profile, .clock = &s->clock.sim, .expect_errors = true};
	s->run.snapshots = c->snapshots;
	s->run.a_copy = true;
	s->run.rng = rng_derive(c->o.seed, 0x6f7073, i);
	s->run.bytes = aligned_alloc(DISK_BLOCK, IO_ROOM);
	sim_open_cold(&s->run);
}

/* The model of an empty volume, as its format leaves it. */
static void empty_model(struct slot *s)
{
	const struct record_attr born = {.mask = ATTR_MTIME, .mtime_ns = s->clock.sim.now_ns};

	s->run.model = model_new(0755, 0, 0);
	model_set_time(s->run.model, s->clock.sim.now_ns);
	(void)model_setattr(s->run.model, FS_ROOT_INO, &born);
	sim_history_add(&s->run, "format", 0);
}

bool cluster_new(struct cluster *c, const struct cluster_options *o)
{
	*c = (struct cluster){.o = *o, .rng = rng_derive(o->seed, 0x636c7573, 0)};
	static const enum sim_profile profiles[] = {SIM_MIXED, SIM_TREE, SIM_RING, SIM_COLD};
	c->profile = profiles[rng_below(&c->rng, ARRAY_SIZE(profiles))];
	c->may_choose_loss = rng_percent(&c->rng, 40);
	c->may_lose_disks = rng_percent(&c->rng, 40);
	struct rng own = rng_derive(o->seed, 0x736e6170, 0);
	c->snapshots = rng_percent(&own, 60);
	c->net = simnet_new(o->seed, SLOTS);
	for (unsigned i = 0; i < sizeof(c->volume); i++)
		c->volume[i] = (uint8_t)rng_u64(&c->rng);
	for (unsigned i = 0; i < SLOTS; i++)
		slot_init(c, i);
	make_peers(c);
	bool ok = true;
	for (unsigned i = 0; ok && i < SLOTS; i++) {
		ok = slot_format(&c->slot[i], i > 0);
		if (ok && i == 0)
			empty_model(&c->slot[0]);
		c->slot[i].first_start = i == 0;
		ok = ok && slot_start(&c->slot[i]);
	}
	return ok;
}

static void slot_free(struct slot *s)
{
	links_drop_all(s);
	node_free(s->node);
	s->node = NULL;
	acks_drop(s);
	sim_free(&s->run);
	sim_image_free(&s->backup);
	kept_free(&s->kept);
}

void cluster_free(struct cluster *c)
{
	for (unsigned i = 0; i < SLOTS; i++)
		slot_free(&c->slot[i]);
	for (struct pending *p = c->pending, *next; p; p = next) {
		next = p->next;
		free(p);
	}
	simnet_free(c->net);
	histories_free(&c->h);
	free(c->call);
}
