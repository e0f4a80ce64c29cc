"""fsync at a level: local, or on K followers as well."""

import os
import threading
import time

import cluster
from cluster import Writer, lines_in, wait_for


class Fsync(threading.Thread):
    """One write and fsync on the side."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.took, self.error = path, None, None
        self.start()

    def run(self):
        began = time.monotonic()
        try:
            with open(self.path, "wb") as f:
                f.write(b"x")
                f.flush()
                os.fsync(f.fileno())
        except OSError as e:
            self.error = e.errno
        self.took = time.monotonic() - began

    def hangs(self, seconds):
        self.join(seconds)
        return self.is_alive()


class Durability(cluster.ClusterTest):
    def test_what_one_follower_holds_survives_the_loss_of_the_leader(self):
        c = self.cluster(3)
        a, b, third = c.node
        a.set_xattr("durability", "replicas=1")
        for i in range(4):
            name = "load%d" % i
            w = Writer(c.leader, name=name)
            time.sleep(0.5)
            # Killed, and its disk never comes back: whoever has most must have everything that was acknowledged.
            c.leader.kill9()
            acked = w.stop()
            self.assertGreater(acked, 3)
            rest = [n for n in c.node if n.process]
            best = max(rest, key=lambda n: n.pos)
            best.cli("promote", best.mnt)
            lost, c.leader = c.leader, best
            self.assertEqual(set(range(acked + 1)) - lines_in(best.path(name)), set())
            lost.start()
            wait_for("the old leader to follow", lambda: lost.role == "follower", 20)
            c.settle()
            c.same()

    def test_an_fsync_waits_until_enough_followers_are_there(self):
        c = self.cluster(3)
        c.leader.set_xattr("durability", "replicas=2")
        self.assertEqual(c.leader.xattr("durability"), "replicas=2")
        self.assertFalse(Fsync(c.leader.path("f")).hangs(10))
        c.node[2].kill9()
        waiting = Fsync(c.leader.path("g"))
        self.assertTrue(waiting.hangs(8))
        status = c.leader.status()["durability"]
        self.assertGreaterEqual(status["waiting"], 1)
        c.node[2].start()
        self.assertFalse(waiting.hangs(20))
        self.assertIsNone(waiting.error)

    def test_an_admin_can_let_those_go_who_wait(self):
        c = self.cluster(2)
        c.leader.set_xattr("durability", "replicas=1")
        c.node[1].kill9()
        waiting = Fsync(c.leader.path("g"))
        self.assertTrue(waiting.hangs(7))
        c.leader.set_xattr("durability", "local")
        self.assertFalse(waiting.hangs(5))
        self.assertIsNone(waiting.error)

    def test_falling_back_is_counted(self):
        c = self.cluster(2)
        c.leader.set_xattr("durability", "replicas=1,else=local")
        self.assertFalse(Fsync(c.leader.path("f")).hangs(10))
        self.assertEqual(c.leader.status()["durability"]["fallbacks"], 0)
        c.node[1].kill9()
        wait_for("the leader to miss it", lambda: c.leader.peer_state("n2") == "disconnected", 10)
        self.assertFalse(Fsync(c.leader.path("g")).hangs(5))
        self.assertGreaterEqual(c.leader.status()["durability"]["fallbacks"], 1)

    def test_a_directory_has_a_level_of_its_own(self):
        c = self.cluster(2)
        a = c.leader
        os.makedirs(a.path("safe", "below"))
        os.mkdir(a.path("fast"))
        os.setxattr(a.path("safe"), "clawfs.durability", b"replicas=1")
        self.assertEqual(os.getxattr(a.path("safe", "below"), "clawfs.durability"), b"replicas=1")
        self.assertEqual(os.getxattr(a.path("fast"), "clawfs.durability"), b"local")
        c.settle()
        self.assertEqual(os.getxattr(c.node[1].path("safe", "below"), "clawfs.durability"), b"replicas=1")
        c.node[1].kill9()
        self.assertFalse(Fsync(a.path("fast", "f")).hangs(5))
        waiting = Fsync(a.path("safe", "below", "f"))
        self.assertTrue(waiting.hangs(6))
        c.node[1].start()
        self.assertFalse(waiting.hangs(20))
        a.remount()
        self.assertEqual(os.getxattr(a.path("safe"), "clawfs.durability"), b"replicas=1")
        for bad in (b"replicas=0", b"replicas=99", b"replicas", b"", b"global", b"replicas=1,else=maybe", b"replicas=1 "):
            with self.assertRaises(OSError, msg=bad):
                os.setxattr(a.path("safe"), "clawfs.durability", bad)


if __name__ == "__main__":
    cluster.main()
