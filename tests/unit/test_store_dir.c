/*
 * test_store_dir.c: a directory as an object store.  System calls of the store go through wrappers, so that each of them can
 * fail, or be where the process dies.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "tests/lib/rng.h"
#include "tests/unit/tempdir.h"
#include "tier/store_dir.h"

#define DAY (86400 * NSEC_PER_SEC)

/* ---- system calls that fail ---- */

static _Thread_local struct {
	bool armed, die, late; /* late: fails, or dies, after it was done */
	int countdown;         /* this call, counted from 1 */
	int error;
	bool short_io, hit, no_rename, no_link, damage;
	bool no_flush; /* nobody cuts the power here: spares the disk where there are thousands */
} fault;

/* What happens to this call: 0, or -1 with errno set. */
static int before(void)
{
	if (!fault.armed || fault.late || --fault.countdown)
		return 0;
	fault.hit = true;
	if (fault.die)
		_exit(0);
	errno = fault.error;
	return -1;
}
static int after(int result)
{
	if (!fault.armed || !fault.late || --fault.countdown)
		return result;
	fault.hit = true;
	if (fault.die)
		_exit(0);
	errno = fault.error;
	return -1;
}

int __real_openat64(int dir, const char *name, int flags, mode_t mode);
int __wrap_openat64(int dir, const char *name, int flags, mode_t mode);
int __wrap_openat64(int dir, const char *name, int flags, mode_t mode)
{
	return before() ? -1 : __real_openat64(dir, name, fault.no_flush ? flags & ~O_DIRECT : flags, mode);
}
int __real_open64(const char *name, int flags, mode_t mode);
int __wrap_open64(const char *name, int flags, mode_t mode);
int __wrap_open64(const char *name, int flags, mode_t mode)
{
	return before() ? -1 : __real_open64(name, flags, mode);
}
int __real_mkdirat(int dir, const char *name, mode_t mode);
int __wrap_mkdirat(int dir, const char *name, mode_t mode);
int __wrap_mkdirat(int dir, const char *name, mode_t mode)
{
	return before() ? -1 : after(__real_mkdirat(dir, name, mode));
}
int __real_fallocate64(int fd, int mode, off_t off, off_t len);
int __wrap_fallocate64(int fd, int mode, off_t off, off_t len);
int __wrap_fallocate64(int fd, int mode, off_t off, off_t len)
{
	return before() ? -1 : after(__real_fallocate64(fd, mode, off, len));
}
ssize_t __real_write(int fd, const void *p, size_t len);
ssize_t __wrap_write(int fd, const void *p, size_t len);
ssize_t __wrap_write(int fd, const void *p, size_t len)
{
	if (before())
		return -1;
	return __real_write(fd, p, fault.short_io && len > 1 ? len / 2 : len);
}
ssize_t __real_pread64(int fd, void *p, size_t len, off_t off);
ssize_t __wrap_pread64(int fd, void *p, size_t len, off_t off);
ssize_t __wrap_pread64(int fd, void *p, size_t len, off_t off)
{
	if (before())
		return -1;
	ssize_t n = __real_pread64(fd, p, len, off);
	if (fault.damage && n > 0)
		((char *)p)[n - 1] ^= 1;
	return n;
}
int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
	return before() ? -1 : after(fault.no_flush ? 0 : __real_fsync(fd));
}
int __real_posix_fadvise64(int fd, off_t off, off_t len, int advice);
int __wrap_posix_fadvise64(int fd, off_t off, off_t len, int advice);
int __wrap_posix_fadvise64(int fd, off_t off, off_t len, int advice)
{
	return fault.no_flush ? 0 : __real_posix_fadvise64(fd, off, len, advice);
}
int __real_renameat(int a, const char *from, int b, const char *to);
int __wrap_renameat(int a, const char *from, int b, const char *to);
int __wrap_renameat(int a, const char *from, int b, const char *to)
{
	return before() ? -1 : after(__real_renameat(a, from, b, to));
}
int __real_renameat2(int a, const char *from, int b, const char *to, unsigned flags);
int __wrap_renameat2(int a, const char *from, int b, const char *to, unsigned flags);
int __wrap_renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
	if (before())
		return -1;
	if (fault.no_rename) {
		errno = EINVAL;
		return -1;
	}
	return after(__real_renameat2(a, from, b, to, flags));
}
int __real_linkat(int a, const char *from, int b, const char *to, int flags);
int __wrap_linkat(int a, const char *from, int b, const char *to, int flags);
int __wrap_linkat(int a, const char *from, int b, const char *to, int flags)
{
	if (before())
		return -1;
	if (fault.no_link) {
		errno = EPERM;
		return -1;
	}
	return after(__real_linkat(a, from, b, to, flags));
}

/* ---- a store ---- */

struct world {
	struct clock clock;
	int64_t skew_ns, mono_ns; /* mono_ns: 0 is the system's */
	char top[256], path[280];
	struct object_store *store;
	struct object_call call;
	char *big; /* 3 MiB and a little of changing bytes */
};
#define BIG (3 * MIB + 12345)

static int64_t skewed_real(const struct clock *c)
{
	return clock_real_ns(&clock_system) + container_of((struct clock *)(uintptr_t)c, struct world, clock)->skew_ns;
}
static int64_t told_mono(const struct clock *c)
{
	struct world *w = container_of((struct clock *)(uintptr_t)c, struct world, clock);

	if (!w->mono_ns)
		return clock_mono_ns(&clock_system);
	return w->mono_ns += 1000;
}

