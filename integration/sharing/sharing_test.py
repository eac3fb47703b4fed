"""Volumes that several clients have mapped shared: real processes, real sockets, kill -9 and SIGSTOP of the one that writes."""
import os
import pathlib
import random
import signal
import sys
import time
import unittest

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "faults"))
import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
from cluster import wait_until  # noqa: E402  pylint: disable=wrong-import-position
from end_to_end_test import need  # noqa: E402  pylint: disable=wrong-import-position
import nbd_client  # noqa: E402  pylint: disable=wrong-import-position
from cell_load import CELL, CELLS, CellLoad, History, content_of, say  # noqa: E402  pylint: disable=wrong-import-position

SECTORS = 256
MIB = 1 << 20
# More for a long run.
ROUNDS = int(os.environ.get("TESSERA_SHARING_ROUNDS", "1"))
SEED = os.environ.get("TESSERA_SEED", str(random.randrange(1 << 30)))
TAKEOVER_SECONDS = 5.0


class Judge(unittest.TestCase):
    """What the judge of the reads finds."""

    def judged(self, writes, first, numbers, began=10.0, ended=11.0):
        history = History(4 * CELLS)
        history.writes += writes
        history.reads.append((first, numbers, began, ended))
        return history.judge()

    def test_reads_that_may_be(self):
        sector = (0, CELLS, 1.0, 2.0)
        self.assertEqual(self.judged([sector], 0, [1] * CELLS), [])
        # Not answered, or answered while it was read: seen or not.
        for ended in (None, 10.5):
            for number in (0, 1):
                self.assertEqual(self.judged([(0, CELLS, 1.0, ended)], 0, [number] * CELLS), [])
        # Two at once: either of them, whole.
        for number in (1, 2):
            self.assertEqual(self.judged([sector, (0, CELLS, 1.5, 3.0)], 0, [number] * CELLS), [])
        # A later one over a part of an earlier one, and over the end of a sector.
        self.assertEqual(self.judged([sector, (4, 2, 3.0, 4.0)], 0, [1] * 4 + [2] * 2 + [1] * (CELLS - 6)), [])
        self.assertEqual(self.judged([(0, 2 * CELLS, 1.0, None)], 0, [1] * CELLS + [0] * CELLS), [])

    def test_reads_that_can_not_be(self):
        sector = (0, CELLS, 1.0, 2.0)
        self.assertIn("written over", self.judged([sector], 0, [0] * CELLS)[0])
        self.assertIn("written over", self.judged([sector, (0, CELLS, 3.0, 4.0)], 0, [1] * CELLS)[0])
        self.assertIn("began later", self.judged([(0, CELLS, 12.0, 13.0)], 0, [1] * CELLS)[0])
        self.assertIn("elsewhere", self.judged([(CELLS, CELLS, 1.0, 2.0)], 0, [1] * CELLS)[0])
        self.assertIn("nobody", self.judged([], 0, [5])[0])
        # Half of an unanswered write; and a neighbour that was put back.
        self.assertIn("in part", self.judged([(0, CELLS, 1.0, None)], 0, [1] * 4 + [0] * (CELLS - 4))[0])
        self.assertIn("written over",
                      self.judged([sector, (4, 2, 3.0, 4.0), (8, 2, 5.0, 6.0)], 0,
                                  [1] * 8 + [3] * 2 + [1] * (CELLS - 10))[0])


