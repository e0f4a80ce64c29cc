#!/usr/bin/env python3
"""Copies that share blocks, on a real mount: cp, copy_file_range and `clawfs clone`; their space, what is written afterwards,
snapshots, kill -9, followers, and fsck."""

import hashlib
import os
import random
import subprocess
import time

from clawfs_env import EXIT_FAILURE, EXIT_OK, ClusterTest, VolumeTest, cli, main, seed

MIB = 1 << 20


def read(path):
    with open(path, "rb") as f:
        return f.read()


def digest(path):
    return hashlib.sha256(read(path)).hexdigest()


def used(v):
    """Bytes in use by data."""
    cli("sync", v.mnt, check=EXIT_OK)
    st = os.statvfs(v.mnt)
    return (st.f_blocks - st.f_bfree) * st.f_frsize


def fill(path, size, rng):
    with open(path, "wb") as f:
        for at in range(0, size, MIB):
            f.write(rng.randbytes(min(MIB, size - at)))
        f.flush()
        os.fsync(f.fileno())


def copy_range(a, b, n, from_off, to_off):
    done = 0
    while done < n:
        k = os.copy_file_range(a, b, n - done, from_off + done, to_off + done)
        if k == 0:
            break
        done += k
    return done


class Clone(VolumeTest):
    SIZE = 256 * MIB

    def test_a_copy_takes_no_space_and_little_time(self):
        v = self.volume()
        rng = random.Random(seed())
        a, b, c = v.path("a"), v.path("b"), v.path("c")
        fill(a, self.SIZE + 1234, rng)
        want, before = digest(a), used(v)
        began = time.monotonic()
        subprocess.run(["cp", a, b], check=True)
        shared = time.monotonic() - began
        self.assertLess(used(v) - before, MIB)
        subprocess.run(["cp", "--reflink=auto", "--sparse=never", b, c], check=True)
        cli("clone", c, v.path("d"), check=EXIT_OK)
        self.assertLess(used(v) - before, 3 * MIB)
        for name in "bcd":
            self.assertEqual(digest(v.path(name)), want)
            self.assertEqual(os.stat(v.path(name)).st_blocks, os.stat(a).st_blocks)
        began = time.monotonic()
        subprocess.run(["cp", "--reflink=never", a, v.path("e")], check=True)
        print("cp of %d MiB: %.2f s sharing, %.2f s copying" % (self.SIZE // MIB, shared, time.monotonic() - began))
        self.assertGreater(used(v) - before, self.SIZE - MIB)
        for name in "abc":
            os.unlink(v.path(name))
        self.assertEqual(digest(v.path("d")), want)
        v.umount()
        v.fsck()

    def test_either_file_is_written_as_a_database_would(self):
        v = self.volume()
        rng = random.Random(seed())
        size = 16 * MIB
        paths = [v.path("original"), v.path("clone")]
        fill(paths[0], size, rng)
        cli("clone", *paths, check=EXIT_OK)
        content = [bytearray(read(paths[0])) for _ in paths]
        fds = [os.open(p, os.O_RDWR) for p in paths]
        for i in range(600):
            k, n = rng.randrange(2), rng.choice((17, 4096, 8192, 8192, 131072))
            at = rng.randrange(0, size - n) // 4096 * 4096 if rng.randrange(4) else rng.randrange(0, size - n)
            data = rng.randbytes(n)
            os.pwrite(fds[k], data, at)
            content[k][at:at + n] = data
            if i % 10 == 0:
                os.fsync(fds[k])
            if i % 40 == 0:  # a part of the one becomes a part of the other
                at, n = rng.randrange(0, size // 4096) * 4096, rng.randrange(1, 100) * 4096
                n = copy_range(fds[k], fds[1 - k], min(n, size - at), at, at)
                content[1 - k][at:at + n] = content[k][at:at + n]
        os.fsync(fds[0])
        for k in range(2):
            self.assertEqual(read(paths[k]), bytes(content[k]))
            os.close(fds[k])
        v.kill9()
        v.mount()
        for k in range(2):
            self.assertEqual(read(paths[k]), bytes(content[k]))
        v.umount()
        v.fsck()

    def test_clones_and_snapshots(self):
        v = self.volume()
        rng = random.Random(seed())
        a, b = v.path("a"), v.path("b")
        fill(a, 8 * MIB, rng)
        before, want = used(v), digest(a)
        cli("clone", a, b, check=EXIT_OK)
        cli("snap", "create", "one", v.mnt, check=EXIT_OK)
        os.unlink(a)
        with open(b, "r+b") as f:
            f.write(rng.randbytes(MIB))
        cli("snap", "create", "two", v.mnt, check=EXIT_OK)
        os.unlink(b)
        snap = os.path.join(v.mnt, ".clawfs", "snapshots", "one")
        self.assertEqual(digest(os.path.join(snap, "a")), want)
        self.assertEqual(digest(os.path.join(snap, "b")), want)
        subprocess.run(["cp", os.path.join(snap, "a"), a], check=True)  # out of a snapshot it is a copy
        self.assertEqual(digest(a), want)
        cli("clone", a, b, check=EXIT_OK)
        for name in ("one", "two"):
            cli("snap", "delete", name, v.mnt, check=EXIT_OK)
        deadline = time.monotonic() + 30
        while used(v) - before > 2 * MIB and time.monotonic() < deadline:
            time.sleep(0.2)
        self.assertLess(used(v) - before, 2 * MIB)
        self.assertEqual(digest(b), want)
        v.umount()
        v.fsck()

    def test_holes_small_files_and_what_is_refused(self):
        v = self.volume()
        sparse, dst = v.path("sparse"), v.path("dst")
        with open(sparse, "wb") as f:
            f.truncate(64 * MIB + 5)
            f.seek(10 * MIB)
            f.write(b"x" * 10000)
        os.chmod(sparse, 0o640)
        cli("clone", sparse, dst, check=EXIT_OK)
        self.assertEqual(read(dst), read(sparse))
        umask = os.umask(0)
        os.umask(umask)
        self.assertEqual(os.stat(dst).st_mode & 0o777, 0o640 & ~umask)
        self.assertLess(os.stat(dst).st_blocks * 512, MIB)
        v.write("empty", b"")
        v.write("small", b"hello")
        cli("clone", v.path("small"), dst, check=EXIT_OK)  # over another one
        self.assertEqual(v.read("dst"), b"hello")
        cli("clone", v.path("empty"), dst, check=EXIT_OK)
        self.assertEqual(v.read("dst"), b"")
        outside = os.path.join(self.tmp, "outside")
        with open(outside, "wb") as f:
            f.write(b"outside")
        v.write("dst", b"stays")
        os.link(v.path("dst"), v.path("same"))
        for src, to, why in ((outside, v.path("new"), "not on a clawfs mount"), (v.path("small"), outside, "not on one mount"),
                             (v.path("dst"), v.path("same"), "the same file"), (v.path("none"), dst, "No such file"),
                             (v.mnt, dst, "not a regular file"), (v.path("small"), v.mnt, "s a directory")):
            r = cli("clone", src, to)
            self.assertEqual(r.returncode, EXIT_FAILURE, (src, to))
            self.assertIn(why, r.stderr)
        self.assertFalse(os.path.exists(v.path("new")))
        self.assertEqual(v.read("dst"), b"stays")
        self.assertEqual(read(outside), b"outside")
        v.umount()
        v.fsck()


class Followers(ClusterTest):
    def test_followers_have_the_same_files(self):
        c = self.cluster(2)
        rng = random.Random(seed())
        top = c.leader.path("")
        fill(os.path.join(top, "a"), 12 * MIB + 77, rng)
        for i in range(12):
            cli("clone", os.path.join(top, "a"), os.path.join(top, "c%d" % i), check=EXIT_OK)
            with open(os.path.join(top, "c%d" % i if i % 2 else "a"), "r+b") as f:
                f.seek(rng.randrange(12 * MIB))
                f.write(rng.randbytes(rng.randrange(1, 200000)))
        os.unlink(os.path.join(top, "c3"))
        want = {name: digest(os.path.join(top, name)) for name in os.listdir(top)}
        c.settle()
        follower = c.node[1]
        got = {name: digest(follower.path(name)) for name in os.listdir(follower.path(""))}
        self.assertEqual(got, want)
        self.assertLess(used(follower), 40 * MIB)  # it shares, too
        for node in c.node:
            node.umount()
            node.fsck()


if __name__ == "__main__":
    main()
