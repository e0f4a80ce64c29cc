"""test_cli: what an admin types, and what comes back: verbs, options, exit codes, JSON, and clear refusals that lose nothing."""

import contextlib
import errno
import glob
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from clawfs_env import (CLAWFS, EXIT_DAMAGED, EXIT_FAILURE, EXIT_FSCK_ERROR, EXIT_MOUNT, EXIT_OK, EXIT_USAGE, ROOT, Volume, VolumeTest,
                        cli, is_mounted, main, mounts)

VERBS = ["format", "mount", "umount", "status", "info", "sync", "fsck", "dump"]
SUPER_BYTES = 4096


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


class Help(unittest.TestCase):
    def test_every_verb_explains_itself_on_stdout(self):
        for verb in VERBS:
            r = cli(verb, "--help", check=EXIT_OK)
            self.assertIn("usage: clawfs " + verb, r.stdout)
            self.assertIn("xit codes:", r.stdout)
            self.assertEqual(r.stderr, "")

    def test_no_two_verbs_share_a_bit(self):
        """Or each would take the other's options."""
        with open(os.path.join(ROOT, "fs", "cli", "cli.h"), encoding="utf-8") as f:
            bits = re.findall(r"(?:VERB_|IN_LIST).*?1\)? << (\d+)", f.read())
        self.assertGreater(len(bits), 40)
        self.assertEqual(sorted(bits), sorted(set(bits)))

    def test_program_help_lists_every_verb(self):
        out = cli("--help", check=EXIT_OK).stdout
        for verb in VERBS:
            self.assertIn("\n  " + verb, out)

    def test_version_is_one_line(self):
        self.assertRegex(cli("--version", check=EXIT_OK).stdout, r"\Aclawfs \d+\.\d+\.\d+\n\Z")


class Usage(VolumeTest):
    def refused(self, *args, code=EXIT_USAGE, says=None):
        r = cli(*args)
        self.assertEqual(r.returncode, code, r.stderr)
        self.assertTrue(r.stderr.startswith("clawfs: "), r.stderr)
        if says:
            self.assertIn(says, r.stderr)

    def test_wrong_words_are_usage_errors(self):
        self.assertEqual(cli().returncode, EXIT_USAGE)
        self.refused("frobnicate", says="no such command")
        self.refused("frobnicate", "x", says="no such command")
        self.refused("mount", "only-one", says="takes DIR MOUNTPOINT")
        self.refused("status", says="takes MOUNTPOINT")
        self.refused("format", "a", "b", says="takes DIR")
        self.refused("status", "--frobnicate", "/", says="--frobnicate")
        self.refused("format", "--label", says="needs a value")

    def test_impossible_format_options_are_refused_before_anything_is_made(self):
        target = os.path.join(self.tmp, "new")
        for option in ["--journal-size=1M", "--journal-size=huge", "--journal-size=-1G", "--journal-size=1G5", "--journal-size=",
                       "--journal-size=99999999999999999999G", "--journal-size=65M", "--segment-size=1", "--segment-size=1025K",
                       "--segment-size=4G", "--chunk-size=100K", "--chunk-size=1000001", "--size=1M", "--label=", "--label=" + "x" * 65,
                       "--force", "--confirm=destroy"]:
            self.refused("format", option, target)
            self.assertFalse(os.path.exists(target), option)
        self.refused("format", "--force", "--confirm=yes", target, says="--confirm=destroy")

    def test_impossible_mount_options_are_refused(self):
        for option in ["commit=6", "commit=-1", "commit=x", "commit", "commit=0.5h", "memory=1M", "memory=lots", "workers=0", "workers=2K",
                       "workers=100000", "checkpoint=0", "checkpoint=1e9", "ro=1", "nonsense", "remount", "fsname="]:
            self.refused("mount", "-o", option, self.tmp, self.tmp)
            self.refused(self.tmp, self.tmp, "-o", option, code=EXIT_MOUNT)
        self.refused("mount", "--commit=6", self.tmp, self.tmp, says="0 to 5 seconds")

    def test_mount_of_what_is_no_volume_is_exit_32(self):
        store, mnt = os.path.join(self.tmp, "store"), os.path.join(self.tmp, "mnt")
        self.refused("mount", store, mnt, code=EXIT_MOUNT, says=store)
        os.mkdir(store)
        self.refused("mount", store, mnt, code=EXIT_MOUNT, says="mkdir -p " + mnt)
        os.mkdir(mnt)
        self.refused("mount", store, mnt, code=EXIT_MOUNT)
        self.assertIn("not a clawfs volume", cli("mount", store, mnt).stderr)
        self.assertEqual(os.listdir(store), [])
        open(os.path.join(self.tmp, "file"), "w").close()
        self.refused("mount", store, os.path.join(self.tmp, "file"), code=EXIT_MOUNT, says="ot a directory")
        self.assertFalse(is_mounted(mnt))

    def test_verbs_on_something_else_than_a_mount_fail_cleanly(self):
        for verb in ["status", "sync", "umount"]:
            self.refused(verb, self.tmp, code=EXIT_FAILURE, says=self.tmp)
            self.refused(verb, os.path.join(self.tmp, "absent"), code=EXIT_FAILURE)
        self.refused("info", self.tmp, code=EXIT_FAILURE, says="not a clawfs volume")
        self.refused("dump", self.tmp, code=EXIT_FAILURE)
        self.refused("fsck", self.tmp, code=EXIT_FSCK_ERROR)
        self.refused("fsck", os.path.join(self.tmp, "absent"), code=EXIT_FSCK_ERROR)


