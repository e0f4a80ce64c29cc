/*
 * test_pki.c: keys, requests and certificates, those that fit together and those that must not pass; DIR/peers of a first node.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "replicate/net/join.h"
#include "replicate/peerfile.h"
#include "replicate/net/pki.h"
#include "tests/unit/tempdir.h"

#define DAY_S 86400

static const uint8_t volume[16] = {0xf0, 1}, node[16] = {0xa0, 1}, other[16] = {0xb0, 2};

/* A CA and one node of it. */
struct identity {
	struct buf ca, ca_key, key, request, certificate;
};

static void make_identity(struct identity *i)
{
	const struct pki_span ca = pki_ca_span(time(NULL)), span = pki_node_span(time(NULL));

	*i = (struct identity){0};
	assert_int_equal(pki_make_key(&i->ca_key), 0);
	assert_int_equal(pki_make_ca(buf_slice(&i->ca_key), volume, &ca, &i->ca), 0);
	assert_int_equal(pki_make_key(&i->key), 0);
	assert_int_equal(pki_make_request(buf_slice(&i->key), node, &i->request), 0);
	assert_int_equal(pki_sign(buf_slice(&i->ca), buf_slice(&i->ca_key), buf_slice(&i->request), node, &span, &i->certificate),
			 0);
}

static void free_identity(struct identity *i)
{
	secret_free(&i->ca);
	secret_free(&i->ca_key);
	secret_free(&i->key);
	secret_free(&i->request);
	secret_free(&i->certificate);
}

static int sign(struct identity *i, const struct buf *request, const uint8_t as[16])
{
	CLEANUP_BUF struct buf certificate = {0};
	const struct pki_span span = pki_node_span(time(NULL));

	return pki_sign(buf_slice(&i->ca), buf_slice(&i->ca_key), buf_slice(request), as, &span, &certificate);
}

static void a_signed_node_fits_its_ca_and_its_key(void **state)
{
	struct identity i, j;

	(void)state;
	make_identity(&i);
	make_identity(&j);
	assert_int_equal(pki_check_node(buf_slice(&i.ca), buf_slice(&i.certificate), node), 0);
	assert_int_equal(pki_check_node(buf_slice(&i.ca), buf_slice(&i.certificate), other), -EKEYREJECTED);
	assert_int_equal(pki_check_node(buf_slice(&j.ca), buf_slice(&i.certificate), node), -EKEYREJECTED);
	assert_int_equal(pki_check_key(buf_slice(&i.certificate), buf_slice(&i.key)), 0);
	assert_int_equal(pki_check_key(buf_slice(&i.ca), buf_slice(&i.ca_key)), 0);
	assert_int_equal(pki_check_key(buf_slice(&i.certificate), buf_slice(&j.key)), -EKEYREJECTED);
	/* The CA is no node, and a node is no CA. */
	assert_int_equal(pki_check_node(buf_slice(&i.ca), buf_slice(&i.ca), node), -EUCLEAN);
	assert_int_equal(pki_check_node(buf_slice(&i.certificate), buf_slice(&i.certificate), node), -EKEYREJECTED);
	free_identity(&i);
	free_identity(&j);
}

static void certificates_are_valid_from_yesterday_for_ten_years(void **state)
{
	struct identity i;
	struct pki_span span;
	int64_t now = time(NULL);

	(void)state;
	make_identity(&i);
	assert_int_equal(pki_get_span(buf_slice(&i.certificate), &span), 0);
	assert_in_range(now - span.from_s, DAY_S, DAY_S + 60);
	assert_in_range(span.to_s - now, 3650L * DAY_S - 60, 3650L * DAY_S);
	assert_int_equal(pki_get_span(buf_slice(&i.ca), &span), 0);
	assert_true(span.to_s - now >= 20 * 365L * DAY_S);
	free_identity(&i);
}

