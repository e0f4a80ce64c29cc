/*
 * secret.h: from what an admin writes after `key=` to the secret itself.
 *
 * Ownership: the caller wipes a secret (secret_wipe()).  Errors: -errno; what is wrong was printed, never with a byte of the secret.
 */
#pragma once

#include "fs/store/crypt/keys.h"

/* `what`: the volume, for a prompt.  `twice`: a new passphrase is asked for twice. */
MUST_CHECK int secret_get(const char *spec, const char *what, bool twice, struct secret *ret);
/* "file", "command" or "passphrase": what a slot is called that nobody names. */
const char *secret_source(const char *spec);
