"""A cluster whose parts live on hosts of their own (hosts.py), with mutual TLS between them (pki.py).

Ports are the default ones: in a namespace nobody else has them.
"""
import json
import os
import shutil
import signal
import time

import cluster as tessera
from cluster import Part, run, wait_until
from hosts import Network, tied_to_us
from pki import CertificateAuthority

REDUNDANCY_SECONDS = 180
REACH_SECONDS = 60
# Exit codes of `tessera`.
UNREACHABLE = 6
DEGRADED = 8


class FaultCluster(tessera.Cluster):
    """mdm, sds1..n, sdc1..m, each on its own host."""

    def __init__(self, servers=3, clients=2, device_flags=None, journal_mib=None, sdc_flags=(), mdm_flags=(),
                 cache_size=None):
        super().__init__(servers=0)
        self.network = None
        self.device_flags = device_flags or {}  # by server number: functions that return --device values
        self.journal_mib = journal_mib
        try:
            self.network = Network(self.folder / "hosts")
            self.authority = CertificateAuthority(self.folder / "pki")
            self.admin_host = self.network.add("admin")
            self.admin_flags = self.authority.issue("admin", "admin")
            self.mdm = self._on_host("mdm", "mdm", lambda host: [
                "--listen", f"{host.address}:8001", "--metrics-listen", f"{host.address}:8002", *mdm_flags])
            self.sds = [self._on_host(f"sds{i + 1}", "sds", self._sds_flags(i + 1)) for i in range(servers)]
            self.sdcs = [self._on_host(f"sdc{i + 1}", "sdc", lambda host, i=i: [
                *self._join(), "--control-listen", f"{host.address}:8003", "--management-listen",
                f"{host.address}:8005", "--metrics-listen", f"{host.address}:8004", "--nbd-listen", "",
                "--resume-dir", self.memory, *sdc_flags, *self._cache(f"sdc{i + 1}", cache_size)])
                for i in range(clients)]
            self.sdc = self.sdcs[0]
        except BaseException:
            self.stop()
            raise

    def _cache(self, name, size):
        return ["--cache-dir", self.folder / f"{name}-cache", "--cache-size", size] if size else []

    def _on_host(self, name, role, flags):
        host = self.network.add(name)
        tls = self.authority.issue(role, name, host.address)

        def arguments():
            named = [] if role == "mdm" else ["--name", name]
            return ["--state-dir", self.folder / name, *named, *tls, *flags(host)]
        part = Part(self, name, f"tessera-{role}", arguments)
        part.host = host
        part.prefix = [*host.prefix(), *tied_to_us([])]
        return part

    def _sds_flags(self, number):
        def flags(host):
            values = self.device_flags.get(number, lambda: [self.default_device(number)])()
            listed = [word for value in values for word in ("--device", value)]
            journal = ["--journal-mib", self.journal_mib] if self.journal_mib else []
            return [*self._join(), "--control-listen", f"{host.address}:9100", "--management-listen",
                    f"{host.address}:9200", "--metrics-listen", f"{host.address}:9400", "--data-listen",
                    f"{host.address}:9700", "--protection-domain", "domain1", *journal, *listed]
        return flags

    def default_device(self, number):
        path = self.folder / f"sds{number}" / "device1"
        path.mkdir(parents=True, exist_ok=True)
        return f"{path},pool=pool1"

    @property
    def parts(self):
        if self.network is None or not hasattr(self, "sdcs"):
            return []
        return [self.mdm, *self.sds, *self.sdcs]

    @property
    def mdm_address(self):
        return f"{self.mdm.host.address}:8001"

    def stop(self):
        for part in reversed(self.parts):
            part.kill(signal.SIGCONT)
            part.kill(signal.SIGKILL)
        if self.network is not None:
            self.network.close()
        shutil.rmtree(self.memory, ignore_errors=True)
        if os.environ.get("TESSERA_KEEP"):
            print(f"kept: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def cli(self, *arguments, timeout=120):
        # Tried again when the MDM can't be reached: it may be on its way back, and connections may take long.
        end = time.monotonic() + REACH_SECONDS
        while True:
            try:
                return run([*self.admin_host.prefix(), tessera.BIN / "tessera", "--endpoint", self.mdm_address,
                            *self.admin_flags, *arguments], timeout=timeout)
            except tessera.CommandFailed as error:
                if error.code != UNREACHABLE or time.monotonic() > end:
                    raise

    def create_volume(self, name, size="1GiB", sdc="sdc1"):  # pylint: disable=arguments-differ
        self.cli("volume", "create", name, "--size", size)
        self.cli("volume", "map", name, "--sdc", sdc)
        return self.uri(name, sdc)

    def uri(self, name, sdc="sdc1"):
        return f"nbd+unix:///{name}?socket={self.folder}/{sdc}/nbd.sock"

    def attached(self, name, sdc="sdc1"):
        mappings = self.cli_json("volume", "show", name).get("mappings", [])
        return any(m["sdc_name"] == sdc and m["attached"] for m in mappings)

    def metric(self, part, name):
        """Sum over all label sets of one metric."""
        page = part.host.fetch(f"http://{part.endpoints()['metrics']}/metrics")
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines()
                   if line.startswith(name) and line[len(name):len(name) + 1] in (" ", "{"))

    def health(self):
        """`tessera status` as a dictionary, whatever its verdict."""
        try:
            return self.cli_json("status")
        except tessera.CommandFailed as error:
            if error.code != DEGRADED:
                raise
            return json.loads(error.output)

    def lacks_replicas(self):
        health = self.health()
        return health["degraded_placement_groups"] + health["unavailable_placement_groups"] > 0

    def wait_redundant(self, timeout=REDUNDANCY_SECONDS):
        """Until every placement group has all its replicas in sync."""
        try:
            wait_until(lambda: not self.lacks_replicas(), "full redundancy", timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.health()}") from error

    def verify(self, name):
        """`tessera volume verify` of a volume at rest: its line of figures."""
        try:
            output = self.cli("volume", "verify", name)
        except tessera.CommandFailed as error:
            if error.code != DEGRADED:
                raise
            output = error.output
        return output.strip().splitlines()[-1]

    def print_logs(self, characters=4000):
        """The ends of all logs, for a run that failed."""
        for part in self.parts:
            text = part.log()[-characters:] if part.process is not None else "never started"
            print(f"--- {part.name}\n{text}", flush=True)

    def part(self, name):
        return next(part for part in self.parts if part.name == name)
