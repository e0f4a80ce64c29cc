/*
 * breaker.h: a circuit breaker (Nygard, Release It!, 2007): whether a store is asked at all.
 *
 *     closed     every call goes through; `trip` failures in a row open it
 *     open       none goes through until retry_at_ns; the next one after that is the probe
 *     half open  the probe is under way; its success closes, its failure opens for twice as long, up to open_max_ns
 *
 * Calls that were under way when it opened change nothing any more.
 * Threads: the caller's lock.  Errors: none.
 */
#pragma once

#include "tier/guard.h"

struct breaker {
	unsigned trip;                /* failures in a row that open it */
	int64_t open_ns, open_max_ns; /* the first time, and at most */
	enum breaker_state state;
	unsigned failures;            /* closed: in a row */
	int64_t pause_ns;             /* how long it is, or was, open */
	int64_t retry_at_ns;          /* open */
	uint64_t trips;               /* closed -> open */
};

enum breaker_pass { BREAKER_GO, BREAKER_PROBE, BREAKER_STOP };
/* What a call made now may do; changes nothing. */
enum breaker_pass breaker_look(const struct breaker *b, int64_t now_ns);
/* The call goes; `pass` is what breaker_look() just said, GO or PROBE. */
void breaker_enter(struct breaker *b, enum breaker_pass pass);

enum breaker_outcome {
	BREAKER_WELL,    /* the store answered, be it no */
	BREAKER_FAILED,  /* it is away or ill */
	BREAKER_UNKNOWN, /* the call ended for a reason of its own */
};
/* A call that entered as `pass` is over.  Returns whether the state is another one now. */
bool breaker_leave(struct breaker *b, enum breaker_pass pass, enum breaker_outcome outcome, int64_t now_ns);
