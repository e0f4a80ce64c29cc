/*
 * metrics.h: what a mounted volume measures of itself, for everyone who asks: the files of .clawfs, the server, the status.
 *
 * Life: metrics_new() after the volume is open; it adds "build", "metrics" and "forecast" to the status and takes a sample every
 * METRICS_SAMPLE_S for the forecasts.  metrics_free() before the volume is closed and when no mount uses it any more.
 * Ownership: owns its thread and `requests`; the volume is borrowed.
 * Threads: all but new and free from any.  Errors: those of new; texts are cut short only where memory is (buf.failed).
 */
#pragma once

#include "base/buf.h"
#include "fs/core/fs.h"
#include "fs/metrics/requests.h"

#define METRICS_SAMPLE_S 10

struct metrics;
MUST_CHECK int metrics_new(struct fs *fs, struct metrics **ret);
struct metrics *metrics_free(struct metrics *m); /* NULL is fine */
struct requests *metrics_requests(struct metrics *m);

/* What Prometheus reads. */
void metrics_text(struct metrics *m, struct buf *out);
/* The status, as clawfs.status. */
void metrics_status(struct metrics *m, struct buf *out);
json_t *metrics_status_object(struct metrics *m); /* a new one; NULL: no memory */
/* discreet.c: the same without texts that may name files. */
void metrics_status_discreet(struct metrics *m, struct buf *out);
/*
 * For `clawfs stats` and `clawfs profile`, as JSON: "uptime_seconds", "read_bytes", "written_bytes" and histograms as
 * {"n", "sum", "buckets": [[bound, count], ...]} without buckets that are empty, times in nanoseconds: "ops" by operation (with "errors"
 * by kind), "stages" of a WRITE in order, "background" and "sizes".
 */
void metrics_stats(struct metrics *m, struct buf *out);
/* For `clawfs top`, as JSON: "window_seconds" and "rows": who asks most. */
void metrics_top(struct metrics *m, struct buf *out);
