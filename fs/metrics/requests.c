/*
 * requests.c: the times of requests, see requests.h.
 *
 * States of a request: served by the thread whose `now` it is -> answered there; or the thread is done with it and it is pending
 * -> answered by another one.  The answer may overtake the thread that serves it: it is then kept in the table as `answered`, and
 * the end of serving finds it there.
 */
#include "fs/metrics/requests.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/lock.h"
#include "base/trace.h"
#include "fs/metrics/top.h"

#define PENDING_MAX 8192u /* a power of two */
#define PROBES      16u   /* places a request may be in */

struct request {
	uint64_t unique; /* 0: none */
	enum request_op op;
	uint32_t uid, pid;
	int64_t start_ns;
	uint64_t bytes_in;
};
struct pending {
	struct request q;
	bool answered; /* by `error`, `bytes`, at `end_ns`; it is still being served */
	int error;
	uint64_t bytes;
	int64_t end_ns;
};

struct requests {
	struct histogram latency[OP_N];
	struct counter errors[OP_N][ERROR_N];
	struct counter read_bytes, written_bytes, untracked;
	struct top *top;
	struct mutex lock;
	struct pending pending[PENDING_MAX]; /* guarded by lock */
	uint64_t n_pending;                  /* guarded by lock */
};

static _Thread_local struct request now;

const char *const request_op_names[OP_N] = {
    [OP_LOOKUP] = "lookup",       [OP_GETATTR] = "getattr",
    [OP_SETATTR] = "setattr",     [OP_READLINK] = "readlink",
    [OP_SYMLINK] = "symlink",     [OP_MKNOD] = "mknod",
    [OP_MKDIR] = "mkdir",         [OP_UNLINK] = "unlink",
    [OP_RMDIR] = "rmdir",         [OP_RENAME] = "rename",
    [OP_LINK] = "link",           [OP_OPEN] = "open",
    [OP_READ] = "read",           [OP_WRITE] = "write",
    [OP_STATFS] = "statfs",       [OP_FSYNC] = "fsync",
    [OP_SETXATTR] = "setxattr",   [OP_GETXATTR] = "getxattr",
    [OP_LISTXATTR] = "listxattr", [OP_REMOVEXATTR] = "removexattr",
    [OP_FLUSH] = "flush",         [OP_OPENDIR] = "opendir",
    [OP_READDIR] = "readdir",     [OP_FALLOCATE] = "fallocate",
    [OP_LSEEK] = "lseek",         [OP_COPY_FILE_RANGE] = "copy_file_range",
    [OP_IOCTL] = "ioctl",         [OP_OTHER] = "other",
};
const char *const request_error_names[ERROR_N] = {
    [ERROR_IO] = "io", [ERROR_SPACE] = "space", [ERROR_REFUSED] = "refused", [ERROR_ANSWER] = "answer"};

/* One more than the operation; 0: OP_OTHER. */
static const uint8_t op_of[] = {
    [FUSE_LOOKUP] = OP_LOOKUP + 1,
    [FUSE_GETATTR] = OP_GETATTR + 1,
    [FUSE_SETATTR] = OP_SETATTR + 1,
    [FUSE_READLINK] = OP_READLINK + 1,
    [FUSE_SYMLINK] = OP_SYMLINK + 1,
    [FUSE_MKNOD] = OP_MKNOD + 1,
    [FUSE_MKDIR] = OP_MKDIR + 1,
    [FUSE_UNLINK] = OP_UNLINK + 1,
    [FUSE_RMDIR] = OP_RMDIR + 1,
    [FUSE_RENAME] = OP_RENAME + 1,
    [FUSE_RENAME2] = OP_RENAME + 1,
    [FUSE_LINK] = OP_LINK + 1,
    [FUSE_OPEN] = OP_OPEN + 1,
    [FUSE_READ] = OP_READ + 1,
    [FUSE_WRITE] = OP_WRITE + 1,
    [FUSE_STATFS] = OP_STATFS + 1,
    [FUSE_FSYNC] = OP_FSYNC + 1,
    [FUSE_FSYNCDIR] = OP_FSYNC + 1,
    [FUSE_SETXATTR] = OP_SETXATTR + 1,
    [FUSE_GETXATTR] = OP_GETXATTR + 1,
    [FUSE_LISTXATTR] = OP_LISTXATTR + 1,
    [FUSE_REMOVEXATTR] = OP_REMOVEXATTR + 1,
    [FUSE_FLUSH] = OP_FLUSH + 1,
    [FUSE_OPENDIR] = OP_OPENDIR + 1,
    [FUSE_READDIR] = OP_READDIR + 1,
    [FUSE_READDIRPLUS] = OP_READDIR + 1,
    [FUSE_FALLOCATE] = OP_FALLOCATE + 1,
    [FUSE_LSEEK] = OP_LSEEK + 1,
    [FUSE_COPY_FILE_RANGE] = OP_COPY_FILE_RANGE + 1,
    [FUSE_IOCTL] = OP_IOCTL + 1,
};

