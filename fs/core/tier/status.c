/*
 * status.c: what stores, recalls and ageing say of themselves, for `clawfs status` and `clawfs tier list`.
 *
 * "tier": {"stores": {NAME: {...}}, "ageing": {...}, "recall": {...}, "objects": {...}}.  Times are real, in nanoseconds; costs
 * are estimates in dollars a month: the requests made so far, and what is stored now for a whole month.  Definitions hold no
 * secrets.
 */
#include <jansson.h>
#include <string.h>

#include "fs/core/tier/tier.h"

#define GB 1e9

static json_t *number(uint64_t n)
{
	return json_integer((json_int_t)n);
}

static const char *breaker_name(enum breaker_state s)
{
	static const char *const names[] = {
	    [BREAKER_CLOSED] = "closed", [BREAKER_OPEN] = "open", [BREAKER_HALF_OPEN] = "half-open"};

	return (unsigned)s < ARRAY_SIZE(names) ? names[s] : "";
}

static json_t *by_kind(const uint64_t n[OBJECT_KINDS])
{
	static const char *const names[OBJECT_KINDS] = {[OBJECT_PUT] = "put",
							[OBJECT_GET] = "get",
							[OBJECT_HEAD] = "head",
							[OBJECT_REMOVE] = "remove",
							[OBJECT_LIST] = "list"};
	json_t *o = json_object();

	for (unsigned i = 0; i < OBJECT_KINDS; i++)
		json_object_set_new(o, names[i], number(n[i]));
	return o;
}

static void add_guard(json_t *o, const struct store_definition *d, const struct guard_status *g)
{
	json_object_set_new(o, "breaker", json_string(breaker_name(g->breaker)));
	json_object_set_new(o, "requests", by_kind(g->requests));
	json_object_set_new(o, "errors", by_kind(g->errors));
	json_object_set_new(o, "retries", number(g->retries));
	json_object_set_new(o, "trips", number(g->trips));
	json_object_set_new(o, "read_bytes", number(g->bytes_in));
	json_object_set_new(o, "written_bytes", number(g->bytes_out));
	json_object_set_new(o, "last_success_ns", json_integer(g->last_success_ns));
	json_object_set_new(o, "last_error_ns", json_integer(g->last_error_ns));
	json_object_set_new(o, "last_error", json_string(g->last_error ? strerror(-g->last_error) : ""));
	json_object_set_new(o, "month",
			    json_pack("{s:i, s:i, s:I, s:I, s:b, s:o}", "year", (int)(g->usage.month / 12), "month",
				      (int)(g->usage.month % 12) + 1, "requests", (json_int_t)g->usage.requests, "budget",
				      (json_int_t)d->budget, "budget_spent", g->budget_spent, "by_kind",
				      by_kind(g->usage.by_kind)));
}

static void add_objects(struct fs *fs, json_t *o, const struct store_definition *d, double cost_requests)
{
	struct objects_sum sum;

	if (objects_sum(fs, d->id, &sum) < 0)
		return;
	json_object_set_new(o, "objects", number(sum.n_objects));
	json_object_set_new(o, "dead_objects", number(sum.n_dead));
	json_object_set_new(o, "stored_bytes", number(sum.bytes));
	json_object_set_new(o, "file_bytes", number(sum.n_blocks * BLOCK_SIZE));
	json_object_set_new(o, "live_bytes", number(sum.n_live * BLOCK_SIZE));
	json_object_set_new(o, "cost_requests", json_real(cost_requests));
	json_object_set_new(o, "cost_month", json_real(cost_requests + (double)sum.bytes / GB * d->price_gb_month));
}

struct collecting {
	struct fs *fs;
	json_t *stores;
};

