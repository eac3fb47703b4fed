#!/usr/bin/env python3
"""fio's nbd engine through the SDC (two replicas on two SDS processes), beside nbdkit, in one run.

  tools/bench/bench.py [--seconds 8] [--ramp 2] [--size-mib 1024] [--workloads a,b] [--json FILE]
                       [--peers nbdkit-memory,nbdkit-file,tessera-cached] [--folder DIR] [--micro]

Prints a table with ratios and writes the figures as JSON. CPU is that of every process of the target,
per 1,000 IOs. The machine should be quiet otherwise; compare ratios within one run only.
"""
import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "integration"))
import cluster as tessera_cluster  # noqa: E402

WORKLOADS = {
    "4k-randwrite-q1": ["--rw=randwrite", "--bs=4k", "--iodepth=1"],
    "4k-randwrite-q32": ["--rw=randwrite", "--bs=4k", "--iodepth=32"],
    "4k-randread-q1": ["--rw=randread", "--bs=4k", "--iodepth=1"],
    "4k-randread-q32": ["--rw=randread", "--bs=4k", "--iodepth=32"],
    "128k-write-q16": ["--rw=write", "--bs=128k", "--iodepth=16"],
    "128k-read-q16": ["--rw=read", "--bs=128k", "--iodepth=16"],
    "4k-write-fsync": ["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"],
}


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class TesseraTarget:
    def __init__(self, folder, size_mib, tcp, cached=False):
        self.name = "tessera-cached" if cached else "tessera"
        self.tcp = tcp
        (folder / self.name).mkdir(exist_ok=True)
        # A quarter more than the volume: what is read comes from the cache.
        cache = ["--cache-dir", folder / self.name / "cache", "--cache-size", f"{size_mib * 5 // 4}MiB"]
        self.cluster = tessera_cluster.Cluster(folder / self.name, servers=2, sdc_options=cache if cached else ())
        self.size_mib = size_mib

    def start(self):
        self.cluster.start()
        self.cluster.create_pool(replicas=2)
        uri = self.cluster.create_volume("bench", f"{self.size_mib}MiB")
        return self.cluster.nbd_uri("bench", unix=False) if self.tcp else uri

    def processes(self):
        return {part.name: part.pid for part in [*self.cluster.sds, self.cluster.sdc, self.cluster.mdm]}

    def stop(self):
        self.cluster.stop()


class NbdkitTarget:
    def __init__(self, name, folder, size_mib):
        self.name = name
        self.socket = folder / f"{name}.sock"
        self.process = None
        if name == "nbdkit-memory":
            self.plugin = ["memory", f"{size_mib}M"]
        else:
            data = folder / "nbdkit.img"
            with open(data, "wb") as file:
                file.truncate(size_mib << 20)
            self.plugin = ["file", str(data)]

    def start(self):
        self.process = subprocess.Popen(["nbdkit", "-f", "-U", str(self.socket), *self.plugin])
        tessera_cluster.wait_until(self.socket.exists, "nbdkit")
        return f"nbd+unix:///?socket={self.socket}"

    def processes(self):
        return {"nbdkit": self.process.pid}

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def fio(uri, options, arguments):
    command = ["fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", "--thread", f"--size={arguments.size_mib}m",
               "--norandommap=1", "--randrepeat=0", "--output-format=json", *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"fio failed: {result.stderr[-2000:]}{result.stdout[-2000:]}")
    return json.loads(result.stdout[result.stdout.index("{"):])["jobs"][0]


