/* report.h: the scrub's part of the status object; a new reference, NULL without memory. */
#pragma once

#include <jansson.h>

struct fs;
json_t *scrub_status_json(struct fs *fs);
