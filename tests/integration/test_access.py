"""What somebody may who is neither root nor the owner of a volume, on a mount that lets everybody in: nothing of an admin's, by any way.

The root directory is writable for all, so that the kernel passes on what it otherwise refuses.
"""

import ctypes
import fcntl
import http.client
import json
import os
import socket
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from clawfs_env import CLAWFS, EXIT_OK, VolumeTest, cli, main  # noqa: E402

OWNER, OTHER = 1234, 4321
CONTROL_IOCTL_SET = 1 << 30 | (64 + 1024) << 16 | 0xcf << 8 | 1  # of fs/face/control.h
CLONE_NEWUSER, PR_SET_DUMPABLE = 0x10000000, 4
SECRET = "SECRET-NAME"

# What each verb is tried with.  True: everybody may, what it tells names no file that he cannot list.
VERBS = {
    "format": (False, ["STORE", "--force", "--confirm=destroy"]), "mount": (False, ["STORE", "ASIDE"]), "umount": (False, ["MNT"]),
    "status": (False, ["MNT"]), "info": (False, ["MNT"]), "sync": (False, ["MNT"]), "fsck": (False, ["STORE"]), "dump": (False, ["STORE"]),
    "peer invite": (False, ["MNT"]), "peer join": (False, ["TOKEN", "STORE"]), "peer list": (False, ["MNT"]),
    "peer remove": (False, ["x", "MNT"]), "peer rename": (False, ["x", "y", "MNT"]), "promote": (False, ["MNT"]),
    "handover": (False, ["x", "MNT"]), "resync": (False, ["MNT"]), "diverged list": (False, ["STORE"]),
    "diverged export": (False, ["x", "STORE", "ASIDE/x"]), "durability": (False, ["local", "MNT/open"]), "wait": (False, ["1", "MNT"]),
    "tier add": (False, ["cold", "file:///nowhere", "MNT"]), "tier list": (False, ["MNT"]), "tier test": (False, ["cold", "MNT"]),
    "tier remove": (False, ["cold", "MNT"]), "tier show": (True, ["MNT/open/f"]), "tier evict": (False, ["MNT/open"]),
    "tier recall": (False, ["MNT/open"]), "tier pin": (False, ["MNT/open"]), "tier unpin": (False, ["MNT/open"]),
    "scrub start": (False, ["MNT"]), "scrub pause": (False, ["MNT"]), "scrub stop": (False, ["MNT"]), "scrub status": (False, ["MNT"]),
    "scrub clear": (False, ["MNT/open/f"]), "scrub release": (False, ["MNT"]), "gc": (False, ["MNT"]), "stats": (True, ["MNT"]),
    "top": (False, ["MNT"]), "profile": (True, ["MNT"]), "archive set": (False, ["cold", "MNT"]), "archive status": (False, ["MNT"]),
    "archive off": (False, ["MNT"]), "archive now": (False, ["MNT"]), "archive key": (False, ["MNT"]),
    "restore": (False, ["--from=file://STORE", "STORE"]), "drill": (False, ["MNT"]), "upgrade": (False, ["--check", "MNT"]),
    "snap create": (False, ["one", "MNT"]), "snap delete": (False, ["kept", "MNT"]), "snap diff": (False, ["kept", "MNT"]),
    "snap rollback": (False, ["kept", "MNT"]),
    "compress": (False, ["MNT/open"]), "snap rotate": (False, ["24h", "MNT"]), "clone": (False, ["MNT/open/private", "MNT/open/new"]),
    "snap list": (True, ["MNT"]), "snap schedule": (False, ["24h", "MNT"]), "du": (True, ["MNT/open"]),
    "quota set": (False, ["--max-files=1", "MNT/open"]), "quota show": (True, ["MNT/open/f"]), "quota list": (False, ["MNT"]),
    "audit": (False, ["MNT"]), "watch": (False, ["--once", "MNT"]), "key list": (False, ["STORE"]), "key add": (False, ["STORE"]),
    "key remove": (False, ["x", "STORE"]), "key change": (False, ["STORE"]),
}


def map_root():
    """Root in a user namespace of one's own."""
    uid, libc = os.getuid(), ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # it may write the files of /proc/self again
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", b"deny"), ("uid_map", b"0 %d 1" % uid), ("gid_map", b"0 %d 1" % uid)):
        with open("/proc/self/" + name, "wb") as f:  # text would load modules, which this one may not read
            f.write(text)


