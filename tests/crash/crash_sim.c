/*
 * crash_sim.c: `clawfs-sim`, the crash simulator.
 *
 * A seed is a workload on a fresh volume, run once over the recording store.  Then, for each event of the record, the store is
 * built as a crash there would leave it, in several ways, and mounted: the tree must be one that the workload went through,
 * no older than the last completed sync and no newer than the operation under way (guarantees G1, G2, G4, G5; after kill -9
 * no older than the last answered operation, G3).  One of the crashed stores is then the beginning of the next generation,
 * whose first events are those of the recovery itself, so that recoveries are cut as everything else is.
 *
 * A failure is one line with the options that repeat it.
 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/log.h"
#include "tests/crash/jobs.h"
#include "tests/crash/sim_run.h"
#include "tests/crash/sim_sweeps.h"

#define GENERATIONS    3u
#define SEED_TIMEOUT_S 600u

struct options {
	uint64_t seed, n_seeds, n_ops, cuts; /* cuts: per generation; UINT64_MAX: all */
	int profile;                         /* -1: by seed */
	unsigned n_variants, jobs, sabotage, seconds;
	bool expect_failure, trace;
	/* Only this one. */
	int64_t only_generation, only_cut;
	int only_variant;
};

/* What the workers share: progress, so that a worker that dies can be blamed. */
struct progress {
	_Atomic uint64_t next_seed, n_seeds, n_events, n_cuts, n_recoveries, n_nested, n_deep, n_failures;
	struct {
		_Atomic uint64_t seed, generation, cut, variant;
	} at[64];
};

struct sim {
	const struct options *o;
	struct progress *progress;
	unsigned worker;
	struct sim_run run;
	uint64_t generation;
	uint64_t cut;
	enum simcut_variant variant;
};

static void set_at(struct sim *s, uint64_t cut, enum simcut_variant v)
{
	s->cut = cut;
	s->variant = v;
	s->progress->at[s->worker].generation = s->generation;
	s->progress->at[s->worker].cut = cut;
	s->progress->at[s->worker].variant = v;
}

static void report(struct sim *s, const char *where, const char *why)
{
	atomic_fetch_add(&s->progress->n_failures, 1);
	if (s->o->expect_failure && !s->o->trace)
		return;
	printf("FAILED clawfs-sim%s --seed %llu --profile %s --ops %llu --generation %llu --cut %llu --variant %s: %s: %s\n",
	       sim_next_tags  ? " --encrypted=aead"
	       : sim_next_key ? " --encrypted"
			      : "",
	       (unsigned long long)s->run.seed, sim_profile_name(s->run.profile), (unsigned long long)s->o->n_ops,
	       (unsigned long long)s->generation, (unsigned long long)s->cut, simcut_variant_name(s->variant), where, why);
	fflush(stdout);
}

static void trace_history(const struct sim *s, size_t lo, size_t hi)
{
	const struct sim_history *h = &s->run.history;

	for (size_t i = 0; s->o->trace && i < h->n && i <= hi + 1; i++)
		printf("%c%5zu event %6llu hash %016llx %s\n",
		       i == lo   ? '['
		       : i == hi ? ']'
				 : ' ',
		       i, (unsigned long long)h->step[i].mark, (unsigned long long)h->step[i].hash, h->step[i].what);
}

/* ---- one recovery ---- */

/* A mount of `image`; false and reported when it is not what `where` allows. */
static bool identify(struct sim *s, struct fs *fs, size_t lo, size_t hi, const char *where, size_t *ret_step)
{
	if (sim_identify(&s->run, fs, lo, hi, ret_step))
		return true;
	report(s, where, s->run.why);
	trace_history(s, lo, hi);
	return false;
}

