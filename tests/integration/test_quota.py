"""What is below a directory, and limits on it, on real mounts: totals against a walk through renames, hard links and kills; df, du,
cp -a and parallel writers under a quota; who may set one; the same on a follower and after it leads."""

import errno
import json
import mmap
import os
import random
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clawfs_env  # noqa: E402
from clawfs_env import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, ClusterTest, VolumeTest, cli  # noqa: E402

MIB = 1 << 20
STRANGER = 65534


def attribute(path, name):
    return os.getxattr(path, "clawfs." + name, follow_symlinks=False).decode()


def said(path):
    return tuple(int(attribute(path, "dir." + n)) for n in ("rbytes", "rfiles", "rsubdirs"))


def counted(path, root, found=None):
    """(bytes, files, directories) below `path`; every directory's into `found`.  A file with several names counts at its primary one."""
    total = [0, 0, 0]
    for e in os.scandir(path):
        if e.is_dir(follow_symlinks=False):
            below = counted(e.path, root, found)
            total = [a + b for a, b in zip(total, below)]
            total[2] += 1
            continue
        st = os.lstat(e.path)
        if st.st_nlink > 1 and root + attribute(e.path, "path") != e.path:
            continue
        total[0] += st.st_size
        total[1] += 1
    if found is not None:
        found[path] = tuple(total)
    return tuple(total)


def set_quota(path, **limits):
    options = [w for k, v in limits.items() for w in ("--max-" + k, str(v))]
    cli("quota", "set", *options, path, check=EXIT_OK)


