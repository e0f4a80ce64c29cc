/* top.c: the table of top.h */
#include "fs/metrics/top.h"

#include <errno.h>
#include <string.h>

#include "base/lock.h"

#define WINDOW_NS (TOP_WINDOW_S * NSEC_PER_SEC)

struct counts {
	uint64_t requests, over, ns, read, written;
	uint32_t op[TOP_OPS_MAX];
};
struct place {
	uint32_t uid, pid;
	bool used;
	int64_t window; /* of `in[0]`; in[1] is the one before */
	struct counts in[2];
};
struct set {
	struct mutex lock;
	struct place place[TOP_WAYS]; /* guarded by lock */
};
struct top {
	struct set set[TOP_SETS];
};

int top_new(struct top **ret)
{
	struct top *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	for (unsigned i = 0; i < TOP_SETS; i++)
		mutex_init(&t->set[i].lock);
	*ret = t;
	return 0;
}

struct top *top_free(struct top *t)
{
	for (unsigned i = 0; t && i < TOP_SETS; i++)
		mutex_destroy(&t->set[i].lock);
	free(t);
	return NULL;
}

static void advance(struct place *p, int64_t window)
{
	if (window <= p->window) /* another thread's moment may be a little older */
		return;
	p->in[1] = window == p->window + 1 ? p->in[0] : (struct counts){0};
	p->in[0] = (struct counts){0};
	p->window = window;
}

static uint64_t weight(const struct place *p)
{
	return p->in[0].requests + p->in[1].requests;
}

/* Its place, or a free one, or that of who asks least. */
static struct place *place_of(struct set *s, const struct top_use *u, int64_t window) REQUIRES(s->lock)
{
	struct place *least = NULL;

	for (struct place *p = s->place; p < s->place + TOP_WAYS; p++) {
		if (p->used && p->uid == u->uid && p->pid == u->pid)
			return p;
		if (p->used)
			advance(p, window);
		if (!least || (least->used && (!p->used || weight(p) < weight(least))))
			least = p;
	}
	const uint64_t inherited = least->used ? weight(least) : 0;

	*least = (struct place){.uid = u->uid, .pid = u->pid, .used = true, .window = window};
	least->in[0].requests = least->in[0].over = inherited;
	return least;
}

void top_add(struct top *t, const struct top_use *u, int64_t now_ns)
{
	const uint64_t h = ((uint64_t)u->pid << 32 | u->uid) * UINT64_C(0x9e3779b97f4a7c15) >> 32;
	struct set *s = &t->set[h % TOP_SETS];
	const int64_t window = now_ns / WINDOW_NS;

	mutex_lock(&s->lock);
	struct place *p = place_of(s, u, window);
	advance(p, window);
	struct counts *c = &p->in[0];
	c->requests++;
	c->ns += u->ns;
	c->read += u->read;
	c->written += u->written;
	if (u->op < TOP_OPS_MAX)
		c->op[u->op]++;
	mutex_unlock(&s->lock);
}

static double rate(uint64_t present, uint64_t before, double share)
{
	return ((double)present + share * (double)before) / TOP_WINDOW_S;
}

/* `share` of the window before is not older than a window. */
static void fill_row(const struct place *p, double share, struct top_row *ret)
{
	const struct counts *a = &p->in[0], *b = &p->in[1];

	*ret = (struct top_row){.uid = p->uid,
				.pid = p->pid,
				.requests = rate(a->requests, b->requests, share),
				.busy = rate(a->ns, b->ns, share) / (double)NSEC_PER_SEC,
				.read = rate(a->read, b->read, share),
				.written = rate(a->written, b->written, share),
				.over = rate(a->over, b->over, share)};
	for (unsigned i = 0; i < TOP_OPS_MAX; i++)
		ret->op[i] = rate(a->op[i], b->op[i], share);
}

static void insert(struct top_row *rows, unsigned *n, unsigned max, const struct top_row *row)
{
	unsigned at = *n;

	while (at > 0 && rows[at - 1].requests < row->requests)
		at--;
	if (at >= max)
		return;
	*n += *n < max;
	memmove(&rows[at + 1], &rows[at], (*n - 1 - at) * sizeof(*rows));
	rows[at] = *row;
}

unsigned top_read(struct top *t, int64_t now_ns, struct top_row *ret, unsigned max)
{
	const int64_t window = now_ns / WINDOW_NS;
	const double share = 1.0 - (double)(now_ns % WINDOW_NS) / (double)WINDOW_NS;
	unsigned n = 0;

	for (struct set *s = t->set; s < t->set + TOP_SETS; s++) {
		mutex_lock(&s->lock);
		for (struct place *p = s->place; p < s->place + TOP_WAYS; p++) {
			struct top_row row;

			if (!p->used)
				continue;
			advance(p, window);
			if (weight(p) == 0) {
				p->used = false;
				continue;
			}
			fill_row(p, share, &row);
			insert(ret, &n, max, &row);
		}
		mutex_unlock(&s->lock);
	}
	return n;
}
