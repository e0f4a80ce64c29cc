/*
 * pki.c: see pki.h.  OpenSSL's errors are turned into -errno here and its queue is left empty.
 */
#include "replicate/net/pki.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "replicate/peers.h"

#define DAY_S  INT64_C(86400)
#define YEAR_S (365 * DAY_S)
#define CURVE  "prime256v1"

static void free_chain(STACK_OF(X509) * *chain)
{
	sk_X509_pop_free(*chain, X509_free);
}
static void free_key(EVP_PKEY **k)
{
	EVP_PKEY_free(*k);
}
static void free_certificate(X509 **c)
{
	X509_free(*c);
}
static void free_request(X509_REQ **q)
{
	X509_REQ_free(*q);
}
static void free_bio(BIO **b)
{
	BIO_free_all(*b);
}
static void free_verify(X509_STORE_CTX **v)
{
	X509_STORE_CTX_free(*v);
}
static void free_store(X509_STORE **s)
{
	X509_STORE_free(*s);
}
#define CLEANUP_WITH(fn) __attribute__((cleanup(fn)))

struct pki_span pki_node_span(int64_t now_s)
{
	return (struct pki_span){now_s - DAY_S, now_s + 10 * YEAR_S};
}

struct pki_span pki_ca_span(int64_t now_s)
{
	return (struct pki_span){now_s - DAY_S, now_s + 30 * YEAR_S};
}

/* For what fails only without memory or random numbers. */
static int out_of_order(void)
{
	ERR_clear_error();
	return -EIO;
}

static int not_pem(void)
{
	ERR_clear_error();
	return -EUCLEAN;
}

/* ---- PEM ---- */

/* Instead of OpenSSL's own, which asks at the terminal. */
static int no_password(char *p, int size, int writing, void *ctx)
{
	(void)p, (void)size, (void)writing, (void)ctx;
	return -1;
}

static BIO *open_pem(struct slice pem)
{
	return pem.len > PKI_PEM_MAX ? NULL : BIO_new_mem_buf(pem.p, (int)pem.len);
}

static int take_bio(BIO *b, struct buf *ret)
{
	char *p;
	long n = BIO_get_mem_data(b, &p);

	if (n <= 0)
		return -EIO;
	secret_reserve(ret, PKI_PEM_MAX);
	buf_put(ret, p, (size_t)n);
	return ret->failed ? -ENOMEM : 0;
}

int pki_read_key(struct slice pem, EVP_PKEY **ret)
{
	CLEANUP_WITH(free_bio) BIO *b = open_pem(pem);
	EVP_PKEY *k = b ? PEM_read_bio_PrivateKey(b, NULL, no_password, NULL) : NULL;

	if (!k)
		return not_pem();
	*ret = k;
	return 0;
}

int pki_read_chain(struct slice pem, STACK_OF(X509) * *ret)
{
	CLEANUP_WITH(free_bio) BIO *b = open_pem(pem);
	CLEANUP_WITH(free_chain) STACK_OF(X509) *chain = sk_X509_new_null();
	X509 *c;

	if (!b || !chain)
		return not_pem();
	while ((c = PEM_read_bio_X509(b, NULL, no_password, NULL)))
		if (sk_X509_push(chain, c) == 0) {
			X509_free(c);
			return -ENOMEM;
		}
	/* The end of the text is an error to OpenSSL; so is a damaged second certificate, which must not go unseen. */
	bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
	ERR_clear_error();
	if (!at_end || sk_X509_num(chain) == 0)
		return -EUCLEAN;
	*ret = TAKE_PTR(chain);
	return 0;
}

/* The first certificate of a text. */
static int read_certificate(struct slice pem, X509 **ret)
{
	CLEANUP_WITH(free_chain) STACK_OF(X509) *chain = NULL;

	int r = pki_read_chain(pem, &chain);
	if (r == 0)
		*ret = sk_X509_shift(chain);
	return r;
}

static int print_certificate(X509 *c, struct buf *ret)
{
	CLEANUP_WITH(free_bio) BIO *b = BIO_new(BIO_s_mem());

	if (!b || !PEM_write_bio_X509(b, c))
		return out_of_order();
	return take_bio(b, ret);
}

/* ---- keys and requests ---- */

int pki_make_key(struct buf *ret_pem)
{
	CLEANUP_WITH(free_key) EVP_PKEY *k = EVP_EC_gen(CURVE);
	CLEANUP_WITH(free_bio) BIO *b = BIO_new(BIO_s_mem());

	if (!k || !b || !PEM_write_bio_PKCS8PrivateKey(b, k, NULL, NULL, 0, NULL, NULL))
		return out_of_order();
	return take_bio(b, ret_pem);
}

static bool set_common_name(X509_NAME *name, const char *text)
{
	return name && X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const uint8_t *)text, -1, -1, 0) == 1;
}

