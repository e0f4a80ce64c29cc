/*
 * answer.c: see answer.h.
 *
 * The code in the body says more than the status, where there is one: it is looked up first.  Codes are those of the Amazon S3
 * API reference ("Error responses") and what Ceph and Swift use besides.
 */
#include "tier/s3/answer.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define RETRY_AFTER_MAX_S 3600
#define SKEW_MIN_NS       (240 * NSEC_PER_SEC) /* stores allow 5 to 15 minutes */

static const struct {
	const char *code;
	int error;
} by_code[] = {
    {"NoSuchKey", -ENOENT},
    {"NoSuchBucket", -ENODEV},
    {"InvalidBucketName", -ENODEV},
    {"PermanentRedirect", -ENODEV},
    {"TemporaryRedirect", -ENODEV},
    {"AuthorizationHeaderMalformed", -EACCES},
    {"ExpiredToken", -EACCES},
    {"InvalidToken", -EACCES},
    {"InvalidAccessKeyId", -EACCES},
    {"TokenRefreshRequired", -EACCES},
    {"PreconditionFailed", -EEXIST},
    {"ConditionalRequestConflict", -EEXIST},
    {"BadDigest", -EBADMSG},
    {"InvalidDigest", -EBADMSG},
    {"XAmzContentSHA256Mismatch", -EBADMSG},
    {"IncompleteBody", -EBADMSG},
    {"InvalidRange", -EBADMSG},
    {"RequestTimeout", -ETIMEDOUT},
    {"SlowDown", -EBUSY},
    {"Throttling", -EBUSY},
    {"ThrottlingException", -EBUSY},
    {"RequestLimitExceeded", -EBUSY},
    {"TooManyRequests", -EBUSY},
    {"BandwidthLimitExceeded", -EBUSY},
    {"QuotaExceeded", -ENOSPC},
    {"InsufficientStorage", -ENOSPC},
    {"XMinioStorageFull", -ENOSPC},
    {"NotImplemented", -EOPNOTSUPP},
    {"MethodNotAllowed", -EOPNOTSUPP},
    {"InvalidStorageClass", -EOPNOTSUPP},
    {"EntityTooLarge", -EOPNOTSUPP},
    {"KeyTooLongError", -EINVAL},
};

static int from_status(const struct http_response *h)
{
	switch (h->status) {
	case 301:
	case 302:
	case 303:
	case 307:
	case 308:
		return -ENODEV;
	case 401:
	case 403:
		return -EACCES;
	case 405:
	case 413:
	case 501:
		return -EOPNOTSUPP;
	case 408:
	case 504:
		return -ETIMEDOUT;
	case 409:
		return -EIO; /* something is under way there that passes */
	case 412:
		return -EEXIST;
	case 416:
		return -EBADMSG;
	case 429:
	case 509:
		return -EBUSY;
	case 503:
		return h->retry_after[0] ? -EBUSY : -EIO;
	case 507:
		return -ENOSPC;
	default:
		/* A 404 that does not say of what may come from something that is no object store. */
		return h->status >= 500 && h->status < 600 ? -EIO : -EPROTO;
	}
}

int s3_answer_error(const struct s3_answer *a, bool create)
{
	const int status = a->http.status;

	if (status >= 200 && status < 300)
		return 0;
	if (create && (status == 409 || status == 412))
		return -EEXIST;
	for (unsigned i = 0; i < ARRAY_SIZE(by_code); i++)
		if (strcmp(a->error.code, by_code[i].code) == 0)
			return by_code[i].error;
	return from_status(&a->http);
}

