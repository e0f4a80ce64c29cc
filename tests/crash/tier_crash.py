"""tier_crash: kill -9 and power loss at every step of age-out, recall, repack and gc; no byte is lost, and gc finds every orphan.

A script ages files out, reads, changes and recalls them, deletes most so that objects are packed again, and collects orphans,
with a store that runs in this process (tests/tier/fake_s3.py).  It is run again and again on one volume, and each time the world
stops at the next of its requests: before the store carries it out, and, where that changes something, after it did and before the
answer.  Between requests it is cut at random: at a moment (kill -9), or at a write or flush of the volume's own store (power loss,
faultfs).  What the script does ends with fsync, so after each crash all files but the one at hand must be what they were.  Only the
last files it deletes are not synced: a power loss may bring them back, and then the objects they are in must be there as well.

Then: fsck is clean; everything can be aged out again; the bucket holds the objects of the rows and orphans, which gc removes.

    tier_crash.py [--seed N] [--random N] [--lane NAME]

Lanes, all at once, with a volume each: kill9 (packs are read back), kill9-plain (a store without conditional puts), power.
Prints its seed first; the same seed gives the same script and cuts (the moments of cuts in time vary with the host).
"""

import argparse
import concurrent.futures
import os
import random
import signal
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", p) for p in ("tier", "integration", os.path.join("lib", "faultfs"))]
import fake_s3  # noqa: E402
from clawfs_env import Failed, cli, wait_for  # noqa: E402
from cold_env import ColdVolume, forget, gc, scan  # noqa: E402
from faultfs import FaultFs  # noqa: E402

KIB = 1 << 10
MODES = ("all", "pages", "torn")
LANES = {"kill9": (("--verify", "read"), {}), "kill9-plain": ((), {"conditions": "no"}), "power": ((), {})}


class Cut(Exception):
    """The world stopped while the script ran."""


