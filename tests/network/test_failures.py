"""What nodes and networks do to each other: kills, partitions, cut and doubled connections, pauses, full disks."""

import os
import random
import signal
import subprocess
import time

import cluster
from cluster import PORT, Writer, lines_in, wait_for
from network import Proxy

seed = None


class Failures(cluster.ClusterTest):
    def setUp(self):
        super().setUp()
        self.random = random.Random(seed)

    def assert_nothing_lost(self, node, acked):
        found = lines_in(node.path("load"))
        self.assertEqual(set(range(acked + 1)) - found, set())

    def test_kill_of_either_side_at_any_point(self):
        c = self.cluster(3)
        rounds = int(os.environ.get("ROUNDS", "12"))
        total = -1
        for i in range(rounds):
            w = Writer(c.leader, name="load%d" % i)
            time.sleep(self.random.uniform(0.05, 0.8))
            victim = self.random.choice(c.node)
            victim.kill9()
            if victim is not c.leader:
                time.sleep(self.random.uniform(0, 0.3))
            acked = w.stop()
            victim.start()
            c.settle()
            for n in c.node:
                self.assertEqual(set(range(acked + 1)) - lines_in(n.path("load%d" % i)), set(), "after killing " + victim.name)
            total += acked + 1
        c.same()
        self.assertGreater(total, rounds * 5)

    def test_a_partition_of_a_minute_under_load(self):
        c = self.cluster(3, journal_size="64M")
        w = Writer(c.leader, pause=0.005)
        time.sleep(1)
        c.net.host[1].unplug()
        wait_for("the leader to see that the follower is dead", lambda: c.leader.peer_state("n2") == "disconnected", 10)
        time.sleep(float(os.environ.get("PARTITION", "60")) - 5)
        self.assertGreater(c.leader.peer("n2")["lag_seconds"], 10)
        c.net.host[1].plug()
        began = time.monotonic()
        time.sleep(1)
        acked = w.stop()
        self.assertIsNone(w.error)
        c.settle(30)
        self.assertLess(time.monotonic() - began, 31)  # G10
        for n in c.node:
            self.assert_nothing_lost(n, acked)
        c.same()

    def test_a_partition_that_only_one_direction_notices(self):
        c = self.cluster(3)
        for a, b in ((0, 1), (1, 0)):
            w = Writer(c.leader, pause=0.01)
            c.net.host[a].mute(c.net.host[b])
            time.sleep(8)
            c.net.host[a].unmute(c.net.host[b])
            acked = w.stop()
            c.settle()
            for n in c.node:
                self.assert_nothing_lost(n, acked)
            c.same()

    def proxied(self):
        """Two nodes; the follower reaches its leader through a proxy."""
        c = self.cluster(1, "listen=0.0.0.0:%d" % PORT, "advertise=10.99.0.2:7500")
        middle = c.net.add()
        proxy = Proxy(middle, 7500, c.node[0].host.address, PORT)
        self.addCleanup(proxy.close)
        host = c.net.add()
        follower = cluster.Node(self.tmp, host, "n3")
        self.addCleanup(follower.close)
        c.node.append(follower)
        token = c.leader.cli("peer", "invite", "--name", "n3", "--address", proxy.address, c.leader.mnt).stdout.strip()
        follower.join(token).start()
        c.settle()
        return c, proxy, follower

    def test_connections_cut_in_the_middle_of_a_message(self):
        c, proxy, follower = self.proxied()
        w = Writer(c.leader, pause=0.002)
        for i in range(12):
            before = proxy.n_connections
            proxy.cut_after(self.random.randrange(1, 200000))
            proxy.cut()
            wait_for("the follower to connect again", lambda: proxy.n_connections > before)
            time.sleep(self.random.uniform(0, 1.5))
        acked = w.stop()
        proxy.limits.clear()
        c.settle()
        self.assert_nothing_lost(follower, acked)
        c.same()

    def test_a_line_that_hangs_and_a_second_one_beside_it(self):
        c, proxy, follower = self.proxied()
        w = Writer(c.leader, pause=0.005)
        for i in range(3):
            proxy.hold()  # half open: both sides believe for a while that the old connection lives
            time.sleep(self.random.choice((2, 7)))
            proxy.release()  # what was under way arrives late, beside newer connections
            time.sleep(2)
        acked = w.stop()
        c.settle()
        self.assert_nothing_lost(follower, acked)
        c.same()

    def test_a_follower_paused_for_longer_than_the_ring(self):
        c = self.cluster(3, journal_size="32M")
        c.leader.write("keep", os.urandom(5 << 20), sync=True)
        c.settle()
        os.kill(c.node[1].pid, signal.SIGSTOP)
        for i in range(40):
            c.leader.write("f%d" % (i % 12), os.urandom(3 << 20), sync=True)
            for k in range(60):
                c.leader.write("small%d" % k, os.urandom(50000))
        c.leader.cli("sync", c.leader.mnt)
        self.assertGreater(c.leader.status()["journal"]["commit_bytes"], 3 * 32 << 20)
        os.kill(c.node[1].pid, signal.SIGCONT)
        c.settle()
        c.same()

    def test_a_follower_with_a_full_disk_says_so_and_goes_on_when_there_is_room(self):
        c = self.cluster(1)
        small = c.add()
        disk, place = os.path.join(self.tmp, "image"), os.path.join(self.tmp, "disk")
        subprocess.run(["truncate", "-s", "1500M", disk], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", disk], check=True)
        os.mkdir(place)
        subprocess.run(["mount", "-o", "loop", disk, place], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", place], stderr=subprocess.DEVNULL)
        self.addCleanup(small.close)
        subprocess.run(["fallocate", "-l", "800M", place + "/others"], check=True)
        small.store = place + "/store"
        os.mkdir(small.store)
        small.join(c.leader.invite(small.name)).start()
        c.settle()
        for i in range(10):
            c.leader.write("big%d" % i, os.urandom(60 << 20))
        c.leader.cli("sync", c.leader.mnt)
        wait_for("the follower to be full", lambda: "disk full" in c.leader.peer(small.name)["reason"]
                 or "disk full" in small.peer("n1")["reason"], 60)
        began = time.monotonic()
        c.leader.write("quick", b"x", sync=True)
        self.assertLess(time.monotonic() - began, 1)
        self.assertNotIn("quick", os.listdir(small.mnt))  # what it had it still shows
        small.kill9()
        small.start()
        os.unlink(place + "/others")
        c.settle(90)
        c.same()

    def test_a_slow_follower_does_not_slow_the_leader(self):
        c = self.cluster(3)

        def commits(seconds):
            w = Writer(c.leader)
            time.sleep(seconds)
            return w.stop()

        alone = commits(3)
        c.net.host[1].limit("2mbit")
        os.kill(c.node[2].pid, signal.SIGSTOP)
        slow = commits(3)
        os.kill(c.node[2].pid, signal.SIGCONT)
        c.net.host[1].unlimit()
        self.assertGreater(slow, alone * 0.5)  # the machine's own noise is larger than any effect of ours should be
        c.settle()
        c.same()

    def test_a_join_that_is_interrupted_again_and_again_ends(self):
        c = self.cluster(1, chunk_size="256M")
        for i in range(60):
            c.leader.write("f%d" % i, os.urandom(2 << 20))
        c.leader.cli("sync", c.leader.mnt)
        late = c.join()
        for _ in range(6):
            time.sleep(self.random.uniform(0.05, 0.5))
            late.kill9()
            late.start()
        c.settle()
        c.same()


if __name__ == "__main__":
    seed = cluster.clawfs_env.seed()
    cluster.main()
