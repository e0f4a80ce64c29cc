"""test_replication: what a user sees of a volume on several machines: joining, following, reading, roles, and every verb, on loopback."""

import contextlib
import errno
import json
import mmap
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from clawfs_env import (CLAWFS, EXIT_FAILURE, EXIT_MOUNT, EXIT_OK, EXIT_USAGE, SMALL, ClusterTest, Node, cli, free_address, is_mounted,
                        main, wait_for)

SECOND = 1.5  # "within a second", and what two busy cores take besides


def facts(path):
    """Everything stat(2), readlink(2) and listxattr(2) tell, but where it is and when it was read."""
    s = os.lstat(path)
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return (s.st_ino, s.st_mode, s.st_nlink, s.st_uid, s.st_gid, s.st_rdev, s.st_size if not stat.S_ISDIR(s.st_mode) else 0, s.st_blocks,
            s.st_mtime_ns, s.st_ctime_ns, os.readlink(path) if stat.S_ISLNK(s.st_mode) else None,
            [(n, os.getxattr(path, n, follow_symlinks=False)) for n in names])


def tree(top):
    """{path below top: facts and contents}"""
    found = {}
    for base, dirs, files in os.walk(top):
        for name in dirs + files:
            path = os.path.join(base, name)
            data = b""
            if stat.S_ISREG(os.lstat(path).st_mode):
                with open(path, "rb") as f:
                    data = f.read()
            found[path[len(top):]] = facts(path), data
    return found


class ReplicationTest(ClusterTest):
    def assert_same(self, c, nodes=None):
        c.settle(nodes=nodes)
        expected = tree(c.leader.mnt)
        for n in nodes or c.followers:
            self.assertEqual(tree(n.mnt), expected, n.name)

    def assert_errno(self, number, call, *args):
        with self.assertRaises(OSError) as e:
            call(*args)
        self.assertEqual(e.exception.errno, number, e.exception)

    def soon(self, what, condition):
        began = time.monotonic()
        wait_for(what, condition, 20, 0.005)
        self.assertLess(time.monotonic() - began, SECOND, what)


