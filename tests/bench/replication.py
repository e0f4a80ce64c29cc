#!/usr/bin/env python3
"""What replication costs, and how well it keeps up: a leader and followers on this machine, over loopback.

  replication.py --clawfs BUILD/fs/cli/clawfs --dir DIR             cost of `local`, latency of replicas=1, lag as a curve
  replication.py ... --rows cost,latency,lag,resync,join            only these; resync and join are not among the default
  replication.py ... --files 1000000                                files for `join` (default 100,000)
  replication.py ... --gib 10                                       size of the volume for `resync`, a tenth of which differs (default 1)
  replication.py ... --follower-dir /dev/shm                        the follower's volume elsewhere: on a disk of its own, or in memory

All nodes share this machine's processors, and without --follower-dir its disk, so `cost` says what leader and follower take together: an
upper bound for a leader that has its machine to itself.  The processor time of the leader's daemon, which `cost` tells beside the rates, is
the leader's alone.  Samples alternate between the two sides compared; medians count.  --json FILE keeps all.
Exit status: 0 done, 1 something failed, 2 usage.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from sides import drop_caches, fsync_directory, is_mounted, wait_until

MIB, GIB = 1 << 20, 1 << 30


def say(text):
    print(f"replication: {text}", file=sys.stderr, flush=True)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


class Node:
    def __init__(self, clawfs, work, name):
        self.clawfs, self.name = clawfs, name
        self.store, self.mount_point = os.path.join(work, name), os.path.join(work, name + "-mnt")
        self.address = f"127.0.0.1:{free_port()}"
        self.process = None
        os.makedirs(self.mount_point)

    def run(self, *args):
        done = subprocess.run([self.clawfs, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"clawfs {' '.join(args)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def mount(self):
        self.process = subprocess.Popen([self.clawfs, "mount", "--foreground", "-o", f"listen={self.address},name={self.name}", self.store,
                                         self.mount_point], stderr=subprocess.DEVNULL)
        wait_until(lambda: is_mounted(self.mount_point) and self.status(), 60, f"{self.name} to mount")

    def unmount(self):
        self.run("umount", self.mount_point)
        self.process.wait(60)
        self.process = None

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
        subprocess.run(["umount", "-l", self.mount_point], stderr=subprocess.DEVNULL)

    def status(self):
        try:
            return json.loads(os.getxattr(self.mount_point, "clawfs.status"))
        except OSError:
            return None

    def processor_seconds(self):
        """What the daemon has used since its start, user and system together."""
        with open(f"/proc/{self.process.pid}/stat") as f:
            after_name = f.read().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")

    def pos(self):
        return int(os.getxattr(self.mount_point, "clawfs.pos"))

    def peer(self, name):
        return self.status()["peers"][name]

    def reached(self, seq, seconds=600):
        def there():
            s = self.status()
            return s and s["replica"]["readable"] and self.pos() >= seq
        wait_until(there, seconds, f"{self.name} to reach batch {seq}")

    def settle(self):
        """Nothing left to do in the background."""
        def idle():
            return self.status()["homer"]["backlog_bytes"] == 0
        fsync_directory(self.mount_point)
        wait_until(idle, 120, "background work to end")
        os.setxattr(self.mount_point, "clawfs.checkpoint", b"1")
        os.sync()


class Pair:
    def __init__(self, clawfs, work, follower_work):
        self.work = work
        self.leader, self.follower = Node(clawfs, work, "leader"), Node(clawfs, follower_work, "follower")
        self.leader.run("format", self.leader.store)
        self.leader.mount()
        self.join(self.follower)

    def join(self, node):
        token = self.leader.run("peer", "invite", "--name", node.name, "--address", self.leader.address, self.leader.mount_point)
        node.run("peer", "join", token, node.store, "--address", node.address)
        node.mount()
        node.reached(self.leader.pos())

    def caught_up(self):
        fsync_directory(self.leader.mount_point)
        self.follower.reached(self.leader.pos())

    def settle(self):
        self.caught_up()
        self.leader.settle()
        if self.follower.process:
            self.follower.settle()

    def close(self):
        for n in (self.follower, self.leader):
            n.stop()


def fio(directory, **options):
    command = ["fio", "--name=x", "--output-format=json", f"--directory={directory}", "--thread", "--group_reporting",
               *(f"--{key}={value}" for key, value in options.items())]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"fio: {done.stderr.strip()}")
    return json.loads(done.stdout)["jobs"][0]


def fdatasync_rate(directory, jobs, seconds):
    job = fio(directory, rw="randwrite", bs="4k", size="32m", numjobs=jobs, fdatasync=1, runtime=seconds, time_based=1, fallocate="none")
    return job["write"]["iops"]


def write_rate(directory, mib):
    path = os.path.join(directory, "sequential")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    began = time.monotonic()
    fio(directory, filename="sequential", rw="write", bs="1m", size=f"{mib}m", end_fsync=1, fallocate="none")
    return mib / (time.monotonic() - began)


def cost(pair, options):
    """The writer's rate in `local` mode with a follower, against without; and the leader's processor time for the same work."""
    work = os.path.join(pair.leader.mount_point, "cost")
    os.makedirs(work, exist_ok=True)
    kinds = {
        "fdatasync-1": lambda: fdatasync_rate(work, 1, options.seconds),
        "fdatasync-8": lambda: fdatasync_rate(work, 8, options.seconds),
        "seq-write": lambda: write_rate(work, 512),
    }
    samples = {k: {"alone": [], "followed": []} for k in kinds}
    spent = {k: {"alone": [], "followed": []} for k in kinds}  # processor microseconds of the leader for a write, or a MiB
    for k, measure in kinds.items():  # files laid out, outside of the samples
        measure()
    for number in range(options.runs):
        for side in ("alone", "followed"):
            if side == "alone" and pair.follower.process:
                pair.settle()
                pair.follower.unmount()
            elif side == "followed" and not pair.follower.process:
                pair.follower.mount()
            pair.settle() if side == "followed" else pair.leader.settle()
            for k, measure in kinds.items():
                say(f"cost: {k} {side}, run {number + 1} of {options.runs}")
                before, began = pair.leader.processor_seconds(), time.monotonic()
                rate = measure()
                work_done = rate * (time.monotonic() - began)
                samples[k][side].append(rate)
                spent[k][side].append((pair.leader.processor_seconds() - before) / work_done * 1e6)
                pair.settle() if side == "followed" else pair.leader.settle()
    if not pair.follower.process:
        pair.follower.mount()
    pair.caught_up()
    rows = []
    for k, s in samples.items():
        alone, followed = statistics.median(s["alone"]), statistics.median(s["followed"])
        used = {side: statistics.median(spent[k][side]) for side in spent[k]}
        rows.append({"row": f"cost-{k}", "alone": alone, "followed": followed, "ratio": followed / alone, "met": followed >= 0.9 * alone,
                     "processor_us": used})
        print(f"cost-{k:14} alone {alone:10.1f}   followed {followed:10.1f}   ratio {followed / alone:.2f}   target 0.90 "
              f"{'met' if followed >= 0.9 * alone else 'NOT MET'}   leader's processor us {used['alone']:.0f}, {used['followed']:.0f}")
    return {"rows": rows, "samples": samples, "processor_us": spent}


def round_trip_us(n=2000):
    """Of one byte over a loopback connection between two threads: the network's part."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        def echo():
            c, _ = server.accept()
            with c:
                c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while data := c.recv(1):
                    c.sendall(data)
        threading.Thread(target=echo, daemon=True).start()
        with socket.create_connection(server.getsockname()) as c:
            c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            took = []
            for _ in range(n):
                began = time.perf_counter()
                c.sendall(b"x")
                c.recv(1)
                took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