class Format(VolumeTest):
    def test_a_new_directory_is_made_private(self):
        store = os.path.join(self.tmp, "deep")
        cli("format", "--journal-size=32M", "--segment-size=4M", "--chunk-size=64M", store, check=EXIT_OK)
        for path, _, files in os.walk(store):
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o700, path)
            for name in files:
                self.assertEqual(os.stat(os.path.join(path, name)).st_mode & 0o077, 0, name)

    def test_a_directory_with_anything_else_in_it_is_always_refused(self):
        v = Volume(self.tmp)
        self.addCleanup(v.close)
        v_file = os.path.join(v.store, "letter")
        with open(v_file, "w") as f:
            f.write("dear")
        r = cli("format", "--force", "--confirm=destroy", v.store)
        self.assertEqual(r.returncode, EXIT_FAILURE)
        self.assertIn("letter", r.stderr)
        self.assertEqual(os.listdir(v.store), ["letter"])

    def test_a_volume_is_only_formatted_over_with_force_and_the_word(self):
        v = self.volume(label="precious")
        v.write("f", b"x", sync=True)
        self.assertEqual(cli("format", v.store).returncode, EXIT_FAILURE)
        v.umount()
        r = cli("format", v.store)
        self.assertEqual(r.returncode, EXIT_FAILURE)
        self.assertIn("precious", r.stderr)
        self.assertEqual(cli("format", "--force", v.store).returncode, EXIT_USAGE)
        v.mount()
        self.assertEqual(v.read("f"), b"x")
        r = cli("format", "--force", "--confirm=destroy", v.store)
        self.assertEqual(r.returncode, EXIT_FAILURE, "a mounted volume is never formatted")
        v.umount()
        v.format(force=True, confirm="destroy", label="fresh")
        v.mount()
        self.assertEqual(os.listdir(v.mnt), [])
        self.assertEqual(json.loads(cli("info", "--json", v.mnt, check=EXIT_OK).stdout)["label"], "fresh")

    def test_too_little_space_is_said_with_numbers(self):
        v = Volume(self.tmp)
        self.addCleanup(v.close)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20M", "none", v.store], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", v.store])
        r = cli("format", "--journal-size=32M", "--segment-size=4M", "--chunk-size=64M", v.store)
        self.assertEqual(r.returncode, EXIT_FAILURE)
        self.assertIn("20M free", r.stderr)
        self.assertEqual(os.listdir(v.store), [])


