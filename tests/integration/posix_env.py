"""posix_env: small words for the cases of posix_names, posix_data and posix_attrs."""

import ctypes
import errno
import json
import mmap
import os
import time

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_EMPTY_PATH, AT_SYMLINK_FOLLOW = -100, 0x1000, 0x400
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT, UNSHARE = 1, 2, 8, 16, 32, 64
O_TMPFILE = 0o20200000
NOBODY, OTHER = 65534, 12345
K = 1024
ERRNO_NAMES = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}


def err(call, *args, **kwargs):
    """ "ok", or the name of the errno that the call failed with."""
    try:
        result = call(*args, **kwargs)
        if call is os.open:
            os.close(result)
        return "ok"
    except OSError as e:
        return ERRNO_NAMES[e.errno]


def checked(r, what):
    if r < 0:
        raise OSError(ctypes.get_errno(), what)
    return r


def renameat2(old, new, flags):
    checked(libc.renameat2(AT_FDCWD, old.encode(), AT_FDCWD, new.encode(), flags), "renameat2")


def fallocate(fd, mode, off, length):
    checked(libc.fallocate(fd, mode, ctypes.c_long(off), ctypes.c_long(length)), "fallocate")


def write(path, data=b"x", mode=0o644):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)
    os.write(fd, data)
    os.close(fd)
    return path


def read(path):
    with open(path, "rb") as f:
        return f.read()


def mode_of(path):
    return "%o" % os.lstat(path).st_mode


def as_user(uid, call, *args, gid=None, groups=()):
    """What `call` returns (JSON), run as another user in a child."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        try:
            os.setgroups(list(groups))
            os.setresgid(*(gid or uid,) * 3)
            os.setresuid(*(uid,) * 3)
            answer = call(*args)
        except BaseException as e:  # noqa: B902 - the parent must hear of all of them
            answer = "raised " + repr(e)
        os.write(into, json.dumps(answer).encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as f:
        answer = json.loads(f.read() or b'"died"')
    os.waitpid(pid, 0)
    return answer


def in_child(call, *args):
    return as_user(0, call, *args)


def aligned(data):
    buf = mmap.mmap(-1, len(data))
    buf.write(data)
    return buf


def which_times(path, change, follow=True):
    """Which of a, m, c time of `path` the change moved."""
    look = os.stat if follow else os.lstat
    before = look(path)
    time.sleep(0.02)
    change()
    after = look(path)
    names = {"a": "st_atime_ns", "m": "st_mtime_ns", "c": "st_ctime_ns"}
    assert all(getattr(after, n) >= getattr(before, n) for n in names.values()), "time went backwards"
    return "".join(k for k, n in names.items() if getattr(after, n) != getattr(before, n))
