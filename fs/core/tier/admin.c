/*
 * admin.c: adding, testing and removing stores, and collecting what nobody needs in them.
 *
 * A store is added in the order that leaves nothing half done: it is opened and asked, bound to this volume, the volume has a
 * key, and only then is it a policy that every node sees.  It is removed when no object of it has a row any more. Runs in the
 * thread of jobs.c; what an admin should read goes to `out`, what a program should know is the result.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/archive/archiving.h"
#include "fs/core/tier/tier.h"
#include "tier/probe.h"

#define POLICY_PREFIX "tier.store."
#define PROBE_NS      (120 * NSEC_PER_SEC)

/* The first word of "NAME REST"; *rest points at the rest, "" without. */
static int split(const char *arg, char name[STORE_NAME_MAX + 1], const char **rest)
{
	size_t n = strcspn(arg, " ");

	if (n == 0 || n > STORE_NAME_MAX)
		return -EINVAL;
	memcpy(name, arg, n);
	name[n] = '\0';
	*rest = arg[n] ? arg + n + 1 : arg + n;
	return store_name_valid(name) ? 0 : -EINVAL;
}

struct id_search {
	const char *name;
	uint32_t highest, same;
};

static int look_at_id(void *ctx, const struct tier_store *s)
{
	struct id_search *search = ctx;

	if (s->d.id > search->highest)
		search->highest = s->d.id;
	if (strcmp(s->name, search->name) == 0)
		search->same = s->d.id;
	return 0;
}

/* A store keeps its id for as long as it has its name; rows of objects tell stores apart by it. */
static int choose_id(struct fs *fs, const char *name, uint32_t *ret_id)
{
	struct id_search search = {.name = name};
	int r = stores_each(fs, look_at_id, &search);

	if (r < 0)
		return r;
	if (!search.same && search.highest == UINT32_MAX)
		return -ENOSPC;
	*ret_id = search.same ? search.same : search.highest + 1;
	return 0;
}

/* Opened past the guard: an admin wants to see the first error, not the end of six tries. */
static int open_raw(struct fs *fs, const char *name, const struct store_definition *d, struct object_store **ret, struct buf *out)
{
	char message[OBJECT_MESSAGE_MAX] = "";

	if (!fs->config.object_store_open)
		return -EOPNOTSUPP;
	int r = fs->config.object_store_open(fs->config.object_store_ctx, name, d, ret, message);
	if (r < 0)
		buf_printf(out, "store %s: %s\n", name, *message ? message : strerror(-r));
	return r;
}

static int bind_store(struct fs *fs, const char *name, const struct store_definition *d, struct buf *out)
{
	char message[OBJECT_MESSAGE_MAX] = "";
	struct object_store *store;
	int r = open_raw(fs, name, d, &store, out);

	if (r < 0)
		return r;
	r = stores_bind(fs, store, message);
	if (r < 0)
		buf_printf(out, "store %s: %s\n", name, *message ? message : strerror(-r));
	object_store_close(store);
	return r;
}

static int set_definition(struct fs *fs, const struct fs_cred *cred, const char *name, const char *text)
{
	char key[sizeof(POLICY_PREFIX) + STORE_NAME_MAX] = POLICY_PREFIX;

	strcat(key, name);
	int r = fs_set_policy(fs, cred, FS_ROOT_INO, key, text);
	if (r == 0)
		stores_changed(fs);
	return r;
}

static int add(struct fs *fs, const struct fs_cred *cred, const char *arg, struct buf *out)
{
	char name[STORE_NAME_MAX + 1], message[OBJECT_MESSAGE_MAX] = "", canonical[STORE_TEXT_MAX];
	struct store_definition d;
	const char *text;
	int r = split(arg, name, &text);

	if (r < 0) {
		buf_printf(out, "the name of a store is up to %u of a-z, 0-9, _ and -, beginning with a letter or digit\n",
			   STORE_NAME_MAX);
		return r;
	}
	r = store_definition_parse(text, &d, message);
	if (r < 0) {
		buf_printf(out, "store %s: %s\n", name, message);
		return r;
	}
	if (fs_role(fs) != ROLE_LEADER)
		return -EROFS;
	r = choose_id(fs, name, &d.id);
	if (r == 0)
		r = store_definition_print(&d, canonical, sizeof(canonical));
	if (r == 0)
		r = bind_store(fs, name, &d, out);
	if (r == 0 && d.encrypt)
		r = stores_make_key(fs);
	if (r == 0)
		r = set_definition(fs, cred, name, canonical);
	if (r == 0)
		buf_printf(out, "%s: %s\n", name, canonical);
	return r;
}

static int remove_store(struct fs *fs, const struct fs_cred *cred, const char *arg, struct buf *out)
{
	char name[STORE_NAME_MAX + 1];
	const struct tier_store *s;
	struct objects_sum sum;
	const char *rest;
	int r = split(arg, name, &rest);

	if (r == 0 && fs_role(fs) != ROLE_LEADER)
		r = -EROFS;
	if (r == 0)
		r = stores_get_by_name(fs, name, &s);
	if (r < 0)
		return r;
	uint32_t id = s->d.id;
	stores_put(fs, s);
	if (archive_uses_store(fs, name)) {
		buf_printf(out, "store %s: the archive is there: `clawfs archive off` first\n", name);
		return -EBUSY;
	}
	r = objects_sum(fs, id, &sum);
	if (r < 0)
		return r;
	if (sum.n_live > 0) {
		buf_printf(out, "store %s: %llu objects hold %llu MiB of files: rewrite or delete those files first\n", name,
			   (unsigned long long)(sum.n_objects - sum.n_dead), (unsigned long long)(sum.n_live * BLOCK_SIZE / MIB));
		return -EBUSY;
	}
	if (sum.n_objects > 0) {
		buf_printf(out, "store %s: %llu objects are no longer needed and wait for the end of their grace time\n", name,
			   (unsigned long long)sum.n_objects);
		return -EBUSY;
	}
	return set_definition(fs, cred, name, NULL);
}

