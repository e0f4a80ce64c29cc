/*
 * table.h: every metric by name, type, unit and meaning, as one table; text.c prints it for Prometheus.
 *
 * Where a value comes from:
 *     a member of the status (fs_status_object()) by its path, in which each `*` stands for every member there is, and becomes a label;
 *     a histogram or counter of base/metric.h;
 *     what requests.h counts by operation.
 * So what the status says and what Prometheus is told are the same number, and a new member of the status is a metric with one row.
 */
#pragma once

#include "base/util.h"

enum metric_type {
	METRIC_COUNTER,
	METRIC_GAUGE,
	METRIC_BOOL,      /* a gauge: 1 where the member is not 0, false or "" */
	METRIC_STATE,     /* a gauge for each of `states`: 1 for the one that the member names, 0 for the others */
	METRIC_TEXT,      /* a gauge, 1, with the member as a label; not there while that is empty */
	METRIC_HISTOGRAM,
	METRIC_LATENCY,   /* of requests: a histogram for each operation */
	METRIC_ERRORS,    /* of requests: a counter for each operation and kind of error */
};
struct metric_row {
	const char *name, *help;
	enum metric_type type;
	const char *path;   /* in the status; NULL: `which` */
	const char *labels; /* names for the stars in path, in order, and for METRIC_TEXT and METRIC_STATE one more; commas between them */
	double scale;       /* of the member to the unit of the name; 0: 1 */
	const char *states; /* commas between them */
	unsigned which;     /* enum metric_histogram, or with type METRIC_COUNTER enum metric_counter */
};
extern const struct metric_row metric_rows[];
extern const size_t n_metric_rows;
