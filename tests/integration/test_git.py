"""git: a repository of 10,000 commits made by fast-import, cloned into the mount, checked, checked out, repacked."""

import os
import random
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clawfs_env  # noqa: E402
from programs import ProgramTest, main, run, tree_digest  # noqa: E402

COMMITS = int(os.environ.get("COMMITS", 10000))
ENV = {**os.environ, "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
       "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


def git(*args, **kwargs):
    return run("git", "-c", "safe.directory=*", "-c", "gc.auto=0", *args, env=ENV, **kwargs)


def history(path, commits, seed):
    """A fast-import stream: each commit changes a file or two of some 800."""
    rng = random.Random(seed)
    with open(path, "wb") as f:
        for i in range(commits):
            message = b"change %d" % i
            f.write(b"commit refs/heads/main\ncommitter a <a@b> %d +0000\ndata %d\n%s\n" % (1500000000 + i * 60, len(message), message))
            for _ in range(rng.choice((1, 1, 2))):
                text = b"\n".join(b"line %d of %d" % (n, rng.randrange(1000)) for n in range(rng.randrange(1, 40)))
                f.write(b"M 644 inline dir%d/sub%d/file%d.c\ndata %d\n%s\n" % (rng.randrange(10), rng.randrange(4), rng.randrange(20),
                                                                               len(text), text))
        f.write(b"done\n")


class Git(ProgramTest):
    def test_a_long_history_is_cloned_checked_and_repacked(self):
        seed = clawfs_env.seed()
        origin, stream = self.tmp + "/origin.git", self.tmp + "/stream"
        git("init", "-q", "--bare", "-b", "main", origin)
        history(stream, COMMITS, seed)
        with open(stream, "rb") as f:
            subprocess.run(["git", "-C", origin, "fast-import", "--quiet", "--done"], stdin=f, check=True, env=ENV)
        place = self.place()
        work = place + "/work"
        git("clone", "-q", "--no-local", origin, work)
        self.assertEqual(int(git("-C", work, "rev-list", "--count", "HEAD").stdout), COMMITS)
        self.remount()
        git("-C", work, "fsck", "--full", "--strict")
        self.assertEqual(git("-C", work, "status", "--porcelain").stdout, "")

        # Loose objects, one file each: unpack the pack of a shallower clone.
        loose = place + "/loose.git"
        git("init", "-q", "--bare", "-b", "main", loose)
        git("-C", self.tmp, "clone", "-q", "--bare", "--depth", "300", "file://" + origin, "shallow.git")
        for name in os.listdir(self.tmp + "/shallow.git/objects/pack"):
            if name.endswith(".pack"):
                with open(self.tmp + "/shallow.git/objects/pack/" + name, "rb") as f:
                    subprocess.run(["git", "-C", loose, "unpack-objects", "-q"], stdin=f, check=True, env=ENV)
        self.crash()
        git("-C", loose, "fsck", "--full")
        for back in ("main~%d" % (COMMITS // 2), "main~%d" % (COMMITS - 1), "main"):
            git("-C", work, "checkout", "-q", back)
            self.assertEqual(git("-C", work, "status", "--porcelain").stdout, "")
        before = tree_digest(work + "/dir1")
        git("-C", work, "gc", "-q", "--prune=now", "--aggressive" if COMMITS < 2000 else "--quiet")
        git("-C", work, "switch", "-q", "-c", "topic")
        with open(work + "/dir1/new.c", "w", encoding="ascii") as f:
            f.write("int x;\n")
        git("-C", work, "add", "-A")
        git("-C", work, "commit", "-q", "-m", "new")
        git("-C", work, "rebase", "-q", "main")
        os.unlink(work + "/dir1/new.c")
        self.assertEqual(tree_digest(work + "/dir1"), before)
        git("-C", work, "reset", "-q", "--hard")
        git("-C", work, "fsck", "--full")
        self.finish()


if __name__ == "__main__":
    main()