static void print_step(const struct probe_step *p, struct buf *out)
{
	buf_printf(out, "%-8s %-28s %8.1f ms%s%s\n",
		   p->ok       ? "ok"
		   : p->needed ? "FAILED"
			       : "missing",
		   p->what, (double)p->microseconds / 1e3, *p->message ? "  " : "", p->message);
}

static int test(struct fs *fs, const char *arg, struct buf *out)
{
	char name[STORE_NAME_MAX + 1];
	struct object_store *store;
	const struct tier_store *s;
	struct probe_report report;
	const char *rest;
	int r = split(arg, name, &rest);

	if (r == 0)
		r = stores_get_by_name(fs, name, &s);
	if (r < 0)
		return r;
	const struct store_definition d = s->d;
	stores_put(fs, s);
	r = open_raw(fs, name, &d, &store, out);
	if (r < 0)
		return r;
	r = probe_store(store, fs->clock, clock_mono_ns(fs->clock) + PROBE_NS, &report);
	object_store_close(store);
	for (unsigned i = 0; i < report.n_steps; i++)
		print_step(&report.step[i], out);
	return r;
}

static void gc_line(void *ctx, const char *line)
{
	buf_printf(ctx, "%s\n", line);
}

static int gc(struct fs *fs, const char *arg, struct buf *out)
{
	char name[STORE_NAME_MAX + 1];
	struct gc_result result = {0};
	const char *rest;
	int r = split(arg, name, &rest);

	if (r < 0 || (*rest && strcmp(rest, "dry") != 0))
		return -EINVAL;
	r = gc_run(fs, name, *rest != '\0', gc_line, out, &result);
	buf_printf(out, "store %s: %llu objects listed, %llu orphans (%llu bytes), %llu removed, %llu missing\n", name,
		   (unsigned long long)result.listed, (unsigned long long)result.orphans, (unsigned long long)result.orphan_bytes,
		   (unsigned long long)result.removed, (unsigned long long)result.missing);
	return r;
}

int admin_run(struct fs *fs, const struct fs_cred *cred, enum tier_job_kind kind, const char *arg, struct buf *out)
{
	int r;

	switch (kind) {
	case TIER_JOB_ADD:
		r = add(fs, cred, arg, out);
		break;
	case TIER_JOB_REMOVE:
		r = remove_store(fs, cred, arg, out);
		break;
	case TIER_JOB_TEST:
		r = test(fs, arg, out);
		break;
	case TIER_JOB_GC:
		r = gc(fs, arg, out);
		break;
	case TIER_JOB_ARCHIVE:
		r = fs_archive_set(fs, cred, arg);
		break;
	default:
		return -EINVAL;
	}
	if (r < 0 && out->len == 0)
		buf_printf(out, "%s\n", strerror(-r));
	return r;
}

/* ---- questions with short answers ---- */

int tier_job_kind_parse(const char *word, enum tier_job_kind *ret)
{
	static const char *const names[TIER_JOB_KINDS] = {"add", "remove", "test", "gc", "archive"};

	for (unsigned i = 0; i < TIER_JOB_KINDS; i++)
		if (strcmp(word, names[i]) == 0) {
			*ret = (enum tier_job_kind)i;
			return 0;
		}
	return -EINVAL;
}

int fs_tier_store_text(struct fs *fs, const char *name, struct buf *out)
{
	char text[STORE_TEXT_MAX];
	const struct tier_store *s;
	int r = stores_get_by_name(fs, name, &s);

	if (r < 0)
		return -ENODATA;
	r = store_definition_print(&s->d, text, sizeof(text));
	stores_put(fs, s);
	if (r == 0)
		buf_put(out, text, strlen(text));
	return r;
}

int fs_tier_state_text(struct fs *fs, uint64_t ino, struct buf *out)
{
	struct tier_policy policy;
	struct tier_file file;
	int r = tier_file_state(fs, ino, &file);

	if (r == 0)
		r = tier_policy_get(fs, ino, &policy);
	if (r < 0)
		return r == -EINVAL ? -ENODATA : r;
	const char *state = "hot";
	if (recall_is_active(fs, ino))
		state = "recalling";
	else if (file.cold_blocks > 0)
		state = file.cold_blocks == file.data_blocks ? "cold" : "mixed";
	else if (policy.pinned)
		state = "pinned";
	buf_printf(out, "%s", state);
	return 0;
}

int fs_tier_usage_text(struct fs *fs, uint64_t ino, struct buf *out)
{
	struct tier_file file;
	int r = tier_file_state(fs, ino, &file);

	if (r < 0)
		return r == -EINVAL ? -ENODATA : r;
	buf_printf(out, "data=%llu tiered=%llu cold=%llu", (unsigned long long)(file.data_blocks * BLOCK_SIZE),
		   (unsigned long long)(file.tiered_blocks * BLOCK_SIZE), (unsigned long long)(file.cold_blocks * BLOCK_SIZE));
	return 0;
}

int fs_tier_evict(struct fs *fs, uint64_t ino)
{
	return ageing_evict(fs, ino);
}

void fs_tier_flush(struct fs *fs, struct journal_waiter *w)
{
	ageing_flush_async(fs, w);
}

void fs_tier_scan(struct fs *fs)
{
	ageing_scan_now(fs);
}
