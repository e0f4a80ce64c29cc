/*
 * request.h: one request to an S3 store: signed, sent, answered, its failure put into words.
 *
 * A request that is refused is sent once more where that may help: with the store's time when ours was too far off it, and with
 * other credentials when their file changed.  Everything else is for the caller to repeat.
 *
 * Threads: any.  Errors: those of object.h, with call->message set.
 */
#pragma once

#include <stdatomic.h>

#include "tier/definition.h"
#include "tier/object.h"
#include "tier/s3/answer.h"
#include "tier/s3/credentials.h"
#include "tier/s3/sigv4.h"

/* What the signature of a put has of its body, over plain HTTP.  Which, the store's first answer says. */
enum s3_bodies { S3_BODIES_UNKNOWN, S3_BODIES_MD5, S3_BODIES_SHA256 };

struct s3_store {
	struct object_store base;
	struct store_definition definition;
	const struct clock *clock; /* borrowed */
	struct http *http;
	struct credential_source *source;
	struct sigv4_signer signer;
	_Atomic int64_t skew_ns; /* the store's clock less ours, when it was found to matter */
	_Atomic enum s3_bodies bodies;
	bool tls;
	char origin[420]; /* "https://host:port" */
	char host[400];   /* "host:port" as the Host header has it */
	char path[80];    /* of the bucket: "/bucket", or "" where it is in the host's name */
	char label[250];  /* for messages: "s3://bucket/prefix at https://host:port" */
};

struct s3_request {
	enum http_method method;
	const char *key; /* without the store's prefix; NULL: the bucket itself */
	const struct sigv4_field *query;
	unsigned n_query;
	const char *range; /* "bytes=0-9"; NULL: all */
	bool create;       /* a put: only when there is none */
	const struct iovec *body;
	int n_body;
	const char *content_md5;    /* of the body, base64; NULL: not said */
	const char *content_sha256; /* of the body, hex; NULL: its hash is no part of the signature */
	uint64_t expected;                        /* bytes of the answer */
	int (*sink)(void *ctx, const struct http_response *r, const uint8_t *p, size_t len); /* of a success only */
	void *ctx;
};
MUST_CHECK int s3_request(struct s3_store *s, struct object_call *call, const struct s3_request *q, struct s3_answer *ret);

/* Sets call->message: the store, what was tried, what came. */
int s3_fail(const struct s3_store *s, struct object_call *call, int error, const struct s3_request *q, const char *what);
