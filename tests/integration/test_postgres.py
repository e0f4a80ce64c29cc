"""PostgreSQL: initdb, pgbench, kill -9 of the postmaster, kill -9 of the filesystem's daemon; checked each time."""

import glob
import os
import pwd
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clawfs_env  # noqa: E402
from programs import ProgramTest, main, run  # noqa: E402

BIN = (sorted(glob.glob("/usr/lib/postgresql/*/bin")) or [""])[-1]
SECONDS = os.environ.get("SECONDS_OF_PGBENCH", "6")


class Postgres(ProgramTest):
    def pg(self, program, *args):
        try:
            self.pg_quietly(program, *args)
        except AssertionError as e:
            self.log.seek(0)
            raise AssertionError("%s\n%s" % (e, self.log.read()[-3000:])) from None

    def pg_quietly(self, program, *args):
        run("setpriv", "--reuid", str(self.user.pw_uid), "--regid", str(self.user.pw_gid), "--clear-groups", "--",
            os.path.join(BIN, program), *args, cwd="/",
            env={"PATH": BIN + ":/usr/bin:/bin", "PGHOST": self.sockets, "PGDATABASE": "postgres", "LC_ALL": "C"},
            stdout=self.log)

    def start(self):
        self.pg("pg_ctl", "-D", self.data, "-w", "-t", "120", "-o", "-k %s -h ''" % self.sockets, "start")

    def ask(self, query):
        with open(self.tmp + "/answer", "w+", encoding="utf-8") as f:
            self.log, keep = f, self.log
            self.pg("psql", "-XAtq", "-c", query)
            self.log = keep
            f.seek(0)
            return f.read().strip()

    def postmaster(self):
        with open(self.data + "/postmaster.pid", encoding="ascii") as f:
            return int(f.readline())

    def servers(self):
        """The postmaster and its children; told before it dies, for then its children have another parent."""
        postmaster = self.postmaster()
        try:
            with open("/proc/%d/cmdline" % postmaster, encoding="utf-8") as f:
                if self.data not in f.read():
                    return []  # another process has this number by now
            with open("/proc/%d/task/%d/children" % (postmaster, postmaster), encoding="ascii") as f:
                return [postmaster] + [int(pid) for pid in f.read().split()]
        except FileNotFoundError:
            return []

    def kill_servers(self, pids):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        clawfs_env.wait_for("the end of the servers", lambda: not any(os.path.exists("/proc/%d" % pid) for pid in pids))

    def cleanup(self):
        if os.path.exists(self.data + "/postmaster.pid"):
            self.kill_servers(self.servers())

    def bench_in_background(self):
        return subprocess.Popen(["setpriv", "--reuid", str(self.user.pw_uid), "--regid", str(self.user.pw_gid), "--clear-groups", "--",
                                 BIN + "/pgbench", "-n", "-c", "4", "-T", "30", "postgres"],
                                stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd="/",
                                env={"PATH": "/usr/bin:/bin", "PGHOST": self.sockets, "LC_ALL": "C"})

    def consistent(self):
        """pgbench's invariant, and every index against its heap."""
        self.assertEqual(self.ask("SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches) AND "
                                  "(SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history) "
                                  "AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"),
                         "t")
        self.pg("pg_amcheck", "--install-missing", "--heapallindexed", "-d", "postgres")
        return int(self.ask("SELECT count(*) FROM pgbench_history"))

    def test_a_cluster_survives_both_kinds_of_kill(self):
        if not BIN:
            self.skipTest("PostgreSQL is not installed")
        try:
            self.user = pwd.getpwnam("postgres")
        except KeyError:
            self.user = pwd.getpwnam("nobody")
        place = self.place("allow_other")
        self.log = open(self.tmp + "/pg.log", "w+", encoding="utf-8")
        self.addCleanup(self.log.close)
        self.sockets = self.tmp + "/s"
        self.data = place + "/data"
        for d in (self.sockets, self.data):
            os.mkdir(d, 0o700)
            os.chown(d, self.user.pw_uid, self.user.pw_gid)
        self.addCleanup(self.cleanup)
        self.pg("initdb", "-D", self.data, "--data-checksums", "-A", "trust")
        self.start()
        self.pg("pgbench", "-i", "-q", "-s", "4", "postgres")
        self.pg("pgbench", "-n", "-c", "4", "-j", "2", "-T", SECONDS, "postgres")
        done = self.consistent()
        self.assertGreater(done, 0)

        bench = self.bench_in_background()
        time.sleep(2)
        self.kill_servers(self.servers())
        bench.wait()
        self.start()
        again = self.consistent()
        self.assertGreater(again, done)

        if self.v:
            bench = self.bench_in_background()
            time.sleep(2)
            acked = int(self.ask("SELECT count(*) FROM pgbench_history"))
            servers = self.servers()
            self.v.kill9()
            bench.kill()
            bench.wait()
            self.kill_servers(servers)
            self.v.mount("allow_other")
            self.start()
            self.assertGreaterEqual(self.consistent(), acked)
        self.pg("pg_ctl", "-D", self.data, "-w", "-m", "fast", "stop")
        self.pg("pg_checksums", "--check", "-D", self.data)
        self.remount()
        self.start()
        self.consistent()
        self.pg("pg_ctl", "-D", self.data, "-w", "-m", "fast", "stop")
        self.finish()


if __name__ == "__main__":
    main()
