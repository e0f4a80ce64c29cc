/*
 * audit_volume.h: a volume with an audit log, for one test case: settings as the face makes them, and what the log has.
 *
 * Threads: one.  Errors: none; the tests assert.
 */
#pragma once

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/core/audit/audit.h"
#include "fs/core/audit/verify.h"
#include "fs/face/control_table.h"
#include "tests/lib/simstore.h"
#include "tests/unit/volume.h"

#define UNANSWERED 1

static struct volume vol;

static inline uint64_t seed(void)
{
	const char *env = getenv("SEED");

	return env ? strtoull(env, NULL, 10) : 1;
}

/* With a log from the second mount on. */
static inline void open_at(enum fs_audit level, bool strict, const struct clock *clock)
{
	volume_open(&vol, clock);
	vol.config.audited = true;
	vol.config.audit = level;
	vol.config.audit_strict = strict;
	volume_reopen(&vol, false);
}

static inline void open_with(enum fs_audit level, bool strict)
{
	open_at(level, strict, NULL);
}

static inline int free_volume(void **state)
{
	(void)state;
	volume_close(&vol);
	return 0;
}

struct answer {
	struct journal_waiter w;
	int result;
};

static inline void answered(struct journal_waiter *w, int result)
{
	container_of(w, struct answer, w)->result = result;
}

/* As the face does it. */
static inline int set_as(const struct fs_cred *cred, uint64_t ino, const char *name, const char *value)
{
	static struct answer answers[256]; /* work that no thread of this volume does is answered when it is closed */
	static size_t n;
	struct answer *a = &answers[n++ % ARRAY_SIZE(answers)];
	uint64_t act;

	*a = (struct answer){.w.done = answered, .result = UNANSWERED};
	control_set(vol.fs, NULL, cred, ino, name, value, strlen(value), &a->w, &act);
	fs_audit_result(vol.fs, act, a->result);
	return a->result;
}

/* ---- what the log has ---- */

struct log {
	json_t *entry[20000]; /* owned */
	size_t n;
	struct audit_report report;
};
static struct log all;

static inline int take(void *ctx, const struct audit_line *line, const json_t *body)
{
	struct log *log = ctx;

	(void)line;
	assert_true(log->n < ARRAY_SIZE(log->entry));
	log->entry[log->n++] = json_deep_copy(body);
	return 0;
}

static inline int read_sim(void *ctx, const char *name, struct buf *out)
{
	struct simstore_file file[64];
	size_t n = simstore_files(ctx, file, ARRAY_SIZE(file));

	for (size_t i = 0; i < n; i++)
		if (strcmp(file[i].name, name) == 0) {
			simstore_peek(ctx, name, buf_grow(out, file[i].size), file[i].size, 0);
			return 0;
		}
	return -ENOENT;
}

static inline void forget_log(void)
{
	while (all.n)
		json_decref(all.entry[--all.n]);
}

static inline void read_log(void)
{
	struct audit_source s = {.read = read_sim, .ctx = vol.sim, .first = UINT32_MAX};
	struct simstore_file file[64];
	size_t n = simstore_files(vol.sim, file, ARRAY_SIZE(file));
	unsigned k;

	forget_log();
	for (size_t i = 0; i < n; i++)
		if (sscanf(file[i].name, "audit/seg.%08u", &k) == 1) {
			s.any = true;
			s.first = k < s.first ? k : s.first;
			s.last = k > s.last ? k : s.last;
		}
	assert_int_equal(audit_verify(&s, NULL, take, &all, &all.report), 0);
	if (all.report.damaged)
		fail_msg("%s", all.report.what);
}

static inline const char *text(const json_t *o, const char *key)
{
	const char *t = json_string_value(json_object_get(o, key));

	return t ? t : "";
}

static inline uint64_t number(const json_t *o, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

/* The newest act, and its result in *ret_result ("" when there is none). */
static inline const json_t *last_act(const char **ret_result)
{
	read_log();
	*ret_result = "";
	for (size_t i = all.n; i-- > 0;) {
		if (strcmp(text(all.entry[i], "kind"), "result") == 0 && !**ret_result)
			*ret_result = text(all.entry[i], "result");
		if (strcmp(text(all.entry[i], "kind"), "act") == 0)
			return all.entry[i];
	}
	return NULL;
}