/* The volume goes on living: some operations, a clean unmount, and the same tree at the next mount. */
static bool live_on(struct sim *s, struct sim_image image, struct fs *fs, size_t step, uint64_t salt)
{
	struct sim_run sub = {.seed = s->run.seed,
			      .profile = s->run.profile,
			      .sabotage = s->run.sabotage,
			      .clock = s->run.clock,
			      .snapshots = true,
			      .cold = s->run.cold,
			      .lent_cold = true};
	int64_t now_ns = s->run.clock->now_ns;
	bool ok = true;

	sub.rng = rng_derive(s->run.seed, salt, 77);
	sub.since_home = UINT32_MAX; /* the journal may be full as it is */
	sub.image = image;
	sub.fs = fs;
	sub.bytes = aligned_alloc(DISK_BLOCK, MIB + 4 * DISK_BLOCK);
	sub.model = model_clone(s->run.history.step[step].model);
	model_forget_orphans(sub.model);
	for (unsigned i = 0; ok && i < 8; i++)
		ok = sim_step(&sub);
	ok = ok && sim_compare(&sub, sub.fs, sub.model) && sim_fsck(&sub, sub.fs) && sim_unmount(&sub) && sim_mount(&sub) &&
	     sim_fsck(&sub, sub.fs);
	if (!ok) {
		report(s, "going on after the recovery", sub.why);
		for (size_t i = 0; s->o->trace && i < sub.history.n; i++)
			printf("%5zu %s\n", i, sub.history.step[i].what);
	}
	s->run.clock->now_ns = now_ns;
	atomic_fetch_add(&s->progress->n_deep, 1);
	sim_free(&sub);
	return ok;
}

/* Cuts the recovery that `image` went through, at each of its events: the second recovery finds no other tree. */
static bool cut_recovery(struct sim *s, const struct sim_image *image, size_t lo, size_t kill_lo, size_t hi, bool formatting,
			 struct rng *rng)
{
	struct simcut *c = simcut_new(image->store);
	uint64_t n = simstore_count(image->store);
	bool ok = true;

	for (uint64_t k = image->born; ok && k <= n; k++) {
		enum simcut_variant v = (enum simcut_variant)rng_below(rng, SIMCUT_VARIANTS);
		char where[80];
		struct fs *fs;
		size_t step;

		simcut_advance(c, k);
		struct sim_image again = {
		    .store = simcut_image(c, v, rng, false), .key = image->key, .with_tags = image->with_tags};
		again.index = kv_disk_at(image->index, k, again.store);
		int r = sim_open_image(&s->run, &again, &fs);
		snprintf(where, sizeof(where), "recovery cut at its event %llu, %s", (unsigned long long)k,
			 simcut_variant_name(v));
		if (r) {
			ok = formatting; /* a kill found names there that a power loss now takes */
			if (!ok)
				report(s, where, strerror(-r));
		} else {
			ok = identify(s, fs, v == SIMCUT_KILL ? kill_lo : lo, hi, where, &step);
			fs_abandon(fs);
		}
		atomic_fetch_add(&s->progress->n_nested, 1);
		sim_image_free(&again);
	}
	simcut_free(c);
	return ok;
}

/* A read-only mount shows the same and writes nothing. */
static bool look_only(struct sim *s, const struct sim_image *image, size_t lo, size_t hi)
{
	sim_make_memory(image);
	struct fs_config c = sim_config(&s->run, image);
	const uint64_t before = simstore_count(image->store);
	struct fs *fs;
	size_t step;

	c.read_only = true;
	int r = fs_open(&c, &fs);
	if (r) {
		store_close(c.store);
		report(s, "read-only mount", strerror(-r));
		return false;
	}
	bool ok = identify(s, fs, lo, hi, "mounted read-only", &step);
	fs_abandon(fs);
	if (ok && simstore_count(image->store) > before) {
		report(s, "read-only mount", "it writes");
		ok = false;
	}
	return ok;
}