static struct object_store *open_at(struct world *w, const char *path, bool create)
{
	struct store_dir_config c = {.path = path, .clock = &w->clock, .create = create};
	struct object_store *s = NULL;
	char message[OBJECT_MESSAGE_MAX];

	int r = store_dir_open(&c, &s, message);
	if (r < 0)
		fail_msg("%s", message);
	return s;
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	w->clock = (struct clock){skewed_real, told_mono};
	tempdir_make(w->top);
	snprintf(w->path, sizeof(w->path), "%s/cold", w->top);
	w->store = open_at(w, w->path, true);
	w->big = malloc(BIG);
	for (size_t i = 0; i < BIG; i++)
		w->big[i] = (char)(i * 2654435761u >> 11);
	*state = w;
	return 0;
}
static int teardown(void **state)
{
	struct world *w = *state;

	memset(&fault, 0, sizeof(fault));
	object_store_close(w->store);
	tempdir_remove(w->top);
	free(w->big);
	free(w);
	return 0;
}

static int put(struct world *w, const char *key, const void *p, size_t len, unsigned flags)
{
	struct iovec iov = {(void *)(uintptr_t)p, len};

	w->call = (struct object_call){0};
	int r = w->store->ops->put(w->store, &w->call, key, &iov, 1, flags);
	assert_int_equal(w->call.verified, r == 0);
	assert_int_equal(w->call.message[0] != '\0', r != 0);
	return r;
}
static int get(struct world *w, const char *key, uint64_t off, size_t len, void *p)
{
	w->call = (struct object_call){0};
	return w->store->ops->get(w->store, &w->call, key, off, len, p);
}
static int head(struct world *w, const char *key, struct object_info *ret)
{
	w->call = (struct object_call){0};
	return w->store->ops->head(w->store, &w->call, key, ret);
}
static int drop(struct world *w, const char *key)
{
	w->call = (struct object_call){0};
	return w->store->ops->remove(w->store, &w->call, key);
}

static void assert_holds(struct world *w, const char *key, const void *p, size_t len)
{
	struct object_info info = {0};
	char *got = malloc(len + 1);

	assert_int_equal(head(w, key, &info), 0);
	assert_int_equal(info.size, len);
	assert_int_equal(get(w, key, 0, len, got), 0);
	assert_memory_equal(got, p, len);
	free(got);
}

static const char *below(const struct world *w, const char *name)
{
	static char path[1024];

	snprintf(path, sizeof(path), "%s/%s", w->path, name);
	return path;
}

/* Files in all the tree whose names begin with `prefix`. */
static const char *count_prefix;
static int counted;
static int count_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	counted += type == FTW_F && strncmp(path + ftw->base, count_prefix, strlen(count_prefix)) == 0;
	return 0;
}
static int count_files(const char *top, const char *prefix)
{
	count_prefix = prefix;
	counted = 0;
	nftw(top, count_one, 16, FTW_PHYS);
	return counted;
}

struct keys {
	char (*key)[64];
	uint64_t *size;
	int n, cap, stop_at, result;
};
static int take_key(void *ctx, const char *key, const struct object_info *info)
{
	struct keys *k = ctx;

	if (k->n < k->cap) {
		snprintf(k->key[k->n], 64, "%s", key);
		k->size[k->n] = info->size;
	}
	return ++k->n == k->stop_at ? k->result : 0;
}
static int list(struct world *w, const char *prefix, const char *from, struct keys *k)
{
	w->call = (struct object_call){0};
	int r = w->store->ops->list(w->store, &w->call, prefix, from, take_key, k);
	assert_int_equal(w->call.message[0] != '\0', r < 0 && k->result >= 0);
	return r;
}

/* ---- what it does ---- */

static void what_is_put_is_there(void **state)
{
	static const char *const keys[] = {"a", "a.b", "dir/a", "dir/xx/a", "dir/xy/a",
					   "-", "...", ".tmp",  "_/-/x",    "A/B/C/D/E/F/G/H"};
	static const size_t sizes[] = {0, 1, 511, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, 2 * MIB + 4096, BIG};
	struct world *w = *state;
	struct object_info info;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		for (size_t k = 0; k < ARRAY_SIZE(sizes); k++) {
			assert_int_equal(put(w, keys[i], w->big, sizes[k], 0), 0); /* over the one before */
			assert_holds(w, keys[i], w->big, sizes[k]);
			int64_t age = clock_real_ns(&clock_system);
			assert_int_equal(head(w, keys[i], &info), 0);
			assert_in_range(age - info.modified_ns + NSEC_PER_SEC, 0, 60 * NSEC_PER_SEC);
			assert_int_equal(put(w, keys[i], w->big, 7, OBJECT_CREATE), -EEXIST);
			assert_holds(w, keys[i], w->big, sizes[k]);
		}
	assert_int_equal(count_files(w->path, ".tmp~"), 0);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		assert_int_equal(drop(w, keys[i]), 0);
		assert_int_equal(drop(w, keys[i]), -ENOENT);
		assert_int_equal(head(w, keys[i], &info), -ENOENT);
		assert_int_equal(get(w, keys[i], 0, 1, &info), -ENOENT);
		assert_int_equal(put(w, keys[i], w->big, 9, OBJECT_CREATE), 0);
		assert_holds(w, keys[i], w->big, 9);
	}
	struct stat st;
	assert_int_equal(stat(below(w, "dir/xx"), &st), 0);
	assert_int_equal(st.st_mode, S_IFDIR | 0700);
	assert_int_equal(stat(below(w, "dir/xx/a"), &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0600);
}

