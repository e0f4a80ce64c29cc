/*
 * month.h: which calendar month it is, for the budget, with clocks that jump.
 *
 * Rules: a later month begins anew.  An earlier one (the clock was set back) keeps what was counted, so that a jump there and back
 * costs one budget at most, and does not stop ageing until the far month is over.  A clock before 2024 has not been set yet: nothing
 * changes until it is.
 * Threads: the caller's lock.  Errors: none.
 */
#pragma once

#include "tier/guard.h"

/* Of a real time: year * 12 + month - 1 (UTC). */
uint32_t month_of(int64_t real_ns);
/* Brings `u` to the month of now. */
void month_roll(struct guard_usage *u, int64_t real_ns);
/* Adds what was counted before a restart to what was counted since. */
void month_restore(struct guard_usage *u, const struct guard_usage *before, int64_t real_ns);
