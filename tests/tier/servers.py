"""servers: real S3 servers for tests, started and ended by the test that needs them; everything is below one temporary directory.

    with RadosGW() as s:                 # Ceph: one monitor, one osd in memory, one gateway; about 2 seconds
        s.endpoint, s.access_key, s.secret_key, s.client, s.credentials
        s.client.make_bucket("cold")
    with RadosGW(tls=True) as s:         # also https: s.https, s.ca
    with Swift(page=100) as s:           # OpenStack Swift with its S3 face; 100 keys on a page of a listing

s.pause() stops what stores the objects, with connections staying open: a server that hangs; s.resume() ends that.
Ports are free ones on loopback.  When the test dies, even by kill -9, a watchdog ends its servers; nothing is found by name.
`available(RadosGW)` says whether the packages are installed.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile

import fake_s3
import sigv4

HERE = os.path.dirname(os.path.abspath(__file__))


def free_ports(n):
    """The first of `n` free ports in a row, below those the kernel gives out by itself."""
    for _ in range(200):
        first = random.randrange(15000, 32000 - n)
        sockets = []
        try:
            for i in range(n):
                s = socket.socket()
                sockets.append(s)
                s.bind(("127.0.0.1", first + i))
            return first
        except OSError:
            continue
        finally:
            for s in sockets:
                s.close()
    raise RuntimeError("no %d free ports in a row" % n)


def make_certificates(directory):
    """A CA and a certificate of 127.0.0.1 signed by it: (ca, certificate, key) as files."""
    def openssl(*args):
        subprocess.run(["openssl", *args], check=True, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj",
            "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=127.0.0.1", "-keyout",
            "server.key", "-out", "server.csr")
    with open(os.path.join(directory, "san"), "w") as f:
        f.write("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
            "-extfile", "san", "-out", "server.pem")
    return tuple(os.path.join(directory, name) for name in ("ca.pem", "server.pem", "server.key"))


class _Server:
    script, programs, n_ports = None, (), 0

    def __init__(self, **options):
        base = os.environ.get("CLAWFS_TEST_DIR") or os.environ.get("TMPDIR") or "/var/tmp"
        self.dir = tempfile.mkdtemp(prefix="clawfs-s3-", dir=base)
        self.script = os.path.join(HERE, self.script)
        # Whoever holds the other end of its standard input is alive.
        self.watchdog = subprocess.Popen(["sh", "-c", 'cat >/dev/null; "$0" stop "$1/state" >/dev/null 2>&1; rm -rf "$1"',
                                          self.script, self.dir], stdin=subprocess.PIPE, start_new_session=True)
        try:
            self._start_somewhere(**options)
            self.client = sigv4.Client(self.endpoint, self.access_key, self.secret_key)
            self.credentials = os.path.join(self.dir, "credentials")
            fake_s3.write_credentials(self.credentials, self.access_key, self.secret_key)
        except BaseException:
            self.close()
            raise

    def _start_somewhere(self, **options):
        # Somebody else may take a port between our looking and the server's using it.
        for left in (2, 1, 0):
            try:
                return self._start(free_ports(self.n_ports), **options)
            except RuntimeError:
                self._run("stop")
                shutil.rmtree(os.path.join(self.dir, "state"), ignore_errors=True)
                if not left:
                    raise

    def _run(self, verb, *args, **variables):
        r = subprocess.run([self.script, verb, os.path.join(self.dir, "state"), *map(str, args)], timeout=120, text=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           env=dict(os.environ, **variables))
        if r.returncode:
            raise RuntimeError("%s %s: %s" % (self.script, verb, r.stdout[-2000:]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.watchdog.stdin.close()
        self.watchdog.wait()

    def _signal(self, number):
        for pid in self._pids():
            os.kill(pid, number)

    def pause(self):
        self._signal(signal.SIGSTOP)

    def resume(self):
        self._signal(signal.SIGCONT)


class RadosGW(_Server):
    script, programs, n_ports = "radosgw.sh", ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin"), 23
    access_key, secret_key = "testkey", "testsecret"

    def _start(self, port, tls=False):
        self.endpoint = "http://127.0.0.1:%d" % port
        variables = {"S3_ACCESS_KEY": self.access_key, "S3_SECRET_KEY": self.secret_key}
        if tls:
            self.ca, certificate, key = make_certificates(self.dir)
            self.https = "https://127.0.0.1:%d" % (port + 1)
            variables.update(S3_TLS_PORT=str(port + 1), S3_TLS_CERT=certificate, S3_TLS_KEY=key)
        self._run("start", port, port + 2, **variables)

    def pids(self):
        """Of all its daemons."""
        run = os.path.join(self.dir, "state", "run")
        return [self._pid(name) for name in sorted(os.listdir(run)) if name.endswith(".pid")]

    def _pid(self, name):
        with open(os.path.join(self.dir, "state", "run", name)) as f:
            return int(f.read())

    def _pids(self):
        return [self._pid("osd.0.pid")]


class Swift(_Server):
    script, programs, n_ports = "swift-s3.sh", ("swift-proxy-server", "swift-object-server", "memcached"), 5
    access_key, secret_key = "test:tester", "testing"

    def _start(self, port, page=1000):
        self.endpoint = "http://127.0.0.1:%d" % port
        self._run("start", port, port + 1, S3_SECRET_KEY=self.secret_key, S3_PAGE=str(page))

    def _pids(self):
        with open(os.path.join(self.dir, "state", "pid")) as f:
            launcher = int(f.read())
        with open("/proc/%d/task/%d/children" % (launcher, launcher)) as f:
            return [int(p) for p in f.read().split()]


def available(kind):
    return all(shutil.which(p) for p in kind.programs)
