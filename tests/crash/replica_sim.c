/*
 * replica_sim.c: `clawfs-replica-sim`, the simulator of replication.
 *
 * A seed is three nodes of one volume and what happens to them: users, admins, crashes, cuts, lost and rolled back disks, clocks.
 * In the end everything is healed and must become equal.  replica_run.h says what is checked.  A failure is one line with the
 * options that repeat it.
 */
#include <getopt.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "tests/crash/jobs.h"
#include "tests/crash/replica_run.h"

#define SEED_TIMEOUT_S 120u

struct options {
	struct cluster_options cluster;
	uint64_t start, n_seeds;
	unsigned jobs, seconds;
	bool expect_failure, keep_going;
};

/* What the workers share. */
struct progress {
	_Atomic uint64_t next_seed, n_seeds, n_failures;
	_Atomic uint64_t at[JOBS_MAX];
	_Atomic uint64_t stats[sizeof(struct cluster_stats) / sizeof(uint64_t)];
};

static void report(const struct options *o, struct progress *p, uint64_t seed, const char *why)
{
	atomic_fetch_add(&p->n_failures, 1);
	if (o->expect_failure && !o->cluster.verbose)
		return;
	printf("FAILED clawfs-replica-sim --seed %llu --ops %llu%s: %s\n", (unsigned long long)seed,
	       (unsigned long long)o->cluster.n_ops, o->cluster.encrypted ? " --encrypted" : "", why);
	fflush(stdout);
}

static void add_stats(struct progress *p, const struct cluster_stats *s)
{
	uint64_t all[ARRAY_SIZE(p->stats)];

	memcpy(all, s, sizeof(all));
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		atomic_fetch_add(&p->stats[i], all[i]);
}

static void run_seed(const struct options *o, struct progress *p, uint64_t seed)
{
	static struct cluster c;
	struct cluster_options co = o->cluster;

	co.seed = seed;
	bool ok = cluster_new(&c, &co);
	for (uint64_t i = 0; ok && i < co.n_ops; i++)
		ok = cluster_act(&c);
	ok = ok && cluster_end(&c);
	if (!ok)
		report(o, p, seed, c.why);
	add_stats(p, &c.stats);
	cluster_free(&c);
	atomic_fetch_add(&p->n_seeds, 1);
}

struct sweep {
	const struct options *o;
	struct progress *progress;
	int64_t end_ns; /* 0: none */
};

static void work(void *ctx, unsigned worker)
{
	const struct sweep *w = ctx;
	const struct options *o = w->o;
	struct progress *p = w->progress;

	for (;;) {
		uint64_t i = atomic_fetch_add(&p->next_seed, 1);

		if (i >= o->n_seeds || (w->end_ns && clock_mono_ns(&clock_system) > w->end_ns) ||
		    (p->n_failures > 0 && !o->keep_going))
			return;
		p->at[worker] = o->start + i;
		alarm(SEED_TIMEOUT_S);
		run_seed(o, p, o->start + i);
	}
}

static void died(void *ctx, unsigned worker, const char *how)
{
	const struct sweep *w = ctx;

	report(w->o, w->progress, w->progress->at[worker], how);
}

static void print_stats(const struct options *o, struct progress *p, double seconds)
{
	uint64_t all[ARRAY_SIZE(p->stats)];
	struct cluster_stats s;

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		all[i] = p->stats[i];
	memcpy(&s, all, sizeof(s));
	printf("seeds %llu from %llu, operations %llu, events %llu, crashes %llu, promotions %llu (%llu against the rule), "
	       "hand-overs %llu, resyncs %llu (%llu of another history), disks destroyed %llu, rolled back %llu, fsyncs answered "
	       "%llu "
	       "(%llu given up), fence windows %llu (%llu given up), states compared %llu, snapshots in them %llu (%llu not "
	       "held), failures %llu, %.1f s\n",
	       (unsigned long long)p->n_seeds, (unsigned long long)o->start, (unsigned long long)s.operations,
	       (unsigned long long)s.events, (unsigned long long)s.crashes, (unsigned long long)s.promotions,
	       (unsigned long long)s.lossy_promotions, (unsigned long long)s.handovers, (unsigned long long)s.resyncs,
	       (unsigned long long)s.saved, (unsigned long long)s.destroyed, (unsigned long long)s.rolled_back,
	       (unsigned long long)s.acks, (unsigned long long)s.acks_waived, (unsigned long long)s.windows,
	       (unsigned long long)s.windows_given_up, (unsigned long long)s.compared, (unsigned long long)s.snaps_held,
	       (unsigned long long)s.snaps_unheld, (unsigned long long)p->n_failures, seconds);
}

static int sweep(const struct options *o)
{
	struct progress *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int64_t start = clock_mono_ns(&clock_system);
	struct sweep w = {o, p, o->seconds ? start + o->seconds * NSEC_PER_SEC : 0};

	if (p == MAP_FAILED)
		return 2;
	jobs_run(&(struct jobs){work, died, &w}, o->jobs);
	print_stats(o, p, (double)(clock_mono_ns(&clock_system) - start) / 1e9);
	bool failed = p->n_failures > 0;
	munmap(p, sizeof(*p));
	if (o->expect_failure && !failed)
		printf("FAILED: a rule was broken on purpose and nothing noticed\n");
	return failed == o->expect_failure ? 0 : 1;
}