void s3_answer_text(const struct s3_answer *a, char *ret, size_t cap)
{
	const char *region = a->error.region[0] ? a->error.region : a->http.region;
	const bool elsewhere = a->http.status == 400 || (a->http.status >= 300 && a->http.status < 400);

	/* An answer to HEAD has no body that could say why. */
	const bool refused = (a->http.status == 401 || a->http.status == 403) && !a->error.code[0];

	int n = snprintf(ret, cap, "%d %s%s%s", a->http.status,
			 refused ? "the credentials are refused, or may not do this" : a->error.code,
			 a->error.message[0] ? ": " : "", a->error.message);
	if (elsewhere && region[0] && n > 0 && (size_t)n < cap)
		snprintf(ret + n, cap - (size_t)n, " (the bucket is in the region %.31s: say region= and endpoint= of that one)",
			 region);
	else if (elsewhere && a->http.status != 400 && n > 0 && (size_t)n < cap)
		snprintf(ret + n, cap - (size_t)n, " (the store sends us elsewhere: say its own endpoint=)");
}

int64_t s3_date_parse(const char *text)
{
	const time_t t = text[0] ? curl_getdate(text, NULL) : -1;

	return t > 0 && t < INT64_MAX / NSEC_PER_SEC ? (int64_t)t * NSEC_PER_SEC : 0;
}

int64_t s3_answer_retry_after(const struct s3_answer *a, int64_t real_ns)
{
	const char *text = a->http.retry_after;
	char *end;
	const long seconds = strtol(text, &end, 10);
	int64_t ns = 0;

	if (text[0] >= '0' && text[0] <= '9' && *end == 0)
		ns = (seconds > RETRY_AFTER_MAX_S ? RETRY_AFTER_MAX_S : seconds) * NSEC_PER_SEC;
	else if (s3_date_parse(text) > real_ns)
		ns = s3_date_parse(text) - real_ns;
	return ns > RETRY_AFTER_MAX_S * NSEC_PER_SEC ? RETRY_AFTER_MAX_S * NSEC_PER_SEC : ns;
}

bool s3_answer_skew(const struct s3_answer *a, int64_t real_ns, int64_t used_ns, int64_t *ret_skew_ns)
{
	const int64_t theirs = s3_date_parse(a->http.date);

	if (a->http.status != 403 || theirs == 0)
		return false;
	/* An answer to HEAD has no body that could say why. */
	const int64_t off = theirs > used_ns ? theirs - used_ns : used_ns - theirs;
	const bool told = strcmp(a->error.code, "RequestTimeTooSkewed") == 0;
	if (!told && (a->error.code[0] || off < SKEW_MIN_NS))
		return false;
	*ret_skew_ns = theirs - real_ns;
	return true;
}

bool s3_answer_wants_sha256(const struct s3_answer *a)
{
	/* A store that insists says so in words of its own; a bucket's policy may deny it; one that does not know it hashes. */
	static const char *const codes[] = {"XAmzContentSHA256Mismatch", "SignatureDoesNotMatch", "AccessDenied"};

	for (unsigned i = 0; i < ARRAY_SIZE(codes); i++)
		if (strcmp(a->error.code, codes[i]) == 0)
			return true;
	return a->http.status == 400 && s3_answer_error(a, false) == -EPROTO;
}

static bool take_number(const char **text, uint64_t *ret)
{
	char *end;

	if (**text < '0' || **text > '9')
		return false;
	errno = 0;
	*ret = strtoull(*text, &end, 10);
	*text = end;
	return errno == 0;
}

static bool take_char(const char **text, char c)
{
	if (**text != c)
		return false;
	(*text)++;
	return true;
}

int s3_range_parse(const char *text, struct s3_range *ret)
{
	struct s3_range r = {0};

	if (strncmp(text, "bytes ", 6) != 0)
		return -EPROTO;
	text += 6;
	if (!take_number(&text, &r.from) || !take_char(&text, '-') || !take_number(&text, &r.to) || !take_char(&text, '/'))
		return -EPROTO;
	if (!take_char(&text, '*') && (!take_number(&text, &r.size) || r.to >= r.size))
		return -EPROTO;
	if (*text || r.from > r.to)
		return -EPROTO;
	*ret = r;
	return 0;
}