class Mount(VolumeTest):
    def test_the_command_returns_once_the_daemon_answers(self):
        v = self.volume(mount=False)
        cli("mount", v.store, v.mnt, check=EXIT_OK)
        v.write("f", b"hello")
        self.assertEqual(v.read("f"), b"hello")
        cli("umount", v.mnt, check=EXIT_OK)
        self.assertFalse(is_mounted(v.mnt))
        cli("fsck", v.store, check=EXIT_OK)

    def test_relative_paths_and_a_log_file_work(self):
        v = self.volume(mount=False)
        cli("mount", "-o", "log=daemon.log", "store", "mnt", check=EXIT_OK, cwd=v.dir)
        cli("umount", "mnt", check=EXIT_OK, cwd=v.dir)
        with open(os.path.join(v.dir, "daemon.log")) as f:
            self.assertIn("mounted at " + v.mnt, f.read())

    def test_source_and_mountpoint_alone_mount_with_the_options_of_fstab(self):
        v = self.volume(mount=False)
        cli(v.store, v.mnt, "-o", "rw,dev,suid,exec,auto,defaults,_netdev,nofail,noauto,user,x-systemd.automount,noatime", check=EXIT_OK)
        self.assertTrue(is_mounted(v.mnt))
        cli("umount", v.mnt, check=EXIT_OK)

    def test_mount_t_fuse_clawfs_passes_options_on(self):
        v = self.volume(mount=False)
        # mount(8) drops PATH: clawfs has to be where the system's programs are.  A namespace of our own keeps that to ourselves.
        programs = os.path.join(self.tmp, "bin")
        os.mkdir(programs)
        os.symlink(CLAWFS, os.path.join(programs, "clawfs"))
        script = """set -e
            mount --bind "$1" /usr/local/bin
            mount -t fuse.clawfs -o noatime,nodev,commit=0.5,fsname="my volume" "$2" "$3"
            grep " $3 " /proc/self/mountinfo
            echo hello >"$3/f"
            clawfs status --json "$3" >/dev/null
            clawfs umount "$3"
            ! mount -t fuse.clawfs -o bogus "$2" "$3"
            """
        r = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", programs, v.store, v.mnt], capture_output=True, text=True)
        self.assertEqual(r.returncode, 0, r.stdout + r.stderr)
        left, right = r.stdout.splitlines()[0].split(" - ")
        self.assertEqual(right.split(" ")[:2], ["fuse.clawfs", "my\\040volume"])
        self.assertIn("nodev", left)
        self.assertNotIn("nosuid", left)
        self.assertIn("-o bogus", r.stderr)
        v.mount()
        self.assertEqual(v.read("f"), b"hello\n")

    def test_the_mount_helper_is_found_by_its_name(self):
        v = self.volume(mount=False)
        helper = os.path.join(self.tmp, "mount.clawfs")
        os.symlink(CLAWFS, helper)
        run = lambda *args: subprocess.run([helper, *args], capture_output=True, text=True, stdin=subprocess.DEVNULL).returncode
        self.assertEqual(run(v.store, v.mnt, "-f", "-o", "rw"), EXIT_OK)
        self.assertFalse(is_mounted(v.mnt), "-f is a fake mount")
        self.assertEqual(run(v.store, v.mnt, "-n", "-v", "-o", "bogus"), EXIT_MOUNT)
        self.assertEqual(run(self.tmp, v.mnt), EXIT_MOUNT)
        self.assertEqual(run(v.store, v.mnt, "-n", "-o", "rw,nosuid"), EXIT_OK)
        self.assertTrue(is_mounted(v.mnt))
        cli("umount", v.mnt, check=EXIT_OK)

    def test_a_volume_mounts_once(self):
        v = self.volume()
        v.write("f", b"x", sync=True)
        other = os.path.join(self.tmp, "other")
        os.mkdir(other)
        for args in [("mount", v.store, other), ("mount", v.store, v.mnt), (v.store, other), ("mount", "-o", "ro", v.store, other)]:
            r = cli(*args)
            self.assertEqual(r.returncode, EXIT_MOUNT)
            self.assertIn("in use", r.stderr)
        self.assertFalse(is_mounted(other))
        self.assertEqual(cli("fsck", v.store).returncode, EXIT_FSCK_ERROR)
        self.assertEqual(v.read("f"), b"x")

    def test_a_mount_never_covers_its_own_store(self):
        v = self.volume(mount=False)
        inside = os.path.join(v.store, "index")
        for mnt in [v.store, v.dir, inside]:
            r = cli("mount", v.store, mnt)
            self.assertEqual(r.returncode, EXIT_MOUNT)
            self.assertIn("its own store", r.stderr)

    def test_read_only_mounts_read_and_refuse_writes(self):
        v = self.volume()
        v.write("f", b"x", sync=True)
        v.remount("ro")
        self.assertEqual(v.read("f"), b"x")
        with self.assertRaises(OSError) as e:
            v.write("g", b"y")
        self.assertEqual(e.exception.errno, errno.EROFS)
        v.umount()
        v.mount()
        v.write("g", b"y")

    def test_a_foreground_mount_has_an_exit_status(self):
        for signo in [signal.SIGTERM, signal.SIGINT]:
            v = self.volume(name="volume%d" % signo)
            v.write("f", b"x" * 100000)
            os.kill(v.pid, signal.SIGHUP)
            os.kill(v.pid, signo)
            self.assertEqual(v.wait(), EXIT_OK)
            self.assertFalse(is_mounted(v.mnt))
            v.mount()
            self.assertEqual(v.read("f"), b"x" * 100000)
            v.umount()

    def test_sigterm_of_a_busy_mount_flushes_and_ends(self):
        v = self.volume()
        fd = os.open(v.path("f"), os.O_CREAT | os.O_WRONLY)
        try:
            os.write(fd, b"x" * 100000)
            self.assertEqual(v.terminate(), EXIT_OK)
            with self.assertRaises(OSError) as e:
                os.pwrite(fd, b"y", 0)
                os.fsync(fd)
            self.assertIn(e.exception.errno, (errno.ENOTCONN, errno.ECONNABORTED))
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)
        v.mount()
        self.assertEqual(v.read("f"), b"x" * 100000)

    def test_the_daemon_lets_go_of_the_callers_output(self):
        v = self.volume(mount=False)
        # Reading to the end of the pipe would wait for ever if the daemon held it.
        cli("mount", v.store, v.mnt, check=EXIT_OK, timeout=30)
        cli("umount", v.mnt, check=EXIT_OK)