static void a_fingerprint_is_of_one_certificate(void **state)
{
	struct identity i, j;
	uint8_t x[32], y[32];

	(void)state;
	make_identity(&i);
	make_identity(&j);
	assert_int_equal(pki_fingerprint(buf_slice(&i.ca), x), 0);
	assert_int_equal(pki_fingerprint(buf_slice(&i.ca), y), 0);
	assert_memory_equal(x, y, 32);
	assert_int_equal(pki_fingerprint(buf_slice(&j.ca), y), 0);
	assert_memory_not_equal(x, y, 32);
	free_identity(&i);
	free_identity(&j);
}

static void a_request_names_the_node_that_asks(void **state)
{
	struct identity i;

	(void)state;
	make_identity(&i);
	assert_int_equal(sign(&i, &i.request, node), 0);
	assert_int_equal(sign(&i, &i.request, other), -EKEYREJECTED);
	free_identity(&i);
}

/* A request over another kind of key, or whose signature is not of the key it names. */
static void make_odd_request(EVP_PKEY *key, EVP_PKEY *signer, struct buf *ret)
{
	X509_REQ *q = X509_REQ_new();
	BIO *b = BIO_new(BIO_s_mem());
	char text[NODE_UUID_TEXT];
	char *p;

	node_uuid_text(node, text);
	X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(q), "CN", MBSTRING_ASC, (const uint8_t *)text, -1, -1, 0);
	X509_REQ_set_pubkey(q, key);
	assert_true(X509_REQ_sign(q, signer, EVP_sha256()) > 0);
	PEM_write_bio_X509_REQ(b, q);
	long n = BIO_get_mem_data(b, &p);
	buf_put(ret, p, (size_t)n);
	BIO_free(b);
	X509_REQ_free(q);
}

static void a_request_of_another_key_is_refused(void **state)
{
	struct identity i;
	EVP_PKEY *p256 = EVP_EC_gen("P-256"), *mine = EVP_EC_gen("P-256"), *p384 = EVP_EC_gen("P-384"), *rsa = EVP_RSA_gen(2048);
	CLEANUP_BUF struct buf good = {0}, stolen = {0}, curve = {0}, kind = {0};

	(void)state;
	make_identity(&i);
	make_odd_request(p256, p256, &good);
	assert_int_equal(sign(&i, &good, node), 0);
	make_odd_request(p256, mine, &stolen);
	assert_int_equal(sign(&i, &stolen, node), -EUCLEAN);
	make_odd_request(p384, p384, &curve);
	assert_int_equal(sign(&i, &curve, node), -EUCLEAN);
	make_odd_request(rsa, rsa, &kind);
	assert_int_equal(sign(&i, &kind, node), -EUCLEAN);
	EVP_PKEY_free(p256);
	EVP_PKEY_free(mine);
	EVP_PKEY_free(p384);
	EVP_PKEY_free(rsa);
	free_identity(&i);
}

/* Nothing of a damaged text is taken: not a request, not a key, not a certificate. */
static void damaged_pem_is_refused(void **state)
{
	struct identity i;
	unsigned survived = 0;

	(void)state;
	make_identity(&i);
	for (size_t n = 0; n < i.request.len; n++) {
		uint8_t kept = i.request.p[n];

		i.request.p[n] ^= 1;
		survived += sign(&i, &i.request, node) == 0;
		i.request.p[n] = kept;
	}
	/* What does not matter: the ends of lines, and words in the frame that mean the same. */
	assert_in_range(survived, 0, 12);
	for (size_t n = 0; n < i.request.len - 1; n += 3) {
		struct buf cut = {.p = i.request.p, .len = n};

		assert_int_equal(sign(&i, &cut, node), -EUCLEAN);
	}
	static const char *const none[] = {"", "x", "-----BEGIN CERTIFICATE REQUEST-----\n",
					   "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"};
	for (size_t k = 0; k < ARRAY_SIZE(none); k++) {
		const struct slice s = {none[k], strlen(none[k])};
		uint8_t x[32];

		assert_int_equal(pki_fingerprint(s, x), -EUCLEAN);
		assert_int_equal(pki_check_key(s, buf_slice(&i.key)), -EUCLEAN);
		assert_int_equal(pki_check_key(buf_slice(&i.certificate), s), -EUCLEAN);
	}
	free_identity(&i);
}

