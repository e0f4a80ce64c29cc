/*
 * sim_faults.c: guarantee G6: what a failed store operation may do, and what it must not.
 *
 * The same small workload, from mount to unmount, runs once for every number n, with the n-th write, flush, create, remove
 * or index flush failing, once or from then on.  Then: a sync that succeeded covers all before it, failed ones notwithstanding;
 * after a sync that failed no other succeeds, the volume says why it stopped, refuses changes and goes on reading; and whatever
 * happens to the host next, the next mount finds everything covered.  A second pass fails reads.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/crash/sim_run.h"
#include "tests/crash/sim_sweeps.h"

enum fault_kind { FAULT_ONCE, FAULT_FOR_EVER, FAULT_NO_SPACE, FAULT_READ_ONCE, FAULT_READ_FOR_EVER, FAULT_KINDS };
static const char *const kind_names[] = {"once", "for ever", "no space", "read once", "reads for ever"};

struct fault {
	uint64_t seed, n_ops, n;
	enum fault_kind kind;
	struct sim_run run;
	bool sync_failed;
	uint64_t *n_mounts;
};

static bool failed(struct fault *f, const char *where, const char *why)
{
	printf("FAILED clawfs-sim%s --faults --seed %llu --ops %llu --cut %llu: the event fails %s: %s: %s\n",
	       sim_next_tags  ? " --encrypted=aead"
	       : sim_next_key ? " --encrypted"
			      : "",
	       (unsigned long long)f->seed, (unsigned long long)f->n_ops, (unsigned long long)f->n, kind_names[f->kind], where,
	       why);
	return false;
}

static void inject(struct fault *f)
{
	struct simstore *s = f->run.image.store;

	f->run.expect_errors = true;
	switch (f->kind) {
	case FAULT_ONCE:
		simstore_fail(s, f->n, 1, -EIO);
		break;
	case FAULT_FOR_EVER:
		simstore_fail(s, f->n, UINT64_MAX, -EIO);
		break;
	case FAULT_NO_SPACE:
		simstore_fail(s, f->n, 1, -ENOSPC);
		break;
	case FAULT_READ_ONCE:
		simstore_fail_reads(s, f->n, 1, -EIO);
		break;
	case FAULT_READ_FOR_EVER:
		simstore_fail_reads(s, f->n, UINT64_MAX, -EIO);
		break;
	case FAULT_KINDS:
		break;
	}
}

/* A sync beside the workload's own, and what follows from its failure. */
static bool check_sync(struct fault *f)
{
	char why[256];
	int r = fs_sync(f->run.fs);

	fs_failure(f->run.fs, why, sizeof(why));
	if (f->sync_failed && r == 0)
		return failed(f, "sync", "succeeds after one that failed");
	if (r && !why[0])
		return failed(f, "sync", "fails and the volume does not say why");
	f->sync_failed = f->sync_failed || r;
	if (r) {
		struct fs_cred cred = {0};
		struct fs_attr a;

		if (fs_mknod(f->run.fs, &cred, FS_ROOT_INO, "after the failure", 0100644, 0, &a) == 0)
			return failed(f, "mknod", "succeeds on a volume that stopped");
	}
	return true;
}

/* The next mount, after each kind of crash. */
static bool check_restart(struct fault *f)
{
	struct sim_run *run = &f->run;
	uint64_t cut = simstore_count(run->image.store);
	struct simcut *c = simcut_new(run->image.store);
	bool ok = true;

	simcut_advance(c, cut);
	for (int v = 0; ok && v < SIMCUT_VARIANTS; v++) {
		struct rng rng = rng_derive(f->seed, f->n, (uint64_t)v);
		struct sim_image image = sim_take_image(run, c, cut, (enum simcut_variant)v, &rng, false);
		size_t lo, hi, step;
		struct fs *fs;

		/* What a failed flush dropped is gone for a killed process as well. */
		sim_bounds(&run->history, cut, false, &lo, &hi);
		int r = sim_open_image(run, &image, &fs);
		if (r)
			ok = failed(f, simcut_variant_name((enum simcut_variant)v), strerror(-r));
		else if (!sim_identify(run, fs, lo, hi, &step) || !sim_fsck(run, fs))
			ok = failed(f, simcut_variant_name((enum simcut_variant)v), run->why);
		if (fs)
			fs_abandon(fs);
		sim_image_free(&image);
		(*f->n_mounts)++;
	}
	simcut_free(c);
	return ok;
}

