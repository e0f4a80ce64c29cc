"""test_durability: fsync at a level on a node that is alone: who waits, for what, and the ways out of it.

The calls that wait are made by children, so that a test that fails goes on."""

import ast
import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from clawfs_env import EXIT_OK, VolumeTest, cli, main, wait_for

# struct control_ioctl of fs/face/control.h.
IOCTL_BYTES = 64 + 1024
IOCTL_SET = 1 << 30 | IOCTL_BYTES << 16 | 0xCF << 8 | 1
IOCTL_REMOVE = IOCTL_SET + 1

# Prints the errno that each call ends with; argv: path, open flags, what to do.
CHILD = """
import mmap, os, sys
path, flags, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
fd = os.open(path, flags, 0o644)
block = mmap.mmap(-1, 4096)
try:
    if what == "fsync":
        os.fsync(fd)
    elif what == "write":
        os.pwritev(fd, [block], 0)
    else:
        os.ftruncate(fd, 4096)
        m = mmap.mmap(fd, 4096)
        m[0] = 65
        m.flush()
    print(0)
except OSError as e:
    print(e.errno)
"""


class Waiting:
    """A child in a call that may wait."""

    def __init__(self, test, path, what="fsync", flags=os.O_RDONLY):
        self.process = subprocess.Popen([sys.executable, "-c", CHILD, path, str(flags), what], stdout=subprocess.PIPE, text=True)
        test.addCleanup(self.process.stdout.close)

    def waits(self, seconds=1.0):
        try:
            self.process.wait(seconds)
            return False
        except subprocess.TimeoutExpired:
            return True

    def result(self):
        self.process.wait(20)
        return int(self.process.stdout.read())


class Levels(VolumeTest):
    def waiting(self, v):
        return v.status()["durability"]["waiting"]

    def let_go(self, v):
        cli("durability", "local", v.mnt, check=EXIT_OK, timeout=10)

    def test_every_kind_of_synchronous_write_waits_and_is_let_go(self):
        v = self.volume()
        self.addCleanup(self.let_go, v)
        create = os.O_CREAT | os.O_RDWR
        cli("durability", "replicas=1", v.mnt, check=EXIT_OK)
        calls = [Waiting(self, v.path(name), what, flags) for name, what, flags in [
            ("fsync", "fsync", create), ("msync", "msync", create), ("sync", "write", create | os.O_SYNC),
            ("dsync", "write", create | os.O_DSYNC), ("direct-sync", "write", create | os.O_SYNC | os.O_DIRECT),
            ("direct-dsync", "write", create | os.O_DSYNC | os.O_DIRECT)]]
        plain = [Waiting(self, v.path("plain"), "write", create), Waiting(self, v.path("direct"), "write", create | os.O_DIRECT)]
        self.assertEqual([p.result() for p in plain], [0, 0])
        wait_for("all to wait", lambda: self.waiting(v) == len(calls))
        self.assertTrue(all(c.waits(0.1) for c in calls))
        cli("durability", "replicas=1,else=local", v.mnt, check=EXIT_OK, timeout=10)
        self.assertEqual([c.result() for c in calls], [0] * len(calls))
        self.assertEqual(self.waiting(v), 0)
        self.assertGreaterEqual(v.status()["durability"]["fallbacks"], len(calls))

    def test_a_directory_that_waits_does_not_lock_the_admin_out(self):
        v = self.volume()
        self.addCleanup(self.let_go, v)
        os.mkdir(v.path("dir"))
        cli("durability", "replicas=1", v.mnt, check=EXIT_OK)
        cli("durability", "replicas=2", v.path("dir"), check=EXIT_OK)
        calls = [Waiting(self, v.mnt), Waiting(self, v.path("dir"))]
        wait_for("both to wait", lambda: self.waiting(v) == 2)
        cli("durability", "inherit", v.path("dir"), check=EXIT_OK, timeout=10)
        self.assertTrue(calls[1].waits())
        self.let_go(v)
        self.assertEqual([c.result() for c in calls], [0, 0])

    def test_sigterm_answers_who_waits(self):
        v = self.volume()
        cli("durability", "replicas=1", v.mnt, check=EXIT_OK)
        os.mkdir(v.path("dir"))
        calls = [Waiting(self, v.mnt), Waiting(self, v.path("dir"))]
        wait_for("both to wait", lambda: self.waiting(v) == 2)
        began = time.monotonic()
        v.terminate()
        self.assertLess(time.monotonic() - began, 30)
        for c in calls:
            self.assertIn(c.result(), (errno.EIO, errno.ENOTCONN, errno.ECONNABORTED))
        self.assertEqual(v.fsck().returncode, EXIT_OK)


