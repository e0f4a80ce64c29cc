/*
 * control.c: the admin's extended attributes, as one table.
 *
 * An attribute lives on the root inode or on every inode, and has a getter, a setter, or both.  A name that is not in the
 * table is asked of the provider when it is the root's; one that nobody has does not exist: -ENODATA to read, -EOPNOTSUPP to
 * write.  One without a getter is a command: it reads as unset, and setting it carries it out before setxattr(2) returns.
 * Root and the owner of the root directory may read anything, and set anything but what is logged of admins' acts (SETTER_ROOT).
 * Others who reach the inode may read what names neither files, hosts nor stores (READER_EVERYONE), and may wait for a position.
 * Who is refused is entered in the audit log.
 *
 * A setter answers by its waiter, because it may have to wait for other machines.  The kernel holds the inode's lock all the
 * while, so waits for a position have a limit.
 */
#include "fs/face/control_table.h"

#include <errno.h>
#include <limits.h>
#include <linux/limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WAIT_MAX_S 30u

static const char *control_name(const char *name)
{
	return name + strlen("clawfs.");
}

/* ---- what can be read ---- */

static int get_status(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	(void)ino;
	fs_status_json(fs, out);
	return 0;
}

static int get_path(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	char path[PATH_MAX];

	(void)rest;
	fs_path(fs, ino, path, sizeof(path));
	buf_put(out, path, strlen(path));
	return 0;
}

static int get_version(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	(void)fs;
	(void)ino;
	buf_put(out, CLAWFS_VERSION, strlen(CLAWFS_VERSION));
	return 0;
}

static int get_pos(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	(void)ino;
	buf_printf(out, "%llu", (unsigned long long)fs_pos(fs));
	return 0;
}

static int get_epoch(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	struct replica_volume *v = fs_replica(fs);
	struct replica_point p;

	(void)rest;
	(void)ino;
	v->ops->get_point(v, &p);
	buf_printf(out, "%llu", (unsigned long long)p.promised);
	return 0;
}

static int get_role(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	(void)ino;
	buf_printf(out, "%s", fs_role(fs) == ROLE_LEADER ? "leader" : "follower");
	return 0;
}

static int get_durability(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	char value[FS_POLICY_MAX + 1] = "local";
	int r = fs_get_policy(fs, ino, "durability", true, value);

	(void)rest;
	buf_printf(out, "%s", value);
	return r == -ENODATA ? 0 : r;
}

/* ---- what can be set ---- */

static void set_checkpoint(const struct setting *s, struct journal_waiter *w)
{
	w->done(w, fs_checkpoint(s->fs));
}

static void set_sync(const struct setting *s, struct journal_waiter *w)
{
	fs_sync_async(s->fs, FS_ROOT_INO, w);
}

void control_set_policy(const struct setting *s, const char *key, struct journal_waiter *w)
{
	char value[FS_POLICY_MAX + 1] = {0};

	if (s->value.len > FS_POLICY_MAX || memchr(s->value.p, '\0', s->value.len)) {
		w->done(w, -EINVAL);
		return;
	}
	memcpy(value, s->value.p, s->value.len);
	w->done(w, fs_set_policy(s->fs, s->cred, s->ino, key, value));
}

static void set_durability(const struct setting *s, struct journal_waiter *w)
{
	control_set_policy(s, "durability", w);
}

static int remove_durability(struct fs *fs, const struct fs_cred *cred, uint64_t ino)
{
	return fs_set_policy(fs, cred, ino, "durability", NULL);
}

/* Decimal digits at *at, which moves behind them. */
static bool parse_number(struct slice text, size_t *at, uint64_t *ret)
{
	const char *p = text.p;
	size_t first = *at;

	*ret = 0;
	for (; *at < text.len && p[*at] >= '0' && p[*at] <= '9'; (*at)++)
		if (__builtin_mul_overflow(*ret, 10, ret) || __builtin_add_overflow(*ret, (uint64_t)(p[*at] - '0'), ret))
			return false;
	return *at > first;
}

/* "SEQ" or "SEQ SECONDS". */
static int parse_wait(struct slice text, uint64_t *ret_seq, uint64_t *ret_seconds)
{
	const char *p = text.p;
	size_t at = 0;

	*ret_seconds = WAIT_MAX_S;
	if (!parse_number(text, &at, ret_seq))
		return -EINVAL;
	if (at < text.len && (p[at++] != ' ' || !parse_number(text, &at, ret_seconds)))
		return -EINVAL;
	return at == text.len && *ret_seconds <= WAIT_MAX_S ? 0 : -EINVAL;
}

