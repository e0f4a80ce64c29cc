/*
 * s3.h: an object store that speaks the protocol of Amazon S3: Amazon's, Ceph's, Swift's and many others.
 *
 * What is used of it: single PUT (with Content-MD5, and If-None-Match: * for OBJECT_CREATE), GET with Range, HEAD, DELETE,
 * ListObjectsV2.  Requests are signed with Signature Version 4; over plain HTTP the signature covers a hash of the body, its MD5 or,
 * where the store insists, its SHA-256; over TLS that is left to TLS.  Nothing asks a store for checksums of its own (x-amz-checksum-*): many do not know them.
 *
 * put(): call->verified is set when the store answered with the MD5 of what we sent as its ETag.  That is so of unencrypted
 * single-part objects nearly everywhere, and never of ones that Amazon encrypts with a key of its own (SSE-KMS): read those back.
 * A request that is cut on a kept connection is sent once more on a new one, so a put with OBJECT_CREATE may lose against itself:
 * -EEXIST says that it is there, and not who put it there.
 * get(): "206 Partial Content" with exactly the range; a whole object with "200" is taken when it is small.
 * remove(): stores answer alike whether there was such an object or not.
 * list(): names that can be no key of object.h are passed over.
 *
 * Errors beside those of object.h: a redirect is not followed, it is -ENODEV with the region in the message.
 */
#pragma once

#include "base/clock.h"
#include "tier/definition.h"
#include "tier/object.h"

struct s3_config {
	const struct store_definition *definition; /* copied */
	const char *credentials_file, *profile;    /* credentials.h; NULL: from the environment or the shared file, "default" */
	const struct clock *clock;                 /* borrowed; NULL: the system's */
};
/* Asks the store nothing.  `message` (OBJECT_MESSAGE_MAX of room) says what is wrong with credentials or files. */
MUST_CHECK int s3_open(const struct s3_config *c, struct object_store **ret, char *message);