def measure(target, uri, name, arguments):
    before = {part: cpu_seconds(pid) for part, pid in target.processes().items()}
    start = time.monotonic()
    job = fio(uri, [*WORKLOADS[name], "--time_based", f"--runtime={arguments.seconds}",
                    f"--ramp_time={arguments.ramp}"], arguments)
    elapsed = time.monotonic() - start
    after = {part: cpu_seconds(pid) for part, pid in target.processes().items()}
    side = job["write"] if "write" in WORKLOADS[name][0] else job["read"]
    # CPU was counted over ramp and run alike.
    ios = side["iops"] * (arguments.seconds + arguments.ramp)
    latency = side["lat_ns"]
    percentiles = side.get("clat_ns", {}).get("percentile", {})
    return {
        "target": target.name, "workload": name, "iops": side["iops"], "mb_per_s": side["bw_bytes"] / 1e6,
        "mean_us": latency["mean"] / 1e3, "p99_us": percentiles.get("99.000000", 0) / 1e3,
        "elapsed_s": elapsed, "errors": job["error"],
        "cpu_s_per_1000_io": {part: (after[part] - before[part]) / ios * 1000 for part in after} if ios else {},
    }


def print_table(results, targets):
    by = {(r["workload"], r["target"]): r for r in results}
    print(f"\n{'workload':18} {'target':14} {'IOPS':>9} {'MB/s':>8} {'mean us':>9} {'p99 us':>9}  "
          f"{'CPU s/1000 IO':30} ratio of tessera")
    for workload in WORKLOADS:
        own = by.get((workload, "tessera"))
        for target in targets:
            row = by.get((workload, target))
            if row is None:
                continue
            cpu = " ".join(f"{part} {value:.3f}" for part, value in row["cpu_s_per_1000_io"].items())
            ratio = f"{own['iops'] / row['iops']:.2f}" if own and target != "tessera" and row["iops"] else ""
            print(f"{workload:18} {target:14} {row['iops']:9.0f} {row['mb_per_s']:8.1f} {row['mean_us']:9.1f} "
                  f"{row['p99_us']:9.1f}  {cpu:30} {ratio}")


def run_micro():
    """The micro-benchmarks of the parts, each with its own table."""
    folder = tessera_cluster.BIN
    for binary in ["tessera-token-bench", "libchunk_store_bench", "tessera-grpc-hop-bench"]:
        if (folder / binary).exists():
            print(f"\n== {binary}", flush=True)
            subprocess.run([str(folder / binary)], check=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--ramp", type=int, default=2)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--peers", default="nbdkit-memory,nbdkit-file")
    parser.add_argument("--json", default="")
    parser.add_argument("--folder", default="", help="where data goes; default: a temporary folder")
    parser.add_argument("--tcp", action="store_true", help="NBD over TCP instead of the unix socket")
    parser.add_argument("--micro", action="store_true", help="micro-benchmarks too")
    arguments = parser.parse_args()
    workloads = [w for w in arguments.workloads.split(",") if w]
    unknown = set(workloads) - set(WORKLOADS)
    if unknown:
        parser.error(f"unknown workloads {', '.join(sorted(unknown))}: there are {', '.join(WORKLOADS)}")
    folder = pathlib.Path(arguments.folder or tempfile.mkdtemp(prefix="tessera-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    targets = [TesseraTarget(folder, arguments.size_mib, arguments.tcp)]
    for peer in arguments.peers.split(","):
        if peer == "tessera-cached":
            targets.append(TesseraTarget(folder, arguments.size_mib, arguments.tcp, cached=True))
        elif peer:
            targets.append(NbdkitTarget(peer, folder, arguments.size_mib))
    results = []
    try:
        for target in targets:
            try:
                uri = target.start()
                fio(uri, ["--rw=write", "--bs=1m", "--iodepth=4"], arguments)  # prefill
                if target.name == "tessera-cached":
                    for _ in range(3):
                        fio(uri, ["--rw=read", "--bs=64k", "--iodepth=8"], arguments)
                for workload in workloads:
                    results.append(measure(target, uri, workload, arguments))
                    row = results[-1]
                    print(f"{target.name} {workload}: {row['iops']:.0f} IOPS, {row['mb_per_s']:.1f} MB/s, "
                          f"{row['mean_us']:.1f} us", flush=True)
            finally:
                target.stop()
    finally:
        if not arguments.folder:
            shutil.rmtree(folder, ignore_errors=True)
    print_table(results, [t.name for t in targets])
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(results, indent=1), encoding="utf-8")
    if arguments.micro:
        run_micro()
    return 0


if __name__ == "__main__":
    sys.exit(main())