/* Numbers of the first and the last event and read that a fault can hit: from the mount to the end. */
struct span {
	uint64_t first, last, first_read, last_read;
};

/* Every second seed ends with a clean unmount, so that faults hit that too. */
static bool end_run(struct fault *f)
{
	struct sim_run *run = &f->run;

	if (f->seed % 2 == 0) {
		fs_abandon(run->fs);
		run->fs = NULL;
		return true;
	}
	char why[256];
	fs_failure(run->fs, why, sizeof(why));
	bool closed = sim_unmount(run);
	if (closed && why[0])
		return failed(f, "unmount", "is clean on a volume that stopped");
	return closed || simstore_failures(run->image.store) > 0 || failed(f, "unmount", run->why);
}

static bool use_volume(struct fault *f)
{
	struct sim_run *run = &f->run;
	bool reads = f->kind == FAULT_READ_ONCE || f->kind == FAULT_READ_FOR_EVER, ok = true;

	for (uint64_t i = 0; ok && i < f->n_ops; i++)
		ok = sim_step(run);
	if (!ok)
		return failed(f, "running", run->why);
	if (f->seed % 2 == 0) {
		ok = check_sync(f) && check_sync(f);
		simstore_fail_reads(run->image.store, 0, 0, 0);
		if (ok && !reads && fs_readable(run->fs) == 0 && !sim_compare(run, run->fs, run->model))
			ok = failed(f, "reading on", run->why);
		simstore_fail(run->image.store, 0, 0, 0); /* the store is well again; the volume is not, before a restart */
		ok = ok && check_sync(f);
	}
	return end_run(f) && ok;
}

/* One run; n == 0 without a fault, to learn the span. */
static bool run_once(struct fault *f, struct span *ret_span)
{
	struct sim_run *run = &f->run;
	bool ok = sim_format(run, f->seed, SIM_MIXED, 0);
	run->snapshots = true;

	if (ret_span)
		*ret_span = (struct span){.first = simstore_count(run->image.store) + 1,
					  .first_read = simstore_reads(run->image.store) + 1};
	f->sync_failed = false;
	if (f->n)
		inject(f);
	/* A mount that a fault hits may fail; the next one is looked at below. */
	if (ok && sim_mount(run))
		ok = use_volume(f);
	else
		ok = ok && (simstore_failures(run->image.store) > 0 || failed(f, "mount", run->why));
	if (ret_span) {
		ret_span->last = simstore_count(run->image.store);
		ret_span->last_read = simstore_reads(run->image.store);
	}
	if (run->fs)
		fs_abandon(run->fs);
	run->fs = NULL;
	ok = ok && check_restart(f);
	if (simstore_trace)
		for (size_t i = 0; i < run->history.n; i++)
			printf("%5zu event %6llu %s\n", i, (unsigned long long)run->history.step[i].mark,
			       run->history.step[i].what);
	sim_free(run);
	return ok;
}

int sim_faults(uint64_t seed, uint64_t n_seeds, uint64_t n_ops, int64_t only)
{
	uint64_t n_runs = 0, n_mounts = 0, n_failures = 0;

	for (uint64_t i = 0; i < n_seeds; i++) {
		struct fault f = {.seed = seed + i, .n_ops = n_ops, .n_mounts = &n_mounts};
		struct span span;

		if (!run_once(&f, &span)) {
			n_failures++;
			continue;
		}
		for (int kind = 0; kind < FAULT_KINDS; kind++) {
			bool of_reads = kind == FAULT_READ_ONCE || kind == FAULT_READ_FOR_EVER;

			f.kind = (enum fault_kind)kind;
			uint64_t last = of_reads ? span.last_read : span.last;
			for (f.n = of_reads ? span.first_read : span.first; f.n <= last && n_failures < 10; f.n++) {
				if (only >= 0 && f.n != (uint64_t)only)
					continue;
				simstore_trace = only >= 0;
				n_failures += !run_once(&f, NULL);
				n_runs++;
			}
		}
	}
	printf("seeds %llu from %llu, runs with a fault %llu, mounts after it %llu, failures %llu\n", (unsigned long long)n_seeds,
	       (unsigned long long)seed, (unsigned long long)n_runs, (unsigned long long)n_mounts,
	       (unsigned long long)n_failures);
	return n_failures ? 1 : 0;
}
