/*
 * test_fs_threads.c: many threads on one volume, in the product's own surroundings: a host directory, RocksDB, the services.
 *
 * Each thread owns some files, whose content it knows and compares at every turn, and fights with the others over shared
 * names: files and directories that are created, linked, moved, exchanged and removed under each other's hands.  After a
 * clean close, and after fs_abandon() at any moment, which is kill -9 but for the process, the volume must be without
 * findings and every owned file must be as its owner left it.
 * The same again with a clock that jumps ten years forth and back from one call to the next (guarantee G13).
 *
 * SEED=N repeats the choices; the order of the threads is the machine's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "fs/core/fs.h"
#include "journal/journal_format.h"
#include "tests/lib/rng.h"
#include "tests/unit/tempdir.h"

#define N_THREADS     5u
#define N_OWNED       3u
#define N_DIRS        4u
#define N_SHARED      5u /* shared names a directory */
#define N_HELD        4u
#define FILE_MAX      (768 * KIB)
#define WRITE_MAX     (200 * KIB)
#define SHARED_MAX    (256 * KIB)
#define SEGMENT       512u         /* blocks */
#define RUN_NS        NSEC_PER_SEC /* before the clean close */
#define N_KILLS       8u
#define KILL_NS       (NSEC_PER_SEC / 8)
#define TEN_YEARS_NS  (INT64_C(3652) * 86400 * NSEC_PER_SEC)
#define CHECKPOINT_NS (NSEC_PER_SEC / 5)

static const char xattr_name[] = "user.turn";

struct owned {
	uint64_t ino, size, turn;
	unsigned dir;
	char name[32];
	uint8_t *data; /* FILE_MAX bytes, zeros beyond size */
	bool has_xattr;
};
struct actor {
	struct world *w;
	unsigned no;
	uint64_t names; /* given out so far */
	struct rng g;
	struct owned own[N_OWNED];
	uint64_t held[N_HELD]; /* shared inodes with a reference of ours; 0: none */
	uint8_t *buf;          /* FILE_MAX and a block on each side, aligned */
	pthread_t thread;
};
struct world {
	char dir[256];
	unsigned long seed, round;
	const struct clock *clock;
	struct fs *fs;
	uint64_t dirs[N_DIRS];
	struct actor actor[N_THREADS];
	_Atomic bool stop;
	_Atomic uint64_t n_ops;
	_Atomic bool failed; /* the first failure was printed */
};
static struct world world;
static const struct fs_cred cred = {.pid = 1};

