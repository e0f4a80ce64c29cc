/*
 * object.c: sealing and unsealing one object of an archive.
 *
 * Sealing: compress (zstd level 1, where it saves an eighth), encrypt, header last, because its tag covers the body.  Unsealing
 * goes the other way, and each step is checked before its result is used: header by its checksum, name, volume, key, tag, and
 * only then the decompressor, which is told how much there may be.
 */
#include "tier/archive/object.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

#include "base/crc32c.h"
#include "tier/pack_crypto.h"

#define LEVEL       1
#define BOUND_BYTES offsetof(struct archive_header, tag)

void archive_name(const struct archive_id *id, char ret_key[ARCHIVE_NAME_MAX])
{
	if (id->kind == ARCHIVE_MANIFEST)
		snprintf(ret_key, ARCHIVE_NAME_MAX, "archive/manifest-%" PRIu32, id->part);
	else if (id->kind == ARCHIVE_SEGMENT)
		snprintf(ret_key, ARCHIVE_NAME_MAX, "archive/%016" PRIx64 "/s/%016" PRIx64 "-%04" PRIx32, id->epoch, id->seq,
			 id->part);
	else if (id->kind == ARCHIVE_HEAD)
		snprintf(ret_key, ARCHIVE_NAME_MAX, "archive/%016" PRIx64 "/head", id->epoch);
	else
		snprintf(ret_key, ARCHIVE_NAME_MAX, "archive/%016" PRIx64 "/b/%016" PRIx64 "/%08" PRIx32, id->epoch, id->seq,
			 id->part);
}

int archive_name_parse(const char *key, struct archive_id *ret)
{
	struct archive_id id = {0};
	char name[ARCHIVE_NAME_MAX];
	int end = 0;

	if (sscanf(key, "archive/%16" SCNx64 "/s/%16" SCNx64 "-%8" SCNx32 "%n", &id.epoch, &id.seq, &id.part, &end) == 3 && end)
		id.kind = ARCHIVE_SEGMENT;
	else if (sscanf(key, "archive/%16" SCNx64 "/b/%16" SCNx64 "/%8" SCNx32 "%n", &id.epoch, &id.seq, &id.part, &end) == 3 &&
		 end)
		id.kind = ARCHIVE_BASE;
	else if (sscanf(key, "archive/%16" SCNx64 "/head%n", &id.epoch, &end) == 1 && end)
		id = (struct archive_id){.kind = ARCHIVE_HEAD, .epoch = id.epoch};
	else
		id = (struct archive_id){.kind = ARCHIVE_MANIFEST, .part = strcmp(key, "archive/manifest-1") == 0};
	archive_name(&id, name); /* other ways to write the same number are none of ours */
	if (strcmp(name, key) != 0)
		return -EINVAL;
	*ret = id;
	return 0;
}

/* ---- sealing ---- */

static void put_header(const struct archive_info *i, struct archive_header *h)
{
	*h = (struct archive_header){
	    .magic = le64_make(ARCHIVE_MAGIC),
	    .version = le16_make(ARCHIVE_VERSION),
	    .kind = le32_make(i->id.kind),
	    .epoch = le64_make(i->id.epoch),
	    .seq = le64_make(i->id.seq),
	    .part = le32_make(i->id.part),
	    .n_items = le32_make(i->n_items),
	    .last_seq = le64_make(i->last_seq),
	    .next_seq = le64_make(i->next_seq),
	    .next_part = le32_make(i->next_part),
	    .hash_before = le64_make(i->hash_before),
	    .hash_after = le64_make(i->hash_after),
	    .first_ns = le64_make((uint64_t)i->first_ns),
	    .last_ns = le64_make((uint64_t)i->last_ns),
	};
	memcpy(h->volume, i->volume, sizeof(h->volume));
}

/* The body as it will lie in the object, before it is encrypted, behind the header in `out`. */
static int put_body(struct slice body, struct archive_header *h, size_t at, struct buf *out)
{
	size_t most = body.len - body.len / 8;
	uint8_t *p = buf_grow(out, ARCHIVE_HEADER_BYTES + body.len);

	if (!p)
		return -ENOMEM;
	p += ARCHIVE_HEADER_BYTES;
	size_t n = ZSTD_compress(p, body.len, body.p, body.len, LEVEL);
	bool pays = !ZSTD_isError(n) && n <= most && n < body.len;
	if (!pays) {
		memcpy(p, body.p, body.len);
		n = body.len;
	}
	out->len = at + ARCHIVE_HEADER_BYTES + n;
	h->flags = le16_make(pays ? ARCHIVE_COMPRESSED : 0);
	h->plain = le64_make(body.len);
	h->stored = le64_make(n);
	return 0;
}

