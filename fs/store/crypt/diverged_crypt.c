/* diverged_crypt.c: lines and blocks, sealed on their way into a tail and opened on their way out of it. */
#include "fs/store/crypt/diverged_crypt.h"

#include <errno.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "fs/store/crypt/siv.h"
#include "fs/store/crypt/xts.h"

#define PIECE_SECTORS 16u

struct diverged_keys {
	struct data_key key;
	char id[DIVERGED_ID_MAX + 1];
	struct siv *rows;
	struct xts_cache *xts;
	uint64_t ino; /* that `file` is the key of */
	uint8_t file[XTS_KEY_BYTES];
};

struct crypt_sink {
	struct diverged_sink base;
	struct diverged_sink *inner;
	struct data_key key;
	struct diverged_keys *keys; /* of the tail that is open; NULL: none is */
};

int diverged_keys_new(const struct data_key *key, const char *id, struct diverged_keys **ret)
{
	struct diverged_keys *k = calloc(1, sizeof(*k));
	uint8_t bytes[SIV_KEY_BYTES];
	int r = k ? 0 : -ENOMEM;

	if (r == 0)
		r = (size_t)snprintf(k->id, sizeof(k->id), "%s", id) < sizeof(k->id) && *id ? 0 : -EINVAL;
	if (r == 0)
		r = data_key_derive(key, "diverged rows", "", bytes, sizeof(bytes));
	if (r == 0)
		r = siv_new(bytes, &k->rows);
	key_wipe(bytes, sizeof(bytes));
	if (r == 0)
		r = xts_cache_new(&k->xts);
	if (r < 0) {
		diverged_keys_free(k);
		return r;
	}
	k->key = *key;
	*ret = k;
	return 0;
}

struct diverged_keys *diverged_keys_free(struct diverged_keys *k)
{
	if (!k)
		return NULL;
	siv_free(k->rows);
	xts_cache_free(k->xts);
	key_wipe(k, sizeof(*k));
	free(k);
	return NULL;
}

/* Inodes are numbered from 1. */
static int key_of_file(struct diverged_keys *k, uint64_t ino)
{
	char name[DIVERGED_ID_MAX + 40];

	if (k->ino == ino)
		return 0;
	snprintf(name, sizeof(name), "diverged/%s/%llu", k->id, (unsigned long long)ino);
	int r = data_key_derive(&k->key, "xts ", name, k->file, sizeof(k->file));
	k->ino = r == 0 ? ino : 0;
	return r;
}

static struct slice aad_of(const struct diverged_keys *k)
{
	return (struct slice){k->id, strlen(k->id)};
}

int diverged_open_line(struct diverged_keys *k, struct slice line, struct buf *out)
{
	CLEANUP_FREE uint8_t *sealed = malloc(line.len + 1);
	const char *text = line.p;

	if (!sealed)
		return -ENOMEM;
	if (line.len > INT_MAX || EVP_DecodeBlock(sealed, line.p, (int)line.len) != (int)(line.len / 4 * 3) || line.len < 4)
		return -EBADMSG;
	size_t len = line.len / 4 * 3 - (text[line.len - 1] == '=') - (text[line.len - 2] == '=');
	if (len < SIV_TAG_BYTES)
		return -EBADMSG;
	buf_reset(out);
	uint8_t *p = buf_grow(out, len - SIV_TAG_BYTES + 1);
	if (!p)
		return -ENOMEM;
	out->len--; /* of an empty line there is a place too */
	return siv_open(k->rows, aad_of(k), (struct slice){sealed, len}, p);
}

int diverged_open_data(struct diverged_keys *k, uint64_t ino, uint64_t off, void *p, size_t len)
{
	if (off % XTS_SECTOR || len % XTS_SECTOR)
		return -EINVAL;
	int r = key_of_file(k, ino);
	return r < 0 ? r : xts_decrypt(k->xts, k->file, off / XTS_SECTOR, p, p, len / XTS_SECTOR);
}

/* ---- the sink ---- */

static struct crypt_sink *to_crypt(struct diverged_sink *s)
{
	return container_of(s, struct crypt_sink, base);
}

static int crypt_open(struct diverged_sink *base, const char *id)
{
	struct crypt_sink *s = to_crypt(base);
	struct diverged_keys *keys;
	int r = diverged_keys_new(&s->key, id, &keys);

	if (r < 0)
		return r;
	r = s->inner->ops->open(s->inner, id);
	if (r < 0) {
		diverged_keys_free(keys);
		return r;
	}
	diverged_keys_free(s->keys);
	s->keys = keys;
	return 0;
}

static int crypt_put_line(struct diverged_sink *base, struct slice line)
{
	struct crypt_sink *s = to_crypt(base);
	const size_t len = line.len + SIV_TAG_BYTES;

	if (len > INT_MAX / 2)
		return -EINVAL;
	CLEANUP_FREE uint8_t *sealed = malloc(len), *text = malloc(4 * (len / 3 + 1) + 1);
	int r = sealed && text ? siv_seal(s->keys->rows, aad_of(s->keys), line, sealed) : -ENOMEM;
	if (r < 0)
		return r;
	int n = EVP_EncodeBlock(text, sealed, (int)len);
	return s->inner->ops->put_line(s->inner, (struct slice){text, (size_t)n});
}

static int crypt_put_data(struct diverged_sink *base, uint64_t ino, uint64_t off, const void *p, size_t len)
{
	struct crypt_sink *s = to_crypt(base);
	uint8_t room[PIECE_SECTORS * XTS_SECTOR];
	int r = off % XTS_SECTOR || len % XTS_SECTOR ? -EINVAL : key_of_file(s->keys, ino);

	for (size_t done = 0; r == 0 && done < len;) {
		size_t n = min_u64(sizeof(room), len - done);

		r = xts_encrypt(s->keys->xts, s->keys->file, (off + done) / XTS_SECTOR, (const uint8_t *)p + done, room,
				n / XTS_SECTOR);
		if (r == 0)
			r = s->inner->ops->put_data(s->inner, ino, off + done, room, n);
		done += n;
	}
	return r;
}

static int crypt_sync(struct diverged_sink *base, struct slice info)
{
	struct crypt_sink *s = to_crypt(base);

	return s->inner->ops->sync(s->inner, info);
}

static void crypt_close(struct diverged_sink *base)
{
	struct crypt_sink *s = to_crypt(base);

	s->keys = diverged_keys_free(s->keys);
	s->inner->ops->close(s->inner);
}

static void crypt_free(struct diverged_sink *base)
{
	struct crypt_sink *s = to_crypt(base);

	diverged_keys_free(s->keys);
	diverged_free(s->inner);
	data_key_wipe(&s->key);
	free(s);
}

static const struct diverged_ops crypt_ops = {
    .open = crypt_open,
    .put_line = crypt_put_line,
    .put_data = crypt_put_data,
    .sync = crypt_sync,
    .close = crypt_close,
    .free = crypt_free,
};

int diverged_crypt_new(struct diverged_sink *inner, const struct data_key *key, struct diverged_sink **ret)
{
	struct crypt_sink *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	*s = (struct crypt_sink){.base = {.ops = &crypt_ops}, .inner = inner, .key = *key};
	*ret = &s->base;
	return 0;
}