# Makes one call that may wait, by libc itself: Python's own would call again after a signal.  Prints the errno it ends with.
LIBC_CHILD = """
import ctypes, os, signal, sys
what, path, value = sys.argv[1:4]
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGINT, lambda *_: None)
signal.siginterrupt(signal.SIGINT, True)
fd = os.open(path, os.O_RDONLY) if os.path.isdir(path) else os.open(path, os.O_RDWR | os.O_CREAT | (os.O_SYNC if what == "write" else 0))
print("ready", flush=True)
if what == "fsync":
    if not os.path.isdir(path):
        os.write(fd, b"written before")
    r = libc.fsync(fd)
elif what == "wait":
    r = libc.setxattr(path.encode(), b"clawfs.wait", value.encode(), len(value), 0)
elif what == "command":
    r = libc.setxattr(path.encode(), b"clawfs.sync", b"1", 1, 0)
else:
    r = libc.pwrite(fd, b"x" * 4096, 4096, 0)
print(ctypes.get_errno() if r < 0 else 0, flush=True)
"""

# As many fsyncs as there is time for, and a signal every now and then; prints how many ended with each errno.
STORM_CHILD = """
import collections, ctypes, os, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, True)
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]), float(sys.argv[2]))
seen = collections.Counter()
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    try:
        os.write(fd, b"x")
    except OSError:
        pass
    seen[ctypes.get_errno() if libc.fsync(fd) < 0 else 0] += 1
print(dict(seen))
"""


