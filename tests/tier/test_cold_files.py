"""Cold files of a mounted volume with a directory as their store: out, back, policies, and what is promised around them."""

import errno
import glob
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
import clawfs_env
from clawfs_env import EXIT_FAILURE, EXIT_OK, Volume, cli, wait_for

from cold_env import forget

SEED = clawfs_env.seed()
BLOCK = 4096


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def tree(top):
    """{relative path: (size, blocks, mtime, digest)} of the regular files below `top`."""
    found = {}
    for base, _, files in os.walk(top):
        for name in files:
            p = os.path.join(base, name)
            s = os.lstat(p)
            found[os.path.relpath(p, top)] = (s.st_size, s.st_blocks, s.st_mtime_ns, digest(p))
    return found


class ColdTest(clawfs_env.VolumeTest):
    def setUp(self):
        super().setUp()
        self.random = random.Random(SEED)
        self.cold = os.path.join(self.tmp, "cold")
        os.mkdir(self.cold)

    def tiered(self, *mount_options, policy="after=1d min=4K store=cold", add=(), **format_options):
        """A mounted volume whose store is a directory, with that policy for everything."""
        v = self.volume(*mount_options, **format_options)
        cli("tier", "add", "cold", "file://" + self.cold, v.mnt, *add, check=EXIT_OK)
        if policy:
            os.setxattr(v.mnt, "clawfs.tier", policy.encode())
        return v

    def objects(self):
        return glob.glob(os.path.join(self.cold, "packs", "*", "*"))

    def state(self, v, name):
        return os.getxattr(v.path(name), "clawfs.tier.state").decode()

    def evict(self, v, name=".", check=EXIT_OK):
        """And out of the kernel's memory, so that the next read asks the daemon."""
        r = cli("tier", "evict", v.path(name), check=check, timeout=300)
        forget(v.path(name))
        return r


