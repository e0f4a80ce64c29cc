"""Cold files of a mounted volume in an S3 store that fails in every way: nothing is lost, hot data works, and all goes on by itself."""

import concurrent.futures
import errno
import itertools
import os
import queue
import random
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
import clawfs_env
from clawfs_env import EXIT_FAILURE, EXIT_OK, Failed, cli, wait_for

import cold_env
import fake_s3
from cold_env import HEAL_SECONDS, ColdVolume, add_store, gc, state, store_status

SEED = clawfs_env.seed()
KIB, MIB = 1 << 10, 1 << 20
FOR_EVER = 1 << 40
TIMEOUT = 2  # seconds, of the stores here
LANES = 6    # volumes at once: they mostly wait

# What any request may meet.  `harmless`: however long it lasts, all works.
COMMON = {
    "500": dict(kind="status", status=500),
    "503 SlowDown": dict(kind="status", status=503, code="SlowDown"),
    "503 with Retry-After": dict(kind="status", status=503, code="SlowDown", retry_after=1),
    "403": dict(kind="status", status=403, code="AccessDenied"),
    "404 NoSuchBucket": dict(kind="status", status=404, code="NoSuchBucket"),
    "409": dict(kind="status", status=409, code="OperationAborted"),
    "reset": dict(kind="reset"),
    "stall": dict(kind="stall", seconds=TIMEOUT + 2),
    "garbage": dict(kind="garbage", status=503),
    "crash": dict(kind="crash"),
    "duplicate": dict(kind="duplicate", harmless=True),
    "hangup": dict(kind="hangup", harmless=True),
}
PUT = {
    **COMMON,
    "late duplicate": dict(kind="duplicate", later=0.3, harmless=True),
    "torn upload": dict(kind="torn_upload"),
    "corrupt upload": dict(kind="corrupt_upload"),
    "corrupt on disk": dict(kind="corrupt_stored"),
    "200 without a word": dict(kind="garbage"),
}
GET = {
    **COMMON,
    "404 NoSuchKey": dict(kind="status", status=404, code="NoSuchKey"),
    "torn": dict(kind="torn"),
    "corrupt": dict(kind="corrupt"),
    "stall in the body": dict(kind="stall", seconds=TIMEOUT + 2, middle=True),
    "more than the range": dict(kind="more"),
    "less than the range": dict(kind="less"),
    "200 with a page": dict(kind="garbage"),
}
DAMAGE = ("404 NoSuchKey", "corrupt", "less than the range", "200 with a page")  # no store that is away: an error at once, with the path
PATIENCE = DAMAGE + ("stall", "stall in the body")  # two of them are more than a reader waits for


class Site(ColdVolume):
    """A fake and a volume of its own for one case after the other."""

    def __init__(self, tmp, name, *options, mount=(), **settings):
        self.fake = fake_s3.FakeS3()
        self.fake.set(**settings)
        self.random = random.Random("%d %s" % (SEED, name))
        self.numbers = itertools.count()
        super().__init__(tmp, self.fake, "--timeout", "%ds" % TIMEOUT, "--grace", "0s", *options, name=name, mount=mount)
        self.put("hot", self.random.randbytes(100 * KIB), sync=True)

    def close(self):
        super().close()
        self.fake.close()

    def some_file(self):
        """A new file, of several leaves."""
        name = "f%d" % next(self.numbers)
        self.put(name, self.random.randbytes(300 * KIB + self.random.randrange(100 * KIB)))
        return name

    def break_for(self, fault, verb, times=FOR_EVER):
        self.fake.fault(**{k: v for k, v in fault.items() if k != "harmless"}, verb=verb, times=times, key="packs")

    def check_hot(self):
        """What is hot can be read, written and made durable, whatever the store does."""
        began = time.monotonic()
        self.put("new", self.random.randbytes(70 * KIB), sync=True)
        if not self.reads("hot") or not self.reads("new"):
            raise Failed("hot data cannot be read")
        if time.monotonic() - began > 5:
            raise Failed("hot data waited for the store: %.1f s" % (time.monotonic() - began))

    def check_all(self):
        self.check()
        self.remount()
        self.check()
        self.check_bucket(0.5)  # duplicates that come late have come
        self.umount()
        self.fsck()


