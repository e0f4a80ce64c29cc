/*
 * simnet.h: a network in simulated time: connections as streams of bytes between hosts, with everything that TCP allows and a lab
 * network does not show.
 *
 * What is sent arrives in order, in pieces of any size, late, or not at all.  A cut between two hosts, in one direction or both, holds
 * bytes back for as long as it lasts, and connections outlive it.  A reset loses what is on its way, in the middle of a message.
 * A host that lost its power tells nobody: the other end is half open until it sends something and the host is back.  A
 * connection may be taken up by the listener seconds after the dialer saw it made.
 *
 * Ownership: the test owns the network; the bytes of an event are borrowed until the next call.
 * Threads: one.  Errors: running out of memory aborts.  The same seed and calls give the same events.
 */
#pragma once

#include "base/util.h"
#include "tests/lib/rng.h"

struct simnet;
/* One end of a connection; never used twice; 0 is none. */
typedef uint32_t simnet_end;

enum simnet_kind {
	SIMNET_CONNECTED, /* to the dialer */
	SIMNET_ACCEPTED,  /* to the listener: a new end */
	SIMNET_DATA,
	SIMNET_CLOSED,    /* by the other side, or the connection could not be made or kept; the end is gone */
};
struct simnet_event {
	enum simnet_kind kind;
	unsigned host;       /* whose event it is */
	simnet_end end;
	const uint8_t *p;    /* DATA */
	size_t len;
};

struct simnet *simnet_new(uint64_t seed, unsigned n_hosts);
void simnet_free(struct simnet *n);
int64_t simnet_now(const struct simnet *n); /* ns, from 0 */

/* Holds back what `from` sends to `to`, or lets it pass again. */
void simnet_cut(struct simnet *n, unsigned from, unsigned to, bool cut);
bool simnet_is_cut(const struct simnet *n, unsigned from, unsigned to);
/* Everything of and to this host takes so many times as long. */
void simnet_slow(struct simnet *n, unsigned host, unsigned times);
/* Its ends are gone.  `killed`: only the process died, and its kernel closes them; else nobody is told. */
void simnet_host_down(struct simnet *n, unsigned host, bool killed);
void simnet_host_up(struct simnet *n, unsigned host);

/* CONNECTED or CLOSED comes later. */
simnet_end simnet_dial(struct simnet *n, unsigned from, unsigned to);
/* How many of the bytes were taken: fewer than given when too much is on its way. */
size_t simnet_send(struct simnet *n, simnet_end e, const void *p, size_t len);
/* What was sent still arrives, then CLOSED.  The end is gone. */
void simnet_close(struct simnet *n, simnet_end e);
/* Both ends are closed, and what was on its way is lost; with `half` the other side is not told. */
void simnet_reset(struct simnet *n, simnet_end e, bool half);
/* A random end of those that are connected; 0 when there is none. */
simnet_end simnet_pick(struct simnet *n, struct rng *rng);

/* When the next event is due; INT64_MAX: never. */
int64_t simnet_next(const struct simnet *n);
/* Time goes on to `until` or to the next event, whichever is first; false when there is none by then. */
bool simnet_step(struct simnet *n, int64_t until, struct simnet_event *ret);
