#!/usr/bin/env python3
"""A day of several databases in short: writes, zeroings, trims, snapshots, clones, rollbacks, growing, shrinking, deletes,
on a cluster of real processes; and a model that knows of each volume and snapshot which write each of its blocks is
of. Two of them share a block when it is of the same write: that is all the model knows, and what the cluster says of space
is compared with it, to the byte.

    integration/space/day.py --steps 20000 --seed 7
"""
import argparse
import collections
import os
import pathlib
import random
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent.parent), str(pathlib.Path(__file__).resolve().parent.parent / "faults")]
import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
from cluster import run, wait_until  # noqa: E402  pylint: disable=wrong-import-position
import nbd_client  # noqa: E402  pylint: disable=wrong-import-position

BLOCK = 4096
SECTOR = 512
MIB = 1 << 20
VOLUMES_MAX = 5
SNAPSHOTS_MAX = 24
DEPTH_MAX = 12
REPLICAS = 2


class View:
    """A volume or a snapshot."""

    def __init__(self, name, size, content, depth, parent=None):
        self.name = name
        self.size = size
        self.content = content      # by block: the number of the write
        self.depth = depth          # clones and rollbacks below it
        self.parent = parent        # of a snapshot: its volume
        self.handle = None          # mapped: the NBD connection
        self.trashed = False
        self.log_end = 0

    @property
    def is_snapshot(self):
        return self.parent is not None


