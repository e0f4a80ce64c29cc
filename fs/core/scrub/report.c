/* report.c: what the scrub says of itself and of files: JSON for admins, a few words for a file. */
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "fs/core/scrub/impl.h"
#include "fs/core/scrub/report.h"
#include "fs/core/snap/snap.h"

#define FILES_A_TEXT 500u

static const char *const state_names[] = {"idle", "running", "paused", "done"};
static const char *const phase_names[] = {"superblock", "index", "data", "end", "snapshots", "repair", "snapshots"};

static json_int_t number(uint64_t n)
{
	return n > INT64_MAX ? INT64_MAX : (json_int_t)n;
}

/* ---- progress ---- */

static double progress_of(const struct scrub_pass *p)
{
	double share = p->total_bytes ? (double)p->checked_bytes / (double)p->total_bytes : 0;

	if (p->phase == PHASE_END)
		return 1;
	return share < 0.99 ? share : 0.99; /* what was written since the beginning is looked at, too */
}

/* Seconds until the end at the speed of this run so far; below 0: it cannot be told. */
static double seconds_left(struct fs *fs, const struct scrub_pass *p, int64_t run_ns, uint64_t run_bytes)
{
	double ran_s = (double)(clock_mono_ns(fs->clock) - run_ns) / (double)NSEC_PER_SEC;
	double done = (double)(p->checked_bytes - min_u64(p->checked_bytes, run_bytes));
	double left = (double)(p->total_bytes - min_u64(p->total_bytes, p->checked_bytes));

	return p->state != SCRUB_RUNNING || ran_s <= 0 || done <= 0 ? -1 : left / (done / ran_s);
}

static json_t *repairs_json(struct repair_status *st)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "repaired_blocks", number(st->repaired),
			 "failed_blocks", number(st->failed), "from_replica", number(st->by_replica), "from_tier",
			 number(st->by_tier), "from_snapshot", number(st->by_copy), "from_journal", number(st->by_journal),
			 "from_archive", number(st->by_archive), "in_place", number(st->in_place), "wrong_answers",
			 number(st->lies), "answered_blocks", number(st->answered), "refused_blocks", number(st->refused),
			 "last_ns", (json_int_t)atomic_load(&st->last_ns));
}

static json_t *last_json(const struct scrub_pass *p)
{
	return json_pack("{s:I, s:I, s:I, s:I}", "started_ns", (json_int_t)p->last_started_ns, "ended_ns",
			 (json_int_t)p->last_ended_ns, "bad_blocks", number(p->last_bad_blocks), "repaired_blocks",
			 number(p->last_repaired_blocks));
}

static json_t *damage_json(struct fs *fs)
{
	struct damage_sum sum;

	damage_get_sum(fs, &sum);
	return json_pack("{s:I, s:I, s:I, s:I}", "files", number(sum.n_files), "bad_blocks", number(sum.n_bad), "repaired_blocks",
			 number(sum.n_repaired), "not_listed_blocks", number(sum.beyond));
}

json_t *scrub_status_json(struct fs *fs)
{
	struct scrub *sc = fs->scrub;
	char waits[sizeof(sc->waits)], heal[sizeof(sc->heal_text)];

	mutex_lock(&sc->lock);
	struct scrub_pass p = sc->pass;
	int64_t run_ns = sc->run_ns;
	uint64_t run_bytes = sc->run_bytes;
	memcpy(waits, sc->waits, sizeof(waits));
	memcpy(heal, sc->heal_text, sizeof(heal));
	mutex_unlock(&sc->lock);
	double eta = seconds_left(fs, &p, run_ns, run_bytes);
	json_t *o =
	    json_pack("{s:s, s:s, s:I, s:I, s:b, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:s}", "state", state_names[p.state],
		      "phase", phase_names[p.phase], "pass", number(p.pass), "rate_bytes", number(p.rate), "cold", p.cold,
		      "started_ns", (json_int_t)p.started_ns, "checked_bytes", number(p.checked_bytes), "total_bytes",
		      number(p.total_bytes), "progress", progress_of(&p), "bad_blocks", number(p.bad_blocks), "repaired_blocks",
		      number(p.repaired_blocks), "bad_rows", number(p.bad_rows), "errors", (json_int_t)p.errors, "waits", waits);

	if (o && eta >= 0)
		json_object_set_new(o, "eta_seconds", json_integer((json_int_t)eta));
	if (o) {
		json_object_set_new(o, "last", last_json(&p));
		json_object_set_new(o, "damage", damage_json(fs));
		json_object_set_new(o, "quarantined_blocks", json_integer(number(quarantine_count(fs))));
		json_object_set_new(o, "repairs", repairs_json(&sc->repairs));
		json_object_set_new(o, "search", json_string(heal));
	}
	return o;
}

