/*
 * definition.h: what a store is, as one line of text: a URL and options, as `clawfs tier add` is given them and as the volume keeps
 * them (a policy of the root directory, "tier.store.NAME").  No secrets: credentials are a file of each node.
 *
 *     file:///mnt/hdd/cold
 *     s3://bucket/prefix endpoint=https://s3.example.org region=eu-1 style=path class=STANDARD_IA ca=/etc/ssl/own.pem
 *
 * Words are separated by spaces; a path has %XX for bytes that a word cannot hold.  Options of both: id=N (given by the leader when
 * the store is added; no two stores of which objects are known have the same), encrypt=on|off (on), pack=SIZE (8M to 64M; 16M), verify=checksum|read (checksum),
 * rate=BYTES (a second; no limit), requests=N (a second; no limit), budget=N (requests a month; no limit), timeout=SECONDS (30),
 * grace=TIME (7d).  Of S3: endpoint=URL (that of AWS), region= (us-east-1), style=path|host (host at AWS where the bucket's name is
 * one without dots, else path), class= (the store's), ca=FILE (the system's), insecure=on (no check of the certificate),
 * prices=put:get:gb-month (AWS's list prices at AWS, else nothing).
 * Errors: -EINVAL, with a message that names the option; it never shows a value.
 */
#pragma once

#include "base/util.h"

#define STORE_NAME_MAX 32u  /* [a-z0-9][a-z0-9_-]* */
#define STORE_TEXT_MAX 900u /* without the NUL */

enum store_kind { STORE_DIRECTORY, STORE_S3 };
enum store_verify { VERIFY_CHECKSUM, VERIFY_READ };

struct store_definition {
	enum store_kind kind;
	uint32_t id;             /* from 1 on; 0: not given yet */
	char path[256];          /* of a directory: absolute */
	char bucket[64], prefix[256]; /* prefix without slashes at its ends; "" is fine */
	char endpoint[256];      /* "http[s]://host[:port]"; "" means that of AWS for the region */
	char region[32];         /* "us-east-1" */
	char storage_class[32];  /* "": the store's default */
	char ca_file[256];
	bool path_style, insecure, encrypt;
	enum store_verify verify;
	uint64_t pack_bytes;
	uint64_t rate_bytes;     /* a second, either way; 0: no limit */
	uint32_t requests;       /* a second; 0: no limit */
	uint64_t budget;         /* requests a calendar month (UTC); 0: no limit */
	int64_t timeout_ns;      /* of one request without progress, and how long a cold read waits */
	int64_t grace_ns;        /* between an object's last use and its end in the store */
	double price_put, price_get, price_gb_month; /* dollars: per 1000 requests, per 1000 requests, per GB-month */
};

bool store_name_valid(const char *name);
/* `message` gets what is wrong (OBJECT_MESSAGE_MAX of room), or "". */
MUST_CHECK int store_definition_parse(const char *text, struct store_definition *ret, char *message);
/*
 * As text that parses to the same, options at their defaults left out; -ENAMETOOLONG when it takes more than `cap`.  What parsed
 * always fits into STORE_TEXT_MAX + 1.
 */
MUST_CHECK int store_definition_print(const struct store_definition *d, char *ret_text, size_t cap);
