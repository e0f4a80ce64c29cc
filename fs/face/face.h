/*
 * face.h: the FUSE face: mounts an open volume and serves the kernel until it is unmounted.
 *
 * The one place that turns errors into replies (-EBADMSG and -EUCLEAN become EIO).  It owns the session and its worker
 * threads, and nothing of the filesystem.
 */
#pragma once

#include "fs/core/fs.h"

struct face;
struct face_options {
	const char *mountpoint;
	const char *fsname;        /* first field of /proc/mounts */
	const char *extra_options; /* comma separated, passed to mount(2) through libfuse: "nosuid,nodev"; may be NULL */
	bool allow_other, read_only;
	uint32_t n_workers;
};

/* clamp(2 x cores, 4, 64). */
uint32_t face_default_workers(void);

/* Mounts; the kernel's requests wait until face_run(). */
MUST_CHECK int face_mount(struct fs *fs, const struct face_options *o, struct face **ret_face);
/* Serves until unmount or face_stop(); returns 0, or -errno when the connection failed. */
int face_run(struct face *f);
/* Ends face_run() soon; async-signal-safe. */
void face_stop(struct face *f);
/* Unmounts when still mounted and frees. NULL is fine. */
struct face *face_close(struct face *f);