static int name_node(const X509_NAME *name, uint8_t ret_node[16])
{
	int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);

	/* One common name, not the first of several. */
	if (at < 0 || X509_NAME_get_index_by_NID(name, NID_commonName, at) >= 0)
		return -EUCLEAN;
	const ASN1_STRING *s = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at));
	char text[NODE_UUID_TEXT] = "";
	if (ASN1_STRING_length(s) != (int)sizeof(text) - 1)
		return -EUCLEAN;
	memcpy(text, ASN1_STRING_get0_data(s), sizeof(text) - 1);
	return node_uuid_parse(text, ret_node) < 0 ? -EUCLEAN : 0;
}

int pki_node_of(const X509 *certificate, uint8_t ret_node[16])
{
	return name_node(X509_get_subject_name(certificate), ret_node);
}

int pki_make_request(struct slice key, const uint8_t node[16], struct buf *ret_pem)
{
	CLEANUP_WITH(free_key) EVP_PKEY *k = NULL;
	CLEANUP_WITH(free_request) X509_REQ *q = X509_REQ_new();
	CLEANUP_WITH(free_bio) BIO *b = BIO_new(BIO_s_mem());
	char text[NODE_UUID_TEXT];

	int r = pki_read_key(key, &k);
	if (r < 0)
		return r;
	node_uuid_text(node, text);
	if (!q || !b || !X509_REQ_set_version(q, X509_REQ_VERSION_1) || !set_common_name(X509_REQ_get_subject_name(q), text) ||
	    !X509_REQ_set_pubkey(q, k) || X509_REQ_sign(q, k, EVP_sha256()) == 0 || !PEM_write_bio_X509_REQ(b, q))
		return out_of_order();
	return take_bio(b, ret_pem);
}

static int read_request(struct slice pem, X509_REQ **ret)
{
	CLEANUP_WITH(free_bio) BIO *b = open_pem(pem);
	X509_REQ *q = b ? PEM_read_bio_X509_REQ(b, NULL, no_password, NULL) : NULL;

	if (!q)
		return not_pem();
	*ret = q;
	return 0;
}

static int check_request(X509_REQ *q, const uint8_t node[16])
{
	EVP_PKEY *k = X509_REQ_get0_pubkey(q);
	uint8_t named[16];
	char curve[32];

	if (!k || !EVP_PKEY_get_group_name(k, curve, sizeof(curve), NULL) || strcmp(curve, CURVE) != 0)
		return not_pem();
	if (X509_REQ_verify(q, k) != 1)
		return not_pem();
	int r = name_node(X509_REQ_get_subject_name(q), named);
	if (r < 0)
		return r;
	return memcmp(named, node, 16) == 0 ? 0 : -EKEYREJECTED;
}

/* ---- certificates ---- */

static bool set_serial(X509 *c)
{
	uint8_t bytes[16];

	if (RAND_bytes(bytes, sizeof(bytes)) != 1)
		return false;
	bytes[0] = (uint8_t)((bytes[0] & 0x7f) | 0x40); /* positive, and of one length */
	BIGNUM *n = BN_bin2bn(bytes, sizeof(bytes), NULL);
	bool ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(c));
	BN_free(n);
	return ok;
}

static bool set_span(X509 *c, const struct pki_span *span)
{
	return ASN1_TIME_set(X509_getm_notBefore(c), span->from_s) && ASN1_TIME_set(X509_getm_notAfter(c), span->to_s);
}

struct extension {
	int nid;
	const char *value;
};

static bool add_extensions(X509 *c, X509 *issuer, const struct extension *e, size_t n)
{
	X509V3_CTX ctx;

	X509V3_set_ctx_nodb(&ctx);
	X509V3_set_ctx(&ctx, issuer, c, NULL, NULL, 0);
	for (size_t i = 0; i < n; i++) {
		X509_EXTENSION *x = X509V3_EXT_conf_nid(NULL, &ctx, e[i].nid, e[i].value);
		bool ok = x && X509_add_ext(c, x, -1);

		X509_EXTENSION_free(x);
		if (!ok)
			return false;
	}
	return true;
}

/* A certificate over `k` named `name`, not yet signed.  `issuer` NULL: by itself. */
static X509 *make_certificate(EVP_PKEY *k, const char *name, X509 *issuer, const struct pki_span *span)
{
	CLEANUP_WITH(free_certificate) X509 *c = X509_new();

	if (!c || !X509_set_version(c, X509_VERSION_3) || !set_serial(c) || !set_span(c, span) || !X509_set_pubkey(c, k) ||
	    !set_common_name(X509_get_subject_name(c), name) ||
	    !X509_set_issuer_name(c, X509_get_subject_name(issuer ? issuer : c)))
		return NULL;
	return TAKE_PTR(c);
}

