"""What is measured: groups of rows that share one set of files.

A group lays its files out once a side (prepare) and is sampled several times, alternating between the sides.  A sample is
{row: {"rate": ..., ...}}; a rate is always "more is better".  Nothing but the work itself is timed: whatever a row needs
before (files, caches filled or dropped, background work finished) happens outside the clock.

What many small files are deleted by (remove) runs only after every group has been sampled, and what a group leaves behind stays
to the end: ext4 does not reuse an inode for minutes after it was freed, and looks at each such inode again whenever it creates a
file.  A run that deleted as it went would measure that on the host: creating a file was 5 to 10 times slower.
"""

import io
import json
import math
import os
import random
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
import time

MIB = 1 << 20
JOBS = (1, 8, 32)
FILES_PER_PART = 2500  # of the archive: files in one directory of the first level


class Sizes:
    """How much work a sample is: about two seconds on an SSD in a full run, a quarter of that in a quick one."""

    def __init__(self, quick):
        self.file_mib = 256 if quick else 1024
        self.seconds = 0.5 if quick else 2.0
        self.random_file_mib = 8 if quick else 32
        self.buffered_file_mib = 64 if quick else 256
        self.files = 5_000 if quick else 20_000
        self.opens = 50_000 if quick else 200_000
        self.tar_files = 5_000 if quick else 50_000
        self.list_files = 20_000 if quick else 100_000

    def as_dict(self):
        return dict(vars(self))


class Row:
    def __init__(self, name, title, unit, target=None):
        self.name = name
        self.title = title
        self.unit = unit
        self.target = target  # least ratio to the host that the project set itself, or None


class Group:
    """Base of all groups; self.sizes and self.tools (directory of the C programs) are at hand."""

    rows = ()

    def __init__(self, sizes, tools):
        self.sizes = sizes
        self.tools = tools

    def directory(self, side):
        return os.path.join(side.root, type(self).__name__.lower())

    def run_directory(self, side, number):
        return os.path.join(self.directory(side), f"run{number}-{side.token}")

    def prepare(self, side):
        side.make_directory(self.directory(side))

    def sample(self, side, number):
        """One sample of each row that leaves its files; `number` counts from 0."""
        return {}

    def clean(self, side):
        """After the last sample: gives back what takes much space and is few files."""

    def remove(self, side, number):
        """One sample of each row that deletes files, those of sample(number) or its own."""
        return {}

    def close(self):
        """Releases what belongs to no side."""

    def bench_files(self, operation, directory, **options):
        os.makedirs(directory, exist_ok=True)
        command = [os.path.join(self.tools, "bench-files"), operation, directory]
        for name, value in options.items():
            flag = "--" + name.replace("_", "-")
            command += [flag] if value is True else [flag, str(value)]
        result = json.loads(run(command))
        return {"rate": result["operations"] / result["seconds"], **result}


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def timed(command):
    """Wall time of a command whose output goes to /dev/null."""
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds = time.monotonic() - start
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
    return seconds


def fio(direction, unit, **options):
    """One fio run of psync jobs, as threads; the rate of `direction` in MiB/s or operations a second."""
    command = ["fio", "--output-format=json", "--name=bench", "--ioengine=psync", "--thread", "--group_reporting",
               "--norandommap", "--invalidate=0", "--fallocate=none"]
    command += [f"--{name}={value}" for name, value in options.items()]
    output = run(command)
    job = json.loads(output[output.index("{"):])["jobs"][0]
    if job["error"]:
        raise RuntimeError(f"{' '.join(command)}: error {job['error']}")
    data = job[direction]
    latency = job["sync"]["lat_ns"] if job["sync"]["total_ios"] else data["clat_ns"]
    percentile = {key: value / 1000 for key, value in latency.get("percentile", {}).items()}
    return {
        "rate": data["bw_bytes"] / MIB if unit == "MiB/s" else data["iops"],
        "operations": data["total_ios"],
        "seconds": data["runtime"] / 1000,
        "p50_us": percentile.get("50.000000"),
        "p99_us": percentile.get("99.000000"),
    }


