/* event_path.c: paths of changes, as text or as hex digits, against a prefix of whole names. */
#include "fs/cli/event_path.h"

#include <stdio.h>
#include <string.h>

#include "fs/core/feed/feed.h"

static bool is_below(const char *path, const char *prefix)
{
	size_t n = strlen(prefix);

	while (n > 0 && prefix[n - 1] == '/')
		n--;
	return strncmp(path, prefix, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* The bytes of a path of which the line has the hex digits. */
static bool hex_is_below(const char *hex, const char *prefix)
{
	char path[FEED_PATH_CAP + RECORD_NAME_MAX + 2];
	size_t n = strlen(hex) / 2;
	unsigned byte;

	if (n >= sizeof(path))
		return false;
	for (size_t i = 0; i < n; i++) {
		if (sscanf(hex + 2 * i, "%2x", &byte) != 1)
			return false;
		path[i] = (char)byte;
	}
	path[n] = '\0';
	return is_below(path, prefix);
}

/* One of a line's two paths.  One that can no longer be told may be any. */
static bool path_matches(const json_t *event, const char *key, const char *hex_key, const char *prefix)
{
	const json_t *path = json_object_get(event, key), *hex = json_object_get(event, hex_key);

	if (json_is_null(path))
		return true;
	if (json_is_string(path))
		return is_below(json_string_value(path), prefix);
	return json_is_string(hex) && hex_is_below(json_string_value(hex), prefix);
}

bool event_is_below(const json_t *event, const char *prefix)
{
	return path_matches(event, "path", "path_hex", prefix) || path_matches(event, "to", "to_hex", prefix);
}
