/*
 * sim_damage.c: guarantee G8: rot, zeros, misplaced and stale blocks.
 *
 * A volume is filled by a random workload, ended cleanly or by kill -9, and then one of its blocks is damaged: journal, arena,
 * superblock, staging file, or an entry of the index.  The mount may refuse, with an error.  When it does not, every name,
 * attribute and byte it gives must be right, or give an error; and where reads gave errors, the check must find them too.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/crash/sim_run.h"
#include "tests/crash/sim_sweeps.h"
#include "tests/lib/cold.h"
#include "tests/lib/cow.h"

#define FILES_MAX         64u
#define PAGES_MAX         8192u
#define TRIALS_PER_VOLUME 24u

enum damage { DAMAGE_BIT, DAMAGE_ZEROS, DAMAGE_MISPLACED, DAMAGE_STALE, DAMAGE_INDEX, DAMAGES };
static const char *const damage_names[] = {"flipped bit", "zeros", "misplaced block", "stale block", "index entry"};

struct counts {
	uint64_t trials, refused, with_errors, unharmed, failures;
};
struct trial {
	struct sim_run *run;
	uint64_t seed, number;
	char what[160];
	uint64_t n_errors; /* reads that said so */
	char why[512];
};

/* A block of the store that was written, and that the volume may need. */
static bool pick_block(struct simstore *s, struct rng *rng, char name[64], uint64_t *ret_page)
{
	CLEANUP_FREE uint64_t *pages = test_alloc(PAGES_MAX * sizeof(*pages));
	struct simstore_file files[FILES_MAX];
	size_t n_files = simstore_files(s, files, FILES_MAX);

	for (unsigned tries = 0; tries < 100; tries++) {
		const struct simstore_file *f = &files[rng_below(rng, n_files)];
		size_t n = f->written ? simstore_written_pages(s, f->name, pages, PAGES_MAX) : 0;

		if (n == 0)
			continue;
		snprintf(name, 64, "%.63s", f->name);
		*ret_page = pages[rng_below(rng, n)];
		return true;
	}
	return false;
}

static bool has_file(struct simstore *s, const char *name)
{
	struct simstore_file files[FILES_MAX];
	size_t n = simstore_files(s, files, FILES_MAX);

	while (n-- > 0)
		if (strcmp(files[n].name, name) == 0)
			return true;
	return false;
}

static void do_damage(struct trial *t, struct sim_image *image, struct sim_image *older, struct rng *rng)
{
	enum damage d = (enum damage)rng_below(rng, DAMAGES);
	uint8_t block[4096], was[4096];
	char name[64] = "", from[64];
	uint64_t page = 0, from_page = 0;

	if (d == DAMAGE_INDEX) {
		uint64_t n = rng_below(rng, kv_disk_entries(image->index));

		kv_disk_damage(image->index, n);
		snprintf(t->what, sizeof(t->what), "%s %llu", damage_names[d], (unsigned long long)n);
		return;
	}
	if (!pick_block(image->store, rng, name, &page))
		return;
	simstore_peek(image->store, name, was, sizeof(was), page * 4096);
	memcpy(block, was, sizeof(block));
	unsigned bit = (unsigned)rng_below(rng, 8 * 4096);
	if (d == DAMAGE_BIT)
		block[bit / 8] ^= (uint8_t)(1u << bit % 8);
	else if (d == DAMAGE_ZEROS)
		memset(block, 0, sizeof(block));
	else if (d == DAMAGE_MISPLACED && pick_block(image->store, rng, from, &from_page))
		simstore_peek(image->store, from, block, sizeof(block), from_page * 4096);
	else if (d == DAMAGE_STALE && has_file(older->store, name))
		simstore_peek(older->store, name, block, sizeof(block), page * 4096);
	simstore_poke(image->store, name, block, sizeof(block), page * 4096);
	snprintf(t->what, sizeof(t->what), "%s: block %llu of %s%s", damage_names[d], (unsigned long long)page, name,
		 memcmp(block, was, sizeof(was)) ? "" : " (no change)");
}

/* ---- comparing with errors allowed ---- */

static bool wrong(struct trial *t, uint64_t ino, const char *what)
{
	snprintf(t->why, sizeof(t->why), "inode %llu: %s", (unsigned long long)ino, what);
	return false;
}

