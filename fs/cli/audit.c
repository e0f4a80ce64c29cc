/*
 * audit.c: `clawfs audit`: the audit log of a volume, read from its directory, mounted or not.
 *
 * The files are read as they are, past the daemon: what is looked for is what somebody did to them.  While a volume is mounted
 * its log grows and its oldest part may go, so damage counts only when it is met three times.
 */
#include "fs/cli/cli.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fs/cli/audit_follow.h"
#include "fs/cli/event_path.h"
#include "fs/core/audit/verify.h"
#include "fs/core/feed/feed.h"
#include "fs/store/crypt/crypt_store.h"

#define FILE_MAX_BYTES (16 * MIB)
#define TRIES          3
#define TRY_AGAIN_US   200000u
#define RESULTS_MAX    64u /* acts whose results are awaited */
#define FOLLOW_US      300000u
#define FOLLOW_TRIES   20u

/* ---- the files ---- */

/* A volume's directory. */
struct place {
	int dir;
	struct data_key key; /* of an encrypted one */
};

static int read_fully(int fd, uint8_t *p, size_t len)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = pread(fd, p + at, len - at, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		at += (size_t)n;
	}
	return 0;
}

static int read_file(void *ctx, const char *name, struct buf *out)
{
	const struct place *place = ctx;
	struct stat st;
	CLEANUP_FD int fd = openat(place->dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size < 0 || (uint64_t)st.st_size > FILE_MAX_BYTES)
		return -EFBIG;
	uint8_t *p = buf_grow(out, (size_t)st.st_size);
	if (st.st_size > 0 && !p)
		return -ENOMEM;
	int r = read_fully(fd, p, (size_t)st.st_size);
	if (r == 0 && place->key.mode != ENCRYPTION_NONE)
		r = crypt_store_decrypt(&place->key, name, p, (size_t)st.st_size / DISK_BLOCK * DISK_BLOCK);
	return r;
}