/* One cut in one variant.  `salt` decides how far the recovered volume is looked into. */
static bool recover(struct sim *s, const struct simcut *c, uint64_t cut, enum simcut_variant v)
{
	struct rng rng = rng_derive(s->run.seed, s->generation << 40 | cut, v);
	bool killed = v == SIMCUT_KILL, nest = rng_percent(&rng, 4), deep = rng_percent(&rng, 12), check = rng_percent(&rng, 33),
	     ok = true;
	bool formatting = s->generation == 0 && cut < s->run.history.step[0].mark;
	size_t lo, hi, kill_lo, step = 0;
	struct fs *fs;

	set_at(s, cut, v);
	simstore_trace = s->o->trace && s->o->only_cut >= 0;
	struct sim_image image = sim_take_image(&s->run, c, cut, v, &rng, nest);
	sim_bounds(&s->run.history, cut, true, &kill_lo, &hi);
	sim_bounds(&s->run.history, cut, killed, &lo, &hi);
	if (!formatting && rng_percent(&rng, 5) && !look_only(s, &image, lo, hi)) {
		sim_image_free(&image);
		return false;
	}
	int r = sim_open_image(&s->run, &image, &fs);
	atomic_fetch_add(&s->progress->n_recoveries, 1);
	if (r) {
		ok = formatting; /* there is no volume yet, and any error says so */
		if (!ok) {
			report(s, "fs_open", strerror(-r));
			trace_history(s, lo, hi);
		}
		sim_image_free(&image);
		return ok;
	}
	ok = identify(s, fs, lo, hi, "recovered", &step);
	if (ok && check && !sim_fsck(&s->run, fs)) {
		report(s, "recovered", s->run.why);
		trace_history(s, lo, hi);
		ok = false;
	}
	if (ok && nest) {
		fs_abandon(fs);
		fs = NULL;
		sim_bounds(&s->run.history, cut, false, &lo, &hi);
		ok = cut_recovery(s, &image, lo, killed ? kill_lo : lo, step, formatting, &rng);
	} else if (ok && deep) {
		return live_on(s, image, fs, step, s->generation << 40 | cut);
	}
	if (fs)
		fs_abandon(fs);
	sim_image_free(&image);
	return ok;
}

/* ---- one seed ---- */

/* The cuts of the generation that just ran. */
static bool sweep_cuts(struct sim *s)
{
	const struct options *o = s->o;
	struct rng rng = rng_derive(s->run.seed, s->generation, 5);
	uint64_t n = simstore_count(s->run.image.store);
	struct simcut *c = simcut_new(s->run.image.store);
	bool ok = true;

	atomic_fetch_add(&s->progress->n_events, n);
	for (uint64_t k = 0; ok && k < n; k++) {
		bool chosen = o->cuts >= n || rng_below(&rng, n) < o->cuts;
		unsigned first = (unsigned)rng_below(&rng, SIMCUT_VARIANTS),
			 step = rng_percent(&rng, 50) ? 1 : SIMCUT_VARIANTS - 1;

		if (o->only_cut >= 0)
			chosen =
			    o->only_cut == (int64_t)k && (o->only_generation < 0 || o->only_generation == (int64_t)s->generation);
		if (!chosen || k < s->run.image.born)
			continue;
		simcut_advance(c, k);
		atomic_fetch_add(&s->progress->n_cuts, 1);
		for (unsigned i = 0; ok && i < SIMCUT_VARIANTS; i++) {
			enum simcut_variant v = (enum simcut_variant)((first + i * step) % SIMCUT_VARIANTS);

			if (o->only_cut >= 0 ? o->only_variant < 0 || o->only_variant == (int)v : i < o->n_variants)
				ok = recover(s, c, k, v);
		}
	}
	simcut_free(c);
	return ok;
}

