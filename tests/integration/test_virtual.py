#!/usr/bin/env python3
"""The directory .clawfs of a mount's root: what can be read there, that it is nobody's to change, and a real entry of its name."""

import ctypes
import errno
import json
import mmap
import os
import re
import stat
import subprocess

from clawfs_env import ClusterTest, VolumeTest, ROOT, main

MAKE_ENTRY = os.environ.get("MAKE_ENTRY") or os.path.join(ROOT, "build", "tests", "integration", "make-entry")
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
LIBC = ctypes.CDLL(None, use_errno=True)


def generated():
    """Names of the generated files, from the table itself."""
    with open(os.path.join(ROOT, "fs", "face", "virtual_rows.c"), encoding="utf-8") as f:
        return re.findall(r'^\s*\{"(\w+)", S_IFREG', f.read(), re.M)


def entries():
    """Everything that is listed there: those, and subtrees."""
    with open(os.path.join(ROOT, "fs", "face", "virtual_rows.c"), encoding="utf-8") as f:
        return re.findall(r'^\s*\{"(\w+)", S_IF', f.read(), re.M)


def error_of(act):
    """The errno's name, "" for success."""
    try:
        act()
    except OSError as e:
        return errno.errorcode[e.errno]
    return ""


def rename2(a, b, flags):
    if LIBC.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def append(path):
    """What is appended is refused when it reaches the daemon, at the latest by fsync."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, b"x")
        os.fsync(fd)
    finally:
        try:
            os.close(fd)
        except OSError:
            pass


def read(path):
    with open(path, "rb") as f:
        return f.read()


class What:
    """Cases that hold on every kind of mount, of which `self.mnt` is one."""

    def check_is_hidden_and_reachable(self, mnt):
        self.assertNotIn(".clawfs", os.listdir(mnt))
        self.assertNotIn(".clawfs", subprocess.run(["ls", "-la", mnt], check=True, stdout=subprocess.PIPE, text=True).stdout.split())
        st = os.stat(os.path.join(mnt, ".clawfs"))
        self.assertTrue(stat.S_ISDIR(st.st_mode))
        self.assertEqual(stat.S_IMODE(st.st_mode), 0o555)
        self.assertGreaterEqual(st.st_ino, 1 << 63)

    def check_lists_its_files(self, mnt):
        top = os.path.join(mnt, ".clawfs")
        self.assertEqual(sorted(os.listdir(top)), sorted(entries()))
        numbers = {e.name: e.inode() for e in os.scandir(top)}
        for name in generated():
            st = os.stat(os.path.join(top, name))
            self.assertEqual((name, stat.S_IFMT(st.st_mode)), (name, stat.S_IFREG))
            self.assertEqual(st.st_ino, numbers[name])
            self.assertGreaterEqual(st.st_ino, 1 << 63)
        self.assertEqual(len(set(numbers.values())), len(numbers))

    def check_every_reader_sees_the_whole(self, mnt):
        """By whatever means a file is read, it is one text of the size that stat(2) says."""
        for name in generated():
            path = os.path.join(mnt, ".clawfs", name)
            fd = os.open(path, os.O_RDONLY)
            try:
                size = os.fstat(fd).st_size
                whole = os.pread(fd, size + 100, 0)
                self.assertEqual((name, len(whole)), (name, size))
                self.assertGreater(size, 0)
                for chunk in (1, 7, 4096, size):
                    got, at = b"", 0
                    while at < size and len(got) < 20000:
                        piece = os.pread(fd, chunk, at)
                        got += piece
                        at += len(piece)
                    self.assertEqual(got, whole[:len(got)])
                self.assertEqual(os.pread(fd, 10, size), b"")
                with mmap.mmap(fd, size, prot=mmap.PROT_READ) as m:
                    self.assertEqual(m[:], whole)
                self.assertEqual(os.lseek(fd, 0, os.SEEK_DATA), 0)
                self.assertEqual(os.lseek(fd, 0, os.SEEK_HOLE), size)
                self.assertEqual(error_of(lambda: os.lseek(fd, size, os.SEEK_DATA)), "ENXIO")
            finally:
                os.close(fd)
            for command in (["cat", path], ["dd", "if=" + path, "bs=17", "status=none"], ["head", "-c", "1000000", path],
                            ["tail", "-c", "1000000", path]):
                self.assertGreater(len(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout), size // 2)
            head = subprocess.run(["head", "-c", "5", path], check=True, stdout=subprocess.PIPE).stdout
            self.assertEqual(len(head), 5)
            copy = os.path.join(self.tmp, "copy")
            subprocess.run(["cp", path, copy], check=True)
            self.assertGreater(os.path.getsize(copy), size // 2)

    def check_nothing_there_can_be_changed(self, mnt, read_only):
        """On a follower the VFS or the volume may say that nothing at all can be changed."""
        top = os.path.join(mnt, ".clawfs")
        one = os.path.join(top, generated()[0])
        real = os.path.join(mnt, "real")
        refused = {"EPERM", "EROFS"} if read_only else {"EPERM"}
        exists = {"EEXIST", "EROFS"} if read_only else {"EEXIST"}
        cases = [
            ("mkdir of the name", lambda: os.mkdir(top), exists),
            ("mknod of the name", lambda: os.mknod(top), exists),
            ("symlink of the name", lambda: os.symlink("x", top), exists),
            ("link of the name", lambda: os.link(real, top), exists),
            ("rmdir", lambda: os.rmdir(top), refused),
            ("unlink", lambda: os.unlink(top), {"EISDIR"} | refused),
            ("rename away", lambda: os.rename(top, os.path.join(mnt, "other")), refused),
            ("rename away, noreplace", lambda: rename2(top, os.path.join(mnt, "other"), RENAME_NOREPLACE), refused),
            ("rename onto it", lambda: os.rename(os.path.join(mnt, "dir"), top), refused),
            ("exchange with it", lambda: rename2(os.path.join(mnt, "dir"), top, RENAME_EXCHANGE), refused),
            ("chmod of it", lambda: os.chmod(top, 0o777), refused),
            ("chown of it", lambda: os.chown(top, 1, 1), refused),
            ("mkdir in it", lambda: os.mkdir(os.path.join(top, "new")), refused),
            ("create in it", lambda: os.close(os.open(os.path.join(top, "new"), os.O_CREAT | os.O_WRONLY)), refused),
            ("symlink in it", lambda: os.symlink("x", os.path.join(top, "new")), refused),
            ("link into it", lambda: os.link(real, os.path.join(top, "new")), refused),
            ("link out of it", lambda: os.link(one, os.path.join(mnt, "new")), {"EXDEV"} | refused),
            ("rename into it", lambda: os.rename(real, os.path.join(top, "new")), refused),
            ("rename within it", lambda: os.rename(one, os.path.join(top, "new")), refused),
            ("rename out of it", lambda: os.rename(one, os.path.join(mnt, "new")), refused),
            ("unlink in it", lambda: os.unlink(one), refused),
            ("rmdir in it", lambda: os.rmdir(one), {"ENOTDIR"} | refused),
            ("truncate", lambda: os.truncate(one, 0), refused),
            ("append", lambda: append(one), refused),
            ("chmod of a file", lambda: os.chmod(one, 0o777), refused),
            ("utime of a file", lambda: os.utime(one), refused),
            ("setxattr", lambda: os.setxattr(one, "user.x", b"1"), refused),
            ("setxattr of the volume's attributes", lambda: os.setxattr(one, "clawfs.durability", b"local"), refused),
            ("removexattr", lambda: os.removexattr(one, "user.x"), refused),
            ("getxattr", lambda: os.getxattr(one, "user.x"), {"ENODATA"}),
            ("getxattr of the volume's attributes", lambda: os.getxattr(one, "clawfs.path"), {"ENODATA"}),
            ("a name that is not there", lambda: os.stat(os.path.join(top, "nothing")), {"ENOENT"}),
            ("nothing is shadowed", lambda: os.stat(os.path.join(top, "shadowed")), {"ENOENT"}),
            ("a name below a file", lambda: os.stat(os.path.join(one, "x")), {"ENOTDIR"}),
        ]
        before = sorted(os.listdir(mnt))
        for what, act, expected in cases:
            self.assertIn(error_of(act), expected, what)
        self.assertEqual(os.listxattr(one), [])
        self.assertEqual(os.listxattr(top), [])
        os.fsync(os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        self.assertEqual(sorted(os.listdir(mnt)), before)
        self.assertEqual(sorted(os.listdir(top)), sorted(entries()))
        json.loads(read(os.path.join(top, "status")))


class OfALeader(What, VolumeTest):
    def setUp(self):
        super().setUp()
        self.v = self.volume()
        self.v.write("real", b"x")
        os.mkdir(self.v.path("dir"))

    def test_is_hidden_and_reachable(self):
        self.check_is_hidden_and_reachable(self.v.mnt)

    def test_lists_its_files(self):
        self.check_lists_its_files(self.v.mnt)

    def test_every_reader_sees_the_whole(self):
        self.check_every_reader_sees_the_whole(self.v.mnt)

    def test_nothing_there_can_be_changed(self):
        self.check_nothing_there_can_be_changed(self.v.mnt, False)

    def test_each_open_sees_the_present_and_an_open_file_stays_as_it_was(self):
        path = self.v.path(".clawfs", "status")
        held = open(path, "rb")
        self.addCleanup(held.close)
        first = held.read()
        seen = [json.loads(first)["seq"]]
        for i in range(5):
            self.v.write("f%d" % i, b"y", sync=True)
            seen.append(json.loads(read(path))["seq"])
        self.assertEqual(seen, sorted(set(seen)), "each text is newer than the one before")
        held.seek(0)
        self.assertEqual(held.read(), first)
        self.assertEqual(json.loads(os.getxattr(self.v.mnt, "clawfs.status"))["seq"], json.loads(read(path))["seq"])

    def test_the_file_has_one_number_while_its_text_changes(self):
        path = self.v.path(".clawfs", "status")
        self.assertEqual(len({os.stat(path).st_ino for _ in range(5)}), 1)

    def test_only_the_name_in_the_root_is_taken(self):
        os.mkdir(self.v.path("dir", ".clawfs"))
        self.assertEqual(os.listdir(self.v.path("dir")), [".clawfs"])
        self.assertEqual(os.listdir(self.v.path("dir", ".clawfs")), [])
        os.rmdir(self.v.path("dir", ".clawfs"))

    def test_a_copy_and_a_removal_of_the_tree_leave_it_alone(self):
        copy = os.path.join(self.tmp, "copy")
        subprocess.run(["cp", "-a", self.v.mnt, copy], check=True)
        self.assertEqual(sorted(os.listdir(copy)), ["dir", "real"])
        self.assertEqual(subprocess.run(["find", self.v.mnt, "-mindepth", "1", "-delete"]).returncode, 0)
        self.assertEqual(os.listdir(self.v.mnt), [])
        self.assertTrue(read(self.v.path(".clawfs", "status")))

    def test_texts_held_open_do_not_grow_the_daemon_and_only_the_oldest_go(self):
        path = self.v.path(".clawfs", "status")
        n, keeps = 700, 256
        fds = []
        try:
            for _ in range(n):
                fds.append(os.open(path, os.O_RDONLY))
            results = [error_of(lambda fd=fd: os.pread(fd, 10, 0)) for fd in fds]
        finally:
            for fd in fds:
                os.close(fd)
        self.assertEqual(set(results[-keeps // 2:]), {""}, "the newest are there")
        self.assertEqual(set(results[:n - 2 * keeps]), {"ESTALE"}, "the oldest are not kept")
        self.assertEqual(results, sorted(results, reverse=True), "first those that went, then those that are there")
        json.loads(read(path))

    def test_survives_a_remount_and_readonly(self):
        for options in ((), ("ro",)):
            self.v.umount()
            self.v.mount(*options)
            self.check_is_hidden_and_reachable(self.v.mnt)
            self.check_lists_its_files(self.v.mnt)

    def test_an_ordinary_user_may_read(self):
        self.v.remount("allow_other")
        os.chmod(self.tmp, 0o711)
        for name in generated():
            mode = stat.S_IMODE(os.stat(self.v.path(".clawfs", name)).st_mode)
            r = subprocess.run(["cat", self.v.path(".clawfs", name)], user=65534, group=65534, extra_groups=[], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
            self.assertEqual(r.returncode == 0, bool(mode & 0o004), name)


class OfAFollower(What, ClusterTest):
    def test_a_follower_has_it_too(self):
        c = self.cluster(2)
        c.leader.write("real", b"x")
        os.mkdir(c.leader.path("dir"))
        c.settle()
        mnt = c.node[1].mnt
        self.check_is_hidden_and_reachable(mnt)
        self.check_lists_its_files(mnt)
        self.check_every_reader_sees_the_whole(mnt)
        self.check_nothing_there_can_be_changed(mnt, True)
        self.assertEqual(json.loads(read(os.path.join(mnt, ".clawfs", "status")))["replica"]["role"], "follower")
        seen = []
        for i in range(3):
            c.leader.write("f%d" % i, b"y")
            c.settle()
            seen.append(json.loads(read(os.path.join(mnt, ".clawfs", "status")))["replica"]["applied_seq"])
        self.assertEqual(seen, sorted(set(seen)))


class OfARealEntry(VolumeTest):
    """A volume whose root has an entry .clawfs, from before the name was taken."""

    def make(self, kind):
        v = self.volume(mount=False)
        subprocess.run([MAKE_ENTRY, v.store, ".clawfs", kind], check=True)
        return v.mount()

    def check_is_shadowed(self, v):
        self.assertEqual(os.listdir(v.mnt), [])
        self.assertTrue(read(v.path(".clawfs", "status")))
        self.assertEqual(sorted(os.listdir(v.path(".clawfs"))), sorted(entries() + ["shadowed"]))
        with os.scandir(v.path(".clawfs")) as listed:
            number = next(e.inode() for e in listed if e.name == "shadowed")
        self.assertEqual(number, os.stat(v.path(".clawfs", "shadowed")).st_ino)
        self.assertLess(number, 1 << 62)

    def test_a_directory_is_reachable_usable_and_can_be_moved_out(self):
        v = self.make("directory")
        self.check_is_shadowed(v)
        inside = v.path(".clawfs", "shadowed", "file")
        with open(inside, "wb") as f:
            f.write(b"content")
        v.remount()
        self.check_is_shadowed(v)
        self.assertEqual(read(inside), b"content")
        self.assertEqual(error_of(lambda: os.rmdir(v.path(".clawfs", "shadowed"))), "ENOTEMPTY")
        os.mkdir(v.path("place"))
        for flags in (RENAME_EXCHANGE, RENAME_WHITEOUT):
            self.assertEqual(error_of(lambda f=flags: rename2(v.path(".clawfs", "shadowed"), v.path("place"), f)), "EPERM")
        self.assertEqual(error_of(lambda: rename2(v.path(".clawfs", "shadowed"), v.path("place"), RENAME_NOREPLACE)), "EEXIST")
        os.rename(v.path(".clawfs", "shadowed"), v.path("moved"))
        self.assertEqual(sorted(os.listdir(v.mnt)), ["moved", "place"])
        self.assertEqual(read(v.path("moved", "file")), b"content")
        self.assertEqual(error_of(lambda: os.stat(v.path(".clawfs", "shadowed"))), "ENOENT")
        self.assertEqual(sorted(os.listdir(v.path(".clawfs"))), sorted(entries()))
        v.remount()
        self.assertEqual(read(v.path("moved", "file")), b"content")
        v.umount()
        v.fsck()

    def test_a_file_can_be_read_and_removed(self):
        v = self.make("file")
        self.check_is_shadowed(v)
        path = v.path(".clawfs", "shadowed")
        with open(path, "wb") as f:
            f.write(b"old")
        self.assertEqual(read(path), b"old")
        os.unlink(path)
        self.assertEqual(sorted(os.listdir(v.path(".clawfs"))), sorted(entries()))
        self.assertTrue(read(v.path(".clawfs", "status")))
        v.umount()
        v.fsck()

    def test_an_empty_directory_can_be_removed(self):
        v = self.make("directory")
        os.rmdir(v.path(".clawfs", "shadowed"))
        self.assertEqual(sorted(os.listdir(v.path(".clawfs"))), sorted(entries()))


if __name__ == "__main__":
    main()
