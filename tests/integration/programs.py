"""programs: what the tests of whole programs share.

$PLAIN_DIR=/some/dir runs a program test in a plain directory there instead of on a mount: to see that the test is right.
"""

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clawfs_env  # noqa: E402

# A journal and chunks of the size of a small real volume.
MEDIUM = {"journal_size": "256M", "segment_size": "32M", "chunk_size": "256M"}


def run(*args, timeout=300, check=True, **kwargs):
    """Runs a program; its output is in the exception when it fails."""
    kwargs.setdefault("stdout", subprocess.PIPE)
    r = subprocess.run(list(map(str, args)), stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, text=True, timeout=timeout, **kwargs)
    if check and r.returncode:
        raise AssertionError("%s: exit %d\n%s" % (" ".join(map(str, args)), r.returncode, (r.stdout or "")[-6000:]))
    return r


def tree_digest(top):
    """{path: what it is}: types, modes, owners, sizes, mtimes, link targets, contents."""
    found = {}
    for base, dirs, files in os.walk(top):
        for name in dirs + files:
            path = os.path.join(base, name)
            st = os.lstat(path)
            what = [oct(st.st_mode), st.st_uid, st.st_gid]
            if stat.S_ISLNK(st.st_mode):
                what.append(os.readlink(path))
            elif stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    what += [st.st_size, st.st_mtime_ns, st.st_nlink, hashlib.md5(f.read()).hexdigest()]
            found[os.path.relpath(path, top)] = what
    return found


class ProgramTest(clawfs_env.VolumeTest):
    """self.place(): a directory on a fresh mount; self.finish(): unmount and fsck."""

    v = None

    def place(self, *mount_options, **format_options):
        os.chmod(self.tmp, 0o755)
        if os.environ.get("PLAIN_DIR"):
            d = tempfile.mkdtemp(dir=os.environ["PLAIN_DIR"])
            self.addCleanup(shutil.rmtree, d, ignore_errors=True)
            os.chmod(d, 0o755)
            return d
        self.v = self.volume(*mount_options, **{**MEDIUM, **format_options})
        os.chmod(self.v.dir, 0o755)
        return self.v.mnt

    def remount(self):
        """Drops everything cached: what is read afterwards comes from the store."""
        if self.v:
            self.v.remount()

    def crash(self):
        """kill -9 of the daemon and a new mount."""
        if self.v:
            options = self.v.options
            self.v.kill9()
            self.v.mount(*options)

    def finish(self):
        if self.v:
            self.v.umount()
            self.v.fsck()


def main():
    if os.environ.get("PLAIN_DIR"):
        unittest.main(verbosity=2)
    clawfs_env.main()
