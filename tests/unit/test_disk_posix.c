/* test_disk_posix.c: disk.h over a host directory: creation, I/O of every kind, and each refusal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/disk.h"
#include "base/log.h"
#include "tests/unit/tempdir.h"

struct fixture {
	char dir[256];
	struct store *store;
	uint8_t *p, *q; /* 4 MiB each, aligned */
};
#define ROOM (4 * MIB)

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	tempdir_make(f->dir);
	assert_int_equal(store_posix_open(f->dir, false, &f->store), 0);
	assert_int_equal(posix_memalign((void **)&f->p, DISK_BLOCK, ROOM), 0);
	assert_int_equal(posix_memalign((void **)&f->q, DISK_BLOCK, ROOM), 0);
	for (size_t i = 0; i < ROOM; i++)
		f->p[i] = (uint8_t)(i * 2654435761u >> 13);
	memset(f->q, 0, ROOM);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	store_close(f->store);
	tempdir_remove(f->dir);
	free(f->p);
	free(f->q);
	free(f);
	return 0;
}

static const char *path_of(const struct fixture *f, const char *name)
{
	static char path[512];

	snprintf(path, sizeof(path), "%s/%s", f->dir, name);
	return path;
}

static struct disk *create(struct fixture *f, const char *name, unsigned flags, uint64_t size)
{
	struct disk *d = NULL;

	assert_int_equal(store_open(f->store, name, DISK_CREATE | flags, size, &d), 0);
	assert_int_equal(d->size, size);
	return d;
}

static void created_file_has_size_mode_and_reads_as_zeros(void **state)
{
	struct fixture *f = *state;
	static const unsigned flags[] = {0, DISK_ZERO, DISK_DIRECT, DISK_ZERO | DISK_DIRECT};
	struct stat st;

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		struct disk *d = create(f, "a/file", flags[i], 3 * MIB + 8192);
		assert_int_equal(stat(path_of(f, "a/file"), &st), 0);
		assert_int_equal(st.st_mode, S_IFREG | 0600);
		assert_int_equal(st.st_size, 3 * MIB + 8192);
		assert_true((uint64_t)st.st_blocks * 512 >= 3 * MIB + 8192);
		memset(f->q, 0xff, ROOM);
		assert_int_equal(disk_read(d, f->q, 3 * MIB + 8192, 0), 0);
		for (size_t k = 0; k < 3 * MIB + 8192; k++)
			assert_int_equal(f->q[k], 0);
		disk_close(d);
		assert_int_equal(store_remove(f->store, "a/file"), 0);
	}
	assert_int_equal(stat(path_of(f, "a"), &st), 0);
	assert_int_equal(st.st_mode, S_IFDIR | 0700);
}

static void create_refuses_a_taken_name(void **state)
{
	struct fixture *f = *state;
	struct disk *d = create(f, "x", 0, 8192), *e = NULL;

	assert_int_equal(store_open(f->store, "x", DISK_CREATE, 8192, &e), -EEXIST);
	assert_null(e);
	disk_close(d);
	assert_int_equal(store_remove(f->store, "x"), 0);
	assert_int_equal(store_remove(f->store, "x"), -ENOENT);
	assert_int_equal(store_open(f->store, "x", 0, 8192, &e), -ENOENT);
	assert_int_equal(store_open(f->store, "no/x", 0, 8192, &e), -ENOENT);
}

static void open_refuses_a_wrong_size_and_takes_any_for_zero(void **state)
{
	struct fixture *f = *state;
	struct disk *d = create(f, "x", 0, 8192);

	d = disk_close(d);
	assert_int_equal(truncate(path_of(f, "x"), 4096), 0);
	assert_int_equal(store_open(f->store, "x", 0, 8192, &d), -EUCLEAN);
	assert_int_equal(store_open(f->store, "x", 0, 0, &d), 0);
	assert_int_equal(d->size, 4096);
	disk_close(d);
}

static void written_bytes_are_read_back(void **state)
{
	struct fixture *f = *state;
	static const unsigned opens[] = {0, DISK_DIRECT}, writes[] = {0, DISK_DURABLE};

	for (int i = 0; i < 4; i++) {
		struct disk *d = create(f, "x", opens[i / 2] | DISK_ZERO, ROOM);
		assert_int_equal(disk_write(d, f->p + 4096, MIB, 8192, writes[i % 2]), 0);
		assert_int_equal(disk_flush(d), 0);
		memset(f->q, 0, ROOM);
		assert_int_equal(disk_read(d, f->q, MIB, 8192), 0);
		assert_memory_equal(f->q, f->p + 4096, MIB);
		assert_int_equal(disk_read(d, f->q, 4096, 4096), 0);
		for (int k = 0; k < 4096; k++)
			assert_int_equal(f->q[k], 0);
		disk_close(d);
		assert_int_equal(store_remove(f->store, "x"), 0);
	}
}

