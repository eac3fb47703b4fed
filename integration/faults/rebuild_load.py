#!/usr/bin/env python3
"""A rebuild beside client IO: what the client feels, and whether rate and time left are honest.

    integration/faults/rebuild_load.py [--volume-mib 4096] [--iops 2000] [--kill target|source|none] [--rate 0]

Four servers, two replicas. A volume is filled; fio reads and writes 4 KiB at a fixed rate through NBD, once alone
and once while a server that is gone for good is made up for. Printed: p50 and p99 of both, the rebuild's bytes and
seconds, and how far rate and time left, read every second, were from what then happened.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
from cluster import BIN, Cluster, wait_until  # noqa: E402  pylint: disable=wrong-import-position
from resync import MIB, fill  # noqa: E402  pylint: disable=wrong-import-position

RATE_SECONDS = 15  # what a rate shown is of: ProgressMeter::kRateMillis


class Load:
    """fio at a fixed rate until stopped."""

    def __init__(self, uri, size_mib, iops, seconds):
        self.process = subprocess.Popen(
            ["fio", "--name=load", "--ioengine=nbd", f"--uri={uri}", "--rw=randrw", "--rwmixread=50", "--bs=4k",
             "--iodepth=8", f"--size={size_mib}m", f"--rate_iops={iops // 2},{iops // 2}", "--time_based",
             f"--runtime={seconds}", "--output-format=json", "--randseed=7"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self, early=False):
        if early:
            self.process.send_signal(2)
        output, errors = self.process.communicate(timeout=600)
        if not output.strip().startswith("{") and "{" not in output:
            raise AssertionError(errors)
        job = json.loads(output[output.index("{"):])["jobs"][0]
        figures = {}
        for kind in ("read", "write"):
            percentiles = job[kind]["clat_ns"].get("percentile", {})
            figures[kind] = {"iops": round(job[kind]["iops"]), "errors": job["error"],
                             "p50_us": round(percentiles.get("50.000000", 0) / 1000),
                             "p99_us": round(percentiles.get("99.000000", 0) / 1000)}
        return figures


def rebuilds(cluster):
    # Nice, so that the looking costs the load nothing.
    looked = subprocess.run(["nice", "-n", "19", BIN / "tessera", "--endpoint", cluster.mdm_address, "-o", "json",
                             "operation", "list", "--all"], check=True, stdout=subprocess.PIPE, text=True)
    listed = json.loads(looked.stdout).get("operations", [])
    return [o for o in listed if o["kind"] == "OPERATION_KIND_REBUILD"]


def running(cluster):
    return [o for o in rebuilds(cluster) if o["state"] == "OPERATION_STATE_RUNNING"]


class Copied:
    """What the servers say that they have copied, whoever restarts: another count than the one that the rate is of."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.last = {}
        self.total = 0

    def read(self):
        for part in self.cluster.sds:
            try:
                now = self.cluster.metric(part, "tessera_sds_learner_copied_bytes_total")
            except OSError:
                continue
            self.total += max(now - self.last.get(part.name, 0), 0)
            self.last[part.name] = now
        return self.total


def watch(cluster, kill):
    """Follows the rebuild to its end; samples of (seconds, bytes done, bytes a second, seconds left, bytes copied)."""
    samples, killed, copied = [], kill == "none", Copied(cluster)
    began = time.monotonic()
    while True:
        now = running(cluster)
        if not now and samples:
            break
        if not now and time.monotonic() - began > 60:
            raise AssertionError("no rebuild began")
        if now:
            figures = now[0]
            done, total = int(figures.get("bytes_done", 0)), int(figures.get("bytes_total", 0))
            samples.append((time.monotonic(), done, int(figures.get("bytes_per_second", 0)),
                            int(figures.get("eta_ms", 0)) / 1000, copied.read()))
            if not killed and total and done > total // 3:
                victim = cluster.sds[2 if kill == "target" else 1]
                victim.kill()
                victim.start()
                killed = True
                print(f"{victim.name} was killed at {done / MIB:.0f} MiB and started again")
        time.sleep(1)  # the interval of the samples, not a wait for anything
    return samples