def write_file(path, mib, seed):
    """Lays a file out with data that does not compress, durably: its blocks are allocated and, in clawfs, at home."""
    chunk = random.Random(seed).randbytes(MIB)
    with open(path, "wb", buffering=0) as f:
        for _ in range(mib):
            f.write(chunk)
        os.fsync(f.fileno())


class Data(Group):
    """One large file: written, then read in order and at random, from the disk and from the page cache."""

    rows = (
        Row("seq-write", "sequential write 1 MiB, new file, fsync at the end", "MiB/s", 0.9),
        Row("seq-read-cold", "sequential read 1 MiB, cold", "MiB/s", 0.9),
        Row("seq-read-warm", "sequential read 1 MiB, warm", "MiB/s", 0.9),
        Row("rand-read-warm", "random read 4 KiB, warm", "/s", 0.9),
        Row("rand-read-cold", "random read 4 KiB, cold", "/s", 0.8),
    )

    def sample(self, side, number):
        path = os.path.join(self.directory(side), "file")
        size = f"{self.sizes.file_mib}m"
        if os.path.exists(path):
            os.unlink(path)
            side.settle()
        samples = {}
        samples["seq-write"] = fio("write", "MiB/s", filename=path, rw="write", bs="1m", size=size, end_fsync=1, create_on_open=1)
        side.make_cold()
        for name in ("seq-read-cold", "seq-read-warm"):
            samples[name] = fio("read", "MiB/s", filename=path, rw="read", bs="1m", size=size)
        random_read = {"filename": path, "rw": "randread", "bs": "4k", "size": size, "time_based": 1,
                       "runtime": milliseconds(self.sizes.seconds)}
        samples["rand-read-warm"] = fio("read", "/s", **random_read)
        side.make_cold()
        samples["rand-read-cold"] = fio("read", "/s", **random_read)
        return samples

    def clean(self, side):
        shutil.rmtree(self.directory(side))


class RandomWriteBuffered(Group):
    """Every block of a file about once, at random, and one fsync: what the page cache and writeback are worth."""

    rows = (Row("rand-write", "random write 4 KiB buffered, fsync at the end", "/s"),)

    def prepare(self, side):
        super().prepare(side)
        write_file(os.path.join(self.directory(side), "file"), self.sizes.buffered_file_mib, 1)

    def sample(self, side, number):
        path = os.path.join(self.directory(side), "file")
        size = f"{self.sizes.buffered_file_mib}m"
        return {"rand-write": fio("write", "/s", filename=path, rw="randwrite", bs="4k", size=size, end_fsync=1)}

    def clean(self, side):
        shutil.rmtree(self.directory(side))


class RandomWriteSync(Group):
    """4 KiB overwritten in place, each made durable, by jobs that each have a file: databases."""

    rows = tuple(
        Row(f"rand-write-fdatasync-{jobs}", f"random write 4 KiB + fdatasync, {jobs} job{'s' if jobs > 1 else ''}", "/s", target)
        for jobs, target in zip(JOBS, (0.8, 1.0, 1.1)))

    def prepare(self, side):
        super().prepare(side)
        for job in range(max(JOBS)):
            write_file(os.path.join(self.directory(side), f"file.{job}"), self.sizes.random_file_mib, job)

    def sample(self, side, number):
        samples = {}
        for jobs in JOBS:
            samples[f"rand-write-fdatasync-{jobs}"] = fio(
                "write", "/s", directory=self.directory(side), filename_format="file.$jobnum", rw="randwrite", bs="4k",
                size=f"{self.sizes.random_file_mib}m", fdatasync=1, numjobs=jobs, time_based=1,
                runtime=milliseconds(self.sizes.seconds))
            side.settle()
        return samples

    def clean(self, side):
        shutil.rmtree(self.directory(side))