static void vectors_longer_than_a_call_takes_are_written_in_order(void **state)
{
	struct fixture *f = *state;
	struct iovec iov[1024];
	struct disk *d = create(f, "x", DISK_DIRECT, ROOM);

	/* Backwards in memory, so that a wrong advance shows. */
	for (size_t i = 0; i < 1024; i++)
		iov[i] = (struct iovec){.iov_base = f->p + (1023 - i) * 4096, .iov_len = 4096};
	assert_int_equal(disk_writev(d, iov, 1024, 0, DISK_DURABLE), 0);
	assert_int_equal(disk_read(d, f->q, ROOM, 0), 0);
	for (size_t i = 0; i < 1024; i++)
		assert_memory_equal(f->q + i * 4096, f->p + (1023 - i) * 4096, 4096);
	disk_close(d);
}

static void write_many_writes_all_of_it(void **state)
{
	struct fixture *f = *state;
	struct disk_write w[500];
	struct disk *d = create(f, "x", DISK_DIRECT, ROOM);

	for (size_t n = 0; n <= ARRAY_SIZE(w); n = n * 3 + 1) {
		for (size_t i = 0; i < n; i++) /* 7 is prime to 1024: scattered, never twice */
			w[i] = (struct disk_write){.p = f->p + i * 4096, .len = 4096, .off = i * 7 % 1024 * 4096};
		memset(f->q, 0, ROOM);
		assert_int_equal(disk_write(d, f->q, ROOM, 0, 0), 0);
		assert_int_equal(disk_write_many(d, w, n), 0);
		assert_int_equal(disk_read(d, f->q, ROOM, 0), 0);
		for (size_t i = 0; i < n; i++)
			assert_memory_equal(f->q + w[i].off, w[i].p, 4096);
	}
	disk_close(d);
}

struct many {
	struct disk *d;
	uint8_t *p;
	size_t index;
};

static void *many_thread(void *arg)
{
	struct many *m = arg;
	struct disk_write w[64];

	for (int round = 0; round < 20; round++) {
		for (size_t i = 0; i < 64; i++)
			w[i] = (struct disk_write){.p = m->p + (m->index * 64 + i) * 4096,
						   .len = 4096,
						   .off = (m->index * 64 + (i * 5 + (size_t)round) % 64) * 4096};
		if (disk_write_many(m->d, w, 64) != 0)
			return m;
	}
	return NULL;
}

static void more_threads_than_rings_write_at_once(void **state)
{
	struct fixture *f = *state;
	struct many m[8];
	pthread_t t[8];
	struct disk *d = create(f, "x", DISK_DIRECT, ROOM);

	for (size_t i = 0; i < 8; i++) {
		m[i] = (struct many){.d = d, .p = f->p, .index = i};
		assert_int_equal(pthread_create(&t[i], NULL, many_thread, &m[i]), 0);
	}
	for (size_t i = 0; i < 8; i++) {
		void *failed;
		pthread_join(t[i], &failed);
		assert_null(failed);
	}
	assert_int_equal(disk_read(d, f->q, 2 * MIB, 0), 0);
	for (size_t i = 0; i < 8; i++)
		for (size_t k = 0; k < 64; k++)
			assert_memory_equal(f->q + (i * 64 + (k * 5 + 19) % 64) * 4096, f->p + (i * 64 + k) * 4096, 4096);
	disk_close(d);
}

static void io_past_the_end_is_refused(void **state)
{
	struct fixture *f = *state;
	struct disk *d = create(f, "x", 0, 16384);
	struct disk_write w[2] = {{.p = f->p, .len = 4096, .off = 0}, {.p = f->p, .len = 4096, .off = 16384}};

	assert_int_equal(disk_read(d, f->q, 8192, 12288), -EIO);
	assert_int_equal(disk_write(d, f->p, 8192, 12288, 0), -EINVAL);
	assert_int_equal(disk_write(d, f->p, 4096, UINT64_MAX - 4095, 0), -EINVAL);
	assert_int_equal(disk_write_many(d, w, 2), -EINVAL);
	disk_close(d);
}

static void read_only_disks_refuse_writes(void **state)
{
	struct fixture *f = *state;
	struct disk *d = create(f, "x", 0, 8192);

	d = disk_close(d);
	assert_int_equal(store_open(f->store, "x", DISK_READONLY, 8192, &d), 0);
	assert_int_equal(disk_write(d, f->p, 4096, 0, 0), -EROFS);
	assert_int_equal(disk_read(d, f->q, 8192, 0), 0);
	disk_close(d);
}

static void mapped_memory_is_the_file(void **state)
{
	struct fixture *f = *state;
	struct disk *d = create(f, "x", DISK_ZERO, 65536);
	void *p, *q;

	assert_int_equal(disk_map(d, 65537, &p), -EINVAL);
	assert_int_equal(disk_map(d, 65536, &p), 0);
	assert_int_equal(disk_map(d, 4096, &q), -EBUSY);
	memcpy((char *)p + 5000, "claws", 5);
	disk_close(d);
	assert_int_equal(store_open(f->store, "x", 0, 65536, &d), 0);
	assert_int_equal(disk_read(d, f->q, 65536, 0), 0);
	assert_memory_equal(f->q + 5000, "claws", 5);
	disk_close(d);
}

