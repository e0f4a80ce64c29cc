"""test_helpers: a mount as autofs wants it (x-systemd.automount), and what umount(8) calls."""

import ctypes
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from clawfs_env import CLAWFS, EXIT_MOUNT, EXIT_OK, VolumeTest, cli, is_mounted, main, mounts

MNT_DETACH = 2
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 1 << 14, 1 << 18
AUTOFS_IOC_READY, AUTOFS_IOC_FAIL = 0x9360, 0x9361  # linux/auto_fs.h
libc = ctypes.CDLL(None, use_errno=True)


def types_at(path):
    return [m[1] for m in mounts() if m[0] == path]


class Automount(VolumeTest):
    """The test is the daemon of autofs: its process group may reach the mountpoint, everybody else waits until it says so."""

    def setUp(self):
        super().setUp()
        if not os.path.exists("/dev/autofs"):
            self.skipTest("no autofs in this kernel")
        # Who looks at all mounts, and does so while this one waits, would wait for ever if the test was killed: nobody else sees it.
        self.assertEqual(libc.unshare(CLONE_NEWNS), 0, os.strerror(ctypes.get_errno()))
        self.assertEqual(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), 0, os.strerror(ctypes.get_errno()))
        for m in mounts():
            if m[1] == "fuse.clawfs":  # who unmounts it elsewhere would wait for this test
                libc.umount2(m[0].encode(), MNT_DETACH)
        self.v = self.volume(mount=False)
        self.requests, kernel = os.pipe()
        self.addCleanup(os.close, self.requests)
        options = "fd=%d,pgrp=%d,minproto=5,maxproto=5,direct" % (kernel, os.getpgrp())
        r = libc.mount(b"test", self.v.mnt.encode(), b"autofs", 0, options.encode())
        error = ctypes.get_errno()
        os.close(kernel)
        self.assertEqual(r, 0, os.strerror(error))
        self.addCleanup(self.detach)

    def detach(self):
        while is_mounted(self.v.mnt) and libc.umount2(self.v.mnt.encode(), MNT_DETACH) == 0:
            pass

    def wanted(self):
        """Somebody else looks at the place: the token of the kernel's request."""
        command = "until ls -a '%s/'; do sleep 0.01; done" % self.v.mnt
        p = subprocess.Popen(["sh", "-c", command], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        self.assertTrue(select.select([self.requests], [], [], 30)[0])
        return p, struct.unpack_from("iiI", os.read(self.requests, 4096))[2]

    def test_the_daemon_does_not_wait_for_its_own_mount(self):
        place = os.open(self.v.mnt, os.O_RDONLY)
        visitor, token = self.wanted()
        try:
            with subprocess.Popen([CLAWFS, "mount", self.v.store, self.v.mnt], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as p:
                try:
                    p.wait(30)
                except subprocess.TimeoutExpired:
                    fcntl.ioctl(place, AUTOFS_IOC_FAIL, token)  # lets go of whoever waits
                    p.wait(30)
                    self.fail("the mount waits for itself")
                self.assertEqual(p.returncode, EXIT_OK, p.stderr.read())
            fcntl.ioctl(place, AUTOFS_IOC_READY, token)
        finally:
            os.close(place)
        self.assertEqual(types_at(self.v.mnt), ["autofs", "fuse.clawfs"])
        self.assertEqual(visitor.communicate(timeout=30)[0].split(), [b".", b".."])
        self.v.write("f", b"x")
        cli("umount", self.v.mnt, check=EXIT_OK)
        self.assertEqual(types_at(self.v.mnt), ["autofs"])
        self.detach()
        self.v.fsck()


class Umount(VolumeTest):
    def setUp(self):
        super().setUp()
        self.helper = os.path.join(self.tmp, "umount.fuse.clawfs")
        os.symlink(CLAWFS, self.helper)

    def run_helper(self, *args, code, timeout=90):
        r = subprocess.run([self.helper, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           timeout=timeout)
        self.assertEqual(r.returncode, code, r.stderr)
        return r.stderr

    def test_it_ends_when_the_volume_is_closed(self):
        v = self.volume("checkpoint=3600", mount=False)
        for args in ((), ("-n", "-v", "-r", "-t", "fuse.clawfs"), ("-N", "/proc/self/ns/mnt")):
            cli("mount", v.store, v.mnt, check=EXIT_OK)
            for i in range(3000):
                os.mkdir(v.path("%s%d" % (len(args), i)))
            self.assertEqual(self.run_helper(v.mnt, *args, code=EXIT_OK), "")
            self.assertFalse(is_mounted(v.mnt))
            v.fsck()  # which refuses a volume that somebody still has

    def test_a_busy_mount_stays_and_names_who_is_in_the_way(self):
        v = self.volume()
        with open(v.path("held"), "wb"):
            self.assertIn("process %d " % os.getpid(), self.run_helper(v.mnt, code=EXIT_MOUNT))
            self.assertTrue(is_mounted(v.mnt))
        v.umount()

    def test_lazily_nobody_is_asked_and_nobody_waited_for(self):
        v = self.volume()
        v.write("f", b"x", sync=True)
        v.process.send_signal(signal.SIGSTOP)
        try:
            self.run_helper(v.mnt, "-l", code=EXIT_OK, timeout=20)
            self.assertFalse(is_mounted(v.mnt))
        finally:
            v.process.send_signal(signal.SIGCONT)
        self.assertEqual(v.wait(), EXIT_OK)
        v.fsck()

    def test_by_force_it_is_over_for_those_who_have_files_open(self):
        v = self.volume()
        with open(v.path("held"), "rb", opener=lambda p, f: os.open(p, os.O_RDWR | os.O_CREAT)) as held:
            self.run_helper(v.mnt, "-f", "-l", code=EXIT_OK, timeout=20)
            self.assertRaises(OSError, os.fsync, held.fileno())
        self.assertFalse(is_mounted(v.mnt))
        v.wait()
        v.fsck()

    def test_a_dead_mount_is_taken_away(self):
        v = self.volume()
        v.process.kill()
        v.wait()
        self.assertTrue(is_mounted(v.mnt))
        self.assertIn("not closed cleanly", self.run_helper(v.mnt, code=EXIT_OK))
        self.assertFalse(is_mounted(v.mnt))

    def test_what_is_no_mount_of_a_volume_stays(self):
        v = self.volume(mount=False)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", v.mnt], check=True)
        self.addCleanup(v.detach)
        for flags in ((), ("-l",), ("-f",)):
            self.run_helper(v.mnt, *flags, code=EXIT_MOUNT)
        self.assertEqual(types_at(v.mnt), ["tmpfs"])
        for args in ((), (v.mnt, v.store), (v.mnt, "-x"), (v.mnt, "-N"), (v.mnt, "-N", "/nowhere"), (v.mnt, "-N", "/dev/null"), (v.store,)):
            self.assertTrue(self.run_helper(*args, code=EXIT_MOUNT))
        self.assertEqual(types_at(v.mnt), ["tmpfs"])


if __name__ == "__main__":
    main()