static void pieces_are_joined(void **state)
{
	struct world *w = *state;
	struct rng r = {test_seed(91)};

	for (int round = 0; round < 60; round++) {
		struct iovec iov[40];
		size_t at = 0;
		int n = (int)rng_below(&r, ARRAY_SIZE(iov) + 1);
		for (int i = 0; i < n; i++) {
			size_t len = rng_below(&r, 3) ? rng_below(&r, 70000) : 0;
			iov[i] = (struct iovec){w->big + at, len};
			at += len;
		}
		w->call = (struct object_call){0};
		fault.short_io = rng_below(&r, 2);
		assert_int_equal(w->store->ops->put(w->store, &w->call, "k/k", iov, n, 0), 0);
		fault.short_io = false;
		assert_true(w->call.verified);
		assert_holds(w, "k/k", w->big, at);
	}
}

static void ranges_are_exact(void **state)
{
	struct world *w = *state;
	const uint64_t edges[] = {
	    0, 1, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, BIG - 1, BIG, BIG + 1, UINT64_C(1) << 40, INT64_MAX, UINT64_MAX};
	char *p = malloc(BIG + 16);

	assert_int_equal(put(w, "x", w->big, BIG, 0), 0);
	for (size_t i = 0; i < ARRAY_SIZE(edges); i++)
		for (size_t k = 0; k < ARRAY_SIZE(edges); k++) {
			uint64_t off = edges[i], len = edges[k];
			bool absurd = off > INT64_MAX || len > INT64_MAX - off, inside = !absurd && off + len <= BIG;
			memset(p, 0x5a, BIG + 16);
			assert_int_equal(get(w, "x", off, len, p), inside ? 0 : absurd ? -EINVAL : -EBADMSG);
			if (inside) {
				assert_memory_equal(p, w->big + off, len);
				for (size_t z = len; z < len + 16; z++)
					assert_int_equal(p[z], 0x5a);
			} else {
				assert_true(w->call.message[0] != '\0');
			}
		}
	free(p);
}

static void keys_that_cannot_be_are_refused(void **state)
{
	static const char *const keys[] = {"",       "/",        "/a",     "a/",      "a//b", ".",    "..",
					   "../x",   "a/../x",   "a/..",   "./a",     "a b",  "a\nb", ".clawfs~store",
					   ".tmp~1", "a/.tmp~1", "%2e%2e", "\xc3\xa4"};
	struct world *w = *state;
	struct object_info info;
	char long_part[300];

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		assert_int_equal(put(w, keys[i], "x", 1, 0), -EINVAL);
		assert_int_equal(get(w, keys[i], 0, 1, &info), -EINVAL);
		assert_int_equal(head(w, keys[i], &info), -EINVAL);
		assert_int_equal(drop(w, keys[i]), -EINVAL);
	}
	memset(long_part, 'a', sizeof(long_part));
	long_part[255] = '\0';
	assert_int_equal(put(w, long_part, "x", 1, 0), 0);
	long_part[255] = 'a';
	long_part[256] = '\0';
	assert_int_equal(put(w, long_part, "x", 1, 0), -EINVAL);
	strcpy(long_part + 256, "/b");
	assert_int_equal(put(w, long_part, "x", 1, 0), -EINVAL);
	assert_int_equal(count_files(w->top, ""), 2); /* the marker and one object */
}

static void an_object_is_not_below_another(void **state)
{
	struct world *w = *state;
	struct object_info info;

	for (unsigned flags = 0; flags <= OBJECT_CREATE; flags++) {
		assert_int_equal(put(w, "a/b", "one", 3, 0), 0);
		assert_int_equal(put(w, "a", "x", 1, flags), -EINVAL);
		assert_int_equal(put(w, "a/b/c", "x", 1, flags), -EINVAL);
		assert_int_equal(put(w, "a/b/c/d", "x", 1, flags), -EINVAL);
		assert_int_equal(head(w, "a", &info), -ENOENT);
		assert_int_equal(drop(w, "a"), -ENOENT);
		assert_int_equal(get(w, "a/b/c", 0, 1, &info), -ENOENT);
		assert_int_equal(head(w, "a/b/c", &info), -ENOENT);
		assert_int_equal(drop(w, "a/b/c"), -ENOENT);
		assert_holds(w, "a/b", "one", 3);
	}
}

