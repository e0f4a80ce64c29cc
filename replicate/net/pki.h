/*
 * pki.h: keys and certificates as PEM text: a CA for each volume, a certificate for each node.
 *
 * Format: keys are EC P-256, PKCS#8 without a password.  The CA's common name is "clawfs " and the volume's uuid; a node's is its
 * node uuid, nothing else, for client and server use.  Certificates of an admin's own CA need only that common name.
 * Ownership: results are appended to the caller's buffers; keys among them are for secret_free().
 * Threads: any.  Errors: -EUCLEAN text that is not what it should be, -EKEYREJECTED what does not fit together, -ENOMEM, -EIO.
 */
#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "replicate/secret.h"

#define PKI_PEM_MAX (16u * 1024u)

/* Seconds since 1970, first and last. */
struct pki_span {
	int64_t from_s, to_s;
};
/* From a day before `now_s`, so that a clock that is hours behind takes it, to ten years after; a CA outlives its nodes. */
struct pki_span pki_node_span(int64_t now_s);
struct pki_span pki_ca_span(int64_t now_s);

MUST_CHECK int pki_make_key(struct buf *ret_pem);
MUST_CHECK int pki_make_ca(struct slice key, const uint8_t volume[16], const struct pki_span *span, struct buf *ret_pem);
MUST_CHECK int pki_make_request(struct slice key, const uint8_t node[16], struct buf *ret_pem);
/* Signs a request of a stranger: it must be signed with its own key, EC P-256, and ask for the name `node`; of what else it
 * says nothing is taken. */
MUST_CHECK int pki_sign(struct slice ca, struct slice ca_key, struct slice request, const uint8_t node[16],
			const struct pki_span *span, struct buf *ret_pem);

MUST_CHECK int pki_fingerprint(struct slice certificate, uint8_t ret_sha256[32]); /* of the DER of the first */
/* The certificate's key is `key`. */
MUST_CHECK int pki_check_key(struct slice certificate, struct slice key);
/* `certificate` is of `node`, signed by the CA; its times do not matter. */
MUST_CHECK int pki_check_node(struct slice ca, struct slice certificate, const uint8_t node[16]);
MUST_CHECK int pki_get_span(struct slice certificate, struct pki_span *ret);

/* What tls.c puts into contexts: the caller frees what it gets. */
MUST_CHECK int pki_read_key(struct slice pem, EVP_PKEY **ret);
MUST_CHECK int pki_read_chain(struct slice pem, STACK_OF(X509) * *ret); /* one certificate at least */
MUST_CHECK int pki_node_of(const X509 *certificate, uint8_t ret_node[16]); /* -EUCLEAN: its common name is no uuid */
