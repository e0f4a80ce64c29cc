/*
 * feed.c: reads batches out of the journal and gives their records to a reader, line by line.
 *
 * Each call begins from nothing but the reader's place: newest settled batch, then one batch after the other, copied out of
 * memory or the ring by the same call that replication uses, which verifies them.  What is gone is a gap, told once.
 *
 * Where the reader's place lies beyond the newest batch, a follower may simply not be there yet.  A leader has everything that
 * can be: there the history that the reader followed is gone, after a restore say, and it is told so by a gap that ends before
 * it begins.
 */
#include "fs/core/feed/feed.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "fs/core/core.h"
#include "journal/ship.h"

static int parse_number(const char **text, uint64_t max, uint64_t *ret)
{
	const char *p = *text;

	for (*ret = 0; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(*ret, 10, ret) || __builtin_add_overflow(*ret, (uint64_t)(*p - '0'), ret) ||
		    *ret > max)
			return -EINVAL;
	if (p == *text)
		return -EINVAL;
	*text = p;
	return 0;
}

int feed_place_parse(const char *text, struct feed_place *ret)
{
	uint64_t seq, n;
	int r = parse_number(&text, INT64_MAX, &seq);

	if (r == 0 && *text == '\0') {
		*ret = (struct feed_place){seq, FEED_WHOLE};
		return 0;
	}
	if (r < 0 || *text++ != '.' || parse_number(&text, FEED_WHOLE - 2, &n) < 0 || *text)
		return -EINVAL;
	*ret = (struct feed_place){seq, (uint32_t)n + 1};
	return 0;
}

/* A reader's call. */
struct reading {
	struct fs *fs;
	struct feed_names *names;
	struct feed_place *place;
	feed_fn *fn;
	void *ctx;
};

/* Batches [from, to] cannot be given. */
static int tell_gap(const struct reading *g, uint64_t from, uint64_t to, const char *why)
{
	json_t *event = json_pack("{s:I, s:s, s:I, s:I, s:s}", "seq", (json_int_t)to, "op", "gap", "from", (json_int_t)from, "to",
				  (json_int_t)to, "why", why);
	const struct feed_line line = {.after = {to, FEED_WHOLE}, .event = event};

	if (!event)
		return -ENOMEM;
	feed_names_forget(g->names);
	int r = g->fn(g->ctx, &line);
	if (r == 0)
		*g->place = line.after;
	json_decref(event);
	return r;
}

static int tell_record(const struct reading *g, const struct batch_info *info, const struct record *rec, uint32_t n)
{
	json_t *event = feed_event_json(g->fs, g->names, rec, info->seq, n, fs_pos(g->fs));
	const struct feed_line line = {
	    .after = {info->seq, n + 1 == info->n.n_records ? FEED_WHOLE : n + 1},
	    .event = event,
	    .record = rec,
	    .n = n,
	    .batch_hash = info->hash,
	};

	if (!event)
		return -ENOMEM;
	if (line.after.next == FEED_WHOLE)
		json_object_set_new(event, "last", json_true());
	int r = g->fn(g->ctx, &line);
	if (r == 0)
		*g->place = line.after;
	json_decref(event);
	return r;
}

/* From record number `first` on. */
static int tell_batch(const struct reading *g, const struct journal_batch *b, uint32_t first)
{
	CLEANUP_FREE struct batch_cursor *c = malloc(sizeof(*c));
	struct record rec;
	int r = c ? feed_names_batch(g->names, &b->view) : -ENOMEM;

	if (r < 0)
		return r;
	batch_cursor_start(c, &b->view);
	for (uint32_t n = 0; r == 0 && batch_next(c, &rec) == 1; n++) {
		feed_names_at(g->names, n);
		if (n >= first)
			r = tell_record(g, &b->info, &rec, n);
		feed_names_pass(g->names, &rec);
	}
	/* A place inside the batch that is behind its end belongs to another history; the reader goes on behind this one. */
	if (r == 0 && g->place->next != FEED_WHOLE)
		*g->place = (struct feed_place){b->info.seq, FEED_WHOLE};
	return r;
}

/* What comes next behind the place. */
static void next_of(const struct feed_place *place, uint64_t *ret_seq, uint32_t *ret_first)
{
	bool whole = place->next == FEED_WHOLE;

	*ret_seq = whole ? place->seq + 1 : place->seq;
	*ret_first = whole ? 0 : place->next;
}

static int tell_next(const struct reading *g, struct journal_batch *b)
{
	uint64_t seq, oldest;
	uint32_t first;

	next_of(g->place, &seq, &first);
	int r = journal_copy_batch(g->fs->journal, seq, b);
	switch (r) {
	case 0:
		return tell_batch(g, b, first);
	case -ENOENT:
		oldest = journal_oldest(g->fs->journal);
		return tell_gap(g, seq, max_u64(oldest, seq + 1) - 1, "overwritten");
	case -EAGAIN:
		return 1; /* a reset in between: the journal begins anew */
	case -ENOMEM:
		return r;
	default:
		return tell_gap(g, seq, seq, "damaged");
	}
}

int feed_read(struct fs *fs, struct feed_names *names, struct feed_place *place, feed_fn *fn, void *ctx, bool *ret_more)
{
	const struct reading g = {.fs = fs, .names = names, .place = place, .fn = fn, .ctx = ctx};
	uint64_t newest = position_settled(fs), seq;
	struct journal_batch b = {0};
	uint32_t first;
	int r = 0;

	if (fs_role(fs) == ROLE_LEADER && place->seq > newest)
		r = tell_gap(&g, place->seq, newest, "history");
	next_of(place, &seq, &first);
	for (unsigned i = 0; r == 0 && i < FEED_BATCHES_MAX && seq <= newest; i++) {
		r = tell_next(&g, &b);
		next_of(place, &seq, &first);
	}
	journal_batch_free(&b);
	*ret_more = seq <= newest;
	return r == 1 ? 0 : r;
}

