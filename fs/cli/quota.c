/*
 * quota.c: the verbs about what is below a directory: du, quota set, quota show, quota list.
 *
 * All of it is attributes of the mount (fs/face/control_usage.c); here they get names and units for people.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void complain_quota(const char *path, int error)
{
	switch (-error) {
	case EPERM:
		complain("%s: only root and the owner of the mount's root directory may do this", path);
		break;
	case ENOTDIR:
		complain("%s: quotas are of directories", path);
		break;
	case EROFS:
		complain("%s: read-only, or not the leader: quotas are set where the volume is written", path);
		break;
	case ENODATA:
	case EOPNOTSUPP:
		complain("%s: not a directory on a clawfs mount, or its mount does not count", path);
		break;
	default:
		complain("%s: %s", path, strerror(-error));
	}
}

/* ---- du ---- */

static int read_number(const char *path, const char *name, uint64_t *ret)
{
	CLEANUP_BUF struct buf text = {0};
	int r = attribute_read(path, name, &text);

	if (r == 0)
		*ret = strtoull((const char *)text.p, NULL, 10);
	return r;
}

static int read_usage(const char *path, json_t **ret)
{
	CLEANUP_BUF struct buf changed = {0};
	uint64_t bytes = 0, files = 0, subdirs = 0;
	int r = read_number(path, "dir.rbytes", &bytes);

	if (r == 0)
		r = read_number(path, "dir.rfiles", &files);
	if (r == 0)
		r = read_number(path, "dir.rsubdirs", &subdirs);
	if (r == 0)
		r = attribute_read(path, "dir.rctime", &changed);
	if (r < 0)
		return r;
	*ret = json_pack("{s:o, s:I, s:I, s:I, s:s}", "path", bytes_json((struct slice){path, strlen(path)}), "bytes",
			 (json_int_t)bytes, "files", (json_int_t)files, "subdirs", (json_int_t)subdirs, "changed",
			 (const char *)changed.p);
	return *ret ? 0 : -ENOMEM;
}

static void print_usage(const char *path, const json_t *o)
{
	char size[32], when[32] = "?";
	time_t seconds = strtoll(json_string_value(json_object_get(o, "changed")), NULL, 10);
	struct tm tm;

	size_text((uint64_t)json_integer_value(json_object_get(o, "bytes")), size, sizeof(size));
	if (localtime_r(&seconds, &tm))
		strftime(when, sizeof(when), "%F %T", &tm);
	text_print(path);
	printf(": %s in %" JSON_INTEGER_FORMAT " files and %" JSON_INTEGER_FORMAT " directories, changed %s\n", size,
	       json_integer_value(json_object_get(o, "files")), json_integer_value(json_object_get(o, "subdirs")), when);
}

int verb_du(const struct args *a)
{
	json_t *o;
	int r = read_usage(a->operand[0], &o);

	if (r < 0) {
		complain_quota(a->operand[0], r);
		return EXIT_FAILED;
	}
	if (a->json)
		json_print(o);
	else
		print_usage(a->operand[0], o);
	json_decref(o);
	return EXIT_OK;
}

/* ---- quota ---- */

static int set_limit(const char *path, const char *name, const char *value)
{
	int r = value ? attribute_set(path, name, value) : 0;

	if (r == -EINVAL || r == -ERANGE)
		complain("%s: \"%s\" is no limit: a number above 0%s, or none", path, value,
			 strcmp(name, "quota.max_bytes") == 0 ? " with K, M, G, T or P" : "");
	else if (r < 0)
		complain_quota(path, r);
	return r;
}

int verb_quota_set(const struct args *a)
{
	const char *path = a->operand[0];

	if (!a->max_quota_bytes && !a->max_quota_files) {
		complain("quota set: what? give --max-bytes or --max-files, or both");
		return EXIT_USAGE;
	}
	int r = set_limit(path, "quota.max_bytes", a->max_quota_bytes);
	if (r == 0)
		r = set_limit(path, "quota.max_files", a->max_quota_files);
	return r < 0 ? EXIT_FAILED : EXIT_OK;
}

static int read_quotas(const char *path, const char *name, json_t **ret)
{
	int r = attribute_json(path, name, ret);

	if (r < 0)
		return r;
	if (json_is_array(*ret))
		return 0;
	json_decref(*ret);
	return -EPROTO;
}

static void print_limit(const json_t *used, const json_t *max, bool bytes)
{
	char is[32], most[32] = "no limit";
	uint64_t n = (uint64_t)json_integer_value(used), limit = (uint64_t)json_integer_value(max);

	if (bytes)
		size_text(n, is, sizeof(is));
	else
		snprintf(is, sizeof(is), "%" PRIu64 " files", n);
	if (json_is_integer(max) && bytes)
		size_text(limit, most, sizeof(most));
	else if (json_is_integer(max))
		snprintf(most, sizeof(most), "%" PRIu64, limit);
	printf("%s of %s", is, most);
	if (json_is_integer(max) && limit)
		printf(" (%.0f %%)", 100.0 * (double)n / (double)limit);
}

static void print_quotas(const json_t *all)
{
	const json_t *q;
	size_t i;

	json_array_foreach(all, i, q)
	{
		const json_t *path = json_object_get(q, "path");

		if (json_is_null(path)) /* it is for root and the owner of the volume */
			printf("directory %" PRId64, (int64_t)json_integer_value(json_object_get(q, "inode")));
		else
			text_print(path_text(path));
		printf(": ");
		print_limit(json_object_get(q, "bytes"), json_object_get(q, "max_bytes"), true);
		printf(", ");
		print_limit(json_object_get(q, "files"), json_object_get(q, "max_files"), false);
		printf("\n");
	}
}

static int show(const struct args *a, const char *attribute)
{
	json_t *all;
	int r = read_quotas(a->operand[0], attribute, &all);

	if (r < 0) {
		complain_quota(a->operand[0], r);
		return EXIT_FAILED;
	}
	if (a->json)
		json_print(all);
	else if (json_array_size(all) == 0)
		printf("no quota\n");
	else
		print_quotas(all);
	json_decref(all);
	return EXIT_OK;
}

int verb_quota_show(const struct args *a)
{
	return show(a, "quota");
}

int verb_quota_list(const struct args *a)
{
	return show(a, "quota.list");
}
