/* month.c: see month.h. */
#include "tier/month.h"

#include <time.h>

#define FIRST_MONTH (2024u * 12)

uint32_t month_of(int64_t real_ns)
{
	time_t s = real_ns / NSEC_PER_SEC - (real_ns % NSEC_PER_SEC < 0);
	struct tm tm;

	if (!gmtime_r(&s, &tm) || tm.tm_year < -1900)
		return 0;
	return (uint32_t)(tm.tm_year + 1900) * 12 + (uint32_t)tm.tm_mon;
}

void month_roll(struct guard_usage *u, int64_t real_ns)
{
	uint32_t now = month_of(real_ns);

	if (now < FIRST_MONTH)
		return;
	if (now > u->month)
		*u = (struct guard_usage){.month = now};
	u->month = now;
}

void month_restore(struct guard_usage *u, const struct guard_usage *before, int64_t real_ns)
{
	month_roll(u, real_ns);
	if (before->month < u->month)
		return;
	u->month = before->month;
	u->requests += before->requests;
	u->bytes_in += before->bytes_in;
	u->bytes_out += before->bytes_out;
	for (int i = 0; i < OBJECT_KINDS; i++)
		u->by_kind[i] += before->by_kind[i];
	month_roll(u, real_ns);
}
