/*
 * store_tool.c: the program clawfs-store, an object store's verbs on the command line, for tests.
 *
 *     clawfs-store [--timeout SECONDS] [--profile NAME] DEFINITION CREDENTIALS VERB ARGUMENT...
 *
 * DEFINITION is the text of tier/definition.h of an S3 store; CREDENTIALS a file, "-" for the environment's.
 *     put KEY FILE        create KEY FILE (only when there is none)       get KEY OFFSET LENGTH FILE
 *     head KEY            remove KEY            list PREFIX AFTER [MAX]   test
 *     storm THREADS ROUNDS    put, get, head, list, remove by many threads at once, each with keys of its own
 *     script              lines of verbs from standard input, one store for all of them
 * Each verb prints one line of JSON: {"error": "ENOENT", "status": 404, "message": ..., ...}, error "" when it went well.
 * Exit status 0 when every verb was carried out, whatever came of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "tier/probe.h"
#include "tier/s3/s3.h"

#define WORDS_MAX       6
#define STORM_THREADS   64
#define STORM_BYTES_MAX 300000u

struct tool {
	struct object_store *store;
	int64_t timeout_ns;
	struct object_call call;
	json_t *out; /* of the verb */
};

static int64_t deadline(const struct tool *t)
{
	return t->timeout_ns ? clock_mono_ns(&clock_system) + t->timeout_ns : 0;
}

static int bad_usage(void)
{
	fputs("clawfs-store [--timeout SECONDS] [--profile NAME] DEFINITION CREDENTIALS VERB ARGUMENT...\n", stderr);
	return -EINVAL;
}

static int put(struct tool *t, const char *key, const char *path, unsigned flags)
{
	struct stat st;
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) < 0) {
		perror(path);
		exit(2);
	}
	const size_t n = (size_t)st.st_size;
	uint8_t *p = n ? mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
	if (p == MAP_FAILED)
		exit(2);
	/* In parts, one of them empty, as packs come. */
	const struct iovec iov[] = {{p, n / 3}, {p + n / 3, 0}, {p + n / 3, n - n / 3}};
	int r = t->store->ops->put(t->store, &t->call, key, iov, n ? 3 : 0, flags);
	if (n)
		munmap(p, n);
	json_object_set_new(t->out, "verified", json_boolean(t->call.verified));
	return r;
}

