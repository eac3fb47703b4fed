#!/usr/bin/env python3
"""Snapshots at random moments under random writes: each is of one moment between its request and its answer.

    integration/snapshots/moments.py [--tries 1000] [--seed N]

A try makes a snapshot of one volume, or of three volumes on two clients at once, while all of them are written; some while a
server is killed and comes back. Each snapshot is mapped read-only to another client, read whole, and compared with
what its writers know; then it is deleted.
"""
import argparse
import os
import pathlib
import random
import signal
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "faults")]
import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
from fault_cluster import FaultCluster  # noqa: E402  pylint: disable=wrong-import-position
from numbered_writer import Moment, NumberedWriter, Numbers, read_numbers  # noqa: E402  pylint: disable=wrong-import-position

MIB = 1 << 20
VOLUME_BYTES = 8 * MIB
BLOCKS = VOLUME_BYTES // 4096
VOLUMES = {"a": "sdc1", "b": "sdc1", "c": "sdc2"}


class Moments:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.seed = seed
        self.cluster = FaultCluster(servers=3, clients=3, journal_mib=64)
        self.writers = {}
        self.held = []
        self.retried = 0

    def start(self):
        self.cluster.start()
        self.cluster.create_pool(placement_groups=16)
        numbers = Numbers()
        for name, sdc in VOLUMES.items():
            uri = self.cluster.create_volume(name, f"{VOLUME_BYTES // MIB}MiB", sdc)
            self.writers[name] = NumberedWriter(uri, BLOCKS, f"{self.seed} {name}", numbers).start()

    def stop(self):
        self.cluster.stop()

    def snapshot(self, names, number):
        """Names of snapshots, and the moments of request and answer. Tried again when a killed server made it late."""
        sources = [f"{name}-{number}" for name in names]
        also = [word for name, source in list(zip(names, sources))[1:] for word in ("--also", f"{name}={source}")]
        while True:
            began = time.monotonic()
            try:
                made = self.cluster.cli_json("snapshot", "create", names[0], sources[0], *also, "--deadline", "8s")
                self.held.append(int(made.get("held_micros", 0)))
                return sources, began, time.monotonic()
            except tessera.CommandFailed as error:
                if "aborted" not in error.output.lower() and "not done in time" not in error.output:
                    raise
                self.retried += 1

    def attempt(self, number):
        names = list(VOLUMES) if self.random.random() < 0.5 else [self.random.choice(list(VOLUMES))]
        self.random.shuffle(names)
        victim = self.random.choice(self.cluster.sds) if self.random.random() < 0.1 else None
        # The moment is what the try is about.
        time.sleep(self.random.uniform(0, 0.05))
        killer = None
        if victim is not None:
            delay = self.random.uniform(0, 0.2)
            killer = threading.Timer(delay, lambda: victim.kill(signal.SIGKILL))
            killer.start()
        try:
            sources, began, ended = self.snapshot(names, number)
        finally:
            if killer is not None:
                killer.join()
                victim.start()
        moment = Moment(began, ended)
        for name, source in zip(names, sources):
            self.cluster.cli("volume", "map", source, "--sdc", "sdc3", "--read-only")
            tessera.wait_until(lambda s=source: self.cluster.attached(s, "sdc3"), f"{source} to be attached", 60)
            moment.check(self.writers[name], read_numbers(self.cluster.uri(source, "sdc3"), BLOCKS))
            self.cluster.cli("volume", "unmap", source, "--sdc", "sdc3")
            self.cluster.cli("snapshot", "delete", source)
        if victim is not None:
            self.cluster.wait_redundant()

    def run(self, tries):
        for number in range(1, tries + 1):
            self.attempt(number)
            if number % 50 == 0:
                print(f"{number} tries", flush=True)
        for writer in self.writers.values():
            writer.stop()
        held = sorted(micros for micros in self.held if micros > 0)
        return {"writes": sum(len(writer.writes) for writer in self.writers.values()), "snapshots": len(self.held),
                "tried_again": self.retried, "held_ms_p50": held[len(held) // 2] / 1000, "held_ms_max": held[-1] / 1000}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    arguments = parser.parse_args()
    os.environ["PATH"] += os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    print(f"seed {arguments.seed}", flush=True)
    moments = Moments(arguments.seed)
    try:
        moments.start()
        print(f"{arguments.tries} tries, none of no one moment: {moments.run(arguments.tries)}")
        return 0
    except BaseException:
        moments.cluster.print_logs()
        raise
    finally:
        moments.stop()


if __name__ == "__main__":
    sys.exit(main())
