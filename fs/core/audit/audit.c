/*
 * audit.c: acts and their results, and the life of the log.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/audit/impl.h"

#define PLACE_NS (60 * NSEC_PER_SEC)

static uint32_t keep_segments(const struct fs *fs)
{
	uint64_t bytes = fs->config.audit_keep ? fs->config.audit_keep : AUDIT_KEEP_DEFAULT;

	return (uint32_t)min_u64(max_u64(bytes / AUDIT_SEGMENT_BYTES, 2), 1000000);
}

static const char *const scope_names[] = {
    [AUDIT_NOTHING] = "off", [AUDIT_ACTS] = "admin", [AUDIT_SOME] = "some", [AUDIT_ALL] = "changes"};

/* ---- entries ---- */

/* An object as members of an entry: without its braces.  *ret_text owns them. */
static int members_of(json_t *object, char **ret_text, struct slice *ret)
{
	char *text = json_dumps(object, JSON_COMPACT);

	if (!text)
		return -ENOMEM;
	*ret_text = text;
	*ret = (struct slice){text + 1, strlen(text) - 2};
	return 0;
}

void audit_carry_locked(struct audit *a)
{
	bool whole = a->place.next == FEED_WHOLE;

	atomic_store(&a->floor, audit_has_changes(a->told) ? a->place.seq + whole : 0);
	snprintf(a->carried, sizeof(a->carried), "\"level\":\"%s\",\"seq\":%" PRIu64 ",\"next\":%" PRIu32, scope_names[a->told],
		 a->place.seq, a->place.next);
}

static void recall_scope(struct audit *a, const json_t *level) REQUIRES(a->lock)
{
	const char *name = json_string_value(level);

	for (size_t i = 0; name && i < ARRAY_SIZE(scope_names); i++)
		if (strcmp(name, scope_names[i]) == 0)
			a->told = (enum audit_scope)i;
}

/* Where the archive was, by the entries of the newest segment. */
int audit_recall_entry(void *ctx, const struct audit_line *line, const json_t *body) NO_THREAD_SAFETY
{
	struct audit *a = ctx;
	const json_t *level = json_object_get(body, "level"), *event = json_object_get(body, "event");
	const json_t *from = event ? event : body, *n = json_object_get(from, event ? "n" : "next");

	(void)line;
	if (!level && !event)
		return 0;
	recall_scope(a, level);
	a->place.seq = (uint64_t)json_integer_value(json_object_get(from, "seq"));
	a->place.next = n ? (uint32_t)json_integer_value(n) + (event ? 1 : 0) : FEED_WHOLE;
	if (json_is_true(json_object_get(from, "last")))
		a->place.next = FEED_WHOLE;
	return 0;
}

static int open_log(struct audit *a) REQUIRES(a->lock)
{
	struct fs *fs = a->fs;
	struct audit_log_config c = {.store = fs->store,
				     .clock = fs->clock,
				     .segment_bytes = AUDIT_SEGMENT_BYTES,
				     .keep = keep_segments(fs),
				     .keep_ns = fs->config.audit_keep_ns};
	struct audit_log_found found;
	struct super s;

	replica_get_super(fs, &s);
	memcpy(c.volume, s.volume, sizeof(c.volume));
	memcpy(c.node, s.node, sizeof(c.node));
	a->place = (struct feed_place){0, FEED_WHOLE};
	a->told = AUDIT_ACTS;
	int r = audit_log_open(&c, audit_recall_entry, a, &found, &a->log);
	if (r < 0)
		return r;
	a->begun = found.begun;
	a->kept_seq = a->place.seq;
	a->kept_ns = clock_mono_ns(fs->clock);
	audit_carry_locked(a);
	audit_log_set_carried(a->log, a->carried);
	if (*found.what) {
		log_error("audit: %s; `clawfs audit --verify` says more, and the log goes on behind it", found.what);
		snprintf(a->damage, sizeof(a->damage), "%s", found.what);
	}
	return 0;
}

