/*
 * worker.c: the receive loop, written here and not taken from libfuse so that memory lies where direct I/O wants it.
 *
 * A request arrives as header, arguments, payload in one read(2).  The buffer begins 80 bytes (the headers of a WRITE)
 * before a block boundary, so the payload of every WRITE lies on one and goes to disk without a copy.  libfuse decodes
 * the request and calls the operation in this thread; the reply leaves through worker_writev().
 *
 *   [ page ..... | in header + WRITE header ][ payload, 1 MiB ... ][ spare ][ reply buffer, 1 MiB + 2 blocks ]
 *                ^ in                        ^ block boundary              ^ reply
 *
 * End of a worker: read(2) fails with ENODEV (unmounted or aborted), with another error (reported by face_run()), or the
 * thread is cancelled, which can only happen inside that read: a request that was received is always served.
 */
#include "fs/face/virtual.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "base/log.h"

#define WORKER_STACK  (512 * KIB)
#define WRITE_HEADERS (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))
#define REQUEST_MAX   (FACE_IO_MAX + DISK_BLOCK) /* what the kernel wants to be able to hand over, and libfuse's own size */
#define IN_OFFSET     (DISK_BLOCK - WRITE_HEADERS)
#define REPLY_OFFSET  (FACE_IO_MAX + 2 * DISK_BLOCK)
#define AREA_SIZE     (REPLY_OFFSET + FACE_IO_MAX + 2 * DISK_BLOCK)

_Static_assert(WRITE_HEADERS == 80, "the payload of a WRITE follows 80 bytes of headers");
_Static_assert(IN_OFFSET + REQUEST_MAX <= REPLY_OFFSET, "a request of the largest size stays clear of the reply buffer");
_Static_assert(REPLY_OFFSET % DISK_BLOCK == 0, "the reply buffer is aligned for direct I/O");

_Thread_local struct worker *worker_self;

/* Operations a read-only mount refuses, whatever mount(8) made of it since. */
static bool opcode_writes(uint32_t opcode)
{
	switch (opcode) {
	case FUSE_SETATTR:
	case FUSE_SYMLINK:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_RENAME:
	case FUSE_RENAME2:
	case FUSE_LINK:
	case FUSE_WRITE:
	case FUSE_SETXATTR:
	case FUSE_REMOVEXATTR:
	case FUSE_CREATE:
	case FUSE_FALLOCATE:
	case FUSE_COPY_FILE_RANGE:
	case FUSE_TMPFILE:
		return true;
	default:
		return false;
	}
}

static bool opcode_reads(uint32_t opcode)
{
	switch (opcode) {
	case FUSE_GETATTR:
	case FUSE_GETXATTR:
	case FUSE_LISTXATTR:
	case FUSE_LOOKUP:
	case FUSE_READLINK:
	case FUSE_OPEN:
	case FUSE_READ:
	case FUSE_OPENDIR:
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
	case FUSE_LSEEK:
		return true;
	default:
		return false;
	}
}

/* What the root itself tells: status and commands are attributes of it, and a path to them asks for its mode and ACL. */
static bool is_of_root(uint32_t opcode, uint64_t ino)
{
	return ino == FS_ROOT_INO && (opcode == FUSE_GETATTR || opcode == FUSE_GETXATTR || opcode == FUSE_LISTXATTR);
}

/* 0, or why this mount does not answer what reads the volume: ENOTCONN as it will say when it is gone. */
static int read_error(const struct face *f, const struct fuse_in_header *h)
{
	if (!opcode_reads(h->opcode))
		return 0;
	if (face_must_remount(f))
		return -ENOTCONN;
	return is_of_root(h->opcode, h->nodeid) || virtual_request(h) ? 0 : fs_readable(f->fs);
}

void worker_reply_error(const struct face *f, uint64_t unique, int error)
{
	const struct fuse_out_header out = {.len = sizeof(out), .error = -error, .unique = unique};
	requests_replied(f->requests, unique, error, 0);
	ssize_t n = write(f->fd, &out, sizeof(out));

	(void)n; /* fails only when the request is gone */
}

static void refuse(const struct worker *w, int e)
{
	worker_reply_error(w->face, request_header()->unique, e);
}

/* The reply to INIT is completed with flags that this libfuse cannot express. */
static void complete_init_reply(struct face *f, const struct iovec *iov, int count)
{
	const struct fuse_init_in *in = (const void *)(request_header() + 1);
	const struct fuse_out_header *header = iov[0].iov_base;

	if (count != 2 || header->error || iov[1].iov_len < offsetof(struct fuse_init_out, max_background))
		return;
	struct fuse_init_out *out = iov[1].iov_base;

	out->flags |= negotiate_extra_flags(f, in->flags);
}