void control_wait(const struct setting *s, control_wait_fn *fn, struct journal_waiter *w)
{
	uint64_t seq, seconds;
	int r = parse_wait(s->value, &seq, &seconds);

	if (r < 0)
		w->done(w, r);
	else
		fn(s->fs, seq, (int64_t)seconds * NSEC_PER_SEC, w);
}

static void set_wait(const struct setting *s, struct journal_waiter *w)
{
	control_wait(s, fs_wait_pos_async, w);
}

/* ---- the table ---- */

static const struct control controls[] = {
    {"checkpoint", SCOPE_ROOT, .set = set_checkpoint},
    {"durability", SCOPE_ANY, get_durability, set_durability, remove_durability},
    {"epoch", SCOPE_ROOT, get_epoch},
    {"path", SCOPE_ANY, get_path, .reader = READER_ADMIN},
    {"pos", SCOPE_ROOT, get_pos},
    {"role", SCOPE_ROOT, get_role},
    {"status", SCOPE_ROOT, get_status, .reader = READER_ADMIN},
    {"sync", SCOPE_ROOT, .set = set_sync},
    {"version", SCOPE_ROOT, get_version},
    {"wait", SCOPE_ROOT, .set = set_wait, .setter = SETTER_EVERYONE, .unlogged = true},
};

/* Whether the row is that of a name; *ret_rest is what the name has behind the row's. */
static bool row_matches(const struct control *c, const char *name, const char **ret_rest)
{
	size_t n = strlen(c->name);

	if (strncmp(c->name, name, n) != 0)
		return false;
	*ret_rest = name + n;
	return c->name[n - 1] == '.' ? name[n] != '\0' : name[n] == '\0';
}

const struct control *control_row(size_t i)
{
	const struct {
		const struct control *rows;
		size_t n;
	} tables[] = {
	    {controls, ARRAY_SIZE(controls)},   {feed_controls, n_feed_controls},       {scrub_controls, n_scrub_controls},
	    {snap_controls, n_snap_controls},   {archive_controls, n_archive_controls}, {tier_controls, n_tier_controls},
	    {usage_controls, n_usage_controls}, {audit_controls, n_audit_controls},     {squeeze_controls, n_squeeze_controls}};

	for (size_t t = 0; t < ARRAY_SIZE(tables); t++) {
		if (i < tables[t].n)
			return &tables[t].rows[i];
		i -= tables[t].n;
	}
	return NULL;
}

/* The first that matches. */
static const struct control *control_find(const char *name, const char **ret_rest)
{
	const struct control *c;

	for (size_t i = 0; (c = control_row(i)); i++)
		if (row_matches(c, control_name(name), ret_rest))
			return c;
	return NULL;
}

static bool is_here(const struct control *c, uint64_t ino)
{
	return c->scope == SCOPE_ANY || ino == FS_ROOT_INO;
}

static int check_admin(struct fs *fs, const struct fs_cred *cred)
{
	struct fs_attr root;

	if (cred->uid == 0)
		return 0;
	int r = fs_getattr(fs, FS_ROOT_INO, &root);
	if (r < 0)
		return r;
	return cred->uid == root.uid ? 0 : -EPERM;
}

/* "set clawfs.X", to be read by people. */
struct act {
	char what[XATTR_NAME_MAX + 16];
};

static struct act act_of(const char *verb, const char *name)
{
	struct act a;

	snprintf(a.what, sizeof(a.what), "%s %s", verb, name);
	return a;
}

static int log_refused(const struct setting *s, const struct control *c, const char *verb, const char *name, int error)
{
	const struct act a = act_of(verb, name);

	fs_audit_refused(s->fs, s->cred, a.what, s->ino, c && c->always_logged, error);
	return error;
}

static int get(struct fs *fs, const struct control_provider *more, const struct fs_cred *cred, uint64_t ino, const char *name,
	       struct buf *out)
{
	const struct setting s = {.fs = fs, .cred = cred, .ino = ino};
	const char *rest;
	const struct control *c = control_find(name, &rest);
	int r;

