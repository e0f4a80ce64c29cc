"""Who changed what: the change feed (clawfs watch) and the audit log (clawfs audit) on real mounts."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from clawfs_env import CLAWFS, EXIT_DAMAGED, EXIT_FAILURE, EXIT_FSCK_ERROR, EXIT_OK, EXIT_USAGE, ClusterTest, VolumeTest, cli, main, wait_for  # noqa: E402

USER = 1234
FIRST_KEYS = {"volume", "role", "epoch", "oldest", "newest", "op", "from"}


def as_user(uid, *args):
    """Runs a program, which may lie where that one cannot look, as somebody else; (exit status, what it said)."""
    code = ("import os, sys\nprogram = os.open(sys.argv[1], os.O_RDONLY)\nos.setgroups([])\nos.setgid(%d)\nos.setuid(%d)\n"
            "os.execve(program, sys.argv[1:], os.environ)\n" % (uid, uid))
    r = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    return r.returncode, r.stdout + r.stderr


class Watch:
    """A `clawfs watch` that runs; its lines as objects."""

    def __init__(self, test, *args):
        self.process = subprocess.Popen([CLAWFS, "watch", *args], stdout=subprocess.PIPE, text=True)
        test.addCleanup(self.stop)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.start = self.next()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def next(self, timeout=30):
        return self.lines.get(timeout=timeout)

    def until(self, condition):
        """Lines up to the first that fulfils `condition`."""
        found = []
        while not found or not condition(found[-1]):
            found.append(self.next())
            if found[-1] is None:
                raise AssertionError("the watch ended: %r" % found)
        return found

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def once(mnt, *args):
    """[first line, events] of `clawfs watch --once`."""
    r = cli("watch", "--once", *args, mnt, check=EXIT_OK)
    lines = [json.loads(line) for line in r.stdout.splitlines()]
    return lines[0], lines[1:]


def place(event):
    return str(event["seq"]) if "n" not in event or event.get("last") else "%d.%d" % (event["seq"], event["n"])


class Feed(VolumeTest):
    def test_changes_are_told_as_they_become_durable(self):
        v = self.volume()
        w = Watch(self, v.mnt)
        self.assertEqual(set(w.start), FIRST_KEYS)
        os.mkdir(v.path("d"))
        v.write("d/f", b"x" * 5000)
        os.rename(v.path("d/f"), v.path("d/g"))
        os.setxattr(v.path("d/g"), "user.color", b"TOP-SECRET")
        os.link(v.path("d/g"), v.path("h"))
        os.symlink("h", v.path("s"))
        os.unlink(v.path("h"))
        os.truncate(v.path("d/g"), 9000)
        events = w.until(lambda e: e["op"] == "truncate")
        self.assertNotIn("TOP-SECRET", json.dumps(events))
        found = [(e["op"], e.get("path"), e.get("to")) for e in events if e["op"] not in ("setattr", "reap")]
        self.assertEqual(found, [("mkdir", "/d", None), ("create", "/d/f", None), ("write", "/d/f", None),
                                 ("rename", "/d/f", "/d/g"), ("setxattr", "/d/g", None), ("link", "/h", None),
                                 ("symlink", "/s", None), ("unlink", "/h", None), ("truncate", "/d/g", None)])
        mine = [e for e in events if e["op"] != "write" and e["op"] != "reap" and e["pid"]]
        self.assertEqual({e["pid"] for e in mine}, {os.getpid()})
        write = next(e for e in events if e["op"] == "write")
        self.assertEqual((write["offset"], write["length"], write["size"]), (0, 5000, 5000))
        self.assertEqual(next(e for e in events if e["op"] == "setxattr")["attribute"], "user.color")

    def test_who_did_it(self):
        v = self.volume("allow_other")
        os.chmod(v.mnt, 0o777)
        os.chmod(self.tmp, 0o755)
        os.chmod(v.dir, 0o755)
        self.assertEqual(as_user(USER, "/bin/mkdir", v.path("theirs"))[0], 0)
        os.mkdir(v.path("ours"))
        cli("sync", v.mnt, check=EXIT_OK)
        _, events = once(v.mnt, "--from", "0", "--ops", "mkdir")
        self.assertEqual([(e["path"], e["uid"], e["gid"]) for e in events], [("/theirs", USER, USER), ("/ours", 0, 0)])

    def test_only_admins_may_watch(self):
        v = self.volume("allow_other")
        os.chmod(self.tmp, 0o755)
        os.chmod(v.dir, 0o755)
        status, said = as_user(USER, CLAWFS, "watch", "--once", v.mnt)
        self.assertEqual(status, EXIT_FAILURE)
        self.assertIn("only root and the owner", said)
        os.chown(v.mnt, USER, USER)
        self.assertEqual(as_user(USER, CLAWFS, "watch", "--once", v.mnt)[0], EXIT_OK)
        with self.assertRaises(OSError):  # it would hold the directory's lock
            os.setxattr(v.mnt, "clawfs.feed.wait", b"1 1")

    def test_filters_let_gaps_and_what_matches_through(self):
        v = self.volume()
        for d in ("a", "ab", "b"):
            os.mkdir(v.path(d))
            v.write(d + "/f", b"1")
        os.rename(v.path("b/f"), v.path("a/from-b"))
        os.rename(v.path("ab"), v.path("c"))
        cli("sync", v.mnt, check=EXIT_OK)
        _, events = once(v.mnt, "--from", "0", "--path", "/a/", "--ops", "create,rename,mkdir")
        self.assertEqual([(e["op"], e["path"]) for e in events],
                         [("mkdir", "/a"), ("create", "/a/f"), ("rename", "/b/f")])
        _, events = once(v.mnt, "--from", "0", "--ops", "rename")
        self.assertEqual([e["to"] for e in events], ["/a/from-b", "/c"])

    def test_wrong_arguments_are_refused(self):
        v = self.volume()
        for args in (["--from", "x"], ["--from", "1.x"], ["--path", "relative"], ["--from", "-1"]):
            self.assertEqual(cli("watch", *args, v.mnt).returncode, EXIT_USAGE, args)
        self.assertEqual(cli("watch", "--once", self.tmp).returncode, EXIT_FAILURE)

    def test_it_goes_on_where_it_was_after_kill_9(self):
        v = self.volume()
        for i in range(50):
            v.write("f%02d" % i, b"x")
        w = Watch(self, "--from", "0", "--ops", "create", v.mnt)
        seen = w.until(lambda e: e["path"] == "/f10")
        w.stop()
        v.kill9()
        v.remount()
        for i in range(50, 60):
            v.write("f%02d" % i, b"x", sync=True)
        w = Watch(self, "--from", place(seen[-1]), "--ops", "create", v.mnt)
        seen += w.until(lambda e: e["path"] == "/f59")
        self.assertEqual([e["path"] for e in seen], ["/f%02d" % i for i in range(60)])

    def test_a_slow_reader_holds_nothing_and_is_told_what_it_missed(self):
        v = self.volume()
        w = subprocess.Popen([CLAWFS, "watch", "--from", "0", v.mnt], stdout=subprocess.PIPE, text=True)
        self.addCleanup(w.stdout.close)
        self.addCleanup(w.wait)
        self.addCleanup(w.kill)
        w.stdout.readline()
        os.kill(w.pid, signal.SIGSTOP)
        ring = v.status()["journal"]["ring_bytes"]
        data = os.urandom(60000)
        written = 0
        while written < 2 * ring:  # more than the ring has
            v.write("f%d" % (written % 7), data, sync=True)
            written += len(data)
        v.write("last", b"x", sync=True)
        os.kill(w.pid, signal.SIGCONT)
        seqs, gaps = [], []
        for line in w.stdout:
            e = json.loads(line)
            (gaps if e["op"] == "gap" else seqs).append(e)
            if e["op"] == "create" and e["path"] == "/last":
                break
        self.assertGreaterEqual(len(gaps), 1)
        for gap in gaps:
            self.assertLessEqual(gap["from"], gap["to"])
        missing = {s for gap in gaps for s in range(gap["from"], gap["to"] + 1)}
        told = {e["seq"] for e in seqs}
        self.assertEqual(missing & told, set())
        self.assertEqual(missing | told, set(range(1, max(told) + 1)))  # each batch is told, or told to be missing

    def test_an_idle_watch_costs_nothing_and_ends_with_the_mount(self):
        v = self.volume()
        w = Watch(self, v.mnt)
        time.sleep(0.3)
        with open("/proc/%d/stat" % w.process.pid) as f:
            before = sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))
        time.sleep(1)
        with open("/proc/%d/stat" % w.process.pid) as f:
            after = sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))
        self.assertLessEqual(after - before, 2)  # hundredths of a second
        os.mkdir(v.path("d"))  # a change of the directory that it waits on
        self.assertEqual(w.next()["path"], "/d")
        v.kill9()
        while w.next() is not None:
            pass
        self.assertEqual(w.process.wait(30), EXIT_FAILURE)


class FollowerFeed(ClusterTest):
    def test_a_follower_tells_the_same_changes(self):
        c = self.cluster(2)
        a, b = c.node
        for i in range(20):
            a.write("f%02d" % i, b"x", sync=True)
        c.settle()
        _, ours = once(a.mnt, "--from", "0", "--ops", "create,write")
        wait_for("the follower to tell all of it", lambda: len(once(b.mnt, "--from", str(ours[0]["seq"] - 1), "--ops", "create,write")[1])
                 == len(ours))
        _, theirs = once(b.mnt, "--from", str(ours[0]["seq"] - 1), "--ops", "create,write")
        drop = ("at",)
        self.assertEqual([{k: e[k] for k in e if k not in drop} for e in theirs],
                         [{k: e[k] for k in e if k not in drop} for e in ours])


def entries(where, *args):
    """The audit log as objects."""
    return [json.loads(line) for line in cli("audit", "--json", *args, where, check=EXIT_OK).stdout.splitlines()]


def acts(found):
    return [e for e in found if e["kind"] == "act"]


def changes(found):
    return [e["event"] for e in found if e["kind"] == "change"]


class Audit(VolumeTest):
    def test_what_admins_do_is_logged_with_who_and_what_came_of_it(self):
        v = self.volume("allow_other")
        os.mkdir(v.path("d"))
        cli("durability", "local", v.path("d"), check=EXIT_OK)
        cli("durability", "inherit", v.path("d"), check=EXIT_OK)
        with self.assertRaises(OSError):
            os.setxattr(v.mnt, "clawfs.durability", b"nonsense")
        os.chown(v.mnt, USER, USER)
        os.chmod(v.dir, 0o755)
        os.chmod(self.tmp, 0o755)
        self.assertEqual(as_user(USER, "/usr/bin/setfattr", "-n", "clawfs.checkpoint", "-v", "1", v.mnt)[0], 0)
        wrote_root = 0  # the kernel refuses who may not write the directory; the daemon, who may
        for mode in (0o755, 0o777):
            os.chmod(v.mnt, mode)
            self.assertNotEqual(as_user(USER + 1, "/usr/bin/setfattr", "-n", "clawfs.checkpoint", "-v", "1", v.mnt)[0], 0)
            wrote_root += mode == 0o777
        found = entries(v.mnt)
        self.assertEqual(changes(found), [])
        self.assertEqual([(e["what"], e["path"], e["uid"], e["result"]) for e in found if e["kind"] == "refused"],
                         [("set clawfs.checkpoint", "/", USER + 1, os.strerror(1))] * wrote_root)
        self.assertEqual([(a["what"], a.get("path"), a["uid"]) for a in acts(found)],
                         [("mount", None, 0), ("set clawfs.durability", "/d", 0), ("remove clawfs.durability", "/d", 0),
                          ("set clawfs.durability", "/", 0), ("set clawfs.checkpoint", "/", USER)])
        self.assertEqual([e["result"] for e in found if e["kind"] == "result"],
                         ["ok", "ok", "ok", os.strerror(22), "ok"])
        v.umount()
        self.assertEqual(acts(entries(v.store))[-1]["what"], "unmount")
        self.assertEqual([a["what"] for a in acts(entries(v.store, "--uid", str(USER)))], ["set clawfs.checkpoint"])
        self.assertIn("set clawfs.durability = nonsense", cli("audit", v.store, check=EXIT_OK).stdout)

    def test_every_change_is_logged_when_asked_for(self):
        v = self.volume("allow_other", "audit=changes")
        os.chmod(v.mnt, 0o777)
        os.chmod(v.dir, 0o755)
        os.chmod(self.tmp, 0o755)
        os.mkdir(v.path("d"))
        v.write("d/f", b"x")
        os.rename(v.path("d"), v.path("e"))
        self.assertEqual(as_user(USER, "/bin/mkdir", v.path("theirs"))[0], 0)
        os.unlink(v.path("e/f"))
        wait_for("the changes to be logged", lambda: any(e["op"] == "unlink" for e in changes(entries(v.mnt))), 5)
        found = changes(entries(v.mnt, "--uid", "0"))
        self.assertEqual([(e["op"], e["path"], e.get("to")) for e in found if e["op"] in ("mkdir", "create", "rename", "unlink")],
                         [("mkdir", "/d", None), ("create", "/d/f", None), ("rename", "/d", "/e"), ("unlink", "/e/f", None)])
        self.assertEqual([e["path"] for e in changes(entries(v.mnt, "--uid", str(USER))) if e["op"] == "mkdir"], ["/theirs"])
        self.assertEqual({e["path"] for e in changes(entries(v.mnt, "--path", "/theirs"))}, {"/theirs"})
        self.assertEqual(changes(entries(v.mnt, "--until", "1h", "--uid", "0")), [])
        self.assertEqual(len(changes(entries(v.mnt, "--since", "1h", "--uid", "0"))), len(found))
        seq = found[-1]["seq"]
        self.assertEqual({e["seq"] for e in changes(entries(v.mnt, "--since", str(seq), "--until", str(seq)))}, {seq})
        self.assertEqual(changes(entries(v.mnt, "--since", "2999-01-01")), [])

    def test_no_change_is_lost_by_kill_9_or_a_restart(self):
        v = self.volume("audit=changes")
        names = []
        for turn in range(4):
            for i in range(30):
                names.append("/t%d-%02d" % (turn, i))
                v.write(names[-1][1:], b"x")
            if turn % 2:
                v.umount()
                v.mount("audit=changes")
            else:
                v.kill9()
                v.remount()
        v.umount()
        found = changes(entries(v.store))
        self.assertEqual([e["path"] for e in found if e["op"] == "create"], names)
        self.assertEqual([e for e in found if e["op"] == "gap"], [])
        self.assertIn("whole", cli("audit", "--verify", v.store, check=EXIT_OK).stdout)

    def test_a_directory_may_have_a_level_of_its_own(self):
        v = self.volume()
        for d in ("books", "books/quiet", "other"):
            os.mkdir(v.path(d))
        os.setxattr(v.path("books"), "clawfs.audit", b"changes")
        os.setxattr(v.path("books/quiet"), "clawfs.audit", b"off")
        self.assertEqual([os.getxattr(v.path(d), "clawfs.audit") for d in (".", "books", "books/quiet")], [b"admin", b"changes", b"off"])
        for d in ("books", "books/quiet", "other"):
            v.write(d + "/f", b"x", sync=True)
        os.rename(v.path("books/f"), v.path("other/g"))
        os.setxattr(v.path("books/quiet"), "clawfs.durability", b"local")
        v.kill9()
        v.remount()  # as admin: the attribute of the directory stays, and what was not looked at is looked at
        v.write("books/h", b"x", sync=True)
        v.umount()
        found = entries(v.store)
        paths = {(e["op"], e["path"]) for e in changes(found)}
        for one in (("create", "/books/f"), ("write", "/books/f"), ("rename", "/books/f"), ("create", "/books/h")):
            self.assertIn(one, paths)
        self.assertEqual([a["value"] for a in acts(found) if a["what"] == "set clawfs.audit"], ["changes", "off"])
        self.assertNotIn("set clawfs.durability", [a["what"] for a in acts(found)])
        self.assertIn("some", [e["level"] for e in found if e["kind"] == "level"])
        cli("audit", "--verify", v.store, check=EXIT_OK)

    def test_only_what_is_wanted_is_logged(self):
        v = self.volume()
        for d in ("a", "b"):
            os.mkdir(v.path(d))
        os.setxattr(v.path("a"), "clawfs.audit", b"changes")
        cli("sync", v.mnt, check=EXIT_OK)
        for i in range(30):
            v.write("a/f%d" % i, b"x")
            v.write("b/f%d" % i, b"x")
        cli("sync", v.mnt, check=EXIT_OK)
        v.umount()
        made = [e["path"] for e in changes(entries(v.store)) if e["op"] == "create"]
        self.assertEqual(made, ["/a/f%d" % i for i in range(30)])

    def test_the_owner_cannot_silence_it(self):
        v = self.volume("allow_other")
        os.chown(v.mnt, USER, USER)
        os.chmod(v.dir, 0o755)
        os.chmod(self.tmp, 0o755)
        for value in ("off", "admin"):
            self.assertNotEqual(as_user(USER, "/usr/bin/setfattr", "-n", "clawfs.audit", "-v", value, v.mnt)[0], 0)
        self.assertEqual([e["what"] for e in entries(v.mnt) if e["kind"] == "refused"], ["set clawfs.audit"] * 2)
        v.umount()
        v.mount("audit=off")
        os.setxattr(v.mnt, "clawfs.checkpoint", b"1")
        os.setxattr(v.mnt, "clawfs.audit", b"admin")
        os.setxattr(v.mnt, "clawfs.sync", b"1")
        v.umount()
        found = entries(v.store)
        self.assertEqual([e["level"] for e in found if e["kind"] == "level"], ["off", "admin"])
        self.assertNotIn("set clawfs.checkpoint", [a["what"] for a in acts(found)])
        self.assertEqual([a["what"] for a in acts(found)][-3:], ["set clawfs.audit", "set clawfs.sync", "unmount"])

    def test_tampering_is_found_mounted_or_not(self):
        v = self.volume()
        for i in range(5):
            os.setxattr(v.mnt, "clawfs.checkpoint", b"1")
        head = cli("audit", "--head", v.mnt, check=EXIT_OK).stdout.strip()
        segment = os.path.join(v.store, "audit", "seg.00000000")
        for where in (v.mnt, v.store):
            if where == v.store:
                v.umount()
            r = cli("audit", "--verify", "--expect", head, where, check=EXIT_OK)
            self.assertIn("whole", r.stdout)
            with open(segment, "r+b") as f:
                data = f.read()
                at = data.index(b"set clawfs.checkpoint")
                f.seek(at)
                f.write(b"SET")
                f.flush()
                r = cli("audit", "--verify", where, check=EXIT_DAMAGED)
                self.assertRegex(r.stdout, r"damaged: entry \d+")
                self.assertEqual(cli("audit", where).returncode, EXIT_DAMAGED)
                f.seek(at)
                f.write(b"set")
        self.assertEqual(cli("audit", "--verify", "--expect", "0" * 64, v.store).returncode, EXIT_DAMAGED)
        for name in ("audit/seg.00000000", "audit/head", "audit.head"):
            path = os.path.join(v.store, name)
            os.rename(path, path + ".away")
            self.assertEqual(cli("audit", "--verify", v.store).returncode, EXIT_DAMAGED, name)
            os.rename(path + ".away", path)
        cli("audit", "--verify", v.store, check=EXIT_OK)

    def test_a_snapshot_is_an_act_however_it_is_made(self):
        v = self.volume()
        os.mkdir(v.path(".clawfs", "snapshots", "one"))
        os.setxattr(v.mnt, "clawfs.snap.create", b"two")
        os.rmdir(v.path(".clawfs", "snapshots", "one"))
        with self.assertRaises(OSError):
            os.rmdir(v.path(".clawfs", "snapshots", "none"))
        found = entries(v.mnt)
        self.assertEqual([(a["what"], a["value"]) for a in acts(found)][1:],
                         [("set clawfs.snap.create", "one"), ("set clawfs.snap.create", "two"), ("set clawfs.snap.delete", "one")])
        self.assertEqual([e["result"] for e in found if e["kind"] == "result"], ["ok"] * 4)
        _, events = once(v.mnt, "--from", "0", "--ops", "snap,snapdrop")
        self.assertEqual([(e["op"], e["name"]) for e in events], [("snap", "one"), ("snap", "two"), ("snapdrop", "one")])

    def test_there_may_be_no_log(self):
        v = self.volume("audit=off")
        os.setxattr(v.mnt, "clawfs.checkpoint", b"1")
        self.assertFalse(os.path.exists(os.path.join(v.store, "audit")))
        self.assertEqual(cli("audit", v.mnt).returncode, EXIT_FAILURE)
        self.assertEqual(cli("audit", "--verify", v.mnt).returncode, EXIT_FSCK_ERROR)

    def test_unprivileged_users_cannot_read_it(self):
        v = self.volume("allow_other")
        os.chmod(v.dir, 0o755)
        os.chmod(self.tmp, 0o755)
        for where in (v.mnt, v.store):
            self.assertNotEqual(as_user(USER, CLAWFS, "audit", where)[0], 0)

    def test_wrong_arguments_are_refused(self):
        v = self.volume()
        for args in (["--since", "yesterday"], ["--until", "2026-1-1"], ["--uid", "x"], ["--uid", "-1"], ["--path", "x"],
                     ["--verify", "--expect", "abc"], ["--since", "2026-01-01T1"[:9]]):
            self.assertEqual(cli("audit", *args, v.mnt).returncode, EXIT_USAGE, args)
        v.umount()
        self.assertEqual(cli("mount", "-o", "audit=everything", v.store, v.mnt).returncode, EXIT_USAGE)

    def test_follow_tells_what_comes(self):
        v = self.volume("audit=changes", "audit_keep=2M")
        w = subprocess.Popen([CLAWFS, "audit", "--json", "--follow", "--path", "/d", v.mnt], stdout=subprocess.PIPE, text=True)
        self.addCleanup(w.stdout.close)
        self.addCleanup(w.wait)
        self.addCleanup(w.kill)
        os.mkdir(v.path("d"))
        names = []

        def next_created():
            for line in w.stdout:
                e = json.loads(line)
                if e["kind"] == "change" and e["event"]["op"] == "create":
                    return e["event"]["path"]
            return None
        for turn in range(3):
            for i in range(20):
                names.append("/d/t%d-%d" % (turn, i))
                v.write(names[-1][1:], b"x")
                v.write("other-%d-%d" % (turn, i), b"x")
            if turn == 1:
                for k in range(3000):  # into another segment
                    os.utime(v.path("."), (k, k))
            cli("sync", v.mnt, check=EXIT_OK)
            for name in names[-20:]:
                self.assertEqual(next_created(), name)
            if turn == 0:
                v.kill9()
                v.remount("audit=changes", "audit_keep=2M")
        v.umount()
        head = os.path.join(v.store, "audit")
        os.rename(head, head + ".gone")
        os.unlink(os.path.join(v.store, "audit.head"))
        self.assertEqual(w.wait(60), EXIT_DAMAGED)
        self.assertEqual(cli("audit", "--follow", "--verify", v.store).returncode, EXIT_USAGE)

    def test_how_long_entries_are_kept(self):
        v = self.volume("audit_keep=90d", "audit_keep=4M")
        self.assertEqual(len(acts(entries(v.mnt))), 1)
        v.umount()
        for wrong in ("0d", "40000d", "90", "1d2", "d", "-1d", "1.5d", "90h"):
            self.assertEqual(cli("mount", "-o", "audit_keep=" + wrong, v.store, v.mnt).returncode, EXIT_USAGE, wrong)
        head = cli("audit", "--head", v.store, check=EXIT_OK).stdout.strip()
        self.assertRegex(head, r"^\d+:[0-9a-f]{64}$")
        for kept in (head, head.split(":")[1]):
            cli("audit", "--verify", "--expect", kept, v.store, check=EXIT_OK)
        n, bits = head.split(":")
        for kept in ("%d:%s" % (int(n) - 1, bits), "%s:%s" % (n, "0" * 64)):
            cli("audit", "--verify", "--expect", kept, v.store, check=EXIT_DAMAGED)
        for kept in ("0:" + bits, ":" + bits, "x:" + bits, "-1:" + bits, n + ":" + bits[1:], "99999999999999999999:" + bits):
            cli("audit", "--verify", "--expect", kept, v.store, check=EXIT_USAGE)

    def test_old_entries_go_and_the_rest_stays_whole(self):
        v = self.volume("audit=changes", "audit_keep=2M")
        first = cli("audit", "--head", v.mnt, check=EXIT_OK).stdout.strip()
        for i in range(6):
            for k in range(1200):
                os.utime(v.path("."), (k, i))
            cli("sync", v.mnt, check=EXIT_OK)
        v.umount()
        segments = sorted(n for n in os.listdir(os.path.join(v.store, "audit")) if n.startswith("seg."))
        self.assertEqual(len(segments), 2)
        self.assertNotEqual(segments[0], "seg.00000000")
        cli("audit", "--verify", v.store, check=EXIT_OK)
        r = cli("audit", "--verify", "--expect", first, v.store, check=EXIT_FSCK_ERROR)
        self.assertIn("went for its age", r.stderr)
        os.unlink(os.path.join(v.store, "audit", segments[0]))  # not for its age
        cli("audit", "--verify", v.store, check=EXIT_DAMAGED)


if __name__ == "__main__":
    main()
