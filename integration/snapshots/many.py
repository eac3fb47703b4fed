#!/usr/bin/env python3
"""200 snapshots on one volume: reads are as fast as with none, and deleting all of them gives the space back.

    integration/snapshots/many.py [--snapshots 200] [--size-mib 512] [--seconds 10] [--seed N]

The volume is filled, then read at random in 4 KiB blocks. Between two snapshots some blocks at random places are written.
With all snapshots there it is read again; then they are deleted in random order, and it is read once more. The figures of one run
are compared with each other only.
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "faults")]
import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
import nbd_client  # noqa: E402  pylint: disable=wrong-import-position

MIB = 1 << 20
BLOCK = 4096


class Many:
    def __init__(self, arguments):
        self.arguments = arguments
        self.random = random.Random(arguments.seed)
        self.size = arguments.size_mib * MIB
        self.cluster = tessera.Cluster(servers=2)
        self.uri = None

    def data_bytes(self):
        """What blocks take on all devices, each counted once, whoever shares it."""
        return sum(self.cluster.metric(sds, "tessera_device_data_bytes") for sds in self.cluster.sds)

    def read_speed(self):
        output = subprocess.run(
            ["fio", "--name=read", "--ioengine=nbd", f"--uri={self.uri}", "--rw=randread", "--bs=4k", "--iodepth=16",
             f"--size={self.size}", "--time_based", f"--runtime={self.arguments.seconds}", "--ramp_time=2",
             "--output-format=json", "--randrepeat=1"], check=True, capture_output=True, text=True).stdout
        return json.loads(output[output.index("{"):])["jobs"][0]["read"]["iops"]

    def settle(self):
        """Until nothing is left to drop, and what is free is free."""
        last = None
        for _ in range(600):
            now = self.data_bytes()
            if now == last and self.cluster.metric(self.cluster.mdm, "tessera_mdm_pending_layer_drops") == 0:
                return now
            last = now
            time.sleep(1)
        raise TimeoutError("layers are not dropped")

    def run(self):
        self.cluster.start()
        self.cluster.create_pool(placement_groups=16)
        self.uri = self.cluster.create_volume("many", f"{self.arguments.size_mib}MiB")
        handle = nbd_client.connect(self.uri)
        for offset in range(0, self.size, MIB):
            handle.pwrite(self.random.randbytes(MIB), offset)
        handle.flush()
        figures = {"alone_iops": self.read_speed(), "live_bytes": self.settle()}
        names = [f"many-{number}" for number in range(self.arguments.snapshots)]
        held = []
        for name in names:
            for _ in range(256):
                handle.pwrite(self.random.randbytes(BLOCK), self.random.randrange(self.size // BLOCK) * BLOCK)
            held.append(int(self.cluster.cli_json("snapshot", "create", "many", name).get("held_micros", 0)))
        figures["held_ms_p50"] = sorted(held)[len(held) // 2] / 1000
        figures["held_ms_max"] = max(held) / 1000
        figures["with_snapshots_bytes"] = self.data_bytes()
        figures["with_snapshots_iops"] = self.read_speed()
        self.random.shuffle(names)
        for name in names:
            self.cluster.cli("snapshot", "delete", name)
        figures["deleted_bytes"] = self.settle()
        figures["deleted_iops"] = self.read_speed()
        handle.shutdown()
        figures["read_ratio"] = figures["with_snapshots_iops"] / figures["alone_iops"]
        figures["space_over_live"] = figures["deleted_bytes"] / figures["live_bytes"] - 1
        return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=int, default=200)
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    arguments = parser.parse_args()
    os.environ["PATH"] += os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    print(f"seed {arguments.seed}", flush=True)
    many = Many(arguments)
    try:
        print(json.dumps(many.run(), indent=1))
    finally:
        many.cluster.stop()


if __name__ == "__main__":
    sys.exit(main())
