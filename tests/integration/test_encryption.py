"""test_encryption: encrypted volumes as an admin has them: keys, mounts, crashes, nodes; and that nothing is readable on the disk."""

import hashlib
import json
import os
import pty
import select
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clawfs_env  # noqa: E402
from clawfs_env import (CLAWFS, EXIT_DAMAGED, EXIT_FAILURE, EXIT_FSCK_ERROR, EXIT_MOUNT, EXIT_OK, EXIT_USAGE, ClusterTest,  # noqa: E402
                        cli, main)

MEMORY = "/dev/shm"  # a tmpfs everywhere
MARKERS = {kind: ("MARK-%s-%s" % (kind, os.urandom(8).hex())).encode()
           for kind in ("NAME", "DIRECTORY", "XATTR", "TARGET", "SMALL", "LARGE", "OVERWRITTEN", "RENAMED", "DELETED")}


def files_below(top):
    return sorted(os.path.join(base, name) for base, _, names in os.walk(top) for name in names)


def digest(top):
    found = {}
    for path in files_below(top):
        name = os.path.relpath(path, top)
        if os.path.islink(path):
            found[name] = os.readlink(path)
            continue
        with open(path, "rb") as f:
            found[name] = hashlib.file_digest(f, "sha256").hexdigest()
    return found


def markers_in(top):
    """Which of the markers stand in some file below `top`."""
    found = set()
    for path in files_below(top):
        with open(path, "rb") as f:
            data = f.read()
        found |= {kind for kind, marker in MARKERS.items() if marker in data}
    return found


def write_markers(v):
    v.write("plain", MARKERS["SMALL"], sync=True)
    v.write(MARKERS["NAME"].decode(), b"x", sync=True)
    os.mkdir(v.path(MARKERS["DIRECTORY"].decode()))
    os.setxattr(v.path("plain"), "user.x", MARKERS["XATTR"])
    os.symlink(MARKERS["TARGET"].decode(), v.path("link"))
    v.write("large", (MARKERS["LARGE"] + b"." * 100) * 30000, sync=True)
    v.write("over", MARKERS["OVERWRITTEN"] * 1000, sync=True)
    v.write("over", b"new" * 12000, sync=True)
    v.write("before", b"x")
    os.rename(v.path("before"), v.path(MARKERS["RENAMED"].decode()))
    v.write("gone", MARKERS["DELETED"] * 10, sync=True)
    os.unlink(v.path("gone"))
    cli("sync", v.mnt, check=EXIT_OK)


class EncryptionTest(ClusterTest):
    def setUp(self):
        super().setUp()
        self.memory = tempfile.mkdtemp(prefix="clawfs-test-", dir=MEMORY)
        self.addCleanup(shutil.rmtree, self.memory, ignore_errors=True)
        self.key = self.secret("key", os.urandom(32))
        self.other = self.secret("other", os.urandom(32).hex().encode() + b"\n")

    def secret(self, name, content, mode=0o600):
        path = os.path.join(self.tmp, name)
        with open(path, "wb") as f:
            f.write(content)
        os.chmod(path, mode)
        return path

    def mount_options(self, key=None):
        return "key=%s" % (key or self.key), "staging=" + self.memory

    def encrypted(self, *options, key=None, mount=True, encrypt="xts", **format_options):
        v = self.volume(mount=False, encrypt=encrypt, key=key or self.key, staging=self.memory, **format_options)
        return v.mount(*self.mount_options(key), *options) if mount else v

    def fsck(self, v, check=EXIT_OK, key=None):
        return v.fsck("--key", key or self.key, "--staging", self.memory, check=check)

    def mount_fails(self, v, *options):
        """What is said; nothing may have been written."""
        before = digest(v.store)
        args = [w for o in options for w in ("-o", o)]
        r = cli("mount", *args, v.store, v.mnt, check=EXIT_MOUNT)
        self.assertEqual(digest(v.store), before)
        return r.stderr


