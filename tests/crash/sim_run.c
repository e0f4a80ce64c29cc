/*
 * sim_run.c: a volume between its crashes: format, mount, unmount, its history, and what its tree must be.
 */
#include "tests/crash/sim_run.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fs/store/crypt/batch_mac.h"
#include "fs/store/crypt/crypt_store.h"
#include "fs/store/crypt/kv_crypt.h"
#include "journal/journal_format.h"
#include "tests/lib/cold.h"
#include "tests/lib/cow.h"
#include "tests/lib/recount.h"

#define IO_MAX              (1 * MIB)
#define RING_SEGMENTS       11u
#define RING_SEGMENT_BLOCKS 256u
#define CHUNK_BYTES         (1 * MIB)
#define FULL_VOLUME_BYTES   (4 * MIB)

const char *sim_profile_name(enum sim_profile p)
{
	static const char *const names[] = {"mixed", "ring", "full", "tree", "cold"};

	return p < SIM_PROFILES ? names[p] : "?";
}

void sim_image_free(struct sim_image *i)
{
	kv_disk_free(i->index);
	simstore_free(i->store);
	*i = (struct sim_image){0};
}

bool sim_fail(struct sim_run *run, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(run->why, sizeof(run->why), fmt, ap);
	va_end(ap);
	return false;
}

/* ---- history ---- */

void sim_history_add(struct sim_run *run, const char *what, size_t covers)
{
	struct sim_history *h = &run->history;

	h->step = test_grow(h->step, h->n, &h->cap, sizeof(*h->step));
	struct sim_step *s = &h->step[h->n++];
	*s = (struct sim_step){.model = model_clone(run->model), .hash = model_hash(run->model), .covers = covers};
	snprintf(s->what, sizeof(s->what), "%s", what);
	s->mark = simstore_mark(run->image.store);
	s->pos = run->fs ? fs_pos(run->fs) : 0;
}

static void history_cut(struct sim_history *h, size_t n)
{
	while (h->n > n)
		model_free(h->step[--h->n].model);
}

void sim_bounds(const struct sim_history *h, uint64_t cut, bool killed, size_t *ret_lo, size_t *ret_hi)
{
	size_t lo = killed ? h->kill_floor : h->covered, hi = 0;

	for (size_t i = 0; i < h->n; i++) {
		if (i == 0 || h->step[i - 1].mark <= cut)
			hi = i;
		if (h->step[i].mark > cut)
			break;
		if (killed && cut >= h->mounted)
			lo = max_u64(lo, i);
		/* What earlier mounts covered is in h->covered: the last of their steps may not have been completed. */
		else if (h->step[i].mark > 0 && h->step[i].covers > lo)
			lo = h->step[i].covers - 1;
	}
	*ret_lo = lo;
	*ret_hi = hi;
}

/* ---- mount and unmount ---- */

static int64_t sim_now(const struct clock *c)
{
	return container_of(c, struct sim_clock, clock)->now_ns;
}

uint32_t sim_next_key;
bool sim_next_tags;

static enum encryption mode_of(const struct sim_image *image)
{
	return !image->key ? ENCRYPTION_NONE : image->with_tags ? ENCRYPTION_AEAD : ENCRYPTION_XTS;
}

static struct data_key data_key_of(const struct sim_image *image)
{
	struct data_key key = {.mode = mode_of(image)};

	for (size_t i = 0; i < sizeof(key.bytes); i++)
		key.bytes[i] = (uint8_t)(image->key + i * 7);
	return key;
}

static int open_index(void *ctx, bool create, struct kv **ret_kv)
{
	const struct sim_image *image = ctx;
	const struct data_key key = data_key_of(image);
	struct kv *kv;
	int r = kv_mem_open(image->index, create, &kv);

	if (r == 0 && image->key) {
		r = kv_crypt_new(kv, &key, 4096, ret_kv); /* a small window: directories of the simulator do not fit */
		if (r < 0)
			kv_close(kv);
	} else if (r == 0) {
		*ret_kv = kv;
	}
	return r;
}

static struct store *open_store(const struct sim_image *image)
{
	const struct data_key key = data_key_of(image);
	struct store *s = simstore_open(image->store);

