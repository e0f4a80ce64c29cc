/* scrub.c: the verbs about damage: scrub start, pause, stop, status, clear, release. */
#include "fs/cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define POLL_US 200000u

static const struct {
	int error;
	const char *text;
} reasons[] = {
    {EALREADY, "it is so already"},
    {ENOENT, "no scrub is under way"},
    {EBADMSG, "part of its index is damaged, which only a resync or a backup brings back: the file can be removed"},
    {EROFS, "this node does not lead: what its leader has is repaired from there; clear it on the leader"},
};

static int complain_scrub(const char *what, const char *path, int error)
{
	for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
		if (-error == reasons[i].error) {
			complain("%s: %s: %s", path, what, reasons[i].text);
			return EXIT_FAILED;
		}
	complain_admin(what, path, error);
	return EXIT_FAILED;
}

static int command(const struct args *a, const char *what, const char *words)
{
	int r = attribute_set(a->operand[0], "scrub", words);

	return r < 0 ? complain_scrub(what, a->operand[0], r) : EXIT_OK;
}

/* All pages of the list of files in one object. */
static int status_all(const char *mountpoint, json_t **ret)
{
	char name[64] = "scrub";
	json_t *all = NULL, *page;
	bool more;
	int r;

	do {
		r = attribute_json(mountpoint, name, &page);
		if (r < 0)
			break;
		const json_t *next = json_object_get(page, "next_file");
		more = next != NULL;
		snprintf(name, sizeof(name), "scrub.files.%" JSON_INTEGER_FORMAT, json_integer_value(next));
		json_object_del(page, "next_file");
		if (all) {
			json_array_extend(json_object_get(all, "files"), json_object_get(page, "files"));
			json_decref(page);
		} else {
			all = page;
		}
	} while (more);
	if (r < 0) {
		json_decref(all);
		return r;
	}
	*ret = all;
	return 0;
}

static json_int_t count_of(const json_t *facts, const char *object, const char *name)
{
	return json_integer_value(json_object_get(object ? json_object_get(facts, object) : facts, name));
}

static bool is_damaged(const json_t *facts)
{
	return count_of(facts, "damage", "bad_blocks") > 0 || count_of(facts, NULL, "bad_rows") > 0;
}

/* ---- start ---- */

static bool is_under_way(const json_t *facts)
{
	const char *state = json_string_value(json_object_get(facts, "state"));

	return state && strcmp(state, "running") == 0;
}

static int wait_until_done(const char *mountpoint)
{
	json_t *facts;
	int r;

	while ((r = attribute_json(mountpoint, "scrub", &facts)) == 0 && is_under_way(facts)) {
		json_decref(facts);
		usleep(POLL_US);
	}
	if (r < 0)
		return complain_scrub("not waited for", mountpoint, r);
	const char *state = json_string_value(json_object_get(facts, "state"));
	bool done = state && strcmp(state, "done") == 0, damaged = is_damaged(facts);
	json_decref(facts);
	if (!done)
		complain("%s: the scrub was halted before its end", mountpoint);
	return !done ? EXIT_FAILED : damaged ? EXIT_DAMAGED : EXIT_OK;
}

int verb_scrub_start(const struct args *a)
{
	char words[64] = "start", rate[40];

	if (a->scrub_rate) {
		snprintf(rate, sizeof(rate), " rate=%" PRIu64, a->scrub_rate);
		strcat(words, rate);
	}
	if (a->cold)
		strcat(words, " cold");
	int r = attribute_set(a->operand[0], "scrub", words);
	if (r < 0 && !(r == -EALREADY && a->wait))
		return complain_scrub("no scrub was started", a->operand[0], r);
	return a->wait ? wait_until_done(a->operand[0]) : EXIT_OK;
}

int verb_scrub_pause(const struct args *a)
{
	return command(a, "not halted", "pause");
}

int verb_scrub_stop(const struct args *a)
{
	return command(a, "not ended", "stop");
}

int verb_scrub_release(const struct args *a)
{
	return command(a, "not tested", "release");
}

int verb_scrub_clear(const struct args *a)
{
	int r = attribute_set(a->operand[0], "scrub.clear", "1");

	return r < 0 ? complain_scrub("not cleared", a->operand[0], r) : EXIT_OK;
}

/* ---- status ---- */

static void print_file(const json_t *file)
{
	json_int_t bad = json_integer_value(json_object_get(file, "bad_blocks"));
	json_int_t repaired = json_integer_value(json_object_get(file, "repaired_blocks"));

	text_print(path_text(json_object_get(file, "path")));
	printf(": ");
	if (bad)
		printf("%" JSON_INTEGER_FORMAT " blocks damaged%s", bad, repaired ? ", " : "");
	if (repaired)
		printf("%" JSON_INTEGER_FORMAT " blocks repaired", repaired);
	putchar('\n');
}

static void print_status(json_t *facts)
{
	json_t *files = json_incref(json_object_get(facts, "files"));
	const json_t *file;
	size_t i;

	json_object_del(facts, "files");
	facts_print(facts);
	json_array_foreach(files, i, file) print_file(file);
	json_decref(files);
}

int verb_scrub_status(const struct args *a)
{
	json_t *facts;
	int r = status_all(a->operand[0], &facts);

	if (r < 0) {
		complain_unreachable(a->operand[0], r);
		return EXIT_FAILED;
	}
	const bool damaged = is_damaged(facts);
	if (a->json)
		json_print(facts);
	else
		print_status(facts);
	json_decref(facts);
	return damaged ? EXIT_DAMAGED : EXIT_OK;
}