class Joining(ReplicationTest):
    def test_the_commands_of_the_documentation_make_two_nodes(self):
        a, b = Node(self.tmp, "a"), Node(self.tmp, "b")
        self.addCleanup(a.close)
        self.addCleanup(b.close)
        a.format(label="shared")
        a.mount("listen=" + a.address, "name=a")
        token = a.cli("peer", "invite", "--name", "b", a.mnt).stdout
        self.assertRegex(token, r"\Aclawfs1:[A-Za-z0-9_-]+\n\Z")
        os.rmdir(b.store)  # join makes it
        b.join(token.strip())
        b.mount()  # it knows where to listen
        a.write("f", b"x" * 100000, sync=True)
        b.reached(a.pos)
        self.assertEqual(b.read("f"), b"x" * 100000)
        info = json.loads(b.cli("info", "--json", b.mnt).stdout)
        self.assertEqual(info["label"], "shared")
        self.assertEqual(info["volume"], json.loads(a.cli("info", "--json", a.mnt).stdout)["volume"])
        self.assertEqual((a.role, b.role), ("leader", "follower"))
        for base, _, files in os.walk(os.path.join(b.store, "peers")):
            self.assertEqual(os.stat(base).st_mode & 0o777, 0o700)
            for name in files:
                self.assertEqual(os.stat(os.path.join(base, name)).st_mode & 0o777, 0o600, name)

    def test_a_volume_that_is_alone_says_how_not_to_be(self):
        v = self.volume()
        for args in (["peer", "invite"], ["peer", "list"], ["promote"], ["resync"]):
            r = cli(*args, v.mnt)
            self.assertEqual(r.returncode, EXIT_FAILURE)
            self.assertIn("listen=", r.stderr)
        self.assertNotIn("peers", v.status())
        self.assertFalse(os.path.exists(os.path.join(v.store, "peers")))
        self.assertEqual(cli("peer", "list", self.tmp).returncode, EXIT_FAILURE)

    def test_wrong_words_are_refused(self):
        for args in (["peer"], ["peer", "frobnicate"], ["diverged"], ["peer", "remove", "x"], ["peer", "join", "no-token", self.tmp],
                     ["wait", "soon", self.tmp], ["peer", "invite", "--ttl=0", self.tmp], ["peer", "invite", "--address=x", self.tmp],
                     ["peer", "invite", "--name=../x", self.tmp], ["durability"], ["peer", "rename", "a", "b c", self.tmp]):
            self.assertEqual(cli(*args).returncode, EXIT_USAGE, args)
        for option in ("listen=here", "listen=1.2.3.4:99999", "name=", "name=a/b", "advertise=x", "replica-rate=1"):
            self.assertEqual(cli("mount", "-o", option, self.tmp, self.tmp).returncode, EXIT_USAGE, option)
        self.assertIn("clawfs peer invite", cli("peer", "--help", check=EXIT_OK).stdout + cli("peer", "invite", "--help").stdout)

    def test_every_verb_explains_itself_and_is_listed(self):
        program = cli("--help", check=EXIT_OK).stdout
        for verb in ("peer invite", "peer join", "peer list", "peer remove", "peer rename", "promote", "handover", "resync",
                     "diverged list", "diverged export", "durability", "wait"):
            r = cli(*verb.split(), "--help", check=EXIT_OK)
            self.assertIn("usage: clawfs " + verb, r.stdout)
            self.assertIn("xit codes:", r.stdout)
            self.assertIn("\n  " + verb, program)

    def test_a_token_works_once_and_not_for_ever(self):
        c = self.cluster(1)
        token = c.leader.invite("late", "--ttl", "1s")
        time.sleep(2.2)
        r = cli("peer", "join", token, os.path.join(self.tmp, "late"))
        self.assertEqual(r.returncode, EXIT_FAILURE)
        self.assertFalse(os.path.exists(os.path.join(self.tmp, "late")), "nothing is left of it")
        token = c.leader.invite("x")
        cli("peer", "join", token, os.path.join(self.tmp, "x"), check=EXIT_OK)
        self.assertEqual(cli("peer", "join", token, os.path.join(self.tmp, "y")).returncode, EXIT_FAILURE)
        self.assertNotIn("y", c.leader.cli("peer", "list", c.leader.mnt).stdout)

    def test_joining_never_takes_a_directory_that_holds_something(self):
        c = self.cluster(1)
        token = c.leader.invite("b")
        place = os.path.join(self.tmp, "place")
        os.mkdir(place)
        with open(os.path.join(place, "letter"), "w") as f:
            f.write("dear")
        self.assertEqual(cli("peer", "join", token, place).returncode, EXIT_FAILURE)
        self.assertEqual(os.listdir(place), ["letter"])
        os.unlink(os.path.join(place, "letter"))
        cli("peer", "join", token, place, check=EXIT_OK)  # the token was not used up

    def test_the_token_is_for_root_and_the_owner_only(self):
        c = self.cluster(1, "allow_other")
        c.leader.invite("b")
        self.assertTrue(c.leader.xattr("peer.invite"))

        def as_nobody():
            os.setuid(65534)
            try:
                os.getxattr(c.leader.mnt, "clawfs.peer.invite")
            except PermissionError:
                os._exit(0)
            os._exit(1)

        os.chmod(self.tmp, 0o755)
        pid = os.fork()
        if pid == 0:
            as_nobody()
        self.assertEqual(os.waitpid(pid, 0)[1], 0)

    def test_peers_are_listed_renamed_and_removed(self):
        c = self.cluster(3)
        a, b, third = c.node
        listed = json.loads(a.cli("peer", "list", "--json", a.mnt).stdout)
        self.assertEqual([p["name"] for p in listed], ["n1", "n2", "n3"])
        self.assertEqual([p["self"] for p in listed], [True, False, False])
        self.assertEqual([p["leads"] for p in listed], [True, False, False])
        a.cli("peer", "rename", "n2", "second", a.mnt)
        self.assertEqual(a.xattr("replica.second.state"), "streaming")
        wait_for("the follower to know its name", lambda: "second" in b.cli("peer", "list", b.mnt).stdout, 10)
        a.cli("peer", "remove", "n3", a.mnt)
        self.assertNotIn("n3", a.status()["peers"])
        a.write("f", b"after", sync=True)
        b.reached(a.pos)
        time.sleep(1.5)
        self.assertFalse(os.path.exists(third.path("f")))
        for args in (["remove", "nobody"], ["rename", "nobody", "x"], ["rename", "second", "n1"]):
            self.assertEqual(cli("peer", *args, a.mnt).returncode, EXIT_FAILURE, args)
        self.assertEqual(cli("peer", "remove", "n1", b.mnt).returncode, EXIT_FAILURE, "a follower changes no list")


