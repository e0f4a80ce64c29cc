/* restore_list.c: what can be restored, as ranges, and what an admin says to name a state (restore.h). */
#define _XOPEN_SOURCE 700
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fs/core/archive/restore.h"

/* ---- ranges ---- */

/* The stream a base is of: the last one of its epoch that does not begin behind it. */
static const struct archive_stream *stream_of(const struct archive_manifest *m, const struct archive_base *b)
{
	for (size_t i = m->n_streams; i-- > 0;)
		if (m->stream[i].epoch == b->epoch && m->stream[i].first.seq <= b->seq + 1)
			return &m->stream[i];
	return NULL;
}

/* The next base of the same stream, where the range of the one before ends; NULL. */
static const struct archive_base *next_of(const struct archive_manifest *m, size_t i, const struct archive_stream *s)
{
	for (size_t k = i + 1; k < m->n_bases; k++)
		if (m->base[k].state == BASE_DONE && stream_of(m, &m->base[k]) == s)
			return &m->base[k];
	return NULL;
}

/* Segments from the base on, up to that of batch `end`. */
static void walk(struct archive_place *p, const struct archive_base *b, const struct archive_stream *s, uint64_t end,
		 struct restore_range *ret)
{
	struct archive_id id = {.kind = ARCHIVE_SEGMENT, .epoch = b->epoch, .seq = b->seq + 1};
	struct archive_info info;
	int r = 0;

	ret->to_seq = b->ready_seq;
	ret->to_ns = b->ready_ns;
	while (id.seq <= end) {
		r = archive_fetch_header(p, &id, &info);
		if (r == 0 && (info.next_seq < id.seq || (info.next_seq == id.seq && info.next_part <= id.part)))
			r = -EUCLEAN;
		if (r < 0)
			break;
		if (info.last_seq > ret->to_seq) {
			ret->to_seq = info.last_seq;
			ret->to_ns = info.last_ns;
		}
		id.seq = info.next_seq;
		id.part = info.next_part;
	}
	bool ended = r == -ENOENT && id.seq >= s->known.seq;
	ret->damage = ended ? 0 : r;
	ret->gap = ended && (s->end == STREAM_GAP || s->end == STREAM_BACK);
}

int restore_list(struct archive_place *p, const struct archive_manifest *m, restore_range_fn *fn, void *ctx)
{
	int r = 0;

	for (size_t i = 0; i < m->n_bases && r == 0; i++) {
		const struct archive_base *b = &m->base[i];
		const struct archive_stream *s = stream_of(m, b);
		struct restore_range range = {
		    .epoch = b->epoch, .base_seq = b->seq, .from_seq = b->ready_seq, .from_ns = b->ready_ns, .bytes = b->bytes};

		if (b->state != BASE_DONE || !s)
			continue;
		const struct archive_base *next = next_of(m, i, s);
		walk(p, b, s, next ? next->seq : UINT64_MAX - 1, &range);
		r = fn(ctx, &range);
	}
	return r;
}

/* ---- targets ---- */

static bool parse_number(const char *text, uint64_t *ret)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*ret = strtoull(text, &end, 10);
	return !errno && !*end;
}

/* A moment by the calendar: the end of it, as far as it is named, so that "14:05" has all of that minute. */
static bool parse_calendar(const char *text, int64_t *ret_ns)
{
	static const struct {
		const char *format;
		int64_t length_s;
	} formats[] = {{"%Y-%m-%d %H:%M:%S", 1}, {"%Y-%m-%dT%H:%M:%S", 1}, {"%Y-%m-%d %H:%M", 60}, {"%Y-%m-%dT%H:%M", 60}};

	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		struct tm tm = {.tm_isdst = -1};
		const char *rest = strptime(text, formats[i].format, &tm);
		bool utc = rest && strcmp(rest, "Z") == 0;

		if (!rest || (*rest && !utc))
			continue;
		if (utc)
			tm.tm_isdst = 0;
		time_t at = utc ? timegm(&tm) : mktime(&tm);
		if (at < 0 || at > INT64_MAX / NSEC_PER_SEC - 86400)
			return false;
		*ret_ns = (at + formats[i].length_s) * NSEC_PER_SEC - 1;
		return true;
	}
	return false;
}

/* "@SECONDS[.FRACTION]" since 1970. */
static bool parse_seconds(const char *text, int64_t *ret_ns)
{
	int64_t unit = NSEC_PER_SEC, ns = 0;
	const char *p = text + 1;

	if (*text != '@' || *p < '0' || *p > '9')
		return false;
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(ns, 10, &ns) || __builtin_add_overflow(ns, *p - '0', &ns))
			return false;
	if (__builtin_mul_overflow(ns, NSEC_PER_SEC, &ns))
		return false;
	if (*p == '.')
		while (*++p >= '0' && *p <= '9')
			if (__builtin_add_overflow(ns, (*p - '0') * (unit /= 10), &ns))
				return false;
	*ret_ns = ns;
	return !*p;
}

int restore_target_parse(const char *text, struct restore_target *ret)
{
	struct restore_target t = {0};

	if (strcmp(text, "latest") == 0)
		t.by = RESTORE_LATEST;
	else if (parse_number(text, &t.seq))
		t.by = RESTORE_SEQ;
	else if (parse_seconds(text, &t.ns) || parse_calendar(text, &t.ns))
		t.by = RESTORE_TIME;
	else
		return -EINVAL;
	*ret = t;
	return 0;
}
