"""Secrets of object stores stay where they belong: keys in DIR/credentials only, contents of files in no bucket unsealed."""

import mmap
import os
import random
import stat
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
import clawfs_env
from clawfs_env import CLAWFS, EXIT_FAILURE, EXIT_OK, cli

import fake_s3
from cold_env import ColdVolume, forget, gc, scan

SEED = clawfs_env.seed()
ACCESS, SECRET, TOKEN = "AKIAclawfsTESTaccess", "s3cr3tS3CR3Ts3cr3tS3CR3T/+needle0123456789", "t0kenT0KENt0kenneedle9876543210"


def shapes(secret):
    """A secret as it may be met: itself, in hex and base64, as part of a URL, as a signing key begins."""
    import base64
    import urllib.parse
    raw = secret.encode()
    found = {raw, raw.hex().encode(), ("AWS4" + secret).encode(), urllib.parse.quote(secret, safe="").encode()}
    for i in range(3):  # wherever it begins in a group of three
        found.add(base64.b64encode(b"\0" * i + raw)[4 if i else 0:-4])
    return found


NEEDLES = shapes(SECRET) | shapes(TOKEN)


class Processes(threading.Thread):
    """Looks at arguments and environment of every process while it runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ends, self.found, self.looks = threading.Event(), [], 0

    def run(self):
        me = os.getpid()
        while not self.ends.wait(0.005):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                for what in ("cmdline", "environ"):
                    try:
                        with open("/proc/%s/%s" % (pid, what), "rb") as f:
                            text = f.read()
                    except OSError:
                        continue
                    self.looks += 1
                    if int(pid) != me and any(n in text for n in NEEDLES):
                        self.found.append((pid, what, text[:200]))


class Secrets(clawfs_env.VolumeTest):
    def setUp(self):
        super().setUp()
        self.random = random.Random(SEED)
        self.fake = fake_s3.FakeS3(access_key=ACCESS, secret_key=SECRET)
        self.fake.session_token = TOKEN
        self.addCleanup(self.fake.close)
        self.said = []

    def cli(self, *args):
        r = cli(*args)
        self.said.append((args[:2], r.stdout + r.stderr))
        return r

    def add(self, v, *options, credentials=None):
        if credentials is None:
            credentials = os.path.join(self.tmp, "keys")
            fake_s3.write_credentials(credentials, ACCESS, SECRET, TOKEN)
        r = self.cli("tier", "add", "cold", "s3://cold/vol", v.mnt, "--endpoint", self.fake.endpoint, "--path-style", "--credentials",
                     credentials, "--timeout", "2s", "--grace", "0s", *options)
        os.setxattr(v.mnt, "clawfs.tier", b"after=1000d min=4K store=cold")
        return r

    def no_needle(self, where, data):
        for n in NEEDLES:
            self.assertNotIn(n, data, where)

    def look_at_attributes(self, v):
        names = set(os.listxattr(v.mnt)) | {"clawfs." + n for n in (
            "status", "tier", "tier.store.cold", "tier.result.add", "tier.result.test", "tier.result.gc", "tier.result.remove",
            "tier.state", "tier.usage", "recall", "tier.pin")}
        for path in (v.mnt, v.path("f")):
            for name in names | set(os.listxattr(path)):
                try:
                    self.no_needle(name, os.getxattr(path, name))
                except OSError:
                    pass
        for name in ("clawfs.tier.key", "clawfs.tier.credentials", "clawfs.tier.credentials.cold"):
            with self.assertRaises(OSError):
                os.getxattr(v.mnt, name)

    def look_at_disk(self, v):
        """Everything in DIR but credentials/."""
        n = 0
        for base, dirs, files in os.walk(v.store):
            if base == v.store:
                self.assertIn("credentials", dirs)
                dirs.remove("credentials")
            for name in files:
                path = os.path.join(base, name)
                if os.path.getsize(path):
                    n += 1
                    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as data:
                        for needle in NEEDLES:
                            self.assertEqual(data.find(needle), -1, path)
        self.assertGreater(n, 5)

    def test_they_are_nowhere_else(self):
        watch = Processes()
        watch.start()
        self.addCleanup(watch.ends.set)
        v = ColdVolume(self.tmp, self.fake, mounted=False)
        self.addCleanup(v.close)
        v.format().mount()
        self.assertEqual(self.add(v).returncode, EXIT_OK)
        v.put("f", self.random.randbytes(300000))
        v.evict("f")
        v.check()
        self.cli("tier", "test", "cold", v.mnt)
        self.cli("tier", "list", v.mnt)
        self.cli("tier", "list", "--json", v.mnt)
        self.cli("tier", "show", v.path("f"))
        # Errors say the most: refused, misunderstood, cut off, sent elsewhere.
        for fault in (dict(kind="status", status=403, code="SignatureDoesNotMatch"),
                      dict(kind="status", status=400, code="AuthorizationHeaderMalformed", region="eu-9"),
                      dict(kind="garbage"), dict(kind="reset")):
            v.put("f", self.random.randbytes(300000))  # nothing of it is in the daemon's memory
            v.evict("f")
            self.fake.fault(times=1 << 30, **fault)
            with self.assertRaises(OSError):
                v.read("f")
            self.cli("tier", "list", v.mnt)
            self.assertEqual(self.cli("tier", "test", "cold", v.mnt).returncode, EXIT_FAILURE)
            self.assertEqual(self.cli("gc", v.mnt).returncode, EXIT_FAILURE)
            self.fake.clear()
            clawfs_env.wait_for("the file again", lambda: v.reads("f"), 90, 0.2)
        self.look_at_attributes(v)
        # A file that is no credentials, and one that others can read.
        for text, mode in (("secret_key = %s\n" % SECRET, 0o600), ("access_key = %s\nsecret_key = %s\n" % (ACCESS, SECRET), 0o644),
                           (SECRET + "\n", 0o600), ("access_key %s\nsecret_key == %s\n%s\n" % (ACCESS, SECRET, TOKEN), 0o600)):
            bad = os.path.join(self.tmp, "bad")
            with open(bad, "w") as f:
                f.write(text)
            os.chmod(bad, mode)
            self.assertNotEqual(self.add(v, credentials=bad).returncode, EXIT_OK, text)
        self.said.append(("status", cli("status", v.mnt).stdout + cli("status", "--json", v.mnt).stdout))
        with open("/proc/%d/cmdline" % v.pid, "rb") as f:
            self.no_needle("cmdline", f.read())
        v.umount()
        for args in (("info", v.store), ("dump", v.store), ("dump", "--json", v.store), ("fsck", v.store)):
            self.cli(*args)
        for what, text in self.said:
            self.no_needle(what, text.encode(errors="replace"))
        self.no_needle("log", v.messages().encode())
        self.look_at_disk(v)
        kept = os.path.join(v.store, "credentials")
        self.assertEqual(stat.S_IMODE(os.lstat(kept).st_mode), 0o700)
        self.assertEqual(os.listdir(kept), ["cold"])
        self.assertEqual(stat.S_IMODE(os.lstat(os.path.join(kept, "cold")).st_mode), 0o600)
        with open(os.path.join(kept, "cold"), "rb") as f:
            self.assertIn(SECRET.encode(), f.read())  # so the needles are the right ones
        watch.ends.set()
        watch.join()
        self.assertEqual(watch.found, [])
        self.assertGreater(watch.looks, 100)

    def test_they_are_taken_from_the_environment_and_stay_out_of_the_daemon(self):
        v = self.volume()
        env = dict(os.environ, AWS_ACCESS_KEY_ID=ACCESS, AWS_SECRET_ACCESS_KEY=SECRET, AWS_SESSION_TOKEN=TOKEN)
        r = subprocess.run([CLAWFS, "tier", "add", "cold", "s3://cold/vol", v.mnt, "--endpoint", self.fake.endpoint, "--path-style"],
                           env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(r.returncode, EXIT_OK, r.stdout)
        self.no_needle("output", r.stdout)
        for what in ("cmdline", "environ"):
            with open("/proc/%d/%s" % (v.pid, what), "rb") as f:
                self.no_needle(what, f.read())
        v.umount()
        self.no_needle("log", v.messages().encode())
        self.look_at_disk(v)

    def plaintext_of(self, *options):
        """How often the needle that fills files is in the bucket."""
        needle = b"the contents of a file, plain to see %08x" % SEED
        self.fake.buckets["cold"].clear()
        v = ColdVolume(self.tmp, self.fake, name="plain%d" % len(options), mounted=False)
        self.addCleanup(v.close)
        v.format().mount()
        self.assertEqual(self.add(v, *options).returncode, EXIT_OK)
        # Beside bytes that do not compress, so that the needle would be stored as it is.
        for i in range(20):
            v.put("a-telling-name-%d" % i, (needle + self.random.randbytes(4096 - len(needle))) * self.random.randrange(1, 40))
        v.evict()
        forget(v.mnt)
        for i in range(12):
            os.unlink(v.path("a-telling-name-%d" % i))
            del v.model["a-telling-name-%d" % i]
        scan(v)
        time.sleep(1)
        gc(v)
        v.check()
        with self.fake.lock:
            stored = list(self.fake.buckets["cold"].items())
        self.assertGreater(sum(len(o.data) for _, o in stored), 20000)  # of eight files, when they are repacked already
        for key, o in stored:
            self.assertNotIn("telling", key)
            self.assertNotIn(b"a-telling-name", o.data)
            self.no_needle(key, o.data)
        return sum(o.data.count(needle) for _, o in stored)

    def test_no_contents_are_in_the_bucket_unless_asked_for(self):
        self.assertEqual(self.plaintext_of(), 0)
        self.assertGreater(self.plaintext_of("--no-encrypt"), 0)  # so the search would have found it


if __name__ == "__main__":
    clawfs_env.main()