class FakeTest(clawfs_env.VolumeTest):
    def site(self, *options, name="volume", **settings):
        s = Site(self.tmp, name, *options, **settings)
        self.addCleanup(s.close)
        return s

    def run_cases(self, case, faults, verbs, *options, **settings):
        """case(site, fault, verb, lasting) for all of these, on several volumes at once."""
        todo = queue.SimpleQueue()
        for work in itertools.product((True, False), verbs, faults):
            todo.put(work)

        def lane(number):
            site, failed = self.site(*options, name="lane%d" % number, **settings), []
            while True:
                try:
                    lasting, verb, name = todo.get_nowait()
                except queue.Empty:
                    break
                try:
                    case(site, name, verb, lasting)
                except (Failed, AssertionError, OSError) as e:
                    failed.append("%s of %s%s: %s" % (name, verb, " for long" if lasting else "", e))
                    failed.append(site.messages()[-1500:])
                    site.fake.clear()
            try:
                site.check_all()
            except (Failed, OSError) as e:
                failed.append("afterwards: %s\n%s" % (e, site.messages()[-1500:]))
            return failed

        with concurrent.futures.ThreadPoolExecutor(LANES) as pool:
            failed = [f for found in pool.map(lane, range(LANES)) for f in found]
        self.assertEqual(failed, [], "\n".join(failed))


class Faults(FakeTest):
    def age_out(self, faults):
        def case(site, fault, verb, lasting):
            name = site.some_file()
            site.break_for(faults[fault], verb, FOR_EVER if lasting else 2)
            r = site.evict(name, check=None)
            if lasting and not faults[fault].get("harmless"):
                self.assertEqual(r.returncode, EXIT_FAILURE, "it is out")
                self.assertIn("store cold", r.stderr)
                self.assertEqual(state(site, name), "hot")
                self.assertIn("store cold", site.status()["tier"]["ageing"]["paused"])
                self.assertTrue(site.reads(name))
                site.check_hot()
                site.fake.clear()
            site.becomes_cold(name)
            site.fake.clear()
            self.assertTrue(site.reads(name))
        return case

    def test_an_upload(self):
        self.run_cases(self.age_out(PUT), PUT, ["PUT"])

    def test_an_upload_that_is_read_back(self):
        # What comes damaged once was damaged on its way, and is asked for again.
        self.run_cases(self.age_out(GET), GET, ["GET"], "--verify", "read")

    def test_an_upload_without_conditional_puts(self):
        few = ("500", "403", "409", "reset", "crash", "duplicate")
        self.run_cases(self.age_out(COMMON), few, ["HEAD", "PUT"], conditions="no")

    def test_a_recall(self):
        def case(site, fault, verb, lasting):
            name = site.some_file()
            site.evict(name)
            self.assertEqual(state(site, name), "cold")
            site.break_for(GET[fault], verb, FOR_EVER if lasting else 2)
            if not lasting or GET[fault].get("harmless"):
                if fault in PATIENCE:
                    wait_for("the file again", lambda: site.reads(name), HEAL_SECONDS, 0.2)
                self.assertTrue(site.reads(name))
                site.fake.clear()
                return
            at, began = len(site.messages()), time.monotonic()
            with self.assertRaises(OSError) as e:
                site.read(name)
            took = time.monotonic() - began
            self.assertEqual(e.exception.errno, errno.EIO)
            self.assertLess(took, TIMEOUT + 8)
            self.assertIn("/" + name if fault in DAMAGE else "store cold", site.log_since(at))
            site.check_hot()
            with open(site.path(name), "r+b") as f:  # a whole block needs nothing of the store
                f.write(site.model["hot"][:4 * KIB])
                os.fsync(f.fileno())
            site.model[name] = site.model["hot"][:4 * KIB] + site.model[name][4 * KIB:]
            site.fake.clear()
            wait_for("the file again", lambda: site.reads(name), HEAL_SECONDS, 0.2)
        self.run_cases(case, GET, ["GET"])

    def test_gc(self):
        """Listing and removing: what fails is said, what is needed stays, and the next run does the rest."""
        faults = dict(COMMON, lost=dict(kind="lose"), torn=dict(kind="torn"), page=dict(kind="garbage"), unordered=dict(kind="unordered"),
                      endless=dict(kind="endless"))
        few = ("500", "403", "409", "reset", "crash", "lost", "torn", "page", "unordered", "endless", "duplicate")

        def case(site, fault, verb, lasting):
            name = site.some_file()
            site.evict(name)
            for _ in range(2):
                with site.fake.lock:
                    site.fake.buckets["cold"]["vol/packs/ab/ab%014x" % site.random.getrandbits(56)] = fake_s3.Object(
                        b"x" * 1000, "0" * 32, time.time() - 100, "")
            site.break_for(faults[fault], verb, FOR_EVER if lasting else 1)
            if verb == "LIST":
                site.fake.faults[-1]["key"] = ""
            cli("gc", site.mnt, timeout=120)
            site.check_hot()
            site.fake.clear()
            self.assertTrue(site.reads(name))
            site.check_bucket()
        self.run_cases(case, few, ["LIST", "DELETE"])