/* Links, sockets and fifos below the root: never followed, never written through, never waited for. */
static void nothing_below_the_root_leads_out_of_it(void **state)
{
	struct world *w = *state;
	struct object_info info;
	char outside[300], secret[400], p[8];
	struct keys k = {.cap = 0};

	snprintf(outside, sizeof(outside), "%s/outside", w->top);
	snprintf(secret, sizeof(secret), "%s/secret", outside);
	assert_int_equal(mkdir(outside, 0700), 0);
	int fd = creat(secret, 0600);
	assert_int_equal(__real_write(fd, "secret", 6), 6);
	close(fd);
	assert_int_equal(symlink(outside, below(w, "link")), 0);
	assert_int_equal(symlink(secret, below(w, "file")), 0);
	assert_int_equal(symlink("/nowhere", below(w, "dangling")), 0);
	assert_int_equal(mkfifo(below(w, "fifo"), 0600), 0);
	static const char *const keys[] = {"link/secret", "link/new", "link/a/b", "file", "dangling", "dangling/x"};
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		assert_int_equal(get(w, keys[i], 0, 6, p), -EACCES);
		assert_int_equal(head(w, keys[i], &info), -EACCES);
		assert_int_equal(drop(w, keys[i]), -EACCES);
		assert_int_equal(put(w, keys[i], "x", 1, 0), -EACCES);
		assert_int_equal(put(w, keys[i], "x", 1, OBJECT_CREATE), -EACCES);
	}
	assert_int_equal(get(w, "fifo", 0, 1, p), -ENOENT);
	assert_int_equal(head(w, "fifo", &info), -ENOENT);
	assert_int_equal(put(w, "fifo", "x", 1, 0), -EACCES);
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	int s = socket(AF_UNIX, SOCK_STREAM, 0), here = open(".", O_RDONLY | O_DIRECTORY);
	assert_int_equal(chdir(w->path), 0);
	strcpy(at.sun_path, "socket");
	assert_int_equal(bind(s, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(fchdir(here), 0);
	close(here);
	close(s);
	assert_int_equal(get(w, "socket", 0, 1, p), -ENOENT);
	assert_int_equal(list(w, "", "", &k), 0);
	assert_int_equal(k.n, 0);
	assert_int_equal(count_files(outside, ""), 1);
	assert_int_equal(stat(secret, &(struct stat){0}), 0);
}

/* ---- the root ---- */

static void expect_away(struct world *w, const char *word)
{
	struct object_info info;
	struct keys k = {.cap = 0};

	assert_int_equal(put(w, "d/new", "x", 1, 0), -ENODEV);
	assert_non_null(strstr(w->call.message, word));
	assert_non_null(strstr(w->call.message, w->path));
	assert_int_equal(get(w, "d/k", 0, 1, &info), -ENODEV);
	assert_int_equal(head(w, "d/k", &info), -ENODEV);
	assert_int_equal(drop(w, "d/k"), -ENODEV);
	assert_int_equal(list(w, "", "", &k), -ENODEV);
}

static void a_disk_that_is_away_is_told_from_an_empty_store(void **state)
{
	struct world *w = *state;
	char away[300], other[300];
	struct object_store *second;

	snprintf(away, sizeof(away), "%s/away", w->top);
	snprintf(other, sizeof(other), "%s/other", w->top);
	assert_int_equal(put(w, "d/k", "one", 3, 0), 0);
	/* The directory is gone; there is another one in its place, as an unmounted mountpoint is; there is a file. */
	assert_int_equal(rename(w->path, away), 0);
	expect_away(w, "no such directory");
	second = open_at(w, w->path, false); /* opens all the same */
	assert_int_equal(access(w->path, F_OK), -1);
	assert_int_equal(mkdir(w->path, 0700), 0);
	expect_away(w, "not mounted");
	assert_int_equal(count_files(w->path, ""), 0);
	assert_int_equal(rmdir(w->path), 0); /* still empty: no directories either */
	close(creat(w->path, 0600));
	expect_away(w, "no such directory");
	assert_int_equal(unlink(w->path), 0);
	/* Another store in its place is not it either, for who knows it. */
	object_store_close(open_at(w, other, true));
	assert_int_equal(rename(other, w->path), 0);
	expect_away(w, "another store");
	assert_int_equal(rename(w->path, other), 0);
	assert_int_equal(rename(away, w->path), 0);
	assert_holds(w, "d/k", "one", 3);
	struct object_store *first = w->store;
	w->store = second;
	assert_holds(w, "d/k", "one", 3);
	w->store = first;
	object_store_close(second);
}

static void a_damaged_marker_is_an_error(void **state)
{
	static const char *const texts[] = {"",
					    "x",
					    "clawfs object store\nversion 2\nid 0123456789abcdef0123456789abcdef\n",
					    "clawfs object store\nversion 1\nid 0123456789abcdef0123456789abcde\n",
					    "clawfs object store\nversion 1\nid 0123456789abcdef0123456789abcdeg\n",
					    "clawfs object store\nversion 1\nid 0123456789abcdef0123456789abcdef"};
	struct world *w = *state;

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		int fd = open(below(w, ".clawfs~store"), O_WRONLY | O_TRUNC);
		assert_int_equal(__real_write(fd, texts[i], strlen(texts[i])), strlen(texts[i]));
		close(fd);
		assert_int_equal(put(w, "k", "x", 1, 0), -EPROTO);
		assert_non_null(strstr(w->call.message, ".clawfs~store"));
	}
	assert_int_equal(unlink(below(w, ".clawfs~store")), 0);
	assert_int_equal(symlink("/etc/passwd", below(w, ".clawfs~store")), 0);
	assert_int_equal(put(w, "k", "x", 1, 0), -EACCES);
}

