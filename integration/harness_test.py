"""What Cluster.stop() must not pass over: stand-ins for daemons that end badly or leave a report. And that each planted bug has its place."""
import importlib.util
import pathlib
import shutil
import tempfile
import types
import unittest

import cluster as tessera
from sanitizer_reports import reports_in, reports_in_folder

ADDRESS_REPORT = """\
=================================================================
==4711==ERROR: AddressSanitizer: heap-use-after-free on address 0x602000000010
    #0 0x1 in Worker::Run() worker.cc:12
SUMMARY: AddressSanitizer: heap-use-after-free worker.cc:12 in Worker::Run()
==4711==ABORTING"""
THREAD_REPORT = """\
==================
WARNING: ThreadSanitizer: data race (pid=4711)
  Write of size 8 at 0x7b0400000010 by thread T1:
    #0 Table::Set() table.cc:7
SUMMARY: ThreadSanitizer: data race table.cc:7 in Table::Set()
=================="""
UNDEFINED_REPORT = "table.cc:9:14: runtime error: signed integer overflow: 2147483647 + 1"
# Listens, as far as the harness can tell, and ends well when asked to.
SERVE = 'sleep 1000 & child=$!; trap \'kill "$child"; exit 0\' TERM; touch "$1/endpoints"; wait'


class Reports(unittest.TestCase):
    def test_every_kind_is_found_with_its_stack_and_nothing_else(self):
        log = "\n".join(["info serving", ADDRESS_REPORT, "warning slow disk", THREAD_REPORT, UNDEFINED_REPORT])
        address, thread, undefined = reports_in(log)
        self.assertIn("Worker::Run", address)
        self.assertNotIn("slow disk", address)
        self.assertIn("Table::Set", thread)
        self.assertEqual(undefined, UNDEFINED_REPORT)
        self.assertEqual(reports_in("error the word AddressSanitizer alone is no report\n"), [])


class PlantedBugs(unittest.TestCase):
    """A safeguard that can't be taken out any more is one that nothing shows to be needed."""

    def test_each_has_its_place_in_the_sources(self):
        root = pathlib.Path(__file__).resolve().parent.parent
        for folder in ("sim", "cache"):
            spec = importlib.util.spec_from_file_location(folder, root / "integration" / folder / "check_planted_bugs.py")
            planted = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(planted)
            self.assertGreater(len(planted.BUGS), 10)
            for name, (_, files) in planted.BUGS.items():
                for file, pairs in files.items():
                    source = (root / file).read_text()
                    for text, _ in pairs:
                        with self.subTest(folder=folder, bug=name, file=file):
                            self.assertEqual(source.count(text), 1, text)


class Stop(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera-harness-"))
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "log").mkdir()

    def part(self, script):
        program = self.folder / "program"
        program.write_text("#!/bin/sh\n" + script + "\n")
        program.chmod(0o700)
        return tessera.Part(types.SimpleNamespace(folder=self.folder), "part", program, [self.folder / "part"])

    def test_a_process_that_ends_well_is_no_fault(self):
        self.assertEqual(self.part(SERVE).start().end(), [])

    def test_a_report_is_a_fault_although_the_process_ends_well_or_is_killed(self):
        for kill in (False, True):
            with self.subTest(kill=kill):
                part = self.part(f"cat >&2 <<'END'\n{THREAD_REPORT}\nEND\n{SERVE}").start()
                if kill:
                    part.kill()
                self.assertIn("Table::Set", "\n".join(part.end()))
                self.assertIn("part.log", reports_in_folder(self.folder / "log")[0])
                (self.folder / "log" / "part.log").unlink()

    def test_an_exit_code_at_the_end_is_a_fault(self):
        part = self.part(SERVE.replace("exit 0", "exit 66")).start()
        self.assertIn("part ended with 66", part.end()[0])

    def test_an_end_of_its_own_is_a_fault_even_with_exit_code_0(self):
        part = self.part(SERVE).start()
        part.process.terminate()
        part.process.wait(60)
        self.assertIn("part ended by itself with 0", part.end()[0])

    def test_a_report_of_a_command_fails_it_whatever_its_exit_code(self):
        script = self.part(f"echo '{UNDEFINED_REPORT}' >&2; exit 3").binary
        with self.assertRaisesRegex(AssertionError, "signed integer overflow"):
            tessera.run([script])


if __name__ == "__main__":
    unittest.main()
