"""clawfs_env: volumes for whole-system tests: format, mount, unmount, kill -9, all in a temporary directory.

The binary is $CLAWFS, or build/fs/cli/clawfs of this tree.  A mount runs as a child of the test in the foreground, so its
pid and its exit status are known and nothing is found by name.  $CLAWFS_TEST_DIR says where temporary directories go.

    class Some(VolumeTest):
        def test_a_file_survives_a_remount(self):
            v = self.volume()            # formatted and mounted
            v.write("f", b"x")
            v.remount()
            self.assertEqual(v.read("f"), b"x")

Several machines with one volume are nodes of a Cluster, here all on this host, each with a port of its own:

    class Several(ClusterTest):
        def test_a_file_arrives(self):
            c = self.cluster(3)              # c.node[0] leads, the others follow; all mounted and streaming
            c.leader.write("f", b"x")
            c.settle()                       # every follower shows everything
            self.assertEqual(c.node[1].read("f"), b"x")
"""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CLAWFS = os.environ.get("CLAWFS") or os.path.join(ROOT, "build", "fs", "cli", "clawfs")

# Small enough to format in a fraction of a second; the ring must hold two batches of the largest size.
SMALL = {"journal_size": "32M", "segment_size": "4M", "chunk_size": "64M"}

EXIT_OK, EXIT_FAILURE, EXIT_DAMAGED, EXIT_FSCK_ERROR, EXIT_USAGE, EXIT_MOUNT = 0, 1, 4, 8, 16, 32


class Failed(Exception):
    """A clawfs command ended otherwise than it should; the text holds its output."""


def seed(default=None):
    """The test's seed, from $SEED or chosen and printed, so that a failure can be run again."""
    n = int(os.environ.get("SEED") or default or random.randrange(1 << 32))
    print("SEED=%d" % n, file=sys.stderr, flush=True)
    return n


def threads_of(pid):
    """What each thread of a process is doing, as far as the kernel tells: name, state, the system call it is in."""
    lines = []
    for task in sorted(os.listdir("/proc/%d/task" % pid), key=int):
        try:
            texts = []
            for name in ("comm", "wchan", "syscall", "stack"):
                with open("/proc/%d/task/%s/%s" % (pid, task, name)) as f:
                    texts.append(" ".join(f.read().split()[:12]))
            lines.append("  %s %s" % (task, " | ".join(texts)))
        except OSError as e:
            lines.append("  %s %s" % (task, e))
    return "\n".join(lines)