/* Which segments there are; names that are none are nobody's business. */
static int find_segments(const struct place *place, struct audit_source *s)
{
	int fd = openat(place->dir, AUDIT_DIR, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	char name[AUDIT_NAME_MAX];
	uint32_t k;

	s->any = false;
	s->first = UINT32_MAX;
	s->last = 0;
	if (!d) {
		int r = -errno;

		if (fd >= 0)
			close(fd);
		return r == -ENOENT ? 0 : r;
	}
	for (const struct dirent *e; (e = readdir(d));) {
		if (sscanf(e->d_name, "seg.%" SCNu32, &k) != 1)
			continue;
		audit_segment_name(k, name);
		if (strcmp(name + strlen(AUDIT_DIR) + 1, e->d_name) != 0)
			continue;
		s->any = true;
		s->first = k < s->first ? k : s->first;
		s->last = k > s->last ? k : s->last;
	}
	closedir(d);
	return 0;
}

/* ---- which entries ---- */

struct moment {
	bool given, is_seq;
	uint64_t seq;
	char time[32]; /* the beginning of a time, as entries have it */
};
struct showing {
	struct moment since, until;
	const char *path;
	bool uid_given, json;
	uint64_t uid;
	uint64_t shown[RESULTS_MAX]; /* acts, so that their results are shown too */
	size_t n_shown;
	bool failed; /* to print */
};

/* "2026-01-31", "2026-01-31T12:00", ... in UTC; a number of a batch; or "2h": that long ago. */
static int moment_parse(const char *text, struct moment *ret)
{
	static const char shape[] = "0000-00-00T00:00:00.000000000";
	size_t len = strlen(text);
	uint64_t ns;

	*ret = (struct moment){.given = true};
	if (len && strspn(text, "0123456789") == len) {
		ret->is_seq = true;
		errno = 0;
		ret->seq = strtoull(text, NULL, 10);
		return errno ? -EINVAL : 0;
	}
	if (seconds_parse(text, &ns) == 0) {
		time_t then = time(NULL) - (time_t)(ns / (uint64_t)NSEC_PER_SEC);
		struct tm tm;

		gmtime_r(&then, &tm);
		return strftime(ret->time, sizeof(ret->time), "%Y-%m-%dT%H:%M:%S", &tm) ? 0 : -EINVAL;
	}
	if (len && text[len - 1] == 'Z')
		len--;
	if (len < 10 || len >= sizeof(shape))
		return -EINVAL;
	for (size_t i = 0; i < len; i++)
		if (shape[i] == '0' ? text[i] < '0' || text[i] > '9' : text[i] != shape[i])
			return -EINVAL;
	memcpy(ret->time, text, len);
	return 0;
}

/* Below 0: before the moment; above: behind it.  What has no time or batch is at any. */
static int compare(const struct moment *m, const json_t *facts)
{
	const json_t *seq = json_object_get(facts, "seq");
	const char *when = json_string_value(json_object_get(facts, "time"));

	if (m->is_seq && json_is_integer(seq)) {
		uint64_t n = (uint64_t)json_integer_value(seq);

		return (n > m->seq) - (n < m->seq);
	}
	return m->is_seq || !when ? 0 : strncmp(when, m->time, strlen(m->time));
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static bool result_is_shown(const struct showing *s, const json_t *body)
{
	uint64_t act = (uint64_t)json_integer_value(json_object_get(body, "of"));

	for (size_t i = 0; i < RESULTS_MAX; i++)
		if (act && s->shown[i] == act)
			return true;
	return false;
}

/* `facts`: the event of a change, else the entry itself. */
static bool is_wanted(const struct showing *s, const json_t *body, const json_t *facts)
{
	bool filtered = s->uid_given || s->path;

	if ((s->since.given && compare(&s->since, facts) < 0) || (s->until.given && compare(&s->until, facts) > 0))
		return false;
	if (strcmp(text_of(body, "kind"), "result") == 0)
		return !filtered || result_is_shown(s, body);
	if (strcmp(text_of(facts, "op"), "gap") == 0 || strcmp(text_of(body, "kind"), "found") == 0 ||
	    strcmp(text_of(body, "kind"), "suppressed") == 0)
		return true; /* what was asked for may be in there */
	if (s->uid_given &&
	    (!json_object_get(facts, "uid") || (uint64_t)json_integer_value(json_object_get(facts, "uid")) != s->uid))
		return false;
	return !s->path || event_is_below(facts, s->path);
}

/* ---- printing ---- */

/* Bytes that are no text as their hex digits. */
static void print_text(const json_t *object, const char *key)
{
	char hex[40];

	snprintf(hex, sizeof(hex), "%s_hex", key);
	text_print(*text_of(object, key) ? text_of(object, key) : text_of(object, hex));
}

static void print_who(const json_t *facts)
{
	printf("uid %-5" PRId64 " pid %-7" PRId64 " ", (int64_t)json_integer_value(json_object_get(facts, "uid")),
	       (int64_t)json_integer_value(json_object_get(facts, "pid")));
}

static void print_change(const json_t *event)
{
	if (strcmp(text_of(event, "op"), "gap") == 0) {
		printf("changes of batches %" PRId64 " to %" PRId64 " are not here: %s\n",
		       (int64_t)json_integer_value(json_object_get(event, "from")),
		       (int64_t)json_integer_value(json_object_get(event, "to")), text_of(event, "why"));
		return;
	}
	print_who(event);
	printf("%s ", text_of(event, "op"));
	print_text(event, "path");
	if (json_object_get(event, "to") || json_object_get(event, "to_hex")) {
		printf(" to ");
		print_text(event, "to");
	}
	if (json_object_get(event, "attribute")) {
		printf(" ");
		print_text(event, "attribute");
	}
	printf("\n");
}

static void print_act(const json_t *body)
{
	print_who(body);
	print_text(body, "what");
	if (json_object_get(body, "value") || json_object_get(body, "value_hex")) {
		printf(" = ");
		print_text(body, "value");
	}
	if (json_object_get(body, "path") || json_object_get(body, "path_hex")) {
		printf(" on ");
		print_text(body, "path");
	}
	printf("\n");
}

static void print_level(const json_t *body)
{
	static const char *const words[][2] = {{"off", "nothing is"},
					       {"admin", "admins' acts are"},
					       {"some", "admins' acts are, and changes below some directories,"},
					       {"changes", "every change is"}};
	const char *level = text_of(body, "level"), *what = level;

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strcmp(level, words[i][0]) == 0)
			what = words[i][1];
	printf("from here on %s logged\n", what);
}

static void print_refused(const json_t *body)
{
	print_who(body);
	printf("refused: ");
	print_text(body, "what");
	if (json_object_get(body, "path") || json_object_get(body, "path_hex")) {
		printf(" on ");
		print_text(body, "path");
	}
	printf("\n");
}

static void print_other(const json_t *body, const char *kind)
{
	if (strcmp(kind, "anchor") == 0)
		printf("segment %" PRId64 " begins%s\n", (int64_t)json_integer_value(json_object_get(body, "segment")),
		       json_object_get(body, "lost")  ? ", because acknowledged entries before it are lost"
		       : json_object_get(body, "cut") ? ", because the one before was cut off"
						      : "");
	else if (strcmp(kind, "drop") == 0)
		printf("entries up to %" PRId64 " go, for %s\n", (int64_t)json_integer_value(json_object_get(body, "last")),
		       strcmp(text_of(body, "why"), "age") == 0 ? "their age" : "there is no room for more");
	else if (strcmp(kind, "level") == 0)
		print_level(body);
	else if (strcmp(kind, "place") == 0)
		printf("changes up to batch %" PRId64 " were looked at\n",
		       (int64_t)json_integer_value(json_object_get(body, "seq")));
	else if (strcmp(kind, "refused") == 0)
		print_refused(body);
	else if (strcmp(kind, "suppressed") == 0)
		printf("%" PRId64 " more were refused something since %.19s\n",
		       (int64_t)json_integer_value(json_object_get(body, "refusals")), text_of(body, "since"));
	else if (strcmp(kind, "found") == 0)
		printf("%" PRId64 " entries could not be written; damage found: %s\n",
		       (int64_t)json_integer_value(json_object_get(body, "lost")),
		       *text_of(body, "damage") ? text_of(body, "damage") : "none");
	else
		printf("%s\n", kind);
}

static void print_entry(uint64_t n, const json_t *body, const json_t *facts)
{
	const char *kind = text_of(body, "kind");

	printf("#%-6" PRIu64 " %-20.19s ", n, text_of(facts, "time"));
	if (strcmp(kind, "change") == 0) {
		print_change(facts);
	} else if (strcmp(kind, "act") == 0) {
		print_act(body);
	} else if (strcmp(kind, "result") == 0) {
		printf("#%" PRId64 ": ", (int64_t)json_integer_value(json_object_get(body, "of")));
		print_text(body, "result");
		printf("\n");
	} else {
		print_other(body, kind);
	}
}

static int show(void *ctx, const struct audit_line *line, const json_t *body)
{
	struct showing *s = ctx;
	const json_t *event = json_object_get(body, "event"), *facts = event ? event : body;

	if (!is_wanted(s, body, facts))
		return 0;
	if (strcmp(text_of(body, "kind"), "act") == 0)
		s->shown[s->n_shown++ % RESULTS_MAX] = line->n;
	if (s->json)
		printf("%.*s\n", (int)line->body.len, (const char *)line->body.p);
	else
		print_entry(line->n, body, facts);
	return ferror(stdout) ? -EPIPE : 0;
}

/* ---- the verb ---- */

static int look_through(const struct place *place, const struct audit_chain *expected, audit_entry_fn *fn, void *ctx,
			struct audit_report *ret)
{
	struct audit_source s = {.read = read_file, .ctx = (void *)(uintptr_t)place};
	int r = find_segments(place, &s);

	return r < 0 ? r : audit_verify(&s, expected, fn, ctx, ret);
}

static int verify(const struct place *place, const struct audit_chain *expected, struct audit_report *ret)
{
	int r = look_through(place, expected, NULL, NULL, ret);

	for (int i = 1; i < TRIES && (r == -ENOENT || (r == 0 && ret->damaged)); i++) {
		usleep(TRY_AGAIN_US);
		r = look_through(place, expected, NULL, NULL, ret);
	}
	return r;
}

static int cannot_read(const char *dir, int error, int code)
{
	if (error == -ENOENT)
		complain("%s has no audit log: it was never mounted by a release that writes one, or the log is gone", dir);
	else
		complain("the audit log of %s cannot be read: %s", dir, strerror(-error));
	return code;
}

static int print_verdict(const struct args *a, const struct audit_report *rep)
{
	char head[AUDIT_HASH_TEXT];

	audit_hash_text(rep->head, head);
	if (a->json) {
		json_t *o = json_pack("{s:b, s:s, s:b, s:b, s:I, s:I, s:I, s:i, s:s}", "damaged", rep->damaged, "what", rep->what,
				      "torn", rep->torn, "expected_gone", rep->kept_gone, "entries", (json_int_t)rep->entries,
				      "first", (json_int_t)rep->first, "last", (json_int_t)rep->last, "segments",
				      (int)rep->segments, "head", head);
		json_print(o);
		json_decref(o);
	} else if (rep->damaged) {
		printf("damaged: %s\n", rep->what);
	} else {
		printf("whole: entries %" PRIu64 " to %" PRIu64 " in %" PRIu32 " segments, head %s%s\n", rep->first, rep->last,
		       rep->segments, head, rep->torn ? "; a crash left an entry behind it that was never acknowledged" : "");
	}
	if (rep->kept_gone)
		complain("the entry whose head was kept went for its age: nothing can be said of what was before entry %" PRIu64
			 "; keep a newer head",
			 rep->first);
	return rep->damaged ? EXIT_DAMAGED : rep->kept_gone ? EXIT_FSCK_ERROR : EXIT_OK;
}

static void take_told(const struct audit_report *rep, struct audit_follow *f)
{
	f->told.n = rep->last;
	memcpy(f->told.hash, rep->head, sizeof(f->told.hash));
}

/* Until what prints it is gone, or the log; what cannot be read is tried again for a while. */
static int follow(const struct args *a, const char *name, struct audit_follow *f)
{
	unsigned tries = 0;

	while (tries < FOLLOW_TRIES) {
		int r = audit_follow_step(f);

		if (fflush(stdout) != 0)
			r = -errno;
		if (r == -EBADMSG)
			break;
		if (r < 0 && r != -EAGAIN)
			return cannot_read(name, r, EXIT_FAILED);
		tries = r < 0 ? tries + 1 : 0;
		usleep(FOLLOW_US);
	}
	complain("the log is damaged, or another one now; `clawfs audit --verify %s`", a->operand[0]);
	return EXIT_DAMAGED;
}

static int list(const struct args *a, const struct place *place, const char *name, struct showing *s)
{
	struct audit_follow f = {.source = {.read = read_file, .ctx = (void *)(uintptr_t)place}, .fn = show, .ctx = s};
	struct audit_report rep;
	int r = a->follow ? audit_follow_begin(&f) : 0;

	if (r == 0)
		r = look_through(place, NULL, show, s, &rep);

	if (r == 0 && fflush(stdout) != 0)
		r = -errno;
	if (r < 0)
		return cannot_read(name, r, EXIT_FAILED);
	take_told(&rep, &f);
	if (rep.damaged)
		r = verify(place, NULL, &rep);
	if (r == 0 && !rep.damaged)
		return a->follow ? follow(a, name, &f) : EXIT_OK;
	complain("the log is damaged: %s; `clawfs audit --verify %s`", r < 0 ? strerror(-r) : rep.what, a->operand[0]);
	return EXIT_DAMAGED;
}

static int refuse(const char *option, const char *value, const char *why)
{
	complain("--%s=%s: %s; see --help", option, value, why);
	return EXIT_USAGE;
}

/* "NUMBER:HASH", or the hash alone. */
static int head_parse(const char *text, struct audit_chain *ret)
{
	const char *colon = strchr(text, ':'), *hash = colon ? colon + 1 : text;
	char *end = NULL;

	*ret = (struct audit_chain){0};
	errno = 0;
	if (colon)
		ret->n = strtoull(text, &end, 10);
	if (colon && (end != colon || *text < '0' || *text > '9' || errno || !ret->n))
		return -EINVAL;
	return audit_hash_parse(hash, strlen(hash), ret->hash);
}

static int look(const struct args *a, const struct place *place, const char *name, struct showing *s)
{
	struct audit_chain expected;
	struct audit_report rep;

	if (a->expect && head_parse(a->expect, &expected) < 0)
		return refuse("expect", a->expect, "must be a head as --head prints it: a number, a colon and 64 hex digits");
	if (!a->verify_log && !a->head && !a->expect)
		return list(a, place, name, s);
	int r = verify(place, a->expect ? &expected : NULL, &rep);
	if (r < 0)
		return cannot_read(name, r, EXIT_FSCK_ERROR);
	if (a->head && !rep.damaged) {
		char head[AUDIT_HASH_TEXT];

		audit_hash_text(rep.head, head);
		printf("%" PRIu64 ":%s\n", rep.last, head);
		return EXIT_OK;
	}
	return print_verdict(a, &rep);
}

int verb_audit(const struct args *a)
{
	struct showing s = {.path = a->path, .uid_given = a->uid_given, .uid = a->uid, .json = a->json};

	if (a->since && moment_parse(a->since, &s.since) < 0)
		return refuse("since", a->since, "must be a time as 2026-01-31T12:00 (UTC), 2h or 30d ago, or a batch");
	if (a->until && moment_parse(a->until, &s.until) < 0)
		return refuse("until", a->until, "must be a time as 2026-01-31T12:00 (UTC), 2h or 30d ago, or a batch");
	if (a->follow && (a->verify_log || a->head || a->expect)) {
		complain("--follow prints entries; it does not go with --verify, --head or --expect");
		return EXIT_USAGE;
	}
	if (a->path && a->path[0] != '/')
		return refuse("path", a->path, "must begin with /, which is the root of the volume");
	CLEANUP_FREE char *name = directory_of(a->operand[0]);
	CLEANUP_FD int dir = name ? open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (dir < 0)
		return cannot_read(a->operand[0], -errno, a->verify_log ? EXIT_FSCK_ERROR : EXIT_FAILED);
	struct place place = {.dir = dir};
	if (volume_unlock(a, name, &place.key) < 0)
		return a->verify_log ? EXIT_FSCK_ERROR : EXIT_FAILED;
	int code = look(a, &place, name, &s);
	data_key_wipe(&place.key);
	return code;
}
