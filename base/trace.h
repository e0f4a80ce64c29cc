/*
 * trace.h: the stages of a request, as USDT probes and as times.
 *
 * Each stage fires a probe of provider "clawfs", which costs a nop while nobody listens.  The first argument of those of a
 * request is its trace id, the number that the kernel gave the FUSE request; `logged` ties it to the batch that the change is in, and
 * the probes of a batch have its seq as their first argument:
 *
 *     request(id, opcode, node)   a worker received it
 *     admitted(id)                there is room, and the gate is passed
 *     placed(id)                  the data of a large write is in the arena
 *     locked(id)                  its inodes are locked
 *     prepared(id)                partial blocks are merged, checksums made, space promised
 *     logged(id, seq)             its record is in batch seq
 *     applied(id, seq)            the index has it
 *     reply(id, error)            the kernel was answered, by whatever thread
 *     seal(seq, records)          nothing is added to the batch any more
 *     flushed(seq)                the direct data that it names is on disk
 *     durable(seq, bytes)         the batch is on disk
 *     ship(seq, node)             it was given to the connection with a follower
 *     ack(seq, node)              the follower has it on disk
 *
 * The times between the stages of a WRITE are counted in metric_histograms[].
 * Threads: a request is traced in the thread that serves it.  Errors: none.
 */
#pragma once

#include "base/metric.h"

#ifdef HAVE_SDT
#include <sys/sdt.h>
#define TRACE_BATCH(probe, seq, value) DTRACE_PROBE2(clawfs, probe, seq, value)
#define TRACE_PROBE3(probe, a, b, c)   DTRACE_PROBE3(clawfs, probe, a, b, c)
#else
#define TRACE_BATCH(probe, seq, value) ((void)(seq), (void)(value))
#define TRACE_PROBE3(probe, a, b, c)   ((void)(a), (void)(b), (void)(c))
#endif

struct trace {
	uint64_t id;     /* 0: no request is served */
	int64_t last_ns; /* when its last stage ended; 0: it is not measured */
};
extern _Thread_local struct trace trace_self;

/* The stage that `which` counts has ended. */
void trace_measure(enum metric_histogram which);

#define TRACE_STAGE(probe, which, value)                        \
	do {                                                    \
		TRACE_BATCH(probe, trace_self.id, value);       \
		if (trace_self.last_ns)                         \
			trace_measure(which);                   \
	} while (0)