/* One of the crashes of this generation is where the next begins. */
static bool next_generation(struct sim *s)
{
	struct rng rng = rng_derive(s->run.seed, s->generation, 6);
	uint64_t n = simstore_count(s->run.image.store), first = s->generation ? s->run.image.born : s->run.history.step[0].mark;
	uint64_t cut = rng_between(&rng, first, n - 1);
	enum simcut_variant v = (enum simcut_variant)rng_below(&rng, SIMCUT_VARIANTS);
	size_t lo, hi, step;
	struct fs *fs;

	if (s->run.fs)
		fs_abandon(s->run.fs);
	s->run.fs = NULL;
	set_at(s, cut, v);
	struct simcut *c = simcut_new(s->run.image.store);
	simcut_advance(c, cut);
	struct rng first_rng = rng, second_rng = rng;
	struct sim_image look = sim_take_image(&s->run, c, cut, v, &first_rng, false),
			 image = sim_take_image(&s->run, c, cut, v, &second_rng, true);
	simcut_free(c);
	sim_bounds(&s->run.history, cut, v == SIMCUT_KILL, &lo, &hi);
	int r = sim_open_image(&s->run, &look, &fs);
	bool ok = r == 0;
	if (r)
		report(s, "fs_open", strerror(-r));
	if (ok) {
		ok = identify(s, fs, lo, hi, "recovered", &step);
		fs_abandon(fs);
	}
	sim_image_free(&look);
	if (ok)
		sim_crash(&s->run, step, image, cut, v == SIMCUT_KILL);
	else
		sim_image_free(&image);
	s->generation++;
	return ok;
}

static bool run_operations(struct sim *s)
{
	struct sim_run *run = &s->run;
	uint64_t n = rng_between(&run->rng, s->o->n_ops / 2, s->o->n_ops);
	bool ok = sim_mount(run);

	for (uint64_t i = 0; ok && i < n; i++) {
		ok = sim_step(run);
		if (ok && i % 32 == 31)
			ok = sim_compare(run, run->fs, run->model);
	}
	ok = ok && sim_compare(run, run->fs, run->model) && sim_fsck(run, run->fs);
	if (ok && rng_percent(&run->rng, 40))
		ok = sim_unmount(run);
	if (!ok) {
		report(s, "running", run->why);
		trace_history(s, 0, run->history.n);
	}
	return ok;
}

static bool run_seed(struct sim *s, uint64_t seed)
{
	enum sim_profile profile = s->o->profile >= 0 ? (enum sim_profile)s->o->profile : (enum sim_profile)(seed % SIM_PROFILES);
	bool ok;

	s->progress->at[s->worker].seed = seed;
	s->generation = 0;
	set_at(s, 0, SIMCUT_LOST);
	ok = sim_format(&s->run, seed, profile, s->o->sabotage);
	s->run.snapshots = true;
	if (!ok)
		report(s, "format", s->run.why);
	while (ok) {
		ok = run_operations(s);
		if (ok && s->run.fs) {
			fs_abandon(s->run.fs);
			s->run.fs = NULL;
		}
		ok = ok && sweep_cuts(s);
		if (!ok || s->generation + 1 == GENERATIONS)
			break;
		ok = next_generation(s);
	}
	sim_free(&s->run);
	atomic_fetch_add(&s->progress->n_seeds, 1);
	return ok;
}

/* ---- workers ---- */

struct sweep {
	const struct options *o;
	struct progress *progress;
	int64_t end_ns; /* 0: none */
};

static void work(void *ctx, unsigned worker)
{
	const struct sweep *w = ctx;
	struct progress *p = w->progress;
	struct sim s = {.o = w->o, .progress = p, .worker = worker};

	for (;;) {
		uint64_t i = atomic_fetch_add(&p->next_seed, 1);

		if (i >= w->o->n_seeds || (w->end_ns && clock_mono_ns(&clock_system) > w->end_ns))
			return;
		if (atomic_load(&p->n_failures) > 0)
			return;
		alarm(SEED_TIMEOUT_S);
		run_seed(&s, w->o->seed + i);
	}
}

