#!/usr/bin/env python3
"""A returning replica transfers only what changed, by the servers' own figures.

    integration/faults/resync.py [--volume-mib 4096] [--changed-mib 64] [--limit-mib 80]
"""
import argparse
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from cluster import wait_until  # noqa: E402  pylint: disable=wrong-import-position
from fault_cluster import FaultCluster  # noqa: E402  pylint: disable=wrong-import-position
import nbd_client  # noqa: E402  pylint: disable=wrong-import-position

MIB = 1 << 20
COPIED = "tessera_sds_learner_copied_bytes_total"


def fill(uri, begin_mib, end_mib, salt):
    """Writes every MiB of the range with content of its own, and flushes."""
    handle = nbd_client.connect(uri)
    for mib in range(begin_mib, end_mib):
        word = (mib * 1000003 + salt).to_bytes(8, "little")
        handle.pwrite(word * (MIB // 8), mib * MIB)
    handle.flush()
    handle.shutdown()


def measure(volume_mib, changed_mib):
    """Bytes copied by all servers when one comes back that missed `changed_mib` of `volume_mib`."""
    # Two servers and two replicas: the one that returns has a copy of everything.
    cluster = FaultCluster(servers=2, clients=1, journal_mib=64)
    try:
        cluster.start()
        cluster.create_pool()
        uri = cluster.create_volume("volume", f"{volume_mib}MiB")
        fill(uri, 0, volume_mib, 1)
        away = cluster.sds[1]
        away.kill()
        begin = volume_mib // 3
        fill(uri, begin, begin + changed_mib, 2)
        wait_until(cluster.lacks_replicas, "the loss to be noticed")
        away.start()
        cluster.wait_redundant()
        # It was restarted, so it counts from zero.
        copied = cluster.metric(away, COPIED)
        line = cluster.verify("volume")
        if ", 0 different, 0 copies not in sync" not in line:
            raise AssertionError(line)
        return copied
    except BaseException:
        cluster.print_logs()
        raise
    finally:
        cluster.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volume-mib", type=int, default=4096)
    parser.add_argument("--changed-mib", type=int, default=64)
    parser.add_argument("--limit-mib", type=float, default=80)
    arguments = parser.parse_args()
    os.environ["PATH"] += os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    copied = measure(arguments.volume_mib, arguments.changed_mib) / MIB
    print(f"{arguments.changed_mib} MiB of {arguments.volume_mib} MiB changed: {copied:.1f} MiB were copied")
    return 0 if arguments.changed_mib <= copied <= arguments.limit_mib else 1


if __name__ == "__main__":
    sys.exit(main())
