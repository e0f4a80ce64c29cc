/*
 * heal_run.c: when damage is looked for that was not repaired at once: at the end of each pass, all of it; and soon after a read
 * or a pass came upon it, what was not looked for within the last hour.
 *
 * In the background it goes at the rate of passes, between their pieces; readers have got their EIO by then.  One that repaired
 * something is followed by the next at once, if there is more: who reads a file comes upon one damaged block after the other. One
 * that found nothing is followed by the next a minute later at the earliest, and after an error it is ten.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/scrub/heal.h"

#define FIRST_NS (1 * NSEC_PER_SEC) /* others that are damaged are come upon at once */
#define EVERY_NS (60 * NSEC_PER_SEC)
#define ERROR_NS (600 * NSEC_PER_SEC)

void heal_want(struct fs *fs)
{
	struct scrub *sc = fs->scrub;

	if (!sc || fs->config.read_only)
		return;
	mutex_lock(&sc->lock);
	if (!sc->heal_wanted) {
		int64_t soon_ns = clock_mono_ns(fs->clock) + FIRST_NS;

		sc->heal_wanted = true;
		if (sc->heal_next_ns < soon_ns)
			sc->heal_next_ns = soon_ns;
		cond_broadcast(&sc->wake);
	}
	mutex_unlock(&sc->lock);
}

/* ---- both ---- */

static void show(struct scrub *sc, const struct heal *h, int r) REQUIRES(sc->lock)
{
	static const char *const places[] = {"other copies", "the journal", "the archive"};

	if (r < 0)
		snprintf(sc->heal_text, sizeof(sc->heal_text), "%s", *h->message ? h->message : strerror(-r));
	else if (h && h->at < HEAL_END)
		snprintf(sc->heal_text, sizeof(sc->heal_text), "%zu blocks in %s", h->wants.n_open, places[h->at]);
	else
		sc->heal_text[0] = '\0';
}

static void postpone(struct scrub *sc, const struct heal *h, int r) REQUIRES(sc->lock)
{
	log_warn("damaged blocks could not be looked for everywhere: %s", *h->message ? h->message : strerror(-r));
	sc->heal_wanted = true;
	sc->heal_next_ns = clock_mono_ns(sc->fs->clock) + ERROR_NS;
}

/* ---- by a pass ---- */

/* One of this pass; *ret NULL: there is nothing to look for. */
static int heal_of_pass(struct fs *fs, const struct scrub_pass *p, struct heal **ret)
{
	struct scrub *sc = fs->scrub;
	int r = 0;

	if (sc->heal && sc->heal->pass != p->pass)
		sc->heal = heal_free(sc->heal);
	if (!sc->heal && !fs->config.read_only)
		r = heal_begin(fs, 0, true, &sc->heal);
	if (r == 0 && sc->heal)
		sc->heal->pass = p->pass;
	*ret = sc->heal;
	return r;
}

int step_heal(struct fs *fs, struct scrub_pass *p, uint64_t *ret_bytes)
{
	struct scrub *sc = fs->scrub;
	struct heal *h;
	int r = heal_of_pass(fs, p, &h);

	if (r < 0)
		return r;
	uint64_t before = h ? h->wants.repaired : 0;
	r = h ? heal_step(fs, h, ret_bytes) : 0;
	p->repaired_blocks += h ? h->wants.repaired - before : 0;
	if (r == -ENOMEM || r == -EBUSY)
		return r;
	p->errors += r < 0;
	mutex_lock(&sc->lock);
	show(sc, h, r);
	if (r < 0)
		postpone(sc, h, r);
	mutex_unlock(&sc->lock);
	if (r == 0 && h && h->at != HEAL_END)
		return 0;
	sc->heal = heal_free(h);
	begin_phase(p, PHASE_END, 0);
	return 0;
}

/* ---- in the background ---- */

bool heal_due(struct scrub *sc, int64_t *ret_ns)
{
	bool in_pass = sc->pass.state == SCRUB_RUNNING && sc->pass.phase == PHASE_HEAL; /* it does the same */

	*ret_ns = INT64_MAX;
	if (sc->fs->config.read_only || atomic_load(&sc->fs->failed) || in_pass)
		return false;
	if (sc->heal && !sc->heal->again)
		return true;
	if (sc->heal_wanted)
		*ret_ns = sc->heal_next_ns;
	return sc->heal_wanted && clock_mono_ns(sc->fs->clock) >= sc->heal_next_ns;
}

/* The lock is not held; sc->heal is of this thread. */
static int step_background(struct fs *fs, struct scrub *sc, uint64_t *ret_bytes)
{
	int r = fs_readable(fs) ? -EBUSY : 0;

	if (r == 0 && !(sc->heal && !sc->heal->again)) {
		sc->heal = heal_free(sc->heal);
		r = heal_begin(fs, 0, false, &sc->heal);
	}
	return r == 0 && sc->heal ? heal_step(fs, sc->heal, ret_bytes) : r;
}

uint64_t heal_background(struct scrub *sc)
{
	uint64_t bytes = 0;

	if (!sc->heal || sc->heal->again)
		sc->heal_wanted = false; /* what is found from now on is of the next one */
	mutex_unlock(&sc->lock);
	int r = step_background(sc->fs, sc, &bytes);
	mutex_lock(&sc->lock);
	int64_t now_ns = clock_mono_ns(sc->fs->clock);
	if (r == -EBUSY || r == -ENOMEM || (r < 0 && !sc->heal)) {
		sc->heal_wanted = true;
		sc->heal_next_ns = now_ns + NSEC_PER_SEC;
		if (!sc->heal)
			return bytes;
	}
	show(sc, sc->heal, r == -EBUSY || r == -ENOMEM ? 0 : r);
	if (r == 0 && sc->heal && sc->heal->at != HEAL_END)
		return bytes;
	if (r == 0)
		sc->heal_next_ns = now_ns + (sc->heal && sc->heal->wants.repaired ? FIRST_NS : EVERY_NS);
	else if (r != -EBUSY && r != -ENOMEM)
		postpone(sc, sc->heal, r);
	sc->heal = heal_free(sc->heal);
	return bytes;
}

/* ---- one file ---- */

int heal_file(struct fs *fs, uint64_t ino)
{
	uint64_t bytes = 0;
	struct heal *h;
	int r = heal_begin(fs, ino, true, &h);

	while (r == 0 && h && h->at != HEAL_END && !atomic_load(&fs->closing))
		r = heal_step(fs, h, &bytes);
	if (r < 0 && h && h->at == HEAL_ARCHIVE) {
		log_warn("damaged blocks could not be looked for everywhere: %s", *h->message ? h->message : strerror(-r));
		r = 0; /* an archive that is away does not keep an admin from giving up */
	}
	heal_free(h);
	return r;
}