class Append(Group):
    """A log: each 4 KiB makes the file longer and is made durable."""

    rows = (Row("append-fdatasync", "append 4 KiB + fdatasync", "/s", 1.0),)

    def sample(self, side, number):
        directory = self.run_directory(side, number)
        return {"append-fdatasync": self.bench_files("append", directory, seconds=self.sizes.seconds, size=4096)}


class CreateSync(Group):
    """New small files, each made durable: mail, queues, package managers."""

    rows = (
        Row("create-fsync-1", "create, write 4 KiB, fsync, close: 1 thread", "/s", 1.0),
        Row("create-fsync-8", "create, write 4 KiB, fsync, close: 8 threads", "/s", 5.0),
    )

    def sample(self, side, number):
        samples = {}
        for threads in (1, 8):
            directory = f"{self.run_directory(side, number)}-{threads}"
            samples[f"create-fsync-{threads}"] = self.bench_files(
                "create", directory, seconds=self.sizes.seconds, threads=threads, size=4096, fsync=True)
            side.settle()
        return samples


class Create(Group):
    """New small files without fsync: build trees, caches."""

    rows = (Row("create-write", "create, write 4 KiB, close, no fsync", "/s", 1.0),)

    def sample(self, side, number):
        return {"create-write": self.bench_files(
            "create", self.run_directory(side, number), count=self.sizes.files, size=4096)}


class Names(Group):
    """Empty files: what an operation on names alone costs."""

    rows = (
        Row("create", "create and close, empty, no fsync", "/s"),
        Row("stat", "stat, just created", "/s"),
        Row("unlink", "unlink, no fsync", "/s"),
    )

    def sample(self, side, number):
        samples = {}
        for operation in ("create", "stat"):
            samples[operation] = self._operate(side, number, operation)
            side.settle()
        return samples

    def remove(self, side, number):
        return {"unlink": self._operate(side, number, "unlink")}

    def _operate(self, side, number, operation):
        return self.bench_files(operation, self.run_directory(side, number), count=self.sizes.files)


class Open(Group):
    rows = (Row("open-read-close", "open, read 4 KiB, close of a cached file", "/s"),)

    def prepare(self, side):
        super().prepare(side)
        self.bench_files("create", self.directory(side), count=1, size=4096)

    def sample(self, side, number):
        return {"open-read-close": self.bench_files("open", self.directory(side), count=self.sizes.opens, size=4096)}


class List(Group):
    """The program ls, with what it asks of each entry: lstat and the ACL attributes."""

    rows = (Row("ls-cold", "ls -l of a large directory, cold", "entries/s", 1.5),)

    def prepare(self, side):
        super().prepare(side)
        self.bench_files("create", self.directory(side), count=self.sizes.list_files)

    def sample(self, side, number):
        side.make_cold()
        seconds = timed(["ls", "--color=never", "-l", os.path.join(self.directory(side), "00", "000000")])
        return {"ls-cold": {"rate": self.sizes.list_files / seconds, "seconds": seconds, "operations": self.sizes.list_files}}


