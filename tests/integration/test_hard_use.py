"""What programs do to files that others hold open, and at the edges of what a filesystem may be asked: each case once went wrong."""

import ctypes
import errno
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import arena  # noqa: E402
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

NAMES = (b"line\n#9  2026-01-31T12:00:00  uid 0  forged", b"escape\x1b[2J\x1b]0;title\x07", b"c1\xc2\x9b2J", b"latin\xe91", b"half\xe2\x82",
         b"del\x7f\r\b", b"quote\"\\'{}<b>&")


def spoils_a_terminal(text):
    """Whether the bytes have a control character other than the newlines between lines, or are no UTF-8."""
    try:
        return any(ord(c) < 32 and c != "\n" or 0x7f <= ord(c) < 0xa0 for c in text.decode())
    except UnicodeDecodeError:
        return True


class Names(clawfs_env.VolumeTest):
    """Whoever may create a file chooses its name, and an admin gets to see it: in logs, on a terminal, in JSON."""

    def output(self, *args, json_text=False):
        r = subprocess.run([clawfs_env.CLAWFS, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        if json_text:
            self.assertFalse(any(c < 32 and c != 10 for c in r.stdout), (args, r.stdout))
            r.stdout.decode()
        else:
            self.assertFalse(spoils_a_terminal(r.stdout), (args, r.stdout))
        self.assertFalse(spoils_a_terminal(r.stderr), (args, r.stderr))
        return r

    def test_no_name_commands_a_terminal_or_forges_a_line(self):
        v = self.volume("audit=changes")
        mnt = os.fsencode(v.mnt)
        self.output("snap", "create", "before", v.mnt)
        for name in NAMES:
            os.mkdir(mnt + b"/" + name)
            os.setxattr(mnt + b"/" + name, "clawfs.quota.max_files", b"5")
        clawfs_env.cli("sync", v.mnt)
        told = self.output("snap", "diff", "before", v.mnt).stdout.splitlines()
        self.assertEqual(len(told), len(NAMES), told)
        told = self.output("quota", "list", v.mnt).stdout.splitlines()
        self.assertEqual(len(told), len(NAMES), told)
        for line in told:
            self.assertFalse(line.startswith(b"?:"), "a path that is no UTF-8 is told all the same")
        quotas = json.loads(clawfs_env.cli("quota", "list", "--json", v.mnt).stdout)
        told = {bytes.fromhex(q["path"]["hex"]) if isinstance(q["path"], dict) else q["path"].encode() for q in quotas}
        self.assertEqual(told, {b"/" + name for name in NAMES})
        for name in NAMES:
            for verb in (("du",), ("quota", "show"), ("tier", "show"), ("tier", "evict"), ("snap", "list"), ("status",), ("umount",),
                         ("scrub", "clear")):
                self.output(*verb, mnt + b"/" + name)
                self.output(*verb, mnt + b"/not there " + name)
        for args in (("audit", v.mnt), ("top", v.mnt), ("status", v.mnt)):
            self.output(*args)
        self.output("watch", "--from", "0", "--once", v.mnt, json_text=True)
        holder = subprocess.Popen([sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'\\x1b[2Jx\\n', 0, 0, 0);"
                                   "print(1, flush=True); sys.stdin.read()"], cwd=v.mnt, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            holder.stdout.readline()
            self.assertIn(b"%d" % holder.pid, self.output("umount", v.mnt).stderr)
        finally:
            holder.communicate()

    def test_health_is_told_whatever_a_damaged_file_is_called(self):
        v = self.volume()
        mnt = os.fsencode(v.mnt)
        for i, name in enumerate(NAMES):
            with open(mnt + b"/" + name, "wb") as f:
                f.write(bytes([i + 1]) * arena.BLOCK)
        v.remount()
        blocks = arena.Arena(v.store)
        for i, name in enumerate(NAMES):
            with self.subTest(name=name):
                place = blocks.find(bytes([i + 1]) * arena.BLOCK)
                blocks.write(place, b"!" * arena.BLOCK)
                with self.assertRaises(OSError), open(mnt + b"/" + name, "rb") as f:
                    f.read()
                health = v.status()["health"]
                self.assertGreater(health["damaged_reads"], i)
                self.assertIn(name[:2].decode(), health["last_damage"])
                self.assertFalse(spoils_a_terminal(health["last_damage"].encode() + health["last_error_line"].encode()))
        with open(v.log, "rb") as f:
            self.assertFalse(spoils_a_terminal(f.read()))
        self.output("status", v.mnt)
        v.umount()
        self.output("fsck", v.store)
        self.assertEqual(len(json.loads(v.fsck("--json", check=clawfs_env.EXIT_DAMAGED).stdout)["findings"]), len(NAMES))
        self.output("dump", v.store, json_text=True)
        v.mount()
        self.output("scrub", "start", "--wait", v.mnt)
        self.output("scrub", "status", v.mnt)

    def test_a_volume_and_a_mountpoint_may_be_called_anything(self):
        for name in NAMES:
            top = os.path.join(os.fsencode(self.tmp), b"dir " + name)
            os.makedirs(top + b"/mnt")
            with self.subTest(name=name):
                self.output("format", "--journal-size=12M", "--segment-size=6M", "--chunk-size=16M", top + b"/store")
                log = top + b"/log"
                subprocess.run([clawfs_env.CLAWFS, "mount", "--log=" + os.fsdecode(log), top + b"/store", top + b"/mnt"], check=True, timeout=60)
                try:
                    facts = json.loads(self.output("status", "--json", top + b"/mnt").stdout)
                    self.assertIn("source", facts)
                    self.assertIn("volume", facts)
                    self.output("status", top + b"/mnt")
                    self.output("info", top + b"/mnt")
                    again = subprocess.run([clawfs_env.CLAWFS, "mount", "--log=" + os.fsdecode(log), top + b"/store", top + b"/mnt"],
                                           stderr=subprocess.PIPE, timeout=60)
                    self.assertEqual(again.returncode, 32)
                finally:
                    subprocess.run(["umount", top + b"/mnt"], check=False)
                with open(log, "rb") as f:
                    said = f.read()
                self.assertFalse(spoils_a_terminal(said), said)
                self.assertRegex(said, rb"not mounted: .*in use")

    def test_a_label_is_text(self):
        for label in (b"a\nb", b"\x1b[2J", b"\xff", b"\xe2\x82"):
            with self.subTest(label=label):
                r = self.output("format", b"--label=" + label, os.path.join(self.tmp, "labelled"))
                self.assertEqual(r.returncode, clawfs_env.EXIT_USAGE)
        self.assertFalse(os.path.exists(os.path.join(self.tmp, "labelled")))


class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]


class Handles(clawfs_env.VolumeTest):
    """What an NFS server keeps of a file: it must open the file again when the kernel has long forgotten it, or say ESTALE."""

    libc = ctypes.CDLL(None, use_errno=True)

    def handle(self, path):
        h, mount_id = Handle(bytes=128), ctypes.c_int()
        self.assertEqual(self.libc.name_to_handle_at(-100, path.encode(), ctypes.byref(h), ctypes.byref(mount_id), 0), 0, path)
        return h

    def open_handle(self, mount_fd, h):
        """A descriptor (O_PATH), or -errno."""
        fd = self.libc.open_by_handle_at(mount_fd, ctypes.byref(h), os.O_PATH | os.O_NOFOLLOW)
        return fd if fd >= 0 else -ctypes.get_errno()

    @staticmethod
    def forget():
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
            f.write("2")

    def check(self, v, handles, gone=()):
        mount_fd = os.open(v.mnt, os.O_RDONLY)
        try:
            for name, (h, ino) in handles.items():
                with self.subTest(name=name):
                    self.forget()
                    fd = self.open_handle(mount_fd, h)
                    if name in gone:
                        self.assertEqual(fd, -errno.ESTALE)
                        continue
                    self.assertGreaterEqual(fd, 0, os.strerror(-fd))
                    self.assertEqual(os.fstat(fd).st_ino, ino)
                    os.close(fd)
        finally:
            os.close(mount_fd)

    def test_a_file_handle_outlives_the_kernels_caches_and_the_mount(self):
        v = self.volume()
        names = ["file", "empty", "dir", "dir/sub", "dir/sub/file", "link", "fifo", "socket", "device", "hard"]
        for d in ("dir", "dir/sub"):
            os.mkdir(v.path(d))
        for f in ("file", "dir/sub/file", "other"):
            v.write(f, b"x" * 10000)
        v.write("empty", b"")
        os.symlink("file", v.path("link"))
        os.mkfifo(v.path("fifo"))
        os.mknod(v.path("socket"), 0o140600)
        os.mknod(v.path("device"), 0o20600, os.makedev(1, 3))
        os.link(v.path("other"), v.path("hard"))
        clawfs_env.cli("snap", "create", "s", v.mnt)
        names.append(".clawfs/snapshots/s/dir/sub/file")
        handles = {n: (self.handle(v.path(n)), os.lstat(v.path(n)).st_ino) for n in names}
        self.check(v, handles)
        v.remount()
        self.check(v, handles)
        os.unlink(v.path("hard"))
        os.rename(v.path("dir/sub/file"), v.path("moved"))
        for n in ("file", "empty", "link", "fifo", "socket", "device"):
            os.unlink(v.path(n))
        gone = ("file", "empty", "link", "fifo", "socket", "device")
        self.check(v, handles, gone)
        v.kill9().mount()
        self.check(v, handles, gone)
        v.umount()
        v.fsck()


class Cookies(clawfs_env.VolumeTest):
    """What an NFS client keeps of a listing it has not finished: the place must be the same after a restart of the server."""

    libc = ctypes.CDLL(None, use_errno=True)

    def listing(self, path, begin=None):
        """[(cookie behind it, name)]"""
        libc = self.libc
        libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
        libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
        libc.readdir.argtypes = libc.closedir.argtypes = [ctypes.c_void_p]
        stream, found = libc.opendir(path.encode()), []
        self.assertTrue(stream)
        if begin is not None:
            libc.seekdir(stream, begin)
        while True:
            e = libc.readdir(stream)  # struct dirent: d_ino, d_off, d_reclen, d_type, d_name
            if not e:
                break
            found.append((ctypes.c_long.from_address(e + 8).value, ctypes.string_at(e + 19)))
        libc.closedir(stream)
        return found

    def test_a_cookie_outlives_the_mount_and_what_is_deleted_meanwhile(self):
        v = self.volume()
        os.mkdir(v.path("d"))
        for i in range(300):
            os.symlink("x", v.path("d", "e%d" % i))
        whole = self.listing(v.path("d"))
        self.assertEqual(len(whole), 302)
        gone = {b"e%d" % i for i in range(0, 300, 7)}
        deleted = set()
        for step in (v.remount, lambda: v.kill9().mount()):
            step()
            for at, (cookie, _) in enumerate(whole):
                left = [name for _, name in whole[at + 1:] if name not in deleted]
                self.assertEqual([name for _, name in self.listing(v.path("d"), cookie)], left, at)
            for name in gone - deleted:
                os.unlink(v.path("d", name.decode()))
            deleted = gone
        v.umount()
        v.fsck()


class Descriptors(clawfs_env.VolumeTest):
    def closed(self, which, *args):
        """The exit code of a program that is started without these of its standard descriptors."""
        words = " ".join("%d%s-" % (fd, "<&" if fd == 0 else ">&") for fd in which)
        return subprocess.run(["sh", "-c", 'exec "$@" ' + words, "sh", clawfs_env.CLAWFS, *args],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30).returncode

    def test_a_program_without_standard_descriptors_spoils_nothing(self):
        for which in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
            with self.subTest(closed=which):
                top = os.path.join(self.tmp, "".join(map(str, which)))
                store, mnt = top + "/store", top + "/mnt"
                os.makedirs(mnt)
                self.addCleanup(subprocess.run, ["umount", "-l", mnt], stderr=subprocess.DEVNULL, check=False)
                small = ("--journal-size=12M", "--segment-size=6M", "--chunk-size=16M")
                self.assertEqual(self.closed(which, "format", *small, store), clawfs_env.EXIT_OK)
                self.assertEqual(self.closed(which, "mount", "-v", store, mnt), clawfs_env.EXIT_OK)
                with open(mnt + "/f", "wb") as f:
                    f.write(b"bytes" * 100000)
                for args in (("status", mnt), ("sync", mnt), ("audit", mnt), ("umount", mnt), ("fsck", store), ("dump", store)):
                    self.assertEqual(self.closed(which, *args), clawfs_env.EXIT_OK, args)


class Words(clawfs_env.VolumeTest):
    def test_a_path_that_is_not_there_is_said_by_every_verb(self):
        table = [line.split("\t") for line in clawfs_env.cli("help", "--table").stdout.splitlines()]
        verbs = [(f[1], f[2].replace("[", "").replace("]", "").split()) for f in table if f[0] == "verb"]
        verbs = [(name.split(), operands) for name, operands in verbs if operands and operands[-1] in ("MOUNTPOINT", "PATH") and "mount" not in (name, name.split(".")[0])]
        self.assertGreater(len(verbs), 30)
        missing = os.path.join(self.tmp, "not", "there")
        for name, operands in verbs:
            with self.subTest(verb=name):
                r = clawfs_env.cli(*name, *["x"] * (len(operands) - 1), missing, check=clawfs_env.EXIT_FAILURE)
                self.assertEqual(r.stderr, "clawfs: %s: No such file or directory\n" % missing)

    def test_verbs_about_cold_files_do_not_walk_through_other_filesystems(self):
        for verb in ("show", "evict", "recall", "pin"):
            with self.subTest(verb=verb):
                for path in (self.tmp, "/dev/null"):
                    r = clawfs_env.cli("tier", verb, path, check=clawfs_env.EXIT_FAILURE)
                    self.assertEqual(r.stdout, "")
                    self.assertIn("not on a clawfs mount", r.stderr)

    def test_what_cannot_be_printed_is_no_success(self):
        v = self.volume()
        with open("/dev/full", "w", encoding="utf-8") as full:
            for args in (("status", v.mnt), ("info", v.mnt), ("tier", "list", "--json", v.mnt), ("help", "--table"), ("--version",)):
                r = subprocess.run([clawfs_env.CLAWFS, *args], stdout=full, stderr=subprocess.PIPE, timeout=60)
                with self.subTest(args=args):
                    self.assertEqual(r.returncode, clawfs_env.EXIT_FAILURE)
                    self.assertIn(b"No space left", r.stderr)


class Hosts(clawfs_env.VolumeTest):
    def test_a_read_only_host_is_said_by_every_command(self):
        """Also where the volume's directory is called as an error is."""
        for name in ("plain", "block No space left Corruption does not exist lock Resource busy"):
            with self.subTest(name=name):
                v = self.volume(name=name, mount=False)
                subprocess.run(["mount", "--bind", v.store, v.store], check=True)
                self.addCleanup(subprocess.run, ["umount", "-l", v.store], check=False)
                subprocess.run(["mount", "-o", "remount,bind,ro", v.store], check=True)
                for args, code in ((("mount", v.store, v.mnt), 32), (("mount", "-o", "ro", v.store, v.mnt), 32),
                                   (("fsck", v.store), clawfs_env.EXIT_FSCK_ERROR), (("dump", v.store), clawfs_env.EXIT_FAILURE)):
                    r = clawfs_env.cli(*args, check=code)
                    self.assertIn("the host filesystem is read-only", r.stderr, args)
                self.assertIn("volume", clawfs_env.cli("info", v.store, check=clawfs_env.EXIT_OK).stdout)
                subprocess.run(["umount", v.store], check=True)
                v.mount().umount()


    def test_a_format_that_begins_has_room_to_end(self):
        host = os.path.join(self.tmp, "host")
        os.mkdir(host)
        made = 0
        for mib in range(40, 68, 2):
            with self.subTest(mib=mib):
                subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%dM" % mib, "none", host], check=True)
                try:
                    r = clawfs_env.cli("format", "--journal-size=12M", "--segment-size=6M", "--chunk-size=16M", "--reserve=16M", host + "/v")
                    if r.returncode == clawfs_env.EXIT_OK:
                        made += 1
                        clawfs_env.cli("fsck", host + "/v", check=clawfs_env.EXIT_OK)
                    else:
                        self.assertIn("choose smaller", r.stderr)
                        self.assertEqual(os.listdir(host), [])
                finally:
                    subprocess.run(["umount", host], check=True)
        self.assertIn(made, range(2, 13))


class Options(clawfs_env.VolumeTest):
    def test_of_opposite_mount_options_the_last_one_counts(self):
        v = self.volume(mount=False)
        for off, on in (("ro", "rw"), ("nosuid", "suid"), ("nodev", "dev"), ("noexec", "exec")):
            for words, is_off in (((off, on), False), ((on, off), True), ((off, on, off), True)):
                with self.subTest(words=words):
                    v.mount(*words)
                    options = next(m[3] for m in clawfs_env.mounts() if m[0] == v.mnt).split(",")
                    self.assertEqual(off in options, is_off, options)
                    v.umount()
        for words, moves in ((("noatime", "atime"), True), (("noatime", "relatime"), True), (("atime", "noatime"), False)):
            with self.subTest(words=words):
                v.mount(*words)
                v.write("f", b"read me")
                os.utime(v.path("f"), (1, 1))
                v.remount()
                v.read("f")
                v.remount()
                self.assertEqual(os.stat(v.path("f")).st_atime > 1, moves)
                v.umount()


class Counts(clawfs_env.VolumeTest):
    def test_fsck_counts_the_blocks_that_files_have(self):
        v = self.volume()
        want = 0
        for n in (1, 2, 15, 16, 17, 40):
            v.write("f%d" % n, b"x" * (n * 4096))
            want += n
        with open(v.path("sparse"), "wb") as f:
            f.truncate(1 << 30)
            os.pwrite(f.fileno(), b"end", 1 << 29)
            want += 1
        self.assertEqual(sum(os.stat(v.path(n)).st_blocks for n in os.listdir(v.mnt)), want * 8)
        v.umount()
        told = json.loads(v.fsck("--json").stdout)
        self.assertEqual((told["blocks"], told["bytes_verified"]), (want, want * 4096))


class Again(clawfs_env.VolumeTest):
    def test_a_volume_with_credentials_can_be_formatted_over(self):
        v = self.volume(mount=False)
        os.mkdir(os.path.join(v.store, "credentials"), 0o700)
        with open(os.path.join(v.store, "credentials", "cold"), "w", encoding="utf-8") as f:
            f.write("secret")
        clawfs_env.cli("format", "--force", "--confirm=destroy", "--journal-size=128M", v.store, check=clawfs_env.EXIT_OK)
        self.assertNotIn("credentials", os.listdir(v.store))


if __name__ == "__main__":
    clawfs_env.main()
