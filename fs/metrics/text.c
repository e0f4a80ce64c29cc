/*
 * text.c: prints metrics, see text.h.
 *
 * Histograms have a bucket for every fourth power of two of nanoseconds (1.024 us, 4.096 us, ... 17.2 s) or of bytes and records,
 * which are bounds of the finer buckets they are kept in: so the sums are exact.
 */
#include "fs/metrics/text.h"

#include <math.h>
#include <string.h>

#include "fs/metrics/table.h"

#define STARS_MAX 3u

/* What a path's stars stood for, so far. */
struct labels {
	const char *value[STARS_MAX];
	unsigned n;
};
struct printing {
	struct buf *out;
	const struct metric_row *row;
	bool begun; /* HELP and TYPE are there */
};

static const char *type_name(enum metric_type t)
{
	switch (t) {
	case METRIC_COUNTER:
	case METRIC_ERRORS:
		return "counter";
	case METRIC_HISTOGRAM:
	case METRIC_LATENCY:
		return "histogram";
	default:
		return "gauge";
	}
}

static void begin(struct printing *p)
{
	if (p->begun)
		return;
	buf_printf(p->out, "# HELP %s %s\n# TYPE %s %s\n", p->row->name, p->row->help, p->row->name, type_name(p->row->type));
	p->begun = true;
}

/* Backslash, quote and newline as the format wants them. */
static void put_escaped(struct buf *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '\\' || *text == '"' || *text == '\n')
			buf_put_u8(out, '\\');
		buf_put_u8(out, (uint8_t)(*text == '\n' ? 'n' : *text));
	}
}

/* Name number `i` of a list with commas, as a run of bytes. */
static struct slice name_at(const char *list, unsigned i)
{
	for (; i > 0 && list && *list; i--) {
		list = strchr(list, ',');
		list = list ? list + 1 : "";
	}
	return (struct slice){list ? list : "", list ? strcspn(list, ",") : 0};
}

static void put_label(struct printing *p, unsigned i, const char *value, bool first)
{
	const struct slice name = name_at(p->row->labels, i);

	buf_put_u8(p->out, first ? '{' : ',');
	buf_put(p->out, name.p, name.len);
	buf_put(p->out, "=\"", 2);
	put_escaped(p->out, value);
	buf_put_u8(p->out, '"');
}

static void put_number(struct buf *out, double v)
{
	if (isinf(v))
		buf_printf(out, v > 0 ? "+Inf" : "-Inf");
	else if (v == floor(v) && fabs(v) < 1e15)
		buf_printf(out, "%.0f", v);
	else
		buf_printf(out, "%.9g", v);
}

/* One line; `more` is one label beyond those of the stars. */
static void put_sample(struct printing *p, const struct labels *l, const char *more, double v)
{
	begin(p);
	buf_put(p->out, p->row->name, strlen(p->row->name));
	for (unsigned i = 0; i < l->n; i++)
		put_label(p, i, l->value[i], i == 0);
	if (more)
		put_label(p, l->n, more, l->n == 0);
	if (l->n || more)
		buf_put_u8(p->out, '}');
	buf_put_u8(p->out, ' ');
	put_number(p->out, v);
	buf_put_u8(p->out, '\n');
}

static void put_states(struct printing *p, const struct labels *l, const char *now)
{
	char state[64];
	bool known = false;

	for (unsigned i = 0;; i++) {
		const struct slice s = name_at(p->row->states, i);

		if (s.len == 0 || s.len >= sizeof(state))
			break;
		memcpy(state, s.p, s.len);
		state[s.len] = '\0';
		known |= strcmp(state, now) == 0;
		put_sample(p, l, state, strcmp(state, now) == 0);
	}
	if (!known)
		put_sample(p, l, now, 1);
}

static bool is_set(const json_t *v)
{
	return json_is_true(v) || json_integer_value(v) != 0 || (json_is_string(v) && *json_string_value(v));
}

/* null is a forecast that says never. */
static void put_member(struct printing *p, const struct labels *l, const json_t *v)
{
	const double scale = p->row->scale != 0 ? p->row->scale : 1;

	if (p->row->type == METRIC_STATE) {
		if (json_is_string(v))
			put_states(p, l, json_string_value(v));
	} else if (p->row->type == METRIC_TEXT) {
		if (is_set(v) && json_is_string(v))
			put_sample(p, l, json_string_value(v), 1);
	} else if (p->row->type == METRIC_BOOL) {
		put_sample(p, l, NULL, is_set(v));
	} else if (json_is_null(v)) {
		put_sample(p, l, NULL, INFINITY);
	} else if (json_is_number(v)) {
		put_sample(p, l, NULL, json_number_value(v) * scale);
	}
}

