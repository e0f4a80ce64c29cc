"""posix_attrs: what attributes do: times, modes, owners, extended attributes, ACLs (see posix_cases)."""

import ctypes
import mmap
import os
import stat
import struct
import subprocess

from posix_env import (
    aligned, as_user, err, ERRNO_NAMES, fallocate, in_child, KEEP_SIZE, libc, mode_of, NOBODY, OTHER,
    PUNCH_HOLE, read, which_times, write,
)


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


def case_an_acl_takes_setgid_from_who_is_not_in_the_group(d):
    out = []
    for name, mode in (("f", 0o102755), ("dir", 0o42755)):
        path = d + "/" + name
        for user, owner in ((None, NOBODY), (NOBODY, NOBODY), (OTHER, OTHER)):
            if name == "f":
                write(path, b"x")
            else:
                os.makedirs(path, exist_ok=True)
            os.chown(path, owner, OTHER)
            os.chmod(path, mode & 0o7777)
            for words in (("-m", "u:1:r"), ("-b",), ("-m", "g::rwx")):
                def change():
                    return acl("setfacl", *words, path)
                out.append([change() if user is None else as_user(user, change), mode_of(path), getfacl(path)])
                os.chmod(path, mode & 0o7777)
        if name == "dir":
            os.chown(path, NOBODY, OTHER)
            out.append([as_user(NOBODY, lambda: acl("setfacl", "-d", "-m", "u:1:r", path)), mode_of(path)])
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