class Life(EncryptionTest):
    MODE = "xts"

    def encrypted(self, *options, **more):
        return super().encrypted(*options, encrypt=self.MODE, **more)

    def test_what_is_written_is_there_after_umount_kill_and_loss_of_memory(self):
        v = self.encrypted()
        contents = {"f%d" % i: os.urandom(n) for i, n in enumerate((1, 100, 4096, 65536, 65537, 1 << 20, 9 << 20))}
        for name, data in contents.items():
            v.write(name, data, sync=True)

        def check():
            for name, data in contents.items():
                self.assertEqual(v.read(name), data, name)
        check()
        v.remount()
        check()
        self.assertEqual(v.status()["encryption"], self.MODE)
        self.assertTrue(json.loads(cli("info", "--json", v.mnt, check=EXIT_OK).stdout)["encrypted"])
        # kill -9: what nobody synced is in memory, and memory stays
        v.write("unsynced", b"u" * 30000)
        os.mkdir(v.path("unsynced-dir"))
        cli("sync", v.mnt, check=EXIT_OK)
        os.rename(v.path("unsynced-dir"), v.path("renamed-dir"))
        v.kill9()
        v.mount(*v.options)
        self.assertTrue(os.path.isdir(v.path("renamed-dir")), "acked, so kill -9 does not lose it")
        self.assertEqual(v.read("unsynced"), b"u" * 30000)
        check()
        # the power goes, and memory with it: what was synced is there
        v.write("last", b"l" * 5000, sync=True)
        v.kill9()
        for path in files_below(self.memory):
            os.unlink(path)
        v.mount(*v.options)
        self.assertEqual(v.read("last"), b"l" * 5000)
        check()
        v.umount()
        self.assertEqual(files_below(self.memory), [], "a clean volume needs nothing in memory")
        self.fsck(v)
        dump = cli("dump", "--json", "--key", self.key, "--staging", self.memory, v.store, check=EXIT_OK).stdout
        self.assertIn("renamed-dir", dump)

    def test_a_read_only_mount_and_upgrade_check_work(self):
        v = self.encrypted()
        v.write("f", b"x", sync=True)
        v.umount()
        v.mount("ro", *v.options)
        self.assertEqual(v.read("f"), b"x")
        v.umount()
        r = cli("upgrade", "--check", "--json", v.store, check=EXIT_OK)
        self.assertEqual(json.loads(r.stdout)["incompat"], ["encrypted"])

    @unittest.skipUnless(shutil.which("fio"), "fio is not installed")
    def test_fio_verifies_what_it_wrote(self):
        v = self.encrypted()
        seed = clawfs_env.seed()
        for name, options in {"random": ["--rw=randwrite", "--bs=4k", "--size=8M"], "large": ["--rw=write", "--bs=1M", "--size=24M"],
                              "direct": ["--rw=randwrite", "--bsrange=4k-256k", "--size=16M", "--direct=1", "--ioengine=libaio",
                                         "--iodepth=8"]}.items():
            args = ["fio", "--name=" + name, "--directory=" + v.mnt, "--verify=crc32c", "--verify_fatal=1", "--randseed=%d" % seed,
                    "--verify_state_save=0", *options]
            for more in (["--do_verify=1", "--end_fsync=1"], ["--verify_only"]):
                r = subprocess.run(args + more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, cwd=self.tmp)
                self.assertEqual(r.returncode, 0, r.stdout[-3000:])
                v.remount()
        v.umount()
        self.fsck(v)


class SignedLife(Life):
    MODE = "aead"

    def test_a_sector_that_was_put_back_or_changed_is_refused(self):
        v = self.encrypted()
        v.write("f", b"1" * 4096 * 8, sync=True)
        v.umount()
        chunk = os.path.join(v.store, "arena.1", "chunk.00000")
        with open(chunk, "rb") as f:
            old = f.read(1 << 20)
        v.mount(*v.options)
        with open(v.path("f"), "r+b") as f:  # small, so it is written in place
            f.write(b"2" * 4096 * 8)
            os.fsync(f.fileno())
        v.umount()
        with open(chunk, "rb") as f:
            now = f.read(1 << 20)
        changed = [at for at in range(0, len(old), 4096) if old[at:at + 4096] not in (now[at:at + 4096], bytes(4096))]
        self.assertEqual(len(changed), 8)
        with open(chunk, "r+b") as f:
            f.write(old)
        self.fsck(v, check=EXIT_DAMAGED)
        with open(chunk, "r+b") as f:
            f.write(now)
        self.fsck(v)
        os.rename(chunk + ".tags", chunk + ".away")
        cli("mount", "-o", ",".join(self.mount_options()), v.store, v.mnt, check=EXIT_MOUNT)
        os.rename(chunk + ".away", chunk + ".tags")
        v.mount(*v.options)
        self.assertEqual(v.read("f"), b"2" * 4096 * 8)


