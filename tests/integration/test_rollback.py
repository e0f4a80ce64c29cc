#!/usr/bin/env python3
"""Going back to a snapshot on a real mount: whole trees, what the kernel has cached, open and mapped files, kill -9, a follower."""

import json
import mmap
import os
import random
import subprocess
import threading
import time

from clawfs_env import (EXIT_FAILURE, EXIT_OK, EXIT_USAGE, ClusterTest, VolumeTest, cli, main, seed, wait_for)
from test_snap import as_user, change, error_of, tree

NOBODY = 65534


def names(v):
    return sorted(os.listdir(v.path(".clawfs", "snapshots")))


class Rollback(VolumeTest):
    def made(self, v, name):
        return v.path(".clawfs", "snapshots", name)

    def test_each_snapshot_comes_back_from_anywhere(self):
        """By verb and by attribute; what was there before is a snapshot; over kill -9 and a clean restart."""
        rng = random.Random(seed())
        v = self.volume()
        want = {}
        for i in range(4):
            change(rng, v.mnt, 25)
            os.setxattr(v.path("d%d" % i) if os.path.isdir(v.path("d%d" % i)) else v.mnt, "user.round", b"%d" % i)
            os.mkdir(self.made(v, "s%d" % i))
            want["s%d" % i] = tree(v.mnt)
        for i in range(10):
            change(rng, v.mnt, 5)
            before = tree(v.mnt)
            name = rng.choice(sorted(want))
            if i % 3 == 0:
                os.setxattr(v.mnt, "clawfs.snap.rollback", name.encode())
            elif i % 3 == 1:
                cli("snap", "rollback", name, v.mnt, check=EXIT_OK)
            else:
                cli("snap", "rollback", "--no-keep", name, v.mnt, check=EXIT_OK)
            self.assertEqual(tree(v.mnt), want[name], "round %d: %s" % (i, name))
            self.assertEqual(json.loads(cli("snap", "diff", "--json", name, v.mnt, check=EXIT_OK).stdout), [])
            new = [n for n in names(v) if n not in want]
            self.assertEqual(len(new), 0 if i % 3 == 2 else 1, new)
            if new:
                self.assertRegex(new[0], r"^before-rollback-\d{8}-\d{6}(-\d+)?$")
                self.assertEqual(tree(self.made(v, new[0])), before)
                want[new[0]] = before
            if i % 4 == 1:
                v.kill9()
                v.mount()
            if i % 4 == 3:
                v.remount()
            self.assertEqual(tree(v.mnt), want[name], "round %d: %s, mounted anew" % (i, name))
            for other, facts in want.items():
                self.assertEqual(tree(self.made(v, other)), facts, other)
        while len(want) > 1:
            gone = rng.choice(sorted(want))
            os.rmdir(self.made(v, gone))
            del want[gone]
        last = sorted(want)[0]
        cli("snap", "rollback", "--no-keep", last, v.mnt, check=EXIT_OK)
        self.assertEqual(tree(v.mnt), want[last])
        os.rmdir(self.made(v, last))
        self.assertEqual(tree(v.mnt), want[last])
        v.umount()
        v.fsck()

    def test_what_the_kernel_has_cached_is_not_shown_any_more(self):
        v = self.volume()
        v.write("same", b"the same\n")
        v.write("longer", b"x" * 100)
        v.write("shorter", b"y" * 9000)
        v.write("gone", b"gone\n")
        os.makedirs(v.path("a/b/c"))
        v.write("a/b/c/deep", b"deep\n")
        v.write("a/b/moved", b"moved\n")
        facts = {n: os.stat(v.path(n)) for n in ("same", "longer", "shorter", "gone", "a/b/c/deep")}
        os.mkdir(self.made(v, "s"))
        v.write("longer", b"x" * 70000)
        os.truncate(v.path("shorter"), 10)
        os.utime(v.path("same"), (1, 1))
        os.unlink(v.path("gone"))
        os.rename(v.path("a/b/moved"), v.path("elsewhere"))
        os.rename(v.path("a/b"), v.path("b"))
        v.write("new", b"new\n")
        # All of it in the kernel's caches: positive and negative names, attributes, pages, lists, a working directory.
        for path in ("same", "longer", "shorter", "elsewhere", "b/c/deep", "new"):
            with open(v.path(path), "rb") as f:
                f.read()
        for path in ("gone", "a/b", "a/b/moved"):
            self.assertFalse(os.path.exists(v.path(path)))
        os.listdir(v.mnt)
        inside = subprocess.Popen(["sleep", "60"], cwd=v.path("b/c"))
        try:
            cli("snap", "rollback", "s", v.mnt, check=EXIT_OK)
            for path, st in facts.items():
                now = os.stat(v.path(path))
                self.assertEqual((now.st_ino, now.st_size, now.st_mtime_ns, now.st_nlink),
                                 (st.st_ino, st.st_size, st.st_mtime_ns, st.st_nlink), path)
            self.assertEqual(v.read("longer"), b"x" * 100)
            self.assertEqual(v.read("shorter"), b"y" * 9000)
            self.assertEqual(v.read("gone"), b"gone\n")
            self.assertEqual(v.read("a/b/moved"), b"moved\n")
            self.assertEqual(sorted(n for n in os.listdir(v.mnt) if n != ".clawfs"), ["a", "gone", "longer", "same", "shorter"])
            self.assertEqual(os.listdir(v.path("a")), ["b"])
            for path in ("new", "elsewhere", "b"):
                self.assertFalse(os.path.lexists(v.path(path)), path)
            self.assertEqual(os.readlink("/proc/%d/cwd" % inside.pid), v.path("a/b/c"))
        finally:
            inside.kill()
            inside.wait()
        with open(v.path("longer"), "ab") as f:
            f.write(b"more")
        self.assertEqual(v.read("longer"), b"x" * 100 + b"more")
        v.remount()
        self.assertEqual(v.read("longer"), b"x" * 100 + b"more")
        v.umount()
        v.fsck()

    def test_open_and_mapped_files(self):
        """What is not in the snapshot fails for whoever has it open; an unchanged file goes on; a mapping shows what came back."""
        v = self.volume()
        v.write("mapped", b"A" * 8192)
        v.write("unchanged", b"u" * 5000)
        v.write("was unlinked", b"w" * 5000)
        os.mkdir(self.made(v, "s"))
        v.write("mapped", b"B" * 8192, sync=True)
        unlinked = open(v.path("was unlinked"), "rb")
        os.unlink(v.path("was unlinked"))
        with open(v.path("unchanged"), "rb") as unchanged, open(v.path("new"), "w+b", buffering=0) as new, \
                open(v.path("mapped"), "rb") as f, mmap.mmap(f.fileno(), 8192, prot=mmap.PROT_READ) as m:
            new.write(b"n" * 100000)  # dirty, when the tree goes back
            self.assertEqual(m[0:1] + m[4096:4097], b"BB")
            cli("snap", "rollback", "s", v.mnt, check=EXIT_OK)
            self.assertEqual(m[0:1] + m[4096:4097], b"AA")
            self.assertEqual(unchanged.read(), b"u" * 5000)
            self.assertEqual(os.pread(unchanged.fileno(), 10, 0), b"u" * 10)
            self.assertIn(error_of(os.pread, new.fileno(), 10, 0), ("ENOENT", "EIO", "ESTALE"))
            self.assertIn(error_of(lambda: (os.write(new.fileno(), b"more"), os.fsync(new.fileno()))), ("ENOENT", "EIO", "ESTALE"))
            self.assertFalse(os.path.exists(v.path("new")))
        unlinked.close()
        time.sleep(1)  # the reaper would have had its turn
        self.assertEqual(v.read("was unlinked"), b"w" * 5000)
        self.assertEqual(v.read("mapped"), b"A" * 8192)
        v.umount()
        v.fsck()

    def test_writers_at_work(self):
        """Nobody is stopped by it, what was written before is gone, and what comes after is whole."""
        v = self.volume()
        os.mkdir(v.path("kept"))
        v.write("kept/file", b"k" * 100000)
        os.mkdir(self.made(v, "s"))
        kept = tree(v.path("kept"))
        stop = threading.Event()
        wrong = []

        def work(me):
            n = 0
            while not stop.is_set():
                try:
                    d = v.path("w%d" % me)
                    os.makedirs(d, exist_ok=True)
                    with open(os.path.join(d, "f%d" % (n % 7)), "wb") as f:
                        f.write(b"%d" % me * 20000)
                    os.listdir(d)
                    if n % 5 == 0:
                        os.rename(os.path.join(d, "f%d" % (n % 7)), os.path.join(d, "g"))
                except OSError:
                    pass  # the ground was taken away
                except Exception as e:  # pylint: disable=broad-except
                    wrong.append(e)
                n += 1

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        try:
            for _ in range(12):
                time.sleep(0.2)
                cli("snap", "rollback", "--no-keep", "s", v.mnt, check=EXIT_OK)
                self.assertEqual(tree(v.path("kept")), kept)
        finally:
            stop.set()
            for t in threads:
                t.join()
        self.assertEqual(wrong, [])
        cli("snap", "rollback", "--no-keep", "s", v.mnt, check=EXIT_OK)
        self.assertEqual(sorted(n for n in os.listdir(v.mnt) if n != ".clawfs"), ["kept"])
        status = v.status()
        self.assertFalse(status.get("failure"), status)
        v.umount()
        v.fsck()

    def test_killed_at_any_time(self):
        """Before it or after it, never between."""
        rng = random.Random(seed())
        v = self.volume()
        for i in range(300):
            v.write("f%d" % i, rng.randbytes(rng.randrange(1, 9000)))
        os.mkdir(self.made(v, "s"))
        then = tree(v.mnt)
        for turn in range(6):
            for i in range(0, 300, 2):
                if os.path.exists(v.path("f%d" % i)):
                    os.unlink(v.path("f%d" % i))
                v.write("g%d" % i, rng.randbytes(3000))
            os.sync()
            os.fsync(os.open(v.mnt, os.O_RDONLY))
            now = tree(v.mnt)
            p = subprocess.Popen(["setfattr", "-n", "clawfs.snap.rollback.discard", "-v", "s", v.mnt], stderr=subprocess.DEVNULL)
            time.sleep(rng.random() * 0.1)
            v.kill9()
            p.wait()
            v.mount()
            self.assertIn(tree(v.mnt), (now, then), "turn %d" % turn)
        v.umount()
        v.fsck()

    def test_only_an_admin_may(self):
        os.chmod(self.tmp, 0o711)
        v = self.volume("allow_other")
        os.chmod(os.path.dirname(v.mnt), 0o711)
        os.mkdir(self.made(v, "s"))
        v.write("later", b"later\n")
        for what in ("clawfs.snap.rollback", "clawfs.snap.rollback.discard"):
            self.assertNotEqual(as_user(NOBODY, "setfattr", "-n", what, "-v", "s", v.mnt).returncode, 0)
            self.assertEqual(error_of(os.setxattr, v.mnt, what, b"none"), "ENOENT")
            self.assertEqual(error_of(os.setxattr, v.mnt, what, b"a\0b"), "EINVAL")
            self.assertEqual(error_of(os.setxattr, v.mnt, what, b"x" * 256), "ENAMETOOLONG")
        self.assertEqual(v.read("later"), b"later\n")
        self.assertIn("no snapshot none", cli("snap", "rollback", "none", v.mnt, check=EXIT_FAILURE).stderr)
        cli("snap", "rollback", v.mnt, check=EXIT_USAGE)
        cli("snap", "rollback", "s", v.mnt, check=EXIT_OK)
        self.assertFalse(os.path.exists(v.path("later")))

    def test_quotas_and_totals_are_those_of_the_tree(self):
        v = self.volume()
        os.mkdir(v.path("d"))
        v.write("d/a", b"a" * 10000)
        cli("quota", "set", "--max-bytes", "50k", v.path("d"), check=EXIT_OK)
        os.mkdir(self.made(v, "s"))
        cli("quota", "set", "--max-bytes", "none", v.path("d"), check=EXIT_OK)
        v.write("d/b", b"b" * 100000)
        self.assertEqual(os.getxattr(v.path("d"), "clawfs.dir.rbytes"), b"110000")
        cli("snap", "rollback", "s", v.mnt, check=EXIT_OK)
        self.assertEqual(os.getxattr(v.path("d"), "clawfs.dir.rbytes"), b"10000")
        self.assertEqual(os.getxattr(v.path("d"), "clawfs.dir.rfiles"), b"1")
        self.assertEqual(error_of(lambda: v.write("d/b", b"b" * 100000, sync=True)), "EDQUOT")
        cli("quota", "set", "--max-bytes", "none", v.path("d"), check=EXIT_OK)
        v.write("d/b", b"b" * 100000, sync=True)
        v.umount()
        v.fsck()