def write_direct(path, size, block=64 * 1024):
    """Past the kernel's cache, so that an error comes from the write itself; bytes written, and the error or 0."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_DIRECT, 0o644)
    done = 0
    try:
        with mmap.mmap(-1, block) as buf:
            while done < size:
                done += os.pwrite(fd, buf, done)
    except OSError as e:
        return done, e.errno
    finally:
        os.close(fd)
    return done, 0


def as_user(uid, what):
    """what() in a process of that user; the errno it failed with, or 0."""
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            what()
        except OSError as e:
            code = e.errno
        except BaseException:
            code = 255
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Totals(VolumeTest):
    def check(self, v):
        found = {}
        counted(v.mnt, v.mnt, found)
        for path, want in found.items():
            self.assertEqual(said(path), want, path)
        return found

    def change(self, v, rng, dirs):
        """One random change below v.mnt; what cannot be done is left."""
        what, d, e = rng.randrange(9), rng.choice(dirs), rng.choice(dirs)
        f, g = "%s/f%d" % (d, rng.randrange(6)), "%s/f%d" % (e, rng.randrange(6))
        try:
            if what < 3:
                with open(f, "ab") as out:
                    out.write(rng.randbytes(rng.randrange(30000)))
            elif what == 3:
                os.truncate(f, rng.randrange(50000))
            elif what == 4:
                os.unlink(f)
            elif what == 5:
                os.rename(f, g)
            elif what == 6:
                os.link(f, g)
            elif what == 7:
                os.symlink("x" * rng.randrange(1, 200), f)
            else:
                os.rename(d, e + "/" + os.path.basename(d))
        except OSError as error:
            self.assertIn(error.errno, (errno.ENOENT, errno.EEXIST, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY,
                                        errno.EBUSY, errno.EPERM), error)

    def test_every_directory_says_what_a_walk_counts(self):
        rng = random.Random(clawfs_env.seed())
        v = self.volume()
        for a in range(3):
            for b in range(3):
                os.makedirs(v.path("a%d/b%d/c" % (a, b)))
        for turn in range(4):
            for _ in range(150):
                dirs = [p for p, _, _ in os.walk(v.mnt) if p != v.mnt]
                self.change(v, rng, dirs)
            before = self.check(v)
            if turn % 2:
                v.kill9()
                v.mount()
            else:
                v.remount()
            self.assertEqual(self.check(v), before)
        shutil.rmtree(v.path("a0"), ignore_errors=True)
        self.check(v)
        v.umount()
        v.fsck()

    def test_the_newest_change_is_told_from_above(self):
        v = self.volume()
        os.makedirs(v.path("a/b/c"))
        v.write("a/b/c/f", b"x", sync=True)
        before = float(attribute(v.path("a"), "dir.rctime"))
        self.assertEqual(attribute(v.path("a"), "dir.rctime"), attribute(v.mnt, "dir.rctime"))
        os.chmod(v.path("a/b/c/f"), 0o600)
        after = float(attribute(v.path("a"), "dir.rctime"))
        self.assertGreaterEqual(after, before)
        self.assertAlmostEqual(after, os.stat(v.path("a/b/c/f")).st_ctime, delta=2)

    def test_du_is_for_people_and_programs(self):
        v = self.volume()
        os.makedirs(v.path("a/b"))
        v.write("a/b/f", b"x" * 5000, sync=True)
        o = json.loads(cli("du", "--json", v.path("a"), check=EXIT_OK).stdout)
        self.assertEqual((o["bytes"], o["files"], o["subdirs"]), (5000, 1, 1))
        self.assertIn("1 files and 1 directories", cli("du", v.path("a"), check=EXIT_OK).stdout)
        self.assertIn("not a directory", cli("du", v.path("a/b/f"), check=EXIT_FAILURE).stderr)
        self.assertIn("not a directory", cli("du", self.tmp, check=EXIT_FAILURE).stderr)


class Quotas(VolumeTest):
    def quota(self, **limits):
        self.v = self.volume()
        os.mkdir(self.v.path("q"))
        set_quota(self.v.path("q"), **limits)
        return self.v.path("q")

    def test_df_shows_what_is_left_of_it(self):
        q = self.quota(bytes="10M", files=100)
        self.assertEqual(write_direct(q + "/f", 3 * MIB), (3 * MIB, 0))
        for path in (q, q + "/f"):
            s = os.statvfs(path)
            self.assertEqual((s.f_blocks * s.f_frsize, s.f_bavail * s.f_frsize), (10 * MIB, 7 * MIB))
            self.assertEqual((s.f_files, s.f_favail), (100, 99))
        out = subprocess.run(["df", "-B1", "--output=size,used,avail", q], stdout=subprocess.PIPE, text=True, check=True).stdout
        self.assertEqual(out.split()[-3:], [str(10 * MIB), str(3 * MIB), str(7 * MIB)])
        self.assertGreater(os.statvfs(self.v.mnt).f_blocks * 4096, 64 * MIB)

    def test_cp_a_fits_or_says_so(self):
        q = self.quota(bytes="1M", files=50)
        source = self.tmp + "/source"
        os.makedirs(source + "/deep/er")
        for i in range(20):
            with open("%s/deep/f%d" % (source, i), "wb") as f:
                f.write(os.urandom(20000))
        subprocess.run(["cp", "-a", source, q + "/one"], check=True)
        self.assertEqual(said(q), (400000, 20, 3))
        two = subprocess.run(["cp", "-a", source, q + "/two"], stderr=subprocess.PIPE, text=True)
        self.assertEqual(two.returncode, 0, two.stderr)
        three = subprocess.run(["cp", "-a", source, q + "/three"], stderr=subprocess.PIPE, text=True)
        self.assertNotEqual(three.returncode, 0)
        self.assertIn("quota exceeded", three.stderr)
        self.assertLessEqual(said(q)[0], MIB)
        self.assertLessEqual(sum(said(q)[1:]), 50)
        shutil.rmtree(q + "/three")
        shutil.rmtree(q + "/two")
        subprocess.run(["cp", "-a", source, q + "/two"], check=True)

    def test_parallel_writers_never_exceed_it(self):
        limit = 24 * MIB
        q = self.quota(bytes=limit)
        code = ("import sys; sys.path.insert(0, %r); from test_quota import write_direct\n"
                "n, e = write_direct(sys.argv[1], 1 << 30, int(sys.argv[2]))\nprint(n, e)" %
                os.path.dirname(os.path.abspath(__file__)))
        running = [subprocess.Popen([sys.executable, "-c", code, "%s/f%d" % (q, i), str(4096 << i % 8)], stdout=subprocess.PIPE,
                                    text=True) for i in range(8)]
        most = 0
        while any(p.poll() is None for p in running):
            most = max(most, said(q)[0])
            self.assertLessEqual(most, limit)
        total = 0
        for p in running:
            n, e = map(int, p.communicate()[0].split())
            self.assertEqual(e, errno.EDQUOT)
            total += n
        self.assertEqual(said(q)[0], total)
        self.assertEqual(total, limit) # somebody wrote 4 KiB at a time

    def test_a_buffered_writer_learns_it_at_fsync_or_close(self):
        q = self.quota(bytes="1M")
        fd = os.open(q + "/f", os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"x" * 2 * MIB)
        with self.assertRaises(OSError) as e:
            os.fsync(fd)
        self.assertEqual(e.exception.errno, errno.EDQUOT)
        os.close(fd)
        fd = os.open(q + "/g", os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"x" * 2 * MIB)
        # The kernel's own test of the mapping knows EIO only.
        with self.assertRaises(OSError) as e:
            os.close(fd)
        self.assertIn(e.exception.errno, (errno.EDQUOT, errno.EIO))
        self.assertLessEqual(said(q)[0], MIB)

    def test_what_one_writer_was_refused_stops_nobody_else(self):
        """The kernel tells of it once more to whoever syncs the whole mount next."""
        q, objects = self.quota(bytes="1M"), os.path.join(self.tmp, "objects")
        os.mkdir(objects)
        os.mkdir(self.v.path("cold"))
        cli("tier", "add", "cold", "file://" + objects, self.v.mnt, check=EXIT_OK)
        os.setxattr(self.v.path("cold"), "clawfs.tier", b"after=1000d min=4K store=cold")
        self.v.write("cold/f", b"x" * 50000)
        for verb in (("tier", "evict", self.v.path("cold")), ("archive", "set", "cold", self.v.mnt), ("archive", "now", self.v.mnt)):
            fd = os.open(q + "/f", os.O_CREAT | os.O_WRONLY)
            os.write(fd, b"x" * 2 * MIB)
            with self.assertRaises(OSError):
                os.fsync(fd)
            error_of_close = None
            try:
                os.close(fd)
            except OSError as e:
                error_of_close = e.errno
            self.assertIn(error_of_close, (None, errno.EDQUOT, errno.EIO))
            cli(*verb, check=EXIT_OK)
        self.assertEqual(self.v.read("cold/f"), b"x" * 50000)

    def test_what_makes_a_file_longer_is_refused_and_what_does_not_is_not(self):
        q = self.quota(bytes=10000, files=3)
        fd = os.open(q + "/f", os.O_CREAT | os.O_RDWR)
        self.addCleanup(os.close, fd)
        for what in (lambda: os.ftruncate(fd, 10001), lambda: os.posix_fallocate(fd, 5000, 5001)):
            with self.assertRaises(OSError) as e:
                what()
            self.assertEqual(e.exception.errno, errno.EDQUOT)
        os.ftruncate(fd, 10000)
        os.pwrite(fd, b"x" * 10000, 0)
        os.fsync(fd)
        os.mkdir(q + "/d")
        open(q + "/s", "x").close()
        for what in (lambda: os.mkdir(q + "/e"), lambda: os.symlink("x", q + "/t"), lambda: os.mkfifo(q + "/p"),
                     lambda: open(q + "/t", "x"), lambda: os.link(self.other(), q + "/l")):
            with self.assertRaises(OSError) as e:
                what()
            self.assertEqual(e.exception.errno, errno.EDQUOT)
        os.link(q + "/f", q + "/d/l") # it is inside already
        os.unlink(q + "/s")
        os.mkdir(q + "/e")

    def other(self):
        path = self.v.path("other")
        open(path, "a").close()
        return path

    def test_a_tree_moves_in_when_it_fits(self):
        q = self.quota(bytes=10000, files=10)
        v = self.v
        os.makedirs(v.path("t/u"))
        v.write("t/u/f", b"x" * 8000, sync=True)
        os.rename(v.path("t"), q + "/t")
        self.assertEqual(said(q), (8000, 1, 2))
        os.mkdir(v.path("t"))
        v.write("t/g", b"x" * 2001, sync=True)
        with self.assertRaises(OSError) as e:
            os.rename(v.path("t"), q + "/t2")
        self.assertEqual(e.exception.errno, errno.EDQUOT)
        self.assertEqual(v.read("t/g"), b"x" * 2001)
        moved = subprocess.run(["mv", v.path("t"), q + "/t2"], stderr=subprocess.PIPE, text=True)
        self.assertNotEqual(moved.returncode, 0) # and mv does not begin to copy
        self.assertTrue(os.path.exists(v.path("t/g")))
        os.truncate(v.path("t/g"), 2000)
        os.rename(v.path("t"), q + "/t2")
        self.assertEqual(said(q), (10000, 2, 3))
        os.rename(q + "/t", v.path("out"))
        self.assertEqual(said(q), (2000, 1, 1))
        v.kill9()
        v.mount()
        self.assertEqual(said(q), (2000, 1, 1))
        self.assertEqual(write_direct(q + "/big", MIB, 4096), (4096, errno.EDQUOT)) # 2000 + 2 x 4096 is too much

    def test_who_may_set_and_see_it(self):
        q = self.quota(bytes="1M")
        self.assertEqual(os.listxattr(q), [])
        v = self.v
        os.chown(q, STRANGER, STRANGER)
        v.umount()
        v.mount("allow_other")
        for path in (self.tmp, v.dir, v.mnt):
            os.chmod(path, 0o755)

        def put():
            os.setxattr(q, "clawfs.quota.max_bytes", b"2M")

        def take():
            os.removexattr(q, "clawfs.quota.max_bytes")

        def look():
            os.getxattr(q, "clawfs.quota.max_bytes")
            os.getxattr(q, "clawfs.quota")
            os.getxattr(q, "clawfs.dir.rbytes")

        def look_at_all():
            os.getxattr(v.mnt, "clawfs.quota.list")

        self.assertEqual([as_user(STRANGER, f) for f in (put, take, look, look_at_all)], [errno.EPERM, errno.EPERM, 0, errno.EPERM])
        os.chown(v.mnt, STRANGER, STRANGER) # the volume's owner
        self.assertEqual([as_user(STRANGER, f) for f in (put, look_at_all, take, look)], [0, 0, 0, errno.ENODATA])

    def test_the_verbs(self):
        q = self.quota(bytes="10G", files=1000)
        v = self.v
        os.mkdir(q + "/in")
        set_quota(q + "/in", bytes="5K")
        v.write("q/in/f", b"x" * 1024, sync=True)
        shown = json.loads(cli("quota", "show", "--json", q + "/in/f", check=EXIT_OK).stdout)
        self.assertEqual([(o["path"], o["max_bytes"], o["max_files"], o["bytes"], o["files"]) for o in shown],
                         [("/q/in", 5120, None, 1024, 1), ("/q", 10 << 30, 1000, 1024, 2)])
        self.assertEqual(json.loads(cli("quota", "list", "--json", v.mnt, check=EXIT_OK).stdout), shown[::-1])
        text = cli("quota", "list", v.mnt, check=EXIT_OK).stdout
        self.assertIn("/q: 1K of 10G (0 %), 2 files of 1000 (0 %)", text)
        self.assertIn("/q/in: 1K of 5K (20 %), 1 files of no limit", text)
        set_quota(q, bytes="none", files="none")
        set_quota(q, bytes="none")
        self.assertEqual(cli("quota", "show", q, check=EXIT_OK).stdout, "no quota\n")
        for bad in ("0", "-1", "x", "1.5G", "99999999999999999999", ""):
            r = cli("quota", "set", "--max-bytes", bad, q)
            self.assertIn(r.returncode, (EXIT_FAILURE, EXIT_USAGE), bad)
        self.assertIn("quotas are of directories", cli("quota", "set", "--max-files", "1", q + "/in/f", check=EXIT_FAILURE).stderr)
        cli("quota", "set", q, check=EXIT_USAGE)
        cli("quota", "set", "--max-files", "1", self.tmp, check=EXIT_FAILURE)


class Followers(ClusterTest):
    def test_a_follower_counts_the_same_and_enforces_it_once_it_leads(self):
        c = self.cluster(2)
        mnt = c.leader.mnt
        os.makedirs(mnt + "/q/a/b")
        set_quota(mnt + "/q", bytes="1M", files=20)
        for i in range(5):
            c.leader.write("q/a/b/f%d" % i, b"x" * 10000, sync=True)
        os.link(mnt + "/q/a/b/f0", mnt + "/q/l")
        os.rename(mnt + "/q/a/b", mnt + "/q/b")
        os.unlink(mnt + "/q/l")
        c.settle()
        late = c.join() # by a resync
        c.settle()
        self.assertIn(late, c.followers)
        for node in c.followers:
            for d in ("", "q", "q/a", "q/b"):
                self.assertEqual(said(os.path.join(node.mnt, d)), said(os.path.join(mnt, d)), (node.name, d))
            s = os.statvfs(node.mnt + "/q")
            self.assertEqual(s.f_blocks * s.f_frsize, MIB)
        old, new = c.leader, c.node[1]
        cli("handover", new.name, old.mnt, check=EXIT_OK)
        clawfs_env.wait_for("the new leader", lambda: new.is_now("leader"))
        self.assertEqual(write_direct(new.mnt + "/q/big", 2 * MIB, 4096)[1], errno.EDQUOT)
        self.assertLessEqual(said(new.mnt + "/q")[0], MIB)
        self.assertGreater(said(new.mnt + "/q")[0], MIB - 4096)


if __name__ == "__main__":
    clawfs_env.main()
