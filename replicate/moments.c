/* moments.c: moments to be remembered are thinned out when there are too many, and get denser when few are needed. */
#include "replicate/moments.h"

#include <string.h>

#include "base/util.h"

#define MOMENT_GAP_NS (NSEC_PER_SEC / 100)

static void moments_thin(struct moments *m)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < m->n; i += 2)
		m->at[n++] = m->at[i];
	m->n = n;
	m->gap_ns *= 2;
}

void moments_init(struct moments *m)
{
	*m = (struct moments){.gap_ns = MOMENT_GAP_NS};
}

void moments_add(struct moments *m, uint64_t seq, int64_t now_ns, uint64_t needed)
{
	uint32_t past = 0;

	while (past + 1 < m->n && m->at[past + 1].seq <= needed)
		past++;
	if (m->n && needed >= seq)
		past = m->n;
	m->n -= past;
	memmove(m->at, m->at + past, m->n * sizeof(m->at[0]));
	if (m->n < MOMENTS_MAX / 4 && m->gap_ns > MOMENT_GAP_NS)
		m->gap_ns /= 2;
	if (m->n && now_ns - m->at[m->n - 1].at_ns < m->gap_ns)
		return;
	if (m->n == MOMENTS_MAX)
		moments_thin(m);
	m->at[m->n].seq = seq;
	m->at[m->n++].at_ns = now_ns;
}

int64_t moments_of(const struct moments *m, uint64_t seq, int64_t now_ns)
{
	int64_t at_ns = m->n ? m->at[0].at_ns : now_ns;

	for (uint32_t i = 0; i < m->n && m->at[i].seq <= seq; i++)
		at_ns = m->at[i].at_ns;
	return at_ns;
}