class SharingTest(unittest.TestCase):
    clients = 3

    @classmethod
    def setUpClass(cls):
        need("grpcurl")
        cls.cluster = tessera.Cluster(servers=3)
        cls.sdcs = [cls.cluster.sdc]
        try:
            cls.cluster.start()
            cls.cluster.create_pool(placement_groups=16)
            for number in range(2, cls.clients + 1):
                sdc = cls.other_client(f"sdc{number}")
                cls.sdcs.append(sdc)
                cls.cluster.sds.append(sdc)    # ended with the others
                sdc.start()
            wait_until(lambda: len(cls.cluster.cli_json("sdc", "list")["sdcs"]) == cls.clients, "all clients")
        except BaseException:
            cls.tearDownClass()
            raise
        say(f"seed {SEED}")

    @classmethod
    def tearDownClass(cls):
        cls.cluster.stop()

    @classmethod
    def other_client(cls, name):
        cluster = cls.cluster
        return tessera.Part(cluster, name, "tessera-sdc", lambda: [
            "--state-dir", cluster.folder / name, "--resume-dir", cluster.memory, "--insecure", "--name", name,
            "--mdm", cluster.mdm_address, "--join-token-file", cluster.folder / "mdm" / "join_token",
            "--control-listen", "127.0.0.1:0", "--management-listen", "127.0.0.1:0",
            "--metrics-listen", "127.0.0.1:0", "--nbd-listen", "127.0.0.1:0"])

    def setUp(self):
        self.loads = []

    def name_of(self, sdc):
        return "sdc1" if sdc is self.cluster.sdc else sdc.name

    def sdc(self, name):
        return next(sdc for sdc in self.sdcs if self.name_of(sdc) == name)

    def share(self, name, size="1MiB"):
        self.cluster.cli("volume", "create", name, "--size", size)
        self.addCleanup(self.remove, name)
        for sdc in self.sdcs:
            self.cluster.cli("volume", "map", name, "--sdc", self.name_of(sdc), "--shared")

    def remove(self, name):
        for load in self.loads:
            load.stop()
        for mapping in self.cluster.cli_json("volume", "show", name).get("mappings", []):
            self.cluster.cli("volume", "unmap", name, "--sdc", mapping["sdc_name"])
        self.cluster.cli("volume", "delete", name)

    def uri(self, sdc, name):
        return f"nbd+unix:///{name}?socket={sdc.state}/nbd.sock"

    def writer(self, name):
        mappings = self.cluster.cli_json("volume", "show", name)["mappings"]
        writers = [m["sdc_name"] for m in mappings if m["writer"]]
        self.assertLessEqual(len(writers), 1)
        return writers[0] if writers else None

    def attachment(self, sdc, name):
        listed = self.cluster.grpcurl("SdcControlService/ListAttachments", address=sdc.endpoints()["control"])
        return next((a for a in listed.get("attachments", []) if a["volume_name"] == name), None)

    def start_loads(self, name, history, **options):
        self.loads = [CellLoad(self.name_of(sdc), self.uri(sdc, name), history, f"{SEED} {name}", **options).start()
                      for sdc in self.sdcs]
        self.progress(self.loads)
        return self.loads

    def progress(self, loads, steps=50):
        """Until each has done that many more."""
        goals = [(load, load.done + steps) for load in loads]
        wait_until(lambda: all(load.done >= goal or load.errors for load, goal in goals),
                   "requests on all clients", 60)
        for load in loads:
            self.assertEqual(load.errors, [])

    def end(self, history, name):
        for load in self.loads:
            load.stop()
        errors = [error for load in self.loads for error in load.errors]
        # What is there at the end, each client's view.
        for sdc in self.sdcs:
            handle = nbd_client.connect(self.uri(sdc, name))
            began = time.monotonic()
            history.read(0, handle.pread(SECTORS * CELLS * CELL, 0), began)
            handle.shutdown()
        faults = history.judge()
        say(f"{name}: {len(history.writes) - 1} writes, {len(history.reads)} reads judged, seed {SEED}")
        self.assertEqual(errors + faults[:20], [])
        self.loads = []


