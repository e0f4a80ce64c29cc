#!/usr/bin/env python3
"""Cold files against the tools people use: the same bytes to and from the same radosgw, in memory on this machine.

  tiering.py --clawfs BUILD/fs/cli/clawfs --dir DIR           all rows, three runs of each
  tiering.py ... --rows out,in,stream,small --runs 1          only these, so often
  tiering.py ... --mib 1024 --files 10000                     size of the large file, number of small ones (10 KiB each)

  out, in    a file aged out, and read cold from end to end, in MiB/s; curl uploads and downloads the same file as one object
  stream     the same read where what is fetched is not kept (clawfs.recall=stream)
  small      files of 10 KiB aged out, all of them recalled, and read one after the other, cold ("read") and local ("hot": the most
             that this way of reading gives), in files/s; rclone copies them to and from a bucket

Client, server and filesystem share this machine's processors.  Sides alternate; medians count.  Beside the rates stand seconds of
processor time, of the client (curl, rclone, or the daemon and who asks it) and of the server, for the whole of the file or of the
files: they say where time goes, and hardly depend on what else the machine does.  --json FILE keeps all samples.
Exit status: 0 done, 1 something failed, 2 usage.
"""

import argparse
import json
import mmap
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "tier"))

import servers
from sides import drop_caches, is_mounted, wait_until

MIB = 1 << 20


def say(text):
    print("tiering: " + text, file=sys.stderr, flush=True)


# Certificates named here are for others than this server, and rclone refuses to start with them.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}


def run(*args, **kwargs):
    r = subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       env=ENVIRONMENT, **kwargs)
    if r.returncode:
        raise RuntimeError("%s: exit %d: %s" % (" ".join(map(str, args)), r.returncode, r.stderr[-1000:]))
    return r.stdout


class Mount:
    def __init__(self, clawfs, work, server):
        self.clawfs, self.store, self.mnt = clawfs, os.path.join(work, "store"), os.path.join(work, "mnt")
        os.makedirs(self.mnt)
        run(clawfs, "format", self.store)
        self.process = subprocess.Popen([clawfs, "mount", "--foreground", self.store, self.mnt], stderr=open(os.path.join(work, "log"), "w"))
        wait_until(lambda: is_mounted(self.mnt) and self.status(), 60, "the mount")
        server.client.make_bucket("clawfs")
        run(clawfs, "tier", "add", "s3", "s3://clawfs", self.mnt, "--endpoint", server.endpoint, "--path-style", "--credentials",
            server.credentials)
        os.setxattr(self.mnt, "clawfs.tier", b"after=1d min=4K store=s3")

    def status(self):
        try:
            return json.loads(os.getxattr(self.mnt, "clawfs.status"))
        except OSError:
            return None

    def settle(self):
        os.setxattr(self.mnt, "clawfs.sync", b"1")
        wait_until(lambda: self.status()["homer"]["backlog_bytes"] == 0, 120, "background work to end")
        os.setxattr(self.mnt, "clawfs.checkpoint", b"1")

    def tier(self, verb, path):
        run(self.clawfs, "tier", verb, path)

    def close(self):
        subprocess.run([self.clawfs, "umount", self.mnt], stderr=subprocess.DEVNULL)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        subprocess.run(["umount", "-l", self.mnt], stderr=subprocess.DEVNULL)


