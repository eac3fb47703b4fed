#!/usr/bin/env python3
"""Measures the longest pause that a client sees for each kind of fault, and writes docs/FAULTS.md.

    integration/faults/pause_table.py [--tries 20] [--kinds kill-sds,stop-sds,..] [--seed N] [--output FILE]

A try: a verifying load runs at full redundancy; the fault happens; the load goes on until replicas are out and
operations come back steadily; the longest gap without a completed operation, of the worst of the connections, is the
pause. Then the fault is cleared and redundancy returns. The history of the whole run is judged at the end.
"""
import argparse
import datetime
import json
import os
import pathlib
import random
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
from cluster import wait_until  # noqa: E402  pylint: disable=wrong-import-position
from fault_cluster import FaultCluster  # noqa: E402  pylint: disable=wrong-import-position
from fault_disk import FaultDisk  # noqa: E402  pylint: disable=wrong-import-position
from load import VerifyingLoad  # noqa: E402  pylint: disable=wrong-import-position
import steps  # noqa: E402  pylint: disable=wrong-import-position

RATE = 400          # operations a second and connection
CONNECTIONS = 4
STEADY = 2000       # operations that have to come back after a fault before a try ends
GOALS_MS = {"kill-sds": 1000, "stop-sds": 4000, "unplug-sds": 4000, "device-fsync": 1000, "device-write": 1000,
            "kill-mdm": 500, "mdm-away": 500, "takeover": 5000}
LONG = {"mdm-away"}  # kinds that take minutes: --away-tries
TITLES = {"kill-sds": "kill -9 of an SDS", "stop-sds": "SIGSTOP of an SDS", "unplug-sds": "cable of an SDS pulled",
          "device-fsync": "a device fails an fsync", "device-write": "a device fails a write",
          "kill-mdm": "kill -9 of the MDM", "mdm-away": "MDM dead for minutes", "takeover": "SDC killed, taken over by another, from the request"}


class Bench:
    """One cluster with disks that can fail, one volume, one load, and the tries on them."""

    def __init__(self, seed, away_seconds=5):
        self.away_seconds = away_seconds
        self.random = random.Random(seed)
        self.disks = {}
        self.cluster = FaultCluster(device_flags={n: self._device(n) for n in (1, 2, 3)}, journal_mib=64)
        self.load = None
        self.owner = "sdc1"
        self.seed = seed

    def _device(self, number):
        def flags():
            if number not in self.disks:
                host = self.cluster.part(f"sds{number}").host
                self.disks[number] = FaultDisk(host, self.cluster.folder / f"disk{number}")
            # Beside it a plain device: one bad disk is not a dead server.
            return [f"{self.disks[number].mount},pool=pool1", self.cluster.default_device(number)]
        return flags

    def start(self):
        self.cluster.start()
        self.cluster.create_pool()
        uri = self.cluster.create_volume("volume", "256MiB")
        self.load = VerifyingLoad(uri, self.seed, connections=CONNECTIONS, rate=RATE)
        self.load.wait_for_progress(STEADY)

    def stop(self):
        if self.load is not None:
            self.load.kill()
        self.cluster.stop()

    def fault(self, kind):
        sds = self.random.choice(self.cluster.sds)
        number = int(sds.name[len("sds"):])
        return {"kill-sds": lambda: steps.Kill(sds), "stop-sds": lambda: steps.Stop(sds),
                "unplug-sds": lambda: steps.Unplug(sds), "kill-mdm": lambda: steps.Kill(self.cluster.mdm),
                "mdm-away": lambda: steps.Kill(self.cluster.mdm),
                "device-fsync": lambda: steps.FailDevice(sds, self.disks[number], "fsync"),
                "device-write": lambda: steps.FailDevice(sds, self.disks[number], "write")}[kind]()

    def gather(self, worst, done=lambda: True, seconds=0):
        """Windows of the load until `done`, that many seconds, and STEADY operations: the worst of each figure."""
        completed = 0
        end = time.monotonic() + seconds

        def enough():
            nonlocal completed
            window = self.load.window()
            completed += window["completed"]
            for name in ("longest_pause_ms", "longest_operation_ms"):
                worst[name] = max(worst[name], window[name])
            return completed >= STEADY and time.monotonic() >= end
        wait_until(done, "the fault to be noticed", 60)
        wait_until(enough, "the load to go on", seconds + 60)

    def attempt(self, kind):
        if kind == "takeover":
            return self.take_over()
        fault = self.fault(kind)
        seconds = self.away_seconds if kind == "mdm-away" else 0
        # Never more than the redundancy allows: a busy machine may have cost a replica meanwhile.
        self.cluster.wait_redundant()
        self.load.window()
        worst = {"longest_pause_ms": 0, "longest_operation_ms": 0}
        fault.inject()
        try:
            self.gather(worst, lambda: fault.noticed(self.cluster), seconds)
        finally:
            fault.clear()
        # The way back belongs to it: a learner that joins must not stop anybody either. Clients renew their grants within 5 s
        # of the MDM's return, servers go by the outage time for 15 s; then they must not need it any more.
        self.cluster.wait_redundant()
        self.gather(worst, seconds=30 if kind == "mdm-away" else 0)
        return worst

    def take_over(self):
        """The SDC of the volume is killed; from the request to map it elsewhere until IO goes on there."""
        others = [part for part in self.cluster.sdcs if part.name != self.owner]
        new, old = others[0], self.cluster.part(self.owner)
        old.kill()
        wait_until(lambda: self.load.window()["connected"] == 0, "the load to notice", 30)
        began = time.monotonic()
        self.load.ask(f"uris {self.cluster.uri('volume', new.name)}")
        self.cluster.cli("volume", "unmap", "volume", "--sdc", self.owner, "--force")
        self.cluster.cli("volume", "map", "volume", "--sdc", new.name)
        while self.load.window()["completed"] == 0:
            if time.monotonic() - began > 60:
                raise TimeoutError("no IO after the takeover")
            time.sleep(0.01)
        pause = round((time.monotonic() - began) * 1000)
        self.owner = new.name
        old.start()
        self.cluster.wait_redundant()
        self.load.wait_for_progress(STEADY)
        return {"longest_pause_ms": pause, "longest_operation_ms": pause}


