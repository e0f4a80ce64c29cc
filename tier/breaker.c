/* breaker.c: see breaker.h. */
#include "tier/breaker.h"

#include <assert.h>

enum breaker_pass breaker_look(const struct breaker *b, int64_t now_ns)
{
	if (b->state == BREAKER_CLOSED)
		return BREAKER_GO;
	return b->state == BREAKER_OPEN && now_ns >= b->retry_at_ns ? BREAKER_PROBE : BREAKER_STOP;
}

void breaker_enter(struct breaker *b, enum breaker_pass pass)
{
	assert(pass == BREAKER_GO || pass == BREAKER_PROBE);
	if (pass == BREAKER_PROBE) {
		assert(b->state == BREAKER_OPEN);
		b->state = BREAKER_HALF_OPEN;
	}
}

static void open_for(struct breaker *b, int64_t pause_ns, int64_t now_ns)
{
	b->state = BREAKER_OPEN;
	b->pause_ns = pause_ns < b->open_max_ns ? pause_ns : b->open_max_ns;
	b->retry_at_ns = now_ns + b->pause_ns;
}

static bool leave_probe(struct breaker *b, enum breaker_outcome outcome, int64_t now_ns)
{
	assert(b->state == BREAKER_HALF_OPEN);
	switch (outcome) {
	case BREAKER_WELL:
		b->state = BREAKER_CLOSED;
		b->failures = 0;
		break;
	case BREAKER_FAILED:
		open_for(b, b->pause_ns * 2, now_ns);
		break;
	case BREAKER_UNKNOWN: /* the next call is the probe */
		b->state = BREAKER_OPEN;
		b->retry_at_ns = now_ns;
		break;
	}
	return true;
}

bool breaker_leave(struct breaker *b, enum breaker_pass pass, enum breaker_outcome outcome, int64_t now_ns)
{
	if (pass == BREAKER_PROBE)
		return leave_probe(b, outcome, now_ns);
	if (b->state != BREAKER_CLOSED || outcome == BREAKER_UNKNOWN)
		return false;
	b->failures = outcome == BREAKER_WELL ? 0 : b->failures + 1;
	if (b->failures < b->trip)
		return false;
	b->trips++;
	open_for(b, b->open_ns, now_ns);
	return true;
}
