#!/usr/bin/env python3
"""Cold files against the tools people use: the same bytes to and from the same radosgw, in memory on this machine.

  tiering.py --clawfs BUILD/fs/cli/clawfs --dir DIR           all rows, three runs of each
  tiering.py ... --rows out,in,stream,small --runs 1          only these, so often
  tiering.py ... --mib 1024 --files 10000                     size of the large file, number of small ones (10 KiB each)

  out, in    a file aged out, and read cold from end to end, in MiB/s; curl uploads and downloads the same file as one object
  stream     the same read where what is fetched is not kept (clawfs.recall=stream)
  small      files of 10 KiB aged out, and all of them recalled, in files/s; rclone (and s3cmd, --s3cmd) copy them to and from a bucket

Client, server and filesystem share this machine's processors.  Sides alternate; medians count.  --json FILE keeps all samples.
Exit status: 0 done, 1 something failed, 2 usage.
"""

import argparse
import json
import os
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


def timed(work, *args):
    began = time.monotonic()
    work(*args)
    return time.monotonic() - began


class Bench:
    def __init__(self, args, work, server, mount):
        self.args, self.work, self.server, self.mount = args, work, server, mount
        self.samples = {}
        server.client.make_bucket("plain")
        self.big = os.path.join(work, "big")
        # Bytes that do not compress, as archives and media are.
        with open(self.big, "wb") as f:
            for _ in range(args.mib):
                f.write(os.urandom(MIB))

    def keep(self, row, side, value):
        self.samples.setdefault(row, {}).setdefault(side, []).append(value)
        say("%s %s: %.1f" % (row, side, value))

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
        """A copy of the large file on the mount, settled; removed objects do not matter: the server has memory enough for one."""
        path = os.path.join(self.mount.mnt, "big")
        shutil.copyfile(self.big, path)
        os.setxattr(path, "clawfs.recall", mode)
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        self.mount.settle()
        return path

    def big_rows(self, mode):
        drop_caches()
        with open(self.big, "rb") as f:  # both sides read what is in memory
            while f.read(MIB):
                pass
        row_in = "in" if mode == b"cache" else "stream"
        self.keep("out", "curl", self.args.mib / timed(self.curl_put))
        self.keep(row_in, "curl", self.args.mib / timed(self.curl_get))
        self.server.client.request("DELETE", "/plain/big")
        path = self.fresh(mode)
        self.keep("out", "clawfs", self.args.mib / timed(self.mount.tier, "evict", path))
        drop_caches()
        self.keep(row_in, "clawfs", self.args.mib / timed(self.read, path))
        os.unlink(path)
        self.mount.settle()
        self.empty_store()

    def empty_store(self):
        """The grace time is not waited for: memory of the server would fill."""
        os.setxattr(self.mount.mnt, "clawfs.tier.scan", b"1")

    def small_row(self):
        n = self.args.files
        top, plain, back = (os.path.join(self.mount.mnt, "small"), os.path.join(self.work, "small"), os.path.join(self.work, "back"))
        for d in (top, plain):
            os.makedirs(d)
            for i in range(n):
                with open(os.path.join(d, "%05d" % i), "wb") as f:
                    f.write(os.urandom(10240))
        self.mount.settle()
        self.keep("small out", "clawfs", n / timed(self.mount.tier, "evict", top))
        drop_caches()
        self.keep("small in", "clawfs", n / timed(self.mount.tier, "recall", top))
        self.mount.tier("evict", top)
        drop_caches()
        self.keep("small read", "clawfs", n / timed(lambda: [self.read(os.path.join(top, "%05d" % i)) for i in range(n)]))
        remote = ":s3,provider=Ceph,endpoint='%s',access_key_id=%s,secret_access_key=%s:plain/small" % (
            self.server.endpoint, self.server.access_key, self.server.secret_key)
        rclone = ("rclone", "--config", "/dev/null", "--transfers", "16", "--checkers", "16", "copy")
        self.keep("small out", "rclone", n / timed(run, *rclone, plain, remote))
        took = timed(run, *rclone, remote, back)
        self.keep("small in", "rclone", n / took)
        self.keep("small read", "rclone", n / took)
        for d in (top, plain, back):
            shutil.rmtree(d)

    def report(self):
        print("%-12s %12s %12s %8s  %s" % ("row", "clawfs", "other", "ratio", "other"))
        for row, sides in self.samples.items():
            ours = statistics.median(sides["clawfs"])
            for side, values in sides.items():
                if side != "clawfs":
                    theirs = statistics.median(values)
                    print("%-12s %12.1f %12.1f %8.2f  %s" % (row, ours, theirs, ours / theirs, side))


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
        with servers.RadosGW() as server:
            mount = Mount(args.clawfs, work, server)
            try:
                bench = Bench(args, work, server, mount)
                rows = args.rows.split(",")
                for _ in range(args.runs):
                    if "in" in rows or "out" in rows:
                        bench.big_rows(b"cache")
                    if "stream" in rows:
                        bench.big_rows(b"stream")
                    if "small" in rows:
                        bench.small_row()
                bench.report()
                if args.json:
                    with open(args.json, "w") as f:
                        json.dump(bench.samples, f, indent=1)
            finally:
                mount.close()
    except (RuntimeError, OSError) as e:
        say("failed: %s" % e)
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
