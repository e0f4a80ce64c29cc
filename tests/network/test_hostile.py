"""Strangers and liars: garbage on the port, other volumes, bad certificates, wrong clocks."""

import os
import random
import shutil
import socket
import ssl
import struct
import subprocess
import time

import cluster
from cluster import PORT, Failed, Node, wait_for


class Hostile(cluster.ClusterTest):
    def alive(self, c):
        c.leader.write("alive", os.urandom(1000), sync=True)
        c.settle(20)
        c.same()

    def test_garbage_on_the_port(self):
        c = self.cluster(2)
        stranger = c.net.add()
        rng = random.Random(cluster.clawfs_env.seed())
        before = c.leader.status()["memory"]["resident_bytes"]
        held = []
        for i in range(150):
            try:
                s = stranger.connect(c.leader.host.address, PORT)
            except OSError:
                continue
            kind = i % 5
            try:
                if kind == 0:
                    s.sendall(rng.randbytes(rng.randrange(1, 100000)))
                elif kind == 1:  # the header of a TLS record of the largest size, and silence
                    s.sendall(b"\x16\x03\x01\xff\xff" + rng.randbytes(100))
                elif kind == 2:
                    s.sendall(b"GET / HTTP/1.1\r\n\r\n")
                elif kind == 3:  # our own frame in plain text, of four gigabytes
                    s.sendall(struct.pack("<IB3xQII", 0x46574c43, 1, 0, 0xffffffff, 0) + b"\0" * 5000)
                else:
                    held.append(s)
                    continue
            except OSError:
                pass
            s.close()
        self.alive(c)
        self.assertLess(c.leader.status()["memory"]["resident_bytes"] - before, 64 << 20)
        for s in held:
            s.close()

    def test_nobody_without_a_certificate_learns_anything(self):
        c = self.cluster(2)
        stranger = c.net.add()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with stranger.connect(c.leader.host.address, PORT) as raw:
            with self.assertRaises((ssl.SSLError, OSError, EOFError)):
                with context.wrap_socket(raw) as s:
                    s.settimeout(8)
                    got = s.recv(1000)  # a TLS 1.3 client learns here that it was refused
                    if got == b"":
                        raise EOFError
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname = False
        old.verify_mode = ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with stranger.connect(c.leader.host.address, PORT) as raw:
            with self.assertRaises((ssl.SSLError, OSError)):
                old.wrap_socket(raw)
        self.alive(c)

    def test_keys_are_secret(self):
        c = self.cluster(2)
        for n in c.node:
            top = os.path.join(n.store, "peers")
            self.assertEqual(os.stat(top).st_mode & 0o777, 0o700)
            for name in os.listdir(top):
                self.assertEqual(os.stat(os.path.join(top, name)).st_mode & 0o777, 0o600, name)
            self.assertNotIn("PRIVATE", n.messages())

    def test_a_peer_of_another_volume_is_refused(self):
        c = self.cluster(2)
        other = cluster.Cluster(self.sub(), 1)
        # It dials our leader: its own list of peers is made to say that our leader is one of its.
        token = c.leader.invite("n9")
        node = Node(self.tmp + "/sub", c.net.add(), "stolen")
        self.addCleanup(node.close)
        node.join(token)
        # The certificate of our volume in front of another volume's data.
        other.node[0].umount()
        shutil.rmtree(os.path.join(other.node[0].store, "peers"))
        shutil.copytree(os.path.join(node.store, "peers"), os.path.join(other.node[0].store, "peers"))
        other.node[0].host = node.host
        other.node[0].address = node.address
        try:
            other.node[0].start()
        except Failed:
            pass  # it may see by itself that these are not its peers
        time.sleep(3)
        self.alive(c)

    def sub(self):
        """A test like this one with a directory of its own."""
        os.makedirs(self.tmp + "/sub", exist_ok=True)
        outer = self

        class Sub:
            tmp = outer.tmp + "/sub"
            addCleanup = staticmethod(outer.addCleanup)
        return Sub()

    def test_an_expired_certificate_is_refused_and_says_so(self):
        c = self.cluster(2)
        a, b = c.node
        b.umount()
        top = os.path.join(b.store, "peers")
        with open(top + "/node.pem", "rb") as f:
            keep = f.read()
        subject = subprocess.run(["openssl", "x509", "-in", top + "/node.pem", "-noout", "-subject", "-nameopt", "multiline"],
                                 stdout=subprocess.PIPE, text=True, check=True).stdout
        name = [line.split("=")[1].strip() for line in subject.splitlines() if "commonName" in line][0]
        request = os.path.join(self.tmp, "request.pem")
        subprocess.run(["openssl", "req", "-new", "-key", top + "/node.key", "-subj", "/CN=" + name, "-out", request], check=True)
        subprocess.run(["faketime", "2020-01-01 00:00:00", "openssl", "x509", "-req", "-in", request, "-CA", top + "/ca.pem", "-CAkey",
                        top + "/ca.key", "-set_serial", "77", "-days", "1", "-out", top + "/node.pem"], check=True,
                       stderr=subprocess.DEVNULL)
        a.write("f", b"not for you", sync=True)
        try:
            b.start()
            time.sleep(4)
            self.assertFalse(os.path.exists(b.path("f")))
            self.assertIn("expired", (b.messages() + json_text(a) + json_text(b)).lower())
            b.umount()
        except Failed as e:
            self.assertIn("expired", str(e).lower())
        with open(top + "/node.pem", "wb") as f:
            f.write(keep)
        b.start()
        self.alive(c)

    def test_clocks_hours_apart_change_nothing(self):
        c = self.cluster(1)
        for shift in ("+7h", "-9h"):
            n = c.add()
            n.wrapper = ("env", "FAKETIME_DONT_FAKE_MONOTONIC=1", "faketime", "-f", shift)
            n.join(c.leader.invite(n.name)).start()
        self.alive(c)
        ahead = c.node[1]
        c.leader.cli("handover", ahead.name, c.leader.mnt)
        c.leader = ahead
        self.alive(c)
        c.node[0].remount()
        self.alive(c)

    def test_a_token_is_good_once_and_for_a_while(self):
        c = self.cluster(1)
        token = c.leader.invite("n2")
        n = c.add()
        n.join(token)
        again = c.add()
        with self.assertRaises(Failed):
            again.join(token)
        short = c.leader.cli("peer", "invite", "--name", "late", "--address", c.leader.address, "--ttl", "1s", c.leader.mnt).stdout.strip()
        time.sleep(2.2)
        with self.assertRaises(Failed):
            again.join(short)
        forged = token[:-5] + ("A" if token[-5] != "A" else "B") + token[-4:]
        with self.assertRaises(Failed):
            again.join(forged)
        again.join(c.leader.invite(again.name))
        for node in (n, again):
            node.start()
        self.alive(c)


def json_text(node):
    return str(node.status())


if __name__ == "__main__":
    cluster.main()
