"""kill9: kill -9 of the daemon at random moments under load costs nothing that was acked (guarantee G3).

Each round: mount, check that every acked operation of the round before is there, let the workers of workload.py change the
tree for a moment, kill -9.  Every 20 rounds a clean unmount and fsck.  A buffered write counts as acked once close() has
returned: until then the kernel alone has it, and its pages die with the mount.

    kill9.py [--rounds N] [--seed N] [--workers N]
"""

import argparse
import os
import random
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "integration")]
import clawfs_env  # noqa: E402
import workload  # noqa: E402

# Recovery's bound (G5) for the ring of clawfs_env.SMALL, and what a busy machine adds to starting a process.
MOUNT_SECONDS = 1 + 2 * 32 / 1024 + 2


class Rounds:
    def __init__(self, args, tmp):
        self.rng = random.Random(args.seed)
        self.tmp = tmp
        self.volume = clawfs_env.Volume(tmp)
        self.workers = []
        self.states = [workload.State() for _ in range(args.workers)]
        self.operations = self.in_flight = 0
        self.mounts = []
        self.killed_at = 0.0

    def start(self):
        self.volume.format()
        self.volume.mount()
        for i in range(len(self.states)):
            os.mkdir(self.volume.path("w%d" % i))
        self.volume.kill9()

    def mount(self):
        began = time.monotonic()
        self.volume.mount()
        self.mounts.append(time.monotonic() - began)

    def kill(self, number):
        self.workers = [workload.Worker(self.volume.path("w%d" % i), state, self.rng.randrange(1 << 40),
                                        os.path.join(self.tmp, "ledger.%d.%d" % (number, i)))
                        for i, state in enumerate(self.states)]
        time.sleep(self.rng.uniform(0.02, 0.3))
        self.killed_at = time.monotonic()
        self.volume.kill9()
        for w in self.workers:
            w.stop()

    def check(self):
        ledgers = [w.entries() for w in self.workers]
        for i, w in enumerate(self.workers):
            least = workload.covered_count(ledgers, i, everything=True)
            done, self.states[i] = workload.check(w, ledgers[i], least, self.killed_at)
            self.operations += least
            self.in_flight += done - least
            os.unlink(w.ledger)

    def fsck(self):
        self.volume.umount()
        self.volume.fsck()

    def run(self, rounds):
        self.start()
        for number in range(rounds):
            self.mount()
            self.check()
            if number % 20 == 19:
                self.fsck()
                self.volume.mount()
            self.kill(number)
        self.mount()
        self.check()
        self.fsck()
        if max(self.mounts) > MOUNT_SECONDS:
            raise workload.Mismatch("a mount took %.2f s" % max(self.mounts))

    def close(self):
        self.volume.kill9()
        for w in self.workers:
            w.kill()
        self.volume.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", 200)))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED") or random.randrange(1 << 32)))
    parser.add_argument("--workers", type=int, default=3)
    args = parser.parse_args()
    print("SEED=%d" % args.seed, flush=True)
    with tempfile.TemporaryDirectory(prefix="clawfs-kill9-", dir=os.environ.get("CLAWFS_TEST_DIR")) as tmp:
        rounds = Rounds(args, tmp)
        try:
            rounds.run(args.rounds)
        except Exception:
            print("the daemon said:\n" + rounds.volume.messages()[-6000:], file=sys.stderr)
            raise
        finally:
            rounds.close()
    mounts = sorted(rounds.mounts)
    print("ok: %d rounds, %d acked operations kept, %d in flight kept; mount median %.0f ms, slowest %.0f ms"
          % (args.rounds, rounds.operations, rounds.in_flight, mounts[len(mounts) // 2] * 1000, mounts[-1] * 1000))


if __name__ == "__main__":
    main()