static void a_store_begins_in_an_empty_directory_alone(void **state)
{
	struct world *w = *state;
	char path[300], inside[400], message[OBJECT_MESSAGE_MAX];
	struct store_dir_config c = {.path = path, .create = true};
	struct object_store *s = NULL;

	snprintf(path, sizeof(path), "%s/new", w->top);
	snprintf(inside, sizeof(inside), "%s/lost+found", path);
	assert_int_equal(mkdir(path, 0755), 0);
	assert_int_equal(mkdir(inside, 0700), 0); /* a fresh filesystem's */
	assert_int_equal(store_dir_open(&c, &s, message), 0);
	assert_string_equal(message, "");
	object_store_close(s);
	snprintf(inside, sizeof(inside), "%s/file", path);
	close(creat(inside, 0600));
	assert_int_equal(store_dir_open(&c, &s, message), 0); /* it has its marker: opened again */
	object_store_close(s);
	snprintf(inside, sizeof(inside), "%s/.clawfs~store", path);
	assert_int_equal(unlink(inside), 0);
	assert_int_equal(store_dir_open(&c, &s, message), -EEXIST);
	assert_non_null(strstr(message, "other files"));
	assert_int_equal(access(inside, F_OK), -1);
	snprintf(path, sizeof(path), "%s/none/new", w->top); /* parents are not made: their disk may be away */
	assert_int_equal(store_dir_open(&c, &s, message), -ENOENT);
	assert_true(message[0] != '\0');
	static const char *const wrong[] = {"", "relative", "./x"};
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		c.path = wrong[i];
		for (int create = 0; create < 2; create++) {
			c.create = create;
			assert_int_equal(store_dir_open(&c, &s, message), -EINVAL);
		}
	}
}

/* ---- lists ---- */

static int by_text(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* Random trees against the list that a sort gives, for every kind of prefix and place to go on from. */
static void lists_are_in_the_order_of_bytes(void **state)
{
	struct world *w = *state;
	struct rng r = {test_seed(92)};
	static const char *const parts[] = {"a", "b", "a-", "a.", "a0", "A", "_", "ab", "-", "0a", "a_b", ".x"};
	enum { MOST = 160 };
	static char all[MOST][64];
	static char got[MOST][64];
	static uint64_t size[MOST];
	int n = 0;

	fault.no_flush = true;
	for (int i = 0; i < MOST; i++) {
		char key[64] = "";
		int depth = (int)rng_between(&r, 1, 3);
		for (int k = 0; k < depth; k++) {
			strcat(key, k ? "/" : "");
			strcat(key, parts[rng_below(&r, ARRAY_SIZE(parts))]);
		}
		if (put(w, key, w->big, (size_t)i, OBJECT_CREATE) == 0)
			strcpy(all[n++], key);
	}
	assert_true(n > 40);
	qsort(all, (size_t)n, sizeof(all[0]), by_text);
	assert_int_equal(mkdir(below(w, "empty"), 0700), 0);
	assert_int_equal(mkdir(below(w, "no key"), 0700), 0);
	close(creat(below(w, "no key/x"), 0600));
	close(creat(below(w, "no~key"), 0600));
	for (int round = 0; round < 1000; round++) {
		char prefix[64] = "", from[64] = "";
		if (rng_below(&r, 4)) {
			strcpy(prefix, all[rng_below(&r, (uint64_t)n)]);
			prefix[rng_below(&r, strlen(prefix) + 1)] = '\0';
		}
		if (rng_below(&r, 3)) {
			strcpy(from, all[rng_below(&r, (uint64_t)n)]);
			from[rng_below(&r, strlen(from) + 1)] = '\0';
			if (rng_below(&r, 3) == 0)
				strcat(from, rng_below(&r, 2) ? "/" : "zz");
		}
		struct keys k = {.key = got, .size = size, .cap = MOST};
		assert_int_equal(list(w, prefix, from, &k), 0);
		int at = 0;
		for (int i = 0; i < n; i++)
			if (strncmp(all[i], prefix, strlen(prefix)) == 0 && strcmp(all[i], from) > 0) {
				assert_true(at < k.n);
				assert_string_equal(got[at], all[i]);
				struct object_info info;
				assert_int_equal(head(w, all[i], &info), 0);
				assert_int_equal(size[at], info.size);
				at++;
			}
		assert_int_equal(at, k.n);
		if (k.n > 1) {
			struct keys some = {.key = got,
					    .size = size,
					    .cap = MOST,
					    .stop_at = 1 + (int)rng_below(&r, (uint64_t)k.n),
					    .result = rng_below(&r, 2) ? 1 : -EXDEV};
			assert_int_equal(list(w, prefix, from, &some), some.result < 0 ? -EXDEV : 0);
			assert_int_equal(some.n, some.stop_at);
		}
	}
	static const char *const nothing[] = {"..",      "../",    "/",      "/etc",    "a//",       "nope",
					      "a/nope/", "empty/", "no key", ".clawfs", "lost+found"};
	for (size_t i = 0; i < ARRAY_SIZE(nothing); i++) {
		struct keys k = {.cap = 0};
		assert_int_equal(list(w, nothing[i], "", &k), 0);
		assert_int_equal(k.n, 0);
	}
}

/* More names than are read at a time, in files and in directories; the reader removes what it is given. */
static int take_and_remove(void *ctx, const char *key, const struct object_info *info)
{
	struct world *w = ctx;
	static char last[64];
	static int n;
	struct object_call call = {0};

	(void)info;
	n++;
	assert_true(strcmp(key, last) > 0);
	snprintf(last, sizeof(last), "%s", key);
	return n % 50 ? 0 : w->store->ops->remove(w->store, &call, key);
}
static void a_large_directory_is_listed_in_pages(void **state)
{
	struct world *w = *state;
	char name[64], first[1024];
	enum { FILES = 8300, DIRS = 300 };

	fault.no_flush = true;
	assert_int_equal(mkdir(below(w, "many"), 0700), 0);
	snprintf(first, sizeof(first), "%s", below(w, "first"));
	close(creat(first, 0600));
	for (int i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "many/%05d", i * 7919 % FILES);
		assert_int_equal(link(first, below(w, name)), 0); /* cheaper than that many files */
	}
	for (int i = 0; i < DIRS; i++) {
		snprintf(name, sizeof(name), "many/%05d-", i);
		assert_int_equal(mkdir(below(w, name), 0700), 0);
		snprintf(name, sizeof(name), "many/%05d-/x", i);
		close(creat(below(w, name), 0600));
	}
	char(*got)[64] = calloc(FILES + DIRS, sizeof(*got));
	uint64_t *size = calloc(FILES + DIRS, sizeof(*size));
	struct keys k = {.key = got, .size = size, .cap = FILES + DIRS};
	assert_int_equal(list(w, "many/", "", &k), 0);
	assert_int_equal(k.n, FILES + DIRS);
	for (int i = 0, at = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "many/%05d", i);
		assert_string_equal(got[at++], name);
		if (i < DIRS) {
			snprintf(name, sizeof(name), "many/%05d-/x", i);
			assert_string_equal(got[at++], name);
		}
	}
	k.n = 0;
	assert_int_equal(list(w, "many/", "many/04000", &k), 0);
	assert_int_equal(k.n, FILES - 4001);
	w->call = (struct object_call){0};
	assert_int_equal(w->store->ops->list(w->store, &w->call, "many/", "", take_and_remove, w), 0);
	k.n = 0;
	assert_int_equal(list(w, "many/", "", &k), 0);
	assert_int_equal(k.n, FILES + DIRS - (FILES + DIRS) / 50);
	free(got);
	free(size);
}

