"""posix_cases: what a Linux program expects of a filesystem, as a table of small functions.

Each case_X(d) works in the empty directory `d`, asserts what must hold everywhere, and returns a value that is compared with
the one it returned on the host's ext4: so each difference between the two is seen, also where nobody thought of asserting.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import time

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_EMPTY_PATH, AT_SYMLINK_FOLLOW = -100, 0x1000, 0x400
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT, UNSHARE = 1, 2, 8, 16, 32, 64
O_TMPFILE = 0o20200000
NOBODY, OTHER = 65534, 12345
K = 1024
ERRNO_NAMES = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}


# ---- small words ----


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


# ---- names ----


def case_hard_links(d):
    write(d + "/a", b"one")
    os.link(d + "/a", d + "/b")
    os.mkdir(d + "/dir")
    os.link(d + "/b", d + "/dir/c")
    assert os.stat(d + "/a").st_nlink == 3 and os.stat(d + "/dir/c").st_ino == os.stat(d + "/a").st_ino
    write(d + "/b", b"two")
    assert read(d + "/dir/c") == b"two"
    os.unlink(d + "/a")
    os.rename(d + "/b", d + "/e")
    return [os.stat(d + "/e").st_nlink, err(os.link, d + "/e", d + "/dir/c"), err(os.link, d + "/dir", d + "/dir2"),
            err(os.link, d + "/none", d + "/x"), err(os.link, d + "/e", d + "/none/x"), sorted(os.listdir(d))]


def case_many_links_to_one_file(d):
    write(d + "/f")
    for i in range(2000):
        os.link(d + "/f", d + "/l%d" % i)
    n = os.stat(d + "/f").st_nlink
    for i in range(0, 2000, 2):
        os.unlink(d + "/l%d" % i)
    return [n, os.stat(d + "/l1").st_nlink]


def case_directory_link_counts(d):
    os.mkdir(d + "/p")
    counts = [os.stat(d + "/p").st_nlink]
    for name in "abc":
        os.mkdir(d + "/p/" + name)
        counts.append(os.stat(d + "/p").st_nlink)
    os.rename(d + "/p/a", d + "/moved")
    counts.append(os.stat(d + "/p").st_nlink)
    os.rename(d + "/p/b", d + "/p/c")
    counts.append(os.stat(d + "/p").st_nlink)
    os.rmdir(d + "/p/c")
    counts.append(os.stat(d + "/p").st_nlink)
    return counts


def case_symlinks(d):
    for n in (1, 59, 60, 100, 4095):
        os.symlink("t" * n, d + "/s%d" % n)
        assert os.readlink(d + "/s%d" % n) == "t" * n and os.lstat(d + "/s%d" % n).st_size == n
    write(d + "/file", b"data")
    os.symlink("file", d + "/good")
    os.symlink("loop", d + "/loop")
    os.link(d + "/good", d + "/good2", follow_symlinks=False)
    os.lchown(d + "/good", 7, 8)
    st = os.lstat(d + "/good2")
    return [err(os.symlink, "t" * 4096, d + "/long"), err(os.symlink, "", d + "/empty"), err(os.symlink, "x", d + "/good"),
            read(d + "/good").decode(), err(os.stat, d + "/loop"), err(os.readlink, d + "/file"), err(os.stat, d + "/s1"),
            st.st_uid, st.st_gid, st.st_nlink, mode_of(d + "/good"), err(os.open, d + "/good", os.O_RDONLY | os.O_NOFOLLOW)]


def case_names(d):
    b = d.encode()
    names = [b"n" * 255, b"\xff\xfe\x01", b"a\nb", b"-rf", "größe".encode(), b" ", b"a" * 254 + b".", b"...", b"x\\y", b"CON:"]
    for n in names:
        os.close(os.open(b + b"/" + n, os.O_CREAT | os.O_WRONLY, 0o600))
    assert sorted(os.listdir(b)) == sorted(names)
    for n in names:
        os.rename(b + b"/" + n, b + b"/tmp")
        os.rename(b + b"/tmp", b + b"/" + n)
        os.unlink(b + b"/" + n)
    long = "n" * 256
    return [err(write, d + "/" + long), err(os.mkdir, d + "/" + long), err(os.symlink, "x", d + "/" + long), err(os.stat, d + "/" + long),
            err(os.mkdir, d + "/."), err(os.mkdir, d + "/.."), err(os.rmdir, d + "/."), err(os.rmdir, d + "/.."),
            err(os.unlink, d + "/."), err(os.rename, d + "/.", d + "/x"), err(write, d + "/none/x"), err(os.mkdir, d + "/x/"),
            err(os.unlink, d + "/x/"), err(os.stat, d + "/x/."), err(os.open, d + "/new/", os.O_CREAT | os.O_WRONLY)]


def case_long_paths(d):
    fd = os.open(d, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("p" * 250, dir_fd=fd)
        deeper = os.open("p" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    f = os.open("file", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd)
    os.write(f, b"deep")
    os.close(f)
    os.rename("file", "file2", src_dir_fd=fd, dst_dir_fd=fd)
    size = os.stat("file2", dir_fd=fd).st_size
    os.close(fd)
    shutil.rmtree(d + "/" + "p" * 250)
    return size


def case_errors_by_type(d):
    os.mkdir(d + "/dir")
    write(d + "/dir/f")
    write(d + "/file")
    return [err(os.rmdir, d + "/dir"), err(os.rmdir, d + "/file"), err(os.unlink, d + "/dir"), err(os.open, d + "/dir", os.O_WRONLY),
            err(os.open, d + "/file", os.O_RDONLY | os.O_DIRECTORY), err(os.listdir, d + "/file"), err(os.stat, d + "/file/x"),
            err(os.mkdir, d + "/file"), err(os.mkdir, d + "/file/x"), err(os.open, d + "/file", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
            err(os.open, d + "/dir", os.O_CREAT | os.O_RDONLY), err(os.truncate, d + "/dir", 0), err(os.read, os.open(d, os.O_RDONLY), 1),
            err(os.open, d + "/none", os.O_RDONLY), err(os.truncate, d + "/file", -1)]


def case_rename(d):
    out = []
    os.mkdir(d + "/a")
    os.mkdir(d + "/b")
    os.mkdir(d + "/full")
    write(d + "/full/x")
    write(d + "/f", b"f")
    write(d + "/g", b"g")
    for old, new in (("a", "a/below"), ("a", "full"), ("full", "a"), ("a", "f"), ("f", "a"), ("none", "x"), ("f", "none/x"), ("f", "g"),
                     ("a/x", "b/x"), ("b", "b")):
        out.append([old, new, err(os.rename, d + "/" + old, d + "/" + new)])
    os.link(d + "/g", d + "/same")
    out.append(err(os.rename, d + "/g", d + "/same"))
    out.append(sorted(os.listdir(d)))
    out.append(read(d + "/g").decode())
    return out


def case_rename_flags(d):
    write(d + "/a", b"a")
    write(d + "/b", b"b")
    os.mkdir(d + "/dir")
    write(d + "/dir/in")
    out = [err(renameat2, d + "/a", d + "/b", RENAME_NOREPLACE), err(renameat2, d + "/a", d + "/c", RENAME_NOREPLACE),
           err(renameat2, d + "/c", d + "/b", RENAME_EXCHANGE)]
    assert read(d + "/c") == b"b" and read(d + "/b") == b"a"
    out += [err(renameat2, d + "/b", d + "/dir", RENAME_EXCHANGE), os.listdir(d + "/b"), mode_of(d + "/dir")[:2],
            err(renameat2, d + "/b", d + "/b/in", RENAME_EXCHANGE), err(renameat2, d + "/b", d + "/none", RENAME_EXCHANGE),
            err(renameat2, d + "/b", d + "/c", RENAME_EXCHANGE | RENAME_NOREPLACE), os.stat(d).st_nlink]
    return out


def case_rename_whiteout(d):
    write(d + "/a", b"a")
    r = err(renameat2, d + "/a", d + "/b", RENAME_WHITEOUT)
    st = os.lstat(d + "/a")
    return [r, stat.S_ISCHR(st.st_mode), st.st_rdev, read(d + "/b").decode()]


def case_unlinked_but_open(d):
    write(d + "/f", b"before")
    fd = os.open(d + "/f", os.O_RDWR)
    os.unlink(d + "/f")
    assert not os.path.exists(d + "/f") and os.fstat(fd).st_nlink == 0
    os.pwrite(fd, b"after" * 30000, 3)
    os.fsync(fd)
    assert os.pread(fd, 8, 0) == b"befafter" and os.fstat(fd).st_size == 150003
    os.ftruncate(fd, 10)
    os.fchmod(fd, 0o600)
    m = mmap.mmap(fd, 10)
    m[0:1] = b"M"
    m.flush()
    again = os.open("/proc/self/fd/%d" % fd, os.O_RDONLY)
    out = [os.read(again, 20).decode(), os.fstat(fd).st_nlink, os.listdir(d)]
    write(d + "/g", b"old")
    held = os.open(d + "/g", os.O_RDONLY)
    write(d + "/h", b"new")
    os.rename(d + "/h", d + "/g")
    out += [os.read(held, 9).decode(), read(d + "/g").decode(), os.fstat(held).st_nlink]
    m.close()
    for x in (fd, again, held):
        os.close(x)
    return out


def case_removed_working_directory(d):
    def child():
        os.mkdir(d + "/gone")
        os.chdir(d + "/gone")
        os.rmdir(d + "/gone")
        return [err(os.getcwd), err(os.listdir, "."), err(write, "x"), err(os.mkdir, "y"), os.stat(".").st_nlink, err(os.stat, "..")]
    return in_child(child)


def case_temporary_file(d):
    fd = os.open(d, O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"anonymous")
    out = [os.listdir(d), os.fstat(fd).st_nlink]
    checked(libc.linkat(AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, (d + "/named").encode(), AT_SYMLINK_FOLLOW), "linkat")
    os.close(fd)
    return out + [read(d + "/named").decode()]


def case_fifos(d):
    os.mkfifo(d + "/p", 0o640)
    pid = os.fork()
    if pid == 0:
        with open(d + "/p", "wb") as f:
            f.write(b"through the pipe")
        os._exit(0)
    data = read(d + "/p")
    os.waitpid(pid, 0)
    return [data.decode(), mode_of(d + "/p"), err(os.open, d + "/p", os.O_WRONLY | os.O_NONBLOCK), os.stat(d + "/p").st_size]


def case_sockets(d):
    os.chdir(d)
    with socket.socket(socket.AF_UNIX) as s, socket.socket(socket.AF_UNIX) as c:
        s.bind("sock")
        s.listen(1)
        c.connect("sock")
        c.send(b"hello")
        peer, _ = s.accept()
        data = peer.recv(9)
        peer.close()
    os.chdir("/")
    with socket.socket(socket.AF_UNIX) as again:
        os.chdir(d)
        bound = err(again.bind, "sock")
        os.chdir("/")
    return [data.decode(), mode_of(d + "/sock")[:2], bound, err(os.open, d + "/sock", os.O_RDONLY)]


def case_device_nodes(d):
    os.mknod(d + "/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(d + "/block", stat.S_IFBLK | 0o600, os.makedev(259, 70000))
    os.mknod(d + "/reg", stat.S_IFREG | 0o644)
    with open(d + "/null", "r+b", buffering=0) as f:
        wrote, got = f.write(b"x"), f.read()
    return [mode_of(d + "/null"), os.stat(d + "/null").st_rdev, mode_of(d + "/block"), os.stat(d + "/block").st_rdev, wrote, got.decode(),
            mode_of(d + "/reg"), as_user(NOBODY, err, os.mknod, d + "/x", stat.S_IFCHR | 0o666, 259)]


def case_readdir_while_entries_come_and_go(d):
    stay = {"stay%d" % i for i in range(3000)}
    go = ["go%d" % i for i in range(1000)]
    for n in list(stay) + go:
        os.close(os.open(d + "/" + n, os.O_CREAT | os.O_WRONLY, 0o600))
    seen, i = [], 0
    with os.scandir(d) as entries:
        for e in entries:
            seen.append(e.name)
            i += 1
            if i % 4 == 0 and go:
                os.unlink(d + "/" + go.pop())
            if i % 3 == 0 and i < 2000:
                write(d + "/new%d" % i)
            if i % 100 == 0 and i < 2000:
                os.rename(d + "/new%d" % (i // 3 * 3), d + "/renamed%d" % i)
    assert len(seen) == len(set(seen)), "an entry was shown twice"
    assert stay <= set(seen), "an entry was skipped"
    return len(stay & set(seen))


def case_rewinddir_sees_changes(d):
    for i in range(300):
        write(d + "/f%d" % i)
    fd = os.open(d, os.O_RDONLY)
    first = len(os.listdir(fd))
    for i in range(100):
        os.unlink(d + "/f%d" % i)
    write(d + "/new")
    os.lseek(fd, 0, os.SEEK_SET)
    second = sorted(os.listdir(fd))
    os.close(fd)
    return [first, len(second), "new" in second]


def case_remove_all_while_reading(d):
    for i in range(5000):
        write(d + "/f%d" % i, b"")
    subprocess.run(["rm", "-rf", d + "/."], stderr=subprocess.DEVNULL)
    shutil.rmtree(d, ignore_errors=False)
    os.mkdir(d)
    return os.listdir(d)


# ---- data ----


def case_open_flags(d):
    write(d + "/f", b"content")
    os.close(os.open(d + "/f", os.O_RDONLY | os.O_TRUNC))
    size = os.stat(d + "/f").st_size
    p = os.open(d + "/f", os.O_PATH)
    w, r = os.open(d + "/f", os.O_WRONLY), os.open(d + "/f", os.O_RDONLY)
    out = [size, err(os.read, p, 1), err(os.read, w, 1), err(os.write, r, b"x"), err(os.ftruncate, r, 3), os.fstat(p).st_size,
           os.read(r, 10).decode(), os.write(w, b"")]
    for fd in (p, w, r):
        os.close(fd)
    return out


def case_truncate(d):
    write(d + "/f", b"a" * 10000)
    os.truncate(d + "/f", 5000)
    os.truncate(d + "/f", 9000)
    assert read(d + "/f") == b"a" * 5000 + bytes(4000)
    os.truncate(d + "/f", 0)
    os.truncate(d + "/f", 300000)
    with open(d + "/f", "r+b") as f:
        f.seek(299999)
        f.write(b"end")
    data = read(d + "/f")
    assert data == bytes(299999) + b"end"
    # Bytes past the end, written through a mapping, must not come back when the file grows.
    fd = os.open(d + "/f", os.O_RDWR)
    os.ftruncate(fd, 100)
    m = mmap.mmap(fd, 100)
    m[50:100] = b"m" * 50
    m.flush()
    m.close()
    os.ftruncate(fd, 60)
    os.ftruncate(fd, 8192)
    assert os.pread(fd, 8192, 0) == bytes(50) + b"m" * 10 + bytes(8132)
    os.close(fd)
    return [len(data), os.stat(d + "/f").st_size]


def case_file_size_limit(d):
    def child():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
        fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR, 0o600)
        first = os.pwrite(fd, b"x" * 60000, 0)
        second = os.pwrite(fd, b"x" * 60000, 60000)
        return [first, second, err(os.pwrite, fd, b"x", 100000), err(os.ftruncate, fd, 200000), os.fstat(fd).st_size]
    return in_child(child)


def case_concurrent_appends_stay_whole(d):
    lines = 400
    pids = []
    for who in range(4):
        pid = os.fork()
        if pid == 0:
            fd = os.open(d + "/log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
            for i in range(lines):
                os.write(fd, (b"%d-%04d-" % (who, i)).ljust(97, b"x") + b"\n")
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    found = read(d + "/log").splitlines()
    assert all(len(line) == 97 for line in found), "a line is torn"
    assert len(set(found)) == len(found) == 4 * lines, "%d lines" % len(set(found))
    return len(found)


def case_append_ignores_offset(d):
    fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
    os.write(fd, b"one")
    os.pwrite(fd, b"two", 0)
    other = os.open(d + "/f", os.O_WRONLY)
    os.pwrite(other, b"X", 0)
    os.pwritev(other, [b"end"], 0, os.RWF_APPEND)
    out = [os.pread(fd, 20, 0).decode(), os.lseek(fd, 0, os.SEEK_CUR)]
    os.close(fd)
    os.close(other)
    return out


def case_direct_io(d):
    fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR | os.O_DIRECT, 0o600)
    data = os.urandom(256 * K)
    assert os.pwritev(fd, [aligned(data)], 0) == len(data)
    assert os.pwritev(fd, [aligned(b"y" * 4096)], 8192) == 4096
    want = data[:8192] + b"y" * 4096 + data[12288:]
    assert read(d + "/f") == want
    back = mmap.mmap(-1, 256 * K)
    assert os.preadv(fd, [back], 0) == 256 * K and back[:] == want
    got = os.preadv(fd, [back], 252 * K)
    past = os.preadv(fd, [back], 256 * K)
    # Both ways into the same file, one after the other.
    with open(d + "/f", "r+b") as f:
        f.seek(100)
        f.write(b"buffered")
    os.preadv(fd, [back], 0)
    assert back[100:108] == b"buffered"
    os.pwritev(fd, [aligned(b"z" * 4096)], 0)
    assert read(d + "/f")[:4096] == b"z" * 4096
    os.close(fd)
    return [got, past]


def case_direct_io_unaligned(d):
    write(d + "/f", b"0" * 9000)
    fd = os.open(d + "/f", os.O_RDWR | os.O_DIRECT)
    return [err(os.pwrite, fd, b"x" * 100, 3), err(os.pread, fd, 100, 3)]


def case_synchronous_writes(d):
    out = []
    for flag in (os.O_SYNC, os.O_DSYNC, os.O_SYNC | os.O_APPEND, os.O_DSYNC | os.O_DIRECT):
        fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR | flag, 0o600)
        out.append(os.pwritev(fd, [aligned(b"s" * 8192)], 0))
        os.close(fd)
    fd = os.open(d + "/f", os.O_RDWR)
    out.append(os.pwritev(fd, [b"r" * 100], 7, os.RWF_DSYNC))
    out.append(os.pwritev(fd, [b"r" * 100], 7, os.RWF_SYNC))
    return out + [os.fstat(fd).st_size, err(os.fdatasync, fd)]


def case_fsync_of_everything(d):
    write(d + "/f")
    os.mkfifo(d + "/p")
    fds = [os.open(d, os.O_RDONLY), os.open(d + "/f", os.O_RDONLY), os.open(d + "/f", os.O_WRONLY), os.open(d + "/p", os.O_RDWR)]
    out = [[err(os.fsync, fd), err(os.fdatasync, fd)] for fd in fds]
    out.append(libc.syncfs(fds[0]))
    out.append(libc.sync_file_range(fds[2], ctypes.c_long(0), ctypes.c_long(1), 7))
    for fd in fds:
        os.close(fd)
    return out


def case_shared_mappings(d):
    write(d + "/f", bytes(3 * 4096 + 100))
    fd = os.open(d + "/f", os.O_RDWR)
    m = mmap.mmap(fd, 0)
    m[4096:4100] = b"mmap"
    assert os.pread(fd, 4, 4096) == b"mmap"
    os.pwrite(fd, b"pwrite", 9000)
    assert m[9000:9006] == b"pwrite"

    def child():
        other = mmap.mmap(os.open(d + "/f", os.O_RDWR), 0)
        other[0:5] = b"child"
        return other[9000:9006].decode()
    seen = in_child(child)
    assert m[0:5] == b"child"
    m.flush()
    m.close()
    os.close(fd)
    tail = read(d + "/f")
    return [seen, tail[0:5].decode(), tail[4096:4100].decode(), len(tail)]


def case_private_mappings(d):
    write(d + "/f", b"original" * 1000)
    fd = os.open(d + "/f", os.O_RDONLY)
    m = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    m[0:4] = b"mine"
    m.close()
    os.close(fd)
    return read(d + "/f")[:8].decode()


def case_mapping_past_the_end_faults(d):
    def child(pipe):
        fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR, 0o600)
        os.ftruncate(fd, 8192)
        m = mmap.mmap(fd, 8192)
        m[5000] = 1
        os.ftruncate(fd, 100)
        os.write(pipe, b"t")
        m[5000]
        os.write(pipe, b"!")
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        child(w)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    os.close(w)
    out = [os.read(r, 9).decode(), os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0]
    os.close(r)
    return out


def case_executables(d):
    shutil.copy("/bin/true", d + "/true")
    os.chmod(d + "/true", 0o755)
    shutil.copy("/bin/sleep", d + "/sleep")
    os.chmod(d + "/sleep", 0o755)
    write(d + "/script", b"#!/bin/sh\nexit 7\n", 0o755)
    os.chmod(d + "/script", 0o755)
    p = subprocess.Popen([d + "/sleep", "30"])
    time.sleep(0.1)
    busy = err(os.open, d + "/sleep", os.O_WRONLY)
    p.kill()
    p.wait()
    os.chmod(d + "/script", 0o644)
    return [subprocess.run([d + "/true"]).returncode, busy, err(subprocess.run, [d + "/script"]),
            subprocess.run(["sh", d + "/script"]).returncode]


def case_fallocate(d):
    fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR, 0o600)
    out = []
    fallocate(fd, 0, 0, 100 * K)
    os.fsync(fd)
    out.append([os.fstat(fd).st_size, os.fstat(fd).st_blocks >= 200])
    assert os.pread(fd, 200 * K, 0) == bytes(100 * K)
    fallocate(fd, KEEP_SIZE, 0, 400 * K)
    os.fsync(fd)
    out.append([os.fstat(fd).st_size, os.fstat(fd).st_blocks >= 800])
    os.pwrite(fd, b"d" * 100 * K, 0)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 10 * K, 20 * K)
    assert os.pread(fd, 100 * K, 0) == b"d" * 10 * K + bytes(20 * K) + b"d" * 70 * K
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 50 * K + 7, 11)
    assert os.pread(fd, 100 * K, 0)[50 * K:50 * K + 30] == b"d" * 7 + bytes(11) + b"d" * 12
    fallocate(fd, ZERO_RANGE, 90 * K, 20 * K)
    assert os.fstat(fd).st_size == 110 * K and os.pread(fd, 30 * K, 80 * K) == b"d" * 10 * K + bytes(20 * K)
    fallocate(fd, ZERO_RANGE | KEEP_SIZE, 100 * K + 5, 100 * K)
    assert os.fstat(fd).st_size == 110 * K
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 1000 * K)
    os.fsync(fd)
    assert os.pread(fd, 200 * K, 0) == bytes(110 * K)
    out.append([err(fallocate, fd, PUNCH_HOLE, 0, 4096), err(fallocate, fd, 0, 0, 0),
                err(fallocate, fd, 0, -1, 10), err(fallocate, os.open(d + "/f", os.O_RDONLY), 0, 0, 10)])
    os.close(fd)
    return out


def case_fallocate_collapse_and_insert(d):
    write(d + "/f", b"a" * 4096 + b"b" * 4096 + b"c" * 4096)
    fd = os.open(d + "/f", os.O_RDWR)
    return [err(fallocate, fd, COLLAPSE, 4096, 4096), err(fallocate, fd, INSERT, 0, 4096), os.fstat(fd).st_size]


def case_seek_data_and_hole(d):
    fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR, 0o600)
    os.pwrite(fd, b"x" * 64 * K, 0)
    os.pwrite(fd, b"y" * 64 * K, 1024 * K)
    os.ftruncate(fd, 4096 * K)
    os.fsync(fd)
    out = []
    for off in (0, 1, 64 * K, 500 * K, 1024 * K, 1087 * K, 1088 * K, 4000 * K, 4096 * K - 1):
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            try:
                out.append(os.lseek(fd, off, whence))
            except OSError as e:
                out.append(ERRNO_NAMES[e.errno])
    out += [err(os.lseek, fd, 4096 * K, os.SEEK_DATA), err(os.lseek, fd, 4096 * K, os.SEEK_HOLE), err(os.lseek, fd, -1, os.SEEK_SET)]
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 16 * K, 16 * K)
    out += [os.lseek(fd, 0, os.SEEK_HOLE), os.lseek(fd, 16 * K, os.SEEK_DATA)]
    os.close(fd)
    return out


def case_seek_sees_unsynced_data(d):
    fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR, 0o600)
    os.pwrite(fd, b"x" * 4096, 1 << 20)
    return [os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 1 << 20, os.SEEK_HOLE)]


def case_sparse_file_of_16_tib(d):
    fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR, 0o600)
    far = (16 << 40) - 8192
    os.pwrite(fd, b"far" * 1000, far)
    os.pwrite(fd, b"near", 0)
    os.fsync(fd)
    out = [os.fstat(fd).st_size, os.fstat(fd).st_blocks <= 64, os.pread(fd, 3, far).decode(), os.pread(fd, 10, 8 << 40) == bytes(10),
           os.lseek(fd, 4096, os.SEEK_DATA) <= far, os.lseek(fd, 0, os.SEEK_HOLE)]
    os.ftruncate(fd, 5 << 40)
    out += [os.pread(fd, 4, 0).decode(), os.fstat(fd).st_size]
    os.close(fd)
    began = time.monotonic()
    os.unlink(d + "/f")
    assert time.monotonic() - began < 5
    return out


def case_copy_file_range(d):
    data = os.urandom(700 * K)
    write(d + "/a", data)
    a, b = os.open(d + "/a", os.O_RDWR), os.open(d + "/b", os.O_CREAT | os.O_RDWR, 0o600)
    done = 0
    while done < len(data):
        n = os.copy_file_range(a, b, len(data) - done, done, done)
        assert n > 0
        done += n
    assert read(d + "/b") == data
    n = os.copy_file_range(a, b, 1000, 5, 300001)
    assert read(d + "/b")[300001:300001 + n] == data[5:5 + n]
    within = os.copy_file_range(a, a, 4096, 0, 500 * K)
    assert read(d + "/a")[500 * K:500 * K + within] == data[:within]
    append = os.open(d + "/b", os.O_WRONLY | os.O_APPEND)
    out = [n, within, err(os.copy_file_range, a, a, 4096, 0, 100), err(os.copy_file_range, a, append, 10, 0, 0),
           os.copy_file_range(a, b, 100, 10 << 20, 0), err(os.copy_file_range, b, os.open(d + "/a", os.O_RDONLY), 1, 0, 0)]
    for fd in (a, b, append):
        os.close(fd)
    return out


def case_sendfile_and_splice(d):
    data = os.urandom(200 * K)
    write(d + "/a", data)
    a, b = os.open(d + "/a", os.O_RDONLY), os.open(d + "/b", os.O_CREAT | os.O_RDWR, 0o600)
    done = 0
    while done < len(data):
        done += os.sendfile(b, a, done, len(data) - done)
    assert read(d + "/b") == data
    r, w = os.pipe()
    os.splice(a, w, 4096, 1000)
    c = os.open(d + "/c", os.O_CREAT | os.O_RDWR, 0o600)
    n = os.splice(r, c, 4096)
    assert read(d + "/c") == data[1000:1000 + n]
    for fd in (a, b, c, r, w):
        os.close(fd)
    return n


def case_reads_at_the_end(d):
    write(d + "/f", b"0123456789")
    fd = os.open(d + "/f", os.O_RDONLY)
    one, two = bytearray(6), bytearray(10)
    out = [os.pread(fd, 100, 8).decode(), os.pread(fd, 5, 10).decode(), os.pread(fd, 5, 1 << 40).decode(), os.preadv(fd, [one, two], 0),
           err(os.pread, fd, 1, -1)]
    os.close(fd)
    return out


# ---- locks ----


def _lock_in_child(path, kind):
    def child():
        fd = os.open(path, os.O_RDWR)
        if kind == "flock":
            return err(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if kind == "flock-shared":
            return err(fcntl.flock, fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        lock = struct.pack("hhllhh", fcntl.F_WRLCK, 0, 10, 10, 0, 0)
        return err(fcntl.fcntl, fd, fcntl.F_OFD_SETLK if kind == "ofd" else fcntl.F_SETLK, lock)
    return in_child(child)


def case_locks(d):
    write(d + "/f", b"x" * 100)
    fd = os.open(d + "/f", os.O_RDWR)
    out = []
    fcntl.flock(fd, fcntl.LOCK_EX)
    out += [_lock_in_child(d + "/f", "flock"), _lock_in_child(d + "/f", "posix")]
    fcntl.flock(fd, fcntl.LOCK_SH)
    out += [_lock_in_child(d + "/f", "flock"), _lock_in_child(d + "/f", "flock-shared")]
    fcntl.flock(fd, fcntl.LOCK_UN)
    fcntl.lockf(fd, fcntl.LOCK_EX, 5, 12)
    out += [_lock_in_child(d + "/f", "posix"), _lock_in_child(d + "/f", "ofd"), _lock_in_child(d + "/f", "flock")]
    fcntl.lockf(fd, fcntl.LOCK_UN, 5, 12)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhllhh", fcntl.F_WRLCK, 0, 15, 1, 0, 0))
    out += [_lock_in_child(d + "/f", "posix"), _lock_in_child(d + "/f", "ofd")]
    os.close(fd)
    return out + [_lock_in_child(d + "/f", "ofd"), _lock_in_child(d + "/f", "flock")]


def case_a_waiting_lock_is_woken(d):
    write(d + "/f", b"x")
    fd = os.open(d + "/f", os.O_RDWR)
    out = []
    for take in (lambda f, how: fcntl.flock(f, how), lambda f, how: fcntl.lockf(f, how)):
        take(fd, fcntl.LOCK_EX)
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            mine = os.open(d + "/f", os.O_RDWR)
            take(mine, fcntl.LOCK_EX)
            os.write(w, b"got it")
            os._exit(0)
        early = select.select([r], [], [], 0.2)[0]
        take(fd, fcntl.LOCK_UN)
        out += [bool(early), os.read(r, 9).decode()]
        os.waitpid(pid, 0)
        os.close(r)
        os.close(w)
    os.close(fd)
    return out


# ---- attributes ----


def case_times_are_exact(d):
    write(d + "/f")
    os.symlink("f", d + "/s")
    out = []
    for t in (0, 1, 123456789, 1234567890123456789, 2**31 * 10**9, 2**32 * 10**9 + 7, -5 * 10**9, -1):
        os.utime(d + "/f", ns=(t, t + 999))
        st = os.stat(d + "/f")
        out.append([st.st_atime_ns == t, st.st_mtime_ns == t + 999])
    os.utime(d + "/s", ns=(11, 22), follow_symlinks=False)
    st = os.lstat(d + "/s")
    os.mkdir(d + "/dir")
    os.utime(d + "/dir", ns=(33, 44))
    return out + [st.st_atime_ns, st.st_mtime_ns, os.stat(d + "/dir").st_mtime_ns]


def case_which_times_change(d):
    f = write(d + "/f", b"x" * 100)
    os.mkdir(d + "/dir")
    os.mkdir(d + "/dir2")
    fd = os.open(f, os.O_RDWR)
    out = {}

    def moved(what, path, change, look=True):
        out[what] = which_times(path, change, look).replace("a", "")
    moved("write", f, lambda: os.pwrite(fd, b"y", 0))
    moved("write beyond", f, lambda: os.pwrite(fd, b"y", 5000))
    moved("write nothing", f, lambda: os.write(fd, b""))
    moved("read", f, lambda: os.pread(fd, 10, 0))
    moved("chmod", f, lambda: os.chmod(f, 0o600))
    moved("chown", f, lambda: os.chown(f, 1, 1))
    moved("truncate", f, lambda: os.truncate(f, 10))
    moved("truncate same", f, lambda: os.truncate(f, 10))
    moved("ftruncate", f, lambda: os.ftruncate(fd, 20))
    moved("link", f, lambda: os.link(f, d + "/l"))
    moved("unlink other link", f, lambda: os.unlink(d + "/l"))
    moved("setxattr", f, lambda: os.setxattr(f, "user.x", b"1"))
    moved("removexattr", f, lambda: os.removexattr(f, "user.x"))
    moved("utime", f, lambda: os.utime(f, ns=(2 * 10**18, 2 * 10**18)))
    os.utime(f, ns=(1, 1))
    moved("fallocate", f, lambda: fallocate(fd, 0, 0, 50000))
    moved("punch", f, lambda: fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 4096))
    moved("open for writing", f, lambda: os.close(os.open(f, os.O_WRONLY)))
    moved("fsync", f, lambda: os.fsync(fd))
    moved("rename of file", f, lambda: (os.rename(f, d + "/g"), os.rename(d + "/g", f)))
    moved("create in dir", d + "/dir", lambda: write(d + "/dir/a"))
    moved("write in dir", d + "/dir", lambda: write(d + "/dir/a"))
    moved("mkdir in dir", d + "/dir", lambda: os.mkdir(d + "/dir/m"))
    moved("rmdir in dir", d + "/dir", lambda: os.rmdir(d + "/dir/m"))
    moved("link in dir", d + "/dir", lambda: os.link(f, d + "/dir/l"))
    moved("rename in dir", d + "/dir", lambda: os.rename(d + "/dir/l", d + "/dir/l2"))
    moved("rename out", d + "/dir", lambda: os.rename(d + "/dir/l2", d + "/dir2/l2"))
    moved("rename in", d + "/dir2", lambda: os.rename(d + "/dir/a", d + "/dir2/a"))
    moved("unlink in dir", d + "/dir2", lambda: os.unlink(d + "/dir2/a"))
    moved("rename of dir", d + "/dir", lambda: (os.rename(d + "/dir", d + "/dir3"), os.rename(d + "/dir3", d + "/dir")))
    moved("failed create", d + "/dir", lambda: err(os.mkdir, d + "/dir2"))
    moved("symlink in dir", d + "/dir", lambda: os.symlink("x", d + "/dir/s"))
    moved("mapped write", f, lambda: _map_and_write(fd))
    os.close(fd)
    return out


def _map_and_write(fd):
    with mmap.mmap(fd, 0) as m:
        m[0:1] = b"M"
        m.flush()


def case_truncating_open_changes_times(d):
    f = write(d + "/f", b"x")
    return [which_times(f, lambda: os.close(os.open(f, os.O_WRONLY | os.O_TRUNC))).replace("a", ""),
            which_times(f, lambda: os.close(os.open(f, os.O_WRONLY | os.O_TRUNC))).replace("a", "")]


def case_times_survive_a_close_and_sync(d):
    """utime after a buffered write: the later flush of the data must not move mtime again (cp -a, tar, rsync rely on it)."""
    fd = os.open(d + "/f", os.O_CREAT | os.O_WRONLY, 0o600)
    os.write(fd, b"x" * 300000)
    os.utime(fd, ns=(10**18, 10**18 + 5))
    os.close(fd)
    early = os.stat(d + "/f").st_mtime_ns
    fd = os.open(d + "/f", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    return [early, os.stat(d + "/f").st_mtime_ns]


def case_utime_permissions(d):
    f = write(d + "/f", mode=0o644)
    g = write(d + "/g", mode=0o666)
    os.chmod(g, 0o666)
    return [as_user(NOBODY, err, os.utime, f), as_user(NOBODY, err, lambda: os.utime(f, ns=(1, 1))), as_user(NOBODY, err, os.utime, g),
            as_user(NOBODY, err, lambda: os.utime(g, ns=(1, 1)))]


def case_blocks_tell_the_truth(d):
    def blocks(path):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        return os.stat(path).st_blocks
    write(d + "/mib", os.urandom(1 << 20))
    write(d + "/empty", b"")
    with open(d + "/sparse", "wb") as f:
        f.truncate(1 << 30)
    with open(d + "/holes", "wb") as f:
        for i in range(8):
            f.seek(i << 20)
            f.write(b"x" * 4096)
    full = blocks(d + "/mib")
    assert full >= 2048
    os.truncate(d + "/mib", 1 << 19)
    return [full <= 2080, blocks(d + "/mib") <= 1056, blocks(d + "/empty"), blocks(d + "/sparse"), 64 <= blocks(d + "/holes") <= 96]


def case_statfs(d):
    s = os.statvfs(d)
    assert 0 < s.f_bavail <= s.f_bfree <= s.f_blocks and s.f_files > 0 and s.f_ffree > 0
    return [s.f_namemax, s.f_bsize, s.f_frsize]


def case_chown(d):
    f = write(d + "/f")
    os.chown(f, 5, 6)
    os.chown(f, -1, 7)
    os.chown(f, 8, -1)
    a = os.stat(f)
    os.chown(f, 0xfffffffe, 0xfffffffe)
    b = os.stat(f)
    g = write(d + "/g")
    os.chown(g, NOBODY, NOBODY)
    return [a.st_uid, a.st_gid, b.st_uid, b.st_gid, as_user(NOBODY, err, os.chown, g, 5, -1), as_user(NOBODY, err, os.chown, g, -1, 5),
            as_user(NOBODY, err, os.chown, g, -1, OTHER, groups=(OTHER,)), as_user(OTHER, err, os.chmod, g, 0o777), os.stat(g).st_gid]


def case_setid_bits_are_cleared(d):
    out = {}

    def after(what, mode, change, uid=NOBODY):
        f = write(d + "/" + what.replace(" ", "-"), b"x" * 10)
        os.chmod(f, 0o777)
        os.chmod(f, mode)
        r = as_user(uid, change, f) if uid else in_child(change, f)
        out[what] = [r, mode_of(f)]

    def writing(f):
        fd = os.open(f, os.O_WRONLY)
        os.write(fd, b"y")
        os.close(fd)

    def mapped(f):
        fd = os.open(f, os.O_RDWR)
        with mmap.mmap(fd, 10) as m:
            m[0:1] = b"m"

    def chown_self(f):
        return err(os.chown, f, -1, -1)

    after("write suid", 0o4777, writing)
    after("write sgid", 0o2777, writing)
    after("write both", 0o6777, writing)
    after("write sgid without group exec", 0o2767, writing)
    after("write by root", 0o6777, writing, 0)
    after("truncate", 0o6777, lambda f: err(os.truncate, f, 3))
    after("truncate by root", 0o6777, lambda f: err(os.truncate, f, 3), 0)
    after("truncating open", 0o6777, lambda f: os.close(os.open(f, os.O_WRONLY | os.O_TRUNC)))
    after("direct write", 0o6777, lambda f: os.pwritev(os.open(f, os.O_WRONLY | os.O_DIRECT), [aligned(b"d" * 4096)], 0))
    after("fallocate", 0o6777, lambda f: fallocate(os.open(f, os.O_WRONLY), 0, 0, 100000))
    after("chown by root", 0o6777, lambda f: err(os.chown, f, 1, 1), 0)
    after("chown nothing by root", 0o6777, chown_self, 0)
    after("chown sgid without exec by root", 0o2666, lambda f: err(os.chown, f, 1, 1), 0)
    f = write(d + "/cap")
    os.chmod(f, 0o777)
    os.setxattr(f, "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
    as_user(NOBODY, writing, f)
    out["capability"] = err(os.getxattr, f, "security.capability")
    return out


def case_setgid_directories(d):
    os.mkdir(d + "/sg")
    os.chown(d + "/sg", NOBODY, OTHER)
    os.chmod(d + "/sg", 0o2777)

    def child():
        os.umask(0)
        write(d + "/sg/file", mode=0o2771)
        write(d + "/sg/group-exec", mode=0o2775)
        os.mkdir(d + "/sg/dir", 0o755)
        os.mkfifo(d + "/sg/fifo")
        os.symlink("x", d + "/sg/link")
        os.link(d + "/sg/file", d + "/sg/file2")
        own = write(d + "/sg/mine")
        return [os.lstat(d + "/sg/" + n).st_gid for n in ("file", "dir", "fifo", "link")] + [err(os.chmod, own, 0o2755)]
    out = as_user(NOBODY, child)
    return out + [mode_of(d + "/sg/" + n) for n in ("file", "group-exec", "dir", "mine")]


def case_sticky_directories(d):
    os.mkdir(d + "/t")
    os.chmod(d + "/t", 0o1777)
    as_user(NOBODY, write, d + "/t/nobodys")
    as_user(OTHER, os.mkdir, d + "/t/others")
    return [as_user(OTHER, err, os.unlink, d + "/t/nobodys"), as_user(OTHER, err, os.rename, d + "/t/nobodys", d + "/t/x"),
            as_user(NOBODY, err, os.rmdir, d + "/t/others"), as_user(OTHER, err, os.rename, d + "/t/others", d + "/t/moved"),
            as_user(OTHER, lambda: (write(d + "/t/mine"), err(os.rename, d + "/t/mine", d + "/t/nobodys"))[1]),
            as_user(NOBODY, err, os.unlink, d + "/t/nobodys"), os.stat(d + "/t").st_mode & 0o1000]


def case_permissions_of_another_user(d):
    os.mkdir(d + "/closed", 0o700)
    write(d + "/closed/f")
    f = write(d + "/secret", mode=0o600)
    g = write(d + "/group", mode=0o640)
    os.chown(g, 0, OTHER)
    os.mkdir(d + "/open")
    os.chmod(d + "/open", 0o777)
    out = [as_user(NOBODY, err, os.open, f, os.O_RDONLY), as_user(NOBODY, err, os.listdir, d + "/closed"),
           as_user(NOBODY, err, os.stat, d + "/closed/f"), as_user(NOBODY, err, write, d + "/new"),
           as_user(NOBODY, err, os.open, g, os.O_RDONLY), as_user(NOBODY, err, os.open, g, os.O_RDONLY, groups=(OTHER,)),
           as_user(NOBODY, err, os.open, g, os.O_WRONLY, groups=(OTHER,)), as_user(NOBODY, os.access, f, os.R_OK),
           as_user(NOBODY, err, write, d + "/open/own"), as_user(NOBODY, err, os.unlink, f)]
    st = os.stat(d + "/open/own")
    return out + [st.st_uid, st.st_gid]


def case_umask(d):
    def child():
        out = []
        for mask in (0, 0o022, 0o077, 0o777):
            os.umask(mask)
            base = d + "/%o" % mask
            os.close(os.open(base + "f", os.O_CREAT | os.O_WRONLY, 0o6777))
            os.mkdir(base + "d", 0o1777)
            os.mkfifo(base + "p", 0o666)
            os.mknod(base + "r", stat.S_IFREG | 0o666)
            out.append([mode_of(base + x) for x in "fdpr"])
        return out
    return in_child(child)


# ---- extended attributes and ACLs ----


def case_xattrs(d):
    f = write(d + "/f")
    os.mkdir(d + "/dir")
    os.symlink("f", d + "/s")
    os.mkfifo(d + "/p")
    os.setxattr(f, "user.one", b"1")
    os.setxattr(f, "user.one", b"uno", os.XATTR_REPLACE)
    os.setxattr(f, "user.empty", b"")
    os.setxattr(f, "user.bin", bytes(range(256)))
    os.setxattr(f, "trusted.t", b"t")
    os.setxattr(f, "security.foo", b"s")
    os.setxattr(d + "/dir", "user.on-dir", b"d" * 1000)
    os.setxattr(f, "user." + "n" * 250, b"long")
    assert os.getxattr(f, "user.bin") == bytes(range(256)) and os.getxattr(f, "user.empty") == b""
    buf = ctypes.create_string_buffer(2)
    short = libc.getxattr(f.encode(), b"user.one", buf, 2), ERRNO_NAMES[ctypes.get_errno()]
    length = libc.getxattr(f.encode(), b"user.one", None, 0)
    out = [sorted(n for n in os.listxattr(f) if n != "security.selinux"), short, length, os.listxattr(d + "/dir"),
           err(os.setxattr, f, "user.one", b"x", os.XATTR_CREATE), err(os.setxattr, f, "user.none", b"x", os.XATTR_REPLACE),
           err(os.getxattr, f, "user.none"), err(os.removexattr, f, "user.none"), err(os.setxattr, f, "user." + "n" * 251, b""),
           err(os.setxattr, f, "user.", b"x"), err(os.setxattr, f, "bogus.x", b"x"), err(os.setxattr, f, "x", b"x"),
           err(os.setxattr, d + "/s", "user.x", b"x", follow_symlinks=False), err(os.setxattr, d + "/p", "user.x", b"x"),
           err(os.setxattr, d + "/s", "trusted.x", b"x", follow_symlinks=False), err(os.setxattr, f, "user.big", b"x" * 65537)]
    os.removexattr(f, "user.one")
    out.append(err(os.getxattr, f, "user.one"))
    out += [as_user(NOBODY, err, os.getxattr, f, "trusted.t"), as_user(NOBODY, err, os.setxattr, f, "user.x", b"x"),
            as_user(NOBODY, err, os.setxattr, f, "security.foo", b"x"), as_user(NOBODY, lambda: sorted(os.listxattr(f))),
            as_user(NOBODY, err, os.getxattr, f, "user.bin"), err(os.getxattr, f, "security.capability")]
    return out


def case_many_xattrs(d):
    f = write(d + "/f")
    for i in range(60):
        os.setxattr(f, "user.n%02d" % i, b"v%d" % i)
    for i in range(0, 60, 2):
        os.removexattr(f, "user.n%02d" % i)
    return sorted(os.listxattr(f)), [os.getxattr(f, "user.n%02d" % i).decode() for i in range(1, 60, 2)]


def acl(*args):
    return subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


def getfacl(path):
    return acl("getfacl", "-n", "-c", "-p", path)


def case_acls(d):
    f = write(d + "/f", b"secret", mode=0o600)
    out = [acl("setfacl", "-m", "u:%d:r,g:%d:rw" % (NOBODY, OTHER), f), getfacl(f), mode_of(f), as_user(NOBODY, err, read, f),
           as_user(NOBODY, err, os.open, f, os.O_WRONLY), as_user(OTHER, err, os.open, f, os.O_WRONLY), as_user(777, err, read, f)]
    os.chmod(f, 0o640)
    out += [getfacl(f), as_user(OTHER, err, os.open, f, os.O_WRONLY)]
    out += [acl("setfacl", "-m", "m::rwx,o::r", f), getfacl(f), mode_of(f), sorted(os.listxattr(f))]
    out += [acl("setfacl", "-b", f), getfacl(f), mode_of(f), os.listxattr(f)]
    g = write(d + "/g")
    out += [acl("setfacl", "-m", "u::rwx,g::rx,o::-", g), mode_of(g), os.listxattr(g)]
    out += [err(os.setxattr, g, "system.posix_acl_access", b"\2\0\0\0junk"), err(os.setxattr, g, "system.posix_acl_default", b""),
            as_user(NOBODY, lambda: subprocess.run(["setfacl", "-m", "u:1:r", g], stderr=subprocess.DEVNULL).returncode)]
    return out


def case_default_acls(d):
    os.mkdir(d + "/dir")
    out = [acl("setfacl", "-d", "-m", "u::rwx,u:%d:rwx,g::rx,g:%d:rx,m::rwx,o::-" % (NOBODY, OTHER), d + "/dir"), getfacl(d + "/dir")]

    def child():
        os.umask(0o077)
        write(d + "/dir/f", mode=0o666)
        write(d + "/dir/x", mode=0o700)
        os.mkdir(d + "/dir/sub", 0o777)
        os.mkfifo(d + "/dir/p", 0o640)
        os.symlink("f", d + "/dir/s")
        os.mkdir(d + "/dir/sub/deeper", 0o750)
    in_child(child)
    for n in ("f", "x", "sub", "p", "sub/deeper"):
        out += [n, mode_of(d + "/dir/" + n), getfacl(d + "/dir/" + n)]
    out += [as_user(NOBODY, err, write, d + "/dir/sub/by-nobody"), acl("setfacl", "-k", d + "/dir"), getfacl(d + "/dir")]
    write(d + "/dir/after", mode=0o644)
    return out + [getfacl(d + "/dir/after")]


def case_acl_survives_copy(d):
    write(d + "/f", b"x")
    acl("setfacl", "-m", "u:%d:rw" % NOBODY, d + "/f")
    os.setxattr(d + "/f", "user.k", b"v")
    subprocess.run(["cp", "-a", d + "/f", d + "/g"], check=True)
    return [getfacl(d + "/g"), os.getxattr(d + "/g", "user.k").decode()]


def case_inotify(d):
    fd = libc.inotify_init()
    libc.inotify_add_watch(fd, d.encode(), 0x00000FFF)
    write(d + "/f")
    os.rename(d + "/f", d + "/g")
    os.unlink(d + "/g")
    data, masks = os.read(fd, 65536), []
    while data:
        _, mask, _, length = struct.unpack("iIII", data[:16])
        masks.append("%x" % mask)
        data = data[16 + length:]
    os.close(fd)
    return masks


def all_cases():
    return {name[5:]: call for name, call in sorted(globals().items()) if name.startswith("case_")}
