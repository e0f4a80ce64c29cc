"""One flipped bit in any kind of store file of a stopped volume, cleanly stopped or killed: what is read afterwards is right or
EIO, or the mount refuses and says why; fsck exits 4 where there is damage; never wrong data, never a crash (guarantee G8)."""

import errno
import os
import random
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clawfs_env  # noqa: E402
from clawfs_env import EXIT_DAMAGED, EXIT_FSCK_ERROR, EXIT_OK  # noqa: E402
from programs import main, run  # noqa: E402

TRIALS = int(os.environ.get("TRIALS", 5))


def sectors_of(path):
    """What is in each sector of the file that is not all zeros, by its offset."""
    with open(path, "rb") as f:
        data = f.read()
    return {off: data[off:off + 512] for off in range(0, len(data), 512) if data[off:off + 512].strip(b"\0")}


def nonzero_sectors(path):
    return list(sectors_of(path))


class BitFlip(clawfs_env.VolumeTest):
    """A volume made once; each trial works on a copy of its store."""

    def setUp(self):
        super().setUp()
        self.rng = random.Random(clawfs_env.seed())
        self.want = {}

    def build(self, clean):
        v = self.volume()
        for i in range(60):
            self.add(v, "dir%d" % (i % 5), "tiny%d" % i, self.rng.randrange(1, 200))
            self.add(v, "dir%d" % (i % 5), "small%d" % i, self.rng.randrange(4000, 20000))
        v.remount()  # what is there so far is homed and in the index
        self.homed = {name: sectors_of(os.path.join(v.store, "journal", name))
                      for name in os.listdir(os.path.join(v.store, "journal")) if name.startswith("seg")}
        for i in range(6):
            self.add(v, "large", "l%d" % i, 2 << 20, direct=True)
            self.add(v, "late", "s%d" % i, 50000)
        if clean:
            v.umount()
        else:
            v.kill9()
        self.pristine = self.tmp + "/pristine"
        run("cp", "-a", "--sparse=always", v.store, self.pristine)
        return v

    def add(self, v, directory, name, size, direct=False):
        os.makedirs(v.path(directory), exist_ok=True)
        data = self.rng.randbytes(size)
        fd = os.open(v.path(directory, name), os.O_CREAT | os.O_WRONLY, 0o600)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)
        self.want["%s/%s" % (directory, name)] = data

    def fresh(self, v):
        shutil.rmtree(v.store)
        run("cp", "-a", "--sparse=always", self.pristine, v.store)
        if os.path.exists(v.log):
            os.unlink(v.log)

    def needed_sectors(self, path):
        """The sectors of a segment that were written since the remount: a recovery reads them."""
        homed = self.homed.get(os.path.basename(path), {})
        return [off for off, data in sectors_of(path).items() if homed.get(off) != data]

    def flip(self, path, off=None, sectors_of_file=nonzero_sectors):
        if off is None:
            sectors = sectors_of_file(path)
            off = self.rng.choice(sectors) + self.rng.randrange(512)
        off = min(off, os.path.getsize(path) - 1)
        with open(path, "r+b") as f:
            f.seek(off)
            byte = f.read(1)[0]
            f.seek(off)
            f.write(bytes([byte ^ (1 << self.rng.randrange(8))]))
        return off

    def read_all(self, v, what):
        """The paths that gave EIO; anything else that differs from what was written fails the test."""
        broken = []
        for path, data in self.want.items():
            try:
                got = v.read(path)
            except OSError as e:
                self.assertEqual(e.errno, errno.EIO, "%s: %s: %s" % (what, path, os.strerror(e.errno)))
                broken.append(path)
                continue
            self.assertEqual(len(got), len(data), "%s: %s has another size" % (what, path))
            self.assertTrue(got == data, "%s: wrong data in %s" % (what, path))
        for directory in {os.path.dirname(p) for p in self.want}:
            try:
                names = set(os.listdir(v.path(directory)))
            except OSError as e:
                self.assertEqual(e.errno, errno.EIO, what)
                broken.append(directory)
                continue
            self.assertEqual(names, {os.path.basename(p) for p in self.want if os.path.dirname(p) == directory},
                             "%s: names are missing in silence" % what)
        return broken

    def look(self, v, what):
        """fsck, mount, read everything; "fine", "read errors" or "refused"."""
        r = v.fsck(check=None)
        allowed = (EXIT_OK, EXIT_DAMAGED) if os.path.exists(os.path.join(v.store, "super")) else (EXIT_FSCK_ERROR,)
        self.assertIn(r.returncode, allowed, "%s: fsck exit %d\n%s%s" % (what, r.returncode, r.stdout, r.stderr))
        try:
            v.mount()
        except clawfs_env.Failed:
            said = v.messages()
            self.assertGreater(len(said.strip()), 20, "%s: refused without a reason" % what)
            self.assertNotIn("Sanitizer", said)
            self.assertNotRegex(said, r"ssert(ion)? .*failed")
            self.assertNotEqual(r.returncode, EXIT_OK, "%s: mount refuses (%s), fsck finds nothing" % (what, said))
            return "refused"
        broken = self.read_all(v, what)
        self.assertIsNone(v.process.poll(), "%s: the daemon died\n%s" % (what, v.messages()))
        if broken:
            self.assertEqual(r.returncode, EXIT_DAMAGED, "%s: EIO for %s, fsck finds nothing" % (what, broken))
            said, status = v.messages(), str(v.status())
            files = [p for p in broken if p in self.want]
            self.assertIn("damaged", said, what)
            if files and "index" not in what:  # a damaged index may not know a file's path any more
                self.assertTrue(any(p in said for p in files), "%s: no path of %s in the log:\n%s" % (what, files, said))
                self.assertTrue(any(p in status for p in files), "%s: no path of %s in the status:\n%s" % (what, files, status))
        v.kill9()
        return "read errors" if broken else "fine"

    def trials(self, clean, pattern, trials=TRIALS, sectors_of_file=nonzero_sectors):
        """Flips one bit `trials` times in such sectors of files of the store that match; returns how each ended."""
        v = self.build(clean)
        ended = []
        for _ in range(trials):
            self.fresh(v)
            files = [os.path.join(base, n) for base, _, names in os.walk(v.store) for n in names]
            files = [f for f in sorted(files) if pattern(os.path.relpath(f, v.store)) and sectors_of_file(f)]
            self.assertTrue(files, "no such file in the store")
            path = self.rng.choice(files)
            off = self.flip(path, sectors_of_file=sectors_of_file)
            what = "bit at %d of %s" % (off, os.path.relpath(path, v.store))
            with self.subTest(flip=what):
                ended.append(self.look(v, what))
            v.kill9()
        print("%s: %s" % (self.id().split(".")[-1], {e: ended.count(e) for e in set(ended)}), file=sys.stderr)
        return ended

    def test_journal_of_a_killed_volume(self):
        ended = self.trials(False, lambda name: name.startswith("journal/seg"), TRIALS * 2, self.needed_sectors)
        self.assertNotEqual(set(ended), {"fine"}, "no flip in the journal was seen")

    def test_staging_of_a_killed_volume(self):
        self.trials(False, lambda name: "staging" in name)

    def test_journal_of_a_clean_volume(self):
        self.trials(True, lambda name: name.startswith("journal/"))

    def test_arena(self):
        ended = self.trials(True, lambda name: name.startswith("arena"), TRIALS * 2)
        self.assertIn("read errors", ended, "no flip in the arena was seen")

    def test_arena_of_a_killed_volume(self):
        self.trials(False, lambda name: name.startswith("arena"))

    def test_index_tables(self):
        self.trials(True, lambda name: name.endswith(".sst"), TRIALS * 2)

    def test_index_tables_of_a_killed_volume(self):
        self.trials(False, lambda name: name.endswith(".sst"))

    def test_index_manifest(self):
        self.trials(True, lambda name: "MANIFEST" in name)

    def test_index_current(self):
        self.assertNotIn("read errors", self.trials(True, lambda name: name.endswith("CURRENT"), 3))

    def test_one_copy_of_the_super_block_is_enough(self):
        v = self.build(True)
        for copy in (0, 1):
            self.fresh(v)
            self.flip(os.path.join(v.store, "super"), copy * 4096 + self.rng.randrange(300))
            v.mount()
            self.assertEqual(self.read_all(v, "super copy %d" % copy), [])
            v.umount()
            self.assertEqual(v.mount().read("late/s0"), self.want["late/s0"])
            v.kill9()

    def test_both_copies_of_the_super_block_refuse(self):
        v = self.build(True)
        self.fresh(v)
        for copy in (0, 1):
            self.flip(os.path.join(v.store, "super"), copy * 4096 + self.rng.randrange(300))
        with self.assertRaises(clawfs_env.Failed):
            v.mount()
        self.assertIn("super", v.messages())
        v.fsck(check=EXIT_DAMAGED)

    def test_missing_and_shortened_files_are_never_silent(self):
        v = self.build(True)
        files = [os.path.relpath(os.path.join(base, n), self.pristine) for base, _, names in os.walk(self.pristine) for n in names]
        vital = [f for f in sorted(files) if f.startswith(("journal/seg", "arena", "super")) or f.endswith((".sst", "CURRENT"))]
        for name in self.rng.sample(vital, min(len(vital), TRIALS)):
            for damage in ("missing", "shortened"):
                self.fresh(v)
                path = os.path.join(v.store, name)
                if damage == "missing":
                    os.unlink(path)
                else:
                    os.truncate(path, os.path.getsize(path) // 2)
                with self.subTest(file=name, damage=damage):
                    self.look(v, "%s %s" % (name, damage))
                v.kill9()


if __name__ == "__main__":
    main()