class Files(ColdTest):
    def test_a_file_goes_out_and_comes_back_when_it_is_read(self):
        v = self.tiered()
        data = self.random.randbytes(5 * 1024 * 1024 + 123)
        v.write("f", data)
        before = os.lstat(v.path("f"))
        self.evict(v, "f")
        self.assertEqual(self.state(v, "f"), "cold")
        after = os.lstat(v.path("f"))
        self.assertEqual((before.st_size, before.st_blocks, before.st_mtime_ns), (after.st_size, after.st_blocks, after.st_mtime_ns))
        self.assertEqual(v.read("f"), data)
        wait_for("the file to be kept", lambda: self.state(v, "f") == "hot")
        v.remount()
        self.assertEqual(v.read("f"), data)
        v.umount()
        v.fsck()

    def test_what_is_cold_survives_remount_and_kill(self):
        v = self.tiered()
        for i in range(40):
            v.write("f%d" % i, self.random.randbytes(self.random.randrange(1, 300000)))
        want = tree(v.mnt)
        self.evict(v)
        v.kill9()
        v.mount()
        self.assertEqual(tree(v.mnt), want)  # the drop of a local copy may be undone by a crash, nothing else
        self.evict(v)
        v.remount()
        self.assertEqual({self.state(v, n) for n in want}, {"cold"})
        self.assertEqual(tree(v.mnt), want)
        v.umount()
        v.fsck()

    def test_space_comes_back(self):
        v = self.tiered()
        v.write("f", self.random.randbytes(40 << 20))
        cli("sync", v.mnt, check=EXIT_OK)
        os.setxattr(v.mnt, "clawfs.checkpoint", b"1")
        used = v.status()["arena"]["used_bytes"]
        self.assertGreaterEqual(used, 40 << 20)
        self.evict(v, "f")
        os.setxattr(v.mnt, "clawfs.checkpoint", b"1")
        self.assertLess(v.status()["arena"]["used_bytes"], used - (39 << 20))

    def test_a_thousand_small_files_make_a_few_objects(self):
        v = self.tiered()
        os.mkdir(v.path("d"))
        want = {}
        for i in range(1000):
            want["%d" % i] = self.random.randbytes(10240)
            v.write("d/%d" % i, want["%d" % i])
        self.evict(v, "d")
        self.assertLessEqual(len(self.objects()), 4)
        for name, data in want.items():
            self.assertEqual(v.read("d/" + name), data)

    def test_files_of_all_sizes_come_back_together(self):
        # In little memory: what is asked for ahead does not fit all at once.
        v = self.tiered("memory=128M")
        sizes = [self.random.choice((4096, 10240, 65536, 70000, 300000, 1 << 20, (1 << 20) + 1)) for _ in range(200)] + [10240] * 900
        self.random.shuffle(sizes)
        for i, size in enumerate(sizes):
            v.write("%d" % i, self.random.randbytes(size))
        want = tree(v.mnt)
        self.evict(v)
        self.assertEqual({self.state(v, n) for n in want}, {"cold"})
        cli("tier", "recall", v.mnt, check=EXIT_OK, timeout=120)
        self.assertEqual({self.state(v, n) for n in want}, {"hot"})
        shutil.rmtree(self.cold)  # nothing of it is needed any more
        self.assertEqual(tree(v.mnt), want)
        v.umount()
        v.fsck()

    def test_lists_of_inodes(self):
        v = self.tiered()
        for name in ("a", "b", "c"):
            v.write(name, self.random.randbytes(20000))
        inodes = lambda *names: b" ".join(b"%d" % os.lstat(v.path(n)).st_ino for n in names)
        for attribute in ("clawfs.tier.evict-inodes", "clawfs.tier.recall-inodes"):
            for value, error in ((b" ", errno.EINVAL), (b"x", errno.EINVAL), (b"1x", errno.EINVAL), (b"0", errno.EINVAL),
                                 (inodes("a") + b" ", errno.EINVAL), (b" " + inodes("a"), errno.EINVAL), (b"-1", errno.EINVAL),
                                 (inodes("a") + b"  " + inodes("b"), errno.EINVAL), (b"18446744073709551616", errno.EINVAL),
                                 (b"18446744073709551615", errno.EROFS), (b"%d" % (1 << 40), errno.ENOENT)):
                with self.assertRaises(OSError, msg=(attribute, value)) as e:
                    os.setxattr(v.mnt, attribute, value)
                self.assertEqual(e.exception.errno, error, (attribute, value))
            with self.assertRaises(OSError) as e:
                os.setxattr(v.path("a"), attribute, inodes("a"))
            self.assertEqual(e.exception.errno, errno.EOPNOTSUPP)
        with self.assertRaises(OSError) as e:
            os.setxattr(v.mnt, "clawfs.tier.evict-inodes", inodes("."))
        self.assertEqual(e.exception.errno, errno.EINVAL)
        self.assertEqual([self.state(v, n) for n in "abc"], ["hot"] * 3)
        os.setxattr(v.mnt, "clawfs.tier.evict-inodes", inodes("a", "b"))
        os.setxattr(v.mnt, "clawfs.tier.flush", b"1")
        self.assertEqual([self.state(v, n) for n in "abc"], ["cold", "cold", "hot"])
        os.setxattr(v.mnt, "clawfs.tier.recall-inodes", inodes("b", "c", "b"))
        self.assertEqual([self.state(v, n) for n in "abc"], ["cold", "hot", "hot"])
        # One that may not go out is told of by its name, and the others go.
        cli("tier", "pin", v.path("c"), check=EXIT_OK)
        r = self.evict(v, check=EXIT_FAILURE)
        self.assertIn("/c: pinned", r.stderr)
        self.assertNotIn("/b:", r.stderr)
        self.assertEqual([self.state(v, n) for n in "abc"], ["cold", "cold", "pinned"])

    def test_writing_to_a_cold_file_fetches_only_what_it_must(self):
        v = self.tiered()
        data = bytearray(self.random.randbytes(32 << 20))
        v.write("f", data)
        self.evict(v, "f")
        before = v.status()["tier"]["recall"]["fetched_bytes"]
        with open(v.path("f"), "r+b") as f:
            f.seek(7 * 65536 + 100)
            f.write(b"x" * 1000)
            os.fsync(f.fileno())
        data[7 * 65536 + 100:7 * 65536 + 1100] = b"x" * 1000
        self.assertLess(v.status()["tier"]["recall"]["fetched_bytes"] - before, 8 << 20)
        self.assertEqual(self.state(v, "f"), "mixed")
        self.assertEqual(v.read("f"), bytes(data))
        self.evict(v, "f")
        self.assertEqual(v.read("f"), bytes(data))

    def test_truncate_unlink_rename_ask_no_store(self):
        v = self.tiered()
        for name in "abcd":
            v.write(name, self.random.randbytes(3 << 20))
        want = digest(v.path("c"))
        self.evict(v)
        os.rename(self.cold, self.cold + ".away")
        os.unlink(v.path("a"))
        os.truncate(v.path("b"), 1 << 20)
        os.truncate(v.path("b"), 0)
        os.rename(v.path("c"), v.path("e"))
        os.truncate(v.path("d"), 64 << 20)
        self.assertEqual(os.lstat(v.path("d")).st_size, 64 << 20)
        cli("sync", v.mnt, check=EXIT_OK)
        os.rename(self.cold + ".away", self.cold)
        self.assertEqual(digest(v.path("e")), want)
        self.assertEqual(v.read("b"), b"")

    def test_sparse_files_stay_sparse_and_are_seen_as_they_are(self):
        v = self.tiered()
        with open(v.path("s"), "wb") as f:
            for at in (0, 1 << 20, 37 << 20):
                f.seek(at)
                f.write(self.random.randbytes(70000))
        want, blocks = v.read("s"), os.lstat(v.path("s")).st_blocks
        self.evict(v, "s")
        self.assertEqual(os.lstat(v.path("s")).st_blocks, blocks)
        fd = os.open(v.path("s"), os.O_RDONLY)
        try:
            self.assertEqual(os.lseek(fd, 0, os.SEEK_DATA), 0)
            self.assertEqual(os.lseek(fd, 200000, os.SEEK_DATA), 1 << 20)
        finally:
            os.close(fd)
        self.assertEqual(v.read("s"), want)
        out = os.path.join(self.tmp, "out.tar")
        self.evict(v, "s")
        subprocess.run(["tar", "-C", v.mnt, "--sparse", "-cf", out, "s"], check=True)
        subprocess.run(["tar", "-C", self.tmp, "-xf", out], check=True)
        with open(os.path.join(self.tmp, "s"), "rb") as f:
            self.assertEqual(f.read(), want)

    def test_programs_on_cold_files(self):
        v = self.tiered()
        os.mkdir(v.path("src"))
        for i in range(200):
            v.write("src/%d.txt" % i, (b"needle %d\n" % i) * self.random.randrange(1, 4000))
        other = os.path.join(self.tmp, "copy")
        subprocess.run(["cp", "-a", v.path("src"), other], check=True)
        self.evict(v, "src")
        subprocess.run(["diff", "-r", v.path("src"), other], check=True)
        self.evict(v, "src")
        found = subprocess.run(["grep", "-rl", "needle 77$", v.path("src")], stdout=subprocess.PIPE, text=True).stdout.split()
        self.assertEqual(found, [v.path("src/77.txt")])
        self.evict(v, "src")
        subprocess.run(["cp", "-a", v.path("src"), v.path("src2")], check=True)
        subprocess.run(["rsync", "-a", "--checksum", v.path("src") + "/", v.path("src3") + "/"], check=True)
        subprocess.run(["diff", "-r", v.path("src2"), v.path("src3")], check=True)

    def test_random_changes_of_files_that_go_out_and_come_back(self):
        v = self.tiered(policy="after=1d min=4K store=cold")
        model = {}
        names = ["f%d" % i for i in range(8)]
        for step in range(300):
            name, what = self.random.choice(names), self.random.random()
            data = model.get(name)
            if data is None or what < 0.1:
                data = bytearray(self.random.randbytes(self.random.randrange(0, 400000)))
                v.write(name, data)
            elif what < 0.55:
                at = self.random.randrange(0, len(data) + 50000)
                piece = self.random.randbytes(self.random.randrange(1, 90000))
                if at > len(data):
                    data += bytes(at - len(data))
                data[at:at + len(piece)] = piece
                with open(v.path(name), "r+b") as f:
                    f.seek(at)
                    f.write(piece)
            elif what < 0.65:
                size = self.random.randrange(0, 500000)
                os.truncate(v.path(name), size)
                data = data[:size] + bytes(max(0, size - len(data)))
            elif what < 0.8:
                self.evict(v, name)
            elif what < 0.9:
                self.assertEqual(v.read(name), bytes(data), name)
            elif what < 0.93:
                cli("tier", "recall", v.path(name), check=EXIT_OK)
            elif what < 0.95:
                v.remount()
            model[name] = bytearray(data)
        for name, data in model.items():
            self.assertEqual(v.read(name), bytes(data), name)
        v.umount()
        v.fsck()


