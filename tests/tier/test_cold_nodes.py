"""Cold files of a volume on several nodes, in one S3 bucket: each with credentials of its own, and homes that wait for followers."""

import os
import random
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
import clawfs_env
from clawfs_env import CLAWFS, EXIT_OK, cli, wait_for

import cold_env
import fake_s3
from cold_env import POLICY, add_store, forget, scan, state, store_status

SEED = clawfs_env.seed()
KIB, MIB = 1 << 10, 1 << 20


class Nodes(clawfs_env.ClusterTest):
    def setUp(self):
        super().setUp()
        self.random = random.Random(SEED)
        self.fake = fake_s3.FakeS3()
        self.addCleanup(self.fake.close)

    def tiered(self, n=2):
        """A cluster with the store; its n-th follower has the access key followerN."""
        c = self.cluster(n)
        add_store(c.leader, self.fake, "--grace", "1s", "--timeout", "2s")
        os.setxattr(c.leader.mnt, "clawfs.tier", POLICY.encode())
        for i, node in enumerate(c.node[1:], 1):
            self.fake.other_keys["follower%d" % i] = "secret%d" % i
            keys = os.path.join(self.tmp, "keys%d" % i)
            fake_s3.write_credentials(keys, "follower%d" % i, "secret%d" % i)
            add_store(node, self.fake, credentials=keys)
        c.settle()
        return c

    def evict(self, node, name, check=EXIT_OK):
        r = cli("tier", "evict", node.path(name), check=check, timeout=120)
        forget(node.path(name))
        return r

    def who(self, since=0, verb="GET"):
        with self.fake.lock:
            return {r["who"] for r in self.fake.requests[since:] if r["verb"] == verb and "packs" in r["key"]}

    def test_a_follower_reads_with_its_own_credentials_and_goes_on_when_promoted(self):
        c = self.tiered()
        leader, follower = c.node
        data = {n: self.random.randbytes(2 * MIB + i) for i, n in enumerate("abc")}
        for name, d in data.items():
            leader.write(name, d, sync=True)
        self.evict(leader, ".")
        c.settle()
        self.assertEqual(state(follower, "a"), "hot")  # each node drops its own copies
        self.assertEqual(follower.read("a"), data["a"])
        self.assertEqual(self.who(), set())
        self.evict(follower, ".")
        self.assertEqual({state(follower, n) for n in data}, {"cold"})
        n = len(self.fake.requests)
        for name, d in data.items():
            self.assertEqual(follower.read(name), d)
        self.assertEqual(self.who(n), {"follower1"})
        self.assertEqual(self.who(n, "PUT"), set())
        leader.kill9()
        c.promote(follower)
        wait_for("the new leader to take changes", lambda: follower.role == "leader")
        data["d"] = self.random.randbytes(MIB)
        follower.write("d", data["d"], sync=True)
        with open(follower.path("a"), "r+b") as f:
            f.write(b"changed")
        data["a"] = b"changed" + data["a"][7:]
        n = len(self.fake.requests)
        self.evict(follower, ".")
        self.assertEqual({state(follower, n) for n in data}, {"cold"})
        self.assertEqual(self.who(n, "PUT"), {"follower1"})
        for name, d in data.items():
            self.assertEqual(follower.read(name), d)
        # The old one comes back, follows, and reads what was packed while it was away.
        leader.start()
        wait_for("the old leader to follow", lambda: leader.is_now("follower"))
        c.settle()
        for name, d in data.items():
            self.assertEqual(leader.read(name), d)
        self.evict(leader, ".")
        n = len(self.fake.requests)
        for name, d in data.items():
            self.assertEqual(leader.read(name), d)
        self.assertEqual(self.who(n), {"fakekey"})
        for node in c.node:
            node.umount()
            node.fsck()

    def test_a_follower_whose_credentials_are_refused_says_so_and_recovers(self):
        c = self.tiered()
        leader, follower = c.node
        data = self.random.randbytes(500 * KIB)
        leader.write("f", data, sync=True)
        self.evict(leader, "f")
        c.settle()
        self.evict(follower, "f")
        del self.fake.other_keys["follower1"]
        follower.umount()
        follower.start()
        c.settle()
        with self.assertRaises(OSError):
            follower.read("f")
        self.assertIn("credentials are refused", str(store_status(follower)))
        self.assertEqual(leader.read("f"), data)
        self.fake.other_keys["follower1"] = "secret1"
        wait_for("the file again", lambda: self.try_read(follower, "f") == data, 60, 0.2)

    @staticmethod
    def try_read(node, name):
        try:
            return node.read(name)
        except OSError:
            return None

    def test_homes_stay_until_the_follower_has_the_record(self):
        c = self.tiered()
        leader, follower = c.node
        cli("durability", "replicas=1", leader.mnt, check=EXIT_OK)
        data = self.random.randbytes(MIB)
        leader.write("f", data, sync=True)
        c.settle()
        os.kill(follower.pid, signal.SIGSTOP)
        try:
            evicting = subprocess.Popen([CLAWFS, "tier", "evict", leader.path("f")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            wait_for("the object", lambda: any("packs" in k for k in self.fake.buckets["cold"]), 30)
            time.sleep(2)
            self.assertIsNone(evicting.poll(), "homes went before the follower had the record")
            self.assertEqual(state(leader, "f"), "hot")
            usage = os.getxattr(leader.path("f"), "clawfs.tier.usage").decode()
            self.assertIn("tiered=%d cold=0" % MIB, usage)  # the record is there, and nothing was dropped
            n = len(self.fake.requests)
            forget(leader.path("f"))
            self.assertEqual(leader.read("f"), data)
            self.assertEqual(self.who(n), set())
        finally:
            os.kill(follower.pid, signal.SIGCONT)
        self.assertEqual(evicting.wait(60), EXIT_OK, evicting.stdout.read())
        evicting.stdout.close()
        self.assertEqual(state(leader, "f"), "cold")
        # And what it has by then is enough to go on without the leader.
        leader.kill9()
        c.promote(follower)
        wait_for("the new leader", lambda: follower.role == "leader")
        cli("durability", "local", follower.mnt, check=EXIT_OK)  # there is nobody else
        self.evict(follower, "f")
        self.assertEqual(state(follower, "f"), "cold")
        self.assertEqual(follower.read("f"), data)

    def test_what_the_leader_removes_the_follower_does_not_need(self):
        c = self.tiered()
        leader, follower = c.node
        keep = self.random.randbytes(MIB)
        leader.write("keep", keep)
        for i in range(5):
            leader.write("gone%d" % i, self.random.randbytes(MIB), sync=True)
        self.evict(leader, ".")
        c.settle()
        self.evict(follower, ".")
        before = {k for k in self.fake.buckets["cold"] if "packs" in k}
        for i in range(5):
            os.unlink(leader.path("gone%d" % i))
        cli("sync", leader.mnt, check=EXIT_OK)

        def repacked():
            scan(leader)
            with self.fake.lock:
                return not before & set(self.fake.buckets["cold"])

        wait_for("the old object to go", repacked, 90, 0.5)
        c.settle()
        forget(follower.path("keep"))
        self.assertEqual(follower.read("keep"), keep)
        self.assertEqual(leader.read("keep"), keep)


if __name__ == "__main__":
    cold_env.main()
