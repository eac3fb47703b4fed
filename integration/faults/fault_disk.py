"""tessera-fault-disk (disk/fault_disk.cc) mounted on a host as a device of its server."""
import errno
import shutil
import socket
import subprocess
import unittest

import cluster as tessera
from cluster import wait_until
from hosts import tied_to_us


def need_fuse():
    if not shutil.os.path.exists("/dev/fuse"):
        raise unittest.SkipTest("/dev/fuse is missing")
    if shutil.which("fusermount3") is None:
        raise unittest.SkipTest("fuse3 is not installed")


class FaultDisk:
    """Mounted in the host's mount namespace; gone with it."""

    def __init__(self, host, folder):
        folder.mkdir(parents=True)
        self.host = host
        self.backing, self.aside, self.mount = (folder / name for name in ("backing", "aside", "disk"))
        for path in (self.backing, self.aside, self.mount):
            path.mkdir()
        self.control = folder / "control.sock"
        self.process = subprocess.Popen(
            [*host.prefix(), *tied_to_us([]), tessera.BIN / "tessera-fault-disk", "--backing", self.backing, "--aside",
             self.aside, "--mount", self.mount, "--control", self.control], stdin=subprocess.DEVNULL)
        wait_until(self.control.exists, "the disk to be mounted", 30)

    def tell(self, line):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.control))
            connection.sendall(line.encode() + b"\n")
            answer = connection.makefile().readline().strip()
        if not answer.startswith("ok"):
            raise RuntimeError(f"'{line}' was answered '{answer}'")
        return answer[3:]

    def fail(self, what, number=errno.EIO):
        self.tell(f"fail {what} {number}")

    def heal(self):
        self.tell("heal")

    def power_cut(self, seed):
        """What was not fsynced is lost or torn. Its server must be dead."""
        return int(self.tell(f"powercut {seed}"))