static void died(void *ctx, unsigned worker, const char *how)
{
	const struct sweep *w = ctx;
	struct progress *p = w->progress;

	atomic_fetch_add(&p->n_failures, 1);
	printf("FAILED clawfs-sim%s --seed %llu --ops %llu --generation %llu --cut %llu --variant %s: %s\n",
	       sim_next_tags  ? " --encrypted=aead"
	       : sim_next_key ? " --encrypted"
			      : "",
	       (unsigned long long)p->at[worker].seed, (unsigned long long)w->o->n_ops,
	       (unsigned long long)p->at[worker].generation, (unsigned long long)p->at[worker].cut,
	       simcut_variant_name((enum simcut_variant)p->at[worker].variant), how);
}

static int sweep(const struct options *o)
{
	struct progress *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int64_t start = clock_mono_ns(&clock_system);
	struct sweep w = {o, p, o->seconds ? start + o->seconds * NSEC_PER_SEC : 0};

	if (p == MAP_FAILED)
		return 2;
	jobs_run(&(struct jobs){work, died, &w}, o->jobs);
	printf("seeds %llu from %llu, store events %llu, cut points %llu, recoveries %llu, recoveries of cut recoveries %llu, "
	       "lived on %llu, failures %llu, %.1f s\n",
	       (unsigned long long)p->n_seeds, (unsigned long long)o->seed, (unsigned long long)p->n_events,
	       (unsigned long long)p->n_cuts, (unsigned long long)p->n_recoveries, (unsigned long long)p->n_nested,
	       (unsigned long long)p->n_deep, (unsigned long long)p->n_failures,
	       (double)(clock_mono_ns(&clock_system) - start) / 1e9);
	bool failed = p->n_failures > 0;
	munmap(p, sizeof(*p));
	if (o->expect_failure && !failed)
		printf("FAILED: a rule was broken on purpose and nothing noticed\n");
	return failed == o->expect_failure ? 0 : 1;
}

static const char usage[] = "clawfs-sim: crashes the filesystem code over a simulated store and checks what is left\n"
			    "  --seed N          first seed (1)\n"
			    "  --seeds N         how many (1)\n"
			    "  --seconds N       start no further seed after this long\n"
			    "  --ops N           most operations per generation (100)\n"
			    "  --cuts all|N      crash points per generation (all)\n"
			    "  --variants N      of 6 kinds of crash, how many at each (2)\n"
			    "  --profile NAME    mixed, ring, full, tree, cold (by seed)\n"
			    "  --jobs N          processes (1)\n"
			    "  --generation N --cut K --variant V   only this one: repeats a failure\n"
			    "  --trace           the history of a failure; log lines\n"
			    "  --sabotage RULE   break R1, R2, R3, R4, R5, tier, pack, snap-in-place, snap-free,\n"
			    "                    share-in-place, share-free, share-trim or roll; exit 0 when that is noticed\n"
			    "  --encrypted[=aead] the volumes are encrypted\n"
			    "  --faults          instead: every store operation fails in turn (--seed, --seeds, --ops, --cut)\n"
			    "  --damage          instead: random damage to the stored bytes (--seed, --seeds)\n";

static int find_name(const char *text, const char *(*name)(int), int n)
{
	for (int i = 0; i < n; i++)
		if (strcmp(text, name(i)) == 0)
			return i;
	fprintf(stderr, "clawfs-sim: %s is no such thing\n%s", text, usage);
	exit(2);
}

static const char *profile_at(int i)
{
	return sim_profile_name((enum sim_profile)i);
}
static const char *variant_at(int i)
{
	return simcut_variant_name((enum simcut_variant)i);
}

