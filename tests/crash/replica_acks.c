/*
 * replica_acks.c: fsyncs at levels, and what their answers promise.
 *
 * A level is the policy of a directory: "/k1" asks for one follower, "/k2" for two; the root for none.  An fsync covers
 * everything that was done before, so its answer is about the newest batch with an operation in it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/crash/replica_run.h"
#include "tests/lib/cow.h"

static const struct fs_cred admin = {.umask = 022};

static void answered(struct journal_waiter *w, int result)
{
	struct pending *p = container_of(w, struct pending, waiter);

	p->answered = true;
	p->result = result;
}

/* The directory with the policy of this level, made when it is not there; 0: it cannot be. */
static uint64_t level_dir(struct slot *s, unsigned level)
{
	struct sim_run *run = &s->run;
	char name[8], policy[32], is[FS_POLICY_MAX + 1];
	struct fs_attr a;

	snprintf(name, sizeof(name), "k%u", level);
	snprintf(policy, sizeof(policy), "replicas=%u", level);
	uint64_t ino = model_lookup(run->model, FS_ROOT_INO, name);
	if (!ino) {
		model_set_time(run->model, run->clock->now_ns);
		int r = fs_mknod(run->fs, &admin, FS_ROOT_INO, name, S_IFDIR | 0755, 0, &a);
		if (r) {
			cluster_fail(s->c, "slot %u: mkdir %s: %s", s->index, name, strerror(-r));
			return 0;
		}
		fs_forget(run->fs, a.ino, 1);
		ino = a.ino;
		model_mknod(run->model, FS_ROOT_INO, name, S_IFDIR | 0755, 0, 0, 0, NULL, ino);
		sim_history_add(run, "mkdir of a level", 0);
	}
	if (fs_get_policy(run->fs, ino, "durability", false, is) || strcmp(is, policy) != 0) {
		int r = fs_set_policy(run->fs, &admin, ino, "durability", policy);
		if (r)
			cluster_fail(s->c, "slot %u: fs_set_policy: %s", s->index, strerror(-r));
	}
	return ino;
}

/* The batch that holds the newest operation; when there was none since it began to lead, all that is durable. */
static uint64_t newest_change(const struct slot *s)
{
	const struct sim_history *h = &s->run.history;

	for (size_t i = h->n; i-- > 1;)
		if (h->step[i].hash != h->step[i - 1].hash)
			return h->step[i].pos;
	return s->c->h.batch[s->tip].seq;
}

void acks_ask(struct slot *s, unsigned level)
{
	uint64_t ino = level ? level_dir(s, level) : FS_ROOT_INO;

	if (!ino || !cluster_ok(s->c))
		return;
	struct pending *p = test_alloc(sizeof(*p));
	*p = (struct pending){
	    .waiter.done = answered, .next = s->c->pending, .slot = s, .epoch = s->epoch, .ino = ino, .level = level};
	p->n_back = s->run.n_back;
	p->seq = newest_change(s);
	s->c->pending = p;
	fs_sync_async(s->run.fs, ino, &p->waiter);
	slot_settle(s);
}

static bool holds(const struct cluster *c, unsigned slot, uint32_t batch)
{
	return batches_contain(&c->h, c->slot[slot].whole, batch);
}

/* Those that have it, but perhaps not all of its data. */
static unsigned count_durable(const struct cluster *c, uint32_t batch)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SLOTS; i++)
		n += batches_contain(&c->h, c->slot[i].held, batch);
	return n;
}

static unsigned count_holders(const struct cluster *c, uint32_t batch)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SLOTS; i++)
		n += holds(c, i, batch);
	return n;
}

/* Disks that had it and were lost, which the leader need not know: an ack stands until it hears of the node again. */
static unsigned count_lost(const struct cluster *c, uint32_t batch)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SLOTS; i++) {
		const struct slot *s = &c->slot[i];

		n += simnet_now(c->net) < s->lost_until_ns && !holds(c, i, batch) && batches_contain(&c->h, s->lost, batch);
	}
	return n;
}

/*
 * Users rename and remove the directories of levels, too, and the tree may go back to when they were not there: an fsync is
 * answered as the policy says then.
 */
static unsigned level_now(const struct pending *p)
{
	char policy[32], is[FS_POLICY_MAX + 1];

	snprintf(policy, sizeof(policy), "replicas=%u", p->level);
	if (p->level == 0 || p->n_back != p->slot->run.n_back ||
	    fs_get_policy(p->slot->run.fs, p->ino, "durability", false, is) || strcmp(is, policy) != 0)
		return 0;
	return p->level;
}

