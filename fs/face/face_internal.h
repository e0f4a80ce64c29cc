/*
 * face_internal.h: what the files of the face share: the session, its workers, and the conversions at the edge.
 *
 * Ownership: struct face owns the libfuse session, the workers and their buffers.
 * Threads: a request is served from start to reply by the worker that received it; worker_self is that worker.
 * Fields of struct face are fixed before the workers start, save the atomics and what INIT negotiates: the kernel sends
 * nothing else before INIT was answered, so every later request sees the result.
 */
#pragma once

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 314
#endif
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/util.h"
#include "fs/core/fs.h"
#include "fs/face/face.h"

#define FACE_IO_MAX ((size_t)MIB) /* largest READ and WRITE */

/*
 * How long the kernel believes what a reply says.  The only mount of a leader's volume is this one, so what the kernel cached
 * stays true until the kernel itself changes it; a billion seconds fits its arithmetic in jiffies.  On a follower notices
 * end it early, and time ends it where a notice could not be given.
 */
#define FACE_TIMEOUT_LEADER_S   1e9
#define FACE_TIMEOUT_FOLLOWER_S 1.0

struct face;

/* One thread with its buffers. */
struct worker {
	struct face *face;
	pthread_t thread;
	bool started;
	int fd;         /* borrowed from the session */
	uint8_t *area;  /* both buffers, one mapping */
	uint8_t *in;    /* the request: header first, a WRITE's payload on a block boundary */
	bool lane;      /* serves requests again (deferred.c) */
	uint8_t *reply; /* FACE_IO_MAX and two blocks, aligned: data, names and xattrs on their way out */
};
extern _Thread_local struct worker *worker_self;

struct mount_device {
	unsigned major, minor;
};

struct face {
	struct fs *fs;
	struct fuse_session *session;
	char *mountpoint; /* absolute, free of symlinks */
	struct mount_device device;
	int fd;       /* /dev/fuse, owned by the session */
	int event_fd; /* wakes face_run() */
	int stop_fd;  /* borrowed; -1: none */
	void (*stopping)(void *ctx);
	void *stopping_ctx;
	bool read_only;
	bool follower;                      /* mounted for a follower (face.h); stays so when the volume leads later */
	const struct control_provider *provider; /* borrowed; may be NULL */
	bool writeback;                     /* the kernel caches writes and owns size, mtime and ctime of regular files */
	bool kill_privs;                    /* the kernel leaves clearing of setuid and setgid to us (FUSE_HANDLE_KILLPRIV_V2) */
	bool strict_open;                   /* face_options */
	bool long_setxattr;                 /* SETXATTR comes with flags of its own (FUSE_SETXATTR_EXT) */
	bool no_open, no_opendir, no_flush; /* the kernel takes ENOSYS as "always fine, do not ask again" */
	uint32_t n_workers;
	struct worker *workers;
	struct seeker *seeker;
	struct notifier *notifier; /* of a follower's mount */
	_Atomic bool outdated;     /* of a leader's: what the kernel knows of names is not the tree's any more */
	struct deferrals *deferrals;
	struct virtual_texts *texts; /* virtual.h */
	struct spoiled *spoiled;     /* snapshots.h */
	struct metrics *metrics;
	struct requests *requests; /* of metrics */
	atomic_uint n_running;
	atomic_int error;      /* first failure of the connection, -errno */
	atomic_bool connected; /* INIT was answered */
};

/* worker.c */
MUST_CHECK int worker_start(struct worker *w);
MUST_CHECK int worker_make_buffers(struct worker *w);
void worker_free_buffers(struct worker *w);
/* The request of `len` bytes in w->in, in the thread whose worker_self is `w`. */
void worker_serve(const struct worker *w, size_t len);
/* Replies to the request that `unique` names, of which libfuse knows nothing (any more). */
void worker_reply_error(const struct face *f, uint64_t unique, int error);
MUST_CHECK int worker_attach_io(struct face *f);
void face_wake(struct face *f);

/* mount.c */
MUST_CHECK int mount_arguments(const struct face_options *o, struct fuse_args *ret_args);
/* The device of the filesystem mounted at `mountpoint`, without asking that filesystem; -ENOENT. */
MUST_CHECK int mount_find(const char *mountpoint, struct mount_device *ret_device);
/* False also when the path carries another filesystem by now, which is nothing of ours to unmount. */
bool mount_is_there(const struct face *f);
/* Asks the kernel to let go of the mountpoint: -EBUSY when files are open below it, -ENOENT when it did before. */
MUST_CHECK int mount_release(const struct face *f);
/* Writes what the kernel holds dirty, then takes the mount out of the tree although files are open. */
void mount_detach(const struct face *f);
void mount_tune(const struct face *f);

/* negotiate.c */
void op_init(void *userdata, struct fuse_conn_info *conn);
uint32_t negotiate_extra_flags(struct face *f, uint32_t offered);
/*
 * Makes a received SETXATTR what this libfuse can decode; returns the length of the request then.  Any other request, and one
 * that is too short, stays as it is.
 */
size_t negotiate_shorten_setxattr(const struct face *f, struct fuse_in_header *request, size_t len);

/* gate.c */
extern const struct fuse_lowlevel_ops face_ops;

