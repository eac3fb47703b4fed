"""Damaged, full and dying disks, under real processes: what was flushed is there, what is wrong is told."""
import errno
import json
import os
import pathlib
import random
import shutil
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import resync  # noqa: E402  pylint: disable=wrong-import-position
import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
from cluster import wait_until  # noqa: E402  pylint: disable=wrong-import-position
from device_files import flip  # noqa: E402  pylint: disable=wrong-import-position
from fault_cluster import DEGRADED, FaultCluster  # noqa: E402  pylint: disable=wrong-import-position
from fault_disk import FaultDisk, need_fuse  # noqa: E402  pylint: disable=wrong-import-position
from hosts import need_root_and_tools  # noqa: E402  pylint: disable=wrong-import-position
from load import VerifyingLoad  # noqa: E402  pylint: disable=wrong-import-position
import nbd_client  # noqa: E402  pylint: disable=wrong-import-position

MIB = 1 << 20
BLOCK = 4096


def setUpModule():
    os.environ["PATH"] += os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    need_root_and_tools()


class DamageTest(unittest.TestCase):
    cluster = None

    def start(self, **options):
        self.cluster = FaultCluster(**{"clients": 1, "journal_mib": 64, **options})
        self.addCleanup(self.cluster.stop)
        self.addCleanup(self.tell_logs)
        self.cluster.start()
        self.cluster.create_pool(placement_groups=16)
        return self.cluster

    def tell_logs(self):
        if not self._outcome.success and self.cluster.network:
            self.cluster.print_logs()

    def connect(self, uri):
        handle = nbd_client.connect(uri)
        return handle