static const char usage[] =
    "clawfs-replica-sim: three nodes of a volume in a simulated network, and what they must never do\n"
    "  --start N         first seed (1)\n"
    "  --seeds N         how many (1)\n"
    "  --seed N          only this one\n"
    "  --seconds N       start no further seed after this long\n"
    "  --ops N           acts per seed (150)\n"
    "  --jobs N          processes (1)\n"
    "  --keep-going      also after a failure\n"
    "  --verbose         what happens, and log lines\n"
    "  --encrypted       node 1 is, node 2 is in aead mode with another key, node 3 is not\n"
    "  --sabotage RULE   break one on purpose: ack-early, ignore-epoch, skip-saving, no-fence, short-resync,\n"
    "                    forget-offer, apply-in-window, keep-replaced; exit 0 when that is noticed\n";

static enum replica_sabotage sabotage_by_name(const char *name)
{
	static const char *const names[SABOTAGES] = {
	    [SABOTAGE_ACK_EARLY] = "ack-early",
	    [SABOTAGE_IGNORE_EPOCH] = "ignore-epoch",
	    [SABOTAGE_SKIP_SAVING] = "skip-saving",
	    [SABOTAGE_NO_FENCE] = "no-fence",
	    [SABOTAGE_SHORT_RESYNC] = "short-resync",
	    [SABOTAGE_FORGET_OFFER] = "forget-offer",
	    [SABOTAGE_APPLY_IN_WINDOW] = "apply-in-window",
	    [SABOTAGE_KEEP_REPLACED] = "keep-replaced",
	};

	for (unsigned i = 1; i < SABOTAGES; i++)
		if (strcmp(name, names[i]) == 0)
			return (enum replica_sabotage)i;
	return SABOTAGE_NONE;
}

enum option_id {
	OPTION_START = 256,
	OPTION_SEEDS,
	OPTION_SEED,
	OPTION_SECONDS,
	OPTION_OPS,
	OPTION_JOBS,
	OPTION_KEEP_GOING,
	OPTION_VERBOSE,
	OPTION_SABOTAGE,
	OPTION_ENCRYPTED,
};
static const struct option longs[] = {
    {"start", required_argument, NULL, OPTION_START},
    {"seeds", required_argument, NULL, OPTION_SEEDS},
    {"seed", required_argument, NULL, OPTION_SEED},
    {"seconds", required_argument, NULL, OPTION_SECONDS},
    {"ops", required_argument, NULL, OPTION_OPS},
    {"jobs", required_argument, NULL, OPTION_JOBS},
    {"keep-going", no_argument, NULL, OPTION_KEEP_GOING},
    {"verbose", no_argument, NULL, OPTION_VERBOSE},
    {"sabotage", required_argument, NULL, OPTION_SABOTAGE},
    {"encrypted", no_argument, NULL, OPTION_ENCRYPTED},
    {0},
};

static bool take_option(struct options *o, int option)
{
	uint64_t n = optarg ? strtoull(optarg, NULL, 0) : 0;

	switch (option) {
	case OPTION_START:
		o->start = n;
		return true;
	case OPTION_SEEDS:
		o->n_seeds = n;
		return true;
	case OPTION_SEED:
		o->start = n;
		o->n_seeds = 1;
		return true;
	case OPTION_SECONDS:
		o->seconds = (unsigned)n;
		return true;
	case OPTION_OPS:
		o->cluster.n_ops = n;
		return n > 0;
	case OPTION_JOBS:
		o->jobs = (unsigned)n;
		return n > 0 && n <= JOBS_MAX;
	case OPTION_KEEP_GOING:
		o->keep_going = true;
		return true;
	case OPTION_VERBOSE:
		o->cluster.verbose = true;
		return true;
	case OPTION_ENCRYPTED:
		o->cluster.encrypted = true;
		return true;
	case OPTION_SABOTAGE:
		o->cluster.sabotage = sabotage_by_name(optarg);
		o->expect_failure = true;
		return o->cluster.sabotage != SABOTAGE_NONE;
	default:
		return false;
	}
}

int main(int argc, char **argv)
{
	struct options o = {.cluster = {.n_ops = 150}, .start = 1, .n_seeds = 1, .jobs = 1};
	int option;

	while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1)
		if (!take_option(&o, option)) {
			fputs(usage, stderr);
			return 2;
		}
	if (o.n_seeds == 1 || o.cluster.verbose)
		o.jobs = 1;
	if (o.cluster.verbose)
		setvbuf(stdout, NULL, _IOLBF, 0);
	else /* thousands of crashes say nothing new; sanitizers write to the descriptor */
		stderr = fopen("/dev/null", "we");
	log_setup(LOG_LEVEL_DEBUG, false);
	mallopt(M_MMAP_THRESHOLD, 32 << 20); /* volumes come and go by the thousand */
	mallopt(M_TRIM_THRESHOLD, 512 << 20);
	return sweep(&o);
}
