"""What the management service costs with 100 parts: its memory, and its CPU time a poll.

The parts are simulated, in one process; the service is the real one. It polls often here, and the CPU time of a poll
is taken for that of one every 10 s, as usual. CPU time, not time: a busy machine makes little difference.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
from cluster import BIN, wait_until  # noqa: E402  pylint: disable=wrong-import-position

SERVERS, CLIENTS, VOLUMES = 90, 9, 1000  # and the MDM: 100 parts
POLL_MS = 1200
WARM_UP, ROUNDS = 5, 25
USUAL_SECONDS = 10
CORE_PERCENT_MAX = 5
MEMORY_MAX = 100 << 20


class ConsoleLoadTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera-load-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        (self.folder / "log").mkdir()
        self.processes = []
        self.addCleanup(self.end_all)

    def end_all(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
                process.wait(60 * tessera.TIMEOUT_FACTOR)

    def start(self, name, *arguments, **options):
        with open(self.folder / "log" / name, "ab") as log:
            process = subprocess.Popen([str(BIN / name), *map(str, arguments)], stdin=subprocess.DEVNULL,
                                       stderr=log, text=True, start_new_session=True, **options)
        self.processes.append(process)
        return process

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=60) as answer:
            return answer.read().decode()

    def metric(self, name):
        """Sum over all labels."""
        values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self.metrics(), re.MULTILINE)
        return sum(map(float, values))

    def rounds(self):
        return self.metric("tessera_mgmt_poll_round_duration_seconds_count")

    def test_a_hundred_parts_cost_little(self):
        fake = self.start("console_load_cluster", "--servers", SERVERS, "--clients", CLIENTS, "--volumes", VOLUMES,
                          stdout=subprocess.PIPE)
        self.addCleanup(fake.stdout.close)
        mdm = fake.stdout.readline().strip().removeprefix("mdm=")
        state = self.folder / "mgmt"
        mgmt = self.start("tessera-mgmt", "--state-dir", state, "--insecure", "--mdm", mdm, "--listen", "127.0.0.1:0",
                          "--grpc-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--poll-interval", POLL_MS,
                          stdout=subprocess.DEVNULL)

        def listens():
            self.assertIsNone(mgmt.poll(), (self.folder / "log" / "tessera-mgmt").read_text())
            return (state / "endpoints").exists()
        wait_until(listens, "tessera-mgmt to listen", 120)
        endpoints = dict(line.split("=", 1) for line in (state / "endpoints").read_text().splitlines())
        self.metrics_address = endpoints["metrics"]

        wait_until(lambda: self.rounds() >= WARM_UP, "the first polls", 300)
        rounds, cpu, answered = self.rounds(), cpu_seconds(mgmt.pid), self.answered()
        wait_until(lambda: self.rounds() >= rounds + ROUNDS, f"{ROUNDS} polls", 600)
        cpu_of_rounds = cpu_seconds(mgmt.pid) - cpu
        rounds = self.rounds() - rounds
        percent = 100 * cpu_of_rounds / rounds / USUAL_SECONDS
        memory = resident_bytes(mgmt.pid)
        print(f"tessera-mgmt with {SERVERS + CLIENTS + 1} parts and {VOLUMES} volumes: "
              f"{1000 * cpu_of_rounds / rounds:.0f} ms CPU a poll, {percent:.2f} % of a core at one in "
              f"{USUAL_SECONDS} s; {memory / (1 << 20):.0f} MiB resident; "
              f"{self.metric('tessera_mgmt_history_series'):.0f} series", flush=True)
        # The figures are of real polls: nearly all parts answered each time, and have their series.
        self.assertGreater(self.answered() - answered, 0.8 * rounds * (SERVERS + CLIENTS))
        self.assertGreater(self.metric("tessera_mgmt_history_series"), 4 * VOLUMES)
        self.assertLess(percent, CORE_PERCENT_MAX)
        self.assertLess(memory, MEMORY_MAX)

    def answered(self):
        found = re.findall(r'^tessera_mgmt_polls_total{[^}]*result="answered"[^}]*} (\S+)$', self.metrics(),
                           re.MULTILINE)
        return sum(map(float, found))


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE).group(1)) << 10


if __name__ == "__main__":
    unittest.main()
