"""fio with verify=crc32c: random, mixed, direct, mapped and fsynced jobs; verified while running, and after a remount."""

import os
import shutil
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clawfs_env  # noqa: E402
from programs import ProgramTest, main, run  # noqa: E402

JOBS = {
    "sequential": ["--rw=write", "--bs=1M", "--size=64M"],
    "random": ["--rw=randwrite", "--bs=4k", "--size=24M"],
    "odd-sizes": ["--rw=randwrite", "--bsrange=512-100k", "--bs_unaligned", "--size=24M"],
    "mixed": ["--rw=randrw", "--bs=16k", "--size=32M"],
    "direct": ["--rw=randwrite", "--bs=4k", "--size=16M", "--direct=1", "--ioengine=libaio", "--iodepth=16"],
    "direct-large": ["--rw=randwrite", "--bs=256k", "--size=64M", "--direct=1", "--ioengine=libaio", "--iodepth=4"],
    "mapped": ["--rw=randwrite", "--bs=4k", "--size=16M", "--ioengine=mmap"],
    "synced": ["--rw=randwrite", "--bs=8k", "--size=4M", "--fdatasync=1"],
    "o_sync": ["--rw=randwrite", "--bs=8k", "--size=4M", "--sync=1"],
    "two-at-once": ["--rw=randrw", "--bs=4k", "--size=8M", "--numjobs=2"],
    "overwrite": ["--rw=randwrite", "--bs=4k", "--size=8M", "--overwrite=1", "--loops=3"],
}


@unittest.skipUnless(shutil.which("fio"), "fio is not installed")
class Fio(ProgramTest):
    def test_what_is_written_verifies_now_and_after_a_remount(self):
        seed = clawfs_env.seed()
        place = self.place(**clawfs_env.SMALL)

        def fio(name, *more):
            run("fio", "--name=" + name, "--directory=" + place, "--verify=crc32c", "--verify_fatal=1", "--randseed=%d" % seed,
                "--verify_state_save=0", *JOBS[name], *more, cwd=self.tmp)
        for name in JOBS:
            with self.subTest(job=name):
                fio(name, "--do_verify=1")
        self.remount()
        for name in ("sequential", "random", "direct", "direct-large", "mapped", "synced", "o_sync"):
            with self.subTest(job=name, after="remount"):
                fio(name, "--verify_only")
        self.finish()


if __name__ == "__main__":
    main()