enum request_op request_op(uint32_t opcode)
{
	return opcode < ARRAY_SIZE(op_of) && op_of[opcode] ? (enum request_op)(op_of[opcode] - 1) : OP_OTHER;
}

enum request_error request_error(int error)
{
	switch (error) {
	case EIO:
	case EBADMSG:
	case EUCLEAN:
	case ENOMEM:
	case ENOTCONN:
	case ETIMEDOUT:
	case ESTALE:
		return ERROR_IO;
	case ENOSPC:
	case EDQUOT:
		return ERROR_SPACE;
	case EPERM:
	case EACCES:
	case EROFS:
		return ERROR_REFUSED;
	default:
		return ERROR_ANSWER;
	}
}

static bool has_reply(uint32_t opcode)
{
	return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT;
}

int requests_new(struct requests **ret)
{
	struct requests *r = aligned_alloc(64, sizeof(*r));

	_Static_assert(sizeof(*r) % 64 == 0, "aligned_alloc() wants whole multiples");
	if (!r)
		return -ENOMEM;
	memset(r, 0, sizeof(*r));
	int e = top_new(&r->top);
	if (e < 0) {
		free(r);
		return e;
	}
	mutex_init(&r->lock);
	*ret = r;
	return 0;
}

struct requests *requests_free(struct requests *r)
{
	if (!r)
		return NULL;
	r->top = top_free(r->top);
	mutex_destroy(&r->lock);
	free(r);
	return NULL;
}

/* The place of `unique`, or with 0 a free one for `hash_of`; NULL: none. */
static struct pending *find(struct requests *r, uint64_t hash_of, uint64_t unique) REQUIRES(r->lock)
{
	const uint64_t h = hash_of * UINT64_C(0x9e3779b97f4a7c15) >> 32;

	for (unsigned i = 0; i < PROBES; i++) {
		struct pending *p = &r->pending[(h + i) % PENDING_MAX];

		if (p->q.unique == unique)
			return p;
	}
	return NULL;
}

static void clear(struct requests *r, struct pending *p) REQUIRES(r->lock)
{
	p->q.unique = 0;
	r->n_pending--;
}

static bool put(struct requests *r, const struct pending *p) REQUIRES(r->lock)
{
	struct pending *at = find(r, p->q.unique, 0);

	if (!at)
		return false;
	*at = *p;
	r->n_pending++;
	return true;
}

static void account(struct requests *r, const struct request *q, int error, uint64_t bytes, int64_t end_ns)
{
	const uint64_t read = q->op == OP_READ && error == 0 ? bytes : 0, written = error == 0 ? q->bytes_in : 0;
	const uint64_t took = end_ns > q->start_ns ? (uint64_t)(end_ns - q->start_ns) : 0;

	histogram_record(&r->latency[q->op], took);
	if (error)
		counter_add(&r->errors[q->op][request_error(error)], 1);
	if (read)
		counter_add(&r->read_bytes, read);
	if (written)
		counter_add(&r->written_bytes, written);
	top_add(r->top,
		&(struct top_use){.uid = q->uid, .pid = q->pid, .op = q->op, .ns = took, .read = read, .written = written},
		end_ns);
}

