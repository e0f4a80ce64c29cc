/*
 * restore.c: `clawfs restore`: a volume, or one path of it, from its archive.
 *
 * Everything is read from the store: the volume need not exist any more.  What is made has a file "restoring" until it is whole:
 * it cannot be mounted before, and the same command begins it anew.
 */
#include "fs/cli/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "fs/cli/acts.h"
#include "tier/definition.h"
#include "tier/guard.h"
#include "tier/s3/s3.h"
#include "tier/store_dir.h"

#define KEY_TEXT_MAX 256

void time_text(int64_t ns, char ret_text[40])
{
	time_t at = ns / NSEC_PER_SEC;
	struct tm tm;
	char day[32];

	if (!localtime_r(&at, &tm) || !strftime(day, sizeof(day), "%Y-%m-%d %H:%M:%S", &tm))
		snprintf(day, sizeof(day), "@%lld", (long long)at);
	snprintf(ret_text, 40, "%.31s.%03d", day, (int)(ns % NSEC_PER_SEC / 1000000) % 1000);
}

/* ---- the source ---- */

static int open_store(const char *text, const char *credentials, const char *profile, struct object_store **ret)
{
	struct store_definition d;
	char message[OBJECT_MESSAGE_MAX] = "";
	struct object_store *behind = NULL;
	int r = store_definition_parse(text, &d, message);

	if (r == 0) {
		const struct store_dir_config directory = {.path = d.path};
		const struct s3_config s3 = {.definition = &d, .credentials_file = credentials, .profile = profile};

		r = d.kind == STORE_DIRECTORY ? store_dir_open(&directory, &behind, message) : s3_open(&s3, &behind, message);
	}
	if (r == 0) {
		const struct guard_config c = {.name = "archive", .clock = &clock_system, .timeout_ns = d.timeout_ns};

		r = guard_new(&c, behind, ret);
		if (r < 0)
			object_store_close(behind);
	}
	if (r < 0)
		complain("the archive cannot be reached: %s", *message ? message : strerror(-r));
	return r;
}

static int parse_key(const char *text, struct pack_volume_key *ret)
{
	size_t n = strspn(text, "0123456789abcdefABCDEF");

	if (n != 2 * sizeof(ret->bytes) || text[n + strspn(text + n, " \n")]) {
		complain("the key is not one: 64 hexadecimal digits, as `clawfs archive key` prints them");
		return -EINVAL;
	}
	for (size_t i = 0; i < sizeof(ret->bytes); i++) {
		unsigned byte;

		if (sscanf(text + 2 * i, "%2x", &byte) != 1)
			return -EINVAL;
		ret->bytes[i] = (uint8_t)byte;
	}
	return 0;
}

int restore_source_open(const char *definition, const char *credentials, const char *profile, const char *key,
			struct restore_source *s)
{
	*s = (struct restore_source){.place = {.purpose = OBJECT_FOREGROUND}};
	int r = key && strncmp(key, "none", 4) != 0 ? parse_key(key, &s->key) : 0;

	if (r < 0)
		return r;
	r = open_store(definition, credentials, profile, &s->store);
	if (r < 0)
		return r;
	s->place.store = s->store;
	s->place.key = key && strncmp(key, "none", 4) != 0 ? &s->key : NULL;
	r = archive_find_volume(&s->place);
	if (r == 0)
		r = manifest_read(&s->place, &s->manifest);
	if (r == 0)
		r = manifest_follow_heads(&s->place, &s->manifest);
	if (r < 0) {
		complain("the archive cannot be read: %s", *s->place.message ? s->place.message : strerror(-r));
		if (r == -ENOKEY)
			complain("`clawfs archive key MOUNTPOINT` printed the key while there was a volume; give it with "
				 "--archive-key=FILE");
		restore_source_close(s);
	}
	return r;
}

void restore_source_close(struct restore_source *s)
{
	manifest_free(&s->manifest);
	object_store_close(s->store);
	OPENSSL_cleanse(&s->key, sizeof(s->key));
	*s = (struct restore_source){0};
}

/* ---- the volume ---- */