/* ---- leftovers ---- */

static void old_temporary_files_go(void **state)
{
	struct world *w = *state;
	char name[64];
	struct keys k = {.cap = 0};
	int held = -1;

	assert_int_equal(put(w, "p/aa/x", "x", 1, 0), 0);
	for (int i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "p/aa/.tmp~%d", i);
		close(creat(below(w, name), 0600));
	}
	close(creat(below(w, "p/aa/tmp~5"), 0600)); /* no name of ours */
	assert_int_equal(mkdir(below(w, "p/aa/.tmp~dir"), 0700), 0);
	assert_int_equal(symlink("x", below(w, "p/aa/.tmp~link")), 0);
	/* A young one stays, by any clock that went back; an old one goes, unless somebody holds it. */
	static const int64_t stay[] = {0, DAY - 60 * NSEC_PER_SEC, -3650 * DAY};
	for (size_t i = 0; i < ARRAY_SIZE(stay); i++) {
		w->skew_ns = stay[i];
		assert_int_equal(list(w, "", "", &k), 0);
		assert_int_equal(count_files(w->path, ".tmp~"), 4);
	}
	w->skew_ns = DAY + 60 * NSEC_PER_SEC;
	assert_int_equal(list(w, "q/", "", &k), 0); /* elsewhere */
	assert_int_equal(count_files(w->path, ".tmp~"), 4);
	held = open(below(w, "p/aa/.tmp~2"), O_RDWR);
	assert_int_equal(flock(held, LOCK_EX), 0);
	assert_int_equal(list(w, "", "", &k), 0);
	assert_int_equal(count_files(w->path, ".tmp~"), 1);
	w->skew_ns = 3650 * DAY;
	assert_int_equal(list(w, "", "", &k), 0);
	assert_int_equal(count_files(w->path, ".tmp~"), 1);
	close(held);
	/* And when another process begins to put there. */
	object_store_close(w->store);
	w->store = open_at(w, w->path, false);
	assert_int_equal(put(w, "p/aa/y", "y", 1, 0), 0);
	assert_int_equal(count_files(w->path, ".tmp~"), 0);
	assert_int_equal(count_files(w->path, "tmp~"), 1);
	assert_int_equal(access(below(w, "p/aa/.tmp~dir"), F_OK), 0);
}

/* ---- faults ---- */

static const char old_text[] = "what was there before", new_text[] = "what is put now, which is longer";

/* Old or new, whole; a fresh key may be absent. */
static void assert_whole(struct world *w, const char *key, bool fresh, bool done)
{
	struct object_info info;
	char p[64];
	int r = head(w, key, &info);

	if (fresh && !done && r == -ENOENT)
		return;
	assert_int_equal(r, 0);
	assert_int_equal(get(w, key, 0, info.size, p), 0);
	if (!done && !fresh && info.size == sizeof(old_text)) {
		assert_memory_equal(p, old_text, sizeof(old_text));
		return;
	}
	assert_int_equal(info.size, sizeof(new_text));
	assert_memory_equal(p, new_text, sizeof(new_text));
}

static const int object_errors[] = {-ENOENT, -EEXIST, -ENODEV,    -EACCES, -ENOSPC, -EOPNOTSUPP,
				    -EINVAL, -EIO,    -ETIMEDOUT, -ENOMEM, -EBADMSG};

