/*
 * replica_shim.c: the volume between a node and the real one: everything is passed on, what changes the volume's place in history
 * is looked at before and after, and a sabotaged run breaks one rule here, so that it is certain that the checks see it.
 */
#include <string.h>

#include "tests/crash/replica_run.h"

#define DOOM_PERCENT 20

static struct shim *shim_of(struct replica_volume *v)
{
	return container_of(v, struct shim, volume);
}

static struct replica_volume *real_of(struct replica_volume *v)
{
	return shim_of(v)->real;
}

static bool is_sabotaged(struct replica_volume *v, enum replica_sabotage what)
{
	return shim_of(v)->slot->c->o.sabotage == what;
}

/* ---- passed on ---- */

static void get_point(struct replica_volume *v, struct replica_point *ret)
{
	v = real_of(v);
	v->ops->get_point(v, ret);
}

static int hash_after(struct replica_volume *v, uint64_t seq, uint64_t *ret_hash)
{
	v = real_of(v);
	return v->ops->hash_after(v, seq, ret_hash);
}

static bool is_prefix(struct replica_volume *v, uint64_t history, uint64_t seq)
{
	v = real_of(v);
	return v->ops->is_prefix(v, history, seq);
}

static int state_sum(struct replica_volume *v, uint64_t seq, uint64_t *ret_sum)
{
	v = real_of(v);
	return v->ops->state_sum(v, seq, ret_sum);
}

static int read_batch(struct replica_volume *v, struct replica_cursor **cursor, uint64_t seq, struct shipped_batch *ret,
		      uint32_t *ret_n_data)
{
	v = real_of(v);
	return v->ops->read_batch(v, cursor, seq, ret, ret_n_data);
}

static int read_data(struct replica_volume *v, struct replica_cursor *cursor, uint32_t index, struct shipped_data *ret)
{
	v = real_of(v);
	return v->ops->read_data(v, cursor, index, ret);
}

static int take_batch(struct replica_volume *v, const struct shipped_batch *b, uint32_t *ret_n_data)
{
	shim_of(v)->taken_seq = b->seq;
	v = real_of(v);
	return v->ops->take_batch(v, b, ret_n_data);
}

static int finish_batch(struct replica_volume *v)
{
	struct replica_volume *real = real_of(v);
	struct slot *s = shim_of(v)->slot;
	struct replica_point at;

	if (s->in_window)
		s->ring_percent = sim_ring_percent(s->run.fs);
	int r = real->ops->finish_batch(real);

	real->ops->get_point(real, &at);
	bool waits = r == 0 && at.applied_seq < shim_of(v)->taken_seq;
	if (waits && !s->in_window) {
		s->ring_percent = 0;
		s->c->stats.windows++;
	}
	s->in_window = waits;
	return r;
}

static void drop_batch(struct replica_volume *v)
{
	v = real_of(v);
	v->ops->drop_batch(v);
}

static int hold_writers(struct replica_volume *v, bool hold)
{
	v = real_of(v);
	return v->ops->hold_writers(v, hold);
}

/* Now and then what the peer says to it is the last that this node hears. */
static int offer(struct replica_volume *v, uint64_t epoch)
{
	struct replica_volume *real = real_of(v);
	struct slot *s = shim_of(v)->slot;

	s->offer.epoch = epoch; /* 0: an admin may make that node lead with the same one later */
	if (epoch) {
		s->offer.from = s->epoch;
		s->offer.doubtful = s->doomed;
		s->offer.n_batches = s->c->h.n_batches;
		s->doom = s->doom || (!s->c->ending && rng_percent(&s->c->rng, DOOM_PERCENT));
	}
	return is_sabotaged(v, SABOTAGE_FORGET_OFFER) ? 0 : real->ops->offer(real, epoch);
}

static int step_down(struct replica_volume *v)
{
	v = real_of(v);
	return v->ops->step_down(v);
}

static int view_open(struct replica_volume *v, struct replica_view **ret_view, struct replica_view_info *ret)
{
	v = real_of(v);
	return v->ops->view_open(v, ret_view, ret);
}

static int read_leaf(struct replica_volume *v, struct leaf_data *d, uint8_t *blocks, uint64_t *ret_fence)
{
	v = real_of(v);
	return v->ops->read_leaf(v, d, blocks, ret_fence);
}

static int resync_rows(struct replica_volume *v, struct slice from, struct slice to, replica_row_fn *fn, void *ctx)
{
	v = real_of(v);
	return v->ops->resync_rows(v, from, to, fn, ctx);
}

static int resync_missing(struct replica_volume *v, const struct row *r, uint16_t *ret_slots)
{
	v = real_of(v);
	return v->ops->resync_missing(v, r, ret_slots);
}

static int resync_save(struct replica_volume *v)
{
	v = real_of(v);
	return v->ops->resync_save(v);
}

/* ---- watched or sabotaged ---- */