/* Follows `path` from `at`. */
static void walk(struct printing *p, const json_t *at, const char *path, struct labels l)
{
	char name[64];
	const size_t len = strcspn(path, ".");
	const char *rest = path[len] ? path + len + 1 : NULL, *key;
	json_t *v;

	if (strncmp(path, "*", len) == 0) {
		if (l.n == STARS_MAX)
			return;
		json_object_foreach((json_t *)(uintptr_t)at, key, v)
		{
			struct labels deeper = l;

			deeper.value[deeper.n++] = key;
			if (rest)
				walk(p, v, rest, deeper);
			else
				put_member(p, &deeper, v);
		}
		return;
	}
	if (len >= sizeof(name))
		return;
	memcpy(name, path, len);
	name[len] = '\0';
	v = json_object_get(at, name);
	if (v && rest)
		walk(p, v, rest, l);
	else if (v)
		put_member(p, &l, v);
}

static bool is_seconds(const char *name)
{
	const size_t n = strlen(name);

	return n > 8 && strcmp(name + n - 8, "_seconds") == 0;
}

/* `op` may be NULL. */
static void put_histogram(struct printing *p, const struct histogram_view *v, const char *op)
{
	const bool seconds = is_seconds(p->row->name);
	const double scale = seconds ? 1e-9 : 1;
	const unsigned first = seconds ? 10 : 0, last = seconds ? 34 : 32;
	const char *comma = op ? "," : "", *label = op ? "op=\"" : "", *quote = op ? "\"" : "", *name = p->row->name;
	uint64_t below = 0;

	begin(p);
	op = op ? op : "";
	for (unsigned power = first, i = 0; power <= last; power += 2) {
		for (; i < HISTOGRAM_BUCKETS && histogram_bound(i) <= UINT64_C(1) << power; i++)
			below += v->count[i];
		buf_printf(p->out, "%s_bucket{%s%s%s%sle=\"%.10g\"} %llu\n", name, label, op, quote, comma,
			   ldexp(scale, (int)power), (unsigned long long)below);
	}
	buf_printf(p->out, "%s_bucket{%s%s%s%sle=\"+Inf\"} %llu\n", name, label, op, quote, comma, (unsigned long long)v->n);
	buf_printf(p->out, "%s_sum%s%s%s%s%s %.10g\n", name, *op ? "{" : "", label, op, quote, *op ? "}" : "",
		   (double)v->sum * scale);
	buf_printf(p->out, "%s_count%s%s%s%s%s %llu\n", name, *op ? "{" : "", label, op, quote, *op ? "}" : "",
		   (unsigned long long)v->n);
}

static void put_requests(struct printing *p, const struct requests *r)
{
	struct histogram_view v;

	begin(p);
	for (unsigned op = 0; op < OP_N; op++) {
		if (p->row->type == METRIC_LATENCY) {
			requests_latency(r, (enum request_op)op, &v);
			put_histogram(p, &v, request_op_names[op]);
			continue;
		}
		for (unsigned e = 0; e < ERROR_N; e++)
			buf_printf(p->out, "%s{op=\"%s\",kind=\"%s\"} %llu\n", p->row->name, request_op_names[op],
				   request_error_names[e],
				   (unsigned long long)requests_errors(r, (enum request_op)op, (enum request_error)e));
	}
}

void metrics_print(const json_t *status, const struct requests *r, struct buf *out)
{
	struct histogram_view v;

	for (size_t i = 0; i < n_metric_rows; i++) {
		struct printing p = {.out = out, .row = &metric_rows[i]};

		if (p.row->path) {
			walk(&p, status, p.row->path, (struct labels){.n = 0});
		} else if (p.row->type == METRIC_HISTOGRAM) {
			histogram_read(&metric_histograms[p.row->which], &v);
			put_histogram(&p, &v, NULL);
		} else if (p.row->type == METRIC_COUNTER) {
			put_sample(&p, &(struct labels){.n = 0}, NULL, (double)counter_read(&metric_counters[p.row->which]));
		} else {
			put_requests(&p, r);
		}
	}
}