class Followers(ClusterTest):
    def assert_same(self, c):
        c.settle()
        want = tree(c.leader.mnt)
        for n in c.followers:
            self.assertEqual(tree(n.mnt), want, n.name)

    def test_followers_go_back_too(self):
        """One that has the snapshot with its own blocks; one that joined after it was made by a resync; then the lead changes."""
        rng = random.Random(seed())
        c = self.cluster(2)
        a, b = c.node
        change(rng, a.mnt, 25)
        os.mkdir(a.path(".clawfs", "snapshots", "s"))
        want = tree(a.mnt)
        c.settle()
        self.assertEqual(tree(b.mnt), want)
        late = c.join()
        change(rng, a.mnt, 25)
        a.write("not there then", b"x" * 100000)
        self.assert_same(c)
        with open(b.path("not there then"), "rb") as f:
            f.read()
            a.cli("snap", "rollback", "s", a.mnt)
            self.assertEqual(tree(a.mnt), want)
            self.assert_same(c)
            self.assertFalse(os.path.exists(b.path("not there then")))
        self.assertIn("s", os.listdir(b.path(".clawfs", "snapshots")))
        self.assertNotIn("s", os.listdir(late.path(".clawfs", "snapshots")))
        change(rng, a.mnt, 10)
        self.assert_same(c)
        b.umount()
        change(rng, a.mnt, 10)
        a.cli("snap", "rollback", "--no-keep", "s", a.mnt)
        b.start()
        self.assert_same(c)
        self.assertEqual(tree(b.mnt), want)
        a.umount()
        c.promote(b)
        kept = [n for n in os.listdir(b.path(".clawfs", "snapshots")) if n != "s"]
        self.assertEqual(len(kept), 1, kept)
        b.cli("snap", "rollback", kept[0], b.mnt)
        self.assertTrue(os.path.exists(b.path("not there then")))
        b.cli("snap", "rollback", "s", b.mnt)
        self.assertEqual(tree(b.mnt), want)
        a.start()
        self.assert_same(c)
        for n in c.node:
            n.umount()
            n.fsck()


if __name__ == "__main__":
    main()