/* ---- text ---- */

/*
 * Who polls comes back with the place where the last page ended.  For the readers that were here last their places are kept, and
 * the names learned until there; who is not among them, or there twice, begins with none.  A checkpoint leaves in the ring what
 * they have not read yet, within limits, so that they find it after a restart, too.
 */
#define KEPT_MAX 4u
#define KEPT_NS  (600 * NSEC_PER_SEC)
struct feed {
	struct mutex lock;
	/* guarded by lock */
	struct kept {
		struct feed_place place;
		uint32_t next; /* the same place as readers may say it: behind the last record told, whole batch or not */
		struct feed_names *names; /* owned; NULL while it is being read with */
		int64_t used_ns;          /* mono */
		bool there, taken;
	} kept[KEPT_MAX];
};

int feed_open(struct fs *fs)
{
	fs->feed = calloc(1, sizeof(*fs->feed));
	if (!fs->feed)
		return -ENOMEM;
	mutex_init(&fs->feed->lock);
	return 0;
}

void feed_close(struct fs *fs)
{
	if (!fs->feed)
		return;
	for (size_t i = 0; i < KEPT_MAX; i++)
		feed_names_free(fs->feed->kept[i].names);
	mutex_destroy(&fs->feed->lock);
	free(fs->feed);
	fs->feed = NULL;
}

/* The reader that is at `place`, or the place of the one that was away longest; NULL: all are being read for. */
static struct kept *take(struct feed *f, const struct feed_place *place)
{
	struct kept *found = NULL;

	mutex_lock(&f->lock);
	for (size_t i = 0; i < KEPT_MAX; i++) {
		struct kept *k = &f->kept[i];
		bool here = k->there && k->place.seq == place->seq && (k->place.next == place->next || k->next == place->next);

		if (k->taken)
			continue;
		if (here) {
			found = k;
			break;
		}
		if (!found || (found->there && (!k->there || k->used_ns < found->used_ns)))
			found = k;
	}
	if (found)
		found->taken = true;
	bool known = found && found->there && found->place.seq == place->seq &&
		     (found->place.next == place->next || found->next == place->next);
	if (found && !known) {
		found->there = false;
		if (found->names)
			feed_names_forget(found->names);
	}
	mutex_unlock(&f->lock);
	return found;
}

static void give_back(struct feed *f, struct kept *k, const struct feed_place *place, uint32_t next, int64_t now_ns)
{
	mutex_lock(&f->lock);
	k->place = *place;
	k->next = next;
	k->used_ns = now_ns;
	k->there = true;
	k->taken = false;
	mutex_unlock(&f->lock);
}

uint64_t feed_floor(struct fs *fs)
{
	struct feed *f = fs->feed;
	uint64_t floor = 0, seq;
	uint32_t first;

	if (!f)
		return 0;
	int64_t since_ns = clock_mono_ns(fs->clock) - KEPT_NS;
	mutex_lock(&f->lock);
	for (size_t i = 0; i < KEPT_MAX; i++) {
		const struct kept *k = &f->kept[i];

		if (!k->there || k->used_ns < since_ns)
			continue;
		next_of(&k->place, &seq, &first);
		floor = floor ? min_u64(floor, seq) : seq;
	}
	mutex_unlock(&f->lock);
	return floor;
}

struct page {
	struct buf *out;
	uint32_t next; /* behind the last record on it */
};

static int add_line(void *ctx, const struct feed_line *line)
{
	struct page *page = ctx;
	struct buf *out = page->out;
	CLEANUP_FREE char *text = json_dumps(line->event, JSON_COMPACT);

	if (!text)
		return -ENOMEM;
	size_t len = strlen(text);
	if (out->len + len + 1 > FEED_TEXT_MAX)
		return 1;
	buf_put(out, text, len);
	buf_put_u8(out, '\n');
	page->next = line->record ? line->n + 1 : FEED_WHOLE;
	return 0;
}

int feed_text(struct fs *fs, const char *text, struct buf *out)
{
	struct feed_place place;
	bool more;
	int r = feed_place_parse(text, &place);

	if (r < 0)
		return r;
	struct kept *k = take(fs->feed, &place);
	struct feed_names *names = k && k->names ? k->names : feed_names_new();
	if (k)
		k->names = names; /* nobody else looks at it while it is taken */
	struct page page = {.out = out, .next = place.next};
	r = names ? feed_read(fs, names, &place, add_line, &page, &more) : -ENOMEM;
	if (k)
		give_back(fs->feed, k, &place, page.next, clock_mono_ns(fs->clock));
	else
		feed_names_free(names);
	return r;
}

int feed_state_text(struct fs *fs, struct buf *out)
{
	char volume[UUID_TEXT];
	struct super s;

	replica_get_super(fs, &s);
	uuid_text(s.volume, volume);
	buf_printf(out, "{\"volume\":\"%s\",\"role\":\"%s\",\"epoch\":%" PRIu64 ",\"oldest\":%" PRIu64 ",\"newest\":%" PRIu64 "}",
		   volume, fs_role(fs) == ROLE_LEADER ? "leader" : "follower", epoch_counter(s.epoch),
		   journal_oldest(fs->journal), position_settled(fs));
	return 0;
}