class FlippedBytes(DamageTest):
    def block(self, number):
        """Content that names its block in the first bytes."""
        return (b"block %08d " % number).ljust(64, b"#") + bytes([number % 251]) * (BLOCK - 64)

    def write_blocks(self, handle, count):
        for number in range(count):
            handle.pwrite(self.block(number), number * BLOCK)
        handle.flush()

    def flip_on(self, sds, numbers):
        folder = self.cluster.folder / sds.name / "device1"
        return sum(flip(folder, self.block(number)[:64]) > 0 for number in numbers)

    def checksum_errors(self):
        name = 'tessera_sds_io_results_total{'
        total = 0
        for sds in self.cluster.sds:
            page = sds.host.fetch(f"http://{sds.endpoints()['metrics']}/metrics")
            total += sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines()
                         if line.startswith(name) and "checksum" in line.lower())
        return total

    def test_flipped_bytes_of_one_replica_are_never_returned_and_of_all_are_an_error(self):
        cluster = self.start(servers=2)
        handle = self.connect(cluster.create_volume("volume", "64MiB"))
        count = 2048
        self.write_blocks(handle, count)
        bad = random.Random(7).sample(range(count), 40)
        self.assertEqual(self.flip_on(cluster.sds[0], bad), len(bad))
        for round_number in range(4):
            for number in range(count):
                self.assertEqual(handle.pread(BLOCK, number * BLOCK), self.block(number),
                                 f"block {number} in round {round_number}")
        self.assertGreater(self.checksum_errors(), 0)
        lost = bad[:10]
        self.assertEqual(self.flip_on(cluster.sds[1], lost), len(lost))
        # Where the first replica was repaired meanwhile, both are bad only after another flip.
        self.flip_again(cluster.sds[0], lost)
        failed = []
        for number in range(count):
            try:
                self.assertEqual(handle.pread(BLOCK, number * BLOCK), self.block(number))
            except nbd_client.Error as error:
                self.assertEqual(error.errnum, errno.EIO)
                failed.append(number)
        self.assertEqual(failed, sorted(lost))
        wait_until(lambda: int(self.volume_health().get("unreadable_blocks", 0)) == len(lost),
                   "the lost blocks to be told of", 60)
        health = self.volume_health()
        self.assertEqual(health["verdict"], "VOLUME_VERDICT_DAMAGED")
        self.assertIn("bad on every replica in sync", health["cause"])
        self.assertTrue(self.events("corrupt_block_unrepairable"))
        # Written anew they are good again.
        for number in lost:
            handle.pwrite(self.block(number), number * BLOCK)
        for number in range(count):
            self.assertEqual(handle.pread(BLOCK, number * BLOCK), self.block(number))
        wait_until(lambda: self.volume_health()["verdict"] == "VOLUME_VERDICT_HEALTHY", "the volume to be whole", 120)

    def events(self, code):
        """Messages of all events of the code so far."""
        found, after = [], 0
        while True:
            page = self.cluster.cli_json("event", "list", "--after", str(after)).get("events", [])
            if not page:
                return found
            found += [event["message"] for event in page if event["code"] == code]
            after = int(page[-1]["event_id"])

    def counted(self, sds, what):
        return self.cluster.metric(sds, f"tessera_sds_corrupt_blocks_{what}_total")

    def test_bad_blocks_of_one_replica_are_repaired_counted_and_told_of(self):
        cluster = self.start(servers=2)
        handle = self.connect(cluster.create_volume("volume", "64MiB"))
        count = 1024
        self.write_blocks(handle, count)
        victim, other = cluster.sds
        bad = random.Random(8).sample(range(count), 30)
        self.assertEqual(self.flip_on(victim, bad), len(bad))
        for number in range(count):
            self.assertEqual(handle.pread(BLOCK, number * BLOCK), self.block(number))
        # Scrub finds what no read has met.
        done = cluster.cli("scrub", "start", "--volume", "volume", "--wait")
        self.assertIn("succeeded", done)
        wait_until(lambda: self.counted(victim, "repaired") == len(bad), "all bad blocks to be repaired", 30)
        self.assertEqual(self.counted(victim, "found"), len(bad))
        self.assertEqual(self.counted(other, "found"), 0)
        self.assertEqual(self.counted(victim, "unrepairable"), 0)
        wait_until(lambda: self.events("corrupt_block_repaired"), "the event of a repair", 30)
        found = self.events("corrupt_block_found")
        self.assertTrue(all("volume volume: block" in message and "of sds1" in message for message in found), found)
        # What was repaired is on the victim's own disk.
        handle.flush()
        other.kill()
        for number in range(count):
            self.assertEqual(handle.pread(BLOCK, number * BLOCK), self.block(number), f"block {number} of the victim")
        other.start()
        cluster.wait_redundant()
        self.assertIn(", 0 different", cluster.verify("volume"))

    def test_scrub_finds_cold_damage_shows_progress_and_can_be_cancelled(self):
        cluster = self.start(servers=2)
        handle = self.connect(cluster.create_volume("volume", "64MiB"))
        count = 2048
        self.write_blocks(handle, count)
        bad = random.Random(9).sample(range(count), 12)
        self.assertEqual(self.flip_on(cluster.sds[1], bad), len(bad))
        slow = cluster.cli_json("scrub", "start", "--pool", "pool1", "--rate", "512KiB")["operation_id"]

        def operation(number):
            listed = cluster.cli_json("scrub", "list", "--all").get("operations", [])
            return next(one for one in listed if one["operation_id"] == number)

        wait_until(lambda: 0 < int(operation(slow)["bytes_done"]) < int(operation(slow)["bytes_total"]),
                   "the scrub to be under way", 60)
        self.assertEqual(operation(slow)["devices_total"], 2)
        cluster.cli("scrub", "cancel", slow)
        self.assertEqual(operation(slow)["state"], "OPERATION_STATE_CANCELLED")
        wait_until(lambda: not any(one.get("running") for one in
                                   cluster.cli_json("scrub", "status").get("devices", [])),
                   "the devices to stop", 30)
        fast = cluster.cli_json("scrub", "start", "--pool", "pool1")["operation_id"]
        wait_until(lambda: operation(fast)["state"] == "OPERATION_STATE_SUCCEEDED", "the scrub to end", 90)
        ended = operation(fast)
        self.assertEqual(ended["devices_done"], 2)
        self.assertGreaterEqual(int(ended["bytes_done"]), 2 * count * BLOCK)
        wait_until(lambda: self.counted(cluster.sds[1], "repaired") == len(bad), "the repair of all", 30)
        self.assertEqual(int(ended["blocks_different"]), 0)
        self.assertTrue(self.events("scrub_done"))
        for number in range(count):
            self.assertEqual(handle.pread(BLOCK, number * BLOCK), self.block(number))

    def volume_health(self):
        """The volume's verdict."""
        try:
            return self.cluster.cli_json("health")["volumes"][0]
        except tessera.CommandFailed as error:
            if error.code != DEGRADED:
                raise
            return json.loads(error.output)["volumes"][0]

    def flip_again(self, sds, numbers):
        """Flips what reads well on the replica alone; a flip of a flipped bit would mend it."""
        folder = self.cluster.folder / sds.name / "device1"
        for number in numbers:
            flip(folder, self.block(number)[:101])