class Policies(ColdTest):
    def test_old_files_go_out_by_themselves(self):
        v = self.tiered(policy="after=2s min=8K store=cold")
        v.write("big", self.random.randbytes(100000))
        v.write("small", b"x" * 1000)
        time.sleep(2.5)
        os.setxattr(v.mnt, "clawfs.tier.scan", b"1")
        wait_for("the big file to be cold", lambda: self.state(v, "big") == "cold", 30)
        self.assertEqual(self.state(v, "small"), "hot")

    def test_policies_are_inherited_and_can_be_none(self):
        v = self.tiered(policy=None)
        for d in ("a", "a/b", "c"):
            os.mkdir(v.path(d))
        os.setxattr(v.path("a"), "clawfs.tier", b"after=30d min=64K store=cold")
        os.setxattr(v.path("a/b"), "clawfs.tier", b"none")
        self.assertEqual(os.getxattr(v.path("a"), "clawfs.tier"), b"after=30d min=64K store=cold")
        for name in ("a/f", "a/b/f", "c/f"):
            v.write(name, self.random.randbytes(100000))
        self.evict(v, "a/f")
        self.evict(v, "a/b/f", check=EXIT_FAILURE)
        self.evict(v, "c/f", check=EXIT_FAILURE)
        self.assertEqual([self.state(v, n) for n in ("a/f", "a/b/f", "c/f")], ["cold", "hot", "hot"])

    def test_what_is_no_policy_is_refused(self):
        v = self.tiered(policy=None)
        for name, value in (("clawfs.tier", "x"), ("clawfs.tier", "after=-1d store=cold"), ("clawfs.tier", "after=1d"),
                            ("clawfs.tier", "after=1d store=../x"), ("clawfs.recall", "sometimes"), ("clawfs.tier.pin", "maybe")):
            with self.assertRaises(OSError) as e:
                os.setxattr(v.mnt, name, value.encode())
            self.assertEqual(e.exception.errno, errno.EINVAL, value)

    def test_pinned_files_stay(self):
        v = self.tiered()
        v.write("f", self.random.randbytes(200000))
        self.evict(v, "f")
        cli("tier", "pin", v.path("f"), check=EXIT_OK)
        self.assertEqual(self.state(v, "f"), "pinned")
        self.evict(v, "f", check=EXIT_FAILURE)
        self.assertEqual(self.state(v, "f"), "pinned")
        cli("tier", "unpin", v.path("f"), check=EXIT_OK)
        self.evict(v, "f")
        self.assertEqual(self.state(v, "f"), "cold")

    def test_recall_modes(self):
        v = self.tiered()
        for d in ("cache", "stream", "deny"):
            os.mkdir(v.path(d))
            os.setxattr(v.path(d), "clawfs.recall", d.encode())
            v.write(d + "/f", self.random.randbytes(150000))
        want = {d: v.read(d + "/f") for d in ("cache", "stream", "deny")}
        self.evict(v)
        self.assertEqual(v.read("cache/f"), want["cache"])
        self.assertEqual(v.read("stream/f"), want["stream"])
        with self.assertRaises(OSError) as e:
            v.read("deny/f")
        self.assertEqual(e.exception.errno, errno.EACCES)
        wait_for("the kept file", lambda: self.state(v, "cache/f") == "hot")
        self.assertEqual(self.state(v, "stream/f"), "cold")
        cli("tier", "recall", v.path("deny/f"), check=EXIT_OK)
        self.assertEqual(v.read("deny/f"), want["deny"])

    def test_reads_of_cold_files_are_limited(self):
        v = self.tiered("recall_rate=4M")
        v.write("f", self.random.randbytes(24 << 20))
        self.evict(v, "f")
        began = time.monotonic()
        v.read("f")
        self.assertGreater(time.monotonic() - began, 3)

    def test_above_high_water_the_coldest_go_first(self):
        v = self.tiered("high_water=50", policy="after=30000d min=4K store=cold", size="256M")
        for i in range(16):
            v.write("f%02d" % i, self.random.randbytes(10 << 20), sync=True)
            os.utime(v.path("f%02d" % i), (1000000 * (i + 1), 1000000 * (i + 1)))
        os.setxattr(v.mnt, "clawfs.tier.scan", b"1")
        wait_for("the coldest to be out", lambda: self.state(v, "f00") == "cold", 60)
        time.sleep(1)
        states = [self.state(v, "f%02d" % i) for i in range(16)]
        self.assertEqual(states, sorted(states), states)  # cold ones first
        self.assertIn("hot", states)

    def test_only_an_admin_may_evict_or_set_policies(self):
        v = self.tiered("allow_other")
        v.write("f", self.random.randbytes(100000))
        os.chmod(v.path("f"), 0o666)
        code = ("import os, sys\nos.setuid(65534)\n"
                "for n in ('clawfs.tier.evict', 'clawfs.tier', 'clawfs.tier.pin', 'clawfs.recall'):\n"
                "    try:\n        os.setxattr(sys.argv[1], n, b'none')\n        sys.exit('%s was allowed' % n)\n"
                "    except PermissionError: pass\n")
        subprocess.run([sys.executable, "-c", code, v.path("f")], check=True)
        code = code.replace("'clawfs.tier', 'clawfs.tier.pin', 'clawfs.recall'", "'clawfs.tier.evict-inodes', 'clawfs.tier.recall-inodes'")
        subprocess.run([sys.executable, "-c", code, v.mnt], check=True)