class Sharing(SharingTest):
    def test_what_one_writes_all_read(self):
        self.share("seen")
        handles = [nbd_client.connect(self.uri(sdc, "seen")) for sdc in self.sdcs]
        writer = self.writer("seen")
        self.assertIsNotNone(writer)
        for number, handle in enumerate(handles):
            text = f"client {number} ".encode() * 100
            handle.pwrite(text, 1000 * number + 7)    # unaligned
            for other in handles:
                self.assertEqual(bytes(other.pread(len(text), 1000 * number + 7)), text)
        # Bytes beside an unaligned write are untouched, whoever wrote them.
        handles[0].pwrite(b"A" * 1024, 65536)
        handles[1].pwrite(b"B" * 10, 65536 + 507)
        handles[2].zero(100, 65536 + 600)
        self.assertEqual(bytes(handles[0].pread(1024, 65536)),
                         b"A" * 507 + b"B" * 10 + b"A" * 83 + bytes(100) + b"A" * 324)
        handles[2].trim(8192, 65536)
        for handle in handles:
            self.assertEqual(bytes(handle.pread(8192, 65536)), bytes(8192))
            handle.flush()
        # A request past the end, and one that the volume refuses, are errors of that request alone.
        with self.assertRaises(nbd_client.Error):
            handles[1].pwrite(b"x", MIB)
        for sdc in self.sdcs:
            attachment = self.attachment(sdc, "seen")
            forwards = self.name_of(sdc) != writer
            self.assertEqual(attachment["forwarded_to_sdc_id"] != "0", forwards, attachment)
            self.assertEqual(attachment["size_bytes"], str(MIB))
            self.assertFalse(attachment["cache_leased"])
        shown = self.cluster.cli("volume", "show", "seen")
        self.assertEqual(shown.count("shared, writes"), 1, shown)
        for handle in handles:
            handle.shutdown()

    def test_modes_exclude_each_other(self):
        self.share("modes")
        for flags in ([], ["--read-only"]):
            with self.assertRaises(tessera.CommandFailed) as refused:
                self.cluster.cli("volume", "map", "modes", "--sdc", "sdc2", *flags)
            self.assertIn("shared", refused.exception.output)
        with self.assertRaises(tessera.CommandFailed) as refused:
            self.cluster.cli("volume", "map", "modes", "--sdc", "sdc2", "--shared", "--iops", "100")
        self.assertIn("no limits of its own", refused.exception.output)

    def test_the_right_passes_under_load(self):
        self.share("passed")
        history = History(SECTORS * CELLS)
        loads = self.start_loads("passed", history)
        order = random.Random(f"{SEED} order")
        held, slowest = [], []
        for _ in range(6 * ROUNDS):
            before = self.writer("passed")
            to = order.choice([self.name_of(sdc) for sdc in self.sdcs if self.name_of(sdc) != before])
            for load in loads:
                load.take_slowest()
            answer = self.cluster.cli_json("volume", "pass-writer", "passed", "--from", before, "--to", to)
            held.append(int(answer["held_micros"]) / 1000)
            self.assertEqual(self.writer("passed"), to)
            self.progress(loads)
            slowest.append(max(load.take_slowest() for load in loads) * 1000)
        say(f"passed on {len(held)} times: held {sorted(held)[len(held) // 2]:.0f} ms (median), {max(held):.0f} ms at most; "
            f"slowest request beside it {max(slowest):.0f} ms")
        with self.assertRaises(tessera.CommandFailed) as refused:
            self.cluster.cli("volume", "pass-writer", "passed", "--from", before, "--to", before)
        self.assertIn("is written by", refused.exception.output)
        self.end(history, "passed")
        self.cluster.verify("passed")

    def taken_over(self, name, number, loads, history):
        """The writer gets the signal; returns the part, its load and the others'."""
        writer = self.writer(name)
        part = self.sdc(writer)
        its = next(load for load in loads if load.name == writer)
        others = [load for load in loads if load is not its]
        its.must_work = False
        for load in others:
            load.take_slowest()
        began = time.monotonic()
        part.kill(number)
        wait_until(lambda: self.writer(name) not in (None, writer), "another client to write", 60)
        self.progress(others, 1)
        pause = time.monotonic() - began
        self.progress(others)
        slowest = max(load.take_slowest() for load in others)
        say(f"{name}: {writer} got signal {number}: IO went on after {pause:.2f} s, slowest request {slowest:.2f} s")
        self.assertLess(slowest, TAKEOVER_SECONDS * tessera.TIMEOUT_FACTOR)
        return part, its

    def test_a_killed_writer_is_replaced_and_comes_back(self):
        self.share("killed")
        history = History(SECTORS * CELLS)
        loads = self.start_loads("killed", history)
        for _ in range(2 * ROUNDS):
            part, its = self.taken_over("killed", signal.SIGKILL, loads, history)
            part.start()
            wait_until(lambda part=part: (self.attachment(part, "killed") or {}).get("forwarded_to_sdc_id", "0") != "0",
                       "the killed client to send its requests to another", 60)
            self.assertNotEqual(self.writer("killed"), self.name_of(part))
            self.progress([its])
            its.must_work = True
            self.progress(loads)
        self.end(history, "killed")
        self.cluster.verify("killed")

    def test_a_stopped_writer_is_replaced_and_goes_on_elsewhere(self):
        self.share("stopped")
        history = History(SECTORS * CELLS)
        loads = self.start_loads("stopped", history)
        for _ in range(ROUNDS):
            part, its = self.taken_over("stopped", signal.SIGSTOP, loads, history)
            part.kill(signal.SIGCONT)
            # Its connections stayed open: what was not answered is done by the new writer, without an error.
            its.must_work = True
            self.progress([its])
            self.assertNotEqual(self.attachment(part, "stopped")["forwarded_to_sdc_id"], "0")
            self.progress(loads)
        self.end(history, "stopped")
        self.cluster.verify("stopped")

    def test_a_writer_that_is_back_at_once_goes_on_with_its_grant(self):
        self.share("resumed")
        history = History(SECTORS * CELLS)
        loads = self.start_loads("resumed", history)
        kept = 0
        for _ in range(2 * ROUNDS):
            writer = self.writer("resumed")
            its = next(load for load in loads if load.name == writer)
            its.must_work = False
            self.sdc(writer).kill()
            self.sdc(writer).start()
            self.progress(loads)
            its.must_work = True
            kept += self.writer("resumed") == writer
        say(f"resumed: {kept} of {2 * ROUNDS} times the client was back before another took the right")
        self.end(history, "resumed")
        self.cluster.verify("resumed")

    def test_everything_at_random(self):
        self.share("random")
        history = History(SECTORS * CELLS)
        loads = self.start_loads("random", history)
        dice = random.Random(f"{SEED} dice")
        for _ in range(6 * ROUNDS):
            self.disturb(dice, loads)
            for load in loads:
                load.must_work = True
            self.progress(loads, 20)
        self.end(history, "random")
        self.cluster.verify("random")

    def disturb(self, dice, loads):
        """One thing happens, and is over."""
        name = "random"
        writer = self.writer(name)
        part = dice.choice(self.sdcs)
        its = next(load for load in loads if load.name == self.name_of(part))
        what = dice.choice(("pass", "pass", "kill", "stop", "remap", "mdm", "sds"))
        say(f"random: {what} {self.name_of(part)}, {writer} writes")
        if what == "pass":
            self.cluster.cli("volume", "pass-writer", name, "--to", self.name_of(part))
        elif what == "kill":
            its.must_work = False
            part.kill()
            time.sleep(dice.choice((0, 3)))
            part.start()
            self.progress([its], 1)
        elif what == "stop":
            part.kill(signal.SIGSTOP)
            time.sleep(dice.choice((1, 4)))
            part.kill(signal.SIGCONT)
        elif what == "remap":
            its.must_work = False
            force = dice.choice(([], ["--force"]))
            self.cluster.cli("volume", "unmap", name, "--sdc", self.name_of(part), *force)
            self.cluster.cli("volume", "map", name, "--sdc", self.name_of(part), "--shared")
            self.progress([its], 1)
        elif what == "mdm":
            self.cluster.mdm.kill(signal.SIGSTOP)
            time.sleep(2)
            self.cluster.mdm.kill(signal.SIGCONT)
        else:
            sds = self.cluster.sds[0]
            sds.kill()
            sds.start()

    def test_a_forwarder_that_is_unmapped_by_force_writes_nothing_more(self):
        self.share("fenced")
        writer = self.writer("fenced")
        part = next(sdc for sdc in self.sdcs if self.name_of(sdc) != writer)
        other = next(sdc for sdc in self.sdcs if self.name_of(sdc) not in (writer, self.name_of(part)))
        history = History(SECTORS * CELLS)
        loads = self.start_loads("fenced", history)
        its = next(load for load in loads if load.name == self.name_of(part))
        its.must_work = False
        part.kill(signal.SIGSTOP)
        self.cluster.cli("volume", "unmap", "fenced", "--sdc", self.name_of(part), "--force")
        others = [load for load in loads if load is not its]
        self.progress(others)
        for load in others:
            load.stop()
        handle = nbd_client.connect(self.uri(other, "fenced"))
        before = bytes(handle.pread(SECTORS * CELLS * CELL, 0))
        its.stopping = True
        part.kill(signal.SIGCONT)
        wait_until(lambda: self.attachment(part, "fenced") is None, "the client to hear of it", 60)
        its.stop()
        self.assertEqual(bytes(handle.pread(SECTORS * CELLS * CELL, 0)), before)
        handle.shutdown()
        self.assertEqual([error for load in others for error in load.errors], [])
        self.loads = []

    def test_snapshots_sizes_and_a_client_that_stops_in_order(self):
        self.share("whole", "8MiB")
        writer = self.writer("whole")
        forwarder = next(sdc for sdc in self.sdcs if self.name_of(sdc) != writer)
        handle = nbd_client.connect(self.uri(forwarder, "whole"))
        handle.pwrite(b"before" * 1000, 4096)
        self.cluster.cli("snapshot", "create", "whole", "whole-1")
        handle.pwrite(b"after!" * 1000, 4096)
        self.cluster.cli("volume", "map", "whole-1", "--read-only", "--sdc", "sdc1")
        snapshot = nbd_client.connect(self.uri(self.cluster.sdc, "whole-1"))
        self.assertEqual(bytes(snapshot.pread(6000, 4096)), b"before" * 1000)
        snapshot.shutdown()
        self.cluster.cli("volume", "unmap", "whole-1", "--sdc", "sdc1")
        self.cluster.cli("volume", "delete", "whole-1")
        self.cluster.cli("volume", "resize", "whole", "--size", "16MiB")
        self.assertEqual({self.attachment(sdc, "whole")["size_bytes"] for sdc in self.sdcs}, {str(16 * MIB)})
        self.cluster.cli("volume", "resize", "whole", "--size", "4MiB", "--shrink")
        self.assertEqual({self.attachment(sdc, "whole")["size_bytes"] for sdc in self.sdcs}, {str(4 * MIB)})
        # The writer stops in order: it said goodbye, so nobody waits for it.
        part = self.sdc(writer)
        began = time.monotonic()
        part.kill(signal.SIGTERM)
        self.assertEqual(part.process.returncode, 0)
        self.assertEqual(bytes(handle.pread(6000, 4096)), b"after!" * 1000)
        say(f"whole: read {time.monotonic() - began:.2f} s after the writer was told to stop")
        handle.flush()
        handle.shutdown()
        part.start()
        wait_until(lambda: self.attachment(part, "whole") is not None, "the client to be back", 60)
        self.assertNotEqual(self.writer("whole"), writer)


if __name__ == "__main__":
    unittest.main()
