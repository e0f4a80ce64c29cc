"""Who leads: promotion, hand-over, fencing, two leaders, a leader with a shorter history."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time

import cluster
from cluster import Failed, Writer, difference, lines_in, wait_for


class Leaders(cluster.ClusterTest):
    def promote(self, c, node):
        c.promote(node)
        self.assertEqual(node.role, "leader")

    def test_a_promoted_follower_has_everything_and_the_old_leader_follows_it(self):
        c = self.cluster(3)
        a, b, _ = c.node
        w = Writer(a)
        time.sleep(1)
        acked = w.stop()
        c.settle()
        a.kill9()
        self.promote(c, b)
        b.write("new", b"by b", sync=True)
        self.assertEqual(set(range(acked + 1)) - lines_in(b.path("load")), set())
        c.settle()
        a.start()
        wait_for("the old leader to follow", lambda: a.role == "follower", 15)
        c.settle()
        c.same()
        self.assertEqual(a.diverged(), [])

    def test_two_leaders_the_older_epoch_is_refused_and_what_only_it_had_is_saved(self):
        c = self.cluster(3)
        a, b, third = c.node
        a.write("common", b"c" * 100000, sync=True)
        os.mkdir(a.path("d"))
        a.write("d/changed", b"old" * 50000, sync=True)
        c.settle()
        c.net.host[0].unplug()
        wait_for("b to miss its leader", lambda: b.peer_state("n1") != "streaming", 10)
        self.promote(c, b)
        b.write("by-b", b"b", sync=True)
        c.settle(nodes=[third])
        # The old leader knows nothing of it and goes on.
        secret = os.urandom(200000)
        a.write("only-a", secret, sync=True)
        a.write("d/changed", b"new" * 60000, sync=True)
        os.unlink(a.path("common"))
        a.cli("sync", a.mnt)
        c.net.host[0].plug()
        wait_for("the old leader to follow", lambda: a.role == "follower", 20)
        c.settle()
        c.same()
        self.assertFalse(os.path.exists(a.path("only-a")))
        tails = a.diverged()
        self.assertEqual(len(tails), 1)
        out = os.path.join(self.tmp, "out")
        a.cli("diverged", "export", tails[0]["id"], a.mnt, out)
        with open(out + "/tree/only-a", "rb") as f:
            self.assertEqual(f.read(), secret)
        with open(out + "/tree/d/changed", "rb") as f:
            self.assertEqual(f.read(), b"new" * 60000)
        self.assertEqual(third.diverged(), [])
        with self.assertRaises(OSError) as e:
            a.write("x", b"")
        self.assertEqual(e.exception.errno, errno.EROFS)

    def test_a_leader_that_was_cut_off_is_refused_by_every_peer(self):
        c = self.cluster(3)
        a, b, third = c.node
        c.net.host[0].unplug()
        wait_for("b to miss its leader", lambda: b.peer_state("n1") != "streaming", 10)
        self.promote(c, b)
        c.settle(nodes=[third])
        b.kill9()  # a meets only the third node, which promised b's epoch
        c.net.host[0].plug()
        wait_for("the old leader to stop", lambda: a.role == "follower", 20)
        with self.assertRaises(OSError):
            a.write("x", b"", sync=True)
        b.start()
        c.settle()
        c.same()

    def test_a_hand_over_under_load_loses_nothing(self):
        c = self.cluster(3)
        leader = 0
        for i in range(4):
            source, target = c.node[leader], c.node[(leader + 1) % 3]
            w = Writer(source, name="load%d" % i)
            time.sleep(0.7)
            began = time.monotonic()
            source.cli("handover", target.name, source.mnt)
            pause = time.monotonic() - began
            acked = w.stop()
            self.assertEqual(target.role, "leader")
            wait_for("the mount to be a follower's", lambda: source.role == "follower", 10)
            self.assertLess(pause, 5)
            c.leader = target
            target.write("after%d" % i, b"x", sync=True)
            c.settle()
            for n in c.node:
                self.assertEqual(set(range(acked + 1)) - lines_in(n.path("load%d" % i)), set())
                self.assertEqual(n.diverged(), [])
            c.same()
            leader = (leader + 1) % 3

    def test_a_hand_over_to_a_peer_that_is_not_there_fails_and_the_leader_leads_on(self):
        c = self.cluster(3)
        c.node[1].kill9()
        with self.assertRaises(Failed):
            c.leader.cli("handover", "n2", c.leader.mnt)
        self.assertEqual(c.leader.role, "leader")
        c.leader.write("f", b"x", sync=True)
        c.node[1].start()
        c.settle()

    def in_doubt(self):
        """Three nodes; the first one leads, was killed when it had offered the lead to the second one, and is up again."""
        c = self.cluster(3)
        a, b, third = c.node
        a.write("before", b"1" * 100000, sync=True)
        c.settle()
        os.kill(b.pid, signal.SIGSTOP)
        with self.assertRaises(Failed):
            a.cli("handover", "n2", a.mnt, "--timeout", "2")
        a.kill9()
        a.start()
        self.assert_in_doubt(a)
        return c

    def assert_in_doubt(self, a):
        s = a.status()
        self.assertEqual((s["health"]["state"], s["replica"]["role"], s["replica"]["offered_to_node"], s["replica"]["offered_epoch_counter"]),
                         ("hand-over in doubt", "leader", 2, 2))
        for call in (lambda: a.write("no", b"x"), lambda: os.unlink(a.path("before")), lambda: os.mkdir(a.path("no")),
                     lambda: os.open(a.path("before"), os.O_WRONLY), lambda: os.setxattr(a.path("before"), "user.x", b"1")):
            with self.assertRaises(OSError) as e:
                call()
            self.assertEqual(e.exception.errno, errno.EROFS)
        self.assertEqual(a.read("before"), b"1" * 100000)
        a.cli("sync", a.mnt)

    def assert_leads(self, c, node):
        """It alone, and everything arrives."""
        wait_for("%s to lead" % node.name, lambda: node.is_now("leader") and node.status()["health"]["state"] == "ok", 30)
        c.leader = node
        for n in c.followers:
            wait_for("%s to follow" % n.name, lambda: n.is_now("follower"), 30)
        node.write("after", b"2" * 100000, sync=True)
        c.settle()
        c.same()
        for n in c.node:
            self.assertEqual(n.diverged(), [])

    def test_a_restart_in_doubt_ends_when_the_peer_is_heard_of(self):
        c = self.in_doubt()
        a, b, _ = c.node
        time.sleep(3)
        self.assert_in_doubt(a)
        a.umount()  # in good order, too
        a.start()
        self.assert_in_doubt(a)
        os.kill(b.pid, signal.SIGCONT)  # what it was offered is in its socket yet
        wait_for("one of them to lead for certain", lambda: b.is_now("leader") or a.status()["health"]["state"] == "ok", 30)
        self.assert_leads(c, b if b.is_now("leader") else a)

    def test_a_restart_in_doubt_ends_when_the_peer_has_forgotten(self):
        c = self.in_doubt()
        a, b, _ = c.node
        b.kill9()
        b.start()
        self.assert_leads(c, a)

    def test_a_restart_in_doubt_ends_by_promotion_of_either(self):
        for choose in (0, 2):
            c = self.in_doubt()
            b = c.node[1]
            b.kill9()
            self.promote(c, c.node[choose])
            b.start()
            self.assert_leads(c, c.node[choose])
            for n in c.node:
                n.close()

    def rolled_back(self, n):
        """n nodes; the first one led, and its disk is an older one now."""
        c = self.cluster(n)
        a = c.leader
        a.write("old", b"1", sync=True)
        c.settle()
        a.umount()
        saved = os.path.join(self.tmp, "copy")
        shutil.copytree(a.store, saved)
        a.start()
        a.write("precious", b"p" * 300000, sync=True)
        c.settle()
        a.kill9()
        shutil.rmtree(a.store)
        shutil.copytree(saved, a.store)
        return c

    def test_a_leader_with_an_older_disk_finds_out_and_follows(self):
        c = self.rolled_back(3)
        a, b, third = c.node
        a.start()
        self.assertEqual(a.role, "follower")
        with self.assertRaises(OSError) as e:
            a.write("other", b"o")
        self.assertEqual(e.exception.errno, errno.EROFS)
        self.assertEqual(a.read("old"), b"1")
        time.sleep(3)
        self.assertEqual([n.role for n in c.node], ["follower"] * 3)
        self.promote(c, b)
        c.settle()
        c.same()
        self.assertEqual(a.read("precious"), b"p" * 300000)
        self.assertEqual([n.diverged() for n in c.node], [[], [], []])

    def precious_was_kept_by(self, node):
        tails = node.diverged()
        self.assertEqual(len(tails), 1)
        out = os.path.join(self.tmp, "out")
        node.cli("diverged", "export", tails[0]["id"], node.mnt, out)
        with open(out + "/tree/precious", "rb") as f:
            self.assertEqual(f.read(), b"p" * 300000)

    def test_an_admin_can_choose_the_older_disk(self):
        c = self.rolled_back(2)
        a, b = c.node
        a.start()
        self.promote(c, a)
        wait_for("the other one to hear of it", lambda: b.status()["replica"]["epoch_counter"] == 2, 20)
        c.settle()
        c.same()
        self.precious_was_kept_by(b)

    def test_a_leader_restarted_with_a_shorter_history_overwrites_nobody(self):
        c = self.rolled_back(3)
        a, b, third = c.node
        a.host.unplug()  # nobody tells it
        a.start()
        a.write("other", b"o", sync=True)
        a.host.plug()
        for n in (b, third):
            wait_for("%s to see the conflict" % n.name, lambda: n.peer_state("n1") == "conflict", 20)
            self.assertEqual(n.read("precious"), b"p" * 300000)
            self.assertFalse(os.path.exists(n.path("other")))
        self.assertEqual(a.peer_state("n2"), "conflict")
        # The admin decides for the longer history.
        self.promote(c, b)
        wait_for("the old leader to follow", lambda: a.role == "follower", 20)
        c.settle()
        c.same()
        self.assertEqual(a.read("precious"), b"p" * 300000)
        self.assertEqual(len(a.diverged()), 1)

    def test_an_admin_can_decide_for_the_shorter_history(self):
        c = self.rolled_back(2)
        a, b = c.node
        a.host.unplug()
        a.start()
        a.host.plug()
        wait_for("the conflict", lambda: b.peer_state("n1") == "conflict", 20)
        b.cli("resync", b.mnt)
        wait_for("the resync", lambda: b.peer_state("n1") == "streaming" and b.status()["replica"]["readable"], 20)
        c.settle()
        c.same()
        self.precious_was_kept_by(b)

    def test_promotion_is_refused_to_a_node_that_has_not_everything_it_needs(self):
        c = self.cluster(1, chunk_size="256M")
        for i in range(100):
            c.leader.write("f%d" % i, os.urandom(2 << 20))
        c.leader.cli("sync", c.leader.mnt)
        c.node[0].host.limit("100mbit")
        late = c.join()
        self.assertFalse(late.status()["replica"]["readable"])
        with self.assertRaises(Failed):
            late.cli("promote", late.mnt)
        with self.assertRaises(OSError):
            os.listdir(late.mnt)
        c.node[0].host.unlimit()
        c.settle()
        self.assertEqual(late.role, "follower")

    def test_peers_are_listed_renamed_and_removed(self):
        c = self.cluster(3)
        a, b, third = c.node
        names = {p["name"] for p in json.loads(a.cli("peer", "list", "--json", a.mnt).stdout)}
        self.assertEqual(names, {"n1", "n2", "n3"})
        a.cli("peer", "rename", "n2", "second", a.mnt)
        wait_for("the follower to know its name", lambda: "second" in b.cli("peer", "list", b.mnt).stdout, 10)
        self.assertEqual(a.xattr("replica.second.state"), "streaming")
        a.cli("peer", "remove", "n3", a.mnt)
        a.write("f", b"after", sync=True)
        b.reached(a.pos)
        time.sleep(2)
        self.assertFalse(os.path.exists(third.path("f")))
        third.umount()
        third.start()
        time.sleep(3)
        self.assertFalse(os.path.exists(third.path("f")))


if __name__ == "__main__":
    cluster.main()