static void a_second_open_is_busy_in_this_process_and_another(void **state)
{
	struct fixture *f = *state;
	struct store *s = NULL;
	int status;

	assert_int_equal(store_posix_open(f->dir, false, &s), -EBUSY);
	assert_null(s);
	pid_t pid = fork();
	if (pid == 0)
		_exit(store_posix_open(f->dir, false, &s) == -EBUSY ? 0 : 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	f->store = store_close(f->store);
	assert_int_equal(store_posix_open(f->dir, false, &f->store), 0);
}

static void create_makes_the_directory_private(void **state)
{
	struct fixture *f = *state;
	struct store *s = NULL;
	struct stat st;

	assert_int_equal(store_posix_open(path_of(f, "new"), false, &s), -ENOENT);
	assert_int_equal(store_posix_open(path_of(f, "new"), true, &s), 0);
	store_close(s);
	assert_int_equal(stat(path_of(f, "new"), &st), 0);
	assert_int_equal(st.st_mode, S_IFDIR | 0700);
}

static void symlinks_fifos_and_odd_names_are_refused(void **state)
{
	static const char *const bad[] = {"", "/", "/x", "x/", "..", ".", "../x", "./x", "x/..", "a/b/c"};
	struct fixture *f = *state;
	struct disk *d = create(f, "dir/x", 0, 8192);

	d = disk_close(d);
	assert_int_equal(symlink("dir/x", path_of(f, "link")), 0);
	assert_int_equal(store_open(f->store, "link", 0, 8192, &d), -ELOOP);
	assert_int_equal(store_open(f->store, "link", DISK_CREATE, 8192, &d), -EEXIST);
	assert_int_equal(symlink("dir", path_of(f, "dirlink")), 0);
	assert_int_equal(store_open(f->store, "dirlink/x", 0, 8192, &d), -ENOTDIR);
	assert_int_equal(store_open(f->store, "dirlink/y", DISK_CREATE, 8192, &d), -ENOTDIR);
	assert_int_equal(mkfifo(path_of(f, "fifo"), 0600), 0);
	assert_int_equal(store_open(f->store, "fifo", 0, 0, &d), -EINVAL);
	assert_int_equal(store_open(f->store, "fifo", DISK_READONLY, 0, &d), -EINVAL);
	assert_int_equal(store_open(f->store, "dir", DISK_READONLY, 0, &d), -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(store_open(f->store, bad[i], DISK_CREATE, 4096, &d), -EINVAL);
		assert_int_equal(store_remove(f->store, bad[i]), -EINVAL);
	}
}

/* In a child: the limit cannot be raised again by an unprivileged test. */
static void file_size_limit_is_an_error_and_leaves_no_file(void **state)
{
	struct fixture *f = *state;
	int status;

	pid_t pid = fork();
	if (pid == 0) {
		struct rlimit limit = {MIB, MIB};
		struct disk *d;
		signal(SIGXFSZ, SIG_IGN);
		if (setrlimit(RLIMIT_FSIZE, &limit) < 0)
			_exit(2);
		if (store_open(f->store, "big", DISK_CREATE | DISK_ZERO, 2 * MIB, &d) != -EFBIG)
			_exit(3);
		_exit(access(path_of(f, "big"), F_OK) == 0 ? 4 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void space_and_sync_names_answer(void **state)
{
	struct fixture *f = *state;
	uint64_t free_bytes = 0, total = 0;
	struct disk *d = create(f, "journal/seg", 0, 4096);

	assert_int_equal(store_sync_names(f->store), 0);
	assert_int_equal(store_space(f->store, &free_bytes, &total), 0);
	assert_true(free_bytes > 0 && free_bytes < total);
	disk_close(d);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest cases[] = {
	    CASE(created_file_has_size_mode_and_reads_as_zeros),
	    CASE(create_refuses_a_taken_name),
	    CASE(open_refuses_a_wrong_size_and_takes_any_for_zero),
	    CASE(written_bytes_are_read_back),
	    CASE(vectors_longer_than_a_call_takes_are_written_in_order),
	    CASE(write_many_writes_all_of_it),
	    CASE(more_threads_than_rings_write_at_once),
	    CASE(io_past_the_end_is_refused),
	    CASE(read_only_disks_refuse_writes),
	    CASE(mapped_memory_is_the_file),
	    CASE(a_second_open_is_busy_in_this_process_and_another),
	    CASE(create_makes_the_directory_private),
	    CASE(symlinks_fifos_and_odd_names_are_refused),
	    CASE(file_size_limit_is_an_error_and_leaves_no_file),
	    CASE(space_and_sync_names_answer),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(cases, NULL, NULL);
}