class AtRest(EncryptionTest):
    def test_nothing_that_was_written_stands_in_any_file(self):
        for mode in "xts", "aead":
            with self.subTest(mode):
                self.scan(self.encrypted("audit=changes", encrypt=mode, name=mode))

    def scan(self, v):
        write_markers(v)
        self.assertEqual(markers_in(v.store), set(), "in the journal")
        v.kill9()
        self.assertEqual(markers_in(v.store), set(), "after a kill")
        v.mount(*v.options)
        v.umount()
        self.assertEqual(markers_in(v.store), set(), "in the arena, the index and the audit log")
        self.fsck(v)
        self.assertIn(MARKERS["NAME"].decode(), cli("audit", "--key", self.key, v.store, check=EXIT_OK).stdout)
        cli("audit", "--verify", "--key", self.key, v.store, check=EXIT_OK)
        self.assertIn("is encrypted", cli("audit", v.store, check=EXIT_FAILURE).stderr)

    def test_the_same_scan_finds_everything_of_a_volume_that_is_not_encrypted(self):
        v = self.volume()
        write_markers(v)
        self.assertEqual(markers_in(v.store), set(MARKERS), "or the other test proves nothing")
        v.umount()
        self.assertTrue({"NAME", "SMALL", "LARGE"} <= markers_in(v.store))

    def test_secrets_are_in_no_log_status_attribute_or_argument(self):
        words = b"a secret of many words"
        phrase = self.secret("phrase", words + b"\n")
        raw = os.urandom(16).hex()  # of which the key is made, so that it can be looked for
        key = self.secret("hexkey", (raw * 2).encode())
        v = self.encrypted(key=key, mount=False)
        cli("key", "add", "--key", key, "--new-key", "passphrase:" + phrase, v.store, check=EXIT_OK)
        v.mount("verbose", *self.mount_options("passphrase:" + phrase))
        pid = v.pid
        seen = v.messages() + json.dumps(v.status()) + cli("key", "list", v.mnt, check=EXIT_OK).stdout
        for name in ("cmdline", "environ", "mounts", "status"):
            with open("/proc/%d/%s" % (pid, name), "rb") as f:
                seen += f.read().decode(errors="replace")
        for path in files_below(v.store) + files_below(self.memory):
            with open(path, "rb") as f:
                data = f.read()
            for secret in (words, raw.encode(), bytes.fromhex(raw)):
                self.assertNotIn(secret, data, path)
        self.assertNotIn(words.decode(), seen)
        self.assertNotIn(raw, seen)

    def test_a_flipped_bit_in_the_index_or_the_data_is_damage_and_never_other_data(self):
        v = self.encrypted()
        data = os.urandom(1 << 20)
        v.write("f", data, sync=True)
        v.umount()
        chunk = os.path.join(v.store, "arena.1", "chunk.00000")
        with open(chunk, "r+b") as f:
            head = f.read(4096)
            self.assertNotEqual(head, bytes(4096))
            f.seek(100)
            f.write(bytes([head[100] ^ 1]))
        self.fsck(v, check=EXIT_DAMAGED)
        v.mount(*v.options)
        with self.assertRaises(OSError):
            v.read("f")
        v.umount()