def cli(*args, check=None, timeout=120, **kwargs):
    """Runs clawfs with `args`; with `check` an exit code other than that one raises Failed."""
    r = subprocess.run([CLAWFS, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True, timeout=timeout, **kwargs)
    if check is not None and r.returncode != check:
        raise Failed("clawfs %s: exit %d, expected %d\n%s%s" % (" ".join(map(str, args)), r.returncode, check, r.stdout, r.stderr))
    return r


def wait_for(what, condition, timeout=30, step=0.01):
    """Polls `condition` until it is true and returns its value; raises Failed naming `what` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise Failed("gave up after %g s waiting for %s" % (timeout, what))
        time.sleep(step)


def _unescape(text):
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)


def mounts():
    """[(mountpoint, type, source, options)] of this mount namespace, oldest first; touches no filesystem."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            left, right = line.rstrip("\n").split(" - ", 1)
            fields, (fstype, source, super_options) = left.split(" "), right.split(" ", 2)
            found.append((_unescape(fields[4]), fstype, _unescape(source), fields[5] + "," + super_options))
    return found


def is_mounted(path):
    return any(m[0] == path for m in mounts())


class Volume:
    """One volume below a directory of its own: `store` (DIR), `mnt` (MOUNTPOINT), `log` (the daemon's messages)."""

    def __init__(self, tmpdir, name="volume"):
        self.dir = os.path.join(os.path.realpath(tmpdir), name)
        self.store = os.path.join(self.dir, "store")
        self.mnt = os.path.join(self.dir, "mnt")
        self.log = os.path.join(self.dir, "log")
        os.makedirs(self.store)
        os.makedirs(self.mnt)
        self.process = None
        self.options = ()
        self.env = {}

    # Life of a volume.

    def format(self, **options):
        """format(journal_size="64M", label="x"): options of `clawfs format`, with _ for -; SMALL where not given."""
        args = []
        for key, value in {**SMALL, **options}.items():
            args += ["--" + key.replace("_", "-")] + ([] if value is True else [str(value)])
        cli("format", *args, self.store, check=EXIT_OK)
        return self

    def mount(self, *options, source=None, timeout=60):
        """Mounts with -o options ("ro", "commit=0") in a foreground child; returns once the mount answers.

        `source` replaces the store's directory (the same directory seen through another mount, say)."""
        if self.process:
            raise Failed("%s is mounted already" % self.mnt)
        self.options, self.source = options, source
        args = [CLAWFS, "mount", "--foreground"] + (["-o", ",".join(options)] if options else [])
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self._command(args + [source or self.store, self.mnt]), stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, env={**os.environ, **self.env})
        try:
            wait_for("the mount of " + self.mnt, self._answers, timeout)
        except Failed:
            self.kill9()
            raise
        return self

    def _command(self, args):
        """What runs the program; a node in a network of its own puts something before it."""
        return args

    def _answers(self):
        code = self.process.poll()
        if code is not None:
            self.process = None
            raise Failed("mount of %s ended with %d:\n%s" % (self.store, code, self.messages()))
        if not is_mounted(self.mnt):
            return False
        try:
            return os.getxattr(self.mnt, "clawfs.status") is not None
        except OSError:
            return False

    @property
    def pid(self):
        return self.process.pid if self.process else None

    def wait(self, timeout=60):
        """The daemon's exit status, once it has ended."""
        code = self.process.wait(timeout)
        self.process = None
        return code

    def umount(self, timeout=60):
        """A clean unmount: returns once the daemon ended with 0; Failed with its messages otherwise."""
        r = cli("umount", "--timeout", str(timeout), self.mnt, timeout=timeout + 10)
        if r.returncode:
            raise Failed("%s is not unmounted: exit %d: %s\nthreads of the daemon:\n%s\n%s" % (
                self.mnt, r.returncode, r.stderr, threads_of(self.pid), self.messages()[-3000:]))
        code = self.wait(timeout)
        if code:
            raise Failed("the daemon of %s ended with %d:\n%s" % (self.mnt, code, self.messages()))
        return self

    def terminate(self, timeout=60):
        """SIGTERM; returns the exit status."""
        os.kill(self.pid, signal.SIGTERM)
        code = self.wait(timeout)
        self.detach()
        return code

    def kill9(self):
        """kill -9 of the daemon and removal of the dead mount; harmless when there is none."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.detach()
        return self

    def detach(self):
        while is_mounted(self.mnt):
            if subprocess.run(["umount", "-l", self.mnt], stderr=subprocess.DEVNULL).returncode:
                break

    def remount(self, *options):
        """A clean unmount and a mount with the same options, or with those given."""
        if self.process:
            self.umount()
        return self.mount(*(options or self.options), source=self.source)

    def fsck(self, *options, check=EXIT_OK):
        return cli("fsck", *options, self.store, check=check, timeout=600)

    def status(self):
        return json.loads(cli("status", "--json", self.mnt, check=EXIT_OK).stdout)

    def messages(self):
        try:
            with open(self.log, encoding="utf-8", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def close(self):
        self.kill9()
        shutil.rmtree(self.dir, ignore_errors=True)

    # Small words for tests.

    def path(self, *names):
        return os.path.join(self.mnt, *names)

    def write(self, name, data, sync=False):
        with open(self.path(name), "wb") as f:
            f.write(data)
            if sync:
                f.flush()
                os.fsync(f.fileno())

    def read(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()


class VolumeTest(unittest.TestCase):
    """A test with a temporary directory (self.tmp) and volumes that are gone afterwards, whatever happened."""

    def setUp(self):
        self.tmp = os.path.realpath(tempfile.mkdtemp(prefix="clawfs-test-", dir=os.environ.get("CLAWFS_TEST_DIR")))
        self.addCleanup(shutil.rmtree, self.tmp, ignore_errors=True)

    def volume(self, *mount_options, name="volume", mount=True, **format_options):
        v = Volume(self.tmp, name)
        self.addCleanup(v.close)
        v.format(**format_options)
        return v.mount(*mount_options) if mount else v


def free_address():
    """127.0.0.1 with a port that nobody had a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return "127.0.0.1:%d" % s.getsockname()[1]