def median(values):
    return f"{statistics.median(values):.0f} %" if values else "unknown"


def off(shown, real):
    return abs(shown - real) / real * 100


def honesty(samples):
    """How far figures were from the truth (medians): the rate from what the servers had copied in the seconds that it
    is of, the time left and the rate from what then came. Of the last three quarters of the rebuild."""
    end, all_done = samples[-1][:2]
    past, lefts, future = [], [], []
    for at, done, rate, left, copied in samples[len(samples) // 4:]:
        span = [(then, count) for then, _, _, _, count in samples if at - RATE_SECONDS <= then < at]
        if span and rate and copied > span[0][1]:
            past.append(off(rate, (copied - span[0][1]) / (at - span[0][0])))
        if end - at >= 3 and left:
            lefts.append(off(left, end - at))
        if end - at >= 3 and rate and all_done > done:
            future.append(off(rate, (all_done - done) / (end - at)))
    return (f"median error of the rate, of what was copied in its {RATE_SECONDS} s: {median(past)}; of the time left: "
            f"{median(lefts)}; of the rate, of what then came: {median(future)}; over {len(samples)} samples")


def measure(volume_mib, iops, kill, rate, alone_seconds=30):
    cluster = Cluster(servers=4, mdm_options=["--stale-after", "3s"])
    try:
        cluster.start()
        cluster.create_pool()
        cluster.cli("rebuild", "settings", "--delay", "0s", "--rate", rate)
        cluster.cli("volume", "create", "data", "--size", f"{volume_mib}MiB")
        uri = cluster.cli_json("volume", "map", "data")["nbd_uris"][0]
        fill(uri, 0, volume_mib, 1)
        os.sync()  # What was filled is not to be written out while something is measured
        alone = Load(uri, volume_mib, iops, alone_seconds).end()
        cluster.sds[3].kill()
        wait_until(lambda: running(cluster), "the rebuild to begin", 60)
        load = Load(uri, volume_mib, iops, 3600)
        samples = watch(cluster, kill)
        beside = load.end(early=True)
        operation = rebuilds(cluster)[-1]
        # A rebalance may have followed.
        wait_until(lambda: not cluster.cli_json("operation", "list").get("operations"), "repair to end", 120)
        line = cluster.cli("volume", "verify", "data", timeout=600)
        if ", 0 different, 0 copies not in sync" not in line:
            raise AssertionError(line)
        return alone, beside, samples, operation
    finally:
        cluster.kill_all()
        cluster.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volume-mib", type=int, default=4096)
    parser.add_argument("--iops", type=int, default=2000)
    parser.add_argument("--rate", default="0", help="limit for each server, such as 32MiB; 0: none")
    parser.add_argument("--kill", choices=["target", "source", "none"], default="none")
    arguments = parser.parse_args()
    os.environ["PATH"] += os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    alone, beside, samples, operation = measure(arguments.volume_mib, arguments.iops, arguments.kill,
                                                arguments.rate)
    for at, done, rate, left, _ in samples:
        print(f"{at - samples[0][0]:6.1f} s: {done / MIB:6.0f} MiB, {rate / MIB:4.0f} MiB/s, {left:5.1f} s left")
    seconds = (int(operation["ended_ms"]) - int(operation["started_ms"])) / 1000
    copied = int(operation.get("bytes_done", 0))
    print(f"rebuild: {copied / MIB:.0f} MiB in {seconds:.1f} s, {copied / MIB / max(seconds, 0.001):.0f} MiB/s, "
          f"{operation.get('retries', 0)} retries")
    worst = 0
    for kind in ("read", "write"):
        ratio = beside[kind]["p99_us"] / max(1, alone[kind]["p99_us"])
        worst = max(worst, ratio)
        print(f"{kind}: alone {alone[kind]}, beside the rebuild {beside[kind]}: p99 x {ratio:.2f}")
    print(honesty(samples))
    return 0 if worst <= 2 else 1


if __name__ == "__main__":
    sys.exit(main())