static bool is_damage(int r)
{
	return r == -EIO || r == -EBADMSG || r == -EUCLEAN;
}

static bool check_bytes(struct trial *t, struct fs *fs, const struct model *m, const struct model_inode *i)
{
	CLEANUP_FREE uint8_t *room = aligned_alloc(DISK_BLOCK, 4 * DISK_BLOCK);

	for (uint64_t off = 0; off < i->size; off += DISK_BLOCK) {
		size_t want = (size_t)min_u64(DISK_BLOCK, i->size - off), n = 0;
		void *p = NULL;
		int r;

		do /* what object stores have is whole; a damaged copy here of such data is none */
			r = fs_read(fs, i->ino, off, want, room, &p, &n);
		while (r == -EINPROGRESS && (r = cold_recall(t->run->cold, fs)) == 0);
		if (r && !is_damage(r))
			return wrong(t, i->ino, strerror(-r));
		if (r)
			t->n_errors++;
		else if (n != want || memcmp(p, model_bytes(m, i->ino) + off, n) != 0)
			return wrong(t, i->ino, "wrong bytes without an error");
	}
	return true;
}

static bool check_inode(struct trial *t, struct fs *fs, const struct model *m, uint64_t ino)
{
	const struct model_inode *i = model_get(m, ino);
	struct fs_attr a;
	char target[4096];
	int r = fs_getattr(fs, ino, &a);

	if (is_damage(r)) {
		t->n_errors++;
		return true;
	}
	if (r)
		return wrong(t, ino, strerror(-r));
	if (!i)
		return wrong(t, ino, "should not be there");
	if (a.mode != i->mode || a.nlink != i->nlink || a.uid != i->uid || a.gid != i->gid ||
	    (!S_ISDIR(a.mode) && a.size != i->size))
		return wrong(t, ino, "wrong attributes without an error");
	if (S_ISREG(a.mode))
		return check_bytes(t, fs, m, i);
	if (!S_ISLNK(a.mode))
		return true;
	r = fs_readlink(fs, ino, target, sizeof(target));
	if (is_damage(r))
		t->n_errors++;
	else if (r || strlen(target) != i->size || memcmp(target, model_bytes(m, ino), i->size) != 0)
		return wrong(t, ino, "wrong symlink without an error");
	return true;
}

struct listing {
	struct trial *t;
	struct fs *fs;
	const struct model *m;
	uint64_t dir;
	size_t n;
	bool ok;
	uint64_t subdirs[256];
	size_t n_subdirs;
};

static int list_name(void *ctx, const struct fs_dirent *e)
{
	struct listing *l = ctx;

	if (strcmp(e->name, ".") == 0 || strcmp(e->name, "..") == 0 || !l->ok)
		return 0;
	l->n++;
	if (model_lookup(l->m, l->dir, e->name) != e->ino)
		l->ok = wrong(l->t, l->dir, "a name that should not be there");
	else
		l->ok = check_inode(l->t, l->fs, l->m, e->ino);
	if (S_ISDIR(e->type) && l->n_subdirs < ARRAY_SIZE(l->subdirs))
		l->subdirs[l->n_subdirs++] = e->ino;
	return 0;
}

static bool check_dir(struct trial *t, struct fs *fs, const struct model *m, uint64_t dir)
{
	struct listing l = {.t = t, .fs = fs, .m = m, .dir = dir, .ok = true};
	int r = fs_readdir(fs, dir, 0, false, list_name, &l);

	if (!l.ok)
		return false;
	if (is_damage(r))
		t->n_errors++;
	else if (r)
		return wrong(t, dir, strerror(-r));
	else if (l.n != model_get(m, dir)->n_entries)
		return wrong(t, dir, "names are missing without an error");
	for (size_t i = 0; i < l.n_subdirs; i++)
		if (!check_dir(t, fs, m, l.subdirs[i]))
			return false;
	return true;
}

/* Right or an error, everywhere, for one of the states that may be. */
static bool check_all(struct trial *t, struct fs *fs, size_t lo, size_t hi)
{
	char newest[sizeof(t->why)] = "";

	for (size_t i = hi + 1; i-- > lo;) {
		const struct model *m = t->run->history.step[i].model;

		if (i < hi && t->run->history.step[i].hash == t->run->history.step[i + 1].hash)
			continue;
		t->n_errors = 0;
		if (check_inode(t, fs, m, FS_ROOT_INO) && check_dir(t, fs, m, FS_ROOT_INO))
			return true;
		if (i == hi)
			memcpy(newest, t->why, sizeof(newest));
	}
	memcpy(t->why, newest, sizeof(newest));
	return false;
}

