/*
 * requests.h: what requests of the kernel cost: latency by operation from receipt to reply, errors, bytes, and who asks most.
 *
 * A reply that leaves in the thread that serves its request needs no lock.  One that comes later, from another thread (fsync, waits,
 * data from a store), finds its request in a table of PENDING_MAX; beyond that it is counted as `untracked` and not timed.
 * What the kernel answers from its caches never gets here.
 *
 * Threads: any.  Errors: none but of new.
 */
#pragma once

#include <jansson.h>
#include <linux/fuse.h>

#include "base/metric.h"

enum request_op {
	OP_LOOKUP,
	OP_GETATTR,
	OP_SETATTR,
	OP_READLINK,
	OP_SYMLINK,
	OP_MKNOD,
	OP_MKDIR,
	OP_UNLINK,
	OP_RMDIR,
	OP_RENAME,
	OP_LINK,
	OP_OPEN,
	OP_READ,
	OP_WRITE,
	OP_STATFS,
	OP_FSYNC,
	OP_SETXATTR,
	OP_GETXATTR,
	OP_LISTXATTR,
	OP_REMOVEXATTR,
	OP_FLUSH,
	OP_OPENDIR,
	OP_READDIR,
	OP_FALLOCATE,
	OP_LSEEK,
	OP_COPY_FILE_RANGE,
	OP_IOCTL,
	OP_OTHER,
	OP_N
};
/* What an error means to an admin. */
enum request_error {
	ERROR_IO,      /* EIO and the like: damage, a lost disk */
	ERROR_SPACE,   /* ENOSPC, EDQUOT */
	ERROR_REFUSED, /* EPERM, EACCES, EROFS */
	ERROR_ANSWER,  /* the answer to a question: ENOENT, EEXIST, ENODATA, ... */
	ERROR_N
};
extern const char *const request_op_names[OP_N];
extern const char *const request_error_names[ERROR_N];
enum request_op request_op(uint32_t opcode);
enum request_error request_error(int error); /* above 0 */

struct requests;
MUST_CHECK int requests_new(struct requests **ret);
struct requests *requests_free(struct requests *r); /* NULL is fine */

/* This thread serves the request with header `h` from now on.  `again`: it was received before, and goes on (deferred.c). */
void requests_begin(struct requests *r, const struct fuse_in_header *h, bool again);
/* The request `unique` is answered: error 0 or above, bytes of data in the answer.  From any thread. */
void requests_replied(struct requests *r, uint64_t unique, int error, uint64_t bytes);
/* It is no longer served by this thread, answered or not. */
void requests_end(struct requests *r);

void requests_latency(const struct requests *r, enum request_op op, struct histogram_view *ret); /* ns */
uint64_t requests_errors(const struct requests *r, enum request_op op, enum request_error e);
uint64_t requests_bytes(const struct requests *r, bool written);
uint64_t requests_untracked(const struct requests *r);
uint64_t requests_waiting(struct requests *r); /* received, and answered later */
struct top *requests_top(struct requests *r);
