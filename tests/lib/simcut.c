/*
 * simcut.c: what a crash leaves.
 *
 * A cut walks the log once, in order, and keeps for each file the bytes that are durable and the list of entries that are
 * not yet.  At any event an image is a fork of the durable bytes (shared pages) with some of the pending entries applied, and
 * of event k + 1's too, which was under way: so an image costs what it changes and not what the store holds.
 *
 * A write with DISK_DURABLE makes older pending writes to the same sectors durable with it: the host's cache and the disk
 * keep the order of writes to one sector.
 */
#include "tests/lib/simlog.h"

#include <stdio.h>
#include <string.h>

struct cut_file {
	bool exists, named; /* seen by the running host; name durable */
	bool remove_pending;
	struct cow durable;
	size_t *pending; /* indices into the log, in order */
	size_t n_pending, pending_cap;
};
struct simcut {
	const struct simstore *s;
	uint64_t event; /* k */
	size_t at;      /* first log entry of a later event */
	struct cut_file *files;
};

const char *simcut_variant_name(enum simcut_variant v)
{
	static const char *const names[] = {"lost", "kept", "torn", "files", "reorder", "kill"};

	return v < SIMCUT_VARIANTS ? names[v] : "?";
}

static void apply_masked(struct cow *c, const struct sim_entry *e, struct rng *torn)
{
	for (uint64_t p = sim_first_page(e); p < sim_end_page(e); p++) {
		unsigned mask = sim_mask(e, p);

		if (torn)
			mask &= (unsigned)rng_u64(torn);
		cow_set_sectors(c, p, e->pages[p - sim_first_page(e)], mask);
	}
}

static void apply(struct cow *c, const struct sim_entry *e)
{
	apply_masked(c, e, NULL);
}

static bool overlap(const struct sim_entry *a, const struct sim_entry *b)
{
	return a->first_sector < b->first_sector + b->n_sectors && b->first_sector < a->first_sector + a->n_sectors;
}

static void pending_add(struct cut_file *f, size_t entry)
{
	f->pending = test_grow(f->pending, f->n_pending, &f->pending_cap, sizeof(*f->pending));
	f->pending[f->n_pending++] = entry;
}

/* A durable write: what it overlaps goes before it. */
static void settle_overlapping(struct simcut *c, struct cut_file *f, const struct sim_entry *e)
{
	size_t kept = 0;

	for (size_t i = 0; i < f->n_pending; i++) {
		const struct sim_entry *old = &c->s->log[f->pending[i]];

		if (overlap(old, e))
			apply(&f->durable, old);
		else
			f->pending[kept++] = f->pending[i];
	}
	f->n_pending = kept;
}

/* All pending entries become durable; when the flush failed, any subset is gone for good and the rest stays pending. */
static void settle_flush(struct simcut *c, struct cut_file *f, const struct sim_entry *flush)
{
	struct rng rng = rng_derive(flush->event, flush->file, 0);
	size_t kept = 0;

	for (size_t i = 0; i < f->n_pending; i++) {
		if (!flush->failed)
			apply(&f->durable, &c->s->log[f->pending[i]]);
		else if (rng_percent(&rng, 50))
			f->pending[kept++] = f->pending[i];
	}
	f->n_pending = kept;
}

static void settle_names(struct simcut *c)
{
	for (size_t i = 0; i < c->s->n_files; i++) {
		struct cut_file *f = &c->files[i];

		f->named = f->exists;
		f->remove_pending = false;
	}
}