class Lane:
    def __init__(self, name, seed, tmp):
        self.name, self.rng = name, random.Random("%d %s" % (seed, name))
        options, settings = LANES[name]
        self.fake = fake_s3.FakeS3()
        self.fake.set(**settings)
        self.power = FaultFs(tmp) if name == "power" else None
        self.volume = ColdVolume(tmp, self.fake, mounted=False)
        if self.power:
            self.volume.store = os.path.join(self.power.mnt, "store")
            os.mkdir(self.volume.store)
        # The power lane commits late by itself, so that what must not wait for that is seen.
        self.mount = ("commit=5",) if self.power else ()
        self.options = ("--grace", "0s", "--timeout", "5s", *options)
        self.lock = threading.Lock()
        self.dead, self.at_hand, self.loose = threading.Event(), {}, {}
        self.n_files = self.cuts = self.orphans = self.points = 0
        self.stopped_at, self.script_seconds = "", 1.0

    def start(self):
        self.volume.format().mount(*self.mount)
        self.volume.add_store(*self.options)

    def close(self):
        self.fake.hook = None
        self.volume.close()
        if self.power:
            self.power.close()
        self.fake.close()

    # ---- the world stops

    def stop_world(self, where):
        """Not even what the daemon has begun goes on; what has left it may."""
        with self.lock:
            if self.dead.is_set() or not self.volume.process:
                return
            self.dead.set()
            self.stopped_at = where
            os.kill(self.volume.pid, signal.SIGSTOP)
            if self.power:
                self.power.powercut(self.rng.choice(MODES), self.rng.randrange(1 << 30))
            os.kill(self.volume.pid, signal.SIGKILL)
            self.cuts += 1

    def stop_at_request(self, n):
        """At the n-th step of those that store or fetch data."""
        count = 0

        def hook(verb, key, when):
            nonlocal count
            if self.dead.is_set():
                return True  # nobody is there to hear the answer
            if ("packs/" not in key and verb != "LIST") or (when == "after" and verb not in ("PUT", "DELETE")):
                return False
            with self.lock:
                count += 1
                mine = count == n
            if mine:
                self.stop_world("step %d: %s %s %s" % (n, when, verb, key))
            return mine
        self.fake.hook = hook

    def stop_at_random(self):
        if self.power and self.rng.random() < 0.7:
            ops, skip = self.rng.choice(("write", "fsync", "any")), int(10 ** self.rng.uniform(0, 2.4))
            self.power.rule(ops, "cut-" + self.rng.choice(MODES), "*", skip=skip, count=1)
            threading.Thread(target=self.watch_power, args=("%s %d of the store" % (ops, skip),), daemon=True).start()
        else:
            timer = threading.Timer(self.rng.random() * self.script_seconds, self.stop_world, ("a moment",))
            timer.daemon = True
            timer.start()
            return timer
        return None

    def watch_power(self, where):
        while not self.dead.wait(0.005):
            try:
                if self.power.stats()["dead"]:
                    return self.stop_world(where)
            except OSError:
                return None
        return None

    # ---- the script; every change is durable when its line is over

    def change(self, name, new, how):
        """`how` makes the file what `new` says (None: gone)."""
        self.at_hand = {name: new}
        how()
        if new is None:
            del self.volume.model[name]
        else:
            self.volume.model[name] = new
        self.at_hand = {}

    def put(self, size):
        name = "f%d" % self.n_files
        self.n_files += 1
        data = self.rng.randbytes(size // 2) + bytes(self.rng.randrange(65, 70) for _ in range(64)) * (size // 128)
        self.change(name, data, lambda: self.volume.write(name, data, sync=True))
        return name

    def write_part(self, name, at, data):
        def write():
            fd = os.open(self.volume.path(name), os.O_RDWR)
            try:
                os.pwrite(fd, data, at)
                os.fsync(fd)
            finally:
                os.close(fd)
        old = self.volume.model[name]
        self.change(name, old[:at] + data + old[at + len(data):], write)

    def truncate(self, name, size):
        def cut():
            fd = os.open(self.volume.path(name), os.O_RDWR)
            try:
                os.ftruncate(fd, size)
                os.fsync(fd)
            finally:
                os.close(fd)
        self.change(name, self.volume.model[name][:size], cut)

    def unlink(self, name, sync):
        def remove():
            os.unlink(self.volume.path(name))
            if not sync:
                self.loose[name] = self.volume.model[name]
                return
            fd = os.open(self.volume.mnt, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        self.change(name, None, remove)

    def run(self, verb, *args):
        """A command that must do what it should, if the world goes on."""
        r = cli(verb, *args, timeout=120)
        if r.returncode and not self.dead.wait(0.2):
            raise Failed("%s %s: %s%s" % (verb, args, r.stdout, r.stderr))
        if r.returncode:
            raise Cut

    def read(self, name):
        forget(self.volume.path(name))
        if self.volume.read(name) != self.volume.model[name]:
            raise Failed("%s has wrong bytes" % name)

    def tidy(self):
        """Objects mostly dead are packed again, and then removed: one pass finds what the one before left dead."""
        def is_tidy():
            scan(self.volume)
            o = self.volume.status()["tier"]["objects"]
            return o["dead"] == 0 and o["live_bytes"] * 2 >= o["file_bytes"]
        wait_for("no object to be dead", is_tidy, 60, 0.1)

    def script(self):
        v = self.volume
        new = [self.put(size) for size in (20 * KIB, 300 * KIB, 33 * KIB, 700 * KIB, 150 * KIB, 90 * KIB)]
        self.run("tier", "evict", v.mnt)
        self.read(new[1])
        self.write_part(new[3], 200 * KIB + 77, self.rng.randbytes(3000))
        self.truncate(new[4], 100 * KIB + 5)
        self.run("tier", "recall", v.path(new[5]))
        self.run("tier", "evict", v.mnt)
        gone = sorted(v.model)[:-3]
        for name in gone:
            self.unlink(name, sync=name in gone[:3])
        self.tidy()
        with self.fake.lock:
            self.fake.buckets["cold"]["vol/packs/ab/ab%014x" % self.rng.getrandbits(56)] = fake_s3.Object(
                b"left behind", "0" * 32, time.time() - 100, "")
        self.run("gc", v.mnt)

    # ---- and after it

    def check_files(self):
        """All are what they were; the one at hand may be what it was or what it was to be."""
        v = self.volume
        if self.power:
            v.model.update((name, old) for name, old in self.loose.items() if os.path.exists(v.path(name)))
        self.loose = {}
        for name, new in self.at_hand.items():
            old, path = v.model.get(name), v.path(name)
            try:
                now = v.read(name)
            except FileNotFoundError:
                now = None
            if now != new and now != old and not (old is None and now is not None and len(now) <= len(new)):
                raise Failed("%s is neither what it was nor what it was to be" % name)
            if now is None:
                v.model.pop(name, None)
            elif old is None and now != new:  # half written: nobody was told that it is there
                os.unlink(path)
            else:
                v.model[name] = now
        self.at_hand = {}
        v.check()

    def check_bucket(self):
        """Rows and objects are the same, once gc has removed the orphans, and dead rows whose object is gone already went."""
        orphans = gc(self.volume)[2]
        self.tidy()
        for left in reversed(range(20)):  # the last of them may still be packed again
            try:
                self.orphans += orphans + self.volume.check_bucket(0)
                return
            except Failed:
                if not left:
                    raise
                time.sleep(0.1)

    def recover(self):
        v = self.volume
        self.fake.hook = None
        v.kill9()
        if self.power:
            self.power.clear()
            self.power.restore()
        self.dead.clear()
        v.mount(*self.mount)
        self.check_files()
        v.umount()
        v.fsck()
        v.mount(*self.mount)
        v.evict()
        self.check_bucket()

    def cycle(self, arm):
        """True when the world stopped."""
        timer, began = arm(), time.monotonic()
        try:
            self.script()
            self.script_seconds = time.monotonic() - began
        except (OSError, Failed, Cut) as e:
            if not self.dead.wait(1):
                raise Failed("nothing had stopped: %s" % e) from e
        finally:
            self.fake.hook = None
            if timer:
                timer.cancel()
        stopped = self.dead.is_set()
        if not stopped:
            with self.lock:
                self.dead.set()  # whoever still waits to stop it does not
            if self.power:
                self.power.clear()
        self.recover()
        return stopped

    def rounds(self, n_random):
        self.start()
        try:
            n = 1
            while self.cycle(lambda: self.stop_at_request(n)):
                n += 1
            self.points = n - 1
            for _ in range(n_random):
                self.cycle(self.stop_at_random)
            self.volume.check()
            self.volume.umount()
            self.volume.fsck()
        except Exception:
            print("lane %s, after %d cuts, the last at %s; the daemon said:\n%s"
                  % (self.name, self.cuts, self.stopped_at, self.volume.messages()[-4000:]), file=sys.stderr)
            raise
        if self.points < 10:
            raise Failed("only %d steps were found" % self.points)
        return self


def run_lane(name, seed, n_random):
    with tempfile.TemporaryDirectory(prefix="clawfs-tier-crash-", dir=os.environ.get("CLAWFS_TEST_DIR")) as tmp:
        lane = Lane(name, seed, tmp)
        try:
            return lane.rounds(n_random)
        finally:
            lane.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED") or random.randrange(1 << 32)))
    parser.add_argument("--random", type=int, default=int(os.environ.get("ROUNDS", 8)))
    parser.add_argument("--lane", choices=LANES, action="append")
    args = parser.parse_args()
    print("SEED=%d" % args.seed, flush=True)
    names = args.lane or list(LANES)
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        lanes = list(pool.map(lambda name: run_lane(name, args.seed, args.random), names))
    if not sum(lane.orphans for lane in lanes):
        raise Failed("no crash left an orphan: the cuts are not where they should be")
    print("ok: %s; %.0f s" % (", ".join("%s: %d steps, %d cuts, %d orphans" % (l.name, l.points, l.cuts, l.orphans) for l in lanes),
                              time.monotonic() - began))


if __name__ == "__main__":
    main()
