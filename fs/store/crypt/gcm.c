/* gcm.c: contexts with their key set, and the two directions.  A sector costs 1 us. */
#include "fs/store/crypt/gcm.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "fs/store/crypt/key.h"

#define IDLE_MAX 8u

struct gcm {
	EVP_CIPHER *cipher;
	uint8_t key[GCM_KEY_BYTES];
	struct mutex lock;
	/* guarded by lock */
	EVP_CIPHER_CTX *idle[IDLE_MAX];
	unsigned n_idle;
};

int gcm_new(const uint8_t key[GCM_KEY_BYTES], struct gcm **ret)
{
	struct gcm *g = calloc(1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	g->cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
	if (!g->cipher) {
		free(g);
		return -EIO;
	}
	memcpy(g->key, key, sizeof(g->key));
	mutex_init(&g->lock);
	*ret = g;
	return 0;
}

struct gcm *gcm_free(struct gcm *g) NO_THREAD_SAFETY
{
	if (!g)
		return NULL;
	while (g->n_idle)
		EVP_CIPHER_CTX_free(g->idle[--g->n_idle]);
	EVP_CIPHER_free(g->cipher);
	mutex_destroy(&g->lock);
	key_wipe(g, sizeof(*g));
	free(g);
	return NULL;
}

/* With the key of this file. */
static EVP_CIPHER_CTX *take(struct gcm *g)
{
	EVP_CIPHER_CTX *ctx = NULL;

	mutex_lock(&g->lock);
	if (g->n_idle)
		ctx = g->idle[--g->n_idle];
	mutex_unlock(&g->lock);
	if (ctx)
		return ctx;
	ctx = EVP_CIPHER_CTX_new();
	if (ctx && EVP_CipherInit_ex2(ctx, g->cipher, g->key, NULL, true, NULL) != 1) {
		EVP_CIPHER_CTX_free(ctx);
		ctx = NULL;
	}
	return ctx;
}

static void give(struct gcm *g, EVP_CIPHER_CTX *ctx)
{
	mutex_lock(&g->lock);
	if (g->n_idle < IDLE_MAX) {
		g->idle[g->n_idle++] = ctx;
		ctx = NULL;
	}
	mutex_unlock(&g->lock);
	EVP_CIPHER_CTX_free(ctx);
}

/* Up to the tag. */
static bool begin(EVP_CIPHER_CTX *ctx, bool seal, uint64_t number, const struct gcm_tag *tag, const uint8_t *in, uint8_t *out)
{
	const le64 aad = le64_make(number);
	int len;

	return EVP_CipherInit_ex2(ctx, NULL, NULL, tag->nonce, seal, NULL) == 1 &&
	       EVP_CipherUpdate(ctx, NULL, &len, aad.b, sizeof(aad)) == 1 &&
	       EVP_CipherUpdate(ctx, out, &len, in, GCM_SECTOR) == 1;
}

int gcm_seal(struct gcm *g, uint64_t first, const void *in, void *out, size_t n, struct gcm_tag *ret_tags)
{
	EVP_CIPHER_CTX *ctx = take(g);
	uint8_t *to = out;
	int len, r = ctx ? 0 : -ENOMEM;

	memset(ret_tags, 0, n * sizeof(*ret_tags));
	for (size_t i = 0; r == 0 && i < n; i++)
		if (RAND_bytes(ret_tags[i].nonce, sizeof(ret_tags[i].nonce)) != 1 ||
		    !begin(ctx, true, first + i, &ret_tags[i], (const uint8_t *)in + i * GCM_SECTOR, to + i * GCM_SECTOR) ||
		    EVP_CipherFinal_ex(ctx, to + (i + 1) * GCM_SECTOR, &len) != 1 ||
		    EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, sizeof(ret_tags[i].tag), ret_tags[i].tag) != 1)
			r = -EIO;
	if (ctx)
		give(g, ctx);
	return r;
}

int gcm_open(struct gcm *g, uint64_t first, const void *in, void *out, size_t n, const struct gcm_tag *tags)
{
	EVP_CIPHER_CTX *ctx = take(g);
	uint8_t *to = out;
	int len, r = ctx ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < n; i++) {
		struct gcm_tag tag = tags[i];

		if (!begin(ctx, false, first + i, &tag, (const uint8_t *)in + i * GCM_SECTOR, to + i * GCM_SECTOR) ||
		    EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, sizeof(tag.tag), tag.tag) != 1)
			r = -EIO;
		else if (EVP_CipherFinal_ex(ctx, to + (i + 1) * GCM_SECTOR, &len) != 1)
			r = -EBADMSG;
	}
	if (ctx)
		give(g, ctx);
	return r;
}