static void sum_body(struct archive_header *h, const uint8_t *p, size_t n)
{
	le64 sum = le64_make(XXH64(p, n, XXH64(h, BOUND_BYTES, 0)));

	memcpy(h->tag, sum.b, sizeof(sum));
}

static int random_object(uint64_t *ret)
{
	int r;

	do
		r = pack_random(ret, sizeof(*ret));
	while (r == 0 && *ret == 0);
	return r;
}

static int encrypt_with(struct archive_header *h, const struct pack_key *k, uint8_t *p, size_t n)
{
	struct pack_seal s = pack_seal_at(k->bytes, 0, h, BOUND_BYTES);
	EVP_CIPHER_CTX *c = NULL;
	int r = pack_cipher_new(NULL, &c);

	if (r == 0)
		r = pack_encrypt(c, &s, p, n, p, h->tag);
	EVP_CIPHER_CTX_free(c);
	return r;
}

static int encrypt_body(struct archive_header *h, const struct pack_volume_key *key, uint8_t *p, size_t n)
{
	struct pack_key k = {.object = le64_get(h->object), .encrypted = true};
	uint8_t nonce[PACK_NONCE_BYTES];
	int r = pack_random(k.bytes, sizeof(k.bytes));

	memcpy(k.volume, h->volume, sizeof(k.volume));
	if (r == 0)
		r = pack_random(nonce, sizeof(nonce));
	if (r == 0)
		r = pack_seal_key(&k, key, nonce, h->sealed);
	if (r == 0) {
		h->flags = le16_make(le16_get(h->flags) | ARCHIVE_ENCRYPTED);
		r = encrypt_with(h, &k, p, n);
	}
	OPENSSL_cleanse(&k, sizeof(k));
	return r;
}

int archive_seal(const struct archive_info *info, const struct pack_volume_key *key, struct slice body, struct buf *out)
{
	struct archive_header h;
	uint64_t object;
	size_t at = out->len;

	if (body.len == 0 || body.len > ARCHIVE_BODY_MAX)
		return -EINVAL;
	put_header(info, &h);
	int r = random_object(&object);
	h.object = le64_make(object);
	if (r == 0)
		r = put_body(body, &h, at, out);
	if (r < 0)
		return r;
	uint8_t *p = out->p + at + ARCHIVE_HEADER_BYTES;
	size_t n = (size_t)le64_get(h.stored);
	if (key)
		r = encrypt_body(&h, key, p, n);
	else
		sum_body(&h, p, n);
	if (r < 0) {
		out->len = at;
		return r;
	}
	h.crc = le32_make(crc32c(0, &h, offsetof(struct archive_header, crc)));
	memcpy(out->p + at, &h, sizeof(h));
	return 0;
}

/* ---- unsealing ---- */

static bool is_zero(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i])
			return false;
	return true;
}

static int check_header(const struct archive_header *h)
{
	uint32_t flags = le16_get(h->flags), kind = le32_get(h->kind);
	uint64_t plain = le64_get(h->plain), stored = le64_get(h->stored);
	bool compressed = flags & ARCHIVE_COMPRESSED;

	if (le64_get(h->magic) != ARCHIVE_MAGIC || le32_get(h->crc) != crc32c(0, h, offsetof(struct archive_header, crc)))
		return -EBADMSG;
	if (le16_get(h->version) != ARCHIVE_VERSION)
		return -EPROTONOSUPPORT;
	if (flags & ~(ARCHIVE_ENCRYPTED | ARCHIVE_COMPRESSED) || kind < ARCHIVE_MANIFEST || kind >= ARCHIVE_KINDS ||
	    le64_get(h->object) == 0 || le32_get(h->zero) || !is_zero(h->rest, sizeof(h->rest)))
		return -EUCLEAN;
	if (plain == 0 || plain > ARCHIVE_BODY_MAX || stored == 0 || (compressed ? stored >= plain : stored != plain))
		return -EUCLEAN;
	return is_zero(h->sealed, sizeof(h->sealed)) == !(flags & ARCHIVE_ENCRYPTED) ? 0 : -EUCLEAN;
}

