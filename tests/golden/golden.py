"""golden: volumes as older releases left them, and what they hold (guarantee G17).

    golden.py make CLAWFS NAME       makes NAME.tar.xz and NAME.json here with that release's program, once for each release

NAME.tar.xz has volumes: `clean`, which was unmounted, and `dirty`, whose daemon was killed, and, of releases that encrypt, `encrypted` and
`signed`, which the file `key` opens; all with a few cold files, whose objects lie in `objects`, and, of releases that have them, a
snapshot, SNAPSHOT.  NAME.json says what a mount of each shows, and its snapshot, and under "features" the bits of its superblock.
Volumes know the place of a store by its path, so both making and reading happen in a mount namespace in which OBJECTS is what was
unpacked: see enter().

Together the volumes must have every feature bit that the release knows, or `make` fails: whoever adds a bit adds to fill() or use() what
sets it.  test_golden.py makes such a pair with the build under test each time, and reads it as it reads those of older releases.
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
SNAPSHOT = "before the changes"
KINDS = {"clean": {}, "dirty": {}, "encrypted": {"encrypt": "xts"}, "signed": {"encrypt": "aead"}}
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
SMALL = {"journal_size": "16M", "segment_size": "4M", "chunk_size": "16M"}


def enter(objects):
    """From here on this process and its children see the directory `objects` at OBJECTS; nobody else does."""
    libc = ctypes.CDLL(None, use_errno=True)

    def must(what, r):
        if r:
            raise OSError(ctypes.get_errno(), what)
    must("unshare", libc.unshare(CLONE_NEWNS))
    must("mount", libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    libc.umount2(OBJECTS.encode(), MNT_DETACH)  # what an earlier call put there may be removed by now
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


def fill(top, rng, small):
    """A tree with everything that a tree can have, and nothing large that cannot be compressed, less of it when `small`."""
    def put(name, data, mode="wb"):
        with open(os.path.join(top, name), mode) as f:
            f.write(data)
    os.makedirs(top + "/dir/deep/er")
    put("empty", b"")
    put("small", b"one line\n")
    put("random", rng.randbytes(50001))
    put("large", rng.randbytes(4096) * (20 if small else 1000) + b"tail")
    put("dir/appended", b"a" * 5000)
    put("dir/appended", b"b" * 5000, "ab")
    with open(top + "/sparse", "wb") as f:
        f.truncate(1 << 26)
        for at in (0, 123 * 4096, 77 * 65536 + 4096, (1 << 26) - 4096):
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
        put("cold/f%d" % i, rng.randbytes(100) * rng.randrange(100, 200 if small else 2000))


def use(v, rng, small):
    """What the release can do to a volume beside filling it; what is there of it now: {what: tree}."""
    from clawfs_env import cli
    shown = {}
    if cli("snap", "create", "before", v.mnt).returncode == 0:
        v.write("after", b"gone again")
        cli("snap", "rollback", "--no-keep", "before", v.mnt)  # of releases that can
        cli("snap", "delete", "before", v.mnt)
        if os.path.exists(v.path("after")):
            os.unlink(v.path("after"))
    if cli("clone", v.path("large"), v.path("cloned")).returncode == 0:  # of releases that can
        os.utime(v.path("cloned"), ns=(1111111111222222222, 1234567890123456789))
    v.write("packed", b"what compresses well\n" * (200 if small else 8000))
    try:
        os.setxattr(v.path("packed"), "clawfs.compression", b"zstd")
        cli("compress", v.path("packed"))
    except OSError:
        pass  # of a release that does not know it
    if cli("snap", "create", SNAPSHOT, v.mnt).returncode == 0:
        shown["snapshot of "] = lambda: tree(snapshot_of(v))
        with open(v.path("random"), "r+b") as f:
            f.seek(20000)
            f.write(rng.randbytes(9000))
        os.unlink(v.path("empty"))
        os.truncate(v.path("large"), 70000)
        os.rename(v.path("dir", "deep", "er", "f002"), v.path("moved"))
    return shown


def snapshot_of(v):
    return v.path(".clawfs", "snapshots", SNAPSHOT)


def features(store):
    """(those of the volume, those that the release knows); of a release that does not tell, the latter are the former."""
    from clawfs_env import cli
    facts = json.loads(cli("upgrade", "--check", "--json", store).stdout)
    words = ("compat", "ro_compat", "incompat")
    has = [name for word in words for name in facts[word]]
    return has, [name for word in words for name in facts.get("known_to_this_release", facts)[word]]


def mount_options(kind, top):
    return ("key=" + os.path.join(top, "key"),) if KINDS[kind] else ()


def make_one(kind, top):
    """Makes the volume, and returns what it shows: {what: {name: facts}}."""
    from clawfs_env import EXIT_OK, Volume, cli
    secret = {**KINDS[kind], "key": os.path.join(top, "key")} if KINDS[kind] else {}
    rng = random.Random(kind)
    v = Volume(top, "work-" + kind).format(label="golden", **SMALL, **secret).mount(*mount_options(kind, top))
    cli("tier", "add", "cold", "file://" + OBJECTS + "/" + kind, v.mnt, check=EXIT_OK)
    fill(v.mnt, rng, bool(secret))  # what is encrypted cannot be compressed
    shown = use(v, rng, bool(secret))
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
    found = {kind: tree(v.mnt), **{what + kind: look() for what, look in shown.items()}}
    v.kill9() if kind == "dirty" else v.umount()
    os.rename(v.store, os.path.join(top, kind))
    v.close()
    return found


def make(name, where=HERE):
    from clawfs_env import cli
    top = tempfile.mkdtemp(prefix="clawfs-golden-")
    try:
        objects = os.path.join(top, "objects")
        encrypts = "--encrypt" in cli("format", "--help").stdout
        kinds = [kind for kind, secret in KINDS.items() if encrypts or not secret]
        for kind in kinds:
            os.makedirs(os.path.join(objects, kind))
        with open(os.path.join(top, "key"), "wb") as f:
            f.write(random.Random(name).randbytes(32))
        os.chmod(os.path.join(top, "key"), 0o600)
        enter(objects)
        found, told = {}, {}
        for kind in kinds:
            found.update(make_one(kind, top))
            has, known = features(os.path.join(top, kind))
            told[kind] = {"features": has}
        found["features"] = told
        lacking = set(known) - {name for kind in told.values() for name in kind["features"]}
        if lacking:
            raise SystemExit("no volume has the features %s: make fill() or use() set them" % sorted(lacking))
        subprocess.run(["tar", "-C", top, "--numeric-owner", "-cJf", os.path.join(where, name + ".tar.xz"), *kinds, "objects", "key"],
                       check=True)
        with open(os.path.join(where, name + ".json"), "w") as f:
            f.write(as_lines(found))
    finally:
        shutil.rmtree(top, ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] != "make":
        sys.exit(__doc__)
    os.environ["CLAWFS"] = sys.argv[2]
    make(sys.argv[3])
