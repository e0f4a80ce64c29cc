"""posix_data: what data does: reads, writes, mappings, space, locks (see posix_cases)."""

import ctypes
import fcntl
import mmap
import os
import resource
import select
import shutil
import signal
import struct
import subprocess
import time

from posix_env import (
    aligned, COLLAPSE, err, ERRNO_NAMES, fallocate, in_child, INSERT, K, KEEP_SIZE, libc, PUNCH_HOLE, read,
    write, ZERO_RANGE,
)


# ---- data ----


def case_open_flags(d):
    write(d + "/f", b"content")
    os.close(os.open(d + "/f", os.O_RDONLY | os.O_TRUNC))
    size = os.stat(d + "/f").st_size
    p = os.open(d + "/f", os.O_PATH)
    w, r = os.open(d + "/f", os.O_WRONLY), os.open(d + "/f", os.O_RDONLY)
    out = [size, err(os.read, p, 1), err(os.read, w, 1), err(os.write, r, b"x"), err(os.ftruncate, r, 3), os.fstat(p).st_size,
           os.read(r, 10).decode(), os.write(w, b"")]
    for fd in (p, w, r):
        os.close(fd)
    return out


def case_truncate(d):
    write(d + "/f", b"a" * 10000)
    os.truncate(d + "/f", 5000)
    os.truncate(d + "/f", 9000)
    assert read(d + "/f") == b"a" * 5000 + bytes(4000)
    os.truncate(d + "/f", 0)
    os.truncate(d + "/f", 300000)
    with open(d + "/f", "r+b") as f:
        f.seek(299999)
        f.write(b"end")
    data = read(d + "/f")
    assert data == bytes(299999) + b"end"
    # Bytes past the end, written through a mapping, must not come back when the file grows.
    fd = os.open(d + "/f", os.O_RDWR)
    os.ftruncate(fd, 100)
    m = mmap.mmap(fd, 100)
    m[50:100] = b"m" * 50
    m.flush()
    m.close()
    os.ftruncate(fd, 60)
    os.ftruncate(fd, 8192)
    assert os.pread(fd, 8192, 0) == bytes(50) + b"m" * 10 + bytes(8132)
    os.close(fd)
    return [len(data), os.stat(d + "/f").st_size]


def case_file_size_limit(d):
    def child():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
        fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR, 0o600)
        first = os.pwrite(fd, b"x" * 60000, 0)
        second = os.pwrite(fd, b"x" * 60000, 60000)
        return [first, second, err(os.pwrite, fd, b"x", 100000), err(os.ftruncate, fd, 200000), os.fstat(fd).st_size]
    return in_child(child)


def case_concurrent_appends_stay_whole(d):
    lines = 400
    pids = []
    for who in range(4):
        pid = os.fork()
        if pid == 0:
            fd = os.open(d + "/log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
            for i in range(lines):
                os.write(fd, (b"%d-%04d-" % (who, i)).ljust(97, b"x") + b"\n")
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    found = read(d + "/log").splitlines()
    assert all(len(line) == 97 for line in found), "a line is torn"
    assert len(set(found)) == len(found) == 4 * lines, "%d lines" % len(set(found))
    return len(found)


def case_append_ignores_offset(d):
    fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
    os.write(fd, b"one")
    os.pwrite(fd, b"two", 0)
    other = os.open(d + "/f", os.O_WRONLY)
    os.pwrite(other, b"X", 0)
    os.pwritev(other, [b"end"], 0, os.RWF_APPEND)
    out = [os.pread(fd, 20, 0).decode(), os.lseek(fd, 0, os.SEEK_CUR)]
    os.close(fd)
    os.close(other)
    return out


def case_direct_io(d):
    fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR | os.O_DIRECT, 0o600)
    data = os.urandom(256 * K)
    assert os.pwritev(fd, [aligned(data)], 0) == len(data)
    assert os.pwritev(fd, [aligned(b"y" * 4096)], 8192) == 4096
    want = data[:8192] + b"y" * 4096 + data[12288:]
    assert read(d + "/f") == want
    back = mmap.mmap(-1, 256 * K)
    assert os.preadv(fd, [back], 0) == 256 * K and back[:] == want
    got = os.preadv(fd, [back], 252 * K)
    past = os.preadv(fd, [back], 256 * K)
    # Both ways into the same file, one after the other.
    with open(d + "/f", "r+b") as f:
        f.seek(100)
        f.write(b"buffered")
    os.preadv(fd, [back], 0)
    assert back[100:108] == b"buffered"
    os.pwritev(fd, [aligned(b"z" * 4096)], 0)
    assert read(d + "/f")[:4096] == b"z" * 4096
    os.close(fd)
    return [got, past]