class Stores(ColdTest):
    def test_a_store_belongs_to_one_volume(self):
        self.tiered()
        other = self.volume(name="other")
        r = cli("tier", "add", "cold", "file://" + self.cold, other.mnt, check=EXIT_FAILURE)
        self.assertIn("volume", r.stderr)
        self.assertNotIn("cold", cli("tier", "list", other.mnt, check=EXIT_OK).stdout)

    def test_wrong_definitions_are_refused(self):
        v = self.volume()
        for name, url, *options in (("BAD NAME", "file:///tmp"), ("x", "ftp://x"), ("x", "file://relative"), ("x", "s3://"),
                                    ("x", "file://" + self.cold, "--pack", "1K"), ("x", "file://" + self.cold, "--verify", "never")):
            self.assertNotEqual(cli("tier", "add", name, url, v.mnt, *options).returncode, EXIT_OK, (name, url, options))
        self.assertNotEqual(cli("tier", "add", "x", "file:///nonexistent/dir", v.mnt).returncode, EXIT_OK)

    def test_the_store_can_be_tried(self):
        v = self.tiered()
        r = cli("tier", "test", "cold", v.mnt, check=EXIT_OK)
        for word in ("put", "read back", "range", "list", "remove"):
            self.assertIn(word, r.stdout.lower())

    def test_a_store_in_use_stays(self):
        v = self.tiered(add=("--grace", "1s"))
        v.write("f", self.random.randbytes(100000))
        self.evict(v, "f")
        r = cli("tier", "remove", "cold", v.mnt, check=EXIT_FAILURE)
        self.assertIn("objects", r.stderr)
        os.unlink(v.path("f"))

        def removed():
            os.setxattr(v.mnt, "clawfs.tier.scan", b"1")
            return cli("tier", "remove", "cold", v.mnt).returncode == EXIT_OK

        wait_for("the store to be empty", removed, 60, 0.5)
        self.assertEqual(self.objects(), [])

    def test_deleted_data_leaves_the_store_after_the_grace_time(self):
        v = self.tiered(add=("--grace", "2s"))
        v.write("f", self.random.randbytes(1 << 20))
        self.evict(v, "f")
        self.assertEqual(len(self.objects()), 1)
        os.unlink(v.path("f"))
        cli("sync", v.mnt, check=EXIT_OK)
        time.sleep(0.5)
        self.assertEqual(len(self.objects()), 1)

        def gone():
            os.setxattr(v.mnt, "clawfs.tier.scan", b"1")
            return not self.objects()

        wait_for("the object to go", gone, 60, 0.3)

    def test_an_object_that_is_mostly_dead_is_packed_again(self):
        v = self.tiered(add=("--grace", "1s"))
        for i in range(10):
            v.write("f%d" % i, self.random.randbytes(1 << 20))
        want = {i: v.read("f%d" % i) for i in (3, 7)}
        self.evict(v)
        first = set(self.objects())
        for i in range(10):
            if i not in want:
                os.unlink(v.path("f%d" % i))
        cli("sync", v.mnt, check=EXIT_OK)

        def replaced():
            os.setxattr(v.mnt, "clawfs.tier.scan", b"1")
            return self.objects() and not first & set(self.objects())

        wait_for("a new object in place of the old", replaced, 90, 0.3)
        for i, data in want.items():
            self.assertEqual(v.read("f%d" % i), data)

    def test_gc_finds_orphans_and_nothing_else(self):
        v = self.tiered(add=("--grace", "1s"))
        v.write("f", self.random.randbytes(1 << 20))
        self.evict(v, "f")
        real = self.objects()[0]
        orphan = os.path.join(self.cold, "packs", "ab", "ab%014x" % 77)
        os.makedirs(os.path.dirname(orphan), exist_ok=True)
        with open(orphan, "wb") as f:
            f.write(b"x" * 5000)
        os.utime(orphan, (1000000, 1000000))
        r = cli("gc", "--dry-run", v.mnt, check=EXIT_OK)
        self.assertIn("1 orphans", r.stdout)
        self.assertTrue(os.path.exists(orphan))
        cli("gc", v.mnt, check=EXIT_OK)
        self.assertFalse(os.path.exists(orphan))
        self.assertTrue(os.path.exists(real))

    def test_a_store_that_is_away_and_comes_back(self):
        v = self.tiered(add=("--timeout", "2s"))
        v.write("f", self.random.randbytes(300000))
        v.write("hot", b"hot data" * 1000)
        want = v.read("f")
        self.evict(v, "f")
        os.rename(self.cold, self.cold + ".away")
        began = time.monotonic()
        with self.assertRaises(OSError) as e:
            v.read("f")
        self.assertEqual(e.exception.errno, errno.EIO)
        self.assertLess(time.monotonic() - began, 20)
        self.assertIn("cold", v.messages())
        self.assertEqual(v.read("hot"), b"hot data" * 1000)
        v.write("new", b"x" * 100000, sync=True)
        os.rename(self.cold + ".away", self.cold)
        wait_for("the file again", lambda: self._reads(v, "f", want), 90, 0.5)

    def _reads(self, v, name, want):
        try:
            return v.read(name) == want
        except OSError:
            return False

    def test_damage_in_the_store_is_an_error_of_just_that_range(self):
        v = self.tiered(add=("--timeout", "2s"))
        data = self.random.randbytes(4 << 20)
        v.write("f", data)
        self.evict(v, "f")
        path = self.objects()[0]
        os.chmod(path, 0o600)
        with open(path, "r+b") as f:
            f.seek(2 << 20)
            f.write(self.random.randbytes(100))
        with self.assertRaises(OSError) as e:
            v.read("f")
        self.assertEqual(e.exception.errno, errno.EIO)
        with open(v.path("f"), "rb") as f:
            self.assertEqual(f.read(1 << 20), data[:1 << 20])
            f.seek(3 << 20)
            self.assertEqual(f.read(1 << 19), data[3 << 20:(3 << 20) + (1 << 19)])
        os.unlink(path)
        v.remount()
        with self.assertRaises(OSError):
            v.read("f")

    def test_no_secret_is_anywhere(self):
        v = self.volume()
        secret = "S3cretS3cretS3cret0123456789abcdefghijkl"
        credentials = os.path.join(self.tmp, "credentials")
        with open(credentials, "w") as f:
            f.write("access_key = AKIAEXAMPLE\nsecret_key = %s\n" % secret)
        r = cli("tier", "add", "s3", "s3://bucket", v.mnt, "--endpoint", "http://127.0.0.1:1", "--credentials", credentials)
        self.assertNotEqual(r.returncode, EXIT_OK)  # readable by others, or nobody there
        os.chmod(credentials, 0o600)
        r = cli("tier", "add", "s3", "s3://bucket", v.mnt, "--endpoint", "http://127.0.0.1:1", "--timeout", "1s",
                "--credentials", credentials)
        self.assertEqual(r.returncode, EXIT_FAILURE)
        texts = [r.stdout, r.stderr, v.messages(), str(v.status())]
        texts += [os.getxattr(v.mnt, n).decode() for n in ("clawfs.status", "clawfs.tier.result.add")]
        with open("/proc/%d/cmdline" % v.pid) as f:
            texts.append(f.read())
        for text in texts:
            self.assertNotIn(secret, text)
        kept = os.path.join(v.store, "credentials", "s3")
        self.assertEqual(os.lstat(kept).st_mode & 0o777, 0o600)
        with self.assertRaises(OSError):
            os.getxattr(v.mnt, "clawfs.tier.key")