static int add(struct audit *a, const struct slice *members, size_t n, uint64_t *ret_n) REQUIRES(a->lock)
{
	uint64_t first = 0;
	int r = audit_log_append(a->log, members, n, &first);

	if (r < 0)
		return r;
	a->entries += n;
	if (ret_n)
		*ret_n = first;
	return 0;
}

/* What comes before the next entry: what was found damaged, and how many could not be written. */
static int add_owed(struct audit *a) REQUIRES(a->lock)
{
	CLEANUP_FREE char *text = NULL;
	struct slice members;
	int r = 0;

	if (!*a->damage && !a->lost_now)
		return 0;
	json_t *object = json_pack("{s:s, s:s, s:I}", "kind", "found", "damage", a->damage, "lost", (json_int_t)a->lost_now);
	feed_set_time(object, "time", clock_real_ns(a->fs->clock));
	r = members_of(object, &text, &members);
	json_decref(object);
	if (r == 0)
		r = add(a, &members, 1, NULL);
	if (r == 0) {
		a->damage[0] = '\0';
		a->lost_now = 0;
	}
	return r;
}

int audit_write_locked(struct audit *a, const struct slice *members, size_t n, uint64_t *ret_n)
{
	int was = a->error, r = a->finished ? -EBADF : 0;

	if (r == 0 && !a->log)
		r = open_log(a);
	if (r == 0)
		r = add_owed(a);
	if (r == 0)
		r = add(a, members, n, ret_n);
	a->error = r;
	a->begun |= r == 0;
	if (r < 0 && was == 0)
		log_error("audit: the log in %s/ cannot be written: %s; %s until it can", AUDIT_DIR, strerror(-r),
			  a->fs->config.audit_strict ? "settings are refused"
						     : "the volume goes on, and what is missing is counted");
	else if (r == 0 && was < 0)
		log_warn("audit: the log is written again");
	return r;
}

int audit_write_object(struct audit *a, json_t *object, uint64_t *ret_n)
{
	CLEANUP_FREE char *text = NULL;
	struct slice members;
	int r = object ? members_of(object, &text, &members) : -ENOMEM;

	if (r < 0)
		return r;
	mutex_lock(&a->lock);
	r = audit_write_locked(a, &members, 1, ret_n);
	if (r < 0) {
		a->lost++;
		a->lost_now++;
	}
	mutex_unlock(&a->lock);
	return r;
}

/* ---- acts ---- */

/* The newest durable batch and its hash: what the entry was logged after. */
static void set_batch(struct fs *fs, json_t *object)
{
	struct journal_status js;
	struct journal_point p;
	char hash[20];

	journal_get_status(fs->journal, &js);
	if (journal_history_point(fs->journal, js.durable_seq, &p) < 0)
		return;
	snprintf(hash, sizeof(hash), "%016" PRIx64, p.hash);
	json_object_set_new(object, "seq", json_integer((json_int_t)p.seq));
	json_object_set_new(object, "batch", json_string(hash));
}

json_t *audit_entry_new(const struct clock *clock, const char *kind, const struct fs_cred *who)
{
	json_t *o = json_pack("{s:s}", "kind", kind);

	feed_set_time(o, "time", clock_real_ns(clock));
	json_object_set_new(o, "uid", json_integer(who->uid));
	json_object_set_new(o, "gid", json_integer(who->gid));
	json_object_set_new(o, "pid", json_integer(who->pid));
	return o;
}

void audit_entry_what(struct fs *fs, json_t *object, const char *what, uint64_t ino)
{
	char path[FEED_PATH_CAP];

	feed_set_bytes(object, "what", (struct slice){what, strlen(what)});
	if (!ino)
		return;
	fs_path(fs, ino, path, sizeof(path));
	json_object_set_new(object, "ino", json_integer((json_int_t)ino));
	feed_set_bytes(object, "path", (struct slice){path, strlen(path)});
}

