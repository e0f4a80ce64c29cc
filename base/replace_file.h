/*
 * replace_file.h: a small file gets new content whole, or keeps what it has.
 *
 * Durability: after 0 the content and the name are on disk; a crash leaves the old or the new.  Threads: one at a time for each name.
 * Errors: -errno of the host; nothing half written is left under any name.
 */
#pragma once

#include "base/util.h"

#define REPLACE_NAME_MAX 56u

/* `name` in the directory `at`, mode 0600; no link is followed. */
MUST_CHECK int replace_file(int at, const char *name, struct slice content);
