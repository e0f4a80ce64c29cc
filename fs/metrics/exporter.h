/*
 * exporter.h: a small HTTP server for what a mount measures: on a unix socket, or a port that only this host reaches.
 *
 *     GET /metrics   for Prometheus
 *     GET /status    the status, JSON
 *     GET /stats     histograms, JSON
 *     GET /          a page for people, which shows these
 *
 * It has no passwords and no TLS: whoever may connect may read.  So what may name files is told on a unix socket only.  A unix socket has mode 0660 and the group that its directory gives to new
 * files (a set-group-ID directory gives its own).  A port is bound to a loopback address unless it is said in so many words
 * that any will do, and answers only requests that name a loopback host, so that no page from elsewhere reads it through a
 * visitor's browser by a name that resolves to this host.
 *
 * Bounds: EXPORTER_CONNECTIONS at once, EXPORTER_MEMORY for each with its request, EXPORTER_IDLE_S without a byte.  One thread.
 * Threads: start and stop by one; answers come from the server's.  Errors: -errno; a request that is wrong is told so and changes nothing.
 */
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include "fs/metrics/metrics.h"

#define EXPORTER_CONNECTIONS 16u
#define EXPORTER_MEMORY      (32 * KIB)
#define EXPORTER_IDLE_S      5u

/* Where it listens. */
struct exporter_address {
	struct sockaddr_storage address;
	socklen_t len;
	bool anywhere; /* requests may name any host */
};
/*
 * "/run/clawfs/vol.sock", "127.0.0.1:9444" or "[::1]:9444"; with `anywhere` any numeric address.  -EINVAL; *ret_why is set then.
 */
MUST_CHECK int exporter_parse(const char *where, bool anywhere, struct exporter_address *ret, const char **ret_why);
/* Whether a request that names `host` (the header, may be NULL) is answered. */
bool exporter_host_is_here(const char *host);

struct exporter;
/*
 * -EADDRINUSE: somebody answers there, or it is no socket that was left behind.  `m` is borrowed.
 */
MUST_CHECK int exporter_start(struct metrics *m, const struct exporter_address *a, struct exporter **ret);
struct exporter *exporter_stop(struct exporter *e); /* NULL is fine; before metrics_free() */