static int take_data(struct replica_volume *v, const struct shipped_data *d)
{
	struct shipped_data open = *d;

	if (is_sabotaged(v, SABOTAGE_NO_FENCE) && open.fence)
		open.fence = shim_of(v)->taken_seq; /* reached with its own batch */
	v = real_of(v);
	return v->ops->take_data(v, &open);
}

static int commit(struct replica_volume *v, uint64_t *ret_durable_seq)
{
	struct replica_volume *real = real_of(v);
	struct replica_point at;

	if (!is_sabotaged(v, SABOTAGE_ACK_EARLY))
		return real->ops->commit(real, ret_durable_seq);
	real->ops->get_point(real, &at);
	*ret_durable_seq = at.applied_seq;
	return 0;
}

static int set_differs(struct replica_volume *v, uint64_t seq)
{
	struct slot *s = shim_of(v)->slot;

	cluster_fail(s->c, "slot %u: its state differs from the leader's after batch %llu", s->index, (unsigned long long)seq);
	v = real_of(v);
	return v->ops->set_differs(v, seq);
}

/* A leader commits what it has and follows: that is where its history ends. */
static int note_epoch(struct replica_volume *v, uint64_t epoch)
{
	struct replica_volume *real = real_of(v);

	if (is_sabotaged(v, SABOTAGE_IGNORE_EPOCH) && shim_of(v)->slot->leads)
		return 0;
	int r = real->ops->note_epoch(real, epoch);
	slot_settle(shim_of(v)->slot);
	return r;
}

static int promote(struct replica_volume *v, uint64_t epoch)
{
	struct replica_volume *real = real_of(v);
	int r = real->ops->promote(real, epoch);

	slot_settle(shim_of(v)->slot);
	return r;
}

static int resync_begin(struct replica_volume *v, uint64_t epoch, bool save)
{
	struct replica_volume *real = real_of(v);
	struct slot *s = shim_of(v)->slot;

	slot_settle(s);
	cluster_say(s->c, "slot %u resyncs%s", s->index, save ? " and keeps aside what goes" : "");
	s->unsaved = s->unsaved || !save;
	int r = real->ops->resync_begin(real, epoch, save && !is_sabotaged(v, SABOTAGE_SKIP_SAVING));
	slot_settle(s);
	return r;
}

static int resync_put(struct replica_volume *v, const struct row *r, const struct leaf_data *d, const uint8_t *blocks)
{
	if (is_sabotaged(v, SABOTAGE_SHORT_RESYNC) && !r->value.p && r->key.len % 3 == 0)
		return 0;
	v = real_of(v);
	return v->ops->resync_put(v, r, d, blocks);
}

static int resync_end(struct replica_volume *v, const struct replica_view_info *info, uint64_t fence)
{
	struct replica_volume *real = real_of(v);
	struct slot *s = shim_of(v)->slot;
	int r = real->ops->resync_end(real, info, is_sabotaged(v, SABOTAGE_NO_FENCE) ? 0 : fence);

	s->c->stats.resyncs += r == 0;
	slot_settle(s);
	return r;
}

static int next_wanted(struct replica_volume *v, uint64_t after, struct block_wanted *ret)
{
	return real_of(v)->ops->next_wanted(real_of(v), after, ret);
}

static void give_block(struct replica_volume *v, uint64_t number, const void *block)
{
	real_of(v)->ops->give_block(real_of(v), number, block);
}

static int answer_block(struct replica_volume *v, const struct block_wanted *b, void *block)
{
	return real_of(v)->ops->answer_block(real_of(v), b, block);
}

static struct replica_ops ops = {
    .next_wanted = next_wanted,
    .give_block = give_block,
    .answer_block = answer_block,
    .get_point = get_point,
    .hash_after = hash_after,
    .is_prefix = is_prefix,
    .state_sum = state_sum,
    .read_batch = read_batch,
    .read_data = read_data,
    .take_batch = take_batch,
    .take_data = take_data,
    .finish_batch = finish_batch,
    .drop_batch = drop_batch,
    .commit = commit,
    .set_differs = set_differs,
    .note_epoch = note_epoch,
    .promote = promote,
    .hold_writers = hold_writers,
    .offer = offer,
    .step_down = step_down,
    .view_open = view_open,
    .read_leaf = read_leaf,
    .resync_begin = resync_begin,
    .resync_rows = resync_rows,
    .resync_missing = resync_missing,
    .resync_put = resync_put,
    .resync_save = resync_save,
    .resync_end = resync_end,
};

void shim_open(struct shim *shim, struct slot *s, struct replica_volume *real)
{
	/* Cursors and views know their volume themselves. */
	ops.cursor_free = real->ops->cursor_free;
	ops.view_close = real->ops->view_close;
	ops.view_rows = real->ops->view_rows;
	*shim = (struct shim){.volume.ops = &ops, .real = real, .slot = s};
}