def case_direct_io_unaligned(d):
    write(d + "/f", b"0" * 9000)
    fd = os.open(d + "/f", os.O_RDWR | os.O_DIRECT)
    return [err(os.pwrite, fd, b"x" * 100, 3), err(os.pread, fd, 100, 3)]


def case_synchronous_writes(d):
    out = []
    for flag in (os.O_SYNC, os.O_DSYNC, os.O_SYNC | os.O_APPEND, os.O_DSYNC | os.O_DIRECT):
        fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR | flag, 0o600)
        out.append(os.pwritev(fd, [aligned(b"s" * 8192)], 0))
        os.close(fd)
    fd = os.open(d + "/f", os.O_RDWR)
    out.append(os.pwritev(fd, [b"r" * 100], 7, os.RWF_DSYNC))
    out.append(os.pwritev(fd, [b"r" * 100], 7, os.RWF_SYNC))
    return out + [os.fstat(fd).st_size, err(os.fdatasync, fd)]


def case_fsync_of_everything(d):
    write(d + "/f")
    os.mkfifo(d + "/p")
    fds = [os.open(d, os.O_RDONLY), os.open(d + "/f", os.O_RDONLY), os.open(d + "/f", os.O_WRONLY), os.open(d + "/p", os.O_RDWR)]
    out = [[err(os.fsync, fd), err(os.fdatasync, fd)] for fd in fds]
    out.append(libc.syncfs(fds[0]))
    out.append(libc.sync_file_range(fds[2], ctypes.c_long(0), ctypes.c_long(1), 7))
    for fd in fds:
        os.close(fd)
    return out


def case_shared_mappings(d):
    write(d + "/f", bytes(3 * 4096 + 100))
    fd = os.open(d + "/f", os.O_RDWR)
    m = mmap.mmap(fd, 0)
    m[4096:4100] = b"mmap"
    assert os.pread(fd, 4, 4096) == b"mmap"
    os.pwrite(fd, b"pwrite", 9000)
    assert m[9000:9006] == b"pwrite"

    def child():
        other = mmap.mmap(os.open(d + "/f", os.O_RDWR), 0)
        other[0:5] = b"child"
        return other[9000:9006].decode()
    seen = in_child(child)
    assert m[0:5] == b"child"
    m.flush()
    m.close()
    os.close(fd)
    tail = read(d + "/f")
    return [seen, tail[0:5].decode(), tail[4096:4100].decode(), len(tail)]


def case_private_mappings(d):
    write(d + "/f", b"original" * 1000)
    fd = os.open(d + "/f", os.O_RDONLY)
    m = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    m[0:4] = b"mine"
    m.close()
    os.close(fd)
    return read(d + "/f")[:8].decode()


def case_mapping_past_the_end_faults(d):
    def child(pipe):
        fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR, 0o600)
        os.ftruncate(fd, 8192)
        m = mmap.mmap(fd, 8192)
        m[5000] = 1
        os.ftruncate(fd, 100)
        os.write(pipe, b"t")
        m[5000]
        os.write(pipe, b"!")
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        child(w)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    os.close(w)
    out = [os.read(r, 9).decode(), os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0]
    os.close(r)
    return out


def case_executables(d):
    shutil.copy("/bin/true", d + "/true")
    os.chmod(d + "/true", 0o755)
    shutil.copy("/bin/sleep", d + "/sleep")
    os.chmod(d + "/sleep", 0o755)
    write(d + "/script", b"#!/bin/sh\nexit 7\n", 0o755)
    os.chmod(d + "/script", 0o755)
    p = subprocess.Popen([d + "/sleep", "30"])
    time.sleep(0.1)
    busy = err(os.open, d + "/sleep", os.O_WRONLY)
    p.kill()
    p.wait()
    os.chmod(d + "/script", 0o644)
    return [subprocess.run([d + "/true"]).returncode, busy, err(subprocess.run, [d + "/script"]),
            subprocess.run(["sh", d + "/script"]).returncode]


