/* trace.c: the request that each thread serves */
#include "base/trace.h"

_Thread_local struct trace trace_self;

void trace_measure(enum metric_histogram which)
{
	const int64_t now = metric_now_ns();

	metric_record(which, now - trace_self.last_ns);
	trace_self.last_ns = now;
}
