/*
 * control_table.h: a row of the table of control.c, for the files that make rows of it.  Private to fs/face.
 */
#pragma once

#include "fs/face/control.h"

enum control_scope { SCOPE_ROOT, SCOPE_ANY };
/* Admins are root and the owner of the root directory. */
enum control_setter { SETTER_ADMIN, SETTER_ROOT, SETTER_EVERYONE };
/* What names files, hosts or stores, or tells what others do, is for admins to read. */
enum control_reader { READER_EVERYONE, READER_ADMIN };

/* What is to be set, and who wants it. */
struct setting {
	struct fs *fs;
	const struct fs_cred *cred;
	uint64_t ino;
	const char *rest; /* of the name, behind the row's own; "" but for rows that end with a dot */
	struct slice value;
};

struct control {
	const char *name; /* after "clawfs."; one that ends with a dot is the beginning of a name */
	enum control_scope scope;
	int (*get)(struct fs *fs, uint64_t ino, const char *rest, struct buf *out); /* NULL: reads as unset */
	void (*set)(const struct setting *s, struct journal_waiter *w);             /* NULL: read-only */
	int (*remove)(struct fs *fs, const struct fs_cred *c, uint64_t ino);        /* NULL: cannot be unset */
	/* What others get who may read it: without names; NULL: the same. */
	int (*get_for_others)(struct fs *fs, uint64_t ino, const char *rest, struct buf *out);
	enum control_setter setter;
	enum control_reader reader;
	bool unlogged;              /* setting it changes nothing: it is no act for the audit log */
	bool secret;                /* what it is set to is not for the audit log */
	bool reveals;               /* a secret: that it was read is logged, too */
	bool always_logged;         /* whatever level of audit is in force; refused when it cannot be */
};

/* Row number `i` of all of them; NULL behind the last. */
const struct control *control_row(size_t i);

/* Sets the policy `key` of s->ino. */
void control_set_policy(const struct setting *s, const char *key, struct journal_waiter *w);

/* control_snap.c */
extern const struct control snap_controls[];
extern const size_t n_snap_controls;

/* What waits for batch `seq`; see fs_wait_pos_async(). */
typedef void control_wait_fn(struct fs *fs, uint64_t seq, int64_t timeout_ns, struct journal_waiter *w);
/* Waits as `fn` does: the value is "SEQ" or "SEQ SECONDS", with a limit of seconds, else -EINVAL. */
void control_wait(const struct setting *s, control_wait_fn *fn, struct journal_waiter *w);

/* control_feed.c */
extern const struct control feed_controls[];
extern const size_t n_feed_controls;

/* control_scrub.c */
extern const struct control scrub_controls[];
extern const size_t n_scrub_controls;
/* control_tier.c */
extern const struct control tier_controls[];
extern const size_t n_tier_controls;
/* control_usage.c */
extern const struct control usage_controls[];
extern const size_t n_usage_controls;
/* control_audit.c */
extern const struct control audit_controls[];
extern const size_t n_audit_controls;
/* control_squeeze.c */
extern const struct control squeeze_controls[];
extern const size_t n_squeeze_controls;
/* control_archive.c */
extern const struct control archive_controls[];
extern const size_t n_archive_controls;
