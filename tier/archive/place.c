/*
 * place.c: objects of an archive on their way into a store and out of it.
 *
 * What is put counts only once the store confirmed its checksum, or it was read back.  An error names the object, in words.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tier/archive/object.h"

static int complain(struct archive_place *p, const struct archive_id *id, const struct object_call *call, int error,
		    const char *what)
{
	char key[ARCHIVE_NAME_MAX];

	archive_name(id, key);
	snprintf(p->message, sizeof(p->message), "%s: %s", key,
		 what                     ? what
		 : call && *call->message ? call->message
					  : strerror(-error));
	return error;
}

static const char *words_of(int error)
{
	switch (error) {
	case -ENOKEY:
		return "it is encrypted: the key of the volume is needed";
	case -EBADMSG:
		return "damaged, not this archive's object of that name, or the key is not the one it was made with";
	case -EUCLEAN:
		return "its structure is impossible";
	case -EPROTONOSUPPORT:
		return "made by a newer clawfs";
	default:
		return NULL;
	}
}

static int get_all(struct archive_place *p, const struct archive_id *id, struct buf *to)
{
	struct object_call call = {.purpose = p->purpose}, second = {.purpose = p->purpose};
	char key[ARCHIVE_NAME_MAX];
	struct object_info info;

	archive_name(id, key);
	int r = p->store->ops->head(p->store, &call, key, &info);
	if (r < 0)
		return complain(p, id, &call, r, r == -ENOENT ? "missing from the store" : NULL);
	if (info.size < ARCHIVE_HEADER_BYTES || info.size > ARCHIVE_HEADER_BYTES + (uint64_t)ARCHIVE_BODY_MAX)
		return complain(p, id, NULL, -EBADMSG, "of a length that no object of an archive has");
	buf_reset(to);
	uint8_t *bytes = buf_grow(to, (size_t)info.size);
	if (!bytes)
		return complain(p, id, NULL, -ENOMEM, NULL);
	r = p->store->ops->get(p->store, &second, key, 0, (size_t)info.size, bytes);
	return r < 0 ? complain(p, id, &second, r, r == -ENOENT ? "missing from the store" : NULL) : 0;
}

int archive_fetch(struct archive_place *p, const struct archive_id *id, struct archive_info *ret, struct buf *body,
		  struct buf *scratch)
{
	int r = get_all(p, id, scratch);

	if (r < 0)
		return r;
	r = archive_unseal(id, p->volume, p->key, (struct slice){scratch->p, scratch->len}, ret, body);
	return r < 0 ? complain(p, id, NULL, r, words_of(r)) : 0;
}

int archive_fetch_header(struct archive_place *p, const struct archive_id *id, struct archive_info *ret)
{
	struct object_call call = {.purpose = p->purpose};
	uint8_t bytes[ARCHIVE_HEADER_BYTES];
	char key[ARCHIVE_NAME_MAX];

	archive_name(id, key);
	int r = p->store->ops->get(p->store, &call, key, 0, sizeof(bytes), bytes);
	if (r < 0)
		return complain(p, id, &call, r, r == -ENOENT ? "missing from the store" : NULL);
	r = archive_peek(bytes, ret);
	if (r == 0 && (ret->id.kind != id->kind || ret->id.epoch != id->epoch || ret->id.seq != id->seq ||
		       ret->id.part != id->part || memcmp(ret->volume, p->volume, sizeof(p->volume)) != 0))
		r = -EBADMSG;
	return r < 0 ? complain(p, id, NULL, r, words_of(r)) : 0;
}

int archive_find_volume(struct archive_place *p)
{
	struct archive_info info;
	int r = -ENOENT, first = -ENOENT;

	for (uint32_t part = 0; part < 2; part++) {
		const struct archive_id id = {.kind = ARCHIVE_MANIFEST, .part = part};
		struct object_call call = {.purpose = p->purpose};
		uint8_t bytes[ARCHIVE_HEADER_BYTES];
		char key[ARCHIVE_NAME_MAX];

		archive_name(&id, key);
		r = p->store->ops->get(p->store, &call, key, 0, sizeof(bytes), bytes);
		if (r == 0)
			r = archive_peek(bytes, &info);
		if (r == 0) {
			memcpy(p->volume, info.volume, sizeof(p->volume));
			return 0;
		}
		complain(p, &id, &call, r, r == -ENOENT ? "there is no archive here" : words_of(r));
		first = first == -ENOENT ? r : first;
	}
	return first;
}

static int compare(struct archive_place *p, const struct archive_id *id, struct slice object)
{
	CLEANUP_BUF struct buf there = {0};
	int r = get_all(p, id, &there);

	if (r < 0)
		return r;
	return there.len == object.len && memcmp(there.p, object.p, object.len) == 0 ? 0 : -EEXIST;
}

int archive_put(struct archive_place *p, const struct archive_id *id, struct slice object, bool create)
{
	struct iovec iov = {(void *)(uintptr_t)object.p, object.len};
	struct object_call call = {.purpose = p->purpose};
	char key[ARCHIVE_NAME_MAX];

	archive_name(id, key);
	int r = p->store->ops->put(p->store, &call, key, &iov, 1, create ? OBJECT_CREATE : 0);
	if (r == -EOPNOTSUPP && create) { /* a store without conditions: who asks has looked whether it is there */
		call = (struct object_call){.purpose = p->purpose};
		r = p->store->ops->put(p->store, &call, key, &iov, 1, 0);
	}
	if (r == -EEXIST) {
		r = compare(p, id, object);
		if (r == -EBADMSG) /* cut off, perhaps */
			r = -EEXIST;
		return r == -EEXIST ? complain(p, id, NULL, r, "there is another object of that name") : r;
	}
	if (r < 0)
		return complain(p, id, &call, r, NULL);
	if (call.verified && !p->read_back)
		return 0;
	r = compare(p, id, object);
	return r == -EEXIST ? complain(p, id, NULL, -EBADMSG, "the store does not give back what was put") : r;
}

int archive_put_hint(struct archive_place *p, const struct archive_id *id, struct slice object)
{
	struct iovec iov = {(void *)(uintptr_t)object.p, object.len};
	struct object_call call = {.purpose = p->purpose};
	char key[ARCHIVE_NAME_MAX];

	archive_name(id, key);
	return p->store->ops->put(p->store, &call, key, &iov, 1, 0);
}

int archive_remove(struct archive_place *p, const struct archive_id *id)
{
	struct object_call call = {.purpose = p->purpose};
	char key[ARCHIVE_NAME_MAX];

	archive_name(id, key);
	int r = p->store->ops->remove(p->store, &call, key);
	return r < 0 && r != -ENOENT ? complain(p, id, &call, r, NULL) : 0;
}
