/*
 * object.h: one object of an archive, as bytes and in a store.  What bodies hold is for others to know (fs/core/archive).
 *
 * An object is bound to its name: kind, epoch, seq and part are in its header, and the tag covers them.  So one that was moved,
 * renamed, cut, or is another volume's is refused, and the name of each follows from the one before: nothing is ever listed.
 * Encryption is that of packs (tier/pack_crypto.h): a fresh AES-256-GCM key an object, sealed by the volume's.  Who gives a key
 * takes no object that is not encrypted: whoever can write to a store could make one up.
 *
 * Ownership: buffers are the caller's.  Threads: no state.
 * Errors: -EBADMSG a checksum, tag or key that does not fit, or another object under this name; -EUCLEAN a structure that cannot
 * be; -EPROTONOSUPPORT a later version; -ENOKEY encrypted, and no key was given; -ENOENT; those of tier/object.h.
 */
#pragma once

#include "base/buf.h"
#include "tier/archive/archive_format.h"
#include "tier/object.h"

enum archive_kind { ARCHIVE_MANIFEST = 1, ARCHIVE_SEGMENT, ARCHIVE_BASE, ARCHIVE_HEAD, ARCHIVE_KINDS };

struct archive_id {
	enum archive_kind kind;
	uint64_t epoch, seq;  /* manifest: 0; head: of the epoch alone */
	uint32_t part;        /* manifest: which of two copies */
};
struct archive_info {
	struct archive_id id;
	uint8_t volume[16];
	uint32_t n_items;
	uint64_t last_seq, next_seq;
	uint32_t next_part;
	uint64_t hash_before, hash_after;
	int64_t first_ns, last_ns;
	/* set by archive_seal() and by reading */
	uint64_t plain_bytes, stored_bytes;
	bool encrypted;
};

/* "archive/manifest-1", "archive/0000000000010001/s/00000000000000a1-0000", "archive/.../b/.../00000000", "archive/.../head" */
#define ARCHIVE_NAME_MAX 96u
void archive_name(const struct archive_id *id, char ret_key[ARCHIVE_NAME_MAX]);
MUST_CHECK int archive_name_parse(const char *key, struct archive_id *ret); /* -EINVAL: none of these */

/* Appends the whole object to `out`; `body` has 1 to ARCHIVE_BODY_MAX bytes.  `key` NULL: not encrypted. */
MUST_CHECK int archive_seal(const struct archive_info *info, const struct pack_volume_key *key, struct slice body, struct buf *out);
/* The first ARCHIVE_HEADER_BYTES of an object, by their checksum alone: good for a hint, not to be believed. */
MUST_CHECK int archive_peek(const uint8_t *p, struct archive_info *ret);
/* The whole object, verified, and that it is `want` of this volume; its body replaces what `body` holds. */
MUST_CHECK int archive_unseal(const struct archive_id *want, const uint8_t volume[16], const struct pack_volume_key *key,
			      struct slice object, struct archive_info *ret, struct buf *body);

/* Where the objects of one archive are. */
struct archive_place {
	struct object_store *store;       /* borrowed */
	uint8_t volume[16];
	const struct pack_volume_key *key;/* borrowed; NULL: not encrypted */
	enum object_purpose purpose;
	bool read_back;                   /* what is put is read again whatever the store confirms */
	char message[OBJECT_MESSAGE_MAX + ARCHIVE_NAME_MAX + 8]; /* after an error: which object, and what is wrong with it */
};
/* The object, fetched and verified.  `scratch` is memory to be used again. */
MUST_CHECK int archive_fetch(struct archive_place *p, const struct archive_id *id, struct archive_info *ret, struct buf *body,
			     struct buf *scratch);
/* Whose archive the store has, by the first manifest that can be read, into p->volume.  -ENOENT: none. */
MUST_CHECK int archive_find_volume(struct archive_place *p);
/* Only its header: a hint. */
MUST_CHECK int archive_fetch_header(struct archive_place *p, const struct archive_id *id, struct archive_info *ret);
/*
 * Puts a sealed object and makes sure that the store has it.  `create`: where there is none of that name; the same bytes are fine,
 * as a try whose answer was lost may have left them, others are -EEXIST.
 */
MUST_CHECK int archive_put(struct archive_place *p, const struct archive_id *id, struct slice object, bool create);
/* The same, put once and not looked at again: for what only is a hint. */
MUST_CHECK int archive_put_hint(struct archive_place *p, const struct archive_id *id, struct slice object);
MUST_CHECK int archive_remove(struct archive_place *p, const struct archive_id *id); /* that it is not there is fine */
