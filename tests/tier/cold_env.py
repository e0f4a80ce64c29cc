"""cold_env: a mounted volume with an S3 store, and words for tests about its cold files.

    with fake_s3.FakeS3() as s:
        v = ColdVolume(tmp, s)           # formatted, mounted, everything under one policy, store "cold"
        v.put("f", b"x")                 # writes it, and v.model remembers what it holds
        v.evict("f")                     # out, and out of the kernel's memory
        v.check()                        # every file is what v.model says
        v.check_bucket()                 # what is there and no row knows is found by gc; afterwards nothing is

`s` is a FakeS3, RadosGW or Swift, with a bucket "cold".  main() runs the calling module's tests several at once: they mostly wait.
"""

import concurrent.futures
import os
import re
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
import clawfs_env  # noqa: E402
from clawfs_env import EXIT_OK, Failed, Volume, cli, wait_for  # noqa: E402

import fake_s3  # noqa: E402

HEAL_SECONDS = 90  # until a store that works again is in use again, on a busy machine
POLICY = "after=1000d min=4K store=cold"


def forget(path):
    """The kernel keeps no page of the file, or of any file below the directory."""
    names = [os.path.join(base, n) for base, _, files in os.walk(path) for n in files] if os.path.isdir(path) else [path]
    for name in names:
        fd = os.open(name, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def add_store(v, server, *options, credentials=None, check=EXIT_OK):
    """`clawfs tier add` of the bucket "cold" at `server`, with credentials of its own file unless given."""
    if credentials is None:
        credentials = os.path.join(v.dir, "keys")
        fake_s3.write_credentials(credentials, server.access_key, server.secret_key)
    return cli("tier", "add", "cold", "s3://cold/vol", v.mnt, "--endpoint", server.endpoint, "--path-style", "--credentials",
               credentials, *options, check=check)


def state(v, name):
    return os.getxattr(v.path(name), "clawfs.tier.state").decode()


def scan(v):
    """Looks now for what is cold, mostly dead or dead."""
    os.setxattr(v.mnt, "clawfs.tier.scan", b"1")


def store_status(v):
    return v.status()["tier"]["stores"]["cold"]


def gc(v, *options):
    """(listed, orphans, removed, missing) of `clawfs gc`."""
    out = cli("gc", *options, v.mnt, check=EXIT_OK).stdout
    m = re.search(r"(\d+) objects listed, (\d+) orphans \(\d+ bytes\), (\d+) removed, (\d+) missing", out)
    return tuple(int(n) for n in m.groups())


class ColdVolume(Volume):
    def __init__(self, tmpdir, server, *options, name="volume", mount=(), mounted=True, **format_options):
        super().__init__(tmpdir, name)
        self.server, self.model = server, {}
        if mounted:
            self.format(**format_options)
            self.mount(*mount)
            self.add_store(*options)

    def add_store(self, *options):
        add_store(self, self.server, *options)
        os.setxattr(self.mnt, "clawfs.tier", POLICY.encode())

    def put(self, name, data, sync=False):
        self.write(name, data, sync)
        self.model[name] = bytes(data)

    def evict(self, name=".", check=EXIT_OK):
        r = cli("tier", "evict", self.path(name), check=check, timeout=300)
        forget(self.path(name))
        return r

    def is_cold(self, *names):
        return all(state(self, n) == "cold" for n in names)

    def becomes_cold(self, *names):
        """Without help, and then it is out of the kernel's memory as well."""
        wait_for("%s to be cold" % (names,), lambda: self.is_cold(*names), HEAL_SECONDS, 0.1)
        for n in names:
            forget(self.path(n))

    def reads(self, name):
        """Whether the file is there and right; wrong bytes are never only False."""
        try:
            data = self.read(name)
        except OSError:
            return False
        if data != self.model[name]:
            raise Failed("%s has wrong bytes" % name)
        return True

    def check(self):
        there = sorted(os.path.relpath(os.path.join(base, n), self.mnt) for base, _, files in os.walk(self.mnt) for n in files)
        if there != sorted(self.model):
            raise Failed("files %s, expected %s" % (there, sorted(self.model)))
        for name in there:
            if self.read(name) != self.model[name]:
                raise Failed("%s has wrong bytes" % name)

    def log_since(self, at=0):
        return self.messages()[at:]

    def packs(self):
        """Keys of the packs in the fake's bucket."""
        with self.server.lock:
            return sorted(k for k in self.server.buckets["cold"] if k.startswith("vol/packs/"))

    def check_bucket(self, settle=0.1):
        """Every row's object is there, and gc finds and removes all that no row knows; needs a FakeS3 and a grace of 0 s."""
        time.sleep(settle)
        listed, orphans, _, missing = gc(self, "--dry-run")
        if len(self.packs()) != listed or missing:
            raise Failed("%d of %d objects listed, %d missing" % (listed, len(self.packs()), missing))
        removed = gc(self)[2]
        rows = store_status(self)["objects"]
        if removed != orphans or len(self.packs()) != listed - orphans or rows != listed - orphans:
            raise Failed("%d listed, %d orphans, %d removed, %d left, %d rows" % (listed, orphans, removed, len(self.packs()), rows))
        if gc(self, "--dry-run") != (rows, 0, 0, 0):
            raise Failed("orphans after gc")
        return orphans


class AtOnce(unittest.TestSuite):
    """Runs its tests, which have nothing in common but the host, in some threads."""

    THREADS = 4

    def all(self):
        for t in self:
            yield from t.all() if isinstance(t, AtOnce) else (t,)

    def run(self, result, debug=False):
        def one(test):
            own, began = unittest.TestResult(), time.monotonic()
            test.run(own)
            return test, own, time.monotonic() - began

        with concurrent.futures.ThreadPoolExecutor(self.THREADS) as pool:
            for done in concurrent.futures.as_completed([pool.submit(one, t) for t in self.all()]):
                test, own, seconds = done.result()
                word = "ok" if own.wasSuccessful() else "FAILED"
                print("%s ... %s, %.1f s" % (test.id(), word, seconds), file=sys.stderr, flush=True)
                result.testsRun += own.testsRun
                for kind in ("errors", "failures", "skipped", "unexpectedSuccesses"):
                    getattr(result, kind).extend(getattr(own, kind))
        return result


def main():
    unittest.defaultTestLoader.suiteClass = AtOnce
    clawfs_env.main()
