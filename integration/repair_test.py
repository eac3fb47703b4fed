"""Redundancy comes back by itself, and servers can be taken out: real processes, kill -9, IO all the while."""
import json
import signal
import threading
import time
import unittest

import cluster as tessera
from cluster import wait_until
from end_to_end_test import fio, need


class RepairTest(unittest.TestCase):
    """Four servers, two copies; a server counts as away after five seconds."""

    def setUp(self):
        need("fio", "nbdcopy")
        self.cluster = tessera.Cluster(servers=4, mdm_options=["--stale-after", "5s", "--heartbeat-interval", "200ms"])
        self.addCleanup(self.cluster.stop)
        self.patient()
        self.cluster.start()
        self.cluster.create_pool(placement_groups=16)
        self.settings("--delay", "1s")

    def patient(self):
        """A busy machine may need longer to connect than the command waits: that is not what is tested here."""
        once = self.cluster.cli

        def cli(*arguments, timeout=120):
            for _ in range(20):
                try:
                    return once(*arguments, timeout=timeout)
                except tessera.CommandFailed as error:
                    if error.code != 6 or "cannot reach" not in error.output:
                        raise
                    last = error
                    time.sleep(0.5)
            raise last
        self.cluster.cli = cli

    def settings(self, *arguments):
        self.cluster.cli("rebuild", "settings", *arguments)

    def fill(self, name="data", size="96MiB"):
        uri = self.cluster.create_volume(name, size)
        fio(uri, "--rw=write", "--bs=256k", "--iodepth=8", "--verify=crc32c", "--do_verify=0", "--end_fsync=1", size="96m")
        return uri

    def check(self, uri, name="data"):
        """What was written is there, on every copy."""
        fio(uri, "--rw=read", "--bs=256k", "--iodepth=8", "--verify=crc32c", "--verify_fatal=1", size="96m")
        self.cluster.verify(name)

    def members(self):
        """Placement groups on each server, by name."""
        return {sds["name"]: sum(device["placement_groups"] for device in sds["devices"])
                for sds in self.cluster.cli_json("sds", "list")["sdss"]}

    def verdict(self, name="data"):
        try:
            answer = json.loads(self.cluster.cli("-o", "json", "health"))
        except tessera.CommandFailed as error:
            if error.code != 8:
                raise
            answer = json.loads(error.output)
        return [volume for volume in answer["volumes"] if volume["name"] == name][0]

    def wait_verdict(self, verdict, timeout=180):
        wait_until(lambda: self.verdict()["verdict"] == f"VOLUME_VERDICT_{verdict}", f"verdict {verdict}", timeout)

    def operations(self, *kinds, running=False):
        found = self.cluster.cli_json("operation", "list", *([] if running else ["--all"])).get("operations", [])
        return [o for o in found if not kinds or o["kind"].rsplit("_", 1)[1] in kinds]

    def exit_code(self, *arguments):
        try:
            self.cluster.cli(*arguments)
            return 0, ""
        except tessera.CommandFailed as error:
            return error.code, error.output