def latency(pair, options):
    """fsync of 4 KiB at `local` and at `replicas=1`."""
    work = os.path.join(pair.leader.mount_point, "latency")
    os.makedirs(work, exist_ok=True)
    found = {"local": [], "replicas=1": []}
    trips = []
    fd = os.open(os.path.join(work, "f"), os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"\0" * (32 * MIB), 0)
    os.fsync(fd)
    for number in range(options.runs):
        trips.append(round_trip_us())
        for level in found:
            say(f"latency: {level}, run {number + 1} of {options.runs}")
            os.setxattr(pair.leader.mount_point, "clawfs.durability", level.encode())
            pair.settle()
            took, end = [], time.monotonic() + options.seconds
            i = 0
            while time.monotonic() < end:
                i = (i * 1103515245 + 12345) % 8192
                os.pwrite(fd, b"y" * 4096, i * 4096)
                began = time.perf_counter()
                os.fdatasync(fd)
                took.append(time.perf_counter() - began)
            found[level].append(statistics.median(took) * 1e6)
    os.setxattr(pair.leader.mount_point, "clawfs.durability", b"local")
    os.close(fd)
    local, remote, trip = (statistics.median(x) for x in (found["local"], found["replicas=1"], trips))
    limit = 2 * local + trip
    print(f"latency            local {local:.0f} us   replicas=1 {remote:.0f} us   round trip {trip:.0f} us   "
          f"limit 2 x local + round trip = {limit:.0f} us {'met' if remote <= limit else 'NOT MET'}")
    return {"local_us": found["local"], "replicas_us": found["replicas=1"], "round_trip_us": trips, "met": remote <= limit}


