"""Snapshots by schedule, volumes that delete themselves, and clones that are flattened: real processes."""
import os
import random
import sys
import threading
import unittest

sys.path.append(os.path.join(os.path.dirname(__file__), "..", "faults"))
import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
from end_to_end_test import ClusterTest  # noqa: E402  pylint: disable=wrong-import-position
import nbd_client  # noqa: E402  pylint: disable=wrong-import-position

MIB = 1 << 20
BLOCK = 4096
DEPTH = 16


class Lifecycle(ClusterTest):
    def read(self, uri, offset, length):
        handle = nbd_client.connect(uri)
        found = bytes(handle.pread(length, offset))
        handle.shutdown()
        return found

    def write(self, uri, offset, text):
        handle = nbd_client.connect(uri)
        handle.pwrite(text, offset)
        handle.flush()
        handle.shutdown()

    def refused(self, *arguments):
        with self.assertRaises(tessera.CommandFailed) as failed:
            self.cluster.cli(*arguments)
        return failed.exception.output

    def snapshots(self, volume):
        return {v["name"]: v for v in self.cluster.cli_json("snapshot", "list", volume)["volumes"]}

    def gone(self, name):
        return not any(v["name"] == name for v in self.cluster.cli_json("volume", "list")["volumes"])

    def data_bytes(self):
        return sum(self.cluster.metric(sds, "tessera_device_data_bytes") for sds in self.cluster.sds)

    def settled_bytes(self):
        """What blocks take on all devices once nothing is left to drop."""
        seen = [None]

        def settled():
            now = self.data_bytes()
            pending = sum(self.cluster.metric(self.cluster.mdm, f"tessera_mdm_pending_{what}")
                          for what in ("layer_drops", "deletions"))
            before, seen[0] = seen[0], now
            return before == now and pending == 0
        tessera.wait_until(settled, "layers to be dropped", 120)
        return seen[0]

    # ---- Schedules.

    def test_a_schedule_makes_and_deletes_its_own(self):
        first = self.volume("planned-a", "8MiB")
        second = self.volume("planned-b", "8MiB")
        self.write(first, 0, b"one")
        self.cluster.cli("volume", "label", "planned-b", "plan=yes")
        self.cluster.cli("schedule", "create", "often", "--every", "1h", "--volume", "planned-a", "--label", "plan=yes",
                         "--keep-last", "2", "--consistent", "--pause")
        self.cluster.cli("snapshot", "create", "planned-a", "by-hand")
        made = []
        for number in range(3):
            self.write(first, 0, f"run {number}".encode())
            self.write(second, 0, f"run {number}".encode())
            run = self.cluster.cli_json("schedule", "run", "often")
            self.assertEqual(sorted(v["parent_name"] for v in run["snapshots"]), ["planned-a", "planned-b"])
            self.assertEqual(len(run["deleted_snapshot_ids"]), 2 if number == 2 else 0)
            made.append(next(v["name"] for v in run["snapshots"] if v["parent_name"] == "planned-a"))
        self.assertRegex(made[0], r"^planned-a-often-\d{8}T\d{6}Z$")
        self.assertEqual(sorted(self.snapshots("planned-a")), sorted(["by-hand"] + made[1:]))
        self.cluster.cli("volume", "map", made[1], "--read-only")
        self.assertEqual(self.read(self.cluster.nbd_uri(made[1]), 0, 5), b"run 1")
        # What is mapped stays, and so does what has no label any more; then neither is in the way.
        self.cluster.cli("volume", "label", made[2], "tessera.schedule-")
        self.assertIn("schedule", self.refused("volume", "label", "by-hand", "tessera.schedule=1"))
        for _ in range(2):
            self.cluster.cli("schedule", "run", "often")
        left = self.snapshots("planned-a")
        self.assertEqual(len(left), 5)
        self.assertTrue({"by-hand", made[1], made[2]} <= set(left))
        self.cluster.cli("volume", "unmap", made[1])
        shown = self.cluster.cli_json("schedule", "show", "often")
        self.assertTrue(shown["paused"])
        self.assertEqual(shown["last_error"], "")
        self.assertIn("paused", self.cluster.cli("schedule", "list"))
        self.cluster.cli("schedule", "set", "often", "--every", "2h", "--keep-daily", "3", "--resume")
        shown = self.cluster.cli_json("schedule", "show", "often")
        self.assertEqual(shown["interval_seconds"], 7200)
        self.assertEqual((shown["retention"]["keep_last"], shown["retention"]["keep_daily"]), (2, 3))
        self.assertNotEqual(shown["next_run_ms"], "0")
        self.assertIn("60", self.refused("schedule", "set", "often", "--every", "90s"))
        self.cluster.cli("schedule", "delete", "often")
        for volume in ("planned-a", "planned-b"):
            for name in self.snapshots(volume):
                self.cluster.cli("snapshot", "delete", name)

    # ---- Volumes that delete themselves.

    def test_a_clone_deletes_itself_in_use(self):
        uri = self.volume("lasting", "8MiB")
        self.write(uri, 0, b"kept")
        self.cluster.cli("snapshot", "create", "lasting", "lasting-1")
        self.cluster.cli("snapshot", "clone", "lasting-1", "fleeting", "--expires", "1h")
        self.cluster.cli("volume", "map", "fleeting")
        clone = self.cluster.nbd_uri("fleeting")
        self.write(clone, 0, b"gone")
        self.assertIn("expires", self.cluster.cli("volume", "show", "fleeting"))
        handle = nbd_client.connect(clone)
        self.cluster.cli("volume", "set", "fleeting", "--expires", "2s")
        tessera.wait_until(lambda: self.gone("fleeting"), "the clone to expire", 60)

        def refused():
            try:
                handle.pwrite(b"late", 0)
                return False
            except nbd_client.nbd.Error:
                return True
        tessera.wait_until(refused, "writes to it to fail", 60)
        self.cluster.cli("snapshot", "clone", "lasting-1", "staying", "--expires", "2s")
        self.cluster.cli("volume", "set", "staying", "--expires", "never")
        self.cluster.cli("volume", "set", "lasting-1", "--expires", "1s")
        tessera.wait_until(lambda: self.gone("lasting-1"), "the snapshot to expire", 60)
        self.assertFalse(self.gone("staying"))
        self.assertEqual(self.read(uri, 0, 4), b"kept")
        self.cluster.cli("volume", "map", "staying")
        self.assertEqual(self.read(self.cluster.nbd_uri("staying"), 0, 4), b"kept")
        self.remove("staying")

    # ---- Flattening.

    def test_the_deepest_clone_is_flattened_under_load(self):
        seed = int(os.environ.get("TESSERA_LIFECYCLE_SEED", "0")) or int.from_bytes(os.urandom(3), "little")
        print(f"{self.id()}: TESSERA_LIFECYCLE_SEED={seed}")
        rng = random.Random(seed)
        size = 24 * MIB
        empty = self.settled_bytes()
        self.cluster.create_volume("deep-1", "24MiB")
        content = bytearray(size)

        def put(uri, offset, text):
            self.write(uri, offset, text)
            content[offset:offset + len(text)] = text
        # Some chunks are never written at all.
        for chunk in rng.sample(range(24), 16):
            put(self.cluster.nbd_uri("deep-1"), chunk * MIB, rng.randbytes(rng.randrange(1, 64) * BLOCK))
        for depth in range(2, DEPTH + 1):
            self.cluster.cli("snapshot", "create", f"deep-{depth - 1}", f"of-{depth}")
            self.cluster.cli("volume", "unmap", f"deep-{depth - 1}")
            self.cluster.cli("snapshot", "clone", f"of-{depth}", f"deep-{depth}")
            self.cluster.cli("volume", "map", f"deep-{depth}")
            put(self.cluster.nbd_uri(f"deep-{depth}"), rng.randrange(size // BLOCK - 8) * BLOCK,
                rng.randbytes(rng.randrange(1, 8) * BLOCK))
        deepest = f"deep-{DEPTH}"
        self.cluster.cli("snapshot", "create", deepest, "before")
        self.assertIn("deep", self.refused("snapshot", "clone", "before", "too-deep"))
        before = bytes(content)
        uri = self.cluster.nbd_uri(deepest)
        stop = threading.Event()
        errors = []

        def load():
            try:
                handle = nbd_client.connect(uri)
                while not stop.is_set():
                    offset = rng.randrange(size // BLOCK) * BLOCK
                    text = rng.randbytes(BLOCK)
                    handle.pwrite(text, offset)
                    content[offset:offset + BLOCK] = text
                    where = rng.randrange(size // BLOCK) * BLOCK
                    if bytes(handle.pread(BLOCK, where)) != bytes(content[where:where + BLOCK]):
                        raise AssertionError(f"block at {where} is another than was written")
                handle.flush()
                handle.shutdown()
            except Exception as error:  # pylint: disable=broad-except
                errors.append(error)
        thread = threading.Thread(target=load)
        thread.start()
        try:
            flat = self.cluster.cli_json("volume", "flatten", deepest)
        finally:
            stop.set()
            thread.join()
        self.assertEqual(errors, [])
        self.assertEqual(len(flat["path"]["parts"]), 1)
        self.assertEqual(self.read(uri, 0, size), bytes(content))
        self.cluster.verify(deepest)
        # What was made before is as it was; what is made now can be cloned.
        self.cluster.cli("volume", "map", "before", "--read-only")
        self.assertEqual(self.read(self.cluster.nbd_uri("before"), 0, size), before)
        self.cluster.cli("volume", "unmap", "before")
        self.cluster.cli("snapshot", "create", deepest, "after")
        self.cluster.cli("snapshot", "clone", "after", "again")
        self.cluster.cli("volume", "map", "again")
        self.assertEqual(self.read(self.cluster.nbd_uri("again"), 0, size), bytes(content))
        # All others go, and with them what only they saw; the rest is there, also for servers that start anew.
        self.cluster.cli("snapshot", "delete", "before")
        for depth in range(1, DEPTH):
            self.cluster.cli("snapshot", "delete", f"of-{depth + 1}")
            self.cluster.cli("volume", "delete", f"deep-{depth}")
        self.cluster.cli("snapshot", "delete", "after")
        kept = self.settled_bytes() - empty
        blocks = sum(1 for offset in range(0, size, BLOCK) if any(content[offset:offset + BLOCK]))
        self.assertEqual(kept, 2 * blocks * BLOCK)
        self.cluster.kill_all()
        self.cluster.restart_all()
        self.wait_healthy()
        for name in (deepest, "again"):
            self.assertEqual(self.read(self.cluster.nbd_uri(name), 0, size), bytes(content))
        for name in (deepest, "again"):
            self.remove(name)
        tessera.wait_until(lambda: self.data_bytes() == empty, "all blocks to be given back", 120)


if __name__ == "__main__":
    unittest.main()
