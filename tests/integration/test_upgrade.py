"""test_upgrade: `clawfs upgrade --check` against what a mount then does, for every bit of every feature word of the superblock."""

import json
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from clawfs_env import EXIT_DAMAGED, EXIT_FAILURE, EXIT_FSCK_ERROR, EXIT_MOUNT, EXIT_OK, EXIT_USAGE, VolumeTest, cli, is_mounted, main
from test_cli import SUPER_BYTES, crc32c

# Offsets in a copy of the superblock: see docs/FORMAT.md.
VERSION, GENERATION = 8, 72
WORDS = {"compat": 48, "ro_compat": 56, "incompat": 64}
# What a release says of itself, with its exit code.
READ_WRITE, READ_ONLY, NONE = ("read-write", EXIT_OK), ("read-only", EXIT_FAILURE), ("none", EXIT_DAMAGED)


class Upgrade(VolumeTest):
    def setUp(self):
        super().setUp()
        self.v = self.volume()
        self.v.write("f", b"x" * 5000, sync=True)
        self.v.umount()
        self.path = os.path.join(self.v.store, "super")
        self.whole = self.copies()

    def copies(self):
        with open(self.path, "rb") as f:
            return [bytearray(f.read(SUPER_BYTES)) for _ in range(2)]

    def put(self, copies):
        with open(self.path, "r+b") as f:
            f.write(b"".join(copies))

    def altered(self, offset, fmt, value, which=(0, 1)):
        """The copies as they were made, with one field changed and a right checksum."""
        copies = [bytearray(c) for c in self.whole]
        for i in which:
            struct.pack_into(fmt, copies[i], offset, value)
            struct.pack_into("<I", copies[i], SUPER_BYTES - 4, crc32c(bytes(copies[i][:-4])))
        return copies

    def check(self, where=None):
        """(facts, exit code); people are told the same."""
        r = cli("upgrade", "--check", "--json", where or self.v.store)
        text = cli("upgrade", "--check", where or self.v.store)
        self.assertEqual(text.returncode, r.returncode)
        facts = json.loads(r.stdout) if r.stdout else None
        if facts:
            self.assertRegex(text.stdout, r"(?m)^access +%s$" % facts["access"])
            self.assertRegex(text.stdout, r"(?m)^format_version +%d " % facts["format_version"])
        return facts, r.returncode

    def mount_says(self):
        """What a mount of the volume as it is now does, by the same words; it is unmounted again."""
        for access, options in ((READ_WRITE, ()), (READ_ONLY, ("-o", "ro"))):
            r = cli("mount", *options, self.v.store, self.v.mnt)
            if r.returncode == EXIT_OK:
                self.assertEqual(self.v.read("f"), b"x" * 5000)
                cli("umount", self.v.mnt, check=EXIT_OK)
                return access
            self.assertEqual(r.returncode, EXIT_MOUNT, r.stderr)
            self.assertFalse(is_mounted(self.v.mnt))
        return NONE

    def test_a_volume_of_this_release_can_be_written(self):
        facts, code = self.check()
        self.assertEqual((facts["access"], code), READ_WRITE)
        self.assertEqual(facts["format_version"], struct.unpack_from("<I", self.whole[0], VERSION)[0])
        self.assertLessEqual(facts["format_version"], facts["newest_known_version"])
        self.assertEqual(facts["volume"], json.loads(cli("info", "--json", self.v.store, check=EXIT_OK).stdout)["volume"])
        self.assertEqual(facts["unknown"], {"compat": [], "ro_compat": [], "incompat": []})

    def test_every_feature_bit_is_judged_as_a_mount_judges_it(self):
        for word, offset in WORDS.items():
            for bit in range(64):
                with self.subTest(word=word, bit=bit):
                    copies = self.altered(offset, "<Q", 1 << bit)
                    self.put(copies)
                    facts, code = self.check()
                    self.assertEqual(len(facts[word]), 1)
                    self.assertIn(facts["unknown"][word], ([], facts[word]))
                    unknown = bool(facts["unknown"][word])
                    self.assertEqual(unknown, facts[word][0] == "bit-%d" % bit, "known features have names")
                    if unknown and word != "compat":
                        self.assertEqual((facts["access"], code), {"ro_compat": READ_ONLY, "incompat": NONE}[word])
                    else:
                        self.assertEqual((facts["access"], code), READ_WRITE)
                    self.assertEqual(self.copies(), copies, "it only looks")
                    # A mount for each bit of compat would say 64 times the same; a few say it too.
                    # This volume is not encrypted, so no key opens it once it says that it is.
                    if facts[word] == ["encrypted"]:
                        self.assertIn("is encrypted", cli("mount", self.v.store, self.v.mnt, check=EXIT_MOUNT).stderr)
                    elif word != "compat" or bit in (0, 1, 31, 32, 63):
                        self.assertEqual(self.mount_says(), (facts["access"], code))
                        after = max(self.copies(), key=lambda c: struct.unpack_from("<Q", c, GENERATION))
                        self.assertEqual(struct.unpack_from("<Q", after, offset)[0] >> bit & 1, 1, "the bit stays")
        self.put(self.whole)
        self.assertEqual(self.mount_says(), READ_WRITE)

    def test_several_features_are_all_named_and_the_worst_counts(self):
        self.put(self.altered(WORDS["incompat"], "<Q", 1 << 8 | 1 << 63))
        facts, code = self.check()
        self.assertEqual((facts["access"], code), NONE)
        self.assertEqual(facts["unknown"]["incompat"], ["bit-8", "bit-63"])
        self.assertIn("not known: bit-8 bit-63", cli("upgrade", "--check", self.v.store).stdout)

    def test_a_newer_version_is_never_skipped_in_favour_of_an_older_copy(self):
        known = self.check()[0]["newest_known_version"]
        for version in (known + 1, known + 2, 0xFFFFFFFF):
            for which in ((0,), (1,), (0, 1)):
                copies = self.altered(VERSION, "<I", version, which)
                self.put(copies)
                facts, code = self.check()
                self.assertEqual((facts["access"], code), NONE)
                self.assertEqual(facts["format_version"], version)
                self.assertIsNone(facts["volume"])
                self.assertIsNone(facts["incompat"])
                self.assertEqual(self.mount_says(), NONE)
                self.assertEqual(self.copies(), copies)

    def test_one_damaged_copy_hides_nothing_and_two_are_no_verdict(self):
        for copy in (0, 1):
            copies = [bytearray(c) for c in self.whole]
            copies[copy][GENERATION] ^= 1
            self.put(copies)
            facts, code = self.check()
            self.assertEqual((facts["access"], code), READ_WRITE)
        copies[0][GENERATION] ^= 1
        copies[0][200] ^= 1
        copies[1][200] ^= 1
        self.put(copies)
        self.assertEqual(self.check(), (None, EXIT_FSCK_ERROR))
        with open(self.path, "r+b") as f:
            f.truncate(100)
        self.assertEqual(self.check(), (None, EXIT_FSCK_ERROR))

    def test_what_is_no_volume_is_said(self):
        empty = os.path.join(self.tmp, "empty")
        os.mkdir(empty)
        link = os.path.join(self.tmp, "link")
        os.mkdir(link)
        os.symlink(self.path, os.path.join(link, "super"))
        for where, says in ((empty, "not a clawfs volume"), (os.path.join(self.tmp, "away"), "missing"), (link, "symbolic link"),
                            (self.path, "not a directory")):
            r = cli("upgrade", "--check", where)
            self.assertEqual(r.returncode, EXIT_FSCK_ERROR)
            self.assertIn(says, r.stderr)
            self.assertEqual(r.stdout, "")

    def test_a_mounted_volume_is_asked_by_either_of_its_names(self):
        self.v.mount()
        for where in (self.v.mnt, self.v.store):
            facts, code = self.check(where)
            self.assertEqual((facts["access"], code), READ_WRITE)
        self.v.umount()

    def test_without_check_nothing_is_done(self):
        r = cli("upgrade", self.v.store)
        self.assertEqual(r.returncode, EXIT_USAGE)
        self.assertIn("--check", r.stderr)
        self.assertEqual(self.copies(), self.whole)
        self.assertEqual(cli("upgrade", "--check").returncode, EXIT_USAGE)


if __name__ == "__main__":
    main()
