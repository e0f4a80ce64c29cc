"""An archive in an S3 store that fails: nothing is missing in it afterwards, and it comes back whole."""

import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
import clawfs_env
from clawfs_env import EXIT_OK, Volume, VolumeTest, cli, wait_for

import fake_s3
from cold_env import HEAL_SECONDS, add_store

SIZES = ["--journal-size=32M", "--segment-size=4M", "--chunk-size=64M"]
FAULTS = {
    "500": dict(kind="status", status=500),
    "503 SlowDown": dict(kind="status", status=503, code="SlowDown"),
    "reset": dict(kind="reset"),
    "crash": dict(kind="crash"),
    "late duplicate": dict(kind="duplicate", later=0.3),
    "torn upload": dict(kind="torn_upload"),
    "corrupt upload": dict(kind="corrupt_upload"),
}


class Archive(VolumeTest):
    def tree(self, v):
        found = {}
        for top, _, files in os.walk(v.mnt):
            for name in files:
                with open(os.path.join(top, name), "rb") as f:
                    found[os.path.relpath(os.path.join(top, name), v.mnt)] = f.read()
        return found

    def come_back(self, server, v, name, key):
        r = Volume(self.tmp, name)
        self.addCleanup(r.close)
        cli("restore", "--from=s3://cold/vol", "--endpoint", server.endpoint, "--path-style", "--credentials",
            os.path.join(v.dir, "keys"), "--archive-key", key, *SIZES, r.store, check=EXIT_OK)
        r.mount()
        return r

    def test_an_archive_survives_what_a_store_does(self):
        rng = random.Random(clawfs_env.seed())
        with fake_s3.FakeS3() as server:
            v = self.volume()
            add_store(v, server, "--timeout", "2")
            cli("archive", "set", "--interval=1s", "cold", v.mnt, check=EXIT_OK)
            cli("archive", "now", v.mnt, check=EXIT_OK)
            key = os.path.join(self.tmp, "key")
            with open(key, "w", encoding="ascii") as f:
                f.write(cli("archive", "key", v.mnt, check=EXIT_OK).stdout)
            for name, fault in FAULTS.items():
                with self.subTest(fault=name):
                    server.fault(fault["kind"], "PUT", times=2, **{k: x for k, x in fault.items() if k != "kind"})
                    for i in range(6):
                        v.write("f%d" % rng.randrange(20), rng.randbytes(rng.randrange(300_000)))
                    wait_for("the archive to get through " + name,
                             lambda: cli("archive", "now", v.mnt).returncode == EXIT_OK, HEAL_SECONDS, 0.5)
                    self.assertEqual(v.status()["archive"]["gaps"], 0)
                    self.assertEqual([f for f in server.faults if f["times"]], [])  # all of them were met
            lists = server.count("LIST")
            want = self.tree(v)
            v.kill9()
            self.assertEqual(lists, 0)
            self.assertEqual(self.tree(self.come_back(server, v, "copy", key)), want)


if __name__ == "__main__":
    import unittest
    unittest.main(verbosity=2)