def become(actor):
    os.setgroups([])
    os.setgid(OTHER)
    os.setuid(OTHER)
    if actor == "root of a namespace":
        map_root()


def attempt(actor, f):
    """What `f`, which returns something for JSON, says as somebody else: (value, errno)."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(r)
            try:
                become(actor)
                said = [f(), 0]
            except OSError as e:
                said = [None, e.errno]
            os.write(w, json.dumps(said).encode())
        finally:
            os._exit(0)
    os.close(w)
    with os.fdopen(r, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(said)


def run_as(actor, program, *args):
    r = subprocess.run(["clawfs", *args], executable="/proc/self/fd/%d" % program, pass_fds=[program], preexec_fn=lambda: become(actor),
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return r.returncode, r.stdout + r.stderr


def command(path, name):
    """As setxattr(2), by ioctl(2), which asks for no more than a descriptor to read."""
    fd = os.open(path, os.O_RDONLY)
    fcntl.ioctl(fd, CONTROL_IOCTL_SET, bytearray(name.encode().ljust(64, b"\0") + b"1".ljust(1024, b"\0")))


def attribute_names():
    """All there are: those of the unit test's table, which is compared with the program's."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "unit", "test_control_access.c")
    names = {}
    with open(source, encoding="utf-8") as f:
        for line in f:
            if line.startswith("    {\""):
                name, where, get, put, remove = [w.strip(" {}\"'") for w in line.strip().rstrip(",").split(",")]
                names["clawfs." + name + ("0" if name.endswith(".") else "")] = (where, get, put, remove)
    return names


