"""Everything at once, for $SOAK_SECONDS (180): fio that verifies, files that come, change, move, are cloned and compressed, and go, snapshots and
what differs between them, scrub, cold files, a quota, an archive with drills, a reader of changes, the audit log, and a follower that is killed now and then.
At the end nothing differs anywhere, memory stayed bounded, the audit log is whole, and fsck finds nothing.

Not here: a hand-over and the death of the leader, which take the mount away from under everybody (tests/network, tests/crash), and
encrypted volumes (tests/integration/test_encryption.py).

    SOAK_SECONDS=1200 CLAWFS=build/fs/cli/clawfs python3 tests/soak/test_soak.py

Each actor is a thread with a random generator of its own, all from one printed seed; what they do at the same time is up to the machine.
The first thing that is wrong ends the test with the name of its actor.
"""

import errno
import hashlib
import json
import mmap
import os
import random
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
import clawfs_env  # noqa: E402
from clawfs_env import EXIT_OK, Failed, cli, wait_for  # noqa: E402

SECONDS = int(os.environ.get("SOAK_SECONDS") or 180)
MEMORY_MIB = 256  # memory= of both nodes
RESIDENT_MIB = 1.5 * MEMORY_MIB  # what they may have resident: threads, libraries and the heap's slack come on top
MAX_FILES = 400
SNAPSHOTS_KEPT = 12
SETTLE_SECONDS = 120


def digest(data):
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_of(path):
    """Digest of a file's contents; errors name the path."""
    with open(path, "rb") as f:
        return digest(f.read())


def resident_mib(pid):
    with open("/proc/%d/status" % pid) as f:
        for line in f:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    raise Failed("the daemon %d has ended" % pid)


class Ledger:
    """Files below one directory, and what they must hold: {name: digest}.  `lock` is held over each change and its note."""

    def __init__(self, top):
        self.top = top
        self.files = {}
        self.lock = threading.Lock()
        os.makedirs(top)

    def path(self, name):
        return os.path.join(self.top, name)

    def check(self, name, want, top=None):
        path = os.path.join(top or self.top, name)
        got = digest_of(path)
        if got != want:
            raise Failed("%s holds %s, expected %s" % (path, got, want))

    def check_tree(self, files, top):
        """`top` holds exactly `files`."""
        there = sorted(os.listdir(top))
        if there != sorted(files):
            raise Failed("%s: files differ by %s" % (top, sorted(set(there) ^ set(files))[:5]))
        for name, want in files.items():
            self.check(name, want, top)


class Actor(threading.Thread):
    """Does `act` again and again until the end; counts how often, and keeps what ended it otherwise."""

    pause = 0.0

    def __init__(self, world):
        super().__init__(daemon=True, name=type(self).__name__)
        self.world = world
        self.rng = random.Random("%d %s" % (world.seed, self.name))
        self.acts = 0
        self.error = None

    def run(self):
        try:
            while not self.world.over.wait(self.pause):
                self.act()
                self.acts += 1
        except Exception as e:  # whatever it is, the test names it
            if isinstance(self, Watcher) and self.world.over.is_set():
                return  # it was told to end
            self.error = e
            self.world.over.set()

    def act(self):
        raise NotImplementedError