static unsigned sabotage_of(const char *rule)
{
	static const struct {
		const char *name;
		unsigned bit;
	} rules[] = {
	    {"tier", FS_SABOTAGE_TIER_DROP_EARLY},  {"snap-in-place", FS_SABOTAGE_SNAP_IN_PLACE},
	    {"snap-free", FS_SABOTAGE_SNAP_FREE},   {"share-in-place", FS_SABOTAGE_SHARE_IN_PLACE},
	    {"share-free", FS_SABOTAGE_SHARE_FREE}, {"share-trim", FS_SABOTAGE_SHARE_TRIM},
	    {"roll", FS_SABOTAGE_ROLL_APPLIED},     {"pack", FS_SABOTAGE_PACK_REUSE},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
		if (strcmp(rule, rules[i].name) == 0)
			return rules[i].bit;
	if (strlen(rule) == 2 && rule[0] == 'R' && rule[1] >= '1' && rule[1] <= '5')
		return 1u << (rule[1] - '1');
	fprintf(stderr, "clawfs-sim: there is no rule %s to break\n%s", rule, usage);
	exit(2);
}

int main(int argc, char **argv)
{
	static const struct option long_options[] = {
	    {"seed", 1, NULL, 's'},       {"seeds", 1, NULL, 'S'},   {"seconds", 1, NULL, 't'},
	    {"ops", 1, NULL, 'o'},        {"cuts", 1, NULL, 'c'},    {"variants", 1, NULL, 'V'},
	    {"profile", 1, NULL, 'p'},    {"jobs", 1, NULL, 'j'},    {"cut", 1, NULL, 'k'},
	    {"generation", 1, NULL, 'g'}, {"variant", 1, NULL, 'v'}, {"trace", 0, NULL, 'T'},
	    {"sabotage", 1, NULL, 'b'},   {"faults", 0, NULL, 'F'},  {"damage", 0, NULL, 'D'},
	    {"encrypted", 2, NULL, 'E'},  {"help", 0, NULL, 'h'},    {0},
	};
	struct options o = {.seed = 1,
			    .n_seeds = 1,
			    .n_ops = 100,
			    .cuts = UINT64_MAX,
			    .profile = -1,
			    .n_variants = 2,
			    .jobs = 1,
			    .only_generation = -1,
			    .only_cut = -1,
			    .only_variant = -1};
	bool faults = false, damage = false;

	for (int c; (c = getopt_long(argc, argv, "h", long_options, NULL)) >= 0;) {
		switch (c) {
		case 's':
			o.seed = strtoull(optarg, NULL, 10);
			break;
		case 'S':
			o.n_seeds = strtoull(optarg, NULL, 10);
			break;
		case 't':
			o.seconds = (unsigned)atoi(optarg);
			break;
		case 'o':
			o.n_ops = strtoull(optarg, NULL, 10);
			break;
		case 'c':
			o.cuts = strcmp(optarg, "all") ? strtoull(optarg, NULL, 10) : UINT64_MAX;
			break;
		case 'V':
			o.n_variants = (unsigned)atoi(optarg);
			break;
		case 'p':
			o.profile = find_name(optarg, profile_at, SIM_PROFILES);
			break;
		case 'j':
			o.jobs = (unsigned)min_u64(max_u64((uint64_t)atoi(optarg), 1), JOBS_MAX);
			break;
		case 'g':
			o.only_generation = atoll(optarg);
			break;
		case 'k':
			o.only_cut = atoll(optarg);
			break;
		case 'v':
			o.only_variant = find_name(optarg, variant_at, SIMCUT_VARIANTS);
			break;
		case 'T':
			o.trace = true;
			break;
		case 'b':
			o.sabotage = sabotage_of(optarg);
			o.expect_failure = true;
			break;
		case 'F':
			faults = true;
			break;
		case 'D':
			damage = true;
			break;
		case 'E':
			sim_next_key = 1;
			sim_next_tags = optarg && strcmp(optarg, "aead") == 0;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	/* Each recovery takes and gives back tens of MiB: keep them, so that the kernel need not clear pages again and again. */
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 512 << 20);
	/* Recoveries log what they drop and repair; thousands of them say nothing new.  Sanitizers write to the descriptor. */
	if (!o.trace)
		stderr = fopen("/dev/null", "we");
	log_setup(LOG_LEVEL_DEBUG, false);
	if (faults)
		return sim_faults(o.seed, o.n_seeds, o.n_ops, o.only_cut);
	if (damage)
		return sim_damage(o.seed, o.n_seeds);
	return sweep(&o);
}