class FullDevice(DamageTest):
    def small_device(self, number):
        """A file system of 384 MiB on a server's host."""
        def flags():
            host = self.cluster.part(f"sds{number}").host
            path = self.cluster.folder / f"small{number}"
            if not path.exists():
                path.mkdir()
                host.run("mount", "-t", "tmpfs", "-o", "size=384m", "tmpfs", path)
            return [f"{path},pool=pool1"]
        return flags

    def test_writes_fail_cleanly_trim_and_delete_work_and_space_returns(self):
        self.cluster = None
        devices = {1: lambda: self.small_device(1)(), 2: lambda: self.small_device(2)()}
        cluster = self.start(servers=2, device_flags=devices)
        handle = self.connect(cluster.create_volume("volume", "1GiB"))
        content = os.urandom(MIB)
        written, refused = [], None
        for mib in range(1024):
            try:
                handle.pwrite(content, mib * MIB)
                written.append(mib)
            except nbd_client.Error as error:
                refused = error.errnum
                break
        self.assertEqual(refused, errno.ENOSPC, f"after {len(written)} MiB")
        self.assertGreater(len(written), 100)
        handle.flush()
        for mib in written:
            self.assertEqual(handle.pread(MIB, mib * MIB), content, f"MiB {mib} after ENOSPC")
        # Nobody lost a replica by it: all of them are full alike.
        cluster.wait_redundant()
        half = written[:len(written) // 2]
        for mib in half:
            handle.trim(MIB, mib * MIB)
        handle.flush()

        def writable():
            try:
                for mib in half[:len(half) // 2]:
                    handle.pwrite(content, mib * MIB)
                return True
            except nbd_client.Error as error:
                self.assertEqual(error.errnum, errno.ENOSPC)
                return False
        wait_until(writable, "trimmed space to return", 60)
        for mib in written[len(half):]:
            self.assertEqual(handle.pread(MIB, mib * MIB), content)
        cluster.wait_redundant()
        self.assertIn(", 0 different", cluster.verify("volume"))
        self.fill_up(handle)
        handle.shutdown()
        cluster.cli("volume", "unmap", "volume")
        cluster.cli("volume", "delete", "volume")
        again = self.connect(cluster.create_volume("next", "64MiB"))

        def fits():
            try:
                again.pwrite(content, 0)
                return True
            except nbd_client.Error:
                return False
        wait_until(fits, "the deleted volume's space to return", 60)

    def fill_up(self, handle):
        piece = os.urandom(MIB)
        for mib in range(1024):
            try:
                handle.pwrite(piece, mib * MIB)
            except nbd_client.Error:
                return
        self.fail("the device never got full")


class PowerCut(DamageTest):
    rounds = 4

    def setUp(self):
        need_fuse()
        self.disks = {}

    def device(self, number):
        def flags():
            if number not in self.disks:
                host = self.cluster.part(f"sds{number}").host
                self.disks[number] = FaultDisk(host, self.cluster.folder / f"disk{number}")
            return [f"{self.disks[number].mount},pool=pool1"]
        return flags

    def test_power_cuts_of_all_servers_at_once_lose_nothing_that_was_flushed(self):
        seed = int(os.environ.get("TESSERA_SEED", "4711"))
        print(f"seed {seed}")
        cluster = self.start(device_flags={n: self.device(n) for n in (1, 2, 3)})
        load = VerifyingLoad(cluster.create_volume("volume", "32MiB"), seed, blocks=2048, rate=400, flush_every=40)
        self.addCleanup(load.kill)
        undone = 0
        for round_number in range(self.rounds):
            load.wait_for_progress(800)
            for sds in cluster.sds:
                sds.process.kill()
            for sds in cluster.sds:
                sds.process.wait(60)
            load.crashed()
            for number, sds in enumerate(cluster.sds, 1):
                undone += self.disks[number].power_cut(seed + 10 * round_number + number)
                sds.host.boot()
            for sds in cluster.sds:
                sds.start()
            load.wait_for_progress(200, timeout=120)
            cluster.wait_redundant()
        verdict = load.verdict()
        print(f"{undone} sectors and names taken back; {verdict}")
        self.assertGreater(undone, 0)
        self.assertEqual(verdict["violations"], 0, verdict)
        self.assertTrue(verdict["read_back"])
        self.assertIn(", 0 different", cluster.verify("volume"))


class LostDevice(DamageTest):
    def test_a_deleted_data_folder_is_noticed_and_nothing_is_lost(self):
        cluster = self.start()
        load = VerifyingLoad(cluster.create_volume("volume", "32MiB"), 11, blocks=8192, rate=300)
        self.addCleanup(load.kill)
        load.wait_for_progress(1000)
        victim = cluster.sds[0]
        victim.kill()
        shutil.rmtree(cluster.folder / "sds1" / "device1")
        victim.start()
        load.wait_for_progress(1000)
        verdict = load.verdict()
        self.assertEqual(verdict["violations"], 0, verdict)
        self.assertTrue(verdict["read_back"])
        self.assertIn(", 0 different", cluster.verify("volume"))


class Resync(unittest.TestCase):
    def test_a_returning_replica_transfers_only_what_changed(self):
        copied = resync.measure(256, 8) / MIB
        self.assertGreaterEqual(copied, 8)
        self.assertLessEqual(copied, 10)


if __name__ == "__main__":
    unittest.main()
