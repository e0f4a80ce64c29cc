"""store_faults: the n-th write, flush or name of the store fails, once or for ever, by kind and by file (guarantee G6).

Each trial: a volume on faultfs, one process that writes and fsyncs files, and one fault.  Whatever was acked by fsync is there
and right, while the volume is stopped and after a restart; once an error was reported, no fsync succeeds until the restart,
unless the fault was ENOSPC; reads go on; status and log say why; the daemon never dies of it.

    store_faults.py [--trials N] [--seed N]
"""

import argparse
import errno
import os
import random
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "integration"), os.path.join(HERE, "..", "lib", "faultfs")]
import clawfs_env  # noqa: E402
from faultfs import FaultFs  # noqa: E402

FILES = 120
PLACES = ("store/journal/*", "store/arena*", "store/index*", "*")


class Wrong(Exception):
    pass


def must(condition, what):
    if not condition:
        raise Wrong(what)


class Trial:
    def __init__(self, seed, tmp):
        self.rng = random.Random(seed)
        self.faults = FaultFs(tmp)
        self.volume = clawfs_env.Volume(tmp)
        self.volume.store = os.path.join(self.faults.mnt, "store")
        self.acked, self.tried = {}, {}
        op = self.rng.choice(("write", "write", "fsync", "fsync", "name"))
        action = self.rng.choice(("EIO", "EIO", "EIO", "ENOSPC", "tear") if op == "write" else ("EIO", "EIO", "ENOSPC"))
        # Names change, and the index is written, at a checkpoint only.
        places, most = (("store/index*", "*"), 1.2) if op == "name" else (PLACES, 1.5 if op == "fsync" else 2.2)
        self.fault = (op, action, self.rng.choice(places), int(10 ** self.rng.uniform(0, most)) - 1, self.rng.choice((1, 1, 3, -1)))

    def put(self, i):
        """Writes and fsyncs file i; the errno, or 0 when acked."""
        name = "f%d" % (i % 40)
        data = self.rng.randbytes(self.rng.choice((100, 4096, 20000, 60000, 100000, 300000, 1 << 20)))
        self.tried.setdefault(name, [None]).append(data)
        try:
            self.volume.write(name, data, sync=True)
        except OSError as e:
            return e.errno
        self.acked[name] = data
        self.tried[name] = [data]
        return 0

    def check(self, when):
        """What was acked is there; what was not may be as any try after it left it, or in between."""
        for name, tries in self.tried.items():
            if len(tries) == 1 and name in self.acked:
                must(self.volume.read(name) == self.acked[name], "%s: %s is not what fsync acked" % (when, name))

    def work(self):
        failed = None
        for i in range(FILES):
            code = self.put(i)
            if code:
                must(code in (errno.EIO, errno.EROFS, errno.ENOSPC), "errno %s" % errno.errorcode.get(code, code))
                failed = failed or code
            elif failed in (errno.EIO, errno.EROFS) and self.fault[1] != "ENOSPC":
                raise Wrong("an fsync succeeded after one had failed")
            must(self.volume.process.poll() is None, "the daemon died:\n" + self.volume.messages()[-6000:])
        return failed

    def run(self):
        os.mkdir(self.volume.store)
        self.volume.format()
        self.volume.mount("commit=1")
        for i in range(5):
            must(self.put(i) == 0, "a write failed before the fault")
        self.faults.rule(*self.fault)
        failed = self.work()
        self.check("while stopped")
        hits = self.faults.stats()["hits"]
        if failed and self.fault[1] != "ENOSPC":
            must(hits > 0, "an error without a fault")
            must(self.volume.status()["health"]["reason"], "status does not say why")
            must(self.volume.messages().strip(), "the log is silent")
        ending = self.rng.choice(("fails", "clean", "cut"))
        if ending != "fails":
            self.faults.clear()
        if ending != "cut":
            # With the fault still there the last checkpoint may fail: that is reported, and never a crash.
            code = self.volume.terminate()
            must(code >= 0, "ended by signal %d while stopping" % -code)
            self.faults.clear()
        else:
            self.faults.powercut(self.rng.choice(("all", "pages", "torn")), self.rng.randrange(1 << 30))
            self.volume.kill9()
            self.faults.restore()
        hits = self.faults.stats()["hits"]
        self.volume.mount()
        self.check("after the restart")
        must(self.put(1000) == 0, "does not write after the restart")
        self.volume.umount()
        self.volume.fsck()
        return hits, failed

    def close(self):
        self.volume.kill9()
        self.faults.close()
        self.volume.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=int(os.environ.get("TRIALS", 25)))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED") or random.randrange(1 << 32)))
    args = parser.parse_args()
    hit = seen = 0
    for seed in range(args.seed, args.seed + args.trials):
        with tempfile.TemporaryDirectory(prefix="clawfs-faults-", dir=os.environ.get("CLAWFS_TEST_DIR")) as tmp:
            trial = Trial(seed, tmp)
            print("SEED=%d fault: %s" % (seed, trial.fault), flush=True)
            try:
                hits, failed = trial.run()
            except Exception:
                print("the daemon said:\n" + trial.volume.messages()[-6000:], file=sys.stderr)
                raise
            finally:
                trial.close()
            hit += hits > 0
            seen += failed is not None
    print("ok: %d trials, %d with a fault that struck, %d of them seen by the writer" % (args.trials, hit, seen))


if __name__ == "__main__":
    main()