static inline struct face *request_face(fuse_req_t req)
{
	return fuse_req_userdata(req);
}
static inline struct fs *request_fs(fuse_req_t req)
{
	return request_face(req)->fs;
}
/* A leader's mount of a volume that follows by now: on its way out, and nothing it would say of the volume would stay right. */
static inline bool face_must_remount(const struct face *f)
{
	return !f->follower && fs_role(f->fs) == ROLE_FOLLOWER;
}
static inline double face_timeout_s(const struct face *f)
{
	return f->follower ? FACE_TIMEOUT_FOLLOWER_S : FACE_TIMEOUT_LEADER_S;
}
static inline const struct fuse_in_header *request_header(void)
{
	return (const struct fuse_in_header *)(const void *)worker_self->in;
}
static inline struct fs_cred request_cred(fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	return (struct fs_cred){
	    .uid = ctx->uid,
	    .gid = ctx->gid,
	    .pid = (uint32_t)ctx->pid,
	    .umask = ctx->umask,
	    .unique = request_header()->unique, /* libfuse keeps it to itself */
	};
}

/* reply.c: `r` is 0 or -errno. */
void reply_err(fuse_req_t req, int r);
int errno_for_kernel(int r); /* above 0 */
void reply_entry(fuse_req_t req, int r, const struct fs_attr *a);
void reply_attr(fuse_req_t req, int r, const struct fs_attr *a);
void reply_bytes(fuse_req_t req, int r, const void *p, size_t len);
void attr_to_stat(const struct fs_attr *a, struct stat *ret);
void attr_to_entry(const struct face *f, const struct fs_attr *a, struct fuse_entry_param *ret);
int64_t timespec_to_ns(struct timespec ts); /* clamped to what 64 bits hold: years 1677 to 2262 */

/*
 * awaited.c: a request whose answer may wait.  It begins a structure of its own from malloc(), which is freed when all are done with it.
 * `answer` replies to p->req, with 0 or -errno, -EINTR when its caller was interrupted; once, from any thread.
 */
struct awaited {
	struct journal_waiter waiter; /* to be given to the volume between the two calls */
	fuse_req_t req;
	struct fs *fs;
	void (*answer)(struct awaited *p, int result);
	atomic_uint refs;
	atomic_bool interrupted;
};
void await_begin(struct awaited *p, fuse_req_t req, void (*answer)(struct awaited *p, int result));
void await_end(struct awaited *p); /* it may be answered by now */

/* ops_namespace.c */
void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup);
void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name);
void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name, unsigned flags);
void op_readlink(fuse_req_t req, fuse_ino_t ino);

/* ops_dir.c */
void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);

/* ops_attr.c */
void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set, struct fuse_file_info *fi);
void op_statfs(fuse_req_t req, fuse_ino_t ino);
/* Clears setuid, and setgid where the group may execute, before a change by someone who may not keep them. */
MUST_CHECK int attr_kill_privs(struct fs *fs, const struct fs_cred *cred, uint64_t ino);

/* seek.c */
struct seeker;
MUST_CHECK int seeker_start(struct fuse_session *session, struct seeker **ret_seeker);
/* Ends its thread; before the workers' are cancelled. */
void seeker_stop(struct seeker *s);
/* After the workers ended; NULL is fine. */
struct seeker *seeker_free(struct seeker *s);
void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);

/* deferred.c: requests that wait for data in an object store, without a worker, and are served again */
struct deferrals;
MUST_CHECK int deferrals_new(struct face *f, struct deferrals **ret_deferrals);
/* True for -EINPROGRESS, what an operation on data returns that has to wait: the request that this thread serves is deferred, and `req`
 * is gone. */
bool request_deferred(fuse_req_t req, int r);
/* True when the request of that number is, or was just, deferred: nobody else has to know. */
bool deferrals_interrupt(struct deferrals *p, uint64_t unique);
/* Nothing is deferred any more from now on, and workers that wait for a place go on. */
void deferrals_shut(struct deferrals *p);
/* Ends its threads; the workers ended.  What waits still is answered by fs_end_waits(). */
void deferrals_stop(struct deferrals *p);
/* After fs_end_waits(); NULL is fine. */
struct deferrals *deferrals_free(struct deferrals *p);

/* rolled.c: a leader's mount, whose tree changes below the kernel only by a way back to a snapshot */
void rolled_watch(struct face *f);
void rolled_unwatch(struct face *f);

/* notify.c */
/* The kernel knows no attributes, no pages (dirty ones are written first) and no lists any more of what it has cached. */
void kernel_end_inodes(struct face *f);
/* It looks up each name anew.  -EINVAL: before Linux 6.16 it cannot be told so. */
MUST_CHECK int kernel_end_names(struct face *f);
struct notifier;
/* Watches the volume and tells the kernel what changed. */
MUST_CHECK int notifier_start(struct face *f, struct notifier **ret_notifier);
/* Ends its threads; while the workers still serve, or once the connection is over. */
void notifier_stop(struct notifier *n);
struct notifier *notifier_free(struct notifier *n);
/* Answers an xattr request once the kernel was told of everything that changed before: with a value, or (len 0) with success. */
void notifier_answer(struct notifier *n, fuse_req_t req, const void *value, size_t len);

/* ops_xattr.c */
void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags);
void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);

/* ops_data.c */
void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi);
void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_write(fuse_req_t req, fuse_ino_t ino, const char *p, size_t size, off_t off, struct fuse_file_info *fi);
void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi);
void op_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_off, struct fuse_file_info *from_fi, fuse_ino_t to,
			off_t to_off, struct fuse_file_info *to_fi, size_t len, int flags);
void op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi, unsigned flags, const void *in,
	      size_t in_len, size_t out_len);
