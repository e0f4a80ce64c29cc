/*
 * store_dir_env.c: the system calls that a directory as an object store makes, through wrappers (ld's --wrap), so that each of
 * them can fail, or be where the process dies.
 */
#include "tests/unit/store_dir_env.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

_Thread_local struct store_fault fault;

/* What happens to this call: 0, or -1 with errno set. */
static int before(void)
{
	if (!fault.armed || fault.late || --fault.countdown)
		return 0;
	fault.hit = true;
	if (fault.die)
		_exit(0);
	errno = fault.error;
	return -1;
}
static int after(int result)
{
	if (!fault.armed || !fault.late || --fault.countdown)
		return result;
	fault.hit = true;
	if (fault.die)
		_exit(0);
	errno = fault.error;
	return -1;
}

int __real_openat64(int dir, const char *name, int flags, mode_t mode);
int __wrap_openat64(int dir, const char *name, int flags, mode_t mode);
int __wrap_openat64(int dir, const char *name, int flags, mode_t mode)
{
	return before() ? -1 : __real_openat64(dir, name, fault.no_flush ? flags & ~O_DIRECT : flags, mode);
}
int __real_open64(const char *name, int flags, mode_t mode);
int __wrap_open64(const char *name, int flags, mode_t mode);
int __wrap_open64(const char *name, int flags, mode_t mode)
{
	return before() ? -1 : __real_open64(name, flags, mode);
}
int __real_mkdirat(int dir, const char *name, mode_t mode);
int __wrap_mkdirat(int dir, const char *name, mode_t mode);
int __wrap_mkdirat(int dir, const char *name, mode_t mode)
{
	return before() ? -1 : after(__real_mkdirat(dir, name, mode));
}
int __real_fallocate64(int fd, int mode, off_t off, off_t len);
int __wrap_fallocate64(int fd, int mode, off_t off, off_t len);
int __wrap_fallocate64(int fd, int mode, off_t off, off_t len)
{
	return before() ? -1 : after(__real_fallocate64(fd, mode, off, len));
}
ssize_t __wrap_write(int fd, const void *p, size_t len);
ssize_t __wrap_write(int fd, const void *p, size_t len)
{
	if (before())
		return -1;
	return __real_write(fd, p, fault.short_io && len > 1 ? len / 2 : len);
}
ssize_t __real_pread64(int fd, void *p, size_t len, off_t off);
ssize_t __wrap_pread64(int fd, void *p, size_t len, off_t off);
ssize_t __wrap_pread64(int fd, void *p, size_t len, off_t off)
{
	if (before())
		return -1;
	ssize_t n = __real_pread64(fd, p, len, off);
	if (fault.damage && n > 0)
		((char *)p)[n - 1] ^= 1;
	return n;
}
int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
	return before() ? -1 : after(fault.no_flush ? 0 : __real_fsync(fd));
}
int __real_posix_fadvise64(int fd, off_t off, off_t len, int advice);
int __wrap_posix_fadvise64(int fd, off_t off, off_t len, int advice);
int __wrap_posix_fadvise64(int fd, off_t off, off_t len, int advice)
{
	return fault.no_flush ? 0 : __real_posix_fadvise64(fd, off, len, advice);
}
int __real_renameat(int a, const char *from, int b, const char *to);
int __wrap_renameat(int a, const char *from, int b, const char *to);
int __wrap_renameat(int a, const char *from, int b, const char *to)
{
	return before() ? -1 : after(__real_renameat(a, from, b, to));
}
int __real_renameat2(int a, const char *from, int b, const char *to, unsigned flags);
int __wrap_renameat2(int a, const char *from, int b, const char *to, unsigned flags);
int __wrap_renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
	if (before())
		return -1;
	if (fault.no_rename) {
		errno = EINVAL;
		return -1;
	}
	return after(__real_renameat2(a, from, b, to, flags));
}
int __real_linkat(int a, const char *from, int b, const char *to, int flags);
int __wrap_linkat(int a, const char *from, int b, const char *to, int flags);
int __wrap_linkat(int a, const char *from, int b, const char *to, int flags)
{
	if (before())
		return -1;
	if (fault.no_link) {
		errno = EPERM;
		return -1;
	}
	return after(__real_linkat(a, from, b, to, flags));
}
