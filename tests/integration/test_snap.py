#!/usr/bin/env python3
"""Snapshots on a real mount: by name, by attribute and by verb; hundreds at once, as other users, over kill -9, and their space."""

import errno
import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import time

from clawfs_env import (EXIT_FAILURE, EXIT_OK, EXIT_USAGE, ClusterTest, VolumeTest, cli, main, seed, wait_for)

NOBODY = 65534


def error_of(act, *args):
    """The errno's name, "" for success."""
    try:
        act(*args)
    except OSError as e:
        return errno.errorcode[e.errno]
    return ""


def tree(top):
    """Everything below `top` but what .clawfs shows: path -> facts and, of files, the hash of their bytes."""
    found = {}
    for at, dirs, files in os.walk(top):
        for name in dirs + files:
            path = os.path.join(at, name)
            st = os.lstat(path)
            facts = [stat.S_IFMT(st.st_mode), stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_nlink, int(st.st_mtime)]
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    facts += [st.st_size, hashlib.sha256(f.read()).hexdigest()]
            elif stat.S_ISLNK(st.st_mode):
                facts.append(os.readlink(path))
            if not stat.S_ISLNK(st.st_mode):
                facts.append(sorted((n, os.getxattr(path, n)) for n in os.listxattr(path)))
            found[os.path.relpath(path, top)] = facts
    return found


def as_user(uid, *command):
    return subprocess.run(command, user=uid, group=uid, extra_groups=[], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=60, check=False)


def change(rng, top, n):
    """A few random changes."""
    for _ in range(n):
        name = os.path.join(top, "d%d" % rng.randrange(4), "f%d" % rng.randrange(12))
        os.makedirs(os.path.dirname(name), exist_ok=True)
        what = rng.randrange(6)
        if what == 0 and os.path.exists(name):
            os.unlink(name)
        elif what == 1 and os.path.exists(name):
            os.truncate(name, rng.randrange(100000))
        elif what == 2 and os.path.exists(name) and not os.path.exists(name + ".l"):
            os.link(name, name + ".l")
        else:
            with open(name, "r+b" if os.path.exists(name) else "wb") as f:
                f.seek(rng.randrange(200000))
                f.write(rng.randbytes(rng.randrange(1, 150000)))


