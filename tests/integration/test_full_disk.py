"""A store on a small disk (ext4 on a loop device) that runs full: ENOSPC from what needs space, nothing acked is lost, deletes
work, and the space comes back within 20 s (guarantee G7)."""

import errno
import mmap
import os
import random
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clawfs_env  # noqa: E402
from programs import ProgramTest, main, run  # noqa: E402

DISK_MIB = 480
BACK_SECONDS = 20
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class FullDisk(ProgramTest):
    def small_disk(self):
        image, self.disk = self.tmp + "/image", self.tmp + "/disk"
        os.mkdir(self.disk)
        with open(image, "wb") as f:
            f.truncate(DISK_MIB << 20)
        run("mkfs.ext4", "-q", "-m", "0", image)
        run("mount", "-o", "loop", image, self.disk)
        self.addCleanup(self.release_disk)
        v = clawfs_env.Volume(self.tmp)
        v.store = self.disk + "/store"
        os.mkdir(v.store)
        self.addCleanup(v.close)
        self.v = v.format().mount()
        self.rng = random.Random(clawfs_env.seed())
        self.acked = {}

    def release_disk(self):
        self.v.kill9()
        for _ in range(100):
            if subprocess.run(["umount", self.disk], stderr=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.1)
        run("umount", "-l", self.disk, check=False)

    def put(self, name, size, direct=False):
        """Writes and fsyncs a file; True when acked, False on a clean ENOSPC."""
        data = self.rng.randbytes(size)
        fd = None
        try:
            fd = os.open(self.v.path(name), os.O_CREAT | os.O_WRONLY | (os.O_DIRECT if direct else 0), 0o600)
            with mmap.mmap(-1, size) as buf:
                buf.write(data)
                done = 0
                while done < size:
                    done += os.pwritev(fd, [memoryview(buf)[done:] if done else buf], done)
            os.fsync(fd)
        except OSError as e:
            self.assertIn(e.errno, NO_SPACE, os.strerror(e.errno))
            return False
        finally:
            if fd is not None:
                try:
                    os.close(fd)
                except OSError as e:
                    self.assertIn(e.errno, NO_SPACE)
        self.acked[name] = data
        return True

    def fill(self, tag, sizes, direct=False):
        for i in range(100000):
            size = self.rng.choice(sizes)
            if not self.put("%s%d" % (tag, i), size, direct):
                return i
        self.fail("the disk never ran full")

    def check_acked(self):
        for name, data in self.acked.items():
            self.assertEqual(self.v.read(name), data, name)

    def remove(self, names):
        for name in names:
            os.unlink(self.v.path(name))
            self.acked.pop(name, None)

    def space_comes_back(self, mib):
        """Within 20 s of a delete, `mib` can be written."""
        end, n = time.monotonic() + BACK_SECONDS, 0
        while n < mib:
            if self.put("back%d" % n, 1 << 20):
                n += 1
            elif time.monotonic() > end:
                self.fail("%d of %d MiB came back in %d s" % (n, mib, BACK_SECONDS))
            else:
                time.sleep(0.2)

    def healthy(self):
        self.v.write("probe", b"")
        os.unlink(self.v.path("probe"))
        self.assertEqual(self.v.status()["health"]["reason"], "", "the volume stopped")

    def clean(self):
        self.v.umount()
        self.v.fsck()

    def test_full_with_large_files(self):
        self.small_disk()
        written = self.fill("big", [4 << 20], direct=True)
        self.assertGreater(written, 20)
        self.check_acked()
        # What needs no space still works on a full disk.
        names = list(self.acked)
        fd = os.open(self.v.path(names[0]), os.O_RDWR)
        os.fsync(fd)
        os.ftruncate(fd, 1 << 20)
        self.acked[names[0]] = self.acked[names[0]][:1 << 20]
        os.fsync(fd)
        os.close(fd)
        os.rename(self.v.path(names[1]), self.v.path(names[1] + "x"))
        self.acked[names[1] + "x"] = self.acked.pop(names[1])
        self.remove([n for n in list(self.acked) if not n.startswith("big1")][::2])
        self.space_comes_back(30)
        self.healthy()
        self.check_acked()
        self.crash()
        self.check_acked()
        self.clean()

    def test_full_with_small_files(self):
        self.small_disk()
        # Most of the disk quickly, the rest in small pieces.
        free = os.statvfs(self.v.mnt)
        n = free.f_bavail * free.f_frsize // (8 << 20) - 3
        for i in range(n):
            if not self.put("bulk%d" % i, 8 << 20):
                break
        self.fill("small", [100, 5000, 30000, 100000])
        self.check_acked()
        self.crash()
        self.check_acked()
        self.remove([name for name in list(self.acked) if name.startswith("bulk")][::2])
        self.space_comes_back(30)
        self.healthy()
        self.check_acked()
        self.clean()

    def test_killed_while_full_again_and_again(self):
        self.small_disk()
        self.fill("a", [8 << 20])
        for i in range(4):
            pid = os.fork()
            if pid == 0:
                try:
                    while True:
                        n = self.rng.randrange(20)
                        if self.rng.random() < 0.5:
                            self.put("r%d" % n, 3 << 20)
                        elif os.path.exists(self.v.path("r%d" % n)):
                            os.unlink(self.v.path("r%d" % n))
                except BaseException:
                    pass
                finally:
                    os._exit(0)
            time.sleep(self.rng.uniform(0.3, 1))
            self.v.kill9()
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            self.v.mount()
            self.check_acked()
        for name in os.listdir(self.v.mnt):
            if name.startswith("r"):
                os.unlink(self.v.path(name))
        self.remove(list(self.acked)[::2])
        self.space_comes_back(20)
        self.clean()

    def test_the_host_runs_full_behind_our_back(self):
        self.small_disk()
        for i in range(10):
            self.assertTrue(self.put("before%d" % i, 1 << 20))
        hog = self.disk + "/hog"
        with open(hog, "wb") as f:
            try:
                while True:
                    f.write(bytes(1 << 20))
            except OSError as e:
                self.assertEqual(e.errno, errno.ENOSPC)
        for i in range(400):
            if not self.put("during%d" % i, 1 << 20):
                break
        self.check_acked()
        self.crash()
        self.check_acked()
        self.remove(["before1", "before2"])
        os.unlink(hog)
        self.space_comes_back(20)
        self.healthy()
        self.check_acked()
        self.clean()


if __name__ == "__main__":
    main()