/* ---- files ---- */

static bool is_there(struct fs *fs, uint64_t ino)
{
	struct fs_attr a;

	int r = fs_getattr(fs, ino, &a);

	return r != -ENOENT && r != -ESTALE;
}

static size_t add_file(struct fs *fs, json_t *files, const struct damage_file *f)
{
	char path[PATH_MAX];

	fs_path(fs, f->ino, path, sizeof(path));
	json_t *text = json_string(path);
	if (!text) /* a name that is not UTF-8 */
		text = json_sprintf("inode %llu", (unsigned long long)f->ino);
	json_array_append_new(files, json_pack("{s:o, s:I, s:I, s:I, s:I}", "path", text, "ino", number(f->ino), "bad_blocks",
					       number(f->n_bad), "repaired_blocks", number(f->n_repaired), "changed_ns",
					       (json_int_t)f->changed_ns));
	return strlen(path) + 160;
}

/* Those from number `first` on that fit; *ret_next: the first that did not, 0: all did. */
static json_t *files_json(struct fs *fs, uint64_t first, uint64_t *ret_next)
{
	json_t *files = json_array();
	struct damage_file f;
	uint64_t i = 0;
	size_t bytes = 4096; /* what is around them */

	*ret_next = 0;
	for (uint64_t ino = 1; damage_next(fs, ino, &f); ino = f.ino + 1) {
		if (!is_there(fs, f.ino)) {
			damage_forget(fs, f.ino, UINT64_MAX);
			continue;
		}
		if (i++ < first)
			continue;
		if (bytes + PATH_MAX > SCRUB_TEXT_MAX || i > first + FILES_A_TEXT) {
			*ret_next = i - 1;
			break;
		}
		bytes += add_file(fs, files, &f);
	}
	return files;
}

int fs_scrub_text(struct fs *fs, uint64_t first, struct buf *out)
{
	uint64_t next;
	json_t *o = scrub_status_json(fs), *files = files_json(fs, first, &next);

	if (o)
		json_object_set_new(o, "files", files);
	else
		json_decref(files);
	if (o && next)
		json_object_set_new(o, "next_file", json_integer(number(next)));
	char *text = o ? json_dumps(o, JSON_INDENT(1)) : NULL;
	if (text)
		buf_put(out, text, strlen(text));
	bool made = text != NULL;
	free(text);
	json_decref(o);
	return made ? 0 : -ENOMEM;
}

/* ---- one file ---- */

/* When data of the file was looked at last; 0: never. */
static int64_t checked_ns(struct fs *fs, uint64_t ino)
{
	struct scrub_pass p;

	scrub_get(fs, &p);
	uint64_t seq;
	int64_t made_ns;
	if (snap_is_ino(ino)) /* blocks of its that are live are looked at there */
		return snap_made(fs, ino, &seq, &made_ns) && made_ns < p.last_started_ns ? p.last_started_ns : 0;
	bool under_way = (p.state == SCRUB_RUNNING || p.state == SCRUB_PAUSED) && ino < p.next_ino;
	if (under_way && p.phase == PHASE_DATA && p.cursor_len > 9 && ino < be64_get(p.cursor + 1))
		return p.started_ns;
	if (under_way && (p.phase == PHASE_SNAPS || p.phase == PHASE_PARTS || p.phase == PHASE_HEAL))
		return p.started_ns;
	return p.last_ended_ns && ino < p.last_next_ino ? p.last_started_ns : 0;
}

static void put_time(struct buf *out, const char *what, int64_t ns)
{
	time_t s = (time_t)(ns / NSEC_PER_SEC);
	char text[32];
	struct tm tm;

	if (ns > 0 && gmtime_r(&s, &tm) && strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm))
		buf_printf(out, " %s=%s", what, text);
}

int fs_health_text(struct fs *fs, uint64_t ino, struct buf *out)
{
	struct damage_file f;
	struct fs_attr a;
	int r = fs_getattr(fs, ino, &a);

	if (r < 0)
		return r;
	bool known = damage_next(fs, ino, &f) && f.ino == ino;
	int64_t checked = S_ISREG(a.mode) ? checked_ns(fs, ino) : 0;

	if (!S_ISREG(a.mode) && !known)
		return -ENODATA;
	if (known && f.n_bad)
		buf_printf(out, "damaged blocks=%llu", (unsigned long long)f.n_bad);
	else if (known)
		buf_printf(out, "repaired blocks=%llu", (unsigned long long)f.n_repaired);
	else
		buf_printf(out, "%s", checked ? "ok" : "unchecked");
	if (known)
		put_time(out, f.n_bad ? "seen" : "repaired", f.changed_ns);
	put_time(out, "checked", checked);
	return 0;
}
