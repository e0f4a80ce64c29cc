/*
 * memory_sink.h: what a resync keeps aside, in memory: every line and block, and how much of it was synced.  The files it goes
 * into have test_diverged.c.
 *
 * Ownership: the test has the sink; diverged_free() frees what is in it.  Threads: one.  Errors: a failed assertion.
 */
#pragma once

#include <string.h>

#include "base/util.h"
#include "fs/store/diverged.h"
#include "journal/pointer.h"
#include "tests/lib/cow.h"

struct kept_data {
	uint64_t ino, off;
	uint8_t block[BLOCK_SIZE];
};
struct memory_sink {
	struct diverged_sink base;
	struct kept_data *data;
	char **lines;
	size_t n_data, data_cap, n_lines, lines_cap, n_tails;
	size_t synced_data, synced_lines;
	char *info;
	bool open;
};

static inline struct memory_sink *sink_of(struct diverged_sink *s)
{
	return container_of(s, struct memory_sink, base);
}

static inline int sink_open(struct diverged_sink *base, const char *id)
{
	struct memory_sink *s = sink_of(base);

	assert_true(!s->open && strlen(id) < DIVERGED_ID_MAX && !strchr(id, '/'));
	s->open = true;
	s->n_tails++;
	return 0;
}

static inline int sink_put_line(struct diverged_sink *base, struct slice line)
{
	struct memory_sink *s = sink_of(base);

	assert_true(s->open && !memchr(line.p, '\n', line.len));
	s->lines = test_grow(s->lines, s->n_lines, &s->lines_cap, sizeof(*s->lines));
	s->lines[s->n_lines++] = strndup(line.p, line.len);
	return 0;
}

static inline int sink_put_data(struct diverged_sink *base, uint64_t ino, uint64_t off, const void *p, size_t len)
{
	struct memory_sink *s = sink_of(base);

	assert_true(s->open && len > 0 && len % BLOCK_SIZE == 0 && off % BLOCK_SIZE == 0);
	for (size_t at = 0; at < len; at += BLOCK_SIZE) {
		s->data = test_grow(s->data, s->n_data, &s->data_cap, sizeof(*s->data));
		struct kept_data *k = &s->data[s->n_data++];
		k->ino = ino;
		k->off = off + at;
		memcpy(k->block, (const uint8_t *)p + at, BLOCK_SIZE);
	}
	return 0;
}

static inline int sink_sync(struct diverged_sink *base, struct slice info)
{
	struct memory_sink *s = sink_of(base);

	s->synced_data = s->n_data;
	s->synced_lines = s->n_lines;
	free(s->info);
	s->info = strndup(info.p, info.len);
	return 0;
}

static inline void sink_close(struct diverged_sink *base)
{
	sink_of(base)->open = false;
}

static inline void sink_free(struct diverged_sink *base)
{
	struct memory_sink *s = sink_of(base);

	for (size_t i = 0; i < s->n_lines; i++)
		free(s->lines[i]);
	free(s->lines);
	free(s->data);
	free(s->info);
}

static const struct diverged_ops sink_ops = {
    .open = sink_open,
    .put_line = sink_put_line,
    .put_data = sink_put_data,
    .sync = sink_sync,
    .close = sink_close,
    .free = sink_free,
};

static inline const struct kept_data *kept(const struct memory_sink *s, uint64_t ino, uint64_t off)
{
	for (size_t i = 0; i < s->n_data; i++)
		if (s->data[i].ino == ino && s->data[i].off == off)
			return &s->data[i];
	return NULL;
}
