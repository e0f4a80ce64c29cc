"""Damage under a mounted volume: a scrub finds and names it, a file's health says so, it is given up or comes back, and none of it
stops the mount.  Every block of a small file is damaged in turn, in every way that a disk can."""

import errno
import json
import os
import random
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clawfs_env  # noqa: E402
from arena import BLOCK, DAMAGES, Arena, damaged  # noqa: E402
from clawfs_env import EXIT_DAMAGED, EXIT_FAILURE, EXIT_OK, EXIT_USAGE, cli, wait_for  # noqa: E402


class ScrubTest(clawfs_env.VolumeTest):
    def setUp(self):
        super().setUp()
        self.rng = random.Random(clawfs_env.seed())

    def make(self, v, name, blocks):
        """A file at home in the arena, whose pages the kernel has forgotten; its content."""
        data = self.rng.randbytes(blocks * BLOCK)
        os.makedirs(os.path.dirname(v.path(name)), exist_ok=True)
        v.write(name, data, sync=True)
        wait_for("the data to be at home", lambda: v.status()["homer"]["backlog_bytes"] == 0)
        os.setxattr(v.mnt, "clawfs.checkpoint", b"1")
        self.forget(v, name)
        return data

    def forget(self, v, name):
        fd = os.open(v.path(name), os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

    def damage(self, v, data, block, how="flip"):
        arena = Arena(v.store)
        place = arena.find(data[block * BLOCK:(block + 1) * BLOCK])
        old = arena.read(place)
        new = damaged(how, old, data[-BLOCK:] if block == 0 else data[:BLOCK])
        arena.write(place, new)
        return place, old

    def scrub(self, v, *options, check=None):
        return cli("scrub", "start", "--wait", *options, v.mnt, check=check)

    def facts(self, v):
        return json.loads(cli("scrub", "status", "--json", v.mnt).stdout)

    def health(self, v, name):
        return os.getxattr(v.path(name), "clawfs.health").decode()

    def bad_blocks(self, v, name, data):
        """Which blocks give EIO; every other one is compared."""
        bad = []
        self.forget(v, name)
        fd = os.open(v.path(name), os.O_RDONLY)
        for i in range(len(data) // BLOCK):
            try:
                got = os.pread(fd, BLOCK, i * BLOCK)
            except OSError as e:
                self.assertEqual(e.errno, errno.EIO)
                bad.append(i)
                continue
            self.assertEqual(got, data[i * BLOCK:(i + 1) * BLOCK], "block %d is wrong" % i)
        os.close(fd)
        return bad


class Finding(ScrubTest):
    def test_a_clean_volume_is_clean_and_says_when_it_was_looked_at(self):
        v = self.volume()
        self.make(v, "a/b", 40)
        self.assertEqual(self.health(v, "a/b"), "unchecked")
        self.scrub(v, check=EXIT_OK)
        self.assertRegex(self.health(v, "a/b"), r"^ok checked=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        f = self.facts(v)
        self.assertEqual((f["state"], f["bad_blocks"], f["files"]), ("done", 0, []))
        self.assertGreaterEqual(f["checked_bytes"], 40 * BLOCK)
        self.assertEqual(cli("scrub", "status", v.mnt).returncode, EXIT_OK)
        v.write("later", b"x")
        self.assertEqual(self.health(v, "later"), "unchecked")
        with self.assertRaises(OSError) as e:
            os.getxattr(v.path("a"), "clawfs.health")
        self.assertEqual(e.exception.errno, errno.ENODATA)

    def test_each_kind_of_damage_is_found_named_and_nothing_else(self):
        for how in DAMAGES:
            with self.subTest(how=how):
                v = self.volume(name="v-" + how)
                data = self.make(v, "dir/some file", 24)
                other = self.make(v, "dir/other", 24)
                block = self.rng.randrange(24)
                self.damage(v, data, block, how)
                self.scrub(v, check=EXIT_DAMAGED)
                f = self.facts(v)
                self.assertEqual([(x["path"], x["bad_blocks"]) for x in f["files"]], [("/dir/some file", 1)])
                self.assertEqual((f["bad_blocks"], f["repaired_blocks"]), (1, 0))
                self.assertRegex(self.health(v, "dir/some file"), r"^damaged blocks=1 seen=")
                self.assertRegex(self.health(v, "dir/other"), r"^ok ")
                self.assertEqual(self.bad_blocks(v, "dir/some file", data), [block])
                self.assertEqual(self.bad_blocks(v, "dir/other", other), [])
                out = cli("scrub", "status", v.mnt)
                self.assertEqual(out.returncode, EXIT_DAMAGED)
                self.assertIn("/dir/some file: 1 blocks damaged", out.stdout)
                v.umount()

    def test_a_read_notes_damage_before_any_scrub(self):
        v = self.volume()
        data = self.make(v, "f", 20)
        self.damage(v, data, 7)
        self.assertEqual(self.bad_blocks(v, "f", data), [7])
        self.assertRegex(self.health(v, "f"), r"^damaged blocks=1 ")

    def test_what_was_found_is_known_after_a_restart_of_either_kind(self):
        for way in ("remount", "kill"):
            with self.subTest(way=way):
                v = self.volume(name="v-" + way)
                data = self.make(v, "f", 20)
                self.damage(v, data, 3)
                self.scrub(v, check=EXIT_DAMAGED)
                if way == "remount":
                    v.remount()
                else:
                    wait_for("a checkpoint", lambda: self.facts(v)["state"] == "done")
                    os.setxattr(v.mnt, "clawfs.checkpoint", b"1")
                    v.kill9().mount()
                self.assertRegex(self.health(v, "f"), r"^damaged blocks=1 .* checked=")
                self.assertEqual([x["path"] for x in self.facts(v)["files"]], ["/f"])
                v.umount()

    def test_a_damaged_superblock_copy_is_written_anew(self):
        for copy in (0, 1):
            v = self.volume(name="v%d" % copy)
            Arena.write((os.path.join(v.store, "super"), copy * BLOCK), bytes(BLOCK))
            self.scrub(v)
            with open(os.path.join(v.store, "super"), "rb") as f:
                both = f.read()
            self.assertTrue(both[:8] == both[BLOCK:BLOCK + 8] != bytes(8), "copy %d was not written anew" % copy)
            v.umount()
            v.fsck()


class Healing(ScrubTest):
    """By what this node has itself."""

    def test_what_went_through_the_journal_is_repaired_from_it_soon_after_a_read(self):
        v = self.volume()
        data = self.make(v, "f", 6)
        for block in range(6):
            self.damage(v, data, block)
        self.assertNotEqual(self.bad_blocks(v, "f", data), [])  # nobody waits for it
        wait_for("the search", lambda: self.facts(v)["repairs"]["from_journal"] == 6)
        self.assertEqual(self.bad_blocks(v, "f", data), [])
        self.assertRegex(self.health(v, "f"), r"^repaired blocks=6 ")
        self.assertEqual(self.facts(v)["search"], "")
        v.umount()
        v.fsck()

    def test_it_is_in_the_ring_after_restarts(self):
        v = self.volume()
        data = self.make(v, "f", 6)
        v.remount()
        v.kill9().mount()
        self.damage(v, data, 3)
        self.scrub(v, check=EXIT_OK)
        f = self.facts(v)
        self.assertEqual((f["bad_blocks"], f["repaired_blocks"], f["repairs"]["from_journal"]), (1, 1, 1))
        self.assertEqual(v.read("f"), data)

    def test_a_snapshot_and_the_file_help_each_other_where_both_have_the_content(self):
        v = self.volume()
        data = self.make(v, "f", 20)
        cli("snap", "create", "old", v.mnt, check=EXIT_OK)
        place, _ = self.damage(v, data, 4)
        bad = Arena.read(place)
        self.assertEqual(self.scrub(v).returncode, EXIT_DAMAGED)  # one block, which both have
        v.write("f", data, sync=True)  # as from a backup
        wait_for("the data to be at home", lambda: v.status()["homer"]["backlog_bytes"] == 0)
        os.setxattr(v.mnt, "clawfs.checkpoint", b"1")
        self.assertEqual(Arena.read(place), bad)
        self.scrub(v, check=EXIT_OK)
        self.assertEqual(self.facts(v)["repairs"]["from_snapshot"], 1)
        self.assertEqual(v.read(".clawfs/snapshots/old/f"), data)
        self.assertEqual(v.read("f"), data)
        v.umount()
        v.fsck()

    def test_what_only_a_snapshot_has_is_looked_at_and_named(self):
        v = self.volume()
        data = self.make(v, "dir/f", 20)
        cli("snap", "create", "old", v.mnt, check=EXIT_OK)
        os.unlink(v.path("dir/f"))
        self.damage(v, data, 17)
        self.scrub(v, check=EXIT_DAMAGED)
        f = self.facts(v)
        self.assertEqual([(x["path"], x["bad_blocks"]) for x in f["files"]], [("/.clawfs/snapshots/old/dir/f", 1)])
        self.assertRegex(self.health(v, ".clawfs/snapshots/old/dir/f"), r"^damaged blocks=1 .* checked=")
        cli("snap", "delete", "old", v.mnt, check=EXIT_OK)
        self.scrub(v, check=EXIT_OK)
        self.assertEqual(self.facts(v)["files"], [])

    def test_after_going_back_what_only_an_older_snapshot_has_is_named(self):
        v = self.volume()
        data = self.make(v, "dir/f", 20)
        cli("snap", "create", "old", v.mnt, check=EXIT_OK)
        os.unlink(v.path("dir/f"))
        cli("snap", "create", "without", v.mnt, check=EXIT_OK)
        cli("snap", "rollback", "--no-keep", "old", v.mnt, check=EXIT_OK)
        os.unlink(v.path("dir/f"))
        self.damage(v, data, 17)
        self.scrub(v, check=EXIT_DAMAGED)
        self.assertEqual([(x["path"], x["bad_blocks"]) for x in self.facts(v)["files"]],
                         [("/.clawfs/snapshots/old/dir/f", 1)])

    def test_a_compressed_piece_that_only_a_snapshot_has_is_repaired_in_place(self):
        v = self.volume()
        os.mkdir(v.path("dir"))
        os.setxattr(v.path("dir"), "clawfs.compression", b"zstd")
        data = b"".join(self.rng.randbytes(16) * (BLOCK // 16) for _ in range(16))
        v.write("dir/f", data, sync=True)  # small enough to be in the ring
        wait_for("the data to be at home", lambda: v.status()["homer"]["backlog_bytes"] == 0)
        cli("compress", v.path("dir/f"), check=EXIT_OK)
        cli("snap", "create", "old", v.mnt, check=EXIT_OK)
        frame = Arena(v.store).find(b"\x28\xb5\x2f\xfd")  # how a frame of Zstandard begins
        os.unlink(v.path("dir/f"))
        good = Arena.read(frame)
        Arena.write(frame, damaged("zeroed", good, good))
        self.scrub(v, check=EXIT_OK)
        f = self.facts(v)
        self.assertEqual((f["bad_blocks"], f["repaired_blocks"], f["repairs"]["from_journal"]), (16, 16, 16))
        self.assertEqual(Arena.read(frame), good)
        self.assertEqual(v.read(".clawfs/snapshots/old/dir/f"), data)
        v.umount()
        v.fsck()


class Giving(ScrubTest):
    def test_clear_makes_zeros_of_what_nobody_has_and_of_nothing_else(self):
        v = self.volume()
        data = self.make(v, "f", 24)
        block = 9
        self.damage(v, data, block)
        self.scrub(v, check=EXIT_DAMAGED)
        cli("scrub", "clear", v.path("f"), check=EXIT_OK)
        self.forget(v, "f")
        want = data[:block * BLOCK] + bytes(BLOCK) + data[(block + 1) * BLOCK:]
        self.assertEqual(v.read("f"), want)
        self.assertRegex(self.health(v, "f"), r"^ok ")
        self.assertIn("given up", v.messages())
        f = self.facts(v)
        self.assertEqual((f["files"], f["quarantined_blocks"]), ([], 1))
        v.remount()
        self.assertEqual(v.read("f"), want)
        self.scrub(v, check=EXIT_OK)
        v.umount()
        v.fsck()

    def test_clear_of_a_file_without_damage_changes_nothing(self):
        v = self.volume()
        data = self.make(v, "f", 3)
        cli("scrub", "clear", v.path("f"), check=EXIT_OK)
        self.assertEqual(v.read("f"), data)
        cli("scrub", "clear", v.mnt, check=EXIT_FAILURE)

    def test_a_block_in_quarantine_is_not_used_before_it_passed_its_test(self):
        v = self.volume(size="64M")
        data = self.make(v, "f", 20)
        place, _ = self.damage(v, data, 1)
        self.scrub(v, check=EXIT_DAMAGED)
        os.unlink(v.path("f"))
        wait_for("the file to be reaped", lambda: self.facts(v)["files"] == [])
        os.setxattr(v.mnt, "clawfs.checkpoint", b"1")
        bad = Arena.read(place)
        v.umount()
        v.fsck()
        v.mount()
        self.assertEqual(self.facts(v)["quarantined_blocks"], 1)
        with self.assertRaises(OSError) as e:  # every block there is
            with open(v.path("fill"), "wb", buffering=0) as f:
                while True:
                    f.write(self.rng.randbytes(1 << 20))
                    os.fsync(f.fileno())
        self.assertEqual(e.exception.errno, errno.ENOSPC)
        wait_for("the data to be at home", lambda: v.status()["homer"]["backlog_bytes"] == 0)
        self.assertLess(v.status()["arena"]["free_bytes"], 2 << 20)
        self.assertEqual(Arena.read(place), bad, "the block was used again")
        cli("scrub", "release", v.mnt, check=EXIT_OK)
        self.assertEqual(self.facts(v)["quarantined_blocks"], 0)
        self.assertNotEqual(Arena.read(place), bad, "the block was not tested by writing")
        v.umount()
        v.fsck()

    def test_overwriting_a_damaged_block_heals_the_file(self):
        v = self.volume()
        data = self.make(v, "f", 20)
        self.damage(v, data, 2)
        self.scrub(v, check=EXIT_DAMAGED)
        new = self.rng.randbytes(BLOCK)
        fd = os.open(v.path("f"), os.O_WRONLY)
        os.pwrite(fd, new, 2 * BLOCK)
        os.fsync(fd)
        os.close(fd)
        self.assertRegex(self.health(v, "f"), r"^ok ")
        wait_for("the data to be at home", lambda: v.status()["homer"]["backlog_bytes"] == 0)
        self.forget(v, "f")
        self.assertEqual(v.read("f"), data[:2 * BLOCK] + new + data[3 * BLOCK:])
        self.scrub(v, check=EXIT_OK)

    def test_files_can_be_written_while_a_scrub_runs_over_damage(self):
        v = self.volume()
        files = {"d/%d" % i: self.make(v, "d/%d" % i, 20) for i in range(4)}
        for data in files.values():
            self.damage(v, data, 5)
        cli("scrub", "start", v.mnt, check=EXIT_OK)
        for i in range(200):
            v.write("w%d" % i, b"x" * 5000)
        wait_for("the scrub", lambda: self.facts(v)["state"] == "done")
        self.assertEqual(len(self.facts(v)["files"]), 4)
        self.assertEqual(v.status()["health"]["state"], "ok")


class Running(ScrubTest):
    def slow(self, *options):
        v = self.volume(*options)
        for i in range(8):
            self.make(v, "f%d" % i, 64)
        return v

    def test_it_keeps_its_rate_pauses_and_goes_on(self):
        v = self.slow()
        began = time.monotonic()
        cli("scrub", "start", "--rate", "512K", v.mnt, check=EXIT_OK)
        wait_for("progress", lambda: 0 < self.facts(v)["checked_bytes"] < 2 << 20)
        cli("scrub", "start", v.mnt, check=EXIT_FAILURE)
        cli("scrub", "pause", v.mnt, check=EXIT_OK)
        f = self.facts(v)
        self.assertEqual(f["state"], "paused")
        time.sleep(0.6)
        self.assertLessEqual(self.facts(v)["checked_bytes"], f["checked_bytes"] + 64 * 1024)
        cli("scrub", "pause", v.mnt, check=EXIT_FAILURE)
        self.scrub(v, check=EXIT_OK)
        f = self.facts(v)
        self.assertGreaterEqual(f["checked_bytes"], 8 * 64 * BLOCK)
        self.assertEqual(f["pass"], 1)
        self.assertGreater(time.monotonic() - began, 3)

    def test_it_goes_on_where_it_was_after_a_kill(self):
        v = self.slow()
        cli("scrub", "start", "--rate", "512K", v.mnt, check=EXIT_OK)
        wait_for("some progress", lambda: self.facts(v)["checked_bytes"] > 256 * 1024)
        os.setxattr(v.mnt, "clawfs.checkpoint", b"1")
        at = self.facts(v)
        v.kill9().mount()
        f = self.facts(v)
        self.assertEqual((f["state"], f["pass"], f["rate_bytes"]), ("running", 1, 512 * 1024))
        self.assertGreater(f["checked_bytes"], 64 * 1024)
        self.assertLessEqual(f["checked_bytes"], at["checked_bytes"] + 256 * 1024)
        wait_for("its end", lambda: self.facts(v)["state"] == "done")
        self.assertLess(self.facts(v)["checked_bytes"], 8 * 64 * BLOCK + 256 * 1024, "it began anew")

    def test_stop_ends_it_and_the_mount_option_sets_the_rate(self):
        v = self.slow("scrub_rate=256K")
        cli("scrub", "start", v.mnt, check=EXIT_OK)
        self.assertEqual(self.facts(v)["rate_bytes"], 256 * 1024)
        cli("scrub", "stop", v.mnt, check=EXIT_OK)
        self.assertEqual(self.facts(v)["state"], "idle")
        cli("scrub", "stop", v.mnt, check=EXIT_FAILURE)

    def test_wrong_words_are_refused_and_change_nothing(self):
        v = self.volume()
        for value in (b"", b"go", b"start rate=1", b"start rate=", b"start rate=9999999999999999999999", b"start rate=1Q", b"start x",
                      b"pause now", b"stop stop", b"start rate=2M\0", b"\xff" * 300):
            with self.assertRaises(OSError) as e:
                os.setxattr(v.mnt, "clawfs.scrub", value)
            self.assertEqual(e.exception.errno, errno.EINVAL, value)
        self.assertEqual(self.facts(v)["state"], "idle")
        self.assertEqual(cli("scrub", "start", "--rate", "1", v.mnt).returncode, EXIT_USAGE)
        self.assertEqual(cli("scrub", "start", self.tmp).returncode, EXIT_FAILURE)

    def test_only_root_and_the_owner_may(self):
        v = self.volume("allow_other")
        v.write("f", b"x")
        os.chmod(v.mnt, 0o777)
        os.chmod(v.path("f"), 0o666)
        os.chmod(self.tmp, 0o755)
        os.chmod(v.dir, 0o755)
        for path, name in ((v.mnt, "clawfs.scrub"), (v.path("f"), "clawfs.scrub.clear")):
            r = subprocess.run([sys.executable, "-c", "import os,sys\nos.setuid(65534)\ntry: os.setxattr(sys.argv[1], sys.argv[2], b'start')\n"
                                "except PermissionError: sys.exit(7)", path, name])
            self.assertEqual(r.returncode, 7, name)


if __name__ == "__main__":
    clawfs_env.main()
