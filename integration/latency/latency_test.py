"""Where did my latency go: real processes, a device that is really slow, limits that really hold. The answer has to name
them, first."""
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "faults"))
import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
from end_to_end_test import need  # noqa: E402  pylint: disable=wrong-import-position
from fault_disk import FaultDisk, need_fuse  # noqa: E402  pylint: disable=wrong-import-position

# Far more than a loaded machine adds to one of its stages.
SLOW_MS = 150


class ThisHost:
    """Where the fault disk is mounted: without a namespace of its own."""

    @staticmethod
    def prefix():
        return []


class LatencyTest(unittest.TestCase):
    def setUp(self):
        need("fio", "grpcurl")
        self.before_cluster()
        self.cluster = tessera.Cluster(servers=3)
        self.addCleanup(self.cluster.stop)
        self.prepare_cluster()
        self.cluster.start()
        self.cluster.create_pool(placement_groups=16)

    def before_cluster(self):
        """What has to outlive it."""

    def prepare_cluster(self):
        """Before it starts."""

    def fio(self, uri, kind, count, *options):
        """So many requests, one after another."""
        tessera.run(["fio", "--name=load", "--ioengine=nbd", f"--uri={uri}", f"--rw={kind}", "--bs=4k", "--iodepth=1",
                     "--thread", "--size=16m", "--norandommap", f"--number_ios={count}", *options], timeout=600)

    def explain(self, volume, *options):
        return self.cluster.cli_json("volume", "latency", volume, *options)

    def failure(self, *arguments):
        with self.assertRaises(tessera.CommandFailed) as caught:
            self.cluster.cli(*arguments)
        return caught.exception.code, caught.exception.output


class SlowDevice(LatencyTest):
    def before_cluster(self):
        need_fuse()
        folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera-disk-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        self.disk = FaultDisk(ThisHost, folder / "disk")
        self.addCleanup(self.unmount)

    def unmount(self):
        subprocess.run(["fusermount3", "-u", str(self.disk.mount)], check=True)
        self.disk.process.kill()
        self.disk.process.wait()

    def prepare_cluster(self):
        server = self.cluster.sds[1]
        arguments = server.arguments

        def with_disk():
            flags = [str(argument) for argument in arguments()]
            flags[flags.index("--device") + 1] = f"{self.disk.mount},pool=pool1"
            return flags
        server.arguments = with_disk

    def check_cause(self, cause, operation, stage):
        self.assertEqual(cause["operation"], f"LATENCY_OPERATION_{operation}", cause)
        self.assertEqual(cause["stage"], f"LATENCY_STAGE_{stage}", cause)
        self.assertEqual(cause["sds_name"], "sds2", cause)
        self.assertEqual(cause["device_path"], str(self.disk.mount), cause)
        self.assertGreaterEqual(cause["mean_micros"], SLOW_MS * 1000)
        self.assertIn(f"device {self.disk.mount} of server sds2", cause["sentence"])

    def test_a_slow_device_is_named_with_its_server_and_stage(self):
        uri = self.cluster.create_volume("v", "64MiB")
        self.disk.tell(f"slow {SLOW_MS}")
        self.fio(uri, "randwrite", 60)
        answer = self.explain("v", "--operation", "write")
        self.check_cause(answer["causes"][0], "WRITE", "JOURNAL")
        self.assertGreater(answer["causes"][0]["share"], 0.5)
        # The others' answers say what is possible.
        self.assertLess(int(answer["causes"][0]["best_case_micros"]), SLOW_MS * 1000)
        lag = answer["replica_lags"][0]
        self.assertEqual((lag["sds_name"], lag["stage"]), ("sds2", "LATENCY_STAGE_SLOWEST_REPLICA"))
        self.assertGreaterEqual(lag["mean_micros"], SLOW_MS * 1000 / 2)
        self.assertEqual([summary["operation"] for summary in answer["summaries"]], ["LATENCY_OPERATION_WRITE"])
        slowest = answer["slowest"][0]
        stages = {stage["stage"]: int(stage["micros"]) for stage in slowest["stages"]}
        self.assertEqual(sum(stages.values()), int(slowest["total_micros"]))
        # A person sees the same.
        text = self.cluster.cli("volume", "latency", "v", "--operation", "write")
        self.assertIn("writes being written to the journal of device", text)
        self.assertIn("What to do: the device takes long to write", text)
        self.assertRegex(text, r"journal +sds2 +" + str(self.disk.mount))

        # Flushes wait for its syncs.
        self.fio(uri, "randwrite", 20, "--fsync=1")
        self.check_cause(self.explain("v", "--operation", "flush")["causes"][0], "FLUSH", "FLUSH_SYNC")
        self.disk.heal()


class Limits(LatencyTest):
    def test_the_limits_of_a_volume_are_named(self):
        uri = self.cluster.create_volume("v", "64MiB")
        self.cluster.cli("volume", "map", "v", "--iops", "20")
        self.fio(uri, "randread", 100)
        answer = self.explain("v")
        cause = answer["causes"][0]
        self.assertEqual((cause["operation"], cause["stage"], cause["sds_id"]),
                         ("LATENCY_OPERATION_READ", "LATENCY_STAGE_QOS_WAIT", "0"), cause)
        self.assertIn("waiting for the limits of the volume", cause["sentence"])
        self.assertIn("raise the limits", cause["advice"])
        self.assertEqual(cause["best_case_micros"], "0")
        self.assertIn("qos wait", self.cluster.cli("volume", "latency", "v", "--window", "60s"))
        # By the client alone, without the MDM's names.
        control = self.cluster.sdc.endpoints()["control"]
        own = self.cluster.grpcurl("SdcControlService/ExplainVolumeLatency", {"volume_name": "v"}, address=control)
        self.assertEqual(own["explanation"]["causes"][0]["stage"], "LATENCY_STAGE_QOS_WAIT")

    def test_wrong_questions_are_told_what_would_be_right(self):
        self.cluster.cli("volume", "create", "v", "--size", "16MiB")
        self.assertEqual(self.failure("volume", "latency", "w")[0], 3)
        code, text = self.failure("volume", "latency", "v")
        self.assertEqual(code, 4, text)
        self.assertIn("volume v is mapped to no client", text)
        self.cluster.cli("volume", "map", "v")
        self.assertIn("no requests", self.cluster.cli("volume", "latency", "v"))
        for window in ("5s", "11m", "soon"):
            code, text = self.failure("volume", "latency", "v", "--window", window)
            self.assertEqual(code, 2, text)
            self.assertIn(f"--window: '{window}'", text)
        code, text = self.failure("volume", "latency", "v", "--operation", "seek")
        self.assertEqual(code, 2, text)
        self.assertIn("none of read, write, flush", text)
        with self.assertRaises(tessera.CommandFailed) as caught:
            self.cluster.grpcurl("LatencyService/ExplainLatency", {"volume_name": "v", "window_s": 5})
        self.assertIn("10 to 600 seconds", caught.exception.output)

    def test_stages_are_metrics(self):
        uri = self.cluster.create_volume("v", "64MiB")
        self.fio(uri, "randwrite", 50, "--fsync=10")
        self.assertGreaterEqual(self.cluster.metric(self.cluster.sdc, "tessera_sdc_stage_duration_seconds_count"), 50)
        counted = sum(self.cluster.metric(sds, "tessera_sds_stage_duration_seconds_count") for sds in self.cluster.sds)
        # Each of its two replicas: queue, tokens, reply.
        self.assertGreaterEqual(counted, 50 * 2 * 3)


if __name__ == "__main__":
    unittest.main()
