"""faultfs: a directory whose unflushed writes can be lost, for tests in Python.  What it can do stands in faultfs.c.

The binary is $FAULTFS, or build/tests/lib/faultfs/faultfs of this tree.

    f = FaultFs(tmpdir)          # mounted at f.mnt
    f.powercut("torn", seed=7)   # from now on everything is EIO
    f.restore()
    f.rule("fsync", "EIO", "arena*", skip=3, count=1)
    f.close()
"""

import os
import shutil
import socket
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
FAULTFS = os.environ.get("FAULTFS") or os.path.join(ROOT, "build", "tests", "lib", "faultfs", "faultfs")


class FaultFsError(Exception):
    pass


class FaultFs:
    def __init__(self, tmpdir, name="faultfs"):
        self.dir = os.path.join(os.path.realpath(tmpdir), name)
        self.mnt = os.path.join(self.dir, "mnt")
        objects = os.path.join(self.dir, "objects")
        os.makedirs(self.mnt)
        os.makedirs(objects)
        self.socket = os.path.join(self.dir, "control")
        self.process = subprocess.Popen([FAULTFS, objects, self.socket, self.mnt], stdin=subprocess.DEVNULL)
        before = os.stat(self.dir).st_dev
        for _ in range(1000):
            if os.stat(self.mnt).st_dev != before and self._answers():
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        self.close()
        raise FaultFsError("faultfs did not mount at " + self.mnt)

    def _answers(self):
        try:
            return self.command("ping") == "ok"
        except OSError:
            return False

    def command(self, line):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.settimeout(120)
            s.connect(self.socket)
            s.send(line.encode())
            answer = s.recv(4096).decode().strip()
        if not answer.startswith("ok"):
            raise FaultFsError("%s: %s" % (line, answer or "no answer"))
        return answer

    def powercut(self, mode, seed):
        self.command("powercut %s %d" % (mode, seed))

    def restore(self):
        self.command("restore")

    def rule(self, op, action, glob, skip=0, count=-1):
        self.command("rule %s %s %s %d %d" % (op, action, glob, skip, count))

    def clear(self):
        self.command("clear")

    def seed(self, seed):
        self.command("seed %d" % seed)

    def corrupt(self, path, offset, mask=1):
        self.command("corrupt %s %d %d" % (path, offset, mask))

    def stats(self):
        return {k: int(v) for k, v in (word.split("=") for word in self.command("stats").split()[1:])}

    def close(self):
        if self.process and self.process.poll() is None:
            if subprocess.run(["umount", self.mnt], stderr=subprocess.DEVNULL).returncode:
                subprocess.run(["umount", "-l", self.mnt], stderr=subprocess.DEVNULL)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        subprocess.run(["umount", "-l", self.mnt], stderr=subprocess.DEVNULL)
        self.process = None
        shutil.rmtree(self.dir, ignore_errors=True)