def lag(pair, options):
    """A leader that writes as fast as it can for a while: how far the follower is behind, over time."""
    work = os.path.join(pair.leader.mount_point, "lag")
    os.makedirs(work, exist_ok=True)
    curves = {}
    for kind, load in (("small", dict(rw="randwrite", bs="4k", size="64m", numjobs=4, fdatasync=8)),
                       ("large", dict(rw="write", bs="1m", size="512m", numjobs=2, fsync=64))):
        pair.settle()
        resyncs = pair.leader.peer("follower").get("resyncs", 0)
        curve, began = [], time.monotonic()
        done = threading.Thread(target=lambda: fio(work, runtime=options.lag_seconds, time_based=1, fallocate="none", **load))
        done.start()
        while done.is_alive():
            p = pair.leader.peer("follower")
            curve.append((time.monotonic() - began, p["lag_bytes"], p["lag_seconds"], p["state"]))
            time.sleep(0.25)
        ended = time.monotonic()
        pair.caught_up()
        drain = time.monotonic() - ended
        peak = max(x[1] for x in curve)
        worst = max(x[2] for x in curve)
        print(f"lag-{kind:14} peak {peak / MIB:.1f} MiB, {worst:.2f} s; caught up {drain:.2f} s after the load ended; states "
              f"{sorted(set(x[3] for x in curve))}")
        top = max(peak, 1)
        for t, b, s, state in curve[::max(1, len(curve) // 20)]:
            print(f"  {t:6.1f} s {b / MIB:9.1f} MiB {s:6.2f} s  {'#' * int(40 * b / top)}")
        curves[kind] = {"curve": curve, "drain_seconds": drain, "resyncs_before": resyncs}
    return curves


def resync(pair, options):
    """A follower that missed a tenth of the volume: what moves."""
    work = os.path.join(pair.leader.mount_point, "resync")
    os.makedirs(work, exist_ok=True)
    files = options.gib * 10
    for i in range(files):
        with open(os.path.join(work, f"f{i:04}"), "wb") as f:
            for _ in range(GIB // 10 // MIB):
                f.write(os.urandom(MIB))
    pair.settle()
    total = sum(os.path.getsize(os.path.join(work, n)) for n in os.listdir(work))
    pair.follower.unmount()
    changed = 0
    for i in range(0, files, 10):
        with open(os.path.join(work, f"f{i:04}"), "r+b") as f:
            for _ in range(GIB // 10 // MIB):
                changed += f.write(os.urandom(MIB))
    # And more than the ring holds, in writes that go through it, so that the stream cannot go on.
    blob = os.urandom(64 << 10)
    ring = pair.leader.status()["journal"]["ring_bytes"]
    fd = os.open(os.path.join(work, "ring"), os.O_RDWR | os.O_CREAT)
    for _ in range(ring // len(blob) * 11 // 10):
        os.pwrite(fd, blob, 0)
        os.fdatasync(fd)
    os.close(fd)
    pair.leader.settle()
    drop_caches()
    began = time.monotonic()
    pair.follower.mount()
    pair.caught_up()
    took = time.monotonic() - began
    moved = pair.follower.peer("leader")["resync_bytes"]
    print(f"resync             volume {total / GIB:.2f} GiB, changed {changed / GIB:.2f} GiB, moved {moved / GIB:.2f} GiB in {took:.1f} s")
    return {"total": total, "changed": changed, "moved": moved, "seconds": took}


def join(pair, options):
    """A new follower of a volume with many small files."""
    work = os.path.join(pair.leader.mount_point, "join")
    os.makedirs(work, exist_ok=True)
    began = time.monotonic()
    for d in range(-(-options.files // 1000)):
        os.makedirs(os.path.join(work, f"d{d:05}"), exist_ok=True)
        for i in range(min(1000, options.files - d * 1000)):
            with open(os.path.join(work, f"d{d:05}", f"f{i:04}"), "wb") as f:
                f.write(b"%d" % i * 100)
    made = time.monotonic() - began
    pair.settle()
    late = Node(pair.leader.clawfs, pair.work, "late")
    try:
        began = time.monotonic()
        pair.join(late)
        took = time.monotonic() - began
        rss = late.status()["memory"]["resident_bytes"]
    finally:
        late.stop()
    print(f"join               {options.files} files made in {made:.1f} s, joined in {took:.1f} s; joiner resident {rss / MIB:.0f} MiB")
    return {"files": options.files, "made_seconds": made, "seconds": took, "resident_bytes": rss}


ROWS = {"cost": cost, "latency": latency, "lag": lag, "resync": resync, "join": join}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clawfs", required=True, metavar="PROGRAM")
    parser.add_argument("--dir", required=True, metavar="DIR", help="where to work: on the disk to be measured")
    parser.add_argument("--follower-dir", metavar="DIR", help="where the follower works (default: --dir)")
    parser.add_argument("--rows", type=lambda t: t.split(","), default=["cost", "latency", "lag"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--lag-seconds", type=float, default=15)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--gib", type=int, default=1)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if set(options.rows) - set(ROWS):
        parser.error("rows are " + ", ".join(ROWS))
    os.makedirs(options.dir, exist_ok=True)
    work = tempfile.mkdtemp(prefix="clawfs-replication-", dir=os.path.abspath(options.dir))
    follower_work = tempfile.mkdtemp(prefix="clawfs-replication-", dir=options.follower_dir) if options.follower_dir else work
    pair = None
    try:
        pair = Pair(os.path.abspath(options.clawfs), work, follower_work)
        result = {name: ROWS[name](pair, options) for name in ROWS if name in options.rows}
    except (RuntimeError, OSError) as e:
        say(f"failed: {e}")
        return 1
    finally:
        if pair:
            pair.close()
        for directory in (work, follower_work):
            shutil.rmtree(directory, ignore_errors=True)
    if options.json:
        with open(options.json, "w") as f:
            json.dump(result, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