static int get(struct tool *t, char **w)
{
	const size_t len = strtoull(w[3], NULL, 0);
	CLEANUP_FREE uint8_t *p = malloc(len ? len : 1);

	int r = t->store->ops->get(t->store, &t->call, w[1], strtoull(w[2], NULL, 0), len, p);
	if (r == 0) {
		CLEANUP_FD int fd = open(w[4], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

		if (fd < 0 || write(fd, p, len) != (ssize_t)len)
			exit(2);
	}
	return r;
}

static json_t *info_json(const struct object_info *info)
{
	return json_pack("{s:I, s:I}", "size", (json_int_t)info->size, "modified_ns", (json_int_t)info->modified_ns);
}

static int head(struct tool *t, char **w)
{
	struct object_info info;

	int r = t->store->ops->head(t->store, &t->call, w[1], &info);
	if (r == 0)
		json_object_set_new(t->out, "info", info_json(&info));
	return r;
}

struct keys {
	json_t *list;
	size_t max;
};

static int on_key(void *ctx, const char *key, const struct object_info *info)
{
	struct keys *k = ctx;

	json_array_append_new(k->list, json_pack("[s, o]", key, info_json(info)));
	return json_array_size(k->list) == k->max;
}

static int list(struct tool *t, char **w, int n)
{
	struct keys k = {.list = json_array(), .max = n > 3 ? strtoull(w[3], NULL, 0) : SIZE_MAX};

	json_object_set_new(t->out, "keys", k.list);
	/* "-" stands for an empty word in scripts. */
	return t->store->ops->list(t->store, &t->call, strcmp(w[1], "-") ? w[1] : "", strcmp(w[2], "-") ? w[2] : "", on_key, &k);
}

static int test(struct tool *t)
{
	CLEANUP_FREE struct probe_report *report = calloc(1, sizeof(*report));
	json_t *steps = json_array();

	int r = probe_store(t->store, &clock_system, t->call.deadline_ns, report);
	for (unsigned i = 0; i < report->n_steps; i++) {
		const struct probe_step *s = &report->step[i];

		json_array_append_new(steps, json_pack("{s:s, s:b, s:b, s:s, s:s, s:I}", "what", s->what, "ok", s->ok, "needed",
						       s->needed, "error", s->error ? strerrorname_np(-s->error) : "", "message",
						       s->message, "microseconds", (json_int_t)s->microseconds));
	}
	json_object_set_new(t->out, "steps", steps);
	json_object_set_new(t->out, "verifies", json_boolean(report->verifies));
	json_object_set_new(t->out, "conditions", json_boolean(report->conditions));
	return r;
}

struct storm {
	struct object_store *store;
	pthread_t thread;
	unsigned number, rounds;
	uint8_t data[STORM_BYTES_MAX], got[STORM_BYTES_MAX];
	int error;
	struct object_call call;
};

static int on_own_key(void *ctx, const char *key, const struct object_info *info)
{
	(void)key, (void)info;
	++*(unsigned *)ctx;
	return 0;
}

static int storm_round(struct storm *s, unsigned round)
{
	const struct object_store_ops *ops = s->store->ops;
	const size_t len = 1 + (s->number * 7919 + round * 104729) % STORM_BYTES_MAX;
	const struct iovec iov = {s->data, len};
	struct object_info info;
	char key[64], prefix[32];
	unsigned n = 0;

	memset(s->data, (int)(s->number + round), len);
	snprintf(prefix, sizeof(prefix), "storm/%u/", s->number);
	snprintf(key, sizeof(key), "%s%u", prefix, round);
	int r = ops->put(s->store, &s->call, key, &iov, 1, 0);
	if (r == 0)
		r = ops->get(s->store, &s->call, key, len / 2, len - len / 2, s->got);
	if (r == 0 && memcmp(s->got, s->data, len - len / 2) != 0)
		r = -EILSEQ;
	if (r == 0)
		r = ops->head(s->store, &s->call, key, &info);
	if (r == 0 && info.size != len)
		r = -EILSEQ;
	if (r == 0)
		r = ops->list(s->store, &s->call, prefix, "", on_own_key, &n);
	if (r == 0 && n != 1)
		r = -EILSEQ;
	return r == 0 ? ops->remove(s->store, &s->call, key) : r;
}

static void *run_storm(void *ctx)
{
	struct storm *s = ctx;

	for (unsigned i = 0; i < s->rounds && s->error == 0; i++)
		s->error = storm_round(s, i);
	return NULL;
}

static int storm(struct tool *t, unsigned n, unsigned rounds)
{
	CLEANUP_FREE struct storm *s = calloc(STORM_THREADS, sizeof(*s));
	int r = 0;

	n = n < STORM_THREADS ? n : STORM_THREADS;
	for (unsigned i = 0; i < n; i++) {
		s[i].store = t->store;
		s[i].number = i;
		s[i].rounds = rounds;
		if (pthread_create(&s[i].thread, NULL, run_storm, &s[i]) != 0)
			exit(2);
	}
	for (unsigned i = 0; i < n; i++) {
		pthread_join(s[i].thread, NULL);
		if (s[i].error < 0 && r == 0) {
			r = s[i].error;
			t->call = s[i].call;
		}
	}
	return r;
}

/* 1: no such verb. */
static int run_words(struct tool *t, char **w, int n)
{
	if (n == 3 && strcmp(w[0], "put") == 0)
		return put(t, w[1], w[2], 0);
	if (n == 3 && strcmp(w[0], "create") == 0)
		return put(t, w[1], w[2], OBJECT_CREATE);
	if (n == 5 && strcmp(w[0], "get") == 0)
		return get(t, w);
	if (n == 2 && strcmp(w[0], "head") == 0)
		return head(t, w);
	if (n == 2 && strcmp(w[0], "remove") == 0)
		return t->store->ops->remove(t->store, &t->call, w[1]);
	if (n >= 3 && strcmp(w[0], "list") == 0)
		return list(t, w, n);
	if (n == 1 && strcmp(w[0], "test") == 0)
		return test(t);
	if (n == 3 && strcmp(w[0], "storm") == 0)
		return storm(t, (unsigned)atoi(w[1]), (unsigned)atoi(w[2]));
	return 1;
}

static int run_verb(struct tool *t, char **w, int n)
{
	t->call = (struct object_call){.deadline_ns = deadline(t)};
	t->out = json_object();
	int r = run_words(t, w, n);
	if (r > 0) {
		json_decref(t->out);
		return bad_usage();
	}
	json_object_set_new(t->out, "error", json_string(r < 0 ? strerrorname_np(-r) : ""));
	json_object_set_new(t->out, "status", json_integer(t->call.status));
	json_object_set_new(t->out, "message", json_string(t->call.message));
	json_object_set_new(t->out, "retry_after_ns", json_integer(t->call.retry_after_ns));
	json_dumpf(t->out, stdout, JSON_COMPACT);
	json_decref(t->out);
	putchar('\n');
	fflush(stdout);
	return 0;
}

static int run_script(struct tool *t)
{
	CLEANUP_FREE char *line = NULL;
	size_t cap = 0;

	while (getline(&line, &cap, stdin) > 0) {
		char *w[WORDS_MAX], *save;
		int n = 0;

		for (char *p = strtok_r(line, " \n", &save); p && n < WORDS_MAX; p = strtok_r(NULL, " \n", &save))
			w[n++] = p;
		if (n > 0 && run_verb(t, w, n) < 0)
			return -EINVAL;
	}
	return 0;
}

int main(int argc, char **argv)
{
	char message[OBJECT_MESSAGE_MAX] = "";
	struct store_definition d;
	struct s3_config c = {.definition = &d};
	struct tool t = {0};
	int at = 1;

	for (; at + 1 < argc && strncmp(argv[at], "--", 2) == 0; at += 2) {
		if (strcmp(argv[at], "--timeout") == 0)
			t.timeout_ns = (int64_t)(strtod(argv[at + 1], NULL) * 1e9);
		else
			c.profile = argv[at + 1];
	}
	if (argc - at < 3)
		return bad_usage() ? 2 : 0;
	int r = store_definition_parse(argv[at], &d, message);
	c.credentials_file = strcmp(argv[at + 1], "-") ? argv[at + 1] : NULL;
	if (r == 0)
		r = s3_open(&c, &t.store, message);
	if (r < 0) {
		json_t *out = json_pack("{s:s, s:s, s:i}", "error", strerrorname_np(-r), "message", message, "status", 0);

		json_dumpf(out, stdout, JSON_COMPACT);
		json_decref(out);
		putchar('\n');
		return 1;
	}
	const bool script = strcmp(argv[at + 2], "script") == 0;
	r = script ? run_script(&t) : run_verb(&t, argv + at + 2, argc - at - 2);
	object_store_close(t.store);
	return r < 0 ? 2 : 0;
}
