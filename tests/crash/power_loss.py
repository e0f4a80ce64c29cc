"""power_loss: the real daemon on a store that loses what was not flushed.

Each round: mount, check the tree against the ledger of the round before, let the workers of workload.py change it, cut the
power of the store (faultfs) at a random moment or at a random store write, kill -9 the daemon, restore.  Some rounds cut
again while the next mount recovers.  At the end, and every few rounds, a clean unmount and fsck.

    power_loss.py [--rounds N] [--seed N] [--workers N] [--keep]

Prints its seed first; the same seed gives the same operations and cuts (the moments of the cuts in time vary with the host).
A failure keeps the store and says where.
"""

import argparse
import os
import random
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "integration"), os.path.join(HERE, "..", "lib", "faultfs")]
import clawfs_env  # noqa: E402
import workload  # noqa: E402
from faultfs import FaultFs  # noqa: E402

MODES = ("all", "pages", "torn")
# Recovery's bound (G5) for the ring of clawfs_env.SMALL, and what a busy machine adds to starting a process.
MOUNT_SECONDS = 1 + 2 * 32 / 1024 + 2


class Rounds:
    def __init__(self, args, tmp):
        self.rng = random.Random(args.seed)
        self.tmp, self.seed = tmp, args.seed
        self.faults = FaultFs(tmp)
        self.volume = clawfs_env.Volume(tmp)
        self.volume.store = os.path.join(self.faults.mnt, "store")
        self.workers = []
        self.states = [workload.State() for _ in range(args.workers)]
        self.operations = self.covered = self.kept = self.mid_recovery = 0
        self.slowest_mount = self.oldest_lost = 0.0
        self.cut_at = 0.0

    def start(self):
        os.mkdir(self.volume.store)
        self.volume.format()
        self.volume.mount()
        for i in range(len(self.states)):
            os.mkdir(self.volume.path("w%d" % i))
        self.volume.umount()

    def cut(self, number):
        """Lets the workers run and cuts the power in their midst."""
        mode, seed = self.rng.choice(MODES), self.rng.randrange(1 << 30)
        synced = self.rng.choice((1, 0.1, 0.01))
        self.workers = [workload.Worker(self.volume.path("w%d" % i), state, self.rng.randrange(1 << 40),
                                        os.path.join(self.tmp, "ledger.%d.%d" % (number, i)), pause=0.003, synced=synced)
                        for i, state in enumerate(self.states)]
        wait = self.rng.uniform(0.1, 1.5)
        if self.rng.random() < 0.5:
            skip = int(10 ** self.rng.uniform(0, 3))
            self.faults.seed(seed)
            self.cut_at = time.monotonic()
            self.faults.rule(self.rng.choice(("write", "fsync", "any")), "cut-" + mode, "*", skip=skip, count=1)
            end = time.monotonic() + wait
            while time.monotonic() < end and not self.faults.stats()["dead"]:
                time.sleep(0.005)
            self.faults.clear()
        else:
            time.sleep(wait)
            self.cut_at = time.monotonic()
        self.faults.powercut(mode, seed)
        if self.rng.random() < 0.3:
            time.sleep(0.2)  # the daemon sees the errors, and must neither ack nor die of them
            if self.volume.process.poll() is not None:
                raise workload.Mismatch("a store that fails ended the daemon with %d" % self.volume.process.returncode)
        self.volume.kill9()
        for w in self.workers:
            w.stop()
        self.faults.restore()

    def mount(self):
        """Mounts; now and then the power goes again while it recovers."""
        for _ in range(self.rng.choice((0, 0, 0, 0, 1, 2))):
            self.faults.rule("any", "cut-" + self.rng.choice(MODES), "*", skip=int(10 ** self.rng.uniform(0, 2.5)), count=1)
            try:
                self.volume.mount()
            except clawfs_env.Failed:
                self.mid_recovery += 1
            self.faults.clear()
            self.faults.powercut(self.rng.choice(MODES), self.rng.randrange(1 << 30))
            self.volume.kill9()
            self.faults.restore()
        began = time.monotonic()
        self.volume.mount()
        self.slowest_mount = max(self.slowest_mount, time.monotonic() - began)

    def check(self):
        ledgers = [w.entries() for w in self.workers]
        for i, w in enumerate(self.workers):
            least = workload.covered_count(ledgers, i, everything=False)
            done, self.states[i] = workload.check(w, ledgers[i], least, self.cut_at)
            self.operations += len(ledgers[i])
            self.covered += least
            self.kept += done
            lost = [e.ended for e in ledgers[i][done:] if e.ended is not None]
            self.oldest_lost = max([self.oldest_lost] + [self.cut_at - t for t in lost])
            os.unlink(w.ledger)

    def fsck(self):
        self.volume.umount()
        self.volume.fsck()

    def run(self, rounds):
        self.start()
        for number in range(rounds):
            self.mount()
            self.check()
            if number % 6 == 5:
                self.fsck()
                self.volume.mount()
            self.cut(number)
        self.mount()
        self.check()
        self.fsck()
        if self.slowest_mount > MOUNT_SECONDS:
            raise workload.Mismatch("a mount took %.2f s" % self.slowest_mount)

    def close(self):
        self.volume.kill9()
        for w in self.workers:
            w.kill()
        self.faults.close()
        self.volume.close()


def keep(rounds):
    """A copy of the store as it stands, for the one who looks for the fault."""
    kept = tempfile.mkdtemp(prefix="clawfs-power-loss-")
    try:
        rounds.volume.kill9()
        rounds.faults.restore()
        os.system("cp -a %s %s/; cp %s %s/" % (rounds.volume.store, kept, rounds.volume.log, kept))
    finally:
        print("kept: " + kept, file=sys.stderr)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", 30)))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED") or random.randrange(1 << 32)))
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="keep the store when it fails")
    args = parser.parse_args()
    print("SEED=%d" % args.seed, flush=True)
    with tempfile.TemporaryDirectory(prefix="clawfs-power-loss-", dir=os.environ.get("CLAWFS_TEST_DIR")) as tmp:
        rounds = Rounds(args, tmp)
        try:
            rounds.run(args.rounds)
        except Exception:
            if args.keep:
                keep(rounds)
            print("the daemon said:\n" + rounds.volume.messages()[-6000:], file=sys.stderr)
            raise
        finally:
            rounds.close()
    print("ok: %d rounds, %d operations, %d covered by a durable point, %d kept, %d cuts inside recovery, slowest mount %.2f s, "
          "oldest acked operation lost %.2f s" % (args.rounds, rounds.operations, rounds.covered, rounds.kept, rounds.mid_recovery,
                                                  rounds.slowest_mount, rounds.oldest_lost))


if __name__ == "__main__":
    main()