static int set_marker(const char *dir, bool there)
{
	CLEANUP_FD int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = dir_fd < 0 ? -errno : 0;

	if (r == 0 && there) {
		CLEANUP_FD int fd = openat(dir_fd, VOLUME_RESTORING, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

		r = fd < 0 ? -errno : 0;
	} else if (r == 0 && unlinkat(dir_fd, VOLUME_RESTORING, 0) < 0) {
		r = -errno;
	}
	return r == 0 && fsync(dir_fd) < 0 ? -errno : r;
}

static bool was_interrupted(const char *dir)
{
	char path[PATH_MAX];

	return snprintf(path, sizeof(path), "%s/" VOLUME_RESTORING, dir) < (int)sizeof(path) && access(path, F_OK) == 0;
}

static void show_progress(void *ctx, const char *line)
{
	const struct restore_job *j = ctx;

	if (j->quiet)
		return;
	text_print(line);
	putchar('\n');
}

static void tell(const struct restore_job *j, const struct restore_source *s, int error)
{
	const char *why = *s->place.message ? s->place.message : strerror(-error);

	if (j->message)
		snprintf(j->message, j->message_cap, "%s", why);
	else
		complain("not restored: %s", why);
}

/* The first entry of the new volume's audit log. */
static int enter(const char *dir, struct store *store, const struct restore_result *res)
{
	char value[64];
	struct act act;

	snprintf(value, sizeof(value), "the state after batch %" PRIu64, res->seq);
	int r = act_begin_in("restore", store, value, &act);
	if (r < 0)
		volume_complain("cannot begin the audit log of", dir, r);
	else
		act_end(&act, 0, NULL);
	return r;
}

static int fill(const struct restore_job *j, struct format_target *t, struct restore_source *s, struct restore_result *ret)
{
	struct fs *fs;
	int r = fs_open(&t->v.fs, &fs);

	if (r < 0) {
		tell(j, s, r);
		return r;
	}
	struct store *store = TAKE_PTR(t->v.fs.store); /* fs has it */
	r = restore_run(fs, &s->place, &s->manifest, j->target, show_progress, (void *)(uintptr_t)j, ret);
	if (r < 0)
		tell(j, s, r);
	if (r == 0 && j->use)
		r = j->use(j->ctx, fs);
	if (r == 0 && j->keep)
		r = enter(t->v.dir, store, ret);
	int closed = fs_close(fs); /* of one that goes, too: it leaves nothing elsewhere */
	if (r < 0 || !j->keep)
		return r;
	if (closed < 0)
		tell(j, s, closed);
	return closed;
}

int restore_volume(const struct restore_job *j, struct restore_source *s, struct restore_result *ret)
{
	struct args a = *j->a;
	struct fs_format_options o;
	struct format_target t;

	if (format_plan(&a, j->usual, &o) < 0)
		return -EINVAL;
	o.follower = true; /* until it is whole; its volume is a new one */
	if (was_interrupted(j->dir)) {
		a.force = true;
		a.confirm = "destroy";
	}
	int r = format_begin(&a, j->dir, &t);
	if (r < 0)
		return r;
	r = set_marker(t.v.dir, true);
	if (r == 0)
		r = format_volume(&a, &t, &o);
	if (r == 0)
		r = fill(j, &t, s, ret);
	if (r == 0 && j->keep)
		r = set_marker(t.v.dir, false);
	if (r == 0 && !j->keep) {
		r = format_end(&t, -ECANCELED); /* which removes it */
		return r == -ECANCELED ? 0 : r;
	}
	return format_end(&t, r);
}

/* ---- the verb ---- */

static int read_key_file(const char *path, char text[KEY_TEXT_MAX])
{
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, KEY_TEXT_MAX - 1);

	if (n < 0) {
		complain("the key cannot be read from %s: %s", path, strerror(errno));
		return -errno;
	}
	text[n] = '\0';
	return 0;
}

static int print_range(void *ctx, const struct restore_range *range)
{
	json_t *list = ctx;
	char from[40], to[40];

	if (list) {
		json_array_append_new(list, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:s}", "epoch",
						      (json_int_t)(range->epoch >> EPOCH_NODE_BITS), "from_seq",
						      (json_int_t)range->from_seq, "to_seq", (json_int_t)range->to_seq, "from_ns",
						      (json_int_t)range->from_ns, "to_ns", (json_int_t)range->to_ns, "base_bytes",
						      (json_int_t)range->bytes, "gap", (int)range->gap, "damage",
						      range->damage ? strerror(-range->damage) : ""));
		return 0;
	}
	time_text(range->from_ns, from);
	time_text(range->to_ns, to);
	printf("%s (batch %" PRIu64 ")  to  %s (batch %" PRIu64 ")%s\n", from, range->from_seq, to, range->to_seq,
	       range->gap ? "  then a GAP" : "");
	if (range->damage)
		printf("    what follows cannot be read: %s\n", strerror(-range->damage));
	return 0;
}

