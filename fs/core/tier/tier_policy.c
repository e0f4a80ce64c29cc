/*
 * tier_policy.c: what is said of a directory or file about going out and coming back.
 *
 *     tier      "after=TIME min=SIZE store=NAME", in any order, or "none"; after= is 30d and min= is 0 where they are left out
 *     tier.pin  "on" or "off": what is below stays here
 *     recall    "cache", "stream" or "deny"
 *
 * All three are policies of policy.c, inherited one by one: a pin below a directory with a policy leaves that as it is.  TIME and
 * SIZE are as in tier/values.h.  What a newer version has set and this one does not understand means the careful thing here:
 * nothing goes out by it, and what is out is served.
 */
#include <errno.h>
#include <string.h>

#include "fs/core/snap/snap.h"
#include "fs/core/tier/ageing/impl.h"
#include "tier/values.h"

#define AFTER_DEFAULT_NS (30 * DAY_NS)
#define AFTER_MAX_S      (UINT64_C(100) * 366 * 86400)

enum { HAS_AFTER = 1, HAS_MIN = 2, HAS_STORE = 4 };

struct reading {
	struct tier_policy p;
	unsigned has;
};

static bool read_word(void *ctx, const char *word)
{
	struct reading *r = ctx;
	const char *value;
	unsigned bit = 0;
	bool good = false;

	if (value_of_word(word, "after", &value)) {
		bit = HAS_AFTER;
		good = value_read_time(value, 0, AFTER_MAX_S, &r->p.after_ns);
	} else if (value_of_word(word, "min", &value)) {
		bit = HAS_MIN;
		good = value_read_size(value, 0, FILE_SIZE_MAX, &r->p.min_bytes);
	} else if (value_of_word(word, "store", &value)) {
		bit = HAS_STORE;
		good = store_name_valid(value) && strlen(value) <= STORE_NAME_MAX;
		if (good)
			strcpy(r->p.store, value);
	}
	good = good && !(r->has & bit);
	r->has |= bit;
	return good;
}

int tier_policy_parse(const char *text, struct tier_policy *ret)
{
	struct reading r = {.p.after_ns = AFTER_DEFAULT_NS};

	if (strcmp(text, "none") == 0) {
		*ret = (struct tier_policy){.off = true};
		return 0;
	}
	if (!value_each_word(text, read_word, &r) || !(r.has & HAS_STORE))
		return -EINVAL;
	*ret = r.p;
	return 0;
}

static int pin_parse(const char *text, bool *ret)
{
	return value_read_switch(text, ret) ? 0 : -EINVAL;
}

static int recall_parse(const char *text, enum recall_mode *ret)
{
	static const char *const names[] = {[RECALL_CACHE] = "cache", [RECALL_STREAM] = "stream", [RECALL_DENY] = "deny"};

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(text, names[i]) == 0) {
			*ret = (enum recall_mode)i;
			return 0;
		}
	return -EINVAL;
}

bool tier_policy_is(struct slice key)
{
	return policy_key_is(key, "tier") || policy_key_is(key, "tier.pin") || policy_key_is(key, "recall");
}

int tier_policy_check(struct slice key, const char *value)
{
	struct tier_policy policy;
	enum recall_mode mode;
	bool pinned;

	if (!value)
		return 0;
	if (policy_key_is(key, "tier"))
		return tier_policy_parse(value, &policy);
	return policy_key_is(key, "tier.pin") ? pin_parse(value, &pinned) : recall_parse(value, &mode);
}

int tier_policy_get(struct fs *fs, uint64_t ino, struct tier_policy *ret)
{
	char value[FS_POLICY_MAX + 1];
	bool pinned = false;
	int r = fs_get_policy(fs, ino, "tier", true, value);

	*ret = (struct tier_policy){.off = true};
	if (r == 0 && tier_policy_parse(value, ret) < 0)
		*ret = (struct tier_policy){.off = true};
	if (r == -ENODATA)
		r = 0;
	int e = r == 0 ? fs_get_policy(fs, ino, "tier.pin", true, value) : -ENODATA;
	if (e == 0 && pin_parse(value, &pinned) < 0)
		pinned = true;
	ret->pinned = pinned;
	return r < 0 ? r : e == -ENODATA ? 0 : e;
}

int recall_mode_get(struct fs *fs, uint64_t ino, enum recall_mode *ret)
{
	char value[FS_POLICY_MAX + 1];

	if (snap_is_ino(ino)) { /* nothing of a snapshot gets a home again */
		*ret = RECALL_STREAM;
		return 0;
	}
	int r = fs_get_policy(fs, ino, "recall", true, value);

	*ret = RECALL_CACHE;
	if (r == 0 && recall_parse(value, ret) < 0)
		*ret = RECALL_STREAM;
	return r == -ENODATA ? 0 : r;
}