	if (image->key && crypt_store_new(s, NULL, STAGING_BYTES, &key, &s) < 0)
		abort(); /* out of memory */
	return s;
}

/* One for all volumes of a process in aead mode; their batches have other keys in the product. */
static struct batch_signer signer_of(const struct sim_image *image)
{
	static struct batch_mac *mac;
	const struct data_key key = data_key_of(image);

	if (mode_of(image) != ENCRYPTION_AEAD)
		return (struct batch_signer){0};
	if (!mac && batch_mac_new(&key, &mac) < 0)
		abort(); /* out of memory */
	return (struct batch_signer){.sign = batch_mac_sign, .ctx = mac};
}

/* `image` outlives what is opened with it. */
struct fs_config sim_config(struct sim_run *run, const struct sim_image *image)
{
	return (struct fs_config){
	    .store = open_store(image),
	    .encryption = mode_of(image),
	    .signer = signer_of(image),
	    .kv_open = open_index,
	    .kv_ctx = (void *)(uintptr_t)image,
	    .clock = &run->clock->clock,
	    .noatime = true,
	    .n_workers = 1,
	    .memory_bytes = 64 * MIB,
	    .no_threads = true,
	    .sabotage = run->sabotage,
	};
}

void sim_open_cold(struct sim_run *run)
{
	run->cold = cold_open();
}

bool sim_format(struct sim_run *run, uint64_t seed, enum sim_profile profile, unsigned sabotage)
{
	*run = (struct sim_run){.seed = seed, .profile = profile, .sabotage = sabotage, .rng = rng_derive(seed, profile, 0)};
	run->clock = &run->own_clock;
	*run->clock = (struct sim_clock){.clock = {.real_ns = sim_now, .mono_ns = sim_now}, .now_ns = 1700000000 * NSEC_PER_SEC};
	run->cold = cold_open();
	run->image.store = simstore_new();
	run->image.index = kv_disk_new(run->image.store);
	run->image.key = sim_next_key;
	run->image.with_tags = sim_next_tags;
	run->bytes = aligned_alloc(DISK_BLOCK, IO_MAX + 4 * DISK_BLOCK);
	struct fs_config c = sim_config(run, &run->image);
	struct fs_format_options o = {
	    .journal = {.n_segments = RING_SEGMENTS, .segment_blocks = RING_SEGMENT_BLOCKS},
	    .chunk_bytes = CHUNK_BYTES,
	    .max_bytes = profile == SIM_FULL ? FULL_VOLUME_BYTES : 0,
	    .root_mode = 0755,
	    .label = "sim",
	};
	memcpy(o.volume, &(uint64_t[]){seed + 1, profile}, sizeof(o.volume));
	int r = fs_format(&c, &o);
	store_close(c.store); /* format leaves it to the caller */
	run->model = model_new(0755, 0, 0);
	model_set_time(run->model, run->clock->now_ns);
	const struct record_attr born = {.mask = ATTR_MTIME, .mtime_ns = run->clock->now_ns};
	r = r ? r : model_setattr(run->model, FS_ROOT_INO, &born);
	sim_history_add(run, "format", 1);
	return r == 0 || sim_fail(run, "format: %s", strerror(-r));
}

bool sim_mount(struct sim_run *run)
{
	int r = sim_open_image(run, &run->image, &run->fs);

	if (r)
		return sim_fail(run, "fs_open: %s", strerror(-r));
	run->n_held = 0;
	run->since_home = UINT32_MAX; /* the journal may be full as it is */
	run->history.mounted = simstore_mark(run->image.store);
	return sim_compare(run, run->fs, run->model);
}

bool sim_unmount(struct sim_run *run)
{
	int r = fs_close(run->fs);

	run->fs = NULL;
	run->n_held = 0;
	model_forget_orphans(run->model);
	if (r == 0)
		sim_history_add(run, "close", run->history.n);
	return r == 0 || sim_fail(run, "fs_close: %s", strerror(-r));
}