class Keys(EncryptionTest):
    def test_without_the_right_key_nothing_is_mounted_or_written(self):
        v = self.encrypted(mount=False)
        staging = "staging=" + self.memory
        self.assertIn("is encrypted", self.mount_fails(v, staging))
        self.assertIn("not the right one", self.mount_fails(v, "key=" + self.other, staging))
        self.assertIn("No such file", self.mount_fails(v, "key=/nowhere/key", staging))
        self.assertIn("neither 32 bytes", self.mount_fails(v, "key=" + self.secret("short", b"abc"), staging))
        self.assertIn("too long", self.mount_fails(v, "key=" + self.secret("long", b"a" * 5000), staging))
        self.assertIn("chmod 600", self.mount_fails(v, "key=" + self.secret("open", b"a" * 32, 0o640), staging))
        self.assertIn("failed", self.mount_fails(v, "key=command:exit 3", staging))
        self.assertIn("too much", self.mount_fails(v, "key=command:cat /dev/zero", staging))
        self.assertIn("no terminal", subprocess.run(["setsid", CLAWFS, "mount", "-o", "key=ask", v.store, v.mnt], stderr=subprocess.PIPE,
                                                    stdin=subprocess.DEVNULL, text=True).stderr)
        self.assertEqual(self.fsck(v, check=EXIT_FSCK_ERROR, key=self.other).stdout, "")
        cli("fsck", v.store, check=EXIT_FSCK_ERROR)
        cli("dump", v.store, check=EXIT_FAILURE)
        v.mount(*self.mount_options())

    def test_a_key_for_a_volume_that_is_not_encrypted_is_refused(self):
        v = self.volume(mount=False)
        self.assertIn("not encrypted", self.mount_fails(v, "key=" + self.key))
        self.assertIn("not encrypted", cli("key", "list", v.store, check=EXIT_FAILURE).stderr)

    def test_format_wants_mode_and_key_together(self):
        store = os.path.join(self.tmp, "new")
        for args in (["--encrypt=xts"], ["--key", self.key], ["--encrypt=rot13", "--key", self.key], ["--encrypt=none", "--key", self.key]):
            self.assertEqual(cli("format", *args, store).returncode, EXIT_USAGE)
            self.assertFalse(os.path.exists(store))
        r = cli("format", "--encrypt=xts", "--key=/nowhere", *["--journal-size=32M", "--segment-size=4M", "--chunk-size=64M"], store)
        self.assertEqual(r.returncode, EXIT_FAILURE)
        self.assertFalse(os.path.exists(store), "what was made is taken back")

    def test_a_key_from_a_command(self):
        v = self.encrypted(key="command:cat " + self.other, mount=False)
        v.mount(*self.mount_options(self.other))  # the same secret
        v.umount()
        v.mount(*self.mount_options("command:cat " + self.other + "; echo a word >&2"))

    def test_another_key_without_writing_data_anew(self):
        phrase = self.secret("phrase", b"correct horse battery staple\nand no more\n")
        v = self.encrypted()
        v.write("f", b"x" * 100000, sync=True)
        v.umount()
        before = digest(v.store)

        def slots():
            return [(s["slot"], s["kind"]) for s in json.loads(cli("key", "list", "--json", v.store, check=EXIT_OK).stdout)]
        self.assertEqual(slots(), [("file", "key")])
        cli("key", "add", "--key", self.key, "--new-key", "passphrase:" + phrase, "--slot", "in the safe", v.store, check=EXIT_OK)
        self.assertEqual(slots(), [("file", "key"), ("in the safe", "passphrase")])
        cli("key", "change", "--key", self.key, "--new-key", self.other, v.store, check=EXIT_OK)
        self.assertEqual(slots(), [("file", "key"), ("in the safe", "passphrase")])
        after = digest(v.store)
        self.assertEqual({name for name in after if after[name] != before.get(name) and not name.startswith("audit")}, {"keys"})
        self.assertEqual(before.keys(), after.keys())
        self.assertIn("not the right one", self.mount_fails(v, *self.mount_options()))
        for key in (self.other, "passphrase:" + phrase):
            v.mount(*self.mount_options(key))
            self.assertEqual(v.read("f"), b"x" * 100000)
            v.umount()
        # while it is mounted, too
        v.mount(*self.mount_options(self.other))
        self.assertEqual(cli("key", "remove", "file", "--key", self.other, v.mnt).returncode, EXIT_FAILURE, "the one it opens")
        self.assertEqual(cli("key", "remove", "nobody", "--key", self.other, v.mnt).returncode, EXIT_FAILURE)
        self.assertEqual(cli("key", "remove", "file", v.mnt).returncode, EXIT_FAILURE, "without a secret")
        self.assertEqual(cli("key", "add", "--key", self.other, v.mnt).returncode, EXIT_USAGE)
        self.assertEqual(cli("key", "add", "--key", self.key, "--new-key", self.key, v.mnt).returncode, EXIT_FAILURE, "an old secret")
        self.assertEqual(cli("key", "add", "--key", self.other, "--new-key", self.key, v.mnt).returncode, EXIT_FAILURE, "file is taken")
        cli("key", "remove", "file", "--key", "passphrase:" + phrase, v.mnt, check=EXIT_OK)
        v.umount()
        self.assertEqual(slots(), [("in the safe", "passphrase")])
        self.mount_fails(v, *self.mount_options(self.other))
        v.mount(*self.mount_options("passphrase:" + phrase))
        self.assertEqual(v.read("f"), b"x" * 100000)

    def test_the_passphrase_is_asked_for_and_not_shown(self):
        v = self.encrypted(mount=False)
        words = "spoken at a terminal"

        def at_terminal(args, answers):
            """Runs clawfs with a terminal of its own; returns its exit code and what the terminal showed."""
            pid, fd = pty.fork()
            if pid == 0:
                os.execv(CLAWFS, [CLAWFS, *args])
            shown = b""
            try:
                for prompt, answer in answers:
                    end = time.monotonic() + 60
                    while not shown.endswith(prompt):
                        self.assertTrue(select.select([fd], [], [], end - time.monotonic())[0], shown)
                        shown += os.read(fd, 1000)
                    time.sleep(0.05)  # echo is switched off behind the prompt
                    os.write(fd, answer.encode() + b"\n")
                    shown += b"|"
                while True:
                    more = os.read(fd, 1000)
                    if not more:
                        break
                    shown += more
            except OSError:
                pass  # the terminal ends with the program
            finally:
                os.close(fd)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()

        add = ["key", "add", "--key", self.key, "--new-key", "ask", v.store]
        code, shown = at_terminal(add, [(b"store: ", words), (b"store: ", words + "x")])
        self.assertEqual(code, EXIT_FAILURE, shown)
        self.assertIn("two different", shown)
        code, shown = at_terminal(add, [(b"store: ", words), (b"store: ", words)])
        self.assertEqual(code, EXIT_OK, shown)
        self.assertNotIn(words, shown)
        code, shown = at_terminal(["fsck", "--key", "ask", "--staging", self.memory, v.store], [(b"store: ", words)])
        self.assertEqual(code, EXIT_OK, shown)
        code, shown = at_terminal(["mount", "-o", "key=ask,staging=" + self.memory, v.store, v.mnt], [(b"store: ", words)])
        self.addCleanup(v.detach)
        self.assertEqual(code, EXIT_OK, shown)
        self.assertNotIn(words, shown)
        cli("umount", v.mnt, check=EXIT_OK)
        code, shown = at_terminal(["mount", "-o", "key=ask,staging=" + self.memory, v.store, v.mnt], [(b"store: ", "wrong")])
        self.assertEqual(code, EXIT_MOUNT, shown)

    def test_a_damaged_or_missing_file_of_keys_is_told(self):
        v = self.encrypted(mount=False)
        keys = os.path.join(v.store, "keys")
        with open(keys, "rb") as f:
            content = f.read()
        with open(keys, "r+b") as f:
            f.write(b"\0" * 4096)
        v.mount(*self.mount_options())  # by the second copy
        v.umount()
        with open(keys, "r+b") as f:
            f.write(b"\0" * 8192)
        self.assertIn("damaged", self.mount_fails(v, *self.mount_options()))
        os.unlink(keys)
        self.assertIn("missing", self.mount_fails(v, *self.mount_options()))
        os.symlink("/etc/passwd", keys)
        self.mount_fails(v, *self.mount_options())
        os.unlink(keys)
        # of another volume, which the same secret opens
        o = self.volume(name="another", mount=False, encrypt="xts", key=self.key, staging=self.memory)
        shutil.copy(os.path.join(o.store, "keys"), keys)
        self.assertIn("another volume", self.mount_fails(v, *self.mount_options()))
        with open(keys, "wb") as f:
            f.write(content)
        v.mount(*self.mount_options())