static void get_header(const struct archive_header *h, struct archive_info *ret)
{
	*ret = (struct archive_info){
	    .id = {.kind = (enum archive_kind)le32_get(h->kind),
		   .epoch = le64_get(h->epoch),
		   .seq = le64_get(h->seq),
		   .part = le32_get(h->part)},
	    .n_items = le32_get(h->n_items),
	    .last_seq = le64_get(h->last_seq),
	    .next_seq = le64_get(h->next_seq),
	    .next_part = le32_get(h->next_part),
	    .hash_before = le64_get(h->hash_before),
	    .hash_after = le64_get(h->hash_after),
	    .first_ns = (int64_t)le64_get(h->first_ns),
	    .last_ns = (int64_t)le64_get(h->last_ns),
	    .plain_bytes = le64_get(h->plain),
	    .stored_bytes = le64_get(h->stored),
	    .encrypted = le16_get(h->flags) & ARCHIVE_ENCRYPTED,
	};
	memcpy(ret->volume, h->volume, sizeof(ret->volume));
}

int archive_peek(const uint8_t *p, struct archive_info *ret)
{
	struct archive_header h;

	memcpy(&h, p, sizeof(h));
	int r = check_header(&h);
	if (r == 0)
		get_header(&h, ret);
	return r;
}

/* The stored body, decrypted or compared with its sum, into `to`. */
static int open_body(const struct archive_header *h, const struct pack_volume_key *key, const uint8_t *from, size_t n,
		     uint8_t *to)
{
	struct archive_header again = *h;
	EVP_CIPHER_CTX *c = NULL;
	struct pack_key k;

	if (!(le16_get(h->flags) & ARCHIVE_ENCRYPTED)) {
		if (key)
			return -EBADMSG;
		memset(again.tag, 0, sizeof(again.tag));
		sum_body(&again, from, n);
		memcpy(to, from, n);
		return memcmp(again.tag, h->tag, sizeof(again.tag)) == 0 ? 0 : -EBADMSG;
	}
	if (!key)
		return -ENOKEY;
	int r = pack_unseal(h->volume, le64_get(h->object), key, h->sealed, &k);
	if (r == 0)
		r = pack_cipher_new(NULL, &c);
	if (r == 0) {
		struct pack_seal s = pack_seal_at(k.bytes, 0, h, BOUND_BYTES);

		r = pack_decrypt(c, &s, from, n, to, h->tag);
	}
	EVP_CIPHER_CTX_free(c);
	OPENSSL_cleanse(&k, sizeof(k));
	return r;
}

static int open_compressed(const struct archive_header *h, const struct pack_volume_key *key, const uint8_t *from,
			   struct buf *body)
{
	size_t plain = (size_t)le64_get(h->plain), stored = (size_t)le64_get(h->stored);
	CLEANUP_FREE uint8_t *packed = malloc(stored);
	uint8_t *to = buf_grow(body, plain);

	if (!packed || !to)
		return -ENOMEM;
	int r = open_body(h, key, from, stored, packed);
	if (r < 0)
		return r;
	size_t n = ZSTD_decompress(to, plain, packed, stored);
	return ZSTD_isError(n) || n != plain ? -EUCLEAN : 0;
}

static int open_plain(const struct archive_header *h, const struct pack_volume_key *key, const uint8_t *from, struct buf *body)
{
	size_t n = (size_t)le64_get(h->stored);
	uint8_t *to = buf_grow(body, n);

	return to ? open_body(h, key, from, n, to) : -ENOMEM;
}

static bool same_id(const struct archive_id *a, const struct archive_id *b)
{
	return a->kind == b->kind && a->epoch == b->epoch && a->seq == b->seq && a->part == b->part;
}

int archive_unseal(const struct archive_id *want, const uint8_t volume[16], const struct pack_volume_key *key,
		   struct slice object, struct archive_info *ret, struct buf *body)
{
	const uint8_t *p = object.p;
	struct archive_header h;
	struct archive_info info;

	if (object.len < sizeof(h))
		return -EBADMSG;
	memcpy(&h, p, sizeof(h));
	int r = check_header(&h);
	if (r < 0)
		return r;
	get_header(&h, &info);
	if (!same_id(&info.id, want) || memcmp(info.volume, volume, sizeof(info.volume)) != 0 ||
	    object.len != sizeof(h) + info.stored_bytes)
		return -EBADMSG;
	buf_reset(body);
	bool compressed = le16_get(h.flags) & ARCHIVE_COMPRESSED;
	r = (compressed ? open_compressed : open_plain)(&h, key, p + sizeof(h), body);
	if (r < 0)
		buf_reset(body);
	else
		*ret = info;
	return r;
}
