"""golden: volumes as older releases left them, and what they hold (guarantee G17).

    golden.py make CLAWFS NAME       makes NAME.tar.xz and NAME.json here with that release's program, once for each release

NAME.tar.xz has two volumes: `clean`, which was unmounted, and `dirty`, whose daemon was killed; both with a few cold files, whose
objects lie in `objects`.  NAME.json says what a mount of either shows.  Volumes know the place of a store by its path, so both
making and reading happen in a mount namespace in which OBJECTS is what was unpacked: see enter().
"""

import ctypes
import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "integration"))

OBJECTS = "/mnt"  # a mountpoint that every system has; other processes keep theirs
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
SMALL = {"journal_size": "16M", "segment_size": "4M", "chunk_size": "16M"}


def enter(objects):
    """From here on this process and its children see the directory `objects` at OBJECTS; nobody else does."""
    libc = ctypes.CDLL(None, use_errno=True)

    def must(what, r):
        if r:
            raise OSError(ctypes.get_errno(), what)
    must("unshare", libc.unshare(CLONE_NEWNS))
    must("mount", libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    must("mount", libc.mount(os.fsencode(objects), OBJECTS.encode(), None, MS_BIND, None))


def data_ranges(path):
    """[[from, to]]: where the file has data."""
    found, at, fd = [], 0, os.open(path, os.O_RDONLY)
    try:
        while True:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                return found
            at = os.lseek(fd, start, os.SEEK_HOLE)
            found.append([start, at])
    finally:
        os.close(fd)


def describe(path):
    s = os.lstat(path)
    d = {"ino": s.st_ino, "mode": s.st_mode, "nlink": s.st_nlink, "uid": s.st_uid, "gid": s.st_gid, "size": s.st_size, "rdev": s.st_rdev,
         "mtime_ns": s.st_mtime_ns}
    d["xattrs"] = {n: hashlib.sha256(os.getxattr(path, n, follow_symlinks=False)).hexdigest()
                   for n in sorted(os.listxattr(path, follow_symlinks=False))}
    if stat.S_ISLNK(s.st_mode):
        d["target"] = hashlib.sha256(os.fsencode(os.readlink(path))).hexdigest()
    if stat.S_ISREG(s.st_mode):
        with open(path, "rb") as f:
            d["sha256"] = hashlib.sha256(f.read()).hexdigest()
        d["data"] = data_ranges(path)
    return d


def tree(top):
    """{name: everything there is to it}; names as they are on disk, in hexadecimal where they are not UTF-8."""
    found = {}
    for base, dirs, files in os.walk(os.fsencode(top)):
        for name in dirs + files:
            path = os.path.join(base, name)
            rel = os.path.relpath(path, os.fsencode(top))
            try:
                key = rel.decode()
            except UnicodeDecodeError:
                key = "hex:" + rel.hex()
            found[key] = describe(os.fsdecode(path))
    return found


def as_lines(found):
    """JSON with a line for each name."""
    kinds = ['"%s": {\n%s\n}' % (kind, ",\n".join('%s: %s' % (json.dumps(n), json.dumps(d, sort_keys=True)) for n, d in sorted(names.items())))
             for kind, names in sorted(found.items())]
    return "{\n%s\n}\n" % ",\n".join(kinds)


def fill(top, rng):
    """A tree with everything that a tree can have, and nothing large that cannot be compressed."""
    def put(name, data, mode="wb"):
        with open(os.path.join(top, name), mode) as f:
            f.write(data)
    os.makedirs(top + "/dir/deep/er")
    put("empty", b"")
    put("small", b"one line\n")
    put("random", rng.randbytes(50001))
    put("large", rng.randbytes(4096) * 1000 + b"tail")
    put("dir/appended", b"a" * 5000)
    put("dir/appended", b"b" * 5000, "ab")
    with open(top + "/sparse", "wb") as f:
        f.truncate(1 << 30)
        for at in (0, 123 * 4096, 77 * 65536 + 4096, (1 << 30) - 4096):
            f.seek(at)
            f.write(rng.randbytes(4096))
    os.link(top + "/small", top + "/dir/deep/hard")
    os.symlink("../small", top + "/dir/soft")
    os.symlink("x" * 4000, top + "/dir/long")
    os.mkfifo(top + "/fifo", 0o640)
    os.mknod(top + "/device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.chown(top + "/small", 1234, 4321)
    os.chmod(top + "/small", 0o4751)
    os.utime(top + "/small", ns=(1111111111222222222, 1234567890123456789))
    os.setxattr(top + "/small", "user.note", b"\0binary\xff")
    os.setxattr(top + "/dir", "trusted.big", b"v" * 60000)
    subprocess.run(["setfacl", "-m", "u:1234:rw,g:99:r", top + "/random"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx", top + "/dir/deep"], check=True)
    put(b"\xff\xfe name".decode("utf-8", "surrogateescape"), b"a name that is not UTF-8")
    for i in range(90):
        put("dir/deep/er/f%03d" % i, b"content of %d\n" % i)
    for i in range(0, 90, 3):
        os.unlink(top + "/dir/deep/er/f%03d" % i)
    os.rename(top + "/dir/deep/er/f001", top + "/dir/deep/er/a new name")
    os.mkdir(top + "/cold")
    os.setxattr(top + "/cold", "clawfs.tier", b"after=1000d min=4K store=cold")
    for i in range(5):
        put("cold/f%d" % i, rng.randbytes(100) * rng.randrange(100, 2000))


def make_one(name, top, killed):
    from clawfs_env import EXIT_OK, Volume, cli
    v = Volume(top, "work-" + name).format(label="golden", **SMALL).mount()
    cli("tier", "add", "cold", "file://" + OBJECTS + "/" + name, v.mnt, check=EXIT_OK)
    fill(v.mnt, random.Random(name))
    cli("sync", v.mnt, check=EXIT_OK)
    cli("tier", "evict", v.path("cold"), check=EXIT_OK)
    with open(v.path("cold/f1"), "r+b") as f:  # one that is both hot and cold
        f.seek(70000)
        f.write(b"changed")
    for base, _, files in os.walk(v.mnt):
        for n in files:
            if os.path.isfile(os.path.join(base, n)):
                fd = os.open(os.path.join(base, n), os.O_RDONLY)
                os.fsync(fd)  # so that times are on disk, too
                os.close(fd)
    found = tree(v.mnt)
    v.kill9() if killed else v.umount()
    os.rename(v.store, os.path.join(top, name))
    v.close()
    return found


def make(name):
    top = tempfile.mkdtemp(prefix="clawfs-golden-")
    try:
        objects = os.path.join(top, "objects")
        for kind in ("clean", "dirty"):
            os.makedirs(os.path.join(objects, kind))
        enter(objects)
        found = {kind: make_one(kind, top, kind == "dirty") for kind in ("clean", "dirty")}
        subprocess.run(["tar", "-C", top, "--numeric-owner", "-cJf", os.path.join(HERE, name + ".tar.xz"), "clean", "dirty", "objects"],
                       check=True)
        with open(os.path.join(HERE, name + ".json"), "w") as f:
            f.write(as_lines(found))
    finally:
        shutil.rmtree(top, ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] != "make":
        sys.exit(__doc__)
    os.environ["CLAWFS"] = sys.argv[2]
    make(sys.argv[3])