class Whole(FakeTest):
    """What is wrong with the store as a whole."""

    def refuses(self, site, *words):
        """Nothing goes out, for a reason with these words, and everything else works."""
        name = site.some_file()
        r = site.evict(name, check=EXIT_FAILURE)
        for word in words:
            self.assertIn(word, r.stderr + str(store_status(site)) + site.status()["tier"]["ageing"]["paused"])
        self.assertIn("store cold", r.stderr)
        self.assertEqual(state(site, name), "hot")
        site.check_hot()
        return name

    def no_read(self, site, name):
        with self.assertRaises(OSError) as e:
            site.read(name)
        self.assertEqual(e.exception.errno, errno.EIO)

    def reads_again(self, site, name):
        wait_for("the file again", lambda: site.reads(name), HEAL_SECONDS, 0.2)

    def test_a_clock_that_is_wrong(self):
        s = self.site()
        for offset in (2 * 3600, -3 * 86400, 0):
            s.fake.set(clock_offset=offset)
            name = s.some_file()
            s.evict(name)
            s.becomes_cold(name)
            self.assertTrue(s.reads(name))
        s.remount()
        s.check()

    def test_a_bucket_that_is_full(self):
        for answer in ((403, "QuotaExceeded", "no room"), (507, "InsufficientStorage", "no room")):
            with self.subTest(answer=answer):
                s = self.site(name="full%d" % answer[0])
                out = s.some_file()
                s.evict(out)
                s.fake.set(capacity=sum(len(o.data) for o in s.fake.buckets["cold"].values()) + 1000, full_answer=answer)
                name = self.refuses(s, "no room")
                self.assertTrue(s.reads(out))
                s.fake.set(capacity=None)
                s.becomes_cold(name)
                s.check_all()

    def test_a_bucket_that_is_gone_for_a_while(self):
        s = self.site()
        out = s.some_file()
        s.evict(out)
        kept = s.fake.buckets.pop("cold")
        name = self.refuses(s, "NoSuchBucket")
        self.no_read(s, out)
        s.fake.buckets["cold"] = kept
        self.reads_again(s, out)
        s.becomes_cold(name)
        s.check_all()

    def test_a_bucket_of_another_volume(self):
        s = self.site()
        other = ColdVolume(self.tmp, s.fake, name="other", mounted=False)
        self.addCleanup(other.close)
        other.format().mount()
        r = add_store(other, s.fake, check=EXIT_FAILURE)
        self.assertIn("another volume", r.stderr)
        self.assertNotIn("cold", cli("tier", "list", other.mnt, check=EXIT_OK).stdout)
        # And one that became another's while we did not look.
        name = s.some_file()
        s.evict(name)
        mark = s.fake.buckets["cold"]["vol/clawfs.volume"]
        s.umount()
        text = mark.data.replace(b"volume=", b"volume=00000000-0000-4000-8000-", 1)[:len(b"volume=") + 36] + b"\n"
        s.fake.buckets["cold"]["vol/clawfs.volume"] = mark._replace(data=text)
        s.mount()
        self.no_read(s, name)
        self.assertIn("another volume", s.messages())
        self.assertIn("another volume", cli("tier", "list", s.mnt, check=EXIT_OK).stdout)
        s.check_hot()
        s.fake.buckets["cold"]["vol/clawfs.volume"] = mark
        self.reads_again(s, name)

    def test_credentials_that_are_refused_and_then_changed(self):
        s = self.site()
        for how in ("file", "tier add"):
            out = s.some_file()
            s.evict(out)
            s.fake.secret_key += "x"
            name = self.refuses(s, "SignatureDoesNotMatch")
            self.no_read(s, out)
            if how == "file":  # in place, as one who rotates keys would
                fake_s3.write_credentials(os.path.join(s.store, "credentials", "cold"), s.fake.access_key, s.fake.secret_key)
            else:
                add_store(s, s.fake, "--timeout", "%ds" % TIMEOUT, "--grace", "0s")
            self.reads_again(s, out)
            s.becomes_cold(name)
        r = add_store(self.volume(name="third"), s.fake, credentials=s.fake.credentials(os.path.join(self.tmp, "k")), check=EXIT_FAILURE)
        self.assertIn("another volume", r.stderr)
        s.check_all()

    def test_wrong_credentials_are_told_when_a_store_is_added(self):
        with fake_s3.FakeS3() as fake:
            v = self.volume()
            for access_key, secret_key in (("nobody", fake.secret_key), (fake.access_key, "wrong")):
                wrong = os.path.join(self.tmp, "wrong")
                fake_s3.write_credentials(wrong, access_key, secret_key)
                r = add_store(v, fake, credentials=wrong, check=EXIT_FAILURE)
                self.assertIn("403", r.stderr)
                self.assertNotIn(secret_key, r.stderr)
            self.assertEqual(v.status()["tier"]["stores"], {})

    def test_a_store_that_is_away_when_the_volume_is_mounted(self):
        s = self.site()
        name = s.some_file()
        s.evict(name)
        s.umount()
        s.fake.fault("reset", times=FOR_EVER)
        s.mount()
        s.check_hot()
        self.no_read(s, name)
        other = self.refuses(s)
        s.fake.clear()
        self.reads_again(s, name)
        s.becomes_cold(other)
        s.check_all()

    def test_the_breaker_is_seen(self):
        s = self.site()
        name = s.some_file()
        s.evict(name)
        s.fake.fault("status", status=500, times=FOR_EVER)
        self.no_read(s, name)
        self.assertIn(store_status(s)["breaker"], ("open", "half-open"))
        out = cli("tier", "list", s.mnt, check=EXIT_OK).stdout
        self.assertRegex(out, "open|half-open")
        self.assertIn("500", out)
        n = len(s.fake.requests)
        time.sleep(1)
        self.assertLess(len(s.fake.requests) - n, 4)  # nobody hammers a store that is ill
        s.fake.clear()
        self.reads_again(s, name)
        self.assertEqual(store_status(s)["breaker"], "closed")
        self.assertEqual(store_status(s)["message"], "")

    def test_a_store_that_lies_is_read_back(self):
        s = self.site("--verify", "read")
        for kind in ("corrupt_stored", "lose"):
            name = s.some_file()
            s.fake.fault(kind, "PUT", times=FOR_EVER, key="packs", lie=True)
            s.evict(name, check=EXIT_FAILURE)
            self.assertEqual(state(s, name), "hot")
            self.assertTrue(s.reads(name))
            s.fake.clear()
            s.becomes_cold(name)
            self.assertTrue(s.reads(name))
        s.check_all()

    def test_a_store_whose_etag_is_no_md5(self):
        s = self.site(md5_etags=False)
        name = s.some_file()
        before = s.fake.count("GET")
        s.evict(name)
        self.assertGreater(s.fake.count("GET"), before)  # read back: nothing else proves that it is there
        s.fake.fault("corrupt_stored", "PUT", times=1, key="packs")
        other = s.some_file()
        s.evict(other, check=None)
        s.becomes_cold(other)
        s.check_all()

    def test_a_store_without_conditions(self):
        for conditions in ("no", "ignored"):
            with self.subTest(conditions=conditions):
                s = self.site(name=conditions, conditions=conditions)
                r = cli("tier", "test", "cold", s.mnt)
                self.assertIn("missing", r.stdout + r.stderr)
                name = s.some_file()
                s.evict(name)
                s.becomes_cold(name)
                s.check_all()


