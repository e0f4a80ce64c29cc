"""50,000 files with links, xattrs and ACLs: copied in by cp -a, compared by rsync, through tar and back, moved across."""

import os
import random
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clawfs_env  # noqa: E402
from programs import ProgramTest, main, run  # noqa: E402

FILES = int(os.environ.get("FILES", 50000))


def make_tree(top, files, seed):
    rng = random.Random(seed)
    pool = rng.randbytes(1 << 20)
    for i in range(files):
        d = "%s/%02d/%02d" % (top, i % 25, i // 25 % 40)
        if i < 1000:
            os.makedirs(d, exist_ok=True)
        path = "%s/file-%d.txt" % (d, i)
        size = min(int(rng.paretovariate(0.8) * 300), 200000)
        off = rng.randrange(len(pool) - size)
        with open(path, "wb") as f:
            f.write(pool[off:off + size])
        os.utime(path, ns=(10**18 + i, 10**18 + i * 1000))
        if i % 50 == 0:
            os.symlink("file-%d.txt" % i, d + "/link-%d" % i)
            os.link(path, d + "/hard-%d" % i)
            os.chmod(path, rng.choice((0o600, 0o755, 0o4755, 0o2711)))
        if i % 200 == 0:
            os.setxattr(path, "user.number", b"%d" % i)
            os.chown(path, rng.randrange(3000), rng.randrange(3000))
    with open(top + "/sparse", "wb") as f:
        f.truncate(64 << 20)
        f.seek(32 << 20)
        f.write(b"middle")
    os.mkfifo(top + "/fifo")
    run("setfacl", "-m", "u:1234:r,g:99:rw", top + "/00/00/file-0.txt")
    run("setfacl", "-d", "-m", "u:1234:rwx", top + "/01")


class CopyTree(ProgramTest):
    def same(self, a, b):
        """rsync, reading every byte of both, finds nothing to do."""
        out = run("rsync", "-aHAX", "--checksum", "--delete", "--dry-run", "--itemize-changes", a + "/", b + "/").stdout
        # Directories' times move when their entries are made in another order.
        self.assertEqual([line for line in out.splitlines() if not line.startswith(".d..t......")], [])

    def test_a_large_tree_keeps_every_bit(self):
        source = os.path.join(self.tmp, "source")
        os.mkdir(source)
        seed = clawfs_env.seed()
        make_tree(source, FILES, seed)
        place = self.place()
        copy = place + "/copy"
        run("cp", "-a", source, copy)
        self.remount()
        self.same(source, copy)

        part, untarred = sorted(os.listdir(copy))[:10], place + "/untarred"
        run("tar", "--xattrs", "--acls", "--sparse", "-C", copy, "-cf", place + "/t.tar", *part)
        os.mkdir(untarred)
        run("tar", "--xattrs", "--acls", "-C", untarred, "-xpf", place + "/t.tar", "--same-owner")
        for name in part:
            self.same(copy + "/" + name, untarred + "/" + name)
        run("rm", "-rf", place + "/untarred", place + "/t.tar")

        part = os.path.join(self.tmp, "part")
        shutil.copytree(source + "/00", part, symlinks=True)
        run("cp", "-a", source + "/00/.", part)
        run("mv", part, place + "/moved")
        self.assertFalse(os.path.exists(part))
        self.same(source + "/00", place + "/moved")
        run("mv", place + "/moved", part)
        self.same(source + "/00", part)
        self.crash()
        self.same(source, copy)
        self.finish()


if __name__ == "__main__":
    main()
