/*
 * text.h: the metrics of table.h as text, in the Prometheus text exposition format, version 0.0.4
 * (prometheus.io/docs/instrumenting/exposition_formats).  A metric without values is left out, with its HELP.
 */
#pragma once

#include <jansson.h>

#include "base/buf.h"
#include "fs/metrics/requests.h"

/* Appends; `status` is borrowed. */
void metrics_print(const json_t *status, const struct requests *r, struct buf *out);
