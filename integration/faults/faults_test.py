"""The short forms of pause_table.py, chaos.py and fence.py: fixed seeds, bounded, in every run of the tests."""
import os
import pathlib
import signal
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import steps  # noqa: E402  pylint: disable=wrong-import-position
from chaos import Chaos  # noqa: E402  pylint: disable=wrong-import-position
from cluster import wait_until  # noqa: E402  pylint: disable=wrong-import-position
from fault_cluster import FaultCluster  # noqa: E402  pylint: disable=wrong-import-position
from fault_disk import need_fuse  # noqa: E402  pylint: disable=wrong-import-position
from fence import Fence  # noqa: E402  pylint: disable=wrong-import-position
from hosts import need_root_and_tools  # noqa: E402  pylint: disable=wrong-import-position
from load import VerifyingLoad  # noqa: E402  pylint: disable=wrong-import-position
from pause_table import GOALS_MS, Bench  # noqa: E402  pylint: disable=wrong-import-position

SEED = int(os.environ.get("TESSERA_SEED", "20240611"))
CHAOS_SECONDS = 45
FENCE_TRIES = 20
# No busy machine makes a pause so long; IO that waits for something that never comes does. How short the pauses are
# is measured by pause_table.py, on a quiet machine.
PAUSE_LIMIT_MS = 60_000


def setUpModule():
    os.environ["PATH"] += os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    need_root_and_tools()
    print(f"seed {SEED}")


class Pauses(unittest.TestCase):
    """One cluster, every kind of fault after another, then the whole history."""

    def test_io_goes_on_through_every_kind_of_fault(self):
        need_fuse()
        bench = Bench(SEED)
        self.addCleanup(bench.stop)
        try:
            bench.start()
            for kind in GOALS_MS:
                with self.subTest(kind=kind):
                    figures = bench.attempt(kind)
                    print(f"{kind}: {figures}")
                    self.assertLessEqual(figures["longest_pause_ms"], PAUSE_LIMIT_MS)
            verdict = bench.load.verdict()
            self.assertEqual(verdict["violations"], 0, verdict)
            self.assertTrue(verdict["read_back"])
            self.assertIn(", 0 different", bench.cluster.verify("volume"))
        except BaseException:
            bench.cluster.print_logs()
            raise


class UnderChaos(unittest.TestCase):
    def test_nothing_is_lost_or_wrong_whatever_dies(self):
        chaos = Chaos(SEED, rate=250)
        self.addCleanup(chaos.stop)
        try:
            chaos.start()
            chaos.run(CHAOS_SECONDS)
            for volume, (verdict, line) in chaos.judge().items():
                with self.subTest(volume=volume):
                    self.assertEqual(verdict["violations"], 0, verdict)
                    self.assertTrue(verdict["read_back"])
                    self.assertIn(", 0 different", line)
        except BaseException:
            chaos.cluster.print_logs()
            raise


class Loss(unittest.TestCase):
    def test_io_goes_on_over_a_network_that_loses_packets(self):
        chaos = Chaos(SEED, rate=250)
        self.addCleanup(chaos.stop)
        chaos.start()
        fault = steps.Lose(chaos.cluster.sds[0], 3)
        fault.inject()
        for load in chaos.loads.values():
            load.wait_for_progress(1000, timeout=120)
        fault.clear()
        chaos.cluster.wait_redundant()
        for verdict, line in chaos.judge().values():
            self.assertEqual(verdict["violations"], 0, verdict)
            self.assertIn(", 0 different", line)


class ClientRestart(unittest.TestCase):
    """One client, killed again and again under load, while the MDM does not answer."""

    RESTARTS = 4

    def setUp(self):
        self.cluster = FaultCluster(servers=3, clients=1)
        self.addCleanup(self.cluster.stop)
        self.cluster.start()
        self.cluster.create_pool(placement_groups=16)
        self.load = VerifyingLoad(self.cluster.create_volume("volume"), SEED, rate=400)
        self.addCleanup(self.load.kill)
        self.load.wait_for_progress(500)

    def generation(self):
        return self.cluster.cli_json("volume", "show", "volume")["generation"]

    def restart(self):
        client = self.cluster.sdc
        client.kill(signal.SIGKILL)
        client.start()
        self.load.wait_for_progress(500)
        self.assertEqual(self.cluster.metric(client, "tessera_sdc_volumes_resumed_total"), 1)

    def judge(self):
        self.cluster.wait_redundant()
        verdict = self.load.verdict()
        self.assertEqual(verdict["violations"], 0, verdict)
        self.assertTrue(verdict["read_back"])
        self.assertIn(", 0 different", self.cluster.verify("volume"))

    def test_io_goes_on_though_the_client_is_killed_while_the_mdm_is_away(self):
        try:
            before = self.generation()
            mdm = steps.Stop(self.cluster.mdm)
            mdm.inject()
            resumed = 0
            for _ in range(self.RESTARTS):
                self.restart()
                resumed += self.cluster.metric(self.cluster.sdc, "tessera_sdc_writes_resumed_total")
            # Else nothing was in flight or kept, and the kills showed nothing.
            self.assertGreater(resumed, 0)
            self.assertEqual(self.cluster.metric(self.cluster.sdc, "tessera_sdc_mdm_reachable"), 0)
            mdm.clear()
            wait_until(lambda: self.cluster.metric(self.cluster.sdc, "tessera_sdc_mdm_reachable") == 1,
                       "the client to hear the MDM", 60)
            # The same writer all the time: nobody had to be fenced.
            self.assertEqual(self.generation(), before)
            self.load.wait_for_progress(500)
            self.judge()
        except BaseException:
            self.cluster.print_logs()
            raise

    def test_a_client_that_is_killed_while_all_is_well_resumes_too(self):
        try:
            before = self.generation()
            for _ in range(self.RESTARTS):
                self.restart()
            self.assertEqual(self.generation(), before)
            self.judge()
        except BaseException:
            self.cluster.print_logs()
            raise


class AfterUnmap(unittest.TestCase):
    def test_a_client_that_kept_its_grant_changes_nothing(self):
        fence = Fence(SEED)
        self.addCleanup(fence.stop)
        try:
            fence.start()
            verdict = fence.run(FENCE_TRIES)
        except BaseException:
            fence.cluster.print_logs()
            raise
        self.assertEqual(verdict["violations"], 0, verdict)
        # Else nothing was in flight, and the tries showed nothing.
        self.assertGreater(fence.refused, 0)


if __name__ == "__main__":
    unittest.main()