class Memory(EncryptionTest):
    def test_staging_must_be_in_memory(self):
        v = self.encrypted(mount=False)
        if os.stat(self.tmp).st_dev == os.stat(MEMORY).st_dev:
            self.skipTest("tests run in memory")
        self.assertIn("not a filesystem in memory", self.mount_fails(v, "key=" + self.key, "staging=" + self.tmp))

    def test_two_copies_of_a_volume_do_not_share_it(self):
        v = self.encrypted(mount=False)
        w = self.volume(name="copy", mount=False)
        shutil.rmtree(w.store)
        shutil.copytree(v.store, w.store)
        v.mount(*self.mount_options())
        self.assertIn("a copy of this volume is mounted", self.mount_fails(w, *self.mount_options()))
        v.umount()
        w.mount(*self.mount_options())

    def test_a_directory_of_somebody_else_is_refused(self):
        v = self.encrypted(mount=False)
        v.mount(*self.mount_options())
        v.umount()
        name = os.listdir(self.memory)[0]
        os.chmod(os.path.join(self.memory, name), 0o755)
        self.mount_fails(v, *self.mount_options())
        shutil.rmtree(os.path.join(self.memory, name))
        os.symlink(self.tmp, os.path.join(self.memory, name))
        self.mount_fails(v, *self.mount_options())