/* Every system call of a put fails, before or after it was done, with every kind of error. */
static void every_failure_of_a_put_leaves_old_or_new(void **state)
{
	static const struct {
		int host, object;
	} errors[] = {{EIO, -EIO},    {ENOSPC, -ENOSPC}, {EDQUOT, -ENOSPC}, {EROFS, -EACCES}, {EMFILE, -EIO},
		      {ESTALE, -EIO}, {ENOMEM, -ENOMEM}, {ENODEV, -ENODEV}, {ENXIO, -ENODEV}, {EFBIG, -ENOSPC}};
	struct world *w = *state;
	unsigned failures = 0;

	fault.no_flush = true;
	for (size_t e = 0; e < ARRAY_SIZE(errors); e++)
		for (int variant = 0; variant < 8; variant++) {
			bool fresh = variant & 1, late = variant & 2, create = variant & 4;
			bool hit = true;
			if ((create && !fresh) || (e > 1 && variant)) /* the first two in every way */
				continue;
			for (int n = 1; hit; n++) {
				char key[64];
				snprintf(key, sizeof(key), "%zu-%d/%d/k", e, variant, n);
				if (!fresh)
					assert_int_equal(put(w, key, old_text, sizeof(old_text), 0), 0);
				fault.armed = true;
				fault.late = late;
				fault.error = errors[e].host;
				fault.countdown = n;
				fault.hit = false;
				int r = put(w, key, new_text, sizeof(new_text), create ? OBJECT_CREATE : 0);
				fault.armed = false;
				hit = fault.hit;
				if (r < 0) {
					failures++;
					bool known = false;
					for (size_t i = 0; i < ARRAY_SIZE(object_errors); i++)
						known |= r == object_errors[i];
					assert_true(known && hit);
					if (r !=
					    errors[e]
						.object) /* O_DIRECT and fallocate may be refused: then there is another way */
						fail_msg("errno %d became %d: %s", errors[e].host, r, w->call.message);
				}
				assert_whole(w, key, fresh, r == 0);
				assert_int_equal(put(w, key, new_text, sizeof(new_text), 0), 0);
				assert_whole(w, key, fresh, true);
				assert_true(n < 60);
			}
		}
	assert_true(failures > 100);
	assert_int_equal(count_files(w->path, ".tmp~"), 0);
}

/* The process dies before and after every system call of a put: old or new is there, and what is left over goes. */
static void a_death_anywhere_leaves_old_or_new(void **state)
{
	struct world *w = *state;
	unsigned deaths = 0;

	fault.no_flush = true;
	for (int variant = 0; variant < 8; variant++) {
		bool fresh = variant & 1, late = variant & 2, create = (variant & 4) && fresh, died = true;
		for (int n = 1; died; n++) {
			char key[64];
			int status;
			snprintf(key, sizeof(key), "%d/%d/k", variant, n);
			if (!fresh)
				assert_int_equal(put(w, key, old_text, sizeof(old_text), 0), 0);
			pid_t child = fork();
			if (child == 0) {
				fault.armed = fault.die = true;
				fault.late = late;
				fault.countdown = n;
				struct iovec iov = {(void *)(uintptr_t)new_text, sizeof(new_text)};
				struct object_call call = {0};
				int r = w->store->ops->put(w->store, &call, key, &iov, 1, create ? OBJECT_CREATE : 0);
				fault.armed = false;
				_exit(r == 0 ? 7 : 8);
			}
			assert_int_equal(waitpid(child, &status, 0), child);
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 8);
			died = WEXITSTATUS(status) == 0;
			deaths += died;
			assert_whole(w, key, fresh, !died);
			assert_int_equal(put(w, key, new_text, sizeof(new_text), 0), 0);
			assert_true(n < 60);
		}
	}
	assert_true(deaths > 60);
	assert_true(count_files(w->path, ".tmp~") > 10);
	w->skew_ns = 2 * DAY;
	struct keys k = {.cap = 0};
	assert_int_equal(list(w, "", "", &k), 0);
	assert_int_equal(count_files(w->path, ".tmp~"), 0);
	assert_int_equal(k.n, count_files(w->path, "k"));
}

/* The same for the first use of a directory: it can be begun again. */
static void a_death_at_first_use_can_be_repeated(void **state)
{
	struct world *w = *state;

	fault.no_flush = true;
	for (int late = 0; late < 2; late++) {
		bool died = true;
		for (int n = 1; died; n++) {
			char path[300];
			int status;
			snprintf(path, sizeof(path), "%s/first-%d-%d", w->top, late, n);
			pid_t child = fork();
			if (child == 0) {
				struct store_dir_config c = {.path = path, .create = true};
				struct object_store *s;
				char message[OBJECT_MESSAGE_MAX];
				fault.armed = fault.die = true;
				fault.late = late;
				fault.countdown = n;
				_exit(store_dir_open(&c, &s, message) == 0 ? 7 : 8);
			}
			assert_int_equal(waitpid(child, &status, 0), child);
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 8);
			died = WEXITSTATUS(status) == 0;
			struct object_store *s = open_at(w, path, true);
			struct object_call call = {0};
			assert_int_equal(s->ops->put(s, &call, "k", NULL, 0, 0), 0);
			object_store_close(s);
			assert_true(n < 40);
		}
	}
}

/* A disk that gives back other bytes is found before the object has its name. */
static void what_the_disk_garbles_is_not_stored(void **state)
{
	static const size_t sizes[] = {1, 4096, MIB, BIG};
	struct world *w = *state;
	struct object_info info;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		assert_int_equal(head(w, "k", &info), -ENOENT); /* and the marker is read */
		fault.damage = true;
		int r = put(w, "k", w->big, sizes[i], 0);
		fault.damage = false;
		assert_int_equal(r, -EBADMSG);
		assert_int_equal(head(w, "k", &info), -ENOENT);
		assert_int_equal(count_files(w->path, ".tmp~"), 0);
	}
}