class Replicas(clawfs_env.ClusterTest):
    def test_a_promoted_follower_reads_and_ages_the_same_objects(self):
        cold = os.path.join(self.tmp, "cold")
        os.mkdir(cold)
        c = self.cluster(2)
        leader, follower = c.node
        cli("tier", "add", "cold", "file://" + cold, leader.mnt, check=EXIT_OK)
        os.setxattr(leader.mnt, "clawfs.tier", b"after=1d min=4K store=cold")
        data = random.Random(SEED).randbytes(3 << 20)
        leader.write("f", data, sync=True)
        c.settle()
        cli("tier", "evict", leader.path("f"), check=EXIT_OK)
        c.settle()
        self.assertEqual(os.getxattr(leader.path("f"), "clawfs.tier.state"), b"cold")
        self.assertEqual(os.getxattr(follower.path("f"), "clawfs.tier.state"), b"hot")
        cli("tier", "evict", follower.path("f"), check=EXIT_OK)
        self.assertEqual(os.getxattr(follower.path("f"), "clawfs.tier.state"), b"cold")
        self.assertEqual(follower.read("f"), data)
        leader.kill9()
        cli("promote", follower.mnt, check=EXIT_OK)
        cli("tier", "evict", follower.path("f"), check=EXIT_OK)
        self.assertEqual(follower.read("f"), data)
        with open(follower.path("f"), "r+b") as f:
            f.write(b"new")
        cli("tier", "evict", follower.path("f"), check=EXIT_OK)
        self.assertEqual(follower.read("f"), b"new" + data[3:])


if __name__ == "__main__":
    clawfs_env.main()
