"""test_s3: tier/s3 through the program clawfs-store: every fault at every verb against the fake, and all verbs against Ceph
radosgw and OpenStack Swift, started here.  $CLAWFS_STORE is the program."""

import concurrent.futures
import json
import os
import shutil
import subprocess
import tempfile
import time
import unittest

import fake_s3
import servers

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.environ.get("CLAWFS_STORE") or os.path.join(ROOT, "build", "tests", "tier", "clawfs-store")
VERBS = ("PUT", "GET", "HEAD", "DELETE", "LIST")
MIB = 1 << 20


class Tool:
    """One store, its verbs called one after the other: each returns the program's JSON as a dict."""

    def __init__(self, directory, definition, credentials, *options, env=None, wrapper=()):
        self.dir = tempfile.mkdtemp(prefix="tool-", dir=directory)
        self.args = [*wrapper, PROGRAM, *options, definition, credentials]
        self.process = subprocess.Popen([*self.args, "script"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=dict(os.environ, **(env or {})))

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def call(self, *words):
        self.process.stdin.write(" ".join(str(w) or "-" for w in words) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def opened(self):
        """What came of opening the store, when that failed."""
        return json.loads(self.process.stdout.readline())

    def put(self, key, data, verb="put"):
        path = os.path.join(self.dir, "up")
        with open(path, "wb") as f:
            f.write(data)
        return self.call(verb, key, path)

    def create(self, key, data):
        return self.put(key, data, "create")

    def get(self, key, offset, length):
        path = os.path.join(self.dir, "down")
        r = self.call("get", key, offset, length, path)
        if not r["error"]:
            with open(path, "rb") as f:
                r["data"] = f.read()
        return r

    def head(self, key):
        return self.call("head", key)

    def remove(self, key):
        return self.call("remove", key)

    def list(self, prefix="", after="", *limit):
        r = self.call("list", prefix, after, *limit)
        r["names"] = [k for k, _ in r.get("keys", ())]
        return r


class StoreTest(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="clawfs-test-")
        self.addCleanup(shutil.rmtree, self.dir)

    def tool(self, server, options="", *flags, bucket="cold/pre", credentials=None, endpoint=None, **kwargs):
        if credentials is None:
            credentials = server.credentials
            if callable(credentials):
                credentials = credentials(os.path.join(self.dir, "credentials"))
        t = Tool(self.dir, "s3://%s endpoint=%s %s" % (bucket, endpoint or server.endpoint, options), credentials, *flags, **kwargs)
        self.addCleanup(t.close)
        return t

    def check(self, r, error="", text=None):
        self.assertEqual(r["error"], error, r)
        self.assertEqual(bool(r["message"]), bool(error), r)
        self.assertNotIn("secret", r["message"])
        if text is not None:
            self.assertIn(text, r["message"])
        return r


class FakeTest(StoreTest):
    def setUp(self):
        super().setUp()
        self.server = fake_s3.FakeS3()
        self.addCleanup(self.server.close)
        self.objects = self.server.buckets["cold"]

    def open(self, *args, **kwargs):
        t = self.tool(self.server, *args, **kwargs)
        self.check(t.put("key", b"0123456789" * 1000))
        self.server.requests.clear()
        return t

    def verb(self, t, verb):
        """One call of that verb, on an object that is there."""
        if verb == "PUT":
            return t.put("key", b"new bytes")
        if verb == "GET":
            return t.get("key", 100, 500)
        if verb == "HEAD":
            return t.head("key")
        return t.remove("key") if verb == "DELETE" else t.list()

    def test_each_error_at_each_verb(self):
        # An answer to HEAD has no code: what it means then, when it is something else.
        table = [
            (dict(status=500), "EIO", "EIO"),
            (dict(status=502, code="BadGateway"), "EIO", "EIO"),
            (dict(status=503, code="SlowDown"), "EBUSY", "EIO"),
            (dict(status=503, code="SlowDown", retry_after=7), "EBUSY", "EBUSY"),
            (dict(status=503, code="ServiceUnavailable"), "EIO", "EIO"),
            (dict(status=429, code="TooMany"), "EBUSY", "EBUSY"),
            (dict(status=504, code="Gateway"), "ETIMEDOUT", "ETIMEDOUT"),
            (dict(status=408, code="Slow"), "ETIMEDOUT", "ETIMEDOUT"),
            (dict(status=400, code="RequestTimeout"), "ETIMEDOUT", "EPROTO"),
            (dict(status=401, code="Who"), "EACCES", "EACCES"),
            (dict(status=403, code="AccessDenied"), "EACCES", "EACCES"),
            (dict(status=400, code="ExpiredToken"), "EACCES", "EPROTO"),
            (dict(status=403, code="QuotaExceeded"), "ENOSPC", "EACCES"),
            (dict(status=507, code="Full"), "ENOSPC", "ENOSPC"),
            (dict(status=404, code="NoSuchBucket"), "ENODEV", "ENOENT"),
            (dict(status=404, code="NoSuchKey"), "ENOENT", "ENOENT"),
            (dict(status=404, code="Unknown"), "EPROTO", "ENOENT"),
            (dict(status=301, code="PermanentRedirect", region="eu-7"), "ENODEV", "ENODEV"),
            (dict(status=307, code="TemporaryRedirect"), "ENODEV", "ENODEV"),
            (dict(status=400, code="BadDigest"), "EBADMSG", "EPROTO"),
            (dict(status=416, code="InvalidRange"), "EBADMSG", "EBADMSG"),
            (dict(status=409, code="OperationAborted"), "EIO", "EIO"),
            (dict(status=405, code="MethodNotAllowed"), "EOPNOTSUPP", "EOPNOTSUPP"),
            (dict(status=501, code="NotImplemented"), "EOPNOTSUPP", "EOPNOTSUPP"),
            (dict(status=400, code="SomethingNew"), "EPROTO", "EPROTO"),
        ]
        t = self.open()
        for arg, error, head_error in table:
            for verb in VERBS:
                with self.subTest(verb=verb, **arg):
                    before = dict(self.objects)
                    self.server.fault("status", verb=verb, **arg)
                    text = "%d" % arg["status"] if verb == "HEAD" else arg["code"] if "code" in arg else "InternalError"
                    r = self.check(self.verb(t, verb), head_error if verb == "HEAD" else error, text)
                    self.assertIn("s3://cold/pre at " + self.server.endpoint, r["message"])
                    self.assertEqual(r["status"], arg["status"])
                    self.assertEqual(r["retry_after_ns"], arg.get("retry_after", 0) * 10**9)
                    if arg.get("region"):
                        self.assertIn(arg["region"], r["message"])
                    self.assertEqual(self.objects, before)
        self.check(self.verb(t, "GET"))

    def test_each_failure_of_the_connection_at_each_verb(self):
        t = self.open("timeout=1")
        # What it leaves behind: PUT and DELETE are carried out only where the answer alone was lost.
        table = [("reset", {}, VERBS, "ECONNRESET", False), ("crash", {}, VERBS, "ECONNRESET", True),
                 ("torn", {}, ("GET", "LIST"), "ECONNRESET", False), ("torn_upload", {}, ("PUT",), "ECONNRESET", False),
                 ("stall", {"seconds": 20}, VERBS, "ETIMEDOUT", False),
                 ("stall", {"seconds": 20, "middle": True}, ("GET", "LIST"), "ETIMEDOUT", False)]
        for kind, arg, verbs, error, done in table:
            for verb in verbs:
                with self.subTest(kind=kind, verb=verb, **arg):
                    self.check(t.put("key", b"0123456789" * 1000))
                    before = self.objects["pre/key"].data
                    # Twice: what is cut on a kept connection is sent once more on a new one.
                    self.server.fault(kind, verb=verb, times=2, **arg)
                    start = time.monotonic()
                    self.check(self.verb(t, verb), error)
                    self.assertLess(time.monotonic() - start, 12)
                    o = self.objects.get("pre/key")
                    after = {"PUT": b"new bytes", "DELETE": None}.get(verb, before) if done else before
                    self.assertEqual(o and o.data, after)
                    self.server.clear()
        self.check(t.list())

    def test_a_deadline_ends_each_verb(self):
        t = self.open("", "--timeout", "0.6")
        for verb in VERBS:
            with self.subTest(verb=verb):
                self.server.fault("stall", verb=verb, seconds=20)
                start = time.monotonic()
                self.check(self.verb(t, verb), "ETIMEDOUT")
                self.assertLess(time.monotonic() - start, 12)

    def test_a_trickle_is_bounded_by_the_deadline(self):
        t = self.open("timeout=1", "--timeout", "2")
        self.server.page_size = 1
        for i in range(12):
            self.check(t.put("k%d" % i, b"x"))
        self.server.fault("stall", verb="LIST", seconds=0.9, times=20)
        start = time.monotonic()
        self.check(t.list(), "ETIMEDOUT")
        self.assertLess(time.monotonic() - start, 9)

    def test_requests_that_arrive_twice(self):
        t = self.open()
        for verb in VERBS:
            self.check(t.put("key", b"0123456789" * 1000))
            self.server.fault("duplicate", verb=verb)
            self.check(self.verb(t, verb))
        # The second delivery loses against the first.
        self.server.fault("duplicate", verb="PUT")
        self.check(t.create("once", b"mine"), "EEXIST")
        self.assertEqual(self.objects["pre/once"].data, b"mine")

    def test_a_put_that_arrives_late(self):
        t = self.open()
        self.server.fault("duplicate", verb="PUT", later=0.3)
        self.check(t.put("late", b"x"))
        self.check(t.remove("late"))
        end = time.monotonic() + 5
        while t.head("late")["error"] and time.monotonic() < end:
            time.sleep(0.02)
        self.check(t.head("late"))

    def test_conditional_puts(self):
        t = self.open()
        self.check(t.create("once", b"first"))
        self.check(t.create("once", b"second"), "EEXIST")
        for status, code in ((409, "ConditionalRequestConflict"), (412, "PreconditionFailed"), (409, "Other")):
            self.server.fault("status", verb="PUT", status=status, code=code)
            self.check(t.create("other", b"x"), "EEXIST")
        self.assertEqual(self.objects["pre/once"].data, b"first")
        self.assertNotIn("pre/other", self.objects)
        # The outcome is unknown: it was stored, and trying again says so.
        self.server.fault("crash", verb="PUT", times=2)
        self.check(t.create("unknown", b"mine"), "ECONNRESET")
        self.server.clear()
        self.check(t.create("unknown", b"mine"), "EEXIST")
        self.assertEqual(self.objects["pre/unknown"].data, b"mine")
        self.server.set(conditions="no")
        self.check(t.create("unsupported", b"x"), "EOPNOTSUPP")
        self.check(t.put("supported", b"x"))

    def test_what_is_stored_is_verified(self):
        t = self.open()
        self.assertTrue(self.check(t.put("a", b"x" * 70000))["verified"])
        # Damaged on its way: refused by what was sent along.
        self.server.fault("corrupt_upload", verb="PUT")
        self.check(t.put("b", b"x" * 70000), "EBADMSG")
        self.assertNotIn("pre/b", self.objects)
        # Damaged by the store, which does not notice: the ETag tells.
        self.server.fault("corrupt_stored", verb="PUT")
        self.assertFalse(self.check(t.put("c", b"x" * 70000))["verified"])
        self.server.fault("garbage", verb="PUT")
        self.assertFalse(self.check(t.put("d", b"x"))["verified"])
        self.server.set(md5_etags=False)
        self.assertFalse(self.check(t.put("e", b"x"))["verified"])

    def test_a_store_that_insists_on_the_sha256_of_a_body_gets_it(self):
        statuses = lambda: [r["status"] for r in self.server.requests]
        for how, (status, _, _) in fake_s3.REFUSE_UNSIGNED.items():
            with self.subTest(how=how):
                self.server.set(unsigned=how)
                self.server.requests.clear()
                t = self.tool(self.server)
                self.assertTrue(self.check(t.put("a-" + how, b"x" * 70000))["verified"])
                self.assertEqual(statuses(), [status, 200])
                # And it is not asked again.
                self.assertTrue(self.check(t.put("b-" + how, b"y" * 70000))["verified"])
                self.assertEqual(statuses(), [status, 200, 200])
                self.server.fault("corrupt_upload", verb="PUT")
                self.check(t.put("c-" + how, b"z" * 70000), "EBADMSG")
                self.assertNotIn("pre/c-" + how, self.objects)
        # One that took a body with its MD5 and refuses the next one means something else.
        self.server.set(unsigned="yes")
        t = self.open()
        self.server.set(unsigned="denied")
        self.check(t.put("d", b"x"), "EACCES")
        self.assertEqual(statuses(), [403])

    def test_ranges_are_what_was_asked_for(self):
        t = self.open()
        data = os.urandom(3 * MIB)
        self.check(t.put("big", data))
        self.check(t.put("small", data[:1000]))
        for off, n in ((0, 1), (0, len(data)), (len(data) - 1, 1), (MIB - 1, 2), (12345, 2 * MIB)):
            self.assertEqual(self.check(t.get("big", off, n))["data"], data[off:off + n])
        # Shorter than it should be.
        for off, n in ((0, 1001), (999, 2), (1000, 1), (5000, 10)):
            self.check(t.get("small", off, n), "EBADMSG")
        self.server.fault("less", verb="GET")
        self.check(t.get("small", 0, 10), "EBADMSG")
        self.server.fault("more", verb="GET")
        self.check(t.get("small", 0, 10), "EPROTO")
        # Whole instead of a part.
        self.server.fault("whole", verb="GET", times=5)
        self.assertEqual(self.check(t.get("small", 100, 200))["data"], data[100:300])
        self.assertEqual(self.check(t.get("small", 0, 1000))["data"], data[:1000])
        self.check(t.get("small", 900, 200), "EBADMSG")
        self.assertEqual(self.check(t.get("big", 0, len(data)))["data"], data)
        self.check(t.get("big", 0, 1000), "EPROTO")
        self.server.fault("garbage", verb="GET")
        self.check(t.get("big", 100, 1000), "EBADMSG")
        self.check(t.get("small", 0, 0), "EINVAL", "range")
        self.check(t.get("small", 2**63, 10), "EINVAL", "range")

    def test_objects_of_all_sizes(self):
        t = self.open()
        for n in (0, 1, 2, 3, 4096, 65535, 65536, 65537, 524287, 524288, 524289, 5 * MIB + 7):
            data = os.urandom(n)
            self.assertTrue(self.check(t.put("k", data))["verified"])
            self.assertEqual(self.objects["pre/k"].data, data)
            self.assertEqual(self.check(t.head("k"))["info"]["size"], n)
            if n:
                self.assertEqual(self.check(t.get("k", 0, n))["data"], data)

    def test_listings(self):
        t = self.open()
        self.check(t.remove("key"))
        names = sorted("d%d/f%03d" % (i % 3, i) for i in range(2500))
        for n in names:
            self.objects["pre/" + n] = fake_s3.Object(b"x" * len(n), "e", 1369353600, "")
        # Names that are none of ours, and those of others.
        for n in ("pre/sp ace", "pre/a+b", "pre/100%", "pre/\u1234", "pre/<&>", "pre/a//b", "pre/../x", "pre/d0/", "prefix",
                  "other/d0"):
            self.objects[n] = fake_s3.Object(b"", "e", 0, "")
        for page in (1000, 999, 7):
            self.server.page_size = page
            r = self.check(t.list())
            self.assertEqual(r["names"], names)
            self.assertEqual(r["keys"][0][1], {"size": len(names[0]), "modified_ns": 1369353600 * 10**9})
        self.assertEqual(t.list("d1/")["names"], [n for n in names if n.startswith("d1/")])
        self.assertEqual(t.list("d1/f00")["names"], [n for n in names if n.startswith("d1/f00")])
        self.assertEqual(t.list("", names[1234])["names"], names[1235:])
        self.assertEqual(t.list("d1/", "d1/f5")["names"], [n for n in names if n.startswith("d1/") and n > "d1/f5"])
        self.assertEqual(t.list("none/")["names"], [])
        before = self.server.count("LIST")
        self.assertEqual(t.list("", "", 10)["names"], names[:10])
        self.assertEqual(self.server.count("LIST") - before, 3)
        # An error on a later page, and what no listing can be.
        self.server.fault("status", verb="LIST", status=500, after=3)
        self.check(t.list(), "EIO")
        for kind in ("unordered", "endless", "garbage"):
            self.server.fault(kind, verb="LIST", times=5, after=1)
            self.check(t.list(), "EPROTO")
            self.server.clear()

    def test_a_store_without_prefix(self):
        t = self.tool(self.server, bucket="cold")
        self.check(t.put("a/b", b"x"))
        self.assertEqual(list(self.objects), ["a/b"])
        self.assertEqual(t.list()["names"], ["a/b"])
        self.assertEqual(t.list("", "a/b")["names"], [])

    def test_keys_that_cannot_be_are_not_sent(self):
        t = self.open()
        for key in ("/a", "a/", "a//b", ".", "a/../b", "a%b", "\u1234", "x" * 513):
            for verb in ("head", "remove"):
                self.check(t.call(verb, key), "EINVAL")
            self.check(t.get(key, 0, 1), "EINVAL")
            self.check(t.put(key, b""), "EINVAL")
        self.check(t.list("x" * 513), "EINVAL", "prefix")
        self.assertEqual(self.server.requests, [])

    def test_the_clock_of_the_store_counts(self):
        year = 365 * 86400
        for offset in (3600, -3600, 10 * year, -10 * year):
            for verb in VERBS:
                with self.subTest(offset=offset, verb=verb):
                    self.server.clock_offset = 0
                    t = self.open()
                    self.server.clock_offset = offset
                    self.check(self.verb(t, verb))
                    self.assertEqual([r["status"] for r in self.server.requests][:1], [403])
                    self.assertEqual(len(self.server.requests), 2)
                    # It is remembered.
                    self.check(t.put("key", b"x"))
                    self.assertEqual(len(self.server.requests), 3)
                    # And corrected again, once a call.
                    self.server.clock_offset = -offset
                    self.check(t.get("key", 0, 1))
        self.server.fault("status", status=403, code="RequestTimeTooSkewed", times=5)
        self.server.requests.clear()
        self.check(t.head("key"), "EACCES")
        self.assertLessEqual(len(self.server.requests), 2)

    def test_credentials_that_are_wrong(self):
        for access_key, secret_key, text in (("fakekey", "wrong", "SignatureDoesNotMatch"),
                                             ("nobody", "fakesecret", "InvalidAccessKeyId")):
            path = os.path.join(self.dir, "wrong")
            fake_s3.write_credentials(path, access_key, secret_key)
            t = self.tool(self.server, credentials=path)
            for verb in VERBS:
                r = self.check(self.verb(t, verb), "EACCES", None if verb == "HEAD" else text)
                self.assertNotIn(secret_key, r["message"])
        self.assertEqual(self.objects, {})

    def test_credentials_that_are_rotated(self):
        t = self.open()
        path = os.path.join(self.dir, "credentials")
        for i, verb in enumerate(VERBS):
            self.server.secret_key = "rotated%d" % i
            self.check(self.verb(t, verb), "EACCES")
            fake_s3.write_credentials(path, "fakekey", "rotated%d" % i)
            self.check(self.verb(t, verb))
            self.check(t.put("key", b"0123456789" * 1000))
        os.chmod(path, 0o644)
        self.server.secret_key = "again"
        self.check(self.verb(t, "GET"), "EACCES")

    def test_credentials_of_the_environment(self):
        env = {"AWS_ACCESS_KEY_ID": "fakekey", "AWS_SECRET_ACCESS_KEY": "fakesecret"}
        t = self.tool(self.server, credentials="-", env=env)
        self.check(t.put("a", b"x"))
        os.chmod(self.server.credentials(os.path.join(self.dir, "open")), 0o640)
        t = self.tool(self.server, credentials=os.path.join(self.dir, "open"))
        r = t.opened()
        self.assertEqual(r["error"], "EACCES")
        self.assertIn("0640", r["message"])

    def test_a_session_has_a_token(self):
        self.server.session_token = "tokentokentokentoken" * 10
        path = os.path.join(self.dir, "session")
        fake_s3.write_credentials(path, "fakekey", "fakesecret", self.server.session_token)
        t = self.tool(self.server, credentials=path)
        self.check(t.put("a", b"x"))
        # A store that tells of the token it was given: the message does not.
        self.server.session_token = "another"
        r = self.check(t.put("a", b"x"), "EACCES", "InvalidToken")
        self.assertNotIn("tokentoken", r["message"])

    def test_a_full_bucket(self):
        t = self.open()
        self.server.capacity = 20000
        for answer in ((403, "QuotaExceeded", "no room"), (507, "InsufficientStorage", "no room"),
                       (507, "XMinioStorageFull", "full")):
            self.server.full_answer = answer
            self.check(t.put("more", b"x" * 20000), "ENOSPC", answer[1])
        self.check(t.get("key", 0, 10))
        self.check(t.remove("key"))
        self.check(t.put("more", b"x" * 20000))

    def test_a_bucket_that_is_not_there(self):
        t = self.tool(self.server, bucket="none/pre")
        for verb in VERBS:
            self.check(self.verb(t, verb), "ENODEV", "bucket")

    def test_another_region(self):
        t = self.tool(self.server, "region=eu-1")
        self.check(t.get("key", 0, 1), "EACCES", "us-east-1")

    def test_the_storage_class_is_said(self):
        t = self.tool(self.server, "class=STANDARD_IA")
        self.check(t.put("a", b"x"))
        self.assertEqual(self.objects["pre/a"].storage_class, "STANDARD_IA")
        self.check(t.get("a", 0, 1))

    def test_the_bucket_in_the_name_of_the_host(self):
        t = self.tool(self.server, "style=host", endpoint="http://localhost:%d" % self.server.port)
        self.check(t.put("a", b"x"))
        self.assertEqual(self.check(t.list())["names"], ["a"])
        self.check(t.head("none"), "ENOENT")
        self.assertEqual(self.check(t.get("a", 0, 1))["data"], b"x")

    def test_connections_are_kept(self):
        t = self.open()
        before = self.server.connections
        for _ in range(5):
            for verb in VERBS:
                self.verb(t, verb)
                self.check(t.put("key", b"0123456789" * 1000))
        self.assertEqual(self.server.connections, before)

    def test_many_threads(self):
        t = self.open()
        before = self.server.connections
        self.check(t.call("storm", 16, 10))
        self.assertLessEqual(self.server.connections - before, 16)
        self.assertEqual(t.list("storm/")["names"], [])
        # The first that is cut is told of, and the others go on.
        self.server.fault("reset", verb="PUT", key="storm/3/", times=2)
        self.check(t.call("storm", 8, 5), "ECONNRESET", "storm/3/")
        self.assertEqual(t.list("storm/")["names"], [])

    def test_a_connection_that_the_store_closed_is_replaced(self):
        t = self.open()
        data = os.urandom(3 * MIB)
        for verb in VERBS:
            self.server.fault("hangup", verb="HEAD")
            self.check(t.head("key"))
            time.sleep(0.05)
            self.check(self.verb(t, verb))
            self.check(t.put("key", data))
            self.assertEqual(self.objects["pre/key"].data, data)

    def test_nothing_else_is_asked(self):
        # No proxy of the environment, no redirect.
        t = self.open(env={name: "http://127.0.0.1:1" for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY")})
        self.check(t.get("key", 0, 10))
        self.server.fault("status", status=307, code="TemporaryRedirect")
        self.check(t.get("key", 0, 10), "ENODEV")
        self.assertEqual(self.server.count("GET"), 2)

    def test_no_server(self):
        t = self.open("timeout=2")
        self.server.close()
        self.check(t.get("key", 0, 10), "ECONNREFUSED")
        t = self.tool(self.server, "timeout=2", endpoint="http://192.0.2.1:9")
        start = time.monotonic()
        self.assertIn(t.head("a")["error"], ("ETIMEDOUT", "EHOSTUNREACH", "ECONNREFUSED"))
        self.assertLess(time.monotonic() - start, 12)

    def test_tls(self):
        ca, certificate, key = servers.make_certificates(self.dir)
        other = os.path.join(self.dir, "other")
        os.mkdir(other)
        other_ca = servers.make_certificates(other)[0]
        with fake_s3.FakeS3(tls=(certificate, key)) as s:
            for options, error in (("ca=" + ca, ""), ("insecure=on", ""), ("", "EPROTO"), ("ca=" + other_ca, "EPROTO")):
                t = self.tool(s, options)
                self.check(t.put("a", b"x" * 100000), error, "certificate" if error else None)
                if not error:
                    self.assertEqual(self.check(t.get("a", 5, 10))["data"], b"x" * 10)
            # The certificate is of another name.
            t = self.tool(s, "ca=" + ca, endpoint="https://localhost:%d" % s.port)
            self.check(t.head("a"), "EPROTO")
            # Not TLS at all, either way.
            t = self.tool(s, "timeout=2", endpoint="http://127.0.0.1:%d" % s.port)
            self.assertIn(t.head("a")["error"], ("EPROTO", "ECONNRESET"))
            t = self.tool(self.server, "timeout=2 ca=" + ca, endpoint="https://127.0.0.1:%d" % self.server.port)
            self.assertIn(t.head("a")["error"], ("EPROTO", "ECONNRESET"))
        t = self.tool(self.server, "ca=/nowhere.pem", endpoint="https://127.0.0.1:1")
        self.assertEqual(t.opened()["error"], "ENOENT")

    def steps(self, r):
        return {s["what"]: s for s in r["steps"]}

    def test_the_probe_finds_what_is_missing(self):
        t = self.open()
        r = self.check(t.call("test"))
        self.assertTrue(all(s["ok"] and not s["message"] for s in r["steps"]), r)
        self.assertTrue(r["verifies"] and r["conditions"])
        for conditions, text in (("no", "no conditional put"), ("ignored", "no notice of the condition")):
            self.server.set(conditions=conditions)
            r = self.check(t.call("test"))
            step = self.steps(r)["conditional put"]
            self.assertEqual((step["ok"], step["needed"], step["error"]), (False, False, "EOPNOTSUPP"))
            self.assertIn(text, step["message"])
            self.assertFalse(r["conditions"])
        self.server.set(conditions="yes", md5_etags=False)
        r = self.check(t.call("test"))
        self.assertFalse(r["verifies"])
        self.assertIn("read back", self.steps(r)["put"]["message"])
        self.server.set(md5_etags=True)
        # Steps that may fail, and those that may not: then it ends there and removes what it left.
        for verb, after, what, needed in (("PUT", 0, "put", True), ("HEAD", 0, "head", False), ("GET", 0, "read back", True),
                                          ("GET", 1, "read a range", True), ("LIST", 0, "list", False),
                                          ("DELETE", 0, "remove", False)):
            self.server.fault("status", verb=verb, after=after, status=403, code="AccessDenied")
            r = t.call("test")
            self.assertEqual(r["error"], "EACCES" if needed else "")
            step = self.steps(r)[what]
            self.assertEqual((step["ok"], step["error"]), (False, "EACCES"))
            if verb != "HEAD":
                self.assertIn("AccessDenied", step["message"])
            if needed:
                self.assertEqual(r["steps"][-1]["what"], what)
            if verb != "DELETE":
                self.assertEqual(list(self.objects), ["pre/key"])
            self.server.clear()
            for key in [k for k in self.objects if k != "pre/key"]:
                del self.objects[key]
        # Wrong bytes, and an object that stays.
        self.server.fault("corrupt", verb="GET")
        r = t.call("test")
        self.assertEqual((r["error"], r["steps"][-1]["what"]), ("EBADMSG", "read back"))
        self.server.fault("lose", verb="DELETE")
        r = self.check(t.call("test"))
        self.assertIn("can still be read", self.steps(r)["read what was removed"]["message"])


class RealTest:
    """All verbs against a real server; subclasses say which."""

    kind, conditions, n_keys = None, True, 1010

    @classmethod
    def setUpClass(cls):
        cls.server = cls.kind()
        cls.addClassCleanup(cls.server.close)
        cls.server.client.make_bucket("cold")

    def test_verbs(self):
        t = self.tool(self.server, bucket="cold/verbs")
        for n in (0, 1, 70000, 5 * MIB + 1):
            data = os.urandom(n)
            self.assertTrue(self.check(t.put("a/b", data))["verified"])
            info = self.check(t.head("a/b"))["info"]
            self.assertEqual(info["size"], n)
            self.assertLess(abs(info["modified_ns"] / 1e9 - time.time()), 60)
            for off, length in ((0, n), (n // 2, n - n // 2), (n - 1, 1)) if n else ():
                self.assertEqual(self.check(t.get("a/b", off, length))["data"], data[off:off + length])
            self.check(t.get("a/b", 0, n + 1), "EBADMSG")
            self.check(t.get("a/b", n + 5, 1), "EBADMSG")
        self.check(t.remove("a/b"))
        self.check(t.get("a/b", 0, 1), "ENOENT")
        self.check(t.head("a/b"), "ENOENT")
        self.assertIn(t.remove("a/b")["error"], ("", "ENOENT"))

    def test_64_mib(self):
        t = self.tool(self.server)
        data = os.urandom(64 * MIB)
        self.assertTrue(self.check(t.put("big", data))["verified"])
        self.assertEqual(self.check(t.get("big", 0, len(data)))["data"], data)
        self.assertEqual(self.check(t.get("big", 40 * MIB - 3, 65536))["data"], data[40 * MIB - 3:][:65536])
        self.check(t.remove("big"))

    def test_more_than_a_page_of_keys(self):
        t = self.tool(self.server, bucket="cold/many")
        names = sorted("%d/k-%d.x_y" % (i % 3, i) for i in range(self.n_keys))
        tools = [self.tool(self.server, bucket="cold/many") for _ in range(4)]
        with concurrent.futures.ThreadPoolExecutor(len(tools)) as pool:
            for _ in pool.map(lambda i: [self.check(tools[i].put(n, b"x")) for n in names[i::len(tools)]], range(len(tools))):
                pass
        self.assertEqual(self.check(t.list())["names"], names)
        self.assertEqual(t.list("1/")["names"], [n for n in names if n.startswith("1/")])
        self.assertEqual(t.list("", names[5])["names"], names[6:])
        self.assertEqual(t.list("", names[5], 3)["names"], names[6:9])

    def test_conditional_put(self):
        tools = [self.tool(self.server) for _ in range(6)]
        with concurrent.futures.ThreadPoolExecutor(len(tools)) as pool:
            for race in range(10):
                key = "once%d" % race
                results = list(pool.map(lambda i: tools[i].create(key, b"writer %d" % i), range(len(tools))))
                if not self.conditions:
                    for r in results:
                        self.check(r, "EOPNOTSUPP")
                    continue
                won = [i for i, r in enumerate(results) if not r["error"]]
                self.assertEqual(len(won), 1, results)
                for i, r in enumerate(results):
                    if i != won[0]:
                        self.check(r, "EEXIST")
                self.assertEqual(tools[0].get(key, 0, 8)["data"], b"writer %d" % won[0])

    def test_a_bucket_that_is_not_there(self):
        t = self.tool(self.server, bucket="none")
        self.check(t.put("a", b"x"), "ENODEV", "NoSuchBucket")
        self.check(t.get("a", 0, 1), "ENODEV", "NoSuchBucket")
        self.check(t.head("a"), "ENODEV")
        self.check(t.remove("a"), "ENODEV", "NoSuchBucket")
        self.check(t.list(), "ENODEV", "NoSuchBucket")

    def test_credentials_that_are_wrong(self):
        path = os.path.join(self.dir, "wrong")
        for access_key, secret_key in ((self.server.access_key, "wrong"), ("nobody", self.server.secret_key)):
            fake_s3.write_credentials(path, access_key, secret_key)
            t = self.tool(self.server, credentials=path)
            # A large body as well: the answer comes before all of it was sent.
            for r in (t.put("a", b"x"), t.put("a", b"x" * (20 * MIB)), t.get("a", 0, 1), t.head("a"), t.remove("a"), t.list()):
                self.check(r, "EACCES")

    def test_a_clock_that_is_wrong(self):
        for offset in ("+2h", "-3d"):
            t = self.tool(self.server, wrapper=("faketime", "-f", offset))
            self.check(t.put("clock", b"x"))
            self.assertEqual(self.check(t.get("clock", 0, 1))["data"], b"x")
            self.check(t.head("clock"))

    def test_a_server_that_hangs(self):
        t = self.tool(self.server, "timeout=2", bucket="cold/hang")
        self.check(t.put("a", b"x"))
        self.server.pause()
        try:
            start = time.monotonic()
            for r in (t.put("b", b"y"), t.get("a", 0, 1)):
                self.check(r, "ETIMEDOUT")
            self.assertLess(time.monotonic() - start, 30)
        finally:
            self.server.resume()
        end = time.monotonic() + 30
        while t.get("a", 0, 1)["error"] and time.monotonic() < end:
            time.sleep(0.1)
        self.check(t.get("a", 0, 1))

    def test_many_threads(self):
        t = self.tool(self.server, bucket="cold/storm")
        self.check(t.call("storm", 8, 5))
        self.assertEqual(t.list()["names"], [])

    def test_probe(self):
        t = self.tool(self.server, bucket="cold/probe")
        r = self.check(t.call("test"))
        self.assertEqual(r["conditions"], self.conditions)
        self.assertTrue(r["verifies"])
        for s in r["steps"]:
            self.assertEqual(s["ok"], self.conditions or s["what"] != "conditional put", s)
        self.assertEqual(t.list()["names"], [])


class RadosGWTest(RealTest, StoreTest):
    kind = staticmethod(lambda: servers.RadosGW(tls=True))

    def test_https(self):
        data = os.urandom(MIB)
        for options, error in (("ca=" + self.server.ca, ""), ("insecure=on", ""), ("", "EPROTO")):
            t = self.tool(self.server, options, endpoint=self.server.https)
            self.check(t.put("tls", data), error)
            if not error:
                self.assertEqual(self.check(t.get("tls", 7, 1000))["data"], data[7:1007])
                self.assertEqual(self.check(t.create("tls", data), "EEXIST")["status"], 412)

    def test_the_bucket_in_the_name_of_the_host(self):
        t = self.tool(self.server, "style=host", endpoint=self.server.endpoint.replace("127.0.0.1", "localhost"))
        self.check(t.put("host", b"x"))
        self.assertEqual(self.check(t.get("host", 0, 1))["data"], b"x")


class SwiftTest(RealTest, StoreTest):
    # Small pages: it stores some fifty keys a second.
    kind, conditions, n_keys = staticmethod(lambda: servers.Swift(page=100)), False, 310


if __name__ == "__main__":
    unittest.main(verbosity=2)
