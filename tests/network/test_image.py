"""A follower is an exact image of its leader, and its mount shows changes at once."""

import errno
import mmap
import os
import shutil
import socket
import stat
import subprocess
import sys
import time

import cluster
from cluster import wait_for

sys.path.insert(0, os.path.join(cluster.clawfs_env.ROOT, "tests", "integration"))
from programs import run  # noqa: E402


def build_everything(top):
    """A tree with everything that a tree can have."""
    os.makedirs(top + "/dir/sub")
    with open(top + "/plain", "wb") as f:
        f.write(os.urandom(300000))
    os.utime(top + "/plain", ns=(1111111111222222222, 1234567890123456789))
    os.chown(top + "/plain", 1234, 4321)
    os.chmod(top + "/plain", 0o4751)
    os.link(top + "/plain", top + "/dir/hard")
    os.symlink("../plain", top + "/dir/soft")
    os.symlink("x" * 4000, top + "/dir/long")
    os.mkfifo(top + "/fifo", 0o640)
    os.mknod(top + "/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(top + "/disk", 0o600 | stat.S_IFBLK, os.makedev(7, 9))
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(top + "/socket")
    with open(top + "/sparse", "wb") as f:
        f.truncate(1 << 30)
        for at in (0, 123 * 4096, 77 * 65536 + 4096, (1 << 30) - 4096):
            f.seek(at)
            f.write(os.urandom(4096))
    with open(top + "/punched", "wb") as f:
        f.write(os.urandom(1 << 20))
        f.flush()
        run("fallocate", "--punch-hole", "--offset", 65536, "--length", 200000, top + "/punched")
    run("fallocate", "--length", 1 << 20, top + "/promised")
    os.setxattr(top + "/plain", "user.small", b"value")
    os.setxattr(top + "/dir", "trusted.big", os.urandom(60000))
    os.setxattr(top + "/dir/sub", "security.note", b"\0binary\xff")
    run("setfacl", "-m", "u:1234:rw,g:99:r", top + "/plain")
    run("setfacl", "-d", "-m", "u:1234:rwx", top + "/dir")
    for i in range(500):
        with open(top + "/dir/sub/%03d-\xe9\xff-name" % i, "w") as f:
            f.write("content of %d\n" % i)
    os.makedirs(top + "/" + "/".join(["deep"] * 40))
    for i in range(0, 500, 3):
        os.unlink(top + "/dir/sub/%03d-\xe9\xff-name" % i)
    os.rename(top + "/dir/sub", top + "/moved")


class Image(cluster.ClusterTest):
    def test_everything_a_tree_can_have_arrives_exactly(self):
        c = self.cluster(3)
        build_everything(c.leader.path("top"))
        c.settle()
        c.same()
        # And through a resync instead of the stream.
        late = c.join()
        c.settle()
        c.same([late])
        # Nodes that were closed and opened again still have it.
        for n in c.followers:
            n.remount()
        c.settle()
        c.same()
        for n in reversed(c.node):
            n.umount()
            n.fsck()

    def test_a_follower_is_read_only_to_everybody(self):
        c = self.cluster(2)
        c.leader.write("f", b"x")
        c.settle()
        f = c.node[1].path("f")
        for what in (lambda: open(f, "ab").write(b"y"), lambda: os.unlink(f), lambda: os.mkdir(f + "d"), lambda: os.chmod(f, 0),
                     lambda: os.rename(f, f + "2"), lambda: os.setxattr(f, "user.a", b"b"), lambda: os.truncate(f, 0)):
            with self.assertRaises(OSError) as e:
                what()
            self.assertEqual(e.exception.errno, errno.EROFS)
        self.assertEqual(c.node[1].read("f"), b"x")

    def test_changes_are_seen_within_a_second(self):
        c = self.cluster(2)
        a, b = c.node
        a.write("f", b"one")
        os.mkdir(a.path("d"))
        c.settle()
        with open(b.path("f"), "rb", buffering=0) as f, open(b.path("f"), "rb") as g:
            m = mmap.mmap(g.fileno(), 3, prot=mmap.PROT_READ)
            self.assertEqual((f.read(), m[:]), (b"one", b"one"))
            self.assertEqual(os.listdir(b.path("d")), [])
            self.assertFalse(os.path.exists(b.path("d", "new")))  # a negative entry in the kernel
            began = time.monotonic()
            with open(a.path("f"), "r+b") as w:
                w.write(b"two")
                w.flush()
                os.fsync(w.fileno())
            a.write("d/new", b"", sync=True)
            wait_for("new bytes in an open file", lambda: os.pread(f.fileno(), 3, 0) == b"two", 1)
            wait_for("new bytes in a mapping", lambda: m[:] == b"two", 1)
            wait_for("a new name", lambda: os.path.exists(b.path("d", "new")), 1)
            wait_for("a new entry in a listing", lambda: os.listdir(b.path("d")) == ["new"], 1)
            os.chmod(a.path("f"), 0o600)
            os.rename(a.path("d", "new"), a.path("d", "newer"))
            with open(a.path("f"), "ab") as w:
                w.write(b"+more")
            c.leader.cli("sync", a.mnt)
            wait_for("a new mode", lambda: stat.S_IMODE(os.stat(b.path("f")).st_mode) == 0o600, 1)
            wait_for("a rename", lambda: os.listdir(b.path("d")) == ["newer"] and not os.path.exists(b.path("d", "new")), 1)
            wait_for("a new size", lambda: os.pread(f.fileno(), 100, 0) == b"two+more", 1)
            os.unlink(a.path("f"))
            c.leader.cli("sync", a.mnt)
            wait_for("a removed name", lambda: not os.path.exists(b.path("f")), 1)
            self.assertLess(time.monotonic() - began, 9)
            m.close()

    def test_what_was_written_there_can_be_read_here_after_waiting_for_its_position(self):
        c = self.cluster(3)
        for i in range(100):
            c.leader.write("counter", b"%d" % i, sync=True)
            seq = c.leader.pos
            reader = c.node[1 + i % 2]
            reader.set_xattr("wait", "%d 20" % seq)
            self.assertEqual(reader.read("counter"), b"%d" % i)
        with self.assertRaises(OSError) as e:
            reader.set_xattr("wait", "%d 1" % (seq + 100000))
        self.assertEqual(e.exception.errno, errno.ETIMEDOUT)

    def test_a_program_builds_on_the_leader_and_runs_on_the_follower(self):
        c = self.cluster(2, journal_size="64M", chunk_size="256M")
        src = c.leader.path("src")
        shutil.copytree(os.path.join(cluster.clawfs_env.ROOT, "base"), src)
        with open(src + "/main.c", "w") as f:
            f.write("#include <stdio.h>\nint main(void) { puts(\"hello\"); return 0; }\n")
        run("cc", "-o", src + "/hello", src + "/main.c")
        c.settle()
        out = subprocess.run([c.node[1].path("src", "hello")], stdout=subprocess.PIPE, text=True, check=True).stdout
        self.assertEqual(out, "hello\n")
        c.same()


if __name__ == "__main__":
    cluster.main()