class Interrupts(VolumeTest):
    """Not of direct synchronous writes: of those the kernel passes no signal on."""

    def waiting(self, v):
        return v.status()["durability"]["waiting"]

    def child(self, *args):
        p = subprocess.Popen([sys.executable, "-c", LIBC_CHILD, *args], stdout=subprocess.PIPE, text=True)
        self.addCleanup(p.stdout.close)
        self.addCleanup(p.kill)
        self.assertEqual(p.stdout.readline(), "ready\n")
        return p

    def interrupt(self, p, signo):
        """What its call ended with within a second."""
        time.sleep(0.3)
        self.assertIsNone(p.poll())
        p.send_signal(signo)
        p.wait(1)
        if signo == signal.SIGKILL:
            self.assertEqual(p.returncode, -signal.SIGKILL)
            return None
        return int(p.stdout.read())

    def test_who_waits_for_followers_can_be_interrupted_and_killed(self):
        v = self.volume()
        os.mkdir(v.path("dir"))
        cli("durability", "replicas=1", v.mnt, check=EXIT_OK)
        for signo in (signal.SIGINT, signal.SIGKILL):
            for what, name in (("fsync", "file"), ("fsync", "dir"), ("write", "sync"), ("command", "")):
                p = self.child(what, v.path(name) if name else v.mnt, "")
                wait_for("it to wait", lambda: self.waiting(v) == 1)
                self.assertIn(self.interrupt(p, signo), (None, errno.EINTR), (what, name))
                wait_for("it to be forgotten", lambda: self.waiting(v) == 0, 1)
        # It was durable here all the same, and the daemon is well.
        v.kill9()
        v.remount()
        with open(v.path("file"), "rb") as f:
            self.assertEqual(f.read(), b"written before")
        self.assertEqual(os.path.getsize(v.path("sync")), 4096)
        cli("durability", "local", v.mnt, check=EXIT_OK)
        v.write("after", b"x", sync=True)
        self.assertEqual(v.status()["health"]["state"], "ok")
        v.umount()
        self.assertEqual(v.fsck().returncode, EXIT_OK)

    def test_many_that_wait_are_killed_at_once_and_the_others_wait_on(self):
        v = self.volume()
        cli("durability", "replicas=1", v.mnt, check=EXIT_OK)
        calls = [self.child("fsync", v.path("f%d" % i), "") for i in range(24)]
        wait_for("all to wait", lambda: self.waiting(v) == len(calls))
        for p in calls[::2]:
            p.kill()
        for p in calls[::2]:
            p.wait(1)
        self.assertEqual(self.waiting(v), len(calls) // 2)
        cli("durability", "local", v.mnt, check=EXIT_OK, timeout=10)
        for p in calls[1::2]:
            p.wait(10)
            self.assertEqual(int(p.stdout.read()), 0)

    def test_who_waits_for_a_position_can_be_interrupted_and_killed(self):
        v = self.volume()
        for signo in (signal.SIGINT, signal.SIGKILL):
            p = self.child("wait", v.mnt, "%d 30" % (v.status()["seq"] + 1000))
            self.assertIn(self.interrupt(p, signo), (None, errno.EINTR))
            began = time.monotonic()
            os.setxattr(v.mnt, "clawfs.wait", b"0")  # the root is not locked any more
            self.assertLess(time.monotonic() - began, 1)
        self.assertEqual(v.status()["health"]["state"], "ok")

    def test_signals_at_any_moment_harm_nobody(self):
        v = self.volume()
        for policy, interval, may_end in (("local", "0.0003", {0}), ("replicas=1,else=local", "0.0003", {0}),
                                          ("replicas=1", "0.0007", {errno.EINTR}), ("replicas=1", "0.01", {errno.EINTR})):
            cli("durability", policy, v.mnt, check=EXIT_OK)
            calls = [subprocess.Popen([sys.executable, "-c", STORM_CHILD, v.path("f%d" % i), interval, "2"], stdout=subprocess.PIPE, text=True)
                     for i in range(4)]
            for p in calls:
                out, _ = p.communicate(timeout=20)
                seen = ast.literal_eval(out)
                self.assertGreater(sum(seen.values()), 20, (policy, interval, seen))
                # Of a file's times, which the kernel sends before FSYNC, a signal may end the sending.
                self.assertLessEqual(set(seen), may_end | {errno.EINTR}, (policy, interval))
            self.assertEqual(self.waiting(v), 0)
        cli("durability", "local", v.mnt, check=EXIT_OK)
        v.write("after", b"x", sync=True)
        self.assertEqual(v.status()["health"]["state"], "ok")
        v.umount()
        self.assertEqual(v.fsck().returncode, EXIT_OK)


class Attributes(VolumeTest):
    def errno_of(self, call, *args):
        with self.assertRaises(OSError) as e:
            call(*args)
        return e.exception.errno

    def test_the_attribute_is_the_policy(self):
        v = self.volume()
        os.makedirs(v.path("a/b"))
        v.write("a/b/file", b"x")
        self.assertEqual(os.getxattr(v.path("a/b/file"), "clawfs.durability"), b"local")
        os.setxattr(v.path("a"), "clawfs.durability", b"replicas=3,else=local")
        self.assertEqual(os.getxattr(v.path("a/b/file"), "clawfs.durability"), b"replicas=3,else=local")
        self.assertEqual(os.listxattr(v.path("a")), [])
        self.assertEqual(self.errno_of(os.setxattr, v.path("a"), "clawfs.durability", b"replicas=16"), errno.EINVAL)
        self.assertEqual(self.errno_of(os.removexattr, v.path("a/b"), "clawfs.durability"), errno.ENODATA)
        v.kill9()
        v.remount()
        self.assertEqual(os.getxattr(v.path("a/b/file"), "clawfs.durability"), b"replicas=3,else=local")
        os.removexattr(v.path("a"), "clawfs.durability")
        self.assertEqual(os.getxattr(v.path("a/b/file"), "clawfs.durability"), b"local")

    def test_the_ioctl_takes_what_is_well_formed_and_nothing_else(self):
        v = self.volume()
        fd = os.open(v.mnt, os.O_RDONLY)
        self.addCleanup(os.close, fd)

        def ask(command, name, value):
            return fcntl.ioctl(fd, command, bytearray(struct.pack("64s1024s", name, value)))

        ask(IOCTL_SET, b"clawfs.durability", b"replicas=1,else=local")
        self.assertEqual(os.getxattr(v.mnt, "clawfs.durability"), b"replicas=1,else=local")
        ask(IOCTL_REMOVE, b"clawfs.durability", b"")
        for expected, command, name, value in [
                (errno.ENODATA, IOCTL_REMOVE, b"clawfs.durability", b""), (errno.EINVAL, IOCTL_SET, b"clawfs.durability", b""),
                (errno.EINVAL, IOCTL_SET, b"clawfs.durability", b"x" * 1024), (errno.EINVAL, IOCTL_SET, b"c" * 64, b"local"),
                (errno.EINVAL, IOCTL_SET, b"user.name", b"x"), (errno.EINVAL, IOCTL_SET, b"", b""),
                (errno.EOPNOTSUPP, IOCTL_SET, b"clawfs.", b"x"), (errno.EOPNOTSUPP, IOCTL_SET, b"clawfs.status", b"x"),
                (errno.EOPNOTSUPP, IOCTL_REMOVE, b"clawfs.status", b""), (errno.ENOTTY, IOCTL_SET, b"clawfs.wait", b"0"),
                (errno.ENOTTY, IOCTL_SET + 2, b"clawfs.durability", b"local"),
                (errno.ENOTTY, IOCTL_SET - (1 << 16), b"clawfs.durability", b"local")]:
            self.assertEqual(self.errno_of(ask, command, name, value), expected, (command, name, value))
        self.assertEqual(os.getxattr(v.mnt, "clawfs.durability"), b"local")

    def test_only_admins_set_it(self):
        v = self.volume("allow_other")
        os.chmod(v.mnt, 0o777)
        v.write("file", b"x")
        os.chown(v.path("file"), 1234, 1234)
        script = "import os, fcntl, struct\n" \
                 "os.setgroups([])\nos.setgid(1234)\nos.setuid(1234)\n" \
                 "fd = os.open(%r, os.O_RDONLY)\n" \
                 "for call in (lambda: os.setxattr(%r, 'clawfs.durability', b'local'),\n" \
                 "             lambda: fcntl.ioctl(fd, %d, bytearray(struct.pack('64s1024s', b'clawfs.durability', b'local')))):\n" \
                 "    try:\n        call()\n        print(0)\n" \
                 "    except OSError as e:\n        print(e.errno)\n" % (v.path("file"), v.path("file"), IOCTL_SET)
        os.chmod(v.dir, 0o755)
        os.chmod(self.tmp, 0o755)
        r = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        self.assertEqual(r.stdout.split(), [str(errno.EPERM)] * 2, r.stderr)


if __name__ == "__main__":
    main()