class Snapshots(VolumeTest):
    def made(self, v, name):
        return v.path(".clawfs", "snapshots", name)

    def used(self, v):
        st = os.statvfs(v.mnt)
        return (st.f_blocks - st.f_bfree) * st.f_frsize

    def test_each_snapshot_stays_what_it_was_whatever_comes_after(self):
        rng = random.Random(seed())
        v = self.volume()
        want = {}
        for i in range(12):
            change(rng, v.mnt, 20)
            if len(want) > 4 and rng.random() < 0.5:
                name = rng.choice(sorted(want))
                os.rmdir(self.made(v, name))
                del want[name]
            os.mkdir(self.made(v, "s%d" % i))
            want["s%d" % i] = tree(v.mnt)
            if i % 4 == 1:
                v.kill9()
                v.mount()
            if i % 4 == 3:
                v.remount()
            self.assertEqual(sorted(os.listdir(v.path(".clawfs", "snapshots"))), sorted(want))
            for name, facts in want.items():
                self.assertEqual(tree(self.made(v, name)), facts, name)
        v.umount()
        v.fsck()

    def test_deleting_gives_the_space_back(self):
        v = self.volume()
        mib = 1 << 20
        v.write("big", os.urandom(8 * mib), sync=True)
        before = self.used(v)
        os.mkdir(self.made(v, "one"))
        os.mkdir(self.made(v, "two"))
        v.write("big", os.urandom(8 * mib), sync=True)
        os.mkdir(self.made(v, "three"))
        os.unlink(v.path("big"))
        os.setxattr(v.mnt, "clawfs.checkpoint", b"1")
        self.assertGreater(self.used(v), before + 7 * mib)
        os.rmdir(self.made(v, "one"))  # "two" has the same
        time.sleep(1)
        self.assertGreater(self.used(v), before + 7 * mib)
        facts = {s["name"]: s for s in json.loads(cli("snap", "list", "--json", v.mnt, check=EXIT_OK).stdout)}
        self.assertEqual(facts["two"]["only_bytes"], 8 * mib)
        self.assertEqual(facts["three"]["only_bytes"], 8 * mib)
        os.rmdir(self.made(v, "two"))
        wait_for("the space of a snapshot", lambda: self.used(v) < before + mib, 20)
        cli("snap", "delete", "three", v.mnt, check=EXIT_OK)
        wait_for("the space of the last snapshot", lambda: self.used(v) < before - 7 * mib, 20)
        wait_for("the directories of the snapshots", lambda: os.listdir(os.path.join(v.store, "snap")) == [], 20)
        v.umount()
        v.fsck()

    def test_hundreds_are_there_at_once_with_few_descriptors(self):
        v = self.volume()
        n = 300
        for i in range(n):
            v.write("f", b"%d\n" % i)
            os.mkdir(self.made(v, "s%03d" % i))
        self.assertEqual(len(os.listdir(v.path(".clawfs", "snapshots"))), n)
        for i in random.Random(seed()).sample(range(n), n):
            with open(os.path.join(self.made(v, "s%03d" % i), "f"), "rb") as f:
                self.assertEqual(f.read(), b"%d\n" % i)
        self.assertLess(len(os.listdir("/proc/%d/fd" % v.pid)), 256)
        listed = json.loads(cli("snap", "list", "--json", v.mnt, check=EXIT_OK).stdout)
        self.assertEqual([s["name"] for s in listed], ["s%03d" % i for i in range(n)])
        v.kill9()
        v.mount()
        for i in range(0, n, 3):
            os.rmdir(self.made(v, "s%03d" % i))
        for i in range(n):
            if i % 3 == 0:
                self.assertEqual(error_of(os.stat, self.made(v, "s%03d" % i)), "ENOENT")
                continue
            with open(os.path.join(self.made(v, "s%03d" % i), "f"), "rb") as f:
                self.assertEqual(f.read(), b"%d\n" % i)
        v.umount()
        v.fsck()

    def test_other_users_see_what_they_could_see(self):
        os.chmod(self.tmp, 0o711)
        v = self.volume("allow_other")
        os.chmod(os.path.dirname(v.mnt), 0o711)
        v.write("open", b"for all\n")
        v.write("closed", b"for root\n")
        os.chmod(v.path("closed"), 0o600)
        os.mkdir(v.path("private"), 0o700)
        v.write("private/x", b"hidden\n")
        os.mkdir(self.made(v, "s"))
        os.chmod(v.path("open"), 0o600)
        os.chmod(v.path("closed"), 0o644)
        os.chmod(v.path("private"), 0o755)
        at = self.made(v, "s")
        self.assertEqual(as_user(NOBODY, "cat", at + "/open").stdout, "for all\n")
        self.assertIn("Permission denied", as_user(NOBODY, "cat", at + "/closed").stderr)
        self.assertIn("Permission denied", as_user(NOBODY, "ls", at + "/private").stderr)
        self.assertEqual(as_user(NOBODY, "ls", at).stdout.split(), ["closed", "open", "private"])
        self.assertNotEqual(as_user(NOBODY, "mkdir", self.made(v, "no")).returncode, 0)
        self.assertNotEqual(as_user(NOBODY, "rmdir", at).returncode, 0)
        self.assertNotEqual(as_user(NOBODY, "setfattr", "-n", "clawfs.snap.create", "-v", "no", v.mnt).returncode, 0)
        self.assertEqual(os.listdir(v.path(".clawfs", "snapshots")), ["s"])

    def test_nothing_in_a_snapshot_can_be_changed(self):
        v = self.volume()
        os.mkdir(v.path("d"))
        v.write("d/f", b"as it was\n")
        os.mkdir(self.made(v, "s"))
        at = self.made(v, "s")
        self.assertEqual(error_of(os.mkdir, at + "/new"), "EROFS")
        self.assertEqual(error_of(os.unlink, at + "/d/f"), "EROFS")
        self.assertEqual(error_of(os.rmdir, at + "/d"), "EROFS")
        self.assertEqual(error_of(os.rename, at + "/d/f", at + "/g"), "EROFS")
        self.assertEqual(error_of(os.truncate, at + "/d/f", 0), "EROFS")
        self.assertEqual(error_of(os.chmod, at + "/d/f", 0o600), "EROFS")
        self.assertEqual(error_of(os.link, at + "/d/f", v.path("g")), "EXDEV")
        self.assertEqual(error_of(os.setxattr, at + "/d/f", "user.x", b"1"), "EROFS")
        self.assertEqual(error_of(open, at + "/d/new", "w"), "EROFS")
        fd = os.open(at + "/d/f", os.O_WRONLY | os.O_APPEND)  # the kernel believes it can
        os.write(fd, b"never\n")
        self.assertIn(error_of(os.fsync, fd), ("EROFS", "EIO"))
        error_of(os.close, fd)

        def healed():
            with open(at + "/d/f", "rb") as f:
                return f.read() == b"as it was\n"
        wait_for("the file to look as it is", healed, 5, 0.1)
        self.assertEqual(v.read("d/f"), b"as it was\n")
        shutil.copytree(at, v.path("copy"), symlinks=True)
        self.assertEqual(v.read("copy/d/f"), b"as it was\n")

    def test_names_and_verbs(self):
        v = self.volume()
        cli("snap", "create", "a b", v.mnt, check=EXIT_OK)
        self.assertIn("there is a snapshot", cli("snap", "create", "a b", v.mnt, check=EXIT_FAILURE).stderr)
        self.assertIn("there is no snapshot", cli("snap", "delete", "b", v.mnt, check=EXIT_FAILURE).stderr)
        for bad in ("a/b", ".", "..", "a\nb", ""):
            cli("snap", "create", bad, v.mnt, check=EXIT_USAGE)
        cli("snap", "create", "x", self.tmp, check=EXIT_FAILURE)
        os.setxattr(v.mnt, "clawfs.snap.create", b"from an attribute")
        self.assertEqual(error_of(os.setxattr, v.mnt, "clawfs.snap.create", b"a\0b"), "EINVAL")
        self.assertEqual(error_of(os.setxattr, v.mnt, "clawfs.snap.create", b"x" * 256), "ENAMETOOLONG")
        self.assertEqual(error_of(os.mkdir, self.made(v, "x" * 256)), "ENAMETOOLONG")
        self.assertEqual(error_of(os.mkdir, self.made(v, "a b")), "EEXIST")
        self.assertEqual(error_of(os.rmdir, self.made(v, "none")), "ENOENT")
        out = cli("snap", "list", v.mnt, check=EXIT_OK).stdout
        self.assertIn("  a b\n", out)
        self.assertIn("  from an attribute\n", out)
        listed = json.loads(os.getxattr(v.mnt, "clawfs.snap.list"))["snapshots"]
        self.assertEqual([s["name"] for s in listed], ["a b", "from an attribute"])
        self.assertLess(abs(listed[0]["time_ns"] / 1e9 - time.time()), 60)
        self.assertNotIn(".clawfs", os.listdir(v.mnt))

    def differences(self, v, *names):
        found = json.loads(cli("snap", "diff", "--json", *names, v.mnt, check=EXIT_OK).stdout)
        return sorted((c["change"], c["path"]) + ((c["from"],) if "from" in c else ()) for c in found)

    def test_cold_files_of_a_snapshot_come_from_their_store(self):
        v = self.volume()
        rng, objects = random.Random(seed()), os.path.join(self.tmp, "objects")
        os.mkdir(objects)
        cli("tier", "add", "cold", "file://" + objects, v.mnt, check=EXIT_OK)
        os.setxattr(v.mnt, "clawfs.tier", b"after=1000d min=4K store=cold")
        data = {"f%d" % i: rng.randbytes(rng.randrange(1, 700000)) for i in range(12)}
        for name, text in data.items():
            v.write(name, text)
        cli("tier", "evict", v.mnt, check=EXIT_OK)
        cli("snap", "create", "s", v.mnt, check=EXIT_OK)
        for i, name in enumerate(data):  # live they change, go, or are read again
            if i % 3 == 0:
                os.unlink(v.path(name))
            elif i % 3 == 1:
                v.write(name, b"other")
        v.remount()
        for i in range(2):
            for name, text in data.items():
                with open(v.path(".clawfs", "snapshots", "s", name), "rb") as f:
                    self.assertEqual(f.read(), text, name)
            cli("gc", v.mnt, check=EXIT_OK)
            v.remount()
        self.assertEqual(v.status()["health"]["damaged_reads"], 0)
        v.umount()
        v.fsck()

    def test_a_schedule_takes_them_and_never_touches_others(self):
        v = self.volume()
        names = v.path(".clawfs", "snapshots")
        self.assertEqual(cli("snap", "schedule", v.mnt, check=EXIT_OK).stdout, "none\n")
        for nonsense in ("", "24", "1s", "0h", "1h1h"):
            cli("snap", "schedule", nonsense, v.mnt, check=EXIT_USAGE)
        for other in ("mine", "auto", "auto-old"):
            cli("snap", "create", other, v.mnt, check=EXIT_OK)
        v.write("f", b"x")
        cli("snap", "schedule", "2d1q", v.mnt, check=EXIT_OK)
        self.assertEqual(cli("snap", "schedule", v.mnt, check=EXIT_OK).stdout, "2d1q\n")
        self.assertEqual(os.getxattr(v.mnt, "clawfs.snap.schedule"), b"2d1q")
        # auto-old counts as one of its own, and as the newest of this quarter, until it is another.
        wait_for("the schedule to look", lambda: v.status()["jobs"]["schedule"]["runs"] > 1, 60, 0.2)
        self.assertLessEqual({"mine", "auto"}, set(os.listdir(names)))
        cli("snap", "delete", "auto-old", v.mnt, check=EXIT_OK) if "auto-old" in os.listdir(names) else None
        own = wait_for("a snapshot of the schedule", lambda: [n for n in os.listdir(names) if n.startswith("auto-2")], 60, 0.2)
        with open(os.path.join(names, own[0], "f"), "rb") as f:
            self.assertEqual(f.read(), b"x")
        v.remount()
        self.assertEqual(v.status()["jobs"]["schedule"]["last_error"], "")
        cli("snap", "schedule", "none", v.mnt, check=EXIT_OK)
        self.assertLessEqual({"mine", "auto", *own}, set(os.listdir(names)))

    def test_diff_names_what_changed(self):
        v = self.volume()
        for name in ("same", "written", "grown", "gone", "moved", "moved and written", "moded", "linked", "touched", "named"):
            v.write(name, name.encode() * 10)
        os.mkdir(v.path("dir"))
        v.write("dir/below", b"x")
        os.mkdir(v.path("old dir"))
        v.write("same place", b"y" * 100000)
        os.link(v.path("linked"), v.path("link 1"))
        cli("snap", "create", "a", v.mnt, check=EXIT_OK)
        self.assertEqual(self.differences(v, "a"), [])
        v.write("written", b"W" * 70)
        with open(v.path("grown"), "ab") as f:
            f.write(b"more")
        os.unlink(v.path("gone"))
        os.rename(v.path("moved"), v.path("dir", "elsewhere"))
        os.rename(v.path("moved and written"), v.path("dir", "m2"))
        v.write("dir/m2", b"new")
        os.chmod(v.path("moded"), 0o600)
        os.rename(v.path("dir"), v.path("new dir"))
        os.rmdir(v.path("old dir"))
        os.mkdir(v.path("made"))
        v.write("made/inside", b"1")
        os.setxattr(v.path("touched"), "user.x", b"1")
        os.link(v.path("linked"), v.path("link 2"))
        os.unlink(v.path("named"))
        v.write("named", b"named" * 10)  # another file of the same name
        with open(v.path("same place"), "r+b") as f:
            f.seek(50000)
            f.write(b"z")
            f.flush()
            os.fsync(f.fileno())
        os.utime(v.path("same place"), ns=(os.stat(v.path("same place")).st_atime_ns, os.stat(v.path("written")).st_mtime_ns))
        cli("snap", "create", "b", v.mnt, check=EXIT_OK)
        want = sorted([("modified", "/written"), ("modified", "/grown"), ("deleted", "/gone"),
                       ("renamed", "/new dir/elsewhere", "/moved"), ("renamed", "/new dir/m2", "/moved and written"),
                       ("modified", "/new dir/m2"), ("modified", "/moded"), ("renamed", "/new dir", "/dir"), ("deleted", "/old dir"),
                       ("created", "/made"), ("created", "/made/inside"), ("modified", "/touched"), ("created", "/link 2"),
                       ("deleted", "/named"), ("created", "/named"), ("modified", "/same place")])
        self.assertEqual(self.differences(v, "a", "b"), want)
        self.assertEqual(self.differences(v, "a"), want)
        self.assertEqual(self.differences(v, "b"), [])
        self.assertEqual(self.differences(v, "a", "a"), [])
        back = self.differences(v, "b", "a")
        self.assertIn(("created", "/gone"), back)
        self.assertIn(("renamed", "/dir", "/new dir"), back)
        self.assertIn("renamed   /dir -> /new dir\n", cli("snap", "diff", "a", "b", v.mnt, check=EXIT_OK).stdout)
        cli("snap", "diff", "none", v.mnt, check=EXIT_FAILURE)
        cli("snap", "diff", "a", "none", v.mnt, check=EXIT_FAILURE)
        self.assertEqual(error_of(os.getxattr, v.mnt, "clawfs.snap.diff.0.99.0"), "ENOENT")
        for bad in ("", "0", "0.1", "0.1.", "x.1.0", "0.live", "0.1.0.0", "0.99999999999999999999999.0"):
            self.assertIn(error_of(os.getxattr, v.mnt, "clawfs.snap.diff." + bad), ("ENODATA", "EINVAL"))

    def test_a_long_difference_comes_in_pages(self):
        v = self.volume()
        cli("snap", "create", "a", v.mnt, check=EXIT_OK)
        names = ["%04d %s" % (i, "x" * 200) for i in range(1000)]
        for name in names:
            v.write(name, b"")
        self.assertEqual(self.differences(v, "a"), [("created", "/" + name) for name in names])

    def test_numbers_are_unique_and_hard_links_are_one(self):
        v = self.volume()
        v.write("a", b"x")
        os.link(v.path("a"), v.path("b"))
        for name in "st":
            os.mkdir(self.made(v, name))
        numbers = [os.stat(os.path.join(top, "a")).st_ino for top in (v.mnt, self.made(v, "s"), self.made(v, "t"))]
        self.assertEqual(len(set(numbers)), 3)
        for top in (v.mnt, self.made(v, "s"), self.made(v, "t")):
            self.assertEqual(os.stat(top + "/a").st_ino, os.stat(top + "/b").st_ino)
            self.assertEqual(os.stat(top + "/a").st_nlink, 2)


class Followers(ClusterTest):
    def test_a_follower_shows_the_same_snapshots(self):
        c = self.cluster(2)
        leader, follower = c.node
        leader.write("f", b"one")
        os.mkdir(leader.path(".clawfs", "snapshots", "s"))
        leader.write("f", b"two")
        c.settle()
        with open(follower.path(".clawfs", "snapshots", "s", "f"), "rb") as f:
            self.assertEqual(f.read(), b"one")
        self.assertEqual(error_of(os.mkdir, follower.path(".clawfs", "snapshots", "t")), "EROFS")
        os.rmdir(leader.path(".clawfs", "snapshots", "s"))
        c.settle()
        self.assertEqual(os.listdir(follower.path(".clawfs", "snapshots")), [])


if __name__ == "__main__":
    main()