class Following(ReplicationTest):
    def test_a_follower_is_the_image_of_its_leader(self):
        c = self.cluster(2)
        a = c.leader
        os.mkdir(a.path("d"), 0o2755)
        a.write("d/small", b"x")
        a.write("d/large", os.urandom(3 << 20))
        with open(a.path("sparse"), "wb") as f:
            f.seek(10 << 20)
            f.write(b"end")
        os.link(a.path("d/small"), a.path("linked"))
        os.symlink("d/small", a.path("symbolic"))
        os.mkfifo(a.path("fifo"), 0o600)
        os.mknod(a.path("device"), 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        os.chown(a.path("d/small"), 1234, 5678)
        os.setxattr(a.path("d/large"), "user.colour", b"red")
        os.setxattr(a.path("d/large"), "trusted.secret", b"\0\1")
        subprocess.run(["setfacl", "-m", "u:1234:rw", a.path("d/large")], check=False)
        os.utime(a.path("linked"), ns=(1, 1234567890123456789))
        os.rename(a.path("d/large"), a.path("d/moved"))
        a.write(b"\xff\xfe name".decode("utf-8", "surrogateescape"), b"bytes")
        self.assert_same(c)
        with open(c.node[1].path("sparse"), "rb") as f:
            self.assertEqual(os.lseek(f.fileno(), 0, os.SEEK_DATA), 10 << 20)

    def test_changes_appear_within_a_second_and_the_caches_of_the_kernel_know(self):
        c = self.cluster(2)
        a, b = c.node
        a.write("f", b"1" * 8192, sync=True)
        os.mkdir(a.path("d"))
        a.write("d/gone", b"")
        c.settle()
        # Everything is in the kernel's caches: data, attributes, names that are there and that are not, a listing.
        fd = os.open(b.path("f"), os.O_RDONLY)
        self.addCleanup(os.close, fd)
        m = mmap.mmap(fd, 8192, prot=mmap.PROT_READ)
        self.addCleanup(m.close)
        listing = os.open(b.path("d"), os.O_RDONLY | os.O_DIRECTORY)
        self.addCleanup(os.close, listing)
        self.assertEqual(m[:4], b"1111")
        self.assertEqual(os.pread(fd, 4, 4096), b"1111")
        self.assertEqual(os.listdir(listing), ["gone"])
        self.assertFalse(os.path.exists(b.path("new")))
        self.assertTrue(os.path.exists(b.path("d/gone")))
        for round in range(5):
            digit = b"%d" % (round + 2)
            with open(a.path("f"), "r+b") as f:
                f.write(digit * 8192)
                f.flush()
                os.fsync(f.fileno())
            self.soon("the map to show round %d" % round, lambda: m[4090:4100] == digit * 10)
            self.soon("the open file to show round %d" % round, lambda: os.pread(fd, 8192, 0) == digit * 8192)
        a.write("new", b"n", sync=True)
        self.soon("a name that was absent to be there", lambda: os.path.exists(b.path("new")))
        os.unlink(a.path("d/gone"))
        a.write("d/come", b"", sync=True)
        self.soon("the open directory to show it", lambda: os.listdir(listing) == ["come"])
        self.soon("a name to go", lambda: not os.path.exists(b.path("d/gone")))
        os.chmod(a.path("f"), 0o600)
        with open(a.path("f"), "ab") as f:
            f.write(b"longer")
            os.fsync(f.fileno())
        self.soon("attributes to follow", lambda: os.fstat(fd).st_mode & 0o777 == 0o600 and os.fstat(fd).st_size == 8198)
        os.truncate(a.path("f"), 10)
        a.cli("sync", a.mnt)
        self.soon("the open file to be short", lambda: len(os.pread(fd, 8192, 0)) == 10)

    def test_what_was_waited_for_is_seen_at_once(self):
        c = self.cluster(2)
        a, b = c.node
        os.mkdir(a.path("d"))
        a.write("f", b"0000", sync=True)
        c.settle()
        for i in range(60):
            for path in ("f", "d/%d" % i, "top%d" % i):  # into the caches, as it is now
                with contextlib.suppress(OSError):
                    b.read(path)
            a.write("f", b"%04d" % (i + 1))
            a.write("d/%d" % i, b"below")
            a.write("top%d" % i, b"top")
            pos = a.pos
            if i % 2:
                b.reached(pos, timeout=20)
            else:
                b.set_xattr("wait", str(pos))
            self.assertEqual(b.read("f"), b"%04d" % (i + 1))
            self.assertEqual(b.read("d/%d" % i), b"below")
            self.assertEqual(b.read("top%d" % i), b"top")
        r = cli("wait", "--timeout", "0.2", a.pos + 1000, b.mnt)
        self.assertEqual(r.returncode, EXIT_FAILURE)
        self.assertIn("does not show", r.stderr)

    def test_a_busy_leader_and_a_reader_of_the_same_files_agree_in_the_end(self):
        c = self.cluster(2)
        a, b = c.node
        stop = threading.Event()
        wrong = []

        def reader():
            while not stop.is_set():
                for name in os.listdir(b.mnt):
                    with contextlib.suppress(FileNotFoundError):
                        data = b.read(name)
                        if data.strip(data[:1]) != b"":
                            wrong.append(name)

        t = threading.Thread(target=reader)
        t.start()
        for i in range(600):
            a.write("part", bytes([i % 250 + 1]) * (i * 37 % 4000 + 1))
            os.rename(a.path("part"), a.path("f%d" % (i % 40)))
            if i % 7 == 0:
                os.unlink(a.path("f%d" % (i % 40)))
        stop.set()
        t.join()
        self.assertEqual(wrong, [])
        self.assert_same(c)

    def test_a_resync_under_a_mount_ends_what_the_kernel_has_cached(self):
        c = self.cluster(2)
        a, b = c.node
        a.write("kept", b"k" * 10000)
        a.write("changed", b"1" * 10000)
        a.write("gone", b"g")
        os.mkdir(a.path("d"))
        for i in range(300):
            a.write("d/%d" % i, b"%d" % i)
        c.settle()
        self.assertEqual(len(tree(b.mnt)), 304)
        with open(b.path("changed"), "rb") as f, mmap.mmap(f.fileno(), 10000, prot=mmap.PROT_READ) as m:
            self.assertEqual(m[:2], b"11")
            os.kill(b.pid, signal.SIGSTOP)
            wait_for("the follower to be missed", lambda: a.peer_state("n2") != "streaming", 20)
            for i in range(30):  # more than the ring of 32 MiB holds, twice
                a.write("fill", os.urandom(50000) * 50, sync=True)
                for k in range(40):
                    a.write("d/%d" % k, os.urandom(30000))
            a.write("changed", b"2" * 10000)
            os.unlink(a.path("gone"))
            os.rename(a.path("d/299"), a.path("moved"))
            a.cli("sync", a.mnt)
            os.kill(b.pid, signal.SIGCONT)
            c.settle()
            self.assertGreater(b.peer("n1")["resync_rows"], 0, "it came by a resync")
            self.soon("the map to show it", lambda: m[:2] == b"22" and m[9998:] == b"22")
        self.assert_same(c)

    def test_more_changes_than_the_notices_hold(self):
        c = self.cluster(2)
        a, b = c.node
        os.mkdir(a.path("d"))
        for i in range(6000):
            a.write("d/%d" % i, b"")
        c.settle()
        self.assertEqual(len([os.lstat(b.path("d", n)) for n in os.listdir(b.path("d"))]), 6000)
        for i in range(6000):
            if i % 3 == 0:
                os.unlink(a.path("d/%d" % i))
            elif i % 3 == 1:
                os.chmod(a.path("d/%d" % i), 0o600)
            else:
                os.rename(a.path("d/%d" % i), a.path("d/new%d" % i))
        self.assert_same(c)

    def test_a_follower_refuses_changes_and_keeps_its_commands(self):
        c = self.cluster(2)
        a, b = c.node
        a.write("f", b"x")
        os.mkdir(a.path("d"))
        c.settle()
        before = tree(b.mnt)
        self.assert_errno(errno.EROFS, b.write, "g", b"")
        self.assert_errno(errno.EROFS, b.write, "f", b"y")
        self.assert_errno(errno.EROFS, os.unlink, b.path("f"))
        self.assert_errno(errno.EROFS, os.rmdir, b.path("d"))
        self.assert_errno(errno.EROFS, os.mkdir, b.path("e"))
        self.assert_errno(errno.EROFS, os.rename, b.path("f"), b.path("g"))
        self.assert_errno(errno.EROFS, os.link, b.path("f"), b.path("g"))
        self.assert_errno(errno.EROFS, os.symlink, "f", b.path("g"))
        self.assert_errno(errno.EROFS, os.chmod, b.path("f"), 0)
        self.assert_errno(errno.EROFS, os.truncate, b.path("f"), 0)
        self.assert_errno(errno.EROFS, os.setxattr, b.path("f"), "user.x", b"")
        self.assert_errno(errno.EROFS, os.setxattr, b.path("f"), "clawfs.durability", b"local")
        self.assert_errno(errno.EROFS, os.open, b.path("f"), os.O_RDWR)
        self.assertEqual(tree(b.mnt), before)
        b.cli("sync", b.mnt)
        self.assertEqual(b.xattr("durability"), "local")

    def test_status_tells_the_same_as_the_attributes(self):
        c = self.cluster(2)
        a, b = c.node
        a.write("f", os.urandom(1 << 20), sync=True)
        c.settle()
        peer = wait_for("no lag", lambda: (p := a.peer("n2"))["lag_batches"] == 0 and p, 10)
        self.assertEqual(peer["state"], "streaming")
        for name, value in (("state", "streaming"), ("lag_bytes", "0"), ("fence", "0"), ("lag_seconds", "0.000")):
            self.assertEqual(a.xattr("replica.n2." + name), value)
        self.assertGreater(int(a.xattr("replica.n2.seq")), 0)
        self.assertLess(abs(int(a.xattr("replica.n2.last_ack")) / 1e9 - time.time()), 60)
        self.assert_errno(errno.ENODATA, a.xattr, "replica.nobody.state")
        self.assert_errno(errno.ENODATA, a.xattr, "replica.n2.nothing")
        for n, role in ((a, "leader"), (b, "follower")):
            mine = n.status()["replica"]
            self.assertEqual((mine["role"], mine["readable"]), (role, True))
            text = n.cli("status", n.mnt).stdout
            self.assertRegex(text, r"\n  role +%s\n" % role)
            self.assertRegex(text, r"\n  n[12] +state=streaming ")
        self.assertTrue(b.peer("n1")["leads"])
        self.assertEqual(a.status()["replica"]["epoch"], b.status()["replica"]["epoch"])

    def test_fsync_waits_for_the_follower_that_the_policy_asks_for(self):
        c = self.cluster(2)
        a, b = c.node
        os.mkdir(a.path("safe"))
        a.cli("durability", "replicas=1", a.path("safe"))
        self.assertEqual(a.cli("durability", a.path("safe")).stdout, "replicas=1\n")
        self.assertEqual(a.cli("durability", a.mnt).stdout, "local\n")
        self.assertEqual(cli("durability", "replicas=none", a.mnt).returncode, EXIT_FAILURE)
        a.write("safe/f", b"x", sync=True)
        seq = a.pos
        self.assertGreaterEqual(int(a.xattr("replica.n2.seq")), seq - 1)
        os.kill(b.pid, signal.SIGSTOP)
        t = threading.Thread(target=a.write, args=("safe/g", b"y"), kwargs={"sync": True})
        try:
            t.start()
            a.write("elsewhere", b"z", sync=True)
            t.join(1)
            self.assertTrue(t.is_alive())
        finally:
            os.kill(b.pid, signal.SIGCONT)
        t.join(20)
        self.assertFalse(t.is_alive())
        a.cli("durability", "inherit", a.path("safe"))
        self.assertEqual(a.cli("durability", a.path("safe")).stdout, "local\n")


class Crashes(ReplicationTest):
    def test_either_side_may_be_killed_at_any_time(self):
        c = self.cluster(2)
        a, b = c.node
        for round in range(6):
            for i in range(30):
                a.write("f%d.%d" % (round, i), os.urandom(1 + i * 997), sync=i % 10 == 0)
            victim = (a, b)[round % 2]
            victim.kill9()
            victim.start()
            wait_for("the stream to go on", lambda: a.peer_state("n2") == "streaming", 20)
        self.assertEqual((a.role, b.role), ("leader", "follower"))
        self.assert_same(c)
        self.assertEqual(b.diverged(), [])
        for n in (b, a):
            n.umount()
            n.fsck()

    def test_an_unmount_of_the_leader_leaves_nothing_behind(self):
        c = self.cluster(2)
        a, b = c.node
        for i in range(50):
            a.write("f%d" % i, os.urandom(20000))
        expected = tree(a.mnt)
        a.umount()
        self.assertEqual(tree(b.mnt), expected)

    def test_a_stopped_follower_catches_up_after_a_remount(self):
        c = self.cluster(2)
        a, b = c.node
        b.umount()
        for i in range(20):
            a.write("f%d" % i, os.urandom(50000), sync=True)
        self.assertIn(a.peer_state("n2"), ("disconnected", "fenced"))
        b.start()
        self.assert_same(c)

    def test_a_volume_with_peers_mounts_read_only_without_them(self):
        c = self.cluster(2)
        b = c.node[1]
        b.remount("ro")
        self.assertEqual(b.role, "follower")
        self.assertNotIn("peers", b.status())
        self.assert_errno(errno.EROFS, b.write, "x", b"")
        b.umount()
        b.start()
        self.assert_same(c)


class Roles(ReplicationTest):
    def test_a_promoted_follower_writes_on_in_the_same_mount(self):
        c = self.cluster(2)
        a, b = c.node
        a.write("f", b"before", sync=True)
        c.settle()
        with open(b.path("f"), "rb") as f:
            a.kill9()
            c.promote(b)
            self.assertEqual(b.role, "leader")
            self.assertEqual(f.read(), b"before")
        b.write("f", b"after", sync=True)
        b.write("large", os.urandom(2 << 20), sync=True)
        os.mkdir(b.path("d"))
        os.rename(b.path("large"), b.path("d/large"))
        with open(b.path("mapped"), "w+b") as f:
            f.truncate(8192)
            with mmap.mmap(f.fileno(), 8192) as m:
                m[100:105] = b"dirty"
                m.flush()
        a.start()
        self.assertEqual(a.role, "follower", "it heard of the other one before it answered")
        self.assert_same(c)
        self.assertEqual(a.read("mapped")[100:105], b"dirty")
        self.assertEqual(a.diverged(), [])
        b.remount()
        self.assertEqual(b.role, "leader")
        b.write("cached", b"again", sync=True)
        self.assert_same(c)

    def test_an_old_leader_is_fenced_and_what_only_it_had_is_kept_aside(self):
        c = self.cluster(2)
        a, b = c.node
        a.write("common", b"c" * 100000, sync=True)
        os.mkdir(a.path("d"))
        c.settle()
        b.kill9()
        secret = os.urandom(100000)
        a.write("d/only", secret, sync=True)
        a.write("common", b"changed" * 10000, sync=True)
        a.kill9()
        b.start()
        c.promote(b)
        b.write("by-b", b"b", sync=True)
        a.start()
        self.assertEqual(a.role, "follower")
        self.assert_same(c)
        tails = a.diverged()
        self.assertEqual(len(tails), 1)
        out = os.path.join(self.tmp, "out")
        a.cli("diverged", "export", tails[0]["id"], a.mnt, out)
        with open(out + "/tree/d/only", "rb") as f:
            self.assertEqual(f.read(), secret)
        self.assertEqual(cli("diverged", "export", tails[0]["id"], a.mnt, out).returncode, EXIT_FAILURE)
        self.assertEqual(cli("diverged", "export", "nothing", a.mnt, out + "2").returncode, EXIT_FAILURE)
        self.assertIn(tails[0]["id"], a.cli("diverged", "list", a.mnt).stdout)
        a.umount()
        self.assertEqual(json.loads(cli("diverged", "list", "--json", a.store, check=EXIT_OK).stdout), tails)
        self.assertEqual(b.diverged(), [])

    def test_a_leader_that_runs_on_is_fenced_under_its_mount(self):
        c = self.cluster(2)
        a, b = c.node
        a.write("f", b"x" * 10000, sync=True)
        c.settle()
        held = os.open(a.path("f"), os.O_RDWR)
        try:
            c.promote(b)  # both run and reach each other
            wait_for("the old leader to follow", lambda: a.is_now("follower"), 15)
            c.settle()  # until it has something of the new epoch it is not readable
            self.assert_errno(errno.EROFS, a.write, "x", b"")
            with self.assertRaises(OSError) as e:
                os.pwrite(held, b"y", 0)
                os.fsync(held)
            self.assertIn(e.exception.errno, (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.EROFS))
        finally:
            with contextlib.suppress(OSError):
                os.close(held)
        b.write("g", b"by b", sync=True)
        self.assert_same(c)
        a.umount()

    def test_a_hand_over_and_back_loses_nothing(self):
        c = self.cluster(2)
        a, b = c.node
        for i, (source, target) in enumerate([(a, b), (b, a), (a, b)]):
            for k in range(20):
                source.write("f%d.%d" % (i, k), os.urandom(5000))
            began = time.monotonic()
            source.cli("handover", target.name, source.mnt)
            self.assertLess(time.monotonic() - began, 10)
            self.assertEqual((source.role, target.role), ("follower", "leader"))
            c.leader = target
            self.assertEqual(len([n for n in os.listdir(target.mnt) if n.startswith("f%d." % i)]), 20)
            target.write("after%d" % i, b"x", sync=True)
            self.assert_same(c)
            self.assertEqual((a.diverged(), b.diverged()), ([], []))
        # A node that was promoted under its mount follows under it as well: files that are open stay so.
        with open(b.path("after2"), "rb") as f:
            b.cli("handover", "n1", b.mnt)
            c.leader = a
            self.assertEqual(f.read(), b"x")
        self.assert_same(c)

    def test_what_cannot_be_handed_over_or_promoted_says_so(self):
        c = self.cluster(2)
        a, b = c.node
        for args in (["handover", "nobody", a.mnt], ["handover", "n1", a.mnt], ["handover", "n1", b.mnt], ["promote", a.mnt]):
            r = cli(*args)
            self.assertEqual(r.returncode, EXIT_FAILURE, args)
            self.assertTrue(r.stderr.startswith("clawfs: not "), r.stderr)
        b.umount()
        wait_for("the follower to be missed", lambda: a.peer_state("n2") != "streaming", 10)
        self.assertEqual(cli("handover", "n2", a.mnt).returncode, EXIT_FAILURE)
        self.assertEqual(a.role, "leader")
        a.write("f", b"x", sync=True)
        b.start()
        self.assert_same(c)

    def test_sigterm_ends_followers_and_leaders_cleanly(self):
        c = self.cluster(2)
        a, b = c.node
        a.write("f", b"x" * 100000)
        c.settle()
        fd = os.open(b.path("f"), os.O_RDONLY)
        try:
            self.assertEqual(b.terminate(), EXIT_OK)
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.assertEqual(a.terminate(), EXIT_OK)
        for n in (a, b):
            n.fsck()
            n.start()
        self.assert_same(c)

    def test_a_port_that_is_taken_refuses_the_mount(self):
        c = self.cluster(1)
        other = Node(self.tmp, "other", address=c.leader.address)
        self.addCleanup(other.close)
        other.format()
        r = cli("mount", "-o", "listen=" + other.address, other.store, other.mnt)
        self.assertEqual(r.returncode, EXIT_MOUNT)
        self.assertFalse(is_mounted(other.mnt))
        other.address = free_address()
        other.start()


if __name__ == "__main__":
    main()
