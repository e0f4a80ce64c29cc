/*
 * squeeze_policy.c: what is said of a directory or file about compression.
 *
 *     compression   "off", "lz4", "zstd" or "zstd:LEVEL"
 *
 * A policy of policy.c.  Unset everywhere it is "off".
 */
#include <errno.h>
#include <string.h>

#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"
#include "tier/values.h"

static int parse(const char *text, struct squeeze_policy *ret)
{
	static const char with_level[] = "zstd:";
	uint64_t level = SQUEEZE_LEVEL_DEFAULT;

	if (strncmp(text, with_level, strlen(with_level)) == 0) {
		if (!value_read_number(text + strlen(with_level), 1, SQUEEZE_LEVEL_MAX, &level))
			return -EINVAL;
		*ret = (struct squeeze_policy){.on = true, .algorithm = PACK_ZSTD, .level = (int)level};
	} else if (strcmp(text, "zstd") == 0) {
		*ret = (struct squeeze_policy){.on = true, .algorithm = PACK_ZSTD, .level = SQUEEZE_LEVEL_DEFAULT};
	} else if (strcmp(text, "lz4") == 0) {
		*ret = (struct squeeze_policy){.on = true, .algorithm = PACK_LZ4};
	} else if (strcmp(text, "off") == 0) {
		*ret = (struct squeeze_policy){0};
	} else {
		return -EINVAL;
	}
	return 0;
}

bool squeeze_policy_is(struct slice key)
{
	return policy_key_is(key, "compression");
}

int squeeze_policy_check(const char *value)
{
	struct squeeze_policy p;

	return value ? parse(value, &p) : 0;
}

int squeeze_policy_get(struct fs *fs, uint64_t ino, struct squeeze_policy *ret)
{
	char value[FS_POLICY_MAX + 1];
	int r = fs_get_policy(fs, ino, "compression", true, value);

	*ret = (struct squeeze_policy){0};
	if (r == 0 && parse(value, ret) < 0)
		*ret = (struct squeeze_policy){0};
	return r == -ENODATA ? 0 : r;
}
