/*
 * archive.c: the verbs about the archive of a mounted volume: set, status, off, now, key, and drill.
 *
 * A drill restores the newest state beside the volume, as one would after its loss, with what only the archive and the key give;
 * then it asks the volume what it was at that batch, and removes what it made.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

#include "fs/cli/restore.h"
#include "fs/core/archive/archiving.h"
#include "fs/store/super_format.h"

static int archive_failed(const char *what, const char *path, int error)
{
	if (error == -EPERM || error == -EROFS)
		complain_admin(what, path, error);
	else if (error == -ENODEV)
		complain("%s: no such store: `clawfs tier add` gives the volume one", what);
	else if (error == -ENODATA || error == -EOPNOTSUPP || error == -ENOTCONN)
		complain_unreachable(path, error);
	else
		complain("%s: %s; `clawfs archive status` and the daemon's log say more", what, strerror(-error));
	return EXIT_FAILED;
}

int verb_archive_set(const struct args *a)
{
	const char *path = a->operand[1];
	CLEANUP_BUF struct buf text = {0};
	struct archive_policy p;

	buf_printf(&text, "store=%s", a->operand[0]);
	if (a->archive_interval)
		buf_printf(&text, " interval=%s", a->archive_interval);
	if (a->archive_base)
		buf_printf(&text, " base=%s", a->archive_base);
	if (a->archive_keep)
		buf_printf(&text, " keep=%s", a->archive_keep);
	buf_put_u8(&text, '\0');
	if (text.failed || archive_policy_parse((const char *)text.p, &p) < 0) {
		complain("not set: times are numbers with s, m, h, d or w: --interval 1s to 1d, --base 60s to 366d, --keep 0 "
			 "(for ever) "
			 "or more");
		return EXIT_USAGE;
	}
	int r = attribute_set(path, "archive", (const char *)text.p);
	return r < 0 ? archive_failed("the archive is not set", path, r) : EXIT_OK;
}

static void print_archive(const json_t *o)
{
	json_t *shown = json_deep_copy(o);
	const json_t *drill = json_object_get(shown, "drill");

	if (json_is_null(drill))
		json_object_del(shown, "drill");
	facts_print(shown);
	json_decref(shown);
}

int verb_archive_status(const struct args *a)
{
	json_t *facts;
	int r = status_read(a->operand[0], &facts);

	if (r < 0) {
		complain_unreachable(a->operand[0], r);
		return EXIT_FAILED;
	}
	const json_t *o = json_object_get(facts, "archive");
	const char *state = json_string_value(json_object_get(o, "state"));
	bool well = state && (strcmp(state, "ok") == 0 || strcmp(state, "off") == 0 || strcmp(state, "first base") == 0 ||
			      strcmp(state, "following") == 0 || strcmp(state, "starting") == 0);
	if (a->json)
		json_print(o);
	else
		print_archive(o);
	json_decref(facts);
	return well ? EXIT_OK : EXIT_FAILED;
}

int verb_archive_off(const struct args *a)
{
	int r = attribute_remove(a->operand[0], "archive");

	return r < 0 ? archive_failed("the archive is not switched off", a->operand[0], r) : EXIT_OK;
}

int verb_archive_now(const struct args *a)
{
	const char *path = a->operand[0];
	int r = mount_flush(path);

	if (r == 0)
		r = attribute_set(path, "archive.now", "1");
	if (r == -ENODATA) {
		complain("no archive is set: `clawfs archive set STORE %s`", path);
		return EXIT_FAILED;
	}
	return r < 0 ? archive_failed("not archived", path, r) : EXIT_OK;
}

int verb_archive_key(const struct args *a)
{
	CLEANUP_BUF struct buf text = {0};
	int r = attribute_read(a->operand[0], "archive.key", &text);

	if (r == -ENODATA) {
		complain("no archive is set: `clawfs archive set STORE %s`", a->operand[0]);
		return EXIT_FAILED;
	}
	if (r < 0)
		return archive_failed("no key", a->operand[0], r);
	printf("%s\n", (const char *)text.p);
	OPENSSL_cleanse(text.p, text.len);
	return EXIT_OK;
}

/* ---- drill ---- */

struct drill {
	const struct args *a;
	const char *path;
	char dir[PATH_MAX]; /* where the copy is made */
	int64_t began_ns;
	uint64_t durable_seq; /* when it began */
	double rto_s, rpo_s;
	struct restore_result res;
	bool ok, compared;
	char message[320];
};

static uint64_t durable_of(const char *path, int *ret_error)
{
	json_t *facts;

	*ret_error = status_read(path, &facts);
	if (*ret_error < 0)
		return 0;
	uint64_t seq = (uint64_t)json_integer_value(json_object_get(facts, "durable_seq"));
	json_decref(facts);
	return seq;
}

/* The archive as this node may read it. */
static int open_source(struct drill *d, struct restore_source *s)
{
	CLEANUP_BUF struct buf policy = {0}, definition = {0}, key = {0};
	CLEANUP_FREE char *volume = directory_of(d->path);
	char name[64 + STORE_NAME_MAX], file[PATH_MAX];
	struct archive_policy p;
	int r = volume ? attribute_read(d->path, "archive", &policy) : -errno;

	if (r == 0)
		r = archive_policy_parse((const char *)policy.p, &p);
	if (r < 0) {
		complain("no drill: no archive is set on %s", d->path);
		return r;
	}
	snprintf(name, sizeof(name), "tier.store.%s", p.store);
	r = attribute_read(d->path, name, &definition);
	if (r == 0)
		r = attribute_read(d->path, "archive.key", &key);
	if (r < 0) {
		complain_admin("no drill", d->path, r);
		return r;
	}
	if (snprintf(file, sizeof(file), "%s/credentials/%s", volume, p.store) >= (int)sizeof(file))
		return -ENAMETOOLONG;
	r = restore_source_open((const char *)definition.p, access(file, F_OK) == 0 ? file : NULL, NULL, (const char *)key.p, s);
	OPENSSL_cleanse(key.p, key.len);
	return r;
}