static int log_act(struct fs *fs, const struct fs_cred *who, const char *what, uint64_t ino, const struct slice *value,
		   uint64_t *ret_act)
{
	json_t *o = audit_entry_new(fs->clock, "act", who);

	audit_entry_what(fs, o, what, ino);
	if (value) {
		feed_set_bytes(o, "value", (struct slice){value->p, min_u64(value->len, AUDIT_VALUE_MAX)});
		if (value->len > AUDIT_VALUE_MAX)
			json_object_set_new(o, "value_bytes", json_integer((json_int_t)value->len));
	}
	set_batch(fs, o);
	int r = audit_write_object(fs->audit, o, ret_act);
	json_decref(o);
	return r;
}

int fs_audit_act(struct fs *fs, const struct fs_cred *who, const char *what, uint64_t ino, const struct slice *value,
		 uint64_t *ret_act)
{
	*ret_act = 0;
	if (!fs->audit || audit_level_of(fs, ino) == FS_AUDIT_OFF)
		return 0;
	int r = log_act(fs, who, what, ino, value, ret_act);
	return r < 0 && fs->config.audit_strict ? -EIO : 0;
}

int fs_audit_act_always(struct fs *fs, const struct fs_cred *who, const char *what, uint64_t ino, const struct slice *value,
			uint64_t *ret_act)
{
	*ret_act = 0;
	return fs->audit && log_act(fs, who, what, ino, value, ret_act) == 0 ? 0 : -EIO;
}

int fs_audit_ended(struct fs *fs, uint64_t act, const char *result)
{
	if (!fs->audit || !act)
		return 0;
	json_t *o = json_pack("{s:s, s:I, s:s}", "kind", "result", "of", (json_int_t)act, "result", result);
	feed_set_time(o, "time", clock_real_ns(fs->clock));
	int r = audit_write_object(fs->audit, o, NULL);
	json_decref(o);
	return r;
}

void fs_audit_result(struct fs *fs, uint64_t act, int result)
{
	if (fs_audit_ended(fs, act, result < 0 ? strerror(-result) : "ok") < 0) { /* counted, and said in log and status */
	}
}

/* ---- what is logged, and how far ---- */

/* An entry with a place: `kind` is "level", or "place" where only that has moved. */
static int write_place(struct audit *a, const char *kind, enum audit_scope scope, struct feed_place place) REQUIRES(a->lock)
{
	CLEANUP_FREE char *text = NULL;
	struct slice members;

	json_t *o = json_pack("{s:s, s:s, s:I, s:I}", "kind", kind, "level", scope_names[scope], "seq", (json_int_t)place.seq,
			      "next", (json_int_t)place.next);
	feed_set_time(o, "time", clock_real_ns(a->fs->clock));
	int r = members_of(o, &text, &members);
	json_decref(o);
	if (r == 0)
		r = audit_write_locked(a, &members, 1, NULL);
	if (r < 0)
		return r;
	a->place = place;
	a->told = scope;
	a->kept_seq = place.seq;
	a->kept_ns = clock_mono_ns(a->fs->clock);
	audit_carry_locked(a);
	return 0;
}

/* Changes are to be logged from now on, or from the batch with which that was said. */
static struct feed_place first_place(struct audit *a) REQUIRES(a->lock)
{
	uint64_t began = atomic_load(&a->wanted.began), settled = position_settled(a->fs);

	return (struct feed_place){began ? min_u64(began - 1, settled) : settled, FEED_WHOLE};
}

int audit_follow_scope_locked(struct audit *a)
{
	const struct audit_wanted *w = &a->wanted;
	enum audit_scope is = audit_scope_of(w);

	if (is == a->told)
		return 0;
	if (!a->begun && !audit_has_changes(is)) { /* nobody asked for a log */
		a->told = is;
		audit_carry_locked(a);
		return 0;
	}
	/* What came before that was said is still to be archived. */
	uint64_t passed = a->place.next == FEED_WHOLE ? a->place.seq : a->place.seq - 1;
	if (audit_has_changes(a->told) && !audit_has_changes(is) &&
	    passed < max_u64(atomic_load(&w->ended), atomic_load(&w->all_until)))
		return 0;
	return write_place(a, "level", is, !audit_has_changes(a->told) || !audit_has_changes(is) ? first_place(a) : a->place);
}

