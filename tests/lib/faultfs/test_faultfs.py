"""faultfs by itself: what is flushed stays, what is not can go, and each fault does what it says."""

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from faultfs import FaultFs  # noqa: E402

PAGE = 4096


class FaultFsTest(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.mkdtemp(prefix="faultfs-test-")
        self.addCleanup(shutil.rmtree, self.tmp, ignore_errors=True)
        self.fs = FaultFs(self.tmp)
        self.addCleanup(self.fs.close)

    def path(self, name):
        return os.path.join(self.fs.mnt, name)

    def write(self, name, data, sync=True, off=0, flags=0):
        fd = os.open(self.path(name), os.O_RDWR | os.O_CREAT | flags, 0o600)
        os.pwrite(fd, data, off)
        if sync:
            os.fsync(fd)
        os.close(fd)

    def read(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def sync_dir(self, name=""):
        fd = os.open(self.path(name), os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)

    def cut(self, mode="all", seed=1):
        self.fs.powercut(mode, seed)
        self.fs.restore()

    def assert_errno(self, code, call, *args):
        with self.assertRaises(OSError) as caught:
            call(*args)
        self.assertEqual(caught.exception.errno, code)

    def test_flushed_data_survives_and_unflushed_is_gone(self):
        self.write("a", b"A" * 10000)
        self.sync_dir()
        self.write("a", b"B" * 10000, sync=False)
        self.write("a", b"C" * 5000, sync=False, off=9000)
        self.assertEqual(self.read("a"), b"B" * 9000 + b"C" * 5000)
        self.cut()
        self.assertEqual(self.read("a"), b"A" * 10000)

    def test_names_need_their_directory_synced(self):
        self.write("kept", b"k")
        os.mkdir(self.path("d"))
        self.sync_dir()
        self.write("lost", b"l")
        self.write("d/lost", b"l")
        os.rename(self.path("kept"), self.path("moved"))
        self.cut()
        self.assertEqual(sorted(os.listdir(self.fs.mnt)), ["d", "kept"])
        self.assertEqual(os.listdir(self.path("d")), [])
        os.rename(self.path("kept"), self.path("d/moved"))
        self.sync_dir("d")
        self.cut()
        self.assertEqual(os.listdir(self.fs.mnt), ["d"])
        self.assertEqual(self.read("d/moved"), b"k")

    def test_an_unlinked_file_comes_back_with_its_bytes(self):
        self.write("f", b"old")
        self.sync_dir()
        os.unlink(self.path("f"))
        self.write("f", b"new file")
        self.cut()
        self.assertEqual(self.read("f"), b"old")
        os.unlink(self.path("f"))
        self.sync_dir()
        self.cut()
        self.assertEqual(os.listdir(self.fs.mnt), [])

    def test_a_random_cut_keeps_renames_whole(self):
        for seed in range(40):
            self.write("x", b"1")
            self.write("y", b"2")
            self.sync_dir()
            os.rename(self.path("x"), self.path("y"))
            self.cut("pages", seed)
            names = sorted(os.listdir(self.fs.mnt))
            self.assertIn(names, (["x", "y"], ["y"]))
            self.assertEqual(self.read("y"), b"2" if names == ["x", "y"] else b"1")

    def test_dsync_writes_and_direct_io_are_durable_by_themselves(self):
        block = mmap.mmap(-1, 2 * PAGE)
        block.write(b"D" * PAGE + b"E" * PAGE)
        self.write("f", b"x" * 4 * PAGE)
        self.sync_dir()
        fd = os.open(self.path("f"), os.O_RDWR | os.O_DIRECT)
        os.pwritev(fd, [block], 0, os.RWF_DSYNC)
        os.pwritev(fd, [block], 2 * PAGE)
        os.close(fd)
        self.cut()
        self.assertEqual(self.read("f"), b"D" * PAGE + b"E" * PAGE + b"x" * 2 * PAGE)
        fd = os.open(self.path("f"), os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
        os.pwritev(fd, [block], 2 * PAGE)
        os.close(fd)
        self.cut()
        self.assertEqual(self.read("f"), (b"D" * PAGE + b"E" * PAGE) * 2)

    def test_mapped_pages_are_durable_after_msync_only(self):
        self.write("f", b"0" * 4 * PAGE)
        self.sync_dir()
        fd = os.open(self.path("f"), os.O_RDWR)
        m = mmap.mmap(fd, 4 * PAGE)
        m[0:4] = b"keep"
        m.flush()
        m[PAGE:PAGE + 4] = b"lose"
        self.fs.powercut("all", 1)
        m.close()
        os.close(fd)
        self.fs.restore()
        self.assertEqual(self.read("f"), b"keep" + b"0" * (4 * PAGE - 4))

    def test_a_torn_cut_keeps_whole_sectors_only(self):
        mixed = 0
        for seed in range(20):
            self.write("f", b"a" * 16 * PAGE)
            self.sync_dir()
            self.write("f", b"b" * 16 * PAGE, sync=False)
            self.cut("torn", seed)
            data = self.read("f")
            self.assertEqual(len(data), 16 * PAGE)
            for i in range(0, len(data), 512):
                self.assertIn(data[i:i + 512], (b"a" * 512, b"b" * 512))
            pages = [data[i:i + PAGE] for i in range(0, len(data), PAGE)]
            mixed += sum(len(set(p)) == 2 for p in pages)
        self.assertGreater(mixed, 20)

    def test_a_page_cut_keeps_whole_pages_and_a_seed_repeats_it(self):
        seen = []
        for seed in (5, 5, 6):
            self.write("f", b"a" * 64 * PAGE)
            self.sync_dir()
            self.write("f", b"b" * 64 * PAGE, sync=False)
            self.cut("pages", seed)
            data = self.read("f")
            for i in range(0, len(data), PAGE):
                self.assertEqual(len(set(data[i:i + PAGE])), 1)
            seen.append(data)
        self.assertEqual(seen[0], seen[1])
        self.assertNotEqual(seen[1], seen[2])

    def test_truncate_and_punch_are_taken_back(self):
        data = os.urandom(40000)
        self.write("f", data)
        self.sync_dir()
        os.truncate(self.path("f"), 100)
        os.truncate(self.path("f"), 30000)
        self.cut()
        self.assertEqual(self.read("f"), data)
        fd = os.open(self.path("f"), os.O_RDWR)
        punch_hole_keep_size = 3
        self.assertEqual(ctypes.CDLL(None).fallocate(fd, punch_hole_keep_size, ctypes.c_long(4096), ctypes.c_long(8192)), 0)
        os.close(fd)
        self.assertEqual(self.read("f")[4096:12288], bytes(8192))
        self.cut()
        self.assertEqual(self.read("f"), data)

    def test_everything_fails_until_restore(self):
        self.write("f", b"x")
        self.sync_dir()
        fd = os.open(self.path("f"), os.O_RDWR)
        self.fs.powercut("all", 1)
        self.assert_errno(errno.EIO, os.pwrite, fd, b"y", 0)
        self.assert_errno(errno.EIO, os.listdir, self.fs.mnt)
        self.fs.restore()
        os.close(fd)
        self.assertEqual(self.read("f"), b"x")

    def test_the_nth_write_fails(self):
        self.write("f", b"x")
        self.fs.rule("write", "ENOSPC", "f", skip=2, count=1)
        fd = os.open(self.path("f"), os.O_RDWR)
        os.pwrite(fd, b"1", 0)
        os.pwrite(fd, b"2", 0)
        self.assert_errno(errno.ENOSPC, os.pwrite, fd, b"3", 0)
        os.pwrite(fd, b"4", 0)
        os.close(fd)
        self.fs.clear()

    def test_a_failed_fsync_loses_what_it_covered_until_written_again(self):
        self.write("f", b"old" * 1000)
        self.sync_dir()
        fd = os.open(self.path("f"), os.O_RDWR)
        os.pwrite(fd, b"new" * 1000, 0)
        self.fs.rule("fsync", "EIO", "f", count=1)
        self.assert_errno(errno.EIO, os.fsync, fd)
        os.fsync(fd)
        self.cut()
        self.assertEqual(self.read("f"), b"old" * 1000)
        os.pwrite(fd, b"new" * 1000, 0)
        self.fs.rule("fsync", "EIO", "f", count=1)
        self.assert_errno(errno.EIO, os.fsync, fd)
        os.pwrite(fd, b"new" * 1000, 0)
        os.fsync(fd)
        self.cut()
        self.assertEqual(self.read("f"), b"new" * 1000)
        os.close(fd)

    def test_lost_and_torn_writes(self):
        self.write("f", b"old" * 1000)
        self.fs.rule("write", "lose", "*", count=1)
        self.write("f", b"new" * 1000)
        self.assertEqual(self.fs.stats()["hits"], 1)
        self.cut()
        self.sync_dir()
        self.write("g", b"a" * 8192)
        self.fs.rule("write", "tear", "g", count=1)
        fd = os.open(self.path("g"), os.O_RDWR | os.O_DIRECT)
        block = mmap.mmap(-1, 8192)
        block.write(b"b" * 8192)
        self.assert_errno(errno.EIO, os.pwritev, fd, [block], 0)
        os.close(fd)
        data = self.read("g")
        self.assertEqual(data.count(b"b") % 512, 0)
        self.assertEqual(data, b"b" * data.count(b"b") + b"a" * data.count(b"a"))

    def test_bits_flip_in_reads_and_in_the_store(self):
        self.write("f", bytes(8192))
        self.fs.rule("read", "flip", "f", count=1)
        fd = os.open(self.path("f"), os.O_RDONLY | os.O_DIRECT)
        block = mmap.mmap(-1, 8192)
        os.preadv(fd, [block], 0)
        self.assertEqual(sum(bin(b).count("1") for b in block[:]), 1)
        os.preadv(fd, [block], 0)
        self.assertEqual(block[:], bytes(8192))
        os.close(fd)
        self.fs.corrupt("f", 5000, 0x80)
        self.assertEqual(self.read("f"), bytes(5000) + b"\x80" + bytes(3191))

    def test_a_cut_by_rule_comes_in_the_middle_of_the_work(self):
        self.write("f", b"x" * PAGE)
        self.sync_dir()
        self.fs.rule("write", "cut-all", "f", skip=3, count=1)
        fd = os.open(self.path("f"), os.O_RDWR)
        done = 0
        with self.assertRaises(OSError):
            for i in range(10):
                os.pwrite(fd, b"y", i)
                done += 1
        self.assertEqual(done, 3)
        self.fs.restore()
        self.assertEqual(self.read("f"), b"x" * PAGE)
        os.close(fd)

    def test_hard_links_locks_and_holes_work(self):
        self.write("f", b"x")
        os.link(self.path("f"), self.path("g"))
        self.assertEqual(os.stat(self.path("g")).st_nlink, 2)
        fd = os.open(self.path("f"), os.O_RDWR)
        other = os.open(self.path("f"), os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX)
        self.assert_errno(errno.EAGAIN, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.posix_fallocate(fd, 0, 1 << 20)
        self.assertEqual(os.fstat(fd).st_size, 1 << 20)
        os.close(fd)
        os.close(other)


if __name__ == "__main__":
    unittest.main(verbosity=2)
