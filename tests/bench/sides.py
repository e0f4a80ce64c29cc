"""The two sides of a comparison: a plain directory of the host, and a clawfs volume in a directory beside it.

A side has a directory to work in (root), a way to let background work finish (settle) and a way to forget everything cached
(make_cold).  Both are called outside the measured time.
"""

import array
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import subprocess
import time

MOUNT_TIMEOUT_SECONDS = 60
SETTLE_TIMEOUT_SECONDS = 120

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x00020000  # linux/fs.h


def drop_caches():
    """Page cache, dentries and inodes of the whole machine; what is dirty must have been written before."""
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")


def spread_subdirectories(path):
    """Asks ext4 to place each directory made in `path` in a part of the disk of its own (chattr +T), as it does in the root.

    The part depends on the name, hence the token in names.  It is the host's best case: a directory next to one whose files were
    just deleted, by the run before or by another program, shares inodes that are not reused for minutes and slow down every
    create.  Other filesystems refuse or ignore it.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flags = array.array("l", [0])
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, flags)
        flags[0] |= FS_TOPDIR_FL
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, flags)
    except OSError:
        pass
    finally:
        os.close(fd)


def fsync_directory(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class PlainSide:
    """A directory as it is: the host's filesystem, or whatever else is mounted there."""

    def __init__(self, name, root):
        self.name = name
        self.root = root
        self.token = secrets.token_hex(4)

    def start(self):
        os.makedirs(self.root, exist_ok=True)
        spread_subdirectories(self.root)

    def make_directory(self, path):
        os.mkdir(path)
        spread_subdirectories(path)

    def settle(self):
        os.sync()

    def make_cold(self):
        os.sync()
        drop_caches()

    def stop(self):
        shutil.rmtree(self.root, ignore_errors=True)


class ClawfsSide:
    """A new volume on the host's filesystem, mounted with default options."""

    name = "clawfs"

    def __init__(self, clawfs, directory):
        self.clawfs = clawfs
        self.volume = os.path.join(directory, "volume")
        self.mountpoint = os.path.join(directory, "mount")
        self.root = os.path.join(self.mountpoint, "work")
        self.token = secrets.token_hex(4)

    def start(self):
        os.makedirs(self.mountpoint)
        self._run("format", self.volume)
        self.mount()
        os.mkdir(self.root)

    def mount(self):
        self._run("mount", self.volume, self.mountpoint)
        wait_until(lambda: is_mounted(self.mountpoint), MOUNT_TIMEOUT_SECONDS, "the mount to appear")

    def unmount(self):
        """Ends with a checkpoint; returns once the daemon let go of the volume, so that mount() can take it."""
        pid = self.daemon_pid()
        self._run("umount", self.mountpoint)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), MOUNT_TIMEOUT_SECONDS, "the daemon to end")

    def settle(self):
        """All acknowledged changes durable, background work done, the index on disk, the host's cache written."""
        fsync_directory(self.root)
        wait_until(self._is_idle, SETTLE_TIMEOUT_SECONDS, "background work to end")
        os.setxattr(self.mountpoint, "clawfs.checkpoint", b"1")
        os.sync()

    def _is_idle(self):
        """Everything staged in the journal is at home, and deleted files have been reaped: no operation is logged any more."""
        before = self.status()
        time.sleep(0.1)
        after = self.status()
        return after["homer"]["backlog_bytes"] == 0 and after["journal"]["operations"] == before["journal"]["operations"]

    def make_cold(self):
        """As after a reboot: the daemon starts again, so that neither its caches nor the kernel's hold anything."""
        self.settle()
        self.unmount()
        drop_caches()
        self.mount()

    def make_directory(self, path):
        os.mkdir(path)

    def status(self):
        return json.loads(os.getxattr(self.mountpoint, "clawfs.status"))

    def daemon_pid(self):
        exe = os.path.realpath(self.clawfs)
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)") != exe:  # rebuilt meanwhile
                    continue
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    if os.fsencode(self.mountpoint) in f.read().split(b"\0"):
                        return int(pid)
        raise RuntimeError(f"no running {exe} serves {self.mountpoint}")

    def stop(self):
        if is_mounted(self.mountpoint):
            try:
                self.unmount()
            except RuntimeError:  # a daemon that died or hangs must not leave its mount behind
                subprocess.run(["umount", "--lazy", self.mountpoint], check=False)
        shutil.rmtree(self.volume, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rmdir(self.mountpoint)

    def _run(self, *arguments):
        done = subprocess.run([self.clawfs, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"clawfs {' '.join(arguments)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout


def is_mounted(path):
    """Without asking what is mounted there: it may be dead."""
    with open("/proc/self/mounts") as f:
        return any(line.split()[1] == path for line in f)


def wait_until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds} s for {what}")
        time.sleep(0.01)
