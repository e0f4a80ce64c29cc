"""cluster: nodes of one volume on the hosts of a network (network.py), for tests of replication.

    class Some(ClusterTest):
        def test_a_file_arrives(self):
            c = self.cluster(3)              # c.node[0] leads, the others follow; all mounted and streaming
            c.leader.write("f", b"x")
            c.settle()                       # every follower has applied everything
            self.assertEqual(c.node[1].read("f"), b"x")
"""

import os
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "integration"))
import clawfs_env  # noqa: E402
from clawfs_env import Failed, wait_for  # noqa: E402
from network import Network  # noqa: E402

PORT = 7440


class Node(clawfs_env.Node):
    """A node whose daemon runs on a host of the network."""

    def __init__(self, tmpdir, host, name):
        super().__init__(tmpdir, name, "%s:%d" % (host.address, PORT))
        self.host = host
        self.wrapper = ()  # before the program: faketime, say

    def _command(self, args):
        return self.host.command(*self.wrapper, *args)

    @property
    def role(self):
        """"leader" or "follower"; None while the daemon mounts anew, from one to the other."""
        try:
            return self.status()["replica"]["role"]
        except Failed:
            if self.process.poll() is not None:
                raise
            return None

    def reached(self, seq, timeout=30):
        """Waits until this node shows everything up to batch `seq`; it may be away for a moment meanwhile."""
        def there():
            try:
                r = self.status()["replica"]
                return r["readable"] and r["applied_seq"] >= seq and r["history"] == r["epoch"]
            except (OSError, Failed):
                return False
        wait_for("%s to reach batch %d" % (self.name, seq), there, timeout, 0.05)
        return self


class Cluster(clawfs_env.Cluster):
    def __init__(self, test, n, options=(), **format_options):
        self.net = Network(0)
        test.addCleanup(self.net.close)
        super().__init__(test, n, options, **format_options)

    def make_node(self, name):
        return Node(self.test.tmp, self.net.add(), name)

    def settle(self, timeout=60, nodes=None):
        """The same, with what the leader's kernel holds dirty."""
        subprocess.run(["sync", "-f", self.leader.mnt], check=True, timeout=timeout)
        super().settle(timeout, nodes)

    def same(self, nodes=None):
        """The trees of all running nodes are equal, in everything there is to a tree."""
        for n in nodes or self.followers:
            difference(self.leader.mnt, n.mnt)


def difference(a, b):
    """Raises AssertionError naming what differs between two trees: names, all attributes, contents, holes."""
    r = subprocess.run(["rsync", "-naHAXi", "--checksum", "--delete", "--specials", "--devices", a + "/", b + "/"], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, timeout=600)
    if r.returncode or r.stdout.strip():
        raise AssertionError("%s and %s differ:\n%s" % (a, b, r.stdout[:4000]))
    for base, dirs, files in os.walk(a):
        for name in dirs + files:
            p = os.path.join(base, name)
            q = b + p[len(a):]
            s, t = os.lstat(p), os.lstat(q)
            for field in ("st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_rdev", "st_blocks", "st_mtime_ns",
                          "st_ctime_ns"):
                if getattr(s, field) != getattr(t, field):
                    raise AssertionError("%s: %s is %s, on the follower %s" % (p, field, getattr(s, field), getattr(t, field)))
            if os.path.isfile(p) and not os.path.islink(p) and data_map(p) != data_map(q):
                raise AssertionError("%s: holes are %s, on the follower %s" % (p, data_map(p), data_map(q)))


def data_map(path):
    """[(from, to)]: where the file has data."""
    found, at = [], 0
    fd = os.open(path, os.O_RDONLY)
    try:
        while True:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                return found
            at = os.lseek(fd, start, os.SEEK_HOLE)
            found.append((start, at))
    finally:
        os.close(fd)


class ClusterTest(clawfs_env.VolumeTest):
    def cluster(self, n, *options, **format_options):
        return Cluster(self, n, options, **format_options)


class Writer:
    """A load: a process on the side that appends numbered, fsynced lines to files below a directory until stopped.

    acked: the number of the last line whose fsync returned; error: the errno that ended it.

    It ends by itself when its input does.  Of a process that is killed the kernel drops requests that the daemon has not read yet: the
    time of a write that it still holds (docs/OPERATIONS.md), and the volume would differ from what this mount shows."""

    STOP_SECONDS = 15  # a call may wait for followers

    CODE = r"""
import os, select, sys, time
top, pause = sys.argv[1], float(sys.argv[2])
n = 0
blob = os.urandom(70000) + b"\n"
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        with open("%s/f%03d" % (top, n % 50), "ab") as f:
            f.write(b"%012d\n" % n)
            if n % 20 == 0:
                f.write(blob)
            f.flush()
            os.fsync(f.fileno())
        if n % 7 == 3:
            os.rename("%s/f%03d" % (top, n % 50), "%s/g%09d" % (top, n))
    except OSError as e:
        print("error", n, e.errno, flush=True)
        break
    print("acked", n, flush=True)
    n += 1
    if pause:
        time.sleep(pause)
"""

    def __init__(self, node, pause=0.0, name="load"):
        self.top = node.path(name)
        os.makedirs(self.top, exist_ok=True)
        self.process = subprocess.Popen([sys.executable, "-c", self.CODE, self.top, str(pause)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.acked = -1
        self.error = None
        self.reader = threading.Thread(target=self._read, daemon=True)  # it would wait for room in a full pipe
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            words = line.split()
            if not line.endswith("\n"):  # killed
                return
            if words[0] == "acked":
                self.acked = int(words[1])
            else:
                self.error = int(words[2])

    def stop(self):
        """Ends it and returns the number of the last line that was acknowledged as durable."""
        self.process.stdin.close()
        try:
            self.process.wait(self.STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join()
        self.process.stdout.close()
        return self.acked


def lines_in(top):
    """The numbers that a Writer's files below `top` hold."""
    found = set()
    for name in os.listdir(top):
        with open(os.path.join(top, name), "rb") as f:
            for line in f.read().split(b"\n"):
                if len(line) == 12 and line.isdigit():
                    found.add(int(line))
    return found


def main():
    clawfs_env.main()
