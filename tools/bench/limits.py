#!/usr/bin/env python3
"""How exactly limits are kept: fio's nbd engine on a volume with a limit, against what the limit says.

  tools/bench/limits.py [--seconds 5] [--quick] [--json FILE]

Three servers, two replicas, one client. For each limit and block size, reads and writes: the rate once nothing is saved
up any more, which is when requests wait for the limit, and what is done more than that at once after the volume was
idle for long enough to save up all it may. What is done the client counts. "slow" where nothing ever waited: the
machine could do no more than the limit allows. Last a volume without limits, alone and beside a limited one with 128
requests waiting. Nothing is asserted.
"""
import argparse
import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "integration"))
from cluster import Cluster  # noqa: E402  pylint: disable=wrong-import-position

KIB, MIB = 1 << 10, 1 << 20
SIZE_MIB = 256
# Limit of operations, limit of bytes, block size, seconds of burst.
CASES = [
    (200, 0, "4k", 1),
    (500, 0, "4k", 3),
    (1000, 0, "4k", 1),
    (50, 0, "128k", 1),
    (100, 0, "128k", 2),
    (0, 1 * MIB, "4k", 1),
    (0, 2 * MIB, "4k", 3),
    (0, 4 * MIB, "128k", 1),
    (0, 10 * MIB, "128k", 2),
    (500, 4 * MIB, "4k", 1),    # operations are the scarcer
    (500, 4 * MIB, "128k", 1),  # bytes are
]


def block_bytes(text):
    return int(text[:-1]) * KIB


def allowed(iops, bandwidth, block):
    """Operations a second that the limits allow."""
    return min(rate for rate in (iops, bandwidth / block_bytes(block)) if rate)


class Load:
    """fio that always has something to do, until its block ends."""

    def __init__(self, uri, kind, block, depth=16):
        self.command = ["fio", "--name=limits", "--ioengine=nbd", f"--uri={uri}", f"--rw=rand{kind}", f"--bs={block}",
                        f"--iodepth={depth}", "--thread", f"--size={SIZE_MIB}m", "--time_based", "--runtime=3600", "--norandommap"]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()


class Bench:
    def __init__(self, cluster, seconds):
        self.cluster = cluster
        self.seconds = seconds
        self.uri = self.volume("limited")

    def volume(self, name):
        uri = self.cluster.create_volume(name, f"{SIZE_MIB}MiB")
        subprocess.run(["fio", "--name=fill", "--ioengine=nbd", f"--uri={uri}", "--rw=write", "--bs=1m", "--iodepth=4",
                        f"--size={SIZE_MIB}m"], check=True, capture_output=True)
        return uri

    def limit(self, iops, bandwidth, burst):
        self.cluster.cli("volume", "map", "limited", "--iops", iops, "--bandwidth", bandwidth, "--burst", burst)

    def now(self):
        """Time, requests done, requests that waited for a limit."""
        began = time.monotonic()
        done = self.cluster.metric(self.cluster.sdc, "tessera_volume_io_requests_total")
        waited = self.cluster.metric(self.cluster.sdc, "tessera_sdc_limited_requests_total")
        return (began + time.monotonic()) / 2, done, waited

    def spend(self, patience=15):
        """Until nearly every request waits; whether it came to that."""
        end = time.monotonic() + patience
        before = self.now()
        while time.monotonic() < end:
            time.sleep(0.3)
            after = self.now()
            done, waited = after[1] - before[1], after[2] - before[2]
            if done > 0 and waited >= 0.8 * done:
                return True
            before = after
        return False

    def rate(self, seconds):
        began = self.now()
        time.sleep(seconds)
        ended = self.now()
        return (ended[1] - began[1]) / (ended[0] - began[0])

    def case(self, kind, iops, bandwidth, block, burst):
        rate = allowed(iops, bandwidth, block)
        self.limit(iops, bandwidth, burst)
        row = {"kind": kind, "iops_limit": iops, "bandwidth_limit": bandwidth, "block": block, "burst": burst,
               "allowed": rate}
        with Load(self.uri, kind, block):
            if self.spend():
                row["steady"] = self.rate(max(self.seconds, 200 / rate))
                row["percent"] = 100 * row["steady"] / rate
        time.sleep(burst + 1)
        before = self.now()
        with Load(self.uri, kind, block):
            began = before
            while began[1] == before[1]:
                before, began = began, self.now()
            if self.spend():
                ended = self.now()
                row["burst_seconds"] = (ended[1] - before[1]) / rate - (ended[0] - before[0])
        return row

    def fairness(self):
        """4k reads of a volume without limits: requests a second, alone and beside a limited one."""
        free = self.volume("free")
        self.limit(50, 0, 1)
        rows = []
        for beside in (False, True, False, True):
            with contextlib.ExitStack() as loads:
                if beside:
                    loads.enter_context(Load(self.uri, "write", "4k", depth=128))
                    self.spend()
                loads.enter_context(Load(free, "read", "4k", depth=8))
                time.sleep(2)
                rows.append({"beside": beside, "iops": self.rate(self.seconds) - (50 if beside else 0)})
        return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--quick", action="store_true", help="every third case alone")
    parser.add_argument("--json", help="write the figures there")
    arguments = parser.parse_args()
    cluster = Cluster(servers=3)
    rows, fairness = [], []
    try:
        cluster.start()
        cluster.create_pool(replicas=2)
        bench = Bench(cluster, arguments.seconds)
        print("| limit: operations, bytes a second | block | burst s | | allowed/s | measured/s | % | burst measured s |")
        print("|---|---|---|---|---|---|---|---|")
        for iops, bandwidth, block, burst in CASES[::3] if arguments.quick else CASES:
            for kind in ("read", "write"):
                row = bench.case(kind, iops, bandwidth, block, burst)
                rows.append(row)
                limit = ", ".join([f"{iops}" if iops else "-", f"{bandwidth // MIB} MiB" if bandwidth else "-"])
                shown = [f"{row[key]:.{digits}f}" if key in row else "slow"
                         for key, digits in (("steady", 1), ("percent", 1), ("burst_seconds", 2))]
                print(f"| {limit} | {block} | {burst} | {kind} | {row['allowed']:.0f} | {' | '.join(shown)} |", flush=True)
        fairness = bench.fairness()
        print("\nA volume without limits, 4k reads at depth 8:")
        for row in fairness:
            print(f"{'beside a limited one with 128 requests waiting' if row['beside'] else 'alone'}: "
                  f"{row['iops']:.0f} a second", flush=True)
    finally:
        cluster.stop()
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps({"rows": rows, "fairness": fairness}, indent=1),
                                                encoding="utf-8")


if __name__ == "__main__":
    main()
