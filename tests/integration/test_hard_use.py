"""What programs do to files that others hold open, and at the edges of what a filesystem may be asked: each case once went wrong."""

import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clawfs_env  # noqa: E402

HOLDER = """
import os, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR | (os.O_TRUNC if "cut" in sys.argv else 0), 0o644)
if "sparse" in sys.argv:
    os.ftruncate(fd, 1000000)
if "stat" in sys.argv:
    os.fstat(fd)
os.write(fd, b"x" * 300000)
if "sync" in sys.argv:
    os.fsync(fd)
print("written", flush=True)
sys.stdin.read()
"""


class OpenFiles(clawfs_env.VolumeTest):
    def test_a_sparse_archive_of_a_file_that_is_being_written_has_its_bytes(self):
        """tar takes st_blocks == 0 for a file without data; the kernel does not count while the writer has it open."""
        v = self.volume()
        v.write("old", b"before")
        out = os.path.join(self.tmp, "out")
        os.mkdir(out)
        cases = [(name, *words) for name in ("new", "old") for words in
                 ((), ("sync",), ("stat",), ("stat", "sync"), ("sparse", "stat"), ("sparse", "stat", "sync"), ("cut", "stat"))]
        for case in cases:
            with self.subTest(case=case):
                if case[0] == "new" and os.path.exists(v.path("new")):
                    os.unlink(v.path("new"))
                holder = subprocess.Popen([sys.executable, "-c", HOLDER, v.path(case[0]), *case[1:]],
                                          stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                try:
                    self.assertEqual(holder.stdout.readline(), b"written\n")
                    tar = os.path.join(self.tmp, "t.tar")
                    subprocess.run(["tar", "-C", v.mnt, "-cSf", tar, case[0]], check=True)
                    subprocess.run(["tar", "-C", out, "-xf", tar], check=True)
                    with open(os.path.join(out, case[0]), "rb") as f:
                        self.assertEqual(f.read(300000), b"x" * 300000)
                finally:
                    holder.communicate()


if __name__ == "__main__":
    clawfs_env.main()
