#!/usr/bin/env python3
"""How exactly limits are kept: fio's nbd engine on a volume with a limit, against what the limit says.

  tools/bench/limits.py [--seconds 5] [--quick] [--json FILE]

Three servers, two replicas, one client. For each limit and block size, reads and writes: first the rate with
nothing saved up (the burst is spent before), then what is done at once after the volume was idle for long enough to
save up all it may. Last a second volume without limits, alone and beside a limited one whose queue is full. Nothing
is asserted; a rate below its limit on a busy machine says that the machine could do no more.
"""
import argparse
import json
import pathlib
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
    (1000, 0, "4k", 1),
    (1000, 0, "4k", 3),
    (3000, 0, "4k", 1),
    (100, 0, "128k", 1),
    (400, 0, "128k", 2),
    (0, 2 * MIB, "4k", 1),
    (0, 8 * MIB, "4k", 2),
    (0, 16 * MIB, "128k", 1),
    (0, 64 * MIB, "128k", 2),
    (500, 4 * MIB, "4k", 1),    # operations are the scarcer
    (500, 4 * MIB, "128k", 1),  # bytes are
]


def block_bytes(text):
    return int(text[:-1]) * KIB


def fio(uri, kind, block, seconds, ramp=0.0, depth=16):
    """Operations and seconds of a run after `ramp` seconds that do not count."""
    command = ["fio", "--name=limits", "--ioengine=nbd", f"--uri={uri}", f"--rw=rand{kind}", f"--bs={block}",
               f"--iodepth={depth}", f"--size={SIZE_MIB}m", "--time_based", f"--runtime={seconds:.1f}",
               f"--ramp_time={ramp:.1f}", "--output-format=json", "--randseed=11", "--norandommap"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    side = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0][kind]
    return side["total_ios"], side["runtime"] / 1000, side["clat_ns"]["mean"] / 1e6


def allowed(iops, bandwidth, block):
    """Operations a second that the limits allow."""
    return min([rate for rate in (iops, bandwidth / block_bytes(block)) if rate])


class Bench:
    def __init__(self, cluster, seconds):
        self.cluster = cluster
        self.seconds = seconds
        self.uri = cluster.create_volume("limited", f"{SIZE_MIB}MiB")
        subprocess.run(["fio", "--name=fill", "--ioengine=nbd", f"--uri={self.uri}", "--rw=write", "--bs=1m",
                        "--iodepth=4", f"--size={SIZE_MIB}m"], check=True, capture_output=True)

    def limit(self, iops, bandwidth, burst):
        self.cluster.cli("volume", "map", "limited", "--iops", iops, "--bandwidth", bandwidth, "--burst", burst)

    def case(self, kind, iops, bandwidth, block, burst):
        rate = allowed(iops, bandwidth, block)
        self.limit(iops, bandwidth, burst)
        # Without a break: what was saved up is spent in the ramp, at several times the rate or not at all.
        ios, seconds, _ = fio(self.uri, kind, block, self.seconds, ramp=burst + 1.5)
        steady = ios / seconds
        time.sleep(burst + 1)
        ios, seconds, _ = fio(self.uri, kind, block, burst + 2)
        return {"kind": kind, "iops_limit": iops, "bandwidth_limit": bandwidth, "block": block, "burst": burst,
                "allowed": rate, "steady": steady, "percent": 100 * steady / rate,
                "burst_seconds": ios / rate - seconds}

    def fairness(self):
        """4k reads of a volume without limits: IOPS and mean latency, alone and beside a limited one."""
        free = self.cluster.create_volume("free", f"{SIZE_MIB}MiB")
        subprocess.run(["fio", "--name=fill", "--ioengine=nbd", f"--uri={free}", "--rw=write", "--bs=1m",
                        "--iodepth=4", f"--size={SIZE_MIB}m"], check=True, capture_output=True)
        rows = []
        self.limit(50, 0, 1)
        for beside in (False, True, False):
            other = None
            if beside:
                other = subprocess.Popen(
                    ["fio", "--name=other", "--ioengine=nbd", f"--uri={self.uri}", "--rw=randwrite", "--bs=128k",
                     "--iodepth=128", f"--size={SIZE_MIB}m", "--time_based", f"--runtime={self.seconds + 4}"],
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            ios, seconds, mean = fio(free, "read", "4k", self.seconds, ramp=2, depth=8)
            if other is not None:
                other.wait()
            rows.append({"beside": beside, "iops": ios / seconds, "mean_ms": mean})
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
                print(f"| {limit} | {block} | {burst} | {kind} | {row['allowed']:.0f} | {row['steady']:.1f} | "
                      f"{row['percent']:.1f} | {row['burst_seconds']:.2f} |", flush=True)
        fairness = bench.fairness()
        print("\nA volume without limits, 4k reads at depth 8:")
        for row in fairness:
            print(f"{'beside a limited one with 128 requests waiting' if row['beside'] else 'alone'}: "
                  f"{row['iops']:.0f} IOPS, {row['mean_ms']:.3f} ms mean", flush=True)
    finally:
        cluster.stop()
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps({"rows": rows, "fairness": fairness}, indent=1),
                                                encoding="utf-8")


if __name__ == "__main__":
    main()
