#!/usr/bin/env python3
"""Nothing below .clawfs/snapshots/NAME can be written, created, removed or renamed: each way to try fails at once, with EROFS."""

import errno
import itertools
import mmap
import os
import shutil
import stat

from clawfs_env import EXIT_OK, VolumeTest, cli, main, wait_for

OWNER = 1000
MODES = {"O_WRONLY": os.O_WRONLY, "O_RDWR": os.O_RDWR}
FLAGS = {name: getattr(os, name) for name in ("O_APPEND", "O_TRUNC", "O_CREAT", "O_DIRECT", "O_SYNC", "O_NONBLOCK")}
CONTENT = b"as it was\n"
NAMES = ("file", "d/file", "empty", "linked", "other link", "private", "d/setuid")


def error_of(act, *args, **more):
    """The errno's name, "" for success."""
    try:
        act(*args, **more)
    except OSError as e:
        return errno.errorcode[e.errno]
    return ""


def opened(path, flags):
    os.close(os.open(path, flags, 0o644))


def as_user(uid, act):
    """What `act` returns, a word, in a process of that user."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        word = b"?"
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            word = act().encode()
        finally:
            os.write(w, word)
            os._exit(0)
    os.close(w)
    os.waitpid(pid, 0)
    with os.fdopen(r, "rb") as f:
        return f.read().decode()


def opens():
    """Every way to open a file that is there with which it could be changed."""
    for (mode, bits), n in itertools.product(MODES.items(), range(len(FLAGS) + 1)):
        for names in itertools.combinations(FLAGS, n):
            yield "|".join((mode, *names)), bits | sum(FLAGS[name] for name in names)
    yield "O_RDONLY|O_TRUNC", os.O_RDONLY | os.O_TRUNC


class ReadOnly(VolumeTest):
    def snapshot(self, *options):
        os.chmod(self.tmp, 0o711)
        v = self.volume("allow_other", *(options or ("strict-open",)))
        os.chmod(os.path.dirname(v.mnt), 0o711)
        os.chown(v.mnt, OWNER, OWNER)
        os.mkdir(v.path("d"))
        os.mkdir(v.path("d", "none"))
        for name in NAMES:
            if name != "other link":
                v.write(name, b"" if name == "empty" else CONTENT)
            else:
                os.link(v.path("linked"), v.path(name))
        os.symlink("file", v.path("symlink"))
        os.mkfifo(v.path("fifo"))
        os.setxattr(v.path("file"), "user.x", b"1")
        for name in (*NAMES, "d", "d/none", "fifo"):
            os.chown(v.path(name), OWNER, OWNER)
        os.chmod(v.path("private"), 0o600)
        os.chmod(v.path("d", "setuid"), 0o4755)
        cli("snap", "create", "s", v.mnt, check=EXIT_OK)
        v.write("live", b"live")
        os.chown(v.path("live"), OWNER, OWNER)
        return v, v.path(".clawfs", "snapshots", "s")

    def changes(self, v, at):
        """Calls that would change what is in the snapshot at `at`: (what, call)."""
        for name in NAMES:
            for what, flags in opens():
                yield "open %s %s" % (name, what), lambda n=name, f=flags: opened(at + "/" + n, f)
        for (mode, bits), excl in itertools.product({**MODES, "O_RDONLY": os.O_RDONLY}.items(), (0, os.O_EXCL)):
            for where in ("/new", "/d/new"):
                yield "create %s %s" % (where, mode), lambda w=where, f=bits | excl: opened(at + w, f | os.O_CREAT)
        yield "open by a symlink", lambda: opened(at + "/symlink", os.O_WRONLY)
        for where in ("/new", "/d/new"):
            yield "mkdir " + where, lambda w=where: os.mkdir(at + w)
            yield "mkfifo " + where, lambda w=where: os.mkfifo(at + w)
            yield "mknod " + where, lambda w=where: os.mknod(at + w, stat.S_IFREG | 0o600)
            yield "symlink " + where, lambda w=where: os.symlink("x", at + w)
            yield "link within " + where, lambda w=where: os.link(at + "/file", at + w)
            yield "link into " + where, lambda w=where: os.link(v.path("live"), at + w)
            yield "rename into " + where, lambda w=where: os.rename(v.path("live"), at + w)
        for name in ("file", "d/file", "symlink", "fifo", "empty"):
            yield "unlink " + name, lambda n=name: os.unlink(at + "/" + n)
            yield "rename within " + name, lambda n=name: os.rename(at + "/" + n, at + "/new")
            yield "rename out " + name, lambda n=name: os.rename(at + "/" + n, v.path("new"))
            yield "rename onto " + name, lambda n=name: os.rename(v.path("live"), at + "/" + n)
        yield "rename a directory", lambda: os.rename(at + "/d", at + "/e")
        yield "rmdir", lambda: os.rmdir(at + "/d/none")
        for name in (*NAMES, "d", "."):
            path = at + "/" + name
            yield "chmod " + name, lambda p=path: os.chmod(p, 0o777)
            yield "chown " + name, lambda p=path: os.chown(p, OWNER, OWNER)
            yield "utime " + name, lambda p=path: os.utime(p, (1, 1))
            yield "touch " + name, lambda p=path: os.utime(p)
            yield "setxattr " + name, lambda p=path: os.setxattr(p, "user.y", b"2")
            if name not in ("d", "."):
                yield "truncate " + name, lambda p=path: os.truncate(p, 3)
        yield "replace an attribute", lambda: os.setxattr(at + "/file", "user.x", b"2")
        yield "removexattr", lambda: os.removexattr(at + "/file", "user.x")

    def check_untouched(self, v, at):
        for name in NAMES:
            want = b"" if name == "empty" else CONTENT
            for path in (at + "/" + name, v.path(name)):
                with open(path, "rb") as f:
                    self.assertEqual(f.read(), want, path)
        self.assertEqual(sorted(os.listdir(at)), sorted(set(os.listdir(v.mnt)) - {"live", "copy"}))
        self.assertEqual(sorted(os.listdir(at + "/d")), ["file", "none", "setuid"])
        self.assertEqual(os.listxattr(at + "/file"), ["user.x"])
        self.assertEqual(stat.S_IMODE(os.stat(at + "/d/setuid").st_mode), 0o4755)
        self.assertEqual(v.read("live"), b"live")

    def test_every_change_is_refused_at_once(self):
        v, at = self.snapshot()
        n = 0
        for what, act in self.changes(v, at):
            with self.subTest(what):
                self.assertEqual(error_of(act), "EROFS")
                n += 1
        self.assertGreater(n, 900)
        self.check_untouched(v, at)
        self.assertEqual(error_of(os.link, at + "/file", v.path("out")), "EXDEV")
        self.assertIn(error_of(os.open, at, os.O_TMPFILE | os.O_RDWR), ("EROFS", "ENOTSUP"))
        for name in ("trusted.x", "system.posix_acl_access", "clawfs.compression", "clawfs.quota.max_bytes", "clawfs.durability"):
            self.assertNotEqual(error_of(os.setxattr, at + "/d", name, b"1"), "", name)

    def test_it_is_so_for_the_owner_of_the_files_and_after_a_remount(self):
        v, at = self.snapshot()
        v.remount("allow_other", "strict-open")
        for what, act in self.changes(v, at):
            if what.startswith(("chown", "mknod")):
                continue  # not for him in any filesystem
            with self.subTest(what):
                self.assertEqual(as_user(OWNER, lambda a=act: error_of(a)), "EROFS")
        self.check_untouched(v, at)

    def test_what_reads_goes_on(self):
        v, at = self.snapshot()
        fd = os.open(at + "/file", os.O_RDONLY)
        self.addCleanup(os.close, fd)
        self.assertEqual(error_of(mmap.mmap, fd, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE), "EACCES")
        self.assertEqual(error_of(os.write, fd, b"x"), "EBADF")
        with mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as private:
            private[0:2] = b"my"
            self.assertEqual(private[:], b"my" + CONTENT[2:])
        with mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ) as shared:
            self.assertEqual(shared[:], CONTENT)
        fifo = os.open(at + "/fifo", os.O_RDWR | os.O_NONBLOCK)  # what comes through a pipe is in no filesystem
        os.write(fifo, b"through")
        self.assertEqual(os.read(fifo, 100), b"through")
        os.close(fifo)
        shutil.copytree(at + "/d", v.path("copy"))
        self.assertEqual(v.read("copy/file"), CONTENT)
        self.check_untouched(v, at)

    def test_unless_opening_is_strict_it_is_so_when_the_file_is_closed(self):
        v, at = self.snapshot("noatime")
        for what, act in self.changes(v, at):
            if not what.startswith("open") or "O_TRUNC" in what:
                with self.subTest(what):
                    self.assertEqual(error_of(act), "EROFS")
        fd = os.open(at + "/d/file", os.O_WRONLY | os.O_APPEND)  # the kernel believes it can
        os.write(fd, b"never\n")
        self.assertIn(error_of(os.fsync, fd), ("EROFS", "EIO"))
        error_of(os.close, fd)

        def healed():
            with open(at + "/d/file", "rb") as f:
                return f.read() == CONTENT
        wait_for("the file to look as it is", healed, 5, 0.1)
        self.check_untouched(v, at)

    def test_generated_files_cannot_be_opened_for_writing(self):
        v = self.volume("strict-open")
        for name in os.listdir(v.path(".clawfs")):
            path = v.path(".clawfs", name)
            if os.path.isfile(path):
                for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND):
                    self.assertEqual(error_of(opened, path, flags), "EPERM", name)
                self.assertEqual(error_of(opened, path, os.O_RDONLY), "", name)
        self.assertEqual(error_of(opened, v.path(".clawfs", "new"), os.O_WRONLY | os.O_CREAT), "EPERM")


if __name__ == "__main__":
    main()
