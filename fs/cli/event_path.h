/*
 * event_path.h: whether a change is about a path or something below it (fs/core/feed/feed.h).  For watch.c and audit.c.
 */
#pragma once

#include <jansson.h>

#include "base/util.h"

/* By "path" and "to" of the object; a path that nobody can tell any more may be any. */
bool event_is_below(const json_t *event, const char *prefix);