int audit_keep_place_locked(struct audit *a, bool now)
{
	if (!audit_has_changes(a->told) || a->kept_seq == a->place.seq ||
	    (!now && clock_mono_ns(a->fs->clock) - a->kept_ns < PLACE_NS))
		return 0;
	return write_place(a, "place", a->told, a->place);
}

void fs_audit_level_changed(struct fs *fs)
{
	struct audit *a = fs->audit;

	if (!a)
		return;
	mutex_lock(&a->lock);
	if (a->log && audit_follow_scope_locked(a) < 0) /* and counted; the service tries again */
		log_warn("audit: that another level is in force could not be logged");
	mutex_unlock(&a->lock);
}

/* ---- life ---- */

struct audit_wanted *audit_wanted_of(struct fs *fs)
{
	return fs->audit ? &fs->audit->wanted : NULL;
}

int audit_open(struct fs *fs)
{
	struct audit *a;

	if (!fs->config.audited || fs->config.read_only)
		return 0;
	a = calloc(1, sizeof(*a));
	if (a)
		a->names = feed_names_new();
	if (!a || !a->names) {
		free(a);
		return -ENOMEM;
	}
	a->fs = fs;
	mutex_init(&a->lock);
	audit_refusals_open(a);
	mutex_lock(&a->lock);
	int r = open_log(a);
	if (fs->config.audit_as_before)
		fs->config.audit = audit_has_changes(a->told) ? FS_AUDIT_CHANGES
				   : a->told == AUDIT_NOTHING ? FS_AUDIT_OFF
							      : FS_AUDIT_ADMIN;
	audit_wanted_open(fs, &a->wanted);
	if (r == 0)
		r = audit_follow_scope_locked(a);
	if (r < 0) {
		a->error = r;
		log_error("audit: the log in %s/ cannot be opened: %s; it is tried again with each entry", AUDIT_DIR,
			  strerror(-r));
	}
	mutex_unlock(&a->lock);
	fs->audit = a;
	return 0;
}

void audit_finish(struct fs *fs)
{
	struct audit *a = fs->audit;

	if (!a)
		return;
	audit_tell_suppressed(fs, true);
	int r = audit_archive(fs);
	mutex_lock(&a->lock);
	if (r == 0 && a->log)
		r = audit_keep_place_locked(a, true);
	if (r < 0)
		log_warn("audit: not all changes are in the log yet; the next mount adds them");
	a->log = audit_log_close(a->log);
	a->finished = true;
	mutex_unlock(&a->lock);
}

void audit_close(struct fs *fs) NO_THREAD_SAFETY
{
	struct audit *a = fs->audit;

	if (!a)
		return;
	audit_log_abandon(a->log);
	feed_names_free(a->names);
	audit_refusals_close(a);
	audit_wanted_close(&a->wanted);
	mutex_destroy(&a->lock);
	free(a);
	fs->audit = NULL;
}

json_t *audit_status_json(struct fs *fs)
{
	struct audit *a = fs->audit;
	char head[AUDIT_HASH_TEXT] = "";
	struct audit_chain at = {0};

	if (!a)
		return json_pack("{s:s}", "level", "off");
	mutex_lock(&a->lock);
	if (a->log) {
		audit_log_head(a->log, &at);
		audit_hash_text(at.hash, head);
	}
	json_t *o = json_pack("{s:s, s:b, s:I, s:s, s:I, s:I, s:I, s:I, s:s}", "level", scope_names[audit_scope_of(&a->wanted)],
			      "strict", fs->config.audit_strict, "newest", (json_int_t)at.n, "head", head, "entries",
			      (json_int_t)a->entries, "changes", (json_int_t)a->changes, "lost", (json_int_t)a->lost,
			      "archived_seq", (json_int_t)a->place.seq, "error", a->error < 0 ? strerror(-a->error) : "");
	mutex_unlock(&a->lock);
	audit_refusals_status(a, o);
	return o;
}