/* cmocka's own assertions must not leave a thread by a jump. */
#define CHECK(w, condition, ...)                                                                                                 \
	do {                                                                                                                     \
		if (!(condition))                                                                                                \
			failure(w, __LINE__, #condition, __VA_ARGS__);                                                           \
	} while (0)

static void failure(struct world *w, int line, const char *condition, const char *fmt, ...) PRINTF_LIKE(4, 5);
static void failure(struct world *w, int line, const char *condition, const char *fmt, ...)
{
	char what[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (!atomic_exchange(&w->failed, true))
		fprintf(stderr, "line %d: %s: %s\n", line, condition, what);
	atomic_store(&w->stop, true);
}

/* ---- the volume ---- */

static int open_index(void *ctx, bool create, struct kv **ret)
{
	const struct kv_rocksdb_options o = {.cache_bytes = 8 * MIB, .max_open_files = 32, .create = create};
	struct world *w = ctx;
	char path[300];

	snprintf(path, sizeof(path), "%s/index", w->dir);
	return kv_rocksdb_open(path, &o, ret);
}

static struct fs_config config_of(struct world *w, bool threads)
{
	struct fs_config c = {.kv_open = open_index,
			      .kv_ctx = w,
			      .clock = w->clock,
			      .n_workers = N_THREADS,
			      .memory_bytes = 64 * MIB,
			      .checkpoint_interval_ns = CHECKPOINT_NS,
			      .no_threads = !threads};

	assert_int_equal(0, store_posix_open(w->dir, false, &c.store));
	return c;
}

static void volume_open(struct world *w, bool threads)
{
	struct fs_config c = config_of(w, threads);

	assert_int_equal(0, fs_open(&c, &w->fs));
}

static void volume_format(struct world *w)
{
	const struct fs_format_options o = {
	    .journal = {.n_segments = 2 * BATCH_MAX_BLOCKS / SEGMENT + 2, .segment_blocks = SEGMENT}, .chunk_bytes = 16 * MIB};
	struct fs_config c = config_of(w, false);

	assert_int_equal(0, fs_format(&c, &o));
	store_close(c.store);
	volume_open(w, false);
	for (unsigned i = 0; i < N_DIRS; i++) {
		char name[8];
		struct fs_attr a;

		snprintf(name, sizeof(name), "d%u", i);
		assert_int_equal(0, fs_mknod(w->fs, &cred, FS_ROOT_INO, name, S_IFDIR | 0755, 0, &a));
		w->dirs[i] = a.ino;
	}
	assert_int_equal(0, fs_close(w->fs));
}

/* ---- owned files ---- */

static void new_name(struct actor *t, char name[32])
{
	snprintf(name, 32, "own-%u-%llu", t->no, (unsigned long long)t->names++);
}

static void own_create(struct actor *t, struct owned *f)
{
	struct fs_attr a = {0};

	f->dir = (unsigned)rng_below(&t->g, N_DIRS);
	new_name(t, f->name);
	int r = fs_mknod(t->w->fs, &cred, t->w->dirs[f->dir], f->name, S_IFREG | 0644, 0, &a);
	CHECK(t->w, r == 0, "%s: %d", f->name, r);
	f->ino = a.ino;
	f->size = 0;
	f->has_xattr = false;
	memset(f->data, 0, FILE_MAX);
}

static void own_verify(struct actor *t, struct owned *f, unsigned nlink)
{
	struct fs *fs = t->w->fs;
	struct fs_attr a = {0};
	void *p = NULL;
	size_t len = 0, n = 0;
	uint64_t off = rng_percent(&t->g, 50) ? 0 : rng_below(&t->g, FILE_MAX), seen = 0;
	int r = fs_getattr(fs, f->ino, &a);

	CHECK(t->w, r == 0 && a.size == f->size && a.nlink == nlink, "%s: %d, size %llu for %llu, %u links", f->name, r,
	      (unsigned long long)a.size, (unsigned long long)f->size, a.nlink);
	r = fs_read(fs, f->ino, off, FILE_MAX - off, t->buf, &p, &len);
	uint64_t want = off < f->size ? f->size - off : 0;
	CHECK(t->w, r == 0 && len == want, "%s: read %d, %zu bytes for %llu", f->name, r, len, (unsigned long long)want);
	if (r == 0 && len == want && len > 0 && memcmp(p, f->data + off, len) != 0) {
		while (((uint8_t *)p)[n] == f->data[off + n])
			n++;
		CHECK(t->w, false, "%s: byte %llu differs", f->name, (unsigned long long)(off + n));
	}
	r = fs_getxattr(fs, f->ino, xattr_name, &seen, sizeof(seen), &len);
	if (f->has_xattr)
		CHECK(t->w, r == 0 && seen == f->turn, "%s: attribute %d", f->name, r);
	else
		CHECK(t->w, r == -ENODATA, "%s: attribute %d", f->name, r);
}

static void own_write(struct actor *t, struct owned *f)
{
	size_t len = (size_t)rng_between(&t->g, 1, rng_percent(&t->g, 30) ? WRITE_MAX : 12 * KIB);
	uint64_t off = rng_below(&t->g, FILE_MAX - len), word = rng_u64(&t->g);
	/* Sometimes in step with the file's blocks, which goes to disk without a copy. */
	uint8_t *p = t->buf + (rng_percent(&t->g, 50) ? off % BLOCK_SIZE : 0);

	if (rng_percent(&t->g, 30))
		off -= off % BLOCK_SIZE, p = t->buf;
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(word >> i % 8 * 8) ^ (uint8_t)(i >> 8);
	int r = fs_write(t->w->fs, &cred, f->ino, off, len, p, rng_percent(&t->g, 30));
	CHECK(t->w, r == 0, "%s: %d", f->name, r);
	memcpy(f->data + off, p, len);
	f->size = max_u64(f->size, off + len);
}

static void own_truncate(struct actor *t, struct owned *f)
{
	const struct record_attr in = {.mask = ATTR_SIZE, .size = rng_below(&t->g, FILE_MAX)};
	struct fs_attr a;
	int r = fs_setattr(t->w->fs, &cred, f->ino, &in, &a);

	CHECK(t->w, r == 0, "%s: %d", f->name, r);
	if (in.size < f->size)
		memset(f->data + in.size, 0, f->size - in.size);
	f->size = in.size;
}

static int random_mode(struct rng *g)
{
	static const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
				    FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};

	return modes[rng_below(g, ARRAY_SIZE(modes))];
}

static void own_fallocate(struct actor *t, struct owned *f)
{
	int mode = random_mode(&t->g);
	uint64_t off = rng_below(&t->g, FILE_MAX - 1), len = rng_between(&t->g, 1, FILE_MAX - off);
	int r = fs_fallocate(t->w->fs, &cred, f->ino, mode, off, len);

	CHECK(t->w, r == 0, "%s: mode %d: %d", f->name, mode, r);
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		memset(f->data + off, 0, len);
	if (!(mode & FALLOC_FL_KEEP_SIZE))
		f->size = max_u64(f->size, off + len);
}

static void own_rename(struct actor *t, struct owned *f)
{
	struct world *w = t->w;
	unsigned to = (unsigned)rng_below(&t->g, N_DIRS);
	char name[32];

	new_name(t, name);
	int r =
	    fs_rename(w->fs, &cred, w->dirs[f->dir], f->name, w->dirs[to], name, rng_percent(&t->g, 50) ? RENAME_NOREPLACE : 0);
	CHECK(w, r == 0, "%s to %s: %d", f->name, name, r);
	f->dir = to;
	memcpy(f->name, name, sizeof(name));
}

static void own_exchange(struct actor *t, struct owned *f)
{
	struct world *w = t->w;
	struct owned *o = &t->own[rng_below(&t->g, N_OWNED)], old = *f;

	if (o == f)
		return;
	int r = fs_rename(w->fs, &cred, w->dirs[f->dir], f->name, w->dirs[o->dir], o->name, RENAME_EXCHANGE);
	CHECK(w, r == 0, "%s and %s: %d", f->name, o->name, r);
	f->dir = o->dir;
	memcpy(f->name, o->name, sizeof(f->name));
	o->dir = old.dir;
	memcpy(o->name, old.name, sizeof(o->name));
}

/* Another name, and away with the old one. */
static void own_relink(struct actor *t, struct owned *f)
{
	struct world *w = t->w;
	unsigned to = (unsigned)rng_below(&t->g, N_DIRS);
	struct fs_attr a = {0};
	char name[32];

	new_name(t, name);
	int r = fs_link(w->fs, &cred, f->ino, w->dirs[to], name, &a);
	CHECK(w, r == 0 && a.nlink == 2, "%s to %s: %d, %u links", f->name, name, r, a.nlink);
	if (r == 0)
		fs_forget(w->fs, f->ino, 1);
	r = fs_unlink(w->fs, &cred, w->dirs[f->dir], f->name);
	CHECK(w, r == 0, "%s: %d", f->name, r);
	f->dir = to;
	memcpy(f->name, name, sizeof(name));
}

/* Removed while open, looked at once more, and forgotten. */
static void own_replace(struct actor *t, struct owned *f)
{
	int r = fs_unlink(t->w->fs, &cred, t->w->dirs[f->dir], f->name);

	CHECK(t->w, r == 0, "%s: %d", f->name, r);
	own_verify(t, f, 0);
	fs_forget(t->w->fs, f->ino, 1);
	own_create(t, f);
}

static void own_xattr(struct actor *t, struct owned *f)
{
	if (f->has_xattr && rng_percent(&t->g, 30)) {
		int r = fs_removexattr(t->w->fs, &cred, f->ino, xattr_name);

		CHECK(t->w, r == 0, "%s: %d", f->name, r);
		f->has_xattr = false;
		return;
	}
	f->turn++;
	int r = fs_setxattr(t->w->fs, &cred, f->ino, xattr_name, &f->turn, sizeof(f->turn), 0);
	CHECK(t->w, r == 0, "%s: %d", f->name, r);
	f->has_xattr = true;
}

struct listing {
	struct actor *t;
	uint64_t last, refs[256];
	unsigned dir, n_refs, seen[N_OWNED];
};

static int list_entry(void *ctx, const struct fs_dirent *e)
{
	struct listing *l = ctx;

	CHECK(l->t->w, e->cookie > l->last, "%s: cookie %llu after %llu", e->name, (unsigned long long)e->cookie,
	      (unsigned long long)l->last);
	if (e->cookie > 2)
		for (unsigned i = 0; i < N_OWNED; i++)
			l->seen[i] += l->t->own[i].dir == l->dir && strcmp(l->t->own[i].name, e->name) == 0;
	l->last = e->cookie;
	if (e->cookie <= 2 || !e->attr || l->n_refs == ARRAY_SIZE(l->refs))
		return 0;
	l->refs[l->n_refs++] = e->ino;
	return 1;
}

/* However many names come and go, an owner's are there, once. */
static void own_list(struct actor *t)
{
	struct listing l = {.t = t, .dir = (unsigned)rng_below(&t->g, N_DIRS)};
	int r = fs_readdir(t->w->fs, t->w->dirs[l.dir], 0, rng_percent(&t->g, 50), list_entry, &l);

	CHECK(t->w, r == 0, "%d", r);
	for (unsigned i = 0; i < N_OWNED; i++)
		CHECK(t->w, l.seen[i] == (t->own[i].dir == l.dir), "%s seen %u times", t->own[i].name, l.seen[i]);
	while (l.n_refs > 0)
		fs_forget(t->w->fs, l.refs[--l.n_refs], 1);
}

/* ---- shared names ---- */

static bool expected(int r)
{
	switch (-r) {
	case 0:
	case ENOENT:
	case EEXIST:
	case ENOTEMPTY:
	case EISDIR:
	case ENOTDIR:
	case EINVAL:
	case EPERM:
		return true;
	default:
		return false;
	}
}

struct place {
	uint64_t dir;
	bool looked_up;
	char name[8];
};

/* A shared name, in one of the directories or in a shared directory of one. */
static struct place place_get(struct actor *t)
{
	struct world *w = t->w;
	struct place p = {.dir = w->dirs[rng_below(&t->g, N_DIRS)]};
	struct fs_attr a;

	snprintf(p.name, sizeof(p.name), "s%u", (unsigned)rng_below(&t->g, N_SHARED));
	if (rng_percent(&t->g, 40) && fs_lookup(w->fs, p.dir, p.name, &a) == 0) {
		if (S_ISDIR(a.mode)) {
			p.dir = a.ino;
			p.looked_up = true;
		} else {
			fs_forget(w->fs, a.ino, 1);
		}
	}
	snprintf(p.name, sizeof(p.name), "s%u", (unsigned)rng_below(&t->g, N_SHARED));
	return p;
}

static void place_put(struct actor *t, const struct place *p)
{
	if (p->looked_up)
		fs_forget(t->w->fs, p->dir, 1);
}

static void shared_create(struct actor *t, const struct place *p)
{
	struct fs_attr a;
	uint32_t type = rng_percent(&t->g, 40) ? S_IFDIR : S_IFREG;
	int r = rng_percent(&t->g, 10) ? fs_symlink(t->w->fs, &cred, p->dir, p->name, "target", &a)
				       : fs_mknod(t->w->fs, &cred, p->dir, p->name, type | 0755, 0, &a);

	CHECK(t->w, expected(r), "%s: %d", p->name, r);
	if (r == 0)
		fs_forget(t->w->fs, a.ino, 1);
}

static void shared_remove(struct actor *t, const struct place *p)
{
	int r = rng_percent(&t->g, 50) ? fs_unlink(t->w->fs, &cred, p->dir, p->name) : fs_rmdir(t->w->fs, &cred, p->dir, p->name);

	CHECK(t->w, expected(r), "%s: %d", p->name, r);
}

static void shared_rename(struct actor *t, const struct place *p)
{
	static const unsigned flags[] = {0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE};
	struct place to = place_get(t);
	int r = fs_rename(t->w->fs, &cred, p->dir, p->name, to.dir, to.name, flags[rng_below(&t->g, ARRAY_SIZE(flags))]);

	CHECK(t->w, expected(r), "%s to %s: %d", p->name, to.name, r);
	place_put(t, &to);
}

static void shared_hold(struct actor *t, const struct place *p)
{
	uint64_t *held = &t->held[rng_below(&t->g, N_HELD)];
	struct fs_attr a;
	int r = fs_lookup(t->w->fs, p->dir, p->name, &a);

	CHECK(t->w, expected(r), "%s: %d", p->name, r);
	if (r < 0)
		return;
	if (*held)
		fs_forget(t->w->fs, *held, 1);
	*held = a.ino;
}

static void shared_link(struct actor *t, const struct place *p)
{
	uint64_t ino = t->held[rng_below(&t->g, N_HELD)];
	struct fs_attr a;

	if (!ino)
		return;
	int r = fs_link(t->w->fs, &cred, ino, p->dir, p->name, &a);
	CHECK(t->w, expected(r), "%s: %d", p->name, r);
	if (r == 0)
		fs_forget(t->w->fs, ino, 1);
}

/* What somebody has a reference to can be used, whatever the others did to its names. */
static void shared_use(struct actor *t)
{
	uint64_t ino = t->held[rng_below(&t->g, N_HELD)], off = rng_below(&t->g, SHARED_MAX);
	size_t len = (size_t)rng_between(&t->g, 1, rng_percent(&t->g, 20) ? WRITE_MAX : 12 * KIB);
	struct fs *fs = t->w->fs;
	struct record_attr in = {.mask = ATTR_SIZE, .size = off};
	struct fs_attr a;
	void *p;

	if (!ino)
		return;
	int r = fs_getattr(fs, ino, &a);
	CHECK(t->w, r == 0, "inode %llu: %d", (unsigned long long)ino, r);
	if (r < 0 || !S_ISREG(a.mode))
		return;
	switch (rng_below(&t->g, 5)) {
	case 0:
	case 1:
		memset(t->buf, (int)(1 + t->no), len);
		r = fs_write(fs, &cred, ino, off, len, t->buf, false);
		break;
	case 2:
		r = fs_setattr(fs, &cred, ino, &in, &a);
		break;
	case 3:
		r = fs_fallocate(fs, &cred, ino, random_mode(&t->g), off, len);
		break;
	default:
		r = fs_read(fs, ino, off, len, t->buf, &p, &len);
	}
	CHECK(t->w, r == 0, "inode %llu: %d", (unsigned long long)ino, r);
}

static void shared_turn(struct actor *t)
{
	struct place p = place_get(t);

	switch (rng_below(&t->g, 6)) {
	case 0:
	case 1:
		shared_create(t, &p);
		break;
	case 2:
		shared_remove(t, &p);
		break;
	case 3:
		shared_rename(t, &p);
		break;
	case 4:
		shared_hold(t, &p);
		break;
	default:
		shared_link(t, &p);
	}
	place_put(t, &p);
	shared_use(t);
}

/* ---- threads ---- */

static void own_turn(struct actor *t)
{
	static void (*const turns[])(struct actor *, struct owned *) = {own_write,     own_write,  own_write,    own_truncate,
									own_fallocate, own_rename, own_exchange, own_relink,
									own_replace,   own_xattr};
	struct owned *f = &t->own[rng_below(&t->g, N_OWNED)];

	if (rng_percent(&t->g, 25))
		own_verify(t, f, 1);
	else
		turns[rng_below(&t->g, ARRAY_SIZE(turns))](t, f);
}

/* What the daemon does beside requests of files. */
static void other_turn(struct actor *t)
{
	struct fs *fs = t->w->fs;
	CLEANUP_BUF struct buf text = {0};
	struct fs_statfs s;
	char path[256];
	bool more;
	int r = 0;

	switch (rng_below(&t->g, 4)) {
	case 0:
		r = fs_home_step(fs, 64, &more);
		break;
	case 1:
		fs_status_json(fs, &text);
		fs_statfs(fs, &s);
		fs_path(fs, t->own[0].ino, path, sizeof(path));
		break;
	default:
		r = fs_sync(fs);
	}
	CHECK(t->w, r == 0, "%d", r);
}

static void *actor_main(void *ctx)
{
	struct actor *t = ctx;

	for (; !atomic_load(&t->w->stop); atomic_fetch_add(&t->w->n_ops, 1)) {
		uint64_t dice = rng_below(&t->g, 100);

		if (dice < 50)
			own_turn(t);
		else if (dice < 90)
			shared_turn(t);
		else if (dice < 96)
			own_list(t);
		else
			other_turn(t);
	}
	return NULL;
}

/*
 * Checkpoints go on all the time, and only here: the last one is drawn while everybody works and no other comes after it, so
 * one that caught an operation half done stays to be seen.
 */
static void run(struct world *w, int64_t ns)
{
	const struct timespec pause = {.tv_nsec = NSEC_PER_SEC / 50};
	int64_t end = clock_mono_ns(&clock_system) + ns;
	int r = 0;

	atomic_store(&w->stop, false);
	w->round++;
	for (unsigned i = 0; i < N_THREADS; i++) {
		w->actor[i].g = rng_derive(w->seed, w->round, i);
		memset(w->actor[i].held, 0, sizeof(w->actor[i].held)); /* a new mount: the references are gone */
		assert_int_equal(0, pthread_create(&w->actor[i].thread, NULL, actor_main, &w->actor[i]));
	}
	while (r == 0 && !atomic_load(&w->stop) && clock_mono_ns(&clock_system) < end) {
		nanosleep(&pause, NULL);
		r = fs_checkpoint(w->fs);
	}
	atomic_store(&w->stop, true);
	for (unsigned i = 0; i < N_THREADS; i++)
		pthread_join(w->actor[i].thread, NULL);
	assert_false(atomic_load(&w->failed));
	assert_int_equal(0, r);
}

/* Everybody finds his files by their names, and in them what he wrote. */
static void attach(struct world *w)
{
	for (unsigned i = 0; i < N_THREADS; i++)
		for (unsigned k = 0; k < N_OWNED; k++) {
			struct owned *f = &w->actor[i].own[k];
			struct fs_attr a = {0};
			int r = fs_lookup(w->fs, w->dirs[f->dir], f->name, &a);

			CHECK(w, r == 0 && a.ino == f->ino, "%s: %d", f->name, r);
			own_verify(&w->actor[i], f, 1);
		}
	assert_false(atomic_load(&w->failed));
}

static void finding(void *ctx, const char *line)
{
	(void)ctx;
	fprintf(stderr, "fs_check: %s\n", line);
}

static void check(struct world *w)
{
	struct fs_check_result c = {0};

	volume_open(w, false);
	assert_int_equal(0, fs_check(w->fs, true, finding, NULL, &c));
	assert_int_equal(0, c.damaged_blocks + c.structure_errors + c.accounting_errors);
	attach(w);
	assert_int_equal(0, fs_close(w->fs));
	volume_open(w, false); /* and once more: what recovery and the close made of it */
	assert_int_equal(0, fs_check(w->fs, true, finding, NULL, &c));
	assert_int_equal(0, c.damaged_blocks + c.structure_errors + c.accounting_errors);
	assert_int_equal(0, fs_close(w->fs));
}

static void world_make(struct world *w)
{
	const char *seed = getenv("SEED");

	*w = (struct world){.seed = seed ? strtoul(seed, NULL, 0) : 1};
	fprintf(stderr, "# SEED=%lu\n", w->seed);
	tempdir_make(w->dir);
	for (unsigned i = 0; i < N_THREADS; i++) {
		struct actor *t = &w->actor[i];

		t->w = w;
		t->no = i;
		assert_int_equal(0, posix_memalign((void **)&t->buf, DISK_BLOCK, FILE_MAX + 2 * BLOCK_SIZE));
		for (unsigned k = 0; k < N_OWNED; k++)
			assert_non_null(t->own[k].data = malloc(FILE_MAX));
	}
}

static int setup(void **state)
{
	world_make(&world);
	*state = &world;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	for (unsigned i = 0; i < N_THREADS; i++) {
		free(w->actor[i].buf);
		for (unsigned k = 0; k < N_OWNED; k++)
			free(w->actor[i].own[k].data);
	}
	tempdir_remove(w->dir);
	return 0;
}

static void populate(struct world *w)
{
	volume_open(w, true);
	for (unsigned i = 0; i < N_THREADS; i++)
		for (unsigned k = 0; k < N_OWNED; k++)
			own_create(&w->actor[i], &w->actor[i].own[k]);
	assert_false(atomic_load(&w->failed));
}

static void close_and_abandon(struct world *w)
{
	volume_format(w);
	populate(w);
	run(w, RUN_NS);
	assert_int_equal(0, fs_close(w->fs));
	check(w);
	for (unsigned i = 0; i < N_KILLS; i++) {
		volume_open(w, true);
		attach(w);
		run(w, KILL_NS);
		fs_abandon(w->fs);
		check(w);
	}
	fprintf(stderr, "# %llu turns\n", (unsigned long long)atomic_load(&w->n_ops));
}

static void threads_at_random_leave_a_clean_volume(void **state)
{
	close_and_abandon(*state);
}

/* ---- the clock ---- */

static int64_t real_jumping(const struct clock *c)
{
	static _Atomic unsigned n;
	int64_t now = clock_real_ns(&clock_system);

	(void)c;
	switch (atomic_fetch_add(&n, 1) / 3 % 3) {
	case 0:
		return now + TEN_YEARS_NS;
	case 1:
		return now - TEN_YEARS_NS;
	default:
		return now;
	}
}

static int64_t mono_plain(const struct clock *c)
{
	(void)c;
	return clock_mono_ns(&clock_system);
}

static void ten_years_forth_and_back_cost_nothing(void **state)
{
	static const struct clock jumping = {.real_ns = real_jumping, .mono_ns = mono_plain};
	struct world *w = *state;

	w->clock = &jumping;
	close_and_abandon(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(threads_at_random_leave_a_clean_volume, setup, teardown),
	    cmocka_unit_test_setup_teardown(ten_years_forth_and_back_cost_nothing, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
