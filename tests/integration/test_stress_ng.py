"""stress-ng's filesystem stressors, a short while each, with its own verification on; then fsck."""

import os
import shutil
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clawfs_env  # noqa: E402
from programs import ProgramTest, main, run  # noqa: E402

# dnotify, fanotify and quota stressors test the kernel, not a filesystem; io calls syncfs on every mount of the machine.
STRESSORS = ["access", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dirmany", "dup", "fallocate", "fcntl", "fiemap",
             "file-ioctl", "filename", "flock", "fpunch", "fstat", "getdent", "hdd", "inotify", "iomix", "lease", "link", "locka",
             "lockf", "lockofd", "mknod", "mmap", "msync", "open", "readahead", "rename", "seek", "sendfile", "splice", "symlink", "sync-file",
             "touch", "utime", "verity", "xattr"]


@unittest.skipUnless(shutil.which("stress-ng"), "stress-ng is not installed")
class StressNg(ProgramTest):
    def test_filesystem_stressors_find_nothing(self):
        place = self.place(**clawfs_env.SMALL)
        for name in STRESSORS:
            with self.subTest(stressor=name):
                sized = {"hdd": ["--hdd-bytes", "16M"], "iomix": ["--iomix-bytes", "8M"], "fallocate": ["--fallocate-bytes", "16M"],
                         "mmap": ["--mmap-file", "--mmap-bytes", "8M"], "seek": ["--seek-size", "8M"], "filename": ["--filename-opts", "posix"],
                         "copy-file": ["--copy-file-bytes", "128M"], "readahead": ["--readahead-bytes", "8M"],
                         "sync-file": ["--sync-file-bytes", "8M"]}.get(name, [])
                r = run("stress-ng", "--temp-path", place, "--verify", "--timeout", "1", "--no-rand-seed", "--" + name, "2", *sized,
                        check=False, timeout=120, cwd=self.tmp)
                # 3 and 4: not implemented or no resource here, which stress-ng finds out by itself.
                self.assertIn(r.returncode, (0, 3, 4), r.stdout[-3000:])
                self.assertNotIn("fail:", r.stdout.replace("failed: 0", ""))
        left = [n for n in os.listdir(place)]
        self.assertEqual(left, [], "stressors left files")
        self.finish()


if __name__ == "__main__":
    main()
