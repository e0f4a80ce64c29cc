/*
 * watch.c: `clawfs watch`: the change feed of a mounted volume on standard output, one JSON object a line.
 *
 *     read clawfs.feed.PLACE -> print what was asked for -> PLACE of the last line -> ... nothing there: wait by clawfs.feed.wait
 *
 * The daemon knows nothing of who watches: the place is kept here, and a reader that is slow only reads later.  Should the ring
 * have been overwritten by then, the daemon says so, and the gap is printed whatever was asked for.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fs/cli/event_path.h"
#include "fs/core/feed/feed.h"

#define GATHER_US 2000  /* a busy volume has more by then, and is asked less often */
#define WAIT_TEXT " 30" /* seconds; the daemon allows no more */

struct watching {
	const char *mountpoint, *path, *ops;
	char place[48];
};

/* Whether `word` is one of a list with commas between. */
static bool is_listed(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = list; *p; p += strcspn(p, ","), p += *p == ',')
		if (strcspn(p, ",") == n && memcmp(p, word, n) == 0)
			return true;
	return false;
}

static bool is_wanted(const struct watching *w, const json_t *event)
{
	const char *op = json_string_value(json_object_get(event, "op"));

	if (!op || strcmp(op, "gap") == 0)
		return true;
	if (w->ops && !is_listed(w->ops, op))
		return false;
	return !w->path || event_is_below(event, w->path);
}

static void keep_place(struct watching *w, const json_t *event)
{
	const json_t *n = json_object_get(event, "n");
	json_int_t seq = json_integer_value(json_object_get(event, "seq"));

	if (n && !json_is_true(json_object_get(event, "last")))
		snprintf(w->place, sizeof(w->place), "%" PRId64 ".%" PRId64, (int64_t)seq, (int64_t)json_integer_value(n));
	else
		snprintf(w->place, sizeof(w->place), "%" PRId64, (int64_t)seq);
}

/* -EPROTO: not lines of the feed. */
static int print_lines(struct watching *w, char *text)
{
	for (char *line = text, *end; *line; line = end + 1) {
		end = strchr(line, '\n');
		if (!end)
			return -EPROTO;
		*end = '\0';
		json_t *event = json_loads(line, 0, NULL);
		if (!json_is_object(event)) {
			json_decref(event);
			return -EPROTO;
		}
		if (is_wanted(w, event))
			puts(line);
		keep_place(w, event);
		json_decref(event);
	}
	return fflush(stdout) == 0 ? 0 : -errno;
}

/* 1: there was something. */
static int read_on(struct watching *w)
{
	CLEANUP_BUF struct buf text = {0};
	char name[64];

	snprintf(name, sizeof(name), "feed.%s", w->place);
	int r = attribute_read(w->mountpoint, name, &text);
	if (r < 0)
		return r;
	if (text.len == 0)
		return 0;
	r = print_lines(w, (char *)text.p);
	return r < 0 ? r : 1;
}

/* Until there may be something behind the place.  Its own batch counts as there where records of it are left. */
static int wait_for_more(const struct watching *w)
{
	uint64_t seq = strtoull(w->place, NULL, 10) + 1;
	char value[64];

	snprintf(value, sizeof(value), "%" PRIu64 WAIT_TEXT, seq);
	int r = attribute_command(w->mountpoint, "feed.wait", value);
	usleep(GATHER_US);
	return r == -ETIMEDOUT ? 0 : r;
}

/* The first line: what there is, and the place behind which the others begin. */
static int begin(struct watching *w, const char *from)
{
	json_t *state;
	int r = attribute_json(w->mountpoint, "feed", &state);

	if (r < 0)
		return r;
	const json_t *newest = json_object_get(state, "newest");
	if (!json_is_integer(newest)) {
		json_decref(state);
		return -EPROTO;
	}
	snprintf(w->place, sizeof(w->place), "%" PRId64, (int64_t)json_integer_value(newest));
	if (from)
		snprintf(w->place, sizeof(w->place), "%s", from);
	json_object_set_new(state, "op", json_string("start"));
	json_object_set_new(state, "from", json_string(w->place));
	CLEANUP_FREE char *line = json_dumps(state, JSON_COMPACT);
	json_decref(state);
	if (!line)
		return -ENOMEM;
	puts(line);
	return fflush(stdout) == 0 ? 0 : -errno;
}

int verb_watch(const struct args *a)
{
	struct watching w = {.mountpoint = a->operand[0], .path = a->path, .ops = a->ops};
	struct feed_place place;

	if (a->from && feed_place_parse(a->from, &place) < 0) {
		complain("--from=%s: must be SEQ or SEQ.N, as a line of the feed has them; see --help", a->from);
		return EXIT_USAGE;
	}
	if (a->path && a->path[0] != '/') {
		complain("--path=%s: must begin with /, which is the root of the volume; see --help", a->path);
		return EXIT_USAGE;
	}
	int r = begin(&w, a->from);
	while (r >= 0) {
		r = read_on(&w);
		if (r == 0 && a->once)
			return EXIT_OK;
		if (r == 0)
			r = wait_for_more(&w);
	}
	if (r != -EPIPE) /* who read it has enough */
		complain_unreachable(a->operand[0], r);
	return EXIT_FAILED;
}
