/*
 * guard.h: an object store in front of another one, that keeps its moods away from the filesystem: bounded retries with backoff
 * and jitter, a circuit breaker, limits of bandwidth and requests, a monthly budget, and counters of everything.
 *
 * Retries: errors that pass (object_error_passes) are tried again, up to a number of times and never past the call's deadline,
 * after a random wait below base * 2^n ("full jitter", Brooker 2015), or as long as the store asked; then all calls leave it alone
 * for that long.  A put whose outcome is unknown may be repeated: keys are written once, with the same bytes.  One with
 * OBJECT_CREATE is not (-EEXIST would not say whose object is there): its error is returned, and the caller looks.
 * -EBADMSG is tried twice more.  A listing goes on behind the last key that was delivered.
 * Breaker (breaker.h): closed -> open after a number of failures in a row; open: calls fail at once with -ECANCELED for a while,
 * which doubles up to a limit; half open: one call goes through and decides.  Only errors of a store that is away or ill count.  A
 * foreground call waits for the breaker as long as its deadline allows, and its tries as the breaker's probe are not counted: it
 * lasts as long as it may.  A call that was tried ends with the store's own error, whatever it waited for in the end.
 * Limits (bucket.h): bytes a second each way, requests a second; foreground calls go first.  A call's bytes are paid at once.
 * Budget: requests a calendar month, a listing one for each 1000 keys; background calls get -EDQUOT once it is used up, foreground
 * calls never.
 * Deadlines: a foreground call without one has `timeout_ns`; a background call without one waits for limits as long as it takes, and
 * each try has the store's own limit.
 *
 * Ownership: takes the store behind it over.  Threads: any.  call->cancel is the guard's to set: callers of a guard leave it NULL.
 */
#pragma once

#include "base/clock.h"
#include "tier/object.h"

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN };
enum object_kind { OBJECT_PUT, OBJECT_GET, OBJECT_HEAD, OBJECT_REMOVE, OBJECT_LIST, OBJECT_KINDS };

struct guard_config {
	const char *name;           /* of the store, for messages; copied */
	const struct clock *clock;  /* borrowed */
	/* Waits until the monotonic time, or less: the guard looks again.  Called without locks; NULL: really.  For tests. */
	void (*sleep_until)(void *ctx, int64_t mono_ns);
	void *sleep_ctx;
	uint64_t seed;              /* of the jitter; 0: random */
	unsigned tries;             /* of one call; 0: 6 */
	int64_t base_ns, cap_ns;    /* of the backoff; 0: 100 ms, 10 s */
	unsigned trip;              /* failures in a row that open the breaker; 0: 5 */
	int64_t open_ns, open_max_ns; /* 0: 1 s, 60 s */
	int64_t timeout_ns;         /* of a foreground call without a deadline; 0: 30 s */
	uint64_t rate_bytes;
	uint32_t requests;
	uint64_t budget;
	double price_put, price_get, price_gb_month;
};

/* Requests used up in a month (UTC), to be kept over a restart. */
struct guard_usage {
	uint32_t month; /* year * 12 + month - 1 */
	uint64_t requests, bytes_in, bytes_out;
	uint64_t by_kind[OBJECT_KINDS];
};
struct guard_status {
	enum breaker_state breaker;
	int64_t retry_at_ns;        /* open: monotonic time of the next try */
	/* Since the start, tries counted each.  "No such object" and "it is there already" are answers, not errors. */
	uint64_t requests[OBJECT_KINDS], errors[OBJECT_KINDS];
	uint64_t retries, trips, bytes_in, bytes_out; /* bytes of what succeeded */
	int64_t last_success_ns, last_error_ns; /* real time; 0: never */
	int last_error;
	char last_message[OBJECT_MESSAGE_MAX];
	struct guard_usage usage;
	bool budget_spent;
	double cost_requests;       /* dollars this month, by the prices of the definition: listings as puts, removals free */
};

/* -ENOMEM; then the store behind is still the caller's. */
MUST_CHECK int guard_new(const struct guard_config *c, struct object_store *behind, struct object_store **ret);
void guard_get_status(struct object_store *guard, struct guard_status *ret);
/* From before the restart: counts if it is of this month, beside what was counted since. */
void guard_set_usage(struct object_store *guard, const struct guard_usage *u);
/* Calls under way and waiting end soon, with -ECANCELED; new ones at once.  Before close. */
void guard_shut(struct object_store *guard);
