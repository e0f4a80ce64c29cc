/*
 * bench-files: system calls on many small files, timed, for the rows of the benchmark that fio has no job for.
 *
 * It works below DIR on the files DIR/THREAD/DIRECTORY/FILE and prints one line of JSON: operations done, and the seconds from
 * the moment all threads were ready to the moment the last one was done.  Directories are made before the clock starts.
 * Each thread has directories of its own, so that no two contend for a directory's lock in the kernel: what is compared is
 * the filesystems, not the VFS.  The amount of work is a count, the same on both sides, or, for operations that wait for the
 * disk, a time.
 * Failure: the first error is printed and the exit status is 1; what was made stays.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX    256u
#define SIZE_MAX_BYTES (1u << 20)

enum operation { OP_CREATE, OP_STAT, OP_UNLINK, OP_OPEN, OP_APPEND, OP_QUEUE };

struct options {
	enum operation operation;
	const char *dir;
	uint64_t count;         /* files a thread; with `seconds`: no limit */
	uint64_t per_directory; /* files in one directory */
	uint32_t n_threads;
	double seconds; /* 0: until `count` is reached */
	size_t size;    /* bytes to write into a new file, to read from an old one */
	bool fsync;
};

struct worker {
	const struct options *o;
	uint32_t number;
	uint64_t done;
	char *data;
	int append_fd; /* OP_APPEND: the thread's one file */
	pthread_t thread;
};

static pthread_barrier_t ready;
static _Atomic int64_t deadline_ns; /* set between the two waits at `ready` */

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what, const char *path)
{
	fprintf(stderr, "bench-files: %s %s: %s\n", what, path, strerror(errno));
	exit(1);
}

static void make_directory(const char *path)
{
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		die("mkdir", path);
}

static void file_path(const struct worker *w, uint64_t i, char *path, size_t cap)
{
	snprintf(path, cap, "%s/%02u/%06llu/f%08llu", w->o->dir, w->number, (unsigned long long)(i / w->o->per_directory),
		 (unsigned long long)i);
}

static void make_directories(const struct worker *w)
{
	uint64_t n = w->o->seconds > 0 ? 1 : (w->o->count - 1) / w->o->per_directory + 1;
	char path[4096];

	snprintf(path, sizeof path, "%s/%02u", w->o->dir, w->number);
	make_directory(path);
	for (uint64_t i = 0; i < n; i++) {
		snprintf(path, sizeof path, "%s/%02u/%06llu", w->o->dir, w->number, (unsigned long long)i);
		make_directory(path);
	}
}

static void create_file(const struct worker *w, const char *path)
{
	int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);

	if (fd < 0)
		die("create", path);
	if (w->o->size && write(fd, w->data, w->o->size) != (ssize_t)w->o->size)
		die("write", path);
	if (w->o->fsync && fsync(fd) < 0)
		die("fsync", path);
	if (close(fd) < 0)
		die("close", path);
}

static void read_file(const struct worker *w, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		die("open", path);
	if (read(fd, w->data, w->o->size) != (ssize_t)w->o->size)
		die("short read of", path);
	if (close(fd) < 0)
		die("close", path);
}

static void open_for_append(struct worker *w)
{
	char path[4096];

	file_path(w, 0, path, sizeof path);
	w->append_fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_APPEND | O_CLOEXEC, 0644);
	if (w->append_fd < 0)
		die("create", path);
}

static void append_to_file(const struct worker *w)
{
	if (write(w->append_fd, w->data, w->o->size) != (ssize_t)w->o->size)
		die("append below", w->o->dir);
	if (fdatasync(w->append_fd) < 0)
		die("fdatasync below", w->o->dir);
}

/* A message arrives and the one before it is done with. */
static void pass_through_queue(const struct worker *w, uint64_t i, const char *path)
{
	char old[4096];

	create_file(w, path);
	if (i == 0)
		return;
	file_path(w, i - 1, old, sizeof old);
	if (unlink(old) < 0)
		die("unlink", old);
}

static void operate(const struct worker *w, uint64_t i)
{
	struct stat st;
	char path[4096];

	file_path(w, w->o->operation == OP_OPEN ? 0 : i, path, sizeof path);
	switch (w->o->operation) {
	case OP_CREATE:
		create_file(w, path);
		break;
	case OP_STAT:
		if (lstat(path, &st) < 0)
			die("stat", path);
		break;
	case OP_UNLINK:
		if (unlink(path) < 0)
			die("unlink", path);
		break;
	case OP_OPEN:
		read_file(w, path);
		break;
	case OP_APPEND:
		append_to_file(w);
		break;
	case OP_QUEUE:
		pass_through_queue(w, i, path);
		break;
	}
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	pthread_barrier_wait(&ready);
	pthread_barrier_wait(&ready);
	for (uint64_t i = 0; w->o->seconds > 0 || i < w->o->count; i++) {
		if (w->o->seconds > 0 && now_ns() >= atomic_load_explicit(&deadline_ns, memory_order_relaxed))
			break;
		operate(w, i);
		w->done++;
	}
	return NULL;
}