class Rebuild(RepairTest):
    def test_a_server_that_is_gone_is_made_up_for_by_the_others(self):
        uri = self.fill()
        victim = self.cluster.sds[3]
        before = self.members()["sds4"]
        victim.kill(signal.SIGKILL)
        self.wait_verdict("SINGLE_COPY")
        self.assertIn("sds4", self.verdict()["cause"])
        self.assertEqual(self.exit_code("status")[0], 8)
        wait_until(lambda: self.members()["sds4"] == 0, "the lost copies to be made elsewhere", 180)
        self.wait_verdict("HEALTHY")
        rebuilt = self.operations("REBUILD")
        self.assertEqual(len(rebuilt), 1, rebuilt)
        wait_until(lambda: self.operations("REBUILD")[0]["state"] == "OPERATION_STATE_SUCCEEDED", "the end", 60)
        done = self.operations("REBUILD")[0]
        self.assertEqual(done["placement_groups_done"], before)
        self.assertGreater(int(done["bytes_done"]), 0)
        self.check(uri)
        # It returns with old copies that nobody wants any more, and is given a share again.
        victim.start()
        wait_until(lambda: self.members()["sds4"] >= 6, "the pool to be even again", 180)
        wait_until(lambda: not self.operations(running=True), "rest", 180)
        self.check(uri)

    def test_a_rebuild_goes_on_when_the_mdm_is_killed_in_the_middle(self):
        uri = self.fill()
        self.settings("--rate", "2MiB", "--per-target", "1")
        self.cluster.sds[3].kill(signal.SIGKILL)
        wait_until(lambda: any(int(o["bytes_done"]) > 0 for o in self.operations("REBUILD", running=True)),
                   "progress", 120)
        operation = self.operations("REBUILD", running=True)[0]
        address = self.cluster.mdm_address
        self.cluster.mdm.kill(signal.SIGKILL)
        arguments = self.cluster.mdm.arguments
        self.cluster.mdm.arguments = [address if a == "127.0.0.1:0" and arguments[i - 1] == "--listen" else a
                                      for i, a in enumerate(arguments)]
        self.cluster.mdm.start()
        wait_until(lambda: self.operations("REBUILD"), "the operation to be known", 60)
        self.assertEqual(self.operations("REBUILD")[0]["operation_id"], operation["operation_id"])
        self.settings("--rate", "0", "--per-target", "4")
        wait_until(lambda: self.members()["sds4"] == 0, "the lost copies to be made elsewhere", 180)
        self.wait_verdict("HEALTHY")
        self.check(uri)


class TakingOut(RepairTest):
    def load(self, uri):
        """Verified random writes until stopped; what it met is in `self.errors`."""
        self.errors = []

        def run():
            try:
                fio(uri, "--rw=randwrite", "--bs=4k", "--iodepth=8", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1",
                    "--rate_iops=1500", "--io_size=32m", "--norandommap=0", size="96m")
            except Exception as error:  # pylint: disable=broad-except
                self.errors.append(error)
        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def test_a_server_is_drained_under_io_and_removed(self):
        self.fill()
        uri = self.cluster.create_volume("busy", "96MiB")
        thread = self.load(uri)
        self.assertEqual(self.exit_code("sds", "remove", "sds2")[0], 4)
        self.cluster.cli("--timeout", "180", "sds", "drain", "sds2", "--wait", timeout=200)
        self.assertEqual(self.members()["sds2"], 0)
        thread.join(300)
        self.assertEqual(self.errors, [])
        drained = self.operations("DRAIN")[0]
        self.assertEqual(drained["state"], "OPERATION_STATE_SUCCEEDED")
        self.assertEqual(self.verdict()["verdict"], "VOLUME_VERDICT_HEALTHY")
        self.cluster.cli("sds", "remove", "sds2")
        self.assertNotIn("sds2", self.members())
        for name in ("data", "busy"):
            self.cluster.verify(name)
        # Two more can't go: the pool wants two servers, and one has to take what the other has.
        self.cluster.cli("--timeout", "180", "sds", "drain", "sds3", "--wait", timeout=200)
        code, output = self.exit_code("sds", "drain", "sds4")
        self.assertEqual(code, 4, output)
        self.assertIn("no other server", output)

    def test_maintenance_leaves_the_data_where_it_is(self):
        uri = self.fill()
        away = self.cluster.sds[1]
        held = self.members()["sds2"]
        self.cluster.cli("sds", "maintenance", "enter", "sds2", "--for", "30m", "--reason", "new fan")
        self.assertIn("new fan", self.cluster.cli("sds", "maintenance", "status", "sds2"))
        away.kill(signal.SIGTERM)
        fio(uri, "--rw=randwrite", "--bs=64k", "--iodepth=4", "--io_size=8m", "--verify=crc32c", "--do_verify=0", size="96m")
        self.wait_verdict("SINGLE_COPY")
        time_over = time.monotonic() + 5
        wait_until(lambda: time.monotonic() > time_over, "a while without a rebuild", 30)
        self.assertEqual(self.operations("REBUILD"), [])
        self.assertEqual(self.members()["sds2"], held)
        code, output = self.exit_code("sds", "maintenance", "enter", "sds1", "--for", "30m")
        self.assertEqual(code, 4, output)
        away.start()
        self.wait_verdict("HEALTHY")
        self.cluster.cli("sds", "maintenance", "exit", "sds2")
        self.assertEqual(self.members()["sds2"], held)
        self.cluster.verify("data")


if __name__ == "__main__":
    unittest.main()
