"""arena: the blocks of a volume on the host's disk, looked at and damaged past the daemon that has it mounted."""

import mmap
import os

BLOCK = 4096


class Arena:
    """The chunks of a volume, looked at past the daemon."""

    def __init__(self, store):
        self.dir = os.path.join(store, "arena.1")

    def find(self, block):
        """(path, offset) of the one block of the arena with this content."""
        found = []
        for name in sorted(os.listdir(self.dir)):
            path = os.path.join(self.dir, name)
            with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
                at = m.find(block)
                while at >= 0:
                    if at % BLOCK == 0:
                        found.append((path, at))
                    at = m.find(block, at + 1)
        if len(found) != 1:
            raise AssertionError("the block is there %d times" % len(found))
        return found[0]

    @staticmethod
    def read(place):
        with open(place[0], "rb") as f:
            f.seek(place[1])
            return f.read(BLOCK)

    @staticmethod
    def write(place, data):
        fd = os.open(place[0], os.O_WRONLY)
        os.pwrite(fd, data, place[1])
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


DAMAGES = ("flip", "zeroed", "torn", "misdirected")


def damaged(how, block, other):
    """What a disk can make of `block`; `other` is one that was meant for another place."""
    return {"flip": bytes([block[0] ^ 1]) + block[1:], "zeroed": bytes(BLOCK), "torn": block[:512] + bytes(BLOCK - 512),
            "misdirected": other}[how]
