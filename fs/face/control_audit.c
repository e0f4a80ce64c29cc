/*
 * control_audit.c: the audit log as attributes.
 *
 *     clawfs.audit         policy of a file or directory, inherited: off, admin or changes; without one the mount's audit=
 *     clawfs.audit.note    of the root: set to a text, which is entered; for what `clawfs` does past the daemon
 *
 * Both are for root alone to set, for an owner of the volume is among those whose acts are logged.  Setting them is entered
 * whatever the level is, and refused when it cannot be entered.
 */
#include <errno.h>
#include <string.h>

#include "fs/face/control_table.h"

static int get_level(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	buf_printf(out, "%s", fs_audit_level_name(fs, ino));
	return 0;
}

static void set_level(const struct setting *s, struct journal_waiter *w)
{
	char value[FS_POLICY_MAX + 1] = {0};
	int r = s->value.len > FS_POLICY_MAX || memchr(s->value.p, '\0', s->value.len) ? -EINVAL : 0;

	if (r == 0) {
		memcpy(value, s->value.p, s->value.len);
		r = fs_set_policy(s->fs, s->cred, s->ino, "audit", value);
	}
	if (r == 0)
		fs_audit_level_changed(s->fs);
	w->done(w, r);
}

static int remove_level(struct fs *fs, const struct fs_cred *cred, uint64_t ino)
{
	int r = fs_set_policy(fs, cred, ino, "audit", NULL);

	if (r == 0)
		fs_audit_level_changed(fs);
	return r;
}

/* The entry was made before this is called. */
static void set_note(const struct setting *s, struct journal_waiter *w)
{
	w->done(w, s->value.len ? 0 : -EINVAL);
}

const struct control audit_controls[] = {
    {"audit", SCOPE_ANY, get_level, set_level, remove_level, .setter = SETTER_ROOT, .reader = READER_ADMIN,
     .always_logged = true},
    {"audit.note", SCOPE_ROOT, .set = set_note, .setter = SETTER_ROOT, .always_logged = true},
};
const size_t n_audit_controls = ARRAY_SIZE(audit_controls);
