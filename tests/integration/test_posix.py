"""The table of posix_cases.py on a mount and on the host's filesystem beside it: every difference is a failure, but those below.

    test_posix.py [PosixTable.test_NAME ...]      POSIX_DIR=/some/dir runs the table on that directory instead of a mount
"""

import json
import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import clawfs_env  # noqa: E402
import posix_cases  # noqa: E402
import posix_env  # noqa: E402

# What may differ from ext4, and what clawfs must answer there.  Each stands in docs/OPERATIONS.
DIFFERENCES = {
    # A regular file counts its inode where it has nothing else, so that no program takes it for a hole while it is being written.
    "blocks_tell_the_truth": lambda host: [*host[:2], 1, 1, host[4]],
    # The kernel does not demand alignment of O_DIRECT on FUSE; the daemon serves any.
    "direct_io_unaligned": lambda host: ["ok", "ok"],
    # Not offered: refused cleanly, the file unchanged.
    "fallocate_collapse_and_insert": lambda host: ["EOPNOTSUPP", "EOPNOTSUPP", 12288],
    # FUSE_HANDLE_KILLPRIV_V2 keeps a set-group-ID bit that means mandatory locking, whoever writes.
    "setid_bits_are_cleared": lambda host: {**host, "write sgid without group exec": [None, "102767"]},
    # With the writeback cache the kernel owns mtime, and does not move it when a truncate changes no size.
    "which_times_change": lambda host: {**host, "truncate same": ""},
}
# Not supported by libfuse 3.14: the kernel answers EOPNOTSUPP for it.
OPTIONAL = {"temporary_file": 95}


def plain(value):
    return json.loads(json.dumps(value))


class PosixTable(clawfs_env.VolumeTest):
    volume_of_all = None

    @classmethod
    def setUpClass(cls):
        import shutil
        import tempfile
        cls.top = os.path.realpath(tempfile.mkdtemp(prefix="clawfs-posix-", dir=os.environ.get("CLAWFS_TEST_DIR")))
        cls.addClassCleanup(shutil.rmtree, cls.top, ignore_errors=True)
        os.chmod(cls.top, 0o755)
        cls.host = os.path.join(cls.top, "host")
        os.mkdir(cls.host)
        if os.environ.get("POSIX_DIR"):
            cls.mount = tempfile.mkdtemp(dir=os.environ["POSIX_DIR"])
            cls.addClassCleanup(shutil.rmtree, cls.mount, ignore_errors=True)
            os.chmod(cls.mount, 0o755)
            return
        v = clawfs_env.Volume(cls.top)
        cls.addClassCleanup(v.close)
        os.chmod(v.dir, 0o755)
        v.format().mount("allow_other")
        os.chmod(v.mnt, 0o755)
        cls.mount, cls.volume_of_all = v.mnt, v

    def run_case(self, name, call):
        umask = os.umask(0o022)
        try:
            results = []
            for top in (self.host, self.mount):
                d = os.path.join(top, name)
                os.mkdir(d)
                results.append(plain(call(d)))
        finally:
            os.umask(umask)
            os.chdir("/")
        host, mount = results
        self.maxDiff = None
        if self.volume_of_all and name in DIFFERENCES:
            host = DIFFERENCES[name](host)
        self.assertEqual(mount, host)


class AfterTheTable(clawfs_env.VolumeTest):
    """The same work leaves a volume that fsck finds clean, also after a kill -9."""

    def test_the_table_leaves_a_clean_volume(self):
        os.chmod(self.tmp, 0o755)
        v = self.volume("allow_other")
        os.chmod(v.dir, 0o755)
        os.chmod(v.mnt, 0o755)
        for name, call in posix_cases.all_cases().items():
            d = v.path(name)
            os.mkdir(d)
            try:
                call(d)
            except (OSError, AssertionError):
                pass  # PosixTable says what is wrong there
        os.chdir("/")
        v.kill9()
        v.mount("allow_other")
        v.umount()
        v.fsck()


class ReadOnly(clawfs_env.VolumeTest):
    def test_a_read_only_mount_reads_everything_and_changes_nothing(self):
        v = self.volume()
        v.write("f", b"data")
        os.mkdir(v.path("dir"))
        os.setxattr(v.path("f"), "user.k", b"v")
        v.remount("ro")
        f, err = v.path("f"), posix_env.err
        self.assertEqual(v.read("f"), b"data")
        self.assertEqual(os.getxattr(f, "user.k"), b"v")
        self.assertEqual(sorted(os.listdir(v.mnt)), ["dir", "f"])
        for call, args in ((os.open, (f, os.O_WRONLY)), (os.open, (v.path("new"), os.O_CREAT | os.O_WRONLY)), (os.unlink, (f,)),
                           (os.mkdir, (v.path("d"),)), (os.rmdir, (v.path("dir"),)), (os.rename, (f, f + "2")), (os.chmod, (f, 0)),
                           (os.truncate, (f, 0)), (os.setxattr, (f, "user.k", b"w")), (os.utime, (f,)), (os.link, (f, f + "2")),
                           (os.symlink, ("x", f + "2")), (os.chown, (f, 1, 1))):
            self.assertEqual(err(call, *args), "EROFS", call.__name__)
        self.assertEqual(err(os.open, f, os.O_RDONLY), "ok")
        v.umount()
        v.fsck()


def add(name, call):
    def test(self):
        if name in OPTIONAL:
            try:
                self.run_case(name, call)
            except OSError as e:
                if e.errno != OPTIONAL[name]:
                    raise
            return
        self.run_case(name, call)
    setattr(PosixTable, "test_" + name, test)


for case_name, case_call in posix_cases.all_cases().items():
    add(case_name, case_call)

if __name__ == "__main__":
    if os.environ.get("POSIX_DIR"):
        unittest.main(verbosity=2, defaultTest="PosixTable")
    clawfs_env.main()