/* Nobody is asked for a password: a key that needs one is refused at once. */
static void a_key_with_a_password_is_refused(void **state)
{
	EVP_PKEY *k = EVP_EC_gen("P-256"), *back = NULL;
	BIO *b = BIO_new(BIO_s_mem());
	char *p;

	(void)state;
	assert_true(PEM_write_bio_PKCS8PrivateKey(b, k, EVP_aes_256_cbc(), "secret", 6, NULL, NULL));
	long n = BIO_get_mem_data(b, &p);
	assert_int_equal(pki_read_key((struct slice){p, (size_t)n}, &back), -EUCLEAN);
	assert_null(back);
	BIO_free(b);
	EVP_PKEY_free(k);
}

static void a_chain_must_be_whole(void **state)
{
	struct identity i;
	CLEANUP_BUF struct buf two = {0};
	STACK_OF(X509) *chain = NULL;

	(void)state;
	make_identity(&i);
	buf_put(&two, i.certificate.p, i.certificate.len);
	buf_put(&two, i.ca.p, i.ca.len);
	assert_int_equal(pki_read_chain(buf_slice(&two), &chain), 0);
	assert_int_equal(sk_X509_num(chain), 2);
	sk_X509_pop_free(chain, X509_free);
	two.p[i.certificate.len + 100] = '!';
	assert_int_equal(pki_read_chain(buf_slice(&two), &chain), -EUCLEAN);
	free_identity(&i);
}

/* ---- DIR/peers of the first node ---- */

static void path_of(const char *dir, const char *name, char path[400])
{
	snprintf(path, 400, "%s/peers/%s", dir, name);
}

static void read_file(const char *dir, const char *name, struct buf *ret)
{
	buf_reset(ret);
	assert_int_equal(peerfile_read(dir, name, PEERFILE_PLAIN, ret), 0);
}

static void assert_whole(const char *dir)
{
	static const char *const names[] = {FILE_CA_CERTIFICATE, FILE_CA_KEY, FILE_NODE_CERTIFICATE, FILE_NODE_KEY, FILE_PEERS};
	struct buf text[ARRAY_SIZE(names)] = {0};
	struct peers p;
	struct stat st;
	char path[400];

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		read_file(dir, names[i], &text[i]);
		path_of(dir, names[i], path);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 07777, 0600);
	}
	assert_int_equal(pki_check_key(buf_slice(&text[0]), buf_slice(&text[1])), 0);
	assert_int_equal(pki_check_node(buf_slice(&text[0]), buf_slice(&text[2]), node), 0);
	assert_int_equal(pki_check_key(buf_slice(&text[2]), buf_slice(&text[3])), 0);
	assert_int_equal(peers_load(dir, &p), 0);
	assert_int_equal(p.n, 1);
	assert_int_equal(p.next_id, 2);
	assert_int_equal(peers_find(&p, "a")->node_id, 1);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		buf_free(&text[i]);
}

static void the_first_node_founds_its_directory_once(void **state)
{
	CLEANUP_BUF struct buf before = {0}, after = {0};
	char dir[256];

	(void)state;
	tempdir_make(dir);
	assert_int_equal(peers_found(dir, volume, node, 1, "a", "h:1"), 0);
	assert_whole(dir);
	read_file(dir, FILE_NODE_CERTIFICATE, &before);
	assert_int_equal(peers_found(dir, volume, node, 1, "another", "x:2"), 0);
	read_file(dir, FILE_NODE_CERTIFICATE, &after);
	assert_int_equal(before.len, after.len);
	assert_memory_equal(before.p, after.p, before.len);
	assert_whole(dir);
	tempdir_remove(dir);
}

