/*
 * sigv4.h: signs requests as Amazon's "Signature Version 4" says (AWS, "Authenticating Requests: Using the Authorization Header",
 * Amazon S3 API reference).  What HTTP libraries have of it differs from version to version and fails on harmless requests.
 *
 *     canonical request = METHOD \n path \n query \n "name:value\n" of each signed header, sorted \n names \n hash of the payload
 *     string to sign    = "AWS4-HMAC-SHA256" \n time \n day/region/service/aws4_request \n SHA-256 of the canonical request
 *     key               = HMAC(HMAC(HMAC(HMAC("AWS4" secret, day), region), service), "aws4_request")
 *
 * Path and query are made by sigv4_target() in the one form that is signed, and sent as they are: percent-encoded once, the
 * path not normalised (as S3 wants it), the query sorted.
 *
 * Ownership: a signer holds a derived key for the day: sigv4_signer_destroy() wipes it.  Threads: a signer may be used by many.
 * Errors: -ENOMEM, -E2BIG more fields than SIGV4_FIELDS_MAX, -EIO from the crypto library.
 */
#pragma once

#include "base/buf.h"
#include "base/lock.h"

#define SIGV4_FIELDS_MAX       32u
#define SIGV4_HASH_TEXT        65u /* 64 hex digits and NUL */
#define SIGV4_TIME_TEXT        17u /* "20150830T123600Z" */
#define SIGV4_UNSIGNED_PAYLOAD "UNSIGNED-PAYLOAD"
#define SIGV4_EMPTY_PAYLOAD    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

struct sigv4_field {
	const char *name, *value;
};

/* Appends path and "?query", encoded; `path` begins with '/', its slashes stay.  Fields come in any order, not encoded. */
MUST_CHECK int sigv4_target(const char *path, const struct sigv4_field *query, unsigned n_query, struct buf *out);

struct sigv4_request {
	const char *method;
	const char *target;                /* of sigv4_target() */
	const struct sigv4_field *headers; /* those to be signed: host, x-amz-date and others, any order and case */
	unsigned n_headers;
	const char *payload; /* the value of x-amz-content-sha256 */
	int64_t time_s;      /* that of x-amz-date, since 1970 */
};

struct sigv4_signer {
	char region[32], service[16];
	struct mutex lock;
	/* guarded by lock: the key derived last, of which day and secret */
	char day[9];
	uint8_t secret_sha256[32], key[32];
};
void sigv4_signer_init(struct sigv4_signer *s, const char *region, const char *service);
void sigv4_signer_destroy(struct sigv4_signer *s);

void sigv4_time(int64_t time_s, char ret_text[SIGV4_TIME_TEXT]);
void sigv4_hex(const uint8_t sha256[32], char ret_text[SIGV4_HASH_TEXT]);

/* Appends the value of the Authorization header, NUL behind it (not counted). */
MUST_CHECK int sigv4_sign(struct sigv4_signer *s, const char *access_key, const char *secret_key, const struct sigv4_request *r,
			  struct buf *out);

/* The step in between, for tests: appends the canonical request. */
MUST_CHECK int sigv4_canonical_request(const struct sigv4_request *r, struct buf *out);