static void take_answer(struct cluster *c, const struct pending *p)
{
	unsigned level = level_now(p);
	uint32_t b = p->slot->tip;

	while (b != NO_BATCH && c->h.batch[b].seq > p->seq)
		b = c->h.batch[b].parent;
	if (b == NO_BATCH || c->h.batch[b].seq < p->seq) {
		cluster_fail(c, "slot %u: an fsync of batch %llu was answered, which is not durable", p->slot->index,
			     (unsigned long long)p->seq);
		return;
	}
	c->stats.acks++;
	/* What an old leader answers after another one was made is lost to that one. */
	bool waived = p->epoch < c->newest_epoch;
	unsigned lost = count_lost(c, b);
	if (!waived && count_holders(c, b) + lost < level + 1)
		cluster_fail(c, "slot %u: an fsync at level %u was answered, and batch %llu is on %u disks, whole on %u",
			     p->slot->index, level, (unsigned long long)c->h.batch[b].seq, count_durable(c, b),
			     count_holders(c, b));
	acks_add(&c->h, level, b, waived);
	c->h.ack[c->h.n_acks - 1].disk_lost = lost > 0;
	c->stats.acks_waived += waived;
}

void acks_answered(struct cluster *c)
{
	for (struct pending **at = &c->pending; *at;) {
		struct pending *p = *at;

		if (!p->answered || p->slot->doomed) {
			at = &p->next;
			continue;
		}
		*at = p->next;
		if (p->result == 0 && !p->voided && cluster_ok(c))
			take_answer(c, p);
		free(p);
	}
}

/* Nobody hears its answers any more; the volume gives them when it is closed. */
void acks_drop(struct slot *s)
{
	for (struct pending *p = s->c->pending; p; p = p->next)
		if (p->slot == s)
			p->voided = true;
}

static void waive(struct cluster *c, struct known_ack *a)
{
	a->waived = true;
	c->stats.acks_waived++;
}

/* One of those who were asked has it, and does not just have another history of the same epoch, which no rule can compare. */
static bool one_of_them_has(const struct cluster *c, unsigned asked, uint32_t batch, uint32_t tip)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		uint32_t held = c->slot[i].whole;

		if (!(asked & 1u << i) || !holds(c, i, batch))
			continue;
		if (tip == NO_BATCH || c->h.batch[held].epoch != c->h.batch[tip].epoch ||
		    !batches_is_split(&c->h, c->h.batch[held].epoch))
			return true;
	}
	return false;
}

void acks_note_asked(struct slot *s, unsigned asked, bool by_rule)
{
	s->asked = asked;
	s->by_rule = by_rule;
}

void acks_check_reign(struct slot *s)
{
	struct cluster *c = s->c;
	uint32_t before = c->h.batch[s->tip].parent; /* the EPOCH record's batch is its own */

	if (!s->asked && c->newest_epoch) {
		cluster_fail(c, "slot %u: leads, and nobody said so", s->index);
		return;
	}
	/* It was made to lead before the newest leader was, and has only come to it now. */
	bool late = s->epoch < c->newest_epoch;
	for (size_t i = 0; i < c->h.n_acks; i++) {
		struct known_ack *a = &c->h.ack[i];

		if (a->waived || batches_contain(&c->h, s->tip, a->batch))
			continue;
		if (s->by_rule && one_of_them_has(c, s->asked, a->batch, before)) {
			if (late)
				continue;
			cluster_fail(c, "slot %u leads by the rule, and has lost batch %llu, which was answered at level %u",
				     s->index, (unsigned long long)c->h.batch[a->batch].seq, a->level);
			return;
		}
		waive(c, a);
	}
	s->asked = 0;
}

void acks_give_up(struct slot *s)
{
	for (size_t i = 0; i < s->c->h.n_acks; i++)
		if (!s->c->h.ack[i].waived && holds(s->c, s->index, s->c->h.ack[i].batch) &&
		    count_holders(s->c, s->c->h.ack[i].batch) == 1)
			waive(s->c, &s->c->h.ack[i]);
}

void acks_lose_disk(struct slot *s)
{
	struct cluster *c = s->c;

	s->lost = s->whole;
	s->lost_until_ns = INT64_MAX;

	for (size_t i = 0; i < c->h.n_acks; i++) {
		struct known_ack *a = &c->h.ack[i];

		if (a->waived || !holds(c, s->index, a->batch))
			continue;
		a->disk_lost = true;
		if (count_holders(c, a->batch) == 1)
			waive(c, a);
	}
}

void acks_check_given_up(struct slot *s, uint32_t before)
{
	struct cluster *c = s->c;

	for (size_t i = 0; i < c->h.n_acks; i++) {
		struct known_ack *a = &c->h.ack[i];

		if (a->waived || !batches_contain(&c->h, before, a->batch) || count_holders(c, a->batch) > 0)
			continue;
		if (!a->disk_lost)
			cluster_fail(c, "slot %u: gives up the last copy of batch %llu, which was answered at level %u", s->index,
				     (unsigned long long)c->h.batch[a->batch].seq, a->level);
		waive(c, a);
	}
}

void acks_check_end(struct cluster *c, const struct slot *leader)
{
	for (size_t i = 0; i < c->h.n_acks; i++) {
		const struct known_ack *a = &c->h.ack[i];

		if (!a->waived && !batches_contain(&c->h, leader->tip, a->batch))
			cluster_fail(c, "batch %llu, which was answered at level %u, is lost",
				     (unsigned long long)c->h.batch[a->batch].seq, a->level);
		c->stats.acks_kept += !a->waived;
	}
}