class Access(VolumeTest):
    ACTORS = ["somebody", "root of a namespace"]

    def setUp(self):
        super().setUp()
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.v = v = self.volume("allow_other", "metrics=127.0.0.1:%d" % self.port)
        for path in (self.tmp, v.dir):
            os.chmod(path, 0o755)
        for name, mode in (("open", 0o777), ("closed", 0o700)):
            os.mkdir(v.path(name))
            os.chmod(v.path(name), mode)
        v.write("open/f", b"UNIQUE" * 20000, sync=True)
        os.link(v.path("open/f"), v.path("closed", SECRET))
        v.write("open/private", b"x")
        os.chmod(v.path("open/f"), 0o666)
        os.chmod(v.path("open/private"), 0o600)
        os.setxattr(v.path("closed"), "clawfs.quota.max_files", b"1000")
        cli("snap", "create", "kept", v.mnt, check=EXIT_OK)
        os.chown(v.mnt, OWNER, OWNER)
        os.chmod(v.mnt, 0o777)
        if attempt(self.ACTORS[1], os.getuid)[0] != 0:
            self.ACTORS = self.ACTORS[:1]
            print("no user namespaces here: root of one is not tried", file=sys.stderr)

    def state(self):
        """What nobody may have changed."""
        v = self.v
        found = [sorted(os.listdir(v.mnt)), sorted(os.listdir(v.path("open"))), cli("snap", "list", "--json", v.mnt, check=EXIT_OK).stdout]
        for where in (v.mnt, v.path("open"), v.path("open/f")):
            for name, (_, get, put, _) in attribute_names().items():
                if get != "-" and put != "-":
                    try:
                        found.append((where, name, os.getxattr(where, name)))
                    except OSError as e:
                        found.append((where, name, e.errno))
        return found

    def test_attributes_are_what_the_table_says(self):
        v, before = self.v, self.state()
        for actor in self.ACTORS:
            for name, (where, get, put, remove) in attribute_names().items():
                for path in (v.mnt, v.path("open"), v.path("open/f")):
                    here = where == "*" or path == v.mnt
                    value, error = attempt(actor, lambda: os.getxattr(path, name).decode("latin-1"))  # noqa: B023
                    with self.subTest(actor=actor, name=name, path=path):
                        if get == "a" and here:
                            self.assertEqual((value, error), (None, 1))
                        if value:
                            self.assertNotIn(SECRET, value)
                            self.assertNotIn("closed", value)
                            self.assertNotIn(v.store, value)
                        if put in "ar" and here and name != "clawfs.feed.wait":
                            self.assertEqual(attempt(actor, lambda: os.setxattr(path, name, b"1"))[1], 1)  # noqa: B023
                            self.assertEqual(attempt(actor, lambda: command(path, name))[1], 1)  # noqa: B023
                        if remove != "-" and here:
                            self.assertEqual(attempt(actor, lambda: os.removexattr(path, name))[1], 1)  # noqa: B023
                self.assertEqual(attempt(actor, lambda: os.getxattr(v.path("open/private"), name).decode("latin-1"))[1], 13, name)  # noqa: B023
        self.assertEqual(self.state(), before)
        found = [json.loads(line) for line in cli("audit", "--json", v.store, check=EXIT_OK).stdout.splitlines()]
        refused = [e for e in found if e["kind"] == "refused"]
        self.assertTrue(5 <= len(refused) <= 40, len(refused))
        self.assertEqual({e["uid"] for e in refused}, {OTHER})
        self.assertGreater(v.status()["audit"]["refused"], 100)

    def test_verbs_of_admins_are_refused_and_the_others_name_nothing(self):
        verbs = {line.split("\t")[1] for line in cli("help", "--table", check=EXIT_OK).stdout.splitlines() if line.startswith("verb\t")}
        self.assertEqual(verbs - {"mount.clawfs"}, set(VERBS), "a new verb: say here who may")
        aside = os.path.join(self.tmp, "aside")
        os.mkdir(aside)
        os.chmod(aside, 0o777)
        places = {"MNT": self.v.mnt, "STORE": self.v.store, "ASIDE": aside, "TOKEN": "clawfs1.x"}

        def fill(word):
            for name, place in places.items():
                word = word.replace(name, place)
            return word
        before = self.state()
        program = os.open(CLAWFS, os.O_RDONLY)
        self.addCleanup(os.close, program)
        for actor in self.ACTORS:
            for verb, (may, args) in VERBS.items():
                with self.subTest(actor=actor, verb=verb):
                    status, said = run_as(actor, program, *verb.split(), *map(fill, args))
                    self.assertEqual(status == EXIT_OK, may, said)
                    self.assertNotIn(SECRET, said)
        self.assertEqual(self.state(), before)

    def test_the_files_of_clawfs(self):
        v = self.v
        snapshots = v.path(".clawfs", "snapshots")
        for actor in self.ACTORS:
            for name in os.listdir(v.path(".clawfs")):
                path = v.path(".clawfs", name)
                if os.path.isdir(path):
                    continue
                said, error = attempt(actor, lambda: open(path, "rb").read().decode())  # noqa: B023
                with self.subTest(actor=actor, name=name):
                    self.assertEqual(error, 0 if name == "stats" else 13)
                    self.assertNotIn(SECRET, said or "")
                    self.assertIn(attempt(actor, lambda: open(path, "wb").write(b"x"))[1], (1, 13))  # noqa: B023
            self.assertIn(attempt(actor, lambda: os.mkdir(os.path.join(snapshots, "one")))[1], (1, 13))
            self.assertIn(attempt(actor, lambda: os.rmdir(os.path.join(snapshots, "kept")))[1], (1, 13))
            self.assertEqual(attempt(actor, lambda: os.listdir(os.path.join(snapshots, "kept", "closed")))[1], 13)
            self.assertEqual(attempt(actor, lambda: os.listdir(os.path.join(snapshots, "kept", "open")))[1], 0)
        self.assertEqual(os.listdir(snapshots), ["kept"])

    def test_a_port_names_no_file(self):
        v = self.v
        v.umount()
        with open(os.path.join(v.store, "arena.1", "chunk.00000"), "r+b") as f:
            data = f.read()
            f.seek(data.index(b"UNIQUE" * 10))
            f.write(b"DAMAGE")
        v.mount("allow_other", "metrics=127.0.0.1:%d" % self.port)
        with self.assertRaises(OSError):
            v.read("closed/" + SECRET)
        self.assertIn(SECRET, json.dumps(v.status()))
        for path in ("/", "/status", "/stats", "/metrics"):
            c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            self.addCleanup(c.close)
            c.request("GET", path)
            said = c.getresponse().read().decode()
            for name in (SECRET, v.store, v.mnt):
                self.assertNotIn(name, said, path)
            if path == "/status":
                status = json.loads(said)
                self.assertGreater(status["health"]["damaged_reads"], 0)
                self.assertEqual(status["health"]["state"], "ok")


if __name__ == "__main__":
    main()