static void take_entry(struct simcut *c, size_t at)
{
	const struct sim_entry *e = &c->s->log[at];
	struct cut_file *f = &c->files[e->file];

	switch ((enum sim_kind)e->kind) {
	case SIM_WRITE:
		if (e->durable) {
			settle_overlapping(c, f, e);
			apply(&f->durable, e);
		} else {
			pending_add(f, at);
		}
		break;
	case SIM_MAPPED:
		pending_add(f, at);
		break;
	case SIM_FLUSH:
		settle_flush(c, f, e);
		break;
	case SIM_CREATE:
		f->exists = true;
		break;
	case SIM_REMOVE:
		f->exists = false;
		f->remove_pending = f->named;
		break;
	case SIM_SYNC_NAMES:
		if (!e->failed)
			settle_names(c);
		break;
	case SIM_INDEX:
	case SIM_MARK:
		break;
	}
}

struct simcut *simcut_new(const struct simstore *s)
{
	struct simcut *c = test_alloc(sizeof(*c));

	c->s = s;
	c->files = test_alloc(s->n_files * sizeof(*c->files));
	for (size_t i = 0; i < s->n_files; i++) {
		const struct sim_file *f = &s->files[i];

		c->files[i].exists = f->base_exists;
		c->files[i].named = f->base_exists && f->base_named;
		if (f->base_exists)
			c->files[i].durable = cow_fork(&f->base);
		else
			cow_init(&c->files[i].durable, f->live.size);
	}
	simcut_advance(c, 0);
	return c;
}

void simcut_free(struct simcut *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->s->n_files; i++) {
		cow_free(&c->files[i].durable);
		free(c->files[i].pending);
	}
	free(c->files);
	free(c);
}

void simcut_advance(struct simcut *c, uint64_t event)
{
	for (; c->at < c->s->n_log && c->s->log[c->at].event <= event; c->at++)
		take_entry(c, c->at);
	c->event = event;
}

bool simcut_in_index_flush(const struct simcut *c)
{
	for (size_t i = c->at; i < c->s->n_log && c->s->log[i].event == c->event + 1; i++)
		if (c->s->log[i].kind == SIM_INDEX && !c->s->log[i].failed)
			return true;
	return false;
}

/* ---- images ---- */

/* Entries of `file` whose fate is open at this cut: the pending ones, and those of the event under way. */
static size_t *open_entries(const struct simcut *c, uint32_t file, bool with_next, size_t *ret_n)
{
	const struct cut_file *f = &c->files[file];
	size_t n = f->n_pending, next = c->at;

	while (next < c->s->n_log && c->s->log[next].event == c->event + 1)
		next++;
	size_t *list = test_alloc((n + next - c->at) * sizeof(*list));
	if (n)
		memcpy(list, f->pending, n * sizeof(*list));
	for (size_t i = c->at; with_next && i < next; i++) {
		const struct sim_entry *e = &c->s->log[i];

		if (e->file == file && (e->kind == SIM_WRITE || e->kind == SIM_MAPPED))
			list[n++] = i;
	}
	*ret_n = n;
	return list;
}

static void apply_zeros(struct cow *to, const struct sim_entry *e)
{
	for (uint64_t p = sim_first_page(e); p < sim_end_page(e); p++)
		cow_set_sectors(to, p, NULL, sim_mask(e, p));
}

static void image_torn(const struct simcut *c, struct cow *to, const size_t *list, size_t n, struct rng *rng)
{
	/* Cuts differ in character: from hardly anything survived to hardly anything was lost. */
	unsigned keep = (unsigned)rng_between(rng, 10, 90);

	for (size_t i = 0; i < n; i++) {
		const struct sim_entry *e = &c->s->log[list[i]];

		if (rng_percent(rng, keep))
			apply(to, e);
		else if (rng_percent(rng, 40))
			apply_masked(to, e, rng);
		else if (e->kind == SIM_MAPPED && rng_percent(rng, 10))
			apply_zeros(to, e);
	}
}

static void image_reordered(const struct simcut *c, struct cow *to, size_t *list, size_t n, struct rng *rng)
{
	for (size_t i = n; i > 1; i--) {
		size_t j = (size_t)rng_below(rng, i), t = list[i - 1];

		list[i - 1] = list[j];
		list[j] = t;
	}
	size_t n_done = n ? (size_t)rng_below(rng, n + 1) : 0;
	for (size_t i = 0; i < n_done; i++)
		apply(to, &c->s->log[list[i]]);
	if (n_done < n)
		apply_masked(to, &c->s->log[list[n_done]], rng);
}