static void ignore_line(void *ctx, const char *line)
{
	(void)ctx;
	(void)line;
}

static bool check_fsck(struct trial *t, struct fs *fs)
{
	struct fs_check_result c = {0};
	int r = fs_check(fs, true, ignore_line, NULL, &c);

	if (t->n_errors && r == 0 && c.damaged_blocks + c.structure_errors + c.accounting_errors == 0) {
		snprintf(t->why, sizeof(t->why), "reads gave errors, fs_check found nothing");
		return false;
	}
	return true;
}

static bool run_trial(struct trial *t, struct sim_image image, struct sim_image *older, size_t lo, size_t hi,
		      struct counts *counts)
{
	struct rng rng = rng_derive(t->seed, t->number, 9);
	bool ok = true;
	struct fs *fs;

	do_damage(t, &image, older, &rng);
	int r = sim_open_image(t->run, &image, &fs);
	counts->trials++;
	if (r) {
		counts->refused++;
	} else {
		ok = check_all(t, fs, lo, hi) && check_fsck(t, fs);
		counts->with_errors += t->n_errors > 0;
		counts->unharmed += t->n_errors == 0;
		fs_abandon(fs);
	}
	if (!ok)
		printf("FAILED clawfs-sim%s --damage --seed %llu: trial %llu, %s: %s\n",
		       sim_next_tags  ? " --encrypted=aead"
		       : sim_next_key ? " --encrypted"
				      : "",
		       (unsigned long long)t->seed, (unsigned long long)t->number, t->what, t->why);
	sim_image_free(&image);
	return ok;
}

static bool run_volume(uint64_t seed, struct counts *counts)
{
	struct rng rng = rng_derive(seed, 8, 8);
	struct sim_run run;
	bool ok = sim_format(&run, seed, (enum sim_profile)(seed % SIM_PROFILES), 0) && sim_mount(&run);

	run.snapshots = true;
	for (unsigned i = 0; ok && i < 80; i++)
		ok = sim_step(&run);
	if (ok && rng_percent(&rng, 40))
		ok = sim_unmount(&run);
	if (!ok) {
		printf("FAILED clawfs-sim%s --damage --seed %llu: running: %s\n",
		       sim_next_tags  ? " --encrypted=aead"
		       : sim_next_key ? " --encrypted"
				      : "",
		       (unsigned long long)seed, run.why);
		sim_free(&run);
		return false;
	}
	uint64_t cut = simstore_count(run.image.store);
	struct simcut *c = simcut_new(run.image.store), *old = simcut_new(run.image.store);
	size_t lo, hi;
	simcut_advance(c, cut);
	simcut_advance(old, run.history.mounted + rng_below(&rng, cut - run.history.mounted));
	struct sim_image older = {
	    .store = simcut_image(old, SIMCUT_KEPT, &rng, false), .key = run.image.key, .with_tags = run.image.with_tags};
	sim_bounds(&run.history, cut, false, &lo, &hi);
	for (unsigned i = 0; i < TRIALS_PER_VOLUME; i++) {
		struct trial t = {.run = &run, .seed = seed, .number = i};

		/* Nothing else is wrong with this store: the host has all that was written. */
		ok &= run_trial(&t, sim_take_image(&run, c, cut, SIMCUT_KILL, &rng, false), &older, lo, hi, counts);
	}
	sim_image_free(&older);
	simcut_free(old);
	simcut_free(c);
	sim_free(&run);
	return ok;
}

int sim_damage(uint64_t seed, uint64_t n_seeds)
{
	struct counts c = {0};

	for (uint64_t i = 0; i < n_seeds; i++)
		c.failures += !run_volume(seed + i, &c);
	printf("volumes %llu from seed %llu, damages %llu: mount refused %llu, errors where damaged %llu, unharmed %llu; "
	       "failures %llu\n",
	       (unsigned long long)n_seeds, (unsigned long long)seed, (unsigned long long)c.trials, (unsigned long long)c.refused,
	       (unsigned long long)c.with_errors, (unsigned long long)c.unharmed, (unsigned long long)c.failures);
	return c.failures ? 1 : 0;
}
