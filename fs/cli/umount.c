/*
 * umount.c: unmounts, and waits until the daemon has closed the volume.
 *
 * A plain umount(8) returns when the kernel has let go of the mount; the daemon then still writes its last checkpoint.  Here
 * the command ends only when the store's lock is free, so that the directory may be copied, checked or mounted again.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Where the mounted volume lies, as its daemon says; without an answer, as the mount table says. */
static char *store_of(const struct mount_entry *m)
{
	json_t *facts;
	char *dir = NULL;

	if (status_read(m->mountpoint, &facts) == 0) {
		const char *source = json_string_value(json_object_get(facts, "source"));

		dir = source ? strdup(source) : NULL;
		json_decref(facts);
	}
	return dir ? dir : strdup(m->source);
}

static int complain_busy(const struct mount_entry *m, int error)
{
	complain("cannot unmount %s: %s", m->mountpoint, error == -EBUSY ? "in use" : strerror(-error));
	if (error == -EBUSY && mounts_print_users(m->mountpoint) == 0)
		complain("  no process of this user or namespace holds it; `fuser -vm %s` as root may tell", m->mountpoint);
	return EXIT_FAILED;
}

/* After the daemon is gone: did it get to its last checkpoint? */
static int report_close(const char *dir, bool was_writable)
{
	struct super copy[2];
	bool valid[2];

	if (!was_writable || volume_peek(dir, copy, valid) < 0)
		return EXIT_OK;
	const struct super *s = volume_newest(copy, valid);
	if (s && s->clean)
		return EXIT_OK;
	complain("unmounted, but %s was not closed cleanly: the daemon's log says why; what was fsynced is in the journal and "
		 "comes back "
		 "with the next mount",
		 dir);
	return EXIT_FAILED;
}

static bool is_writable(const struct mount_entry *m)
{
	return strncmp(m->options, "ro", 2) != 0;
}

static int detach_and_wait(const struct mount_entry *m, const char *dir, uint64_t timeout_ns)
{
	int r = mounts_detach(m->mountpoint);

	if (r < 0)
		return complain_busy(m, r);
	r = volume_wait_free(dir, timeout_ns);
	if (r == -ETIMEDOUT) {
		complain("unmounted, but after %" PRIu64
			 " s the daemon still writes to %s: do not touch it before the daemon has ended",
			 timeout_ns / (uint64_t)NSEC_PER_SEC, dir);
		return EXIT_FAILED;
	}
	if (r < 0) {
		complain("unmounted; cannot tell whether the daemon has ended: %s: %s", dir, strerror(-r));
		return EXIT_FAILED;
	}
	return report_close(dir, is_writable(m));
}

int verb_umount(const struct args *a)
{
	struct mount_entry m;
	int r = mounts_find(a->operand[0], &m);

	if (r < 0 || !mount_is_clawfs(&m)) {
		complain("%s: no clawfs volume is mounted here; `findmnt -t fuse.clawfs` lists them", a->operand[0]);
		if (r == 0)
			mount_entry_free(&m);
		return EXIT_FAILED;
	}
	CLEANUP_FREE char *dir = store_of(&m);
	r = dir ? detach_and_wait(&m, dir, a->timeout_ns) : EXIT_FAILED;
	mount_entry_free(&m);
	return r;
}