static void without_rename_a_link_and_without_both_a_clear_no(void **state)
{
	struct world *w = *state;
	struct object_info info;

	fault.no_rename = true;
	assert_int_equal(put(w, "a/k", "one", 3, OBJECT_CREATE), 0);
	assert_int_equal(put(w, "a/k", "two", 3, OBJECT_CREATE), -EEXIST);
	assert_holds(w, "a/k", "one", 3);
	fault.no_link = true;
	assert_int_equal(put(w, "a/l", "two", 3, OBJECT_CREATE), -EOPNOTSUPP);
	assert_int_equal(head(w, "a/l", &info), -ENOENT);
	assert_int_equal(put(w, "a/l", "two", 3, 0), 0);
	fault.no_rename = fault.no_link = false;
	assert_int_equal(count_files(w->path, ".tmp~"), 0);
}

/* ---- time ---- */

static void a_call_ends_when_its_time_is_over_or_it_is_given_up(void **state)
{
	struct world *w = *state;
	atomic_bool cancel = true;
	struct object_info info;
	struct iovec iov = {w->big, BIG};
	char *p = malloc(BIG);

	w->mono_ns = 1000000;
	for (int given_up = 0; given_up < 2; given_up++)
		for (int64_t ticks = 0; ticks < 12; ticks++) {
			struct object_call call = {.deadline_ns = given_up ? 0 : w->mono_ns + ticks * 1000,
						   .cancel = given_up ? &cancel : NULL};
			struct object_call before_it = call;
			int expected = given_up ? -ECANCELED : -ETIMEDOUT;
			int r = w->store->ops->put(w->store, &call, "k", &iov, 1, 0);
			assert_int_equal(r, given_up || ticks < 10 ? expected : 0); /* once, and 4 pieces out and in */
			assert_int_equal(call.message[0] != '\0', r < 0);
			assert_int_equal(count_files(w->path, ".tmp~"), 0);
			assert_int_equal(head(w, "k", &info), r == 0 ? 0 : -ENOENT);
			if (r < 0)
				continue;
			assert_holds(w, "k", w->big, BIG);
			for (int64_t t = 0; t < 8; t++) {
				call = before_it;
				call.deadline_ns = w->mono_ns + t * 1000;
				assert_int_equal(w->store->ops->get(w->store, &call, "k", 0, BIG, p), t < 6 ? -ETIMEDOUT : 0);
			}
			assert_int_equal(drop(w, "k"), 0);
		}
	struct object_call call = {.cancel = &cancel};
	struct keys k = {.cap = 0};
	assert_int_equal(w->store->ops->list(w->store, &call, "", "", take_key, &k), -ECANCELED);
	assert_int_equal(w->store->ops->remove(w->store, &call, "k"), -ECANCELED);
	assert_int_equal(w->store->ops->head(w->store, &call, "k", &info), -ECANCELED);
	free(p);
}

/* ---- threads ---- */

struct racer {
	struct world *w;
	int id, won;
	pthread_t thread;
};
#define RACES 40

static void *race(void *arg)
{
	struct racer *r = arg;

	for (int i = 0; i < RACES; i++) {
		char key[32], text[64];
		struct object_call call = {0};
		struct iovec iov = {text, sizeof(text)};
		memset(text, 'a' + r->id, sizeof(text));
		snprintf(key, sizeof(key), "race/%d/k", i);
		int e = r->w->store->ops->put(r->w->store, &call, key, &iov, 1, OBJECT_CREATE);
		if (e == 0)
			r->won++;
		else if (e != -EEXIST)
			abort();
		e = r->w->store->ops->put(r->w->store, &call, "shared", &iov, 1, 0);
		if (e < 0 || r->w->store->ops->get(r->w->store, &call, "shared", 0, sizeof(text), text) < 0)
			abort();
		for (size_t k = 1; k < sizeof(text); k++)
			if (text[k] != text[0])
				abort(); /* half of one and half of another */
	}
	return NULL;
}

static void one_of_many_creates_and_nobody_sees_a_half(void **state)
{
	struct world *w = *state;
	struct racer r[6];
	int won = 0;

	for (int i = 0; i < 6; i++) {
		r[i] = (struct racer){.w = w, .id = i};
		assert_int_equal(pthread_create(&r[i].thread, NULL, race, &r[i]), 0);
	}
	for (int i = 0; i < 6; i++) {
		pthread_join(r[i].thread, NULL);
		won += r[i].won;
	}
	assert_int_equal(won, RACES);
	assert_int_equal(count_files(w->path, ".tmp~"), 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(what_is_put_is_there),
	    CASE(pieces_are_joined),
	    CASE(ranges_are_exact),
	    CASE(keys_that_cannot_be_are_refused),
	    CASE(an_object_is_not_below_another),
	    CASE(nothing_below_the_root_leads_out_of_it),
	    CASE(a_disk_that_is_away_is_told_from_an_empty_store),
	    CASE(a_damaged_marker_is_an_error),
	    CASE(a_store_begins_in_an_empty_directory_alone),
	    CASE(lists_are_in_the_order_of_bytes),
	    CASE(a_large_directory_is_listed_in_pages),
	    CASE(old_temporary_files_go),
	    CASE(every_failure_of_a_put_leaves_old_or_new),
	    CASE(a_death_anywhere_leaves_old_or_new),
	    CASE(a_death_at_first_use_can_be_repeated),
	    CASE(what_the_disk_garbles_is_not_stored),
	    CASE(without_rename_a_link_and_without_both_a_clear_no),
	    CASE(a_call_ends_when_its_time_is_over_or_it_is_given_up),
	    CASE(one_of_many_creates_and_nobody_sees_a_half),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