void requests_begin(struct requests *r, const struct fuse_in_header *h, bool again)
{
	if (!has_reply(h->opcode)) {
		now = (struct request){0};
		trace_self = (struct trace){0};
		return;
	}
	const struct fuse_write_in *w = (const void *)(h + 1);

	now = (struct request){.unique = h->unique,
			       .op = request_op(h->opcode),
			       .uid = h->uid,
			       .pid = h->pid,
			       .start_ns = metric_now_ns(),
			       .bytes_in = h->opcode == FUSE_WRITE && h->len >= sizeof(*h) + sizeof(*w) ? w->size : 0};
	trace_self = (struct trace){.id = h->unique, .last_ns = now.op == OP_WRITE ? now.start_ns : 0};
	if (again) {
		mutex_lock(&r->lock);
		struct pending *p = find(r, h->unique, h->unique);

		if (p) {
			now.start_ns = p->q.start_ns;
			clear(r, p);
		}
		mutex_unlock(&r->lock);
	}
	TRACE_PROBE3(request, h->unique, h->opcode, h->nodeid);
}

/* By a thread that does not serve it. */
static void replied_elsewhere(struct requests *r, uint64_t unique, int error, uint64_t bytes)
{
	const struct pending answer = {
	    .q.unique = unique, .answered = true, .error = error, .bytes = bytes, .end_ns = metric_now_ns()};
	struct request q = {0};

	mutex_lock(&r->lock);
	struct pending *p = find(r, unique, unique);

	if (p) {
		q = p->q;
		clear(r, p);
	} else if (!put(r, &answer)) {
		counter_add(&r->untracked, 1);
	}
	mutex_unlock(&r->lock);
	if (q.unique)
		account(r, &q, error, bytes, answer.end_ns);
}

void requests_replied(struct requests *r, uint64_t unique, int error, uint64_t bytes)
{
	if (unique == 0 || unique & 1) /* no reply, but something the kernel is told; the answer to an INTERRUPT */
		return;
	TRACE_BATCH(reply, unique, error);
	if (unique != now.unique) {
		replied_elsewhere(r, unique, error, bytes);
		return;
	}
	if (trace_self.last_ns && error == 0)
		trace_measure(HISTOGRAM_WRITE_REPLY);
	account(r, &now, error, bytes, metric_now_ns());
	now.unique = 0;
}

void requests_end(struct requests *r)
{
	trace_self = (struct trace){0};
	if (!now.unique)
		return;
	struct pending found = {.q = now};

	mutex_lock(&r->lock);
	struct pending *p = find(r, now.unique, now.unique);
	if (p) {
		assert(p->answered);
		found = *p;
		clear(r, p);
	} else if (!put(r, &found)) {
		counter_add(&r->untracked, 1);
	}
	mutex_unlock(&r->lock);
	if (found.answered)
		account(r, &now, found.error, found.bytes, found.end_ns);
	now.unique = 0;
}

void requests_latency(const struct requests *r, enum request_op op, struct histogram_view *ret)
{
	histogram_read(&r->latency[op], ret);
}

uint64_t requests_errors(const struct requests *r, enum request_op op, enum request_error e)
{
	return counter_read(&r->errors[op][e]);
}

uint64_t requests_bytes(const struct requests *r, bool written)
{
	return counter_read(written ? &r->written_bytes : &r->read_bytes);
}

uint64_t requests_untracked(const struct requests *r)
{
	return counter_read(&r->untracked);
}

uint64_t requests_waiting(struct requests *r)
{
	mutex_lock(&r->lock);
	uint64_t n = r->n_pending;
	mutex_unlock(&r->lock);
	return n;
}

struct top *requests_top(struct requests *r)
{
	return r->top;
}
