"""SQLite in both journal modes: concurrent writers, a killed writer, a killed daemon; integrity_check after each."""

import os
import random
import signal
import sqlite3
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clawfs_env  # noqa: E402
from programs import ProgramTest, main  # noqa: E402

ROWS = 400


def connect(path, mode):
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    assert db.execute("PRAGMA journal_mode=" + mode).fetchone()[0] == mode.lower()
    db.execute("PRAGMA synchronous=FULL")
    return db


def writer(path, mode, who, ledger, seed):
    """Commits rows for ever (or `ROWS`), noting outside each that COMMIT reported."""
    rng = random.Random(seed)
    db = connect(path, mode)
    out = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for n in range(ROWS):
        db.execute("BEGIN IMMEDIATE")
        for part in range(3):
            db.execute("INSERT INTO t VALUES (?, ?, ?, ?)", (who, n, part, rng.randbytes(rng.randrange(10, 3000))))
        if n % 10 == 9:
            db.execute("DELETE FROM t WHERE who = ? AND n = ?", (who, n - 5))
        db.execute("COMMIT")
        os.write(out, b"%d\n" % n)


def start(path, mode, who, ledger, seed):
    pid = os.fork()
    if pid == 0:
        try:
            writer(path, mode, who, ledger, seed)
        except sqlite3.Error:
            os._exit(3)
        finally:
            os._exit(0)
    return pid


class Sqlite(ProgramTest):
    def check(self, path, mode, ledgers):
        db = connect(path, mode)
        self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
        for who, ledger in enumerate(ledgers):
            acked = []
            if os.path.exists(ledger):  # else killed before its first commit
                with open(ledger, "rb") as f:
                    acked = [int(x) for x in f.read().split()]
            rows = dict(db.execute("SELECT n, count(*) FROM t WHERE who = ? GROUP BY n", (who,)))
            gone = {n - 5 for n in rows if n % 10 == 9}
            self.assertEqual([n for n in acked if n not in rows and n not in gone], [], "committed rows are lost")
            self.assertEqual({n: c for n, c in rows.items() if c != 3}, {}, "a transaction is there in part")
        db.close()

    def one_mode(self, mode):
        seed = clawfs_env.seed()
        place = self.place(**clawfs_env.SMALL)
        path = place + "/test.db"
        db = connect(path, mode)
        db.execute("CREATE TABLE t (who, n, part, data)")
        db.execute("CREATE INDEX i ON t (who, n)")
        db.close()
        for round_number, victim in enumerate(("none", "writer", "daemon")):
            ledgers = ["%s/ledger.%d" % (self.tmp, who) for who in range(3)]
            connect(path, mode).execute("DELETE FROM t")
            for ledger in ledgers:
                if os.path.exists(ledger):
                    os.unlink(ledger)
            pids = [start(path, mode, who, ledger, seed + who + round_number) for who, ledger in enumerate(ledgers)]
            if victim != "none":
                time.sleep(random.Random(seed + round_number).uniform(0.3, 1.0))
            if victim == "daemon":
                self.crash()
            for pid in pids:
                if victim != "none":
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            self.check(path, mode, ledgers)
        self.finish()

    def test_delete_mode(self):
        self.one_mode("DELETE")

    def test_wal_mode(self):
        self.one_mode("WAL")


if __name__ == "__main__":
    main()
