"""posix_names: what names, links, special files and directories do (see posix_cases)."""

import mmap
import os
import shutil
import socket
import stat
import struct
import subprocess

from posix_env import (
    as_user, AT_FDCWD, AT_SYMLINK_FOLLOW, checked, err, in_child, libc, mode_of, NOBODY, O_TMPFILE, read,
    RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, renameat2, write,
)


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