class Limits(FakeTest):
    def test_a_budget_pauses_ageing_and_nothing_else(self):
        s = self.site("--budget", "12")
        names = []
        for _ in range(12):
            names.append(s.some_file())
            if s.evict(names[-1], check=None).returncode:
                break
        self.assertGreater(len(names), 2)
        used = store_status(s)["month"]
        self.assertTrue(used["budget_spent"])
        self.assertLessEqual(used["requests"], 12)
        self.assertIn("used up", s.status()["tier"]["ageing"]["paused"])
        self.assertEqual(state(s, names[-1]), "hot")
        s.check_hot()
        for name in names:
            self.assertTrue(s.reads(name), name)  # beyond the budget
        s.remount()
        s.evict(names[-1], check=EXIT_FAILURE)  # and it is kept over a restart
        self.assertTrue(store_status(s)["month"]["budget_spent"])
        add_store(s, s.fake, "--timeout", "%ds" % TIMEOUT, "--grace", "0s", "--budget", "10000")
        s.remount()  # which ends the pause sooner
        s.evict(names[-1])
        self.assertEqual(state(s, names[-1]), "cold")
        s.check_all()

    def test_bytes_and_requests_a_second(self):
        s = self.site("--rate", "2M")
        s.put("big", s.random.randbytes(8 * MIB))
        began = time.monotonic()
        s.evict("big")
        self.assertGreater(time.monotonic() - began, 1.5)
        began = time.monotonic()
        self.assertTrue(s.reads("big"))
        self.assertGreater(time.monotonic() - began, 1.5)
        s = self.site("--requests", "2", name="slow")
        names = [s.some_file() for _ in range(5)]
        began, n = time.monotonic(), len(s.fake.requests)
        for name in names:
            s.evict(name)
        took = time.monotonic() - began
        self.assertLess(len(s.fake.requests) - n, 2 * took + 3)

    def test_what_the_status_counts_is_what_the_store_saw(self):
        s = self.site("--prices", "5:0.4:0.023")
        s.remount()  # adding it asked some things past the counters
        n, month = len(s.fake.requests), store_status(s)["month"]
        kinds = {"PUT": "put", "GET": "get", "HEAD": "head", "DELETE": "remove", "LIST": "list"}
        names = [s.some_file() for _ in range(4)]
        s.evict()
        for name in names:
            self.assertTrue(s.reads(name))
        s.fake.fault("status", "GET", status=500, key="packs")
        s.evict()
        self.assertTrue(s.reads(names[0]))
        os.unlink(s.path(names[0]))
        del s.model[names[0]]
        s.put(names[1], b"")
        self.assertEqual(gc(s)[3], 0)
        with s.fake.lock:
            came = s.fake.requests[n:]
        st = store_status(s)
        for verb, kind in kinds.items():
            self.assertEqual(st["requests"][kind], sum(r["verb"] == verb for r in came), verb)
            self.assertEqual(st["month"]["by_kind"][kind] - month["by_kind"][kind], st["requests"][kind], verb)
        self.assertEqual(sum(st["errors"].values()), sum(r["fault"] == "status" for r in came))
        self.assertEqual(st["written_bytes"], sum(r["received"] for r in came if r["verb"] == "PUT" and r["status"] == 200))
        self.assertEqual(st["read_bytes"], sum(r["sent"] for r in came if r["verb"] == "GET" and r["status"] in (200, 206)))
        self.assertEqual(st["stored_bytes"], sum(len(s.fake.buckets["cold"][k].data) for k in s.packs()))
        self.assertEqual(st["objects"], len(s.packs()))
        by = st["month"]["by_kind"]
        cost = (by["put"] + by["list"]) * 5 / 1000 + (by["get"] + by["head"]) * 0.4 / 1000
        self.assertAlmostEqual(st["cost_requests"], cost, 9)
        self.assertAlmostEqual(st["cost_month"], cost + st["stored_bytes"] / 1e9 * 0.023, 9)


if __name__ == "__main__":
    cold_env.main()