/* What the volume says it was at that batch. */
static void compare(struct drill *d)
{
	CLEANUP_BUF struct buf text = {0};
	char name[48], want[64];

	snprintf(name, sizeof(name), "archive.state.%" PRIu64, d->res.seq);
	d->ok = true;
	if (attribute_read(d->path, name, &text) < 0)
		return; /* its journal has gone on: the sums in the archive, which it made, were compared anyway */
	const char *sum = strchr((const char *)text.p, ' ');
	snprintf(want, sizeof(want), "%016" PRIx64 " %016" PRIx64, d->res.hash, d->res.sum);
	bool whole = sum && sum[1] != '-' && d->res.has_sum;
	d->compared = true;
	d->ok = strncmp((const char *)text.p, want, whole ? strlen(want) : 16) == 0;
	if (!d->ok)
		snprintf(d->message, sizeof(d->message), "batch %" PRIu64 " as restored is not what the volume had", d->res.seq);
}

/* The copy of an encrypted volume is encrypted with a key that nobody keeps. */
static void hide(const struct drill *d, struct args *a)
{
	CLEANUP_FREE char *volume = directory_of(d->path);
	struct super copy[2];
	bool valid[2];
	const struct super *s = volume && volume_peek(volume, copy, valid) == 0 ? volume_newest(copy, valid) : NULL;

	if (!s || !(s->incompat & SUPER_ENCRYPTED))
		return;
	a->encrypt = "xts";
	a->key = "command:head -c 32 /dev/urandom";
}

static void measure(struct drill *d)
{
	struct args a = *d->a;
	static const struct volume_sizes sizes = {.journal_bytes = 64 * MIB, .segment_bytes = 16 * MIB, .chunk_bytes = 64 * MIB};
	const struct restore_target latest = {.by = RESTORE_LATEST};
	const struct restore_job j = {.a = &a,
				      .dir = d->dir,
				      .usual = &sizes,
				      .target = &latest,
				      .quiet = true,
				      .message = d->message,
				      .message_cap = sizeof(d->message)};
	int64_t began_ns = clock_mono_ns(&clock_system);
	struct restore_source s;
	int r = open_source(d, &s);

	if (r == 0) {
		hide(d, &a);
		r = restore_volume(&j, &s, &d->res);
		restore_source_close(&s);
	}
	d->rto_s = (double)(clock_mono_ns(&clock_system) - began_ns) / 1e9;
	if (r < 0) {
		if (!*d->message)
			snprintf(d->message, sizeof(d->message), "the archive could not be restored: %s", strerror(-r));
		return;
	}
	/* Nothing is lost that was durable when it began, or all since the newest batch that came back. */
	d->rpo_s = d->res.seq >= d->durable_seq ? 0 : (double)(d->began_ns - d->res.ns) / 1e9;
	compare(d);
}

static json_t *drill_facts(const struct drill *d)
{
	return json_pack("{s:b, s:b, s:I, s:I, s:I, s:f, s:f, s:I, s:s}", "ok", (int)d->ok, "compared", (int)d->compared,
			 "time_ns", (json_int_t)d->began_ns, "seq", (json_int_t)d->res.seq, "state_ns", (json_int_t)d->res.ns,
			 "rpo_seconds", d->rpo_s, "rto_seconds", d->rto_s, "fetched_bytes", (json_int_t)d->res.bytes, "message",
			 d->message);
}

static int choose_dir(struct drill *d)
{
	CLEANUP_FREE char *volume = d->a->aside ? NULL : directory_of(d->path);
	const char *dir = d->a->aside ? d->a->aside : volume;

	if (!dir) {
		complain_unreachable(d->path, -errno);
		return -ENODATA;
	}
	int n = snprintf(d->dir, sizeof(d->dir), "%s%s", dir, d->a->aside ? "" : ".drill");
	return n < (int)sizeof(d->dir) ? 0 : -ENAMETOOLONG;
}

int verb_drill(const struct args *a)
{
	struct drill d = {.a = a, .path = a->operand[0], .began_ns = clock_real_ns(&clock_system)};
	int r;

	d.durable_seq = durable_of(d.path, &r);
	if (r < 0) {
		complain_unreachable(d.path, r);
		return EXIT_FAILED;
	}
	if (choose_dir(&d) < 0)
		return EXIT_FAILED;
	measure(&d);
	json_t *facts = drill_facts(&d);
	CLEANUP_FREE char *text = json_dumps(facts, JSON_COMPACT);
	r = text ? attribute_set(d.path, "archive.drill", text) : -ENOMEM;
	if (r < 0)
		complain_admin("what the drill found could not be recorded", d.path, r);
	if (a->json)
		json_print(facts);
	else
		facts_print(facts);
	json_decref(facts);
	return d.ok && r == 0 ? EXIT_OK : EXIT_FAILED;
}
