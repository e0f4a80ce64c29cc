/* policy.c: the policies "archive" (archiving.h) and "archive.drill", what the newest drill found: a JSON object. */
#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "fs/core/archive/archiving.h"
#include "fs/core/core.h"
#include "tier/values.h"

#define DAY_S       UINT64_C(86400)
#define KEEP_MAX_S  (200 * 366 * DAY_S)
#define INTERVAL_NS (10 * NSEC_PER_SEC)
#define BASE_NS     ((int64_t)DAY_S * NSEC_PER_SEC)

enum { HAS_STORE = 1, HAS_INTERVAL = 2, HAS_BASE = 4, HAS_KEEP = 8 };

struct reading {
	struct archive_policy p;
	unsigned has;
};

static bool read_word(void *ctx, const char *word)
{
	struct reading *r = ctx;
	const char *value;
	unsigned bit = 0;
	bool good = false;

	if (value_of_word(word, "store", &value)) {
		bit = HAS_STORE;
		good = store_name_valid(value) && strlen(value) <= STORE_NAME_MAX;
		if (good)
			strcpy(r->p.store, value);
	} else if (value_of_word(word, "interval", &value)) {
		bit = HAS_INTERVAL;
		good = value_read_time(value, 1, DAY_S, &r->p.interval_ns);
	} else if (value_of_word(word, "base", &value)) {
		bit = HAS_BASE;
		good = value_read_time(value, 60, 366 * DAY_S, &r->p.base_ns);
	} else if (value_of_word(word, "keep", &value)) {
		bit = HAS_KEEP;
		good = value_read_time(value, 0, KEEP_MAX_S, &r->p.keep_ns);
	}
	good = good && !(r->has & bit);
	r->has |= bit;
	return good;
}

int archive_policy_parse(const char *text, struct archive_policy *ret)
{
	struct reading r = {.p.interval_ns = INTERVAL_NS, .p.base_ns = BASE_NS};

	if (!value_each_word(text, read_word, &r) || !(r.has & HAS_STORE))
		return -EINVAL;
	*ret = r.p;
	return 0;
}

bool archive_policy_is(struct slice key)
{
	return policy_key_is(key, "archive") || policy_key_is(key, "archive.drill");
}

int archive_policy_check(struct slice key, const char *value)
{
	struct archive_policy policy;

	if (!value)
		return 0;
	if (policy_key_is(key, "archive"))
		return archive_policy_parse(value, &policy);
	json_t *o = json_loads(value, JSON_REJECT_DUPLICATES, NULL);
	bool good = json_is_object(o);
	json_decref(o);
	return good ? 0 : -EINVAL;
}

bool archive_uses_store(struct fs *fs, const char *name)
{
	char value[FS_POLICY_MAX + 1];
	struct archive_policy p;

	return fs_get_policy(fs, FS_ROOT_INO, "archive", false, value) == 0 && archive_policy_parse(value, &p) == 0 &&
	       strcmp(p.store, name) == 0;
}
