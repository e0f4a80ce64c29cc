/*
 * credentials.h: the access key and secret of an object store, from where an admin keeps them.
 *
 * Sources, the first that applies:
 *   1. a file that was named, in one of two formats:
 *          access_key = AKIA...                  [default]
 *          secret_key = ...                      aws_access_key_id = AKIA...
 *          session_token = ...  (optional)       aws_secret_access_key = ...
 *                                                aws_session_token = ...
 *      the second is the shared credentials file of Amazon's tools, with a section for each profile;
 *   2. AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of the environment;
 *   3. the shared credentials file: AWS_SHARED_CREDENTIALS_FILE, else ~/.aws/credentials.
 * The profile is the one that was named, else AWS_PROFILE, else "default".
 *
 * A file must be a regular one that belongs to us or to root, that nobody else can read (0600 or 0400), and at most
 * CREDENTIALS_FILE_MAX bytes long; a symbolic link to one is fine.  Lines that begin with # or ; are comments.
 *
 * Ownership: secrets are wiped before their memory is given back: credentials_wipe() each struct credentials.  Messages never
 * hold a secret, nor any text of a line.
 * Threads: a source may be used by many at once.
 * Errors: -ENOENT no source, -EACCES a file that others can read or that we cannot, -EINVAL its content, -E2BIG, -ENOMEM.
 */
#pragma once

#include "base/util.h"

#define CREDENTIALS_FILE_MAX 16384u

struct credentials {
	char access_key[129], secret_key[257], session_token[4097]; /* session_token: "" for none */
};
void credentials_wipe(struct credentials *c);
#define CLEANUP_CREDENTIALS __attribute__((cleanup(credentials_wipe)))

struct credential_source;
/* `file` and `profile` may be NULL.  Reads them once; `message` (OBJECT_MESSAGE_MAX of room) says what is wrong. */
MUST_CHECK int credential_source_open(const char *file, const char *profile, struct credential_source **ret, char *message);
struct credential_source *credential_source_close(struct credential_source *s); /* NULL is fine */

/* What was read last. */
void credential_source_get(struct credential_source *s, struct credentials *ret);
/*
 * Reads the file again when it changed since: true when there are other credentials now than `used`, so that a call that was
 * refused with those is worth another try.  A file that cannot be read any more changes nothing.
 */
bool credential_source_renew(struct credential_source *s, const struct credentials *used);

/* The content of a file: its profile, or the lines before any section.  -EINVAL with a message, -ENOENT no such profile. */
MUST_CHECK int credentials_parse(struct slice text, const char *profile, struct credentials *ret, char *message);
