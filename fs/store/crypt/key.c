/* key.c: a data key, and what is derived from it. */
#include "fs/store/crypt/key.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

static const char *const names[] = {[ENCRYPTION_NONE] = "none", [ENCRYPTION_XTS] = "xts", [ENCRYPTION_AEAD] = "aead"};

const char *encryption_name(enum encryption mode)
{
	return mode < ARRAY_SIZE(names) ? names[mode] : "?";
}

int encryption_parse(const char *word, enum encryption *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(names[i], word) == 0) {
			*ret = (enum encryption)i;
			return 0;
		}
	return -EINVAL;
}

void key_wipe(void *p, size_t len)
{
	OPENSSL_cleanse(p, len);
}

int data_key_random(enum encryption mode, struct data_key *ret)
{
	*ret = (struct data_key){.mode = mode};
	return RAND_priv_bytes(ret->bytes, sizeof(ret->bytes)) == 1 ? 0 : -EIO;
}

int key_derive(struct slice secret, struct slice salt, struct slice info, uint8_t *ret, size_t len)
{
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
	OSSL_PARAM params[5], *p = params;

	EVP_KDF_free(kdf); /* ctx has a reference of its own */
	if (!ctx)
		return -ENOMEM;
	*p++ = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)(uintptr_t) "SHA256", 0);
	*p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)(uintptr_t)secret.p, secret.len);
	*p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)(uintptr_t)info.p, info.len);
	if (salt.len)
		*p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)(uintptr_t)salt.p, salt.len);
	*p = OSSL_PARAM_construct_end();
	int r = EVP_KDF_derive(ctx, ret, len, params) == 1 ? 0 : -EIO;
	EVP_KDF_CTX_free(ctx);
	return r;
}

int data_key_derive(const struct data_key *key, const char *prefix, const char *name, uint8_t *ret, size_t len)
{
	char use[160];
	int n = snprintf(use, sizeof(use), "clawfs %s%s", prefix, name);

	if (n < 0 || (size_t)n >= sizeof(use))
		return -ENAMETOOLONG;
	return key_derive((struct slice){key->bytes, sizeof(key->bytes)}, (struct slice){0}, (struct slice){use, (size_t)n}, ret,
			  len);
}