class Node(Volume):
    """A volume among its peers."""

    def __init__(self, tmpdir, name, address=None):
        super().__init__(tmpdir, name)
        self.name = name
        self.address = address or free_address()
        self.extra = ()

    def start(self, *options):
        """Mounts, with what every node needs and `options`; the same options again when none are given."""
        self.extra = options or self.extra
        return self.mount("listen=" + self.address, "name=" + self.name, *self.extra)

    def cli(self, *args, check=EXIT_OK, timeout=120):
        return cli(*args, check=check, timeout=timeout)

    def invite(self, name, *options):
        return self.cli("peer", "invite", "--name", name, *options, self.mnt).stdout.strip()

    def join(self, token, *options):
        """`clawfs peer join` into an empty directory."""
        args = self._command([CLAWFS, "peer", "join", token, self.store, "--address", self.address, *options])
        r = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        if r.returncode:
            raise Failed("peer join: exit %d: %s" % (r.returncode, r.stdout))
        return self

    # What it says of itself.

    def xattr(self, name):
        return os.getxattr(self.mnt, "clawfs." + name).decode()

    def set_xattr(self, name, value="1"):
        os.setxattr(self.mnt, "clawfs." + name, value.encode())

    @property
    def pos(self):
        return int(self.xattr("pos"))

    @property
    def role(self):
        return self.xattr("role")

    def is_now(self, role):
        """True once the mount answers with this role; it is away for a moment when a leader has to follow."""
        try:
            return self.role == role
        except OSError:
            return False

    def peer(self, name):
        """What this node says of the peer `name`."""
        return self.status()["peers"][name]

    def peer_state(self, name):
        return self.peer(name)["state"]

    def diverged(self):
        return json.loads(self.cli("diverged", "list", "--json", self.mnt).stdout)

    def reached(self, seq, timeout=30):
        """Returns once this node shows everything up to batch `seq`."""
        self.cli("wait", "--timeout", timeout, seq, self.mnt, timeout=timeout + 10)
        return self


class Cluster:
    """Nodes n1, n2, ... of one volume; n1 is made first and leads."""

    def __init__(self, test, n, options=(), **format_options):
        self.test = test
        self.node = []
        self.options = options
        self.leader = self.add().format(**format_options).start(*options)
        for _ in range(n - 1):
            self.join()
        self.settle()

    def make_node(self, name):
        return Node(self.test.tmp, name)

    def add(self):
        node = self.make_node("n%d" % (len(self.node) + 1))
        self.test.addCleanup(node.close)
        self.node.append(node)
        return node

    def join(self):
        """One more node, mounted."""
        node = self.add()
        return node.join(self.leader.invite(node.name)).start(*self.options)

    @property
    def followers(self):
        return [n for n in self.node if n is not self.leader and n.process]

    def settle(self, timeout=60, nodes=None):
        """Returns once every running follower (or each of `nodes`) shows all that the leader has."""
        self.leader.cli("sync", self.leader.mnt)
        seq = self.leader.pos
        for n in nodes or self.followers:
            n.reached(seq, timeout)

    def promote(self, node):
        node.cli("promote", node.mnt)
        self.leader = node


class ClusterTest(VolumeTest):
    def cluster(self, n, *options, **format_options):
        return Cluster(self, n, options, **format_options)


def main():
    """Runs the calling module's tests; meson reads the exit status.  77 is meson's "skipped"."""
    if os.geteuid() != 0:
        print("needs root: mounts filesystems", file=sys.stderr)
        sys.exit(77)
    if not os.access(CLAWFS, os.X_OK):
        print("no binary at %s: build first, or set $CLAWFS" % CLAWFS, file=sys.stderr)
        sys.exit(1)
    unittest.main(verbosity=2)
