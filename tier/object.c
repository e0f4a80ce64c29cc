/* object.c: what all object stores have in common: which keys there are, which errors pass, and their end. */
#include "tier/object.h"

#include <errno.h>
#include <string.h>

static bool key_byte(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

/* One part of a key, between slashes. */
static bool part_valid(const char *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!key_byte(p[i]))
			return false;
	return len && !(p[0] == '.' && (len == 1 || (len == 2 && p[1] == '.')));
}

bool object_key_valid(const char *key)
{
	size_t len = strnlen(key, OBJECT_KEY_MAX + 1), from = 0;

	if (len > OBJECT_KEY_MAX)
		return false;
	for (size_t i = 0; i <= len; i++)
		if (i == len || key[i] == '/') {
			if (!part_valid(key + from, i - from))
				return false;
			from = i + 1;
		}
	return true;
}

bool object_error_passes(int error)
{
	switch (error) {
	case -EBUSY:
	case -ETIMEDOUT:
	case -ECONNREFUSED:
	case -ECONNRESET:
	case -EHOSTUNREACH:
	case -EIO:
	case -EBADMSG: /* a body torn or damaged on its way */
	case -ENODEV:  /* a disk that is not mounted yet */
		return true;
	default:
		return false;
	}
}

struct object_store *object_store_close(struct object_store *s)
{
	if (s)
		s->ops->close(s);
	return NULL;
}