class Umount(VolumeTest):
    def test_a_busy_mount_names_who_holds_it(self):
        v = self.volume()
        with open(v.path("held"), "w"):
            r = cli("umount", v.mnt)
            self.assertEqual(r.returncode, EXIT_FAILURE)
            self.assertIn("process %d " % os.getpid(), r.stderr)
            self.assertIn(v.path("held"), r.stderr)
        v.umount()

    def test_after_umount_the_store_is_free_and_clean(self):
        v = self.volume()
        for i in range(200):
            v.write("f%d" % i, os.urandom(5000))
        v.umount()
        self.assertTrue(json.loads(cli("info", "--json", v.store, check=EXIT_OK).stdout)["closed_cleanly"])
        v.mount()

    def test_a_dead_daemons_mount_is_removed_and_said(self):
        v = self.volume()
        v.write("f", b"x", sync=True)
        v.process.kill()
        v.process.wait()
        v.process = None
        r = cli("status", v.mnt)
        self.assertEqual(r.returncode, EXIT_FAILURE)
        self.assertIn("clawfs umount", r.stderr)
        r = cli("umount", v.mnt)
        self.assertEqual(r.returncode, EXIT_FAILURE)
        self.assertIn("not closed cleanly", r.stderr)
        self.assertFalse(is_mounted(v.mnt))
        v.mount()
        self.assertEqual(v.read("f"), b"x")


