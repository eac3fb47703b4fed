"""Hosts and cables on one machine: a host is a network namespace with a mount namespace, an address on a common
bridge, and a machine id and boot id of its own. Cables are cut by nftables rules in the host's namespace.

Namespaces live as long as their holder process, which the kernel ends with the test: nothing stays behind.
Needs root.
"""
import ctypes
import os
import pathlib
import shutil
import subprocess
import threading
import unittest
import urllib.request
import uuid

from cluster import run, wait_until

SUBNET = "10.77.0"
CLONE_NEWNET = 0x40000000


def need_root_and_tools():
    """Skips where namespaces and drop rules can't be made, and says why."""
    if os.geteuid() != 0:
        raise unittest.SkipTest("namespaces need root")
    for tool in ("ip", "nft", "nsenter", "unshare", "setpriv", "openssl"):
        if shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
            raise unittest.SkipTest(f"{tool} is not installed")


def tied_to_us(arguments):
    """The command, ended by the kernel when the thread that starts it ends. Start such from the main thread."""
    return ["setpriv", "--pdeathsig", "KILL", "--", *map(str, arguments)]


class Namespace:
    """A holder process with a network and a mount namespace."""

    def __init__(self):
        self.process = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", *tied_to_us(["sleep", "infinity"])],
            stdin=subprocess.DEVNULL)
        ours = os.readlink("/proc/self/ns/net")
        # Root's own command line, too, must have been replaced: the mounts are private by then.
        wait_until(lambda: os.readlink(f"/proc/{self.pid}/ns/net") != ours and
                   pathlib.Path(f"/proc/{self.pid}/comm").read_text() == "sleep\n", "a namespace", 30)

    @property
    def pid(self):
        return self.process.pid

    def prefix(self):
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", f"--mount=/proc/{self.pid}/ns/mnt", "--"]

    def run(self, *arguments, **options):
        return run([*self.prefix(), *arguments], **options)

    def path(self, path):
        """A file of the namespace's mounts as we reach it."""
        return pathlib.Path(f"/proc/{self.pid}/root{path}")

    def inside(self, function):
        """function() in a thread that is in the network namespace; its result."""
        outcome = {}

        def body():
            try:
                descriptor = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
                try:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(descriptor, CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                finally:
                    os.close(descriptor)
                outcome["value"] = function()
            except BaseException as error:  # pylint: disable=broad-except
                outcome["error"] = error
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if "error" in outcome:
            raise outcome["error"]
        return outcome["value"]

    def close(self):
        self.process.kill()
        self.process.wait(30)


class Host(Namespace):
    """A host of a Network."""

    def __init__(self, network, number, name):
        super().__init__()
        self.network = network
        self.name = name
        self.address = f"{SUBNET}.{number}"
        self._blocked = set()
        self._unplugged = False
        self._loss_percent = 0
        port = f"port{number}"
        run(["ip", "link", "add", "eth0", "netns", self.pid, "type", "veth", "peer", "name", port,
             "netns", network.switch.pid])
        network.switch.run("ip", "link", "set", port, "master", "bridge0", "up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self._files = network.folder / name
        self._files.mkdir()
        (self._files / "machine-id").write_text(uuid.uuid4().hex + "\n")
        self.run("mount", "--bind", self._files / "machine-id", "/etc/machine-id")
        self.boot()

    def boot(self):
        """A new boot id: processes that start from now on think that the host was booted."""
        boot_id = self._files / f"boot-{uuid.uuid4()}"
        boot_id.write_text(boot_id.name[len("boot-"):] + "\n")
        self.run("mount", "--bind", boot_id, "/proc/sys/kernel/random/boot_id")

    def fetch(self, url):
        def get():
            with urllib.request.urlopen(url, timeout=30) as answer:
                return answer.read().decode()
        return self.inside(get)

    # Cables.

    def deafen(self, other):
        """Nothing from `other` arrives here; the other direction is as it was."""
        self._blocked.add(other.address)
        self._apply()

    def unplug(self):
        self._unplugged = True
        self._apply()

    def lose(self, percent):
        """Loses that share of what arrives."""
        self._loss_percent = percent
        self._apply()

    def heal(self):
        self._blocked.clear()
        self._unplugged = False
        self._loss_percent = 0
        self._apply()

    def _apply(self):
        rules = ["table inet faults {}", "flush table inet faults", "table inet faults {",
                 "  chain arrive { type filter hook input priority 0; policy accept;"]
        if self._unplugged:
            rules.append('    iifname "eth0" drop')
        if self._blocked:
            rules.append(f"    ip saddr {{ {', '.join(sorted(self._blocked))} }} drop")
        if self._loss_percent:
            rules.append(f'    iifname "eth0" numgen random mod 100 < {self._loss_percent} drop')
        rules.append("  }")
        rules.append("  chain leave { type filter hook output priority 0; policy accept;")
        if self._unplugged:
            rules.append('    oifname "eth0" drop')
        rules += ["  }", "}"]
        self.run("nft", "-f", "-", input="\n".join(rules) + "\n")


class Network:
    """A bridge and the hosts at it."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(exist_ok=True)
        self.hosts = []
        self.switch = Namespace()
        self.switch.run("ip", "link", "add", "bridge0", "type", "bridge")
        self.switch.run("ip", "link", "set", "bridge0", "up")

    def add(self, name):
        host = Host(self, len(self.hosts) + 1, name)
        self.hosts.append(host)
        return host

    def heal(self):
        for host in self.hosts:
            host.heal()

    def close(self):
        for host in [*self.hosts, self.switch]:
            host.close()


def partition(one, other):
    """Neither hears the other."""
    one.deafen(other)
    other.deafen(one)
