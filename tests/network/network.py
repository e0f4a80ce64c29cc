"""network: hosts on a network of their own, as network namespaces on a bridge, for tests of replication.

    net = Network(3)              # hosts 10.99.0.1 .. 10.99.0.3, unreachable from anywhere else
    net.host[0].command(...)      # a command as it runs there (mounts stay visible: only the network is another one)
    net.host[1].unplug()          # both ways; plug() ends it
    net.host[1].mute(net.host[0]) # packets to that one vanish, those from it arrive; unmute() ends it
    net.host[2].limit("8mbit")    # what it sends and receives; unlimit() ends it
    net.close()

Nothing of it is seen by the rest of the machine, and names carry the process id, so any number of tests run at once.
"""

import ctypes
import os
import select
import socket
import subprocess
import threading

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_made = 0


def ip(*args):
    r = subprocess.run(["ip", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if r.returncode:
        raise RuntimeError("ip %s: %s" % (" ".join(args), r.stdout))


class inside:
    """with inside(host): this thread's new sockets belong to the host's network."""

    def __init__(self, host):
        self.host = host

    @staticmethod
    def _enter(fd):
        if _libc.setns(fd, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    def __enter__(self):
        self.home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        fd = os.open(self.host.netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._enter(fd)
        finally:
            os.close(fd)

    def __exit__(self, *_):
        self._enter(self.home)
        os.close(self.home)


class Host:
    def __init__(self, net, number):
        self.net, self.number = net, number
        self.namespace = "%s-%d" % (net.name, number)
        self.netns = "/run/netns/" + self.namespace
        self.address = "10.99.0.%d" % number
        self.port = "p%d" % number  # the hub's end of its cable
        ip("netns", "add", self.namespace)
        ip("-n", net.hub, "link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        ip("-n", net.hub, "link", "set", self.port, "master", "bridge", "up")
        self.ip("addr", "add", self.address + "/24", "dev", "eth0")
        self.ip("link", "set", "eth0", "up")
        self.ip("link", "set", "lo", "up")

    def ip(self, *args):
        ip("-n", self.namespace, *args)

    def command(self, *args):
        return ["nsenter", "--net=" + self.netns, "--", *map(str, args)]

    def unplug(self):
        ip("-n", self.net.hub, "link", "set", self.port, "down")

    def plug(self):
        ip("-n", self.net.hub, "link", "set", self.port, "up")

    def mute(self, other):
        self.ip("route", "add", "blackhole", other.address + "/32")

    def unmute(self, other):
        self.ip("route", "del", "blackhole", other.address + "/32")

    def limit(self, rate):
        for namespace, device in ((self.namespace, "eth0"), (self.net.hub, self.port)):
            subprocess.run(["tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", "tbf", "rate", rate, "burst", "64k",
                            "latency", "200ms"], check=True)

    def unlimit(self):
        for namespace, device in ((self.namespace, "eth0"), (self.net.hub, self.port)):
            subprocess.run(["tc", "-n", namespace, "qdisc", "del", "dev", device, "root"], check=True)

    def connect(self, address, port, timeout=5):
        """A TCP connection from this host."""
        with inside(self):
            return socket.create_connection((address, port), timeout)

    def close(self):
        subprocess.run(["ip", "netns", "del", self.namespace], stderr=subprocess.DEVNULL)


class Network:
    def __init__(self, n_hosts):
        global _made
        _made += 1
        self.name = "clawfs%d-%d" % (os.getpid(), _made)
        self.hub = self.name + "-hub"
        self.host = []
        ip("netns", "add", self.hub)
        try:
            ip("-n", self.hub, "link", "add", "bridge", "type", "bridge", "forward_delay", "0")
            ip("-n", self.hub, "link", "set", "bridge", "up")
            for i in range(n_hosts):
                self.add()
        except BaseException:
            self.close()
            raise

    def add(self):
        self.host.append(Host(self, len(self.host) + 1))
        return self.host[-1]

    def close(self):
        for h in self.host:
            h.close()
        subprocess.run(["ip", "netns", "del", self.hub], stderr=subprocess.DEVNULL)


class Proxy:
    """A man in the middle: listens on a host and passes bytes on to (address, port), badly when told so.

    cut_after(n): the next connection is cut after n bytes from the server's side, in the middle of whatever that is
    hold(): bytes stop, connections stay (a half-open line); release() lets them go
    cut(): every connection ends now
    """

    def __init__(self, host, port, address, target_port):
        self.host, self.to = host, (address, target_port)
        with inside(host):
            self.listener = socket.create_server((host.address, port))
        self.address = "%s:%d" % (host.address, port)
        self.connections = []
        self.n_connections = 0
        self.flowing = threading.Event()
        self.flowing.set()
        self.limits = []
        self.closing = False
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = self.host.connect(*self.to)
            except OSError:
                client.close()
                continue
            self.n_connections += 1
            limit = self.limits.pop(0) if self.limits else None
            self.connections.append((client, server))
            threading.Thread(target=self._pass, args=(client, server, limit), daemon=True).start()

    def _pass(self, client, server, limit):
        passed = 0
        try:
            while not self.closing:
                ready, _, _ = select.select([client, server], [], [], 0.2)
                self.flowing.wait()
                for s in ready:
                    data = s.recv(65536)
                    if not data:
                        return
                    if s is server:
                        if limit is not None and passed + len(data) >= limit:
                            client.sendall(data[:limit - passed])
                            return
                        passed += len(data)
                    (client if s is server else server).sendall(data)
        except (OSError, ValueError):
            pass
        finally:
            client.close()
            server.close()

    def cut_after(self, *n):
        self.limits += n

    def hold(self):
        self.flowing.clear()

    def release(self):
        self.flowing.set()

    def cut(self):
        for pair in self.connections:
            for s in pair:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self.connections = []

    def close(self):
        self.closing = True
        self.release()
        self.listener.close()
        self.cut()
