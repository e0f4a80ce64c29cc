"""Compression on real mounts: a tree of text by each algorithm, what df and the attributes say of it, kill -9 and remounts, snapshots,
overwriting, switching it off, encrypted volumes, and a follower that has the same."""

import errno
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clawfs_env  # noqa: E402
from clawfs_env import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, ROOT, ClusterTest, VolumeTest, cli, wait_for  # noqa: E402

MIB = 1 << 20
WORDS = "block leaf frame slot journal arena batch commit home checkpoint index pointer record replay epoch seq".split()


def text(rng, size):
    """Lines of words and numbers, as logs have them."""
    out = bytearray()
    while len(out) < size:
        out += ("%08x %s\n" % (rng.getrandbits(32), " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 12))))).encode()
    return bytes(out[:size])


def digest(top):
    found = {}
    for base, _, names in os.walk(top):
        for name in names:
            path = os.path.join(base, name)
            with open(path, "rb") as f:
                found[os.path.relpath(path, top)] = hashlib.sha256(f.read()).hexdigest()
    return found


def used(v):
    st = os.statvfs(v.mnt)
    return (st.f_blocks - st.f_bfree) * st.f_bsize


def policy(path, value):
    os.setxattr(path, "clawfs.compression", value.encode())


def usage(path):
    """(data, packed, frames) of a file, in bytes."""
    said = os.getxattr(path, "clawfs.compression.usage").decode()
    return tuple(int(word.split("=")[1]) for word in said.split())


def compress(path, *options):
    return json.loads(cli("compress", "--json", *options, path, check=EXIT_OK).stdout)


def state(v):
    return v.status()["compression"]


def at_rest(v):
    """What was written is at home, and packed if it is to be."""
    fd = os.open(v.mnt, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    wait_for("everything to be packed", lambda: v.status()["homer"]["backlog_bytes"] == 0 and state(v)["waiting"] == 0, timeout=60)
    cli("sync", v.mnt, check=EXIT_OK)
    os.setxattr(v.mnt, "clawfs.checkpoint", b"1")


def make_tree(top, rng):
    """Sources of this program, larger logs, small files, noise, and a file with holes."""
    shutil.copytree(os.path.join(ROOT, "fs", "core"), os.path.join(top, "core"))
    for i in range(3):
        with open(os.path.join(top, "log%d" % i), "wb") as f:
            f.write(text(rng, rng.randint(1, 4) * MIB + rng.randint(0, 5000)))
    with open(os.path.join(top, "noise"), "wb") as f:
        f.write(rng.randbytes(2 * MIB))
    with open(os.path.join(top, "holes"), "wb") as f:
        for i in range(20):
            f.seek(i * 150000)
            f.write(text(rng, 20000))
    for i in range(50):
        with open(os.path.join(top, "small%d" % i), "wb") as f:
            f.write(text(rng, rng.randint(1, 9000)))


class Compression(VolumeTest):
    def setUp(self):
        super().setUp()
        self.rng = random.Random(clawfs_env.seed())

    def test_a_tree_takes_less_and_stays_what_it_was(self):
        for word in ("lz4", "zstd", "zstd:9"):
            v = self.volume(name=word.replace(":", "-"))
            top = v.path("tree")
            os.mkdir(top)
            policy(top, word)
            empty = used(v)
            make_tree(top, self.rng)
            want = digest(top)
            at_rest(v)
            data = compress(top, "--dry-run")
            self.assertEqual(data["files"], len(want))
            self.assertLess(data["stored_bytes"], data["data_bytes"] * 0.75)
            self.assertLess(used(v) - empty, data["data_bytes"] * 0.8)
            self.assertEqual(usage(v.path("tree", "noise"))[1], 0)
            said = state(v)
            self.assertGreater(said["frames"], 100)
            self.assertGreater(said["bytes_before"], said["bytes_after"])
            self.assertGreater(said["not_paying"], 0)
            # st_blocks tell of data, whatever it takes.
            st = os.stat(v.path("tree", "log0"))
            self.assertEqual(st.st_blocks * 512, (st.st_size + 4095) // 4096 * 4096)
            self.assertEqual(digest(top), want)
            v.kill9()
            v.detach()
            v.fsck()
            v.mount()
            self.assertEqual(digest(top), want)
            self.assertEqual(compress(top, "--dry-run"), data)
            v.remount()
            self.assertEqual(digest(top), want)
            v.umount()
            self.assertIn("compressed", cli("upgrade", "--check", v.store, check=EXIT_OK).stdout)
            v.fsck()

    def test_killed_while_it_packs(self):
        v = self.volume()
        policy(v.mnt, "lz4")
        for i in range(4):
            with open(v.path("f%d" % i), "wb") as f:
                f.write(text(self.rng, 6 * MIB))
                os.fsync(f.fileno())
        want = digest(v.mnt)
        for _ in range(5):
            for i in range(4):
                os.setxattr(v.path("f%d" % i), "clawfs.compression.now", b"1")
            time.sleep(self.rng.random() * 0.3)
            v.kill9()
            v.detach()
            v.fsck()
            v.mount()
            self.assertEqual(digest(v.mnt), want)
        compress(v.mnt)
        self.assertEqual(digest(v.mnt), want)
        v.umount()
        v.fsck()

    def test_overwriting_and_cutting_what_is_packed(self):
        v = self.volume()
        policy(v.mnt, "zstd")
        want = bytearray(text(self.rng, 3 * MIB))
        v.write("f", want, sync=True)
        at_rest(v)
        self.assertGreater(usage(v.path("f"))[1], 2 * MIB)
        with open(v.path("f"), "r+b") as f:
            for _ in range(60):
                off, n = self.rng.randrange(len(want)), self.rng.choice((1, 100, 4096, 70000, 300000))
                n = min(n, len(want) - off)
                want[off:off + n] = text(self.rng, n)
                f.seek(off)
                f.write(want[off:off + n])
                f.flush()
                if self.rng.random() < 0.2:
                    os.fsync(f.fileno())
                if self.rng.random() < 0.1:
                    os.posix_fallocate(f.fileno(), off, n)
            f.truncate(2 * MIB + 77)
        del want[2 * MIB + 77:]
        self.assertEqual(v.read("f"), want)
        at_rest(v)
        self.assertEqual(v.read("f"), want)
        v.remount()
        self.assertEqual(v.read("f"), want)
        v.umount()
        v.fsck()

    def test_snapshots_keep_what_was_packed(self):
        v = self.volume()
        policy(v.mnt, "lz4")
        old = text(self.rng, 2 * MIB)
        v.write("f", old, sync=True)
        at_rest(v)
        before = used(v)
        cli("snap", "create", "one", v.mnt, check=EXIT_OK)
        new = text(self.rng, 2 * MIB)
        v.write("f", new, sync=True)
        at_rest(v)
        self.assertEqual(v.read("f"), new)
        self.assertEqual(v.read(".clawfs/snapshots/one/f"), old)
        v.kill9()
        v.detach()
        v.fsck()
        v.mount()
        self.assertEqual(v.read(".clawfs/snapshots/one/f"), old)
        cli("snap", "delete", "one", v.mnt, check=EXIT_OK)
        at_rest(v)
        wait_for("the snapshot's blocks", lambda: used(v) < before + 200000, timeout=40)
        v.umount()
        v.fsck()

    def test_on_and_off_for_what_is_there_already(self):
        v = self.volume()
        os.mkdir(v.path("d"))
        v.write("d/f", text(self.rng, 4 * MIB), sync=True)
        want = digest(v.mnt)
        self.assertEqual(os.getxattr(v.path("d"), "clawfs.compression"), b"off")
        self.assertEqual(compress(v.path("d"))["packed_bytes"], 0)
        policy(v.path("d"), "zstd")
        self.assertEqual(os.getxattr(v.path("d/f"), "clawfs.compression"), b"zstd")
        self.assertEqual(usage(v.path("d/f"))[1], 0)
        packed = compress(v.path("d"))
        self.assertEqual(packed["packed_bytes"], packed["data_bytes"])
        self.assertLess(packed["stored_bytes"], 3 * MIB)
        self.assertEqual(digest(v.mnt), want)
        policy(v.path("d"), "off")
        self.assertEqual(compress(v.path("d"))["packed_bytes"], 0)
        self.assertEqual(digest(v.mnt), want)
        v.umount()
        v.fsck()

    def test_what_is_refused(self):
        v = self.volume()
        v.write("f", b"x")
        for word in ("", "on", "gzip", "zstd:", "zstd:0", "zstd:20", "zstd:999999999999", "lz4 ", "lz4,zstd"):
            with self.assertRaises(OSError) as caught:
                policy(v.path("f"), word)
            self.assertEqual(caught.exception.errno, errno.EINVAL, word)
        with self.assertRaises(OSError) as caught:
            os.setxattr(v.mnt, "clawfs.compression.now", b"1")
        self.assertEqual(caught.exception.errno, errno.EINVAL)
        with self.assertRaises(OSError) as caught:
            os.getxattr(v.mnt, "clawfs.compression.usage")
        self.assertEqual(caught.exception.errno, errno.ENODATA)
        self.assertEqual(cli("compress").returncode, EXIT_USAGE)
        self.assertEqual(cli("compress", os.path.dirname(v.mnt)).returncode, EXIT_FAILURE)

    def test_encrypted_volumes_pack_too(self):
        memory = tempfile.mkdtemp(prefix="clawfs-test-", dir="/dev/shm")
        self.addCleanup(shutil.rmtree, memory, ignore_errors=True)
        key = os.path.join(memory, "key")
        with open(os.open(key, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as f:
            f.write(os.urandom(32))
        secret = {"key": key, "staging": memory}
        for mode in ("xts", "aead"):
            v = self.volume(name=mode, mount=False, encrypt=mode, **secret)
            v.mount(*("%s=%s" % o for o in secret.items()))
            policy(v.mnt, "zstd")
            marker = b"a line that stands in the file again and again\n"
            v.write("f", marker * 60000, sync=True)
            at_rest(v)
            data, packed, frames = usage(v.path("f"))
            self.assertGreater(packed, data - 65536)
            self.assertLess(frames, data // 8)
            v.kill9()
            v.detach()
            v.fsck(*("--%s=%s" % o for o in secret.items()))
            v.mount(*v.options)
            self.assertEqual(v.read("f"), marker * 60000)
            v.umount()
            for base, _, names in os.walk(v.store):
                for name in names:
                    with open(os.path.join(base, name), "rb") as f:
                        self.assertNotIn(marker, f.read(), name)


class Followers(ClusterTest):
    def test_a_follower_has_the_same_and_packs_for_itself(self):
        rng = random.Random(clawfs_env.seed())
        c = self.cluster(2)
        lead, other = c.node
        policy(lead.mnt, "zstd")
        make_tree(lead.mnt, rng)
        want = digest(lead.mnt)
        c.settle()
        self.assertEqual(digest(other.mnt), want)
        for node in (lead, other):
            wait_for("%s to pack" % node.mnt, lambda n=node: state(n)["frames"] > 100 and state(n)["waiting"] == 0, timeout=60)
            self.assertEqual(digest(node.mnt), want)
        # The follower was away while data was written and packed: it gets what there is by now.
        other.kill9()
        other.detach()
        for i in range(3):
            lead.write("late%d" % i, text(rng, 3 * MIB), sync=True)
        compress(lead.mnt)
        os.setxattr(lead.mnt, "clawfs.checkpoint", b"1")
        lead.write("filler", rng.randbytes(4 * MIB), sync=True)
        want = digest(lead.mnt)
        other.start()
        c.settle()
        self.assertEqual(digest(other.mnt), want)
        c.promote(other)
        self.assertEqual(digest(other.mnt), want)


if __name__ == "__main__":
    clawfs_env.main()