class Fio(Actor):
    """Buffered, direct and synced writes at random, verified at the end of each round."""

    JOBS = (["--rw=randwrite", "--bs=4k", "--size=16M"], ["--rw=randrw", "--bsrange=512-64k", "--bs_unaligned", "--size=16M"],
            ["--rw=randwrite", "--bs=256k", "--size=32M", "--direct=1"], ["--rw=randwrite", "--bs=8k", "--size=2M", "--fdatasync=1"])

    def act(self):
        top = self.world.leader.path("fio")
        os.makedirs(top, exist_ok=True)
        job = self.rng.choice(self.JOBS)
        r = subprocess.run(["fio", "--name=soak", "--directory=" + top, "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
                            "--verify_state_save=0", "--randseed=%d" % self.rng.randrange(1 << 30), *job], cwd=self.world.test.tmp,
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
        if r.returncode:
            raise Failed("fio %s: exit %d\n%s" % (" ".join(job), r.returncode, r.stdout))


class Writer(Actor):
    """Files that come, change, move and go."""

    pause = 0.005

    def act(self):
        ledger = self.world.ledger
        with ledger.lock:
            names = list(ledger.files)
            if len(names) < 20 or (len(names) < MAX_FILES and self.rng.random() < 0.4):
                self.put(ledger, "f%08d" % self.rng.randrange(10 ** 8))
                return
            name = self.rng.choice(names)
            what = self.rng.random()
            if what < 0.35:
                self.put(ledger, name)
            elif what < 0.55:
                self.change(ledger, name)
            elif what < 0.7:
                os.unlink(ledger.path(name))
                del ledger.files[name]
            elif what < 0.85:
                other = self.rng.choice(names) if self.rng.random() < 0.3 else "r%08d" % self.rng.randrange(10 ** 8)
                os.rename(ledger.path(name), ledger.path(other))
                ledger.files[other] = ledger.files.pop(name)
            elif what < 0.9:
                other = "c%08d" % self.rng.randrange(10 ** 8)
                cli("clone", ledger.path(name), ledger.path(other), check=EXIT_OK)
                ledger.files[other] = ledger.files[name]
            else:
                ledger.check(name, ledger.files[name])

    def put(self, ledger, name):
        size = self.rng.choice((0, 100, 5000, 70000, 400000, 3000000))
        data = self.rng.randbytes(self.rng.randrange(size + 1))
        if self.rng.random() < 0.3:
            data = data[:1000] * (len(data) // 1000 + 1)  # this one can be compressed
        with open(ledger.path(name), "wb") as f:
            f.write(data)
            if self.rng.random() < 0.2:
                f.flush()
                os.fsync(f.fileno())
        ledger.files[name] = digest(data)

    def change(self, ledger, name):
        """Writes into the middle, or cuts, or both; of a cold file this recalls what it needs."""
        with open(ledger.path(name), "r+b") as f:
            data = bytearray(f.read())
            at = self.rng.randrange(len(data) + 1)
            piece = self.rng.randbytes(self.rng.randrange(20000))
            data[at:at + len(piece)] = piece
            f.seek(at)
            f.write(piece)
            if self.rng.random() < 0.3:
                del data[len(data) // 2:]
                f.truncate(len(data))
        ledger.files[name] = digest(data)


class Snapshots(Actor):
    """Takes one while the ledger stands still, and looks at older ones, which must not change whatever happens to the files."""

    pause = 1.5

    def __init__(self, world):
        super().__init__(world)
        self.kept = {}

    def top(self, name):
        return self.world.leader.path(".clawfs", "snapshots", name, "ledger")

    def act(self):
        ledger, mnt = self.world.ledger, self.world.leader.mnt
        name = "s%06d" % self.acts
        with ledger.lock:
            cli("snap", "create", name, mnt, check=EXIT_OK)
            self.kept[name] = dict(ledger.files)
        if len(self.kept) > SNAPSHOTS_KEPT:
            gone = self.rng.choice(list(self.kept))
            del self.kept[gone]
            cli("snap", "delete", gone, mnt, check=EXIT_OK)
        name = self.rng.choice(list(self.kept))
        ledger.check_tree(self.kept[name], self.top(name))
        if len(self.kept) > 1:
            self.check_difference(*self.rng.sample(list(self.kept), 2))

    def check_difference(self, old, new):
        """Names of the ledger that only one of the two has are created, deleted or renamed, and no others are."""
        out = json.loads(cli("snap", "diff", "--json", old, new, self.world.leader.mnt, check=EXIT_OK).stdout)
        gone, come = set(), set()
        for change in out:
            if change["change"] in ("deleted", "renamed"):
                gone.add(change.get("from", change["path"]))
            if change["change"] in ("created", "renamed"):
                come.add(change["path"])
        was, now = ({"/ledger/" + n for n in self.kept[name]} for name in (old, new))
        for what, got, want in (("gone", gone, was - now), ("come", come, now - was)):
            got = {p for p in got if p.startswith("/ledger/")}
            if not want <= got or not got <= was | now:  # another file may have taken a name that both have
                raise Failed("from %s to %s %s are said to have %s, %s have" % (old, new, sorted(got), what, sorted(want)))

    def check_all(self):
        for name, files in self.kept.items():
            self.world.ledger.check_tree(files, self.top(name))


class Scrub(Actor):
    """From the beginning to the end of the volume, again and again; it must find nothing."""

    pause = 2.0

    def act(self):
        mnt = self.world.leader.mnt
        cli("scrub", "start", mnt, check=EXIT_OK)
        wait_for("the end of a scrub", lambda: self.world.over.is_set() or self.state() != "running", 600, 0.2)

    def state(self):
        return self.status()["state"]

    def status(self):
        return json.loads(cli("scrub", "status", "--json", self.world.leader.mnt, check=EXIT_OK).stdout)

    def check(self):
        s = self.status()
        if s["damage"]["files"] or s["damage"]["bad_blocks"] or s["quarantined_blocks"]:
            raise Failed("scrub found damage: %s" % s)


class Cold(Actor):
    """Files go to the store, and come back by being read or recalled."""

    pause = 0.3

    def act(self):
        ledger = self.world.ledger
        with ledger.lock:
            names = list(ledger.files)
            name = self.rng.choice(names) if names else None
            if not name:
                return
            if self.rng.random() < 0.7:
                self.evict(ledger.path(name))
                return
            if self.rng.random() < 0.5:
                cli("tier", "recall", ledger.path(name), check=EXIT_OK, timeout=300)
            ledger.check(name, ledger.files[name])

    def evict(self, path):
        cli("tier", "evict", path, check=EXIT_OK, timeout=300)
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # so that the next read asks the daemon
        finally:
            os.close(fd)


class Quota(Actor):
    """Fills a directory until its quota says no, whose count must be that of what is there; then makes room."""

    pause = 0.05
    BYTES, FILES = 2 << 20, 25

    def __init__(self, world):
        super().__init__(world)
        self.top = world.leader.path("quota")
        self.refused = 0
        os.mkdir(self.top)
        cli("quota", "set", "--max-bytes=%d" % self.BYTES, "--max-files=%d" % self.FILES, self.top, check=EXIT_OK)

    def act(self):
        path = os.path.join(self.top, "f%08d" % self.rng.randrange(10 ** 8))
        try:
            self.write(path, self.rng.randrange(80) * 4096)
        except OSError as e:
            if e.errno != errno.EDQUOT:
                raise
            self.refused += 1
            if os.path.exists(path):
                os.unlink(path)
            for name in self.rng.sample(sorted(os.listdir(self.top)), len(os.listdir(self.top)) // 2):
                os.unlink(os.path.join(self.top, name))
        self.check()

    def write(self, path, size):
        """Past the page cache: the kernel would tell others of what it could not write, too (clawfs sync)."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o644)
        try:
            if size:
                with mmap.mmap(-1, size) as data:
                    data[:] = self.rng.randbytes(size)
                    os.write(fd, data)
        finally:
            os.close(fd)

    def check(self):
        sizes = [os.stat(os.path.join(self.top, n)).st_size for n in os.listdir(self.top)]
        told = tuple(int(os.getxattr(self.top, "clawfs.dir." + what)) for what in ("rfiles", "rbytes"))
        if told != (len(sizes), sum(sizes)) or len(sizes) > self.FILES or sum(sizes) > self.BYTES:
            raise Failed("%s has %d files of %d bytes, and says %s" % (self.top, len(sizes), sum(sizes), told))


class Archive(Actor):
    """What is archived can be restored, and is what it was."""

    pause = 15.0

    def act(self):
        mnt = self.world.leader.mnt
        if not self.acts:
            cli("archive", "set", "--interval=2s", "--keep=1m", "cold", mnt, check=EXIT_OK)  # or it takes gigabytes a minute
        cli("archive", "now", mnt, check=EXIT_OK, timeout=300)
        cli("drill", "--dir=" + self.world.drills, mnt, check=EXIT_OK, timeout=600)
        if os.listdir(self.world.drills):
            raise Failed("a drill left %s" % os.listdir(self.world.drills))


class Watcher(Actor):
    """Reads the changes as they come; they come in order."""

    def __init__(self, world):
        super().__init__(world)
        self.process = subprocess.Popen([clawfs_env.CLAWFS, "watch", world.leader.mnt], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        text=True)
        world.test.addCleanup(self.stop)
        self.seq = 0

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def act(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed("clawfs watch ended with %s" % self.process.wait())
        seq = json.loads(line).get("seq", self.seq)
        if seq < self.seq:
            raise Failed("change %d came after %d" % (seq, self.seq))
        self.seq = seq


class Audit(Actor):
    """Nobody has tampered with the log."""

    pause = 5.0

    def act(self):
        cli("audit", "--verify", self.world.leader.mnt, check=EXIT_OK)


class Killer(Actor):
    """The follower's daemon dies, and is started again."""

    pause = 25.0

    def act(self):
        with self.world.follower_lock:
            self.world.follower.kill9()
            self.world.follower.start()


class Follower(Actor):
    """The follower's mount shows the leader's files."""

    pause = 4.0

    def act(self):
        with self.world.follower_lock, self.world.ledger.lock:
            files = dict(self.world.ledger.files)
            cli("sync", self.world.leader.mnt, check=EXIT_OK)
            seq = self.world.leader.pos
            self.world.follower.reached(seq, SETTLE_SECONDS)
            names = sorted(os.listdir(self.world.follower.path("ledger")))
            if names != sorted(files):
                raise Failed("the follower's files differ by %s" % sorted(set(names) ^ set(files))[:5])
            for name in self.rng.sample(names, min(20, len(names))):
                self.world.ledger.check(name, files[name], self.world.follower.path("ledger"))


class Memory(Actor):
    """What both daemons have resident, once a second."""

    pause = 1.0

    def __init__(self, world):
        super().__init__(world)
        self.peak = 0

    def act(self):
        with self.world.follower_lock:
            self.look()

    def look(self):
        for node in (self.world.leader, self.world.follower):
            mib = resident_mib(node.pid)
            self.peak = max(self.peak, mib)
            if mib > RESIDENT_MIB:
                raise Failed("%s has %d MiB resident, memory= is %d" % (node.name, mib, MEMORY_MIB))


class World:
    def __init__(self, test, seed):
        self.test, self.seed = test, seed
        self.over = threading.Event()
        cluster = test.cluster(2, "memory=%dM" % MEMORY_MIB, journal_size="64M", segment_size="8M")
        self.cluster = cluster
        self.leader, self.follower = cluster.leader, cluster.node[1]
        self.follower_lock = threading.Lock()  # before the ledger's
        self.store, self.drills = (os.path.join(test.tmp, name) for name in ("objects", "drills"))
        os.mkdir(self.store)
        os.mkdir(self.drills)
        cli("tier", "add", "cold", "file://" + self.store, self.leader.mnt, check=EXIT_OK)
        self.ledger = Ledger(self.leader.path("ledger"))
        os.setxattr(self.ledger.top, "clawfs.tier", b"after=1000d min=4K store=cold")
        os.setxattr(self.ledger.top, "clawfs.compression", b"lz4")


class Soak(clawfs_env.ClusterTest):
    def test_everything_at_once(self):
        world = World(self, clawfs_env.seed())
        actors = [kind(world) for kind in (Writer, Fio, Snapshots, Scrub, Cold, Quota, Archive, Watcher, Audit, Follower, Killer, Memory)]
        for a in actors:
            a.start()
        world.over.wait(SECONDS)
        world.over.set()
        actors[[type(a) for a in actors].index(Watcher)].process.terminate()  # it waits for a line
        for a in actors:
            a.join(660)
            self.assertFalse(a.is_alive(), "%s does not end" % a.name)
        print(", ".join("%s %d" % (a.name, a.acts) for a in actors), file=sys.stderr)
        for a in actors:
            if a.error:
                print(world.leader.messages()[-3000:], file=sys.stderr)
                raise Failed("%s: %s" % (a.name, a.error)) from a.error
        for a in actors:
            self.assertGreater(a.acts, 0, "%s did nothing" % a.name)
        self.look_at_the_end(world, {type(a): a for a in actors})

    def look_at_the_end(self, world, actors):
        world.ledger.check_tree(world.ledger.files, world.ledger.top)
        actors[Snapshots].check_all()
        actors[Scrub].check()
        actors[Quota].check()
        self.assertGreater(actors[Quota].refused, 0)
        cli("audit", "--verify", world.leader.mnt, check=EXIT_OK)
        world.cluster.settle(SETTLE_SECONDS)
        world.ledger.check_tree(world.ledger.files, world.follower.path("ledger"))
        r = subprocess.run(["rsync", "-naHAXi", "--checksum", "--delete", world.leader.mnt + "/", world.follower.mnt + "/"],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
        self.assertEqual((r.returncode, r.stdout.strip()), (0, ""), "leader and follower differ")
        print("peak %d MiB resident of a daemon" % actors[Memory].peak, file=sys.stderr)
        for node in (world.follower, world.leader):
            node.umount()
            node.fsck()
        # And as the next mount sees it.
        world.leader.start()
        world.ledger.check_tree(world.ledger.files, world.ledger.top)
        actors[Snapshots].check_all()
        world.leader.umount()


if __name__ == "__main__":
    clawfs_env.main()
