/* policy.c: the policies "archive" (archiving.h) and "archive.drill", what the newest drill found: a JSON object. */
#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "fs/core/archive/archiving.h"
#include "tier/values.h"

#define WORD_MAX    63u
#define DAY_S       UINT64_C(86400)
#define KEEP_MAX_S  (200 * 366 * DAY_S)
#define INTERVAL_NS (10 * NSEC_PER_SEC)
#define BASE_NS     ((int64_t)DAY_S * NSEC_PER_SEC)

enum { HAS_STORE = 1, HAS_INTERVAL = 2, HAS_BASE = 4, HAS_KEEP = 8 };

static bool is(const char *word, const char *name, const char **ret_value)
{
	size_t n = strlen(name);

	*ret_value = word + n + 1;
	return strncmp(word, name, n) == 0 && word[n] == '=';
}

static bool read_word(const char *word, struct archive_policy *p, unsigned *has)
{
	const char *value;
	unsigned bit = 0;
	bool good = false;

	if (is(word, "store", &value)) {
		bit = HAS_STORE;
		good = store_name_valid(value) && strlen(value) <= STORE_NAME_MAX;
		if (good)
			strcpy(p->store, value);
	} else if (is(word, "interval", &value)) {
		bit = HAS_INTERVAL;
		good = value_read_time(value, 1, DAY_S, &p->interval_ns);
	} else if (is(word, "base", &value)) {
		bit = HAS_BASE;
		good = value_read_time(value, 60, 366 * DAY_S, &p->base_ns);
	} else if (is(word, "keep", &value)) {
		bit = HAS_KEEP;
		good = value_read_time(value, 0, KEEP_MAX_S, &p->keep_ns);
	}
	good = good && !(*has & bit);
	*has |= bit;
	return good;
}

int archive_policy_parse(const char *text, struct archive_policy *ret)
{
	struct archive_policy p = {.interval_ns = INTERVAL_NS, .base_ns = BASE_NS};
	unsigned has = 0;

	while (*text) {
		char word[WORD_MAX + 1];
		size_t n = strcspn(text, " ");

		if (n > WORD_MAX)
			return -EINVAL;
		memcpy(word, text, n);
		word[n] = '\0';
		if (n > 0 && !read_word(word, &p, &has))
			return -EINVAL;
		text += n + (text[n] == ' ');
	}
	if (!(has & HAS_STORE))
		return -EINVAL;
	*ret = p;
	return 0;
}

static bool key_is(struct slice key, const char *name)
{
	return key.len == strlen(name) && memcmp(key.p, name, key.len) == 0;
}

bool archive_policy_is(struct slice key)
{
	return key_is(key, "archive") || key_is(key, "archive.drill");
}

int archive_policy_check(struct slice key, const char *value)
{
	struct archive_policy policy;

	if (!value)
		return 0;
	if (key_is(key, "archive"))
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
