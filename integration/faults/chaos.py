#!/usr/bin/env python3
"""Chaos: four writers, and every five seconds a random part is killed or cut off; afterwards nothing is lost.

    integration/faults/chaos.py [--seconds 600] [--seed N] [--rate OPERATIONS]

Never more than the redundancy allows: redundancy returns before the next fault. Two volumes with two writers each; every
operation of the run is judged (tools/verify_io), then the replicas are compared.
"""
import argparse
import collections
import os
import pathlib
import random
import re
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from fault_cluster import FaultCluster  # noqa: E402  pylint: disable=wrong-import-position
from load import VerifyingLoad  # noqa: E402  pylint: disable=wrong-import-position
import steps  # noqa: E402  pylint: disable=wrong-import-position

PERIOD_SECONDS = 5
VOLUMES = ("first", "second")


class Chaos:
    def __init__(self, seed, rate=400):
        self.random = random.Random(seed)
        self.seed = seed
        self.rate = rate
        self.loads = {}
        self.counts = collections.Counter()
        self.worst = collections.Counter()  # longest pause in ms, by kind of fault
        self.cluster = FaultCluster(clients=2, journal_mib=64)

    def start(self):
        self.cluster.start()
        self.cluster.create_pool()
        for number, (volume, sdc) in enumerate(zip(VOLUMES, self.cluster.sdcs)):
            uri = self.cluster.create_volume(volume, "128MiB", sdc.name)
            self.loads[volume] = VerifyingLoad(uri, self.seed + number, connections=2, blocks=8192, rate=self.rate)
        for load in self.loads.values():
            load.wait_for_progress()

    def stop(self):
        for load in self.loads.values():
            load.kill()
        self.cluster.stop()

    def choose(self):
        cluster, pick = self.cluster, self.random.choice
        return pick([
            lambda: steps.Kill(pick(cluster.sds)), lambda: steps.Kill(pick(cluster.sds)),
            lambda: steps.Kill(pick(cluster.sdcs)), lambda: steps.Kill(cluster.mdm),
            lambda: steps.Stop(pick(cluster.sds)), lambda: steps.Unplug(pick(cluster.sds)),
            lambda: steps.Partition(pick(cluster.sdcs), pick(cluster.sds)),
            lambda: steps.Deafen(pick(cluster.sds), pick(cluster.sdcs)),
            lambda: steps.Deafen(pick(cluster.sdcs), pick(cluster.sds)),
            lambda: steps.Partition(cluster.mdm, pick(cluster.sds)),
            lambda: steps.Partition(cluster.mdm, pick(cluster.sdcs)),
            lambda: steps.Unplug(cluster.mdm), lambda: steps.Stop(cluster.mdm)])()

    def one_fault(self):
        began = time.monotonic()
        fault = self.choose()
        for load in self.loads.values():
            load.window()
        fault.inject()
        try:
            # How long a fault lasts is part of it, not a wait for anything.
            time.sleep(self.random.uniform(0.2, PERIOD_SECONDS))
        finally:
            fault.clear()
        self.cluster.wait_redundant()
        for load in self.loads.values():
            load.wait_for_progress(100)
        pause = max(load.window()["longest_pause_ms"] for load in self.loads.values())
        kind = re.sub(r"(sd[cs])\d+", r"\1", fault.name)
        self.counts[kind] += 1
        self.worst[kind] = max(self.worst[kind], pause)
        print(f"{fault.name}: redundancy after {time.monotonic() - began:.1f} s", flush=True)
        time.sleep(max(0.0, PERIOD_SECONDS - (time.monotonic() - began)))

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.one_fault()

    def judge(self):
        """The verdicts by volume, and the line of `volume verify` of each."""
        findings = {}
        for volume, load in self.loads.items():
            verdict = load.verdict()
            findings[volume] = (verdict, self.cluster.verify(volume))
        return findings


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--rate", type=int, default=400, help="operations a second of each writer")
    arguments = parser.parse_args()
    os.environ["PATH"] += os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    print(f"seed {arguments.seed}", flush=True)
    chaos = Chaos(arguments.seed, arguments.rate)
    good = False
    try:
        chaos.start()
        chaos.run(arguments.seconds)
        good = True
        for volume, (verdict, line) in chaos.judge().items():
            print(f"{volume}: {verdict}\n{volume}: {line}")
            good &= verdict["violations"] == 0 and verdict["read_back"] and ", 0 different" in line
        for kind, count in sorted(chaos.counts.items()):
            print(f"{count:4} x {kind}")
    finally:
        if not good:
            chaos.cluster.print_logs()
        chaos.stop()
    print("chaos: nothing lost, nothing wrong" if good else "chaos: FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
