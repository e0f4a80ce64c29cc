"""workload: processes that change a mounted tree, a ledger outside of what they were told, and the check afterwards.

Each worker owns one directory of the mount and does one random operation after the other in it.  Before an operation it
writes a line to its ledger (a file on another filesystem), after it another with the outcome; so the ledger knows, for every
operation, whether it was acked, when it began and when it ended.  The operations and their data follow from the seed.

After a crash each worker's directory must equal the state after some prefix of its operations (guarantee G1).  How long
that prefix must be at least depends on the crash:

    power loss   every operation acked before an acked durable point began, whichever worker asked for it (G2)
    kill -9      every acked operation (G3)

An operation that is one FUSE request is there whole or not at all.  A buffered write is several: where the prefix ends inside
it, each page of that file may be old or new.  All of them end with close(), which hands dirty pages to the daemon.
"""

import ctypes
import errno
import json
import mmap
import os
import random
import signal
import stat
import time

PAGE = 4096
FILES_MAX, FILE_BYTES_MAX = 30, 1 << 20
XATTR_SIZES = (3, 40, 1000, 9000)
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE = 1, 2
RENAME_EXCHANGE = 2
AT_FDCWD = -100

libc = ctypes.CDLL(None, use_errno=True)


def pattern(seed, length):
    """Bytes that tell which write they came from, wherever one looks: never zero, incompressible."""
    return random.Random(seed).randbytes(length).replace(b"\0", b"\1")


class Node:
    def __init__(self, kind, mode, data=b"", target=""):
        self.kind, self.mode, self.data, self.target = kind, mode, data, target
        self.xattrs = {}
        self.links = 1


class State:
    """A worker's directory as it should be: path below it -> Node; hard links share their Node."""

    def __init__(self):
        self.names = {}

    def kind(self, *kinds):
        return [p for p in self.names if self.names[p].kind in kinds]

    def dirs(self):
        return [""] + self.kind("dir")

    def is_empty(self, path):
        return not any(p.startswith(path + "/") for p in self.names)

    def put(self, path, node):
        self.drop(path)
        self.names[path] = node

    def drop(self, path):
        node = self.names.pop(path, None)
        if node:
            node.links -= 1

    def move(self, old, new):
        """Everything named `old` or below it is named `new` or below it."""
        for path in [p for p in self.names if p == old or p.startswith(old + "/")]:
            self.names[new + path[len(old):]] = self.names.pop(path)


# ---- operations: op_X(root, state, ...) on the mount, model_X on the State; see OPERATIONS at the end ----


def _write_at(data, off, new):
    return data[:off].ljust(off, b"\0") + new + data[off + len(new):]


def op_create(root, path, mode):
    os.close(os.open(root + path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))


def model_create(state, path, mode):
    state.put(path, Node("file", mode))


def op_mkdir(root, path, mode):
    os.mkdir(root + path, mode)


def model_mkdir(state, path, mode):
    state.put(path, Node("dir", mode))


def op_symlink(root, path, target):
    os.symlink(target, root + path)


def model_symlink(state, path, target):
    state.put(path, Node("symlink", 0o777, target=target))


def op_link(root, old, new):
    os.link(root + old, root + new, follow_symlinks=False)


def model_link(state, old, new):
    state.names[old].links += 1
    state.names[new] = state.names[old]


def op_unlink(root, path):
    os.unlink(root + path)


def model_unlink(state, path):
    state.drop(path)


def op_rmdir(root, path):
    os.rmdir(root + path)


def op_rename(root, old, new):
    os.rename(root + old, root + new)


def model_rename(state, old, new):
    if state.names.get(new) is state.names[old]:
        return  # two names of one inode: rename does nothing
    state.drop(new)
    state.move(old, new)