/* A crash leaves the files up to some step: whichever are missing, in the order in which they are made, are made again. */
static void founding_goes_on_after_a_crash_at_any_step(void **state)
{
	static const char *const order[] = {FILE_CA_KEY, FILE_CA_CERTIFICATE, FILE_NODE_KEY, FILE_NODE_CERTIFICATE, FILE_PEERS};

	(void)state;
	for (size_t kept = 0; kept <= ARRAY_SIZE(order); kept++) {
		char dir[256], path[400];
		struct stat before[ARRAY_SIZE(order)], after;

		tempdir_make(dir);
		assert_int_equal(peers_found(dir, volume, node, 1, "a", "h:1"), 0);
		for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
			path_of(dir, order[i], path);
			assert_int_equal(i < kept ? stat(path, &before[i]) : unlink(path), 0);
		}
		assert_int_equal(peers_found(dir, volume, node, 1, "a", "h:1"), 0);
		assert_whole(dir);
		for (size_t i = 0; i < kept; i++) {
			path_of(dir, order[i], path);
			assert_int_equal(stat(path, &after), 0);
			assert_int_equal(after.st_ino, before[i].st_ino);
		}
		tempdir_remove(dir);
	}
}

static void an_admins_files_are_used_as_they_are(void **state)
{
	struct identity i;
	char dir[256], path[400];
	struct peers p;

	(void)state;
	make_identity(&i);
	tempdir_make(dir);
	assert_int_equal(peerfile_write(dir, FILE_CA_CERTIFICATE, buf_slice(&i.ca)), 0);
	assert_int_equal(peers_found(dir, volume, node, 1, "a", NULL),
			 -EUCLEAN); /* neither a certificate nor the key to sign one */
	assert_int_equal(peerfile_write(dir, FILE_NODE_CERTIFICATE, buf_slice(&i.certificate)), 0);
	assert_int_equal(peerfile_write(dir, FILE_NODE_KEY, buf_slice(&i.key)), 0);
	assert_int_equal(peers_found(dir, volume, node, 1, "a", NULL), 0);
	path_of(dir, FILE_CA_KEY, path);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(peers_load(dir, &p), 0);
	assert_string_equal(p.peer[0].address, "");
	free_identity(&i);
	tempdir_remove(dir);
}

static void a_name_that_is_none_founds_nothing(void **state)
{
	char dir[256];
	struct peers p;

	(void)state;
	tempdir_make(dir);
	assert_int_equal(peers_found(dir, volume, node, 1, "a b", "h:1"), -EINVAL);
	assert_int_equal(peers_found(dir, volume, node, 1, "a", "h"), -EINVAL);
	assert_int_equal(peers_load(dir, &p), -ENOENT);
	assert_int_equal(peers_found("/nowhere/at/all", volume, node, 1, "a", "h:1"), -ENOENT);
	tempdir_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_signed_node_fits_its_ca_and_its_key),
	    cmocka_unit_test(certificates_are_valid_from_yesterday_for_ten_years),
	    cmocka_unit_test(a_fingerprint_is_of_one_certificate),
	    cmocka_unit_test(a_request_names_the_node_that_asks),
	    cmocka_unit_test(a_request_of_another_key_is_refused),
	    cmocka_unit_test(damaged_pem_is_refused),
	    cmocka_unit_test(a_key_with_a_password_is_refused),
	    cmocka_unit_test(a_chain_must_be_whole),
	    cmocka_unit_test(the_first_node_founds_its_directory_once),
	    cmocka_unit_test(founding_goes_on_after_a_crash_at_any_step),
	    cmocka_unit_test(an_admins_files_are_used_as_they_are),
	    cmocka_unit_test(a_name_that_is_none_founds_nothing),
	};

	return cmocka_run_group_tests_name("pki", tests, NULL, NULL);
}
