/*
 * restore.h: what `clawfs restore` and `clawfs drill` share: an archive that is opened for reading, and a volume made of it.
 *
 * Errors: helpers print what is wrong, and return -errno.
 */
#pragma once

#include "fs/cli/cli.h"
#include "fs/core/archive/restore.h"

struct restore_source {
	struct object_store *store;
	struct archive_place place;
	struct pack_volume_key key;
	struct archive_manifest manifest;
};
/* `definition` as of `clawfs tier add`; `key` 64 hexadecimal digits, NULL or "none". */
MUST_CHECK int restore_source_open(const char *definition, const char *credentials, const char *profile, const char *key,
				   struct restore_source *ret);
void restore_source_close(struct restore_source *s);

/* A volume in `dir`: new, empty, or left by a restore that was interrupted. */
struct restore_job {
	const struct args *a;           /* sizes, --force */
	const char *dir;
	const struct volume_sizes *usual;
	const struct restore_target *target;
	bool quiet;
	/* With the volume still open; NULL: nothing.  Unless `keep`, the volume is removed afterwards. */
	int (*use)(void *ctx, struct fs *fs);
	void *ctx;
	bool keep;
	char *message;                  /* gets why not, when set; else it is printed */
	size_t message_cap;
};
MUST_CHECK int restore_volume(const struct restore_job *j, struct restore_source *s, struct restore_result *ret);
/* "2026-01-02 03:04:05.678" in local time. */
void time_text(int64_t ns, char ret_text[40]);

/* restore_tree.c: what `path` names in the volume becomes OUTDIR/NAME, or for "/" what is in OUTDIR.  Prints what is wrong. */
MUST_CHECK int restore_tree(struct fs *fs, const char *path, const char *outdir, uint64_t *ret_files);