def forget(path):
    """Out of the page cache with it."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


class Cost:
    """Seconds that some work took: of the clock, and of processors, by whom it was done."""

    def __init__(self, daemons, servers_):
        self.daemons, self.servers, self.before = daemons, servers_, None

    @staticmethod
    def of_processes(pids):
        ticks = 0
        for pid in pids:
            with open("/proc/%d/stat" % pid) as f:
                fields = f.read().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def now(self):
        own, children = os.times(), resource.getrusage(resource.RUSAGE_CHILDREN)
        client = own.user + own.system + children.ru_utime + children.ru_stime + self.of_processes(self.daemons)
        return time.monotonic(), client, self.of_processes(self.servers)

    def of(self, work, *args):
        before = self.now()
        work(*args)
        return [b - a for a, b in zip(before, self.now())]


class Bench:
    def __init__(self, args, work):
        self.args, self.work = args, work
        self.server = self.mount = None
        self.samples = {}
        self.big = os.path.join(work, "big")
        # Bytes that do not compress, as archives and media are.
        with open(self.big, "wb") as f:
            for _ in range(args.mib):
                f.write(os.urandom(MIB))

    def run_group(self, group, order):
        """Each side has a server of its own: one keeps what was removed for hours, and the more it holds the slower it is."""
        mode = b"stream" if group == "stream" else b"cache"
        for side in order:
            work = tempfile.mkdtemp(dir=self.work)
            with servers.RadosGW() as self.server:
                self.server.client.make_bucket("plain")
                try:
                    if side == "clawfs":
                        self.mount = Mount(self.args.clawfs, work, self.server)
                        self.small_clawfs() if group == "small" else self.big_clawfs(mode)
                    else:
                        self.small_rclone(work) if group == "small" else self.big_curl(mode)
                finally:
                    if self.mount:
                        self.mount.close()
                    self.mount = None
                    shutil.rmtree(work, ignore_errors=True)

    def measure(self, row, side, units, work, *args):
        """One sample: units a second, and seconds of processor time."""
        wall, client, server = Cost([self.mount.process.pid] if side == "clawfs" else [], self.server.pids()).of(work, *args)
        self.keep(row, side, units / wall, client, server)

    def keep(self, row, side, rate, client, server):
        self.samples.setdefault(row, {}).setdefault(side, []).append({"rate": rate, "client_s": client, "server_s": server})
        say("%s %s: %.1f, processor seconds: client %.2f, server %.2f" % (row, side, rate, client, server))

    def curl(self, *args):
        s = self.server
        run("curl", "--fail", "--silent", "--show-error", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user",
            "%s:%s" % (s.access_key, s.secret_key), *args)

    def curl_put(self):
        self.curl("--upload-file", self.big, "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", self.server.endpoint + "/plain/big")

    def curl_get(self):
        self.curl("-o", "/dev/null", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", self.server.endpoint + "/plain/big")

    def read(self, path):
        with open(path, "rb", buffering=0) as f:
            while f.read(MIB):
                pass

    def fresh(self, mode):
        """A copy of the large file on the mount, settled."""
        path = os.path.join(self.mount.mnt, "big")
        shutil.copyfile(self.big, path)
        os.setxattr(path, "clawfs.recall", mode)
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        self.mount.settle()
        return path

    def warm_up(self):
        """What both sides find: the large file in memory, and free memory that was used lately.

        A virtual machine that gives free memory back to its host pays for the first touch of each page as much as for hashing it.
        """
        with open(self.big, "rb") as f:
            while f.read(MIB):
                pass
        with mmap.mmap(-1, 3 * self.args.mib * MIB) as m:
            for at in range(0, len(m), mmap.PAGESIZE):
                m[at] = 1

    def big_curl(self, mode):
        self.warm_up()
        self.measure("out", "curl", self.args.mib, self.curl_put)
        self.measure("stream" if mode == b"stream" else "in", "curl", self.args.mib, self.curl_get)

    def big_clawfs(self, mode):
        path = self.fresh(mode)
        self.warm_up()
        self.measure("out", "clawfs", self.args.mib, self.mount.tier, "evict", path)
        forget(path)
        self.measure("stream" if mode == b"stream" else "in", "clawfs", self.args.mib, self.read, path)

    def read_all(self, top):
        for i in range(self.args.files):
            self.read(os.path.join(top, "%05d" % i))

    def make_small(self, top):
        os.makedirs(top)
        for i in range(self.args.files):
            with open(os.path.join(top, "%05d" % i), "wb") as f:
                f.write(os.urandom(10240))

    def small_clawfs(self):
        n, top = self.args.files, os.path.join(self.mount.mnt, "small")
        self.make_small(top)
        self.mount.settle()
        self.warm_up()
        self.measure("small out", "clawfs", n, self.mount.tier, "evict", top)
        drop_caches()
        self.measure("small in", "clawfs", n, self.mount.tier, "recall", top)
        self.mount.tier("evict", top)
        drop_caches()
        self.measure("small read", "clawfs", n, self.read_all, top)
        self.mount.tier("recall", top)
        drop_caches()
        self.measure("small hot", "clawfs", n, self.read_all, top)

    def small_rclone(self, work):
        n, plain, back = self.args.files, os.path.join(work, "small"), os.path.join(work, "back")
        self.make_small(plain)
        self.warm_up()
        remote = ":s3,provider=Ceph,endpoint='%s',access_key_id=%s,secret_access_key=%s:plain/small" % (
            self.server.endpoint, self.server.access_key, self.server.secret_key)
        rclone = ("rclone", "--config", "/dev/null", "--transfers", "16", "--checkers", "16", "copy")
        self.measure("small out", "rclone", n, run, *rclone, plain, remote)
        self.measure("small in", "rclone", n, run, *rclone, remote, back)
        for row in ("small read", "small hot"):
            self.samples.setdefault(row, {}).setdefault("rclone", []).append(self.samples["small in"]["rclone"][-1])

    def report(self):
        print("%-12s %10s %10s %7s  %-8s %-24s %s" % ("row", "clawfs", "other", "ratio", "other", "processor s, clawfs", "other"))
        for row, sides in self.samples.items():
            middle = {side: {k: statistics.median(s[k] for s in samples) for k in samples[0]} for side, samples in sides.items()}
            ours = middle.pop("clawfs")
            for side, theirs in middle.items():
                print("%-12s %10.1f %10.1f %7.2f  %-8s %-24s %s" % (
                    row, ours["rate"], theirs["rate"], ours["rate"] / theirs["rate"], side,
                    *("client %.2f server %.2f" % (m["client_s"], m["server_s"]) for m in (ours, theirs))))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--clawfs", required=True)
    p.add_argument("--dir", required=True)
    p.add_argument("--rows", default="in,stream,small")
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--mib", type=int, default=1024)
    p.add_argument("--files", type=int, default=10000)
    p.add_argument("--json")
    args = p.parse_args()
    work = tempfile.mkdtemp(prefix="clawfs-bench-", dir=args.dir)
    try:
        bench = Bench(args, work)
        groups = [g for g in ("in", "stream", "small") if g in args.rows.split(",") or (g == "in" and "out" in args.rows.split(","))]
        for i in range(args.runs):
            for group in groups:
                bench.run_group(group, ("clawfs", "other") if i % 2 else ("other", "clawfs"))
        bench.report()
        if args.json:
            with open(args.json, "w") as f:
                json.dump(bench.samples, f, indent=1)
    except (RuntimeError, OSError) as e:
        say("failed: %s" % e)
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
