/* snap.c: the verbs about snapshots: create, delete, list, diff, rollback; over the attributes clawfs.snap.* of the mount. */
#include "fs/cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static int failed(const char *what, const char *name, const char *path, int error)
{
	switch (error) {
	case -EEXIST:
		complain("%s: there is a snapshot %s already", what, name);
		break;
	case -ENOENT:
		complain("%s: there is no snapshot %s; `clawfs snap list %s` shows them", what, name, path);
		break;
	case -EMLINK:
		complain("%s: there are as many snapshots as there can be: delete some", what);
		break;
	case -EINVAL:
	case -ENAMETOOLONG:
		complain("%s: a snapshot's name has 1 to 255 bytes, none of them / or a control character, and is not . or ..",
			 what);
		return EXIT_USAGE;
	default:
		complain_admin(what, path, error);
	}
	return EXIT_FAILED;
}

int verb_snap_create(const struct args *a)
{
	int r = attribute_set(a->operand[1], "snap.create", a->operand[0]);

	return r < 0 ? failed("not made", a->operand[0], a->operand[1], r) : EXIT_OK;
}

int verb_snap_delete(const struct args *a)
{
	int r = attribute_set(a->operand[1], "snap.delete", a->operand[0]);

	return r < 0 ? failed("not deleted", a->operand[0], a->operand[1], r) : EXIT_OK;
}

int verb_snap_rollback(const struct args *a)
{
	int r = attribute_set(a->operand[1], a->no_keep ? "snap.rollback.discard" : "snap.rollback", a->operand[0]);

	if (r == -ENODATA) {
		complain(
		    "not done: %s does not have the snapshot %s itself; the node that made it, or one that followed it then, has",
		    a->operand[1], a->operand[0]);
		return EXIT_FAILED;
	}
	return r < 0 ? failed("not done", a->operand[0], a->operand[1], r) : EXIT_OK;
}

static int show_schedule(const char *path)
{
	CLEANUP_BUF struct buf text = {0};
	int r = attribute_read(path, "snap.schedule", &text);

	if (r < 0 && r != -ENODATA) {
		complain_unreachable(path, r);
		return EXIT_FAILED;
	}
	printf("%s\n", r == 0 ? (const char *)text.p : "none");
	return EXIT_OK;
}

int verb_snap_schedule(const struct args *a)
{
	const char *path = a->operand[a->n_operands - 1];

	if (a->n_operands < 2)
		return show_schedule(path);
	int r = attribute_set(path, "snap.schedule", a->operand[0]);
	if (r == -EINVAL) {
		complain("not a schedule: %s; write counts with units, as 24h7d4w, or none", a->operand[0]);
		return EXIT_USAGE;
	}
	if (r < 0)
		complain_admin("not set", path, r);
	return r < 0 ? EXIT_FAILED : EXIT_OK;
}

/* One page from `from` on is added to `all`; *ret_next: where the next one begins; 0: there is none. */
static int read_page(const char *path, uint64_t from, json_t *all, uint64_t *ret_next)
{
	char name[64];
	json_t *page;

	snprintf(name, sizeof(name), "snap.list.%" PRIu64, from);
	int r = attribute_json(path, name, &page);
	if (r < 0)
		return r;
	r = json_array_extend(all, json_object_get(page, "snapshots")) < 0 ? -EPROTO : 0;
	uint64_t next = (uint64_t)json_integer_value(json_object_get(page, "next"));
	*ret_next = next > from ? next : 0;
	json_decref(page);
	return r;
}

static void print_snapshot(const json_t *s)
{
	const char *name = json_string_value(json_object_get(s, "name")),
		   *hex = json_string_value(json_object_get(s, "name_hex"));
	time_t seconds = (time_t)(json_integer_value(json_object_get(s, "time_ns")) / NSEC_PER_SEC);
	char when[32], only[32] = "not here";
	struct tm tm;

	localtime_r(&seconds, &tm);
	strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
	if (json_is_true(json_object_get(s, "held")))
		size_text((uint64_t)json_integer_value(json_object_get(s, "only_bytes")), only, sizeof(only));
	printf("%s  %12s  %s", when, only, name ? "" : "hex ");
	text_print(name ? name : hex ? hex : "?");
	putchar('\n');
}