void sim_crash(struct sim_run *run, size_t p, struct sim_image image, uint64_t cut, bool killed)
{
	size_t lo, hi;

	if (run->fs)
		fs_abandon(run->fs);
	run->fs = NULL;
	sim_bounds(&run->history, cut, false, &lo, &hi);
	run->history.covered = lo;
	sim_bounds(&run->history, cut, killed, &lo, &hi);
	run->history.kill_floor = lo;
	run->history.mounted = UINT64_MAX; /* until sim_mount() says otherwise */
	history_cut(&run->history, p + 1);
	for (size_t i = 0; i < run->history.n; i++)
		run->history.step[i].mark = 0;
	model_free(run->model);
	run->model = model_clone(run->history.step[p].model);
	model_forget_orphans(run->model);
	run->n_held = 0;
	sim_image_free(&run->image);
	run->image = image;
}

void sim_free(struct sim_run *run)
{
	if (run->fs)
		fs_abandon(run->fs);
	history_cut(&run->history, 0);
	free(run->history.step);
	model_free(run->model);
	sim_image_free(&run->image);
	if (!run->lent_cold)
		cold_close(run->cold);
	free(run->held);
	free(run->bytes);
	*run = (struct sim_run){0};
}

int sim_evict_some(struct sim_run *run, struct rng *rng)
{
	uint64_t ino = rng_between(rng, FS_ROOT_INO + 1, min_u64(atomic_load(&run->fs->next_ino), 200));
	int r = cold_evict(run->fs, ino);

	return r == -ENOENT || r == -EINVAL ? 0 : r; /* no inode, or no file */
}

int sim_squeeze_some(struct sim_run *run)
{
	bool more = true;
	int r = 0;

	while (r == 0 && more)
		r = fs_squeeze_step(run->fs, &more);
	return r;
}

/* ---- comparing ---- */

bool sim_compare(struct sim_run *run, struct fs *fs, const struct model *want)
{
	struct tree got, expected;
	char text[512];
	int r = tree_read(fs, &got, text, sizeof(text));

	if (r)
		return sim_fail(run, "reading the tree: %s", text);
	model_tree(want, &expected);
	size_t n_unheld;
	bool differs = run->a_copy && !tree_leave_out_unheld(fs, &expected, &n_unheld);
	if (differs)
		snprintf(text, sizeof(text), "a snapshot that is not held is none that was made");
	differs = differs || tree_diff(&got, &expected, text, sizeof(text));
	tree_free(&got);
	tree_free(&expected);
	return !differs || sim_fail(run, "%s", text);
}

/* The newest step of [lo, hi] with this tree; SIZE_MAX when there is none. */
static size_t find_step(const struct sim_history *h, uint64_t hash, size_t lo, size_t hi)
{
	for (size_t i = hi + 1; i-- > lo;)
		if (h->step[i].hash == hash)
			return i;
	return SIZE_MAX;
}

/* The same where a copy may lack snapshots: what it lacks is left out of every step. */
static size_t find_step_of_copy(const struct sim_run *run, struct fs *fs, uint64_t hash, size_t lo, size_t hi)
{
	for (size_t i = hi + 1; i-- > lo;) {
		struct tree want;
		size_t n_unheld;

		model_tree(run->history.step[i].model, &want);
		bool same = tree_leave_out_unheld(fs, &want, &n_unheld) && tree_hash(&want) == hash;
		tree_free(&want);
		if (same)
			return i;
	}
	return SIZE_MAX;
}

/* What the tree is not, in words: against the newest and the oldest state that it may be. */
static void explain(struct sim_run *run, const struct tree *got, size_t lo, size_t hi)
{
	const size_t at[2] = {hi, lo};
	size_t len = 0;

	for (unsigned i = 0; i < 2; i++) {
		struct tree want;
		char diff[400] = "";

		model_tree(run->history.step[at[i]].model, &want);
		tree_diff(got, &want, diff, sizeof(diff));
		tree_free(&want);
		len += (size_t)snprintf(run->why + len, sizeof(run->why) - len, "%sagainst step %zu (%.60s): %.300s",
					i ? "; " : "", at[i], run->history.step[at[i]].what, diff);
	}
	size_t older = find_step(&run->history, tree_hash(got), 0, lo);
	if (older != SIZE_MAX)
		snprintf(run->why + len, sizeof(run->why) - len, "; it is step %zu, too old", older);
}

