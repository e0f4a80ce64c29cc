#!/usr/bin/env python3
"""What a mount says of itself: metrics, the server, stats, top, profile, forecasts, probes, alert rules, dashboard, status page."""

import html.parser
import http.client
import json
import os
import re
import socket
import stat
import subprocess
import tempfile
import time

from clawfs_env import CLAWFS, ClusterTest, EXIT_FAILURE, EXIT_MOUNT, EXIT_OK, EXIT_USAGE, ROOT, VolumeTest, cli, free_address, main, wait_for

RULES = os.path.join(ROOT, "packaging", "prometheus", "clawfs.rules.yml")
DASHBOARD = os.path.join(ROOT, "packaging", "grafana", "clawfs.json")
NAME = re.compile(r"\bclawfs_[a-z0-9_]+\b")


def table():
    """{name: type} of the metrics, from the table itself."""
    with open(os.path.join(ROOT, "fs", "metrics", "table.c"), encoding="utf-8") as f:
        return dict(re.findall(r'\{"(clawfs_\w+)",\s*"[^"]+",\s*METRIC_(\w+)', f.read()))


def parse(text):
    """{(name, ((label, value), ...)): number} of a text in Prometheus' format, and {name: type}."""
    samples, types = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            types[name] = kind
        elif not line.startswith("#"):
            m = re.fullmatch(r'([a-z0-9_]+)(?:\{(.*)\})? (\S+)', line)
            labels = tuple(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', m[2] or ""))
            samples[m[1], labels] = float(m[3])
    return samples, types


def family(name, types):
    """The name in TYPE of a sample's name."""
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return base if types.get(base) == "histogram" else name


def read(path):
    with open(path, "rb") as f:
        return f.read()


def promtool(*args, text=None):
    return subprocess.run(["promtool", *args], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def connect(where):
    if where.startswith("/"):
        return UnixConnection(where)
    host, port = where.rsplit(":", 1)
    return http.client.HTTPConnection(host.strip("[]"), int(port), timeout=30)


def get(where, path="/metrics", method="GET", **headers):
    """(status, headers, body) of one request."""
    c = connect(where)
    try:
        c.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        r = c.getresponse()
        return r.status, dict(r.getheaders()), r.read().decode()
    finally:
        c.close()


def answers(where):
    try:
        return get(where)[0] == 200
    except OSError:
        return False


class MetricsTest(VolumeTest):
    def metrics(self, v):
        return parse(read(v.path(".clawfs", "metrics")).decode())[0]

    def value(self, v, name, *labels):
        return self.metrics(v)[name, tuple(labels)]

    def stats(self, v):
        return json.loads(read(v.path(".clawfs", "stats")))


class Format(MetricsTest):
    def test_promtool_finds_nothing_and_histograms_add_up(self):
        v = self.volume()
        for i in range(20):
            v.write("f%d" % i, b"x" * 10000, sync=True)
        text = read(v.path(".clawfs", "metrics")).decode()
        r = promtool("check", "metrics", text=text)
        self.assertEqual((r.returncode, r.stdout), (0, ""))
        samples, types = parse(text)
        series = {}
        for (name, labels), value in samples.items():
            base = family(name, types)
            self.assertIn(base, types)
            if name == base + "_bucket":
                rest = tuple(l for l in labels if l[0] != "le")
                series.setdefault((base, rest), []).append((float(dict(labels)["le"]), value))
        self.assertEqual({b for b, _ in series}, {n for n, t in types.items() if t == "histogram"})
        for (base, rest), buckets in series.items():
            bounds, counts = zip(*buckets)
            self.assertEqual(list(bounds), sorted(bounds))
            self.assertEqual(list(counts), sorted(counts))
            self.assertEqual(bounds[-1], float("inf"))
            self.assertEqual(counts[-1], samples[base + "_count", rest])

    def test_types_are_those_of_the_table_and_names_follow_the_conventions(self):
        v = self.volume()
        kinds = {"COUNTER": "counter", "ERRORS": "counter", "HISTOGRAM": "histogram", "LATENCY": "histogram"}
        _, types = parse(read(v.path(".clawfs", "metrics")).decode())
        for name, kind in types.items():
            self.assertEqual(kind, kinds.get(table()[name], "gauge"), name)
            self.assertEqual(kind == "counter", name.endswith("_total"), name)

    def test_what_the_status_says_is_the_same_number(self):
        v = self.volume(label="a \"quoted\\ label")
        v.write("f", b"x" * 100000, sync=True)
        before = v.status()
        samples = self.metrics(v)
        for name, path in (("clawfs_journal_ring_bytes", "journal.ring_bytes"), ("clawfs_incarnation", "volume.incarnation"),
                           ("clawfs_inodes", "index.inodes"), ("clawfs_memory_limit_bytes", "memory.limit_bytes"),
                           ("clawfs_recovery_batches", "recovery.batches")):
            at = before
            for step in path.split("."):
                at = at[step]
            self.assertEqual(samples[name, ()], at, name)
        self.assertEqual(samples["clawfs_volume_info", (("volume", before["volume"]["volume"]),)], 1)
        self.assertEqual(samples["clawfs_health_state", (("state", "ok"),)], 1)
        self.assertEqual(sum(n for (name, _), n in samples.items() if name == "clawfs_health_state"), 1)
        self.assertEqual(samples["clawfs_role", (("role", "leader"),)], 1)
        self.assertEqual(samples["clawfs_job_errors_total", (("task", "committer"),)], 0)

    def test_a_text_costs_no_growth_of_the_daemon(self):
        v = self.volume()
        for _ in range(300):
            read(v.path(".clawfs", "metrics"))
        first = v.status()["memory"]["resident_bytes"]
        for _ in range(1500):
            read(v.path(".clawfs", "metrics"))
        self.assertLess(v.status()["memory"]["resident_bytes"], first + (8 << 20))


class Requests(MetricsTest):
    def count(self, v, op):
        return self.stats(v)["ops"][op]["n"]

    def test_each_operation_is_counted_as_often_as_it_is_asked_for(self):
        v = self.volume()
        p = v.path
        v.write("file", b"x" * 4096)
        os.mkdir(p("sub"))
        n = 7

        def each(act):
            return lambda: [act(i) for i in range(n)]

        def opened(flags, act):
            def run():
                fd = os.open(p("file"), flags)
                try:
                    for _ in range(n):
                        act(fd)
                finally:
                    os.close(fd)
            return run

        buffer = memoryview(b"y" * 4096)
        cases = [
            ("mkdir", each(lambda i: os.mkdir(p("d%d" % i)))),
            ("rmdir", each(lambda i: os.rmdir(p("d%d" % i)))),
            ("mknod", each(lambda i: os.mknod(p("n%d" % i)))),
            ("rename", each(lambda i: os.rename(p("n%d" % i), p("m%d" % i)))),
            ("link", each(lambda i: os.link(p("m%d" % i), p("l%d" % i)))),
            ("unlink", each(lambda i: os.unlink(p("l%d" % i)))),
            ("symlink", each(lambda i: os.symlink("x", p("s%d" % i)))),
            ("setxattr", each(lambda i: os.setxattr(p("file"), "user.x%d" % i, b"1"))),
            ("listxattr", each(lambda i: os.listxattr(p("file")))),
            ("removexattr", each(lambda i: os.removexattr(p("file"), "user.x%d" % i))),
            ("setattr", each(lambda i: os.chmod(p("file"), 0o600 + i))),
            ("fsync", opened(os.O_WRONLY, lambda fd: (os.pwrite(fd, b"z", 0), os.fsync(fd)))),
            ("fallocate", opened(os.O_WRONLY, lambda fd: os.posix_fallocate(fd, 1 << 20, 4096))),
            ("statfs", each(lambda i: os.statvfs(v.mnt))),
        ]
        for op, act in cases:
            before = self.count(v, op)
            act()
            self.assertEqual(self.count(v, op) - before, n, op)
        before = self.stats(v)
        fd = os.open(p("file"), os.O_RDWR | os.O_DIRECT)
        try:
            import mmap
            with mmap.mmap(-1, 4096) as m:
                m[:] = bytes(buffer)
                for _ in range(n):
                    os.pwritev(fd, [m], 0)
                after = self.stats(v)
                self.assertEqual(after["ops"]["write"]["n"] - before["ops"]["write"]["n"], n)
                self.assertEqual(after["written_bytes"] - before["written_bytes"], n * 4096)
                for _ in range(n):
                    os.preadv(fd, [m], 0)
                later = self.stats(v)
                self.assertEqual(later["ops"]["read"]["n"] - after["ops"]["read"]["n"], n + 1) # one is that of the file read here
        finally:
            os.close(fd)
        self.assertEqual(self.value(v, "clawfs_fuse_waiting_requests"), 0)
        self.assertEqual(self.value(v, "clawfs_fuse_untracked_total"), 0)

    def test_errors_are_counted_by_what_they_mean(self):
        v = self.volume()
        before = self.metrics(v)
        for i in range(5):
            with self.assertRaises(OSError):
                os.setxattr(v.mnt, "clawfs.version", b"1")        # EOPNOTSUPP: an answer
            with self.assertRaises(OSError):
                os.rmdir(v.path(".clawfs"))                       # EPERM
        after = self.metrics(v)

        def grown(op, kind):
            key = "clawfs_fuse_errors_total", (("op", op), ("kind", kind))
            return after[key] - before[key]
        self.assertEqual(grown("setxattr", "answer"), 5)
        self.assertEqual(grown("rmdir", "refused"), 5)
        self.assertEqual(grown("rmdir", "io"), 0)

    def test_an_fsync_is_timed_to_its_answer_and_commits_are_counted(self):
        v = self.volume()
        before = self.metrics(v)
        start = time.monotonic()
        for i in range(10):
            v.write("f", b"%d" % i, sync=True)
        took = time.monotonic() - start
        after = self.metrics(v)
        fsyncs = after["clawfs_fuse_request_seconds_sum", (("op", "fsync"),)] - before["clawfs_fuse_request_seconds_sum", (("op", "fsync"),)]
        commits = after["clawfs_commit_seconds_count", ()] - before["clawfs_commit_seconds_count", ()]
        spent = after["clawfs_commit_seconds_sum", ()] - before["clawfs_commit_seconds_sum", ()]
        self.assertGreaterEqual(commits, 10)
        self.assertLess(fsyncs, took)
        self.assertGreater(fsyncs, 0.5 * spent * 10 / commits)
        self.assertGreater(after["clawfs_commit_batch_bytes_sum", ()], before["clawfs_commit_batch_bytes_sum", ()])

    def test_the_stages_of_a_write_are_all_there_and_no_longer_than_the_whole(self):
        v = self.volume()
        for size in (100, 4096, 65536, 1 << 20):
            v.write("f%d" % size, b"x" * size, sync=True)
        samples = self.metrics(v)
        whole = samples["clawfs_fuse_request_seconds_sum", (("op", "write"),)]
        n = samples["clawfs_fuse_request_seconds_count", (("op", "write"),)]
        parts = 0
        for stage in ("admit", "place", "lock", "prepare", "log", "apply", "reply"):
            count = samples["clawfs_write_%s_seconds_count" % stage, ()]
            self.assertGreater(count, 0, stage)
            self.assertLessEqual(count, n, stage)
            parts += samples["clawfs_write_%s_seconds_sum" % stage, ()]
        self.assertLessEqual(parts, whole * 1.05)
        self.assertGreater(parts, whole * 0.3)


class Program(MetricsTest):
    def test_stats_profile_and_top_in_words_and_as_json(self):
        v = self.volume()
        v.write("f", b"x" * 200000, sync=True)
        for verb, words in (("stats", "write"), ("profile", "into the open batch"), ("top", "python3")):
            text = cli(verb, v.mnt, check=EXIT_OK).stdout
            self.assertIn(words, text, verb)
            json.loads(cli(verb, "--json", v.mnt, check=EXIT_OK).stdout)
        share = json.loads(cli("profile", "--json", v.mnt, check=EXIT_OK).stdout)["stages"]
        self.assertAlmostEqual(sum(s["share"] for s in share.values()), 1, places=6)

    def test_watching_shows_what_happened_in_each_interval(self):
        v = self.volume()
        for i in range(50):
            os.mkdir(v.path("old%d" % i))
        watch = subprocess.Popen([CLAWFS, "stats", "--json", "--watch", "1", "--count", "3", v.mnt], stdout=subprocess.PIPE, text=True)
        first = json.loads(watch.stdout.readline())
        for i in range(20):
            os.mkdir(v.path("new%d" % i))
        rest = [json.loads(line) for line in watch.stdout]
        watch.stdout.close()
        self.assertEqual(watch.wait(60), 0)
        self.assertEqual(len(rest), 2)
        self.assertEqual(first["ops"]["mkdir"]["n"], 50)
        self.assertEqual(sum(r["ops"]["mkdir"]["n"] for r in rest), 20)
        for r in rest:
            self.assertAlmostEqual(r["seconds"], 1, delta=0.5)

    def test_top_names_the_process_that_asks_most(self):
        v = self.volume()
        loop = "import os,sys\nfor i in range(2000): os.mkdir(sys.argv[1] + '/t%d' % i)\nsys.stdout.write('x')\nsys.stdout.flush()\nsys.stdin.read()"
        p = subprocess.Popen(["python3", "-c", loop, v.mnt], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            p.stdout.read(1)
            rows = json.loads(cli("top", "--json", v.mnt, check=EXIT_OK).stdout)["rows"]
            self.assertEqual(rows[0]["pid"], p.pid)
            self.assertEqual(rows[0]["uid"], 0)
            self.assertGreater(rows[0]["ops"]["mkdir"], 100)
            self.assertRegex(cli("top", v.mnt, check=EXIT_OK).stdout.splitlines()[1], r"^ *%d python3 +root " % p.pid)
        finally:
            p.stdin.close()
            p.stdout.close()
            p.wait()

    def test_what_single_users_do_is_nobody_elses_to_see(self):
        v = self.volume("allow_other")
        os.chmod(self.tmp, 0o711)
        mode = stat.S_IMODE(os.stat(v.path(".clawfs", "top")).st_mode)
        self.assertEqual(mode, 0o400)
        for name, readable in (("top", False), ("stats", True), ("metrics", False), ("status", False)):
            r = subprocess.run(["cat", v.path(".clawfs", name)], user=65534, group=65534, extra_groups=[], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
            self.assertEqual(r.returncode == 0, readable, name)

    def test_where_no_volume_is_mounted_it_says_so(self):
        for verb in ("stats", "top", "profile"):
            self.assertIn("no clawfs volume", cli(verb, self.tmp, check=EXIT_FAILURE).stderr)
            cli(verb, check=EXIT_USAGE)
            cli(verb, "--watch", "0", self.tmp, check=EXIT_USAGE)


class Server(MetricsTest):
    def listening(self, pid):
        """Listening sockets of a process: inodes of its descriptors that are in the tables of the kernel."""
        mine = set()
        for fd in os.listdir("/proc/%d/fd" % pid):
            try:
                mine.add(os.readlink("/proc/%d/fd/%s" % (pid, fd)))
            except FileNotFoundError:
                pass
        found = []
        for name in ("tcp", "tcp6"):
            for line in read("/proc/net/" + name).decode().splitlines()[1:]:
                field = line.split()
                if field[3] == "0A" and "socket:[%s]" % field[9] in mine:
                    found.append(line)
        for line in read("/proc/net/unix").decode().splitlines()[1:]:
            field = line.split()
            if int(field[3], 16) & 0x10000 and "socket:[%s]" % field[6] in mine:
                found.append(line)
        return found

    def test_nothing_listens_unless_asked(self):
        v = self.volume()
        self.assertEqual(self.listening(v.pid), [])
        v.remount("metrics=" + free_address())
        self.assertEqual(len(self.listening(v.pid)), 1)

    def test_a_unix_socket_is_private_goes_with_the_mount_and_comes_back_after_a_kill(self):
        where = os.path.join(self.tmp, "metrics.sock")
        v = self.volume("metrics=" + where)
        st = os.lstat(where)
        self.assertTrue(stat.S_ISSOCK(st.st_mode))
        self.assertEqual(stat.S_IMODE(st.st_mode), 0o660)
        status, _, body = get(where)
        self.assertEqual(status, 200)
        self.assertIn("clawfs_uptime_seconds", body)
        v.umount()
        self.assertFalse(os.path.exists(where))
        v.mount("metrics=" + where)
        v.kill9()
        self.assertTrue(os.path.exists(where), "a daemon that was killed leaves it behind")
        v.mount("metrics=" + where)
        self.assertEqual(get(where)[0], 200)

    def test_what_is_not_a_socket_left_behind_is_not_touched(self):
        where = os.path.join(self.tmp, "there")
        v = self.volume(mount=False)

        def refused():
            r = cli("mount", "-o", "metrics=" + where, v.store, v.mnt)
            self.assertEqual(r.returncode, EXIT_MOUNT, r.stderr)
            self.assertIn("cannot serve metrics", r.stderr)
        with open(where, "w") as f:
            f.write("precious")
        refused()
        self.assertEqual(read(where), b"precious")
        os.unlink(where)
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(where)
            s.listen()
            refused()
            self.assertTrue(os.path.exists(where))
        v.mount()


    def test_a_port_of_this_host(self):
        for where in (free_address(), "[::1]:%s" % free_address().split(":")[1]):
            v = self.volume("metrics=" + where, name=where.replace(":", "-"))
            status, headers, body = get(where)
            self.assertEqual(status, 200)
            self.assertEqual(headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
            self.assertEqual(promtool("check", "metrics", text=body).stdout, "")
            v.umount()
            self.assertFalse(answers(where))

    def test_wrong_addresses_are_refused_before_anything_is_done(self):
        v = self.volume(mount=False)
        wrong = ["0.0.0.0:9444", "192.0.2.1:9444", "[::]:9444", "[2001:db8::1]:9444", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0",
                 "127.0.0.1:65536", "127.0.0.1:99999999999", "127.0.0.1:1x", "127.0.0.1:-1", "localhost:9444", "::1:9444", "[::1]",
                 "[::1]9444", "[127.0.0.1]:9444", "[]:1", ":9444", "relative.sock", "/" + "x" * 108, "[" + "1" * 300 + "]:1"]
        for where in wrong:
            r = cli("mount", "-o", "metrics=" + where, v.store, v.mnt)
            self.assertIn(r.returncode, (EXIT_MOUNT, EXIT_USAGE), where)
            self.assertIn("metrics", r.stderr, where)
        self.assertIn("metrics_anywhere", cli("mount", "-o", "metrics=0.0.0.0:9444", v.store, v.mnt).stderr)
        where = free_address()
        v.mount("metrics=0.0.0.0:" + where.split(":")[1], "metrics_anywhere")
        self.assertEqual(get(where, Host="anything.example")[0], 200)

    def test_only_what_asks_rightly_is_answered(self):
        where = free_address()
        v = self.volume("metrics=" + where)
        for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript"), ("/metrics", "text/plain"),
                           ("/status", "application/json"), ("/stats", "application/json")):
            status, headers, body = get(where, path)
            self.assertEqual((status, headers["Content-Type"].split(";")[0]), (200, kind), path)
            for name, value in (("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "DENY"), ("Cache-Control", "no-store"),
                                ("Referrer-Policy", "no-referrer")):
                self.assertEqual(headers[name], value, path)
            self.assertIn("default-src 'none'", headers["Content-Security-Policy"])
            status, headers, nothing = get(where, path, method="HEAD")
            self.assertEqual((status, nothing), (200, ""))
            if kind == "application/json":
                json.loads(body)
        for path in ("/x", "/metrics/", "/../etc/passwd", "/status%2f", "/" + "x" * 4000, "/.clawfs/top", "/top"):
            self.assertEqual(get(where, path)[0], 404, path)
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "FOO"):
            self.assertEqual(get(where, method=method)[0], 405, method)
        for host in ("localhost", "localhost:1", "LOCALHOST", "127.0.0.1:%s" % where.split(":")[1], "[::1]:80"):
            self.assertEqual(get(where, Host=host)[0], 200, host)
        for host in ("example.org", "localhost.example.org", "127.0.0.1.example.org", "127.0.0.1:x", "[::1", "10.0.0.1"):
            self.assertEqual(get(where, Host=host)[0], 403, host)
        self.assertEqual(json.loads(get(where, "/status?x=y")[2])["health"]["state"], "ok")
        v.umount()

    def test_a_connection_serves_more_than_one_request(self):
        where = free_address()
        self.volume("metrics=" + where)
        c = connect(where)
        c.connect()
        sock = c.sock
        for _ in range(5):
            c.request("GET", "/metrics")
            self.assertEqual(c.getresponse().read()[:6], b"# HELP")
            self.assertIs(c.sock, sock)
        c.close()

    def test_nonsense_and_crowds_do_no_harm(self):
        where = free_address()
        v = self.volume("metrics=" + where)
        host, port = where.split(":")
        nonsense = [b"\x00" * 1000, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"x" * 100000 + b" HTTP/1.1\r\n\r\n",
                    b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100000 + b"\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20000 + b"\r\n",
                    b"GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", b"\x16\x03\x01\x02\x00\x01" + os.urandom(200),
                    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"]
        for bytes_ in nonsense:
            with socket.create_connection((host, int(port)), timeout=30) as s:
                try:
                    s.sendall(bytes_)
                    s.shutdown(socket.SHUT_WR)
                    while s.recv(65536):
                        pass
                except OSError:  # cut off, which is as good as told
                    pass
            self.assertEqual(get(where)[0], 200, bytes_[:40])
        before = v.status()["memory"]["resident_bytes"]
        crowd = []
        try:
            for _ in range(40):
                s = socket.create_connection((host, int(port)), timeout=30)
                crowd.append(s)
                s.sendall(b"GET /metrics HTTP/1.1\r\n")  # and never ends it
            v.write("f", b"x", sync=True)
            self.assertEqual(v.status()["health"]["state"], "ok")
            self.assertLess(v.status()["memory"]["resident_bytes"], before + (16 << 20))
            # Those that were let in are dropped after five seconds of silence.
            wait_for("an answer beside the crowd", lambda: self.quick(where), timeout=60, step=0.5)
        finally:
            for s in crowd:
                s.close()
        v.umount()

    def quick(self, where):
        try:
            c = connect(where)
            c.timeout = 2
            c.request("GET", "/metrics")
            return c.getresponse().status == 200
        except OSError:
            return False
        finally:
            c.close()

    def test_it_is_served_until_the_very_end_and_by_a_stop_under_load(self):
        where = os.path.join(self.tmp, "s")
        v = self.volume("metrics=" + where)
        scrape = subprocess.Popen(["python3", "-c", "import socket,sys\nwhile 1:\n s=socket.socket(socket.AF_UNIX)\n"
                                   " try: s.connect(sys.argv[1]); s.sendall(b'GET /metrics HTTP/1.0\\r\\n\\r\\n')\n except OSError: break\n"
                                   " try:\n  while s.recv(65536): pass\n except OSError: pass\n s.close()", where])
        try:
            time.sleep(0.5)
            self.assertEqual(v.terminate(), 0)
            scrape.wait(30)
        finally:
            scrape.kill()
            scrape.wait()


class Everything(ClusterTest):
    """Two nodes and a store, so that every metric has a value somewhere."""

    def setUp(self):
        super().setUp()
        self.c = self.cluster(2)
        leader = self.c.leader
        cold = os.path.join(self.tmp, "cold")
        cli("tier", "add", "cold", "file://" + cold, leader.mnt, check=EXIT_OK)
        os.mkdir(leader.path("d"))
        os.setxattr(leader.path("d"), "clawfs.tier", b"after=30d min=4K store=cold")
        leader.write("d/f", b"x" * 100000)
        cli("tier", "evict", leader.path("d"), check=EXIT_OK)
        leader.cli("durability", "replicas=1", leader.mnt)
        leader.write("synced", b"y", sync=True)
        cli("sync", leader.mnt, check=EXIT_OK)
        os.setxattr(leader.mnt, "clawfs.checkpoint", b"1")
        self.c.settle()
        self.texts = [read(os.path.join(n.mnt, ".clawfs", "metrics")).decode() for n in self.c.node]

    # Only of a volume that takes no changes, and after a drill.
    SELDOM = {"clawfs_health_reason_info", "clawfs_drill_recovery_point_seconds", "clawfs_drill_recovery_time_seconds"}

    def names(self):
        """Sample names, and those of histograms without what the format appends."""
        found = set()
        for text in self.texts:
            samples, types = parse(text)
            for name, _ in samples:
                found |= {name, family(name, types)}
        return found

    def test_every_metric_of_the_table_has_a_value_and_promtool_finds_nothing(self):
        for text in self.texts:
            self.assertEqual(promtool("check", "metrics", text=text).stdout, "")
        here = self.names()
        missing = [name for name in table() if name not in here and name not in self.SELDOM]
        self.assertEqual(missing, [])
        samples, _ = parse(self.texts[0])
        self.assertEqual(samples["clawfs_peer_state", (("peer", "n2"), ("state", "streaming"))], 1)
        self.assertEqual(samples["clawfs_store_breaker_state", (("store", "cold"), ("state", "closed"))], 1)
        self.assertGreater(samples["clawfs_store_requests_total", (("store", "cold"), ("kind", "put"))], 0)
        self.assertGreater(samples["clawfs_ack_wait_seconds_count", ()], 0)
        follower, _ = parse(self.texts[1])
        self.assertEqual(follower["clawfs_role", (("role", "follower"),)], 1)

    def test_rules_and_dashboard_name_only_metrics_that_are_there(self):
        here = self.names()
        with open(DASHBOARD, encoding="utf-8") as f:
            dashboard = json.load(f)
        shown = [t["expr"] for p in dashboard["panels"] for t in p.get("targets", ())]
        self.assertGreater(len(shown), 30)
        for where, text in (("rules", read(RULES).decode()), ("dashboard", "\n".join(shown))):
            named = set(NAME.findall(re.sub(r"#.*", "", text)))
            self.assertGreater(len(named), 15, where)
            self.assertEqual(sorted(named - here), [], where)
        places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in dashboard["panels"]]
        self.assertEqual(len(set(places)), len(places))
        self.assertEqual(len({p["id"] for p in dashboard["panels"]}), len(places))
        for p in dashboard["panels"]:
            self.assertLessEqual(p["gridPos"]["x"] + p["gridPos"]["w"], 24, p["title"])

    def test_both_go_on_when_the_lead_changes_hands(self):
        first, second = self.c.node
        cli("handover", second.name, first.mnt, check=EXIT_OK)
        wait_for("the old leader's new mount", lambda: first.is_now("follower"))
        for node, role in ((first, "follower"), (second, "leader")):
            samples, _ = parse(read(os.path.join(node.mnt, ".clawfs", "metrics")).decode())
            self.assertEqual(samples["clawfs_role", (("role", role),)], 1)


class Rules(VolumeTest):
    # For each alert, series that must make it fire within three hours.
    FIRE = {
        "ClawfsDown": ['up{job="clawfs"} 0x200'],
        "ClawfsStopped": ['clawfs_health_state{state="failed"} 1x200'],
        "ClawfsTakesNoChanges": ['clawfs_health_state{state="host full"} 1x200'],
        "ClawfsDamage": ["clawfs_damaged_reads_total 0x160 1x60"],
        "ClawfsDamagedFiles": ["clawfs_damaged_files 2x200"],
        "ClawfsIoErrors": ['clawfs_fuse_errors_total{op="read",kind="io"} 0+1x200'],
        "ClawfsFull": ['clawfs_fuse_errors_total{op="write",kind="space"} 0+1x200'],
        "ClawfsFullSoon": ["clawfs_forecast_full_seconds 3600x200"],
        "ClawfsSpaceLow": ["clawfs_space_used_bytes 90x200", "clawfs_space_reserved_bytes 5x200", "clawfs_space_total_bytes 50x200",
                           "clawfs_space_growable_bytes 50x200"],
        "ClawfsJournalFull": ["clawfs_journal_used_bytes 80x200", "clawfs_journal_ring_bytes 100x200"],
        "ClawfsCheckpointOld": ["clawfs_checkpoint_age_seconds 0+60x200", "clawfs_journal_operations_total 0+1x200"],
        "ClawfsJobFails": ['clawfs_job_errors_total{task="homer"} 0+1x200'],
        "ClawfsCommitSlow": ['clawfs_commit_seconds_bucket{le="0.5"} 0x200', 'clawfs_commit_seconds_bucket{le="2"} 0+10x200',
                             'clawfs_commit_seconds_bucket{le="+Inf"} 0+10x200'],
        "ClawfsLatencyUnusual": ['clawfs_latency_anomaly{op="read"} 1x200'],
        "ClawfsAuditLost": ["clawfs_audit_lost_total 0x160 1x60"],
        "ClawfsMemory": ["clawfs_memory_resident_bytes 200x200", "clawfs_memory_limit_bytes 100x200"],
        "ClawfsFollowersMissing": ["clawfs_durability_degraded 1x200"],
        "ClawfsFsyncWaits": ["clawfs_durability_longest_wait_seconds 31x200"],
        "ClawfsConflict": ["clawfs_differs 0x200", 'clawfs_peer_state{peer="b",state="conflict"} 1x200'],
        "ClawfsPeerAway": ['clawfs_peer_state{peer="b",state="streaming"} 0x200', 'clawfs_role{role="leader"} 1x200'],
        "ClawfsPeerLags": ['clawfs_peer_lag_seconds{peer="b"} 100x200', 'clawfs_forecast_lag_bytes_per_second{peer="b"} 5x200'],
        "ClawfsUnreadable": ["clawfs_readable 0x200"],
        "ClawfsStoreAway": ['clawfs_store_breaker_state{store="s",state="open"} 1x200'],
        "ClawfsRecallsFail": ["clawfs_recall_failures_total 0+1x200"],
        "ClawfsArchiveGap": ['clawfs_archive_state{state="gap"} 1x200'],
        "ClawfsArchiveBehind": ["clawfs_archive_behind_seconds 7200x200"],
        "ClawfsBudgetSpent": ['clawfs_store_budget_spent{store="s"} 1x200'],
    }

    def run_tests(self, cases):
        """promtool test rules: [(series, alert that must fire, or None for none at all)]."""
        lines = ["rule_files:", "  - " + RULES, "evaluation_interval: 1m", "tests:"]
        for series, alert in cases:
            lines += ["  - interval: 1m", "    input_series:"]
            for s in series:
                name, values = s.split(" ", 1)
                while name.count('"') % 2:
                    more, values = values.split(" ", 1)
                    name += " " + more
                lines += ["      - series: '%s'" % name, "        values: '%s'" % values]
            lines += ["    promql_expr_test:", "      - eval_time: 180m"]
            if alert:
                lines += ["        expr: 'count(ALERTS{alertname=\"%s\",alertstate=\"firing\"}) > bool 0'" % alert, "        exp_samples:",
                          "          - value: 1"]
            else:
                lines += ["        expr: 'count(ALERTS)'"]
        path = os.path.join(self.tmp, "rules_test.yml")
        with open(path, "w") as f:
            f.write("\n".join(lines) + "\n")
        return promtool("test", "rules", path)

    def test_promtool_finds_nothing(self):
        r = promtool("check", "rules", RULES)
        self.assertEqual(r.returncode, 0, r.stdout)

    def test_each_alert_fires_when_it_should(self):
        alerts = re.findall(r"- alert: (\w+)", read(RULES).decode())
        self.assertEqual(sorted(alerts), sorted(self.FIRE))
        r = self.run_tests([(series, alert) for alert, series in self.FIRE.items()])
        self.assertEqual(r.returncode, 0, r.stdout)

    def test_none_fires_where_all_is_well(self):
        v = self.volume()
        v.write("f", b"x" * 100000, sync=True)
        samples, _ = parse(read(v.path(".clawfs", "metrics")).decode())
        series = []
        for (name, labels), value in samples.items():
            if name == "clawfs_checkpoint_age_seconds" or "'" in str(labels) or "\\" in str(labels):
                continue
            text = "{%s}" % ",".join('%s="%s"' % l for l in labels) if labels else ""
            # Everything stays as it is, for no time is like the one of a mount that is used a little.
            value = "Inf" if value == float("inf") else "%.9g" % value
            series.append("%s%s %s" % (name, text, " ".join([value] * 181) if value == "Inf" else value + "x180"))
        r = self.run_tests([(series + ['up{job="clawfs"} 1x180'], None)])
        self.assertEqual(r.returncode, 0, r.stdout)


class Forecast(MetricsTest):
    def test_a_volume_that_fills_has_an_end_and_one_at_rest_has_none(self):
        v = self.volume(size="512M")
        rest = v.status()["forecast"]
        self.assertIsNone(rest["full_seconds"])
        self.assertEqual(self.value(v, "clawfs_forecast_full_seconds"), float("inf"))
        start, i = time.monotonic(), 0

        def fills():
            nonlocal i
            v.write("f%d" % i, os.urandom(1 << 20), sync=True)
            i += 1
            time.sleep(0.2)
            return v.status()["forecast"]["full_seconds"]
        seconds = wait_for("a forecast", fills, timeout=60)
        rate = v.status()["forecast"]["fill_bytes_per_second"]
        self.assertGreater(rate, 0)
        written = i * (1 << 20) / (time.monotonic() - start)
        self.assertLess(rate, 4 * written + (1 << 20))
        space = os.statvfs(v.mnt)
        self.assertAlmostEqual(seconds, space.f_bfree * space.f_frsize / rate, delta=seconds)

    def test_each_operation_that_is_watched_has_a_usual_latency_after_a_sample(self):
        v = self.volume()
        for _ in range(30):
            v.write("f", b"x", sync=True)

        def known():
            return v.status()["forecast"]["latency"]["fsync"]["usual_seconds"]
        usual = wait_for("a sample", known, timeout=30, step=0.5)
        self.assertLess(usual, 5)
        latency = v.status()["forecast"]["latency"]
        self.assertEqual(sorted(latency), ["commit", "fsync", "lookup", "read", "write"])
        self.assertFalse(any(x["anomaly"] for x in latency.values()), "too early to tell")


class Probes(VolumeTest):
    def test_the_program_has_the_probes_that_are_documented(self):
        with open(os.path.join(ROOT, "base", "trace.h"), encoding="utf-8") as f:
            documented = re.findall(r"^ \*     (\w+)\((\w+(?:, \w+)*)\)  ", f.read(), re.M)
        notes = subprocess.run(["readelf", "-n", CLAWFS], check=True, stdout=subprocess.PIPE, text=True).stdout
        found = re.findall(r"Provider: clawfs\s+Name: (\w+)\s+Location: .*\s+Arguments: ?(.*)", notes)
        self.assertEqual({name for name, _ in found}, {name for name, _ in documented})
        self.assertGreater(len(documented), 10)
        for name, arguments in found:
            expected = len(dict(documented)[name].split(", "))
            self.assertGreaterEqual(len(arguments.split()), expected, name)


class Outline(html.parser.HTMLParser):
    """Texts of a page by the id of the element that they are in."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.hidden, self.sources = [], {}, set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.sources += [a[k] for k in ("src", "href") if k in a]
        if "id" in a and "hidden" in a:
            self.hidden.add(a["id"])
        if tag not in ("meta", "link", "br", "img", "input"):
            self.open.append((tag, a.get("id")))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for _, id_ in self.open:
            if id_:
                self.text[id_] = self.text.get(id_, "") + data


class Page(ClusterTest):
    def render(self, where):
        """The page as a browser has it once its script ran."""
        with tempfile.TemporaryDirectory(dir=self.tmp) as home:
            r = subprocess.run(["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--user-data-dir=" + home,
                                "--virtual-time-budget=8000", "--dump-dom", "http://%s/" % where], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, timeout=120, env={**os.environ, "HOME": home})
        self.assertEqual(r.returncode, 0, r.stderr)
        return Outline(r.stdout)

    def test_it_shows_health_lag_tiers_and_latency(self):
        where = free_address()
        c = self.cluster(2, label="<b>bold</b>")
        leader = c.leader
        leader.umount()
        leader.start("metrics=" + where)
        cli("tier", "add", "cold", "file://" + os.path.join(self.tmp, "cold"), leader.mnt, check=EXIT_OK)
        leader.write("f", b"x" * 100000, sync=True)
        c.settle()
        wait_for("the follower", lambda: leader.peer_state("n2") == "streaming")
        page = self.render(where)
        self.assertEqual(page.text["health"], "ok")
        self.assertEqual(page.text["role"], "leader")
        self.assertEqual(page.text["name"], "<b>bold</b>", "text, not HTML")
        self.assertIn("n2", page.text["peers"])
        self.assertIn("streaming", page.text["peers"])
        self.assertIn("cold", page.text["stores"])
        self.assertIn("closed", page.text["stores"])
        for op in ("write", "fsync", "lookup"):
            self.assertIn(op, page.text["latency"])
        self.assertIn("MiB", page.text["journal-facts"])
        self.assertIn("full in", page.text["space-facts"])
        self.assertTrue({"reason", "alarm", "lost"} <= page.hidden)

    def test_it_needs_nothing_from_elsewhere(self):
        where = free_address()
        v = self.volume("metrics=" + where)
        _, _, text = get(where, "/")
        for source in Outline(text).sources:
            self.assertRegex(source, r"^[a-z]+(\.css|\.js)?$")
            self.assertEqual(get(where, "/" + source)[0], 200, source)
        for path in ("/", "/page.css", "/page.js"):
            self.assertNotIn("http", get(where, path)[2], path)
            self.assertNotIn("innerHTML", get(where, path)[2])
        self.assertTrue(v.pid)

    def test_it_says_when_the_volume_stopped(self):
        where = free_address()
        v = self.volume("metrics=" + where, "ro")
        page = self.render(where)
        self.assertEqual(page.text["health"], "read-only")
        self.assertTrue(v.pid)


if __name__ == "__main__":
    main()
