"""Damage on one node of several is repaired from another, whichever leads: on read and by a scrub, byte for byte, at a new place
on the disk; what nobody has is EIO and stays so; a peer that has the same damage is no help and no harm (guarantee G9)."""

import errno
import json
import os
import random
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cluster import ClusterTest, main, wait_for  # noqa: E402
import clawfs_env  # noqa: E402
from arena import BLOCK, DAMAGES, Arena, damaged  # noqa: E402
from clawfs_env import EXIT_DAMAGED, EXIT_OK  # noqa: E402

BLOCKS = 40


class Repair(ClusterTest):
    def setUp(self):
        super().setUp()
        self.rng = random.Random(clawfs_env.seed())

    def pair(self, n=2):
        c = self.cluster(n)
        self.want = {}
        for name in ("big", "small"):
            self.want[name] = self.rng.randbytes(BLOCKS * BLOCK if name == "big" else 5 * BLOCK)
            c.leader.write(name, self.want[name], sync=True)
        c.settle()
        for node in c.node:
            wait_for("%s to bring data home" % node.name, lambda: node.status()["homer"]["backlog_bytes"] == 0)
            node.set_xattr("checkpoint")
        self.connected(c)
        return c

    def connected(self, c):
        for node in c.followers:
            wait_for("the stream", lambda: node.peer_state(c.leader.name) == "streaming" and
                     c.leader.peer_state(node.name) == "streaming")

    def block(self, name, i):
        return self.want[name][i * BLOCK:(i + 1) * BLOCK]

    def damage(self, node, name, i, how="flip"):
        arena = Arena(node.store)
        place = arena.find(self.block(name, i))
        bad = damaged(how, arena.read(place), self.block("big", 0 if i else 1))
        arena.write(place, bad)
        return place, bad

    def read(self, node, name):
        fd = os.open(node.path(name), os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        got = b""
        try:
            while len(got) < len(self.want[name]):  # a read that comes upon damage ends before it, and the next one is EIO
                got += os.pread(fd, 1 << 17, len(got))
            return got
        finally:
            os.close(fd)

    def facts(self, node):
        return json.loads(clawfs_env.cli("scrub", "status", "--json", node.mnt).stdout)

    def health(self, node, name):
        return os.getxattr(node.path(name), "clawfs.health").decode()

    def scrub(self, node, check):
        clawfs_env.cli("scrub", "start", "--wait", node.mnt, check=check)

    def assert_moved(self, node, name, i, place, bad):
        """The data is at a new place, and what was damaged is untouched."""
        self.assertNotEqual(Arena(node.store).find(self.block(name, i)), place)
        self.assertEqual(Arena.read(place), bad)


class OnRead(Repair):
    def test_either_side_repairs_every_kind_of_damage_from_the_other(self):
        c = self.pair()
        for node in c.node:
            for i, how in enumerate(DAMAGES):
                with self.subTest(node=node.name, how=how):
                    i = 3 + 7 * i
                    place, bad = self.damage(node, "big", i, how)
                    self.assertEqual(self.read(node, "big"), self.want["big"])
                    self.assert_moved(node, "big", i, place, bad)
            self.assertRegex(self.health(node, "big"), r"^repaired blocks=4 ")
            self.assertEqual(self.facts(node)["quarantined_blocks"], 4)
            self.assertIn("repaired: byte", node.messages())
            self.assertIn("from a replica", node.messages())
        for node in c.node:
            node.umount()
            node.fsck()

    def test_many_blocks_at_once_and_readers_side_by_side(self):
        c = self.pair()
        for i in range(0, BLOCKS, 2):
            self.damage(c.leader, "big", i)
        got = []
        readers = [threading.Thread(target=lambda: got.append(self.read(c.leader, "big"))) for _ in range(4)]
        for t in readers:
            t.start()
        for t in readers:
            t.join(60)
        self.assertEqual(got, [self.want["big"]] * 4)
        self.assertRegex(self.health(c.leader, "big"), r"^repaired blocks=20 ")

    def test_a_write_of_a_part_of_a_damaged_block_keeps_the_rest(self):
        c = self.pair()
        self.damage(c.leader, "small", 2)
        fd = os.open(c.leader.path("small"), os.O_RDWR)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.pwrite(fd, b"new", 2 * BLOCK + 100)
        os.fsync(fd)
        os.close(fd)
        at = 2 * BLOCK + 100
        self.want["small"] = self.want["small"][:at] + b"new" + self.want["small"][at + 3:]
        self.assertEqual(self.read(c.leader, "small"), self.want["small"])
        c.settle()
        self.assertEqual(self.read(c.followers[0], "small"), self.want["small"])

    def test_what_both_lost_is_eio_on_both_and_nothing_else_is(self):
        c = self.pair()
        for node in c.node:
            self.damage(node, "big", 11)
            self.damage(node, "big", 20 if node is c.leader else 30)
        for node in c.node:
            fd = os.open(node.path("big"), os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            for i in range(BLOCKS):
                if i == 11:
                    with self.assertRaises(OSError) as e:
                        os.pread(fd, BLOCK, i * BLOCK)
                    self.assertEqual(e.exception.errno, errno.EIO)
                else:
                    self.assertEqual(os.pread(fd, BLOCK, i * BLOCK), self.block("big", i))
            os.close(fd)
            self.assertRegex(self.health(node, "big"), r"^damaged blocks=1 ")

    def test_a_follower_that_is_away_is_eio_soon_and_repairs_when_it_is_back(self):
        c = self.pair()
        follower = c.followers[0]
        follower.umount()
        wait_for("the leader to see it", lambda: c.leader.peer_state(follower.name) != "streaming")
        place, bad = self.damage(c.leader, "big", 5)
        with self.assertRaises(OSError):
            self.read(c.leader, "big")
        follower.start()
        self.connected(c)
        self.scrub(c.leader, EXIT_OK)
        self.assertEqual(self.read(c.leader, "big"), self.want["big"])
        self.assert_moved(c.leader, "big", 5, place, bad)


class OnScrub(Repair):
    def test_every_block_of_a_file_in_turn_on_both_nodes_at_once(self):
        c = self.pair()
        for node in c.node:
            for i in range(5):
                if (i % 2 == 0) == (node is c.leader):
                    self.damage(node, "small", i)
        for node in c.node:
            self.scrub(node, EXIT_OK)
            f = self.facts(node)
            self.assertEqual(f["repaired_blocks"], f["bad_blocks"])
            self.assertGreater(f["repairs"]["from_replica"], 0)
            self.assertEqual([(x["path"], x["bad_blocks"]) for x in f["files"]], [("/small", 0)])
            self.assertEqual(self.read(node, "small"), self.want["small"])

    def kill_after_a_repair(self, checkpoint):
        c = self.pair()
        place, bad = self.damage(c.leader, "big", 4)
        self.assertEqual(self.read(c.leader, "big"), self.want["big"])
        if checkpoint:
            c.leader.set_xattr("checkpoint")
        c.leader.kill9()
        c.leader.start()
        self.connected(c)
        self.assertEqual(self.read(c.leader, "big"), self.want["big"])
        self.assertEqual(Arena.read(place), bad)
        for node in c.node:
            node.umount()
            node.fsck()

    def test_a_repair_survives_a_kill_after_the_next_checkpoint(self):
        self.kill_after_a_repair(True)

    def test_what_a_kill_took_back_is_repaired_again(self):
        self.kill_after_a_repair(False)

    def test_the_third_node_has_what_the_second_lost_too(self):
        c = self.pair(3)
        for node in c.node[:2]:
            self.damage(node, "big", 9)
        self.scrub(c.leader, EXIT_OK)
        self.scrub(c.node[1], EXIT_OK)
        for node in c.node:
            self.assertEqual(self.read(node, "big"), self.want["big"])

    def test_what_only_a_snapshot_has_is_repaired_from_the_same_snapshot_of_the_other_node(self):
        c = self.pair()
        clawfs_env.cli("snap", "create", "old", c.leader.mnt, check=EXIT_OK)
        os.unlink(c.leader.path("big"))
        c.leader.write("other", self.rng.randbytes(BLOCKS * BLOCK), sync=True)
        c.settle()
        for node in c.node:
            wait_for("the file to be reaped", lambda: not os.path.exists(node.path("big")))
            self.damage(node, "big", 12 if node is c.leader else 31)
        for node in c.node:
            self.scrub(node, EXIT_OK)
            f = self.facts(node)
            self.assertEqual((f["bad_blocks"], f["repaired_blocks"], f["repairs"]["from_replica"]), (1, 1, 1))
            self.assertEqual([(x["path"], x["bad_blocks"]) for x in f["files"]], [("/.clawfs/snapshots/old/big", 0)])
            with open(node.path(".clawfs", "snapshots", "old", "big"), "rb") as snapshot:
                self.assertEqual(snapshot.read(), self.want["big"])
        for node in c.node:
            node.umount()
            node.fsck()

    def test_clear_reaches_the_followers_and_is_refused_on_them(self):
        c = self.pair()
        for node in c.node:
            self.damage(node, "big", 6)
        self.scrub(c.leader, EXIT_DAMAGED)
        follower = c.followers[0]
        self.assertNotEqual(clawfs_env.cli("scrub", "clear", follower.path("big")).returncode, EXIT_OK)
        clawfs_env.cli("scrub", "clear", c.leader.path("big"), check=EXIT_OK)
        c.settle()
        self.want["big"] = self.want["big"][:6 * BLOCK] + bytes(BLOCK) + self.want["big"][7 * BLOCK:]
        for node in c.node:
            self.assertEqual(self.read(node, "big"), self.want["big"])


if __name__ == "__main__":
    main()
