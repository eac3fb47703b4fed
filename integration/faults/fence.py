#!/usr/bin/env python3
"""After `unmap` returned, a client that kept its grant changes nothing.

    integration/faults/fence.py [--tries 1000] [--seed N]

A try: a load writes through one client; at a random moment the client is stopped (SIGSTOP), the volume unmapped by force
and mapped to another client, which reads all of it. Then the first one goes on, with everything that it had in flight and
its grant; when it has learned that the volume is gone, all of it is read again: not a byte may have changed.
"""
import argparse
import hashlib
import os
import pathlib
import random
import signal
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from cluster import wait_until  # noqa: E402  pylint: disable=wrong-import-position
from fault_cluster import FaultCluster  # noqa: E402  pylint: disable=wrong-import-position
import nbd_client  # noqa: E402  pylint: disable=wrong-import-position
from load import VerifyingLoad  # noqa: E402  pylint: disable=wrong-import-position

MIB = 1 << 20
VOLUME_BYTES = 16 * MIB


def content(uri, size=VOLUME_BYTES, piece=4 * MIB):
    """Digest of a volume's whole content."""
    handle = nbd_client.connect(uri)
    digest = hashlib.sha256()
    for offset in range(0, size, piece):
        digest.update(handle.pread(min(piece, size - offset), offset))
    handle.shutdown()
    return digest.hexdigest()


class Fence:
    def __init__(self, seed):
        self.seed = seed
        self.random = random.Random(seed)
        self.cluster = FaultCluster(journal_mib=64)
        self.load = None
        self.refused = 0

    def start(self):
        self.cluster.start()
        self.cluster.create_pool(placement_groups=16)
        uri = self.cluster.create_volume("volume", f"{VOLUME_BYTES // MIB}MiB")
        self.load = VerifyingLoad(uri, self.seed, connections=2, depth=32, blocks=VOLUME_BYTES // 4096, rate=0,
                                  write_percent=90)
        self.load.wait_for_progress()

    def stop(self):
        if self.load is not None:
            self.load.kill()
        self.cluster.stop()

    def gone_from(self, sdc):
        """Whether the client has noticed: it offers the volume to nobody."""
        try:
            nbd_client.connect(self.cluster.uri("volume", sdc)).shutdown()
            return False
        except nbd_client.Error:
            return True

    def attempt(self):
        cluster = self.cluster
        # The moment is what the try is about.
        time.sleep(self.random.uniform(0, 0.3))
        cluster.sdc.kill(signal.SIGSTOP)
        stopped = True
        try:
            cluster.cli("volume", "unmap", "volume", "--sdc", "sdc1", "--force")
            cluster.cli("volume", "map", "volume", "--sdc", "sdc2")
            before = content(cluster.uri("volume", "sdc2"))
            cluster.sdc.kill(signal.SIGCONT)
            stopped = False
            wait_until(lambda: self.gone_from("sdc1"), "the old client to notice", 60)
            after = content(cluster.uri("volume", "sdc2"))
        finally:
            if stopped:
                cluster.sdc.kill(signal.SIGCONT)
        if before != after:
            raise AssertionError("the volume changed after unmap had returned")
        cluster.cli("volume", "unmap", "volume", "--sdc", "sdc2")
        cluster.cli("volume", "map", "volume", "--sdc", "sdc1")
        self.load.wait_for_progress()

    def run(self, tries):
        for number in range(tries):
            self.attempt()
            if (number + 1) % 50 == 0:
                print(f"{number + 1} tries", flush=True)
        self.refused = sum(cluster_metric(self.cluster, sds) for sds in self.cluster.sds)
        return self.load.verdict()


def cluster_metric(cluster, sds):
    """Operations that a server refused for their generation."""
    page = sds.host.fetch(f"http://{sds.endpoints()['metrics']}/metrics")
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines()
               if line.startswith("tessera_sds_token_refused_total") and "generation" in line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    arguments = parser.parse_args()
    os.environ["PATH"] += os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    print(f"seed {arguments.seed}", flush=True)
    fence = Fence(arguments.seed)
    try:
        fence.start()
        verdict = fence.run(arguments.tries)
        print(f"{arguments.tries} tries; {fence.refused:.0f} operations of the old client were refused; {verdict}")
        return 1 if verdict["violations"] else 0
    except BaseException:
        fence.cluster.print_logs()
        raise
    finally:
        fence.stop()


if __name__ == "__main__":
    sys.exit(main())
