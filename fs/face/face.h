/*
 * face.h: the FUSE face: mounts an open volume and serves the kernel until it is unmounted.
 *
 * The one place that turns errors into replies (-EBADMSG and -EUCLEAN become EIO).  It owns the session and its worker
 * threads, and nothing of the filesystem.
 *
 * Two kinds of mount.  Of a leader the kernel may cache anything for ever, dirty pages too: nobody else changes the volume.  Of a
 * follower it believes what it was told for a second, writes through, and is told of changes (notify.c).  The second kind stays
 * right when the volume leads later, the first does not when it follows: then it ends with FACE_REMOUNT.
 */
#pragma once

#include "fs/core/fs.h"
#include "fs/face/control.h"
#include "fs/metrics/metrics.h"

struct face;
struct face_options {
	const char *mountpoint;
	const char *fsname;        /* first field of /proc/mounts */
	const char *extra_options; /* comma separated, passed to mount(2) through libfuse: "nosuid,nodev"; may be NULL */
	bool allow_other, read_only;
	bool follower; /* the second kind of mount */
	/*
	 * The kernel of a leader's mount asks at each open: two messages more for each file.  Else it opens and closes by itself, and takes
	 * writes to files of snapshots until it hands them over: they fail at close(2) or fsync(2), not at open(2).
	 */
	bool strict_open;
	int stop_fd;   /* readable: face_run() ends; borrowed, -1: none */
	void (*stopping)(void *ctx); /* it does: requests must not wait for anything else any more; may be NULL */
	void *stopping_ctx;
	const struct control_provider *provider; /* of control.h; borrowed, may be NULL */
	struct metrics *metrics; /* borrowed */
	uint32_t n_workers;
};

/* Threads beside the workers that call fs_ functions: they serve requests whose data came from an object store (deferred.c). */
#define FACE_LANES 3u
/* clamp(2 x cores, 4, 64). */
uint32_t face_default_workers(void);

/* Mounts; the kernel's requests wait until face_run(). */
MUST_CHECK int face_mount(struct fs *fs, const struct face_options *o, struct face **ret_face);
/*
 * Serves until unmount or until stop_fd is readable; returns 0, or -errno when the connection failed.  FACE_REMOUNT: the
 * volume follows now, which this mount does not suit: it was taken away, and whoever had files open on it gets ENOTCONN.
 */
enum { FACE_REMOUNT = 1 };
int face_run(struct face *f);
/* The role of the volume changed.  From any thread; does not block. */
void face_role_changed(struct face *f);
/* Unmounts when still mounted and frees. NULL is fine. */
struct face *face_close(struct face *f);