static int list(const struct args *a, struct restore_source *s)
{
	json_t *array = a->json ? json_array() : NULL;
	int r = restore_list(&s->place, &s->manifest, print_range, array);

	if (r == 0 && array)
		json_print(array);
	json_decref(array);
	if (r < 0)
		complain("the archive cannot be listed: %s", *s->place.message ? s->place.message : strerror(-r));
	return r;
}

static void conclude(const struct args *a, const struct restore_result *res)
{
	char at[40];

	time_text(res->ns, at);
	printf("%s: the state after batch %" PRIu64 ", of %s\n", a->operand[0], res->seq, at);
	if (res->passed_over)
		printf("%" PRIu64
		       " batches after it are not in it: data of theirs changed before it was archived, and what took its "
		       "place came later\n",
		       res->passed_over);
	if (res->unreachable)
		complain("%" PRIu64
			 " blocks of files lay only in a store of the volume when they were archived: reading them fails",
			 res->unreachable);
}

struct extraction {
	const struct args *a;
	uint64_t files;
};

static int extract(void *ctx, struct fs *fs)
{
	struct extraction *e = ctx;

	return restore_tree(fs, e->a->path, e->a->operand[0], &e->files);
}

static const struct volume_sizes usual = {.journal_bytes = GIB, .segment_bytes = 64 * MIB, .chunk_bytes = GIB};
static const struct volume_sizes usual_aside = {.journal_bytes = 256 * MIB, .segment_bytes = 32 * MIB, .chunk_bytes = 256 * MIB};

/* One path: by way of a volume beside DIR, which goes again. */
static int restore_path(const struct args *a, struct restore_source *s, const struct restore_target *t,
			struct restore_result *res)
{
	char aside[PATH_MAX];
	struct extraction e = {.a = a};

	if (snprintf(aside, sizeof(aside), "%s.restoring", a->operand[0]) >= (int)sizeof(aside))
		return -ENAMETOOLONG;
	const struct restore_job j = {.a = a, .dir = aside, .usual = &usual_aside, .target = t, .use = extract, .ctx = &e};
	int r = restore_volume(&j, s, res);
	if (r == 0)
		printf("%" PRIu64 " files and directories\n", e.files);
	return r;
}

int verb_restore(const struct args *a)
{
	CLEANUP_BUF struct buf definition = {0};
	const char *dir = a->n_operands ? a->operand[0] : NULL;
	struct restore_target target = {.by = RESTORE_LATEST};
	struct restore_result res = {0};
	char key[KEY_TEXT_MAX] = "";
	struct restore_source s;

	if (!a->from || (!a->list && !dir)) {
		complain("restore takes --from=URL, and a DIR unless --list is given; see `clawfs restore --help`");
		return EXIT_USAGE;
	}
	if (a->at && restore_target_parse(a->at, &target) < 0) {
		complain("--at=%s: must be latest, the number of a batch, YYYY-MM-DD HH:MM[:SS][Z] or @SECONDS", a->at);
		return EXIT_USAGE;
	}
	enum encryption mode;
	if (!a->list && (!format_force_is_right(a, dir) || format_encryption(a, &mode) < 0))
		return EXIT_USAGE;
	if (a->key_file && read_key_file(a->key_file, key) < 0)
		return EXIT_FAILED;
	tier_definition_text(a, a->from, &definition);
	int r = definition.failed
		    ? -ENOMEM
		    : restore_source_open((const char *)definition.p, a->credentials, a->profile, a->key_file ? key : NULL, &s);
	OPENSSL_cleanse(key, sizeof(key));
	if (r < 0)
		return EXIT_FAILED;
	const struct restore_job j = {.a = a, .dir = dir, .usual = &usual, .target = &target, .keep = true};
	if (a->list)
		r = list(a, &s);
	else
		r = a->path ? restore_path(a, &s, &target, &res) : restore_volume(&j, &s, &res);
	restore_source_close(&s);
	if (r == 0 && !a->list)
		conclude(a, &res);
	return r < 0 || res.unreachable ? EXIT_FAILED : EXIT_OK;
}
