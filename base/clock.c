/* clock.c: the system's clocks. */
#include "base/clock.h"

#include <time.h>

static int64_t read_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int64_t system_real_ns(const struct clock *c)
{
	(void)c;
	return read_ns(CLOCK_REALTIME);
}

static int64_t system_mono_ns(const struct clock *c)
{
	(void)c;
	return read_ns(CLOCK_BOOTTIME);
}

const struct clock clock_system = {.real_ns = system_real_ns, .mono_ns = system_mono_ns};
