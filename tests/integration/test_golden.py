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
    def unpack(self, release):
        """{kind: what it holds}, with the archive unpacked in self.tmp and its objects in their place."""
        subprocess.run(["tar", "-C", self.tmp, "--numeric-owner", "-xJf", os.path.join(golden.HERE, release + ".tar.xz")], check=True)
        with open(os.path.join(golden.HERE, release + ".json")) as f:
            found = json.load(f)
        golden.enter(os.path.join(self.tmp, "objects"))
        return found

    def volume_of(self, release, kind):
        v = Volume(self.tmp, "%s-%s" % (release, kind))
        self.addCleanup(v.close)
        os.rmdir(v.store)
        os.rename(os.path.join(self.tmp, kind), v.store)
        return v

    def check(self, v, want):
        got = golden.tree(v.mnt)
        self.assertEqual(sorted(got), sorted(want))
        for name in want:
            self.assertEqual(got[name], want[name], name)

    def test_every_release_is_read_and_written(self):
        self.assertTrue(RELEASES)
        for release in RELEASES:
            found = self.unpack(release)
            for kind, want in found.items():
                with self.subTest(release=release, kind=kind):
                    self.read_and_write(self.volume_of(release, kind), want)

    def read_and_write(self, v, want):
        cli("upgrade", "--check", v.store, check=EXIT_OK)
        v.mount("ro")
        self.check(v, want)
        v.umount()
        v.mount()
        self.check(v, want)
        cli("tier", "evict", v.path("cold"), check=EXIT_OK)
        v.write("small", b"written by this release\n", sync=True)
        v.remount()
        self.assertEqual(v.read("small"), b"written by this release\n")
        self.assertEqual({n: d.get("sha256") for n, d in golden.tree(v.path("cold")).items()},
                         {n[len("cold/"):]: d.get("sha256") for n, d in want.items() if n.startswith("cold/")})
        v.umount()
        v.fsck()


if __name__ == "__main__":
    main()
