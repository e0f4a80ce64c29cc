/*
 * xts.c: contexts of the library, kept for reuse, and the two directions.
 *
 * Making a context and fetching an algorithm cost more than a sector does (0.6 us), so neither is done for each.  Setting the key
 * of a file costs a tenth of a sector and is done for each call.
 */
#include "fs/store/crypt/xts.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"

#define IDLE_MAX 32u

struct xts_cache {
	EVP_CIPHER *cipher;
	struct mutex lock;
	/* guarded by lock */
	EVP_CIPHER_CTX *idle[IDLE_MAX];
	unsigned n_idle;
};

int xts_cache_new(struct xts_cache **ret)
{
	struct xts_cache *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->cipher = EVP_CIPHER_fetch(NULL, "AES-256-XTS", NULL);
	if (!c->cipher) {
		free(c);
		return -EIO;
	}
	mutex_init(&c->lock);
	*ret = c;
	return 0;
}

struct xts_cache *xts_cache_free(struct xts_cache *c) NO_THREAD_SAFETY
{
	if (!c)
		return NULL;
	while (c->n_idle)
		EVP_CIPHER_CTX_free(c->idle[--c->n_idle]); /* wipes the key */
	EVP_CIPHER_free(c->cipher);
	mutex_destroy(&c->lock);
	free(c);
	return NULL;
}

static EVP_CIPHER_CTX *take(struct xts_cache *c)
{
	EVP_CIPHER_CTX *ctx = NULL;

	mutex_lock(&c->lock);
	if (c->n_idle)
		ctx = c->idle[--c->n_idle];
	mutex_unlock(&c->lock);
	return ctx ? ctx : EVP_CIPHER_CTX_new();
}

static void give(struct xts_cache *c, EVP_CIPHER_CTX *ctx)
{
	mutex_lock(&c->lock);
	if (c->n_idle < IDLE_MAX) {
		c->idle[c->n_idle++] = ctx;
		ctx = NULL;
	}
	mutex_unlock(&c->lock);
	EVP_CIPHER_CTX_free(ctx);
}

static bool is_zero(const uint8_t *p)
{
	return p[0] == 0 && memcmp(p, p + 1, XTS_SECTOR - 1) == 0;
}

/* The first call for a context gives it the cipher and the key, each gives a tweak. */
static int sectors(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, const uint8_t *key, bool encrypt, uint64_t first,
		   const uint8_t *in, uint8_t *out, size_t n)
{
	if (EVP_CipherInit_ex2(ctx, cipher, key, NULL, encrypt, NULL) != 1)
		return -EIO;
	for (size_t i = 0; i < n; i++, in += XTS_SECTOR, out += XTS_SECTOR) {
		const le64 tweak[2] = {le64_make(first + i), le64_make(0)};
		int len;

		if (!encrypt && is_zero(in)) {
			memmove(out, in, XTS_SECTOR);
			continue;
		}
		if (EVP_CipherInit_ex2(ctx, NULL, NULL, (const uint8_t *)tweak, encrypt, NULL) != 1 ||
		    EVP_CipherUpdate(ctx, out, &len, in, XTS_SECTOR) != 1 || len != (int)XTS_SECTOR)
			return -EIO;
	}
	return 0;
}

static int run(struct xts_cache *c, const uint8_t *key, bool encrypt, uint64_t first, const void *in, void *out, size_t n)
{
	EVP_CIPHER_CTX *ctx = take(c);

	if (!ctx)
		return -ENOMEM;
	int r = sectors(ctx, c->cipher, key, encrypt, first, in, out, n);
	give(c, ctx);
	return r;
}

int xts_encrypt(struct xts_cache *c, const uint8_t key[XTS_KEY_BYTES], uint64_t first, const void *in, void *out, size_t n)
{
	return run(c, key, true, first, in, out, n);
}

int xts_decrypt(struct xts_cache *c, const uint8_t key[XTS_KEY_BYTES], uint64_t first, const void *in, void *out, size_t n)
{
	return run(c, key, false, first, in, out, n);
}