class Facts(VolumeTest):
    def test_status_is_one_json_object_and_a_table_of_the_same(self):
        v = self.volume()
        status = v.status()
        self.assertEqual(status["mountpoint"], v.mnt)
        self.assertEqual(status["source"], v.store)
        table = cli("status", v.mnt, check=EXIT_OK).stdout
        for key in status:
            self.assertIn(key, table)
        self.assertEqual(json.loads(cli("status", "--json", v.path("."), check=EXIT_OK).stdout)["source"], v.store)

    def test_info_tells_the_same_mounted_or_not(self):
        v = self.volume(label="näme", size="1G")
        mounted = json.loads(cli("info", "--json", v.mnt, check=EXIT_OK).stdout)
        self.assertEqual(mounted["label"], "näme")
        self.assertEqual(mounted["journal_bytes"], 32 << 20)
        self.assertEqual(mounted["journal_segment_bytes"], 4 << 20)
        self.assertEqual(mounted["chunk_bytes"], 64 << 20)
        self.assertEqual(mounted["size_limit_bytes"], 1 << 30)
        self.assertEqual(mounted["superblock_copies_valid"], 2)
        v.umount()
        offline = json.loads(cli("info", "--json", v.store, check=EXIT_OK).stdout)
        for key in ["volume", "node", "label", "journal_bytes", "created_seconds", "format_version"]:
            self.assertEqual(mounted[key], offline[key])
        self.assertIn(mounted["volume"], cli("info", v.store, check=EXIT_OK).stdout)

    def test_sync_makes_everything_durable_for_kill_and_remount(self):
        v = self.volume("commit=5")
        v.write("f", b"x" * 1000)
        cli("sync", v.mnt, check=EXIT_OK)
        v.kill9()
        v.mount()
        self.assertEqual(v.read("f"), b"x" * 1000)

    def test_dump_prints_every_kind_of_fact(self):
        v = self.volume()
        os.mkdir(v.path("d"))
        with open(os.fsencode(v.path("d")) + b"/\xff\xfe", "wb") as f:
            f.write(b"small")
        v.write("big", os.urandom(1 << 20), sync=True)
        os.symlink("target", v.path("link"))
        os.rename(v.path("big"), v.path("large"))
        os.setxattr(v.path("large"), "user.colour", b"red")
        os.unlink(v.path("link"))
        cli("sync", v.mnt, check=EXIT_OK)
        v.umount()
        facts = [json.loads(line) for line in cli("dump", "--json", v.store, check=EXIT_OK).stdout.splitlines()]
        kinds = [f.get("kind") or f["table"] for f in facts]
        self.assertLessEqual({"super", "batch", "record"}, set(kinds))
        self.assertEqual(kinds.count("super"), 2)
        self.assertGreater(sum("table" in f for f in facts), 4)
        records = {f["type"] for f in facts if f.get("kind") == "record"}
        self.assertLessEqual({"MKNODE", "WRITE", "RENAME", "UNLINK", "SETXATTR", "EPOCH"}, records)
        seqs = [f["seq"] for f in facts if f.get("kind") == "batch"]
        self.assertEqual(seqs, list(range(seqs[0], seqs[0] + len(seqs))))
        self.assertIn("fffe", {f.get("name") for f in facts})
        words = cli("dump", "--super", "--journal", v.store, check=EXIT_OK).stdout
        self.assertIn('record type="RENAME"', words)
        cli("fsck", v.store, check=EXIT_OK)

    def test_dump_changes_nothing(self):
        v = self.volume()
        v.write("f", os.urandom(300000), sync=True)
        v.kill9()
        before = self.contents(v.store)
        cli("dump", v.store, check=EXIT_OK)
        self.assertEqual(self.contents(v.store), before)
        v.mount()

    def contents(self, top):
        """Path, size and bytes of everything but the index, which RocksDB opens its own log files for."""
        found = {}
        for path, _, files in os.walk(top):
            for name in files:
                full = os.path.join(path, name)
                if not full.startswith(os.path.join(top, "index")):
                    with open(full, "rb") as f:
                        found[full] = hash(f.read())
        return found


