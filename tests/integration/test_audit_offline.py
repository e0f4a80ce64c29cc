"""What is done to a volume past its daemon is in its audit log too; one table says which verbs those are."""

import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from clawfs_env import EXIT_DAMAGED, EXIT_FAILURE, EXIT_OK, ClusterTest, Volume, cli, main  # noqa: E402

SIZES = ("--journal-size=32M", "--segment-size=4M", "--chunk-size=64M")
KINDS = {"none", "daemon", "self"}


def table():
    """{kind: [fields]} of `clawfs help --table`."""
    found = {}
    for line in cli("help", "--table", check=EXIT_OK).stdout.splitlines():
        kind, *fields = line.split("\t")
        found.setdefault(kind, []).append(fields)
    return found


def entries(where, *args):
    return [json.loads(line) for line in cli("audit", "--json", *args, where, check=EXIT_OK).stdout.splitlines()]


def acts(where, *args):
    """[what, value, result] of each act."""
    found = entries(where, *args)
    result = {e["of"]: e["result"] for e in found if e["kind"] == "result"}
    return [(e["what"], e.get("value"), result.get(e["n"])) for e in found if e["kind"] == "act"]


class Offline(ClusterTest):
    def setUp(self):
        super().setUp()
        self.memory = os.path.join("/dev/shm", "clawfs-test-%d-%s" % (os.getpid(), os.path.basename(self.tmp)))
        os.mkdir(self.memory, 0o700)
        self.addCleanup(shutil.rmtree, self.memory, ignore_errors=True)
        self.keys = [self.secret("key%d" % i) for i in range(3)]

    def secret(self, name):
        path = os.path.join(self.tmp, name)
        with open(path, "wb") as f:
            f.write(os.urandom(32))
        os.chmod(path, 0o600)
        return path

    def encrypted(self, mode="xts"):
        return self.volume(mount=False, encrypt=mode, key=self.keys[0], staging=self.memory)

    # Each verb that enters itself: what it leaves in the log.

    def do_format(self):
        v = self.volume()
        uuid = json.loads(cli("info", "--json", v.mnt, check=EXIT_OK).stdout)["volume"]
        v.umount()
        cli("format", *SIZES, "--force", "--confirm=destroy", v.store, check=EXIT_OK)
        self.assertEqual(acts(v.store), [("format", "over volume %s" % uuid, "ok")])
        return v.store, []

    def do_fsck(self):
        v = self.volume(mount=False)
        v.fsck()
        v.fsck("--no-data")
        self.assertEqual(acts(v.store), [("fsck", "with data", "clean"), ("fsck", "without data", "clean")])
        v.mount()
        v.umount()
        self.assertEqual([a[0] for a in acts(v.store)], ["fsck", "fsck", "mount", "unmount"])
        return v.store, []

    def do_peer_join(self):
        c = self.cluster(2)
        b = c.node[1]
        self.assertEqual(acts(b.mnt)[0][0], "peer join")
        self.assertEqual(acts(b.mnt)[0][2], "ok")
        return b.mnt, []

    def do_restore(self):
        v = self.volume()
        store, key = os.path.join(self.tmp, "archive-store"), os.path.join(self.tmp, "archive-key")
        cli("tier", "add", "cold", "file://" + store, v.mnt, check=EXIT_OK)
        cli("archive", "set", "--interval=1s", "cold", v.mnt, check=EXIT_OK)
        v.write("f", b"x", sync=True)
        cli("archive", "now", v.mnt, check=EXIT_OK)
        with open(key, "w", encoding="ascii") as f:
            f.write(cli("archive", "key", v.mnt, check=EXIT_OK).stdout)
        self.assertIn(("get clawfs.archive.key", None, "ok"), acts(v.mnt), "a secret that was read")
        r = Volume(self.tmp, "restored")
        self.addCleanup(r.close)
        cli("restore", "--from=file://" + store, "--archive-key=" + key, *SIZES, r.store, check=EXIT_OK, timeout=300)
        what, value, result = acts(r.store)[0]
        self.assertEqual((what, result), ("restore", "ok"))
        self.assertRegex(value, r"the state after batch \d+")
        r.mount()
        r.umount()
        return r.store, []

    def do_tier_add(self):
        c = self.cluster(2)
        credentials = os.path.join(self.tmp, "credentials")
        with open(credentials, "w", encoding="ascii") as f:
            f.write("[default]\naws_access_key_id = SOMEBODY\naws_secret_access_key = TOP-SECRET\n")
        os.chmod(credentials, 0o600)
        cli("tier", "add", "--credentials", credentials, "far", "s3://bucket", c.node[1].mnt, check=EXIT_OK)
        found = [a for a in acts(c.node[1].mnt) if a[0] == "set clawfs.audit.note"]
        self.assertEqual([a[1] for a in found], ["tier add: far, its credentials", "tier add: far, its credentials: ok"])
        self.assertNotIn("TOP-SECRET", json.dumps(entries(c.node[1].mnt)))
        return c.node[1].mnt, []

    def change_keys(self, place, log, found):
        """One key after the other, by the name `place`; `log` reads the audit log."""
        a, b, c = self.keys
        cli("key", "add", "--key", a, "--new-key", b, "--slot", "second", place, check=EXIT_OK)
        cli("key", "change", "--key", b, "--new-key", c, place, check=EXIT_OK)
        cli("key", "remove", "second", "--key", a, place, check=EXIT_OK)
        self.assertEqual(found(log()), [("key add", "second"), ("key change", "second"), ("key remove", "second")])

    def unmounted_keys(self):
        v = self.encrypted()
        log = lambda: acts(v.store, "--key", self.keys[0])  # noqa: E731
        self.change_keys(v.store, log=log, found=lambda all: [a[:2] for a in all if a[0].startswith("key ")])
        self.assertEqual({a[2] for a in log()}, {"ok"})
        return v.store, ["--key", self.keys[0]]

    do_key_add = do_key_remove = do_key_change = unmounted_keys

    def test_one_table_decides_and_each_that_enters_itself_does(self):
        t = table()
        kind = {verb: k for verb, k in t["act"]}
        self.assertEqual(set(kind), {fields[0] for fields in t["verb"]})
        self.assertEqual({verb for verb, k in kind.items() if k not in KINDS}, set(), "a new verb: say in fs/cli/acts.c what it is")
        ways = {verb: getattr(self, "do_" + verb.replace(" ", "_"), None) for verb, k in kind.items() if k == "self"}
        self.assertEqual({verb for verb, way in ways.items() if way is None}, set())
        done = set()
        for verb, way in sorted(ways.items()):
            if way.__name__ in done:
                continue
            done.add(way.__name__)
            with self.subTest(verb=verb):
                self.tmp = os.path.join(self.top, way.__name__)
                os.mkdir(self.tmp)
                where, options = way()
                self.assertIn("whole", cli("audit", "--verify", *options, where, check=EXIT_OK).stdout)

    @property
    def top(self):
        return os.path.dirname(self.tmp) if os.path.basename(self.tmp).startswith(("do_", "unmounted_")) else self.tmp

    def test_keys_of_a_mounted_volume(self):
        for by in ("mountpoint", "directory"):
            with self.subTest(by=by):
                v = self.volume(name=by, mount=False, encrypt="aead", key=self.keys[0], staging=self.memory)
                v.mount("key=" + self.keys[0], "staging=" + self.memory)
                notes = lambda all: [tuple(a[1].split(": ")[:2]) for a in all if a[0] == "set clawfs.audit.note"][::2]  # noqa: E731
                self.change_keys(v.mnt if by == "mountpoint" else v.store, log=lambda: acts(v.mnt, "--key", self.keys[0]), found=notes)
                results = [a[1].split(": ")[2:] for a in acts(v.mnt, "--key", self.keys[0]) if a[0] == "set clawfs.audit.note"]
                self.assertEqual(results, [[], ["ok"]] * 3)
                v.umount()

    def test_without_a_log_no_key_is_changed_and_a_check_says_so(self):
        v = self.encrypted()
        cli("key", "add", "--key", self.keys[0], "--new-key", self.keys[1], "--slot", "second", v.store, check=EXIT_OK)
        shutil.rmtree(os.path.join(v.store, "audit"))
        with open(os.path.join(v.store, "audit"), "wb"):
            pass
        with open(os.path.join(v.store, "keys"), "rb") as f:
            before = f.read()
        for args in (("key", "add", "--new-key", self.keys[2], "--slot", "third"), ("key", "change", "--new-key", self.keys[2]),
                     ("key", "remove", "second")):
            r = cli(*args, "--key", self.keys[0], v.store, check=EXIT_FAILURE)
            self.assertIn("must be entered in the audit log", r.stderr)
        with open(os.path.join(v.store, "keys"), "rb") as f:
            self.assertEqual(f.read(), before)
        r = v.fsck("--key", self.keys[0], "--staging", self.memory)
        self.assertIn("cannot be entered in its audit log", r.stderr)

    def test_a_mount_that_cannot_enter_it_keeps_the_keys_as_they_are(self):
        v = self.encrypted()
        v.mount("ro", "key=" + self.keys[0], "staging=" + self.memory)
        for place in (v.mnt, v.store):
            r = cli("key", "add", "--key", self.keys[0], "--new-key", self.keys[1], "--slot", "second", place, check=EXIT_FAILURE)
            self.assertIn("audit log", r.stderr)
        v.umount()
        v.mount("fsname=another", "key=" + self.keys[0], "staging=" + self.memory)
        r = cli("key", "add", "--key", self.keys[0], "--new-key", self.keys[1], "--slot", "second", v.store, check=EXIT_FAILURE)
        self.assertIn("in use", r.stderr)

    def test_an_act_between_two_mounts_loses_no_change(self):
        v = self.volume("audit=changes")
        for turn in range(3):
            v.write("f%d" % turn, b"x", sync=True)
            v.kill9() if turn % 2 else v.umount()
            v.fsck()
            v.mount("audit=changes")
        v.umount()
        found = entries(v.store)
        made = [e["event"]["path"] for e in found if e["kind"] == "change" and e["event"]["op"] == "create"]
        self.assertEqual(made, ["/f0", "/f1", "/f2"])
        self.assertEqual([e for e in found if e["kind"] == "change" and e["event"]["op"] == "gap"], [])
        cli("audit", "--verify", v.store, check=EXIT_OK)

    def test_only_root_leaves_a_note(self):
        v = self.volume("allow_other")
        os.chmod(self.tmp, 0o755)
        os.chmod(v.dir, 0o755)
        os.chown(v.mnt, 1234, 1234)
        code = "import os\nos.setgroups([])\nos.setgid(1234)\nos.setuid(1234)\nos.setxattr(%r, 'clawfs.audit.note', b'x')\n" % v.mnt
        r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        self.assertIn("PermissionError", r.stderr)
        self.assertEqual([e["what"] for e in entries(v.mnt) if e["kind"] == "refused"], ["set clawfs.audit.note"])

    def test_a_damaged_volume_is_checked_and_that_is_entered(self):
        v = self.volume()
        v.write("f", os.urandom(200000), sync=True)
        v.umount()
        with open(os.path.join(v.store, "arena.1", "chunk.00000"), "r+b") as f:
            data = f.read()
            f.seek(next(i for i in range(0, len(data), 4096) if any(data[i:i + 4096])))
            f.write(os.urandom(4096))
        v.fsck(check=EXIT_DAMAGED)
        self.assertEqual(acts(v.store)[-1], ("fsck", "with data", "damaged"))
        cli("audit", "--verify", v.store, check=EXIT_OK)


if __name__ == "__main__":
    main()