def op_exchange(root, a, b):
    if libc.renameat2(AT_FDCWD, (root + a).encode(), AT_FDCWD, (root + b).encode(), RENAME_EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def model_exchange(state, a, b):
    state.move(a, "\0")
    state.move(b, a)
    state.move("\0", b)


def _direct_buffer(data):
    buf = mmap.mmap(-1, len(data))
    buf.write(data)
    return buf


def op_direct(root, path, off, length, seed):
    fd = os.open(root + path, os.O_WRONLY | os.O_DIRECT)
    try:
        with _direct_buffer(pattern(seed, length)) as buf:
            if os.pwritev(fd, [buf], off) != length:
                raise OSError(errno.ENOMSG, "short direct write")
    finally:
        os.close(fd)


def model_write(state, path, off, length, seed):
    node = state.names[path]
    node.data = _write_at(node.data, off, pattern(seed, length))


def _buffered(root, path, off, length, seed, flags, sync):
    fd = os.open(root + path, os.O_WRONLY | flags)
    try:
        if os.pwrite(fd, pattern(seed, length), off) != length:
            raise OSError(errno.ENOMSG, "short write")
        if sync:
            sync(fd)
    finally:
        os.close(fd)


def op_buffered(root, path, off, length, seed):
    _buffered(root, path, off, length, seed, 0, None)


def op_fsync(root, path, off, length, seed):
    _buffered(root, path, off, length, seed, 0, os.fsync)


def op_fdatasync(root, path, off, length, seed):
    _buffered(root, path, off, length, seed, 0, os.fdatasync)


def op_dsync(root, path, off, length, seed):
    _buffered(root, path, off, length, seed, os.O_DSYNC, None)


def op_msync(root, path, off, length, seed):
    fd = os.open(root + path, os.O_RDWR)
    try:
        with mmap.mmap(fd, 0) as m:
            m[off:off + length] = pattern(seed, length)
            m.flush()
    finally:
        os.close(fd)


def op_truncate(root, path, size):
    os.truncate(root + path, size)


def model_truncate(state, path, size):
    node = state.names[path]
    node.data = node.data[:size].ljust(size, b"\0")


def op_punch(root, path, off, length):
    fd = os.open(root + path, os.O_RDWR)
    try:
        if libc.fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, ctypes.c_long(off), ctypes.c_long(length)) != 0:
            raise OSError(ctypes.get_errno(), "fallocate")
    finally:
        os.close(fd)


def model_punch(state, path, off, length):
    node = state.names[path]
    node.data = _write_at(node.data, off, bytes(length))[:len(node.data)]


def op_chmod(root, path, mode):
    os.chmod(root + path, mode)


def model_chmod(state, path, mode):
    state.names[path].mode = mode


def op_setxattr(root, path, name, length, seed):
    os.setxattr(root + path, name, pattern(seed, length))


def model_setxattr(state, path, name, length, seed):
    state.names[path].xattrs[name] = pattern(seed, length)


def op_rmxattr(root, path, name):
    os.removexattr(root + path, name)


def model_rmxattr(state, path, name):
    del state.names[path].xattrs[name]