class Damage(VolumeTest):
    """Every refusal names what is wrong, changes nothing, and the volume mounts once it is put right."""

    def super_of(self, v):
        with open(os.path.join(v.store, "super"), "rb") as f:
            return [bytearray(f.read(SUPER_BYTES)) for _ in range(2)]

    def put_super(self, v, copies):
        with open(os.path.join(v.store, "super"), "r+b") as f:
            f.write(b"".join(copies))

    def closed_volume(self):
        v = self.volume()
        v.write("f", b"x" * 5000, sync=True)
        return v.umount()

    def refused(self, v, says, fsck):
        r = cli("mount", v.store, v.mnt)
        self.assertEqual(r.returncode, EXIT_MOUNT, r.stderr)
        self.assertIn(says, r.stderr)
        self.assertFalse(is_mounted(v.mnt))
        self.assertEqual(cli("fsck", v.store).returncode, fsck)

    def test_a_newer_format_version_is_refused(self):
        v = self.closed_volume()
        copies = self.super_of(v)
        newer = [bytearray(c) for c in copies]
        for c in newer:
            c[8:12] = struct.pack("<I", 2)
            c[-4:] = struct.pack("<I", crc32c(bytes(c[:-4])))
        self.put_super(v, newer)
        self.refused(v, "newer clawfs", EXIT_FSCK_ERROR)
        self.assertEqual(self.super_of(v), newer)
        self.put_super(v, copies)
        v.mount()
        self.assertEqual(v.read("f"), b"x" * 5000)

    def test_one_damaged_super_copy_is_survived_and_repaired(self):
        for copy in [0, 1]:
            v = self.volume(name="volume%d" % copy)
            v.write("f", b"x")
            v.umount()
            copies = self.super_of(v)
            copies[copy][100] ^= 1
            self.put_super(v, copies)
            self.assertEqual(json.loads(cli("info", "--json", v.store, check=EXIT_OK).stdout)["superblock_copies_valid"], 1)
            self.assertEqual(cli("dump", "--super", v.store).returncode, EXIT_DAMAGED)
            v.mount()
            self.assertEqual(v.read("f"), b"x")
            v.umount()
            copies = self.super_of(v)
            copies[copy][100] ^= 1
            self.put_super(v, copies)
            r = json.loads(cli("fsck", "--json", v.store, check=EXIT_FAILURE).stdout)
            self.assertEqual(r["result"], "repaired")
            cli("fsck", v.store, check=EXIT_OK)

    def test_two_damaged_super_copies_are_refused(self):
        v = self.closed_volume()
        copies = self.super_of(v)
        broken = [bytearray(c) for c in copies]
        for c in broken:
            c[200] ^= 0xFF
        self.put_super(v, broken)
        self.refused(v, "damaged", EXIT_DAMAGED)
        self.put_super(v, copies)
        v.mount()
        self.assertEqual(v.read("f"), b"x" * 5000)

    def test_a_missing_file_is_named_and_welcome_back(self):
        v = self.closed_volume()
        for name, says in [("arena.1/chunk.00000", "chunk 0"), ("journal/seg.0003", "seg.0003")]:
            path = os.path.join(v.store, name)
            os.rename(path, os.path.join(self.tmp, "away"))
            self.refused(v, says, EXIT_DAMAGED)
            self.assertFalse(os.path.exists(path), "a refused mount makes nothing")
            os.rename(os.path.join(self.tmp, "away"), path)
            v.mount()
            self.assertEqual(v.read("f"), b"x" * 5000)
            v.umount()

    def test_a_file_replaced_by_a_symlink_is_refused(self):
        v = self.closed_volume()
        for name in ["super", "arena.1/chunk.00000", "journal/seg.0001"]:
            path = os.path.join(v.store, name)
            os.rename(path, os.path.join(self.tmp, "away"))
            os.symlink(os.path.join(self.tmp, "away"), path)
            r = cli("mount", v.store, v.mnt)
            self.assertEqual(r.returncode, EXIT_MOUNT, name)
            os.unlink(path)
            os.rename(os.path.join(self.tmp, "away"), path)
        v.mount()
        self.assertEqual(v.read("f"), b"x" * 5000)

    def test_a_missing_index_is_refused(self):
        v = self.closed_volume()
        os.rename(os.path.join(v.store, "index"), os.path.join(self.tmp, "away"))
        r = cli("mount", v.store, v.mnt)
        self.assertEqual(r.returncode, EXIT_MOUNT)
        self.assertFalse(is_mounted(v.mnt))
        shutil.rmtree(os.path.join(v.store, "index"), ignore_errors=True)
        os.rename(os.path.join(self.tmp, "away"), os.path.join(v.store, "index"))
        v.mount()
        self.assertEqual(v.read("f"), b"x" * 5000)

    def test_fsck_finds_a_flipped_bit_in_the_data_and_names_the_file(self):
        v = self.volume()
        data = os.urandom(1 << 20)
        v.write("victim", data, sync=True)
        v.umount()
        self.assertEqual(json.loads(v.fsck("--json").stdout)["result"], "clean")
        chunk = glob.glob(os.path.join(v.store, "arena.1", "chunk.*"))[0]
        with open(chunk, "r+b") as f:
            at = f.read().find(data[4096:4096 + 64])
            self.assertGreaterEqual(at, 0)
            f.seek(at)
            f.write(bytes([data[4096] ^ 1]))
        r = v.fsck("--json", check=EXIT_DAMAGED)
        facts = json.loads(r.stdout)
        self.assertEqual(facts["result"], "damaged")
        self.assertEqual(facts["damaged_blocks"], 1)
        self.assertTrue(any("victim" in line for line in facts["findings"]), facts["findings"])
        self.assertIn("victim", v.fsck(check=EXIT_DAMAGED).stdout)
        v.fsck("--no-data")
        v.mount()
        with self.assertRaises(OSError) as e:
            v.read("victim")
        self.assertEqual(e.exception.errno, errno.EIO)


if __name__ == "__main__":
    main()