class Day:
    """Takes steps; check() compares."""

    def __init__(self, cluster, seed, size=24 * MIB):
        self.cluster = cluster
        self.random = random.Random(seed)
        self.size = size
        self.views = []
        self.writes = 0
        self.names = 0
        self.steps = 0
        self.done = collections.Counter()
        for _ in range(2):
            self.new_volume()

    # ---- what there is

    def volumes(self):
        return [v for v in self.views if not v.is_snapshot and not v.trashed]

    def snapshots(self, of=None):
        return [v for v in self.views if v.is_snapshot and not v.trashed and (of is None or v.parent is of)]

    def new_name(self, kind):
        self.names += 1
        return f"{kind}{self.names}"

    def connect(self, view):
        self.cluster.cli("volume", "map", view.name)
        view.handle = nbd_client.connect(self.cluster.nbd_uri(view.name))

    def disconnect(self, view):
        view.handle.flush()
        view.handle.shutdown()
        view.handle = None
        self.cluster.cli("volume", "unmap", view.name)

    # ---- steps

    def new_volume(self):
        view = View(self.new_name("volume"), self.size, {}, 0)
        self.cluster.cli("volume", "create", view.name, "--size", view.size)
        self.views.append(view)
        self.connect(view)

    def touch(self, view, offset, length):
        for block in range(offset // BLOCK, (offset + length - 1) // BLOCK + 1):
            self.writes += 1
            view.content[block] = self.writes

    def clear(self, view, offset, length):
        for block in range(offset // BLOCK, (offset + length - 1) // BLOCK + 1):
            if block * BLOCK >= offset and (block + 1) * BLOCK <= offset + length:
                view.content.pop(block, None)
            elif block in view.content:
                # A part of it: what is left is another block.
                self.writes += 1
                view.content[block] = self.writes

    def range(self, view, unit, longest):
        length = unit * self.random.randint(1, longest // unit)
        return unit * self.random.randrange((view.size - length) // unit + 1), length

    def write(self):
        view = self.random.choice(self.volumes())
        kind = self.random.random()
        if kind < 0.5:      # a page of a table: most of them are written again and again
            length = self.random.choice((8192, 8192, 16384))
            pages = view.size // length
            offset = length * min(int(self.random.expovariate(12) * pages), pages - 1)
        elif kind < 0.7:    # the log: small pieces one after the other, round and round
            length = SECTOR * self.random.randint(1, 16)
            begin = view.size // 4 * 3
            if begin + view.log_end + length > view.size:
                view.log_end = 0
            offset = begin + view.log_end
            view.log_end += length
            if offset + length > view.size:
                return
        elif kind < 0.9:
            offset, length = self.range(view, SECTOR, 64 << 10)
        else:
            offset, length = self.range(view, 1, 400 << 10)
        view.handle.pwrite(self.random.randbytes(min(length, 64)).ljust(length, b"x"), offset)
        self.touch(view, offset, length)

    def trim(self):
        view = self.random.choice(self.volumes())
        offset, length = self.range(view, SECTOR, 2 * MIB if self.random.random() < 0.1 else 128 << 10)
        view.handle.trim(length, offset)
        self.clear(view, offset, length)

    def zero(self):
        view = self.random.choice(self.volumes())
        offset, length = self.range(view, SECTOR, 128 << 10)
        view.handle.zero(length, offset)
        self.clear(view, offset, length)

    def flush(self):
        self.random.choice(self.volumes()).handle.flush()

    def snapshot(self):
        if len(self.snapshots()) >= SNAPSHOTS_MAX:
            return self.delete_snapshot()
        several = self.random.random() < 0.2 and len(self.volumes()) > 1
        volumes = self.random.sample(self.volumes(), 2 if several else 1)
        made = [View(self.new_name("snapshot"), v.size, dict(v.content), v.depth, v) for v in volumes]
        also = [f"--also={v.name}={s.name}" for v, s in zip(volumes[1:], made[1:])]
        self.cluster.cli("snapshot", "create", volumes[0].name, made[0].name, "--deadline", "10s", *also)
        self.views += made

    def delete_snapshot(self):
        if snapshots := self.snapshots():
            view = self.random.choice(snapshots)
            self.cluster.cli("snapshot", "delete", view.name)
            self.views.remove(view)

    def clone(self):
        sources = [s for s in self.snapshots() if s.depth < DEPTH_MAX]
        if len(self.volumes()) >= VOLUMES_MAX or not sources:
            return
        source = self.random.choice(sources)
        view = View(self.new_name("clone"), source.size, dict(source.content), source.depth + 1)
        self.cluster.cli("snapshot", "clone", source.name, view.name)
        self.views.append(view)
        self.connect(view)

    def rollback(self):
        sources = [s for s in self.snapshots() if s.depth < DEPTH_MAX]
        if not sources:
            return
        source = self.random.choice(sources)
        view = source.parent
        if view.trashed or len(self.snapshots()) >= SNAPSHOTS_MAX:
            return
        self.disconnect(view)
        if self.random.random() < 0.5:
            safety = View(self.new_name("safety"), view.size, view.content, view.depth, view)
            self.cluster.cli("snapshot", "rollback", view.name, source.name, "--keep-as", safety.name)
            self.views.append(safety)
        else:
            self.cluster.cli("snapshot", "rollback", view.name, source.name, "--no-safety-snapshot")
        view.size, view.content, view.depth = source.size, dict(source.content), source.depth + 1
        self.connect(view)

    def resize(self):
        view = self.random.choice(self.volumes())
        size = BLOCK * self.random.randint(self.size // 2 // BLOCK, self.size // BLOCK)
        self.cluster.cli("volume", "resize", view.name, "--size", size, "--shrink")
        view.size = size
        for block in [b for b in view.content if b * BLOCK >= size]:
            del view.content[block]
        view.handle.shutdown()
        view.handle = nbd_client.connect(self.cluster.nbd_uri(view.name))

    def delete_volume(self):
        free = [v for v in self.volumes() if not self.snapshots(v) and not any(s.parent is v for s in self.views)]
        if len(self.volumes()) < 3 or not free:
            return
        view = self.random.choice(free)
        self.disconnect(view)
        if self.random.random() < 0.3:
            self.cluster.cli("volume", "delete", view.name, "--keep", "24h")
            view.trashed = True
        else:
            self.cluster.cli("volume", "delete", view.name)
            self.views.remove(view)

    def empty_trash(self):
        for view in [v for v in self.views if v.trashed]:
            self.cluster.cli("volume", "restore", view.name)
            self.cluster.cli("volume", "delete", view.name)
            self.views.remove(view)

    def step(self):
        kinds = ((self.write, 760), (self.trim, 90), (self.zero, 60), (self.flush, 50), (self.snapshot, 14),
                 (self.delete_snapshot, 8), (self.clone, 5), (self.rollback, 4), (self.resize, 4),
                 (self.delete_volume, 4), (self.new_volume if len(self.volumes()) < 3 else self.flush, 1),
                 (self.empty_trash, 1))
        kind = self.random.choices([k for k, _ in kinds], [w for _, w in kinds])[0]
        kind()
        self.steps += 1
        self.done[kind.__name__] += 1

    # ---- comparing

    def wait_for_drops(self):
        """Nothing is on its way that the MDM knows of."""
        def quiet():
            return sum(self.cluster.metric(self.cluster.mdm, name) for name in
                       ("tessera_mdm_pending_layer_drops", "tessera_mdm_pending_deletions")) == 0
        wait_until(quiet, "deleted things to be dropped", 300)

    def usage(self, *arguments):
        return self.cluster.cli_json("usage", *arguments)

    def check(self, settle=False):
        """All figures of volumes, snapshots and vtrees. Returns the pool's."""
        for view in self.volumes():
            view.handle.flush()
        if settle:
            self.settle()
        pool = self.usage()["pools"][0]
        equal(pool.get("silent_sds_ids", []), [], "silent servers")
        found = {v["volume_name"]: v for vtree in pool["vtrees"] for v in vtree["volumes"]}
        equal(sorted(found), sorted(view.name for view in self.views), "volumes and snapshots")
        viewers = collections.Counter()
        heads = set()
        for view in self.views:
            viewers.update(view.content.values())
            if not view.is_snapshot:
                heads.update(view.content.values())
        for view in self.views:
            of = found[view.name]
            equal(int(of["provisioned_bytes"]), view.size, f"size of {view.name}")
            equal(int(of["logical_bytes"]), len(view.content) * BLOCK, f"logical bytes of {view.name}")
            unique = sum(viewers[write] == 1 for write in view.content.values())
            equal(int(of["unique_bytes"]), unique * BLOCK, f"unique bytes of {view.name}")
            equal(of["trashed"], view.trashed, f"{view.name} in the trash")
        by_vtree = collections.defaultdict(list)
        for view in self.views:
            by_vtree[found[view.name]["vtree_id"]].append(view)
        for vtree in pool["vtrees"]:
            writes = set().union(*(view.content.values() for view in by_vtree[vtree["vtree_id"]]))
            seen = int(vtree["data_bytes"]) - int(vtree["reclaimable_bytes"])
            equal(seen, len(writes) * BLOCK, f"data bytes of vtree {vtree['vtree_id']}")
            equal(int(vtree["snapshot_bytes"]), len(writes - heads) * BLOCK, f"snapshot bytes of {vtree['vtree_id']}")
            equal(int(vtree["provisioned_bytes"]),
                  sum(v.size for v in by_vtree[vtree["vtree_id"]] if not v.is_snapshot), "provisioned bytes")
            least = REPLICAS * seen
            if int(vtree["raw_data_bytes"]) < least:
                raise AssertionError(f"{vtree['raw_data_bytes']} raw bytes for {seen} bytes seen")
        for field in ("provisioned_bytes", "data_bytes", "snapshot_bytes", "reclaimable_bytes"):
            equal(int(pool[field]), sum(int(v[field]) for v in pool["vtrees"]), field)
        equal(int(pool["logical_bytes"]), sum(len(v.content) for v in self.views if not v.is_snapshot) * BLOCK, "logical")
        equal(int(pool["raw_data_bytes"]),
              sum(int(v["raw_data_bytes"]) for v in pool["vtrees"]) + int(pool["raw_deleted_bytes"]), "raw data")
        equal(int(pool["raw_used_bytes"]), int(pool["raw_data_bytes"]) + int(pool["raw_overhead_bytes"]), "raw used")
        if settle:
            equal(int(pool["raw_deleted_bytes"]), 0, "bytes of what was deleted")
            equal(int(pool["reclaimable_bytes"]), 0, "bytes that nobody sees")
            equal(int(pool["raw_data_bytes"]), REPLICAS * int(pool["data_bytes"]), "copies")
        one = self.random.choice(self.views)
        whole = [v for v in pool["vtrees"] if v["vtree_id"] == found[one.name]["vtree_id"]]
        alone = self.usage("--volume", one.name)["pools"][0]["vtrees"]
        for field in ("volumes", "snapshot_bytes"):     # not what is just being dropped
            equal([v[field] for v in whole], [v[field] for v in alone], f"{field} of the vtree by itself")
        return pool

    def settle(self):
        """What fell out of sight since its servers looked last goes: they look again when a snapshot is deleted."""
        def clean():
            self.wait_for_drops()
            pool = self.usage()["pools"][0]
            if int(pool["reclaimable_bytes"]) == 0 and int(pool["raw_deleted_bytes"]) == 0 and \
                    int(pool["raw_data_bytes"]) == REPLICAS * int(pool["data_bytes"]):
                return True
            for vtree in pool["vtrees"]:
                heads = [v["volume_name"] for v in vtree["volumes"]
                         if v["kind"] == "VOLUME_KIND_VOLUME" and not v["trashed"]]
                if heads:
                    self.cluster.cli("snapshot", "create", heads[0], "settle", "--deadline", "10s")
                    self.cluster.cli("snapshot", "delete", "settle")
            return False
        self.empty_trash()
        wait_until(clean, "all that nobody sees to be dropped", 300)

    def check_devices(self):
        """What the devices' folders take, as `du` counts it, is what the pool says. Returns both."""
        last = {}

        def same():
            before = du(self.cluster)
            last["said"] = int(self.usage()["pools"][0]["raw_used_bytes"])
            last["du"] = du(self.cluster)
            return before == last["du"] == last["said"]
        try:
            wait_until(same, "du and the pool to agree", 120)
        except TimeoutError as late:
            raise AssertionError(f"{late}: {last}") from late
        return last

    def close(self):
        for view in self.volumes():
            if view.handle is not None:
                view.handle.shutdown()
                view.handle = None


def du(cluster):
    """What `du` says of all device folders."""
    folders = [folder for sds in cluster.sds for folder in sorted(sds.state.glob("device*"))]
    lines = run(["du", "-s", "-B1", *folders]).splitlines()
    return sum(int(line.split()[0]) for line in lines)


def equal(found, expected, what):
    if found != expected:
        raise AssertionError(f"{what}: {found}, expected {expected}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--checks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "little"))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.steps} steps", flush=True)
    cluster = tessera.Cluster(servers=3)
    try:
        cluster.start()
        cluster.create_pool(replicas=REPLICAS)
        day = Day(cluster, arguments.seed)
        began = time.monotonic()
        print("step  views  provisioned  logical  data  snapshots  reclaimable  raw data  raw used = du (MiB)", flush=True)
        for number in range(1, arguments.checks + 1):
            while day.steps < arguments.steps * number // arguments.checks:
                day.step()
            pool = day.check(settle=number == arguments.checks)
            used = day.check_devices()
            figures = [f"{int(pool[f]) / MIB:.2f}" for f in
                       ("provisioned_bytes", "logical_bytes", "data_bytes", "snapshot_bytes", "reclaimable_bytes",
                        "raw_data_bytes")]
            print(day.steps, len(day.views), *figures, f"{used['said'] / MIB:.2f} = {used['du'] / MIB:.2f}", flush=True)
        day.close()
        print(f"all equal; {time.monotonic() - began:.0f} s; {dict(day.done)}")
    finally:
        cluster.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