static void run(const struct options *o)
{
	struct worker workers[THREADS_MAX] = {0};
	uint64_t done = 0;
	int64_t start, ns;

	pthread_barrier_init(&ready, NULL, o->n_threads + 1);
	for (uint32_t i = 0; i < o->n_threads; i++) {
		struct worker *w = &workers[i];

		w->o = o;
		w->number = i;
		w->data = malloc(o->size + 1);
		if (!w->data)
			die("malloc", "");
		memset(w->data, 'a' + (int)(i % 26), o->size + 1);
		if (o->operation == OP_CREATE || o->operation == OP_APPEND || o->operation == OP_QUEUE)
			make_directories(w);
		if (o->operation == OP_APPEND)
			open_for_append(w);
		if (pthread_create(&w->thread, NULL, worker_main, w) != 0)
			die("pthread_create", "");
	}
	pthread_barrier_wait(&ready);
	start = now_ns();
	atomic_store_explicit(&deadline_ns, start + (int64_t)(o->seconds * 1e9), memory_order_relaxed);
	pthread_barrier_wait(&ready);
	for (uint32_t i = 0; i < o->n_threads; i++) {
		pthread_join(workers[i].thread, NULL);
		done += workers[i].done;
		if (o->operation == OP_APPEND)
			close(workers[i].append_fd);
		free(workers[i].data);
	}
	ns = now_ns() - start;
	pthread_barrier_destroy(&ready);
	printf("{\"operations\": %llu, \"seconds\": %.6f}\n", (unsigned long long)done, (double)ns / 1e9);
}

static void usage(FILE *to)
{
	fputs("usage: bench-files create|stat|unlink|open|append|queue DIR [options]\n"
	      "  create: open(O_CREAT|O_EXCL), write, close; open: open, read, close of the first file, again and again\n"
	      "  append: to one new file a thread: write, fdatasync; queue: create, and unlink of the file before\n"
	      "  --count N          files a thread (default 1000)\n"
	      "  --seconds S        instead of a count\n"
	      "  --threads N        each in directories of its own (default 1)\n"
	      "  --per-directory N  files in one directory (default: all)\n"
	      "  --size BYTES       to write or to read, at most 1 MiB (default 0)\n"
	      "  --fsync            create, queue: fsync before close\n",
	      to);
}

static bool parse_operation(const char *name, enum operation *ret_operation)
{
	static const char *const names[] = {"create", "stat", "unlink", "open", "append", "queue"};

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (strcmp(name, names[i]) == 0) {
			*ret_operation = (enum operation)i;
			return true;
		}
	return false;
}

static bool parse_options(int argc, char **argv, struct options *o)
{
	static const struct option table[] = {
	    {"count", required_argument, NULL, 'n'},   {"seconds", required_argument, NULL, 's'},
	    {"threads", required_argument, NULL, 't'}, {"per-directory", required_argument, NULL, 'd'},
	    {"size", required_argument, NULL, 'b'},    {"fsync", no_argument, NULL, 'f'},
	    {"help", no_argument, NULL, 'h'},          {0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", table, NULL)) != -1) {
		switch (c) {
		case 'n':
			o->count = strtoull(optarg, NULL, 0);
			break;
		case 's':
			o->seconds = strtod(optarg, NULL);
			break;
		case 't':
			o->n_threads = (uint32_t)strtoul(optarg, NULL, 0);
			break;
		case 'd':
			o->per_directory = strtoull(optarg, NULL, 0);
			break;
		case 'b':
			o->size = strtoull(optarg, NULL, 0);
			break;
		case 'f':
			o->fsync = true;
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			return false;
		}
	}
	if (argc - optind != 2 || !parse_operation(argv[optind], &o->operation))
		return false;
	o->dir = argv[optind + 1];
	if (o->n_threads < 1 || o->n_threads > THREADS_MAX || o->size > SIZE_MAX_BYTES || o->count < 1)
		return false;
	/* A time has no known count, so its files share one directory. */
	if (o->seconds > 0 || o->per_directory == 0)
		o->per_directory = UINT64_MAX;
	return o->seconds <= 0 || (o->operation != OP_STAT && o->operation != OP_UNLINK);
}

int main(int argc, char **argv)
{
	struct options o = {.count = 1000, .n_threads = 1};

	if (!parse_options(argc, argv, &o)) {
		usage(stderr);
		return 2;
	}
	run(&o);
	return 0;
}