static ssize_t worker_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	const struct fuse_out_header *out = iov[0].iov_base;
	struct face *f = userdata;

	if (worker_self && request_header()->opcode == FUSE_INIT)
		complete_init_reply(f, iov, count);
	requests_replied(f->requests, out->unique, -out->error, out->len - sizeof(*out));
	return writev(fd, iov, count);
}

/* libfuse wants one; the workers read by themselves. */
static ssize_t worker_read(int fd, void *p, size_t len, void *userdata)
{
	(void)userdata;
	return read(fd, p, len);
}

int worker_attach_io(struct face *f)
{
	/* Without the splice functions libfuse never splices. */
	static const struct fuse_custom_io io = {.writev = worker_writev, .read = worker_read};

	return fuse_session_custom_io(f->session, &io, f->fd);
}

static ssize_t receive(const struct worker *w)
{
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
	ssize_t n = read(w->fd, w->in, REQUEST_MAX);
	int e = errno;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	return n < 0 ? -e : n;
}

static void connection_failed(struct face *f, int error)
{
	int none = 0;

	atomic_compare_exchange_strong(&f->error, &none, error);
}

/* A request that libfuse does not have, because it is deferred. */
static bool interrupts_deferred(struct face *f)
{
	const struct fuse_in_header *in = request_header();
	const struct fuse_interrupt_in *arg = (const void *)(in + 1);

	return in->opcode == FUSE_INTERRUPT && in->len >= sizeof(*in) + sizeof(*arg) &&
	       deferrals_interrupt(f->deferrals, arg->unique);
}

static void serve(const struct worker *w, size_t len)
{
	struct face *f = w->face;
	const uint32_t opcode = request_header()->opcode;
	const struct fuse_buf buf = {.size = len, .mem = w->in};

	if (f->read_only && opcode_writes(opcode)) {
		refuse(w, EROFS);
		return;
	}
	int r = read_error(f, request_header());
	if (r < 0) {
		refuse(w, -r);
		return;
	}
	fuse_session_process_buf(f->session, &buf);
	if (opcode == FUSE_INIT) {
		if (fuse_session_exited(f->session))
			connection_failed(f, -EPROTO); /* the kernel and libfuse did not agree; it said why */
		atomic_store(&f->connected, true);
		face_wake(f);
	}
}

void worker_serve(const struct worker *w, size_t len)
{
	struct face *f = w->face;

	if (interrupts_deferred(f))
		return;
	requests_begin(f->requests, request_header(), w->lane);
	serve(w, len);
	requests_end(f->requests);
}

static void worker_ended(void *arg)
{
	const struct worker *w = arg;

	atomic_fetch_sub(&w->face->n_running, 1);
	face_wake(w->face);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	worker_self = w;
	pthread_cleanup_push(worker_ended, w);
	for (;;) {
		ssize_t n = receive(w);

		if (n >= (ssize_t)sizeof(struct fuse_in_header)) {
			worker_serve(w, negotiate_shorten_setxattr(w->face, (void *)w->in, (size_t)n));
		} else if (n == -ENODEV) {
			break;
		} else if (n >= 0 || (n != -ENOENT && n != -EINTR && n != -EAGAIN)) { /* ENOENT: the request was withdrawn */
			connection_failed(w->face, n < 0 ? (int)n : -EPROTO);
			break;
		}
	}
	pthread_cleanup_pop(1);
	return NULL;
}

static int create_thread(struct worker *w)
{
	pthread_attr_t attr;
	sigset_t all, before;
	int r = pthread_attr_init(&attr);

	if (r)
		return -r;
	/* Signals are for the thread in face_run(): no operation is interrupted by one. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_attr_setstacksize(&attr, WORKER_STACK);
	if (r == 0)
		r = pthread_create(&w->thread, &attr, worker_main, w);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return -r;
}

int worker_make_buffers(struct worker *w)
{
	void *p = mmap(NULL, AREA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	w->area = p;
	w->in = w->area + IN_OFFSET;
	w->reply = w->area + REPLY_OFFSET;
	return 0;
}

int worker_start(struct worker *w)
{
	int r = worker_make_buffers(w);

	if (r < 0)
		return r;
	atomic_fetch_add(&w->face->n_running, 1);
	r = create_thread(w);
	if (r < 0) {
		atomic_fetch_sub(&w->face->n_running, 1);
		worker_free_buffers(w);
		return r;
	}
	w->started = true;
	return 0;
}

void worker_free_buffers(struct worker *w)
{
	if (w->area)
		munmap(w->area, AREA_SIZE);
	w->area = NULL;
}
