#!/usr/bin/env python3
"""test_archive: a volume that is archived comes back after its loss as it was at any moment, on real mounts."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
import unittest

from arena import BLOCK, Arena, damaged
from clawfs_env import CLAWFS, EXIT_DAMAGED, EXIT_FAILURE, EXIT_OK, EXIT_USAGE, Volume, VolumeTest, cli, seed, wait_for

SIZES = ["--journal-size=32M", "--segment-size=4M", "--chunk-size=64M"]


def fingerprint(root):
    """{path: what it is}: type, mode, size, times, bytes, links, attributes of everything below `root`."""
    found = {}
    for top, dirs, files in os.walk(root):
        for name in sorted(dirs + files):
            path = os.path.join(top, name)
            st = os.lstat(path)
            facts = [oct(st.st_mode), st.st_uid, st.st_gid, st.st_nlink if not os.path.isdir(path) else 0, st.st_mtime_ns]
            if os.path.islink(path):
                facts.append(os.readlink(path))
            elif os.path.isfile(path):
                with open(path, "rb") as f:
                    facts += [st.st_size, hashlib.sha256(f.read()).hexdigest()]
                facts += [(n, os.getxattr(path, n)) for n in sorted(os.listxattr(path))]
            found[os.path.relpath(path, root)] = facts
    return found


class ArchiveTest(VolumeTest):
    def archived(self, *options, encrypt=True, volume=None):
        v = volume or self.volume()
        self.store = os.path.join(self.tmp, "archive-store")
        cli("tier", "add", *([] if encrypt else ["--no-encrypt"]), "cold", "file://" + self.store, v.mnt, check=EXIT_OK)
        cli("archive", "set", "--interval=1s", *options, "cold", v.mnt, check=EXIT_OK)
        self.key = os.path.join(self.tmp, "key")
        self.now(v)  # from here on any moment can be restored
        with open(self.key, "w", encoding="ascii") as f:
            f.write(cli("archive", "key", v.mnt, check=EXIT_OK).stdout)
        return v

    def now(self, v):
        cli("archive", "now", v.mnt, check=EXIT_OK)

    def fill(self, v, rng, n, top):
        os.makedirs(v.path(top, "sub"), exist_ok=True)
        for i in range(n):
            name = "f%d" % rng.randrange(40)
            v.write(os.path.join(top, rng.choice(["", "sub"]), name), rng.randbytes(rng.choice([0, 7, 5000, 200_000, 1_500_000])))
        os.symlink("../x", v.path(top, "link%d" % rng.randrange(1 << 30)))
        os.setxattr(v.path(top, "sub"), "user.k", b"v")

    def restore(self, *args, code=EXIT_OK, key=True):
        return cli("restore", "--from=file://" + self.store, *(["--archive-key=" + self.key] if key else []), *args, check=code,
                   timeout=300)

    def restored(self, name, *args):
        r = Volume(self.tmp, name)
        self.addCleanup(r.close)
        out = self.restore(*SIZES, *args, r.store).stdout
        r.mount()
        return r, out


class Unmounting(ArchiveTest):
    def waiting(self, *options):
        """A volume with a file that waits a day for others to share its segment."""
        v = self.volume(*options)
        self.archived(volume=v)
        cli("archive", "set", "--interval=1d", "cold", v.mnt, check=EXIT_OK)
        self.now(v)
        v.write("last", b"words" * 1000, sync=True)
        wait_for("the archiver to see it", lambda: v.status()["archive"]["behind_batches"] > 0)
        return v

    def last_archived(self):
        r, _ = self.restored("back")
        try:
            return os.path.exists(r.path("last")) and r.read("last") == b"words" * 1000
        finally:
            r.umount()

    def test_it_stores_what_still_waits(self):
        v = self.waiting()
        v.umount()
        self.assertNotIn("not in the archive", v.messages())
        self.assertTrue(self.last_archived())

    def test_so_does_a_signal(self):
        v = self.waiting()
        v.terminate()
        self.assertNotIn("not in the archive", v.messages())
        self.assertTrue(self.last_archived())

    def test_without_waiting_it_says_what_is_missing_and_the_next_mount_sends_it(self):
        v = self.waiting("archive_wait=0")
        v.umount()
        self.assertRegex(v.messages(), r"unmounted with \d+ batches that are not in the archive yet")
        self.assertFalse(self.last_archived())
        v.mount()
        self.now(v)
        shutil.rmtree(os.path.join(self.tmp, "back"))
        self.assertTrue(self.last_archived())

    def test_a_store_that_is_away_does_not_keep_it(self):
        v = self.waiting("archive_wait=2")
        os.rename(self.store, self.store + ".away")
        began = time.monotonic()
        v.umount()
        self.assertLess(time.monotonic() - began, 15)
        self.assertRegex(v.messages(), r"unmounted with \d+ batches that are not in the archive yet")
        v.fsck()
        os.rename(self.store + ".away", self.store)
        v.mount()
        self.now(v)
        self.assertTrue(self.last_archived())


class Healing(ArchiveTest):
    """Damage that nothing on this node can repair."""

    def damaged(self, n, *options):
        v = self.archived(volume=self.volume(*options))
        self.data = random.Random(seed()).randbytes(40 * BLOCK)
        v.write("f", self.data, sync=True)  # too large for the journal
        self.now(v)
        wait_for("the data to be at home", lambda: v.status()["homer"]["backlog_bytes"] == 0)
        v.remount()
        arena = Arena(v.store)
        for i in range(n):
            place = arena.find(self.data[3 * i * BLOCK:(3 * i + 1) * BLOCK])
            arena.write(place, damaged("torn", arena.read(place), self.data[-BLOCK:]))
        return v

    def facts(self, v):
        return json.loads(cli("scrub", "status", "--json", v.mnt).stdout)

    def readable(self, v):
        try:
            return v.read("f") is not None
        except OSError:
            return False

    def test_a_scrub_repairs_it_from_the_archive(self):
        v = self.damaged(10)
        cli("scrub", "start", "--wait", v.mnt, check=EXIT_OK)
        f = self.facts(v)
        self.assertEqual((f["bad_blocks"], f["repaired_blocks"], f["repairs"]["from_archive"]), (10, 10, 10))
        self.assertEqual(v.read("f"), self.data)
        self.assertIn("from the archive", v.messages())
        v.umount()
        v.fsck()

    def test_who_reads_gets_an_error_and_the_repair_comes_soon(self):
        v = self.damaged(3)
        with self.assertRaises(OSError):
            v.read("f")
        wait_for("the repair", lambda: self.readable(v))
        self.assertEqual(v.read("f"), self.data)
        self.assertEqual(self.facts(v)["repairs"]["from_archive"], 3)

    def test_an_archive_that_is_away_is_told_and_asked_again_by_the_next_scrub(self):
        v = self.damaged(2)
        os.rename(self.store, self.store + ".away")
        self.assertEqual(cli("scrub", "start", "--wait", v.mnt, timeout=120).returncode, EXIT_DAMAGED)
        self.assertIn("the archive", self.facts(v)["search"])
        os.rename(self.store + ".away", self.store)
        wait_for("the store to be back", lambda: cli("archive", "now", v.mnt).returncode == EXIT_OK, timeout=90, step=1)
        cli("scrub", "start", "--wait", v.mnt, check=EXIT_OK)
        self.assertEqual(v.read("f"), self.data)
        self.assertEqual(self.facts(v)["search"], "")


class Moments(ArchiveTest):
    def test_a_lost_volume_comes_back_as_it_was_at_two_moments_and_at_its_end(self):
        rng = random.Random(seed())
        v = self.archived()
        states = []
        for i in range(3):
            self.fill(v, rng, 25, "t%d" % i)
            if i:
                shutil.rmtree(v.path("t%d" % (i - 1), "sub"))
            cli("sync", v.mnt, check=EXIT_OK)
            seq = v.status()["durable_seq"]
            time.sleep(0.2)
            states.append((seq, time.time(), fingerprint(v.mnt)))
            time.sleep(0.2)
        self.now(v)
        v.kill9()
        shutil.rmtree(v.store)
        for i, (seq, when, want) in enumerate(states):
            r, _ = self.restored("at-time-%d" % i, "--at=@%.3f" % when)
            self.assertEqual(fingerprint(r.mnt), want)
            r.umount()
            r.fsck()
        r, _ = self.restored("at-seq", "--at=%d" % states[1][0])
        self.assertEqual(fingerprint(r.mnt), states[1][2])
        status = r.status()
        self.assertEqual(status["archive"]["state"], "off")
        self.assertEqual(status["tier"]["stores"], {})
        r.write("new", b"it can be written")
        r.remount()
        self.assertEqual(r.read("new"), b"it can be written")
        r, _ = self.restored("at-end")
        self.assertEqual(fingerprint(r.mnt), states[2][2])
        before = self.restore("--at=@1", os.path.join(self.tmp, "too-early"), code=EXIT_FAILURE)
        self.assertIn("no base that is as old", before.stderr)
        self.assertFalse(os.path.exists(os.path.join(self.tmp, "too-early")))

    def test_one_path_comes_back_into_an_ordinary_directory(self):
        rng = random.Random(seed())
        v = self.archived()
        self.fill(v, rng, 20, "keep")
        v.write("keep/one", b"first")
        os.link(v.path("keep/one"), v.path("keep/two"))
        with open(v.path("keep/holes"), "wb") as f:
            f.truncate(50 << 20)
            f.seek(20 << 20)
            f.write(b"island")
        self.now(v)
        when, want = time.time(), fingerprint(v.path("keep"))
        time.sleep(0.1)
        shutil.rmtree(v.path("keep"))
        self.now(v)
        out = os.path.join(self.tmp, "out")
        self.restore("--at=@%.3f" % when, "--path=/keep", out)
        self.assertEqual(os.listdir(out), ["keep"])
        self.assertEqual(fingerprint(os.path.join(out, "keep")), want)
        self.assertLess(os.stat(os.path.join(out, "keep/holes")).st_blocks * 512, 1 << 20)
        self.assertFalse(os.path.exists(out + ".restoring"))
        self.restore("--at=@%.3f" % when, "--path=/keep/one", os.path.join(self.tmp, "file"))
        with open(os.path.join(self.tmp, "file", "one"), "rb") as f:
            self.assertEqual(f.read(), b"first")
        gone = self.restore("--path=/keep", os.path.join(self.tmp, "none"), code=EXIT_FAILURE)
        self.assertIn("not in the state", gone.stderr)

    def test_a_restart_goes_on_with_the_archive_and_a_kill_loses_nothing_of_it(self):
        v = self.archived()
        for i in range(4):
            v.write("f%d" % i, b"%d" % i * 100_000)
            self.now(v)
            if i % 2:
                v.kill9().mount()
            else:
                v.remount()
        self.now(v)
        self.assertFalse(v.status()["archive"]["gap"])
        ranges = json.loads(self.restore("--list", "--json").stdout)
        self.assertEqual([r["gap"] for r in ranges if r["gap"]], [])
        r, _ = self.restored("again")
        self.assertEqual(fingerprint(r.mnt), fingerprint(v.mnt))


class Refusals(ArchiveTest):
    def test_without_the_key_or_with_another_nothing_is_read(self):
        v = self.archived()
        self.now(v)
        out = os.path.join(self.tmp, "out")
        self.assertIn("key", self.restore(out, code=EXIT_FAILURE, key=False).stderr)
        with open(self.key, "w", encoding="ascii") as f:
            f.write("00" * 32)
        self.assertIn("manifest", self.restore(out, code=EXIT_FAILURE).stderr)
        with open(self.key, "w", encoding="ascii") as f:
            f.write("no key")
        self.restore(out, code=EXIT_FAILURE)
        self.assertFalse(os.path.exists(out))

    def test_the_key_is_for_the_owner_alone(self):
        v = self.archived()
        os.chmod(self.tmp, 0o755)
        code = "import os\nos.setuid(65534)\ntry:\n os.getxattr(%r, 'clawfs.archive.key')\nexcept OSError: raise SystemExit(7)" % v.mnt
        self.assertEqual(subprocess.run(["python3", "-c", code]).returncode, 7)

    def test_a_damaged_or_missing_object_is_named(self):
        v = self.archived()
        for i in range(3):
            v.write("f%d" % i, b"x" * 3000)
            self.now(v)
        v.umount()
        segments = []
        for top, _, files in os.walk(os.path.join(self.store, "archive")):
            segments += [os.path.join(top, f) for f in files if top.endswith("/s")]
        victim = sorted(segments)[0]
        name = os.path.relpath(victim, self.store)
        with open(victim, "r+b") as f:
            f.seek(400)
            f.write(b"\xff\x00\xff")
        out = os.path.join(self.tmp, "out")
        self.assertIn(name, self.restore(out, code=EXIT_FAILURE).stderr)
        os.unlink(victim)
        self.assertIn(name, self.restore(out, code=EXIT_FAILURE).stderr)
        self.assertFalse(os.path.exists(out))

    def test_wrong_words_are_refused(self):
        v = self.archived()
        for args in (["archive", "set", "--keep=yes", "cold", v.mnt], ["restore"], ["restore", "--from=file:///x", "--at=soon", "/x"]):
            cli(*args, check=EXIT_USAGE)
        cli("archive", "set", "other", v.mnt, check=EXIT_FAILURE)
        self.assertIn("archive", cli("tier", "remove", "cold", v.mnt, check=EXIT_FAILURE).stderr)
        cli("archive", "off", v.mnt, check=EXIT_OK)
        cli("archive", "off", v.mnt, check=EXIT_OK)
        self.assertEqual(cli("archive", "now", v.mnt, check=EXIT_FAILURE).returncode, EXIT_FAILURE)

    def test_an_interrupted_restore_cannot_be_mounted_and_is_run_again(self):
        rng = random.Random(seed())
        v = self.archived()
        self.fill(v, rng, 60, "t")
        self.now(v)
        r = Volume(self.tmp, "again")
        self.addCleanup(r.close)
        shutil.rmtree(r.store)
        args = ["restore", "--from=file://" + self.store, "--archive-key=" + self.key, *SIZES, r.store]
        p = subprocess.Popen([CLAWFS, *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("a half made volume", lambda: os.path.exists(os.path.join(r.store, "index")))
        p.send_signal(signal.SIGKILL)
        p.wait()
        self.assertIn("interrupted", cli("fsck", r.store).stderr)
        cli(*args, check=EXIT_OK)
        r.mount()
        self.assertEqual(fingerprint(r.mnt), fingerprint(v.mnt))


class Drills(ArchiveTest):
    def test_a_drill_measures_and_records(self):
        for encrypt in (True, False):
            with self.subTest(encrypt=encrypt):
                v = self.archived(encrypt=encrypt)
                v.write("f", os.urandom(3_000_000))
                self.now(v)
                said = json.loads(cli("drill", "--json", v.mnt, check=EXIT_OK).stdout)
                self.assertTrue(said["ok"] and said["compared"])
                self.assertEqual(said["rpo_seconds"], 0)
                self.assertGreater(said["rto_seconds"], 0)
                kept = v.status()["archive"]["drill"]
                self.assertEqual(kept, said)
                self.assertFalse(os.path.exists(v.store + ".drill"))
                self.assertEqual(json.loads(os.getxattr(v.mnt, "clawfs.archive.drill")), said)
                v.close()
                shutil.rmtree(self.store)

    def test_of_an_encrypted_volume_nothing_is_readable_meanwhile(self):
        secret = os.path.join(self.tmp, "secret")
        with open(secret, "wb") as f:
            f.write(os.urandom(32))
        os.chmod(secret, 0o600)
        v = self.archived(volume=self.volume("key=" + secret, "staging=/dev/shm", encrypt="xts", key=secret, staging="/dev/shm"))
        v.write("f", b"MARK-of-the-file" * 10_000)
        self.now(v)
        aside = os.path.join(self.tmp, "aside")
        p = subprocess.Popen([CLAWFS, "drill", "--dir", aside, v.mnt], stdout=subprocess.DEVNULL)
        found = False
        while p.poll() is None:
            for top, _, files in os.walk(aside):
                for name in files:
                    try:
                        with open(os.path.join(top, name), "rb") as f:
                            found = found or b"MARK-of-the-file" in f.read()
                    except FileNotFoundError:
                        pass
        self.assertEqual(p.returncode, 0)
        self.assertFalse(found)
        self.assertTrue(v.status()["archive"]["drill"]["compared"])
        with open(secret, "rb") as f:
            self.assertEqual(len(f.read()), 32)
        r = Volume(self.tmp, "encrypted")
        self.addCleanup(r.close)
        self.restore(*SIZES, "--encrypt=xts", "--key=" + secret, "--staging=/dev/shm", r.store)
        r.mount("key=" + secret, "staging=/dev/shm")
        self.assertEqual(r.read("f"), b"MARK-of-the-file" * 10_000)

    def test_a_drill_of_a_broken_archive_says_so(self):
        v = self.archived()
        v.write("f", b"x")
        self.now(v)
        for top, _, files in os.walk(os.path.join(self.store, "archive")):
            for f in files:
                if top.endswith("/s") or "/b/" in top:
                    os.unlink(os.path.join(top, f))
        said = json.loads(cli("drill", "--json", v.mnt, check=EXIT_FAILURE).stdout)
        self.assertFalse(said["ok"])
        self.assertIn("archive/", said["message"])
        self.assertFalse(v.status()["archive"]["drill"]["ok"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