bool sim_identify(struct sim_run *run, struct fs *fs, size_t lo, size_t hi, size_t *ret_step)
{
	char text[512];
	struct tree got;

	if (tree_read(fs, &got, text, sizeof(text)))
		return sim_fail(run, "reading the tree: %s", text);
	*ret_step = find_step(&run->history, tree_hash(&got), lo, hi);
	if (*ret_step == SIZE_MAX && run->a_copy && run->snapshots)
		*ret_step = find_step_of_copy(run, fs, tree_hash(&got), lo, hi);
	if (*ret_step == SIZE_MAX)
		explain(run, &got, lo, hi);
	tree_free(&got);
	return *ret_step != SIZE_MAX;
}

static const char *const memory_files[] = {"journal/staging.0", "journal/staging.1"};

void sim_make_memory(const struct sim_image *image)
{
	struct store *s = open_store(image);
	struct disk *d;

	for (size_t i = 0; i < ARRAY_SIZE(memory_files); i++)
		if (store_open(s, memory_files[i], 0, 0, &d) == 0)
			disk_close(d);
	store_close(s);
}

/* With the power goes what was in memory: the staging files of an encrypted volume. */
static void lose_memory(struct simstore *sim)
{
	struct store *s = simstore_open(sim);
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(memory_files); i++) {
		r = store_remove(s, memory_files[i]);
		r = r == -ENOENT ? 0 : r;
	}
	if (r == 0)
		r = store_sync_names(s);
	if (r)
		abort();
	store_close(s);
}

struct sim_image sim_take_image(const struct sim_run *run, const struct simcut *c, uint64_t cut, enum simcut_variant v,
				struct rng *rng, bool record)
{
	struct sim_image image = {
	    .store = simcut_image(c, v, rng, record), .key = run->image.key, .with_tags = run->image.with_tags};
	bool newer = simcut_in_index_flush(c) && v != SIMCUT_LOST && (v == SIMCUT_KEPT || rng_percent(rng, 50));

	image.index = kv_disk_at(run->image.index, cut + newer, image.store);
	if (image.key && v != SIMCUT_KILL)
		lose_memory(image.store);
	image.born = simstore_count(image.store);
	return image;
}

int sim_open_image(struct sim_run *run, const struct sim_image *image, struct fs **ret_fs)
{
	struct fs_config c = sim_config(run, image);
	int r = fs_open(&c, ret_fs);

	if (r) {
		store_close(c.store);
		*ret_fs = NULL;
	}
	return r;
}

static void fsck_line(void *ctx, const char *line)
{
	struct buf *lines = ctx;

	if (lines->len < 500)
		buf_printf(lines, "%s%s", lines->len ? "; " : "", line);
}

/* What each directory says is below it, which no fsck has put right yet. */
static bool totals_are_right(struct sim_run *run, struct fs *fs)
{
	char why[400];

	if (fs_readable(fs) < 0) /* a follower between two states */
		return true;
	return recount_check(fs, FS_ROOT_INO, why, sizeof(why)) == 0 || sim_fail(run, "totals: %s", why);
}

bool sim_fsck(struct sim_run *run, struct fs *fs)
{
	if (!totals_are_right(run, fs))
		return false;
	CLEANUP_BUF struct buf lines = {0};
	struct fs_check_result c = {0};
	int r = fs_check(fs, true, fsck_line, &lines, &c);

	if (r == 0 && c.damaged_blocks + c.structure_errors + c.accounting_errors == 0 && lines.len == 0) {
		char why[200];

		return !run->cold || cold_check(run->cold, fs, why, sizeof(why)) || sim_fail(run, "%s", why);
	}
	return sim_fail(run, "fs_check: %s; %llu damaged blocks, %llu structure, %llu accounting: %s", r ? strerror(-r) : "done",
			(unsigned long long)c.damaged_blocks, (unsigned long long)c.structure_errors,
			(unsigned long long)c.accounting_errors, lines.p ? (char *)lines.p : "");
}