	if (c && c->get && is_here(c, ino)) {
		r = c->reader == READER_ADMIN || c->get_for_others ? check_admin(fs, cred) : 0;
		if (r == -EPERM && c->get_for_others)
			return c->get_for_others(fs, ino, rest, out);
		if (r == 0)
			return c->get(fs, ino, rest, out);
	} else if (c) {
		return -ENODATA;
	} else {
		r = more && ino == FS_ROOT_INO ? more->get(more->ctx, cred, control_name(name), out) : -ENODATA;
	}
	return r == -EPERM ? log_refused(&s, c, "get", name, r) : r;
}

/* That a secret goes out; whoever asks for its length gets nothing yet. */
static int log_revealed(const struct setting *s, const char *name)
{
	const struct act a = act_of("get", name);
	uint64_t act;
	int r = fs_audit_act(s->fs, s->cred, a.what, s->ino, NULL, &act);

	if (r == 0)
		fs_audit_result(s->fs, act, 0);
	return r;
}

int control_get(struct fs *fs, const struct control_provider *more, const struct fs_cred *cred, uint64_t ino, const char *name,
		void *p, size_t cap, size_t *ret_len)
{
	const struct setting s = {.fs = fs, .cred = cred, .ino = ino};
	CLEANUP_BUF struct buf out = {0};
	const char *rest;
	const struct control *c = control_find(name, &rest);
	int r = get(fs, more, cred, ino, name, &out);

	if (r < 0)
		return r;
	if (out.failed)
		return -ENOMEM;
	if (cap > 0 && cap < out.len)
		return -ERANGE;
	if (cap > 0 && c && c->reveals)
		r = log_revealed(&s, name);
	if (r < 0)
		return r;
	if (cap > 0 && out.len > 0)
		memcpy(p, out.p, out.len);
	*ret_len = out.len;
	return 0;
}

static int log_act(const struct setting *s, const struct control *c, const char *verb, const char *name, uint64_t *ret_act)
{
	const struct act a = act_of(verb, name);
	bool hidden = c && c->secret;
	const struct slice *value = hidden || !s->value.p ? NULL : &s->value;

	return c && c->always_logged ? fs_audit_act_always(s->fs, s->cred, a.what, s->ino, value, ret_act)
				     : fs_audit_act(s->fs, s->cred, a.what, s->ino, value, ret_act);
}

/* Whether the caller may set or remove, and if so whether that is entered, where it is to be. */
static int admit(const struct setting *s, const struct control *c, const char *verb, const char *name, uint64_t *ret_act)
{
	int r = 0;

	if (c && c->setter == SETTER_ROOT)
		r = s->cred->uid == 0 || s->cred->uid == geteuid() ? 0 : -EPERM; /* or who runs this, and could write the log */
	else if (!c || c->setter == SETTER_ADMIN)
		r = check_admin(s->fs, s->cred);
	if (r == -EPERM)
		return log_refused(s, c, verb, name, r);
	return r < 0 || (c && c->unlogged) ? r : log_act(s, c, verb, name, ret_act);
}

void control_set(struct fs *fs, const struct control_provider *more, const struct fs_cred *cred, uint64_t ino, const char *name,
		 const void *value, size_t len, struct journal_waiter *w, uint64_t *ret_act)
{
	struct setting s = {.fs = fs, .cred = cred, .ino = ino, .value = {value ? value : "", value ? len : 0}};
	const struct control *c = control_find(name, &s.rest);
	int r = 0;

	*ret_act = 0;
	if (c ? !c->set || !is_here(c, ino) : !more || ino != FS_ROOT_INO)
		r = -EOPNOTSUPP;
	else
		r = admit(&s, c, "set", name, ret_act);
	if (r == 0 && c)
		c->set(&s, w);
	else
		w->done(w, r < 0 ? r : more->set(more->ctx, cred, control_name(name), s.value.p, s.value.len));
}

int control_remove(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const char *name)
{
	struct setting s = {.fs = fs, .cred = cred, .ino = ino};
	const struct control *c = control_find(name, &s.rest);
	uint64_t act = 0;

	if (!c || !c->remove || !is_here(c, ino))
		return -EOPNOTSUPP;
	int r = admit(&s, c, "remove", name, &act);
	if (r < 0)
		return r;
	r = c->remove(fs, cred, ino);
	fs_audit_result(fs, act, r);
	return r;
}
