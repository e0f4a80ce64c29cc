/* acl.c: see acl.h.  Algorithms: POSIX.1e draft 17, sections 23.1.2 (correspondence to mode) and 23.1.5.1 (creation). */
#include "fs/core/acl.h"

#include <errno.h>
#include <string.h>

#include "base/le.h"

enum { TAG_USER_OBJ = 0x01, TAG_USER = 0x02, TAG_GROUP_OBJ = 0x04, TAG_GROUP = 0x08, TAG_MASK = 0x10, TAG_OTHER = 0x20 };

struct acl_entry {
	le16 tag, perm;
	le32 id;
};
struct acl_header {
	le32 version;
};

/* The entries that correspond to the mode's three classes. */
struct acl_classes {
	struct acl_entry *user, *group, *mask, *other;
	bool named;
};

static int classify(void *acl, size_t len, struct acl_classes *ret)
{
	struct acl_header h;

	memset(ret, 0, sizeof(*ret));
	if (len < sizeof(h) || (len - sizeof(h)) % sizeof(struct acl_entry) != 0 || len > ACL_BYTES_MAX)
		return -EINVAL;
	memcpy(&h, acl, sizeof(h));
	if (le32_get(h.version) != 2)
		return -EINVAL;
	struct acl_entry *e = (struct acl_entry *)((uint8_t *)acl + sizeof(h));
	for (size_t n = (len - sizeof(h)) / sizeof(*e); n > 0; n--, e++) {
		struct acl_entry **at = NULL;

		if (le16_get(e->perm) > 7)
			return -EINVAL;
		switch (le16_get(e->tag)) {
		case TAG_USER_OBJ:
			at = &ret->user;
			break;
		case TAG_GROUP_OBJ:
			at = &ret->group;
			break;
		case TAG_MASK:
			at = &ret->mask;
			break;
		case TAG_OTHER:
			at = &ret->other;
			break;
		case TAG_USER:
		case TAG_GROUP:
			ret->named = true;
			continue;
		default:
			return -EINVAL;
		}
		if (*at)
			return -EINVAL;
		*at = e;
	}
	return ret->user && ret->group && ret->other && (ret->mask || !ret->named) ? 0 : -EINVAL;
}

int acl_to_mode(const void *acl, size_t len, uint32_t *mode, bool *ret_minimal)
{
	struct acl_classes c;
	int r = classify((void *)(uintptr_t)acl, len, &c);

	if (r < 0)
		return r;
	*mode = (*mode & ~0777u) | (uint32_t)le16_get(c.user->perm) << 6 |
		(uint32_t)le16_get((c.mask ? c.mask : c.group)->perm) << 3 | le16_get(c.other->perm);
	*ret_minimal = !c.mask && !c.named;
	return 0;
}

int acl_set_mode(void *acl, size_t len, uint32_t mode)
{
	struct acl_classes c;
	int r = classify(acl, len, &c);

	if (r < 0)
		return r;
	c.user->perm = le16_make(mode >> 6 & 7);
	(c.mask ? c.mask : c.group)->perm = le16_make(mode >> 3 & 7);
	c.other->perm = le16_make(mode & 7);
	return 0;
}

static uint32_t narrow(struct acl_entry *e, uint32_t bits)
{
	bits &= le16_get(e->perm);
	e->perm = le16_make((uint16_t)bits);
	return bits;
}

int acl_inherit(void *acl, size_t len, uint32_t *mode, bool *ret_minimal)
{
	struct acl_classes c;
	int r = classify(acl, len, &c);

	if (r < 0)
		return r;
	uint32_t user = narrow(c.user, *mode >> 6 & 7), other = narrow(c.other, *mode & 7);
	uint32_t group = narrow(c.mask ? c.mask : c.group, *mode >> 3 & 7);
	*mode = (*mode & ~0777u) | user << 6 | group << 3 | other;
	*ret_minimal = !c.mask && !c.named;
	return 0;
}