/* The host goes on: all that was written stays; the event under way is done in part, but for mapped memory, which is done. */
static void image_killed(const struct simcut *c, struct cow *to, const size_t *list, size_t n, struct rng *rng)
{
	bool whole = rng_percent(rng, 50);

	for (size_t i = 0; i < n; i++) {
		const struct sim_entry *e = &c->s->log[list[i]];

		if (e->event <= c->event || e->kind == SIM_MAPPED || whole)
			apply(to, e);
		else
			apply_masked(to, e, rng);
	}
}

static bool image_has_file(const struct cut_file *f, enum simcut_variant v, struct rng *rng)
{
	bool may_differ = f->exists != f->named || f->remove_pending;

	if (v == SIMCUT_KILL || v == SIMCUT_KEPT || !may_differ)
		return f->exists;
	return v == SIMCUT_LOST ? f->named : rng_percent(rng, 50);
}

/*
 * After kill -9 the host still holds what it had not written back: the image's own cuts may lose it.  A write the kill tore
 * is carried as the torn pages that the host now has.
 */
static void carry_pending(const struct simcut *c, struct simstore *image, uint32_t file, const size_t *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const struct sim_entry *e = &c->s->log[list[i]];
		struct sim_entry *copy = sim_entry_add(image, (enum sim_kind)e->kind, file);

		sim_entry_share_pages(copy, e);
		for (uint64_t p = 0; e->event > c->event && p < sim_end_page(e) - sim_first_page(e); p++) {
			cow_page_unref(copy->pages[p]);
			copy->pages[p] = cow_page_ref(cow_get(&image->files[file].live, sim_first_page(e) + p));
		}
	}
}

static void image_file(const struct simcut *c, uint32_t file, enum simcut_variant v, bool with_next, struct rng *rng,
		       struct simstore *image)
{
	const struct cut_file *f = &c->files[file];

	if (!image_has_file(f, v, rng))
		return;
	size_t n;
	CLEANUP_FREE size_t *list = open_entries(c, file, with_next, &n);
	uint32_t to = sim_file_add(image, c->s->files[file].name, f->durable.size);
	struct sim_file *out = &image->files[to];

	cow_free(&out->live);
	out->live = cow_fork(&f->durable);
	if (v == SIMCUT_KEPT || (v == SIMCUT_FILES && rng_percent(rng, 50)))
		for (size_t i = 0; i < n; i++)
			apply(&out->live, &c->s->log[list[i]]);
	else if (v == SIMCUT_TORN)
		image_torn(c, &out->live, list, n, rng);
	else if (v == SIMCUT_REORDER)
		image_reordered(c, &out->live, list, n, rng);
	else if (v == SIMCUT_KILL)
		image_killed(c, &out->live, list, n, rng);
	if (!image->record)
		return;
	out->base_exists = true;
	out->base_named = v != SIMCUT_KILL || f->named;
	out->base = cow_fork(v == SIMCUT_KILL ? &f->durable : &out->live);
	if (v == SIMCUT_KILL)
		carry_pending(c, image, to, list, n);
}

struct simstore *simcut_image(const struct simcut *c, enum simcut_variant v, struct rng *rng, bool record)
{
	struct simstore *image = simstore_new();

	image->record = record;
	image->space_total = c->s->space_total;
	image->rng = rng_derive(rng_u64(rng), 0, 0);
	/* kill -9 may strike before the event under way or in it. */
	bool with_next = v != SIMCUT_KILL || rng_percent(rng, 50);
	for (uint32_t i = 0; i < c->s->n_files; i++)
		image_file(c, i, v, with_next, rng, image);
	return image;
}