def measure(kind, tries, seed, away_seconds):
    bench = Bench(seed, away_seconds)
    results = []
    try:
        bench.start()
        for number in range(tries):
            figures = bench.attempt(kind)
            results.append(figures)
            print(f"{kind} {number + 1}/{tries}: pause {figures['longest_pause_ms']} ms, longest operation "
                  f"{figures['longest_operation_ms']} ms", flush=True)
        verdict = bench.load.verdict()
        print(f"{kind}: {json.dumps(verdict)}", flush=True)
        if verdict["violations"] or not verdict["read_back"]:
            raise AssertionError(f"{kind}: the history is wrong: {verdict}")
        line = bench.cluster.verify("volume")
        print(f"{kind}: {line}", flush=True)
        if ", 0 different" not in line:
            raise AssertionError(f"{kind}: replicas differ: {line}")
        return results, verdict
    except BaseException:
        bench.cluster.print_logs()
        raise
    finally:
        bench.stop()


def row(kind, results, verdict):
    pauses = [r["longest_pause_ms"] for r in results]
    longest = [r["longest_operation_ms"] for r in results]
    within = sum(p <= GOALS_MS[kind] for p in pauses)
    return (f"| {TITLES[kind]} | {len(pauses)} | {statistics.median(pauses):.0f} | {max(pauses)} | "
            f"{statistics.median(longest):.0f} | {max(longest)} | {GOALS_MS[kind]} | {within} of {len(pauses)} | "
            f"{verdict['operations']} |")


OTHER_RUNS = "\n## Other runs\n"
HEADER = """# Faults: what a client sees

Real processes on hosts of their own (network namespaces, mutual TLS), three servers with two devices each, two
replicas, a verifying load of {connections} connections at {rate} operations a second each (4 to 16 KiB, 60 % writes, flushes and
FUA among them). `integration/faults/pause_table.py` measures this table and writes this page.

*Pause*: the longest time in which a connection had something in flight and nothing came back, from the fault until
full redundancy. *Operation*: the slowest single one. In milliseconds. A pause of {ordinary} ms is what the machine does
without any fault.

| fault | tries | pause p50 | pause max | operation p50 | operation max | goal | within | block operations judged |
|---|---|---|---|---|---|---|---|---|
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--kinds", default=",".join(GOALS_MS))
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--away-seconds", type=int, default=300, help="how long the MDM is dead in mdm-away")
    parser.add_argument("--away-tries", type=int, default=3, help="how often")
    parser.add_argument("--output", type=pathlib.Path, help="write the page there; else it is printed only")
    arguments = parser.parse_args()
    os.environ["PATH"] += os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    print(f"seed {arguments.seed}", flush=True)
    ordinary = quiet_pause(arguments.seed)
    rows, failed = known_rows(arguments.output), []
    for kind in arguments.kinds.split(","):
        try:
            rows[kind] = row(kind, *measure(kind, arguments.away_tries if kind in LONG else arguments.tries, arguments.seed,
                                           arguments.away_seconds))
        except Exception as error:  # pylint: disable=broad-except
            failed.append(kind)
            print(f"{kind} failed: {error}", flush=True)
    listed = [rows[kind] for kind in GOALS_MS if kind in rows]
    page = HEADER.format(connections=CONNECTIONS, rate=RATE, ordinary=ordinary) + "\n".join(listed) + "\n"
    page += f"\nMeasured {datetime.date.today()}, seed {arguments.seed}, on {os.cpu_count()} cores with a load average of "
    page += f"{os.getloadavg()[2]:.0f}. No history had a violation, and replicas were equal afterwards.\n"
    page += other_runs(arguments.output)
    print(page)
    if arguments.output and rows:
        arguments.output.write_text(page)
    return 1 if failed else 0


def known_rows(path):
    """The rows that an earlier run wrote, so that a run of some kinds renews only these."""
    if path is None or not path.exists():
        return {}
    lines = path.read_text().splitlines()
    return {kind: line for kind, title in TITLES.items() for line in lines if line.startswith(f"| {title} |")}


def other_runs(path):
    """The part of the page that is written by hand."""
    text = path.read_text() if path is not None and path.exists() else ""
    return text[text.index(OTHER_RUNS):] if OTHER_RUNS in text else ""


def quiet_pause(seed):
    """The longest pause of a load that nobody disturbs."""
    bench = Bench(seed)
    try:
        bench.start()
        bench.load.window()
        worst = {"longest_pause_ms": 0, "longest_operation_ms": 0}
        for _ in range(3):
            bench.gather(worst)
        return worst["longest_pause_ms"]
    finally:
        bench.stop()


if __name__ == "__main__":
    sys.exit(main())
