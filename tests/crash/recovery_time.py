"""recovery_time: a mount after kill -9 takes a time that the journal bounds, and the number of files does not (guarantee G5).

A ring of 256 MiB is filled with data that has no home yet and with metadata, the daemon is killed, and the recovery that the
next mount reports is held against 1 s and 2 s per GiB replayed; once more after another kill -9 right after it.  Then a clean
unmount, after which recovery takes less than 100 ms.  Last, mounts of a volume with 100 and with 50,000 files.  Bounds of time
are three times as wide as promised, for a machine that does other things too.

    recovery_time.py [--seed N] [--files N]
"""

import argparse
import mmap
import os
import random
import stat
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "integration")]
import clawfs_env  # noqa: E402

MIB, GIB = 1 << 20, 1 << 30
RING = 256 * MIB
CHUNK = 64 << 10  # the largest write that travels in the journal
FILL = RING * 2 // 5  # a checkpoint begins at half a ring
MARGIN = 3
FEW = 100


class Mismatch(Exception):
    pass


def expect(condition, text):
    if not condition:
        raise Mismatch(text)


def timed_mount(volume, *options):
    began = time.monotonic()
    volume.mount(*options)
    return time.monotonic() - began


def recovery(volume):
    r = volume.status()["recovery"]
    return r, r["nanoseconds"] / 1e9


class Journal:
    """A volume whose ring is full of what only the ring has."""

    def __init__(self, tmp, rng):
        self.rng = rng
        self.volume = clawfs_env.Volume(tmp, "journal")
        self.blocks = {}  # of the data file, by number: the byte it is full of
        self.names = 0

    def fill(self):
        v = self.volume
        v.format(journal_size="256M", segment_size="16M", chunk_size="256M")
        v.mount("checkpoint=300")
        page = mmap.mmap(-1, CHUNK)  # aligned, as O_DIRECT wants it
        fd = os.open(v.path("data"), os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        try:
            while v.status()["journal"]["used_bytes"] < FILL:
                for _ in range(64):
                    self.write(fd, page)
                for _ in range(32):
                    self.names += 1
                    os.mknod(v.path("name.%d" % self.names), stat.S_IFREG | 0o600)
            os.fsync(fd)
        finally:
            os.close(fd)
        self.verify()
        v.kill9()

    def write(self, fd, page):
        no, byte = self.rng.randrange(FILL // CHUNK), self.rng.randrange(256)
        page[:] = bytes([byte]) * CHUNK
        if os.pwrite(fd, page, no * CHUNK) != CHUNK:
            raise Mismatch("a short write")
        self.blocks[no] = byte

    def verify(self):
        v = self.volume
        with open(v.path("data"), "rb") as f:
            for no in self.rng.sample(sorted(self.blocks), 64):
                f.seek(no * CHUNK)
                expect(f.read(CHUNK) == bytes([self.blocks[no]]) * CHUNK, "block %d of the data differs" % no)
        names = sum(n.startswith("name.") for n in os.listdir(v.mnt))
        expect(names == self.names, "%d names of %d" % (names, self.names))

    def after_kill9(self, what):
        wall = timed_mount(self.volume, "checkpoint=300")
        r, seconds = recovery(self.volume)
        bound = (1 + 2 * r["bytes"] / GIB) * MARGIN
        print("%s: %d MiB, %d records replayed in %.0f ms (promised: %.0f ms), mounted in %.0f ms"
              % (what, r["bytes"] // MIB, r["records"], seconds * 1000, bound / MARGIN * 1000, wall * 1000), flush=True)
        expect(not r["was_clean"], what + ": the volume says it was clean")
        expect(r["bytes"] > FILL * 3 // 4, what + ": the journal was not full enough to tell")
        expect(seconds <= bound, what + ": recovery took %.2f s" % seconds)
        expect(wall <= bound, what + ": the mount took %.2f s" % wall)

    def run(self):
        self.fill()
        self.after_kill9("after kill -9")
        self.volume.kill9()
        self.after_kill9("again")
        self.verify()
        self.volume.umount()
        wall = timed_mount(self.volume)
        r, seconds = recovery(self.volume)
        print("after a clean unmount: %.1f ms, mounted in %.0f ms" % (seconds * 1000, wall * 1000), flush=True)
        expect(r["was_clean"], "the volume was unmounted and says it was not")
        expect(seconds <= 0.1 * MARGIN, "recovery of a clean volume took %.2f s" % seconds)
        self.verify()
        self.volume.umount()
        self.volume.fsck()


def grow(volume, have, want):
    for n in range(have, want):
        if n % 1000 == 0:
            os.mkdir(volume.path("d%d" % (n // 1000)))
        os.mknod(volume.path("d%d" % (n // 1000), "f%d" % n), stat.S_IFREG | 0o600)


def best_mount(volume):
    """The quicker of three mounts, each after a clean unmount."""
    times = []
    for _ in range(3):
        volume.umount()
        times.append(timed_mount(volume))
    return min(times)


def many_files(tmp, n_files):
    volume = clawfs_env.Volume(tmp, "files")
    try:
        volume.format()
        volume.mount()
        grow(volume, 0, FEW)
        few = best_mount(volume)
        grow(volume, FEW, n_files)
        many = best_mount(volume)
        print("mount with %d files %.0f ms, with %d files %.0f ms" % (FEW, few * 1000, n_files, many * 1000), flush=True)
        expect(many <= few * 3 + 0.2, "the time of a mount grows with the number of files")
    except Exception:
        print("the daemon said:\n" + volume.messages()[-6000:], file=sys.stderr)
        raise
    finally:
        volume.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED") or 1))
    parser.add_argument("--files", type=int, default=50000)
    args = parser.parse_args()
    print("SEED=%d" % args.seed, flush=True)
    with tempfile.TemporaryDirectory(prefix="clawfs-recovery-", dir=os.environ.get("CLAWFS_TEST_DIR")) as tmp:
        journal = Journal(tmp, random.Random(args.seed))
        try:
            journal.run()
        except Exception:
            print("the daemon said:\n" + journal.volume.messages()[-6000:], file=sys.stderr)
            raise
        finally:
            journal.volume.close()
        many_files(tmp, args.files)
    print("ok")


if __name__ == "__main__":
    main()
