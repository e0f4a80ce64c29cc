#!/usr/bin/env python3
"""`clawfs snap rotate`, what the timer of the package calls: takes one when it is due, deletes its own, touches nobody else's."""

import os
import re

from clawfs_env import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, ClusterTest, VolumeTest, cli, main, wait_for


def names(v):
    return sorted(os.listdir(v.path(".clawfs", "snapshots")))


class Rotate(VolumeTest):
    def rotate(self, v, schedule, check=EXIT_OK):
        return cli("snap", "rotate", "--", schedule, v.mnt, check=check)

    def test_takes_one_when_it_is_due_and_no_second_one(self):
        v = self.volume()
        v.write("f", b"as it was")
        out = self.rotate(v, "2y").stdout
        taken = names(v)
        self.assertEqual(len(taken), 1)
        self.assertEqual(out, "taken    %s\n" % taken[0])
        self.assertTrue(re.fullmatch(r"timer-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", taken[0]), taken)
        self.assertEqual(v.read(os.path.join(".clawfs", "snapshots", taken[0], "f")), b"as it was")
        for _ in range(3):
            self.rotate(v, "2y")
        self.assertEqual(names(v)[0], taken[0])
        self.assertLessEqual(len(names(v)), 2)  # two at the turn of the year

    def test_deletes_its_own_that_the_schedule_does_not_keep(self):
        v = self.volume()
        others = ["auto-2020-01-01T00:00:00Z", "mine", "not-timer-1", "timer", "timer-" + "x" * 60]
        for name in (*others, "timer-a", "timer-b", "timer-c"):
            cli("snap", "create", name, v.mnt, check=EXIT_OK)
        self.rotate(v, "1y")
        kept = [n for n in names(v) if n not in others]
        self.assertEqual(len(kept), 1)
        self.assertIn(kept[0][:8], ("timer-c", "timer-20"))  # or one of the new year
        self.assertEqual(sorted(set(names(v)) - set(kept)), sorted(others))

    def test_what_is_no_schedule_is_refused_and_changes_nothing(self):
        v = self.volume()
        cli("snap", "create", "timer-a", v.mnt, check=EXIT_OK)
        for bad in ("", "none", "h", "1", "0h", "1001h", "1h1h", "1x", "-1h", "1h "):
            self.rotate(v, bad, EXIT_USAGE)
        self.assertEqual(names(v), ["timer-a"])
        cli("snap", "rotate", "1h", self.tmp, check=EXIT_FAILURE)
        cli("snap", "rotate", "1h", check=EXIT_USAGE)


class Followers(ClusterTest):
    def test_a_follower_leaves_it_to_its_leader(self):
        c = self.cluster(2)
        leader, follower = c.leader, c.followers[0]
        cli("snap", "create", "timer-a", leader.mnt, check=EXIT_OK)
        wait_for("the snapshot on the follower", lambda: names(follower) == ["timer-a"])
        self.assertIn("follows", cli("snap", "rotate", "1q", follower.mnt, check=EXIT_OK).stdout)
        self.assertEqual(names(follower), ["timer-a"])
        self.assertEqual(names(leader), ["timer-a"])
        cli("snap", "rotate", "1y", leader.mnt, check=EXIT_OK)
        wait_for("the follower's to be the leader's", lambda: names(follower) == names(leader))


if __name__ == "__main__":
    main()