class Tree(Group):
    """A source tree of small files out of an archive in memory, and its removal."""

    rows = (
        Row("untar", "tar -x of a tree of small files", "files/s", 0.5),
        Row("rm-rf", "rm -rf of that tree", "files/s"),
        Row("untar-again", "tar -x of a tenth of it where the tree was just deleted", "files/s"),
    )

    def __init__(self, sizes, tools):
        super().__init__(sizes, tools)
        self.scratch = tempfile.TemporaryDirectory(prefix="clawfs-bench-", dir="/dev/shm")
        self.archive = os.path.join(self.scratch.name, "tree.tar")
        make_archive(self.archive, sizes.tar_files)

    def sample(self, side, number):
        tree = self.run_directory(side, number)
        os.mkdir(tree)
        return {"untar": self._sample(self._untar(tree), self.sizes.tar_files)}

    def remove(self, side, number):
        tree = self.run_directory(side, number)
        parts = [f"part{i:02d}" for i in range(max(1, self.sizes.tar_files // 10 // FILES_PER_PART))]
        old = [os.path.join(tree, name) for name in os.listdir(tree)]
        samples = {"rm-rf": self._sample(["rm", "-rf", *old], self.sizes.tar_files)}
        side.settle()
        samples["untar-again"] = self._sample([*self._untar(tree), *parts], len(parts) * FILES_PER_PART)
        return samples

    def close(self):
        self.scratch.cleanup()

    def _untar(self, tree):
        return ["tar", "-x", "-f", self.archive, "-C", tree]

    def _sample(self, command, n_files):
        seconds = timed(command)
        return {"rate": n_files / seconds, "seconds": seconds, "operations": n_files}


def make_archive(path, n_files):
    """Files of 8 KiB in the mean, half of them under 4 KiB, 50 to a directory: about what a source tree looks like."""
    dice = random.Random(1)
    noise = dice.randbytes(MIB)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for i in range(n_files):
            if i % 50 == 0:
                directory = f"part{i // FILES_PER_PART:02d}/module{i // 50 % 50:02d}"
                info = tarfile.TarInfo(directory)
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            info = tarfile.TarInfo(f"{directory}/file{i:05d}.c")
            info.size = min(int(dice.lognormvariate(math.log(4096), 1.2)), MIB)
            info.mode, info.mtime = 0o644, 1_700_000_000 + i
            archive.addfile(info, io.BytesIO(noise))


class Sqlite(Group):
    """One row a transaction, each durable (synchronous=FULL)."""

    rows = (
        Row("sqlite-wal", "SQLite: insert transactions, WAL", "/s", 0.9),
        Row("sqlite-delete", "SQLite: insert transactions, DELETE journal", "/s", 1.0),
    )

    def sample(self, side, number):
        samples = {}
        for mode in ("wal", "delete"):
            directory = f"{self.run_directory(side, number)}-{mode}"
            os.mkdir(directory)
            samples[f"sqlite-{mode}"] = self._insert(os.path.join(directory, "base.db"), mode)
            side.settle()
        return samples

    def _insert(self, path, mode):
        base = sqlite3.connect(path, isolation_level=None)
        try:
            got = base.execute(f"pragma journal_mode={mode}").fetchone()[0]
            if got != mode:
                raise RuntimeError(f"SQLite: journal mode is {got}, not {mode}, on {path}")
            base.execute("pragma synchronous=full")
            base.execute("create table t(id integer primary key, name text, value blob)")
            n, value, start = 0, b"x" * 200, time.monotonic()
            end = start + self.sizes.seconds
            while time.monotonic() < end:
                base.execute("insert into t(name, value) values(?, ?)", (f"row {n}", value))
                n += 1
            seconds = time.monotonic() - start
            (count,) = base.execute("select count(*) from t").fetchone()
            if count != n:
                raise RuntimeError(f"SQLite: {count} rows, not {n}, in {path}")
        finally:
            base.close()
        return {"rate": n / seconds, "seconds": seconds, "operations": n}


class Queue(Group):
    """A mail queue in its steady state: each new file made durable, the one before it deleted."""

    rows = (Row("queue-fsync-8", "create, write 4 KiB, fsync, close, unlink the one before: 8 threads", "/s"),)

    def remove(self, side, number):
        return {"queue-fsync-8": self.bench_files(
            "queue", self.run_directory(side, number), seconds=self.sizes.seconds, threads=8, size=4096, fsync=True)}


def milliseconds(seconds):
    """As fio takes a time."""
    return f"{int(seconds * 1000)}ms"


GROUPS = (Data, RandomWriteBuffered, RandomWriteSync, Append, CreateSync, Create, Names, Open, List, Tree, Sqlite, Queue)