def case_fallocate(d):
    fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR, 0o600)
    out = []
    fallocate(fd, 0, 0, 100 * K)
    os.fsync(fd)
    out.append([os.fstat(fd).st_size, os.fstat(fd).st_blocks >= 200])
    assert os.pread(fd, 200 * K, 0) == bytes(100 * K)
    fallocate(fd, KEEP_SIZE, 0, 400 * K)
    os.fsync(fd)
    out.append([os.fstat(fd).st_size, os.fstat(fd).st_blocks >= 800])
    os.pwrite(fd, b"d" * 100 * K, 0)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 10 * K, 20 * K)
    assert os.pread(fd, 100 * K, 0) == b"d" * 10 * K + bytes(20 * K) + b"d" * 70 * K
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 50 * K + 7, 11)
    assert os.pread(fd, 100 * K, 0)[50 * K:50 * K + 30] == b"d" * 7 + bytes(11) + b"d" * 12
    fallocate(fd, ZERO_RANGE, 90 * K, 20 * K)
    assert os.fstat(fd).st_size == 110 * K and os.pread(fd, 30 * K, 80 * K) == b"d" * 10 * K + bytes(20 * K)
    fallocate(fd, ZERO_RANGE | KEEP_SIZE, 100 * K + 5, 100 * K)
    assert os.fstat(fd).st_size == 110 * K
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 1000 * K)
    os.fsync(fd)
    assert os.pread(fd, 200 * K, 0) == bytes(110 * K)
    out.append([err(fallocate, fd, PUNCH_HOLE, 0, 4096), err(fallocate, fd, 0, 0, 0),
                err(fallocate, fd, 0, -1, 10), err(fallocate, os.open(d + "/f", os.O_RDONLY), 0, 0, 10)])
    os.close(fd)
    return out


def case_fallocate_collapse_and_insert(d):
    write(d + "/f", b"a" * 4096 + b"b" * 4096 + b"c" * 4096)
    fd = os.open(d + "/f", os.O_RDWR)
    return [err(fallocate, fd, COLLAPSE, 4096, 4096), err(fallocate, fd, INSERT, 0, 4096), os.fstat(fd).st_size]


def case_seek_data_and_hole(d):
    fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR, 0o600)
    os.pwrite(fd, b"x" * 64 * K, 0)
    os.pwrite(fd, b"y" * 64 * K, 1024 * K)
    os.ftruncate(fd, 4096 * K)
    os.fsync(fd)
    out = []
    for off in (0, 1, 64 * K, 500 * K, 1024 * K, 1087 * K, 1088 * K, 4000 * K, 4096 * K - 1):
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            try:
                out.append(os.lseek(fd, off, whence))
            except OSError as e:
                out.append(ERRNO_NAMES[e.errno])
    out += [err(os.lseek, fd, 4096 * K, os.SEEK_DATA), err(os.lseek, fd, 4096 * K, os.SEEK_HOLE), err(os.lseek, fd, -1, os.SEEK_SET)]
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 16 * K, 16 * K)
    out += [os.lseek(fd, 0, os.SEEK_HOLE), os.lseek(fd, 16 * K, os.SEEK_DATA)]
    os.close(fd)
    return out


def case_seek_sees_unsynced_data(d):
    fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR, 0o600)
    os.pwrite(fd, b"x" * 4096, 1 << 20)
    return [os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 1 << 20, os.SEEK_HOLE)]


def case_sparse_file_of_16_tib(d):
    fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR, 0o600)
    far = (16 << 40) - 8192
    os.pwrite(fd, b"far" * 1000, far)
    os.pwrite(fd, b"near", 0)
    os.fsync(fd)
    out = [os.fstat(fd).st_size, os.fstat(fd).st_blocks <= 64, os.pread(fd, 3, far).decode(), os.pread(fd, 10, 8 << 40) == bytes(10),
           os.lseek(fd, 4096, os.SEEK_DATA) <= far, os.lseek(fd, 0, os.SEEK_HOLE)]
    os.ftruncate(fd, 5 << 40)
    out += [os.pread(fd, 4, 0).decode(), os.fstat(fd).st_size]
    os.close(fd)
    began = time.monotonic()
    os.unlink(d + "/f")
    assert time.monotonic() - began < 5
    return out


