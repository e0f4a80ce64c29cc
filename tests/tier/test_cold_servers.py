"""Cold files of a mounted volume in real S3 servers that the test starts: Ceph radosgw and OpenStack Swift."""

import errno
import os
import random
import re
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
import clawfs_env
from clawfs_env import EXIT_FAILURE, cli, wait_for

import servers
from cold_env import HEAL_SECONDS, ColdVolume, gc, scan, state, store_status

SEED = clawfs_env.seed()
KIB, MIB = 1 << 10, 1 << 20


class Cases:
    kind = None

    @classmethod
    def setUpClass(cls):
        if not servers.available(cls.kind):
            raise unittest.SkipTest("%s is not installed" % cls.kind.__name__)
        cls.server = cls.kind()
        cls.addClassCleanup(cls.server.close)
        cls.server.client.make_bucket("cold")

    def setUp(self):
        super().setUp()
        self.random = random.Random(SEED)
        for key in self.keys("vol/"):
            self.server.client.request("DELETE", "/cold/" + key)

    def keys(self, prefix="vol/packs/"):
        status, _, body = self.server.client.request("GET", "/cold", "list-type=2&prefix=" + prefix.replace("/", "%2F"))
        self.assertEqual(status, 200, body)
        return re.findall(r"<Key>([^<]+)</Key>", body.decode())

    def tiered(self, *options):
        v = ColdVolume(self.tmp, self.server, "--grace", "1s", *options)
        self.addCleanup(v.close)
        return v

    def test_out_and_back(self):
        v = self.tiered()
        v.put("big", self.random.randbytes(20 * MIB + 777))
        for i in range(100):
            v.put("small%d" % i, self.random.randbytes(self.random.randrange(4 * KIB, 30 * KIB)))
        v.evict()
        self.assertTrue(v.is_cold(*v.model))
        self.assertLess(len(self.keys()), 8)
        v.check()
        v.evict()
        v.remount()
        v.check()
        cli("tier", "test", "cold", v.mnt)
        v.umount()
        v.fsck()

    def test_a_part_is_read_and_a_part_is_written(self):
        v = self.tiered()
        v.put("f", self.random.randbytes(16 * MIB))
        v.evict("f")
        before = v.status()["tier"]["recall"]["fetched_bytes"]
        with open(v.path("f"), "r+b") as f:
            f.seek(9 * MIB + 10)
            self.assertEqual(f.read(100), v.model["f"][9 * MIB + 10:9 * MIB + 110])
            f.seek(3 * MIB + 100)
            f.write(b"y" * 5000)
            os.fsync(f.fileno())
        data = v.model["f"]
        v.model["f"] = data[:3 * MIB + 100] + b"y" * 5000 + data[3 * MIB + 5100:]
        self.assertLess(v.status()["tier"]["recall"]["fetched_bytes"] - before, 10 * MIB)
        self.assertEqual(state(v, "f"), "mixed")
        v.check()
        v.evict("f")
        v.check()

    def test_deleted_data_leaves_and_gc_finds_orphans(self):
        v = self.tiered()
        v.put("keep", self.random.randbytes(MIB))
        v.evict("keep")
        mine = self.keys()
        v.put("gone", self.random.randbytes(MIB))
        v.evict("gone")
        self.assertEqual(len(self.keys()), len(mine) + 1)
        os.unlink(v.path("gone"))
        del v.model["gone"]
        cli("sync", v.mnt)

        def left():
            scan(v)
            return self.keys() == mine

        wait_for("the object to go", left, HEAL_SECONDS, 0.5)
        orphan = "vol/packs/ab/ab%014x" % self.random.getrandbits(56)
        self.server.client.request("PUT", "/cold/" + orphan, body=b"x" * 1000)
        time.sleep(3)
        self.assertEqual(gc(v, "--dry-run"), (len(mine) + 1, 1, 0, 0))
        self.assertEqual(gc(v), (len(mine) + 1, 1, 1, 0))
        self.assertEqual(self.keys(), mine)
        v.evict()
        v.check()

    def test_a_server_that_hangs(self):
        v = self.tiered("--timeout", "2s")
        v.put("out", self.random.randbytes(300 * KIB))
        v.put("hot", self.random.randbytes(300 * KIB), sync=True)
        v.evict("out")
        self.server.pause()
        try:
            began = time.monotonic()
            with self.assertRaises(OSError) as e:
                v.read("out")
            self.assertEqual(e.exception.errno, errno.EIO)
            self.assertLess(time.monotonic() - began, 12)
            self.assertIn("store cold", v.messages())
            began = time.monotonic()
            v.put("new", self.random.randbytes(100 * KIB), sync=True)
            self.assertTrue(v.reads("hot"))
            self.assertLess(time.monotonic() - began, 5)
            r = v.evict("new", check=EXIT_FAILURE)
            self.assertIn("store cold", r.stderr)
            self.assertGreater(sum(store_status(v)["errors"].values()), 0)
        finally:
            self.server.resume()
        wait_for("the file again", lambda: v.reads("out"), HEAL_SECONDS, 0.2)
        v.becomes_cold("new")
        v.check()


class RadosGW(Cases, clawfs_env.VolumeTest):
    kind = servers.RadosGW


class Swift(Cases, clawfs_env.VolumeTest):
    kind = servers.Swift


if __name__ == "__main__":
    clawfs_env.main()
