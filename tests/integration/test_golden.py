"""Volumes that older releases left are mounted as they are, hold what they held, and can be written (guarantee G17)."""

import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))
import golden  # noqa: E402
from clawfs_env import EXIT_OK, Volume, VolumeTest, cli, main  # noqa: E402

RELEASES = sorted(n[:-len(".tar.xz")] for n in os.listdir(golden.HERE) if n.endswith(".tar.xz"))


class Golden(VolumeTest):
    def unpack(self, release, where=golden.HERE):
        """What its volumes hold, with the archive unpacked in self.tmp and its objects in their place."""
        subprocess.run(["tar", "-C", self.tmp, "--numeric-owner", "-xJf", os.path.join(where, release + ".tar.xz")], check=True)
        with open(os.path.join(where, release + ".json")) as f:
            found = json.load(f)
        golden.enter(os.path.join(self.tmp, "objects"))
        return found

    def volume_of(self, release, kind):
        v = Volume(self.tmp, "%s-%s" % (release, kind))
        self.addCleanup(v.close)
        os.rmdir(v.store)
        os.rename(os.path.join(self.tmp, kind), v.store)
        return v

    def check(self, top, want):
        got = golden.tree(top)
        self.assertEqual(sorted(got), sorted(want))
        for name in want:
            self.assertEqual(got[name], want[name], name)

    def read_all(self, release, where=golden.HERE):
        found = self.unpack(release, where)
        for kind in golden.KINDS:
            if kind in found:
                with self.subTest(release=release, kind=kind):
                    self.read_and_write(self.volume_of(release, kind), kind, found)
        return found

    def test_every_release_is_read_and_written(self):
        self.assertTrue(RELEASES)
        for release in RELEASES:
            self.read_all(release)

    def quick(self):
        """Nobody keeps the archive."""
        if "XZ_OPT" not in os.environ:
            os.environ["XZ_OPT"] = "-0"
            self.addCleanup(os.environ.pop, "XZ_OPT")

    def test_this_release_could_be_kept_the_same_way(self):
        """And does everything that a feature bit stands for."""
        where = os.path.join(self.tmp, "made")
        os.mkdir(where)
        self.quick()
        golden.make("this", where)
        found = self.read_all("this", where)
        self.assertEqual({kind for kind in found if kind in golden.KINDS}, set(golden.KINDS))
        self.assertLess(os.path.getsize(os.path.join(where, "this.tar.xz")), 6 << 20)

    def test_a_feature_that_no_volume_has_is_noticed(self):
        self.quick()
        golden_features = golden.features
        self.addCleanup(setattr, golden, "features", golden_features)
        golden.features = lambda store: (golden_features(store)[0], golden_features(store)[1] + ["one more"])
        with self.assertRaisesRegex(SystemExit, "one more"):
            golden.make("this", self.tmp)

    def read_and_write(self, v, kind, found):
        want, was = found[kind], found.get("snapshot of " + kind)
        options = golden.mount_options(kind, self.tmp)
        told = found.get("features", {}).get(kind)
        if told:
            self.assertEqual(golden.features(v.store)[0], told["features"])
        cli("upgrade", "--check", v.store, check=EXIT_OK)
        v.mount("ro", *options)
        self.check_all(v, want, was)
        v.umount()
        v.mount(*options)
        self.check_all(v, want, was)
        cli("tier", "evict", v.path("cold"), check=EXIT_OK)
        v.write("small", b"written by this release\n", sync=True)
        v.remount()
        self.assertEqual(v.read("small"), b"written by this release\n")
        self.assertEqual({n: d.get("sha256") for n, d in golden.tree(v.path("cold")).items()},
                         {n[len("cold/"):]: d.get("sha256") for n, d in want.items() if n.startswith("cold/")})
        if was:
            self.check(golden.snapshot_of(v), was)
        v.umount()
        v.fsck(*["--" + o for o in options])

    def check_all(self, v, want, was):
        self.check(v.mnt, want)
        if was:
            self.check(golden.snapshot_of(v), was)


if __name__ == "__main__":
    main()
