/*
 * answer.h: what an answer of an S3 store means: status, code and headers as one of the errors of object.h.
 *
 * Threads: no state.  Errors: that is what it is about.
 */
#pragma once

#include "base/clock.h"
#include "tier/s3/http.h"
#include "tier/s3/xml.h"

struct s3_answer {
	struct http_response http;
	struct s3_error error; /* empty when it was a success, or had no such body */
};

/* 0 for a success.  `create`: a put with a condition, which may have been lost to somebody else. */
MUST_CHECK int s3_answer_error(const struct s3_answer *a, bool create);
/* In words: "503 SlowDown: Please reduce your request rate". */
void s3_answer_text(const struct s3_answer *a, char *ret, size_t cap);
/* How long the store asked to be left alone, seconds or a date; 0: it did not say. */
int64_t s3_answer_retry_after(const struct s3_answer *a, int64_t real_ns);
/* The store's clock less ours, when it refused a request for the time it carried; false when that was not the reason. */
MUST_CHECK bool s3_answer_skew(const struct s3_answer *a, int64_t real_ns, int64_t used_ns, int64_t *ret_skew_ns);

/* Whether a put that was refused may pass with the body's SHA-256 in its signature instead of its MD5. */
bool s3_answer_wants_sha256(const struct s3_answer *a);

/* "bytes 0-9/100": -EPROTO. */
struct s3_range {
	uint64_t from, to, size; /* to: the last byte; size 0: unknown */
};
MUST_CHECK int s3_range_parse(const char *text, struct s3_range *ret);
/* A date of HTTP as real time, 0 when it is none. */
int64_t s3_date_parse(const char *text);