def op_syncdir(root, path):
    fd = os.open(root + path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def model_nothing(state, *args):
    pass


class Operation:
    def __init__(self, do, model, weight, durable=False, whole=True):
        self.do, self.model, self.weight, self.durable, self.whole = do, model, weight, durable, whole


OPERATIONS = {
    "create": Operation(op_create, model_create, 10),
    "mkdir": Operation(op_mkdir, model_mkdir, 4),
    "symlink": Operation(op_symlink, model_symlink, 2),
    "link": Operation(op_link, model_link, 3),
    "unlink": Operation(op_unlink, model_unlink, 6),
    "rmdir": Operation(op_rmdir, model_unlink, 2),
    "rename": Operation(op_rename, model_rename, 6),
    "exchange": Operation(op_exchange, model_exchange, 2),
    "direct": Operation(op_direct, model_write, 12),
    "buffered": Operation(op_buffered, model_write, 10, whole=False),
    "fsync": Operation(op_fsync, model_write, 8, durable=True, whole=False),
    "fdatasync": Operation(op_fdatasync, model_write, 4, durable=True, whole=False),
    "dsync": Operation(op_dsync, model_write, 4, durable=True, whole=False),
    "msync": Operation(op_msync, model_write, 3, durable=True, whole=False),
    "truncate": Operation(op_truncate, model_truncate, 4),
    "punch": Operation(op_punch, model_punch, 2),
    "chmod": Operation(op_chmod, model_chmod, 2),
    "setxattr": Operation(op_setxattr, model_setxattr, 3),
    "rmxattr": Operation(op_rmxattr, model_rmxattr, 1),
    "syncdir": Operation(op_syncdir, model_nothing, 4, durable=True),
}


def _new_path(rng, state):
    parent = rng.choice([d for d in state.dirs() if d.count("/") < 3])
    path = (parent + "/" if parent else "") + "%s%d" % (rng.choice("abcdefgh"), rng.randrange(1000))
    return None if path in state.names else path


def _length(rng):
    return rng.choice((rng.randrange(1, 300), rng.randrange(1, 9000), PAGE, rng.randrange(1, 70000), rng.randrange(1, 300000)))


def _arguments(rng, state, name):
    """Arguments that make the operation succeed on `state`, or None."""
    files, links = state.kind("file"), state.kind("file", "symlink")
    seed = rng.randrange(1 << 40)
    if name in ("create", "mkdir", "symlink"):
        path = _new_path(rng, state) if len(state.names) < FILES_MAX else None
        extra = "t" * rng.randrange(1, 400) if name == "symlink" else rng.choice((0o644, 0o600, 0o755, 0o700))
        return path and (path, extra)
    if name == "syncdir":
        return (rng.choice(state.dirs()),)
    if name == "rmdir":
        empty = [d for d in state.kind("dir") if state.is_empty(d)]
        return empty and (rng.choice(empty),)
    if name in ("rename", "exchange"):
        return _rename_arguments(rng, state, name)
    if not files:
        return None
    path = rng.choice(files)
    size = len(state.names[path].data)
    if name == "unlink":
        return (rng.choice(links),) if len(state.names) > 5 else None
    if name == "link":
        new = _new_path(rng, state)
        return new and len(state.names) < FILES_MAX and (path, new)
    if name == "direct":
        return (path, rng.randrange(40) * PAGE, rng.choice((1, 1, 2, 5, 16, 17, 60, 256)) * PAGE, seed)
    if name == "msync":
        return size > 10 and (path, rng.randrange(size // 2), rng.randrange(1, size // 2 + 1), seed)
    if name == "truncate":
        return (path, rng.choice((0, rng.randrange(size + 1), size + rng.randrange(20000))))
    if name == "punch":
        return (path, rng.randrange(20) * PAGE, rng.randrange(1, 40) * PAGE)
    if name == "chmod":
        return (path, rng.choice((0o644, 0o600, 0o640, 0o755)))
    if name == "setxattr":
        return (path, "user." + rng.choice("abcd"), rng.choice(XATTR_SIZES), seed)
    if name == "rmxattr":
        names = list(state.names[path].xattrs)
        return names and (path, rng.choice(names))
    off = rng.choice((0, size, rng.randrange(size + 1), size + rng.randrange(9000)))
    return (path, min(off, FILE_BYTES_MAX), _length(rng), seed)


def _rename_arguments(rng, state, name):
    paths = list(state.names)
    if not paths:
        return None
    old = rng.choice(paths)
    if name == "exchange":
        new = rng.choice(paths)
        inside = new.startswith(old + "/") or old.startswith(new + "/")
        return new != old and not inside and (old, new)
    new = rng.choice(links) if (links := state.kind("file", "symlink")) and rng.random() < 0.5 else _new_path(rng, state)
    if not new or new == old or new.startswith(old + "/"):
        return None
    if state.names[old].kind == "dir" and new in state.names:
        return None
    return (old, new)


def choose(rng, state, synced):
    """An operation and its arguments; `synced` scales how often it is one that makes things durable."""
    names = list(OPERATIONS)
    weights = [o.weight * (synced if o.durable else 1) for o in OPERATIONS.values()]
    while True:
        name = rng.choices(names, weights)[0]
        args = _arguments(rng, state, name)
        if args:
            return name, list(args)


# ---- workers ----


class Entry:
    """One operation as the ledger has it; ended is None when it was in flight."""

    def __init__(self, name, args, started):
        self.name, self.args, self.started = name, args, started
        self.ended = self.failed = self.error = None


def _work(root, state, seed, ledger, pause, synced):
    rng = random.Random(seed)
    fd = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.umask(0)
    while True:
        name, args = choose(rng, state, synced)
        os.write(fd, (json.dumps(["start", time.monotonic(), name, args]) + "\n").encode())
        try:
            OPERATIONS[name].do(root, *args)
        except OSError as e:
            os.write(fd, (json.dumps(["error", time.monotonic(), e.errno]) + "\n").encode())
            return
        os.write(fd, (json.dumps(["end", time.monotonic()]) + "\n").encode())
        OPERATIONS[name].model(state, *args)
        if pause:
            time.sleep(rng.random() * pause)


class Worker:
    """A child process at work in `root` (its directory, which must equal `state`)."""

    def __init__(self, root, state, seed, ledger, pause=0, synced=1):
        self.root, self.state, self.ledger = root.rstrip("/") + "/", state, ledger
        self.pid = os.fork()
        if self.pid == 0:
            try:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                _work(self.root, state, seed, ledger, pause, synced)
            finally:
                os._exit(0)

    def stop(self, timeout=20):
        """Waits for the child, which ends by itself once the mount is gone; kills it otherwise."""
        end = time.monotonic() + timeout
        while self.pid and time.monotonic() < end:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                self.pid = None
                return
            time.sleep(0.002)
        self.kill()

    def kill(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = None

    def entries(self):
        found = []
        with open(self.ledger, encoding="utf-8") as f:
            for line in f:
                if not line.endswith("\n"):
                    break
                what, when, *rest = json.loads(line)
                if what == "start":
                    found.append(Entry(rest[0], rest[1], when))
                elif what == "end":
                    found[-1].ended = when
                else:
                    found[-1].failed, found[-1].error = when, rest[0]
        return found


# ---- checking ----


class Mismatch(Exception):
    """The tree is not what the ledger says it must be."""


class Actual:
    """A tree as found: path -> (kind, mode, ino, nlink, data or target, xattrs)."""

    def __init__(self, root):
        self.root, self.found = root.rstrip("/"), {}
        self._scan("")

    def _scan(self, below):
        with os.scandir(self.root + "/" + below) as entries:
            names = [e.name for e in entries]
        if len(set(names)) != len(names):
            raise Mismatch("%s/%s lists a name twice" % (self.root, below))
        for name in names:
            path = (below + "/" if below else "") + name
            st = os.lstat(self.root + "/" + path)
            full, kind, data = self.root + "/" + path, "file", b""
            if stat.S_ISDIR(st.st_mode):
                kind = "dir"
                self._scan(path)
            elif stat.S_ISLNK(st.st_mode):
                kind, data = "symlink", os.readlink(full)
            else:
                with open(full, "rb") as f:
                    data = f.read()
                if len(data) != st.st_size:
                    raise Mismatch("%s: %d bytes read, size is %d" % (full, len(data), st.st_size))
            xattrs = {n: os.getxattr(full, n) for n in os.listxattr(full)} if kind == "file" else {}
            self.found[path] = (kind, stat.S_IMODE(st.st_mode), st.st_ino, st.st_nlink, data, xattrs)

    def state(self):
        """The same as a State, to go on from."""
        state, by_ino = State(), {}
        for path, (kind, mode, ino, _, data, xattrs) in self.found.items():
            if kind != "dir" and ino in by_ino:
                by_ino[ino].links += 1
                state.names[path] = by_ino[ino]
                continue
            node = Node(kind, mode, data if kind == "file" else b"", data if kind == "symlink" else "")
            node.xattrs = xattrs
            by_ino[ino] = state.names[path] = node
        return state


def _data_difference(got, want, mixed, bytewise):
    """`mixed`: (data before, data after) of a write that may have arrived in part; `bytewise`: through a mapping."""
    if got == want:
        return None
    if mixed:
        before, after = mixed
        if not min(len(before), len(after)) <= len(got) <= max(len(before), len(after)):
            return "size %d, a write was changing it from %d to %d" % (len(got), len(before), len(after))
        for off in range(0, len(got), PAGE):
            page = got[off:off + PAGE]
            old, new = (d[off:off + len(page)].ljust(len(page), b"\0") for d in mixed)
            torn = bytewise and all(g in (o, n) for g, o, n in zip(page, old, new))
            if page not in (old, new) and not torn:
                return "page at %d is neither as before nor as after a write" % off
        return None
    if len(got) != len(want):
        return "size %d, must be %d" % (len(got), len(want))
    at = next(i for i in range(len(got)) if got[i] != want[i])
    what = "zeros" if not any(got[at:at + 64]) else "other bytes"
    return "%s at offset %d of %d" % (what, at, len(got))


def difference(state, actual, partly=None):
    """None, or in words where `actual` differs from `state`; `partly`: (node, before, after, bytewise) of an unfinished write."""
    names, found = state.names, actual.found
    if names.keys() != found.keys():
        return "missing %s, unexpected %s" % (sorted(names.keys() - found.keys())[:5], sorted(found.keys() - names.keys())[:5])
    inos = {}
    for path, node in names.items():
        kind, mode, ino, nlink, data, xattrs = found[path]
        if kind != node.kind or mode != node.mode:
            return "%s: %s %o, must be %s %o" % (path, kind, mode, node.kind, node.mode)
        if kind != "dir" and nlink != node.links:
            return "%s: %d links, must be %d" % (path, nlink, node.links)
        if inos.setdefault(ino, node) is not node:
            return "%s: shares an inode number with another file" % path
        if kind == "symlink" and data != node.target:
            return "%s: other target" % path
        if kind == "file":
            wrong = _data_difference(data, node.data, partly[1:3] if partly and partly[0] is node else None,
                                     partly and partly[3])
            if wrong:
                return "%s: %s" % (path, wrong)
            if xattrs != node.xattrs:
                return "%s: xattrs %s, must be %s" % (path, sorted(xattrs), sorted(node.xattrs))
    return None


def covered_count(workers_entries, which, everything):
    """How many operations of worker `which` a crash must have kept."""
    entries = workers_entries[which]
    acked = sum(e.ended is not None for e in entries)
    if everything:
        return acked
    begun = [e.started for es in workers_entries for e in es if e.ended is not None and OPERATIONS[e.name].durable]
    last = max(begun, default=-1)
    count = sum(e.ended is not None and e.ended < last for e in entries)
    own = [i + 1 for i, e in enumerate(entries) if e.ended is not None and OPERATIONS[e.name].durable]
    return max([count] + own)


def check(worker, entries, least, crashed_at):
    """Raises Mismatch unless the directory equals the state after a prefix of at least `least` operations, and none failed
    before the crash.  Returns (length of the prefix, State found)."""
    for e in entries:
        if e.failed is not None and e.failed < crashed_at:
            raise Mismatch("%s%s failed: %s" % (e.name, e.args, os.strerror(e.error)))
    actual, state, first = Actual(worker.root), worker.state, None
    for e in entries[:least]:
        OPERATIONS[e.name].model(state, *e.args)
    for done in range(least, len(entries) + 1):
        wrong = difference(state, actual)
        if not wrong:
            return done, actual.state()
        first = first or wrong
        if done == len(entries):
            break
        e = entries[done]
        node = state.names.get(e.args[0])
        before = node.data if node else b""
        OPERATIONS[e.name].model(state, *e.args)
        if not OPERATIONS[e.name].whole and not difference(state, actual, (node, before, node.data, e.name == "msync")):
            return done, actual.state()
    acked = sum(e.ended is not None for e in entries)
    raise Mismatch("%s: after no prefix of %d..%d of %d operations (%d acked); after %d: %s; after all: %s; last operations: %s"
                   % (worker.root, least, len(entries), len(entries), acked, least, first, wrong,
                      [(e.name, e.args) for e in entries[max(0, least - 3):]][:12]))
