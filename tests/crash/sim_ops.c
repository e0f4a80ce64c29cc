/*
 * sim_ops.c: random operations on the volume and the model.
 *
 * Every operation does the same three things: choose arguments that make sense now (and sometimes ones that do not), call the
 * volume, and apply to the model what the answer says.  Where the model says that an operation must fail, the volume must
 * give the same errno; where it may fail for want of space, nothing may have changed.
 */
#include <errno.h>
#include <jansson.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "fs/core/share/share.h"
#include "fs/core/tier/tier.h"
#include "tests/crash/sim_run.h"
#include "tests/lib/cold.h"
#include "tests/lib/cow.h"

#define FILE_MAX (1200 * KIB)

/* ---- operations ---- */

/* One operation as it is being done. */
struct op {
	struct sim_run *run;
	struct rng *rng;
	struct fs_cred cred;
	char what[120];
	size_t covers; /* as in struct sim_step */
	bool in_sync;  /* while a batch is being written: nothing may wait for it */
};

static void say(struct op *op, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void say(struct op *op, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(op->what, sizeof(op->what), fmt, ap);
	va_end(ap);
}

/* Errors that need not be the model's: no room, and what injected faults cause. */
static bool may_fail(const struct op *op, int got)
{
	if (got == -ENOSPC && op->run->profile == SIM_FULL)
		return true;
	return got && op->run->expect_errors;
}

/* True when the volume's answer is one the model allows. */
static bool agree(struct op *op, int got, int want)
{
	return got == want || may_fail(op, got) ||
	       sim_fail(op->run, "%s: the volume says %s, the model %s", op->what, strerror(-got), strerror(-want));
}

/* After -EINPROGRESS, which says that nothing was done: what it needs is fetched, as the kernel's request would wait for. */
static bool again(struct op *op, int *r)
{
	if (*r != -EINPROGRESS)
		return false;
	*r = cold_recall(op->run->cold, op->run->fs);
	return *r == 0;
}

static bool is_held(const struct sim_run *run, uint64_t ino)
{
	for (size_t i = 0; i < run->n_held; i++)
		if (run->held[i] == ino)
			return true;
	return false;
}

/* After a call that counted a reference: an application keeps the inode open, or lets it go. */
static void keep_or_forget(struct op *op, uint64_t ino, unsigned percent)
{
	struct sim_run *run = op->run;

	if (!is_held(run, ino) && rng_percent(op->rng, percent)) {
		run->held = test_grow(run->held, run->n_held, &run->held_cap, sizeof(*run->held));
		run->held[run->n_held++] = ino;
	} else {
		fs_forget(run->fs, ino, 1);
	}
}

/* An inode that lost a name is gone when that was the last one and nobody has it open. */
static void lost_name(struct op *op, uint64_t ino)
{
	const struct model_inode *i = ino ? model_get(op->run->model, ino) : NULL;

	if (i && i->nlink == 0 && !is_held(op->run, ino))
		model_forget(op->run->model, ino);
}

static void random_name(struct op *op, char *name)
{
	if (rng_percent(op->rng, 4)) {
		memset(name, 'n', 255);
		name[255] = 0;
		name[rng_below(op->rng, 250)] = (char)('a' + rng_below(op->rng, 26));
	} else {
		snprintf(name, 256, "f%u", (unsigned)rng_below(op->rng, 40));
	}
}

static uint64_t random_dir(struct op *op)
{
	return rng_percent(op->rng, 40) ? FS_ROOT_INO : model_pick(op->run->model, op->rng, S_IFDIR, false);
}

/* Any file with data, now and then one that has no name any more. */
static uint64_t random_file(struct op *op)
{
	uint64_t ino = rng_percent(op->rng, 15) ? model_pick(op->run->model, op->rng, S_IFREG, true) : 0;

	return ino ? ino : model_pick(op->run->model, op->rng, S_IFREG, false);
}

static bool do_mknod(struct op *op, uint32_t type)
{
	static const uint32_t others[] = {S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK};
	uint64_t dir = random_dir(op), rdev = 0;
	struct fs_attr a;
	char name[256];

	if (!type)
		type = others[rng_below(op->rng, ARRAY_SIZE(others))];
	if (type == S_IFCHR || type == S_IFBLK)
		rdev = makedev(rng_between(op->rng, 1, 200), rng_below(op->rng, 200));
	uint32_t mode = type | (uint32_t)rng_below(op->rng, 01000) | (type == S_IFDIR && rng_percent(op->rng, 20) ? S_ISGID : 0);
	random_name(op, name);
	say(op, "mknod %o %llu/%.60s", mode, (unsigned long long)dir, name);
	int want = model_mknod(op->run->model, dir, name, mode, 0, 0, 0, NULL, 0);
	int r = fs_mknod(op->run->fs, &op->cred, dir, name, mode, rdev, &a);
	if (r || want)
		return agree(op, r, want);
	model_mknod(op->run->model, dir, name, mode & ~op->cred.umask, op->cred.uid, op->cred.gid, rdev, NULL, a.ino);
	keep_or_forget(op, a.ino, 30);
	return true;
}

static bool do_symlink(struct op *op)
{
	uint64_t dir = random_dir(op);
	struct fs_attr a;
	char name[256], target[4096];
	size_t len = rng_percent(op->rng, 10) ? 4095 : rng_between(op->rng, 1, 100);

	memset(target, 't', len);
	target[len] = 0;
	target[rng_below(op->rng, len)] = (char)('a' + rng_below(op->rng, 26));
	random_name(op, name);
	say(op, "symlink %llu/%.60s", (unsigned long long)dir, name);
	int want = model_mknod(op->run->model, dir, name, S_IFLNK | 0777, 0, 0, 0, target, 0);
	int r = fs_symlink(op->run->fs, &op->cred, dir, name, target, &a);
	if (r || want)
		return agree(op, r, want);
	model_mknod(op->run->model, dir, name, S_IFLNK | 0777, op->cred.uid, op->cred.gid, 0, target, a.ino);
	keep_or_forget(op, a.ino, 10);
	return true;
}

static bool do_link(struct op *op)
{
	uint64_t ino = rng_percent(op->rng, 95) ? model_pick(op->run->model, op->rng, S_IFREG, false)
						: model_pick(op->run->model, op->rng, 0, false);
	uint64_t dir = random_dir(op);
	struct fs_attr a;
	char name[256];

	if (!ino)
		return true;
	random_name(op, name);
	say(op, "link %llu %llu/%.60s", (unsigned long long)ino, (unsigned long long)dir, name);
	int r = fs_link(op->run->fs, &op->cred, ino, dir, name, &a);
	if (may_fail(op, r))
		return true;
	if (!agree(op, r, model_link(op->run->model, ino, dir, name)))
		return false;
	if (r == 0)
		keep_or_forget(op, ino, 10);
	return true;
}

static bool do_remove(struct op *op)
{
	struct model *m = op->run->model;
	uint64_t dir;
	const char *found;
	char name[256];

	if (!model_pick_name(m, op->rng, &dir, &found))
		return true;
	snprintf(name, sizeof(name), "%s", found);
	uint64_t ino = model_lookup(m, dir, name);
	bool as_dir = S_ISDIR(model_get(m, ino)->mode) != rng_percent(op->rng, 3);
	say(op, "%s %llu/%.60s (%llu)", as_dir ? "rmdir" : "unlink", (unsigned long long)dir, name, (unsigned long long)ino);
	int r = as_dir ? fs_rmdir(op->run->fs, &op->cred, dir, name) : fs_unlink(op->run->fs, &op->cred, dir, name);
	if (op->run->expect_errors && r)
		return true;
	int want = as_dir ? model_rmdir(m, dir, name) : model_unlink(m, dir, name);
	if (r != want) /* a name goes even when there is no space at all */
		return sim_fail(op->run, "%s: the volume says %s, the model %s", op->what, strerror(-r), strerror(-want));
	lost_name(op, ino);
	return true;
}

/* The device that RENAME_WHITEOUT leaves: the volume says which inode it is. */
static bool add_whiteout(struct op *op, uint64_t dir, const char *name)
{
	struct fs_attr a;
	int r = fs_lookup(op->run->fs, dir, name, &a);

	if (r)
		return sim_fail(op->run, "%s: the whiteout: %s", op->what, strerror(-r));
	fs_forget(op->run->fs, a.ino, 1);
	if (!S_ISCHR(a.mode) || a.rdev != 0)
		return sim_fail(op->run, "%s: the whiteout has mode %o and device %llu", op->what, a.mode,
				(unsigned long long)a.rdev);
	const struct record_attr owner = {.mask = ATTR_GID, .gid = a.gid}; /* whether or not the directory hands its group down */
	model_mknod(op->run->model, dir, name, a.mode, a.uid, a.gid, 0, NULL, a.ino);
	return model_setattr(op->run->model, a.ino, &owner) == 0;
}

static bool do_rename(struct op *op)
{
	static const unsigned all_flags[] = {0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE, RENAME_WHITEOUT};
	struct model *m = op->run->model;
	unsigned flags = all_flags[rng_below(op->rng, ARRAY_SIZE(all_flags))];
	uint64_t dir, new_dir = random_dir(op);
	const char *found;
	char name[256], new_name[256];

	if (!model_pick_name(m, op->rng, &dir, &found))
		return true;
	snprintf(name, sizeof(name), "%s", found);
	random_name(op, new_name);
	if (rng_percent(op->rng, 50) && model_pick_name(m, op->rng, &new_dir, &found))
		snprintf(new_name, sizeof(new_name), "%s", found);
	uint64_t ino = model_lookup(m, dir, name), target = model_lookup(m, new_dir, new_name);
	if (model_is_above(m, ino, new_dir) || (target && model_is_above(m, target, dir)))
		return true; /* a directory below itself: the kernel does not pass that on */
	say(op, "rename flags %u %llu/%.40s (%llu) to %llu/%.40s (%llu)", flags, (unsigned long long)dir, name,
	    (unsigned long long)ino, (unsigned long long)new_dir, new_name, (unsigned long long)target);
	int r = fs_rename(op->run->fs, &op->cred, dir, name, new_dir, new_name, flags);
	if (may_fail(op, r))
		return true;
	if (!agree(op, r, model_rename(m, dir, name, new_dir, new_name, flags)))
		return false;
	lost_name(op, target);
	return r || !(flags & RENAME_WHITEOUT) || ino == target || add_whiteout(op, dir, name);
}

static bool do_setattr(struct op *op)
{
	uint64_t ino = rng_percent(op->rng, 50) ? random_file(op) : model_pick(op->run->model, op->rng, 0, false);
	struct record_attr a = {.mask = (uint32_t)rng_between(op->rng, 1, 7),
				.mode = (uint32_t)rng_below(op->rng, 01000),
				.uid = (uint32_t)rng_below(op->rng, 5),
				.gid = (uint32_t)rng_below(op->rng, 5)};
	struct fs_attr got;

	if (!ino)
		return true;
	if (rng_percent(op->rng, 30)) {
		a.mask |= ATTR_ATIME | ATTR_MTIME;
		a.atime_ns = a.mtime_ns = op->run->clock->now_ns;
	}
	say(op, "setattr %llu mask %u", (unsigned long long)ino, a.mask);
	int r = fs_setattr(op->run->fs, &op->cred, ino, &a, &got);
	return may_fail(op, r) || agree(op, r, model_setattr(op->run->model, ino, &a));
}

static bool do_truncate(struct op *op)
{
	uint64_t ino = random_file(op);
	struct record_attr a = {.mask = ATTR_SIZE};
	struct fs_attr got;

	if (!ino)
		return true;
	uint64_t size = model_get(op->run->model, ino)->size;
	a.size = rng_percent(op->rng, 30)   ? 0
		 : rng_percent(op->rng, 60) ? rng_below(op->rng, size + 1)
					    : size + rng_below(op->rng, 100000);
	if (rng_percent(op->rng, 30))
		a.size = a.size / 4096 * 4096;
	a.size = min_u64(a.size, FILE_MAX);
	say(op, "truncate %llu from %llu to %llu", (unsigned long long)ino, (unsigned long long)size, (unsigned long long)a.size);
	int r;
	do
		r = fs_setattr(op->run->fs, &op->cred, ino, &a, &got);
	while (again(op, &r));
	return may_fail(op, r) || agree(op, r, model_setattr(op->run->model, ino, &a));
}

static size_t random_len(struct op *op)
{
	unsigned kind = (unsigned)rng_below(op->rng, 100);

	if (op->run->profile == SIM_RING && kind < 80)
		return rng_percent(op->rng, 50) ? 64 * KIB : rng_between(op->rng, 20000, 65536);
	if (op->run->profile == SIM_TREE)
		return rng_between(op->rng, 1, 5000);
	if (kind < 25)
		return rng_between(op->rng, 1, 300);
	if (kind < 45)
		return 4096 * rng_between(op->rng, 1, 8);
	if (kind < 70)
		return rng_between(op->rng, 1, 65536);
	if (kind < 85)
		return 4096 * rng_between(op->rng, 17, 75);
	return rng_between(op->rng, 65537, 300 * KIB);
}

/* Somewhere in the file, at its end, or a bit behind it; aligned in half of the cases. */
static uint64_t random_off(struct op *op, uint64_t size, size_t len)
{
	uint64_t off = rng_percent(op->rng, 25) ? size : rng_below(op->rng, size + (rng_percent(op->rng, 20) ? 100000 : 1));

	if (rng_percent(op->rng, 50))
		off = off / 4096 * 4096;
	return off + len > FILE_MAX ? rng_below(op->rng, FILE_MAX - len) : off;
}

/* Noise; or, in half of the cases, what packs to a third. */
static void random_bytes(struct op *op, uint8_t *p, size_t len)
{
	bool noise = rng_percent(op->rng, 50);

	for (size_t i = 0; i < len; i += 8) {
		uint64_t x = noise || i % 32 == 0 ? rng_u64(op->rng) : 0x6d6173206568;

		memcpy(p + i, &x, min_u64(8, len - i));
	}
}

static bool do_write(struct op *op)
{
	uint64_t ino = random_file(op);
	size_t len = random_len(op), shift = rng_percent(op->rng, 60) ? 0 : 1 + rng_below(op->rng, 4095);

	if (!ino)
		return true;
	uint64_t off = random_off(op, model_get(op->run->model, ino)->size, len);
	uint8_t *p = op->run->bytes + shift;
	if (rng_percent(op->rng, 5))
		memset(p, 0, len);
	else
		random_bytes(op, p, len);
	bool kernel_times = rng_percent(op->rng, 20);
	say(op, "write %llu off %llu len %zu", (unsigned long long)ino, (unsigned long long)off, len);
	int r;
	do
		r = fs_write(op->run->fs, &op->cred, ino, off, len, p, kernel_times);
	while (again(op, &r));
	op->run->since_home += len;
	return may_fail(op, r) || agree(op, r, model_write(op->run->model, ino, off, p, len, kernel_times));
}

static bool do_fallocate(struct op *op)
{
	static const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
				    FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
	int mode = modes[rng_below(op->rng, ARRAY_SIZE(modes))];
	uint64_t ino = random_file(op);
	size_t len = random_len(op);

	if (!ino)
		return true;
	uint64_t off = random_off(op, model_get(op->run->model, ino)->size, len);
	say(op, "fallocate %llu mode %d off %llu len %zu", (unsigned long long)ino, mode, (unsigned long long)off, len);
	int r;
	do
		r = fs_fallocate(op->run->fs, &op->cred, ino, mode, off, len);
	while (again(op, &r));
	return may_fail(op, r) || agree(op, r, model_fallocate(op->run->model, ino, mode, off, len));
}

#define CLONE_UNHOMED 15u /* blocks: so many are cloned without bringing them home first, which waits for a commit */

/* One call of copy_file_range: of a piece anywhere, or (clone) of blocks that can be shared, up to all of a file. */
static bool do_copy(struct op *op, bool clone)
{
	struct model *m = op->run->model;
	uint64_t from = random_file(op), to = random_file(op);
	size_t len = random_len(op), n = 0;

	if (!from || !to)
		return true;
	uint64_t size = model_get(m, from)->size, from_off = rng_below(op->rng, size + 1);
	if (clone) {
		from_off = rng_percent(op->rng, 50) ? 0 : from_off / 4096 * 4096;
		len = rng_percent(op->rng, 60) ? size - from_off : len / 4096 * 4096 + 4096;
	}
	if (op->in_sync)
		len = min_u64(len, (uint64_t)CLONE_UNHOMED * 4096);
	len = min_u64(len, FILE_MAX - 4096);
	uint64_t to_off = clone && rng_percent(op->rng, 50) ? from_off : random_off(op, model_get(m, to)->size, len);
	if (clone)
		to_off = to_off / 4096 * 4096;
	if (from == to && from_off < to_off + len && to_off < from_off + len)
		return true;
	say(op, "copy %llu off %llu to %llu off %llu len %zu", (unsigned long long)from, (unsigned long long)from_off,
	    (unsigned long long)to, (unsigned long long)to_off, len);
	int r;
	do
		r = fs_copy_range(op->run->fs, &op->cred, from, from_off, to, to_off, len, &n);
	while (again(op, &r));
	op->run->since_home += len;
	if (r)
		return may_fail(op, r) || agree(op, r, 0);
	if (n == 0 && (from_off == size || len == 0))
		return true;
	if (n > min_u64(len, size - from_off) || (n == 0 && from_off < size))
		return sim_fail(op->run, "%s: copied %zu bytes", op->what, n);
	CLEANUP_FREE uint8_t *copy = test_alloc(n);
	memcpy(copy, model_bytes(m, from) + from_off, n);
	return agree(op, 0, model_write(m, to, to_off, copy, n, false));
}

static bool do_setxattr(struct op *op)
{
	uint64_t ino = model_pick(op->run->model, op->rng, rng_percent(op->rng, 70) ? S_IFREG : 0, false);
	size_t len = rng_percent(op->rng, 10) ? rng_below(op->rng, 65537) : rng_below(op->rng, 200);
	int flags = rng_percent(op->rng, 70) ? 0 : rng_percent(op->rng, 50) ? XATTR_CREATE : XATTR_REPLACE;
	char name[32];

	if (!ino)
		return true;
	snprintf(name, sizeof(name), "user.x%u", (unsigned)rng_below(op->rng, 6));
	memset(op->run->bytes, (int)rng_below(op->rng, 256), len + 1);
	say(op, "setxattr %llu %s len %zu flags %d", (unsigned long long)ino, name, len, flags);
	int r = fs_setxattr(op->run->fs, &op->cred, ino, name, op->run->bytes, len, flags);
	op->run->since_home += len;
	return may_fail(op, r) || agree(op, r, model_setxattr(op->run->model, ino, name, op->run->bytes, len, flags));
}

static bool do_removexattr(struct op *op)
{
	uint64_t ino = model_pick(op->run->model, op->rng, 0, false);
	const char *found = ino ? model_pick_xattr(op->run->model, op->rng, ino) : NULL;
	char name[256];

	if (!ino)
		return true;
	snprintf(name, sizeof(name), "%s", found ? found : "user.none");
	say(op, "removexattr %llu %s", (unsigned long long)ino, name);
	int r = fs_removexattr(op->run->fs, &op->cred, ino, name);
	return may_fail(op, r) || agree(op, r, model_removexattr(op->run->model, ino, name));
}

static bool do_open(struct op *op)
{
	uint64_t dir;
	const char *found;
	char name[256];
	struct fs_attr a;

	if (!model_pick_name(op->run->model, op->rng, &dir, &found))
		return true;
	snprintf(name, sizeof(name), "%s", found);
	say(op, "open %llu/%.60s", (unsigned long long)dir, name);
	int r = fs_lookup(op->run->fs, dir, name, &a);
	if (r == 0)
		keep_or_forget(op, a.ino, 100);
	return agree(op, r, 0);
}

/* The last user closes a file, which goes when it has no name any more. */
static bool do_forget(struct op *op)
{
	struct sim_run *run = op->run;

	if (!run->n_held)
		return true;
	size_t i = rng_below(op->rng, run->n_held);
	uint64_t ino = run->held[i];
	run->held[i] = run->held[--run->n_held];
	say(op, "forget %llu", (unsigned long long)ino);
	fs_forget(run->fs, ino, 1);
	model_forget(run->model, ino);
	return true;
}

static bool do_sync(struct op *op)
{
	size_t n = op->run->history.n; /* what is asked to be durable: not what happens while it is being made so */

	op->run->in_sync = true;
	int r = fs_sync(op->run->fs);
	op->run->in_sync = false;
	say(op, "sync of %zu", n);
	op->covers = r == 0 ? n : 0;
	return agree(op, r, 0);
}

static bool do_home(struct op *op, bool all)
{
	bool more = true;
	int r = 0;

	say(op, all ? "home all" : "home");
	for (unsigned i = 0; r == 0 && more && (all || i == 0) && i < 100000; i++)
		r = fs_home_step(op->run->fs, (uint32_t)rng_between(op->rng, 1, all ? 512 : 64), &more);
	return agree(op, r, 0);
}

static bool do_checkpoint(struct op *op)
{
	say(op, "checkpoint");
	return agree(op, fs_checkpoint(op->run->fs), 0);
}

static bool do_reap(struct op *op)
{
	bool more = true;
	int r = 0;

	say(op, "reap");
	for (unsigned i = 0; r == 0 && more && i < 100000; i++)
		r = fs_reap_step(op->run->fs, &more);
	return agree(op, r, 0);
}

static int find_dead(void *ctx, const struct object_row *o)
{
	struct object_row *dead = ctx;

	*dead = *o;
	if (o->n_live == 0)
		return 1; /* a snapshot may need it all the same */
	dead->object = 0;
	return 0;
}

/* A file goes out, whole or in part; then its homes go, or stay. */
static bool do_tier(struct op *op)
{
	struct sim_run *run = op->run;
	uint64_t ino = random_file(op);
	struct cold_pack p;
	size_t placed = 0;

	if (!ino)
		return true;
	bool evict = rng_percent(op->rng, 60);
	say(op, "tier %llu%s", (unsigned long long)ino, evict ? " and evict" : "");
	int r = cold_pack(run->cold, run->fs, ino, op->rng, &p);
	if (r == 0)
		r = cold_place(run->fs, ino, &p, &placed);
	if (r == -ESTALE && model_get(run->model, ino)->nlink == 0) /* it goes soon, and is not worth it */
		return true;
	if (r == 0 && evict)
		r = cold_evict(run->fs, ino);
	return agree(op, r, 0);
}

static bool do_evict(struct op *op)
{
	uint64_t ino = random_file(op);

	if (!ino)
		return true;
	say(op, "evict %llu", (unsigned long long)ino);
	return agree(op, cold_evict(op->run->fs, ino), 0);
}

static bool do_keep(struct op *op)
{
	uint64_t ino = random_file(op);

	if (!ino)
		return true;
	say(op, "keep %llu", (unsigned long long)ino);
	return agree(op, cold_keep(op->run->cold, op->run->fs, ino), 0);
}

/* An object of which nothing is live any more is forgotten. */
static bool do_forget_object(struct op *op)
{
	struct object_row dead = {0};
	int r = objects_each(op->run->fs, rng_percent(op->rng, 50) ? 0 : rng_u64(op->rng), find_dead, &dead);

	if (r < 0 || !dead.object)
		return r == 0 || agree(op, r, 0);
	say(op, "forget object %llx", (unsigned long long)dead.object);
	return agree(op, tier_forget(op->run->fs, dead.object), objects_needed(op->run->fs, &dead) ? -EBUSY : 0);
}

/* Now and then another word for the whole volume; then what waits is packed, and now and then a whole file again. */
static bool do_squeeze(struct op *op)
{
	static const char *const words[] = {"lz4", "zstd", "lz4", "zstd:1", "off"};
	struct fs *fs = op->run->fs;
	uint64_t ino = random_file(op);
	bool more = true;
	int r = 0;

	if (op->run->seed % 2) /* the others share blocks, which is not done once anything was packed */
		return true;
	say(op, "squeeze");
	if (!fs_has_policies(fs) || rng_percent(op->rng, 10)) {
		const char *word = words[rng_below(op->rng, ARRAY_SIZE(words))];

		say(op, "squeeze by %s", word);
		r = fs_set_policy(fs, &op->cred, FS_ROOT_INO, "compression", word);
		if (r)
			return agree(op, r, 0);
	}
	if (ino && rng_percent(op->rng, 40))
		r = fs_compress(fs, ino);
	while (r == 0 && more)
		r = fs_squeeze_step(fs, &more);
	return agree(op, r, 0);
}

#define SNAPS_MOST 4u

static void random_snap(struct op *op, char *name, size_t cap)
{
	snprintf(name, cap, "s%u", (unsigned)rng_below(op->rng, 6));
}

/* After a failure that may have come when the record was applied: what the volume says. */
static bool is_listed(struct op *op, const char *name)
{
	uint64_t root;

	return fs_snap_root(op->run->fs, name, &root) == 0;
}

static bool do_snap_drop(struct op *op)
{
	struct model *m = op->run->model;
	char name[32];

	random_snap(op, name, sizeof(name));
	if (model_snaps(m) && rng_percent(op->rng, 90))
		snprintf(name, sizeof(name), "%s", model_snap_name(m, rng_below(op->rng, model_snaps(m))));
	say(op, "delete snapshot %s", name);
	size_t n = op->run->history.n;
	int r = fs_snap_delete(op->run->fs, &op->cred, name);
	op->covers = r == 0 ? n + 1 : 0;
	if (may_fail(op, r) && is_listed(op, name))
		return true;
	if (may_fail(op, r))
		return model_snap_drop(m, name), true;
	return agree(op, r, model_snap_drop(m, name));
}

/* As when it returns: made, and durable. */
static bool do_snap(struct op *op)
{
	struct model *m = op->run->model;
	char name[32];

	if (model_snaps(m) >= SNAPS_MOST)
		return do_snap_drop(op);
	random_snap(op, name, sizeof(name));
	say(op, "make snapshot %s", name);
	size_t n = op->run->history.n;
	int r = fs_snap_create(op->run->fs, &op->cred, name);
	op->covers = r == 0 ? n + 1 : 0;
	if (may_fail(op, r) && !is_listed(op, name))
		return true;
	if (may_fail(op, r))
		return model_snap(m, name), true;
	if (r == 0 && !is_listed(op, name))
		return sim_fail(op->run, "snapshot %s was made, and is not held where it was", name);
	return agree(op, r, model_snap(m, name));
}

/* Nobody has open any more what is not there, and what has no name goes unless somebody has. */
static void reopen(struct op *op)
{
	struct sim_run *run = op->run;
	uint64_t ino;

	for (size_t i = run->n_held; i-- > 0;) {
		if (model_get(run->model, run->held[i]))
			continue;
		fs_forget(run->fs, run->held[i], 1);
		run->held[i] = run->held[--run->n_held];
	}
	for (size_t i = 0; (ino = model_orphan(run->model, i)) != 0;)
		if (is_held(run, ino))
			i++;
		else
			model_forget(run->model, ino);
}

/* As when it returns: done, and durable.  After an error the volume has stopped and a restart may find it done, or it never
 * began. */
static bool do_snap_back(struct op *op)
{
	struct sim_run *run = op->run;
	struct model *m = run->model;
	uint64_t pos = fs_pos(run->fs);
	char name[32];

	if (!model_snaps(m) && rng_percent(op->rng, 90))
		return true;
	random_snap(op, name, sizeof(name));
	if (model_snaps(m))
		snprintf(name, sizeof(name), "%s", model_snap_name(m, rng_below(op->rng, model_snaps(m))));
	say(op, "go back to snapshot %s", name);
	size_t n = run->history.n;
	uint64_t memory = run->fs->config.memory_bytes;
	if (rng_percent(op->rng, 50)) /* as if there were much to do: checkpoints on the way */
		run->fs->config.memory_bytes = 0;
	int r = fs_snap_rollback(run->fs, &op->cred, name, false);
	run->fs->config.memory_bytes = memory;
	op->covers = r == 0 ? n + 1 : 0;
	if (may_fail(op, r) && fs_pos(run->fs) == pos)
		return true;
	run->n_back++;
	int want = model_snap_back(m, name);
	reopen(op);
	return may_fail(op, r) || agree(op, r, want);
}

static bool do_snap_step(struct op *op)
{
	bool more = true;
	int r = 0;

	say(op, "free blocks of snapshots");
	for (unsigned i = 0; r == 0 && more && i < 100; i++)
		r = fs_snap_step(op->run->fs, &more);
	return agree(op, r, 0);
}

unsigned sim_ring_percent(struct fs *fs)
{
	CLEANUP_BUF struct buf text = {0};

	fs_status_json(fs, &text);
	json_t *root = json_loadb((const char *)text.p, text.len, 0, NULL), *j = json_object_get(root, "journal");
	json_int_t used = json_integer_value(json_object_get(j, "used_bytes")),
		   all = json_integer_value(json_object_get(j, "ring_bytes"));
	json_decref(root);
	return all ? (unsigned)(used * 100 / all) : 100;
}

/*
 * Space in the journal for the next operations, as the background threads would make it.  The ring profile also lets
 * checkpoints fail for want of space for the index: the journal has to keep everything the older index still needs.
 */
static bool make_room(struct op *op)
{
	struct sim_run *run = op->run;

	if (run->since_home < 256 * KIB)
		return true;
	run->since_home = 0;
	unsigned used =
	    sim_ring_percent(run->fs); /* a third of so small a ring is full: the rest is one batch's and the writers' */
	if (used < 20)
		return true;
	if (used < 27 && run->profile == SIM_RING && !run->expect_errors) {
		/* Once, and the ballast makes room; twice, and it does not. */
		simstore_fail_index(run->image.store, rng_between(op->rng, 1, 3), -ENOSPC);
		bool ok = do_sync(op) && do_home(op, false);
		int r = ok ? fs_checkpoint(run->fs) : 0;
		simstore_fail_index(run->image.store, 0, 0);
		return ok && (r == 0 || agree(op, r, -ENOSPC));
	}
	return do_sync(op) && do_home(op, true) && do_checkpoint(op);
}

enum action {
	MKFILE,
	MKDIR,
	MKOTHER,
	SYMLINK,
	LINK,
	REMOVE,
	RENAME,
	SETATTR,
	TRUNCATE,
	WRITE,
	FALLOCATE,
	COPY,
	SETXATTR,
	RMXATTR,
	OPEN,
	FORGET,
	SYNC,
	HOME,
	HOME_ALL,
	CHECKPOINT,
	REAP,
	TIER,
	EVICT,
	KEEP,
	FORGET_OBJECT,
	CLONE,
	SQUEEZE,
	SNAP,
	SNAP_DROP,
	SNAP_STEP,
	SNAP_BACK,
	ACTIONS,
};
/* How often of 100 or so, per profile. */
static const uint8_t weights[SIM_PROFILES][ACTIONS] = {
    [SIM_MIXED] = {8, 3, 1, 1, 3, 6, 6, 3, 5, 22, 5, 3, 3, 1, 2, 3, 9, 6, 1, 3, 2, 2, 1, 1, 1, 5, 4, 2, 1, 1, 2},
    [SIM_RING] = {4, 1, 0, 0, 1, 3, 2, 1, 3, 60, 2, 2, 1, 1, 1, 1, 6, 4, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0},
    [SIM_FULL] = {6, 1, 0, 0, 2, 9, 3, 1, 6, 35, 8, 3, 1, 1, 1, 3, 6, 5, 1, 2, 3, 3, 2, 2, 1, 6, 5, 1, 2, 2, 2},
    [SIM_TREE] = {10, 8, 4, 4, 8, 14, 18, 6, 3, 8, 1, 1, 5, 3, 4, 4, 6, 2, 1, 2, 2, 1, 1, 0, 0, 2, 2, 2, 1, 1, 2},
    [SIM_COLD] = {5, 1, 0, 0, 2, 5, 3, 1, 8, 20, 8, 6, 1, 1, 1, 3, 6, 6, 1, 3, 2, 14, 6, 6, 3, 5, 5, 2, 2, 1, 3},
};

static enum action choose(struct op *op)
{
	const uint8_t *w = weights[op->run->profile];
	unsigned sum = 0;

	/* Bounds what a recovery has to read. */
	if (model_count(op->run->model) > 60 || model_total_bytes(op->run->model) > 5 * MIB)
		if (rng_percent(op->rng, 60))
			return REMOVE;
	unsigned n = op->run->snapshots ? ACTIONS : SNAP;
	for (unsigned i = 0; i < n; i++)
		sum += w[i];
	unsigned at = (unsigned)rng_below(op->rng, sum);
	for (unsigned i = 0; i < n; i++) {
		if (at < w[i])
			return (enum action)i;
		at -= w[i];
	}
	return WRITE;
}

static bool act(struct op *op, enum action a)
{
	switch (a) {
	case MKFILE:
		return do_mknod(op, S_IFREG);
	case MKDIR:
		return do_mknod(op, S_IFDIR);
	case MKOTHER:
		return do_mknod(op, 0);
	case SYMLINK:
		return do_symlink(op);
	case LINK:
		return do_link(op);
	case REMOVE:
		return do_remove(op);
	case RENAME:
		return do_rename(op);
	case SETATTR:
		return do_setattr(op);
	case TRUNCATE:
		return do_truncate(op);
	case WRITE:
		return do_write(op);
	case FALLOCATE:
		return do_fallocate(op);
	case COPY:
		return do_copy(op, false);
	case CLONE:
		return do_copy(op, true);
	case SETXATTR:
		return do_setxattr(op);
	case RMXATTR:
		return do_removexattr(op);
	case OPEN:
		return do_open(op);
	case FORGET:
		return do_forget(op);
	case SYNC:
		return do_sync(op);
	case HOME:
		return do_home(op, false);
	case HOME_ALL:
		return do_home(op, true);
	case CHECKPOINT:
		return do_checkpoint(op);
	case REAP:
		return do_reap(op);
	case TIER:
		return do_tier(op);
	case EVICT:
		return do_evict(op);
	case KEEP:
		return do_keep(op);
	case FORGET_OBJECT:
		return do_forget_object(op);
	case SQUEEZE:
		return do_squeeze(op);
	case SNAP:
		return do_snap(op);
	case SNAP_DROP:
		return do_snap_drop(op);
	case SNAP_STEP:
		return do_snap_step(op);
	case SNAP_BACK:
		return do_snap_back(op);
	case ACTIONS:
		break;
	}
	return true;
}

/* Whether the homer waits for the batch in which a block lost its other reference, as far as it is not durable. */
static bool homer_waits(struct fs *fs)
{
	struct journal_status js;

	journal_get_status(fs->journal, &js);
	return atomic_load(&fs->shares->drop_seq) > js.durable_seq;
}

/* What can be done while a batch is being written, by one thread: nothing that waits for it. */
static bool waits_for_commit(struct fs *fs, enum action a)
{
	if (a == HOME || a == HOME_ALL)
		return homer_waits(fs);
	return a == SYNC || a == CHECKPOINT || a == TIER || a == EVICT || a == SQUEEZE || a == SNAP || a == SNAP_DROP ||
	       a == SNAP_BACK;
}

static bool step(struct sim_run *run, bool in_sync)
{
	struct op op = {.run = run, .rng = &run->rng, .in_sync = in_sync};

	run->clock->now_ns += 1000003;
	model_set_time(run->model, run->clock->now_ns);
	op.cred = (struct fs_cred){.uid = (uint32_t)rng_below(op.rng, 3),
				   .gid = (uint32_t)rng_below(op.rng, 3),
				   .pid = 100,
				   .umask = rng_percent(op.rng, 50) ? 022 : 0,
				   .unique = run->history.n};
	if (!in_sync && !make_room(&op))
		return false;
	op.covers = 0; /* what make_room() synced ends before this operation */
	op.what[0] = 0;
	bool ok = true;
	while (ok && !op.what[0]) { /* there may be nothing yet to do that with */
		enum action a = choose(&op);

		if (!in_sync || !waits_for_commit(run->fs, a))
			ok = act(&op, a);
	}
	if (ok)
		sim_history_add(run, op.what, op.covers);
	return ok;
}

/* Before a batch is written: one or two operations go into the next one, as those of other threads would. */
static void while_committing(void *ctx)
{
	struct sim_run *run = ctx;

	/* Not on a full volume, or where a store may say that it is, when an operation may need a checkpoint. */
	if (!run->in_sync || run->expect_errors || run->profile == SIM_FULL || !rng_percent(&run->rng, 30))
		return;
	run->in_sync = false;
	for (unsigned i = 0, n = (unsigned)rng_between(&run->rng, 1, 2); i < n && !run->why[0]; i++)
		step(run, true); /* what goes wrong is in run->why, for sim_step() */
}

bool sim_step(struct sim_run *run)
{
	run->why[0] = 0;
	simstore_on_durable_write(run->image.store, while_committing, run);
	bool ok = step(run, false);
	simstore_on_durable_write(run->image.store, NULL, NULL);
	return ok && !run->why[0];
}