static int add_store(void *ctx, const struct tier_store *s)
{
	struct collecting *c = ctx;
	struct guard_status g = {.last_error = 0};
	char text[STORE_TEXT_MAX];
	json_t *o = json_object();

	if (store_definition_print(&s->d, text, sizeof(text)) == 0)
		json_object_set_new(o, "definition", json_string(text));
	json_object_set_new(o, "id", number(s->d.id));
	json_object_set_new(o, "open", json_boolean(s->guard != NULL));
	if (s->guard)
		guard_get_status(s->guard, &g);
	add_guard(o, &s->d, &g);
	json_object_set_new(o, "message",
			    json_string(*s->message                   ? s->message
					: g.breaker == BREAKER_CLOSED ? ""
								      : g.last_message));
	json_object_set_new(o, "last_message", json_string(g.last_message));
	add_objects(c->fs, o, &s->d, g.cost_requests);
	json_object_set_new(c->stores, s->name, o);
	return 0;
}

static json_t *stores_json(struct fs *fs)
{
	struct collecting c = {.fs = fs, .stores = json_object()};

	if (stores_each(fs, add_store, &c) < 0)
		json_object_clear(c.stores); /* no memory for them: better none than some */
	return c.stores;
}

static json_t *ageing_json(struct fs *fs)
{
	struct ageing_status s;

	ageing_get_status(fs, &s);
	return json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "paused",
			 s.paused, "last_message", s.last_message, "high_water", s.high_water, "queued_files",
			 (json_int_t)s.queued_files, "aged_files", (json_int_t)s.aged_files, "failed_files",
			 (json_int_t)s.failed_files, "skipped_files", (json_int_t)s.skipped_files, "packs", (json_int_t)s.packs,
			 "aged_bytes", (json_int_t)(s.aged_blocks * BLOCK_SIZE), "evicted_bytes",
			 (json_int_t)(s.evicted_blocks * BLOCK_SIZE), "scans", (json_int_t)s.scans, "scanned_inodes",
			 (json_int_t)s.scanned, "repacked_objects", (json_int_t)s.repacked_objects, "removed_objects",
			 (json_int_t)s.removed_objects, "last_scan_ns", (json_int_t)s.last_scan_ns, "last_success_ns",
			 (json_int_t)s.last_success_ns, "last_error_ns", (json_int_t)s.last_error_ns);
}

static json_t *recall_json(struct fs *fs)
{
	struct recall_status s;

	recall_get_status(fs, &s);
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "waiting", (json_int_t)s.waiting,
			 "longest_wait_ns", (json_int_t)s.longest_wait_ns, "recalls", (json_int_t)s.recalls, "failures",
			 (json_int_t)s.failures, "fetched_bytes", (json_int_t)s.bytes_fetched, "served_bytes",
			 (json_int_t)(s.blocks_served * BLOCK_SIZE), "kept_bytes", (json_int_t)(s.blocks_kept * BLOCK_SIZE),
			 "denied", (json_int_t)s.denied, "limited", (json_int_t)s.limited, "memory_bytes",
			 (json_int_t)s.memory_bytes, "last_success_ns", (json_int_t)s.last_success_ns, "last_error_ns",
			 (json_int_t)s.last_error_ns, "last_message", s.last_message);
}

static json_t *objects_json(struct fs *fs)
{
	struct objects_sum s;

	if (objects_sum(fs, 0, &s) < 0)
		return json_null();
	return json_pack("{s:I, s:I, s:I, s:I, s:I}", "objects", (json_int_t)s.n_objects, "dead", (json_int_t)s.n_dead,
			 "stored_bytes", (json_int_t)s.bytes, "file_bytes", (json_int_t)(s.n_blocks * BLOCK_SIZE), "live_bytes",
			 (json_int_t)(s.n_live * BLOCK_SIZE));
}

json_t *tier_status_json(struct fs *fs)
{
	return json_pack("{s:o, s:o, s:o, s:o}", "stores", stores_json(fs), "ageing", ageing_json(fs), "recall", recall_json(fs),
			 "objects", objects_json(fs));
}
