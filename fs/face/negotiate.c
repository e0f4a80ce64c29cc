/*
 * negotiate.c: what is agreed with the kernel in INIT.
 *
 * FLUSH may be refused only where close(2) still writes the file's dirty pages without it: Linux 5.16 and later do
 * (fuse_flush() writes back before it looks at no_flush), earlier kernels skip both.
 *
 * Whoever sets an access ACL and is not in the file's group must lose its setgid bit, or a new mask could give the group's rights
 * away.  Only the kernel knows the caller's groups and capabilities; it says so in flags of SETXATTR that libfuse 3.14 does
 * not decode, so the request is brought into its older shape, with that flag among those that libfuse passes on.
 */
#include "fs/face/face_internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/log.h"

static bool kernel_at_least(unsigned major, unsigned minor)
{
	struct utsname u;
	unsigned have_major = 0, have_minor = 0;

	if (uname(&u) < 0 || sscanf(u.release, "%u.%u", &have_major, &have_minor) != 2)
		return false;
	return have_major > major || (have_major == major && have_minor >= minor);
}

void op_init(void *userdata, struct fuse_conn_info *conn)
{
	/* Splice never won over a copy for payloads of up to 1 MiB. */
	const unsigned splice = FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE;
	struct face *f = userdata;
	/* A leader's kernel is the only writer: nothing changes behind its back.  A follower's sees sizes and times move. */
	const unsigned changes_seen = FUSE_CAP_AUTO_INVAL_DATA, changes_own = FUSE_CAP_EXPLICIT_INVAL_DATA;
	/* O_TRUNC would travel in an OPEN, which a fast mount never sees; on a follower a SETATTR refuses it. */
	const unsigned unwanted = splice | (f->follower ? changes_own : changes_seen) | FUSE_CAP_ATOMIC_O_TRUNC |
				  FUSE_CAP_HANDLE_KILLPRIV | FUSE_CAP_WRITEBACK_CACHE;
	unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS |
			  FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK | FUSE_CAP_EXPORT_SUPPORT |
			  FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_IOCTL_DIR | (f->follower ? changes_seen : changes_own);

	if (!f->read_only && !f->follower)
		wanted |= FUSE_CAP_WRITEBACK_CACHE;
	conn->want &= ~unwanted;
	conn->want |= wanted & conn->capable;
	conn->max_write = FACE_IO_MAX;
	conn->max_readahead = FACE_IO_MAX;
	conn->max_background = 64;
	conn->congestion_threshold = 60; /* read-ahead is dropped above it */
	conn->time_gran = 1;
	f->writeback = conn->want & FUSE_CAP_WRITEBACK_CACHE;
	f->no_open = !f->strict_open && !f->follower && conn->capable & FUSE_CAP_NO_OPEN_SUPPORT;
	f->no_opendir = !f->follower && conn->capable & FUSE_CAP_NO_OPENDIR_SUPPORT;
	f->no_flush = kernel_at_least(5, 16);
	log_debug("fuse: protocol 7.%u, capabilities wanted %#x of %#x", conn->proto_minor, conn->want, conn->capable);
}

/* Flags for the INIT reply beyond those libfuse 3.14 knows, out of those the kernel offered. */
uint32_t negotiate_extra_flags(struct face *f, uint32_t offered)
{
	const uint32_t extra = offered & (FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT);

	f->kill_privs = extra & FUSE_HANDLE_KILLPRIV_V2;
	f->long_setxattr = extra & FUSE_SETXATTR_EXT;
	return extra;
}

size_t negotiate_shorten_setxattr(const struct face *f, struct fuse_in_header *request, size_t len)
{
	const size_t more = sizeof(struct fuse_setxattr_in) - FUSE_COMPAT_SETXATTR_IN_SIZE;
	struct fuse_setxattr_in *in = (void *)(request + 1);
	char *rest = (char *)(in + 1);

	if (request->opcode != FUSE_SETXATTR || !f->long_setxattr || len < sizeof(*request) + sizeof(*in))
		return len;
	in->flags &= ~(uint32_t)FS_XATTR_DROP_SGID;
	if (in->setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID)
		in->flags |= FS_XATTR_DROP_SGID;
	memmove(rest - more, rest, len - sizeof(*request) - sizeof(*in));
	request->len -= (uint32_t)more;
	return len - more;
}