class Nodes(EncryptionTest):
    def node(self, name, key=None):
        n = clawfs_env.Node(self.tmp, name)
        self.addCleanup(n.close)
        n.extra = self.mount_options(key) if key else ()
        return n

    def join(self, leader, node, key=None):
        options = ("--encrypt", "xts", "--key", key, "--staging", self.memory) if key else ()
        return node.join(leader.invite(node.name), *options).start(*node.extra)

    def check(self, keys):
        """Two nodes with these keys: everything arrives, both ways, and what only one has is kept aside, encrypted as it is."""
        a, b = (self.node(name, key) for name, key in zip("ab", keys))
        options = {"encrypt": "aead", "key": keys[0], "staging": self.memory} if keys[0] else {}
        a.format(**options)
        a.start(*a.extra)
        write_markers(a)
        self.join(a, b, keys[1])

        def same():
            cli("sync", a.mnt, check=EXIT_OK)
            b.reached(a.pos)
            self.assertEqual(digest(b.mnt), digest(a.mnt))
        same()
        for n, key in ((a, keys[0]), (b, keys[1])):
            if key:
                self.assertEqual(markers_in(n.store), set(), n.name)
        # a writes what b never hears of, and follows it afterwards
        b.kill9()
        only = MARKERS["LARGE"] * 4000
        a.write("only-a", only, sync=True)
        a.write("plain", MARKERS["SMALL"] * 2, sync=True)
        a.kill9()
        b.start(*b.extra)
        cli("promote", b.mnt, check=EXIT_OK)
        b.write("by-b", b"b", sync=True)
        a.start(*a.extra)
        self.assertEqual(a.role, "follower")
        cli("sync", b.mnt, check=EXIT_OK)
        a.reached(b.pos)
        self.assertEqual(digest(b.mnt), digest(a.mnt))
        tail = a.diverged()[0]["id"]
        out = os.path.join(self.tmp, "out")
        if keys[0]:
            self.assertEqual(markers_in(os.path.join(a.store, "diverged")), set())
            self.assertIn("is encrypted", cli("diverged", "export", tail, a.mnt, out, check=EXIT_FAILURE).stderr)
            cli("diverged", "export", "--key", keys[0], tail, a.mnt, out, check=EXIT_OK)
        else:
            cli("diverged", "export", tail, a.mnt, out, check=EXIT_OK)
        with open(out + "/tree/only-a", "rb") as f:
            self.assertEqual(f.read(), only)
        for n, key in ((b, keys[1]), (a, keys[0])):
            n.umount()
            n.fsck(*(("--key", key, "--staging", self.memory) if key else ()))

    def test_an_encrypted_leader_and_a_follower_that_is_not(self):
        self.check((self.key, None))

    def test_a_leader_that_is_not_encrypted_and_a_follower_that_is(self):
        self.check((None, self.key))

    def test_two_nodes_with_keys_of_their_own(self):
        self.check((self.key, self.other))


if __name__ == "__main__":
    main()
