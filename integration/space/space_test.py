"""Space: what the cluster says of it is what was done, to the byte, and what `du` says; budgets; promises. Real processes."""
import errno
import os
import unittest

import cluster as tessera
from cluster import wait_until
from end_to_end_test import ClusterTest, need
import day
import nbd_client

MIB = 1 << 20


class SpaceOfADay(ClusterTest):
    steps = 600

    def test_all_figures_equal_what_was_done_and_what_du_says(self):
        seed = int(os.environ.get("TESSERA_SPACE_SEED", "0")) or int.from_bytes(os.urandom(3), "little")
        print(f"{self.id()}: TESSERA_SPACE_SEED={seed}")
        databases = day.Day(self.cluster, seed, size=12 * MIB)
        self.addCleanup(databases.close)
        for part in range(1, 5):
            while databases.steps < self.steps * part // 4:
                databases.step()
            databases.check(settle=part == 4)
        databases.check_devices()


class Space(ClusterTest):
    servers = 3

    def usage(self, *arguments):
        return self.cluster.cli_json("usage", *arguments)["pools"][0]

    def of(self, name):
        return {v["volume_name"]: v for v in self.usage("--volume", name)["vtrees"][0]["volumes"]}[name]

    def refused(self, *arguments):
        with self.assertRaises(tessera.CommandFailed) as failed:
            self.cluster.cli(*arguments)
        return failed.exception.output

    def test_a_server_that_is_away_is_named_and_the_rest_is_still_counted(self):
        uri = self.volume("counted", "64MiB")
        handle = nbd_client.connect(uri)
        handle.pwrite(b"x" * (4 * MIB), 0)
        handle.flush()
        self.assertIn("counted", self.cluster.cli("usage"))
        whole = self.usage("--volume", "counted")
        self.assertEqual(whole["silent_sds_ids"], [])
        self.assertEqual(int(whole["raw_data_bytes"]), 8 * MIB)
        away = self.cluster.sds[0]
        away.kill()
        handle.pwrite(b"y" * 4096, 32 * MIB)    # goes on when the server is out of the set
        handle.flush()
        wait_until(lambda: len(self.usage("--volume", "counted")["silent_sds_ids"]) == 1, "the server to be missed")
        self.assertEqual(int(self.of("counted")["logical_bytes"]), 4 * MIB + 4096)
        handle.shutdown()
        away.start()
        self.wait_healthy()
        wait_until(lambda: int(self.usage("--volume", "counted")["raw_data_bytes"]) == 2 * (4 * MIB + 4096), "both copies")
        self.assertEqual(self.usage()["silent_sds_ids"], [])

    def test_a_clone_over_its_budget_takes_no_writes_until_it_has_trimmed(self):
        origin = nbd_client.connect(self.volume("origin", "16MiB"))
        origin.pwrite(b"o" * (8 * MIB), 0)
        origin.flush()
        self.cluster.cli("snapshot", "create", "origin", "origin-1")
        self.addCleanup(self.cluster.cli, "snapshot", "delete", "origin-1")
        self.assertIn("byte_budget", self.refused("snapshot", "clone", "origin-1", "copy", "--budget", "4KiB"))
        self.cluster.cli("snapshot", "clone", "origin-1", "copy", "--budget", "2MiB")
        self.addCleanup(self.remove, "copy")
        self.cluster.cli("volume", "map", "copy")
        copy = nbd_client.connect(self.cluster.nbd_uri("copy"))
        # What it shares does not count.
        copy.pwrite(b"c" * MIB, 0)
        copy.flush()
        self.assertEqual(int(self.of("copy")["logical_bytes"]), 8 * MIB)
        self.assertEqual(int(self.of("copy")["unique_bytes"]), MIB)
        # Exactly the budget is within it.
        copy.pwrite(b"c" * (2 * MIB), 0)
        copy.flush()
        self.assertEqual(int(self.of("copy")["unique_bytes"]), 2 * MIB)
        self.assertFalse(self.attachment("copy")["over_budget"])
        copy.pwrite(b"c" * 4096, 2 * MIB)
        wait_until(lambda: self.attachment("copy")["over_budget"], "the client to know", 90)
        with self.assertRaises(nbd_client.Error) as failed:
            copy.pwrite(b"d" * 4096, 0)
        self.assertEqual(failed.exception.errnum, errno.ENOSPC)
        self.assertIn("exceeded", self.cluster.cli("volume", "show", "copy"))
        self.assertEqual(bytes(copy.pread(2, 2 * MIB + 4095)), b"co")
        copy.flush()
        origin.pwrite(b"p" * 4096, 0)           # its origin has no budget
        copy.trim(MIB + MIB // 2, 0)
        copy.flush()
        wait_until(lambda: not self.attachment("copy")["over_budget"], "the trim to be noticed", 90)
        copy.pwrite(b"d" * 4096, 0)
        events = self.cluster.cli("event", "list")
        self.assertIn("volume_over_budget", events)
        self.assertIn("volume_within_budget", events)
        copy.shutdown()
        origin.shutdown()

    def attachment(self, name):
        need("grpcurl")
        listed = self.cluster.grpcurl("SdcControlService/ListAttachments",
                                      address=self.cluster.sdc.endpoints()["control"])["attachments"]
        return [a for a in listed if a["volume_name"] == name][0]

    def test_a_pool_has_thresholds_and_a_limit_to_what_it_promises(self):
        pool = self.cluster.cli_json("pool", "show", "pool1")
        self.assertEqual(pool["capacity"]["state"], "CAPACITY_STATE_NORMAL")
        self.assertEqual(pool["capacity_policy"]["warn_percent"], 80)
        self.addCleanup(self.cluster.cli, "pool", "set", "pool1", "--overcommit-limit", "0", "--warn", "80", "--critical", "90")
        self.assertIn("warn_percent", self.refused("pool", "set", "pool1", "--warn", "99"))
        self.cluster.cli("pool", "set", "pool1", "--overcommit-limit", "100")
        usable = int(pool["capacity"]["raw_capacity_bytes"]) // 2
        huge = (usable + (64 << 30)) // 4096 * 4096
        self.assertIn("its limit is 100 %", self.refused("volume", "create", "huge", "--size", huge))
        self.cluster.cli("pool", "set", "pool1", "--overcommit-limit", "1000")
        self.cluster.cli("volume", "create", "huge", "--size", huge)
        self.addCleanup(self.cluster.cli, "volume", "delete", "huge")
        self.assertGreater(self.cluster.cli_json("pool", "show", "pool1")["capacity"]["overcommit_percent"], 100)
        self.cluster.cli("pool", "set", "pool1", "--warn", "1", "--critical", "100")
        self.assertIn("warning", self.cluster.cli("pool", "list"))
        self.assertIn("pool pool1 is", self.cluster.cli("status"))
        self.assertIn("pool_capacity_warning", self.cluster.cli("event", "list"))
        warning = 'tessera_mdm_pool_capacity_state{pool="pool1",state="warning"}'
        wait_until(lambda: self.cluster.metric(self.cluster.mdm, warning) == 1, "the metric")
        self.assertGreater(self.cluster.metric(self.cluster.mdm, "tessera_mdm_pool_used_bytes"), 0)
        wait_until(lambda: self.cluster.metric(self.cluster.mdm, "tessera_mdm_pool_provisioned_bytes") >= huge, "the size")


if __name__ == "__main__":
    unittest.main()
