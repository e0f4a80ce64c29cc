"""A directory of many entries: readdir neither skips nor repeats while others come and go; then it empties.

200,000 entries; ENTRIES=1000000 makes it a million.
"""

import ctypes
import os
import random
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clawfs_env  # noqa: E402
from programs import ProgramTest, main  # noqa: E402

ENTRIES = int(os.environ.get("ENTRIES", 200000))


def in_two_processes(work):
    """work(0) and work(1) at once; both must end well."""
    pids = []
    for half in range(2):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work(half)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids), "a child failed"


class BigDirectory(ProgramTest):
    def test_readdir_is_exact_under_change(self):
        rng = random.Random(clawfs_env.seed())
        place = self.place()
        d = place + "/big"
        os.mkdir(d)
        began = time.monotonic()

        def create(half):
            os.chdir(d)
            for i in range(half, ENTRIES, 2):
                # A hard link is the cheapest entry; every tenth is a file of its own.
                if i % 10 == half:
                    os.close(os.open("keep%07d" % i, os.O_CREAT | os.O_WRONLY, 0o600))
                else:
                    os.symlink("x", "keep%07d" % i)
        in_two_processes(create)
        created = time.monotonic() - began
        expected = {"keep%07d" % i for i in range(ENTRIES)}
        began = time.monotonic()
        self.assertEqual(set(os.listdir(d)), expected)
        listed = time.monotonic() - began
        self.remount()
        began = time.monotonic()
        seen = [e.name for e in os.scandir(d)]
        cold = time.monotonic() - began
        self.assertEqual(len(seen), len(expected))
        self.assertEqual(set(seen), expected)

        # While one reads, another adds, renames and removes entries that are not among the expected.
        for i in range(2000):
            os.symlink("x", d + "/go%d" % i)
        stop = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.set_blocking(stop[0], False)
                self.churn(d, rng, stop[0])
            finally:
                os._exit(0)
        for _ in range(3):
            seen = [e.name for e in os.scandir(d)]
            kept = [n for n in seen if n.startswith("keep")]
            self.assertEqual(len(kept), len(set(kept)), "shown twice")
            self.assertEqual(set(kept), expected, "skipped")
            others = [n for n in seen if not n.startswith("keep")]
            self.assertEqual(len(others), len(set(others)), "shown twice")
        os.write(stop[1], b"x")
        os.waitpid(pid, 0)

        began = time.monotonic()
        names = os.listdir(d)

        def remove(half):
            os.chdir(d)
            for n in names[half::2]:
                os.unlink(n)
        in_two_processes(remove)
        self.assertEqual(os.listdir(d), [])
        os.rmdir(d)
        print("%d entries: created in %.1f s, listed in %.2f s, listed cold in %.2f s, removed in %.1f s"
              % (ENTRIES, created, listed, cold, time.monotonic() - began), file=sys.stderr)
        self.finish()

    @staticmethod
    def churn(d, rng, stop):
        i = 0
        while True:
            try:
                os.read(stop, 1)
                return
            except BlockingIOError:
                pass
            os.symlink("x", d + "/new%d" % i)
            os.rename(d + "/new%d" % i, d + "/moved%d" % i)
            if i < 2000:
                os.unlink(d + "/go%d" % i)
            if i >= 50 and rng.random() < 0.9:
                try:
                    os.unlink(d + "/moved%d" % (i - 50))
                except FileNotFoundError:
                    pass
            i += 1

    def test_telldir_and_seekdir_come_back_to_the_same_place(self):
        place = self.place()
        for i in range(2000):
            os.symlink("x", place + "/e%d" % i)
        libc = ctypes.CDLL(None)
        libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
        libc.telldir.restype = ctypes.c_long
        libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
        for f in (libc.readdir, libc.telldir, libc.closedir):
            f.argtypes = [ctypes.c_void_p]
        stream = libc.opendir(place.encode())

        def following():
            e = libc.readdir(stream)
            return ctypes.string_at(e + 19) if e else None
        places = []
        while True:
            at, name = libc.telldir(stream), following()
            if not name:
                break
            places.append((at, name))
        self.assertEqual(len(places), 2002)
        for at, name in random.Random(clawfs_env.seed()).sample(places, 200):
            libc.seekdir(stream, at)
            self.assertEqual(following(), name)
        libc.closedir(stream)
        self.finish()


if __name__ == "__main__":
    main()
