"""The console by itself: its pure code, and its pages in a headless browser against a double of MGMT."""
import concurrent.futures
import pathlib
import shlex
import subprocess
import tempfile
import unittest

from cluster import BIN
from console_harness import GUI, built_console, missing, node_environment, remove_built_console, tests_of

USAGE_ERROR = 2


class ConsoleTest(unittest.TestCase):
    """One test for each file of gui/test/unit and gui/test/page; each of its tests a subtest."""

    @classmethod
    def tearDownClass(cls):
        remove_built_console()

    def run_file(self, kind, path):
        browser = kind == "page"
        if reason := missing(browser):
            self.skipTest(reason)
        console = {"CONSOLE_DIR": str(built_console())} if browser else {}
        result = subprocess.run(["node", "build/test.mjs", kind, "--tap", path.name], cwd=GUI, capture_output=True, text=True,
                                env=node_environment(**console), check=False)
        tests = tests_of(result.stdout)
        self.assertTrue(tests, f"no test ran:\n{result.stdout}{result.stderr}")
        for name, passed, words in tests:
            with self.subTest(name):
                self.assertTrue(passed, words)
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_the_sources_have_no_type_faults(self):
        if reason := missing(browser=False):
            self.skipTest(reason)
        for command in (["node", "build/generate.mjs"], ["node_modules/.bin/tsc", "--noEmit"]):
            result = subprocess.run(command, cwd=GUI, capture_output=True, text=True, check=False)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_no_private_registry_stands_in_the_lock_file(self):
        lock = (GUI / "package-lock.json").read_text()
        self.assertNotRegex(lock, r'"resolved": "(?!https://registry\.npmjs\.org/)')

    def test_every_tessera_line_that_dialogs_show_is_one_that_tessera_takes(self):
        if reason := missing(browser=False):
            self.skipTest(reason)
        if not (BIN / "tessera").exists():
            self.skipTest("the command tessera is not built")
        with tempfile.TemporaryDirectory(prefix="tessera-console-") as folder:
            file = pathlib.Path(folder) / "commands"
            subprocess.run(["node", "build/test.mjs", "unit", "actions"], cwd=GUI, capture_output=True, check=True,
                           env=node_environment(COMMANDS_FILE=str(file)))
            lines = file.read_text().splitlines()
        self.assertGreater(len(lines), 70)

        def exit_code(line):
            # Nobody listens there: a line that is understood fails of that alone.
            command = [BIN / "tessera", "--endpoint", "127.0.0.1:1", "--mgmt", "127.0.0.1:1", "--timeout", "1", *shlex.split(line)[1:]]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            return line, result.returncode, result.stderr
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for line, code, words in pool.map(exit_code, lines):
                with self.subTest(line):
                    self.assertNotIn(code, (0, USAGE_ERROR), words)


def _add(kind, path):
    def test(self):
        self.run_file(kind, path)
    test.__doc__ = f"gui/test/{kind}/{path.name}"
    setattr(ConsoleTest, f"test_{kind}_{path.stem.removesuffix('_test')}", test)


for _kind in ("unit", "page"):
    for _path in sorted((GUI / "test" / _kind).glob("*_test.ts")):
        _add(_kind, _path)


if __name__ == "__main__":
    unittest.main()