int snap_read_list(const char *path, json_t *all)
{
	uint64_t from = 0;
	int r;

	do
		r = read_page(path, from, all, &from);
	while (r == 0 && from > 0);
	return r;
}

int verb_snap_list(const struct args *a)
{
	json_t *all = json_array(), *s;
	size_t i;
	int r = snap_read_list(a->operand[0], all);

	if (r < 0) {
		complain_unreachable(a->operand[0], r);
		json_decref(all);
		return EXIT_FAILED;
	}
	if (a->json)
		json_print(all);
	else
		json_array_foreach(all, i, s) print_snapshot(s);
	json_decref(all);
	return EXIT_OK;
}

/* ---- diff ---- */

/* The number of snapshot `name`; -ENOENT. */
static int number_of(const json_t *all, const char *name, uint64_t *ret)
{
	const json_t *s;
	size_t i;

	json_array_foreach(all, i, s)
	{
		const char *text = json_string_value(json_object_get(s, "name"));

		if (!text || strcmp(text, name) != 0)
			continue;
		*ret = (uint64_t)json_integer_value(json_object_get(s, "gen"));
		return 0;
	}
	return -ENOENT;
}

static void print_change(const json_t *c)
{
	const char *change = json_string_value(json_object_get(c, "change"));
	const json_t *from = json_object_get(c, "from");

	printf("%-8s  ", change ? change : "?");
	if (from) {
		text_print(path_text(from));
		printf(" -> ");
	}
	text_print(path_text(json_object_get(c, "path")));
	putchar('\n');
}

/* One page: printed, or with `all` kept. */
static int diff_page(const char *path, const char *pair, uint64_t from, json_t *all, uint64_t *ret_next)
{
	char name[128];
	json_t *page, *c;
	size_t i;

	snprintf(name, sizeof(name), "snap.diff.%s.%" PRIu64, pair, from);
	int r = attribute_json(path, name, &page);
	if (r < 0)
		return r;
	if (all)
		json_array_extend(all, json_object_get(page, "changes"));
	else
		json_array_foreach(json_object_get(page, "changes"), i, c) print_change(c);
	uint64_t next = (uint64_t)json_integer_value(json_object_get(page, "next"));
	*ret_next = next > from ? next : 0;
	json_decref(page);
	return 0;
}

static int diff(const char *path, const char *pair, bool json)
{
	json_t *all = json ? json_array() : NULL;
	uint64_t from = 0;
	int r;

	do
		r = diff_page(path, pair, from, all, &from);
	while (r == 0 && from > 0);
	if (r == 0 && json)
		json_print(all);
	json_decref(all);
	return r;
}

/* "7.9" or "7.live". */
static int pair_of(const struct args *a, const char *path, char *ret, size_t cap)
{
	const char *later = a->n_operands > 2 ? a->operand[1] : NULL;
	json_t *all = json_array();
	uint64_t from, to;
	int r = snap_read_list(path, all), e = r;

	if (r == 0)
		e = number_of(all, a->operand[0], &from);
	if (r == 0 && e < 0)
		(void)failed("no difference", a->operand[0], path, e);
	if (e == 0 && later && (e = number_of(all, later, &to)) < 0)
		(void)failed("no difference", later, path, e);
	json_decref(all);
	if (e == 0 && later)
		snprintf(ret, cap, "%" PRIu64 ".%" PRIu64, from, to);
	else if (e == 0)
		snprintf(ret, cap, "%" PRIu64 ".live", from);
	if (r < 0)
		complain_unreachable(path, r);
	return e;
}

int verb_snap_diff(const struct args *a)
{
	const char *path = a->operand[a->n_operands - 1];
	char pair[64];

	if (pair_of(a, path, pair, sizeof(pair)) < 0)
		return EXIT_FAILED;
	int r = diff(path, pair, a->json);
	if (r == -ENOENT)
		complain("this node does not hold both snapshots; `clawfs snap list %s` shows what it has", path);
	else if (r < 0)
		complain_unreachable(path, r);
	return r < 0 ? EXIT_FAILED : EXIT_OK;
}