def case_copy_file_range(d):
    data = os.urandom(700 * K)
    write(d + "/a", data)
    a, b = os.open(d + "/a", os.O_RDWR), os.open(d + "/b", os.O_CREAT | os.O_RDWR, 0o600)
    done = 0
    while done < len(data):
        n = os.copy_file_range(a, b, len(data) - done, done, done)
        assert n > 0
        done += n
    assert read(d + "/b") == data
    n = os.copy_file_range(a, b, 1000, 5, 300001)
    assert read(d + "/b")[300001:300001 + n] == data[5:5 + n]
    within = os.copy_file_range(a, a, 4096, 0, 500 * K)
    assert read(d + "/a")[500 * K:500 * K + within] == data[:within]
    append = os.open(d + "/b", os.O_WRONLY | os.O_APPEND)
    out = [n, within, err(os.copy_file_range, a, a, 4096, 0, 100), err(os.copy_file_range, a, append, 10, 0, 0),
           os.copy_file_range(a, b, 100, 10 << 20, 0), err(os.copy_file_range, b, os.open(d + "/a", os.O_RDONLY), 1, 0, 0)]
    for fd in (a, b, append):
        os.close(fd)
    return out


def case_sendfile_and_splice(d):
    data = os.urandom(200 * K)
    write(d + "/a", data)
    a, b = os.open(d + "/a", os.O_RDONLY), os.open(d + "/b", os.O_CREAT | os.O_RDWR, 0o600)
    done = 0
    while done < len(data):
        done += os.sendfile(b, a, done, len(data) - done)
    assert read(d + "/b") == data
    r, w = os.pipe()
    os.splice(a, w, 4096, 1000)
    c = os.open(d + "/c", os.O_CREAT | os.O_RDWR, 0o600)
    n = os.splice(r, c, 4096)
    assert read(d + "/c") == data[1000:1000 + n]
    for fd in (a, b, c, r, w):
        os.close(fd)
    return n


def case_reads_at_the_end(d):
    write(d + "/f", b"0123456789")
    fd = os.open(d + "/f", os.O_RDONLY)
    one, two = bytearray(6), bytearray(10)
    out = [os.pread(fd, 100, 8).decode(), os.pread(fd, 5, 10).decode(), os.pread(fd, 5, 1 << 40).decode(), os.preadv(fd, [one, two], 0),
           err(os.pread, fd, 1, -1)]
    os.close(fd)
    return out


# ---- locks ----


def _lock_in_child(path, kind):
    def child():
        fd = os.open(path, os.O_RDWR)
        if kind == "flock":
            return err(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if kind == "flock-shared":
            return err(fcntl.flock, fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        lock = struct.pack("hhllhh", fcntl.F_WRLCK, 0, 10, 10, 0, 0)
        return err(fcntl.fcntl, fd, fcntl.F_OFD_SETLK if kind == "ofd" else fcntl.F_SETLK, lock)
    return in_child(child)


def case_locks(d):
    write(d + "/f", b"x" * 100)
    fd = os.open(d + "/f", os.O_RDWR)
    out = []
    fcntl.flock(fd, fcntl.LOCK_EX)
    out += [_lock_in_child(d + "/f", "flock"), _lock_in_child(d + "/f", "posix")]
    fcntl.flock(fd, fcntl.LOCK_SH)
    out += [_lock_in_child(d + "/f", "flock"), _lock_in_child(d + "/f", "flock-shared")]
    fcntl.flock(fd, fcntl.LOCK_UN)
    fcntl.lockf(fd, fcntl.LOCK_EX, 5, 12)
    out += [_lock_in_child(d + "/f", "posix"), _lock_in_child(d + "/f", "ofd"), _lock_in_child(d + "/f", "flock")]
    fcntl.lockf(fd, fcntl.LOCK_UN, 5, 12)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhllhh", fcntl.F_WRLCK, 0, 15, 1, 0, 0))
    out += [_lock_in_child(d + "/f", "posix"), _lock_in_child(d + "/f", "ofd")]
    os.close(fd)
    return out + [_lock_in_child(d + "/f", "ofd"), _lock_in_child(d + "/f", "flock")]


def case_a_waiting_lock_is_woken(d):
    write(d + "/f", b"x")
    fd = os.open(d + "/f", os.O_RDWR)
    out = []
    for take in (lambda f, how: fcntl.flock(f, how), lambda f, how: fcntl.lockf(f, how)):
        take(fd, fcntl.LOCK_EX)
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            mine = os.open(d + "/f", os.O_RDWR)
            take(mine, fcntl.LOCK_EX)
            os.write(w, b"got it")
            os._exit(0)
        early = select.select([r], [], [], 0.2)[0]
        take(fd, fcntl.LOCK_UN)
        out += [bool(early), os.read(r, 9).decode()]
        os.waitpid(pid, 0)
        os.close(r)
        os.close(w)
    os.close(fd)
    return out
