"""Limits of operations and bytes: real processes, fio over NBD. How near to its limit a rate is, tools/bench/limits.py
measures; here nothing may be faster than it should, however slow the machine is."""
import json
import pathlib
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
from cluster import wait_until  # noqa: E402  pylint: disable=wrong-import-position
from end_to_end_test import need  # noqa: E402  pylint: disable=wrong-import-position

TOLERANCE = 1.05
MIB = 1 << 20


class Load:
    """fio that always has something to do, until it is ended."""

    def __init__(self, uri, kind, block="4k", depth=16):
        self.process = subprocess.Popen(
            ["fio", "--name=load", "--ioengine=nbd", f"--uri={uri}", f"--rw={kind}", f"--bs={block}",
             f"--iodepth={depth}", "--thread", "--size=64m", "--time_based", "--runtime=3600", "--norandommap",
             "--output-format=json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self):
        """What went wrong; empty: nothing."""
        self.process.send_signal(signal.SIGINT)
        output, errors = self.process.communicate(timeout=300 * tessera.TIMEOUT_FACTOR)
        if "{" not in output:
            return errors or output or "fio said nothing"
        job = json.loads(output[output.index("{"):])["jobs"][0]
        return f"error {job['error']}: {errors}" if job["error"] else ""


class LimitsTest(unittest.TestCase):
    client = "tessera-sdc"

    def setUp(self):
        need("fio", "grpcurl")
        self.cluster = tessera.Cluster(servers=3, mdm_options=["--heartbeat-interval", "500ms"])
        self.addCleanup(self.cluster.stop)
        if self.client != "tessera-sdc":
            self.cluster.sdc = self.other_client("sdc1", self.client)
        self.cluster.start()
        self.cluster.create_pool(placement_groups=16)
        self.loads = []
        self.addCleanup(self.end_loads)

    def other_client(self, name, binary="tessera-sdc"):
        cluster = self.cluster
        listen = [] if binary != "tessera-sdc" else [
            "--insecure", "--control-listen", "127.0.0.1:0", "--management-listen", "127.0.0.1:0",
            "--metrics-listen", "127.0.0.1:0", "--nbd-listen", "127.0.0.1:0"]
        return tessera.Part(cluster, name, binary, lambda: [
            "--state-dir", cluster.folder / name, "--resume-dir", cluster.memory, "--name", name,
            "--mdm", cluster.mdm_address, "--join-token-file", cluster.folder / "mdm" / "join_token", *listen])

    def load(self, *arguments, **options):
        self.loads.append(Load(*arguments, **options))
        return self.loads[-1]

    def end_loads(self):
        for load in self.loads:
            if load.process.poll() is None:
                load.process.kill()
                load.process.communicate()

    def attachment(self, volume, sdc=None):
        address = (sdc or self.cluster.sdc).endpoints()["control"]
        listed = self.cluster.grpcurl("SdcControlService/ListAttachments", address=address)["attachments"]
        return [a for a in listed if a["volume_name"] == volume][0]

    def done(self, volume, *sdcs, what="requests"):
        """Requests or bytes that were answered."""
        fields = ("reads", "writes") if what == "requests" else ("read_bytes", "write_bytes")
        return sum(int(self.attachment(volume, sdc)[field]) for sdc in sdcs or [None] for field in fields)

    def check_rate(self, volume, limit, saved_up, amount, *sdcs, what="requests", tolerance=TOLERANCE):
        """While `amount` is done, no more than the limit allows is."""
        began, before = time.monotonic(), self.done(volume, *sdcs, what=what)
        wait_until(lambda: self.done(volume, *sdcs, what=what) >= before + amount, f"{amount} {what}", 300)
        after, ended = self.done(volume, *sdcs, what=what), time.monotonic()
        allowed = limit * tolerance * (ended - began) + saved_up
        self.assertLessEqual(after - before, allowed, f"{what} in {ended - began:.2f} s, limit {limit} a second")

    def events(self, code):
        listed = self.cluster.grpcurl("HealthService/ListEvents", {"page_size": 1000})["events"]
        return [event["message"] for event in listed if event["code"] == code]


class Limits(LimitsTest):
    def test_a_limit_holds_and_is_changed_in_use(self):
        uri = self.cluster.create_volume("v", "64MiB")
        self.cluster.cli("volume", "map", "v", "--iops", "300", "--burst", "2")
        self.assertEqual(self.attachment("v")["iops_limit"], 300)
        load = self.load(uri, "randrw")
        self.check_rate("v", 300, 2 * 300 + 1, 1200)
        self.assertGreater(int(self.attachment("v")["limited_requests"]), 0)
        # From now on nothing is saved up: there is always something to do.
        self.check_rate("v", 300, 1, 600)
        self.cluster.cli("volume", "map", "v", "--iops", "700")
        self.assertEqual(self.attachment("v")["iops_limit"], 700)
        self.check_rate("v", 700, 1, 1400)
        self.cluster.cli("volume", "map", "v", "--bandwidth", "1MiB")
        self.assertEqual(self.attachment("v")["bandwidth_limit_bytes"], str(MIB))
        self.assertEqual(self.attachment("v")["iops_limit"], 0)
        self.check_rate("v", MIB, 4096, 2 * MIB, what="bytes")
        self.cluster.cli("volume", "update", "v", "--iops", "100")
        self.check_rate("v", 100, 1, 200)
        self.cluster.cli("volume", "update", "v", "--iops", "0")
        self.cluster.cli("volume", "map", "v")
        waited = self.attachment("v")["limited_requests"]
        before = self.done("v")
        wait_until(lambda: self.done("v") > before + 1000, "requests without a limit")
        self.assertEqual(self.attachment("v")["limited_requests"], waited)
        self.assertEqual(load.end(), "")
        self.assertEqual(self.events("client_exceeds_limit"), [])
        for sds in self.cluster.sds:
            self.assertEqual(self.cluster.metric(sds, "tessera_sds_limit_held_seconds_count"), 0, sds.name)
            self.assertEqual(self.cluster.metric(sds, "tessera_sds_limit_refused_total"), 0, sds.name)

    def test_large_requests_are_paid_for(self):
        uri = self.cluster.create_volume("v", "64MiB")
        self.cluster.cli("volume", "map", "v", "--bandwidth", "2MiB")
        load = self.load(uri, "randwrite", block="1m", depth=4)
        self.check_rate("v", 2 * MIB, 2 * MIB + MIB, 8 * MIB, what="bytes")
        self.assertEqual(load.end(), "")
        self.assertEqual(self.events("client_exceeds_limit"), [])

    def test_readers_share_the_limit_of_their_volume(self):
        second = self.other_client("sdc2")
        self.cluster.sds.append(second)  # ended with the others
        second.start()
        wait_until(lambda: len(self.cluster.cli_json("sdc", "list")["sdcs"]) == 2, "the second client")
        self.cluster.cli("volume", "create", "v", "--size", "64MiB", "--iops", "400")
        uris = {}
        for name in ("sdc1", "sdc2"):
            self.cluster.cli("volume", "map", "v", "--read-only", "--sdc", name)
        for mapping in self.cluster.cli_json("volume", "show", "v")["mappings"]:
            uris[mapping["sdc_name"]] = [u for u in mapping["nbd_uris"] if u.startswith("nbd+unix")][0]
        both = (self.cluster.sdc, second)
        self.assertEqual([self.attachment("v", sdc)["iops_limit"] for sdc in both], [200, 200])
        first_load, second_load = (self.load(uris[name], "randread") for name in ("sdc1", "sdc2"))
        self.check_rate("v", 400, 400 + 2, 1200, *both)
        self.check_rate("v", 400, 2, 800, *both)
        self.assertEqual(second_load.end(), "")
        self.cluster.cli("volume", "unmap", "v", "--sdc", "sdc2")
        wait_until(lambda: self.attachment("v")["iops_limit"] == 400, "the whole limit for who is left")
        self.check_rate("v", 400, 400, 800)
        self.assertEqual(first_load.end(), "")


class Greedy(LimitsTest):
    """A client that takes no notice of its limits."""
    client = "greedy_sdc"

    def held(self, kind):
        uri = self.cluster.create_volume("v", "64MiB")
        self.cluster.cli("volume", "map", "v", "--iops", "200")
        load = self.load(uri, kind)
        wait_until(lambda: self.events("client_exceeds_limit"), "the servers to find out", 120)
        # Until each server has heard, and what was sent before is done.
        before = self.done("v")
        wait_until(lambda: self.done("v") >= before + 400, "the caps", 120)
        self.check_rate("v", 200, 16, 1000, tolerance=1.25)
        self.assertGreater(sum(self.cluster.metric(sds, "tessera_sds_limit_held_seconds_count")
                               for sds in self.cluster.sds), 0)
        self.assertEqual(len(self.events("client_exceeds_limit")), 1)
        self.assertIn("volume v", self.events("client_exceeds_limit")[0])
        self.assertEqual(load.end(), "")
        self.assertEqual(self.events("replicas_removed"), [])
        wait_until(lambda: self.events("client_keeps_limit"), "the caps to end", 120)

    def test_servers_hold_its_reads(self):
        self.held("randread")

    def test_servers_hold_its_writes(self):
        self.held("randwrite")


if __name__ == "__main__":
    unittest.main()