int pki_make_ca(struct slice key, const uint8_t volume[16], const struct pki_span *span, struct buf *ret_pem)
{
	static const struct extension extensions[] = {
	    {NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
	    {NID_key_usage, "critical,keyCertSign,cRLSign"},
	    {NID_subject_key_identifier, "hash"},
	};
	CLEANUP_WITH(free_key) EVP_PKEY *k = NULL;
	char text[NODE_UUID_TEXT], name[64];

	int r = pki_read_key(key, &k);
	if (r < 0)
		return r;
	node_uuid_text(volume, text);
	snprintf(name, sizeof(name), "clawfs %s", text);
	CLEANUP_WITH(free_certificate) X509 *c = make_certificate(k, name, NULL, span);
	if (!c || !add_extensions(c, c, extensions, ARRAY_SIZE(extensions)) || X509_sign(c, k, EVP_sha256()) == 0)
		return out_of_order();
	return print_certificate(c, ret_pem);
}

int pki_sign(struct slice ca, struct slice ca_key, struct slice request, const uint8_t node[16], const struct pki_span *span,
	     struct buf *ret_pem)
{
	static const struct extension extensions[] = {
	    {NID_basic_constraints, "critical,CA:FALSE"},
	    {NID_key_usage, "critical,digitalSignature"},
	    {NID_ext_key_usage, "serverAuth,clientAuth"},
	    {NID_authority_key_identifier, "keyid"},
	};
	CLEANUP_WITH(free_certificate) X509 *issuer = NULL;
	CLEANUP_WITH(free_key) EVP_PKEY *k = NULL;
	CLEANUP_WITH(free_request) X509_REQ *q = NULL;
	char text[NODE_UUID_TEXT];

	int r = pki_check_key(ca, ca_key);
	if (r == 0)
		r = read_certificate(ca, &issuer);
	if (r == 0)
		r = pki_read_key(ca_key, &k);
	if (r == 0)
		r = read_request(request, &q);
	if (r == 0)
		r = check_request(q, node);
	if (r < 0)
		return r;
	node_uuid_text(node, text);
	CLEANUP_WITH(free_certificate) X509 *c = make_certificate(X509_REQ_get0_pubkey(q), text, issuer, span);
	/* An admin's CA may have no key identifier to refer to. */
	size_t n = ARRAY_SIZE(extensions) - (X509_get0_subject_key_id(issuer) ? 0 : 1);
	if (!c || !add_extensions(c, issuer, extensions, n) || X509_sign(c, k, EVP_sha256()) == 0)
		return out_of_order();
	return print_certificate(c, ret_pem);
}

/* ---- checks ---- */

int pki_fingerprint(struct slice certificate, uint8_t ret_sha256[32])
{
	CLEANUP_WITH(free_certificate) X509 *c = NULL;
	unsigned n = 32;

	int r = read_certificate(certificate, &c);
	if (r < 0)
		return r;
	return X509_digest(c, EVP_sha256(), ret_sha256, &n) == 1 ? 0 : out_of_order();
}

int pki_check_key(struct slice certificate, struct slice key)
{
	CLEANUP_WITH(free_certificate) X509 *c = NULL;
	CLEANUP_WITH(free_key) EVP_PKEY *k = NULL;

	int r = read_certificate(certificate, &c);
	if (r == 0)
		r = pki_read_key(key, &k);
	if (r < 0)
		return r;
	bool ok = X509_check_private_key(c, k) == 1;
	ERR_clear_error();
	return ok ? 0 : -EKEYREJECTED;
}

static X509_STORE *make_store(STACK_OF(X509) * anchors)
{
	CLEANUP_WITH(free_store) X509_STORE *s = X509_STORE_new();

	for (int i = 0; s && i < sk_X509_num(anchors); i++)
		if (!X509_STORE_add_cert(s, sk_X509_value(anchors, i)))
			return NULL;
	return TAKE_PTR(s);
}

int pki_check_node(struct slice ca, struct slice certificate, const uint8_t node[16])
{
	CLEANUP_WITH(free_chain) STACK_OF(X509) *anchors = NULL;
	CLEANUP_WITH(free_chain) STACK_OF(X509) *chain = NULL;
	uint8_t named[16];

	int r = pki_read_chain(ca, &anchors);
	if (r == 0)
		r = pki_read_chain(certificate, &chain);
	if (r == 0)
		r = pki_node_of(sk_X509_value(chain, 0), named);
	if (r < 0)
		return r;
	CLEANUP_WITH(free_store) X509_STORE *store = make_store(anchors);
	CLEANUP_WITH(free_verify) X509_STORE_CTX *v = X509_STORE_CTX_new();
	if (!store || !v || !X509_STORE_CTX_init(v, store, sk_X509_value(chain, 0), chain))
		return out_of_order();
	X509_STORE_CTX_set_flags(v, X509_V_FLAG_NO_CHECK_TIME);
	bool ok = X509_verify_cert(v) == 1;
	ERR_clear_error();
	return ok && memcmp(named, node, 16) == 0 ? 0 : -EKEYREJECTED;
}

static int time_s(const ASN1_TIME *t, int64_t *ret)
{
	struct tm tm;

	if (!ASN1_TIME_to_tm(t, &tm))
		return not_pem();
	*ret = timegm(&tm);
	return 0;
}

int pki_get_span(struct slice certificate, struct pki_span *ret)
{
	CLEANUP_WITH(free_certificate) X509 *c = NULL;

	int r = read_certificate(certificate, &c);
	if (r == 0)
		r = time_s(X509_get0_notBefore(c), &ret->from_s);
	return r < 0 ? r : time_s(X509_get0_notAfter(c), &ret->to_s);
}
