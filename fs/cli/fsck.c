/*
 * fsck.c: checks a volume that is not mounted.
 *
 * Opening it replays the journal, as a mount would, without any background work; then everything is compared with everything
 * else.  A superblock copy that was damaged is repaired by that, for each write goes into the copy that is not in force; nothing
 * else is changed here but the audit log, where it is entered: a volume whose log cannot be written is checked all the same, and
 * that is said.  The exit code is fsck(8)'s, by the worst class of finding.
 */
#include "fs/cli/acts.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/printable.h"

struct findings {
	bool json;
	json_t *list;
	uint64_t n;
};

static void on_finding(void *ctx, const char *line)
{
	struct findings *f = ctx;

	CLEANUP_FREE char *text = strdup(line);

	f->n++;
	if (text)
		make_printable(text); /* it names files, and JSON has to be UTF-8 */
	if (f->json)
		json_array_append_new(f->list, json_string(text ? text : ""));
	else
		printf("%s\n", text ? text : "");
}

static const char *class_name(int code)
{
	return code == EXIT_OK ? "clean" : code == EXIT_FAILED ? "repaired" : code == EXIT_DAMAGED ? "damaged" : "not checked";
}

static void conclude(const struct args *a, const char *dir, struct findings *f, const struct fs_check_result *n, int code)
{
	if (!a->json) {
		printf("%s: %s: %" PRIu64 " inodes, %" PRIu64 " directories, %" PRIu64 " entries, %" PRIu64 " blocks", dir,
		       class_name(code), n->inodes, n->directories, n->entries, n->blocks);
		printf(a->no_data ? ", data not read" : ", %" PRIu64 " bytes verified", n->bytes_verified);
		if (n->cold_blocks)
			printf(", %" PRIu64 " blocks in object stores only: not verified", n->cold_blocks);
		printf("\n");
		return;
	}
	json_t *o = json_object();
	json_object_set_new(o, "source", bytes_json((struct slice){dir, strlen(dir)}));
	json_object_set_new(o, "result", json_string(class_name(code)));
	json_object_set(o, "findings", f->list);
	const struct {
		const char *name;
		uint64_t n;
	} counts[] = {
	    {"inodes", n->inodes},
	    {"directories", n->directories},
	    {"entries", n->entries},
	    {"leaves", n->leaves},
	    {"blocks", n->blocks},
	    {"bytes_verified", n->bytes_verified},
	    {"objects", n->objects},
	    {"cold_blocks", n->cold_blocks},
	    {"damaged_blocks", n->damaged_blocks},
	    {"structure_errors", n->structure_errors},
	    {"accounting_errors", n->accounting_errors},
	};
	for (size_t i = 0; i < ARRAY_SIZE(counts); i++)
		json_object_set_new(o, counts[i].name, json_integer((json_int_t)counts[i].n));
	json_print(o);
	json_decref(o);
}

/* Could a failing open mean that the volume is damaged, rather than out of reach? */
static int code_of_open_error(int error)
{
	switch (-error) {
	case EBADMSG:
	case EUCLEAN:
	case ENOENT: /* a file of the volume is missing */
	case ELOOP:
		return EXIT_DAMAGED;
	default:
		return EXIT_FSCK_ERROR;
	}
}

/* Which superblock copies are bad now; -1 when even that cannot be read. */
static int super_copies_bad(const char *dir)
{
	struct super copy[2];
	bool valid[2];

	return volume_peek(dir, copy, valid) < 0 ? -1 : !valid[0] + !valid[1];
}

static int check_open_volume(const struct args *a, struct volume_config *v, struct fs *fs, int bad_before, struct act *act,
			     struct findings *f)
{
	struct fs_check_result result = {0};
	int code = EXIT_OK;
	int r = fs_check(fs, !a->no_data, on_finding, f, &result);

	if (f->n)
		code = EXIT_DAMAGED;
	act_leave(act, fs_audit_ended(fs, act->n, r < 0 ? strerror(-r) : class_name(code)));
	int r_close = fs_close(fs);
	if (bad_before > 0) {
		bool repaired = super_copies_bad(v->dir) == 0;

		on_finding(f, repaired ? "super: one of the two copies was damaged: written anew"
				       : "super: one of the two copies is damaged: the next writable mount writes it anew");
		code = code == EXIT_DAMAGED || !repaired ? EXIT_DAMAGED : EXIT_FAILED;
	}
	if (r < 0 || r_close < 0) {
		volume_complain(r < 0 ? "could not finish checking" : "could not close", v->dir, r < 0 ? r : r_close);
		code = code == EXIT_DAMAGED ? code : EXIT_FSCK_ERROR;
	}
	conclude(a, v->dir, f, &result, code);
	return code;
}

/* Where there is no superblock there is no volume, and fs_open() says so. */
static void enter(const struct volume_config *v, const struct args *a, struct act *act)
{
	int r = act_begin_in("fsck", v->fs.store, a->no_data ? "without data" : "with data", act);

	if (r < 0 && r != -ENODATA)
		complain("%s: that it is checked cannot be entered in its audit log: %s", v->dir, strerror(-r));
}

int verb_fsck(const struct args *a)
{
	struct findings f = {.json = a->json, .list = json_array()};
	struct volume_config v;
	struct fs *fs;

	log_setup(a->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN, false);
	if (volume_open_locked(a, a->operand[0], &v) < 0) {
		json_decref(f.list);
		return EXIT_FSCK_ERROR;
	}
	int bad = super_copies_bad(v.dir);
	struct act act = {.verb = "fsck"};
	v.fs.no_threads = true;
	v.fs.audited = v.fs.audit_as_before = true; /* changes that the mount had no time to log are not lost by a replay */
	enter(&v, a, &act);
	int code, r = fs_open(&v.fs, &fs);
	if (r < 0) {
		struct fs_check_result none = {0};

		act_end(&act, r, NULL);
		volume_complain("cannot check", v.dir, r);
		code = code_of_open_error(r);
		if (code == EXIT_DAMAGED)
			conclude(a, v.dir, &f, &none, code);
	} else {
		v.fs.store = NULL; /* fs had it */
		code = check_open_volume(a, &v, fs, bad, &act, &f);
	}
	json_decref(f.list);
	volume_close(&v);
	return code;
}
