/* batch_mac.c: a context with the key, copied for each batch. */
#include "fs/store/crypt/batch_mac.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>

struct batch_mac {
	EVP_MAC_CTX *keyed; /* only copied from */
};

static int init(EVP_MAC_CTX *ctx, const struct data_key *key)
{
	uint8_t bytes[BATCH_MAC_KEY_BYTES];
	const OSSL_PARAM params[] = {
	    OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)(uintptr_t) "SHA256", 0),
	    OSSL_PARAM_construct_end(),
	};
	int r = data_key_derive(key, "batches", "", bytes, sizeof(bytes));

	if (r == 0 && EVP_MAC_init(ctx, bytes, sizeof(bytes), params) != 1)
		r = -EIO;
	key_wipe(bytes, sizeof(bytes));
	return r;
}

int batch_mac_new(const struct data_key *key, struct batch_mac **ret)
{
	struct batch_mac *m = calloc(1, sizeof(*m));
	EVP_MAC *mac = m ? EVP_MAC_fetch(NULL, "HMAC", NULL) : NULL;

	if (mac)
		m->keyed = EVP_MAC_CTX_new(mac);
	EVP_MAC_free(mac);
	int r = m && m->keyed ? init(m->keyed, key) : -ENOMEM;
	if (r < 0) {
		batch_mac_free(m);
		return r;
	}
	*ret = m;
	return 0;
}

struct batch_mac *batch_mac_free(struct batch_mac *m)
{
	if (m)
		EVP_MAC_CTX_free(m->keyed);
	free(m);
	return NULL;
}

int batch_mac_sign(void *batch_mac, const struct iovec *iov, int n, uint8_t ret[32])
{
	const struct batch_mac *m = batch_mac;
	EVP_MAC_CTX *ctx = EVP_MAC_CTX_dup(m->keyed);
	int r = ctx ? 0 : -ENOMEM;
	size_t len;

	for (int i = 0; r == 0 && i < n; i++)
		if (iov[i].iov_len && EVP_MAC_update(ctx, iov[i].iov_base, iov[i].iov_len) != 1)
			r = -EIO;
	if (r == 0 && (EVP_MAC_final(ctx, ret, &len, 32) != 1 || len != 32))
		r = -EIO;
	EVP_MAC_CTX_free(ctx);
	return r;
}
